//! `vdm compress` and `vdm decompress` as a user meets them.

mod common;

use common::{Run, vdm};
use image::{GrayImage, ImageBuffer, ImageFormat, Luma, Rgb, RgbImage, Rgba, RgbaImage};
use std::fs;
use std::path::Path;
use std::process::Command;
use vdm::data::{IdxImages, ImageDataset, Split, digits, write_idx_images};

/// Trains a tiny model of the digits for a moment.
fn train(run: &Path, seed: u32) {
    let mut command = vdm();
    command.args(["train", "--json", "--out"]).arg(run);
    for set in ["train.steps=2", "train.batch_size=8", "model.n_layer=1", "eval.repeats=1", "sample.count=1"] {
        command.args(["--set", set]);
    }
    command.args(["--set", "sample.steps=1", "--set", &format!("seed={seed}")]).succeeds();
}

fn json(command: &mut Command) -> serde_json::Value {
    let output = command.arg("--json").succeeds();
    let text = String::from_utf8(output).unwrap();
    assert_eq!(text.lines().count(), 1, "one object and nothing else: {text}");
    serde_json::from_str(&text).unwrap()
}

fn stderr(command: &mut Command) -> String {
    command.fails()
}

fn compress(run: &Path, images: &[&Path], out: &Path) -> Command {
    let mut command = vdm();
    command.args(["compress", "--timesteps", "3"]).arg(run).args(images).arg("-o").arg(out);
    command
}

fn decompress(run: &Path, file: &Path, out: &Path) -> Command {
    let mut command = vdm();
    command.arg("decompress").arg(file).arg("--model").arg(run).arg("-o").arg(out);
    command
}

/// The bytes of an IDX file of these images.
fn idx(images: &ImageDataset) -> Vec<u8> {
    let shape = images.shape();
    let images = IdxImages::new(shape.height, shape.width, images.bytes().to_vec()).unwrap();
    let mut bytes = Vec::new();
    write_idx_images(&mut bytes, &images).unwrap();
    bytes
}

/// The names of all files below a folder, sorted.
fn names(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        if entry.path().is_dir() {
            found.extend(names(&entry.path()).into_iter().map(|below| format!("{name}/{below}")));
        } else {
            found.push(name);
        }
    }
    found.sort();
    found
}

/// An image of the 17 levels of the digits, as bright as `vdm sample` draws them.
fn digit(seed: u32) -> GrayImage {
    GrayImage::from_fn(8, 8, |x, y| Luma([((x * y + x + seed) % 17 * 255 / 16) as u8]))
}

#[test]
fn the_test_split_comes_back_byte_for_byte() {
    let dir = tempfile::tempdir().unwrap();
    let (run, file, out) = (dir.path().join("run"), dir.path().join("deep/er/test.vdmz"), dir.path().join("out"));
    train(&run, 0);
    let report = json(compress(&run, &[], &file).args(["--threads", "1"]));
    let bytes = fs::read(&file).unwrap();
    assert_eq!((&report["images"], &report["steps"], &report["segments"]), (&299.into(), &3.into(), &1.into()));
    assert_eq!(report["bytes"], bytes.len());
    for key in ["net_bpd", "net_bpd_stderr", "stream_bpd", "file_bpd", "seconds", "verify_seconds"] {
        assert!(report[key].as_f64().unwrap() > 0.0, "{key}: {report}");
    }

    let back = json(decompress(&run, &file, &out).args(["--threads", "2"]));
    assert_eq!((&back["images"], &back["files"]), (&299.into(), &1.into()));
    let test = digits(Split::Test).unwrap();
    assert_eq!(names(&out), ["digits-test-images-idx3-ubyte"]);
    assert!(fs::read(out.join("digits-test-images-idx3-ubyte")).unwrap() == idx(&test), "other bytes");

    let info = json(vdm().arg("info").arg(&file));
    for key in ["images", "bytes", "net_bpd", "stream_bpd", "file_bpd", "steps", "segments"] {
        assert_eq!(info[key], report[key], "{key}");
    }
    assert_eq!(info["note"], "digits after 2 steps");
    let text = String::from_utf8(vdm().arg("info").arg(&file).succeeds()).unwrap();
    assert!(text.contains("299 of 1x8x8 with 17 levels") && text.contains("digits after 2 steps"), "{text}");

    // The same again is the same file, byte for byte, and what is written is IDX that can be compressed itself.
    let (again, last) = (dir.path().join("again.vdmz"), dir.path().join("last"));
    compress(&run, &[&out], &again)
        .args(["--threads", "2", "--no-verify", "--no-attributes", "--no-fallback"])
        .succeeds();
    assert!(fs::read(&again).unwrap() == bytes, "another file");
    let text = decompress(&run, &again, &last).succeeds();
    assert!(String::from_utf8(text).unwrap().starts_with("299 images in 1 files"));
    assert_eq!(names(&last), names(&out));
}

