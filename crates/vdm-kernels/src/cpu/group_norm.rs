//! Group normalisation, optionally followed by SiLU and dropout, in one pass over each group while it is in the cache.

// Loops over vectors count indices, since iterator adaptors are not inlined.
#![allow(clippy::needless_range_loop)]

use super::math::{LANES, sigmoid, tree};
use super::simd::{Vector, with_vectors};
use crate::rng::Philox;
use rayon::prelude::*;

/// Numbers that make a task.
const RUN: usize = 1024;

/// What [`forward`] and [`backward`] compute.
#[derive(Clone, Copy, Debug)]
pub struct Spec {
    /// Images.
    pub batch: usize,
    /// Channels, a multiple of `groups`.
    pub channels: usize,
    /// Pixels of a channel (height times width).
    pub pixels: usize,
    /// Groups of channels that are normalised together.
    pub groups: usize,
    /// Added to the variance.
    pub eps: f32,
    /// Whether SiLU, y sigmoid(y), follows.
    pub silu: bool,
    /// Probability with which dropout zeroes an output; 0 for none.
    pub dropout: f32,
    /// Seed of the dropout mask. The mask is drawn again in [`backward`], not stored.
    pub seed: u64,
}

impl Spec {
    fn slab(&self) -> usize {
        self.channels / self.groups * self.pixels
    }

    /// Slabs that a task takes together, where an image has `groups`: small ones by the dozen, and always some of one
    /// image.
    fn together_of(&self, groups: usize) -> usize {
        let most = (RUN / self.slab().max(1)).clamp(1, groups.max(1));
        (1..=most).rev().find(|n| groups.is_multiple_of(*n)).unwrap_or(1)
    }

    /// The parts, with the groups that each has.
    fn parts<'a>(&self, x: &[&'a [f32]]) -> Vec<Part<'a>> {
        let mut first = 0;
        let slabs = (self.batch * self.slab()).max(1);
        x.iter()
            .map(|x| {
                let part = Part { x, first, groups: x.len() / slabs };
                first += part.groups;
                part
            })
            .collect()
    }

    /// The `n` slabs from slab `index` of all parts on, which are in one part.
    fn run_of<'a>(&self, parts: &[Part<'a>], index: usize, n: usize) -> &'a [f32] {
        let (image, group) = (index / self.groups, index % self.groups);
        let part = parts.iter().rev().find(|part| part.first <= group).expect("the first part begins at group 0");
        &part.x[(image * part.groups + group - part.first) * self.slab()..][..n * self.slab()]
    }

    /// Dropout's factors (0 or 1/(1-p)) for the `len` numbers from slab `index` on: the mask of an image is one draw of
    /// the stream with its number. Empty without dropout.
    fn mask<'a>(&self, index: usize, len: usize, buffer: &'a mut Vec<f32>) -> &'a [f32] {
        buffer.clear();
        if self.dropout == 0.0 {
            return buffer;
        }
        let first = index % self.groups * self.slab();
        let skipped = first % Philox::DROPOUT_UNIT;
        buffer.resize(skipped + len, 0.0);
        let stream = Philox::new(self.seed, (index / self.groups) as u64);
        stream.dropout_from(self.dropout, first / Philox::DROPOUT_UNIT, buffer);
        &buffer[skipped..]
    }

    /// The channels of `n` slabs from slab `index` on among all channels.
    fn channels_of(&self, index: usize, n: usize) -> std::ops::Range<usize> {
        let per_group = self.channels / self.groups;
        let first = index % self.groups * per_group;
        first..first + n * per_group
    }
}

/// `x`, whose parts `[B, C', P]` have all C channels together, `gamma` and `beta [C]` -> `y [B, C, P]`; `stats [B, G, 2]`
/// takes each group's mean and 1/std. All are overwritten.
///
/// No group may lie in two parts.
pub fn forward(s: &Spec, x: &[&[f32]], gamma: &[f32], beta: &[f32], y: &mut [f32], stats: &mut [f32]) {
    let (slab, parts) = (s.slab(), s.parts(x));
    // A run of slabs lies in one part.
    let n = parts.iter().fold(s.groups, |n, part| greatest_common_divisor(n, part.groups));
    let n = s.together_of(n);
    y.par_chunks_mut(n * slab).zip(stats.par_chunks_mut(2 * n)).enumerate().for_each_init(
        Vec::new,
        |mask, (run, (y, stats))| {
            let mask = s.mask(run * n, y.len(), mask);
            let c = s.channels_of(run * n, n);
            forward_run(s, s.run_of(&parts, run * n, n), &gamma[c.clone()], &beta[c], mask, y, stats);
        },
    );
}

