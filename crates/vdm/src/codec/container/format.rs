//! Writing and reading the bytes of a container.

use super::names::{MAX_NAME, check_files};
use super::{Attributes, CodedSegment, Container, FileEntry, FileKind, MAGIC, MAX_TEXT, Packed, VERSION};
use crate::codec::chain::Segment;
use crate::codec::error::CodecError;
use crate::codec::plan::{MAX_BATCH, MAX_STEPS};
use crate::codec::steps::Steps;
use crate::codec::tiles::MAX_SIDE as MAX_TILED_SIDE;
use crate::diffusion::ReverseVariance;
use crate::math::hex;
use crate::shape::ImageShape;

/// Bytes before the header.
const PREFIX: usize = 14;
/// Most pixels of a side.
const MAX_SIDE: u64 = 4096;
/// Most numbers of an image.
const MAX_DIMS: usize = 1 << 24;
/// Fewest bytes of an entry in the table of files, and of one in that of segments.
const FILE_BYTES: usize = 4;
pub(in crate::codec) const SEGMENT_BYTES: usize = 22;
/// Most bytes of pixels for a byte of a stream, so that a small file cannot claim to hold more images than memory can.
/// That is 0.002 bits per dimension; a stream of fewer would be of images that hold nothing.
const MAX_EXPANSION: u64 = 4096;

/// Whether a segment of this many images may take this many words.
pub(in crate::codec) fn is_possible(images: u32, words: usize, shape: ImageShape) -> bool {
    u64::from(images).saturating_mul(shape.dims() as u64) <= MAX_EXPANSION * (8 + 4 * words as u64)
}

impl Container {
    /// The bytes of the file.
    ///
    /// # Errors
    /// [`CodecError::Images`] if the tables of files and segments take over 4 GiB.
    pub fn to_bytes(&self) -> Result<Vec<u8>, CodecError> {
        let header = self.header();
        let too_large = |_| CodecError::Images { reason: "the names of the files take over 4 GiB; code fewer".into() };
        let length = u32::try_from(header.len()).map_err(too_large)?;
        let mut bytes = MAGIC.to_vec();
        bytes.extend(VERSION.to_le_bytes());
        bytes.extend(length.to_le_bytes());
        bytes.extend(header_checksum(&bytes, &header).to_le_bytes());
        bytes.extend(header);
        for segment in &self.segments {
            bytes.extend(word_bytes(&segment.segment.words));
        }
        Ok(bytes)
    }

    fn header(&self) -> Vec<u8> {
        let mut h = Vec::new();
        h.extend(self.model);
        h.extend(self.arithmetic);
        for text in [&self.note, &self.program, &self.machine] {
            put_text(&mut h, text);
        }
        let ImageShape { channels, height, width } = self.shape;
        for number in [channels, height, width, self.levels] {
            put_varint(&mut h, number as u64);
        }
        put_varint(&mut h, self.bins_per_sigma.into());
        put_varint(&mut h, self.batch_size.into());
        h.extend(self.seed.to_le_bytes());
        h.push(self.variance as u8);
        h.push(match self.steps {
            Steps::Uniform(_) => 0,
            Steps::Listed(_) => 1,
            Steps::Placed(_) => 2,
        });
        put_varint(&mut h, self.steps.count() as u64);
        if let Steps::Listed(gammas) = &self.steps {
            h.extend(gammas.iter().flat_map(|gamma| gamma.to_le_bytes()));
        }
        h.extend(self.net_bits.to_le_bytes());
        h.extend(self.initial_bits.to_le_bytes());
        put_varint(&mut h, self.files.len() as u64);
        let mut modified = 0;
        for file in &self.files {
            h.push(match file.kind {
                FileKind::Idx { .. } => 0,
                FileKind::Png => 1,
                FileKind::Series { .. } => 2,
                FileKind::Tiled { .. } => 3,
                FileKind::Stored(_) => 4,
            });
            put_text(&mut h, &file.name);
            match file.attributes {
                None => put_varint(&mut h, 0),
                Some(Attributes { mode, modified: now }) => {
                    put_varint(&mut h, 1 + u64::from(mode));
                    put_varint(&mut h, zigzag(now.wrapping_sub(modified)));
                    modified = now;
                }
            }
            match &file.kind {
                FileKind::Idx { images } | FileKind::Series { images } => put_varint(&mut h, (*images).into()),
                FileKind::Png => {}
                FileKind::Tiled { channels, width, height, margin, alpha } => {
                    for number in [(*channels).into(), *width, *height, (*margin).into()] {
                        put_varint(&mut h, number.into());
                    }
                    h.push(alpha.is_some().into());
                    alpha.iter().for_each(|alpha| put_packed(&mut h, alpha));
                }
                FileKind::Stored(bytes) => put_packed(&mut h, bytes),
            }
        }
        let model = self.embedded_model.as_deref().unwrap_or_default();
        put_varint(&mut h, model.len() as u64);
        h.extend(model);
        put_varint(&mut h, self.segments.len() as u64);
        for CodedSegment { segment, pixels } in &self.segments {
            put_varint(&mut h, segment.images.into());
            put_varint(&mut h, segment.words.len() as u64);
            h.extend(segment.state.to_le_bytes());
            h.extend(crc32fast::hash(&word_bytes(&segment.words)).to_le_bytes());
            h.extend(pixels);
        }
        h
    }

