//! The bound: -log p(x) <= reconstruction + prior + diffusion (VDM section 4), in nats per image.

use super::VariationalDiffusion;
use super::process::diffuse;
use super::times::{TimeSampling, discretise, draw_times};
use crate::math::{exp_of, expm1, host, onto, sigmoid_of, sum_of_squares, time_tensor};
use crate::nn::{Conditioning, Mode, ScoreNetwork};
use crate::random::{DRAW_EPS, DRAW_EPS_0, DRAWN_TIMES, normal};
use crate::schedule::{GammaAt, ObjectiveError, Schedule, ScheduleTape};
use crate::shape::ImageShape;
use burn::tensor::{Device, Tensor};
use std::ops::Range;
use vdm_kernels::rng::Philox;
use vdm_kernels::{Function, elementary};

/// The terms of the bound, each in nats per image: `[batch]`.
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
    /// The same on another device.
    pub(crate) fn to_device(&self, device: &Device) -> Self {
        let to = |t: &Tensor<1>| t.clone().to_device(device);
        Self { prior: to(&self.prior), reconstruction: to(&self.reconstruction), diffusion: to(&self.diffusion) }
    }

    /// The bound in nats per image: `[batch]`.
    pub fn total(&self) -> Tensor<1> {
        self.prior.clone() + self.reconstruction.clone() + self.diffusion.clone()
    }
}

/// Nats to bits per dimension: divide by `dims` ln 2. The one place where this conversion is written down.
// ANCHOR: bits
pub fn bits_per_dim(nats: f64, dims: usize) -> f64 {
    nats / (dims as f64 * std::f64::consts::LN_2)
}
// ANCHOR_END: bits

impl<N: ScoreNetwork> VariationalDiffusion<N> {
    /// The three terms of the bound, at the gammas that `gamma_at` gives for times.
    fn terms(
        &self,
        k: Tensor<4>,
        times: &[f64],
        gamma_at: impl Fn(&[f64]) -> GammaAt,
        noise: Noise,
        conditioning: &Conditioning,
        mode: Mode,
    ) -> LossTerms {
        let (device, vocabulary) = (k.device(), self.settings().vocabulary);
        let [batch, c, h, w] = k.dims();
        let dims = c * h * w;
        let x = vocabulary.encode(k.clone());
        let (gamma_0, gamma_1) = self.schedule.endpoints(&device);

        // ANCHOR: reconstruction
        // 1. Reconstruction: -log p(x|z_0), where z_0/alpha_0 = x + e^(gamma_0/2) eps_0.
        let reconstruction = {
            let r = exp_of(gamma_0.clone() * -0.5) * (2.0 / vocabulary.levels() as f64);
            let r_now = r.clone().detach();
            let flat = |t: Tensor<4>| t.reshape([batch, dims]);
            let (nll, d_nll) =
                vdm_kernels::decoder_nll_at(flat(noise.eps_0), flat(k), vocabulary.levels(), r_now.clone());
            // The kernel gives the value and the derivative with respect to r; this has both.
            onto(nll, &device) + onto(d_nll, &device) * (r - r_now)
        };
        // ANCHOR_END: reconstruction

        // ANCHOR: prior
        // 2. Prior: KL(q(z_1|x) || N(0, I)) = 1/2 sum (alpha_1² x² + sigma_1² - 1 - log sigma_1²).
        let prior = {
            let alpha_square = sigmoid_of(gamma_1.clone() * -1.0);
            // sigma² - 1 is written as -alpha², which keeps its digits where sigma² is nearly 1.
            let rest = elementary(gamma_1, Function::LogSigmoid) * -1.0 - alpha_square.clone();
            (sum_of_squares(x.clone()) * alpha_square + rest * dims as f64) * 0.5
        };
        // ANCHOR_END: prior

        // 3. Diffusion: a weight times ||eps - eps_hat(z_t, gamma_t)||², at one time per image.
        let diffusion = {
            // ANCHOR: weight
            let (gamma_t, weight) = match self.settings().timesteps {
                // Continuous time (section 5): 1/2 gamma'(t).
                None => {
                    let at = gamma_at(times);
                    (at.gamma, at.prime * 0.5)
                }
                // T steps (section 4): T/2 (e^(gamma_t - gamma_s) - 1), s = t - 1/T.
                Some(steps) => {
                    let t: Vec<f64> = times.iter().map(|&t| discretise(t, steps)).collect();
                    let s: Vec<f64> = t.iter().map(|t| t - 1.0 / steps as f64).collect();
                    let gamma_t = gamma_at(&t).gamma;
                    (gamma_t.clone(), expm1(gamma_t - gamma_at(&s).gamma) * (0.5 * steps as f64))
                }
            };
            // ANCHOR_END: weight
            let z_t = diffuse(x, gamma_t.clone(), noise.eps.clone());
            let eps_hat = self.predict_noise(z_t.clone(), gamma_t.clone(), conditioning, mode);
            match (self.settings().timesteps, self.errors()) {
                // T steps with wider variances, in evaluation: T times what `error_model` says a step costs.
                (Some(steps), Some(errors)) if mode == Mode::Eval && !z_t.is_autodiff() => {
                    let c: Vec<f64> = host(&weight).iter().map(|weight| weight * 2.0 / steps as f64).collect();
                    let expected = errors.expected(z_t, &host(&gamma_t), eps_hat.clone());
                    let of_images = wider_step(&c, &(eps_hat - noise.eps), &expected);
                    let of_images: Vec<f32> = of_images.iter().map(|nats| (nats * steps as f64) as f32).collect();
                    Tensor::from_data(of_images.as_slice(), &device)
                }
                _ => sum_of_squares(eps_hat - noise.eps) * weight,
            }
        };

        LossTerms { prior, reconstruction, diffusion }
    }

