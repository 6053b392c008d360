//! `vdm models`.

use crate::shared::output::outln;
use anyhow::Result;
use serde_json::json;
use vdm::run::shipped;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Say all that is known about this model.
    pub name: Option<String>,
}

pub fn execute(args: &Args, json: bool) -> Result<()> {
    let mut objects = Vec::new();
    for name in shipped::names().filter(|name| args.name.as_deref().is_none_or(|wanted| wanted == *name)) {
        let Some(file) = shipped::model(name).transpose()? else { continue };
        let parameters: usize = file.weights.values().map(|t| t.data.len()).sum();
        if json {
            objects.push(json!({
                "name": name, "step": file.step, "shape": file.shape.to_string(), "levels": file.vocabulary.levels(),
                "parameters": parameters, "classes": file.config.model.network.classes(), "about": file.about,
            }));
            continue;
        }
        let bound = file.about.get("bound").map_or("", String::as_str);
        let levels = file.vocabulary.levels();
        outln!("{name:<16} {} with {levels} levels, {parameters} parameters: {bound}", file.shape);
        if args.name.is_some() {
            for (key, value) in &file.about {
                outln!("{key:<16} {value}");
            }
        }
    }
    if let Some(name) = args.name.as_ref().filter(|name| shipped::names().all(|known| known != name.as_str())) {
        anyhow::bail!("{name} is no shipped model; `vdm models` lists them");
    }
    if json {
        outln!("{}", json!({ "models": objects }));
    }
    Ok(())
}
