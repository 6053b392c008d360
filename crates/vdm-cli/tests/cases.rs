//! Situations that real users of other programs met, by their numbers in the list of cases; each was wrong here once. Cases
//! 1, 3, 9, 10, 11 and 12 are tested in the library beside the code, as far as they need no program.

mod common;

use common::{Run, vdm};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A small finished run on the digits.
fn small_run(folder: &Path, sets: &[&str]) -> PathBuf {
    let run = folder.join("run");
    let mut command = vdm();
    command.args(["train", "--json", "--out"]).arg(&run);
    let tiny = [
        "train.steps=2",
        "train.batch_size=8",
        "model.n_layer=1",
        "eval.repeats=1",
        "sample.count=4",
        "sample.steps=2",
    ];
    for set in tiny.iter().chain(sets) {
        command.args(["--set", set]);
    }
    command.succeeds();
    run
}

/// A folder of IDX files of 64 and 16 random images of 16x16, with five classes from `first_label` on.
fn idx(folder: &Path, first_label: u8) {
    fs::create_dir_all(folder).unwrap();
    for (split, count) in [("train", 64u32), ("t10k", 16)] {
        let mut images = vec![0, 0, 8, 3];
        [count, 16, 16].iter().for_each(|n| images.extend(n.to_be_bytes()));
        images.extend((0..count * 256).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8));
        fs::write(folder.join(format!("{split}-images-idx3-ubyte")), images).unwrap();
        let mut labels = vec![0, 0, 8, 1];
        labels.extend(count.to_be_bytes());
        labels.extend((0..count).map(|i| first_label + (i % 5) as u8));
        fs::write(folder.join(format!("{split}-labels-idx1-ubyte")), labels).unwrap();
    }
}

#[cfg(unix)]
#[test]
fn case_2_an_ignored_hangup_stays_ignored() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    // What nohup does.
    let program = format!(
        "trap '' HUP; exec {} train --plain --out {} --set train.steps=400 --set train.log_every=1 --set model.n_layer=1 \
         --set train.batch_size=8 --set eval.repeats=1 --set sample.steps=1 --set train.eval_every=0",
        env!("CARGO_BIN_EXE_vdm"),
        run.display()
    );
    let mut child = Command::new("sh").args(["-c", &program]).stderr(std::process::Stdio::null()).spawn().unwrap();
    let metrics = run.join("metrics.jsonl");
    let started = std::time::Instant::now();
    while fs::read_to_string(&metrics).unwrap_or_default().lines().count() < 2 {
        assert!(started.elapsed().as_secs() < 60, "no progress");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    assert!(Command::new("kill").args(["-HUP", &child.id().to_string()]).status().unwrap().success());
    assert!(child.wait().unwrap().success(), "the training went on to its end");
    assert!(run.join("evaluation.json").exists());
}

#[cfg(target_os = "linux")]
#[test]
fn case_4_a_full_disk_is_an_error_and_a_closed_pipe_is_none() {
    let dir = tempfile::tempdir().unwrap();
    let run = small_run(dir.path(), &[]);
    let run = run.to_str().unwrap();
    for args in [&["presets", "digits"][..], &["info", run], &["eval", run, "--json"], &["presets", "--json"]] {
        let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let output = vdm().args(args).stdout(full).output().unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{args:?}: {error}");
        assert!(error.contains("standard output") && error.matches("No space left").count() == 1, "{error}");

        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = vdm().args(args).stdout(writer).output().unwrap();
        assert!(output.status.success() && output.stderr.is_empty(), "{args:?}: {output:?}");
    }
}

