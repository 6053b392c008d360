//! `vdm sample`.

use crate::shared::disk::free_bytes;
use crate::shared::model::ModelArgs;
use crate::shared::output::{outln, shown};
use crate::shared::progress::timed;
use crate::shared::signals::{STOPPED, on_stop};
use crate::shared::watch::say;
use crate::shared::words::word;
use anyhow::{Context, Result, bail};
use serde_json::json;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use vdm::Progress;
use vdm::config::MAX_GRID;
use vdm::files::{target, write_bytes};
use vdm::flow::Tolerance;
use vdm::nn::Conditioning;
use vdm::picture::grid;
use vdm::sample::{
    DecoderRule, Grid, SampleOptions, SamplerKind, SamplerOption, SamplerSettings, sample_conditioned, trajectory,
};

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    pub model: ModelArgs,
    /// Images to draw. At least 1.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..))]
    pub count: u32,
    /// Number of the first image: image I of a seed is the same however many are drawn.
    #[arg(long, default_value_t = 0, value_name = "I")]
    pub first: u64,
    /// The sampler. Default: the run's sample.sampler.
    #[arg(long, value_name = "NAME", value_parser = word::<SamplerKind>)]
    pub sampler: Option<SamplerKind>,
    /// Steps T of sampling, 1 to 1048576. Default: the run's sample.steps.
    #[arg(long, value_name = "T", value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    pub steps: Option<u32>,
    /// Where the steps are: `time`, as the schedule has them; `gamma`, evenly spaced in gamma; `loss`, where the model's own
    /// loss says that steps cost most (measured first, on images that it draws). Default: time.
    #[arg(long, value_name = "GRID", value_parser = word::<Grid>)]
    pub grid: Option<Grid>,
    /// New noise of the sampler `ddim`, from 0 (none, the default) to 1 (that of ancestral sampling with a model that does not know its error).
    #[arg(long, value_name = "ETA")]
    pub eta: Option<f64>,
    /// Error of a step that the sampler `ode` allows. Default: 0.001.
    #[arg(long, value_name = "E")]
    pub tolerance: Option<f64>,
    /// Seed of the images.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Keep the predicted image in [-1, 1] at every step.
    #[arg(long)]
    pub clip: bool,
    /// Class of all images, for a run trained with --class-conditional. Default there: classes take turns, image I being
    /// of class I modulo their number.
    #[arg(long, value_name = "C")]
    pub class: Option<u32>,
    /// Weight of classifier-free guidance, at least 0: 1 for none, above it images are more typical of their class, 0
    /// ignores the class. Other weights than 0 and 1 take twice the time. Default: the run's sample.guidance.
    #[arg(long, value_name = "W")]
    pub guidance: Option<f64>,
    /// How pixels are read off the last latent: `argmax`, the most probable level of each, or `draw`, a level drawn from
    /// the decoder's distribution. Default: the run's sample.decoder.
    #[arg(long, value_name = "RULE", value_parser = word::<DecoderRule>)]
    pub decoder: Option<DecoderRule>,
    /// Images at a time. Changes nothing but speed and memory. Default: the run's eval.batch_size.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub batch_size: Option<u32>,
    /// PNG file for a grid of all images, or with --separate a folder for one file per image. Default: in the run.
    #[arg(short, long, value_name = "PATH")]
    pub out: Option<PathBuf>,
    /// One PNG file per image, pixel for pixel, instead of a grid.
    #[arg(long)]
    pub separate: bool,
    /// Also draw the way from noise to image to this PNG file: for each of the first images a row of latents and a row of
    /// estimates of the image. At most 8 images; of the sampler `ode` one. A name that ends in .gif gives a film: the latents
    /// above, the estimates below.
    #[arg(long, value_name = "FILE")]
    pub trajectory: Option<PathBuf>,
}

/// Latents of a trajectory, and images.
const FRAMES: usize = 12;
const MOST_TRAJECTORIES: u64 = 8;