    /// The terms of the bound for the images `k`.
    ///
    /// The estimate is unbiased for each image if its time is uniform on [0, 1) and its noise standard normal.
    ///
    /// # Shapes
    /// - `k`: `[batch, channels, height, width]`, whole numbers in 0..V as floats, on the model's device
    /// - `times`: one per image, in [0, 1); rounded up to the grid in discrete time
    /// - `noise`: the images' shape
    pub fn loss(
        &self,
        k: Tensor<4>,
        times: &[f64],
        noise: Noise,
        conditioning: &Conditioning,
        mode: Mode,
    ) -> LossTerms {
        let device = k.device();
        let gamma_at = |times: &[f64]| self.schedule.forward(time_tensor(times, &device));
        self.terms(k, times, gamma_at, noise, conditioning, mode)
    }

    /// [`loss`](Self::loss) with the graph of the diffusion term cut at gamma_t and gamma'_t, for
    /// [`schedule_gradients`](crate::schedule::schedule_gradients); the values are the same. Without that call the
    /// schedule's parameters lack the diffusion term's gradient.
    ///
    /// # Errors
    /// [`ObjectiveError::DiscreteTime`] if the model has a number of steps: only in continuous time the bound does not
    /// depend on the schedule between its endpoints.
    pub fn loss_with_tape(
        &self,
        k: Tensor<4>,
        times: &[f64],
        noise: Noise,
        conditioning: &Conditioning,
        mode: Mode,
    ) -> Result<(LossTerms, ScheduleTape), ObjectiveError> {
        if let Some(timesteps) = self.settings().timesteps {
            return Err(ObjectiveError::DiscreteTime { timesteps });
        }
        let tape = ScheduleTape::record(&self.schedule, time_tensor(times, &k.device()));
        Ok((self.terms(k, times, |_| tape.at(), noise, conditioning, mode), tape))
    }

    /// [`loss`](Self::loss) at low-discrepancy times and with noise that are functions of `seed`.
    ///
    /// # Shapes
    /// - `k`: `[batch, channels, height, width]`, whole numbers in 0..V as floats
    pub fn draw_loss(&self, k: Tensor<4>, seed: u64, conditioning: &Conditioning, mode: Mode) -> LossTerms {
        let (times, noise) = draw_inputs(&k, seed);
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
    ) -> Result<(LossTerms, ScheduleTape), ObjectiveError> {
        let (times, noise) = draw_inputs(&k, seed);
        self.loss_with_tape(k, &times, noise, conditioning, mode)
    }
}

/// What one step costs each image in nats, with variances 1 + r times the posterior's, r = c M: the sum over an image's numbers
/// of 1/2 (log(1 + r) + (1 + c m)/(1 + r) - 1), with m the squared error and c = expm1(gamma_t - gamma_s) of each image.
fn wider_step(c: &[f64], error: &Tensor<4>, expected: &Tensor<4>) -> Vec<f64> {
    let (error, expected) = (host(error), host(expected));
    let dims = error.len() / c.len().max(1);
    let of_image = |(i, &c): (usize, &f64)| -> f64 {
        let numbers = i * dims..(i + 1) * dims;
        let of_number = |(error, expected): (&f64, &f64)| {
            let r = c * expected;
            0.5 * (libm::log1p(r) + (c * error * error - r) / (1.0 + r))
        };
        error[numbers.clone()].iter().zip(&expected[numbers]).map(of_number).sum()
    };
    c.iter().enumerate().map(of_image).collect()
}

/// The noise of one evaluation of the bound. Its times are drawn apart from it, and in training so are dropout and
/// augmentation.
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
        Self { eps: normal(streams, DRAW_EPS, shape, device), eps_0: normal(streams, DRAW_EPS_0, shape, device) }
    }

    /// The noise of the images `images` of the batch.
    pub fn slice(&self, images: Range<usize>) -> Self {
        let of = |t: &Tensor<4>| t.clone().slice([images.clone()]);
        Self { eps: of(&self.eps), eps_0: of(&self.eps_0) }
    }

    /// The same on another device.
    pub(crate) fn to_device(&self, device: &Device) -> Self {
        let to = |t: &Tensor<4>| t.clone().to_device(device);
        Self { eps: to(&self.eps), eps_0: to(&self.eps_0) }
    }

    /// The same on the device with autodiff.
    pub(crate) fn autodiff(self) -> Self {
        Self { eps: Tensor::from_inner(self.eps), eps_0: Tensor::from_inner(self.eps_0) }
    }
}

/// Low-discrepancy times and noise for a batch like `k`: functions of `seed` and the position in the batch.
pub(crate) fn draw_inputs(k: &Tensor<4>, seed: u64) -> (Vec<f64>, Noise) {
    let [batch, channels, height, width] = k.dims();
    let streams: Vec<Philox> = (0..batch as u64).map(|i| Philox::new(seed, i)).collect();
    let times = draw_times(TimeSampling::LowDiscrepancy, batch, &Philox::new(seed, DRAWN_TIMES), 0);
    (times, Noise::draw(&streams, ImageShape { channels, height, width }, &k.device()))
}
