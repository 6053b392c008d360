//! 3x3 convolution by Winograd's minimal filtering F(2x2, 3x3) (Lavin & Gray 2016): a 2x2 tile of outputs from a 4x4 tile
//! of inputs takes 16 products instead of 36.
//!
//! y = Aᵀ [ (G g Gᵀ) ⊙ (Bᵀ d B) ] A for each tile and pair of channels; summed over channels, ⊙ becomes 16 matrix
//! products. The constants are halves and ones, so that about one bit is lost against the direct sum. The derivatives
//! are the transposes of the same maps.
//!
//! Inside, images are held with channels last, the channels padded to whole vectors and the image framed by zeros: the
//! transforms then are straight-line arithmetic on vectors of channels, whatever the image's size.

// Hot loops count indices: iterator adaptors are not inlined into functions of more target features than their own.
#![allow(clippy::needless_range_loop)]

use super::lanes::{LANES, Lane, gather, scatter};
use super::layout::Layout;
use super::math::vectorized;
use super::matmul::matmul;
use std::cell::Cell;
use std::ops::Range;

/// Products of a tile.
pub const PRODUCTS: usize = 16;
/// Tiles that are transformed at a time: the transforms stay in the second-level cache.
const BLOCK: usize = 96;

/// Channels padded to whole vectors.
fn padded(channels: usize) -> usize {
    channels.next_multiple_of(LANES)
}

/// Where tiles lie in a few images that are treated together.
#[derive(Clone, Copy, Debug)]
pub struct Grid {
    /// Images.
    pub images: usize,
    /// Image height.
    pub h: usize,
    /// Image width.
    pub w: usize,
}

impl Grid {
    fn across(&self) -> usize {
        self.w.div_ceil(2)
    }

    fn down(&self) -> usize {
        self.h.div_ceil(2)
    }

    /// Tiles of one image.
    fn tiles(&self) -> usize {
        self.across() * self.down()
    }

    /// Images that fill one block of tiles; 1 unless they are small.
    pub fn images_of_block(h: usize, w: usize) -> usize {
        (BLOCK / Self { images: 1, h, w }.tiles()).max(1)
    }

    /// Width of the framed image: one zero on the left, and on the right what whole tiles need.
    fn framed_width(&self) -> usize {
        2 * self.across() + 2
    }

    /// Lanes of all framed images.
    fn framed_len(&self, vectors: usize) -> usize {
        self.images * self.framed_pixels() * vectors
    }

    fn framed_pixels(&self) -> usize {
        self.framed_width() * (2 * self.down() + 2)
    }

    /// Index of the top left pixel of tile `t`'s input in the framed images.
    fn corner(&self, t: usize) -> usize {
        let (image, t) = (t / self.tiles(), t % self.tiles());
        image * self.framed_pixels() + 2 * (t / self.across()) * self.framed_width() + 2 * (t % self.across())
    }

    /// Index of the top left pixel of tile `t`'s output in images of whole tiles.
    fn output_corner(&self, t: usize) -> usize {
        let row = t / self.across();
        4 * row * self.across() + 2 * (t % self.across())
    }

    /// Blocks of tiles.
    fn blocks(&self) -> impl Iterator<Item = Range<usize>> {
        let n = self.images * self.tiles();
        (0..n).step_by(BLOCK).map(move |first| first..n.min(first + BLOCK))
    }
}

/// Buffers that a thread uses again and again; they grow to the largest size that was needed.
#[derive(Debug, Default)]
pub struct Scratch {
    framed: Vec<Lane>,
    framed_x: Vec<Lane>,
    collected: Vec<Lane>,
    v: Vec<Lane>,
    m: Vec<Lane>,
}

impl Scratch {
    /// Calls `f` with the thread's buffers.
    pub fn with<T>(f: impl FnOnce(&mut Self) -> T) -> T {
        thread_local! {
            static SCRATCH: Cell<Scratch> = Cell::default();
        }
        let mut scratch = SCRATCH.take();
        let result = f(&mut scratch);
        SCRATCH.set(scratch);
        result
    }
}

