//! Noise schedules gamma(t) = -log SNR(t), strictly increasing on [0, 1] (VDM section 3.2).
//!
//! - [`FixedLinear`]: nothing is learned; for comparisons, and where the endpoints are known.
//! - [`LearnedLinear`]: both endpoints are learned; the paper's choice for most runs, and the default.
//! - [`NetworkSchedule`]: the reference code's monotonic network; its endpoints float.
//!
//! The derivative gamma'(t) that the continuous-time bound needs is carried through the layers together with the value
//! (forward mode), so that first-order autodiff gives its gradient.

mod linear;
mod network;

pub use linear::{FixedLinear, LearnedLinear};
pub use network::{NetworkSchedule, NetworkScheduleConfig};

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use serde::{Deserialize, Serialize};

/// gamma and its derivative at a batch of times.
#[derive(Clone, Debug)]
pub struct GammaAt {
    /// gamma(t): `[batch]`.
    pub gamma: Tensor<1>,
    /// gamma'(t), positive: `[batch]`.
    pub prime: Tensor<1>,
}

/// A schedule evaluated in f64 on the host, for the scalars of sampling steps and for plots.
pub trait HostSchedule: Send + Sync {
    /// gamma(t).
    fn gamma(&self, t: f64) -> f64;
    /// gamma'(t).
    fn prime(&self, t: f64) -> f64;
}

/// Which schedule, and its endpoints before training.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScheduleConfig {
    /// The family.
    pub kind: ScheduleKind,
    /// gamma(0), the log of the noise-to-signal ratio of the data end.
    pub gamma_0: f64,
    /// gamma(1), the log of the noise-to-signal ratio of the noise end.
    pub gamma_1: f64,
    /// Units of the hidden layer of a network schedule.
    pub features: usize,
}

/// The families of schedules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ScheduleKind {
    /// See [`FixedLinear`].
    FixedLinear,
    /// See [`LearnedLinear`].
    LearnedLinear,
    /// See [`NetworkSchedule`].
    Network,
}

impl Default for ScheduleConfig {
    /// The paper's: learned linear from -13.3 to 5.
    fn default() -> Self {
        Self { kind: ScheduleKind::LearnedLinear, gamma_0: -13.3, gamma_1: 5.0, features: 1024 }
    }
}

impl ScheduleConfig {
    /// Makes the schedule on `device`.
    pub fn init(&self, device: &Device) -> NoiseSchedule {
        match self.kind {
            ScheduleKind::FixedLinear => NoiseSchedule::FixedLinear(FixedLinear::new(self.gamma_0, self.gamma_1)),
            ScheduleKind::LearnedLinear => {
                NoiseSchedule::LearnedLinear(LearnedLinear::new(self.gamma_0, self.gamma_1, device))
            }
            ScheduleKind::Network => NoiseSchedule::Network(
                NetworkScheduleConfig { gamma_0: self.gamma_0, gamma_1: self.gamma_1, features: self.features }
                    .init(device),
            ),
        }
    }
}

/// Any schedule of this module.
#[derive(Module, Debug)]
pub enum NoiseSchedule {
    /// See [`FixedLinear`].
    FixedLinear(FixedLinear),
    /// See [`LearnedLinear`].
    LearnedLinear(LearnedLinear),
    /// See [`NetworkSchedule`].
    Network(NetworkSchedule),
}

impl NoiseSchedule {
    /// gamma and gamma' at the times `t`.
    ///
    /// # Shapes
    /// - `t`: `[batch]`, in [0, 1]
    /// - outputs: `[batch]`
    pub fn forward(&self, t: Tensor<1>) -> GammaAt {
        match self {
            Self::FixedLinear(s) => s.forward(t),
            Self::LearnedLinear(s) => s.forward(t),
            Self::Network(s) => s.forward(t),
        }
    }

    /// (gamma(0), gamma(1)), each `[1]`.
    pub fn endpoints(&self, device: &Device) -> (Tensor<1>, Tensor<1>) {
        let at = |t: f32| self.forward(Tensor::from_data([t], device)).gamma;
        (at(0.0), at(1.0))
    }

    /// A copy of the present parameters that evaluates in f64 on the host.
    pub fn to_host(&self) -> Box<dyn HostSchedule> {
        match self {
            Self::FixedLinear(s) => Box::new(s.to_host()),
            Self::LearnedLinear(s) => Box::new(s.to_host()),
            Self::Network(s) => Box::new(s.to_host()),
        }
    }
}

/// The numbers of a tensor as f64, on the host.
pub(crate) fn host<const D: usize>(t: &Tensor<D>) -> Vec<f64> {
    t.to_data().iter::<f64>().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> Vec<NoiseSchedule> {
        let device = Device::flex().autodiff();
        [ScheduleKind::FixedLinear, ScheduleKind::LearnedLinear, ScheduleKind::Network]
            .map(|kind| ScheduleConfig { kind, ..Default::default() }.init(&device))
            .into()
    }

    #[test]
    fn host_and_device_agree_and_increase() {
        let device = Device::flex().autodiff();
        for schedule in all() {
            let host_schedule = schedule.to_host();
            let times: Vec<f32> = (0..=100).map(|i| i as f32 / 100.0).collect();
            let at = schedule.forward(Tensor::from_data(times.as_slice(), &device));
            let (gamma, prime) = (host(&at.gamma), host(&at.prime));
            for (i, &t) in times.iter().enumerate() {
                assert!((host_schedule.gamma(f64::from(t)) - gamma[i]).abs() < 2e-5);
                assert!((host_schedule.prime(f64::from(t)) / prime[i] - 1.0).abs() < 1e-5);
                assert!(prime[i] > 0.0);
            }
            assert!(gamma.windows(2).all(|w| w[1] > w[0]));
        }
    }

    #[test]
    fn prime_is_the_derivative() {
        for schedule in all() {
            let s = schedule.to_host();
            for t in [0.1, 0.37, 0.9] {
                let h = 1e-5;
                let numeric = (s.gamma(t + h) - s.gamma(t - h)) / (2.0 * h);
                assert!((s.prime(t) / numeric - 1.0).abs() < 1e-7);
            }
        }
    }
}
