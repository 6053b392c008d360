//! What a step says about itself: its loss, and the norm of its gradient.
//!
//! An accelerator computes while the host goes on, until the host reads a number back. Then the host waits for all work that
//! it gave before. So the numbers of a step stay on the device until several steps are read together.

use super::gradient::Norms;
use crate::math::host;
use crate::{LossTerms, bits_per_dim};
use burn::tensor::Tensor;

/// What a step left on the device.
pub(super) struct Reading {
    /// The step's number, from 1.
    pub step: u64,
    /// The terms of each pass.
    pub passes: Vec<LossTerms>,
    /// The norm over all parameters, which must be finite, and the one that is written down.
    pub norms: Norms,
}

/// The same on the host.
pub(super) struct StepRead {
    /// Means of the prior, the reconstruction and the diffusion term, in bits per dimension.
    pub terms: [f64; 3],
    /// The norm that is written down.
    pub grad_norm: f64,
}

impl Reading {
    /// Reads a step back, for images of `dims` numbers.
    ///
    /// # Errors
    /// What is not finite.
    pub fn read(self, dims: usize) -> Result<StepRead, &'static str> {
        let mut terms = [0.0; 3];
        let passes = self.passes.len() as f64;
        for pass in &self.passes {
            for (total, mean) in terms.iter_mut().zip(mean_terms(pass, dims)?) {
                *total += mean / passes;
            }
        }
        let [of_all, grad_norm] = self.norms.read();
        if of_all.is_finite() { Ok(StepRead { terms, grad_norm }) } else { Err("the gradient") }
    }
}

/// The means of the prior, the reconstruction and the diffusion term over a batch, in bits per dimension.
///
/// # Errors
/// What is not finite.
pub(super) fn mean_terms(loss: &LossTerms, dims: usize) -> Result<[f64; 3], &'static str> {
    let terms = [&loss.prior, &loss.reconstruction, &loss.diffusion];
    let nats = host(&Tensor::cat(terms.map(Tensor::clone).to_vec(), 0));
    let images = nats.len() / terms.len();
    let mean = |term: usize| bits_per_dim(nats[term * images..][..images].iter().sum::<f64>() / images as f64, dims);
    let means = [0, 1, 2].map(mean);
    let names = ["the prior loss", "the reconstruction loss", "the diffusion loss"];
    match names.iter().zip(means).find(|(_, mean)| !mean.is_finite()) {
        Some((what, _)) => Err(what),
        None => Ok(means),
    }
}
