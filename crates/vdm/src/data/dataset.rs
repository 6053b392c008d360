//! Images in memory, as bytes.
//!
//! A diffusion model of discrete data needs the exact bytes: the likelihood
//! bound counts the bits of these values, so nothing here rescales, dithers
//! or converts them. Every loader of [`crate::data`] ends in an
//! [`ImageDataset`], and training, evaluation and coding start from one.

use std::fmt;
use std::ops::Range;

use burn::tensor::{Device, Tensor, TensorData};
use sha2::{Digest, Sha256};

use super::error::{DataError, Result};
use super::pixels::Pixels;
use super::split::Split;
use crate::diffusion::Vocabulary;
use crate::math::hex;
use crate::shape::ImageShape;

/// Check that the shape is of a possible image and give its size in bytes.
pub(super) fn checked_dims(shape: ImageShape, dataset: &str) -> Result<usize> {
    match shape.dims() {
        0 => Err(DataError::ZeroDimension { dataset: dataset.to_owned(), found: shape }),
        usize::MAX => Err(DataError::TooLarge { dataset: dataset.to_owned(), expected: usize::MAX - 1, found: shape }),
        dims => Ok(dims),
    }
}

/// A list of images of one shape, with an optional label and name each.
///
/// ```
/// use vdm::ImageShape;
/// use vdm::data::ImageDataset;
///
/// let shape = ImageShape { channels: 1, height: 1, width: 2 };
/// let images = ImageDataset::new("two", shape, 256, vec![1, 2, 3, 4], Some(vec![0, 1]))?;
/// assert_eq!(images.len(), 2);
/// assert_eq!(images.image(1), [3, 4]);
/// assert_eq!(images.label(1), Some(1));
/// # Ok::<(), vdm::data::DataError>(())
/// ```
#[derive(Clone)]
pub struct ImageDataset {
    name: String,
    shape: ImageShape,
    levels: usize,
    bytes: Pixels,
    labels: Option<Vec<u32>>,
    names: Option<Vec<String>>,
    /// The fingerprint, if it was found out before.
    fingerprint: Option<String>,
}

impl PartialEq for ImageDataset {
    /// Whether name, shape, levels, images, labels and names are the same.
    fn eq(&self, other: &Self) -> bool {
        (&self.name, self.shape, self.levels) == (&other.name, other.shape, other.levels)
            && (&self.bytes, &self.labels, &self.names) == (&other.bytes, &other.labels, &other.names)
    }
}

impl Eq for ImageDataset {}

impl ImageDataset {
    /// Build a dataset from the bytes of its images, one after another, each
    /// in CHW order. `levels` is the size of the vocabulary: every byte is in
    /// `0..levels`. There may be no images.
    ///
    /// # Errors
    ///
    /// [`DataError::ZeroDimension`], [`DataError::TooLarge`] and
    /// [`DataError::Levels`] for a shape or vocabulary that cannot be;
    /// [`DataError::ByteCount`] where the bytes are not whole images;
    /// [`DataError::LevelOutOfRange`] for a byte of `levels` or more;
    /// [`DataError::PerImageCount`] where the number of labels is not the number of images.
    pub fn new(
        name: impl Into<String>,
        shape: ImageShape,
        levels: usize,
        bytes: Vec<u8>,
        labels: Option<Vec<u32>>,
    ) -> Result<Self> {
        Self::of_pixels(name.into(), shape, levels, Pixels::Owned(bytes), labels)
    }

    /// The same from bytes that may be in a file.
    pub(super) fn of_pixels(
        name: String,
        shape: ImageShape,
        levels: usize,
        bytes: Pixels,
        labels: Option<Vec<u32>>,
    ) -> Result<Self> {
        let dims = checked_dims(shape, &name)?;
        if !(2..=256).contains(&levels) {
            return Err(DataError::Levels { dataset: name, found: levels });
        }
        if !bytes.len().is_multiple_of(dims) {
            return Err(DataError::ByteCount { dataset: name, expected: dims, found: bytes.len() });
        }
        let beyond = |&byte: &u8| usize::from(byte) >= levels;
        // Every byte is a level of 256; those in a file are not looked at for nothing.
        if let Some(at) = (levels < 256).then(|| bytes.iter().position(beyond)).flatten() {
            return Err(DataError::LevelOutOfRange {
                dataset: name,
                image: at / dims,
                offset: at % dims,
                expected: levels,
                found: bytes[at],
            });
        }
        let count = bytes.len() / dims;
        if let Some(labels) = &labels {
            check_per_image(&name, "labels", count, labels.len())?;
        }
        Ok(Self { name, shape, levels, bytes, labels, names: None, fingerprint: None })
    }

