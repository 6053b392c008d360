//! `vdm overhead`.

use crate::shared::model::{DataArgs, ModelArgs};
use crate::shared::output::outln;
use crate::shared::progress::timed;
use crate::shared::steps::StepsArgs;
use anyhow::Result;
use clap::value_parser;
use vdm::codec::{Plan, overhead};

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    pub model: ModelArgs,
    #[command(flatten)]
    pub data: DataArgs,
    #[command(flatten)]
    pub steps: StepsArgs,
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
}

pub fn execute(args: &Args, json: bool) -> Result<()> {
    let opened = args.model.open()?;
    opened.require_no_class()?;
    let test = opened.test_split(&args.data)?;
    let images = test.subset(0..test.len().min(args.count.map_or(usize::MAX, |n| n as usize)))?;
    let variance = args.steps.width.variance(&opened.model)?;
    let plan = Plan {
        gammas: args.steps.steps(&opened.model)?.gammas(&opened.model, variance)?,
        bins_per_sigma: args.bins,
        batch_size: args.batch_size,
        seed: args.seed,
        shape: images.shape(),
        vocabulary: opened.checkpoint.vocabulary,
    };
    let model = opened.model.with_reverse_variance(variance)?;
    let (found, seconds) =
        timed("measuring", |progress| overhead(&model, &plan, images.bytes(), &opened.device, progress));
    let found = found?;
    if json {
        let mut object = serde_json::to_value(&found)?;
        object["bins_per_sigma"] = args.bins.into();
        object["seconds"] = seconds.into();
        outln!("{object}");
        return Ok(());
    }
    outln!("{} images, {} steps, {} bins per standard deviation, {seconds:.1} s", found.images, found.steps, args.bins);
    outln!("length   {:.4} bits per dimension", found.length_bpd);
    outln!("bound    {:.4} from the same noise", found.bound_bpd);
    match found.overhead_bpd_stderr {
        Some(e) => outln!("overhead {:+.4} ± {e:.4} (standard error)", found.overhead_bpd),
        None => outln!("overhead {:+.4}", found.overhead_bpd),
    }
    Ok(())
}
