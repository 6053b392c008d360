//! Fused CPU operators for variational diffusion models, as an extension of Burn's Flex backend.
//!
//! Use these functions where Burn's own layers would do the same work slower: on [`Device::flex`] with `f32` tensors
//! they run the hand-written kernels of [`cpu`], differentiable through Burn's autodiff; on any other device or
//! precision they are the plain composition of [`mod@reference`], apart from some that have a kernel in `accelerator` (with the
//! feature of that name). The values agree to rounding.
//!
//! On Flex a result is the same, bit for bit, at any number of threads, and an image's result does not depend on the
//! batch around it.
//!
//! [`Device::flex`]: burn::tensor::Device::flex
#![deny(missing_docs)]
// What tests compare with may come from anywhere.
#![cfg_attr(test, allow(clippy::disallowed_methods))]

#[cfg(feature = "accelerator")]
mod accelerator;
pub mod cpu;
mod device;
mod extension;
mod moments;
#[allow(clippy::disallowed_methods)]
pub mod reference;
mod remembered;
pub mod rng;
mod square_sums;
pub mod teams;

pub use cpu::adamw::Update;
pub use cpu::elementary::Function;
pub use device::is_fused;
pub use extension::NormArgs;
pub use moments::Moments;
pub use square_sums::SquareSums;

use burn::backend::{Dispatch, Flex};
use burn::tensor::{Device, Tensor, TensorData};
use extension::{ConvArgs, Fused, FusedNorm};
use rng::Philox;

fn fused<const D: usize>(x: &Tensor<D>) -> bool {
    is_fused(&x.device(), x.dtype())
}

/// Whether a convolution is fused. A weight of another precision than `x` says in which the products are computed, and only
/// [`mod@reference`] has such products.
fn fused_products(x: &Tensor<4>, weight: &Tensor<4>) -> bool {
    fused(x) && x.dtype() == weight.dtype()
}

/// Whether a normalisation is fused.
fn fused_norm(x: &Tensor<4>) -> bool {
    #[cfg(feature = "accelerator")]
    if accelerator::takes(&x.device().inner(), x.dtype()) {
        return true;
    }
    fused(x)
}

/// Convolution of odd side, padded so that images keep their size, stride 1.
///
/// # Shapes
/// - `x`: `[batch, in, height, width]`
/// - `weight`: `[out, in, k, k]` with k odd
/// - `bias`: `[1, out]`, or `[batch, out]` for a bias of each image (a bias and a conditioning vector, added up)
/// - output: `[batch, out, height, width]`
///
/// If `weight` is of another precision than `x`, the products are computed in the precision of `weight`. The other convolutions do the
/// same.
pub fn conv2d(x: Tensor<4>, weight: Tensor<4>, bias: Tensor<2>) -> Tensor<4> {
    if !fused_products(&x, &weight) {
        return reference::conv2d(x, weight, bias);
    }
    let y = Dispatch::fused_conv2d(x.into_dispatch(), weight.into_dispatch(), bias.into_dispatch(), conv_args(1));
    Tensor::from_dispatch(y)
}

/// Autodiff sets `again` back: the weights of a training are new at every step.
fn conv_args(stride: usize) -> ConvArgs {
    ConvArgs { stride, again: true }
}

/// Convolution of even side and stride 2, padded by (k - 1) / 2: images of even sides come out half as high and wide.
///
/// # Shapes
/// - `x`: `[batch, in, height, width]`
/// - `weight`: `[out, in, k, k]` with k even
/// - `bias`: `[1, out]` or `[batch, out]`
/// - output: `[batch, out, height / 2, width / 2]`
pub fn conv2d_halving(x: Tensor<4>, weight: Tensor<4>, bias: Tensor<2>) -> Tensor<4> {
    if !fused_products(&x, &weight) {
        return reference::conv2d_halving(x, weight, bias);
    }
    let y = Dispatch::fused_conv2d(x.into_dispatch(), weight.into_dispatch(), bias.into_dispatch(), conv_args(2));
    Tensor::from_dispatch(y)
}

