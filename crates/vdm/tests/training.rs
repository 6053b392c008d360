//! Properties of whole trainings on the built-in digits, with a model so small that each takes a second.

use burn::tensor::Device;
use std::path::Path;
use vdm::config::{Config, resolve};
use vdm::likelihood::{Bound, EvalError, EvalOptions, evaluate, evaluate_conditioned};
use vdm::nn::{AnyNetworkConfig, Conditioning, ConditioningError};
use vdm::run::{Checkpoint, EvalLine, RunDir, StepLine, WhichWeights, load_model};
use vdm::sample::{Ancestral, DecoderRule, SampleOptions, sample};
use vdm::schedule::Schedule;
use vdm::train::{Datasets, Observer, Outcome, TrainError, Trainer};
use vdm::unwatched;

fn config(steps: u64, more: &[&str]) -> Config {
    let steps = format!("train.steps={steps}");
    let mut sets: Vec<String> = [
        steps.as_str(),
        "model.n_embd=32",
        "train.batch_size=8",
        "train.eval_every=0",
        "train.sample_every=0",
        "train.checkpoint_every=1000",
        "train.log_every=2",
        "eval.repeats=1",
        "sample.count=4",
        "sample.steps=3",
    ]
    .map(String::from)
    .into();
    if !more.iter().any(|set| set.starts_with("model.kind")) {
        sets.push("model.n_layer=1".into());
    }
    sets.extend(more.iter().map(|s| s.to_string()));
    resolve("digits", None, &sets).unwrap()
}

fn few_digits(config: &Config) -> Datasets {
    let all = Datasets::load(config).unwrap();
    let few = |images: &vdm::data::ImageDataset, n| images.subset(0..n).unwrap();
    Datasets { train: few(&all.train, 50), valid: few(&all.valid, 12), test: few(&all.test, 20) }
}

/// Stops when it is asked for this time.
struct StopAfter(u64);

impl Observer for StopAfter {
    fn on_metrics(&mut self, _: &StepLine, _: u64) {}
    fn on_progress(&mut self, _: &str, _: usize, _: usize) {}
    fn on_evaluation(&mut self, _: &EvalLine) {}
    fn on_file(&mut self, _: &str, _: &Path) {}
    fn should_stop(&mut self) -> bool {
        self.0 = self.0.saturating_sub(1);
        self.0 == 0
    }
}

/// Never stops.
fn never() -> StopAfter {
    StopAfter(u64::MAX)
}

fn last(run: &RunDir) -> Checkpoint {
    Checkpoint::load(&run.last()).unwrap()
}

#[test]
fn a_stop_and_a_resume_give_the_weights_of_an_unbroken_training_bit_for_bit() {
    let dir = tempfile::tempdir().unwrap();
    let device = Device::flex();
    // Everything that is random or remembered takes part: dropout, augmentation, accumulation, clipping, epochs of
    // 50 images that end in the middle of a step.
    let more = ["data.augment=true", "train.accumulate=2", "train.grad_clip=1.0", "train.warmup=7"];
    let config = config(12, &more);
    let whole = RunDir::new(dir.path().join("whole"));
    Trainer::new(config.clone(), whole.clone(), few_digits(&config), &device).unwrap().train(&mut never()).unwrap();

    let parts = RunDir::new(dir.path().join("parts"));
    let mut first = Trainer::new(config.clone(), parts.clone(), few_digits(&config), &device).unwrap();
    assert_eq!(first.train(&mut StopAfter(5)).unwrap(), Outcome::Stopped { step: 5 });
    drop(first);
    let mut second = Trainer::resume(config.clone(), parts.clone(), few_digits(&config), false, &device).unwrap();
    assert_eq!(second.step(), 5);
    second.train(&mut never()).unwrap();
    drop(second);

    assert_eq!(files(&whole), files(&parts));
}

