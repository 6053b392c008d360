//! The gradient of one batch: parts of it side by side, and their sum.

use super::Batch;
use crate::nn::{Mode, ScoreNetwork};
use crate::random::PART_SEEDS;
use crate::schedule::{ObjectiveError, ScheduleObjective, schedule_gradients};
use crate::weights::{NamedParameters, walk};
use crate::{LossTerms, VariationalDiffusion, bits_per_dim, parts};
use burn::module::{Module, ModuleDisplay, Param};
use burn::tensor::{Device, Gradients, Tensor};
use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::ops::Range;
use vdm_kernels::{SquareSums, rng::Philox, teams};

/// Gradients by parameter name, flattened: the weighted sum over the passes of one step.
#[derive(Debug, Default)]
pub struct GradientSum {
    grads: BTreeMap<String, Tensor<1>>,
    weight: f64,
    /// Σ x² of each gradient as it is now, once it was asked for.
    squares: OnceCell<SquareSums>,
}

/// Euclidean norms of a mean gradient, which may still be on the device.
#[derive(Debug)]
pub(super) struct Norms {
    squares: SquareSums,
    /// Whether each parameter counts in the second norm.
    counted: Vec<bool>,
    scale: f64,
}

impl Norms {
    /// The norms over all parameters and over those that count: a device waits for them.
    pub fn read(self) -> [f64; 2] {
        let squares = self.squares.read();
        let counted = squares.iter().zip(self.counted).filter(|(_, counts)| *counts).map(|(square, _)| square);
        [squares.iter().sum::<f64>(), counted.sum()].map(|square| square.sqrt() * self.scale)
    }
}

impl GradientSum {
    /// The gradients of one backward pass.
    pub fn of<M: Module>(module: &M, mut gradients: Gradients) -> Self {
        let mut sum = Self::default();
        sum.add(module, &mut gradients, 1.0);
        sum
    }

    /// A sum that was computed elsewhere: gradients by name, each as often as it counts, and how often that is in all.
    pub(super) fn from_parts(grads: BTreeMap<String, Tensor<1>>, weight: f64) -> Self {
        Self { grads, weight, squares: OnceCell::new() }
    }

    /// Adds the gradients that a backward pass left for the parameters of `module`, `weight` times.
    pub fn add<M: Module>(&mut self, module: &M, gradients: &mut Gradients, weight: f64) {
        let grads = take_gradients(module, gradients).into_iter();
        let grads = grads.map(|(name, grad)| (name, if weight == 1.0 { grad } else { grad * weight })).collect();
        self.merge(Self::from_parts(grads, weight));
    }

    /// The sum of sums, in their order: what [`merge`](Self::merge) of one after the other gives, several parameters at a time.
    fn of_all(mut sums: Vec<Self>) -> Self {
        // There is nothing to add.
        if sums.len() == 1 {
            return sums.remove(0);
        }
        let weight = sums.iter().map(|sum| sum.weight).sum();
        let mut by_name = BTreeMap::<String, Vec<Tensor<1>>>::new();
        for (name, grad) in sums.into_iter().flat_map(|sum| sum.grads) {
            by_name.entry(name).or_default().push(grad);
        }
        let sum = |(name, grads): (String, Vec<Tensor<1>>)| {
            (name, grads.into_iter().reduce(|a, b| a + b).expect("a name came with a gradient"))
        };
        let on_cpu = by_name.values().flatten().all(is_on_cpu);
        let grads = map(on_cpu, by_name.into_iter().collect(), sum);
        Self::from_parts(grads.into_iter().collect(), weight)
    }

    /// Adds another sum.
    pub fn merge(&mut self, other: Self) {
        for (name, grad) in other.grads {
            let sum = match self.grads.remove(&name) {
                Some(sum) => sum + grad,
                None => grad,
            };
            self.grads.insert(name, sum);
        }
        self.weight += other.weight;
        self.squares = OnceCell::new();
    }

    /// Euclidean norm of the mean gradient over all parameters.
    pub fn norm(&self) -> f64 {
        self.norm_of(|_| true)
    }

    /// Euclidean norm of the mean gradient over the parameters whose names are `wanted`.
    pub fn norm_of(&self, wanted: impl Fn(&str) -> bool) -> f64 {
        let [_, norm] = self.norms(wanted).read();
        norm
    }

