//! The operators as a Burn backend extension: how slices of [`crate::cpu`] become differentiable tensors.
//!
//! [`Fused`] is what Burn's dispatcher calls. Each operator has a forward pass on Flex and an `Autodiff` wrapper that
//! saves its inputs and registers the hand-written backward pass. Autodiff is first-order: no backward pass is
//! differentiable itself.

use crate::cpu::beside::{Beside, BesideMut};
use crate::cpu::elementary::Function;
use crate::cpu::{attention, conv, double, elementary, group_norm, linear, sums};
use crate::remembered::remembered;
use burn::backend::{
    Autodiff, Flex,
    autodiff::{
        checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
        grads::Gradients,
        ops::{Backward, Ops, OpsKind},
    },
    backend_extension,
    tensor::FloatTensor,
};
use burn::tensor::{Shape, TensorData};
use burn_flex::FlexTensor;
use std::sync::Arc;

/// Scalars of a group normalisation.
#[derive(Clone, Copy, Debug)]
pub struct NormArgs {
    /// Groups of channels.
    pub groups: usize,
    /// Added to the variance.
    pub eps: f32,
    /// Whether SiLU follows.
    pub silu: bool,
    /// Dropout probability, 0 for none.
    pub dropout: f32,
    /// Seed of the dropout mask.
    pub seed: u64,
}

/// How a convolution is done.
#[derive(Clone, Copy, Debug)]
pub struct ConvArgs {
    /// Pixels from one output to the next.
    pub stride: usize,
    /// Whether the weight will come again as it is: outside of training.
    pub again: bool,
}

/// Forward passes. Backends that are not listed panic when called: the crate's functions ask the device first.
#[backend_extension(Autodiff, Flex)]
pub trait Fused: burn::backend::Backend {
    /// See [`crate::conv2d`] and [`crate::conv2d_halving`].
    fn fused_conv2d(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        args: ConvArgs,
    ) -> FloatTensor<Self>;
    /// See [`crate::conv2d_add`].
    fn fused_conv2d_add(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        to: FloatTensor<Self>,
        args: ConvArgs,
    ) -> FloatTensor<Self>;
    /// See [`crate::conv2d_beside`].
    fn fused_conv2d_beside(
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        args: ConvArgs,
    ) -> FloatTensor<Self>;
    /// See [`crate::conv2d_beside`].
    fn fused_conv2d_beside_add(
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        to: FloatTensor<Self>,
        args: ConvArgs,
    ) -> FloatTensor<Self>;
    /// See [`crate::group_norm`].
    fn fused_group_norm(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        args: NormArgs,
    ) -> FloatTensor<Self>;
    /// See [`crate::group_norm_shifted`].
    fn fused_group_norm_shifted(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        shift: FloatTensor<Self>,
        args: NormArgs,
    ) -> FloatTensor<Self>;
    /// See [`crate::group_norm_beside`].
    fn fused_group_norm_beside(
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        args: NormArgs,
    ) -> FloatTensor<Self>;
    /// See [`crate::linear`].
    fn fused_linear(x: FloatTensor<Self>, weight: FloatTensor<Self>, bias: FloatTensor<Self>) -> FloatTensor<Self>;
    /// See [`crate::attention`].
    fn fused_attention(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        heads: usize,
    ) -> FloatTensor<Self>;
    /// See [`crate::elementary`].
    fn fused_elementary(x: FloatTensor<Self>, f: Function) -> FloatTensor<Self>;
    /// See [`crate::double`].
    fn fused_double(x: FloatTensor<Self>) -> FloatTensor<Self>;
    /// See [`crate::square_sums`].
    fn fused_square_sums(x: FloatTensor<Self>) -> FloatTensor<Self>;
}

