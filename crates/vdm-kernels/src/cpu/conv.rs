//! Convolutions: 3x3 of stride 1 by [`super::winograd`], 1x1 as one matrix product an image, and others as one matrix product
//! of the image's patches, laid out as columns.
//!
//! Images are independent and run in parallel. In the backward pass a fixed number of groups of images each collect a
//! partial weight gradient, and the partial sums are added in order.

use super::layout::Layout;
use super::math;
use super::matmul::{matmul, transpose};
use super::patches::{self, Patches};
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
    /// Height of the images that come in.
    pub h: usize,
    /// Their width.
    pub w: usize,
    /// Side of the kernel; the images are padded by (k - 1) / 2 zeros.
    pub k: usize,
    /// Pixels from one output to the next.
    pub stride: usize,
}

impl Spec {
    fn pixels(&self) -> usize {
        self.h * self.w
    }

    fn patches(&self) -> Patches {
        Patches { channels: self.ci, h: self.h, w: self.w, k: self.k, stride: self.stride }
    }

    /// Height and width of the images that come out.
    pub fn output(&self) -> [usize; 2] {
        self.patches().output()
    }

    fn output_pixels(&self) -> usize {
        self.output().iter().product()
    }

    fn kind(&self) -> Kind {
        match (self.k, self.stride) {
            (1, 1) => Kind::Pointwise,
            (3, 1) => Kind::Winograd,
            _ => Kind::Patches,
        }
    }

    fn grid(&self, images: usize) -> Grid {
        Grid { images, h: self.h, w: self.w }
    }

    /// Images that one task takes together.
    fn together(&self) -> usize {
        if self.kind() == Kind::Winograd { Grid::images_of_block(self.h, self.w) } else { 1 }
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

/// How a convolution is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Pointwise,
    Winograd,
    Patches,
}

/// A weight, ready for use with one image after another.
#[derive(Debug)]
pub struct Ready(Prepared);

impl Ready {
    /// Makes `weight [co, ci, k, k]` ready for [`forward`].
    pub fn new(s: &Spec, weight: &[f32]) -> Self {
        Self(Prepared::new(s, weight))
    }

    /// Whether making it ready is work enough to remember it.
    pub fn worth_remembering(s: &Spec) -> bool {
        s.kind() == Kind::Winograd
    }
}

#[derive(Debug)]
enum Prepared {
    /// A matrix for the pixels or patches.
    Matrix(Vec<f32>),
    Winograd(Weight),
}

impl Prepared {
    fn new(s: &Spec, weight: &[f32]) -> Self {
        match s.kind() {
            Kind::Winograd => Self::Winograd(Weight::new(weight, s.ci, s.co)),
            Kind::Pointwise | Kind::Patches => Self::Matrix(weight.to_vec()),
        }
    }

