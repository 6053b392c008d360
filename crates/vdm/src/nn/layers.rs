//! The layers that the networks are made of: Burn's parameter containers with the fused operators of `vdm-kernels`.

use crate::initial::Initial;
use crate::math::sines_and_cosines;
use burn::module::{Module, Param};
use burn::tensor::{DType, Device, Int, Tensor};
use vdm_kernels::NormArgs;

/// The number of parameters of a [`Conv`] with a kernel of side `k`.
pub(super) fn conv_parameters(c_in: usize, c_out: usize, k: usize) -> u128 {
    c_out as u128 * (c_in as u128 * (k * k) as u128 + 1)
}

/// The number of parameters of a [`Dense`] layer with bias.
pub(super) fn dense_parameters(d_in: usize, d_out: usize) -> u128 {
    conv_parameters(d_in, d_out, 1)
}

/// The number of parameters of a [`Norm`].
pub(super) fn norm_parameters(channels: usize) -> u128 {
    2 * channels as u128
}

/// Convolution with bias, of stride 1 where nothing else is said, padded so that the image keeps its size.
#[derive(Module, Debug)]
pub struct Conv {
    /// `[out, in, k, k]`
    pub weight: Param<Tensor<4>>,
    /// `[out]`
    pub bias: Param<Tensor<1>>,
}

impl Conv {
    /// A convolution with random weights and zero biases.
    pub fn new(c_in: usize, c_out: usize, k: usize, device: &Device) -> Self {
        Self::with_initializer(Initial::lecun(c_in * k * k), c_in, c_out, k, device)
    }

    /// A convolution that starts as the zero map.
    pub fn zeros(c_in: usize, c_out: usize, k: usize, device: &Device) -> Self {
        Self::with_initializer(Initial::Zeros, c_in, c_out, k, device)
    }

    fn with_initializer(weights: Initial, c_in: usize, c_out: usize, k: usize, device: &Device) -> Self {
        Self { weight: weights.init([c_out, c_in, k, k], device), bias: Initial::Zeros.init([c_out], device) }
    }

    /// # Shapes
    /// `[batch, in, height, width]` -> `[batch, out, height, width]`
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        vdm_kernels::conv2d(x, self.weight.val(), self.bias.val().unsqueeze())
    }

    /// With stride 2, for a kernel of even side.
    ///
    /// # Shapes
    /// `[batch, in, height, width]` -> `[batch, out, height / 2, width / 2]`
    pub fn forward_halving(&self, x: Tensor<4>) -> Tensor<4> {
        vdm_kernels::conv2d_halving(x, self.weight.val(), self.bias.val().unsqueeze())
    }

    /// [`forward`](Self::forward) of the channels of `a` and, after them, those of `b`, without putting them together;
    /// plus `to`, if there is one.
    ///
    /// # Shapes
    /// `[batch, c, height, width]` and `[batch, in - c, height, width]` -> `[batch, out, height, width]`
    pub fn forward_beside(&self, a: Tensor<4>, b: Tensor<4>, to: Option<Tensor<4>>) -> Tensor<4> {
        vdm_kernels::conv2d_beside(a, b, self.weight.val(), self.bias.val().unsqueeze(), to)
    }

    /// [`forward`](Self::forward) plus `to`, in one pass.
    ///
    /// # Shapes
    /// - `to`: `[batch, out, height, width]`
    pub fn forward_onto(&self, x: Tensor<4>, to: Tensor<4>) -> Tensor<4> {
        vdm_kernels::conv2d_add(x, self.weight.val(), self.bias.val().unsqueeze(), to)
    }

    /// [`forward`](Self::forward) plus a number for each image and channel.
    ///
    /// # Shapes
    /// - `shift`: `[batch, out]`
    pub fn forward_shifted(&self, x: Tensor<4>, shift: Tensor<2>) -> Tensor<4> {
        vdm_kernels::conv2d(x, self.weight.val(), self.bias.val().unsqueeze() + shift)
    }
}

/// Convolution 1x1 without bias: a linear map of every pixel's channels.
#[derive(Module, Debug)]
pub struct Projection {
    /// `[out, in, 1, 1]`
    pub weight: Param<Tensor<4>>,
}

impl Projection {
    /// A projection with random weights.
    pub fn new(c_in: usize, c_out: usize, device: &Device) -> Self {
        Self { weight: Initial::lecun(c_in).init([c_out, c_in, 1, 1], device) }
    }

