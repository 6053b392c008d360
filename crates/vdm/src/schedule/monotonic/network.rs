//! A strictly increasing function of the time, made of monotonic layers.

use super::{HostMonotonicLinear, MonotonicActivation, MonotonicLinear, MonotonicLinearConfig};
use crate::schedule::{GammaAt, HostSchedule};
use burn::module::Module;
use burn::tensor::{Device, Tensor};

/// Configuration of a [`MonotonicNetwork`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MonotonicNetworkConfig {
    /// Units of each hidden layer, from the time to the output: 1 to 16 layers, each of 1 to 4096 units.
    pub hidden: Vec<usize>,
    /// The activation of the hidden layers: elu, relu or selu.
    pub activation: MonotonicActivation,
}

impl MonotonicNetworkConfig {
    /// Says what is wrong with the configuration, if anything.
    ///
    /// # Errors
    /// The field, its value, and what it must be.
    pub fn validate(&self) -> Result<(), String> {
        if !(1..=16).contains(&self.hidden.len()) || self.hidden.iter().any(|units| !(1..=4096).contains(units)) {
            return Err(format!("hidden = {:?} must name 1 to 16 layers, each of 1 to 4096 units", self.hidden));
        }
        if !self.activation.is_monotone() {
            return Err(format!(
                "activation = \"{}\" is not monotone, so gamma could decrease; a schedule needs elu, relu or selu",
                self.activation.name()
            ));
        }
        Ok(())
    }

    /// Makes the network on `device`, with the device's random numbers.
    ///
    /// # Errors
    /// As [`validate`](Self::validate).
    pub fn init(&self, device: &Device) -> Result<MonotonicNetwork, String> {
        self.validate()?;
        let inputs = std::iter::once(&1).chain(&self.hidden);
        let layers: Result<Vec<MonotonicLinear>, String> = inputs
            .zip(&self.hidden)
            .map(|(&d_in, &d_out)| MonotonicLinearConfig::new(d_in, d_out, self.activation).init(device))
            .collect();
        let last = self.hidden.last().copied().unwrap_or(1);
        Ok(MonotonicNetwork { layers: layers?, last: MonotonicLinearConfig::plain(last, 1).init(device)? })
    }
}

/// What is added to a network's output for each unit of time.
///
/// A relu network, and the saturated units of any, can be flat over a stretch of time: there gamma' would be 0, and the
/// times of that stretch would be lost to the bound. This share keeps the slope positive, and the rise from t = 0 to
/// t = 1, by which the schedule divides, above zero for all weights. It is fixed because a learned one could go to
/// zero, and small beside the rise of a fresh network, which is about 1.
const LINEAR_SHARE: f64 = 0.05;

/// A strictly increasing function of the time: a stack of [`MonotonicLinear`] layers on 2 t - 1, the last of them a
/// positive linear map, plus 0.05 t.
///
/// The last layer has no activation because one that saturates could make the whole function flat (0/0 where it is
/// pinned to endpoints), and no bias because pinning takes it away again. The share of t keeps the slope positive where
/// the network is flat.
#[derive(Module, Debug)]
pub struct MonotonicNetwork {
    /// The hidden layers.
    pub layers: Vec<MonotonicLinear>,
    /// The output.
    pub last: MonotonicLinear,
}

impl MonotonicNetwork {
    /// The function (as `gamma`) and its derivative (as `prime`, positive).
    ///
    /// # Shapes
    /// - `t`: `[batch]`, in [0, 1]
    /// - outputs: `[batch]`
    pub fn forward(&self, t: Tensor<1>) -> GammaAt {
        let [batch] = t.dims();
        let x = (t.clone() * 2.0 - 1.0).reshape([batch, 1]);
        let dx = x.ones_like() * 2.0;
        let layers = self.layers.iter().chain(std::iter::once(&self.last));
        let (r, dr) = layers.fold((x, dx), |(x, dx), layer| layer.forward_with_tangent(x, dx));
        GammaAt { gamma: r.reshape([batch]) + t * LINEAR_SHARE, prime: dr.reshape([batch]) + LINEAR_SHARE }
    }

    /// The present network in f64.
    pub fn to_host(&self) -> Box<dyn HostSchedule> {
        let layers = self.layers.iter().chain(std::iter::once(&self.last));
        Box::new(HostMonotonicNetwork { layers: layers.map(MonotonicLinear::to_host).collect() })
    }
}

/// A [`MonotonicNetwork`] in f64.
#[derive(Clone, Debug)]
struct HostMonotonicNetwork {
    layers: Vec<HostMonotonicLinear>,
}

impl HostMonotonicNetwork {
    fn at(&self, t: f64) -> (f64, f64) {
        let start = (vec![2.0 * t - 1.0], vec![2.0]);
        let (r, dr) = self.layers.iter().fold(start, |(x, dx), layer| layer.forward_with_tangent(&x, &dx));
        // The last layer has one unit.
        (r.iter().sum::<f64>() + LINEAR_SHARE * t, dr.iter().sum::<f64>() + LINEAR_SHARE)
    }
}

impl HostSchedule for HostMonotonicNetwork {
    fn gamma(&self, t: f64) -> f64 {
        self.at(t).0
    }

    fn prime(&self, t: f64) -> f64 {
        self.at(t).1
    }
}

#[cfg(test)]
mod tests {
    use super::super::layer::tests::{ACTIVATIONS, randomised};
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn activations_that_are_not_monotone_make_no_schedule() {
        let network = |activation| MonotonicNetworkConfig { hidden: vec![4], activation }.init(&Device::flex());
        for activation in ACTIVATIONS {
            match network(activation) {
                Ok(_) => assert!(activation.is_monotone()),
                Err(error) => {
                    assert!(!activation.is_monotone());
                    let name = activation.name();
                    assert!(error.contains(name) && error.contains("elu, relu or selu"), "{error}");
                }
            }
        }
        for hidden in [vec![], vec![4, 0], vec![1; 17], vec![1 << 40]] {
            let config = MonotonicNetworkConfig { hidden, activation: MonotonicActivation::Elu };
            assert!(config.init(&Device::flex()).err().unwrap().contains("hidden"));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        /// At whatever weights: strictly increasing, and gamma' integrates to gamma. The integral, unlike a difference,
        /// does not care about the places where the slope of relu and selu jumps.
        #[test]
        fn networks_increase(seed in any::<u64>(), std in 0.01f32..2.0, which in 0usize..3, deep in any::<bool>()) {
            let hidden = if deep { vec![7, 5, 6] } else { vec![9] };
            let config = MonotonicNetworkConfig { hidden, activation: ACTIVATIONS[which] };
            let network = randomised(config.init(&Device::flex()).unwrap(), seed, std).to_host();
            let n = 4000;
            let mut sum = 0.0;
            for i in 0..n {
                let t = i as f64 / n as f64;
                let slope = network.prime(t + 0.5 / n as f64);
                sum += slope / n as f64;
                prop_assert!(slope >= LINEAR_SHARE);
                prop_assert!(network.gamma(t + 1.0 / n as f64) > network.gamma(t));
            }
            let rise = network.gamma(1.0) - network.gamma(0.0);
            prop_assert!((sum / rise - 1.0).abs() < 1e-2, "{sum} and {rise}");
        }
    }
}
