//! Estimates of -log p(x) over a whole data set, with their standard errors.
//!
//! - [`Bound`]: the variational bound, in continuous or discrete time. One evaluation of the network per image and pass: use
//!   it for whole test sets, and to compare with the bounds of papers.
//! - [`Importance`]: log-mean-exp over several draws of all latents of the model in T steps: T evaluations a draw, a tighter
//!   bound. Use it to see how loose the bound is.
//! - [`Ode`]: the density of the probability flow, some hundred evaluations: what papers on score models report as exact.
//!   With a discrete decoder it is a bound too, on another model of the same network.
//!
//! [`evaluate`] makes the passes over the data; an [`Estimator`] says what each image's terms are. To add an estimator,
//! write a file with a type that implements [`Estimator`], and name it in `any.rs`; programs can then choose it by its
//! name. [`schedule_variance`] measures how noisy the bound is under different schedules.
//!
//! ```
//! use burn::tensor::Device;
//! use vdm::data::{Split, digits};
//! use vdm::unwatched;
//! use vdm::likelihood::{Bound, EvalOptions, evaluate};
//!
//! let (device, images) = (Device::flex(), digits(Split::Test)?.subset(0..8)?);
//! let config = vdm::config::preset("digits").unwrap();
//! let model = config.init(images.shape(), images.vocabulary(), &device);
//!
//! let options = EvalOptions { repeats: 2, batch_size: 8, seed: 0 };
//! let found = evaluate(&model, &Bound, &images, &options, &device, &mut unwatched)?;
//! assert!(found.bpd > 0.0 && found.images == 8);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod any;
mod bound;
mod design;
mod importance;
mod log_mean_exp;
mod ode;
pub mod schedule_variance;

pub use any::{EstimatorKind, EstimatorOption, EstimatorSettings};
pub use bound::Bound;
pub use importance::Importance;
pub use ode::Ode;

use crate::data::ImageDataset;
use crate::flow::SolveError;
use crate::nn::{Conditioning, ConditioningError, ScoreNetwork};
use crate::progress::{Progress, Stopped, tell};
use crate::stats::standard_error;
use crate::{VariationalDiffusion, bits_per_dim};
use burn::tensor::{Device, Tensor};
use design::{Design, Tally};
use serde::Serialize;

/// A way to estimate -log p(x) of each image of a batch.
pub trait Estimator<N: ScoreNetwork> {
    /// The estimates of the batch's images, in their order. Each must be a function of the model, the seed, the pass and
    /// the image alone, not of the batch. `pulse` is to be called between long computations.
    ///
    /// # Errors
    /// [`EvalError::Stopped`] if `pulse` says so; what else the estimator cannot do, see [`EvalError`].
    fn estimate(
        &self,
        model: &VariationalDiffusion<N>,
        batch: &EvalBatch<'_>,
        device: &Device,
        pulse: &mut dyn FnMut() -> Result<(), Stopped>,
    ) -> Result<Vec<Estimate>, EvalError>;

    /// Draws of the latents for one estimate of an image.
    fn draws(&self) -> usize {
        1
    }

    /// In how many steps it takes a model of so many: in as many, but for an estimator that has steps of its own.
    fn steps(&self, of_model: Option<usize>) -> Option<usize> {
        of_model
    }
}

/// The images that an estimator gets at a time.
#[derive(Debug)]
pub struct EvalBatch<'a> {
    /// The images, whole numbers in 0..V as floats: `[batch, channels, height, width]`.
    pub k: Tensor<4>,
    /// Their indices in the data set.
    pub indices: &'a [usize],
    /// A time in [0, 1) for each image, chosen so that the errors of the mean can be estimated; an estimator that needs no
    /// time leaves them alone.
    pub times: &'a [f64],
    /// What the network is told about them.
    pub conditioning: &'a Conditioning,
    /// The number of this pass over the data, from 0.
    pub pass: usize,
    /// Seed of all that is random.
    pub seed: u64,
}

/// One estimate of one image, in nats.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimate {
    /// KL of q(z_1|x) from the standard normal.
    pub prior: f64,
    /// -log p(x|z_0), the mean over draws.
    pub reconstruction: f64,
    /// The diffusion loss. Of an estimator that is no sum of three terms: what is left of its value without the other two.
    pub diffusion: f64,
    /// Evaluations of the network that it took.
    pub evaluations: usize,
}

impl Estimate {
    /// The estimate of -log p(x): the sum of the terms.
    pub fn total(&self) -> f64 {
        self.prior + self.reconstruction + self.diffusion
    }
}

/// How to evaluate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EvalOptions {
    /// Passes over the data, each with other times and fresh noise.
    pub repeats: usize,
    /// Images that go through the network at a time; has no influence on the result.
    pub batch_size: usize,
    /// Seed of all times and noises.
    pub seed: u64,
}

