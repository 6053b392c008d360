//! The operators under autodiff: what each saves for its backward pass, and the gradients of its inputs.

use super::{ConvArgs, Fused, FusedBackward, FusedNorm, FusedNormBackward, NormArgs};
use crate::cpu::elementary::Function;
use burn::backend::{
    Autodiff,
    autodiff::{
        checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
        grads::Gradients,
        ops::{Backward, Ops, OpsKind},
    },
    tensor::FloatTensor,
};

/// Operators with gradients. Of each: its inputs and its other argument; what it saves; `forward`, the output and what is
/// saved; and `backward`, from which inputs want a gradient, from what was saved and from the gradient `dy` of the output: the
/// gradient of each input, in their order, or `None` where it is not wanted.
macro_rules! differentiable {
    ($B:ident, $C:ident: $Bound:ident; $(
        fn $name:ident($($x:ident),+ $(; $arg:ident: $ty:ty)?) as $Operator:ident saving $State:ty {
            forward: $forward:expr,
            backward: |$wanted:pat_param, $saved:pat_param, $dy:ident| $gradients:expr,
        }
    )*) => { $(
        fn $name($($x: FloatTensor<Self>),+ $(, $arg: $ty)?) -> FloatTensor<Self> {
            const INPUTS: usize = [$(stringify!($x)),+].len();
            #[derive(Debug)]
            struct $Operator;
            impl<$B: $Bound> Backward<$B, INPUTS> for $Operator {
                type State = $State;
                fn backward(self, ops: Ops<Self::State, INPUTS>, grads: &mut Gradients, _: &mut Checkpointer) {
                    let $dy = grads.consume::<$B>(&ops.node);
                    let ($wanted, $saved) = (ops.parents.each_ref().map(Option::is_some), ops.state);
                    for (input, gradient) in ops.parents.into_iter().zip($gradients) {
                        if let (Some(node), Some(gradient)) = (input, gradient) {
                            grads.register::<$B>(node.id, gradient);
                        }
                    }
                }
            }
            let nodes = [$($x.node()),+];
            let ($($x,)+) = ($($x.into_primitive(),)+);
            let prepared = $Operator.prepare::<$C>(nodes).compute_bound().stateful();
            let (output, saved) = $forward;
            match prepared {
                OpsKind::Tracked(prepared) => prepared.finish(saved, output),
                OpsKind::UnTracked(prepared) => prepared.finish(output),
            }
        }
    )* };
}

/// A training changes its weights at every step.
fn of_training(args: ConvArgs) -> ConvArgs {
    ConvArgs { again: false, ..args }
}

/// The gradients of the inputs of a convolution, of its weight and of its bias.
fn of_convolution<B: FusedBackward>(
    inputs: Vec<FloatTensor<B>>,
    [weight, bias]: [FloatTensor<B>; 2],
    stride: usize,
    dy: FloatTensor<B>,
    wanted: &[bool],
) -> Vec<Option<FloatTensor<B>>> {
    let n = inputs.len();
    let (dx, dw, db) = B::conv2d_backward(inputs, weight, bias, dy, stride, wanted[..n].contains(&true));
    let mut dx: Vec<_> = dx.into_iter().map(Some).collect();
    dx.resize_with(n, || None);
    dx.into_iter().chain([Some(dw), Some(db)]).collect()
}

