//! From `--device` and `--threads` to a Burn device.

use anyhow::{Result, bail};
use burn::tensor::Device;
use std::str::FromStr;

#[derive(Debug, clap::Args)]
pub struct DeviceArgs {
    /// Device to compute on: `cpu`, `cuda`, `wgpu`, `metal` or `rocm`. Where there are several of a kind, a number
    /// after a colon chooses one (`cuda:1`). `vdm devices` lists what there is.
    #[arg(long, value_name = "DEVICE", default_value = "cpu")]
    pub device: Choice,
    /// Threads on the CPU; 0 for one per core. Changes nothing but speed.
    #[arg(long, default_value_t = 0)]
    pub threads: usize,
}

/// A device, and which of several.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    kind: Kind,
    index: usize,
}

/// Devices; each but the CPU needs the cargo feature of its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Cpu,
    Cuda,
    Wgpu,
    Metal,
    Rocm,
}

const KINDS: [(&str, Kind, bool); 5] = [
    ("cpu", Kind::Cpu, true),
    ("cuda", Kind::Cuda, cfg!(feature = "cuda")),
    ("wgpu", Kind::Wgpu, cfg!(feature = "wgpu")),
    ("metal", Kind::Metal, cfg!(feature = "metal")),
    ("rocm", Kind::Rocm, cfg!(feature = "rocm")),
];

impl FromStr for Choice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let names = || KINDS.map(|(name, ..)| name).join(", ");
        let (name, index) = match text.split_once(':') {
            Some((name, index)) => {
                let wrong = || format!("{index:?} is no number of a device; write, for instance, {name}:0");
                (name, index.parse().map_err(|_| wrong())?)
            }
            None => (text, 0),
        };
        match KINDS.iter().find(|(known, ..)| *known == name) {
            Some((_, Kind::Cpu, _)) if index > 0 => Err("there is one CPU; choose its threads with --threads".into()),
            Some((_, kind, _)) => Ok(Self { kind: *kind, index }),
            None => Err(format!("expected one of {}, found {name:?}", names())),
        }
    }
}

/// Every device with the reason why it is missing, if it is.
pub fn devices() -> Vec<(&'static str, Option<&'static str>)> {
    let reason = |kind| match kind {
        Kind::Cpu => "",
        Kind::Cuda => "not built in; `cargo build --release --features cuda` takes NVIDIA's cards",
        Kind::Wgpu => "not built in; `cargo build --release --features wgpu` takes cards with a Vulkan driver",
        Kind::Metal => "not built in; `cargo build --release --features metal` takes Apple's processors",
        Kind::Rocm => "not built in; `cargo build --release --features rocm` takes AMD's cards",
    };
    KINDS.iter().map(|&(name, kind, built)| (name, (!built).then(|| reason(kind)))).collect()
}

impl DeviceArgs {
    /// The device, without autodiff; sets the size of the thread pool.
    pub fn open(&self) -> Result<Device> {
        self.set_threads()?;
        self.device.open()
    }

    fn set_threads(&self) -> Result<()> {
        if self.threads > 0 {
            rayon::ThreadPoolBuilder::new().num_threads(self.threads).build_global()?;
        }
        Ok(())
    }

    /// Whether the device is the CPU.
    pub fn is_cpu(&self) -> bool {
        self.device.kind == Kind::Cpu
    }

    /// The devices of these numbers, of the same kind; the device itself if there are none.
    pub fn open_several(&self, numbers: &[usize]) -> Result<Vec<Device>> {
        if numbers.is_empty() {
            return Ok(vec![self.open()?]);
        }
        let Choice { kind, index } = self.device;
        if self.is_cpu() {
            bail!("--devices: there is one CPU; use all its cores with --threads, and other machines with --worker");
        }
        if index > 0 {
            bail!("--devices names the numbers of all devices; leave the number of --device out");
        }
        if let Some(twice) = numbers.iter().enumerate().find(|(i, n)| numbers[..*i].contains(n)) {
            bail!("--devices names the device {} twice", twice.1);
        }
        self.set_threads()?;
        numbers.iter().map(|&index| Choice { kind, index }.open()).collect()
    }
}

impl Choice {
    fn open(self) -> Result<Device> {
        match self.kind {
            Kind::Cpu => Ok(Device::flex()),
            #[cfg(feature = "cuda")]
            Kind::Cuda => Ok(Device::cuda(self.index)),
            #[cfg(feature = "wgpu")]
            Kind::Wgpu => Ok(Device::wgpu(of_index(self.index))),
            #[cfg(feature = "metal")]
            Kind::Metal => Ok(Device::metal(of_index(self.index))),
            #[cfg(feature = "rocm")]
            Kind::Rocm => Ok(Device::rocm(self.index)),
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

/// The first device that there is, or one of several discrete cards.
#[cfg(any(feature = "wgpu", feature = "metal"))]
fn of_index(index: usize) -> burn::tensor::DeviceKind {
    if index == 0 { Default::default() } else { burn::tensor::DeviceKind::DiscreteGpu(index) }
}
