//! A folder of image files.
//!
//! Use it for images of your own: PNG, JPEG and WebP, told by content and not
//! by name, grey or RGB. An image is resized with a Lanczos filter so that its
//! shorter side is the size asked for (only where it is not already), and the
//! middle is cropped. An image of exactly that size comes through byte for
//! byte, except that JPEG and lossy WebP have lost what they lost before.
//!
//! Files are taken in the order of their names, leaving hidden ones (names
//! with a leading dot) out. Either the folder holds the files, or it holds
//! subfolders; then each of them is a class, numbered in the order of their
//! names, and its files are that class's images. A subfolder without files is
//! no class. Images beside subfolders are an error, because either reading of
//! them would lose images silently; other files beside subfolders are errors
//! by name, or skipped where bad files are.
//!
//! Subfolders `train` and `test`, and `valid` or `val`, are the splits; further
//! subfolders beside these are an error. Otherwise the name of each file, and
//! nothing else, decides its split, so that adding files moves no other: one in
//! ten is for the test, one in twenty for validation.
//!
//! The rotation that a camera noted in the file is applied. What cannot be
//! kept exactly is refused with advice: transparency, and more than 8 bits a
//! channel. Grey images asked for as RGB are repeated in three channels; RGB
//! images asked for as grey become their luma, which is lossy.

use std::ffi::OsString;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::thread;

use serde::{Deserialize, Serialize};

use crate::data::Source;
use crate::data::cache::{Collector, Heading, Place, SkippedImage, collect};
use crate::data::dataset::ImageDataset;
use crate::data::error::{DataError, Result};
use crate::data::read::bytes::{io_error, open_file, stamp};
use crate::data::read::image_file::read_image;
use crate::data::split::Split;
use crate::shape::ImageShape;

/// The largest side to resize to, in pixels.
const MAX_SIZE: usize = 1024;

/// How many files are decoded before their results are looked at. A bad file
/// is reported after at most this much needless work.
const BLOCK: usize = 256;

/// How to read a folder of images.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FolderOptions {
    /// Height and width of the images made, in pixels, 1 to 1024.
    pub size: usize,
    /// 1 for grey or 3 for RGB.
    pub channels: usize,
    /// Whether to leave out files that are not usable images, and say which,
    /// instead of failing at the first.
    pub skip_bad: bool,
}

/// What a folder gave.
#[derive(Clone, Debug)]
pub struct FolderImages {
    /// The images, with names (`file`, or `class/file`), 256 levels, and
    /// labels where there were class subfolders.
    pub dataset: ImageDataset,
    /// The files left out, in order; empty unless
    /// [`skip_bad`](FolderOptions::skip_bad) is set.
    pub skipped: Vec<SkippedImage>,
}

/// Load all images of a folder, whatever split they belong to.
///
/// # Errors
///
/// [`DataError::InvalidOption`], [`DataError::Io`],
/// [`DataError::EmptyFolder`], [`DataError::MixedFolder`]; and of a file,
/// unless `skip_bad` is set, [`DataError::StrayFile`],
/// [`DataError::UnreadableImage`], [`DataError::Transparent`],
/// [`DataError::BitDepth`] and [`DataError::Elongated`].
pub fn load_folder(dir: impl AsRef<Path>, options: &FolderOptions) -> Result<FolderImages> {
    let dir = dir.as_ref();
    checked_size(options)?;
    assemble(folder_name(dir), Path::new(""), dir, list(dir, &class_names(&[dir])?, options)?, options)
}

/// Load one split of a folder: that of its subfolder, or the files whose names fall into it.
///
/// # Errors
///
/// As [`load_folder`], and [`DataError::EmptySplit`] where no name falls into
/// the split, [`DataError::MissingFile`] where the folder has a subfolder
/// `train` and none for the split.
pub fn load_folder_split(dir: impl AsRef<Path>, options: &FolderOptions, split: Split) -> Result<FolderImages> {
    split_in(dir.as_ref(), Path::new(""), options, split)
}

