//! `vdm completions`.

use crate::shared::output::outln;
use anyhow::{Result, bail};
use clap::Command;
use clap_complete::Shell;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The shell. For bash, for instance: `vdm completions bash > ~/.local/share/bash-completion/completions/vdm`.
    pub shell: Shell,
}

/// Completions of `program`.
pub fn execute(args: &Args, mut program: Command, json: bool) -> Result<()> {
    if json {
        bail!("--json: a script for a shell is no JSON object");
    }
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut program, "vdm", &mut script);
    outln!("{}", String::from_utf8_lossy(&script).trim_end());
    Ok(())
}
