//! Lossless compression of images with a trained model: its bound is a code length, and this is the code.
//!
//! # How it works
//! A model of T steps is a chain of latents z_T, …, z_0 above an image x. The sender draws latents from the posterior q
//! and codes them, and x given z_0, with the model p. Drawing takes bits; in *bits-back coding* (Townsend et al. 2019,
//! arXiv 1901.04866) they are taken off the coded stream, so that the receiver, who knows the latents and x in the end,
//! can put them back. What is left is -log p(x, z) + log q(z | x): the bound in T steps (VDM section 4), on average.
//!
//! - *Order.* q is a chain from x upwards, q(z_0|x) q(z_1|z_0) … q(z_T|z_{T-1}). So a latent can be coded as soon as the
//!   next one is drawn (Bit-Swap, Kingma, Abbeel and Ho 2019, arXiv 1905.06845): the stream must hold the bits of about
//!   two latents at the start, not of T + 1.
//! - *Bins.* z_t is a whole number of bins, which are as wide as one step's noise, the smaller standard deviation of the steps
//!   above and below, divided by [`CodecOptions::bins_per_sigma`]. Rounding costs almost nothing: the widths cancel between drawing and coding,
//!   and the masses of whole bins are exact under both. Two bins to a deviation cost less than 0.001 bits per dimension
//!   against far finer ones (in a Gaussian model where both can be computed), and each halving of the width wants two
//!   bits more per dimension to start with.
//! - *Variance.* A model that knows its own error ([`error_model`](crate::diffusion::error_model)) has wider p(z_s|z_t) where
//!   the network is wrong, and says where the steps cost least: with it, few steps code nearly as well as many.
//! - *Coder.* Asymmetric numeral systems on a stack, from `constriction`, with probabilities in 2^-32 and a state of 128
//!   bits: with 64 bits, each symbol would lose 0.002 bits, and there are 2 T + 3 of them a dimension.
//! - *Margins.* Tiles of a larger picture may hang over its edge. What is beyond has one level that both sides know, and takes no bits
//!   ([`tiles`]).
//! - *First bits.* A stream starts on pseudo-random words, as many as are needed. They are not stored, because the
//!   receiver regenerates them, but the bits drawn from them count. A batch draws about two latents of all its numbers before
//!   these leave anything on the stack. So the first batch is a few lines of one image, and batches grow from there.
//!   The receiver has the lines above already, and they take no bits when the rest is coded; the lines below, which it has not,
//!   are filled with the line above them.
//!
//! ```
//! use burn::tensor::Device;
//! use vdm::unwatched;
//! use vdm::codec::{CodecOptions, FileEntry, FileKind, Steps, compress, decompress};
//! use vdm::data::{Split, digits};
//!
//! let (device, images) = (Device::flex(), digits(Split::Test)?.subset(0..3)?);
//! let config = vdm::config::preset("digits").unwrap();
//! let model = config.init(images.shape(), images.vocabulary(), &device);
//!
//! let files = vec![FileEntry::new("digits-idx3-ubyte", FileKind::Idx { images: 3 })];
//! let options = CodecOptions { steps: Steps::Uniform(4), ..Default::default() };
//! let (container, report) = compress(&model, &images, files, &options, &device, &mut unwatched)?;
//! assert!(report.net_bpd > 0.0);
//! assert_eq!(decompress(&model, &container, &device, &mut unwatched)?, images.bytes());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Who can decode whose files
//! Coding works only if both sides compute every probability to the last bit. On the CPU they do, on every machine: a file
//! that was coded by this version of the program on any processor, with any number of threads, can be decoded by it on any
//! other. The codec itself is integer arithmetic and IEEE double precision; the network's sums are in an order that depends
//! on neither threads, batch nor instruction set, and every elementary function is computed here, not by the system's
//! library. `scripts/portable.py` shows it on processors with and without AVX2 and fused multiply-add.
//!
//! Other versions of the program, and other devices than the CPU, may compute other last bits. A file therefore has a
//! fingerprint of what the network gives for fixed inputs, and is refused where that comes out otherwise
//! ([`CodecError::OtherArithmetic`]); every segment has a checksum of its pixels besides, and nothing is returned before all
//! of them agree.

mod chain;
pub mod container;
mod error;
mod fingerprint;
mod gaussian;
mod known;
mod levels;
mod margins;
mod order;
mod overhead;
mod plan;
mod stack;
mod steps;
pub mod tiles;

