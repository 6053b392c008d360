//! `vdm sample`.

use crate::args::SampleArgs;
use crate::{device, progress, run};
use anyhow::{Context, Result, bail};
use serde_json::json;
use std::time::Instant;
use vdm::config::MAX_GRID;
use vdm::sample::{SampleOptions, sample};
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
        seed: args.seed,
        batch_size: args.batch_size.map_or(config.eval.batch_size, |n| n as usize),
    };
    let (shape, levels) = (checkpoint.shape, checkpoint.vocabulary.levels());
    let count = args.count as usize;
    let started = Instant::now();
    let bar = progress::bar("sampling");
    let images = sample(&model, shape, args.first, count, &options, &device, |done, total| {
        progress::set(&bar, done, total);
    });
    bar.finish_and_clear();
    let seconds = started.elapsed().as_secs_f64();
    let clip = if options.clip { "-clip" } else { "" };
    let default = format!(
        "samples/step-{:07}-seed-{}-first-{}-count-{count}-steps-{}-{:?}{clip}",
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
            "step": checkpoint.step, "seconds": seconds,
        });
        println!("{object}");
    } else {
        println!("{count} images in {} steps each: {} ({seconds:.1} s)", options.steps, path.display());
    }
    Ok(())
}
