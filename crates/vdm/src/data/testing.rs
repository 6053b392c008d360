//! What the tests of the readers share: making files, and judging errors.

use std::fmt::Write as _;
use std::fs;
use std::io::{Cursor, Write as _};
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;
use zip::ZipWriter;
use zip::write::SimpleFileOptions;

use super::DataError;

/// Assert that the message of `error` contains every one of `parts`.
pub(super) fn assert_says(error: &DataError, parts: &[&str]) {
    let message = error.to_string();
    for part in parts {
        assert!(message.contains(part), "`{part}` is not in: {message}");
    }
}

/// Write a file into a folder and return its path.
pub(super) fn put(dir: &Path, name: &str, bytes: &[u8]) -> PathBuf {
    let path = dir.join(name);
    fs::write(&path, bytes).unwrap();
    path
}

/// A file name written to a fresh folder, which lives as long as the guard.
pub(super) fn temp_file(name: &str, bytes: &[u8]) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = put(dir.path(), name, bytes);
    (dir, path)
}

/// The bytes, gzipped.
pub(super) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// A zip archive of the given entries.
pub(super) fn zip_of(entries: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let mut archive = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, bytes) in entries {
        archive.start_file(*name, SimpleFileOptions::default()).unwrap();
        archive.write_all(bytes).unwrap();
    }
    archive.finish().unwrap().into_inner()
}

/// An npy file, version 1, as NumPy writes it.
pub(super) fn npy(descr: &str, shape: &[usize], body: &[u8]) -> Vec<u8> {
    let mut tuple = String::new();
    for side in shape {
        write!(tuple, "{side}, ").unwrap();
    }
    npy_of(&format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({tuple}), }}"), body)
}

/// An npy file with the given text as its header.
pub(super) fn npy_of(header: &str, body: &[u8]) -> Vec<u8> {
    let mut text = header.to_owned();
    while !(10 + text.len() + 1).is_multiple_of(64) {
        text.push(' ');
    }
    text.push('\n');
    let length = u16::try_from(text.len()).unwrap();
    [&b"\x93NUMPY\x01\x00"[..], &length.to_le_bytes()[..], text.as_bytes(), body].concat()
}
