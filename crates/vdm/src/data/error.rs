//! The errors of reading image data.
//!
//! Every variant is one way in which a file, an option or a dataset can be
//! wrong. Its message says what was wrong, where, what was expected and what
//! was found, and ends with what to do about it. The fields carry the same
//! facts for a caller that wants to react to them.

use std::path::PathBuf;

use super::split::Split;
use crate::shape::ImageShape;

/// The result of reading or building image data; the error is a [`DataError`]
/// unless said otherwise.
pub type Result<T, E = DataError> = std::result::Result<T, E>;

/// What can be wrong with image data.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {
    /// The operating system refused to open or to read a file or folder.
    #[error("cannot {action} {path}: {reason}; check that it exists and that you may read it")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What was being done with it, such as `open`.
        action: &'static str,
        /// What the operating system said.
        reason: std::io::Error,
    },

    /// The images take more memory than there is.
    #[error(
        "`{dataset}`: its images take {} MiB of memory, and {} MiB are free; set data.cache=DIR, a folder with room for \
         them, to read them from a file there", needed >> 20, available >> 20
    )]
    Memory {
        /// The dataset's name.
        dataset: String,
        /// Bytes of the images.
        needed: u64,
        /// Bytes of memory that are free.
        available: u64,
    },

    /// A folder lacks a file that the dataset needs.
    #[error(
        "{dir}: expected one of the files {expected}, found none of them; download the dataset \
         or point to the folder that holds it"
    )]
    MissingFile {
        /// The folder that was searched.
        dir: PathBuf,
        /// The names that would have done.
        expected: String,
    },

    /// The first bytes are not those of the format.
    #[error(
        "{path}: {field}: expected the bytes {expected}, found {found}; this is another kind of \
         file, or one damaged at its start"
    )]
    BadMagic {
        /// The file.
        path: PathBuf,
        /// Which part of the file was read.
        field: String,
        /// The bytes that start this format, in hexadecimal.
        expected: &'static str,
        /// The bytes that are there, in hexadecimal.
        found: String,
    },

    /// An IDX file holds elements of a type other than unsigned bytes.
    #[error(
        "{path}: IDX type byte: expected {expected:#04x} (unsigned byte), found {found:#04x} ({}); a value of more than \
         8 bits cannot be kept, and 256 levels are the most that a model has: if all values are 0 to 255, convert the array \
         to unsigned bytes and write it again", idx_type(*found)
    )]
    WrongTypeByte {
        /// The file.
        path: PathBuf,
        /// The type byte of unsigned bytes.
        expected: u8,
        /// The type byte in the file.
        found: u8,
    },

    /// An IDX file has another number of dimensions than its role needs.
    #[error(
        "{path}: IDX number of dimensions: expected {expected}, found {found}; images have 3 \
         (count, height, width) and labels 1, so check that the two were not swapped"
    )]
    WrongRank {
        /// The file.
        path: PathBuf,
        /// The number of dimensions needed.
        expected: usize,
        /// The number of dimensions in the file.
        found: usize,
    },

    /// A header claims more data than a file of this size can hold.
    #[error(
        "{path}: {field}: expected at most {expected} bytes from a file of this size, found a \
         claim of {found}; the header is damaged or made up, download the file again"
    )]
    HeaderClaim {
        /// The file.
        path: PathBuf,
        /// What the header describes.
        field: String,
        /// The most bytes that this file could hold.
        expected: u64,
        /// The bytes that the header claims.
        found: u128,
    },

    /// The data ends before the header says it does.
    #[error(
        "{path}: {field}: expected {expected} bytes, found {found} before the end; the file is \
         truncated, download it again"
    )]
    Truncated {
        /// The file.
        path: PathBuf,
        /// What was being read.
        field: String,
        /// The bytes needed.
        expected: u64,
        /// The bytes that were there.
        found: u64,
    },

    /// The data goes on after the header says it ends.
    #[error(
        "{path}: {field}: expected {expected} bytes and then the end, found at least {found}; \
         the header and the data disagree, download the file again"
    )]
    TrailingBytes {
        /// The file.
        path: PathBuf,
        /// What was being read.
        field: String,
        /// The bytes needed.
        expected: u64,
        /// One more than `expected`: reading stopped there.
        found: u64,
    },

    /// Compressed data does not decompress, or fails its checksum.
    #[error(
        "{path}: {field}: expected intact compressed data, found: {reason}; the file is damaged, \
         download it again"
    )]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What was being read.
        field: String,
        /// What the decompressor said.
        reason: String,
    },

    /// Two parts that describe the same images disagree on how many there are.
    #[error(
        "{path}: {field}: expected {expected} to match the images, found {found}; use the images \
         and labels of the same release"
    )]
    CountMismatch {
        /// The file.
        path: PathBuf,
        /// What was counted.
        field: String,
        /// The number of images.
        expected: u64,
        /// The number of items of `field`.
        found: u64,
    },

    /// A file of a fixed size has another size.
    #[error(
        "{path}: file size: expected {expected} bytes, found {found}; the download is incomplete \
         or is not the binary version, download it again"
    )]
    FileSize {
        /// The file.
        path: PathBuf,
        /// The size of the published file, in bytes.
        expected: u64,
        /// The size of this file, in bytes.
        found: u64,
    },

    /// A label is not one of the dataset's classes.
    #[error(
        "{path}: label of image {index}: expected {expected}, found {found}; the file is damaged \
         or of another dataset"
    )]
    LabelOutOfRange {
        /// The file.
        path: PathBuf,
        /// Which image of the file, from 0.
        index: usize,
        /// The range of labels.
        expected: &'static str,
        /// The label in the file.
        found: i128,
    },

    /// A file is not a readable zip archive.
    #[error(
        "{path}: expected an npz file (a zip archive), found: {reason}; the file is damaged or \
         of another kind, download it again"
    )]
    BadArchive {
        /// The file.
        path: PathBuf,
        /// What the zip reader said.
        reason: String,
    },

    /// An npz file lacks an array.
    #[error(
        "{path}: expected the array {expected}, found only: {found}; this is not a batch of \
         downsampled ImageNet"
    )]
    MissingEntry {
        /// The file.
        path: PathBuf,
        /// The name of the array's entry in the archive.
        expected: &'static str,
        /// The first names that are in the archive.
        found: String,
    },

    /// The header of a NumPy array does not parse.
    #[error(
        "{path}: {field}: expected the header of a NumPy array, found: {reason}; write the array \
         again with numpy.savez"
    )]
    NpyHeader {
        /// The file.
        path: PathBuf,
        /// The name of the array's entry in the archive.
        field: String,
        /// What is wrong with the header.
        reason: String,
    },

    /// A NumPy array has elements of another type.
    #[error(
        "{path}: {field}: element type: expected {expected}, found {found}; convert the array \
         with astype and write it again"
    )]
    WrongDtype {
        /// The file.
        path: PathBuf,
        /// The name of the array's entry in the archive.
        field: String,
        /// The types that would have done.
        expected: &'static str,
        /// The type in the file.
        found: String,
    },

    /// A NumPy array has another shape or order.
    #[error(
        "{path}: {field}: shape: expected {expected}, found {found}; check that the image size \
         asked for is that of the files"
    )]
    WrongShape {
        /// The file.
        path: PathBuf,
        /// The name of the array's entry in the archive.
        field: String,
        /// The shape needed.
        expected: String,
        /// The shape in the file.
        found: String,
    },

    /// A file in an image folder does not decode.
    #[error(
        "{path}: expected a PNG, JPEG or WebP image, found: {reason}; remove or repair the file, \
         or set skip_bad to leave such files out"
    )]
    UnreadableImage {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },

    /// A folder has subfolders for splits, and others.
    #[error(
        "{path}: it has the subfolders {splits}, which are taken for the splits of a data set, and `{other}` beside them; \
         move that elsewhere"
    )]
    SplitsAndOthers {
        /// The folder.
        path: PathBuf,
        /// The subfolders for splits.
        splits: String,
        /// One of the others.
        other: String,
    },

    /// An image lets the background through, so its colours are not defined.
    #[error(
        "{path}: alpha: expected a fully opaque image (255 everywhere), found {found} at column \
         {x}, row {y}; flatten it onto a background, for example with `magick in.png -background \
         white -alpha remove -alpha off out.png`"
    )]
    Transparent {
        /// The file.
        path: PathBuf,
        /// The column of the first such pixel.
        x: u32,
        /// The row of the first such pixel.
        y: u32,
        /// The alpha value there.
        found: u8,
    },

    /// An image has more than 8 bits a channel, which a byte cannot keep.
    #[error(
        "{path}: pixel format: expected 8 bits a channel, found {found}; convert it to 8 bits \
         yourself, for example with `magick in.png -depth 8 out.png`, since that loses precision"
    )]
    BitDepth {
        /// The file.
        path: PathBuf,
        /// The pixel format of the file.
        found: String,
    },

    /// An image is so much longer than wide that resizing it would need too
    /// much memory.
    #[error(
        "{path}: longer side after resizing: expected at most {expected} pixels, found {found}; \
         crop the image nearer to a square"
    )]
    Elongated {
        /// The file.
        path: PathBuf,
        /// The longest side allowed, in pixels.
        expected: u32,
        /// The side that this image would get, in pixels.
        found: u64,
    },

    /// A folder gives no images.
    #[error(
        "{path}: expected image files, or one subfolder of them a class, found {found}; put \
             the images there or name another folder"
    )]
    EmptyFolder {
        /// The folder.
        path: PathBuf,
        /// What is there instead.
        found: String,
    },

    /// A folder has subfolders where only image files may be.
    #[error(
        "{path}: expected either image files or one level of class subfolders, found the \
         subfolder {found} beside or below them; move it away"
    )]
    MixedFolder {
        /// The folder.
        path: PathBuf,
        /// The first such subfolder.
        found: String,
    },

    /// A file beside class subfolders that is no image.
    #[error(
        "{path} lies beside the subfolders of the classes and is no image; move it away, or leave such files out with \
         data.skip_bad = true"
    )]
    StrayFile {
        /// The file.
        path: PathBuf,
    },

    /// No file of a folder falls into a split.
    #[error(
        "{path}: {split} split: none of the {found} image files has a name that falls into it; add images, or bring \
         subfolders train, valid and test"
    )]
    EmptySplit {
        /// The folder.
        path: PathBuf,
        /// The split that was asked for.
        split: Split,
        /// The files that the folder has.
        found: usize,
    },

    /// An option has a value that nothing can be done with.
    #[error("{field}: expected {expected}, found {found}; change it in the configuration")]
    InvalidOption {
        /// The option.
        field: &'static str,
        /// The values allowed.
        expected: &'static str,
        /// The value given.
        found: String,
    },

    /// An image shape has a side or a channel count of zero.
    #[error(
        "{dataset}: image shape: expected sides and channels of at least 1, found {found}; check \
         where the shape comes from"
    )]
    ZeroDimension {
        /// The dataset's name, or its file.
        dataset: String,
        /// The shape given.
        found: ImageShape,
    },

    /// An image has more bytes than this machine can address.
    #[error(
        "{dataset}: image shape: expected at most {expected} bytes an image, found {found}; \
         check where the shape comes from"
    )]
    TooLarge {
        /// The dataset's name, or its file.
        dataset: String,
        /// The most that can be addressed or written.
        expected: usize,
        /// The shape given.
        found: ImageShape,
    },

    /// A vocabulary is too small to code anything or too large for bytes.
    #[error(
        "{dataset}: levels: expected 2 to 256 values a channel, found {found}; 8-bit images have \
         256"
    )]
    Levels {
        /// The dataset's name.
        dataset: String,
        /// The number of levels given.
        found: usize,
    },

    /// The bytes do not divide into whole images.
    #[error(
        "{dataset}: bytes: expected a multiple of {expected} (one image), found {found}; check \
         that the shape fits the data"
    )]
    ByteCount {
        /// The dataset's name, or its file.
        dataset: String,
        /// The bytes of one image.
        expected: usize,
        /// The bytes given.
        found: usize,
    },

    /// A pixel value is outside the vocabulary.
    #[error(
        "{dataset}: image {image}, byte {offset}: expected a value below {expected}, found \
         {found}; check that levels fits the data"
    )]
    LevelOutOfRange {
        /// The dataset's name.
        dataset: String,
        /// Which image, from 0.
        image: usize,
        /// Which of its bytes in CHW order, from 0.
        offset: usize,
        /// The number of levels.
        expected: usize,
        /// The value there.
        found: u8,
    },

    /// There is not exactly one label or name for every image.
    #[error(
        "{dataset}: {field}: expected {expected}, one for every image, found {found}; give one \
         each or none at all"
    )]
    PerImageCount {
        /// The dataset's name.
        dataset: String,
        /// Which list, `labels` or `names`.
        field: &'static str,
        /// The number of images.
        expected: usize,
        /// The length of the list.
        found: usize,
    },

    /// An index or range reaches past the images.
    #[error(
        "{dataset}: image index: expected at most {expected}, found {found}; the dataset is \
         shorter than the caller assumes"
    )]
    IndexOutOfRange {
        /// The dataset's name.
        dataset: String,
        /// The largest value allowed.
        expected: usize,
        /// The value given.
        found: usize,
    },

    /// Datasets to be joined differ in kind.
    #[error(
        "{dataset}: {field}: expected {expected} as in the first dataset, found {found}; only \
         datasets of one kind can be joined"
    )]
    ConcatMismatch {
        /// The name of the dataset that differs.
        dataset: String,
        /// In what it differs.
        field: &'static str,
        /// What the first dataset has.
        expected: String,
        /// What this one has.
        found: String,
    },

    /// There was nothing to join.
    #[error("joined datasets: expected at least one, found none; give one or more")]
    NothingToJoin,

    /// An image to be augmented has another size than its shape says.
    #[error(
        "image: expected {expected} bytes for its shape, found {found}; pass one image in CHW \
         order with its own shape"
    )]
    ImageBytes {
        /// The bytes of an image of that shape.
        expected: usize,
        /// The bytes given.
        found: usize,
    },

    /// A quarter turn of an image that is not square would change its shape.
    #[error(
        "augmentation {augmentation}: expected a square image, found {found}; draw from \
         Augmentation::choices, which has only flips for such shapes"
    )]
    NotSquare {
        /// The number of the augmentation.
        augmentation: u8,
        /// The shape given.
        found: ImageShape,
    },
}

/// What a type byte of the IDX format stands for.
fn idx_type(byte: u8) -> &'static str {
    match byte {
        0x08 => "unsigned bytes",
        0x09 => "signed bytes",
        0x0b => "16-bit integers",
        0x0c => "32-bit integers",
        0x0d => "32-bit floats",
        0x0e => "64-bit floats",
        _ => "no type of this format",
    }
}
