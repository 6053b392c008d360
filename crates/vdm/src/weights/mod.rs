//! Parameters by name: out of a module, into a module, and out of PyTorch files.
//!
//! Names are the module's field names joined by dots (`network.down.0.conv1.weight`). Importing is strict: a missing,
//! an unknown and a wrongly shaped tensor are each an error.

mod file;
mod layout;
mod names;
mod pytorch;

pub use file::{SafetensorsError, load_safetensors};
pub use layout::to_pytorch;
pub use names::{NameMap, NameMapError};
pub use pytorch::{PytorchError, load_pytorch};

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{Gradients, Tensor, TensorData};
use std::collections::BTreeMap;

/// What is done with every float parameter of a module, in the module's order.
pub(crate) trait NamedParameters {
    /// Takes the parameter of this name and returns what is to be in its place; the same, to leave it.
    fn parameter<const D: usize>(&mut self, name: &str, param: Param<Tensor<D>>) -> Param<Tensor<D>>;
}

/// Gives every float parameter of `module` to `visitor`, by name. To read only, walk a clone: its tensors are shared.
pub(crate) fn walk<M: Module>(module: M, visitor: &mut impl NamedParameters) -> M {
    struct Walk<'a, V> {
        path: Vec<String>,
        visitor: &'a mut V,
    }
    impl<V: NamedParameters> ModuleMapper for Walk<'_, V> {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            self.visitor.parameter(&self.path.join("."), param)
        }
        fn enter_module(&mut self, name: &str, _: &str) {
            self.path.push(name.to_string());
        }
        fn exit_module(&mut self, _: &str, _: &str) {
            self.path.pop();
        }
    }
    module.map(&mut Walk { path: Vec::new(), visitor })
}

/// One tensor on the host.
#[derive(Clone, Debug, PartialEq)]
pub struct HostTensor {
    /// Its shape.
    pub shape: Vec<usize>,
    /// Its elements, row-major.
    pub data: Vec<f32>,
}

/// Numbers of `N` bytes each, converted one by one.
pub(crate) fn from_bytes<const N: usize>(bytes: &[u8], convert: impl Fn([u8; N]) -> f32) -> Vec<f32> {
    bytes.as_chunks::<N>().0.iter().map(|&number| convert(number)).collect()
}

/// Tensors by name, in the names' order.
pub type Weights = BTreeMap<String, HostTensor>;

/// Why weights do not fit a module.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WeightsError {
    /// The module has a parameter that the weights lack.
    #[error("no tensor named `{name}`: these are the weights of another architecture, or incomplete")]
    Missing {
        /// The parameter.
        name: String,
    },
    /// The weights have a tensor that the module lacks.
    #[error("tensor `{name}` belongs to no parameter of the model: these are the weights of another architecture")]
    Unknown {
        /// The tensor.
        name: String,
    },
    /// A tensor has another shape than its parameter.
    #[error("tensor `{name}` has shape {found:?}, the model needs {expected:?}")]
    Shape {
        /// The parameter.
        name: String,
        /// The parameter's shape.
        expected: Vec<usize>,
        /// The tensor's shape.
        found: Vec<usize>,
    },
}

/// All float parameters of `module`, by name.
pub fn export<M: Module>(module: &M) -> Weights {
    collect(module, None)
}

/// The gradients that a backward pass left for the parameters of `module`, by name; parameters without one are absent.
pub fn gradients<M: Module>(module: &M, gradients: &Gradients) -> Weights {
    collect(module, Some(gradients))
}

/// The parameters of `module`, or their gradients where a backward pass's are given.
fn collect<M: Module>(module: &M, gradients: Option<&Gradients>) -> Weights {
    struct Collect<'a> {
        gradients: Option<&'a Gradients>,
        out: Weights,
    }
    impl NamedParameters for Collect<'_> {
        fn parameter<const D: usize>(&mut self, name: &str, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            let value = match self.gradients {
                None => Some(param.val()),
                Some(gradients) => param.val().grad(gradients),
            };
            if let Some(value) = value {
                self.out.insert(name.to_string(), host_tensor(value.into_data()));
            }
            param
        }
    }
    let mut collect = Collect { gradients, out: Weights::new() };
    walk(module.clone(), &mut collect);
    collect.out
}

/// `module` with every float parameter replaced by the tensor of its name.
///
/// # Errors
/// See [`WeightsError`].
pub fn import<M: Module>(module: M, weights: &Weights) -> Result<M, WeightsError> {
    struct Replace<'a> {
        weights: &'a Weights,
        used: usize,
        error: Option<WeightsError>,
    }
    impl NamedParameters for Replace<'_> {
        fn parameter<const D: usize>(&mut self, name: &str, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            let (id, old, mapper) = param.consume();
            let (name, shape) = (name.to_string(), old.dims().to_vec());
            let new = match self.weights.get(&name) {
                None => Err(WeightsError::Missing { name }),
                Some(t) if t.shape != shape => {
                    Err(WeightsError::Shape { name, expected: shape, found: t.shape.clone() })
                }
                Some(t) => {
                    self.used += 1;
                    let data = TensorData::new(t.data.clone(), shape);
                    let new = Tensor::<D>::from_data(data, &old.device());
                    Ok(if old.is_require_grad() { new.require_grad() } else { new })
                }
            };
            let value = new.unwrap_or_else(|error| {
                self.error.get_or_insert(error);
                old
            });
            Param::from_mapped_value(id, value, mapper)
        }
    }
    let mut replace = Replace { weights, used: 0, error: None };
    let module = walk(module, &mut replace);
    if let Some(error) = replace.error {
        return Err(error);
    }
    if replace.used < weights.len() {
        let known = export(&module);
        if let Some(name) = weights.keys().find(|name| !known.contains_key(*name)) {
            return Err(WeightsError::Unknown { name: name.clone() });
        }
    }
    Ok(module)
}

/// A tensor on the host.
pub(crate) fn host_tensor(data: TensorData) -> HostTensor {
    HostTensor { shape: data.shape().to_vec(), data: data.iter::<f32>().collect() }
}
