//! Noise schedules gamma(t) = -log SNR(t), strictly increasing on [0, 1] (VDM section 3.2).
//!
//! - [`FixedLinear`]: nothing is learned; for comparisons, and where the endpoints are known.
//! - [`FixedCurve`]: the same with the shape of the cosine schedule or of DDPM's linear beta.
//! - [`LearnedLinear`]: both endpoints are learned; the paper's choice for most runs, and the default.
//! - [`NetworkSchedule`]: the reference code's monotonic network; its endpoints float.
//! - [`PinnedSchedule`]: learned endpoints, and the shape of any increasing function between them: of the paper's
//!   network, or of a constrained monotonic one ([`LearnableSchedule`]). The shape can be trained for less variance.
//!
//! The derivative gamma'(t) that the continuous-time bound needs is carried through the layers together with the value
//! (forward mode), so that first-order autodiff gives its gradient.

mod curve;
mod linear;
mod monotonic;
mod network;
mod pinned;

pub use curve::{CurveShape, FixedCurve};
pub use linear::{FixedLinear, LearnedLinear};
pub use monotonic::{
    HostMonotonicLinear, MonotonicActivation, MonotonicLinear, MonotonicLinearConfig, MonotonicNetwork,
    MonotonicNetworkConfig,
};
pub use network::{NetworkSchedule, NetworkScheduleConfig};
pub use pinned::{LearnableSchedule, LearnableScheduleConfig, PinnedSchedule, RawMonotone};

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use serde::{Deserialize, Serialize};

/// gamma and its derivative at a batch of times.
#[derive(Clone, Debug)]
pub struct GammaAt {
    /// gamma(t): `[batch]`.
    pub gamma: Tensor<1>,
    /// gamma'(t), positive, but for the zero at t = 0 of DDPM's linear beta: `[batch]`.
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
    /// Units of the hidden layer of a `network` or `pinned-network` schedule.
    pub features: usize,
    /// Units of each hidden layer of a `monotonic` schedule.
    pub hidden: Vec<usize>,
    /// The activation of a `monotonic` schedule: `elu`, `relu` or `selu`.
    pub activation: MonotonicActivation,
    /// What the schedule's parameters are trained for.
    pub objective: ScheduleObjective,
}

/// The families of schedules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ScheduleKind {
    /// See [`FixedLinear`].
    FixedLinear,
    /// A [`FixedCurve`] of the shape [`CurveShape::Cosine`].
    FixedCosine,
    /// A [`FixedCurve`] of the shape [`CurveShape::LinearBeta`].
    FixedLinearBeta,
    /// See [`LearnedLinear`].
    LearnedLinear,
    /// See [`NetworkSchedule`].
    Network,
    /// A [`PinnedSchedule`] of the paper's network.
    PinnedNetwork,
    /// A [`LearnableSchedule`]: a [`PinnedSchedule`] of a constrained monotonic network.
    Monotonic,
}

/// What a schedule's parameters are trained for (VDM appendix I.2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ScheduleObjective {
    /// All of them for the bound. In continuous time the bound does not depend on the shape between the endpoints, so
    /// the shape's gradient is noise around zero.
    #[default]
    Bound,
    /// The endpoints for the bound, the shape for less variance of its estimate: see
    /// [`reduce_variance`](crate::variance::reduce_variance).
    Variance,
}

/// Why a schedule cannot be used as it has become.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ScheduleError {
    /// gamma does not increase any more.
    #[error(
        "the schedule's endpoints are gamma_0 = {gamma_0} and gamma_1 = {gamma_1}, but gamma must increase; lower the \
         learning rate, or start with endpoints farther apart"
    )]
    Endpoints {
        /// gamma(0).
        gamma_0: f64,
        /// gamma(1).
        gamma_1: f64,
    },
}

impl Default for ScheduleConfig {
    /// The paper's: learned linear from -13.3 to 5.
    fn default() -> Self {
        Self {
            kind: ScheduleKind::LearnedLinear,
            gamma_0: -13.3,
            gamma_1: 5.0,
            features: 1024,
            hidden: vec![64, 64],
            activation: MonotonicActivation::Elu,
            objective: ScheduleObjective::Bound,
        }
    }
}

impl ScheduleConfig {
    /// Says what is wrong with the configuration, if anything. Keys that the kind has no use for are not looked at.
    ///
    /// # Errors
    /// The key, its value, and what it must be.
    pub fn validate(&self) -> Result<(), String> {
        pinned::increasing(self.gamma_0, self.gamma_1)?;
        if self.features == 0 && matches!(self.kind, ScheduleKind::Network | ScheduleKind::PinnedNetwork) {
            return Err("features = 0 must be at least 1".into());
        }
        if self.kind == ScheduleKind::Monotonic {
            self.learnable().validate()?;
        }
        if self.objective == ScheduleObjective::Variance && self.kind == ScheduleKind::Network {
            let reason = "objective = \"variance\" needs endpoints that do not move with the shape between them; use \
                          kind = \"pinned-network\" instead of \"network\"";
            return Err(reason.into());
        }
        Ok(())
    }

