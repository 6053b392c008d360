//! The steps of the chain: how many, and where along the schedule.

use super::CodecError;
use super::plan::MAX_STEPS;
use crate::data::ImageDataset;
use crate::diffusion::error_model::{ErrorsUnknown, cheapest_path};
use crate::diffusion::process::diffuse;
use crate::diffusion::{Noise, ReverseVariance, VariationalDiffusion};
use crate::nn::{Conditioning, Mode, ScoreNetwork};
use crate::progress::{Progress, tell};
use crate::schedule::Schedule;
use burn::tensor::{Device, Tensor};
use vdm_kernels::rng::Philox;

/// The steps of the chain.
#[derive(Clone, Debug, PartialEq)]
pub enum Steps {
    /// This many, evenly spaced in time: gamma_i is the model's gamma(i/T).
    Uniform(usize),
    /// This many, where the model's table of errors says that they cost least (see
    /// [`ErrorTable::cheapest_steps`](crate::diffusion::error_model::ErrorTable::cheapest_steps)); evenly spaced in time where
    /// they are more than half of the table's points, and so closer together than these.
    Placed(usize),
    /// gamma_0 to gamma_T themselves.
    Listed(Vec<f64>),
}

impl Steps {
    /// T.
    pub fn count(&self) -> usize {
        match self {
            Self::Uniform(steps) | Self::Placed(steps) => *steps,
            Self::Listed(gammas) => gammas.len().saturating_sub(1),
        }
    }

    /// gamma_0 to gamma_T in this model, for steps of this variance.
    ///
    /// # Errors
    /// [`CodecError::Plan`] if there is no step or more than 65,536, or the model has no table of errors and one is needed.
    pub fn gammas<N: ScoreNetwork>(
        &self,
        model: &VariationalDiffusion<N>,
        variance: ReverseVariance,
    ) -> Result<Vec<f64>, CodecError> {
        if !(1..=MAX_STEPS).contains(&self.count()) {
            return Err(CodecError::Plan { reason: format!("{} steps, expected 1 to {MAX_STEPS}", self.count()) });
        }
        let schedule = model.schedule.to_host();
        match self {
            Self::Uniform(steps) => Ok(schedule.evenly(*steps)),
            Self::Placed(steps) => {
                let table = &model.errors().ok_or(ErrorsUnknown)?.table;
                if *steps > table.points().len() / 2 {
                    return Ok(schedule.evenly(*steps));
                }
                let placed = table.cheapest_steps(*steps, variance);
                placed.map_err(|error| CodecError::Plan { reason: error.to_string() })
            }
            Self::Listed(gammas) => Ok(gammas.clone()),
        }
    }
}

/// Of the points gamma of `error_at`, those of the chain of `steps` steps that costs least: which minimises
/// sum of 1/2 expm1(gamma_i - gamma_{i-1}) m(gamma_i) (the diffusion loss in T steps), where m(gamma) is the network's
/// squared error in nats, `||eps - eps_hat||²`, measured beforehand. The first and the last point are kept.
///
/// Takes time in proportion to n² `steps`.
///
/// # Errors
/// [`CodecError::Plan`] if there are not more points than steps, or they do not increase.
pub fn cheapest_gammas(error_at: &[(f64, f64)], steps: usize) -> Result<Vec<f64>, CodecError> {
    let n = error_at.len();
    if steps == 0 || n <= steps {
        let reason = format!("{steps} steps cannot be chosen among {n} points; expected more points than steps");
        return Err(CodecError::Plan { reason });
    }
    if error_at.iter().any(|(gamma, error)| !gamma.is_finite() || !error.is_finite())
        || error_at.windows(2).any(|pair| pair[0].0 >= pair[1].0)
    {
        return Err(CodecError::Plan { reason: "the points must be finite and increase".into() });
    }
    let cost = |from: usize, to: usize| 0.5 * libm::expm1(error_at[to].0 - error_at[from].0) * error_at[to].1;
    // The ends are kept: elsewhere a path may not begin or end.
    let only = |point: usize| -> Vec<f64> { (0..n).map(|i| if i == point { 0.0 } else { f64::INFINITY }).collect() };
    let path = cheapest_path(n, steps, &only(0), &only(n - 1), cost);
    let impossible = || CodecError::Plan { reason: "the errors are so large that no chain has a finite cost".into() };
    Ok(path.ok_or_else(impossible)?.into_iter().map(|point| error_at[point].0).collect())
}

