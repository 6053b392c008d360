//! The operators on Flex: tensors become slices of contiguous numbers, and an output is a new tensor.

use super::{ConvArgs, Fused, FusedBackward, FusedNormBackward, NormArgs, norms_without_stats};
use crate::cpu::beside::{Beside, BesideMut};
use crate::cpu::elementary::Function;
use crate::cpu::lanes::Base;
use crate::cpu::{attention, conv, double, elementary, group_norm, linear, sums};
use crate::remembered::remembered;
use burn::backend::{Flex, tensor::FloatTensor};
use burn::tensor::{Shape, TensorData};
use burn_flex::FlexTensor;
use std::sync::Arc;

/// A tensor for the output of an operator that writes every number of it and reads none before: writing zeros first was a
/// twentieth of a step.
fn unwritten(shape: &[usize]) -> FlexTensor {
    let n = shape.iter().product();
    let mut numbers: Vec<f32> = Vec::with_capacity(n);
    // SAFETY: the memory is there. Until the operator has written them the numbers are whatever the memory holds; no one
    // reads them before, since this function is private and each of its callers hands the tensor to the one function of
    // `cpu` that overwrites it, as that function's description says and its tests show.
    #[allow(clippy::uninit_vec)]
    unsafe {
        numbers.set_len(n);
    }
    FlexTensor::from_data(TensorData::new(numbers, Shape::from(shape.to_vec())))
}

fn like(t: &FlexTensor) -> FlexTensor {
    unwritten(t.layout().shape())
}

fn data(t: &FlexTensor) -> &[f32] {
    t.storage::<f32>()
}

/// The numbers of a contiguous tensor, which may be the first of a longer buffer.
fn of(t: &FlexTensor) -> &[f32] {
    &data(t)[..t.layout().num_elements()]
}

fn conv_spec(x: &FlexTensor, weight: &FlexTensor, stride: usize) -> conv::Spec {
    let (x, w) = (x.layout().shape(), weight.layout().shape());
    conv::Spec { batch: x[0], ci: w[1], co: w[0], h: x[2], w: x[3], k: w[2], stride }
}

/// The weight of a convolution, made ready now or remembered.
fn ready(s: &conv::Spec, weight: &FlexTensor, again: bool) -> Arc<conv::Ready> {
    let make = || conv::Ready::new(s, data(&weight.to_contiguous()));
    if conv::Ready::worth_remembering(s, again) { remembered(weight, false, make) } else { Arc::new(make()) }
}

/// The same for its gradient.
fn flipped(s: &conv::Spec, weight: &FlexTensor) -> Arc<conv::Ready> {
    let make = || conv::Ready::flipped(s, data(&weight.to_contiguous()));
    if conv::Ready::worth_remembering(s, false) { remembered(weight, true, make) } else { Arc::new(make()) }
}

fn channels(x: &FlexTensor) -> usize {
    x.layout().shape()[1]
}

/// One contiguous tensor, or two, as images.
fn beside(x: &[FlexTensor]) -> Beside<'_> {
    match x {
        [first, second] => {
            Beside { first: data(first), second: data(second), channels: [channels(first), channels(second)] }
        }
        one => Beside::one(data(&one[0]), channels(&one[0])),
    }
}

/// A convolution of contiguous tensors whose channels lie one after another, to `to` if there is one.
fn convolve(
    x: &[FlexTensor],
    weight: FlexTensor,
    bias: FlexTensor,
    to: Option<FlexTensor>,
    args: ConvArgs,
) -> FlexTensor {
    let (s, bias) = (conv_spec(&x[0], &weight, args.stride), bias.to_contiguous());
    let [h, w] = s.output();
    let (x, weight, new) = (beside(x), ready(&s, &weight, args.again), || unwritten(&[s.batch, s.co, h, w]));
    let run = |mut y: FlexTensor, base: Base| {
        conv::forward(&s, x, &weight, data(&bias), base, y.storage_mut());
        y
    };
    match to.map(contiguous) {
        None => run(new(), Base::Nothing),
        // In place, since no other handle holds the memory.
        Some(to) if to.is_unique() => run(to, Base::There),
        Some(to) => run(new(), Base::Of(of(&to))),
    }
}

/// The tensor itself where it is contiguous: no other handle stays.
fn contiguous(t: FlexTensor) -> FlexTensor {
    t.to_contiguous()
}

fn norm_spec(x: &[FlexTensor], a: NormArgs) -> group_norm::Spec {
    let shape = x[0].layout().shape();
    group_norm::Spec {
        batch: shape[0],
        channels: x.iter().map(|x| x.layout().shape()[1]).sum(),
        pixels: shape[2..].iter().product(),
        groups: a.groups,
        eps: a.eps,
        silu: a.silu,
        dropout: a.dropout,
        seed: a.seed,
    }
}

