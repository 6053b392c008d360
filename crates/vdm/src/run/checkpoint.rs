//! A checkpoint: one safetensors file with everything that training needs to go on as if it had never stopped.
//!
//! Tensors are named `weights.…`, `ema.…`, `m.…` and `v.…` after the parameters; the metadata hold the step, the image
//! shape, the vocabulary, the fingerprint of the data, the sums since the last line of metrics, the best evaluation, and
//! what is still to be done about this step. Random numbers and the data order are functions of the seed and the step, so
//! there is no other state. One file means that one rename replaces all of it; a checksum finds every changed bit.

use super::tensor_file;
use crate::config::MAX_STEPS;
use crate::diffusion::Vocabulary;
use crate::files::write_bytes;
use crate::shape::ImageShape;
use crate::weights::{HostTensor, Weights};
use safetensors::tensor::{Dtype, SafeTensorError, SafeTensors, TensorView};
use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::{Path, PathBuf};

/// The file format's version.
const FORMAT: &str = "3";
/// The version before: without checksum, window and fingerprint. Its models are read; its trainings cannot go on.
const OLD_FORMAT: &str = "2";

/// The state of training after some step.
#[derive(Clone, Debug, PartialEq)]
pub struct Checkpoint {
    /// Steps done.
    pub step: u64,
    /// Shape of the images.
    pub shape: ImageShape,
    /// Levels of a pixel.
    pub vocabulary: Vocabulary,
    /// The best evaluation on validation images so far, in bits per dimension; infinite before the first.
    pub best_bpd: f64,
    /// Whether evaluations or samples that are due after this step are still to be made.
    pub pending: bool,
    /// Sums since the last line of metrics.
    pub window: Window,
    /// The fingerprint of the run's images: [`Datasets::fingerprint`](crate::train::Datasets::fingerprint). `None` in
    /// checkpoints of before there was one, whose trainings cannot go on.
    pub data: Option<String>,
    /// The weights, by parameter.
    pub weights: Weights,
    /// The optimiser's state: `m.…`, `v.…`, `ema.…`.
    pub optimizer: Weights,
}

/// Sums since the last line of metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Window {
    /// Steps.
    pub steps: u64,
    /// Sums of the steps' prior, reconstruction and diffusion terms, in bits per dimension.
    pub terms: [f64; 3],
    /// Sum of the gradients' norms.
    pub grad_norm: f64,
    /// Seconds of training; they start anew at every resume.
    pub seconds: f64,
}

/// Why a checkpoint cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// The file system refuses.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Not a safetensors file, or a damaged one.
    #[error("{} is not a whole safetensors file ({reason}); use another checkpoint of the run", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What the parser says.
        reason: String,
    },
    /// Fewer parameters than the configuration asks for.
    #[error(
        "{}: it holds {found} parameters, its configuration asks for {expected}: these are the weights of another architecture",
        path.display()
    )]
    Parameters {
        /// The file.
        path: PathBuf,
        /// Parameters in it.
        found: u128,
        /// Those of the configuration.
        expected: u128,
    },
    /// A safetensors file that is no checkpoint of this program's version.
    #[error("{}: {field} is {found}, expected {expected}; this is no checkpoint of this version of vdm", path.display())]
    Field {
        /// The file.
        path: PathBuf,
        /// The metadata key or tensor.
        field: String,
        /// What it is.
        found: String,
        /// What it should be.
        expected: String,
    },
}