/// The `steps` steps that cost least on `images`, among `points` that are evenly spaced in time: see
/// [`cheapest_gammas`]. Takes `points` network evaluations per image.
///
/// # Errors
/// [`CodecError::Plan`] if there are not more points than steps; [`CodecError::NotFinite`].
pub fn choose_steps<N: ScoreNetwork>(
    model: &VariationalDiffusion<N>,
    images: &ImageDataset,
    points: usize,
    steps: usize,
    device: &Device,
    progress: &mut Progress,
) -> Result<Steps, CodecError> {
    let vocabulary = model.settings().vocabulary;
    let indices: Vec<usize> = (0..images.len()).collect();
    let mut error_at = Vec::with_capacity(points + 1);
    for (point, gamma) in model.schedule.to_host().evenly(points).into_iter().enumerate() {
        let mut total = 0.0;
        for batch in indices.chunks(32) {
            let x = vocabulary.encode(images.batch(batch, device));
            let streams: Vec<Philox> = batch.iter().map(|&i| Philox::new(point as u64, i as u64)).collect();
            let eps = Noise::draw(&streams, images.shape(), device).eps;
            let gammas = Tensor::full([batch.len()], gamma, device);
            let z = diffuse(x, gammas.clone(), eps.clone());
            let difference = model.predict_noise(z, gammas, &Conditioning::default(), Mode::Eval) - eps;
            total += (difference.clone() * difference).sum().into_data().iter::<f64>().sum::<f64>();
        }
        if !total.is_finite() {
            return Err(CodecError::NotFinite { what: "the predicted noise", step: 0 });
        }
        error_at.push((gamma, total / indices.len().max(1) as f64));
        tell(progress, point + 1, points + 1)?;
    }
    Ok(Steps::Listed(cheapest_gammas(&error_at, steps)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn cost(error_at: &[(f64, f64)], gammas: &[f64]) -> f64 {
        let error = |gamma: f64| error_at.iter().find(|(g, _)| *g == gamma).unwrap().1;
        gammas.windows(2).map(|pair| 0.5 * (pair[1] - pair[0]).exp_m1() * error(pair[1])).sum()
    }

    proptest! {
        #[test]
        fn no_other_choice_is_cheaper(
            gaps in prop::collection::vec(0.1..2.0f64, 8), errors in prop::collection::vec(0.0..10.0f64, 8), steps in 1usize..7,
        ) {
            let mut gamma = -4.0;
            let error_at: Vec<(f64, f64)> = gaps.iter().zip(&errors).map(|(gap, &m)| { gamma += gap; (gamma, m) }).collect();
            let chosen = cheapest_gammas(&error_at, steps).unwrap();
            prop_assert_eq!(chosen.len(), steps + 1);
            let best = cost(&error_at, &chosen);
            // All choices of the points between the ends.
            for bits in 0u32..1 << 6 {
                if bits.count_ones() as usize == steps - 1 {
                    let inner = (1..7).filter(|i| bits >> (i - 1) & 1 == 1);
                    let gammas: Vec<f64> = [0].into_iter().chain(inner).chain([7]).map(|i: usize| error_at[i].0).collect();
                    prop_assert!(best <= cost(&error_at, &gammas) + 1e-12);
                }
            }
        }
    }

    #[test]
    fn points_that_cannot_be_chosen_among_are_errors() {
        assert!(cheapest_gammas(&[(0.0, 1.0), (1.0, 1.0)], 2).is_err());
        assert!(cheapest_gammas(&[(0.0, 1.0), (0.0, 1.0)], 1).is_err());
        assert!(cheapest_gammas(&[(0.0, 1.0), (1.0, f64::NAN)], 1).is_err());
    }
}
