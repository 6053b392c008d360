//! The training loop.

use super::{
    Batch, Checkpoint, CheckpointError, EvalLine, GradientSum, MetricsLog, Optimizer, RunDir, StepLine,
    batch_gradients, grid, report, write_bytes,
};
use crate::config::{Config, ConfigError};
use crate::data::{Augmentation, DataError, ImageDataset, Split, augment, load};
use crate::eval::{EvalError, EvalOptions, Evaluation, evaluate};
use crate::nn::{AnyNetwork, Conditioning, Mode};
use crate::sample::{SampleOptions, sample_conditioned};
use crate::schedule::{ScheduleError, host};
use crate::times::draw_times;
use crate::variance::VarianceError;
use crate::weights::WeightsError;
use crate::{LossTerms, Noise, VariationalDiffusion, bits_per_dim};
use burn::module::Module;
use burn::tensor::{Device, Tensor, TensorData};
use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::time::Instant;
use vdm_kernels::rng::Philox;

/// The model that configurations describe.
type Model = VariationalDiffusion<AnyNetwork>;

/// Streams of random numbers of one step: images have the streams from 0.
const STREAM_TIMES: u64 = u32::MAX as u64;
/// Stream of the dropout seed.
const STREAM_DROPOUT: u64 = STREAM_TIMES - 1;
/// Stream of an epoch's shuffle; the epoch takes the place of the step, the upper half of the seed differs.
const SHUFFLE_KEY: u64 = 0x5348_5546 << 32;

/// Why training stopped without finishing.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// See [`ConfigError`].
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// See [`DataError`].
    #[error(transparent)]
    Data(#[from] DataError),
    /// See [`CheckpointError`].
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// See [`EvalError`].
    #[error(transparent)]
    Eval(#[from] EvalError),
    /// See [`VarianceError`].
    #[error(transparent)]
    Variance(#[from] VarianceError),
    /// See [`ScheduleError`].
    #[error(transparent)]
    Schedule(#[from] ScheduleError),
    /// A checkpoint and its configuration do not belong together.
    #[error("{}: {source}", path.display())]
    Weights {
        /// The checkpoint.
        path: PathBuf,
        /// What does not fit.
        source: WeightsError,
    },
    /// A file of the run cannot be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The run's folder holds a run already.
    #[error("{} already holds a run; continue it with `--resume`, or choose another folder with `--out`", path.display())]
    Exists {
        /// The folder.
        path: PathBuf,
    },
    /// The run has no step left to do.
    #[error("{} is finished at step {step}; train longer with --set train.steps=N, N above {step}", path.display())]
    Finished {
        /// The folder.
        path: PathBuf,
        /// Steps done.
        step: u64,
    },
    /// Training or test images cannot be used together, or at all.
    #[error("the data set `{name}` cannot be used: {reason}")]
    Dataset {
        /// Its name.
        name: String,
        /// What is wrong.
        reason: String,
    },
    /// The loss or its gradient is infinite or not a number.
    #[error(
        "{what} is not finite at step {step}: training diverged. The checkpoint of step {kept} is kept; start a new \
         run with a lower train.lr or with train.grad_clip=1"
    )]
    Diverged {
        /// The loss term, or the gradient.
        what: &'static str,
        /// The step.
        step: u64,
        /// Step of the last checkpoint.
        kept: u64,
    },
}

/// Hears what training does, and may stop it.
pub trait Observer {
    /// A line of metrics was written.
    fn on_metrics(&mut self, line: &StepLine, steps: u64);
    /// An evaluation began or went on: batches done and to do.
    fn on_progress(&mut self, what: &str, done: usize, total: usize);
    /// An evaluation ended.
    fn on_evaluation(&mut self, line: &EvalLine);
    /// Something was written that a person may look at.
    fn on_file(&mut self, what: &str, path: &std::path::Path);
    /// Asked after every step: whether to save and stop.
    fn should_stop(&mut self) -> bool;
}

/// How training ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// All steps are done; the evaluation over the whole test split.
    Finished(Box<Evaluation>),
    /// Stopped on request after this step; a checkpoint is saved.
    Stopped {
        /// Steps done.
        step: u64,
    },
}

