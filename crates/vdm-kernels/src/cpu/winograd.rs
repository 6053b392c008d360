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

use super::math::vectorized;
use super::matmul::{Layout, matmul};
use std::ops::Range;

/// Products of a tile.
pub const PRODUCTS: usize = 16;
/// Channels of a vector.
const LANES: usize = 8;
/// Tiles that are transformed at a time: the transforms stay in the second-level cache.
const BLOCK: usize = 64;

/// Eight channels of one pixel.
type Lane = [f32; LANES];

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

/// Buffers that a thread uses again and again.
#[derive(Debug, Default)]
pub struct Scratch {
    framed: Vec<Lane>,
    framed_out: Vec<Lane>,
    v: Vec<Lane>,
    m: Vec<Lane>,
}

/// A transformed weight: U = G g Gᵀ as [16, padded ci, padded co].
#[derive(Clone, Debug)]
pub struct Weight {
    u: Vec<f32>,
    ci: usize,
    co: usize,
}

impl Weight {
    /// Transforms `weight [co, ci, 3, 3]`.
    pub fn new(weight: &[f32], ci: usize, co: usize) -> Self {
        let (pi, po) = (padded(ci), padded(co));
        let mut u = vec![0f32; PRODUCTS * pi * po];
        let half = |[a, b, c]: [f32; 3]| [a, 0.5 * (a + b + c), 0.5 * (a - b + c), c];
        for (i, g) in weight.as_chunks::<9>().0.iter().enumerate() {
            let at = i % ci * po + i / ci;
            let columns: [[f32; 4]; 3] = std::array::from_fn(|j| half([g[j], g[3 + j], g[6 + j]]));
            for row in 0..4 {
                for (col, x) in half([columns[0][row], columns[1][row], columns[2][row]]).into_iter().enumerate() {
                    u[(row * 4 + col) * pi * po + at] = x;
                }
            }
        }
        Self { u, ci, co }
    }

    /// Numbers of a gradient for U.
    pub fn gradient_len(ci: usize, co: usize) -> usize {
        PRODUCTS * padded(ci) * padded(co)
    }

    /// Gᵀ dU G: the gradient of `weight [co, ci, 3, 3]` from that of U.
    pub fn gradient(du: &[f32], ci: usize, co: usize, dweight: &mut [f32]) {
        let (pi, po) = (padded(ci), padded(co));
        let half = |[a, b, c, d]: [f32; 4]| [a + 0.5 * (b + c), 0.5 * (b - c), 0.5 * (b + c) + d];
        for (i, dg) in dweight.as_chunks_mut::<9>().0.iter_mut().enumerate() {
            let at = i % ci * po + i / ci;
            let d = |row: usize, col: usize| du[(row * 4 + col) * pi * po + at];
            let columns: [[f32; 3]; 4] = std::array::from_fn(|j| half([d(0, j), d(1, j), d(2, j), d(3, j)]));
            for row in 0..3 {
                let line = half([columns[0][row], columns[1][row], columns[2][row], columns[3][row]]);
                dg[row * 3..row * 3 + 3].copy_from_slice(&line);
            }
        }
    }
}

/// `y [images, co, h, w]` = `bias [images, co]` + weight * `x [images, ci, h, w]`.
pub fn convolve(grid: Grid, x: &[f32], weight: &Weight, bias: &[f32], y: &mut [f32], s: &mut Scratch) {
    let (pi, po) = (padded(weight.ci), padded(weight.co));
    let (vi, vo) = (pi / LANES, po / LANES);
    frame(grid, x, weight.ci, &mut s.framed);
    // Outputs are collected with channels last, on whole tiles.
    s.framed_out.resize(grid.images * grid.tiles() * 4 * vo, [0.0; LANES]);
    for tiles in grid.blocks() {
        let rows = at_least_two(tiles.len());
        s.v.resize(PRODUCTS * rows * vi, [0.0; LANES]);
        s.m.resize(PRODUCTS * rows * vo, [0.0; LANES]);
        input(grid, tiles.clone(), vi, rows, &s.framed, &mut s.v);
        for p in 0..PRODUCTS {
            let v = &s.v.as_flattened()[p * rows * pi..][..rows * pi];
            let m = &mut s.m.as_flattened_mut()[p * rows * po..][..rows * po];
            let u = &weight.u[p * pi * po..][..pi * po];
            matmul(false, v, Layout::row_major(rows, pi), u, Layout::row_major(pi, po), m, Layout::row_major(rows, po));
        }
        output(grid, tiles, vo, rows, &s.m, &mut s.framed_out);
    }
    unframe(grid, vo, &s.framed_out, bias, y);
}