impl Checkpoint {
    /// Writes the checkpoint, whole or not at all.
    ///
    /// # Errors
    /// [`CheckpointError::Io`]; the old file, if any, is then untouched.
    pub fn save(&self, path: &Path) -> Result<(), CheckpointError> {
        let (s, w) = (self.shape, self.window);
        // Rust writes a number with as many digits as reading it back exactly takes.
        let numbers = [w.terms[0], w.terms[1], w.terms[2], w.grad_norm].map(|x| x.to_string()).join(",");
        let mut metadata = BTreeMap::from([
            ("format", FORMAT.into()),
            ("step", self.step.to_string()),
            ("best_bpd", self.best_bpd.to_string()),
            ("pending", self.pending.to_string()),
            ("window", format!("{},{numbers}", w.steps)),
            ("levels", self.vocabulary.levels().to_string()),
            ("shape", format!("{},{},{}", s.channels, s.height, s.width)),
        ]);
        metadata.extend(self.data.clone().map(|data| ("data", data)));
        let metadata = metadata.into_iter().map(|(key, value)| (key.to_string(), value)).collect();
        let names = self.weights.iter().map(|(name, t)| (format!("weights.{name}"), t));
        let tensors = names.chain(self.optimizer.iter().map(|(name, t)| (name.clone(), t))).collect();
        let file = tensor_file::write(&metadata, &tensors, &|_| false);
        write_bytes(path, &file).map_err(|source| CheckpointError::Io { path: path.into(), source })
    }

    /// Reads a checkpoint; the bytes are not trusted.
    ///
    /// # Errors
    /// See [`CheckpointError`].
    pub fn load(path: &Path) -> Result<Self, CheckpointError> {
        let bytes = std::fs::read(path).map_err(|source| CheckpointError::Io { path: path.into(), source })?;
        Self::parse(&bytes, path)
    }

    fn parse(bytes: &[u8], path: &Path) -> Result<Self, CheckpointError> {
        let damaged = |e: SafeTensorError| CheckpointError::Damaged { path: path.into(), reason: e.to_string() };
        let (_, header) = SafeTensors::read_metadata(bytes).map_err(damaged)?;
        let metadata = header.metadata().clone().unwrap_or_default();
        let wrong = |field: &str, found: &str, expected: &str| CheckpointError::Field {
            path: path.into(),
            field: field.into(),
            found: found.into(),
            expected: expected.into(),
        };
        let get = |key: &str| metadata.get(key).map(String::as_str).ok_or(wrong(key, "absent", "present"));
        let old = match get("format")? {
            FORMAT => false,
            OLD_FORMAT => true,
            other => return Err(wrong("format", other, FORMAT)),
        };
        if (!old || metadata.contains_key("checksum")) && !tensor_file::is_whole(bytes) {
            let reason = "its checksum is another than that of its bytes".into();
            return Err(CheckpointError::Damaged { path: path.into(), reason });
        }
        let (step, vocabulary, shape) = facts(&metadata, path)?;
        let text = get("best_bpd")?;
        let best_bpd = text.parse::<f64>().ok().filter(|bpd| !bpd.is_nan());
        let best_bpd = best_bpd.ok_or_else(|| wrong("best_bpd", text, "a number"))?;
        let (pending, window) = if old {
            (false, Window::default())
        } else {
            let text = get("window")?;
            let numbers: Option<Vec<f64>> = text.split(',').map(|x| x.parse().ok()).collect();
            let Some(&[steps, prior, reconstruction, diffusion, grad_norm]) = numbers.as_deref() else {
                return Err(wrong("window", text, "five numbers"));
            };
            let terms = [prior, reconstruction, diffusion];
            let sums = [prior, reconstruction, diffusion, grad_norm];
            if steps.fract() != 0.0 || !(0.0..=step as f64).contains(&steps) || !sums.iter().all(|sum| sum.is_finite())
            {
                return Err(wrong("window", text, "at most as many steps as were done, and finite sums"));
            }
            (get("pending")? == "true", Window { steps: steps as u64, terms, grad_norm, seconds: 0.0 })
        };
        let data = metadata.get("data").cloned();
        let mut weights = Weights::new();
        let mut optimizer = Weights::new();
        for (name, view) in SafeTensors::deserialize(bytes).map_err(damaged)?.tensors() {
            let tensor = tensor(&name, &view, path)?;
            match name.strip_prefix("weights.") {
                Some(name) => weights.insert(name.into(), tensor),
                None => optimizer.insert(name, tensor),
            };
        }
        Ok(Self { step, shape, vocabulary, best_bpd, pending, window, data, weights, optimizer })
    }