    /// Give every image a name, such as that of its file.
    ///
    /// # Errors
    ///
    /// [`DataError::PerImageCount`] where the number of names is not the number of images.
    pub fn with_names(mut self, names: Vec<String>) -> Result<Self> {
        check_per_image(&self.name, "names", self.len(), names.len())?;
        self.names = Some(names);
        Ok(self)
    }

    /// The dataset's name, for reports and messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The shape of every image.
    pub fn shape(&self) -> ImageShape {
        self.shape
    }

    /// The size of the vocabulary: every byte is below it.
    pub fn levels(&self) -> usize {
        self.levels
    }

    /// The same as the model knows it.
    pub fn vocabulary(&self) -> Vocabulary {
        Vocabulary::new(self.levels).expect("a data set has 2 to 256 levels")
    }

    /// The number of images.
    pub fn len(&self) -> usize {
        self.bytes.len() / self.shape.dims()
    }

    /// Whether there are no images.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The bytes of image `index`, in CHW order.
    ///
    /// # Panics
    ///
    /// Where `index` is not below [`len`](Self::len), as slices do.
    pub fn image(&self, index: usize) -> &[u8] {
        assert!(index < self.len(), "{}: image {index} of {}", self.name, self.len());
        let dims = self.shape.dims();
        &self.bytes[index * dims..(index + 1) * dims]
    }

    /// The bytes of all images, one after another, each in CHW order.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The label of image `index`; none without labels or past the end.
    pub fn label(&self, index: usize) -> Option<u32> {
        self.labels.as_ref()?.get(index).copied()
    }

    /// The label of each image, if there are labels.
    pub fn labels(&self) -> Option<&[u32]> {
        self.labels.as_deref()
    }

    /// The number of classes: the largest label + 1, or 0 without labels.
    pub fn classes(&self) -> usize {
        let largest = self.labels.as_ref().and_then(|labels| labels.iter().max());
        largest.map_or(0, |&label| (label as usize).saturating_add(1))
    }

    /// The name of each image, if there are names.
    pub fn names(&self) -> Option<&[String]> {
        self.names.as_deref()
    }

    /// The images of a range, with their labels and names, as a dataset of
    /// the same name.
    ///
    /// # Errors
    ///
    /// [`DataError::IndexOutOfRange`] where the range ends past the images or
    /// before it starts.
    pub fn subset(&self, range: Range<usize>) -> Result<Self> {
        self.check_at_most(range.end, self.len())?;
        self.check_at_most(range.start, range.end)?;
        let dims = self.shape.dims();
        Ok(Self {
            name: self.name.clone(),
            shape: self.shape,
            levels: self.levels,
            bytes: Pixels::Owned(self.bytes[range.start * dims..range.end * dims].to_vec()),
            labels: self.labels.as_ref().map(|labels| labels[range.clone()].to_vec()),
            names: self.names.as_ref().map(|names| names[range.clone()].to_vec()),
            fingerprint: None,
        })
    }

    /// The images of the given indices, in that order and as often as they
    /// occur, with their labels and names, as a dataset of the same name.
    ///
    /// # Errors
    ///
    /// [`DataError::IndexOutOfRange`] for an index past the images.
    pub fn select(&self, indices: &[usize]) -> Result<Self> {
        let past_end = indices.iter().find(|&&index| index >= self.len());
        if let Some(&index) = past_end {
            return Err(DataError::IndexOutOfRange {
                dataset: self.name.clone(),
                expected: self.len().saturating_sub(1),
                found: index,
            });
        }
        let labels = self.labels.as_ref();
        let names = self.names.as_ref();
        Ok(Self {
            name: self.name.clone(),
            shape: self.shape,
            levels: self.levels,
            bytes: Pixels::Owned(self.gather(indices)),
            labels: labels.map(|labels| indices.iter().map(|&index| labels[index]).collect()),
            names: names.map(|names| indices.iter().map(|&index| names[index].clone()).collect()),
            fingerprint: None,
        })
    }