#[test]
fn a_training_on_several_devices_gives_the_same_files() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(5, &["data.augment=true", "train.accumulate=2", "train.batch_size=40"]);
    let run = |name: &str, others: usize| {
        let run = RunDir::new(dir.path().join(name));
        let trainer = Trainer::new(config.clone(), run.clone(), few_digits(&config), &Device::flex()).unwrap();
        trainer.with_devices(vec![Device::flex(); others]).unwrap().train(&mut never()).unwrap();
        files(&run)
    };
    let alone = run("one", 0);
    assert_eq!(alone, run("two", 1));
    assert_eq!(alone, run("six", 5));
}

#[test]
fn steps_that_are_read_together_give_the_same_files() {
    let dir = tempfile::tempdir().unwrap();
    let device = Device::flex();
    let more = ["train.accumulate=2", "train.log_every=5", "train.eval_every=4", "schedule.kind=pinned-network"];
    let config = config(9, &[&more[..], &["schedule.objective=variance", "train.grad_clip=0.5"]].concat());
    let run = |name: &str, together| {
        let run = RunDir::new(dir.path().join(name));
        let trainer = Trainer::new(config.clone(), run.clone(), few_digits(&config), &device).unwrap();
        trainer.reading_steps_together(together).train(&mut never()).unwrap();
        files(&run)
    };
    assert_eq!(run("each", false), run("together", true));
}

#[test]
fn steps_that_are_read_together_name_the_step_that_diverged() {
    let dir = tempfile::tempdir().unwrap();
    let variance = ["schedule.kind=monotonic", "schedule.objective=variance"];
    for (i, more) in [&[][..], &variance[..]].into_iter().enumerate() {
        let config = config(40, &[&["train.lr=1e6", "train.warmup=10", "train.log_every=20"], more].concat());
        let run = |name: &str, together| {
            let run = RunDir::new(dir.path().join(format!("{name}-{i}")));
            let trainer = Trainer::new(config.clone(), run.clone(), few_digits(&config), &Device::flex()).unwrap();
            match trainer.reading_steps_together(together).train(&mut never()) {
                Err(TrainError::Diverged { what, step, kept }) => format!("{what} {step} {kept}"),
                Err(other) => other.to_string(),
                Ok(outcome) => panic!("{outcome:?}"),
            }
        };
        let found = run("together", true);
        assert_eq!(found, run("each", false));
        assert!(found.ends_with(" 0") || i == 1, "{found}: the first checkpoint is kept");
    }
}

/// Every file of a run with its bytes; times are taken out of the metrics.
fn files(run: &RunDir) -> std::collections::BTreeMap<String, Vec<u8>> {
    fn list(folder: &Path, prefix: &str, out: &mut std::collections::BTreeMap<String, Vec<u8>>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = format!("{prefix}{}", path.file_name().unwrap().to_str().unwrap());
            if path.is_dir() {
                list(&path, &format!("{name}/"), out);
            } else {
                out.insert(name, std::fs::read(path).unwrap());
            }
        }
    }
    let mut out = std::collections::BTreeMap::new();
    list(run.path(), "", &mut out);
    let text = String::from_utf8(out["metrics.jsonl"].clone()).unwrap();
    let lines = text.lines().map(|line| {
        let mut line: serde_json::Value = serde_json::from_str(line).unwrap();
        line.as_object_mut().unwrap().remove("images_per_second");
        format!("{line}\n")
    });
    out.insert("metrics.jsonl".into(), lines.collect::<String>().into_bytes());
    out
}

/// A stop after any step, and during any evaluation or sampling, leaves what an undisturbed run leaves: they were skipped
/// for good, the window of averages was lost, `best` was forgotten (keras#17012 and case 6).
#[test]
fn a_stop_at_any_moment_changes_no_byte_of_the_folder() {
    let dir = tempfile::tempdir().unwrap();
    let device = Device::flex();
    let more = ["train.eval_every=2", "train.sample_every=3", "train.checkpoint_every=2", "train.log_every=4"];
    let config = config(6, &more);
    let data = few_digits(&config);
    let whole = RunDir::new(dir.path().join("whole"));
    Trainer::new(config.clone(), whole.clone(), data.clone(), &device).unwrap().train(&mut never()).unwrap();
    let want = files(&whole);
    assert!(want.contains_key("samples/step-0000003.png") && want.contains_key("checkpoints/best.safetensors"));
    // At every question whether to stop: after each step, and at each unit of the evaluations and samplings.
    for stop in 1.. {
        let parts = RunDir::new(dir.path().join(stop.to_string()));
        let mut first = Trainer::new(config.clone(), parts.clone(), data.clone(), &device).unwrap();
        if let Outcome::Finished(_) = first.train(&mut StopAfter(stop)).unwrap() {
            assert!(stop > 15, "only {stop} questions");
            break;
        }
        drop(first);
        let resume = Trainer::resume(config.clone(), parts.clone(), data.clone(), false, &device);
        resume.unwrap().train(&mut never()).unwrap();
        let found = files(&parts);
        for (name, bytes) in &want {
            assert!(found.get(name) == Some(bytes), "{name} after a stop at question {stop}");
        }
        assert_eq!(found.len(), want.len());
    }
}