/// [`load_folder_split`] with the images in a file of the folder `cache`, if it names one.
fn split_in(dir: &Path, cache: &Path, options: &FolderOptions, split: Split) -> Result<FolderImages> {
    checked_size(options)?;
    let name = format!("{}-{split}", folder_name(dir));
    let brought = brought_splits(dir)?;
    let (dir, classes, by_name): (PathBuf, _, fn(Split, &str) -> bool) = if brought.is_empty() {
        (dir.to_owned(), class_names(&[dir])?, |split, name| Split::of_name(name) == split)
    } else {
        let folders: Vec<PathBuf> = brought.iter().map(|name| dir.join(name)).collect();
        let classes = class_names(&folders.iter().map(PathBuf::as_path).collect::<Vec<_>>())?;
        let names: &[&str] = match split {
            Split::Train => &["train"],
            Split::Valid => &["valid", "val"],
            Split::Test => &["test"],
        };
        let own = names.iter().find(|name| brought.contains(name));
        let brings_valid = ["valid", "val"].iter().any(|name| brought.contains(name));
        match (split, own) {
            (Split::Train, Some(own)) if !brings_valid => {
                (dir.join(own), classes, |_, name| Split::of_name(name) != Split::Valid)
            }
            (_, Some(own)) => (dir.join(own), classes, |_, _| true),
            (Split::Valid, None) => (dir.join("train"), classes, |_, name| Split::of_name(name) == Split::Valid),
            _ => return Err(DataError::MissingFile { dir: dir.to_owned(), expected: names.join(", ") }),
        }
    };
    let mut listing = list(&dir, &classes, options)?;
    let found = listing.files.len();
    listing.files.retain(|file| by_name(split, &file.name));
    if listing.files.is_empty() {
        return Err(DataError::EmptySplit { path: dir, split, found });
    }
    assemble(name, cache, &dir, listing, options)
}

/// The subfolders by which a folder brings splits of its own: none, or `train` and others.
fn brought_splits(dir: &Path) -> Result<Vec<&'static str>> {
    let (_, folders) = scan(dir)?;
    let known = ["train", "valid", "val", "test"];
    let brought: Vec<&str> = known.into_iter().filter(|name| folders.iter().any(|folder| folder == name)).collect();
    if brought.contains(&"train") && brought.len() > 1 {
        // Taken for classes, the splits would be mixed: trained on and tested with the same.
        let other = folders.iter().find(|folder| known.iter().all(|name| folder != name));
        if let Some(other) = other {
            let other = other.to_string_lossy().into_owned();
            return Err(DataError::SplitsAndOthers { path: dir.to_owned(), splits: brought.join(", "), other });
        }
    }
    Ok(if brought.contains(&"train") && brought.len() == folders.len() { brought } else { Vec::new() })
}

/// The classes of some folders: the names of all subfolders that hold files, in order.
fn class_names(dirs: &[&Path]) -> Result<Vec<OsString>> {
    let mut names = Vec::new();
    for dir in dirs {
        for folder in scan(dir)?.1 {
            if !scan(&dir.join(&folder))?.0.is_empty() {
                names.push(folder);
            }
        }
    }
    names.sort_unstable();
    names.dedup();
    Ok(names)
}

/// What a folder holds.
struct Listing {
    files: Vec<ImageFile>,
    /// What is left out, and why.
    skipped: Vec<SkippedImage>,
}

/// A file that should be an image.
struct ImageFile {
    path: PathBuf,
    name: String,
    label: Option<u32>,
}

fn checked_size(options: &FolderOptions) -> Result<u32> {
    if !matches!(options.channels, 1 | 3) {
        return Err(DataError::InvalidOption {
            field: "channels",
            expected: "1 (grey) or 3 (RGB)",
            found: options.channels.to_string(),
        });
    }
    match u32::try_from(options.size) {
        Ok(size) if (1..=MAX_SIZE).contains(&options.size) => Ok(size),
        _ => Err(DataError::InvalidOption {
            field: "size",
            expected: "1 to 1024 pixels",
            found: options.size.to_string(),
        }),
    }
}

fn folder_name(dir: &Path) -> String {
    dir.file_name().map_or_else(|| "folder".to_owned(), |name| name.to_string_lossy().into_owned())
}

