//! The times of a batch: uniform on [0, 1), one by one or spread evenly (VDM appendix I.1).

use serde::{Deserialize, Serialize};
use vdm_kernels::rng::Philox;

/// How the times of a batch are drawn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TimeSampling {
    /// t_i = (u + i/B) mod 1 with one u per batch: each t_i is uniform, together they cover [0, 1) evenly, and the
    /// estimate of the bound has less variance.
    #[default]
    LowDiscrepancy,
    /// Every t_i by itself: only for comparison.
    Independent,
    /// Spread evenly as the first, and then moved to where a linear schedule's loss is large: see [`importance_times`].
    Importance,
    /// By importance where that is possible (a linear schedule that is trained by the bound, in continuous time), spread evenly
    /// elsewhere.
    Auto,
}

/// Draws the times of a batch of `batch` images, each in [0, 1), from the stream `rng`; those of
/// [`TimeSampling::Importance`] before they are moved.
pub fn draw_times(sampling: TimeSampling, batch: usize, rng: &Philox, draw: u32) -> Vec<f64> {
    match sampling {
        TimeSampling::LowDiscrepancy | TimeSampling::Importance | TimeSampling::Auto => {
            low_discrepancy(rng.uniform_f64(draw), batch)
        }
        TimeSampling::Independent => {
            let mut u = vec![0f32; batch];
            rng.uniform(draw, &mut u);
            u.into_iter().map(f64::from).collect()
        }
    }
}

/// Moves evenly spread times of a linear schedule to times of density alpha² in gamma, and gives the weights that keep the
/// diffusion loss what it is in expectation (i-DODE: Zheng et al. 2023, arXiv 2305.03935, for the variance-preserving process).
///
/// With Z = log((1 + e^-gamma_0) / (1 + e^-gamma_1)), which is log(sigma_1² / sigma_0²), gamma = -log(e^(-Z u) (1 + e^-gamma_0) - 1)
/// of a uniform u is so distributed, and dgamma/du = Z / alpha².
pub fn importance_times(uniform: &[f64], gamma_0: f64, gamma_1: f64) -> (Vec<f64>, Vec<f64>) {
    let log_one_plus = |gamma: f64| libm::log1p(libm::exp(-gamma));
    let (first, span) = (log_one_plus(gamma_0), gamma_1 - gamma_0);
    let z = first - log_one_plus(gamma_1);
    uniform
        .iter()
        .map(|u| {
            // log(e^a - 1) = a + log(1 - e^-a) of a = log(1 + e^-gamma).
            let a = first - z * u;
            let gamma = (-a - libm::log1p(-libm::exp(-a))).clamp(gamma_0, gamma_1);
            let alpha_square = 1.0 / (1.0 + libm::exp(gamma));
            (((gamma - gamma_0) / span).clamp(0.0, 1f64.next_down()), z / (alpha_square * span))
        })
        .unzip()
}

/// t_i = (u + i/B) mod 1 for i in 0..B, u in [0, 1).
///
/// Made from whole numbers i, so that the count is always B (a float range from 0 to 1 by 1/B can have B + 1 entries).
// ANCHOR: times
pub fn low_discrepancy(u: f64, batch: usize) -> Vec<f64> {
    (0..batch)
        .map(|i| {
            let t = u + i as f64 / batch as f64;
            let t = t - t.floor();
            // The rounding of u + i/B may reach 1 exactly.
            if t < 1.0 { t } else { 0.0 }
        })
        .collect()
}
// ANCHOR_END: times

/// The grid point that a time belongs to in a model of `steps` steps: max(1, ceil(t T)) / T, in (0, 1].
pub fn discretise(t: f64, steps: usize) -> f64 {
    (t * steps as f64).ceil().max(1.0) / steps as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn low_discrepancy_has_exactly_b_times_in_the_unit_interval() {
        for batch in 1..=4096 {
            for u in [0.0, 1e-17, 0.3, 0.5, 1.0 - f64::EPSILON / 2.0] {
                let mut t = low_discrepancy(u, batch);
                assert_eq!(t.len(), batch);
                assert!(t.iter().all(|t| (0.0..1.0).contains(t)), "B = {batch}, u = {u}");
                // One time in every interval of length 1/B, up to the rounding at its ends.
                t.sort_by(f64::total_cmp);
                let gap = 1.0 / batch as f64;
                assert!(t.windows(2).all(|w| (w[1] - w[0] - gap).abs() < 1e-9));
            }
        }
    }

    #[test]
    fn single_precision_times_stay_below_one_after_rounding_to_the_grid() {
        for steps in [1, 2, 3, 10, 1000] {
            for i in 0..10_000 {
                let t = discretise(i as f64 / 10_000.0, steps);
                assert!(t > 0.0 && t <= 1.0);
                assert!((t * steps as f64 - (t * steps as f64).round()).abs() < 1e-9);
            }
        }
        assert_eq!(discretise(0.0, 10), 0.1);
    }

    #[test]
    fn weighted_importance_times_are_uniform_in_expectation() {
        let uniform = low_discrepancy(0.37, 20_000);
        for (gamma_0, gamma_1) in [(-13.3, 5.0), (-8.0, 2.0), (-1.0, 5.0)] {
            let (times, weights) = importance_times(&uniform, gamma_0, gamma_1);
            assert!(times.iter().all(|t| (0.0..1.0).contains(t)));
            for (f, want) in
                [((|_| 1.0) as fn(f64) -> f64, 1.0), (|t| t, 0.5), (|t| (3.0 * t).exp(), (3f64.exp() - 1.0) / 3.0)]
            {
                let found = times.iter().zip(&weights).map(|(&t, w)| f(t) * w).sum::<f64>() / 20_000.0;
                assert!((found / want - 1.0).abs() < 2e-2, "[{gamma_0}, {gamma_1}]: {found}, not {want}");
            }
        }
    }

    #[test]
    fn every_time_is_uniform() {
        let n = 2000;
        let mut mean = [0f64; 3];
        for s in 0..n {
            for (m, t) in mean.iter_mut().zip(draw_times(TimeSampling::LowDiscrepancy, 3, &Philox::new(1, s), 0)) {
                *m += t / n as f64;
            }
        }
        assert!(mean.iter().all(|m| (m - 0.5).abs() < 5.0 * (1.0 / 12.0 / n as f64).sqrt()), "{mean:?}");
    }
}
