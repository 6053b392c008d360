//! What a training tells whoever watches it.

use crate::likelihood::Evaluation;
use crate::run::{EvalLine, StepLine};

/// Is told what a training does, and may stop it.
pub trait Observer {
    /// A line of metrics was written.
    fn on_metrics(&mut self, line: &StepLine, steps: u64);
    /// An evaluation or a sampling went on: units done and to do.
    fn on_progress(&mut self, what: &str, done: usize, total: usize);
    /// An evaluation ended.
    fn on_evaluation(&mut self, line: &EvalLine);
    /// Something was written that a person may look at.
    fn on_file(&mut self, what: &str, path: &std::path::Path);
    /// Whether to save and stop: asked after every step of the training, and after every unit of an evaluation or a
    /// sampling, which then is made anew when the run is resumed.
    fn should_stop(&mut self) -> bool;
}

/// How training ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// All steps are done; the evaluation over the whole test split.
    Finished(Box<Evaluation>),
    /// Stopped on request after this step; a checkpoint is saved.
    Stopped {
        /// Steps done.
        step: u64,
    },
}
