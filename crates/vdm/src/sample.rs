//! Ancestral sampling (VDM section 3.1, appendix A): from noise z_1 to an image in T steps.
//!
//! Every image has its own seed, so an image does not depend on the batch it is drawn in, nor on how many are drawn.
//! The scalars of a step are worked out in f64 on the host.

use crate::VariationalDiffusion;
use crate::data::ImageShape;
use crate::encoding::{alpha, sigma, sigmoid};
use crate::nn::{Conditioning, ConditioningError, Mode, ScoreNetwork};
use burn::tensor::{Device, Tensor, TensorData};
use serde::{Deserialize, Serialize};
use std::ops::Range;
use vdm_kernels::rng::{Philox, normal_images};

/// The scalars of one step from z_t to z_s, s < t.
#[derive(Clone, Copy, Debug)]
pub struct AncestralStep {
    /// gamma(t).
    pub gamma_t: f64,
    /// gamma(s).
    pub gamma_s: f64,
}

impl AncestralStep {
    /// The step between two points of a schedule, `gamma_t > gamma_s`.
    pub fn new(gamma_t: f64, gamma_s: f64) -> Self {
        Self { gamma_t, gamma_s }
    }

    /// z_s = sqrt(alpha_s²/alpha_t²) (z_t - sigma_t c eps_hat) + sqrt(sigma_s² c) eps, c = -expm1(gamma_s - gamma_t)
    /// (VDM equation 34).
    ///
    /// With `clip`, eps_hat is replaced by the one whose x_hat = (z_t - sigma_t eps_hat)/alpha_t lies in [-1, 1].
    ///
    /// # Shapes
    /// All `[batch, channels, height, width]`.
    pub fn apply(&self, z_t: Tensor<4>, eps_hat: Tensor<4>, eps: Tensor<4>, clip: bool) -> Tensor<4> {
        let c = -(self.gamma_s - self.gamma_t).exp_m1();
        let (alpha_t, sigma_t) = (alpha(self.gamma_t), sigma(self.gamma_t));
        let eps_hat = if clip {
            let x_hat = ((z_t.clone() - eps_hat * sigma_t) / alpha_t).clamp(-1.0, 1.0);
            (z_t.clone() - x_hat * alpha_t) / sigma_t
        } else {
            eps_hat
        };
        let mean = (z_t - eps_hat * (sigma_t * c)) * (alpha(self.gamma_s) / alpha_t);
        mean + eps * (sigmoid(self.gamma_s) * c).sqrt()
    }
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
    /// Steps T; T + 1 points of the schedule.
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

/// Draws of each image's stream of random numbers: z_1 and the steps' noises, then the decoder's.
const DRAW_Z_1: u32 = 0;
const DRAW_DECODER: u32 = u32::MAX;

/// Draws the images of these `numbers`, without a class or any other conditioning; their bytes, channels first, image
/// after image. Levels above 255, which no image of bytes has, are cut to it.
///
/// `progress` hears the steps done and to do, over all batches.
pub fn sample<N: ScoreNetwork>(
    model: &VariationalDiffusion<N>,
    shape: ImageShape,
    numbers: Range<u64>,
    options: &SampleOptions,
    device: &Device,
    progress: impl FnMut(usize, usize),
) -> Vec<u8> {
    let nothing = |_: Range<u64>| Conditioning::default();
    sample_conditioned(model, shape, numbers, nothing, options, device, progress)
        .expect("an empty conditioning fits every network")
}

/// [`sample`], with what `conditioning` says about the images of these numbers.
///
/// # Errors
/// [`ConditioningError`] if it says something that does not fit.
pub fn sample_conditioned<N: ScoreNetwork>(
    model: &VariationalDiffusion<N>,
    shape: ImageShape,
    numbers: Range<u64>,
    mut conditioning: impl FnMut(Range<u64>) -> Conditioning,
    options: &SampleOptions,
    device: &Device,
    mut progress: impl FnMut(usize, usize),
) -> Result<Vec<u8>, ConditioningError> {
    let schedule = model.schedule.to_host();
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
        given.check(&model.network, streams.len())?;
        let noise = |draw| image_noise(&streams, draw, shape, device);
        let mut z = noise(DRAW_Z_1);
        for (i, pair) in gammas.windows(2).enumerate() {
            let step = AncestralStep::new(pair[0], pair[1]);
            let gamma = Tensor::full([streams.len()], step.gamma_t, device);
            let eps_hat = guided(model, z.clone(), gamma, &given, options.guidance);
            z = step.apply(z, eps_hat, noise(i as u32 + 1), options.clip);
            done += 1;
            progress(done, total);
        }
        let z_0: Vec<f32> = z.into_data().iter::<f32>().collect();
        for (z_0, stream) in z_0.chunks_exact(shape.dims()).zip(&streams) {
            let (gamma_0, vocabulary) = (gammas[steps], model.settings().vocabulary);
            match options.decoder {
                DecoderRule::Argmax => bytes.extend(z_0.iter().map(|&z| byte(vocabulary.argmax(z, gamma_0)))),
                DecoderRule::Draw => {
                    let mut u = vec![0f32; z_0.len()];
                    stream.uniform(DRAW_DECODER, &mut u);
                    bytes.extend(z_0.iter().zip(u).map(|(&z, u)| byte(vocabulary.draw(z, gamma_0, f64::from(u)))));
                }
            }
        }
    }
    Ok(bytes)
}

