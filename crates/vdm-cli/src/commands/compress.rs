//! `vdm compress`.

use crate::shared::image_files;
use crate::shared::model::{ChoiceArgs, DataArgs};
use crate::shared::output::outln;
use crate::shared::progress::timed;
use crate::shared::steps::StepsArgs;
use anyhow::{Context, Result, bail};
use burn::tensor::Device;
use clap::value_parser;
use std::path::{Path, PathBuf};
use vdm::VariationalDiffusion;
use vdm::codec::{CodecOptions, Container, FileEntry, FileKind, choose_steps, compress, decompress};
use vdm::data::ImageDataset;
use vdm::files::{create_folders, write_bytes};
use vdm::nn::ScoreNetwork;

/// Images that --choose-steps measures, and most steps that it chooses in a reasonable time.
const CHOOSING_IMAGES: usize = 16;
const MOST_CHOSEN: usize = 1024;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Folder of the run whose model codes the images. It is needed again to decompress them, at the same checkpoint: do
    /// not train it on. Classes are not used.
    pub run: PathBuf,
    /// Images of the run's shape: folders, IDX files (gzipped or not), and PNG, JPEG or WebP files, recognised by their
    /// content. The pixels are kept, the metadata are not. Default: the run's test split.
    pub images: Vec<PathBuf>,
    /// File to write, .vdmz by custom.
    #[arg(short, long, value_name = "FILE")]
    pub out: PathBuf,
    /// Overwrite that file.
    #[arg(long)]
    pub force: bool,
    #[command(flatten)]
    pub steps: StepsArgs,
    /// Place the steps where they save most bits with the posterior's variance, as measured on the first 16 images, for a
    /// model that does not know its own error. The file grows by 8 bytes a step.
    #[arg(long, conflicts_with = "grid")]
    pub choose_steps: bool,
    /// Only the first N images of all that are named.
    #[arg(long, value_name = "N", value_parser = value_parser!(u32).range(1..))]
    pub count: Option<u32>,
    /// Leave out files that are no images of the run's shape, and say which, instead of failing.
    #[arg(long)]
    pub skip_bad: bool,
    /// Bins of a latent per standard deviation: finer ones code a little better, and need more bits to start with.
    #[arg(long, value_name = "B", default_value_t = 2, value_parser = value_parser!(u16).range(1..))]
    pub bins: u16,
    /// Images that go through the network together, when decompressed too: more are faster, and need more bits to start
    /// with.
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = value_parser!(u16).range(1..=1024))]
    pub batch_size: u16,
    /// Start a new stream every N images, so that some can be decompressed without the others. Every stream costs the
    /// bits it starts with. 0 for one stream.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub restart_every: u32,
    /// Seed of the bits that streams start with.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Do not decompress the images again to compare them before the file is written.
    #[arg(long)]
    pub no_verify: bool,
    #[command(flatten)]
    pub data: DataArgs,
    #[command(flatten)]
    pub choice: ChoiceArgs,
}

pub fn execute(args: &Args, json: bool) -> Result<()> {
    check_out(&args.out, args.force)?;
    if args.data.data_dir.is_some() && !args.images.is_empty() {
        bail!("--data-dir is for the run's test split; leave it or the images out");
    }
    let opened = args.choice.open(&args.run)?;
    opened.require_no_class()?;
    let (model, device, checkpoint) = (&opened.model, &opened.device, &opened.checkpoint);
    let (shape, levels) = (checkpoint.shape, checkpoint.vocabulary.levels());
    let most = args.count.map(|n| n as usize);
    let (files, images) = if args.images.is_empty() {
        test_split(opened.test_split(&args.data)?, most)?
    } else {
        image_files::read(&args.images, shape, levels, most, args.skip_bad)?
    };

    let variance = args.steps.width.variance(model)?;
    let steps = if args.choose_steps {
        let steps = args.steps.timesteps as usize;
        if steps > MOST_CHOSEN {
            bail!("--choose-steps places at most {MOST_CHOSEN} steps, --timesteps asks for {steps}");
        }
        let some = images.subset(0..images.len().min(CHOOSING_IMAGES))?;
        timed("choosing steps", |progress| choose_steps(model, &some, 2 * steps, steps, device, progress)).0?
    } else {
        args.steps.steps(model)?
    };
    // A word such as `digits`; the folder of the data is private.
    let source = serde_json::to_value(&opened.config.data)?;
    let options = CodecOptions {
        steps,
        variance,
        bins_per_sigma: args.bins,
        batch_size: args.batch_size,
        restart_every: args.restart_every as usize,
        seed: args.seed,
        note: format!("{} after {} steps", source["source"].as_str().unwrap_or("images"), checkpoint.step),
    };
    let entries = files.len();
    let (coded, seconds) = timed("compressing", |progress| compress(model, &images, files, &options, device, progress));
    let (container, report) = coded?;
    let bytes = container.to_bytes()?;
    let verify_seconds = if args.no_verify { None } else { Some(verify(model, &bytes, &images, device)?) };
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
        outln!("{object}");
        return Ok(());
    }
    outln!("{n} images of {shape} in {} bytes: {}", bytes.len(), args.out.display());
    match report.net_bpd_stderr {
        Some(e) => outln!("net           {:.4} ± {e:.4} bits per dimension (standard error)", report.net_bpd),
        None => outln!("net           {:.4} bits per dimension", report.net_bpd),
    }
    outln!("with start    {:.4} with the bits that {segments} streams were started with", report.stream_bpd);
    outln!("whole file    {:.4} with the header and the names of {entries} files", report.file_bpd);
    outln!("steps         {}, {} bins per sigma", report.steps, args.bins);
    let rate = |seconds: f64| format!("{seconds:.1} s, {:.2} images/s", n as f64 / seconds.max(1e-9));
    outln!("compressed    {}", rate(seconds));
    match verify_seconds {
        Some(seconds) => outln!("verified      {}", rate(seconds)),
        None => outln!("not verified: --no-verify"),
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
    folder.map_or(Ok(()), create_folders).with_context(|| format!("cannot make the folder of {}", out.display()))
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
    let container = Container::parse(bytes)?;
    let (decoded, seconds) = timed("verifying", |progress| decompress(model, &container, device, progress));
    if decoded? != images.bytes() {
        bail!("other images came out than went in, so nothing was written; please report this with run and images");
    }
    Ok(seconds)
}
