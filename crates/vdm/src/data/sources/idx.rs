//! The IDX format of MNIST and of the datasets that imitate it.
//!
//! A file is a header and then the elements in row-major order. The header is
//! two zero bytes, a type byte (`0x08`, unsigned byte, is the only one that
//! MNIST uses and the only one read here), the number of dimensions, and each
//! dimension as a big-endian `u32`. Files may be gzipped, as distributed; that
//! is told from their content, not from their name.
//!
//! Use [`load_idx_split`] for MNIST, Fashion-MNIST, KMNIST and other folders
//! with their four files, and the other functions for single files. Writing
//! gives the same bytes back that reading took (uncompressed).
//!
//! # References
//!
//! - Y. LeCun, C. Cortes, C. Burges, "The MNIST database of handwritten
//!   digits", <http://yann.lecun.com/exdb/mnist>, which describes the format.
//! - H. Xiao, K. Rasul, R. Vollgraf, "Fashion-MNIST", arXiv:1708.07747, 2017.

use std::ffi::OsStr;
use std::io::{self, Write};
use std::num::TryFromIntError;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::data::Source;
use crate::data::dataset::{ImageDataset, checked_dims};
use crate::data::error::{DataError, Result};
use crate::data::read::bytes::{Input, hex};
use crate::data::split::Split;
use crate::shape::ImageShape;

/// The type byte of unsigned bytes.
const UNSIGNED_BYTE: u8 = 0x08;

/// The grey images of one IDX file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdxImages {
    height: usize,
    width: usize,
    bytes: Vec<u8>,
}

impl IdxImages {
    /// Images of `height` rows and `width` columns, one after another, each
    /// row by row.
    ///
    /// # Errors
    ///
    /// [`DataError::ZeroDimension`] for a side of zero,
    /// [`DataError::ByteCount`] where the bytes are not whole images, and
    /// [`DataError::TooLarge`] where a side or the number of images does not
    /// fit the 32 bits of the format.
    pub fn new(height: usize, width: usize, bytes: Vec<u8>) -> Result<Self> {
        let shape = ImageShape { channels: 1, height, width };
        let dataset = "IDX images";
        let dims = checked_dims(shape, dataset)?;
        if !bytes.len().is_multiple_of(dims) {
            return Err(DataError::ByteCount { dataset: dataset.to_owned(), expected: dims, found: bytes.len() });
        }
        let largest = height.max(width).max(bytes.len() / dims);
        if u32::try_from(largest).is_err() {
            return Err(DataError::TooLarge { dataset: dataset.to_owned(), expected: u32::MAX as usize, found: shape });
        }
        Ok(Self { height, width, bytes })
    }

    /// The number of images.
    pub fn len(&self) -> usize {
        self.bytes.len() / (self.height * self.width)
    }

    /// Whether there are no images.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Rows of an image, in pixels.
    pub fn height(&self) -> usize {
        self.height
    }

    /// Columns of an image, in pixels.
    pub fn width(&self) -> usize {
        self.width
    }

    /// The images one after another, each row by row.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The same bytes, without a copy.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }
}

/// Read an IDX file of images (three dimensions: count, height, width).
///
/// # Errors
///
/// [`DataError::Io`], [`DataError::BadMagic`], [`DataError::WrongTypeByte`],
/// [`DataError::WrongRank`], [`DataError::ZeroDimension`],
/// [`DataError::HeaderClaim`], [`DataError::Truncated`],
/// [`DataError::TrailingBytes`] and [`DataError::Corrupt`], as each of them
/// says.
pub fn read_idx_images(path: impl AsRef<Path>) -> Result<IdxImages> {
    images_of(Input::open(path.as_ref())?)
}

/// The images of the bytes of an IDX file, gunzipped if need be; errors call it `path`.
///
/// # Errors
///
/// As [`read_idx_images`].
pub fn parse_idx_images(bytes: &[u8], path: impl AsRef<Path>) -> Result<IdxImages> {
    images_of(Input::new(path.as_ref(), bytes, bytes.len() as u64)?)
}

