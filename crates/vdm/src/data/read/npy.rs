//! The header of a NumPy array file, read strictly.
//!
//! The header is a Python dictionary in text. NumPy only ever writes three
//! keys with plain values, so a small parser covers it; it does not recurse
//! and multiplies nothing, which keeps hostile headers harmless.
//!
//! # References
//!
//! - The npy format, <https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html>.

use std::io::Read;
use std::path::Path;

use crate::data::error::{DataError, Result};
use crate::data::read::bytes::{excerpt, hex, read_array, read_payload};

const MAGIC: [u8; 6] = *b"\x93NUMPY";

/// The longest header that NumPy itself reads from files it does not trust.
const MAX_HEADER: u64 = 10_000;

/// The most dimensions that any NumPy has allowed.
const MAX_RANK: usize = 64;

/// What the header of an array says about the bytes that follow.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::data) struct NpyHeader {
    /// The type string, such as `|u1` or `<i8`.
    pub(in crate::data) descr: String,
    /// Whether the first axis varies fastest.
    pub(in crate::data) fortran_order: bool,
    /// The dimensions.
    pub(in crate::data) shape: Vec<u64>,
}

/// Read a header, leaving the reader at the first byte of the elements.
pub(in crate::data) fn read_npy_header(reader: &mut impl Read, path: &Path, field: &str) -> Result<NpyHeader> {
    let bad_header = |reason: String| DataError::NpyHeader { path: path.to_owned(), field: field.to_owned(), reason };
    let preamble: [u8; 8] = read_array(reader, path, field)?;
    if preamble[..6] != MAGIC {
        return Err(DataError::BadMagic {
            path: path.to_owned(),
            field: field.to_owned(),
            expected: "93 4e 55 4d 50 59",
            found: hex(&preamble[..6]),
        });
    }
    let length = match preamble[6] {
        1 => u64::from(u16::from_le_bytes(read_array(reader, path, field)?)),
        2 | 3 => u64::from(u32::from_le_bytes(read_array(reader, path, field)?)),
        version => return Err(bad_header(format!("format version {version}, not 1, 2 or 3"))),
    };
    if length > MAX_HEADER {
        return Err(bad_header(format!("a length of {length}, above {MAX_HEADER} bytes")));
    }
    let mut text = Vec::new();
    read_payload(reader, path, field, length, &mut text)?;
    let text = std::str::from_utf8(&text).map_err(|error| bad_header(error.to_string()))?;
    parse(text).map_err(bad_header)
}

fn parse(text: &str) -> Result<NpyHeader, String> {
    let mut cursor = Cursor { rest: text };
    let (mut descr, mut fortran_order, mut shape) = (None, None, None);
    cursor.expect("{")?;
    while !cursor.eat("}") {
        let key = cursor.string()?;
        cursor.expect(":")?;
        match key {
            "descr" => descr = Some(cursor.string()?.to_owned()),
            "fortran_order" => fortran_order = Some(cursor.boolean()?),
            "shape" => shape = Some(cursor.tuple()?),
            other => return Err(format!("the unknown key `{}`", excerpt(other))),
        }
        if !cursor.eat(",") {
            cursor.expect("}")?;
            break;
        }
    }
    if !cursor.rest.trim().is_empty() {
        return Err(format!("text after the dictionary: `{}`", excerpt(cursor.rest)));
    }
    Ok(NpyHeader {
        descr: descr.ok_or("no `descr`")?,
        fortran_order: fortran_order.ok_or("no `fortran_order`")?,
        shape: shape.ok_or("no `shape`")?,
    })
}

struct Cursor<'a> {
    rest: &'a str,
}

impl<'a> Cursor<'a> {
    /// Skip white space, then the token if it is next.
    fn eat(&mut self, token: &str) -> bool {
        self.rest = self.rest.trim_start();
        match self.rest.strip_prefix(token) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn expect(&mut self, token: &str) -> Result<(), String> {
        if self.eat(token) { Ok(()) } else { Err(self.unexpected(token)) }
    }

    fn string(&mut self) -> Result<&'a str, String> {
        let quote = if self.eat("'") {
            '\''
        } else if self.eat("\"") {
            '"'
        } else {
            return Err(self.unexpected("a quoted string"));
        };
        let (text, rest) = self.rest.split_once(quote).ok_or_else(|| self.unexpected("a closing quote"))?;
        self.rest = rest;
        Ok(text)
    }

    fn boolean(&mut self) -> Result<bool, String> {
        if self.eat("True") {
            Ok(true)
        } else if self.eat("False") {
            Ok(false)
        } else {
            Err(self.unexpected("True or False"))
        }
    }

