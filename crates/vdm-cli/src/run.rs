//! Opening a finished or interrupted run.

use crate::args::Which;
use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};
use vdm::config::{Config, resolve};
use vdm::data::{ImageDataset, Split, load};
use vdm::train::{Checkpoint, RunDir};

/// The run in `path` and its configuration.
pub fn open(path: &Path) -> Result<(RunDir, Config)> {
    let run = RunDir::new(path);
    let file = run.config();
    if !file.exists() {
        bail!("{} holds no run: {} does not exist", path.display(), file.display());
    }
    let text = std::fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
    // A run's configuration has every key, so it does not matter which preset lies under it.
    let config = resolve("digits", Some((&file.display().to_string(), &text)), &[])?;
    Ok((run, config))
}

/// [`open`] with the folder of the data, where --data-dir gives another.
pub fn open_with_data(path: &Path, data_dir: Option<&Path>) -> Result<(RunDir, Config)> {
    let (run, mut config) = open(path)?;
    if let Some(dir) = data_dir {
        config.data.dir = dir.into();
    }
    Ok((run, config))
}

/// The run's test split, which must still be of the images that it was trained on.
pub fn test_split(config: &Config, checkpoint: &Checkpoint) -> Result<ImageDataset> {
    let test = load(&config.data.source(), Split::Test)?;
    let levels = checkpoint.vocabulary.levels();
    if (test.shape(), test.levels()) != (checkpoint.shape, levels) {
        bail!(
            "the run was trained on {} images of {levels} levels, those of `{}` are {} of {}; name the right folder with \
             --data-dir",
            checkpoint.shape,
            test.name(),
            test.shape(),
            test.levels()
        );
    }
    Ok(test)
}

/// Refuses a run whose network never saw an image without its class, where it is to work without one.
pub fn knows_images_without_class(config: &Config) -> Result<()> {
    if config.model.classes > 0 && config.train.label_dropout == 0.0 {
        bail!(
            "the run was trained with train.label_dropout = 0, so its network knows nothing of images without a class"
        );
    }
    Ok(())
}

/// The file of a checkpoint, which must be there.
pub fn checkpoint(run: &RunDir, which: Which) -> Result<PathBuf> {
    let (path, name) = match which {
        Which::Last => (run.last(), "checkpoint"),
        Which::Best => (run.best(), "best checkpoint"),
    };
    if !path.exists() {
        bail!("{0} has no {name} yet; go on with `vdm train --resume {0}`", run.path().display());
    }
    Ok(path)
}
