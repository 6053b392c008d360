//! `vdm sample`.

use crate::args::SampleArgs;
use crate::{device, progress, run};
use anyhow::{Context, Result, bail};
use serde_json::json;
use std::ops::Range;
use std::time::Instant;
use vdm::config::MAX_GRID;
use vdm::nn::Conditioning;
use vdm::sample::{SampleOptions, sample_conditioned};
use vdm::train::{grid, load_model, write_bytes};

pub fn run(args: &SampleArgs, json: bool) -> Result<()> {
    if !args.separate && args.count as usize > MAX_GRID {
        bail!("a grid holds at most {MAX_GRID} images; draw {} with --separate", args.count);
    }
    let device = device::open(&args.device)?;
    let (run, config) = run::open(&args.run)?;
    let (model, checkpoint) = load_model(&config, run::checkpoint(&run, args.checkpoint)?, &device)?;
    let options = SampleOptions {
        steps: args.steps.map_or(config.sample.steps, |t| t as usize),
        clip: args.clip || config.sample.clip,
        decoder: args.decoder.map_or(config.sample.decoder, Into::into),
        guidance: args.guidance.unwrap_or(config.sample.guidance),
        seed: args.seed,
        batch_size: args.batch_size.map_or(config.eval.batch_size, |n| n as usize),
    };
    let classes = of_classes(args, config.model.classes)?;
    if args.guidance.is_some_and(|w| w != 1.0) {
        run::knows_images_without_class(&config)?;
    }
    let (shape, levels) = (checkpoint.shape, checkpoint.vocabulary.levels());
    let count = args.count as usize;
    let started = Instant::now();
    let bar = progress::bar("sampling");
    let Some(end) = args.first.checked_add(args.count.into()) else {
        bail!("--first {}: there are no {count} images from there on", args.first);
    };
    let numbers = args.first..end;
    let progress = |done, total| progress::set(&bar, done, total);
    let images = sample_conditioned(&model, shape, numbers, classes, &options, &device, progress)?;
    bar.finish_and_clear();
    let seconds = started.elapsed().as_secs_f64();
    let clip = if options.clip { "-clip" } else { "" };
    let class = args.class.map_or(String::new(), |c| format!("-class-{c}"));
    let guidance = if options.guidance == 1.0 { String::new() } else { format!("-guidance-{}", options.guidance) };
    let default = format!(
        "samples/step-{:07}-seed-{}-first-{}-count-{count}-steps-{}-{:?}{clip}{class}{guidance}",
        checkpoint.step, args.seed, args.first, options.steps, options.decoder
    )
    .to_lowercase();
    let path = if args.separate {
        let folder = args.out.clone().unwrap_or_else(|| run.path().join(default));
        grid::save_images(&folder, &images, shape, levels, args.first)
            .with_context(|| format!("cannot write to {}", folder.display()))?;
        folder
    } else {
        let file = args.out.clone().unwrap_or_else(|| run.path().join(format!("{default}.png")));
        let columns = (count as f64).sqrt().ceil() as usize;
        let png = grid::grid_png(&images, shape, levels, columns, (64 / shape.width.max(1)).max(1))?;
        write_bytes(&file, &png).with_context(|| format!("cannot write {}", file.display()))?;
        file
    };
    if json {
        let object = json!({
            "path": path, "images": count, "steps": options.steps, "seed": args.seed, "first": args.first,
            "step": checkpoint.step, "class": args.class, "guidance": options.guidance, "seconds": seconds,
        });
        println!("{object}");
    } else {
        println!("{count} images in {} steps each: {} ({seconds:.1} s)", options.steps, path.display());
    }
    Ok(())
}

/// What the network is told about the images of these numbers: the class that was asked for, or each class in turn.
fn of_classes(args: &SampleArgs, classes: usize) -> Result<impl Fn(Range<u64>) -> Conditioning + use<>> {
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
    let (class, n) = (args.class, classes as u64);
    Ok(move |numbers: Range<u64>| match n {
        0 => Conditioning::default(),
        n => Conditioning::of_classes(numbers.map(|number| Some(class.unwrap_or((number % n) as u32)))),
    })
}