    /// `count` images, spread evenly over all.
    ///
    /// # Errors
    ///
    /// [`DataError::IndexOutOfRange`] for more images than there are.
    pub fn spread(&self, count: usize) -> Result<Self> {
        self.check_at_most(count, self.len())?;
        self.select(&Vec::from_iter((0..count).map(|i| i * self.len() / count)))
    }

    /// The images of a split among all that a source stores with them.
    pub(super) fn of_split(mut self, split: Split) -> Self {
        self.retain(|i| split.has(i));
        self
    }

    /// Drops the images of all indices that are not to be kept, in place.
    fn retain(&mut self, keep: impl Fn(usize) -> bool) {
        let (dims, count) = (self.shape.dims(), self.len());
        let mut kept = 0;
        let bytes = self.bytes.to_mut();
        for index in (0..count).filter(|&index| keep(index)) {
            bytes.copy_within(index * dims..(index + 1) * dims, kept * dims);
            kept += 1;
        }
        bytes.truncate(kept * dims);
        self.fingerprint = None;
        fn drop_from<T>(list: &mut Option<Vec<T>>, keep: impl Fn(usize) -> bool) {
            let mut index = 0..;
            if let Some(list) = list {
                list.retain(|_| index.next().is_some_and(&keep));
            }
        }
        drop_from(&mut self.labels, &keep);
        drop_from(&mut self.names, &keep);
    }

    /// The first 16 bytes, in hexadecimal, of the SHA-256 of shape, levels, pixels and labels.
    pub fn fingerprint(&self) -> String {
        if let Some(known) = &self.fingerprint {
            return known.clone();
        }
        let mut hash = Sha256::new();
        let ImageShape { channels, height, width } = self.shape;
        for number in [channels, height, width, self.levels, self.len()] {
            hash.update((number as u64).to_le_bytes());
        }
        hash.update(&*self.bytes);
        self.labels.iter().flatten().for_each(|label| hash.update(label.to_le_bytes()));
        hex(&hash.finalize()[..16])
    }

    /// The same images, whose fingerprint is known to be this.
    pub(super) fn with_fingerprint(mut self, fingerprint: String) -> Self {
        self.fingerprint = Some(fingerprint);
        self
    }

    /// The classes below [`classes`](Self::classes) that no image has.
    pub fn empty_classes(&self) -> Vec<u32> {
        let mut found = vec![false; self.classes()];
        self.labels.iter().flatten().for_each(|&label| found[label as usize] = true);
        (0..).zip(found).filter(|(_, found)| !found).map(|(class, _)| class).collect()
    }

    /// Join datasets of one kind into one with the first one's name.
    ///
    /// # Errors
    ///
    /// [`DataError::NothingToJoin`] for an empty list, and
    /// [`DataError::ConcatMismatch`] where shapes or levels differ, or where
    /// some have labels (or names) and others have not.
    pub fn concat(parts: Vec<Self>) -> Result<Self> {
        let mut parts = parts.into_iter();
        let mut all = parts.next().ok_or(DataError::NothingToJoin)?;
        for part in parts {
            all.append(part)?;
        }
        Ok(all)
    }

    /// A batch: the bytes of the images of the given indices, one after
    /// another, each in CHW order.
    ///
    /// # Panics
    ///
    /// Where an index is not below [`len`](Self::len), as slices do.
    pub fn gather(&self, indices: &[usize]) -> Vec<u8> {
        let mut batch = Vec::with_capacity(indices.len().saturating_mul(self.shape.dims()));
        for &index in indices {
            batch.extend_from_slice(self.image(index));
        }
        batch
    }

