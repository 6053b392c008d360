//! Means and their errors.

/// The mean of some values; NaN of none.
pub fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// The unbiased estimate of the variance that the values are drawn with; `None` for fewer than two values.
pub fn sample_variance(values: &[f64]) -> Option<f64> {
    if values.len() < 2 {
        return None;
    }
    let mean = mean(values);
    Some(values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (values.len() as f64 - 1.0))
}

/// The standard error of the mean: the sample standard deviation over the square root of the number of values. `None`
/// for fewer than two values.
pub fn standard_error(values: &[f64]) -> Option<f64> {
    sample_variance(values).map(|variance| (variance / values.len() as f64).sqrt())
}

/// The area under the receiver operating characteristic: the probability that a value of `higher` is above one of `lower`, ties
/// counting half. NaN if one is empty.
pub fn auroc(lower: &[f64], higher: &[f64]) -> f64 {
    let mut all: Vec<(f64, bool)> =
        lower.iter().map(|&v| (v, false)).chain(higher.iter().map(|&v| (v, true))).collect();
    all.sort_by(|a, b| a.0.total_cmp(&b.0));
    // Ranks from 1, shared by ties.
    let (mut ranks, mut start) = (0.0, 0);
    while start < all.len() {
        let end = start + all[start..].iter().take_while(|v| v.0 == all[start].0).count();
        let rank = (start + 1 + end) as f64 / 2.0;
        ranks += rank * all[start..end].iter().filter(|v| v.1).count() as f64;
        start = end.max(start + 1);
    }
    let (n, m) = (lower.len() as f64, higher.len() as f64);
    (ranks - m * (m + 1.0) / 2.0) / (n * m)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn standard_error_of_known_numbers() {
        assert_eq!(standard_error(&[1.0]), None);
        assert!((standard_error(&[1.0, 3.0]).unwrap() - 1.0).abs() < 1e-12);
    }

    #[test]
    fn auroc_of_known_numbers() {
        assert_eq!(auroc(&[1.0, 2.0], &[3.0, 4.0]), 1.0);
        assert_eq!(auroc(&[3.0, 4.0], &[1.0, 2.0]), 0.0);
        assert_eq!(auroc(&[1.0, 2.0], &[1.0, 2.0]), 0.5);
        assert_eq!(auroc(&[1.0, 3.0], &[2.0]), 0.5);
        assert!(auroc(&[], &[1.0]).is_nan());
    }

    #[test]
    fn variance_of_known_numbers() {
        assert_eq!(sample_variance(&[]), None);
        assert_eq!(sample_variance(&[1.0, 2.0, 3.0]), Some(1.0));
    }
}
