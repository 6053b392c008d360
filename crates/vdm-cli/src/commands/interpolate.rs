//! `vdm interpolate`.

use crate::shared::model::{DataArgs, ModelArgs};
use crate::shared::output::{outln, shown};
use crate::shared::picked;
use crate::shared::progress::timed;
use anyhow::{Context, Result};
use serde_json::json;
use std::path::PathBuf;
use vdm::edit::interpolate;
use vdm::files::{target, write_bytes};
use vdm::flow::Tolerance;
use vdm::picture::grid::{check_row, grid_png, tile_scale};

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    pub model: ModelArgs,
    /// The first image: a file of the run's shape, or a number of the run's test split.
    pub from: String,
    /// The last image.
    pub to: String,
    #[command(flatten)]
    pub data: DataArgs,
    /// Images in all, both ends included. At least 2.
    #[arg(long, default_value_t = 9, value_parser = clap::value_parser!(u32).range(2..=1024))]
    pub count: u32,
    /// Error of a step of the flow that is allowed.
    #[arg(long, value_name = "E", default_value_t = 1e-4)]
    pub tolerance: f64,
    /// Class of all images, for a run with classes. Default there: none.
    #[arg(long, value_name = "C")]
    pub class: Option<u32>,
    /// PNG file for the row of images. Default: interpolation.png in the run.
    #[arg(short, long, value_name = "FILE")]
    pub out: Option<PathBuf>,
}

pub fn execute(args: &Args, json: bool) -> Result<()> {
    picked::check(&args.data, &[&args.from, &args.to])?;
    let opened = args.model.open()?;
    let file = picked::out(&opened, args.out.as_ref(), "interpolation.png");
    let unwritable = || format!("cannot write {}", file.display());
    target(&file).with_context(unwritable)?;
    let (shape, levels) = (opened.checkpoint.shape, opened.checkpoint.vocabulary.levels());
    check_row(args.count as usize, shape)?;
    let [from, to] = [&args.from, &args.to].map(|text| picked::image(&opened, &args.data, text));
    let (from, to, given) = (from?, to?, picked::of_class(&opened, args.class)?);
    let (tolerance, count) = (Tolerance::new(args.tolerance), args.count as usize);
    let (images, seconds) = timed("interpolating", |progress| {
        interpolate(&opened.model, &from, &to, count, &given, &tolerance, &opened.device, progress)
    });
    let png = grid_png(&images?, shape, levels, count, tile_scale(shape))?;
    write_bytes(&file, &png).with_context(unwritable)?;
    if json {
        outln!("{}", json!({ "path": shown(&file), "images": count, "seconds": seconds }));
    } else {
        outln!("{count} images: {} ({seconds:.1} s)", file.display());
    }
    Ok(())
}