/// The first `len` lanes of a buffer, whatever is in them.
fn first(buffer: &mut Vec<Lane>, len: usize) -> &mut [Lane] {
    if buffer.len() < len {
        buffer.resize(len, [0.0; LANES]);
    }
    &mut buffer[..len]
}

/// Where the 16 products of a block's tiles lie: tile t, vector c of product p at lane `p * step + t * vectors + c`.
#[derive(Clone, Copy, Debug)]
struct Products {
    /// Tiles.
    rows: usize,
    /// Vectors of channels.
    vectors: usize,
}

impl Products {
    /// The 16 matrices lie a little further apart than they are long: at a distance of a multiple of 4096 bytes the 16
    /// streams of a transform would push each other out of the cache.
    fn step(&self) -> usize {
        self.rows * self.vectors + 2
    }

    fn len(&self) -> usize {
        PRODUCTS * self.step()
    }

    /// Matrix `p`, [rows, channels].
    fn layout(&self, p: usize) -> Layout {
        let cols = self.vectors * LANES;
        Layout { offset: p * self.step() * LANES, ..Layout::row_major(self.rows, cols) }
    }
}

/// A transformed weight: U = G g Gᵀ as [16, padded ci, padded co].
#[derive(Debug)]
pub struct Weight {
    u: Vec<Lane>,
    ci: usize,
    co: usize,
}

impl Weight {
    /// Transforms `weight [co, ci, 3, 3]`.
    pub fn new(weight: &[f32], ci: usize, co: usize) -> Self {
        let mut new = Self::buffer(ci, co);
        transform_weight(weight, ci, co, &mut new.u);
        new
    }

    /// Transforms the weight of the gradient for x of a convolution with `weight [co, ci, 3, 3]`: outputs and inputs
    /// exchanged, taps in reverse order.
    pub fn flipped(weight: &[f32], ci: usize, co: usize) -> Self {
        let mut new = Self::buffer(co, ci);
        transform_flipped(weight, ci, co, &mut new.u);
        new
    }

    /// Room for a transformed weight, zero where no channel is.
    fn buffer(ci: usize, co: usize) -> Self {
        let mut u = SPARE.take();
        if !ci.is_multiple_of(LANES) {
            u.clear();
        }
        u.resize(PRODUCTS * padded(ci) * padded(co) / LANES, [0.0; LANES]);
        Self { u, ci, co }
    }

    /// Numbers of a gradient for U.
    pub fn gradient_len(ci: usize, co: usize) -> usize {
        PRODUCTS * padded(ci) * padded(co)
    }

    /// Gᵀ dU G: the gradient of `weight [co, ci, 3, 3]` from that of U.
    pub fn gradient(du: &[f32], ci: usize, co: usize, dweight: &mut [f32]) {
        weight_gradient(du.as_chunks().0, ci, co, dweight);
    }
}

thread_local! {
    /// The buffer of the weight that the thread used last.
    static SPARE: Cell<Vec<Lane>> = const { Cell::new(Vec::new()) };
}

impl Drop for Weight {
    fn drop(&mut self) {
        SPARE.set(std::mem::take(&mut self.u));
    }
}

/// `y [images, co, h, w]` = `bias [images, co]` + weight * `x [images, ci, h, w]`, or += with `add`.
pub fn convolve(grid: Grid, x: &[f32], weight: &Weight, bias: &[f32], y: &mut [f32], add: bool, s: &mut Scratch) {
    frame(grid, x, weight.ci, first(&mut s.framed, grid.framed_len(padded(weight.ci) / LANES)));
    convolve_framed(grid, weight, bias, y, add, s);
}

