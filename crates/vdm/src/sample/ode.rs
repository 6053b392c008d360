//! The probability flow, solved to a tolerance.

use super::{Denoiser, SampleError, Sampler};
use crate::flow::{Field, Tolerance, drifts, latents, solve};
use crate::progress::Stopped;
use crate::shape::ImageShape;
use burn::tensor::{Device, Tensor};

/// Dormand and Prince's method of order 5(4), with steps of its own for every image: see [`crate::flow`].
///
/// Use it where the exact flow is wanted, for what other samplers are measured by, or to come back to z_1; it takes from some
/// fifty to some hundred evaluations, and no number of steps.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct OdeSampler {
    /// How exactly.
    pub tolerance: Tolerance,
}

impl Sampler for OdeSampler {
    fn draw(&self, z_1: Tensor<4>, gammas: &[f64], denoiser: &mut dyn Denoiser) -> Result<Tensor<4>, SampleError> {
        let ([images, channels, height, width], device) = (z_1.dims(), z_1.device());
        let shape = ImageShape { channels, height, width };
        let numbers: Vec<f64> = z_1.into_data().iter::<f32>().map(f64::from).collect();
        let states = numbers.chunks_exact(shape.dims().max(1)).map(<[f64]>::to_vec).collect::<Vec<_>>();
        debug_assert_eq!(states.len(), images);
        let (from, to) = (gammas[0], gammas[gammas.len() - 1]);
        let mut field = Flow { denoiser, shape, device: &device };
        let solved = solve(states, 0, from, to, &self.tolerance, &mut field)?;
        // The bar of progress is of as many steps as the other samplers take.
        for _ in 1..gammas.len() {
            denoiser.step_done()?;
        }
        let states: Vec<Vec<f64>> = solved.into_iter().map(|solved| solved.state).collect();
        Ok(latents(&states, shape, &device))
    }
}

/// The flow of a sampler's batch.
struct Flow<'a> {
    denoiser: &'a mut dyn Denoiser,
    shape: ImageShape,
    device: &'a Device,
}

impl Field for Flow<'_> {
    fn slopes(&mut self, which: &[usize], times: &[f64], states: &[Vec<f64>]) -> Result<Vec<Vec<f64>>, Stopped> {
        self.denoiser.pulse()?;
        let z = latents(states, self.shape, self.device);
        Ok(drifts(self.denoiser.eps_hat_of(which, z, times), times, states))
    }
}
