//! Schedules trained for less variance (VDM appendix I.2).
//!
//! In continuous time the bound depends on a schedule only through gamma_0 and gamma_1: the shape in between changes
//! how noisy the estimate of the diffusion loss is, not its mean. So gamma_0 and gamma_1, like the network, take the
//! gradient of the mean over images of the loss l_i, and the shape's parameters eta take that of the mean of l_i^2,
//!
//! d(l_i^2)/d eta = 2 l_i (dl_i/dgamma_i dgamma_i/d eta + dl_i/dgamma'_i dgamma'_i/d eta).
//!
//! That needs no second pass through the network. A [`ScheduleTape`] cuts the graph at gamma_i and gamma'_i; the one
//! backward pass, which is done anyway, leaves dl_i/dgamma_i and dl_i/dgamma'_i there; [`schedule_gradients`] takes them
//! on through the schedule alone, and puts the result among the other gradients:
//!
//! 1. [`VariationalDiffusion::loss_with_tape`](crate::VariationalDiffusion::loss_with_tape) for the loss,
//! 2. the backward pass of its mean,
//! 3. [`schedule_gradients`],
//! 4. the optimiser's step, or a sum over more passes before it.

use super::{GammaAt, NoiseSchedule, Schedule, ScheduleError, Split};
use crate::weights::{NamedParameters, walk};
use burn::module::Param;
use burn::tensor::{Gradients, Tensor};
use serde::{Deserialize, Serialize};

/// What a schedule's parameters are trained for (VDM appendix I.2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ScheduleObjective {
    /// All of them for the bound. In continuous time the bound does not depend on the shape between the endpoints, so
    /// the shape's gradient is noise around zero.
    #[default]
    Bound,
    /// The endpoints for the bound, the shape for less variance of its estimate: see [`schedule_gradients`].
    Variance,
}

/// Why a schedule cannot be trained for less variance.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ObjectiveError {
    /// In discrete time the bound depends on the whole schedule.
    #[error(
        "the discrete-time bound of {timesteps} steps depends on the schedule between its endpoints, which only the \
         continuous-time bound leaves free; use train.timesteps = 0 or schedule.objective = \"bound\""
    )]
    DiscreteTime {
        /// Steps T.
        timesteps: usize,
    },
    /// The endpoints depend on the same parameters as the shape.
    #[error(
        "the endpoints of a `network` schedule move with its shape, so the two cannot have different objectives; use \
         schedule.kind = \"pinned-network\""
    )]
    Unpinned,
    /// The schedule itself is out of order.
    #[error(transparent)]
    Schedule(#[from] ScheduleError),
    /// The losses are not those of the tape's times.
    #[error("{losses} losses for the {times} times of the schedule's tape; there must be one for each")]
    Batch {
        /// Times of the tape.
        times: usize,
        /// Losses.
        losses: usize,
    },
    /// The gradients are of something else.
    #[error(
        "the gradients have none of the schedule's tape: they must be of a loss computed with this tape, on a device \
         with autodiff"
    )]
    NoGradient,
}

/// gamma and gamma' of a batch as leaves of the graph: what is computed from them leaves its gradient here and goes no
/// further, until [`schedule_gradients`] takes it on.
#[derive(Clone, Debug)]
pub struct ScheduleTape {
    /// gamma(t): `[batch]`.
    gamma: Tensor<1>,
    /// gamma'(t): `[batch]`.
    prime: Tensor<1>,
    /// t: `[batch]`.
    times: Tensor<1>,
}

impl ScheduleTape {
    /// Evaluates `schedule` at `times` and cuts the graph there.
    ///
    /// # Shapes
    /// - `times`: `[batch]`, in [0, 1]
    pub fn record(schedule: &NoiseSchedule, times: Tensor<1>) -> Self {
        let leaf = |t: Tensor<1>| {
            let t = t.detach();
            if t.is_autodiff() { t.require_grad() } else { t }
        };
        let GammaAt { gamma, prime } = schedule.forward(times.clone());
        Self { gamma: leaf(gamma), prime: leaf(prime), times }
    }

    /// gamma and gamma' at the tape's times, each `[batch]`: what the loss must be computed from.
    pub fn at(&self) -> GammaAt {
        GammaAt { gamma: self.gamma.clone(), prime: self.prime.clone() }
    }
}

