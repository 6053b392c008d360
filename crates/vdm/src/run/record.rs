//! What is recorded about a training.

use crate::data::Split;
use crate::likelihood::Evaluation;
use serde::{Deserialize, Serialize};

/// Means over the steps since the last line; losses in bits per dimension.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepLine {
    /// Optimiser steps done.
    pub step: u64,
    /// The bound on training images, with the training weights.
    pub bpd: f64,
    /// Its prior term.
    pub prior: f64,
    /// Its reconstruction term.
    pub reconstruction: f64,
    /// Its diffusion term.
    pub diffusion: f64,
    /// gamma(0) after the last of the steps.
    pub gamma_0: f64,
    /// gamma(1) after the last of the steps.
    pub gamma_1: f64,
    /// Norm of the gradient before clipping.
    pub grad_norm: f64,
    /// Learning rate of the last of the steps.
    pub lr: f64,
    /// Training images a second, evaluations and checkpoints not counted.
    pub images_per_second: f64,
}

/// An evaluation with the averaged weights.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EvalLine {
    /// Optimiser steps done.
    pub step: u64,
    /// The images: `valid` during training, `test` for the final number.
    #[serde(default = "test")]
    pub eval_split: String,
    /// The bound in bits per dimension.
    pub eval_bpd: f64,
    /// Its standard error over images; `None` for one image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eval_bpd_stderr: Option<f64>,
    /// Its prior term.
    pub eval_prior: f64,
    /// Its reconstruction term.
    pub eval_reconstruction: f64,
    /// Its diffusion term.
    pub eval_diffusion: f64,
    /// Images.
    pub eval_images: usize,
}

impl EvalLine {
    /// The line of an evaluation on images of this split after `step` steps.
    pub fn new(step: u64, split: Split, e: &Evaluation) -> Self {
        Self {
            step,
            eval_split: split.to_string(),
            eval_bpd: e.bpd,
            eval_bpd_stderr: e.bpd_stderr,
            eval_prior: e.prior,
            eval_reconstruction: e.reconstruction,
            eval_diffusion: e.diffusion,
            eval_images: e.images,
        }
    }
}

/// What lines of before, which do not say it, were about.
fn test() -> String {
    Split::Test.to_string()
}
