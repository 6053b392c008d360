//! Fitting what a model knows of its own error: see [`error_model`](crate::diffusion::error_model).

use super::{GradientSum, Optimizer};
use crate::VariationalDiffusion;
use crate::config::{LrDecay, TrainConfig};
use crate::data::ImageDataset;
use crate::diffusion::error_model::{ErrorHead, ErrorModel, ErrorPoint, ErrorTable, MAX_POINTS, QUANTILES, TableError};
use crate::diffusion::process::{alpha, diffuse};
use crate::diffusion::times::low_discrepancy;
use crate::initial::seeded;
use crate::math::{column, exp_of, host, sum_of_squares};
use crate::nn::{Conditioning, Mode, ScoreNetwork};
use crate::progress::{Progress, Stopped, tell};
use crate::random::{DRAW_EPS, ERROR_MODEL, TIMES, in_round, normal};
use crate::schedule::Schedule;
use burn::module::Module;
use burn::tensor::{Device, Tensor};
use vdm_kernels::rng::Philox;

/// How to fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FitOptions {
    /// Steps of the optimiser for the head; 0 for a table alone.
    pub steps: usize,
    /// Images of a step, and of a pass through the network.
    pub batch_size: usize,
    /// Noise levels of the table, 2 to [`MAX_POINTS`]: evenly spaced in the schedule's time.
    pub points: usize,
    /// Most images that the table is measured on.
    pub images: usize,
    /// Seed of the head's weights and of all noise.
    pub seed: u64,
}

impl Default for FitOptions {
    /// 2000 steps of 32 images; 256 noise levels, measured on 64 images; seed 0.
    fn default() -> Self {
        Self { steps: 2000, batch_size: 32, points: 256, images: 64, seed: 0 }
    }
}

