//! Where the metrics of a training go.

mod any;
mod metrics;
mod tensorboard;

pub use any::open_sinks;
pub use metrics::MetricsLog;
pub use tensorboard::TensorBoard;

use super::{EvalLine, StepLine};
use crate::picture::figures::LossBin;
use std::io;
use std::path::Path;

/// Receives the metrics of a training, in the order of the steps.
pub trait Sink {
    /// The file or folder that is written, for messages.
    fn path(&self) -> &Path;

    /// Takes a line of metrics.
    ///
    /// # Errors
    /// Whatever the file system says.
    fn on_step(&mut self, line: &StepLine) -> io::Result<()>;

    /// Takes an evaluation.
    ///
    /// # Errors
    /// Whatever the file system says.
    fn on_evaluation(&mut self, line: &EvalLine) -> io::Result<()>;

    /// Takes a grid of samples, as a PNG file. Most sinks keep none: each grid is a file of the run already.
    ///
    /// # Errors
    /// Whatever the file system says.
    fn on_samples(&mut self, _step: u64, _png: &[u8]) -> io::Result<()> {
        Ok(())
    }

    /// Takes the diffusion loss over time of some images of an evaluation. Most sinks keep none: the run has a plot of it.
    ///
    /// # Errors
    /// Whatever the file system says.
    fn on_loss_over_time(&mut self, _step: u64, _bins: &[LossBin]) -> io::Result<()> {
        Ok(())
    }

    /// Brings to the disk what was taken so far: called before a checkpoint that counts on it.
    ///
    /// # Errors
    /// Whatever the file system says.
    fn sync(&mut self) -> io::Result<()>;
}
