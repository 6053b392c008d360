//! Networks that predict the noise: eps_hat(z_t, gamma_t).
//!
//! [`ScoreUNet`] is the paper's network, of constant resolution; [`Hourglass`] computes most on smaller images; [`UNet`] is
//! the didactic one, which can attend to a control signal. Anything else that implements [`ScoreNetwork`] can take their place in a
//! [`VariationalDiffusion`](crate::VariationalDiffusion). What a network may know about an image besides z_t is its
//! [`Conditioning`].
//!
//! To add a network, write a file with a type that implements [`ScoreNetwork`] and its configuration, and name both in
//! `any.rs`; programs can then choose it by its `kind`.

mod any;
mod conditioning;
mod cost;
mod hourglass;
pub mod layers;
mod precision;
mod score_unet;
mod unet;

pub use any::{AnyNetwork, AnyNetworkConfig};
pub use conditioning::{Conditioning, ConditioningError};
pub use cost::Cost;
pub use hourglass::{Down, Hourglass, HourglassConfig, Up};
pub use precision::Precision;
pub use score_unet::{FourierFeatures, ResBlock, ScoreUNet, ScoreUNetConfig};
pub use unet::{ContextBlock, Control, ControlAttention, ControlConfig, UNet, UNetConfig, UNetLevel};

use crate::shape::ImageShape;
use burn::module::Module;
use burn::tensor::Tensor;

/// Whether dropout is applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// No dropout: evaluation and sampling.
    Eval,
    /// Dropout with masks drawn from this seed.
    Train {
        /// Seed of all masks of the forward pass.
        dropout_seed: u64,
    },
}

impl Mode {
    /// The seed of the mask of layer `layer`; `None` without dropout.
    pub fn seed_of(self, layer: usize) -> Option<u64> {
        match self {
            Self::Eval => None,
            Self::Train { dropout_seed } => Some(vdm_kernels::rng::Philox::new(dropout_seed, layer as u64).next_u64(0)),
        }
    }
}

/// A network that predicts the noise in z_t.
pub trait ScoreNetwork: Module {
    /// eps_hat.
    ///
    /// # Shapes
    /// - `z`: `[batch, channels, height, width]`
    /// - `time`: `[batch]`, gamma_t normalised to [0, 1] by the diffusion's endpoints
    /// - output: as `z`
    fn forward(&self, z: Tensor<4>, time: Tensor<1>, conditioning: &Conditioning, mode: Mode) -> Tensor<4>;

    /// Says why images of this shape do not fit the network, if they do not.
    ///
    /// # Errors
    /// The shape, and what it must be.
    fn check_shape(&self, _shape: ImageShape) -> Result<(), String> {
        Ok(())
    }

    /// The number of classes that the network distinguishes; 0 for a network that takes no class.
    fn classes(&self) -> usize {
        0
    }

    /// Whether the network takes an estimate of x. The model then makes one where the caller gives none: see
    /// [`VariationalDiffusion::predict_noise`](crate::VariationalDiffusion::predict_noise).
    fn self_conditioned(&self) -> bool {
        false
    }
}

/// Most channels inside a network of a configuration file.
const MAX_CHANNELS: usize = 1 << 13;
/// Most classes of a network of a configuration file.
const MAX_CLASSES: usize = 1 << 20;
/// Most levels: 2^15 pixels are more than any image's side.
const MAX_LEVELS: usize = 16;
/// Largest multiple of a level's channels in a configuration file.
const MAX_MULTIPLE: usize = 64;

/// Says that a value of a configuration is too large, if it is.
fn check_limit(key: &str, value: usize, most: usize) -> Result<(), String> {
    if value <= most { Ok(()) } else { Err(format!("{key} = {value} must be at most {most}")) }
}

/// Says why images of `found` channels do not fit a network for images of `expected`, if they do not.
fn check_channels(found: usize, expected: usize) -> Result<(), String> {
    if found == expected { Ok(()) } else { Err(format!("images of {found} channels, the network needs {expected}")) }
}

/// Says why the sides of an image cannot be halved from level to level, if they cannot.
fn check_sides(levels: usize, height: usize, width: usize) -> Result<(), String> {
    let unit = 1usize << (levels - 1);
    if height > 0 && width > 0 && height.is_multiple_of(unit) && width.is_multiple_of(unit) {
        return Ok(());
    }
    Err(format!(
        "images of {height}x{width} pixels do not fit: the {levels} levels of chn_mult halve the sides {} times, so \
         both must be divisible by {unit}; use fewer levels or another image size",
        levels - 1
    ))
}

/// Says why channels of each level, in units of the narrowest, cannot be, if they cannot.
fn check_levels(chn_mult: &[usize]) -> Result<(), String> {
    if (1..=MAX_LEVELS).contains(&chn_mult.len()) && !chn_mult.contains(&0) {
        return Ok(());
    }
    Err(format!("chn_mult = {chn_mult:?} must be 1 to {MAX_LEVELS} positive numbers"))
}

/// Says what levels and groups a configuration file must not ask for: a normalisation of one channel takes away whatever was
/// added to all of its pixels.
fn check_groups(norm_groups: usize, n_embd: usize, chn_mult: &[usize]) -> Result<(), String> {
    if chn_mult.iter().any(|&m| m > MAX_MULTIPLE) {
        return Err(format!("chn_mult = {chn_mult:?} must be numbers of at most {MAX_MULTIPLE}"));
    }
    if norm_groups == n_embd && chn_mult.contains(&1) {
        let reason = "norm_groups must be below n_embd where chn_mult has a 1: groups of one channel cancel the time and \
                      the class";
        return Err(reason.into());
    }
    Ok(())
}