/// The validation images are chosen by; the test images are looked at once, at the end.
#[test]
fn best_is_chosen_on_validation_images_and_the_last_step_competes() {
    let dir = tempfile::tempdir().unwrap();
    let device = Device::flex();
    let config = config(5, &["train.eval_every=2"]);
    let run = RunDir::new(dir.path().join("run"));
    Trainer::new(config.clone(), run.clone(), few_digits(&config), &device).unwrap().train(&mut never()).unwrap();
    let (_, evaluations) = vdm::run::MetricsLog::read(&run.metrics()).unwrap();
    let of = |split: &str| evaluations.iter().filter(|e| e.eval_split == split).map(|e| e.step).collect::<Vec<_>>();
    assert_eq!((of("valid"), of("test")), (vec![2, 4, 5], vec![5]));
    let best = evaluations.iter().filter(|e| e.eval_split == "valid").min_by(|a, b| a.eval_bpd.total_cmp(&b.eval_bpd));
    let kept = Checkpoint::load(&run.best()).unwrap();
    assert_eq!((kept.step, kept.best_bpd), best.map(|e| (e.step, e.eval_bpd)).unwrap());
}

#[test]
fn a_run_in_use_is_refused_and_says_who_uses_it() {
    let dir = tempfile::tempdir().unwrap();
    let device = Device::flex();
    let config = config(2, &[]);
    let run = RunDir::new(dir.path().join("run"));
    let mut first = Trainer::new(config.clone(), run.clone(), few_digits(&config), &device).unwrap();
    let second = || Trainer::resume(config.clone(), run.clone(), few_digits(&config), false, &device);
    let error = second().err().unwrap().to_string();
    assert!(error.contains("in use") && error.contains(&format!("process {}", std::process::id())), "{error}");
    first.train(&mut never()).unwrap();
    drop(first);
    assert!(matches!(second().err().unwrap(), TrainError::Finished { .. }));
}

#[test]
fn other_images_are_refused_unless_they_are_meant() {
    let dir = tempfile::tempdir().unwrap();
    let device = Device::flex();
    let config = config(4, &[]);
    let run = RunDir::new(dir.path().join("run"));
    let mut data = few_digits(&config);
    Trainer::new(config.clone(), run.clone(), data.clone(), &device).unwrap().train(&mut StopAfter(2)).unwrap();
    // The same images in another order.
    data.train = data.train.select(&(0..50).rev().collect::<Vec<_>>()).unwrap();
    let resume = |other| Trainer::resume(config.clone(), run.clone(), data.clone(), other, &device);
    let error = resume(false).err().unwrap().to_string();
    assert!(error.contains("others than those") && error.contains("--other-data"), "{error}");
    assert_eq!(resume(true).unwrap().step(), 2);
}

