//! The one door to matrix products: bounds are checked here, so that callers stay safe code.

use super::layout::Layout;
use super::microkernel::{Simd, product};

/// A copy of the dense `x [rows, cols]` with rows and columns exchanged; its layout is
/// [`transposed_copy`](Layout::transposed_copy).
pub fn transpose(x: &[f32], cols: usize) -> Vec<f32> {
    let rows = x.len() / cols;
    let mut out = vec![0f32; x.len()];
    for (r, row) in x.chunks_exact(cols).enumerate() {
        for (c, x) in row.iter().enumerate() {
            out[c * rows + r] = *x;
        }
    }
    out
}

/// `c = a b` (or `c += a b` with `accumulate`), on the calling thread.
///
/// Each element is one chain of fused multiply-adds in the order of the inner dimension: the result depends neither on the
/// number of rows and columns nor on the machine.
///
/// # Panics
/// If the shapes do not agree, a layout leaves its slice, or neither the rows nor the columns of `c` are dense: a mistake of
/// the calling operator, never of user input.
pub fn matmul(accumulate: bool, a: &[f32], la: Layout, b: &[f32], lb: Layout, c: &mut [f32], lc: Layout) {
    assert!(la.rows == lc.rows && lb.cols == lc.cols && la.cols == lb.rows, "{la:?} x {lb:?} -> {lc:?}");
    assert!(la.fits(a.len()) && lb.fits(b.len()) && lc.fits(c.len()), "a layout leaves its slice");
    assert!(lc.row_stride >= lc.cols * lc.col_stride || lc.col_stride >= lc.rows * lc.row_stride, "c overlaps itself");
    if lc.rows == 0 || lc.cols == 0 {
        return;
    }
    if lc.col_stride != 1 {
        assert!(lc.row_stride == 1, "{lc:?} is dense in no direction");
        // The transposes: the same products in the same chains.
        return matmul(accumulate, b, lb.transposed(), a, la.transposed(), c, lc.transposed());
    }
    // SAFETY: the assertions above for the layouts; `best` is of this processor.
    unsafe { product(Simd::best(), accumulate, a, la, b, lb, c, lc) };
}