    /// Reads the bytes of a file. Nothing is believed before it is checked; memory grows with the bytes that are there.
    ///
    /// # Errors
    /// [`CodecError::NotVdmz`], [`CodecError::Version`], [`CodecError::Truncated`], [`CodecError::TrailingBytes`],
    /// [`CodecError::HeaderChecksum`], [`CodecError::Header`] or [`CodecError::StreamChecksum`].
    pub fn parse(bytes: &[u8]) -> Result<Self, CodecError> {
        let start = &bytes[..bytes.len().min(MAGIC.len())];
        if start != MAGIC {
            let found = if start.is_empty() { "nothing".into() } else { hex(start) };
            return Err(CodecError::NotVdmz { found });
        }
        let mut reader = Reader { bytes, at: MAGIC.len() };
        let found = u16::from_le_bytes(reader.array("version")?);
        if found != VERSION {
            return Err(CodecError::Version { expected: VERSION, found });
        }
        let length = u32::from_le_bytes(reader.array("header length")?);
        let expected = u32::from_le_bytes(reader.array("header checksum")?);
        let header = reader.take("header", length as usize)?;
        let found = header_checksum(&bytes[..PREFIX - 4], header);
        if expected != found {
            return Err(CodecError::HeaderChecksum { expected, found });
        }
        let (header, streams) = bytes.split_at(PREFIX + header.len());
        parse_header(&mut Reader { bytes: header, at: PREFIX }, streams)
    }
}

/// Everything after the checksum, which holds.
fn parse_header(r: &mut Reader, streams: &[u8]) -> Result<Container, CodecError> {
    let (model, arithmetic) = (r.array("model fingerprint")?, r.array("arithmetic fingerprint")?);
    let (note, program, machine) = (r.line("note")?, r.line("program")?, r.line("machine")?);
    let shape_at = r.at;
    let mut side = |field, most| r.varint(field, 1, most).map(|pixels| pixels as usize);
    let (channels, height, width) = (side("channels", 16)?, side("height", MAX_SIDE)?, side("width", MAX_SIDE)?);
    let shape = ImageShape { channels, height, width };
    if shape.dims() > MAX_DIMS {
        let reason = format!("found images of {shape}, expected at most {MAX_DIMS} numbers an image");
        return Err(CodecError::Header { field: "shape", offset: shape_at, reason });
    }
    let levels = r.varint("levels", 2, 256)? as usize;
    let bins_per_sigma = r.varint("bins per sigma", 1, u16::MAX.into())? as u16;
    let batch_size = r.varint("batch size", 1, MAX_BATCH.into())? as u16;
    let seed = u64::from_le_bytes(r.array("seed")?);
    let variance = match r.varint("width of a step", 0, 2)? {
        0 => ReverseVariance::Posterior,
        1 => ReverseVariance::Step,
        _ => ReverseVariance::Pixel,
    };
    let steps = r.steps()?;
    let (net_bits, initial_bits) = (r.finite("net bits")?, r.finite("initial bits")?);

    let files_at = r.at;
    let (mut files, mut modified) = (Vec::new(), 0);
    for _ in 0..r.count("number of files", FILE_BYTES)? {
        files.push(r.file(levels, &mut modified)?);
    }
    let model_bytes = r.count("bytes of the model", 1)? as usize;
    let embedded_model = if model_bytes == 0 { None } else { Some(r.take("model", model_bytes)?.to_vec()) };
    let count = r.count("number of segments", SEGMENT_BYTES)?;
    let mut table = Vec::new();
    for _ in 0..count {
        table.push(r.segment(shape)?);
    }
    let images: u64 = table.iter().map(|row| u64::from(row.images)).sum();
    check_files(&files, shape, images).map_err(|reason| CodecError::Header {
        field: "files",
        offset: files_at,
        reason,
    })?;
    if r.at < r.bytes.len() {
        let reason = format!("found {} bytes after the last field, expected none", r.bytes.len() - r.at);
        return Err(CodecError::Header { field: "end of the header", offset: r.at, reason });
    }
    let segments = parse_streams(&table, streams, r.at)?;
    Ok(Container {
        model,
        arithmetic,
        note,
        program,
        machine,
        shape,
        levels,
        bins_per_sigma,
        batch_size,
        seed,
        variance,
        steps,
        net_bits,
        initial_bits,
        files,
        embedded_model,
        segments,
    })
}

