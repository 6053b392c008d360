//! Sampling: from noise z_1 to an image.
//!
//! Every image has its own stream of random numbers, so an image depends neither on the batch that it is drawn in nor on
//! how many are drawn. The scalars of a step are worked out in f64 on the host.
//!
//! - [`Ancestral`]: the model's own distribution; the default.
//!
//! To add a sampler, write a file with a type that implements [`Sampler`], and name it in `any.rs`; programs can then
//! choose it by its name.

mod ancestral;
mod any;
mod guidance;

pub use ancestral::Ancestral;
pub use any::SamplerKind;

use crate::VariationalDiffusion;
use crate::diffusion::process::clip;
use crate::nn::{Conditioning, ConditioningError, ScoreNetwork};
use crate::progress::{Progress, Stopped, tell};
use crate::random::{DRAW_DECODER, DRAW_Z_1, normal};
use crate::schedule::Schedule;
use burn::tensor::{Device, Tensor};
use guidance::guided;
use serde::{Deserialize, Serialize};
use std::ops::Range;
use vdm_kernels::rng::Philox;

/// A way from noise to an image.
pub trait Sampler {
    /// Takes a batch from z_1 to z_0 along `gammas`, which decrease from gamma_1 to gamma_0.
    ///
    /// # Shapes
    /// - `z_1`: `[batch, channels, height, width]`, standard normal; the output has the same
    ///
    /// # Errors
    /// [`Stopped`] if [`Denoiser::step_done`] says so.
    fn draw(&self, z_1: Tensor<4>, gammas: &[f64], denoiser: &mut dyn Denoiser) -> Result<Tensor<4>, Stopped>;
}

/// What a sampler works with: the network's prediction for one batch, and the batch's noise.
pub trait Denoiser {
    /// eps_hat(z, gamma), with guidance and clipping as the options say.
    fn eps_hat(&mut self, z: Tensor<4>, gamma: f64) -> Tensor<4>;

    /// Standard normal noise for step `step`, counted from 1: each image from its own stream.
    fn noise(&mut self, step: u32) -> Tensor<4>;

    /// To be called after every step.
    ///
    /// # Errors
    /// [`Stopped`] if the sampling was asked to stop.
    fn step_done(&mut self) -> Result<(), Stopped>;
}

/// How x is read off z_0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DecoderRule {
    /// The most probable level of each pixel.
    #[default]
    Argmax,
    /// A level drawn from p(x | z_0).
    Draw,
}

/// What to draw.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SampleOptions {
    /// Steps T; T + 1 points of the schedule, evenly spaced in time.
    pub steps: usize,
    /// Keep x_hat in [-1, 1] at every step. Off in the paper.
    pub clip: bool,
    /// How x is read off z_0.
    pub decoder: DecoderRule,
    /// Weight w of classifier-free guidance (Ho and Salimans 2022, arXiv 2207.12598): eps_hat is that of no class and no
    /// control plus w times what they change. 1 is no guidance; above 1, images are more typical of their class and less
    /// varied. Needs a network that was trained with some of the classes left out.
    pub guidance: f64,
    /// Image `i` is a function of (`seed`, `i`) alone.
    pub seed: u64,
    /// Images that go through the network at a time; has no influence on the images.
    pub batch_size: usize,
}

impl Default for SampleOptions {
    /// 250 steps, no clipping, no guidance, the most probable levels, seed 0, 64 images at a time.
    fn default() -> Self {
        Self { steps: 250, clip: false, decoder: DecoderRule::Argmax, guidance: 1.0, seed: 0, batch_size: 64 }
    }
}

/// Why there are no samples.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SampleError {
    /// What the network is told does not fit: see [`ConditioningError`].
    #[error(transparent)]
    Conditioning(#[from] ConditioningError),
    /// Its [`Progress`] asked it to stop.
    #[error(transparent)]
    Stopped(#[from] Stopped),
    /// A latent became infinite or not a number.
    #[error(
        "image {image} is not finite: the weights are damaged, training diverged, or the weight of guidance ({guidance}) \
         is too large"
    )]
    NotFinite {
        /// The image's number.
        image: u64,
        /// The weight of guidance, as text.
        guidance: String,
    },
}

/// Draws the images of these `numbers`, without a class or any other conditioning; their bytes, channels first, image
/// after image. Levels above 255, which no image of bytes has, are cut to it.
///
/// `progress` is told the steps done and to do, over all batches.
///
/// # Errors
/// [`SampleError::NotFinite`]; [`SampleError::Stopped`].
pub fn sample<N: ScoreNetwork>(
    model: &VariationalDiffusion<N>,
    sampler: &dyn Sampler,
    numbers: Range<u64>,
    options: &SampleOptions,
    device: &Device,
    progress: &mut Progress,
) -> Result<Vec<u8>, SampleError> {
    let nothing = |_: Range<u64>| Conditioning::default();
    sample_conditioned(model, sampler, numbers, nothing, options, device, progress)
}

