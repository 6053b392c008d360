//! Matrix products for AVX2 with FMA that read both factors where they lie.
//!
//! The `gemm` crate copies its factors into panels first. For the products of a convolution, a few dozen rows and
//! columns each, that is as much work as the product: here a tile of 6 x 16 results stays in registers while the factors
//! stream by, and only a right factor whose rows lie far apart (rows at a multiple of 4096 bytes share one set of the
//! cache) is copied, sixteen columns at a time.
//!
//! Every element of the result is one chain of fused multiply-adds in the order of the inner dimension, whatever the
//! number of rows and columns.

use super::lanes::LANES;
use super::layout::Layout;
use std::arch::x86_64::*;

/// Rows of a register tile; with two vectors a row it takes 12 of the 16 registers.
const ROWS: usize = 6;
/// A right factor with rows at least so far apart is copied.
const FAR: usize = 256;

/// Whether [`product`] can compute the product: the processor's part, and the layouts'.
pub fn fits(lb: Layout, lc: Layout) -> bool {
    lb.col_stride == 1
        && lc.col_stride == 1
        && lc.cols.is_multiple_of(LANES)
        && is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("fma")
}

/// `c = a b`, or `c += a b` with `accumulate`.
///
/// # Safety
/// The layouts must lie inside their slices and agree with each other, and [`fits`] must hold.
pub unsafe fn product(accumulate: bool, a: &[f32], la: Layout, b: &[f32], lb: Layout, c: &mut [f32], lc: Layout) {
    thread_local! {
        static PANEL: std::cell::Cell<Vec<f32>> = const { std::cell::Cell::new(Vec::new()) };
    }
    let mut panel = PANEL.take();
    // SAFETY: the caller's promise.
    unsafe { panels(accumulate, a, la, b, lb, c, lc, &mut panel) };
    PANEL.set(panel);
}

#[allow(clippy::too_many_arguments)]
#[target_feature(enable = "avx2,fma")]
unsafe fn panels(
    accumulate: bool,
    a: &[f32],
    la: Layout,
    b: &[f32],
    lb: Layout,
    c: &mut [f32],
    lc: Layout,
    panel: &mut Vec<f32>,
) {
    let a = a[la.offset..].as_ptr();
    let c = c[lc.offset..].as_mut_ptr();
    let mut col = 0;
    while col < lc.cols {
        let width = if lc.cols - col >= 2 * LANES { 2 * LANES } else { LANES };
        let (mut from, mut stride) = (b[lb.offset + col..].as_ptr(), lb.row_stride);
        if stride >= FAR && lc.rows > ROWS {
            let b = &b[lb.offset + col..];
            if width == LANES {
                copy_columns::<LANES>(b, lb, panel);
            } else {
                copy_columns::<{ 2 * LANES }>(b, lb, panel);
            }
            (from, stride) = (panel.as_ptr(), width);
        }
        let tile =
            Tile { inner: la.cols, a_row: la.row_stride, a_col: la.col_stride, b_row: stride, c_row: lc.row_stride };
        let mut row = 0;
        while row < lc.rows {
            let rows = ROWS.min(lc.rows - row);
            // SAFETY: rows `row .. row + rows` and columns `col .. col + width` are inside the layouts, which are inside
            // the slices by the caller's promise; `from` is at row 0 and column `col` of `b` or of its copy.
            unsafe {
                let (a, c) = (a.add(row * la.row_stride), c.add(row * lc.row_stride + col));
                if width == LANES {
                    tile.run_rows::<1>(rows, accumulate, a, from, c);
                } else {
                    tile.run_rows::<2>(rows, accumulate, a, from, c);
                }
            }
            row += rows;
        }
        col += width;
    }
}

/// The first `W` columns of `b`, row by row.
#[target_feature(enable = "avx2,fma")]
#[inline]
fn copy_columns<const W: usize>(b: &[f32], lb: Layout, panel: &mut Vec<f32>) {
    panel.resize(lb.rows * W, 0.0);
    for (row, to) in panel.as_chunks_mut::<W>().0.iter_mut().enumerate() {
        if let Some(from) = b[row * lb.row_stride..].first_chunk::<W>() {
            *to = *from;
        }
    }
}

/// Strides of a register tile's factors and result.
struct Tile {
    inner: usize,
    a_row: usize,
    a_col: usize,
    b_row: usize,
    c_row: usize,
}

impl Tile {
    /// # Safety
    /// `a`, `b`, `c` point to the tile's first elements; all of the tile is inside the allocations.
    #[target_feature(enable = "avx2,fma")]
    #[inline]
    unsafe fn run_rows<const V: usize>(
        &self,
        rows: usize,
        accumulate: bool,
        a: *const f32,
        b: *const f32,
        c: *mut f32,
    ) {
        // SAFETY: the caller's promise.
        unsafe {
            match rows {
                6 => self.run::<6, V>(accumulate, a, b, c),
                5 => self.run::<5, V>(accumulate, a, b, c),
                4 => self.run::<4, V>(accumulate, a, b, c),
                3 => self.run::<3, V>(accumulate, a, b, c),
                2 => self.run::<2, V>(accumulate, a, b, c),
                _ => self.run::<1, V>(accumulate, a, b, c),
            }
        }
    }

    /// # Safety
    /// As for [`run_rows`](Self::run_rows).
    #[target_feature(enable = "avx2,fma")]
    #[inline]
    #[allow(clippy::needless_range_loop)]
    unsafe fn run<const R: usize, const V: usize>(&self, accumulate: bool, a: *const f32, b: *const f32, c: *mut f32) {
        // SAFETY: every address is an element of the tile's rows, columns and inner dimension.
        unsafe {
            let mut sums = [[_mm256_setzero_ps(); V]; R];
            for k in 0..self.inner {
                let (a, b) = (a.add(k * self.a_col), b.add(k * self.b_row));
                let mut right = [_mm256_setzero_ps(); V];
                for v in 0..V {
                    right[v] = _mm256_loadu_ps(b.add(v * LANES));
                }
                for r in 0..R {
                    let left = _mm256_set1_ps(*a.add(r * self.a_row));
                    for v in 0..V {
                        sums[r][v] = _mm256_fmadd_ps(left, right[v], sums[r][v]);
                    }
                }
            }
            for r in 0..R {
                for v in 0..V {
                    let to = c.add(r * self.c_row + v * LANES);
                    let sum = if accumulate { _mm256_add_ps(_mm256_loadu_ps(to), sums[r][v]) } else { sums[r][v] };
                    _mm256_storeu_ps(to, sum);
                }
            }
        }
    }
}