/// Training and test images.
#[derive(Clone, Debug)]
pub struct Datasets {
    /// Training images.
    pub train: ImageDataset,
    /// Test images.
    pub test: ImageDataset,
}

impl Datasets {
    /// Loads both splits of the configured source.
    ///
    /// # Errors
    /// [`TrainError::Data`], or [`TrainError::Dataset`] if the splits do not agree or are empty.
    pub fn load(config: &Config) -> Result<Self, TrainError> {
        let source = config.data.source();
        let both = Self { train: load(&source, Split::Train)?, test: load(&source, Split::Test)? };
        let wrong = |reason: String| TrainError::Dataset { name: both.train.name().into(), reason };
        if both.train.is_empty() || both.test.is_empty() {
            return Err(wrong(format!("{} training and {} test images", both.train.len(), both.test.len())));
        }
        if both.train.shape() != both.test.shape() {
            return Err(wrong(format!(
                "training images are {}, test images {}",
                both.train.shape(),
                both.test.shape()
            )));
        }
        Ok(both)
    }

    /// The number of classes of both splits, 0 where images have no labels.
    pub fn classes(&self) -> usize {
        self.train.classes().max(self.test.classes())
    }

    /// Checks that a model of `classes` classes can be trained and evaluated on these images.
    fn check_classes(&self, classes: usize) -> Result<(), TrainError> {
        let wrong = |reason: String| Err(TrainError::Dataset { name: self.train.name().into(), reason });
        if classes > 0 && (self.train.labels().is_none() || self.test.labels().is_none()) {
            return wrong("its images have no labels; train without --class-conditional (model.classes = 0)".into());
        }
        if classes > 0 && self.classes() > classes {
            return wrong(format!("it has {} classes, but model.classes = {classes}", self.classes()));
        }
        Ok(())
    }
}

/// A training in progress.
pub struct Trainer {
    config: Config,
    run: RunDir,
    data: Datasets,
    device: Device,
    /// Always there, but for the moment in which the optimiser owns it and updates its memory in place.
    model: Option<Model>,
    optimizer: Optimizer,
    log: MetricsLog,
    step: u64,
    saved: u64,
    best_bpd: f64,
    /// The shuffled training images of one epoch.
    order: (u64, Vec<usize>),
}

/// Sums since the last line of metrics.
#[derive(Default)]
struct Window {
    steps: u64,
    terms: [f64; 3],
    grad_norm: f64,
    seconds: f64,
}

impl Trainer {
    /// Starts a run in the folder `run`, writing its configuration first.
    ///
    /// `device` is one without autodiff.
    ///
    /// # Errors
    /// See [`TrainError`]; [`TrainError::Exists`] if there is a run already.
    pub fn new(config: Config, run: RunDir, data: Datasets, device: &Device) -> Result<Self, TrainError> {
        config.validate()?;
        if run.config().exists() {
            return Err(TrainError::Exists { path: run.path().into() });
        }
        Self::start(config, run, data, device)
    }

    fn start(config: Config, run: RunDir, data: Datasets, device: &Device) -> Result<Self, TrainError> {
        let vocabulary = data.train.vocabulary();
        config.validate_shape(data.train.shape())?;
        data.check_classes(config.model.classes)?;
        let model = config.init(data.train.shape(), vocabulary, &device.clone().autodiff());
        let optimizer = Optimizer::new(&model, device);
        Self::assemble(config, run, data, device, model, optimizer, 0, f64::INFINITY)
    }

