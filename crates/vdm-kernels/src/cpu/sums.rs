//! The sum of squares of each image, in a fixed order.

use super::math::sum_of_squares;
use rayon::prelude::*;

/// `x [B, n]` -> `y [B]`.
pub fn forward(x: &[f32], y: &mut [f32]) {
    let n = (x.len() / y.len().max(1)).max(1);
    y.par_iter_mut().zip(x.par_chunks(n)).for_each(|(y, x)| *y = sum_of_squares(x) as f32);
}

/// `dx` = 2 `x` `dy` of the image.
pub fn backward(x: &[f32], dy: &[f32], dx: &mut [f32]) {
    let n = (x.len() / dy.len().max(1)).max(1);
    dx.par_chunks_mut(n).zip(x.par_chunks(n)).zip(dy).for_each(|((dx, x), dy)| {
        let twice = 2.0 * dy;
        dx.iter_mut().zip(x).for_each(|(dx, x)| *dx = twice * x);
    });
}
