//! The targets.

use crate::memory::peak_of;
use crate::seeds;
use burn::tensor::Device;
use sha2::{Digest, Sha256};
use std::fmt::Write as _;
use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{LazyLock, Mutex, PoisonError};
use tempfile::TempDir;
use vdm::codec::Container;
use vdm::config::{Config, resolve, resolve_run};
use vdm::data::{
    FolderOptions, Split, check_whole, load_cifar10, load_folder, load_imagenet, read_idx_images, read_idx_labels,
};
use vdm::run::{Checkpoint, ModelFile, TensorBoard, WhichWeights, load_model};
use vdm::train::workers::converse;
use vdm::weights::{NameMap, load_pytorch, load_safetensors};

/// A reader under test.
pub struct Target {
    /// Its name.
    pub name: &'static str,
    /// Gives bytes to the reader, and panics if it does what it must not.
    read: fn(&[u8]),
    /// The most memory in bytes that it may take for any file, and that many more for each byte of the file.
    memory: (usize, usize),
    /// Good files to start from.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

impl Target {
    /// Gives bytes to the reader.
    ///
    /// # Panics
    /// If the reader panics, changes what it read, or takes too much memory.
    pub fn run(&self, data: &[u8]) {
        // One at a time: memory is counted for the whole program.
        static ONE: Mutex<()> = Mutex::new(());
        let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
        let (fixed, each) = self.memory;
        let most = fixed + each * data.len();
        let peak = peak_of(|| (self.read)(data));
        assert!(peak <= most, "{}: {peak} bytes of memory for a file of {}", self.name, data.len());
    }
}

const MIB: usize = 1 << 20;

/// All targets, by name. What is packed by deflate may grow by a factor of 1032; an image may be up to 16,384 pixels wide
/// and high and its decoder may take 1 GiB; a pickle may copy values up to the limit that its reader sets.
pub const TARGETS: &[Target] = &[
    Target { name: "checkpoint", read: checkpoint, memory: (16 * MIB, 16), seeds: seeds::checkpoints },
    Target { name: "cifar", read: cifar, memory: (128 * MIB, 4), seeds: seeds::cifar },
    Target { name: "config", read: config, memory: (4 * MIB, 256), seeds: seeds::configs },
    Target { name: "container", read: container, memory: (MIB, 16), seeds: seeds::containers },
    Target { name: "idx", read: idx, memory: (MIB, 4 * 1032), seeds: seeds::idx },
    Target { name: "image", read: image, memory: (4096 * MIB, 0), seeds: seeds::images },
    Target { name: "model", read: model, memory: (16 * MIB, 16), seeds: seeds::models },
    Target { name: "npz", read: npz, memory: (MIB, 4 * 1032), seeds: seeds::npz },
    Target { name: "pytorch", read: pytorch, memory: (512 * MIB, 4 * 1032), seeds: seeds::pytorch },
    Target { name: "safetensors", read: safetensors, memory: (16 * MIB, 32), seeds: seeds::old_checkpoints },
    Target { name: "tensorboard", read: tensorboard, memory: (MIB, 16), seeds: seeds::events },
    Target { name: "worker", read: worker, memory: (256 * MIB, 8192), seeds: seeds::conversations },
];

/// A folder of this process, in memory where the system has such a place.
static FOLDER: LazyLock<TempDir> = LazyLock::new(|| {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.expect("a folder for files")
});

/// Writes a file for a reader that takes a path, in a folder of the target's own.
fn file(target: &str, name: &str, data: &[u8]) -> PathBuf {
    let dir = FOLDER.path().join(target);
    fs::create_dir_all(&dir).expect("a folder");
    let path = dir.join(name);
    fs::write(&path, data).expect("a file");
    path
}

fn parent(path: &Path) -> &Path {
    path.parent().expect("the file is in a folder")
}

fn idx(data: &[u8]) {
    let path = file("idx", "file", data);
    if let Ok(images) = read_idx_images(&path) {
        assert_eq!(images.bytes().len(), images.len() * images.height() * images.width());
    }
    let _ = read_idx_labels(&path);
}

fn cifar(data: &[u8]) {
    /// The length of every file of this format: 10,000 images with their labels.
    const LENGTH: u64 = 30_730_000;
    let path = file("cifar", "test_batch.bin", data);
    assert!(load_cifar10(parent(&path), Split::Test).is_err() || data.len() as u64 == LENGTH);
    // With zeros behind it, the file is of the right length, and everything in it is looked at.
    let lengthened = fs::File::options().append(true).open(&path).and_then(|file| file.set_len(LENGTH));
    lengthened.expect("a sparse file");
    if let Ok(images) = load_cifar10(parent(&path), Split::Test) {
        assert_eq!((images.len(), images.bytes().len()), (10_000, 10_000 * 3072));
    }
}

fn npz(data: &[u8]) {
    let path = file("npz", "val_data.npz", data);
    if let Ok(images) = load_imagenet(parent(&path), 8, Split::Test) {
        assert_eq!(images.bytes().len(), images.len() * 3 * 64);
    }
}

fn image(data: &[u8]) {
    let path = file("image", "image", data);
    let _ = check_whole(&path);
    let options = FolderOptions { size: 8, channels: 3, skip_bad: false };
    if let Ok(images) = load_folder(parent(&path), &options) {
        assert_eq!(images.dataset.bytes().len(), 3 * 64);
    }
}

fn config(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let _ = resolve("digits", Some(("file", text)), &[]);
    for line in text.lines().take(4) {
        let _ = resolve("digits", None, &[line.to_string()]);
    }
    if let Ok(config) = resolve_run("file", text) {
        let written = config.to_toml().expect("a configuration that was read can be written");
        assert_eq!(resolve_run("file", &written).expect("and read again"), config);
    }
}

fn pytorch(data: &[u8]) {
    let _ = load_pytorch(&file("pytorch", "weights.pt", data));
}

/// A checkpoint with a right checksum, whatever else is in it; half of the work of a damaged one is to get past that.
fn checkpoint(data: &[u8]) {
    read_checkpoint(&file("checkpoint", "as-it-is", data));
    let mut data = data.to_vec();
    if mend_checksum(&mut data).is_some() {
        read_checkpoint(&file("checkpoint", "mended", &data));
    }
}

/// A model file as it is, and with a right checksum.
fn model(data: &[u8]) {
    let read = |data: &[u8]| {
        let Ok(model) = ModelFile::parse(data, Path::new("model")) else { return };
        let again = model.to_bytes().expect("a model that was read can be written");
        let reread = ModelFile::parse(&again, Path::new("again")).expect("and read again");
        assert_eq!(format!("{reread:?}"), format!("{model:?}"));
        if model.shape.dims() <= 64 {
            let _ = model.model(Path::new("model"), &seeds::device());
        }
    };
    read(data);
    let mut data = data.to_vec();
    if mend_checksum(&mut data).is_some() {
        read(&data);
    }
}

/// A checkpoint of the first format, which has no checksum before the safetensors.
fn safetensors(data: &[u8]) {
    let path = file("safetensors", "old", data);
    read_checkpoint(&path);
    let Ok(weights) = load_safetensors(&path) else { return };
    for (name, _) in NameMap::all() {
        let _ = NameMap::named(name).expect("a map").apply(&weights);
    }
}

fn tensorboard(data: &[u8]) {
    let path = file("tensorboard", "events", data);
    drop(TensorBoard::open(&path, u64::MAX, false).expect("a file that can be read"));
    let kept = fs::read(&path).expect("a file");
    drop(TensorBoard::open(&path, u64::MAX, false).expect("a file that can be read"));
    assert!(kept.len() <= data.len() + 100 && fs::read(&path).expect("a file") == kept);
}

/// What a worker is told; what it says goes nowhere.
fn worker(data: &[u8]) {
    struct Told<'a>(&'a [u8]);
    impl Read for Told<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            self.0.read(buffer)
        }
    }
    impl Write for Told<'_> {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let _ = converse(Told(data), &Device::flex());
}

