//! `vdm decompress`.

use crate::shared::archive_output::{self, Wanted};
use crate::shared::container;
use crate::shared::model::ChoiceArgs;
use crate::shared::output::{is_standard, outln, shown, write_all};
use anyhow::{Context, Result, bail};
use clap::value_parser;
use serde_json::json;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use vdm::ImageShape;
use vdm::codec::{Container, FileEntry, FileKind};
use vdm::files::create_folders;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// File that `vdm compress` wrote; `-` for the standard input.
    pub file: PathBuf,
    /// The model that coded the images: folder of a run, or a model file. Default: the one inside the file, or the shipped
    /// one that coded it.
    #[arg(short, long, value_name = "MODEL")]
    pub model: Option<PathBuf>,
    /// Folder to write the files to; must be empty, or not be there. `-` writes a single file to the standard output.
    #[arg(short, long, value_name = "DIR")]
    pub out: PathBuf,
    /// Write to that folder even if it is not empty, over files of the same names.
    #[arg(long)]
    pub force: bool,
    /// Only the file of this name.
    #[arg(long, value_name = "NAME", conflicts_with_all = ["first", "count"])]
    pub name: Option<String>,
    /// Number of the first image to write, from 0. Each tile of an image that was cut counts as one.
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
    let to_standard = is_standard(out, json)?;
    let filled = !to_standard
        && match fs::read_dir(out) {
            Ok(mut entries) => {
                let filled = entries.next().is_some();
                if filled && !args.force {
                    bail!(
                        "{} is not empty; name another folder with --out, or write into it with --force",
                        out.display()
                    );
                }
                filled
            }
            Err(error) if error.kind() == ErrorKind::NotFound => false,
            Err(error) => return Err(error).with_context(|| format!("cannot write to the folder {}", out.display())),
        };
    let container = container::read(&args.file)?;
    let (wanted, first, count) = match &args.name {
        Some(name) => {
            let Some((wanted, first)) = archive_output::of_name(&container, name) else {
                bail!("{} holds no file of the name {name:?}; `vdm info` lists them", args.file.display());
            };
            let count = wanted.images.len();
            (vec![wanted], first, count)
        }
        None => {
            let first = args.first as usize;
            let all = container.images().saturating_sub(first);
            // Past the end there is nothing, which the codec says.
            let count = args.count.map_or(if first > 0 { all.max(1) } else { all }, |n| n as usize);
            (archive_output::in_range(&container, first, count), first, count)
        }
    };
    // What could not be written is said before hours of decoding.
    let only = if to_standard { Some(only_file(&wanted, container.shape, &args.file)?) } else { None };
    let failed = format!("cannot decompress {}", args.file.display());
    let named = (args.model.as_deref(), &args.choice);
    let (bytes, seconds) = container::decode(&container, (first, count), named, "decompressing", failed)?;
    if let Some(entry) = only {
        return write_all(&archive_output::content(entry, &bytes, container.shape, container.levels)?);
    }
    let files = if filled {
        archive_output::write(out, &container, &wanted, &bytes, true)?
    } else {
        write_whole(out, &container, &wanted, &bytes)?
    };
    if json {
        let object = json!({"path": shown(out), "images": count, "first": first, "files": files, "seconds": seconds});
        outln!("{object}");
    } else {
        outln!("{count} images in {files} files: {} ({seconds:.1} s)", out.display());
    }
    Ok(())
}

/// The one entry that goes to the standard output: a file, and whole, unless it is one of which some images are such a file
/// too.
fn only_file<'a>(wanted: &[Wanted<'a>], shape: ImageShape, path: &Path) -> Result<&'a FileEntry> {
    let [Wanted { entry, images }] = wanted else {
        bail!("--out - writes one file, {} holds {}; choose one with --name", path.display(), wanted.len());
    };
    match entry.kind {
        FileKind::Series { .. } => {
            bail!("--out - writes one file, {:?} is a folder of images; name a folder with --out", entry.name)
        }
        FileKind::Tiled { .. } if images.len() != entry.images(shape) => {
            bail!("--out - writes one file, {:?} has only some of its tiles chosen; choose all with --name", entry.name)
        }
        _ => Ok(entry),
    }
}

/// [`archive_output::write`] to a folder that is empty or not there yet, whole or not at all: to a temporary one inside it,
/// then moved up.
/// A folder that is there is used in place: it may be a link, a mount point or the shell's own.
fn write_whole(out: &Path, container: &Container, wanted: &[Wanted], bytes: &[u8]) -> Result<usize> {
    let failed = || format!("cannot write to the folder {}", out.display());
    let new = !out.exists();
    create_folders(out).with_context(failed)?;
    let temporary = out.join(format!(".vdm-{}.tmp", std::process::id()));
    let written = archive_output::write(&temporary, container, wanted, bytes, false).and_then(|files| {
        if files > 0 {
            move_up(&temporary, out).with_context(failed)?;
        }
        Ok(files)
    });
    let _ = fs::remove_dir_all(&temporary);
    if written.is_err() && new {
        let _ = fs::remove_dir(out);
    }
    written
}

/// Moves what is in folder `from` to folder `to`, all of it or nothing.
fn move_up(from: &Path, to: &Path) -> io::Result<()> {
    let mut moved = Vec::new();
    let result = fs::read_dir(from)?.try_for_each(|entry| {
        let entry = entry?;
        let place = to.join(entry.file_name());
        fs::rename(entry.path(), &place)?;
        moved.push((place, entry.path()));
        Ok(())
    });
    if result.is_err() {
        for (place, before) in moved {
            let _ = fs::rename(place, before);
        }
    }
    result
}