#[test]
fn case_5_no_picture_and_no_number_come_from_damaged_weights() {
    let dir = tempfile::tempdir().unwrap();
    let run = small_run(dir.path(), &["model.classes=10"]);
    let last = run.join("checkpoints/last.safetensors");
    let mut bytes = fs::read(&last).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle..middle + 4].copy_from_slice(&f32::NAN.to_le_bytes());
    let good = fs::read(&last).unwrap();
    fs::write(&last, bytes).unwrap();
    let png = dir.path().join("a.png");
    for command in ["eval", "sample"] {
        let error = vdm().arg(command).arg(&run).fails();
        assert!(error.contains("last.safetensors") && error.contains("checksum"), "{error}");
    }
    fs::write(&last, good).unwrap();
    let error = vdm().args(["sample", "--guidance", "1e300", "-o"]).arg(&png).arg(&run).fails();
    assert!(error.contains("not finite") && error.contains("guidance"), "{error}");
    assert!(!png.exists());
    // One image has no standard error: the key is left out.
    let one = String::from_utf8(vdm().args(["eval", "--images", "1", "--json"]).arg(&run).succeeds()).unwrap();
    assert!(one.contains("\"bpd\"") && !one.contains("bpd_stderr"), "{one}");
    let error = vdm().args(["eval", "--timesteps", "4000000000"]).arg(&run).fails();
    assert!(error.contains("65536"), "{error}");
}

#[cfg(unix)]
#[test]
fn case_7_links_stay_links_and_devices_are_refused() {
    use std::os::unix::fs::symlink;
    let dir = tempfile::tempdir().unwrap();
    let run = small_run(dir.path(), &[]);
    let at = |name: &str| dir.path().join(name);
    fs::write(at("target.png"), "old").unwrap();
    symlink("target.png", at("link.png")).unwrap();
    vdm().args(["sample", "--count", "1", "-o"]).arg(at("link.png")).arg(&run).succeeds();
    assert!(at("link.png").is_symlink());
    assert_eq!(&fs::read(at("target.png")).unwrap()[..4], b"\x89PNG");
    symlink("/dev/null", at("null")).unwrap();
    for out in [at("null"), "/dev/null".into()] {
        let error = vdm().args(["sample", "--count", "1", "-o"]).arg(&out).arg(&run).fails();
        assert!(error.contains("device"), "{error}");
    }
    assert!(at("null").is_symlink());
}

#[cfg(unix)]
#[test]
fn case_8_an_empty_folder_is_used_in_place() {
    use std::os::unix::fs::{MetadataExt, symlink};
    let dir = tempfile::tempdir().unwrap();
    let run = small_run(dir.path(), &[]);
    let file = dir.path().join("a.vdmz");
    vdm().args(["compress", "--timesteps", "2", "--count", "3", "-o"]).arg(&file).arg(&run).succeeds();
    let empty = dir.path().join("empty");
    fs::create_dir(&empty).unwrap();
    symlink("empty", dir.path().join("link")).unwrap();
    let before = fs::metadata(&empty).unwrap().ino();
    vdm().args(["decompress", "-m"]).arg(&run).arg("-o").arg(dir.path().join("link")).arg(&file).succeeds();
    assert_eq!(fs::metadata(&empty).unwrap().ino(), before);
    let names: Vec<_> = fs::read_dir(&empty).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["digits-test-images-idx3-ubyte"]);
    // The shell's own folder.
    let own = dir.path().join("own");
    fs::create_dir(&own).unwrap();
    vdm().args(["decompress", "-o", ".", "-m"]).arg(&run).arg(&file).current_dir(&own).succeeds();
    assert_eq!(fs::read_dir(&own).unwrap().count(), 1);
}

#[test]
fn case_9_a_folder_may_be_called_anything() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["1_000", "2024-01-01", "0x10"] {
        idx(&dir.path().join(name), 0);
        let mut command = vdm();
        command.current_dir(dir.path()).args(["train", "--preset", "mnist", "--json", "--out", &format!("run-{name}")]);
        for set in [
            "train.steps=1",
            "train.batch_size=2",
            "model.n_layer=1",
            "eval.repeats=1",
            "sample.count=1",
            "sample.steps=1",
        ] {
            command.args(["--set", set]);
        }
        command.args(["--set", &format!("data.dir={name}")]).succeeds();
    }
}

#[test]
fn case_10_a_class_that_no_image_has_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("idx-labels-from-1");
    idx(&data, 1);
    let set = format!("data.dir={}", data.display());
    let mut command = vdm();
    let error = command
        .args(["train", "--preset", "mnist", "--class-conditional", "--set", &set, "--out"])
        .arg(dir.path().join("run"))
        .fails();
    assert!(error.contains("class 0") && error.contains("without gaps"), "{error}");
}