fn read_checkpoint(path: &Path) {
    static CONFIG: LazyLock<Config> = LazyLock::new(seeds::small_config);
    let Ok(checkpoint) = Checkpoint::load(path) else { return };
    let again = path.with_extension("again");
    checkpoint.save(&again).expect("a checkpoint that was read can be written");
    let reread = Checkpoint::load(&again).expect("and read again");
    // A NaN is another than itself, but its digits are the same.
    assert_eq!(format!("{reread:?}"), format!("{checkpoint:?}"));
    if checkpoint.shape.dims() <= 64 {
        let _ = load_model(&CONFIG, path.to_owned(), WhichWeights::Ema, &seeds::device());
    }
}

/// Writes the checksum of a checkpoint's bytes into it.
pub fn mend_checksum(bytes: &mut [u8]) -> Option<()> {
    const KEY: &[u8] = b"\"checksum\":\"";
    let at = bytes.windows(KEY.len()).position(|window| window == KEY)? + KEY.len();
    bytes.get_mut(at..at + 64)?.fill(b'0');
    let mut digits = String::new();
    for byte in Sha256::digest(&*bytes) {
        write!(digits, "{byte:02x}").ok()?;
    }
    bytes[at..at + 64].copy_from_slice(digits.as_bytes());
    Some(())
}

/// A `.vdmz` file as it is, and with right checksums.
fn container(data: &[u8]) {
    let read = |data: &[u8]| {
        if let Ok(container) = Container::parse(data) {
            assert!(container.to_bytes().expect("it was read from so many bytes") == data, "written back otherwise");
        }
    };
    read(data);
    let mut data = data.to_vec();
    if mend_container(&mut data).is_some() {
        read(&data);
    }
}

/// Makes the header's length and checksum, and the first stream's where its place is known, those of what is there.
pub(crate) fn mend_container(file: &mut [u8]) -> Option<()> {
    /// Bytes before the header: magic, version, header length, checksum.
    const PREFIX: usize = 14;
    let rest = file.len().checked_sub(PREFIX)?;
    let claimed = u32::from_le_bytes([file[6], file[7], file[8], file[9]]) as usize;
    let header = claimed.min(rest);
    file[..4].copy_from_slice(b"VDMZ");
    file[4..6].copy_from_slice(&vdm::codec::container::VERSION.to_le_bytes());
    file[6..10].copy_from_slice(&(header as u32).to_le_bytes());
    // With one segment, the checksum of all words lies twelve bytes before the header's end.
    let end = PREFIX + header;
    if header > 12 {
        let words = crc32fast::hash(&file[end..]);
        file[end - 12..end - 8].copy_from_slice(&words.to_le_bytes());
    }
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&file[..10]);
    hasher.update(&file[PREFIX..end]);
    file[10..14].copy_from_slice(&hasher.finalize().to_le_bytes());
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use vdm::codec::CodecError;

    /// It wrote the version before, so that no changed header was ever read.
    #[test]
    fn a_mended_container_is_read() {
        for mut seed in seeds::containers() {
            seed[10] ^= 1;
            assert!(Container::parse(&seed).is_err());
            mend_container(&mut seed).expect("it is long enough");
            // Of several streams, only the first is mended.
            let found = Container::parse(&seed);
            assert!(matches!(found, Ok(_) | Err(CodecError::StreamChecksum { .. })), "{found:?}");
        }
    }
}