/// [`convolve`] of the images in `s.framed`.
fn convolve_framed(grid: Grid, weight: &Weight, bias: &[f32], y: &mut [f32], add: bool, s: &mut Scratch) {
    let (pi, po) = (padded(weight.ci), padded(weight.co));
    let (vi, vo) = (pi / LANES, po / LANES);
    // Outputs are collected with channels last, on whole tiles.
    let collected = first(&mut s.collected, grid.images * grid.tiles() * 4 * vo);
    for tiles in grid.blocks() {
        let rows = tiles.len();
        let (of_v, of_m) = (Products { rows, vectors: vi }, Products { rows, vectors: vo });
        let (v, m) = (first(&mut s.v, of_v.len()), first(&mut s.m, of_m.len()));
        input(grid, tiles.clone(), of_v, &s.framed, v);
        for p in 0..PRODUCTS {
            let lu = Layout { offset: p * pi * po, ..Layout::row_major(pi, po) };
            let (u, v, m) = (weight.u.as_flattened(), v.as_flattened(), m.as_flattened_mut());
            matmul(false, v, of_v.layout(p), u, lu, m, of_m.layout(p));
        }
        output(grid, tiles, of_m, m, collected);
    }
    if add {
        unframe::<true>(grid, vo, collected, bias, y);
    } else {
        unframe::<false>(grid, vo, collected, bias, y);
    }
}

/// What a block of images adds to the gradient of U, `du`, and their `dx [images, ci, h, w]` unless that is empty, from
/// `x [images, ci, h, w]` and `dy [images, co, h, w]`; `flipped` is the weight, [flipped](Weight::flipped).
pub fn backward(grid: Grid, x: &[f32], dy: &[f32], flipped: &Weight, du: &mut [f32], dx: &mut [f32], s: &mut Scratch) {
    let (ci, co) = (flipped.co, flipped.ci);
    let (pi, po) = (padded(ci), padded(co));
    let (vi, vo) = (pi / LANES, po / LANES);
    frame(grid, x, ci, first(&mut s.framed_x, grid.framed_len(vi)));
    frame(grid, dy, co, first(&mut s.framed, grid.framed_len(vo)));
    for tiles in grid.blocks() {
        let rows = tiles.len();
        let (of_v, of_m) = (Products { rows, vectors: vi }, Products { rows, vectors: vo });
        let (v, m) = (first(&mut s.v, of_v.len()), first(&mut s.m, of_m.len()));
        input(grid, tiles.clone(), of_v, &s.framed_x, v);
        output_backward(grid, tiles, of_m, &s.framed, m);
        for p in 0..PRODUCTS {
            let lu = Layout { offset: p * pi * po, ..Layout::row_major(pi, po) };
            matmul(true, v.as_flattened(), of_v.layout(p).transposed(), m.as_flattened(), of_m.layout(p), du, lu);
        }
    }
    if !dx.is_empty() {
        convolve_framed(grid, flipped, &vec![0.0; grid.images * ci], dx, false, s);
    }
}

/// `x [images, channels, h, w]` with channels last, padded, in frames of zeros.
fn frame(grid: Grid, x: &[f32], channels: usize, framed: &mut [Lane]) {
    let vectors = padded(channels) / LANES;
    let (w, pixels, width) = (grid.w, grid.h * grid.w, grid.framed_width() * vectors);
    for (x, framed) in x.chunks_exact(channels * pixels).zip(framed.chunks_exact_mut(grid.framed_pixels() * vectors)) {
        for (y, line) in framed.chunks_exact_mut(width).enumerate() {
            if y == 0 || y > grid.h {
                line.fill([0.0; LANES]);
                continue;
            }
            line[..vectors].fill([0.0; LANES]);
            line[(w + 1) * vectors..].fill([0.0; LANES]);
            for (vector, x) in x.chunks(LANES * pixels).enumerate() {
                let x = &x[(y - 1) * w..];
                let line = &mut line[vectors + vector..];
                if vector + 1 < vectors || channels.is_multiple_of(LANES) {
                    gather(x, pixels, w, line, vectors);
                } else {
                    for i in 0..w {
                        line[i * vectors] = [0.0; LANES];
                        for lane in 0..channels % LANES {
                            line[i * vectors][lane] = x[lane * pixels + i];
                        }
                    }
                }
            }
        }
    }
}

