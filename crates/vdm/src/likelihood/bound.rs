//! The variational bound (VDM section 4).

use super::{Estimate, Estimator, EvalBatch};
use crate::diffusion::{Noise, VariationalDiffusion};
use crate::math::host;
use crate::nn::{Mode, ScoreNetwork};
use crate::random::{TIMES, in_round};
use burn::tensor::Device;
use vdm_kernels::rng::Philox;

/// The bound: in T steps if the model has a number of steps, else in continuous time. One network evaluation per image
/// and pass.
///
/// In pass r of R the N images take N evenly spread times, and each image takes R evenly spread times over the passes:
/// t = (u + j/N + r/R) mod 1, j a fixed shuffle of the images. Each time is uniform and the estimate unbiased. As many
/// passes as the discrete-time bound has steps visit every step of every image once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bound;

impl<N: ScoreNetwork> Estimator<N> for Bound {
    fn estimate(&self, model: &VariationalDiffusion<N>, batch: &EvalBatch<'_>, device: &Device) -> Vec<Estimate> {
        let n = batch.images;
        let stride = coprime_stride(n);
        let u = Philox::new(batch.seed, in_round(0, TIMES)).uniform_f64(0);
        let u = u + batch.pass as f64 / batch.passes as f64;
        let times: Vec<f64> = batch.indices.iter().map(|&i| (u + (i * stride % n) as f64 / n as f64).fract()).collect();
        let stream = |&i: &usize| Philox::new(batch.seed, in_round(batch.pass as u64, i as u64));
        let streams: Vec<Philox> = batch.indices.iter().map(stream).collect();
        let noise = Noise::draw(&streams, model.shape(), device);
        let loss = model.loss(batch.k.clone(), &times, noise, batch.conditioning, Mode::Eval);
        let [prior, reconstruction, diffusion] = [loss.prior, loss.reconstruction, loss.diffusion].map(|t| host(&t));
        let estimate = |(i, time): (usize, f64)| Estimate {
            time,
            prior: prior[i],
            reconstruction: reconstruction[i],
            diffusion: diffusion[i],
        };
        times.into_iter().enumerate().map(estimate).collect()
    }
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
}