/// Every pixel becomes 2x2.
///
/// # Shapes
/// `[batch, channels, height, width]` -> `[batch, channels, 2 height, 2 width]`
pub fn double(x: Tensor<4>) -> Tensor<4> {
    if !fused(&x) {
        return reference::double(x);
    }
    Tensor::from_dispatch(Dispatch::fused_double(x.into_dispatch()))
}

/// [`conv2d`] added to `to`: a residual connection without a pass of its own.
///
/// # Shapes
/// As for [`conv2d`]; `to` has the output's.
///
/// # Panics
/// If `to` has not.
pub fn conv2d_add(x: Tensor<4>, weight: Tensor<4>, bias: Tensor<2>, to: Tensor<4>) -> Tensor<4> {
    let ([b, _, h, w], co) = (x.dims(), weight.dims()[0]);
    assert!(to.dims() == [b, co, h, w], "conv2d_add: {:?} + {:?}", to.dims(), [b, co, h, w]);
    if !fused_products(&x, &weight) {
        return to + conv2d(x, weight, bias);
    }
    let [x, weight, to] = [x, weight, to].map(Tensor::into_dispatch);
    Tensor::from_dispatch(Dispatch::fused_conv2d_add(x, weight, bias.into_dispatch(), to, conv_args(1)))
}

/// [`conv2d`] of the channels of `a` and, after them, those of `b`, as a skip connection brings them, without putting them
/// together; added to `to`, if there is one.
///
/// # Shapes
/// - `a`: `[batch, c, height, width]`; `b`: `[batch, d, height, width]`
/// - `weight`: `[out, c + d, k, k]` with k odd; `bias`: `[1, out]` or `[batch, out]`
/// - `to` and output: `[batch, out, height, width]`
///
/// # Panics
/// If a shape is another.
pub fn conv2d_beside(
    a: Tensor<4>,
    b: Tensor<4>,
    weight: Tensor<4>,
    bias: Tensor<2>,
    to: Option<Tensor<4>>,
) -> Tensor<4> {
    let ([batch, c, h, w], [co, ci, k, _]) = (a.dims(), weight.dims());
    assert!(c < ci && b.dims() == [batch, ci - c, h, w], "conv2d_beside: {:?} beside {:?}", b.dims(), a.dims());
    let expected = [batch, co, h, w];
    assert!(to.as_ref().is_none_or(|to| to.dims() == expected), "conv2d_beside: to another shape than {expected:?}");
    let spec = cpu::conv::Spec { batch, ci, co, h, w, k, stride: 1 };
    if !fused_products(&a, &weight) || !spec.takes_two(c) {
        let x = Tensor::cat(vec![a, b], 1);
        return match to {
            Some(to) => conv2d_add(x, weight, bias, to),
            None => conv2d(x, weight, bias),
        };
    }
    let ([a, b, weight], bias) = ([a, b, weight].map(Tensor::into_dispatch), bias.into_dispatch());
    Tensor::from_dispatch(match to {
        Some(to) => Dispatch::fused_conv2d_beside_add(a, b, weight, bias, to.into_dispatch(), conv_args(1)),
        None => Dispatch::fused_conv2d_beside(a, b, weight, bias, conv_args(1)),
    })
}

/// Group normalisation, then SiLU and dropout as `args` say.
///
/// Dropout's mask is a function of `args.seed` and the position in the batch.
///
/// # Shapes
/// - `x`: `[batch, channels, height, width]`, channels a multiple of `args.groups`
/// - `gamma`, `beta`: `[channels]`
/// - output: as `x`
pub fn group_norm(x: Tensor<4>, gamma: Tensor<1>, beta: Tensor<1>, args: NormArgs) -> Tensor<4> {
    if !fused_norm(&x) {
        return reference::group_norm(x, gamma, beta, args);
    }
    let y = Dispatch::fused_group_norm(x.into_dispatch(), gamma.into_dispatch(), beta.into_dispatch(), args);
    Tensor::from_dispatch(y)
}

