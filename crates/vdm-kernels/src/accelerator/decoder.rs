//! The decoder's negative log-likelihood; see [`crate::cpu::decoder`] for the formula.

use super::{cube, tensor, units, unwritten};
use crate::cpu::decoder::CUTOFF;
use burn::tensor::Tensor;
use burn_cubecl::cubecl;
use burn_cubecl::cubecl::prelude::*;

/// See [`crate::decoder_nll_at`].
pub fn decoder_nll(eps: Tensor<2>, k: Tensor<2>, levels: usize, r: Tensor<1>) -> (Tensor<1>, Tensor<1>) {
    let shape = eps.dims();
    let ([eps, k], r) = ([eps, k].map(cube), cube(r));
    let new = || unwritten(&eps.device, shape);
    let (nll, d_nll) = (new(), new());
    let (count, dim) = units(&eps.device, eps.meta.num_elements());
    decoder_kernel::launch(
        &eps.client.clone(),
        count,
        dim,
        eps.into_buffer_arg(),
        k.into_buffer_arg(),
        nll.clone().into_buffer_arg(),
        d_nll.clone().into_buffer_arg(),
        r.into_buffer_arg(),
        levels as f32,
    );
    let of_images = |x| tensor::<2>(x).sum_dim(1).squeeze_dim(1);
    (of_images(nll), of_images(d_nll))
}

/// A unit computes one pixel: it adds up the levels near enough to count.
#[cube(launch)]
fn decoder_kernel(eps: &[f32], k: &[f32], nll: &mut [f32], d_nll: &mut [f32], r: &[f32], levels: f32) {
    let i = ABSOLUTE_POS;
    if i < eps.len() {
        let r = r[0];
        let (eps, high) = (eps[i], k[i]);
        let low = high - (levels - 1.0);
        let best = clamp(f32::round(-eps / r), low, high);
        let u = eps + best * r;
        let top = 0.5 * u * u;
        // |eps + j r| is at most this for every j that counts.
        let reach = f32::sqrt(u * u + 2.0 * CUTOFF);
        let mut j = clamp(f32::floor((-reach - eps) / r), low, high);
        let to = clamp(f32::ceil((reach - eps) / r), low, high);
        let mut sum = 0f32;
        let mut d_sum = 0f32;
        while j <= to {
            let u = eps + j * r;
            let p = f32::exp(top - 0.5 * u * u);
            sum += p;
            d_sum -= p * u * j;
            j += 1.0;
        }
        nll[i] = f32::ln(sum) - top + 0.5 * eps * eps;
        d_nll[i] = d_sum / sum;
    }
}
