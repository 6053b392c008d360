//! The estimators of -log p(x) where the truth is known: a Gaussian, and a mixture of two Gaussians, in two dimensions. The
//! optimal network of both is known in closed form, and so is the density of z_0.

use burn::module::Module;
use burn::tensor::{Device, Tensor, TensorData};
use vdm::diffusion::process::{alpha, sigma};
use vdm::diffusion::{Prediction, Vocabulary};
use vdm::flow::Tolerance;
use vdm::flow::divergence::Trace;
use vdm::likelihood::{Bound, Estimate, Estimator, EvalBatch, EvalError, Importance, Ode};
use vdm::nn::{Conditioning, Mode, ScoreNetwork};
use vdm::schedule::{Endpoints, ScheduleConfig};
use vdm::{DiffusionSettings, ImageShape, VariationalDiffusion};
use vdm_kernels::{Function, elementary};

const SHAPE: ImageShape = ImageShape { channels: 1, height: 1, width: 2 };
/// The far end is so noisy that z_1 is standard normal to 1e-6.
const ENDS: Endpoints = Endpoints { gamma_0: -5.0, gamma_1: 14.0 };
const LEVELS: usize = 8;
/// The components of the mixture are N(±CENTRE, SPREAD² I); the Gaussian is a mixture of two equal components.
const CENTRE: [f64; 2] = [0.5, -0.3];
const SPREAD: f64 = 0.25;

/// eps_hat = sigma/v (z - alpha m tanh(alpha m z / v)) with v = alpha² s² + sigma²: -sigma times the score of z's density.
#[derive(Module, Debug)]
struct Optimal {
    #[module(skip)]
    spread: f64,
    #[module(skip)]
    centre: [f64; 2],
    /// What it answers with.
    #[module(skip)]
    prediction: Prediction,
}

impl ScoreNetwork for Optimal {
    fn forward(&self, z: Tensor<4>, time: Tensor<1>, _: &Conditioning, _: Mode) -> Tensor<4> {
        let batch = time.dims()[0];
        let gamma = (time * (ENDS.gamma_1 - ENDS.gamma_0) + ENDS.gamma_0).reshape([batch, 1, 1, 1]);
        let alpha_square = elementary(gamma.clone() * -1.0, Function::Sigmoid);
        let sigma_square = elementary(gamma, Function::Sigmoid);
        let v = alpha_square.clone() * (self.spread * self.spread) + sigma_square.clone();
        let m = Tensor::<4>::from_data([[[self.centre.map(|c| c as f32)]]], &z.device());
        let along = (z.clone() * m.clone()).sum_dim(3) * alpha_square.clone().sqrt() / v.clone();
        let tanh = elementary(along * 2.0, Function::Sigmoid) * 2.0 - 1.0;
        let (alpha, sigma) = (alpha_square.sqrt(), sigma_square.sqrt());
        let eps_hat = (z.clone() - m * tanh * alpha.clone()) * (sigma.clone() / v);
        match self.prediction {
            Prediction::Eps => eps_hat,
            Prediction::V => (eps_hat - z * sigma) / alpha,
            Prediction::X => (z - eps_hat * sigma) / alpha,
        }
    }

    fn check_shape(&self, _: ImageShape) -> Result<(), String> {
        Ok(())
    }

    fn classes(&self) -> usize {
        0
    }
}

fn model(timesteps: Option<usize>) -> VariationalDiffusion<Optimal> {
    model_of(CENTRE, Prediction::Eps, timesteps)
}

fn model_of(centre: [f64; 2], prediction: Prediction, timesteps: Option<usize>) -> VariationalDiffusion<Optimal> {
    let schedule = ScheduleConfig::FixedLinear(ENDS);
    let vocabulary = Vocabulary::new(LEVELS).unwrap();
    let settings = DiffusionSettings { prediction, ..DiffusionSettings::new(SHAPE, vocabulary, &schedule) };
    let network = Optimal { spread: SPREAD, centre, prediction };
    VariationalDiffusion::new(schedule.init(&Device::flex()), network, settings).with_timesteps(timesteps)
}

fn truth(levels: [usize; 2]) -> f64 {
    truth_of(CENTRE, levels)
}

