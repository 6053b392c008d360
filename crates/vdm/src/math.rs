//! Small pieces of arithmetic that several modules need: scalars in f64, and the usual shapes of tensors.

use burn::tensor::{Device, Tensor};

/// 1 / (1 + e^-x), in f64.
pub(crate) fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
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
    let x = x.reshape([batch, c * h * w]);
    (x.clone() * x).sum_dim(1).reshape([batch])
}

/// e^x - 1 without cancellation near 0: tanh(x/2) (e^x + 1).
pub(crate) fn expm1(x: Tensor<1>) -> Tensor<1> {
    (x.clone() * 0.5).tanh() * (x.exp() + 1.0)
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
