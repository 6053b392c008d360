//! `vdm bench`: the harness that bench/compare.sh sets against the PyTorch twin.

mod operators;
mod timing;

use crate::shared::device::DeviceArgs;
use crate::shared::output::outln;
use anyhow::{Result, anyhow, bail};
use burn::module::Module;
use burn::tensor::{Device, Distribution, Tensor, TensorData};
use clap::ValueEnum;
use operators::Sizes;
use serde_json::json;
use std::time::Instant;
use timing::{machine, median, peak_rss_mib, round, timed};
use vdm::diffusion::Vocabulary;
use vdm::nn::{AnyNetwork, AnyNetworkConfig, Conditioning, Mode, ScoreUNetConfig, UNetConfig};
use vdm::schedule::{ScheduleConfig, ScheduleObjective, schedule_gradients};
use vdm::train::{Batch, Optimizer, batch_gradients};
use vdm::{DiffusionSettings, ImageShape, VariationalDiffusion, bits_per_dim};
use vdm_kernels::rng::Philox;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// A whole training step, a network evaluation without gradients as in sampling, or each operator by itself beside
    /// the same composed of Burn's own.
    #[arg(value_enum)]
    pub what: What,
    /// Size of images, network and batch.
    #[arg(long, value_enum, default_value_t = Preset::Rgb32)]
    pub preset: Preset,
    /// Train a monotonic schedule for less variance (schedule.objective = "variance"), and say what that costs.
    #[arg(long)]
    pub variance: bool,
    /// Images at a time, in place of the preset's.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub batch: Option<u32>,
    /// Side of the images, in place of the preset's.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub side: Option<u32>,
    /// Channels inside the network, in place of the preset's: a multiple of 32.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(32..))]
    pub n_embd: Option<u32>,
    /// Blocks on the way down, in place of the preset's; not for unet28.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub layers: Option<u32>,
    /// Seconds of measuring, after three runs of warm-up; at least five runs are timed. 20 by default, 0.5 for each
    /// operator.
    #[arg(long)]
    pub seconds: Option<f64>,
    #[command(flatten)]
    pub device: DeviceArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum What {
    Train,
    Sample,
    Operators,
}

/// The presets of the PyTorch twins in bench/pytorch_twin.py and bench/twin_more.py.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Preset {
    /// 3x32x32, 64 channels, 4 layers, batch 16
    Rgb32,
    /// 1x28x28, 32 channels, 4 layers, batch 32
    Gray28,
    /// 1x8x8, 32 channels, 4 layers, batch 64
    Digits8,
    /// The starting project's U-Net: 1x28x28, 32, 64 and 128 channels, batch 32
    Unet28,
    /// The paper's network for CIFAR-10: 3x32x32, 128 channels, 32 layers; batch 8
    Cifar10,
}

/// The preset's network, as in the twin, except for what the command line says.
fn network(args: &Args, n_embd: usize) -> Result<AnyNetworkConfig> {
    let layers = match args.preset {
        Preset::Cifar10 => 32,
        _ => 4,
    };
    Ok(match (args.preset, args.layers) {
        (Preset::Unet28, Some(_)) => bail!("--layers: the levels of unet28 are fixed"),
        (Preset::Unet28, None) => AnyNetworkConfig::UNet(UNetConfig { n_embd, dropout: 0.1, ..Default::default() }),
        (_, given) => {
            let layers = given.map_or(layers, |n| n as usize);
            AnyNetworkConfig::Score(ScoreUNetConfig { dropout: 0.1, ..ScoreUNetConfig::new(1, n_embd, layers) })
        }
    })
}

/// The preset's sizes, as in the twin, except where the command line gives others.
fn sizes(args: &Args) -> Result<Sizes> {
    let (channels, side, n_embd, batch) = match args.preset {
        Preset::Rgb32 => (3, 32, 64, 16),
        Preset::Gray28 => (1, 28, 32, 32),
        Preset::Digits8 => (1, 8, 32, 64),
        Preset::Unet28 => (1, 28, 32, 32),
        Preset::Cifar10 => (3, 32, 128, 8),
    };
    let or = |given: Option<u32>, preset| given.map_or(preset, |n| n as usize);
    let n_embd = or(args.n_embd, n_embd);
    if !n_embd.is_multiple_of(32) {
        bail!("--n-embd {n_embd} is not a multiple of 32, the groups of a normalisation");
    }
    Ok(Sizes { batch: or(args.batch, batch), channels, side: or(args.side, side), n_embd })
}

