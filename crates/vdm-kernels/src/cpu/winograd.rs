//! 3x3 convolution by Winograd's minimal filtering F(4x4, 3x3) (Lavin & Gray 2016): a 4x4 tile of outputs from a 6x6 tile
//! of inputs takes 36 products instead of 144.
//!
//! y = Aᵀ [ (G g Gᵀ) ⊙ (Bᵀ d B) ] A for each tile and pair of channels; summed over channels, ⊙ becomes 36 matrix
//! products. The derivatives are the transposes of the same maps. The lines of the maps, with their points and their
//! error, stand in [`super::points`].
//!
//! Inside, images are held with channels last, the channels padded to whole vectors and the image framed by zeros: the
//! transforms then are straight-line arithmetic on vectors of channels, whatever the image's size.

// Hot loops count indices: iterator adaptors are not inlined into functions of more target features than their own.
#![allow(clippy::needless_range_loop)]

use super::beside::{Beside, BesideMut};
use super::lanes::{Base, LANES, Lane, Lines, gather, scatter};
use super::layout::Layout;
use super::matmul::matmul;
use super::points::{self, Map, SIDE, TILE};
use super::simd::{MOST_LANES, Vector, with_vectors};
use rayon::prelude::*;
use std::cell::Cell;
use std::ops::Range;

/// Products of a tile.
pub const PRODUCTS: usize = SIDE * SIDE;
/// Most tiles that are transformed at a time: the transforms stay in the second-level cache.
const BLOCK: usize = 48;
/// Products of a band at least: some ten microseconds.
const BAND_PRODUCTS: usize = 1 << 19;

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
        self.w.div_ceil(TILE)
    }

    fn down(&self) -> usize {
        self.h.div_ceil(TILE)
    }

    /// Tiles of one image.
    fn tiles(&self) -> usize {
        self.across() * self.down()
    }

    /// Tiles of all images.
    pub fn all_tiles(&self) -> usize {
        self.images * self.tiles()
    }

    /// Images that fill one block of tiles; 1 unless they are small.
    pub fn images_of_block(h: usize, w: usize) -> usize {
        (BLOCK / Self { images: 1, h, w }.tiles()).max(1)
    }

    /// Width of the framed image: one zero on the left, and on the right what whole tiles need.
    fn framed_width(&self) -> usize {
        TILE * self.across() + 2
    }

    /// Lanes of all framed images.
    fn framed_len(&self, vectors: usize) -> usize {
        self.images * self.framed_pixels() * vectors
    }

    /// Lanes of the outputs of whole tiles of all images.
    fn collected_len(&self, vectors: usize) -> usize {
        self.all_tiles() * TILE * TILE * vectors
    }

    fn framed_pixels(&self) -> usize {
        self.framed_width() * (TILE * self.down() + 2)
    }

    /// An image's `channels` as lanes, rows `row_stride` and pixels `stride` lanes apart.
    fn lines(&self, channels: usize, row_stride: usize, stride: usize) -> Lines {
        Lines { channels, rows: self.h, width: self.w, plane: self.h * self.w, row_stride, stride }
    }

    /// Index of the top left pixel of tile `t`'s input in the framed images.
    fn corner(&self, t: usize) -> usize {
        let (image, t) = (t / self.tiles(), t % self.tiles());
        image * self.framed_pixels() + TILE * ((t / self.across()) * self.framed_width() + t % self.across())
    }

    /// Index of the top left pixel of tile `t`'s output in images of whole tiles.
    fn output_corner(&self, t: usize) -> usize {
        TILE * ((t / self.across()) * TILE * self.across() + t % self.across())
    }

    /// Bands of lines that threads can take side by side, at most `most`: in each there must be so many products that a
    /// thread is worth its start.
    pub fn bands(&self, weight: &Weight, most: usize) -> usize {
        let products = self.all_tiles() * PRODUCTS * padded(weight.ci) * padded(weight.co);
        most.min(self.down()).min(products / BAND_PRODUCTS).max(1)
    }

    /// Blocks of tiles of about the same size.
    fn blocks(&self) -> impl Iterator<Item = Range<usize>> {
        let n = self.images * self.tiles();
        let blocks = n.div_ceil(BLOCK);
        (0..blocks).map(move |block| block * n / blocks..(block + 1) * n / blocks)
    }
}

