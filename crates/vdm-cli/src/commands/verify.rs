//! `vdm verify`.

use crate::shared::archive_output;
use crate::shared::container;
use crate::shared::model::ChoiceArgs;
use crate::shared::output::{outln, shown};
use anyhow::{Context, Result};
use serde_json::json;
use std::path::PathBuf;
use vdm::codec::FileKind;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// File that `vdm compress` wrote; `-` for the standard input.
    pub file: PathBuf,
    /// The model that coded the images. Default: the one inside the file, or the shipped one that coded it.
    #[arg(short, long, value_name = "MODEL")]
    pub model: Option<PathBuf>,
    #[command(flatten)]
    pub choice: ChoiceArgs,
}

pub fn execute(args: &Args, json: bool) -> Result<()> {
    let container = container::read(&args.file)?;
    // Not all that can be wrong is damage: it may be another model, another machine, or Ctrl-C.
    let failed = format!("cannot verify {}", args.file.display());
    let (all, named) = ((0, container.images()), (args.model.as_deref(), &args.choice));
    let (bytes, seconds) = container::decode(&container, all, named, "verifying", failed)?;
    let damaged = || format!("{} is damaged", args.file.display());
    // What each file would be written from; of those that are kept as they are, the checksums.
    for (entry, own) in container.split(&bytes) {
        if !matches!(entry.kind, FileKind::Series { .. }) {
            archive_output::content(entry, own, container.shape, container.levels).with_context(damaged)?;
        }
    }
    let (images, files) = (container.images(), container.files.len());
    if json {
        let object = json!({ "file": shown(&args.file), "images": images, "files": files, "seconds": seconds });
        outln!("{object}");
    } else {
        outln!("{}: {files} files of {images} images are whole ({seconds:.1} s)", args.file.display());
    }
    Ok(())
}
