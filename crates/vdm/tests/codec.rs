//! The codec from images to a file and back, and what it says to files that are not as they should be.

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use proptest::prelude::*;
use std::ops::ControlFlow;
use vdm::ImageShape;
use vdm::codec::container::{MAGIC, VERSION};
use vdm::codec::{
    Attributes, CodecError, CodecOptions, CodedSegment, CompressReport, Container, FileEntry, FileKind, Input, Packed,
    Segment, Steps, choose_steps, compress, compress_files, decompress, decompress_range,
};
use vdm::data::ImageDataset;
use vdm::diffusion::{ReverseVariance, Vocabulary};
use vdm::nn::{Conditioning, Mode, ScoreNetwork, ScoreUNet, ScoreUNetConfig};
use vdm::schedule::{Endpoints, ScheduleConfig};
use vdm::{DiffusionSettings, VariationalDiffusion, unwatched, weights};
use vdm_kernels::rng::Philox;

const SHAPE: ImageShape = ImageShape { channels: 1, height: 4, width: 4 };
const LEVELS: usize = 17;

/// An untrained model with no parameter at zero; always the same for a seed.
fn model(seed: u64) -> VariationalDiffusion<ScoreUNet> {
    let device = Device::flex();
    let schedule = ScheduleConfig::LearnedLinear(Endpoints { gamma_0: -8.0, gamma_1: 5.0 });
    let network = ScoreUNetConfig { norm_groups: 4, ..ScoreUNetConfig::new(1, 8, 1) }.init(&device);
    let mut values = weights::export(&network);
    for (i, tensor) in values.values_mut().enumerate() {
        Philox::new(seed, i as u64).normal(0, &mut tensor.data);
        tensor.data.iter_mut().for_each(|w| *w *= 0.3);
    }
    let settings = DiffusionSettings::new(SHAPE, Vocabulary::new(LEVELS).unwrap(), &schedule);
    VariationalDiffusion::new(schedule.init(&device), weights::import(network, &values).unwrap(), settings)
}

fn images(seed: u64, n: usize) -> ImageDataset {
    let mut u = vec![0f32; n * SHAPE.dims()];
    Philox::new(seed, 0).uniform(0, &mut u);
    let bytes = u.into_iter().map(|u| (u * LEVELS as f32) as u8).collect();
    ImageDataset::new("random", SHAPE, LEVELS, bytes, None).unwrap()
}

fn idx(name: &str, images: u32) -> FileEntry {
    FileEntry::new(name, FileKind::Idx { images })
}

fn png(name: &str) -> FileEntry {
    FileEntry::new(name, FileKind::Png)
}

fn options(steps: usize, restart_every: usize) -> CodecOptions {
    let steps = Steps::Uniform(steps);
    CodecOptions { steps, restart_every, batch_size: 3, note: "tiny".into(), ..Default::default() }
}

fn coded(model: &VariationalDiffusion<ScoreUNet>, images: &ImageDataset, options: &CodecOptions) -> Container {
    coded_with_report(model, images, options).0
}

fn coded_with_report(
    model: &VariationalDiffusion<ScoreUNet>,
    images: &ImageDataset,
    options: &CodecOptions,
) -> (Container, CompressReport) {
    let files = vec![idx("random", images.len() as u32)];
    compress(model, images, files, options, &Device::flex(), &mut unwatched).unwrap()
}

fn decoded(model: &VariationalDiffusion<ScoreUNet>, container: &Container) -> Result<Vec<u8>, CodecError> {
    decompress(model, container, &Device::flex(), &mut unwatched)
}

fn tiled(width: u32, height: u32) -> FileKind {
    let alpha = Some(Packed::new(b"opacity".to_vec()));
    FileKind::Tiled { channels: 1, width, height, margin: 1, alpha }
}

