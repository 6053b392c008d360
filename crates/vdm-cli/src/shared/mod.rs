//! What several commands need.

pub mod container;
pub mod device;
pub mod image_files;
pub mod model;
pub mod progress;
pub mod watch;
pub mod words;
