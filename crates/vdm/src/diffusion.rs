//! The model and its bound: -log p(x) <= prior + reconstruction + diffusion (VDM section 4).

use crate::data::ImageShape;
use crate::encoding::Vocabulary;
use crate::nn::{Conditioning, Mode, ScoreNetwork};
use crate::parts;
use crate::sample::image_noise;
use crate::schedule::{NoiseSchedule, ScheduleConfig, host};
use crate::times::{TimeSampling, discretise, draw_times};
use crate::variance::{ScheduleTape, VarianceError};
use burn::module::Module;
use burn::tensor::{
    Device, Tensor,
    activation::{log_sigmoid, sigmoid},
};
use serde::{Deserialize, Serialize};
use std::ops::Range;
use vdm_kernels::rng::Philox;

/// Which endpoints normalise gamma_t to the time in [0, 1] that the network is fed. One choice holds everywhere:
/// in training, evaluation and sampling.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TimeNormalization {
    /// The configured gamma_0 and gamma_1, as in the reference code: fixed whatever the schedule learns.
    #[default]
    Configured,
    /// The schedule's present endpoints.
    Current,
}

/// Everything but the network: what [`VariationalDiffusion::new`] needs.
#[derive(Clone, Debug)]
pub struct DiffusionSettings {
    /// The levels of a pixel.
    pub vocabulary: Vocabulary,
    /// Steps T of the discrete-time bound, or `None` for continuous time.
    pub timesteps: Option<usize>,
    /// The configured (gamma_0, gamma_1).
    pub configured_endpoints: (f64, f64),
    /// What the network's time is normalised by.
    pub time_normalization: TimeNormalization,
}

impl DiffusionSettings {
    /// Continuous time, with the network's time normalised by the schedule's configured endpoints.
    pub fn new(vocabulary: Vocabulary, schedule: &ScheduleConfig) -> Self {
        Self {
            vocabulary,
            timesteps: None,
            configured_endpoints: (schedule.gamma_0, schedule.gamma_1),
            time_normalization: TimeNormalization::Configured,
        }
    }
}

/// A variational diffusion model: a noise schedule and a network.
#[derive(Module, Debug)]
pub struct VariationalDiffusion<N> {
    /// The noise schedule.
    pub schedule: NoiseSchedule,
    /// The network that predicts the noise.
    pub network: N,
    #[module(skip)]
    settings: DiffusionSettings,
}

/// The random numbers of one evaluation of the bound: all that is random in it.
#[derive(Clone, Debug)]
pub struct Noise {
    /// Noise of z_t: the images' shape.
    pub eps: Tensor<4>,
    /// Noise of z_0: the images' shape.
    pub eps_0: Tensor<4>,
}

impl Noise {
    /// Standard normal noise; that of image `i` is drawn from `streams[i]`.
    pub fn draw(streams: &[Philox], shape: ImageShape, device: &Device) -> Self {
        Self { eps: image_noise(streams, 1, shape, device), eps_0: image_noise(streams, 2, shape, device) }
    }

    /// The noise of the images `images` of the batch.
    pub fn slice(&self, images: Range<usize>) -> Self {
        let of = |t: &Tensor<4>| t.clone().slice([images.clone()]);
        Self { eps: of(&self.eps), eps_0: of(&self.eps_0) }
    }

    /// The same on the device with autodiff.
    pub(crate) fn autodiff(self) -> Self {
        Self { eps: Tensor::from_inner(self.eps), eps_0: Tensor::from_inner(self.eps_0) }
    }
}

/// The terms of the bound, each in nats an image: `[batch]`.
#[derive(Clone, Debug)]
pub struct LossTerms {
    /// KL(q(z_1|x) || N(0, I)).
    pub prior: Tensor<1>,
    /// -E log p(x|z_0).
    pub reconstruction: Tensor<1>,
    /// The diffusion loss, in continuous or in discrete time.
    pub diffusion: Tensor<1>,
}

impl LossTerms {
    /// The bound in nats an image: `[batch]`.
    pub fn total(&self) -> Tensor<1> {
        self.prior.clone() + self.reconstruction.clone() + self.diffusion.clone()
    }
}

/// Nats to bits a dimension: divide by `dims` ln 2. The one place where this conversion is written down.
pub fn bits_per_dim(nats: f64, dims: usize) -> f64 {
    nats / (dims as f64 * std::f64::consts::LN_2)
}