/// The bound over a data set, in bits per dimension.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Evaluation {
    /// The bound: `prior + reconstruction + diffusion`.
    pub bpd: f64,
    /// The standard error of `bpd` as an estimate for the distribution that the images come from. It covers both the
    /// differences between images and the noise of the estimate. `None` for one image, whose standard error is not known.
    /// It holds for any number of passes: see the notes in `likelihood/design.rs`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bpd_stderr: Option<f64>,
    /// The standard error of the bound on exactly these images: of the noise of the estimate alone. `None` for one pass,
    /// which does not tell an image's noise from its difference to other images.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bpd_stderr_noise: Option<f64>,
    /// KL of q(z_1|x) from the standard normal.
    pub prior: f64,
    /// Expected -log p(x|z_0).
    pub reconstruction: f64,
    /// The diffusion loss.
    pub diffusion: f64,
    /// Images.
    pub images: usize,
    /// Passes over them.
    pub repeats: usize,
    /// Steps of the discrete-time bound; `None` in continuous time.
    pub timesteps: Option<usize>,
    /// Evaluations of the network per image, all passes together.
    pub nfe: f64,
    /// Draws of the latents in one estimate of an image.
    pub draws: usize,
    /// What was found for each image, in the order of the data.
    #[serde(skip)]
    pub of_images: Vec<OfImage>,
}

/// The evaluation of one image, in bits per dimension: means over the passes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct OfImage {
    /// The sum of the terms.
    pub bpd: f64,
    /// The standard error of `bpd` over the passes; `None` for one pass. Since the passes' times are spread, it is on the
    /// large side.
    pub bpd_stderr: Option<f64>,
    /// See [`Evaluation::prior`].
    pub prior: f64,
    /// See [`Evaluation::reconstruction`].
    pub reconstruction: f64,
    /// See [`Evaluation::diffusion`].
    pub diffusion: f64,
}

/// The classes of these images, where the network takes classes and the data have labels.
///
/// [`Conditioning::check`] refuses labels that the network does not know.
pub fn classes_of<N: ScoreNetwork>(network: &N, data: &ImageDataset, indices: &[usize]) -> Conditioning {
    if network.classes() == 0 || data.labels().is_none() {
        return Conditioning::default();
    }
    Conditioning::of_classes(indices.iter().map(|&i| data.label(i)))
}

/// Evaluates every image of `data`, `options.repeats` times: for p(x | class) if the network takes classes and the data
/// have labels, else for p(x).
///
/// See [`evaluate_conditioned`].
///
/// # Errors
/// See [`EvalError`].
pub fn evaluate<N: ScoreNetwork>(
    model: &VariationalDiffusion<N>,
    estimator: &dyn Estimator<N>,
    data: &ImageDataset,
    options: &EvalOptions,
    device: &Device,
    progress: &mut Progress,
) -> Result<Evaluation, EvalError> {
    let classes = |indices: &[usize]| classes_of(&model.network, data, indices);
    evaluate_conditioned(model, estimator, data, classes, options, device, progress)
}

