//! Variational Diffusion Models (Kingma, Salimans, Poole, Ho 2021, arXiv 2107.00630) on Burn: a generative model of
//! images that is trained on its likelihood, bounds that likelihood in bits per dimension, and draws samples.
//!
//! The way of an image through the crate:
//!
//! 1. [`data`] reads it as bytes k in 0..V;
//! 2. [`encoding`] turns k into x in (-1, 1), and a latent back into k;
//! 3. [`diffusion`] adds noise at a time of [`times`], as much as [`schedule`] says, and asks a network of [`nn`] what
//!    the noise was: that gives the three terms of the bound;
//! 4. [`train`] lowers the bound, [`eval`] measures it over a data set, [`sample`](mod@sample) runs the process
//!    backwards.
//!
//! The same process is a lossless code: [`codec`] compresses images to about the bound's length.
//!
//! Where the schedule's shape is trained too, [`variance`] gives it the gradient that makes the estimate of the bound
//! less noisy; [`variance_study`] measures how noisy it is under other shapes.
//!
//! Losses are nats an image, `[batch]`, until [`bits_per_dim`] at the very end. Times and noise are arguments; what is
//! drawn is drawn from counter-based generators, so that results depend neither on the batch size nor on the number of
//! threads.
#![deny(missing_docs)]

pub mod codec;
pub mod config;
pub mod data;
pub mod diffusion;
pub mod encoding;
pub mod eval;
pub mod nn;
mod parts;
pub mod sample;
pub mod schedule;
pub mod times;
pub mod train;
pub mod variance;
pub mod variance_study;
pub mod weights;

pub use diffusion::{DiffusionSettings, LossTerms, Noise, TimeNormalization, VariationalDiffusion, bits_per_dim};

/// The examples of the README, compiled and run by `cargo test`.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct ReadmeExamples;