/// The one before the last is kept for this.
#[test]
fn a_damaged_checkpoint_is_passed_over_for_the_one_before() {
    let dir = tempfile::tempdir().unwrap();
    let device = Device::flex();
    let config = config(6, &["train.checkpoint_every=2"]);
    let run = RunDir::new(dir.path().join("run"));
    let whole = RunDir::new(dir.path().join("whole"));
    let data = few_digits(&config);
    Trainer::new(config.clone(), whole.clone(), data.clone(), &device).unwrap().train(&mut never()).unwrap();
    Trainer::new(config.clone(), run.clone(), data.clone(), &device).unwrap().train(&mut StopAfter(5)).unwrap();
    let mut bytes = std::fs::read(run.last()).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 4;
    std::fs::write(run.last(), bytes).unwrap();
    assert!(Checkpoint::load(&run.last()).unwrap_err().to_string().contains("checksum"));
    let mut resumed = Trainer::resume(config.clone(), run.clone(), data, false, &device).unwrap();
    assert_eq!(resumed.step(), 4);
    resumed.train(&mut never()).unwrap();
    drop(resumed);
    assert_eq!(files(&whole), files(&run));
}

/// Burn's generator is one for the whole process: threads that made models at once took numbers from each other.
#[test]
fn models_made_at_the_same_time_have_the_weights_of_their_seeds() {
    let device = Device::flex();
    let config = config(1, &[]);
    let data = few_digits(&config);
    let weights = || vdm::weights::export(&config.init(data.train.shape(), data.train.vocabulary(), &device));
    let alone = weights();
    std::thread::scope(|scope| {
        let makers: Vec<_> = (0..4).map(|_| scope.spawn(|| [(); 8].map(|()| weights()))).collect();
        assert!(makers.into_iter().flat_map(|maker| maker.join().unwrap()).all(|found| found == alone));
    });
}

#[test]
fn a_resume_is_exact_with_classes_self_conditioning_and_a_trained_schedule() {
    a_resume_is_exact_with(&["model.kind=unet", "model.chn_mult=[1, 2]", "model.self_conditioning=true"]);
}

#[test]
fn a_resume_is_exact_with_several_resolutions() {
    a_resume_is_exact_with(&["model.kind=hourglass", "model.blocks=[1, 1, 0]", "model.dropout=0.2"]);
}

/// With classes, and a schedule that is trained for less variance.
fn a_resume_is_exact_with(network: &[&str]) {
    let dir = tempfile::tempdir().unwrap();
    let device = Device::flex();
    let more = [
        "model.classes=10",
        "train.label_dropout=0.3",
        "schedule.kind=monotonic",
        "schedule.hidden=[8]",
        "schedule.objective=variance",
    ];
    let config = config(8, &[network, &more].concat());
    let runs = ["whole", "parts"].map(|name| RunDir::new(dir.path().join(name)));
    Trainer::new(config.clone(), runs[0].clone(), few_digits(&config), &device).unwrap().train(&mut never()).unwrap();
    let mut first = Trainer::new(config.clone(), runs[1].clone(), few_digits(&config), &device).unwrap();
    first.train(&mut StopAfter(3)).unwrap();
    drop(first);
    Trainer::resume(config.clone(), runs[1].clone(), few_digits(&config), false, &device)
        .unwrap()
        .train(&mut never())
        .unwrap();
    assert_eq!(last(&runs[0]), last(&runs[1]));

    // The classes matter: without them the same model's bound is another.
    let (model, _) = load_model(&config, runs[0].last(), WhichWeights::Ema, &device).unwrap();
    let data = few_digits(&config).test;
    let options = EvalOptions { repeats: 1, batch_size: 8, seed: 0 };
    let with = evaluate(&model, &Bound, &data, &options, &device, &mut unwatched).unwrap();
    let nothing = |_: &[usize]| Conditioning::default();
    let without = evaluate_conditioned(&model, &Bound, &data, nothing, &options, &device, &mut unwatched).unwrap();
    assert!((with.bpd - without.bpd).abs() > 1e-6, "{} {}", with.bpd, without.bpd);
    let wrong = |_: &[usize]| Conditioning::of_classes([Some(1)]);
    assert!(matches!(
        evaluate_conditioned(&model, &Bound, &data, wrong, &options, &device, &mut unwatched),
        Err(EvalError::Conditioning(ConditioningError::Count { .. }))
    ));
}