/// The files of a folder or of its class subfolders, in order.
fn list(dir: &Path, classes: &[OsString], options: &FolderOptions) -> Result<Listing> {
    let (files, folders) = scan(dir)?;
    let is_image = |name: &OsString| starts_as_image(&dir.join(name));
    let mut skipped = Vec::new();
    if folders.is_empty() || files.iter().any(is_image) {
        if !files.is_empty() {
            refuse_folders(dir, &folders)?;
        }
        let files: Vec<ImageFile> = files
            .into_iter()
            .map(|name| ImageFile { path: dir.join(&name), name: name.to_string_lossy().into_owned(), label: None })
            .collect();
        if files.is_empty() {
            return Err(DataError::EmptyFolder { path: dir.to_owned(), found: "nothing".into() });
        }
        return Ok(Listing { files, skipped });
    }
    for name in files {
        let error = DataError::StrayFile { path: dir.join(&name) };
        if !options.skip_bad {
            return Err(error);
        }
        skipped.push(SkippedImage { path: dir.join(&name), reason: error.to_string() });
    }
    let mut all = Vec::new();
    for class in &folders {
        let class_dir = dir.join(class);
        let (files, deeper) = scan(&class_dir)?;
        refuse_folders(&class_dir, &deeper)?;
        let label = classes.iter().position(|name| name == class).map(|label| label as u32);
        if files.is_empty() && label.is_none() {
            let reason = format!("{}: a subfolder without files is no class", class_dir.display());
            skipped.push(SkippedImage { path: class_dir, reason });
            continue;
        }
        all.extend(files.into_iter().map(|name| ImageFile {
            path: class_dir.join(&name),
            name: format!("{}/{}", class.to_string_lossy(), name.to_string_lossy()),
            label,
        }));
    }
    if all.is_empty() {
        let found = format!("{} subfolders with nothing in them", folders.len());
        return Err(DataError::EmptyFolder { path: dir.to_owned(), found });
    }
    Ok(Listing { files: all, skipped })
}

/// Whether a file starts as one of the formats that are read.
fn starts_as_image(path: &Path) -> bool {
    let mut start = Vec::new();
    let read = open_file(path).ok().and_then(|(file, _)| file.take(16).read_to_end(&mut start).ok());
    read.is_some() && image::guess_format(&start).is_ok()
}

fn refuse_folders(dir: &Path, folders: &[OsString]) -> Result<()> {
    match folders.first() {
        None => Ok(()),
        Some(name) => Err(DataError::MixedFolder { path: dir.to_owned(), found: name.to_string_lossy().into_owned() }),
    }
}

/// The names in a folder that are not hidden: files and subfolders, sorted.
fn scan(dir: &Path) -> Result<(Vec<OsString>, Vec<OsString>)> {
    let (mut files, mut folders) = (Vec::new(), Vec::new());
    for entry in fs::read_dir(dir).map_err(|reason| io_error(dir, "list", reason))? {
        let name = entry.map_err(|reason| io_error(dir, "list", reason))?.file_name();
        if name.as_encoded_bytes().starts_with(b".") {
            continue;
        }
        if dir.join(&name).is_dir() {
            folders.push(name);
        } else {
            files.push(name);
        }
    }
    files.sort_unstable();
    folders.sort_unstable();
    Ok((files, folders))
}

/// The state of what a cache of these images is made from: all files with their sizes and times.
fn state_of(listing: &Listing) -> String {
    let files = listing.files.iter().map(|file| format!("{:?} {:?} {}\n", file.name, file.label, stamp(&file.path)));
    files.chain(listing.skipped.iter().map(|file| format!("{:?}\n", file.path))).collect()
}

fn assemble(name: String, cache: &Path, dir: &Path, listing: Listing, options: &FolderOptions) -> Result<FolderImages> {
    let (source, state);
    let place = if cache.as_os_str().is_empty() {
        Place::Memory
    } else {
        source = format!("{:?} {options:?}", dir.canonicalize());
        state = state_of(&listing);
        Place::Cache { folder: cache, source: &source, state: &state }
    };
    let Listing { files, skipped } = listing;
    let size = checked_size(options)?;
    let shape = ImageShape { channels: options.channels, height: options.size, width: options.size };
    let heading = Heading { name, shape, count: files.len() };
    let fill = |all: &mut Collector| {
        skipped.into_iter().for_each(|file| all.skip(file));
        for block in files.chunks(BLOCK) {
            for (file, outcome) in block.iter().zip(read_block(block, size, options.channels)) {
                match outcome {
                    Ok(image) => all.push(&image, file.label, Some(file.name.clone()))?,
                    Err(error) if options.skip_bad => {
                        all.skip(SkippedImage { path: file.path.clone(), reason: error.to_string() })
                    }
                    Err(error) => return Err(error),
                }
            }
        }
        if all.count() == 0 {
            let found = format!("{} files that are not usable images", all.skipped());
            return Err(DataError::EmptyFolder { path: dir.to_owned(), found });
        }
        Ok(())
    };
    let (dataset, skipped) = collect(heading, place, fill)?;
    Ok(FolderImages { dataset, skipped })
}

