//! `vdm report`.

mod parts;

use crate::shared::model::{DataArgs, ModelArgs, Opened, model_file};
use crate::shared::output::{outln, shown};
use crate::shared::progress::timed;
use crate::shared::watch::say;
use anyhow::{Context, Result};
use parts::{Chart, Part, Picture, Report, Series, Table};
use serde_json::json;
use std::path::{Path, PathBuf};
use vdm::data::ImageDataset;
use vdm::diffusion::ReverseVariance;
use vdm::files::{target, write_bytes};
use vdm::likelihood::{Bound, EvalOptions, Evaluation, classes_of, evaluate_conditioned};
use vdm::nn::Conditioning;
use vdm::picture::grid::{check_columns, grid_png, square, tile_scale};
use vdm::run::{MetricsLog, RunDir, loss_over_time};
use vdm::sample::{SampleOptions, SamplerSettings, sample_conditioned};
use vdm::schedule::Schedule;
use vdm::{Progress, bits_per_dim};

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    pub model: ModelArgs,
    /// The page to write: one HTML file that needs nothing else.
    #[arg(short, long, value_name = "FILE")]
    pub out: PathBuf,
    #[command(flatten)]
    pub data: DataArgs,
    /// Validation images that are evaluated, at most.
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..))]
    pub images: u32,
    /// Images that are drawn; 0 for none.
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(0..=400))]
    pub samples: u32,
    /// Steps in which they are drawn.
    #[arg(long, value_name = "T", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=65536))]
    pub steps: u32,
}

/// Pictures of a training that are shown, at most.
const MOST_PICTURES: usize = 5;
/// Bars of the histogram.
const BARS: usize = 24;
/// Images of a row of the likeliest.
const ROW: usize = 10;

pub fn execute(args: &Args, json: bool) -> Result<()> {
    target(&args.out).with_context(|| format!("cannot write {}", args.out.display()))?;
    let opened = args.model.open()?;
    let run = opened.run.clone();
    // What has no picture is refused before the work.
    if args.samples > 0 {
        check_columns(args.samples as usize, opened.checkpoint.shape, columns(args, &opened))?;
    }
    let is_run = run.config().exists() && args.model.run.is_dir();
    let mut parts = Vec::new();

    // What it is.
    let (shape, levels) = (opened.checkpoint.shape, opened.checkpoint.vocabulary.levels());
    let mut facts = vec![
        ("images", format!("{shape} with {levels} levels")),
        ("parameters", burn::module::Module::num_params(&opened.model).to_string()),
        ("steps of training", opened.checkpoint.step.to_string()),
        ("classes", opened.config.model.network.classes().to_string()),
        ("knows its error", if opened.model.errors().is_some() { "yes" } else { "no" }.to_string()),
    ];
    if let Ok(Some(file)) = model_file(&args.model.run) {
        for key in ["bound", "recipe", "licence"] {
            facts.extend(file.about.get(key).map(|text| (key, text.clone())));
        }
    }
    let machine = format!(
        "vdm {} on {} with {} threads",
        env!("CARGO_PKG_VERSION"),
        std::env::consts::ARCH,
        std::thread::available_parallelism().map_or(1, |n| n.get())
    );
    facts.push(("report by", machine));
    let rows = facts.into_iter().map(|(key, value)| vec![key.to_string(), value]).collect();
    parts.push(Part::Table(Table { title: "The model".into(), head: Vec::new(), rows, note: String::new() }));

    if is_run {
        parts.extend(curve(&run)?);
    }
    parts.push(schedule(&opened.model));
    let valid = match opened.validation_split(&args.data) {
        // Who names the data wants them.
        Err(error) if args.data.data_dir.is_some() => return Err(error),
        found => found,
    };
    match &valid {
        Ok(valid) => {
            let data = valid.spread((args.images as usize).min(valid.len()))?;
            let (found, _) = timed("evaluating", |progress| evaluated(&opened, &data, progress));
            parts.extend(found?);
        }
        Err(error) => {
            let note = format!("left out: {error:#}");
            say(&format!("likelihood {note}"));
            parts.push(Part::Table(Table { title: "Likelihood".into(), head: Vec::new(), rows: Vec::new(), note }));
        }
    }
    parts.extend(rates(&opened.model));
    if args.samples > 0 {
        let (drawn, _) = timed("sampling", |progress| samples(args, &opened, progress));
        parts.push(drawn?);
    }
    if is_run {
        parts.extend(history(&run)?);
    }

    let name = args.model.run.file_name().unwrap_or(args.model.run.as_os_str()).to_string_lossy().into_owned();
    let report = Report {
        title: format!("{name}: a variational diffusion model"),
        about: "Numbers are bits per dimension, lower is better; the likelihood is that of validation images. Point at a curve to read it.".into(),
        parts,
        config: opened.config.to_toml()?,
    };
    let page = report.page()?;
    write_bytes(&args.out, page.as_bytes()).with_context(|| format!("cannot write {}", args.out.display()))?;
    if json {
        outln!("{}", json!({ "path": shown(&args.out), "bytes": page.len(), "parts": report.parts.len() }));
    } else {
        outln!("{}: {} KiB, {} parts; open it in a browser", args.out.display(), page.len() >> 10, report.parts.len());
    }
    Ok(())
}

