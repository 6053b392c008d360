//! Images in files that a user names, exactly as they are: nothing is resized, cropped or converted.

use crate::shared::watch::say;
use anyhow::{Context, Result, bail};
use image::metadata::Orientation;
use image::{ColorType, ImageDecoder, ImageFormat, ImageReader};
use std::fs::{self, File};
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};
use vdm::ImageShape;
use vdm::codec::{FileEntry, FileKind};
use vdm::data::{ImageDataset, check_whole, read_idx_images, read_idx_labels};
use vdm::picture::grid::value_of;

/// Reads the images of `paths`, which must have the shape and levels given: IDX files and image files, and folders of them
/// with all their subfolders, in the order of the names, hidden files left out. Gives the images and a name for each file.
///
/// A value k of an IDX file is level k. A byte of an image file is the level that `vdm sample --separate` draws as this
/// byte; with 256 levels that is the byte itself.
pub fn read(
    paths: &[PathBuf],
    shape: ImageShape,
    levels: usize,
    skip_bad: bool,
) -> Result<(Vec<FileEntry>, ImageDataset)> {
    let (mut files, mut bytes) = (Vec::new(), Vec::new());
    for (path, name) in found(paths)? {
        let before = bytes.len();
        match read_file(&path, name, shape, levels, &mut bytes) {
            Ok(file) => files.push(file),
            Err(error) if skip_bad => {
                bytes.truncate(before);
                say(&format!("left out: {error:#}"));
            }
            Err(error) => return Err(error.context("use --skip-bad to leave out files like this one")),
        }
    }
    if files.is_empty() {
        bail!("none of the files that were named holds images of {shape}");
    }
    let images = ImageDataset::new("images", shape, levels, bytes, None)?;
    Ok((files, images))
}

/// The files of `paths`, those of folders with all their subfolders included, and the names that they have from there on.
pub fn found(paths: &[PathBuf]) -> Result<Vec<(PathBuf, String)>> {
    let mut found = Vec::new();
    for path in paths {
        if path.is_dir() {
            let before = found.len();
            list(path, "", &mut found)?;
            if found.len() == before {
                bail!("{} holds no files; name a folder of images", path.display());
            }
        } else {
            let name = path.file_name().unwrap_or_default();
            found.push((path.clone(), utf8(path, name.to_str())?.to_string()));
        }
    }
    Ok(found)
}

/// The first image of a file, which must have the shape and levels given.
pub fn read_one(path: &Path, shape: ImageShape, levels: usize) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    read_file(path, String::new(), shape, levels, &mut bytes)?;
    bytes.truncate(shape.dims());
    Ok(bytes)
}

/// The files below a folder with their names from there on, `prefix` before them.
fn list(folder: &Path, prefix: &str, found: &mut Vec<(PathBuf, String)>) -> Result<()> {
    let entries = fs::read_dir(folder).and_then(|entries| entries.collect::<io::Result<Vec<_>>>());
    let mut entries = entries.with_context(|| format!("cannot list {}", folder.display()))?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let (path, name) = (entry.path(), entry.file_name());
        let name = utf8(&path, name.to_str())?;
        if name.starts_with('.') {
            continue;
        }
        if !path.is_dir() {
            found.push((path, format!("{prefix}{name}")));
        } else if path.is_symlink() {
            // It may lead back to a folder above it.
            bail!("{} is a link to a folder; name that folder itself", path.display());
        } else {
            list(&path, &format!("{prefix}{name}/"), found)?;
        }
    }
    Ok(())
}

fn utf8<'a>(path: &Path, name: Option<&'a str>) -> Result<&'a str> {
    name.with_context(|| format!("{}: the name is not UTF-8, in which names are kept; rename the file", path.display()))
}

