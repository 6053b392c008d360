//! The presets: one for each data set, the large ones with the paper's recipes (VDM appendix B).

use super::{Config, DataConfig, EvalConfig, ModelConfig, SampleConfig, ScheduleSection, TrainConfig, VERSION};
use crate::data::{Cifar10Source, DataSource, DigitsSource, IdxSource, ImagenetSource};
use crate::diffusion::times::TimeSampling;
use crate::nn::{AnyNetworkConfig, FourierFeatures, ScoreUNetConfig};
use crate::schedule::{Endpoints, NetworkScheduleConfig, ScheduleConfig};

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
        about: "the paper's CIFAR-10 recipe with augmentation: 32 layers of 256 channels with attention, batches of 1024, network schedule",
        config: cifar10_aug,
    },
    Preset { name: "imagenet32", about: "the paper's ImageNet 32x32 recipe, on the npz version", config: imagenet32 },
    Preset {
        name: "imagenet64",
        about: "the paper's ImageNet 64x64 recipe, 64 layers, on the npz version",
        config: imagenet64,
    },
];

/// The configuration of the preset `name`, if there is one.
pub fn preset(name: &str) -> Option<Config> {
    PRESETS.iter().find(|p| p.name == name).map(|p| (p.config)())
}

fn score(config: ScoreUNetConfig) -> ModelConfig {
    ModelConfig {
        network: AnyNetworkConfig::Score(config),
        time_normalization: Default::default(),
        prediction: Default::default(),
    }
}

fn plain(source: DataSource) -> DataConfig {
    DataConfig { source, augment: false }
}

fn schedule(schedule: ScheduleConfig) -> ScheduleSection {
    ScheduleSection { schedule, objective: Default::default() }
}

/// The smallest real task: what `vdm train` does without arguments.
fn digits() -> Config {
    Config {
        version: VERSION,
        seed: 0,
        data: plain(DataSource::Digits(DigitsSource {})),
        model: score(ScoreUNetConfig {
            dropout: 0.1,
            fourier: FourierFeatures::None,
            norm_groups: 8,
            ..ScoreUNetConfig::new(1, 32, 4)
        }),
        schedule: schedule(ScheduleConfig::LearnedLinear(Endpoints { gamma_0: -8.0, gamma_1: 5.0 })),
        train: TrainConfig {
            steps: 3500,
            batch_size: 32,
            accumulate: 1,
            timesteps: 0,
            times: TimeSampling::Auto,
            lr: 2e-3,
            warmup: 100,
            lr_decay: Default::default(),
            beta1: 0.9,
            beta2: 0.99,
            adam_eps: 1e-8,
            weight_decay: 0.01,
            label_dropout: 0.1,
            grad_clip: 0.0,
            ema_decay: 0.999,
            ema_width: 0.0,
            precision: Default::default(),
            log_every: 20,
            eval_every: 500,
            sample_every: 1750,
            checkpoint_every: 500,
            tensorboard: false,
        },
        eval: EvalConfig { images: 0, repeats: 20, batch_size: 64 },
        sample: SampleConfig {
            sampler: Default::default(),
            count: 64,
            steps: 250,
            clip: false,
            guidance: 1.0,
            decoder: Default::default(),
        },
    }
}

fn fashion_mnist() -> Config {
    let base = digits();
    Config {
        data: plain(DataSource::Idx(IdxSource { dir: "/usr/share/datasets/fashion-mnist".into() })),
        model: score(ScoreUNetConfig { norm_groups: 8, ..ScoreUNetConfig::new(1, 32, 4) }),
        schedule: ScheduleSection::default(),
        train: TrainConfig {
            steps: 3000,
            batch_size: 16,
            lr: 1e-3,
            times: TimeSampling::LowDiscrepancy,
            eval_every: 500,
            sample_every: 0,
            ..base.train
        },
        eval: EvalConfig { images: 1000, repeats: 1, ..base.eval },
        ..base
    }
}

fn mnist() -> Config {
    Config { data: plain(DataSource::Idx(IdxSource { dir: "data/mnist".into() })), ..fashion_mnist() }
}

fn cifar10() -> Config {
    let base = digits();
    Config {
        data: plain(DataSource::Cifar10(Cifar10Source { dir: "data/cifar10".into() })),
        model: score(ScoreUNetConfig { dropout: 0.1, ..ScoreUNetConfig::new(1, 128, 32) }),
        schedule: ScheduleSection::default(),
        train: TrainConfig {
            steps: 10_000_000,
            times: TimeSampling::LowDiscrepancy,
            batch_size: 128,
            lr: 2e-4,
            ema_decay: 0.9999,
            log_every: 100,
            eval_every: 10_000,
            sample_every: 10_000,
            checkpoint_every: 5000,
            tensorboard: false,
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
        model: score(ScoreUNetConfig { dropout: 0.05, with_attention: true, ..ScoreUNetConfig::new(1, 256, 32) }),
        train: TrainConfig { batch_size: 1024, ..base.train },
        schedule: schedule(ScheduleConfig::Network(NetworkScheduleConfig::default())),
        ..base
    }
}

fn imagenet32() -> Config {
    let base = cifar10();
    Config {
        data: plain(DataSource::Imagenet(ImagenetSource {
            dir: "data/imagenet32".into(),
            size: 32,
            ..Default::default()
        })),
        model: score(ScoreUNetConfig { dropout: 0.1, ..ScoreUNetConfig::new(1, 256, 32) }),
        ..base
    }
}

fn imagenet64() -> Config {
    let source = ImagenetSource { dir: "data/imagenet64".into(), size: 64, ..Default::default() };
    let base = imagenet32();
    Config {
        data: plain(DataSource::Imagenet(source)),
        model: score(ScoreUNetConfig { dropout: 0.1, ..ScoreUNetConfig::new(1, 256, 64) }),
        ..base
    }
}
