//! The network that tells where eps_hat is wrong.

use crate::diffusion::process::{alpha, sigma};
use crate::math::{column, silu};
use crate::nn::layers::{Conv, Dense};
use burn::module::Module;
use burn::tensor::{Device, Tensor};

/// Channels of the hidden layers: the head is to take a few percent of the time of the network whose error it predicts.
const HIDDEN: usize = 32;
/// Sines and cosines of gamma, and gamma itself.
const WAVES: usize = 4;
const FEATURES: usize = 2 * WAVES + 1;
/// A range of gamma that no model leaves, which the longest wave has for its length.
const RANGE: f64 = 40.0;
/// The logarithm of the ratio to the mean error is kept between these.
const LOG_RATIO: (f64, f64) = (-12.0, 6.0);

/// Four convolutions on z_t, eps_hat and x_hat; the output is log(M / mean of M at this noise level) for each number.
#[derive(Module, Debug)]
pub struct ErrorHead {
    /// From the three images.
    pub conv_in: Conv,
    /// What gamma adds to its channels.
    pub shift_in: Dense,
    /// Between the hidden layers.
    pub conv_mid: Conv,
    /// What gamma adds to its channels.
    pub shift_mid: Dense,
    /// Once more.
    pub conv_last: Conv,
    /// To the logarithms, zero at first.
    pub conv_out: Conv,
}

impl ErrorHead {
    /// An untrained head, which says that all numbers have the mean error.
    pub fn new(channels: usize, device: &Device) -> Self {
        Self {
            conv_in: Conv::new(3 * channels, HIDDEN, 3, device),
            shift_in: Dense::new(FEATURES, HIDDEN, device),
            conv_mid: Conv::new(HIDDEN, HIDDEN, 3, device),
            shift_mid: Dense::new(FEATURES, HIDDEN, device),
            conv_last: Conv::new(HIDDEN, HIDDEN, 3, device),
            conv_out: Conv::zeros(HIDDEN, channels, 3, device),
        }
    }

    /// log(M / mean of M) for each number.
    ///
    /// # Shapes
    /// - `z`, `eps_hat`: `[batch, channels, height, width]`, as the output
    /// - `gammas`: one per image
    pub fn forward(&self, z: Tensor<4>, gammas: &[f64], eps_hat: Tensor<4>) -> Tensor<4> {
        let device = z.device();
        let per_image = |f: fn(f64) -> f64| {
            let numbers: Vec<f32> = gammas.iter().map(|&gamma| f(gamma) as f32).collect();
            column(Tensor::<1>::from_data(numbers.as_slice(), &device))
        };
        // x_hat is where z_t says nothing any more, too: there eps_hat is z_t.
        let x_hat = ((z.clone() - eps_hat.clone() * per_image(sigma)) / per_image(alpha)).clamp(-1.0, 1.0);
        let features: Vec<f32> = gammas.iter().flat_map(|&gamma| features(gamma)).collect();
        let features = Tensor::<1>::from_data(features.as_slice(), &device).reshape([gammas.len(), FEATURES]);
        let x = Tensor::cat(vec![z, eps_hat, x_hat], 1);
        let x = silu(self.conv_in.forward_shifted(x, self.shift_in.forward(features.clone())));
        let x = silu(self.conv_mid.forward_shifted(x, self.shift_mid.forward(features)));
        let x = silu(self.conv_last.forward(x));
        self.conv_out.forward(x).clamp(LOG_RATIO.0, LOG_RATIO.1)
    }
}

/// What the head is told of gamma.
fn features(gamma: f64) -> [f32; FEATURES] {
    let mut features = [0.0; FEATURES];
    features[2 * WAVES] = (gamma / 10.0) as f32;
    for wave in 0..WAVES {
        let angle = std::f64::consts::TAU * (1 << wave) as f64 * gamma / RANGE;
        features[2 * wave] = libm::sin(angle) as f32;
        features[2 * wave + 1] = libm::cos(angle) as f32;
    }
    features
}
