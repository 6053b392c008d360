//! `vdm train`.

use crate::shared::device::DeviceArgs;
use crate::shared::model::{Which, of_model, open_run};
use crate::shared::output::{outln, shown};
use crate::shared::signals::{STOPPED, on_stop};
use crate::shared::watch::{Watch, say};
use anyhow::{Context, Result, bail};
use burn::tensor::Device;
use serde_json::json;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;
use vdm::config::{Config, resolve};
use vdm::data::Source;
use vdm::files::create_folders;
use vdm::run::{RunDir, WhichWeights};
use vdm::train::{Datasets, Outcome, TrainError, Trainer, Workers};

/// The preset that is trained where none is named.
const DEFAULT: &str = "digits";

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Preset to start from; `vdm presets` lists them.
    #[arg(long, default_value = DEFAULT, conflicts_with = "resume")]
    pub preset: String,
    /// TOML file whose keys override the preset's.
    #[arg(long, value_name = "FILE", conflicts_with = "resume")]
    pub config: Option<PathBuf>,
    /// Start from the weights of a model, with its configuration: the folder of a run, a model file, or a shipped name. To train it
    /// further, on other images (--set data.dir=DIR) or for another loss (--set train.timesteps=T).
    #[arg(long, value_name = "MODEL", conflicts_with_all = ["resume", "preset", "config", "class_conditional"])]
    pub init: Option<PathBuf>,
    /// Single key that overrides both, as section.key=value, e.g. train.steps=1000. May be repeated.
    /// With --resume, only train.steps, train.tensorboard, data.dir and data.cache may change.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub sets: Vec<String>,
    /// Training steps in all: --set train.steps=N.
    #[arg(long, value_name = "N")]
    pub steps: Option<u64>,
    /// Images of a pass: --set train.batch_size=N.
    #[arg(long, value_name = "N", conflicts_with = "resume")]
    pub batch_size: Option<u32>,
    /// Learning rate: --set train.lr=RATE.
    #[arg(long, value_name = "RATE", conflicts_with = "resume")]
    pub lr: Option<f64>,
    /// Seed of everything that is random: --set seed=N.
    #[arg(long, value_name = "N", conflicts_with = "resume")]
    pub seed: Option<u64>,
    /// Tell the network the class of each image: sets model.classes to the number of classes of the data, which must
    /// have labels. The class of every tenth image is left out (train.label_dropout), so that the model knows images
    /// without a class too, and `vdm sample --guidance` works.
    #[arg(long, conflicts_with = "resume")]
    pub class_conditional: bool,
    /// Folder of the run; must not hold one yet. Default: runs/PRESET, or the first of runs/PRESET-2, … that is free.
    #[arg(long, value_name = "DIR", conflicts_with = "resume")]
    pub out: Option<PathBuf>,
    /// Folder of a run to go on with, exactly where its last checkpoint stands.
    #[arg(long, value_name = "RUN")]
    pub resume: Option<PathBuf>,
    /// Go on although the images are others than those that the run was trained on so far.
    #[arg(long, requires = "resume")]
    pub other_data: bool,
    /// Write the metrics and samples for TensorBoard too, to the run's folder `tensorboard`: --set train.tensorboard=true.
    #[arg(long)]
    pub tensorboard: bool,
    /// A worker that computes a part of each batch: the address of a `vdm serve`. May be repeated. The training is the same, bit for
    /// bit, with any workers or none.
    #[arg(long = "worker", value_name = "ADDRESS")]
    pub workers: Vec<String>,
    /// Numbers of several devices of the kind that --device names, which share each batch: `--device cuda --devices 0,1`. All other
    /// work is done on the first.
    #[arg(long, value_name = "N", value_delimiter = ',', conflicts_with = "workers")]
    pub devices: Vec<usize>,
    /// Plain lines on stderr instead of a progress bar. The default where there is no terminal.
    #[arg(long)]
    pub plain: bool,
    #[command(flatten)]
    pub device: DeviceArgs,
}

