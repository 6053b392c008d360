//! What training shows: Burn's dashboard in a terminal, plain lines on stderr elsewhere.

use burn_train::Interrupter;
use burn_train::logger::TrainingProgressLogger;
use burn_train::metric::{MetricDefinition, MetricEntry, MetricId, NumericAttributes, NumericEntry, SerializedEntry};
use burn_train::renderer::tui::TuiMetricsRendererWrapper;
use burn_train::renderer::{MetricState, MetricsRenderer, MetricsRendererTraining};
use std::io::{IsTerminal, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use vdm::train::{EvalLine, Observer, StepLine};

/// Shortest time between two plain lines.
const LINE_EVERY: Duration = Duration::from_secs(2);

pub struct Dashboard {
    tui: Option<Tui>,
    /// Set by Ctrl-C.
    stop: Arc<AtomicBool>,
    last_line: Instant,
    started: Instant,
    from: u64,
}

/// Burn's dashboard. Its "epochs" are one: the whole training, counted in steps.
struct Tui {
    renderer: TuiMetricsRendererWrapper,
    interrupter: Interrupter,
    /// What is shown again once the dashboard has left the screen.
    history: Vec<String>,
}

impl Dashboard {
    pub fn new(plain: bool, from: u64, steps: u64, stop: Arc<AtomicBool>) -> Self {
        let terminal = std::io::stdout().is_terminal() && std::io::stderr().is_terminal();
        let tui = (terminal && !plain).then(|| Tui::new(from, steps));
        let now = Instant::now();
        Self { tui, stop, last_line: now.checked_sub(LINE_EVERY).unwrap_or(now), started: now, from }
    }

    fn say(&mut self, line: String) {
        match &mut self.tui {
            Some(tui) => tui.history.push(line),
            None => say(&line),
        }
    }
}

impl Observer for Dashboard {
    fn on_metrics(&mut self, line: &StepLine, steps: u64) {
        if let Some(tui) = &mut self.tui {
            return tui.metrics(line);
        }
        if self.last_line.elapsed() < LINE_EVERY && line.step < steps {
            return;
        }
        self.last_line = Instant::now();
        let done = (line.step - self.from).max(1) as f64;
        let left = self.started.elapsed().as_secs_f64() / done * (steps - line.step) as f64;
        say(&format!(
            "step {}/{steps}  bpd {:.4}  (prior {:.4}  reconstruction {:.4}  diffusion {:.4})  gamma {:.2} … {:.2}  \
             |g| {:.3}  {:.0} images/s  {} left",
            line.step,
            line.bpd,
            line.prior,
            line.reconstruction,
            line.diffusion,
            line.gamma_0,
            line.gamma_1,
            line.grad_norm,
            line.images_per_second,
            minutes(left)
        ));
    }

    fn on_progress(&mut self, what: &str, done: usize, total: usize) {
        if let Some(tui) = &mut self.tui {
            keep_ctrl_c();
            tui.renderer.log_event_training(what.to_string());
        } else if self.last_line.elapsed() >= 5 * LINE_EVERY && done < total {
            self.last_line = Instant::now();
            say(&format!("{what} {done}/{total}"));
        }
    }

    fn on_evaluation(&mut self, line: &EvalLine) {
        if let Some(tui) = &mut self.tui {
            let state = tui.value("bpd", line.eval_bpd);
            tui.renderer.update_valid(state);
        }
        self.say(format!(
            "step {}  evaluated {} test images: {:.4} ± {:.4} bits per dimension",
            line.step, line.eval_images, line.eval_bpd, line.eval_bpd_stderr
        ));
    }

    fn on_file(&mut self, what: &str, path: &Path) {
        self.say(format!("wrote {what}: {}", path.display()));
    }

    fn should_stop(&mut self) -> bool {
        if self.tui.is_some() {
            keep_ctrl_c();
        }
        self.stop.load(Ordering::SeqCst) || self.tui.as_ref().is_some_and(|tui| tui.interrupter.should_stop())
    }
}

impl Tui {
    fn new(from: u64, steps: u64) -> Self {
        remember_terminal();
        let interrupter = Interrupter::new();
        let mut renderer = TuiMetricsRendererWrapper::new(interrupter.clone(), None);
        for (name, unit) in METRICS {
            let attributes = NumericAttributes { unit: Some(unit.to_string()), higher_is_better: false };
            renderer.register_metric(MetricDefinition {
                metric_id: id(name),
                name: Arc::new(name.to_string()),
                description: None,
                attributes: attributes.into(),
            });
        }
        renderer.start(1, 1, Some(steps as usize), Some("steps"));
        renderer.start_split("train", steps as usize);
        renderer.update_split(from as usize);
        Self { renderer, interrupter, history: Vec::new() }
    }

    fn metrics(&mut self, line: &StepLine) {
        self.renderer.update_split(line.step as usize);
        let values = [
            line.bpd,
            line.prior,
            line.reconstruction,
            line.diffusion,
            line.gamma_0,
            line.gamma_1,
            line.grad_norm,
            line.images_per_second,
        ];
        for ((name, _), value) in METRICS.iter().zip(values) {
            let state = self.value(name, value);
            self.renderer.update_train(state);
        }
    }

    fn value(&self, name: &str, value: f64) -> MetricState {
        let entry = SerializedEntry { formatted: format!("{value:.4}"), serialized: value.to_string() };
        MetricState::Numeric(MetricEntry::new(id(name), entry), Some(NumericEntry::Value(value)))
    }
}

impl Drop for Dashboard {
    fn drop(&mut self) {
        if let Some(tui) = self.tui.take() {
            drop(tui.renderer);
            for line in tui.history {
                say(&line);
            }
        }
    }
}

/// Names and units of what the dashboard plots, in the order of `Tui::metrics`.
const METRICS: [(&str, &str); 8] = [
    ("bpd", "bits per dimension"),
    ("prior", "bits per dimension"),
    ("reconstruction", "bits per dimension"),
    ("diffusion", "bits per dimension"),
    ("gamma_0", ""),
    ("gamma_1", ""),
    ("gradient norm", ""),
    ("images per second", ""),
];

fn id(name: &str) -> MetricId {
    MetricId::new(Arc::new(name.to_string()))
}

fn minutes(seconds: f64) -> String {
    let s = seconds.round() as u64;
    format!("{}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60)
}

/// The dashboard puts the terminal in raw mode, where Ctrl-C is only a key: make it a signal again.
#[cfg(unix)]
fn keep_ctrl_c() {
    use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
    let stdin = std::io::stdin();
    if let Ok(mut modes) = tcgetattr(&stdin)
        && !modes.local_modes.contains(LocalModes::ISIG)
    {
        modes.local_modes.insert(LocalModes::ISIG);
        let _ = tcsetattr(&stdin, OptionalActions::Now, &modes);
    }
}

#[cfg(not(unix))]
fn keep_ctrl_c() {}

/// The terminal's modes before the dashboard.
#[cfg(unix)]
static TERMINAL: std::sync::OnceLock<rustix::termios::Termios> = std::sync::OnceLock::new();

#[cfg(unix)]
fn remember_terminal() {
    if let Ok(modes) = rustix::termios::tcgetattr(std::io::stdin()) {
        let _ = TERMINAL.set(modes);
    }
}

#[cfg(not(unix))]
fn remember_terminal() {}

/// Undoes what the dashboard did to the terminal, for an exit that does not unwind.
#[cfg(unix)]
pub fn restore_terminal() {
    if let Some(modes) = TERMINAL.get() {
        let _ = rustix::termios::tcsetattr(std::io::stdin(), rustix::termios::OptionalActions::Now, modes);
        // Mouse reports off, main screen, cursor on.
        let _ =
            std::io::stdout().write_all(b"\x1b[?1000l\x1b[?1002l\x1b[?1003l\x1b[?1015l\x1b[?1006l\x1b[?1049l\x1b[?25h");
        let _ = std::io::stdout().flush();
    }
}

#[cfg(not(unix))]
pub fn restore_terminal() {}

/// A line on stderr. A closed pipe or a lost terminal must not end a training.
pub fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}
