//! `vdm doctor`.

use crate::commands::data::SETS;
use crate::shared::device::devices;
use crate::shared::disk::free_bytes;
use crate::shared::output::outln;
use anyhow::Result;
use burn::tensor::Device;
use serde_json::json;
use std::path::Path;
use vdm::run::shipped;

#[derive(Debug, clap::Args)]
pub struct Args {}

/// One line of the report.
struct Finding {
    name: &'static str,
    found: String,
    /// Whether it is as it should be.
    good: bool,
}

pub fn execute(_: &Args, json: bool) -> Result<()> {
    let found = findings();
    if json {
        let of = |f: &Finding| json!({ "name": f.name, "found": f.found, "good": f.good });
        outln!("{}", json!({ "findings": found.iter().map(of).collect::<Vec<_>>() }));
        return Ok(());
    }
    for Finding { name, found, good } in &found {
        outln!("{} {name:<14} {found}", if *good { "ok   " } else { "note " });
    }
    Ok(())
}

fn findings() -> Vec<Finding> {
    let good = |name, found: String| Finding { name, found, good: true };
    let mib = |bytes: u64| format!("{} MiB", bytes >> 20);
    let mut all = vec![good("program", format!("vdm {}, {}", env!("CARGO_PKG_VERSION"), std::env::consts::ARCH))];
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
    all.push(good("threads", format!("{threads}; `--threads N` uses fewer")));
    let (found, fast) = instructions();
    all.push(Finding { name: "instructions", found, good: fast });
    if let Some(bytes) = memory() {
        let enough = bytes > 1 << 30;
        all.push(Finding { name: "memory", found: format!("{} free", mib(bytes)), good: enough });
    }
    if let Some(bytes) = free_bytes(Path::new(".")) {
        let enough = bytes > 1 << 28;
        all.push(Finding { name: "disk", found: format!("{} free here", mib(bytes)), good: enough });
    }
    for (name, reason) in devices() {
        let found = format!("{name}: {}", reason.unwrap_or("there"));
        all.push(Finding { name: "device", found, good: true });
    }
    for name in shipped::names() {
        let opened =
            shipped::model(name).map(|file| file.and_then(|file| file.model(Path::new(name), &Device::flex())));
        let good = matches!(opened, Some(Ok(_)));
        let found = if good { format!("{name}: can be opened") } else { format!("{name}: cannot be opened") };
        all.push(Finding { name: "model", found, good });
    }
    for set in SETS {
        let (found, good) = match set.found() {
            Some(place) if place.as_os_str().is_empty() => (format!("{}: built in", set.name), true),
            Some(place) => (format!("{}: in {}", set.name, place.display()), true),
            None => (format!("{}: not found; `vdm data {}` says where it comes from", set.name, set.name), false),
        };
        all.push(Finding { name: "data", found, good });
    }
    all
}

/// The instruction set that the CPU's operators use, and whether it is a fast one.
fn instructions() -> (String, bool) {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f") {
            return ("AVX-512".into(), true);
        }
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            return ("AVX2 with fused multiply-add".into(), true);
        }
        ("no AVX2 with fused multiply-add: the same results, many times slower".into(), false)
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        let architecture = std::env::consts::ARCH;
        (
            format!(
                "plain code, since the fast one is for x86-64 and this is {architecture}: the same results, many times slower"
            ),
            false,
        )
    }
}

/// Free bytes of memory, where the system tells.
fn memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("MemAvailable:"))?;
    line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kib| kib << 10)
}
