//! Good files of every kind to start from.

use burn::tensor::{Device, Tensor};
use flate2::Compression;
use flate2::write::GzEncoder;
use image::{ColorType, ExtendedColorType, ImageEncoder};
use std::io::{Cursor, Read, Write};
use std::net::{TcpListener, TcpStream};
use vdm::ImageShape;
use vdm::codec::{Attributes, CodedSegment, Container, FileEntry, FileKind, Packed, Segment, Steps};
use vdm::config::{Config, resolve};
use vdm::data::{IdxImages, write_idx_images, write_idx_labels};
use vdm::diffusion::Vocabulary;
use vdm::nn::Conditioning;
use vdm::run::{Checkpoint, ModelFile, Sink, StepLine, TensorBoard, Window};
use vdm::train::Batch;
use vdm::train::workers::{Workers, converse};
use vdm::weights::{HostTensor, Weights, export};
use zip::ZipWriter;
use zip::write::SimpleFileOptions;

/// The device of the models.
pub fn device() -> burn::tensor::Device {
    burn::tensor::Device::flex()
}

/// A configuration whose checkpoints are small.
pub fn small_config() -> Config {
    let sets = ["model.n_embd=4", "model.n_layer=1", "model.norm_groups=2"].map(String::from);
    resolve("digits", None, &sets).expect("a configuration")
}

/// Configurations: of two presets, and as texts that people write.
pub fn configs() -> Vec<Vec<u8>> {
    let presets = ["digits", "cifar10-aug"].map(|name| {
        let config = resolve(name, None, &[]).expect("a preset");
        config.to_toml().expect("a preset can be written")
    });
    let lines = "train.lr = 1e-3\nmodel.n_layer=2\nschedule.kind=monotonic\ndata.dir=~/my images";
    presets.into_iter().chain([lines.into()]).map(String::into_bytes).collect()
}

/// Images and labels, plain and packed.
pub fn idx() -> Vec<Vec<u8>> {
    let images = IdxImages::new(2, 3, (0..12).collect()).expect("two images");
    let (mut plain, mut labels) = (Vec::new(), Vec::new());
    write_idx_images(&mut plain, &images).expect("memory");
    write_idx_labels(&mut labels, &[3, 9]).expect("memory");
    let packed = |bytes: &[u8]| {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(bytes).expect("memory");
        encoder.finish().expect("memory")
    };
    vec![packed(&plain), packed(&labels), plain, labels]
}

/// Two images.
pub fn cifar() -> Vec<Vec<u8>> {
    vec![(0..2 * 3073).map(|i| if i % 3073 == 0 { 7 } else { (i % 251) as u8 }).collect()]
}

/// A zip file of these entries.
fn zipped(entries: &[(&str, &[u8])], packed: bool) -> Vec<u8> {
    let method = if packed { zip::CompressionMethod::Deflated } else { zip::CompressionMethod::Stored };
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, content) in entries {
        zip.start_file(*name, SimpleFileOptions::default().compression_method(method)).expect("memory");
        zip.write_all(content).expect("memory");
    }
    zip.finish().expect("memory").into_inner()
}

/// Two images with labels, stored and packed.
pub fn npz() -> Vec<Vec<u8>> {
    let array = |descr: &str, shape: &str, content: &[u8]| {
        let mut header = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}");
        let length = (header.len() + 11).next_multiple_of(64) - 10;
        header = format!("{header:<width$}\n", width = length - 1);
        [&b"\x93NUMPY\x01\x00"[..], &(header.len() as u16).to_le_bytes(), header.as_bytes(), content].concat()
    };
    let data = array("|u1", "(2, 192)", &[100; 2 * 192]);
    let labels = array("<i8", "(2,)", &[[1, 0, 0, 0, 0, 0, 0, 0], [0xe8, 3, 0, 0, 0, 0, 0, 0]].concat());
    let entries: [(&str, &[u8]); 2] = [("data.npy", &data), ("labels.npy", &labels)];
    vec![zipped(&entries, false), zipped(&entries, true)]
}

