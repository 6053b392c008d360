//! Fuzz targets over every reader of bytes in `vdm`: whatever the bytes, a reader gives an error or a value, never a panic,
//! and takes no more memory than its file's size allows.
//!
//! `scripts/fuzz.sh [SECONDS [TARGET…]]` runs them guided by coverage (`cargo fuzz`); the inputs that it found and that are
//! worth keeping are in `corpus/TARGET`, and `cargo test -p vdm-fuzz` runs each target over its own. To add a target, add
//! a function and a [`Target`] in `targets.rs`, a file in `targets/`, and its `[[bin]]` in `Cargo.toml`.

mod memory;
mod seeds;
mod targets;

pub use targets::{TARGETS, Target};

/// The target of this name.
///
/// # Panics
/// If there is none.
pub fn target(name: &str) -> &'static Target {
    TARGETS.iter().find(|target| target.name == name).expect("a target's name")
}
