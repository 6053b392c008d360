//! The operators on plain `f32` slices: no Burn types, so that each can be read, tested and timed by itself.
//!
//! Rules that every file here keeps, because exact resume and lossless decoding rest on them:
//! - a result does not depend on the number of threads: work is split by the data's own structure (images, groups,
//!   channels), and partial sums are added in a fixed order;
//! - an image's result does not depend on the batch that it is in;
//! - no call into the system's mathematical library: transcendental functions are the polynomials of [`math`], built
//!   from correctly rounded operations only, and so are the same on every machine.

pub mod adamw;
pub mod attention;
pub mod beside;
pub mod conv;
pub mod decoder;
pub mod double;
pub mod elementary;
pub mod group_norm;
pub mod lanes;
pub mod layout;
pub mod linear;
pub mod math;
pub mod matmul;
mod microkernel;
mod patches;
pub mod philox;
pub mod points;
pub mod simd;
pub mod sums;
pub mod winograd;