impl<N: ScoreNetwork> VariationalDiffusion<N> {
    /// Puts a schedule and a network together.
    pub fn new(schedule: NoiseSchedule, network: N, settings: DiffusionSettings) -> Self {
        Self { schedule, network, settings }
    }

    /// The settings that the model was made with.
    pub fn settings(&self) -> &DiffusionSettings {
        &self.settings
    }

    /// The same weights as leaves of a graph of their own.
    pub(crate) fn with_own_leaves(&self) -> Self {
        Self {
            schedule: self.schedule.valid().train(),
            network: self.network.valid().train(),
            settings: self.settings.clone(),
        }
    }

    /// The same model with another number of steps in its bound; `None` for continuous time.
    pub fn with_timesteps(mut self, timesteps: Option<usize>) -> Self {
        self.settings.timesteps = timesteps;
        self
    }

    /// [`loss`](Self::loss) at low-discrepancy times and noise that are functions of `seed`.
    ///
    /// # Shapes
    /// - `k`: `[batch, channels, height, width]`, whole numbers in 0..V as floats
    pub fn draw_loss(&self, k: Tensor<4>, seed: u64, conditioning: &Conditioning, mode: Mode) -> LossTerms {
        let (times, noise) = draw(&k, seed);
        self.loss(k, &times, noise, conditioning, mode)
    }

    /// [`loss_with_tape`](Self::loss_with_tape) at the times and noise of [`draw_loss`](Self::draw_loss).
    ///
    /// # Shapes
    /// - `k`: `[batch, channels, height, width]`, whole numbers in 0..V as floats
    ///
    /// # Errors
    /// See [`loss_with_tape`](Self::loss_with_tape).
    pub fn draw_loss_with_tape(
        &self,
        k: Tensor<4>,
        seed: u64,
        conditioning: &Conditioning,
        mode: Mode,
    ) -> Result<(LossTerms, ScheduleTape), VarianceError> {
        let (times, noise) = draw(&k, seed);
        self.loss_with_tape(k, &times, noise, conditioning, mode)
    }

    /// The terms of the bound for the images `k`.
    ///
    /// The estimate is unbiased for each image if its time is uniform on [0, 1) and its noise standard normal.
    ///
    /// # Shapes
    /// - `k`: `[batch, channels, height, width]`, whole numbers in 0..V as floats, on the model's device
    /// - `times`: one a image, in [0, 1); rounded up to the grid in discrete time
    /// - `noise`: the images' shape
    pub fn loss(
        &self,
        k: Tensor<4>,
        times: &[f64],
        noise: Noise,
        conditioning: &Conditioning,
        mode: Mode,
    ) -> LossTerms {
        let at = |times: &[f64]| self.schedule.forward(time_tensor(times, &k.device()));
        let (gamma_t, weight) = match self.settings.timesteps {
            None => {
                let at = at(times);
                (at.gamma, at.prime * 0.5)
            }
            Some(steps) => {
                let times: Vec<f64> = times.iter().map(|&t| discretise(t, steps)).collect();
                let before: Vec<f64> = times.iter().map(|t| t - 1.0 / steps as f64).collect();
                let gamma_t = at(&times).gamma;
                (gamma_t.clone(), expm1(gamma_t - at(&before).gamma) * (0.5 * steps as f64))
            }
        };
        self.terms(k, gamma_t, weight, noise, conditioning, mode)
    }

    /// [`loss`](Self::loss) with the graph of the diffusion term cut at gamma_t and gamma'_t, for
    /// [`reduce_variance`](crate::variance::reduce_variance); the values are the same. Without that call the schedule's
    /// parameters lack the diffusion term's gradient.
    ///
    /// # Errors
    /// [`VarianceError::DiscreteTime`] if the model has a number of steps: only in continuous time the bound does not
    /// depend on the schedule between its endpoints.
    pub fn loss_with_tape(
        &self,
        k: Tensor<4>,
        times: &[f64],
        noise: Noise,
        conditioning: &Conditioning,
        mode: Mode,
    ) -> Result<(LossTerms, ScheduleTape), VarianceError> {
        if let Some(timesteps) = self.settings.timesteps {
            return Err(VarianceError::DiscreteTime { timesteps });
        }
        let tape = ScheduleTape::record(&self.schedule, time_tensor(times, &k.device()));
        let at = tape.at();
        Ok((self.terms(k, at.gamma, at.prime * 0.5, noise, conditioning, mode), tape))
    }

