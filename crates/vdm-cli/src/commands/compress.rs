//! `vdm compress`.

use crate::shared::archive_input;
use crate::shared::model::{ChoiceArgs, DataArgs, of_model, shipped_name};
use crate::shared::output::{is_standard, outln, shown, write_all};
use crate::shared::progress::timed;
use crate::shared::steps::StepsArgs;
use anyhow::{Context, Result, bail};
use burn::tensor::Device;
use clap::value_parser;
use std::path::{Path, PathBuf};
use vdm::ImageShape;
use vdm::VariationalDiffusion;
use vdm::codec::{
    CodecOptions, Container, FileEntry, FileKind, Input, choose_steps, compress_files, decompress, model_fingerprint,
};
use vdm::data::ImageDataset;
use vdm::files::{create_folders, target, write_bytes};
use vdm::nn::ScoreNetwork;
use vdm::run::Model;

/// Images that --choose-steps measures, and most steps that it chooses in a reasonable time.
const CHOOSING_IMAGES: usize = 16;
const MOST_CHOSEN: usize = 1024;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The model that codes the images: folder of a run, a file that `vdm export` wrote, or the name of a shipped model
    /// (`vdm models`). It is needed again to decompress them, unless it is shipped or embedded. Classes are not used.
    pub run: PathBuf,
    /// Files and folders of any kind, or `-` for the standard input. IDX files of the model's shape and PNG files of at
    /// most 8 bits a channel are coded by the model, an image of another size in tiles; whatever the model cannot code, or codes in more bytes
    /// than the file has, is kept as it is. The pixels of images are kept, and each file's name, permissions and time; what
    /// a PNG file holds besides its pixels is not. Default: the model's test split.
    pub images: Vec<PathBuf>,
    /// File to write, .vdmz by custom; `-` for the standard output.
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
    /// Only the first N images of the test split.
    #[arg(long, value_name = "N", value_parser = value_parser!(u32).range(1..), conflicts_with = "images")]
    pub count: Option<u32>,
    /// Code images by the model even where their files are smaller.
    #[arg(long)]
    pub no_fallback: bool,
    /// Keep no permissions and times, so that the same files with other times are the same file.
    #[arg(long)]
    pub no_attributes: bool,
    /// Put the model into the file, so that nothing else is needed to decompress it.
    #[arg(long)]
    pub embed_model: bool,
    /// Leave out files that cannot be read, and say which, instead of failing.
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
    let to_standard = is_standard(&args.out, json)?;
    if !to_standard {
        check_out(&args.out, args.force)?;
    }
    args.data.refuse_beside(&args.images)?;
    let opened = args.choice.open(&args.run)?;
    opened.require_no_class()?;
    let (model, device, checkpoint) = (&opened.model, &opened.device, &opened.checkpoint);
    let (shape, levels) = (checkpoint.shape, checkpoint.vocabulary.levels());
    let mut inputs = if args.images.is_empty() {
        test_split(opened.test_split(&args.data)?, args.count.map(|n| n as usize))?
    } else {
        archive_input::read(&args.images, shape, levels, args.skip_bad)?
    };
    for input in &mut inputs {
        if args.no_fallback {
            input.original = None;
        }
        if args.no_attributes {
            input.entry.attributes = None;
        }
    }
    let embedded_model = match args.embed_model {
        true => Some(embedded(&args.run, &args.choice, model, device)?),
        false => None,
    };

    let variance = args.steps.width.variance(model)?;
    let steps = if args.choose_steps {
        let steps = args.steps.timesteps as usize;
        if steps > MOST_CHOSEN {
            bail!("--choose-steps places at most {MOST_CHOSEN} steps, --timesteps asks for {steps}");
        }
        let some = some_images(&inputs, shape, levels)?;
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
        note: note_of(&args.run, source["source"].as_str().unwrap_or("images"), checkpoint.step),
        embedded_model,
    };
    let entries = inputs.len();
    let (coded, seconds) = timed("compressing", |progress| compress_files(model, &inputs, &options, device, progress));
    let (container, report) = coded?;
    let bytes = container.to_bytes()?;
    let verify_seconds = if args.no_verify { None } else { Some(verify(model, &bytes, &inputs, device)?) };
    if to_standard {
        return write_all(&bytes);
    }
    write_bytes(&args.out, &bytes).with_context(|| format!("cannot write {}", args.out.display()))?;

    let (n, segments) = (report.images, container.segments.len());
    if json {
        let mut object = serde_json::to_value(&report)?;
        object["path"] = shown(&args.out).into();
        object["files"] = entries.into();
        object["embedded_model"] = args.embed_model.into();
        object["segments"] = segments.into();
        object["bytes"] = bytes.len().into();
        object["bins_per_sigma"] = args.bins.into();
        object["step"] = checkpoint.step.into();
        object["seconds"] = seconds.into();
        object["verify_seconds"] = verify_seconds.into();
        outln!("{object}");
        return Ok(());
    }
    outln!("{entries} files in {} bytes: {}", bytes.len(), args.out.display());
    outln!("images        {n} of {shape}; {} files are kept as they are", report.stored);
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
    target(out).with_context(|| format!("cannot write {}", out.display()))?;
    let folder = out.parent().filter(|folder| !folder.as_os_str().is_empty());
    folder.map_or(Ok(()), create_folders).with_context(|| format!("cannot make the folder of {}", out.display()))
}

