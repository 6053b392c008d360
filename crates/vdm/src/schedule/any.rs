//! All schedules in one type: the configuration by its kind, and the schedule that it makes.
//!
//! A new schedule gets a variant and a line in each of the functions below.

use super::{
    CurveShape, Endpoints, FixedCurve, FixedLinear, GammaAt, HostSchedule, LearnableScheduleConfig, LearnedLinear,
    NetworkSchedule, NetworkScheduleConfig, PinnedSchedule, Schedule, ScheduleError, Split,
};
use burn::module::Module;
use burn::tensor::{Device, Tensor};
use serde::{Deserialize, Serialize};

/// Which schedule, and its values before training: a table with the key `kind` and the keys of that kind.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum ScheduleConfig {
    /// A [`FixedLinear`].
    FixedLinear(Endpoints),
    /// A [`FixedCurve`] of the shape [`CurveShape::Cosine`].
    FixedCosine(Endpoints),
    /// A [`FixedCurve`] of the shape [`CurveShape::LinearBeta`].
    FixedLinearBeta(Endpoints),
    /// A [`LearnedLinear`].
    LearnedLinear(Endpoints),
    /// A [`NetworkSchedule`].
    Network(NetworkScheduleConfig),
    /// A [`PinnedSchedule`] of the paper's network.
    PinnedNetwork(NetworkScheduleConfig),
    /// A [`LearnableSchedule`](super::LearnableSchedule): a [`PinnedSchedule`] of a constrained monotonic network.
    Monotonic(LearnableScheduleConfig),
}

impl Default for ScheduleConfig {
    /// The paper's: learned linear from -13.3 to 5.
    fn default() -> Self {
        Self::LearnedLinear(Endpoints::default())
    }
}

impl ScheduleConfig {
    /// (gamma(0), gamma(1)) before training.
    pub fn endpoints(&self) -> (f64, f64) {
        let Endpoints { gamma_0, gamma_1 } = match self {
            Self::FixedLinear(ends)
            | Self::FixedCosine(ends)
            | Self::FixedLinearBeta(ends)
            | Self::LearnedLinear(ends) => *ends,
            Self::Network(config) | Self::PinnedNetwork(config) => config.endpoints(),
            Self::Monotonic(config) => config.endpoints(),
        };
        (gamma_0, gamma_1)
    }

    /// Says what is wrong with the configuration, if anything.
    ///
    /// # Errors
    /// The key, its value, and what it must be.
    pub fn validate(&self) -> Result<(), String> {
        match self {
            Self::FixedLinear(ends)
            | Self::FixedCosine(ends)
            | Self::FixedLinearBeta(ends)
            | Self::LearnedLinear(ends) => ends.validate(),
            Self::Network(config) | Self::PinnedNetwork(config) => config.validate(),
            Self::Monotonic(config) => config.validate(),
        }
    }

    /// The number of parameters of the schedule that [`init`](Self::init) makes.
    pub fn parameters(&self) -> u128 {
        match self {
            Self::FixedLinear(_) | Self::FixedCosine(_) | Self::FixedLinearBeta(_) => 0,
            Self::LearnedLinear(_) => 2,
            Self::Network(config) => 2 + 3 * config.features as u128,
            Self::PinnedNetwork(config) => 2 + 2 + 3 * config.features as u128,
            Self::Monotonic(config) => {
                let inputs = [1].into_iter().chain(config.hidden.iter().copied());
                let layer = |(d_in, &units): (usize, &usize)| units as u128 * (d_in as u128 + 1);
                let last = config.hidden.last().copied().unwrap_or(1);
                2 + inputs.zip(&config.hidden).map(layer).sum::<u128>() + last as u128
            }
        }
    }

