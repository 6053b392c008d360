//! What a sampler's latents look like on their way.

use super::{Batch, Denoiser, SampleError, SampleOptions, Sampler, points};
use crate::VariationalDiffusion;
use crate::diffusion::process::x_hat;
use crate::nn::{Conditioning, ScoreNetwork};
use crate::progress::{Progress, Stopped, tell};
use crate::random::{DRAW_Z_1, normal};
use burn::tensor::{Device, Tensor};
use std::ops::Range;
use vdm_kernels::rng::Philox;

/// From noise to image, for the images of these numbers: of each `frames` latents z_t, evenly spaced among the steps, then as
/// many estimates x_hat of the image at the same steps; image after image. Numbers outside of [-1, 1] are cut.
///
/// # Errors
/// See [`SampleError`].
#[allow(clippy::too_many_arguments)]
pub fn trajectory<N: ScoreNetwork>(
    model: &VariationalDiffusion<N>,
    sampler: &dyn Sampler,
    numbers: Range<u64>,
    frames: usize,
    conditioning: &mut dyn FnMut(Range<u64>) -> Conditioning,
    options: &SampleOptions,
    device: &Device,
    progress: &mut Progress,
) -> Result<Vec<u8>, SampleError> {
    let (shape, vocabulary) = (model.shape(), model.settings().vocabulary);
    let gammas = points(model, options, conditioning, device)?;
    let steps = gammas.len() - 1;
    let streams: Vec<Philox> = numbers.clone().map(|number| Philox::new(options.seed, number)).collect();
    let given = conditioning(numbers);
    given.check(model.network.classes(), streams.len())?;
    let mut done = 0;
    let mut steps_done = |steps_now: usize| {
        done += steps_now;
        tell(progress, done, steps)
    };
    let batch = Batch { model, streams: &streams, given: &given, options, device, steps_done: &mut steps_done };
    let mut recorder = Recorder { inner: batch, seen: Vec::new() };
    sampler.draw(normal(&streams, DRAW_Z_1, shape, device), &gammas, &mut recorder)?;

    let seen = recorder.seen;
    let frames = frames.clamp(1, seen.len().max(1));
    let chosen: Vec<&(f64, Tensor<4>, Tensor<4>)> = (0..frames)
        .filter_map(|i| seen.get(if frames < 2 { 0 } else { i * (seen.len() - 1) / (frames - 1) }))
        .collect();
    let images = streams.len();
    let levels = |t: Tensor<4>| -> Vec<u8> {
        let level = |x: f32| {
            let k = (f64::from(x) + 1.0) * vocabulary.levels() as f64 / 2.0 - 0.5;
            k.round().clamp(0.0, (vocabulary.levels() - 1).min(255) as f64) as u8
        };
        t.into_data().iter::<f32>().map(level).collect()
    };
    let latents: Vec<Vec<u8>> = chosen.iter().map(|(_, z, _)| levels(z.clone())).collect();
    let estimates: Vec<Vec<u8>> = chosen
        .iter()
        .map(|(gamma, z, eps_hat)| levels(x_hat(z.clone(), Tensor::full([images], *gamma, device), eps_hat.clone())))
        .collect();
    let dims = shape.dims();
    let of_image = |all: &[Vec<u8>], image: usize| -> Vec<u8> {
        all.iter().flat_map(|frame| frame[image * dims..][..dims].to_vec()).collect()
    };
    Ok((0..images).flat_map(|image| [of_image(&latents, image), of_image(&estimates, image)].concat()).collect())
}

/// Notes what the network is asked, and what it answers.
struct Recorder<D> {
    inner: D,
    seen: Vec<(f64, Tensor<4>, Tensor<4>)>,
}

impl<D: Denoiser> Denoiser for Recorder<D> {
    fn eps_hat(&mut self, z: Tensor<4>, gamma: f64) -> Tensor<4> {
        let eps_hat = self.inner.eps_hat(z.clone(), gamma);
        self.seen.push((gamma, z, eps_hat.clone()));
        eps_hat
    }

    fn eps_hat_of(&mut self, which: &[usize], z: Tensor<4>, gammas: &[f64]) -> Tensor<4> {
        let eps_hat = self.inner.eps_hat_of(which, z.clone(), gammas);
        // Where images have times of their own, only those of a single image make a row.
        if let [gamma] = gammas {
            self.seen.push((*gamma, z, eps_hat.clone()));
        }
        eps_hat
    }

    fn expected_error(&self, z: Tensor<4>, gamma: f64, eps_hat: Tensor<4>) -> Option<Tensor<4>> {
        self.inner.expected_error(z, gamma, eps_hat)
    }

    fn noise(&mut self, step: u32) -> Tensor<4> {
        self.inner.noise(step)
    }

    fn step_done(&mut self) -> Result<(), Stopped> {
        self.inner.step_done()
    }

    fn pulse(&mut self) -> Result<(), Stopped> {
        self.inner.pulse()
    }
}
