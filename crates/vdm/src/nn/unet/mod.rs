//! A U-Net that halves the image from level to level, with attention that can look at a control signal, and
//! self-conditioning. With `attn_residual` and `fourier_pi` off it computes what the didactic PyTorch implementation of
//! the same name does, for its weights.

mod blocks;
mod control;

pub use blocks::{ContextBlock, ControlAttention, UNetLevel};
pub use control::{Control, ControlConfig};

use super::layers::{
    ClassEmbedding, Conv, Dense, Norm, conv_parameters, dense_parameters, norm_parameters, time_embedding,
};
use super::{
    Conditioning, Cost, MAX_CHANNELS, MAX_CLASSES, Mode, ScoreNetwork, check_channels, check_groups, check_levels,
    check_limit, check_sides,
};
use crate::math::{erf_of, silu, sines_and_cosines};
use crate::shape::ImageShape;
use burn::module::Module;
use burn::tensor::{Device, Tensor};
use serde::{Deserialize, Serialize};

/// Added to the variance in every group normalisation: PyTorch's default.
const NORM_EPS: f64 = 1e-5;
/// Largest exponent of a Fourier feature: beyond it single precision has no phase left.
const MAX_EXPONENT: u32 = 20;

/// Configuration of a [`UNet`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct UNetConfig {
    /// Channels at full resolution, and dimensions of the time's sinusoids; even, at least 4, a multiple of
    /// `norm_groups`.
    pub n_embd: usize,
    /// Channels that come out; a network that predicts noise has as many as go in. No key of a configuration file: it
    /// follows from the data.
    #[serde(skip)]
    pub out_channels: usize,
    /// Channels of the image. No key of a configuration file either.
    #[serde(skip)]
    pub in_channels: usize,
    /// Dropout probability in the blocks of all levels, in [0, 1); the middle and the last block have none.
    pub dropout: f64,
    /// Channels inside every attention; a multiple of `heads`.
    pub attn_dim: usize,
    /// Where the attention's keys and values come from. No key of a configuration file: no data source has controls.
    #[serde(skip)]
    pub control: ControlConfig,
    /// Whether a self-conditioning image is an input.
    pub self_conditioning: bool,
    /// Classes that an image can be of; 0 for a network that takes no class. The didactic implementation takes none.
    pub classes: usize,
    /// Attention at every level, not only in the middle.
    pub with_attention: bool,
    /// Channels after each level, in units of `n_embd`; every level but the last halves the image.
    pub chn_mult: Vec<usize>,
    /// Exponents n of the Fourier features sin(2^n π z) and cos(2^n π z) that are appended to z; none if empty. The
    /// paper's are 7 and 8.
    pub n_fourier: Vec<u32>,
    /// Whether the features have the π. The didactic implementation's have not.
    pub fourier_pi: bool,
    /// Groups of every group normalisation.
    pub norm_groups: usize,
    /// Heads of every attention.
    pub heads: usize,
    /// Attention is added to its input. In the didactic implementation it replaces its input.
    pub attn_residual: bool,
    /// z is added to the output, as in the paper's network; only where as many channels come out as go in. Not in the
    /// didactic implementation.
    pub add_input: bool,
    /// The last convolution is zero at first, as in the paper's network. Not in the didactic implementation.
    pub zero_last: bool,
}

impl Default for UNetConfig {
    /// Three levels of 32, 64 and 128 channels, for grey images.
    fn default() -> Self {
        Self { chn_mult: vec![1, 2, 4], attn_dim: 64, ..Self::new(1, 32) }
    }
}

impl UNetConfig {
    /// Four levels without attention but in the middle, for images of `in_channels` channels.
    pub fn new(in_channels: usize, n_embd: usize) -> Self {
        Self {
            n_embd,
            out_channels: in_channels,
            in_channels,
            dropout: 0.0,
            attn_dim: 128,
            control: ControlConfig::None,
            self_conditioning: false,
            classes: 0,
            with_attention: false,
            chn_mult: vec![1, 2, 4, 8],
            n_fourier: Vec::new(),
            fourier_pi: true,
            norm_groups: 8,
            heads: 4,
            attn_residual: true,
            add_input: false,
            zero_last: false,
        }
    }

