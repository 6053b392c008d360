//! The images of a training.

use super::TrainError;
use crate::config::Config;
use crate::data::{ImageDataset, Source, Split};

/// The images of a training: to learn from, to choose with, and for the final number.
#[derive(Clone, Debug)]
pub struct Datasets {
    /// Training images.
    pub train: ImageDataset,
    /// Validation images: never trained on; they choose the best checkpoint.
    pub valid: ImageDataset,
    /// Test images, for the final evaluation only.
    pub test: ImageDataset,
}

impl Datasets {
    /// Loads all splits of the configured source.
    ///
    /// # Errors
    /// [`TrainError::Data`], or [`TrainError::Dataset`] if the splits do not agree or are empty.
    pub fn load(config: &Config) -> Result<Self, TrainError> {
        let source = &config.data.source;
        let [train, valid, test] = [Split::Train, Split::Valid, Split::Test].map(|split| source.load(split));
        let all = Self { train: train?, valid: valid?, test: test? };
        let wrong = |reason: String| TrainError::Dataset { name: all.train.name().into(), reason };
        let sizes = [&all.train, &all.valid, &all.test].map(ImageDataset::len);
        if sizes.contains(&0) {
            let [train, valid, test] = sizes;
            return Err(wrong(format!(
                "{train} training, {valid} validation and {test} test images; each needs at least one (of every 20 \
                 training images one is held out for validation)"
            )));
        }
        for other in [&all.valid, &all.test] {
            if all.train.shape() != other.shape() {
                return Err(wrong(format!(
                    "training images are {}, those of `{}` {}",
                    all.train.shape(),
                    other.name(),
                    other.shape()
                )));
            }
        }
        Ok(all)
    }

    /// The number of classes of all splits, 0 where images have no labels.
    pub fn classes(&self) -> usize {
        self.train.classes().max(self.valid.classes()).max(self.test.classes())
    }

    /// A text that tells these images, with their order, labels and division, from any others.
    pub fn fingerprint(&self) -> String {
        let splits = [("train", &self.train), ("valid", &self.valid), ("test", &self.test)];
        splits.map(|(name, images)| format!("{name}:{}", images.fingerprint())).join(",")
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
        if classes > 0
            && let Some(class) = self.train.empty_classes().first()
        {
            return wrong(format!(
                "no training image is of class {class}, so the model would draw it without ever having seen it; number \
                 the labels from 0 without gaps, or train without --class-conditional"
            ));
        }
        Ok(())
    }
}
