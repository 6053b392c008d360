//! Data sets of images, as exact bytes.
//!
//! A [`DataSource`] from a configuration loads an [`ImageDataset`]; or call the loader of one format directly:
//!
//! | source | loader | shape | levels | labels |
//! |---|---|---|---|---|
//! | digits of scikit-learn, built in | [`digits()`] | 1x8x8 | 17 | 10 |
//! | MNIST, Fashion-MNIST and others in their format (IDX) | [`load_idx_split`] | 1x28x28 | 256 | 10 |
//! | CIFAR-10, binary version | [`load_cifar10`] | 3x32x32 | 256 | 10 |
//! | downsampled ImageNet, npz version | [`load_imagenet`] | 3xSxS | 256 | 1000 |
//! | a folder of PNG, JPEG or WebP files | [`load_folder`] | 1 or 3xSxS | 256 | optional |
//!
//! Nothing is downloaded: the loaders read files that are already there, and say which ones they looked for. Files are
//! not trusted. A reader checks every header against the size of its file before it believes it, refuses data that is
//! too short or too long, and reports all of that as a [`DataError`] that names the file, what was expected and what was
//! found.
//!
//! [`augment()`] flips and turns images for training.

mod augment;
mod cache;
mod dataset;
mod error;
mod memory;
mod pixels;
mod read;
mod sources;
mod split;
#[cfg(test)]
mod testing;

pub use augment::{Augmentation, augment};
pub use cache::SkippedImage;
pub use dataset::ImageDataset;
pub use error::{DataError, Result};
pub use read::image_file::check_whole;
pub use sources::{
    Cifar10Source, DataSource, DigitsSource, FolderImages, FolderOptions, FolderSource, IdxImages, IdxSource,
    ImagenetSource, digits, load_cifar10, load_folder, load_folder_split, load_idx_split, load_imagenet,
    parse_idx_images, read_idx_images, read_idx_labels, write_idx_images, write_idx_labels,
};
pub use split::Split;

use crate::shape::ImageShape;
use std::path::PathBuf;

/// What a source of images can do.
pub trait Source {
    /// Loads one split.
    ///
    /// # Errors
    /// What the reader of the source gives; see there.
    fn load(&self, split: Split) -> Result<ImageDataset>;

    /// The folder that the files are in, for sources that have one.
    fn dir_mut(&mut self) -> Option<&mut PathBuf> {
        None
    }

    /// The folder for a cache of the images, for sources that may have one.
    fn cache_mut(&mut self) -> Option<&mut PathBuf> {
        None
    }

    /// The shape of the images, for sources whose images have one that is known without looking at files.
    fn usual_shape(&self) -> Option<ImageShape> {
        None
    }

    /// Says what is wrong with the configuration, if anything, without looking at files.
    ///
    /// # Errors
    /// [`DataError::InvalidOption`].
    fn check(&self) -> Result<()> {
        Ok(())
    }
}
