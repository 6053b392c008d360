//! `vdm decompress`.

use crate::shared::container;
use crate::shared::model::ChoiceArgs;
use crate::shared::output::outln;
use crate::shared::progress::timed;
use anyhow::{Context, Result, bail};
use clap::value_parser;
use serde_json::json;
use std::fs;
use std::io::ErrorKind;
use std::path::{Component, Path, PathBuf};
use vdm::codec::{Container, FileKind, decompress_range};
use vdm::data::{IdxImages, write_idx_images};
use vdm::files::{create_folders, write_atomic, write_bytes};
use vdm::picture::grid;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// File that `vdm compress` wrote.
    pub file: PathBuf,
    /// Folder of the run whose model coded the images.
    #[arg(short, long, value_name = "RUN")]
    pub model: PathBuf,
    /// Folder to write the files to; must be empty, or not be there.
    #[arg(short, long, value_name = "DIR")]
    pub out: PathBuf,
    /// Write to that folder even if it is not empty, over files of the same names.
    #[arg(long)]
    pub force: bool,
    /// Number of the first image to write, from 0.
    #[arg(long, value_name = "I", default_value_t = 0)]
    pub first: u32,
    /// Images to write. Default: all from the first.
    #[arg(long, value_name = "N", value_parser = value_parser!(u32).range(1..))]
    pub count: Option<u32>,
    #[command(flatten)]
    pub choice: ChoiceArgs,
}

pub fn execute(args: &Args, json: bool) -> Result<()> {
    let out = &args.out;
    let filled = match fs::read_dir(out) {
        Ok(mut entries) => {
            let filled = entries.next().is_some();
            if filled && !args.force {
                bail!("{} is not empty; name another folder with --out, or write into it with --force", out.display());
            }
            filled
        }
        Err(error) if error.kind() == ErrorKind::NotFound => false,
        Err(error) => return Err(error).with_context(|| format!("cannot write to the folder {}", out.display())),
    };
    let container = container::read(&args.file)?;
    let opened = args.choice.open(&args.model).context("--model must name the run whose model coded the images")?;
    let checkpoint = &opened.checkpoint;
    if container.shape != checkpoint.shape {
        bail!(
            "{} holds images of {}, the run {} was trained on {}; name the run that coded them ({}) with --model",
            args.file.display(),
            container.shape,
            args.model.display(),
            checkpoint.shape,
            container.note
        );
    }
    let first = args.first as usize;
    let count = args.count.map_or(container.images().saturating_sub(first).max(1), |n| n as usize);
    let (bytes, seconds) = timed("decompressing", |progress| {
        decompress_range(&opened.model, &container, first, count, &opened.device, progress)
    });
    let bytes = bytes.with_context(|| format!("cannot decompress {}", args.file.display()))?;
    let files = if filled {
        write(out, &container, &bytes, first, true)?
    } else {
        write_whole(out, &container, &bytes, first)?
    };
    if json {
        let object = json!({"path": out, "images": count, "first": first, "files": files, "seconds": seconds});
        outln!("{object}");
    } else {
        outln!(
            "{count} images in {files} files: {} ({seconds:.1} s, {:.2} images/s)",
            out.display(),
            count as f64 / seconds.max(1e-9)
        );
    }
    Ok(())
}

/// [`write`] to a folder that is empty or not there yet, whole or not at all: to a temporary one inside it, then moved up.
/// A folder that is there is used in place: it may be a link, a mount point or the shell's own.
fn write_whole(out: &Path, container: &Container, bytes: &[u8], first: usize) -> Result<usize> {
    let failed = || format!("cannot write to the folder {}", out.display());
    let new = !out.exists();
    create_folders(out).with_context(failed)?;
    let temporary = out.join(format!(".vdm-{}.tmp", std::process::id()));
    let written = write(&temporary, container, bytes, first, false).and_then(|files| {
        if files > 0 {
            for entry in fs::read_dir(&temporary).with_context(failed)? {
                let entry = entry.with_context(failed)?;
                fs::rename(entry.path(), out.join(entry.file_name())).with_context(failed)?;
            }
        }
        Ok(files)
    });
    let _ = fs::remove_dir_all(&temporary);
    if written.is_err() && new {
        let _ = fs::remove_dir(out);
    }
    written
}

/// Writes those files to a folder that have images among `bytes`, which hold the images from number `first` on: a file
/// that has other images too is written without them. IDX files without any image are written too. The number of entries
/// written.
fn write(folder: &Path, container: &Container, bytes: &[u8], first: usize, overwrite: bool) -> Result<usize> {
    let (shape, levels, dims) = (container.shape, container.levels, container.shape.dims());
    let last = first + bytes.len() / dims;
    let (mut start, mut files) = (0, 0);
    for file in &container.files {
        let end = start + file.images();
        let (from, to) = (start.clamp(first, last), end.clamp(first, last));
        if from < to || start == end {
            let name = Path::new(&file.name);
            // What is a plain relative path differs from system to system.
            if !name.components().all(|part| matches!(part, Component::Normal(_))) {
                bail!("this system cannot have a file of the name {:?} in a folder", file.name);
            }
            let path = folder.join(name);
            if !overwrite && path.exists() {
                // Names that differ in the case of a letter, for instance.
                bail!("this system does not tell the name {:?} from that of another file of the archive", file.name);
            }
            let failed = || format!("cannot write {}", path.display());
            let images = &bytes[(from - first) * dims..(to - first) * dims];
            match file.kind {
                FileKind::Idx { .. } => {
                    let images = IdxImages::new(shape.height, shape.width, images.to_vec())?;
                    write_atomic(&path, |file| write_idx_images(file, &images)).with_context(failed)?;
                }
                FileKind::Png => {
                    let png = grid::grid_png(images, shape, levels, 1, 1).with_context(failed)?;
                    write_bytes(&path, &png).with_context(failed)?;
                }
                FileKind::Series { .. } => {
                    grid::save_images(&path, images, shape, levels, (from - start) as u64)?;
                }
            }
            files += 1;
        }
        start = end;
    }
    Ok(files)
}
