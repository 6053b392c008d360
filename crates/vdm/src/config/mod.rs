//! The configuration of a run: presets in the library, a TOML file over them, single keys over that.
//!
//! Every key always has a value, so that `config.toml` in a run says everything about it. Three sections are tables of
//! their kind: `[data]` has the keys of its `source`, `[model]` and `[schedule]` those of their `kind`. Where a layer
//! changes the kind, keys that both kinds have keep their values.

mod layers;
mod old;
mod presets;

pub use layers::{ConfigError, resolve, resolve_run};
pub use presets::{PRESETS, Preset, preset};

use crate::data::{DataSource, Source};
use crate::diffusion::times::TimeSampling;
use crate::diffusion::{
    DiffusionSettings, MAX_TIMESTEPS, Prediction, TimeNormalization, VariationalDiffusion, Vocabulary,
};
use crate::nn::{AnyNetwork, AnyNetworkConfig, Precision};
use crate::sample::{DecoderRule, SamplerKind};
use crate::schedule::{ScheduleConfig, ScheduleObjective};
use crate::shape::ImageShape;
use burn::tensor::Device;
use serde::{Deserialize, Serialize};

/// Most images of a grid of samples.
pub const MAX_GRID: usize = 4096;
/// Most steps of a training: each has random streams of its own.
pub const MAX_STEPS: u64 = 1 << 32;

/// The version of the configuration's keys. Version 1 had no key `version`; [`resolve_run`] reads it.
pub const VERSION: u32 = 2;

/// Everything about a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The version of the keys: [`VERSION`].
    pub version: u32,
    /// Seed of the initial weights, the data order, times, noises, dropout and augmentation.
    pub seed: u64,
    /// The images.
    pub data: DataConfig,
    /// The network.
    pub model: ModelConfig,
    /// The noise schedule.
    pub schedule: ScheduleSection,
    /// Training.
    pub train: TrainConfig,
    /// Evaluation.
    pub eval: EvalConfig,
    /// Samples drawn during and after training.
    pub sample: SampleConfig,
}

/// The images.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DataConfig {
    /// Where they come from: the key `source`, and the keys of that source.
    #[serde(flatten)]
    pub source: DataSource,
    /// Flip and rotate training images at random; the conditioning scalar says whether an image was changed.
    #[serde(default)]
    pub augment: bool,
}

/// The network, and how it is asked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelConfig {
    /// The network: the key `kind`, and the keys of that network.
    #[serde(flatten)]
    pub network: AnyNetworkConfig,
    /// What the network's time is normalised by: `configured` or `current` endpoints.
    #[serde(default)]
    pub time_normalization: TimeNormalization,
    /// What the network's output means: `eps` (the noise), `v` (alpha eps - sigma x) or `x` (the image). The bound is the same
    /// for all.
    #[serde(default)]
    pub prediction: Prediction,
}

/// The noise schedule, and what it is trained for.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ScheduleSection {
    /// The schedule: the key `kind`, and the keys of that schedule.
    #[serde(flatten)]
    pub schedule: ScheduleConfig,
    /// What the schedule's parameters are trained for: `bound` or `variance`.
    #[serde(default)]
    pub objective: ScheduleObjective,
}

