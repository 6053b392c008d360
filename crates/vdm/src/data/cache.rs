//! Images collected one by one: in memory, or in a cache file that is made once and then mapped, for data sets that are
//! larger than memory.
//!
//! A cache file holds a magic number, the bytes of all images, a description of them as JSON, its length (8 bytes, little
//! endian) and its CRC-32 (4 bytes). The description has the *key* of what the images were made from, so that a cache of
//! other files, or of other options, is made anew; and the images' fingerprint, which is checked whenever it is opened.

use super::dataset::ImageDataset;
use super::error::{DataError, Result};
use super::pixels::Pixels;
use super::read::bytes::io_error;
use crate::files::{remove_litter, write_atomic};
use crate::math::hex;
use crate::shape::ImageShape;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

const MAGIC: &[u8; 8] = b"VDMDATA1";
/// Bytes after the description: its length and its checksum.
const TAIL: u64 = 12;

/// A file that was left out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SkippedImage {
    /// The file. Of a name that is no text, what can be read of it is kept.
    #[serde(serialize_with = "as_text")]
    pub path: PathBuf,
    /// The message of the error that it would have been.
    pub reason: String,
}

fn as_text<S: serde::Serializer>(path: &Path, to: S) -> std::result::Result<S::Ok, S::Error> {
    to.serialize_str(&path.to_string_lossy())
}

/// What is said about images before they are read.
#[derive(Clone, Debug)]
pub(super) struct Heading {
    /// The data set's name.
    pub name: String,
    /// The shape of every image.
    pub shape: ImageShape,
    /// At most so many images will come.
    pub count: usize,
}

/// Takes images one by one.
pub(super) struct Collector<'a> {
    out: Out<'a>,
    count: usize,
    labels: Vec<u32>,
    names: Vec<String>,
    skipped: Vec<SkippedImage>,
}

enum Out<'a> {
    Memory(Vec<u8>),
    File(BufWriter<&'a mut File>, &'a Path),
}

impl<'a> Collector<'a> {
    fn new(out: Out<'a>) -> Self {
        Self { out, count: 0, labels: Vec::new(), names: Vec::new(), skipped: Vec::new() }
    }

    /// Takes an image with its label and name. All images have one, or none has.
    ///
    /// # Errors
    /// [`DataError::Io`] if it cannot be written.
    pub fn push(&mut self, image: &[u8], label: Option<u32>, name: Option<String>) -> Result<()> {
        match &mut self.out {
            Out::Memory(bytes) => bytes.extend_from_slice(image),
            Out::File(file, path) => file.write_all(image).map_err(|reason| io_error(path, "write", reason))?,
        }
        self.count += 1;
        self.labels.extend(label);
        self.names.extend(name);
        Ok(())
    }

    /// Notes a file that gives no image.
    pub fn skip(&mut self, file: SkippedImage) {
        self.skipped.push(file);
    }

    /// Images taken so far.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Files that gave no image so far.
    pub fn skipped(&self) -> usize {
        self.skipped.len()
    }
}

/// Where images are kept.
#[derive(Clone, Copy, Debug)]
pub(super) enum Place<'a> {
    /// In memory.
    Memory,
    /// In a file of a folder.
    Cache {
        /// The folder.
        folder: &'a Path,
        /// What the images are made from, and how: the file is named by it.
        source: &'a str,
        /// In what state that is: a file of another state is replaced.
        state: &'a str,
    },
}

