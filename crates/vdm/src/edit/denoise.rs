//! Taking off Gaussian noise of a known strength.

use super::{EditError, decoded, encoded};
use crate::VariationalDiffusion;
use crate::diffusion::Posterior;
use crate::diffusion::process::{alpha, x_hat};
use crate::nn::{Conditioning, Mode, ScoreNetwork};
use crate::progress::{Progress, tell};
use crate::random::{DENOISING, normal};
use crate::schedule::Schedule;
use burn::tensor::{Device, Tensor};
use vdm_kernels::rng::Philox;

/// An image without its noise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denoised {
    /// The expected image, E[x | noisy image]: of all estimates the one with the least squared error, and the smoother the more
    /// noise there was.
    pub expected: Vec<u8>,
    /// Draws of the image given the noisy one: as sharp as the model's samples.
    pub draws: Vec<u8>,
}

/// Takes noise of standard deviation `noise`, in levels, off `image`; `draws` images are drawn in `steps` steps.
///
/// A noisy image x + s eps, times alpha, is z at the gamma where sigma/alpha = s: there the network is asked, and from there
/// sampling begins.
///
/// # Errors
/// [`EditError::Noise`] if the model was not trained on noise of this strength; others, see [`EditError`].
#[allow(clippy::too_many_arguments)]
pub fn denoise<N: ScoreNetwork>(
    model: &VariationalDiffusion<N>,
    image: &[u8],
    noise: f64,
    draws: usize,
    steps: usize,
    seed: u64,
    given: &Conditioning,
    device: &Device,
    progress: &mut Progress,
) -> Result<Denoised, EditError> {
    let (shape, vocabulary) = (model.shape(), model.settings().vocabulary);
    if image.len() != shape.dims() {
        return Err(EditError::Size { what: "image", found: image.len(), expected: shape.dims() });
    }
    let schedule = model.schedule.to_host();
    let (gamma_0, gamma_1) = (schedule.gamma(0.0), schedule.gamma(1.0));
    let level = 2.0 / vocabulary.levels() as f64;
    let gamma = 2.0 * libm::log(noise * level);
    if !(gamma_0..=gamma_1).contains(&gamma) {
        let of = |gamma: f64| libm::exp(0.5 * gamma) / level;
        return Err(EditError::Noise { found: noise.to_string(), least: of(gamma_0), most: of(gamma_1) });
    }
    let images = draws.max(1);
    let given = given.select(&vec![0; images]);
    let mut z = encoded(model, &image.repeat(images), device)? * alpha(gamma);
    let at = |gamma: f64| Tensor::full([images], gamma, device);
    let eps_hat = model.predict_noise(z.clone(), at(gamma), &given, Mode::Eval);
    let expected = x_hat(z.clone(), at(gamma), eps_hat).narrow(0, 0, 1) * alpha(gamma_0);
    let expected: Vec<f32> = expected.into_data().iter::<f32>().collect();
    let expected = decoded(model, &expected, gamma_0)?;
    if draws == 0 {
        return Ok(Denoised { expected, draws: Vec::new() });
    }
    let streams: Vec<Philox> = (0..draws as u64).map(|n| Philox::new(seed ^ DENOISING, n)).collect();
    let steps = steps.max(1);
    // The schedule's own points, as many of them as lie below gamma.
    let below: Vec<f64> = schedule.evenly(4 * steps).into_iter().filter(|&point| point < gamma).collect();
    let every = below.len().div_ceil(steps).max(1);
    let mut gammas: Vec<f64> = below.into_iter().step_by(every).chain([gamma]).collect();
    gammas.reverse();
    for (i, pair) in gammas.windows(2).enumerate() {
        let (gamma_t, gamma_s) = (pair[0], pair[1]);
        let eps_hat = model.predict_noise(z.clone(), at(gamma_t), &given, Mode::Eval);
        z = Posterior::new(gamma_t, gamma_s).draw(z, eps_hat, normal(&streams, i as u32, shape, device));
        tell(progress, i + 1, gammas.len() - 1)?;
    }
    let z_0: Vec<f32> = z.into_data().iter::<f32>().collect();
    Ok(Denoised { expected, draws: decoded(model, &z_0, gamma_0)? })
}
