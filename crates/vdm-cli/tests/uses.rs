//! What a shipped model does, right after the build.

mod common;

use common::{Run, vdm};
use image::AnimationDecoder;
use image::codecs::gif::GifDecoder;
use std::fs;
use std::path::Path;

fn json(args: &[&str], dir: &Path) -> serde_json::Value {
    let mut command = vdm();
    command.current_dir(dir).arg("--json").args(args);
    serde_json::from_slice(&command.succeeds()).unwrap()
}

fn error(args: &[&str], dir: &Path) -> String {
    let mut command = vdm();
    command.current_dir(dir).args(args);
    command.fails()
}

/// Width and height of a PNG.
fn size(path: &Path) -> (u32, u32) {
    image::image_dimensions(path).unwrap()
}

#[test]
fn shipped_models_are_listed_and_shown() {
    let dir = tempfile::tempdir().unwrap();
    let listed = json(&["models"], dir.path());
    let names: Vec<&str> = listed["models"].as_array().unwrap().iter().map(|m| m["name"].as_str().unwrap()).collect();
    assert!(names.contains(&"digits"), "{names:?}");
    let shown = json(&["info", "digits"], dir.path());
    assert_eq!((&shown["levels"], &shown["height"]), (&17.into(), &8.into()));
    assert!(error(&["models", "nothing"], dir.path()).contains("is no shipped model"));
    assert!(error(&["eval", "nothing"], dir.path()).contains("shipped models are: digits"));
}

#[test]
fn every_estimator_evaluates_a_shipped_model() {
    let dir = tempfile::tempdir().unwrap();
    let eval = |more: &[&str]| json(&[&["eval", "digits", "--images", "6"], more].concat(), dir.path());
    let bound = eval(&["--repeats", "4", "--per-image", "each.csv"]);
    assert_eq!((&bound["estimator"], &bound["nfe"], &bound["draws"]), (&"bound".into(), &4.0.into(), &1.into()));
    let rows = std::fs::read_to_string(dir.path().join("each.csv")).unwrap();
    assert_eq!(rows.lines().count(), 7);
    assert!(rows.starts_with("index,label,bpd,bpd_stderr,prior,reconstruction,diffusion\n0,"), "{rows}");
    let mean: f64 = rows.lines().skip(1).map(|row| row.split(',').nth(2).unwrap().parse::<f64>().unwrap() / 6.0).sum();
    assert!((mean - bound["bpd"].as_f64().unwrap()).abs() < 1e-9);
    let weighted = eval(&["--repeats", "1", "--estimator", "importance", "--timesteps", "5", "--draws", "3"]);
    assert_eq!((&weighted["nfe"], &weighted["draws"]), (&15.0.into(), &3.into()));
    let ode = eval(&["--repeats", "1", "--estimator", "ode", "--tolerance", "1e-2"]);
    let near = (ode["bpd"].as_f64().unwrap() - bound["bpd"].as_f64().unwrap()).abs();
    assert!(near < 1.0 && ode["nfe"].as_f64().unwrap() > 20.0, "{ode} {bound}");
    let refused = |more: &[&str]| error(&[&["eval", "digits", "--images", "2"], more].concat(), dir.path());
    assert!(refused(&["--estimator", "importance", "--timesteps", "0"]).contains("--timesteps"));
    assert!(refused(&["--estimator", "ode", "--tolerance", "0"]).contains("must be a positive number"));
    assert!(refused(&["--weights", "raw"]).contains("one set of weights"));
}

#[test]
fn validation_images_are_evaluated_on_demand() {
    let dir = tempfile::tempdir().unwrap();
    let eval =
        |split: &[&str]| json(&[&["eval", "digits", "--images", "6", "--repeats", "1"], split].concat(), dir.path());
    let (test, valid) = (eval(&[]), eval(&["--split", "validation"]));
    assert_eq!((&test["split"], &valid["split"]), (&"test".into(), &"validation".into()));
    assert_ne!(test["bpd"], valid["bpd"]);
    // All 74 that `vdm train` holds out.
    let all = json(&["eval", "digits", "--split", "validation", "--repeats", "1"], dir.path());
    assert_eq!(all["images"], 74);
}

