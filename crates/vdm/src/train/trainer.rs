//! The training loop.

use super::batch::{Batch, Batches};
use super::gradient::is_shape;
use super::outputs::Outputs;
use super::reading::{Reading, StepRead, mean_terms};
use super::{
    Datasets, GradientSum, Observer, Optimizer, Outcome, TrainError, Workers, WorkersError, batch_gradients_on,
};
use crate::LossTerms;
use crate::config::Config;
use crate::data::Split;
use crate::diffusion::times::TimeSampling;
use crate::likelihood::EvalError;
use crate::nn::Mode;
use crate::picture::grid;
use crate::run::{Checkpoint, CheckpointError, Model, RunDir, RunLock, StepLine, Window, require_parameters};
use crate::sample::SampleError;
use crate::schedule::{Schedule, ScheduleObjective};
use crate::weights::{Weights, WeightsError, export, import};
use burn::module::Module;
use burn::tensor::{DType, Device};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Steps that are left unread at most.
const MOST_UNREAD: usize = 100;

/// A training in progress.
pub struct Trainer {
    config: Config,
    data: Datasets,
    batches: Batches,
    /// Always there, except while the optimiser owns it and updates its memory in place.
    model: Option<Model>,
    optimizer: Optimizer,
    outputs: Outputs,
    /// Steps done.
    step: u64,
    /// Steps of the last checkpoint.
    saved: u64,
    /// Sums since the last line of metrics.
    window: Window,
    /// Steps that are done, but not read yet.
    unread: Vec<Reading>,
    /// Whether several steps are read together: on an accelerator, which would wait at each.
    reads_late: bool,
    /// Whether what is due after this step is still to be done.
    pending: bool,
    best_bpd: f64,
    /// Of the data.
    fingerprint: String,
    /// Who else computes gradients.
    workers: Option<Workers>,
    /// Devices that compute gradients beside the first, on which all other work is done.
    others: Vec<Device>,
    _lock: RunLock,
}

/// What a checkpoint says besides weights and data.
struct State {
    step: u64,
    best_bpd: f64,
    pending: bool,
    window: Window,
    /// Of the images that training goes on with.
    fingerprint: String,
}

impl State {
    fn at_the_start(fingerprint: String) -> Self {
        Self { step: 0, best_bpd: f64::INFINITY, pending: false, window: Window::default(), fingerprint }
    }
}

/// Whether something that is done every `n` steps, never for 0, is due after this step.
fn is_due(n: u64, step: u64) -> bool {
    n > 0 && step.is_multiple_of(n)
}

/// Makes `previous` the file that `last` is now, which stays in its place: at no moment there is none.
fn keep(last: &Path, previous: &Path) -> std::io::Result<()> {
    match std::fs::remove_file(previous) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    // Some file systems have no links.
    std::fs::hard_link(last, previous).or_else(|_| std::fs::copy(last, previous).map(|_| ()))
}

/// Whether the device can multiply in the configured precision.
fn check_precision(config: &Config, device: &Device) -> Result<(), TrainError> {
    let precision = config.train.precision;
    if precision.is_known_to(device) { Ok(()) } else { Err(TrainError::Precision { precision }) }
}

/// The newest whole checkpoint of a run and its file, if the run has checkpoints: the last, or the one before if the last
/// is damaged or missing.
fn newest(run: &RunDir) -> Result<Option<(PathBuf, Checkpoint)>, TrainError> {
    let (last, previous) = (run.last(), run.previous());
    if last.exists() {
        match Checkpoint::load(&last) {
            Err(error @ CheckpointError::Damaged { .. }) if previous.exists() => {
                tracing::warn!("{error}; going on from {}", previous.display());
            }
            loaded => return Ok(Some((last, loaded?))),
        }
    }
    if !previous.exists() {
        return Ok(None);
    }
    let checkpoint = Checkpoint::load(&previous)?;
    Ok(Some((previous, checkpoint)))
}