    /// # Shapes
    /// `[batch, in, height, width]` -> `[batch, out, height, width]`
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let weight = self.weight.val();
        let no_bias = Tensor::<2>::zeros([1, weight.dims()[0]], &x.device());
        vdm_kernels::conv2d(x, weight, no_bias)
    }
}

/// Dense layer on vectors.
#[derive(Module, Debug)]
pub struct Dense {
    /// `[in, out]`
    pub weight: Param<Tensor<2>>,
    /// `[out]`
    pub bias: Option<Param<Tensor<1>>>,
}

impl Dense {
    /// A dense layer with random weights and zero biases.
    pub fn new(d_in: usize, d_out: usize, device: &Device) -> Self {
        let bias = Some(Initial::Zeros.init([d_out], device));
        Self { weight: Initial::lecun(d_in).init([d_in, d_out], device), bias }
    }

    /// A dense layer without bias that starts as the zero map.
    pub fn zeros_without_bias(d_in: usize, d_out: usize, device: &Device) -> Self {
        Self { weight: Initial::Zeros.init([d_in, d_out], device), bias: None }
    }

    /// # Shapes
    /// `[batch, in]` -> `[batch, out]`
    pub fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        vdm_kernels::linear(x, self.weight.val(), self.bias.as_ref().map(Param::val))
    }
}

/// Group normalisation, with SiLU and dropout in the same pass where the caller asks.
#[derive(Module, Debug)]
pub struct Norm {
    /// `[channels]`
    pub gamma: Param<Tensor<1>>,
    /// `[channels]`
    pub beta: Param<Tensor<1>>,
    groups: usize,
    eps: f64,
}

impl Norm {
    /// A normalisation of `groups` groups; `channels` must be a multiple.
    pub fn new(groups: usize, channels: usize, eps: f64, device: &Device) -> Self {
        Self {
            gamma: Initial::Ones.init([channels], device),
            beta: Initial::Zeros.init([channels], device),
            groups,
            eps,
        }
    }

    /// Normalisation alone; shapes stay.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        self.run(x, false, 0.0, 0)
    }

    /// Normalisation and SiLU; shapes stay.
    pub fn silu(&self, x: Tensor<4>) -> Tensor<4> {
        self.run(x, true, 0.0, 0)
    }

    /// [`silu`](Self::silu) of the channels of `a` and, after them, those of `b`.
    ///
    /// # Shapes
    /// `[batch, c, height, width]` and `[batch, d, height, width]` -> `[batch, c + d, height, width]`
    pub fn silu_beside(&self, a: Tensor<4>, b: Tensor<4>) -> Tensor<4> {
        vdm_kernels::group_norm_beside(a, b, self.gamma.val(), self.beta.val(), self.args(true, 0.0, 0))
    }

    /// Normalisation, SiLU, and dropout with probability `p` where there is a `seed`; shapes stay.
    pub fn silu_dropout(&self, x: Tensor<4>, p: f64, seed: Option<u64>) -> Tensor<4> {
        let p = if seed.is_some() { p } else { 0.0 };
        self.run(x, true, p, seed.unwrap_or(0))
    }

    /// [`silu_dropout`](Self::silu_dropout) with a number for each image and channel added before dropout.
    ///
    /// # Shapes
    /// - `shift`: `[batch, channels]`
    pub fn silu_shifted_dropout(&self, x: Tensor<4>, shift: Tensor<2>, p: f64, seed: Option<u64>) -> Tensor<4> {
        let args = self.args(true, if seed.is_some() { p } else { 0.0 }, seed.unwrap_or(0));
        vdm_kernels::group_norm_shifted(x, self.gamma.val(), self.beta.val(), shift, args)
    }

    fn run(&self, x: Tensor<4>, silu: bool, p: f64, seed: u64) -> Tensor<4> {
        vdm_kernels::group_norm(x, self.gamma.val(), self.beta.val(), self.args(silu, p, seed))
    }

    fn args(&self, silu: bool, p: f64, seed: u64) -> NormArgs {
        NormArgs { groups: self.groups, eps: self.eps as f32, silu, dropout: p as f32, seed }
    }
}

