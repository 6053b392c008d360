//! Softmax attention over channels-first maps, in blocks of queries, so that no N x M matrix is kept for the backward
//! pass: it is computed again there.
//!
//! The probabilities of a block are held as [keys, queries]: then every product reads its factors as they lie, and the
//! softmax works on many queries side by side.

use super::layout::Layout;
use super::math::{exp, vectorized};
use super::matmul::{matmul, transpose};
use super::simd::{Vector, with_vectors};
use rayon::prelude::*;
use std::ops::Range;

/// Queries that are handled at a time.
const BLOCK: usize = 64;
/// Keys whose probabilities are added up before they are added to the rest.
const SUMMED: usize = 32;
/// Products of a share of the queries, with keys or values, that are worth a thread's start.
const SHARE_PRODUCTS: usize = 1 << 18;

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
    // The threads that each map can have, and the queries that each of them takes: whole blocks.
    let threads = (rayon::current_num_threads() / s.batch.max(1)).max(1);
    let least = SHARE_PRODUCTS.div_ceil((s.dim * s.keys).max(1));
    let share = s.queries.div_ceil(threads).max(least).next_multiple_of(BLOCK);
    y.par_chunks_mut(dn).zip(q.par_chunks(dn)).zip(k.par_chunks(dm)).zip(v.par_chunks(dm)).for_each_init(
        Vec::new,
        |p, (((y, q), k), v)| {
            if share >= s.queries {
                return forward_queries(s, q, k, v, 0..s.queries, p, y, maps(s.dim, s.queries));
            }
            // The queries of a share are not neighbours in `y`.
            let of_share = |i: usize| {
                let queries = i * share..s.queries.min((i + 1) * share);
                let mut y = vec![0f32; s.dim * queries.len()];
                let layout = maps(s.dim, queries.len());
                forward_queries(s, q, k, v, queries, &mut Vec::new(), &mut y, layout);
                y
            };
            let shares: Vec<Vec<f32>> = (0..s.queries.div_ceil(share)).into_par_iter().map(of_share).collect();
            for (i, of_share) in shares.iter().enumerate() {
                for (y, of_share) in y.chunks_exact_mut(s.queries).zip(of_share.chunks_exact(of_share.len() / s.dim)) {
                    y[i * share..][..of_share.len()].copy_from_slice(of_share);
                }
            }
        },
    );
}

/// [`forward`] of some queries of one map, to `y`, where they lie as `layout` says; `p` is room for probabilities.
#[allow(clippy::too_many_arguments)]
fn forward_queries(
    s: &Spec,
    q: &[f32],
    k: &[f32],
    v: &[f32],
    queries: Range<usize>,
    p: &mut Vec<f32>,
    y: &mut [f32],
    layout: Layout,
) {
    for first in queries.clone().step_by(BLOCK) {
        let (n, column) = (BLOCK.min(queries.end - first), first - queries.start);
        let norm = exponentials_of(s, q, k, first, n, p);
        let p = &p[..n * s.keys];
        let block = Layout { cols: n, offset: column, ..layout };
        matmul(false, v, maps(s.dim, s.keys), p, maps(s.keys, n), y, block);
        scale_columns(&mut y[column..], n, layout.row_stride, &norm);
    }
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
        .for_each_init(Scratch::default, |b, ((((((dq, dk), dv), q), k), v), dy)| {
            let kv = maps(s.dim, s.keys);
            // Of the keys, [M, d], so that the long factor is read as it lies.
            for sum in [&mut b.dk, &mut b.dv] {
                sum.clear();
                sum.resize(dm, 0.0);
            }
            for first in (0..s.queries).step_by(BLOCK) {
                let n = BLOCK.min(s.queries - first);
                let (block, square) = (columns(s, first, n), maps(s.keys, n));
                probabilities(s, q, k, first, n, &mut b.p);
                matmul(true, &b.p, square, dy, block.transposed(), &mut b.dv, maps(s.keys, s.dim));
                b.dp.resize(n * s.keys, 0.0);
                matmul(false, v, kv.transposed(), dy, block, &mut b.dp, square);
                // Softmax backward, and the scale that the logits carried: dp becomes d(k q).
                softmax_backward(&b.p[..n * s.keys], &mut b.dp[..n * s.keys], n, s.scale());
                matmul(false, k, kv, &b.dp, square, dq, block);
                matmul(true, &b.dp, square, q, block.transposed(), &mut b.dk, maps(s.keys, s.dim));
            }
            dk.copy_from_slice(&transpose(&b.dk, s.dim));
            dv.copy_from_slice(&transpose(&b.dv, s.dim));
        });
}

/// What a thread needs for the gradients of one image.
#[derive(Default)]
struct Scratch {
    p: Vec<f32>,
    dp: Vec<f32>,
    dk: Vec<f32>,
    dv: Vec<f32>,
}

/// A whole map [channels, tokens], or a matrix of its own.
fn maps(rows: usize, cols: usize) -> Layout {
    Layout::row_major(rows, cols)
}

/// The columns `first..first + n` of a map of queries.
fn columns(s: &Spec, first: usize, n: usize) -> Layout {
    Layout { rows: s.dim, cols: n, offset: first, row_stride: s.queries, col_stride: 1 }
}

/// `p [M, n]`: in each column, softmax(k q / sqrt(d)) for one of the queries `first..first + n`.
fn probabilities(s: &Spec, q: &[f32], k: &[f32], first: usize, n: usize, p: &mut Vec<f32>) {
    let norm = exponentials_of(s, q, k, first, n, p);
    scale_columns(&mut p[..n * s.keys], n, n, &norm);
}

