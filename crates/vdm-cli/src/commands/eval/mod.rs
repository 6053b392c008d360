//! `vdm eval`.

#[cfg(feature = "parquet")]
mod parquet_rows;
mod rows;

use crate::shared::model::{DataArgs, ModelArgs};
use crate::shared::output::outln;
use crate::shared::progress::timed;
use crate::shared::steps::WidthArgs;
use crate::shared::words::word;
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::path::PathBuf;
use vdm::diffusion::MAX_TIMESTEPS;
use vdm::files::write_bytes;
use vdm::flow::Tolerance;
use vdm::flow::divergence::Trace;
use vdm::likelihood::{
    EstimatorKind, EstimatorOption, EstimatorSettings, EvalOptions, Evaluation, classes_of, evaluate_conditioned,
};
use vdm::nn::Conditioning;

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    pub model: ModelArgs,
    #[command(flatten)]
    pub data: DataArgs,
    /// How -log p(x) is estimated.
    #[arg(long, value_name = "NAME", value_parser = word::<EstimatorKind>, default_value = "bound")]
    pub estimator: EstimatorKind,
    /// Draws of the latents for one estimate of an image, for the estimators `importance` and `ode`.
    /// Default: 1.
    #[arg(long, value_name = "K", value_parser = clap::value_parser!(u32).range(1..=65536))]
    pub draws: Option<u32>,
    /// How the estimator `ode` finds the divergence of the flow: `rademacher` or `gaussian` vectors, or `exact` for images of
    /// at most 256 dimensions.
    /// Default: rademacher.
    #[arg(long, value_name = "HOW", value_parser = word::<Trace>)]
    pub trace: Option<Trace>,
    /// Random vectors for it. Default: 1.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub probes: Option<u32>,
    /// Error of a step that the estimator `ode` allows. Default: 0.0001.
    #[arg(long, value_name = "E")]
    pub tolerance: Option<f64>,
    /// Also write a row for each image to this file: index, label, bits per dimension, its standard error over passes, and the
    /// terms. As CSV, or as Parquet if its name ends in .parquet and the program was built with that feature.
    #[arg(long, value_name = "FILE")]
    pub per_image: Option<PathBuf>,
    /// Which images: the `test` split, for the final number, or the `validation` images, to choose with.
    #[arg(long, value_name = "NAME", value_enum, default_value = "test")]
    pub split: Images,
    /// Passes over them, each with other times and fresh noise. At least 1. Default: the run's eval.repeats.
    #[arg(long, value_name = "K", value_parser = clap::value_parser!(u32).range(1..))]
    pub repeats: Option<u32>,
    /// Steps T of the discrete-time bound, 1 to 65536; 0 for continuous time. Default: the run's train.timesteps.
    #[arg(long, value_name = "T", value_parser = clap::value_parser!(u32).range(0..=MAX_TIMESTEPS as i64))]
    pub timesteps: Option<u32>,
    /// Only N images, spread evenly over the split. Default: all.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub images: Option<u32>,
    /// Seed of times and noises.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Images at a time. Changes nothing but speed and memory. Default: the run's eval.batch_size.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub batch_size: Option<u32>,
    #[command(flatten)]
    pub width: WidthArgs,
    /// Leave the classes out: the bound on p(x) of a model with classes, in place of that on p(x | class).
    #[arg(long)]
    pub without_classes: bool,
}

/// Images that no model is trained on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Images {
    Test,
    Validation,
}

impl Images {
    fn name(self) -> &'static str {
        match self {
            Self::Test => "test",
            Self::Validation => "validation",
        }
    }
}