/// Decode files on all cores, giving the results in the order of the files.
fn read_block(files: &[ImageFile], size: u32, channels: usize) -> Vec<Result<Vec<u8>>> {
    let threads = thread::available_parallelism().map_or(1, |count| count.get());
    let share = files.len().div_ceil(threads).max(1);
    let read = |file: &ImageFile| read_image(&file.path, size, channels);
    thread::scope(|scope| {
        let workers: Vec<_> =
            files.chunks(share).map(|part| scope.spawn(move || part.iter().map(read).collect::<Vec<_>>())).collect();
        let results = workers.into_iter().map(|worker| match worker.join() {
            Ok(results) => results,
            Err(panic) => std::panic::resume_unwind(panic),
        });
        results.flatten().collect()
    })
}

/// The source `folder` of a configuration: a folder of image files; see [`load_folder_split`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FolderSource {
    /// The folder.
    pub dir: PathBuf,
    /// Height and width to resize to, in pixels.
    pub size: usize,
    /// 1 for grey or 3 for RGB.
    pub channels: usize,
    /// Whether to leave out files that are not usable images, with a warning for each, instead of failing.
    pub skip_bad: bool,
    /// A folder for a file of all images as bytes, for data sets larger than memory: made once, then mapped. Empty for none.
    pub cache: PathBuf,
}

impl Default for FolderSource {
    /// RGB images of 32x32 pixels; a bad file is an error.
    fn default() -> Self {
        Self { dir: PathBuf::new(), size: 32, channels: 3, skip_bad: false, cache: PathBuf::new() }
    }
}

impl FolderSource {
    fn options(&self) -> FolderOptions {
        FolderOptions { size: self.size, channels: self.channels, skip_bad: self.skip_bad }
    }
}

impl Source for FolderSource {
    fn load(&self, split: Split) -> Result<ImageDataset> {
        let images = split_in(&self.dir, &self.cache, &self.options(), split)?;
        for file in &images.skipped {
            let path = file.path.display();
            tracing::warn!(%path, reason = %file.reason, "skipped a file");
        }
        Ok(images.dataset)
    }

    fn dir_mut(&mut self) -> Option<&mut PathBuf> {
        Some(&mut self.dir)
    }

    fn cache_mut(&mut self) -> Option<&mut PathBuf> {
        Some(&mut self.cache)
    }

    fn check(&self) -> Result<()> {
        checked_size(&self.options()).map(|_| ())
    }
}

#[cfg(test)]
mod tests {
    use image::codecs::png::PngEncoder;
    use image::{
        DynamicImage, ExtendedColorType, GrayImage, ImageEncoder, ImageFormat, Luma, Rgb, RgbImage, Rgba, RgbaImage,
    };
    use proptest::prelude::*;

    use super::*;
    use crate::data::testing::{assert_says, put};

    const RGB: FolderOptions = FolderOptions { size: 4, channels: 3, skip_bad: false };
    const GREY: FolderOptions = FolderOptions { size: 4, channels: 1, skip_bad: false };
    const SKIPPING: FolderOptions = FolderOptions { size: 4, channels: 3, skip_bad: true };

    fn ramp(width: u32, height: u32) -> RgbImage {
        RgbImage::from_fn(width, height, |x, y| Rgb([x as u8, y as u8, 200]))
    }

    /// The CHW bytes of columns `from..from + 4` of a ramp of height 4.
    fn ramp_bytes(from: u8) -> Vec<u8> {
        let columns = (0..16).map(|at| from + at % 4);
        let rows = (0..16).map(|at| at / 4);
        columns.chain(rows).chain([200; 16]).collect()
    }

    fn error_of(image: DynamicImage) -> DataError {
        let dir = tempfile::tempdir().unwrap();
        image.save(dir.path().join("odd.png")).unwrap();
        load_folder(dir.path(), &RGB).unwrap_err()
    }

    #[test]
    fn images_of_the_size_asked_for_keep_every_byte() {
        let dir = tempfile::tempdir().unwrap();
        // Names and contents disagree on purpose: contents decide.
        ramp(4, 4).save_with_format(dir.path().join("b.jpg"), ImageFormat::Png).unwrap();
        ramp(4, 4).save_with_format(dir.path().join("a.png"), ImageFormat::WebP).unwrap();
        put(dir.path(), ".hidden", b"not an image");
        let images = load_folder(dir.path(), &RGB).unwrap();
        assert!(images.skipped.is_empty());
        let set = images.dataset;
        assert_eq!(set.names().unwrap(), ["a.png", "b.jpg"]);
        assert_eq!((set.labels(), set.levels()), (None, 256));
        assert_eq!(set.shape(), ImageShape { channels: 3, height: 4, width: 4 });
        assert_eq!(set.image(0), ramp_bytes(0));
        assert_eq!(set.image(1), ramp_bytes(0));
    }

