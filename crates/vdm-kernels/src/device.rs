//! Which devices have the fused operators.

use burn::backend::DispatchDevice;
use burn::tensor::{DType, Device};

/// Whether the operators run as fused CPU kernels for tensors of this device and precision.
pub fn is_fused(device: &Device, dtype: DType) -> bool {
    let flex = match device.as_dispatch() {
        DispatchDevice::Autodiff(inner) => matches!(**inner, DispatchDevice::Flex(_)),
        other => matches!(other, DispatchDevice::Flex(_)),
    };
    flex && dtype == DType::F32
}
