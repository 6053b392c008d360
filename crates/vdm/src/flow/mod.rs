//! The probability flow (Song et al. 2021, arXiv 2011.13456, section 4.3; VDM appendix F): the ordinary differential equation
//! whose solutions have the same distribution as the diffusion process at every gamma, without noise on the way.
//!
//! With alpha² = sigmoid(-gamma) and sigma² = sigmoid(gamma),
//!
//! ```text
//! dz/dgamma = -sigma²/2 z + sigma/2 eps_hat(z, gamma)
//! d log p(z)/dgamma = -div = sigma²/2 D - sigma/2 tr(d eps_hat / dz)      along a solution
//! ```
//!
//! [`solve`] integrates it with a step size of its own for every image, so that an image's result depends on no other image.
//! The ode sampler runs it from gamma_1 to gamma_0; the ode estimator of -log p(x) runs it the other way, with the divergence
//! from [`divergence`].

pub mod divergence;
mod solver;

pub use solver::{Field, SolveError, Solved, Tolerance, solve};

use crate::VariationalDiffusion;
use crate::diffusion::process::sigma;
use crate::nn::{Conditioning, Mode, ScoreNetwork};
use crate::progress::Stopped;
use crate::shape::ImageShape;
use burn::tensor::{Device, Tensor, TensorData};

/// dz/dgamma of one image, whose state begins with z.
pub fn drift(gamma: f64, z: &[f64], eps_hat: &[f32]) -> Vec<f64> {
    let sigma = sigma(gamma);
    eps_hat.iter().zip(z).map(|(&eps_hat, z)| 0.5 * sigma * (f64::from(eps_hat) - sigma * z)).collect()
}

/// [`drift`] of every image of a batch.
///
/// # Shapes
/// - `eps_hat`: `[states, channels, height, width]`
pub fn drifts(eps_hat: Tensor<4>, times: &[f64], states: &[Vec<f64>]) -> Vec<Vec<f64>> {
    let dims = eps_hat.dims()[1..].iter().product::<usize>().max(1);
    let eps_hat: Vec<f32> = eps_hat.into_data().iter::<f32>().collect();
    let images = eps_hat.chunks_exact(dims).zip(states).zip(times);
    images.map(|((eps_hat, z), &gamma)| drift(gamma, z, eps_hat)).collect()
}

/// Latents held as doubles, as a tensor: the first `shape.dims()` numbers of each state.
///
/// # Shapes
/// `[states, channels, height, width]`
pub fn latents(states: &[Vec<f64>], shape: ImageShape, device: &Device) -> Tensor<4> {
    let numbers: Vec<f32> = states.iter().flat_map(|state| state[..shape.dims()].iter().map(|&z| z as f32)).collect();
    Tensor::from_data(TensorData::new(numbers, shape.batch(states.len())), device)
}

/// The flow of a batch of images.
pub struct Flow<'a, N> {
    /// Whose flow.
    pub model: &'a VariationalDiffusion<N>,
    /// What the network is told about the images.
    pub given: &'a Conditioning,
    /// The model's.
    pub device: &'a Device,
    /// Called before every evaluation of the network.
    pub pulse: &'a mut dyn FnMut() -> Result<(), Stopped>,
}

impl<N: ScoreNetwork> Field for Flow<'_, N> {
    fn slopes(&mut self, which: &[usize], times: &[f64], states: &[Vec<f64>]) -> Result<Vec<Vec<f64>>, Stopped> {
        (self.pulse)()?;
        let shape = self.model.shape();
        let gammas: Vec<f32> = times.iter().map(|&gamma| gamma as f32).collect();
        let gammas = Tensor::from_data(gammas.as_slice(), self.device);
        let z = latents(states, shape, self.device);
        let eps_hat = self.model.predict_noise(z, gammas, &self.given.select(which), Mode::Eval);
        Ok(drifts(eps_hat, times, states))
    }
}
