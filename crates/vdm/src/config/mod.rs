//! The configuration of a run: presets in the library, a TOML file over them, single keys over that.
//!
//! Every key always has a value, so that `config.toml` in a run says everything about it.

mod layers;
mod presets;

pub use layers::{ConfigError, resolve};
pub use presets::{PRESETS, Preset, preset};

use crate::data::{DataSource, ImageShape};
use crate::diffusion::{DiffusionSettings, TimeNormalization, VariationalDiffusion};
use crate::encoding::Vocabulary;
use crate::nn::{AnyNetwork, AnyNetworkConfig, FourierFeatures, ScoreUNetConfig, UNetConfig};
use crate::sample::DecoderRule;
use crate::schedule::{ScheduleConfig, ScheduleObjective};
use crate::times::TimeSampling;
use burn::tensor::Device;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Most images of a grid of samples.
pub const MAX_GRID: usize = 4096;

/// Everything about a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Seed of the initial weights, the data order, times, noises, dropout and augmentation.
    pub seed: u64,
    /// The images.
    pub data: DataConfig,
    /// The network.
    pub model: ModelConfig,
    /// The noise schedule.
    pub schedule: ScheduleConfig,
    /// Training.
    pub train: TrainConfig,
    /// Evaluation.
    pub eval: EvalConfig,
    /// Samples drawn during and after training.
    pub sample: SampleConfig,
}

/// Where images come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SourceKind {
    /// The 8x8 digits inside the program.
    Digits,
    /// IDX files in `dir`: MNIST, Fashion-MNIST.
    Idx,
    /// CIFAR-10 binary batches in `dir`.
    Cifar10,
    /// Downsampled ImageNet npz batches in `dir`, of side `size`.
    Imagenet,
    /// Image files in `dir`, resized and cropped to `size`, with `channels` channels.
    Folder,
}

/// The images.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataConfig {
    /// The kind of source.
    pub source: SourceKind,
    /// Folder of the files; unused by `digits`.
    pub dir: PathBuf,
    /// Side of the images in pixels, for `imagenet` (32 or 64) and `folder`.
    pub size: usize,
    /// Channels, for `folder`: 1 or 3.
    pub channels: usize,
    /// Skip unreadable files of a `folder` instead of stopping.
    pub skip_bad: bool,
    /// Flip and rotate training images at random; the conditioning scalar says whether an image was changed.
    pub augment: bool,
}

impl DataConfig {
    /// The source as the data module knows it.
    pub fn source(&self) -> DataSource {
        let dir = self.dir.clone();
        match self.source {
            SourceKind::Digits => DataSource::Digits,
            SourceKind::Idx => DataSource::Idx { dir },
            SourceKind::Cifar10 => DataSource::Cifar10 { dir },
            SourceKind::Imagenet => DataSource::Imagenet { dir, size: self.size },
            SourceKind::Folder => {
                DataSource::Folder { dir, size: self.size, channels: self.channels, skip_bad: self.skip_bad }
            }
        }
    }
}

/// The families of networks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NetworkKind {
    /// The paper's, of constant resolution: a [`ScoreUNet`](crate::nn::ScoreUNet).
    #[default]
    Score,
    /// One that halves the image from level to level: a [`UNet`](crate::nn::UNet).
    Unet,
}

/// The network.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelConfig {
    /// The family: `score` or `unet`.
    pub network: NetworkKind,
    /// Channels inside; a multiple of `norm_groups` and of `heads`. In a `unet`, those at full resolution.
    pub n_embd: usize,
    /// `score`: blocks on the way down; one more on the way up.
    pub n_layer: usize,
    /// `unet`: channels after each level, in units of `n_embd`; every level but the last halves the image.
    pub chn_mult: Vec<usize>,
    /// Dropout probability, in [0, 1).
    pub dropout: f64,
    /// Attention after every block or at every level, not only in the middle.
    pub with_attention: bool,
    /// Heads of every attention.
    pub heads: usize,
    /// `unet`: channels inside every attention; a multiple of `heads`.
    pub attn_dim: usize,
    /// Groups of every group normalisation: 32 in the paper. Below the channels they are made of, since groups of one
    /// channel cancel the time and the class, which are added to whole channels before it.
    pub norm_groups: usize,
    /// Fourier features of z_t: `paper`, `port` (not in a `unet`) or `none`.
    pub fourier: FourierFeatures,
    /// `unet`: whether an estimate of x, from a first pass, is an input.
    pub self_conditioning: bool,
    /// Classes that the network is told apart, 0 for a model of images alone. `--class-conditional` sets it to the
    /// number of classes of the data.
    pub classes: usize,
    /// What the network's time is normalised by: `configured` or `current` endpoints.
    pub time_normalization: TimeNormalization,
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
    /// Steps between lines of metrics.
    pub log_every: u64,
    /// Steps between evaluations on test images; 0 for none before the end.
    pub eval_every: u64,
    /// Steps between grids of samples; 0 for none before the end.
    pub sample_every: u64,
    /// Steps between checkpoints.
    pub checkpoint_every: u64,
}

