//! Denoising diffusion implicit models (Song et al. 2021, arXiv 2010.02502).

use super::{Denoiser, SampleError, Sampler};
use crate::diffusion::process::{alpha, sigma};
use crate::math::sigmoid;
use burn::tensor::Tensor;

/// Goes to where the present eps_hat points, with some of the noise drawn anew.
///
/// Without new noise (`eta` 0) it is Euler's method for the probability flow in sigma/alpha, of order 1: an image is a smooth
/// function of z_1, and some tens of steps do. With `eta` 1 a step is that of [`Ancestral`](super::Ancestral). Use
/// [`DpmPlusPlus2M`](super::DpmPlusPlus2M) instead for few steps without noise.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Ddim {
    /// The share of the posterior's standard deviation that is drawn anew, in [0, 1].
    pub eta: f64,
}

impl Sampler for Ddim {
    fn draw(&self, z_1: Tensor<4>, gammas: &[f64], denoiser: &mut dyn Denoiser) -> Result<Tensor<4>, SampleError> {
        if !(0.0..=1.0).contains(&self.eta) {
            return Err(SampleError::Eta { eta: self.eta.to_string() });
        }
        let mut z = z_1;
        for (i, pair) in gammas.windows(2).enumerate() {
            let (gamma_t, gamma_s) = (pair[0], pair[1]);
            let eps_hat = denoiser.eps_hat(z.clone(), gamma_t);
            // The variance of z_s given x: sigma_s² in all, of which eta² times the posterior's is new.
            let new = self.eta * self.eta * sigmoid(gamma_s) * -libm::expm1(gamma_s - gamma_t);
            let kept = (sigmoid(gamma_s) - new).max(0.0).sqrt();
            let ratio = alpha(gamma_s) / alpha(gamma_t);
            z = z * ratio + eps_hat * (kept - ratio * sigma(gamma_t));
            if new > 0.0 {
                z = z + denoiser.noise(i as u32 + 1) * new.sqrt();
            }
            denoiser.step_done()?;
        }
        Ok(z)
    }
}