    /// Goes on with the run in the folder `run` from its last checkpoint, or from the beginning where a stop came before
    /// the first one. `config` is the run's own, but for what may change: `train.steps` and `data.dir`; it is written
    /// back.
    ///
    /// # Errors
    /// See [`TrainError`]; [`TrainError::Finished`] if no step is left to do.
    pub fn resume(config: Config, run: RunDir, data: Datasets, device: &Device) -> Result<Self, TrainError> {
        config.validate()?;
        let path = run.last();
        if !path.exists() {
            return Self::start(config, run, data, device);
        }
        let checkpoint = Checkpoint::load(&path)?;
        if checkpoint.step >= config.train.steps && run.evaluation().exists() {
            return Err(TrainError::Finished { path: run.path().into(), step: checkpoint.step });
        }
        if checkpoint.shape != data.train.shape() || checkpoint.vocabulary != data.train.vocabulary() {
            return Err(TrainError::Dataset {
                name: data.train.name().into(),
                reason: format!(
                    "the run was trained on {} images of {} levels, these are {} of {}",
                    checkpoint.shape,
                    checkpoint.vocabulary.levels(),
                    data.train.shape(),
                    data.train.levels()
                ),
            });
        }
        data.check_classes(config.model.classes)?;
        let fresh = config.init(checkpoint.shape, checkpoint.vocabulary, &device.clone().autodiff());
        let model = crate::weights::import(fresh, &checkpoint.weights)
            .map_err(|source| TrainError::Weights { path: path.clone(), source })?;
        let optimizer = Optimizer::import(&model, &checkpoint.optimizer, device).ok_or_else(|| {
            let name = "m., v. and ema. of every parameter".to_string();
            TrainError::Weights { path, source: WeightsError::Missing { name } }
        })?;
        Self::assemble(config, run, data, device, model, optimizer, checkpoint.step, checkpoint.best_bpd)
    }

    #[allow(clippy::too_many_arguments)]
    fn assemble(
        config: Config,
        run: RunDir,
        data: Datasets,
        device: &Device,
        model: Model,
        optimizer: Optimizer,
        step: u64,
        best_bpd: f64,
    ) -> Result<Self, TrainError> {
        let path = run.config();
        write_bytes(&path, config.to_toml().as_bytes()).map_err(|source| TrainError::Io { path, source })?;
        run.remove_litter();
        if step < config.train.steps {
            // An evaluation of an earlier end would pass for one of the new end.
            let _ = std::fs::remove_file(run.evaluation());
        }
        let path = run.metrics();
        let log = MetricsLog::open(&path, step).map_err(|source| TrainError::Io { path, source })?;
        let device = device.clone();
        let order = (u64::MAX, Vec::new());
        let model = Some(model);
        Ok(Self { config, run, data, device, model, optimizer, log, step, saved: step, best_bpd, order })
    }

    /// Steps done.
    pub fn step(&self) -> u64 {
        self.step
    }

    fn model(&self) -> &Model {
        self.model.as_ref().expect("the model is away only inside one line of train_step")
    }

    /// Trains to the last step, evaluating, sampling and saving on the way.
    ///
    /// # Errors
    /// See [`TrainError`]; whatever was saved before stays.
    pub fn run(&mut self, observer: &mut dyn Observer) -> Result<Outcome, TrainError> {
        let config = self.config.clone();
        let every = |n: u64, step: u64| n > 0 && step.is_multiple_of(n);
        let mut window = Window::default();
        if self.step == 0 {
            // There is always a state to go back to.
            self.save()?;
        }
        while self.step < config.train.steps {
            let started = Instant::now();
            self.train_step(&mut window)?;
            window.seconds += started.elapsed().as_secs_f64();
            let step = self.step;
            if every(config.train.log_every, step) || step == config.train.steps {
                self.write_line(&mut window, observer)?;
            }
            // Saving comes first: what follows may take long, and a stop must not lose steps.
            let stop = observer.should_stop();
            if every(config.train.checkpoint_every, step) || step == config.train.steps || stop {
                self.save()?;
            }
            if step == config.train.steps {
                break;
            }
            let due = every(config.train.eval_every, step);
            if due && !stop {
                let subset = self.eval_subset()?;
                let evaluation = self.evaluate(&subset, 1, observer)?;
                self.keep_if_best(&evaluation)?;
            }
            if due || stop {
                self.plot(|run, log, model, _, _| report::write_curve(run, log, model))?;
            }
            if every(config.train.sample_every, step) && !stop {
                self.draw_samples(observer)?;
            }
            if stop {
                return Ok(Outcome::Stopped { step });
            }
        }
        self.draw_samples(observer)?;
        let test = self.data.test.clone();
        let evaluation = self.evaluate(&test, config.eval.repeats, observer)?;
        let path = self.run.evaluation();
        let json = serde_json::to_vec_pretty(&evaluation).unwrap_or_default();
        write_bytes(&path, &json).map_err(|source| TrainError::Io { path, source })?;
        if self.best_bpd.is_infinite() {
            self.keep_if_best(&evaluation)?;
        }
        self.save()?;
        self.plot(report::write_plots)?;
        observer.on_file("plots", &self.run.path().join("plots"));
        Ok(Outcome::Finished(Box::new(evaluation)))
    }

