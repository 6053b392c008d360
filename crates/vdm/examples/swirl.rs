//! The shortest full tour: a variational diffusion model of points in the plane, from the data to a picture of samples.
//!
//! ```sh
//! cargo run --release --example swirl [PICTURE.svg]
//! ```
//!
//! A point is an image of one pixel whose two channels are its coordinates, 1024 levels each. So the bound is in bits
//! per dimension, as for any image, and it is known where it belongs: below the 10 bits that a level takes without a
//! model, and above the entropy of the distribution that the points come from.
#![allow(clippy::disallowed_methods)]

use burn::module::Module;
use burn::nn::{Linear, LinearConfig};
use burn::tensor::activation::{sigmoid, silu};
use burn::tensor::{Device, Tensor, TensorData};
use plotters::prelude::{
    BLACK, ChartBuilder, Circle, Color, IntoDrawingArea, PathElement, RGBColor, SVGBackend, WHITE,
};
use std::error::Error;
use std::f64::consts::PI;
use std::time::Instant;
use vdm::config::{TrainConfig, preset};
use vdm::diffusion::{Posterior, Vocabulary};
use vdm::nn::{Conditioning, Mode, ScoreNetwork};
use vdm::schedule::{HostSchedule, LearnableScheduleConfig, Schedule, ScheduleConfig, schedule_gradients};
use vdm::stats::standard_error;
use vdm::train::{GradientSum, Optimizer};
use vdm::{DiffusionSettings, ImageShape, VariationalDiffusion, bits_per_dim, weights};
use vdm_kernels::rng::Philox;

const SEED: u64 = 0;
const LEVELS: usize = 1024;
/// Standard deviation of the swirl around its centre line, in a square from -1 to 1.
const WIDTH: f64 = 0.03;
/// The schedule's endpoints before training. sigma_0 = e^-6 is 1.3 levels: far below the swirl's width.
const GAMMA: (f64, f64) = (-12.0, 5.0);
const STEPS: u64 = 2000;
const BATCH: usize = 256;

/// The levels of both coordinates, whole numbers.
type Point = [f32; 2];
type Model = VariationalDiffusion<Mlp>;

fn main() -> Result<(), Box<dyn Error>> {
    let path = std::env::args().nth(1).unwrap_or_else(|| "target/swirl.svg".into());
    let (start, cpu) = (Instant::now(), Device::flex());
    let held_out = swirl(0, 4096);
    println!("no model {:.3}, entropy {:.3} bits per dimension", (LEVELS as f64).log2(), entropy(&held_out));

    let k = tensor(&held_out, &cpu);
    let model = train(&k)?;
    let (bits, error) = bound(&model, &k, 64);
    println!("bound {bits:.3} ± {error:.3} bits per dimension");

    let samples = sample(&model, 1000, 250, &cpu);
    let svg = picture(&held_out[..1000], &samples, &*model.schedule.to_host())?;
    std::fs::write(&path, svg).map_err(|error| format!("{path}: {error}"))?;
    println!("{path}, after {:.1} s", start.elapsed().as_secs_f64());
    Ok(())
}

// 1. Data: a noisy spiral, as much of it as is asked for. The stream names the points.
fn swirl(stream: u64, count: usize) -> Vec<Point> {
    let rng = Philox::new(SEED, stream);
    let (mut along, mut noise) = (vec![0f32; count], vec![[0f32; 2]; count]);
    rng.uniform(0, &mut along);
    rng.normal(1, noise.as_flattened_mut());
    let level = |x: f64| ((x + 1.0) / 2.0 * LEVELS as f64).floor().clamp(0.0, LEVELS as f64 - 1.0) as f32;
    let point = |(&u, noise): (&f32, &Point)| {
        let on = centre_line(f64::from(u));
        [0, 1].map(|c| level(on[c] + WIDTH * f64::from(noise[c])))
    };
    along.iter().zip(&noise).map(point).collect()
}

/// One and a half turns outwards as `u` goes from 0 to 1.
fn centre_line(u: f64) -> [f64; 2] {
    let angle = 1.5 * PI * (1.0 + 2.0 * u);
    [angle.cos(), angle.sin()].map(|x| angle / 16.0 * x)
}

fn vocabulary() -> Vocabulary {
    Vocabulary::new(LEVELS).expect("a number of levels in 2..=65536")
}

