//! Means of weights that are held as logarithms.

/// log (1/K Σ e^w). The 1/K is part of it: without it the value grows with the number of draws whatever they are, by
/// log 20 / (784 ln 2) = 0.0055 bits per dimension for K = 20 draws of an image of 784 dimensions.
// ANCHOR: log_mean_exp
pub(super) fn log_mean_exp(log_weights: &[f64]) -> f64 {
    let top = log_weights.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    if !top.is_finite() {
        // Of NaN and infinity, which callers report.
        return log_weights.iter().sum();
    }
    let sum: f64 = log_weights.iter().map(|w| libm::exp(w - top)).sum();
    top + libm::log(sum / log_weights.len() as f64)
}
// ANCHOR_END: log_mean_exp

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_weights_are_their_mean() {
        for k in [1, 2, 20] {
            assert!((log_mean_exp(&vec![-1234.5; k]) + 1234.5).abs() < 1e-12);
        }
        let two = log_mean_exp(&[(2f64).ln() - 1000.0, (4f64).ln() - 1000.0]);
        assert!((two - (3f64.ln() - 1000.0)).abs() < 1e-12);
    }

    #[test]
    fn what_is_not_finite_stays_so() {
        assert!(log_mean_exp(&[f64::NAN, 0.0]).is_nan());
        assert_eq!(log_mean_exp(&[f64::NEG_INFINITY, f64::NEG_INFINITY]), f64::NEG_INFINITY);
    }
}