/// [`sample`], with what `conditioning` says about the images of these numbers.
///
/// # Errors
/// See [`SampleError`].
pub fn sample_conditioned<N: ScoreNetwork>(
    model: &VariationalDiffusion<N>,
    sampler: &dyn Sampler,
    numbers: Range<u64>,
    mut conditioning: impl FnMut(Range<u64>) -> Conditioning,
    options: &SampleOptions,
    device: &Device,
    progress: &mut Progress,
) -> Result<Vec<u8>, SampleError> {
    let (schedule, shape) = (model.schedule.to_host(), model.shape());
    let steps = options.steps.max(1);
    let gammas: Vec<f64> = (0..=steps).map(|i| schedule.gamma((steps - i) as f64 / steps as f64)).collect();
    let batch_size = options.batch_size.max(1) as u64;
    let count = numbers.end.saturating_sub(numbers.start);
    let total = count.div_ceil(batch_size) as usize * steps;
    let mut bytes = Vec::with_capacity(count as usize * shape.dims());
    let mut done = 0;
    for first in numbers.clone().step_by(batch_size as usize) {
        let batch = first..numbers.end.min(first.saturating_add(batch_size));
        let streams: Vec<Philox> = batch.clone().map(|number| Philox::new(options.seed, number)).collect();
        let given = conditioning(batch);
        given.check(model.network.classes(), streams.len())?;
        let z_1 = normal(&streams, DRAW_Z_1, shape, device);
        let mut step_done = || {
            done += 1;
            tell(progress, done, total)
        };
        let mut denoiser =
            Batch { model, streams: &streams, given: &given, options, device, step_done: &mut step_done };
        let z_0: Vec<f32> = sampler.draw(z_1, &gammas, &mut denoiser)?.into_data().iter::<f32>().collect();
        if let Some(bad) = z_0.iter().position(|z| !z.is_finite()) {
            let (image, guidance) = (first + (bad / shape.dims()) as u64, options.guidance.to_string());
            return Err(SampleError::NotFinite { image, guidance });
        }
        decode(model, &z_0, gammas[steps], &streams, options.decoder, &mut bytes);
    }
    Ok(bytes)
}

/// Appends the levels of every image, read off z_0, as bytes.
fn decode<N: ScoreNetwork>(
    model: &VariationalDiffusion<N>,
    z_0: &[f32],
    gamma_0: f64,
    streams: &[Philox],
    rule: DecoderRule,
    bytes: &mut Vec<u8>,
) {
    let vocabulary = model.settings().vocabulary;
    let byte = |level: u16| u8::try_from(level).unwrap_or(u8::MAX);
    for (z_0, stream) in z_0.chunks_exact(model.shape().dims()).zip(streams) {
        match rule {
            DecoderRule::Argmax => bytes.extend(z_0.iter().map(|&z| byte(vocabulary.argmax(z, gamma_0)))),
            DecoderRule::Draw => {
                let mut u = vec![0f32; z_0.len()];
                stream.uniform(DRAW_DECODER, &mut u);
                bytes.extend(z_0.iter().zip(u).map(|(&z, u)| byte(vocabulary.draw(z, gamma_0, f64::from(u)))));
            }
        }
    }
}

/// The images of one batch.
struct Batch<'a, N> {
    model: &'a VariationalDiffusion<N>,
    streams: &'a [Philox],
    given: &'a Conditioning,
    options: &'a SampleOptions,
    device: &'a Device,
    step_done: &'a mut dyn FnMut() -> Result<(), Stopped>,
}