/// Self-attention over all pixels, added to its input: x + out(softmax(q k / sqrt(C / heads)) v).
#[derive(Module, Debug)]
pub struct Attention {
    /// Before the maps.
    pub norm: Norm,
    /// Query map, 1x1.
    pub q: Conv,
    /// Key map, 1x1. Its bias has no gradient: it shifts all logits of a query alike.
    pub k: Conv,
    /// Value map, 1x1.
    pub v: Conv,
    /// Output map, 1x1, zero at first.
    pub out: Conv,
    heads: usize,
}

impl Attention {
    /// Attention with `heads` heads on `channels` channels.
    pub fn new(channels: usize, heads: usize, norm: Norm, device: &Device) -> Self {
        let map = || Conv::new(channels, channels, 1, device);
        Self { norm, q: map(), k: map(), v: map(), out: Conv::zeros(channels, channels, 1, device), heads }
    }

    /// # Shapes
    /// `[batch, channels, height, width]`, in and out
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let [b, c, h, w] = x.dims();
        let n = self.norm.forward(x.clone());
        let tokens = |map: &Conv| map.forward(n.clone()).reshape([b, c, h * w]);
        let products = self.q.weight.val().dtype();
        let y = attend(tokens(&self.q), tokens(&self.k), tokens(&self.v), self.heads, products);
        self.out.forward_onto(y.reshape([b, c, h, w]), x)
    }
}

/// Softmax attention, its products in the precision `products`; see [`vdm_kernels::attention`].
pub(super) fn attend(q: Tensor<3>, k: Tensor<3>, v: Tensor<3>, heads: usize, products: DType) -> Tensor<3> {
    let precision = q.dtype();
    if products == precision {
        return vdm_kernels::attention(q, k, v, heads);
    }
    let [q, k, v] = [q, k, v].map(|t| t.cast(products));
    vdm_kernels::attention(q, k, v, heads).cast(precision)
}

/// A vector for each class, and one more for images without a class.
#[derive(Module, Debug)]
pub struct ClassEmbedding {
    /// `[classes + 1, dims]`; the last row is that of images without a class.
    pub weight: Param<Tensor<2>>,
}

impl ClassEmbedding {
    /// Standard normal vectors of `dims` numbers.
    pub fn new(classes: usize, dims: usize, device: &Device) -> Self {
        Self { weight: Initial::Normal(1.0).init([classes + 1, dims], device) }
    }

    /// The number of classes.
    pub fn classes(&self) -> usize {
        self.weight.dims()[0] - 1
    }

    /// The vectors of `batch` images; none of them has a class where `classes` is absent.
    ///
    /// # Shapes
    /// - `classes`: one entry per image
    /// - output: `[batch, dims]`
    ///
    /// # Panics
    /// If there is not one entry per image, or a class is not below [`classes`](Self::classes):
    /// [`Conditioning::check`](super::Conditioning::check) says so without a panic.
    pub fn forward(&self, classes: Option<&[Option<u32>]>, batch: usize) -> Tensor<2> {
        let none = self.classes();
        let rows: Vec<i32> = match classes {
            Some(classes) => classes.iter().map(|class| class.map_or(none as i32, |c| c as i32)).collect(),
            None => vec![none as i32; batch],
        };
        assert!(rows.len() == batch, "ClassEmbedding: {} classes for {batch} images", rows.len());
        let known = |&row: &i32| (0..=none as i32).contains(&row);
        assert!(rows.iter().all(known), "ClassEmbedding: a class is not below {none}");
        let weight = self.weight.val();
        let rows = Tensor::<1, Int>::from_data(rows.as_slice(), &weight.device());
        weight.select(0, rows)
    }
}

/// Sinusoidal embedding of times in [0, 1]: sines, then cosines, of 1000 t at `dims`/2 frequencies from 1 down to
/// 1/10000 (Vaswani et al. 2017).
///
/// # Shapes
/// `[batch]` -> `[batch, dims]`; `dims` even and at least 4
pub fn time_embedding(t: Tensor<1>, dims: usize) -> Tensor<2> {
    let half = dims / 2;
    let frequencies: Vec<f32> =
        (0..half).map(|j| libm::exp(-libm::log(10_000.0) * j as f64 / (half - 1) as f64) as f32).collect();
    let frequencies = Tensor::<1>::from_data(frequencies.as_slice(), &t.device());
    let angle = (t * 1000.0).unsqueeze_dim::<2>(1) * frequencies.unsqueeze::<2>();
    Tensor::cat(sines_and_cosines(angle).to_vec(), 1)
}
