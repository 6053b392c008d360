//! Golden numbers of the reference implementations.
//!
//! Every `*.safetensors` file in a folder is checked: by default the copies in `tests/golden`, or the folder that
//! `VDM_GOLDEN` names. The part of the name before the first `_` is the kind of file; a file of an unknown kind fails.
//! The files were made by running the reference implementations (google-research/vdm for `official`, the PyTorch port
//! of its network for `port`, the didactic PyTorch modules for `unet` and `monotonic`, equation 59 on the reference's
//! schedule network for `pinned`) with random weights and inputs, which the files carry. A `*.pt` file is the state dict
//! of the golden file of the same name, as PyTorch saves it.
#![allow(clippy::disallowed_methods)]

#[path = "common/device.rs"]
mod device;
#[path = "common/golden_file.rs"]
mod golden_file;
#[path = "common/monotonic.rs"]
mod monotonic;
#[path = "common/official.rs"]
mod official;
#[path = "common/pinned.rs"]
mod pinned;
#[path = "common/port.rs"]
mod port;
#[path = "common/unet.rs"]
mod unet;

use golden_file::GoldenFile;
use std::path::PathBuf;

/// The files of one kind in the folder of golden files.
fn golden_files(extension: &str) -> Vec<PathBuf> {
    let dir = std::env::var_os("VDM_GOLDEN")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden"), PathBuf::from);
    let mut files: Vec<PathBuf> = std::fs::read_dir(&dir)
        .unwrap_or_else(|e| panic!("cannot list {}: {e}", dir.display()))
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == extension))
        .collect();
    files.sort();
    files
}

#[test]
fn pytorch_files_hold_the_weights_of_their_golden_files() {
    let files = golden_files("pt");
    assert!(!files.is_empty() || std::env::var_os("VDM_GOLDEN").is_some(), "no PyTorch file");
    for path in files {
        let weights = vdm::weights::load_pytorch(&path).unwrap();
        let golden = GoldenFile::open(&path.with_extension("safetensors")).under("params/");
        assert!(weights.keys().eq(golden.keys()), "{}: other names", path.display());
        for (name, tensor) in &weights {
            assert!(*tensor == golden[name], "{}: another {name}", path.display());
        }
    }
}

#[test]
fn every_golden_file_is_reproduced() {
    let files = golden_files("safetensors");
    assert!(!files.is_empty(), "no golden file");
    let mut failures = Vec::new();
    for path in &files {
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        let file = GoldenFile::open(path);
        match name.split('_').next().unwrap() {
            "monotonic" => monotonic::check(&file),
            "official" => official::check(&file),
            "pinned" => pinned::check(&file),
            "port" => port::check(&file),
            "unet" => unet::check(&file),
            kind => file.fail(format!("a golden file of unknown kind `{kind}`")),
        }
        failures.extend(file.failures().into_iter().map(|f| format!("{name}: {f}")));
        println!("{name}: {} comparisons, largest share of the tolerance {}", file.count(), file.worst());
    }
    assert!(failures.is_empty(), "{} golden numbers missed:\n{}", failures.len(), failures.join("\n"));
}
