//! The estimators by name. A new estimator gets a variant and a line in `estimator` and in `uses`.

use super::{Bound, Estimator, Importance, Ode};
use crate::flow::Tolerance;
use crate::flow::divergence::Trace;
use crate::nn::ScoreNetwork;
use serde::{Deserialize, Serialize};

/// An estimator that a program can choose by name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EstimatorKind {
    /// See [`Bound`].
    #[default]
    Bound,
    /// See [`Importance`].
    Importance,
    /// See [`Ode`].
    Ode,
}

/// What the estimators leave open; each takes what it has use for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EstimatorSettings {
    /// Draws of the latents for one estimate of an image.
    pub draws: usize,
    /// How exactly the flow is solved.
    pub tolerance: Tolerance,
    /// How the flow's divergence is found.
    pub trace: Trace,
    /// Vectors of Hutchinson's estimate of it.
    pub probes: usize,
}

impl Default for EstimatorSettings {
    /// One draw, errors of 1e-4 a step, one vector of signs.
    fn default() -> Self {
        Self { draws: 1, tolerance: Tolerance::new(1e-4), trace: Trace::Rademacher, probes: 1 }
    }
}

/// An option that only some estimators have a use for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EstimatorOption {
    /// The T of a model in T steps ([`VariationalDiffusion::with_timesteps`](crate::VariationalDiffusion::with_timesteps)).
    Timesteps,
    /// [`EstimatorSettings::draws`].
    Draws,
    /// [`EstimatorSettings::tolerance`].
    Tolerance,
    /// [`EstimatorSettings::trace`].
    Trace,
    /// [`EstimatorSettings::probes`].
    Probes,
}

impl EstimatorKind {
    /// Whether the option changes what the estimator does. A program refuses an option without use, because whoever gives
    /// it expects something of it.
    pub fn uses(self, option: EstimatorOption) -> bool {
        use EstimatorOption::{Draws, Probes, Timesteps, Tolerance, Trace};
        match self {
            Self::Bound => option == Timesteps,
            Self::Importance => matches!(option, Timesteps | Draws),
            Self::Ode => matches!(option, Draws | Tolerance | Trace | Probes),
        }
    }

    /// The estimator.
    pub fn estimator<N: ScoreNetwork>(self, settings: &EstimatorSettings) -> Box<dyn Estimator<N>> {
        let EstimatorSettings { draws, tolerance, trace, probes } = *settings;
        match self {
            Self::Bound => Box::new(Bound),
            Self::Importance => Box::new(Importance { draws }),
            Self::Ode => Box::new(Ode { tolerance, trace, probes, draws }),
        }
    }
}
