//! The model: a noise schedule, a network, and what the two mean together (VDM sections 3 and 4).
//!
//! Read `bound.rs` first: it has the three losses of the paper on one screen. It takes the formulas of the process from
//! [`process`], the codes of the pixels from [`Vocabulary`], and the times from [`times`]. `self_conditioning.rs` evaluates
//! the network; [`error_model`] says how wrong it is, which makes a model in few steps better.

mod bound;
mod encoding;
pub mod error_model;
pub mod process;
mod self_conditioning;
pub mod times;

pub(crate) use bound::draw_inputs;
pub use bound::{LossTerms, Noise, bits_per_dim};
pub use encoding::Vocabulary;
pub use error_model::{ErrorModel, ErrorsUnknown, ReverseVariance};
pub use process::Posterior;

use crate::nn::{Precision, ScoreNetwork};
use crate::schedule::{NoiseSchedule, ScheduleConfig};
use crate::shape::ImageShape;
use burn::module::Module;
use serde::{Deserialize, Serialize};

/// Most steps T of a discrete-time bound. gamma_t - gamma_s is computed in single precision: with more steps, the
/// difference of neighbours would be lost in its rounding.
pub const MAX_TIMESTEPS: usize = 1 << 16;

/// Which endpoints normalise gamma_t to the time in [0, 1] that the network is fed. One choice holds everywhere:
/// in training, evaluation and sampling.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TimeNormalization {
    /// The configured gamma_0 and gamma_1, as in the reference code: fixed whatever the schedule learns.
    #[default]
    Configured,
    /// The schedule's present endpoints.
    Current,
}

/// What a network's output means. eps_hat follows from it, z and gamma, and so the bound, samplers and the codec do not change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Prediction {
    /// The noise, as in the paper.
    #[default]
    Eps,
    /// v = alpha eps - sigma x (Salimans and Ho 2022, arXiv 2202.00512).
    V,
    /// The image x.
    X,
}

/// Everything but the schedule and the network: what [`VariationalDiffusion::new`] needs.
#[derive(Clone, Debug)]
pub struct DiffusionSettings {
    /// The shape of the images.
    pub shape: ImageShape,
    /// The levels of a pixel.
    pub vocabulary: Vocabulary,
    /// Steps T of the discrete-time bound, or `None` for continuous time.
    pub timesteps: Option<usize>,
    /// The configured (gamma_0, gamma_1).
    pub configured_endpoints: (f64, f64),
    /// What the network's time is normalised by.
    pub time_normalization: TimeNormalization,
    /// What the network's output means.
    pub prediction: Prediction,
    /// The precision of the network's products in training.
    pub precision: Precision,
}

impl DiffusionSettings {
    /// Continuous time, a network that predicts the noise, and its time normalised by the schedule's configured endpoints.
    pub fn new(shape: ImageShape, vocabulary: Vocabulary, schedule: &ScheduleConfig) -> Self {
        Self {
            shape,
            vocabulary,
            timesteps: None,
            configured_endpoints: schedule.endpoints(),
            time_normalization: TimeNormalization::Configured,
            prediction: Prediction::Eps,
            precision: Precision::F32,
        }
    }
}

/// A variational diffusion model: a noise schedule and a network.
#[derive(Module, Debug)]
pub struct VariationalDiffusion<N> {
    /// The noise schedule.
    pub schedule: NoiseSchedule,
    /// The network that predicts the noise.
    pub network: N,
    #[module(skip)]
    settings: DiffusionSettings,
    #[module(skip)]
    errors: Option<ErrorModel>,
}

impl<N: ScoreNetwork> VariationalDiffusion<N> {
    /// Puts a schedule and a network together.
    pub fn new(schedule: NoiseSchedule, network: N, settings: DiffusionSettings) -> Self {
        Self { schedule, network, settings, errors: None }
    }

    /// The settings that the model was made with.
    pub fn settings(&self) -> &DiffusionSettings {
        &self.settings
    }

    /// The shape of the model's images.
    pub fn shape(&self) -> ImageShape {
        self.settings.shape
    }

    /// The same weights as leaves of a graph of their own.
    pub(crate) fn with_own_leaves(&self) -> Self {
        Self {
            schedule: self.schedule.valid().train(),
            network: self.network.valid().train(),
            settings: self.settings.clone(),
            errors: None,
        }
    }

    /// The same weights with the network's products in the precision of training.
    pub(crate) fn in_training_precision(&self) -> Self {
        Self {
            schedule: self.schedule.clone(),
            network: self.settings.precision.of_products(self.network.clone()),
            settings: self.settings.clone(),
            errors: None,
        }
    }

    /// The same weights as constants on the device with autodiff: for derivatives with respect to z.
    pub(crate) fn as_constants(&self) -> Self {
        Self {
            schedule: self.schedule.valid().train().no_grad(),
            network: self.network.valid().train().no_grad(),
            settings: self.settings.clone(),
            errors: None,
        }
    }

    /// The same model with another number of steps in its bound; `None` for continuous time.
    pub fn with_timesteps(mut self, timesteps: Option<usize>) -> Self {
        self.settings.timesteps = timesteps;
        self
    }

    /// What widens p(z_s | z_t), if something does: `None` for the paper's variance.
    pub fn errors(&self) -> Option<&ErrorModel> {
        self.errors.as_ref()
    }

    /// The same model with another width of p(z_s | z_t): see [`error_model`]. The bound in continuous time stays the same.
    pub fn with_errors(mut self, errors: Option<ErrorModel>) -> Self {
        self.errors = errors;
        self
    }

    /// The variance of reverse steps that costs least in this model: by pixel, if it knows its own error.
    pub fn best_reverse_variance(&self) -> ReverseVariance {
        if self.errors.is_some() { ReverseVariance::Pixel } else { ReverseVariance::Posterior }
    }

    /// The same model with reverse steps of this variance.
    ///
    /// # Errors
    /// [`ErrorsUnknown`] if that is not the posterior's, and the model does not know its own error.
    pub fn with_reverse_variance(&self, variance: ReverseVariance) -> Result<Self, ErrorsUnknown> {
        let errors = self.errors.clone().and_then(|errors| errors.with_variance(variance));
        if errors.is_none() && variance != ReverseVariance::Posterior {
            return Err(ErrorsUnknown);
        }
        let same = Self::new(self.schedule.clone(), self.network.clone(), self.settings.clone());
        Ok(same.with_errors(errors))
    }
}
