//! The paper's network (VDM appendix B): a U-Net without down- or up-sampling.

use super::layers::{
    Attention, ClassEmbedding, Conv, Dense, Norm, conv_parameters, dense_parameters, norm_parameters, time_embedding,
};
use super::{Conditioning, Cost, MAX_CHANNELS, MAX_CLASSES, Mode, ScoreNetwork, check_channels, check_limit};
use crate::math::{silu, sines_and_cosines};
use crate::shape::ImageShape;
use burn::module::Module;
use burn::tensor::{Device, Tensor};
use serde::{Deserialize, Serialize};

/// Fourier features of z that are appended to it, to make fine detail visible (VDM appendix C).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FourierFeatures {
    /// None.
    None,
    /// sin and cos of 2^f 2π z for f = 6, 7: the paper's n = 7, 8. The frequencies of one channel lie side by side.
    #[default]
    Paper,
    /// sin and cos of 2^f 2π z for f = 5, 6, the channels of one frequency side by side: the PyTorch port's, for its
    /// weights.
    Port,
}

impl FourierFeatures {
    /// Channels that come out for `channels` channels in, z itself included.
    pub fn channels(self, channels: usize) -> usize {
        if self == Self::None { channels } else { 5 * channels }
    }

    /// z, then all sines, then all cosines.
    ///
    /// # Shapes
    /// `[batch, channels, height, width]` -> `[batch, self.channels(channels), height, width]`
    pub fn forward(self, z: Tensor<4>) -> Tensor<4> {
        let [b, c, h, w] = z.dims();
        let angle = |f: i32| z.clone() * (2f64.powi(f) * std::f64::consts::TAU);
        let angles = match self {
            Self::None => return z,
            Self::Paper => {
                let of_channel = [6, 7].map(|f| angle(f).reshape([b, c, 1, h, w]));
                Tensor::cat(of_channel.to_vec(), 2).reshape([b, 2 * c, h, w])
            }
            Self::Port => Tensor::cat(vec![angle(5), angle(6)], 1),
        };
        let [sines, cosines] = sines_and_cosines(angles);
        Tensor::cat(vec![z, sines, cosines], 1)
    }
}

/// Configuration of a [`ScoreUNet`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ScoreUNetConfig {
    /// Channels of the image. No key of a configuration file: it follows from the data.
    #[serde(skip)]
    pub channels: usize,
    /// Channels inside; a multiple of `norm_groups` and of `heads`, even, at least 4.
    pub n_embd: usize,
    /// Blocks on the way down; there is one more on the way up.
    pub n_layer: usize,
    /// Dropout probability inside the blocks, in [0, 1).
    pub dropout: f64,
    /// Attention after every block, not only in the middle.
    pub with_attention: bool,
    /// Fourier features of z.
    pub fourier: FourierFeatures,
    /// Whether the conditioning scalar is an input. The PyTorch port has none.
    pub conditioning: bool,
    /// Classes that an image can be of; 0 for a network that takes no class. The paper's takes none.
    pub classes: usize,
    /// Groups of every group normalisation.
    pub norm_groups: usize,
    /// Added to the variance in every group normalisation: 1e-6 in the paper's code, 1e-5 in the PyTorch port.
    pub norm_eps: f64,
    /// Heads of every attention.
    pub heads: usize,
}

impl Default for ScoreUNetConfig {
    /// The paper's for CIFAR-10: 32 layers of 128 channels.
    fn default() -> Self {
        Self::new(1, 128, 32)
    }
}

impl ScoreUNetConfig {
    /// The paper's architecture for `channels` channels, of the given width and depth.
    pub fn new(channels: usize, n_embd: usize, n_layer: usize) -> Self {
        Self {
            channels,
            n_embd,
            n_layer,
            dropout: 0.0,
            with_attention: false,
            fourier: FourierFeatures::Paper,
            conditioning: true,
            classes: 0,
            norm_groups: 32,
            norm_eps: 1e-6,
            heads: 1,
        }
    }