pub fn execute(args: &Args, json: bool) -> Result<()> {
    if !args.separate && args.count as usize > MAX_GRID {
        bail!("a grid holds at most {MAX_GRID} images; draw {} with --separate", args.count);
    }
    let opened = args.model.open()?;
    let config = &opened.config;
    let options = SampleOptions {
        steps: args.steps.map_or(config.sample.steps, |t| t as usize),
        grid: args.grid.unwrap_or_default(),
        clip: args.clip || config.sample.clip,
        decoder: args.decoder.unwrap_or(config.sample.decoder),
        guidance: args.guidance.unwrap_or(config.sample.guidance),
        seed: args.seed,
        batch_size: args.batch_size.map_or(config.eval.batch_size, |n| n as usize),
    };
    let classes = of_classes(args, config.model.network.classes())?;
    if args.guidance.is_some_and(|w| w != 1.0) {
        opened.require_no_class()?;
    }
    let Some(end) = args.first.checked_add(args.count.into()) else {
        bail!("--first {}: there are no {} images from there on", args.first, args.count);
    };
    let kind = args.sampler.unwrap_or(config.sample.sampler);
    let given = [
        (args.eta.is_some(), SamplerOption::Eta, "--eta is for the sampler `ddim`"),
        (args.tolerance.is_some(), SamplerOption::Tolerance, "--tolerance is for the sampler `ode`"),
        (
            args.steps.is_some(),
            SamplerOption::Steps,
            "--steps is not for the sampler `ode`, which takes steps of its own",
        ),
        (args.grid.is_some(), SamplerOption::Grid, "--grid is not for the sampler `ode`, which takes steps of its own"),
    ];
    if let Some((.., reason)) = given.iter().find(|(given, option, _)| *given && !kind.uses(*option)) {
        bail!("{reason}; leave it out, or choose another sampler with --sampler");
    }
    let usual = SamplerSettings::default();
    let settings = SamplerSettings {
        eta: args.eta.unwrap_or(usual.eta),
        tolerance: args.tolerance.map_or(usual.tolerance, Tolerance::new),
    };
    let sampler = kind.sampler(&settings);
    let steps = (kind != SamplerKind::Ode).then_some(options.steps);
    let (shape, levels) = (opened.checkpoint.shape, opened.checkpoint.vocabulary.levels());
    let (count, step) = (args.count as usize, opened.checkpoint.step);
    let default = opened.run.path().join("samples").join(name(args, kind, &settings, &options, step));
    let out = match args.separate {
        true => args.out.clone().unwrap_or(default),
        false => args.out.clone().unwrap_or_else(|| default.with_added_extension("png")),
    };
    // Before the work, which may take long.
    let unwritable = || format!("cannot write {}", out.display());
    if args.separate {
        room_for(&out, args.count)?;
    } else {
        grid::check_square(count, shape)?;
        target(&out).with_context(unwritable)?;
    }
    if let Some(file) = &args.trajectory {
        let unwritable = || format!("cannot write {}", file.display());
        target(file).with_context(unwritable)?;
        let most = if kind == SamplerKind::Ode { 1 } else { MOST_TRAJECTORIES };
        let numbers = args.first..end.min(args.first.saturating_add(most));
        let (frames, _) = timed("drawing the way", |progress| {
            let mut given = &classes;
            trajectory(
                &opened.model,
                &*sampler,
                numbers.clone(),
                FRAMES,
                &mut given,
                &options,
                &opened.device,
                progress,
            )
        });
        let frames = frames?;
        let images = (numbers.end - numbers.start) as usize;
        let columns = (frames.len() / shape.dims() / (2 * images)).max(1);
        let film = file.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("gif"));
        let picture = if film {
            let moment = |column: usize| -> Vec<u8> {
                // Above, the latents of all images at this moment; below, the estimates.
                let rows = (0..images).map(|image| 2 * image).chain((0..images).map(|image| 2 * image + 1));
                let at = |row: usize| &frames[(row * columns + column) * shape.dims()..][..shape.dims()];
                rows.flat_map(at).copied().collect()
            };
            let moments: Vec<Vec<u8>> = (0..columns).map(moment).collect();
            grid::grid_gif(&moments, shape, levels, images, grid::tile_scale(shape))?
        } else {
            grid::grid_png(&frames, shape, levels, columns, grid::tile_scale(shape))?
        };
        write_bytes(file, &picture).with_context(unwritable)?;
    }
    let draw = |numbers: Range<u64>, progress: &mut Progress| {
        sample_conditioned(&opened.model, &*sampler, numbers, &classes, &options, &opened.device, progress)
    };
    let seconds = if args.separate {
        let kept = tell_when_stopped(args, &out)?;
        let (saved, seconds) = timed("sampling", |progress| {
            // Batch by batch, so that memory does not grow with the images, and what is done is there.
            for first in (args.first..end).step_by(options.batch_size.max(1)) {
                let batch = first..end.min(first.saturating_add(options.batch_size.max(1) as u64));
                let before = (first - args.first) as usize * options.steps;
                let images = draw(batch.clone(), &mut |done, _| progress(before + done, count * options.steps))?;
                let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
                grid::save_images(&out, &images, shape, levels, first)
                    .with_context(|| format!("cannot write to {}", out.display()))?;
                *kept = batch.end - args.first;
            }
            Ok::<_, anyhow::Error>(())
        });
        saved?;
        seconds
    } else {
        let (images, seconds) = timed("sampling", |progress| draw(args.first..end, progress));
        let png = grid::grid_png(&images?, shape, levels, grid::square(count), grid::tile_scale(shape))?;
        write_bytes(&out, &png).with_context(unwritable)?;
        seconds
    };
    if json {
        let object = json!({
            "path": shown(&out), "images": count, "steps": steps, "seed": args.seed, "first": args.first,
            "step": step, "sampler": kind, "grid": steps.map(|_| options.grid), "class": args.class, "guidance": options.guidance, "seconds": seconds,
        });
        outln!("{object}");
    } else {
        let steps = steps.map_or("steps of their own".to_string(), |steps| format!("{steps} steps each"));
        outln!("{count} images in {steps}: {} ({seconds:.1} s)", out.display());
    }
    Ok(())
}