/// The same numbers in both formats, or an error before the work that says how to get them.
#[test]
fn rows_of_images_are_written_as_parquet() {
    let dir = tempfile::tempdir().unwrap();
    let args = ["eval", "digits", "--images", "5", "--repeats", "1", "--per-image"];
    #[cfg(not(feature = "parquet"))]
    {
        let refused = error(&[&args[..], &["each.parquet"]].concat(), dir.path());
        assert!(refused.contains("--features parquet") && refused.contains(".csv"), "{refused}");
        assert!(!dir.path().join("each.parquet").exists());
    }
    #[cfg(feature = "parquet")]
    {
        use parquet::file::reader::{FileReader, SerializedFileReader};
        use parquet::record::Field;
        json(&[&args[..], &["each.csv"]].concat(), dir.path());
        json(&[&args[..], &["each.parquet"]].concat(), dir.path());
        let rows = std::fs::read_to_string(dir.path().join("each.csv")).unwrap();
        let file = std::fs::File::open(dir.path().join("each.parquet")).unwrap();
        let found = SerializedFileReader::new(file).unwrap();
        let mut lines = rows.lines();
        let names = Vec::from_iter(lines.next().unwrap().split(','));
        for (line, row) in lines.zip(found.get_row_iter(None).unwrap()) {
            for ((name, value), (column, field)) in
                names.iter().zip(line.split(',')).zip(row.unwrap().get_column_iter())
            {
                assert_eq!(name, column);
                match field {
                    Field::Null => assert_eq!((*name, value), ("bpd_stderr", "")),
                    Field::Long(number) => assert_eq!(value, number.to_string()),
                    Field::Double(number) => assert_eq!(value.parse::<f64>().unwrap(), *number),
                    other => panic!("{other:?}"),
                }
            }
        }
        assert_eq!(found.metadata().file_metadata().num_rows(), 5);
    }
}

#[test]
fn every_sampler_draws_and_shows_its_way() {
    let dir = tempfile::tempdir().unwrap();
    for sampler in ["ancestral", "ddim", "heun", "dpm++-2m", "ode"] {
        let steps: &[&str] = if sampler == "ode" { &[] } else { &["--steps", "4"] };
        let more = ["--sampler", sampler, "--count", "3", "--out", "a.png", "--trajectory", "way.png"];
        let found = json(&[&["sample", "digits"], &more[..], steps].concat(), dir.path());
        assert_eq!(found["sampler"], sampler);
        // Of `ode` one image, of the others all three: two rows each.
        let rows = if sampler == "ode" { 2 } else { 6 };
        assert_eq!(size(&dir.path().join("way.png")).1, rows * 65 - 1, "{sampler}");
    }
    let film = ["--steps", "30", "--count", "3", "--out", "a.png", "--trajectory", "way.gif"];
    json(&[&["sample", "digits"], &film[..]].concat(), dir.path());
    let file = std::io::BufReader::new(std::fs::File::open(dir.path().join("way.gif")).unwrap());
    let frames = GifDecoder::new(file).unwrap().into_frames().collect_frames().unwrap();
    assert_eq!((frames.len(), frames[0].buffer().dimensions()), (12, (3 * 65 - 1, 2 * 65 - 1)));
    let refused = |more: &[&str]| error(&[&["sample", "digits", "--count", "1"], more].concat(), dir.path());
    assert!(refused(&["--sampler", "ddim", "--eta", "1.5"]).contains("eta must be"));
    assert!(refused(&["--sampler", "ode", "--tolerance", "0"]).contains("must be a positive number"));
    assert!(refused(&["--steps", "0"]).contains("0 is not in"));
    assert!(refused(&["--grid", "wavy"]).contains("expected one of"));
}

#[test]
fn images_are_scored_interpolated_inpainted_and_denoised() {
    let dir = tempfile::tempdir().unwrap();
    let score = json(&["score", "digits", "--images", "20", "--repeats", "2"], dir.path());
    assert_eq!(score["images"], 20);
    assert_eq!(std::fs::read_to_string(dir.path().join("scores.csv")).unwrap().lines().count(), 21);
    json(&["interpolate", "digits", "0", "5", "--count", "4", "--tolerance", "1e-2", "-o", "line.png"], dir.path());
    assert_eq!(size(&dir.path().join("line.png")), (4 * 65 - 1, 64));
    let painted = ["inpaint", "digits", "3", "--mask", "left", "--count", "2", "--steps", "4", "-o", "in.png"];
    assert_eq!(json(&painted, dir.path())["pixels"], 32);
    assert_eq!(size(&dir.path().join("in.png")), (4 * 65 - 1, 64));
    let found = json(&["denoise", "digits", "3", "--noise", "3", "--add", "--steps", "10"], dir.path());
    let (before, after) = (found["rms_noisy"].as_f64().unwrap(), found["rms_denoised"].as_f64().unwrap());
    assert!(after < before, "{found}");

    // A mask of another size, images of another shape, and what is no mask.
    let save = |name: &str, side: u32| image::GrayImage::new(side, side).save(dir.path().join(name)).unwrap();
    save("small.png", 7);
    save("black.png", 8);
    let inpaint = |mask: &str| error(&["inpaint", "digits", "3", "--mask", mask], dir.path());
    assert!(inpaint("small.png").contains("expected 8 pixels a line and 8 lines"));
    assert!(inpaint("black.png").contains("no pixel is white"));
    assert!(inpaint("absent.png").contains("no image file that can be read"));
    assert!(error(&["interpolate", "digits", "0", "small.png"], dir.path()).contains("expected 8 pixels a line"));
    assert!(error(&["interpolate", "digits", "0", "299"], dir.path()).contains("the images 0 to 298"));
    assert!(error(&["denoise", "digits", "3", "--noise", "0"], dir.path()).contains("the model knows noise of"));
    assert!(
        error(&["inpaint", "digits", "3", "--mask", "left", "--class", "2"], dir.path()).contains("has no classes")
    );
}

