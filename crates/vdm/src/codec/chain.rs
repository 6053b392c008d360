//! The chain of latents, coded bits-back in the order of Bit-Swap.

use super::gaussian::{Model, Posterior, QuantizedNormal};
use super::known::{Known, MarginOf};
use super::levels::Levels;
use super::order::{Order, Part};
use super::plan::{Point, first_bytes};
use super::stack::BitStack;
use super::{CodecError, Plan};
use crate::nn::{Conditioning, Mode, ScoreNetwork};
use crate::random::MASKS;
use crate::{Stopped, VariationalDiffusion};
use burn::tensor::{Device, Tensor, TensorData};
use sha2::{Digest, Sha256};
use vdm_kernels::rng::Philox;

/// A coded stream of images.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Its images.
    pub images: u32,
    /// The upper half of the coder's state.
    pub state: u64,
    /// Its words; the last ones are the lower half of the state.
    pub words: Vec<u32>,
}

/// How long a segment is, and why.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SegmentStats {
    /// Bits that the images added to the stream: its length without the bits it was started with.
    pub net_bits: f64,
    /// Bits that it was started with: as many as were needed.
    pub initial_bits: f64,
    /// What the net bits would be if the coder lost nothing: -log2 of all probabilities.
    pub ideal_bits: f64,
    /// The same, image by image.
    pub per_image_bits: Vec<f64>,
}

/// Is told after every step how many images it was for; its error ends the work.
pub type Told<'a> = dyn FnMut(usize) -> Result<(), Stopped> + 'a;

/// Codes images, `bytes` holding one after another, channels first. What is in a margin is not coded.
///
/// # Errors
/// [`CodecError::Plan`] and [`CodecError::Images`] if the plan, the model and the images do not go together, or a number in a
/// margin is not of the margin's level,
/// [`CodecError::NotFinite`] if the network gives a NaN or an infinity.
pub fn encode_segment<N: ScoreNetwork>(
    model: &VariationalDiffusion<N>,
    plan: &Plan,
    bytes: &[u8],
    margin_of: &MarginOf,
    device: &Device,
    progress: &mut Told,
) -> Result<(Segment, SegmentStats), CodecError> {
    let chain = Chain::new(model, plan, device)?;
    let dims = plan.shape.dims();
    let images = chain.check_images(bytes)?;
    for (n, image) in bytes.chunks_exact(dims).enumerate() {
        let Some(margin) = margin_of(n) else { continue };
        if let Some(found) = margin.other_level(image) {
            let reason = format!("image {n} has {found} in its margin, expected {}", margin.level);
            return Err(CodecError::Images { reason });
        }
    }
    let mut stack = BitStack::new(plan.seed);
    let mut per_image_bits = vec![0.0; images as usize];
    for part in Order::new(images as usize, plan.shape.height, plan.batch_size.into()).parts() {
        let of_images = &bytes[part.images.start * dims..part.images.end * dims];
        let batch = Batch { known: Known::new(plan.shape, &part, of_images, margin_of), part, k: of_images };
        let bits = chain.encode(&mut stack, &batch, progress)?;
        per_image_bits[batch.part.images].iter_mut().zip(bits).for_each(|(of_image, bits)| *of_image += bits);
    }
    let stats = SegmentStats {
        net_bits: stack.net_bits(),
        initial_bits: stack.initial_bits(),
        ideal_bits: stack.ideal_bits(),
        per_image_bits,
    };
    let (words, state) = stack.into_parts();
    Ok((Segment { images, state, words }, stats))
}

