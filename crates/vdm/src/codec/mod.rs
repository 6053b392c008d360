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
//! - *Bins.* z_t is a whole number of bins, which are as wide as the standard deviation of p(z_s|z_t), one step's noise,
//!   over [`CodecOptions::bins_per_sigma`]. Rounding hardly costs anything: the widths cancel between drawing and coding,
//!   and the masses of whole bins are exact under both. Two bins to a deviation cost less than 0.001 bits per dimension
//!   against far finer ones (in a Gaussian model where both can be computed), and each halving of the width wants two
//!   bits more per dimension to start with.
//! - *Coder.* Asymmetric numeral systems on a stack, from `constriction`, with probabilities in 2^-32 and a state of 128
//!   bits: with 64 bits, each symbol would lose 0.002 bits, and there are 2 T + 3 of them a dimension.
//! - *First bits.* A stream starts on pseudo-random words, as many as it takes; since the receiver can make them too,
//!   they are not stored, but what was drawn with them has to be paid. To need few, the first batches are small: a
//!   batch draws about two latents of all its images before they leave anything.
//!
//! # Who can decode whose files
//! Coding works only if both sides compute every probability to the last bit. Everything but the network is integer
//! arithmetic, and IEEE double precision with its own exponential function, the same everywhere (but for the points
//! of the schedule, which may come from the system's); the network's sums
//! depend on neither the number of threads nor the images that go through it together. They do depend on the version of
//! this program, on the instruction set (AVX2 or not), and possibly on the sizes of the caches by which the matrix
//! product cuts its work. A file therefore has a fingerprint of what the network gives for fixed inputs, and is refused
//! where that comes out otherwise ([`CodecError::OtherArithmetic`]); every segment has a checksum of its pixels besides,
//! and nothing is returned before all of them agree.

mod chain;
pub mod container;
mod error;
mod gaussian;
mod levels;
mod overhead;
mod plan;
mod stack;

pub use chain::{Segment, SegmentStats, arithmetic_fingerprint, decode_segment, encode_segment};
pub use container::{CodedSegment, Container, FileEntry, FileKind, Steps};
pub use error::CodecError;
pub use overhead::{Overhead, overhead};
pub use plan::{Plan, cheapest_gammas};

use crate::data::{ImageDataset, ImageShape};
use crate::eval::{batch_tensor, standard_error};
use crate::nn::{Conditioning, Mode, ScoreNetwork};
use crate::schedule::NoiseSchedule;
use crate::{Noise, VariationalDiffusion};
use burn::tensor::{Device, Tensor};
use container::check_files;
use plan::first_bytes;
use serde::Serialize;
use sha2::{Digest, Sha256};
use vdm_kernels::rng::Philox;

/// How to code.
#[derive(Clone, Debug, PartialEq)]
pub struct CodecOptions {
    /// The steps of the chain: more of them code better, and take longer in proportion.
    pub steps: Steps,
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
}

impl Default for CodecOptions {
    /// 250 steps evenly spaced in time, two bins, 16 images at a time, one segment.
    fn default() -> Self {
        Self {
            steps: Steps::Uniform(250),
            bins_per_sigma: 2,
            batch_size: 16,
            restart_every: 0,
            seed: 0,
            note: String::new(),
        }
    }
}

/// How well images were coded.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CompressReport {
    /// Images.
    pub images: usize,
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
    /// `net_bits` a dimension.
    pub net_bpd: f64,
    /// Standard error of `net_bpd`: over images, for the distribution that they come from.
    pub net_bpd_stderr: Option<f64>,
    /// `net_bits` and `initial_bits` a dimension.
    pub stream_bpd: f64,
    /// `file_bits` a dimension.
    pub file_bpd: f64,
    /// What the coder itself loses, a dimension: `net_bits` less the information of all symbols.
    pub coder_loss_bpd: f64,
    /// Net bits a dimension, image by image.
    #[serde(skip)]
    pub per_image_bpd: Vec<f64>,
}