/// Training.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainConfig {
    /// Optimiser steps in all.
    pub steps: u64,
    /// Images of one forward and backward pass.
    pub batch_size: usize,
    /// Passes whose gradients are averaged for one step.
    pub accumulate: usize,
    /// Steps T of the bound that is trained; 0 for continuous time.
    pub timesteps: usize,
    /// How the times of a batch are drawn.
    pub times: TimeSampling,
    /// Learning rate after warm-up.
    pub lr: f64,
    /// Steps over which the learning rate rises from 0, linearly.
    pub warmup: u64,
    /// What the learning rate does after warm-up: `constant`, or down to 0 at the last step, `linear` or `cosine`.
    #[serde(default)]
    pub lr_decay: LrDecay,
    /// AdamW's decay of the gradient's mean.
    pub beta1: f64,
    /// AdamW's decay of the gradient's square.
    pub beta2: f64,
    /// AdamW's epsilon.
    pub adam_eps: f64,
    /// Decoupled weight decay, on weights only: not on biases, normalisations, schedule.
    pub weight_decay: f64,
    /// Probability with which a training image's class is left out, in [0, 1]: without it, the model knows nothing of
    /// images without a class, and guidance does not work. Only where `model.classes` is above 0.
    pub label_dropout: f64,
    /// Largest norm of the gradient, in bits per dimension; 0 for no clipping.
    pub grad_clip: f64,
    /// Decay of the average of the weights; min(this, (1 + step)/(10 + step)) is used.
    pub ema_decay: f64,
    /// In place of it, where above 0: the width of an average whose weights are a power of the step (Karras et al. 2023, arXiv
    /// 2312.02696), as a share of the steps so far, below 0.28. Its window grows with the training.
    #[serde(default)]
    pub ema_width: f64,
    /// Precision of the network's products: `f32`, or `bf16` for a card that has it.
    #[serde(default)]
    pub precision: Precision,
    /// Steps between lines of metrics.
    pub log_every: u64,
    /// Steps between evaluations on validation images; 0 for none before the end.
    pub eval_every: u64,
    /// Steps between grids of samples; 0 for none before the end.
    pub sample_every: u64,
    /// Steps between checkpoints.
    pub checkpoint_every: u64,
    /// Write the metrics and samples for TensorBoard too.
    #[serde(default)]
    pub tensorboard: bool,
}

impl TrainConfig {
    /// The learning rate of step `step`, which counts from 1: it rises linearly over the warm-up, and then does what
    /// `lr_decay` says. A run that is resumed for more steps than it was begun for goes on with the rate of the longer run.
    pub fn lr_at(&self, step: u64) -> f64 {
        let rising = (step as f64 / self.warmup.max(1) as f64).min(1.0);
        let after = step.saturating_sub(self.warmup) as f64 / self.steps.saturating_sub(self.warmup).max(1) as f64;
        let left = 1.0 - after.min(1.0);
        let falling = match self.lr_decay {
            LrDecay::Constant => 1.0,
            LrDecay::Linear => left,
            LrDecay::Cosine => 0.5 * (1.0 - libm::cos(std::f64::consts::PI * left)),
        };
        self.lr * rising * falling
    }

    /// The decay of the average at step `step`, which counts from 1.
    pub fn ema_at(&self, step: u64) -> f64 {
        let n = step as f64;
        if self.ema_width > 0.0 {
            return libm::pow(1.0 - 1.0 / n, 1.0 + power_of_width(self.ema_width));
        }
        self.ema_decay.min((1.0 + n) / (10.0 + n))
    }
}

/// The widest average of [`TrainConfig::ema_width`]: that of equal weights, of power 0.
const MOST_WIDTH: f64 = 0.28;

/// The power g of an average with weights t^g whose standard deviation is `width` of the whole: the root of
/// sqrt(g + 1) / ((g + 2) sqrt(g + 3)) = width (Karras et al. 2023, equation 126).
fn power_of_width(width: f64) -> f64 {
    let of = |g: f64| ((g + 1.0) / (g + 3.0)).sqrt() / (g + 2.0);
    let (mut low, mut high) = (0.0, 1e9);
    // It falls with g; 200 halvings are more than the digits of a double.
    for _ in 0..200 {
        let middle = 0.5 * (low + high);
        if of(middle) > width { low = middle } else { high = middle }
    }
    0.5 * (low + high)
}

/// What the learning rate does after warm-up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LrDecay {
    /// It stays.
    #[default]
    Constant,
    /// It falls to 0 in a straight line.
    Linear,
    /// It falls to 0 as half a period of a cosine.
    Cosine,
}

