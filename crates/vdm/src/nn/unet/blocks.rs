//! The parts of a U-Net's levels.

use crate::nn::layers::{Conv, Dense, Norm, Projection, attend};
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
        let h = match &beside {
            Some(beside) => self.conv1.forward_beside(x.clone(), beside.clone(), None),
            None => self.conv1.forward(x.clone()),
        };
        let h = self.norm1.silu_shifted_dropout(h, self.ctx.forward(ctx), self.dropout, seed);
        let h = self.norm2.silu(self.conv2.forward(h));
        match (&self.skip, beside) {
            (Some(skip), Some(beside)) => skip.forward_beside(x, beside, Some(h)),
            (Some(skip), None) => skip.forward_onto(x, h),
            (None, Some(beside)) => Tensor::cat(vec![x, beside], 1) + h,
            (None, None) => x + h,
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
        let products = self.q.weight.val().dtype();
        let y = attend(q, k, v, self.heads, products).reshape([batch, dim, h, w]);
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
