//! The bound over a whole data set, with its standard error.

use crate::data::ImageDataset;
use crate::nn::{Conditioning, ConditioningError, Mode, ScoreNetwork};
use crate::{Noise, VariationalDiffusion, bits_per_dim};
use burn::tensor::{Device, Tensor, TensorData};
use serde::Serialize;
use vdm_kernels::rng::Philox;

/// How to evaluate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EvalOptions {
    /// Passes over the data, each with other times and fresh noise. As many passes as the discrete-time bound has steps
    /// visit every step of every image once.
    pub repeats: usize,
    /// Images that go through the network at a time; has no influence on the result.
    pub batch_size: usize,
    /// Seed of all times and noises.
    pub seed: u64,
}

/// The bound over a data set, in bits per dimension.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Evaluation {
    /// The bound: `prior + reconstruction + diffusion`.
    pub bpd: f64,
    /// Standard error of `bpd` as an estimate for the distribution that the images come from: the standard deviation
    /// over images (each averaged over the repeats) over the root of their number. Covers the images' differences and
    /// the noise of the estimate.
    pub bpd_stderr: f64,
    /// Standard error of `bpd` as an estimate of these very images' bound, `None` for one pass: from the differences of an
    /// image's terms in successive passes, whose times are next to each other.
    pub bpd_stderr_noise: Option<f64>,
    /// KL of q(z_1|x) from the standard normal.
    pub prior: f64,
    /// Expected -log p(x|z_0).
    pub reconstruction: f64,
    /// The diffusion loss.
    pub diffusion: f64,
    /// Images.
    pub images: usize,
    /// Passes over them.
    pub repeats: usize,
    /// Steps of the discrete-time bound; `None` in continuous time.
    pub timesteps: Option<usize>,
}

/// A batch of images as whole numbers in floats: `[batch, channels, height, width]`.
pub fn batch_tensor(data: &ImageDataset, indices: &[usize], device: &Device) -> Tensor<4> {
    let bytes = data.gather(indices);
    let s = data.shape();
    let k: Vec<f32> = bytes.into_iter().map(f32::from).collect();
    Tensor::from_data(TensorData::new(k, [indices.len(), s.channels, s.height, s.width]), device)
}

/// The classes of these images, where the network takes classes and the data have labels.
///
/// [`Conditioning::check`] refuses labels that the network does not know.
pub fn classes_of<N: ScoreNetwork>(network: &N, data: &ImageDataset, indices: &[usize]) -> Conditioning {
    if network.classes() == 0 || data.labels().is_none() {
        return Conditioning::default();
    }
    Conditioning::of_classes(indices.iter().map(|&i| data.label(i)))
}

/// Evaluates the bound on every image of `data`, `options.repeats` times: that on p(x | class) if the network takes
/// classes and the data have labels.
///
/// See [`evaluate_conditioned`].
///
/// # Errors
/// See [`EvalError`].
pub fn evaluate<N: ScoreNetwork>(
    model: &VariationalDiffusion<N>,
    data: &ImageDataset,
    options: &EvalOptions,
    device: &Device,
    progress: impl FnMut(usize, usize),
) -> Result<Evaluation, EvalError> {
    let classes = |indices: &[usize]| classes_of(&model.network, data, indices);
    evaluate_conditioned(model, data, classes, options, device, progress)
}

/// Evaluates the bound on every image of `data`, `options.repeats` times, with what `conditioning` says about the images
/// of these indices.
///
/// In pass r of R the N images take N evenly spread times, and each image takes R evenly spread times over the passes:
/// t = (u + j/N + r/R) mod 1, j a fixed shuffle of the images. Each time is uniform, the estimate unbiased, and nothing
/// depends on the batch size. `progress` hears the batches done and to do.
///
/// # Errors
/// [`EvalError`] if there is no image or no pass, the conditioning does not fit, or the bound is not finite.
pub fn evaluate_conditioned<N: ScoreNetwork>(
    model: &VariationalDiffusion<N>,
    data: &ImageDataset,
    mut conditioning: impl FnMut(&[usize]) -> Conditioning,
    options: &EvalOptions,
    device: &Device,
    mut progress: impl FnMut(usize, usize),
) -> Result<Evaluation, EvalError> {
    let n = data.len();
    if n == 0 || options.repeats == 0 {
        return Err(EvalError::Empty { images: n, repeats: options.repeats });
    }
    let stride = coprime_stride(n);
    let batch_size = options.batch_size.max(1);
    let total_batches = n.div_ceil(batch_size) * options.repeats;
    let mut done = 0;
    // Nats of each image, averaged over the passes; its time and nats in the first pass, and in the last one.
    let mut per_image = vec![0f64; n];
    let (mut first, mut last) = (vec![(0.0, 0.0); n], vec![(0.0, 0.0); n]);
    let mut neighbours = Neighbours::default();
    let mut terms = [0f64; 3];
    let u = Philox::new(options.seed, stream(0, u32::MAX as usize)).uniform_f64(0);
    for repeat in 0..options.repeats {
        let u = u + repeat as f64 / options.repeats as f64;
        for start in (0..n).step_by(batch_size) {
            let indices: Vec<usize> = (start..n.min(start + batch_size)).collect();
            let streams: Vec<Philox> = indices.iter().map(|&i| Philox::new(options.seed, stream(repeat, i))).collect();
            let times: Vec<f64> = indices.iter().map(|&i| (u + (i * stride % n) as f64 / n as f64).fract()).collect();
            let noise = Noise::draw(&streams, data.shape(), device);
            let k = batch_tensor(data, &indices, device);
            let given = conditioning(&indices);
            given.check(&model.network, indices.len())?;
            let loss = model.loss(k, &times, noise, &given, Mode::Eval);
            let [prior, reconstruction, diffusion] =
                [loss.prior, loss.reconstruction, loss.diffusion].map(|t| crate::schedule::host(&t));
            for (j, &i) in indices.iter().enumerate() {
                let nats = prior[j] + reconstruction[j] + diffusion[j];
                if !nats.is_finite() {
                    return Err(EvalError::NotFinite { image: i });
                }
                per_image[i] += nats / options.repeats as f64;
                let here = (times[j], nats);
                if repeat == 0 {
                    first[i] = here;
                } else {
                    neighbours.add(last[i], here);
                }
                last[i] = here;
                for (sum, term) in terms.iter_mut().zip([prior[j], reconstruction[j], diffusion[j]]) {
                    *sum += term;
                }
            }
            done += 1;
            progress(done, total_batches);
        }
    }
    if options.repeats > 2 {
        // The time after the last pass's is that of the first.
        first.iter().zip(&last).for_each(|(first, last)| neighbours.add(*last, *first));
    }
    let bits = |nats: f64| bits_per_dim(nats, data.shape().dims());
    let evaluations = (n * options.repeats) as f64;
    let [prior, reconstruction, diffusion] = terms.map(|sum| bits(sum / evaluations));
    Ok(Evaluation {
        bpd: prior + reconstruction + diffusion,
        bpd_stderr: bits(standard_error(&per_image).unwrap_or(f64::NAN)),
        bpd_stderr_noise: neighbours.variance().map(|variance| bits((variance / evaluations).sqrt())),
        prior,
        reconstruction,
        diffusion,
        images: n,
        repeats: options.repeats,
        timesteps: model.settings().timesteps,
    })
}

