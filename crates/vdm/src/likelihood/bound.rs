//! The variational bound (VDM section 4).

use super::{Estimate, Estimator, EvalBatch};
use crate::diffusion::{Noise, VariationalDiffusion};
use crate::math::host;
use crate::nn::{Mode, ScoreNetwork};
use crate::random::in_round;
use burn::tensor::Device;
use vdm_kernels::rng::Philox;

/// The bound: in T steps if the model has a number of steps, else in continuous time. One network evaluation per image
/// and pass, at the time that the batch says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bound;

impl<N: ScoreNetwork> Estimator<N> for Bound {
    fn estimate(&self, model: &VariationalDiffusion<N>, batch: &EvalBatch<'_>, device: &Device) -> Vec<Estimate> {
        let stream = |&i: &usize| Philox::new(batch.seed, in_round(batch.pass as u64, i as u64));
        let streams: Vec<Philox> = batch.indices.iter().map(stream).collect();
        let noise = Noise::draw(&streams, model.shape(), device);
        let loss = model.loss(batch.k.clone(), batch.times, noise, batch.conditioning, Mode::Eval);
        let [prior, reconstruction, diffusion] = [loss.prior, loss.reconstruction, loss.diffusion].map(|t| host(&t));
        let estimate =
            |i: usize| Estimate { prior: prior[i], reconstruction: reconstruction[i], diffusion: diffusion[i] };
        (0..batch.indices.len()).map(estimate).collect()
    }
}
