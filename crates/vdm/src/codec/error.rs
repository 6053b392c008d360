//! Why images cannot be coded, or a file not be decoded.

use crate::diffusion::error_model::ErrorsUnknown;
use crate::progress::Stopped;

impl From<ErrorsUnknown> for CodecError {
    fn from(error: ErrorsUnknown) -> Self {
        Self::Plan { reason: error.to_string() }
    }
}

/// What can go wrong with coding, with a `.vdmz` file, or with the two together.
///
/// Bytes of a file are counted from its start.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CodecError {
    /// Its [`Progress`](crate::Progress) asked it to stop.
    #[error(transparent)]
    Stopped(#[from] Stopped),

    /// The model gives a NaN or an infinity, with which nothing can be coded.
    #[error(
        "{what} of step {step} is not finite: the weights are damaged, or training diverged; choose another checkpoint \
         with --checkpoint"
    )]
    NotFinite {
        /// What was computed.
        what: &'static str,
        /// The step of the chain, from 1 at the data; 0 outside it.
        step: usize,
    },

    /// A stream is not one that this model's encoder made.
    #[error(
        "the coded stream cannot be decoded: {reason}; the file is damaged or made up, or this machine rounds in another way \
         than the one that coded it"
    )]
    Stream {
        /// What is wrong with it.
        reason: String,
    },

    /// The steps or the binning cannot be used.
    #[error("cannot code in this way: {reason}")]
    Plan {
        /// What is wrong, and what would do.
        reason: String,
    },

    /// The images, or their names, cannot be coded.
    #[error("cannot code these images: {reason}")]
    Images {
        /// What is wrong, and what would do.
        reason: String,
    },

    /// The file is of another kind.
    #[error(
        "not a .vdmz file: expected the bytes 56444d5a (VDMZ) at its start, found {found}; name a file \
         that `vdm compress` wrote"
    )]
    NotVdmz {
        /// The first bytes, in hexadecimal.
        found: String,
    },

    /// The file is of another version of the format.
    #[error(".vdmz version: expected {expected}, found {found}; decompress it with the version of vdm that wrote it")]
    Version {
        /// The version that this program reads.
        expected: u16,
        /// The file's.
        found: u16,
    },

    /// The file ends too early.
    #[error(
        "byte {offset}, {field}: expected {expected} bytes, found {found} before the end; the file is truncated, copy \
         it again"
    )]
    Truncated {
        /// What was being read.
        field: &'static str,
        /// Where it starts.
        offset: usize,
        /// The bytes needed.
        expected: u64,
        /// The bytes that were there.
        found: u64,
    },

    /// The file goes on after its last stream.
    #[error(
        "byte {offset}: expected the end of the file, found {found} more bytes; the file is damaged, copy it again"
    )]
    TrailingBytes {
        /// Where the file should end.
        offset: usize,
        /// Bytes from there on.
        found: usize,
    },

    /// The header's checksum is another than the header's bytes give.
    #[error("header: expected the checksum {expected:08x}, found {found:08x}; the file is damaged, copy it again")]
    HeaderChecksum {
        /// The checksum in the file.
        expected: u32,
        /// That of the bytes.
        found: u32,
    },

    /// A whole header with a field that cannot be.
    #[error("byte {offset}, {field}: {reason}; the file is made up, or of a later version of vdm")]
    Header {
        /// The field.
        field: &'static str,
        /// Where it starts.
        offset: usize,
        /// What it is, and what it should be.
        reason: String,
    },

    /// Bytes that are kept without the model do not come out as they went in.
    #[error("a file that is kept as it is cannot be read: {reason}; the file is damaged or made up")]
    Packed {
        /// What is wrong with them.
        reason: String,
    },

    /// A stream's checksum is another than its bytes give.
    #[error(
        "segment {segment}: expected the checksum {expected:08x}, found {found:08x}; the file is damaged, copy it again"
    )]
    StreamChecksum {
        /// The segment, from 0.
        segment: usize,
        /// The checksum in the file.
        expected: u32,
        /// That of the bytes.
        found: u32,
    },

    /// A stream decodes to other pixels than were coded.
    #[error(
        "segment {segment}: the decoded pixels have another checksum than the coded ones, so none of them can be \
         trusted; the file is damaged or made up, or this machine rounds in another way than the one that coded it"
    )]
    PixelChecksum {
        /// The segment, from 0.
        segment: usize,
    },

    /// The file needs another model.
    #[error(
        "the file was coded with another model: expected {expected} ({note}), found {found}; give its run \
         with --model, and the same --checkpoint (a run that was trained on has another model)"
    )]
    OtherModel {
        /// What the file says about its model.
        note: String,
        /// The fingerprint of the model that the file needs.
        expected: String,
        /// That of the model given.
        found: String,
    },

    /// The model is right, but the network's outputs here differ in their last bits from those where the file was made.
    #[error(
        "this machine does not compute the network's outputs to the same last bit as the one that coded the file: \
         expected {expected} of {written}, found {found} of {here}; decompress with that version of the program, on the \
         same --device"
    )]
    OtherArithmetic {
        /// The fingerprint of the outputs where the file was made.
        expected: String,
        /// That of the outputs here.
        found: String,
        /// Program and processor that coded the file.
        written: String,
        /// Program and processor here.
        here: String,
    },

    /// Images were asked for that the file does not have.
    #[error(
        "the file holds {images} images, numbered from 0; {count} from number {first} on were asked for: choose others \
         with --first and --count"
    )]
    Range {
        /// The first image asked for.
        first: usize,
        /// How many.
        count: usize,
        /// Images of the file.
        images: usize,
    },
}
