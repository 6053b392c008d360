//! Training: the loop, its state, and what it leaves in a run's folder.
//!
//! The loop counts optimiser steps, not epochs. Whatever is random in step `s` is a function of the seed and `s`, so a
//! run that stops and resumes gives the same weights, bit for bit, as one that never stopped.

mod batch;
mod checkpoint;
pub mod grid;
mod metrics;
mod optimizer;
pub mod plots;
mod report;
mod run_dir;
mod trainer;

pub use batch::{Batch, batch_gradients};
pub use checkpoint::{Checkpoint, CheckpointError};
pub use metrics::{EvalLine, MetricsLog, StepLine};
pub use optimizer::{GradientSum, Optimizer};
pub use report::loss_over_time;
pub use run_dir::{RunDir, write_atomic, write_bytes};
pub use trainer::{Datasets, Observer, Outcome, TrainError, Trainer, load_model};