    /// A batch as whole numbers in floats, which is what a model takes: `[batch, channels, height, width]`. Only these
    /// images become floats; the data set stays bytes.
    ///
    /// # Panics
    ///
    /// Where an index is not below [`len`](Self::len), as slices do.
    pub fn batch(&self, indices: &[usize], device: &Device) -> Tensor<4> {
        let k: Vec<f32> = self.gather(indices).into_iter().map(f32::from).collect();
        Tensor::from_data(TensorData::new(k, self.shape.batch(indices.len())), device)
    }

    fn append(&mut self, part: Self) -> Result<()> {
        let same = |field: &'static str, expected: String, found: String| {
            if expected == found {
                return Ok(());
            }
            Err(DataError::ConcatMismatch { dataset: part.name.clone(), field, expected, found })
        };
        same("image shape", self.shape.to_string(), part.shape.to_string())?;
        same("levels", self.levels.to_string(), part.levels.to_string())?;
        same("labels", presence(&self.labels), presence(&part.labels))?;
        same("names", presence(&self.names), presence(&part.names))?;
        self.bytes.to_mut().extend_from_slice(&part.bytes);
        self.fingerprint = None;
        if let (Some(all), Some(more)) = (&mut self.labels, part.labels) {
            all.extend(more);
        }
        if let (Some(all), Some(more)) = (&mut self.names, part.names) {
            all.extend(more);
        }
        Ok(())
    }

    fn check_at_most(&self, found: usize, expected: usize) -> Result<()> {
        if found <= expected {
            return Ok(());
        }
        Err(DataError::IndexOutOfRange { dataset: self.name.clone(), expected, found })
    }
}

// Written by hand because the derived form would print every byte.
impl fmt::Debug for ImageDataset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ImageDataset")
            .field("name", &self.name)
            .field("shape", &self.shape)
            .field("levels", &self.levels)
            .field("len", &self.len())
            .field("classes", &self.classes())
            .finish_non_exhaustive()
    }
}

fn check_per_image(dataset: &str, field: &'static str, expected: usize, found: usize) -> Result<()> {
    if expected == found {
        return Ok(());
    }
    Err(DataError::PerImageCount { dataset: dataset.to_owned(), field, expected, found })
}

fn presence<T>(list: &Option<Vec<T>>) -> String {
    let text = if list.is_some() { "one for every image" } else { "none" };
    text.to_owned()
}

#[cfg(test)]
mod tests {
    use super::super::testing::assert_says;
    use super::*;

    const SHAPE: ImageShape = ImageShape { channels: 2, height: 1, width: 3 };

    fn three() -> ImageDataset {
        ImageDataset::new("three", SHAPE, 256, (0..18).collect(), Some(vec![4, 0, 2]))
            .and_then(|set| set.with_names(vec!["a".into(), "b".into(), "c".into()]))
            .unwrap()
    }

    #[test]
    fn accessors_agree_with_what_was_given() {
        let set = three();
        assert_eq!((set.name(), set.shape(), set.levels()), ("three", SHAPE, 256));
        assert_eq!((set.len(), set.is_empty(), set.classes()), (3, false, 5));
        assert_eq!(set.image(1), [6, 7, 8, 9, 10, 11]);
        assert_eq!(set.bytes().len(), 18);
        assert_eq!((set.label(2), set.label(3)), (Some(2), None));
        assert_eq!(set.names().unwrap(), ["a", "b", "c"]);
        assert_eq!(set.gather(&[2, 0]), [12, 13, 14, 15, 16, 17, 0, 1, 2, 3, 4, 5]);
        assert!(!format!("{set:?}").contains("17"), "the bytes are not printed");
    }

    #[test]
    fn subset_and_select_keep_labels_and_names() {
        let set = three();
        let tail = set.subset(1..3).unwrap();
        assert_eq!(tail, set.select(&[1, 2]).unwrap());
        assert_eq!(tail.labels().unwrap(), [0, 2]);
        assert_eq!(tail.names().unwrap(), ["b", "c"]);
        assert_eq!(ImageDataset::concat(vec![set.subset(0..1).unwrap(), tail]).unwrap(), set);
        assert!(set.subset(2..2).unwrap().is_empty());
    }