/// Decodes what [`encode_segment`] coded with the same model and plan.
///
/// # Errors
/// [`CodecError::Stream`] if the segment is not one that this model and plan gave, as far as can be seen: its images
/// want a checksum besides. [`CodecError::Plan`] and [`CodecError::NotFinite`] as there.
pub fn decode_segment<N: ScoreNetwork>(
    model: &VariationalDiffusion<N>,
    plan: &Plan,
    segment: &Segment,
    margin_of: &MarginOf,
    device: &Device,
    progress: &mut Told,
) -> Result<Vec<u8>, CodecError> {
    let chain = Chain::new(model, plan, device)?;
    let mut stack = BitStack::from_parts(segment.words.clone(), segment.state)?;
    let mut batches = Vec::new();
    // The images of the part before; of an image of which some lines are left, those above them are right.
    let mut k = Vec::new();
    // What was coded last is on top.
    for part in Order::new(segment.images as usize, plan.shape.height, plan.batch_size.into()).parts().rev() {
        let batch = Batch { known: Known::new(plan.shape, &part, &k, margin_of), part, k: &[] };
        k = chain.decode(&mut stack, &batch, progress)?;
        if batch.part.lines.end == plan.shape.height {
            batches.push(std::mem::take(&mut k));
        }
    }
    if !stack.is_at_start(plan.seed) {
        return Err(CodecError::Stream { reason: "it does not end with the bits that streams start with".into() });
    }
    Ok(batches.into_iter().rev().flatten().collect())
}

/// Times at which the network is probed.
const PROBES: usize = 15;

/// A hash of the plan and of what the network gives, to the last bit, for fixed inputs at times all over the chain: what machines must have in common to decode each other's streams.
///
/// # Errors
/// [`CodecError::Plan`] if the plan is wrong or not of this model.
pub fn arithmetic_fingerprint<N: ScoreNetwork>(
    model: &VariationalDiffusion<N>,
    plan: &Plan,
    device: &Device,
) -> Result<[u8; 16], CodecError> {
    let chain = Chain::new(model, plan, device)?;
    let mut hash = Sha256::new();
    hash.update(plan.fingerprint());
    // One image at times all over the chain, each with another embedding; some images at once in the middle.
    let probes = (0..=PROBES).map(|i| (1 + i * (plan.steps() - 1) / PROBES, 1));
    for (t, images) in probes.chain([(plan.steps().div_ceil(2), usize::from(plan.batch_size.min(3)))]) {
        // Of the spread of normal noise, but the same numbers on every machine.
        let mut z = vec![0f32; images * plan.shape.dims()];
        Philox::new(t as u64, images as u64).uniform(0, &mut z);
        z.iter_mut().for_each(|z| *z = 4.0 * *z - 2.0);
        let Seen { eps_hat, expected_error } = chain.seen(t, z);
        for number in eps_hat.into_iter().chain(expected_error.unwrap_or_default()) {
            hash.update(number.to_bits().to_le_bytes());
        }
    }
    Ok(first_bytes(hash))
}

/// Everything that both directions need.
pub(super) struct Chain<'a, N> {
    model: &'a VariationalDiffusion<N>,
    plan: &'a Plan,
    /// z_0 to z_T.
    points: Vec<Point>,
    device: &'a Device,
}

impl<'a, N: ScoreNetwork> Chain<'a, N> {
    pub fn new(model: &'a VariationalDiffusion<N>, plan: &'a Plan, device: &'a Device) -> Result<Self, CodecError> {
        plan.validate()?;
        if model.settings().vocabulary != plan.vocabulary {
            let [found, expected] = [plan.vocabulary, model.settings().vocabulary].map(|v| v.levels());
            return Err(CodecError::Plan { reason: format!("{found} levels, but the model has {expected}") });
        }
        Ok(Self { model, plan, points: plan.points(), device })
    }

    /// The number of images in `bytes`, if there are some, whole and of the plan's levels.
    pub fn check_images(&self, bytes: &[u8]) -> Result<u32, CodecError> {
        let (dims, levels) = (self.plan.shape.dims(), self.plan.vocabulary.levels());
        let images = u32::try_from(bytes.len() / dims).ok().filter(|&n| n > 0 && bytes.len().is_multiple_of(dims));
        let Some(images) = images else {
            let reason = format!("{} bytes, expected a whole number of images of {dims}, at least 1", bytes.len());
            return Err(CodecError::Images { reason });
        };
        if let Some(at) = bytes.iter().position(|&k| usize::from(k) >= levels) {
            let reason = format!("image {} has the value {}, the model {levels} levels", at / dims, bytes[at]);
            return Err(CodecError::Images { reason });
        }
        Ok(images)
    }

