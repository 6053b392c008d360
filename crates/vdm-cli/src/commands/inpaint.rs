//! `vdm inpaint`.

use crate::shared::model::{DataArgs, ModelArgs};
use crate::shared::output::{outln, shown};
use crate::shared::picked;
use crate::shared::progress::timed;
use anyhow::{Context, Result, bail};
use serde_json::json;
use std::path::{Path, PathBuf};
use vdm::ImageShape;
use vdm::edit::{Inpainting, inpaint};
use vdm::files::{target, write_bytes};
use vdm::picture::grid::{check_row, grid_png, tile_scale};

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    pub model: ModelArgs,
    /// The image: a file of the run's shape, or a number of the run's test split.
    pub image: String,
    /// What to draw: an image file of the same size, white where the image is to be drawn anew and black where it stays; or
    /// `top`, `bottom`, `left` or `right` for that half.
    #[arg(long, value_name = "FILE|HALF")]
    pub mask: String,
    #[command(flatten)]
    pub data: DataArgs,
    /// Draws.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub count: u32,
    /// Steps.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=65536))]
    pub steps: u32,
    /// How often each step is done, with noise added again in between.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub repeats: u32,
    /// Seed of the draws.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Class of the image, for a run with classes. Default there: none.
    #[arg(long, value_name = "C")]
    pub class: Option<u32>,
    /// PNG file: the image, the image with the hidden part in grey, and the draws. Default: inpainting.png in the run.
    #[arg(short, long, value_name = "FILE")]
    pub out: Option<PathBuf>,
}

pub fn execute(args: &Args, json: bool) -> Result<()> {
    picked::check(&args.data, &[&args.image])?;
    let opened = args.model.open()?;
    let file = picked::out(&opened, args.out.as_ref(), "inpainting.png");
    let unwritable = || format!("cannot write {}", file.display());
    target(&file).with_context(unwritable)?;
    let (shape, levels) = (opened.checkpoint.shape, opened.checkpoint.vocabulary.levels());
    check_row(args.count as usize + 2, shape)?;
    let (image, known) = (picked::image(&opened, &args.data, &args.image)?, mask(&args.mask, shape)?);
    let given = picked::of_class(&opened, args.class)?;
    let options = Inpainting {
        count: args.count as usize,
        steps: args.steps as usize,
        repeats: args.repeats as usize,
        seed: args.seed,
    };
    let (images, seconds) = timed("inpainting", |progress| {
        inpaint(&opened.model, &image, &known, &options, &given, &opened.device, progress)
    });
    let pixels = known.len();
    let grey = (levels / 2) as u8;
    let hidden = image.iter().enumerate().map(|(i, &k)| if known[i % pixels] { k } else { grey });
    let all: Vec<u8> = image.iter().copied().chain(hidden).chain(images?).collect();
    let png = grid_png(&all, shape, levels, args.count as usize + 2, tile_scale(shape))?;
    write_bytes(&file, &png).with_context(unwritable)?;
    let drawn = known.iter().filter(|known| !**known).count();
    if json {
        outln!("{}", json!({ "path": shown(&file), "images": args.count, "pixels": drawn, "seconds": seconds }));
    } else {
        outln!("{} draws of {drawn} of {pixels} pixels: {} ({seconds:.1} s)", args.count, file.display());
    }
    Ok(())
}

/// Which pixels stay.
fn mask(text: &str, shape: ImageShape) -> Result<Vec<bool>> {
    let (h, w) = (shape.height, shape.width);
    let stays = |y: usize, x: usize| match text {
        "top" => Some(y >= h / 2),
        "bottom" => Some(y < h / 2),
        "left" => Some(x >= w / 2),
        "right" => Some(x < w / 2),
        _ => None,
    };
    if let Some(known) = (0..h * w).map(|i| stays(i / w, i % w)).collect() {
        return Ok(known);
    }
    let path = Path::new(text);
    let open = || format!("--mask {text}: it is none of top, bottom, left, right, and no image file that can be read");
    let reader = image::ImageReader::open(path).with_context(open)?.with_guessed_format().with_context(open)?;
    let found = reader.into_dimensions().with_context(open)?;
    if found != (w as u32, h as u32) {
        bail!(
            "--mask {text}: expected {w} pixels a line and {h} lines, as the images have, found {} and {}",
            found.0,
            found.1
        );
    }
    let picture = image::ImageReader::open(path).with_context(open)?.with_guessed_format().with_context(open)?;
    let grey = picture.decode().with_context(open)?.to_luma8();
    let known: Vec<bool> = grey.pixels().map(|pixel| pixel.0[0] < 128).collect();
    if known.iter().all(|&known| known) {
        bail!("--mask {text}: no pixel is white, so that there is nothing to draw");
    }
    Ok(known)
}