/// Appends the images of a file to `bytes`.
fn read_file(
    path: &Path,
    mut name: String,
    shape: ImageShape,
    levels: usize,
    bytes: &mut Vec<u8>,
) -> Result<FileEntry> {
    let unreadable = || format!("cannot read {}", path.display());
    // Opening a pipe could wait forever.
    if !fs::metadata(path).with_context(unreadable)?.is_file() {
        bail!("{} is not a regular file", path.display());
    }
    let mut start = Vec::new();
    File::open(path).and_then(|file| file.take(2).read_to_end(&mut start)).with_context(unreadable)?;
    let gzip = start.starts_with(&[0x1f, 0x8b]);
    if gzip || start.starts_with(&[0, 0]) {
        if read_idx_labels(path).is_ok() {
            bail!(
                "{} holds labels, which this format does not keep; store that file beside the compressed one",
                path.display()
            );
        }
        let images = read_idx(path, shape, levels)?;
        let count = images.len() / shape.dims();
        bytes.extend(images);
        if gzip {
            // It comes back unpacked.
            name = name.strip_suffix(".gz").unwrap_or(&name).to_string();
        }
        // The format counts images with 32 bits.
        return Ok(FileEntry::new(name, FileKind::Idx { images: count as u32 }));
    }
    let (format, image) = read_image(path, shape, levels)?;
    bytes.extend(image);
    if format != ImageFormat::Png {
        name.push_str(".png");
    }
    Ok(FileEntry::new(name, FileKind::Png))
}

fn read_idx(path: &Path, shape: ImageShape, levels: usize) -> Result<Vec<u8>> {
    let images = read_idx_images(path)?;
    let found = ImageShape { channels: 1, height: images.height(), width: images.width() };
    if found != shape {
        bail!("{}: expected images of {shape}, which the run was trained on, found {found}", path.display());
    }
    let bytes = images.into_bytes();
    if let Some(at) = bytes.iter().position(|&byte| usize::from(byte) >= levels) {
        bail!(
            "{}: image {}: found the value {}, the run's model has the levels 0 to {}",
            path.display(),
            at / shape.dims(),
            bytes[at],
            levels - 1
        );
    }
    Ok(bytes)
}

/// The format of an image file, and the levels of its image, channels first.
fn read_image(path: &Path, shape: ImageShape, levels: usize) -> Result<(ImageFormat, Vec<u8>)> {
    let at = path.display();
    let damaged = || format!("{at} is no whole PNG, JPEG, WebP or IDX file");
    let file = File::open(path).with_context(damaged)?;
    let reader = ImageReader::new(BufReader::new(file)).with_guessed_format().with_context(damaged)?;
    let Some(format) = reader.format() else { bail!("{}", damaged()) };
    check_whole(path)?;
    let mut decoder = reader.into_decoder().with_context(damaged)?;
    let (width, height) = decoder.dimensions();
    if (width as usize, height as usize) != (shape.width, shape.height) {
        bail!(
            "{at}: expected {} pixels a line and {} lines, as the run was trained on, found {width} and {height}",
            shape.width,
            shape.height
        );
    }
    let color = decoder.color_type();
    let channels = match color {
        ColorType::L8 | ColorType::La8 => 1,
        ColorType::Rgb8 | ColorType::Rgba8 => 3,
        _ => bail!("{at}: expected 8 bits a channel, found {color:?}; that cannot be kept"),
    };
    if channels != shape.channels {
        bail!("{at}: expected {} channels, as the run was trained on, found {color:?} pixels", shape.channels);
    }
    if decoder.orientation().with_context(damaged)? != Orientation::NoTransforms {
        bail!("{at} is stored turned, with a note to turn it back; do that first: `magick in -auto-orient out.png`");
    }
    let mut pixels = vec![0; decoder.total_bytes() as usize];
    decoder.read_image(&mut pixels).with_context(damaged)?;

    let stride = usize::from(color.channel_count());
    if stride > channels && pixels.iter().skip(channels).step_by(stride).any(|&alpha| alpha != u8::MAX) {
        bail!("{at} is transparent in places, which cannot be kept; flatten it onto a background first");
    }
    let mut image = Vec::with_capacity(shape.dims());
    for channel in 0..channels {
        for &byte in pixels.iter().skip(channel).step_by(stride) {
            let Some(value) = value_of(byte, levels) else {
                bail!("{at}: found the brightness {byte}, which is none of the {levels} levels of the run's model");
            };
            image.push(value);
        }
    }
    Ok((format, image))
}