    /// The bits that each image of batch `number` would take by [`encode`](Self::encode) if the quantiles that latents are
    /// drawn with did not come from a stack, but were random: the masks themselves.
    pub fn length(&self, number: usize, k: &[u8], progress: &mut Told) -> Result<Vec<f64>, CodecError> {
        let dims = self.plan.shape.dims();
        let mut bits = vec![0.0; k.len() / dims];
        let draw = |bits: &mut [f64], i: usize, from: Posterior, quantile: u32| {
            let (z, taken) = from.draw(quantile)?;
            bits[i / dims] -= taken;
            Ok::<_, CodecError>(z)
        };
        let words = self.masks(number, 0, k.len());
        let z_0: Result<Vec<i32>, _> = (0..k.len()).map(|i| draw(&mut bits, i, self.encoded(k[i]), words[i])).collect();
        let mut z_s = z_0?;
        let mut levels = self.levels();
        for (i, (&z_0, &k)) in z_s.iter().zip(k).enumerate() {
            levels.set(self.y(z_0));
            bits[i / dims] += levels.interval(k.into()).expect("levels were checked").bits();
        }
        for t in 1..self.points.len() {
            let words = self.masks(number, t, k.len());
            let z_t: Result<Vec<i32>, _> =
                (0..k.len()).map(|i| draw(&mut bits, i, self.up(t, z_s[i]), words[i])).collect();
            let z_t = z_t?;
            let seen = self.seen(t, self.floats(t, &z_t));
            for (i, (&z_s, &z_t)) in z_s.iter().zip(&z_t).enumerate() {
                bits[i / dims] += self.down(t, z_t, &seen, i)?.bits(z_s);
            }
            z_s = z_t;
            progress(k.len() / dims)?;
        }
        for (i, &z) in z_s.iter().enumerate() {
            bits[i / dims] += self.prior().bits(z);
        }
        Ok(bits)
    }

    /// Codes a batch of the segment; the bits that each of its images takes.
    fn encode(&self, stack: &mut BitStack, batch: &Batch, progress: &mut Told) -> Result<Vec<f64>, CodecError> {
        let (dims, k) = (self.plan.shape.dims(), batch.k);
        let mut bits = Tally { bits: vec![0.0; batch.part.images.len()], dims };

        // ANCHOR: encode
        // 1. Draw z_0 from q(z_0 | x), with bits off the stack.
        let masks = self.masks(batch.part.number, 0, k.len());
        let mut z_s = Vec::with_capacity(k.len());
        bits.upwards(stack, |stack, i| {
            z_s.push(match batch.known.level(i) {
                Some(level) => self.diffused(0, level).draw(masks[i])?.0,
                None => self.encoded(k[i]).pop(stack, masks[i])?,
            });
            Ok(())
        })?;
        // 2. Code x given z_0. What is to be popped in ascending order is pushed in descending order.
        let mut levels = self.levels();
        bits.downwards(stack, |stack, i| {
            if batch.known.level(i).is_none() {
                levels.set(self.y(z_s[i]));
                stack.push(levels.interval(k[i].into()).expect("levels were checked"));
            }
            Ok(())
        })?;
        // 3. One step up after the other: draw z_t from q(z_t | z_s), code z_s given z_t.
        for t in 1..self.points.len() {
            let masks = self.masks(batch.part.number, t, k.len());
            let mut z_t = Vec::with_capacity(k.len());
            bits.upwards(stack, |stack, i| {
                z_t.push(match batch.known.level(i) {
                    Some(level) => self.diffused(t, level).draw(masks[i])?.0,
                    None => self.up(t, z_s[i]).pop(stack, masks[i])?,
                });
                Ok(())
            })?;
            let seen = self.seen(t, self.floats(t, &z_t));
            bits.downwards(stack, |stack, i| {
                if batch.known.level(i).is_none() {
                    self.down(t, z_t[i], &seen, i)?.push(stack, z_s[i]);
                }
                Ok(())
            })?;
            z_s = z_t;
            progress(batch.part.completes())?;
        }
        // 4. Code z_T.
        bits.downwards(stack, |stack, i| {
            if batch.known.level(i).is_none() {
                self.prior().push(stack, z_s[i]);
            }
            Ok(())
        })?;
        Ok(bits.bits)
        // ANCHOR_END: encode
    }

