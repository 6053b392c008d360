//! The trace of the network's Jacobian, for the change of a density along the flow.

use super::{Field, drift, latents};
use crate::VariationalDiffusion;
use crate::diffusion::process::sigma;
use crate::nn::{Conditioning, Mode, ScoreNetwork};
use crate::progress::Stopped;
use burn::tensor::{Device, Tensor, TensorData};
use serde::{Deserialize, Serialize};
use vdm_kernels::rng::Philox;

/// Most dimensions of an image for [`Trace::Exact`].
pub const MAX_EXACT: usize = 256;

/// Most rows of a batch that goes through the network, one for each image and vector v.
const MAX_ROWS: usize = 256;

/// How the trace of d eps_hat / dz is found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Trace {
    /// Hutchinson's estimate vᵀ J v with entries of v that are 1 or -1: of the two the one of less variance.
    #[default]
    Rademacher,
    /// The same with standard normal entries.
    Gaussian,
    /// Every entry of the diagonal, for images of at most [`MAX_EXACT`] dimensions: as many passes as dimensions.
    Exact,
}

/// The vectors v of an image, fixed over a solve: with new ones at every evaluation the slope would be a noise that no step
/// size can follow.
pub fn probes(trace: Trace, probes: usize, dims: usize, stream: &Philox, first_draw: u32) -> Vec<Vec<f32>> {
    let draw = |p: usize| {
        let mut v = vec![0f32; dims];
        stream.normal(first_draw + p as u32, &mut v);
        if trace == Trace::Rademacher {
            v.iter_mut().for_each(|v| *v = if *v < 0.0 { -1.0 } else { 1.0 });
        }
        v
    };
    match trace {
        Trace::Exact => (0..dims).map(|i| (0..dims).map(|j| f32::from(u8::from(i == j))).collect()).collect(),
        Trace::Rademacher | Trace::Gaussian => (0..probes).map(draw).collect(),
    }
}

/// The flow of a batch together with the log-density along it: a state is z, then the integral of the divergence so far.
pub struct Augmented<'a, N> {
    model: VariationalDiffusion<N>,
    given: Conditioning,
    /// Of each image, the vectors v; one for each dimension if the trace is exact.
    probes: &'a [Vec<Vec<f32>>],
    trace: Trace,
    device: Device,
    pulse: &'a mut dyn FnMut() -> Result<(), Stopped>,
}

impl<'a, N: ScoreNetwork> Augmented<'a, N> {
    /// The flow of `model`, which computes on `device` (without autodiff), for a batch that `given` describes. `pulse` is
    /// called between evaluations.
    pub fn new(
        model: &VariationalDiffusion<N>,
        given: &Conditioning,
        probes: &'a [Vec<Vec<f32>>],
        trace: Trace,
        device: &Device,
        pulse: &'a mut dyn FnMut() -> Result<(), Stopped>,
    ) -> Self {
        let model = model.as_constants();
        Self { model, given: given.autodiff(), probes, trace, device: device.clone().autodiff(), pulse }
    }

    /// eps_hat of the images, one after another, and the estimate of each trace.
    fn evaluate(&self, images: &[usize], gammas: &[f64], states: &[Vec<f64>]) -> (Vec<f32>, Vec<f64>) {
        let shape = self.model.shape();
        let dims = shape.dims();
        // A row for every vector v of every image.
        let of_row: Vec<usize> = (0..images.len()).flat_map(|i| vec![i; self.probes[images[i]].len()]).collect();
        let rows: Vec<Vec<f64>> = of_row.iter().map(|&i| states[i].clone()).collect();
        let gammas: Vec<f32> = of_row.iter().map(|&i| gammas[i] as f32).collect();
        let given = self.given.select(&of_row.iter().map(|&i| images[i]).collect::<Vec<_>>());
        let v: Vec<f32> = images.iter().flat_map(|&image| self.probes[image].iter().flatten().copied()).collect();

        let z = latents(&rows, shape, &self.device).require_grad();
        let gammas = Tensor::from_data(gammas.as_slice(), &self.device);
        let eps_hat = self.model.predict_noise(z.clone(), gammas, &given, Mode::Eval);
        let of_v = Tensor::<4>::from_data(TensorData::new(v.clone(), shape.batch(rows.len())), &self.device);
        let gradients = (eps_hat.clone() * of_v).sum().backward();
        let vj: Vec<f32> = match z.grad(&gradients) {
            Some(gradient) => gradient.into_data().iter::<f32>().collect(),
            // The network does not look at z.
            None => vec![0.0; v.len()],
        };
        let mut traces = vec![0f64; images.len()];
        for (row, (v, vj)) in v.chunks_exact(dims).zip(vj.chunks_exact(dims)).enumerate() {
            traces[of_row[row]] += v.iter().zip(vj).map(|(&v, &vj)| f64::from(v) * f64::from(vj)).sum::<f64>();
        }
        if self.trace != Trace::Exact {
            traces.iter_mut().zip(images).for_each(|(trace, &image)| *trace /= self.probes[image].len() as f64);
        }
        let all: Vec<f32> = eps_hat.inner().into_data().iter::<f32>().collect();
        let first_rows = (0..images.len()).map(|i| of_row.partition_point(|&of| of < i));
        (first_rows.flat_map(|row| all[row * dims..][..dims].to_vec()).collect(), traces)
    }
}

impl<N: ScoreNetwork> Field for Augmented<'_, N> {
    fn slopes(&mut self, which: &[usize], times: &[f64], states: &[Vec<f64>]) -> Result<Vec<Vec<f64>>, Stopped> {
        let dims = self.model.shape().dims();
        let probes = which.first().map_or(1, |&image| self.probes[image].len().max(1));
        let together = (MAX_ROWS / probes).max(1);
        let mut slopes = Vec::with_capacity(which.len());
        for ((images, times), states) in which.chunks(together).zip(times.chunks(together)).zip(states.chunks(together))
        {
            let (eps_hat, traces) = self.evaluate(images, times, states);
            for (((eps_hat, trace), &gamma), z) in eps_hat.chunks_exact(dims).zip(traces).zip(times).zip(states) {
                let sigma = sigma(gamma);
                let mut slope = drift(gamma, z, eps_hat);
                slope.push(0.5 * sigma * (trace - sigma * dims as f64));
                slopes.push(slope);
            }
            (self.pulse)()?;
        }
        Ok(slopes)
    }
}