    fn learnable(&self) -> LearnableScheduleConfig {
        LearnableScheduleConfig {
            hidden: self.hidden.clone(),
            activation: self.activation,
            gamma_0: self.gamma_0,
            gamma_1: self.gamma_1,
        }
    }

    /// Makes the schedule on `device`, with the device's random numbers.
    ///
    /// # Panics
    /// If [`validate`](Self::validate) fails for a `monotonic` schedule.
    pub fn init(&self, device: &Device) -> NoiseSchedule {
        let curve = |shape| NoiseSchedule::FixedCurve(FixedCurve::new(shape, self.gamma_0, self.gamma_1));
        match self.kind {
            ScheduleKind::FixedLinear => NoiseSchedule::FixedLinear(FixedLinear::new(self.gamma_0, self.gamma_1)),
            ScheduleKind::FixedCosine => curve(CurveShape::Cosine),
            ScheduleKind::FixedLinearBeta => curve(CurveShape::LinearBeta),
            ScheduleKind::LearnedLinear => {
                NoiseSchedule::LearnedLinear(LearnedLinear::new(self.gamma_0, self.gamma_1, device))
            }
            ScheduleKind::Network => NoiseSchedule::Network(
                NetworkScheduleConfig { gamma_0: self.gamma_0, gamma_1: self.gamma_1, features: self.features }
                    .init(device),
            ),
            ScheduleKind::PinnedNetwork => {
                // Only the shape counts. A line from 0 to 1, not from gamma_0 to gamma_1, gives the sigmoids beside it
                // a say from the start, and subtracting r(0) loses no digits.
                let raw = NetworkScheduleConfig { gamma_0: 0.0, gamma_1: 1.0, features: self.features }.init(device);
                let raw = RawMonotone::Network(raw);
                NoiseSchedule::Pinned(PinnedSchedule::new(raw, self.gamma_0, self.gamma_1, device))
            }
            ScheduleKind::Monotonic => match self.learnable().init(device) {
                Ok(schedule) => NoiseSchedule::Pinned(schedule),
                Err(reason) => panic!("ScheduleConfig: {reason}"),
            },
        }
    }
}

