//! All networks in one type, for programs that learn which one they have from a configuration.
//!
//! A new network gets a variant of each of the two types, and a line in `each`.

use super::{
    Conditioning, Cost, Hourglass, HourglassConfig, Mode, ScoreNetwork, ScoreUNet, ScoreUNetConfig, UNet, UNetConfig,
};
use crate::shape::ImageShape;
use burn::module::Module;
use burn::tensor::{Device, Tensor};
use serde::{Deserialize, Serialize};

/// The same expression for every network, or for every configuration.
macro_rules! each {
    ($any:expr, $type:ident, $one:ident => $value:expr) => {
        match $any {
            $type::Score($one) => $value,
            $type::UNet($one) => $value,
            $type::Hourglass($one) => $value,
        }
    };
}

/// The configuration of any network: a table with the key `kind` and the keys of that kind.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum AnyNetworkConfig {
    /// The paper's, of constant resolution: see [`ScoreUNetConfig`].
    Score(ScoreUNetConfig),
    /// One that halves the image from level to level: see [`UNetConfig`].
    #[serde(rename = "unet")]
    UNet(UNetConfig),
    /// One of several resolutions, fast on a CPU: see [`HourglassConfig`].
    Hourglass(HourglassConfig),
}

impl AnyNetworkConfig {
    /// The number of parameters of the network for images of `channels` channels, counted without making it: a file that
    /// asks for a network of more parameters than it brings is refused before any memory is taken.
    pub fn parameters(&self, channels: usize) -> u128 {
        each!(self, Self, config => config.for_channels(channels).parameters())
    }

    /// What one evaluation of an image of this shape takes.
    pub fn cost(&self, shape: ImageShape) -> Cost {
        each!(self, Self, config => config.for_channels(shape.channels).cost(shape.height, shape.width))
    }

    /// Says what is wrong with the configuration, if anything.
    ///
    /// # Errors
    /// The key, its value, and what it must be.
    pub fn validate(&self) -> Result<(), String> {
        each!(self, Self, config => config.validate().and_then(|()| config.check_limits()))
    }

    /// Says why images of this shape do not fit, if they do not.
    ///
    /// # Errors
    /// See [`UNetConfig::validate_image`].
    pub fn validate_shape(&self, shape: ImageShape) -> Result<(), String> {
        each!(self, Self, config => config.for_channels(shape.channels).validate_image(shape.height, shape.width))
    }

    /// The number of classes that the network distinguishes; 0 for a network that takes no class.
    pub fn classes(&self) -> usize {
        each!(self, Self, config => config.classes)
    }

    /// The same network with another number of classes.
    pub fn set_classes(&mut self, classes: usize) {
        each!(self, Self, config => config.classes = classes)
    }

    /// Makes the network for images of `channels` channels on `device`, with the device's random numbers.
    ///
    /// # Panics
    /// If [`validate`](Self::validate) fails.
    pub fn init(&self, channels: usize, device: &Device) -> AnyNetwork {
        match self {
            Self::Score(config) => AnyNetwork::Score(config.for_channels(channels).init(device)),
            Self::UNet(config) => AnyNetwork::UNet(config.for_channels(channels).init(device)),
            Self::Hourglass(config) => AnyNetwork::Hourglass(config.for_channels(channels).init(device)),
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
    /// See [`Hourglass`].
    Hourglass(Hourglass),
}

impl ScoreNetwork for AnyNetwork {
    fn forward(&self, z: Tensor<4>, time: Tensor<1>, conditioning: &Conditioning, mode: Mode) -> Tensor<4> {
        each!(self, Self, network => ScoreNetwork::forward(network, z, time, conditioning, mode))
    }

    fn check_shape(&self, shape: ImageShape) -> Result<(), String> {
        each!(self, Self, network => network.check_shape(shape))
    }

    fn classes(&self) -> usize {
        each!(self, Self, network => network.classes())
    }

    fn self_conditioned(&self) -> bool {
        each!(self, Self, network => network.self_conditioned())
    }
}