/// Backward passes, and forward passes that keep what these need.
pub trait FusedBackward: Fused {
    /// Gradients for (each of x, or none if they are not wanted; weight; bias); x has one tensor or two, whose channels lie one
    /// after another.
    fn conv2d_backward(
        x: Vec<FloatTensor<Self>>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        dy: FloatTensor<Self>,
        stride: usize,
        want_dx: bool,
    ) -> (Vec<FloatTensor<Self>>, FloatTensor<Self>, FloatTensor<Self>);
    /// The output, and each group's mean and 1/std, of the channels of all of `x`, one after another.
    fn group_norm_with_stats(
        x: &[FloatTensor<Self>],
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        shift: Option<FloatTensor<Self>>,
        args: NormArgs,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);
    /// Gradients for each of `x`, for gamma and beta, and for the shift if it was `shifted`; `saved` is [gamma, beta, stats].
    fn group_norm_backward(
        x: Vec<FloatTensor<Self>>,
        saved: [FloatTensor<Self>; 3],
        shifted: bool,
        args: NormArgs,
        dy: FloatTensor<Self>,
    ) -> (Vec<FloatTensor<Self>>, Vec<FloatTensor<Self>>);
    /// Gradients for x, weight, bias; `saved` is these three.
    fn linear_backward(saved: [FloatTensor<Self>; 3], dy: FloatTensor<Self>) -> [FloatTensor<Self>; 3];
    /// Gradients for q, k, v; `saved` is these three.
    fn attention_backward(saved: [FloatTensor<Self>; 3], heads: usize, dy: FloatTensor<Self>)
    -> [FloatTensor<Self>; 3];
    /// The gradient for x.
    fn elementary_backward(x: FloatTensor<Self>, f: Function, dy: FloatTensor<Self>) -> FloatTensor<Self>;
    /// The gradient for x: the sum over each 2x2.
    fn double_backward(dy: FloatTensor<Self>) -> FloatTensor<Self>;
    /// The gradient for x.
    fn square_sums_backward(x: FloatTensor<Self>, dy: FloatTensor<Self>) -> FloatTensor<Self>;
}

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
    let add = to.is_some();
    // In place, where no other handle holds the memory.
    let mut y = match to {
        Some(to) => contiguous(to),
        None => unwritten(&[s.batch, s.co, h, w]),
    };
    conv::forward(&s, beside(x), &ready(&s, &weight, args.again), data(&bias), y.storage_mut(), add);
    y
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

    fn fused_group_norm(x: FlexTensor, gamma: FlexTensor, beta: FlexTensor, args: NormArgs) -> FlexTensor {
        Self::group_norm_with_stats(&[x], gamma, beta, None, args).0
    }

    fn fused_group_norm_shifted(
        x: FlexTensor,
        gamma: FlexTensor,
        beta: FlexTensor,
        shift: FlexTensor,
        args: NormArgs,
    ) -> FlexTensor {
        Self::group_norm_with_stats(&[x], gamma, beta, Some(shift), args).0
    }

    fn fused_group_norm_beside(
        a: FlexTensor,
        b: FlexTensor,
        gamma: FlexTensor,
        beta: FlexTensor,
        args: NormArgs,
    ) -> FlexTensor {
        Self::group_norm_with_stats(&[a, b], gamma, beta, None, args).0
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

/// Registers the gradients of an operator's inputs, where they are wanted.
macro_rules! register {
    ($grads:ident, $parents:expr, $values:expr) => {
        for (parent, value) in $parents.into_iter().zip($values) {
            if let Some(node) = parent {
                $grads.register::<B>(node.id, value);
            }
        }
    };
}

/// Registers the gradients of a convolution's inputs, where they are wanted, weight and bias.
macro_rules! register_conv2d {
    ($grads:ident, [$($px:expr),*; $pw:expr, $pb:expr], [$($x:expr),*; $weight:expr, $bias:expr], $dy:expr, $stride:expr) => {
        let parents = [$($px),*];
        let wanted = parents.iter().any(|parent| parent.is_some());
        let (dx, dw, db) = B::conv2d_backward(vec![$($x),*], $weight, $bias, $dy, $stride, wanted);
        register!($grads, parents, dx);
        register!($grads, [$pw, $pb], [dw, db]);
    };
}

impl<B: FusedBackward, C: CheckpointStrategy> Fused for Autodiff<B, C> {
    fn fused_conv2d(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        args: ConvArgs,
    ) -> FloatTensor<Self> {
        // A training changes its weights at every step.
        let args = ConvArgs { again: false, ..args };
        #[derive(Debug)]
        struct Conv2d;
        impl<B: FusedBackward> Backward<B, 3> for Conv2d {
            type State = ([FloatTensor<B>; 3], usize);
            fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, _: &mut Checkpointer) {
                let dy = grads.consume::<B>(&ops.node);
                let ([px, pw, pb], ([x, weight, bias], stride)) = (ops.parents, ops.state);
                register_conv2d!(grads, [px; pw, pb], [x; weight, bias], dy, stride);
            }
        }
        let nodes = [x.node(), weight.node(), bias.node()];
        let [x, weight, bias] = [x, weight, bias].map(|t| t.into_primitive());
        match Conv2d.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                let y = B::fused_conv2d(x.clone(), weight.clone(), bias.clone(), args);
                prep.finish(([x, weight, bias], args.stride), y)
            }
            OpsKind::UnTracked(prep) => prep.finish(B::fused_conv2d(x, weight, bias, args)),
        }
    }

    fn fused_conv2d_add(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        to: FloatTensor<Self>,
        args: ConvArgs,
    ) -> FloatTensor<Self> {
        let args = ConvArgs { again: false, ..args };
        #[derive(Debug)]
        struct Conv2dAdd;
        impl<B: FusedBackward> Backward<B, 4> for Conv2dAdd {
            type State = [FloatTensor<B>; 3];
            fn backward(self, ops: Ops<Self::State, 4>, grads: &mut Gradients, _: &mut Checkpointer) {
                let dy = grads.consume::<B>(&ops.node);
                let ([px, pw, pb, to], [x, weight, bias]) = (ops.parents, ops.state);
                register_conv2d!(grads, [px; pw, pb], [x; weight, bias], dy.clone(), 1);
                register!(grads, [to], [dy]);
            }
        }
        let nodes = [x.node(), weight.node(), bias.node(), to.node()];
        let [x, weight, bias, to] = [x, weight, bias, to].map(|t| t.into_primitive());
        match Conv2dAdd.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                let y = B::fused_conv2d_add(x.clone(), weight.clone(), bias.clone(), to, args);
                prep.finish([x, weight, bias], y)
            }
            OpsKind::UnTracked(prep) => prep.finish(B::fused_conv2d_add(x, weight, bias, to, args)),
        }
    }

    fn fused_conv2d_beside(
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        args: ConvArgs,
    ) -> FloatTensor<Self> {
        let args = ConvArgs { again: false, ..args };
        #[derive(Debug)]
        struct Conv2dBeside;
        impl<B: FusedBackward> Backward<B, 4> for Conv2dBeside {
            type State = [FloatTensor<B>; 4];
            fn backward(self, ops: Ops<Self::State, 4>, grads: &mut Gradients, _: &mut Checkpointer) {
                let dy = grads.consume::<B>(&ops.node);
                let ([pa, pb, pw, p_bias], [a, b, weight, bias]) = (ops.parents, ops.state);
                register_conv2d!(grads, [pa, pb; pw, p_bias], [a, b; weight, bias], dy, 1);
            }
        }
        let nodes = [a.node(), b.node(), weight.node(), bias.node()];
        let [a, b, weight, bias] = [a, b, weight, bias].map(|t| t.into_primitive());
        match Conv2dBeside.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                let y = B::fused_conv2d_beside(a.clone(), b.clone(), weight.clone(), bias.clone(), args);
                prep.finish([a, b, weight, bias], y)
            }
            OpsKind::UnTracked(prep) => prep.finish(B::fused_conv2d_beside(a, b, weight, bias, args)),
        }
    }

    fn fused_conv2d_beside_add(
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        to: FloatTensor<Self>,
        args: ConvArgs,
    ) -> FloatTensor<Self> {
        let args = ConvArgs { again: false, ..args };
        #[derive(Debug)]
        struct Conv2dBesideAdd;
        impl<B: FusedBackward> Backward<B, 5> for Conv2dBesideAdd {
            type State = [FloatTensor<B>; 4];
            fn backward(self, ops: Ops<Self::State, 5>, grads: &mut Gradients, _: &mut Checkpointer) {
                let dy = grads.consume::<B>(&ops.node);
                let ([pa, pb, pw, p_bias, to], [a, b, weight, bias]) = (ops.parents, ops.state);
                register_conv2d!(grads, [pa, pb; pw, p_bias], [a, b; weight, bias], dy.clone(), 1);
                register!(grads, [to], [dy]);
            }
        }
        let nodes = [a.node(), b.node(), weight.node(), bias.node(), to.node()];
        let [a, b, weight, bias, to] = [a, b, weight, bias, to].map(|t| t.into_primitive());
        match Conv2dBesideAdd.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                let y = B::fused_conv2d_beside_add(a.clone(), b.clone(), weight.clone(), bias.clone(), to, args);
                prep.finish([a, b, weight, bias], y)
            }
            OpsKind::UnTracked(prep) => prep.finish(B::fused_conv2d_beside_add(a, b, weight, bias, to, args)),
        }
    }

    fn fused_group_norm(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        args: NormArgs,
    ) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct GroupNorm;
        impl<B: FusedBackward> Backward<B, 3> for GroupNorm {
            type State = ([FloatTensor<B>; 4], NormArgs);
            fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, _: &mut Checkpointer) {
                let dy = grads.consume::<B>(&ops.node);
                let ([x, gamma, beta, stats], args) = ops.state;
                let (dx, of_parameters) = B::group_norm_backward(vec![x], [gamma, beta, stats], false, args, dy);
                register!(grads, ops.parents, dx.into_iter().chain(of_parameters));
            }
        }
        let nodes = [x.node(), gamma.node(), beta.node()];
        let [x, gamma, beta] = [x, gamma, beta].map(|t| t.into_primitive());
        match GroupNorm.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                let (y, stats) =
                    B::group_norm_with_stats(std::slice::from_ref(&x), gamma.clone(), beta.clone(), None, args);
                prep.finish(([x, gamma, beta, stats], args), y)
            }
            OpsKind::UnTracked(prep) => prep.finish(B::fused_group_norm(x, gamma, beta, args)),
        }
    }

    fn fused_group_norm_shifted(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        shift: FloatTensor<Self>,
        args: NormArgs,
    ) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct GroupNormShifted;
        impl<B: FusedBackward> Backward<B, 4> for GroupNormShifted {
            type State = ([FloatTensor<B>; 4], NormArgs);
            fn backward(self, ops: Ops<Self::State, 4>, grads: &mut Gradients, _: &mut Checkpointer) {
                let dy = grads.consume::<B>(&ops.node);
                let ([x, gamma, beta, stats], args) = ops.state;
                let (dx, of_others) = B::group_norm_backward(vec![x], [gamma, beta, stats], true, args, dy);
                register!(grads, ops.parents, dx.into_iter().chain(of_others));
            }
        }
        let nodes = [x.node(), gamma.node(), beta.node(), shift.node()];
        let [x, gamma, beta, shift] = [x, gamma, beta, shift].map(|t| t.into_primitive());
        match GroupNormShifted.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                let one = std::slice::from_ref(&x);
                let (y, stats) = B::group_norm_with_stats(one, gamma.clone(), beta.clone(), Some(shift), args);
                prep.finish(([x, gamma, beta, stats], args), y)
            }
            OpsKind::UnTracked(prep) => prep.finish(B::fused_group_norm_shifted(x, gamma, beta, shift, args)),
        }
    }

    fn fused_group_norm_beside(
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        args: NormArgs,
    ) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct GroupNormBeside;
        impl<B: FusedBackward> Backward<B, 4> for GroupNormBeside {
            type State = ([FloatTensor<B>; 5], NormArgs);
            fn backward(self, ops: Ops<Self::State, 4>, grads: &mut Gradients, _: &mut Checkpointer) {
                let dy = grads.consume::<B>(&ops.node);
                let ([a, b, gamma, beta, stats], args) = ops.state;
                let (dx, of_parameters) = B::group_norm_backward(vec![a, b], [gamma, beta, stats], false, args, dy);
                register!(grads, ops.parents, dx.into_iter().chain(of_parameters));
            }
        }
        let nodes = [a.node(), b.node(), gamma.node(), beta.node()];
        let [a, b, gamma, beta] = [a, b, gamma, beta].map(|t| t.into_primitive());
        match GroupNormBeside.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                let (y, stats) =
                    B::group_norm_with_stats(&[a.clone(), b.clone()], gamma.clone(), beta.clone(), None, args);
                prep.finish(([a, b, gamma, beta, stats], args), y)
            }
            OpsKind::UnTracked(prep) => prep.finish(B::fused_group_norm_beside(a, b, gamma, beta, args)),
        }
    }

    fn fused_linear(x: FloatTensor<Self>, weight: FloatTensor<Self>, bias: FloatTensor<Self>) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct Linear;
        impl<B: FusedBackward> Backward<B, 3> for Linear {
            type State = [FloatTensor<B>; 3];
            fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, _: &mut Checkpointer) {
                let dy = grads.consume::<B>(&ops.node);
                register!(grads, ops.parents, B::linear_backward(ops.state, dy));
            }
        }
        let nodes = [x.node(), weight.node(), bias.node()];
        let saved @ [x, weight, bias] = &[x, weight, bias].map(|t| t.into_primitive());
        let y = B::fused_linear(x.clone(), weight.clone(), bias.clone());
        match Linear.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish(saved.clone(), y),
            OpsKind::UnTracked(prep) => prep.finish(y),
        }
    }

    fn fused_attention(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        heads: usize,
    ) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct Attention;
        impl<B: FusedBackward> Backward<B, 3> for Attention {
            type State = ([FloatTensor<B>; 3], usize);
            fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, _: &mut Checkpointer) {
                let dy = grads.consume::<B>(&ops.node);
                let (saved, heads) = ops.state;
                register!(grads, ops.parents, B::attention_backward(saved, heads, dy));
            }
        }
        let nodes = [q.node(), k.node(), v.node()];
        let saved @ [q, k, v] = &[q, k, v].map(|t| t.into_primitive());
        let y = B::fused_attention(q.clone(), k.clone(), v.clone(), heads);
        match Attention.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish((saved.clone(), heads), y),
            OpsKind::UnTracked(prep) => prep.finish(y),
        }
    }

    fn fused_elementary(x: FloatTensor<Self>, f: Function) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct Elementary;
        impl<B: FusedBackward> Backward<B, 1> for Elementary {
            type State = (FloatTensor<B>, Function);
            fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
                let dy = grads.consume::<B>(&ops.node);
                let (x, f) = ops.state;
                register!(grads, ops.parents, [B::elementary_backward(x, f, dy)]);
            }
        }
        let nodes = [x.node()];
        let x = x.into_primitive();
        match Elementary.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                let y = B::fused_elementary(x.clone(), f);
                prep.finish((x, f), y)
            }
            OpsKind::UnTracked(prep) => prep.finish(B::fused_elementary(x, f)),
        }
    }

    fn fused_double(x: FloatTensor<Self>) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct Double;
        impl<B: FusedBackward> Backward<B, 1> for Double {
            type State = ();
            fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
                let dy = grads.consume::<B>(&ops.node);
                register!(grads, ops.parents, [B::double_backward(dy)]);
            }
        }
        let nodes = [x.node()];
        let y = B::fused_double(x.into_primitive());
        match Double.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish((), y),
            OpsKind::UnTracked(prep) => prep.finish(y),
        }
    }

    fn fused_square_sums(x: FloatTensor<Self>) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct SquareSums;
        impl<B: FusedBackward> Backward<B, 1> for SquareSums {
            type State = FloatTensor<B>;
            fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
                let dy = grads.consume::<B>(&ops.node);
                register!(grads, ops.parents, [B::square_sums_backward(ops.state, dy)]);
            }
        }
        let nodes = [x.node()];
        let x = x.into_primitive();
        match SquareSums.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                let y = B::fused_square_sums(x.clone());
                prep.finish(x, y)
            }
            OpsKind::UnTracked(prep) => prep.finish(B::fused_square_sums(x)),
        }
    }
}