/// Mean of -log p(k) under the true distribution p, in bits per dimension: no model's is lower, except by chance.
fn entropy(points: &[Point]) -> f64 {
    let line: Vec<[f64; 2]> = (0..1000).map(|i| centre_line((f64::from(i) + 0.5) / 1000.0)).collect();
    let level_area = (2.0 / LEVELS as f64).powi(2);
    let nats = |k: &Point| {
        let [x, y] = k.map(|k| vocabulary().code(k as usize));
        let bell = |on: &[f64; 2]| (-((x - on[0]).powi(2) + (y - on[1]).powi(2)) / (2.0 * WIDTH * WIDTH)).exp();
        let density = line.iter().map(bell).sum::<f64>() / (line.len() as f64 * 2.0 * PI * WIDTH * WIDTH);
        -(density * level_area).ln()
    };
    bits_per_dim(points.iter().map(nats).sum::<f64>() / points.len() as f64, 2)
}

/// `[points, 2, 1, 1]`
fn tensor(points: &[Point], device: &Device) -> Tensor<4> {
    Tensor::from_data(TensorData::new(points.as_flattened().to_vec(), [points.len(), 2, 1, 1]), device)
}

// 2. Network: anything that predicts the noise in z. Here Fourier features of z and the time, and three hidden layers.
#[derive(Module, Debug)]
struct Mlp {
    hidden: Vec<Linear>,
    out: Linear,
}

impl Mlp {
    const OCTAVES: usize = 4;

    fn new(device: &Device) -> Self {
        let layer = |[d_in, d_out]: [usize; 2]| LinearConfig::new(d_in, d_out).init(device);
        let features = 3 * (1 + 2 * Self::OCTAVES);
        Self { hidden: [[features, 128], [128, 128], [128, 128]].map(layer).into(), out: layer([128, 2]) }
    }
}

impl ScoreNetwork for Mlp {
    fn forward(&self, z: Tensor<4>, time: Tensor<1>, _: &Conditioning, _: Mode) -> Tensor<4> {
        let dims = z.dims();
        let z: Tensor<2> = z.reshape([dims[0], 2]);
        let time: Tensor<2> = time.unsqueeze_dim(1);
        // Were the data standard normal, the answer would be sigma z; the layers learn what is missing.
        let sigma = sigmoid(time.clone() * (GAMMA.1 - GAMMA.0) + GAMMA.0).sqrt();
        let base = z.clone() * sigma;
        let inputs = Tensor::cat(vec![z, time], 1);
        let mut features = vec![inputs.clone()];
        for octave in 0..Self::OCTAVES {
            let angle = inputs.clone() * (PI * f64::from(1u32 << octave));
            features.extend([angle.clone().sin(), angle.cos()]);
        }
        let mut h = Tensor::cat(features, 1);
        for layer in &self.hidden {
            h = silu(layer.forward(h));
        }
        (base + self.out.forward(h)).reshape(dims)
    }
}

// 3. Model: the network and a schedule whose shape and endpoints are learned.
fn untrained(device: &Device) -> Model {
    let (gamma_0, gamma_1) = GAMMA;
    let schedule = LearnableScheduleConfig { hidden: vec![16, 16], gamma_0, gamma_1, ..Default::default() };
    let schedule = ScheduleConfig::Monotonic(schedule);
    // A point is an image of one pixel and two channels.
    let shape = ImageShape { channels: 2, height: 1, width: 1 };
    let settings = DiffusionSettings::new(shape, vocabulary(), &schedule);
    VariationalDiffusion::new(schedule.init(device), Mlp::new(device), settings)
}

// 4. Training: network and endpoints lower the bound, the schedule's shape lowers the variance of its estimate. What
// comes back is the moving average of the weights.
fn train(held_out: &Tensor<4>) -> Result<Model, Box<dyn Error>> {
    let (cpu, device) = (Device::flex(), Device::flex().autodiff());
    device.seed(SEED);
    let mut model = untrained(&device);
    let mut optimizer = Optimizer::new(&model, &cpu);
    let preset = preset("digits").ok_or("there is no preset `digits`")?;
    let recipe = TrainConfig { lr: 2e-3, ema_decay: 0.995, ..preset.train };
    let averaged = |model: &Model, optimizer: &Optimizer| weights::import(model.valid(), &optimizer.ema_weights(model));
    for step in 1..=STEPS {
        let k = tensor(&swirl(step, BATCH), &device);
        let mode = Mode::Train { dropout_seed: step };
        let (loss, tape) = model.draw_loss_with_tape(k, step, &Conditioning::default(), mode)?;
        let mut gradients = (loss.total().mean() * bits_per_dim(1.0, 2)).backward();
        schedule_gradients(&model.schedule, &tape, loss.diffusion, &mut gradients, bits_per_dim(1.0, 2 * BATCH))?;
        let gradients = GradientSum::of(&model, gradients);
        model = optimizer.step(model, gradients, &recipe, step);
        if step % 250 == 0 {
            let (bits, error) = bound(&averaged(&model, &optimizer)?, held_out, 4);
            println!("step {step:4}: bound {bits:.3} ± {error:.3}");
        }
    }
    Ok(averaged(&model, &optimizer)?)
}

