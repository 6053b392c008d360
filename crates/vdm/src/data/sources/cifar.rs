//! CIFAR-10 in its binary version.
//!
//! 60,000 colour photographs of 32x32 pixels in 10 classes, the benchmark on
//! which the VDM paper reports 2.65 bits per dimension (2.49 with
//! augmentation). The archive `cifar-10-binary.tar.gz` holds the folder
//! `cifar-10-batches-bin` with five training files and one test file of
//! 10,000 records each. A record is a label byte, 0 to 9, and the 3,072 bytes
//! of the image in CHW order, exactly as kept here.
//!
//! # References
//!
//! - A. Krizhevsky, "Learning Multiple Layers of Features from Tiny Images",
//!   2009, <https://www.cs.toronto.edu/~kriz/cifar.html>.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::data::Source;
use crate::data::dataset::ImageDataset;
use crate::data::error::{DataError, Result};
use crate::data::read::bytes::{open_file, read_payload};
use crate::data::split::Split;
use crate::shape::ImageShape;

const SHAPE: ImageShape = ImageShape { channels: 3, height: 32, width: 32 };
const RECORD_BYTES: usize = 1 + 3 * 32 * 32;
const RECORDS_PER_FILE: usize = 10_000;
const SUBFOLDER: &str = "cifar-10-batches-bin";

/// Load a split of CIFAR-10: 50,000 training or 10,000 test images of shape
/// `3 x 32 x 32`, 256 levels, labels 0 to 9, in the order of the files.
/// `dir` is the folder of the six `.bin` files, or the one above it.
///
/// # Errors
///
/// [`DataError::MissingFile`], [`DataError::Io`], [`DataError::FileSize`] for
/// a file that is not exactly 30,730,000 bytes, and
/// [`DataError::LabelOutOfRange`].
pub fn load_cifar10(dir: impl AsRef<Path>, split: Split) -> Result<ImageDataset> {
    Ok(load_with(dir.as_ref(), split, RECORDS_PER_FILE)?.of_split(split))
}

fn load_with(dir: &Path, split: Split, records: usize) -> Result<ImageDataset> {
    let files: &[&str] = match split.stored() {
        Split::Train | Split::Valid => {
            &["data_batch_1.bin", "data_batch_2.bin", "data_batch_3.bin", "data_batch_4.bin", "data_batch_5.bin"]
        }
        Split::Test => &["test_batch.bin"],
    };
    let mut bytes = Vec::new();
    let mut labels = Vec::new();
    for file in files {
        read_batch(&find(dir, file)?, records, &mut bytes, &mut labels)?;
    }
    ImageDataset::new(format!("cifar10-{split}"), SHAPE, 256, bytes, Some(labels))
}

fn find(dir: &Path, file: &str) -> Result<PathBuf> {
    let places = [dir.join(file), dir.join(SUBFOLDER).join(file)];
    places
        .into_iter()
        .find(|path| path.is_file())
        .ok_or_else(|| DataError::MissingFile { dir: dir.to_owned(), expected: format!("{file}, {SUBFOLDER}/{file}") })
}

fn read_batch(path: &Path, records: usize, bytes: &mut Vec<u8>, labels: &mut Vec<u32>) -> Result<()> {
    let (mut file, found) = open_file(path)?;
    let expected = (records * RECORD_BYTES) as u64;
    if found != expected {
        return Err(DataError::FileSize { path: path.to_owned(), expected, found });
    }
    let mut batch = Vec::new();
    read_payload(&mut file, path, "CIFAR-10 records", expected, &mut batch)?;
    for (index, record) in batch.chunks_exact(RECORD_BYTES).enumerate() {
        let label = record[0];
        if label > 9 {
            return Err(DataError::LabelOutOfRange {
                path: path.to_owned(),
                index,
                expected: "0 to 9",
                found: label.into(),
            });
        }
        labels.push(label.into());
        bytes.extend_from_slice(&record[1..]);
    }
    Ok(())
}

/// The source `cifar10` of a configuration, in its binary version: see [`load_cifar10`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Cifar10Source {
    /// The folder of the `.bin` files or the one above it.
    pub dir: PathBuf,
}

impl Source for Cifar10Source {
    fn load(&self, split: Split) -> Result<ImageDataset> {
        load_cifar10(&self.dir, split)
    }

    fn usual_shape(&self) -> Option<ImageShape> {
        Some(ImageShape { channels: 3, height: 32, width: 32 })
    }

    fn dir_mut(&mut self) -> Option<&mut PathBuf> {
        Some(&mut self.dir)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::data::testing::{assert_says, put};

    /// Records whose label is `label` and whose pixels are all `value`.
    fn record(label: u8, value: u8) -> Vec<u8> {
        let mut record = vec![value; RECORD_BYTES];
        record[0] = label;
        record
    }

    #[test]
    fn records_come_in_file_order_from_either_folder() {
        let dir = tempfile::tempdir().unwrap();
        let inner = dir.path().join(SUBFOLDER);
        std::fs::create_dir(&inner).unwrap();
        for batch in 1..=5u8 {
            let bytes = [record(batch, 10 * batch), record(9, 255)].concat();
            put(&inner, &format!("data_batch_{batch}.bin"), &bytes);
        }
        for dir in [dir.path(), inner.as_path()] {
            let set = load_with(dir, Split::Train, 2).unwrap();
            assert_eq!((set.len(), set.classes(), set.levels()), (10, 10, 256));
            assert_eq!((set.name(), set.shape()), ("cifar10-train", SHAPE));
            assert_eq!(set.labels().unwrap(), [1, 9, 2, 9, 3, 9, 4, 9, 5, 9]);
            assert_eq!(set.image(4), [30; 3072]);
        }
    }

    #[test]
    fn a_missing_file_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let error = load_cifar10(dir.path(), Split::Test).unwrap_err();
        assert!(matches!(error, DataError::MissingFile { .. }));
        assert_says(&error, &["expected one of", "test_batch.bin", "found none"]);
    }

    #[test]
    fn another_file_size_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        put(dir.path(), "test_batch.bin", &record(1, 1));
        let error = load_cifar10(dir.path(), Split::Test).unwrap_err();
        assert!(matches!(error, DataError::FileSize { expected: 30_730_000, found: 3073, .. }));
        assert_says(&error, &["test_batch.bin", "expected 30730000", "found 3073"]);
    }

    #[test]
    fn a_label_above_9_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        put(dir.path(), "test_batch.bin", &[record(9, 0), record(10, 0)].concat());
        let error = load_with(dir.path(), Split::Test, 2).unwrap_err();
        assert!(matches!(error, DataError::LabelOutOfRange { index: 1, found: 10, .. }));
        assert_says(&error, &["test_batch.bin", "image 1", "expected 0 to 9", "found 10"]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn arbitrary_bytes_never_panic(
            head in prop::collection::vec(any::<u8>(), 0..32),
            length in RECORD_BYTES - 2..RECORD_BYTES + 2,
        ) {
            let dir = tempfile::tempdir().unwrap();
            let mut bytes = vec![0; length];
            bytes[..head.len()].copy_from_slice(&head);
            put(dir.path(), "test_batch.bin", &bytes);
            let _ = load_with(dir.path(), Split::Test, 1);
        }
    }
}
