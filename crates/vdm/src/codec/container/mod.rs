//! The file format `.vdmz`, version 4.
//!
//! Numbers of a fixed size are little endian. A *varint* is an unsigned number in base 128, low digits first, with the
//! top bit set in every byte but the last (LEB128), and no needless zeros. A *text* is a varint, and then so many bytes
//! of UTF-8.
//!
//! | offset | bytes | what |
//! |---|---|---|
//! | 0 | 4 | `VDMZ` |
//! | 4 | 2 | version, 4 |
//! | 6 | 4 | H, the bytes of the header |
//! | 10 | 4 | CRC-32 (IEEE) of the bytes 0 to 9 and of the header |
//! | 14 | H | the header |
//! | 14 + H | 4 each | the words of the first segment's stream, of the second's, …, and the end of the file |
//!
//! The header, field by field:
//!
//! | bytes | what |
//! |---|---|
//! | 16 | fingerprint of the model: [`model_fingerprint`](super::model_fingerprint) |
//! | 16 | fingerprint of the arithmetic: what the model gave, to the last bit, where the file was made |
//! | text | what its owner says about the model, such as the data set and the steps it was trained |
//! | text | program and version that wrote the file |
//! | text | processor that it ran on |
//! | 3 varints | channels, height and width of the images |
//! | varint | levels of a pixel |
//! | varint | bins per sigma |
//! | varint | images that go through the network together |
//! | 8 | seed of the bits that the first stream starts with; stream n, from 0, has the seed n more, modulo 2^64 |
//! | 1 | width of a step: 0 the posterior's, 1 wider by a factor of each step, 2 by a factor of each pixel |
//! | 1 | kind of steps: 0 evenly spaced in time, 1 listed, 2 placed by the model's table of errors |
//! | varint | T, the steps |
//! | 8 each | if listed, the T + 1 values gamma_0, …, gamma_T as doubles |
//! | 8 | net bits of all images, as a double |
//! | 8 | bits that the streams were started with, as a double |
//! | varint | entries that follow, one for each file that comes back |
//! | 1 | of each entry: kind, 0 an IDX file, 1 a PNG file, 2 a folder of numbered PNG files, 3 a PNG file cut into tiles, 4 a file kept as it is |
//! | text | of each entry: its name, a relative path with `/` between folders |
//! | varint | of each entry: 0, or 1 and the file's permissions, at most 0o777 |
//! | varint | if that is not 0: the time of the last change in seconds, counted from that of the entry before that has one, or from 1970 for the first; n is written as 2n, or as -2n - 1 if it is negative |
//! | varint | of each entry of kind 0 or 2: its images |
//! | 3 varints | of each entry of kind 3: channels, width and height |
//! | varint | of each entry of kind 3: the level of the margins that its tiles have beyond the image |
//! | 1 | of each entry of kind 3: 1 if *kept bytes* follow, a PNG file of its opacity, or 0 |
//! | kept bytes | of each entry of kind 4: the file |
//! | varint | bytes of a model file that follow, with which the images were coded; 0 for none |
//! | … | the model file |
//! | varint | segments that follow |
//! | varint | of each segment: its images |
//! | varint | of each segment: words of its stream |
//! | 8 | of each segment: state of its stream |
//! | 4 | of each segment: CRC-32 (IEEE) of its words |
//! | 8 | of each segment: the first bytes of the SHA-256 of its pixels |
//!
//! *Kept bytes* are a varint, their number; a varint, the number of bytes that follow; their CRC-32 in 4 bytes; and the bytes that
//! follow: the kept bytes themselves if the two numbers are equal, and otherwise what DEFLATE (RFC 1951) makes of them.
//!
//! Images are coded in the order of the entries, and segments hold so many of them one after another. Which lines of which
//! images of a segment go through the network together follows from their number (`codec/order.rs`). The same content
//! is the same bytes: [`Container::parse`] takes nothing that [`Container::to_bytes`] would write differently.

mod format;
mod names;
mod packed;

pub(super) use format::{SEGMENT_BYTES, is_possible};
pub(super) use names::check_files;
pub use packed::Packed;

use super::chain::Segment;
use super::steps::Steps;
use super::tiles::Tiling;
use crate::diffusion::ReverseVariance;
use crate::shape::ImageShape;

/// The first bytes of every file.
pub const MAGIC: [u8; 4] = *b"VDMZ";

/// The version of the format that this module reads and writes.
pub const VERSION: u16 = 4;

/// Most bytes of a text other than a name.
const MAX_TEXT: usize = 256;

/// A `.vdmz` file in memory.
#[derive(Clone, Debug, PartialEq)]
pub struct Container {
    /// Fingerprint of the model that coded the images.
    pub model: [u8; 16],
    /// Fingerprint of that model's outputs, to the last bit.
    pub arithmetic: [u8; 16],
    /// What the model's owner said about it; at most 256 bytes, without control characters.
    pub note: String,
    /// Program and version that wrote the file; as `note`.
    pub program: String,
    /// What it ran on: `cpu`, or another device; as `note`.
    pub machine: String,
    /// Shape of every image.
    pub shape: ImageShape,
    /// Levels of a pixel, 2 to 256.
    pub levels: usize,
    /// Bins of a latent per standard deviation.
    pub bins_per_sigma: u16,
    /// Images that go through the network together.
    pub batch_size: u16,
    /// Seed of the bits that the first stream starts with; the others count on from it.
    pub seed: u64,
    /// The width of a step.
    pub variance: ReverseVariance,
    /// The steps of the chain.
    pub steps: Steps,
    /// Bits of all images, without those that the streams were started with.
    pub net_bits: f64,
    /// Bits that the streams were started with, together.
    pub initial_bits: f64,
    /// The files that come back, in the order of their images.
    pub files: Vec<FileEntry>,
    /// The model file that the images were coded with, if it is here; its bytes are not trusted.
    pub embedded_model: Option<Vec<u8>>,
    /// The coded images.
    pub segments: Vec<CodedSegment>,
}

