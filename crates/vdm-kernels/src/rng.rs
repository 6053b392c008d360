//! Random numbers that are a pure function of (seed, stream, position): Philox4x32-10 (Salmon et al. 2011, "Parallel
//! random numbers: as easy as 1, 2, 3").
//!
//! A counter-based generator has no state to save and no order to keep: an image's noise is the same in any batch, at
//! any number of threads, and after a resume.

use rayon::prelude::*;

use crate::cpu::math::{ln, sin_cos_turns, vectorized};
use crate::cpu::philox::{WIDE, Words, rounds};

/// A stream of random numbers named by a seed and a stream number.
///
/// # Invariants
/// Two generators with the same `(seed, stream)` give the same numbers; element `i` of a draw depends only on
/// `(seed, stream, draw, i)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Philox {
    key: [u32; 2],
    stream: [u32; 2],
}

impl Philox {
    /// The stream `stream` of `seed`.
    pub fn new(seed: u64, stream: u64) -> Self {
        let split = |x: u64| [x as u32, (x >> 32) as u32];
        Self { key: split(seed), stream: split(stream) }
    }

    /// The seed's and the stream's words, lower half first.
    #[cfg(feature = "accelerator")]
    pub(crate) fn name(&self) -> [u32; 4] {
        let ([a, b], [c, d]) = (self.key, self.stream);
        [a, b, c, d]
    }

    /// The four random words at each of the positions `block .. block + WIDE` of draw `draw`, word by word.
    // An index, since iterator adaptors are not inlined into functions for more instructions.
    #[allow(clippy::needless_range_loop)]
    #[inline(always)]
    fn blocks(&self, draw: u32, block: u32) -> Words {
        let mut counters = [[0; WIDE], [draw; WIDE], [self.stream[0]; WIDE], [self.stream[1]; WIDE]];
        for lane in 0..WIDE {
            counters[0][lane] = block.wrapping_add(lane as u32);
        }
        rounds(self.key, &counters)
    }

    /// The four random words at position `block` of draw `draw`.
    pub fn block(&self, draw: u32, block: u32) -> [u32; 4] {
        self.blocks(draw, block).map(|word| word[0])
    }

    /// Fills `out` with the words of the blocks 0, 1, 2, ... of draw `draw`, one [`block`](Self::block) after another.
    pub fn words(&self, draw: u32, out: &mut [u32]) {
        words(self, draw, out);
    }

    /// One random `u64` of draw `draw`.
    pub fn next_u64(&self, draw: u32) -> u64 {
        let [a, b, ..] = self.block(draw, 0);
        u64::from(a) | u64::from(b) << 32
    }

