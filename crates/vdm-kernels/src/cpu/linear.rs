//! A dense layer y = x w + b, one row at a time, so that a row's result does not depend on the rows beside it.
//!
//! The rows are the conditioning vectors of a batch: a few thousandths of a step's work, so one thread does them.

use super::math::{sum_by, vectorized};

vectorized! {
    /// `x [n, i]`, `w [i, o]`, `b [o]` -> `y [n, o]`.
    pub fn forward(x: &[f32], w: &[f32], b: &[f32], i: usize, o: usize, y: &mut [f32]) {
        for (x, y) in x.chunks_exact(i).zip(y.chunks_exact_mut(o)) {
            y.copy_from_slice(b);
            for (&x, w) in x.iter().zip(w.chunks_exact(o)) {
                axpy(x, w, y);
            }
        }
    }

    /// Gradients of [`forward`]: `dx [n, i]`, `dw [i, o]`, `db [o]`; all are overwritten.
    pub fn backward(
        x: &[f32], w: &[f32], dy: &[f32], i: usize, o: usize, dx: &mut [f32], dw: &mut [f32], db: &mut [f32],
    ) {
        dw.fill(0.0);
        db.fill(0.0);
        for ((x, dy), dx) in x.chunks_exact(i).zip(dy.chunks_exact(o)).zip(dx.chunks_exact_mut(i)) {
            for (dx, w) in dx.iter_mut().zip(w.chunks_exact(o)) {
                *dx = sum_by(o, |k| dy[k] * w[k]) as f32;
            }
            for (&x, dw) in x.iter().zip(dw.chunks_exact_mut(o)) {
                axpy(x, dy, dw);
            }
            axpy(1.0, dy, db);
        }
    }
}

#[inline(always)]
fn axpy(a: f32, x: &[f32], y: &mut [f32]) {
    for (y, &x) in y.iter_mut().zip(x) {
        *y = a.mul_add(x, *y);
    }
}