/// Codes `images`, which come back as `files`.
///
/// `progress` hears the network evaluations of single images done and to do.
///
/// # Errors
/// See [`CodecError`]; [`CodecError::Images`] if the files do not hold these images.
pub fn compress<N: ScoreNetwork>(
    model: &VariationalDiffusion<N>,
    images: &ImageDataset,
    files: Vec<FileEntry>,
    options: &CodecOptions,
    device: &Device,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<(Container, CompressReport), CodecError> {
    let (shape, n, dims) = (images.shape(), images.len(), images.shape().dims());
    check_files(&files, shape, n as u64).map_err(|reason| CodecError::Images { reason })?;
    let mut container = Container {
        model: model_fingerprint(model),
        arithmetic: [0; 16],
        note: container::line(&options.note),
        program: format!("vdm {}", env!("CARGO_PKG_VERSION")),
        machine: machine(),
        shape,
        levels: images.levels(),
        bins_per_sigma: options.bins_per_sigma,
        batch_size: options.batch_size,
        seed: options.seed,
        steps: options.steps.clone(),
        net_bits: 0.0,
        initial_bits: 0.0,
        files,
        segments: Vec::new(),
    };
    let plan = plan_of(&container, model)?;
    container.arithmetic = arithmetic_fingerprint(model, &plan, device)?;

    let per_segment = if options.restart_every == 0 { n } else { options.restart_every };
    let (mut done, total) = (0, n * plan.steps());
    let (mut ideal_bits, mut per_image_bpd) = (0.0, Vec::with_capacity(n));
    for (number, bytes) in images.bytes().chunks(per_segment.saturating_mul(dims)).enumerate() {
        let mut heard = |images: usize| {
            done += images;
            progress(done, total);
        };
        let (segment, stats) = encode_segment(model, &plan.of_segment(number), bytes, device, &mut heard)?;
        container.net_bits += stats.net_bits;
        container.initial_bits += stats.initial_bits;
        ideal_bits += stats.ideal_bits;
        per_image_bpd.extend(stats.per_image_bits.iter().map(|bits| bits / dims as f64));
        container.segments.push(CodedSegment { segment, pixels: pixel_hash(bytes) });
    }
    let numbers = (n * dims) as f64;
    let file_bits = 8 * container.to_bytes()?.len() as u64;
    let report = CompressReport {
        images: n,
        dims,
        steps: plan.steps(),
        file_bits,
        net_bits: container.net_bits,
        initial_bits: container.initial_bits,
        net_bpd: container.net_bits / numbers,
        net_bpd_stderr: standard_error(&per_image_bpd),
        stream_bpd: (container.net_bits + container.initial_bits) / numbers,
        file_bpd: file_bits as f64 / numbers,
        coder_loss_bpd: (container.net_bits - ideal_bits) / numbers,
        per_image_bpd,
    };
    Ok((container, report))
}

/// The bytes of all images of a file, one after another.
///
/// See [`decompress_range`].
///
/// # Errors
/// See [`CodecError`].
pub fn decompress<N: ScoreNetwork>(
    model: &VariationalDiffusion<N>,
    shape: ImageShape,
    container: &Container,
    device: &Device,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Vec<u8>, CodecError> {
    decompress_range(model, shape, container, 0, container.images(), device, progress)
}

/// The bytes of the images number `first .. first + count`. Only the segments that hold them are decoded; nothing is returned unless
/// model, arithmetic and the checksums of all their pixels are right. `shape` is that of the images that the model was
/// trained on: a file may claim another, and is not believed.
///
/// # Errors
/// See [`CodecError`].
pub fn decompress_range<N: ScoreNetwork>(
    model: &VariationalDiffusion<N>,
    shape: ImageShape,
    container: &Container,
    first: usize,
    count: usize,
    device: &Device,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Vec<u8>, CodecError> {
    let images = container.images();
    let Some(end) = first.checked_add(count).filter(|&end| end <= images) else {
        return Err(CodecError::Range { first, count, images });
    };
    if container.shape != shape {
        let reason = format!("the file holds images of {}, the model is for images of {shape}", container.shape);
        return Err(CodecError::Images { reason });
    }
    let found = model_fingerprint(model);
    if found != container.model {
        return Err(CodecError::OtherModel {
            note: container.note.clone(),
            expected: container::hex(&container.model),
            found: container::hex(&found),
        });
    }
    let plan = plan_of(container, model)?;
    let found = arithmetic_fingerprint(model, &plan, device)?;
    if found != container.arithmetic {
        return Err(CodecError::OtherArithmetic {
            expected: container::hex(&container.arithmetic),
            found: container::hex(&found),
            written: format!("{} on {}", container.program, container.machine),
            here: format!("vdm {} on {}", env!("CARGO_PKG_VERSION"), machine()),
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
    let total = plan.steps() * needed.iter().map(|(_, _, coded)| coded.segment.images as usize).sum::<usize>();
    let (dims, mut done, mut out) = (container.shape.dims(), 0, Vec::new());
    for (number, start, coded) in needed {
        let mut heard = |images: usize| {
            done += images;
            progress(done, total);
        };
        let bytes = decode_segment(model, &plan.of_segment(number), &coded.segment, device, &mut heard)?;
        if pixel_hash(&bytes) != coded.pixels {
            return Err(CodecError::PixelChecksum { segment: number });
        }
        let wanted = first.saturating_sub(start) * dims..(end - start).min(coded.segment.images as usize) * dims;
        out.extend_from_slice(&bytes[wanted]);
    }
    Ok(out)
}

/// The first 16 bytes of the SHA-256 of all weights, by name, and of the model's settings. What else a network's
/// configuration decides, such as its groups, shows in [`arithmetic_fingerprint`].
pub fn model_fingerprint<N: ScoreNetwork>(model: &VariationalDiffusion<N>) -> [u8; 16] {
    let settings = model.settings();
    let (start, end) = settings.configured_endpoints;
    let mut hash = Sha256::new();
    hash.update((settings.vocabulary.levels() as u64).to_le_bytes());
    hash.update([settings.time_normalization as u8]);
    hash.update([start, end].map(f64::to_le_bytes).concat());
    // Of a schedule without weights these are all; others have theirs below.
    let fixed = match &model.schedule {
        NoiseSchedule::FixedLinear(_) => Some("linear".to_string()),
        NoiseSchedule::FixedCurve(curve) => Some(format!("{:?}", curve.shape)),
        _ => None,
    };
    if let Some(kind) = fixed {
        hash.update(kind.as_bytes());
        let gamma = model.schedule.to_host();
        hash.update([0.0, 1.0].map(|t| gamma.gamma(t).to_le_bytes()).concat());
    }
    let [schedule, network] = [crate::weights::export(&model.schedule), crate::weights::export(&model.network)];
    for (name, t) in schedule.into_iter().chain(network) {
        hash.update((name.len() as u64).to_le_bytes());
        hash.update(name.as_bytes());
        for side in std::iter::once(t.shape.len()).chain(t.shape) {
            hash.update((side as u64).to_le_bytes());
        }
        for x in t.data {
            hash.update(x.to_le_bytes());
        }
    }
    first_bytes(hash)
}

/// The `steps` steps that cost least on `images`, among `points` that are evenly spaced in time: see
/// [`cheapest_gammas`]. Takes `points` network evaluations an image.
///
/// # Errors
/// [`CodecError::Plan`] if there are not more points than steps; [`CodecError::NotFinite`].
pub fn choose_steps<N: ScoreNetwork>(
    model: &VariationalDiffusion<N>,
    images: &ImageDataset,
    points: usize,
    steps: usize,
    device: &Device,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Steps, CodecError> {
    let schedule = model.schedule.to_host();
    let vocabulary = model.settings().vocabulary;
    let indices: Vec<usize> = (0..images.len()).collect();
    let mut error_at = Vec::with_capacity(points + 1);
    for point in 0..=points {
        let gamma = schedule.gamma(point as f64 / points.max(1) as f64);
        let mut total = 0.0;
        for batch in indices.chunks(32) {
            let x = vocabulary.encode(batch_tensor(images, batch, device));
            let streams: Vec<Philox> = batch.iter().map(|&i| Philox::new(point as u64, i as u64)).collect();
            let eps = Noise::draw(&streams, images.shape(), device).eps;
            let gammas = Tensor::full([batch.len()], gamma, device);
            let z = model.diffuse(x, gammas.clone(), eps.clone());
            let difference = model.predict_noise(z, gammas, &Conditioning::default(), Mode::Eval) - eps;
            total += (difference.clone() * difference).sum().into_data().iter::<f64>().sum::<f64>();
        }
        if !total.is_finite() {
            return Err(CodecError::NotFinite { what: "the predicted noise", step: 0 });
        }
        error_at.push((gamma, total / indices.len().max(1) as f64));
        progress(point + 1, points + 1);
    }
    Ok(Steps::Listed(cheapest_gammas(&error_at, steps)?))
}

/// The plan that a container describes, for this model.
fn plan_of<N: ScoreNetwork>(container: &Container, model: &VariationalDiffusion<N>) -> Result<Plan, CodecError> {
    let gammas = container.steps.gammas(&model.schedule);
    let levels = container.levels;
    let vocabulary = crate::encoding::Vocabulary::new(levels)
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

impl Plan {
    /// The plan of segment `number`: streams start with different bits.
    fn of_segment(&self, number: usize) -> Self {
        Self { seed: self.seed.wrapping_add(number as u64), ..self.clone() }
    }
}

fn pixel_hash(bytes: &[u8]) -> [u8; 8] {
    first_bytes(Sha256::new_with_prefix(bytes))
}

/// The processor, as far as it decides how sums are rounded.
fn machine() -> String {
    let mut text = std::env::consts::ARCH.to_string();
    #[cfg(target_arch = "x86_64")]
    for (feature, found) in [
        ("avx2", std::arch::is_x86_feature_detected!("avx2")),
        ("fma", std::arch::is_x86_feature_detected!("fma")),
        ("avx512f", std::arch::is_x86_feature_detected!("avx512f")),
    ] {
        if found {
            text.push('+');
            text.push_str(feature);
        }
    }
    text
}
