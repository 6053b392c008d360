//! Classifier-free guidance (Ho and Salimans 2022, arXiv 2207.12598).

use crate::VariationalDiffusion;
use crate::nn::{Conditioning, Mode, ScoreNetwork};
use burn::tensor::Tensor;

/// eps_hat with guidance: that without class and control, plus `weight` times what they change.
///
/// # Shapes
/// - `z`: `[batch, channels, height, width]`; `gamma`: `[batch]`
pub(super) fn guided<N: ScoreNetwork>(
    model: &VariationalDiffusion<N>,
    z: Tensor<4>,
    gamma: Tensor<1>,
    given: &Conditioning,
    weight: f64,
) -> Tensor<4> {
    if weight == 1.0 || !given.has_class_or_control() {
        return model.predict_noise(z, gamma, given, Mode::Eval);
    }
    let without = given.without_class_and_control();
    let without = model.predict_noise(z.clone(), gamma.clone(), &without, Mode::Eval);
    if weight == 0.0 {
        return without;
    }
    let with = model.predict_noise(z, gamma, given, Mode::Eval);
    without.clone() + (with - without) * weight
}
