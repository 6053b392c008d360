//! Opening a finished or interrupted run.

use crate::args::Which;
use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};
use vdm::config::{Config, resolve};
use vdm::train::RunDir;

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
