//! `vdm`: train, evaluate and sample variational diffusion models.

mod cli;
mod commands;
mod shared;

use clap::Parser;
use shared::{output, watch};
use std::process::ExitCode;

/// Tensors come and go by the million bytes. The system's allocator gives such blocks back to the kernel, which then must
/// clear their pages again for the next operator: a quarter of a sampling step's time under glibc.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    shared::progress::init_logging();
    match cli.command.execute(cli.json) {
        Ok(code) => code,
        // Whoever reads has seen enough: no error, and nobody to tell.
        Err(error) if output::is_closed(&error) => ExitCode::SUCCESS,
        Err(error) => {
            watch::say(&format!("vdm: {}", output::told(&error)));
            ExitCode::FAILURE
        }
    }
}
