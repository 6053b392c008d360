//! The shortest training loop: a small model of the 8x8 digits, its bound, and four samples.
//!
//!     cargo run --release --example train_loop [STEPS]      300 steps by default, some 20 s
//!
//! `vdm train` does the same with a run's folder around it: metrics, checkpoints, exact resume.

use burn::module::Module;
use burn::tensor::Device;
use std::error::Error;
use vdm::data::{Split, digits};
use vdm::likelihood::{Bound, EvalOptions, evaluate};
use vdm::nn::Conditioning;
use vdm::sample::{Ancestral, SampleOptions, sample};
use vdm::train::{Batch, Optimizer, batch_gradients};
use vdm::unwatched;

fn main() -> Result<(), Box<dyn Error>> {
    let steps = std::env::args().nth(1).map_or(Ok(300), |steps| steps.parse::<u64>())?;
    let device = Device::flex();
    let (train, test) = (digits(Split::Train)?, digits(Split::Test)?);

    // 1. The model of a preset, with gradients, and the optimiser's state.
    let config = vdm::config::preset("digits").ok_or("there is no preset `digits`")?;
    let mut model = config.init(train.shape(), train.vocabulary(), &device.clone().autodiff());
    let mut optimizer = Optimizer::new(&model, &device);

    // 2. Steps: a batch with its times and noise, the gradient of its bound, AdamW.
    for step in 1..=steps {
        let images: Vec<usize> = (0..32).map(|i| (32 * step as usize + i) % train.len()).collect();
        let batch = Batch::draw(train.batch(&images, &device), step, Conditioning::default());
        let (gradients, terms) = batch_gradients(&model, batch, config.schedule.objective)?;
        model = optimizer.step(model, gradients, &config.train, step);
        if step % 100 == 0 {
            let nats = terms.total().mean().into_scalar::<f64>();
            println!("step {step}: {:.3} bits per dimension", vdm::bits_per_dim(nats, train.shape().dims()));
        }
    }

    // 3. The averaged weights, their bound on the test split, and samples as bytes in CHW order.
    let model = vdm::weights::import(model.valid(), &optimizer.ema_weights(&model))?;
    let options = EvalOptions { repeats: 4, batch_size: 64, seed: 0 };
    let found = evaluate(&model, &Bound, &test, &options, &device, &mut unwatched)?;
    println!("test bound: {:.3} ± {:.3} bits per dimension", found.bpd, found.bpd_stderr.unwrap_or(0.0));
    let options = SampleOptions { steps: 100, ..Default::default() };
    for image in sample(&model, &Ancestral, 0..4, &options, &device, &mut unwatched)?.chunks(64) {
        println!();
        for row in image.chunks(8) {
            println!("{}", row.iter().map(|&k| [" ", ".", ":", "o", "#"][usize::from(k) / 4]).collect::<String>());
        }
    }
    Ok(())
}
