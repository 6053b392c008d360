//! The samplers by name. A new sampler gets a variant and a line in `sampler`.

use super::{Ancestral, Sampler};
use serde::{Deserialize, Serialize};

/// A sampler that a program can choose by name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SamplerKind {
    /// See [`Ancestral`].
    #[default]
    Ancestral,
}

impl SamplerKind {
    /// The sampler.
    pub fn sampler(self) -> &'static dyn Sampler {
        match self {
            Self::Ancestral => &Ancestral,
        }
    }
}