    /// Decodes a batch of the segment: [`encode`](Self::encode) step by step in reverse.
    fn decode(&self, stack: &mut BitStack, batch: &Batch, progress: &mut Told) -> Result<Vec<u8>, CodecError> {
        let numbers = batch.part.images.len() * self.plan.shape.dims();
        let last = self.points.len() - 1;
        let mut masks = self.masks(batch.part.number, last, numbers);
        let mut z_t = Vec::with_capacity(numbers);
        for (i, &mask) in masks.iter().enumerate() {
            z_t.push(match batch.known.level(i) {
                Some(level) => self.diffused(last, level).draw(mask)?.0,
                None => self.prior().pop(stack)?,
            });
        }
        for t in (1..=last).rev() {
            let seen = self.seen(t, self.floats(t, &z_t));
            let masks_below = self.masks(batch.part.number, t - 1, numbers);
            let mut z_s = Vec::with_capacity(numbers);
            for (i, &z_t) in z_t.iter().enumerate() {
                z_s.push(match batch.known.level(i) {
                    Some(level) => self.diffused(t - 1, level).draw(masks_below[i])?.0,
                    None => self.down(t, z_t, &seen, i)?.pop(stack)?,
                });
            }
            for i in (0..numbers).rev().filter(|&i| batch.known.level(i).is_none()) {
                self.up(t, z_s[i]).push(stack, z_t[i], masks[i])?;
            }
            (z_t, masks) = (z_s, masks_below);
            progress(batch.part.completes())?;
        }
        let mut levels = self.levels();
        let mut k = Vec::with_capacity(numbers);
        for (i, &z_0) in z_t.iter().enumerate() {
            if let Some(level) = batch.known.level(i) {
                k.push(level);
                continue;
            }
            levels.set(self.y(z_0));
            let level = levels.level(stack.peek());
            stack.pop(levels.interval(level).expect("it is the level of a quantile"))?;
            // Images of bytes have at most 256 levels; a plan of more has no images to code.
            k.push(u8::try_from(level).map_err(|_| CodecError::Stream { reason: format!("found level {level}") })?);
        }
        for i in (0..numbers).rev().filter(|&i| batch.known.level(i).is_none()) {
            self.encoded(k[i]).push(stack, z_t[i], masks[i])?;
        }
        Ok(k)
    }

    /// Random words for the draws of z_t, t = 0 for z_0, in batch `number` of the segment.
    ///
    /// Without them, z_{t+1} would be drawn with the quantiles that coding z_{t-1} left on the stack, the noise of one
    /// step would depend on that of another, and the latents would not be those that the model was trained on: on
    /// Gaussian noise that is independent from step to step. (The longer code that follows from it is 16 % in one test.)
    fn masks(&self, number: usize, t: usize, numbers: usize) -> Vec<u32> {
        let stream = MASKS | (number as u64) << 24 | t as u64;
        let mut words = vec![0; numbers];
        Philox::new(self.plan.seed, stream).words(0, &mut words);
        words
    }

    /// q(z_0 | x) = N(alpha_0 x, sigma_0²).
    fn encoded(&self, k: u8) -> Posterior {
        self.diffused(0, k)
    }

    /// q(z_t | x) = N(alpha_t x, sigma_t²).
    fn diffused(&self, t: usize, k: u8) -> Posterior {
        let p = self.points[t];
        let x = self.plan.vocabulary.code(k.into());
        Posterior(QuantizedNormal { mean_in_bins: p.alpha * x / p.delta, inverse_sigma_in_bins: p.delta / p.sigma })
    }

    /// q(z_t | z_s) = N(alpha_t/alpha_s z_s, sigma_t² c).
    fn up(&self, t: usize, z_s: i32) -> Posterior {
        let step = &self.points[t].step;
        Posterior(QuantizedNormal {
            mean_in_bins: step.up * f64::from(z_s),
            inverse_sigma_in_bins: step.up_inverse_sigma,
        })
    }

