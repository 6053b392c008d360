//! Datasets of images, as exact bytes.
//!
//! Start with [`load`], which takes a [`DataSource`] from a configuration and
//! gives an [`ImageDataset`]; or call the loader of one format directly:
//!
//! | Source | Loader | Shape | Levels | Labels |
//! |---|---|---|---|---|
//! | digits of scikit-learn, built in | [`digits()`] | 1x8x8 | 17 | 10 |
//! | MNIST, Fashion-MNIST and kin (IDX) | [`load_idx_split`] | 1x28x28 | 256 | 10 |
//! | CIFAR-10, binary version | [`load_cifar10`] | 3x32x32 | 256 | 10 |
//! | downsampled ImageNet, npz version | [`load_imagenet`] | 3xSxS | 256 | 1000 |
//! | a folder of PNG, JPEG or WebP files | [`load_folder`] | 1 or 3xSxS | 256 | optional |
//!
//! Nothing is downloaded: the loaders read files that are already there, and
//! say which ones they looked for. Files are not trusted. A reader checks
//! every header against the size of its file before it believes it, refuses
//! data that is too short or too long, and reports all of that as a
//! [`DataError`] that names the file, what was expected and what was found.
//!
//! [`augment()`] flips and turns images for training.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

pub mod augment;
pub mod cifar;
pub mod dataset;
pub mod digits;
pub mod error;
pub mod folder;
pub mod idx;
mod image_file;
pub mod imagenet;
mod input;
mod npy;
#[cfg(test)]
mod testing;

pub use augment::{Augmentation, augment};
pub use cifar::load_cifar10;
pub use dataset::{ImageDataset, ImageShape};
pub use digits::digits;
pub use error::{DataError, Result};
pub use folder::{FolderImages, FolderOptions, SkippedImage, load_folder, load_folder_split};
pub use idx::{IdxImages, load_idx_split, read_idx_images, read_idx_labels, write_idx_images, write_idx_labels};
pub use imagenet::load_imagenet;

/// Which part of a dataset: to learn from, or to judge with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Split {
    /// The images to train on.
    Train,
    /// The images held out for evaluation.
    Test,
}

impl Split {
    /// The split of the item at `index` where of every `test_every` items the
    /// last is held out.
    fn of_index(index: usize, test_every: usize) -> Self {
        if test_every > 0 && index % test_every == test_every - 1 { Self::Test } else { Self::Train }
    }
}

impl fmt::Display for Split {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Train => "train",
            Self::Test => "test",
        })
    }
}

impl FromStr for Split {
    type Err = DataError;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "train" => Ok(Self::Train),
            "test" => Ok(Self::Test),
            _ => {
                Err(DataError::InvalidOption { field: "split", expected: "train or test", found: input::excerpt(text) })
            }
        }
    }
}

/// Where the images come from, as written in a configuration. Keys that a
/// source does not have are refused, except beside `digits`, where serde
/// ignores them.
///
/// ```toml
/// source = "folder"
/// dir = "photos"
/// size = 64
/// channels = 3
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "source", rename_all = "kebab-case", deny_unknown_fields)]
pub enum DataSource {
    /// The digits built into the library; see [`digits()`].
    Digits,
    /// MNIST or a dataset in its format; see [`load_idx_split`].
    Idx {
        /// The folder of the four files.
        dir: PathBuf,
    },
    /// CIFAR-10 in its binary version; see [`load_cifar10`].
    Cifar10 {
        /// The folder of the `.bin` files or the one above it.
        dir: PathBuf,
    },
    /// Downsampled ImageNet in its npz version; see [`load_imagenet`].
    Imagenet {
        /// The folder of the `.npz` files.
        dir: PathBuf,
        /// Height and width of the images, in pixels: 8, 16, 32 or 64.
        size: usize,
    },
    /// A folder of image files, every tenth of which is held out for
    /// [`Split::Test`]; see [`load_folder_split`].
    Folder {
        /// The folder.
        dir: PathBuf,
        /// Height and width to resize to, in pixels.
        size: usize,
        /// 1 for grey or 3 for RGB.
        channels: usize,
        /// Whether to leave out files that are not usable images, with a
        /// warning for each, instead of failing.
        #[serde(default)]
        skip_bad: bool,
    },
}

/// Of this many files of a folder, [`load`] holds the last one out.
const FOLDER_TEST_EVERY: usize = 10;

