//! Sums of squares of many tensors at once, for the norm of a gradient.

use crate::{cpu, flex, is_fused};
use burn::tensor::Tensor;

/// Σ x² of each of some tensors, summed in a fixed order; on an accelerator not read back until [`read`](Self::read).
#[derive(Clone, Debug)]
pub struct SquareSums(State);

// There is one for each step, so the variants' difference in size costs nothing.
#[allow(clippy::large_enum_variant)]
#[derive(Clone, Debug)]
enum State {
    Known(Vec<f64>),
    /// The sums of parts of the tensors, one after another, and how many parts each tensor has.
    OnDevice {
        sums: Tensor<1>,
        parts: Vec<usize>,
    },
}

impl SquareSums {
    /// The sums of tensors `[n]` of one device, without autodiff.
    pub fn of(tensors: &[&Tensor<1>]) -> Self {
        let Some(first) = tensors.first() else { return Self(State::Known(Vec::new())) };
        if is_fused(&first.device(), first.dtype()) {
            let sum = |&x: &&Tensor<1>| cpu::math::sum_of_squares(flex(x.clone()).to_contiguous().storage());
            return Self(State::Known(tensors.iter().map(sum).collect()));
        }
        #[cfg(feature = "accelerator")]
        if crate::accelerator::takes(&first.device(), first.dtype()) {
            let (sums, parts) = crate::accelerator::square_sums(tensors);
            return Self(State::OnDevice { sums, parts });
        }
        let sums = tensors.iter().map(|&x| x.clone().powi_scalar(2).sum()).collect();
        Self(State::OnDevice { sums: Tensor::cat(sums, 0), parts: vec![1; tensors.len()] })
    }

    /// The sum of each tensor: a device waits for it.
    pub fn read(self) -> Vec<f64> {
        match self.0 {
            State::Known(sums) => sums,
            State::OnDevice { sums, parts } => {
                let sums: Vec<f64> = sums.into_data().iter::<f64>().collect();
                let mut rest = sums.as_slice();
                let mut of_tensor = |parts: usize| -> f64 {
                    let (own, others) = rest.split_at(parts);
                    rest = others;
                    own.iter().sum()
                };
                parts.into_iter().map(&mut of_tensor).collect()
            }
        }
    }
}