    #[test]
    fn subset_and_select_refuse_what_is_past_the_end() {
        let set = three();
        for error in [set.subset(1..4).unwrap_err(), set.select(&[0, 4]).unwrap_err()] {
            assert!(matches!(error, DataError::IndexOutOfRange { found: 4, .. }));
            assert_says(&error, &["three", "expected at most", "found 4"]);
        }
        let backwards = Range { start: 2, end: 1 };
        assert!(matches!(set.subset(backwards), Err(DataError::IndexOutOfRange { expected: 1, found: 2, .. })));
    }

    #[test]
    fn a_shape_of_nothing_is_refused() {
        let shape = ImageShape { channels: 1, height: 0, width: 3 };
        let error = ImageDataset::new("flat", shape, 256, vec![], None).unwrap_err();
        assert!(matches!(error, DataError::ZeroDimension { .. }));
        assert_says(&error, &["flat", "expected", "found 1x0x3"]);
    }

    #[test]
    fn a_shape_beyond_memory_is_refused() {
        let shape = ImageShape { channels: 3, height: usize::MAX, width: 2 };
        let error = ImageDataset::new("vast", shape, 256, vec![], None).unwrap_err();
        assert!(matches!(error, DataError::TooLarge { .. }));
        assert_says(&error, &["vast", "expected at most", "found 3x"]);
    }

    #[test]
    fn impossible_vocabularies_are_refused() {
        for levels in [0, 1, 257] {
            let error = ImageDataset::new("set", SHAPE, levels, vec![], None).unwrap_err();
            assert!(matches!(error, DataError::Levels { found, .. } if found == levels));
            assert_says(&error, &["set", "expected 2 to 256", &format!("found {levels}")]);
        }
    }

    #[test]
    fn part_of_an_image_is_refused() {
        let error = ImageDataset::new("set", SHAPE, 256, vec![0; 7], None).unwrap_err();
        assert!(matches!(error, DataError::ByteCount { expected: 6, found: 7, .. }));
        assert_says(&error, &["set", "multiple of 6", "found 7"]);
    }

    #[test]
    fn a_value_outside_the_vocabulary_is_refused() {
        let mut bytes = vec![16; 12];
        bytes[8] = 17;
        let error = ImageDataset::new("set", SHAPE, 17, bytes, None).unwrap_err();
        assert!(matches!(error, DataError::LevelOutOfRange { image: 1, offset: 2, .. }));
        assert_says(&error, &["set", "image 1, byte 2", "below 17", "found 17"]);
    }

    #[test]
    fn a_wrong_number_of_labels_or_names_is_refused() {
        let error = ImageDataset::new("set", SHAPE, 256, vec![0; 12], Some(vec![1])).unwrap_err();
        assert!(matches!(error, DataError::PerImageCount { field: "labels", .. }));
        assert_says(&error, &["set", "labels", "expected 2", "found 1"]);
        let error = three().with_names(vec![]).unwrap_err();
        assert!(matches!(error, DataError::PerImageCount { field: "names", .. }));
        assert_says(&error, &["three", "names", "expected 3", "found 0"]);
    }

    #[test]
    fn unlike_datasets_are_not_joined() {
        let bare = ImageDataset::new("bare", SHAPE, 256, vec![0; 6], None).unwrap();
        let error = ImageDataset::concat(vec![three(), bare.clone()]).unwrap_err();
        assert!(matches!(error, DataError::ConcatMismatch { field: "labels", .. }));
        assert_says(&error, &["bare", "expected one for every image", "found none"]);

        let coarse = ImageDataset::new("coarse", SHAPE, 17, vec![0; 6], None).unwrap();
        let error = ImageDataset::concat(vec![bare, coarse]).unwrap_err();
        assert!(matches!(error, DataError::ConcatMismatch { field: "levels", .. }));

        let error = ImageDataset::concat(vec![]).unwrap_err();
        assert!(matches!(error, DataError::NothingToJoin));
        assert_says(&error, &["expected at least one", "found none"]);
    }
}
