//! `vdm bench`: the harness that bench/compare.sh sets against the PyTorch twin.

use crate::args::{BenchArgs, BenchPreset, BenchWhat};
use crate::device;
use anyhow::Result;
use burn::module::Module;
use burn::tensor::{Device, Distribution, Tensor, TensorData};
use serde_json::json;
use std::time::Instant;
use vdm::encoding::Vocabulary;
use vdm::nn::{Conditioning, Mode, ScoreUNet, ScoreUNetConfig};
use vdm::schedule::ScheduleConfig;
use vdm::train::{GradientSum, Optimizer};
use vdm::{DiffusionSettings, VariationalDiffusion, bits_per_dim};
use vdm_kernels::rng::Philox;

/// channels, side, n_embd, n_layer, batch: as in the twin.
fn sizes(preset: BenchPreset) -> (usize, usize, usize, usize, usize) {
    match preset {
        BenchPreset::Rgb32 => (3, 32, 64, 4, 16),
        BenchPreset::Gray28 => (1, 28, 32, 4, 32),
        BenchPreset::Digits8 => (1, 8, 32, 4, 64),
    }
}

pub fn run(args: &BenchArgs, json: bool) -> Result<()> {
    let device = device::open(&args.device)?;
    let (channels, side, n_embd, n_layer, batch) = sizes(args.preset);
    let batch = args.batch.map_or(batch, |b| b as usize);
    let network = ScoreUNetConfig { dropout: 0.1, ..ScoreUNetConfig::new(channels, n_embd, n_layer) };
    let schedule = ScheduleConfig::default();
    let settings = DiffusionSettings::new(Vocabulary::new(256).expect("256 levels fit"), &schedule);
    let autodiff = device.clone().autodiff();
    device.seed(0);
    let model = VariationalDiffusion::new(schedule.init(&autodiff), network.init(&autodiff), settings);
    let parameters = model.network.num_params();
    let shape = [batch, channels, side, side];
    let times = match args.what {
        BenchWhat::Train => {
            let mut step = TrainStep::new(model, shape, &device);
            timed(args.seconds, || step.run())
        }
        BenchWhat::Sample => {
            let network = model.valid().network;
            let z = Tensor::<4>::random(shape, Distribution::Normal(0.0, 1.0), &device);
            let t = Tensor::<1>::random([batch], Distribution::Default, &device);
            timed(args.seconds, || {
                let out = network.forward(z.clone(), t.clone(), &Conditioning::default(), Mode::Eval);
                // Other devices compute behind the caller's back.
                let _ = out.device().sync();
            })
        }
    };
    let what = if args.what == BenchWhat::Train { "train" } else { "sample" };
    let preset = format!("{:?}", args.preset).to_lowercase();
    let object = json!({
        "what": format!("vdm {} {what} {preset}", env!("CARGO_PKG_VERSION")),
        "median_ms": round(times[times.len() / 2]),
        "min_ms": round(times[0]),
        "runs": times.len(),
        "threads": rayon::current_num_threads(),
        "parameters": parameters,
        "peak_rss_mib": peak_rss_mib(),
        "batch": batch,
        "cpu": cpu(),
    });
    if json {
        println!("{object}");
    } else {
        println!(
            "{what} {preset}: median {} ms, least {} ms, {} runs, {} threads, {parameters} parameters",
            object["median_ms"], object["min_ms"], object["runs"], object["threads"]
        );
    }
    Ok(())
}

/// What a user's training step does: times and noise, the three loss terms, backward, AdamW and the average.
struct TrainStep {
    model: Option<VariationalDiffusion<ScoreUNet>>,
    optimizer: Optimizer,
    images: Vec<f32>,
    shape: [usize; 4],
    device: Device,
    step: u64,
}

impl TrainStep {
    fn new(model: VariationalDiffusion<ScoreUNet>, shape: [usize; 4], device: &Device) -> Self {
        let mut images = vec![0f32; shape.iter().product()];
        Philox::new(1, 0).uniform(0, &mut images);
        images.iter_mut().for_each(|k| *k = (*k * 256.0).floor());
        let optimizer = Optimizer::new(&model, device);
        Self { model: Some(model), optimizer, images, shape, device: device.clone().autodiff(), step: 0 }
    }

    fn run(&mut self) {
        let Some(model) = self.model.take() else { return };
        let k = Tensor::from_data(TensorData::new(self.images.clone(), self.shape), &self.device);
        let mode = Mode::Train { dropout_seed: self.step };
        let loss = model.draw_loss(k, self.step, &Conditioning::default(), mode);
        let objective = loss.total().mean() * bits_per_dim(1.0, self.shape[1..].iter().product());
        let sum = GradientSum::of(&model, objective.backward());
        let config = vdm::config::preset("cifar10").expect("a preset").train;
        self.step += 1;
        self.model = Some(self.optimizer.step(model, sum, &config, self.step));
        let _ = self.device.sync();
    }
}

/// Milliseconds of each run after three of warm-up, sorted; at least five, for `seconds` at least.
fn timed(seconds: f64, mut f: impl FnMut()) -> Vec<f64> {
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

fn round(ms: f64) -> f64 {
    (ms * 100.0).round() / 100.0
}

/// Largest resident memory of this process so far, where the system tells.
fn peak_rss_mib() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|l| l.starts_with("VmHWM:"))?;
    Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? / 1024)
}

/// The processor's name, where the system tells.
fn cpu() -> Option<String> {
    let info = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = info.lines().find(|l| l.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_string())
}
