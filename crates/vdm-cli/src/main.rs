//! `vdm`: train, evaluate and sample variational diffusion models.

mod args;
mod bench;
mod bench_operators;
mod compress;
mod compress_args;
mod dashboard;
mod decompress;
mod device;
mod eval;
mod image_files;
mod info;
mod info_vdmz;
mod overhead;
mod presets;
mod progress;
mod run;
mod sample;
mod train;
mod variance;

use args::{Args, Command};
use clap::Parser;
use std::process::ExitCode;

/// Tensors come and go by the million bytes. The system's allocator gives such blocks back to the kernel, which then must
/// clear their pages again for the next operator: a quarter of a sampling step's time under glibc.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let args = Args::parse();
    progress::init_logging();
    let json = args.json;
    let result = match args.command {
        Command::Train(args) => return report(train::run(&args, json)),
        Command::Eval(args) => eval::run(&args, json),
        Command::Variance(args) => variance::run(&args, json),
        Command::Sample(args) => sample::run(&args, json),
        Command::Overhead(args) => overhead::run(&args, json),
        Command::Compress(args) => compress::run(&args, json),
        Command::Decompress(args) => decompress::run(&args, json),
        Command::Info(args) => info::run(&args, json),
        Command::Presets(args) => presets::run(&args, json),
        Command::Bench(args) => bench::run(&args, json),
    };
    report(result.map(|()| ExitCode::SUCCESS))
}

/// The exit status; an error is said on stderr.
fn report(result: anyhow::Result<ExitCode>) -> ExitCode {
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("vdm: {error:#}");
            ExitCode::FAILURE
        }
    }
}