/// The images that `fill` gives, and the files that it left out. In a cache folder they are read from their file, if it is
/// there and right, without calling `fill`.
///
/// # Errors
/// Those of `fill`; [`DataError::Memory`] if memory does not hold them; [`DataError::Io`] if the cache cannot be written.
pub(super) fn collect(
    heading: Heading,
    place: Place,
    fill: impl FnOnce(&mut Collector) -> Result<()>,
) -> Result<(ImageDataset, Vec<SkippedImage>)> {
    let Heading { name, shape, count } = heading;
    let most = (shape.dims() as u64).saturating_mul(count as u64);
    let (folder, source, key) = match place {
        Place::Cache { folder, source, state } => (folder, source, hex(&Sha256::digest(state))),
        Place::Memory => {
            super::memory::check_room(&name, most)?;
            let mut all = Collector::new(Out::Memory(Vec::new()));
            if let Out::Memory(bytes) = &mut all.out {
                // At once, so that no larger copy is ever made; the count is that of files, or one that was checked.
                let refused = |_| DataError::Memory { dataset: name.clone(), needed: most, available: 0 };
                bytes.try_reserve_exact(most as usize).map_err(refused)?;
            }
            fill(&mut all)?;
            let Out::Memory(bytes) = all.out else { unreachable!("it was made above") };
            let labels = (!all.labels.is_empty()).then_some(all.labels);
            let set = ImageDataset::new(name, shape, 256, bytes, labels)?;
            let set = if all.names.is_empty() { set } else { set.with_names(all.names)? };
            return Ok((set, all.skipped));
        }
    };
    let path = folder.join(format!("{name}-{}.vdmdata", hex(&Sha256::digest(source)[..4])));
    match open(&path, &key) {
        Ok(found) => return Ok(found),
        Err(Unusable::Missing) => {}
        Err(Unusable::Other(reason)) => tracing::warn!("{}: {reason}; it is made again", path.display()),
    }
    tracing::info!("{}: made for {count} images, {most} bytes", path.display());
    // A process that was killed at this has left gigabytes.
    remove_litter(folder);
    let mut failed = None;
    let made = write_atomic(&path, |file| {
        let mut out = BufWriter::with_capacity(1 << 20, file);
        out.write_all(MAGIC)?;
        let mut all = Collector::new(Out::File(out, &path));
        if let Err(error) = fill(&mut all) {
            failed = Some(error);
            return Err(io::ErrorKind::Other.into());
        }
        let Out::File(out, _) = all.out else { unreachable!("it was made above") };
        let file = out.into_inner().map_err(io::IntoInnerError::into_error)?;
        let bytes = Pixels::map(file, MAGIC.len()..MAGIC.len() + all.count * shape.dims())?;
        let mut description = Description {
            key: key.clone(),
            name: name.clone(),
            shape: [shape.channels, shape.height, shape.width],
            count: all.count,
            labels: (!all.labels.is_empty()).then_some(all.labels),
            names: (!all.names.is_empty()).then_some(all.names),
            skipped: all.skipped,
            fingerprint: String::new(),
        };
        description.fingerprint = description.dataset(bytes).map_err(io::Error::other)?.fingerprint();
        let json = serde_json::to_vec(&description)?;
        file.write_all(&json)?;
        file.write_all(&(json.len() as u64).to_le_bytes())?;
        file.write_all(&crc32fast::hash(&json).to_le_bytes())
    });
    match (made, failed) {
        (_, Some(error)) => Err(error),
        (Err(reason), None) => Err(io_error(&path, "write", reason)),
        (Ok(()), None) => open(&path, &key).map_err(|unusable| {
            let reason = match unusable {
                Unusable::Missing => "it is gone".to_owned(),
                Unusable::Other(reason) => reason,
            };
            io_error(&path, "read", io::Error::other(reason))
        }),
    }
}

/// What a cache file says about its images.
#[derive(Serialize, Deserialize)]
struct Description {
    key: String,
    name: String,
    shape: [usize; 3],
    count: usize,
    labels: Option<Vec<u32>>,
    names: Option<Vec<String>>,
    skipped: Vec<SkippedImage>,
    fingerprint: String,
}

impl Description {
    fn dataset(&self, bytes: Pixels) -> Result<ImageDataset> {
        let [channels, height, width] = self.shape;
        let shape = ImageShape { channels, height, width };
        let set = ImageDataset::of_pixels(self.name.clone(), shape, 256, bytes, self.labels.clone())?;
        self.names.clone().map_or(Ok(set.clone()), |names| set.with_names(names))
    }
}

/// Why a cache file is not used.
enum Unusable {
    Missing,
    Other(String),
}

impl From<io::Error> for Unusable {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::NotFound => Self::Missing,
            _ => Self::Other(error.to_string()),
        }
    }
}

