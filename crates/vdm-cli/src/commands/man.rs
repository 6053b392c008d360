//! `vdm man`.

use crate::shared::output::{outln, shown};
use anyhow::{Context, Result};
use clap::Command;
use clap_mangen::Man;
use serde_json::json;
use std::path::{Path, PathBuf};
use vdm::files::write_bytes;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Folder to write the manual pages to: vdm.1, and vdm-COMMAND.1 for each command.
    #[arg(short, long, value_name = "DIR")]
    pub out: PathBuf,
}

/// The pages of `program`.
pub fn execute(args: &Args, mut program: Command, json: bool) -> Result<()> {
    program.build();
    let mut pages = vec![page(&args.out, "vdm", &program)?];
    for command in program.get_subcommands().filter(|command| command.get_name() != "help") {
        pages.push(page(&args.out, &format!("vdm-{}", command.get_name()), command)?);
    }
    if json {
        outln!("{}", json!({ "pages": pages.iter().map(|page| shown(page)).collect::<Vec<_>>() }));
    } else {
        outln!("{} pages in {}; read one with `man -l {}`", pages.len(), args.out.display(), pages[0].display());
    }
    Ok(())
}

/// Writes the page of a command.
fn page(folder: &Path, name: &str, command: &Command) -> Result<PathBuf> {
    let path = folder.join(format!("{name}.1"));
    let failed = || format!("cannot write {}", path.display());
    let mut page = Vec::new();
    Man::new(command.clone()).title(name).render(&mut page).with_context(failed)?;
    write_bytes(&path, &page).with_context(failed)?;
    Ok(path)
}
