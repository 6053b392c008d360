//! From `--device` and `--threads` to a Burn device.

use crate::args::{DeviceArgs, DeviceKind};
use anyhow::{Result, bail};
use burn::tensor::Device;

/// The device, without autodiff; sets the size of the thread pool.
pub fn open(args: &DeviceArgs) -> Result<Device> {
    if args.threads > 0 {
        rayon::ThreadPoolBuilder::new().num_threads(args.threads).build_global()?;
    }
    match args.device {
        DeviceKind::Cpu => Ok(Device::flex()),
        #[cfg(feature = "cuda")]
        DeviceKind::Cuda => Ok(Device::cuda(0)),
        #[cfg(feature = "wgpu")]
        DeviceKind::Wgpu => Ok(Device::wgpu(Default::default())),
        #[cfg(feature = "metal")]
        DeviceKind::Metal => Ok(Device::metal(Default::default())),
        #[cfg(feature = "rocm")]
        DeviceKind::Rocm => Ok(Device::rocm(0)),
        #[allow(unreachable_patterns)]
        kind => {
            let name = format!("{kind:?}").to_lowercase();
            bail!(
                "this program was built without --device {name}; build it with `cargo build --release --features {name}`"
            )
        }
    }
}
