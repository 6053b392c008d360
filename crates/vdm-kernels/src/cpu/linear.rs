//! A dense layer y = x w + b. A row's result does not depend on the rows beside it.
//!
//! The rows are the conditioning vectors of a batch: a few hundredths of a step's work, so one thread does them.

use super::layout::Layout;
use super::matmul::matmul;

/// `x [n, i]`, `w [i, o]`, `b [o]` -> `y [n, o]`.
pub fn forward(x: &[f32], w: &[f32], b: &[f32], i: usize, o: usize, y: &mut [f32]) {
    let (lx, lw, ly) = layouts(x, i, o);
    for y in y.chunks_exact_mut(o) {
        y.copy_from_slice(b);
    }
    matmul(true, x, lx, w, lw, y, ly);
}

/// Gradients of [`forward`]: `dx [n, i]`, `dw [i, o]`, `db [o]`; all are overwritten.
#[allow(clippy::too_many_arguments)]
pub fn backward(x: &[f32], w: &[f32], dy: &[f32], i: usize, o: usize, dx: &mut [f32], dw: &mut [f32], db: &mut [f32]) {
    let (lx, lw, ly) = layouts(x, i, o);
    matmul(false, dy, ly, w, lw.transposed(), dx, lx);
    matmul(false, x, lx.transposed(), dy, ly, dw, lw);
    db.fill(0.0);
    for dy in dy.chunks_exact(o) {
        super::math::add(dy, db);
    }
}

fn layouts(x: &[f32], i: usize, o: usize) -> (Layout, Layout, Layout) {
    let n = x.len() / i;
    (Layout::row_major(n, i), Layout::row_major(i, o), Layout::row_major(n, o))
}