#[test]
fn case_12_other_images_are_refused_unless_they_are_meant() {
    let dir = tempfile::tempdir().unwrap();
    let (data, run) = (dir.path().join("idx"), dir.path().join("run"));
    idx(&data, 0);
    let train = |more: &[&str]| {
        let mut command = vdm();
        command.args(["train", "--json"]).args(more);
        command
    };
    let set = format!("data.dir={}", data.display());
    let tiny = [
        "train.steps=1",
        "train.batch_size=2",
        "model.n_layer=1",
        "eval.repeats=1",
        "sample.count=1",
        "sample.steps=1",
    ];
    let mut first = train(&["--preset", "mnist", "--set", &set, "--out", run.to_str().unwrap()]);
    tiny.iter().for_each(|set| _ = first.args(["--set", set]));
    first.succeeds();
    for file in ["train-images-idx3-ubyte", "t10k-images-idx3-ubyte"] {
        let mut bytes = fs::read(data.join(file)).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        // The 20th training image is one of validation.
        if file.starts_with("train") {
            bytes[16 + 19 * 256] ^= 1;
        }
        fs::write(data.join(file), bytes).unwrap();
    }
    for split in ["test", "validation"] {
        let error = vdm().args(["eval", "--split", split]).arg(&run).fails();
        assert!(error.contains("others than those of the run") && error.contains("--other-data"), "{error}");
        vdm().args(["eval", "--other-data", "--split", split]).arg(&run).succeeds();
    }
    let more = ["--set", "train.steps=2", "--resume", run.to_str().unwrap()];
    let error = train(&more).fails();
    assert!(error.contains("others than those") && error.contains("--other-data"), "{error}");
    train(&more).arg("--other-data").succeeds();
}

#[test]
fn case_13_samples_appear_batch_by_batch_and_what_cannot_be_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let run = small_run(dir.path(), &[]);
    let out = dir.path().join("many");
    let error = vdm().args(["sample", "--count", "4000000000", "--separate", "-o"]).arg(&out).arg(&run).fails();
    assert!(error.contains("GiB") && !out.exists(), "{error}");
    let error = vdm().args(["sample", "--count", "4000000000"]).arg(&run).fails();
    assert!(error.contains("at most 4096"), "{error}");
    // Stopped in the middle: the batches before are there.
    let mut command = vdm();
    command.args(["sample", "--count", "100000", "--batch-size", "4", "--separate", "-o"]).arg(&out).arg(&run);
    let mut child = command.stderr(std::process::Stdio::null()).spawn().unwrap();
    let started = std::time::Instant::now();
    while fs::read_dir(&out).map_or(0, Iterator::count) < 8 {
        assert!(started.elapsed().as_secs() < 60, "no pictures");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    child.kill().unwrap();
    child.wait().unwrap();
}

/// Every file of a run with its bytes; times are taken out of the metrics.
fn files(folder: &Path) -> std::collections::BTreeMap<PathBuf, Vec<u8>> {
    let mut out = std::collections::BTreeMap::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(at) = folders.pop() {
        for entry in fs::read_dir(at).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let mut bytes = fs::read(&path).unwrap();
            if path.ends_with("metrics.jsonl") {
                let text = String::from_utf8(bytes).unwrap();
                let lines = text.lines().map(|line| {
                    let mut line: serde_json::Value = serde_json::from_str(line).unwrap();
                    line.as_object_mut().unwrap().remove("images_per_second");
                    format!("{line}\n")
                });
                bytes = lines.collect::<String>().into_bytes();
            }
            out.insert(path.strip_prefix(folder).unwrap().to_path_buf(), bytes);
        }
    }
    out
}