#[test]
fn images_come_back_with_their_names_and_pixels() {
    let dir = tempfile::tempdir().unwrap();
    let (run, images, out) = (dir.path().join("run"), dir.path().join("images"), dir.path().join("out"));
    train(&run, 0);
    fs::create_dir_all(images.join("sub/deeper")).unwrap();
    let put = |name: &str, seed| digit(seed).save_with_format(images.join(name), ImageFormat::Png).unwrap();
    let expected = ["a.png", "sub/b ö.png", "sub/deeper/c.png", "sub/not really.jpg"];
    for (name, seed) in expected.into_iter().zip(0..) {
        put(name, seed);
    }
    put(".hidden.png", 9);
    let single = dir.path().join("z.png");
    digit(4).save(&single).unwrap();

    let file = dir.path().join("images.vdmz");
    let report = json(compress(&run, &[&images, &single], &file).args([
        "--restart-every",
        "2",
        "--choose-steps",
        "--no-fallback",
    ]));
    assert_eq!((&report["images"], &report["files"], &report["segments"]), (&5.into(), &5.into(), &3.into()));
    decompress(&run, &file, &out).succeeds();
    let expected = [&expected[..], &["z.png"]].concat();
    assert_eq!(names(&out), expected);
    for (name, seed) in expected.iter().zip(0..) {
        let png = fs::read(out.join(name)).unwrap();
        let image = image::load_from_memory_with_format(&png, ImageFormat::Png).unwrap();
        assert_eq!(image.as_luma8().unwrap(), &digit(seed), "{name}");
    }

    // Two inputs cannot come back under one name.
    let error = stderr(&mut compress(&run, &[&single, &single], &dir.path().join("twice.vdmz")));
    assert!(error.contains("z.png") && error.contains("rename"), "{error}");
    assert!(!dir.path().join("twice.vdmz").exists());
}

#[test]
fn some_of_the_images_come_back_alone() {
    let dir = tempfile::tempdir().unwrap();
    let (run, file) = (dir.path().join("run"), dir.path().join("some.vdmz"));
    train(&run, 0);
    let report = json(compress(&run, &[], &file).args(["--count", "12", "--restart-every", "5"]));
    assert_eq!((&report["images"], &report["segments"]), (&12.into(), &3.into()));
    let out = dir.path().join("out");
    let back = json(decompress(&run, &file, &out).args(["--first", "4", "--count", "5"]));
    assert_eq!((&back["images"], &back["first"]), (&5.into(), &4.into()));
    let some = digits(Split::Test).unwrap().subset(4..9).unwrap();
    assert_eq!(fs::read(out.join("digits-test-images-idx3-ubyte")).unwrap(), idx(&some));

    let none = dir.path().join("none");
    for range in [["--first", "12", "--count", "1"], ["--first", "0", "--count", "13"]] {
        let error = stderr(decompress(&run, &file, &none).args(range));
        assert!(error.contains("12 images") && error.contains("--first"), "{error}");
    }
    let error = stderr(decompress(&run, &file, &none).args(["--first", "12"]));
    assert!(error.contains("12 images"), "{error}");
    assert!(!none.exists());
}

