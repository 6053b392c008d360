//! Reading untrusted bytes.
//!
//! A header may lie about how much data follows. These functions therefore
//! never allocate what a header claims: they read through `take`, so memory
//! grows with the bytes that are really there, and a claim that no file of
//! this size could honour is refused before anything is read.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, ErrorKind, Read};
use std::path::{Path, PathBuf};

use flate2::bufread::MultiGzDecoder;

use crate::data::error::{DataError, Result};

/// The most bytes that one byte of DEFLATE data can stand for: a two-bit match
/// of 258 bytes. Holds for gzip and zip alike.
const MAX_EXPANSION: u64 = 1032;

const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];

/// A file being read from front to back, gunzipped on the way if it starts
/// with the gzip magic, whatever its name.
pub(in crate::data) struct Input<'a> {
    path: PathBuf,
    reader: Box<dyn Read + 'a>,
    most: u64,
}

impl<'a> Input<'a> {
    pub(in crate::data) fn open(path: &Path) -> Result<Self> {
        let (file, length) = open_file(path)?;
        Self::new(path, BufReader::new(file), length)
    }

    /// A file of `length` bytes, which errors call `path`.
    pub(in crate::data) fn new(path: &Path, mut reader: impl BufRead + 'a, length: u64) -> Result<Self> {
        let start = reader.fill_buf().map_err(|reason| io_error(path, "read", reason))?;
        if start.starts_with(&GZIP_MAGIC) {
            let reader = Box::new(MultiGzDecoder::new(reader));
            return Ok(Self { path: path.to_owned(), reader, most: max_expanded(length) });
        }
        // An uncompressed claim needs no estimate: reading shows the truth.
        Ok(Self { path: path.to_owned(), reader: Box::new(reader), most: usize::MAX as u64 })
    }

    pub(in crate::data) fn path(&self) -> &Path {
        &self.path
    }

    pub(in crate::data) fn array<const N: usize>(&mut self, field: &str) -> Result<[u8; N]> {
        read_array(&mut self.reader, &self.path, field)
    }

    /// Everything from here to the end, which must be `claimed` bytes.
    pub(in crate::data) fn rest(&mut self, field: &str, claimed: u128) -> Result<Vec<u8>> {
        let expected = check_claim(&self.path, field, claimed, self.most)?;
        let mut bytes = Vec::new();
        read_payload(&mut self.reader, &self.path, field, expected, &mut bytes)?;
        expect_end(&mut self.reader, &self.path, field, expected)?;
        Ok(bytes)
    }
}

/// Open a regular file and tell its length. Anything else is refused, because
/// opening a pipe could wait forever.
pub(in crate::data) fn open_file(path: &Path) -> Result<(File, u64)> {
    let metadata = fs::metadata(path).map_err(|reason| io_error(path, "open", reason))?;
    if !metadata.is_file() {
        let reason = io::Error::new(ErrorKind::InvalidInput, "it is not a regular file");
        return Err(io_error(path, "open", reason));
    }
    let file = File::open(path).map_err(|reason| io_error(path, "open", reason))?;
    Ok((file, metadata.len()))
}

/// What tells a file from a changed one without reading it: its size and the time of its last change.
pub(in crate::data) fn stamp(path: &Path) -> String {
    let found = fs::metadata(path).map(|found| (found.len(), found.modified().ok()));
    found.map_or_else(|_| "none".to_owned(), |found| format!("{found:?}"))
}

/// The most bytes that a compressed file of `length` bytes can hold.
pub(in crate::data) fn max_expanded(length: u64) -> u64 {
    length.saturating_mul(MAX_EXPANSION)
}

/// Refuse a claim of more than `most` bytes, or of more than memory can address.
pub(in crate::data) fn check_claim(path: &Path, field: &str, claimed: u128, most: u64) -> Result<u64> {
    let most = most.min(usize::MAX as u64);
    u64::try_from(claimed).ok().filter(|&claimed| claimed <= most).ok_or_else(|| DataError::HeaderClaim {
        path: path.to_owned(),
        field: field.to_owned(),
        expected: most,
        found: claimed,
    })
}

/// Append exactly `expected` bytes to `into`.
pub(in crate::data) fn read_payload(
    reader: &mut impl Read,
    path: &Path,
    field: &str,
    expected: u64,
    into: &mut Vec<u8>,
) -> Result<()> {
    let before = into.len();
    let outcome = reader.by_ref().take(expected).read_to_end(into);
    let found = (into.len() - before) as u64;
    match outcome {
        Ok(_) if found == expected => Ok(()),
        Err(reason) if reason.kind() != ErrorKind::UnexpectedEof => Err(decode_error(path, field, reason)),
        // A gzip stream that stops early says so itself; any other just ends.
        _ => Err(DataError::Truncated { path: path.to_owned(), field: field.to_owned(), expected, found }),
    }
}

/// Read a fixed number of bytes.
pub(in crate::data) fn read_array<const N: usize>(reader: &mut impl Read, path: &Path, field: &str) -> Result<[u8; N]> {
    let mut bytes = Vec::with_capacity(N);
    read_payload(reader, path, field, N as u64, &mut bytes)?;
    let mut array = [0; N];
    array.copy_from_slice(&bytes);
    Ok(array)
}

/// Check that nothing follows, which also makes a decompressor check its
/// checksum.
pub(in crate::data) fn expect_end(reader: &mut impl Read, path: &Path, field: &str, expected: u64) -> Result<()> {
    let mut extra = Vec::new();
    match reader.by_ref().take(1).read_to_end(&mut extra) {
        Ok(0) => Ok(()),
        Ok(_) => Err(DataError::TrailingBytes {
            path: path.to_owned(),
            field: field.to_owned(),
            expected,
            found: expected.saturating_add(1),
        }),
        Err(reason) => Err(decode_error(path, field, reason)),
    }
}

pub(in crate::data) fn io_error(path: &Path, action: &'static str, reason: io::Error) -> DataError {
    DataError::Io { path: path.to_owned(), action, reason }
}

/// Decompressors report damage as an I/O error of these kinds; any other kind
/// is the operating system's.
fn decode_error(path: &Path, field: &str, reason: io::Error) -> DataError {
    match reason.kind() {
        ErrorKind::InvalidData | ErrorKind::InvalidInput | ErrorKind::UnexpectedEof => {
            DataError::Corrupt { path: path.to_owned(), field: field.to_owned(), reason: reason.to_string() }
        }
        _ => io_error(path, "read", reason),
    }
}

/// A short, printable start of text that came from a file.
pub(in crate::data) fn excerpt(text: &str) -> String {
    text.chars().take(40).flat_map(char::escape_debug).collect()
}

/// Bytes as in `1f 8b`.
pub(in crate::data) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" ")
}
