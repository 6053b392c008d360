//! Asking the network for eps_hat, with an estimate of x where it takes one.

use super::process::{eps_from, x_hat};
use super::{Prediction, TimeNormalization, VariationalDiffusion};
use crate::nn::{Conditioning, Mode, ScoreNetwork};
use crate::parts;
use crate::random::ESTIMATE;
use crate::schedule::Schedule;
use burn::tensor::Tensor;
use std::ops::Range;
use vdm_kernels::rng::Philox;

impl<N: ScoreNetwork> VariationalDiffusion<N> {
    /// eps_hat(z, gamma).
    ///
    /// For a network with self-conditioning, where the conditioning brings no estimate of x, a first pass without one
    /// makes it from the same z (Chen et al. 2022, arXiv 2208.04202, who take the estimate of the step before when they
    /// sample). So eps_hat is a function of z, gamma and the conditioning alone, the same in the bound, in sampling and
    /// in the codec, and the bound stays a bound. In training, half of the passes get no estimate, and nothing is
    /// learned through the first pass.
    ///
    /// # Shapes
    /// - `z`: `[batch, channels, height, width]`; `gamma`: `[batch]`
    pub fn predict_noise(&self, z: Tensor<4>, gamma: Tensor<1>, conditioning: &Conditioning, mode: Mode) -> Tensor<4> {
        let (time, prediction) = (self.normalised_time(gamma.clone()), self.settings().prediction);
        let without = match mode {
            Mode::Train { dropout_seed } => Philox::new(dropout_seed, ESTIMATE).uniform_f64(0) < 0.5,
            Mode::Eval => false,
        };
        if !self.network.self_conditioned() || conditioning.self_cond.is_some() || without {
            let output = in_parts(&self.network, z.clone(), time, conditioning, mode);
            return eps_from(prediction, output, z, gamma);
        }
        let estimate = if z.is_autodiff() {
            let (z, time, gamma) = (z.clone().inner(), time.clone().inner(), gamma.clone().inner());
            let network = self.network.clone().valid();
            Tensor::from_inner(first_estimate(&network, z, time, gamma, &conditioning.inner(), prediction))
        } else {
            first_estimate(&self.network, z.clone(), time.clone(), gamma.clone(), conditioning, prediction)
        };
        let conditioning = Conditioning { self_cond: Some(estimate), ..conditioning.clone() };
        let output = in_parts(&self.network, z.clone(), time, &conditioning, mode);
        eps_from(prediction, output, z, gamma)
    }

    /// The network's time: gamma as a share of the way from gamma_0 to gamma_1.
    fn normalised_time(&self, gamma: Tensor<1>) -> Tensor<1> {
        match self.settings().time_normalization {
            TimeNormalization::Configured => {
                let (start, end) = self.settings().configured_endpoints;
                (gamma - start) / (end - start)
            }
            TimeNormalization::Current => {
                let (start, end) = self.schedule.endpoints(&gamma.device());
                (gamma - start.clone()) / (end - start)
            }
        }
    }
}

/// x_hat of a pass without an estimate.
fn first_estimate<N: ScoreNetwork>(
    network: &N,
    z: Tensor<4>,
    time: Tensor<1>,
    gamma: Tensor<1>,
    conditioning: &Conditioning,
    prediction: Prediction,
) -> Tensor<4> {
    let output = in_parts(network, z.clone(), time, conditioning, Mode::Eval);
    let eps_hat = eps_from(prediction, output, z.clone(), gamma.clone());
    x_hat(z, gamma, eps_hat)
}

/// The network's output; on the CPU and without autodiff, parts of the batch are computed side by side.
fn in_parts<N: ScoreNetwork>(
    network: &N,
    z: Tensor<4>,
    time: Tensor<1>,
    conditioning: &Conditioning,
    mode: Mode,
) -> Tensor<4> {
    // With autodiff there is one graph for all, and dropout's masks depend on the position in the batch.
    let whole = z.is_autodiff() || mode != Mode::Eval;
    let job = |part: Range<usize>| {
        let given = conditioning.slice(part.clone());
        (network.clone(), z.clone().slice([part.clone()]), time.clone().slice([part]), given)
    };
    let forward = |(network, z, time, given): (N, _, _, Conditioning)| network.forward(z, time, &given, mode);
    let in_parts = if whole { None } else { parts::side_by_side(&z, job, forward) };
    in_parts.unwrap_or_else(|| network.forward(z, time, conditioning, mode))
}
