//! The 8x8 handwritten digits of scikit-learn, built into the library.
//!
//! 1,797 grey images with 17 levels (0 to 16) and labels 0 to 9, 46 kB
//! compressed. Use them to try a model in seconds without downloading
//! anything: for tests, for examples, and for a first look at a configuration.
//!
//! The images are the test part of the UCI dataset, so the same 13 writers are
//! in both splits; results say little about generalising to other writers.
//!
//! # References
//!
//! - E. Alpaydin, C. Kaynak, "Optical Recognition of Handwritten Digits", UCI
//!   Machine Learning Repository, 1998, CC BY 4.0, DOI 10.24432/C50P49. The
//!   layout of the embedded copy is in `assets/README.md`.

use std::path::Path;

use flate2::bufread::MultiGzDecoder;

use serde::{Deserialize, Serialize};

use crate::data::Source;
use crate::data::dataset::ImageDataset;
use crate::data::error::{DataError, Result};
use crate::data::read::bytes::{expect_end, read_payload};
use crate::data::split::Split;
use crate::shape::ImageShape;

static RECORDS: &[u8] = include_bytes!("../../../assets/digits.bin.gz");

const SHAPE: ImageShape = ImageShape { channels: 1, height: 8, width: 8 };
const COUNT: usize = 1797;
const RECORD_BYTES: usize = 1 + 8 * 8;

/// Of this many images in a row, the last is a test image.
const TEST_EVERY: usize = 6;

/// A split of the digits: shape `1 x 8 x 8`, 17 levels, labels 0 to 9.
///
/// The split is fixed. Of scikit-learn's order, the images at index `i` with
/// `i % 6 == 5` are [`Split::Test`] (299) and the rest [`Split::Train`]
/// (1,498, of which 74 are [`Split::Valid`]), each in that order. Since the order mixes the digits, every digit
/// is in both.
///
/// # Errors
///
/// Only where the copy inside the program is damaged: [`DataError::Corrupt`],
/// [`DataError::Truncated`], [`DataError::TrailingBytes`],
/// [`DataError::LabelOutOfRange`] or [`DataError::LevelOutOfRange`].
pub fn digits(split: Split) -> Result<ImageDataset> {
    Ok(decode(RECORDS, split)?.of_split(split))
}

fn decode(packed: &[u8], split: Split) -> Result<ImageDataset> {
    let path = Path::new("(built in) digits.bin.gz");
    let field = "digit records";
    let expected = (COUNT * RECORD_BYTES) as u64;
    let mut reader = MultiGzDecoder::new(packed);
    let mut records = Vec::new();
    read_payload(&mut reader, path, field, expected, &mut records)?;
    expect_end(&mut reader, path, field, expected)?;

    let mut bytes = Vec::new();
    let mut labels = Vec::new();
    for (index, record) in records.chunks_exact(RECORD_BYTES).enumerate() {
        let label = record[0];
        if label > 9 {
            return Err(DataError::LabelOutOfRange {
                path: path.to_owned(),
                index,
                expected: "0 to 9",
                found: label.into(),
            });
        }
        let is_test = index % TEST_EVERY == TEST_EVERY - 1;
        if is_test == (split == Split::Test) {
            labels.push(label.into());
            bytes.extend_from_slice(&record[1..]);
        }
    }
    ImageDataset::new(format!("digits-{split}"), SHAPE, 17, bytes, Some(labels))
}

/// The source `digits` of a configuration: see [`digits()`]. It has no keys.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DigitsSource {}

impl Source for DigitsSource {
    fn load(&self, split: Split) -> Result<ImageDataset> {
        digits(split)
    }

    fn usual_shape(&self) -> Option<ImageShape> {
        Some(SHAPE)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::data::testing::{assert_says, gzip};

    #[test]
    fn the_splits_hold_all_images_once() {
        let train = digits(Split::Train).unwrap();
        let test = digits(Split::Test).unwrap();
        assert_eq!((train.len(), digits(Split::Valid).unwrap().len(), test.len()), (1424, 74, 299));
        assert_eq!((train.name(), test.name()), ("digits-train", "digits-test"));
        for set in [&train, &test] {
            assert_eq!((set.shape(), set.levels(), set.classes()), (SHAPE, 17, 10));
            let labels: BTreeSet<u32> = set.labels().unwrap().iter().copied().collect();
            assert!(labels.into_iter().eq(0..10), "every digit is in both splits");
            assert_eq!(set.bytes().iter().max(), Some(&16));
        }
    }

    #[test]
    fn images_are_those_of_scikit_learn() {
        let train = digits(Split::Train).unwrap();
        assert_eq!(train.image(0)[..8], [0, 0, 5, 13, 9, 1, 0, 0]);
        assert_eq!(train.image(0)[56..], [0, 0, 6, 13, 10, 0, 0, 0]);
        // The digits start 0, 1, 2, ..., 9 and the sixth of them is a test image.
        assert_eq!(train.labels().unwrap()[..7], [0, 1, 2, 3, 4, 6, 7]);
        assert_eq!(digits(Split::Test).unwrap().label(0), Some(5));
    }

    #[test]
    fn a_damaged_copy_is_an_error() {
        let error = decode(&RECORDS[..1000], Split::Train).unwrap_err();
        assert!(matches!(error, DataError::Truncated { expected: 116_805, .. }));
        assert_says(&error, &["digits.bin.gz", "expected 116805", "found"]);

        let mut records = vec![0; COUNT * RECORD_BYTES];
        records[RECORD_BYTES] = 77;
        let error = decode(&gzip(&records), Split::Test).unwrap_err();
        assert!(matches!(error, DataError::LabelOutOfRange { index: 1, found: 77, .. }));

        records[RECORD_BYTES] = 7;
        records[RECORD_BYTES + 1] = 17;
        let error = decode(&gzip(&records), Split::Train).unwrap_err();
        assert!(matches!(error, DataError::LevelOutOfRange { image: 1, found: 17, .. }));
    }
}