#[test]
fn nothing_is_written_but_the_right_images() {
    let dir = tempfile::tempdir().unwrap();
    let (run, other, file) = (dir.path().join("run"), dir.path().join("other"), dir.path().join("some.vdmz"));
    train(&run, 0);
    train(&other, 1);
    compress(&run, &[], &file).args(["--count", "3"]).succeeds();
    let out = dir.path().join("out");
    let error = stderr(&mut decompress(&other, &file, &out));
    assert!(error.contains("another model") && error.contains("digits after 2 steps"), "{error}");
    assert!(error.contains("some.vdmz") && error.contains("--model"), "{error}");

    let whole = fs::read(&file).unwrap();
    let damaged = dir.path().join("damaged.vdmz");
    for at in [0, 4, 7, 12, 40, whole.len() / 2, whole.len() - 1] {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x10;
        fs::write(&damaged, bytes).unwrap();
        for error in [stderr(&mut decompress(&run, &damaged, &out)), stderr(vdm().arg("info").arg(&damaged))] {
            assert!(error.contains("damaged.vdmz") && !error.contains("panicked"), "{error}");
        }
    }
    fs::write(&damaged, &whole[..whole.len() - 5]).unwrap();
    let error = stderr(&mut decompress(&run, &damaged, &out));
    assert!(error.contains("truncated"), "{error}");
    assert!(!out.exists());

    let error = stderr(&mut decompress(&dir.path().join("nowhere"), &file, &out));
    assert!(error.contains("--model") && error.contains("holds no run"), "{error}");

    // A folder with something in it is left alone, unless one insists.
    fs::create_dir(&out).unwrap();
    fs::write(out.join("mine"), b"mine").unwrap();
    let error = stderr(&mut decompress(&run, &file, &out));
    assert!(error.contains("not empty") && error.contains("--force"), "{error}");
    assert_eq!(names(&out), ["mine"]);
    decompress(&run, &file, &out).arg("--force").succeeds();
    assert_eq!(names(&out), ["digits-test-images-idx3-ubyte", "mine"]);
}

/// What the model cannot code comes back byte for byte, and images of other sizes pixel for pixel, with their attributes.
#[test]
fn any_file_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let [run, folder, file, out] = ["run", "odd", "odd.vdmz", "out"].map(|name| dir.path().join(name));
    train(&run, 0);
    fs::create_dir_all(folder.join("sub")).unwrap();
    let path = |name: &str| folder.join(name);
    let levels = |x: u32, y: u32| ((x * 3 + y * y) % 17 * 255 / 16) as u8;
    GrayImage::from_fn(1, 1, |x, y| Luma([levels(x, y)])).save(path("1x1.png")).unwrap();
    GrayImage::from_fn(3000, 1, |x, y| Luma([levels(x, y)])).save(path("3000x1.png")).unwrap();
    GrayImage::from_fn(19, 21, |x, y| Luma([levels(x, y)])).save(path("sub/tall.png")).unwrap();
    RgbImage::from_fn(20, 9, |x, y| Rgb([levels(x, y), levels(y, x), 0])).save(path("colour.png")).unwrap();
    let clear = |x: u32, y: u32| Rgba([levels(x, y), 255, levels(y, x), (x * y) as u8]);
    RgbaImage::from_fn(12, 11, clear).save(path("clear.png")).unwrap();
    let deep = ImageBuffer::<Luma<u16>, Vec<u16>>::from_fn(8, 8, |x, _| Luma([x as u16 * 999]));
    deep.save(path("deep.png")).unwrap();
    GrayImage::from_pixel(8, 8, Luma([100])).save(path("between.png")).unwrap();
    digit(0).save_with_format(path("lossy.jpg"), ImageFormat::Jpeg).unwrap();
    RgbaImage::new(8, 8).save_with_format(path("film.gif"), ImageFormat::Gif).unwrap();
    fs::write(path("words.txt"), "no image").unwrap();
    fs::write(path("empty.png"), "").unwrap();
    fs::write(path("half.png"), &fs::read(path("sub/tall.png")).unwrap()[..60]).unwrap();
    let mut wide = Vec::new();
    write_idx_images(&mut wide, &IdxImages::new(8, 9, vec![1; 72]).unwrap()).unwrap();
    fs::write(path("wide-idx"), &wide).unwrap();
    let old = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_007);
    fs::File::options().write(true).open(path("words.txt")).unwrap().set_modified(old).unwrap();

    let report = json(&mut compress(&run, &[&folder], &file));
    assert_eq!(report["files"], 13);
    let own: u64 = names(&folder).iter().map(|name| fs::metadata(path(name)).unwrap().len()).sum();
    let overhead = report["bytes"].as_u64().unwrap().saturating_sub(own);
    assert!(overhead < 150 + 13 * 40, "{overhead} bytes more than the files");
    json(decompress(&run, &file, &out).args(["--threads", "1"]));
    assert_eq!(names(&out), names(&folder));
    for name in names(&folder) {
        let [before, after] = [&folder, &out].map(|folder| fs::read(folder.join(&name)).unwrap());
        let pixels = |bytes: &[u8]| image::load_from_memory(bytes).ok();
        let same = before == after || pixels(&before).is_some() && pixels(&before) == pixels(&after);
        assert!(same, "{name}");
    }
    let time = fs::metadata(out.join("words.txt")).unwrap().modified().unwrap();
    assert_eq!(time, old);

    // One of them alone, through the standard output.
    let mut one = vdm();
    one.arg("decompress").arg(&file).arg("-m").arg(&run).args(["-o", "-", "--name", "sub/tall.png"]);
    let bytes = one.succeeds();
    assert_eq!(image::load_from_memory(&bytes).unwrap(), image::open(path("sub/tall.png")).unwrap());
    let error = stderr(vdm().arg("decompress").arg(&file).arg("-m").arg(&run).args(["-o", "-", "--name", "nothing"]));
    assert!(error.contains("no file of the name") && error.contains("vdm info"), "{error}");
    // A file that is kept as it is needs no model.
    let mut one = vdm();
    assert_eq!(one.arg("decompress").arg(&file).args(["-o", "-", "--name", "words.txt"]).succeeds(), b"no image");
}

