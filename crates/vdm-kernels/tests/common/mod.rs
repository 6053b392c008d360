//! What the test files share: every differentiable operator as a function of three flat inputs, so that a property is
//! written once for all of them.
#![allow(dead_code, unused_macros)] // Each test file uses a part.

use burn::tensor::{Device, Tensor};
use std::fmt::Debug;
use vdm_kernels::{NormArgs, reference, rng::Philox};

/// Largest relative error of values: `f32` sums of up to some 10^4 terms in another order differ by about 10^-6.
pub const VALUES: f64 = 2e-5;
/// The same for gradients, which chain two such sums and subtract means.
pub const GRADIENTS: f64 = 5e-5;
/// Step of the central differences in `f64`: they are wrong by about its square.
pub const STEP: f64 = 1e-5;

/// Stream of the fixed cotangent; the inputs take the streams 0, 1 and 2.
const COTANGENT: u64 = 3;

/// Which implementation runs.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    Fused,
    Reference,
}

/// How the tensors that an operator gets (its inputs and its output's gradient) lie in memory.
#[derive(Clone, Copy, Debug)]
pub enum View {
    /// Contiguous, from the buffer's beginning.
    Plain,
    /// Contiguous, from the middle of a longer buffer.
    Offset,
    /// Rows are parts of longer rows.
    Sliced,
    /// The dimensions are stored in reverse order.
    Permuted,
}

/// Three inputs, flattened.
pub type Inputs = [Vec<f32>; 3];

/// An operator's output, flattened, and the scalar Σ output * (fixed random cotangent).
pub struct Output {
    pub y: Tensor<1>,
    pub loss: Tensor<1>,
}

/// An operator with its sizes.
pub trait Operator: Copy + Debug + Sync {
    fn images(&self) -> usize;
    fn one_image(self) -> Self;
    /// Of each input: its number of elements, and whether every image has its own part.
    fn inputs(&self) -> [(usize, bool); 3];
    fn apply(&self, kind: Kind, view: View, inputs: [Tensor<1>; 3]) -> Output;
}

/// A convolution; its bias is `[b, co]` if `own_bias`, else `[1, co]`.
#[derive(Clone, Copy, Debug)]
pub struct Conv {
    pub b: usize,
    pub ci: usize,
    pub co: usize,
    pub h: usize,
    pub w: usize,
    pub k: usize,
    pub own_bias: bool,
    /// Channels of the first of two inputs; 0 for one input.
    pub first: usize,
}

impl Operator for Conv {
    fn images(&self) -> usize {
        self.b
    }

    fn one_image(self) -> Self {
        Self { b: 1, ..self }
    }

    fn inputs(&self) -> [(usize, bool); 3] {
        let biases = if self.own_bias { self.b } else { 1 };
        [
            (self.b * self.ci * self.h * self.w, true),
            (self.co * self.ci * self.k * self.k, false),
            (biases * self.co, self.own_bias),
        ]
    }

    fn apply(&self, kind: Kind, view: View, [x, weight, bias]: [Tensor<1>; 3]) -> Output {
        let x = shaped(x, [self.b, self.ci, self.h, self.w], view);
        let weight = shaped(weight, [self.co, self.ci, self.k, self.k], view);
        let bias = shaped(bias, [if self.own_bias { self.b } else { 1 }, self.co], view);
        let y = match kind {
            // An even side halves the image.
            Kind::Fused if self.k.is_multiple_of(2) => vdm_kernels::conv2d_halving(x, weight, bias),
            Kind::Reference if self.k.is_multiple_of(2) => reference::conv2d_halving(x, weight, bias),
            Kind::Fused if self.first > 0 => {
                let part = |channels| x.clone().slice([0..self.b, channels, 0..self.h, 0..self.w]);
                let (a, b) = (part(0..self.first), part(self.first..self.ci));
                vdm_kernels::conv2d_beside(a, b, weight, bias, None)
            }
            Kind::Fused => vdm_kernels::conv2d(x, weight, bias),
            Kind::Reference => reference::conv2d(x, weight, bias),
        };
        output(y, view)
    }
}

