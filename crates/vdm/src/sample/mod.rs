//! Sampling: from noise z_1 to an image.
//!
//! Every image has its own stream of random numbers, so an image depends neither on the batch that it is drawn in nor on
//! how many are drawn. The scalars of a step are worked out in f64 on the host.
//!
//! - [`Ancestral`]: the model's own distribution; the default. Hundreds of steps.
//! - [`DpmPlusPlus2M`]: the probability flow in few steps, one evaluation each.
//! - [`Heun`]: the same with two evaluations a step, the sampler that papers compare with.
//! - [`Ddim`]: of first order, with as much new noise as wanted between the flow and ancestral sampling.
//! - [`OdeSampler`]: the flow to a tolerance.
//!
//! All but the last go along the points of a [`Grid`].
//!
//! To add a sampler, write a file with a type that implements [`Sampler`], and name it in `any.rs`; programs can then
//! choose it by its name.

mod ancestral;
mod any;
mod ddim;
mod dpm_plus_plus;
mod grid;
mod guidance;
mod heun;
mod ode;
mod trajectory;

pub use ancestral::Ancestral;
pub use any::{SamplerKind, SamplerOption, SamplerSettings};
pub use ddim::Ddim;
pub use dpm_plus_plus::DpmPlusPlus2M;
pub use grid::Grid;
pub use heun::Heun;
pub use ode::OdeSampler;
pub use trajectory::trajectory;

use crate::VariationalDiffusion;
use crate::diffusion::process::{clip, diffuse};
use crate::flow::SolveError;
use crate::math::{host, sum_of_squares};
use crate::nn::{Conditioning, ConditioningError, Mode, ScoreNetwork};
use crate::progress::{Progress, Stopped, tell, unwatched};
use crate::random::{DRAW_DECODER, DRAW_Z_1, normal};
use crate::schedule::Schedule;
use burn::tensor::{Device, Tensor, TensorData};
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
    /// [`SampleError::Stopped`] if [`Denoiser::step_done`] says so; what else the sampler cannot do, see [`SampleError`].
    fn draw(&self, z_1: Tensor<4>, gammas: &[f64], denoiser: &mut dyn Denoiser) -> Result<Tensor<4>, SampleError>;
}

/// What a sampler works with: the network's prediction for one batch, and the batch's noise.
pub trait Denoiser {
    /// eps_hat(z, gamma), with guidance and clipping as the options say.
    fn eps_hat(&mut self, z: Tensor<4>, gamma: f64) -> Tensor<4>;

    /// eps_hat of the images `which` of the batch, each at a gamma of its own.
    ///
    /// # Shapes
    /// - `z`: `[which.len(), channels, height, width]`; the output has the same
    fn eps_hat_of(&mut self, which: &[usize], z: Tensor<4>, gammas: &[f64]) -> Tensor<4>;

    /// The expected squared error of each number of eps_hat, if the model knows it.
    ///
    /// # Shapes
    /// - `z`, `eps_hat`: `[batch, channels, height, width]`; the output has the same
    fn expected_error(&self, z: Tensor<4>, gamma: f64, eps_hat: Tensor<4>) -> Option<Tensor<4>>;

    /// Standard normal noise for step `step`, counted from 1: each image from its own stream.
    fn noise(&mut self, step: u32) -> Tensor<4>;

    /// To be called after every step.
    ///
    /// # Errors
    /// [`Stopped`] if the sampling was asked to stop.
    fn step_done(&mut self) -> Result<(), Stopped>;

    /// To be called where a step takes long, for a stop to be heard.
    ///
    /// # Errors
    /// [`Stopped`] if the sampling was asked to stop.
    fn pulse(&mut self) -> Result<(), Stopped>;
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
    /// Steps T: T + 1 points of the schedule.
    pub steps: usize,
    /// Where these points are.
    pub grid: Grid,
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
    /// 250 steps evenly spaced in time, no clipping, no guidance, the most probable levels, seed 0, 64 images at a time.
    fn default() -> Self {
        Self {
            steps: 250,
            grid: Grid::Time,
            clip: false,
            decoder: DecoderRule::Argmax,
            guidance: 1.0,
            seed: 0,
            batch_size: 64,
        }
    }
}

