//! `vdm overhead`.

use crate::args::{DeviceArgs, Which};
use crate::{device, progress, run};
use anyhow::Result;
use clap::value_parser;
use std::path::PathBuf;
use std::time::Instant;
use vdm::codec::{Plan, Steps, overhead};
use vdm::train::load_model;

#[derive(Debug, clap::Args)]
pub struct OverheadArgs {
    /// Folder of the run.
    pub run: PathBuf,
    /// Steps T of the chain and of the bound.
    #[arg(long, value_name = "T", default_value_t = 250, value_parser = value_parser!(u32).range(1..=65_536))]
    pub timesteps: u32,
    /// Only the first N images of the test split.
    #[arg(long, value_name = "N", value_parser = value_parser!(u32).range(1..))]
    pub count: Option<u32>,
    /// Bins of a latent per standard deviation.
    #[arg(long, value_name = "B", default_value_t = 2, value_parser = value_parser!(u16).range(1..=64))]
    pub bins: u16,
    /// Images that go through the network together.
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = value_parser!(u16).range(1..=1024))]
    pub batch_size: u16,
    /// Seed of the latents' noise.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Folder of the data, in place of the run's data.dir.
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Which checkpoint.
    #[arg(long, value_enum, default_value_t = Which::Last)]
    pub checkpoint: Which,
    #[command(flatten)]
    pub device: DeviceArgs,
}

pub fn run(args: &OverheadArgs, json: bool) -> Result<()> {
    let device = device::open(&args.device)?;
    let (run, config) = run::open_with_data(&args.run, args.data_dir.as_deref())?;
    run::knows_images_without_class(&config)?;
    let (model, checkpoint) = load_model(&config, run::checkpoint(&run, args.checkpoint)?, &device)?;
    let test = run::test_split(&config, &checkpoint)?;
    let images = test.subset(0..test.len().min(args.count.map_or(usize::MAX, |n| n as usize)))?;
    let plan = Plan {
        gammas: Steps::Uniform(args.timesteps as usize).gammas(&model.schedule),
        bins_per_sigma: args.bins,
        batch_size: args.batch_size,
        seed: args.seed,
        shape: images.shape(),
        vocabulary: checkpoint.vocabulary,
    };
    let started = Instant::now();
    let bar = progress::bar("measuring");
    let found = overhead(&model, &plan, images.bytes(), &device, &mut |done, total| progress::set(&bar, done, total))?;
    bar.finish_and_clear();
    let seconds = started.elapsed().as_secs_f64();
    if json {
        let mut object = serde_json::to_value(&found)?;
        object["bins_per_sigma"] = args.bins.into();
        object["seconds"] = seconds.into();
        println!("{object}");
        return Ok(());
    }
    println!(
        "{} images, {} steps, {} bins per standard deviation, {seconds:.1} s",
        found.images, found.steps, args.bins
    );
    println!("length   {:.4} bits per dimension", found.length_bpd);
    println!("bound    {:.4} from the same noise", found.bound_bpd);
    match found.overhead_bpd_stderr {
        Some(e) => println!("overhead {:+.4} ± {e:.4} (standard error)", found.overhead_bpd),
        None => println!("overhead {:+.4}", found.overhead_bpd),
    }
    Ok(())
}
