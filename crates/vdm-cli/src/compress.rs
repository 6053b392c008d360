//! `vdm compress`.

use crate::compress_args::CompressArgs;
use crate::{device, image_files, progress, run};
use anyhow::{Context, Result, bail};
use burn::tensor::Device;
use std::fs;
use std::path::Path;
use std::time::Instant;
use vdm::VariationalDiffusion;
use vdm::codec::{CodecOptions, Container, FileEntry, FileKind, Steps, choose_steps, compress, decompress};
use vdm::data::ImageDataset;
use vdm::nn::ScoreNetwork;
use vdm::train::{load_model, write_bytes};

/// Images that --choose-steps measures, and most steps that it chooses in a reasonable time.
const CHOOSING_IMAGES: usize = 16;
const MOST_CHOSEN: usize = 1024;

pub fn run(args: &CompressArgs, json: bool) -> Result<()> {
    check_out(&args.out, args.force)?;
    let device = device::open(&args.device)?;
    let (run, config) = run::open_with_data(&args.run, args.data_dir.as_deref())?;
    run::knows_images_without_class(&config)?;
    let (model, checkpoint) = load_model(&config, run::checkpoint(&run, args.checkpoint)?, &device)?;
    let (shape, levels) = (checkpoint.shape, checkpoint.vocabulary.levels());
    let most = args.count.map(|n| n as usize);
    let (files, images) = if args.images.is_empty() {
        test_split(run::test_split(&config, &checkpoint)?, most)?
    } else {
        image_files::read(&args.images, shape, levels, most)?
    };

    let steps = args.timesteps as usize;
    let steps = if args.choose_steps {
        if steps > MOST_CHOSEN {
            bail!("--choose-steps places at most {MOST_CHOSEN} steps, --timesteps asks for {steps}");
        }
        let some = images.subset(0..images.len().min(CHOOSING_IMAGES))?;
        let bar = progress::bar("choosing steps");
        let steps = choose_steps(&model, &some, 2 * steps, steps, &device, &mut |done, total| {
            progress::set(&bar, done, total);
        })?;
        bar.finish_and_clear();
        steps
    } else {
        Steps::Uniform(steps)
    };
    // A word such as `digits`; the folder of the data is nobody else's business.
    let source = serde_json::to_value(config.data.source)?;
    let options = CodecOptions {
        steps,
        bins_per_sigma: args.bins,
        batch_size: args.batch_size,
        restart_every: args.restart_every as usize,
        seed: args.seed,
        note: format!("{} after {} steps", source.as_str().unwrap_or("images"), checkpoint.step),
    };
    let entries = files.len();
    let started = Instant::now();
    let bar = progress::bar("compressing");
    let (container, report) = compress(&model, &images, files, &options, &device, &mut |done, total| {
        progress::set(&bar, done, total);
    })?;
    bar.finish_and_clear();
    let seconds = started.elapsed().as_secs_f64();
    let bytes = container.to_bytes()?;
    let verify_seconds = if args.no_verify { None } else { Some(verify(&model, &bytes, &images, &device)?) };
    write_bytes(&args.out, &bytes).with_context(|| format!("cannot write {}", args.out.display()))?;

    let (n, segments) = (report.images, container.segments.len());
    if json {
        let mut object = serde_json::to_value(&report)?;
        object["path"] = serde_json::to_value(&args.out)?;
        object["files"] = entries.into();
        object["segments"] = segments.into();
        object["bytes"] = bytes.len().into();
        object["bins_per_sigma"] = args.bins.into();
        object["step"] = checkpoint.step.into();
        object["seconds"] = seconds.into();
        object["verify_seconds"] = verify_seconds.into();
        println!("{object}");
        return Ok(());
    }
    println!("{n} images of {shape} in {} bytes: {}", bytes.len(), args.out.display());
    match report.net_bpd_stderr {
        Some(e) => println!("net           {:.4} ± {e:.4} bits per dimension (standard error)", report.net_bpd),
        None => println!("net           {:.4} bits per dimension", report.net_bpd),
    }
    println!("with start    {:.4} with the bits that {segments} streams were started with", report.stream_bpd);
    println!("whole file    {:.4} with the header and the names of {entries} files", report.file_bpd);
    println!("steps         {}, {} bins per sigma", report.steps, args.bins);
    let rate = |seconds: f64| format!("{seconds:.1} s, {:.2} images/s", n as f64 / seconds.max(1e-9));
    println!("compressed    {}", rate(seconds));
    match verify_seconds {
        Some(seconds) => println!("verified      {}", rate(seconds)),
        None => println!("not verified: --no-verify"),
    }
    Ok(())
}

/// Says early what would stop the file from being written after hours of coding.
fn check_out(out: &Path, force: bool) -> Result<()> {
    if out.is_dir() || out.file_name().is_none() {
        bail!("{} is a folder; name a file with --out", out.display());
    }
    if out.exists() && !force {
        bail!("{} exists; name another file with --out, or overwrite it with --force", out.display());
    }
    let folder = out.parent().filter(|folder| !folder.as_os_str().is_empty());
    folder.map_or(Ok(()), fs::create_dir_all).with_context(|| format!("cannot make the folder of {}", out.display()))
}

/// The first `most` test images of the run, as the files that they come back as: one of IDX where they are grey, a
/// folder of PNG files otherwise.
fn test_split(test: ImageDataset, most: Option<usize>) -> Result<(Vec<FileEntry>, ImageDataset)> {
    let test = test.subset(0..test.len().min(most.unwrap_or(usize::MAX)))?;
    let images = u32::try_from(test.len()).context("the test split has too many images; choose fewer with --count")?;
    // The name comes from that of a folder, which may have characters that no name in a file may have.
    let name = test.name().replace(|c: char| c.is_control() || matches!(c, '/' | '\\'), "_");
    let file = if test.shape().channels == 1 {
        FileEntry { name: format!("{name}-images-idx3-ubyte"), kind: FileKind::Idx { images } }
    } else {
        FileEntry { name, kind: FileKind::Series { images } }
    };
    Ok((vec![file], test))
}

/// Decompresses a file in memory; the seconds that it took, if the same images come out.
fn verify<N: ScoreNetwork>(
    model: &VariationalDiffusion<N>,
    bytes: &[u8],
    images: &ImageDataset,
    device: &Device,
) -> Result<f64> {
    let started = Instant::now();
    let bar = progress::bar("verifying");
    let decoded = decompress(model, images.shape(), &Container::parse(bytes)?, device, &mut |done, total| {
        progress::set(&bar, done, total);
    })?;
    bar.finish_and_clear();
    if decoded != images.bytes() {
        bail!("other images came out than went in, so nothing was written; please report this with run and images");
    }
    Ok(started.elapsed().as_secs_f64())
}
