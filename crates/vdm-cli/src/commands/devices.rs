//! `vdm devices`.

use crate::shared::device::devices;
use crate::shared::output::outln;
use anyhow::Result;
use serde_json::json;

#[derive(Debug, clap::Args)]
pub struct Args {}

pub fn execute(_: &Args, json: bool) -> Result<()> {
    let found = devices();
    if json {
        let object = |(name, missing): &(&str, Option<&str>)| json!({ "device": name, "missing": missing });
        outln!("{}", json!({ "devices": found.iter().map(object).collect::<Vec<_>>() }));
        return Ok(());
    }
    for (name, missing) in found {
        outln!("{name:<6} {}", missing.unwrap_or("there: --device takes it"));
    }
    Ok(())
}