    /// The norms over all parameters and over those whose names are `counted`, not read back yet.
    pub(super) fn norms(&self, counted: impl Fn(&str) -> bool) -> Norms {
        let squares = self.squares.get_or_init(|| SquareSums::of(&self.grads.values().collect::<Vec<_>>()));
        let counted = self.grads.keys().map(|name| counted(name)).collect();
        Norms { squares: squares.clone(), counted, scale: self.scale() }
    }

    /// Scales the gradient down to the norm `max`. With [`ScheduleObjective::Variance`] the schedule's shape and all
    /// other parameters are two gradients, of two objectives in two units, and each is scaled by itself.
    pub fn clip(&mut self, max: f64, objective: ScheduleObjective) {
        let parts: &[fn(&str) -> bool] = match objective {
            ScheduleObjective::Bound => &[|_| true],
            ScheduleObjective::Variance => &[is_shape, |name| !is_shape(name)],
        };
        for of_part in parts {
            let norm = self.norm_of(of_part);
            if norm > max {
                for (_, grad) in self.grads.iter_mut().filter(|(name, _)| of_part(name)) {
                    *grad = grad.clone() * (max / norm);
                }
                self.squares = OnceCell::new();
            }
        }
    }

    /// The mean gradient of each parameter, by name, flattened.
    pub fn mean(&self) -> BTreeMap<String, Vec<f64>> {
        let mean = |g: &Tensor<1>| g.to_data().iter::<f64>().map(|x| x * self.scale()).collect();
        self.grads.iter().map(|(name, g)| (name.clone(), mean(g))).collect()
    }

    /// The sums themselves.
    pub(super) fn into_gradients(self) -> BTreeMap<String, Tensor<1>> {
        self.grads
    }

    /// The same on another device.
    pub(super) fn to_device(&self, device: &Device) -> Self {
        let grads = self.grads.iter().map(|(name, grad)| (name.clone(), grad.clone().to_device(device))).collect();
        Self::from_parts(grads, self.weight)
    }

    /// What makes the sum a mean.
    pub(super) fn scale(&self) -> f64 {
        if self.weight > 0.0 { 1.0 / self.weight } else { 1.0 }
    }
}

/// `f` of each job, on the CPU by teams of threads. For an accelerator one thread does all: each thread has a queue of its own there,
/// and sums across queues were wrong on wgpu (Burn 0.22.1).
fn map<J: Send, T: Send>(on_cpu: bool, jobs: Vec<J>, f: impl Fn(J) -> T + Sync) -> Vec<T> {
    if on_cpu { teams::map(jobs, f) } else { jobs.into_iter().map(f).collect() }
}

fn is_on_cpu<const D: usize>(tensor: &Tensor<D>) -> bool {
    vdm_kernels::is_fused(&tensor.device(), tensor.dtype())
}

/// Whether a parameter of a model decides the shape of its schedule between the endpoints.
pub(super) fn is_shape(name: &str) -> bool {
    name.starts_with("schedule.") && name.contains(".raw.")
}

/// The gradients of `module`'s parameters, flattened; taken out of `gradients`.
fn take_gradients<M: Module>(module: &M, gradients: &mut Gradients) -> Vec<(String, Tensor<1>)> {
    struct Take<'a> {
        gradients: &'a mut Gradients,
        out: Vec<(String, Tensor<1>)>,
    }
    impl NamedParameters for Take<'_> {
        fn parameter<const D: usize>(&mut self, name: &str, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            if let Some(g) = param.val().grad_remove(self.gradients) {
                let n = g.shape().num_elements();
                self.out.push((name.to_string(), g.reshape([n])));
            }
            param
        }
    }
    let mut take = Take { gradients, out: Vec::new() };
    walk(module.clone(), &mut take);
    take.out
}