    /// The terms of the bound at gamma_t, where the network's squared error counts `weight` times.
    fn terms(
        &self,
        k: Tensor<4>,
        gamma_t: Tensor<1>,
        weight: Tensor<1>,
        noise: Noise,
        conditioning: &Conditioning,
        mode: Mode,
    ) -> LossTerms {
        let [batch, c, h, w] = k.dims();
        let dims = c * h * w;
        let device = k.device();
        let vocabulary = self.settings.vocabulary;
        let x = vocabulary.encode(k.clone());
        let (gamma_0, gamma_1) = self.schedule.endpoints(&device);

        // 1. Reconstruction: -log p(x|z_0), z_0/alpha_0 = x + e^(gamma_0/2) eps_0.
        let reconstruction = {
            let r = (gamma_0.clone() * -0.5).exp() * (2.0 / vocabulary.levels() as f64);
            let r_now = host(&r)[0];
            let flat = |t: Tensor<4>| t.reshape([batch, dims]);
            let (nll, d_nll) = vdm_kernels::decoder_nll(flat(noise.eps_0), flat(k), vocabulary.levels(), r_now);
            let [nll, d_nll] = [nll, d_nll].map(|t| onto(t, &device));
            // Value nll, derivative d_nll dr: the decoder's kernel gives both in closed form.
            nll + d_nll * (r - r_now)
        };

        // 2. Prior: KL of q(z_1|x) from the standard normal.
        let prior = {
            let square = flat_square(x.clone());
            let alpha_square = sigmoid(gamma_1.clone() * -1.0);
            // sigma² - 1 is written as -alpha², which keeps its digits where sigma² is nearly 1.
            let rest = log_sigmoid(gamma_1) * -1.0 - alpha_square.clone();
            (square * alpha_square + rest * dims as f64) * 0.5
        };

        // 3. Diffusion: the network's squared error at one time an image.
        let diffusion = {
            let z_t = self.diffuse(x, gamma_t.clone(), noise.eps.clone());
            let eps_hat = self.predict_noise(z_t, gamma_t, conditioning, mode);
            flat_square(eps_hat - noise.eps) * weight
        };

        LossTerms { prior, reconstruction, diffusion }
    }

    /// z_t = alpha_t x + sigma_t eps.
    ///
    /// # Shapes
    /// - `x`, `eps`: `[batch, channels, height, width]`; `gamma`: `[batch]`
    pub fn diffuse(&self, x: Tensor<4>, gamma: Tensor<1>, eps: Tensor<4>) -> Tensor<4> {
        let alpha = column(sigmoid(gamma.clone() * -1.0).sqrt());
        let sigma = column(sigmoid(gamma).sqrt());
        x * alpha + eps * sigma
    }

    /// eps_hat(z, gamma).
    ///
    /// For a network with self-conditioning, where the conditioning brings no estimate of x, a first pass without one
    /// makes it from the same z (Chen et al. 2022, arXiv 2208.04202, who take the estimate of the step before when they
    /// sample). So eps_hat is a function of z, gamma and the conditioning alone, the same in the bound, in sampling and
    /// in the codec, and the bound stays a bound. In training, half of the passes make do without an estimate, and
    /// nothing is learned through the first pass.
    ///
    /// # Shapes
    /// - `z`: `[batch, channels, height, width]`; `gamma`: `[batch]`
    pub fn predict_noise(&self, z: Tensor<4>, gamma: Tensor<1>, conditioning: &Conditioning, mode: Mode) -> Tensor<4> {
        let time = match self.settings.time_normalization {
            TimeNormalization::Configured => {
                let (start, end) = self.settings.configured_endpoints;
                (gamma.clone() - start) / (end - start)
            }
            TimeNormalization::Current => {
                let (start, end) = self.schedule.endpoints(&gamma.device());
                (gamma.clone() - start.clone()) / (end - start)
            }
        };
        let without = match mode {
            Mode::Train { dropout_seed } => Philox::new(dropout_seed, ESTIMATE_STREAM).uniform_f64(0) < 0.5,
            Mode::Eval => false,
        };
        if !self.network.self_conditioned() || conditioning.self_cond.is_some() || without {
            return in_parts(&self.network, z, time, conditioning, mode);
        }
        let estimate = if z.is_autodiff() {
            let (z, time, gamma) = (z.clone().inner(), time.clone().inner(), gamma.inner());
            let estimate = first_estimate(&self.network.clone().valid(), z, time, gamma, &conditioning.inner());
            Tensor::from_inner(estimate)
        } else {
            first_estimate(&self.network, z.clone(), time.clone(), gamma, conditioning)
        };
        let conditioning = Conditioning { self_cond: Some(estimate), ..conditioning.clone() };
        in_parts(&self.network, z, time, &conditioning, mode)
    }
}