pub use chain::{Segment, SegmentStats, Told, arithmetic_fingerprint, decode_segment, encode_segment};
pub use container::{Attributes, CodedSegment, Container, FileEntry, FileKind, Packed};
pub use error::CodecError;
pub use fingerprint::model_fingerprint;
pub use known::MarginOf;
pub use overhead::{Overhead, overhead};
pub use plan::Plan;
pub use steps::{Steps, cheapest_gammas, choose_steps};

use crate::VariationalDiffusion;
use crate::data::ImageDataset;
use crate::diffusion::{ReverseVariance, Vocabulary};
use crate::math::hex;
use crate::nn::ScoreNetwork;
use crate::progress::{Progress, tell};
use crate::shape::ImageShape;
use crate::stats::standard_error;
use burn::tensor::Device;
use container::{SEGMENT_BYTES, check_files, is_possible};
use fingerprint::{machine, pixel_hash};
use margins::Margins;
use serde::Serialize;
use std::ops::Range;

/// How to code.
#[derive(Clone, Debug, PartialEq)]
pub struct CodecOptions {
    /// The steps of the chain: more of them code better, and take longer in proportion.
    pub steps: Steps,
    /// The width of a step: [`ReverseVariance::Posterior`] for a model that does not know its own error.
    pub variance: ReverseVariance,
    /// Bins of a latent per standard deviation of a step.
    pub bins_per_sigma: u16,
    /// Most images that go through the network together, when decoding too.
    pub batch_size: u16,
    /// Images of a segment, each of which can be decoded without the others; 0 for one segment.
    pub restart_every: usize,
    /// Seed of the bits that segments start with.
    pub seed: u64,
    /// A word on the model, kept in the file; at most 256 bytes.
    pub note: String,
    /// A model file to put into the container, so that nothing else is needed to read it.
    pub embedded_model: Option<Vec<u8>>,
}

impl Default for CodecOptions {
    /// 250 steps evenly spaced in time with the posterior's variance, two bins, 16 images at a time, one segment.
    fn default() -> Self {
        Self {
            steps: Steps::Uniform(250),
            variance: ReverseVariance::Posterior,
            bins_per_sigma: 2,
            batch_size: 16,
            restart_every: 0,
            seed: 0,
            note: String::new(),
            embedded_model: None,
        }
    }
}

/// How well images were coded.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CompressReport {
    /// Images that were coded: of a file cut into tiles, its tiles. Dimensions, below, are the numbers that were coded: without
    /// the margins of tiles.
    pub images: usize,
    /// Files that are kept as they are, because their images would have taken more.
    pub stored: usize,
    /// Numbers of an image.
    pub dims: usize,
    /// Steps T.
    pub steps: usize,
    /// Bits of the whole file.
    pub file_bits: u64,
    /// Bits that the images added to their streams.
    pub net_bits: f64,
    /// Bits that the streams started with.
    pub initial_bits: f64,
    /// `net_bits` per dimension.
    pub net_bpd: f64,
    /// Standard error of `net_bpd`: over images, for the distribution that they come from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub net_bpd_stderr: Option<f64>,
    /// `net_bits` and `initial_bits` per dimension.
    pub stream_bpd: f64,
    /// `file_bits` per dimension.
    pub file_bpd: f64,
    /// What the coder itself loses per dimension: `net_bits` less the information of all symbols.
    pub coder_loss_bpd: f64,
    /// Net bits per dimension, image by image.
    #[serde(skip)]
    pub per_image_bpd: Vec<f64>,
}

/// A file to code.
#[derive(Clone, Debug)]
pub struct Input {
    /// What comes back.
    pub entry: FileEntry,
    /// Its images, one after another, channels first: as many as [`FileEntry::images`] says.
    pub images: Vec<u8>,
    /// The file itself, which is kept in place of its images where that takes fewer bytes; `None` to keep the images anyway.
    pub original: Option<Vec<u8>>,
}

