//! Sums of squares of many tensors, for the norm of a gradient.

use super::cube_sum::{UNITS, cube_sum};
use super::{cube, tensor, unwritten};
use burn::tensor::Tensor;
use burn_cubecl::cubecl;
use burn_cubecl::cubecl::prelude::*;

/// Numbers of a tensor that are added up together.
const PART: usize = 512 * UNITS as usize;

/// Σ x² of every part of each tensor, one after another, still on the device, and how many parts each tensor has.
pub fn square_sums(of: &[&Tensor<1>]) -> (Tensor<1>, Vec<usize>) {
    let of: Vec<_> = of.iter().map(|&x| cube(x.clone())).collect();
    let parts: Vec<usize> = of.iter().map(|x| x.meta.num_elements().div_ceil(PART)).collect();
    let sums = unwritten(&of[0].device, [parts.iter().sum::<usize>()]);
    let mut first = 0;
    for (x, &count) in of.into_iter().zip(&parts) {
        square_sums_kernel::launch(
            &x.client.clone(),
            CubeCount::Static(count as u32, 1, 1),
            CubeDim::new_1d(UNITS),
            x.into_buffer_arg(),
            sums.clone().into_buffer_arg(),
            first,
        );
        first += count;
    }
    (tensor(sums), parts)
}

/// A cube adds up one part.
#[cube(launch)]
fn square_sums_kernel(x: &[f32], sums: &mut [f32], first: usize) {
    let unit = UNIT_POS as usize;
    let units = UNITS as usize;
    let mut shared = Shared::new_slice(UNITS as usize);
    let from = CUBE_POS * PART;
    let mut sum = 0f32;
    for step in 0..PART / units {
        let i = from + step * units + unit;
        if i < x.len() {
            sum += x[i] * x[i];
        }
    }
    let sum = cube_sum(sum, &mut shared);
    if unit == 0 {
        sums[first + CUBE_POS] = sum;
    }
}
