//! The steps of the chain and the grids of its latents: all but the weights that decides a probability.

use super::CodecError;
use crate::diffusion::Vocabulary;
use crate::shape::ImageShape;
use sha2::{Digest, Sha256};

/// Most steps T.
pub const MAX_STEPS: usize = 1 << 16;
/// Most images that go through the network together: a file says how many, and is not to ask for all memory.
pub const MAX_BATCH: u16 = 1024;
/// Most numbers of an image.
const MAX_DIMS: usize = 1 << 24;
/// Most numbers of the images that go through the network together.
const MAX_BATCH_DIMS: usize = 1 << 26;
/// Beyond this, alpha or sigma is 0 to double precision.
const MAX_GAMMA: f64 = 100.0;
/// Latents reach farther than this from 0 only by an accident that does not happen.
const REACH: f64 = 64.0;

/// The steps of the chain and the grids of its latents.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// gamma_0 to gamma_T, increasing.
    pub gammas: Vec<f64>,
    /// Bins of z_s per standard deviation of p(z_s | z_t).
    pub bins_per_sigma: u16,
    /// Most images that go through the network together.
    pub batch_size: u16,
    /// Seed of the bits that a stream starts with.
    pub seed: u64,
    /// Shape of the images.
    pub shape: ImageShape,
    /// Levels of a pixel.
    pub vocabulary: Vocabulary,
}

impl Plan {
    /// T.
    pub fn steps(&self) -> usize {
        self.gammas.len().saturating_sub(1)
    }

    /// Says what is wrong with the plan, if anything.
    ///
    /// # Errors
    /// [`CodecError::Plan`].
    pub fn validate(&self) -> Result<(), CodecError> {
        let wrong = |reason: String| Err(CodecError::Plan { reason });
        if !(1..=MAX_STEPS).contains(&self.steps()) {
            return wrong(format!("{} steps, expected 1 to {MAX_STEPS}", self.steps()));
        }
        if let Some(gamma) = self.gammas.iter().find(|gamma| gamma.is_nan() || gamma.abs() > MAX_GAMMA) {
            return wrong(format!("gamma = {gamma}, expected -{MAX_GAMMA} to {MAX_GAMMA}"));
        }
        if let Some(pair) = self.gammas.windows(2).find(|pair| pair[0] >= pair[1]) {
            return wrong(format!("gamma goes from {} to {}, but it must increase", pair[0], pair[1]));
        }
        if self.shape.dims() == 0 || self.shape.dims() > MAX_DIMS {
            return wrong(format!("images of {}, expected 1 to {MAX_DIMS} numbers", self.shape));
        }
        if self.vocabulary.levels() > 256 {
            return wrong(format!("{} levels, expected at most 256", self.vocabulary.levels()));
        }
        if self.bins_per_sigma == 0 {
            return wrong("0 bins, expected at least 1".into());
        }
        if !(1..=MAX_BATCH).contains(&self.batch_size) {
            return wrong(format!("{} images at a time, expected 1 to {MAX_BATCH}", self.batch_size));
        }
        if self.shape.dims() * usize::from(self.batch_size) > MAX_BATCH_DIMS {
            return wrong(format!(
                "{} images of {} at a time, expected at most {MAX_BATCH_DIMS} numbers; use a smaller --batch-size",
                self.batch_size, self.shape
            ));
        }
        let finest = self.points().iter().map(|point| point.delta).fold(f64::INFINITY, f64::min);
        if REACH / finest > f64::from(i32::MAX) {
            return wrong(format!(
                "the bins are {finest:e} wide, which 32 bits cannot number; use fewer --timesteps or --bins"
            ));
        }
        Ok(())
    }

    /// The plan of segment `number`: streams start with different bits.
    pub(super) fn of_segment(&self, number: usize) -> Self {
        Self { seed: self.seed.wrapping_add(number as u64), ..self.clone() }
    }

    /// The scalars of every point of the schedule.
    pub(super) fn points(&self) -> Vec<Point> {
        let bins = f64::from(self.bins_per_sigma);
        let sigmoid = |x: f64| 1.0 / (1.0 + libm::exp(-x));
        let mut points: Vec<Point> = (0..self.gammas.len())
            .map(|t| {
                let gamma = self.gammas[t];
                let below = if t > 0 { -libm::expm1(self.gammas[t - 1] - gamma) } else { 1.0 };
                Point {
                    gamma,
                    alpha: libm::sqrt(sigmoid(-gamma)),
                    sigma: libm::sqrt(sigmoid(gamma)),
                    c: below,
                    delta: 0.0,
                    step: Step::default(),
                }
            })
            .collect();
        for t in 0..points.len() {
            // The smaller of the deviations of q(z_t | z_{t-1}) and of the posterior q(z_t | z_{t+1}, x). That of
            // p(z_t | z_{t+1}) is at least the latter.
            let c = points.get(t + 1).map_or(points[t].c, |above| above.c.min(points[t].c));
            points[t].delta = points[t].sigma * libm::sqrt(c) / bins;
        }
        for t in 1..points.len() {
            let (s, t) = (points[t - 1], &mut points[t]);
            let (up, down) = (t.alpha / s.alpha, s.alpha / t.alpha);
            t.step = Step {
                up: up * s.delta / t.delta,
                up_inverse_sigma: t.delta / (t.sigma * libm::sqrt(t.c)),
                down: down * t.delta / s.delta,
                noise: down * t.sigma * t.c / s.delta,
                widening: libm::expm1(t.gamma - s.gamma),
                down_inverse_sigma: s.delta / (s.sigma * libm::sqrt(t.c)),
            };
        }
        points
    }

