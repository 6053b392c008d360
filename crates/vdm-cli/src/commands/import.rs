//! `vdm import`.

use crate::shared::output::{outln, shown};
use crate::shared::shapes::shape;
use crate::shared::words::about;
use anyhow::{Context, Result, bail};
use burn::tensor::Device;
use serde_json::json;
use std::path::{Path, PathBuf};
use vdm::ImageShape;
use vdm::config::{Config, resolve};
use vdm::data::Source;
use vdm::diffusion::Vocabulary;
use vdm::run::ModelFile;
use vdm::weights::{NameMap, Weights, export, load_pytorch, load_safetensors};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// A file that ends in .safetensors, or, with any other ending, what `torch.save(model.state_dict(), …)` wrote; no code in
    /// it is run.
    pub weights: PathBuf,
    /// Whose names the parameters have: `official` (google-research/vdm), `port` (a PyTorch port of its network), `unet` (the U-Net
    /// of "Variational Diffusion Models in Easy PyTorch"), `vdm` for our own, or a TOML file with a map of names.
    #[arg(long, value_name = "MAP")]
    pub map: String,
    /// The file to write: a model file, as `vdm export` writes it.
    #[arg(short, long, value_name = "FILE")]
    pub out: PathBuf,
    /// Preset that says what network, schedule and data the weights are for.
    #[arg(long, default_value = "cifar10")]
    pub preset: String,
    /// Single key that overrides the preset's and the map's, as section.key=value. May be repeated.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub sets: Vec<String>,
    /// Channels, height and width of the images. Default: those of the preset's data.
    #[arg(long, value_name = "C,H,W", value_parser = shape)]
    pub shape: Option<ImageShape>,
    /// Levels of a pixel.
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(u16).range(2..=256))]
    pub levels: u16,
    /// Only the tensors whose names begin so, which is taken off.
    #[arg(long, value_name = "PREFIX", default_value = "")]
    pub under: String,
    /// Something to say about the model: `licence`, `recipe`, `bound`, or any other key. May be repeated.
    #[arg(long, value_name = "KEY=TEXT")]
    pub about: Vec<String>,
}

pub fn execute(args: &Args, json: bool) -> Result<()> {
    let map = map_of(&args.map)?;
    // The user's keys come last, and win.
    let sets: Vec<String> = map.iter().flat_map(NameMap::set).chain(&args.sets).cloned().collect();
    let config = resolve(&args.preset, None, &sets)?;
    let Some(image) = args.shape.or_else(|| config.data.source.usual_shape()) else {
        bail!("how large the images of a folder are is not known; name channels, height and width with --shape");
    };
    config.validate_shape(image)?;
    let vocabulary = Vocabulary::new(args.levels.into()).context("--levels must be 2 to 256")?;

    let found = read(&args.weights)?;
    let strip = |(name, tensor): (String, _)| Some((name.strip_prefix(&args.under)?.to_string(), tensor));
    let found: Weights = found.into_iter().filter_map(strip).collect();
    if found.is_empty() {
        bail!("{} holds no tensor whose name begins with {:?}", args.weights.display(), args.under);
    }
    let ours = match &map {
        Some(map) => map.apply(&found).with_context(|| format!("cannot map {}", args.weights.display()))?,
        None => found,
    };
    let (weights, fresh) = with_schedule(ours, &config, image, vocabulary, &args.weights)?;
    let about = about(&args.about)?;
    let file =
        ModelFile { step: 0, shape: image, vocabulary, data: None, config, about, weights, half: false, errors: None };
    // Every parameter must have its tensor, and every tensor its parameter.
    file.model(&args.weights, &Device::flex()).context("the weights are not those of the configured model")?;
    file.save(&args.out)?;

    let parameters: usize = file.weights.values().map(|tensor| tensor.data.len()).sum();
    if json {
        let object = json!({
            "path": shown(&args.out), "tensors": file.weights.len(), "parameters": parameters, "configured_schedule": fresh,
        });
        outln!("{object}");
        return Ok(());
    }
    outln!("{}: {parameters} parameters in {} tensors", args.out.display(), file.weights.len());
    if let Some(map) = map.filter(|map| !map.about().is_empty()) {
        outln!("names of {}", map.about());
    }
    if fresh {
        outln!("the file has no schedule: the configured one is used as it is before training");
    }
    Ok(())
}

/// The map of this name, or in this file; none for our own names.
fn map_of(name: &str) -> Result<Option<NameMap>> {
    if name == "vdm" {
        return Ok(None);
    }
    if let Some(map) = NameMap::named(name) {
        return Ok(Some(map));
    }
    let path = Path::new(name);
    if !path.is_file() {
        let known: String = NameMap::all().map(|(name, about)| format!("\n  {name}: {about}")).collect();
        bail!("--map {name}: there is no such file; the maps that are built in are{known}\n  vdm: our own names");
    }
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {name}"))?;
    Ok(Some(NameMap::parse(&text).with_context(|| format!("cannot use {name}"))?))
}

/// The tensors of a file, by the names that they have there.
fn read(path: &Path) -> Result<Weights> {
    // PyTorch's files are zip files, or pickles.
    match path.extension().is_some_and(|ending| ending == "safetensors") {
        true => Ok(load_safetensors(path)?),
        false => Ok(load_pytorch(path)?),
    }
}

/// The weights with the configured schedule, if they have none, and whether they have none.
fn with_schedule(
    mut weights: Weights,
    config: &Config,
    shape: ImageShape,
    vocabulary: Vocabulary,
    path: &Path,
) -> Result<(Weights, bool)> {
    let fresh = !weights.keys().any(|name| name.starts_with("schedule."));
    let of_schedule = if fresh { 0 } else { config.schedule.schedule.parameters() };
    let expected = config.model.network.parameters(shape.channels) + of_schedule;
    let found: u128 = weights.values().map(|tensor| tensor.data.len() as u128).sum();
    // Before a network of any size is made. What is too much is named when the weights are put into it.
    if expected > found {
        bail!(
            "{} has {found} numbers, the configured model {expected} parameters; choose its size with --set, such as \
             model.n_embd, model.n_layer and schedule.kind",
            path.display()
        );
    }
    if fresh {
        let all = export(&config.init(shape, vocabulary, &Device::flex()));
        weights.extend(all.into_iter().filter(|(name, _)| name.starts_with("schedule.")));
    }
    Ok((weights, fresh))
}
