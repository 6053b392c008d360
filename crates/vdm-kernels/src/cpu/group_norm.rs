//! Group normalisation, optionally followed by SiLU and dropout, in one pass over each group while it is in the cache.

// Loops over vectors count indices, since iterator adaptors are not inlined.
#![allow(clippy::needless_range_loop)]

use super::math::{LANES, Number, SquaredDeviation, sigmoid, sum_by};
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
    /// Outputs are not zeroed before they are written, so all of them must be.
    ///
    /// # Panics
    /// If groups take no whole channels of one part, or a slice is of another length than the shapes say.
    fn check(&self, x: &[&[f32]], outputs: usize) {
        let (all, slabs) = (self.batch * self.channels * self.pixels, (self.batch * self.slab()).max(1));
        assert!(self.channels.is_multiple_of(self.groups), "{self:?}: groups of no whole channels");
        assert!(x.iter().map(|x| x.len()).sum::<usize>() == all && outputs == all, "{self:?}: {outputs} outputs");
        assert!(x.iter().all(|x| x.len().is_multiple_of(slabs)), "{self:?}: a group lies in two parts");
    }

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
        if self.dropout == 0.0 {
            return &[];
        }
        let first = index % self.groups * self.slab();
        let skipped = first % Philox::DROPOUT_UNIT;
        // All are overwritten: zeros are written only where the buffer grows.
        if buffer.len() < skipped + len {
            buffer.resize(skipped + len, 0.0);
        }
        let mask = &mut buffer[..skipped + len];
        let stream = Philox::new(self.seed, (index / self.groups) as u64);
        stream.dropout_from(self.dropout, first / Philox::DROPOUT_UNIT, mask);
        &mask[skipped..]
    }

    /// The numbers of `shift [B, C]` for the channels of `n` slabs from slab `index` on; none if it is empty.
    fn shift_of<'a>(&self, shift: &'a [f32], index: usize, n: usize) -> &'a [f32] {
        if shift.is_empty() {
            return shift;
        }
        let channels = self.channels_of(index, n);
        &shift[index / self.groups * self.channels..][channels]
    }

    /// The channels of `n` slabs from slab `index` on among all channels.
    fn channels_of(&self, index: usize, n: usize) -> std::ops::Range<usize> {
        let per_group = self.channels / self.groups;
        let first = index % self.groups * per_group;
        first..first + n * per_group
    }
}

/// `x`, whose parts `[B, C', P]` have all C channels together, `gamma` and `beta [C]`, `shift [B, C]` or empty -> `y [B, C, P]`;
/// `stats [B, G, 2]` takes each group's mean and 1/std. All are overwritten.
///
/// The shift is added after SiLU and before dropout. No group may lie in two parts.
pub fn forward(s: &Spec, x: &[&[f32]], gamma: &[f32], beta: &[f32], shift: &[f32], y: &mut [f32], stats: &mut [f32]) {
    s.check(x, y.len());
    let (slab, parts) = (s.slab(), s.parts(x));
    // A run of slabs lies in one part.
    let n = parts.iter().fold(s.groups, |n, part| greatest_common_divisor(n, part.groups));
    let n = s.together_of(n);
    y.par_chunks_mut(n * slab).zip(stats.par_chunks_mut(2 * n)).enumerate().for_each_init(
        Vec::new,
        |mask, (run, (y, stats))| {
            let mask = s.mask(run * n, y.len(), mask);
            let c = s.channels_of(run * n, n);
            let shift = s.shift_of(shift, run * n, n);
            forward_run(s, s.run_of(&parts, run * n, n), &gamma[c.clone()], &beta[c], shift, mask, y, stats);
        },
    );
}