/// A group normalisation.
#[derive(Clone, Copy, Debug)]
pub struct Norm {
    pub b: usize,
    pub c: usize,
    pub h: usize,
    pub w: usize,
    pub args: NormArgs,
    /// Channels of the first of two inputs; 0 for one input.
    pub first: usize,
    /// Whether the third input is a shift of each image and channel, and beta 0.5.
    pub shifted: bool,
}

impl Norm {
    pub const fn new([b, c, h, w]: [usize; 4], groups: usize, silu: bool, dropout: f32) -> Self {
        Self { b, c, h, w, args: NormArgs { groups, eps: 1e-5, silu, dropout, seed: 11 }, first: 0, shifted: false }
    }

    /// The same channels as two inputs, the first of `first` channels.
    pub const fn beside(self, first: usize) -> Self {
        Self { first, ..self }
    }

    pub const fn shifted(self) -> Self {
        Self { shifted: true, ..self }
    }
}

impl Operator for Norm {
    fn images(&self) -> usize {
        self.b
    }

    fn one_image(self) -> Self {
        Self { b: 1, ..self }
    }

    fn inputs(&self) -> [(usize, bool); 3] {
        let of_third = if self.shifted { self.b * self.c } else { self.c };
        [(self.b * self.c * self.h * self.w, true), (self.c, false), (of_third, self.shifted)]
    }

    fn apply(&self, kind: Kind, view: View, [x, gamma, third]: [Tensor<1>; 3]) -> Output {
        let x = shaped(x, [self.b, self.c, self.h, self.w], view);
        let gamma = shaped(gamma, [self.c], view);
        if self.shifted {
            let beta = gamma.zeros_like() + 0.5;
            let shift = shaped(third, [self.b, self.c], view);
            let y = match kind {
                Kind::Fused => vdm_kernels::group_norm_shifted(x, gamma, beta, shift, self.args),
                Kind::Reference => reference::group_norm_shifted(x, gamma, beta, shift, self.args),
            };
            return output(y, view);
        }
        let beta = shaped(third, [self.c], view);
        let y = match kind {
            Kind::Fused if self.first > 0 => {
                let part = |channels| x.clone().slice([0..self.b, channels, 0..self.h, 0..self.w]);
                let (a, b) = (part(0..self.first), part(self.first..self.c));
                vdm_kernels::group_norm_beside(a, b, gamma, beta, self.args)
            }
            Kind::Fused => vdm_kernels::group_norm(x, gamma, beta, self.args),
            Kind::Reference => reference::group_norm(x, gamma, beta, self.args),
        };
        output(y, view)
    }
}

/// A dense layer from `i` to `o` numbers; without `bias` the third input is not used.
#[derive(Clone, Copy, Debug)]
pub struct Linear {
    pub b: usize,
    pub i: usize,
    pub o: usize,
    pub bias: bool,
}

impl Operator for Linear {
    fn images(&self) -> usize {
        self.b
    }

    fn one_image(self) -> Self {
        Self { b: 1, ..self }
    }

    fn inputs(&self) -> [(usize, bool); 3] {
        [(self.b * self.i, true), (self.i * self.o, false), (self.o, false)]
    }

    fn apply(&self, kind: Kind, view: View, [x, weight, bias]: [Tensor<1>; 3]) -> Output {
        let x = shaped(x, [self.b, self.i], view);
        let weight = shaped(weight, [self.i, self.o], view);
        let bias = self.bias.then(|| shaped(bias, [self.o], view));
        let y = match kind {
            Kind::Fused => vdm_kernels::linear(x, weight, bias),
            Kind::Reference => reference::linear(x, weight, bias),
        };
        output(y, view)
    }
}

/// An attention of `n` queries to `m` keys.
#[derive(Clone, Copy, Debug)]
pub struct Attention {
    pub b: usize,
    pub c: usize,
    pub heads: usize,
    pub n: usize,
    pub m: usize,
}

impl Operator for Attention {
    fn images(&self) -> usize {
        self.b
    }

    fn one_image(self) -> Self {
        Self { b: 1, ..self }
    }

    fn inputs(&self) -> [(usize, bool); 3] {
        [(self.b * self.c * self.n, true), (self.b * self.c * self.m, true), (self.b * self.c * self.m, true)]
    }

