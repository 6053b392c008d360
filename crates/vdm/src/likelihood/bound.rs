//! The variational bound (VDM section 4).

use super::{Estimate, Estimator, EvalBatch, EvalError};
use crate::diffusion::{Noise, VariationalDiffusion};
use crate::math::host;
use crate::nn::{Mode, ScoreNetwork};
use crate::progress::Stopped;
use crate::random::in_round;
use burn::tensor::Device;
use vdm_kernels::rng::Philox;

/// The bound: in T steps if the model has a number of steps, else in continuous time. One network evaluation per image
/// and pass, at the time that the batch says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bound;

impl<N: ScoreNetwork> Estimator<N> for Bound {
    fn estimate(
        &self,
        model: &VariationalDiffusion<N>,
        batch: &EvalBatch<'_>,
        device: &Device,
        _pulse: &mut dyn FnMut() -> Result<(), Stopped>,
    ) -> Result<Vec<Estimate>, EvalError> {
        let stream = |&i: &usize| Philox::new(batch.seed, in_round(batch.pass as u64, i as u64));
        let streams: Vec<Philox> = batch.indices.iter().map(stream).collect();
        let noise = Noise::draw(&streams, model.shape(), device);
        let loss = model.loss(batch.k.clone(), batch.times, noise, batch.conditioning, Mode::Eval);
        let [prior, reconstruction, diffusion] = [loss.prior, loss.reconstruction, loss.diffusion].map(|t| host(&t));
        // Self-conditioning evaluates the network twice.
        let evaluations = 1 + usize::from(model.network.self_conditioned());
        let estimate = |i: usize| Estimate {
            prior: prior[i],
            reconstruction: reconstruction[i],
            diffusion: diffusion[i],
            evaluations,
        };
        Ok((0..batch.indices.len()).map(estimate).collect())
    }
}
