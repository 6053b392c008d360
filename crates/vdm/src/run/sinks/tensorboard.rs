//! `tensorboard/events.out.tfevents.0.vdm`: the metrics, grids of samples, and the loss over time as TensorBoard reads them.
//!
//! The file is a row of records: the length in 8 bytes, a checksum of it, the record, a checksum of that (TFRecord, from
//! TensorFlow's `tfrecord.h`). A record is a message `Event` of `event.proto` in the encoding of Protocol Buffers, of which only
//! the few fields below are used; a library for all of it would be many times larger than this file.

use super::Sink;
use crate::files::{create_folders, write_bytes};
use crate::picture::figures::LossBin;
use crate::run::{EvalLine, StepLine};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// What a grid of samples is called.
const SAMPLES: &str = "samples";
/// What the names of an evaluation's numbers begin with.
const EVAL: &str = "eval/";

/// The loss over time, as a histogram: over t, the diffusion loss in bits per dimension.
const LOSS: &str = "eval/loss over t";

/// The file, open for appending.
#[derive(Debug)]
pub struct TensorBoard {
    path: PathBuf,
    file: File,
}

impl TensorBoard {
    /// Opens the file of a run that stands at `step`: records of later steps, which a stop without checkpoint left behind, are
    /// dropped; so are evaluations and samples of this step that are `pending`, and, with a warning, damaged records and
    /// what follows one whose length is damaged.
    ///
    /// # Errors
    /// Whatever the file system says.
    pub fn open(path: &Path, step: u64, pending: bool) -> io::Result<Self> {
        let mut kept = Vec::new();
        match std::fs::read(path) {
            Ok(bytes) => {
                for record in records(&bytes) {
                    let Some((record, event)) = record.and_then(|record| Some((record, Event::parse(record)?))) else {
                        tracing::warn!("{}: a record is damaged; it is left out", path.display());
                        continue;
                    };
                    let done_again = pending && (event.tag == SAMPLES || event.tag.starts_with(EVAL));
                    if event.step < step || (event.step == step && !done_again) {
                        write_record(&mut kept, record);
                    }
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                path.parent().map_or(Ok(()), create_folders)?;
            }
            Err(error) => return Err(error),
        }
        if kept.is_empty() {
            // The first record says which version of the format follows.
            write_record(&mut kept, &event(0, &field(3, b"brain.Event:2")));
        }
        write_bytes(path, &kept)?;
        Ok(Self { path: path.into(), file: OpenOptions::new().append(true).open(path)? })
    }

    /// One record a number, so that each can be dropped by itself.
    fn scalars(&mut self, step: u64, scalars: &[(String, f64)]) -> io::Result<()> {
        let mut bytes = Vec::new();
        for (tag, number) in scalars {
            let value = [field(1, tag.as_bytes()), fixed32(2, *number as f32)].concat();
            write_record(&mut bytes, &event(step, &field(5, &field(1, &value))));
        }
        self.file.write_all(&bytes)
    }
}

impl Sink for TensorBoard {
    fn path(&self) -> &Path {
        &self.path
    }

    fn on_step(&mut self, line: &StepLine) -> io::Result<()> {
        let scalars = [
            ("train/bpd", line.bpd),
            ("train/prior", line.prior),
            ("train/reconstruction", line.reconstruction),
            ("train/diffusion", line.diffusion),
            ("schedule/gamma_0", line.gamma_0),
            ("schedule/gamma_1", line.gamma_1),
            ("optimizer/grad_norm", line.grad_norm),
            ("optimizer/lr", line.lr),
            ("speed/images_per_second", line.images_per_second),
        ];
        self.scalars(line.step, &scalars.map(|(tag, number)| (tag.to_string(), number)))
    }

    fn on_evaluation(&mut self, line: &EvalLine) -> io::Result<()> {
        let scalars = [
            ("bpd", line.eval_bpd),
            ("prior", line.eval_prior),
            ("reconstruction", line.eval_reconstruction),
            ("diffusion", line.eval_diffusion),
        ];
        self.scalars(line.step, &scalars.map(|(name, number)| (format!("{EVAL}{}/{name}", line.eval_split), number)))
    }

    fn on_samples(&mut self, step: u64, png: &[u8]) -> io::Result<()> {
        // The size stands at the same place in every PNG file.
        let side = |at: usize| png.get(at..at + 4).map_or(0, |b| u32::from_be_bytes([b[0], b[1], b[2], b[3]]));
        let image = [number(1, side(20).into()), number(2, side(16).into()), number(3, 3), field(4, png)].concat();
        let value = [field(1, SAMPLES.as_bytes()), field(4, &image)].concat();
        let mut bytes = Vec::new();
        write_record(&mut bytes, &event(step, &field(5, &field(1, &value))));
        self.file.write_all(&bytes)
    }

