//! A model by itself: one safetensors file with the averaged weights, the configuration, and what is known about them.
//!
//! Tensors have the parameters' names. The metadata hold the format, the configuration as TOML, the image shape, the levels,
//! the step, the fingerprint of the data, a checksum over every bit, and keys `about.…` for people: licence, recipe, bound.
//! Tensors `errors.…`, where there are some, are the model's [`ErrorModel`]: its table, a row for each noise level, and its
//! head.

use super::checkpoint::{facts, tensor};
use super::load::{LoadError, Model, require_parameters};
use super::{CheckpointError, tensor_file};
use crate::config::{Config, resolve_run};
use crate::diffusion::error_model::{ErrorHead, ErrorModel, ErrorPoint, ErrorTable, QUANTILES};
use crate::diffusion::{TimeNormalization, VariationalDiffusion, Vocabulary};
use crate::files::write_bytes;
use crate::nn::ScoreNetwork;
use crate::schedule::Schedule;
use crate::shape::ImageShape;
use crate::weights::{HostTensor, Weights, WeightsError, export, from_bytes, import, to_pytorch};
use burn::tensor::{Device, f16};
use safetensors::tensor::{Dtype, SafeTensors};
use std::collections::BTreeMap;
use std::path::Path;

/// The file format's version.
const FORMAT: &str = "model-1";
/// What the keys for people begin with.
const ABOUT: &str = "about.";
/// What the names of an error model's tensors begin with, and the name of its table's after that.
const ERRORS: &str = "errors.";
const TABLE: &str = "table";
/// The numbers of a row of the table: the mean error, the two other terms, and the parts of the distribution.
const ROW: usize = 3 + QUANTILES;

/// A model with all that is needed to work with it.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelFile {
    /// Optimiser steps that it was trained for.
    pub step: u64,
    /// Shape of its images.
    pub shape: ImageShape,
    /// Levels of a pixel.
    pub vocabulary: Vocabulary,
    /// The fingerprint of its data: see [`Checkpoint::data`](super::Checkpoint::data).
    pub data: Option<String>,
    /// How it was made.
    pub config: Config,
    /// For people: `licence`, `recipe`, `bound` and whatever else.
    pub about: BTreeMap<String, String>,
    /// The averaged weights, by parameter.
    pub weights: Weights,
    /// Whether the file holds the network's weights in half precision: see [`into_half`](Self::into_half).
    pub half: bool,
    /// The tensors of its error model, if it has one: see [`with_errors`](Self::with_errors).
    pub errors: Option<Weights>,
}

impl ModelFile {
    /// The bytes of the file: the same for the same content.
    ///
    /// # Errors
    /// [`LoadError::Config`] if the configuration cannot be written.
    pub fn to_bytes(&self) -> Result<Vec<u8>, LoadError> {
        let s = self.shape;
        let mut metadata = BTreeMap::from([
            ("format".to_string(), FORMAT.to_string()),
            ("config".into(), self.config.to_toml()?),
            ("step".into(), self.step.to_string()),
            ("levels".into(), self.vocabulary.levels().to_string()),
            ("shape".into(), format!("{},{},{}", s.channels, s.height, s.width)),
        ]);
        metadata.extend(self.data.clone().map(|data| ("data".to_string(), data)));
        metadata.extend(self.about.iter().map(|(key, value)| (format!("{ABOUT}{key}"), value.clone())));
        let weights = self.weights.iter().map(|(name, tensor)| (name.clone(), tensor));
        let errors = self.errors.iter().flatten().map(|(name, tensor)| (format!("{ERRORS}{name}"), tensor));
        let tensors = weights.chain(errors).collect();
        Ok(tensor_file::write(&metadata, &tensors, &|name| self.half && is_of_network(name)))
    }

    /// Writes the file, whole or not at all.
    ///
    /// # Errors
    /// See [`LoadError`].
    pub fn save(&self, path: &Path) -> Result<(), LoadError> {
        let io = |source| LoadError::Checkpoint(CheckpointError::Io { path: path.into(), source });
        write_bytes(path, &self.to_bytes()?).map_err(io)
    }

