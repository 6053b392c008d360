//! What a training and its workers tell each other.

use crate::config::Config;
use crate::diffusion::Vocabulary;
use crate::run::Model;
use crate::shape::ImageShape;
use crate::weights::{self, HostTensor};
use burn::tensor::{Device, Tensor};
use serde::{Deserialize, Serialize};

/// The first message to a worker.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Hello {
    pub version: String,
    /// The run's `config.toml`.
    pub config: String,
    /// Channels, height and width.
    pub shape: [usize; 3],
    pub levels: usize,
}

/// What a worker is to compute with the weights that come with it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Work {
    pub parts: Vec<PartHead>,
}

/// A part of a batch without its tensors; numbers in double precision as their bits.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PartHead {
    pub times: Vec<u64>,
    pub weights: Option<Vec<u64>>,
    pub classes: Option<Vec<Option<u32>>>,
    pub dropout_seed: u64,
    /// How much the part's gradient counts.
    pub weight: u64,
}

/// What a worker answers.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Answer {
    /// To [`Hello`]: its version.
    Ready(String),
    /// To [`Work`]: the gradients are the tensors.
    Done,
    /// The reason.
    Refused(String),
}

/// The version that both sides must have.
pub(super) fn version() -> String {
    env!("CARGO_PKG_VERSION").to_string()
}

/// The prefix of the names of part `i`'s tensors.
pub(super) fn of_part(i: usize) -> String {
    format!("{i}.")
}

/// A tensor on the host.
pub(super) fn host_tensor<const D: usize>(tensor: &Tensor<D>) -> HostTensor {
    weights::host_tensor(tensor.to_data())
}

/// The model that a training of this configuration has, with autodiff.
pub(super) fn model_of(config: &Config, shape: ImageShape, vocabulary: Vocabulary, device: &Device) -> Model {
    config.init(shape, vocabulary, &device.clone().autodiff())
}