/// Why there is no error model.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum FitError {
    /// See [`TableError`]: the network's error is not finite, or 0.
    #[error(transparent)]
    Table(#[from] TableError),
    /// Its [`Progress`] asked it to stop.
    #[error(transparent)]
    Stopped(#[from] Stopped),
    /// A number of [`FitOptions`] is too small.
    #[error("{what} must be at least {least}")]
    Option {
        /// Which number.
        what: &'static str,
        /// What it must be.
        least: usize,
    },
}

/// Noise levels of the table that the head's output is relative to.
const FIRST_POINTS: usize = 64;

/// Fits the error model of a model whose network and schedule stay as they are: the head to `train`, the tables to `valid`,
/// images that the model was not trained on, both without classes.
///
/// The head learns log M by the score log M + m/M of every number's squared error m, whose expectation is least at
/// M = E\[m | z_t\]; so it holds for any number of steps. `progress` is told passes through the network.
///
/// # Errors
/// See [`FitError`].
pub fn fit_error_model<N: ScoreNetwork>(
    model: &VariationalDiffusion<N>,
    train: &ImageDataset,
    valid: &ImageDataset,
    options: &FitOptions,
    device: &Device,
    progress: &mut Progress,
) -> Result<ErrorModel, FitError> {
    if options.points > MAX_POINTS {
        return Err(TableError::Point { point: options.points, reason: "there are more than 1024" }.into());
    }
    for (what, found, least) in [
        ("points", options.points, 2),
        ("the batch size", options.batch_size, 1),
        ("the number of images", options.images.min(train.len()).min(valid.len()), 1),
    ] {
        if found < least {
            return Err(FitError::Option { what, least });
        }
    }
    let images: Vec<usize> = {
        let count = options.images.min(valid.len());
        (0..count).map(|i| i * valid.len() / count).collect()
    };
    let batches = images.len().div_ceil(options.batch_size);
    let (mut done, total) = (0, options.steps + batches * (options.points + FIRST_POINTS));
    let mut passed = || {
        done += 1;
        tell(progress, done, total)
    };
    let on = Measured { model, data: valid, images: &images, options, device };
    let table = on.table(FIRST_POINTS, None, &mut passed)?;
    let head = match options.steps {
        0 => None,
        _ => Some(fit_head(model, train, &table, options, device, &mut passed)?),
    };
    let errors = ErrorModel { table, head };
    let table = on.table(options.points, Some(&errors), &mut passed)?;
    Ok(ErrorModel { table, ..errors })
}

/// The head after all steps: the average of its weights over the last of them.
fn fit_head<N: ScoreNetwork>(
    model: &VariationalDiffusion<N>,
    train: &ImageDataset,
    table: &ErrorTable,
    options: &FitOptions,
    device: &Device,
    passed: &mut dyn FnMut() -> Result<(), Stopped>,
) -> Result<ErrorHead, FitError> {
    let (shape, schedule) = (model.shape(), model.schedule.to_host());
    let mut head = seeded(options.seed, || ErrorHead::new(shape.channels, &device.clone().autodiff()));
    let mut optimizer = Optimizer::new(&head, device);
    let config = optimizer_config(options.steps as u64);
    for step in 1..=options.steps as u64 {
        let streams: Vec<Philox> = (0..options.batch_size as u64)
            .map(|i| Philox::new(options.seed ^ ERROR_MODEL, in_round(step, i)))
            .collect();
        let indices: Vec<usize> = streams.iter().map(|s| (s.uniform_f64(0) * train.len() as f64) as usize).collect();
        let shift = Philox::new(options.seed ^ ERROR_MODEL, in_round(step, TIMES)).uniform_f64(0);
        let times = low_discrepancy(shift, indices.len());
        let gammas: Vec<f64> = times.iter().map(|&t| schedule.gamma(t)).collect();
        let eps = normal(&streams, DRAW_EPS, shape, device);
        let (z, eps_hat) = seen(model, train, &indices, &gammas, &eps, device);
        let off = eps_hat.clone() - eps;

        // log M + m/M, where the means of M over a noise level are known already.
        let log_mean: Vec<f32> = gammas.iter().map(|&gamma| table.log_mean(gamma) as f32).collect();
        let log_mean = column(Tensor::<1>::from_data(log_mean.as_slice(), device));
        let relative = (off.clone() * off) * exp_of(log_mean * -1.0);
        let log_ratio = head.forward(Tensor::from_inner(z), &gammas, Tensor::from_inner(eps_hat));
        let loss = (log_ratio.clone() + Tensor::from_inner(relative) * exp_of(log_ratio * -1.0)).mean();
        let gradients = GradientSum::of(&head, loss.backward());
        head = optimizer.step(head, gradients, &config, step);
        passed()?;
    }
    let averaged = optimizer.ema_weights(&head);
    let head = head.valid();
    // The weights have the names and shapes of the head that they are of.
    Ok(crate::weights::import(head.clone(), &averaged).unwrap_or(head))
}

/// What the optimiser of the head needs; the rest of the configuration is of no account here.
fn optimizer_config(steps: u64) -> TrainConfig {
    TrainConfig {
        steps,
        lr: 2e-3,
        warmup: 50,
        lr_decay: LrDecay::Cosine,
        beta1: 0.9,
        beta2: 0.99,
        adam_eps: 1e-8,
        weight_decay: 0.0,
        grad_clip: 1.0,
        ema_decay: 0.99,
        ema_width: 0.0,
        precision: Default::default(),
        batch_size: 1,
        accumulate: 1,
        timesteps: 0,
        times: Default::default(),
        label_dropout: 0.0,
        log_every: 0,
        eval_every: 0,
        sample_every: 0,
        checkpoint_every: 0,
        tensorboard: false,
    }
}

/// z_t and eps_hat of some images, each at a gamma of its own.
fn seen<N: ScoreNetwork>(
    model: &VariationalDiffusion<N>,
    data: &ImageDataset,
    indices: &[usize],
    gammas: &[f64],
    eps: &Tensor<4>,
    device: &Device,
) -> (Tensor<4>, Tensor<4>) {
    let x = model.settings().vocabulary.encode(data.batch(indices, device));
    let numbers: Vec<f32> = gammas.iter().map(|&gamma| gamma as f32).collect();
    let gamma = Tensor::<1>::from_data(numbers.as_slice(), device);
    let z = diffuse(x, gamma.clone(), eps.clone());
    let eps_hat = model.predict_noise(z.clone(), gamma, &Conditioning::default(), Mode::Eval);
    (z, eps_hat)
}

/// The images that a table is measured on.
struct Measured<'a, N> {
    model: &'a VariationalDiffusion<N>,
    data: &'a ImageDataset,
    images: &'a [usize],
    options: &'a FitOptions,
    device: &'a Device,
}