/// [`group_norm`] with a number for each image and channel added after SiLU and before dropout.
///
/// # Shapes
/// As for [`group_norm`]; `shift`: `[batch, channels]`
pub fn group_norm_shifted(
    x: Tensor<4>,
    gamma: Tensor<1>,
    beta: Tensor<1>,
    shift: Tensor<2>,
    args: NormArgs,
) -> Tensor<4> {
    if !fused_norm(&x) {
        return reference::group_norm_shifted(x, gamma, beta, shift, args);
    }
    let [gamma, beta] = [gamma, beta].map(Tensor::into_dispatch);
    let y = Dispatch::fused_group_norm_shifted(x.into_dispatch(), gamma, beta, shift.into_dispatch(), args);
    Tensor::from_dispatch(y)
}

/// [`group_norm`] of the channels of `a` and, after them, those of `b`, as a skip connection brings them, without a copy.
///
/// # Shapes
/// - `a`: `[batch, c, height, width]`; `b`: `[batch, d, height, width]`, c + d a multiple of `args.groups`
/// - `gamma`, `beta`: `[c + d]`
/// - output: `[batch, c + d, height, width]`
pub fn group_norm_beside(a: Tensor<4>, b: Tensor<4>, gamma: Tensor<1>, beta: Tensor<1>, args: NormArgs) -> Tensor<4> {
    let (c, d) = (a.dims()[1], b.dims()[1]);
    let divides = args.groups > 0 && c.is_multiple_of(((c + d) / args.groups).max(1));
    if !fused_norm(&a) || !divides {
        // Where a group takes channels of both, they must lie together.
        return group_norm(Tensor::cat(vec![a, b], 1), gamma, beta, args);
    }
    let [a, b] = [a, b].map(Tensor::into_dispatch);
    let y = Dispatch::fused_group_norm_beside(a, b, gamma.into_dispatch(), beta.into_dispatch(), args);
    Tensor::from_dispatch(y)
}

/// Dense layer `x w + b`; each row's result is independent of the other rows.
///
/// # Shapes
/// - `x`: `[batch, in]`, `weight`: `[in, out]`, `bias`: `[out]`
/// - output: `[batch, out]`
pub fn linear(x: Tensor<2>, weight: Tensor<2>, bias: Option<Tensor<1>>) -> Tensor<2> {
    if !fused(&x) {
        return reference::linear(x, weight, bias);
    }
    let bias = bias.unwrap_or_else(|| Tensor::zeros([weight.dims()[1]], &x.device()));
    let y = Dispatch::fused_linear(x.into_dispatch(), weight.into_dispatch(), bias.into_dispatch());
    Tensor::from_dispatch(y)
}

/// Softmax attention over channels-first tokens: `softmax(q k / sqrt(channels / heads)) v`.
///
/// # Shapes
/// - `q`: `[batch, channels, n]`; `k`, `v`: `[batch, channels, m]`, channels a multiple of `heads`
/// - output: `[batch, channels, n]`
///
/// In a lower precision than `f32`, the softmax is computed in `f32` all the same.
pub fn attention(q: Tensor<3>, k: Tensor<3>, v: Tensor<3>, heads: usize) -> Tensor<3> {
    if !fused(&q) {
        return reference::attention(q, k, v, heads);
    }
    let y = Dispatch::fused_attention(q.into_dispatch(), k.into_dispatch(), v.into_dispatch(), heads);
    Tensor::from_dispatch(y)
}

/// f(x) of every number, with the same bits on every machine.
///
/// # Shapes
/// Any; the output's is the input's.
pub fn elementary<const D: usize>(x: Tensor<D>, f: Function) -> Tensor<D> {
    if !fused(&x) {
        return reference::elementary(x, f);
    }
    Tensor::from_dispatch(Dispatch::fused_elementary(x.into_dispatch(), f))
}

/// Standard normal numbers for a batch: `dims` of draw `draw` from each stream. An accelerator draws them itself; they are those of
/// [`rng::normal_images`] to rounding.
///
/// # Shapes
/// - output: `[streams, dims]`
pub fn normal(streams: &[Philox], draw: u32, dims: usize, device: &Device) -> Tensor<2> {
    #[cfg(feature = "accelerator")]
    if accelerator::takes(device, burn::tensor::DType::F32) {
        return accelerator::normal(streams, draw, dims, device);
    }
    let numbers = rng::normal_images(streams, draw, dims);
    Tensor::from_data(TensorData::new(numbers, [streams.len(), dims]), device)
}

