//! The image that a command works on: a file, or a number of the test split.

use super::image_files::read_one;
use super::model::{DataArgs, Opened};
use anyhow::{Result, bail};
use std::path::{Path, PathBuf};
use vdm::nn::Conditioning;

/// The image that `text` names: image number `text` of the test split, or the one in the file `text`.
pub fn image(opened: &Opened, data: &DataArgs, text: &str) -> Result<Vec<u8>> {
    let Ok(number) = text.parse::<usize>() else {
        return read_one(Path::new(text), opened.checkpoint.shape, opened.checkpoint.vocabulary.levels());
    };
    let test = opened.test_split(data)?;
    if number >= test.len() {
        bail!("image {number}: the test split has the images 0 to {}", test.len().saturating_sub(1));
    }
    Ok(test.image(number).to_vec())
}

/// Refuses a folder of data where none of the images is named by its number.
pub fn check(data: &DataArgs, texts: &[&String]) -> Result<()> {
    if data.data_dir.is_some() && texts.iter().all(|text| text.parse::<usize>().is_err()) {
        bail!("--data-dir is for the model's test split; leave it out, or name an image by its number");
    }
    Ok(())
}

/// What the network is told about the image: its class, if one is given.
pub fn of_class(opened: &Opened, class: Option<u32>) -> Result<Conditioning> {
    let classes = opened.config.model.network.classes();
    match class {
        Some(_) if classes == 0 => bail!("--class: this run has no classes"),
        Some(class) if class as usize >= classes => {
            bail!("--class {class}: the run knows classes 0 to {}", classes - 1)
        }
        Some(class) => Ok(Conditioning::of_classes([Some(class)])),
        None => {
            opened.require_no_class()?;
            Ok(Conditioning::default())
        }
    }
}

/// The file to write: what was asked for, or one of this name in the run's folder.
pub fn out(opened: &Opened, out: Option<&PathBuf>, name: &str) -> PathBuf {
    out.cloned().unwrap_or_else(|| opened.run.path().join(name))
}