/// Codes `images`, which come back as `files`.
///
/// `progress` is told the network evaluations of single images done and to do.
///
/// # Errors
/// See [`CodecError`]; [`CodecError::Images`] if the files do not hold these images.
pub fn compress<N: ScoreNetwork>(
    model: &VariationalDiffusion<N>,
    images: &ImageDataset,
    files: Vec<FileEntry>,
    options: &CodecOptions,
    device: &Device,
    progress: &mut Progress,
) -> Result<(Container, CompressReport), CodecError> {
    let (shape, n) = (images.shape(), images.len());
    if n == 0 {
        return Err(CodecError::Images { reason: "there are no images".into() });
    }
    check_files(&files, shape, n as u64).map_err(|reason| CodecError::Images { reason })?;
    let mut rest = images.bytes();
    let input = |entry: FileEntry| {
        let (own, after) = rest.split_at(entry.images(shape) * shape.dims());
        rest = after;
        Input { entry, images: own.to_vec(), original: None }
    };
    let inputs: Vec<Input> = files.into_iter().map(input).collect();
    code(model, &inputs, (shape, images.levels()), options, device, progress)
}

/// Codes files of images of any size: those of the model's own shape together, and those cut into tiles each in streams of
/// its own, so that they can be decoded, or kept as they are, one by one.
///
/// `progress` is told the network evaluations of single images done and to do.
///
/// # Errors
/// See [`CodecError`]; [`CodecError::Images`] if the files do not hold these images.
pub fn compress_files<N: ScoreNetwork>(
    model: &VariationalDiffusion<N>,
    inputs: &[Input],
    options: &CodecOptions,
    device: &Device,
    progress: &mut Progress,
) -> Result<(Container, CompressReport), CodecError> {
    let form = (model.shape(), model.settings().vocabulary.levels());
    code(model, inputs, form, options, device, progress)
}

/// [`compress_files`], of images of this shape and so many levels.
fn code<N: ScoreNetwork>(
    model: &VariationalDiffusion<N>,
    inputs: &[Input],
    (shape, levels): (ImageShape, usize),
    options: &CodecOptions,
    device: &Device,
    progress: &mut Progress,
) -> Result<(Container, CompressReport), CodecError> {
    let dims = shape.dims();
    let wrong = |reason: String| CodecError::Images { reason };
    for Input { entry, images, .. } in inputs {
        let (found, expected) = (images.len(), entry.images(shape).saturating_mul(dims));
        if found != expected {
            return Err(wrong(format!("{:?} has {found} numbers, expected {expected}", entry.name)));
        }
        Margins::check(entry, images, shape, levels).map_err(wrong)?;
    }
    let n: usize = inputs.iter().map(|input| input.images.len() / dims.max(1)).sum();
    let files: Vec<FileEntry> = inputs.iter().map(|input| input.entry.clone()).collect();
    check_files(&files, shape, n as u64).map_err(wrong)?;
    let mut container = Container {
        model: model_fingerprint(model),
        arithmetic: [0; 16],
        note: container::line(&options.note),
        program: format!("vdm {}", env!("CARGO_PKG_VERSION")),
        machine: machine(device),
        shape,
        levels,
        bins_per_sigma: options.bins_per_sigma,
        batch_size: options.batch_size,
        seed: options.seed,
        steps: options.steps.clone(),
        variance: options.variance,
        net_bits: 0.0,
        initial_bits: 0.0,
        files,
        embedded_model: options.embedded_model.clone(),
        segments: Vec::new(),
    };
    let plan = plan_of(&container, model)?;
    let model = &model.with_reverse_variance(options.variance)?;
    container.arithmetic = arithmetic_fingerprint(model, &plan, device)?;

    let per_segment = if options.restart_every == 0 { n.max(1) } else { options.restart_every };
    let (mut done, total) = (0, n * plan.steps());
    let mut heard = |images: usize| {
        done += images;
        tell(progress, done, total)
    };
    let (mut ideal_bits, mut per_image) = (0.0, Vec::with_capacity(n));
    for range in groups(inputs) {
        let group = &inputs[range.clone()];
        let bytes: Vec<u8> = group.iter().flat_map(|input| input.images.iter().copied()).collect();
        let margins = Margins::new(&container.files[range.clone()], shape);
        let (mut first, mut of_images, mut coded) = (0, Vec::new(), Vec::new());
        for bytes in bytes.chunks(per_segment.saturating_mul(dims)) {
            let plan = plan.of_segment(container.segments.len() + coded.len());
            let margin_of = |n: usize| margins.of(first + n);
            let (segment, stats) = encode_segment(model, &plan, bytes, &margin_of, device, &mut heard)?;
            of_images.extend((0..segment.images as usize).map(|n| margin_of(n).map_or(dims, |margin| margin.coded())));
            first += segment.images as usize;
            coded.push((CodedSegment { segment, pixels: pixel_hash(bytes) }, stats));
        }
        let writable = coded.iter().all(|(c, _)| is_possible(c.segment.images, c.segment.words.len(), shape));
        let kept = kept(group, &coded, writable);
        if kept.is_none() && !writable {
            let reason = "the images take less than 0.002 bits for each number of their tiles, which no file may claim; keep \
                          them as they are, or start a stream more often";
            return Err(wrong(reason.into()));
        }
        if let Some(kept) = kept {
            for (file, packed) in container.files[range].iter_mut().zip(kept) {
                if let Some(packed) = packed {
                    file.kind = FileKind::Stored(packed);
                }
            }
            continue;
        }
        let mut of_images = of_images.into_iter();
        for (segment, stats) in coded {
            container.net_bits += stats.net_bits;
            container.initial_bits += stats.initial_bits;
            ideal_bits += stats.ideal_bits;
            per_image.extend(stats.per_image_bits.into_iter().zip(&mut of_images));
            container.segments.push(segment);
        }
    }
    // Of no image, all rates are 0.
    let numbers = container.coded_numbers().max(1) as f64;
    let file_bits = 8 * container.to_bytes()?.len() as u64;
    let stored = container.files.iter().filter(|file| matches!(file.kind, FileKind::Stored(_))).count();
    let report = CompressReport {
        images: container.images(),
        stored,
        dims,
        steps: plan.steps(),
        file_bits,
        net_bits: container.net_bits,
        initial_bits: container.initial_bits,
        net_bpd: container.net_bits / numbers,
        net_bpd_stderr: ratio_error(&per_image),
        stream_bpd: (container.net_bits + container.initial_bits) / numbers,
        file_bpd: file_bits as f64 / numbers,
        coder_loss_bpd: (container.net_bits - ideal_bits) / numbers,
        per_image_bpd: per_image.into_iter().map(|(bits, numbers)| bits / numbers as f64).collect(),
    };
    Ok((container, report))
}

