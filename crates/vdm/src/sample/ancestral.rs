//! Ancestral sampling (VDM section 3.1, appendix A).

use super::{Denoiser, SampleError, Sampler};
use crate::diffusion::Posterior;
use burn::tensor::Tensor;

/// Draws z_s from p(z_s | z_t) at every step: the distribution that the bound in as many steps is about. Use it where
/// samples are to be the model's own; it wants some hundreds of steps, and fewer where the model knows how wrong eps_hat is
/// ([`error_model`](crate::diffusion::error_model)).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ancestral;

impl Sampler for Ancestral {
    fn draw(&self, z_1: Tensor<4>, gammas: &[f64], denoiser: &mut dyn Denoiser) -> Result<Tensor<4>, SampleError> {
        // ANCHOR: ancestral
        let mut z = z_1;
        for (i, pair) in gammas.windows(2).enumerate() {
            let (gamma_t, gamma_s) = (pair[0], pair[1]);
            let eps_hat = denoiser.eps_hat(z.clone(), gamma_t);
            let expected_error = denoiser.expected_error(z.clone(), gamma_t, eps_hat.clone());
            let noise = denoiser.noise(i as u32 + 1);
            z = Posterior::new(gamma_t, gamma_s).draw_wider(z, eps_hat, noise, expected_error);
            denoiser.step_done()?;
        }
        Ok(z)
        // ANCHOR_END: ancestral
    }
}
