//! A linear layer whose outputs are monotone in its inputs.

use super::MonotonicActivation;
use crate::initial::Initial;
use crate::math::host;
use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor, TensorData};

/// Configuration of a [`MonotonicLinear`] layer.
#[derive(Clone, Debug, PartialEq)]
pub struct MonotonicLinearConfig {
    /// Numbers in.
    pub d_in: usize,
    /// Numbers out: the layer's units.
    pub d_out: usize,
    /// Whether a bias is added before the activation.
    pub bias: bool,
    /// The activation; `None` for a plain linear layer with signed weights, such as a schedule's last.
    pub activation: Option<MonotonicActivation>,
    /// For each input: 1 where the output must not decrease with it, -1 where it must not increase, 0 where it is free.
    pub indicator: Vec<i8>,
    /// The shares of the convex, the concave and the saturated units, up to a common factor.
    pub act_weight: [f64; 3],
}

impl MonotonicLinearConfig {
    /// A layer with bias that rises with every input, with the reference's shares 7 : 7 : 2.
    pub fn new(d_in: usize, d_out: usize, activation: MonotonicActivation) -> Self {
        Self {
            d_in,
            d_out,
            bias: true,
            activation: Some(activation),
            indicator: vec![1; d_in],
            act_weight: [7.0, 7.0, 2.0],
        }
    }

    /// A positive linear map: no bias, no activation.
    pub fn plain(d_in: usize, d_out: usize) -> Self {
        Self { bias: false, activation: None, ..Self::new(d_in, d_out, MonotonicActivation::default()) }
    }

    /// Says what is wrong with the configuration, if anything.
    ///
    /// # Errors
    /// The field, its value, and what it must be.
    pub fn validate(&self) -> Result<(), String> {
        if self.d_in == 0 || self.d_out == 0 {
            return Err(format!("d_in = {} and d_out = {} must be at least 1", self.d_in, self.d_out));
        }
        if self.indicator.len() != self.d_in || self.indicator.iter().any(|i| !(-1..=1).contains(i)) {
            return Err(format!(
                "indicator = {:?} must hold one of -1, 0 and 1 for each of {} inputs",
                self.indicator, self.d_in
            ));
        }
        let w = self.act_weight;
        if w.iter().any(|w| !w.is_finite() || *w < 0.0) || w.iter().sum::<f64>() <= 0.0 {
            return Err(format!("act_weight = {w:?} must hold no negative number, and one above 0"));
        }
        Ok(())
    }

    /// Convex, concave and saturated units; together `d_out`, and in this order.
    ///
    /// The shares of the first two are rounded, half to even as Python does; the rest is saturated.
    pub fn units(&self) -> [usize; 3] {
        let sum: f64 = self.act_weight.iter().sum();
        let share = |weight: f64| (self.d_out as f64 * weight / sum).round_ties_even() as usize;
        let convex = share(self.act_weight[0]).min(self.d_out);
        let concave = share(self.act_weight[1]).min(self.d_out - convex);
        [convex, concave, self.d_out - convex - concave]
    }

    /// Makes the layer on `device`, with the device's random numbers.
    ///
    /// The weights are uniform in ±2/`d_in`: entering as |W| they do not cancel, and this way those of a unit add up to
    /// 1 on average, so that a stack of layers neither flattens nor steepens. The biases are uniform in ±1, which puts
    /// the units' bends at different places.
    ///
    /// # Errors
    /// As [`validate`](Self::validate).
    pub fn init(&self, device: &Device) -> Result<MonotonicLinear, String> {
        self.validate()?;
        Ok(MonotonicLinear {
            weight: Initial::Uniform(2.0 / self.d_in as f64).init([self.d_out, self.d_in], device),
            bias: self.bias.then(|| Initial::Uniform(1.0).init([self.d_out], device)),
            config: self.clone(),
        })
    }
}

