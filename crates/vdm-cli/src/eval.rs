//! `vdm eval`.

use crate::args::EvalArgs;
use crate::{device, progress, run};
use anyhow::{Result, bail};
use std::time::Instant;
use vdm::eval::{EvalOptions, classes_of, evaluate_conditioned};
use vdm::nn::Conditioning;
use vdm::train::load_model;

pub fn run(args: &EvalArgs, json: bool) -> Result<()> {
    let device = device::open(&args.device)?;
    let (run, config) = run::open_with_data(&args.run, args.data_dir.as_deref())?;
    if args.without_classes {
        run::knows_images_without_class(&config)?;
    }
    let (model, checkpoint) = load_model(&config, run::checkpoint(&run, args.checkpoint)?, &device)?;
    let model = model.with_timesteps(args.timesteps.map(|t| t as usize));
    let test = run::test_split(&config, &checkpoint)?;
    let test = match args.images.map(|n| n as usize) {
        Some(n) if n < test.len() => test.subset(0..n)?,
        _ => test,
    };
    let classes = config.model.classes;
    if test.classes() > classes && classes > 0 && !args.without_classes {
        bail!(
            "the run knows {classes} classes, `{}` has {}; evaluate it with --without-classes",
            test.name(),
            test.classes()
        );
    }
    if classes > 0 && test.labels().is_none() && !args.without_classes {
        bail!("`{}` has no labels; evaluate the bound on p(x) with --without-classes", test.name());
    }
    let options = EvalOptions {
        repeats: args.repeats.map_or(config.eval.repeats, |k| k as usize),
        batch_size: args.batch_size.map_or(config.eval.batch_size, |n| n as usize),
        seed: args.seed,
    };
    let started = Instant::now();
    let conditional = classes > 0 && !args.without_classes;
    let bar = progress::bar("evaluating");
    let progress = |done, total| progress::set(&bar, done, total);
    let classes = |indices: &[usize]| match args.without_classes {
        true => Conditioning::default(),
        false => classes_of(&model.network, &test, indices),
    };
    let e = evaluate_conditioned(&model, &test, classes, &options, &device, progress)?;
    bar.finish_and_clear();
    let seconds = started.elapsed().as_secs_f64();
    if json {
        let mut object = serde_json::to_value(&e)?;
        object["seconds"] = seconds.into();
        object["step"] = checkpoint.step.into();
        object["conditional"] = conditional.into();
        println!("{object}");
    } else {
        let time = e.timesteps.map_or("continuous time".to_string(), |t| format!("{t} steps"));
        let of = if conditional { "p(x | class)" } else { "p(x)" };
        println!("{of}: {} test images, {} passes, {time}, after {} steps", e.images, e.repeats, checkpoint.step);
        println!("bound          {:.4} ± {:.4} bits per dimension (standard error over images)", e.bpd, e.bpd_stderr);
        if let Some(noise) = e.bpd_stderr_noise {
            println!("               ± {noise:.4} from the noise of the estimate alone");
        }
        println!("prior          {:.4}", e.prior);
        println!("reconstruction {:.4}", e.reconstruction);
        println!("diffusion      {:.4}", e.diffusion);
        println!("{seconds:.1} s");
    }
    Ok(())
}
