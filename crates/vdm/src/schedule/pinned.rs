//! Schedules whose endpoints are parameters of their own and whose shape is that of any increasing function (VDM
//! appendix I.2, equation 59).

use super::{
    Endpoints, GammaAt, HostSchedule, MonotonicActivation, MonotonicNetwork, MonotonicNetworkConfig, NetworkSchedule,
    NetworkScheduleConfig, Schedule, ScheduleError, Split,
};
use crate::math::host;
use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor};
use serde::{Deserialize, Serialize};

/// A strictly increasing function r(t), of which only the shape counts: scale and shift are taken away by pinning.
#[derive(Module, Debug)]
pub enum RawMonotone {
    /// The paper's network.
    Network(NetworkSchedule),
    /// A constrained monotonic network.
    Monotonic(MonotonicNetwork),
}

impl RawMonotone {
    /// r (as `gamma`) and r' (as `prime`, positive).
    ///
    /// # Shapes
    /// - `t`: `[batch]`, in [0, 1]
    /// - outputs: `[batch]`
    pub fn forward(&self, t: Tensor<1>) -> GammaAt {
        match self {
            Self::Network(r) => r.forward(t),
            Self::Monotonic(r) => r.forward(t),
        }
    }

    /// The present function in f64.
    pub fn to_host(&self) -> Box<dyn HostSchedule> {
        match self {
            Self::Network(r) => r.to_host(),
            Self::Monotonic(r) => r.to_host(),
        }
    }
}

/// gamma(t) = gamma_0 + (gamma_1 - gamma_0) (r(t) - r(0)) / (r(1) - r(0)) with gamma_0, gamma_1 and r learned (VDM
/// equation 59).
///
/// The bound depends on gamma_0 and gamma_1, its variance on r alone, which is why they are parameters apart: see
/// [`schedule_gradients`](super::schedule_gradients).
///
/// # Invariants
/// gamma_1 must stay above gamma_0. They are stored as they are, not as a start and a span that is made positive: the
/// reconstruction pulls gamma_0 down and the prior gamma_1 up, and [`validate`](Schedule::validate) says when a step has
/// been so large that they crossed. r(1) - r(0) is positive by the construction of r, unless all weights
/// of a [`NetworkSchedule`] are zero.
#[derive(Module, Debug)]
pub struct PinnedSchedule {
    /// gamma(0): `[1]`.
    pub gamma_0: Param<Tensor<1>>,
    /// gamma(1): `[1]`.
    pub gamma_1: Param<Tensor<1>>,
    /// The shape.
    pub raw: RawMonotone,
}

impl PinnedSchedule {
    /// The schedule of the shape of `raw` between `gamma_0` and `gamma_1`.
    pub fn new(raw: RawMonotone, ends: Endpoints, device: &Device) -> Self {
        let endpoint = |gamma: f64| Param::from_data([gamma as f32], device);
        Self { gamma_0: endpoint(ends.gamma_0), gamma_1: endpoint(ends.gamma_1), raw }
    }

    /// (r(t) - r(0)) / (r(1) - r(0)), which goes from 0 to 1, and its derivative.
    fn shape(&self, t: Tensor<1>) -> GammaAt {
        let [batch] = t.dims();
        let ends = Tensor::from_data([0.0f32, 1.0], &t.device());
        let GammaAt { gamma: r, prime } = self.raw.forward(Tensor::cat(vec![t, ends], 0));
        let start = r.clone().narrow(0, batch, 1);
        let rise = r.clone().narrow(0, batch + 1, 1) - start.clone();
        GammaAt { gamma: (r.narrow(0, 0, batch) - start) / rise.clone(), prime: prime.narrow(0, 0, batch) / rise }
    }

    /// The endpoints on the host.
    fn present(&self) -> [f64; 2] {
        [&self.gamma_0, &self.gamma_1].map(|gamma| host(&gamma.val())[0])
    }
}

impl Schedule for PinnedSchedule {
    fn forward(&self, t: Tensor<1>) -> GammaAt {
        between(self.gamma_0.val(), self.gamma_1.val(), self.shape(t))
    }