/// Buffers that a thread uses again and again; they grow to the largest size that was needed.
#[derive(Debug, Default)]
pub struct Scratch {
    tiles: Tiles,
    framed_x: Vec<Lane>,
    collected: Vec<Lane>,
    columns: Vec<f32>,
}

/// What a block of tiles needs: images in frames, and the transforms of inputs and outputs.
#[derive(Debug, Default)]
struct Tiles {
    framed: Vec<Lane>,
    v: Vec<Lane>,
    m: Vec<Lane>,
}

impl Scratch {
    /// Room for the patches of an image.
    pub fn columns(&mut self) -> &mut Vec<f32> {
        &mut self.columns
    }

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

/// Where the products of a block's tiles lie: tile t, vector c of product p at lane `p * step + t * vectors + c`.
#[derive(Clone, Copy, Debug)]
struct Products {
    /// Tiles.
    rows: usize,
    /// Vectors of channels.
    vectors: usize,
}

impl Products {
    /// The matrices lie a little further apart than they are long: at a distance of a multiple of 4096 bytes the
    /// streams of a transform would push each other out of the cache.
    fn step(&self) -> usize {
        self.rows * self.vectors + 2
    }

    fn channels(&self) -> usize {
        self.vectors * LANES
    }

    fn len(&self) -> usize {
        PRODUCTS * self.step()
    }

