//! Noise schedules gamma(t) = -log SNR(t), strictly increasing on [0, 1] (VDM section 3.2).
//!
//! - [`FixedLinear`]: nothing is learned; for comparisons, and where the endpoints are known.
//! - [`FixedCurve`]: the same with the shape of the cosine schedule or of DDPM's linear beta.
//! - [`LearnedLinear`]: both endpoints are learned; the paper's choice for most runs, and the default.
//! - [`NetworkSchedule`]: the reference code's monotonic network; its endpoints move with its shape.
//! - [`PinnedSchedule`]: learned endpoints, and the shape of any increasing function between them: of the paper's
//!   network, or of a constrained monotonic one ([`LearnableSchedule`]). The shape can be trained for less variance.
//!
//! The derivative gamma'(t) that the continuous-time bound needs is carried through the layers together with the value
//! (forward mode), so that first-order autodiff gives its gradient.
//!
//! To add a schedule, write a file with a type that implements [`Schedule`] and its configuration, and name both in
//! `any.rs`.

mod any;
mod curve;
mod linear;
mod monotonic;
mod network;
mod objective;
mod pinned;

pub use any::{NoiseSchedule, ScheduleConfig};
pub use curve::{CurveShape, FixedCurve};
pub use linear::{FixedLinear, LearnedLinear};
pub use monotonic::{
    HostMonotonicLinear, MonotonicActivation, MonotonicLinear, MonotonicLinearConfig, MonotonicNetwork,
    MonotonicNetworkConfig,
};
pub use network::{NetworkSchedule, NetworkScheduleConfig};
pub use objective::{ObjectiveError, ScheduleObjective, ScheduleTape, schedule_gradients};
pub use pinned::{LearnableSchedule, LearnableScheduleConfig, PinnedSchedule, RawMonotone};
/// The name of [`schedule_gradients`] in the project that this one started from.
pub use schedule_gradients as reduce_variance;

use burn::tensor::{Device, Tensor};
use serde::{Deserialize, Serialize};

/// gamma and its derivative at a batch of times.
#[derive(Clone, Debug)]
pub struct GammaAt {
    /// gamma(t): `[batch]`.
    pub gamma: Tensor<1>,
    /// gamma'(t), positive, except for the zero at t = 0 of DDPM's linear beta: `[batch]`.
    pub prime: Tensor<1>,
}

/// A noise schedule on its device.
pub trait Schedule {
    /// gamma and gamma' at the times `t`.
    ///
    /// # Shapes
    /// - `t`: `[batch]`, in [0, 1]
    /// - outputs: `[batch]`
    fn forward(&self, t: Tensor<1>) -> GammaAt;

    /// A copy of the present parameters that evaluates in f64 on the host.
    fn to_host(&self) -> Box<dyn HostSchedule>;

    /// What decides gamma besides the weights: hashed into the fingerprint by which a compressed file knows its model
    /// ([`model_fingerprint`](crate::codec::model_fingerprint)). Empty where the weights, by name, decide everything.
    fn fingerprint(&self) -> Vec<u8>;

    /// The schedule as a function of its endpoints' parameters and of its shape's parameters, at the times `t`.
    fn split(&self, t: Tensor<1>) -> Split;

    /// (gamma(0), gamma(1)), each `[1]`.
    fn endpoints(&self, device: &Device) -> (Tensor<1>, Tensor<1>) {
        let at = |t: f32| self.forward(Tensor::from_data([t], device)).gamma;
        (at(0.0), at(1.0))
    }

    /// Says whether gamma still increases, for schedules that training can make decrease.
    ///
    /// # Errors
    /// See [`ScheduleError`].
    fn validate(&self) -> Result<(), ScheduleError> {
        Ok(())
    }
}

/// A schedule at some times, with its parameters divided into those of the endpoints and those of the shape between
/// them, which may be trained for different objectives: see [`schedule_gradients`].
// It lives for one call, so the variants' difference in size costs nothing.
#[allow(clippy::large_enum_variant)]
pub enum Split {
    /// There are no parameters.
    Fixed,
    /// All parameters are the endpoints'.
    Endpoints(GammaAt),
    /// Endpoints and shape have parameters of their own. The two values are equal; each is a function of its own
    /// parameters only, the others are constants.
    Apart {
        /// As a function of the endpoints' parameters.
        endpoints: GammaAt,
        /// As a function of the shape's parameters.
        shape: GammaAt,
    },
    /// Endpoints and shape depend on the same parameters, so they cannot have different objectives.
    Together,
}

/// A schedule evaluated in f64 on the host, for the scalars of sampling steps and for plots.
pub trait HostSchedule: Send + Sync {
    /// gamma(t).
    fn gamma(&self, t: f64) -> f64;
    /// gamma'(t).
    fn prime(&self, t: f64) -> f64;

    /// gamma_0 to gamma_T of T = `steps` steps that are evenly spaced in time.
    fn evenly(&self, steps: usize) -> Vec<f64> {
        (0..=steps).map(|i| self.gamma(i as f64 / steps.max(1) as f64)).collect()
    }
}

/// The endpoints of a schedule before training: all there is to configure about most of them.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Endpoints {
    /// gamma(0), the log of the noise-to-signal ratio of the data end.
    pub gamma_0: f64,
    /// gamma(1), the log of the noise-to-signal ratio of the noise end.
    pub gamma_1: f64,
}

impl Default for Endpoints {
    /// The paper's: -13.3 and 5.
    fn default() -> Self {
        Self { gamma_0: -13.3, gamma_1: 5.0 }
    }
}

impl Endpoints {
    /// Says if these cannot be the endpoints of a schedule.
    ///
    /// # Errors
    /// The values, and what they must be.
    pub fn validate(&self) -> Result<(), String> {
        let Self { gamma_0, gamma_1 } = self;
        if gamma_0.is_finite() && gamma_1.is_finite() && gamma_1 > gamma_0 {
            Ok(())
        } else {
            Err(format!("gamma_1 = {gamma_1} must be above gamma_0 = {gamma_0}, both finite"))
        }
    }
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
