//! What a model does with images that are there.
//!
//! - [`interpolate`]: from one image to another, along a curve between their places in the flow's latent space.
//! - [`inpaint`]: draws what a mask hides, given the rest.
//! - [`denoise`]: takes off noise of a known strength: the expected image, or draws of it.
//!
//! Images are bytes: levels k in 0..V, channels first, image after image.

mod denoise;
mod inpaint;
mod interpolate;

pub use denoise::{Denoised, denoise};
pub use inpaint::{Inpainting, inpaint};
pub use interpolate::interpolate;

use crate::VariationalDiffusion;
use crate::flow::SolveError;
use crate::nn::{ConditioningError, ScoreNetwork};
use crate::progress::Stopped;
use burn::tensor::{Device, Tensor, TensorData};

/// Why an image cannot be edited.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum EditError {
    /// Not as many bytes as the model's images have.
    #[error("{what}: {found} numbers for images of {expected}")]
    Size {
        /// What has the wrong size.
        what: &'static str,
        /// Its numbers.
        found: usize,
        /// Those of the model's images.
        expected: usize,
    },
    /// A level that the model has not.
    #[error("found the level {found}; the model has the levels 0 to {most}")]
    Level {
        /// The level.
        found: u8,
        /// The highest of the model.
        most: usize,
    },
    /// Noise that the model was not trained for.
    #[error("noise of {found} levels; the model knows noise of {least:.3} to {most:.1} levels")]
    Noise {
        /// The standard deviation, as text.
        found: String,
        /// At gamma_0.
        least: f64,
        /// At gamma_1.
        most: f64,
    },
    /// A latent became infinite or not a number.
    #[error("an image is not finite: the weights are damaged, or training diverged")]
    NotFinite,
    /// What the network is told does not fit: see [`ConditioningError`].
    #[error(transparent)]
    Conditioning(#[from] ConditioningError),
    /// The probability flow could not be solved.
    #[error(transparent)]
    Solve(#[from] SolveError),
    /// Its [`Progress`](crate::Progress) asked it to stop.
    #[error(transparent)]
    Stopped(#[from] Stopped),
}

/// The images as x in (-1, 1): `[images, channels, height, width]`.
fn encoded<N: ScoreNetwork>(
    model: &VariationalDiffusion<N>,
    images: &[u8],
    device: &Device,
) -> Result<Tensor<4>, EditError> {
    let (shape, vocabulary) = (model.shape(), model.settings().vocabulary);
    let dims = shape.dims();
    if images.is_empty() || !images.len().is_multiple_of(dims) {
        return Err(EditError::Size { what: "image", found: images.len(), expected: dims });
    }
    if let Some(&found) = images.iter().find(|&&k| usize::from(k) >= vocabulary.levels()) {
        return Err(EditError::Level { found, most: vocabulary.levels() - 1 });
    }
    let levels: Vec<f32> = images.iter().map(|&k| f32::from(k)).collect();
    let k = Tensor::from_data(TensorData::new(levels, shape.batch(images.len() / dims)), device);
    Ok(vocabulary.encode(k))
}

/// The most probable levels of z_0.
fn decoded<N: ScoreNetwork>(model: &VariationalDiffusion<N>, z_0: &[f32], gamma_0: f64) -> Result<Vec<u8>, EditError> {
    if z_0.iter().any(|z| !z.is_finite()) {
        return Err(EditError::NotFinite);
    }
    let vocabulary = model.settings().vocabulary;
    Ok(z_0.iter().map(|&z| u8::try_from(vocabulary.argmax(z, gamma_0)).unwrap_or(u8::MAX)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diffusion::Vocabulary;
    use crate::flow::Tolerance;
    use crate::nn::{Conditioning, Mode};
    use crate::schedule::{Endpoints, ScheduleConfig};
    use crate::{DiffusionSettings, ImageShape, unwatched};
    use burn::module::Module;

    const SHAPE: ImageShape = ImageShape { channels: 1, height: 2, width: 3 };
    const ENDS: Endpoints = Endpoints { gamma_0: -9.0, gamma_1: 7.0 };

    /// The optimal network for pixels from N(0, 1/16): its flow is linear.
    #[derive(Module, Debug)]
    struct Gaussian {
        #[module(skip)]
        variance: f64,
    }

    impl ScoreNetwork for Gaussian {
        fn forward(&self, z: Tensor<4>, time: Tensor<1>, _: &Conditioning, _: Mode) -> Tensor<4> {
            let sigmoid = crate::math::sigmoid_of;
            let gamma = time * (ENDS.gamma_1 - ENDS.gamma_0) + ENDS.gamma_0;
            let (signal, noise) = (sigmoid(gamma.clone() * -1.0), sigmoid(gamma));
            z * crate::math::column(noise.clone().sqrt() / (signal * self.variance + noise))
        }

        fn check_shape(&self, _: ImageShape) -> Result<(), String> {
            Ok(())
        }

        fn classes(&self) -> usize {
            0
        }
    }

    fn model() -> VariationalDiffusion<Gaussian> {
        let schedule = ScheduleConfig::FixedLinear(ENDS);
        let settings = DiffusionSettings::new(SHAPE, Vocabulary::new(64).unwrap(), &schedule);
        VariationalDiffusion::new(schedule.init(&Device::flex()), Gaussian { variance: 1.0 / 16.0 }, settings)
    }

    const A: [u8; 6] = [30, 40, 20, 35, 31, 28];
    const B: [u8; 6] = [33, 22, 41, 30, 25, 36];

    #[test]
    fn interpolation_begins_and_ends_at_its_images() {
        let (model, device) = (model(), Device::flex());
        let run = |count| {
            let given = Conditioning::default();
            interpolate(&model, &A, &B, count, &given, &Tolerance::new(1e-6), &device, &mut unwatched).unwrap()
        };
        for count in [2, 5] {
            let images = run(count);
            assert_eq!(images.len(), count * 6);
            assert_eq!((&images[..6], &images[count * 6 - 6..]), (&A[..], &B[..]));
        }
        let given = Conditioning::default();
        let wrong = interpolate(&model, &A[..5], &B, 3, &given, &Tolerance::new(1e-3), &device, &mut unwatched);
        assert!(matches!(wrong, Err(EditError::Size { found: 5, expected: 6, .. })));
        let wrong = interpolate(&model, &[64; 6], &B, 3, &given, &Tolerance::new(1e-3), &device, &mut unwatched);
        assert!(matches!(wrong, Err(EditError::Level { found: 64, most: 63 })));
    }

    #[test]
    fn inpainting_keeps_what_is_known_and_draws_the_rest() {
        let (model, device) = (model(), Device::flex());
        let known = [true, false, true, true, false, false];
        let options = Inpainting { count: 200, steps: 60, repeats: 2, seed: 4 };
        let given = Conditioning::default();
        let images = inpaint(&model, &A, &known, &options, &given, &device, &mut unwatched).unwrap();
        let (mut sum, mut square, mut n) = (0.0, 0.0, 0.0);
        for image in images.chunks_exact(6) {
            for ((found, &a), known) in image.iter().zip(&A).zip(known) {
                if known {
                    assert_eq!(*found, a);
                } else {
                    let x = Vocabulary::new(64).unwrap().code(usize::from(*found));
                    (sum, square, n) = (sum + x, square + x * x, n + 1.0);
                }
            }
        }
        // Pixels are independent: what is drawn is N(0, 1/16), which 600 draws know to some hundredths.
        let (mean, variance) = (sum / n, square / n);
        assert!(f64::abs(mean) < 0.05 && f64::abs(variance - 0.0625) < 0.02, "{mean} {variance}");
        let wrong = inpaint(&model, &A, &known[..5], &options, &given, &device, &mut unwatched);
        assert!(matches!(wrong, Err(EditError::Size { what: "mask", .. })));
    }

    #[test]
    fn denoising_gives_the_known_expectation() {
        let (model, device) = (model(), Device::flex());
        let noise = 8.0;
        let found = denoise(&model, &A, noise, 0, 50, 0, &Conditioning::default(), &device, &mut unwatched).unwrap();
        let vocabulary = Vocabulary::new(64).unwrap();
        let (signal, noise) = (1.0 / 16.0, (noise * 2.0 / 64.0) * (noise * 2.0 / 64.0));
        for (found, a) in found.expected.iter().zip(A) {
            let want = vocabulary.code(usize::from(a)) * signal / (signal + noise);
            assert!((vocabulary.code(usize::from(*found)) - want).abs() < 1.01 / 64.0, "{found} {want}");
        }
        for noise in [0.0, 1e6, f64::NAN] {
            let wrong = denoise(&model, &A, noise, 0, 50, 0, &Conditioning::default(), &device, &mut unwatched);
            assert!(matches!(wrong, Err(EditError::Noise { .. })));
        }
    }
}