    /// Matrix `p`, [rows, channels].
    fn layout(&self, p: usize) -> Layout {
        Layout { offset: p * self.step() * LANES, ..Layout::row_major(self.rows, self.channels()) }
    }
}

/// From one of the 36 matrices of a weight to the next, in numbers: a little more than a matrix, for the reason that
/// [`Products::step`] says.
fn weight_step(ci: usize, co: usize) -> usize {
    padded(ci) * padded(co) + 2 * LANES
}

/// A transformed weight: U = G g Gᵀ as [36, padded ci, padded co], the matrices a little further apart than they are long.
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
        let taps = taps_of(weight, ci, co);
        transform_weight(taps.as_flattened(), ci, padded(co), new.u.as_flattened_mut());
        new
    }

    /// Transforms the weight of the gradient for x of a convolution with `weight [co, ci, 3, 3]`: outputs and inputs
    /// exchanged, taps in reverse order.
    pub fn flipped(weight: &[f32], ci: usize, co: usize) -> Self {
        let mut new = Self::buffer(co, ci);
        transform_flipped(weight, ci, co, new.u.as_flattened_mut());
        new
    }

    /// Room for at least a transformed weight, zero where no channel is.
    fn buffer(ci: usize, co: usize) -> Self {
        let mut u = SPARE.take();
        let numbers = first(&mut u, PRODUCTS * weight_step(ci, co) / LANES);
        if !ci.is_multiple_of(LANES) {
            numbers.fill([0.0; LANES]);
        }
        Self { u, ci, co }
    }

    /// Numbers of a gradient for U.
    pub fn gradient_len(ci: usize, co: usize) -> usize {
        PRODUCTS * weight_step(ci, co)
    }

    /// Gᵀ dU G: the gradient of `weight [co, ci, 3, 3]` from that of U.
    pub fn gradient(du: &[f32], ci: usize, co: usize, dweight: &mut [f32]) {
        weight_gradient(du, ci, co, dweight);
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

/// `y [images, co, h, w]` = `base` + `bias [images, co]` + weight * `x [images, ci, h, w]`.
pub fn convolve(grid: Grid, x: Beside, weight: &Weight, bias: &[f32], base: Base, y: &mut [f32], s: &mut Scratch) {
    let collected = first(&mut s.collected, grid.collected_len(padded(weight.co) / LANES));
    frame(grid, x, 0..grid.h, first(&mut s.tiles.framed, grid.framed_len(padded(weight.ci) / LANES)));
    convolve_framed(grid, weight, &mut s.tiles, collected);
    unframe(grid, padded(weight.co) / LANES, collected, bias, base, y);
}

/// [`convolve`] of one image in `bands` of lines, side by side: for the threads that a small batch leaves idle.
pub fn convolve_in_bands(
    bands: usize,
    grid: Grid,
    x: Beside,
    weight: &Weight,
    bias: &[f32],
    base: Base,
    y: &mut [f32],
) {
    assert!(grid.images == 1, "{grid:?}: bands are of one image");
    let [vi, vo] = [weight.ci, weight.co].map(|channels| padded(channels) / LANES);
    // The bands need the thread's other buffers.
    let mut buffer = Scratch::with(|s| std::mem::take(&mut s.collected));
    let collected = first(&mut buffer, grid.collected_len(vo));
    let lines = TILE * grid.down().div_ceil(bands.max(1));
    let of_band = Grid { images: 1, h: lines, ..grid }.collected_len(vo);
    collected.par_chunks_mut(of_band).enumerate().for_each(|(i, collected)| {
        let lines = i * lines..grid.h.min((i + 1) * lines);
        let band = Grid { images: 1, h: lines.len(), ..grid };
        Scratch::with(|s| {
            frame(grid, x, lines, first(&mut s.tiles.framed, band.framed_len(vi)));
            convolve_framed(band, weight, &mut s.tiles, collected);
        });
    });
    let plane = grid.h * grid.w;
    y.par_chunks_mut(LANES * plane).zip(bias.par_chunks(LANES)).enumerate().for_each(|(vector, (y, bias))| {
        unframe(grid, vo, &collected[vector..], bias, base.from(vector * LANES * plane), y);
    });
    Scratch::with(|s| s.collected = buffer);
}

/// The convolution of the images in `s.framed`, to `collected`: channels last, on whole tiles.
fn convolve_framed(grid: Grid, weight: &Weight, s: &mut Tiles, collected: &mut [Lane]) {
    let (pi, po) = (padded(weight.ci), padded(weight.co));
    let (vi, vo) = (pi / LANES, po / LANES);
    for tiles in grid.blocks() {
        let rows = tiles.len();
        let (of_v, of_m) = (Products { rows, vectors: vi }, Products { rows, vectors: vo });
        let (v, m) = (first(&mut s.v, of_v.len()), first(&mut s.m, of_m.len()));
        input(grid, tiles.clone(), of_v, s.framed.as_flattened(), v.as_flattened_mut());
        for p in 0..PRODUCTS {
            let lu = Layout { offset: p * weight_step(pi, po), ..Layout::row_major(pi, po) };
            let (u, v, m) = (weight.u.as_flattened(), v.as_flattened(), m.as_flattened_mut());
            matmul(false, v, of_v.layout(p), u, lu, m, of_m.layout(p));
        }
        output(grid, tiles, of_m, m.as_flattened(), collected.as_flattened_mut());
    }
}

/// The gradient of U from a block of images, `du`, to which it is added with `accumulate`, and their `dx [images, ci, h, w]`
/// unless that is empty, from `x [images, ci, h, w]` and `dy [images, co, h, w]`; `flipped` is the weight,
/// [flipped](Weight::flipped). What lies between the matrices of `du` stays as it is.
#[allow(clippy::too_many_arguments)]
pub fn backward(
    grid: Grid,
    x: Beside,
    dy: &[f32],
    flipped: &Weight,
    accumulate: bool,
    du: &mut [f32],
    dx: BesideMut,
    s: &mut Scratch,
) {
    let (ci, co) = (flipped.co, flipped.ci);
    let (pi, po) = (padded(ci), padded(co));
    let (vi, vo) = (pi / LANES, po / LANES);
    frame(grid, x, 0..grid.h, first(&mut s.framed_x, grid.framed_len(vi)));
    frame(grid, Beside::one(dy, co), 0..grid.h, first(&mut s.tiles.framed, grid.framed_len(vo)));
    for (i, tiles) in grid.blocks().enumerate() {
        let rows = tiles.len();
        let (of_v, of_m) = (Products { rows, vectors: vi }, Products { rows, vectors: vo });
        let (v, m) = (first(&mut s.tiles.v, of_v.len()), first(&mut s.tiles.m, of_m.len()));
        input(grid, tiles.clone(), of_v, s.framed_x.as_flattened(), v.as_flattened_mut());
        output_backward(grid, tiles, of_m, s.tiles.framed.as_flattened(), m.as_flattened_mut());
        for p in 0..PRODUCTS {
            let lu = Layout { offset: p * weight_step(pi, po), ..Layout::row_major(pi, po) };
            let (v, m) = (v.as_flattened(), m.as_flattened());
            matmul(accumulate || i > 0, v, of_v.layout(p).transposed(), m, of_m.layout(p), du, lu);
        }
    }
    if !dx.is_empty() {
        let collected = first(&mut s.collected, grid.collected_len(vi));
        convolve_framed(grid, flipped, &mut s.tiles, collected);
        let [a, b] = dx.channels;
        unframe(grid, vi, collected, &vec![0.0; grid.images * a], Base::Nothing, dx.first);
        if b > 0 {
            let collected = &collected[a / LANES..];
            unframe(grid, vi, collected, &vec![0.0; grid.images * b], Base::Nothing, dx.second);
        }
    }
}

/// The `lines` of each image of `x [images, channels, h, w]`, with channels last, padded, in a frame: it has the image's pixels
/// beside these lines, and zeros where the image ends. `lines` starts at a multiple of `TILE`, and ends at one or at the image's last line.
fn frame(grid: Grid, x: Beside, lines: Range<usize>, framed: &mut [Lane]) {
    let channels: usize = x.channels.iter().sum();
    let vectors = padded(channels) / LANES;
    let (pixels, width) = (grid.h * grid.w, grid.framed_width() * vectors);
    let of_image = Grid { h: lines.len(), ..grid }.framed_pixels() * vectors;
    let there = lines.start.saturating_sub(1)..grid.h.min(lines.end + 1);
    for (i, framed) in framed.chunks_exact_mut(of_image).enumerate() {
        let x = x.images(i..i + 1, pixels);
        // What the image does not cover: lines above and below, and the ends of its lines.
        let (above, below) = framed.split_at_mut((there.start + 1 - lines.start) * width);
        let (image, below) = below.split_at_mut(there.len() * width);
        above.fill([0.0; LANES]);
        below.fill([0.0; LANES]);
        for line in image.chunks_exact_mut(width) {
            line[..vectors].fill([0.0; LANES]);
            line[(grid.w + 1) * vectors..].fill([0.0; LANES]);
        }
        for vector in 0..vectors {
            let first = vector * LANES;
            let of_lane = grid.lines(LANES.min(channels - first), width, vectors);
            let x = &x.from_channel(first, pixels)[there.start * grid.w..];
            gather(x, Lines { rows: there.len(), ..of_lane }, &mut image[vectors + vector..]);
        }
    }
}

/// `y [images, channels, h, w]` = `base` + `bias [images, channels]` + pixels with channels last. The pixels may have more
/// channels, and more images may follow.
fn unframe(grid: Grid, vectors: usize, pixels: &[Lane], bias: &[f32], base: Base, y: &mut [f32]) {
    let (plane, channels) = (grid.h * grid.w, bias.len() / grid.images);
    let (image, width) = (grid.tiles() * TILE * TILE * vectors, TILE * grid.across() * vectors);
    for (i, (y, bias)) in y.chunks_exact_mut(channels * plane).zip(bias.chunks_exact(channels)).enumerate() {
        for vector in 0..channels.div_ceil(LANES) {
            let first = vector * LANES;
            let n = LANES.min(channels - first);
            let mut of_lane = [0.0; LANES];
            of_lane[..n].copy_from_slice(&bias[first..first + n]);
            scatter(
                &pixels[i * image + vector..],
                grid.lines(n, width, vectors),
                of_lane,
                base.from((i * channels + first) * plane),
                &mut y[first * plane..],
            );
        }
    }
}

/// The vectors of a tile's square of `N` x `N` pixels, from its first number on.
///
/// # Safety
/// Every number of it must be inside its allocation, and the processor must have the vectors.
#[inline(always)]
unsafe fn load_square<V: Vector, const N: usize>(from: *const f32, down: usize, right: usize) -> [[V; N]; N] {
    let mut square = [[V::splat(0.0); N]; N];
    let mut row = from;
    for y in 0..N {
        for x in 0..N {
            // SAFETY: the caller's promise.
            square[y][x] = unsafe { V::load(row.add(x * right)) };
        }
        // It may be past the last row: nothing is read there.
        row = opaque(row.wrapping_add(down));
    }
    square
}

/// The map along the columns of a square, then along the rows: `M x Mᵀ` for a map M from N to K numbers.
#[inline(always)]
fn both_ways<M: Map<N, K>, V: Vector, const N: usize, const K: usize>(square: [[V; N]; N]) -> [[V; K]; K] {
    let mut columns = [[V::splat(0.0); N]; K];
    for x in 0..N {
        let mut column = [V::splat(0.0); N];
        for y in 0..N {
            column[y] = square[y][x];
        }
        let column = M::line(column);
        for k in 0..K {
            columns[k][x] = column[k];
        }
    }
    let mut result = [[V::splat(0.0); K]; K];
    for k in 0..K {
        result[k] = M::line(columns[k]);
    }
    result
}

/// Stores a square of vectors, rows `down` and columns `right` numbers apart.
///
/// # Safety
/// As for [`load_square`].
#[inline(always)]
unsafe fn store_square<V: Vector, const N: usize>(square: [[V; N]; N], to: *mut f32, down: usize, right: usize) {
    let mut row = to;
    for y in 0..N {
        for x in 0..N {
            // SAFETY: the caller's promise.
            unsafe { square[y][x].store(row.add(x * right)) };
        }
        // As in `load_square`.
        row = opaque(row.wrapping_add(down).cast_const()).cast_mut();
    }
}

/// The same address, hidden from the optimiser. Otherwise it computes the distances of a square's 36 numbers once for all tiles,
/// has too few registers for them, and reads each from memory whenever it is used.
#[inline(always)]
// The lint asks whether the memory behind the address is used: it is not.
#[allow(clippy::pointers_in_nomem_asm_block)]
fn opaque(address: *const f32) -> *const f32 {
    #[cfg(target_arch = "x86_64")]
    {
        let mut address = address;
        // SAFETY: no instruction at all.
        unsafe {
            std::arch::asm!("/* {0} */", inout(reg) address, options(pure, nomem, nostack, preserves_flags));
        }
        address
    }
    #[cfg(not(target_arch = "x86_64"))]
    address
}

/// What is past the last number of a square of `n` x `n` vectors.
fn extent(n: usize, down: usize, right: usize, lanes: usize) -> usize {
    (n - 1) * (down + right) + lanes
}

with_vectors! {
    /// G g Gᵀ of `taps`, nine vectors of outputs for each of `ci` inputs, as [`taps_of`] lays them: product p of input i at
    /// `u[p * step + i * po]`.
    fn transform_weight<V divides (po)>(taps: &[f32], ci: usize, po: usize, u: &mut [f32]) {
        let step = weight_step(ci, po);
        for i in 0..ci {
            for o in (0..po).step_by(V::LANES) {
                let taps = &taps[9 * i * po + o..][..extent(3, 3 * po, po, V::LANES)];
                let u = &mut u[i * po + o..][..extent(SIDE, SIDE * step, step, V::LANES)];
                // SAFETY: the slices hold the squares.
                unsafe {
                    let g = load_square::<V, 3>(taps.as_ptr(), 3 * po, po);
                    store_square(both_ways::<points::Weight, V, _, _>(g), u.as_mut_ptr(), SIDE * step, step);
                }
            }
        }
    }

    /// [`transform_weight`] for the gradient of x: product p of channels (o, i) at
    /// `u[p * step + o * padded ci + i]`, taps reversed.
    fn transform_flipped<V divides (padded(ci))>(weight: &[f32], ci: usize, co: usize, u: &mut [f32]) {
        let (pi, step) = (padded(ci), weight_step(co, ci));
        for o in 0..co {
            let weight = &weight[o * ci * 9..][..ci * 9];
            for i in (0..ci).step_by(V::LANES) {
                let mut g = [[[0f32; MOST_LANES]; 3]; 3];
                for lane in 0..V::LANES.min(ci - i) {
                    let taps = &weight[(i + lane) * 9..][..9];
                    for tap in 0..9 {
                        g[2 - tap / 3][2 - tap % 3][lane] = taps[tap];
                    }
                }
                let u = &mut u[o * pi + i..][..extent(SIDE, SIDE * step, step, V::LANES)];
                // SAFETY: no vector is longer than `MOST_LANES`, and the slice holds the products.
                unsafe {
                    let g = load_square::<V, 3>(g.as_ptr().cast(), 3 * MOST_LANES, MOST_LANES);
                    store_square(both_ways::<points::Weight, V, _, _>(g), u.as_mut_ptr(), SIDE * step, step);
                }
            }
        }
    }

    /// Gᵀ dU G: the derivative of [`transform_weight`], the other way.
    fn weight_gradient<V divides (padded(co))>(du: &[f32], ci: usize, co: usize, dweight: &mut [f32]) {
        let (po, step) = (padded(co), weight_step(ci, co));
        for o in (0..co).step_by(V::LANES) {
            for i in 0..ci {
                let du = &du[i * po + o..][..extent(SIDE, SIDE * step, step, V::LANES)];
                // SAFETY: the slice holds the square.
                let du = unsafe { load_square::<V, SIDE>(du.as_ptr(), SIDE * step, step) };
                let mut g = [[[0f32; MOST_LANES]; 3]; 3];
                // SAFETY: no vector is longer than `MOST_LANES`.
                unsafe { store_square(both_ways::<points::WeightBack, V, _, _>(du), g.as_mut_ptr().cast(), 3 * MOST_LANES, MOST_LANES) };
                for lane in 0..V::LANES.min(co - o) {
                    let taps = &mut dweight[((o + lane) * ci + i) * 9..][..9];
                    for tap in 0..9 {
                        taps[tap] = g[tap / 3][tap % 3][lane];
                    }
                }
            }
        }
    }

    /// Bᵀ d B of `tiles`.
    fn input<V divides (of_v.channels())>(grid: Grid, tiles: Range<usize>, of_v: Products, framed: &[f32], v: &mut [f32]) {
        let (channels, step) = (of_v.channels(), of_v.step() * LANES);
        let width = grid.framed_width() * channels;
        for (row, tile) in tiles.enumerate() {
            let framed = &framed[grid.corner(tile) * channels..][..extent(SIDE, width, channels, channels)];
            let v = &mut v[row * channels..][..extent(SIDE, SIDE * step, step, channels)];
            for c in (0..channels).step_by(V::LANES) {
                // SAFETY: the slices hold the squares of all channels, whose number is a multiple of the lanes.
                unsafe {
                    let d = load_square::<V, SIDE>(framed.as_ptr().add(c), width, channels);
                    store_square(both_ways::<points::Input, V, _, _>(d), v.as_mut_ptr().add(c), SIDE * step, step);
                }
            }
        }
    }

    /// Aᵀ m A of `tiles` to pixels with channels last.
    fn output<V divides (of_m.channels())>(grid: Grid, tiles: Range<usize>, of_m: Products, m: &[f32], pixels: &mut [f32]) {
        let (channels, step) = (of_m.channels(), of_m.step() * LANES);
        let width = TILE * grid.across() * channels;
        for (row, tile) in tiles.enumerate() {
            let m = &m[row * channels..][..extent(SIDE, SIDE * step, step, channels)];
            let pixels = &mut pixels[grid.output_corner(tile) * channels..][..extent(TILE, width, channels, channels)];
            for c in (0..channels).step_by(V::LANES) {
                // SAFETY: as in `input`.
                unsafe {
                    let m = load_square::<V, SIDE>(m.as_ptr().add(c), SIDE * step, step);
                    store_square(both_ways::<points::Output, V, _, _>(m), pixels.as_mut_ptr().add(c), width, channels);
                }
            }
        }
    }

    /// The derivative of [`output`]: A dy Aᵀ of `tiles`, from dy in its frame.
    fn output_backward<V divides (of_m.channels())>(grid: Grid, tiles: Range<usize>, of_m: Products, framed: &[f32], m: &mut [f32]) {
        let (channels, step) = (of_m.channels(), of_m.step() * LANES);
        let width = grid.framed_width() * channels;
        for (row, tile) in tiles.enumerate() {
            // The tile's outputs lie one pixel inside its input.
            let corner = grid.corner(tile) * channels + width + channels;
            let framed = &framed[corner..][..extent(TILE, width, channels, channels)];
            let m = &mut m[row * channels..][..extent(SIDE, SIDE * step, step, channels)];
            for c in (0..channels).step_by(V::LANES) {
                // SAFETY: as in `input`.
                unsafe {
                    let dy = load_square::<V, TILE>(framed.as_ptr().add(c), width, channels);
                    store_square(both_ways::<points::OutputBack, V, _, _>(dy), m.as_mut_ptr().add(c), SIDE * step, step);
                }
            }
        }
    }
}

/// `weight [co, ci * 9]` as [ci * 9, padded co].
fn taps_of(weight: &[f32], ci: usize, co: usize) -> Vec<Lane> {
    let (taps, vectors) = (9 * ci, padded(co) / LANES);
    let mut lanes = vec![[0.0; LANES]; taps * vectors];
    for (vector, weight) in weight.chunks(LANES * taps).enumerate() {
        let channels = weight.len() / taps;
        let lines = Lines { channels, rows: 1, width: taps, plane: taps, row_stride: 0, stride: vectors };
        gather(weight, lines, &mut lanes[vector..]);
    }
    lanes
}