impl Trainer {
    /// Starts a run in the folder `run`, writing its configuration first.
    ///
    /// `device` is one without autodiff.
    ///
    /// # Errors
    /// See [`TrainError`]; [`TrainError::Exists`] if there is a run already.
    pub fn new(config: Config, run: RunDir, data: Datasets, device: &Device) -> Result<Self, TrainError> {
        let lock = Self::claim(&config, &run, &data, device)?;
        Self::start(config, run, data, device, lock)
    }

    /// Takes the folder of a new run, if the configuration goes with the images and no run is there.
    fn claim(config: &Config, run: &RunDir, data: &Datasets, device: &Device) -> Result<RunLock, TrainError> {
        config.validate()?;
        check_precision(config, device)?;
        config.validate_shape(data.train.shape())?;
        data.check_classes(config.model.network.classes())?;
        // Samples are drawn at the end at the latest.
        grid::check_square(config.sample.count, data.train.shape()).map_err(TrainError::Samples)?;
        let lock = RunLock::take(run)?;
        if run.config().exists() {
            return Err(TrainError::Exists { path: run.path().into() });
        }
        Ok(lock)
    }

    /// Starts a run as [`new`](Self::new) does, but from the weights of a model that is trained already, by parameter: to train it further,
    /// on other images or for another loss.
    ///
    /// # Errors
    /// As of [`new`](Self::new); [`TrainError::Weights`] if the weights are not those of the configuration's network.
    pub fn from_weights(
        config: Config,
        run: RunDir,
        data: Datasets,
        weights: &Weights,
        device: &Device,
    ) -> Result<Self, TrainError> {
        // Before the folder is taken, so that weights of another network leave none behind.
        config.validate()?;
        let (shape, vocabulary, path) = (data.train.shape(), data.train.vocabulary(), run.path());
        require_parameters(&config, shape, weights, path)?;
        let lock = Self::claim(&config, &run, &data, device)?;
        let fresh = config.init(shape, vocabulary, &device.clone().autodiff());
        let model = import(fresh, weights).map_err(|source| TrainError::Weights { path: path.into(), source })?;
        let optimizer = Optimizer::new(&model, device);
        let state = State::at_the_start(data.fingerprint());
        let checkpoint = Checkpoint {
            step: state.step,
            shape,
            vocabulary,
            best_bpd: state.best_bpd,
            pending: state.pending,
            window: state.window,
            data: Some(state.fingerprint.clone()),
            weights: export(&model),
            optimizer: optimizer.export(&model),
        };
        // Before the configuration, without which a folder is no run: a stop in between leaves none that would go on from
        // other weights.
        checkpoint.save(&run.last())?;
        Self::assemble(config, run, data, device, (model, optimizer), state, lock)
    }

    fn start(config: Config, run: RunDir, data: Datasets, device: &Device, lock: RunLock) -> Result<Self, TrainError> {
        config.validate_shape(data.train.shape())?;
        data.check_classes(config.model.network.classes())?;
        let model = config.init(data.train.shape(), data.train.vocabulary(), &device.clone().autodiff());
        let optimizer = Optimizer::new(&model, device);
        let state = State::at_the_start(data.fingerprint());
        Self::assemble(config, run, data, device, (model, optimizer), state, lock)
    }