/// A linear layer with activation whose outputs are monotone in its inputs (Runje & Shankaranarayana 2023, section 3).
///
/// With the effective weight W' = |W|, -|W| or W as the indicator of the input says, and y = W' x + b:
/// the convex units give rho(y), the concave ones -rho(-y), and the saturated ones rho(y + 1) - rho(1) for y <= 0 and
/// rho(1) - rho(1 - y) for y > 0.
///
/// W' is a function of the stored weight at every forward; the stored weight is the optimiser's alone, may have any
/// sign, and is never written.
#[derive(Module, Debug)]
pub struct MonotonicLinear {
    /// The stored weight W: `[out, in]`, as PyTorch has it.
    pub weight: Param<Tensor<2>>,
    /// `[out]`
    pub bias: Option<Param<Tensor<1>>>,
    #[module(skip)]
    config: MonotonicLinearConfig,
}

impl MonotonicLinear {
    /// The configuration that the layer was made with.
    pub fn config(&self) -> &MonotonicLinearConfig {
        &self.config
    }

    /// The layer's value.
    ///
    /// # Shapes
    /// `[batch, in]` -> `[batch, out]`
    pub fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        let y = self.shift(vdm_kernels::linear(x, self.effective_weight(), None));
        self.activate(y).0
    }

    /// The layer's value at `x` and its derivative along `dx` (forward mode).
    ///
    /// Both are ordinary expressions of the parameters: one backward pass differentiates them.
    ///
    /// # Shapes
    /// - `x`, `dx`: `[batch, in]`
    /// - outputs: `[batch, out]`
    pub fn forward_with_tangent(&self, x: Tensor<2>, dx: Tensor<2>) -> (Tensor<2>, Tensor<2>) {
        let weight = self.effective_weight();
        let y = self.shift(vdm_kernels::linear(x, weight.clone(), None));
        let dy = vdm_kernels::linear(dx, weight, None);
        match self.activate(y) {
            (value, Some(slope)) => (value, slope * dy),
            (value, None) => (value, dy),
        }
    }

    /// W' transposed: `[in, out]`.
    fn effective_weight(&self) -> Tensor<2> {
        let weight = self.weight.val().transpose();
        let indicator = &self.config.indicator;
        if indicator.iter().all(|&i| i == 1) {
            return weight.abs();
        }
        let column = |f: fn(i8) -> f32| {
            let data: Vec<f32> = indicator.iter().map(|&i| f(i)).collect();
            Tensor::<2>::from_data(TensorData::new(data, [indicator.len(), 1]), &weight.device())
        };
        let (signed, free) = (column(f32::from), column(|i| if i == 0 { 1.0 } else { 0.0 }));
        weight.clone().abs() * signed + weight * free
    }

    fn shift(&self, y: Tensor<2>) -> Tensor<2> {
        match &self.bias {
            Some(bias) => y + bias.val().reshape([1, self.config.d_out]),
            None => y,
        }
    }

    /// The activation of each unit and its slope, which is `None` for 1.
    ///
    /// All three kinds of units are s (rho(s y + o) - rho(o)) for a sign s and an offset o: (1, 0) for convex units,
    /// (-1, 0) for concave ones, and for saturated ones (1, 1) where y <= 0, (-1, 1) where y > 0 (rho(0) is 0). The
    /// slope is rho'(s y + o) for all of them.
    fn activate(&self, y: Tensor<2>) -> (Tensor<2>, Option<Tensor<2>>) {
        let Some(rho) = self.config.activation else { return (y, None) };
        let [convex, concave, saturated] = self.config.units();
        let row = |values: [f32; 3]| {
            let data: Vec<f32> = values
                .into_iter()
                .zip([convex, concave, saturated])
                .flat_map(|(value, units)| std::iter::repeat_n(value, units))
                .collect();
            Tensor::<2>::from_data(TensorData::new(data, [1, self.config.d_out]), &y.device())
        };
        let offset = row([0.0, 0.0, 1.0]);
        let above = y.clone().greater_scalar(0.0).float();
        let sign = row([1.0, -1.0, 0.0]) + offset.clone() * (above * -2.0 + 1.0);
        let (value, slope) = rho.forward(sign.clone() * y + offset.clone());
        (sign * (value - offset * rho.on_host(1.0).0), Some(slope))
    }

    /// The present layer in f64.
    pub fn to_host(&self) -> HostMonotonicLinear {
        let weight = host(&self.weight.val());
        let effective = |row: &[f64]| -> Vec<f64> {
            let entry = |(w, &i): (&f64, &i8)| if i == 0 { *w } else { f64::from(i) * w.abs() };
            row.iter().zip(&self.config.indicator).map(entry).collect()
        };
        HostMonotonicLinear {
            weight: weight.chunks(self.config.d_in).map(effective).collect(),
            bias: self.bias.as_ref().map_or_else(|| vec![0.0; self.config.d_out], |bias| host(&bias.val())),
            activation: self.config.activation,
            units: self.config.units(),
        }
    }
}