/// Gives the schedule's parameters the gradients that lower the variance of the bound's estimate, given the gradients
/// of an objective that was computed with `tape`.
///
/// The objective must contain the losses L_i of the images, `diffusion`, as the sum over i of `weight` L_i, where L_i
/// depends on gamma_i and gamma'_i of the tape, and nothing else may depend on the tape. Let l_i = B `weight` L_i for
/// a batch of B: the objective's share is the mean of l_i. For an objective that is a mean in bits per dimension and
/// L_i in nats, `weight` is 1/(B D ln 2). Then `gradients`, which afterwards has nothing of the tape any more, gets
///
/// - for the endpoints' parameters: the gradient of the mean of l_i, *added* to what the rest of the objective (prior,
///   reconstruction) put there;
/// - for the shape's parameters: the gradient of the mean of l_i^2, in the unit of l_i squared.
///
/// Endpoints are gamma_0 and gamma_1 of a [`PinnedSchedule`](crate::schedule::PinnedSchedule), and both parameters of a
/// [`LearnedLinear`](crate::schedule::LearnedLinear), which has no shape; a
/// [`FixedLinear`](crate::schedule::FixedLinear) and a [`FixedCurve`](crate::schedule::FixedCurve) have no parameters
/// at all. Gradients of several passes may be added up afterwards.
///
/// # Shapes
/// - `diffusion`: `[batch]`, the value counts, not the graph
///
/// # Errors
/// See [`ObjectiveError`]; `gradients` is then unchanged, except after [`ObjectiveError::NoGradient`].
pub fn schedule_gradients(
    schedule: &NoiseSchedule,
    tape: &ScheduleTape,
    diffusion: Tensor<1>,
    gradients: &mut Gradients,
    weight: f64,
) -> Result<(), ObjectiveError> {
    let ([times], [losses]) = (tape.times.dims(), diffusion.dims());
    if times != losses {
        return Err(ObjectiveError::Batch { times, losses });
    }
    let split = schedule.split(tape.times.clone());
    if let Split::Together = split {
        return Err(ObjectiveError::Unpinned);
    }
    schedule.validate()?;

    // 1. weight dL_i/dgamma_i and weight dL_i/dgamma'_i. A loss may do without one of the two.
    let (by_gamma, by_prime) = (tape.gamma.grad_remove(gradients), tape.prime.grad_remove(gradients));
    if by_gamma.is_none() && by_prime.is_none() {
        return Err(ObjectiveError::NoGradient);
    }
    let diffusion = diffusion.inner();
    let [by_gamma, by_prime] = [by_gamma, by_prime].map(|g| g.unwrap_or_else(|| diffusion.zeros_like()));

    // ANCHOR: squares
    // 2. One backward pass through the schedule, from the scalar whose derivative is the vector-Jacobian product. The
    // mean of l_i^2 has the derivative 2 l_i dl_i / B, and dl_i / B = weight dL_i.
    let product = |at: GammaAt, by_gamma: Tensor<1>, by_prime: Tensor<1>| {
        (at.gamma * Tensor::from_inner(by_gamma) + at.prime * Tensor::from_inner(by_prime)).sum()
    };
    let scalar = match split {
        Split::Fixed | Split::Together => return Ok(()),
        Split::Endpoints(endpoints) => product(endpoints, by_gamma, by_prime),
        Split::Apart { endpoints, shape } => {
            let twice = diffusion * (2.0 * times as f64 * weight);
            let squared = product(shape, by_gamma.clone() * twice.clone(), by_prime.clone() * twice);
            product(endpoints, by_gamma, by_prime) + squared
        }
    };
    // ANCHOR_END: squares
    if !scalar.is_tracked() {
        return Err(ObjectiveError::NoGradient);
    }

    // 3. Into the gradients of everything else.
    walk(schedule.clone(), &mut Merge { from: &scalar.backward(), into: gradients });
    Ok(())
}

/// Adds the gradients of a module's parameters in `from` to those in `into`.
struct Merge<'a> {
    from: &'a Gradients,
    into: &'a mut Gradients,
}