    fn to_host(&self) -> Box<dyn HostSchedule> {
        let [gamma_0, gamma_1] = self.present();
        let raw = self.raw.to_host();
        let start = raw.gamma(0.0);
        Box::new(HostPinned { gamma_0, start, scale: (gamma_1 - gamma_0) / (raw.gamma(1.0) - start), raw })
    }

    fn fingerprint(&self) -> Vec<u8> {
        Vec::new()
    }

    /// Both halves come from one evaluation of r.
    fn split(&self, t: Tensor<1>) -> Split {
        let shape = self.shape(t);
        let constant = GammaAt { gamma: shape.gamma.clone().detach(), prime: shape.prime.clone().detach() };
        let (start, end) = (self.gamma_0.val(), self.gamma_1.val());
        Split::Apart {
            endpoints: between(start.clone(), end.clone(), constant),
            shape: between(start.detach(), end.detach(), shape),
        }
    }

    /// The parameters themselves, so that r gets no gradient from them.
    fn endpoints(&self, _device: &Device) -> (Tensor<1>, Tensor<1>) {
        (self.gamma_0.val(), self.gamma_1.val())
    }

    /// [`ScheduleError::Endpoints`] if gamma_1 is not above gamma_0, or one of them is not finite.
    fn validate(&self) -> Result<(), ScheduleError> {
        let [gamma_0, gamma_1] = self.present();
        let span = gamma_1 - gamma_0;
        if span > 0.0 && span.is_finite() { Ok(()) } else { Err(ScheduleError::Endpoints { gamma_0, gamma_1 }) }
    }
}

/// The schedule of a shape, which goes from 0 to 1, between two endpoints.
fn between(start: Tensor<1>, end: Tensor<1>, shape: GammaAt) -> GammaAt {
    let span = end - start.clone();
    GammaAt { gamma: start + span.clone() * shape.gamma, prime: span * shape.prime }
}

/// A [`PinnedSchedule`] in f64.
struct HostPinned {
    gamma_0: f64,
    /// r(0).
    start: f64,
    /// (gamma_1 - gamma_0) / (r(1) - r(0)).
    scale: f64,
    raw: Box<dyn HostSchedule>,
}

impl HostSchedule for HostPinned {
    fn gamma(&self, t: f64) -> f64 {
        self.gamma_0 + self.scale * (self.raw.gamma(t) - self.start)
    }

    fn prime(&self, t: f64) -> f64 {
        self.scale * self.raw.prime(t)
    }
}

/// The learnable schedule of the didactic system: a [`MonotonicNetwork`] pinned to learned endpoints.
pub type LearnableSchedule = PinnedSchedule;

impl NetworkScheduleConfig {
    /// Makes a [`PinnedSchedule`] with the shape of this network, on `device`, with the device's random numbers.
    pub fn init_pinned(&self, device: &Device) -> PinnedSchedule {
        // Only the shape counts. A line from 0 to 1, not from gamma_0 to gamma_1, gives the sigmoids beside it
        // influence from the start, and subtracting r(0) loses no digits.
        let raw = Self { gamma_0: 0.0, gamma_1: 1.0, features: self.features }.init(device);
        PinnedSchedule::new(RawMonotone::Network(raw), self.endpoints(), device)
    }
}

/// Configuration of a [`LearnableSchedule`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LearnableScheduleConfig {
    /// Units of each hidden layer, from the time to the output.
    pub hidden: Vec<usize>,
    /// The activation of the hidden layers: elu, relu or selu.
    pub activation: MonotonicActivation,
    /// gamma(0) before training.
    pub gamma_0: f64,
    /// gamma(1) before training; above `gamma_0`.
    pub gamma_1: f64,
}

impl Default for LearnableScheduleConfig {
    /// From -13.3 to 5, two hidden layers of 64 units, elu.
    fn default() -> Self {
        let Endpoints { gamma_0, gamma_1 } = Endpoints::default();
        Self { hidden: vec![64, 64], activation: MonotonicActivation::Elu, gamma_0, gamma_1 }
    }
}

impl LearnableScheduleConfig {
    pub(super) fn endpoints(&self) -> Endpoints {
        Endpoints { gamma_0: self.gamma_0, gamma_1: self.gamma_1 }
    }