    fn apply(&self, kind: Kind, view: View, [q, k, v]: [Tensor<1>; 3]) -> Output {
        let q = shaped(q, [self.b, self.c, self.n], view);
        let k = shaped(k, [self.b, self.c, self.m], view);
        let v = shaped(v, [self.b, self.c, self.m], view);
        let y = match kind {
            Kind::Fused => vdm_kernels::attention(q, k, v, self.heads),
            Kind::Reference => reference::attention(q, k, v, self.heads),
        };
        output(y, view)
    }
}

// One case of each operator, for properties that hold for all: 9 and 17 images are more than the groups of a
// convolution's backward pass, 28 rows of 11 and 70 queries are more than a tile.
pub const CONV3: Conv = Conv { b: 9, ci: 5, co: 7, h: 28, w: 11, k: 3, own_bias: true, first: 0 };
pub const CONV1: Conv = Conv { b: 17, ci: 33, co: 5, h: 7, w: 9, k: 1, own_bias: false, first: 0 };
pub const CONV7: Conv = Conv { b: 9, ci: 2, co: 7, h: 8, w: 5, k: 7, own_bias: true, first: 0 };
pub const CONV3_BESIDE: Conv = Conv { b: 9, ci: 13, co: 7, h: 14, w: 11, k: 3, own_bias: true, first: 8 };
pub const CONV1_BESIDE: Conv = Conv { first: 5, ..CONV1 };
pub const HALVING: Conv = Conv { b: 9, ci: 5, co: 7, h: 8, w: 6, k: 4, own_bias: false, first: 0 };
pub const NORM: Norm = Norm::new([5, 33, 6, 7], 11, true, 0.25);
pub const NORM_BESIDE: Norm = NORM.beside(12);
pub const NORM_SHIFTED: Norm = NORM.shifted();
pub const LINEAR: Linear = Linear { b: 17, i: 33, o: 5, bias: true };
pub const ATTENTION: Attention = Attention { b: 3, c: 10, heads: 2, n: 70, m: 13 };

/// For each function `property(&impl Operator)`, a module of that name with a test of every operator.
macro_rules! every_operator {
    ($($property:ident),+ $(,)?) => {$(
        mod $property {
            use crate::common::{
                ATTENTION, CONV1, CONV1_BESIDE, CONV3, CONV3_BESIDE, CONV7, HALVING, LINEAR, NORM, NORM_BESIDE, NORM_SHIFTED,
            };

            #[test]
            fn conv2d_3x3() {
                super::$property(&CONV3);
            }

            #[test]
            fn conv2d_1x1() {
                super::$property(&CONV1);
            }

            #[test]
            fn conv2d_3x3_beside() {
                super::$property(&CONV3_BESIDE);
            }

            #[test]
            fn conv2d_1x1_beside() {
                super::$property(&CONV1_BESIDE);
            }

            #[test]
            fn conv2d_7x7() {
                super::$property(&CONV7);
            }

            #[test]
            fn conv2d_halving() {
                super::$property(&HALVING);
            }

            #[test]
            fn group_norm() {
                super::$property(&NORM);
            }

            #[test]
            fn group_norm_beside() {
                super::$property(&NORM_BESIDE);
            }

            #[test]
            fn group_norm_shifted() {
                super::$property(&NORM_SHIFTED);
            }

            #[test]
            fn linear() {
                super::$property(&LINEAR);
            }

            #[test]
            fn attention() {
                super::$property(&ATTENTION);
            }
        }
    )+};
}

/// `n` standard normal numbers.
pub fn normals(stream: u64, n: usize) -> Vec<f32> {
    let mut out = vec![0f32; n];
    Philox::new(2026, stream).normal(0, &mut out);
    out
}

/// The cotangent of an output of `n` elements.
pub fn cotangent(n: usize) -> Vec<f32> {
    normals(COTANGENT, n)
}

/// Random inputs of `op`.
pub fn inputs(op: &impl Operator) -> Inputs {
    let sizes = op.inputs();
    std::array::from_fn(|i| normals(i as u64, sizes[i].0))
}

