//! The program as a user meets it.

mod common;

use common::{Run, vdm};
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// A training that takes a second.
const TINY: [&str; 11] = [
    "train.batch_size=8",
    "model.n_layer=1",
    "model.dropout=0.0",
    "train.eval_every=0",
    "train.sample_every=0",
    "train.checkpoint_every=2",
    "train.log_every=1",
    "eval.repeats=1",
    "sample.count=4",
    "sample.steps=2",
    "train.warmup=3",
];

fn train(run: &Path, steps: u32) -> Command {
    let mut command = vdm();
    command.args(["train", "--json", "--out"]).arg(run);
    for set in TINY {
        command.args(["--set", set]);
    }
    command.args(["--set", &format!("train.steps={steps}")]);
    command
}

fn json(output: &[u8]) -> serde_json::Value {
    let text = std::str::from_utf8(output).unwrap();
    assert_eq!(text.lines().count(), 1, "one object and nothing else: {text}");
    serde_json::from_str(text).unwrap()
}

fn stdout(command: &mut Command) -> Vec<u8> {
    command.succeeds()
}

fn stderr(command: &mut Command) -> String {
    command.fails()
}

#[test]
fn train_eval_sample_info_and_resume() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    let result = json(&stdout(&mut train(&run, 3)));
    assert_eq!((&result["finished"], &result["step"]), (&true.into(), &3.into()));

    let mut eval = vdm();
    eval.args(["eval", "--json", "--repeats", "2", "--timesteps", "10"]).arg(&run);
    let e = json(&stdout(&mut eval));
    for key in ["bpd", "bpd_stderr", "prior", "reconstruction", "diffusion", "seconds"] {
        assert!(e[key].is_f64(), "{key}: {e}");
    }
    assert_eq!((&e["images"], &e["repeats"], &e["timesteps"]), (&299.into(), &2.into(), &10.into()));
    let e = json(&stdout(vdm().args(["eval", "--json"]).arg(&run)));
    assert!(e["timesteps"].is_null());
    assert_eq!(e["bpd"], result["evaluation"]["bpd"]);

    let png = dir.path().join("grid.png");
    let s = json(&stdout(vdm().args(["sample", "--json", "--count", "3", "--out"]).arg(&png).arg(&run)));
    assert_eq!(s["images"], 3);
    assert_eq!(&std::fs::read(&png).unwrap()[..4], b"\x89PNG");
    let folder = dir.path().join("each");
    vdm().args(["sample", "--separate", "--count", "3", "-o"]).arg(&folder).arg(&run).succeeds();
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 3);

    let info = json(&stdout(vdm().args(["info", "--json"]).arg(&run)));
    assert_eq!((&info["step"], &info["finished"]), (&3.into(), &true.into()));
    assert!(info["parameters"].as_u64().unwrap() > 1000);

    // More steps than planned: go on where it stands.
    let mut more = vdm();
    more.args(["train", "--json", "--set", "train.steps=5", "--resume"]).arg(&run);
    assert_eq!(json(&stdout(&mut more))["step"], 5);
    let error = stderr(vdm().args(["train", "--set", "train.lr=1.0", "--resume"]).arg(&run));
    assert!(error.contains("train.steps, train.tensorboard, data.dir and data.cache only"), "{error}");
    let error = stderr(vdm().args(["train", "--resume"]).arg(&run));
    assert!(error.contains("finished at step 5"), "{error}");
}

#[test]
fn classes_go_from_the_labels_to_the_samples() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    let result = json(&stdout(train(&run, 4).arg("--class-conditional")));
    assert_eq!(result["finished"], true);
    let info = json(&stdout(vdm().args(["info", "--json"]).arg(&run)));
    assert_eq!(info["config"]["model"]["classes"], 10);

    let bound = |more: &[&str]| json(&stdout(vdm().args(["eval", "--json"]).args(more).arg(&run)));
    let (with, without) = (bound(&[]), bound(&["--without-classes"]));
    assert_eq!((&with["conditional"], &without["conditional"]), (&true.into(), &false.into()));
    assert_ne!(with["bpd"], without["bpd"]);

    let png = |name: &str, more: &[&str]| {
        let path = dir.path().join(name);
        let sample = ["sample", "--json", "--count", "4", "--decoder", "draw", "-o"];
        stdout(vdm().args(sample).arg(&path).args(more).arg(&run));
        std::fs::read(path).unwrap()
    };
    let three = png("a.png", &["--class", "3"]);
    assert_eq!(three, png("b.png", &["--class", "3", "--guidance", "1"]));
    // With guidance 0 the class has no say.
    let none = ["--guidance", "0"];
    let [c, d] = ["3", "4"].map(|class| png("c.png", &[&none[..], &["--class", class]].concat()));
    assert_eq!(c, d);

    let error = stderr(vdm().args(["sample", "--class", "10"]).arg(&run));
    assert!(error.contains("--class 10") && error.contains("0 to 9"), "{error}");
    let error = stderr(vdm().args(["sample", "--guidance=-1"]).arg(&run));
    assert!(error.contains("--guidance -1") && error.contains("at least 0"), "{error}");

    let plain = dir.path().join("plain");
    stdout(&mut train(&plain, 1));
    for more in [["--class", "3"], ["--guidance", "2"]] {
        let error = stderr(vdm().arg("sample").args(more).arg(&plain));
        assert!(error.contains(more[0]) && error.contains("--class-conditional"), "{error}");
    }
}