/// Why there are no samples.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SampleError {
    /// What the network is told does not fit: see [`ConditioningError`].
    #[error(transparent)]
    Conditioning(#[from] ConditioningError),
    /// Its [`Progress`] asked it to stop.
    #[error(transparent)]
    Stopped(#[from] Stopped),
    /// The noise of DDIM is no share.
    #[error("eta must be a number from 0 to 1, not {eta}")]
    Eta {
        /// The number, as text.
        eta: String,
    },
    /// The probability flow could not be solved.
    #[error(transparent)]
    Solve(#[from] SolveError),
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
    let (shape, gammas) = (model.shape(), points(model, options, &mut conditioning, device)?);
    let steps = gammas.len() - 1;
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
        let mut step_done = |steps: usize| {
            done += steps;
            tell(progress, done, total)
        };
        let mut denoiser =
            Batch { model, streams: &streams, given: &given, options, device, steps_done: &mut step_done };
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
    steps_done: &'a mut dyn FnMut(usize) -> Result<(), Stopped>,
}

impl<N: ScoreNetwork> Denoiser for Batch<'_, N> {
    fn eps_hat(&mut self, z: Tensor<4>, gamma: f64) -> Tensor<4> {
        let all: Vec<usize> = (0..self.streams.len()).collect();
        self.eps_hat_of(&all, z, &vec![gamma; all.len()])
    }

    fn eps_hat_of(&mut self, which: &[usize], z: Tensor<4>, gammas: &[f64]) -> Tensor<4> {
        let given = if which.len() == self.streams.len() { self.given.clone() } else { self.given.select(which) };
        let of_images: Vec<f32> = gammas.iter().map(|&gamma| gamma as f32).collect();
        let of_images = Tensor::from_data(of_images.as_slice(), self.device);
        let eps_hat = guided(self.model, z.clone(), of_images, &given, self.options.guidance);
        if self.options.clip { clip(z, gammas, eps_hat) } else { eps_hat }
    }

    fn expected_error(&self, z: Tensor<4>, gamma: f64, eps_hat: Tensor<4>) -> Option<Tensor<4>> {
        let gammas = vec![gamma; self.streams.len()];
        self.model.errors().map(|errors| errors.expected(z, &gammas, eps_hat))
    }

    fn noise(&mut self, step: u32) -> Tensor<4> {
        normal(self.streams, step, self.model.shape(), self.device)
    }

    fn step_done(&mut self) -> Result<(), Stopped> {
        (self.steps_done)(1)
    }

    fn pulse(&mut self) -> Result<(), Stopped> {
        (self.steps_done)(0)
    }
}

/// The gammas that a sampler goes along, from gamma_1 to gamma_0.
fn points<N: ScoreNetwork>(
    model: &VariationalDiffusion<N>,
    options: &SampleOptions,
    conditioning: &mut dyn FnMut(Range<u64>) -> Conditioning,
    device: &Device,
) -> Result<Vec<f64>, SampleError> {
    let loss = if options.grid == Grid::Loss { losses(model, options, conditioning, device)? } else { Vec::new() };
    Ok(grid::gammas(options.grid, &*model.schedule.to_host(), options.steps.max(1), &loss))
}

/// Gammas at which [`losses`] measures.
const LOSS_POINTS: usize = 49;
/// Images that it measures with, and the steps in which they are drawn.
const LOSS_IMAGES: u64 = 16;
const LOSS_STEPS: usize = 50;

/// The network's squared error over gamma, on images that the model draws itself: no data are at hand when it samples.
fn losses<N: ScoreNetwork>(
    model: &VariationalDiffusion<N>,
    options: &SampleOptions,
    conditioning: &mut dyn FnMut(Range<u64>) -> Conditioning,
    device: &Device,
) -> Result<Vec<(f64, f64)>, SampleError> {
    let own = SampleOptions { steps: LOSS_STEPS, grid: Grid::Time, batch_size: LOSS_IMAGES as usize, ..*options };
    let numbers = 0..LOSS_IMAGES;
    let bytes =
        sample_conditioned(model, &Ancestral, numbers.clone(), &mut *conditioning, &own, device, &mut unwatched)?;
    let levels: Vec<f32> = bytes.into_iter().map(f32::from).collect();
    let shape = model.shape();
    let k = Tensor::<4>::from_data(TensorData::new(levels, shape.batch(LOSS_IMAGES as usize)), device);
    let x = model.settings().vocabulary.encode(k);
    let streams: Vec<Philox> = numbers.clone().map(|number| Philox::new(options.seed, number)).collect();
    let (given, eps) = (conditioning(numbers), normal(&streams, DRAW_Z_1, shape, device));
    let schedule = model.schedule.to_host();
    let (gamma_0, gamma_1) = (schedule.gamma(0.0), schedule.gamma(1.0));
    let at = |i: usize| {
        let gamma = gamma_0 + (gamma_1 - gamma_0) * i as f64 / (LOSS_POINTS - 1) as f64;
        let gammas = Tensor::full([LOSS_IMAGES as usize], gamma, device);
        let z = diffuse(x.clone(), Tensor::clone(&gammas), eps.clone());
        let error = model.predict_noise(z, gammas, &given, Mode::Eval) - eps.clone();
        (gamma, host(&sum_of_squares(error)).iter().sum::<f64>() / LOSS_IMAGES as f64)
    };
    Ok((0..LOSS_POINTS).map(at).collect())
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

    /// The optimal network for data from N(0, TAU²), on tensors of one number an image: its flow is linear and known.
    struct Known {
        evaluations: usize,
    }

    const TAU: f64 = 0.5;

    fn known_variance(gamma: f64) -> f64 {
        use crate::math::sigmoid;
        sigmoid(-gamma) * TAU * TAU + sigmoid(gamma)
    }

    impl Denoiser for Known {
        fn eps_hat(&mut self, z: Tensor<4>, gamma: f64) -> Tensor<4> {
            self.evaluations += 1;
            z * (crate::diffusion::process::sigma(gamma) / known_variance(gamma))
        }

        fn eps_hat_of(&mut self, _: &[usize], z: Tensor<4>, gammas: &[f64]) -> Tensor<4> {
            self.eps_hat(z, gammas[0])
        }

        fn expected_error(&self, _: Tensor<4>, _: f64, _: Tensor<4>) -> Option<Tensor<4>> {
            None
        }

        fn noise(&mut self, step: u32) -> Tensor<4> {
            let stream = Philox::new(5, u64::from(step));
            normal(&[stream], 0, ImageShape { channels: 1, height: 1, width: 1 }, &Device::flex())
        }

        fn step_done(&mut self) -> Result<(), Stopped> {
            Ok(())
        }

        fn pulse(&mut self) -> Result<(), Stopped> {
            Ok(())
        }
    }

    /// z_0 from z_1 = 1.3 in `steps` steps from gamma 3 to -3.
    fn known(sampler: &dyn Sampler, steps: usize) -> (f64, usize) {
        let gammas: Vec<f64> = (0..=steps).map(|i| 3.0 - 6.0 * i as f64 / steps as f64).collect();
        let mut denoiser = Known { evaluations: 0 };
        let z = sampler.draw(Tensor::full([1, 1, 1, 1], 1.3, &Device::flex()), &gammas, &mut denoiser).unwrap();
        (host(&z.reshape([1]))[0], denoiser.evaluations)
    }

    #[test]
    fn a_trajectory_leads_from_noise_to_the_sample() {
        let (model, device) = (model(3), Device::flex());
        let mut given = |numbers: Range<u64>| Conditioning::classes_in_turn(numbers, 3);
        let options = SampleOptions { steps: 6, ..Default::default() };
        for (sampler, frames) in [(&Ancestral as &dyn Sampler, 4), (&DpmPlusPlus2M, 6), (&Heun, 100)] {
            let found =
                trajectory(&model, sampler, 1..3, frames, &mut given, &options, &device, &mut unwatched).unwrap();
            // Two images, a row of latents and one of estimates each; Heun has two evaluations a step.
            let frames = frames.min(if frames == 100 { 11 } else { 6 });
            assert_eq!(found.len(), 2 * 2 * frames * 16);
            let samples =
                sample_conditioned(&model, sampler, 1..3, &mut given, &options, &device, &mut unwatched).unwrap();
            assert_ne!(found[..16], samples[..16], "the first frame is noise");
        }
    }

    #[test]
    fn samplers_have_their_order() {
        let truth = 1.3 * (known_variance(-3.0) / known_variance(3.0)).sqrt();
        for (sampler, order) in [(&Ddim { eta: 0.0 } as &dyn Sampler, 1.0), (&Heun, 2.0), (&DpmPlusPlus2M, 2.0)] {
            let points: Vec<(f64, f64)> = [10, 20, 40, 80]
                .map(|steps| ((steps as f64).ln(), (known(sampler, steps).0 - truth).abs().ln()))
                .to_vec();
            let n = points.len() as f64;
            let (x, y) = points.iter().fold((0.0, 0.0), |(a, b), (x, y)| (a + x / n, b + y / n));
            let slope = points.iter().map(|p| (p.0 - x) * (p.1 - y)).sum::<f64>()
                / points.iter().map(|p| (p.0 - x) * (p.0 - x)).sum::<f64>();
            assert!((-slope - order).abs() < 0.35, "order {order}: slope {slope}, {points:?}");
        }
        let ode = OdeSampler { tolerance: crate::flow::Tolerance::new(1e-6) };
        assert!((known(&ode, 1).0 - truth).abs() < 1e-5);
    }

    #[test]
    fn any_number_of_steps_ends_at_gamma_0() {
        let truth = 1.3 * (known_variance(-3.0) / known_variance(3.0)).sqrt();
        for steps in [1, 2, 3, 50, 51] {
            for (sampler, evaluations) in
                [(&Ddim { eta: 0.0 } as &dyn Sampler, steps), (&Heun, 2 * steps - 1), (&DpmPlusPlus2M, steps)]
            {
                let (z, found) = known(sampler, steps);
                assert_eq!(found, evaluations);
                assert!((z - truth).abs() < 1.5 / steps as f64, "{steps}: {z} {truth}");
            }
        }
    }

    #[test]
    fn ddim_with_all_its_noise_is_ancestral_sampling() {
        for steps in [1, 4, 9] {
            let (a, b) = (known(&Ddim { eta: 1.0 }, steps).0, known(&Ancestral, steps).0);
            assert!((a - b).abs() < 1e-5, "{steps}: {a} {b}");
        }
        let mut denoiser = Known { evaluations: 0 };
        for eta in [-0.1, 1.1, f64::NAN] {
            let z = Tensor::full([1, 1, 1, 1], 1.0, &Device::flex());
            let error = Ddim { eta }.draw(z, &[1.0, 0.0], &mut denoiser).unwrap_err();
            assert!(matches!(error, SampleError::Eta { .. }));
        }
    }

    /// The flow of every image has steps of its own.
    #[test]
    fn every_sampler_draws_the_same_image_in_any_batch() {
        let (model, device) = (model(3), Device::flex());
        let settings = SamplerSettings { eta: 0.5, ..Default::default() };
        let given = |numbers: Range<u64>| Conditioning::classes_in_turn(numbers, 3);
        for kind in
            [SamplerKind::Ancestral, SamplerKind::Ddim, SamplerKind::Heun, SamplerKind::DpmPlusPlus2M, SamplerKind::Ode]
        {
            for grid in [Grid::Time, Grid::Gamma, Grid::Loss] {
                let draw = |batch_size| {
                    let options = SampleOptions { steps: 3, grid, batch_size, guidance: 1.5, ..Default::default() };
                    let sampler = kind.sampler(&settings);
                    sample_conditioned(&model, &*sampler, 0..5, given, &options, &device, &mut unwatched).unwrap()
                };
                assert_eq!(draw(1), draw(3), "{kind:?} {grid:?}");
            }
        }
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