/// Some tiles of an image were written as an image of its size, with the others black.
#[test]
fn the_standard_output_gets_whole_files_only() {
    let dir = tempfile::tempdir().unwrap();
    let [image, file] = ["wide.png", "a.vdmz"].map(|name| dir.path().join(name));
    GrayImage::from_fn(19, 8, |x, y| Luma([((x + y) % 17 * 255 / 16) as u8])).save(&image).unwrap();
    compress(Path::new("digits"), &[&image], &file).arg("--no-fallback").succeeds();
    let mut part = vdm();
    part.arg("decompress").arg(&file).args(["-o", "-", "--first", "1", "--count", "1"]);
    let error = stderr(&mut part);
    assert!(error.contains("some of its tiles") && error.contains("--name"), "{error}");
    let mut all = vdm();
    let png = all.arg("decompress").arg(&file).args(["-o", "-", "--first", "0", "--count", "3"]).succeeds();
    assert_eq!(image::load_from_memory(&png).unwrap(), image::open(&image).unwrap());
}

/// What follows a PNG image in its file was lost.
#[test]
fn a_file_that_goes_on_after_its_image_is_kept_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let [image, file, out] = ["image.png", "a.vdmz", "out"].map(|name| dir.path().join(name));
    digit(3).save(&image).unwrap();
    let mut bytes = fs::read(&image).unwrap();
    bytes.extend(b"and an archive");
    fs::write(&image, &bytes).unwrap();
    compress(Path::new("digits"), &[&image], &file).arg("--no-fallback").succeeds();
    vdm().arg("decompress").arg(&file).arg("-o").arg(&out).succeeds();
    assert_eq!(fs::read(out.join("image.png")).unwrap(), bytes);
}

/// The averages were embedded, and the file was coded with the weights of the last step: nothing could read it.
#[test]
fn the_embedded_model_has_the_weights_that_code() {
    let dir = tempfile::tempdir().unwrap();
    let [run, image, file, out] = ["run", "image.png", "a.vdmz", "out"].map(|name| dir.path().join(name));
    train(&run, 0);
    digit(3).save(&image).unwrap();
    let raw = ["--weights", "raw", "--embed-model", "--no-fallback"];
    compress(&run, &[&image], &file).args(raw).succeeds();
    fs::remove_dir_all(&run).unwrap();
    vdm().arg("decompress").arg(&file).arg("-o").arg(&out).succeeds();
    assert_eq!(image::open(out.join("image.png")).unwrap().as_luma8().unwrap(), &digit(3));
}