#[test]
fn presets_are_listed_and_shown() {
    let text = String::from_utf8(stdout(vdm().arg("presets"))).unwrap();
    let names: Vec<&str> = text.lines().filter_map(|l| l.split_whitespace().next()).collect();
    assert_eq!(names, ["digits", "fashion-mnist", "mnist", "cifar10", "cifar10-aug", "imagenet32", "imagenet64"]);
    let toml = String::from_utf8(stdout(vdm().args(["presets", "cifar10"]))).unwrap();
    insta::assert_snapshot!(toml);
}

#[test]
fn errors_name_the_thing_and_the_way_out() {
    let dir = tempfile::tempdir().unwrap();
    let error = stderr(vdm().args(["eval"]).arg(dir.path()));
    assert!(error.contains("holds no run") && error.contains("config.toml"), "{error}");
    let error = stderr(vdm().args(["train", "--preset", "cifar"]));
    assert!(error.contains("did you mean `cifar10`"), "{error}");
    let error = stderr(vdm().args(["train", "--set", "train.step=1"]));
    assert!(error.contains("unknown key `train.step`") && error.contains("`train.steps`"), "{error}");
    let error = stderr(vdm().args(["train", "--config", "/nowhere.toml"]));
    assert!(error.contains("/nowhere.toml") && error.contains("--config"), "{error}");
    let error = stderr(vdm().args(["train", "--preset", "mnist", "--set"]).arg("data.dir=/nowhere"));
    assert!(error.contains("/nowhere"), "{error}");
    let error = stderr(vdm().args(["sample", "x", "--count", "0"]));
    assert!(error.contains("--count"), "{error}");
    let run = dir.path().join("run");
    train(&run, 1).succeeds();
    let error = stderr(&mut train(&run, 1));
    assert!(error.contains("already holds a run") && error.contains("--resume"), "{error}");
    let last = run.join("checkpoints/last.safetensors");
    let bytes = std::fs::read(&last).unwrap();
    std::fs::write(&last, &bytes[..bytes.len() / 2]).unwrap();
    let error = stderr(vdm().arg("eval").arg(&run));
    assert!(error.contains("last.safetensors is not a whole"), "{error}");
}

#[cfg(unix)]
fn signal(child: &std::process::Child, name: &str) {
    let status = std::process::Command::new("kill").args([name, &child.id().to_string()]).status().unwrap();
    assert!(status.success());
}

#[cfg(unix)]
fn start(run: &Path) -> std::process::Child {
    let mut command = vdm();
    command.args(["train", "--plain", "--out"]).arg(run);
    for set in TINY {
        command.args(["--set", set]);
    }
    command.args(["--set", "train.steps=100000", "--set", "train.checkpoint_every=1"]);
    command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().unwrap()
}

/// Waits until the run has made `lines` steps.
#[cfg(unix)]
fn wait_for_steps(run: &Path, lines: usize) {
    let start = Instant::now();
    let metrics = run.join("metrics.jsonl");
    while std::fs::read_to_string(&metrics).unwrap_or_default().lines().count() < lines {
        assert!(start.elapsed() < Duration::from_secs(60), "no progress");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[cfg(unix)]
#[test]
fn ctrl_c_saves_and_says_how_to_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    let child = start(&run);
    wait_for_steps(&run, 3);
    signal(&child, "-INT");
    let output = child.wait_with_output().unwrap();
    // The shells' status for a program that Ctrl-C ended: `vdm train && vdm eval` must not go on.
    assert_eq!(output.status.code(), Some(130));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("vdm train --resume"), "{text}");
    let step = text.split("after step ").nth(1).unwrap().split(' ').next().unwrap().parse::<u64>().unwrap();
    let info = json(&stdout(vdm().args(["info", "--json"]).arg(&run)));
    assert_eq!(info["step"], step);
}

