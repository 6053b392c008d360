//! `vdm score`.

use crate::shared::image_files::read;
use crate::shared::model::{DataArgs, ModelArgs, Opened};
use crate::shared::output::{outln, shown};
use crate::shared::progress::timed;
use anyhow::{Context, Result};
use serde_json::json;
use std::path::PathBuf;
use vdm::Progress;
use vdm::codec::FileKind;
use vdm::data::ImageDataset;
use vdm::files::{target, write_bytes};
use vdm::likelihood::{Bound, EvalOptions, Evaluation, evaluate_conditioned};
use vdm::nn::Conditioning;
use vdm::picture::grid::{grid_png, png_bits_per_dim, tile_scale};
use vdm::stats::{auroc, mean};

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    pub model: ModelArgs,
    /// Images of the run's shape and levels: files, or folders of them. Default: the run's test split.
    pub paths: Vec<PathBuf>,
    #[command(flatten)]
    pub data: DataArgs,
    /// Other images to tell from these: files or folders. Says how well the scores do it (area under the receiver operating
    /// characteristic; 0.5 is chance, and below it the other images are the likelier ones).
    #[arg(long, value_name = "PATH", num_args = 1..)]
    pub against: Vec<PathBuf>,
    /// At most N images of each, spread evenly.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub images: Option<u32>,
    /// Passes over the images.
    #[arg(long, value_name = "K", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=65536))]
    pub repeats: u32,
    /// Seed of times and noises.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Leave out files that hold no image of the run's shape.
    #[arg(long)]
    pub skip_bad: bool,
    /// PNG file for the likeliest images (first row, the likeliest first) and the least likely ones (second row, the least
    /// likely last). Default: scores.png in the run.
    #[arg(short, long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// CSV file for a row per image: name, bits per dimension, standard error, PNG bits per dimension. Default: scores.csv in
    /// the run.
    #[arg(long, value_name = "FILE")]
    pub csv: Option<PathBuf>,
}

/// Images of a row of the sheet.
const ROW: usize = 12;

/// Images with their scores.
struct Scored {
    images: ImageDataset,
    names: Vec<String>,
    found: Evaluation,
    /// Bits per dimension of each image as PNG.
    png: Vec<f64>,
}

impl Scored {
    fn bpd(&self) -> Vec<f64> {
        self.found.of_images.iter().map(|image| image.bpd).collect()
    }

    /// What the model's bits are above the complexity of the image (Serrà et al. 2020, arXiv 1909.11480).
    fn corrected(&self) -> Vec<f64> {
        self.bpd().iter().zip(&self.png).map(|(bpd, png)| bpd - png).collect()
    }
}