#[test]
fn an_exported_model_is_the_run_and_codes_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let train = [
        "train",
        "--out",
        "run",
        "--set",
        "train.steps=2",
        "--set",
        "model.n_layer=1",
        "--set",
        "train.eval_every=0",
        "--set",
        "train.sample_every=0",
        "--set",
        "eval.repeats=1",
        "--set",
        "sample.count=1",
        "--set",
        "sample.steps=1",
    ];
    json(&train, dir.path());
    json(&["export", "run", "-o", "model.safetensors", "--about", "licence=MIT"], dir.path());
    let bpd = |model: &str| json(&["eval", model, "--repeats", "1"], dir.path())["bpd"].as_f64().unwrap();
    assert_eq!(bpd("run"), bpd("model.safetensors"));
    assert_eq!(json(&["info", "model.safetensors"], dir.path())["about"]["licence"], "MIT");
    json(&["sample", "run", "--count", "2", "--steps", "2", "--separate", "--out", "images"], dir.path());
    json(&["compress", "model.safetensors", "images", "-o", "a.vdmz", "--timesteps", "4"], dir.path());
    json(&["decompress", "a.vdmz", "--model", "run", "-o", "back"], dir.path());
    for name in ["image-00000.png", "image-00001.png"] {
        let read = |folder: &str| image::open(dir.path().join(folder).join(name)).unwrap().to_luma8();
        assert_eq!(read("images"), read("back"));
    }
    assert!(error(&["export", "run", "-o", "b", "--about", "licence"], dir.path()).contains("KEY=TEXT"));
}

#[test]
fn a_report_is_one_page_that_needs_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let more = ["--images", "20", "--samples", "4", "--steps", "5", "-o", "report.html"];
    let found = json(&[&["report", "digits"], &more[..]].concat(), dir.path());
    assert!(found["parts"].as_u64().unwrap() >= 7, "{found}");
    let page = std::fs::read_to_string(dir.path().join("report.html")).unwrap();
    for part in
        ["Noise schedule", "Likelihood", "Bits of single images", "Compression", "Samples", "source = \\\"digits\\\""]
    {
        assert!(page.contains(part), "{part}");
    }
    let links = page.matches("http").count() - page.matches("http://www.w3.org/2000/svg").count();
    assert_eq!(links, 0, "it loads something");
    json(&["report", "digits", "--images", "2", "--samples", "0", "-o", "none.html"], dir.path());
    assert!(error(&["report", "digits", "-o", "."], dir.path()).contains("cannot write"));
}

#[test]
fn a_model_goes_out_to_pytorch() {
    let dir = tempfile::tempdir().unwrap();
    json(&["export", "digits", "--layout", "pytorch", "-o", "model.safetensors"], dir.path());
    let bytes = std::fs::read(dir.path().join("model.safetensors")).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: serde_json::Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    // Dense layers are [out, in], normalisations have weight and bias, and the metadata say how to use them.
    assert_eq!(header["dense0.weight"]["shape"], serde_json::json!([128, 33]));
    assert_eq!(header["down.0.norm1.weight"]["shape"], serde_json::json!([32]));
    let about = &header["__metadata__"];
    assert!(about["network"].as_str().unwrap().contains("\"kind\":\"score\"") && about["time"] == "[-8, 5]", "{about}");
}

