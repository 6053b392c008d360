//! `metrics.jsonl`: one JSON object per line, either a training line or an evaluation.
//!
//! The last key of a line, `crc32`, is the CRC-32 of the other values, without what was measured by the clock: two runs
//! of the same seed differ in `images_per_second` only.

use super::Sink;
use crate::files::{create_folders, write_bytes};
use crate::run::{EvalLine, StepLine};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
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
        if let Ok(text) = read_text(path) {
            let mut kept = String::new();
            for (line, values) in whole_lines(path, &text) {
                let done_again = pending && values.contains_key("eval_bpd");
                let at = values.get("step").and_then(Value::as_u64);
                if at.is_some_and(|s| s < step || (s == step && !done_again)) {
                    kept.push_str(line);
                    kept.push('\n');
                }
            }
            write_bytes(path, kept.as_bytes())?;
        } else if let Some(folder) = path.parent() {
            create_folders(folder)?;
        }
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        Ok(Self { path: path.into(), file })
    }

    /// The training lines and the evaluations of the log in the file `path`. A line that is not as it was written is left
    /// out, with a warning that names it.
    ///
    /// # Errors
    /// Whatever the file system says.
    pub fn read(path: &Path) -> io::Result<(Vec<StepLine>, Vec<EvalLine>)> {
        let text = read_text(path)?;
        let lines: Vec<Value> = whole_lines(path, &text).map(|(_, values)| Value::Object(values)).collect();
        let steps = lines.iter().filter_map(|line| StepLine::deserialize(line).ok()).collect();
        let evals = lines.iter().filter_map(|line| EvalLine::deserialize(line).ok()).collect();
        Ok((steps, evals))
    }

    fn append(&mut self, line: &impl Serialize) -> io::Result<()> {
        let text = serde_json::to_string(line)?;
        let sum = checksum(&serde_json::from_str(&text)?);
        let text = format!("{},\"{KEY}\":\"{sum}\"}}\n", text.trim_end_matches('}'));
        self.file.write_all(text.as_bytes())
    }
}

/// The key of a line's checksum.
const KEY: &str = "crc32";
/// What is measured by the clock, and not part of the checksum.
const MEASURED: &str = "images_per_second";

/// The checksum of a line's values, in hexadecimal.
fn checksum(line: &Map<String, Value>) -> String {
    let counted: BTreeMap<&String, &Value> = line.iter().filter(|(key, _)| *key != KEY && *key != MEASURED).collect();
    let text: String = counted.iter().map(|(key, value)| format!("{key}={value};")).collect();
    format!("{:08x}", crc32fast::hash(text.as_bytes()))
}

/// The text of a file whose bytes may be damaged.
fn read_text(path: &Path) -> io::Result<String> {
    Ok(String::from_utf8_lossy(&std::fs::read(path)?).into_owned())
}

/// The lines that are as they were written, with their values; the others are named by warnings. Lines of earlier versions
/// have no checksum; a last line without its end is one that was being written at a stop.
fn whole_lines<'a>(path: &'a Path, text: &'a str) -> impl Iterator<Item = (&'a str, Map<String, Value>)> {
    text.split_inclusive('\n').enumerate().filter_map(move |(number, line)| {
        let line = line.strip_suffix('\n')?;
        let values = serde_json::from_str::<Map<String, Value>>(line).ok();
        let values = values.filter(|values| values.get(KEY).is_none_or(|sum| *sum == checksum(values)));
        if values.is_none() {
            tracing::warn!("{}: line {} is damaged; it is left out", path.display(), number + 1);
        }
        Some((line, values?))
    })
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

#[cfg(test)]
mod tests {
    use super::*;

    fn line(step: u64, speed: f64) -> StepLine {
        StepLine {
            step,
            bpd: 3.1 / step as f64,
            prior: 1e-7,
            reconstruction: 0.1,
            diffusion: 2.0,
            gamma_0: -13.3,
            gamma_1: 5.0,
            grad_norm: f64::from(0.1f32),
            lr: 2e-4,
            images_per_second: speed,
        }
    }

    #[test]
    fn every_damaged_line_is_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.jsonl");
        let mut log = MetricsLog::open(&path, 0, false).unwrap();
        (1..=3).for_each(|step| log.on_step(&line(step, 10.0)).unwrap());
        let whole = std::fs::read(&path).unwrap();
        assert_eq!(MetricsLog::read(&path).unwrap().0, [1, 2, 3].map(|step| line(step, 10.0)));
        // The middle of the three lines; its measured value is not protected.
        let [start, end] = [0, 1].map(|n| {
            let ends = whole.iter().enumerate().filter(|(_, byte)| **byte == b'\n');
            ends.map(|(at, _)| at + 1).nth(n).unwrap()
        });
        let text = String::from_utf8(whole[start..end].to_vec()).unwrap();
        let measured = start + text.find(MEASURED).unwrap()..start + text.find(KEY).unwrap();
        for at in (start..end - 1).filter(|at| !measured.contains(at)) {
            let mut damaged = whole.clone();
            damaged[at] ^= 1 << (at % 7);
            std::fs::write(&path, &damaged).unwrap();
            let found = MetricsLog::read(&path).unwrap().0;
            assert!(found.contains(&line(1, 10.0)) && found.contains(&line(3, 10.0)), "byte {at}");
            // A changed name of the checksum leaves a line without one, and right values.
            assert!(found.iter().all(|found_line| (1..=3).any(|step| *found_line == line(step, 10.0))), "byte {at}");
        }
    }

    #[test]
    fn the_checksum_does_not_depend_on_the_clock() {
        let sum = |speed| checksum(&serde_json::from_str(&serde_json::to_string(&line(1, speed)).unwrap()).unwrap());
        assert_eq!(sum(10.0), sum(11.5));
    }

    #[test]
    fn lines_without_checksum_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.jsonl");
        std::fs::write(&path, serde_json::to_string(&line(1, 1.0)).unwrap() + "\n{\"cut").unwrap();
        assert_eq!(MetricsLog::read(&path).unwrap().0, [line(1, 1.0)]);
    }
}
