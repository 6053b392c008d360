//! `vdm export`.

use crate::shared::model::{Which, of_model};
use crate::shared::output::{outln, shown};
use crate::shared::words::about;
use anyhow::{Context, Result, bail};
use burn::tensor::Device;
use clap::ValueEnum;
use serde_json::json;
use std::path::PathBuf;
use vdm::files::write_bytes;
use vdm::run::WhichWeights;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The model: folder of a run, a model file, or the name of a shipped model.
    pub run: PathBuf,
    /// The file to write.
    #[arg(short, long, value_name = "FILE")]
    pub out: PathBuf,
    /// Which checkpoint.
    #[arg(long, value_enum, default_value_t = Which::Last)]
    pub checkpoint: Which,
    /// What the file is for: `vdm` for this program, or `pytorch` for the network alone with the names and shapes of torch.nn.
    #[arg(long, value_enum, default_value_t = Layout::Vdm)]
    pub layout: Layout,
    /// Round the network's weights to half precision, for a file of half the size.
    #[arg(long)]
    pub half: bool,
    /// Something to say about the model: `licence`, `recipe`, `bound`, or any other key. May be repeated.
    #[arg(long, value_name = "KEY=TEXT")]
    pub about: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Layout {
    Vdm,
    Pytorch,
}

pub fn execute(args: &Args, json: bool) -> Result<()> {
    if args.layout == Layout::Pytorch && (args.half || !args.about.is_empty()) {
        bail!("--half and --about are for --layout vdm; leave them out");
    }
    let mut file = of_model(&args.run, args.checkpoint, WhichWeights::Ema)?;
    file.about.extend(about(&args.about)?);
    let step = file.step;
    if args.half {
        file = file.into_half()?;
    }
    let bytes = match args.layout {
        Layout::Vdm => file.to_bytes()?,
        Layout::Pytorch => file.to_pytorch_bytes(&args.run, &Device::flex())?,
    };
    write_bytes(&args.out, &bytes).with_context(|| format!("cannot write {}", args.out.display()))?;
    let bytes = bytes.len();
    if json {
        outln!("{}", json!({ "path": shown(&args.out), "bytes": bytes, "step": step }));
    } else {
        outln!("{}: {bytes} bytes, the averaged weights of step {step}", args.out.display());
    }
    Ok(())
}