    /// Says what is wrong with the configuration, if anything.
    pub fn validate(&self) -> Result<(), String> {
        let multiple = |name: &str, value: usize, of_name: &str, of: usize| {
            if value > 0 && of > 0 && value.is_multiple_of(of) {
                Ok(())
            } else {
                Err(format!("{name} = {value} must be a positive multiple of {of_name} = {of}"))
            }
        };
        multiple("n_embd", self.n_embd, "norm_groups", self.norm_groups)?;
        multiple("attn_dim", self.attn_dim, "heads", self.heads)?;
        if self.n_embd < 4 || !self.n_embd.is_multiple_of(2) {
            return Err(format!("n_embd = {} must be even and at least 4", self.n_embd));
        }
        for (name, value) in [("in_channels", self.in_channels), ("out_channels", self.out_channels)] {
            if value == 0 {
                return Err(format!("{name} must be at least 1"));
            }
        }
        check_levels(&self.chn_mult)?;
        if let ControlConfig::Sequence { dim: 0 } | ControlConfig::Image { dim: 0 } = self.control {
            return Err("control: dim must be at least 1".into());
        }
        if self.n_fourier.iter().any(|&n| n > MAX_EXPONENT) {
            return Err(format!("n_fourier = {:?} must be exponents in 0..={MAX_EXPONENT}", self.n_fourier));
        }
        if self.add_input && self.in_channels != self.out_channels {
            let (found, wanted) = (self.out_channels, self.in_channels);
            return Err(format!("add_input: {found} channels come out, but z has {wanted}"));
        }
        if !(0.0..1.0).contains(&self.dropout) {
            return Err(format!("dropout = {} must be in [0, 1)", self.dropout));
        }
        Ok(())
    }

    /// Says what a configuration file must not ask for, though it could be computed.
    pub(super) fn check_limits(&self) -> Result<(), String> {
        check_limit("n_embd", self.n_embd, MAX_CHANNELS)?;
        check_limit("attn_dim", self.attn_dim, MAX_CHANNELS)?;
        check_limit("classes", self.classes, MAX_CLASSES)?;
        check_groups(self.norm_groups, self.n_embd, &self.chn_mult)
    }

    /// The same network for images of `channels` channels.
    pub fn for_channels(&self, channels: usize) -> Self {
        Self { in_channels: channels, out_channels: channels, ..self.clone() }
    }

    /// Says why images of this size do not fit, if they do not (halving must come out even at every level), or what is
    /// wrong with the configuration.
    pub fn validate_image(&self, height: usize, width: usize) -> Result<(), String> {
        self.validate()?;
        check_sides(self.chn_mult.len(), height, width)
    }

    /// The number of parameters of the network that [`init`](Self::init) makes.
    pub fn parameters(&self) -> u128 {
        let context = 4 * self.n_embd;
        let block = |c_in: usize, c_out: usize| {
            let skip = if c_in != c_out { conv_parameters(c_in, c_out, 1) } else { 0 };
            let convolutions = conv_parameters(c_in, c_out, 3) + conv_parameters(c_out, c_out, 3);
            convolutions + 2 * norm_parameters(c_out) + dense_parameters(context, c_out) + skip
        };
        let attention = |channels: usize| {
            let source = self.control.source(channels);
            let adapter = |from: usize, to: usize| if from != to { from as u128 * to as u128 } else { 0 };
            let adapters = 2 * adapter(channels, self.attn_dim) + 2 * adapter(source, self.attn_dim);
            adapters + 4 * conv_parameters(self.attn_dim, self.attn_dim, 1)
        };
        let attention_in_level = |channels| if self.with_attention { attention(channels) } else { 0 };
        let levels = self.levels();
        let down = |(i, &(c_in, c_out)): (usize, &(usize, usize))| {
            let resize = conv_parameters(c_in, c_out, if i + 1 < levels.len() { 4 } else { 3 });
            2 * block(c_in, c_in) + attention_in_level(c_in) + resize
        };
        let up = |&(c_in, c_out): &(usize, usize)| {
            2 * block(c_out + c_in, c_out) + attention_in_level(c_out) + conv_parameters(c_out, c_in, 3)
        };
        let middle = levels.last().map_or(self.n_embd, |&(_, c_out)| c_out);
        let class = if self.classes > 0 { (self.classes as u128 + 1) * context as u128 } else { 0 };
        let images = 1 + usize::from(self.self_conditioning) + 2 * self.n_fourier.len();
        let ends = conv_parameters(images * self.in_channels, self.n_embd, 7)
            + block(2 * self.n_embd, self.n_embd)
            + conv_parameters(self.n_embd, self.out_channels, 1);
        dense_parameters(self.n_embd, context)
            + dense_parameters(context, context)
            + class
            + ends
            + levels.iter().enumerate().map(down).sum::<u128>()
            + levels.iter().map(up).sum::<u128>()
            + 2 * block(middle, middle)
            + attention(middle)
    }