/// Whatever a network can be told goes through training, evaluation and sampling.
#[test]
fn control_signals_reach_training_evaluation_and_sampling() {
    use vdm::nn::{Control, ControlConfig, Mode, UNetConfig};
    use vdm::schedule::{Endpoints, ScheduleConfig};
    use vdm::train::{GradientSum, Optimizer};
    let (device, autodiff) = (Device::flex(), Device::flex().autodiff());
    let data = few_digits(&config(1, &[]));
    let schedule = ScheduleConfig::LearnedLinear(Endpoints { gamma_0: -8.0, gamma_1: 5.0 });
    let settings = vdm::DiffusionSettings::new(data.train.shape(), data.train.vocabulary(), &schedule);
    let network = UNetConfig {
        control: ControlConfig::Sequence { dim: 3 },
        self_conditioning: true,
        chn_mult: vec![1, 2],
        attn_dim: 16,
        ..UNetConfig::new(1, 16)
    };
    let mut model = vdm::initial::seeded(0, || {
        vdm::VariationalDiffusion::new(schedule.init(&autodiff), network.init(&autodiff), settings)
    });
    // The label as a sequence of two vectors.
    let tell = |set: &vdm::data::ImageDataset, indices: &[usize], device: &Device| {
        let tokens = indices.iter().flat_map(|&i| {
            let label = set.label(i).unwrap() as f32;
            [label, -label, 1.0, label * label, 0.0, 2.0]
        });
        let tokens: Vec<f32> = tokens.collect();
        let tokens = burn::tensor::TensorData::new(tokens, [indices.len(), 2, 3]);
        let control = Some(Control::Sequence(burn::tensor::Tensor::from_data(tokens, device)));
        Conditioning { control, ..Default::default() }
    };

    let mut optimizer = Optimizer::new(&model, &device);
    let recipe = config(1, &["train.warmup=1"]).train;
    for step in 1..=4 {
        let batch: Vec<usize> = (0..8).map(|i| 8 * (step as usize - 1) + i).collect();
        let k = data.train.batch(&batch, &autodiff);
        let told = tell(&data.train, &batch, &autodiff);
        let loss = model.draw_loss(k, step, &told, Mode::Train { dropout_seed: step });
        let gradients = (loss.total().mean() * vdm::bits_per_dim(1.0, 64)).backward();
        let found = vdm::weights::gradients(&model, &gradients);
        assert!(found.keys().any(|name| name.contains("mid_attn.to_k")), "the control's own map learns");
        let gradients = GradientSum::of(&model, gradients);
        model = optimizer.step(model, gradients, &recipe, step);
    }

    let model = burn::module::Module::valid(&model);
    let bound = |told: bool, batch_size| {
        let options = EvalOptions { repeats: 1, batch_size, seed: 0 };
        let conditioning =
            |indices: &[usize]| if told { tell(&data.test, indices, &device) } else { Conditioning::default() };
        evaluate_conditioned(&model, &Bound, &data.test, conditioning, &options, &device, &mut unwatched).unwrap().bpd
    };
    assert_ne!(bound(true, 5), bound(false, 5));
    assert_eq!(bound(true, 5), bound(true, 3), "estimates of x and control depend on no other image");

    let images = |told: bool| {
        let options = SampleOptions { steps: 3, decoder: DecoderRule::Draw, ..Default::default() };
        let conditioning = |numbers: std::ops::Range<u64>| {
            let indices: Vec<usize> = numbers.map(|n| n as usize).collect();
            if told { tell(&data.test, &indices, &device) } else { Conditioning::default() }
        };
        vdm::sample::sample_conditioned(&model, &Ancestral, 0..4, conditioning, &options, &device, &mut unwatched)
            .unwrap()
    };
    assert_ne!(images(true), images(false));
}

#[test]
fn what_does_not_fit_the_images_is_refused_before_training() {
    let dir = tempfile::tempdir().unwrap();
    let error = |more: &[&str]| {
        let config = config(1, more);
        let run = RunDir::new(dir.path().join("run"));
        let error = Trainer::new(config.clone(), run.clone(), few_digits(&config), &Device::flex()).err().unwrap();
        assert!(!run.path().exists(), "nothing is written");
        error.to_string()
    };
    let message = error(&["model.kind=unet", "model.chn_mult=[1, 1, 1, 1, 1]"]);
    assert!(message.contains("8x8") && message.contains("divisible by 16"), "{message}");
    let message = error(&["model.classes=4"]);
    assert!(message.contains("10 classes") && message.contains("model.classes = 4"), "{message}");
}

