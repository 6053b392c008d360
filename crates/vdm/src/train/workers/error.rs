//! Why workers cannot be used.

use super::wire::WireError;
use crate::schedule::ObjectiveError;

/// Why a worker cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// No connection.
    #[error("no worker answers at {address}: {reason}; start one there with `vdm serve --bind ADDRESS`")]
    Connect {
        /// Where.
        address: String,
        /// What the system says.
        reason: String,
    },
    /// The worker is another version of the program, whose gradients may differ in their last bits.
    #[error("the worker at {address} is vdm {found}, this is {expected}; use the same version everywhere")]
    Version {
        /// Where.
        address: String,
        /// This version.
        expected: String,
        /// The worker's.
        found: String,
    },
    /// A worker was lost in the middle of the training.
    #[error("the worker at {address} is lost: {source}")]
    Lost {
        /// Where.
        address: String,
        /// What happened.
        source: WireError,
    },
    /// The worker could not do what it was asked.
    #[error("the worker at {address} says: {reason}")]
    Refused {
        /// Where.
        address: String,
        /// Its words.
        reason: String,
    },
}

/// Why a gradient was not computed.
#[derive(Debug, thiserror::Error)]
pub enum WorkersError {
    /// See [`WorkerError`].
    #[error(transparent)]
    Worker(#[from] WorkerError),
    /// See [`ObjectiveError`].
    #[error(transparent)]
    Objective(#[from] ObjectiveError),
}