fn open(path: &Path, key: &str) -> std::result::Result<(ImageDataset, Vec<SkippedImage>), Unusable> {
    let other = |reason: &str| Unusable::Other(reason.into());
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    let mut magic = [0; MAGIC.len()];
    file.read_exact(&mut magic)?;
    if magic != *MAGIC || length < MAGIC.len() as u64 + TAIL {
        return Err(other("it is no cache of images"));
    }
    let mut tail = [0; TAIL as usize];
    file.seek(SeekFrom::Start(length - TAIL))?;
    file.read_exact(&mut tail)?;
    let (size, sum) = tail.split_at(8);
    let size = size.try_into().map(u64::from_le_bytes).unwrap_or(u64::MAX);
    let end = (length - TAIL).checked_sub(size).filter(|end| *end >= MAGIC.len() as u64);
    let Some(end) = end else { return Err(other("it is damaged")) };
    file.seek(SeekFrom::Start(end))?;
    let mut json = Vec::new();
    (&mut file).take(size).read_to_end(&mut json)?;
    if crc32fast::hash(&json).to_le_bytes() != sum {
        return Err(other("it is damaged"));
    }
    let description: Description = serde_json::from_slice(&json).map_err(|error| other(&error.to_string()))?;
    if description.key != key {
        return Err(other("it was made from other files or by other options"));
    }
    let bytes = Pixels::map(&file, MAGIC.len()..end as usize)?;
    let set = description.dataset(bytes).map_err(|error| other(&error.to_string()))?;
    if set.len() != description.count || set.fingerprint() != description.fingerprint {
        return Err(other("its images are damaged"));
    }
    Ok((set.with_fingerprint(description.fingerprint), description.skipped))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    const SHAPE: ImageShape = ImageShape { channels: 1, height: 1, width: 2 };

    /// Three images, of which one is skipped, from a cache of this state; and whether they were made.
    fn cached(folder: &Path, state: &str) -> (ImageDataset, Vec<SkippedImage>, bool) {
        let mut made = false;
        let place = Place::Cache { folder, source: "here", state };
        let (set, skipped) = collect(Heading { name: "few".into(), shape: SHAPE, count: 3 }, place, |all| {
            made = true;
            all.push(&[1, 2], Some(0), Some("a".into()))?;
            all.skip(SkippedImage { path: "b".into(), reason: "bad".into() });
            all.push(&[255, 4], Some(1), Some("c".into()))
        })
        .unwrap();
        (set, skipped, made)
    }

    fn file(folder: &Path) -> PathBuf {
        let mut files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        let file = files.next().unwrap();
        assert_eq!(files.next(), None, "one file, and nothing else");
        file
    }

    #[test]
    fn a_cache_is_made_once_and_gives_what_memory_gives() {
        let dir = tempfile::tempdir().unwrap();
        let (first, skipped, made) = cached(dir.path(), "1");
        assert!(made && skipped.len() == 1);
        let plain = ImageDataset::new("few", SHAPE, 256, vec![1, 2, 255, 4], Some(vec![0, 1])).unwrap();
        let plain = plain.with_names(vec!["a".into(), "c".into()]).unwrap();
        assert_eq!(first.fingerprint(), plain.fingerprint());
        let (second, skipped_again, made) = cached(dir.path(), "1");
        assert!(!made);
        for (set, left_out) in [(first, skipped.clone()), (second, skipped_again)] {
            assert_eq!((set.bytes(), set.labels(), set.names()), (plain.bytes(), plain.labels(), plain.names()));
            assert_eq!(left_out, skipped);
            assert_eq!(set.subset(1..2).unwrap().fingerprint(), plain.subset(1..2).unwrap().fingerprint());
        }
    }

    #[test]
    fn a_cache_of_other_files_is_made_again_in_its_place() {
        let dir = tempfile::tempdir().unwrap();
        assert!(cached(dir.path(), "1").2);
        assert!(cached(dir.path(), "2").2);
        assert!(!cached(dir.path(), "2").2);
        file(dir.path());
    }

    #[test]
    fn a_cache_with_any_damaged_byte_or_cut_is_made_again() {
        let dir = tempfile::tempdir().unwrap();
        cached(dir.path(), "1");
        let path = file(dir.path());
        let whole = fs::read(&path).unwrap();
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 1 << (at % 8);
            fs::write(&path, &damaged).unwrap();
            assert!(cached(dir.path(), "1").2, "byte {at}");
            fs::write(&path, &whole[..at]).unwrap();
            assert!(cached(dir.path(), "1").2, "cut at {at}");
            assert_eq!(fs::read(&path).unwrap(), whole);
        }
    }

    #[test]
    fn a_failed_reading_leaves_no_cache() {
        let dir = tempfile::tempdir().unwrap();
        let place = Place::Cache { folder: dir.path(), source: "here", state: "1" };
        let failed = collect(Heading { name: "few".into(), shape: SHAPE, count: 3 }, place, |all| {
            all.push(&[1, 2], None, None)?;
            Err(DataError::NothingToJoin)
        });
        assert!(matches!(failed, Err(DataError::NothingToJoin)));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn images_beyond_memory_are_refused_before_they_are_read() {
        let heading = Heading { name: "many".into(), shape: SHAPE, count: usize::MAX / 4 };
        let failed = collect(heading, Place::Memory, |_| panic!("they were read"));
        assert!(matches!(failed, Err(DataError::Memory { .. })));
    }
}