/// Weights of other programs become model files; that they compute the same is tested by the golden files of `vdm`.
#[test]
fn weights_of_other_programs_are_imported() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../vdm/tests/golden");
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("model.safetensors");
    let import = |file: &Path, args: &[&str]| {
        let mut command = vdm();
        command.arg("import").arg(file).args(args).arg("-o").arg(&out).arg("--json");
        command
    };
    let read = |bytes: Vec<u8>| serde_json::from_slice::<serde_json::Value>(&bytes).unwrap();
    let unet = ["--map", "unet", "--preset", "fashion-mnist", "--shape", "3,8,8", "--set", "model.n_embd=8"];
    let unet_keys = ["chn_mult=[1,2,4]", "attn_dim=16", "norm_groups=4", "with_attention=true"];
    let mut command = import(&golden.join("unet_plain.pt"), &unet);
    for key in unet_keys {
        command.args(["--set", &format!("model.{key}")]);
    }
    let found = read(command.succeeds());
    assert_eq!((&found["configured_schedule"], &found["parameters"]), (&true.into(), &157_397.into()));
    vdm().arg("sample").arg(&out).args(["--count", "1", "--steps", "2", "-o"]).arg(dir.path().join("a.png")).succeeds();

    let port = ["--map", "port", "--under", "params/", "--set", "model.n_embd=32", "--set", "model.n_layer=1"];
    let port_file = golden.join("port_plain.safetensors");
    // Groups of one channel, which our configurations refuse.
    let error = import(&port_file, &port).fails();
    assert!(error.contains("norm_groups"), "{error}");

    // A file with a schedule, under our own names; and a user's map, of a part of it that has none.
    let (run, own) = (dir.path().join("run"), dir.path().join("own.safetensors"));
    let sets = ["model.n_layer=1", "eval.repeats=1", "sample.count=1", "sample.steps=1"];
    let mut train = vdm();
    train.args(["train", "--steps", "2", "--batch-size", "8", "--json", "--out"]).arg(&run);
    sets.iter().fold(&mut train, |command, set| command.args(["--set", set])).succeeds();
    vdm().arg("export").arg(&run).arg("-o").arg(&own).succeeds();
    let digits = ["--preset", "digits", "--levels", "17", "--set", "model.n_layer=1", "--map"];
    let found = read(import(&own, &[&digits[..], &["vdm"]].concat()).succeeds());
    assert_eq!(found["configured_schedule"], false);
    let bound = |model: &Path| {
        read(vdm().arg("eval").arg(model).args(["--images", "20", "--repeats", "1", "--json"]).succeeds())["bpd"]
            .clone()
    };
    assert_eq!(bound(&out), bound(&own));
    let map = dir.path().join("own.toml");
    fs::write(&map, "[[rule]]\nfrom = '^Score\\.'\nto = 'network.Score.'\n").unwrap();
    let part = [&digits[..], &[map.to_str().unwrap(), "--under", "network."]].concat();
    assert_eq!(read(import(&own, &part).succeeds())["configured_schedule"], true);

    // What is too much is named.
    vdm().args(["export", "digits", "-o"]).arg(&own).succeeds();
    let error = import(&own, &["--preset", "digits", "--levels", "17", "--map", "vdm"]).fails();
    assert!(error.contains("`errors."), "{error}");
    for (args, words) in [
        (&["--map", "nothing"][..], "PyTorch port of the paper"),
        (&["--map", "unet", "--under", "x/"], "no tensor"),
        (&["--map", "unet", "--set", "model.n_embd=8192"], "the configured model"),
    ] {
        let error = import(&golden.join("unet_plain.pt"), args).fails();
        assert!(error.contains(words), "{args:?}: {error}");
    }
    let text = dir.path().join("a.toml");
    fs::write(&text, "[[rule]]\nfrom = '('\nto = ''").unwrap();
    let error = import(&golden.join("unet_plain.pt"), &["--map", text.to_str().unwrap()]).fails();
    assert!(error.contains("a.toml") && error.contains("rule 1"), "{error}");
}

