//! A model by itself: one safetensors file with the averaged weights, the configuration, and what is known about them.
//!
//! Tensors have the parameters' names. The metadata hold the format, the configuration as TOML, the image shape, the levels,
//! the step, the fingerprint of the data, a checksum over every bit, and keys `about.…` for people: licence, recipe, bound.

use super::checkpoint::{facts, tensor};
use super::load::{LoadError, Model};
use super::{CheckpointError, tensor_file};
use crate::config::{Config, resolve_run};
use crate::diffusion::Vocabulary;
use crate::files::write_bytes;
use crate::shape::ImageShape;
use crate::weights::{Weights, import};
use burn::tensor::Device;
use safetensors::tensor::SafeTensors;
use std::collections::BTreeMap;
use std::path::Path;

/// The file format's version.
const FORMAT: &str = "model-1";
/// What the keys for people begin with.
const ABOUT: &str = "about.";

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
        let tensors = self.weights.iter().map(|(name, tensor)| (name.clone(), tensor)).collect();
        Ok(tensor_file::write(&metadata, &tensors))
    }

    /// Writes the file, whole or not at all.
    ///
    /// # Errors
    /// See [`LoadError`].
    pub fn save(&self, path: &Path) -> Result<(), LoadError> {
        let io = |source| LoadError::Checkpoint(CheckpointError::Io { path: path.into(), source });
        write_bytes(path, &self.to_bytes()?).map_err(io)
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
        let mut weights = Weights::new();
        for (name, view) in SafeTensors::deserialize(bytes).map_err(|e| damaged(e.to_string()))?.tensors() {
            weights.insert(name.clone(), tensor(&name, &view, path)?);
        }
        let (least, found) =
            (config.model.network.least_parameters(), weights.values().map(|t| t.data.len() as u128).sum::<u128>());
        if least > found {
            let expected = format!("at least the {least} of its configuration's network");
            return Err(wrong("the number of parameters", &found.to_string(), &expected).into());
        }
        let strip = |(key, value): (&String, &String)| Some((key.strip_prefix(ABOUT)?.to_string(), value.clone()));
        let about = metadata.iter().filter_map(strip).collect();
        Ok(Self { step, shape, vocabulary, data: metadata.get("data").cloned(), config, about, weights })
    }

    /// The model on `device`; errors call the file `path`.
    ///
    /// # Errors
    /// [`LoadError::Weights`] if the weights are not those of the configuration's network.
    pub fn model(&self, path: &Path, device: &Device) -> Result<Model, LoadError> {
        let fresh = self.config.init(self.shape, self.vocabulary, device);
        import(fresh, &self.weights).map_err(|source| LoadError::Weights { path: path.into(), source })
    }
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
        ModelFile { step: 7, shape, vocabulary, data: Some("train:1 test:2".into()), config, about, weights }
    }

    static BYTES: LazyLock<Vec<u8>> = LazyLock::new(|| file().to_bytes().unwrap());

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
        other.weights.pop_last();
        let bytes = other.to_bytes().unwrap();
        let parsed = ModelFile::parse(&bytes, Path::new("x")).unwrap();
        assert!(matches!(parsed.model(Path::new("x"), &Device::flex()), Err(LoadError::Weights { .. })));
    }

    /// Such a network would take terabytes.
    #[test]
    fn a_network_of_more_parameters_than_the_file_has_is_refused_before_it_is_made() {
        let mut other = file();
        let set = ["model.n_embd=8192", "model.norm_groups=4", "model.n_layer=1000"].map(String::from);
        other.config = resolve("digits", None, &set).unwrap();
        let error = ModelFile::parse(&other.to_bytes().unwrap(), Path::new("x")).unwrap_err().to_string();
        assert!(error.contains("the number of parameters is"), "{error}");
    }

    /// The count that guards against that is no more than what there is.
    #[test]
    fn the_least_number_of_parameters_is_one() {
        for set in [
            &["model.n_layer=3"][..],
            &["model.n_layer=0"],
            &["model.kind=unet"],
            &["model.kind=unet", "model.chn_mult=[1, 3, 2]", "model.n_embd=16"],
        ] {
            let set: Vec<String> = set.iter().map(|s| s.to_string()).collect();
            let config = resolve("digits", None, &set).unwrap();
            let network = config.model.network.init(1, &Device::flex());
            let all = burn::module::Module::num_params(&network) as u128;
            let least = config.model.network.least_parameters();
            assert!(least <= all && (least > all / 8 || set[0] == "model.n_layer=0"), "{set:?}: {least} of {all}");
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