/// A [`MonotonicLinear`] layer in f64.
#[derive(Clone, Debug)]
pub struct HostMonotonicLinear {
    /// The effective weights of each unit.
    weight: Vec<Vec<f64>>,
    bias: Vec<f64>,
    activation: Option<MonotonicActivation>,
    units: [usize; 3],
}

impl HostMonotonicLinear {
    /// The layer's value at `x` and its derivative along `dx`, a number for each input; outputs a number for each unit.
    pub fn forward_with_tangent(&self, x: &[f64], dx: &[f64]) -> (Vec<f64>, Vec<f64>) {
        let [convex, concave, _] = self.units;
        let dot = |a: &[f64], b: &[f64]| -> f64 { a.iter().zip(b).map(|(a, b)| a * b).sum() };
        let unit = |(i, (weight, bias)): (usize, (&Vec<f64>, &f64))| {
            let (y, dy) = (dot(weight, x) + bias, dot(weight, dx));
            let Some(rho) = self.activation else { return (y, dy) };
            let (sign, offset) = match i {
                i if i < convex => (1.0, 0.0),
                i if i < convex + concave => (-1.0, 0.0),
                _ => (if y > 0.0 { -1.0 } else { 1.0 }, 1.0),
            };
            let (value, slope) = rho.on_host(sign * y + offset);
            (sign * (value - rho.on_host(offset).0), slope * dy)
        };
        self.weight.iter().zip(&self.bias).enumerate().map(unit).unzip()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::weights::{Weights, export, import};
    use proptest::prelude::*;
    use vdm_kernels::rng::Philox;

    pub(in crate::schedule::monotonic) const ACTIVATIONS: [MonotonicActivation; 5] = [
        MonotonicActivation::Elu,
        MonotonicActivation::Relu,
        MonotonicActivation::Selu,
        MonotonicActivation::Silu,
        MonotonicActivation::Gelu,
    ];

    /// `module` with normal numbers of standard deviation `std` for parameters.
    pub(in crate::schedule::monotonic) fn randomised<M: Module>(module: M, seed: u64, std: f32) -> M {
        let mut weights: Weights = export(&module);
        for (i, tensor) in weights.values_mut().enumerate() {
            Philox::new(seed, i as u64).normal(0, &mut tensor.data);
            tensor.data.iter_mut().for_each(|w| *w *= std);
        }
        import(module, &weights).unwrap()
    }

    #[test]
    fn units_share_the_outputs() {
        let units = |d_out, act_weight| {
            let base = MonotonicLinearConfig::new(1, d_out, MonotonicActivation::Elu);
            MonotonicLinearConfig { act_weight, ..base }.units()
        };
        assert_eq!(units(16, [7.0, 7.0, 2.0]), [7, 7, 2]);
        assert_eq!(units(64, [7.0, 7.0, 2.0]), [28, 28, 8]);
        assert_eq!(units(5, [1.0, 0.0, 0.0]), [5, 0, 0]);
        assert_eq!(units(5, [0.0, 0.0, 1.0]), [0, 0, 5]);
        // 1.5 and 1.5 both round to 2, which is one too many.
        assert_eq!(units(3, [1.0, 1.0, 0.0]), [2, 1, 0]);
        assert_eq!(units(1, [1.0, 1.0, 1.0]), [0, 0, 1]);
    }

    #[test]
    fn impossible_layers_are_errors() {
        let good = MonotonicLinearConfig::new(2, 3, MonotonicActivation::Elu);
        let device = Device::flex();
        assert!(good.init(&device).is_ok());
        let bad = [
            (MonotonicLinearConfig { d_out: 0, ..good.clone() }, "d_out = 0"),
            (MonotonicLinearConfig { d_in: 3, ..good.clone() }, "3 inputs"),
            (MonotonicLinearConfig { indicator: vec![1, 2], ..good.clone() }, "[1, 2]"),
            (MonotonicLinearConfig { act_weight: [0.0; 3], ..good.clone() }, "act_weight"),
            (MonotonicLinearConfig { act_weight: [1.0, -1.0, 2.0], ..good.clone() }, "negative"),
            (MonotonicLinearConfig { act_weight: [1.0, f64::NAN, 2.0], ..good }, "act_weight"),
        ];
        for (config, says) in bad {
            let error = config.init(&device).err().unwrap();
            assert!(error.contains(says), "{error}");
        }
    }

    #[test]
    fn a_forward_does_not_touch_the_stored_weight() {
        let device = Device::flex().autodiff();
        let config = MonotonicLinearConfig {
            indicator: vec![1, -1, 0],
            ..MonotonicLinearConfig::new(3, 8, MonotonicActivation::Elu)
        };
        let layer = randomised(config.init(&device).unwrap(), 1, 1.0);
        let before = export(&layer);
        assert!(before["weight"].data.iter().any(|&w| w < 0.0));
        let x = Tensor::<2>::from_data([[0.3, -0.2, 1.0]], &device);
        let gradients = layer.forward(x).sum().backward();
        assert!(layer.weight.val().grad(&gradients).is_some());
        assert_eq!(before, export(&layer));
    }

    #[test]
    fn value_and_tangent_agree_with_f64_and_with_differences() {
        let device = Device::flex();
        let input = |seed: u64| -> Vec<f32> {
            let mut x = vec![0.0; 3];
            Philox::new(seed, 0).normal(0, &mut x);
            x
        };
        let (x, dx) = (input(11), input(12));
        let tensor = |x: &[f32]| Tensor::<2>::from_data(TensorData::new(x.to_vec(), [1, 3]), &device);
        let wide = |x: &[f32]| -> Vec<f64> { x.iter().map(|&x| f64::from(x)).collect() };
        for activation in ACTIVATIONS.map(Some).into_iter().chain([None]) {
            let config = MonotonicLinearConfig {
                activation,
                indicator: vec![1, -1, 0],
                ..MonotonicLinearConfig::new(3, 32, MonotonicActivation::Elu)
            };
            let layer = randomised(config.init(&device).unwrap(), 3, 1.0);
            let on_host = layer.to_host();
            let (y, dy) = layer.forward_with_tangent(tensor(&x), tensor(&dx));
            assert_eq!(host(&y), host(&layer.forward(tensor(&x))));
            let (want, want_tangent) = on_host.forward_with_tangent(&wide(&x), &wide(&dx));
            let close = |found: Vec<f64>, want: &[f64], tolerance: f64| {
                let far = found.iter().zip(want).any(|(a, b)| (a - b).abs() > tolerance * (1.0 + b.abs()));
                assert!(!far, "{activation:?}: {found:?} and {want:?}");
            };
            close(host(&y), &want, 1e-5);
            close(host(&dy), &want_tangent, 1e-5);
            let h = 1e-6;
            let at = |step: f64| {
                let x: Vec<f64> = wide(&x).iter().zip(wide(&dx)).map(|(x, dx)| x + step * dx).collect();
                on_host.forward_with_tangent(&x, &[0.0; 3]).0
            };
            let difference: Vec<f64> = at(h).iter().zip(at(-h)).map(|(a, b)| (a - b) / (2.0 * h)).collect();
            close(difference, &want_tangent, 1e-5);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        /// Each output rises with an input of indicator 1 and falls with one of indicator -1.
        #[test]
        fn layers_follow_the_indicator(seed in any::<u64>(), which in 0usize..3, step in 1e-3f64..5.0) {
            let config = MonotonicLinearConfig {
                indicator: vec![1, -1],
                ..MonotonicLinearConfig::new(2, 16, ACTIVATIONS[which])
            };
            let layer = randomised(config.init(&Device::flex()).unwrap(), seed, 1.0).to_host();
            let at = |x: [f64; 2]| layer.forward_with_tangent(&x, &[0.0; 2]).0;
            let base = at([0.1, -0.3]);
            // Up to rounding: a step times a tiny weight may be lost in it.
            prop_assert!(at([0.1 + step, -0.3]).iter().zip(&base).all(|(a, b)| *a >= b - 1e-12));
            prop_assert!(at([0.1, -0.3 + step]).iter().zip(&base).all(|(a, b)| *a <= b + 1e-12));
        }
    }
}
