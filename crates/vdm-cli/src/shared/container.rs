//! Opening the files of the codec, and the models that they need.

use super::model::{ChoiceArgs, Which};
use super::progress::timed;
use anyhow::{Context, Result, bail};
use burn::tensor::Device;
use std::io::Read;
use std::path::Path;
use vdm::codec::{Container, decompress_range, model_fingerprint};
use vdm::run::{Model, ModelFile, WhichWeights, shipped};

/// A `.vdmz` file, read and checked as far as that takes no model; `-` is the standard input.
pub fn read(path: &Path) -> Result<Container> {
    let bytes = if path.as_os_str() == "-" {
        let mut bytes = Vec::new();
        std::io::stdin().lock().read_to_end(&mut bytes).context("cannot read the standard input")?;
        bytes
    } else {
        std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?
    };
    Container::parse(&bytes).with_context(|| format!("cannot use {}", path.display()))
}

/// The model that a container needs: the one that is named, the one inside it, or the shipped one that coded it.
fn model(container: &Container, named: Option<&Path>, choice: &ChoiceArgs) -> Result<(Model, Device)> {
    if let Some(path) = named {
        let opened = choice.open(path).context("--model must name the model that coded the images")?;
        return Ok((opened.model, opened.device));
    }
    if choice.weights == WhichWeights::Raw || choice.checkpoint == Which::Best {
        bail!("--weights and --checkpoint choose among the weights of a run; name the run with --model");
    }
    let device = choice.device.open()?;
    if let Some(bytes) = &container.embedded_model {
        let inside = Path::new("the model inside the file");
        return Ok((ModelFile::parse(bytes, inside)?.model(inside, &device)?, device));
    }
    for name in shipped::names() {
        let Some(file) = shipped::model(name) else { continue };
        let model = file?.model(Path::new(name), &device)?;
        if model_fingerprint(&model) == container.model {
            return Ok((model, device));
        }
    }
    bail!(
        "the file was coded with a model that is neither in it nor shipped ({}); name it with --model",
        container.note
    )
}

/// Images number `first .. first + count`, and the seconds that decoding took, under the name `label`; an error of it begins
/// with `failed`. Files that are kept as they are have no images, and need no model.
pub fn decode(
    container: &Container,
    (first, count): (usize, usize),
    (named, choice): (Option<&Path>, &ChoiceArgs),
    label: &str,
    failed: String,
) -> Result<(Vec<u8>, f64)> {
    if count == 0 && first <= container.images() {
        return Ok((Vec::new(), 0.0));
    }
    let (model, device) = model(container, named, choice)?;
    let (bytes, seconds) =
        timed(label, |progress| decompress_range(&model, container, first, count, &device, progress));
    Ok((bytes.context(failed)?, seconds))
}
