//! The gradient of one batch: all that is random in it given, parts of it side by side.

use super::GradientSum;
use crate::diffusion::draw;
use crate::nn::{Conditioning, Mode, ScoreNetwork};
use crate::schedule::ScheduleObjective;
use crate::variance::{VarianceError, reduce_variance};
use crate::{LossTerms, Noise, VariationalDiffusion, bits_per_dim, parts};
use burn::module::ModuleDisplay;
use burn::tensor::Tensor;
use vdm_kernels::{rng::Philox, teams};

/// Stream of the parts' dropout seeds.
const PART_SEEDS: u64 = u64::MAX - 2;

/// A batch and all that is random in a forward pass over it; its tensors are on a device without autodiff.
#[derive(Clone, Debug)]
pub struct Batch {
    /// The images, whole numbers in 0..V as floats: `[batch, channels, height, width]`.
    pub k: Tensor<4>,
    /// A time for each image, in [0, 1).
    pub times: Vec<f64>,
    /// Of the images' shape.
    pub noise: Noise,
    /// What the network is told.
    pub conditioning: Conditioning,
    /// Seed of the dropout masks.
    pub dropout_seed: u64,
}

impl Batch {
    /// A batch at low-discrepancy times and with noise and masks that are functions of `seed`, as in
    /// [`VariationalDiffusion::draw_loss`].
    ///
    /// # Shapes
    /// - `k`: `[batch, channels, height, width]`, whole numbers in 0..V as floats, on a device without autodiff
    pub fn draw(k: Tensor<4>, seed: u64, conditioning: Conditioning) -> Self {
        let (times, noise) = draw(&k, seed);
        Self { k, times, noise, conditioning, dropout_seed: seed }
    }
}

/// The gradient of the mean over a batch of the bound in bits per dimension, and the terms of each image.
///
/// With [`ScheduleObjective::Variance`] the schedule's shape gets the gradient of [`reduce_variance`] instead.
///
/// On the CPU the batch is cut into parts, each with a forward and a backward pass of its own: they need no threads to
/// wait for each other, and the graphs of only as many parts as there are teams of threads are in memory at a time (the
/// parts' gradients are until they are added up: eight at most). The gradient is the sum of the parts' in their order;
/// how the batch is cut does not depend on the threads, so neither does a bit of the gradient.
///
/// # Errors
/// See [`reduce_variance`] and [`VariationalDiffusion::loss_with_tape`].
///
/// # Panics
/// If the batch is empty.
pub fn batch_gradients<N: ScoreNetwork + ModuleDisplay>(
    model: &VariationalDiffusion<N>,
    batch: Batch,
    objective: ScheduleObjective,
) -> Result<(GradientSum, LossTerms), VarianceError> {
    let parts = parts::for_training(&batch.k);
    let largest = parts.first().map_or(1, |part| part.len());
    // Each part has leaves of its own: parts with common leaves would be one graph, behind one lock.
    let jobs = parts.into_iter().enumerate().map(|(i, images)| {
        let dropout_seed = Philox::new(batch.dropout_seed, PART_SEEDS).next_u64(i as u32);
        let part = Batch {
            k: batch.k.clone().slice([images.clone()]),
            times: batch.times[images.clone()].to_vec(),
            noise: batch.noise.slice(images.clone()),
            conditioning: batch.conditioning.slice(images),
            dropout_seed,
        };
        (model.with_own_leaves(), part)
    });
    let done = teams::map(jobs.collect(), |(model, part)| {
        let weight = part.times.len() as f64 / largest as f64;
        let (mut gradients, terms) = part_gradients(&model, part, objective)?;
        let mut sum = GradientSum::default();
        sum.add(&model, &mut gradients, weight);
        Ok::<_, VarianceError>((sum, terms))
    });
    let mut sum = GradientSum::default();
    let mut terms = Vec::new();
    for part in done {
        let (part, of_part) = part?;
        sum.merge(part);
        terms.push(of_part);
    }
    let cat = |term: fn(&LossTerms) -> &Tensor<1>| Tensor::cat(terms.iter().map(|t| term(t).clone()).collect(), 0);
    let terms = LossTerms {
        prior: cat(|t| &t.prior),
        reconstruction: cat(|t| &t.reconstruction),
        diffusion: cat(|t| &t.diffusion),
    };
    Ok((sum, terms))
}

/// The gradients of the mean over one part, and its terms.
fn part_gradients<N: ScoreNetwork>(
    model: &VariationalDiffusion<N>,
    part: Batch,
    objective: ScheduleObjective,
) -> Result<(burn::tensor::Gradients, LossTerms), VarianceError> {
    let [batch, c, h, w] = part.k.dims();
    let per_bit = bits_per_dim(1.0, c * h * w);
    let (k, noise, conditioning) = (Tensor::from_inner(part.k), part.noise.autodiff(), part.conditioning.autodiff());
    let mode = Mode::Train { dropout_seed: part.dropout_seed };
    let (terms, tape) = match objective {
        ScheduleObjective::Bound => (model.loss(k, &part.times, noise, &conditioning, mode), None),
        ScheduleObjective::Variance => {
            let (terms, tape) = model.loss_with_tape(k, &part.times, noise, &conditioning, mode)?;
            (terms, Some(tape))
        }
    };
    let mut gradients = (terms.total().mean() * per_bit).backward();
    if let Some(tape) = tape {
        reduce_variance(&model.schedule, &tape, terms.diffusion.clone(), &mut gradients, per_bit / batch as f64)?;
    }
    let LossTerms { prior, reconstruction, diffusion } = terms;
    let [prior, reconstruction, diffusion] = [prior, reconstruction, diffusion].map(Tensor::inner);
    Ok((gradients, LossTerms { prior, reconstruction, diffusion }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::ImageShape;
    use crate::encoding::Vocabulary;
    use crate::nn::ScoreUNetConfig;
    use crate::schedule::{ScheduleConfig, ScheduleKind};
    use crate::times::low_discrepancy;
    use crate::{DiffusionSettings, weights};
    use burn::tensor::{Device, TensorData};

    const BATCH: usize = 19;
    const SHAPE: ImageShape = ImageShape { channels: 1, height: 16, width: 16 };

    fn model(kind: ScheduleKind) -> VariationalDiffusion<crate::nn::ScoreUNet> {
        let device = Device::flex().autodiff();
        let schedule = ScheduleConfig { kind, features: 4, hidden: vec![4], ..Default::default() };
        let network = ScoreUNetConfig { norm_groups: 4, ..ScoreUNetConfig::new(1, 8, 1) };
        let settings = DiffusionSettings::new(Vocabulary::new(256).unwrap(), &schedule);
        let model = VariationalDiffusion::new(schedule.init(&device), network.init(&device), settings);
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
            noise: Noise::draw(&streams, SHAPE, &device),
            conditioning: Conditioning::default(),
            dropout_seed: 5,
        }
    }

    /// Parts of unequal size, against one pass over the whole batch.
    #[test]
    fn the_parts_sum_up_to_the_gradient_of_the_batch() {
        for (kind, objective) in [
            (ScheduleKind::LearnedLinear, ScheduleObjective::Bound),
            (ScheduleKind::PinnedNetwork, ScheduleObjective::Variance),
        ] {
            let model = model(kind);
            let sizes: Vec<usize> = parts::for_training(&batch().k).iter().map(|part| part.len()).collect();
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
}
