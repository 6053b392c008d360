//! The one door to matrix products, by a kernel of our own or the `gemm` crate: bounds are checked here, so that
//! callers stay safe code.

use super::layout::Layout;
use gemm::Parallelism;

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

/// Whether [`matmul`] with these layouts of b and c gives each row of c a result that does not depend on the number of
/// rows. The `gemm` crate adds a single row up in another order than many.
pub fn is_by_rows(lb: Layout, lc: Layout) -> bool {
    #[cfg(target_arch = "x86_64")]
    return super::microkernel::fits(lb, lc);
    #[cfg(not(target_arch = "x86_64"))]
    return false;
}

/// `c = a b` (or `c += a b` with `accumulate`), on the calling thread.
///
/// The order of the additions depends on the shapes only.
///
/// # Panics
/// If the shapes do not agree or a layout leaves its slice: a mistake of the calling operator, never of user input.
pub fn matmul(accumulate: bool, a: &[f32], la: Layout, b: &[f32], lb: Layout, c: &mut [f32], lc: Layout) {
    assert!(la.rows == lc.rows && lb.cols == lc.cols && la.cols == lb.rows, "{la:?} x {lb:?} -> {lc:?}");
    assert!(la.fits(a.len()) && lb.fits(b.len()) && lc.fits(c.len()), "a layout leaves its slice");
    assert!(lc.row_stride >= lc.cols * lc.col_stride || lc.col_stride >= lc.rows * lc.row_stride, "c overlaps itself");
    #[cfg(target_arch = "x86_64")]
    if la.cols > 0 && super::microkernel::fits(lb, lc) {
        // SAFETY: `microkernel::fits`, and the assertions above for the layouts.
        return unsafe { super::microkernel::product(accumulate, a, la, b, lb, c, lc) };
    }
    // SAFETY: `fits` holds for the three layouts, so every element that gemm reads or writes lies inside its slice;
    // `c` is borrowed mutably and so distinct from `a` and `b`, and its elements are distinct from each other.
    unsafe {
        gemm::gemm(
            lc.rows,
            lc.cols,
            la.cols,
            c.as_mut_ptr().add(lc.offset),
            lc.col_stride as isize,
            lc.row_stride as isize,
            accumulate,
            a.as_ptr().add(la.offset),
            la.col_stride as isize,
            la.row_stride as isize,
            b.as_ptr().add(lb.offset),
            lb.col_stride as isize,
            lb.row_stride as isize,
            1.0,
            1.0,
            false,
            false,
            false,
            Parallelism::None,
        );
    }
}