/// Σ x² of each image, added up in a fixed order.
///
/// # Shapes
/// `[batch, n]` -> `[batch]`
pub fn square_sums(x: Tensor<2>) -> Tensor<1> {
    if !fused(&x) {
        let [batch, _] = x.dims();
        return (x.clone() * x).sum_dim(1).reshape([batch]);
    }
    Tensor::from_dispatch(Dispatch::fused_square_sums(x.into_dispatch()))
}

/// The decoder's negative log-likelihood in nats per image, and its derivative with respect to `r`; neither is
/// differentiable itself.
///
/// `r = (2 / levels) e^(-gamma_0 / 2)` is the distance of two levels in units of z_0's noise; see [`cpu::decoder`].
///
/// # Shapes
/// - `eps`: `[batch, dims]`, the noise of z_0; `k`: `[batch, dims]`, the data as whole numbers in 0..levels
/// - outputs: `[batch]`, on the device without autodiff
pub fn decoder_nll(eps: Tensor<2>, k: Tensor<2>, levels: usize, r: f64) -> (Tensor<1>, Tensor<1>) {
    let (eps, k) = (plain(eps), plain(k));
    #[cfg(feature = "accelerator")]
    if accelerator::takes(&eps.device(), eps.dtype()) {
        let r = Tensor::from_data([r as f32], &eps.device());
        return accelerator::decoder_nll(eps, k, levels, r);
    }
    if !fused(&eps) {
        return reference::decoder_nll(eps, k, levels, r);
    }
    let device = eps.device();
    let batch = eps.dims()[0];
    let (mut nll, mut d_nll) = (vec![0f32; batch], vec![0f32; batch]);
    let [eps, k] = [eps, k].map(|t| flex(t).to_contiguous());
    cpu::decoder::nll(eps.storage(), k.storage(), levels, r as f32, &mut nll, &mut d_nll);
    (Tensor::from_data(nll.as_slice(), &device), Tensor::from_data(d_nll.as_slice(), &device))
}

/// [`decoder_nll`] at an `r` that is on the device, `[1]`: an accelerator does not wait for it to be read back.
pub fn decoder_nll_at(eps: Tensor<2>, k: Tensor<2>, levels: usize, r: Tensor<1>) -> (Tensor<1>, Tensor<1>) {
    let r = plain(r);
    #[cfg(feature = "accelerator")]
    if accelerator::takes(&r.device(), r.dtype()) {
        return accelerator::decoder_nll(plain(eps), plain(k), levels, r);
    }
    let r = r.into_data().iter::<f64>().next().expect("a tensor of one number");
    decoder_nll(eps, k, levels, r)
}

/// One AdamW step and the moving average, in one pass and in place where no other handle holds the memory.
///
/// # Shapes
/// `p` (the parameter) and `g` (its gradient) are `[n]`, without autodiff.
pub fn adamw_step(update: &Update, p: Tensor<1>, state: Moments, g: Tensor<1>) -> (Tensor<1>, Moments) {
    #[cfg(feature = "accelerator")]
    if accelerator::takes(&p.device(), p.dtype()) {
        return accelerator::adamw_step(update, p, state, g);
    }
    if !fused(&p) {
        return reference::adamw_step(update, p, state, g);
    }
    // Free where a tensor covers its buffer; the old handle is dropped, so that the buffer stays unshared.
    let [mut p, mut m, mut v, mut ema, g] = [p, state.m, state.v, state.ema, g].map(|t| flex(t).to_contiguous());
    let n = g.layout().num_elements();
    cpu::adamw::step(
        update,
        &mut p.storage_mut()[..n],
        &mut m.storage_mut()[..n],
        &mut v.storage_mut()[..n],
        &mut ema.storage_mut()[..n],
        &g.storage()[..n],
    );
    let [p, m, v, ema] = [p, m, v, ema].map(Tensor::from_primitive::<Flex>);
    (p, Moments { m, v, ema })
}

/// `x` without its autodiff graph.
fn plain<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    if x.is_autodiff() { x.inner() } else { x }
}

/// The Flex tensor inside `x`.
fn flex<const D: usize>(x: Tensor<D>) -> burn_flex::FlexTensor {
    x.try_into_primitive::<Flex>().expect("callers ask `fused` first, and hold no autodiff tensor")
}