    /// Says what is wrong with the configuration, if anything.
    pub fn validate(&self) -> Result<(), String> {
        let multiple = |name: &str, of: usize| {
            if of > 0 && self.n_embd.is_multiple_of(of) {
                Ok(())
            } else {
                Err(format!("n_embd = {} must be a positive multiple of {name} = {of}", self.n_embd))
            }
        };
        multiple("norm_groups", self.norm_groups)?;
        multiple("heads", self.heads)?;
        if self.n_embd < 4 || !self.n_embd.is_multiple_of(2) {
            return Err(format!("n_embd = {} must be even and at least 4", self.n_embd));
        }
        if self.channels == 0 {
            return Err("channels must be at least 1".into());
        }
        if !(0.0..1.0).contains(&self.dropout) {
            return Err(format!("dropout = {} must be in [0, 1)", self.dropout));
        }
        if self.norm_eps.is_nan() || self.norm_eps <= 0.0 {
            return Err(format!("norm_eps = {} must be positive", self.norm_eps));
        }
        Ok(())
    }

    /// Says what a configuration file must not ask for, though it could be computed.
    pub(super) fn check_limits(&self) -> Result<(), String> {
        check_limit("n_embd", self.n_embd, MAX_CHANNELS)?;
        check_limit("n_layer", self.n_layer, 1024)?;
        check_limit("classes", self.classes, MAX_CLASSES)?;
        // A normalisation of one channel takes away whatever was added to all of its pixels.
        if self.norm_groups == self.n_embd {
            let reason = "norm_groups must be below n_embd: groups of one channel cancel the time and the class";
            return Err(reason.into());
        }
        Ok(())
    }

    /// The same network for images of `channels` channels.
    pub fn for_channels(&self, channels: usize) -> Self {
        Self { channels, ..self.clone() }
    }

    /// Says why images of this size do not fit, if they do not; all sizes do.
    ///
    /// # Errors
    /// What is wrong with the configuration.
    pub fn validate_image(&self, _height: usize, _width: usize) -> Result<(), String> {
        self.validate()
    }

    /// The number of parameters of the network that [`init`](Self::init) makes.
    pub fn parameters(&self) -> u128 {
        let e = self.n_embd;
        let attention = || norm_parameters(e) + 4 * conv_parameters(e, e, 1);
        let block = |c_in| {
            let skip = if c_in != e { conv_parameters(c_in, e, 1) } else { 0 };
            let convolutions = conv_parameters(c_in, e, 3) + conv_parameters(e, e, 3);
            norm_parameters(c_in) + norm_parameters(e) + convolutions + 4 * (e as u128).pow(2) + skip
        };
        let class = if self.classes > 0 { (self.classes as u128 + 1) * 4 * e as u128 } else { 0 };
        let time = dense_parameters(e + usize::from(self.conditioning), 4 * e) + dense_parameters(4 * e, 4 * e) + class;
        let ends = conv_parameters(self.fourier.channels(self.channels), e, 3)
            + norm_parameters(e)
            + conv_parameters(e, self.channels, 3);
        let layers = self.n_layer as u128;
        let attentions = 1 + if self.with_attention { 2 * layers + 1 } else { 0 };
        time + ends + (layers + 2) * block(e) + (layers + 1) * block(2 * e) + attentions * attention()
    }

    /// What one evaluation of one image takes.
    pub fn cost(&self, height: usize, width: usize) -> Cost {
        let (e, pixels) = (self.n_embd, height * width);
        let conv = |c_in, k| Cost::conv(c_in, e, k, pixels);
        let norm = |channels| Cost::output(channels, pixels);
        let block = |c_in| {
            // The second convolution adds to the skip, or to a copy of the input.
            let onto = if c_in != e { conv(c_in, 1) } else { Cost::output(e, pixels) };
            norm(c_in) + conv(c_in, 3) + norm(e) + onto + conv(e, 3).in_place() + Cost::dense(4 * e, e)
        };
        let attention = norm(e) + conv(e, 1) * 4 + Cost::attention(e, pixels);
        let attentions = 1 + if self.with_attention { 2 * self.n_layer + 1 } else { 0 };
        let time = Cost::dense(e + usize::from(self.conditioning), 4 * e) + Cost::dense(4 * e, 4 * e);
        let ends = conv(self.fourier.channels(self.channels), 3) + norm(e) + Cost::conv(e, self.channels, 3, pixels);
        time + ends + block(e) * (self.n_layer + 2) + block(2 * e) * (self.n_layer + 1) + attention * attentions
    }

