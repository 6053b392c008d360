//! Trainings with workers in other processes, over loopback.

mod common;

use common::{Run, vdm};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

/// A `vdm serve` that ends with the test.
struct Worker {
    process: Child,
    address: String,
}

impl Worker {
    fn start() -> Self {
        let mut process = vdm()
            .args(["serve", "--bind", "127.0.0.1:0", "--threads", "1", "--json"])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let found: serde_json::Value = serde_json::from_str(&line).unwrap();
        Self { process, address: found["address"].as_str().unwrap().into() }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn training(out: &Path, steps: u64) -> std::process::Command {
    let mut command = vdm();
    command.args(["train", "--plain", "--set", "model.n_layer=1", "--set", "model.dropout=0.1"]);
    command.args(["--set", "eval.images=4", "--set", "eval.repeats=1", "--set", "train.log_every=1"]);
    command.args(["--set", "sample.count=1", "--set", "sample.steps=2", "--steps", &steps.to_string()]);
    command.arg("--out").arg(out);
    command
}

fn last(run: &Path) -> Vec<u8> {
    std::fs::read(run.join("checkpoints/last.safetensors")).unwrap()
}

#[test]
fn a_training_with_workers_is_the_one_without_bit_for_bit() {
    let dir = tempfile::tempdir().unwrap();
    let [alone, together] = ["alone", "together"].map(|name| dir.path().join(name));
    training(&alone, 6).succeeds();
    let workers = [Worker::start(), Worker::start()];
    let mut command = training(&together, 6);
    for worker in &workers {
        command.args(["--worker", &worker.address]);
    }
    command.succeeds();
    assert!(last(&alone) == last(&together), "the checkpoints differ");
}

/// The training stops with a checkpoint, and goes on without the worker as if nothing had been.
#[test]
fn a_lost_worker_stops_the_training_and_costs_no_step() {
    let dir = tempfile::tempdir().unwrap();
    let [alone, together] = ["alone", "together"].map(|name| dir.path().join(name));
    let mut worker = Worker::start();
    let process = training(&together, 1_000_000)
        .args(["--worker", &worker.address])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let metrics = together.join("metrics.jsonl");
    let begun = Instant::now();
    while std::fs::read_to_string(&metrics).map_or(0, |text| text.lines().count()) < 3 {
        assert!(begun.elapsed() < Duration::from_secs(120), "no step is done");
        std::thread::sleep(Duration::from_millis(10));
    }
    worker.process.kill().unwrap();
    let ended = process.wait_with_output().unwrap();
    let error = String::from_utf8_lossy(&ended.stderr);
    assert!(!ended.status.success(), "{error}");
    assert!(error.contains(&worker.address) && error.contains("is lost") && error.contains("--resume"), "{error}");
    let saved: u64 = error.split("up to step ").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
    assert!(saved >= 3, "{error}");

    let steps = saved + 2;
    vdm().args(["train", "--plain", "--steps", &steps.to_string(), "--resume"]).arg(&together).succeeds();
    training(&alone, steps).succeeds();
    assert!(last(&alone) == last(&together), "the checkpoints differ");
}

#[test]
fn a_worker_that_is_not_there_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let address = Worker::start().address.clone();
    let error = training(&dir.path().join("run"), 3).args(["--worker", &address]).fails();
    assert!(error.contains(&address) && error.contains("vdm serve"), "{error}");
    assert!(!dir.path().join("run").exists(), "a run that never began is left");
    let error = vdm().args(["serve", "--bind", "nowhere"]).fails();
    assert!(error.contains("--bind"), "{error}");
}
