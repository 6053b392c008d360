//! Every stream of random numbers, in one place.
//!
//! All random numbers come from one counter-based generator ([`Philox`]). It is a function of a 64-bit *key*, a 64-bit
//! *stream*, a 32-bit *draw* and the position in the draw: there is no state to save or to share. So a result depends
//! neither on the batch size nor on the number of threads, and a stopped training resumes exactly.
//!
//! | what is drawn | key | stream | draws |
//! |---|---|---|---|
//! | sample number n | seed | n | [`DRAW_Z_1`]: z_1; i = 1, 2, …: the noise of step i; [`DRAW_DECODER`]: the levels |
//! | training step s, image i of the step | seed | [`in_round`]`(s, i)` | [`DRAW_EPS`], [`DRAW_EPS_0`]: noise; [`DRAW_AUGMENTATION`]; [`DRAW_LABEL`]: label dropout |
//! | training step s, times | seed | [`in_round`]`(s, `[`TIMES`]`)` | the number of the pass: times |
//! | training step s, dropout | seed | [`in_round`]`(s, `[`DROPOUT`]`)` | the number of the pass: a dropout seed |
//! | order of the images in epoch e | seed XOR [`SHUFFLE_KEY`] | e | i: where image i goes |
//! | part p of a batch, dropout | dropout seed | [`PART_SEEDS`] | p: the part's dropout seed |
//! | half of the passes of self-conditioning | (part's) dropout seed | [`ESTIMATE`] | 0: whether there is an estimate |
//! | masks of layer l = 1, 2, … | (part's) dropout seed | l | 0: the key of the layer's masks, one stream per image |
//! | [`draw_loss`](crate::VariationalDiffusion::draw_loss), image i of the batch | seed | i | [`DRAW_EPS`], [`DRAW_EPS_0`] |
//! | [`draw_loss`](crate::VariationalDiffusion::draw_loss), times | seed | [`DRAWN_TIMES`] | 0: times |
//! | evaluation, pass r, image i | seed | [`in_round`]`(r, i)` | [`DRAW_EPS`], [`DRAW_EPS_0`] |
//! | importance weighting, pass r, draw k of K, image i | seed XOR [`IMPORTANCE`] | [`in_round`]`(r K + k, i)` | T: z_1; s < T: the noise of step s |
//! | density of the flow, pass r, draw k of K, image i | seed XOR [`ODE`] | [`in_round`]`(r K + k, i)` | 0: z_0; 1, 2, …: the vectors of the trace |
//! | error model, step s from 1, image i of the step | seed XOR [`ERROR_MODEL`] | [`in_round`]`(s, i)` | 0: which image; [`DRAW_EPS`] |
//! | error model, step s from 1, times | seed XOR [`ERROR_MODEL`] | [`in_round`]`(s, `[`TIMES`]`)` | 0: u |
//! | error model, table, image i | seed XOR [`ERROR_MODEL`] | [`in_round`]`(0, i)` | [`DRAW_EPS`] |
//! | inpainting, draw n | seed XOR [`INPAINTING`] | n | 0: z_1; then the noises in their order |
//! | denoising, draw n | seed XOR [`DENOISING`] | n | i: the noise of step i |
//! | evaluation, pass r's shift | seed | [`in_round`]`(r, `[`TIMES`]`)` | 0: u |
//! | evaluation, order of the images in time | seed XOR [`SHUFFLE_KEY`] | [`RING`] | i: where image i goes |
//! | schedule variance, evaluation e, image i | seed | [`in_round`]`(e, i)` | [`DRAW_EPS`], [`DRAW_EPS_0`] |
//! | schedule variance, evaluation e, batch b | seed | [`in_round`]`(e, `[`TIMES`]` - b)` | 0: times |
//! | loss over time, bin b, image i | b | i | [`DRAW_EPS`], [`DRAW_EPS_0`] |
//! | choosing steps for the codec, point p, image i | p | i | [`DRAW_EPS`] |
//! | codec, first bits of a stream | stream's seed | [`FIRST_BITS`] | counts down |
//! | codec, masks of z_t in batch b | stream's seed | [`MASKS`] OR b 2^24 OR t | 0 |
//! | initial weights, random parameter n | seed XOR [`INITIAL`] | n | 0 |
//! | codec, inputs of the arithmetic's fingerprint | t | image | 0 |
//!