    /// Makes the network on `device`, with the device's random numbers.
    ///
    /// # Panics
    /// If [`validate`](Self::validate) fails.
    pub fn init(&self, device: &Device) -> ScoreUNet {
        if let Err(reason) = self.validate() {
            panic!("ScoreUNetConfig: {reason}");
        }
        let e = self.n_embd;
        let norm = |channels| Norm::new(self.norm_groups, channels, self.norm_eps, device);
        let attention = || Attention::new(e, self.heads, norm(e), device);
        let block = |c_in| ResBlock::new(c_in, e, 4 * e, self.dropout, &norm, device);
        let attentions = |n| if self.with_attention { (0..n).map(|_| attention()).collect() } else { Vec::new() };
        ScoreUNet {
            dense0: Dense::new(e + usize::from(self.conditioning), 4 * e, device),
            dense1: Dense::new(4 * e, 4 * e, device),
            class: (self.classes > 0).then(|| ClassEmbedding::new(self.classes, 4 * e, device)),
            conv_in: Conv::new(self.fourier.channels(self.channels), e, 3, device),
            down: (0..self.n_layer).map(|_| block(e)).collect(),
            down_attn: attentions(self.n_layer),
            mid1: block(e),
            mid_attn: attention(),
            mid2: block(e),
            up: (0..=self.n_layer).map(|_| block(2 * e)).collect(),
            up_attn: attentions(self.n_layer + 1),
            norm_out: norm(e),
            conv_out: Conv::zeros(e, self.channels, 3, device),
            fourier: self.fourier,
            conditioning: self.conditioning,
        }
    }
}

/// A residual block: two convolutions, each after normalisation and SiLU, the conditioning added between them.
#[derive(Module, Debug)]
pub struct ResBlock {
    /// Before the first convolution.
    pub norm1: Norm,
    /// 3x3.
    pub conv1: Conv,
    /// Conditioning to a shift of each channel, zero at first.
    pub cond: Dense,
    /// Before the second convolution.
    pub norm2: Norm,
    /// 3x3, zero at first.
    pub conv2: Conv,
    /// 1x1 on the input where the channels differ.
    pub skip: Option<Conv>,
    dropout: f64,
}

impl ResBlock {
    /// A block from `c_in` to `c_out` channels with a conditioning of `context` numbers; without a skip, the identity at
    /// first.
    pub(super) fn new(
        c_in: usize,
        c_out: usize,
        context: usize,
        dropout: f64,
        norm: &impl Fn(usize) -> Norm,
        device: &Device,
    ) -> Self {
        Self {
            norm1: norm(c_in),
            conv1: Conv::new(c_in, c_out, 3, device),
            cond: Dense::zeros_without_bias(context, c_out, device),
            norm2: norm(c_out),
            conv2: Conv::zeros(c_out, c_out, 3, device),
            skip: (c_in != c_out).then(|| Conv::new(c_in, c_out, 1, device)),
            dropout,
        }
    }

    /// `beside` are further channels of the input, from a skip connection.
    ///
    /// # Shapes
    /// - `x` and `beside`, together: `[batch, in, height, width]`; `cond`: `[batch, 4 n_embd]`
    /// - output: `[batch, out, height, width]`
    pub fn forward(&self, x: Tensor<4>, beside: Option<Tensor<4>>, cond: Tensor<2>, seed: Option<u64>) -> Tensor<4> {
        let h = match &beside {
            Some(beside) => self.norm1.silu_beside(x.clone(), beside.clone()),
            None => self.norm1.silu(x.clone()),
        };
        let h = self.conv1.forward_shifted(h, self.cond.forward(cond));
        let h = self.norm2.silu_dropout(h, self.dropout, seed);
        let x = match (&self.skip, beside) {
            (Some(skip), Some(beside)) => skip.forward_beside(x, beside, None),
            (Some(skip), None) => skip.forward(x),
            (None, Some(beside)) => Tensor::cat(vec![x, beside], 1),
            (None, None) => x,
        };
        self.conv2.forward_onto(h, x)
    }
}