    /// Goes on with the run in the folder `run` from its last checkpoint, or from the beginning where a stop came before
    /// the first one; if the last checkpoint is damaged, from the one before, with a warning. `config` is the run's own,
    /// except for what may change: `train.steps`, `train.tensorboard`, `data.dir` and `data.cache`; it is written back. `other_data` allows other images
    /// than the run was trained on.
    ///
    /// # Errors
    /// See [`TrainError`]; [`TrainError::Finished`] if no step is left to do.
    pub fn resume(
        config: Config,
        run: RunDir,
        data: Datasets,
        other_data: bool,
        device: &Device,
    ) -> Result<Self, TrainError> {
        config.validate()?;
        check_precision(&config, device)?;
        let lock = RunLock::take(&run)?;
        let Some((path, checkpoint)) = newest(&run)? else {
            return Self::start(config, run, data, device, lock);
        };
        if checkpoint.step >= config.train.steps && !checkpoint.pending && run.evaluation().exists() {
            return Err(TrainError::Finished { path: run.path().into(), step: checkpoint.step });
        }
        let name = || data.train.name().to_string();
        if checkpoint.shape != data.train.shape() || checkpoint.vocabulary != data.train.vocabulary() {
            return Err(TrainError::Dataset {
                name: name(),
                reason: format!(
                    "the run was trained on {} images of {} levels, these are {} of {}",
                    checkpoint.shape,
                    checkpoint.vocabulary.levels(),
                    data.train.shape(),
                    data.train.levels()
                ),
            });
        }
        let fingerprint = data.fingerprint();
        match &checkpoint.data {
            None => return Err(TrainError::Old { path }),
            Some(own) if *own != fingerprint && !other_data => {
                let reason = format!("fingerprints {own} and {fingerprint}");
                return Err(TrainError::OtherData { name: name(), reason });
            }
            Some(_) => {}
        }
        data.check_classes(config.model.network.classes())?;
        grid::check_square(config.sample.count, checkpoint.shape).map_err(TrainError::Samples)?;
        require_parameters(&config, checkpoint.shape, &checkpoint.weights, &path)?;
        let fresh = config.init(checkpoint.shape, checkpoint.vocabulary, &device.clone().autodiff());
        let model =
            import(fresh, &checkpoint.weights).map_err(|source| TrainError::Weights { path: path.clone(), source })?;
        let optimizer = Optimizer::import(&model, &checkpoint.optimizer, device).ok_or_else(|| {
            let name = "m., v. and ema. of every parameter".to_string();
            TrainError::Weights { path, source: WeightsError::Missing { name } }
        })?;
        let Checkpoint { step, best_bpd, pending, window, .. } = checkpoint;
        let state = State { step, best_bpd, pending, window, fingerprint };
        Self::assemble(config, run, data, device, (model, optimizer), state, lock)
    }

    fn assemble(
        config: Config,
        run: RunDir,
        data: Datasets,
        device: &Device,
        (model, optimizer): (Model, Optimizer),
        State { step, best_bpd, pending, window, fingerprint }: State,
        lock: RunLock,
    ) -> Result<Self, TrainError> {
        let outputs = Outputs::open(&config, run, (step, pending), device)?;
        Ok(Self {
            batches: Batches::new(&config, device),
            fingerprint,
            config,
            data,
            model: Some(model),
            optimizer,
            outputs,
            step,
            saved: step,
            window,
            unread: Vec::new(),
            reads_late: !vdm_kernels::is_fused(device, DType::F32),
            pending,
            best_bpd,
            workers: None,
            others: Vec::new(),
            _lock: lock,
        })
    }

    /// The same training with workers that were told the same configuration; nothing changes but the time that it takes.
    pub fn with_workers(self, workers: Workers) -> Self {
        Self { workers: Some(workers), ..self }
    }

    /// The same training on more devices: `others`, without autodiff, compute shares of each batch. With workers they are idle.
    ///
    /// # Errors
    /// [`TrainError::Precision`] if one of them does not compute in the precision of the training.
    pub fn with_devices(self, others: Vec<Device>) -> Result<Self, TrainError> {
        others.iter().try_for_each(|device| check_precision(&self.config, device))?;
        Ok(Self { others, ..self })
    }

    /// The same training, whose numbers are read back from the device in each step (`false`), or those of several steps together
    /// (`true`, as on an accelerator). Results are the same; only a step that diverged, or a schedule whose endpoints crossed, is
    /// found later.
    pub fn reading_steps_together(self, together: bool) -> Self {
        Self { reads_late: together, ..self }
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
        match self.train_to_the_end(observer) {
            // The checkpoint of this step says that the evaluation or the samples are still to be made.
            Err(TrainError::Eval(EvalError::Stopped(_)) | TrainError::Sample(SampleError::Stopped(_))) => {
                Ok(Outcome::Stopped { step: self.step })
            }
            ended => ended,
        }
    }

