//! Fixed schedules of the literature: the shape is a formula, the endpoints are free.

use super::{Endpoints, GammaAt, HostSchedule, Schedule, Split};
use crate::math::host;
use burn::module::Module;
use burn::tensor::Tensor;
use std::f64::consts::FRAC_PI_2;

/// s of the cosine schedule.
const OFFSET: f64 = 0.008;

/// An increasing function r(t), of which only the shape counts: scale and shift are taken away by pinning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CurveShape {
    /// alpha² = cos²(angle), so r = 2 ln tan(angle) (Nichol and Dhariwal 2021, arXiv 2102.09672, equation 17).
    ///
    /// Theirs has the angle pi/2 (t + s)/(1 + s), s = 0.008, which makes r infinite at t = 1; they cut beta off there.
    /// To be finite at both ends, the angle runs from pi/2 s to pi/2 (1 - s) here.
    Cosine,
    /// DDPM's linear beta (Ho et al. 2020, arXiv 2006.11239) in the continuous time of VDM: r = ln expm1(1e-4 + 10 t²).
    ///
    /// r'(0) = 0, and positive from there.
    LinearBeta,
}

impl CurveShape {
    /// r(t).
    fn value(self, t: f64) -> f64 {
        match self {
            Self::Cosine => 2.0 * libm::log(libm::tan(angle(t))),
            Self::LinearBeta => libm::log(libm::expm1(total_beta(t))),
        }
    }

    /// r'(t).
    fn slope(self, t: f64) -> f64 {
        match self {
            // (2 ln tan a)' = 2 a' / (sin a cos a).
            Self::Cosine => 4.0 * FRAC_PI_2 * (1.0 - 2.0 * OFFSET) / libm::sin(2.0 * angle(t)),
            // (ln expm1 b)' = b' e^b / (e^b - 1) = b' / (1 - e^-b).
            Self::LinearBeta => -20.0 * t / libm::expm1(-total_beta(t)),
        }
    }
}

/// The angle of the cosine schedule, in radians.
fn angle(t: f64) -> f64 {
    FRAC_PI_2 * (OFFSET + (1.0 - 2.0 * OFFSET) * t)
}

/// -ln alpha² of DDPM's schedule: the betas up to t, added up.
fn total_beta(t: f64) -> f64 {
    1e-4 + 10.0 * t * t
}

/// gamma(t) = gamma_0 + (gamma_1 - gamma_0) (r(t) - r(0)) / (r(1) - r(0)) with nothing to learn (VDM equation 59).
#[derive(Module, Debug)]
pub struct FixedCurve {
    /// r.
    #[module(skip)]
    pub shape: CurveShape,
    gamma_0: f64,
    gamma_1: f64,
}

impl FixedCurve {
    /// The schedule of a shape from `gamma_0` to `gamma_1`.
    pub fn new(shape: CurveShape, ends: Endpoints) -> Self {
        Self { shape, gamma_0: ends.gamma_0, gamma_1: ends.gamma_1 }
    }

    fn curve(&self) -> HostCurve {
        let start = self.shape.value(0.0);
        let rise = self.shape.value(1.0) - start;
        HostCurve { shape: self.shape, start, rise, gamma_0: self.gamma_0, gamma_1: self.gamma_1 }
    }
}

impl Schedule for FixedCurve {
    /// Worked out in f64 on the host: nothing here has a gradient.
    fn forward(&self, t: Tensor<1>) -> GammaAt {
        let (curve, times, device) = (self.curve(), host(&t), t.device());
        let constant = |of: &dyn Fn(f64) -> f64| -> Tensor<1> {
            let values: Vec<f32> = times.iter().map(|&t| of(t) as f32).collect();
            Tensor::from_data(values.as_slice(), &device)
        };
        GammaAt { gamma: constant(&|t| curve.gamma(t)), prime: constant(&|t| curve.prime(t)) }
    }

    fn to_host(&self) -> Box<dyn HostSchedule> {
        Box::new(self.curve())
    }

    fn fingerprint(&self) -> Vec<u8> {
        let (name, curve) = (format!("{:?}", self.shape).into_bytes(), self.curve());
        [name, curve.gamma(0.0).to_le_bytes().to_vec(), curve.gamma(1.0).to_le_bytes().to_vec()].concat()
    }

    fn split(&self, _t: Tensor<1>) -> Split {
        Split::Fixed
    }
}

