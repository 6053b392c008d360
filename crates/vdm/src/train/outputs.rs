//! What a training writes besides checkpoints: metrics, evaluations, samples, plots.

use super::{Datasets, Observer, TrainError};
use crate::config::Config;
use crate::data::{ImageDataset, Split};
use crate::files::write_bytes;
use crate::likelihood::{Bound, EvalOptions, Evaluation, evaluate};
use crate::nn::Conditioning;
use crate::picture::grid::{grid_png, square, tile_scale};
use crate::run::{EvalLine, Model, RunDir, Sink, StepLine, loss_over_time, open_sinks, write_curve, write_plots};
use crate::sample::{Grid, SampleOptions, SamplerSettings, sample_conditioned};
use burn::tensor::Device;
use std::io;
use std::ops::ControlFlow;

/// Tells the observer how far some work is, and asks it whether to go on.
fn watched(observer: &mut dyn Observer, what: &str, done: usize, total: usize) -> ControlFlow<()> {
    observer.on_progress(what, done, total);
    if observer.should_stop() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
}

/// Where the results of a training go, and how they are made. The models given are those with averaged weights.
pub(super) struct Outputs {
    pub run: RunDir,
    config: Config,
    device: Device,
    sinks: Vec<Box<dyn Sink>>,
}

/// Images and times of the loss over time that an evaluation records: a second or two of work.
const LOSS_IMAGES: usize = 32;
const LOSS_BINS: usize = 24;

impl Outputs {
    /// Opens the outputs of a run that stands at step `step`, and writes its configuration; `pending` if evaluations and
    /// samples of this step are still to be made.
    pub fn open(
        config: &Config,
        run: RunDir,
        (step, pending): (u64, bool),
        device: &Device,
    ) -> Result<Self, TrainError> {
        let path = run.config();
        write_bytes(&path, config.to_toml()?.as_bytes()).map_err(|source| TrainError::Io { path, source })?;
        run.remove_litter();
        if step < config.train.steps {
            // An evaluation of an earlier end would pass for one of the new end.
            let _ = std::fs::remove_file(run.evaluation());
        }
        let sinks = open_sinks(&run, step, pending, config.train.tensorboard)
            .map_err(|(path, source)| TrainError::Io { path, source })?;
        Ok(Self { run, config: config.clone(), device: device.clone(), sinks })
    }

    /// Gives a line to every sink.
    fn record(&mut self, give: impl Fn(&mut dyn Sink) -> io::Result<()>) -> Result<(), TrainError> {
        for sink in &mut self.sinks {
            give(sink.as_mut()).map_err(|source| TrainError::Io { path: sink.path().into(), source })?;
        }
        Ok(())
    }

    /// Records a line of metrics.
    pub fn step(&mut self, line: &StepLine, observer: &mut dyn Observer) -> Result<(), TrainError> {
        self.record(|sink| sink.on_step(line))?;
        observer.on_metrics(line, self.config.train.steps);
        Ok(())
    }

    /// Brings all metrics to the disk.
    pub fn sync(&mut self) -> Result<(), TrainError> {
        self.record(|sink| sink.sync())
    }

    /// Evaluates the bound on images of a split and records it.
    pub fn evaluate(
        &mut self,
        model: &Model,
        step: u64,
        (split, data): (Split, &ImageDataset),
        repeats: usize,
        observer: &mut dyn Observer,
    ) -> Result<Evaluation, TrainError> {
        let options = EvalOptions { repeats, batch_size: self.config.eval.batch_size, seed: self.config.seed };
        let evaluation = evaluate(model, &Bound, data, &options, &self.device, &mut |done, total| {
            watched(observer, "evaluating", done, total)
        })?;
        let line = EvalLine::new(step, split, &evaluation);
        self.record(|sink| sink.on_evaluation(&line))?;
        observer.on_evaluation(&line);
        Ok(evaluation)
    }

    /// Records the diffusion loss over time of some of these images, where TensorBoard is wanted.
    pub fn loss_over_time(&mut self, model: &Model, step: u64, data: &ImageDataset) -> Result<(), TrainError> {
        if !self.config.train.tensorboard {
            return Ok(());
        }
        let bins = loss_over_time(model, data, LOSS_IMAGES, LOSS_BINS, &self.device);
        self.record(|sink| sink.on_loss_over_time(step, &bins))
    }

    /// The validation images of the evaluations during training: evenly spread over the split.
    pub fn eval_subset(&self, valid: &ImageDataset) -> Result<ImageDataset, TrainError> {
        let n = valid.len();
        let want = if self.config.eval.images == 0 { n } else { n.min(self.config.eval.images) };
        Ok(valid.spread(want)?)
    }

    /// Writes the final evaluation.
    pub fn write_evaluation(&self, evaluation: &Evaluation) -> Result<(), TrainError> {
        let path = self.run.evaluation();
        let json = serde_json::to_vec_pretty(evaluation).unwrap_or_default();
        write_bytes(&path, &json).map_err(|source| TrainError::Io { path, source })
    }

    /// Draws a grid of samples; the classes take turns.
    pub fn draw_samples(&mut self, model: &Model, step: u64, observer: &mut dyn Observer) -> Result<(), TrainError> {
        let s = &self.config.sample;
        let options = SampleOptions {
            steps: s.steps,
            grid: Grid::Time,
            clip: s.clip,
            decoder: s.decoder,
            guidance: s.guidance,
            seed: self.config.seed,
            batch_size: self.config.eval.batch_size,
        };
        let classes = self.config.model.network.classes();
        let in_turn = |numbers| Conditioning::classes_in_turn(numbers, classes);
        let mut progress = |done, total| watched(observer, "sampling", done, total);
        let (sampler, numbers) = (s.sampler.sampler(&SamplerSettings::default()), 0..s.count as u64);
        let images = sample_conditioned(model, &*sampler, numbers, in_turn, &options, &self.device, &mut progress)?;
        let path = self.run.samples(step);
        let (shape, levels) = (model.shape(), model.settings().vocabulary.levels());
        let png = grid_png(&images, shape, levels, square(s.count), tile_scale(shape)).map_err(io::Error::other);
        let written = png.and_then(|png| write_bytes(&path, &png).map(|()| png));
        let png = written.map_err(|source| TrainError::Io { path: path.clone(), source })?;
        self.record(|sink| sink.on_samples(step, &png))?;
        observer.on_file("samples", &path);
        Ok(())
    }

    /// Draws the training curve and the schedule.
    pub fn plot_curve(&self, model: &Model) -> Result<(), TrainError> {
        self.plotted(write_curve(&self.run, model))
    }

    /// Draws all plots.
    pub fn plot_all(&self, model: &Model, data: &Datasets, observer: &mut dyn Observer) -> Result<(), TrainError> {
        self.plotted(write_plots(&self.run, model, &data.valid, &self.device))?;
        observer.on_file("plots", &self.run.path().join("plots"));
        Ok(())
    }

    fn plotted(&self, result: io::Result<()>) -> Result<(), TrainError> {
        result.map_err(|source| TrainError::Io { path: self.run.path().join("plots"), source })
    }
}
