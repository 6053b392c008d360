//! What is recorded about a training.

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

/// An evaluation on test images with the averaged weights.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EvalLine {
    /// Optimiser steps done.
    pub step: u64,
    /// The bound in bits per dimension.
    pub eval_bpd: f64,
    /// Its standard error over images.
    pub eval_bpd_stderr: f64,
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
    /// The line of an evaluation after `step` steps.
    pub fn new(step: u64, e: &Evaluation) -> Self {
        Self {
            step,
            eval_bpd: e.bpd,
            eval_bpd_stderr: e.bpd_stderr,
            eval_prior: e.prior,
            eval_reconstruction: e.reconstruction,
            eval_diffusion: e.diffusion,
            eval_images: e.images,
        }
    }
}