    /// The first 16 bytes of the SHA-256 of every field.
    pub fn fingerprint(&self) -> [u8; 16] {
        let mut hash = Sha256::new();
        for gamma in &self.gammas {
            hash.update(gamma.to_le_bytes());
        }
        let ImageShape { channels, height, width } = self.shape;
        for number in [channels, height, width, self.vocabulary.levels(), self.bins_per_sigma.into()] {
            hash.update((number as u64).to_le_bytes());
        }
        hash.update(self.batch_size.to_le_bytes());
        hash.update(self.seed.to_le_bytes());
        first_bytes(hash)
    }
}

/// The first bytes of a hash.
pub(super) fn first_bytes<const N: usize>(hash: Sha256) -> [u8; N] {
    let digest = hash.finalize();
    std::array::from_fn(|i| digest[i])
}

/// The scalars of z_t.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Point {
    pub gamma: f64,
    pub alpha: f64,
    pub sigma: f64,
    /// c = -expm1(gamma_s - gamma_t) of the step below, s = t - 1; 1 at the bottom.
    pub c: f64,
    /// The width of a bin of z_t.
    pub delta: f64,
    /// The scalars of the step below; those of the bottom mean nothing.
    pub step: Step,
}

/// The scalars of the step between z_s and z_t, s = t - 1, each in bins of what it predicts.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Step {
    /// q(z_t | z_s) has the mean `up` k_s; k_s is the bin of z_s.
    pub up: f64,
    /// One over the standard deviation of q(z_t | z_s).
    pub up_inverse_sigma: f64,
    /// p(z_s | z_t) has the mean `down` k_t - `noise` eps_hat.
    pub down: f64,
    /// See `down`.
    pub noise: f64,
    /// c = expm1(gamma_t - gamma_s): with an expected error M, p(z_s | z_t) has 1 + c M times the posterior's variance.
    pub widening: f64,
    /// One over the standard deviation of the posterior q(z_s | z_t, x).
    pub down_inverse_sigma: f64,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(gammas: Vec<f64>) -> Plan {
        Plan {
            gammas,
            bins_per_sigma: 2,
            batch_size: 4,
            seed: 0,
            shape: ImageShape { channels: 1, height: 2, width: 2 },
            vocabulary: Vocabulary::new(17).unwrap(),
        }
    }

    #[test]
    fn impossible_plans_are_refused() {
        assert!(plan(vec![-5.0, 0.0, 5.0]).validate().is_ok());
        for gammas in [vec![], vec![1.0], vec![0.0, 0.0], vec![0.0, f64::NAN], vec![-101.0, 0.0], vec![1.0, 0.0]] {
            assert!(matches!(plan(gammas.clone()).validate(), Err(CodecError::Plan { .. })), "{gammas:?}");
        }
        assert!(Plan { bins_per_sigma: 0, ..plan(vec![0.0, 1.0]) }.validate().is_err());
        let shapes = [[1, 0, 4], [usize::MAX, 2, 2]];
        for [channels, height, width] in shapes {
            let shape = ImageShape { channels, height, width };
            assert!(Plan { shape, ..plan(vec![0.0, 1.0]) }.validate().is_err());
        }
        // The memory of a batch would be that of 2^34 numbers.
        let large = ImageShape { channels: 1, height: 4096, width: 4096 };
        let message =
            Plan { shape: large, batch_size: 1024, ..plan(vec![0.0, 1.0]) }.validate().unwrap_err().to_string();
        assert!(message.contains("--batch-size"), "{message}");
        assert!(Plan { shape: large, ..plan(vec![0.0, 1.0]) }.validate().is_ok());
        assert!(Plan { vocabulary: Vocabulary::new(257).unwrap(), ..plan(vec![0.0, 1.0]) }.validate().is_err());
        let message = plan(vec![-40.0, -39.99, 1.0]).validate().unwrap_err().to_string();
        assert!(message.contains("--timesteps"), "{message}");
    }

    #[test]
    fn the_fingerprint_covers_every_field() {
        let base = plan(vec![-5.0, 5.0]);
        let others = [
            Plan { gammas: vec![-5.0, 5.000_000_1], ..base.clone() },
            Plan { bins_per_sigma: 3, ..base.clone() },
            Plan { batch_size: 5, ..base.clone() },
            Plan { seed: 1, ..base.clone() },
            Plan { shape: ImageShape { channels: 1, height: 1, width: 4 }, ..base.clone() },
            Plan { vocabulary: Vocabulary::new(16).unwrap(), ..base.clone() },
        ];
        assert!(others.iter().all(|other| other.fingerprint() != base.fingerprint()));
    }

    /// q(z_t | z_s) q(z_s | x) = q(z_t | x): the variances of the steps add up.
    #[test]
    fn the_steps_add_up() {
        let points = plan(vec![-13.3, -5.0, -4.9, 0.0, 5.0]).points();
        let mut variance = points[0].sigma.powi(2);
        for pair in points.windows(2) {
            let a = pair[1].alpha / pair[0].alpha;
            variance = a * a * variance + pair[1].sigma.powi(2) * pair[1].c;
            assert!((variance / pair[1].sigma.powi(2) - 1.0).abs() < 1e-12);
        }
    }
}