    /// The bytes of a safetensors file of the network alone, in the layout of PyTorch's `torch.nn` (see
    /// [`to_pytorch`]), with all that is needed to compute eps_hat in its metadata: `network`, its configuration as JSON;
    /// `time`, the two gammas between which the network's time is gamma's share of the way; `prediction`, `shape`, `levels`.
    ///
    /// # Errors
    /// As of [`model`](Self::model).
    pub fn to_pytorch_bytes(&self, path: &Path, device: &Device) -> Result<Vec<u8>, LoadError> {
        let model = self.model(path, device)?;
        let (start, end) = match model.settings().time_normalization {
            TimeNormalization::Configured => model.settings().configured_endpoints,
            TimeNormalization::Current => {
                let schedule = model.schedule.to_host();
                (schedule.gamma(0.0), schedule.gamma(1.0))
            }
        };
        let json = |value: serde_json::Result<serde_json::Value>| value.unwrap_or_default();
        let s = self.shape;
        let metadata = BTreeMap::from([
            ("network".to_string(), json(serde_json::to_value(&self.config.model.network)).to_string()),
            ("prediction".into(), json(serde_json::to_value(self.config.model.prediction)).to_string()),
            ("time".into(), format!("[{start}, {end}]")),
            ("shape".into(), format!("[{}, {}, {}]", s.channels, s.height, s.width)),
            ("levels".into(), self.vocabulary.levels().to_string()),
        ]);
        // `network.KIND.` comes before every name.
        let of_network = |(name, tensor): (&String, &HostTensor)| {
            let name = name.strip_prefix("network.")?.split_once('.')?.1;
            Some((name.to_string(), tensor.clone()))
        };
        let weights = to_pytorch(&self.weights.iter().filter_map(of_network).collect());
        Ok(tensor_file::write(
            &metadata,
            &weights.iter().map(|(name, tensor)| (name.clone(), tensor)).collect(),
            &|_| false,
        ))
    }

    /// Reads the file in `path`; the bytes are not trusted.
    ///
    /// # Errors
    /// See [`LoadError`].
    pub fn load(path: &Path) -> Result<Self, LoadError> {
        let io = |source| LoadError::Checkpoint(CheckpointError::Io { path: path.into(), source });
        Self::parse(&std::fs::read(path).map_err(io)?, path)
    }

    /// Reads the bytes of a file, which errors call `path`.
    ///
    /// # Errors
    /// See [`LoadError`].
    pub fn parse(bytes: &[u8], path: &Path) -> Result<Self, LoadError> {
        let damaged = |reason: String| CheckpointError::Damaged { path: path.into(), reason };
        let (_, header) = SafeTensors::read_metadata(bytes).map_err(|e| damaged(e.to_string()))?;
        let metadata = header.metadata().clone().unwrap_or_default();
        let wrong = |field: &str, found: &str, expected: &str| CheckpointError::Field {
            path: path.into(),
            field: field.into(),
            found: found.into(),
            expected: expected.into(),
        };
        match metadata.get("format").map(String::as_str) {
            Some(FORMAT) => {}
            found => return Err(wrong("format", found.unwrap_or("absent"), FORMAT).into()),
        }
        if !tensor_file::is_whole(bytes) {
            return Err(damaged("its checksum is another than that of its bytes".into()).into());
        }
        let (step, vocabulary, shape) = facts(&metadata, path)?;
        let text = metadata.get("config").ok_or_else(|| wrong("config", "absent", "present"))?;
        let config = resolve_run(&format!("the configuration in {}", path.display()), text)?;
        config.validate_shape(shape)?;
        let (mut weights, mut errors, mut precisions) = (Weights::new(), None, [false; 2]);
        for (name, view) in SafeTensors::deserialize(bytes).map_err(|e| damaged(e.to_string()))?.tensors() {
            let is_half = is_of_network(&name) && view.dtype() == Dtype::F16;
            precisions[usize::from(is_half)] |= is_of_network(&name);
            let tensor = if is_half {
                let data = from_bytes(view.data(), |b| f16::from_le_bytes(b).to_f32());
                HostTensor { shape: view.shape().to_vec(), data }
            } else {
                tensor(&name, &view, path)?
            };
            match name.strip_prefix(ERRORS) {
                Some(name) => errors.get_or_insert_with(Weights::new).insert(name.to_string(), tensor),
                None => weights.insert(name, tensor),
            };
        }
        require_parameters(&config, shape, &weights, path)?;
        let [single, half] = precisions;
        if single && half {
            return Err(wrong("weights", "F16 and F32", "the network's all of one of them").into());
        }
        let strip = |(key, value): (&String, &String)| Some((key.strip_prefix(ABOUT)?.to_string(), value.clone()));
        let about = metadata.iter().filter_map(strip).collect();
        Ok(Self { step, shape, vocabulary, data: metadata.get("data").cloned(), config, about, weights, half, errors })
    }

    /// The model on `device`; errors call the file `path`.
    ///
    /// # Errors
    /// [`LoadError::Weights`] if the weights are not those of the configuration's network, [`LoadError::Errors`] if its
    /// table of errors is none.
    pub fn model(&self, path: &Path, device: &Device) -> Result<Model, LoadError> {
        let fresh = self.config.init(self.shape, self.vocabulary, device);
        let wrong = |source| LoadError::Weights { path: path.into(), source };
        let model: Model = import(fresh, &self.weights).map_err(wrong)?;
        let errors = self.errors.as_ref().map(|errors| error_model(errors, &model, path, device)).transpose()?;
        Ok(model.with_errors(errors))
    }