/// The gradient of the mean over a batch of the bound in bits per dimension, and the terms of each image.
///
/// With [`ScheduleObjective::Variance`] the schedule's shape gets the gradient of [`schedule_gradients`] instead.
///
/// On the CPU the batch is cut into parts, each with a forward and a backward pass of its own: they need no threads to
/// wait for each other, and the graphs of only as many parts as there are teams of threads are in memory at a time (the
/// parts' gradients are until they are added up: eight at most). The gradient is the sum of the parts' in their order;
/// how the batch is cut does not depend on the threads, so neither does a bit of the gradient.
///
/// # Errors
/// See [`schedule_gradients`] and [`VariationalDiffusion::loss_with_tape`].
///
/// # Panics
/// If the batch is empty.
pub fn batch_gradients<N: ScoreNetwork + ModuleDisplay>(
    model: &VariationalDiffusion<N>,
    batch: Batch,
    objective: ScheduleObjective,
) -> Result<(GradientSum, LossTerms), ObjectiveError> {
    let parts = cut(&batch, model.num_params(), 1);
    Ok(add_up(gradients_of_parts(model, parts, objective)?))
}

/// A part of a batch.
#[derive(Clone, Debug)]
pub(super) struct Part {
    pub batch: Batch,
    /// How much its gradient counts.
    pub weight: f64,
}

/// The parts of a batch, for a model of so many parameters, of which `sharers` devices compute some each.
pub(super) fn cut(batch: &Batch, parameters: usize, sharers: usize) -> Vec<Part> {
    let ranges = parts::for_training(&batch.k, parameters, sharers);
    let largest = ranges.first().map_or(1, |part| part.len());
    let part = |(i, images): (usize, Range<usize>)| {
        let weight = images.len() as f64 / largest as f64;
        let dropout_seed = Philox::new(batch.dropout_seed, PART_SEEDS).next_u64(i as u32);
        let batch = Batch {
            k: batch.k.clone().slice([images.clone()]),
            times: batch.times[images.clone()].to_vec(),
            weights: batch.weights.as_ref().map(|weights| weights[images.clone()].to_vec()),
            noise: batch.noise.slice(images.clone()),
            conditioning: batch.conditioning.slice(images),
            dropout_seed,
        };
        Part { batch, weight }
    };
    ranges.into_iter().enumerate().map(part).collect()
}

/// Neighbouring parts for each of the sharers. The numbers of parts differ by one at most.
pub(super) fn share_out(parts: Vec<Part>, sharers: usize) -> Vec<Vec<Part>> {
    let n = parts.len();
    let mut parts = parts.into_iter();
    let mut share = |i: usize| Vec::from_iter(parts.by_ref().take((i + 1) * n / sharers - i * n / sharers));
    (0..sharers).map(&mut share).collect()
}

/// The gradient of each part, as often as it counts, and the terms of its images.
pub(super) fn gradients_of_parts<N: ScoreNetwork + ModuleDisplay>(
    model: &VariationalDiffusion<N>,
    parts: Vec<Part>,
    objective: ScheduleObjective,
) -> Result<Vec<(GradientSum, LossTerms)>, ObjectiveError> {
    let on_cpu = parts.iter().all(|part| is_on_cpu(&part.batch.k));
    let jobs = parts.into_iter().map(|part| (model.clone(), part)).collect();
    let gradient = |(model, Part { batch, weight }): (VariationalDiffusion<N>, Part)| {
        // Each part has leaves of its own: parts with common leaves would be one graph, behind one lock.
        let model = model.with_own_leaves();
        let (mut gradients, terms) = part_gradients(&model.in_training_precision(), batch, objective)?;
        let mut sum = GradientSum::default();
        sum.add(&model, &mut gradients, weight);
        Ok((sum, terms))
    };
    map(on_cpu, jobs, gradient).into_iter().collect()
}

/// The sum of the parts' gradients, in their order, and the terms of all images.
pub(super) fn add_up(parts: Vec<(GradientSum, LossTerms)>) -> (GradientSum, LossTerms) {
    let (sums, terms): (Vec<_>, Vec<_>) = parts.into_iter().unzip();
    let sum = GradientSum::of_all(sums);
    let cat = |term: fn(&LossTerms) -> &Tensor<1>| Tensor::cat(terms.iter().map(|t| term(t).clone()).collect(), 0);
    let terms = LossTerms {
        prior: cat(|t| &t.prior),
        reconstruction: cat(|t| &t.reconstruction),
        diffusion: cat(|t| &t.diffusion),
    };
    (sum, terms)
}