    /// The averaged weights, by parameter.
    pub fn ema(&self) -> Weights {
        let strip = |(name, t): (&String, &HostTensor)| Some((name.strip_prefix("ema.")?.to_string(), t.clone()));
        self.optimizer.iter().filter_map(strip).collect()
    }
}

/// The step, the levels and the images' shape that metadata name.
pub(super) fn facts(
    metadata: &HashMap<String, String>,
    path: &Path,
) -> Result<(u64, Vocabulary, ImageShape), CheckpointError> {
    let wrong = |field: &str, found: &str, expected: &str| CheckpointError::Field {
        path: path.into(),
        field: field.into(),
        found: found.into(),
        expected: expected.into(),
    };
    let get = |key: &str| metadata.get(key).map(String::as_str).ok_or(wrong(key, "absent", "present"));
    let number = |key: &str| {
        let text = get(key)?;
        text.parse::<u64>().map_err(|_| wrong(key, text, "a whole number"))
    };
    let step = number("step")?;
    if step > MAX_STEPS {
        return Err(wrong("step", &step.to_string(), &format!("at most {MAX_STEPS}")));
    }
    let levels = number("levels")?;
    let vocabulary = Vocabulary::new(levels as usize)
        .filter(|v| v.levels() <= 256)
        .ok_or_else(|| wrong("levels", &levels.to_string(), "in 2..=256"))?;
    let text = get("shape")?;
    let sides: Option<Vec<usize>> = text.split(',').map(|s| s.parse().ok()).collect();
    let Some(&[channels, height, width]) = sides.as_deref() else {
        return Err(wrong("shape", text, "channels,height,width"));
    };
    let shape = ImageShape { channels, height, width };
    if !shape.is_within_limits() {
        return Err(wrong("shape", text, "at most 16 channels, sides of 1 to 4096, 2^24 numbers"));
    }
    Ok((step, vocabulary, shape))
}