    /// The same model with the network's weights rounded to half precision, in which they take half as much of the file.
    /// What computes with them computes in single precision as before.
    ///
    /// # Errors
    /// [`LoadError::TooLargeForHalf`] if a weight would become infinite.
    pub fn into_half(mut self) -> Result<Self, LoadError> {
        for (name, tensor) in self.weights.iter_mut().filter(|(name, _)| is_of_network(name)) {
            for x in &mut tensor.data {
                let rounded = f16::from_f32(*x).to_f32();
                if rounded.is_infinite() && x.is_finite() {
                    return Err(LoadError::TooLargeForHalf { name: name.clone(), weight: *x });
                }
                *x = rounded;
            }
        }
        Ok(Self { half: true, ..self })
    }

    /// The same file with this error model.
    pub fn with_errors(self, errors: &ErrorModel) -> Self {
        let points = errors.table.points();
        let row = |point: &ErrorPoint| {
            let terms = [point.mean, point.reconstruction, point.prior].map(|x| x as f32);
            terms.into_iter().chain(point.quantiles)
        };
        let table = HostTensor { shape: vec![points.len(), ROW], data: points.iter().flat_map(row).collect() };
        let head = errors.head.as_ref().map(export).unwrap_or_default();
        let tensors = head.into_iter().map(|(name, tensor)| (format!("head.{name}"), tensor));
        Self { errors: Some(tensors.chain([(TABLE.to_string(), table)]).collect()), ..self }
    }
}

/// Whether this is the name of one of the network's weights, and not of the schedule's.
fn is_of_network(name: &str) -> bool {
    name.starts_with("network.")
}

