//! Convolutions: 3x3 of stride 1 by [`super::winograd`], 1x1 as one matrix product an image, and others as one matrix product
//! of the image's patches, laid out as columns.
//!
//! Images are independent and run in parallel. In the backward pass a fixed number of groups of images each collect a
//! partial weight gradient, and the partial sums are added in order.

use super::beside::{Beside, BesideMut};
use super::lanes::{Base, LANES};
use super::layout::Layout;
use super::math;
use super::matmul::{matmul, transpose};
use super::patches::{self, Patches};
use super::winograd::{self, Grid, Scratch, Weight};
use rayon::prelude::*;
use std::cell::Cell;

/// Most partial weight gradients that are kept at a time.
const MAX_GROUPS: usize = 8;

/// Blocks of tiles that a group of small images has at least.
const MIN_BLOCKS: usize = 2;

/// Products of a matrix, in a convolution that is not by Winograd's method, that are worth a thread's start.
const MATRIX_PRODUCTS: usize = 1 << 18;

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

    /// Whether the channels of an input may lie in two tensors, the first of `channels` channels.
    pub fn takes_two(&self, channels: usize) -> bool {
        match self.kind() {
            Kind::Pointwise => true,
            Kind::Winograd => channels.is_multiple_of(LANES),
            Kind::Patches => false,
        }
    }

    /// The weights of some inputs, from `first` on, in the matrix of a kernel of one pixel.
    fn columns(&self, first: usize, inputs: usize) -> Layout {
        Layout { offset: first, row_stride: self.ci, ..Layout::row_major(self.co, inputs) }
    }

    /// Outputs are not zeroed before they are written, so all of them must be.
    fn check(&self, x: Beside, bias: &[f32], y: &[f32]) {
        let [a, b] = x.channels;
        assert!(a + b == self.ci && (b == 0 || self.takes_two(a)), "{self:?} of {a} and {b} channels");
        let images = self.batch * self.pixels();
        assert!(x.first.len() >= a * images && x.second.len() >= b * images, "{self:?}: the input is too short");
        assert!(bias.len() == self.co || bias.len() == self.batch * self.co, "{self:?}: {} biases", bias.len());
        assert!(y.len() == self.batch * self.co * self.output_pixels(), "{self:?}: {} outputs", y.len());
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

    /// Makes it ready for [`backward`].
    pub fn flipped(s: &Spec, weight: &[f32]) -> Self {
        Self(Prepared::flipped(s, weight))
    }

    /// Whether making it ready is work enough to remember it. Outside of training the same weight comes `again` at every step:
    /// all of Winograd's are remembered. In training only the parts of one batch have the same weight: it is remembered where
    /// a part has so few tiles that the transform takes long beside the products, and where it takes little memory.
    pub fn worth_remembering(s: &Spec, again: bool) -> bool {
        let tiles = s.grid(s.batch).all_tiles();
        let small = s.ci * s.co <= 1 << 16;
        s.kind() == Kind::Winograd && (again || small && (tiles <= 16 || tiles * s.ci * s.co <= 1 << 18))
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

    /// The weight of the gradient for x: outputs and inputs exchanged, and for Winograd's method taps in reverse order. (A
    /// matrix could be read so where it lies; copied first, its products are a little faster.)
    fn flipped(s: &Spec, weight: &[f32]) -> Self {
        match s.kind() {
            Kind::Winograd => Self::Winograd(Weight::flipped(weight, s.ci, s.co)),
            Kind::Pointwise | Kind::Patches => Self::Matrix(transpose(weight, s.ci * s.k * s.k)),
        }
    }
}

/// `x [B, ci, h, w]`, the weight [`Ready`], `bias [B, co]` or `[1, co]` -> `y [B, co, h', w']`, added to `base`, which has the
/// shape of `y`.
///
/// # Panics
/// If a slice is of another length than the shapes say, or the channels of `x` lie in two tensors and
/// [`takes_two`](Spec::takes_two) says no.
pub fn forward(s: &Spec, x: Beside, weight: &Ready, bias: &[f32], base: Base, y: &mut [f32]) {
    s.check(x, bias, y);
    if let Base::Of(base) = base {
        assert!(base.len() == y.len(), "{s:?}: {} numbers to add to", base.len());
    }
    let shared = bias.len() == s.co;
    let bias = if shared { bias.repeat(s.batch) } else { bias.to_vec() };
    let n = s.together();
    // Threads for each task.
    let threads = rayon::current_num_threads() / s.batch.div_ceil(n).max(1);
    y.par_chunks_mut(n * s.co * s.output_pixels()).zip(bias.par_chunks(n * s.co)).enumerate().for_each(
        |(i, (y, bias))| {
            let x = x.images(i * n..i * n + bias.len() / s.co, s.pixels());
            let base = base.from(i * n * s.co * s.output_pixels());
            convolve(s, x, &weight.0, bias, base, y, threads);
        },
    );
}

/// Gradients of [`forward`]; all outputs are overwritten.
///
/// `flipped` is the weight, [flipped](Ready::flipped). `dx` may be empty: then it is not computed. `dweight [co, ci, k, k]`;
/// `dbias` as `bias` was.
///
/// # Panics
/// As [`forward`].
pub fn backward(
    s: &Spec,
    x: Beside,
    flipped: &Ready,
    dy: &[f32],
    dx: BesideMut,
    dweight: &mut [f32],
    dbias: &mut [f32],
) {
    s.check(x, dbias, dy);
    let (pixels, output, group) = (s.pixels(), s.output_pixels(), s.group());
    let groups = s.batch.div_ceil(group);
    let part = if s.kind() == Kind::Winograd { Weight::gradient_len(s.ci, s.co) } else { dweight.len() };
    PARTIAL.with(|kept| {
        // Every group overwrites its part with its first images, so that nothing needs to be zero before.
        let mut partial = kept.take();
        partial.resize(partial.len().max(groups * part), 0.0);
        partial
            .par_chunks_mut(part)
            .zip(dx.pieces(group, pixels, groups))
            .zip(dy.par_chunks(group * s.co * output))
            .enumerate()
            .for_each(|(i, ((dw, dx), dy))| {
                let images = dy.len() / (s.co * output);
                let x = x.images(i * group..i * group + images, pixels);
                Scratch::with(|scratch| backward_group(s, x, flipped, dy, dx, dw, scratch));
            });
        let (sum, rest) = partial[..groups * part].split_at_mut(part);
        for part in rest.chunks_exact(part) {
            math::add(part, sum);
        }
        if s.kind() == Kind::Winograd {
            Weight::gradient(sum, s.ci, s.co, dweight);
        } else {
            dweight.copy_from_slice(sum);
        }
        kept.set(partial);
    });
    let shared = dbias.len() == s.co;
    dbias.fill(0.0);
    for (i, dy) in dy.chunks_exact(output).enumerate() {
        dbias[if shared { i % s.co } else { i }] += math::sum(dy) as f32;
    }
}

thread_local! {
    /// The partial gradients of the weight that the thread made last.
    static PARTIAL: Cell<Vec<f32>> = const { Cell::new(Vec::new()) };
}

/// The gradient of the weight from a group of images, to `dw`, and that of the images, to `dx` unless it is empty.
fn backward_group(
    s: &Spec,
    x: Beside,
    flipped: &Ready,
    dy: &[f32],
    dx: BesideMut,
    dw: &mut [f32],
    scratch: &mut Scratch,
) {
    let (pixels, output, n) = (s.pixels(), s.output_pixels(), s.together());
    let blocks = dy.chunks(n * s.co * output);
    let pieces = dx.pieces(n, pixels, blocks.len());
    for (i, (dy, dx)) in blocks.zip(pieces).enumerate() {
        let images = dy.len() / (s.co * output);
        let x = x.images(i * n..i * n + images, pixels);
        match &flipped.0 {
            Prepared::Winograd(flipped) => winograd::backward(s.grid(images), x, dy, flipped, i > 0, dw, dx, scratch),
            Prepared::Matrix(transposed) if s.kind() == Kind::Pointwise => {
                pointwise_backward(s, x, dy, transposed, i > 0, dw, dx);
            }
            Prepared::Matrix(transposed) => {
                let rows = s.ci * s.k * s.k;
                let (lx, ly) = (Layout::row_major(rows, output), Layout::row_major(s.co, output));
                let lw = Layout::row_major(s.co, rows);
                let columns = patches::unroll(&s.patches(), x.first, scratch.columns());
                matmul(i > 0, dy, ly, columns, lx.transposed(), dw, lw);
                if !dx.is_empty() {
                    let columns = patches::room(&s.patches(), scratch.columns());
                    matmul(false, transposed, lw.transposed_copy(), dy, ly, columns, lx);
                    patches::roll(&s.patches(), columns, dx.first);
                }
            }
        }
    }
}

/// [`backward_group`] of one image, for a kernel of one pixel: added to `dw` with `accumulate`.
fn pointwise_backward(
    s: &Spec,
    x: Beside,
    dy: &[f32],
    transposed: &[f32],
    accumulate: bool,
    dw: &mut [f32],
    dx: BesideMut,
) {
    let (pixels, ly) = (s.pixels(), Layout::row_major(s.co, s.pixels()));
    let wanted = !dx.is_empty();
    let mut first = 0;
    for (x, dx, channels) in [(x.first, dx.first, x.channels[0]), (x.second, dx.second, x.channels[1])] {
        let lx = Layout::row_major(channels, pixels);
        matmul(accumulate, dy, ly, x, lx.transposed(), dw, s.columns(first, channels));
        if wanted {
            let lw = Layout { offset: first * s.co, ..Layout::row_major(channels, s.co) };
            matmul(false, transposed, lw, dy, ly, dx, lx);
        }
        first += channels;
    }
}

/// `y [images, co, h', w']` = `base` + `bias [images, co]` + weight * `x [images, ci, h, w]`, on about so many threads; one image
/// only but for Winograd's method.
fn convolve(s: &Spec, x: Beside, weight: &Prepared, bias: &[f32], base: Base, y: &mut [f32], threads: usize) {
    match weight {
        Prepared::Winograd(weight) => {
            let grid = s.grid(bias.len() / s.co);
            let bands = if grid.images == 1 { grid.bands(weight, threads) } else { 1 };
            if bands > 1 {
                winograd::convolve_in_bands(bands, grid, x, weight, bias, base, y);
            } else {
                Scratch::with(|scratch| winograd::convolve(grid, x, weight, bias, base, y, scratch));
            }
        }
        Prepared::Matrix(weight) => {
            let (rows, output) = (s.ci * s.k * s.k, s.output_pixels());
            // Taken out of the thread's buffers, which other tasks use while this one waits for its threads.
            let mut columns = match s.kind() {
                Kind::Patches => Scratch::with(|scratch| std::mem::take(scratch.columns())),
                _ => Vec::new(),
            };
            let patches = match s.kind() {
                Kind::Patches => patches::unroll(&s.patches(), x.first, &mut columns),
                _ => &[],
            };
            let least = MATRIX_PRODUCTS.div_ceil((rows * output).max(1));
            let channels = s.co.div_ceil(threads.max(1)).max(least);
            y.par_chunks_mut(channels * output).zip(bias.par_chunks(channels)).enumerate().for_each(
                |(i, (y, bias))| {
                    let first = i * channels;
                    for (c, (y, &b)) in y.chunks_exact_mut(output).zip(bias).enumerate() {
                        match base.from((first + c) * output) {
                            Base::Nothing => y.fill(b),
                            Base::There => y.iter_mut().for_each(|y| *y += b),
                            Base::Of(base) => y.iter_mut().zip(base).for_each(|(y, base)| *y = base + b),
                        }
                    }
                    let ly = Layout::row_major(bias.len(), output);
                    let weight = &weight[first * rows..];
                    let of = |inputs: Layout| Layout { rows: bias.len(), ..inputs };
                    if s.kind() == Kind::Pointwise {
                        let [a, b] = x.channels;
                        matmul(true, weight, of(s.columns(0, a)), x.first, Layout::row_major(a, output), y, ly);
                        if b > 0 {
                            matmul(true, weight, of(s.columns(a, b)), x.second, Layout::row_major(b, output), y, ly);
                        }
                    } else {
                        let lw = Layout::row_major(bias.len(), rows);
                        matmul(true, weight, lw, patches, Layout::row_major(rows, output), y, ly);
                    }
                },
            );
            if s.kind() == Kind::Patches {
                Scratch::with(|scratch| *scratch.columns() = columns);
            }
        }
    }
}