/// Why there is no evaluation.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EvalError {
    /// What the network is told does not fit: see [`ConditioningError`].
    #[error(transparent)]
    Conditioning(#[from] ConditioningError),
    /// Nothing to average over.
    #[error("cannot evaluate {images} images {repeats} times: both must be at least 1")]
    Empty {
        /// Images of the data set.
        images: usize,
        /// Passes asked for.
        repeats: usize,
    },
    /// The bound of an image is infinite or not a number.
    #[error("the bound of image {image} is not finite: the weights are damaged, or training diverged")]
    NotFinite {
        /// The image's index.
        image: usize,
    },
}

/// Sample standard deviation over root n; `None` for fewer than two values.
pub fn standard_error(values: &[f64]) -> Option<f64> {
    let n = values.len() as f64;
    if values.len() < 2 {
        return None;
    }
    let mean = values.iter().sum::<f64>() / n;
    let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (n - 1.0);
    Some((variance / n).sqrt())
}

/// The variance of a term from terms at neighbouring times, which differ by little else than noise: half the mean square
/// of their difference (the usual estimate for systematic samples). Where time starts again from 0 there are no
/// neighbours.
#[derive(Debug, Default)]
struct Neighbours {
    squares: f64,
    pairs: usize,
}

impl Neighbours {
    /// Two successive (time, term).
    fn add(&mut self, before: (f64, f64), after: (f64, f64)) {
        if after.0 > before.0 {
            self.squares += (after.1 - before.1).powi(2);
            self.pairs += 1;
        }
    }

    /// `None` without a pair.
    fn variance(&self) -> Option<f64> {
        (self.pairs > 0).then(|| self.squares / (2.0 * self.pairs as f64))
    }
}

/// Stream number of image `i` in pass `repeat`.
fn stream(repeat: usize, i: usize) -> u64 {
    (repeat as u64) << 32 | i as u64
}

/// A stride near n / golden ratio without a common factor with n: stepping by it visits every residue once, and
/// neighbours in the data set (often of one class) get distant times.
fn coprime_stride(n: usize) -> usize {
    fn gcd(a: usize, b: usize) -> usize {
        if b == 0 { a } else { gcd(b, a % b) }
    }
    let start = (n as f64 * 0.618_034) as usize;
    (start.max(1)..).find(|&s| gcd(s, n) == 1).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stride_visits_every_image_once() {
        for n in 1..500 {
            let stride = coprime_stride(n);
            let mut seen: Vec<usize> = (0..n).map(|i| i * stride % n).collect();
            seen.sort_unstable();
            assert_eq!(seen, (0..n).collect::<Vec<_>>());
        }
    }

    #[test]
    fn noise_is_told_from_a_trend_and_from_its_jump() {
        let (passes, images, sigma) = (50, 40, 0.5);
        let mut neighbours = Neighbours::default();
        for image in 0..images {
            let mut noise = vec![0f32; passes];
            Philox::new(1, image).normal(0, &mut noise);
            let at = |i: usize| {
                let t = (0.37 + i as f64 / passes as f64).fract();
                (t, 10.0 * (1.0 - t) + sigma * f64::from(noise[i]))
            };
            (0..passes).for_each(|i| neighbours.add(at(i), at((i + 1) % passes)));
        }
        assert_eq!(neighbours.pairs, (passes - 1) * images as usize);
        // The trend adds (10/50)²/2; the estimate has a relative error of some root of 3/2000, 4 %.
        let variance = neighbours.variance().unwrap();
        assert!((variance - sigma * sigma - 0.02).abs() < 0.15 * sigma * sigma, "{variance}");
        assert_eq!(Neighbours::default().variance(), None);
    }

    #[test]
    fn standard_error_of_known_numbers() {
        assert_eq!(standard_error(&[1.0]), None);
        assert!((standard_error(&[1.0, 3.0]).unwrap() - 1.0).abs() < 1e-12);
    }
}