fn attention_spec(q: &FlexTensor, k: &FlexTensor, heads: usize) -> attention::Spec {
    let (q, k) = (q.layout().shape(), k.layout().shape());
    attention::Spec { batch: q[0] * heads, dim: q[1] / heads, queries: q[2], keys: k[2] }
}

impl Fused for Flex {
    fn fused_conv2d(x: FlexTensor, weight: FlexTensor, bias: FlexTensor, args: ConvArgs) -> FlexTensor {
        convolve(&[contiguous(x)], weight, bias, None, args)
    }

    fn fused_conv2d_add(
        x: FlexTensor,
        weight: FlexTensor,
        bias: FlexTensor,
        to: FlexTensor,
        args: ConvArgs,
    ) -> FlexTensor {
        convolve(&[contiguous(x)], weight, bias, Some(to), args)
    }

    fn fused_conv2d_beside(
        a: FlexTensor,
        b: FlexTensor,
        weight: FlexTensor,
        bias: FlexTensor,
        args: ConvArgs,
    ) -> FlexTensor {
        convolve(&[a, b].map(contiguous), weight, bias, None, args)
    }

    fn fused_conv2d_beside_add(
        a: FlexTensor,
        b: FlexTensor,
        weight: FlexTensor,
        bias: FlexTensor,
        to: FlexTensor,
        args: ConvArgs,
    ) -> FlexTensor {
        convolve(&[a, b].map(contiguous), weight, bias, Some(to), args)
    }

    fn fused_linear(x: FlexTensor, weight: FlexTensor, bias: FlexTensor) -> FlexTensor {
        let [x, weight, bias] = [x, weight, bias].map(|t| t.to_contiguous());
        let (n, i, o) = (x.layout().shape()[0], weight.layout().shape()[0], weight.layout().shape()[1]);
        let mut y = unwritten(&[n, o]);
        linear::forward(data(&x), data(&weight), data(&bias), i, o, y.storage_mut());
        y
    }

    fn fused_attention(q: FlexTensor, k: FlexTensor, v: FlexTensor, heads: usize) -> FlexTensor {
        let [q, k, v] = [q, k, v].map(|t| t.to_contiguous());
        let mut y = like(&q);
        attention::forward(&attention_spec(&q, &k, heads), data(&q), data(&k), data(&v), y.storage_mut());
        y
    }

    fn fused_elementary(x: FlexTensor, f: Function) -> FlexTensor {
        let x = x.to_contiguous();
        let mut y = like(&x);
        elementary::forward(f, of(&x), y.storage_mut());
        y
    }

    fn fused_double(x: FlexTensor) -> FlexTensor {
        let x = x.to_contiguous();
        let shape = x.layout().shape();
        let mut y = unwritten(&[shape[0], shape[1], 2 * shape[2], 2 * shape[3]]);
        double::forward(of(&x), shape[3], y.storage_mut());
        y
    }

    fn fused_square_sums(x: FlexTensor) -> FlexTensor {
        let x = x.to_contiguous();
        let mut y = unwritten(&[x.layout().shape()[0]]);
        sums::forward(of(&x), y.storage_mut());
        y
    }
}

norms_without_stats!(Flex);

impl FusedNormBackward for Flex {
    fn group_norm_with_stats(
        x: &[FlexTensor],
        gamma: FlexTensor,
        beta: FlexTensor,
        shift: Option<FlexTensor>,
        args: NormArgs,
    ) -> (FlexTensor, FlexTensor) {
        let x: Vec<FlexTensor> = x.iter().map(FlexTensor::to_contiguous).collect();
        let [gamma, beta] = [gamma, beta].map(contiguous);
        let shift = shift.map(contiguous);
        let s = norm_spec(&x, args);
        let mut shape = x[0].layout().shape().to_vec();
        shape[1] = s.channels;
        let (mut y, mut stats) = (unwritten(&shape), unwritten(&[s.batch, s.groups, 2]));
        let x: Vec<&[f32]> = x.iter().map(data).collect();
        let shift = shift.as_ref().map_or(&[][..], of);
        group_norm::forward(&s, &x, data(&gamma), data(&beta), shift, y.storage_mut(), stats.storage_mut());
        (y, stats)
    }