/// A checkpoint is saved after every step; whenever the process is killed, the one on disk is whole.
#[cfg(unix)]
#[test]
fn a_kill_at_any_moment_leaves_a_whole_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    for (i, delay) in [0u64, 3, 7, 12, 18, 25, 33, 42].into_iter().enumerate() {
        let run = dir.path().join(i.to_string());
        let mut child = start(&run);
        wait_for_steps(&run, 2);
        std::thread::sleep(Duration::from_millis(delay));
        signal(&child, "-KILL");
        child.wait().unwrap();
        let info = json(&stdout(vdm().args(["info", "--json"]).arg(&run)));
        assert!(info["step"].as_u64().unwrap() >= 1, "{info}");
    }
    let run = dir.path().join("0");
    let mut resumed = vdm();
    resumed.args(["train", "--plain", "--resume"]).arg(&run);
    let child = resumed.stderr(std::process::Stdio::null()).spawn().unwrap();
    let before = std::fs::read_to_string(run.join("metrics.jsonl")).unwrap().lines().count();
    wait_for_steps(&run, before + 2);
    signal(&child, "-INT");
    assert_eq!(child.wait_with_output().unwrap().status.code(), Some(130));
}

/// The configuration is there before the first checkpoint: a kill in between leaves a run that can be resumed.
#[cfg(unix)]
#[test]
fn a_run_without_checkpoint_starts_from_the_beginning() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    train(&run, 2).succeeds();
    std::fs::remove_dir_all(run.join("checkpoints")).unwrap();
    let error = stderr(vdm().arg("info").arg(&run));
    assert!(error.contains("no checkpoint yet") && error.contains("--resume"), "{error}");
    let result = json(&stdout(vdm().args(["train", "--json", "--resume"]).arg(&run)));
    assert_eq!((&result["finished"], &result["step"]), (&true.into(), &2.into()));
}

/// What a person asks a program first.
#[test]
fn the_machine_the_data_and_the_manual_are_described() {
    let dir = tempfile::tempdir().unwrap();
    let json = |args: &[&str]| -> serde_json::Value {
        serde_json::from_slice(&vdm().arg("--json").args(args).succeeds()).unwrap()
    };
    let found = json(&["doctor"])["findings"].clone();
    let has = |name: &str, text: &str| {
        let all = found.as_array().unwrap().iter();
        all.filter(|f| f["name"] == name).any(|f| f["found"].as_str().unwrap().contains(text))
    };
    assert!(has("model", "digits: can be opened") && has("data", "digits: built in") && has("device", "cpu: there"));
    assert_eq!(json(&["devices"])["devices"][0], serde_json::json!({"device": "cpu", "missing": null}));
    let cifar = json(&["data", "cifar10"]);
    assert!(cifar["data"][0]["md5"][0][1].as_str().is_some_and(|sum| sum.len() == 32));
    assert!(vdm().args(["data", "nothing"]).fails().contains("data.source=folder"));
    for (device, why) in
        [("gpu", "expected one of cpu"), ("cuda:x", "no number"), ("cpu:1", "one CPU"), ("cuda", "--features cuda")]
    {
        assert!(vdm().args(["eval", "digits", "--device", device]).fails().contains(why), "{device}");
    }
    let script = String::from_utf8(vdm().args(["completions", "bash"]).succeeds()).unwrap();
    assert!(script.contains("fit-errors") && script.contains("complete -F"));
    let pages = json(&["man", "-o", dir.path().join("man").to_str().unwrap()])["pages"].as_array().unwrap().len();
    assert!(pages > 20, "{pages}");
    let page = std::fs::read_to_string(dir.path().join("man/vdm-compress.1")).unwrap();
    assert!(page.contains("embed") && page.contains(".TH"), "{page}");
}

#[test]
fn plain_flags_of_train_are_keys() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    let flags = ["--steps", "3", "--batch-size", "4", "--lr", "0.003", "--seed", "9", "--set", "sample.count=1"];
    vdm()
        .args([
            "train",
            "--set",
            "model.n_layer=1",
            "--set",
            "eval.repeats=1",
            "--set",
            "train.sample_every=0",
            "--json",
        ])
        .args(flags)
        .arg("--out")
        .arg(&run)
        .succeeds();
    let config = std::fs::read_to_string(run.join("config.toml")).unwrap();
    for line in ["steps = 3", "batch_size = 4", "lr = 0.003", "seed = 9"] {
        assert!(config.lines().any(|found| found == line), "{line}: {config}");
    }
    vdm().args(["train", "--steps", "5", "--json", "--resume"]).arg(&run).succeeds();
    assert!(vdm().args(["train", "--lr", "1", "--resume"]).arg(&run).fails().contains("--resume"));
}