/// -log p(x) in nats: the sum over components of the product over dimensions of an integral over z_0.
fn truth_of(centre: [f64; 2], levels: [usize; 2]) -> f64 {
    let vocabulary = Vocabulary::new(LEVELS).unwrap();
    let (alpha_0, sigma_0) = (alpha(ENDS.gamma_0), sigma(ENDS.gamma_0));
    let sd = (alpha_0 * alpha_0 * SPREAD * SPREAD + sigma_0 * sigma_0).sqrt();
    let integral = |mean: f64, level: usize| -> f64 {
        let (n, reach) = (4000, 8.0 * sd);
        let step = 2.0 * reach / f64::from(n);
        let at = |i: i32| {
            let u = -reach + step * (f64::from(i) + 0.5);
            let density = libm::exp(-0.5 * (u / sd).powi(2)) / (sd * std::f64::consts::TAU.sqrt());
            density * vocabulary.probabilities((mean + u) as f32, ENDS.gamma_0)[level] * step
        };
        (0..n).map(at).sum()
    };
    let component = |sign: f64| -> f64 {
        centre.iter().zip(levels).map(|(c, level)| integral(sign * alpha_0 * c, level)).product()
    };
    -libm::log(0.5 * (component(1.0) + component(-1.0)))
}

/// Every image of two levels each, some of them likely and some not.
const IMAGES: [[usize; 2]; 6] = [[5, 2], [2, 5], [6, 3], [3, 3], [4, 6], [0, 7]];

/// `copies` estimates of every image: each copy is an image of its own to the estimator, with a time of its own.
fn estimates(
    model: &VariationalDiffusion<Optimal>,
    estimator: &dyn Estimator<Optimal>,
    copies: usize,
    batch_size: usize,
) -> Result<Vec<Vec<Estimate>>, EvalError> {
    let device = Device::flex();
    let all: Vec<usize> = (0..IMAGES.len() * copies).collect();
    let mut found = Vec::new();
    for indices in all.chunks(batch_size) {
        let levels: Vec<f32> = indices.iter().flat_map(|i| IMAGES[i % IMAGES.len()].map(|k| k as f32)).collect();
        let k = Tensor::<4>::from_data(TensorData::new(levels, SHAPE.batch(indices.len())), &device);
        let time = |&i: &usize| ((i / IMAGES.len()) as f64 + 0.5) / copies as f64;
        let times: Vec<f64> = indices.iter().map(time).collect();
        let conditioning = Conditioning::default();
        let batch = EvalBatch { k, indices, times: &times, conditioning: &conditioning, pass: 0, seed: 3 };
        found.extend(estimator.estimate(model, &batch, &device, &mut || Ok(()))?);
    }
    Ok((0..IMAGES.len()).map(|image| found.iter().skip(image).step_by(IMAGES.len()).copied().collect()).collect())
}

/// The mean and its standard error.
fn mean(estimates: &[Estimate]) -> (f64, f64) {
    let n = estimates.len() as f64;
    let mean = estimates.iter().map(Estimate::total).sum::<f64>() / n;
    let square: f64 = estimates.iter().map(|e| (e.total() - mean).powi(2)).sum();
    (mean, (square / (n - 1.0) / n).sqrt())
}

fn ode(draws: usize, trace: Trace, probes: usize) -> Ode {
    Ode { tolerance: Tolerance::new(1e-5), trace, probes, draws }
}

#[test]
fn the_bound_is_above_the_truth_and_that_in_steps_falls_to_it() {
    let continuous = estimates(&model(None), &Bound, 2000, 12_000).unwrap();
    let in_steps = |steps| estimates(&model(Some(steps)), &Bound, 2000, 12_000).unwrap();
    let (coarse, fine) = (in_steps(20), in_steps(1000));
    for (i, levels) in IMAGES.into_iter().enumerate() {
        let [(a, error), (b, _), (c, error_fine)] = [&continuous[i], &coarse[i], &fine[i]].map(|e| mean(e));
        assert!(a > truth(levels) - 4.0 * error, "{levels:?}: bound {a} ± {error}, truth {}", truth(levels));
        assert!(b > c && (c - a).abs() < 4.0 * (error + error_fine) + 0.02, "{levels:?}: {b} {c} {a}");
    }
}