/// A container with every kind of file, whose streams nothing could decode.
fn container() -> Container {
    let segment = |images, words: &[u32]| CodedSegment {
        segment: Segment { images, state: 1 << 40 | u64::from(images), words: words.to_vec() },
        pixels: [images as u8; 8],
    };
    Container {
        model: std::array::from_fn(|i| i as u8),
        arithmetic: [7; 16],
        note: "digits after 2500 steps".into(),
        program: "vdm 0.1.0".into(),
        machine: "x86_64".into(),
        shape: SHAPE,
        levels: LEVELS,
        bins_per_sigma: 2,
        batch_size: 300,
        seed: 1 << 60,
        steps: Steps::Uniform(250),
        variance: ReverseVariance::Posterior,
        net_bits: 1234.5,
        initial_bits: 96.25,
        files: vec![
            idx("t10k-images-idx3-ubyte", 2),
            png("folder/bäume 1.png"),
            FileEntry::new("series", FileKind::Series { images: 3 }),
            idx("empty", 0),
            FileEntry {
                attributes: Some(Attributes { mode: 0o644, modified: 1_700_000_000 }),
                ..FileEntry::new("notes.txt", FileKind::Stored(Packed::new(b"a a a a a a a a a a a a".to_vec())))
            },
            FileEntry {
                attributes: Some(Attributes { mode: 0, modified: -5 }),
                ..FileEntry::new("wide.png", tiled(6, 1))
            },
        ],
        embedded_model: Some(vec![1, 2, 3]),
        segments: vec![segment(4, &[1, 2, u32::MAX]), segment(2, &[0, 5]), segment(2, &[9])],
    }
}

/// The header and the streams of a file.
fn parts(bytes: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let length = u32::from_le_bytes(bytes[6..10].try_into().unwrap()) as usize;
    (bytes[14..14 + length].to_vec(), bytes[14 + length..].to_vec())
}

/// A file of any header and streams, with the right length and checksum of the header.
fn assemble(header: &[u8], streams: &[u8]) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend(VERSION.to_le_bytes());
    bytes.extend((header.len() as u32).to_le_bytes());
    let checksum = crc32fast::hash(&[&bytes[..], header].concat());
    bytes.extend(checksum.to_le_bytes());
    bytes.extend(header);
    bytes.extend(streams);
    bytes
}

/// What the parser says to a container that no encoder makes.
fn refusal(change: impl FnOnce(&mut Container)) -> String {
    let mut changed = container();
    change(&mut changed);
    Container::parse(&changed.to_bytes().unwrap()).unwrap_err().to_string()
}

#[test]
fn containers_come_back() {
    let uniform = container();
    let listed = Container { steps: Steps::Listed(vec![-8.0, -1.5, 5.0]), ..container() };
    for container in [uniform, listed] {
        let bytes = container.to_bytes().unwrap();
        assert_eq!(Container::parse(&bytes).unwrap(), container);
        let (header, streams) = parts(&bytes);
        assert_eq!(assemble(&header, &streams), bytes);
    }
    assert_eq!((container().images(), container().stream_bits()), (8, 3 * 64 + 6 * 32));
}

#[test]
fn the_header_is_small() {
    let mut small = container();
    small.files.truncate(1);
    small.segments.truncate(1);
    assert!(parts(&small.to_bytes().unwrap()).0.len() < 180);
}

#[test]
fn every_truncation_is_an_error() {
    let bytes = container().to_bytes().unwrap();
    for end in 0..bytes.len() {
        let error = Container::parse(&bytes[..end]).unwrap_err();
        match end {
            0..4 => assert!(matches!(error, CodecError::NotVdmz { .. }), "{end}: {error}"),
            _ => assert!(matches!(error, CodecError::Truncated { .. }), "{end}: {error}"),
        }
    }
    let longer = [&bytes[..], &[0]].concat();
    let error = Container::parse(&longer).unwrap_err();
    assert!(matches!(error, CodecError::TrailingBytes { found: 1, .. }), "{error}");
}

#[test]
fn every_flipped_bit_is_an_error() {
    let handmade = container().to_bytes().unwrap();
    let real = coded(&model(1), &images(1, 3), &options(2, 2)).to_bytes().unwrap();
    for bytes in [handmade, real] {
        for bit in 0..8 * bytes.len() {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let error = Container::parse(&flipped).expect_err("a flipped bit");
            let words = error.to_string();
            assert!(["vdmz", "truncated", "checksum", "end of the file"].iter().any(|w| words.contains(w)), "{words}");
        }
    }
}

