//! The sinks of every run. A new sink gets a line in `open_sinks`.

use super::{MetricsLog, Sink, TensorBoard};
use crate::run::RunDir;
use std::io;
use std::path::PathBuf;

/// Opens all sinks of a run that stands at step `step`, with TensorBoard's if it is wanted; what a stop without a checkpoint left of later steps
/// is dropped, and evaluations of this step too if they are `pending`.
///
/// # Errors
/// The file that cannot be opened, and what the file system says.
pub fn open_sinks(
    run: &RunDir,
    step: u64,
    pending: bool,
    tensorboard: bool,
) -> Result<Vec<Box<dyn Sink>>, (PathBuf, io::Error)> {
    let metrics = MetricsLog::open(&run.metrics(), step, pending).map_err(|e| (run.metrics(), e))?;
    let mut sinks: Vec<Box<dyn Sink>> = vec![Box::new(metrics)];
    if tensorboard {
        let path = run.tensorboard();
        sinks.push(Box::new(TensorBoard::open(&path, step, pending).map_err(|e| (path, e))?));
    }
    Ok(sinks)
}
