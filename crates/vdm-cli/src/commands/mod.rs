//! A file for each command: its arguments, its work, and its two renderings, text and JSON.

pub mod bench;
pub mod completions;
pub mod compress;
pub mod data;
pub mod decompress;
pub mod denoise;
pub mod devices;
pub mod doctor;
pub mod eval;
pub mod export;
pub mod fit_errors;
pub mod import;
pub mod info;
pub mod inpaint;
pub mod interpolate;
pub mod man;
pub mod models;
pub mod overhead;
pub mod presets;
pub mod report;
pub mod sample;
pub mod score;
pub mod serve;
pub mod train;
pub mod variance;
pub mod verify;