/// Evaluates every image of `data`, `options.repeats` times, with what `conditioning` says about the images of these
/// indices. Nothing depends on the batch size. `progress` is told the batches done and to do.
///
/// # Errors
/// [`EvalError`] if there is no image or no pass, the conditioning does not fit, or an estimate is not finite.
pub fn evaluate_conditioned<N: ScoreNetwork>(
    model: &VariationalDiffusion<N>,
    estimator: &dyn Estimator<N>,
    data: &ImageDataset,
    mut conditioning: impl FnMut(&[usize]) -> Conditioning,
    options: &EvalOptions,
    device: &Device,
    progress: &mut Progress,
) -> Result<Evaluation, EvalError> {
    let (n, passes) = (data.len(), options.repeats);
    if n == 0 || passes == 0 {
        return Err(EvalError::Empty { images: n, repeats: passes });
    }
    let batch_size = options.batch_size.max(1);
    let total_batches = n.div_ceil(batch_size) * passes;
    let mut done = 0;
    let design = Design::new(n, passes, options.seed);
    let mut tally = Tally::new(design.clone());
    let mut terms = [0f64; 3];
    let mut nfe = 0f64;
    let mut of_images = vec![Running::default(); n];
    for pass in 0..passes {
        let mut nats_of = Vec::with_capacity(n);
        for start in (0..n).step_by(batch_size) {
            let indices: Vec<usize> = (start..n.min(start + batch_size)).collect();
            let given = conditioning(&indices);
            given.check(model.network.classes(), indices.len())?;
            let k = data.batch(&indices, device);
            let times: Vec<f64> = indices.iter().map(|&i| design.time(pass, i)).collect();
            let (indices, times, seed) = (&indices[..], &times[..], options.seed);
            let batch = EvalBatch { k, indices, times, conditioning: &given, pass, seed };
            let mut pulse = || tell(progress, done, total_batches);
            let estimates = estimator.estimate(model, &batch, device, &mut pulse)?;
            for (estimate, &i) in estimates.into_iter().zip(indices) {
                let nats = estimate.total();
                if !nats.is_finite() {
                    return Err(EvalError::NotFinite { image: i });
                }
                nats_of.push(nats);
                nfe += estimate.evaluations as f64;
                of_images[i].add(&estimate);
                let of_image = [estimate.prior, estimate.reconstruction, estimate.diffusion];
                for (sum, term) in terms.iter_mut().zip(of_image) {
                    *sum += term;
                }
            }
            done += 1;
            tell(progress, done, total_batches)?;
        }
        tally.end_pass(pass, nats_of);
    }
    let bits = |nats: f64| bits_per_dim(nats, data.shape().dims());
    let evaluations = (n * passes) as f64;
    let [prior, reconstruction, diffusion] = terms.map(|sum| bits(sum / evaluations));
    Ok(Evaluation {
        bpd: prior + reconstruction + diffusion,
        bpd_stderr: tally.stderr().map(bits),
        bpd_stderr_noise: tally.stderr_noise().map(bits),
        prior,
        reconstruction,
        diffusion,
        images: n,
        repeats: passes,
        timesteps: estimator.steps(model.settings().timesteps),
        nfe: nfe / n as f64,
        draws: estimator.draws(),
        of_images: of_images.iter().map(|image| image.end(passes, bits)).collect(),
    })
}

/// The sums over the passes of one image.
#[derive(Clone, Debug, Default)]
struct Running {
    terms: [f64; 3],
    totals: Vec<f64>,
}

impl Running {
    fn add(&mut self, estimate: &Estimate) {
        let terms = [estimate.prior, estimate.reconstruction, estimate.diffusion];
        self.terms.iter_mut().zip(terms).for_each(|(sum, term)| *sum += term);
        self.totals.push(estimate.total());
    }

    fn end(&self, passes: usize, bits: impl Fn(f64) -> f64) -> OfImage {
        let [prior, reconstruction, diffusion] = self.terms.map(|sum| bits(sum / passes as f64));
        let bpd_stderr = standard_error(&self.totals).map(bits);
        OfImage { bpd: prior + reconstruction + diffusion, bpd_stderr, prior, reconstruction, diffusion }
    }
}

/// Most draws of the latents for one estimate of an image.
const MOST_DRAWS: usize = 1 << 16;

/// Refuses a number that is not 1 to `most`.
fn check_number(what: &'static str, found: usize, most: usize) -> Result<(), EvalError> {
    if (1..=most).contains(&found) { Ok(()) } else { Err(EvalError::Number { what, found, most }) }
}

/// Why there is no evaluation.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum EvalError {
    /// What the network is told does not fit: see [`ConditioningError`].
    #[error(transparent)]
    Conditioning(#[from] ConditioningError),
    /// Its [`Progress`] asked it to stop.
    #[error(transparent)]
    Stopped(#[from] Stopped),
    /// The probability flow could not be solved.
    #[error(transparent)]
    Solve(#[from] SolveError),
    /// The estimator wants a model in discrete time.
    #[error("the importance-weighted bound is that of a model in T steps: choose a number of steps (--timesteps)")]
    ContinuousTime,
    /// No draws, or more than there are streams of random numbers for.
    #[error("{what} = {found}: it must be 1 to {most}")]
    Number {
        /// Which number.
        what: &'static str,
        /// What was asked for.
        found: usize,
        /// The most.
        most: usize,
    },
    /// The exact trace of an image that is too large for it.
    #[error(
        "the exact trace takes an evaluation for each of the {dims} dimensions; images of at most {most} may have it"
    )]
    TooLarge {
        /// Dimensions of the image.
        dims: usize,
        /// The most.
        most: usize,
    },
    /// A network whose derivative is not known.
    #[error(
        "the network estimates x itself first (self-conditioning), and nothing is differentiated through that estimate: \
         the density of its flow is not known; use another estimator"
    )]
    SelfConditioned,
    /// Nothing to average over.
    #[error("cannot evaluate {images} images {repeats} times: both must be at least 1")]
    Empty {
        /// Images of the data set.
        images: usize,
        /// Passes asked for.
        repeats: usize,
    },
    /// The bound of an image is infinite or not a number.
    #[error("the bound of image {image} is not finite: the weights are damaged, or training diverged")]
    NotFinite {
        /// The image's index.
        image: usize,
    },
}
