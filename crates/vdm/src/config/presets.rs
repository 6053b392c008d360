//! The presets: one for each data set, the large ones with the paper's recipes (VDM appendix B).

use super::{Config, DataConfig, EvalConfig, ModelConfig, NetworkKind, SampleConfig, SourceKind, TrainConfig};
use crate::nn::FourierFeatures;
use crate::schedule::{ScheduleConfig, ScheduleKind};

/// A preset's name and what it is for.
#[derive(Clone, Copy, Debug)]
pub struct Preset {
    /// Its name.
    pub name: &'static str,
    /// One line about it.
    pub about: &'static str,
    config: fn() -> Config,
}

/// All presets.
pub const PRESETS: &[Preset] = &[
    Preset { name: "digits", about: "8x8 digits with 17 levels, inside the program; minutes on a CPU", config: digits },
    Preset {
        name: "fashion-mnist",
        about: "28x28 grey clothes; the folder that Debian's dataset-fashion-mnist installs",
        config: fashion_mnist,
    },
    Preset { name: "mnist", about: "28x28 grey digits in IDX files", config: mnist },
    Preset { name: "cifar10", about: "the paper's CIFAR-10 recipe: 32 layers of 128 channels", config: cifar10 },
    Preset {
        name: "cifar10-aug",
        about: "the paper's CIFAR-10 recipe with augmentation: 32 layers of 256 channels, network schedule",
        config: cifar10_aug,
    },
    Preset { name: "imagenet32", about: "the paper's ImageNet 32x32 recipe, on the npz version", config: imagenet32 },
    Preset { name: "imagenet64", about: "the paper's ImageNet 64x64 recipe, on the npz version", config: imagenet64 },
];

/// The configuration of the preset `name`, if there is one.
pub fn preset(name: &str) -> Option<Config> {
    PRESETS.iter().find(|p| p.name == name).map(|p| (p.config)())
}

/// The smallest real task: what `vdm train` does without arguments.
fn digits() -> Config {
    Config {
        seed: 0,
        data: DataConfig {
            source: SourceKind::Digits,
            dir: "".into(),
            size: 0,
            channels: 1,
            skip_bad: false,
            augment: false,
        },
        model: ModelConfig {
            network: NetworkKind::Score,
            n_embd: 32,
            n_layer: 4,
            chn_mult: vec![1, 2, 4],
            dropout: 0.1,
            with_attention: false,
            heads: 1,
            attn_dim: 64,
            norm_groups: 8,
            fourier: FourierFeatures::None,
            self_conditioning: false,
            classes: 0,
            time_normalization: Default::default(),
        },
        schedule: ScheduleConfig { gamma_0: -8.0, ..Default::default() },
        train: TrainConfig {
            steps: 2500,
            batch_size: 32,
            accumulate: 1,
            timesteps: 0,
            times: Default::default(),
            lr: 2e-3,
            warmup: 100,
            beta1: 0.9,
            beta2: 0.99,
            adam_eps: 1e-8,
            weight_decay: 0.01,
            label_dropout: 0.1,
            grad_clip: 0.0,
            ema_decay: 0.999,
            log_every: 20,
            eval_every: 500,
            sample_every: 1250,
            checkpoint_every: 500,
        },
        eval: EvalConfig { images: 0, repeats: 20, batch_size: 64 },
        sample: SampleConfig { count: 64, steps: 250, clip: false, guidance: 1.0, decoder: Default::default() },
    }
}

fn fashion_mnist() -> Config {
    let base = digits();
    Config {
        data: DataConfig { source: SourceKind::Idx, dir: "/usr/share/datasets/fashion-mnist".into(), ..base.data },
        model: ModelConfig { fourier: FourierFeatures::Paper, dropout: 0.0, ..base.model },
        schedule: ScheduleConfig::default(),
        train: TrainConfig { steps: 3000, batch_size: 16, lr: 1e-3, eval_every: 500, sample_every: 0, ..base.train },
        eval: EvalConfig { images: 1000, repeats: 1, ..base.eval },
        ..base
    }
}

fn mnist() -> Config {
    let base = fashion_mnist();
    Config { data: DataConfig { dir: "data/mnist".into(), ..base.data }, ..base }
}

fn cifar10() -> Config {
    let base = digits();
    Config {
        data: DataConfig { source: SourceKind::Cifar10, dir: "data/cifar10".into(), ..base.data },
        model: ModelConfig { n_embd: 128, n_layer: 32, norm_groups: 32, fourier: FourierFeatures::Paper, ..base.model },
        schedule: ScheduleConfig::default(),
        train: TrainConfig {
            steps: 10_000_000,
            batch_size: 128,
            lr: 2e-4,
            ema_decay: 0.9999,
            log_every: 100,
            eval_every: 10_000,
            sample_every: 10_000,
            checkpoint_every: 5000,
            ..base.train
        },
        eval: EvalConfig { images: 2048, repeats: 1, batch_size: 128 },
        sample: SampleConfig { steps: 1000, ..base.sample },
        ..base
    }
}

fn cifar10_aug() -> Config {
    let base = cifar10();
    Config {
        data: DataConfig { augment: true, ..base.data },
        model: ModelConfig { n_embd: 256, dropout: 0.05, ..base.model },
        schedule: ScheduleConfig { kind: ScheduleKind::Network, ..base.schedule },
        ..base
    }
}

fn imagenet32() -> Config {
    let base = cifar10();
    Config {
        data: DataConfig { source: SourceKind::Imagenet, dir: "data/imagenet32".into(), size: 32, ..base.data },
        model: ModelConfig { n_embd: 256, ..base.model },
        ..base
    }
}

fn imagenet64() -> Config {
    let base = imagenet32();
    Config { data: DataConfig { dir: "data/imagenet64".into(), size: 64, ..base.data }, ..base }
}