/// Stream of the coin that says whether a training pass gets an estimate; the layers' dropout has those from 1, the
/// times of [`draw_loss`](VariationalDiffusion::draw_loss), which may have the same seed, that of `u64::MAX`.
const ESTIMATE_STREAM: u64 = u64::MAX - 1;

/// The network's output; on the CPU and without autodiff, parts of the batch are computed side by side.
fn in_parts<N: ScoreNetwork>(
    network: &N,
    z: Tensor<4>,
    time: Tensor<1>,
    conditioning: &Conditioning,
    mode: Mode,
) -> Tensor<4> {
    // With autodiff there is one graph for all, and dropout's masks depend on the position in the batch.
    let whole = z.is_autodiff() || mode != Mode::Eval;
    let parts = if whole { Vec::new() } else { parts::for_inference(&z) };
    if parts.len() <= 1 {
        return network.predict_noise(z, time, conditioning, mode);
    }
    let jobs = parts.into_iter().map(|part| {
        let given = conditioning.slice(part.clone());
        (network.clone(), z.clone().slice([part.clone()]), time.clone().slice([part]), given)
    });
    let outputs = vdm_kernels::teams::map(jobs.collect(), |(network, z, time, given)| {
        network.predict_noise(z, time, &given, mode)
    });
    Tensor::cat(outputs, 0)
}

/// x_hat = (z - sigma eps_hat) / alpha of a pass without an estimate, in [-1, 1].
fn first_estimate<N: ScoreNetwork>(
    network: &N,
    z: Tensor<4>,
    time: Tensor<1>,
    gamma: Tensor<1>,
    conditioning: &Conditioning,
) -> Tensor<4> {
    let eps_hat = in_parts(network, z.clone(), time, conditioning, Mode::Eval);
    let alpha = column(sigmoid(gamma.clone() * -1.0).sqrt());
    let sigma = column(sigmoid(gamma).sqrt());
    ((z - eps_hat * sigma) / alpha).clamp(-1.0, 1.0)
}

/// Low-discrepancy times and noise for a batch like `k`: functions of `seed` and the position in the batch.
pub(crate) fn draw(k: &Tensor<4>, seed: u64) -> (Vec<f64>, Noise) {
    let [batch, channels, height, width] = k.dims();
    let streams: Vec<Philox> = (0..batch as u64).map(|i| Philox::new(seed, i)).collect();
    let times = draw_times(TimeSampling::LowDiscrepancy, batch, &Philox::new(seed, u64::MAX), 0);
    (times, Noise::draw(&streams, ImageShape { channels, height, width }, &k.device()))
}

/// e^x - 1 without cancellation near 0: tanh(x/2) (e^x + 1).
fn expm1(x: Tensor<1>) -> Tensor<1> {
    (x.clone() * 0.5).tanh() * (x.exp() + 1.0)
}

/// One number an image, `[batch]`, shaped to multiply images.
fn column(t: Tensor<1>) -> Tensor<4> {
    let [batch] = t.dims();
    t.reshape([batch, 1, 1, 1])
}

/// The sum of squares of each image: `[batch]`.
fn flat_square(x: Tensor<4>) -> Tensor<1> {
    let [batch, c, h, w] = x.dims();
    let x = x.reshape([batch, c * h * w]);
    (x.clone() * x).sum_dim(1).reshape([batch])
}

fn time_tensor(times: &[f64], device: &Device) -> Tensor<1> {
    let times: Vec<f32> = times.iter().map(|&t| t as f32).collect();
    Tensor::from_data(times.as_slice(), device)
}

/// Brings a tensor without autodiff to `device`, which may have it.
fn onto(t: Tensor<1>, device: &Device) -> Tensor<1> {
    if device.is_autodiff() { Tensor::from_inner(t) } else { t }
}
