//! The arguments of `vdm compress` and `vdm decompress`.

use crate::args::{DeviceArgs, Which};
use clap::value_parser;
use std::path::PathBuf;

#[derive(Debug, clap::Args)]
pub struct CompressArgs {
    /// Folder of the run whose model codes the images. It is needed again to decompress them, at the same checkpoint: do
    /// not train it on. Classes are not used.
    pub run: PathBuf,
    /// Images of the run's shape, of which the pixels are kept, not the metadata: folders, IDX files (gzipped or not), and PNG, JPEG or WebP files, told by their
    /// content. Default: the run's test split.
    pub images: Vec<PathBuf>,
    /// File to write, .vdmz by custom.
    #[arg(short, long, value_name = "FILE")]
    pub out: PathBuf,
    /// Overwrite that file.
    #[arg(long)]
    pub force: bool,
    /// Steps T: more of them code better, and take longer in proportion.
    #[arg(long, value_name = "T", default_value_t = 250, value_parser = value_parser!(u32).range(1..=65_536))]
    pub timesteps: u32,
    /// Place the steps where they save most bits, as measured on the first 16 images, in place of evenly in time. The
    /// file grows by 8 bytes a step.
    #[arg(long)]
    pub choose_steps: bool,
    /// Only the first N images of all that are named.
    #[arg(long, value_name = "N", value_parser = value_parser!(u32).range(1..))]
    pub count: Option<u32>,
    /// Bins of a latent per standard deviation: finer ones code a little better, and need more bits to start with.
    #[arg(long, value_name = "B", default_value_t = 2, value_parser = value_parser!(u16).range(1..))]
    pub bins: u16,
    /// Images that go through the network together, when decompressed too: more are faster, and need more bits to start
    /// with.
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = value_parser!(u16).range(1..=1024))]
    pub batch_size: u16,
    /// Start a new stream every N images, so that some can be decompressed without the others. Every stream costs the
    /// bits it starts with. 0 for one stream.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub restart_every: u32,
    /// Seed of the bits that streams start with.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Do not decompress the images again to compare them before the file is written.
    #[arg(long)]
    pub no_verify: bool,
    /// Folder of the data, in place of the run's data.dir, for the run's test split.
    #[arg(long, value_name = "DIR", conflicts_with = "images")]
    pub data_dir: Option<PathBuf>,
    /// Which checkpoint.
    #[arg(long, value_enum, default_value_t = Which::Last)]
    pub checkpoint: Which,
    #[command(flatten)]
    pub device: DeviceArgs,
}

#[derive(Debug, clap::Args)]
pub struct DecompressArgs {
    /// File that `vdm compress` wrote.
    pub file: PathBuf,
    /// Folder of the run whose model coded the images.
    #[arg(short, long, value_name = "RUN")]
    pub model: PathBuf,
    /// Folder to write the files to; must be empty, or not be there.
    #[arg(short, long, value_name = "DIR")]
    pub out: PathBuf,
    /// Write to that folder even if it is not empty, over files of the same names.
    #[arg(long)]
    pub force: bool,
    /// Number of the first image to write, from 0.
    #[arg(long, value_name = "I", default_value_t = 0)]
    pub first: u32,
    /// Images to write. Default: all from the first.
    #[arg(long, value_name = "N", value_parser = value_parser!(u32).range(1..))]
    pub count: Option<u32>,
    /// Which checkpoint of the run: the one that the file was made with.
    #[arg(long, value_enum, default_value_t = Which::Last)]
    pub checkpoint: Which,
    #[command(flatten)]
    pub device: DeviceArgs,
}
