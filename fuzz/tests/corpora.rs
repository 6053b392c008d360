//! Every target over the inputs that were kept, and over its seeds.

use std::fs;
use std::path::{Path, PathBuf};
use vdm_fuzz::{TARGETS, Target};
use vdm_kernels::rng::Philox;

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

/// Seeds and corpora with a few random changes: bytes set, taken out and copied. `VDM_FUZZ=container:100000` makes that many of one
/// target, for a long look without `cargo fuzz`.
#[test]
fn every_target_reads_changed_inputs() {
    let wish = std::env::var("VDM_FUZZ").ok();
    let wish = wish.as_deref().map(|wish| wish.split_once(':').expect("VDM_FUZZ=TARGET:ROUNDS"));
    for target in TARGETS {
        let rounds = match wish {
            Some((name, rounds)) if name == target.name => rounds.parse().expect("a number of rounds"),
            Some(_) => 0,
            None => 50,
        };
        let mut inputs = (target.seeds)();
        let files = fs::read_dir(folder(target)).unwrap().map(|entry| entry.unwrap().path());
        inputs.extend(files.map(|file| fs::read(file).unwrap()).filter(|input| input.len() < 1 << 16));
        // Seeds more often than the many files of a corpus.
        let seeds = (target.seeds)().len() as u64;
        for round in 0..rounds {
            let rng = Philox::new(round, 0);
            let number = |draw: u32, below: u64| rng.next_u64(draw) % below.max(1);
            let which = if round % 2 == 0 { number(0, seeds) } else { number(0, inputs.len() as u64) };
            let mut input = inputs[which as usize].clone();
            for change in 0..1 + number(1, 4) as u32 {
                let draw = 8 * (1 + change);
                let at = number(draw, input.len() as u64) as usize;
                let end = (at + 1 + number(draw + 1, 8) as usize).min(input.len());
                match number(draw + 2, 6) {
                    0 => drop(input.drain(at..end)),
                    1 => {
                        let copy = input[at.min(end)..end].to_vec();
                        drop(input.splice(at..at, copy));
                    }
                    2 if at < input.len() => input[at] = input[at].wrapping_add(1),
                    3 if at < input.len() => input[at] = [0, 1, 0x7f, 0x80, 0xff][number(draw + 3, 5) as usize],
                    _ if at < input.len() => input[at] = number(draw + 3, 256) as u8,
                    _ => {}
                }
            }
            target.run(&input);
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