impl TrainConfig {
    /// The learning rate of step `step`, which counts from 1: it rises linearly over the warm-up.
    pub fn lr_at(&self, step: u64) -> f64 {
        self.lr * (step as f64 / self.warmup.max(1) as f64).min(1.0)
    }
}

/// Evaluation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EvalConfig {
    /// Test images of the evaluations during training; 0 for all. The final one is always over all.
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
    /// Images of a grid.
    pub count: usize,
    /// Steps T of ancestral sampling.
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
    /// [`ConfigError::Value`], [`ConfigError::Schedule`] or [`ConfigError::Model`].
    pub fn validate(&self) -> Result<(), ConfigError> {
        let check = |key: &str, ok: bool, found: String, expected: &str| {
            if ok { Ok(()) } else { Err(ConfigError::Value { key: key.into(), found, expected: expected.into() }) }
        };
        let t = &self.train;
        let positive = |key: &str, value: u64| check(key, value > 0, value.to_string(), "at least 1");
        let size = |key: &str, value: usize, max: usize| {
            check(key, (1..=max).contains(&value), value.to_string(), &format!("in 1..={max}"))
        };
        let unit = |key: &str, v: f64| check(key, (0.0..1.0).contains(&v), v.to_string(), "in [0, 1)");
        let above = |key: &str, v: f64| check(key, v > 0.0 && v.is_finite(), v.to_string(), "above 0, finite");
        let not_negative =
            |key: &str, v: f64| check(key, v >= 0.0 && v.is_finite(), v.to_string(), "at least 0, finite");
        positive("train.steps", t.steps)?;
        size("train.batch_size", t.batch_size, 1 << 16)?;
        size("train.accumulate", t.accumulate, 1 << 14)?;
        check("train.timesteps", t.timesteps <= 1 << 24, t.timesteps.to_string(), "at most 2^24")?;
        positive("train.log_every", t.log_every)?;
        positive("train.checkpoint_every", t.checkpoint_every)?;
        size("eval.repeats", self.eval.repeats, 1 << 20)?;
        size("eval.batch_size", self.eval.batch_size, 1 << 16)?;
        size("sample.count", self.sample.count, MAX_GRID)?;
        size("sample.steps", self.sample.steps, 1 << 20)?;
        size("schedule.features", self.schedule.features, 1 << 20)?;
        size("model.n_embd", self.model.n_embd, 1 << 13)?;
        check("model.n_layer", self.model.n_layer <= 1 << 10, self.model.n_layer.to_string(), "at most 1024")?;
        not_negative("sample.guidance", self.sample.guidance)?;
        above("train.lr", t.lr)?;
        above("train.adam_eps", t.adam_eps)?;
        not_negative("train.weight_decay", t.weight_decay)?;
        not_negative("train.grad_clip", t.grad_clip)?;
        unit("train.beta1", t.beta1)?;
        unit("train.beta2", t.beta2)?;
        unit("train.ema_decay", t.ema_decay)?;
        unit("model.dropout", self.model.dropout)?;
        let p = t.label_dropout;
        check("train.label_dropout", (0.0..=1.0).contains(&p), p.to_string(), "in [0, 1]")?;
        check("model.classes", self.model.classes <= 1 << 20, self.model.classes.to_string(), "at most 2^20")?;
        size("model.attn_dim", self.model.attn_dim, 1 << 13)?;
        size("model.norm_groups", self.model.norm_groups, 1 << 13)?;
        size("model.heads", self.model.heads, 1 << 13)?;
        let wide = self.model.chn_mult.iter().any(|&m| m > 64);
        check("model.chn_mult", !wide, format!("{:?}", self.model.chn_mult), "numbers of at most 64")?;
        let (start, end) = (self.schedule.gamma_0, self.schedule.gamma_1);
        check("schedule.gamma_0", start.is_finite(), start.to_string(), "finite")?;
        check("schedule.gamma_1", end.is_finite() && end > start, end.to_string(), "above schedule.gamma_0")?;
        self.schedule.validate().map_err(|reason| ConfigError::Schedule { reason })?;
        if self.schedule.objective == ScheduleObjective::Variance && t.timesteps > 0 {
            let reason = format!(
                "objective = \"variance\" needs train.timesteps = 0, not {}: only the continuous-time bound leaves the \
                 schedule's shape free",
                t.timesteps
            );
            return Err(ConfigError::Schedule { reason });
        }
        let side = self.data.size;
        match self.data.source {
            SourceKind::Imagenet => check("data.size", side == 32 || side == 64, side.to_string(), "32 or 64")?,
            SourceKind::Folder => {
                check("data.size", (1..=1024).contains(&side), side.to_string(), "in 1..=1024")?;
                let c = self.data.channels;
                check("data.channels", c == 1 || c == 3, c.to_string(), "1 (grey) or 3 (RGB)")?;
            }
            _ => {}
        }
        self.network_options()?;
        self.network(1).validate().map_err(|reason| ConfigError::Model { reason })
    }

    /// Refuses options of one family of networks in the other, which would have no effect.
    fn network_options(&self) -> Result<(), ConfigError> {
        let model = &self.model;
        let reason = match model.network {
            NetworkKind::Score if model.self_conditioning => "self_conditioning = true needs network = \"unet\"",
            // A normalisation of one channel takes away whatever was added to all of its pixels.
            NetworkKind::Score if model.norm_groups == model.n_embd => {
                "norm_groups must be below n_embd: groups of one channel cancel the time and the class"
            }
            NetworkKind::Unet if model.norm_groups == model.n_embd && model.chn_mult.contains(&1) => {
                "norm_groups must be below n_embd where chn_mult has a 1: groups of one channel cancel the time and the \
                 class"
            }
            NetworkKind::Unet if model.fourier == FourierFeatures::Port => {
                "fourier = \"port\" is for network = \"score\"; use \"paper\" or \"none\""
            }
            _ => return Ok(()),
        };
        Err(ConfigError::Model { reason: reason.into() })
    }

    /// Says why images of this shape do not fit the network, if they do not.
    ///
    /// # Errors
    /// [`ConfigError::Model`].
    pub fn validate_shape(&self, shape: ImageShape) -> Result<(), ConfigError> {
        let fits = self.network(shape.channels).validate_image(shape.height, shape.width);
        fits.map_err(|reason| ConfigError::Model { reason })
    }

    /// The network's configuration for images of `channels` channels.
    pub fn network(&self, channels: usize) -> AnyNetworkConfig {
        let model = &self.model;
        match model.network {
            NetworkKind::Score => AnyNetworkConfig::Score(ScoreUNetConfig {
                dropout: model.dropout,
                with_attention: model.with_attention,
                fourier: model.fourier,
                classes: model.classes,
                norm_groups: model.norm_groups,
                heads: model.heads,
                ..ScoreUNetConfig::new(channels, model.n_embd, model.n_layer)
            }),
            NetworkKind::Unet => AnyNetworkConfig::UNet(UNetConfig {
                dropout: model.dropout,
                attn_dim: model.attn_dim,
                use_cond: model.self_conditioning,
                classes: model.classes,
                use_attn: model.with_attention,
                chn_mult: model.chn_mult.clone(),
                n_fourier: if model.fourier == FourierFeatures::None { Vec::new() } else { vec![7, 8] },
                num_group: model.norm_groups,
                num_heads: model.heads,
                ..UNetConfig::new(channels, model.n_embd)
            }),
        }
    }

    /// A freshly initialised model for images of this shape and vocabulary; the same for the same `seed`.
    ///
    /// # Panics
    /// If [`validate`](Self::validate) fails.
    pub fn init(&self, shape: ImageShape, vocabulary: Vocabulary, device: &Device) -> VariationalDiffusion<AnyNetwork> {
        let settings = DiffusionSettings {
            vocabulary,
            timesteps: (self.train.timesteps > 0).then_some(self.train.timesteps),
            configured_endpoints: (self.schedule.gamma_0, self.schedule.gamma_1),
            time_normalization: self.model.time_normalization,
        };
        crate::weights::seeded(device, self.seed, || {
            let (schedule, network) = (self.schedule.init(device), self.network(shape.channels).init(device));
            VariationalDiffusion::new(schedule, network, settings)
        })
    }
}