/// `y [images, channels, h, w]` = `bias [images, channels]` + pixels with channels last, or += with `ADD`.
fn unframe<const ADD: bool>(grid: Grid, vectors: usize, pixels: &[Lane], bias: &[f32], y: &mut [f32]) {
    let (w, plane, channels) = (grid.w, grid.h * grid.w, bias.len() / grid.images);
    let (image, width) = (grid.tiles() * 4 * vectors, 2 * grid.across() * vectors);
    for ((pixels, y), bias) in
        pixels.chunks_exact(image).zip(y.chunks_exact_mut(channels * plane)).zip(bias.chunks_exact(channels))
    {
        for (row, line) in pixels.chunks_exact(width).take(grid.h).enumerate() {
            for (vector, (y, bias)) in y.chunks_mut(LANES * plane).zip(bias.chunks(LANES)).enumerate() {
                let (y, line) = (&mut y[row * w..], &line[vector..]);
                if let Ok(bias) = bias.try_into() {
                    scatter::<ADD>(line, vectors, bias, y, plane, w);
                } else {
                    for (lane, b) in bias.iter().enumerate() {
                        for i in 0..w {
                            let y = &mut y[lane * plane + i];
                            let x = line[i * vectors][lane] + b;
                            *y = if ADD { *y + x } else { x };
                        }
                    }
                }
            }
        }
    }
}

