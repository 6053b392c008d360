//! One type for every network of this module, for programs that learn only from a configuration which one they have.

use super::{Conditioning, Mode, ScoreNetwork, ScoreUNet, ScoreUNetConfig, UNet, UNetConfig};
use crate::data::ImageShape;
use burn::module::Module;
use burn::tensor::{Device, Tensor};

/// The configuration of any network.
#[derive(Clone, Debug, PartialEq)]
pub enum AnyNetworkConfig {
    /// See [`ScoreUNetConfig`].
    Score(ScoreUNetConfig),
    /// See [`UNetConfig`].
    UNet(UNetConfig),
}

impl AnyNetworkConfig {
    /// Says what is wrong with the configuration, if anything.
    ///
    /// # Errors
    /// The key, its value, and what it must be.
    pub fn validate(&self) -> Result<(), String> {
        match self {
            Self::Score(config) => config.validate(),
            Self::UNet(config) => config.validate(),
        }
    }

    /// Says why images of this size do not fit, if they do not.
    ///
    /// # Errors
    /// See [`UNetConfig::validate_image`].
    pub fn validate_image(&self, height: usize, width: usize) -> Result<(), String> {
        match self {
            Self::Score(config) => config.validate(),
            Self::UNet(config) => config.validate_image(height, width),
        }
    }

    /// Makes the network on `device`, with the device's random numbers.
    ///
    /// # Panics
    /// If [`validate`](Self::validate) fails.
    pub fn init(&self, device: &Device) -> AnyNetwork {
        match self {
            Self::Score(config) => AnyNetwork::Score(config.init(device)),
            Self::UNet(config) => AnyNetwork::UNet(config.init(device)),
        }
    }
}

/// Any network of this module.
// A model holds one network, so the variants' difference in size costs nothing.
#[allow(clippy::large_enum_variant)]
#[derive(Module, Debug)]
pub enum AnyNetwork {
    /// See [`ScoreUNet`].
    Score(ScoreUNet),
    /// See [`UNet`].
    UNet(UNet),
}

impl ScoreNetwork for AnyNetwork {
    fn predict_noise(&self, z: Tensor<4>, time: Tensor<1>, conditioning: &Conditioning, mode: Mode) -> Tensor<4> {
        match self {
            Self::Score(network) => network.predict_noise(z, time, conditioning, mode),
            Self::UNet(network) => network.predict_noise(z, time, conditioning, mode),
        }
    }

    fn check_shape(&self, shape: ImageShape) -> Result<(), String> {
        match self {
            Self::Score(network) => network.check_shape(shape),
            Self::UNet(network) => network.check_shape(shape),
        }
    }

    fn classes(&self) -> usize {
        match self {
            Self::Score(network) => network.classes(),
            Self::UNet(network) => network.classes(),
        }
    }

    fn self_conditioned(&self) -> bool {
        match self {
            Self::Score(network) => network.self_conditioned(),
            Self::UNet(network) => network.self_conditioned(),
        }
    }
}
