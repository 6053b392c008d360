//! What training shows: a progress bar under a log in a terminal, plain lines on stderr elsewhere.

use super::output::printable;
use indicatif::{ProgressBar, ProgressStyle};
use std::io::{IsTerminal, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use vdm::run::{EvalLine, StepLine};
use vdm::train::Observer;

/// Shortest time between two plain lines.
const LINE_EVERY: Duration = Duration::from_secs(2);

pub struct Watch {
    bar: Option<ProgressBar>,
    /// Set by Ctrl-C.
    stop: Arc<AtomicBool>,
    last_line: Instant,
    started: Instant,
    from: u64,
}

impl Watch {
    /// Watches a training from step `from` to step `steps`; `plain` for lines in a terminal too.
    pub fn new(plain: bool, from: u64, steps: u64, stop: Arc<AtomicBool>) -> Self {
        let bar = (std::io::stderr().is_terminal() && !plain).then(|| {
            let style = ProgressStyle::with_template("{wide_bar} step {pos}/{len}, {eta} left\n{msg}")
                .unwrap_or_else(|_| ProgressStyle::default_bar());
            let bar = ProgressBar::new(steps).with_style(style).with_position(from);
            bar.reset_eta();
            bar.enable_steady_tick(Duration::from_millis(500));
            bar
        });
        let now = Instant::now();
        Self { bar, stop, last_line: now.checked_sub(LINE_EVERY).unwrap_or(now), started: now, from }
    }

    fn say(&mut self, line: String) {
        match &mut self.bar {
            Some(bar) => bar.println(printable(&line)),
            None => say(&line),
        }
    }
}

impl Observer for Watch {
    fn on_metrics(&mut self, line: &StepLine, steps: u64) {
        let values = format!(
            "bpd {:.4}  (prior {:.4}  reconstruction {:.4}  diffusion {:.4})  gamma {:.2} … {:.2}  |g| {:.3}  {:.0} images/s",
            line.bpd,
            line.prior,
            line.reconstruction,
            line.diffusion,
            line.gamma_0,
            line.gamma_1,
            line.grad_norm,
            line.images_per_second
        );
        if let Some(bar) = &self.bar {
            bar.set_position(line.step);
            bar.set_message(values);
            return;
        }
        if self.last_line.elapsed() < LINE_EVERY && line.step < steps {
            return;
        }
        self.last_line = Instant::now();
        let done = (line.step - self.from).max(1) as f64;
        let left = self.started.elapsed().as_secs_f64() / done * (steps - line.step) as f64;
        say(&format!("step {}/{steps}  {values}  {} left", line.step, minutes(left)));
    }

    fn on_progress(&mut self, what: &str, done: usize, total: usize) {
        if let Some(bar) = &self.bar {
            bar.set_message(format!("{what} {done}/{total}"));
        } else if self.last_line.elapsed() >= 5 * LINE_EVERY && done < total {
            self.last_line = Instant::now();
            say(&format!("{what} {done}/{total}"));
        }
    }

    fn on_evaluation(&mut self, line: &EvalLine) {
        let error = line.eval_bpd_stderr.map_or(String::new(), |error| format!(" ± {error:.4}"));
        self.say(format!(
            "step {}  evaluated {} {} images: {:.4}{error} bits per dimension",
            line.step, line.eval_images, line.eval_split, line.eval_bpd
        ));
    }

    fn on_file(&mut self, what: &str, path: &Path) {
        self.say(format!("wrote {what}: {}", path.display()));
    }

    fn should_stop(&mut self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn minutes(seconds: f64) -> String {
    let s = seconds.round() as u64;
    format!("{}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60)
}

/// A line on stderr, as far as it is [`printable`]. A closed pipe or a lost terminal must not end a training.
pub fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{}", printable(line));
}