vectorized! {
    /// G g Gᵀ of `weight [co, ci, 3, 3]`: product p of channels (i, o) at `u[(p * padded ci + i) * padded co + o]`.
    fn transform_weight(weight: &[f32], ci: usize, co: usize, u: &mut [Lane]) {
        let vectors = padded(co) / LANES;
        let step = padded(ci) * vectors;
        for o in (0..co).step_by(LANES) {
            let weight = &weight[o * ci * 9..];
            let lanes = LANES.min(co - o);
            for i in 0..ci {
                let mut g = [[0f32; LANES]; 9];
                for lane in 0..lanes {
                    let taps = &weight[(lane * ci + i) * 9..][..9];
                    for tap in 0..9 {
                        g[tap][lane] = taps[tap];
                    }
                }
                weight_products(&g, step, &mut u[i * vectors + o / LANES..]);
            }
        }
    }

    /// Gᵀ dU G: the derivative of [`transform_weight`], the other way.
    fn weight_gradient(du: &[Lane], ci: usize, co: usize, dweight: &mut [f32]) {
        let vectors = padded(co) / LANES;
        let step = padded(ci) * vectors;
        for o in (0..co).step_by(LANES) {
            let dweight = &mut dweight[o * ci * 9..];
            let lanes = LANES.min(co - o);
            for i in 0..ci {
                let d = &du[i * vectors + o / LANES..][..15 * step + 1];
                let c0 = weight_back_line(d[0], d[4 * step], d[8 * step], d[12 * step]);
                let c1 = weight_back_line(d[step], d[5 * step], d[9 * step], d[13 * step]);
                let c2 = weight_back_line(d[2 * step], d[6 * step], d[10 * step], d[14 * step]);
                let c3 = weight_back_line(d[3 * step], d[7 * step], d[11 * step], d[15 * step]);
                let mut row = 0;
                while row < 3 {
                    let line = weight_back_line(c0[row], c1[row], c2[row], c3[row]);
                    for lane in 0..lanes {
                        let taps = &mut dweight[(lane * ci + i) * 9 + row * 3..][..3];
                        taps[0] = line[0][lane];
                        taps[1] = line[1][lane];
                        taps[2] = line[2][lane];
                    }
                    row += 1;
                }
            }
        }
    }

    /// [`transform_weight`] for the gradient of x: product p of channels (o, i) at
    /// `u[(p * padded co + o) * padded ci + i]`, taps reversed.
    fn transform_flipped(weight: &[f32], ci: usize, co: usize, u: &mut [Lane]) {
        let vectors = padded(ci) / LANES;
        let step = padded(co) * vectors;
        for o in 0..co {
            let weight = &weight[o * ci * 9..][..ci * 9];
            for i in (0..ci).step_by(LANES) {
                let mut g = [[0f32; LANES]; 9];
                for lane in 0..LANES.min(ci - i) {
                    let taps = &weight[(i + lane) * 9..][..9];
                    for tap in 0..9 {
                        g[8 - tap][lane] = taps[tap];
                    }
                }
                weight_products(&g, step, &mut u[o * vectors + i / LANES..]);
            }
        }
    }

    /// Bᵀ d B of `tiles`.
    fn input(grid: Grid, tiles: Range<usize>, of_v: Products, framed: &[Lane], v: &mut [Lane]) {
        let (vectors, step) = (of_v.vectors, of_v.step());
        let width = grid.framed_width() * vectors;
        let mut at = 0;
        for tile in tiles {
            let corner = grid.corner(tile) * vectors;
            for c in 0..vectors {
                let from = &framed[corner + c..][..3 * width + 3 * vectors + 1];
                let to = &mut v[at..][..15 * step + 1];
                let c0 = input_line(from[0], from[width], from[2 * width], from[3 * width]);
                let from = &from[vectors..];
                let c1 = input_line(from[0], from[width], from[2 * width], from[3 * width]);
                let from = &from[vectors..];
                let c2 = input_line(from[0], from[width], from[2 * width], from[3 * width]);
                let from = &from[vectors..];
                let c3 = input_line(from[0], from[width], from[2 * width], from[3 * width]);
                let mut i = 0;
                while i < 4 {
                    let line = input_line(c0[i], c1[i], c2[i], c3[i]);
                    to[4 * i * step] = line[0];
                    to[(4 * i + 1) * step] = line[1];
                    to[(4 * i + 2) * step] = line[2];
                    to[(4 * i + 3) * step] = line[3];
                    i += 1;
                }
                at += 1;
            }
        }
    }

    /// Aᵀ m A of `tiles` to pixels with channels last.
    fn output(grid: Grid, tiles: Range<usize>, of_m: Products, m: &[Lane], pixels: &mut [Lane]) {
        let (vectors, step) = (of_m.vectors, of_m.step());
        let width = 2 * grid.across() * vectors;
        let mut at = 0;
        for tile in tiles {
            let corner = grid.output_corner(tile) * vectors;
            for c in 0..vectors {
                let from = &m[at..][..15 * step + 1];
                let c0 = output_line(from[0], from[4 * step], from[8 * step], from[12 * step]);
                let c1 = output_line(from[step], from[5 * step], from[9 * step], from[13 * step]);
                let c2 = output_line(from[2 * step], from[6 * step], from[10 * step], from[14 * step]);
                let c3 = output_line(from[3 * step], from[7 * step], from[11 * step], from[15 * step]);
                let (top, bottom) =
                    (output_line(c0[0], c1[0], c2[0], c3[0]), output_line(c0[1], c1[1], c2[1], c3[1]));
                let to = &mut pixels[corner + c..][..width + vectors + 1];
                to[0] = top[0];
                to[vectors] = top[1];
                to[width] = bottom[0];
                to[width + vectors] = bottom[1];
                at += 1;
            }
        }
    }

    /// The derivative of [`output`]: A dy Aᵀ of `tiles`, from dy in its frame.
    fn output_backward(grid: Grid, tiles: Range<usize>, of_m: Products, framed: &[Lane], m: &mut [Lane]) {
        let (vectors, step) = (of_m.vectors, of_m.step());
        let width = grid.framed_width() * vectors;
        let mut at = 0;
        for tile in tiles {
            // The tile's outputs lie one pixel inside its input.
            let corner = grid.corner(tile) * vectors + width + vectors;
            for c in 0..vectors {
                let from = &framed[corner + c..][..width + vectors + 1];
                let c0 = back_line(from[0], from[width]);
                let c1 = back_line(from[vectors], from[width + vectors]);
                let to = &mut m[at..][..15 * step + 1];
                let mut i = 0;
                while i < 4 {
                    let line = back_line(c0[i], c1[i]);
                    to[4 * i * step] = line[0];
                    to[(4 * i + 1) * step] = line[1];
                    to[(4 * i + 2) * step] = line[2];
                    to[(4 * i + 3) * step] = line[3];
                    i += 1;
                }
                at += 1;
            }
        }
    }
}