pub fn execute(args: &Args, json: bool) -> Result<()> {
    let device = args.device.open()?;
    let sizes = sizes(args)?;
    let seconds = args.seconds.unwrap_or(if args.what == What::Operators { 0.5 } else { 20.0 });
    if args.what == What::Operators {
        if args.variance || args.layers.is_some() {
            bail!("--variance and --layers are about a whole network; leave them out");
        }
        return operators::execute(sizes, seconds, &device, json);
    }
    if args.what == What::Sample && args.variance {
        bail!("--variance is about training; leave it out, or measure `train`");
    }
    let Sizes { batch, channels, side, n_embd } = sizes;
    let network = network(args, n_embd)?;
    let schedule = match args.variance {
        true => ScheduleConfig::Monotonic(Default::default()),
        false => ScheduleConfig::default(),
    };
    let image = ImageShape { channels, height: side, width: side };
    network.validate_shape(image).map_err(|reason| anyhow!("{reason}"))?;
    let settings = DiffusionSettings::new(image, Vocabulary::new(256).expect("256 levels fit"), &schedule);
    let autodiff = device.clone().autodiff();
    device.seed(0);
    let model = VariationalDiffusion::new(schedule.init(&autodiff), network.init(channels, &autodiff), settings);
    let parameters = model.network.num_params();
    let shape = image.batch(batch);
    let mut variance_ms = None;
    let times = match args.what {
        What::Train => {
            variance_ms = args.variance.then(|| schedule_gradients_ms(&model, shape, &device));
            let mut step = TrainStep::new(model, shape, args.variance, &device);
            timed(seconds, || step.run())
        }
        _ => {
            let model = model.valid();
            let z = Tensor::<4>::random(shape, Distribution::Normal(0.0, 1.0), &device);
            let gamma = Tensor::<1>::random([batch], Distribution::Uniform(-13.3, 5.0), &device);
            timed(seconds, || {
                let out = model.predict_noise(z.clone(), gamma.clone(), &Conditioning::default(), Mode::Eval);
                // Other devices compute behind the caller's back.
                let _ = out.device().sync();
            })
        }
    };
    let what = if args.what == What::Train { "train" } else { "sample" };
    let preset = format!("{:?}", args.preset).to_lowercase();
    let object = json!({
        "what": format!("vdm {} {what} {preset}", env!("CARGO_PKG_VERSION")),
        "median_ms": round(median(times.clone())),
        "min_ms": round(times[0]),
        "reduce_variance_ms": variance_ms.map(round),
        "runs": times.len(),
        "threads": rayon::current_num_threads(),
        "parameters": parameters,
        "peak_rss_mib": peak_rss_mib(),
        "batch": batch,
        "side": side,
        "n_embd": n_embd,
        "machine": machine(),
    });
    if json {
        outln!("{object}");
    } else {
        outln!(
            "{what} {preset}: median {} ms, least {} ms, {} runs, {} threads, {parameters} parameters",
            object["median_ms"],
            object["min_ms"],
            object["runs"],
            object["threads"]
        );
        if let Some(ms) = variance_ms {
            outln!("one `schedule_gradients`, over the whole batch at once: {} ms", round(ms));
        }
    }
    Ok(())
}

/// Images of random bytes: `[batch, channels, height, width]`.
fn random_images(shape: [usize; 4], device: &Device) -> Tensor<4> {
    let mut images = vec![0f32; shape.iter().product()];
    Philox::new(1, 0).uniform(0, &mut images);
    images.iter_mut().for_each(|k| *k = (*k * 256.0).floor());
    Tensor::from_data(TensorData::new(images, shape), device)
}

/// What a user's training step does: times and noise, the three loss terms, backward, AdamW and the average.
struct TrainStep {
    model: Option<VariationalDiffusion<AnyNetwork>>,
    optimizer: Optimizer,
    images: Tensor<4>,
    /// What the schedule's shape is trained for.
    objective: ScheduleObjective,
    device: Device,
    step: u64,
}

impl TrainStep {
    fn new(model: VariationalDiffusion<AnyNetwork>, shape: [usize; 4], variance: bool, device: &Device) -> Self {
        let objective = if variance { ScheduleObjective::Variance } else { ScheduleObjective::Bound };
        let optimizer = Optimizer::new(&model, device);
        let images = random_images(shape, device);
        Self { model: Some(model), optimizer, images, objective, device: device.clone(), step: 0 }
    }

    fn run(&mut self) {
        let Some(model) = self.model.take() else { return };
        let k = self.images.clone();
        let batch = Batch::draw(k, self.step, Conditioning::default());
        let (sum, _) = batch_gradients(&model, batch, self.objective).expect("the model is in continuous time");
        let config = vdm::config::preset("cifar10").expect("a preset").train;
        self.step += 1;
        self.model = Some(self.optimizer.step(model, sum, &config, self.step));
        let _ = self.device.sync();
    }
}

/// Median milliseconds that [`schedule_gradients`] takes of a step.
fn schedule_gradients_ms(model: &VariationalDiffusion<AnyNetwork>, shape: [usize; 4], device: &Device) -> f64 {
    let k = random_images(shape, &device.clone().autodiff());
    let weight = bits_per_dim(1.0, shape[1..].iter().product()) / shape[0] as f64;
    let times = (0..5)
        .map(|seed| {
            let told = Conditioning::default();
            let loss = model.draw_loss_with_tape(k.clone(), seed, &told, Mode::Train { dropout_seed: seed });
            let (loss, tape) = loss.expect("the model is in continuous time");
            let mut gradients = (loss.total().sum() * weight).backward();
            let started = Instant::now();
            schedule_gradients(&model.schedule, &tape, loss.diffusion, &mut gradients, weight)
                .expect("a monotonic schedule, and the gradients of its tape");
            let _ = device.sync();
            1e3 * started.elapsed().as_secs_f64()
        })
        .collect();
    median(times)
}