/// The paper's noise-predicting network.
///
/// # Invariants
/// `down_attn` and `up_attn` are empty, or as long as `down` and `up`; `up` has one block more than `down`.
#[derive(Module, Debug)]
pub struct ScoreUNet {
    /// Time embedding and conditioning scalar to the conditioning vector, first layer.
    pub dense0: Dense,
    /// Second layer of the same.
    pub dense1: Dense,
    /// Added to the second layer's output, if the network takes a class.
    pub class: Option<ClassEmbedding>,
    /// 3x3, from z and its Fourier features.
    pub conv_in: Conv,
    /// Blocks on the way down.
    pub down: Vec<ResBlock>,
    /// Attention after each of them, if any.
    pub down_attn: Vec<Attention>,
    /// First middle block.
    pub mid1: ResBlock,
    /// Attention in the middle.
    pub mid_attn: Attention,
    /// Second middle block.
    pub mid2: ResBlock,
    /// Blocks on the way up; each takes a skip connection.
    pub up: Vec<ResBlock>,
    /// Attention after each of them, if any.
    pub up_attn: Vec<Attention>,
    /// Before the last convolution.
    pub norm_out: Norm,
    /// 3x3 to the image's channels, zero at first.
    pub conv_out: Conv,
    #[module(skip)]
    fourier: FourierFeatures,
    conditioning: bool,
}

/// What every block is told about the time, the conditioning scalar if there is one (`with_scalar`), and the class.
///
/// # Shapes
/// - `t`: `[batch]`
/// - output: `[batch, 4 n_embd]`, after SiLU
pub(super) fn conditioning_vector(
    dense0: &Dense,
    dense1: &Dense,
    class: Option<&ClassEmbedding>,
    t: Tensor<1>,
    conditioning: &Conditioning,
    with_scalar: bool,
) -> Tensor<2> {
    let batch = t.dims()[0];
    let n_embd = dense0.weight.dims()[0] - usize::from(with_scalar);
    let mut cond = time_embedding(t.clone(), n_embd);
    if with_scalar {
        let scalar = conditioning.scalar.clone().unwrap_or_else(|| t.zeros_like());
        cond = Tensor::cat(vec![cond, scalar.reshape([batch, 1])], 1);
    }
    let cond = dense1.forward(silu(dense0.forward(cond)));
    silu(match class {
        Some(class) => cond + class.forward(conditioning.classes.as_deref(), batch),
        None => cond,
    })
}

impl ScoreNetwork for ScoreUNet {
    /// # Panics
    /// If a class is not below the network's number of classes, or there is not one per image.
    fn forward(&self, z: Tensor<4>, t: Tensor<1>, conditioning: &Conditioning, mode: Mode) -> Tensor<4> {
        // 1. Conditioning vector.
        let class = self.class.as_ref();
        let cond = conditioning_vector(&self.dense0, &self.dense1, class, t, conditioning, self.conditioning);

        let mut layer = 0;
        let mut block = |block: &ResBlock, attn: Option<&Attention>, h: Tensor<4>, skip: Option<Tensor<4>>| {
            layer += 1;
            let h = block.forward(h, skip, cond.clone(), mode.seed_of(layer));
            attn.map_or(h.clone(), |attn| attn.forward(h))
        };

        // 2. Down: every output is kept for the way up.
        let mut h = self.conv_in.forward(self.fourier.forward(z.clone()));
        let mut skips = vec![h.clone()];
        for (i, down) in self.down.iter().enumerate() {
            h = block(down, self.down_attn.get(i), h, None);
            skips.push(h.clone());
        }

        // 3. Middle.
        h = block(&self.mid1, Some(&self.mid_attn), h, None);
        h = block(&self.mid2, None, h, None);

        // 4. Up.
        for (i, (up, skip)) in self.up.iter().zip(skips.into_iter().rev()).enumerate() {
            h = block(up, self.up_attn.get(i), h, Some(skip));
        }

        // 5. The network predicts what is to be added to z, a fair prediction of the noise at the noisy end.
        self.conv_out.forward_onto(self.norm_out.silu(h), z)
    }

    fn check_shape(&self, shape: ImageShape) -> Result<(), String> {
        check_channels(shape.channels, self.conv_out.bias.dims()[0])
    }

    fn classes(&self) -> usize {
        self.class.as_ref().map_or(0, ClassEmbedding::classes)
    }
}