    fn on_loss_over_time(&mut self, step: u64, bins: &[LossBin]) -> io::Result<()> {
        let means = bins.iter().map(|bin| bin.mean);
        let (sum, squares) = (means.clone().sum(), means.clone().map(|mean| mean * mean).sum());
        // Bin i goes from the end of the one before, or 0, to this.
        let ends = (1..=bins.len()).map(|i| i as f64 / bins.len() as f64);
        let histogram = [
            [(1, 0.0), (2, 1.0), (3, sum), (4, sum), (5, squares)].map(|(at, x)| fixed64(at, x)).concat(),
            field(6, &ends.flat_map(f64::to_le_bytes).collect::<Vec<_>>()),
            field(7, &means.flat_map(f64::to_le_bytes).collect::<Vec<_>>()),
        ]
        .concat();
        let value = [field(1, LOSS.as_bytes()), field(5, &histogram)].concat();
        let mut bytes = Vec::new();
        write_record(&mut bytes, &event(step, &field(5, &field(1, &value))));
        self.file.write_all(&bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.file.sync_data()
    }
}

/// An `Event` of now: `wall_time` (1), `step` (2), and what happened.
fn event(step: u64, what: &[u8]) -> Vec<u8> {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64());
    [fixed64(1, now), number(2, step), what.to_vec()].concat()
}

fn varint(out: &mut Vec<u8>, mut x: u64) {
    while x >= 0x80 {
        out.push(x as u8 | 0x80);
        x >>= 7;
    }
    out.push(x as u8);
}

/// A field that is a whole number.
fn number(field: u64, x: u64) -> Vec<u8> {
    let mut out = Vec::new();
    varint(&mut out, field << 3);
    varint(&mut out, x);
    out
}

/// A field that is a number of single precision.
fn fixed32(field: u64, x: f32) -> Vec<u8> {
    let mut out = Vec::new();
    varint(&mut out, field << 3 | 5);
    out.extend(x.to_le_bytes());
    out
}

/// A field that is a number of double precision.
fn fixed64(field: u64, x: f64) -> Vec<u8> {
    let mut out = Vec::new();
    varint(&mut out, field << 3 | 1);
    out.extend(x.to_le_bytes());
    out
}

/// A field that is bytes: a text or a message.
fn field(field: u64, bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    varint(&mut out, field << 3 | 2);
    varint(&mut out, bytes.len() as u64);
    out.extend(bytes);
    out
}

/// What is needed of an `Event` to decide whether it stays.
#[derive(Debug, Default, PartialEq, Eq)]
struct Event {
    step: u64,
    /// The tag of its first value; empty for none.
    tag: String,
}

impl Event {
    /// `None` for bytes that this file did not write.
    fn parse(bytes: &[u8]) -> Option<Self> {
        let mut event = Self::default();
        each_field(bytes, &mut |number, varint, bytes| match number {
            2 => event.step = varint,
            5 => {
                let _ = each_field(bytes, &mut |_, _, value| {
                    let _ = each_field(value, &mut |number, _, text| {
                        if number == 1 {
                            event.tag = String::from_utf8_lossy(text).into_owned();
                        }
                    });
                });
            }
            _ => {}
        })?;
        Some(event)
    }
}

/// Tells of each field its number and its content: a whole number, or bytes.
fn each_field<'a>(mut bytes: &'a [u8], tell: &mut dyn FnMut(u64, u64, &'a [u8])) -> Option<()> {
    while !bytes.is_empty() {
        let key = take_varint(&mut bytes)?;
        match key & 7 {
            0 => tell(key >> 3, take_varint(&mut bytes)?, &[]),
            1 => tell(key >> 3, 0, bytes.split_off(..8)?),
            2 => {
                let length = usize::try_from(take_varint(&mut bytes)?).ok()?;
                tell(key >> 3, 0, bytes.split_off(..length)?);
            }
            5 => tell(key >> 3, 0, bytes.split_off(..4)?),
            _ => return None,
        }
    }
    Some(())
}

fn take_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut x = 0;
    for shift in (0..64).step_by(7) {
        let byte = *bytes.split_off_first()?;
        x |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(x);
        }
    }
    None
}

/// The checksum of TFRecord: CRC-32C, turned and shifted so that a checksum of a checksum is no trivial one.
fn masked_crc(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}

fn write_record(out: &mut Vec<u8>, record: &[u8]) {
    let length = (record.len() as u64).to_le_bytes();
    out.extend(length);
    out.extend(masked_crc(&length).to_le_bytes());
    out.extend(record);
    out.extend(masked_crc(record).to_le_bytes());
}

