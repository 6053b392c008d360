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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn standard_error_of_known_numbers() {
        assert_eq!(standard_error(&[1.0]), None);
        assert!((standard_error(&[1.0, 3.0]).unwrap() - 1.0).abs() < 1e-12);
    }

    #[test]
    fn variance_of_known_numbers() {
        assert_eq!(sample_variance(&[]), None);
        assert_eq!(sample_variance(&[1.0, 2.0, 3.0]), Some(1.0));
    }
}