#[test]
fn importance_weighting_starts_at_the_bound_and_rises_to_the_truth() {
    let model = model(Some(200));
    let bound = estimates(&model, &Bound, 2000, 12_000).unwrap();
    let weighted = |draws| estimates(&model, &Importance { draws }, 60, 360).unwrap();
    let (one, eight, many) = (weighted(1), weighted(8), weighted(128));
    for (i, levels) in IMAGES.into_iter().enumerate() {
        let [bound, one, eight, many] = [&bound[i], &one[i], &eight[i], &many[i]].map(|e| mean(e));
        let apart = |a: (f64, f64), b: (f64, f64)| (a.0 - b.0).abs() / (a.1 + b.1);
        assert!(apart(bound, one) < 4.0, "{levels:?}: {bound:?} {one:?}");
        assert!(eight.0 < one.0 + 3.0 * one.1 && many.0 < eight.0 + 3.0 * eight.1, "{one:?} {eight:?} {many:?}");
        // The model in 200 steps is not quite the one in continuous time, whose density is known; and a finite number of draws
        // leaves a part of the gap.
        let (truth, left) = (truth(levels), 0.2 * (one.0 - truth(levels)));
        assert!(many.0 > truth - 0.05 - 4.0 * many.1, "{levels:?}: {many:?}, truth {truth}");
        assert!(many.0 < truth + left + 0.05 + 4.0 * many.1, "{levels:?}: {one:?} {many:?}, truth {truth}");
    }
}

#[test]
fn the_flow_has_the_known_density() {
    let model = model(None);
    let one = estimates(&model, &ode(1, Trace::Exact, 1), 40, 240).unwrap();
    let many = estimates(&model, &ode(256, Trace::Exact, 1), 4, 24).unwrap();
    for (i, levels) in IMAGES.into_iter().enumerate() {
        let ((bound, error), (value, error_many)) = (mean(&one[i]), mean(&many[i]));
        let truth = truth(levels);
        assert!(bound > truth - 3.0 * error, "{levels:?}: {bound} {truth}");
        // A finite number of draws leaves a part of the gap, the more the more the weights differ.
        let left = 0.1 * (bound - truth);
        assert!(value > truth - 4.0 * error_many - 2e-3, "{levels:?}: {value} ± {error_many}, truth {truth}");
        assert!(value < truth + left + 4.0 * error_many + 2e-3, "{levels:?}: {value}, bound {bound}, truth {truth}");
    }
}

#[test]
fn hutchinsons_trace_agrees_with_the_exact_one_and_its_variance_falls_with_the_probes() {
    let model = model(None);
    let exact = estimates(&model, &ode(1, Trace::Exact, 1), 1, 6).unwrap();
    let off = |trace, probes, copies| -> (f64, f64) {
        // Copies have other noise of z_0: the first alone has the exact one's.
        let errors: Vec<f64> = (0..copies)
            .map(|seed| {
                let found = with_seed(&model, &ode(1, trace, probes), seed);
                found.iter().zip(with_seed(&model, &ode(1, Trace::Exact, 1), seed)).map(|(a, b)| a - b).sum::<f64>()
            })
            .collect();
        let n = copies as f64;
        let mean = errors.iter().sum::<f64>() / n;
        let variance = errors.iter().map(|e| (e - mean).powi(2)).sum::<f64>() / (n - 1.0);
        (mean / (variance / n).sqrt(), variance)
    };
    assert_eq!(exact.len(), IMAGES.len());
    for trace in [Trace::Rademacher, Trace::Gaussian] {
        let ((few_off, few), (many_off, many)) = (off(trace, 1, 60), off(trace, 16, 60));
        assert!(few_off.abs() < 4.0 && many_off.abs() < 4.0, "{trace:?}: {few_off} {many_off}");
        let ratio = few / many;
        assert!((6.0..45.0).contains(&ratio), "{trace:?}: the variance falls by {ratio}, not 16");
    }
}

fn with_seed(model: &VariationalDiffusion<Optimal>, estimator: &dyn Estimator<Optimal>, seed: u64) -> Vec<f64> {
    let device = Device::flex();
    let levels: Vec<f32> = IMAGES.iter().flat_map(|levels| levels.map(|k| k as f32)).collect();
    let k = Tensor::<4>::from_data(TensorData::new(levels, SHAPE.batch(IMAGES.len())), &device);
    let indices: Vec<usize> = (0..IMAGES.len()).collect();
    let conditioning = Conditioning::default();
    let batch =
        EvalBatch { k, indices: &indices, times: &[0.5; IMAGES.len()], conditioning: &conditioning, pass: 0, seed };
    estimator.estimate(model, &batch, &device, &mut || Ok(())).unwrap().iter().map(Estimate::total).collect()
}