fn images_of(mut input: Input<'_>) -> Result<IdxImages> {
    let [count, height, width] = read_dimensions::<3>(&mut input)?;
    let shape = ImageShape { channels: 1, height: height as usize, width: width as usize };
    checked_dims(shape, &input.path().display().to_string())?;
    let claimed = u128::from(count) * u128::from(height) * u128::from(width);
    let bytes = input.rest("IDX images", claimed)?;
    Ok(IdxImages { height: shape.height, width: shape.width, bytes })
}

/// Read an IDX file of labels (one dimension: count).
///
/// # Errors
///
/// As [`read_idx_images`].
pub fn read_idx_labels(path: impl AsRef<Path>) -> Result<Vec<u8>> {
    let mut input = Input::open(path.as_ref())?;
    let [count] = read_dimensions::<1>(&mut input)?;
    input.rest("IDX labels", u128::from(count))
}

/// Load one split of a folder in the layout of MNIST: `train-*` and `t10k-*`
/// files, named `images-idx3-ubyte` and `labels-idx1-ubyte` or with a dot in
/// place of the last hyphen but one (`images.idx3-ubyte`), each with or
/// without `.gz`. The uncompressed, hyphenated name wins where several exist.
///
/// The dataset has 256 levels and shape `1 x height x width`. Labels are read
/// where their file exists; without it the dataset has none.
///
/// # Errors
///
/// [`DataError::MissingFile`] without images, [`DataError::CountMismatch`]
/// where the number of labels is not the number of images, and what [`read_idx_images`] gives.
pub fn load_idx_split(dir: impl AsRef<Path>, split: Split) -> Result<ImageDataset> {
    let dir = dir.as_ref();
    let names = candidates(split, "images", "idx3");
    let path =
        find(dir, &names).ok_or_else(|| DataError::MissingFile { dir: dir.to_owned(), expected: names.join(", ") })?;
    let images = read_idx_images(path)?;
    let labels = match find(dir, &candidates(split, "labels", "idx1")) {
        None => None,
        Some(path) => Some(matching_labels(&path, images.len())?),
    };
    let folder = dir.file_name().unwrap_or(OsStr::new("idx")).to_string_lossy();
    let shape = ImageShape { channels: 1, height: images.height, width: images.width };
    Ok(ImageDataset::new(format!("{folder}-{split}"), shape, 256, images.bytes, labels)?.of_split(split))
}

/// Write images as an uncompressed IDX file.
///
/// # Errors
///
/// What the writer gives.
pub fn write_idx_images(mut writer: impl Write, images: &IdxImages) -> io::Result<()> {
    write_header(&mut writer, &[images.len(), images.height, images.width])?;
    writer.write_all(&images.bytes)
}

/// Write labels as an uncompressed IDX file.
///
/// # Errors
///
/// What the writer gives, and [`io::ErrorKind::InvalidInput`] for more labels
/// than the 32 bits of the format can count.
pub fn write_idx_labels(mut writer: impl Write, labels: &[u8]) -> io::Result<()> {
    write_header(&mut writer, &[labels.len()])?;
    writer.write_all(labels)
}

fn read_dimensions<const RANK: usize>(input: &mut Input<'_>) -> Result<[u32; RANK]> {
    let magic: [u8; 4] = input.array("IDX magic number")?;
    let path = input.path().to_owned();
    if magic[..2] != [0, 0] {
        let field = "IDX magic number".to_owned();
        return Err(DataError::BadMagic { path, field, expected: "00 00", found: hex(&magic[..2]) });
    }
    if magic[2] != UNSIGNED_BYTE {
        return Err(DataError::WrongTypeByte { path, expected: UNSIGNED_BYTE, found: magic[2] });
    }
    if usize::from(magic[3]) != RANK {
        return Err(DataError::WrongRank { path, expected: RANK, found: magic[3].into() });
    }
    let mut dimensions = [0; RANK];
    for (axis, dimension) in dimensions.iter_mut().enumerate() {
        *dimension = u32::from_be_bytes(input.array(&format!("IDX dimension {axis}"))?);
    }
    Ok(dimensions)
}

