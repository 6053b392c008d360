//! `vdm info`.

use crate::args::{InfoArgs, Which};
use crate::{info_vdmz, run};
use anyhow::Result;
use serde_json::json;
use vdm::train::Checkpoint;

pub fn run(args: &InfoArgs, json: bool) -> Result<()> {
    if args.run.is_file() {
        return info_vdmz::compress_info(&args.run, json);
    }
    let (run, config) = run::open(&args.run)?;
    let last = Checkpoint::load(&run::checkpoint(&run, Which::Last)?)?;
    let parameters: usize = last.weights.values().map(|t| t.data.len()).sum();
    let evaluation: Option<serde_json::Value> =
        std::fs::read(run.evaluation()).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
    let finished = last.step >= config.train.steps && evaluation.is_some();
    if json {
        let object = json!({
            "run": args.run, "step": last.step, "steps": config.train.steps, "finished": finished,
            "parameters": parameters,
            "channels": last.shape.channels, "height": last.shape.height, "width": last.shape.width,
            "levels": last.vocabulary.levels(),
            "best_bpd": last.best_bpd.is_finite().then_some(last.best_bpd),
            "evaluation": evaluation, "config": config,
        });
        println!("{object}");
        return Ok(());
    }
    println!("run         {}", args.run.display());
    println!("progress    step {} of {}", last.step, config.train.steps);
    println!("images      {} with {} levels", last.shape, last.vocabulary.levels());
    println!("parameters  {parameters}");
    if last.best_bpd.is_finite() {
        println!("best bound  {:.4} bits per dimension in evaluations so far", last.best_bpd);
    }
    match evaluation {
        Some(e) => println!(
            "test bound  {:.4} ± {:.4} bits per dimension over {} images",
            e["bpd"].as_f64().unwrap_or(f64::NAN),
            e["bpd_stderr"].as_f64().unwrap_or(f64::NAN),
            e["images"]
        ),
        None => println!("to go on    vdm train --resume {}", args.run.display()),
    }
    Ok(())
}
