//! A file for each command: its arguments, its work, and its two renderings, text and JSON.

pub mod bench;
pub mod compress;
pub mod decompress;
pub mod eval;
pub mod info;
pub mod overhead;
pub mod presets;
pub mod sample;
pub mod train;
pub mod variance;
