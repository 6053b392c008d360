//! Progress on stderr, and logging.

use indicatif::{ProgressBar, ProgressStyle};
use std::time::Duration;

/// Log lines of the library go to stderr; `RUST_LOG` chooses them, warnings by default.
pub fn init_logging() {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("warn"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false).init();
}

/// A bar with the time left, drawn only where stderr is a terminal.
pub fn bar(what: &str) -> ProgressBar {
    let style = ProgressStyle::with_template("{msg} {wide_bar} {pos}/{len} {elapsed} gone, {eta} left")
        .unwrap_or_else(|_| ProgressStyle::default_bar());
    let bar = ProgressBar::new(0).with_style(style).with_message(what.to_string());
    bar.enable_steady_tick(Duration::from_millis(500));
    bar
}

/// Sets a bar to `done` of `total`.
pub fn set(bar: &ProgressBar, done: usize, total: usize) {
    bar.set_length(total as u64);
    bar.set_position(done as u64);
}
