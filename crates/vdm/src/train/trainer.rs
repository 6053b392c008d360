//! The training loop.

use super::batch::Batches;
use super::outputs::Outputs;
use super::{Datasets, GradientSum, Observer, Optimizer, Outcome, TrainError, batch_gradients};
use crate::config::Config;
use crate::likelihood::Evaluation;
use crate::math::host;
use crate::nn::Mode;
use crate::run::{Checkpoint, Model, RunDir, StepLine};
use crate::schedule::Schedule;
use crate::weights::{WeightsError, export, import};
use crate::{LossTerms, bits_per_dim};
use burn::module::Module;
use burn::tensor::{Device, Tensor};
use std::time::Instant;

/// A training in progress.
pub struct Trainer {
    config: Config,
    data: Datasets,
    batches: Batches,
    /// Always there, except while the optimiser owns it and updates its memory in place.
    model: Option<Model>,
    optimizer: Optimizer,
    outputs: Outputs,
    step: u64,
    saved: u64,
    best_bpd: f64,
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
        data.check_classes(config.model.network.classes())?;
        let model = config.init(data.train.shape(), vocabulary, &device.clone().autodiff());
        let optimizer = Optimizer::new(&model, device);
        Self::assemble(config, run, data, device, model, optimizer, (0, f64::INFINITY))
    }

    /// Goes on with the run in the folder `run` from its last checkpoint, or from the beginning where a stop came before
    /// the first one. `config` is the run's own, except for what may change: `train.steps` and `data.dir`; it is written
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
        data.check_classes(config.model.network.classes())?;
        let fresh = config.init(checkpoint.shape, checkpoint.vocabulary, &device.clone().autodiff());
        let model =
            import(fresh, &checkpoint.weights).map_err(|source| TrainError::Weights { path: path.clone(), source })?;
        let optimizer = Optimizer::import(&model, &checkpoint.optimizer, device).ok_or_else(|| {
            let name = "m., v. and ema. of every parameter".to_string();
            TrainError::Weights { path, source: WeightsError::Missing { name } }
        })?;
        Self::assemble(config, run, data, device, model, optimizer, (checkpoint.step, checkpoint.best_bpd))
    }

    fn assemble(
        config: Config,
        run: RunDir,
        data: Datasets,
        device: &Device,
        model: Model,
        optimizer: Optimizer,
        (step, best_bpd): (u64, f64),
    ) -> Result<Self, TrainError> {
        let outputs = Outputs::open(&config, run, step, device)?;
        let batches = Batches::new(&config, device);
        Ok(Self { config, data, batches, model: Some(model), optimizer, outputs, step, saved: step, best_bpd })
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
    pub fn train(&mut self, observer: &mut dyn Observer) -> Result<Outcome, TrainError> {
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
                let line = self.line(&window);
                window = Window::default();
                self.outputs.step(&line, observer)?;
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
                let subset = self.outputs.eval_subset(&self.data.test)?;
                let evaluation = self.outputs.evaluate(&self.ema_model()?, step, &subset, 1, observer)?;
                self.keep_if_best(&evaluation)?;
            }
            if due || stop {
                self.outputs.plot_curve(&self.ema_model()?)?;
            }
            if every(config.train.sample_every, step) && !stop {
                self.outputs.draw_samples(&self.ema_model()?, step, observer)?;
            }
            if stop {
                return Ok(Outcome::Stopped { step });
            }
        }
        let averaged = self.ema_model()?;
        self.outputs.draw_samples(&averaged, self.step, observer)?;
        let (test, passes) = (&self.data.test, config.eval.repeats);
        let evaluation = self.outputs.evaluate(&averaged, self.step, test, passes, observer)?;
        self.outputs.write_evaluation(&evaluation)?;
        if self.best_bpd.is_infinite() {
            self.keep_if_best(&evaluation)?;
        }
        self.save()?;
        self.outputs.plot_all(&averaged, &self.data, observer)?;
        Ok(Outcome::Finished(Box::new(evaluation)))
    }

    /// One optimiser step, of as many forward and backward passes as gradients are accumulated over.
    fn train_step(&mut self, window: &mut Window) -> Result<(), TrainError> {
        let config = self.config.clone();
        let passes = config.train.accumulate;
        let mut sum = GradientSum::default();
        for pass in 0..passes {
            let batch = self.batches.batch(&self.data.train, self.step, pass)?;
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

    /// The line of metrics about the steps of `window`.
    fn line(&self, window: &Window) -> StepLine {
        let steps = window.steps.max(1) as f64;
        let [prior, reconstruction, diffusion] = window.terms.map(|t| t / steps);
        let schedule = self.model().schedule.to_host();
        let t = &self.config.train;
        StepLine {
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
        }
    }

    /// Keeps a checkpoint if its evaluation is the best so far. Only evaluations of the same images compare, so the
    /// final one, over all images, takes part only where there was no other.
    fn keep_if_best(&mut self, evaluation: &Evaluation) -> Result<(), TrainError> {
        if evaluation.bpd < self.best_bpd {
            self.best_bpd = evaluation.bpd;
            self.checkpoint().save(&self.outputs.run.best())?;
        }
        Ok(())
    }

    /// The model with the averaged weights, without autodiff.
    fn ema_model(&self) -> Result<Model, TrainError> {
        let weights = self.optimizer.ema_weights(self.model());
        import(self.model().clone().valid(), &weights)
            .map_err(|source| TrainError::Weights { path: self.outputs.run.last(), source })
    }

    fn checkpoint(&self) -> Checkpoint {
        Checkpoint {
            step: self.step,
            shape: self.data.train.shape(),
            vocabulary: self.model().settings().vocabulary,
            best_bpd: self.best_bpd,
            weights: export(self.model()),
            optimizer: self.optimizer.export(self.model()),
        }
    }

    /// Saves the state, if it is one to go on from: if the bound of the next step's images, without dropout, is finite.
    fn save(&mut self) -> Result<(), TrainError> {
        let batch = self.batches.batch(&self.data.train, self.step, 0)?;
        let model = self.model().valid();
        self.finite(&model.loss(batch.k, &batch.times, batch.noise, &batch.conditioning, Mode::Eval))?;
        self.checkpoint().save(&self.outputs.run.last())?;
        self.saved = self.step;
        Ok(())
    }
}
