//! AdamW with weight decay on weights only, and the moving average of the weights, in one pass over each parameter.

use super::GradientSum;
use crate::config::TrainConfig;
use crate::weights::{HostTensor, NamedParameters, Weights, walk};
use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor, TensorData};
use std::collections::BTreeMap;
use vdm_kernels::{Moments, Update};

/// The optimiser's state: two moments and the average of every parameter.
#[derive(Debug, Default)]
pub struct Optimizer {
    states: BTreeMap<String, Moments>,
}

impl Optimizer {
    /// State before the first step: no moments, the average equal to the weights.
    pub fn new<M: Module>(module: &M, device: &Device) -> Self {
        let state = |t: HostTensor| {
            let n = t.data.len();
            let ema = Tensor::from_data(TensorData::new(t.data, [n]), device);
            Moments { m: ema.zeros_like(), v: ema.zeros_like(), ema }
        };
        Self { states: crate::weights::export(module).into_iter().map(|(name, t)| (name, state(t))).collect() }
    }

    /// One step with the mean gradient, clipped to the configured norm; `step` counts from 1.
    ///
    /// A parameter without gradient stays as it is.
    pub fn step<M: Module>(&mut self, module: M, sum: GradientSum, config: &TrainConfig, step: u64) -> M {
        let clip = match config.grad_clip {
            max if max > 0.0 => (max / sum.norm()).min(1.0),
            _ => 1.0,
        };
        let update = update(config, step, clip * sum.scale());
        let (states, grads) = (&mut self.states, sum.into_gradients());
        walk(module, &mut Apply { states, grads, update, decay: config.weight_decay })
    }

    /// The averaged weights in the shapes of `module`'s parameters.
    pub fn ema_weights<M: Module>(&self, module: &M) -> Weights {
        self.named(module, |s| &s.ema)
    }

    /// All state as tensors named `m.…`, `v.…` and `ema.…` after the parameters.
    pub fn export<M: Module>(&self, module: &M) -> Weights {
        let mut out = Weights::new();
        let mut add = |prefix: &str, part: Weights| {
            out.extend(part.into_iter().map(|(name, t)| (format!("{prefix}.{name}"), t)));
        };
        add("m", self.named(module, |s| &s.m));
        add("v", self.named(module, |s| &s.v));
        add("ema", self.named(module, |s| &s.ema));
        out
    }

    /// The state that [`export`](Self::export) wrote; `None` where a tensor is missing or has another length.
    pub fn import<M: Module>(module: &M, weights: &Weights, device: &Device) -> Option<Self> {
        let mut states = BTreeMap::new();
        for (name, parameter) in crate::weights::export(module) {
            let part = |prefix: &str| {
                let t = weights.get(&format!("{prefix}.{name}"))?;
                let data = TensorData::new(t.data.clone(), [t.data.len()]);
                (t.data.len() == parameter.data.len()).then(|| Tensor::from_data(data, device))
            };
            let moments = Moments { m: part("m")?, v: part("v")?, ema: part("ema")? };
            states.insert(name, moments);
        }
        Some(Self { states })
    }

    fn named<M: Module>(&self, module: &M, part: impl Fn(&Moments) -> &Tensor<1>) -> Weights {
        crate::weights::export(module)
            .into_iter()
            .filter_map(|(name, t)| {
                let data = part(self.states.get(&name)?).to_data().iter::<f32>().collect();
                Some((name, HostTensor { shape: t.shape, data }))
            })
            .collect()
    }
}

/// The scalars of step `step`: warmed-up learning rate, bias corrections, warmed-up average.
fn update(config: &TrainConfig, step: u64, grad_scale: f64) -> Update {
    let n = step as f64;
    Update {
        lr: config.lr_at(step) as f32,
        beta1: config.beta1 as f32,
        beta2: config.beta2 as f32,
        eps: config.adam_eps as f32,
        weight_decay: 0.0,
        correction1: (1.0 / (1.0 - libm::pow(config.beta1, n))) as f32,
        correction2: (1.0 / (1.0 - libm::pow(config.beta2, n))) as f32,
        ema_decay: config.ema_at(step) as f32,
        grad_scale: grad_scale as f32,
    }
}

struct Apply<'a> {
    states: &'a mut BTreeMap<String, Moments>,
    grads: BTreeMap<String, Tensor<1>>,
    update: Update,
    decay: f64,
}