#[test]
fn training_lowers_the_bound_and_leaves_a_whole_run() {
    let dir = tempfile::tempdir().unwrap();
    let device = Device::flex();
    let config = config(120, &["train.eval_every=30", "train.sample_every=60", "train.lr=3e-3"]);
    let run = RunDir::new(dir.path().join("run"));
    let data = Datasets::load(&config).unwrap();
    let data = Datasets { test: data.test.subset(0..64).unwrap(), ..data };
    let mut trainer = Trainer::new(config.clone(), run.clone(), data.clone(), &device).unwrap();
    let Outcome::Finished(e) = trainer.train(&mut never()).unwrap() else { panic!("it was not stopped") };
    assert!(e.bpd < 4.5, "{e:?}");
    assert!((e.prior + e.reconstruction + e.diffusion - e.bpd).abs() < 1e-12);
    for path in [run.config(), run.metrics(), run.best(), run.samples(60), run.samples(120), run.evaluation()] {
        assert!(path.exists(), "{}", path.display());
    }
    for plot in ["bpd", "schedule", "loss-over-time"] {
        assert!(std::fs::read_to_string(run.plot(plot)).unwrap().contains("</svg>"));
    }
    let evaluations =
        std::fs::read_to_string(run.metrics()).unwrap().lines().filter(|l| l.contains("eval_bpd")).count();
    assert_eq!(evaluations, 5);

    // The discrete-time bound falls towards the continuous one as T grows (VDM section 4.2).
    let options = EvalOptions { repeats: 24, batch_size: 32, seed: 1 };
    let bound = |timesteps: Option<usize>| {
        let (model, _) = load_model(&config, run.last(), WhichWeights::Ema, &device).unwrap();
        evaluate(&model.with_timesteps(timesteps), &Bound, &data.test, &options, &device, &mut unwatched).unwrap()
    };
    let (t4, t16, t256, continuous) = (bound(Some(4)), bound(Some(16)), bound(Some(256)), bound(None));
    assert!(t4.bpd > t16.bpd && t16.bpd > t256.bpd, "{} {} {}", t4.bpd, t16.bpd, t256.bpd);
    // At T = 256 what is left of the gap is within the noise of both estimates.
    let noise = t256.bpd_stderr_noise.unwrap().hypot(continuous.bpd_stderr_noise.unwrap());
    assert!(t256.bpd - continuous.bpd > -4.0 * noise, "{} {} {noise}", t256.bpd, continuous.bpd);
    assert!(t256.bpd - continuous.bpd < t16.bpd - continuous.bpd);

    // Nothing depends on the batch: the evaluation, bit for bit, and every image.
    let (model, _) = load_model(&config, run.last(), WhichWeights::Ema, &device).unwrap();
    let evaluation = |batch_size| {
        let options = EvalOptions { repeats: 2, batch_size, seed: 3 };
        evaluate(&model, &Bound, &data.test, &options, &device, &mut unwatched).unwrap()
    };
    assert_eq!(evaluation(1), evaluation(7));
    for (decoder, clip) in [(DecoderRule::Argmax, false), (DecoderRule::Draw, true)] {
        let images = |first: u64, count: u64, batch_size| {
            let options = SampleOptions { steps: 5, clip, decoder, seed: 9, batch_size, ..Default::default() };
            sample(&model, &Ancestral, first..first + count, &options, &device, &mut unwatched).unwrap()
        };
        let (alone, together) = (images(0, 7, 1), images(0, 7, 7));
        assert_eq!(alone, together);
        assert_eq!(images(5, 2, 2), together[5 * 64..]);
        assert_ne!(together[..64], together[64..128]);
        assert!(together.iter().all(|&k| k < 17));
    }
}

