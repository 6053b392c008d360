//! Which files a container can hold, and under which names.

use super::{FileEntry, FileKind};
use crate::shape::ImageShape;

/// Most bytes of a name.
pub(super) const MAX_NAME: usize = 4096;
/// Most bytes of a file's own name, and of a folder's: more, and file systems refuse it.
const MAX_PART: usize = 255;

/// Says what is wrong with a list of files that are to hold `images` images of `shape`, if anything.
pub(in crate::codec) fn check_files(files: &[FileEntry], shape: ImageShape, images: u64) -> Result<(), String> {
    let of = |file: &FileEntry| file.images(shape) as u64;
    let listed = files.iter().fold(0u64, |sum, file| sum.saturating_add(of(file)));
    if files.is_empty() {
        return Err("there are no files".into());
    }
    for file in files {
        check_name(&file.name)?;
        let idx = matches!(file.kind, FileKind::Idx { .. });
        if file.attributes.is_some_and(|attributes| attributes.mode > 0o777) {
            return Err(format!("{:?} has permissions beyond 0o777", file.name));
        }
        match &file.kind {
            FileKind::Stored(_) => continue,
            FileKind::Tiled { .. } if file.tiling(shape).is_none() => {
                return Err(format!("{:?} has a size or channels that cannot be cut into tiles of {shape}", file.name));
            }
            _ => {}
        }
        if shape.channels != 1 && (idx || shape.channels != 3) {
            let kind = if idx { "an IDX file" } else { "a PNG file" };
            return Err(format!("{:?} is {kind}, which cannot hold images of {} channels", file.name, shape.channels));
        }
        if !idx && of(file) == 0 {
            return Err(format!("{:?} is a folder of no images", file.name));
        }
    }
    if listed != images {
        return Err(format!("the files are said to hold {listed} images, but there are {images}"));
    }
    // Folder by folder, so that a file and whatever lies "below" it are neighbours.
    let mut names: Vec<&str> = files.iter().map(|file| file.name.as_str()).collect();
    names.sort_unstable_by(|a, b| a.split('/').cmp(b.split('/')));
    for pair in names.windows(2) {
        match pair[1].strip_prefix(pair[0]) {
            Some("") => return Err(format!("two files have the name {:?}; rename one", pair[0])),
            Some(rest) if rest.starts_with('/') => {
                return Err(format!("{:?} is the name of a file and of a folder; rename one", pair[0]));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Says why a file of this name cannot be made in a folder, wherever that is, if so.
fn check_name(name: &str) -> Result<(), String> {
    if name.len() > MAX_NAME {
        let start: String = name.chars().take(40).collect();
        return Err(format!("the name {start:?}… has {} bytes, expected at most {MAX_NAME}", name.len()));
    }
    if name.contains(|c: char| c.is_control() || c == '\\') {
        return Err(format!("the name {name:?} has a backslash or a control character; rename the file"));
    }
    if let Some(part) = name.split('/').find(|part| part.len() > MAX_PART) {
        let start: String = part.chars().take(40).collect();
        return Err(format!("the name {start:?}… has {} bytes, expected at most {MAX_PART}; rename it", part.len()));
    }
    if name.split('/').any(|part| matches!(part, "" | "." | "..")) {
        return Err(format!("the name {name:?} is not a relative path of plain names, such as folder/image.png"));
    }
    Ok(())
}
