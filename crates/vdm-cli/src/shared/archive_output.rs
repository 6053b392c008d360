//! The files that come out of a compressed one.

use anyhow::{Context, Result, bail};
use image::codecs::png::PngEncoder;
use image::{ExtendedColorType, GrayImage, ImageEncoder, ImageFormat};
use std::fs::{self, File, FileTimes};
use std::ops::Range;
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};
use vdm::ImageShape;
use vdm::codec::{Attributes, Container, FileEntry, FileKind, Packed};
use vdm::data::{IdxImages, write_idx_images};
use vdm::files::{create_folders, write_bytes};
use vdm::picture::grid;

/// An entry of a container, and which of its images are wanted.
pub struct Wanted<'a> {
    pub entry: &'a FileEntry,
    /// Numbers of its images, counted in this entry.
    pub images: Range<usize>,
}

/// The entries that have images number `first .. first + count` of the container, with those that have no images where these
/// are all of them.
pub fn in_range(container: &Container, first: usize, count: usize) -> Vec<Wanted<'_>> {
    let (mut start, mut wanted) = (0, Vec::new());
    let all = first == 0 && count >= container.images();
    for entry in &container.files {
        let end = start + entry.images(container.shape);
        let (from, to) = (start.clamp(first, first + count), end.clamp(first, first + count));
        if from < to || all {
            wanted.push(Wanted { entry, images: from.max(start) - start..to.max(start) - start });
        }
        start = end;
    }
    wanted
}

/// The entry of this name, with all its images, and the number of the first of them in the container.
pub fn of_name<'a>(container: &'a Container, name: &str) -> Option<(Wanted<'a>, usize)> {
    let mut start = 0;
    for entry in &container.files {
        let images = entry.images(container.shape);
        if entry.name == name {
            return Some((Wanted { entry, images: 0..images }, start));
        }
        start += images;
    }
    None
}

/// Writes entries to a folder; `bytes` holds the images that are wanted of them. The number of entries written.
pub fn write(
    folder: &Path,
    container: &Container,
    wanted: &[Wanted],
    mut bytes: &[u8],
    overwrite: bool,
) -> Result<usize> {
    for Wanted { entry, images } in wanted {
        let (own, rest) = bytes.split_at(images.len() * container.shape.dims());
        bytes = rest;
        let path = place(folder, entry, overwrite)?;
        let failed = || format!("cannot write {}", path.display());
        let whole = images.len() == entry.images(container.shape);
        match entry.kind {
            FileKind::Series { .. } => {
                grid::save_images(&path, own, container.shape, container.levels, images.start as u64)?;
            }
            // Some tiles of an image are no image of its size.
            FileKind::Tiled { .. } if !whole => {
                let folder = path.with_added_extension("tiles");
                grid::save_images(&folder, own, container.shape, container.levels, images.start as u64)?;
            }
            _ => {
                if let Some(folder) = path.parent() {
                    create_folders(folder).with_context(failed)?;
                }
                write_bytes(&path, &content(entry, own, container.shape, container.levels)?).with_context(failed)?;
                if let Some(attributes) = entry.attributes {
                    apply(&path, attributes).with_context(failed)?;
                }
            }
        }
    }
    Ok(wanted.len())
}

/// Where an entry is written.
fn place(folder: &Path, entry: &FileEntry, overwrite: bool) -> Result<PathBuf> {
    let name = Path::new(&entry.name);
    // What is a plain relative path differs from system to system.
    if !name.components().all(|part| matches!(part, Component::Normal(_))) {
        bail!("this system cannot have a file of the name {:?} in a folder", entry.name);
    }
    let path = folder.join(name);
    if !overwrite && path.exists() {
        // Names that differ in the case of a letter, for instance.
        bail!("this system does not tell the name {:?} from that of another file of the archive", entry.name);
    }
    Ok(path)
}

/// The bytes of the file that an entry and its images are.
pub fn content(entry: &FileEntry, images: &[u8], shape: ImageShape, levels: usize) -> Result<Vec<u8>> {
    let of_entry = || format!("cannot make the file {:?}", entry.name);
    Ok(match &entry.kind {
        FileKind::Idx { .. } => {
            let mut file = Vec::new();
            write_idx_images(&mut file, &IdxImages::new(shape.height, shape.width, images.to_vec())?)?;
            file
        }
        FileKind::Png => grid::grid_png(images, shape, levels, 1, 1).with_context(of_entry)?,
        FileKind::Stored(packed) => packed.unpack().with_context(of_entry)?,
        FileKind::Tiled { channels, width, height, alpha, .. } => {
            let tiling = entry.tiling(shape).with_context(of_entry)?;
            let planes = tiling.join(images);
            png(&planes, (*channels).into(), [*width, *height], levels, alpha.as_ref()).with_context(of_entry)?
        }
        FileKind::Series { .. } => bail!("{:?} is a folder of images, not a file", entry.name),
    })
}

/// A PNG file of planes of levels, with an opacity.
fn png(
    planes: &[u8],
    channels: usize,
    [width, height]: [u32; 2],
    levels: usize,
    alpha: Option<&Packed>,
) -> Result<Vec<u8>> {
    let pixels = width as usize * height as usize;
    let opacity = alpha.map(|alpha| opacity(alpha, width, height)).transpose()?;
    let mut interleaved = Vec::with_capacity(pixels * 4);
    for pixel in 0..pixels {
        interleaved.extend((0..channels).map(|c| grid::brightness(planes[c * pixels + pixel], levels)));
        interleaved.extend(opacity.as_ref().map(|opacity| opacity.as_raw()[pixel]));
    }
    let color = match (channels, opacity.is_some()) {
        (1, false) => ExtendedColorType::L8,
        (1, true) => ExtendedColorType::La8,
        (_, false) => ExtendedColorType::Rgb8,
        (_, true) => ExtendedColorType::Rgba8,
    };
    let mut png = Vec::new();
    PngEncoder::new(&mut png).write_image(&interleaved, width, height, color)?;
    Ok(png)
}

/// The opacity of every pixel.
fn opacity(packed: &Packed, width: u32, height: u32) -> Result<GrayImage> {
    let bytes = packed.unpack()?;
    let mut reader = image::ImageReader::with_format(std::io::Cursor::new(bytes), ImageFormat::Png);
    let mut limits = image::Limits::default();
    (limits.max_image_width, limits.max_image_height) = (Some(width), Some(height));
    reader.limits(limits);
    let opacity = reader.decode()?;
    match opacity.as_luma8() {
        Some(opacity) if opacity.dimensions() == (width, height) => Ok(opacity.clone()),
        _ => bail!("its opacity is no grey image of its size"),
    }
}

/// Gives a file its permissions and its time.
fn apply(path: &Path, attributes: Attributes) -> std::io::Result<()> {
    let seconds = Duration::from_secs(attributes.modified.unsigned_abs());
    let modified =
        if attributes.modified < 0 { UNIX_EPOCH.checked_sub(seconds) } else { UNIX_EPOCH.checked_add(seconds) };
    if let Some(modified) = modified {
        File::options().write(true).open(path)?.set_times(FileTimes::new().set_modified(modified))?;
    }
    let mut permissions = fs::metadata(path)?.permissions();
    #[cfg(unix)]
    std::os::unix::fs::PermissionsExt::set_mode(&mut permissions, attributes.mode);
    #[cfg(not(unix))]
    permissions.set_readonly(attributes.mode & 0o200 == 0);
    fs::set_permissions(path, permissions)
}
