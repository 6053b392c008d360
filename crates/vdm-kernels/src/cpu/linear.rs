//! A dense layer y = x w + b. A row's result does not depend on the rows beside it.
//!
//! The rows are the conditioning vectors of a batch: a few hundredths of a step's work, so one thread does them.

use super::layout::Layout;
use super::math::{sum_by, vectorized};
use super::matmul::{is_by_rows, matmul, transpose};

/// `x [n, i]`, `w [i, o]`, `b [o]` -> `y [n, o]`.
pub fn forward(x: &[f32], w: &[f32], b: &[f32], i: usize, o: usize, y: &mut [f32]) {
    let (lx, lw, ly) = layouts(x, i, o);
    if !is_by_rows(lw, ly) {
        return forward_rows(x, w, b, i, o, y);
    }
    for y in y.chunks_exact_mut(o) {
        y.copy_from_slice(b);
    }
    matmul(true, x, lx, w, lw, y, ly);
}

/// Gradients of [`forward`]: `dx [n, i]`, `dw [i, o]`, `db [o]`; all are overwritten.
#[allow(clippy::too_many_arguments)]
pub fn backward(x: &[f32], w: &[f32], dy: &[f32], i: usize, o: usize, dx: &mut [f32], dw: &mut [f32], db: &mut [f32]) {
    let (lx, lw, ly) = layouts(x, i, o);
    if is_by_rows(lw.transposed_copy(), lx) {
        matmul(false, dy, ly, &transpose(w, o), lw.transposed_copy(), dx, lx);
    } else {
        dx_rows(w, dy, i, o, dx);
    }
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

vectorized! {
    fn forward_rows(x: &[f32], w: &[f32], b: &[f32], i: usize, o: usize, y: &mut [f32]) {
        for (x, y) in x.chunks_exact(i).zip(y.chunks_exact_mut(o)) {
            y.copy_from_slice(b);
            for (&x, w) in x.iter().zip(w.chunks_exact(o)) {
                for (y, &w) in y.iter_mut().zip(w) {
                    *y = x.mul_add(w, *y);
                }
            }
        }
    }

    fn dx_rows(w: &[f32], dy: &[f32], i: usize, o: usize, dx: &mut [f32]) {
        for (dy, dx) in dy.chunks_exact(o).zip(dx.chunks_exact_mut(i)) {
            for (dx, w) in dx.iter_mut().zip(w.chunks_exact(o)) {
                *dx = sum_by(o, |k| dy[k] * w[k]) as f32;
            }
        }
    }
}