/// The file of this model, which must be the one in memory: a run that is being trained has another by now.
fn embedded(path: &Path, choice: &ChoiceArgs, model: &Model, device: &Device) -> Result<Vec<u8>> {
    let file = of_model(path, choice.checkpoint, choice.weights)?;
    if model_fingerprint(&file.model(path, device)?) != model_fingerprint(model) {
        bail!("{} changed while it was read, so it cannot be embedded; compress again", path.display());
    }
    Ok(file.to_bytes()?)
}

/// What the file says of its model: the name of a shipped one, and what it was trained on.
fn note_of(model: &Path, source: &str, step: u64) -> String {
    match shipped_name(model) {
        Some(name) => format!("{name}, shipped with the program"),
        None => format!("{source} after {step} steps"),
    }
}

/// The first `most` test images of the model, as the file that they come back as: one of IDX where they are grey, a folder
/// of PNG files otherwise.
fn test_split(test: ImageDataset, most: Option<usize>) -> Result<Vec<Input>> {
    let test = test.subset(0..test.len().min(most.unwrap_or(usize::MAX)))?;
    let images = u32::try_from(test.len()).context("the test split has too many images; choose fewer with --count")?;
    // The name comes from that of a folder, which may have characters that no name in a file may have.
    let name = test.name().replace(|c: char| c.is_control() || matches!(c, '/' | '\\'), "_");
    let entry = if test.shape().channels == 1 {
        FileEntry::new(format!("{name}-images-idx3-ubyte"), FileKind::Idx { images })
    } else {
        FileEntry::new(name, FileKind::Series { images })
    };
    Ok(vec![Input { entry, images: test.bytes().to_vec(), original: None }])
}

/// The images that --choose-steps measures.
fn some_images(inputs: &[Input], shape: ImageShape, levels: usize) -> Result<ImageDataset> {
    let bytes = inputs.iter().flat_map(|input| input.images.iter().copied()).take(CHOOSING_IMAGES * shape.dims());
    Ok(ImageDataset::new("images", shape, levels, bytes.collect(), None)?)
}

/// Decompresses a file in memory; the seconds that it took, if the same images and files come out.
fn verify<N: ScoreNetwork>(
    model: &VariationalDiffusion<N>,
    bytes: &[u8],
    before: &[Input],
    device: &Device,
) -> Result<f64> {
    let container = Container::parse(bytes)?;
    let (decoded, seconds) = timed("verifying", |progress| decompress(model, &container, device, progress));
    let decoded = decoded?;
    let mut same = container.files.len() == before.len();
    let mut compared = 0;
    for ((file, own), input) in container.split(&decoded).zip(before) {
        compared += own.len();
        same &= match (&file.kind, &input.entry.kind) {
            (FileKind::Stored(now), FileKind::Stored(then)) => now == then,
            (FileKind::Stored(now), _) => Some(now.unpack()?) == input.original,
            _ => own == input.images,
        };
    }
    if !same || compared != decoded.len() {
        bail!("other images came out than went in, so nothing was written; please report this with model and images");
    }
    Ok(seconds)
}