/// The first loss is that of the trained model, not of a fresh one, whose loss is above 7; and the run goes on like any other.
#[test]
fn a_training_starts_from_a_models_weights() {
    let dir = tempfile::tempdir().unwrap();
    let sets = ["train.log_every=1", "train.timesteps=16", "train.sample_every=0", "eval.repeats=1", "sample.count=1"];
    let tuning = |out: &Path, steps: u32| {
        let mut command = vdm();
        command.args(["train", "--init", "digits", "--json", "--steps", &steps.to_string(), "--out"]).arg(out);
        for set in sets {
            command.args(["--set", set]);
        }
        command
    };
    let [whole, stopped] = ["whole", "stopped"].map(|name| dir.path().join(name));
    tuning(&whole, 2).succeeds();
    let metrics = |run: &Path| fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let first: serde_json::Value = serde_json::from_str(metrics(&whole).lines().next().unwrap()).unwrap();
    assert!(first["bpd"].as_f64().unwrap() < 3.5, "{first}");
    assert!(fs::read_to_string(whole.join("config.toml")).unwrap().contains("timesteps = 16"));

    // Its length may change as that of any run.
    tuning(&stopped, 1).succeeds();
    vdm().args(["train", "--json", "--steps", "2", "--resume"]).arg(&stopped).succeeds();
    let weights = |run: &Path| {
        let (file, out) = (dir.path().join("a.safetensors"), dir.path());
        vdm().current_dir(out).arg("export").arg(run).arg("-o").arg(&file).succeeds();
        fs::read(file).unwrap()
    };
    assert!(weights(&whole) == weights(&stopped));

    let error =
        |args: &[&str]| vdm().args(["train", "--init"]).args(args).arg("--out").arg(dir.path().join("x")).fails();
    assert!(error(&["nothing"]).contains("nothing"));
    assert!(error(&["digits", "--set", "model.n_embd=64"]).contains("parameters"));
    assert!(error(&["digits", "--preset", "digits"]).contains("--preset"));
    assert!(!dir.path().join("x/config.toml").exists());
}

/// Nothing is made for the answer: the network of the last would take gigabytes.
#[test]
fn what_a_presets_network_takes_is_computed() {
    let info = |args: &[&str]| -> serde_json::Value {
        serde_json::from_slice(&vdm().args(["info", "--json", "--preset"]).args(args).succeeds()).unwrap()
    };
    let small = info(&["digits"]);
    assert_eq!((&small["parameters"], &small["height"]), (&332_547.into(), &8.into()));
    assert_eq!(info(&["digits", "--shape", "3,16,8"])["channels"], 3);
    let large = info(&["imagenet64"]);
    assert!(large["parameters"].as_u64().unwrap() > 200_000_000 && large["batches"][0]["images"] == 1);
    let unet = info(&["fashion-mnist", "--set", "model.kind=unet"]);
    assert!(unet["operations"].as_u64().unwrap() > small["operations"].as_u64().unwrap());
    for (args, words) in [
        (&["--preset", "digits", "--shape", "3,16"][..], "3,32,32"),
        (&["--preset", "digits", "--shape", "x,1,8,8"], "3,32,32"),
        (&["--preset", "digits", "--set", "data.source=folder", "--set", "data.dir=."], "--shape"),
        (&["--preset", "nothing"], "nothing"),
        (&[], "required"),
    ] {
        let error = vdm().arg("info").args(args).fails();
        assert!(error.contains(words), "{args:?}: {error}");
    }
}

/// The file is complete after a resume too; `scripts/tensorboard_page.py` reads one with TensorBoard itself.
#[test]
fn a_training_writes_for_tensorboard() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    let sets = ["model.n_layer=1", "train.log_every=1", "eval.repeats=1", "sample.count=1", "sample.steps=1"];
    let mut first = vdm();
    first.args(["train", "--tensorboard", "--steps", "2", "--batch-size", "8", "--json", "--out"]).arg(&run);
    sets.iter().fold(&mut first, |command, set| command.args(["--set", set])).succeeds();
    let file = run.join("tensorboard/events.out.tfevents.0.vdm");
    let before = fs::read(&file).unwrap();
    for tag in ["brain.Event:2", "train/bpd", "eval/test/bpd", "samples"] {
        assert!(before.windows(tag.len()).any(|window| window == tag.as_bytes()), "{tag}");
    }
    vdm().args(["train", "--json", "--set", "train.steps=3", "--resume"]).arg(&run).succeeds();
    let after = fs::read(&file).unwrap();
    assert!(after.len() > before.len() && after.starts_with(&before));
}
