//! Small pieces of arithmetic that several modules need: scalars in f64, functions of tensors, and their usual shapes.
//!
//! Results are to be the same bits on every machine. So no function of the system's mathematical library is called, which
//! differs from one version to the next: for scalars there is the `libm` crate, for tensors [`vdm_kernels::elementary`].
//! `clippy.toml` forbids the others.

use burn::tensor::{Device, Tensor};
use vdm_kernels::{Function, elementary};

/// 1 / (1 + e^-x), in f64.
pub(crate) fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + libm::exp(-x))
}

/// e^x.
pub(crate) fn exp_of<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    elementary(x, Function::Exp)
}

/// 1 / (1 + e^-x).
pub(crate) fn sigmoid_of<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    elementary(x, Function::Sigmoid)
}

/// The error function.
pub(crate) fn erf_of<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    elementary(x, Function::Erf)
}

/// x / (1 + e^-x).
pub(crate) fn silu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    x.clone() * sigmoid_of(x)
}

/// The sines and the cosines of x radians.
pub(crate) fn sines_and_cosines<const D: usize>(x: Tensor<D>) -> [Tensor<D>; 2] {
    [elementary(x.clone(), Function::Sin), elementary(x, Function::Cos)]
}

/// Bytes in hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The numbers of a tensor as f64, on the host.
pub(crate) fn host<const D: usize>(t: &Tensor<D>) -> Vec<f64> {
    t.to_data().iter::<f64>().collect()
}

/// One number per image, `[batch]`, shaped to multiply images.
pub(crate) fn column(t: Tensor<1>) -> Tensor<4> {
    let [batch] = t.dims();
    t.reshape([batch, 1, 1, 1])
}

/// The sum of squares of each image: `[batch, channels, height, width]` -> `[batch]`.
pub(crate) fn sum_of_squares(x: Tensor<4>) -> Tensor<1> {
    let [batch, c, h, w] = x.dims();
    vdm_kernels::square_sums(x.reshape([batch, c * h * w]))
}

/// e^x - 1 without cancellation near 0.
pub(crate) fn expm1(x: Tensor<1>) -> Tensor<1> {
    elementary(x, Function::Expm1)
}

/// Times as a tensor: `[batch]`.
pub(crate) fn time_tensor(times: &[f64], device: &Device) -> Tensor<1> {
    let times: Vec<f32> = times.iter().map(|&t| t as f32).collect();
    Tensor::from_data(times.as_slice(), device)
}

/// Brings a tensor without autodiff to `device`, which may have autodiff.
pub(crate) fn onto(t: Tensor<1>, device: &Device) -> Tensor<1> {
    if device.is_autodiff() { Tensor::from_inner(t) } else { t }
}
