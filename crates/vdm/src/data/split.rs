//! The parts that a data set is divided into.

use sha2::{Digest, Sha256};
use std::fmt;

/// Of so many training images that a source brings, the last one is held out for validation.
const VALID_EVERY: usize = 20;

/// Which part of a data set: to learn from, to choose with, or to judge with.
///
/// No source but a folder brings a validation split of its own: it is cut from the training images by a fixed rule (the
/// last of every 20), so it is the same in every run, and no model is ever trained on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Split {
    /// The images to train on.
    Train,
    /// The images to choose a model or a recipe with: never trained on.
    Valid,
    /// The images for the final number only.
    Test,
}

impl Split {
    /// The split whose images a source stores with those of this one.
    pub(super) fn stored(self) -> Self {
        if self == Self::Valid { Self::Train } else { self }
    }

    /// Whether image number `i` of those of [`stored`](Self::stored) is of this split.
    pub(super) fn has(self, i: usize) -> bool {
        let held_out = i % VALID_EVERY == VALID_EVERY - 1;
        match self {
            Self::Train => !held_out,
            Self::Valid => held_out,
            Self::Test => true,
        }
    }

    /// The split of a file by its name alone: one in ten is for the test, one in twenty for validation.
    pub(super) fn of_name(name: &str) -> Self {
        let hash = Sha256::digest(name.as_bytes());
        let number = u64::from_le_bytes(std::array::from_fn(|i| hash[i]));
        match number % 20 {
            0 | 1 => Self::Test,
            2 => Self::Valid,
            _ => Self::Train,
        }
    }
}

impl fmt::Display for Split {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Train => "train",
            Self::Valid => "valid",
            Self::Test => "test",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::digits;

    #[test]
    fn validation_is_cut_from_training_and_shares_no_image_with_it() {
        let [train, valid, test] = [Split::Train, Split::Valid, Split::Test].map(|split| digits(split).unwrap());
        assert_eq!((train.len(), valid.len(), test.len()), (1424, 74, 299));
        assert_eq!(train.image(18), digits(Split::Train).unwrap().image(18));
        // The 20th stored image is the first of validation; the 21st follows the 19th in training.
        assert_ne!(valid.image(0), train.image(19));
        assert_eq!(train.labels().unwrap().len(), 1424);
    }

    #[test]
    fn names_spread_over_the_splits() {
        let splits: Vec<Split> = (0..2000).map(|i| Split::of_name(&format!("{i}.png"))).collect();
        let count = |split| splits.iter().filter(|s| **s == split).count();
        assert!((150..250).contains(&count(Split::Test)) && (70..130).contains(&count(Split::Valid)));
    }
}
