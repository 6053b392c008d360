//! The operators as a Burn backend extension: how slices of [`crate::cpu`] become differentiable tensors.
//!
//! [`Fused`] is what Burn's dispatcher calls. [`flex`] has the operators on Flex, [`autodiff`] what each of them saves and how
//! its gradients are found. Autodiff is first-order: no backward pass is differentiable itself.

mod autodiff;
mod flex;

use crate::cpu::elementary::Function;
use burn::backend::{backend_extension, tensor::FloatTensor};

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

/// Normalisations, which accelerators have, too.
#[backend_extension(Autodiff, Flex, Cube: cfg(feature = "accelerator"))]
pub trait FusedNorm: burn::backend::Backend {
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
}

/// Backward passes of normalisations, and forward passes that keep what these need.
pub trait FusedNormBackward: FusedNorm {
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
}

/// The forward passes of normalisations on a backend: those that keep the statistics for the gradient, without them.
macro_rules! norms_without_stats {
    ($B:ty) => {
        impl $crate::extension::FusedNorm for $B {
            fn fused_group_norm(
                x: FloatTensor<Self>,
                gamma: FloatTensor<Self>,
                beta: FloatTensor<Self>,
                args: NormArgs,
            ) -> FloatTensor<Self> {
                Self::group_norm_with_stats(&[x], gamma, beta, None, args).0
            }

            fn fused_group_norm_shifted(
                x: FloatTensor<Self>,
                gamma: FloatTensor<Self>,
                beta: FloatTensor<Self>,
                shift: FloatTensor<Self>,
                args: NormArgs,
            ) -> FloatTensor<Self> {
                Self::group_norm_with_stats(&[x], gamma, beta, Some(shift), args).0
            }

            fn fused_group_norm_beside(
                a: FloatTensor<Self>,
                b: FloatTensor<Self>,
                gamma: FloatTensor<Self>,
                beta: FloatTensor<Self>,
                args: NormArgs,
            ) -> FloatTensor<Self> {
                Self::group_norm_with_stats(&[a, b], gamma, beta, None, args).0
            }
        }
    };
}
pub(crate) use norms_without_stats;

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
