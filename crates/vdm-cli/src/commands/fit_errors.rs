//! `vdm fit-errors`.

use crate::shared::device::DeviceArgs;
use crate::shared::model::{Which, of_model, require_no_class, source};
use crate::shared::output::{outln, shown};
use crate::shared::progress::timed;
use anyhow::{Context, Result, bail};
use serde_json::json;
use std::path::PathBuf;
use vdm::bits_per_dim;
use vdm::data::{Source, Split};
use vdm::diffusion::ReverseVariance;
use vdm::diffusion::error_model::ErrorTable;
use vdm::files::target;
use vdm::run::WhichWeights;
use vdm::train::{FitOptions, fit_error_model};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The model: folder of a run, a file that `vdm export` wrote, or the name of a shipped model (`vdm models`).
    pub model: PathBuf,
    /// The model file to write: the same model, which knows its error.
    #[arg(short, long, value_name = "FILE")]
    pub out: PathBuf,
    /// Which checkpoint of a run.
    #[arg(long, value_enum, default_value_t = Which::Last)]
    pub checkpoint: Which,
    /// Training steps of the small network that tells each pixel's error; 0 for a table by noise level alone.
    #[arg(long, value_name = "N", default_value_t = 2000)]
    pub steps: u32,
    /// Images of a step.
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub batch_size: u32,
    /// Noise levels of the table.
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(u32).range(2..=1024))]
    pub points: u32,
    /// Validation images that the table is measured on.
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..))]
    pub images: u32,
    /// Folder of the data, in place of the model's data.dir.
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Seed of the small network's weights and of all noise.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    #[command(flatten)]
    pub device: DeviceArgs,
}

pub fn execute(args: &Args, json: bool) -> Result<()> {
    let device = args.device.open()?;
    target(&args.out).with_context(|| format!("cannot write {}", args.out.display()))?;
    let file = of_model(&args.model, args.checkpoint, WhichWeights::Ema)?;
    let model = file.model(&args.model, &device)?.with_errors(None);
    require_no_class(&file.config)?;
    let source = source(&file.config, args.data_dir.as_deref())?;
    let (train, valid) = (source.load(Split::Train)?, source.load(Split::Valid)?);
    for data in [&train, &valid] {
        if (data.shape(), data.levels()) != (file.shape, file.vocabulary.levels()) {
            bail!("`{}` has images of {}, the model is for images of {}", data.name(), data.shape(), file.shape);
        }
    }
    let options = FitOptions {
        steps: args.steps as usize,
        batch_size: args.batch_size as usize,
        points: args.points as usize,
        images: args.images as usize,
        seed: args.seed,
    };
    let (errors, seconds) =
        timed("fitting", |progress| fit_error_model(&model, &train, &valid, &options, &device, progress));
    let errors = errors?;
    let file = file.with_errors(&errors);
    file.save(&args.out)?;
    let rows = STEPS.map(|steps| (steps, bounds(&errors.table, steps)));
    if json {
        let rows: Vec<_> = rows
            .iter()
            .map(|(steps, [posterior, step, pixel, placed])| {
                json!({ "timesteps": steps, "posterior": posterior, "step": step, "pixel": pixel, "placed": placed })
            })
            .collect();
        outln!("{}", json!({ "path": shown(&args.out), "seconds": seconds, "predicted_bpd": rows }));
        return Ok(());
    }
    outln!("{}: the model with its error, fitted in {seconds:.1} s", args.out.display());
    outln!("bits per dimension that the table predicts, on validation images:");
    outln!("steps  posterior  by step  by pixel  and placed");
    for (steps, [posterior, step, pixel, placed]) in rows {
        outln!("{steps:5}  {posterior:9.3}  {step:7.3}  {pixel:8.3}  {placed:10.3}");
    }
    Ok(())
}

/// Numbers of steps that the prediction is printed for.
const STEPS: [usize; 6] = [8, 16, 32, 50, 64, 100];

/// The bound that a table predicts in so many steps, in bits per dimension: evenly spaced in time, with each variance, and
/// placed by the table, by pixel.
fn bounds(table: &ErrorTable, steps: usize) -> [f64; 4] {
    let points = table.points();
    let last = points.len() - 1;
    let even: Vec<f64> = (0..=steps).map(|i| points[i * last / steps].gamma).collect();
    let placed = table.cheapest_steps(steps, ReverseVariance::Pixel).unwrap_or_else(|_| even.clone());
    let of = |gammas: &[f64], variance| bits_per_dim(table.bound(gammas, variance), 1);
    let [posterior, step, pixel] = [ReverseVariance::Posterior, ReverseVariance::Step, ReverseVariance::Pixel];
    [of(&even, posterior), of(&even, step), of(&even, pixel), of(&placed, pixel)]
}