/// eps_hat with guidance: that without class and control, plus `weight` times what they change.
fn guided<N: ScoreNetwork>(
    model: &VariationalDiffusion<N>,
    z: Tensor<4>,
    gamma: Tensor<1>,
    given: &Conditioning,
    weight: f64,
) -> Tensor<4> {
    if weight == 1.0 || !given.has_class_or_control() {
        return model.predict_noise(z, gamma, given, Mode::Eval);
    }
    let without = given.without_class_and_control();
    let without = model.predict_noise(z.clone(), gamma.clone(), &without, Mode::Eval);
    if weight == 0.0 {
        return without;
    }
    let with = model.predict_noise(z, gamma, given, Mode::Eval);
    without.clone() + (with - without) * weight
}

fn byte(level: u16) -> u8 {
    u8::try_from(level).unwrap_or(u8::MAX)
}

/// Standard normal images, one from each stream: `[streams, channels, height, width]`.
pub(crate) fn image_noise(streams: &[Philox], draw: u32, shape: ImageShape, device: &Device) -> Tensor<4> {
    let data = normal_images(streams, draw, shape.dims());
    Tensor::from_data(TensorData::new(data, [streams.len(), shape.channels, shape.height, shape.width]), device)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encoding::Vocabulary;
    use crate::nn::{ScoreUNet, ScoreUNetConfig};
    use crate::schedule::ScheduleConfig;
    use crate::{DiffusionSettings, weights};

    const SHAPE: ImageShape = ImageShape { channels: 1, height: 4, width: 4 };

    /// A network with classes, always the same, whose parameters are all at work.
    fn model(classes: usize) -> VariationalDiffusion<ScoreUNet> {
        let device = Device::flex();
        let schedule = ScheduleConfig { gamma_0: -6.0, ..Default::default() };
        let settings = DiffusionSettings::new(Vocabulary::new(17).unwrap(), &schedule);
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
        sample_conditioned(&model(3), SHAPE, 0..classes.len() as u64, given, &options, &Device::flex(), |_, _| {})
            .unwrap()
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
        let z = image_noise(&[Philox::new(1, 1), Philox::new(1, 2)], 0, SHAPE, &device);
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
            sample_conditioned(model, SHAPE, 0..2, given, &options, &device, |_, _| {}).unwrap_err().to_string()
        };
        assert!(error(&model(3), vec![None, Some(3)]).contains("image 1 of the batch is of class 3"));
        assert!(error(&model(3), vec![None]).contains("classes: 1 for 2 images"));
        assert!(error(&model(0), vec![Some(0), None]).contains("not trained with classes"));
    }
}
