//! Training.
mod checkpoint;
mod optimizer;
mod run_dir;
pub use checkpoint::{Checkpoint, CheckpointError};
pub use optimizer::{GradientSum, Optimizer};
pub use run_dir::{RunDir, write_atomic, write_bytes};
