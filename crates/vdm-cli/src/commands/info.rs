//! `vdm info`.

use crate::shared::container;
use crate::shared::model::{Which, checkpoint, model_file, open_run};
use crate::shared::output::{outln, shown};
use crate::shared::shapes::shape;
use anyhow::{Result, bail};
use serde_json::json;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use vdm::ImageShape;
use vdm::codec::Steps;
use vdm::codec::container::MAGIC;
use vdm::config::resolve;
use vdm::data::Source;
use vdm::run::{Checkpoint, ModelFile};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Folder of a run, a file that `vdm compress` or `vdm export` wrote, or the name of a shipped model.
    #[arg(required_unless_present = "preset")]
    pub run: Option<PathBuf>,
    /// Say instead what the network of this preset takes: parameters, operations, memory. Nothing is made for it.
    #[arg(long, conflicts_with = "run")]
    pub preset: Option<String>,
    /// Single key that overrides the preset's, as section.key=value. May be repeated.
    #[arg(long = "set", value_name = "KEY=VALUE", requires = "preset")]
    pub sets: Vec<String>,
    /// Channels, height and width of its images. Default: those of the preset's data.
    #[arg(long, value_name = "C,H,W", requires = "preset", value_parser = shape)]
    pub shape: Option<ImageShape>,
}

pub fn execute(args: &Args, json: bool) -> Result<()> {
    match (&args.run, &args.preset) {
        (_, Some(preset)) => of_preset(preset, args, json),
        (Some(run), None) => of_path(run, json),
        (None, None) => unreachable!("clap asks for one of them"),
    }
}

/// Bytes of a number.
const NUMBER: u128 = 4;

/// What the network of a preset takes.
fn of_preset(preset: &str, args: &Args, json: bool) -> Result<()> {
    let config = resolve(preset, None, &args.sets)?;
    let Some(image) = args.shape.or_else(|| config.data.source.usual_shape()) else {
        bail!("how large the images of a folder are is not known; name channels, height and width with --shape");
    };
    let ImageShape { channels, height, width } = image;
    config.validate_shape(image)?;
    let (parameters, cost) = (config.parameters(channels), config.model.network.cost(image));
    // The weights, their gradient, the optimiser's two means, and the average.
    let (of_training, of_image) = (5 * NUMBER * parameters, NUMBER * cost.kept);
    let mut batches = vec![1, 8, 64, config.train.batch_size as u128];
    batches.sort_unstable();
    batches.dedup();
    let memory = |batch: u128| of_training + batch * of_image;
    if json {
        // JSON has no larger numbers.
        let whole = |number: u128| u64::try_from(number).unwrap_or(u64::MAX);
        let of = |batch: u128| json!({ "images": whole(batch), "bytes": whole(memory(batch)) });
        let batches: Vec<_> = batches.into_iter().map(of).collect();
        outln!(
            "{}",
            json!({
                "preset": preset, "channels": channels, "height": height, "width": width,
                "parameters": whole(parameters), "operations": whole(cost.operations),
                "operations_of_training": whole(3 * cost.operations), "bytes_of_parameters": whole(of_training),
                "bytes_of_image": whole(of_image), "batches": batches, "batch_size": config.train.batch_size,
            })
        );
        return Ok(());
    }
    let giga = |x: u128| x as f64 / 1e9;
    let gib = |bytes: u128| bytes as f64 / (1u64 << 30) as f64;
    outln!("preset      {preset}, images of {image}");
    outln!("parameters  {parameters}");
    outln!(
        "evaluation  {:.3} GFLOP an image: two operations a product, convolutions as plain sums",
        giga(cost.operations)
    );
    outln!("training    {:.3} GFLOP an image and step", giga(3 * cost.operations));
    outln!("memory      {:.3} GiB for weights, gradient, optimiser and average, in single precision", gib(of_training));
    outln!("            {:.4} GiB for each image whose gradient is computed at the time", gib(of_image));
    for batch in batches {
        outln!("            {:.2} GiB with {batch} images at a time", gib(memory(batch)));
    }
    outln!("            on the CPU a batch is cut into parts, and only one part a team of threads is in memory");
    Ok(())
}

/// What a path or a shipped name is.
fn of_path(path: &Path, json: bool) -> Result<()> {
    let ending = path.extension().is_some_and(|ending| ending == "safetensors");
    // A folder that is no run does not hide a shipped model of its name.
    if (ending || !path.is_file() || is_safetensors(path))
        && let Some(file) = model_file(path)?
    {
        return of_model(path, &file, json);
    }
    if path.is_file() {
        return of_container(path, json);
    }
    let (run, config) = open_run(path)?;
    let last = Checkpoint::load(&checkpoint(&run, Which::Last)?)?;
    let parameters: usize = last.weights.values().map(|t| t.data.len()).sum();
    let evaluation: Option<serde_json::Value> =
        std::fs::read(run.evaluation()).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
    let finished = last.step >= config.train.steps && evaluation.is_some();
    if json {
        let object = json!({
            "run": shown(path), "step": last.step, "steps": config.train.steps, "finished": finished,
            "parameters": parameters,
            "channels": last.shape.channels, "height": last.shape.height, "width": last.shape.width,
            "levels": last.vocabulary.levels(),
            "best_bpd": last.best_bpd.is_finite().then_some(last.best_bpd),
            "evaluation": evaluation, "config": config,
        });
        outln!("{object}");
        return Ok(());
    }
    outln!("run         {}", path.display());
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
        None => outln!("to go on    vdm train --resume {}", path.display()),
    }
    Ok(())
}

/// Whether a file begins as safetensors do, whatever its name: the length of an object in JSON, and the object. In the place of
/// the length, a compressed file has its mark.
fn is_safetensors(path: &Path) -> bool {
    let mut start = [0; 9];
    let read = File::open(path).and_then(|mut file| file.read_exact(&mut start));
    read.is_ok() && start[8] == b'{' && !start.starts_with(&MAGIC)
}

/// The command for a model file.
fn of_model(path: &Path, file: &ModelFile, json: bool) -> Result<()> {
    let parameters: usize = file.weights.values().map(|t| t.data.len()).sum();
    if json {
        let shape = file.shape;
        let object = json!({
            "file": shown(path), "step": file.step, "parameters": parameters,
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
    let numbers = container.coded_numbers().max(1) as f64;
    let net_bpd = container.net_bits / numbers;
    let stream_bpd = (container.net_bits + container.initial_bits) / numbers;
    let file_bpd = 8.0 * bytes as f64 / numbers;
    let model: String = container.model.iter().map(|byte| format!("{byte:02x}")).collect();
    let steps = container.steps.count();
    if json {
        let shape = container.shape;
        let object = json!({
            "file": shown(path), "bytes": bytes, "images": images, "files": container.files.len(), "segments": segments,
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
