//! Ancestral sampling (VDM section 3.1, appendix A): from noise z_1 to an image in T steps.
//!
//! Every image has its own seed, so an image does not depend on the batch it is drawn in, nor on how many are drawn.
//! The scalars of a step are worked out in f64 on the host.

use crate::VariationalDiffusion;
use crate::data::ImageShape;
use crate::encoding::{alpha, sigma, sigmoid};
use crate::nn::{Conditioning, Mode, ScoreNetwork};
use burn::tensor::{Device, Tensor, TensorData};
use serde::{Deserialize, Serialize};
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
    /// Image `i` is a function of (`seed`, `i`) alone.
    pub seed: u64,
    /// Images that go through the network at a time; has no influence on the images.
    pub batch_size: usize,
}

/// Draws of each image's stream of random numbers: z_1 and the steps' noises, then the decoder's.
const DRAW_Z_1: u32 = 0;
const DRAW_DECODER: u32 = u32::MAX;

/// Draws the images number `first .. first + count`; their bytes, channels first, image after image. Levels above 255,
/// which no image of bytes has, are cut to it.
///
/// `progress` hears the network evaluations done and to do.
pub fn sample<N: ScoreNetwork>(
    model: &VariationalDiffusion<N>,
    shape: ImageShape,
    first: u64,
    count: usize,
    options: &SampleOptions,
    device: &Device,
    mut progress: impl FnMut(usize, usize),
) -> Vec<u8> {
    let schedule = model.schedule.to_host();
    let steps = options.steps.max(1);
    let gammas: Vec<f64> = (0..=steps).map(|i| schedule.gamma((steps - i) as f64 / steps as f64)).collect();
    let batch_size = options.batch_size.max(1);
    let total = count.div_ceil(batch_size) * steps;
    let mut bytes = Vec::with_capacity(count * shape.dims());
    let mut done = 0;
    while bytes.len() < count * shape.dims() {
        let drawn = bytes.len() / shape.dims();
        let batch = batch_size.min(count - drawn);
        let number = |i: usize| first.wrapping_add((drawn + i) as u64);
        let streams: Vec<Philox> = (0..batch).map(|i| Philox::new(options.seed, number(i))).collect();
        let noise = |draw| image_noise(&streams, draw, shape, device);
        let mut z = noise(DRAW_Z_1);
        for (i, pair) in gammas.windows(2).enumerate() {
            let step = AncestralStep::new(pair[0], pair[1]);
            let gamma = Tensor::full([batch], step.gamma_t, device);
            let eps_hat = model.predict_noise(z.clone(), gamma, &Conditioning::default(), Mode::Eval);
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
    bytes
}

fn byte(level: u16) -> u8 {
    u8::try_from(level).unwrap_or(u8::MAX)
}

/// Standard normal images, one from each stream: `[streams, channels, height, width]`.
pub(crate) fn image_noise(streams: &[Philox], draw: u32, shape: ImageShape, device: &Device) -> Tensor<4> {
    let data = normal_images(streams, draw, shape.dims());
    Tensor::from_data(TensorData::new(data, [streams.len(), shape.channels, shape.height, shape.width]), device)
}