    fn train_to_the_end(&mut self, observer: &mut dyn Observer) -> Result<Outcome, TrainError> {
        let train = self.config.train.clone();
        if self.step == 0 {
            // There is always a state to go back to.
            self.save()?;
        }
        if self.pending && self.step < train.steps {
            self.do_what_is_due(observer)?;
        }
        while self.step < train.steps {
            let started = Instant::now();
            self.train_step()?;
            let step = self.step;
            let logs = is_due(train.log_every, step) || step == train.steps;
            if logs {
                self.read_steps()?;
            }
            self.window.seconds += started.elapsed().as_secs_f64();
            if logs {
                let line = self.line();
                self.window = Window::default();
                self.outputs.step(&line, observer)?;
            }
            let is_last = step == train.steps;
            self.pending = is_last || is_due(train.eval_every, step) || is_due(train.sample_every, step);
            // Saving comes first: what is due may take long, and a stop must not lose steps.
            let stop = observer.should_stop();
            if self.pending || is_due(train.checkpoint_every, step) || stop {
                self.save()?;
            }
            if stop && !is_last {
                self.outputs.plot_curve(&self.ema_model()?)?;
                return Ok(Outcome::Stopped { step });
            }
            if self.pending && !is_last {
                self.do_what_is_due(observer)?;
            }
        }
        self.finish(observer)
    }

    /// The evaluation and the samples that are due after this step, and the checkpoint that says that they are there.
    fn do_what_is_due(&mut self, observer: &mut dyn Observer) -> Result<(), TrainError> {
        let (train, averaged) = (self.config.train.clone(), self.ema_model()?);
        if is_due(train.eval_every, self.step) {
            self.validate(&averaged, observer)?;
            self.outputs.plot_curve(&averaged)?;
        }
        if is_due(train.sample_every, self.step) {
            self.outputs.draw_samples(&averaged, self.step, observer)?;
        }
        self.pending = false;
        self.save()
    }

    /// What is due after the last step: the last validation, and the only look at the test split.
    fn finish(&mut self, observer: &mut dyn Observer) -> Result<Outcome, TrainError> {
        let averaged = self.ema_model()?;
        self.outputs.draw_samples(&averaged, self.step, observer)?;
        self.validate(&averaged, observer)?;
        let (test, passes) = ((Split::Test, &self.data.test), self.config.eval.repeats);
        let evaluation = self.outputs.evaluate(&averaged, self.step, test, passes, observer)?;
        self.outputs.write_evaluation(&evaluation)?;
        self.outputs.plot_all(&averaged, &self.data, observer)?;
        self.pending = false;
        self.save()?;
        Ok(Outcome::Finished(Box::new(evaluation)))
    }

    /// Evaluates on validation images, and keeps a checkpoint if this is the best so far.
    fn validate(&mut self, averaged: &Model, observer: &mut dyn Observer) -> Result<(), TrainError> {
        let subset = self.outputs.eval_subset(&self.data.valid)?;
        let evaluation = self.outputs.evaluate(averaged, self.step, (Split::Valid, &subset), 1, observer)?;
        self.outputs.loss_over_time(averaged, self.step, &subset)?;
        if evaluation.bpd < self.best_bpd {
            self.best_bpd = evaluation.bpd;
            self.checkpoint().save(&self.outputs.run.best())?;
        }
        Ok(())
    }

    /// The batch of pass `pass` of the next step.
    fn batch(&mut self, pass: usize) -> Result<Batch, TrainError> {
        let ends = match self.config.times() {
            TimeSampling::Importance => Some(self.ends()?),
            TimeSampling::LowDiscrepancy | TimeSampling::Independent | TimeSampling::Auto => None,
        };
        self.batches.batch(&self.data.train, self.step, pass, ends)
    }

    /// The schedule's gamma_0 and gamma_1 of now, which an accelerator waits for.
    fn ends(&mut self) -> Result<(f64, f64), TrainError> {
        let schedule = self.model().schedule.to_host();
        let ends = (schedule.gamma(0.0), schedule.gamma(1.0));
        if ends.0.is_finite() && ends.1.is_finite() {
            return Ok(ends);
        }
        // A step that is not read yet says more.
        self.read_steps()?;
        Err(TrainError::Diverged { what: "the schedule", step: self.step, kept: self.saved })
    }