pub fn execute(args: &Args, json: bool) -> Result<()> {
    let opened = args.model.open()?;
    opened.require_no_class()?;
    args.data.refuse_beside(&args.paths)?;
    let sheet = args.out.clone().unwrap_or_else(|| opened.run.path().join("scores.png"));
    let csv = args.csv.clone().unwrap_or_else(|| opened.run.path().join("scores.csv"));
    for file in [&sheet, &csv] {
        target(file).with_context(|| format!("cannot write {}", file.display()))?;
    }
    let (own, names) = match args.paths.is_empty() {
        true => {
            let test = opened.test_split(&args.data)?;
            let names = (0..test.len()).map(|i| format!("test {i}")).collect();
            (test, names)
        }
        false => named(args, &opened, &args.paths)?,
    };
    // Read before anything is scored, which may take long.
    let others = (!args.against.is_empty()).then(|| named(args, &opened, &args.against)).transpose()?;
    let (scored, seconds) = timed("scoring", |progress| score(args, &opened, own, names, progress));
    let scored = scored?;
    let other = match others {
        None => None,
        Some((images, names)) => {
            let (scored, _) = timed("scoring the others", |progress| score(args, &opened, images, names, progress));
            Some(scored?)
        }
    };

    let mut order: Vec<usize> = (0..scored.images.len()).collect();
    let bpd = scored.bpd();
    order.sort_by(|&a, &b| bpd[a].total_cmp(&bpd[b]));
    let row = ROW.min(order.len());
    let drawn: Vec<usize> = order[..row].iter().chain(&order[order.len() - row..]).copied().collect();
    let (shape, levels) = (opened.checkpoint.shape, opened.checkpoint.vocabulary.levels());
    let png = grid_png(&scored.images.gather(&drawn), shape, levels, row, tile_scale(shape))?;
    write_bytes(&sheet, &png).with_context(|| format!("cannot write {}", sheet.display()))?;
    write_bytes(&csv, table(&scored).as_bytes()).with_context(|| format!("cannot write {}", csv.display()))?;

    let told_apart = other
        .as_ref()
        .map(|other| (mean(&other.bpd()), auroc(&bpd, &other.bpd()), auroc(&scored.corrected(), &other.corrected())));
    if json {
        let mut object = serde_json::to_value(&scored.found)?;
        object["seconds"] = seconds.into();
        object["png_bpd"] = mean(&scored.png).into();
        object["sheet"] = shown(&sheet).into();
        object["csv"] = shown(&csv).into();
        if let Some((bpd, plain, corrected)) = told_apart {
            object["against"] = json!({ "bpd": bpd, "auroc": plain, "auroc_corrected": corrected });
        }
        outln!("{object}");
        return Ok(());
    }
    let e = &scored.found;
    let error = e.bpd_stderr.map_or(String::new(), |error| format!(" ± {error:.4}"));
    outln!("{} images: {:.4}{error} bits per dimension; as PNG {:.4}", e.images, e.bpd, mean(&scored.png));
    let first_and_last = (&scored.names[order[0]], &scored.names[order[order.len() - 1]]);
    outln!("likeliest   {:.4} {}", bpd[order[0]], first_and_last.0);
    outln!("least likely {:.4} {}", bpd[order[order.len() - 1]], first_and_last.1);
    if let Some((bpd, plain, corrected)) = told_apart {
        outln!("the others: {bpd:.4} bits per dimension");
        outln!("told apart by bits: AUROC {plain:.4}; by bits above those of the PNG: {corrected:.4}");
        outln!("(likelihood alone prefers simple images, whatever they show; the second score corrects for that)");
    }
    outln!("{} and {} ({seconds:.1} s)", sheet.display(), csv.display());
    Ok(())
}

/// The images of these files, and a name for each.
fn named(args: &Args, opened: &Opened, paths: &[PathBuf]) -> Result<(ImageDataset, Vec<String>)> {
    let (shape, levels) = (opened.checkpoint.shape, opened.checkpoint.vocabulary.levels());
    let (files, images) = read(paths, shape, levels, args.skip_bad)?;
    let mut names = Vec::with_capacity(images.len());
    for file in files {
        match file.kind {
            FileKind::Idx { images } | FileKind::Series { images, .. } => {
                names.extend((0..images).map(|i| format!("{} {i}", file.name)))
            }
            FileKind::Png => names.push(file.name),
            // `read` makes none of these.
            FileKind::Tiled { .. } | FileKind::Stored(_) => {}
        }
    }
    Ok((images, names))
}

fn score(
    args: &Args,
    opened: &Opened,
    images: ImageDataset,
    names: Vec<String>,
    progress: &mut Progress,
) -> Result<Scored> {
    let n = images.len();
    let (images, names) = match args.images.map(|most| most as usize) {
        // As `spread` chooses them.
        Some(most) if most < n => (images.spread(most)?, (0..most).map(|i| names[i * n / most].clone()).collect()),
        _ => (images, names),
    };
    let options =
        EvalOptions { repeats: args.repeats as usize, batch_size: opened.config.eval.batch_size, seed: args.seed };
    let nothing = |_: &[usize]| Conditioning::default();
    let found = evaluate_conditioned(&opened.model, &Bound, &images, nothing, &options, &opened.device, progress)?;
    let png: Result<Vec<f64>, _> =
        (0..images.len()).map(|i| png_bits_per_dim(images.image(i), images.shape(), images.levels())).collect();
    Ok(Scored { names, found, png: png?, images })
}

/// The rows of `--csv`.
fn table(scored: &Scored) -> String {
    let mut rows = String::from("name,bpd,bpd_stderr,png_bpd\n");
    for ((name, of), png) in scored.names.iter().zip(&scored.found.of_images).zip(&scored.png) {
        let error = of.bpd_stderr.map_or(String::new(), |error| error.to_string());
        rows += &format!("\"{}\",{},{error},{png}\n", name.replace('"', "\"\""), of.bpd);
    }
    rows
}
