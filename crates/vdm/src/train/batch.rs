//! The batches of a training: which images a step sees, and all that is random about them.
//!
//! Everything is a function of the seed and the step, so there is no state to save.

use super::TrainError;
use crate::Noise;
use crate::config::Config;
use crate::data::{Augmentation, ImageDataset, augment};
use crate::diffusion::draw_inputs;
use crate::diffusion::times::{draw_times, importance_times};
use crate::nn::Conditioning;
use crate::random::{DRAW_AUGMENTATION, DRAW_LABEL, DROPOUT, SHUFFLE_KEY, TIMES, in_round, shuffled};
use burn::tensor::{Device, Tensor, TensorData};
use vdm_kernels::rng::Philox;

/// A batch and all that is random in a forward pass over it; its tensors are on a device without autodiff.
#[derive(Clone, Debug)]
pub struct Batch {
    /// The images, whole numbers in 0..V as floats: `[batch, channels, height, width]`.
    pub k: Tensor<4>,
    /// A time for each image, in [0, 1).
    pub times: Vec<f64>,
    /// What each image's diffusion loss is multiplied with, where times are not uniform.
    pub weights: Option<Vec<f64>>,
    /// Of the images' shape.
    pub noise: Noise,
    /// What the network is told.
    pub conditioning: Conditioning,
    /// Seed of the dropout masks.
    pub dropout_seed: u64,
}

impl Batch {
    /// A batch at low-discrepancy times and with noise and masks that are functions of `seed`, as in
    /// [`VariationalDiffusion::draw_loss`](crate::VariationalDiffusion::draw_loss).
    ///
    /// # Shapes
    /// - `k`: `[batch, channels, height, width]`, whole numbers in 0..V as floats, on a device without autodiff
    pub fn draw(k: Tensor<4>, seed: u64, conditioning: Conditioning) -> Self {
        let (times, noise) = draw_inputs(&k, seed);
        Self { k, times, weights: None, noise, conditioning, dropout_seed: seed }
    }

    /// The same on another device.
    pub(super) fn to_device(&self, device: &Device) -> Self {
        Self {
            k: self.k.clone().to_device(device),
            noise: self.noise.to_device(device),
            conditioning: self.conditioning.to_device(device),
            ..self.clone()
        }
    }
}

/// Makes the batches of a training.
pub(super) struct Batches {
    config: Config,
    device: Device,
    /// The shuffled training images of one epoch.
    order: (u64, Vec<usize>),
}

impl Batches {
    pub fn new(config: &Config, device: &Device) -> Self {
        Self { config: config.clone(), device: device.clone(), order: (u64::MAX, Vec::new()) }
    }

    /// The batch of pass `pass` of step `step`, both from 0. For times by importance, `ends` are the schedule's gamma_0 and gamma_1
    /// of now.
    ///
    /// # Errors
    /// [`TrainError::Data`] if an image cannot be augmented.
    pub fn batch(
        &mut self,
        images: &ImageDataset,
        step: u64,
        pass: usize,
        ends: Option<(f64, f64)>,
    ) -> Result<Batch, TrainError> {
        let (train, seed, shape) = (self.config.train.clone(), self.config.seed, images.shape());
        let batch = train.batch_size;
        // Every image that a step sees has its own number, and with it its own random numbers.
        let first = (pass * batch) as u64;
        let streams: Vec<Philox> = (0..batch as u64).map(|i| Philox::new(seed, in_round(step, first + i))).collect();
        let of_step = |stream: u64| Philox::new(seed, in_round(step, stream));
        let times = draw_times(self.config.times(), batch, &of_step(TIMES), pass as u32);
        let (times, weights) = match ends {
            Some((gamma_0, gamma_1)) => {
                let (times, weights) = importance_times(&times, gamma_0, gamma_1);
                (times, Some(weights))
            }
            None => (times, None),
        };
        let dropout_seed = of_step(DROPOUT).next_u64(pass as u32);
        let noise = Noise::draw(&streams, shape, &self.device);
        let mut bytes = Vec::with_capacity(batch * shape.dims());
        let mut changed = vec![0f32; batch];
        let mut classes = Vec::with_capacity(batch);
        for (i, stream) in streams.iter().enumerate() {
            let index = self.image_index(images.len(), step, first + i as u64);
            let image = images.image(index);
            let known = stream.uniform_f64(DRAW_LABEL) >= train.label_dropout;
            classes.push(images.label(index).filter(|_| known));
            if self.config.data.augment {
                let pick = Augmentation::pick(stream.uniform_f64(DRAW_AUGMENTATION), shape);
                bytes.extend(augment(image, shape, pick)?);
                changed[i] = pick.conditioning();
            } else {
                bytes.extend_from_slice(image);
            }
        }
        let k: Vec<f32> = bytes.into_iter().map(f32::from).collect();
        let k = Tensor::from_data(TensorData::new(k, shape.batch(batch)), &self.device);
        let scalar = self.config.data.augment.then(|| Tensor::from_data(changed.as_slice(), &self.device));
        let classes = (self.config.model.network.classes() > 0).then_some(classes);
        let conditioning = Conditioning { scalar, classes, ..Default::default() };
        Ok(Batch { k, times, weights, noise, conditioning, dropout_seed })
    }

    /// The index among `n` of the training image that is number `i` of step `step`: epochs are shuffled one by one.
    fn image_index(&mut self, n: usize, step: u64, i: u64) -> usize {
        let per_step = (self.config.train.batch_size * self.config.train.accumulate) as u64;
        let position = step * per_step + i;
        let epoch = position / n as u64;
        if self.order.0 != epoch {
            self.order = (epoch, shuffled(n, &Philox::new(self.config.seed ^ SHUFFLE_KEY, epoch)));
        }
        self.order.1[(position % n as u64) as usize]
    }
}