/// Noise and data for the decoder: `[b, dims]` each, flattened.
pub fn decoder_inputs(b: usize, dims: usize, levels: usize) -> [Vec<f32>; 2] {
    let mut k = vec![0f32; b * dims];
    Philox::new(2026, 4).uniform(0, &mut k);
    k.iter_mut().for_each(|k| *k = (*k * levels as f32).floor());
    [normals(0, b * dims), k]
}

/// A tensor of `values` that keeps its gradient if `tracked`.
pub fn leaf(values: &[f32], device: &Device, tracked: bool) -> Tensor<1> {
    let t: Tensor<1> = Tensor::from_data(values, device);
    if tracked { t.require_grad() } else { t }
}

/// The elements of `t`.
pub fn values<const D: usize>(t: Tensor<D>) -> Vec<f32> {
    t.into_data().try_into_vec().unwrap()
}

/// The output and the three gradients; the gradient of an input that is not tracked, or not used, is empty.
pub fn run(op: &impl Operator, kind: Kind, view: View, tracked: [bool; 3], inputs: &Inputs) -> [Vec<f32>; 4] {
    let device = Device::flex().autodiff();
    let leaves: [Tensor<1>; 3] = std::array::from_fn(|i| leaf(&inputs[i], &device, tracked[i]));
    let Output { y, loss } = op.apply(kind, view, leaves.clone());
    let grads = loss.backward();
    let [a, b, c] = leaves.map(|leaf| leaf.grad(&grads).map(values).unwrap_or_default());
    [values(y), a, b, c]
}

/// The fused operator's output and gradients.
pub fn run_fused(op: &impl Operator, inputs: &Inputs) -> [Vec<f32>; 4] {
    run(op, Kind::Fused, View::Plain, [true; 3], inputs)
}

/// The fused operator's output, on the device without autodiff.
pub fn forward(op: &impl Operator, inputs: &Inputs) -> Vec<f32> {
    let leaves: [Tensor<1>; 3] = std::array::from_fn(|i| leaf(&inputs[i], &Device::flex(), false));
    values(op.apply(Kind::Fused, View::Plain, leaves).y)
}

/// |got - want| <= tolerance |want|, in Euclidean norms; the bound is `tolerance` where `want` is 0.
pub fn assert_near(got: &[f32], want: &[f64], tolerance: f64, name: &str) {
    assert_eq!(got.len(), want.len(), "number of elements, {name}");
    let error = got.iter().zip(want).map(|(&a, b)| (f64::from(a) - b).powi(2)).sum::<f64>().sqrt();
    let norm = want.iter().map(|b| b * b).sum::<f64>().sqrt();
    let bound = if norm == 0.0 { tolerance } else { tolerance * norm };
    assert!(error <= bound, "{name}: error {error:e}, norm {norm:e}");
}

pub fn wide(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&x| f64::from(x)).collect()
}

/// `t`, lying in memory as `view` says.
pub fn laid_out<const D: usize>(t: Tensor<D>, view: View) -> Tensor<D> {
    let reversed: [usize; D] = std::array::from_fn(|i| D - 1 - i);
    match view {
        View::Plain => t,
        View::Offset => second_half(t, 0),
        View::Sliced => second_half(t, D - 1),
        View::Permuted => second_half(t.permute(reversed), 0).permute(reversed),
    }
}

/// `t` as a view of the second half of a tensor.
fn second_half<const D: usize>(t: Tensor<D>, dim: usize) -> Tensor<D> {
    let n = t.dims()[dim];
    Tensor::cat(vec![t.zeros_like(), t], dim).narrow(dim, n, n)
}

fn shaped<const D: usize>(flat: Tensor<1>, dims: [usize; D], view: View) -> Tensor<D> {
    laid_out(flat.reshape(dims), view)
}

fn output<const D: usize>(y: Tensor<D>, view: View) -> Output {
    let dims = y.dims();
    let n: usize = dims.iter().product();
    let cotangent: Tensor<D> = leaf(&cotangent(n), &y.device(), false).reshape(dims);
    let loss = (laid_out(y.clone(), view) * cotangent).sum();
    Output { y: y.reshape([n]), loss }
}
