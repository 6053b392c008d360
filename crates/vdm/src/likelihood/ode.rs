//! The density of the probability flow (Song et al. 2021, arXiv 2011.13456, appendix D.2), with the model's own decoder.

use super::log_mean_exp::log_mean_exp;
use super::{Estimate, Estimator, EvalBatch, EvalError, MOST_DRAWS, check_number};
use crate::diffusion::VariationalDiffusion;
use crate::diffusion::process::{alpha, sigma};
use crate::flow::divergence::{Augmented, MAX_EXACT, Trace, probes};
use crate::flow::{Tolerance, solve};
use crate::math::host;
use crate::nn::ScoreNetwork;
use crate::progress::Stopped;
use crate::random::{ODE, in_round, normal};
use crate::schedule::Schedule;
use burn::tensor::{Device, Tensor};
use std::f64::consts::TAU;
use vdm_kernels::rng::Philox;

/// E over z_0 from q(z_0|x) of -[log p(x|z_0) + log p_flow(z_0) - log q(z_0|x)], where p_flow is the exact density that the
/// flow gives to z_0 when it starts from a standard normal z_1.
///
/// The decoder takes the place of dequantisation, so this is a bound too, on -log p(x) of the flow with this decoder. With
/// several draws of z_0 it is the importance-weighted one: -log (1/K Σ p(x|z_0) p_flow(z_0) / q(z_0|x)).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ode {
    /// How exactly the flow is solved.
    pub tolerance: Tolerance,
    /// How the divergence is found.
    pub trace: Trace,
    /// Vectors of Hutchinson's estimate, 1 to 4096; of no meaning for the exact trace.
    pub probes: usize,
    /// Draws K of z_0, 1 to 65,536.
    pub draws: usize,
}

const MOST_PROBES: usize = 1 << 12;

impl Ode {
    fn check<N: ScoreNetwork>(&self, model: &VariationalDiffusion<N>) -> Result<(), EvalError> {
        check_number("draws", self.draws, MOST_DRAWS)?;
        check_number("probes", self.probes, MOST_PROBES)?;
        let dims = model.shape().dims();
        if self.trace == Trace::Exact && dims > MAX_EXACT {
            return Err(EvalError::TooLarge { dims, most: MAX_EXACT });
        }
        if model.network.self_conditioned() {
            return Err(EvalError::SelfConditioned);
        }
        Ok(())
    }
}

impl<N: ScoreNetwork> Estimator<N> for Ode {
    fn estimate(
        &self,
        model: &VariationalDiffusion<N>,
        batch: &EvalBatch<'_>,
        device: &Device,
        pulse: &mut dyn FnMut() -> Result<(), Stopped>,
    ) -> Result<Vec<Estimate>, EvalError> {
        self.check(model)?;
        let (schedule, shape, vocabulary) = (model.schedule.to_host(), model.shape(), model.settings().vocabulary);
        let (gamma_0, gamma_1) = (schedule.gamma(0.0), schedule.gamma(1.0));
        let (images, dims) = (batch.indices.len(), shape.dims());
        let flat = |t: Tensor<4>| t.reshape([images, dims]);
        let numbers = |t: Tensor<4>| t.into_data().iter::<f32>().map(f64::from).collect::<Vec<f64>>();
        let x = numbers(vocabulary.encode(batch.k.clone()));

        let mut log_weights = vec![Vec::with_capacity(self.draws); images];
        let (mut reconstructions, mut evaluations) = (vec![0f64; images], vec![0; images]);
        for draw in 0..self.draws {
            let round = (batch.pass * self.draws + draw) as u64;
            let stream = |&i: &usize| Philox::new(batch.seed ^ ODE, in_round(round, i as u64));
            let streams: Vec<Philox> = batch.indices.iter().map(stream).collect();
            let eps = normal(&streams, 0, shape, device);

            // 1. log p(x | z_0), and log q(z_0 | x) of z_0 = alpha_0 x + sigma_0 eps.
            let r = vocabulary.level_distance(gamma_0);
            let (nll, _) = vdm_kernels::decoder_nll(flat(eps.clone()), flat(batch.k.clone()), vocabulary.levels(), r);
            let nll = host(&nll);
            let eps = numbers(eps);
            let (alpha_0, sigma_0) = (alpha(gamma_0), sigma(gamma_0));
            let state = |i: usize| {
                let of_image = i * dims..(i + 1) * dims;
                let z = x[of_image.clone()].iter().zip(&eps[of_image]).map(|(x, eps)| alpha_0 * x + sigma_0 * eps);
                z.chain([0.0]).collect::<Vec<f64>>()
            };

            // 2. The flow from z_0 to z_1, with the integral of its divergence.
            let vectors: Vec<Vec<Vec<f32>>> =
                streams.iter().map(|stream| probes(self.trace, self.probes, dims, stream, 1)).collect();
            let mut field = Augmented::new(model, batch.conditioning, &vectors, self.trace, device, pulse);
            let states = (0..images).map(state).collect();
            let solved = solve(states, 1, gamma_0, gamma_1, &self.tolerance, &mut field)?;

            // 3. log p_flow(z_0) = log N(z_1; 0, I) + the integral; the two normalisations differ by log sigma_0 alone.
            for (i, solved) in solved.into_iter().enumerate() {
                let (z_1, integral) = (&solved.state[..dims], solved.state[dims]);
                let square = |numbers: &[f64]| numbers.iter().map(|z| z * z).sum::<f64>();
                let log_p = -0.5 * (square(z_1) + dims as f64 * libm::log(TAU)) + integral;
                let log_q = -0.5 * square(&eps[i * dims..(i + 1) * dims])
                    - dims as f64 * (0.5 * libm::log(TAU) + libm::log(sigma_0));
                log_weights[i].push(log_p - log_q - nll[i]);
                reconstructions[i] += nll[i] / self.draws as f64;
                evaluations[i] += solved.evaluations * vectors[i].len();
            }
        }
        let (alpha_1, log_sigma_1) = (alpha(gamma_1), libm::log(sigma(gamma_1)));
        let estimate = |i: usize| {
            let square: f64 = x[i * dims..(i + 1) * dims].iter().map(|x| x * x).sum();
            let prior = 0.5 * alpha_1 * alpha_1 * (square - dims as f64) - dims as f64 * log_sigma_1;
            let reconstruction = reconstructions[i];
            let diffusion = -log_mean_exp(&log_weights[i]) - prior - reconstruction;
            Estimate { prior, reconstruction, diffusion, evaluations: evaluations[i] }
        };
        Ok((0..images).map(estimate).collect())
    }

    fn draws(&self) -> usize {
        self.draws
    }

    fn steps(&self, _of_model: Option<usize>) -> Option<usize> {
        None
    }
}
