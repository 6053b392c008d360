//! `metrics.jsonl`: one JSON object a line, either a training line or an evaluation.

use crate::eval::Evaluation;
use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

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

/// The file, open for appending.
#[derive(Debug)]
pub struct MetricsLog {
    path: PathBuf,
    file: File,
}

impl MetricsLog {
    /// Opens the log of a run that stands at `step`: lines of later steps, which a stop without checkpoint left behind,
    /// and a last line cut short are dropped.
    ///
    /// # Errors
    /// Whatever the file system says.
    pub fn open(path: &Path, step: u64) -> io::Result<Self> {
        if let Ok(text) = std::fs::read_to_string(path) {
            let step_of = |line: &str| serde_json::from_str::<serde_json::Value>(line).ok()?.get("step")?.as_u64();
            let kept: String = text
                .lines()
                .filter(|line| step_of(line).is_some_and(|s| s <= step))
                .flat_map(|line| [line, "\n"])
                .collect();
            super::write_bytes(path, kept.as_bytes())?;
        } else if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        Ok(Self { path: path.into(), file })
    }

    /// Appends one line.
    ///
    /// # Errors
    /// Whatever the file system says.
    pub fn append(&mut self, line: &impl Serialize) -> io::Result<()> {
        let mut text = serde_json::to_string(line)?;
        text.push('\n');
        self.file.write_all(text.as_bytes())
    }

    /// The training lines and the evaluations of the log so far.
    ///
    /// # Errors
    /// Whatever the file system says.
    pub fn read(&self) -> io::Result<(Vec<StepLine>, Vec<EvalLine>)> {
        let text = std::fs::read_to_string(&self.path)?;
        let steps = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        let evals = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        Ok((steps, evals))
    }
}