/// The training curve.
fn curve(run: &RunDir) -> Result<Option<Part>> {
    let Ok((steps, evals)) = MetricsLog::read(&run.metrics()) else { return Ok(None) };
    if steps.is_empty() {
        return Ok(None);
    }
    let of = |name: &str, value: fn(&vdm::run::StepLine) -> f64| {
        // Some hundreds of points are as many as a curve shows.
        let every = steps.len().div_ceil(400);
        Series::new(name, steps.iter().step_by(every).map(|line| [line.step as f64, value(line), 0.0]))
    };
    let mut series = vec![
        of("training bound", |line| line.bpd),
        of("diffusion", |line| line.diffusion),
        of("reconstruction", |line| line.reconstruction),
        of("prior", |line| line.prior),
    ];
    let valid = evals.iter().filter(|line| line.eval_split == "valid");
    let valid: Vec<[f64; 3]> =
        valid.map(|line| [line.step as f64, line.eval_bpd, line.eval_bpd_stderr.unwrap_or(0.0)]).collect();
    if !valid.is_empty() {
        series.insert(1, Series::new("validation bound", valid));
    }
    Ok(Some(Part::Chart(Chart {
        title: "Training".into(),
        x: "step".into(),
        y: "bits per dimension".into(),
        cut: true,
        zero: true,
        series,
        ..Default::default()
    })))
}

fn schedule(model: &vdm::run::Model) -> Part {
    let schedule = model.schedule.to_host();
    let points = schedule.evenly(100).into_iter().zip(0..).map(|(gamma, i)| [f64::from(i) / 100.0, gamma, 0.0]);
    Part::Chart(Chart {
        title: "Noise schedule".into(),
        x: "time t".into(),
        y: "gamma(t) = -log signal-to-noise ratio".into(),
        series: vec![Series::new("gamma", points)],
        ..Default::default()
    })
}

/// The bound on images, term by term; its histogram; the loss over time; the likeliest and the least likely images.
fn evaluated(opened: &Opened, data: &ImageDataset, progress: &mut Progress) -> Result<Vec<Part>> {
    let classes = opened.config.model.network.classes();
    let given = |indices: &[usize]| match data.labels().is_some() && data.classes() <= classes {
        true => classes_of(&opened.model.network, data, indices),
        false => Conditioning::default(),
    };
    let options = EvalOptions { repeats: 4, batch_size: opened.config.eval.batch_size, seed: 0 };
    let found = evaluate_conditioned(&opened.model, &Bound, data, given, &options, &opened.device, progress)?;
    let bits: Vec<f64> = found.of_images.iter().map(|image| image.bpd).collect();
    let loss = loss_over_time(&opened.model, data, 64, 24, &opened.device);
    let loss = loss.into_iter().map(|bin| [bin.t, bin.mean, bin.stderr]);
    Ok(vec![
        terms(&found),
        Part::Chart(Chart {
            title: "Bits of single images".into(),
            x: "bits per dimension".into(),
            y: "images".into(),
            zero: true,
            bars: true,
            series: vec![Series::new("images", histogram(&bits))],
            ..Default::default()
        }),
        Part::Chart(Chart {
            title: "Diffusion loss over time".into(),
            x: "time t".into(),
            y: "bits per dimension and unit of time, ± standard error".into(),
            zero: true,
            series: vec![Series::new("loss", loss)],
            ..Default::default()
        }),
        extremes(data, &bits)?,
    ])
}

fn terms(found: &Evaluation) -> Part {
    let number = |x: f64| format!("{x:.4}");
    let error = found.bpd_stderr.map_or(String::new(), |error| format!(" ± {error:.4}"));
    let rows = vec![
        vec!["bound".into(), number(found.bpd) + &error],
        vec!["prior".into(), number(found.prior)],
        vec!["reconstruction".into(), number(found.reconstruction)],
        vec!["diffusion".into(), number(found.diffusion)],
    ];
    let note = format!("{} validation images, {} passes, continuous time", found.images, found.repeats);
    Part::Table(Table { title: "Likelihood".into(), head: Vec::new(), rows, note })
}

