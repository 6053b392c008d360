//! The parts of a U-Net's levels.

use crate::nn::layers::{Conv, Dense, Norm, Projection, dropout};
use burn::module::Module;
use burn::tensor::{Device, Tensor};

/// A residual block: convolution, normalisation, SiLU, twice, with the context added between.
#[derive(Module, Debug)]
pub struct ContextBlock {
    /// 3x3.
    pub conv1: Conv,
    /// After the first convolution.
    pub norm1: Norm,
    /// Context to a shift of each channel.
    pub ctx: Dense,
    /// 3x3.
    pub conv2: Conv,
    /// After the second convolution.
    pub norm2: Norm,
    /// 1x1 on the input where the channels differ.
    pub skip: Option<Conv>,
    dropout: f64,
}

impl ContextBlock {
    /// A block from `c_in` to `c_out` channels, with a context of `context` numbers; `norm` makes a normalisation.
    pub(super) fn new(
        c_in: usize,
        c_out: usize,
        context: usize,
        dropout: f64,
        norm: &impl Fn(usize) -> Norm,
        device: &Device,
    ) -> Self {
        Self {
            conv1: Conv::new(c_in, c_out, 3, device),
            norm1: norm(c_out),
            ctx: Dense::new(context, c_out, device),
            conv2: Conv::new(c_out, c_out, 3, device),
            norm2: norm(c_out),
            skip: (c_in != c_out).then(|| Conv::new(c_in, c_out, 1, device)),
            dropout,
        }
    }

    /// `beside` are further channels of the input, from a skip connection.
    ///
    /// # Shapes
    /// - `x` and `beside`, together: `[batch, in, height, width]`; `ctx`: `[batch, 4 n_embd]`, after SiLU
    /// - output: `[batch, out, height, width]`
    pub fn forward(&self, x: Tensor<4>, beside: Option<Tensor<4>>, ctx: Tensor<2>, seed: Option<u64>) -> Tensor<4> {
        let map = |conv: &Conv| match &beside {
            Some(beside) => conv.forward_beside(x.clone(), beside.clone()),
            None => conv.forward(x.clone()),
        };
        let h = self.norm1.silu(map(&self.conv1));
        let shift = self.ctx.forward(ctx);
        let [batch, channels] = shift.dims();
        let h = dropout(h + shift.reshape([batch, channels, 1, 1]), self.dropout, seed);
        let h = self.norm2.silu(self.conv2.forward(h));
        match (&self.skip, &beside) {
            (Some(skip), _) => map(skip) + h,
            (None, Some(beside)) => Tensor::cat(vec![x.clone(), beside.clone()], 1) + h,
            (None, None) => x.clone() + h,
        }
    }
}

/// Attention of an image's pixels to a control signal, or to the image itself.
///
/// Every map is on channels alone. Where channels and attention's dimension agree, the adapters are left out.
#[derive(Module, Debug)]
pub struct ControlAttention {
    /// The image's channels to the attention's.
    pub to_q: Option<Projection>,
    /// The control's channels to the attention's, for keys.
    pub to_k: Option<Projection>,
    /// The control's channels to the attention's, for values.
    pub to_v: Option<Projection>,
    /// Query map.
    pub q: Conv,
    /// Key map. Its bias has no gradient: it shifts all logits of a query alike.
    pub k: Conv,
    /// Value map.
    pub v: Conv,
    /// Output map.
    pub out: Conv,
    /// The attention's channels to the image's.
    pub from_q: Option<Projection>,
    heads: usize,
    residual: bool,
}

impl ControlAttention {
    /// Attention of `dim` channels inside for images of `channels` channels, to a control of `source` channels.
    pub(super) fn new(
        channels: usize,
        source: usize,
        dim: usize,
        heads: usize,
        residual: bool,
        device: &Device,
    ) -> Self {
        let adapter = |c_in: usize, c_out: usize| (c_in != c_out).then(|| Projection::new(c_in, c_out, device));
        let map = || Conv::new(dim, dim, 1, device);
        Self {
            to_q: adapter(channels, dim),
            to_k: adapter(source, dim),
            to_v: adapter(source, dim),
            q: map(),
            k: map(),
            v: map(),
            out: map(),
            from_q: adapter(dim, channels),
            heads,
            residual,
        }
    }

