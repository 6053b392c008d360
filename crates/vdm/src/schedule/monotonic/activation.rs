//! The activations of a constrained monotonic layer, on the device and in f64 on the host.

use crate::math::{self, erf_of, exp_of, sigmoid_of};
use burn::tensor::{Tensor, activation::relu};
use serde::{Deserialize, Serialize};
use std::f64::consts::{FRAC_1_SQRT_2, FRAC_2_SQRT_PI};

/// The activation rho of a [`MonotonicLinear`](super::MonotonicLinear) layer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MonotonicActivation {
    /// y for y > 0, e^y - 1 otherwise. Its slope is continuous, so a schedule's gamma' is too.
    #[default]
    Elu,
    /// max(y, 0).
    Relu,
    /// 1.0507 y for y > 0, 1.7581 (e^y - 1) otherwise (Klambauer et al. 2017).
    Selu,
    /// y sigmoid(y): decreases below -1.28, so a layer with it is not monotone.
    Silu,
    /// y Phi(y) with the exact normal distribution function Phi: decreases below -0.75, so a layer with it is not monotone.
    Gelu,
}

/// Scale and alpha of selu.
const SELU: (f64, f64) = (1.0507009873554805, 1.6732632423543772);

impl MonotonicActivation {
    /// Whether rho is non-decreasing: only then is a layer monotone.
    pub fn is_monotone(self) -> bool {
        matches!(self, Self::Elu | Self::Relu | Self::Selu)
    }

    /// The name in configurations.
    pub fn name(self) -> &'static str {
        match self {
            Self::Elu => "elu",
            Self::Relu => "relu",
            Self::Selu => "selu",
            Self::Silu => "silu",
            Self::Gelu => "gelu",
        }
    }

    /// rho(y) and rho'(y), both as expressions that autodiff differentiates.
    pub(super) fn forward(self, y: Tensor<2>) -> (Tensor<2>, Tensor<2>) {
        let above = |y: &Tensor<2>| y.clone().greater_scalar(0.0).float();
        // max(y, 0) and e^min(y, 0): the exponential of a large y must not come up, not even to be thrown away.
        let halves = |y: Tensor<2>| {
            let up = relu(y.clone());
            (up.clone(), exp_of(y - up))
        };
        match self {
            Self::Elu => {
                let (up, e) = halves(y);
                (up + (e.clone() - 1.0), e)
            }
            Self::Relu => (relu(y.clone()), above(&y)),
            Self::Selu => {
                let (scale, alpha) = SELU;
                let above = above(&y);
                let (up, e) = halves(y);
                let below = above.clone() * -1.0 + 1.0;
                ((up + (e.clone() - 1.0) * alpha) * scale, (above + below * e * alpha) * scale)
            }
            Self::Silu => {
                let s = sigmoid_of(y.clone());
                let slope = s.clone() * (y.clone() * (s.clone() * -1.0 + 1.0) + 1.0);
                (y * s, slope)
            }
            Self::Gelu => {
                let cdf = erf_of(y.clone() * FRAC_1_SQRT_2) * 0.5 + 0.5;
                let density = exp_of(y.clone() * y.clone() * -0.5) * (0.5 * FRAC_2_SQRT_PI * FRAC_1_SQRT_2);
                (y.clone() * cdf.clone(), cdf + y * density)
            }
        }
    }

    /// rho(y) and rho'(y) in f64.
    pub(super) fn on_host(self, y: f64) -> (f64, f64) {
        let elu = if y > 0.0 { (y, 1.0) } else { (libm::expm1(y), libm::exp(y)) };
        match self {
            Self::Elu => elu,
            Self::Relu => (y.max(0.0), if y > 0.0 { 1.0 } else { 0.0 }),
            Self::Selu => {
                let scale = SELU.0 * if y > 0.0 { 1.0 } else { SELU.1 };
                (scale * elu.0, scale * elu.1)
            }
            Self::Silu => {
                let s = math::sigmoid(y);
                (y * s, s * (1.0 + y * (1.0 - s)))
            }
            Self::Gelu => {
                let cdf = 0.5 * (1.0 + libm::erf(y * FRAC_1_SQRT_2));
                let density = libm::exp(-0.5 * y * y) * (0.5 * FRAC_2_SQRT_PI * FRAC_1_SQRT_2);
                (y * cdf, cdf + y * density)
            }
        }
    }
}