fn write_header(writer: &mut impl Write, dimensions: &[usize]) -> io::Result<()> {
    let too_large = |_: TryFromIntError| io::Error::new(io::ErrorKind::InvalidInput, "IDX counts have 32 bits");
    let rank = u8::try_from(dimensions.len()).map_err(too_large)?;
    writer.write_all(&[0, 0, UNSIGNED_BYTE, rank])?;
    for &dimension in dimensions {
        let dimension = u32::try_from(dimension).map_err(too_large)?;
        writer.write_all(&dimension.to_be_bytes())?;
    }
    Ok(())
}

fn candidates(split: Split, kind: &str, rank: &str) -> Vec<String> {
    let prefix = match split {
        Split::Train | Split::Valid => "train",
        Split::Test => "t10k",
    };
    let stems = ["-", "."].map(|mark| format!("{prefix}-{kind}{mark}{rank}-ubyte"));
    stems.iter().flat_map(|stem| [stem.clone(), format!("{stem}.gz")]).collect()
}

fn find(dir: &Path, names: &[String]) -> Option<PathBuf> {
    names.iter().map(|name| dir.join(name)).find(|path| path.is_file())
}

fn matching_labels(path: &Path, images: usize) -> Result<Vec<u32>> {
    let labels = read_idx_labels(path)?;
    if labels.len() != images {
        return Err(DataError::CountMismatch {
            path: path.to_owned(),
            field: "labels".to_owned(),
            expected: images as u64,
            found: labels.len() as u64,
        });
    }
    Ok(labels.into_iter().map(u32::from).collect())
}

/// The source `idx` of a configuration, for MNIST or a data set in its format: see [`load_idx_split`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct IdxSource {
    /// The folder of the four files.
    pub dir: PathBuf,
}

impl Source for IdxSource {
    fn load(&self, split: Split) -> Result<ImageDataset> {
        load_idx_split(&self.dir, split)
    }

    /// That of MNIST; other data sets in its format may have another.
    fn usual_shape(&self) -> Option<ImageShape> {
        Some(ImageShape { channels: 1, height: 28, width: 28 })
    }