/// The standard error of all bits over all numbers, given those of each image: of a ratio of sums, in which an image counts by its
/// numbers. `None` for fewer than two images.
fn ratio_error(of_images: &[(f64, usize)]) -> Option<f64> {
    let numbers: usize = of_images.iter().map(|(_, numbers)| numbers).sum();
    let ratio = of_images.iter().map(|(bits, _)| bits).sum::<f64>() / numbers as f64;
    let above: Vec<f64> = of_images.iter().map(|(bits, numbers)| bits - ratio * *numbers as f64).collect();
    standard_error(&above).map(|error| error * of_images.len() as f64 / numbers as f64)
}

/// Which files share their streams: those that are cut into tiles have some of their own.
fn groups(inputs: &[Input]) -> Vec<Range<usize>> {
    let mut groups: Vec<Range<usize>> = Vec::new();
    let mut open = false;
    for (i, input) in inputs.iter().enumerate() {
        let alone = matches!(input.entry.kind, FileKind::Tiled { .. });
        match groups.last_mut() {
            Some(last) if open && !alone => last.end = i + 1,
            _ => groups.push(i..i + 1),
        }
        open = !alone;
    }
    groups
}

/// The originals of a group, packed, if all that have images are there, and they are smaller than the coded images or those
/// are not `writable`.
fn kept(group: &[Input], coded: &[(CodedSegment, SegmentStats)], writable: bool) -> Option<Vec<Option<Packed>>> {
    let pack = |input: &Input| match (&input.original, input.images.is_empty()) {
        (_, true) => Some(None),
        (Some(original), false) => Some(Some(Packed::new(original.clone()))),
        (None, false) => None,
    };
    let kept: Vec<Option<Packed>> = group.iter().map(pack).collect::<Option<_>>()?;
    let kept_bytes: usize = kept.iter().flatten().map(Packed::packed_size).sum();
    let alpha = |input: &Input| match &input.entry.kind {
        FileKind::Tiled { alpha: Some(alpha), .. } => alpha.packed_size(),
        _ => 0,
    };
    let coded_bytes = coded.iter().map(|(coded, _)| SEGMENT_BYTES + 4 * coded.segment.words.len()).sum::<usize>()
        + group.iter().map(alpha).sum::<usize>();
    (!coded.is_empty() && (kept_bytes < coded_bytes || !writable)).then_some(kept)
}