#[test]
fn a_loss_that_is_not_finite_stops_training_and_keeps_the_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    let device = Device::flex();
    let config = config(50, &["train.lr=1e30", "train.checkpoint_every=1"]);
    let run = RunDir::new(dir.path().join("run"));
    let mut trainer = Trainer::new(config.clone(), run.clone(), few_digits(&config), &device).unwrap();
    let error = trainer.train(&mut never()).unwrap_err();
    let TrainError::Diverged { step, kept, .. } = error else { panic!("{error}") };
    assert!(kept < step);
    assert_eq!(last(&run).step, kept);
    // What is kept is worth keeping: its bound is finite.
    let (model, _) = load_model(&config, run.last(), WhichWeights::Ema, &device).unwrap();
    let options = EvalOptions { repeats: 1, batch_size: 8, seed: 0 };
    evaluate(&model, &Bound, &few_digits(&config).test, &options, &device, &mut unwatched).unwrap();
    assert!(error.to_string().contains("train.lr"), "{error}");
}

#[test]
fn a_folder_that_holds_a_run_is_not_overwritten() {
    let dir = tempfile::tempdir().unwrap();
    let device = Device::flex();
    let config = config(1, &[]);
    let run = RunDir::new(dir.path().join("run"));
    Trainer::new(config.clone(), run.clone(), few_digits(&config), &device).unwrap();
    let error = Trainer::new(config.clone(), run, few_digits(&config), &device).err().unwrap();
    assert!(matches!(error, TrainError::Exists { .. }) && error.to_string().contains("--resume"), "{error}");
}

#[test]
fn other_data_or_another_architecture_is_refused_on_resume() {
    let dir = tempfile::tempdir().unwrap();
    let device = Device::flex();
    let config = config(2, &[]);
    let run = RunDir::new(dir.path().join("run"));
    Trainer::new(config.clone(), run.clone(), few_digits(&config), &device).unwrap().train(&mut never()).unwrap();
    let mut wider = config.clone();
    let AnyNetworkConfig::Score(network) = &mut wider.model.network else { panic!("the preset's network") };
    network.n_embd = 64;
    wider.train.steps = 4;
    let error = Trainer::resume(wider, run.clone(), few_digits(&config), false, &device).err().unwrap().to_string();
    assert!(error.contains("last.safetensors") && error.contains("another architecture"), "{error}");
    let shape = vdm::ImageShape { channels: 1, height: 4, width: 4 };
    let other = vdm::data::ImageDataset::new("other", shape, 17, vec![0; 160], None).unwrap();
    let data = Datasets { train: other.clone(), valid: other.clone(), test: other };
    let longer = self::config(4, &[]);
    let error = Trainer::resume(longer, run, data, false, &device).err().unwrap().to_string();
    assert!(error.contains("`other`") && error.contains("1x8x8") && error.contains("1x4x4"), "{error}");
}

/// What makes a schedule of this kind small, if it has a network: `features` units, or one layer of 8.
fn small(kind: &str, features: usize) -> Option<String> {
    match kind {
        "schedule.kind=monotonic" => Some("schedule.hidden=[8]".into()),
        kind if kind.ends_with("network") => Some(format!("schedule.features={features}")),
        _ => None,
    }
}

