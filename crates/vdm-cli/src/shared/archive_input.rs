//! Any files that a user wants to compress.
//!
//! What the model can code becomes images: IDX files of its shape, and PNG files of at most 8 bits a channel, grey or RGB,
//! with or without opacity; palettes and fewer bits become 8 bits. An image of the model's own shape is one image, any other is cut into tiles. All else is kept as it is:
//! files of other kinds, and images that were compressed with losses, which take fewer bytes as they are.

use super::image_files::found;
use super::watch::say;
use anyhow::{Context, Result, bail};
use image::codecs::png::PngDecoder;
use image::{ColorType, ExtendedColorType, ImageDecoder, ImageEncoder};
use std::fs;
use std::io::{self, Cursor, Read};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;
use vdm::ImageShape;
use vdm::codec::tiles::{MAX_SIDE, Tiling};
use vdm::codec::{Attributes, FileEntry, FileKind, Input, Packed};
use vdm::data::parse_idx_images;
use vdm::picture::grid::value_of;

/// Most bytes of a file.
const MAX_FILE: u64 = 1 << 30;
/// Most pixels of an image that is decoded.
const MAX_PIXELS: u64 = 1 << 28;

/// Reads the files of `paths`, folders with all their subfolders, in the order of the names, hidden files left out. A path
/// `-` is the standard input, whose file has the name `stdin`.
pub fn read(paths: &[PathBuf], shape: ImageShape, levels: usize, skip_bad: bool) -> Result<Vec<Input>> {
    let mut inputs = Vec::new();
    let (standard, paths): (Vec<&PathBuf>, Vec<&PathBuf>) = paths.iter().partition(|path| path.as_os_str() == "-");
    if !standard.is_empty() {
        let mut bytes = Vec::new();
        let read = io::stdin().lock().take(MAX_FILE + 1).read_to_end(&mut bytes);
        if read.context("cannot read the standard input")? as u64 > MAX_FILE {
            bail!("the standard input has more than the {MAX_FILE} bytes that are read");
        }
        let known = known(&bytes, shape, levels);
        // What was packed with gzip would come back unpacked, but under the same name.
        let known = known.filter(|_| !bytes.starts_with(&GZIP));
        inputs.push(input("stdin".into(), bytes, None, known));
    }
    let paths: Vec<PathBuf> = paths.into_iter().cloned().collect();
    for (path, name) in found(&paths)? {
        match read_file(&path) {
            Ok((bytes, attributes)) => {
                let known = known(&bytes, shape, levels);
                // What was packed with gzip comes back unpacked.
                let is_idx = matches!(known, Some((FileKind::Idx { .. }, _)));
                let unpacked = if is_idx { name.strip_suffix(".gz").unwrap_or(&name) } else { &name };
                inputs.push(input(unpacked.to_string(), bytes, attributes, known));
            }
            Err(error) if skip_bad => say(&format!("left out: {error:#}")),
            Err(error) => return Err(error.context("use --skip-bad to leave out files like this one")),
        }
    }
    if inputs.is_empty() {
        bail!("none of the files that were named can be read; there is nothing to compress");
    }
    Ok(inputs)
}

/// What comes back, and its images.
type Known = (FileKind, Vec<u8>);

/// The first bytes of what gzip packs.
const GZIP: [u8; 2] = [0x1f, 0x8b];

/// What there is to code of a file with these bytes.
fn input(name: String, bytes: Vec<u8>, attributes: Option<Attributes>, known: Option<Known>) -> Input {
    let (kind, images, original) = match known {
        // An IDX file that was packed comes back otherwise than it is.
        Some((kind @ FileKind::Idx { .. }, images)) if bytes.starts_with(&GZIP) => (kind, images, None),
        Some((kind, images)) => (kind, images, Some(bytes)),
        None => (FileKind::Stored(Packed::new(bytes)), Vec::new(), None),
    };
    Input { entry: FileEntry { name, kind, attributes }, images, original }
}

/// The bytes of a file, and what else is kept of it.
fn read_file(path: &Path) -> Result<(Vec<u8>, Option<Attributes>)> {
    let unreadable = || format!("cannot read {}", path.display());
    let about = fs::metadata(path).with_context(unreadable)?;
    // Opening a pipe could wait forever.
    if !about.is_file() {
        bail!("{} is not a regular file", path.display());
    }
    if about.len() > MAX_FILE {
        bail!("{} has {} bytes, more than the {MAX_FILE} that are read", path.display(), about.len());
    }
    Ok((fs::read(path).with_context(unreadable)?, attributes(&about)))
}