/// A picture in every format and colour that is read.
pub fn images() -> Vec<Vec<u8>> {
    let pixels: Vec<u8> = (0..3 * 9 * 8).map(|i| (i * 7 % 256) as u8).collect();
    let png = |color: ColorType| {
        let mut bytes = Vec::new();
        let of_color = &pixels[..72 * usize::from(color.bytes_per_pixel())];
        let encoder = image::codecs::png::PngEncoder::new(&mut bytes);
        encoder.write_image(of_color, 9, 8, color.into()).expect("memory");
        bytes
    };
    let jpeg = |color: ExtendedColorType, channels: usize| {
        let mut bytes = Vec::new();
        let encoder = image::codecs::jpeg::JpegEncoder::new(&mut bytes);
        encoder.write_image(&pixels[..72 * channels], 9, 8, color).expect("memory");
        bytes
    };
    let mut webp = Vec::new();
    let encoder = image::codecs::webp::WebPEncoder::new_lossless(&mut webp);
    encoder.write_image(&pixels, 9, 8, ExtendedColorType::Rgb8).expect("memory");
    vec![
        png(ColorType::L8),
        png(ColorType::Rgb8),
        jpeg(ExtendedColorType::L8, 1),
        jpeg(ExtendedColorType::Rgb8, 3),
        webp,
    ]
}

/// A file as `torch.save` writes it: a dictionary of one tensor on one storage.
pub fn pytorch() -> Vec<Vec<u8>> {
    let text = |s: &str| [&b"X"[..], &(s.len() as u32).to_le_bytes(), s.as_bytes()].concat();
    let pickle = [
        b"\x80\x02}".to_vec(),
        text("weight"),
        b"ctorch._utils\n_rebuild_tensor_v2\n((".to_vec(),
        text("storage"),
        b"ctorch\nFloatStorage\n".to_vec(),
        text("0"),
        text("cpu"),
        b"K\x04tQK\x00K\x02K\x02\x86K\x02K\x01\x86\x89ccollections\nOrderedDict\n)RtRs.".to_vec(),
    ]
    .concat();
    let entries: [(&str, &[u8]); 4] = [
        ("archive/data.pkl", &pickle),
        ("archive/byteorder", b"little"),
        ("archive/data/0", &[0, 0, 128, 63, 0, 0, 0, 64, 0, 0, 64, 64, 0, 0, 128, 64]),
        ("archive/version", b"3\n"),
    ];
    vec![zipped(&entries, false)]
}

/// A checkpoint of a small model, and one with two tensors only.
pub fn checkpoints() -> Vec<Vec<u8>> {
    let shape = ImageShape { channels: 1, height: 8, width: 8 };
    let vocabulary = Vocabulary::new(17).expect("17 levels");
    let model = small_config().init(shape, vocabulary, &device());
    let all = export(&model);
    let few: Weights =
        all.iter().filter(|(_, t)| t.data.len() < 40).take(2).map(|(n, t)| (n.clone(), t.clone())).collect();
    let averaged = |weights: &Weights| weights.iter().map(|(n, t)| (format!("ema.{n}"), t.clone())).collect();
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("checkpoint");
    let bytes = |(weights, optimizer): (Weights, Weights)| {
        let window = Window { steps: 3, terms: [0.1, 0.2, 3.0], grad_norm: 5.5, seconds: 0.0 };
        let data = Some("0123456789abcdef".into());
        let checkpoint =
            Checkpoint { step: 20, shape, vocabulary, best_bpd: 2.5, pending: false, window, data, weights, optimizer };
        checkpoint.save(&path).expect("memory");
        std::fs::read(&path).expect("it was written")
    };
    let optimizer = averaged(&few);
    vec![bytes((few, optimizer)), bytes((Weights::new(), averaged(&all)))]
}

/// A small model by itself.
pub fn models() -> Vec<Vec<u8>> {
    let (shape, vocabulary) =
        (ImageShape { channels: 1, height: 8, width: 8 }, Vocabulary::new(17).expect("17 levels"));
    let config = small_config();
    let weights = export(&config.init(shape, vocabulary, &device()));
    let about = [("licence".to_string(), "MIT".to_string())].into();
    let file = ModelFile { step: 3, shape, vocabulary, data: None, config, about, weights, half: false, errors: None };
    // Two noise levels, each with its mean error, two terms and 32 parts of the distribution.
    let table = HostTensor { shape: vec![2, 35], data: vec![0.5; 70] };
    let errors = Some([("table".to_string(), table)].into());
    let knowing = ModelFile { errors, ..file.clone() };
    [file, knowing].iter().map(|file| file.to_bytes().expect("a model that can be written")).collect()
}

/// Checkpoints of the first format, which had no checksum.
pub fn old_checkpoints() -> Vec<Vec<u8>> {
    let header = r#"{"__metadata__":{"best_bpd":"2.5","format":"2","levels":"17","shape":"1,8,8","step":"20"},"ema.w":{"data_offsets":[0,8],"dtype":"F32","shape":[2]},"weights.w":{"data_offsets":[8,16],"dtype":"F32","shape":[2]}}"#;
    let header = format!("{header:<width$}", width = header.len().next_multiple_of(8));
    vec![[&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &[0, 0, 128, 63].repeat(4)].concat()]
}