    /// p(z_s | z_t) = N(alpha_s/alpha_t (z_t - sigma_t c eps_hat), sigma_s² c (1 + r)) of number `i` of the batch, with
    /// r = expm1(gamma_t - gamma_s) M where the model knows its expected error M, and 0 elsewhere.
    fn down(&self, t: usize, z_t: i32, seen: &Seen, i: usize) -> Result<Model, CodecError> {
        let step = &self.points[t].step;
        let mean_in_bins = step.down * f64::from(z_t) - step.noise * f64::from(seen.eps_hat[i]);
        let inverse_sigma_in_bins = match &seen.expected_error {
            Some(expected) => step.down_inverse_sigma / (1.0 + step.widening * f64::from(expected[i])).sqrt(),
            None => step.down_inverse_sigma,
        };
        if !mean_in_bins.is_finite() || inverse_sigma_in_bins.is_nan() {
            return Err(CodecError::NotFinite { what: "the predicted noise", step: t });
        }
        Ok(Model(QuantizedNormal { mean_in_bins, inverse_sigma_in_bins }))
    }

    /// p(z_T) = N(0, 1).
    fn prior(&self) -> Model {
        let delta = self.points[self.plan.steps()].delta;
        Model(QuantizedNormal { mean_in_bins: 0.0, inverse_sigma_in_bins: delta })
    }

    fn levels(&self) -> Levels {
        Levels::new(self.plan.vocabulary, libm::exp(-self.points[0].gamma))
    }

    /// z_0 / alpha_0.
    fn y(&self, z_0: i32) -> f64 {
        f64::from(z_0) * self.points[0].delta / self.points[0].alpha
    }

    fn floats(&self, t: usize, z: &[i32]) -> Vec<f32> {
        let delta = self.points[t].delta;
        z.iter().map(|&z| (f64::from(z) * delta) as f32).collect()
    }

    /// What the model sees in the images `z`, one after another.
    fn seen(&self, t: usize, z: Vec<f32>) -> Seen {
        let s = self.plan.shape;
        let images = z.len() / s.dims();
        let z = Tensor::from_data(TensorData::new(z, [images, s.channels, s.height, s.width]), self.device);
        let gamma = self.points[t].gamma;
        let gammas = Tensor::full([images], gamma, self.device);
        let eps_hat = self.model.predict_noise(z.clone(), gammas, &Conditioning::default(), Mode::Eval);
        let errors = self.model.errors();
        let expected = errors.map(|errors| errors.expected(z, &vec![gamma; images], eps_hat.clone()));
        let numbers = |t: Tensor<4>| t.into_data().iter::<f32>().collect();
        Seen { eps_hat: numbers(eps_hat), expected_error: expected.map(numbers) }
    }
}

/// Images of a segment that go through the network together.
struct Batch<'a> {
    part: Part,
    known: Known,
    /// All levels, where they are to be coded.
    k: &'a [u8],
}

/// What the model says about the numbers of a batch.
struct Seen {
    eps_hat: Vec<f32>,
    /// The expected squared error of each number of eps_hat, where the model knows it.
    expected_error: Option<Vec<f32>>,
}

/// The bits of each image.
struct Tally {
    bits: Vec<f64>,
    dims: usize,
}

impl Tally {
    /// Does something with the stack for every number of the batch, first to last, and charges each image its bits.
    fn upwards(
        &mut self,
        stack: &mut BitStack,
        mut f: impl FnMut(&mut BitStack, usize) -> Result<(), CodecError>,
    ) -> Result<(), CodecError> {
        for image in 0..self.bits.len() {
            let before = stack.ideal_bits();
            (image * self.dims..(image + 1) * self.dims).try_for_each(|i| f(stack, i))?;
            self.bits[image] += stack.ideal_bits() - before;
        }
        Ok(())
    }