/// How many numbers are in each of some equal intervals: its middle, and the count.
fn histogram(numbers: &[f64]) -> Vec<[f64; 3]> {
    let low = numbers.iter().copied().fold(f64::INFINITY, f64::min);
    let high = numbers.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let width = ((high - low) / BARS as f64).max(1e-9);
    let mut counts = [0.0; BARS];
    for number in numbers {
        counts[(((number - low) / width) as usize).min(BARS - 1)] += 1.0;
    }
    counts.iter().enumerate().map(|(i, &count)| [low + (i as f64 + 0.5) * width, count, 0.0]).collect()
}

fn extremes(data: &ImageDataset, bits: &[f64]) -> Result<Part> {
    let mut order: Vec<usize> = (0..bits.len()).collect();
    order.sort_by(|&a, &b| bits[a].total_cmp(&bits[b]));
    let row = ROW.min(order.len());
    let picture = |which: &[usize], caption: &str| -> Result<Picture> {
        let of = |i: Option<&usize>| i.map_or(f64::NAN, |&i| bits[i]);
        let png = grid_png(&data.gather(which), data.shape(), data.levels(), row, tile_scale(data.shape()))?;
        let caption = format!("{caption}: {:.2} to {:.2} bits per dimension", of(which.first()), of(which.last()));
        Ok(Picture { png, caption })
    };
    let pictures =
        vec![picture(&order[..row], "the likeliest")?, picture(&order[order.len() - row..], "the least likely")?];
    Ok(Part::Pictures { title: "Likeliest and least likely validation images".into(), pictures })
}

/// The bound over the number of steps, as the model's table of errors predicts it: what compression takes.
fn rates(model: &vdm::run::Model) -> Option<Part> {
    let table = &model.errors()?.table;
    let steps = [8usize, 16, 32, 64, 100];
    let of = |name: &str, variance: ReverseVariance| {
        let points = steps.iter().filter_map(|&steps| {
            let gammas = table.cheapest_steps(steps, variance).ok()?;
            Some([steps as f64, bits_per_dim(table.bound(&gammas, variance), 1), 0.0])
        });
        Series::new(name, points)
    };
    Some(Part::Chart(Chart {
        title: "Compression: bits over steps".into(),
        x: "steps T".into(),
        y: "bits per dimension, predicted by the model's table of errors".into(),
        log_x: true,
        series: vec![
            of("the posterior's variance", ReverseVariance::Posterior),
            of("wider by step", ReverseVariance::Step),
            of("wider by pixel", ReverseVariance::Pixel),
        ],
        ..Default::default()
    }))
}

/// Columns of the samples: one of each class, or about as many as rows.
fn columns(args: &Args, opened: &Opened) -> usize {
    match opened.config.model.network.classes() {
        0 => square(args.samples as usize),
        classes => classes,
    }
}

fn samples(args: &Args, opened: &Opened, progress: &mut Progress) -> Result<Part> {
    let config = &opened.config.sample;
    let options = SampleOptions {
        steps: args.steps as usize,
        decoder: config.decoder,
        batch_size: opened.config.eval.batch_size,
        ..Default::default()
    };
    let classes = opened.config.model.network.classes();
    let given = |numbers| Conditioning::classes_in_turn(numbers, classes);
    let sampler = config.sampler.sampler(&SamplerSettings::default());
    let numbers = 0..u64::from(args.samples);
    let images = sample_conditioned(&opened.model, &*sampler, numbers, given, &options, &opened.device, progress)?;
    let (shape, levels) = (opened.checkpoint.shape, opened.checkpoint.vocabulary.levels());
    let png = grid_png(&images, shape, levels, columns(args, opened), tile_scale(shape))?;
    let caption = format!("{} samples in {} steps, seed 0", args.samples, args.steps);
    Ok(Part::Pictures { title: "Samples".into(), pictures: vec![Picture { png, caption }] })
}

/// The samples that were drawn during the training.
fn history(run: &RunDir) -> Result<Option<Part>> {
    let folder = run.path().join("samples");
    let mut files: Vec<PathBuf> = match std::fs::read_dir(&folder) {
        Ok(entries) => entries.filter_map(|entry| Some(entry.ok()?.path())).filter(|path| is_of_step(path)).collect(),
        Err(_) => return Ok(None),
    };
    files.sort();
    let every = files.len().div_ceil(MOST_PICTURES).max(1);
    let mut pictures = Vec::new();
    for path in files.iter().rev().step_by(every).rev() {
        let png = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        let caption = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        pictures.push(Picture { png, caption });
    }
    Ok((!pictures.is_empty()).then_some(Part::Pictures { title: "Samples over the training".into(), pictures }))
}

fn is_of_step(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    name.starts_with("step-") && name.ends_with(".png")
}
