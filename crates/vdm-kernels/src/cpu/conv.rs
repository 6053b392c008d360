//! Convolutions 3x3 (padding 1) and 1x1, stride 1: 3x3 by [`super::winograd`], 1x1 as one matrix product an image.
//!
//! Images are independent and run in parallel. In the backward pass a fixed number of groups of images each collect a
//! partial weight gradient, and the partial sums are added in order.

use super::layout::Layout;
use super::math;
use super::matmul::{matmul, transpose};
use super::winograd::{self, Grid, Scratch, Weight};
use rayon::prelude::*;

/// Most partial weight gradients that are kept at a time.
const MAX_GROUPS: usize = 8;

/// Blocks of tiles that a group of small images has at least.
const MIN_BLOCKS: usize = 2;

/// The shape of a convolution.
#[derive(Clone, Copy, Debug)]
pub struct Spec {
    /// Images.
    pub batch: usize,
    /// Channels in.
    pub ci: usize,
    /// Channels out.
    pub co: usize,
    /// Image height.
    pub h: usize,
    /// Image width.
    pub w: usize,
    /// Side of the kernel, 1 or 3.
    pub k: usize,
}

impl Spec {
    fn pixels(&self) -> usize {
        self.h * self.w
    }

    fn grid(&self, images: usize) -> Grid {
        Grid { images, h: self.h, w: self.w }
    }

    /// Images that one task takes together.
    fn together(&self) -> usize {
        if self.k == 1 { 1 } else { Grid::images_of_block(self.h, self.w) }
    }

    /// Images of one group of the backward pass: depends on the batch alone, never on threads. Small images come in
    /// groups of some blocks, since every group has a weight gradient of its own.
    fn group(&self) -> usize {
        self.batch
            .div_ceil(MAX_GROUPS)
            .max(MIN_BLOCKS * Grid::images_of_block(self.h, self.w))
            .clamp(1, self.batch.max(1))
    }
}

/// A weight, ready for use with one image after another.
enum Prepared {
    Pointwise(Vec<f32>),
    Winograd(Weight),
}

impl Prepared {
    fn new(s: &Spec, weight: &[f32]) -> Self {
        if s.k == 1 { Self::Pointwise(weight.to_vec()) } else { Self::Winograd(Weight::new(weight, s.ci, s.co)) }
    }

    /// The weight of the gradient for x: outputs and inputs exchanged, taps in reverse order.
    fn flipped(s: &Spec, weight: &[f32]) -> Self {
        if s.k == 1 {
            Self::Pointwise(transpose(weight, s.ci))
        } else {
            Self::Winograd(Weight::flipped(weight, s.ci, s.co))
        }
    }
}

/// `x [B, ci, h, w]`, `weight [co, ci, k, k]`, `bias [B, co]` or `[1, co]` -> `y [B, co, h, w]`, or added to `y` with
/// `add`.
pub fn forward(s: &Spec, x: &[f32], weight: &[f32], bias: &[f32], y: &mut [f32], add: bool) {
    let shared = bias.len() == s.co;
    let weight = Prepared::new(s, weight);
    let bias = if shared { bias.repeat(s.batch) } else { bias.to_vec() };
    let n = s.together();
    y.par_chunks_mut(n * s.co * s.pixels())
        .zip(x.par_chunks(n * s.ci * s.pixels()))
        .zip(bias.par_chunks(n * s.co))
        .for_each(|((y, x), bias)| {
            Scratch::with(|scratch| convolve(s.grid(bias.len() / s.co), x, &weight, bias, y, add, scratch));
        });
}

/// Gradients of [`forward`]; all outputs are overwritten.
///
/// `dx [B, ci, h, w]` may be empty: then it is not computed. `dweight [co, ci, k, k]`; `dbias` as `bias` was.
pub fn backward(
    s: &Spec,
    x: &[f32],
    weight: &[f32],
    dy: &[f32],
    dx: &mut [f32],
    dweight: &mut [f32],
    dbias: &mut [f32],
) {
    let (pixels, group) = (s.pixels(), s.group());
    let groups = s.batch.div_ceil(group);
    let part = if s.k == 1 { s.co * s.ci } else { Weight::gradient_len(s.ci, s.co) };
    let flipped = Prepared::flipped(s, weight);
    let n = s.together();
    let mut partial = vec![0f32; groups * part];
    partial
        .par_chunks_mut(part)
        .zip(chunks_or_empty(dx, group * s.ci * pixels, groups))
        .zip(x.par_chunks(group * s.ci * pixels))
        .zip(dy.par_chunks(group * s.co * pixels))
        .for_each(|(((dw, dx), x), dy)| {
            Scratch::with(|scratch| {
                let size = n * s.ci * pixels;
                let dx_blocks = chunks_or_empty(dx, size, x.len().div_ceil(size));
                let blocks = x.chunks(size).zip(dy.chunks(n * s.co * pixels));
                for ((x, dy), dx) in blocks.zip(dx_blocks) {
                    match &flipped {
                        Prepared::Winograd(flipped) => {
                            let grid = s.grid(x.len() / (s.ci * pixels));
                            winograd::backward(grid, x, dy, flipped, dw, dx, scratch);
                        }
                        Prepared::Pointwise(transposed) => {
                            let (lx, ly) = (Layout::row_major(s.ci, pixels), Layout::row_major(s.co, pixels));
                            let lw = Layout::row_major(s.co, s.ci);
                            matmul(true, dy, ly, x, lx.transposed(), dw, lw);
                            if !dx.is_empty() {
                                matmul(false, transposed, lw.transposed_copy(), dy, ly, dx, lx);
                            }
                        }
                    }
                }
            })
        });
    let (sum, rest) = partial.split_at_mut(part);
    for part in rest.chunks_exact(part) {
        math::add(part, sum);
    }
    if s.k == 1 {
        dweight.copy_from_slice(sum);
    } else {
        Weight::gradient(sum, s.ci, s.co, dweight);
    }
    let shared = dbias.len() == s.co;
    dbias.fill(0.0);
    for (i, dy) in dy.chunks_exact(pixels).enumerate() {
        dbias[if shared { i % s.co } else { i }] += math::sum(dy) as f32;
    }
}

/// The `count` chunks of `size` of a gradient, or as many empty slices where none is wanted: one loop for both cases.
fn chunks_or_empty(dx: &mut [f32], size: usize, count: usize) -> Vec<&mut [f32]> {
    let mut chunks: Vec<&mut [f32]> = dx.chunks_mut(size).collect();
    chunks.resize_with(count, Default::default);
    chunks
}

/// `y [images, co, h, w]` = `bias [images, co]` + weight * `x [images, ci, h, w]`, or += with `add`; one image only for
/// 1x1.
fn convolve(grid: Grid, x: &[f32], weight: &Prepared, bias: &[f32], y: &mut [f32], add: bool, scratch: &mut Scratch) {
    match weight {
        Prepared::Winograd(weight) => winograd::convolve(grid, x, weight, bias, y, add, scratch),
        Prepared::Pointwise(weight) => {
            let pixels = grid.h * grid.w;
            let (ci, co) = (x.len() / pixels, y.len() / pixels);
            for (y, &b) in y.chunks_exact_mut(pixels).zip(bias) {
                if add {
                    y.iter_mut().for_each(|y| *y += b);
                } else {
                    y.fill(b);
                }
            }
            let (lx, ly) = (Layout::row_major(ci, pixels), Layout::row_major(co, pixels));
            matmul(true, weight, Layout::row_major(co, ci), x, lx, y, ly);
        }
    }
}
