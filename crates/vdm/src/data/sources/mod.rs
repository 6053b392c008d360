//! Where images come from: a file for each source, and one configuration for all of them.
//!
//! To add a source, write a file with a type that implements [`Source`](super::Source), and give it a variant of [`DataSource`] and a
//! line in each of its two functions.

mod cifar;
mod digits;
mod folder;
mod idx;
mod imagenet;

pub use cifar::{Cifar10Source, load_cifar10};
pub use digits::{DigitsSource, digits};
pub use folder::{FolderImages, FolderOptions, FolderSource, load_folder, load_folder_split};
pub use idx::{
    IdxImages, IdxSource, load_idx_split, parse_idx_images, read_idx_images, read_idx_labels, write_idx_images,
    write_idx_labels,
};
pub use imagenet::{ImagenetSource, load_imagenet};

use super::Source;
use super::dataset::ImageDataset;
use super::error::Result;
use super::split::Split;
use crate::shape::ImageShape;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Where the images come from, as written in a configuration: a table with the key `source` and the keys of that source.
///
/// ```toml
/// source = "folder"
/// dir = "photos"
/// size = 64
/// channels = 3
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "source", rename_all = "kebab-case")]
pub enum DataSource {
    /// The digits built into the library.
    Digits(DigitsSource),
    /// MNIST or a data set in its format.
    Idx(IdxSource),
    /// CIFAR-10 in its binary version.
    Cifar10(Cifar10Source),
    /// Downsampled ImageNet in its npz version.
    Imagenet(ImagenetSource),
    /// A folder of image files.
    Folder(FolderSource),
}

impl DataSource {
    fn any(&self) -> &dyn Source {
        match self {
            Self::Digits(source) => source,
            Self::Idx(source) => source,
            Self::Cifar10(source) => source,
            Self::Imagenet(source) => source,
            Self::Folder(source) => source,
        }
    }

    fn any_mut(&mut self) -> &mut dyn Source {
        match self {
            Self::Digits(source) => source,
            Self::Idx(source) => source,
            Self::Cifar10(source) => source,
            Self::Imagenet(source) => source,
            Self::Folder(source) => source,
        }
    }
}

impl Source for DataSource {
    fn load(&self, split: Split) -> Result<ImageDataset> {
        self.any().load(split)
    }

    fn dir_mut(&mut self) -> Option<&mut PathBuf> {
        self.any_mut().dir_mut()
    }

    fn cache_mut(&mut self) -> Option<&mut PathBuf> {
        self.any_mut().cache_mut()
    }

    fn usual_shape(&self) -> Option<ImageShape> {
        self.any().usual_shape()
    }

    fn check(&self) -> Result<()> {
        self.any().check()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::DataError;
    use crate::data::testing::{assert_says, put};

    fn parse(text: &str) -> std::result::Result<DataSource, toml::de::Error> {
        toml::from_str(text)
    }

    #[test]
    fn a_source_is_a_table_of_its_kind_with_defaults() {
        assert_eq!(parse("source = 'digits'").unwrap(), DataSource::Digits(DigitsSource {}));
        assert_eq!(parse("source = 'idx'\ndir = 'a'").unwrap(), DataSource::Idx(IdxSource { dir: "a".into() }));
        assert_eq!(
            parse("source = 'cifar10'\ndir = 'b'").unwrap(),
            DataSource::Cifar10(Cifar10Source { dir: "b".into() })
        );
        assert_eq!(
            parse("source = 'imagenet'\ndir = 'c'\nsize = 64").unwrap(),
            DataSource::Imagenet(ImagenetSource { dir: "c".into(), size: 64, ..Default::default() })
        );
        let folder = DataSource::Folder(FolderSource { dir: "d".into(), size: 48, ..Default::default() });
        let parsed = parse("source = 'folder'\ndir = 'd'\nsize = 48").unwrap();
        assert_eq!(parsed, folder);
        let written = toml::to_string(&folder).unwrap();
        assert_eq!(parse(&written).unwrap(), folder);
    }

    #[test]
    fn unknown_sources_and_stray_keys_are_refused() {
        for text in [
            "source = 'mnist'",
            "dir = 'a'",
            "source = 'digits'\ndir = 'a'",
            "source = 'idx'\ndir = 'a'\nsize = 8",
            "source = 'folder'\ndir = 'd'\nsize = 32\nchannels = 3\nskipbad = true",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn load_reaches_every_loader() {
        let set = DataSource::Digits(DigitsSource {}).load(Split::Test).unwrap();
        assert_eq!(set.len(), 299);

        let dir = tempfile::tempdir().unwrap();
        let missing = [
            DataSource::Idx(IdxSource { dir: dir.path().into() }),
            DataSource::Cifar10(Cifar10Source { dir: dir.path().into() }),
            DataSource::Imagenet(ImagenetSource { dir: dir.path().into(), ..Default::default() }),
        ];
        for source in missing {
            let error = source.load(Split::Train).unwrap_err();
            assert!(matches!(error, DataError::MissingFile { .. }));
            assert_says(&error, &[&dir.path().display().to_string(), "expected", "found none"]);
        }

        for split in ["train", "test"] {
            std::fs::create_dir(dir.path().join(split)).unwrap();
        }
        image::RgbImage::new(4, 4).save(dir.path().join("test/9.png")).unwrap();
        put(&dir.path().join("train"), "0.txt", b"not an image");
        let source =
            DataSource::Folder(FolderSource { dir: dir.path().into(), size: 4, skip_bad: true, ..Default::default() });
        assert_eq!(source.load(Split::Test).unwrap().names().unwrap(), ["9.png"]);
        let error = source.load(Split::Train).unwrap_err();
        assert!(matches!(error, DataError::EmptyFolder { .. }));
    }
}