// 5. Bound: the mean over passes with fresh times and noise, and its standard error, in bits per dimension.
fn bound(model: &Model, k: &Tensor<4>, passes: u64) -> (f64, f64) {
    let pass = |seed: u64| {
        let loss = model.draw_loss(k.clone(), u64::MAX - seed, &Conditioning::default(), Mode::Eval);
        bits_per_dim(loss.total().mean().into_scalar::<f64>(), 2)
    };
    let bits: Vec<f64> = (0..passes).map(pass).collect();
    (bits.iter().sum::<f64>() / bits.len() as f64, standard_error(&bits).unwrap_or(f64::NAN))
}

// 6. Samples: from noise z_1 step by step to z_0, and the most probable levels.
fn sample(model: &Model, count: usize, steps: usize, device: &Device) -> Vec<Point> {
    let rng = Philox::new(SEED, u64::MAX);
    let noise = |draw: u32| {
        let mut noise = vec![[0f32; 2]; count];
        rng.normal(draw, noise.as_flattened_mut());
        tensor(&noise, device)
    };
    let schedule = model.schedule.to_host();
    let gammas: Vec<f64> = (0..=steps).rev().map(|i| schedule.gamma(i as f64 / steps as f64)).collect();
    let mut z = noise(0);
    for (draw, pair) in (1..).zip(gammas.windows(2)) {
        let step = Posterior::new(pair[0], pair[1]);
        let gamma = Tensor::full([count], step.gamma_t, device);
        let eps_hat = model.predict_noise(z.clone(), gamma, &Conditioning::default(), Mode::Eval);
        z = step.draw(z, eps_hat, noise(draw));
    }
    let level = |z: f32| f32::from(vocabulary().argmax(z, gammas[steps]));
    let levels: Vec<f32> = z.into_data().iter::<f32>().map(level).collect();
    levels.as_chunks::<2>().0.to_vec()
}

// 7. Picture: data, samples and the learned schedule.
fn picture(data: &[Point], samples: &[Point], schedule: &dyn HostSchedule) -> Result<String, Box<dyn Error>> {
    let (blue, grey) = (RGBColor(0, 114, 178), RGBColor(160, 160, 160));
    let dots = |points: &[Point]| -> Vec<(f64, f64)> { points.iter().map(|k| (k[0].into(), k[1].into())).collect() };
    let square = || [0.0..LEVELS as f64, 0.0..LEVELS as f64];
    let learned: Vec<(f64, f64)> = (0..=200).map(|i| f64::from(i) / 200.0).map(|t| (t, schedule.gamma(t))).collect();
    let (start, end) = (schedule.gamma(0.0), schedule.gamma(1.0));
    let lines = vec![(grey, vec![(0.0, start), (1.0, end)]), (blue, learned)];
    let panels = [
        ("data", square(), dots(data), vec![]),
        ("samples", square(), dots(samples), vec![]),
        ("gamma(t), learned; grey: linear", [0.0..1.0, start..end], vec![], lines),
    ];
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, (1320, 460)).into_drawing_area();
        area.fill(&WHITE)?;
        for (area, (title, [x, y], dots, lines)) in area.split_evenly((1, 3)).iter().zip(panels) {
            let digits = usize::from(x.end <= 1.0);
            let mut chart = ChartBuilder::on(area)
                .caption(title, ("sans-serif", 20))
                .margin(15)
                .x_label_area_size(30)
                .y_label_area_size(45)
                .build_cartesian_2d(x, y)?;
            chart
                .configure_mesh()
                .max_light_lines(0)
                .x_labels(6)
                .bold_line_style(BLACK.mix(0.12))
                .label_style(("sans-serif", 14))
                .x_label_formatter(&|x: &f64| format!("{x:.digits$}"))
                .y_label_formatter(&|y: &f64| format!("{}", y.round() as i64))
                .draw()?;
            chart.draw_series(dots.into_iter().map(|dot| Circle::new(dot, 2, blue.mix(0.5).filled())))?;
            let path = |(color, line): (RGBColor, Vec<(f64, f64)>)| PathElement::new(line, color.stroke_width(2));
            chart.draw_series(lines.into_iter().map(path))?;
        }
        area.present()?;
    }
    Ok(svg)
}
