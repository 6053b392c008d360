//! Weights out of safetensors files that other programs wrote.

use super::{HostTensor, Weights, from_bytes};
use burn::tensor::{bf16, f16};
use safetensors::{Dtype, SafeTensorError, SafeTensors};
use std::io;
use std::path::{Path, PathBuf};

/// Why a safetensors file gives no weights.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SafetensorsError {
    /// The file system refuses.
    #[error("cannot read {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Not a safetensors file, or a damaged one.
    #[error("{} is no whole safetensors file: {source}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What the parser says.
        source: SafeTensorError,
    },
    /// A tensor does not hold floating-point numbers.
    #[error("{}: tensor `{name}` holds {found} numbers, weights are floating-point", path.display())]
    NotFloat {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// The type of its elements.
        found: String,
    },
}

/// The tensors of a safetensors file by their names in it. Half, bfloat16 and double precision become single; the file may
/// come from anywhere.
///
/// # Errors
/// See [`SafetensorsError`].
pub fn load_safetensors(path: &Path) -> Result<Weights, SafetensorsError> {
    let bytes = std::fs::read(path).map_err(|source| SafetensorsError::Io { path: path.into(), source })?;
    let damaged = |source| SafetensorsError::Damaged { path: path.into(), source };
    let mut weights = Weights::new();
    for (name, view) in SafeTensors::deserialize(&bytes).map_err(damaged)?.tensors() {
        let data = view.data();
        let data: Vec<f32> = match view.dtype() {
            Dtype::F32 => from_bytes(data, f32::from_le_bytes),
            Dtype::F64 => from_bytes(data, |b| f64::from_le_bytes(b) as f32),
            Dtype::F16 => from_bytes(data, |b| f16::from_le_bytes(b).to_f32()),
            Dtype::BF16 => from_bytes(data, |b| bf16::from_le_bytes(b).to_f32()),
            other => {
                return Err(SafetensorsError::NotFloat { path: path.into(), name, found: format!("{other:?}") });
            }
        };
        weights.insert(name, HostTensor { shape: view.shape().to_vec(), data });
    }
    Ok(weights)
}

#[cfg(test)]
mod tests {
    use super::*;
    use safetensors::tensor::TensorView;

    #[test]
    fn all_kinds_of_floats_are_read_and_others_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.safetensors");
        let numbers = [1.5f64, -2.0, 0.25];
        let of = |dtype, bytes: Vec<u8>| {
            let view = TensorView::new(dtype, vec![3], &bytes).unwrap();
            std::fs::write(&path, safetensors::serialize([("x", view)], None).unwrap()).unwrap();
            load_safetensors(&path)
        };
        for (dtype, bytes) in [
            (Dtype::F32, numbers.iter().flat_map(|&x| (x as f32).to_le_bytes()).collect::<Vec<u8>>()),
            (Dtype::F64, numbers.iter().flat_map(|x| x.to_le_bytes()).collect()),
            (Dtype::F16, numbers.iter().flat_map(|&x| f16::from_f64(x).to_le_bytes()).collect()),
            (Dtype::BF16, numbers.iter().flat_map(|&x| bf16::from_f64(x).to_le_bytes()).collect()),
        ] {
            assert_eq!(of(dtype, bytes).unwrap()["x"].data, [1.5, -2.0, 0.25], "{dtype:?}");
        }
        let error = of(Dtype::U8, vec![1, 2, 3]).unwrap_err().to_string();
        assert!(error.contains("`x`") && error.contains("U8"), "{error}");
        std::fs::write(&path, b"no").unwrap();
        assert!(matches!(load_safetensors(&path), Err(SafetensorsError::Damaged { .. })));
        assert!(matches!(load_safetensors(&dir.path().join("none")), Err(SafetensorsError::Io { .. })));
    }
}
