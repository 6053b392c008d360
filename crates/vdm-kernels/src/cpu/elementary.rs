//! Elementary functions of tensors and their derivatives, with the same bits on every machine: the system's mathematical
//! library differs from one version to the next, and with the processor.
//!
//! Sines, cosines and sigmoids, which are taken of whole images, are the vectorised polynomials of [`super::math`]; the others
//! are taken of a few numbers an image, and are those of the `libm` crate, in double precision.

use super::math::{sigmoid, sin_cos_turns, vectorized};
use std::f64::consts::FRAC_2_SQRT_PI;

/// A function of one number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Function {
    /// e^x.
    Exp,
    /// e^x - 1, without cancellation near 0.
    Expm1,
    /// 1 / (1 + e^-x).
    Sigmoid,
    /// ln(1 / (1 + e^-x)).
    LogSigmoid,
    /// The error function.
    Erf,
    /// The sine of x radians.
    Sin,
    /// The cosine of x radians.
    Cos,
}

impl Function {
    /// The function's value in double precision; of sines and cosines in single precision.
    fn value(self, x: f64) -> f64 {
        match self {
            Self::Exp => libm::exp(x),
            Self::Expm1 => libm::expm1(x),
            Self::Sigmoid => 1.0 / (1.0 + libm::exp(-x)),
            Self::LogSigmoid => x.min(0.0) - libm::log1p(libm::exp(-x.abs())),
            Self::Erf => libm::erf(x),
            Self::Sin => f64::from(sin_cos(x as f32).0),
            Self::Cos => f64::from(sin_cos(x as f32).1),
        }
    }

    /// The function's derivative.
    fn slope(self, x: f64) -> f64 {
        match self {
            Self::Exp | Self::Expm1 => libm::exp(x),
            Self::Sigmoid => {
                let s = Self::Sigmoid.value(x);
                s * (1.0 - s)
            }
            Self::LogSigmoid => Self::Sigmoid.value(-x),
            Self::Erf => FRAC_2_SQRT_PI * libm::exp(-x * x),
            Self::Sin => Self::Cos.value(x),
            Self::Cos => -Self::Sin.value(x),
        }
    }
}

/// Sine and cosine of x radians, |x| below 2^40; absolute error below 3e-7 for what x stands for.
#[inline(always)]
fn sin_cos(x: f32) -> (f32, f32) {
    // Adding 1.5 * 2^52 rounds to an integer.
    const MAGIC: f64 = 6_755_399_441_055_744.0;
    let turns = f64::from(x) * (0.5 * std::f64::consts::FRAC_1_PI);
    sin_cos_turns((turns - ((turns + MAGIC) - MAGIC)) as f32)
}

vectorized! {
    fn sines(x: &[f32], y: &mut [f32]) {
        for (y, &x) in y.iter_mut().zip(x) {
            *y = sin_cos(x).0;
        }
    }

    fn cosines(x: &[f32], y: &mut [f32]) {
        for (y, &x) in y.iter_mut().zip(x) {
            *y = sin_cos(x).1;
        }
    }

    fn sigmoids(x: &[f32], y: &mut [f32]) {
        for (y, &x) in y.iter_mut().zip(x) {
            *y = sigmoid(x);
        }
    }

    fn sigmoid_slopes(x: &[f32], dy: &[f32], dx: &mut [f32]) {
        for ((dx, &x), &dy) in dx.iter_mut().zip(x).zip(dy) {
            // 1 - sigmoid(x) without cancellation.
            *dx = sigmoid(x) * sigmoid(-x) * dy;
        }
    }
}

/// `y` = f(`x`).
pub fn forward(f: Function, x: &[f32], y: &mut [f32]) {
    match f {
        Function::Sin => sines(x, y),
        Function::Cos => cosines(x, y),
        Function::Sigmoid => sigmoids(x, y),
        _ => y.iter_mut().zip(x).for_each(|(y, &x)| *y = f.value(f64::from(x)) as f32),
    }
}

/// `dx` = f'(`x`) `dy`.
pub fn backward(f: Function, x: &[f32], dy: &[f32], dx: &mut [f32]) {
    match f {
        Function::Sin => {
            cosines(x, dx);
            dx.iter_mut().zip(dy).for_each(|(dx, dy)| *dx *= dy);
        }
        Function::Cos => {
            sines(x, dx);
            dx.iter_mut().zip(dy).for_each(|(dx, dy)| *dx *= -dy);
        }
        Function::Sigmoid => sigmoid_slopes(x, dy, dx),
        _ => {
            for ((dx, &x), &dy) in dx.iter_mut().zip(x).zip(dy) {
                *dx = (f.slope(f64::from(x)) * f64::from(dy)) as f32;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Function; 7] = [
        Function::Exp,
        Function::Expm1,
        Function::Sigmoid,
        Function::LogSigmoid,
        Function::Erf,
        Function::Sin,
        Function::Cos,
    ];

    #[test]
    fn slopes_are_derivatives() {
        for f in ALL {
            for x in [-3.0, -0.7, 0.0, 0.4, 2.5f64] {
                // In single precision for sines and cosines.
                let h = 1e-2;
                let want = (f.value(x + h) - f.value(x - h)) / (2.0 * h);
                assert!((f.slope(x) - want).abs() < 1e-4 * (1.0 + want.abs()), "{f:?}'({x})");
            }
        }
    }

    #[test]
    fn sines_and_cosines_of_large_numbers_are_close_to_double_precision() {
        for i in -20_000..20_000 {
            let x = i as f32 * 0.7311;
            let (sin, cos) = sin_cos(x);
            let (want_sin, want_cos) = f64::from(x).sin_cos();
            assert!((f64::from(sin) - want_sin).abs() < 3e-7 && (f64::from(cos) - want_cos).abs() < 3e-7, "{x}");
        }
    }

    /// What is computed in single precision is what `value` and `slope` say.
    #[test]
    fn vectorised_functions_are_close_to_double_precision() {
        let x: Vec<f32> = (-4000..4000).map(|i| i as f32 * 0.0173).collect();
        let (mut y, mut dx) = (vec![0.0; x.len()], vec![0.0; x.len()]);
        forward(Function::Sigmoid, &x, &mut y);
        backward(Function::Sigmoid, &x, &vec![1.0; x.len()], &mut dx);
        for ((&x, &y), &dx) in x.iter().zip(&y).zip(&dx) {
            let want = Function::Sigmoid.value(x.into());
            assert!((f64::from(y) - want).abs() < 4e-7 * want, "{x}");
            let slope = want * Function::Sigmoid.value(-f64::from(x));
            assert!((f64::from(dx) - slope).abs() < 8e-7 * slope, "{x}");
        }
    }

    #[test]
    fn the_functions_saturate_without_a_nan() {
        for f in ALL {
            for x in [-1e4f32, 1e4] {
                let mut y = [0.0];
                forward(f, &[x], &mut y);
                assert!(!y[0].is_nan(), "{f:?}({x})");
            }
        }
    }
}
