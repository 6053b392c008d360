//! Networks that predict the noise: eps_hat(z_t, gamma_t).
//!
//! [`ScoreUNet`] is the paper's network, of constant resolution; [`UNet`] halves the image from level to level, and can
//! attend to a control signal. Anything else that implements [`ScoreNetwork`] can take their place in a
//! [`VariationalDiffusion`](crate::VariationalDiffusion).

pub mod layers;
mod score_unet;
mod unet;

pub use score_unet::{FourierFeatures, ResBlock, ScoreUNet, ScoreUNetConfig};
pub use unet::{ContextBlock, Control, ControlAttention, ControlConfig, UNet, UNetConfig, UNetLevel};

use burn::module::Module;
use burn::tensor::Tensor;

/// What a network is told about an image besides z_t and the time. A network ignores what it has no input for.
#[derive(Clone, Debug, Default)]
pub struct Conditioning {
    /// One number an image, `[batch]`: 1 where augmentation changed the image, 0 where not. Zero if absent.
    pub scalar: Option<Tensor<1>>,
    /// What the attention of a [`UNet`] looks at. Zeros if absent.
    pub control: Option<Control>,
    /// An image of z_t's shape, such as an earlier estimate of x, for a [`UNet`] with self-conditioning. Zeros if
    /// absent.
    pub self_cond: Option<Tensor<4>>,
}

/// Whether dropout is at work.
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
    fn predict_noise(&self, z: Tensor<4>, time: Tensor<1>, conditioning: &Conditioning, mode: Mode) -> Tensor<4>;
}
