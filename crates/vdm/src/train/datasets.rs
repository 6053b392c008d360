//! The images of a training.

use super::TrainError;
use crate::config::Config;
use crate::data::{ImageDataset, Source, Split};

/// Training and test images.
#[derive(Clone, Debug)]
pub struct Datasets {
    /// Training images.
    pub train: ImageDataset,
    /// Test images.
    pub test: ImageDataset,
}

impl Datasets {
    /// Loads both splits of the configured source.
    ///
    /// # Errors
    /// [`TrainError::Data`], or [`TrainError::Dataset`] if the splits do not agree or are empty.
    pub fn load(config: &Config) -> Result<Self, TrainError> {
        let source = &config.data.source;
        let both = Self { train: source.load(Split::Train)?, test: source.load(Split::Test)? };
        let wrong = |reason: String| TrainError::Dataset { name: both.train.name().into(), reason };
        if both.train.is_empty() || both.test.is_empty() {
            return Err(wrong(format!("{} training and {} test images", both.train.len(), both.test.len())));
        }
        if both.train.shape() != both.test.shape() {
            return Err(wrong(format!(
                "training images are {}, test images {}",
                both.train.shape(),
                both.test.shape()
            )));
        }
        Ok(both)
    }

    /// The number of classes of both splits, 0 where images have no labels.
    pub fn classes(&self) -> usize {
        self.train.classes().max(self.test.classes())
    }

    /// Checks that a model of `classes` classes can be trained and evaluated on these images.
    pub(super) fn check_classes(&self, classes: usize) -> Result<(), TrainError> {
        let wrong = |reason: String| Err(TrainError::Dataset { name: self.train.name().into(), reason });
        if classes > 0 && (self.train.labels().is_none() || self.test.labels().is_none()) {
            return wrong("its images have no labels; train without --class-conditional (model.classes = 0)".into());
        }
        if classes > 0 && self.classes() > classes {
            return wrong(format!("it has {} classes, but model.classes = {classes}", self.classes()));
        }
        Ok(())
    }
}
