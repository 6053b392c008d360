//! What a network takes: computed from its configuration, without making it.

use super::layers::conv_parameters;
use std::iter::Sum;
use std::ops::{Add, Mul};

/// What one evaluation of one image takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Floating-point operations: two for each product of a convolution, a dense layer or an attention, counted as their plain
    /// sums; nothing else is. A training step takes three times as many, for the gradients of inputs and of weights.
    pub operations: u128,
    /// Numbers that a training keeps until the gradient is computed: the outputs of all operators.
    pub kept: u128,
}

impl Cost {
    /// A convolution with a kernel of side `k` to `pixels` pixels.
    pub(super) fn conv(c_in: usize, c_out: usize, k: usize, pixels: usize) -> Self {
        let products = (conv_parameters(c_in, c_out, k) - c_out as u128) * pixels as u128;
        Self { operations: 2 * products, kept: (c_out * pixels) as u128 }
    }

    /// A dense layer.
    pub(super) fn dense(d_in: usize, d_out: usize) -> Self {
        Self::conv(d_in, d_out, 1, 1)
    }

    /// An operator that keeps its output and has next to no products.
    pub(super) fn output(channels: usize, pixels: usize) -> Self {
        Self { operations: 0, kept: (channels * pixels) as u128 }
    }

    /// Softmax attention of `dim` channels in all: each token's product with each other's key, and with its value.
    pub(super) fn attention(dim: usize, tokens: usize) -> Self {
        Self { operations: 4 * dim as u128 * (tokens as u128).pow(2), kept: (dim * tokens) as u128 }
    }

    /// The same operations on the memory of an operator before: a sum onto a tensor that no one else needs.
    pub(super) fn in_place(self) -> Self {
        Self { kept: 0, ..self }
    }
}

impl Add for Cost {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { operations: self.operations + other.operations, kept: self.kept + other.kept }
    }
}

impl Mul<usize> for Cost {
    type Output = Self;

    fn mul(self, n: usize) -> Self {
        Self { operations: self.operations * n as u128, kept: self.kept * n as u128 }
    }
}

impl Sum for Cost {
    fn sum<I: Iterator<Item = Self>>(costs: I) -> Self {
        costs.fold(Self::default(), Self::add)
    }
}

#[cfg(test)]
mod tests {
    use crate::nn::{FourierFeatures, HourglassConfig, ScoreUNetConfig, UNetConfig};

    /// A network of four channels without layers, on 8x8 pixels.
    #[test]
    fn a_small_network_is_counted_by_hand() {
        let fourier = FourierFeatures::None;
        let config = ScoreUNetConfig { fourier, norm_groups: 2, ..ScoreUNetConfig::new(1, 4, 0) };
        let conv = |c_in: u128, c_out: u128| 2 * 9 * c_in * c_out * 64;
        let pointwise = |c_in: u128, c_out: u128| 2 * c_in * c_out * 64;
        // First and last, the two blocks of the middle, one on the way up; the maps and products of the attention.
        let convolutions = conv(1, 4) + conv(4, 1) + 4 * conv(4, 4) + conv(8, 4) + conv(4, 4) + pointwise(8, 4);
        let attention = 4 * pointwise(4, 4) + 4 * 4 * 64 * 64;
        // The time's two layers, and what each block adds.
        let dense = 2 * (5 * 16 + 16 * 16) + 3 * 2 * 16 * 4;
        let cost = config.cost(8, 8);
        assert_eq!(cost.operations, convolutions + attention + dense);
        // In pixels of a channel: first and last convolution and normalisation; in a block two normalisations, a convolution and
        // what the second adds to; in the attention a normalisation, four maps and the products.
        let of_pixels = (4 + 4 + 1) + 2 * (4 * 4) + (8 + 3 * 4) + 6 * 4;
        assert_eq!(cost.kept, 64 * of_pixels + 16 + 16 + 3 * 4);
    }

    /// Nearly all of the time of the paper's network for CIFAR-10 is in its 3x3 convolutions.
    #[test]
    fn the_papers_network_is_mostly_convolutions() {
        let cost = ScoreUNetConfig::new(3, 128, 32).cost(32, 32);
        let convolution = 2 * 9 * 128u128.pow(2) * 1024;
        // Two in each of 34 blocks on the way down and in the middle; on the way up 33, whose first has twice the inputs.
        let blocks = (2 * 34 + 3 * 33) * convolution;
        assert!(cost.operations > blocks && cost.operations < blocks + blocks / 10, "{}", cost.operations);
    }

    /// Two levels of four and eight channels, on 8x8 and 4x4 pixels.
    #[test]
    fn a_small_unet_is_counted_by_hand() {
        let chn_mult = vec![1, 2];
        let config = UNetConfig { chn_mult, attn_dim: 8, norm_groups: 2, heads: 1, ..UNetConfig::new(1, 4) };
        let conv = |c_in: u128, c_out: u128, k: u128, pixels: u128| 2 * k * k * c_in * c_out * pixels;
        let block = |c_in: u128, c_out: u128, pixels: u128| {
            let skip = if c_in == c_out { 0 } else { conv(c_in, c_out, 1, pixels) };
            conv(c_in, c_out, 3, pixels) + conv(c_out, c_out, 3, pixels) + skip + 2 * 16 * c_out
        };
        let down = 2 * block(4, 4, 64) + conv(4, 4, 4, 16) + 2 * block(4, 4, 16) + conv(4, 8, 3, 16);
        let middle = 2 * block(8, 8, 16) + 4 * conv(8, 8, 1, 16) + 4 * 8 * 16 * 16;
        // The image is doubled before the last convolution of the smaller level.
        let up = 2 * block(12, 8, 16) + conv(8, 4, 3, 64) + 2 * block(8, 4, 64) + conv(4, 4, 3, 64);
        let ends = conv(1, 4, 7, 64) + block(8, 4, 64) + conv(4, 1, 1, 64) + 2 * (4 * 16 + 16 * 16);
        assert_eq!(config.cost(8, 8).operations, down + middle + up + ends);
    }

    /// Two levels of four and eight channels, on 8x8 and 4x4 pixels.
    #[test]
    fn a_small_hourglass_is_counted_by_hand() {
        let config = HourglassConfig {
            n_embd: 4,
            chn_mult: vec![1, 2],
            blocks: vec![1, 2],
            fourier: FourierFeatures::None,
            norm_groups: 2,
            ..Default::default()
        };
        let conv = |c_in: u128, c_out: u128, k: u128, pixels: u128| 2 * k * k * c_in * c_out * pixels;
        let block = |c: u128, pixels: u128| 2 * conv(c, c, 3, pixels) + 2 * 16 * c;
        let large = 2 * block(4, 64) + conv(4, 8, 4, 16) + conv(8, 4, 1, 16);
        let small = 4 * block(8, 16) + 4 * conv(8, 8, 1, 16) + 4 * 8 * 16 * 16;
        let ends = 2 * conv(1, 4, 3, 64) + 2 * (5 * 16 + 16 * 16);
        let cost = config.cost(8, 8);
        assert_eq!(cost.operations, large + small + ends);
        // In a block two normalisations, a convolution and what the second adds to; on the way up a normalisation, the map, its
        // double and the sum.
        let of_large = 2 * 4 * 4 + 2 * 4 + (4 + 4 + 1);
        let of_small = 4 * 4 * 8 + 8 + (8 + 4) + 6 * 8;
        assert_eq!(cost.kept, 64 * of_large + 16 * of_small + 16 + 16 + 2 * 4 + 4 * 8);
    }
}
