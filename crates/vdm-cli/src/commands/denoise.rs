//! `vdm denoise`.

use crate::shared::model::{DataArgs, ModelArgs};
use crate::shared::output::{outln, shown};
use crate::shared::picked;
use crate::shared::progress::timed;
use anyhow::{Context, Result};
use serde_json::json;
use std::path::PathBuf;
use vdm::edit::denoise;
use vdm::files::{target, write_bytes};
use vdm::picture::grid::{check_row, grid_png, tile_scale};
use vdm_kernels::rng::Philox;

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    pub model: ModelArgs,
    /// The noisy image: a file of the run's shape, or a number of the run's test split.
    pub image: String,
    /// Standard deviation of its noise, in levels (of 256, for 8-bit images).
    #[arg(long, value_name = "S")]
    pub noise: f64,
    /// Add this much noise to the image first: to see what the model makes of an image without noise.
    #[arg(long)]
    pub add: bool,
    #[command(flatten)]
    pub data: DataArgs,
    /// Draws of the image beside the expected one.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(0..=1024))]
    pub count: u32,
    /// Steps of a draw.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=65536))]
    pub steps: u32,
    /// Seed of the draws, and of the noise that is added.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Class of the image, for a run with classes. Default there: none.
    #[arg(long, value_name = "C")]
    pub class: Option<u32>,
    /// PNG file: the noisy image, the expected one, and the draws. Default: denoised.png in the run.
    #[arg(short, long, value_name = "FILE")]
    pub out: Option<PathBuf>,
}

pub fn execute(args: &Args, json: bool) -> Result<()> {
    picked::check(&args.data, &[&args.image])?;
    let opened = args.model.open()?;
    let file = picked::out(&opened, args.out.as_ref(), "denoised.png");
    let unwritable = || format!("cannot write {}", file.display());
    target(&file).with_context(unwritable)?;
    let (shape, levels) = (opened.checkpoint.shape, opened.checkpoint.vocabulary.levels());
    check_row(args.count as usize + 3, shape)?;
    let own = picked::image(&opened, &args.data, &args.image)?;
    let noisy = if args.add { with_noise(&own, args.noise, levels, args.seed) } else { own.clone() };
    let given = picked::of_class(&opened, args.class)?;
    let (count, steps) = (args.count as usize, args.steps as usize);
    let (found, seconds) = timed("denoising", |progress| {
        denoise(&opened.model, &noisy, args.noise, count, steps, args.seed, &given, &opened.device, progress)
    });
    let found = found?;
    let mut all = if args.add { own.clone() } else { Vec::new() };
    all.extend(noisy.iter().chain(&found.expected).chain(&found.draws));
    let png = grid_png(&all, shape, levels, count + 3, tile_scale(shape))?;
    write_bytes(&file, &png).with_context(unwritable)?;
    let error = |image: &[u8]| {
        let square = |(a, b): (&u8, &u8)| (f64::from(*a) - f64::from(*b)).powi(2);
        (image.iter().zip(&own).map(square).sum::<f64>() / own.len() as f64).sqrt()
    };
    let errors = args.add.then(|| (error(&noisy), error(&found.expected)));
    if json {
        let (before, after) = errors.unzip();
        outln!("{}", json!({ "path": shown(&file), "rms_noisy": before, "rms_denoised": after, "seconds": seconds }));
    } else {
        outln!("{} ({seconds:.1} s)", file.display());
        if let Some((before, after)) = errors {
            outln!("root mean square error: {before:.2} levels before, {after:.2} after");
        }
    }
    Ok(())
}

/// The image with normal noise, rounded and cut to the levels.
fn with_noise(image: &[u8], noise: f64, levels: usize, seed: u64) -> Vec<u8> {
    let mut normal = vec![0f32; image.len()];
    Philox::new(seed, 0).normal(0, &mut normal);
    let noisy =
        |(&k, n): (&u8, f32)| (f64::from(k) + noise * f64::from(n)).round().clamp(0.0, (levels - 1) as f64) as u8;
    image.iter().zip(normal).map(noisy).collect()
}