/// A tensor of a file, which must be of single precision.
pub(super) fn tensor(name: &str, view: &TensorView<'_>, path: &Path) -> Result<HostTensor, CheckpointError> {
    if view.dtype() != Dtype::F32 {
        return Err(CheckpointError::Field {
            path: path.into(),
            field: name.into(),
            found: format!("{:?}", view.dtype()),
            expected: "F32".into(),
        });
    }
    let data = view.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
    Ok(HostTensor { shape: view.shape().to_vec(), data })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn checkpoint() -> Checkpoint {
        let tensor = |x: f32| HostTensor { shape: vec![2, 1], data: vec![x, -x] };
        Checkpoint {
            step: 12,
            shape: ImageShape { channels: 1, height: 8, width: 9 },
            vocabulary: Vocabulary::new(17).unwrap(),
            best_bpd: f64::INFINITY,
            pending: true,
            window: Window { steps: 3, terms: [0.1, 0.2, 1e-9], grad_norm: 7.0, seconds: 0.0 },
            data: Some("train:00".into()),
            weights: Weights::from([("a.b".into(), tensor(1.5))]),
            optimizer: Weights::from([("ema.a.b".into(), tensor(0.1)), ("m.a.b".into(), tensor(f32::MIN_POSITIVE))]),
        }
    }

    fn saved() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/er/last.safetensors");
        checkpoint().save(&path).unwrap();
        (dir, path)
    }

    #[test]
    fn what_is_saved_is_loaded() {
        let (_dir, path) = saved();
        let loaded = Checkpoint::load(&path).unwrap();
        assert_eq!(loaded, checkpoint());
        assert_eq!(loaded.ema()["a.b"].data, [0.1, -0.1]);
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = Checkpoint::load(Path::new("/nowhere/last.safetensors")).unwrap_err();
        assert!(matches!(error, CheckpointError::Io { .. }) && error.to_string().contains("/nowhere/last"));
    }

    #[test]
    fn a_truncated_file_is_damaged() {
        let (_dir, path) = saved();
        let bytes = std::fs::read(&path).unwrap();
        for n in 0..bytes.len() {
            let error = Checkpoint::parse(&bytes[..n], &path).unwrap_err();
            assert!(matches!(error, CheckpointError::Damaged { .. }), "{n} bytes: {error}");
        }
    }

    /// 59 of 60 flipped bits went unnoticed, 5 of them with other pictures.
    #[test]
    fn every_flipped_bit_is_found() {
        let (_dir, path) = saved();
        let bytes = std::fs::read(&path).unwrap();
        for place in 0..bytes.len() {
            for bit in 0..8 {
                let mut damaged = bytes.clone();
                damaged[place] ^= 1 << bit;
                assert!(Checkpoint::parse(&damaged, &path).is_err(), "bit {bit} of byte {place}");
            }
        }
    }

    #[test]
    fn the_same_content_is_the_same_bytes() {
        let [(_a, a), (_b, b)] = [saved(), saved()];
        assert_eq!(std::fs::read(a).unwrap(), std::fs::read(b).unwrap());
    }

    /// A file as the version before wrote it: nothing protects its header.
    fn old(shape: &str, levels: &str) -> Vec<u8> {
        let metadata = [("format", "2"), ("step", "1"), ("best_bpd", "inf"), ("levels", levels), ("shape", shape)];
        let metadata = metadata.map(|(k, v)| (k.to_string(), v.to_string())).into();
        safetensors::serialize(Vec::<(String, safetensors::tensor::TensorView<'_>)>::new(), Some(metadata)).unwrap()
    }

    #[test]
    fn an_impossible_shape_or_vocabulary_is_refused_before_any_memory_is_taken() {
        let error =
            |shape: &str, levels: &str| Checkpoint::parse(&old(shape, levels), Path::new("x")).unwrap_err().to_string();
        assert!(Checkpoint::parse(&old("1,8,9", "17"), Path::new("x")).unwrap().data.is_none());
        for shape in ["0,8,9", "9,9,0", "1,8,x", "1,999", "99,8,9", "16,4096,4096"] {
            assert!(error(shape, "17").contains("shape"), "{shape}");
        }
        // The product of the first overflowed; the second was read as 1,8,8.
        for shape in ["4294967296,4294967296,1", "x,1,8,8", "1,8,8,"] {
            assert!(error(shape, "17").contains("shape"), "{shape}");
        }
        assert!(error("1,8,9", "1").contains("levels is 1") && error("1,8,9", "1").contains("2..=256"));
    }

    /// A NaN kept every later model from being the best one; too many steps overflowed when the training went on.
    #[test]
    fn numbers_that_no_training_has_are_refused() {
        let error = |change: fn(&mut Checkpoint)| {
            let dir = tempfile::tempdir().unwrap();
            let (path, mut made) = (dir.path().join("x"), checkpoint());
            change(&mut made);
            made.save(&path).unwrap();
            Checkpoint::load(&path).unwrap_err().to_string()
        };
        assert!(error(|c| c.best_bpd = f64::NAN).contains("best_bpd"));
        assert!(error(|c| c.step = MAX_STEPS + 1).contains("step"));
        assert!(error(|c| c.window.steps = 13).contains("window"));
        assert!(error(|c| c.window.terms[1] = f64::NAN).contains("window"));
        assert!(error(|c| c.window.grad_norm = f64::INFINITY).contains("window"));
    }

    #[test]
    fn another_safetensors_file_is_no_checkpoint() {
        let data = [0u8; 4];
        let view = safetensors::tensor::TensorView::new(Dtype::F32, vec![1], &data).unwrap();
        let bytes = safetensors::serialize([("x", view)], None).unwrap();
        let error = Checkpoint::parse(&bytes, Path::new("x")).unwrap_err().to_string();
        assert!(error.contains("format is absent"), "{error}");
    }

    proptest! {
        #[test]
        fn arbitrary_damage_never_panics(at in 0usize..900, value: u8) {
            let (_dir, path) = saved();
            let mut bytes = std::fs::read(&path).unwrap();
            let at = at % bytes.len();
            bytes[at] = value;
            let _ = Checkpoint::parse(&bytes, &path);
        }
    }
}
