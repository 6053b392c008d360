//! Messages between a training and its workers: a header in JSON, and tensors.
//!
//! | bytes | what |
//! |---|---|
//! | 4 | `VDMW` |
//! | 4 | bytes of the header, little endian |
//! | 8 | bytes of the numbers, little endian |
//! | | the header: an object with the keys `head` and `tensors`, the latter a list of names and shapes |
//! | | the numbers of all tensors, in single precision, little endian |
//!
//! Numbers in double precision travel as their bits, in whole numbers: JSON's decimals may be read to another last bit.

use crate::weights::{HostTensor, Weights};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::io::{self, Read, Write};

const MAGIC: [u8; 4] = *b"VDMW";
/// Most bytes of a header.
const MAX_HEADER: u32 = 1 << 26;
/// Most bytes of the numbers.
const MAX_BODY: u64 = 1 << 34;
/// What is read at a time: memory grows with the bytes that come.
const PIECE: u64 = 1 << 20;

/// Why a message cannot be sent or read.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// The other side is gone, or the network.
    #[error("the connection broke: {0}")]
    Io(io::Error),
    /// The other side does not speak this language.
    #[error("what came is no message of vdm: {0}")]
    Message(String),
}

impl From<io::Error> for WireError {
    /// A time limit that is over has no words of its own.
    fn from(error: io::Error) -> Self {
        Self::Io(match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
                io::Error::new(io::ErrorKind::TimedOut, "the other side took too long")
            }
            _ => error,
        })
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header<H> {
    head: H,
    tensors: Vec<(String, Vec<usize>)>,
}

/// Sends a message; the order of the tensors is that of their names.
///
/// # Errors
/// See [`WireError`].
pub fn send<H: Serialize>(to: &mut impl Write, head: &H, tensors: &[&Weights]) -> Result<(), WireError> {
    let all = || tensors.iter().flat_map(|tensors| tensors.iter());
    let listed = all().map(|(name, tensor)| (name.clone(), tensor.shape.clone())).collect();
    let header =
        serde_json::to_vec(&Header { head, tensors: listed }).map_err(|e| WireError::Message(e.to_string()))?;
    let body: u64 = all().map(|(_, tensor)| 4 * tensor.data.len() as u64).sum();
    let length = u32::try_from(header.len()).ok().filter(|&length| length <= MAX_HEADER);
    let length = length.ok_or_else(|| WireError::Message("a header of over 64 MiB".into()))?;
    to.write_all(&MAGIC)?;
    to.write_all(&length.to_le_bytes())?;
    to.write_all(&body.to_le_bytes())?;
    to.write_all(&header)?;
    for (_, tensor) in all() {
        let bytes: Vec<u8> = tensor.data.iter().flat_map(|x| x.to_le_bytes()).collect();
        to.write_all(&bytes)?;
    }
    to.flush()?;
    Ok(())
}