    /// What one evaluation of one image takes.
    pub fn cost(&self, height: usize, width: usize) -> Cost {
        let levels = self.levels();
        let last = levels.len() - 1;
        let pixels = |level: usize| (height >> level) * (width >> level);
        let block = |c_in: usize, c_out: usize, pixels: usize| {
            let norms = Cost::output(c_out, pixels) * 2;
            // The skip is added to the second normalisation's output.
            let skip = if c_in != c_out { Cost::conv(c_in, c_out, 1, pixels) } else { Cost::output(c_out, pixels) };
            let convolutions = Cost::conv(c_in, c_out, 3, pixels) + Cost::conv(c_out, c_out, 3, pixels);
            convolutions + norms + skip + Cost::dense(4 * self.n_embd, c_out)
        };
        let attention = |channels: usize, pixels: usize| {
            let (dim, source) = (self.attn_dim, self.control.source(channels));
            let adapter = |from: usize, to: usize| match from == to {
                true => Cost::default(),
                false => Cost::conv(from, to, 1, pixels),
            };
            let adapters = adapter(channels, dim) + adapter(source, dim) * 2 + adapter(dim, channels);
            adapters + Cost::conv(dim, dim, 1, pixels) * 4 + Cost::attention(dim, pixels)
        };
        let in_level = |channels, pixels| match self.with_attention {
            true => attention(channels, pixels),
            false => Cost::default(),
        };
        let down = |(i, &(c_in, c_out)): (usize, &(usize, usize))| {
            let resize = match i < last {
                true => Cost::conv(c_in, c_out, 4, pixels(i + 1)),
                false => Cost::conv(c_in, c_out, 3, pixels(i)),
            };
            block(c_in, c_in, pixels(i)) * 2 + in_level(c_in, pixels(i)) + resize
        };
        // All but the largest double the image before the last convolution.
        let up = |(i, &(c_in, c_out)): (usize, &(usize, usize))| {
            let doubled = if i > 0 { Cost::output(c_out, pixels(i - 1)) } else { Cost::default() };
            let resize = doubled + Cost::conv(c_out, c_in, 3, pixels(i.saturating_sub(1)));
            block(c_out + c_in, c_out, pixels(i)) * 2 + in_level(c_out, pixels(i)) + resize
        };
        let (e, middle, context) = (self.n_embd, levels[last].1, 4 * self.n_embd);
        let images = 1 + usize::from(self.self_conditioning) + 2 * self.n_fourier.len();
        let ends = Cost::conv(images * self.in_channels, e, 7, pixels(0))
            + block(2 * e, e, pixels(0))
            + Cost::conv(e, self.out_channels, 1, pixels(0));
        Cost::dense(e, context)
            + Cost::dense(context, context)
            + ends
            + levels.iter().enumerate().map(down).sum()
            + levels.iter().enumerate().map(up).sum()
            + block(middle, middle, pixels(last)) * 2
            + attention(middle, pixels(last))
    }

    /// Channels before and after each level on the way down; on the way up the same levels in reverse order.
    fn levels(&self) -> Vec<(usize, usize)> {
        let after: Vec<usize> = self.chn_mult.iter().map(|m| m * self.n_embd).collect();
        [self.n_embd].into_iter().chain(after.iter().copied()).zip(after.iter().copied()).collect()
    }