/// Any schedule of this module.
// A model holds one schedule, so the variants' difference in size costs nothing.
#[allow(clippy::large_enum_variant)]
#[derive(Module, Debug)]
pub enum NoiseSchedule {
    /// See [`FixedLinear`].
    FixedLinear(FixedLinear),
    /// See [`FixedCurve`].
    FixedCurve(FixedCurve),
    /// See [`LearnedLinear`].
    LearnedLinear(LearnedLinear),
    /// See [`NetworkSchedule`].
    Network(NetworkSchedule),
    /// See [`PinnedSchedule`].
    Pinned(PinnedSchedule),
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
            Self::FixedCurve(s) => s.forward(t),
            Self::LearnedLinear(s) => s.forward(t),
            Self::Network(s) => s.forward(t),
            Self::Pinned(s) => s.forward(t),
        }
    }

    /// (gamma(0), gamma(1)), each `[1]`.
    pub fn endpoints(&self, device: &Device) -> (Tensor<1>, Tensor<1>) {
        if let Self::Pinned(s) = self {
            return s.endpoints();
        }
        let at = |t: f32| self.forward(Tensor::from_data([t], device)).gamma;
        (at(0.0), at(1.0))
    }

    /// Says whether gamma still increases, which training can undo only in a pinned schedule.
    ///
    /// # Errors
    /// See [`PinnedSchedule::validate`].
    pub fn validate(&self) -> Result<(), ScheduleError> {
        match self {
            Self::Pinned(s) => s.validate(),
            Self::FixedLinear(_) | Self::FixedCurve(_) | Self::LearnedLinear(_) | Self::Network(_) => Ok(()),
        }
    }

    /// A copy of the present parameters that evaluates in f64 on the host.
    pub fn to_host(&self) -> Box<dyn HostSchedule> {
        match self {
            Self::FixedLinear(s) => Box::new(s.to_host()),
            Self::FixedCurve(s) => Box::new(s.to_host()),
            Self::LearnedLinear(s) => Box::new(s.to_host()),
            Self::Network(s) => Box::new(s.to_host()),
            Self::Pinned(s) => Box::new(s.to_host()),
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

    /// Schedules of all kinds, the monotonic one with each of its activations.
    fn all() -> Vec<NoiseSchedule> {
        let device = Device::flex().autodiff();
        device.seed(7);
        let of = |kind, activation| ScheduleConfig { kind, activation, ..Default::default() }.init(&device);
        let elu = MonotonicActivation::Elu;
        vec![
            of(ScheduleKind::FixedLinear, elu),
            of(ScheduleKind::FixedCosine, elu),
            of(ScheduleKind::FixedLinearBeta, elu),
            of(ScheduleKind::LearnedLinear, elu),
            of(ScheduleKind::Network, elu),
            of(ScheduleKind::PinnedNetwork, elu),
            of(ScheduleKind::Monotonic, elu),
            of(ScheduleKind::Monotonic, MonotonicActivation::Relu),
            of(ScheduleKind::Monotonic, MonotonicActivation::Selu),
        ]
    }

    #[test]
    fn host_and_device_agree_and_increase() {
        let device = Device::flex().autodiff();
        for schedule in all() {
            let host_schedule = schedule.to_host();
            let starts_flat = matches!(&schedule, NoiseSchedule::FixedCurve(c) if c.shape == CurveShape::LinearBeta);
            let times: Vec<f32> = (0..=100).map(|i| i as f32 / 100.0).collect();
            let at = schedule.forward(Tensor::from_data(times.as_slice(), &device));
            let (gamma, prime) = (host(&at.gamma), host(&at.prime));
            for (i, &t) in times.iter().enumerate() {
                assert!((host_schedule.gamma(f64::from(t)) - gamma[i]).abs() < 2e-5);
                assert!((host_schedule.prime(f64::from(t)) - prime[i]).abs() <= 1e-5 * prime[i]);
                assert!(prime[i] > 0.0 || (starts_flat && t == 0.0));
            }
            assert!(gamma.windows(2).all(|w| w[1] > w[0]));
            let (start, end) = schedule.endpoints(&device);
            assert!((host_schedule.gamma(0.0) - host(&start)[0]).abs() < 2e-5);
            assert!((host_schedule.gamma(1.0) - host(&end)[0]).abs() < 2e-5);
            assert_eq!(schedule.validate(), Ok(()));
        }
    }

    #[test]
    fn prime_is_the_derivative() {
        for schedule in all() {
            let s = schedule.to_host();
            for t in [0.1, 0.37, 0.9] {
                let h = 1e-5;
                let numeric = (s.gamma(t + h) - s.gamma(t - h)) / (2.0 * h);
                // Exact up to h^2, but for the bends of a monotonic network's units: one of elu within h of t is off by
                // h. The slopes of relu and selu jump there, so these are compared as integrals.
                let tolerance = match &schedule {
                    NoiseSchedule::Pinned(PinnedSchedule { raw: RawMonotone::Monotonic(r), .. }) => {
                        match r.layers[0].config().activation {
                            Some(MonotonicActivation::Elu) => 1e-5,
                            _ => f64::INFINITY,
                        }
                    }
                    _ => 1e-7,
                };
                assert!((s.prime(t) / numeric - 1.0).abs() <= tolerance, "{schedule:?} at {t}");
            }
            let n = 4000;
            let integral: f64 = (0..n).map(|i| s.prime((i as f64 + 0.5) / n as f64) / n as f64).sum();
            assert!((integral / (s.gamma(1.0) - s.gamma(0.0)) - 1.0).abs() < 1e-4);
        }
    }

    #[test]
    fn kinds_have_their_names() {
        let name = |kind: ScheduleKind| serde_json::to_value(kind).unwrap();
        assert_eq!(name(ScheduleKind::FixedCosine), "fixed-cosine");
        assert_eq!(name(ScheduleKind::FixedLinearBeta), "fixed-linear-beta");
    }

    #[test]
    fn impossible_configurations_are_errors() {
        let error = |config: ScheduleConfig| config.validate().unwrap_err();
        let base = ScheduleConfig::default;
        let monotonic = || ScheduleConfig { kind: ScheduleKind::Monotonic, ..base() };
        for kind in [ScheduleKind::Network, ScheduleKind::PinnedNetwork] {
            assert!(error(ScheduleConfig { kind, features: 0, ..base() }).contains("features = 0"));
        }
        assert!(error(ScheduleConfig { gamma_1: -14.0, ..base() }).contains("gamma_1 = -14"));
        assert!(error(ScheduleConfig { hidden: vec![], ..monotonic() }).contains("hidden = []"));
        for (activation, name) in [(MonotonicActivation::Silu, "silu"), (MonotonicActivation::Gelu, "gelu")] {
            let message = error(ScheduleConfig { activation, ..monotonic() });
            assert!(message.contains(name) && message.contains("elu, relu or selu"), "{message}");
            // Other kinds have no use for it.
            assert_eq!(ScheduleConfig { activation, ..base() }.validate(), Ok(()));
        }
        let floating = ScheduleConfig { kind: ScheduleKind::Network, objective: ScheduleObjective::Variance, ..base() };
        assert!(error(floating).contains("pinned-network"));
    }
}