impl<N: ScoreNetwork> Denoiser for Batch<'_, N> {
    fn eps_hat(&mut self, z: Tensor<4>, gamma: f64) -> Tensor<4> {
        let gammas = Tensor::full([self.streams.len()], gamma, self.device);
        let eps_hat = guided(self.model, z.clone(), gammas, self.given, self.options.guidance);
        if self.options.clip { clip(z, gamma, eps_hat) } else { eps_hat }
    }

    fn noise(&mut self, step: u32) -> Tensor<4> {
        normal(self.streams, step, self.model.shape(), self.device)
    }

    fn step_done(&mut self) -> Result<(), Stopped> {
        (self.step_done)()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diffusion::Vocabulary;
    use crate::nn::{ScoreUNet, ScoreUNetConfig};
    use crate::schedule::{Endpoints, ScheduleConfig};
    use crate::unwatched;
    use crate::{DiffusionSettings, ImageShape, weights};

    const SHAPE: ImageShape = ImageShape { channels: 1, height: 4, width: 4 };

    /// A network with classes, always the same, with no parameter at zero.
    fn model(classes: usize) -> VariationalDiffusion<ScoreUNet> {
        let device = Device::flex();
        let schedule = ScheduleConfig::LearnedLinear(Endpoints { gamma_0: -6.0, gamma_1: 5.0 });
        let settings = DiffusionSettings::new(SHAPE, Vocabulary::new(17).unwrap(), &schedule);
        let network = ScoreUNetConfig { norm_groups: 4, classes, ..ScoreUNetConfig::new(1, 16, 1) }.init(&device);
        let mut values = weights::export(&network);
        for (i, t) in values.values_mut().enumerate() {
            let mut noise = vec![0f32; t.data.len()];
            Philox::new(7, i as u64).normal(0, &mut noise);
            t.data.iter_mut().zip(noise).for_each(|(w, n)| *w = 0.3 * n);
        }
        let network = weights::import(network, &values).unwrap();
        VariationalDiffusion::new(schedule.init(&device), network, settings)
    }

    fn draw(classes: Vec<Option<u32>>, guidance: f64) -> Vec<u8> {
        let options = SampleOptions { steps: 4, guidance, batch_size: 2, ..Default::default() };
        let given = |numbers: Range<u64>| Conditioning::of_classes(numbers.map(|n| classes[n as usize]));
        let (numbers, device) = (0..classes.len() as u64, Device::flex());
        sample_conditioned(&model(3), &Ancestral, numbers, given, &options, &device, &mut unwatched).unwrap()
    }

    #[test]
    fn an_image_depends_on_its_own_class_alone() {
        let [a, b] = [draw(vec![Some(0), Some(1), None], 1.0), draw(vec![Some(0), Some(2), None], 1.0)];
        assert_eq!(a[..16], b[..16]);
        assert_ne!(a[16..32], b[16..32]);
        assert_eq!(a[32..], b[32..]);
    }

    #[test]
    fn guidance_goes_from_no_class_through_the_class_and_beyond() {
        let classes = || vec![Some(0), Some(1), Some(2)];
        assert_eq!(draw(classes(), 0.0), draw(vec![None; 3], 1.0));
        let [plain, strong] = [draw(classes(), 1.0), draw(classes(), 3.0)];
        assert_ne!(plain, strong);
        assert_ne!(plain, draw(classes(), 0.0));
        // Nothing to guide by.
        assert_eq!(draw(vec![None; 3], 3.0), draw(vec![None; 3], 1.0));
    }

    #[test]
    fn guidance_is_linear_in_its_weight() {
        let (model, device) = (model(3), Device::flex());
        let z = normal(&[Philox::new(1, 1), Philox::new(1, 2)], 0, SHAPE, &device);
        let given = Conditioning::of_classes([Some(0), Some(2)]);
        let at = |w: f64| -> Vec<f32> {
            let gamma = Tensor::full([2], 0.5, &device);
            guided(&model, z.clone(), gamma, &given, w).into_data().iter::<f32>().collect()
        };
        let (without, with) = (at(0.0), at(1.0));
        for w in [0.5, 2.0, 3.0] {
            for ((found, a), b) in at(w).into_iter().zip(&without).zip(&with) {
                let want = a + w as f32 * (b - a);
                assert!((found - want).abs() < 1e-4 * (1.0 + want.abs()), "{w}: {found} {want}");
            }
        }
    }

    #[test]
    fn classes_that_do_not_fit_are_errors() {
        let error = |model: &VariationalDiffusion<ScoreUNet>, classes: Vec<Option<u32>>| {
            let given = |_: Range<u64>| Conditioning::of_classes(classes.clone());
            let options = SampleOptions { steps: 1, ..Default::default() };
            let device = Device::flex();
            sample_conditioned(model, &Ancestral, 0..2, given, &options, &device, &mut unwatched)
                .unwrap_err()
                .to_string()
        };
        assert!(error(&model(3), vec![None, Some(3)]).contains("image 1 of the batch is of class 3"));
        assert!(error(&model(3), vec![None]).contains("classes: 1 for 2 images"));
        assert!(error(&model(0), vec![Some(0), None]).contains("not trained with classes"));
    }

    /// Black pictures, with success (diffusers#6492 and case 5).
    #[test]
    fn what_is_not_finite_is_an_error() {
        let device = Device::flex();
        let mut values = weights::export(&model(3));
        values.values_mut().next().unwrap().data[0] = f32::NAN;
        let damaged = weights::import(model(3), &values).unwrap();
        let error = |model: &VariationalDiffusion<ScoreUNet>, guidance: f64| {
            let options = SampleOptions { steps: 2, guidance, ..Default::default() };
            let given = |numbers: Range<u64>| Conditioning::classes_in_turn(numbers, 3);
            let samples = sample_conditioned(model, &Ancestral, 5..7, given, &options, &device, &mut unwatched);
            samples.unwrap_err().to_string()
        };
        assert!(error(&damaged, 1.0).contains("is not finite: the weights are damaged"));
        assert!(error(&model(3), 1e300).contains("guidance"));
    }
}