fn attributes(about: &fs::Metadata) -> Option<Attributes> {
    let changed = about.modified().ok()?;
    let modified = match changed.duration_since(UNIX_EPOCH) {
        Ok(after) => i64::try_from(after.as_secs()).ok()?,
        Err(before) => -i64::try_from(before.duration().as_secs()).ok()?,
    };
    Some(Attributes { mode: mode(about), modified })
}

#[cfg(unix)]
fn mode(about: &fs::Metadata) -> u32 {
    std::os::unix::fs::PermissionsExt::mode(&about.permissions()) & 0o777
}

#[cfg(not(unix))]
fn mode(about: &fs::Metadata) -> u32 {
    if about.permissions().readonly() { 0o444 } else { 0o644 }
}

/// What the model can code of these bytes.
fn known(bytes: &[u8], shape: ImageShape, levels: usize) -> Option<Known> {
    idx(bytes, shape, levels).or_else(|| png(bytes, shape, levels))
}

/// The images of an IDX file of the model's shape and levels.
fn idx(bytes: &[u8], shape: ImageShape, levels: usize) -> Option<Known> {
    if !bytes.starts_with(&GZIP) && !bytes.starts_with(&[0, 0]) {
        return None;
    }
    let images = parse_idx_images(bytes, "").ok()?;
    let found = ImageShape { channels: 1, height: images.height(), width: images.width() };
    let count = u32::try_from(images.len()).ok()?;
    let bytes = images.into_bytes();
    let fits = found == shape && count > 0 && bytes.iter().all(|&byte| usize::from(byte) < levels);
    fits.then_some((FileKind::Idx { images: count }, bytes))
}

/// The image, or the tiles, of a PNG file of at most 8 bits a channel.
fn png(bytes: &[u8], shape: ImageShape, levels: usize) -> Option<Known> {
    let decoder = PngDecoder::new(Cursor::new(bytes)).ok()?;
    let (width, height) = decoder.dimensions();
    let small = width <= MAX_SIDE && height <= MAX_SIDE && u64::from(width) * u64::from(height) <= MAX_PIXELS;
    let color = decoder.color_type();
    // What follows the image, such as another file that someone hid there, would be lost without a word.
    if !small || decoder.is_apng().unwrap_or(true) || png_length(bytes) != Some(bytes.len()) {
        return None;
    }
    let (channels, opaque) = match color {
        ColorType::L8 => (1, true),
        ColorType::La8 => (1, false),
        ColorType::Rgb8 => (3, true),
        ColorType::Rgba8 => (3, false),
        _ => return None,
    };
    let mut pixels = vec![0; usize::try_from(decoder.total_bytes()).ok()?];
    decoder.read_image(&mut pixels).ok()?;
    let stride = usize::from(color.channel_count());
    let plane = |channel: usize| pixels.iter().skip(channel).step_by(stride);
    let opacity: Vec<u8> = if opaque { Vec::new() } else { plane(channels).copied().collect() };
    // A file with opacity comes back with it, even where all of it is opaque.
    let alpha = if opaque { None } else { Some(Packed::new(grey_png(&opacity, width, height)?)) };
    let planes: Option<Vec<u8>> = (0..channels).flat_map(plane).map(|&byte| value_of(byte, levels)).collect();
    let planes = planes?;
    let own = ImageShape { channels, height: height as usize, width: width as usize };
    if own == shape && alpha.is_none() {
        return Some((FileKind::Png, planes));
    }
    let tiling = Tiling::new(shape, channels, own.width, own.height)?;
    let margin = mean(&planes);
    let tiles = tiling.cut(&planes, margin);
    Some((FileKind::Tiled { channels: channels as u8, width, height, margin, alpha }, tiles))
}

/// The mean level, rounded: a margin of it changes least to what is beside it.
fn mean(levels: &[u8]) -> u8 {
    let (sum, n) = (levels.iter().map(|&level| u64::from(level)).sum::<u64>(), levels.len().max(1) as u64);
    ((sum + n / 2) / n) as u8
}

/// The bytes of a PNG file from its start to the end of its last chunk (PNG specification, sections 5.2 and 5.3).
fn png_length(bytes: &[u8]) -> Option<usize> {
    let mut at = 8;
    loop {
        let (length, kind) = bytes.get(at..)?.split_first_chunk::<4>()?;
        let end = at.checked_add(12)?.checked_add(u32::from_be_bytes(*length) as usize)?;
        if kind.starts_with(b"IEND") {
            return Some(end);
        }
        at = end;
    }
}

fn grey_png(pixels: &[u8], width: u32, height: u32) -> Option<Vec<u8>> {
    let mut png = Vec::new();
    image::codecs::png::PngEncoder::new(&mut png).write_image(pixels, width, height, ExtendedColorType::L8).ok()?;
    Some(png)
}