/// Gradients of [`forward`]: `dx` in parts as `x`, and the parameters' `dgamma`, `dbeta [C]`; all are overwritten.
#[allow(clippy::too_many_arguments)]
pub fn backward(
    s: &Spec,
    x: &[&[f32]],
    gamma: &[f32],
    beta: &[f32],
    stats: &[f32],
    dy: &[f32],
    dx: &mut [&mut [f32]],
    dgamma: &mut [f32],
    dbeta: &mut [f32],
) {
    let slab = s.slab();
    let per_group = s.channels / s.groups;
    for (part, dx) in s.parts(x).into_iter().zip(dx) {
        let n = s.together_of(part.groups);
        let of_image = part.groups * per_group;
        // Per image and channel: Σ dn xhat and Σ dn, added over the batch in order below.
        let mut partial = vec![0f32; s.batch * of_image * 2];
        dx.par_chunks_mut(n * slab)
            .zip(partial.par_chunks_mut(n * per_group * 2))
            .zip(part.x.par_chunks(n * slab))
            .enumerate()
            .for_each_init(Vec::new, |mask, (run, ((dx, partial), x))| {
                // Of the run's first slab, among those of all parts.
                let index = part.index(s, run * n);
                let mask = s.mask(index, dx.len(), mask);
                let slabs = dx.chunks_exact_mut(slab).zip(partial.chunks_exact_mut(per_group * 2));
                for (i, ((dx, partial), x)) in slabs.zip(x.chunks_exact(slab)).enumerate() {
                    let (c, at) = (s.channels_of(index + i, 1), index + i);
                    let mask = mask.get(i * slab..(i + 1) * slab).unwrap_or_default();
                    let (dy, stats) = (&dy[at * slab..][..slab], &stats[2 * at..][..2]);
                    backward_slab(s, x, &gamma[c.clone()], &beta[c], mask, stats, dy, dx, partial);
                }
            });
        let first = part.first * per_group;
        dgamma[first..first + of_image].fill(0.0);
        dbeta[first..first + of_image].fill(0.0);
        for image in partial.chunks_exact(of_image * 2) {
            for (c, pair) in image.chunks_exact(2).enumerate() {
                dgamma[first + c] += pair[0];
                dbeta[first + c] += pair[1];
            }
        }
    }
}

fn greatest_common_divisor(a: usize, b: usize) -> usize {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}

/// Some of the channels, for all images.
struct Part<'a> {
    x: &'a [f32],
    /// The first group of an image in this part.
    first: usize,
    /// Groups of an image in this part.
    groups: usize,
}

impl Part<'_> {
    /// The number among all slabs of this part's slab `index`.
    fn index(&self, s: &Spec, index: usize) -> usize {
        index / self.groups * s.groups + self.first + index % self.groups
    }
}