/// Load one split of a source.
///
/// # Errors
///
/// What the loader of the source gives; see there.
pub fn load(source: &DataSource, split: Split) -> Result<ImageDataset> {
    match source {
        DataSource::Digits => digits(split),
        DataSource::Idx { dir } => load_idx_split(dir, split),
        DataSource::Cifar10 { dir } => load_cifar10(dir, split),
        DataSource::Imagenet { dir, size } => load_imagenet(dir, *size, split),
        DataSource::Folder { dir, size, channels, skip_bad } => {
            let options = FolderOptions { size: *size, channels: *channels, skip_bad: *skip_bad };
            let images = load_folder_split(dir, &options, FOLDER_TEST_EVERY, split)?;
            for file in &images.skipped {
                let path = file.path.display();
                tracing::warn!(%path, reason = %file.reason, "skipped a file");
            }
            Ok(images.dataset)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::testing::{assert_says, put};
    use super::*;

    fn parse(text: &str) -> std::result::Result<DataSource, toml::de::Error> {
        toml::from_str(text)
    }

    #[test]
    fn sources_are_written_in_kebab_case_with_defaults() {
        assert_eq!(parse("source = 'digits'").unwrap(), DataSource::Digits);
        assert_eq!(parse("source = 'idx'\ndir = 'a'").unwrap(), DataSource::Idx { dir: "a".into() });
        assert_eq!(parse("source = 'cifar10'\ndir = 'b'").unwrap(), DataSource::Cifar10 { dir: "b".into() });
        assert_eq!(
            parse("source = 'imagenet'\ndir = 'c'\nsize = 64").unwrap(),
            DataSource::Imagenet { dir: "c".into(), size: 64 }
        );
        let folder = DataSource::Folder { dir: "d".into(), size: 32, channels: 3, skip_bad: false };
        let parsed = parse("source = 'folder'\ndir = 'd'\nsize = 32\nchannels = 3").unwrap();
        assert_eq!(parsed, folder);
        let written = toml::to_string(&folder).unwrap();
        assert_eq!(parse(&written).unwrap(), folder);
    }

    #[test]
    fn unknown_sources_and_stray_keys_are_refused() {
        for text in [
            "source = 'mnist'",
            "dir = 'a'",
            "source = 'idx'\ndir = 'a'\nsize = 8",
            "source = 'folder'\ndir = 'd'\nsize = 32\nchannels = 3\nskipbad = true",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn splits_are_written_in_lower_case() {
        for split in [Split::Train, Split::Test] {
            assert_eq!(split.to_string().parse::<Split>().unwrap(), split);
            let json = serde_json::to_string(&split).unwrap();
            assert_eq!(json, format!("\"{split}\""));
            assert_eq!(serde_json::from_str::<Split>(&json).unwrap(), split);
        }
        let error = "valid".parse::<Split>().unwrap_err();
        assert!(matches!(error, DataError::InvalidOption { field: "split", .. }));
        assert_says(&error, &["split", "expected train or test", "found valid"]);
    }

    #[test]
    fn load_reaches_every_loader() {
        let set = load(&DataSource::Digits, Split::Test).unwrap();
        assert_eq!(set.len(), 299);

        let dir = tempfile::tempdir().unwrap();
        let missing = [
            DataSource::Idx { dir: dir.path().into() },
            DataSource::Cifar10 { dir: dir.path().into() },
            DataSource::Imagenet { dir: dir.path().into(), size: 32 },
        ];
        for source in missing {
            let error = load(&source, Split::Train).unwrap_err();
            assert!(matches!(error, DataError::MissingFile { .. }));
            assert_says(&error, &[&dir.path().display().to_string(), "expected", "found none"]);
        }

        for number in 0..FOLDER_TEST_EVERY - 1 {
            put(dir.path(), &format!("{number}.txt"), b"not an image");
        }
        image::RgbImage::new(4, 4).save(dir.path().join("9.png")).unwrap();
        let source = DataSource::Folder { dir: dir.path().into(), size: 4, channels: 3, skip_bad: true };
        assert_eq!(load(&source, Split::Test).unwrap().names().unwrap(), ["9.png"]);
        let error = load(&source, Split::Train).unwrap_err();
        assert!(matches!(error, DataError::EmptyFolder { .. }));
    }
}
