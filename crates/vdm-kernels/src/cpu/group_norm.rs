//! Group normalisation, optionally followed by SiLU and dropout, in one pass over each group while it is in the cache.

use super::math::{sigmoid, sum_by, vectorized};
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

    /// Slabs that a task takes together: small ones by the dozen, and always some of one image.
    fn together(&self) -> usize {
        let most = (RUN / self.slab().max(1)).clamp(1, self.groups);
        (1..=most).rev().find(|n| self.groups.is_multiple_of(*n)).unwrap_or(1)
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

    /// The channels of slab `index` among all channels.
    fn channels_of(&self, index: usize) -> std::ops::Range<usize> {
        let n = self.channels / self.groups;
        let first = index % self.groups * n;
        first..first + n
    }
}

/// `x [B, C, P]`, `gamma` and `beta [C]` -> `y [B, C, P]`; `stats [B, G, 2]` takes each group's mean and 1/std.
pub fn forward(s: &Spec, x: &[f32], gamma: &[f32], beta: &[f32], y: &mut [f32], stats: &mut [f32]) {
    let (slab, n) = (s.slab(), s.together());
    y.par_chunks_mut(n * slab).zip(stats.par_chunks_mut(2 * n)).zip(x.par_chunks(n * slab)).enumerate().for_each_init(
        Vec::new,
        |mask, (run, ((y, stats), x))| {
            let mask = s.mask(run * n, y.len(), mask);
            let slabs = y.chunks_exact_mut(slab).zip(stats.chunks_exact_mut(2)).zip(x.chunks_exact(slab));
            for (i, ((y, stats), x)) in slabs.enumerate() {
                let c = s.channels_of(run * n + i);
                let mask = mask.get(i * slab..(i + 1) * slab).unwrap_or_default();
                forward_slab(s, x, &gamma[c.clone()], &beta[c], mask, y, stats);
            }
        },
    );
}

/// Gradients of [`forward`]: `dx [B, C, P]` and the parameters' `dgamma`, `dbeta [C]`; all are overwritten.
#[allow(clippy::too_many_arguments)]
pub fn backward(
    s: &Spec,
    x: &[f32],
    gamma: &[f32],
    beta: &[f32],
    stats: &[f32],
    dy: &[f32],
    dx: &mut [f32],
    dgamma: &mut [f32],
    dbeta: &mut [f32],
) {
    let (slab, n) = (s.slab(), s.together());
    let per_group = s.channels / s.groups;
    // Per image and channel: Σ dn xhat and Σ dn, added over the batch in order below.
    let mut partial = vec![0f32; s.batch * s.channels * 2];
    dx.par_chunks_mut(n * slab)
        .zip(partial.par_chunks_mut(n * per_group * 2))
        .zip(x.par_chunks(n * slab))
        .zip(dy.par_chunks(n * slab))
        .zip(stats.par_chunks(2 * n))
        .enumerate()
        .for_each_init(Vec::new, |mask, (run, ((((dx, partial), x), dy), stats))| {
            let mask = s.mask(run * n, dx.len(), mask);
            for (i, (dx, partial)) in dx.chunks_exact_mut(slab).zip(partial.chunks_exact_mut(per_group * 2)).enumerate()
            {
                let (c, at) = (s.channels_of(run * n + i), i * slab);
                let mask = mask.get(at..at + slab).unwrap_or_default();
                let (x, dy, stats) = (&x[at..][..slab], &dy[at..][..slab], &stats[2 * i..][..2]);
                backward_slab(s, x, &gamma[c.clone()], &beta[c], mask, stats, dy, dx, partial);
            }
        });
    dgamma.fill(0.0);
    dbeta.fill(0.0);
    for image in partial.chunks_exact(s.channels * 2) {
        for (c, pair) in image.chunks_exact(2).enumerate() {
            dgamma[c] += pair[0];
            dbeta[c] += pair[1];
        }
    }
}

vectorized! {
    /// One group of one image: `gamma` and `beta` are its channels'.
    fn forward_slab(
        s: &Spec, x: &[f32], gamma: &[f32], beta: &[f32], mask: &[f32], y: &mut [f32], stats: &mut [f32],
    ) {
        let n = x.len();
        let mean = (sum_by(n, |i| x[i]) / n as f64) as f32;
        let variance = (sum_by(n, |i| (x[i] - mean) * (x[i] - mean)) / n as f64) as f32;
        let rstd = 1.0 / (variance + s.eps).sqrt();
        stats[0] = mean;
        stats[1] = rstd;
        for (c, (y, x)) in y.chunks_exact_mut(s.pixels).zip(x.chunks_exact(s.pixels)).enumerate() {
            let a = gamma[c] * rstd;
            let b = beta[c] - mean * a;
            if s.silu {
                for (y, &x) in y.iter_mut().zip(x) {
                    let n = x.mul_add(a, b);
                    *y = n * sigmoid(n);
                }
            } else {
                for (y, &x) in y.iter_mut().zip(x) {
                    *y = x.mul_add(a, b);
                }
            }
        }
        for (y, m) in y.iter_mut().zip(mask) {
            *y *= m;
        }
    }

    /// Gradients of one group of one image; `partial` takes Σ dn xhat and Σ dn of each of its channels.
    fn backward_slab(
        s: &Spec, x: &[f32], gamma: &[f32], beta: &[f32], mask: &[f32], stats: &[f32], dy: &[f32], dx: &mut [f32],
        partial: &mut [f32],
    ) {
        let (mean, rstd) = (stats[0], stats[1]);
        dx.copy_from_slice(dy);
        for (dx, m) in dx.iter_mut().zip(mask) {
            *dx *= m;
        }
        let (mut sum, mut sum_xhat) = (0f64, 0f64);
        for (c, (dx, x)) in dx.chunks_exact_mut(s.pixels).zip(x.chunks_exact(s.pixels)).enumerate() {
            let a = gamma[c] * rstd;
            let b = beta[c] - mean * a;
            if s.silu {
                for (d, &x) in dx.iter_mut().zip(x) {
                    let n = x.mul_add(a, b);
                    let g = sigmoid(n);
                    *d *= g * (n * (1.0 - g) + 1.0);
                }
            }
            let dn = &*dx;
            let d_beta = sum_by(s.pixels, |i| dn[i]);
            let d_gamma = sum_by(s.pixels, |i| dn[i] * ((x[i] - mean) * rstd));
            partial[2 * c] = d_gamma as f32;
            partial[2 * c + 1] = d_beta as f32;
            sum += f64::from(gamma[c]) * d_beta;
            sum_xhat += f64::from(gamma[c]) * d_gamma;
        }
        let mean_d = (sum / x.len() as f64) as f32;
        let mean_dx = (sum_xhat / x.len() as f64) as f32;
        for (c, (dx, x)) in dx.chunks_exact_mut(s.pixels).zip(x.chunks_exact(s.pixels)).enumerate() {
            let g = gamma[c];
            for (d, &x) in dx.iter_mut().zip(x) {
                let xhat = (x - mean) * rstd;
                *d = rstd * (g * *d - mean_d - xhat * mean_dx);
            }
        }
    }
}
