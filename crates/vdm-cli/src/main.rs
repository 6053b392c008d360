//! `vdm`: train, evaluate and sample variational diffusion models.

mod args;
mod bench;
mod dashboard;
mod device;
mod eval;
mod info;
mod presets;
mod progress;
mod run;
mod sample;
mod train;

use args::{Args, Command};
use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    let args = Args::parse();
    progress::init_logging();
    let json = args.json;
    let result = match args.command {
        Command::Train(args) => train::run(&args, json),
        Command::Eval(args) => eval::run(&args, json),
        Command::Sample(args) => sample::run(&args, json),
        Command::Info(args) => info::run(&args, json),
        Command::Presets(args) => presets::run(&args, json),
        Command::Bench(args) => bench::run(&args, json),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("vdm: {error:#}");
            ExitCode::FAILURE
        }
    }
}
