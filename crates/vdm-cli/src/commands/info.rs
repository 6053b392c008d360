//! `vdm info`.

use crate::shared::container;
use crate::shared::model::{Which, checkpoint, model_file, open_run};
use crate::shared::output::outln;
use anyhow::Result;
use serde_json::json;
use std::path::{Path, PathBuf};
use vdm::codec::Steps;
use vdm::run::{Checkpoint, ModelFile};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Folder of a run, a file that `vdm compress` or `vdm export` wrote, or the name of a shipped model.
    pub run: PathBuf,
}

pub fn execute(args: &Args, json: bool) -> Result<()> {
    let ending = args.run.extension().is_some_and(|ending| ending == "safetensors");
    if (ending || !args.run.exists())
        && let Some(file) = model_file(&args.run)?
    {
        return of_model(&args.run, &file, json);
    }
    if args.run.is_file() {
        return of_container(&args.run, json);
    }
    let (run, config) = open_run(&args.run)?;
    let last = Checkpoint::load(&checkpoint(&run, Which::Last)?)?;
    let parameters: usize = last.weights.values().map(|t| t.data.len()).sum();
    let evaluation: Option<serde_json::Value> =
        std::fs::read(run.evaluation()).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
    let finished = last.step >= config.train.steps && evaluation.is_some();
    if json {
        let object = json!({
            "run": args.run, "step": last.step, "steps": config.train.steps, "finished": finished,
            "parameters": parameters,
            "channels": last.shape.channels, "height": last.shape.height, "width": last.shape.width,
            "levels": last.vocabulary.levels(),
            "best_bpd": last.best_bpd.is_finite().then_some(last.best_bpd),
            "evaluation": evaluation, "config": config,
        });
        outln!("{object}");
        return Ok(());
    }
    outln!("run         {}", args.run.display());
    outln!("progress    step {} of {}", last.step, config.train.steps);
    outln!("images      {} with {} levels", last.shape, last.vocabulary.levels());
    outln!("parameters  {parameters}");
    if last.best_bpd.is_finite() {
        outln!("best bound  {:.4} bits per dimension on validation images so far", last.best_bpd);
    }
    match evaluation {
        Some(e) => {
            let error = e["bpd_stderr"].as_f64().map_or(String::new(), |error| format!(" ± {error:.4}"));
            let bpd = e["bpd"].as_f64().unwrap_or(f64::NAN);
            outln!("test bound  {bpd:.4}{error} bits per dimension over {} images", e["images"]);
        }
        None => outln!("to go on    vdm train --resume {}", args.run.display()),
    }
    Ok(())
}

/// The command for a model file.
fn of_model(path: &Path, file: &ModelFile, json: bool) -> Result<()> {
    let parameters: usize = file.weights.values().map(|t| t.data.len()).sum();
    if json {
        let shape = file.shape;
        let object = json!({
            "file": path, "step": file.step, "parameters": parameters,
            "channels": shape.channels, "height": shape.height, "width": shape.width,
            "levels": file.vocabulary.levels(), "about": file.about, "data": file.data, "config": file.config,
        });
        outln!("{object}");
        return Ok(());
    }
    outln!("model       {}, of step {}", path.display(), file.step);
    outln!("images      {} with {} levels", file.shape, file.vocabulary.levels());
    outln!("parameters  {parameters}");
    for (key, value) in &file.about {
        outln!("{key:<11} {value}");
    }
    Ok(())
}

/// The command for a compressed file.
fn of_container(path: &Path, json: bool) -> Result<()> {
    let container = container::read(path)?;
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
        outln!("{object}");
        return Ok(());
    }
    let spaced = match container.steps {
        Steps::Uniform(_) => "evenly spaced in time",
        Steps::Placed(_) => "placed by the model",
        Steps::Listed(_) => "chosen",
    };
    outln!("file        {}, {bytes} bytes", path.display());
    outln!("images      {images} of {} with {} levels", container.shape, container.levels);
    outln!("files       {}", container.files.len());
    outln!("net         {net_bpd:.4} bits per dimension");
    outln!("with start  {stream_bpd:.4} with the {:.0} bits that streams were started with", container.initial_bits);
    outln!("whole file  {file_bpd:.4}");
    outln!("steps       {steps}, {spaced}; {} bins per sigma", container.bins_per_sigma);
    outln!("segments    {segments}, at most {} images at a time", container.batch_size);
    outln!("model       {model} ({})", container.note);
    outln!("written by  {} on {}", container.program, container.machine);
    Ok(())
}