    /// Makes the schedule on `device`, with the device's random numbers.
    ///
    /// # Panics
    /// If [`validate`](Self::validate) fails for a `monotonic` schedule.
    pub fn init(&self, device: &Device) -> NoiseSchedule {
        let curve = |shape, ends: &Endpoints| NoiseSchedule::FixedCurve(FixedCurve::new(shape, *ends));
        match self {
            Self::FixedLinear(ends) => NoiseSchedule::FixedLinear(FixedLinear::new(*ends)),
            Self::FixedCosine(ends) => curve(CurveShape::Cosine, ends),
            Self::FixedLinearBeta(ends) => curve(CurveShape::LinearBeta, ends),
            Self::LearnedLinear(ends) => NoiseSchedule::LearnedLinear(LearnedLinear::new(*ends, device)),
            Self::Network(config) => NoiseSchedule::Network(config.init(device)),
            Self::PinnedNetwork(config) => NoiseSchedule::Pinned(config.init_pinned(device)),
            Self::Monotonic(config) => match config.init(device) {
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
    fn any(&self) -> &dyn Schedule {
        match self {
            Self::FixedLinear(s) => s,
            Self::FixedCurve(s) => s,
            Self::LearnedLinear(s) => s,
            Self::Network(s) => s,
            Self::Pinned(s) => s,
        }
    }
}

impl Schedule for NoiseSchedule {
    fn forward(&self, t: Tensor<1>) -> GammaAt {
        self.any().forward(t)
    }

    fn to_host(&self) -> Box<dyn HostSchedule> {
        self.any().to_host()
    }

    fn fingerprint(&self) -> Vec<u8> {
        self.any().fingerprint()
    }

    fn split(&self, t: Tensor<1>) -> Split {
        self.any().split(t)
    }

    fn endpoints(&self, device: &Device) -> (Tensor<1>, Tensor<1>) {
        self.any().endpoints(device)
    }

    fn validate(&self) -> Result<(), ScheduleError> {
        self.any().validate()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::math::host;
    use crate::schedule::{MonotonicActivation, RawMonotone};

    /// Schedules of all kinds, the monotonic one with each of its activations.
    fn all() -> Vec<NoiseSchedule> {
        let device = Device::flex().autodiff();
        device.seed(7);
        let ends = Endpoints::default();
        let monotonic =
            |activation| ScheduleConfig::Monotonic(LearnableScheduleConfig { activation, ..Default::default() });
        let configs = [
            ScheduleConfig::FixedLinear(ends),
            ScheduleConfig::FixedCosine(ends),
            ScheduleConfig::FixedLinearBeta(ends),
            ScheduleConfig::LearnedLinear(ends),
            ScheduleConfig::Network(Default::default()),
            ScheduleConfig::PinnedNetwork(Default::default()),
            monotonic(MonotonicActivation::Elu),
            monotonic(MonotonicActivation::Relu),
            monotonic(MonotonicActivation::Selu),
        ];
        configs.iter().map(|config| config.init(&device)).collect()
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
                // Exact up to h^2, except at the bends of a monotonic network's units: one of elu within h of t is off by
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
    fn a_configuration_is_a_table_of_its_kind() {
        let parse = |text: &str| toml::from_str::<ScheduleConfig>(text);
        let name = |config: ScheduleConfig| serde_json::to_value(config).unwrap()["kind"].clone();
        assert_eq!(name(ScheduleConfig::FixedCosine(Endpoints::default())), "fixed-cosine");
        assert_eq!(name(ScheduleConfig::FixedLinearBeta(Endpoints::default())), "fixed-linear-beta");
        let learned = parse("kind = 'learned-linear'\ngamma_0 = -8.0").unwrap();
        assert_eq!(learned.endpoints(), (-8.0, 5.0));
        for text in ["gamma_0 = 1.0", "kind = 'line'", "kind = 'learned-linear'\nhidden = [8]"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn impossible_configurations_are_errors() {
        let error = |config: ScheduleConfig| config.validate().unwrap_err();
        let network = || NetworkScheduleConfig { features: 0, ..Default::default() };
        for config in [ScheduleConfig::Network(network()), ScheduleConfig::PinnedNetwork(network())] {
            assert!(error(config).contains("features = 0"));
        }
        let ends = Endpoints { gamma_1: -14.0, ..Default::default() };
        for config in [ScheduleConfig::FixedLinear(ends), ScheduleConfig::LearnedLinear(ends)] {
            assert!(error(config).contains("gamma_1 = -14"));
        }
        let empty = LearnableScheduleConfig { hidden: vec![], ..Default::default() };
        assert!(error(ScheduleConfig::Monotonic(empty)).contains("hidden = []"));
        for (activation, name) in [(MonotonicActivation::Silu, "silu"), (MonotonicActivation::Gelu, "gelu")] {
            let config = LearnableScheduleConfig { activation, ..Default::default() };
            let message = error(ScheduleConfig::Monotonic(config));
            assert!(message.contains(name) && message.contains("elu, relu or selu"), "{message}");
        }
    }
}