/// The gradient of the bound against a central difference along random directions, for every schedule, in continuous
/// and in discrete time. Burn's tensors here are f32: with a step of 3e-3 the rounding of a loss near 10 (a few 1e-6)
/// leaves the quotient an error near 1e-3, and the loss's curvature less; the bound allows ten times that.
/// The monotonic network's gamma carries rounding errors of 6e-6, which the time embedding's factor 1000 makes errors of
/// 1e-4 in the loss: ten times the bound for it; its own derivatives are checked more closely in `schedule::objective` and by the
/// golden files.
#[test]
fn the_bounds_gradient_agrees_with_finite_differences() {
    use vdm::nn::{Conditioning, Mode};
    use vdm::weights::{Weights, export, gradients, import};
    let device = Device::flex().autodiff();
    for kind in [
        "fixed-linear",
        "fixed-cosine",
        "fixed-linear-beta",
        "learned-linear",
        "network",
        "pinned-network",
        "monotonic",
    ] {
        for timesteps in [0, 20] {
            let kind = format!("schedule.kind={kind}");
            let timesteps = format!("train.timesteps={timesteps}");
            let small = small(&kind, 16);
            let config = config(1, &["model.fourier=none", &kind, &timesteps, small.as_deref().unwrap_or("seed=0")]);
            let data = few_digits(&config);
            let vocabulary = vdm::diffusion::Vocabulary::new(17).unwrap();
            // Zero-initialised layers would hide what is behind them: start from random weights everywhere.
            let fresh = config.init(data.train.shape(), vocabulary, &device);
            let mut weights = export(&fresh);
            let noise_like = |weights: &Weights, seed: u64, scale: f32| -> Weights {
                let mut out = weights.clone();
                for (i, t) in out.values_mut().enumerate() {
                    vdm_kernels::rng::Philox::new(seed, i as u64).normal(0, &mut t.data);
                    t.data.iter_mut().for_each(|x| *x *= scale);
                }
                out
            };
            let add = |a: &Weights, b: &Weights, factor: f32| -> Weights {
                let mut out = a.clone();
                for (name, t) in &mut out {
                    t.data.iter_mut().zip(&b[name].data).for_each(|(x, y)| *x += factor * y);
                }
                out
            };
            weights = add(&weights, &noise_like(&weights, 1, 0.05), 1.0);
            let k = data.train.batch(&[0, 1, 2, 3], &device);
            let bits = |weights: &Weights| {
                let model = import(fresh.clone(), weights).unwrap();
                let loss = model.draw_loss(k.clone(), 5, &Conditioning::default(), Mode::Train { dropout_seed: 3 });
                let bits = loss.total().mean() * vdm::bits_per_dim(1.0, 64);
                (bits.clone().into_data().iter::<f64>().next().unwrap(), model, bits)
            };
            let (_, model, loss) = bits(&weights);
            let gradient = gradients(&model, &loss.backward());
            for seed in 10..14 {
                let direction = noise_like(&weights, seed, 0.1);
                let slope: f64 = gradient
                    .iter()
                    .flat_map(|(name, g)| g.data.iter().zip(&direction[name].data))
                    .map(|(g, d)| f64::from(*g) * f64::from(*d))
                    .sum();
                let h = 3e-3;
                let up = bits(&add(&weights, &direction, h)).0;
                let down = bits(&add(&weights, &direction, -h)).0;
                let numeric = (up - down) / (2.0 * f64::from(h));
                let error = (slope - numeric).abs();
                let bound = if kind.ends_with("monotonic") { 1e-1 } else { 1e-2 };
                assert!(error < bound * (1.0 + numeric.abs()), "{kind} {timesteps}: {slope} against {numeric}");
            }
        }
    }
}

#[test]
fn a_schedule_is_trained_for_less_variance() {
    use vdm::weights::export;
    let dir = tempfile::tempdir().unwrap();
    let device = Device::flex();
    for kind in ["learned-linear", "pinned-network", "monotonic"] {
        let kind = format!("schedule.kind={kind}");
        let small = small(&kind, 8);
        let more = ["train.accumulate=2", &kind, "schedule.objective=variance", small.as_deref().unwrap_or("seed=0")];
        let config = config(4, &more);
        let data = few_digits(&config);
        let run = RunDir::new(dir.path().join(&kind));
        Trainer::new(config.clone(), run.clone(), data.clone(), &device).unwrap().train(&mut never()).unwrap();
        let checkpoint = last(&run);
        let fresh = export(&config.init(data.train.shape(), checkpoint.vocabulary, &device));
        // Endpoints and shape were both moved, and gamma still increases. (A shift of the shape, b1, has no effect.)
        let moved = |name: &&String| name.starts_with("schedule.") && !name.ends_with(".b1");
        let schedule: Vec<&String> = fresh.keys().filter(moved).collect();
        assert!(schedule.len() >= 2);
        for name in schedule {
            assert_ne!(fresh[name], checkpoint.weights[name], "{name}");
        }
        let (model, _) = load_model(&config, run.last(), WhichWeights::Ema, &device).unwrap();
        assert_eq!(model.schedule.validate(), Ok(()));
        let schedule = model.schedule.to_host();
        assert!((0..100).all(|i| schedule.gamma((i + 1) as f64 / 100.0) > schedule.gamma(i as f64 / 100.0)));
    }
}