    fn network(&self) -> MonotonicNetworkConfig {
        MonotonicNetworkConfig { hidden: self.hidden.clone(), activation: self.activation }
    }

    /// Says what is wrong with the configuration, if anything.
    ///
    /// # Errors
    /// The field, its value, and what it must be. The activations silu and gelu are refused: a schedule with them could
    /// decrease.
    pub fn validate(&self) -> Result<(), String> {
        self.endpoints().validate()?;
        self.network().validate()
    }

    /// Makes the schedule on `device`, with the device's random numbers.
    ///
    /// # Errors
    /// As [`validate`](Self::validate).
    pub fn init(&self, device: &Device) -> Result<LearnableSchedule, String> {
        self.validate()?;
        let raw = RawMonotone::Monotonic(self.network().init(device)?);
        Ok(PinnedSchedule::new(raw, self.endpoints(), device))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> LearnableScheduleConfig {
        LearnableScheduleConfig {
            hidden: vec![6, 5],
            activation: MonotonicActivation::Elu,
            gamma_0: -8.0,
            gamma_1: 5.0,
        }
    }

    #[test]
    fn the_endpoints_are_the_parameters_and_r_gets_no_gradient_from_them() {
        let device = Device::flex().autodiff();
        let schedule = config().init(&device).unwrap();
        let at = schedule.forward(Tensor::from_data([0.0f32, 1.0], &device));
        for (found, want) in host(&at.gamma).iter().zip([-8.0, 5.0]) {
            assert!((found - want).abs() < 1e-5, "{found}");
        }
        let on_host = schedule.to_host();
        assert_eq!(on_host.gamma(0.0), -8.0);
        assert!((on_host.gamma(1.0) - 5.0).abs() < 1e-12);
        let (start, end) = schedule.endpoints(&device);
        let names: Vec<String> = crate::weights::gradients(&schedule, &(start * end).backward()).into_keys().collect();
        assert_eq!(names, ["gamma_0", "gamma_1"]);
    }

    #[test]
    fn both_halves_have_the_value_of_the_whole_and_their_own_parameters() {
        let device = Device::flex().autodiff();
        let schedule = config().init(&device).unwrap();
        let t = || Tensor::<1>::from_data([0.1f32, 0.5, 0.8], &device);
        let whole = schedule.forward(t());
        let Split::Apart { endpoints: ends, shape: inside } = schedule.split(t()) else { panic!("it has both") };
        for half in [&ends, &inside] {
            assert_eq!(host(&half.gamma), host(&whole.gamma));
            assert_eq!(host(&half.prime), host(&whole.prime));
        }
        let names = |at: GammaAt| -> Vec<String> {
            let gradients = (at.gamma * at.prime).sum().backward();
            crate::weights::gradients(&schedule, &gradients).into_keys().collect()
        };
        assert_eq!(names(ends), ["gamma_0", "gamma_1"]);
        let inside = names(inside);
        assert_eq!(inside.len(), 5, "{inside:?}");
        assert!(inside.iter().all(|name| name.starts_with("raw.Monotonic.")));
    }

    #[test]
    fn endpoints_that_meet_or_cross_are_errors() {
        let device = Device::flex();
        let mut schedule = config().init(&device).unwrap();
        assert_eq!(schedule.validate(), Ok(()));
        for gamma_1 in [-8.0, -9.0, f32::NAN, f32::INFINITY] {
            schedule.gamma_1 = Param::from_data([gamma_1], &device);
            let error = schedule.validate().unwrap_err().to_string();
            assert!(error.contains("gamma_0 = -8") && error.contains("gamma_1"), "{error}");
        }
        for gamma_1 in [-8.0, f64::NAN, f64::INFINITY] {
            let error = LearnableScheduleConfig { gamma_1, ..config() }.init(&device).err().unwrap();
            assert!(error.contains("gamma_1"), "{error}");
        }
        let silu = LearnableScheduleConfig { activation: MonotonicActivation::Silu, ..config() };
        let error = silu.init(&device).err().unwrap();
        assert!(error.contains("silu") && error.contains("elu, relu or selu"), "{error}");
    }
}