pub fn execute(args: &Args, json: bool) -> Result<()> {
    let opened = args.model.open()?;
    if args.without_classes {
        opened.require_no_class()?;
    }
    let config = &opened.config;
    let data = match args.split {
        Images::Test => opened.test_split(&args.data)?,
        Images::Validation => opened.validation_split(&args.data)?,
    };
    let data = match args.images.map(|n| n as usize) {
        Some(n) if n < data.len() => data.spread(n)?,
        _ => data,
    };
    let classes = config.model.network.classes();
    if data.classes() > classes && classes > 0 && !args.without_classes {
        bail!(
            "the run knows {classes} classes, `{}` has {}; evaluate it with --without-classes",
            data.name(),
            data.classes()
        );
    }
    if classes > 0 && data.labels().is_none() && !args.without_classes {
        bail!("`{}` has no labels; evaluate the bound on p(x) with --without-classes", data.name());
    }
    let options = EvalOptions {
        repeats: args.repeats.map_or(config.eval.repeats, |k| k as usize),
        batch_size: args.batch_size.map_or(config.eval.batch_size, |n| n as usize),
        seed: args.seed,
    };
    let timesteps = args.timesteps.map_or(config.train.timesteps, |t| t as usize);
    let of_ode = "for the estimator `ode`";
    let given = [
        (
            "timesteps",
            args.timesteps.is_some(),
            EstimatorOption::Timesteps,
            "for the estimators `bound` and `importance`",
        ),
        (
            "draws",
            args.draws.is_some(),
            EstimatorOption::Draws,
            "for `importance` and `ode`; the passes of `bound` are --repeats",
        ),
        ("trace", args.trace.is_some(), EstimatorOption::Trace, of_ode),
        ("probes", args.probes.is_some(), EstimatorOption::Probes, of_ode),
        ("tolerance", args.tolerance.is_some(), EstimatorOption::Tolerance, of_ode),
    ];
    let unused = |(_, given, option, _): &&(_, bool, EstimatorOption, _)| *given && !args.estimator.uses(*option);
    if let Some((name, .., whose)) = given.iter().find(unused) {
        bail!("--{name} is {whose}; leave it out, or choose another estimator with --estimator");
    }
    if args.probes.is_some() && args.trace == Some(Trace::Exact) {
        bail!("--probes is for the traces `rademacher` and `gaussian`; leave it out, `exact` has none");
    }
    let variance = args.width.variance(&opened.model)?;
    if args.width.reverse_variance.is_some() && (timesteps == 0 || args.estimator == EstimatorKind::Ode) {
        bail!(
            "--reverse-variance is about a bound in steps: name them with --timesteps T, of --estimator bound or importance"
        );
    }
    let model = opened.model.with_reverse_variance(variance)?.with_timesteps((timesteps > 0).then_some(timesteps));
    let classes_of = |indices: &[usize]| match args.without_classes {
        true => Conditioning::default(),
        false => classes_of(&model.network, &data, indices),
    };
    let unwritable = |file: &PathBuf| format!("cannot write {}", file.display());
    if let Some(file) = &args.per_image {
        // Before the work, which may take long.
        rows::check(file).with_context(|| unwritable(file))?;
    }
    let usual = EstimatorSettings::default();
    let settings = EstimatorSettings {
        draws: args.draws.map_or(usual.draws, |n| n as usize),
        tolerance: args.tolerance.map_or(usual.tolerance, Tolerance::new),
        trace: args.trace.unwrap_or(usual.trace),
        probes: args.probes.map_or(usual.probes, |n| n as usize),
    };
    let estimator = args.estimator.estimator(&settings);
    let (found, seconds) = timed("evaluating", |progress| {
        evaluate_conditioned(&model, &*estimator, &data, classes_of, &options, &opened.device, progress)
    });
    let evaluation = found?;
    if let Some(file) = &args.per_image {
        write_bytes(file, &rows::bytes(file, &evaluation, &data)?).with_context(|| unwritable(file))?;
    }
    let found = Found {
        evaluation,
        estimator: args.estimator,
        seconds,
        step: opened.checkpoint.step,
        split: args.split,
        conditional: classes > 0 && !args.without_classes,
    };
    if json {
        outln!("{}", found.json()?);
        return Ok(());
    }
    found.print()
}

struct Found {
    evaluation: Evaluation,
    estimator: EstimatorKind,
    seconds: f64,
    step: u64,
    split: Images,
    conditional: bool,
}

impl Found {
    fn json(&self) -> Result<Value> {
        let mut object = serde_json::to_value(&self.evaluation)?;
        object["estimator"] = serde_json::to_value(self.estimator)?;
        object["seconds"] = self.seconds.into();
        object["step"] = self.step.into();
        object["split"] = self.split.name().into();
        object["conditional"] = self.conditional.into();
        Ok(object)
    }

    fn print(&self) -> Result<()> {
        let e = &self.evaluation;
        let time = e.timesteps.map_or("continuous time".to_string(), |t| format!("{t} steps"));
        let of = if self.conditional { "p(x | class)" } else { "p(x)" };
        outln!(
            "{of}: {} {} images, {} passes, {time}, after {} steps",
            e.images,
            self.split.name(),
            e.repeats,
            self.step
        );
        let name = serde_json::to_value(self.estimator)?;
        let name = name.as_str().unwrap_or_default();
        match e.bpd_stderr {
            Some(error) => {
                outln!("{name:<14} {:.4} ± {error:.4} bits per dimension (standard error over images)", e.bpd)
            }
            None => {
                outln!("{name:<14} {:.4} bits per dimension (of one image: its standard error is not known)", e.bpd)
            }
        }
        if let Some(noise) = e.bpd_stderr_noise {
            outln!("               ± {noise:.4} from the noise of the estimate alone");
        }
        outln!("prior          {:.4}", e.prior);
        outln!("reconstruction {:.4}", e.reconstruction);
        outln!("diffusion      {:.4}", e.diffusion);
        outln!("{:.1} s, {:.0} evaluations of the network per image", self.seconds, e.nfe);
        Ok(())
    }
}
