//! The command line: which commands there are, and the way to each.

use crate::commands::{
    bench, completions, compress, data, decompress, denoise, devices, doctor, eval, export, fit_errors, import, info,
    inpaint, interpolate, man, models, overhead, presets, report, sample, score, serve, train, variance, verify,
};
use anyhow::Result;
use clap::{CommandFactory, Parser, Subcommand};
use std::process::ExitCode;

/// Variational diffusion models: train, evaluate, sample.
///
/// `vdm train` without arguments trains on the 8x8 digits that are built in, in a few minutes.
#[derive(Debug, Parser)]
#[command(name = "vdm", version)]
pub struct Cli {
    /// Print one JSON object on stdout; progress stays on stderr.
    #[arg(long, global = true)]
    pub json: bool,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Train a model, or go on with a training.
    ///
    /// Of every 20 training images one is held out for validation: these images choose the checkpoint `best`, and no model
    /// is trained on them. The test images are evaluated once, after the last step.
    Train(train::Args),
    /// Compute gradients for trainings of other processes or machines.
    Serve(serve::Args),
    /// Evaluate a run's bound on its test split, in bits per dimension with a standard error.
    Eval(eval::Args),
    /// Measure how noisy the estimate of a run's bound is under its own and under fixed schedules, without classes.
    Variance(variance::Args),
    /// Draw images from a run's model.
    Sample(sample::Args),
    /// Draw the images on the way from one image to another, in the latent space of the probability flow.
    Interpolate(interpolate::Args),
    /// Draw a part of an image anew, given the rest.
    Inpaint(inpaint::Args),
    /// Take noise of a known strength off an image.
    Denoise(denoise::Args),
    /// Score images by their likelihood: the likeliest and the least likely, and how well two sets are told apart.
    Score(score::Args),
    /// Write a run's model into one file.
    Export(export::Args),
    /// Read weights of other programs into a model file.
    Import(import::Args),
    /// Fit what a model knows of its own error: its bound, samples and code in few steps become nearly those in many.
    FitErrors(fit_errors::Args),
    /// List the models that come with the program.
    Models(models::Args),
    /// Measure what compression costs above the bound: the bins of the latents.
    Overhead(overhead::Args),
    /// Compress images without loss with a run's model.
    Compress(compress::Args),
    /// Get images back from a file that `vdm compress` wrote.
    Decompress(decompress::Args),
    /// Decompress a file without writing anything, to see that it is whole.
    Verify(verify::Args),
    /// Show what a run is and how far it got, or what a compressed file holds.
    Info(info::Args),
    /// List the presets, or show one as TOML.
    Presets(presets::Args),
    /// Write a page about a run or a model: curves, schedule, likelihood, samples.
    Report(report::Args),
    /// Say what this program finds on this machine: threads, instructions, memory, disk, devices, models, data.
    Doctor(doctor::Args),
    /// List the devices that `--device` takes, and why others are missing.
    Devices(devices::Args),
    /// List the data sets that presets are for, or say where one comes from and where to put it.
    Data(data::Args),
    /// Print a shell's completions of this program's commands.
    Completions(completions::Args),
    /// Write this program's manual pages.
    Man(man::Args),
    /// Measure the time of a training step or of a network evaluation.
    Bench(bench::Args),
}

impl Command {
    /// Does the command's work; the exit status.
    pub fn execute(&self, json: bool) -> Result<ExitCode> {
        match self {
            Self::Train(args) => return train::execute(args, json),
            Self::Serve(args) => serve::execute(args, json),
            Self::Eval(args) => eval::execute(args, json),
            Self::Variance(args) => variance::execute(args, json),
            Self::Sample(args) => sample::execute(args, json),
            Self::Interpolate(args) => interpolate::execute(args, json),
            Self::Inpaint(args) => inpaint::execute(args, json),
            Self::Denoise(args) => denoise::execute(args, json),
            Self::Score(args) => score::execute(args, json),
            Self::Export(args) => export::execute(args, json),
            Self::Import(args) => import::execute(args, json),
            Self::FitErrors(args) => fit_errors::execute(args, json),
            Self::Models(args) => models::execute(args, json),
            Self::Overhead(args) => overhead::execute(args, json),
            Self::Compress(args) => compress::execute(args, json),
            Self::Decompress(args) => decompress::execute(args, json),
            Self::Verify(args) => verify::execute(args, json),
            Self::Info(args) => info::execute(args, json),
            Self::Presets(args) => presets::execute(args, json),
            Self::Report(args) => report::execute(args, json),
            Self::Doctor(args) => doctor::execute(args, json),
            Self::Devices(args) => devices::execute(args, json),
            Self::Data(args) => data::execute(args, json),
            Self::Completions(args) => completions::execute(args, Cli::command(), json),
            Self::Man(args) => man::execute(args, Cli::command(), json),
            Self::Bench(args) => bench::execute(args, json),
        }?;
        Ok(ExitCode::SUCCESS)
    }
}