/// Containers of every kind of entry and of steps.
pub fn containers() -> Vec<Vec<u8>> {
    let entry = |name: &str, kind| FileEntry::new(name, kind);
    let segment = |images, words| CodedSegment {
        segment: Segment { images, state: 1 << 40, words: (0..words).collect() },
        pixels: [7; 8],
    };
    let container = |channels, steps, files, segments| Container {
        model: [1; 16],
        arithmetic: [2; 16],
        note: "digits after 2500 steps".into(),
        program: "vdm".into(),
        machine: "x86_64+avx2".into(),
        shape: ImageShape { channels, height: 8, width: 8 },
        levels: 17,
        bins_per_sigma: 2,
        batch_size: 16,
        seed: 3,
        steps,
        variance: vdm::diffusion::ReverseVariance::Posterior,
        net_bits: 1234.5,
        initial_bits: 64.0,
        files,
        embedded_model: None,
        segments,
    };
    let all = [
        container(
            1,
            Steps::Uniform(250),
            vec![entry("t10k-images-idx3-ubyte", FileKind::Idx { images: 300 })],
            vec![segment(100, 40), segment(200, 80)],
        ),
        container(
            3,
            Steps::Listed(vec![-8.0, -1.0, 5.0]),
            vec![entry("a/b.png", FileKind::Png), entry("a/c.png", FileKind::Png)],
            vec![segment(2, 9)],
        ),
        container(3, Steps::Uniform(1), vec![entry("s", FileKind::Series { images: 5 })], vec![segment(5, 1)]),
        Container {
            embedded_model: Some(vec![5; 20]),
            variance: vdm::diffusion::ReverseVariance::Pixel,
            ..container(
                1,
                Steps::Placed(50),
                vec![
                    FileEntry {
                        attributes: Some(Attributes { mode: 0o600, modified: 1_700_000_000 }),
                        ..entry("notes.txt", FileKind::Stored(Packed::new(vec![b'a'; 50])))
                    },
                    entry("wide.png", FileKind::Tiled { channels: 3, width: 20, height: 9, margin: 0, alpha: None }),
                ],
                vec![segment(18, 30)],
            )
        },
    ];
    all.iter().map(|container| container.to_bytes().expect("it is small")).collect()
}

/// What a training of one step says to its worker.
pub fn conversations() -> Vec<Vec<u8>> {
    let device = Device::flex();
    let config = small_config();
    let shape = ImageShape { channels: 1, height: 8, width: 8 };
    let vocabulary = Vocabulary::new(17).expect("17 levels");
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    // A worker that writes down what it is told.
    struct Recorded(TcpStream, Vec<u8>);
    impl Read for &mut Recorded {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            let count = self.0.read(buffer)?;
            self.1.extend_from_slice(&buffer[..count]);
            Ok(count)
        }
    }
    impl Write for &mut Recorded {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.write(bytes)
        }
        fn flush(&mut self) -> std::io::Result<()> {
            self.0.flush()
        }
    }
    let worker = std::thread::spawn(move || {
        let (stream, _) = listener.accept().expect("a connection");
        let mut recorded = Recorded(stream, Vec::new());
        converse(&mut recorded, &Device::flex()).expect("a conversation");
        recorded.1
    });
    let model = config.init(shape, vocabulary, &device.clone().autodiff());
    let mut workers = Workers::connect(&[address], &config, shape, vocabulary, &device).expect("a worker");
    // Enough images for two parts.
    let batch = Batch::draw(Tensor::ones([32, 1, 8, 8], &device), 1, Conditioning::default());
    workers.batch_gradients(&model, batch, config.schedule.objective).expect("a gradient");
    drop(workers);
    let told = worker.join().expect("the worker's end");
    // The greeting alone, too: most of the conversation is weights.
    let greeting = told[4..].windows(4).position(|at| at == &told[..4]).expect("a second message") + 4;
    vec![told[..greeting].to_vec(), told]
}

/// Metrics for TensorBoard: a line of numbers, and samples.
pub fn events() -> Vec<Vec<u8>> {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("events");
    let mut sink = TensorBoard::open(&path, 0, false).expect("a new file");
    let step = StepLine {
        step: 1,
        bpd: 3.0,
        prior: 0.1,
        reconstruction: 0.2,
        diffusion: 2.7,
        gamma_0: -13.3,
        gamma_1: 5.0,
        grad_norm: 1.0,
        lr: 2e-4,
        images_per_second: 100.0,
    };
    sink.on_step(&step).expect("a line");
    sink.on_samples(1, &[7; 40]).expect("samples");
    vec![std::fs::read(&path).expect("a file")]
}
