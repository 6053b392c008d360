//! DPM-Solver++(2M) (Lu et al. 2022, arXiv 2211.01095, algorithm 2).

use super::{Denoiser, SampleError, Sampler};
use crate::diffusion::process::{alpha, sigma};
use burn::tensor::Tensor;

/// A multistep method for the probability flow in lambda = -gamma/2: a line through the present and the last x_hat, one
/// evaluation a step, of order 2.
///
/// Use it for few steps (10 to 50), with guidance too. The first step, which has no step before it, and the last are of
/// order 1: extrapolating to gamma_0 makes what is hardly known worse.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DpmPlusPlus2M;

impl Sampler for DpmPlusPlus2M {
    fn draw(&self, z_1: Tensor<4>, gammas: &[f64], denoiser: &mut dyn Denoiser) -> Result<Tensor<4>, SampleError> {
        let mut z = z_1;
        let mut last: Option<(Tensor<4>, f64)> = None;
        for (i, pair) in gammas.windows(2).enumerate() {
            let (gamma_t, gamma_s) = (pair[0], pair[1]);
            let eps_hat = denoiser.eps_hat(z.clone(), gamma_t);
            let x_hat = (z.clone() - eps_hat * sigma(gamma_t)) / alpha(gamma_t);
            let h = 0.5 * (gamma_t - gamma_s);
            let first_order = i + 2 == gammas.len();
            let toward = match &last {
                Some((before, h_before)) if !first_order => {
                    let weight = 0.5 * h / h_before;
                    x_hat.clone() * (1.0 + weight) - before.clone() * weight
                }
                _ => x_hat.clone(),
            };
            z = z * (sigma(gamma_s) / sigma(gamma_t)) + toward * (-alpha(gamma_s) * libm::expm1(-h));
            last = Some((x_hat, h));
            denoiser.step_done()?;
        }
        Ok(z)
    }
}