/// A [`FixedCurve`] in f64.
#[derive(Clone, Copy, Debug)]
struct HostCurve {
    shape: CurveShape,
    /// r(0).
    start: f64,
    /// r(1) - r(0).
    rise: f64,
    gamma_0: f64,
    gamma_1: f64,
}

impl HostSchedule for HostCurve {
    fn gamma(&self, t: f64) -> f64 {
        let share = (self.shape.value(t) - self.start) / self.rise;
        // Exact at both ends, which gamma_0 + (gamma_1 - gamma_0) share is not.
        self.gamma_0 * (1.0 - share) + self.gamma_1 * share
    }

    fn prime(&self, t: f64) -> f64 {
        (self.gamma_1 - self.gamma_0) * self.shape.slope(t) / self.rise
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::math::sigmoid;
    use burn::tensor::Device;

    const SHAPES: [CurveShape; 2] = [CurveShape::Cosine, CurveShape::LinearBeta];

    fn curve(shape: CurveShape) -> FixedCurve {
        FixedCurve::new(shape, Endpoints { gamma_0: -13.3, gamma_1: 5.0 })
    }

    #[test]
    fn endpoints_are_exact_and_gamma_increases() {
        let n = 10_000;
        for s in SHAPES.map(|shape| curve(shape).curve()) {
            assert_eq!((s.gamma(0.0), s.gamma(1.0)), (-13.3, 5.0));
            let gamma: Vec<f64> = (0..=n).map(|i| s.gamma(f64::from(i) / f64::from(n))).collect();
            assert!(gamma.windows(2).all(|w| w[1] > w[0]), "{s:?}");
            assert!((1..=n).all(|i| s.prime(f64::from(i) / f64::from(n)) > 0.0), "{s:?}");
        }
        assert!(curve(CurveShape::Cosine).curve().prime(0.0) > 0.0);
        assert_eq!(curve(CurveShape::LinearBeta).curve().prime(0.0), 0.0);
    }

    #[test]
    fn the_shapes_are_those_of_the_papers() {
        for t in [0.0, 0.1, 0.4, 0.5, 0.9, 1.0] {
            // alpha² = sigmoid(-gamma).
            let cosine = sigmoid(-CurveShape::Cosine.value(t));
            assert!((cosine - angle(t).cos().powi(2)).abs() < 1e-12, "{t}");
            let linear_beta = sigmoid(-CurveShape::LinearBeta.value(t));
            assert!((linear_beta - (-1e-4 - 10.0 * t * t).exp()).abs() < 1e-12, "{t}");
        }
        // Where the noise is neither least nor most, the angle is the paper's up to s.
        let paper = FRAC_PI_2 * (0.5 + OFFSET) / (1.0 + OFFSET);
        assert!((angle(0.5) - paper).abs() < 0.5 * FRAC_PI_2 * OFFSET);
    }

    /// Central differences: the curvature is greatest at t near 0, where they are off by up to 1e-7 of the slope.
    #[test]
    fn prime_is_the_derivative() {
        let h = 1e-6;
        for s in SHAPES.map(|shape| curve(shape).curve()) {
            for t in [0.001, 0.003, 0.01, 0.1, 0.5, 0.9, 0.99, 0.999] {
                let numeric = (s.gamma(t + h) - s.gamma(t - h)) / (2.0 * h);
                assert!((s.prime(t) / numeric - 1.0).abs() < 1e-6, "{s:?} at {t}");
            }
        }
    }

    #[test]
    fn the_tensors_are_the_numbers_of_the_host_rounded() {
        let times: Vec<f32> = (0..=50).map(|i| i as f32 / 50.0).collect();
        for device in [Device::flex(), Device::flex().autodiff()] {
            for curve in SHAPES.map(curve) {
                let at = curve.forward(Tensor::from_data(times.as_slice(), &device));
                let s = curve.curve();
                let rounded = |of: &dyn Fn(f64) -> f64| -> Vec<f64> {
                    times.iter().map(|&t| f64::from(of(f64::from(t)) as f32)).collect()
                };
                assert_eq!(host(&at.gamma), rounded(&|t| s.gamma(t)));
                assert_eq!(host(&at.prime), rounded(&|t| s.prime(t)));
                assert_eq!(at.gamma.is_autodiff(), device.is_autodiff());
            }
        }
    }
}
