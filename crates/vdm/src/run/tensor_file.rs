//! Safetensors files whose bytes are a function of their content, with a checksum over all of them.
//!
//! The metadata key `checksum` holds the SHA-256 of the whole file, with its own digits taken as zeros. Metadata and
//! tensors are in the order of their names.

use crate::math::hex;
use crate::weights::HostTensor;
use burn::tensor::f16;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;

/// The metadata key, as it stands in the header before its digits.
const KEY: &str = "\"checksum\":\"";
/// Digits of a checksum.
const DIGITS: usize = 64;

/// The bytes of a file with these metadata and tensors, those in half precision whose names `is_half` says.
pub(super) fn write(
    metadata: &BTreeMap<String, String>,
    tensors: &BTreeMap<String, &HostTensor>,
    is_half: &dyn Fn(&str) -> bool,
) -> Vec<u8> {
    let mut header = serde_json::Map::new();
    let mut all: serde_json::Map<_, _> = metadata.iter().map(|(k, v)| (k.clone(), v.clone().into())).collect();
    all.insert("checksum".into(), "0".repeat(DIGITS).into());
    header.insert("__metadata__".into(), all.into());
    let mut end = 0;
    for (name, tensor) in tensors {
        let start = end;
        let (dtype, width) = if is_half(name) { ("F16", 2) } else { ("F32", 4) };
        end += width * tensor.data.len();
        let entry = serde_json::json!({"dtype": dtype, "shape": tensor.shape, "data_offsets": [start, end]});
        header.insert(name.clone(), entry);
    }
    let mut header = serde_json::Value::from(header).to_string().into_bytes();
    // The data start at a multiple of 8 bytes.
    header.resize(header.len().next_multiple_of(8), b' ');
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header);
    for (name, tensor) in tensors {
        match is_half(name) {
            true => bytes.extend(tensor.data.iter().flat_map(|&x| f16::from_f32(x).to_le_bytes())),
            false => bytes.extend(tensor.data.iter().flat_map(|x| x.to_le_bytes())),
        }
    }
    if let Some(place) = place(&bytes) {
        let sum = hex(&Sha256::digest(&bytes));
        bytes[place..place + DIGITS].copy_from_slice(sum.as_bytes());
    }
    bytes
}

/// Whether the bytes are those that were written.
pub(super) fn is_whole(bytes: &[u8]) -> bool {
    let Some(place) = place(bytes) else { return false };
    let mut hash = Sha256::new();
    hash.update(&bytes[..place]);
    hash.update([b'0'; DIGITS]);
    hash.update(&bytes[place + DIGITS..]);
    hex(&hash.finalize()).as_bytes() == &bytes[place..place + DIGITS]
}

/// Where the digits of the checksum start.
fn place(bytes: &[u8]) -> Option<usize> {
    let length = u64::from_le_bytes(*bytes.first_chunk::<8>()?);
    let header = bytes.get(8..usize::try_from(length).ok()?.checked_add(8)?)?;
    let at = header.windows(KEY.len()).position(|window| window == KEY.as_bytes())? + KEY.len();
    (at + DIGITS <= header.len()).then_some(8 + at)
}