    fn group_norm_backward(
        x: Vec<FlexTensor>,
        saved: [FlexTensor; 3],
        shifted: bool,
        args: NormArgs,
        dy: FlexTensor,
    ) -> (Vec<FlexTensor>, Vec<FlexTensor>) {
        let x: Vec<FlexTensor> = x.iter().map(FlexTensor::to_contiguous).collect();
        let [gamma, beta, stats] = saved.map(contiguous);
        let dy = dy.to_contiguous();
        let s = norm_spec(&x, args);
        let mut dx: Vec<FlexTensor> = x.iter().map(like).collect();
        let (mut dgamma, mut dbeta) = (like(&gamma), like(&beta));
        let mut dshift = shifted.then(|| unwritten(&[s.batch, s.channels]));
        group_norm::backward(
            &s,
            &x.iter().map(data).collect::<Vec<_>>(),
            data(&gamma),
            data(&beta),
            data(&stats),
            data(&dy),
            &mut dx.iter_mut().map(FlexTensor::storage_mut).collect::<Vec<_>>(),
            dgamma.storage_mut(),
            dbeta.storage_mut(),
            dshift.as_mut().map_or(&mut [][..], |dshift| dshift.storage_mut()),
        );
        (dx, [dgamma, dbeta].into_iter().chain(dshift).collect())
    }
}

impl FusedBackward for Flex {
    fn conv2d_backward(
        x: Vec<FlexTensor>,
        weight: FlexTensor,
        bias: FlexTensor,
        dy: FlexTensor,
        stride: usize,
        want_dx: bool,
    ) -> (Vec<FlexTensor>, FlexTensor, FlexTensor) {
        let x: Vec<FlexTensor> = x.into_iter().map(contiguous).collect();
        let dy = dy.to_contiguous();
        let s = conv_spec(&x[0], &weight, stride);
        let mut dx: Vec<FlexTensor> = if want_dx { x.iter().map(like).collect() } else { Vec::new() };
        let (mut dw, mut db) = (like(&weight), like(&bias));
        let into = match &mut dx[..] {
            [first, second] => {
                let channels = [channels(first), channels(second)];
                BesideMut { first: first.storage_mut(), second: second.storage_mut(), channels }
            }
            [one] => {
                let channels = channels(one);
                BesideMut::one(one.storage_mut(), channels)
            }
            _ => BesideMut::one(&mut [], s.ci),
        };
        conv::backward(&s, beside(&x), &flipped(&s, &weight), data(&dy), into, dw.storage_mut(), db.storage_mut());
        (dx, dw, db)
    }

    fn linear_backward(saved: [FlexTensor; 3], dy: FlexTensor) -> [FlexTensor; 3] {
        let [x, weight, bias] = saved.map(|t| t.to_contiguous());
        let dy = dy.to_contiguous();
        let (i, o) = (weight.layout().shape()[0], weight.layout().shape()[1]);
        let (mut dx, mut dw, mut db) = (like(&x), like(&weight), like(&bias));
        linear::backward(
            data(&x),
            data(&weight),
            data(&dy),
            i,
            o,
            dx.storage_mut(),
            dw.storage_mut(),
            db.storage_mut(),
        );
        [dx, dw, db]
    }

    fn attention_backward(saved: [FlexTensor; 3], heads: usize, dy: FlexTensor) -> [FlexTensor; 3] {
        let [q, k, v] = saved.map(|t| t.to_contiguous());
        let dy = dy.to_contiguous();
        let (mut dq, mut dk, mut dv) = (like(&q), like(&k), like(&v));
        attention::backward(
            &attention_spec(&q, &k, heads),
            data(&q),
            data(&k),
            data(&v),
            data(&dy),
            dq.storage_mut(),
            dk.storage_mut(),
            dv.storage_mut(),
        );
        [dq, dk, dv]
    }

    fn elementary_backward(x: FlexTensor, f: Function, dy: FlexTensor) -> FlexTensor {
        let [x, dy] = [x, dy].map(|t| t.to_contiguous());
        let mut dx = like(&x);
        elementary::backward(f, of(&x), of(&dy), dx.storage_mut());
        dx
    }

    fn double_backward(dy: FlexTensor) -> FlexTensor {
        let dy = dy.to_contiguous();
        let shape = dy.layout().shape();
        let mut dx = unwritten(&[shape[0], shape[1], shape[2] / 2, shape[3] / 2]);
        double::backward(of(&dy), shape[3] / 2, dx.storage_mut());
        dx
    }

    fn square_sums_backward(x: FlexTensor, dy: FlexTensor) -> FlexTensor {
        let [x, dy] = [x, dy].map(|t| t.to_contiguous());
        let mut dx = like(&x);
        sums::backward(of(&x), of(&dy), dx.storage_mut());
        dx
    }
}
