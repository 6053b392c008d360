//! The state of the optimiser.

use burn::tensor::Tensor;

/// What AdamW and the moving average remember of one parameter, flattened: `[n]` each, without autodiff.
#[derive(Clone, Debug)]
pub struct Moments {
    /// First moment of the gradient.
    pub m: Tensor<1>,
    /// Second moment of the gradient.
    pub v: Tensor<1>,
    /// Exponential moving average of the parameter.
    pub ema: Tensor<1>,
}