impl Args {
    /// The keys of --set, and those that have flags of their own.
    fn all_sets(&self) -> Vec<String> {
        let flags = [
            self.steps.map(|n| format!("train.steps={n}")),
            self.batch_size.map(|n| format!("train.batch_size={n}")),
            self.lr.map(|rate| format!("train.lr={rate:?}")),
            self.seed.map(|n| format!("seed={n}")),
            self.tensorboard.then(|| "train.tensorboard=true".into()),
        ];
        self.sets.iter().cloned().chain(flags.into_iter().flatten()).collect()
    }
}

/// The workers that are named, told what is trained.
fn connect(args: &Args, config: &Config, data: &Datasets, device: &Device) -> Result<Option<Workers>> {
    if args.workers.is_empty() {
        return Ok(None);
    }
    if !args.device.is_cpu() {
        bail!("--worker is for trainings on the CPU; several devices of this machine share a batch with --devices");
    }
    let (shape, vocabulary) = (data.train.shape(), data.train.vocabulary());
    Ok(Some(Workers::connect(&args.workers, config, shape, vocabulary, device)?))
}

pub fn execute(args: &Args, json: bool) -> Result<ExitCode> {
    let mut devices = args.device.open_several(&args.devices)?;
    let device = devices.remove(0);
    let started = Instant::now();
    // Before a run begins, so that an address of nobody leaves none behind.
    let workers;
    let (mut trainer, run, config) = match &args.resume {
        Some(path) => {
            let (run, config) = open_run(path)?;
            let config = with_changes(config, &args.all_sets())?;
            let data = Datasets::load(&config)?;
            workers = connect(args, &config, &data, &device)?;
            (Trainer::resume(config.clone(), run.clone(), data, args.other_data, &device)?, run, config)
        }
        None => {
            // Before the images are read, which may take long.
            if let Some(out) = args.out.as_ref().filter(|out| RunDir::new(*out).config().exists()) {
                return Err(TrainError::Exists { path: out.clone() }.into());
            }
            let init = args.init.as_deref().map(|path| of_model(path, Which::Last, WhichWeights::Ema)).transpose()?;
            let mut config = match &init {
                Some(file) => with_sets(&file.config, &args.all_sets())?,
                None => configuration(args)?,
            };
            let data = Datasets::load(&config)?;
            if args.class_conditional {
                if data.classes() == 0 {
                    bail!("the data set `{}` has no labels, which --class-conditional needs", data.train.name());
                }
                let classes = config.model.network.classes();
                if classes > 0 && classes != data.classes() {
                    bail!(
                        "model.classes = {}, but --class-conditional sets it to the {} classes of the data; leave one out",
                        classes,
                        data.classes()
                    );
                }
                config.model.network.set_classes(data.classes());
            }
            workers = connect(args, &config, &data, &device)?;
            let run = RunDir::new(match &args.out {
                Some(out) => out.clone(),
                None => free_folder(&name(args))?,
            });
            let known = args.out.as_ref().is_some_and(|out| out.exists());
            let trainer = match &init {
                Some(file) => Trainer::from_weights(config.clone(), run.clone(), data, &file.weights, &device),
                None => Trainer::new(config.clone(), run.clone(), data, &device),
            };
            let trainer = trainer.inspect_err(|_| {
                // Nothing is left of a folder that was made for a run that cannot be.
                if !known {
                    let _ = std::fs::remove_dir(run.path());
                }
            })?;
            (trainer, run, config)
        }
    };
    trainer = trainer.with_devices(devices)?;
    if let Some(workers) = workers {
        trainer = trainer.with_workers(workers);
    }
    let stop = Arc::new(AtomicBool::new(false));
    let signal = stop.clone();
    on_stop(move || {
        // A second Ctrl-C means it.
        if signal.swap(true, Ordering::SeqCst) {
            std::process::exit(STOPPED.into());
        }
        say("stopping after this step or batch; press Ctrl-C again to stop at once, losing what is not saved");
    })?;

    let from = trainer.step();
    let outcome = {
        let mut watch = Watch::new(args.plain || json, from, config.train.steps, stop);
        trainer.train(&mut watch)?
    };
    let folder = run.path().display();
    let seconds = started.elapsed().as_secs_f64();
    match outcome {
        Outcome::Stopped { step } => {
            if json {
                outln!("{}", json!({"run": shown(run.path()), "step": step, "finished": false, "seconds": seconds}));
            } else {
                outln!("stopped after step {step} of {}, everything is saved", config.train.steps);
                outln!("go on with  vdm train --resume {folder}");
            }
        }
        Outcome::Finished(e) => {
            let samples = run.samples(trainer.step());
            if json {
                let object = json!({
                    "run": shown(run.path()), "step": trainer.step(), "finished": true, "evaluation": *e,
                    "samples": shown(&samples), "seconds": seconds,
                });
                outln!("{object}");
            } else {
                let error = e.bpd_stderr.map_or(String::new(), |error| format!(" ± {error:.4}"));
                outln!("\ntest bound   {:.4}{error} bits per dimension ({} images)", e.bpd, e.images);
                outln!(
                    "             prior {:.4}, reconstruction {:.4}, diffusion {:.4}",
                    e.prior,
                    e.reconstruction,
                    e.diffusion
                );
                outln!("samples      {}", samples.display());
                outln!("plots        {}", run.path().join("plots").display());
                outln!("took         {seconds:.0} s");
                outln!("\ntry next     cargo run --release -- sample {folder} --seed 1");
                outln!("             cargo run --release -- eval {folder} --timesteps 1000");
                outln!("             cargo run --release -- train --preset fashion-mnist");
            }
            return Ok(ExitCode::SUCCESS);
        }
    }
    Ok(STOPPED.into())
}

