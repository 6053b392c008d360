//! `vdm variance`.

use crate::shared::model::{DataArgs, ModelArgs};
use crate::shared::output::{outln, shown};
use crate::shared::progress::timed;
use anyhow::{Context, Result};
use clap::value_parser;
use serde_json::json;
use std::path::PathBuf;
use vdm::files::write_bytes;
use vdm::likelihood::schedule_variance::{ScheduleVariance, StudyOptions, compare_schedules, standard_schedules};
use vdm::picture::figures;
use vdm::schedule::{HostSchedule, Schedule};

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    pub model: ModelArgs,
    #[command(flatten)]
    pub data: DataArgs,
    /// Images to measure on, spread evenly over the test split; all of it if it has no more. At least 1.
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = value_parser!(u32).range(1..))]
    pub images: u32,
    /// Evaluations of every image with independent times, and as many with low-discrepancy ones, each with fresh noise.
    /// At least 2.
    #[arg(long, value_name = "K", default_value_t = 32, value_parser = value_parser!(u32).range(2..))]
    pub draws: u32,
    /// Images of a batch, of whose mean bound the variance is measured; at most --images. Default: the run's
    /// train.batch_size, or all images if these are fewer.
    #[arg(long, value_name = "N", value_parser = value_parser!(u32).range(1..))]
    pub batch: Option<u32>,
    /// Images that go through the network at a time. Changes nothing but speed and memory. Default: the run's
    /// eval.batch_size.
    #[arg(long, value_name = "N", value_parser = value_parser!(u32).range(1..))]
    pub batch_size: Option<u32>,
    /// Seed of times and noises.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Folder to write the schedules' plot variance-schedules.svg to. Default: plots in the run.
    #[arg(short, long, value_name = "DIR")]
    pub out: Option<PathBuf>,
}

pub fn execute(args: &Args, json: bool) -> Result<()> {
    let opened = args.model.open()?;
    opened.require_no_class()?;
    let test = opened.test_split(&args.data)?;
    let (config, step) = (&opened.config, opened.checkpoint.step);
    let schedules = standard_schedules(&opened.model);

    // First, since it can fail without hours of work being lost.
    let plot = match &args.out {
        Some(folder) => folder.join("variance-schedules.svg"),
        None => opened.run.plot("variance-schedules"),
    };
    let curves: Vec<_> = schedules.iter().map(|(name, schedule)| (name.as_str(), schedule.to_host())).collect();
    let lines: Vec<(&str, &dyn HostSchedule)> = curves.iter().map(|(name, curve)| (*name, curve.as_ref())).collect();
    let svg = figures::schedule_plot(&lines)?;
    write_bytes(&plot, svg.as_bytes()).with_context(|| format!("cannot write {}", plot.display()))?;

    let images = test.len().min(args.images as usize);
    let options = StudyOptions {
        images,
        draws: args.draws as usize,
        batch: args.batch.map_or(config.train.batch_size.min(images), |n| n as usize),
        batch_size: args.batch_size.map_or(config.eval.batch_size, |n| n as usize),
        seed: args.seed,
    };
    let (results, seconds) = timed("measuring", |progress| {
        compare_schedules(&opened.model, &schedules, &test, &options, &opened.device, progress)
    });
    let results = results?;
    // The model's own schedule comes last.
    let learned = results.last().map_or(f64::NAN, |r| r.per_image_variance);
    if json {
        let mut objects = Vec::new();
        for r in &results {
            let mut object = serde_json::to_value(r)?;
            object["ratio_to_learned"] = (r.per_image_variance / learned).into();
            objects.push(object);
        }
        let object = json!({
            "schedules": objects, "images": images, "draws": options.draws, "batch": options.batch, "seed": args.seed,
            "step": step, "plot": shown(&plot), "seconds": seconds,
        });
        outln!("{object}");
        return Ok(());
    }
    outln!(
        "p(x): {images} test images, {0} draws with independent and {0} with low-discrepancy times, batches of {1}, \
         continuous time, after {2} steps",
        options.draws,
        options.batch,
        step
    );
    outln!("bits per dimension, variances in their square; ± 1 standard error of the estimate");
    outln!("");
    print_table(&results, learned)?;
    outln!("");
    outln!("{}", plot.display());
    outln!("{seconds:.1} s");
    Ok(())
}

/// Prints one line per schedule; ratios are to `learned`, the variance per image under the learned schedule.
fn print_table(results: &[ScheduleVariance], learned: f64) -> Result<()> {
    let row = |cells: [&str; 7]| -> Result<()> {
        let [name, bound, difference, image, ratio, independent, spread] = cells;
        outln!("{name:<16} {bound:>16} {difference:>17} {image:>17} {ratio:>10} {independent:>11} {spread:>11}");
        Ok(())
    };
    row(["", "", "bound less that", "variance", "ratio to", "of a batch,", "of a batch,"])?;
    row(["schedule", "bound", "of the first", "of an image", "learned", "independ.", "low-discr."])?;
    for r in results {
        let image_error = r.per_image_variance_stderr.unwrap_or(f64::NAN);
        row([
            &r.name,
            &format!("{:.4} ± {:.4}", r.mean_bpd, r.mean_bpd_stderr),
            &format!("{:.4} ± {:.4}", r.difference_to_first, r.difference_to_first_stderr),
            &format!("{:.4} ± {image_error:.4}", r.per_image_variance),
            &format!("{:.2}", r.per_image_variance / learned),
            &format!("{:.2e}", r.batch_variance_independent),
            &format!("{:.2e}", r.batch_variance_low_discrepancy),
        ])?;
    }
    Ok(())
}