/// Options that a command has no use for were taken without a word, and results named steps that were not taken.
#[test]
fn options_without_use_are_refused_and_steps_that_are_not_taken_are_not_told() {
    let dir = tempfile::tempdir().unwrap();
    let refused = |args: &[&str]| error(args, dir.path());
    let two = ["eval", "digits", "--images", "2", "--repeats", "1"];
    assert!(refused(&[&two[..], &["--reverse-variance", "step"]].concat()).contains("--timesteps"));
    let ode = [&two[..], &["--estimator", "ode", "--tolerance", "1e-2"]].concat();
    let found = json(&ode, dir.path());
    assert!(found["timesteps"].is_null(), "{found}");
    assert!(refused(&[&ode[..], &["--timesteps", "7"]].concat()).contains("--timesteps"));
    let drawn = ["sample", "digits", "--count", "1", "--sampler", "ode", "--out", "a.png"];
    for more in [["--steps", "7"], ["--grid", "time"]] {
        assert!(refused(&[&drawn[..], &more].concat()).contains(more[0]));
    }
    let drawn = json(&drawn, dir.path());
    assert!(drawn["steps"].is_null() && drawn["grid"].is_null(), "{drawn}");
    let pytorch = ["export", "digits", "--layout", "pytorch", "-o", "p.safetensors"];
    assert!(refused(&[&pytorch[..], &["--half"]].concat()).contains("--half"));
    assert!(refused(&[&pytorch[..], &["--about", "licence=x"]].concat()).contains("--about"));
    assert!(refused(&["export", "digits", "--checkpoint", "best", "-o", "p"]).contains("one set of weights"));
    assert!(refused(&["score", "digits", "a.png", "--data-dir", "d"]).contains("--data-dir"));
    assert!(refused(&["denoise", "digits", "a.png", "--data-dir", "d"]).contains("--data-dir"));
    assert!(refused(&["report", "digits", "--data-dir", "/nowhere", "-o", "r.html"]).contains("--data-dir"));
    assert!(refused(&["bench", "operators", "--layers", "2"]).contains("--layers"));
    // Before the model is even looked for.
    assert!(refused(&["compress", "nothing", "--force", "-o", "/dev/null"]).contains("/dev/null"));
    assert!(refused(&["sample", "digits", "--eta", "0.5"]).contains("--eta"));
    assert!(refused(&["sample", "digits", "--tolerance", "0.5"]).contains("--tolerance"));
    assert!(refused(&[&two[..], &["--draws", "2"]].concat()).contains("--draws"));
    for option in [["--probes", "2"], ["--trace", "exact"], ["--tolerance", "0.1"]] {
        assert!(refused(&[&two[..], &option].concat()).contains(option[0]));
    }
    assert!(refused(&[&ode[..], &["--trace", "exact", "--probes", "2"]].concat()).contains("--probes"));
    assert!(refused(&["bench", "sample", "--variance"]).contains("--variance"));
    let between = ["interpolate", "digits", "0", "nothing.png", "--data-dir", "d"];
    assert!(!refused(&between).contains("leave it out"), "the number needs the folder");
    json(&["compress", "digits", "--count", "1", "--timesteps", "2", "-o", "a.vdmz"], dir.path());
    assert!(refused(&["verify", "a.vdmz", "--weights", "raw"]).contains("--model"));
}

/// The end of the numbers of images overflowed.
#[test]
fn the_last_image_that_has_a_number_is_drawn() {
    let dir = tempfile::tempdir().unwrap();
    let last = (u64::MAX - 1).to_string();
    let args = ["sample", "digits", "--separate", "--count", "1", "--steps", "2", "--first", &last, "--out", "x"];
    assert_eq!(json(&args, dir.path())["images"], 1);
}

/// The file was written, and then the program ended in a panic.
#[cfg(unix)]
#[test]
fn a_name_that_is_no_text_is_written_and_told() {
    use std::os::unix::ffi::OsStrExt;
    let dir = tempfile::tempdir().unwrap();
    let name = std::ffi::OsStr::from_bytes(b"m\xff.bin");
    let mut command = vdm();
    command.current_dir(dir.path()).args(["--json", "export", "digits", "-o"]).arg(name);
    let found: serde_json::Value = serde_json::from_slice(&command.succeeds()).unwrap();
    assert_eq!(found["path"], "m\u{fffd}.bin");
    assert!(dir.path().join(name).is_file());
    // What a model file is called does not matter.
    let mut command = vdm();
    command.current_dir(dir.path()).args(["--json", "info"]).arg(name);
    let found: serde_json::Value = serde_json::from_slice(&command.succeeds()).unwrap();
    assert_eq!(found["levels"], 17);
}

/// All images were drawn first; a training stopped at its first samples, and again whenever it went on.
#[test]
fn a_picture_that_is_too_large_is_refused_before_anything_is_drawn() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("images")).unwrap();
    for i in 0..8u8 {
        image::GrayImage::from_pixel(512, 512, image::Luma([i]))
            .save(dir.path().join(format!("images/{i}.png")))
            .unwrap();
    }
    let sets = ["data.source=folder", "data.dir=images", "data.size=512", "data.channels=1", "sample.count=4096"];
    let sets: Vec<&str> = sets.iter().flat_map(|set| ["--set", *set]).collect();
    let error = error(&[&["train", "--preset", "fashion-mnist", "--out", "run"], &sets[..]].concat(), dir.path());
    assert!(error.contains("sample.count") && error.contains("fewer images"), "{error}");
    assert!(!dir.path().join("run").exists());
}
