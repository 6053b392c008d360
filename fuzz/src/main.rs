//! A fuzz target over the reader of `.vdmz` files: mutated files must give an error or a container that is written back
//! byte for byte, never a panic, and never take more than 1 MiB of memory (they are some kilobytes).
//!
//!     cargo run --release -p vdm-fuzz -- [RUNS [SEED]]      10,000,000 runs by default
//!
//! Half of the mutants get right checksums again: without this, few would reach the parser behind them. Mutants that
//! end in a way not seen before (another field, another kind of error) join the corpus, so that later ones start from
//! them.

use std::alloc::{GlobalAlloc, Layout, System};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use vdm::ImageShape;
use vdm::codec::{CodecError, CodedSegment, Container, FileEntry, FileKind, Segment, Steps};
use vdm_kernels::rng::Philox;

/// Bytes before the header: magic, version, header length, checksum.
const PREFIX: usize = 14;
/// Memory that one run may take: of a file of some kilobytes.
const MOST_MEMORY: usize = 1 << 20;

fn main() {
    let mut args = std::env::args().skip(1).map(|a| a.parse::<u64>().expect("a number: vdm-fuzz [RUNS [SEED]]"));
    let (runs, seed) = (args.next().unwrap_or(10_000_000), args.next().unwrap_or(0));
    let mut corpus: Vec<Vec<u8>> = containers().iter().map(|c| c.to_bytes().expect("it is small")).collect();
    let mut outcomes = BTreeMap::<String, u64>::new();
    let mut most_memory = 0;
    let mut dice = Dice { stream: Philox::new(seed, 0), block: 0, words: Vec::new() };
    for run in 0..runs {
        let mut file = corpus[dice.below(corpus.len())].clone();
        for _ in 0..=dice.below(4) {
            mutate(&mut file, &corpus, &mut dice);
        }
        if dice.below(2) == 0 {
            repair(&mut file);
        }
        let before = ALLOCATOR.reset();
        let parsed = Container::parse(&file);
        let memory = ALLOCATOR.peak() - before;
        most_memory = most_memory.max(memory);
        assert!(memory < MOST_MEMORY, "run {run} of seed {seed} took {memory} bytes for a file of {}", file.len());
        let outcome = match parsed {
            Ok(container) => {
                let written = container.to_bytes().expect("it was read from so many bytes");
                assert!(written == file, "run {run} of seed {seed} is written back otherwise");
                format!("read, {} files, {} segments", container.files.len().min(3), container.segments.len().min(3))
            }
            Err(CodecError::Header { field, .. }) => format!("refused: {field}"),
            Err(CodecError::Truncated { field, .. }) => format!("refused: truncated {field}"),
            // The name of the variant.
            Err(error) => format!("refused: {}", format!("{error:?}").split([' ', '{']).next().unwrap_or_default()),
        };
        let times = outcomes.entry(outcome).or_default();
        *times += 1;
        if *times <= 20 && file.len() < 4096 {
            corpus.push(file);
        }
    }
    for (outcome, times) in &outcomes {
        println!("{times:>10}  {outcome}");
    }
    println!("{runs} runs of seed {seed}: no panic, no other bytes; most memory {most_memory} bytes");
}

/// Files to start from: of every kind of entry and of steps.
fn containers() -> Vec<Container> {
    let entry = |name: &str, kind| FileEntry { name: name.into(), kind };
    let segment = |images, words| CodedSegment {
        segment: Segment { images, state: 1 << 40, words: (0..words).collect() },
        pixels: [7; 8],
    };
    let container = |channels, steps, files, segments| Container {
        model: [1; 16],
        arithmetic: [2; 16],
        note: "digits after 2500 steps".into(),
        program: "vdm".into(),
        machine: "x86_64+avx2".into(),
        shape: ImageShape { channels, height: 8, width: 8 },
        levels: 17,
        bins_per_sigma: 2,
        batch_size: 16,
        seed: 3,
        steps,
        net_bits: 1234.5,
        initial_bits: 64.0,
        files,
        segments,
    };
    vec![
        container(
            1,
            Steps::Uniform(250),
            vec![entry("t10k-images-idx3-ubyte", FileKind::Idx { images: 300 })],
            vec![segment(100, 40), segment(200, 80)],
        ),
        container(
            3,
            Steps::Listed(vec![-8.0, -1.0, 5.0]),
            vec![entry("a/b.png", FileKind::Png), entry("a/c.png", FileKind::Png)],
            vec![segment(2, 9)],
        ),
        container(3, Steps::Uniform(1), vec![entry("s", FileKind::Series { images: 5 })], vec![segment(5, 1)]),
    ]
}