with_vectors! {
    /// Some groups of one image: `gamma` and `beta` are their channels'.
    ///
    /// In four loops over the groups: a group's sums, its deviation and its outputs wait for each other, those of several
    /// groups do not.
    fn forward_run<V: 16>(
        s: &Spec, x: &[f32], gamma: &[f32], beta: &[f32], mask: &[f32], y: &mut [f32], stats: &mut [f32],
    ) {
        let n = s.slab();
        for (stats, x) in stats.chunks_exact_mut(2).zip(x.chunks_exact(n)) {
            stats[0] = (sum::<V>(x) / n as f64) as f32;
        }
        for (stats, x) in stats.chunks_exact_mut(2).zip(x.chunks_exact(n)) {
            stats[1] = (squared_deviations::<V>(x, stats[0]) / n as f64) as f32;
        }
        for stats in stats.chunks_exact_mut(2) {
            stats[1] = 1.0 / (stats[1] + s.eps).sqrt();
        }
        let per_group = gamma.len() / (stats.len() / 2);
        for (c, (y, x)) in y.chunks_exact_mut(s.pixels).zip(x.chunks_exact(s.pixels)).enumerate() {
            let stats = &stats[2 * (c / per_group)..][..2];
            let a = gamma[c] * stats[1];
            let b = beta[c] - stats[0] * a;
            let whole = x.len() - x.len() % V::LANES;
            for i in (0..whole).step_by(V::LANES) {
                // SAFETY: `i + LANES` is at most the length of both.
                unsafe { normalised::<V>(s.silu, a, b, x.as_ptr().add(i), y.as_mut_ptr().add(i)) };
            }
            for i in whole..x.len() {
                // SAFETY: `i` is below the length of both.
                unsafe { normalised::<f32>(s.silu, a, b, x.as_ptr().add(i), y.as_mut_ptr().add(i)) };
            }
        }
        for (y, m) in y.iter_mut().zip(mask) {
            *y *= m;
        }
    }

    /// Gradients of one group of one image; `partial` takes Σ dn xhat and Σ dn of each of its channels.
    fn backward_slab<V: 16>(
        s: &Spec, x: &[f32], gamma: &[f32], beta: &[f32], mask: &[f32], stats: &[f32], dy: &[f32], dx: &mut [f32],
        partial: &mut [f32],
    ) {
        let (mean, rstd) = (stats[0], stats[1]);
        let of_all = Normal { mean, rstd, gamma: 0.0, beta: 0.0, mean_d: 0.0, mean_dx: 0.0 };
        let (mut sum, mut sum_xhat) = (0f64, 0f64);
        for (c, (dx, x)) in dx.chunks_exact_mut(s.pixels).zip(x.chunks_exact(s.pixels)).enumerate() {
            let at = c * s.pixels;
            let (dy, mask) = (&dy[at..][..s.pixels], mask.get(at..at + s.pixels).unwrap_or_default());
            let of = Normal { gamma: gamma[c], beta: beta[c], ..of_all };
            let (d_beta, d_gamma) = dn::<V>(of, s.silu, x, dy, mask, dx);
            partial[2 * c] = d_gamma as f32;
            partial[2 * c + 1] = d_beta as f32;
            sum += f64::from(gamma[c]) * d_beta;
            sum_xhat += f64::from(gamma[c]) * d_gamma;
        }
        let mean_d = (sum / x.len() as f64) as f32;
        let mean_dx = (sum_xhat / x.len() as f64) as f32;
        for (c, (dx, x)) in dx.chunks_exact_mut(s.pixels).zip(x.chunks_exact(s.pixels)).enumerate() {
            let of = Normal { gamma: gamma[c], mean_d, mean_dx, ..of_all };
            let whole = x.len() - x.len() % V::LANES;
            for i in (0..whole).step_by(V::LANES) {
                // SAFETY: `i + LANES` is at most the length of both.
                unsafe { of.dx::<V>(x.as_ptr().add(i), dx.as_mut_ptr().add(i)) };
            }
            for i in whole..x.len() {
                // SAFETY: `i` is below the length of both.
                unsafe { of.dx::<f32>(x.as_ptr().add(i), dx.as_mut_ptr().add(i)) };
            }
        }
    }
}

/// `y = a x + b` for one vector, with SiLU if `silu`.
///
/// # Safety
/// A vector is readable at `x` and writable at `y`.
#[inline(always)]
unsafe fn normalised<V: Vector>(silu: bool, a: f32, b: f32, x: *const f32, y: *mut f32) {
    // SAFETY: the caller's promise.
    unsafe {
        let n = V::load(x).fma(V::splat(a), V::splat(b));
        if silu { n.mul(sigmoid(n)) } else { n }.store(y);
    }
}

/// What the gradients of a channel of one image need.
#[derive(Clone, Copy)]
struct Normal {
    mean: f32,
    rstd: f32,
    gamma: f32,
    beta: f32,
    /// Mean over the group of the gradient for xhat.
    mean_d: f32,
    /// Mean over the group of the gradient for xhat times xhat.
    mean_dx: f32,
}

impl Normal {
    #[inline(always)]
    fn xhat<V: Vector>(&self, x: V) -> V {
        x.sub(V::splat(self.mean)).mul(V::splat(self.rstd))
    }

    /// The gradient for the normalised number n before SiLU, from that of the output.
    #[inline(always)]
    fn before_silu<V: Vector>(&self, x: V, dy: V) -> V {
        let a = self.gamma * self.rstd;
        let n = x.fma(V::splat(a), V::splat(self.beta - self.mean * a));
        let (g, one) = (sigmoid(n), V::splat(1.0));
        dy.mul(g.mul(n.mul(one.sub(g)).add(one)))
    }

