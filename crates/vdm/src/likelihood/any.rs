//! The estimators by name. A new estimator gets a variant and a line in `estimator`.

use super::{Bound, Estimator};
use crate::nn::ScoreNetwork;
use serde::{Deserialize, Serialize};

/// An estimator that a program can choose by name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EstimatorKind {
    /// See [`Bound`].
    #[default]
    Bound,
}

impl EstimatorKind {
    /// The estimator.
    pub fn estimator<N: ScoreNetwork>(self) -> &'static dyn Estimator<N> {
        match self {
            Self::Bound => &Bound,
        }
    }
}