/// The error model of these tensors. Row i of n of the table is at the time i/(n - 1) of the model's schedule.
fn error_model<N: ScoreNetwork>(
    errors: &Weights,
    model: &VariationalDiffusion<N>,
    path: &Path,
    device: &Device,
) -> Result<ErrorModel, LoadError> {
    let wrong = |source| LoadError::Weights { path: path.into(), source };
    let name = || format!("{ERRORS}{TABLE}");
    let table = errors.get(TABLE).ok_or_else(|| wrong(WeightsError::Missing { name: name() }))?;
    let [rows, ROW] = table.shape[..] else {
        return Err(wrong(WeightsError::Shape { name: name(), expected: vec![2, ROW], found: table.shape.clone() }));
    };
    let gammas = model.schedule.to_host().evenly(rows.saturating_sub(1));
    let point = |(gamma, row): (f64, &[f32; ROW])| ErrorPoint {
        gamma,
        mean: row[0].into(),
        reconstruction: row[1].into(),
        prior: row[2].into(),
        quantiles: std::array::from_fn(|q| row[3 + q]),
    };
    let points = gammas.into_iter().zip(table.data.as_chunks::<ROW>().0).map(point).collect();
    let table = ErrorTable::new(points).map_err(|source| LoadError::Errors { path: path.into(), source })?;
    let head: Weights = errors
        .iter()
        .filter(|(name, _)| *name != TABLE)
        .map(|(name, tensor)| (name.strip_prefix("head.").unwrap_or(name).to_string(), tensor.clone()))
        .collect();
    let head = match head.is_empty() {
        true => None,
        false => Some(import(ErrorHead::new(model.shape().channels, device), &head).map_err(wrong)?),
    };
    Ok(ErrorModel { table, head })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::resolve;
    use crate::weights::export;
    use proptest::prelude::*;
    use std::sync::LazyLock;

    fn file() -> ModelFile {
        let set = ["model.n_embd=8", "model.norm_groups=4", "model.n_layer=1"].map(String::from);
        let config = resolve("digits", None, &set).unwrap();
        let (shape, vocabulary) = (ImageShape { channels: 1, height: 8, width: 8 }, Vocabulary::new(17).unwrap());
        let weights = export(&config.init(shape, vocabulary, &Device::flex()));
        let about = BTreeMap::from([("licence".to_string(), "MIT".to_string())]);
        ModelFile {
            step: 7,
            shape,
            vocabulary,
            data: Some("train:1 test:2".into()),
            config,
            about,
            weights,
            half: false,
            errors: None,
        }
    }

    static BYTES: LazyLock<Vec<u8>> = LazyLock::new(|| file().to_bytes().unwrap());

    #[test]
    fn half_precision_halves_the_file_and_is_loaded_as_saved() {
        let half = file().into_half().unwrap();
        let bytes = half.to_bytes().unwrap();
        assert!(bytes.len() < BYTES.len() * 6 / 10, "{} {}", bytes.len(), BYTES.len());
        assert_eq!(ModelFile::parse(&bytes, Path::new("x")).unwrap(), half);
        for (name, tensor) in &file().weights {
            for (&x, &rounded) in tensor.data.iter().zip(&half.weights[name].data) {
                assert!(if is_of_network(name) { (x - rounded).abs() <= 1e-3 * x.abs() + 1e-7 } else { x == rounded });
            }
        }

        let mut large = file();
        let network = large.weights.keys().find(|name| is_of_network(name)).unwrap().clone();
        large.weights.get_mut(&network).unwrap().data[0] = -65520.0;
        let error = large.into_half().unwrap_err().to_string();
        assert!(error.contains(&network) && error.contains("--half"), "{error}");
    }

    #[test]
    fn weights_of_two_precisions_are_refused() {
        let half = file().into_half().unwrap();
        let tensors = half.weights.iter().map(|(name, tensor)| (name.clone(), tensor)).collect();
        let (_, header) = SafeTensors::read_metadata(&BYTES).unwrap();
        let metadata = header.metadata().clone().unwrap().into_iter().collect();
        let one = half.weights.keys().find(|name| is_of_network(name)).unwrap();
        let bytes = tensor_file::write(&metadata, &tensors, &|name| name == one);
        let error = ModelFile::parse(&bytes, Path::new("x")).unwrap_err().to_string();
        assert!(error.contains("F16 and F32"), "{error}");
        // The schedule's are of single precision.
        let bytes = tensor_file::write(&metadata, &tensors, &|_| true);
        let error = ModelFile::parse(&bytes, Path::new("x")).unwrap_err().to_string();
        assert!(error.contains("F16") && error.contains("schedule"), "{error}");
    }

    #[test]
    fn what_is_saved_is_loaded() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("model.safetensors");
        file().save(&path).unwrap();
        let loaded = ModelFile::load(&path).unwrap();
        assert_eq!(loaded, file());
        assert_eq!(export(&loaded.model(&path, &Device::flex()).unwrap()), file().weights);
    }

    #[test]
    fn a_checkpoint_is_no_model_file() {
        let checkpoint = crate::run::Checkpoint {
            step: 1,
            shape: file().shape,
            vocabulary: file().vocabulary,
            best_bpd: 1.0,
            pending: false,
            window: Default::default(),
            data: None,
            weights: Weights::new(),
            optimizer: Weights::new(),
        };
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("last.safetensors");
        checkpoint.save(&path).unwrap();
        let error = ModelFile::load(&path).unwrap_err().to_string();
        assert!(error.contains("format is 3, expected model-1"), "{error}");
    }

    #[test]
    fn weights_of_another_network_are_refused() {
        let mut other = file();
        let (name, tensor) = other.weights.pop_last().unwrap();
        other.weights.insert(format!("{name}.other"), tensor);
        let bytes = other.to_bytes().unwrap();
        let parsed = ModelFile::parse(&bytes, Path::new("x")).unwrap();
        assert!(matches!(parsed.model(Path::new("x"), &Device::flex()), Err(LoadError::Weights { .. })));
    }

    /// Such networks would take gigabytes to terabytes, most of them in parts that a count of the blocks on the way down
    /// left out.
    #[test]
    fn a_network_of_more_parameters_than_the_file_has_is_refused_before_it_is_made() {
        for set in [
            &["model.n_embd=8192", "model.norm_groups=4", "model.n_layer=1000"][..],
            &["model.n_embd=8192", "model.norm_groups=4", "model.n_layer=0"],
            &["model.classes=1000000"],
            &["schedule.kind=monotonic", "schedule.hidden=[4096, 4096, 4096, 4096]"],
            &["model.kind=unet", "model.chn_mult=[1, 2, 64]", "model.n_embd=512"],
        ] {
            let set: Vec<String> = set.iter().map(|s| s.to_string()).collect();
            let other = ModelFile { config: resolve("digits", None, &set).unwrap(), ..file() };
            let error = ModelFile::parse(&other.to_bytes().unwrap(), Path::new("x")).unwrap_err().to_string();
            assert!(error.contains("its configuration asks for"), "{set:?}: {error}");
        }
    }

    #[test]
    fn a_truncated_file_is_damaged() {
        for n in (0..BYTES.len()).step_by(97) {
            assert!(ModelFile::parse(&BYTES[..n], Path::new("x")).is_err(), "{n} bytes");
        }
    }

    proptest! {
        #[test]
        fn every_flipped_bit_is_found(at in 0usize..1 << 20, bit in 0u8..8) {
            let mut bytes = BYTES.clone();
            let at = at % bytes.len();
            bytes[at] ^= 1 << bit;
            prop_assert!(ModelFile::parse(&bytes, Path::new("x")).is_err());
        }
    }
}