    fn dir_mut(&mut self) -> Option<&mut PathBuf> {
        Some(&mut self.dir)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::data::testing::{assert_says, gzip, put, temp_file};

    const HEADER: [u8; 16] = [0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 2, 0, 0, 0, 3];

    fn two_images() -> Vec<u8> {
        let pixels: Vec<u8> = (0..12).collect();
        [&HEADER[..], &pixels[..]].concat()
    }

    fn images_error(bytes: &[u8]) -> DataError {
        let (_dir, path) = temp_file("some-idx3", bytes);
        read_idx_images(path).unwrap_err()
    }

    #[test]
    fn images_and_labels_come_back_byte_for_byte() {
        let bytes = two_images();
        for stored in [bytes.clone(), gzip(&bytes)] {
            let (_dir, path) = temp_file("misnamed.txt", &stored);
            let images = read_idx_images(path).unwrap();
            assert_eq!((images.len(), images.height(), images.width()), (2, 2, 3));
            let mut written = Vec::new();
            write_idx_images(&mut written, &images).unwrap();
            assert_eq!(written, bytes);
        }
        let mut written = Vec::new();
        write_idx_labels(&mut written, &[7, 9]).unwrap();
        assert_eq!(written, [0, 0, 8, 1, 0, 0, 0, 2, 7, 9]);
        let (_dir, path) = temp_file("labels", &written);
        assert_eq!(read_idx_labels(path).unwrap(), [7, 9]);
    }

    #[test]
    fn a_folder_is_found_under_every_published_name() {
        let labels = [0, 0, 8, 1, 0, 0, 0, 2, 3, 1];
        for (images_name, labels_name, split) in [
            ("train-images-idx3-ubyte", "train-labels.idx1-ubyte", Split::Train),
            ("train-images.idx3-ubyte.gz", "train-labels-idx1-ubyte.gz", Split::Train),
            ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte", Split::Test),
        ] {
            let dir = tempfile::tempdir().unwrap();
            let mnist = dir.path().join("mnist");
            std::fs::create_dir(&mnist).unwrap();
            let pack = |name: &str, bytes: &[u8]| {
                if name.ends_with(".gz") { gzip(bytes) } else { bytes.to_vec() }
            };
            put(&mnist, images_name, &pack(images_name, &two_images()));
            let unlabelled = load_idx_split(&mnist, split).unwrap();
            assert_eq!(unlabelled.labels(), None);
            put(&mnist, labels_name, &pack(labels_name, &labels));
            let set = load_idx_split(&mnist, split).unwrap();
            assert_eq!(set.name(), format!("mnist-{split}"));
            assert_eq!(set.labels().unwrap(), [3, 1]);
            assert_eq!(set.shape(), ImageShape { channels: 1, height: 2, width: 3 });
        }
    }

    #[test]
    fn a_folder_without_images_names_what_was_looked_for() {
        let dir = tempfile::tempdir().unwrap();
        let error = load_idx_split(dir.path(), Split::Test).unwrap_err();
        assert!(matches!(error, DataError::MissingFile { .. }));
        let dir = dir.path().display().to_string();
        assert_says(&error, &[&dir, "expected", "t10k-images-idx3-ubyte.gz", "found none"]);
    }

    #[test]
    fn an_absent_file_is_an_io_error() {
        let error = read_idx_images("/nonexistent/some-idx3").unwrap_err();
        assert!(matches!(error, DataError::Io { action: "open", .. }));
        assert_says(&error, &["/nonexistent/some-idx3"]);
        let dir = tempfile::tempdir().unwrap();
        let error = read_idx_images(dir.path()).unwrap_err();
        assert_says(&error, &["not a regular file"]);
    }

    #[test]
    fn truncated_images_are_refused() {
        let bytes = two_images();
        let error = images_error(&bytes[..27]);
        assert!(matches!(error, DataError::Truncated { expected: 12, found: 11, .. }));
        assert_says(&error, &["some-idx3", "expected 12", "found 11"]);
        let error = images_error(&bytes[..10]);
        assert!(matches!(error, DataError::Truncated { expected: 4, found: 2, .. }));
        assert_says(&error, &["some-idx3", "IDX dimension 1"]);
        let packed = gzip(&bytes);
        let error = images_error(&packed[..packed.len() - 9]);
        assert!(matches!(error, DataError::Truncated { .. } | DataError::Corrupt { .. }));
    }

    #[test]
    fn another_magic_is_refused() {
        let error = images_error(b"\x89PNG and so on");
        assert!(matches!(error, DataError::BadMagic { .. }));
        assert_says(&error, &["some-idx3", "expected the bytes 00 00", "found 89 50"]);
    }

    #[test]
    fn another_type_byte_is_refused() {
        let mut bytes = two_images();
        bytes[2] = 0x0d;
        let error = images_error(&bytes);
        assert!(matches!(error, DataError::WrongTypeByte { expected: 8, found: 13, .. }));
        assert_says(&error, &["some-idx3", "expected 0x08", "found 0x0d (32-bit floats)"]);
    }

    #[test]
    fn too_many_or_too_few_dimensions_are_refused() {
        let mut bytes = two_images();
        bytes[3] = 200;
        let error = images_error(&bytes);
        assert!(matches!(error, DataError::WrongRank { expected: 3, found: 200, .. }));
        assert_says(&error, &["some-idx3", "expected 3", "found 200"]);
        let (_dir, path) = temp_file("some-idx1", &two_images());
        let error = read_idx_labels(path).unwrap_err();
        assert!(matches!(error, DataError::WrongRank { expected: 1, found: 3, .. }));
    }

    #[test]
    fn trailing_bytes_are_refused() {
        let longer = [two_images(), vec![0; 1000]].concat();
        for bytes in [longer.clone(), gzip(&longer)] {
            let error = images_error(&bytes);
            assert!(matches!(error, DataError::TrailingBytes { expected: 12, found: 13, .. }));
            assert_says(&error, &["some-idx3", "expected 12", "found at least 13"]);
        }
    }

    #[test]
    fn huge_claims_are_refused_without_allocating() {
        let mut bytes = two_images();
        bytes[4..16].fill(0xff);
        let error = images_error(&bytes);
        assert!(matches!(error, DataError::HeaderClaim { .. }));
        assert_says(&error, &["some-idx3", "expected at most", "found a claim of"]);

        // 65535 images of 255x255 fit the address space, but not such a file.
        bytes[4..16].copy_from_slice(&[0, 0, 0xff, 0xff, 0, 0, 0, 0xff, 0, 0, 0, 0xff]);
        assert!(matches!(images_error(&bytes), DataError::Truncated { found: 12, .. }));
        assert!(matches!(images_error(&gzip(&bytes)), DataError::HeaderClaim { .. }));
    }

    #[test]
    fn images_without_pixels_are_refused() {
        let mut bytes = two_images();
        bytes[11] = 0;
        let error = images_error(&bytes);
        assert!(matches!(error, DataError::ZeroDimension { .. }));
        assert_says(&error, &["some-idx3", "expected", "found 1x0x3"]);
    }

    #[test]
    fn a_damaged_gzip_file_is_refused() {
        let mut packed = gzip(&two_images());
        let checksum = packed.len() - 8;
        packed[checksum] ^= 1;
        let error = images_error(&packed);
        assert!(matches!(error, DataError::Corrupt { .. }));
        assert_says(&error, &["some-idx3", "expected intact", "found"]);
    }

    #[test]
    fn a_label_too_few_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        put(dir.path(), "train-images-idx3-ubyte", &two_images());
        put(dir.path(), "train-labels-idx1-ubyte", &[0, 0, 8, 1, 0, 0, 0, 1, 5]);
        let error = load_idx_split(dir.path(), Split::Train).unwrap_err();
        assert!(matches!(error, DataError::CountMismatch { expected: 2, found: 1, .. }));
        assert_says(&error, &["train-labels-idx1-ubyte", "expected 2", "found 1"]);
    }