    /// One optimiser step, of as many forward and backward passes as gradients are accumulated over.
    fn train_step(&mut self, window: &mut Window) -> Result<(), TrainError> {
        let config = self.config.clone();
        let (b, passes) = (config.train.batch_size, config.train.accumulate);
        let mut sum = GradientSum::default();
        for pass in 0..passes {
            // Every image that a step sees has its own number, and with it its own random numbers.
            let first = (pass * b) as u64;
            let batch = self.batch(first, b)?;
            let (gradients, terms) = batch_gradients(self.model(), batch, config.schedule.objective)?;
            let means = self.finite(&terms)?;
            sum.merge(gradients);
            for (total, mean) in window.terms.iter_mut().zip(means) {
                *total += mean / passes as f64;
            }
        }
        let norm = sum.norm();
        if !norm.is_finite() {
            return Err(TrainError::Diverged { what: "the gradient", step: self.step + 1, kept: self.saved });
        }
        window.grad_norm += norm;
        window.steps += 1;
        self.step += 1;
        self.model = self.model.take().map(|model| self.optimizer.step(model, sum, &config.train, self.step));
        self.model().schedule.validate()?;
        Ok(())
    }

    /// The images number `first .. first + batch` of the present step, and all that is random about them.
    fn batch(&mut self, first: u64, batch: usize) -> Result<Batch, TrainError> {
        let (seed, step, shape) = (self.config.seed, self.step, self.data.train.shape());
        let device = self.device.clone();
        let streams: Vec<Philox> = (0..batch as u64).map(|i| Philox::new(seed, step << 32 | (first + i))).collect();
        let step_stream = |stream: u64| Philox::new(seed, step << 32 | stream);
        let times =
            draw_times(self.config.train.times, batch, &step_stream(STREAM_TIMES), (first / batch as u64) as u32);
        let dropout_seed = step_stream(STREAM_DROPOUT).next_u64((first / batch as u64) as u32);
        let noise = Noise::draw(&streams, shape, &device);
        let mut bytes = Vec::with_capacity(batch * shape.dims());
        let mut changed = vec![0f32; batch];
        let mut classes = Vec::with_capacity(batch);
        for (i, stream) in streams.iter().enumerate() {
            let index = self.image_index(first + i as u64);
            let image = self.data.train.image(index);
            let known = stream.uniform_f64(4) >= self.config.train.label_dropout;
            classes.push(self.data.train.label(index).filter(|_| known));
            if self.config.data.augment {
                let choices = Augmentation::choices(shape);
                let pick = choices[(stream.uniform_f64(3) * choices.len() as f64) as usize];
                bytes.extend(augment(image, shape, pick)?);
                changed[i] = pick.conditioning();
            } else {
                bytes.extend_from_slice(image);
            }
        }
        let k: Vec<f32> = bytes.into_iter().map(f32::from).collect();
        let k = TensorData::new(k, [batch, shape.channels, shape.height, shape.width]);
        let scalar = self.config.data.augment.then(|| Tensor::from_data(changed.as_slice(), &device));
        let classes = (self.config.model.classes > 0).then_some(classes);
        let conditioning = Conditioning { scalar, classes, ..Default::default() };
        Ok(Batch { k: Tensor::from_data(k, &device), times, noise, conditioning, dropout_seed })
    }