/// One file, or folder of files, that comes back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileEntry {
    /// A relative path with `/` between folders: at most 4096 bytes; no backslash, control character, `.` or `..`.
    pub name: String,
    /// What comes back.
    pub kind: FileKind,
    /// What else is kept of a file.
    pub attributes: Option<Attributes>,
}

/// What is kept of a file besides its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attributes {
    /// Its permissions, as on Unix: at most 0o777.
    pub mode: u32,
    /// When it was last changed, in seconds after the start of 1970.
    pub modified: i64,
}

/// What comes back under a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FileKind {
    /// An uncompressed IDX file of grey images: of the values themselves, in 0 .. levels.
    Idx {
        /// Its images.
        images: u32,
    },
    /// A PNG file of one image, drawn as [`grid_png`](crate::picture::grid::grid_png) draws.
    Png,
    /// A folder of such PNG files, named and numbered as by [`save_images`](crate::picture::grid::save_images).
    Series {
        /// Its images.
        images: u32,
    },
    /// A PNG file of an image of any size, of which each tile is an image of the model: see [`Tiling`].
    Tiled {
        /// 1 for grey or 3 for RGB; one more in the file where there is opacity.
        channels: u8,
        /// Pixels of a line.
        width: u32,
        /// Lines.
        height: u32,
        /// The level of the tiles' margins, which are not coded: best near the levels of the image.
        margin: u8,
        /// A PNG file of its opacity, grey and as large, if it is not opaque.
        alpha: Option<Packed>,
    },
    /// A file as it is, without images.
    Stored(Packed),
}

impl FileEntry {
    /// An entry of a file of which no more is kept.
    pub fn new(name: impl Into<String>, kind: FileKind) -> Self {
        Self { name: name.into(), kind, attributes: None }
    }

    /// Images of the file, in a container of images of `shape`.
    pub fn images(&self, shape: ImageShape) -> usize {
        match &self.kind {
            FileKind::Png => 1,
            FileKind::Idx { images } | FileKind::Series { images } => *images as usize,
            FileKind::Tiled { .. } => self.tiling(shape).map_or(0, |tiling| tiling.tiles() as usize),
            FileKind::Stored(_) => 0,
        }
    }

    /// Numbers of its images that are coded: without the margins of tiles.
    pub fn coded_numbers(&self, shape: ImageShape) -> usize {
        match self.tiling(shape) {
            Some(tiling) => tiling.coded_numbers(),
            None => self.images(shape).saturating_mul(shape.dims()),
        }
    }

    /// The level of the margins of its tiles, if it is cut.
    pub fn margin_level(&self) -> Option<u8> {
        match self.kind {
            FileKind::Tiled { margin, .. } => Some(margin),
            _ => None,
        }
    }

    /// How its image is cut, if it is and can be.
    pub fn tiling(&self, shape: ImageShape) -> Option<Tiling> {
        match self.kind {
            FileKind::Tiled { channels, width, height, .. } => {
                Tiling::new(shape, channels.into(), width as usize, height as usize)
            }
            _ => None,
        }
    }
}

/// A stream of coded images, and what they were.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CodedSegment {
    /// The stream.
    pub segment: Segment,
    /// The first bytes of the SHA-256 of its images' bytes, one image after another.
    pub pixels: [u8; 8],
}

impl Container {
    /// The number of images.
    pub fn images(&self) -> usize {
        self.segments.iter().map(|s| s.segment.images as usize).sum()
    }

    /// Numbers of all images that are coded: what bits per dimension are per.
    pub fn coded_numbers(&self) -> usize {
        self.files.iter().fold(0, |sum, file| sum.saturating_add(file.coded_numbers(self.shape)))
    }

    /// Every file with its own of `images`, the bytes of all images one after another.
    pub fn split<'a>(&'a self, mut images: &'a [u8]) -> impl Iterator<Item = (&'a FileEntry, &'a [u8])> {
        self.files.iter().map(move |file| {
            let own = file.images(self.shape).saturating_mul(self.shape.dims());
            let (own, rest) = images.split_at(own.min(images.len()));
            images = rest;
            (file, own)
        })
    }

    /// Bits of the streams: their words and states.
    pub fn stream_bits(&self) -> u64 {
        self.segments.iter().map(|s| 64 + 32 * s.segment.words.len() as u64).sum()
    }
}

/// A line of text as a file may hold it: without control characters, of 256 bytes at most.
pub(super) fn line(text: &str) -> String {
    let mut line = String::new();
    for c in text.chars().filter(|c| !c.is_control()) {
        if line.len() + c.len_utf8() > MAX_TEXT {
            break;
        }
        line.push(c);
    }
    line
}