/// Evaluation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EvalConfig {
    /// Validation images of the evaluations during training; 0 for all. The final evaluation is of the whole test split.
    pub images: usize,
    /// Passes of the final evaluation.
    pub repeats: usize,
    /// Images at a time.
    pub batch_size: usize,
}

/// Samples.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SampleConfig {
    /// The sampler.
    pub sampler: SamplerKind,
    /// Images of a grid.
    pub count: usize,
    /// Steps T of sampling.
    pub steps: usize,
    /// Keep x_hat in [-1, 1].
    pub clip: bool,
    /// Weight of classifier-free guidance, for a model with classes; 1 for none.
    pub guidance: f64,
    /// How x is read off z_0: `argmax` or `draw`.
    pub decoder: DecoderRule,
}

impl Config {
    /// Says what is impossible about the values, if anything: the key, its value, and the range.
    ///
    /// # Errors
    /// [`ConfigError::Version`], [`ConfigError::Value`] or [`ConfigError::Section`].
    pub fn validate(&self) -> Result<(), ConfigError> {
        let check = |key: &str, ok: bool, found: String, expected: &str| {
            if ok { Ok(()) } else { Err(ConfigError::Value { key: key.into(), found, expected: expected.into() }) }
        };
        if self.version != VERSION {
            return Err(ConfigError::Version { found: self.version.to_string() });
        }
        let t = &self.train;
        let positive = |key: &str, value: u64| check(key, value > 0, value.to_string(), "at least 1");
        let size = |key: &str, value: usize, max: usize| {
            check(key, (1..=max).contains(&value), value.to_string(), &format!("in 1..={max}"))
        };
        let unit = |key: &str, v: f64| check(key, (0.0..1.0).contains(&v), v.to_string(), "in [0, 1)");
        let above = |key: &str, v: f64| check(key, v > 0.0 && v.is_finite(), v.to_string(), "above 0, finite");
        let not_negative =
            |key: &str, v: f64| check(key, v >= 0.0 && v.is_finite(), v.to_string(), "at least 0, finite");
        check("train.steps", (1..=MAX_STEPS).contains(&t.steps), t.steps.to_string(), "in 1..=4294967296")?;
        size("train.batch_size", t.batch_size, 1 << 16)?;
        size("train.accumulate", t.accumulate, 1 << 14)?;
        let steps = t.timesteps;
        check(
            "train.timesteps",
            steps <= MAX_TIMESTEPS,
            steps.to_string(),
            "at most 65536: beyond, f32 loses gamma's steps",
        )?;
        positive("train.log_every", t.log_every)?;
        positive("train.checkpoint_every", t.checkpoint_every)?;
        size("eval.repeats", self.eval.repeats, 1 << 20)?;
        size("eval.batch_size", self.eval.batch_size, 1 << 16)?;
        size("sample.count", self.sample.count, MAX_GRID)?;
        size("sample.steps", self.sample.steps, 1 << 20)?;
        not_negative("sample.guidance", self.sample.guidance)?;
        if self.model.network.classes() > 0 && t.label_dropout == 0.0 {
            let guidance = self.sample.guidance;
            let reason =
                "1 where train.label_dropout = 0: without it, the network never sees an image without its class";
            check("sample.guidance", guidance == 1.0, guidance.to_string(), reason)?;
        }
        above("train.lr", t.lr)?;
        above("train.adam_eps", t.adam_eps)?;
        not_negative("train.weight_decay", t.weight_decay)?;
        not_negative("train.grad_clip", t.grad_clip)?;
        unit("train.beta1", t.beta1)?;
        unit("train.beta2", t.beta2)?;
        unit("train.ema_decay", t.ema_decay)?;
        let width = t.ema_width;
        check("train.ema_width", (0.0..=MOST_WIDTH).contains(&width), width.to_string(), "in [0, 0.28]")?;
        let p = t.label_dropout;
        check("train.label_dropout", (0.0..=1.0).contains(&p), p.to_string(), "in [0, 1]")?;
        let section = |section: &'static str, found: Result<(), String>| {
            found.map_err(|reason| ConfigError::Section { section, reason })
        };
        section("data", self.data.source.check().map_err(|e| e.to_string()))?;
        section("model", self.model.network.validate())?;
        section("schedule", self.schedule.schedule.validate())?;
        section("schedule", self.check_objective())?;
        section("train", self.check_times())
    }

    /// How times are drawn: [`TimeSampling::Auto`] is one of the others.
    pub fn times(&self) -> TimeSampling {
        match self.train.times {
            TimeSampling::Auto if self.is_linear() && self.train.timesteps == 0 => TimeSampling::Importance,
            TimeSampling::Auto => TimeSampling::LowDiscrepancy,
            times => times,
        }
    }

    /// Whether the schedule is linear and stays so.
    fn is_linear(&self) -> bool {
        matches!(self.schedule.schedule, ScheduleConfig::FixedLinear(_) | ScheduleConfig::LearnedLinear(_))
            && self.schedule.objective == ScheduleObjective::Bound
    }

    /// Says why times cannot be drawn by importance, if they are to be.
    fn check_times(&self) -> Result<(), String> {
        if self.train.times != TimeSampling::Importance {
            return Ok(());
        }
        if !self.is_linear() {
            let reason = "times = \"importance\" needs schedule.kind = \"fixed-linear\" or \"learned-linear\" and \
                          schedule.objective = \"bound\": a schedule that is trained for less variance draws its times itself";
            return Err(reason.into());
        }
        if self.train.timesteps > 0 {
            return Err("times = \"importance\" needs train.timesteps = 0: it is for continuous time".into());
        }
        Ok(())
    }

    /// Says why the schedule cannot be trained for its objective, if so.
    fn check_objective(&self) -> Result<(), String> {
        if self.schedule.objective == ScheduleObjective::Bound {
            return Ok(());
        }
        if let ScheduleConfig::Network(_) = self.schedule.schedule {
            let reason = "objective = \"variance\" needs endpoints that do not move with the shape between them; use \
                          kind = \"pinned-network\" instead of \"network\"";
            return Err(reason.into());
        }
        if self.train.timesteps > 0 {
            return Err(format!(
                "objective = \"variance\" needs train.timesteps = 0, not {}: only the continuous-time bound leaves the \
                 schedule's shape free",
                self.train.timesteps
            ));
        }
        Ok(())
    }

    /// Says why images of this shape do not fit the network, if they do not.
    ///
    /// # Errors
    /// [`ConfigError::Section`].
    pub fn validate_shape(&self, shape: ImageShape) -> Result<(), ConfigError> {
        let fits = self.model.network.validate_shape(shape);
        fits.map_err(|reason| ConfigError::Section { section: "model", reason })
    }

    /// The number of parameters of the model that [`init`](Self::init) makes for images of `channels` channels.
    pub fn parameters(&self, channels: usize) -> u128 {
        self.model.network.parameters(channels) + self.schedule.schedule.parameters()
    }

    /// A freshly initialised model for images of this shape and vocabulary; the same for the same `seed`.
    ///
    /// # Panics
    /// If [`validate`](Self::validate) fails.
    pub fn init(&self, shape: ImageShape, vocabulary: Vocabulary, device: &Device) -> VariationalDiffusion<AnyNetwork> {
        let schedule = &self.schedule.schedule;
        let settings = DiffusionSettings {
            timesteps: (self.train.timesteps > 0).then_some(self.train.timesteps),
            time_normalization: self.model.time_normalization,
            prediction: self.model.prediction,
            precision: self.train.precision,
            ..DiffusionSettings::new(shape, vocabulary, schedule)
        };
        crate::initial::seeded(self.seed, || {
            let (schedule, network) = (schedule.init(device), self.model.network.init(shape.channels, device));
            VariationalDiffusion::new(schedule, network, settings)
        })
    }
}