impl<B: FusedBackward, C: CheckpointStrategy> Fused for Autodiff<B, C> {
    differentiable! { B, C: FusedBackward;
        fn fused_conv2d(x, weight, bias; args: ConvArgs) as Conv2d saving ([FloatTensor<B>; 3], usize) {
            forward: {
                let y = B::fused_conv2d(x.clone(), weight.clone(), bias.clone(), of_training(args));
                (y, ([x, weight, bias], args.stride))
            },
            backward: |wanted, ([x, weight, bias], stride), dy| {
                of_convolution::<B>(vec![x], [weight, bias], stride, dy, &wanted)
            },
        }

        fn fused_conv2d_add(x, weight, bias, to; args: ConvArgs) as Conv2dAdd saving [FloatTensor<B>; 3] {
            forward: {
                let y = B::fused_conv2d_add(x.clone(), weight.clone(), bias.clone(), to, of_training(args));
                (y, [x, weight, bias])
            },
            backward: |wanted, [x, weight, bias], dy| {
                of_convolution::<B>(vec![x], [weight, bias], 1, dy.clone(), &wanted).into_iter().chain([Some(dy)])
            },
        }

        fn fused_conv2d_beside(a, b, weight, bias; args: ConvArgs) as Conv2dBeside saving [FloatTensor<B>; 4] {
            forward: {
                let args = of_training(args);
                let y = B::fused_conv2d_beside(a.clone(), b.clone(), weight.clone(), bias.clone(), args);
                (y, [a, b, weight, bias])
            },
            backward: |wanted, [a, b, weight, bias], dy| {
                of_convolution::<B>(vec![a, b], [weight, bias], 1, dy, &wanted)
            },
        }

        fn fused_conv2d_beside_add(a, b, weight, bias, to; args: ConvArgs) as Conv2dBesideAdd saving [FloatTensor<B>; 4] {
            forward: {
                let args = of_training(args);
                let y = B::fused_conv2d_beside_add(a.clone(), b.clone(), weight.clone(), bias.clone(), to, args);
                (y, [a, b, weight, bias])
            },
            backward: |wanted, [a, b, weight, bias], dy| {
                of_convolution::<B>(vec![a, b], [weight, bias], 1, dy.clone(), &wanted).into_iter().chain([Some(dy)])
            },
        }

        fn fused_linear(x, weight, bias) as Linear saving [FloatTensor<B>; 3] {
            forward: (B::fused_linear(x.clone(), weight.clone(), bias.clone()), [x, weight, bias]),
            backward: |_, saved, dy| B::linear_backward(saved, dy).map(Some),
        }

        fn fused_attention(q, k, v; heads: usize) as Attention saving ([FloatTensor<B>; 3], usize) {
            forward: (B::fused_attention(q.clone(), k.clone(), v.clone(), heads), ([q, k, v], heads)),
            backward: |_, (saved, heads), dy| B::attention_backward(saved, heads, dy).map(Some),
        }

        fn fused_elementary(x; f: Function) as Elementary saving (FloatTensor<B>, Function) {
            forward: (B::fused_elementary(x.clone(), f), (x, f)),
            backward: |_, (x, f), dy| [Some(B::elementary_backward(x, f, dy))],
        }

        fn fused_double(x) as Double saving () {
            forward: (B::fused_double(x), ()),
            backward: |_, (), dy| [Some(B::double_backward(dy))],
        }

        fn fused_square_sums(x) as SquareSums saving FloatTensor<B> {
            forward: (B::fused_square_sums(x.clone()), x),
            backward: |_, x, dy| [Some(B::square_sums_backward(x, dy))],
        }
    }
}

impl<B: FusedNormBackward, C: CheckpointStrategy> FusedNorm for Autodiff<B, C> {
    differentiable! { B, C: FusedNormBackward;
        fn fused_group_norm(x, gamma, beta; args: NormArgs) as GroupNorm saving ([FloatTensor<B>; 4], NormArgs) {
            forward: {
                let of = std::slice::from_ref(&x);
                let (y, stats) = B::group_norm_with_stats(of, gamma.clone(), beta.clone(), None, args);
                (y, ([x, gamma, beta, stats], args))
            },
            backward: |_, ([x, gamma, beta, stats], args), dy| {
                let (dx, of_others) = B::group_norm_backward(vec![x], [gamma, beta, stats], false, args, dy);
                dx.into_iter().chain(of_others).map(Some)
            },
        }

        fn fused_group_norm_shifted(x, gamma, beta, shift; args: NormArgs) as GroupNormShifted
        saving ([FloatTensor<B>; 4], NormArgs) {
            forward: {
                let of = std::slice::from_ref(&x);
                let (y, stats) = B::group_norm_with_stats(of, gamma.clone(), beta.clone(), Some(shift), args);
                (y, ([x, gamma, beta, stats], args))
            },
            backward: |_, ([x, gamma, beta, stats], args), dy| {
                let (dx, of_others) = B::group_norm_backward(vec![x], [gamma, beta, stats], true, args, dy);
                dx.into_iter().chain(of_others).map(Some)
            },
        }

        fn fused_group_norm_beside(a, b, gamma, beta; args: NormArgs) as GroupNormBeside
        saving ([FloatTensor<B>; 5], NormArgs) {
            forward: {
                let of = [a.clone(), b.clone()];
                let (y, stats) = B::group_norm_with_stats(&of, gamma.clone(), beta.clone(), None, args);
                (y, ([a, b, gamma, beta, stats], args))
            },
            backward: |_, ([a, b, gamma, beta, stats], args), dy| {
                let (dx, of_others) = B::group_norm_backward(vec![a, b], [gamma, beta, stats], false, args, dy);
                dx.into_iter().chain(of_others).map(Some)
            },
        }
    }
}
