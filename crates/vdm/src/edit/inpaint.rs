//! Drawing what a mask hides (Lugmayr et al. 2022, arXiv 2201.09865, RePaint).

use super::{EditError, decoded, encoded};
use crate::VariationalDiffusion;
use crate::diffusion::Posterior;
use crate::diffusion::process::{alpha, sigma};
use crate::nn::{Conditioning, Mode, ScoreNetwork};
use crate::progress::{Progress, tell};
use crate::random::{INPAINTING, normal};
use crate::schedule::Schedule;
use burn::tensor::{Device, Tensor, TensorData};
use vdm_kernels::rng::Philox;

/// How to inpaint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inpainting {
    /// Draws of the hidden part, at least 1.
    pub count: usize,
    /// Steps, at least 1.
    pub steps: usize,
    /// How often each step is done, noise being added again in between: with 1 the hidden part does not quite see the known
    /// one; 5 to 10 are enough.
    pub repeats: usize,
    /// Draw number n is a function of the seed and n.
    pub seed: u64,
}

impl Default for Inpainting {
    /// 8 draws of 100 steps, each done 5 times.
    fn default() -> Self {
        Self { count: 8, steps: 100, repeats: 5, seed: 0 }
    }
}

/// Draws of the pixels of `image` where `known` (one entry a pixel, for all its channels) is false; the others stay.
///
/// Ancestral sampling, in which the known pixels of every z_s are drawn from q(z_s | x). It is no exact draw from the model's
/// distribution given the known pixels, but comes near to one with many steps and repeats.
///
/// # Errors
/// See [`EditError`].
pub fn inpaint<N: ScoreNetwork>(
    model: &VariationalDiffusion<N>,
    image: &[u8],
    known: &[bool],
    options: &Inpainting,
    given: &Conditioning,
    device: &Device,
    progress: &mut Progress,
) -> Result<Vec<u8>, EditError> {
    let shape = model.shape();
    let (dims, pixels) = (shape.dims(), shape.height * shape.width);
    if image.len() != dims {
        return Err(EditError::Size { what: "image", found: image.len(), expected: dims });
    }
    if known.len() != pixels {
        return Err(EditError::Size { what: "mask", found: known.len(), expected: pixels });
    }
    let (count, steps, repeats) = (options.count.max(1), options.steps.max(1), options.repeats.max(1));
    let x = encoded(model, &image.repeat(count), device)?;
    let mask: Vec<f32> = known.iter().map(|&known| f32::from(u8::from(known))).collect();
    let mask = Tensor::<4>::from_data(TensorData::new(mask, [1, 1, shape.height, shape.width]), device);
    let hidden = mask.clone() * -1.0 + 1.0;
    let streams: Vec<Philox> = (0..count as u64).map(|n| Philox::new(options.seed ^ INPAINTING, n)).collect();
    let mut draw = 0;
    let mut noise = || {
        draw += 1;
        normal(&streams, draw - 1, shape, device)
    };
    let given = given.select(&vec![0; count]);
    let schedule = model.schedule.to_host();
    let gammas: Vec<f64> = schedule.evenly(steps).into_iter().rev().collect();

    let mut z = noise();
    for (i, pair) in gammas.windows(2).enumerate() {
        let (gamma_t, gamma_s) = (pair[0], pair[1]);
        for repeat in 0..repeats {
            let gamma = Tensor::full([count], gamma_t, device);
            let eps_hat = model.predict_noise(z.clone(), gamma, &given, Mode::Eval);
            let drawn = Posterior::new(gamma_t, gamma_s).draw(z, eps_hat, noise());
            let of_image = x.clone() * alpha(gamma_s) + noise() * sigma(gamma_s);
            z = drawn * hidden.clone() + of_image * mask.clone();
            if repeat + 1 < repeats {
                // Back to t: q(z_t | z_s) has the variance sigma_t² - alpha_t²/alpha_s² sigma_s².
                let new = sigma(gamma_t) * (-libm::expm1(gamma_s - gamma_t)).sqrt();
                z = z * (alpha(gamma_t) / alpha(gamma_s)) + noise() * new;
            }
        }
        tell(progress, i + 1, steps)?;
    }
    let z_0: Vec<f32> = z.into_data().iter::<f32>().collect();
    let mut images = decoded(model, &z_0, gammas[steps])?;
    for drawn in images.chunks_exact_mut(dims) {
        for ((drawn, &own), pixel) in drawn.iter_mut().zip(image).zip((0..pixels).cycle()) {
            if known[pixel] {
                *drawn = own;
            }
        }
    }
    Ok(images)
}