/// The gradients of the mean over one part, and its terms.
fn part_gradients<N: ScoreNetwork>(
    model: &VariationalDiffusion<N>,
    part: Batch,
    objective: ScheduleObjective,
) -> Result<(Gradients, LossTerms), ObjectiveError> {
    let [batch, c, h, w] = part.k.dims();
    let per_bit = bits_per_dim(1.0, c * h * w);
    let (k, noise, conditioning) = (Tensor::from_inner(part.k), part.noise.autodiff(), part.conditioning.autodiff());
    let mode = Mode::Train { dropout_seed: part.dropout_seed };
    let device = k.device();
    let (mut terms, tape) = match objective {
        ScheduleObjective::Bound => (model.loss(k, &part.times, noise, &conditioning, mode), None),
        ScheduleObjective::Variance => {
            let (terms, tape) = model.loss_with_tape(k, &part.times, noise, &conditioning, mode)?;
            (terms, Some(tape))
        }
    };
    if let Some(weights) = &part.weights {
        let weights: Vec<f32> = weights.iter().map(|&w| w as f32).collect();
        terms.diffusion = terms.diffusion * Tensor::from_data(weights.as_slice(), &device);
    }
    let mut gradients = (terms.total().mean() * per_bit).backward();
    if let Some(tape) = tape {
        schedule_gradients(&model.schedule, &tape, terms.diffusion.clone(), &mut gradients, per_bit / batch as f64)?;
    }
    let LossTerms { prior, reconstruction, diffusion } = terms;
    let [prior, reconstruction, diffusion] = [prior, reconstruction, diffusion].map(Tensor::inner);
    Ok((gradients, LossTerms { prior, reconstruction, diffusion }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ImageShape;
    use crate::Noise;
    use crate::diffusion::Vocabulary;
    use crate::diffusion::times::low_discrepancy;
    use crate::nn::{Conditioning, Precision, ScoreUNetConfig};
    use crate::schedule::{NetworkScheduleConfig, ScheduleConfig};
    use crate::{DiffusionSettings, weights};
    use burn::tensor::TensorData;

    const BATCH: usize = 19;
    const SHAPE: ImageShape = ImageShape { channels: 1, height: 16, width: 16 };

    fn model(schedule: &ScheduleConfig) -> VariationalDiffusion<crate::nn::ScoreUNet> {
        model_in(schedule, Precision::F32)
    }

    fn model_in(schedule: &ScheduleConfig, precision: Precision) -> VariationalDiffusion<crate::nn::ScoreUNet> {
        let device = Device::flex().autodiff();
        let network = ScoreUNetConfig { norm_groups: 4, ..ScoreUNetConfig::new(1, 8, 1) };
        let settings = DiffusionSettings::new(SHAPE, Vocabulary::new(256).unwrap(), schedule);
        let settings = DiffusionSettings { precision, ..settings };
        let model = crate::initial::seeded(0, || {
            VariationalDiffusion::new(schedule.init(&device), network.init(&device), settings)
        });
        // The zero layers would hide what lies behind them.
        let mut values = weights::export(&model);
        for (i, (_, tensor)) in values.iter_mut().enumerate().filter(|(_, (name, _))| name.starts_with("network")) {
            Philox::new(3, i as u64).normal(0, &mut tensor.data);
            tensor.data.iter_mut().for_each(|x| *x *= 0.2);
        }
        weights::import(model, &values).unwrap()
    }

    fn batch() -> Batch {
        let device = Device::flex();
        let streams: Vec<Philox> = (0..BATCH as u64).map(|i| Philox::new(1, i)).collect();
        let mut k = vec![0f32; BATCH * SHAPE.dims()];
        Philox::new(2, 0).uniform(0, &mut k);
        k.iter_mut().for_each(|k| *k = (*k * 256.0).floor());
        Batch {
            k: Tensor::from_data(TensorData::new(k, [BATCH, 1, 16, 16]), &device),
            times: low_discrepancy(0.3, BATCH),
            weights: None,
            noise: Noise::draw(&streams, SHAPE, &device),
            conditioning: Conditioning::default(),
            dropout_seed: 5,
        }
    }

    /// Parts of unequal size, against one pass over the whole batch.
    #[test]
    fn the_parts_sum_up_to_the_gradient_of_the_batch() {
        let pinned = NetworkScheduleConfig { features: 4, ..Default::default() };
        for (schedule, objective) in [
            (ScheduleConfig::default(), ScheduleObjective::Bound),
            (ScheduleConfig::PinnedNetwork(pinned), ScheduleObjective::Variance),
        ] {
            let model = model(&schedule);
            let sizes: Vec<usize> =
                parts::for_training(&batch().k, model.num_params(), 1).iter().map(|part| part.len()).collect();
            assert!(sizes.len() > 2 && sizes.iter().any(|n| *n != sizes[0]), "{sizes:?}");
            let (sum, terms) = batch_gradients(&model, batch(), objective).unwrap();
            let (mut gradients, whole) = part_gradients(&model, batch(), objective).unwrap();
            let mut expected = GradientSum::default();
            expected.add(&model, &mut gradients, 1.0);
            let (sum, expected) = (sum.mean(), expected.mean());
            assert_eq!(sum.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
            let largest = |xs: &[f64]| xs.iter().fold(0f64, |m, x| m.max(x.abs()));
            // These change nothing (the bias of a key, a shift of what is pinned): their gradient is rounding.
            let idle = |name: &str| name.ends_with("k.bias") || name.ends_with("raw.Network.b1");
            for (name, expected) in expected.into_iter().filter(|(name, _)| !idle(name)) {
                // Sums of thousands of products in single precision; those of the schedule's shape nearly cancel.
                let relative = if name.starts_with("schedule.Pinned.raw") { 5e-3 } else { 2e-5 };
                let tolerance = relative * largest(&expected);
                for (got, want) in sum[&name].iter().zip(expected) {
                    assert!((got - want).abs() <= tolerance, "{name}: {got} not {want}");
                }
            }
            let host = |t: LossTerms| t.total().into_data().iter::<f32>().collect::<Vec<_>>();
            assert_eq!(host(terms), host(whole), "an image's terms do not depend on the images beside it");
        }
    }

    /// Of the products alone: each parameter's gradient is near that in single precision, and is not the same.
    #[test]
    fn products_in_bf16_change_the_gradient_little() {
        let schedule = ScheduleConfig::default();
        let gradients = |precision| {
            let (sum, terms) =
                batch_gradients(&model_in(&schedule, precision), batch(), ScheduleObjective::Bound).unwrap();
            (sum.mean(), terms.total().into_data().iter::<f64>().collect::<Vec<_>>())
        };
        let ((exact, loss), (rounded, rounded_loss)) = (gradients(Precision::F32), gradients(Precision::Bf16));
        let norm = |xs: &[f64]| xs.iter().map(|x| x * x).sum::<f64>().sqrt();
        let whole = norm(&exact.values().flatten().copied().collect::<Vec<_>>());
        let mut largest = 0f64;
        for (name, exact) in &exact {
            let off: Vec<f64> = exact.iter().zip(&rounded[name]).map(|(a, b)| a - b).collect();
            // Of its own norm or, where a gradient is next to nothing, of that of all.
            let share = norm(&off) / norm(exact).max(1e-3 * whole);
            assert!(share < 0.1, "{name}: off by {share} of its norm");
            largest = largest.max(share);
        }
        assert!(largest > 1e-4, "nothing was rounded: {largest}");
        for (a, b) in loss.iter().zip(rounded_loss) {
            assert!((a - b).abs() < 0.02 * a.abs(), "{a} {b}");
        }
    }

    /// Two objectives of different units shared one norm.
    #[test]
    fn clipping_treats_the_shape_of_a_schedule_apart() {
        let pinned = NetworkScheduleConfig { features: 4, ..Default::default() };
        let model = model(&ScheduleConfig::PinnedNetwork(pinned));
        let (sum, _) = batch_gradients(&model, batch(), ScheduleObjective::Variance).unwrap();
        let norms = |sum: &GradientSum| [sum.norm_of(is_shape), sum.norm_of(|name| !is_shape(name))];
        let [shape, rest] = norms(&sum);
        assert!(shape > 0.0 && rest > 0.0);
        let clipped = |objective| {
            let (mut sum, _) = batch_gradients(&model, batch(), ScheduleObjective::Variance).unwrap();
            sum.clip(0.5 * shape.min(rest), objective);
            norms(&sum)
        };
        for norm in clipped(ScheduleObjective::Variance) {
            assert!((norm / (0.5 * shape.min(rest)) - 1.0).abs() < 1e-5, "{norm}");
        }
        let [a, b] = clipped(ScheduleObjective::Bound);
        assert!((a / b / (shape / rest) - 1.0).abs() < 1e-5);
    }
}