    /// # Shapes
    /// - `x`: `[batch, channels, height, width]`
    /// - `control`: `[batch, dim, any, any]`; `x` itself if absent
    /// - output: as `x`
    pub fn forward(&self, x: Tensor<4>, control: Option<Tensor<4>>) -> Tensor<4> {
        let [batch, _, h, w] = x.dims();
        let adapt = |adapter: Option<&Projection>, x: Tensor<4>| match adapter {
            Some(adapter) => adapter.forward(x),
            None => x,
        };
        let tokens = |adapter: &Option<Projection>, map: &Conv, x: &Tensor<4>| {
            let y = map.forward(adapt(adapter.as_ref(), x.clone()));
            let [batch, channels, h, w] = y.dims();
            y.reshape([batch, channels, h * w])
        };
        let source = control.unwrap_or_else(|| x.clone());
        let q = tokens(&self.to_q, &self.q, &x);
        let k = tokens(&self.to_k, &self.k, &source);
        let v = tokens(&self.to_v, &self.v, &source);
        let dim = q.dims()[1];
        let y = vdm_kernels::attention(q, k, v, self.heads).reshape([batch, dim, h, w]);
        let y = adapt(self.from_q.as_ref(), self.out.forward(y));
        if self.residual { x + y } else { y }
    }
}

/// Two blocks, attention, and the way to the next level.
#[derive(Module, Debug)]
pub struct UNetLevel {
    /// First block.
    pub block1: ContextBlock,
    /// Second block.
    pub block2: ContextBlock,
    /// Attention after the second block, if any.
    pub attn: Option<ControlAttention>,
    /// To the next level: on the way down 4x4 of stride 2, on the way up 3x3 on the doubled image; at the last level
    /// of either way 3x3.
    pub resize: Conv,
}

/// Convolution 4x4 of stride 2, padding 1: as the convolution 3x3 of blocks of 2x2 pixels, which takes as many products by
/// Winograd's method as the strided one does directly.
///
/// An output looks at the pixels -1 to 2 from the first pixel of its block: the second of the block before, both of its own
/// and the first of the next. Framed by zeros, the kernel's 6x6 taps are 3x3 blocks of 2x2.
///
/// # Shapes
/// `[batch, in, height, width]` -> `[batch, out, height/2, width/2]`
pub(super) fn halve(conv: &Conv, x: Tensor<4>) -> Tensor<4> {
    let ([batch, c, h, w], [out, _, kh, kw]) = (x.dims(), conv.weight.dims());
    let (h, w) = (h / 2, w / 2);
    // [.., rows, row of the block, columns, column of the block] to [.., row and column of the block, rows, columns].
    let x = x.reshape([batch, c, h, 2, w, 2]).permute([0, 1, 3, 5, 2, 4]).reshape([batch, 4 * c, h, w]);
    let (mut wide, mut high) = ([out, c, kh, kw], [out, c, kh, kw + 2]);
    (wide[3], high[2]) = (1, 1);
    let device = x.device();
    let (sides, ends) = (Tensor::zeros(wide, &device), Tensor::zeros(high, &device));
    let weight = Tensor::cat(vec![sides.clone(), conv.weight.val(), sides], 3);
    let weight = Tensor::cat(vec![ends.clone(), weight, ends], 2);
    let weight = weight.reshape([out, c, 3, 2, 3, 2]).permute([0, 1, 3, 5, 2, 4]).reshape([out, 4 * c, 3, 3]);
    vdm_kernels::conv2d(x, weight, conv.bias.val().unsqueeze())
}

/// Every pixel becomes 2x2.
///
/// # Shapes
/// `[batch, channels, height, width]` -> `[batch, channels, 2 height, 2 width]`
pub(super) fn double(x: Tensor<4>) -> Tensor<4> {
    let [batch, c, h, w] = x.dims();
    x.reshape([batch, c, h, 1, w, 1]).expand([batch, c, h, 2, w, 2]).reshape([batch, c, 2 * h, 2 * w])
}