    /// One optimiser step, of as many forward and backward passes as gradients are accumulated over.
    fn train_step(&mut self) -> Result<(), TrainError> {
        let config = self.config.clone();
        let mut sum = GradientSum::default();
        let mut passes = Vec::new();
        for pass in 0..config.train.accumulate {
            let batch = self.batch(pass)?;
            let (gradients, terms) = self.gradients(batch)?;
            sum.merge(gradients);
            passes.push(terms);
        }
        // The shape's gradient may be of another objective, in another unit: it has a norm of its own.
        let two_objectives = config.schedule.objective == ScheduleObjective::Variance;
        let norms = sum.norms(|name| !(two_objectives && is_shape(name)));
        self.unread.push(Reading { step: self.step + 1, passes, norms });
        if !self.reads_late {
            self.read_steps()?;
        }
        let mut recipe = config.train.clone();
        if two_objectives && recipe.grad_clip > 0.0 {
            sum.clip(recipe.grad_clip, config.schedule.objective);
            recipe.grad_clip = 0.0;
        }
        self.step += 1;
        self.model = self.model.take().map(|model| self.optimizer.step(model, sum, &recipe, self.step));
        if !self.reads_late {
            self.model().schedule.validate()?;
        } else if self.unread.len() == MOST_UNREAD {
            self.read_steps()?;
        }
        Ok(())
    }

    /// Reads what the steps since the last time left on the device, and adds it to the sums.
    fn read_steps(&mut self) -> Result<(), TrainError> {
        let dims = self.data.train.shape().dims();
        let unread = std::mem::take(&mut self.unread);
        let validates = self.reads_late && !unread.is_empty();
        for reading in unread {
            let (step, kept) = (reading.step, self.saved);
            let StepRead { terms, grad_norm } =
                reading.read(dims).map_err(|what| TrainError::Diverged { what, step, kept })?;
            for (total, mean) in self.window.terms.iter_mut().zip(terms) {
                *total += mean;
            }
            self.window.grad_norm += grad_norm;
            self.window.steps += 1;
        }
        if validates {
            self.model().schedule.validate()?;
        }
        Ok(())
    }

    /// The gradient of a batch. Where a worker is lost, the state before this step is saved.
    fn gradients(&mut self, batch: Batch) -> Result<(GradientSum, LossTerms), TrainError> {
        let objective = self.config.schedule.objective;
        let model = self.model.as_ref().expect("the model is away only inside one line of train_step");
        let found = match &mut self.workers {
            Some(workers) => workers.batch_gradients(model, batch, objective),
            None => batch_gradients_on(model, batch, objective, &self.others).map_err(WorkersError::Objective),
        };
        match found {
            Ok(found) => Ok(found),
            Err(WorkersError::Objective(error)) => {
                // A step that is not read yet may say more.
                self.read_steps()?;
                Err(error.into())
            }
            Err(WorkersError::Worker(source)) => {
                self.save()?;
                Err(TrainError::Worker { source, kept: self.saved })
            }
        }
    }

    /// The line of metrics about the steps since the last one.
    fn line(&self) -> StepLine {
        let window = &self.window;
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
            pending: self.pending,
            window: self.window,
            data: Some(self.fingerprint.clone()),
            weights: export(self.model()),
            optimizer: self.optimizer.export(self.model()),
        }
    }

    /// Saves the state, if it is one to go on from: if the bound of the next step's images, without dropout, is finite.
    fn save(&mut self) -> Result<(), TrainError> {
        // An accelerator may still compute the steps.
        let started = Instant::now();
        self.read_steps()?;
        self.window.seconds += started.elapsed().as_secs_f64();
        let batch = self.batch(0)?;
        let model = self.model().valid();
        let loss = model.loss(batch.k, &batch.times, batch.noise, &batch.conditioning, Mode::Eval);
        let (step, kept) = (self.step + 1, self.saved);
        mean_terms(&loss, self.data.train.shape().dims()).map_err(|what| TrainError::Diverged { what, step, kept })?;
        self.outputs.sync()?;
        let (last, previous) = (self.outputs.run.last(), self.outputs.run.previous());
        if last.exists() {
            keep(&last, &previous).map_err(|source| TrainError::Io { path: previous, source })?;
        }
        self.checkpoint().save(&last)?;
        self.saved = self.step;
        Ok(())
    }
}
