//! A run: its folder, its checkpoints, and what is written about it while it trains. Every command that works with a
//! trained model opens it here.
//!
//! A *sink* gets the metrics of a training; to add one, write a file in `sinks` with a type that implements [`Sink`], and
//! name it in `sinks/any.rs`.

mod checkpoint;
mod load;
mod lock;
mod model_file;
mod record;
mod report;
pub mod shipped;
mod sinks;
mod tensor_file;

pub use checkpoint::{Checkpoint, CheckpointError, Window};
pub(crate) use load::require_parameters;
pub use load::{LoadError, Model, WhichWeights, load_model};
pub use lock::{LockError, RunLock};
pub use model_file::ModelFile;
pub use record::{EvalLine, StepLine};
pub use report::loss_over_time;
pub(crate) use report::{write_curve, write_plots};
pub use sinks::{MetricsLog, Sink, TensorBoard, open_sinks};

use crate::files::remove_litter;
use std::path::{Path, PathBuf};

/// The folder of a run.
///
/// `config.toml`, `metrics.jsonl`, `checkpoints/{last,best}.safetensors`, `samples/step-N.png`, `plots/*.svg`,
/// `evaluation.json`.
#[derive(Clone, Debug)]
pub struct RunDir(PathBuf);

impl RunDir {
    /// The run in `path`, which need not exist yet.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The configuration, written before training.
    pub fn config(&self) -> PathBuf {
        self.0.join("config.toml")
    }

    /// One JSON object per line.
    pub fn metrics(&self) -> PathBuf {
        self.0.join("metrics.jsonl")
    }

    /// The metrics for TensorBoard, where they are wanted.
    pub fn tensorboard(&self) -> PathBuf {
        self.0.join("tensorboard/events.out.tfevents.0.vdm")
    }

    /// The latest state of training.
    pub fn last(&self) -> PathBuf {
        self.0.join("checkpoints/last.safetensors")
    }

    /// The state of training before that, for when the latest is damaged.
    pub fn previous(&self) -> PathBuf {
        self.0.join("checkpoints/previous.safetensors")
    }

    /// Held by the process that trains.
    pub fn lock(&self) -> PathBuf {
        self.0.join(".lock")
    }

    /// The state with the best evaluation.
    pub fn best(&self) -> PathBuf {
        self.0.join("checkpoints/best.safetensors")
    }

    /// The grid of samples drawn after `step` steps.
    pub fn samples(&self, step: u64) -> PathBuf {
        self.0.join(format!("samples/step-{step:07}.png"))
    }

    /// A plot.
    pub fn plot(&self, name: &str) -> PathBuf {
        self.0.join(format!("plots/{name}.svg"))
    }

    /// Removes what writes that were killed left behind.
    pub(crate) fn remove_litter(&self) {
        remove_litter(&self.0);
        for folder in ["checkpoints", "samples", "plots", "tensorboard"] {
            remove_litter(&self.0.join(folder));
        }
    }

    /// The final evaluation.
    pub fn evaluation(&self) -> PathBuf {
        self.0.join("evaluation.json")
    }
}