    #[test]
    fn the_middle_of_a_longer_image_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        ramp(10, 4).save(dir.path().join("wide.png")).unwrap();
        let set = load_folder(dir.path(), &RGB).unwrap().dataset;
        assert_eq!(set.image(0), ramp_bytes(3));
    }

    #[test]
    fn other_sizes_are_resized_and_jpeg_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let plain = GrayImage::from_pixel(16, 24, Luma([90]));
        plain.save(dir.path().join("large.jpeg")).unwrap();
        GrayImage::from_pixel(2, 3, Luma([90])).save(dir.path().join("small.png")).unwrap();
        let set = load_folder(dir.path(), &GREY).unwrap().dataset;
        assert_eq!((set.len(), set.shape().dims()), (2, 16));
        assert!(set.bytes().iter().all(|&value| value.abs_diff(90) <= 2));
    }

    #[test]
    fn grey_and_rgb_are_converted() {
        let dir = tempfile::tempdir().unwrap();
        let grey = GrayImage::from_fn(4, 4, |x, y| Luma([(4 * y + x) as u8]));
        grey.save(dir.path().join("grey.png")).unwrap();
        let pixels: Vec<u8> = (0..16).collect();
        assert_eq!(load_folder(dir.path(), &GREY).unwrap().dataset.bytes(), pixels);
        assert_eq!(load_folder(dir.path(), &RGB).unwrap().dataset.bytes(), pixels.repeat(3));
        ramp(4, 4).save(dir.path().join("colour.png")).unwrap();
        let set = load_folder(dir.path(), &GREY).unwrap().dataset;
        assert_eq!((set.len(), set.shape().dims()), (2, 16));
    }

    #[test]
    fn the_rotation_that_a_camera_noted_is_applied() {
        let dir = tempfile::tempdir().unwrap();
        let file = fs::File::create(dir.path().join("photo.png")).unwrap();
        let mut encoder = PngEncoder::new(file);
        // A TIFF header and one entry: orientation (0x112), short, one, 6.
        let exif = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0";
        encoder.set_exif_metadata(exif.to_vec()).unwrap();
        encoder.write_image(&[1, 2, 3, 4], 2, 2, ExtendedColorType::L8).unwrap();
        let options = FolderOptions { size: 2, channels: 1, skip_bad: false };
        let set = load_folder(dir.path(), &options).unwrap().dataset;
        assert_eq!(set.image(0), [3, 1, 4, 2]);
    }

    #[test]
    fn subfolders_are_classes() {
        let dir = tempfile::tempdir().unwrap();
        for (class, file) in [("dog", "2.png"), ("cat", "9.png"), ("dog", "1.png")] {
            let class = dir.path().join(class);
            fs::create_dir_all(&class).unwrap();
            ramp(4, 4).save(class.join(file)).unwrap();
        }
        let set = load_folder(dir.path(), &RGB).unwrap().dataset;
        assert_eq!(set.names().unwrap(), ["cat/9.png", "dog/1.png", "dog/2.png"]);
        assert_eq!(set.labels().unwrap(), [0, 1, 1]);
    }

    fn names_of(dir: &Path, split: Split) -> Vec<String> {
        let images = load_folder_split(dir, &RGB, split).unwrap();
        assert!(images.dataset.name().ends_with(&format!("-{split}")));
        images.dataset.names().unwrap().to_vec()
    }

    const SPLITS: [Split; 3] = [Split::Train, Split::Valid, Split::Test];

    /// OpenTau#502 and case 12: a new file moved old test images into training.
    #[test]
    fn splits_hold_all_files_once_and_a_new_file_moves_none() {
        let dir = tempfile::tempdir().unwrap();
        let add = |name: &str| ramp(4, 4).save(dir.path().join(name)).unwrap();
        (0..60).for_each(|number| add(&format!("{number:02}.png")));
        let before = SPLITS.map(|split| names_of(dir.path(), split));
        assert_eq!(before.iter().map(Vec::len).sum::<usize>(), 60);
        add("000.png");
        let after = SPLITS.map(|split| names_of(dir.path(), split));
        for (before, after) in before.iter().zip(&after) {
            assert!(before.iter().all(|name| after.contains(name)));
        }
        let few = tempfile::tempdir().unwrap();
        ramp(4, 4).save(few.path().join("1.png")).unwrap();
        let error = load_folder_split(few.path(), &RGB, Split::Valid).unwrap_err();
        assert!(matches!(error, DataError::EmptySplit { found: 1, .. }));
        assert_says(&error, &["valid split", "none of the 1 image files"]);
    }

    /// fastai#1552 and case 11: two classes, and test images that were trained on.
    #[test]
    fn a_folder_that_brings_splits_is_taken_at_its_word() {
        let dir = tempfile::tempdir().unwrap();
        let add = |folder: &str, name: &str| {
            fs::create_dir_all(dir.path().join(folder)).unwrap();
            ramp(4, 4).save(dir.path().join(folder).join(name)).unwrap();
        };
        for number in 0..40 {
            add("train/dog", &format!("{number}.png"));
        }
        add("train/cat", "1.png");
        let error = load_folder_split(dir.path(), &RGB, Split::Test);
        // Without `test` these are the classes of nobody's splits: train is a class with subfolders.
        assert!(matches!(error, Err(DataError::MissingFile { .. })), "{error:?}");
        add("test/dog", "7.png");
        let test = load_folder_split(dir.path(), &RGB, Split::Test).unwrap().dataset;
        // The class has the number that it has in training.
        assert_eq!((test.names().unwrap(), test.labels().unwrap()), (&["dog/7.png".to_string()][..], &[1][..]));
        let cut: usize = [Split::Train, Split::Valid].map(|split| names_of(dir.path(), split).len()).iter().sum();
        assert_eq!(cut, 41);
        add("val/cat", "3.png");
        assert_eq!(names_of(dir.path(), Split::Valid), ["cat/3.png"]);
        assert_eq!(names_of(dir.path(), Split::Train).len(), 41);
    }

    /// datumaro#1178 and case 1.
    #[test]
    fn a_file_beside_classes_is_named_or_skipped() {
        let dir = tempfile::tempdir().unwrap();
        for class in ["daisy", "rose"] {
            fs::create_dir(dir.path().join(class)).unwrap();
            ramp(4, 4).save(dir.path().join(class).join("1.png")).unwrap();
        }
        put(dir.path(), "LICENSE.txt", b"x");
        let error = load_folder(dir.path(), &RGB).unwrap_err();
        assert!(matches!(error, DataError::StrayFile { .. }));
        assert_says(&error, &["LICENSE.txt", "skip_bad"]);
        let images = load_folder(dir.path(), &FolderOptions { skip_bad: true, ..RGB }).unwrap();
        assert_eq!((images.dataset.len(), images.dataset.classes()), (2, 2));
        assert!(images.skipped[0].path.ends_with("LICENSE.txt"));
    }

    /// torchvision#4925 and case 10: three classes, one of which has no image.
    #[test]
    fn a_subfolder_without_files_is_said_and_not_counted() {
        let dir = tempfile::tempdir().unwrap();
        for class in ["aaa", "cat", "dog"] {
            fs::create_dir(dir.path().join(class)).unwrap();
        }
        for class in ["cat", "dog"] {
            ramp(4, 4).save(dir.path().join(class).join("1.png")).unwrap();
        }
        let images = load_folder(dir.path(), &RGB).unwrap();
        assert_eq!(images.dataset.labels().unwrap(), [0, 1]);
        assert!(images.skipped[0].reason.contains("aaa"));
    }

    /// A folder `whole` beside `train`, `valid` and `test` made classes of all four, and mixed the splits.
    #[test]
    fn a_folder_beside_those_of_the_splits_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        for (i, folder) in ["train", "valid", "test", "whole"].into_iter().enumerate() {
            fs::create_dir(dir.path().join(folder)).unwrap();
            ramp(4, 4).save(dir.path().join(folder).join(format!("{i}.png"))).unwrap();
        }
        let error = load_folder_split(dir.path(), &RGB, Split::Train).unwrap_err();
        assert_says(&error, &["train, valid, test", "`whole`", "move"]);
        fs::remove_dir_all(dir.path().join("whole")).unwrap();
        assert_eq!(load_folder_split(dir.path(), &RGB, Split::Train).unwrap().dataset.len(), 1);
    }

    /// The first picture was taken for the whole.
    #[test]
    fn an_animation_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.png");
        ramp(4, 4).save(&path).unwrap();
        let png = fs::read(&path).unwrap();
        // The animation's control chunk, of two pictures, after the header of 33 bytes.
        let mut chunk = b"acTL\0\0\0\x02\0\0\0\0".to_vec();
        let sum = crc32fast::hash(&chunk);
        chunk.splice(0..0, 8u32.to_be_bytes());
        chunk.extend(sum.to_be_bytes());
        fs::write(&path, [&png[..33], &chunk, &png[33..]].concat()).unwrap();
        let error = load_folder(dir.path(), &RGB).unwrap_err();
        assert_says(&error, &["a.png", "animated"]);
        fs::write(&path, png).unwrap();
        assert!(load_folder(dir.path(), &RGB).is_ok());
        ramp(4, 4).save_with_format(&path, ImageFormat::Gif).unwrap();
        assert_says(&load_folder(dir.path(), &RGB).unwrap_err(), &["a.png", "a GIF"]);
    }

    /// image-rs/jpeg-decoder#169 and case 3: the lower part was grey.
    #[test]
    fn a_truncated_jpeg_or_webp_is_incomplete() {
        let dir = tempfile::tempdir().unwrap();
        let noise: Vec<u8> = (0u32..3 * 64 * 64).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        let image = RgbImage::from_raw(64, 64, noise).unwrap();
        for name in ["a.jpg", "a.webp"] {
            let path = dir.path().join(name);
            image.save(&path).unwrap();
            let bytes = fs::read(&path).unwrap();
            assert!(load_folder(dir.path(), &FolderOptions { size: 64, ..RGB }).is_ok(), "{name}");
            for share in [95, 80, 60, 40] {
                fs::write(&path, &bytes[..bytes.len() * share / 100]).unwrap();
                let error = load_folder(dir.path(), &RGB).unwrap_err();
                assert_says(&error, &[name, "incomplete"]);
            }
            fs::remove_file(&path).unwrap();
        }
    }

    #[test]
    fn impossible_options_are_refused() {
        for (size, channels, field) in [(0, 3, "size"), (1025, 3, "size"), (4, 2, "channels")] {
            let options = FolderOptions { size, channels, skip_bad: true };
            let error = load_folder("/nonexistent", &options).unwrap_err();
            assert!(matches!(error, DataError::InvalidOption { .. }));
            assert_says(&error, &[field, "expected", "found"]);
        }
    }

    #[test]
    fn a_missing_folder_is_an_io_error() {
        let error = load_folder("/nonexistent/images", &RGB).unwrap_err();
        assert!(matches!(error, DataError::Io { action: "list", .. }));
        assert_says(&error, &["/nonexistent/images"]);
    }

    #[test]
    fn a_file_that_is_no_image_is_refused_or_skipped() {
        let dir = tempfile::tempdir().unwrap();
        put(dir.path(), "notes.png", b"dear diary");
        ramp(4, 4).save(dir.path().join("ok.png")).unwrap();
        let error = load_folder(dir.path(), &RGB).unwrap_err();
        assert!(matches!(error, DataError::UnreadableImage { .. }));
        assert_says(&error, &["notes.png", "expected a PNG, JPEG or WebP", "found", "skip_bad"]);

        let images = load_folder(dir.path(), &SKIPPING).unwrap();
        assert_eq!(images.dataset.names().unwrap(), ["ok.png"]);
        assert_eq!(images.skipped.len(), 1);
        assert!(images.skipped[0].path.ends_with("notes.png"));
        assert!(!images.skipped[0].reason.is_empty());

        fs::remove_file(dir.path().join("ok.png")).unwrap();
        let error = load_folder(dir.path(), &SKIPPING).unwrap_err();
        assert!(matches!(error, DataError::EmptyFolder { .. }));
        assert_says(&error, &["found 1 files that are not usable"]);
    }

    #[test]
    fn only_an_opaque_alpha_channel_is_accepted() {
        let mut pixels = RgbaImage::from_fn(4, 4, |x, y| Rgba([x as u8, y as u8, 200, 255]));
        let dir = tempfile::tempdir().unwrap();
        pixels.save(dir.path().join("opaque.png")).unwrap();
        assert_eq!(load_folder(dir.path(), &RGB).unwrap().dataset.image(0), ramp_bytes(0));

        pixels.put_pixel(2, 1, Rgba([0, 0, 0, 254]));
        let error = error_of(pixels.into());
        assert!(matches!(error, DataError::Transparent { x: 2, y: 1, found: 254, .. }));
        assert_says(&error, &["odd.png", "expected a fully opaque", "found 254", "flatten"]);

        let mut grey = DynamicImage::new_luma_a8(4, 4).into_luma_alpha8();
        grey.pixels_mut().for_each(|pixel| pixel.0 = [9, 255]);
        let opaque = DynamicImage::ImageLumaA8(grey.clone());
        opaque.save(dir.path().join("opaque.png")).unwrap();
        assert_eq!(load_folder(dir.path(), &GREY).unwrap().dataset.image(0), [9; 16]);
        grey.get_pixel_mut(0, 3).0[1] = 0;
        let error = error_of(grey.into());
        assert!(matches!(error, DataError::Transparent { x: 0, y: 3, found: 0, .. }));
    }

    #[test]
    fn sixteen_bits_are_refused() {
        for image in [DynamicImage::new_luma16(4, 4), DynamicImage::new_rgb16(4, 4)] {
            let error = error_of(image);
            assert!(matches!(error, DataError::BitDepth { .. }));
            assert_says(&error, &["odd.png", "expected 8 bits", "16", "convert"]);
        }
    }

    #[test]
    fn images_too_long_are_refused() {
        let error = error_of(DynamicImage::new_luma8(1, 16_000));
        assert!(matches!(error, DataError::Elongated { found: 64_000, .. }));
        assert_says(&error, &["odd.png", "expected at most 16384", "found 64000"]);
        let error = error_of(DynamicImage::new_luma8(16_385, 1));
        assert!(matches!(error, DataError::UnreadableImage { .. }));
    }

    #[test]
    fn folders_without_files_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let error = load_folder(dir.path(), &RGB).unwrap_err();
        assert!(matches!(error, DataError::EmptyFolder { .. }));
        let path = dir.path().display().to_string();
        assert_says(&error, &[&path, "expected image files", "found nothing"]);
        fs::create_dir(dir.path().join("cat")).unwrap();
        let error = load_folder(dir.path(), &RGB).unwrap_err();
        assert_says(&error, &[&path, "found 1 subfolders with nothing"]);
    }

    #[test]
    fn mixtures_of_files_and_subfolders_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("cat/kitten")).unwrap();
        let error = load_folder(dir.path(), &RGB).unwrap_err();
        assert!(matches!(error, DataError::MixedFolder { .. }));
        assert_says(&error, &["cat", "expected either", "subfolder kitten"]);
        ramp(4, 4).save(dir.path().join("a.png")).unwrap();
        let error = load_folder(dir.path(), &RGB).unwrap_err();
        assert!(matches!(error, DataError::MixedFolder { .. }));
        assert_says(&error, &["subfolder cat"]);
    }

    /// Folders larger than memory: the images come from a file that is made once and again when a file changes.
    #[test]
    fn a_folder_with_a_cache_gives_the_same_images() {
        let (dir, cache) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        for i in 0..40 {
            ramp(4 + i % 3, 4).save(dir.path().join(format!("{i}.png"))).unwrap();
        }
        let source =
            |cache: &Path| FolderSource { dir: dir.path().into(), size: 4, cache: cache.into(), ..Default::default() };
        let same = |split: Split| {
            let (plain, cached) =
                (source(Path::new("")).load(split).unwrap(), source(cache.path()).load(split).unwrap());
            assert_eq!(plain, cached);
            assert_eq!(plain.fingerprint(), cached.fingerprint());
            plain.len()
        };
        let splits = [Split::Train, Split::Valid, Split::Test];
        assert_eq!(splits.map(same).iter().sum::<usize>(), 40);
        let files = || fs::read_dir(cache.path()).unwrap().count();
        assert_eq!(files(), 3);
        (0..40).for_each(|i| ramp(4, 5 + i).save(dir.path().join(format!("{i}.png"))).unwrap());
        let _ = splits.map(same);
        assert_eq!(files(), 3, "the old ones are replaced");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn arbitrary_bytes_never_panic(
            start in prop::sample::select(vec![
                &b""[..],
                &b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"[..],
                &b"\xff\xd8\xff\xe0"[..],
                &b"RIFF\x40\0\0\0WEBPVP8L"[..],
            ]),
            tail in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            let dir = tempfile::tempdir().unwrap();
            put(dir.path(), "fuzz", &[start, &tail[..]].concat());
            let _ = load_folder(dir.path(), &RGB);
            let _ = load_folder(dir.path(), &SKIPPING);
        }
    }
}
