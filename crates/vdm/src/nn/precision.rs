//! The precision in which a network multiplies while it is trained.

use crate::weights::{NamedParameters, walk};
use burn::module::{Module, Param};
use burn::tensor::{DType, Device, Tensor};
use serde::{Deserialize, Serialize};
use std::fmt;

/// The precision of a network's products in training.
///
/// Use [`Bf16`](Self::Bf16) on a card with units for it; the CPU computes slower with it. Evaluation, samples and the codec always
/// compute in single precision.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// Single precision, 24 bits.
    #[default]
    F32,
    /// The factors and the results of convolutions and of attention's products are bfloat16: numbers of 16 bits, 8 of them
    /// significant. So are their gradients. The weights themselves, all other operators, the loss and the schedule stay in
    /// single precision.
    Bf16,
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
        })
    }
}

impl Precision {
    /// Whether a device computes in this precision.
    pub fn is_known_to(self, device: &Device) -> bool {
        device.supports_dtype(self.dtype())
    }

    /// The type of these numbers.
    fn dtype(self) -> DType {
        match self {
            Self::F32 => DType::F32,
            Self::Bf16 => DType::BF16,
        }
    }

    /// The network with the kernels of its convolutions rounded to this precision, in which their operators then compute. The
    /// gradients are those of the kernels of `network`, in single precision.
    pub(crate) fn of_products<M: Module>(self, network: M) -> M {
        struct Round(DType);
        impl NamedParameters for Round {
            fn parameter<const D: usize>(&mut self, _: &str, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
                // Kernels have four dimensions; dense layers, on a vector of each image, cost nothing beside them.
                if D != 4 {
                    return param;
                }
                let (id, tensor, mapper) = param.consume();
                Param::from_mapped_value(id, tensor.cast(self.0), mapper)
            }
        }
        match self {
            Self::F32 => network,
            Self::Bf16 => walk(network, &mut Round(self.dtype())),
        }
    }
}
