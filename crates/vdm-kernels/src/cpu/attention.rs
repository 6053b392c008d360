//! Softmax attention over channels-first maps, in blocks of queries, so that no N x M matrix is kept for the backward
//! pass: it is computed again there.

use super::layout::Layout;
use super::math::{exp, sum_by, vectorized};
use super::matmul::matmul;
use rayon::prelude::*;

/// Queries that are handled at a time.
const BLOCK: usize = 64;

/// The shape of an attention.
#[derive(Clone, Copy, Debug)]
pub struct Spec {
    /// Images times heads.
    pub batch: usize,
    /// Channels of a head.
    pub dim: usize,
    /// Queries (pixels).
    pub queries: usize,
    /// Keys and values.
    pub keys: usize,
}

impl Spec {
    fn scale(&self) -> f32 {
        (1.0 / (self.dim as f64).sqrt()) as f32
    }
}

/// `q [B, d, N]`, `k` and `v [B, d, M]` -> `y [B, d, N]`, y_n = Σ_m softmax_m(q_n k_m / sqrt(d)) v_m.
pub fn forward(s: &Spec, q: &[f32], k: &[f32], v: &[f32], y: &mut [f32]) {
    let (dn, dm) = (s.dim * s.queries, s.dim * s.keys);
    y.par_chunks_mut(dn).zip(q.par_chunks(dn)).zip(k.par_chunks(dm)).zip(v.par_chunks(dm)).for_each_init(
        Vec::new,
        |p, (((y, q), k), v)| {
            for first in (0..s.queries).step_by(BLOCK) {
                let n = BLOCK.min(s.queries - first);
                probabilities(s, q, k, first, n, p);
                let lp = Layout::row_major(n, s.keys).transposed();
                matmul(false, v, maps(s.dim, s.keys), p, lp, y, columns(s, first, n));
            }
        },
    );
}

/// Gradients of [`forward`] for `q`, `k`, `v`; all are overwritten.
#[allow(clippy::too_many_arguments)]
pub fn backward(s: &Spec, q: &[f32], k: &[f32], v: &[f32], dy: &[f32], dq: &mut [f32], dk: &mut [f32], dv: &mut [f32]) {
    let (dn, dm) = (s.dim * s.queries, s.dim * s.keys);
    dq.par_chunks_mut(dn)
        .zip(dk.par_chunks_mut(dm))
        .zip(dv.par_chunks_mut(dm))
        .zip(q.par_chunks(dn))
        .zip(k.par_chunks(dm))
        .zip(v.par_chunks(dm))
        .zip(dy.par_chunks(dn))
        .for_each_init(
            || (Vec::new(), Vec::new()),
            |(p, dp), ((((((dq, dk), dv), q), k), v), dy)| {
                dk.fill(0.0);
                dv.fill(0.0);
                for first in (0..s.queries).step_by(BLOCK) {
                    let n = BLOCK.min(s.queries - first);
                    let (block, square) = (columns(s, first, n), Layout::row_major(n, s.keys));
                    let kv = maps(s.dim, s.keys);
                    probabilities(s, q, k, first, n, p);
                    matmul(true, dy, block, p, square, dv, kv);
                    dp.resize(n * s.keys, 0.0);
                    matmul(false, dy, block.transposed(), v, kv, dp, square);
                    // Softmax backward, and the scale that the logits carried: dp becomes d(q k).
                    softmax_backward(p, dp, s.keys, s.scale());
                    matmul(false, k, kv, dp, square.transposed(), dq, block);
                    matmul(true, q, block, dp, square, dk, kv);
                }
            },
        );
}

/// A whole map [d, tokens].
fn maps(dim: usize, tokens: usize) -> Layout {
    Layout::row_major(dim, tokens)
}

/// The columns `first..first + n` of a map of queries.
fn columns(s: &Spec, first: usize, n: usize) -> Layout {
    Layout { rows: s.dim, cols: n, offset: first, row_stride: s.queries, col_stride: 1 }
}

/// `p [n, M]` = softmax(q k / sqrt(d)) for the queries `first..first + n`.
fn probabilities(s: &Spec, q: &[f32], k: &[f32], first: usize, n: usize, p: &mut Vec<f32>) {
    p.resize(n * s.keys, 0.0);
    let block = columns(s, first, n).transposed();
    matmul(false, q, block, k, maps(s.dim, s.keys), p, Layout::row_major(n, s.keys));
    softmax(p, s.keys, s.scale());
}

vectorized! {
    /// Each row of `p` becomes softmax(scale * row).
    fn softmax(p: &mut [f32], row: usize, scale: f32) {
        for p in p.chunks_exact_mut(row) {
            let mut lanes = [f32::NEG_INFINITY; 16];
            let (chunks, rest) = p.as_chunks::<16>();
            for chunk in chunks {
                for (lane, &x) in lanes.iter_mut().zip(chunk) {
                    *lane = if x > *lane { x } else { *lane };
                }
            }
            let max = lanes.iter().chain(rest).fold(f32::NEG_INFINITY, |a, &b| if b > a { b } else { a });
            // Partial sums as in `sum_by`, while the exponentials are at hand.
            let mut sums = [0f32; 32];
            let (chunks, rest) = p.as_chunks_mut::<32>();
            for chunk in chunks {
                for i in 0..32 {
                    chunk[i] = exp((chunk[i] - max) * scale);
                    sums[i] += chunk[i];
                }
            }
            let mut norm = 0f64;
            for p in rest {
                *p = exp((*p - max) * scale);
                norm += f64::from(*p);
            }
            for sum in sums {
                norm += f64::from(sum);
            }
            let norm = (1.0 / norm) as f32;
            for p in p.iter_mut() {
                *p *= norm;
            }
        }
    }

    /// Each row of `dp` becomes scale p (dp - p·dp).
    fn softmax_backward(p: &[f32], dp: &mut [f32], row: usize, scale: f32) {
        for (dp, p) in dp.chunks_exact_mut(row).zip(p.chunks_exact(row)) {
            let dot = sum_by(row, |i| p[i] * dp[i]) as f32;
            for (dp, p) in dp.iter_mut().zip(p) {
                *dp = p * (*dp - dot) * scale;
            }
        }
    }
}