/// Reads a message. Nothing is believed before it is checked.
///
/// # Errors
/// See [`WireError`].
pub fn receive<H: DeserializeOwned>(from: &mut impl Read) -> Result<(H, Weights), WireError> {
    let wrong = |reason: String| Err(WireError::Message(reason));
    let mut prefix = [0; 16];
    from.read_exact(&mut prefix)?;
    let [a, b, c, d, rest @ ..] = prefix;
    if [a, b, c, d] != MAGIC {
        return wrong(format!("it starts with {:02x?}", [a, b, c, d]));
    }
    let [h0, h1, h2, h3, body @ ..] = rest;
    let (length, body) = (u32::from_le_bytes([h0, h1, h2, h3]), u64::from_le_bytes(body));
    if length > MAX_HEADER || body > MAX_BODY {
        return wrong(format!("it claims a header of {length} bytes and {body} bytes of numbers"));
    }
    let header = read(from, length.into())?;
    let Header { head, tensors } = match serde_json::from_slice::<Header<H>>(&header) {
        Ok(header) => header,
        Err(error) => return wrong(error.to_string()),
    };
    let mut claimed = 0u64;
    for (name, shape) in &tensors {
        let numbers = shape.iter().try_fold(1u64, |n, &side| n.checked_mul(side as u64)).filter(|&n| n <= MAX_BODY);
        let Some(numbers) = numbers else { return wrong(format!("tensor {name:?} has the shape {shape:?}")) };
        claimed = claimed.saturating_add(4 * numbers);
    }
    if claimed != body {
        return wrong(format!("its tensors have {claimed} bytes, the message says {body}"));
    }
    let mut found = Weights::new();
    for (name, shape) in tensors {
        // It was checked that this does not overflow.
        let bytes = read(from, 4 * shape.iter().product::<usize>() as u64)?;
        let data = bytes.as_chunks::<4>().0.iter().map(|&number| f32::from_le_bytes(number)).collect();
        if found.contains_key(&name) {
            return wrong(format!("two tensors are called {name:?}"));
        }
        found.insert(name, HostTensor { shape, data });
    }
    Ok((head, found))
}

fn read(from: &mut impl Read, length: u64) -> Result<Vec<u8>, WireError> {
    let mut bytes = Vec::new();
    while (bytes.len() as u64) < length {
        let wanted = (length - bytes.len() as u64).min(PIECE);
        if from.take(wanted).read_to_end(&mut bytes)? as u64 != wanted {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn tensors() -> Weights {
        let tensor = |shape: &[usize], data: &[f32]| HostTensor { shape: shape.to_vec(), data: data.to_vec() };
        Weights::from([
            ("a".into(), tensor(&[2, 1], &[1.5, f32::MIN_POSITIVE])),
            ("empty".into(), tensor(&[0, 3], &[])),
            ("ä".into(), tensor(&[], &[-0.0])),
        ])
    }

    fn message() -> Vec<u8> {
        let mut bytes = Vec::new();
        send(&mut bytes, &vec![f64::MAX.to_bits(), 3], &[&tensors(), &Weights::new()]).unwrap();
        bytes
    }

    #[test]
    fn what_is_sent_is_received() {
        let (head, found) = receive::<Vec<u64>>(&mut message().as_slice()).unwrap();
        assert_eq!((head, found), (vec![f64::MAX.to_bits(), 3], tensors()));
    }

    #[test]
    fn what_is_no_message_is_an_error() {
        let error = |bytes: &[u8]| receive::<Vec<u64>>(&mut &bytes[..]).unwrap_err().to_string();
        assert!(error(b"GET / HTTP/1.1\r\n\r\n").contains("no message of vdm"));
        for cut in 0..message().len() {
            assert!(error(&message()[..cut]).contains("broke"), "{cut}");
        }
        let mut large = message();
        large[8..16].copy_from_slice(&u64::MAX.to_le_bytes());
        assert!(error(&large).contains("claims"));
        let mut other = message();
        other[8] += 4;
        assert!(error(&other).contains("the message says"));
        let written = |header: &str, body: u64| {
            let prefix = [&MAGIC[..], &(header.len() as u32).to_le_bytes(), &body.to_le_bytes()].concat();
            [prefix, header.as_bytes().to_vec(), vec![0; 64]].concat()
        };
        let huge = usize::MAX;
        assert!(error(&written(&format!(r#"{{"head":[],"tensors":[["a",[{huge},{huge}]]]}}"#), 4)).contains("shape"));
        assert!(error(&written(r#"{"head":[],"tensors":[["a",[1]],["a",[1]]]}"#, 8)).contains("two tensors"));
        assert!(error(&written(r#"{"head":[],"tensors":[],"more":1}"#, 0)).contains("more"));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(at in 0usize..200, byte: u8) {
            let mut bytes = message();
            let at = at % bytes.len();
            bytes[at] = byte;
            let _ = receive::<Vec<u64>>(&mut bytes.as_slice());
        }
    }
}