impl NamedParameters for Merge<'_> {
    fn parameter<const D: usize>(&mut self, _name: &str, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let value = param.val();
        if let Some(new) = value.grad(self.from) {
            let sum = match value.grad_remove(self.into) {
                Some(old) => old + new,
                None => new,
            };
            value.grad_replace(self.into, sum);
        }
        param
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diffusion::Vocabulary;
    use crate::math::host;
    use crate::nn::{Conditioning, FourierFeatures, Mode, ScoreUNet, ScoreUNetConfig};
    use crate::schedule::{Endpoints, HostSchedule, LearnableScheduleConfig, NetworkScheduleConfig, ScheduleConfig};
    use crate::shape::ImageShape;
    use crate::weights::{Weights, export, gradients as gradients_of, import};
    use crate::{DiffusionSettings, LossTerms, Noise, VariationalDiffusion, bits_per_dim};
    use burn::tensor::{Device, TensorData};
    use vdm_kernels::rng::Philox;

    const BATCH: usize = 12;

    /// Fixed times, and the numbers w_i and a_i of a surrogate loss L_i = 1/2 gamma'_i w_i sigmoid(a_i gamma_i).
    fn surrogate() -> [Vec<f32>; 3] {
        let [mut times, mut w, mut a] = [0.0, 0.0, 0.0].map(|zero| vec![zero; BATCH]);
        let stream = Philox::new(5, 0);
        stream.uniform(0, &mut times);
        stream.uniform(1, &mut w);
        stream.normal(2, &mut a);
        a.iter_mut().for_each(|a| *a *= 0.2);
        [times, w, a]
    }

    /// The means of L_i and of L_i^2 in f64.
    fn moments(schedule: &dyn HostSchedule) -> [f64; 2] {
        let [times, w, a] = surrogate();
        let mut sums = [0.0; 2];
        for i in 0..BATCH {
            let [t, w, a] = [times[i], w[i], a[i]].map(f64::from);
            let loss = 0.5 * schedule.prime(t) * w * crate::math::sigmoid(a * schedule.gamma(t));
            sums[0] += loss / BATCH as f64;
            sums[1] += loss * loss / BATCH as f64;
        }
        sums
    }

    /// The gradients that the surrogate loss leaves after [`schedule_gradients`].
    fn reduced(schedule: &NoiseSchedule, device: &Device) -> Weights {
        let [times, w, a] = surrogate().map(|x| Tensor::<1>::from_data(x.as_slice(), device));
        let tape = ScheduleTape::record(schedule, times);
        let GammaAt { gamma, prime } = tape.at();
        let loss = prime * w * burn::tensor::activation::sigmoid(a * gamma) * 0.5;
        let mut gradients = loss.clone().mean().backward();
        schedule_gradients(schedule, &tape, loss, &mut gradients, 1.0 / BATCH as f64).unwrap();
        gradients_of(schedule, &gradients)
    }

    /// The kinds that are tried.
    #[derive(Clone, Copy, Debug)]
    enum Kind {
        FixedLinear,
        LearnedLinear,
        Network,
        PinnedNetwork,
        Monotonic,
    }

    fn config(kind: Kind) -> ScheduleConfig {
        config_between(kind, Endpoints::default())
    }

    fn config_between(kind: Kind, ends: Endpoints) -> ScheduleConfig {
        let Endpoints { gamma_0, gamma_1 } = ends;
        let network = NetworkScheduleConfig { gamma_0, gamma_1, features: 6 };
        let hidden = vec![6, 5];
        match kind {
            Kind::FixedLinear => ScheduleConfig::FixedLinear(ends),
            Kind::LearnedLinear => ScheduleConfig::LearnedLinear(ends),
            Kind::Network => ScheduleConfig::Network(network),
            Kind::PinnedNetwork => ScheduleConfig::PinnedNetwork(network),
            Kind::Monotonic => {
                let activation = Default::default();
                ScheduleConfig::Monotonic(LearnableScheduleConfig { hidden, activation, gamma_0, gamma_1 })
            }
        }
    }

    /// A shape with weights of both signs, none so near zero that a difference would step over the bend of |w|.
    fn randomised(schedule: NoiseSchedule, seed: u64) -> NoiseSchedule {
        let mut weights = export(&schedule);
        for (i, (name, tensor)) in weights.iter_mut().enumerate() {
            if is_shape(name) {
                Philox::new(seed, i as u64).normal(0, &mut tensor.data);
                tensor.data.iter_mut().for_each(|w| *w += 0.05 * w.signum());
            }
        }
        import(schedule, &weights).unwrap()
    }

    /// Every single derivative against a central difference in f64: of the mean of L_i for endpoints, of the mean of
    /// L_i^2 for everything else.
    #[test]
    fn gradients_agree_with_differences() {
        let device = Device::flex().autodiff();
        for kind in [Kind::LearnedLinear, Kind::PinnedNetwork, Kind::Monotonic] {
            let schedule = randomised(config(kind).init(&device), 1);
            let weights = export(&schedule);
            let found = reduced(&schedule, &device);
            assert!(found.keys().eq(weights.keys()), "{:?} and {:?}", found.keys(), weights.keys());
            let norms = [false, true].map(|shape| {
                let of_kind = found.iter().filter(|(name, _)| is_shape(name) == shape);
                norm(of_kind.flat_map(|(_, t)| t.data.iter().map(|&x| f64::from(x))))
            });
            for (name, tensor) in &weights {
                let moment = usize::from(is_shape(name));
                for i in 0..tensor.data.len() {
                    let at = |step: f32| {
                        let mut moved = weights.clone();
                        let entry = &mut moved.get_mut(name).unwrap().data[i];
                        *entry += step;
                        let place = f64::from(*entry);
                        (place, moments(import(schedule.clone(), &moved).unwrap().to_host().as_ref())[moment])
                    };
                    // So small that it meets no bend of elu's slope, on which gamma' depends.
                    let h = 1e-5;
                    let ((right, above), (left, below)) = (at(h), at(-h));
                    let want = (above - below) / (right - left);
                    let found = f64::from(found[name].data[i]);
                    // The f32 noise of the gradient is about 1e-5 of the whole; a wrong factor anywhere is far more.
                    let off = (found - want).abs();
                    assert!(
                        off <= 1e-3 * (want.abs() + norms[moment]),
                        "{kind:?}, {name}[{i}]: {found}, by difference {want}"
                    );
                }
            }
        }
    }

    fn is_shape(name: &str) -> bool {
        name.contains(".raw.")
    }

    fn model(kind: Kind, device: &Device) -> VariationalDiffusion<ScoreUNet> {
        let schedule = config_between(kind, Endpoints { gamma_0: -6.0, gamma_1: 4.0 });
        let settings = DiffusionSettings::new(SHAPE, Vocabulary::new(17).unwrap(), &schedule);
        let network = ScoreUNetConfig { fourier: FourierFeatures::None, ..ScoreUNetConfig::new(1, 32, 1) };
        let network = network.init(device);
        // Nothing is zero, so that eps_hat depends on gamma in every way it can.
        let mut weights = export(&network);
        for (i, tensor) in weights.values_mut().enumerate() {
            Philox::new(9, i as u64).normal(0, &mut tensor.data);
            tensor.data.iter_mut().for_each(|w| *w *= 0.05);
        }
        let network = import(network, &weights).unwrap();
        VariationalDiffusion::new(randomised(schedule.init(device), 2), network, settings)
    }

    const SHAPE: ImageShape = ImageShape { channels: 1, height: 4, width: 4 };

    /// Images, times and noise.
    fn batch(device: &Device) -> (Tensor<4>, Vec<f64>, Noise) {
        let streams: Vec<Philox> = (0..3).map(|i| Philox::new(3, i)).collect();
        let k: Vec<f32> = (0..48).map(|i| (i * 7 % 17) as f32).collect();
        let k = Tensor::from_data(TensorData::new(k, [3, 1, 4, 4]), device);
        (k, vec![0.11, 0.45, 0.83], Noise::draw(&streams, SHAPE, device))
    }

    /// The objective: the mean in bits per dimension.
    fn bits(terms: &LossTerms) -> Tensor<1> {
        terms.total().mean() * bits_per_dim(1.0, SHAPE.dims())
    }

    fn norm(x: impl Iterator<Item = f64>) -> f64 {
        x.map(|x| x * x).sum::<f64>().sqrt()
    }

    /// With the whole model: everything but the shape gets the gradient of the bound as if nothing had been cut, and
    /// the shape that of the mean square of the diffusion loss, here from a second pass through the uncut network.
    #[test]
    fn cutting_the_graph_changes_the_gradients_of_the_shape_only() {
        let device = Device::flex().autodiff();
        let straight = [Kind::FixedLinear, Kind::LearnedLinear];
        let shaped = [Kind::PinnedNetwork, Kind::Monotonic];
        for kind in straight.into_iter().chain(shaped) {
            let model = model(kind, &device);
            let conditioning = Conditioning::default();
            let loss = || {
                let (k, times, noise) = batch(&device);
                model.loss(k, &times, noise, &conditioning, Mode::Eval)
            };
            let plain = loss();
            let mut want = gradients_of(&model, &bits(&plain).backward());
            let square = (loss().diffusion * bits_per_dim(1.0, SHAPE.dims())).powi_scalar(2).mean();
            let of_square = gradients_of(&model, &square.backward());
            want.extend(of_square.into_iter().filter(|(name, _)| is_shape(name)));

            let (k, times, noise) = batch(&device);
            let (terms, tape) = model.loss_with_tape(k, &times, noise, &conditioning, Mode::Eval).unwrap();
            let values = |terms: &LossTerms| {
                [&terms.prior, &terms.reconstruction, &terms.diffusion].map(|t: &Tensor<1>| host(t))
            };
            assert_eq!(values(&terms), values(&plain));
            let mut gradients = bits(&terms).backward();
            let weight = bits_per_dim(1.0 / 3.0, SHAPE.dims());
            schedule_gradients(&model.schedule, &tape, terms.diffusion, &mut gradients, weight).unwrap();
            let found = gradients_of(&model, &gradients);
            assert!(found.keys().eq(want.keys()), "{kind:?}");
            // Some gradients are zero by construction, and noise: beside each's own norm a share of all of its kind.
            let all = [false, true].map(|shape| {
                let of_kind = want.iter().filter(|(name, _)| is_shape(name) == shape);
                norm(of_kind.flat_map(|(_, t)| t.data.iter().map(|&x| f64::from(x))))
            });
            for (name, want) in &want {
                let off = norm(found[name].data.iter().zip(&want.data).map(|(a, b)| f64::from(a - b)));
                let own = norm(want.data.iter().map(|&x| f64::from(x)));
                let allowed = 2e-3 * own + 1e-4 * all[usize::from(is_shape(name))];
                assert!(off <= allowed, "{kind:?}, {name}: off by {off}, allowed {allowed}, norm {own}");
            }
            // What was taken on is not there any more.
            assert!(tape.at().gamma.grad(&gradients).is_none() && tape.at().prime.grad(&gradients).is_none());
        }
    }

    #[test]
    fn what_cannot_be_is_an_error() {
        let device = Device::flex().autodiff();
        let times = || Tensor::<1>::from_data([0.2f32, 0.7], &device);
        let losses = |n: usize| Tensor::<1>::ones([n], &device);
        let gradients = |tape: &ScheduleTape| (tape.at().gamma * tape.at().prime).sum().backward();

        let floating = config(Kind::Network).init(&device);
        let tape = ScheduleTape::record(&floating, times());
        let error = schedule_gradients(&floating, &tape, losses(2), &mut gradients(&tape), 0.5).unwrap_err();
        assert_eq!(error, ObjectiveError::Unpinned);
        assert!(error.to_string().contains("pinned-network"), "{error}");

        let pinned = config(Kind::Monotonic).init(&device);
        let tape = ScheduleTape::record(&pinned, times());
        let error = schedule_gradients(&pinned, &tape, losses(3), &mut gradients(&tape), 0.5).unwrap_err();
        assert_eq!(error, ObjectiveError::Batch { times: 2, losses: 3 });
        let other = ScheduleTape::record(&pinned, times());
        let error = schedule_gradients(&pinned, &tape, losses(2), &mut gradients(&other), 0.5).unwrap_err();
        assert_eq!(error, ObjectiveError::NoGradient);

        let NoiseSchedule::Pinned(mut crossed) = pinned else { panic!("a monotonic schedule is pinned") };
        crossed.gamma_1 = Param::from_data([-20.0f32], &device);
        let crossed = NoiseSchedule::Pinned(crossed);
        let tape = ScheduleTape::record(&crossed, times());
        let error = schedule_gradients(&crossed, &tape, losses(2), &mut gradients(&tape), 0.5).unwrap_err();
        assert!(error.to_string().contains("gamma_1 = -20"), "{error}");

        let discrete = model(Kind::Monotonic, &device).with_timesteps(Some(10));
        let (k, times, noise) = batch(&device);
        let error = discrete.loss_with_tape(k, &times, noise, &Conditioning::default(), Mode::Eval).unwrap_err();
        assert_eq!(error, ObjectiveError::DiscreteTime { timesteps: 10 });
        assert!(error.to_string().contains("train.timesteps = 0"), "{error}");

        // Without autodiff the loss has its value; there is no gradient to reduce the variance with.
        let plain = Device::flex();
        let model = model(Kind::Monotonic, &plain);
        let (k, times, noise) = batch(&plain);
        assert!(model.loss_with_tape(k, &times, noise, &Conditioning::default(), Mode::Eval).is_ok());
    }
}
