//! The device that the tests of devices use.

use burn::tensor::Device;

/// The device that is checked: the CPU, or the one that `VDM_DEVICE` names, `cuda` or `wgpu`, with the crate's feature of that name.
pub fn device() -> Device {
    match std::env::var("VDM_DEVICE").as_deref() {
        Err(_) | Ok("cpu") => Device::flex(),
        #[cfg(feature = "cuda")]
        Ok("cuda") => Device::cuda(0),
        #[cfg(feature = "wgpu")]
        Ok("wgpu") => Device::wgpu(Default::default()),
        Ok(other) => panic!("VDM_DEVICE={other}: this test was built without the feature `{other}`"),
    }
}