    /// Makes the network on `device`, with the device's random numbers.
    ///
    /// # Panics
    /// If [`validate`](Self::validate) fails.
    pub fn init(&self, device: &Device) -> UNet {
        if let Err(reason) = self.validate() {
            panic!("UNetConfig: {reason}");
        }
        let context = 4 * self.n_embd;
        let norm = |channels| Norm::new(self.norm_groups, channels, NORM_EPS, device);
        let block = |c_in, c_out, dropout| ContextBlock::new(c_in, c_out, context, dropout, &norm, device);
        let attention = |channels: usize| {
            ControlAttention::new(
                channels,
                self.control.source(channels),
                self.attn_dim,
                self.heads,
                self.attn_residual,
                device,
            )
        };

        let levels = self.levels();
        let last = levels.len() - 1;
        let middle = levels[last].1;
        let down = |(i, &(c_in, c_out)): (usize, &(usize, usize))| UNetLevel {
            block1: block(c_in, c_in, self.dropout),
            block2: block(c_in, c_in, self.dropout),
            attn: self.with_attention.then(|| attention(c_in)),
            resize: Conv::new(c_in, c_out, if i < last { 4 } else { 3 }, device),
        };
        let up = |&(c_in, c_out): &(usize, usize)| UNetLevel {
            block1: block(c_out + c_in, c_out, self.dropout),
            block2: block(c_out + c_in, c_out, self.dropout),
            attn: self.with_attention.then(|| attention(c_out)),
            resize: Conv::new(c_out, c_in, 3, device),
        };
        let images = 1 + usize::from(self.self_conditioning) + 2 * self.n_fourier.len();
        let conv_out = if self.zero_last { Conv::zeros } else { Conv::new };
        UNet {
            time0: Dense::new(self.n_embd, context, device),
            time1: Dense::new(context, context, device),
            class: (self.classes > 0).then(|| ClassEmbedding::new(self.classes, context, device)),
            conv_in: Conv::new(images * self.in_channels, self.n_embd, 7, device),
            down: levels.iter().enumerate().map(down).collect(),
            mid1: block(middle, middle, 0.0),
            mid_attn: attention(middle),
            mid2: block(middle, middle, 0.0),
            up: levels.iter().rev().map(up).collect(),
            last: block(2 * self.n_embd, self.n_embd, 0.0),
            conv_out: conv_out(self.n_embd, self.out_channels, 1, device),
            control: self.control,
            self_conditioning: self.self_conditioning,
            n_fourier: self.n_fourier.clone(),
            fourier_pi: self.fourier_pi,
            add_input: self.add_input,
        }
    }
}

/// A U-Net whose levels halve the image.
///
/// # Invariants
/// `up` is as long as `down`, at least 1. The channels of all parts fit together as [`UNetConfig::init`] makes them.
#[derive(Module, Debug)]
pub struct UNet {
    /// The time's sinusoids to the context, first layer.
    pub time0: Dense,
    /// Second layer of the same.
    pub time1: Dense,
    /// Added to the context, if the network takes a class.
    pub class: Option<ClassEmbedding>,
    /// 7x7, from z, its Fourier features and the self-conditioning image.
    pub conv_in: Conv,
    /// Levels on the way down.
    pub down: Vec<UNetLevel>,
    /// First middle block.
    pub mid1: ContextBlock,
    /// Attention in the middle.
    pub mid_attn: ControlAttention,
    /// Second middle block.
    pub mid2: ContextBlock,
    /// Levels on the way up, from the smallest image; both blocks of each take a skip connection.
    pub up: Vec<UNetLevel>,
    /// The block at the end, which takes the skip connection of `conv_in`.
    pub last: ContextBlock,
    /// 1x1.
    pub conv_out: Conv,
    #[module(skip)]
    control: ControlConfig,
    self_conditioning: bool,
    #[module(skip)]
    n_fourier: Vec<u32>,
    fourier_pi: bool,
    add_input: bool,
}

