//! The samplers by name. A new sampler gets a variant and a line in `sampler` and in `uses`.

use super::{Ancestral, Ddim, DpmPlusPlus2M, Heun, OdeSampler, Sampler};
use crate::flow::Tolerance;
use serde::{Deserialize, Serialize};

/// A sampler that a program can choose by name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SamplerKind {
    /// See [`Ancestral`].
    #[default]
    Ancestral,
    /// See [`Ddim`].
    Ddim,
    /// See [`Heun`].
    Heun,
    /// See [`DpmPlusPlus2M`].
    #[serde(rename = "dpm++-2m")]
    DpmPlusPlus2M,
    /// See [`OdeSampler`].
    Ode,
}

/// What the samplers leave open; each takes what it has use for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SamplerSettings {
    /// The noise of [`Ddim`], in [0, 1].
    pub eta: f64,
    /// How exactly [`OdeSampler`] solves the flow.
    pub tolerance: Tolerance,
}

impl Default for SamplerSettings {
    /// No noise; errors of 1e-3 a step, which no eye sees.
    fn default() -> Self {
        Self { eta: 0.0, tolerance: Tolerance::new(1e-3) }
    }
}

/// An option that only some samplers have a use for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SamplerOption {
    /// [`SampleOptions::steps`](super::SampleOptions::steps).
    Steps,
    /// [`SampleOptions::grid`](super::SampleOptions::grid).
    Grid,
    /// [`SamplerSettings::eta`].
    Eta,
    /// [`SamplerSettings::tolerance`].
    Tolerance,
}

impl SamplerKind {
    /// Whether the option changes what the sampler does. A program refuses an option without use, because whoever gives it
    /// expects something of it.
    pub fn uses(self, option: SamplerOption) -> bool {
        use SamplerOption::{Eta, Grid, Steps, Tolerance};
        match self {
            Self::Ancestral | Self::Heun | Self::DpmPlusPlus2M => matches!(option, Steps | Grid),
            Self::Ddim => matches!(option, Steps | Grid | Eta),
            Self::Ode => option == Tolerance,
        }
    }

    /// The sampler.
    pub fn sampler(self, settings: &SamplerSettings) -> Box<dyn Sampler> {
        match self {
            Self::Ancestral => Box::new(Ancestral),
            Self::Ddim => Box::new(Ddim { eta: settings.eta }),
            Self::Heun => Box::new(Heun),
            Self::DpmPlusPlus2M => Box::new(DpmPlusPlus2M),
            Self::Ode => Box::new(OdeSampler { tolerance: settings.tolerance }),
        }
    }
}
