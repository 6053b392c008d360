//! Convolutions 3x3 (padding 1) and 1x1, stride 1, as matrix products over unfolded tiles of rows (im2col).
//!
//! Images are independent and run in parallel. In the backward pass a fixed number of groups of images each collect a
//! partial weight gradient, and the partial sums are added in order.

use super::math;
use super::matmul::{Layout, matmul};
use rayon::prelude::*;

/// Output pixels that one tile aims at: the unfolded tile stays in the second-level cache.
const TILE_PIXELS: usize = 256;
/// Most partial weight gradients that are kept at a time.
const MAX_GROUPS: usize = 8;

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

    fn taps(&self) -> usize {
        self.k * self.k
    }

    fn tile_rows(&self) -> usize {
        TILE_PIXELS.div_ceil(self.w).min(self.h)
    }

    /// Images of one group of the backward pass: depends on the batch alone, never on threads.
    fn group(&self) -> usize {
        self.batch.div_ceil(MAX_GROUPS).max(1)
    }
}

/// `x [B, ci, h, w]`, `weight [co, ci, k, k]`, `bias [B, co]` or [1, co] -> `y [B, co, h, w]`.
pub fn forward(s: &Spec, x: &[f32], weight: &[f32], bias: &[f32], y: &mut [f32]) {
    let pixels = s.pixels();
    let shared = bias.len() == s.co;
    y.par_chunks_mut(s.co * pixels).zip(x.par_chunks(s.ci * pixels)).enumerate().for_each_init(
        Vec::new,
        |col, (image, (y, x))| {
            let bias = if shared { bias } else { &bias[image * s.co..][..s.co] };
            for (y, &b) in y.chunks_exact_mut(pixels).zip(bias) {
                y.fill(b);
            }
            convolve(s, s.ci, s.co, x, weight, y, col);
        },
    );
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
    let pixels = s.pixels();
    let (group, row) = (s.group(), s.ci * s.taps());
    let flipped = if dx.is_empty() { Vec::new() } else { flip(s, weight) };
    let mut partial = vec![0f32; s.batch.div_ceil(group) * s.co * row];
    // A dummy chunk for every group where no dx is wanted keeps one loop for both cases.
    let mut none: Vec<&mut [f32]> = Vec::new();
    let dx_groups: Vec<&mut [f32]> = if dx.is_empty() {
        none.resize_with(s.batch.div_ceil(group), Default::default);
        none
    } else {
        dx.chunks_mut(group * s.ci * pixels).collect()
    };
    partial
        .par_chunks_mut(s.co * row)
        .zip(dx_groups)
        .zip(x.par_chunks(group * s.ci * pixels))
        .zip(dy.par_chunks(group * s.co * pixels))
        .for_each_init(Vec::new, |col, (((dweight, dx), x), dy)| {
            for (x, dy) in x.chunks_exact(s.ci * pixels).zip(dy.chunks_exact(s.co * pixels)) {
                correlate(s, x, dy, dweight, col);
            }
            for (dx, dy) in dx.chunks_exact_mut(s.ci * pixels).zip(dy.chunks_exact(s.co * pixels)) {
                dx.fill(0.0);
                convolve(s, s.co, s.ci, dy, &flipped, dx, col);
            }
        });
    dweight.fill(0.0);
    for part in partial.chunks_exact(s.co * row) {
        math::add(part, dweight);
    }
    let shared = dbias.len() == s.co;
    dbias.fill(0.0);
    for (i, dy) in dy.chunks_exact(pixels).enumerate() {
        dbias[if shared { i % s.co } else { i }] += math::sum(dy) as f32;
    }
}

/// y [co, h, w] += weight [co, ci, k, k] * x [ci, h, w], for one image.
fn convolve(s: &Spec, ci: usize, co: usize, x: &[f32], weight: &[f32], y: &mut [f32], col: &mut Vec<f32>) {
    let (pixels, row) = (s.pixels(), ci * s.taps());
    let lw = Layout::row_major(co, row);
    if s.k == 1 {
        return matmul(true, weight, lw, x, Layout::row_major(ci, pixels), y, Layout::row_major(co, pixels));
    }
    for top in (0..s.h).step_by(s.tile_rows()) {
        let n = unfold(s, ci, x, top, col);
        let ly = Layout { rows: co, cols: n, offset: top * s.w, row_stride: pixels, col_stride: 1 };
        matmul(true, weight, lw, col, Layout::row_major(row, n), y, ly);
    }
}

/// dweight [co, ci, k, k] += dy [co, h, w] against x [ci, h, w], for one image.
fn correlate(s: &Spec, x: &[f32], dy: &[f32], dweight: &mut [f32], col: &mut Vec<f32>) {
    let (pixels, row) = (s.pixels(), s.ci * s.taps());
    let ld = Layout::row_major(s.co, row);
    if s.k == 1 {
        let lx = Layout::row_major(s.ci, pixels).transposed();
        return matmul(true, dy, Layout::row_major(s.co, pixels), x, lx, dweight, ld);
    }
    for top in (0..s.h).step_by(s.tile_rows()) {
        let n = unfold(s, s.ci, x, top, col);
        let ldy = Layout { rows: s.co, cols: n, offset: top * s.w, row_stride: pixels, col_stride: 1 };
        matmul(true, dy, ldy, col, Layout::row_major(row, n).transposed(), dweight, ld);
    }
}

/// Writes the 3x3 neighbourhoods of the tile of rows from `top` into `col [c * 9, n]`; returns n, the tile's pixels.
///
/// Rows lie one after the other both in the image and in the tile, so that a tap is one shifted copy of all rows, and
/// zeros where the shift crossed the image's border.
fn unfold(s: &Spec, channels: usize, x: &[f32], top: usize, col: &mut Vec<f32>) -> usize {
    let (h, w) = (s.h, s.w);
    let rows = s.tile_rows().min(h - top);
    let n = rows * w;
    col.resize(channels * 9 * n, 0.0);
    for (plane, col) in x.chunks_exact(h * w).zip(col.chunks_exact_mut(9 * n)) {
        for (tap, out) in col.chunks_exact_mut(n).enumerate() {
            let (ky, kx) = (tap / 3, tap % 3);
            // Pixel i of the tile reads pixel i + shift of the image.
            let shift = ((top + ky) * w + kx) as isize - (w + 1) as isize;
            let first = (-shift).clamp(0, n as isize) as usize;
            let last = (plane.len() as isize - shift).clamp(first as isize, n as isize) as usize;
            out[..first].fill(0.0);
            out[last..].fill(0.0);
            if last > first {
                let from = (first as isize + shift) as usize;
                out[first..last].copy_from_slice(&plane[from..from + last - first]);
            }
            match kx {
                0 => out.iter_mut().step_by(w).for_each(|x| *x = 0.0),
                2 => out.iter_mut().skip(w - 1).step_by(w).for_each(|x| *x = 0.0),
                _ => {}
            }
        }
    }
    n
}

/// The weight of the data gradient: [ci, co, k, k] with taps in reverse order.
fn flip(s: &Spec, weight: &[f32]) -> Vec<f32> {
    let taps = s.taps();
    let mut out = vec![0f32; weight.len()];
    for o in 0..s.co {
        for i in 0..s.ci {
            for tap in 0..taps {
                out[(i * s.co + o) * taps + taps - 1 - tap] = weight[(o * s.ci + i) * taps + tap];
            }
        }
    }
    out
}