/// A folder of pictures that has the name of a shipped model hid it.
#[test]
fn a_folder_that_is_no_run_does_not_hide_a_shipped_model() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("digits")).unwrap();
    digit(3).save(dir.path().join("digits/3.png")).unwrap();
    let mut command = vdm();
    command.current_dir(dir.path()).args(["compress", "--timesteps", "3", "digits", "digits", "-o", "a.vdmz"]);
    assert_eq!(json(&mut command)["files"], 1);
}

/// `vdm decompress FILE` finds its model by itself: inside the file, or among the shipped ones.
#[test]
fn a_file_finds_its_model() {
    let dir = tempfile::tempdir().unwrap();
    let [run, image, file, out] = ["run", "image.png", "a.vdmz", "out"].map(|name| dir.path().join(name));
    train(&run, 0);
    digit(3).save(&image).unwrap();
    let alone = |file: &Path, out: &Path| {
        let mut command = vdm();
        command.arg("decompress").arg(file).arg("-o").arg(out);
        command
    };
    compress(&run, &[&image], &file).arg("--no-fallback").succeeds();
    let error = stderr(&mut alone(&file, &out));
    assert!(error.contains("neither in it nor shipped") && error.contains("digits after 2 steps"), "{error}");
    assert!(error.contains("--model") && !out.exists(), "{error}");

    let embedded = dir.path().join("embedded.vdmz");
    compress(&run, &[&image], &embedded).args(["--embed-model", "--no-fallback"]).succeeds();
    fs::remove_dir_all(&run).unwrap();
    alone(&embedded, &out).succeeds();
    assert_eq!(image::open(out.join("image.png")).unwrap().as_luma8().unwrap(), &digit(3));
    assert!(fs::metadata(&embedded).unwrap().len() > 10 * fs::metadata(&file).unwrap().len());

    let shipped = dir.path().join("shipped.vdmz");
    compress(Path::new("digits"), &[&image], &shipped).arg("--no-fallback").succeeds();
    alone(&shipped, &dir.path().join("from shipped")).succeeds();
    let verified = json(vdm().arg("verify").arg(&shipped));
    assert_eq!((&verified["files"], &verified["images"]), (&1.into(), &1.into()));
    let mut damaged = fs::read(&shipped).unwrap();
    let last = damaged.len() - 1;
    damaged[last] ^= 1;
    fs::write(&shipped, damaged).unwrap();
    assert!(stderr(vdm().arg("verify").arg(&shipped)).contains("damaged"));
    // Another model is no damage.
    let other = dir.path().join("other");
    train(&other, 1);
    let error = stderr(vdm().arg("verify").arg(&file).arg("-m").arg(&other));
    assert!(error.contains("another model") && !error.contains("damaged"), "{error}");
}

#[test]
fn files_go_through_pipes() {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("image.png");
    digit(3).save(&image).unwrap();
    let compressed = vdm()
        .args(["compress", "--timesteps", "3", "digits", "-", "-o", "-"])
        .stdin(fs::File::open(&image).unwrap())
        .succeeds();
    let file = dir.path().join("a.vdmz");
    fs::write(&file, compressed).unwrap();
    let png = vdm().args(["decompress", "-", "-o", "-"]).stdin(fs::File::open(&file).unwrap()).succeeds();
    assert_eq!(image::load_from_memory(&png).unwrap().as_luma8().unwrap(), &digit(3));

    // An IDX file was taken for bytes of no kind there.
    let images = dir.path().join("idx");
    fs::write(&images, idx(&digits(Split::Test).unwrap().subset(0..4).unwrap())).unwrap();
    let compressed = vdm()
        .args(["compress", "--timesteps", "3", "digits", "-", "-o", "-", "--no-fallback"])
        .stdin(fs::File::open(&images).unwrap())
        .succeeds();
    fs::write(&file, compressed).unwrap();
    assert_eq!(json(vdm().arg("verify").arg(&file))["images"], 4);
    let back = vdm().args(["decompress", "-", "-o", "-"]).stdin(fs::File::open(&file).unwrap()).succeeds();
    assert_eq!(back, fs::read(&images).unwrap());
}