/// Least bytes on a disk of one picture: a block of the usual file systems.
const LEAST_BYTES: u64 = 4096;

/// Refuses a number of pictures that the disk has no room for.
fn room_for(folder: &Path, pictures: u32) -> Result<()> {
    if folder.exists() && !folder.is_dir() {
        bail!("{} is a file; name a folder for the pictures", folder.display());
    }
    let needed = u64::from(pictures) * LEAST_BYTES;
    match free_bytes(folder) {
        Some(free) if free < needed => bail!(
            "{pictures} pictures take at least {} GiB, but {} has {} GiB free; draw fewer with --count",
            needed >> 30,
            folder.display(),
            free >> 30
        ),
        _ => Ok(()),
    }
}

/// Says at Ctrl-C which pictures are there and how to draw the rest, and ends the program. Gives the number of pictures that
/// are there, which the caller keeps up to date; while the caller holds it, a stop waits, so that no picture is cut.
fn tell_when_stopped(args: &Args, folder: &Path) -> Result<Arc<Mutex<u64>>> {
    let kept = Arc::new(Mutex::new(0));
    let (seen, folder) = (kept.clone(), folder.to_path_buf());
    let (first, count) = (args.first, u64::from(args.count));
    on_stop(move || {
        // Held to the end: no picture comes after the message.
        let kept = seen.lock().unwrap_or_else(PoisonError::into_inner);
        say(&format!(
            "stopped: {kept} of {count} pictures are in {}; draw the rest with --first {} --count {}",
            folder.display(),
            first + *kept,
            count - *kept
        ));
        std::process::exit(STOPPED.into());
    })?;
    Ok(kept)
}

/// A name in the run's folder that tells what the samples are, without an ending.
fn name(args: &Args, kind: SamplerKind, settings: &SamplerSettings, options: &SampleOptions, step: u64) -> String {
    let clip = if options.clip { "-clip" } else { "" };
    let class = args.class.map_or(String::new(), |c| format!("-class-{c}"));
    let guidance = if options.guidance == 1.0 { String::new() } else { format!("-guidance-{}", options.guidance) };
    let grid = if options.grid == Grid::Time { String::new() } else { format!("-{:?}", options.grid) };
    let sampler = match kind {
        SamplerKind::Ancestral => String::new(),
        SamplerKind::Ddim => format!("-ddim-eta-{}", settings.eta),
        SamplerKind::Heun => "-heun".into(),
        SamplerKind::DpmPlusPlus2M => "-dpm++-2m".into(),
        SamplerKind::Ode => format!("-ode-{:e}", settings.tolerance.error),
    };
    // The sampler `ode` has steps of its own.
    let (steps, grid) = match kind {
        SamplerKind::Ode => (String::new(), String::new()),
        _ => (format!("-steps-{}", options.steps), grid),
    };
    let name = format!(
        "step-{step:07}-seed-{}-first-{}-count-{}{steps}-{:?}{sampler}{grid}{clip}{class}{guidance}",
        args.seed, args.first, args.count, options.decoder
    );
    name.to_lowercase()
}

/// What the network is told about the images of these numbers: the class that was asked for, or each class in turn.
fn of_classes(args: &Args, classes: usize) -> Result<impl Fn(Range<u64>) -> Conditioning + use<>> {
    match (args.class, args.guidance) {
        (Some(_), _) if classes == 0 => {
            bail!("--class: this run has no classes; train one with `vdm train --class-conditional`")
        }
        (_, Some(_)) if classes == 0 => {
            bail!("--guidance: this run has no classes; train one with `vdm train --class-conditional`")
        }
        (Some(class), _) if class as usize >= classes => {
            bail!("--class {class}: the run knows classes 0 to {}", classes - 1)
        }
        (_, Some(w)) if !(w.is_finite() && w >= 0.0) => bail!("--guidance {w}: the weight must be at least 0"),
        _ => {}
    }
    let class = args.class;
    Ok(move |numbers: Range<u64>| match class {
        Some(class) => Conditioning::of_classes(numbers.map(|_| Some(class))),
        None => Conditioning::classes_in_turn(numbers, classes),
    })
}