#[test]
fn every_estimator_agrees_with_the_truth_of_a_gaussian() {
    const ORIGIN: [f64; 2] = [0.0; 2];
    let [continuous, steps] = [None, Some(400)].map(|timesteps| model_of(ORIGIN, Prediction::Eps, timesteps));
    let bound = estimates(&continuous, &Bound, 2000, 12_000).unwrap();
    let weighted = estimates(&steps, &Importance { draws: 128 }, 30, 180).unwrap();
    let exact = estimates(&continuous, &ode(128, Trace::Exact, 1), 4, 24).unwrap();
    let probed = estimates(&continuous, &ode(128, Trace::Rademacher, 4), 4, 24).unwrap();
    for (i, levels) in IMAGES.into_iter().enumerate() {
        let truth = truth_of(ORIGIN, levels);
        let (value, error) = mean(&bound[i]);
        assert!(value > truth - 4.0 * error, "{levels:?}: bound {value} ± {error}, truth {truth}");
        // What a finite number of draws leaves of the gap, and the difference between 400 steps and continuous time.
        let left = 0.1 * (value - truth) + 0.03;
        for (name, found) in [("importance", &weighted), ("exact", &exact), ("probed", &probed)] {
            let (value, error) = mean(&found[i]);
            assert!((value - truth).abs() < left + 4.0 * error, "{levels:?}: {name} {value} ± {error}, truth {truth}");
        }
    }
}

/// A network that answers with v or x has the bound of the one that answers with the same eps_hat, but for rounding.
#[test]
fn every_prediction_has_the_same_bound() {
    let of = |prediction| estimates(&model_of(CENTRE, prediction, None), &Bound, 200, 1200).unwrap();
    let (eps, v, x) = (of(Prediction::Eps), of(Prediction::V), of(Prediction::X));
    for (i, levels) in IMAGES.into_iter().enumerate() {
        let [eps, v, x] = [&eps, &v, &x].map(|e| mean(&e[i]).0);
        assert!((v - eps).abs() < 1e-3 * eps && (x - eps).abs() < 1e-3 * eps, "{levels:?}: {eps} {v} {x}");
    }
}

#[test]
fn an_images_value_is_the_same_in_any_batch() {
    let (continuous, steps) = (model(None), model(Some(7)));
    let all: [(&VariationalDiffusion<Optimal>, &dyn Estimator<Optimal>); 4] = [
        (&continuous, &Bound),
        (&steps, &Importance { draws: 3 }),
        (&continuous, &ode(2, Trace::Rademacher, 2)),
        (&continuous, &ode(1, Trace::Exact, 1)),
    ];
    for (model, estimator) in all {
        let at = |batch_size| estimates(model, estimator, 2, batch_size).unwrap();
        assert_eq!(at(1), at(7));
        assert_eq!(at(7), at(12));
    }
}

#[test]
fn what_an_estimator_cannot_do_is_an_error() {
    let (continuous, steps) = (model(None), model(Some(7)));
    let error = |model, estimator: &dyn Estimator<Optimal>| estimates(model, estimator, 1, 6).unwrap_err();
    assert_eq!(error(&continuous, &Importance { draws: 1 }), EvalError::ContinuousTime);
    assert!(matches!(error(&steps, &Importance { draws: 0 }), EvalError::Number { what: "draws", .. }));
    assert!(matches!(error(&steps, &ode(0, Trace::Exact, 1)), EvalError::Number { what: "draws", .. }));
    assert!(matches!(error(&steps, &ode(1, Trace::Gaussian, 0)), EvalError::Number { what: "probes", .. }));
    for tolerance in [Tolerance::new(0.0), Tolerance::new(f64::NAN), Tolerance { error: 1e-9, max_evaluations: 10 }] {
        let estimator = Ode { tolerance, ..ode(1, Trace::Rademacher, 1) };
        assert!(matches!(error(&continuous, &estimator), EvalError::Solve(_)));
    }
}
