//! The command line.

use clap::{Parser, Subcommand, ValueEnum};
use std::path::PathBuf;
use vdm::sample::DecoderRule;

/// Variational diffusion models: train, evaluate, sample.
///
/// `vdm train` without arguments trains on the 8x8 digits that are built in, in a few minutes.
#[derive(Debug, Parser)]
#[command(name = "vdm", version)]
pub struct Args {
    /// Print one JSON object on stdout; progress stays on stderr.
    #[arg(long, global = true)]
    pub json: bool,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Train a model, or go on with a training.
    Train(TrainArgs),
    /// Evaluate a run's bound on its test split, in bits per dimension with a standard error.
    Eval(EvalArgs),
    /// Measure how noisy the estimate of a run's bound is under its own and under fixed schedules, without classes.
    Variance(crate::variance::VarianceArgs),
    /// Draw images from a run's model.
    Sample(SampleArgs),
    /// Measure what compression costs above the bound: the bins of the latents.
    Overhead(crate::overhead::OverheadArgs),
    /// Compress images without loss with a run's model.
    Compress(crate::compress_args::CompressArgs),
    /// Get images back from a file that `vdm compress` wrote.
    Decompress(crate::compress_args::DecompressArgs),
    /// Show what a run is and how far it got, or what a compressed file holds.
    Info(InfoArgs),
    /// List the presets, or show one as TOML.
    Presets(PresetsArgs),
    /// Measure the time of a training step or of a network evaluation.
    Bench(BenchArgs),
}

#[derive(Debug, clap::Args)]
pub struct TrainArgs {
    /// Preset to start from; `vdm presets` lists them.
    #[arg(long, default_value = "digits", conflicts_with = "resume")]
    pub preset: String,
    /// TOML file whose keys override the preset's.
    #[arg(long, value_name = "FILE", conflicts_with = "resume")]
    pub config: Option<PathBuf>,
    /// Single key that overrides both, as section.key=value, e.g. train.steps=1000. May be repeated.
    /// With --resume, only train.steps and data.dir may change.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub sets: Vec<String>,
    /// Tell the network the class of each image: sets model.classes to the number of classes of the data, which must
    /// have labels. Of every tenth image the class is left out (train.label_dropout), so that the model knows images
    /// without a class too, and `vdm sample --guidance` works.
    #[arg(long, conflicts_with = "resume")]
    pub class_conditional: bool,
    /// Folder of the run; must not hold one yet. Default: runs/PRESET, or the first of runs/PRESET-2, … that is free.
    #[arg(long, value_name = "DIR", conflicts_with = "resume")]
    pub out: Option<PathBuf>,
    /// Folder of a run to go on with, exactly where its last checkpoint stands.
    #[arg(long, value_name = "RUN")]
    pub resume: Option<PathBuf>,
    /// Plain lines on stderr instead of the dashboard. The default where there is no terminal.
    #[arg(long)]
    pub plain: bool,
    #[command(flatten)]
    pub device: DeviceArgs,
}

#[derive(Debug, clap::Args)]
pub struct EvalArgs {
    /// Folder of the run.
    pub run: PathBuf,
    /// Passes over the test split, each with other times and fresh noise. At least 1. Default: the run's eval.repeats.
    #[arg(long, value_name = "K", value_parser = clap::value_parser!(u32).range(1..))]
    pub repeats: Option<u32>,
    /// Steps T of the discrete-time bound, at least 1. Default: continuous time.
    #[arg(long, value_name = "T", value_parser = clap::value_parser!(u32).range(1..))]
    pub timesteps: Option<u32>,
    /// Only the first N images of the test split. Default: all.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub images: Option<u32>,
    /// Folder of the data, in place of the run's data.dir.
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Seed of times and noises.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Images at a time. Changes nothing but speed and memory. Default: the run's eval.batch_size.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub batch_size: Option<u32>,
    /// Leave the classes out: the bound on p(x) of a model with classes, in place of that on p(x | class).
    #[arg(long)]
    pub without_classes: bool,
    /// Which checkpoint. `best` was chosen by its test bound, so its bound is a little too good.
    #[arg(long, value_enum, default_value_t = Which::Last)]
    pub checkpoint: Which,
    #[command(flatten)]
    pub device: DeviceArgs,
}