    /// One uniform number in [0, 1) with 53 random bits, of draw `draw`.
    pub fn uniform_f64(&self, draw: u32) -> f64 {
        (self.next_u64(draw) >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
    }

    /// Fills `out` with uniform numbers in [0, 1), 24 random bits each.
    pub fn uniform(&self, draw: u32, out: &mut [f32]) {
        uniform(self, draw, out);
    }

    /// Fills `out` with independent standard normal numbers (Box-Muller; |z| is at most 6.7).
    pub fn normal(&self, draw: u32, out: &mut [f32]) {
        normal(self, draw, out);
    }

    /// Numbers that [`dropout_from`](Self::dropout_from) makes at a time.
    pub const DROPOUT_UNIT: usize = 8 * WIDE;

    /// Fills `out` with dropout's factors: 0 with probability `p` (to 16 bits), 1/(1-p) otherwise.
    pub fn dropout(&self, p: f32, out: &mut [f32]) {
        dropout(self, p, 0, out);
    }

    /// The factors of [`dropout`](Self::dropout) from number `unit` times [`DROPOUT_UNIT`](Self::DROPOUT_UNIT) on.
    pub fn dropout_from(&self, p: f32, unit: usize, out: &mut [f32]) {
        dropout(self, p, unit, out);
    }
}

vectorized! {
    fn words(rng: &Philox, draw: u32, out: &mut [u32]) {
        for (i, out) in out.chunks_mut(4 * WIDE).enumerate() {
            let words = rng.blocks(draw, (i * WIDE) as u32);
            let mut together = [0; 4 * WIDE];
            for lane in 0..WIDE {
                for word in 0..4 {
                    together[4 * lane + word] = words[word][lane];
                }
            }
            out.copy_from_slice(&together[..out.len()]);
        }
    }

    fn uniform(rng: &Philox, draw: u32, out: &mut [f32]) {
        for (i, out) in out.chunks_mut(4 * WIDE).enumerate() {
            let words = rng.blocks(draw, (i * WIDE) as u32);
            for (out, &w) in out.iter_mut().zip(words.as_flattened()) {
                *out = unit(w);
            }
        }
    }

    fn normal(rng: &Philox, draw: u32, out: &mut [f32]) {
        for (i, out) in out.chunks_mut(4 * WIDE).enumerate() {
            let [a, b, c, d] = rng.blocks(draw, (i * WIDE) as u32);
            let mut z = [[0f32; WIDE]; 4];
            for lane in 0..WIDE {
                (z[0][lane], z[1][lane]) = box_muller(a[lane], b[lane]);
                (z[2][lane], z[3][lane]) = box_muller(c[lane], d[lane]);
            }
            for (out, &z) in out.iter_mut().zip(z.as_flattened()) {
                *out = z;
            }
        }
    }

    fn dropout(rng: &Philox, p: f32, unit: usize, out: &mut [f32]) {
        let (threshold, keep) = ((p * 65536.0) as u32, 1.0 / (1.0 - p));
        let (units, rest) = out.as_chunks_mut::<{ Philox::DROPOUT_UNIT }>();
        for (i, out) in units.iter_mut().enumerate() {
            factors(rng, threshold, keep, unit + i, out);
        }
        if !rest.is_empty() {
            let mut last = [0f32; Philox::DROPOUT_UNIT];
            factors(rng, threshold, keep, unit + units.len(), &mut last);
            rest.copy_from_slice(&last[..rest.len()]);
        }
    }
}

/// The factors of one unit: the low halves of its words, then the high ones.
#[inline(always)]
fn factors(rng: &Philox, threshold: u32, keep: f32, unit: usize, out: &mut [f32; Philox::DROPOUT_UNIT]) {
    let words = rng.blocks(0, (unit * WIDE) as u32);
    // Arrays of known length: with slices, parts of the loops are not vectorised.
    let mut together = [0; 4 * WIDE];
    together.copy_from_slice(words.as_flattened());
    for i in 0..4 * WIDE {
        out[i] = factor(together[i] & 0xFFFF, threshold, keep);
    }
    for i in 0..4 * WIDE {
        out[4 * WIDE + i] = factor(together[i] >> 16, threshold, keep);
    }
}

/// 0 if `bits` are below the threshold, `keep` otherwise; both are below 2^31. The sign of the difference is a mask for the
/// bits of `keep`: a comparison would not be vectorised.
#[inline(always)]
fn factor(bits: u32, threshold: u32, keep: f32) -> f32 {
    let below = (bits as i32 - threshold as i32) >> 31;
    f32::from_bits(keep.to_bits() & !(below as u32))
}

/// 24 random bits to [0, 1).
#[inline(always)]
fn unit(word: u32) -> f32 {
    // Through i32, which vector units convert directly; the value is below 2^24.
    (word >> 8) as i32 as f32 * (1.0 / (1 << 24) as f32)
}

/// Standard normal numbers for a batch: `dims` of draw `draw` from each stream, one after the other, in parallel.
pub fn normal_images(streams: &[Philox], draw: u32, dims: usize) -> Vec<f32> {
    let mut out = vec![0f32; streams.len() * dims];
    if dims > 0 {
        out.par_chunks_mut(dims).zip(streams).for_each(|(out, stream)| stream.normal(draw, out));
    }
    out
}

/// Two standard normals from two random words; u is in (0, 1], so its logarithm is finite.
#[inline(always)]
fn box_muller(a: u32, b: u32) -> (f32, f32) {
    // 31 random bits to f32 round to at most 1; the half keeps u above 0 and reaches 6.7 standard deviations.
    let u = ((a >> 1) as i32 as f32 + 0.5) * (1.0 / 2_147_483_648.0);
    let radius = (-2.0 * ln(u.min(1.0))).max(0.0).sqrt();
    let (s, c) = sin_cos_turns(unit(b));
    (radius * c, radius * s)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Known answers of Random123's `kat_vectors` for philox4x32-10: counter, key, output.
    #[test]
    fn philox_known_answers() {
        let zero = Philox { key: [0, 0], stream: [0, 0] };
        assert_eq!(zero.block(0, 0), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        let ones = Philox { key: [u32::MAX; 2], stream: [u32::MAX; 2] };
        assert_eq!(ones.block(u32::MAX, u32::MAX), [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
        let pi = Philox { key: [0xa409_3822, 0x299f_31d0], stream: [0x1319_8a2e, 0x0370_7344] };
        assert_eq!(pi.block(0x85a3_08d3, 0x243f_6a88), [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]);
    }

    #[test]
    fn words_are_those_of_the_blocks() {
        let rng = Philox::new(5, 6);
        let blocks = Vec::from_iter((0..100).flat_map(|block| rng.block(3, block)));
        for n in [0, 1, 4, 63, 64, 65, 397] {
            let mut words = vec![0; n];
            rng.words(3, &mut words);
            assert_eq!(words, blocks[..n]);
        }
    }

    #[test]
    fn normals_have_the_moments_of_a_normal() {
        let n = 1 << 20;
        let mut z = vec![0f32; n];
        Philox::new(7, 3).normal(0, &mut z);
        let moment = |p: i32| z.iter().map(|&z| f64::from(z).powi(p)).sum::<f64>() / n as f64;
        // Five standard errors: sqrt(1, 2, 15, 96 / n) for the first four moments.
        let bound = |variance: f64| 5.0 * (variance / n as f64).sqrt();
        assert!(moment(1).abs() < bound(1.0));
        assert!((moment(2) - 1.0).abs() < bound(2.0));
        assert!(moment(3).abs() < bound(15.0));
        assert!((moment(4) - 3.0).abs() < bound(96.0));
        let pairs = z.windows(2).map(|w| f64::from(w[0]) * f64::from(w[1])).sum::<f64>() / n as f64;
        assert!(pairs.abs() < bound(1.0));
    }

    #[test]
    fn a_prefix_does_not_depend_on_the_length() {
        let rng = Philox::new(1, 2);
        let (mut long, mut short) = (vec![0f32; 1000], vec![0f32; 37]);
        rng.normal(5, &mut long);
        rng.normal(5, &mut short);
        assert_eq!(long[..37], short[..]);
        rng.normal(6, &mut short);
        assert_ne!(long[..37], short[..]);
    }

    #[test]
    fn uniforms_stay_below_one_and_are_uniform() {
        let mut u = vec![0f32; 1 << 18];
        Philox::new(3, 0).uniform(0, &mut u);
        assert!(u.iter().all(|u| (0.0..1.0).contains(u)));
        let mean = u.iter().map(|&u| f64::from(u)).sum::<f64>() / u.len() as f64;
        assert!((mean - 0.5).abs() < 5.0 * (1.0 / 12.0 / u.len() as f64).sqrt());
    }
}