    /// The means of the terms in bits per dimension, or an error if one is not finite.
    fn finite(&self, loss: &LossTerms) -> Result<[f64; 3], TrainError> {
        let dims = self.data.train.shape().dims();
        let mean = |t: &Tensor<1>| {
            let nats = host(t);
            bits_per_dim(nats.iter().sum::<f64>() / nats.len() as f64, dims)
        };
        let means = [&loss.prior, &loss.reconstruction, &loss.diffusion].map(mean);
        for (what, mean) in ["the prior loss", "the reconstruction loss", "the diffusion loss"].iter().zip(means) {
            if !mean.is_finite() {
                return Err(TrainError::Diverged { what, step: self.step + 1, kept: self.saved });
            }
        }
        Ok(means)
    }

    /// The training image that is number `i` of the present step: epochs are shuffled one by one.
    fn image_index(&mut self, i: u64) -> usize {
        let n = self.data.train.len() as u64;
        let per_step = (self.config.train.batch_size * self.config.train.accumulate) as u64;
        let position = self.step * per_step + i;
        let epoch = position / n;
        if self.order.0 != epoch {
            self.order = (epoch, shuffled(n as usize, &Philox::new(self.config.seed ^ SHUFFLE_KEY, epoch)));
        }
        self.order.1[(position % n) as usize]
    }

    fn write_line(&mut self, window: &mut Window, observer: &mut dyn Observer) -> Result<(), TrainError> {
        let steps = window.steps.max(1) as f64;
        let [prior, reconstruction, diffusion] = window.terms.map(|t| t / steps);
        let schedule = self.model().schedule.to_host();
        let t = &self.config.train;
        let line = StepLine {
            step: self.step,
            bpd: prior + reconstruction + diffusion,
            prior,
            reconstruction,
            diffusion,
            gamma_0: schedule.gamma(0.0),
            gamma_1: schedule.gamma(1.0),
            grad_norm: window.grad_norm / steps,
            lr: t.lr_at(self.step),
            images_per_second: steps * (t.batch_size * t.accumulate) as f64 / window.seconds.max(1e-9),
        };
        *window = Window::default();
        self.log.append(&line).map_err(|source| TrainError::Io { path: self.run.metrics(), source })?;
        observer.on_metrics(&line, self.config.train.steps);
        Ok(())
    }

    /// The test images of the evaluations during training: evenly spread over the split.
    fn eval_subset(&self) -> Result<ImageDataset, TrainError> {
        let (n, want) = (self.data.test.len(), self.config.eval.images);
        if want == 0 || want >= n {
            return Ok(self.data.test.clone());
        }
        let indices: Vec<usize> = (0..want).map(|i| i * n / want).collect();
        Ok(self.data.test.select(&indices)?)
    }

    fn evaluate(
        &mut self,
        data: &ImageDataset,
        repeats: usize,
        observer: &mut dyn Observer,
    ) -> Result<Evaluation, TrainError> {
        let options = EvalOptions { repeats, batch_size: self.config.eval.batch_size, seed: self.config.seed };
        let model = self.ema_model()?;
        let evaluation = evaluate(&model, data, &options, &self.device, |done, total| {
            observer.on_progress("evaluating", done, total);
        })?;
        let line = EvalLine::new(self.step, &evaluation);
        self.log.append(&line).map_err(|source| TrainError::Io { path: self.run.metrics(), source })?;
        observer.on_evaluation(&line);
        Ok(evaluation)
    }

    /// Keeps a checkpoint if its evaluation is the best so far. Only evaluations of the same images compare, so the
    /// final one, over all images, takes part only where there was no other.
    fn keep_if_best(&mut self, evaluation: &Evaluation) -> Result<(), TrainError> {
        if evaluation.bpd < self.best_bpd {
            self.best_bpd = evaluation.bpd;
            self.checkpoint().save(&self.run.best())?;
        }
        Ok(())
    }

    fn plot(
        &self,
        write: impl FnOnce(&RunDir, &MetricsLog, &Model, &ImageDataset, &Device) -> io::Result<()>,
    ) -> Result<(), TrainError> {
        write(&self.run, &self.log, &self.ema_model()?, &self.data.test, &self.device)
            .map_err(|source| TrainError::Io { path: self.run.path().join("plots"), source })
    }