fn mutate(file: &mut Vec<u8>, corpus: &[Vec<u8>], dice: &mut Dice) {
    if file.is_empty() {
        return file.push(dice.below(256) as u8);
    }
    let at = dice.below(file.len());
    match dice.below(7) {
        0 => file[at] ^= 1 << dice.below(8),
        1 => file[at] = dice.below(256) as u8,
        2 => {
            let extreme = [0, 1, 0x7f, 0x80, 0xff][dice.below(5)];
            let n = (1 + dice.below(8)).min(file.len() - at);
            file[at..at + n].fill(extreme);
        }
        3 => file.truncate(at),
        4 => {
            let extra: Vec<u8> = (0..=dice.below(9)).map(|_| dice.below(256) as u8).collect();
            file.splice(at..at, extra);
        }
        5 => {
            let n = (1 + dice.below(16)).min(file.len() - at);
            file.drain(at..at + n);
        }
        _ => {
            let other = &corpus[dice.below(corpus.len())];
            let from = dice.below(other.len().max(1)).min(other.len());
            let n = (1 + dice.below(32)).min(other.len() - from);
            file.splice(at..at, other[from..from + n].iter().copied());
        }
    }
}

/// Makes the header's length and checksum, and the first stream's where its place is known, those of what is there.
fn repair(file: &mut [u8]) {
    if file.len() < PREFIX {
        return;
    }
    let claimed = u32::from_le_bytes([file[6], file[7], file[8], file[9]]) as usize;
    let header = claimed.min(file.len() - PREFIX);
    file[..4].copy_from_slice(b"VDMZ");
    file[4..6].copy_from_slice(&1u16.to_le_bytes());
    file[6..10].copy_from_slice(&(header as u32).to_le_bytes());
    // With one segment, the checksum of all words lies twelve bytes before the header's end.
    let end = PREFIX + header;
    if header > 12 {
        let words = crc32fast::hash(&file[end..]);
        file[end - 12..end - 8].copy_from_slice(&words.to_le_bytes());
    }
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&file[..10]);
    hasher.update(&file[PREFIX..end]);
    file[10..14].copy_from_slice(&hasher.finalize().to_le_bytes());
}

/// Random whole numbers.
struct Dice {
    stream: Philox,
    block: u32,
    words: Vec<u32>,
}

impl Dice {
    fn below(&mut self, n: usize) -> usize {
        let word = self.words.pop().unwrap_or_else(|| {
            self.block = self.block.wrapping_add(1);
            if self.block == 0 {
                self.stream = Philox::new(self.stream.next_u64(0), 0);
            }
            let [a, rest @ ..] = self.stream.block(1, self.block);
            self.words.extend(rest);
            a
        });
        ((u64::from(word) * n as u64) >> 32) as usize
    }
}

/// The system's allocator, which counts.
struct Counting {
    now: AtomicUsize,
    peak: AtomicUsize,
}

#[global_allocator]
static ALLOCATOR: Counting = Counting { now: AtomicUsize::new(0), peak: AtomicUsize::new(0) };

impl Counting {
    /// Forgets the peak; the bytes in use.
    fn reset(&self) -> usize {
        let now = self.now.load(Ordering::Relaxed);
        self.peak.store(now, Ordering::Relaxed);
        now
    }

    fn peak(&self) -> usize {
        self.peak.load(Ordering::Relaxed)
    }
}

// SAFETY: everything is left to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let now = self.now.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        self.peak.fetch_max(now, Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        self.now.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(ptr, layout) }
    }
}