impl NamedParameters for Apply<'_> {
    fn parameter<const D: usize>(&mut self, name: &str, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        // Without a gradient the state must stay, too.
        let Some(grad) = self.grads.remove(name) else { return param };
        let Some(state) = self.states.remove(name) else { return param };
        // Weights are matrices and kernels; biases, normalisations and the schedule do not decay.
        let decays = D >= 2 && !name.starts_with("schedule.");
        let update = Update { weight_decay: if decays { self.decay as f32 } else { 0.0 }, ..self.update };
        let (id, tensor, mapper) = param.consume();
        let dims = tensor.dims();
        let n = tensor.shape().num_elements();
        let flat = tensor.inner().reshape([n]);
        let (flat, state) = vdm_kernels::adamw_step(&update, flat, state, grad);
        self.states.insert(name.to_string(), state);
        let tensor = Tensor::from_inner(flat.reshape(dims)).require_grad();
        Param::from_mapped_value(id, tensor, mapper)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::layers::Dense;

    /// AdamW written out in f64, after Loshchilov & Hutter 2019, algorithm 2.
    #[test]
    fn steps_agree_with_adamw_in_f64() {
        let device = Device::flex().autodiff();
        let mut config = crate::config::preset("digits").unwrap().train;
        (config.lr, config.warmup, config.weight_decay, config.ema_decay) = (1e-2, 2, 0.1, 0.5);
        let mut layer = Dense::new(3, 2, &device);
        let mut optimizer = Optimizer::new(&layer, &device.clone().inner());
        let weight = |layer: &Dense| -> Vec<f64> { layer.weight.val().to_data().iter::<f64>().collect() };
        let (mut p, mut m, mut v) = (weight(&layer), vec![0.0; 6], vec![0.0; 6]);
        let mut ema = p.clone();
        for step in 1..=5u64 {
            let x = Tensor::<2>::from_data([[1.0, -2.0, 0.5 * step as f32]], &device);
            let y = layer.forward(x).powi_scalar(2).sum();
            let mut grads = y.backward();
            let g: Vec<f64> = layer.weight.val().grad(&grads).unwrap().to_data().iter::<f64>().collect();
            let mut sum = GradientSum::default();
            sum.add(&layer, &mut grads, 1.0);
            layer = optimizer.step(layer, sum, &config, step);
            let n = step as i32;
            let lr = 1e-2 * (step as f64 / 2.0).min(1.0);
            let decay = 0.5f64.min((1.0 + step as f64) / (10.0 + step as f64));
            for i in 0..6 {
                m[i] = 0.9 * m[i] + 0.1 * g[i];
                v[i] = 0.99 * v[i] + 0.01 * g[i] * g[i];
                let (mh, vh) = (m[i] / (1.0 - 0.9f64.powi(n)), v[i] / (1.0 - 0.99f64.powi(n)));
                p[i] -= lr * (mh / (vh.sqrt() + 1e-8) + 0.1 * p[i]);
                ema[i] = decay * ema[i] + (1.0 - decay) * p[i];
            }
            let averaged = &optimizer.ema_weights(&layer)["weight"].data;
            for i in 0..6 {
                assert!((weight(&layer)[i] - p[i]).abs() < 1e-5);
                assert!((f64::from(averaged[i]) - ema[i]).abs() < 1e-5);
            }
        }
    }

    #[test]
    fn a_parameter_without_gradient_keeps_its_state() {
        let device = Device::flex().autodiff();
        let config = crate::config::preset("digits").unwrap().train;
        let layer = Dense::new(3, 2, &device);
        let mut optimizer = Optimizer::new(&layer, &device.clone().inner());
        let before = optimizer.export(&layer);
        let layer = optimizer.step(layer, GradientSum::default(), &config, 1);
        assert_eq!(optimizer.export(&layer), before);
        assert_eq!(before.len(), 6);
    }

    #[test]
    fn clipping_bounds_the_gradient_and_accumulation_averages_it() {
        let device = Device::flex().autodiff();
        let layer = Dense::new(3, 2, &device);
        let x = Tensor::<2>::from_data([[1.0, -2.0, 3.0]], &device);
        let mut once = GradientSum::default();
        once.add(&layer, &mut layer.forward(x.clone()).sum().backward(), 1.0);
        let mut twice = GradientSum::default();
        twice.add(&layer, &mut layer.forward(x.clone()).sum().backward(), 1.0);
        twice.add(&layer, &mut layer.forward(x).sum().backward(), 1.0);
        assert!((once.norm() - twice.norm()).abs() < 1e-6);
        assert!((once.norm() - (2.0 * (1.0 + 4.0 + 9.0) + 2.0f64).sqrt()).abs() < 1e-5);
    }
}
