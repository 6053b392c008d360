//! Weights out of the files that PyTorch saves, without running what is in them.

use super::{HostTensor, Weights, from_bytes};
use burn::tensor::{bf16, f16};
use pytorch_reader::{DType, PytorchReader};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Why a PyTorch file gives no weights.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PytorchError {
    /// The file cannot be read, or is no file of PyTorch's, or damaged.
    #[error("{path} is no readable PyTorch file: {reason}; expected what torch.save(model.state_dict(), …) writes")]
    Read {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// There is no tensor in the file.
    #[error("{path} holds no tensor; expected what torch.save(model.state_dict(), …) writes")]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// A tensor does not hold floating-point numbers.
    #[error("{path}: tensor `{name}` holds {found} numbers, weights are floating-point")]
    NotFloat {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// The type of its elements.
        found: String,
    },
    /// The tensors would take far more memory than the file has bytes: it is damaged, or made to exhaust the memory.
    #[error("{path}: its tensors claim {claimed} bytes, the file has {found}; it is damaged or malicious")]
    Oversized {
        /// The file.
        path: PathBuf,
        /// Bytes of all tensors.
        claimed: u128,
        /// Bytes of the file.
        found: u64,
    },
}

/// The tensors of a PyTorch file (`torch.save(model.state_dict(), path)`), by their names in it.
///
/// Half, bfloat16 and double precision become single. The file may come from anywhere: its pickle is read as data, no
/// code in it runs, and its tensors may not claim more than a few times the file's size.
///
/// # Errors
/// See [`PytorchError`].
pub fn load_pytorch(path: &Path) -> Result<Weights, PytorchError> {
    let unreadable = |reason: String| PytorchError::Read { path: path.into(), reason };
    let size = std::fs::metadata(path).map_err(|e| unreadable(e.to_string()))?.len();
    let tensors: BTreeMap<_, _> =
        PytorchReader::new(path).map_err(|e| unreadable(e.to_string()))?.into_tensors().into_iter().collect();
    if tensors.is_empty() {
        return Err(PytorchError::Empty { path: path.into() });
    }
    // Tensors may share memory in the file (tied weights), so their sum may exceed its size, but not by much.
    let claimed: u128 = tensors.values().map(|t| t.byte_len() as u128).sum();
    if claimed > 4 * u128::from(size) {
        return Err(PytorchError::Oversized { path: path.into(), claimed, found: size });
    }
    let mut out = Weights::new();
    for (name, tensor) in tensors {
        let convert: fn(&[u8]) -> Vec<f32> = match tensor.dtype() {
            DType::F32 => |bytes| from_bytes(bytes, f32::from_ne_bytes),
            DType::F64 => |bytes| from_bytes(bytes, |b| f64::from_ne_bytes(b) as f32),
            DType::F16 => |bytes| from_bytes(bytes, |b| f16::from_ne_bytes(b).to_f32()),
            DType::BF16 => |bytes| from_bytes(bytes, |b| bf16::from_ne_bytes(b).to_f32()),
            other => {
                return Err(PytorchError::NotFloat { path: path.into(), name, found: format!("{other:?}") });
            }
        };
        let bytes = tensor.read().map_err(|e| unreadable(e.to_string()))?;
        out.insert(name, HostTensor { shape: tensor.shape().to_vec(), data: convert(&bytes) });
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use zip::ZipWriter;
    use zip::write::SimpleFileOptions;

    /// The result of loading a file of these bytes.
    fn load(bytes: &[u8]) -> Result<Weights, PytorchError> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        load_pytorch(file.path())
    }

    /// A file as torch.save writes it, with one storage and one tensor `w` on it: `size` elements `stride` apart.
    fn pytorch_file(storage_type: &str, storage: &[u8], elements: u8, size: i32, stride: u8) -> Vec<u8> {
        let text = |s: &str| [&b"X"[..], &(s.len() as u32).to_le_bytes(), s.as_bytes()].concat();
        let pickle = [
            b"\x80\x02}".to_vec(),
            text("w"),
            b"ctorch._utils\n_rebuild_tensor_v2\n((".to_vec(),
            text("storage"),
            format!("ctorch\n{storage_type}\n").into_bytes(),
            text("0"),
            text("cpu"),
            vec![b'K', elements, b't', b'Q', b'K', 0, b'J'],
            size.to_le_bytes().to_vec(),
            vec![0x85, b'K', stride, 0x85, 0x89],
            b"ccollections\nOrderedDict\n)RtRs.".to_vec(),
        ]
        .concat();
        let mut bytes = Vec::new();
        let mut zip = ZipWriter::new(std::io::Cursor::new(&mut bytes));
        let entries: [(&str, &[u8]); 4] =
            [("data.pkl", &pickle), ("byteorder", b"little"), ("data/0", storage), ("version", b"3\n")];
        for (name, content) in entries {
            let stored = SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
            zip.start_file(format!("archive/{name}"), stored).unwrap();
            zip.write_all(content).unwrap();
        }
        zip.finish().unwrap();
        bytes
    }

    #[test]
    fn every_precision_becomes_single() {
        let values = [1.5f32, -0.25, 3.0];
        let files = [
            ("FloatStorage", values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>()),
            ("DoubleStorage", values.iter().flat_map(|&v| f64::from(v).to_le_bytes()).collect()),
            ("HalfStorage", values.iter().flat_map(|&v| f16::from_f32(v).to_le_bytes()).collect()),
            ("BFloat16Storage", values.iter().flat_map(|&v| bf16::from_f32(v).to_le_bytes()).collect()),
        ];
        for (storage_type, storage) in files {
            let weights = load(&pytorch_file(storage_type, &storage, 3, 3, 1)).unwrap();
            let want = HostTensor { shape: vec![3], data: values.to_vec() };
            assert_eq!(weights, Weights::from([("w".to_string(), want)]), "{storage_type}");
        }
        let whole = load(&pytorch_file("LongStorage", &[0; 24], 3, 3, 1));
        assert!(matches!(whole, Err(PytorchError::NotFloat { name, .. }) if name == "w"));
    }

    #[test]
    fn tensors_larger_than_the_file_are_refused() {
        // One number, repeated: 2 GB of memory out of a file of a few hundred bytes.
        let expanded = load(&pytorch_file("FloatStorage", &[0; 4], 1, 500_000_000, 0));
        assert!(matches!(expanded, Err(PytorchError::Oversized { claimed: 2_000_000_000, .. })), "{expanded:?}");
        // More numbers than the storage has.
        assert!(matches!(load(&pytorch_file("FloatStorage", &[0; 4], 1, 3, 1)), Err(PytorchError::Read { .. })));
        // A storage that declares more than there is.
        assert!(matches!(load(&pytorch_file("FloatStorage", &[0; 4], 3, 3, 1)), Err(PytorchError::Read { .. })));
    }

    #[test]
    fn code_in_a_pickle_does_not_run() {
        let dir = tempfile::tempdir().unwrap();
        let proof = dir.path().join("it-ran");
        let call = format!("cos\nsystem\n(S'touch {}'\ntR", proof.display());
        for pickle in [format!("{call}."), format!("(dS'w'\n{call}s.")] {
            assert!(load(pickle.as_bytes()).is_err(), "{pickle}");
            assert!(!proof.exists());
        }
    }

    #[test]
    fn damaged_files_are_errors_and_not_panics() {
        for bytes in [&b""[..], b"weights", b"PK\x03\x04", b"\x80\x02", b"\x80\x02}."] {
            assert!(load(bytes).is_err(), "{bytes:?}");
        }
        let missing = load_pytorch(Path::new("no/such/file.pt")).unwrap_err();
        assert!(missing.to_string().contains("no/such/file.pt"), "{missing}");

        let whole = pytorch_file("FloatStorage", &[0; 12], 3, 3, 1);
        assert!(load(&whole).is_ok());
        for end in 0..whole.len() {
            assert!(load(&whole[..end]).is_err(), "cut after {end} bytes");
        }
        // A changed byte may do no harm, but never more harm than an error.
        for place in 0..whole.len() {
            for bit in 0..8 {
                let mut changed = whole.clone();
                changed[place] ^= 1 << bit;
                let _ = load(&changed);
            }
        }
    }
}
