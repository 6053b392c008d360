//! Constrained monotonic neural networks (Runje & Shankaranarayana 2023, arXiv 2205.11775): the layer, and the stack of
//! layers that a schedule is made of.
//!
//! A layer whose effective weights all have the right sign is monotone whatever the stored weights are. With a convex
//! activation alone a stack of such layers would be convex; so of the units of a layer some go through the activation
//! rho, some through its point reflection -rho(-y), which is concave, and some through a bounded mixture of both.

mod activation;
mod layer;
mod network;

pub use activation::MonotonicActivation;
pub use layer::{HostMonotonicLinear, MonotonicLinear, MonotonicLinearConfig};
pub use network::{MonotonicNetwork, MonotonicNetworkConfig};