impl UNet {
    /// The network's output for z at time t.
    ///
    /// What the network was not configured for is ignored; an estimate or control that it was configured for and is
    /// absent is taken as zeros, an absent class as no class.
    ///
    /// # Shapes
    /// - `z`: `[batch, in_channels, height, width]`, sides as [`UNetConfig::validate_image`] wants them
    /// - `t`: `[batch]`, in [0, 1]
    /// - output: `[batch, out_channels, height, width]`
    ///
    /// # Panics
    /// If a shape is another, the control of another kind or width than configured, or a class unknown.
    pub fn forward(&self, z: Tensor<4>, t: Tensor<1>, conditioning: &Conditioning, mode: Mode) -> Tensor<4> {
        let [batch, _, height, width] = z.dims();
        if let Err(reason) = check_sides(self.down.len(), height, width) {
            panic!("UNet: {reason}");
        }

        // 1. Context: sinusoids of 1000 t, sine and cosine of a frequency side by side, through two dense layers. The
        //    SiLU that every block begins with is the same for all.
        let n_embd = self.time0.weight.dims()[0];
        let sines_then_cosines = time_embedding(t, n_embd).reshape([batch, 2, n_embd / 2]);
        let sinusoids = sines_then_cosines.swap_dims(1, 2).reshape([batch, n_embd]);
        let ctx = self.time1.forward(gelu(self.time0.forward(sinusoids)));
        let ctx = silu(match &self.class {
            Some(class) => ctx + class.forward(conditioning.classes.as_deref(), batch),
            None => ctx,
        });
        let control = self.control.image(conditioning.control.clone(), &z);

        let mut layer = 0;
        let mut block = |block: &ContextBlock, h: Tensor<4>, skip: Option<Tensor<4>>| {
            layer += 1;
            block.forward(h, skip, ctx.clone(), mode.seed_of(layer))
        };
        let attend = |attn: &Option<ControlAttention>, h: Tensor<4>| match attn {
            Some(attn) => attn.forward(h, control.clone()),
            None => h,
        };

        // 2. Down: the output of the first convolution and of every block are kept for the way up.
        let last = self.down.len() - 1;
        let mut h = self.conv_in.forward(self.input(z.clone(), conditioning.self_cond.clone()));
        let mut skips = vec![h.clone()];
        for (i, level) in self.down.iter().enumerate() {
            h = block(&level.block1, h, None);
            skips.push(h.clone());
            h = attend(&level.attn, block(&level.block2, h, None));
            skips.push(h.clone());
            h = if i < last { level.resize.forward_halving(h) } else { level.resize.forward(h) };
        }

        // 3. Middle.
        h = block(&self.mid1, h, None);
        h = self.mid_attn.forward(h, control.clone());
        h = block(&self.mid2, h, None);

        // 4. Up: every block takes the latest output that is left.
        let mut skip = || Some(skips.pop().expect("a skip for every block"));
        for (i, level) in self.up.iter().enumerate() {
            h = block(&level.block1, h, skip());
            h = attend(&level.attn, block(&level.block2, h, skip()));
            h = level.resize.forward(if i < last { vdm_kernels::double(h) } else { h });
        }

        // 5. The last block takes the first convolution's output.
        let h = block(&self.last, h, skip());
        if self.add_input { self.conv_out.forward_onto(h, z) } else { self.conv_out.forward(h) }
    }

    /// z, the sines and the cosines of its Fourier features (the channels of one frequency side by side), and the
    /// self-conditioning image.
    fn input(&self, z: Tensor<4>, cond: Option<Tensor<4>>) -> Tensor<4> {
        let mut parts = vec![z.clone()];
        if !self.n_fourier.is_empty() {
            let unit = if self.fourier_pi { std::f64::consts::PI } else { 1.0 };
            let angles: Vec<Tensor<4>> =
                self.n_fourier.iter().map(|&n| z.clone() * (2f64.powi(n as i32) * unit)).collect();
            let angles = Tensor::cat(angles, 1);
            parts.extend(sines_and_cosines(angles));
        }
        if self.self_conditioning {
            parts.push(cond.unwrap_or_else(|| z.zeros_like()));
        }
        Tensor::cat(parts, 1)
    }
}

/// x Φ(x). Burn's own has the gradient of the tanh approximation on some backends.
fn gelu(x: Tensor<2>) -> Tensor<2> {
    let cdf = (erf_of(x.clone() * std::f64::consts::FRAC_1_SQRT_2) + 1.0) * 0.5;
    x * cdf
}

impl ScoreNetwork for UNet {
    /// # Panics
    /// As [`UNet::forward`], and if the network has another number of channels out than in.
    fn forward(&self, z: Tensor<4>, time: Tensor<1>, conditioning: &Conditioning, mode: Mode) -> Tensor<4> {
        let (found, wanted) = (self.conv_out.bias.dims()[0], z.dims()[1]);
        assert!(found == wanted, "UNet: out_channels = {found}, but noise has the {wanted} channels of the image");
        // The inherent method, which allows other numbers of channels.
        Self::forward(self, z, time, conditioning, mode)
    }

