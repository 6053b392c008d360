//! The same operators composed from Burn's own: what accelerators use where `accelerator` has no kernel, and what the tests compare
//! with. Shapes and meaning are those of the functions of the same names at the crate's root.

use crate::rng::Philox;
use crate::{Function, NormArgs};
use burn::tensor::{DType, Tensor, TensorData, activation, module, ops::ConvOptions};

/// See [`crate::conv2d`].
pub fn conv2d(x: Tensor<4>, weight: Tensor<4>, bias: Tensor<2>) -> Tensor<4> {
    let pad = weight.dims()[2] / 2;
    convolution(x, weight, bias, ConvOptions::new([1, 1], [pad, pad], [1, 1], 1))
}

/// See [`crate::conv2d_halving`].
pub fn conv2d_halving(x: Tensor<4>, weight: Tensor<4>, bias: Tensor<2>) -> Tensor<4> {
    let pad = (weight.dims()[2] - 1) / 2;
    convolution(x, weight, bias, ConvOptions::new([2, 2], [pad, pad], [1, 1], 1))
}

/// The products in the precision of the weight, all else in that of `x`.
fn convolution(x: Tensor<4>, weight: Tensor<4>, bias: Tensor<2>, options: ConvOptions<2>) -> Tensor<4> {
    let (precision, [b, co]) = (x.dtype(), bias.dims());
    let y = module::conv2d(in_precision(x, weight.dtype()), weight, None, options);
    in_precision(y, precision) + bias.reshape([b, co, 1, 1])
}

/// `x` rounded to a precision, if it has another.
fn in_precision<const D: usize>(x: Tensor<D>, precision: DType) -> Tensor<D> {
    if x.dtype() == precision { x } else { x.cast(precision) }
}

/// See [`crate::double`].
pub fn double(x: Tensor<4>) -> Tensor<4> {
    let [batch, c, h, w] = x.dims();
    x.reshape([batch, c, h, 1, w, 1]).expand([batch, c, h, 2, w, 2]).reshape([batch, c, 2 * h, 2 * w])
}

/// See [`crate::group_norm`].
pub fn group_norm(x: Tensor<4>, gamma: Tensor<1>, beta: Tensor<1>, args: NormArgs) -> Tensor<4> {
    dropout(normalised(x, gamma, beta, args), args)
}

/// See [`crate::group_norm_shifted`].
pub fn group_norm_shifted(
    x: Tensor<4>,
    gamma: Tensor<1>,
    beta: Tensor<1>,
    shift: Tensor<2>,
    args: NormArgs,
) -> Tensor<4> {
    let [b, c] = shift.dims();
    dropout(normalised(x, gamma, beta, args) + shift.reshape([b, c, 1, 1]), args)
}

fn normalised(x: Tensor<4>, gamma: Tensor<1>, beta: Tensor<1>, args: NormArgs) -> Tensor<4> {
    let [b, c, h, w] = x.dims();
    let x = x.reshape([b, args.groups, c / args.groups * h * w]);
    let mean = x.clone().mean_dim(2);
    let x = x - mean;
    let variance = (x.clone() * x.clone()).mean_dim(2);
    let x = x / (variance + args.eps).sqrt();
    let y = x.reshape([b, c, h, w]) * gamma.reshape([1, c, 1, 1]) + beta.reshape([1, c, 1, 1]);
    if args.silu { activation::silu(y) } else { y }
}

fn dropout(y: Tensor<4>, args: NormArgs) -> Tensor<4> {
    if args.dropout == 0.0 {
        return y;
    }
    let [b, c, h, w] = y.dims();
    let dtype = y.dtype();
    let (device, numbers) = (y.device(), c * h * w);
    let mut mask = vec![0f32; b * numbers];
    for (image, mask) in mask.chunks_exact_mut(numbers).enumerate() {
        Philox::new(args.seed, image as u64).dropout(args.dropout, mask);
    }
    let mask = Tensor::<2>::from_data(TensorData::new(mask, [b, numbers]), &device);
    let mask = mask.reshape([b, c, h, w]);
    y * mask.cast(dtype)
}

/// See [`crate::linear`].
pub fn linear(x: Tensor<2>, weight: Tensor<2>, bias: Option<Tensor<1>>) -> Tensor<2> {
    let y = x.matmul(weight);
    match bias {
        Some(bias) => y + bias.unsqueeze(),
        None => y,
    }
}

