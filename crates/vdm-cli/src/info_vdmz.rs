//! `vdm info` of a compressed file.

use anyhow::{Context, Result};
use serde_json::json;
use std::path::Path;
use vdm::codec::{Container, Steps};

/// A `.vdmz` file, read and checked as far as that takes no model.
pub fn read(path: &Path) -> Result<Container> {
    let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    Container::parse(&bytes).with_context(|| format!("cannot use {}", path.display()))
}

pub fn compress_info(path: &Path, json: bool) -> Result<()> {
    let container = read(path)?;
    let bytes = container.to_bytes()?.len();
    let (images, segments) = (container.images(), container.segments.len());
    let numbers = (images * container.shape.dims()) as f64;
    let net_bpd = container.net_bits / numbers;
    let stream_bpd = (container.net_bits + container.initial_bits) / numbers;
    let file_bpd = 8.0 * bytes as f64 / numbers;
    let model: String = container.model.iter().map(|byte| format!("{byte:02x}")).collect();
    let steps = container.steps.count();
    if json {
        let shape = container.shape;
        let object = json!({
            "file": path, "bytes": bytes, "images": images, "files": container.files.len(), "segments": segments,
            "channels": shape.channels, "height": shape.height, "width": shape.width, "levels": container.levels,
            "net_bpd": net_bpd, "stream_bpd": stream_bpd, "file_bpd": file_bpd,
            "net_bits": container.net_bits, "initial_bits": container.initial_bits,
            "steps": steps, "bins_per_sigma": container.bins_per_sigma, "batch_size": container.batch_size,
            "seed": container.seed, "model": model, "note": container.note,
            "program": container.program, "machine": container.machine,
        });
        println!("{object}");
        return Ok(());
    }
    let spaced = match container.steps {
        Steps::Uniform(_) => "evenly spaced in time",
        Steps::Listed(_) => "chosen",
    };
    println!("file        {}, {bytes} bytes", path.display());
    println!("images      {images} of {} with {} levels", container.shape, container.levels);
    println!("files       {}", container.files.len());
    println!("net         {net_bpd:.4} bits per dimension");
    println!("with start  {stream_bpd:.4} with the {:.0} bits that streams were started with", container.initial_bits);
    println!("whole file  {file_bpd:.4}");
    println!("steps       {steps}, {spaced}; {} bins per sigma", container.bins_per_sigma);
    println!("segments    {segments}, at most {} images at a time", container.batch_size);
    println!("model       {model} ({})", container.note);
    println!("written by  {} on {}", container.program, container.machine);
    Ok(())
}
