//! Variational Diffusion Models (Kingma, Salimans, Poole, Ho 2021, arXiv 2107.00630) on Burn: a generative model of
//! images that is trained on its likelihood, bounds that likelihood in bits per dimension, and draws samples.
//!
//! The way of an image through the crate:
//!
//! 1. [`data`] reads it as bytes k in 0..V;
//! 2. [`diffusion`] encodes k as x in (-1, 1), adds noise as [`schedule`] says, and asks a network of [`nn`] what the
//!    noise was: that gives the three terms of the bound;
//! 3. [`train`] lowers the bound, [`likelihood`] measures it over a data set, [`sample`](mod@sample) runs the process
//!    backwards;
//! 4. [`run`] keeps what a training made, [`picture`] draws it.
//!
//! The same process is a lossless code: [`codec`] compresses images to about the bound's length.
//!
//! Losses are nats per image, `[batch]`, until [`bits_per_dim`] at the very end. Times and noise are arguments; what is
//! drawn is drawn from counter-based generators ([`random`] lists all of them), so that results depend neither on the
//! batch size nor on the number of threads.
#![deny(missing_docs)]
// What tests compare with may come from anywhere.
#![cfg_attr(test, allow(clippy::disallowed_methods))]

pub mod codec;
pub mod config;
pub mod data;
pub mod diffusion;
pub mod edit;
pub mod files;
pub mod flow;
pub mod initial;
pub mod likelihood;
mod math;
pub mod nn;
mod parts;
pub mod picture;
mod progress;
pub mod random;
pub mod run;
pub mod sample;
pub mod schedule;
mod shape;
pub mod stats;
pub mod train;
pub mod weights;

pub use diffusion::{DiffusionSettings, LossTerms, Noise, TimeNormalization, VariationalDiffusion, bits_per_dim};
pub use progress::{Progress, Stopped, unwatched};
pub use shape::ImageShape;

/// The examples of the README, compiled and run by `cargo test`.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct ReadmeExamples;

/// The examples of the guide.
#[cfg(doctest)]
mod guide {
    macro_rules! chapters {
        ($($name:ident $file:literal)*) => {
            $(
                #[doc = include_str!(concat!("../../../docs/guide/", $file))]
                struct $name;
            )*
        };
    }
    chapters! {
        Bound "1-bound.md" Noise "2-noise.md" Loss "3-loss.md" Continuous "4-continuous.md" Network "5-network.md"
        Schedule "6-schedule.md" Likelihood "7-likelihood.md" Sampling "8-sampling.md" Codec "9-codec.md"
        BayesianFlow "10-bayesian-flow.md"
    }
}