    /// The gradient for a vector of x, from the gradient for n that is in its place.
    ///
    /// # Safety
    /// A vector is readable at `x`, and readable and writable at `dx`.
    #[inline(always)]
    unsafe fn dx<V: Vector>(&self, x: *const f32, dx: *mut f32) {
        // SAFETY: the caller's promise.
        unsafe {
            let (xhat, dn) = (self.xhat(V::load(x)), V::load(dx));
            let d = V::splat(self.gamma).mul(dn).sub(V::splat(self.mean_d)).sub(xhat.mul(V::splat(self.mean_dx)));
            V::splat(self.rstd).mul(d).store(dx);
        }
    }
}

/// The gradient `dn` for the normalised numbers of a channel, and its sums Σ dn and Σ dn xhat; `mask` may be empty.
#[inline(always)]
fn dn<V: Vector>(of: Normal, silu: bool, x: &[f32], dy: &[f32], mask: &[f32], dn: &mut [f32]) -> (f64, f64) {
    let n = x.len();
    let whole = n - n % LANES;
    let mut sums = [[V::splat(0.0); 2]; 2];
    for base in (0..whole).step_by(LANES) {
        for part in 0..LANES / V::LANES {
            let i = base + part * V::LANES;
            // SAFETY: `i + LANES` is at most the length of all; `mask` is as long, or empty.
            unsafe {
                let x = V::load(x.as_ptr().add(i));
                let mut d = V::load(dy.as_ptr().add(i));
                if !mask.is_empty() {
                    d = d.mul(V::load(mask.as_ptr().add(i)));
                }
                if silu {
                    d = of.before_silu(x, d);
                }
                d.store(dn.as_mut_ptr().add(i));
                sums[0][part] = sums[0][part].add(d);
                sums[1][part] = sums[1][part].add(d.mul(of.xhat(x)));
            }
        }
    }
    let mut tail = [0f64; 2];
    for i in whole..n {
        let mut d = dy[i] * mask.get(i).unwrap_or(&1.0);
        if silu {
            d = of.before_silu(x[i], d);
        }
        dn[i] = d;
        tail[0] += f64::from(d);
        tail[1] += f64::from(d * of.xhat(x[i]));
    }
    (total(sums[0]) + tail[0], total(sums[1]) + tail[1])
}

/// Σ x, as [`sum_by`](super::math::sum_by) adds.
#[inline(always)]
fn sum<V: Vector>(x: &[f32]) -> f64 {
    let whole = x.len() - x.len() % LANES;
    let mut sums = [V::splat(0.0); 2];
    for base in (0..whole).step_by(LANES) {
        for part in 0..LANES / V::LANES {
            // SAFETY: `base + LANES` is at most the length.
            sums[part] = sums[part].add(unsafe { V::load(x.as_ptr().add(base + part * V::LANES)) });
        }
    }
    total(sums) + x[whole..].iter().map(|&x| f64::from(x)).sum::<f64>()
}

/// Σ (x - mean)², in the same order.
#[inline(always)]
fn squared_deviations<V: Vector>(x: &[f32], mean: f32) -> f64 {
    let whole = x.len() - x.len() % LANES;
    let mut sums = [V::splat(0.0); 2];
    for base in (0..whole).step_by(LANES) {
        for part in 0..LANES / V::LANES {
            // SAFETY: `base + LANES` is at most the length.
            let d = unsafe { V::load(x.as_ptr().add(base + part * V::LANES)) }.sub(V::splat(mean));
            sums[part] = sums[part].add(d.mul(d));
        }
    }
    total(sums) + x[whole..].iter().map(|&x| f64::from((x - mean) * (x - mean))).sum::<f64>()
}

/// The sum over two vectors of 16 partial sums.
#[inline(always)]
fn total<V: Vector>(sums: [V; 2]) -> f64 {
    let mut lanes = [0f32; LANES];
    // SAFETY: two vectors of 16 lanes are 32 numbers.
    unsafe {
        sums[0].store(lanes.as_mut_ptr());
        sums[1].store(lanes.as_mut_ptr().add(V::LANES));
    }
    tree(&lanes)
}
