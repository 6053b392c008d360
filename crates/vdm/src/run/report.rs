//! The plots of a run.

use super::{MetricsLog, RunDir};
use crate::data::ImageDataset;
use crate::files::write_bytes;
use crate::likelihood::classes_of;
use crate::math::host;
use crate::nn::{Mode, ScoreNetwork};
use crate::picture::PlotError;
use crate::picture::figures::{self, CurvePoint, LossBin};
use crate::schedule::Schedule;
use crate::stats::standard_error;
use crate::{Noise, VariationalDiffusion, bits_per_dim};
use burn::tensor::Device;
use std::io;
use vdm_kernels::rng::Philox;

/// The diffusion loss at `bins` times spread evenly over [0, 1], each on the same first `images` images of `data`.
///
/// The standard errors are over images. In bits per dimension.
pub fn loss_over_time<N: ScoreNetwork>(
    model: &VariationalDiffusion<N>,
    data: &ImageDataset,
    images: usize,
    bins: usize,
    device: &Device,
) -> Vec<LossBin> {
    let indices: Vec<usize> = (0..images.min(data.len())).collect();
    let dims = data.shape().dims();
    (0..bins)
        .map(|bin| {
            let t = (bin as f64 + 0.5) / bins as f64;
            let streams: Vec<Philox> = indices.iter().map(|&i| Philox::new(bin as u64, i as u64)).collect();
            let k = data.batch(&indices, device);
            let times = vec![t; indices.len()];
            let noise = Noise::draw(&streams, data.shape(), device);
            let loss = model.loss(k, &times, noise, &classes_of(&model.network, data, &indices), Mode::Eval);
            let nats = host(&loss.diffusion);
            LossBin {
                t,
                mean: bits_per_dim(nats.iter().sum::<f64>() / nats.len().max(1) as f64, dims),
                stderr: bits_per_dim(standard_error(&nats).unwrap_or(0.0), dims),
            }
        })
        .collect()
}

/// Draws the run's curve from its log, and its schedule.
///
/// # Errors
/// Whatever the file system or the plotting says.
pub(crate) fn write_curve<N: ScoreNetwork>(run: &RunDir, model: &VariationalDiffusion<N>) -> io::Result<()> {
    let (steps, evals) = MetricsLog::read(&run.metrics())?;
    let curve: Vec<CurvePoint> = steps
        .iter()
        .map(|s| CurvePoint {
            step: s.step,
            prior: s.prior,
            reconstruction: s.reconstruction,
            diffusion: s.diffusion,
            total: s.bpd,
        })
        .collect();
    let evals: Vec<(u64, f64, f64)> =
        evals.iter().map(|e| (e.step, e.eval_bpd, e.eval_bpd_stderr.unwrap_or(0.0))).collect();
    draw(run, "bpd", figures::training_curve(&curve, &evals))?;
    let schedule = model.schedule.to_host();
    draw(run, "schedule", figures::schedule_plot(&[("learned", schedule.as_ref())]))
}

/// All plots: [`write_curve`]'s, and the loss over time.
///
/// # Errors
/// Whatever the file system or the plotting says.
pub(crate) fn write_plots<N: ScoreNetwork>(
    run: &RunDir,
    model: &VariationalDiffusion<N>,
    data: &ImageDataset,
    device: &Device,
) -> io::Result<()> {
    write_curve(run, model)?;
    draw(run, "loss-over-time", figures::loss_over_time(&loss_over_time(model, data, 64, 24, device)))
}

fn draw(run: &RunDir, name: &str, plot: Result<String, PlotError>) -> io::Result<()> {
    write_bytes(&run.plot(name), plot.map_err(io::Error::other)?.as_bytes())
}