    fn check_shape(&self, shape: ImageShape) -> Result<(), String> {
        check_channels(shape.channels, self.conv_out.bias.dims()[0])?;
        check_sides(self.down.len(), shape.height, shape.width)
    }

    fn classes(&self) -> usize {
        self.class.as_ref().map_or(0, ClassEmbedding::classes)
    }

    fn self_conditioned(&self) -> bool {
        self.self_conditioning
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::TensorData;
    use vdm_kernels::rng::Philox;

    /// Two levels, as small as they can be; no parameter at zero.
    fn small() -> UNetConfig {
        UNetConfig {
            attn_dim: 8,
            norm_groups: 4,
            heads: 2,
            with_attention: true,
            chn_mult: vec![1, 2],
            ..UNetConfig::new(2, 8)
        }
    }

    fn random<const D: usize>(seed: u64, shape: [usize; D], device: &Device) -> Tensor<D> {
        let mut data = vec![0f32; shape.iter().product()];
        Philox::new(seed, 0).normal(0, &mut data);
        Tensor::from_data(TensorData::new(data, shape.to_vec()), device)
    }

    fn floats<const D: usize>(t: Tensor<D>) -> Vec<f32> {
        t.into_data().iter::<f32>().collect()
    }

    /// Runs a network on two images of 8x4 pixels.
    fn run(network: &UNet, cond: Option<Tensor<4>>, control: Option<Control>, mode: Mode) -> Vec<f32> {
        let device = Device::flex();
        let t = Tensor::from_data([0.25f32, 0.75], &device);
        let conditioning = Conditioning { self_cond: cond, control, ..Default::default() };
        let y = network.forward(random(1, [2, 2, 8, 4], &device), t, &conditioning, mode);
        assert_eq!(y.dims(), [2, 2, 8, 4]);
        let y = floats(y);
        assert!(y.iter().all(|y| y.is_finite()));
        y
    }

    fn close(a: &[f32], b: &[f32]) -> bool {
        a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-4)
    }

    #[test]
    fn every_option_builds_and_runs_with_gradients_everywhere() {
        let device = Device::flex().autodiff();
        let controls = [ControlConfig::None, ControlConfig::Sequence { dim: 6 }, ControlConfig::Image { dim: 8 }];
        for control in controls {
            for bits in 0..8 {
                let on = |bit: i32| (bits >> bit) & 1 == 1;
                let config = UNetConfig {
                    control,
                    self_conditioning: on(0),
                    classes: if on(2) { 3 } else { 0 },
                    with_attention: on(1),
                    attn_residual: on(2),
                    n_fourier: if on(0) { vec![7, 8] } else { Vec::new() },
                    dropout: if on(1) { 0.1 } else { 0.0 },
                    chn_mult: if on(2) { vec![1, 2, 3] } else { vec![2] },
                    ..small()
                };
                let network = config.init(&device);
                let control = match control {
                    ControlConfig::None => None,
                    ControlConfig::Sequence { dim } => Some(Control::Sequence(random(2, [2, 5, dim], &device))),
                    ControlConfig::Image { dim } => Some(Control::Image(random(2, [2, dim, 3, 5], &device))),
                };
                let t = Tensor::from_data([0.25f32, 0.75], &device);
                let conditioning = Conditioning {
                    scalar: None,
                    classes: on(2).then(|| vec![Some(1), None]),
                    control,
                    self_cond: Some(random(3, [2, 2, 8, 4], &device)),
                };
                let mode = Mode::Train { dropout_seed: 5 };
                let y = ScoreNetwork::forward(&network, random(1, [2, 2, 8, 4], &device), t, &conditioning, mode);
                assert_eq!(y.dims(), [2, 2, 8, 4], "{config:?}");
                assert!(floats(y.clone()).iter().all(|y| y.is_finite()), "{config:?}");
                let gradients = crate::weights::gradients(&network, &(y.clone() * y).sum().backward());
                let parameters = crate::weights::export(&network);
                assert!(gradients.keys().eq(parameters.keys()), "{config:?}: a parameter without gradient");
            }
        }
    }