use crate::shape::ImageShape;
use burn::tensor::{Device, Tensor};
use vdm_kernels::rng::Philox;

/// What the seed of initial weights is combined with.
pub const INITIAL: u64 = 0x696e_6974_6961_6c21;

/// What the seed of an evaluation is combined with for importance weighting.
pub const IMPORTANCE: u64 = 0x494d_504f_5254_4e43;

/// What the seed of an evaluation is combined with for the density of the flow.
pub const ODE: u64 = 0x4f44_455f_464c_4f57;

/// What the seed is combined with for fitting an error model.
pub const ERROR_MODEL: u64 = 0x4552_524f_525f_4d4f;

/// What the seed is combined with for inpainting.
pub const INPAINTING: u64 = 0x494e_5041_494e_5421;

/// What the seed is combined with for denoising.
pub const DENOISING: u64 = 0x4445_4e4f_4953_4521;

/// Draw of a sample's z_1.
pub const DRAW_Z_1: u32 = 0;
/// Draw of the noise of z_t in the bound.
pub const DRAW_EPS: u32 = 1;
/// Draw of the noise of z_0 in the bound.
pub const DRAW_EPS_0: u32 = 2;
/// Draw of a training image's augmentation.
pub const DRAW_AUGMENTATION: u32 = 3;
/// Draw that decides whether a training image keeps its label.
pub const DRAW_LABEL: u32 = 4;
/// Draw of a sample's levels.
pub const DRAW_DECODER: u32 = u32::MAX;

/// In place of an image's number: the times of a round.
pub const TIMES: u64 = u32::MAX as u64;
/// In place of an image's number: the dropout seeds of a training step.
pub const DROPOUT: u64 = TIMES - 1;
/// Stream of the times of [`draw_loss`](crate::VariationalDiffusion::draw_loss).
pub const DRAWN_TIMES: u64 = u64::MAX;
/// Stream that decides whether a training pass gets an estimate of x. Its key may be that of [`DRAWN_TIMES`].
pub const ESTIMATE: u64 = u64::MAX - 1;
/// Stream of the dropout seeds of a batch's parts.
pub const PART_SEEDS: u64 = u64::MAX - 2;
/// Stream of the bits that a coded stream starts with.
pub const FIRST_BITS: u64 = 0x5645_524D_5F42_4954;
/// Upper bits of the streams of the words that hide one draw of the codec from another; the numbers of the batch and of
/// the step, at most 2^16, lie below.
pub const MASKS: u64 = 1 << 63;
/// Makes the keys of the data order differ from those of the steps.
pub const SHUFFLE_KEY: u64 = 0x5348_5546 << 32;

/// Stream of the images' order in time in an evaluation, apart from those of the epochs.
pub const RING: u64 = u64::MAX;

/// The stream of image `image` in round `round`: a training step, a pass of an evaluation.
pub fn in_round(round: u64, image: u64) -> u64 {
    round << 32 | image
}

/// Standard normal images, one from each stream: `[streams, channels, height, width]`.
pub fn normal(streams: &[Philox], draw: u32, shape: ImageShape, device: &Device) -> Tensor<4> {
    vdm_kernels::normal(streams, draw, shape.dims(), device).reshape(shape.batch(streams.len()))
}

/// A shuffle of 0..n (Fisher and Yates) that depends on the stream alone.
pub(crate) fn shuffled(n: usize, rng: &Philox) -> Vec<usize> {
    let mut order: Vec<usize> = (0..n).collect();
    for i in (1..n).rev() {
        // 64 random bits make the bias of the remainder negligible (below n / 2^64).
        order.swap(i, (rng.next_u64(i as u32) % (i as u64 + 1)) as usize);
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shuffle_is_a_permutation_that_differs_by_epoch() {
        let a = shuffled(1000, &Philox::new(1, 0));
        let b = shuffled(1000, &Philox::new(1, 1));
        assert_ne!(a, b);
        assert_eq!(a, shuffled(1000, &Philox::new(1, 0)));
        let mut sorted = a;
        sorted.sort_unstable();
        assert_eq!(sorted, (0..1000).collect::<Vec<_>>());
    }
}
