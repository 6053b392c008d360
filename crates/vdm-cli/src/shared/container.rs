//! Opening the files of the codec, and the models that they need.

use super::model::ChoiceArgs;
use anyhow::{Context, Result, bail};
use burn::tensor::Device;
use std::io::Read;
use std::path::Path;
use vdm::codec::{Container, model_fingerprint};
use vdm::run::{Model, ModelFile, shipped};

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
pub fn model(container: &Container, named: Option<&Path>, choice: &ChoiceArgs) -> Result<(Model, Device)> {
    if let Some(path) = named {
        let opened = choice.open(path).context("--model must name the model that coded the images")?;
        return Ok((opened.model, opened.device));
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