/// Gradients of [`forward`]: `dx` in parts as `x`, the parameters' `dgamma`, `dbeta [C]`, and `dshift`, as long as `shift` was,
/// which is empty where `x` has several parts; all are overwritten.
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
    dshift: &mut [f32],
) {
    s.check(x, dy.len());
    let slab = s.slab();
    let per_group = s.channels / s.groups;
    for (part, dx) in s.parts(x).into_iter().zip(dx) {
        let n = s.together_of(part.groups);
        let of_image = part.groups * per_group;
        // Per image and channel: Σ dn xhat and Σ dn, added over the batch in order below.
        let mut partial = vec![0f32; s.batch * of_image * 2];
        let mut shifts: Vec<&mut [f32]> = dshift.chunks_mut(n * per_group).collect();
        shifts.resize_with(dx.len().div_ceil(n * slab), Default::default);
        dx.par_chunks_mut(n * slab)
            .zip(partial.par_chunks_mut(n * per_group * 2))
            .zip(part.x.par_chunks(n * slab))
            .zip(shifts)
            .enumerate()
            .for_each_init(Vec::new, |mask, (run, (((dx, partial), x), dshift))| {
                // Of the run's first slab, among those of all parts.
                let index = part.index(s, run * n);
                let (mask, c) = (s.mask(index, dx.len(), mask), s.channels_of(index, n));
                let (dy, stats) = (&dy[index * slab..][..n * slab], &stats[2 * index..][..2 * n]);
                backward_run(s, x, &gamma[c.clone()], &beta[c], mask, stats, dy, dx, partial, dshift);
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
    /// Some groups of one image: `gamma`, `beta` and `shift` are their channels'.
    ///
    /// In four loops over the groups: a group's sums, its deviation and its outputs wait for each other, those of several
    /// groups do not.
    fn forward_run<V: 16>(
        s: &Spec, x: &[f32], gamma: &[f32], beta: &[f32], shift: &[f32], mask: &[f32], y: &mut [f32], stats: &mut [f32],
    ) {
        let (n, groups) = (s.slab(), stats.len() / 2);
        for group in 0..groups {
            stats[2 * group] = (sum_by::<V>(Number, &x[group * n..][..n]) / n as f64) as f32;
        }
        for group in 0..groups {
            let term = SquaredDeviation(stats[2 * group]);
            stats[2 * group + 1] = (sum_by::<V>(term, &x[group * n..][..n]) / n as f64) as f32;
        }
        for group in 0..groups {
            stats[2 * group + 1] = 1.0 / (stats[2 * group + 1] + s.eps).sqrt();
        }
        let per_group = gamma.len() / groups;
        for c in 0..gamma.len() {
            let (x, y) = (&x[c * s.pixels..][..s.pixels], &mut y[c * s.pixels..][..s.pixels]);
            let stats = &stats[2 * (c / per_group)..][..2];
            let a = gamma[c] * stats[1];
            let of = Affine { a, b: beta[c] - stats[0] * a, shift: if shift.is_empty() { 0.0 } else { shift[c] } };
            let whole = x.len() - x.len() % V::LANES;
            for i in (0..whole).step_by(V::LANES) {
                // SAFETY: `i + LANES` is at most the length of both.
                unsafe { of.normalised::<V>(s.silu, x.as_ptr().add(i), y.as_mut_ptr().add(i)) };
            }
            for i in whole..x.len() {
                // SAFETY: `i` is below the length of both.
                unsafe { of.normalised::<f32>(s.silu, x.as_ptr().add(i), y.as_mut_ptr().add(i)) };
            }
        }
        for (y, m) in y.iter_mut().zip(mask) {
            *y *= m;
        }
    }

    /// Gradients of some groups of one image; `partial` takes Σ dn xhat and Σ dn of each of their channels, and `dshift`,
    /// unless it is empty, the sum of the gradients for the shifted numbers.
    ///
    /// In three loops, for the reason that [`forward_run`] has.
    fn backward_run<V: 16>(
        s: &Spec, x: &[f32], gamma: &[f32], beta: &[f32], mask: &[f32], stats: &[f32], dy: &[f32], dx: &mut [f32],
        partial: &mut [f32], dshift: &mut [f32],
    ) {
        let (groups, channels) = (stats.len() / 2, gamma.len());
        let per_group = channels / groups;
        for c in 0..channels {
            let (stats, at) = (&stats[2 * (c / per_group)..][..2], c * s.pixels);
            let of = Normal { mean: stats[0], rstd: stats[1], gamma: gamma[c], beta: beta[c] };
            let (x, dy, dx) = (&x[at..][..s.pixels], &dy[at..][..s.pixels], &mut dx[at..][..s.pixels]);
            let mask = if mask.is_empty() { mask } else { &mask[at..][..s.pixels] };
            let sums = if dshift.is_empty() {
                dn::<V, false>(of, s.silu, x, dy, mask, dx)
            } else {
                dn::<V, true>(of, s.silu, x, dy, mask, dx)
            };
            partial[2 * c] = sums[1] as f32;
            partial[2 * c + 1] = sums[0] as f32;
            if !dshift.is_empty() {
                dshift[c] = sums[2] as f32;
            }
        }
        for group in 0..groups {
            let (mut sum, mut sum_xhat) = (0f64, 0f64);
            for c in group * per_group..(group + 1) * per_group {
                sum += f64::from(gamma[c]) * f64::from(partial[2 * c + 1]);
                sum_xhat += f64::from(gamma[c]) * f64::from(partial[2 * c]);
            }
            let n = (per_group * s.pixels) as f64;
            let (mean_d, mean_dx) = ((sum / n) as f32, (sum_xhat / n) as f32);
            for c in group * per_group..(group + 1) * per_group {
                let (stats, at) = (&stats[2 * group..][..2], c * s.pixels);
                let of = Normal { mean: stats[0], rstd: stats[1], gamma: gamma[c], beta: beta[c] };
                let (x, dx) = (&x[at..][..s.pixels], &mut dx[at..][..s.pixels]);
                let whole = x.len() - x.len() % V::LANES;
                for i in (0..whole).step_by(V::LANES) {
                    // SAFETY: `i + LANES` is at most the length of both.
                    unsafe { of.dx::<V>(mean_d, mean_dx, x.as_ptr().add(i), dx.as_mut_ptr().add(i)) };
                }
                for i in whole..x.len() {
                    // SAFETY: `i` is below the length of both.
                    unsafe { of.dx::<f32>(mean_d, mean_dx, x.as_ptr().add(i), dx.as_mut_ptr().add(i)) };
                }
            }
        }
    }
}

/// What becomes of the numbers of a channel of one image: a x + b, SiLU of it, and `shift` added.
#[derive(Clone, Copy)]
struct Affine {
    a: f32,
    b: f32,
    shift: f32,
}

impl Affine {
    /// One vector, with SiLU if `silu`.
    ///
    /// # Safety
    /// A vector is readable at `x` and writable at `y`.
    #[inline(always)]
    unsafe fn normalised<V: Vector>(&self, silu: bool, x: *const f32, y: *mut f32) {
        // SAFETY: the caller's promise.
        unsafe {
            let n = V::load(x).fma(V::splat(self.a), V::splat(self.b));
            let n = if silu { n.mul(sigmoid(n)) } else { n };
            n.add(V::splat(self.shift)).store(y);
        }
    }
}

/// What the gradients of a channel of one image need.
#[derive(Clone, Copy)]
struct Normal {
    mean: f32,
    rstd: f32,
    gamma: f32,
    beta: f32,
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

    /// Writes a vector of the gradient for n, from number `i` on; it, its product with xhat, and the gradient after SiLU.
    ///
    /// # Safety
    /// All have a vector from `i` on; only `mask` may be empty.
    #[inline(always)]
    unsafe fn terms<V: Vector>(
        &self,
        silu: bool,
        x: &[f32],
        dy: &[f32],
        mask: &[f32],
        dn: &mut [f32],
        i: usize,
    ) -> [V; 3] {
        // SAFETY: the caller's promise.
        unsafe {
            let x = V::load(x.as_ptr().add(i));
            let mut after = V::load(dy.as_ptr().add(i));
            if !mask.is_empty() {
                after = after.mul(V::load(mask.as_ptr().add(i)));
            }
            let before = if silu { self.before_silu(x, after) } else { after };
            before.store(dn.as_mut_ptr().add(i));
            [before, before.mul(self.xhat(x)), after]
        }
    }

    /// The gradient for a vector of x, from the gradient for n that is in its place, and the means over the group of the
    /// gradient for xhat and of its product with xhat.
    ///
    /// # Safety
    /// A vector is readable at `x`, and readable and writable at `dx`.
    #[inline(always)]
    unsafe fn dx<V: Vector>(&self, mean_d: f32, mean_dx: f32, x: *const f32, dx: *mut f32) {
        // SAFETY: the caller's promise.
        unsafe {
            let (xhat, dn) = (self.xhat(V::load(x)), V::load(dx));
            let d = V::splat(self.gamma).mul(dn).sub(V::splat(mean_d)).sub(xhat.mul(V::splat(mean_dx)));
            V::splat(self.rstd).mul(d).store(dx);
        }
    }
}

/// The gradient `dn` for the normalised numbers of a channel, and the sums Σ dn, Σ dn xhat and, if `SHIFTED`, that of the
/// gradient after SiLU; `mask` may be empty.
#[inline(always)]
fn dn<V: Vector, const SHIFTED: bool>(
    of: Normal,
    silu: bool,
    x: &[f32],
    dy: &[f32],
    mask: &[f32],
    dn: &mut [f32],
) -> [f64; 3] {
    let n = x.len();
    let whole = n - n % LANES;
    let mut sums = [[V::splat(0.0); 2]; 3];
    let wanted = if SHIFTED { 3 } else { 2 };
    for base in (0..whole).step_by(LANES) {
        for part in 0..LANES / V::LANES {
            // SAFETY: the vector from `base + part * V::LANES` on ends at most at the length of all; `mask` is as long, or
            // empty.
            let terms = unsafe { of.terms::<V>(silu, x, dy, mask, dn, base + part * V::LANES) };
            for sum in 0..wanted {
                sums[sum][part] = sums[sum][part].add(terms[sum]);
            }
        }
    }
    // What is left over: its terms on vectors as well, where they fill one.
    let mut last = [[0f32; LANES]; 3];
    let mut i = whole;
    while i + V::LANES <= n {
        // SAFETY: the condition; each third of `last` holds what is left over.
        unsafe {
            let terms = of.terms::<V>(silu, x, dy, mask, dn, i);
            for sum in 0..3 {
                terms[sum].store(last[sum].as_mut_ptr().add(i - whole));
            }
        }
        i += V::LANES;
    }
    while i < n {
        // SAFETY: the condition.
        let terms = unsafe { of.terms::<f32>(silu, x, dy, mask, dn, i) };
        for sum in 0..3 {
            last[sum][i - whole] = terms[sum];
        }
        i += 1;
    }
    let mut tail = [0f64; 3];
    for i in 0..n - whole {
        for sum in 0..3 {
            tail[sum] += f64::from(last[sum][i]);
        }
    }
    [V::total(sums[0]) + tail[0], V::total(sums[1]) + tail[1], if SHIFTED { V::total(sums[2]) + tail[2] } else { 0.0 }]
}
