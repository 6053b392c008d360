//! From here to Bayesian Flow Networks (Graves et al. 2023, arXiv 2308.07037): the same chain, the same bound and the same
//! schedule, for data that are discrete. Here black and white digits.
//!
//! ```sh
//! cargo run --release --example bayesian_flow [STEPS]      600 steps by default
//! ```
//!
//! A Bayesian flow network sees *beliefs*: for every pixel the probabilities of its values, after noisy observations of the
//! pixel by itself. It answers with better probabilities, since it sees all beliefs together. For two values the
//! observations are those of a diffusion, at the accuracy beta = e^-gamma times the square of half the distance of the two
//! codes, and the loss in continuous time (section 6 there) is the diffusion loss of VDM (the last chapter of the guide has the
//! steps between). So a Bayesian flow network is a [`ScoreNetwork`] with another input and another output, and bound, samplers
//! and codec take it as it is.
#![allow(clippy::disallowed_methods)]

use burn::module::{Module, ModuleDisplay};
use burn::tensor::activation::{sigmoid, tanh};
use burn::tensor::{Device, Tensor};
use std::error::Error;
use vdm::data::{ImageDataset, Split, digits};
use vdm::likelihood::{Bound, EvalOptions, evaluate};
use vdm::nn::{Conditioning, Mode, ScoreNetwork, ScoreUNet, ScoreUNetConfig};
use vdm::sample::{Ancestral, SampleOptions, sample};
use vdm::schedule::{Endpoints, ScheduleConfig};
use vdm::train::{Batch, Optimizer, batch_gradients};
use vdm::{DiffusionSettings, VariationalDiffusion, unwatched};

/// The schedule's ends, fixed, so that both networks have the same beliefs to start from.
const GAMMA: Endpoints = Endpoints { gamma_0: -8.0, gamma_1: 5.0 };
/// The two codes are -CODE and CODE.
const CODE: f64 = 0.5;

// ANCHOR: network
/// A network that turns beliefs into beliefs, as a network that predicts noise.
#[derive(Module, Debug)]
struct BayesianFlow {
    network: ScoreUNet,
}

impl ScoreNetwork for BayesianFlow {
    fn forward(&self, z: Tensor<4>, time: Tensor<1>, conditioning: &Conditioning, mode: Mode) -> Tensor<4> {
        // 1. What z says of each pixel by itself: log odds of CODE against -CODE, after a fair start.
        let batch = time.dims()[0];
        let gamma = (time.clone() * (GAMMA.gamma_1 - GAMMA.gamma_0) + GAMMA.gamma_0).reshape([batch, 1, 1, 1]);
        let (alpha, sigma) = (sigmoid(-gamma.clone()).sqrt(), sigmoid(gamma).sqrt());
        let log_odds = z.clone() * alpha.clone() * (2.0 * CODE) / sigma.clone().square();

        // 2. The network sees the beliefs, as means from -1 to 1, and adds what the other pixels say.
        let belief = tanh(log_odds.clone() * 0.5);
        let more = self.network.forward(belief, time, conditioning, mode);
        let expected = tanh(log_odds * 0.5 + more) * CODE;

        // 3. The noise that the expected pixel leaves.
        (z - expected * alpha) / sigma
    }
}
// ANCHOR_END: network

fn main() -> Result<(), Box<dyn Error>> {
    let steps = std::env::args().nth(1).map_or(Ok(600), |steps| steps.parse::<u64>())?;
    let (train, test) = (black_and_white(Split::Train)?, black_and_white(Split::Test)?);
    println!("every pixel by its place: {:.3} bits per pixel", by_place(&train, &test));

    let network = |device: &Device| ScoreUNetConfig { norm_groups: 4, ..ScoreUNetConfig::new(1, 16, 2) }.init(device);
    let plain: VariationalDiffusion<ScoreUNet> = trained(network, &train, steps)?;
    report("a network that predicts noise", &plain, &test)?;
    let flow = trained(|device| BayesianFlow { network: network(device) }, &train, steps)?;
    report("a Bayesian flow network", &flow, &test)?;

    let options = SampleOptions { steps: 100, ..Default::default() };
    let images = sample(&flow, &Ancestral, 0..8, &options, &Device::flex(), &mut unwatched)?;
    for row in 0..8 {
        let line =
            |image: &[u8]| image[8 * row..8 * row + 8].iter().map(|&k| [' ', '#'][usize::from(k)]).collect::<String>();
        println!("{}", images.chunks(64).map(line).collect::<Vec<_>>().join("  "));
    }
    Ok(())
}

/// The digits with two levels: white where more than half of the ink is.
fn black_and_white(split: Split) -> Result<ImageDataset, Box<dyn Error>> {
    let grey = digits(split)?;
    let pixels = grey.bytes().iter().map(|&k| u8::from(k > 8)).collect();
    Ok(ImageDataset::new("black and white digits", grey.shape(), 2, pixels, None)?)
}

/// Bits per pixel of the test images where each pixel has the probability that it has at its place in training.
fn by_place(train: &ImageDataset, test: &ImageDataset) -> f64 {
    let white = |place: usize| (0..train.len()).filter(|&i| train.image(i)[place] == 1).count() as f64;
    let p: Vec<f64> = (0..64).map(|place| (white(place) + 0.5) / (train.len() as f64 + 1.0)).collect();
    let bits = |(i, &k): (usize, &u8)| -(if k == 1 { p[i % 64] } else { 1.0 - p[i % 64] }).log2();
    test.bytes().iter().enumerate().map(bits).sum::<f64>() / test.bytes().len() as f64
}

/// The averaged weights after so many steps of 32 images: the loop of `train_loop.rs`.
fn trained<N: ScoreNetwork + ModuleDisplay>(
    network: impl Fn(&Device) -> N,
    data: &ImageDataset,
    steps: u64,
) -> Result<VariationalDiffusion<N>, Box<dyn Error>> {
    let (cpu, device) = (Device::flex(), Device::flex().autodiff());
    let config = vdm::config::preset("digits").ok_or("there is no preset `digits`")?;
    let schedule = ScheduleConfig::FixedLinear(GAMMA);
    let settings = DiffusionSettings::new(data.shape(), data.vocabulary(), &schedule);
    let mut model = vdm::initial::seeded(0, || {
        VariationalDiffusion::new(schedule.init(&device), network(&device), settings.clone())
    });
    let mut optimizer = Optimizer::new(&model, &cpu);
    for step in 1..=steps {
        let images: Vec<usize> = (0..32).map(|i| (32 * step as usize + i) % data.len()).collect();
        let batch = Batch::draw(data.batch(&images, &cpu), step, Conditioning::default());
        let (gradients, _) = batch_gradients(&model, batch, config.schedule.objective)?;
        model = optimizer.step(model, gradients, &config.train, step);
    }
    Ok(vdm::weights::import(model.valid(), &optimizer.ema_weights(&model))?)
}

fn report<N: ScoreNetwork>(
    name: &str,
    model: &VariationalDiffusion<N>,
    test: &ImageDataset,
) -> Result<(), Box<dyn Error>> {
    let options = EvalOptions { repeats: 20, batch_size: 64, seed: 0 };
    let found = evaluate(model, &Bound, test, &options, &Device::flex(), &mut unwatched)?;
    println!("{name}: {:.3} ± {:.3} bits per pixel", found.bpd, found.bpd_stderr.unwrap_or(f64::NAN));
    Ok(())
}