/// The bytes of all images of a file, one after another.
///
/// See [`decompress_range`].
///
/// # Errors
/// See [`CodecError`].
pub fn decompress<N: ScoreNetwork>(
    model: &VariationalDiffusion<N>,
    container: &Container,
    device: &Device,
    progress: &mut Progress,
) -> Result<Vec<u8>, CodecError> {
    decompress_range(model, container, 0, container.images(), device, progress)
}

/// The bytes of the images number `first .. first + count`. Only the segments that hold them are decoded; no image is
/// returned unless model, arithmetic and the checksums of all their pixels are right.
///
/// # Errors
/// See [`CodecError`].
pub fn decompress_range<N: ScoreNetwork>(
    model: &VariationalDiffusion<N>,
    container: &Container,
    first: usize,
    count: usize,
    device: &Device,
    progress: &mut Progress,
) -> Result<Vec<u8>, CodecError> {
    let images = container.images();
    let Some(end) = first.checked_add(count).filter(|&end| end <= images) else {
        return Err(CodecError::Range { first, count, images });
    };
    if count == 0 {
        return Ok(Vec::new());
    }
    let shape = model.shape();
    if container.shape != shape {
        let reason = format!("the file holds images of {}, the model is for images of {shape}", container.shape);
        return Err(CodecError::Images { reason });
    }
    let found = model_fingerprint(model);
    if found != container.model {
        return Err(CodecError::OtherModel {
            note: container.note.clone(),
            expected: hex(&container.model),
            found: hex(&found),
        });
    }
    let plan = plan_of(container, model)?;
    let model = &model.with_reverse_variance(container.variance)?;
    let found = arithmetic_fingerprint(model, &plan, device)?;
    if found != container.arithmetic {
        return Err(CodecError::OtherArithmetic {
            expected: hex(&container.arithmetic),
            found: hex(&found),
            written: format!("{} on {}", container.program, container.machine),
            here: format!("vdm {} on {}", env!("CARGO_PKG_VERSION"), machine(device)),
        });
    }

    // The segments that overlap the range, with the number of their first image.
    let mut start = 0;
    let mut needed = Vec::new();
    for (number, coded) in container.segments.iter().enumerate() {
        let after = start + coded.segment.images as usize;
        if start < end && after > first {
            needed.push((number, start, coded));
        }
        start = after;
    }
    let margins = Margins::new(&container.files, shape);
    let total = plan.steps() * needed.iter().map(|(_, _, coded)| coded.segment.images as usize).sum::<usize>();
    let (dims, mut done, mut out) = (container.shape.dims(), 0, Vec::new());
    for (number, start, coded) in needed {
        let mut heard = |images: usize| {
            done += images;
            tell(progress, done, total)
        };
        let margin_of = |n: usize| margins.of(start + n);
        let plan = plan.of_segment(number);
        let bytes = decode_segment(model, &plan, &coded.segment, &margin_of, device, &mut heard)?;
        if pixel_hash(&bytes) != coded.pixels {
            return Err(CodecError::PixelChecksum { segment: number });
        }
        let wanted = first.saturating_sub(start) * dims..(end - start).min(coded.segment.images as usize) * dims;
        out.extend_from_slice(&bytes[wanted]);
    }
    Ok(out)
}

/// The plan that a container describes, for this model.
fn plan_of<N: ScoreNetwork>(container: &Container, model: &VariationalDiffusion<N>) -> Result<Plan, CodecError> {
    let gammas = container.steps.gammas(model, container.variance)?;
    let levels = container.levels;
    let vocabulary = Vocabulary::new(levels)
        .ok_or_else(|| CodecError::Plan { reason: format!("{levels} levels, expected 2 to 256") })?;
    let plan = Plan {
        gammas,
        bins_per_sigma: container.bins_per_sigma,
        batch_size: container.batch_size,
        seed: container.seed,
        shape: container.shape,
        vocabulary,
    };
    plan.validate()?;
    model.network.check_shape(plan.shape).map_err(|reason| CodecError::Plan { reason })?;
    Ok(plan)
}
