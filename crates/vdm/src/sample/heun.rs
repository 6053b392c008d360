//! Heun's method for the probability flow in s = sigma/alpha (Karras et al. 2022, arXiv 2206.00364, algorithm 1).

use super::{Denoiser, SampleError, Sampler};
use crate::diffusion::process::alpha;
use burn::tensor::Tensor;

/// The trapezium rule: the slope at both ends of every step, two evaluations each, of order 2.
///
/// Use it where [`DpmPlusPlus2M`](super::DpmPlusPlus2M), which has one evaluation a step, is not smooth enough; it is the
/// sampler that papers compare with. The last step has one evaluation, at its beginning: at gamma_0 the network is asked for
/// what it can hardly know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Heun;

impl Sampler for Heun {
    fn draw(&self, z_1: Tensor<4>, gammas: &[f64], denoiser: &mut dyn Denoiser) -> Result<Tensor<4>, SampleError> {
        // z/alpha, whose slope in s = sigma/alpha = e^(gamma/2) is eps_hat.
        let s = |gamma: f64| libm::exp(0.5 * gamma);
        let mut z = z_1;
        for (i, pair) in gammas.windows(2).enumerate() {
            let (gamma_t, gamma_s) = (pair[0], pair[1]);
            let step = s(gamma_s) - s(gamma_t);
            let slope = denoiser.eps_hat(z.clone(), gamma_t);
            let (ratio, alpha_s) = (alpha(gamma_s) / alpha(gamma_t), alpha(gamma_s));
            let ahead = z.clone() * ratio + slope.clone() * (alpha_s * step);
            z = if i + 2 < gammas.len() {
                let slope_ahead = denoiser.eps_hat(ahead, gamma_s);
                z * ratio + (slope + slope_ahead) * (0.5 * alpha_s * step)
            } else {
                ahead
            };
            denoiser.step_done()?;
        }
        Ok(z)
    }
}
