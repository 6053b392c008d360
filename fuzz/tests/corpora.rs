//! Every target over the inputs that were kept, and over its seeds.

use std::fs;
use std::path::{Path, PathBuf};
use vdm_fuzz::{TARGETS, Target};

fn folder(target: &Target) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target.name)
}

#[test]
fn every_target_reads_its_corpus() {
    for target in TARGETS {
        let files: Vec<_> = fs::read_dir(folder(target)).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert!(!files.is_empty(), "{}: a corpus", target.name);
        for file in files {
            println!("{}", file.display());
            target.run(&fs::read(&file).unwrap());
        }
    }
}

/// Each seed, cut at some places and with single bits flipped; the seeds also have to be good.
#[test]
fn every_target_reads_damaged_seeds() {
    for target in TARGETS {
        for seed in (target.seeds)() {
            target.run(&seed);
            let step = (seed.len() / 40).max(1);
            for at in (0..seed.len()).step_by(step) {
                target.run(&seed[..at]);
                let mut flipped = seed.clone();
                flipped[at] ^= 1 << (at % 8);
                target.run(&flipped);
            }
        }
    }
}

/// With `VDM_SEEDS=write`, the seeds go to the corpora; without, they are there.
#[test]
fn the_seeds_are_in_the_corpora() {
    let write = std::env::var_os("VDM_SEEDS").is_some_and(|value| value == "write");
    for target in TARGETS {
        for (number, seed) in (target.seeds)().into_iter().enumerate() {
            let path = folder(target).join(format!("seed-{number}"));
            if write {
                fs::create_dir_all(folder(target)).unwrap();
                fs::write(&path, &seed).unwrap();
            }
            assert!(path.is_file(), "{}: VDM_SEEDS=write cargo test -p vdm-fuzz", path.display());
        }
    }
}