    /// The same, last to first.
    fn downwards(
        &mut self,
        stack: &mut BitStack,
        mut f: impl FnMut(&mut BitStack, usize) -> Result<(), CodecError>,
    ) -> Result<(), CodecError> {
        for image in (0..self.bits.len()).rev() {
            let before = stack.ideal_bits();
            (image * self.dims..(image + 1) * self.dims).rev().try_for_each(|i| f(stack, i))?;
            self.bits[image] += stack.ideal_bits() - before;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ImageShape;
    use crate::codec::tiles::{Margin, Tiling};
    use crate::diffusion::Vocabulary;
    use crate::nn::{ScoreUNet, ScoreUNetConfig};
    use crate::schedule::{Endpoints, ScheduleConfig};
    use crate::{DiffusionSettings, unwatched, weights};
    use proptest::prelude::*;

    const SHAPE: ImageShape = ImageShape { channels: 1, height: 4, width: 4 };

    /// An untrained model with no parameter at zero; always the same for a seed.
    fn model(seed: u64) -> VariationalDiffusion<ScoreUNet> {
        let device = Device::flex();
        let schedule = ScheduleConfig::LearnedLinear(Endpoints { gamma_0: -8.0, gamma_1: 5.0 });
        let network = ScoreUNetConfig { norm_groups: 4, ..ScoreUNetConfig::new(1, 8, 1) }.init(&device);
        let mut values = weights::export(&network);
        for (i, t) in values.values_mut().enumerate() {
            Philox::new(seed, i as u64).normal(0, &mut t.data);
            t.data.iter_mut().for_each(|w| *w *= 0.3);
        }
        let settings = DiffusionSettings::new(SHAPE, Vocabulary::new(17).unwrap(), &schedule);
        VariationalDiffusion::new(schedule.init(&device), weights::import(network, &values).unwrap(), settings)
    }

    fn plan(steps: usize, batch_size: u16) -> Plan {
        Plan {
            gammas: (0..=steps).map(|i| -8.0 + 13.0 * i as f64 / steps as f64).collect(),
            bins_per_sigma: 2,
            batch_size,
            seed: 7,
            shape: SHAPE,
            vocabulary: Vocabulary::new(17).unwrap(),
        }
    }

    fn images(seed: u64, n: usize) -> Vec<u8> {
        let mut u = vec![0f32; n * SHAPE.dims()];
        Philox::new(seed, 0).uniform(0, &mut u);
        u.into_iter().map(|u| (u * 17.0) as u8).collect()
    }

    /// Margins of several sizes, of level 9: image n has n % 4 + 1 columns and as many lines less than 4.
    fn margin(n: usize) -> Option<Margin> {
        Tiling::new(SHAPE, 1, n % 4 + 1, 4 - n % 4).unwrap().margin(0, 9)
    }

    fn fill_margins(bytes: &mut [u8], margin_of: &MarginOf) {
        for (n, image) in bytes.chunks_exact_mut(SHAPE.dims()).enumerate() {
            let Some(margin) = margin_of(n) else { continue };
            image.iter_mut().enumerate().filter(|(i, _)| margin.has(*i)).for_each(|(_, k)| *k = margin.level);
        }
    }

    /// No image has a margin.
    fn whole(_: usize) -> Option<Margin> {
        None
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn images_come_back(seed: u64, n in 1usize..8, steps in 1usize..9, batch in 1u16..6, bins in 1u16..9) {
            let (model, device) = (model(seed), Device::flex());
            let plan = Plan { bins_per_sigma: bins, seed, ..plan(steps, batch) };
            let bytes = images(seed, n);
            // Images with and without margins, wherever in a batch.
            let margin_of = |n: usize| if (seed >> (n % 64)) & 1 == 1 { margin(n) } else { None };
            let mut bytes = bytes;
            fill_margins(&mut bytes, &margin_of);
            let (segment, stats) = encode_segment(&model, &plan, &bytes, &margin_of, &device, &mut |_| Ok(())).unwrap();
            prop_assert_eq!(decode_segment(&model, &plan, &segment, &margin_of, &device, &mut |_| Ok(())).unwrap(), bytes);
            prop_assert!((stats.net_bits - stats.ideal_bits).abs() < 1e-3);
            prop_assert!((stats.per_image_bits.iter().sum::<f64>() - stats.ideal_bits).abs() < 1e-6);
            let stored = 64.0 + 32.0 * segment.words.len() as f64;
            prop_assert!(stored >= stats.net_bits + stats.initial_bits && stored < stats.net_bits + stats.initial_bits + 33.0);
        }
    }

    /// A stream started with the bits that two latents of a whole image take.
    #[test]
    fn a_stream_starts_with_the_bits_of_a_few_lines() {
        let (model, device) = (model(1), Device::flex());
        // To draw one number of z_0 takes 12 bits with so many bins to a deviation.
        let plan = Plan { bins_per_sigma: 1 << 10, ..plan(5, 3) };
        for n in [1, 2, 12] {
            let (_, stats) = encode_segment(&model, &plan, &images(4, n), &whole, &device, &mut |_| Ok(())).unwrap();
            let of_two_latents = 2.0 * 12.0 * SHAPE.dims() as f64;
            assert!(stats.initial_bits < 0.6 * of_two_latents, "{n}: {}", stats.initial_bits);
        }
    }

    /// Of every second image only two pixels of four in two lines of four are coded: they come back, for a quarter of the bits.
    #[test]
    fn margins_take_no_bits() {
        let (model, device, plan) = (model(1), Device::flex(), plan(5, 3));
        let shape = ImageShape { height: 2, width: 2, ..SHAPE };
        let margin = Tiling::new(SHAPE, 1, 2, 2).unwrap().margin(0, 9).unwrap();
        assert_eq!(margin.coded(), shape.dims());
        let margin_of = |n: usize| (n % 2 == 1).then_some(margin);
        let mut bytes = images(4, 40);
        fill_margins(&mut bytes, &margin_of);
        let (segment, stats) = encode_segment(&model, &plan, &bytes, &margin_of, &device, &mut |_| Ok(())).unwrap();
        let found = decode_segment(&model, &plan, &segment, &margin_of, &device, &mut |_| Ok(())).unwrap();
        assert_eq!(found, bytes);
        assert!((stats.net_bits - stats.ideal_bits).abs() < 1e-3);
        let of = |odd: usize| stats.per_image_bits.iter().skip(odd).step_by(2).sum::<f64>();
        let ratio = of(1) / of(0);
        assert!((0.15..0.35).contains(&ratio), "{ratio}");

        // A margin of another level would come back as another image.
        bytes[SHAPE.dims() + 3] = 8;
        let error = encode_segment(&model, &plan, &bytes, &margin_of, &device, &mut |_| Ok(())).unwrap_err();
        assert!(error.to_string().contains("8 in its margin, expected 9"), "{error}");
    }

    /// Scalars that are wrong in the same way in both directions would bring the images back too, at another length.
    #[test]
    fn the_length_is_that_of_the_bound() {
        let (model, device, n, steps) = (model(1), Device::flex(), 512, 50);
        let bytes = images(3, n);
        let length = |bins_per_sigma| {
            let plan = Plan { bins_per_sigma, ..plan(steps, 64) };
            encode_segment(&model, &plan, &bytes, &whole, &device, &mut |_| Ok(())).unwrap().1
        };
        let lengths = [2, 32].map(length);
        let model = model.with_timesteps(Some(steps));
        let k: Vec<f32> = bytes.iter().map(|&k| f32::from(k)).collect();
        let k: Tensor<4> = Tensor::from_data(TensorData::new(k, [n, 1, 4, 4]), &device);
        let passes: Vec<f64> = (0..60)
            .map(|seed| {
                let nats = model.draw_loss(k.clone(), seed, &Conditioning::default(), Mode::Eval).total();
                nats.into_data().iter::<f64>().sum::<f64>() / n as f64 / std::f64::consts::LN_2
            })
            .collect();
        let bound = passes.iter().sum::<f64>() / passes.len() as f64;
        let error = |values: &[f64]| crate::stats::standard_error(values).unwrap();
        for stats in &lengths {
            let error = error(&stats.per_image_bits).hypot(error(&passes));
            let found = stats.net_bits / n as f64;
            assert!((found - bound).abs() < 4.0 * error && error < 0.02 * bound, "{found} {bound} +- {error}");
        }

        // The same by one experiment with common noise, which tells a difference that the two above cannot.
        let per_image = SHAPE.dims() as f64;
        let both = [2, 32].map(|bins_per_sigma| {
            let plan = Plan { bins_per_sigma, ..plan(steps, 64) };
            crate::codec::overhead(&model, &plan, &bytes, &device, &mut unwatched).unwrap()
        });
        for (found, stats) in both.iter().zip(&lengths) {
            let error = error(&stats.per_image_bits).hypot(error(&passes)) / per_image;
            assert!((found.bound_bpd - bound / per_image).abs() < 4.0 * error, "{found:?} {bound}");
            assert!((found.length_bpd - stats.net_bits / n as f64 / per_image).abs() < 6.0 * error, "{found:?}");
            assert!(found.overhead_bpd_stderr.unwrap() < 0.5 * error, "{found:?} {error}");
        }
        let [coarse, fine] = both.map(|found| (found.overhead_bpd, found.overhead_bpd_stderr.unwrap()));
        assert!(coarse.0.abs() < 0.02 * bound / per_image && fine.0.abs() < 4.0 * fine.1, "{coarse:?} {fine:?}");
    }

    #[test]
    fn a_damaged_stream_gives_an_error_or_other_images_but_no_panic() {
        let (model, device, plan) = (model(1), Device::flex(), plan(3, 2));
        let bytes = images(1, 3);
        let (segment, _) = encode_segment(&model, &plan, &bytes, &whole, &device, &mut |_| Ok(())).unwrap();
        let mut undetected = 0;
        for i in 0..segment.words.len() {
            let mut flipped = segment.clone();
            flipped.words[i] ^= 1 << (i % 32);
            match decode_segment(&model, &plan, &flipped, &whole, &device, &mut |_| Ok(())) {
                Ok(found) => {
                    assert_ne!(found, bytes);
                    undetected += 1;
                }
                Err(e) => assert!(matches!(e, CodecError::Stream { .. }), "{e}"),
            }
            let mut short = segment.clone();
            short.words.truncate(i);
            assert!(decode_segment(&model, &plan, &short, &whole, &device, &mut |_| Ok(())).is_err());
        }
        assert_eq!(undetected, 0, "every stream ends with the words that it started with");
    }

    #[test]
    fn what_does_not_go_together_is_an_error() {
        let (model, device) = (model(1), Device::flex());
        let encode = |plan: &Plan, bytes: &[u8]| {
            encode_segment(&model, plan, bytes, &whole, &device, &mut |_| Ok(())).unwrap_err()
        };
        assert!(matches!(encode(&plan(2, 1), &[0; 17]), CodecError::Images { .. }));
        assert!(matches!(encode(&plan(2, 1), &[]), CodecError::Images { .. }));
        assert!(matches!(encode(&plan(2, 1), &[17; 16]), CodecError::Images { .. }));
        let other = Plan { vocabulary: Vocabulary::new(16).unwrap(), ..plan(2, 1) };
        assert!(matches!(encode(&other, &[0; 16]), CodecError::Plan { .. }));
    }

    #[test]
    fn a_network_without_numbers_is_an_error() {
        let mut broken = model(1);
        let mut values = weights::export(&broken.network);
        values.get_mut("conv_out.bias").unwrap().data[0] = f32::NAN;
        broken.network = weights::import(broken.network, &values).unwrap();
        let error =
            encode_segment(&broken, &plan(2, 1), &[0; 16], &whole, &Device::flex(), &mut |_| Ok(())).unwrap_err();
        assert!(matches!(error, CodecError::NotFinite { step: 1, .. }));
    }

    #[test]
    fn the_fingerprint_is_of_the_weights_and_the_plan() {
        let device = Device::flex();
        let of = |seed, steps| arithmetic_fingerprint(&model(seed), &plan(steps, 2), &device).unwrap();
        assert_eq!(of(1, 4), of(1, 4));
        assert_ne!(of(1, 4), of(2, 4));
        assert_ne!(of(1, 4), of(1, 5));
    }
}
