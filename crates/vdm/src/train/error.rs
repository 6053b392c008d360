//! Why training stops.

use super::workers::WorkerError;
use crate::config::ConfigError;
use crate::data::DataError;
use crate::likelihood::EvalError;
use crate::nn::Precision;
use crate::picture::grid::GridError;
use crate::run::{CheckpointError, LockError};
use crate::sample::SampleError;
use crate::schedule::{ObjectiveError, ScheduleError};
use crate::weights::WeightsError;
use std::io;
use std::path::PathBuf;

/// Why training stopped without finishing.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// See [`ConfigError`].
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// See [`DataError`].
    #[error(transparent)]
    Data(#[from] DataError),
    /// See [`CheckpointError`].
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// See [`LockError`].
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The images are others than those that the run was trained on.
    #[error(
        "the images of `{name}` are others than those that the run was trained on: {reason}; name the right folder with \
         --set data.dir=DIR, or go on with these by --other-data"
    )]
    OtherData {
        /// The data set's name.
        name: String,
        /// What differs.
        reason: String,
    },
    /// A run of an earlier version, which trained on the validation images too.
    #[error(
        "{} is a checkpoint of an earlier version, whose training cannot go on exactly; `vdm eval` and `vdm sample` still \
         read it, start a new run to train", path.display()
    )]
    Old {
        /// The checkpoint.
        path: PathBuf,
    },
    /// The picture of the samples that `sample.count` asks for cannot be made.
    #[error("sample.count: {0}")]
    Samples(GridError),
    /// See [`EvalError`].
    #[error(transparent)]
    Eval(#[from] EvalError),
    /// See [`SampleError`].
    #[error(transparent)]
    Sample(#[from] SampleError),
    /// See [`ObjectiveError`].
    #[error(transparent)]
    Objective(#[from] ObjectiveError),
    /// A worker was lost, or could not do its part: see [`WorkerError`].
    #[error("{source}. Everything up to step {kept} is saved; go on with --resume and the workers that are there")]
    Worker {
        /// What happened.
        source: WorkerError,
        /// Step of the last checkpoint.
        kept: u64,
    },
    /// See [`ScheduleError`].
    #[error(transparent)]
    Schedule(#[from] ScheduleError),
    /// A checkpoint and its configuration do not belong together.
    #[error("{}: {source}", path.display())]
    Weights {
        /// The checkpoint.
        path: PathBuf,
        /// What does not fit.
        source: WeightsError,
    },
    /// A file of the run cannot be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The run's folder holds a run already.
    #[error("{} already holds a run; continue it with `--resume`, or choose another folder with `--out`", path.display())]
    Exists {
        /// The folder.
        path: PathBuf,
    },
    /// The run has no step left to do.
    #[error("{} is finished at step {step}; train longer with --set train.steps=N, N above {step}", path.display())]
    Finished {
        /// The folder.
        path: PathBuf,
        /// Steps done.
        step: u64,
    },
    /// Training or test images cannot be used together, or at all.
    #[error("the data set `{name}` cannot be used: {reason}")]
    Dataset {
        /// Its name.
        name: String,
        /// What is wrong.
        reason: String,
    },
    /// The device does not compute in the precision that the configuration asks for.
    #[error(
        "train.precision: this device has no {precision}; train with --set train.precision=f32, or on another device"
    )]
    Precision {
        /// What it lacks.
        precision: Precision,
    },
    /// The loss or its gradient is infinite or not a number.
    #[error(
        "{what} is not finite at step {step}: training diverged. The checkpoint of step {kept} is kept; start a new \
         run with a lower train.lr or with train.grad_clip=1"
    )]
    Diverged {
        /// The loss term, or the gradient.
        what: &'static str,
        /// The step.
        step: u64,
        /// Step of the last checkpoint.
        kept: u64,
    },
}