/// A row of the table of segments.
struct SegmentRow {
    images: u32,
    words: u32,
    state: u64,
    checksum: u32,
    pixels: [u8; 8],
}

/// The streams that the table describes, from byte `offset` of the file to its end.
fn parse_streams(table: &[SegmentRow], streams: &[u8], offset: usize) -> Result<Vec<CodedSegment>, CodecError> {
    let claimed = table.iter().fold(0u64, |sum, row| sum.saturating_add(4 * u64::from(row.words)));
    let found = streams.len() as u64;
    if claimed > found {
        return Err(CodecError::Truncated { field: "streams", offset, expected: claimed, found });
    }
    // It is at most the length of a slice from here on.
    let claimed = claimed as usize;
    if claimed < streams.len() {
        return Err(CodecError::TrailingBytes { offset: offset + claimed, found: streams.len() - claimed });
    }
    let mut rest = streams;
    let mut segments = Vec::new();
    for (segment, row) in table.iter().enumerate() {
        let (bytes, after) = rest.split_at(4 * row.words as usize);
        rest = after;
        let found = crc32fast::hash(bytes);
        if found != row.checksum {
            return Err(CodecError::StreamChecksum { segment, expected: row.checksum, found });
        }
        let words = bytes.as_chunks::<4>().0.iter().map(|&word| u32::from_le_bytes(word)).collect();
        let segment = Segment { images: row.images, state: row.state, words };
        segments.push(CodedSegment { segment, pixels: row.pixels });
    }
    Ok(segments)
}

/// The CRC-32 of what lies before it in the file, and of the header.
fn header_checksum(before: &[u8], header: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(before);
    hasher.update(header);
    hasher.finalize()
}

