//! Variational Diffusion Models (Kingma, Salimans, Poole, Ho 2021, arXiv 2107.00630).
#![deny(missing_docs)]

pub mod config;
pub mod data;
pub mod diffusion;
pub mod encoding;
pub mod eval;
pub mod nn;
pub mod sample;
pub mod schedule;
pub mod times;
pub mod train;
pub mod weights;

pub use diffusion::{DiffusionSettings, LossTerms, Noise, TimeNormalization, VariationalDiffusion, bits_per_dim};