    #[test]
    fn channels_out_may_differ_from_channels_in() {
        let device = Device::flex();
        let network = UNetConfig { out_channels: 5, ..small() }.init(&device);
        let t = Tensor::from_data([0.5f32], &device);
        let y = network.forward(random(1, [1, 2, 4, 4], &device), t, &Conditioning::default(), Mode::Eval);
        assert_eq!(y.dims(), [1, 5, 4, 4]);
    }

    #[test]
    fn control_and_self_conditioning_change_the_output() {
        let device = Device::flex();
        let sequence = |seed| Some(Control::Sequence(random(seed, [2, 5, 6], &device)));
        let network = UNetConfig { control: ControlConfig::Sequence { dim: 6 }, self_conditioning: true, ..small() }
            .init(&device);
        let cond = |seed| Some(random(seed, [2, 2, 8, 4], &device));
        let y = run(&network, cond(3), sequence(2), Mode::Eval);
        assert!(close(&y, &run(&network, cond(3), sequence(2), Mode::Eval)));
        assert!(!close(&y, &run(&network, cond(3), sequence(4), Mode::Eval)), "another control");
        assert!(!close(&y, &run(&network, cond(4), sequence(2), Mode::Eval)), "another self-conditioning image");

        let image = |seed| Some(Control::Image(random(seed, [2, 8, 3, 3], &device)));
        let network = UNetConfig { control: ControlConfig::Image { dim: 8 }, ..small() }.init(&device);
        let y = run(&network, None, image(2), Mode::Eval);
        assert!(!close(&y, &run(&network, None, image(3), Mode::Eval)), "another control image");
    }

    #[test]
    fn what_is_absent_is_zeros_and_what_is_not_wanted_is_ignored() {
        let device = Device::flex();
        let zeros = || Some(Tensor::<4>::zeros([2, 2, 8, 4], &device));
        let network = UNetConfig { self_conditioning: true, ..small() }.init(&device);
        assert_eq!(run(&network, None, None, Mode::Eval), run(&network, zeros(), None, Mode::Eval));

        let network = UNetConfig { control: ControlConfig::Sequence { dim: 6 }, ..small() }.init(&device);
        let tokens = Some(Control::Sequence(Tensor::zeros([2, 3, 6], &device)));
        assert!(close(&run(&network, None, None, Mode::Eval), &run(&network, None, tokens, Mode::Eval)));

        let network = small().init(&device);
        let tokens = Some(Control::Sequence(random(2, [2, 3, 6], &device)));
        let ignored = run(&network, Some(random(3, [2, 2, 8, 4], &device)), tokens, Mode::Eval);
        assert_eq!(run(&network, None, None, Mode::Eval), ignored);
    }

    #[test]
    fn dropout_works_in_training_alone() {
        let network = UNetConfig { dropout: 0.5, ..small() }.init(&Device::flex());
        let train = |dropout_seed| run(&network, None, None, Mode::Train { dropout_seed });
        assert_eq!(train(1), train(1));
        assert_ne!(train(1), train(2));
        assert_ne!(train(1), run(&network, None, None, Mode::Eval));
    }

    #[test]
    fn an_image_depends_on_no_other_image_of_its_batch() {
        let device = Device::flex();
        let network = small().init(&device);
        let (z, t) = (random(1, [2, 2, 8, 4], &device), Tensor::<1>::from_data([0.25f32, 0.75], &device));
        let both = floats(network.forward(z.clone(), t.clone(), &Conditioning::default(), Mode::Eval));
        let first = network.forward(z.narrow(0, 0, 1), t.narrow(0, 0, 1), &Conditioning::default(), Mode::Eval);
        let first = floats(first);
        assert_eq!(both[..first.len()], first);
    }

    #[test]
    fn sides_that_cannot_be_halved_are_refused_by_name() {
        let config = UNetConfig { chn_mult: vec![1, 2, 4], ..small() };
        assert_eq!(config.validate_image(8, 12), Ok(()));
        for (h, w) in [(8, 10), (7, 8), (0, 8)] {
            let reason = config.validate_image(h, w).unwrap_err();
            assert!(reason.contains(&format!("{h}x{w}")) && reason.contains("divisible by 4"), "{reason}");
        }
        // One level halves nothing.
        assert_eq!(UNetConfig { chn_mult: vec![1], ..small() }.validate_image(7, 5), Ok(()));
    }

