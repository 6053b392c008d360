//! Images of twice the height and width, every pixel repeated.

use rayon::prelude::*;

/// Rows of `x`, each `width` long, become two rows of `y` of twice the length.
pub fn forward(x: &[f32], width: usize, y: &mut [f32]) {
    let width = width.max(1);
    y.par_chunks_mut(4 * width).zip(x.par_chunks(width)).for_each(|(y, x)| {
        let (above, below) = y.split_at_mut(2 * width);
        for (pair, &x) in above.chunks_exact_mut(2).zip(x) {
            pair.fill(x);
        }
        below.copy_from_slice(above);
    });
}

/// The derivative of [`forward`]: the sum over each 2x2 of `dy`; `dx` is overwritten.
pub fn backward(dy: &[f32], width: usize, dx: &mut [f32]) {
    let width = width.max(1);
    dx.par_chunks_mut(width).zip(dy.par_chunks(4 * width)).for_each(|(dx, dy)| {
        let (above, below) = dy.split_at(2 * width);
        for ((dx, a), b) in dx.iter_mut().zip(above.chunks_exact(2)).zip(below.chunks_exact(2)) {
            *dx = (a[0] + a[1]) + (b[0] + b[1]);
        }
    });
}
