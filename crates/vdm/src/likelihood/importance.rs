//! The importance-weighted bound (Burda et al. 2016, arXiv 1509.00519) of the model in T steps.

use super::log_mean_exp::log_mean_exp;
use super::{Estimate, Estimator, EvalBatch, EvalError, MOST_DRAWS, check_number};
use crate::diffusion::process::{alpha, sigma};
use crate::diffusion::{Posterior, VariationalDiffusion};
use crate::math::{host, sum_of_squares};
use crate::nn::{Mode, ScoreNetwork};
use crate::progress::Stopped;
use crate::random::{IMPORTANCE, in_round, normal};
use crate::schedule::Schedule;
use burn::tensor::{Device, Tensor};
use vdm_kernels::rng::Philox;

/// -log (1/K Σ w_k) with w = p(x, z_0, ..., z_1) / q(z_0, ..., z_1 | x) and K draws of all latents from q.
///
/// In expectation it is a bound on -log p(x) of the model in T steps for every K, that of K + 1 is not above that of K, and
/// that of K = 1 is the bound itself. K must grow exponentially with the looseness of the bound in nats before the gain is
/// large, so expect little for large images.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Importance {
    /// Draws K, 1 to 65,536. Each takes T evaluations of the network.
    pub draws: usize,
}

impl<N: ScoreNetwork> Estimator<N> for Importance {
    fn estimate(
        &self,
        model: &VariationalDiffusion<N>,
        batch: &EvalBatch<'_>,
        device: &Device,
        pulse: &mut dyn FnMut() -> Result<(), Stopped>,
    ) -> Result<Vec<Estimate>, EvalError> {
        let steps = model.settings().timesteps.ok_or(EvalError::ContinuousTime)?;
        check_number("draws", self.draws, MOST_DRAWS)?;
        let gammas = model.schedule.to_host().evenly(steps);
        let images = batch.indices.len();
        let x = model.settings().vocabulary.encode(batch.k.clone());
        let mut log_weights = vec![Vec::with_capacity(self.draws); images];
        let mut reconstructions = vec![0f64; images];
        let mut priors = Vec::new();
        for draw in 0..self.draws {
            let round = (batch.pass * self.draws + draw) as u64;
            let stream = |&i: &usize| Philox::new(batch.seed ^ IMPORTANCE, in_round(round, i as u64));
            let streams: Vec<Philox> = batch.indices.iter().map(stream).collect();
            let noise = |step: usize| normal(&streams, step as u32, model.shape(), device);

            // 1. The prior: z_1 from q(z_1 | x), log p(z_1) - log q(z_1 | x).
            let gamma_1 = gammas[steps];
            let eps = noise(steps);
            let mut z = x.clone() * alpha(gamma_1) + eps.clone() * sigma(gamma_1);
            let dims = model.shape().dims() as f64;
            let log_sigma = 0.5 * libm::log(sigma(gamma_1) * sigma(gamma_1));
            let of_prior = host(&(sum_of_squares(eps) - sum_of_squares(z.clone())));
            let mut log_weight: Vec<f64> = of_prior.iter().map(|d| 0.5 * d + dims * log_sigma).collect();

            // 2. Every step: z_s from q(z_s | z_t, x), log p(z_s | z_t) - log q(z_s | z_t, x). In units of the deviation of q
            //    their means differ by root(c) times the network's error, c = expm1(gamma_t - gamma_s); the variance of p is
            //    that of q, or 1 + c M times as large where the model knows its expected error M.
            for step in (0..steps).rev() {
                let (gamma_t, gamma_s) = (gammas[step + 1], gammas[step]);
                let eps = (z.clone() - x.clone() * alpha(gamma_t)) / sigma(gamma_t);
                let gamma = Tensor::full([images], gamma_t, device);
                let eps_hat = model.predict_noise(z.clone(), gamma, batch.conditioning, Mode::Eval);
                let c = libm::expm1(gamma_t - gamma_s);
                let (u, z_t) = (noise(step), z.clone());
                z = Posterior::new(gamma_t, gamma_s).draw(z, eps.clone(), u.clone());
                let off = eps - eps_hat.clone();
                match model.errors() {
                    Some(errors) => {
                        let expected = errors.expected(z_t, &vec![gamma_t; images], eps_hat);
                        for (w, wider) in log_weight.iter_mut().zip(wider_step(c, &u, &off, &expected)) {
                            *w += wider;
                        }
                    }
                    None => {
                        let along = host(&dot(u, off.clone()));
                        let square = host(&sum_of_squares(off));
                        for (w, (along, square)) in log_weight.iter_mut().zip(along.iter().zip(square)) {
                            *w += c.sqrt() * along - 0.5 * c * square;
                        }
                    }
                }
                pulse()?;
            }

            // 3. The decoder: log p(x | z_0).
            let eps_0 = (z - x.clone() * alpha(gammas[0])) / sigma(gammas[0]);
            let r = model.settings().vocabulary.level_distance(gammas[0]);
            let flat = |t: Tensor<4>| t.reshape([images, model.shape().dims()]);
            let levels = model.settings().vocabulary.levels();
            let (nll, _) = vdm_kernels::decoder_nll(flat(eps_0), flat(batch.k.clone()), levels, r);
            for (i, nll) in host(&nll).into_iter().enumerate() {
                log_weights[i].push(log_weight[i] - nll);
                reconstructions[i] += nll / self.draws as f64;
            }
            if draw == 0 {
                let of_image = |square: &f64| {
                    0.5 * (square * alpha(gamma_1).powi(2) - dims * (alpha(gamma_1).powi(2) + 2.0 * log_sigma))
                };
                priors = host(&sum_of_squares(x.clone())).iter().map(of_image).collect();
            }
        }
        let estimate = |i: usize| {
            let (prior, reconstruction) = (priors[i], reconstructions[i]);
            let diffusion = -log_mean_exp(&log_weights[i]) - prior - reconstruction;
            Estimate { prior, reconstruction, diffusion, evaluations: self.draws * steps }
        };
        Ok((0..images).map(estimate).collect())
    }

    fn draws(&self) -> usize {
        self.draws
    }
}

/// log p(z_s | z_t) - log q(z_s | z_t, x) of each image, where z_s is drawn from q with the noise `u`, and p is wider.
fn wider_step(c: f64, u: &Tensor<4>, off: &Tensor<4>, expected: &Tensor<4>) -> Vec<f64> {
    let [images, ..] = u.dims();
    let (u, off, expected) = (host(u), host(off), host(expected));
    let dims = u.len() / images.max(1);
    let of_number = |i: usize| {
        let (r, apart) = (c * expected[i], u[i] - c.sqrt() * off[i]);
        0.5 * (u[i] * u[i] - apart * apart / (1.0 + r) - libm::log1p(r))
    };
    (0..images).map(|image| (image * dims..(image + 1) * dims).map(of_number).sum()).collect()
}

/// Σ a b of each image.
fn dot(a: Tensor<4>, b: Tensor<4>) -> Tensor<1> {
    let [images, ..] = a.dims();
    (a * b).reshape([images as i32, -1]).sum_dim(1).reshape([images])
}
