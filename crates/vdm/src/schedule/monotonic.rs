//! Constrained monotonic neural networks (Runje & Shankaranarayana 2023, arXiv 2205.11775): the layer, and the stack of
//! layers that a schedule is made of.
//!
//! A layer whose effective weights all have the right sign is monotone whatever the stored weights are. With a convex
//! activation alone a stack of such layers would be convex; so of the units of a layer some go through the activation
//! rho, some through its point reflection -rho(-y), which is concave, and some through a bounded mixture of both.

use super::{GammaAt, HostSchedule, host};
use crate::encoding;
use burn::module::{Initializer, Module, Param};
use burn::tensor::{
    Device, Tensor, TensorData,
    activation::{relu, sigmoid},
};
use serde::{Deserialize, Serialize};
use std::f64::consts::{FRAC_1_SQRT_2, FRAC_2_SQRT_PI};

/// The activation rho of a [`MonotonicLinear`] layer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MonotonicActivation {
    /// y for y > 0, e^y - 1 otherwise. Its slope is continuous, so a schedule's gamma' is too.
    #[default]
    Elu,
    /// max(y, 0).
    Relu,
    /// 1.0507 y for y > 0, 1.7581 (e^y - 1) otherwise (Klambauer et al. 2017).
    Selu,
    /// y sigmoid(y): falls below -1.28, so a layer with it is not monotone.
    Silu,
    /// y Phi(y) with the exact normal distribution function Phi: falls below -0.75, so a layer with it is not monotone.
    Gelu,
}

/// Scale and alpha of selu.
const SELU: (f64, f64) = (1.0507009873554805, 1.6732632423543772);

impl MonotonicActivation {
    /// Whether rho never falls: only then is a layer monotone.
    pub fn is_monotone(self) -> bool {
        matches!(self, Self::Elu | Self::Relu | Self::Selu)
    }

    /// The name in configurations.
    pub fn name(self) -> &'static str {
        match self {
            Self::Elu => "elu",
            Self::Relu => "relu",
            Self::Selu => "selu",
            Self::Silu => "silu",
            Self::Gelu => "gelu",
        }
    }

    /// rho(y) and rho'(y), both as expressions that autodiff differentiates.
    fn forward(self, y: Tensor<2>) -> (Tensor<2>, Tensor<2>) {
        let above = |y: &Tensor<2>| y.clone().greater_scalar(0.0).float();
        // max(y, 0) and e^min(y, 0): the exponential of a large y must not come up, not even to be thrown away.
        let halves = |y: Tensor<2>| {
            let up = relu(y.clone());
            (up.clone(), (y - up).exp())
        };
        match self {
            Self::Elu => {
                let (up, e) = halves(y);
                (up + (e.clone() - 1.0), e)
            }
            Self::Relu => (relu(y.clone()), above(&y)),
            Self::Selu => {
                let (scale, alpha) = SELU;
                let above = above(&y);
                let (up, e) = halves(y);
                let below = above.clone() * -1.0 + 1.0;
                ((up + (e.clone() - 1.0) * alpha) * scale, (above + below * e * alpha) * scale)
            }
            Self::Silu => {
                let s = sigmoid(y.clone());
                let slope = s.clone() * (y.clone() * (s.clone() * -1.0 + 1.0) + 1.0);
                (y * s, slope)
            }
            Self::Gelu => {
                let cdf = (y.clone() * FRAC_1_SQRT_2).erf() * 0.5 + 0.5;
                let density = (y.clone() * y.clone() * -0.5).exp() * (0.5 * FRAC_2_SQRT_PI * FRAC_1_SQRT_2);
                (y.clone() * cdf.clone(), cdf + y * density)
            }
        }
    }

    /// rho(y) and rho'(y) in f64.
    fn on_host(self, y: f64) -> (f64, f64) {
        let elu = if y > 0.0 { (y, 1.0) } else { (y.exp_m1(), y.exp()) };
        match self {
            Self::Elu => elu,
            Self::Relu => (y.max(0.0), if y > 0.0 { 1.0 } else { 0.0 }),
            Self::Selu => {
                let scale = SELU.0 * if y > 0.0 { 1.0 } else { SELU.1 };
                (scale * elu.0, scale * elu.1)
            }
            Self::Silu => {
                let s = encoding::sigmoid(y);
                (y * s, s * (1.0 + y * (1.0 - s)))
            }
            Self::Gelu => {
                let cdf = 0.5 * (1.0 + erf(y * FRAC_1_SQRT_2));
                let density = (-0.5 * y * y).exp() * (0.5 * FRAC_2_SQRT_PI * FRAC_1_SQRT_2);
                (y * cdf, cdf + y * density)
            }
        }
    }
}

