//! The reference code's monotonic network: a line plus a sum of sigmoids, with weights that enter as |w|.

use super::{Endpoints, GammaAt, HostSchedule, Schedule, Split};
use crate::initial::Initial;
use crate::math::{host, sigmoid, sigmoid_of};
use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor};
use serde::{Deserialize, Serialize};

/// Configuration of a [`NetworkSchedule`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NetworkScheduleConfig {
    /// gamma(0) before training, up to the sigmoids' share.
    pub gamma_0: f64,
    /// gamma(1) before training, up to the sigmoids' share.
    pub gamma_1: f64,
    /// Hidden units, 1024 in the reference code.
    pub features: usize,
}

impl Default for NetworkScheduleConfig {
    /// The reference code's: from -13.3 to 5, 1024 hidden units.
    fn default() -> Self {
        let Endpoints { gamma_0, gamma_1 } = Endpoints::default();
        Self { gamma_0, gamma_1, features: 1024 }
    }
}

/// gamma(t) = l1(t) + l3(2 sigmoid(l2(2 t - 1)) - 1) / n, all weights as |w| (VDM appendix H; `learnable_nnet` in the
/// reference code). Its endpoints move with its shape.
#[derive(Module, Debug)]
pub struct NetworkSchedule {
    /// Weight of the line l1: `[1]`.
    pub w1: Param<Tensor<1>>,
    /// Bias of the line l1: `[1]`.
    pub b1: Param<Tensor<1>>,
    /// Weights of the hidden layer l2: `[features]`.
    pub w2: Param<Tensor<1>>,
    /// Biases of the hidden layer l2: `[features]`.
    pub b2: Param<Tensor<1>>,
    /// Weights of the output layer l3: `[features]`.
    pub w3: Param<Tensor<1>>,
}

impl NetworkScheduleConfig {
    pub(super) fn endpoints(&self) -> Endpoints {
        Endpoints { gamma_0: self.gamma_0, gamma_1: self.gamma_1 }
    }

    /// Says what is wrong with the configuration, if anything.
    ///
    /// # Errors
    /// The key, its value, and what it must be.
    pub fn validate(&self) -> Result<(), String> {
        self.endpoints().validate()?;
        if (1..=1 << 20).contains(&self.features) {
            Ok(())
        } else {
            Err(format!("features = {} must be in 1..=1048576", self.features))
        }
    }

    /// Makes the schedule: l1 is the line between the endpoints, l2 and l3 are drawn with variance 1/fan-in.
    pub fn init(&self, device: &Device) -> NetworkSchedule {
        let normal = |std: f64| Initial::Normal(std).init([self.features], device);
        NetworkSchedule {
            w1: Param::from_data([(self.gamma_1 - self.gamma_0) as f32], device),
            b1: Param::from_data([self.gamma_0 as f32], device),
            w2: normal(1.0),
            b2: Initial::Zeros.init([self.features], device),
            w3: normal(1.0 / (self.features as f64).sqrt()),
        }
    }
}

impl Schedule for NetworkSchedule {
    fn forward(&self, t: Tensor<1>) -> GammaAt {
        let [batch] = t.dims();
        let n = self.w2.dims()[0];
        let row = |p: &Param<Tensor<1>>| p.val().reshape([1, n]);
        // 1. The line.
        let w1 = self.w1.val().abs();
        let line = self.b1.val() + w1.clone() * t.clone();
        // 2. The hidden layer and its tangent: ds/dt = s (1 - s) 2 |w2|.
        let w2 = row(&self.w2).abs();
        let s = sigmoid_of((t * 2.0 - 1.0).reshape([batch, 1]) * w2.clone() + row(&self.b2));
        let ds = s.clone() * (s.clone() * -1.0 + 1.0) * w2 * 2.0;
        // 3. The output layer.
        let w3 = row(&self.w3).abs() / n as f64;
        let sum = |h: Tensor<2>| (h * w3.clone()).sum_dim(1).reshape([batch]);
        GammaAt { gamma: line + sum(s * 2.0 - 1.0), prime: sum(ds * 2.0) + w1 }
    }

    fn to_host(&self) -> Box<dyn HostSchedule> {
        let n = self.w2.dims()[0] as f64;
        let [w2, b2, w3] = [&self.w2, &self.b2, &self.w3].map(|p| host(&p.val()));
        Box::new(HostNetwork {
            start: host(&self.b1.val())[0],
            slope: host(&self.w1.val())[0].abs(),
            units: w2.iter().zip(&b2).zip(&w3).map(|((w2, b2), w3)| [w2.abs(), *b2, w3.abs() / n]).collect(),
        })
    }

    fn fingerprint(&self) -> Vec<u8> {
        Vec::new()
    }

    fn split(&self, _t: Tensor<1>) -> Split {
        Split::Together
    }
}

/// A [`NetworkSchedule`] in f64.
#[derive(Clone, Debug)]
struct HostNetwork {
    start: f64,
    slope: f64,
    /// |w2|, b2, |w3| / n of each hidden unit.
    units: Vec<[f64; 3]>,
}

impl HostSchedule for HostNetwork {
    fn gamma(&self, t: f64) -> f64 {
        let unit = |[w2, b2, w3]: &[f64; 3]| w3 * (2.0 * sigmoid((2.0 * t - 1.0) * w2 + b2) - 1.0);
        self.start + self.slope * t + self.units.iter().map(unit).sum::<f64>()
    }

    fn prime(&self, t: f64) -> f64 {
        let unit = |[w2, b2, w3]: &[f64; 3]| {
            let s = sigmoid((2.0 * t - 1.0) * w2 + b2);
            w3 * 4.0 * s * (1.0 - s) * w2
        };
        self.slope + self.units.iter().map(unit).sum::<f64>()
    }
}