/// See [`crate::attention`].
pub fn attention(q: Tensor<3>, k: Tensor<3>, v: Tensor<3>, heads: usize) -> Tensor<3> {
    let ([b, c, n], m) = (q.dims(), k.dims()[2]);
    let dim = c / heads;
    let split = |t: Tensor<3>, tokens| t.reshape([b * heads, dim, tokens]);
    let (q, k, v) = (split(q, n), split(k, m), split(v, m));
    let precision = q.dtype();
    let of_softmax = if matches!(precision, DType::BF16 | DType::F16) { DType::F32 } else { precision };
    let logits = in_precision(q.swap_dims(1, 2).matmul(k), of_softmax) / (dim as f64).sqrt();
    let p = in_precision(activation::softmax(logits, 2), precision);
    v.matmul(p.swap_dims(1, 2)).reshape([b, c, n])
}

/// See [`crate::decoder_nll`]. One pass for each level that can matter, so that memory stays at B x D; j and r are those of
/// [`crate::cpu::decoder`].
pub fn decoder_nll(eps: Tensor<2>, k: Tensor<2>, levels: usize, r: f64) -> (Tensor<1>, Tensor<1>) {
    let (low, high) = (k.clone() - (levels - 1) as f64, k);
    let distance = |j: Tensor<2>| eps.clone() + j * r;
    // The level with the largest logit: the nearest to z_0 that there is.
    let best = (eps.clone() / -r).round().max_pair(low.clone()).min_pair(high.clone());
    let top = distance(best.clone()).powi_scalar(2) * 0.5;
    let (mut sum, mut d_sum) = (top.zeros_like(), top.zeros_like());
    let mut add = |j: Tensor<2>| {
        let u = distance(j.clone());
        let p = (top.clone() - u.clone().powi_scalar(2) * 0.5).exp();
        let p = p.mask_fill(j.clone().lower(low.clone()), 0.0).mask_fill(j.clone().greater(high.clone()), 0.0);
        sum = sum.clone() + p.clone();
        d_sum = d_sum.clone() - p * u * j;
    };
    // Further than so many levels from the best one, the logit is below the largest by the cutoff: the best is within r/2 of z_0,
    // or the last one on its side.
    let reach = ((0.25 * r * r + 2.0 * f64::from(crate::cpu::decoder::CUTOFF)).sqrt() / r + 0.5).ceil();
    if 2.0 * reach + 1.0 < levels as f64 {
        let reach = reach as i32;
        (-reach..=reach).for_each(|away| add(best.clone() + f64::from(away)));
    } else {
        (0..levels).for_each(|away| add(high.clone() - away as f64));
    }
    let nll = sum.clone().log() - top + eps.powi_scalar(2) * 0.5;
    (nll.sum_dim(1).squeeze_dim(1), (d_sum / sum).sum_dim(1).squeeze_dim(1))
}

/// See [`crate::adamw_step`].
pub fn adamw_step(u: &crate::Update, p: Tensor<1>, s: crate::Moments, g: Tensor<1>) -> (Tensor<1>, crate::Moments) {
    debug_assert_eq!(p.dtype(), DType::F32);
    let g = g * u.grad_scale;
    let m = s.m * u.beta1 + g.clone() * (1.0 - u.beta1);
    let v = s.v * u.beta2 + g.clone() * g * (1.0 - u.beta2);
    let step = m.clone() * u.correction1 / ((v.clone() * u.correction2).sqrt() + u.eps);
    let p = p.clone() - (step + p * u.weight_decay) * u.lr;
    let ema = s.ema.clone() + (p.clone() - s.ema) * (1.0 - u.ema_decay);
    (p, crate::Moments { m, v, ema })
}

/// See [`crate::elementary`].
pub fn elementary<const D: usize>(x: Tensor<D>, f: Function) -> Tensor<D> {
    match f {
        Function::Exp => x.exp(),
        // tanh(x/2) (e^x + 1).
        Function::Expm1 => (x.clone() * 0.5).tanh() * (x.exp() + 1.0),
        Function::Sigmoid => activation::sigmoid(x),
        Function::LogSigmoid => activation::log_sigmoid(x),
        Function::Erf => x.erf(),
        Function::Sin => x.sin(),
        Function::Cos => x.cos(),
    }
}