#[derive(Debug, clap::Args)]
pub struct SampleArgs {
    /// Folder of the run.
    pub run: PathBuf,
    /// Images to draw. At least 1.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..))]
    pub count: u32,
    /// Number of the first image: image I of a seed is the same however many are drawn.
    #[arg(long, default_value_t = 0, value_name = "I")]
    pub first: u64,
    /// Steps T of ancestral sampling, at least 1. Default: the run's sample.steps.
    #[arg(long, value_name = "T", value_parser = clap::value_parser!(u32).range(1..))]
    pub steps: Option<u32>,
    /// Seed of the images.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Keep the predicted image in [-1, 1] at every step.
    #[arg(long)]
    pub clip: bool,
    /// Class of all images, for a run trained with --class-conditional. Default there: classes take turns, image I being
    /// of class I modulo their number.
    #[arg(long, value_name = "C")]
    pub class: Option<u32>,
    /// Weight of classifier-free guidance, at least 0: 1 for none, above it images are more typical of their class, 0
    /// ignores the class. Other weights than 0 and 1 take twice the time. Default: the run's sample.guidance.
    #[arg(long, value_name = "W")]
    pub guidance: Option<f64>,
    /// How pixels are read off the last latent. Default: the run's sample.decoder.
    #[arg(long, value_enum)]
    pub decoder: Option<Decoder>,
    /// Images at a time. Changes nothing but speed and memory. Default: the run's eval.batch_size.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub batch_size: Option<u32>,
    /// PNG file for a grid of all images, or with --separate a folder for one file an image. Default: in the run.
    #[arg(short, long, value_name = "PATH")]
    pub out: Option<PathBuf>,
    /// One PNG file an image, pixel for pixel, instead of a grid.
    #[arg(long)]
    pub separate: bool,
    /// Which checkpoint.
    #[arg(long, value_enum, default_value_t = Which::Last)]
    pub checkpoint: Which,
    #[command(flatten)]
    pub device: DeviceArgs,
}

#[derive(Debug, clap::Args)]
pub struct InfoArgs {
    /// Folder of the run, or a file that `vdm compress` wrote.
    pub run: PathBuf,
}

#[derive(Debug, clap::Args)]
pub struct PresetsArgs {
    /// Preset to show as TOML.
    pub name: Option<String>,
}

#[derive(Debug, clap::Args)]
pub struct BenchArgs {
    /// A whole training step, a network evaluation without gradients as in sampling, or each operator by itself beside
    /// the same composed of Burn's own.
    #[arg(value_enum)]
    pub what: BenchWhat,
    /// Size of images, network and batch.
    #[arg(long, value_enum, default_value_t = BenchPreset::Rgb32)]
    pub preset: BenchPreset,
    /// Train a monotonic schedule for less variance (schedule.objective = "variance"), and say what that costs.
    #[arg(long)]
    pub variance: bool,
    /// Images at a time, in place of the preset's.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub batch: Option<u32>,
    /// Side of the images, in place of the preset's.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub side: Option<u32>,
    /// Channels inside the network, in place of the preset's: a multiple of 32.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(32..))]
    pub n_embd: Option<u32>,
    /// Seconds of measuring, after three runs of warm-up; at least five runs are timed. 20 by default, 0.5 for each
    /// operator.
    #[arg(long)]
    pub seconds: Option<f64>,
    #[command(flatten)]
    pub device: DeviceArgs,
}

#[derive(Debug, clap::Args)]
pub struct DeviceArgs {
    /// Device to compute on.
    #[arg(long, value_enum, default_value_t = DeviceKind::Cpu)]
    pub device: DeviceKind,
    /// Threads on the CPU; 0 for one a core. Changes nothing but speed.
    #[arg(long, default_value_t = 0)]
    pub threads: usize,
}

/// Devices; each but the CPU needs the cargo feature of its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DeviceKind {
    Cpu,
    Cuda,
    Wgpu,
    Metal,
    Rocm,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Which {
    Last,
    Best,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Decoder {
    /// The most probable level of each pixel.
    Argmax,
    /// A level drawn from the decoder's distribution.
    Draw,
}

impl From<Decoder> for DecoderRule {
    fn from(decoder: Decoder) -> Self {
        match decoder {
            Decoder::Argmax => Self::Argmax,
            Decoder::Draw => Self::Draw,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum BenchWhat {
    Train,
    Sample,
    Operators,
}

/// The presets of the PyTorch twin in bench/pytorch_twin.py.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum BenchPreset {
    /// 3x32x32, 64 channels, 4 layers, batch 16
    Rgb32,
    /// 1x28x28, 32 channels, 4 layers, batch 32
    Gray28,
    /// 1x8x8, 32 channels, 4 layers, batch 64
    Digits8,
}
