//! Opening the files of the codec.

use anyhow::{Context, Result};
use std::path::Path;
use vdm::codec::Container;

/// A `.vdmz` file, read and checked as far as that takes no model.
pub fn read(path: &Path) -> Result<Container> {
    let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    Container::parse(&bytes).with_context(|| format!("cannot use {}", path.display()))
}
