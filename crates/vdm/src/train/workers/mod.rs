//! Training on several machines, or in several processes: workers that compute the gradients of parts of a batch.
//!
//! [`batch_gradients`](crate::train::batch_gradients) cuts a batch into parts, in a way that depends on nothing but the batch
//! and the number of parameters, and adds up the parts' gradients in their order. Here some of the parts are computed elsewhere.
//! The CPU gives the same bits on every machine, so the training is the same, bit for bit, with any workers or none, and a run of
//! one layout goes on in another.
//!
//! In every step a worker is sent all weights and its parts of the batch with their noise, and sends back a gradient for each
//! part. [`serve`] is a worker; it keeps nothing but the configuration. There is no authentication: whoever reaches its address can
//! have it compute. Bytes from either side are checked.
//!
//! Burn 0.22 has two things of this kind. Its collective operations (`all_reduce`) have no implementation for the CPU backend,
//! and an order of the sum of their own on others. Its remote backend carries Burn's operators one by one, and would need a
//! client for each of ours.

mod error;
mod messages;
mod pool;
mod serve;
mod wire;

pub use error::{WorkerError, WorkersError};
pub use pool::Workers;
pub use serve::{converse, serve};
pub use wire::WireError;
