//! The decoder's negative log-likelihood, -log p(k | z_0), without any B x D x V tensor.
//!
//! With z_0/alpha_0 = x_k + e^(gamma_0/2) eps and levels x_v that lie 2/V apart, the logit of level v = k - j is
//! -(eps + j r)^2 / 2, where r = (2/V) e^(-gamma_0/2) is the distance of two levels in units of the noise. That form
//! needs neither z_0 nor the levels, and loses nothing to cancellation where r is large.

use super::math::{exp, ln, vectorized};
use rayon::prelude::*;

/// Logits this far below the largest add less than one part in 2^24 to any sum of up to 65,536 terms.
pub const CUTOFF: f32 = 30.0;

/// `eps [B, D]`, `k [B, D]` (whole numbers in 0..V) -> per image, in nats: `nll [B]`, and its derivative `d_nll [B]`
/// with respect to `r`.
pub fn nll(eps: &[f32], k: &[f32], levels: usize, r: f32, nll: &mut [f32], d_nll: &mut [f32]) {
    let dims = eps.len() / nll.len();
    nll.par_iter_mut()
        .zip(d_nll.par_iter_mut())
        .zip(eps.par_chunks(dims))
        .zip(k.par_chunks(dims))
        .for_each(|(((nll, d_nll), eps), k)| (*nll, *d_nll) = nll_of_image(eps, k, levels, r));
}

vectorized! {
    fn nll_of_image(eps: &[f32], k: &[f32], levels: usize, r: f32) -> (f32, f32) {
        let (mut total, mut d_total) = (0f64, 0f64);
        for (&eps, &k) in eps.iter().zip(k) {
            let (value, derivative) = nll_of_one(eps, k, levels, r);
            total += f64::from(value);
            d_total += f64::from(derivative);
        }
        (total as f32, d_total as f32)
    }
}

/// (log Σ_j e^(-(eps + j r)²/2) + eps²/2, and its derivative for r), j over k - (V - 1) ..= k.
#[inline(always)]
fn nll_of_one(eps: f32, k: f32, levels: usize, r: f32) -> (f32, f32) {
    let (low, high) = (k - (levels - 1) as f32, k);
    let best = (-eps / r).round().clamp(low, high);
    let u = r.mul_add(best, eps);
    let top = 0.5 * u * u;
    // |eps + j r| <= reach for every j that counts.
    let reach = (u * u + 2.0 * CUTOFF).sqrt();
    let from = ((-reach - eps) / r).floor().clamp(low, high);
    let to = ((reach - eps) / r).ceil().clamp(low, high);
    let (mut sum, mut d_sum) = (0f32, 0f32);
    let mut j = from;
    while j <= to {
        let u = r.mul_add(j, eps);
        let p = exp(top - 0.5 * u * u);
        sum += p;
        d_sum -= p * u * j;
        j += 1.0;
    }
    (ln(sum) - top + 0.5 * eps * eps, d_sum / sum)
}
