//! What several commands need.

pub mod archive_input;
pub mod archive_output;
pub mod container;
pub mod device;
pub mod disk;
pub mod image_files;
pub mod model;
pub mod output;
pub mod picked;
pub mod progress;
pub mod shapes;
pub mod signals;
pub mod steps;
pub mod watch;
pub mod words;