impl<N: ScoreNetwork> Measured<'_, N> {
    /// The table of `points` noise levels, with the quantiles of what `errors` expects, or all of them the mean.
    fn table(
        &self,
        points: usize,
        errors: Option<&ErrorModel>,
        passed: &mut dyn FnMut() -> Result<(), Stopped>,
    ) -> Result<ErrorTable, FitError> {
        let gammas = self.model.schedule.to_host().evenly(points - 1).into_iter();
        let table: Result<Vec<ErrorPoint>, Stopped> = gammas.map(|gamma| self.point(gamma, errors, passed)).collect();
        Ok(ErrorTable::new(table?)?)
    }

    fn point(
        &self,
        gamma: f64,
        errors: Option<&ErrorModel>,
        passed: &mut dyn FnMut() -> Result<(), Stopped>,
    ) -> Result<ErrorPoint, Stopped> {
        let (shape, vocabulary) = (self.model.shape(), self.model.settings().vocabulary);
        let (dims, numbers) = (shape.dims(), (self.images.len() * shape.dims()) as f64);
        let (mut square, mut reconstruction, mut x_square) = (0.0, 0.0, 0.0);
        let mut expected: Vec<f64> = Vec::new();
        for batch in self.images.chunks(self.options.batch_size) {
            // The same noise at every level: what differs between two of them is theirs.
            let streams: Vec<Philox> =
                batch.iter().map(|&i| Philox::new(self.options.seed ^ ERROR_MODEL, in_round(0, i as u64))).collect();
            let eps = normal(&streams, DRAW_EPS, shape, self.device);
            let gammas = vec![gamma; batch.len()];
            let (z, eps_hat) = seen(self.model, self.data, batch, &gammas, &eps, self.device);
            square += host(&sum_of_squares(eps_hat.clone() - eps.clone())).iter().sum::<f64>();
            if let Some(errors) = errors {
                expected.extend(host(&errors.expected(z, &gammas, eps_hat)));
            }
            let k = self.data.batch(batch, self.device);
            x_square += host(&sum_of_squares(vocabulary.encode(k.clone()))).iter().sum::<f64>();
            let flat = |t: Tensor<4>| t.reshape([batch.len(), dims]);
            let distance = vocabulary.level_distance(gamma);
            let (nll, _) = vdm_kernels::decoder_nll(flat(eps), flat(k), vocabulary.levels(), distance);
            reconstruction += host(&nll).iter().sum::<f64>();
            passed()?;
        }
        let mean = square / numbers;
        let alpha_square = alpha(gamma) * alpha(gamma);
        // -log sigma² = log(1 + e^-gamma).
        let of_sigma = libm::log1p(libm::exp(-gamma)) - alpha_square;
        let prior = 0.5 * (alpha_square * x_square / numbers + of_sigma);
        // As files keep them, so that a model is the same before it is saved and after.
        let [mean, reconstruction, prior] = [mean, reconstruction / numbers, prior].map(|x| f64::from(x as f32));
        Ok(ErrorPoint { gamma, mean, quantiles: quantiles(expected, mean), reconstruction, prior })
    }
}

/// The quantiles of `expected`, scaled to have the mean `mean`; all are the mean where nothing is expected.
fn quantiles(mut expected: Vec<f64>, mean: f64) -> [f32; QUANTILES] {
    if expected.is_empty() {
        return [mean as f32; QUANTILES];
    }
    expected.sort_unstable_by(f64::total_cmp);
    let n = expected.len();
    // The mean of each part, not a number in its middle: the upper tail counts.
    let part = |i: usize| {
        let numbers = &expected[i * n / QUANTILES..((i + 1) * n / QUANTILES).max(i * n / QUANTILES + 1).min(n)];
        numbers.iter().sum::<f64>() / numbers.len().max(1) as f64
    };
    let parts: [f64; QUANTILES] = std::array::from_fn(part);
    let sum: f64 = parts.iter().sum();
    // Not `max`, which would make a number of a NaN: of a head that diverged there is to be no table.
    parts.map(|part| match part * mean * QUANTILES as f64 / sum {
        small if small < f64::from(f32::MIN_POSITIVE) => f32::MIN_POSITIVE,
        quantile => quantile as f32,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A NaN became the least positive number, so the table of a head that diverged was taken for a good one.
    #[test]
    fn the_quantiles_of_a_head_that_diverged_are_no_table() {
        let of = |expected: Vec<f64>| quantiles(expected, 0.5);
        assert!(of((0..64).map(|i| if i == 7 { f64::NAN } else { 1.0 }).collect()).iter().any(|q| q.is_nan()));
        assert!(of(vec![f64::INFINITY; 64]).iter().any(|q| q.is_nan()));
        let found = of((0..64).map(f64::from).collect());
        assert!(found.is_sorted() && (found.iter().sum::<f32>() / QUANTILES as f32 - 0.5).abs() < 1e-6);
        assert!(of(vec![0.0; 64]).iter().all(|q| q.is_nan()) && of(vec![]) == [0.5; QUANTILES]);
    }
}