#[test]
fn other_files_are_told_apart() {
    let message = |bytes: &[u8]| Container::parse(bytes).unwrap_err().to_string();
    assert!(message(b"").contains("found nothing"));
    let words = message(b"\x89PNG\r\n\x1a\n");
    assert!(words.contains("not a .vdmz file") && words.contains("89504e47"), "{words}");
    for version in [VERSION - 1, VERSION + 1] {
        let mut other = container().to_bytes().unwrap();
        other[4..6].copy_from_slice(&version.to_le_bytes());
        let words = message(&other);
        assert!(words.contains(&format!("expected {VERSION}, found {version}")), "{words}");
    }
}

#[test]
fn headers_that_cannot_be_are_refused() {
    for (name, why) in [
        ("", "relative path"),
        ("/etc/passwd", "relative path"),
        ("../up", "relative path"),
        ("a/../../b", "relative path"),
        ("a//b", "relative path"),
        ("a/.", "relative path"),
        ("a/", "relative path"),
        ("a\\b", "backslash"),
        ("a\0b", "control character"),
        ("a\u{1b}[2J", "control character"),
        ("series", "two files"),
        ("series/image-00001.png", "a file and of a folder"),
    ] {
        let words = refusal(|c| c.files[1].name = name.into());
        assert!(words.contains("files") && words.contains(why), "{name:?}: {words}");
    }
    let parts = |n: usize| vec!["n".repeat(n); 2].join("/");
    let (longest, long, longer) = (parts(255), parts(256), "n/".repeat(2048) + "n");
    for (name, why) in [(longest, None), (long, Some("at most 255")), (longer, Some("name of a file"))] {
        let mut long = container();
        long.files[1].name = name;
        let parsed = Container::parse(&long.to_bytes().unwrap());
        assert_eq!(parsed.is_ok(), why.is_none());
        assert!(why.is_none_or(|why| parsed.unwrap_err().to_string().contains(why)));
    }
    type Damage = fn(&mut Container);
    let cases: [(Damage, &str); 20] = [
        (|c| c.files.clear(), "there are no files"),
        (|c| c.files[0].kind = FileKind::Idx { images: 3 }, "said to hold 9 images, but there are 8"),
        (|c| (c.files, c.segments) = (Vec::new(), Vec::new()), "there are no files"),
        (|c| c.files[3].kind = FileKind::Series { images: 0 }, "folder of no images"),
        (|c| c.shape.channels = 3, "IDX file, which cannot hold images of 3 channels"),
        (|c| c.shape.channels = 2, "cannot hold images of 2 channels"),
        (|c| c.shape.height = 0, "height: found 0, expected 1 to 4096"),
        (|c| c.shape = ImageShape { channels: 16, height: 4096, width: 4096 }, "at most 16777216 numbers"),
        (|c| c.levels = 257, "levels: found 257, expected 2 to 256"),
        (|c| c.steps = Steps::Uniform(0), "steps: found 0, expected 1 to 65536"),
        (|c| c.steps = Steps::Listed(vec![0.0, f64::NAN]), "gamma: found NaN"),
        (|c| c.net_bits = f64::INFINITY, "net bits: found inf"),
        (|c| c.note = "two\nlines".into(), "no control characters"),
        (
            |c| c.files[4].attributes = Some(Attributes { mode: 0o1000, modified: 0 }),
            "permissions of a file: found 513",
        ),
        (|c| c.files[5].kind = tiled(1 << 20 | 1, 1), "width of a file: found 1048577"),
        (|c| c.files[5].kind = tiled(1, 0), "height of a file: found 0"),
        (
            |c| c.files[5].kind = FileKind::Tiled { channels: 1, width: 1, height: 1, margin: 255, alpha: None },
            "level of a file's margins: found 255",
        ),
        (|c| c.files[5].kind = tiled(5, 5), "said to hold 10 images, but there are 8"),
        (
            |c| c.files[5].kind = FileKind::Tiled { channels: 2, width: 1, height: 1, margin: 0, alpha: None },
            "cannot be cut into tiles",
        ),
        (|c| c.shape = ImageShape { channels: 1, height: 256, width: 256 }, "4 images of 1x256x256 in 3 words"),
    ];
    for (change, why) in cases {
        let words = refusal(change);
        assert!(words.contains(why) && words.contains("byte "), "{words}");
    }
}

