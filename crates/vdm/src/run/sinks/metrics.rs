//! `metrics.jsonl`: one JSON object per line, either a training line or an evaluation.

use super::Sink;
use crate::files::write_bytes;
use crate::run::{EvalLine, StepLine};
use serde::Serialize;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// The file, open for appending.
#[derive(Debug)]
pub struct MetricsLog {
    path: PathBuf,
    file: File,
}

impl MetricsLog {
    /// Opens the log of a run that stands at `step`: lines of later steps, which a stop without checkpoint left behind,
    /// and a last line cut short are dropped; so are evaluations of this step that are `pending`.
    ///
    /// # Errors
    /// Whatever the file system says.
    pub fn open(path: &Path, step: u64, pending: bool) -> io::Result<Self> {
        if let Ok(text) = std::fs::read_to_string(path) {
            let stays = |line: &&str| {
                let Ok(line) = serde_json::from_str::<serde_json::Value>(line) else { return false };
                let done_again = pending && line.get("eval_bpd").is_some();
                line["step"].as_u64().is_some_and(|s| s < step || (s == step && !done_again))
            };
            let kept: String = text.lines().filter(stays).flat_map(|line| [line, "\n"]).collect();
            write_bytes(path, kept.as_bytes())?;
        } else if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        Ok(Self { path: path.into(), file })
    }

    /// The training lines and the evaluations of the log in the file `path`.
    ///
    /// # Errors
    /// Whatever the file system says.
    pub fn read(path: &Path) -> io::Result<(Vec<StepLine>, Vec<EvalLine>)> {
        let text = std::fs::read_to_string(path)?;
        let steps = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        let evals = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        Ok((steps, evals))
    }

    fn append(&mut self, line: &impl Serialize) -> io::Result<()> {
        let mut text = serde_json::to_string(line)?;
        text.push('\n');
        self.file.write_all(text.as_bytes())
    }
}

impl Sink for MetricsLog {
    fn path(&self) -> &Path {
        &self.path
    }

    fn on_step(&mut self, line: &StepLine) -> io::Result<()> {
        self.append(line)
    }

    fn on_evaluation(&mut self, line: &EvalLine) -> io::Result<()> {
        self.append(line)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.file.sync_data()
    }
}