/// `du` += the gradient of U from `dy [images, co, h, w]` and `x [images, ci, h, w]`.
pub fn correlate(grid: Grid, x: &[f32], ci: usize, dy: &[f32], co: usize, du: &mut [f32], s: &mut Scratch) {
    let (pi, po) = (padded(ci), padded(co));
    let (vi, vo) = (pi / LANES, po / LANES);
    frame(grid, x, ci, &mut s.framed);
    frame(grid, dy, co, &mut s.framed_out);
    for tiles in grid.blocks() {
        let rows = at_least_two(tiles.len());
        s.v.resize(PRODUCTS * rows * vi, [0.0; LANES]);
        s.m.resize(PRODUCTS * rows * vo, [0.0; LANES]);
        input(grid, tiles.clone(), vi, rows, &s.framed, &mut s.v);
        output_backward(grid, tiles, vo, rows, &s.framed_out, &mut s.m);
        for p in 0..PRODUCTS {
            let v = &s.v.as_flattened()[p * rows * pi..][..rows * pi];
            let m = &s.m.as_flattened()[p * rows * po..][..rows * po];
            let du = &mut du[p * pi * po..][..pi * po];
            let lv = Layout::row_major(rows, pi).transposed();
            matmul(true, v, lv, m, Layout::row_major(rows, po), du, Layout::row_major(pi, po));
        }
    }
}

/// Rows of the matrix products: two at least, since a product of one row adds up in another order.
fn at_least_two(tiles: usize) -> usize {
    tiles.max(2)
}

vectorized! {
    /// `x [images, channels, h, w]` with channels last, padded, in frames of zeros.
    fn frame(grid: Grid, x: &[f32], channels: usize, framed: &mut Vec<Lane>) {
        let vectors = padded(channels) / LANES;
        framed.clear();
        framed.resize(grid.images * grid.framed_pixels() * vectors, [0.0; LANES]);
        let (w, pixels) = (grid.w, grid.h * grid.w);
        for index in 0..grid.images * vectors {
            let (image, vector) = (index / vectors, index % vectors);
            let first = vector * LANES;
            let x = &x[image * channels * pixels..][..channels * pixels];
            for y in 0..grid.h {
                let at = image * grid.framed_pixels() + (y + 1) * grid.framed_width() + 1;
                let row = &mut framed[at * vectors + vector..];
                let row = &mut row[..(w - 1) * vectors + 1];
                if first + LANES <= channels {
                    let x = &x[first * pixels + y * w..][..7 * pixels + w];
                    let (l0, l1, l2, l3) = (&x[..w], &x[pixels..][..w], &x[2 * pixels..][..w], &x[3 * pixels..][..w]);
                    let x = &x[4 * pixels..];
                    let (l4, l5, l6, l7) = (&x[..w], &x[pixels..][..w], &x[2 * pixels..][..w], &x[3 * pixels..][..w]);
                    for i in 0..w {
                        row[i * vectors] = [l0[i], l1[i], l2[i], l3[i], l4[i], l5[i], l6[i], l7[i]];
                    }
                } else {
                    for lane in 0..channels - first {
                        let line = &x[(first + lane) * pixels + y * w..][..w];
                        for i in 0..w {
                            row[i * vectors][lane] = line[i];
                        }
                    }
                }
            }
        }
    }

    /// `y [images, channels, h, w]` = `bias [images, channels]` + pixels with channels last.
    fn unframe(grid: Grid, vectors: usize, pixels: &[Lane], bias: &[f32], y: &mut [f32]) {
        let (w, plane, channels) = (grid.w, grid.h * grid.w, bias.len() / grid.images);
        for index in 0..bias.len() {
            let (image, c, b) = (index / channels, index % channels, bias[index]);
            let (vector, lane) = (c / LANES, c % LANES);
            for row in 0..grid.h {
                let at = (image * 2 * grid.down() + row) * 2 * grid.across();
                let line = &pixels[at * vectors + vector..][..(w - 1) * vectors + 1];
                let out = &mut y[index * plane + row * w..][..w];
                for i in 0..w {
                    out[i] = line[i * vectors][lane] + b;
                }
            }
        }
    }

    /// Bᵀ d B of `tiles`: product p of tile t, vector c at `v[(p * rows + t) * vectors + c]`.
    fn input(grid: Grid, tiles: Range<usize>, vectors: usize, rows: usize, framed: &[Lane], v: &mut [Lane]) {
        let width = grid.framed_width() * vectors;
        let step = rows * vectors;
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
    fn output(grid: Grid, tiles: Range<usize>, vectors: usize, rows: usize, m: &[Lane], pixels: &mut [Lane]) {
        let width = 2 * grid.across() * vectors;
        let step = rows * vectors;
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
    fn output_backward(grid: Grid, tiles: Range<usize>, vectors: usize, rows: usize, framed: &[Lane], m: &mut [Lane]) {
        let width = grid.framed_width() * vectors;
        let step = rows * vectors;
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
