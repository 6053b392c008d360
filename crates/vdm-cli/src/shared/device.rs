//! From `--device` and `--threads` to a Burn device.

use anyhow::{Result, bail};
use burn::tensor::Device;
use clap::ValueEnum;

#[derive(Debug, clap::Args)]
pub struct DeviceArgs {
    /// Device to compute on.
    #[arg(long, value_enum, default_value_t = DeviceKind::Cpu)]
    pub device: DeviceKind,
    /// Threads on the CPU; 0 for one per core. Changes nothing but speed.
    #[arg(long, default_value_t = 0)]
    pub threads: usize,
}

/// Devices; each but the CPU needs the cargo feature of its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DeviceKind {
    Cpu,
    Cuda,
    Wgpu,
    Metal,
    Rocm,
}

impl DeviceArgs {
    /// The device, without autodiff; sets the size of the thread pool.
    pub fn open(&self) -> Result<Device> {
        if self.threads > 0 {
            rayon::ThreadPoolBuilder::new().num_threads(self.threads).build_global()?;
        }
        match self.device {
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
}