/// The quick part of scripts/reliability.sh: kills at many moments of a whole run, evaluations and samples included.
#[cfg(unix)]
#[test]
fn case_6_kills_at_any_moment_change_no_byte_of_the_folder() {
    let dir = tempfile::tempdir().unwrap();
    let sets = [
        "train.steps=30",
        "train.batch_size=8",
        "model.n_layer=1",
        "train.eval_every=4",
        "train.checkpoint_every=4",
        "train.sample_every=6",
        "train.log_every=5",
        "eval.repeats=1",
        "eval.images=20",
        "sample.count=4",
        "sample.steps=4",
    ];
    let (whole, killed) = (dir.path().join("whole"), dir.path().join("killed"));
    let train = |run: &Path| {
        let mut command = vdm();
        command.args(["train", "--json"]);
        if run.join("config.toml").exists() {
            command.arg("--resume").arg(run);
        } else {
            command.arg("--out").arg(run);
            sets.iter().for_each(|set| _ = command.args(["--set", set]));
        }
        command
    };
    train(&whole).succeeds();
    for kill in 0u64..12 {
        let mut child =
            train(&killed).stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn().unwrap();
        std::thread::sleep(std::time::Duration::from_millis(60 + 47 * kill % 300));
        let _ = child.kill();
        child.wait().unwrap();
    }
    if !killed.join("evaluation.json").exists() {
        train(&killed).output().unwrap();
    }
    // A last resume may find that all is done.
    let _ = train(&killed).output().unwrap();
    let (want, found) = (files(&whole), files(&killed));
    let names = |files: &std::collections::BTreeMap<PathBuf, Vec<u8>>| files.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&want), names(&found));
    for (name, bytes) in want {
        assert!(found[&name] == bytes, "{} differs", name.display());
    }
}

/// Waits for something that a program is going to do.
#[cfg(unix)]
fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let started = std::time::Instant::now();
    while !done() {
        assert!(started.elapsed().as_secs() < 60, "{what}");
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
}

/// Ctrl-C for a program that runs; its exit status and what it said, and that it ended within a second.
#[cfg(unix)]
fn interrupt(child: std::process::Child) -> (Option<i32>, String) {
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let started = std::time::Instant::now();
    let output = child.wait_with_output().unwrap();
    // A machine with other work takes longer; the work itself would take minutes.
    assert!(started.elapsed().as_secs() < 5, "{:?}", started.elapsed());
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

#[cfg(unix)]
#[test]
fn a_stop_while_pictures_are_drawn_says_which_are_there() {
    let dir = tempfile::tempdir().unwrap();
    let (run, out) = (small_run(dir.path(), &[]), dir.path().join("out"));
    let mut command = vdm();
    command.arg("sample").arg(run).args(["--separate", "--count", "100000", "--batch-size", "7", "-o"]).arg(&out);
    let child = command.stderr(std::process::Stdio::piped()).spawn().unwrap();
    let pictures = || fs::read_dir(&out).map_or(0, Iterator::count);
    wait_for("pictures", || pictures() >= 14);
    let (status, said) = interrupt(child);
    let there = pictures();
    assert_eq!((status, there % 7), (Some(130), 0), "{said}");
    let rest = format!("--first {there} --count {}", 100_000 - there);
    assert!(said.contains(&format!("{there} of 100000 pictures")) && said.contains(&rest), "{said}");
}

#[cfg(unix)]
#[test]
fn ctrl_c_is_heard_during_the_samples_and_the_evaluation_of_a_training() {
    let dir = tempfile::tempdir().unwrap();
    // Samples after the first step, or an evaluation after the last, that would take minutes.
    for (what, sets) in [
        ("samples", ["train.sample_every=1", "sample.count=16", "sample.steps=60000", "eval.repeats=1"]),
        ("evaluation", ["sample.steps=1", "sample.count=1", "eval.repeats=9000", "eval.batch_size=2"]),
    ] {
        let run = dir.path().join(what);
        let mut command = vdm();
        command.args(["train", "--plain", "--out"]).arg(&run);
        for set in ["train.steps=2", "train.batch_size=8", "model.n_layer=1", "train.log_every=1"].iter().chain(&sets) {
            command.args(["--set", set]);
        }
        let child = command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().unwrap();
        let lines = || fs::read_to_string(run.join("metrics.jsonl")).unwrap_or_default().lines().count();
        let least = if what == "samples" { 1 } else { 3 };
        wait_for(what, || lines() >= least);
        std::thread::sleep(std::time::Duration::from_millis(300));
        let (status, said) = interrupt(child);
        assert_eq!(status, Some(130), "{what}: {said}");
        assert!(run.join("checkpoints/last.safetensors").exists() && !run.join("evaluation.json").exists());
    }
}