    fn draw_samples(&mut self, observer: &mut dyn Observer) -> Result<(), TrainError> {
        let (s, shape) = (self.config.sample.clone(), self.data.train.shape());
        let options = SampleOptions {
            steps: s.steps,
            clip: s.clip,
            decoder: s.decoder,
            guidance: s.guidance,
            seed: self.config.seed,
            batch_size: self.config.eval.batch_size,
        };
        let model = self.ema_model()?;
        // The classes take turns.
        let classes = self.config.model.classes as u64;
        let of_class = |numbers: Range<u64>| match classes {
            0 => Conditioning::default(),
            n => Conditioning::of_classes(numbers.map(|number| Some((number % n) as u32))),
        };
        let progress = |done, total| observer.on_progress("sampling", done, total);
        let numbers = 0..s.count as u64;
        let images = sample_conditioned(&model, shape, numbers, of_class, &options, &self.device, progress)
            .map_err(EvalError::from)?;
        let path = self.run.samples(self.step);
        let columns = (s.count as f64).sqrt().ceil() as usize;
        let scale = (64 / shape.width.max(1)).max(1);
        grid::grid_png(&images, shape, self.data.train.levels(), columns, scale)
            .map_err(io::Error::other)
            .and_then(|png| write_bytes(&path, &png))
            .map_err(|source| TrainError::Io { path: path.clone(), source })?;
        observer.on_file("samples", &path);
        Ok(())
    }

    /// The model with the averaged weights, without autodiff.
    fn ema_model(&self) -> Result<Model, TrainError> {
        let weights = self.optimizer.ema_weights(self.model());
        crate::weights::import(self.model().clone().valid(), &weights)
            .map_err(|source| TrainError::Weights { path: self.run.last(), source })
    }

    fn checkpoint(&self) -> Checkpoint {
        Checkpoint {
            step: self.step,
            shape: self.data.train.shape(),
            vocabulary: self.model().settings().vocabulary,
            best_bpd: self.best_bpd,
            weights: crate::weights::export(self.model()),
            optimizer: self.optimizer.export(self.model()),
        }
    }

    /// Saves the state, if it is one to go on from: if the bound of the next step's images, without dropout, is finite.
    fn save(&mut self) -> Result<(), TrainError> {
        let batch = self.batch(0, self.config.train.batch_size)?;
        let model = self.model().valid();
        self.finite(&model.loss(batch.k, &batch.times, batch.noise, &batch.conditioning, Mode::Eval))?;
        self.checkpoint().save(&self.run.last())?;
        self.saved = self.step;
        Ok(())
    }
}

/// The model of a run with its averaged weights, for evaluation and sampling on `device`, and its checkpoint.
///
/// # Errors
/// See [`TrainError`].
pub fn load_model(config: &Config, path: PathBuf, device: &Device) -> Result<(Model, Checkpoint), TrainError> {
    let checkpoint = Checkpoint::load(&path)?;
    config.validate()?;
    config.validate_shape(checkpoint.shape)?;
    let fresh = config.init(checkpoint.shape, checkpoint.vocabulary, device);
    let model =
        crate::weights::import(fresh, &checkpoint.ema()).map_err(|source| TrainError::Weights { path, source })?;
    Ok((model, checkpoint))
}

/// A shuffle of 0..n (Fisher and Yates) that depends on the stream alone.
fn shuffled(n: usize, rng: &Philox) -> Vec<usize> {
    let mut order: Vec<usize> = (0..n).collect();
    for i in (1..n).rev() {
        // 64 random bits make the bias of the remainder negligible (below n / 2^64).
        order.swap(i, (rng.next_u64(i as u32) % (i as u64 + 1)) as usize);
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shuffle_is_a_permutation_that_differs_by_epoch() {
        let a = shuffled(1000, &Philox::new(1, 0));
        let b = shuffled(1000, &Philox::new(1, 1));
        assert_ne!(a, b);
        assert_eq!(a, shuffled(1000, &Philox::new(1, 0)));
        let mut sorted = a;
        sorted.sort_unstable();
        assert_eq!(sorted, (0..1000).collect::<Vec<_>>());
    }
}
