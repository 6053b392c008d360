//! Straight lines in log SNR: gamma(t) = gamma_0 + (gamma_1 - gamma_0) t.

use super::{Endpoints, GammaAt, HostSchedule, Schedule, Split};
use crate::math::host;
use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor};

/// gamma(t) = gamma_0 + (gamma_1 - gamma_0) t with nothing to learn.
#[derive(Module, Debug)]
pub struct FixedLinear {
    gamma_0: f64,
    gamma_1: f64,
}

impl FixedLinear {
    /// The line from `gamma_0` to `gamma_1`.
    pub fn new(ends: Endpoints) -> Self {
        Self { gamma_0: ends.gamma_0, gamma_1: ends.gamma_1 }
    }
}

impl Schedule for FixedLinear {
    // ANCHOR: linear
    fn forward(&self, t: Tensor<1>) -> GammaAt {
        let slope = self.gamma_1 - self.gamma_0;
        GammaAt { prime: t.ones_like() * slope, gamma: t * slope + self.gamma_0 }
    }
    // ANCHOR_END: linear

    fn to_host(&self) -> Box<dyn HostSchedule> {
        Box::new(Line { start: self.gamma_0, slope: self.gamma_1 - self.gamma_0 })
    }

    fn fingerprint(&self) -> Vec<u8> {
        let line = self.to_host();
        [b"linear".to_vec(), line.gamma(0.0).to_le_bytes().to_vec(), line.gamma(1.0).to_le_bytes().to_vec()].concat()
    }

    fn split(&self, _t: Tensor<1>) -> Split {
        Split::Fixed
    }
}

/// gamma(t) = b + |w| t with both learned (VDM appendix H; `learnable_scalar` in the reference code).
#[derive(Module, Debug)]
pub struct LearnedLinear {
    /// The slope, used as |w|: `[1]`.
    pub w: Param<Tensor<1>>,
    /// gamma(0): `[1]`.
    pub b: Param<Tensor<1>>,
}

impl LearnedLinear {
    /// A line that starts as the one from `gamma_0` to `gamma_1`.
    pub fn new(ends: Endpoints, device: &Device) -> Self {
        Self {
            w: Param::from_data([(ends.gamma_1 - ends.gamma_0) as f32], device),
            b: Param::from_data([ends.gamma_0 as f32], device),
        }
    }
}

impl Schedule for LearnedLinear {
    fn forward(&self, t: Tensor<1>) -> GammaAt {
        let slope = self.w.val().abs();
        GammaAt { prime: t.ones_like() * slope.clone(), gamma: self.b.val() + slope * t }
    }

    fn to_host(&self) -> Box<dyn HostSchedule> {
        Box::new(Line { start: host(&self.b.val())[0], slope: host(&self.w.val())[0].abs() })
    }

    fn fingerprint(&self) -> Vec<u8> {
        Vec::new()
    }

    fn split(&self, t: Tensor<1>) -> Split {
        Split::Endpoints(self.forward(t))
    }
}

/// A line in f64.
#[derive(Clone, Copy, Debug)]
struct Line {
    start: f64,
    slope: f64,
}

impl HostSchedule for Line {
    fn gamma(&self, t: f64) -> f64 {
        self.start + self.slope * t
    }

    fn prime(&self, _t: f64) -> f64 {
        self.slope
    }
}