#[test]
fn numbers_have_one_form() {
    // The levels are one byte, after three fingerprints' worth of bytes, three texts and three sides.
    let (header, streams) = parts(&container().to_bytes().unwrap());
    let at = 2 * 16 + (1 + 23) + (1 + 9) + (1 + 6) + 3;
    assert_eq!(header[at], LEVELS as u8);
    let with = |digits: &[u8]| assemble(&[&header[..at], digits, &header[at + 1..]].concat(), &streams);
    assert_eq!(Container::parse(&with(&[LEVELS as u8])).unwrap(), container());
    let largest = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1];
    for (digits, why) in [
        (&[0x80 | LEVELS as u8, 0][..], "shortest form"),
        (&[0xff; 10][..], "more than 64 bits"),
        (&largest[..], "found 18446744073709551615"),
    ] {
        let words = Container::parse(&with(digits)).unwrap_err().to_string();
        assert!(words.contains("levels") && words.contains(why), "{words}");
    }
}

/// Random numbers one after another.
struct Random {
    philox: Philox,
    drawn: u32,
}

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.drawn += 1;
        self.philox.block(0, self.drawn)[0] as usize % n
    }
}

/// Headers and streams with a few bytes changed, put in, and left out, under a right checksum, so that everything
/// behind it is reached. Whatever is taken is written the same again.
#[test]
fn mutated_files_never_panic() {
    let listed = Container { steps: Steps::Listed(vec![-8.0, -1.5, 5.0]), ..container() };
    let originals = [container(), listed].map(|c| parts(&c.to_bytes().unwrap()));
    let interesting = [0u8, 1, 2, 0x7f, 0x80, 0xff];
    let mut random = Random { philox: Philox::new(1, 0), drawn: 0 };
    let mut taken = 0;
    for _ in 0..120_000 {
        let (mut header, mut streams) = originals[random.below(2)].clone();
        for _ in 0..=random.below(3) {
            let part = if random.below(8) == 0 { &mut streams } else { &mut header };
            let at = random.below(part.len());
            match random.below(5) {
                0 => part[at] = random.below(256) as u8,
                1 => part[at] = interesting[random.below(interesting.len())],
                2 => part[at] ^= 1 << random.below(8),
                3 => part.insert(at, interesting[random.below(interesting.len())]),
                _ if part.len() > 1 => {
                    part.remove(at);
                }
                _ => {}
            }
        }
        let mut bytes = assemble(&header, &streams);
        if random.below(16) == 0 {
            bytes.truncate(random.below(bytes.len()));
        }
        match Container::parse(&bytes) {
            Ok(container) => {
                taken += 1;
                assert_eq!(container.to_bytes().unwrap(), bytes);
            }
            Err(error) => assert!(!error.to_string().is_empty()),
        }
    }
    assert!(taken > 1000, "{taken} files were taken: the checks behind the checksum are not reached");
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(
        head in prop::collection::vec(any::<u8>(), 0..300), tail in prop::collection::vec(any::<u8>(), 0..50),
    ) {
        for bytes in [head.clone(), [&MAGIC[..], &head].concat(), assemble(&head, &tail)] {
            prop_assert!(Container::parse(&bytes).is_err());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]
    #[test]
    fn images_come_back(seed: u64, n in 1usize..9, steps in 1usize..5, restart_every in 0usize..4, bins in 1u16..5) {
        let (model, images) = (model(seed), images(seed, n));
        let options = CodecOptions { bins_per_sigma: bins, seed, ..options(steps, restart_every) };
        let (container, report) = coded_with_report(&model, &images, &options);
        let bytes = container.to_bytes().unwrap();
        prop_assert_eq!(report.file_bits, 8 * bytes.len() as u64);
        let stored = container.stream_bits() as f64;
        let claimed = report.net_bits + report.initial_bits;
        let segments = container.segments.len() as f64;
        prop_assert!(stored >= claimed - 1e-6 && stored < claimed + 33.0 * segments, "{stored} {claimed}");
        let read = Container::parse(&bytes).unwrap();
        prop_assert_eq!(&read, &container);
        prop_assert_eq!(decoded(&model, &read).unwrap(), images.bytes());
    }
}

#[test]
fn any_range_is_the_same_images() {
    let (model, images, device) = (model(2), images(2, 7), Device::flex());
    for restart_every in [0, 2, 3] {
        let container = coded(&model, &images, &options(3, restart_every));
        assert_eq!(container.segments.len(), if restart_every == 0 { 1 } else { 7usize.div_ceil(restart_every) });
        for first in 0..=7 {
            for count in 0..=7 - first {
                let range = decompress_range(&model, &container, first, count, &device, &mut unwatched).unwrap();
                assert_eq!(range, images.bytes()[first * SHAPE.dims()..(first + count) * SHAPE.dims()]);
            }
        }
        for (first, count) in [(0, 8), (7, 1), (8, 0), (usize::MAX, 2)] {
            let error = decompress_range(&model, &container, first, count, &device, &mut unwatched).unwrap_err();
            assert_eq!(error, CodecError::Range { first, count, images: 7 });
        }
    }
}

#[test]
fn a_range_decodes_its_own_segments_only() {
    let (model, images, device) = (model(2), images(2, 6), Device::flex());
    let mut container = coded(&model, &images, &options(3, 2));
    container.segments[0].segment.words[0] ^= 1;
    assert!(decoded(&model, &container).is_err());
    let mut heard = Vec::new();
    let range = decompress_range(&model, &container, 3, 2, &device, &mut |done, total| {
        heard.push((done, total));
        ControlFlow::Continue(())
    });
    assert_eq!(range.unwrap(), images.bytes()[3 * 16..5 * 16]);
    assert!(heard.is_sorted());
    assert_eq!(heard.last(), Some(&(12, 12)), "two segments of two images in three steps");
}

#[test]
fn another_model_or_machine_is_refused() {
    let images = images(3, 2);
    let container = coded(&model(3), &images, &options(2, 0));
    let error = decoded(&model(4), &container).unwrap_err();
    assert!(matches!(error, CodecError::OtherModel { .. }));
    let words = error.to_string();
    assert!(words.contains("tiny") && words.contains("--model") && words.contains("--checkpoint"), "{words}");

    let elsewhere = Container { arithmetic: [0; 16], machine: "z80".into(), ..container.clone() };
    let error = decoded(&model(3), &elsewhere).unwrap_err();
    assert!(matches!(error, CodecError::OtherArithmetic { .. }));
    let words = error.to_string();
    assert!(words.contains("z80") && words.contains(&container.machine) && words.contains("--device"), "{words}");
}

#[test]
fn forged_files_give_errors_and_no_pixels() {
    let (model, images) = (model(5), images(5, 4));
    let whole = coded(&model, &images, &options(2, 2));
    let error = |change: &dyn Fn(&mut Container)| {
        let mut forged = whole.clone();
        change(&mut forged);
        // With all of its checksums right, as far as they can be.
        decoded(&model, &Container::parse(&forged.to_bytes().unwrap()).unwrap()).unwrap_err()
    };
    let wrong = error(&|c| c.segments[1].pixels[0] ^= 1);
    assert_eq!(wrong, CodecError::PixelChecksum { segment: 1 });
    for word in 0..whole.segments[0].segment.words.len() {
        let wrong = error(&|c| c.segments[0].segment.words[word] ^= 1 << (word % 32));
        assert!(matches!(wrong, CodecError::Stream { .. } | CodecError::PixelChecksum { segment: 0 }), "{wrong}");
    }
    assert!(matches!(error(&|c| c.segments[0].segment.words.truncate(1)), CodecError::Stream { .. }));
    assert!(matches!(error(&|c| c.segments[0].segment.state = 0), CodecError::Stream { .. }));
    assert!(matches!(error(&|c| c.segments.swap(0, 1)), CodecError::Stream { .. }));
    let more = error(&|c| {
        c.segments[1].segment.images += 1;
        c.files[0].kind = FileKind::Idx { images: 5 };
    });
    assert!(matches!(more, CodecError::Stream { .. }), "{more}");
    // What decides a probability is part of the arithmetic's fingerprint.
    let changes: [fn(&mut Container); 4] =
        [|c| c.steps = Steps::Uniform(3), |c| c.bins_per_sigma = 3, |c| c.batch_size = 2, |c| c.seed = 1];
    for change in changes {
        let wrong = error(&change);
        assert!(matches!(wrong, CodecError::OtherArithmetic { .. }), "{wrong}");
    }
    let wrong = error(&|c| c.steps = Steps::Listed(vec![5.0, -8.0]));
    assert!(wrong.to_string().contains("must increase"), "{wrong}");
    // A shape is not believed: another could ask the network for all memory there is.
    for [channels, height, width] in [[1, 2, 8], [3, 4, 4], [1, 64, 64]] {
        let wrong = error(&|c| {
            c.shape = ImageShape { channels, height, width };
            c.files = (0..4).map(|i| png(&i.to_string())).collect();
        });
        assert!(matches!(&wrong, CodecError::Images { reason } if reason.contains("1x4x4")), "{wrong}");
    }
    let wrong = error(&|c| c.levels = 16);
    assert!(matches!(wrong, CodecError::Plan { .. }), "{wrong}");
}

#[test]
fn what_cannot_be_coded_is_said() {
    let (model, two) = (model(6), images(6, 2));
    let error = |images: &ImageDataset, files: Vec<FileEntry>, options: CodecOptions| {
        compress(&model, images, files, &options, &Device::flex(), &mut unwatched).unwrap_err()
    };
    let wrong = error(&two, vec![idx("a", 3)], options(2, 0));
    assert!(matches!(&wrong, CodecError::Images { reason } if reason.contains("3 images, but there are 2")), "{wrong}");
    let wrong = error(&two, vec![png("a"), png("a")], options(2, 0));
    assert!(matches!(&wrong, CodecError::Images { reason } if reason.contains("two files")), "{wrong}");
    let wrong = error(&two.subset(0..0).unwrap(), vec![], options(2, 0));
    assert!(matches!(&wrong, CodecError::Images { reason } if reason.contains("no images")), "{wrong}");
    // The last panicked: there is no memory for so many times.
    for steps in [0, 100_000, usize::MAX] {
        let wrong = error(&two, vec![idx("a", 2)], options(steps, 0));
        assert!(matches!(wrong, CodecError::Plan { .. }), "{wrong}");
    }
    let other = ImageDataset::new("bytes", SHAPE, 256, vec![0; 16], None).unwrap();
    let wrong = error(&other, vec![idx("a", 1)], options(2, 0));
    assert!(matches!(&wrong, CodecError::Plan { reason } if reason.contains("256 levels")), "{wrong}");
}

#[test]
fn steps_can_be_chosen() {
    let (model, images, device) = (model(7), images(7, 3), Device::flex());
    let steps = choose_steps(&model, &images, 12, 3, &device, &mut unwatched).unwrap();
    assert!(matches!(&steps, Steps::Listed(gammas) if gammas.len() == 4 && gammas.is_sorted()));
    let container = coded(&model, &images, &CodecOptions { steps, ..options(0, 0) });
    assert_eq!(container.steps.count(), 3);
    assert_eq!(decoded(&model, &container).unwrap(), images.bytes());
}

#[test]
fn notes_are_cut_to_a_line() {
    let note = format!("two\nlines {}", "ä".repeat(300));
    let container = coded(&model(8), &images(8, 1), &CodecOptions { note, ..options(1, 0) });
    assert!(container.note.starts_with("twolines ä") && container.note.len() <= 256);
    assert_eq!(Container::parse(&container.to_bytes().unwrap()).unwrap(), container);
}

/// A picture larger than the model's images, a tiny one, and files that are none.
#[test]
fn files_of_any_kind_come_back() {
    let model = model(1);
    let tiles = |width: u32, height: u32, seed: u8| -> Input {
        let entry = FileEntry::new(
            format!("{width}x{height}.png"),
            FileKind::Tiled { channels: 1, width, height, margin: 3, alpha: None },
        );
        let pixels: Vec<u8> = (0..width * height).map(|i| (i as u8 ^ seed) % LEVELS as u8).collect();
        let images = entry.tiling(SHAPE).unwrap().cut(&pixels, 3);
        Input {
            entry,
            images,
            original: Some(
                vec![seed; 100_000].into_iter().zip(0u32..).map(|(a, b)| a ^ (b.wrapping_mul(b) >> 3) as u8).collect(),
            ),
        }
    };
    let stored = |name: &str, bytes: &[u8]| Input {
        entry: FileEntry::new(name, FileKind::Stored(Packed::new(bytes.to_vec()))),
        images: Vec::new(),
        original: None,
    };
    let own = images(3, 2);
    let exact = Input { entry: idx("idx", 2), images: own.bytes().to_vec(), original: None };
    let inputs = vec![tiles(9, 5, 1), stored("empty", b""), exact, stored("text", b"words"), tiles(1, 1, 2)];
    let (container, report) = compress_files(&model, &inputs, &options(4, 0), &Device::flex(), &mut unwatched).unwrap();
    // The picture is cut into 3 x 2 tiles; each has streams of its own, and so have the two images of the model's shape.
    assert_eq!((report.images, report.stored, container.segments.len()), (6 + 2 + 1, 2, 3));
    let container = Container::parse(&container.to_bytes().unwrap()).unwrap();
    let all: Vec<u8> = inputs.iter().flat_map(|input| input.images.clone()).collect();
    assert_eq!(decoded(&model, &container).unwrap(), all);
    // The last tile of all alone.
    let last = decompress_range(&model, &container, 8, 1, &Device::flex(), &mut unwatched).unwrap();
    assert_eq!(last, inputs[4].images);
}

/// Rates are per number that is coded, whoever says them.
#[test]
fn segments_may_begin_inside_a_picture_and_margins_do_not_count() {
    let entry = FileEntry::new("a.png", FileKind::Tiled { channels: 3, width: 9, height: 5, margin: 2, alpha: None });
    let pixels: Vec<u8> = (0..3 * 45u8).map(|i| i % LEVELS as u8).collect();
    let images = entry.tiling(SHAPE).unwrap().cut(&pixels, 2);
    let input = Input { entry: entry.clone(), images: images.clone(), original: None };
    let options = CodecOptions { restart_every: 4, ..options(4, 0) };
    let (container, report) = compress_files(&model(1), &[input], &options, &Device::flex(), &mut unwatched).unwrap();
    // Three planes of 3 x 2 tiles, in streams of four.
    assert_eq!((report.images, container.segments.len(), container.coded_numbers()), (18, 5, 135));
    assert!((report.net_bpd - container.net_bits / 135.0).abs() < 1e-12);
    let container = Container::parse(&container.to_bytes().unwrap()).unwrap();
    assert_eq!(decoded(&model(1), &container).unwrap(), images);
    let part = decompress_range(&model(1), &container, 5, 3, &Device::flex(), &mut unwatched).unwrap();
    assert_eq!(part, images[5 * SHAPE.dims()..8 * SHAPE.dims()]);
    assert_eq!(entry.tiling(SHAPE).unwrap().join(&images), pixels);
}

/// A margin of another level would come back as another image.
#[test]
fn margins_of_another_level_are_refused() {
    let entry =
        |margin| FileEntry::new("a.png", FileKind::Tiled { channels: 1, width: 5, height: 4, margin, alpha: None });
    let code = |entry: FileEntry, level| {
        let images = entry.tiling(SHAPE).unwrap().cut(&[1; 20], level);
        let input = Input { entry, images, original: None };
        compress_files(&model(1), &[input], &options(4, 0), &Device::flex(), &mut unwatched)
    };
    assert!(code(entry(2), 2).is_ok());
    let refused = |entry, level| code(entry, level).unwrap_err().to_string();
    assert!(refused(entry(2), 3).contains("3 in the margin of tile 1, expected 2"));
    assert!(refused(entry(LEVELS as u8), 2).contains("margins of level"));
}

#[test]
fn a_file_that_the_model_codes_badly_is_kept_as_it_is() {
    let model = model(1);
    let own = images(3, 2);
    let original = vec![7; 500];
    let input = Input { entry: idx("idx", 2), images: own.bytes().to_vec(), original: Some(original.clone()) };
    let (container, report) =
        compress_files(&model, &[input], &options(4, 0), &Device::flex(), &mut unwatched).unwrap();
    assert_eq!((report.images, report.stored, container.segments.len()), (0, 1, 0));
    assert_eq!(report.net_bpd, 0.0);
    let FileKind::Stored(packed) = &container.files[0].kind else { panic!("it is coded") };
    assert_eq!(packed.unpack().unwrap(), original);
    assert!(decoded(&model, &container).unwrap().is_empty());
}

/// A network that knows that every image is grey: x = 0.
#[derive(Module, Debug)]
struct Grey {
    ends: [f64; 2],
}

impl ScoreNetwork for Grey {
    fn forward(&self, z: Tensor<4>, time: Tensor<1>, _: &Conditioning, _: Mode) -> Tensor<4> {
        let sigma = |t: f32| {
            let gamma = self.ends[0] + f64::from(t) * (self.ends[1] - self.ends[0]);
            libm::sqrt(1.0 / (1.0 + libm::exp(-gamma))) as f32
        };
        let sigmas: Vec<f32> = time.into_data().iter::<f32>().map(sigma).collect();
        let of_images = Tensor::<1>::from_data(sigmas.as_slice(), &z.device());
        z / of_images.reshape([sigmas.len(), 1, 1, 1])
    }

    fn check_shape(&self, _: ImageShape) -> Result<(), String> {
        Ok(())
    }
}

/// Files of images that take next to nothing were written, and then refused as files that cannot be.
#[test]
fn images_that_take_no_bits_are_kept_or_refused() {
    let (device, ends) = (Device::flex(), [-12.0, 6.0]);
    let schedule = ScheduleConfig::LearnedLinear(Endpoints { gamma_0: ends[0], gamma_1: ends[1] });
    let settings = DiffusionSettings::new(SHAPE, Vocabulary::new(LEVELS).unwrap(), &schedule);
    let model = VariationalDiffusion::new(schedule.init(&device), Grey { ends }, settings);
    let input = |n: usize, original: Option<Vec<u8>>| Input {
        entry: idx("idx", n as u32),
        images: vec![LEVELS as u8 / 2; n * SHAPE.dims()],
        original,
    };
    let run = |input: Input| compress_files(&model, &[input], &options(1, 0), &device, &mut unwatched);
    let words = |n: usize| run(input(n, None)).unwrap().0.segments[0].segment.words.len();
    // The words that the stream started with are left of a hundred images, and no more of two hundred.
    assert!(words(200) <= words(100) + 1, "{} {}", words(200), words(100));
    let too_many = 4096 * (8 + 4 * (words(200) + 20)) / SHAPE.dims();
    let refused = run(input(too_many, None)).unwrap_err();
    assert!(matches!(&refused, CodecError::Images { reason } if reason.contains("0.002 bits")), "{refused}");
    let noise: Vec<u8> = (0..100_000u64).map(|i| (i.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as u8).collect();
    let (container, report) = run(input(too_many, Some(noise))).unwrap();
    assert_eq!((report.images, report.stored), (0, 1));
    assert_eq!(Container::parse(&container.to_bytes().unwrap()).unwrap(), container);
}

/// Nothing has to be decoded, so no model is needed.
#[test]
fn no_images_need_no_model() {
    let container = coded(&model(1), &images(3, 2), &options(2, 0));
    let none = |model| decompress_range(&model, &container, 1, 0, &Device::flex(), &mut unwatched);
    assert!(none(model(2)).unwrap().is_empty());
}

#[test]
fn a_model_that_does_not_know_its_error_has_no_wider_steps() {
    let (model, images) = (model(1), images(3, 2));
    for options in [
        CodecOptions { variance: ReverseVariance::Pixel, ..options(3, 0) },
        CodecOptions { steps: Steps::Placed(3), ..options(3, 0) },
    ] {
        let files = vec![idx("idx", 2)];
        let error = compress(&model, &images, files, &options, &Device::flex(), &mut unwatched).unwrap_err();
        assert!(error.to_string().contains("fit-errors"), "{error}");
    }
}
