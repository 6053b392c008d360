//! Bytes that a container keeps without the model: compressed by `flate2` (RFC 1951) where that makes them fewer.

use crate::codec::error::CodecError;
use flate2::Compression;
use flate2::read::{DeflateDecoder, DeflateEncoder};
use std::io::Read;

/// A byte of DEFLATE holds at most so many.
const MAX_RATIO: u64 = 1032;

/// Most bytes that come out of compressed ones: a file is not to ask for all memory. More are kept as they are.
const MAX_UNPACKED: u64 = 1 << 30;

/// Kept bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packed {
    /// The bytes themselves if there are [`size`](Self::size) of them; otherwise they are compressed.
    pub(super) bytes: Vec<u8>,
    pub(super) size: u64,
    pub(super) checksum: u32,
}

impl Packed {
    /// Packs bytes.
    pub fn new(bytes: Vec<u8>) -> Self {
        let (size, checksum) = (bytes.len() as u64, crc32fast::hash(&bytes));
        let mut smaller = Vec::new();
        // Reading from memory cannot fail.
        let packed = size <= MAX_UNPACKED
            && DeflateEncoder::new(&bytes[..], Compression::best()).read_to_end(&mut smaller).is_ok();
        let bytes = if packed && smaller.len() < bytes.len() { smaller } else { bytes };
        Self { bytes, size, checksum }
    }

    /// Whether bytes of this number can be so many unpacked.
    pub(super) fn is_possible(bytes: usize, size: u64) -> bool {
        let bytes = bytes as u64;
        bytes == size || (bytes < size && size <= bytes.saturating_mul(MAX_RATIO).min(MAX_UNPACKED))
    }

    /// How many bytes come out.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// How many are kept.
    pub fn packed_size(&self) -> usize {
        self.bytes.len()
    }

    /// The bytes that went in.
    ///
    /// # Errors
    /// [`CodecError::Packed`] if they do not come out.
    pub fn unpack(&self) -> Result<Vec<u8>, CodecError> {
        let bytes = if self.bytes.len() as u64 == self.size {
            self.bytes.clone()
        } else {
            let mut bytes = Vec::new();
            let wrong = |error: std::io::Error| CodecError::Packed { reason: error.to_string() };
            // One more than there should be shows that there are too many.
            DeflateDecoder::new(&self.bytes[..]).take(self.size + 1).read_to_end(&mut bytes).map_err(wrong)?;
            bytes
        };
        if bytes.len() as u64 != self.size || crc32fast::hash(&bytes) != self.checksum {
            let reason = format!("{} bytes came out, or others than the {} that went in", bytes.len(), self.size);
            return Err(CodecError::Packed { reason });
        }
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_come_back() {
        for bytes in [vec![], vec![7], vec![0; 10_000], (0..=255).collect()] {
            let packed = Packed::new(bytes.clone());
            assert!(packed.packed_size() <= bytes.len() && Packed::is_possible(packed.packed_size(), packed.size()));
            assert_eq!(packed.unpack().unwrap(), bytes);
        }
        assert!(Packed::new(vec![0; 10_000]).packed_size() < 100);
    }

    #[test]
    fn damaged_bytes_are_errors() {
        let own: Vec<u8> = (0..200u8).chain(0..200).collect();
        let packed = Packed::new(own.clone());
        assert!(packed.packed_size() < 400);
        for at in 0..packed.bytes.len() {
            let mut bytes = packed.bytes.clone();
            bytes[at] ^= 4;
            // The last bits of the stream mean nothing.
            let found = Packed { bytes, ..packed.clone() }.unpack();
            assert!(found.is_err() || found.is_ok_and(|found| found == own), "{at}");
        }
        assert!(Packed { size: packed.size - 1, ..packed.clone() }.unpack().is_err());
        assert!(Packed { size: packed.size + 1, ..packed.clone() }.unpack().is_err());
        assert!(!Packed::is_possible(3, 1 << 20) && !Packed::is_possible(3, 2));
        // A file of some megabytes could ask for many gigabytes.
        assert!(Packed::is_possible(1 << 21, 1 << 30) && !Packed::is_possible(1 << 21, (1 << 30) + 1));
        assert!(Packed::is_possible(1 << 31, 1 << 31));
    }
}
