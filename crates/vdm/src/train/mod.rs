//! Training: the loop, its state, and what it leaves in a run's folder.
//!
//! The loop counts optimiser steps, not epochs. Whatever is random in step `s` is a function of the seed and `s`, so a
//! run that stops and resumes gives the same weights, bit for bit, as one that never stopped.
//!
//! For a loop of your own, take [`Batch::draw`], [`batch_gradients`] and [`Optimizer`]: the example `train_loop` does.

mod batch;
mod datasets;
mod devices;
mod error;
mod fit_error_model;
mod gradient;
mod observer;
mod optimizer;
mod outputs;
mod reading;
mod trainer;
pub mod workers;

pub use batch::Batch;
pub use datasets::Datasets;
pub use devices::batch_gradients_on;
pub use error::TrainError;
pub use fit_error_model::{FitError, FitOptions, fit_error_model};
pub use gradient::{GradientSum, batch_gradients};
pub use observer::{Observer, Outcome};
pub use optimizer::Optimizer;
pub use trainer::Trainer;
pub use workers::{WorkerError, Workers, WorkersError};
