//! The model of a run.

use super::{Checkpoint, CheckpointError};
use crate::config::{Config, ConfigError};
use crate::diffusion::VariationalDiffusion;
use crate::diffusion::error_model::TableError;
use crate::nn::AnyNetwork;
use crate::shape::ImageShape;
use crate::weights::{Weights, WeightsError, import};
use burn::tensor::Device;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// The model that a configuration describes.
pub type Model = VariationalDiffusion<AnyNetwork>;

/// Why a run gives no model.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// See [`ConfigError`].
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// See [`CheckpointError`].
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// A checkpoint and its configuration do not belong together.
    #[error("{}: {source}", path.display())]
    Weights {
        /// The checkpoint.
        path: PathBuf,
        /// What does not fit.
        source: WeightsError,
    },
    /// A weight is beyond what half precision holds.
    #[error("weight {weight} of `{name}` is beyond the largest number of half precision, 65504; export without --half")]
    TooLargeForHalf {
        /// The parameter.
        name: String,
        /// The weight.
        weight: f32,
    },
    /// A file's table of errors is not one.
    #[error("{}: {source}", path.display())]
    Errors {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: TableError,
    },
}

/// Which of a checkpoint's weights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WhichWeights {
    /// Their average over the last steps: what evaluations and samples are made with.
    #[default]
    Ema,
    /// Those of the last step itself.
    Raw,
}

/// The model of a run, for evaluation and sampling on `device`, and its checkpoint.
///
/// # Errors
/// See [`LoadError`].
pub fn load_model(
    config: &Config,
    path: PathBuf,
    weights: WhichWeights,
    device: &Device,
) -> Result<(Model, Checkpoint), LoadError> {
    let checkpoint = Checkpoint::load(&path)?;
    config.validate()?;
    config.validate_shape(checkpoint.shape)?;
    let values = match weights {
        WhichWeights::Ema => &checkpoint.ema(),
        WhichWeights::Raw => &checkpoint.weights,
    };
    require_parameters(config, checkpoint.shape, values, &path)?;
    let fresh = config.init(checkpoint.shape, checkpoint.vocabulary, device);
    let model = import(fresh, values).map_err(|source| LoadError::Weights { path, source })?;
    Ok((model, checkpoint))
}

/// Whether a file brings as many parameters as its configuration asks for: if not, the model is not to be made, since it
/// may be of any size.
pub(crate) fn require_parameters(
    config: &Config,
    shape: ImageShape,
    weights: &Weights,
    path: &Path,
) -> Result<(), CheckpointError> {
    let expected = config.parameters(shape.channels);
    let found: u128 = weights.values().map(|tensor| tensor.data.len() as u128).sum();
    if expected <= found {
        return Ok(());
    }
    Err(CheckpointError::Parameters { path: path.into(), found, expected })
}

#[cfg(test)]
mod tests {
    use crate::config::resolve;
    use crate::diffusion::Vocabulary;
    use crate::shape::ImageShape;
    use burn::module::Module;
    use burn::tensor::Device;

    /// The count guards memory, so it must be neither more nor less.
    #[test]
    fn parameters_are_counted_without_making_them() {
        for set in [
            &["model.n_layer=3"][..],
            &["model.n_layer=0", "model.classes=5", "model.conditioning=false", "model.fourier=none"],
            &["model.with_attention=true", "model.n_layer=2", "model.classes=10"],
            &["schedule.kind=fixed-linear"],
            &["schedule.kind=network", "schedule.features=7"],
            &["schedule.kind=pinned-network", "schedule.features=7"],
            &["schedule.kind=monotonic", "schedule.hidden=[3, 5]"],
            &["model.kind=unet"],
            &["model.kind=unet", "model.chn_mult=[1, 3, 2]", "model.n_embd=16", "model.with_attention=true"],
            &["model.kind=unet", "model.self_conditioning=true", "model.n_fourier=[7, 8]", "model.classes=3"],
            &["model.kind=unet", "model.chn_mult=[2]", "model.attn_dim=64", "model.n_embd=32"],
            &["model.kind=hourglass"],
            &["model.kind=hourglass", "model.chn_mult=[2, 1, 3]", "model.blocks=[1, 0, 2]", "model.classes=3"],
            &["model.kind=hourglass", "model.chn_mult=[1]", "model.blocks=[2]", "model.fourier=none"],
        ] {
            let set: Vec<String> = set.iter().map(|s| s.to_string()).collect();
            let config = resolve("digits", None, &set).unwrap();
            for channels in [1, 3] {
                let shape = ImageShape { channels, height: 8, width: 8 };
                let model = config.init(shape, Vocabulary::new(17).unwrap(), &Device::flex());
                assert_eq!(config.parameters(channels), model.num_params() as u128, "{set:?}, {channels} channels");
            }
        }
    }
}