    /// The weight of the gradient for x: outputs and inputs exchanged, and for Winograd's method taps in reverse order.
    fn flipped(s: &Spec, weight: &[f32]) -> Self {
        match s.kind() {
            Kind::Winograd => Self::Winograd(Weight::flipped(weight, s.ci, s.co)),
            Kind::Pointwise | Kind::Patches => Self::Matrix(transpose(weight, s.ci * s.k * s.k)),
        }
    }
}

/// `x [B, ci, h, w]`, the weight [`Ready`], `bias [B, co]` or `[1, co]` -> `y [B, co, h', w']`, or added to `y` with
/// `add`.
pub fn forward(s: &Spec, x: &[f32], weight: &Ready, bias: &[f32], y: &mut [f32], add: bool) {
    let shared = bias.len() == s.co;
    let bias = if shared { bias.repeat(s.batch) } else { bias.to_vec() };
    let n = s.together();
    y.par_chunks_mut(n * s.co * s.output_pixels())
        .zip(x.par_chunks(n * s.ci * s.pixels()))
        .zip(bias.par_chunks(n * s.co))
        .for_each(|((y, x), bias)| {
            Scratch::with(|scratch| convolve(s, x, &weight.0, bias, y, add, scratch));
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
    let (pixels, output, group) = (s.pixels(), s.output_pixels(), s.group());
    let groups = s.batch.div_ceil(group);
    let rows = s.ci * s.k * s.k;
    let part = if s.kind() == Kind::Winograd { Weight::gradient_len(s.ci, s.co) } else { s.co * rows };
    let flipped = Prepared::flipped(s, weight);
    let n = s.together();
    let mut partial = vec![0f32; groups * part];
    partial
        .par_chunks_mut(part)
        .zip(chunks_or_empty(dx, group * s.ci * pixels, groups))
        .zip(x.par_chunks(group * s.ci * pixels))
        .zip(dy.par_chunks(group * s.co * output))
        .for_each(|(((dw, dx), x), dy)| {
            Scratch::with(|scratch| {
                let size = n * s.ci * pixels;
                let dx_blocks = chunks_or_empty(dx, size, x.len().div_ceil(size));
                let blocks = x.chunks(size).zip(dy.chunks(n * s.co * output));
                for ((x, dy), dx) in blocks.zip(dx_blocks) {
                    match &flipped {
                        Prepared::Winograd(flipped) => {
                            let grid = s.grid(x.len() / (s.ci * pixels));
                            winograd::backward(grid, x, dy, flipped, dw, dx, scratch);
                        }
                        Prepared::Matrix(transposed) => {
                            let (lx, ly) = (Layout::row_major(rows, output), Layout::row_major(s.co, output));
                            let lw = Layout::row_major(s.co, rows);
                            let pointwise = s.kind() == Kind::Pointwise;
                            let columns =
                                if pointwise { x } else { patches::unroll(&s.patches(), x, scratch.columns()) };
                            matmul(true, dy, ly, columns, lx.transposed(), dw, lw);
                            if dx.is_empty() {
                                continue;
                            }
                            if pointwise {
                                matmul(false, transposed, lw.transposed_copy(), dy, ly, dx, lx);
                            } else {
                                let columns = patches::room(&s.patches(), scratch.columns());
                                matmul(false, transposed, lw.transposed_copy(), dy, ly, columns, lx);
                                patches::roll(&s.patches(), columns, dx);
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
    if s.kind() == Kind::Winograd {
        Weight::gradient(sum, s.ci, s.co, dweight);
    } else {
        dweight.copy_from_slice(sum);
    }
    let shared = dbias.len() == s.co;
    dbias.fill(0.0);
    for (i, dy) in dy.chunks_exact(output).enumerate() {
        dbias[if shared { i % s.co } else { i }] += math::sum(dy) as f32;
    }
}

/// The `count` chunks of `size` of a gradient, or as many empty slices where none is wanted: one loop for both cases.
fn chunks_or_empty(dx: &mut [f32], size: usize, count: usize) -> Vec<&mut [f32]> {
    let mut chunks: Vec<&mut [f32]> = dx.chunks_mut(size).collect();
    chunks.resize_with(count, Default::default);
    chunks
}

/// `y [images, co, h', w']` = `bias [images, co]` + weight * `x [images, ci, h, w]`, or += with `add`; one image only but
/// for Winograd's method.
fn convolve(s: &Spec, x: &[f32], weight: &Prepared, bias: &[f32], y: &mut [f32], add: bool, scratch: &mut Scratch) {
    match weight {
        Prepared::Winograd(weight) => winograd::convolve(s.grid(bias.len() / s.co), x, weight, bias, y, add, scratch),
        Prepared::Matrix(weight) => {
            let (rows, output) = (s.ci * s.k * s.k, s.output_pixels());
            for (y, &b) in y.chunks_exact_mut(output).zip(bias) {
                if add {
                    y.iter_mut().for_each(|y| *y += b);
                } else {
                    y.fill(b);
                }
            }
            let columns =
                if s.kind() == Kind::Pointwise { x } else { patches::unroll(&s.patches(), x, scratch.columns()) };
            let (lx, ly) = (Layout::row_major(rows, output), Layout::row_major(s.co, output));
            matmul(true, weight, Layout::row_major(s.co, rows), columns, lx, y, ly);
        }
    }
}