/// G g Gᵀ of eight pairs of channels, a product every `step` lanes.
#[inline(always)]
fn weight_products(g: &[Lane; 9], step: usize, u: &mut [Lane]) {
    let columns = [weight_line(g[0], g[3], g[6]), weight_line(g[1], g[4], g[7]), weight_line(g[2], g[5], g[8])];
    let mut row = 0;
    while row < 4 {
        let line = weight_line(columns[0][row], columns[1][row], columns[2][row]);
        u[4 * row * step] = line[0];
        u[(4 * row + 1) * step] = line[1];
        u[(4 * row + 2) * step] = line[2];
        u[(4 * row + 3) * step] = line[3];
        row += 1;
    }
}

/// G of a line of three.
#[inline(always)]
fn weight_line(a: Lane, b: Lane, c: Lane) -> [Lane; 4] {
    let outer = add(a, c);
    [a, halved(add(outer, b)), halved(sub(outer, b)), c]
}

/// Gᵀ of a line of four.
#[inline(always)]
fn weight_back_line(a: Lane, b: Lane, c: Lane, d: Lane) -> [Lane; 3] {
    let inner = halved(add(b, c));
    [add(a, inner), halved(sub(b, c)), add(inner, d)]
}

#[inline(always)]
fn halved(a: Lane) -> Lane {
    let [a0, a1, a2, a3, a4, a5, a6, a7] = a;
    [0.5 * a0, 0.5 * a1, 0.5 * a2, 0.5 * a3, 0.5 * a4, 0.5 * a5, 0.5 * a6, 0.5 * a7]
}

/// Bᵀ of a line of four.
#[inline(always)]
fn input_line(a: Lane, b: Lane, c: Lane, d: Lane) -> [Lane; 4] {
    [sub(a, c), add(b, c), sub(c, b), sub(b, d)]
}

/// Aᵀ of a line of four.
#[inline(always)]
fn output_line(a: Lane, b: Lane, c: Lane, d: Lane) -> [Lane; 2] {
    [add(add(a, b), c), sub(sub(b, c), d)]
}

/// A of a line of two.
#[inline(always)]
fn back_line(a: Lane, b: Lane) -> [Lane; 4] {
    [a, add(a, b), sub(a, b), sub([0.0; LANES], b)]
}

#[inline(always)]
fn add(a: Lane, b: Lane) -> Lane {
    let ([a0, a1, a2, a3, a4, a5, a6, a7], [b0, b1, b2, b3, b4, b5, b6, b7]) = (a, b);
    [a0 + b0, a1 + b1, a2 + b2, a3 + b3, a4 + b4, a5 + b5, a6 + b6, a7 + b7]
}

#[inline(always)]
fn sub(a: Lane, b: Lane) -> Lane {
    let ([a0, a1, a2, a3, a4, a5, a6, a7], [b0, b1, b2, b3, b4, b5, b6, b7]) = (a, b);
    [a0 - b0, a1 - b1, a2 - b2, a3 - b3, a4 - b4, a5 - b5, a6 - b6, a7 - b7]
}