    #[test]
    #[should_panic = "both must be divisible by 2"]
    fn forward_says_the_same() {
        let device = Device::flex();
        let t = Tensor::from_data([0.5f32], &device);
        small().init(&device).forward(random(1, [1, 2, 7, 4], &device), t, &Conditioning::default(), Mode::Eval);
    }

    #[test]
    #[should_panic = "the control is of [batch, dim] = [2, 7], not [2, 6]"]
    fn a_control_of_another_width_is_refused() {
        let device = Device::flex();
        let network = UNetConfig { control: ControlConfig::Sequence { dim: 6 }, ..small() }.init(&device);
        run(&network, None, Some(Control::Sequence(random(2, [2, 3, 7], &device))), Mode::Eval);
    }

    /// With both, a new network predicts z, as the paper's does.
    #[test]
    fn the_last_layer_can_start_at_zero_and_z_can_be_added() {
        let device = Device::flex();
        let of = |add_input, zero_last| {
            let network = UNetConfig { add_input, zero_last, ..small() }.init(&device);
            run(&network, None, None, Mode::Eval)
        };
        let z = floats(random::<4>(1, [2, 2, 8, 4], &device));
        assert_eq!(of(true, true), z);
        assert!(of(false, true).iter().all(|&y| y == 0.0));
        assert!(of(false, false) != z && of(true, false) != z);
    }

    #[test]
    fn impossible_configurations_are_refused_by_name() {
        assert_eq!(small().validate(), Ok(()));
        assert_eq!(UNetConfig::new(3, 32).validate(), Ok(()));
        let wrong = [
            ("n_embd", UNetConfig { n_embd: 10, ..small() }),
            ("n_embd", UNetConfig { n_embd: 0, ..small() }),
            ("n_embd", UNetConfig { n_embd: 5, norm_groups: 1, ..small() }),
            ("n_embd", UNetConfig { n_embd: 2, norm_groups: 2, ..small() }),
            ("norm_groups", UNetConfig { norm_groups: 0, ..small() }),
            ("attn_dim", UNetConfig { attn_dim: 9, ..small() }),
            ("heads", UNetConfig { heads: 0, ..small() }),
            ("in_channels", UNetConfig { in_channels: 0, ..small() }),
            ("out_channels", UNetConfig { out_channels: 0, ..small() }),
            ("chn_mult", UNetConfig { chn_mult: Vec::new(), ..small() }),
            ("chn_mult", UNetConfig { chn_mult: vec![1, 0], ..small() }),
            ("chn_mult", UNetConfig { chn_mult: vec![1; 17], ..small() }),
            ("control", UNetConfig { control: ControlConfig::Image { dim: 0 }, ..small() }),
            ("n_fourier", UNetConfig { n_fourier: vec![7, 64], ..small() }),
            ("add_input", UNetConfig { add_input: true, out_channels: 3, ..small() }),
            ("dropout", UNetConfig { dropout: 1.0, ..small() }),
            ("dropout", UNetConfig { dropout: f64::NAN, ..small() }),
        ];
        for (name, config) in wrong {
            let reason = config.validate().unwrap_err();
            assert!(reason.contains(name), "{reason}");
        }
    }

    #[test]
    fn the_configuration_survives_toml_and_unknown_keys_do_not() {
        let config = UNetConfig { n_fourier: vec![7, 8], ..small() };
        let text = toml::to_string(&config).unwrap();
        assert_eq!(toml::from_str::<UNetConfig>(&text).unwrap().for_channels(2), config);
        // What follows from the data is no key.
        for key in ["in_channels = 2", "out_channels = 2", "control = \"none\""] {
            let error = toml::from_str::<UNetConfig>(&format!("{key}\n{text}")).unwrap_err().to_string();
            assert!(error.contains("unknown field"), "{error}");
        }
        let text = format!("nett_dim = 8\n{}", toml::to_string(&small()).unwrap());
        assert!(toml::from_str::<UNetConfig>(&text).unwrap_err().to_string().contains("nett_dim"));
    }
}