#[test]
fn what_cannot_be_compressed_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let (run, file) = (dir.path().join("run"), dir.path().join("x.vdmz"));
    train(&run, 0);
    let path = |name: &str| dir.path().join(name);
    let refused = |image: &Path, why: &str| {
        let error = stderr(&mut compress(&run, &[image], &file));
        let name = image.file_name().unwrap().to_str().unwrap();
        assert!(error.contains(name) && error.contains(why), "{name}: {error}");
        assert!(!file.exists());
    };
    refused(&path("nothing-there.png"), "cannot read");
    fs::create_dir(path("empty")).unwrap();
    refused(&path("empty"), "holds no files");

    // The same of the file to write.
    let error = stderr(&mut compress(&run, &[], dir.path()));
    assert!(error.contains("is a folder") && error.contains("--out"), "{error}");
    fs::write(&file, "mine").unwrap();
    let error = stderr(&mut compress(&run, &[], &file));
    assert!(error.contains("--force"), "{error}");
    assert_eq!(fs::read(&file).unwrap(), b"mine");
    compress(&run, &[], &file).args(["--count", "1", "--force"]).succeeds();
    assert_eq!(&fs::read(&file).unwrap()[..4], b"VDMZ");
    let many = ["compress", "--choose-steps", "--timesteps", "2000", "-o"];
    let error = stderr(vdm().args(many).arg(path("y.vdmz")).arg(&run));
    assert!(error.contains("--choose-steps"), "{error}");
    for wider in [["--grid", "placed"], ["--reverse-variance", "pixel"]] {
        let error = stderr(vdm().args(["compress", "-o"]).arg(path("y.vdmz")).arg(&run).args(wider));
        assert!(error.contains(wider[0]) && error.contains("fit-errors"), "{error}");
    }
}

/// The file is written when it is whole and verified; whenever the process is killed before, there is none.
#[cfg(unix)]
#[test]
fn a_kill_leaves_no_file() {
    let dir = tempfile::tempdir().unwrap();
    let (run, out) = (dir.path().join("run"), dir.path().join("out"));
    train(&run, 0);
    for delay in [0, 100, 400, 1000] {
        let mut command = vdm();
        command.args(["compress", "--timesteps", "50000", "-o"]).arg(out.join("test.vdmz")).arg(&run);
        command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
        let mut child = command.spawn().unwrap();
        std::thread::sleep(std::time::Duration::from_millis(delay));
        assert!(child.try_wait().unwrap().is_none(), "it has ended already");
        let status = std::process::Command::new("kill").args(["-KILL", &child.id().to_string()]).status().unwrap();
        assert!(status.success());
        assert!(!child.wait().unwrap().success());
        assert!(!out.exists() || names(&out).is_empty(), "{:?}", names(&out));
    }
}

/// A folder as data sets come, with labels beside the images and a file of another kind.
#[test]
fn labels_and_other_files_in_a_folder_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    let [run, folder, file, out] = ["run", "data", "data.vdmz", "out"].map(|name| dir.path().join(name));
    train(&run, 0);
    fs::create_dir(&folder).unwrap();
    let idx = idx(&digits(Split::Test).unwrap().subset(0..2).unwrap());
    fs::write(folder.join("images-idx3-ubyte"), &idx).unwrap();
    fs::write(folder.join("labels-idx1-ubyte"), [0, 0, 8, 1, 0, 0, 0, 1, 5]).unwrap();
    fs::write(folder.join("LICENSE.txt"), "free").unwrap();
    compress(&run, &[&folder], &file).succeeds();
    decompress(&run, &file, &out).succeeds();
    assert_eq!(names(&out), names(&folder));
    for name in names(&folder) {
        assert_eq!(fs::read(out.join(&name)).unwrap(), fs::read(folder.join(&name)).unwrap(), "{name}");
    }
}