/// [`probabilities`] before their columns are divided by their sums, and what to multiply them with.
fn exponentials_of(s: &Spec, q: &[f32], k: &[f32], first: usize, n: usize, p: &mut Vec<f32>) -> [f32; BLOCK] {
    if p.len() < n * s.keys {
        p.resize(n * s.keys, 0.0);
    }
    let p = &mut p[..n * s.keys];
    matmul(false, k, maps(s.dim, s.keys).transposed(), q, columns(s, first, n), p, maps(s.keys, n));
    let mut norm = [0f32; BLOCK];
    exponentials(p, n, s.scale(), &mut norm);
    norm
}

/// A few neighbouring columns of a block, which has rows of `n` numbers.
#[derive(Clone, Copy)]
struct Columns {
    n: usize,
    first: usize,
}

impl Columns {
    /// The largest number of each column.
    ///
    /// # Safety
    /// Every row of `p` has a vector from `first` on.
    #[inline(always)]
    unsafe fn largest<V: Vector>(self, p: &[f32]) -> V {
        let mut max = V::splat(f32::NEG_INFINITY);
        for row in p.chunks_exact(self.n) {
            // SAFETY: the caller's promise.
            max = unsafe { V::load(row.as_ptr().add(self.first)) }.max(max);
        }
        max
    }

    /// Each number becomes e^(scale (number - the column's largest)); the sums of the columns. Some rows are summed first,
    /// which keeps the sums exact.
    ///
    /// # Safety
    /// As for [`largest`](Self::largest).
    #[inline(always)]
    unsafe fn exponentials<V: Vector>(self, p: &mut [f32], scale: f32) -> V {
        // SAFETY: the caller's promise.
        let (max, scale) = (unsafe { self.largest::<V>(p) }, V::splat(scale));
        let mut total = V::splat(0.0);
        for rows in p.chunks_mut(SUMMED * self.n) {
            let mut sum = V::splat(0.0);
            for row in rows.chunks_exact_mut(self.n) {
                // SAFETY: the same.
                unsafe {
                    let at = row.as_mut_ptr().add(self.first);
                    let p = exp(V::load(at).sub(max).mul(scale));
                    p.store(at);
                    sum = sum.add(p);
                }
            }
            total = total.add(sum);
        }
        total
    }

    /// Each number of `dp` becomes scale p (dp - p·dp).
    ///
    /// # Safety
    /// As for [`largest`](Self::largest), for `p` and `dp`, which have the same length.
    #[inline(always)]
    unsafe fn softmax_backward<V: Vector>(self, p: &[f32], dp: &mut [f32], scale: f32) {
        let mut dot = V::splat(0.0);
        for (p, dp) in p.chunks(SUMMED * self.n).zip(dp.chunks(SUMMED * self.n)) {
            let mut sum = V::splat(0.0);
            for (p, dp) in p.chunks_exact(self.n).zip(dp.chunks_exact(self.n)) {
                // SAFETY: the caller's promise.
                let (p, dp) = unsafe { (V::load(p.as_ptr().add(self.first)), V::load(dp.as_ptr().add(self.first))) };
                sum = p.fma(dp, sum);
            }
            dot = dot.add(sum);
        }
        let scale = V::splat(scale);
        for (p, dp) in p.chunks_exact(self.n).zip(dp.chunks_exact_mut(self.n)) {
            // SAFETY: the same.
            unsafe {
                let (p, at) = (V::load(p.as_ptr().add(self.first)), dp.as_mut_ptr().add(self.first));
                p.mul(V::load(at).sub(dot)).mul(scale).store(at);
            }
        }
    }
}

with_vectors! {
    /// Each column of `p`, which has rows of `n`, becomes e^(scale (column - its largest)), which `norm` times its
    /// softmax. Lanes are columns.
    fn exponentials<V: 16>(p: &mut [f32], n: usize, scale: f32, norm: &mut [f32; BLOCK]) {
        assert!(n <= BLOCK, "a block has no more columns");
        let whole = n - n % V::LANES;
        // SAFETY: a row has `n` numbers, and `norm` at least as many.
        unsafe {
            for first in (0..whole).step_by(V::LANES) {
                Columns { n, first }.exponentials::<V>(p, scale).store(norm.as_mut_ptr().add(first));
            }
            for first in whole..n {
                Columns { n, first }.exponentials::<f32>(p, scale).store(norm.as_mut_ptr().add(first));
            }
        }
        for norm in &mut norm[..n] {
            *norm = 1.0 / *norm;
        }
    }

    /// Each column of `dp`, which has rows of `n`, becomes scale p (dp - p·dp).
    fn softmax_backward<V: 16>(p: &[f32], dp: &mut [f32], n: usize, scale: f32) {
        assert!(p.len() == dp.len(), "{} and {} numbers", p.len(), dp.len());
        let whole = n - n % V::LANES;
        // SAFETY: a row has `n` numbers.
        unsafe {
            for first in (0..whole).step_by(V::LANES) {
                Columns { n, first }.softmax_backward::<V>(p, dp, scale);
            }
            for first in whole..n {
                Columns { n, first }.softmax_backward::<f32>(p, dp, scale);
            }
        }
    }
}

vectorized! {
    /// Each column of `p`, which has rows of `n` that lie `stride` apart, times its factor.
    fn scale_columns(p: &mut [f32], n: usize, stride: usize, factors: &[f32; BLOCK]) {
        for row in p.chunks_mut(stride) {
            for (p, factor) in row[..n].iter_mut().zip(factors) {
                *p *= factor;
            }
        }
    }
}
