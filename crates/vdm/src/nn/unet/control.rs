//! What the attention of a U-Net can look at besides the image itself.

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

/// Which control signal the attention of a [`UNet`](super::UNet) looks at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum ControlConfig {
    /// None: self-attention.
    #[default]
    None,
    /// A sequence of vectors, such as an encoded text.
    Sequence {
        /// Length of the vectors.
        dim: usize,
    },
    /// An image, of any resolution.
    Image {
        /// Its channels.
        dim: usize,
    },
}

impl ControlConfig {
    /// The channels that keys and values come from, for an image of `channels` channels.
    pub(super) fn source(self, channels: usize) -> usize {
        match self {
            Self::None => channels,
            Self::Sequence { dim } | Self::Image { dim } => dim,
        }
    }
}

/// A control signal for a batch of images.
#[derive(Clone, Debug)]
pub enum Control {
    /// `[batch, length, dim]`, at least one vector long.
    Sequence(Tensor<3>),
    /// `[batch, dim, height, width]`.
    Image(Tensor<4>),
}

impl ControlConfig {
    /// The control of a batch like `z` as an image: a sequence is one pixel wide, an absent control is zeros. `None`
    /// for self-attention.
    ///
    /// # Shapes
    /// - `z`: `[batch, any, any, any]`
    /// - output: `[batch, dim, any, any]`
    ///
    /// # Panics
    /// If the control is of another kind, batch or width, or empty.
    pub(super) fn image(self, control: Option<Control>, z: &Tensor<4>) -> Option<Tensor<4>> {
        let batch = z.dims()[0];
        let check = |found: [usize; 2], tokens: usize, dim: usize| {
            let wanted = [batch, dim];
            assert!(found == wanted, "UNet: the control is of [batch, dim] = {found:?}, not {wanted:?}");
            assert!(tokens > 0, "UNet: the control is empty");
        };
        match (self, control) {
            (Self::None, _) => None,
            // All tokens being alike, one stands for any number of them.
            (Self::Sequence { dim } | Self::Image { dim }, None) => {
                Some(Tensor::zeros([batch, dim, 1, 1], &z.device()))
            }
            (Self::Sequence { dim }, Some(Control::Sequence(tokens))) => {
                let [b, length, d] = tokens.dims();
                check([b, d], length, dim);
                Some(tokens.swap_dims(1, 2).reshape([b, d, length, 1]))
            }
            (Self::Image { dim }, Some(Control::Image(image))) => {
                let [b, d, h, w] = image.dims();
                check([b, d], h * w, dim);
                Some(image)
            }
            (Self::Sequence { .. }, Some(Control::Image(_))) => {
                panic!("UNet: the control must be a sequence, not an image")
            }
            (Self::Image { .. }, Some(Control::Sequence(_))) => {
                panic!("UNet: the control must be an image, not a sequence")
            }
        }
    }
}
