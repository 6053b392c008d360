//! The model of a run.

use super::{Checkpoint, CheckpointError};
use crate::config::{Config, ConfigError};
use crate::diffusion::VariationalDiffusion;
use crate::diffusion::error_model::TableError;
use crate::nn::AnyNetwork;
use crate::weights::{WeightsError, import};
use burn::tensor::Device;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

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
    let fresh = config.init(checkpoint.shape, checkpoint.vocabulary, device);
    let values = match weights {
        WhichWeights::Ema => &checkpoint.ema(),
        WhichWeights::Raw => &checkpoint.weights,
    };
    let model = import(fresh, values).map_err(|source| LoadError::Weights { path, source })?;
    Ok((model, checkpoint))
}