fn word_bytes(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

fn put_varint(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    put_varint(out, text.len() as u64);
    out.extend(text.as_bytes());
}

fn put_packed(out: &mut Vec<u8>, packed: &Packed) {
    put_varint(out, packed.size);
    put_varint(out, packed.bytes.len() as u64);
    out.extend(packed.checksum.to_le_bytes());
    out.extend(&packed.bytes);
}

/// Small numbers of both signs as small numbers.
fn zigzag(number: i64) -> u64 {
    (number << 1 ^ number >> 63) as u64
}

fn unzigzag(number: u64) -> i64 {
    (number >> 1) as i64 ^ -((number & 1) as i64)
}

/// A place in the bytes of a file.
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, field: &'static str, bytes: usize) -> Result<&'a [u8], CodecError> {
        let rest = &self.bytes[self.at..];
        let Some(taken) = rest.get(..bytes) else {
            let (expected, found) = (bytes as u64, rest.len() as u64);
            return Err(CodecError::Truncated { field, offset: self.at, expected, found });
        };
        self.at += bytes;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], CodecError> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(field, N)?);
        Ok(array)
    }

    /// A varint from `least` to `most`.
    fn varint(&mut self, field: &'static str, least: u64, most: u64) -> Result<u64, CodecError> {
        let offset = self.at;
        let wrong = |reason: String| CodecError::Header { field, offset, reason };
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let [byte] = self.array(field)?;
            let digit = u64::from(byte & 0x7f);
            if digit << shift >> shift != digit {
                break;
            }
            number |= digit << shift;
            if byte < 0x80 {
                if byte == 0 && shift > 0 {
                    return Err(wrong("found a number with needless zeros, expected the shortest form".into()));
                }
                if !(least..=most).contains(&number) {
                    return Err(wrong(format!("found {number}, expected {least} to {most}")));
                }
                return Ok(number);
            }
        }
        Err(wrong("found a number of more than 64 bits".into()))
    }

    /// How many items of at least `bytes` bytes each follow.
    fn count(&mut self, field: &'static str, bytes: usize) -> Result<u64, CodecError> {
        let most = (self.bytes.len() - self.at) / bytes;
        self.varint(field, 0, most as u64)
    }

    fn text(&mut self, field: &'static str, most: usize) -> Result<String, CodecError> {
        let offset = self.at;
        let length = self.varint(field, 0, most as u64)? as usize;
        let text = std::str::from_utf8(self.take(field, length)?);
        text.map(str::to_owned).map_err(|e| CodecError::Header { field, offset, reason: format!("not UTF-8: {e}") })
    }

    /// A text that may be printed.
    fn line(&mut self, field: &'static str) -> Result<String, CodecError> {
        let offset = self.at;
        let text = self.text(field, MAX_TEXT)?;
        if text.contains(char::is_control) {
            let reason = format!("found {text:?}, expected no control characters");
            return Err(CodecError::Header { field, offset, reason });
        }
        Ok(text)
    }

    fn finite(&mut self, field: &'static str) -> Result<f64, CodecError> {
        let offset = self.at;
        let number = f64::from_le_bytes(self.array(field)?);
        if !number.is_finite() {
            let reason = format!("found {number}, expected a finite number");
            return Err(CodecError::Header { field, offset, reason });
        }
        Ok(number)
    }

    fn steps(&mut self) -> Result<Steps, CodecError> {
        let kind = self.varint("kind of steps", 0, 2)?;
        let count = self.varint("steps", 1, MAX_STEPS as u64)? as usize;
        match kind {
            0 => return Ok(Steps::Uniform(count)),
            2 => return Ok(Steps::Placed(count)),
            _ => {}
        }
        let mut gammas = Vec::new();
        for _ in 0..=count {
            gammas.push(self.finite("gamma")?);
        }
        Ok(Steps::Listed(gammas))
    }

    /// An entry, of images of so many levels; `modified` is when the file of the one before was changed.
    fn file(&mut self, levels: usize, modified: &mut i64) -> Result<FileEntry, CodecError> {
        let kind = self.varint("kind of file", 0, 4)?;
        let name = self.text("name of a file", MAX_NAME)?;
        let mode = self.varint("permissions of a file", 0, 0o777 + 1)?;
        let attributes = if mode == 0 {
            None
        } else {
            *modified = modified.wrapping_add(unzigzag(self.varint("time of a file", 0, u64::MAX)?));
            Some(Attributes { mode: mode as u32 - 1, modified: *modified })
        };
        let mut images = || self.varint("images of a file", 0, u32::MAX.into()).map(|images| images as u32);
        let kind = match kind {
            0 => FileKind::Idx { images: images()? },
            1 => FileKind::Png,
            2 => FileKind::Series { images: images()? },
            3 => {
                let channels = self.varint("channels of a file", 1, 3)? as u8;
                let mut side = |field| self.varint(field, 1, MAX_TILED_SIDE.into()).map(|side| side as u32);
                let (width, height) = (side("width of a file")?, side("height of a file")?);
                let margin = self.varint("level of a file's margins", 0, levels as u64 - 1)? as u8;
                let alpha = match self.varint("opacity of a file", 0, 1)? {
                    0 => None,
                    _ => Some(self.packed()?),
                };
                FileKind::Tiled { channels, width, height, margin, alpha }
            }
            _ => FileKind::Stored(self.packed()?),
        };
        Ok(FileEntry { name, kind, attributes })
    }

    fn packed(&mut self) -> Result<Packed, CodecError> {
        let offset = self.at;
        let size = self.varint("size of kept bytes", 0, u64::MAX)?;
        let count = self.count("number of kept bytes", 1)? as usize;
        if !Packed::is_possible(count, size) {
            let reason = format!("found {size} bytes kept in {count}");
            return Err(CodecError::Header { field: "kept bytes", offset, reason });
        }
        let checksum = u32::from_le_bytes(self.array("checksum of kept bytes")?);
        Ok(Packed { bytes: self.take("kept bytes", count)?.to_vec(), size, checksum })
    }

    fn segment(&mut self, shape: ImageShape) -> Result<SegmentRow, CodecError> {
        let offset = self.at;
        let images = self.varint("images of a segment", 1, u32::MAX.into())? as u32;
        let words = self.varint("words of a segment", 0, u32::MAX.into())? as u32;
        if !is_possible(images, words as usize, shape) {
            let reason = format!("found {images} images of {shape} in {words} words, which are too few for them");
            return Err(CodecError::Header { field: "images of a segment", offset, reason });
        }
        Ok(SegmentRow {
            images,
            words,
            state: u64::from_le_bytes(self.array("state of a segment")?),
            checksum: u32::from_le_bytes(self.array("checksum of a segment")?),
            pixels: self.array("pixel checksum of a segment")?,
        })
    }
}
