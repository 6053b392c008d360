//! Operators for accelerators, as kernels of CubeCL: one launch each, or few, where the compositions of
//! [`mod@crate::reference`] take dozens.
//!
//! The functions do what those of the same names at the crate's root say, which call them where a tensor is on an accelerator. A kernel is written once, and CubeCL compiles it for CUDA, ROCm, Metal or Vulkan. None is differentiable.

// The bits of an accelerator are its own.
#![allow(clippy::disallowed_methods)]

mod adamw;
mod cube_sum;
mod decoder;
mod group_norm;
mod philox;
mod square_sums;

pub use adamw::adamw_step;
pub use decoder::decoder_nll;
pub use philox::normal;
pub use square_sums::square_sums;

use burn::backend::DispatchDevice;
use burn::tensor::{DType, Device, Shape, Tensor};
use burn_cubecl::cubecl::calculate_cube_count_elemwise;
use burn_cubecl::cubecl::prelude::{CubeCount, CubeDim};
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::ops::numeric::empty_device_contiguous_dtype;
use burn_cubecl::tensor::CubeTensor;
use burn_cubecl::{CubeBackend, CubeDevice};

/// The accelerator that a device without autodiff is, if it is one.
fn cube_device(device: &Device) -> Option<&CubeDevice> {
    match device.as_dispatch() {
        DispatchDevice::Cube(device) => Some(device),
        _ => None,
    }
}

/// Whether the kernels take tensors of this device and precision: a device without autodiff, which is an accelerator.
pub fn takes(device: &Device, dtype: DType) -> bool {
    cube_device(device).is_some() && dtype == DType::F32
}

/// The tensor of the backend inside `x`, its numbers one after another.
fn cube<const D: usize>(x: Tensor<D>) -> CubeTensor {
    into_contiguous(x.try_into_primitive::<CubeBackend>().expect("callers ask `takes` first"))
}

fn tensor<const D: usize>(x: CubeTensor) -> Tensor<D> {
    Tensor::from_primitive::<CubeBackend>(x)
}

/// `x` where no other handle holds its memory, otherwise a copy: it may be overwritten.
fn own(x: CubeTensor) -> CubeTensor {
    if x.can_mut() { x } else { x.copy() }
}

/// A tensor for the output of a kernel that writes every number of it and reads none.
///
/// # Panics
/// If it has 2^32 numbers or more, 16 GiB: kernels count in 32 bits.
fn unwritten(device: &CubeDevice, shape: impl Into<Shape>) -> CubeTensor {
    let shape = shape.into();
    assert!(u32::try_from(shape.num_elements()).is_ok(), "a tensor of {shape:?} is too large for the kernels");
    empty_device_contiguous_dtype(device.client(), device.clone(), shape, DType::F32)
}

/// Units for `n` numbers or more, a unit for each.
fn units(device: &CubeDevice, n: usize) -> (CubeCount, CubeDim) {
    let client = device.client();
    let dim = CubeDim::new(&client, n);
    (calculate_cube_count_elemwise(&client, n, dim), dim)
}