/// The error function: 2/sqrt(pi) e^(-x^2) sum_n 2^n x^(2n+1) / (2n+1)!!, whose terms all have one sign.
fn erf(x: f64) -> f64 {
    if x.abs() > 6.0 {
        return x.signum();
    }
    let (mut term, mut sum, mut n) = (x, x, 1.0);
    while term.abs() > sum.abs() * f64::EPSILON {
        term *= 2.0 * x * x / (2.0 * n + 1.0);
        sum += term;
        n += 1.0;
    }
    FRAC_2_SQRT_PI * (-x * x).exp() * sum
}

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
    /// For each input 1 where the output must not fall with it, -1 where it must not rise, 0 where anything goes.
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
        let uniform = |bound: f64| Initializer::Uniform { min: -bound, max: bound };
        Ok(MonotonicLinear {
            weight: uniform(2.0 / self.d_in as f64).init([self.d_out, self.d_in], device),
            bias: self.bias.then(|| uniform(1.0).init([self.d_out], device)),
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
        let y = self.shift(x.matmul(self.effective_weight()));
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
        let y = self.shift(x.matmul(weight.clone()));
        let dy = dx.matmul(weight);
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

/// Configuration of a [`MonotonicNetwork`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MonotonicNetworkConfig {
    /// Units of each hidden layer, from the time to the output: 1 to 16 layers, each of 1 to 4096 units.
    pub hidden: Vec<usize>,
    /// The activation of the hidden layers: elu, relu or selu.
    pub activation: MonotonicActivation,
}

impl MonotonicNetworkConfig {
    /// Says what is wrong with the configuration, if anything.
    ///
    /// # Errors
    /// The field, its value, and what it must be.
    pub fn validate(&self) -> Result<(), String> {
        if !(1..=16).contains(&self.hidden.len()) || self.hidden.iter().any(|units| !(1..=4096).contains(units)) {
            return Err(format!("hidden = {:?} must name 1 to 16 layers, each of 1 to 4096 units", self.hidden));
        }
        if !self.activation.is_monotone() {
            return Err(format!(
                "activation = \"{}\" is not monotone, so gamma could fall; a schedule needs elu, relu or selu",
                self.activation.name()
            ));
        }
        Ok(())
    }

    /// Makes the network on `device`, with the device's random numbers.
    ///
    /// # Errors
    /// As [`validate`](Self::validate).
    pub fn init(&self, device: &Device) -> Result<MonotonicNetwork, String> {
        self.validate()?;
        let inputs = std::iter::once(&1).chain(&self.hidden);
        let layers: Result<Vec<MonotonicLinear>, String> = inputs
            .zip(&self.hidden)
            .map(|(&d_in, &d_out)| MonotonicLinearConfig::new(d_in, d_out, self.activation).init(device))
            .collect();
        let last = self.hidden.last().copied().unwrap_or(1);
        Ok(MonotonicNetwork { layers: layers?, last: MonotonicLinearConfig::plain(last, 1).init(device)? })
    }
}

/// What is added to a network's output for each unit of time.
///
/// A relu network, and the saturated units of any, can be flat over a stretch of time: there gamma' would be 0, and the
/// times of that stretch would be lost to the bound. This share keeps the slope positive, and the rise from t = 0 to
/// t = 1, by which the schedule divides, above zero for all weights. It is fixed because a learned one could go to
/// zero, and small beside the rise of a fresh network, which is about 1.
const LINEAR_SHARE: f64 = 0.05;

/// A strictly increasing function of the time: a stack of [`MonotonicLinear`] layers on 2 t - 1, the last of them a
/// positive linear map, plus 0.05 t.
///
/// The last layer has no activation because one that saturates could make the whole function flat (0/0 where it is
/// pinned to endpoints), and no bias because pinning takes it away again. The share of t keeps the slope positive where
/// the network is flat.
#[derive(Module, Debug)]
pub struct MonotonicNetwork {
    /// The hidden layers.
    pub layers: Vec<MonotonicLinear>,
    /// The output.
    pub last: MonotonicLinear,
}

impl MonotonicNetwork {
    /// The function (as `gamma`) and its derivative (as `prime`, positive).
    ///
    /// # Shapes
    /// - `t`: `[batch]`, in [0, 1]
    /// - outputs: `[batch]`
    pub fn forward(&self, t: Tensor<1>) -> GammaAt {
        let [batch] = t.dims();
        let x = (t.clone() * 2.0 - 1.0).reshape([batch, 1]);
        let dx = x.ones_like() * 2.0;
        let layers = self.layers.iter().chain(std::iter::once(&self.last));
        let (r, dr) = layers.fold((x, dx), |(x, dx), layer| layer.forward_with_tangent(x, dx));
        GammaAt { gamma: r.reshape([batch]) + t * LINEAR_SHARE, prime: dr.reshape([batch]) + LINEAR_SHARE }
    }

    /// The present network in f64.
    pub fn to_host(&self) -> HostMonotonicNetwork {
        let layers = self.layers.iter().chain(std::iter::once(&self.last));
        HostMonotonicNetwork { layers: layers.map(MonotonicLinear::to_host).collect() }
    }
}

/// A [`MonotonicNetwork`] in f64.
#[derive(Clone, Debug)]
pub struct HostMonotonicNetwork {
    layers: Vec<HostMonotonicLinear>,
}

impl HostMonotonicNetwork {
    fn at(&self, t: f64) -> (f64, f64) {
        let start = (vec![2.0 * t - 1.0], vec![2.0]);
        let (r, dr) = self.layers.iter().fold(start, |(x, dx), layer| layer.forward_with_tangent(&x, &dx));
        // The last layer has one unit.
        (r.iter().sum::<f64>() + LINEAR_SHARE * t, dr.iter().sum::<f64>() + LINEAR_SHARE)
    }
}

impl HostSchedule for HostMonotonicNetwork {
    fn gamma(&self, t: f64) -> f64 {
        self.at(t).0
    }

    fn prime(&self, t: f64) -> f64 {
        self.at(t).1
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weights::{Weights, export, import};
    use proptest::prelude::*;
    use vdm_kernels::rng::Philox;

    const ACTIVATIONS: [MonotonicActivation; 5] = [
        MonotonicActivation::Elu,
        MonotonicActivation::Relu,
        MonotonicActivation::Selu,
        MonotonicActivation::Silu,
        MonotonicActivation::Gelu,
    ];

    /// `module` with normal numbers of standard deviation `std` for parameters.
    fn randomised<M: Module>(module: M, seed: u64, std: f32) -> M {
        let mut weights: Weights = export(&module);
        for (i, tensor) in weights.values_mut().enumerate() {
            Philox::new(seed, i as u64).normal(0, &mut tensor.data);
            tensor.data.iter_mut().for_each(|w| *w *= std);
        }
        import(module, &weights).unwrap()
    }

    #[test]
    fn erf_agrees_with_tables() {
        for (x, want) in [(0.0, 0.0), (0.5, 0.5204998778130465), (1.0, 0.8427007929497149), (2.0, 0.9953222650189527)] {
            assert!((erf(x) - want).abs() < 1e-14, "erf({x})");
            assert!((erf(-x) + want).abs() < 1e-14, "erf(-{x})");
        }
        assert_eq!(erf(50.0), 1.0);
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
    fn activations_that_are_not_monotone_make_no_schedule() {
        let network = |activation| MonotonicNetworkConfig { hidden: vec![4], activation }.init(&Device::flex());
        for activation in ACTIVATIONS {
            match network(activation) {
                Ok(_) => assert!(activation.is_monotone()),
                Err(error) => {
                    assert!(!activation.is_monotone());
                    let name = activation.name();
                    assert!(error.contains(name) && error.contains("elu, relu or selu"), "{error}");
                }
            }
        }
        for hidden in [vec![], vec![4, 0], vec![1; 17], vec![1 << 40]] {
            let config = MonotonicNetworkConfig { hidden, activation: MonotonicActivation::Elu };
            assert!(config.init(&Device::flex()).err().unwrap().contains("hidden"));
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

        /// At whatever weights: strictly increasing, and gamma' integrates to gamma. The integral, unlike a difference,
        /// does not care about the places where the slope of relu and selu jumps.
        #[test]
        fn networks_increase(seed in any::<u64>(), std in 0.01f32..2.0, which in 0usize..3, deep in any::<bool>()) {
            let hidden = if deep { vec![7, 5, 6] } else { vec![9] };
            let config = MonotonicNetworkConfig { hidden, activation: ACTIVATIONS[which] };
            let network = randomised(config.init(&Device::flex()).unwrap(), seed, std).to_host();
            let n = 4000;
            let mut sum = 0.0;
            for i in 0..n {
                let t = i as f64 / n as f64;
                let slope = network.prime(t + 0.5 / n as f64);
                sum += slope / n as f64;
                prop_assert!(slope >= LINEAR_SHARE);
                prop_assert!(network.gamma(t + 1.0 / n as f64) > network.gamma(t));
            }
            let rise = network.gamma(1.0) - network.gamma(0.0);
            prop_assert!((sum / rise - 1.0).abs() < 1e-2, "{sum} and {rise}");
        }

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
