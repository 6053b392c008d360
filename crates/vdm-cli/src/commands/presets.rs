//! `vdm presets`.

use crate::shared::output::outln;
use anyhow::Result;
use serde_json::json;
use vdm::config::{PRESETS, resolve};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Preset to show as TOML.
    pub name: Option<String>,
}

pub fn execute(args: &Args, json: bool) -> Result<()> {
    match &args.name {
        Some(name) => {
            let config = resolve(name, None, &[])?;
            if json {
                outln!("{}", serde_json::to_string(&config)?);
            } else {
                outln!("{}", config.to_toml()?.trim_end());
            }
        }
        None if json => {
            let all: Vec<_> = PRESETS.iter().map(|p| json!({"name": p.name, "about": p.about})).collect();
            outln!("{}", json!({ "presets": all }));
        }
        None => {
            for p in PRESETS {
                outln!("{:<14} {}", p.name, p.about);
            }
        }
    }
    Ok(())
}
