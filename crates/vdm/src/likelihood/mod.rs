//! Estimates of -log p(x) over a whole data set, with their standard errors.
//!
//! - [`Bound`]: the variational bound, in continuous or discrete time.
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
pub mod schedule_variance;

pub use any::EstimatorKind;
pub use bound::Bound;

use crate::data::ImageDataset;
use crate::nn::{Conditioning, ConditioningError, ScoreNetwork};
use crate::progress::{Progress, Stopped, tell};
use crate::{VariationalDiffusion, bits_per_dim};
use burn::tensor::{Device, Tensor};
use design::{Design, Tally};
use serde::Serialize;

/// A way to estimate -log p(x) of each image of a batch.
pub trait Estimator<N: ScoreNetwork> {
    /// The estimates of the batch's images, in their order. Each must be a function of the model, the seed, the pass and
    /// the image alone, not of the batch.
    fn estimate(&self, model: &VariationalDiffusion<N>, batch: &EvalBatch<'_>, device: &Device) -> Vec<Estimate>;
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
    /// -log p(x|z_0).
    pub reconstruction: f64,
    /// The diffusion loss.
    pub diffusion: f64,
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
            for (estimate, &i) in estimator.estimate(model, &batch, device).into_iter().zip(indices) {
                let nats = estimate.total();
                if !nats.is_finite() {
                    return Err(EvalError::NotFinite { image: i });
                }
                nats_of.push(nats);
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
        timesteps: model.settings().timesteps,
    })
}

/// Why there is no evaluation.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EvalError {
    /// What the network is told does not fit: see [`ConditioningError`].
    #[error(transparent)]
    Conditioning(#[from] ConditioningError),
    /// Its [`Progress`] asked it to stop.
    #[error(transparent)]
    Stopped(#[from] Stopped),
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