    fn tuple(&mut self) -> Result<Vec<u64>, String> {
        self.expect("(")?;
        let mut items = Vec::new();
        while !self.eat(")") {
            if items.len() == MAX_RANK {
                return Err(format!("more than {MAX_RANK} dimensions"));
            }
            items.push(self.integer()?);
            if !self.eat(",") {
                self.expect(")")?;
                break;
            }
        }
        Ok(items)
    }

    fn integer(&mut self) -> Result<u64, String> {
        self.rest = self.rest.trim_start();
        let end = self.rest.find(|next: char| !next.is_ascii_digit()).unwrap_or(self.rest.len());
        let (digits, rest) = self.rest.split_at(end);
        let value = digits.parse::<u64>().map_err(|_| self.unexpected("a 64-bit length"))?;
        // Python 2 wrote long integers with this suffix.
        self.rest = rest.strip_prefix('L').unwrap_or(rest);
        Ok(value)
    }

    fn unexpected(&self, wanted: &str) -> String {
        format!("`{}` where {wanted} belongs", excerpt(self.rest))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::data::testing::{assert_says, npy, npy_of};

    fn read(bytes: &[u8]) -> Result<NpyHeader> {
        read_npy_header(&mut &bytes[..], Path::new("batch.npz"), "data.npy")
    }

    #[test]
    fn headers_as_numpy_writes_them_are_read() {
        let bytes = npy("|u1", &[10, 3072], &[]);
        let header = read(&bytes).unwrap();
        assert_eq!(header.descr, "|u1");
        assert!(!header.fortran_order);
        assert_eq!(header.shape, [10, 3072]);
        assert_eq!(read(&npy("<i8", &[5], &[])).unwrap().shape, [5]);
        assert_eq!(read(&npy("<i8", &[], &[])).unwrap().shape, [0u64; 0]);
    }

    #[test]
    fn versions_2_and_3_and_python_2_longs_are_read() {
        let text = "{\"shape\": (7L, 2L), 'fortran_order': True, 'descr': '>i4'}";
        for version in [2, 3] {
            let length = (text.len() as u32).to_le_bytes();
            let start = [0x93, b'N', b'U', b'M', b'P', b'Y', version, 0];
            let header = read(&[&start[..], &length[..], text.as_bytes()].concat()).unwrap();
            assert_eq!(header.shape, [7, 2]);
            assert!(header.fortran_order);
        }
    }

    #[test]
    fn another_magic_is_refused() {
        let error = read(b"PK\x03\x04 and more").unwrap_err();
        assert!(matches!(error, DataError::BadMagic { .. }));
        assert_says(&error, &["batch.npz", "data.npy", "expected the bytes 93", "found 50 4b"]);
    }

    #[test]
    fn headers_that_numpy_does_not_write_are_refused() {
        for (text, reason) in [
            ("", "where { belongs"),
            ("{'descr': [('a', '<i4')]}", "a quoted string"),
            ("{'descr': '<i4}", "a closing quote"),
            ("{'fortran_order': 0}", "True or False"),
            ("{'shape': (1, -2)}", "64-bit length"),
            ("{'shape': (99999999999999999999)}", "64-bit length"),
            ("{'colour': 'red'}", "unknown key `colour`"),
            ("{'descr': '<i4', 'fortran_order': False}", "no `shape`"),
            ("{'shape': ()} and", "after the dictionary"),
            ("{'shape': (1 2)}", "where ) belongs"),
        ] {
            let error = read(&npy_of(text, &[])).unwrap_err();
            assert!(matches!(error, DataError::NpyHeader { .. }));
            assert_says(&error, &["batch.npz", "data.npy", "expected", reason]);
        }
        let deep = format!("{{'shape': ({})}}", "1,".repeat(MAX_RANK + 1));
        assert_says(&read(&npy_of(&deep, &[])).unwrap_err(), &["more than 64 dimensions"]);
        assert_says(&read(b"\x93NUMPY\x09\x00").unwrap_err(), &["format version 9"]);
    }

    #[test]
    fn huge_header_lengths_are_refused_without_allocating() {
        let error = read(b"\x93NUMPY\x02\x00\xff\xff\xff\xff{").unwrap_err();
        assert!(matches!(error, DataError::NpyHeader { .. }));
        assert_says(&error, &["batch.npz", "4294967295"]);
    }

    #[test]
    fn truncated_headers_are_refused() {
        let bytes = npy("|u1", &[1], &[]);
        let error = read(&bytes[..40]).unwrap_err();
        assert!(matches!(error, DataError::Truncated { found: 30, .. }));
        assert_says(&error, &["batch.npz", "data.npy", "expected", "found 30"]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn arbitrary_headers_never_panic(text in "[{}(),:' a-zL0-9\\[\"é]{0,80}") {
            let _ = parse(&text);
            let _ = read(text.as_bytes());
        }
    }
}
