//! A file for each command: its arguments, its work, and its two renderings, text and JSON.

pub mod bench;
pub mod compress;
pub mod decompress;
pub mod denoise;
pub mod eval;
pub mod export;
pub mod fit_errors;
pub mod info;
pub mod inpaint;
pub mod interpolate;
pub mod models;
pub mod overhead;
pub mod presets;
pub mod sample;
pub mod score;
pub mod train;
pub mod variance;
pub mod verify;
