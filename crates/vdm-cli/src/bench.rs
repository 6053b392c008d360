//! `vdm bench`: the harness that bench/compare.sh sets against the PyTorch twin.

use crate::args::{BenchArgs, BenchPreset, BenchWhat};
use crate::bench_operators::{self, Sizes};
use crate::device;
use anyhow::{Result, bail};
use burn::module::Module;
use burn::tensor::{Device, Distribution, Tensor, TensorData};
use serde_json::json;
use std::time::Instant;
use vdm::encoding::Vocabulary;
use vdm::nn::{Conditioning, Mode, ScoreUNet, ScoreUNetConfig};
use vdm::schedule::{ScheduleConfig, ScheduleKind, ScheduleObjective};
use vdm::train::{Batch, Optimizer, batch_gradients};
use vdm::variance::reduce_variance;
use vdm::{DiffusionSettings, VariationalDiffusion, bits_per_dim};
use vdm_kernels::rng::Philox;

/// Blocks on the way down, as in the twin.
const LAYERS: usize = 4;

/// The preset's sizes, as in the twin, but for what the command line says.
fn sizes(args: &BenchArgs) -> Result<Sizes> {
    let (channels, side, n_embd, batch) = match args.preset {
        BenchPreset::Rgb32 => (3, 32, 64, 16),
        BenchPreset::Gray28 => (1, 28, 32, 32),
        BenchPreset::Digits8 => (1, 8, 32, 64),
    };
    let or = |given: Option<u32>, preset| given.map_or(preset, |n| n as usize);
    let n_embd = or(args.n_embd, n_embd);
    if !n_embd.is_multiple_of(32) {
        bail!("--n-embd {n_embd} is not a multiple of 32, the groups of a normalisation");
    }
    Ok(Sizes { batch: or(args.batch, batch), channels, side: or(args.side, side), n_embd })
}

pub fn run(args: &BenchArgs, json: bool) -> Result<()> {
    let device = device::open(&args.device)?;
    let sizes = sizes(args)?;
    let seconds = args.seconds.unwrap_or(if args.what == BenchWhat::Operators { 0.5 } else { 20.0 });
    if args.what == BenchWhat::Operators {
        return bench_operators::run(sizes, seconds, &device, json);
    }
    let Sizes { batch, channels, side, n_embd } = sizes;
    let network = ScoreUNetConfig { dropout: 0.1, ..ScoreUNetConfig::new(channels, n_embd, LAYERS) };
    let kind = if args.variance { ScheduleKind::Monotonic } else { ScheduleKind::LearnedLinear };
    let schedule = ScheduleConfig { kind, ..Default::default() };
    let settings = DiffusionSettings::new(Vocabulary::new(256).expect("256 levels fit"), &schedule);
    let autodiff = device.clone().autodiff();
    device.seed(0);
    let model = VariationalDiffusion::new(schedule.init(&autodiff), network.init(&autodiff), settings);
    let parameters = model.network.num_params();
    let shape = [batch, channels, side, side];
    let mut variance_ms = None;
    let times = match args.what {
        BenchWhat::Train => {
            variance_ms = args.variance.then(|| reduce_variance_ms(&model, shape, &device));
            let mut step = TrainStep::new(model, shape, args.variance, &device);
            timed(seconds, || step.run())
        }
        _ => {
            let model = model.valid();
            let z = Tensor::<4>::random(shape, Distribution::Normal(0.0, 1.0), &device);
            let t = Tensor::<1>::random([batch], Distribution::Default, &device);
            timed(seconds, || {
                let out = model.predict_noise(z.clone(), t.clone(), &Conditioning::default(), Mode::Eval);
                // Other devices compute behind the caller's back.
                let _ = out.device().sync();
            })
        }
    };
    let what = if args.what == BenchWhat::Train { "train" } else { "sample" };
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
        println!("{object}");
    } else {
        println!(
            "{what} {preset}: median {} ms, least {} ms, {} runs, {} threads, {parameters} parameters",
            object["median_ms"], object["min_ms"], object["runs"], object["threads"]
        );
        if let Some(ms) = variance_ms {
            println!("one reduce_variance, over the whole batch at once: {} ms", round(ms));
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
    model: Option<VariationalDiffusion<ScoreUNet>>,
    optimizer: Optimizer,
    images: Tensor<4>,
    /// What the schedule's shape is trained for.
    objective: ScheduleObjective,
    device: Device,
    step: u64,
}

impl TrainStep {
    fn new(model: VariationalDiffusion<ScoreUNet>, shape: [usize; 4], variance: bool, device: &Device) -> Self {
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

/// Median milliseconds that [`reduce_variance`] takes of a step.
fn reduce_variance_ms(model: &VariationalDiffusion<ScoreUNet>, shape: [usize; 4], device: &Device) -> f64 {
    let k = random_images(shape, &device.clone().autodiff());
    let weight = bits_per_dim(1.0, shape[1..].iter().product()) / shape[0] as f64;
    let times = (0..5)
        .map(|seed| {
            let told = Conditioning::default();
            let loss = model.draw_loss_with_tape(k.clone(), seed, &told, Mode::Train { dropout_seed: seed });
            let (loss, tape) = loss.expect("the model is in continuous time");
            let mut gradients = (loss.total().sum() * weight).backward();
            let started = Instant::now();
            reduce_variance(&model.schedule, &tape, loss.diffusion, &mut gradients, weight)
                .expect("a monotonic schedule, and the gradients of its tape");
            let _ = device.sync();
            1e3 * started.elapsed().as_secs_f64()
        })
        .collect();
    median(times)
}

/// The middle one of some times.
pub fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

/// Milliseconds of each run after three of warm-up, sorted; at least five, for `seconds` at least.
pub fn timed(seconds: f64, mut f: impl FnMut()) -> Vec<f64> {
    for _ in 0..3 {
        f();
    }
    let start = Instant::now();
    let mut times = Vec::new();
    while times.len() < 5 || start.elapsed().as_secs_f64() < seconds {
        let run = Instant::now();
        f();
        times.push(1e3 * run.elapsed().as_secs_f64());
    }
    times.sort_by(f64::total_cmp);
    times
}

pub fn round(ms: f64) -> f64 {
    (ms * 100.0).round() / 100.0
}

/// Largest resident memory of this process so far, where the system tells.
fn peak_rss_mib() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|l| l.starts_with("VmHWM:"))?;
    Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? / 1024)
}

/// What the numbers were measured on, as far as the system tells.
pub fn machine() -> serde_json::Value {
    let field = |file: &str, key: &str| {
        let text = std::fs::read_to_string(file).ok()?;
        let line = text.lines().find(|l| l.starts_with(key))?;
        Some(line.split_once(':')?.1.trim().to_string())
    };
    let kib = field("/proc/meminfo", "MemTotal").and_then(|m| m.split_whitespace().next()?.parse::<u64>().ok());
    json!({
        "cpu": field("/proc/cpuinfo", "model name"),
        "cores": std::thread::available_parallelism().ok().map(usize::from),
        "threads": rayon::current_num_threads(),
        "memory_gib": kib.map(|kib| kib >> 20),
        "system": format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
    })
}