    #[test]
    fn images_to_write_are_checked() {
        assert!(matches!(IdxImages::new(2, 3, vec![0; 7]), Err(DataError::ByteCount { .. })));
        assert!(matches!(IdxImages::new(0, 3, vec![]), Err(DataError::ZeroDimension { .. })));
        let wide = IdxImages::new(1, usize::MAX / 2, vec![]);
        assert!(matches!(wide, Err(DataError::TooLarge { .. })));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn arbitrary_bytes_never_panic(
            tail in prop::collection::vec(any::<u8>(), 0..200),
            keep in 0..HEADER.len(),
            packed in any::<bool>(),
        ) {
            let bytes = [&HEADER[..keep], &tail[..]].concat();
            let bytes = if packed { gzip(&bytes) } else { bytes };
            let (_dir, path) = temp_file("fuzz", &bytes);
            let _ = read_idx_images(&path);
            let _ = read_idx_labels(&path);
        }

        #[test]
        fn any_images_survive_writing_and_reading(
            height in 1usize..5,
            width in 1usize..5,
            count in 0usize..4,
            seed in any::<u8>(),
        ) {
            let pixels = (0..count * height * width).map(|at| (at as u8).wrapping_mul(seed));
            let images = IdxImages::new(height, width, pixels.collect()).unwrap();
            let mut written = Vec::new();
            write_idx_images(&mut written, &images).unwrap();
            let (_dir, path) = temp_file("round-trip", &written);
            prop_assert_eq!(read_idx_images(path).unwrap(), images);
        }
    }
}