/// The records of a file, `None` for a damaged one; none after a length that is damaged, since no one knows where the next
/// record begins. A last record that was being written at a stop is no damage.
fn records(mut bytes: &[u8]) -> impl Iterator<Item = Option<&[u8]>> {
    std::iter::from_fn(move || {
        let header = bytes.split_off(..12)?;
        let (length, sum) = header.split_at(8);
        if masked_crc(length).to_le_bytes() != sum {
            bytes = &[];
            return Some(None);
        }
        let size = usize::try_from(u64::from_le_bytes(length.try_into().ok()?)).ok()?;
        let record = bytes.split_off(..size)?;
        let own = bytes.split_off(..4)?;
        Some((masked_crc(record).to_le_bytes() == own).then_some(record))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Split;
    use proptest::prelude::*;

    fn line(step: u64) -> StepLine {
        StepLine {
            step,
            bpd: 3.0,
            prior: 0.1,
            reconstruction: 0.2,
            diffusion: 2.7,
            gamma_0: -13.3,
            gamma_1: 5.0,
            grad_norm: 1.0,
            lr: 2e-4,
            images_per_second: 100.0,
        }
    }

    fn evaluation(step: u64) -> EvalLine {
        EvalLine {
            step,
            eval_split: Split::Valid.to_string(),
            eval_bpd: 2.9,
            eval_bpd_stderr: None,
            eval_prior: 0.1,
            eval_reconstruction: 0.1,
            eval_diffusion: 2.7,
            eval_images: 10,
        }
    }

    fn events(path: &Path) -> Vec<(u64, String)> {
        let bytes = std::fs::read(path).unwrap();
        records(&bytes)
            .map(|record| Event::parse(record.unwrap()).unwrap())
            .map(|event| (event.step, event.tag))
            .collect()
    }

    fn written(path: &Path) {
        let mut sink = TensorBoard::open(path, 0, false).unwrap();
        for step in [10, 20] {
            sink.on_step(&line(step)).unwrap();
            sink.on_evaluation(&evaluation(step)).unwrap();
            sink.on_samples(step, &[0; 40]).unwrap();
            sink.on_loss_over_time(step, &[0.25, 0.75].map(|t| LossBin { t, mean: t, stderr: 0.1 })).unwrap();
        }
        sink.sync().unwrap();
    }

    #[test]
    fn the_checksum_is_that_of_tensorflow() {
        // The check value of CRC-32C, and of it the mask of `crc32c.h`.
        assert_eq!(crc32c::crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(masked_crc(b"123456789"), 0xe306_9283u32.rotate_right(15).wrapping_add(0xa282_ead8));
    }

    #[test]
    fn a_resume_keeps_what_the_checkpoint_has_seen() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("events");
        written(&path);
        let all = events(&path);
        assert_eq!(all.len(), 1 + 2 * (9 + 4 + 1 + 1));
        let of = |step| all.iter().filter(move |(at, _)| *at <= step).cloned().collect::<Vec<_>>();
        drop(TensorBoard::open(&path, 20, false).unwrap());
        assert_eq!(events(&path), all);
        drop(TensorBoard::open(&path, 20, true).unwrap());
        assert_eq!(events(&path).len(), all.len() - 6, "evaluation and samples of the last step are made again");
        drop(TensorBoard::open(&path, 15, false).unwrap());
        assert_eq!(events(&path), of(10));
    }

    /// Where each record of a file ends.
    fn ends(bytes: &[u8]) -> Vec<usize> {
        let mut end = 0;
        let sizes = records(bytes).map(|record| 16 + record.unwrap().len());
        sizes
            .map(|size| {
                end += size;
                end
            })
            .collect()
    }

    #[test]
    fn a_file_that_cannot_be_read_is_an_error_and_stays() {
        let dir = tempfile::tempdir().unwrap();
        assert!(TensorBoard::open(dir.path(), 0, false).is_err());
        assert!(dir.path().is_dir());
    }

    proptest! {
        /// All other records stay; after a damaged length, those before it.
        #[test]
        fn a_flipped_bit_costs_a_record(at in 0usize..1 << 20, bit in 0u8..8) {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("events");
            written(&path);
            let (mut all, mut bytes) = (events(&path), std::fs::read(&path).unwrap());
            let (at, ends) = (at % bytes.len(), ends(&bytes));
            let hit = ends.partition_point(|&end| end <= at);
            let start = if hit == 0 { 0 } else { ends[hit - 1] };
            bytes[at] ^= 1 << bit;
            std::fs::write(&path, bytes).unwrap();
            drop(TensorBoard::open(&path, 20, false).unwrap());
            if at < start + 12 { all.truncate(hit) } else { drop(all.remove(hit)) }
            // The first record is written again where nothing is left.
            prop_assert_eq!(events(&path), if all.is_empty() { vec![(0, String::new())] } else { all });
        }

        #[test]
        fn a_file_that_was_cut_keeps_its_whole_records(cut in 0usize..1 << 20) {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("events");
            written(&path);
            let (mut all, bytes) = (events(&path), std::fs::read(&path).unwrap());
            let cut = cut % bytes.len();
            all.truncate(ends(&bytes).partition_point(|&end| end <= cut).max(1));
            std::fs::write(&path, &bytes[..cut]).unwrap();
            drop(TensorBoard::open(&path, 20, false).unwrap());
            prop_assert_eq!(events(&path), all);
        }

        #[test]
        fn any_bytes_are_read_without_a_panic(bytes: Vec<u8>) {
            let _ = Event::parse(&bytes);
            prop_assert!(records(&bytes).count() <= bytes.len());
        }
    }
}
