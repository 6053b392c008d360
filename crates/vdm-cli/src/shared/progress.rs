//! Progress on stderr, and logging.

use indicatif::{ProgressBar, ProgressStyle};
use std::ops::ControlFlow;
use std::time::{Duration, Instant};
use tracing_subscriber::filter::LevelFilter;
use vdm::Progress;

/// Log lines of the library go to stderr; `RUST_LOG` chooses the least level: error, warn, info, debug, trace or off. Warnings
/// by default.
pub fn init_logging() {
    let level = std::env::var("RUST_LOG").ok().and_then(|level| level.parse().ok()).unwrap_or(LevelFilter::WARN);
    tracing_subscriber::fmt().with_max_level(level).with_writer(std::io::stderr).with_ansi(false).init();
}

/// A bar with the time left on stderr, drawn only where that is a terminal; gone when dropped.
pub struct Bar(ProgressBar);

impl Bar {
    /// A bar for work that is called `what`.
    pub fn new(what: &str) -> Self {
        let style = ProgressStyle::with_template("{msg} {wide_bar} {pos}/{len} {elapsed} elapsed, {eta} left")
            .unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = ProgressBar::new(0).with_style(style).with_message(what.to_string());
        bar.enable_steady_tick(Duration::from_millis(500));
        Self(bar)
    }

    /// Sets the bar to `done` of `total`.
    pub fn set(&self, done: usize, total: usize) {
        self.0.set_length(total as u64);
        self.0.set_position(done as u64);
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

/// Does work that is called `what` with a bar; its result and the seconds it took.
pub fn timed<T>(what: &str, work: impl FnOnce(&mut Progress) -> T) -> (T, f64) {
    let (bar, started) = (Bar::new(what), Instant::now());
    let result = work(&mut |done, total| {
        bar.set(done, total);
        ControlFlow::Continue(())
    });
    (result, started.elapsed().as_secs_f64())
}