/// What the folder of a new run is called: after its preset, or the model that it starts from.
fn name(args: &Args) -> String {
    let init = args.init.as_ref().and_then(|path| path.file_stem());
    init.map_or_else(|| args.preset.clone(), |stem| stem.to_string_lossy().into_owned())
}

fn configuration(args: &Args) -> Result<Config> {
    let file = match &args.config {
        Some(path) => {
            let text = std::fs::read_to_string(path)
                .with_context(|| format!("cannot read {}, named by --config", path.display()))?;
            Some((path.display().to_string(), text))
        }
        None => None,
    };
    Ok(resolve(&args.preset, file.as_ref().map(|(p, t)| (p.as_str(), t.as_str())), &args.all_sets())?)
}

/// The same configuration with these keys of --set; all of its keys come from its text, and none from the preset.
fn with_sets(config: &Config, sets: &[String]) -> Result<Config> {
    Ok(resolve(DEFAULT, Some(("config.toml", &config.to_toml()?)), sets)?)
}

/// A resumed run is the same run: only its length, TensorBoard and the place of its data may change.
fn with_changes(config: Config, sets: &[String]) -> Result<Config> {
    let changed = with_sets(&config, sets)?;
    let mut allowed = config.clone();
    allowed.train.steps = changed.train.steps;
    allowed.train.tensorboard = changed.train.tensorboard;
    let (source, mut new) = (&mut allowed.data.source, changed.data.source.clone());
    if let (Some(place), Some(dir)) = (source.dir_mut(), new.dir_mut()) {
        place.clone_from(dir);
    }
    if let (Some(place), Some(cache)) = (source.cache_mut(), new.cache_mut()) {
        place.clone_from(cache);
    }
    if allowed != changed {
        bail!(
            "with --resume, --set may change train.steps, train.tensorboard, data.dir and data.cache only; start a new run to \
             change anything else"
        );
    }
    Ok(allowed)
}

/// Makes the folder runs/NAME, or the first of runs/NAME-2, runs/NAME-3, … that is not there yet: two programs that start at
/// the same time get two folders.
fn free_folder(name: &str) -> Result<PathBuf> {
    let folder = |i: u32| if i == 1 { format!("runs/{name}") } else { format!("runs/{name}-{i}") };
    create_folders(Path::new("runs")).context("cannot make the folder runs")?;
    for path in (1..).map(|i| PathBuf::from(folder(i))) {
        match std::fs::create_dir(&path) {
            Ok(()) => return Ok(path),
            Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
            Err(e) => return Err(e).with_context(|| format!("cannot make the folder {}", path.display())),
        }
    }
    bail!("no folder runs/{name}-N is free; name one with --out")
}
