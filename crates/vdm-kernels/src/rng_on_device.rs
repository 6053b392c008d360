//! The generator of [`crate::rng`] as operators of a tensor library: the same numbers, drawn where they are used.
//!
//! Accelerators draw dropout's masks with it. On the host they would be drawn by one thread and sent over the bus, for the
//! paper's CIFAR-10 network some 4.5 GB a step. On the CPU the host's own generator is far faster.

use crate::cpu::philox::{FACTORS, KEY_STEPS, ROUNDS};
use crate::rng::Philox;
use burn::tensor::{Device, Int, IntDType, Tensor};

/// One more than the largest half of a 32-bit word. Words are kept as halves, so that every product of two fits in 32 bits.
const HALF: i64 = 1 << 16;

/// 32-bit words, each as its high and its low half.
#[derive(Clone)]
struct Words {
    high: Tensor<3, Int>,
    low: Tensor<3, Int>,
}

fn low(x: &Tensor<3, Int>) -> Tensor<3, Int> {
    x.clone().bitwise_and_scalar(HALF - 1)
}

fn high(x: &Tensor<3, Int>) -> Tensor<3, Int> {
    x.clone().bitwise_right_shift_scalar(16)
}

impl Words {
    /// The same word everywhere, in the shape of `like`.
    fn all(word: u32, like: &Tensor<3, Int>) -> Self {
        let half = |half: u32| like.zeros_like().add_scalar(half);
        Self { high: half(word >> 16), low: half(word & 0xFFFF) }
    }

    fn xor(self, other: Self) -> Self {
        Self { high: self.high.bitwise_xor(other.high), low: self.low.bitwise_xor(other.low) }
    }

    fn xor_word(self, word: u32) -> Self {
        Self { high: self.high.bitwise_xor_scalar(word >> 16), low: self.low.bitwise_xor_scalar(word & 0xFFFF) }
    }

    /// The upper and the lower word of the product with `factor`.
    fn product(&self, factor: u32) -> (Self, Self) {
        let times = |half: &Tensor<3, Int>, by: u32| half.clone().mul_scalar(by);
        let [by_high, by_low] = [factor >> 16, factor & 0xFFFF];
        let (ll, lh) = (times(&self.low, by_low), times(&self.low, by_high));
        let (hl, hh) = (times(&self.high, by_low), times(&self.high, by_high));
        let middle = high(&ll) + low(&lh) + low(&hl);
        let top = high(&middle) + high(&lh) + high(&hl) + low(&hh);
        let lower = Self { high: low(&middle), low: low(&ll) };
        (Self { high: high(&top) + high(&hh), low: low(&top) }, lower)
    }
}

/// Dropout's factors for images, `[images, numbers]`: image i has those of [`Philox::dropout`] of the stream i of `seed`.
pub fn dropout(seed: u64, p: f32, images: usize, numbers: usize, device: &Device) -> Tensor<2> {
    // As on the host, a unit holds the lower halves of four words of some blocks, and then the upper halves.
    let (units, lanes) = (numbers.div_ceil(Philox::DROPOUT_UNIT), Philox::DROPOUT_UNIT / 8);
    let counted = |n: usize| Tensor::<1, Int>::arange(0..n as i64, device).cast(IntDType::U32);
    let block = counted(units * lanes).reshape([1, units, lanes]).expand([images, units, lanes]);
    let image = counted(images).reshape([images, 1, 1]).expand([images, units, lanes]);
    let halves = |x: Tensor<3, Int>| Words { high: high(&x), low: low(&x) };
    let zero = Words::all(0, &block);
    let mut c = [halves(block), zero.clone(), halves(image), zero];
    let mut key = [seed as u32, (seed >> 32) as u32];
    for _ in 0..ROUNDS {
        let [c0, c1, c2, c3] = c;
        let ((p0_high, p0_low), (p1_high, p1_low)) = (c0.product(FACTORS[0]), c2.product(FACTORS[1]));
        c = [p1_high.xor(c1).xor_word(key[0]), p1_low, p0_high.xor(c3).xor_word(key[1]), p0_low];
        key = [key[0].wrapping_add(KEY_STEPS[0]), key[1].wrapping_add(KEY_STEPS[1])];
    }
    let words =
        |half: fn(&Words) -> &Tensor<3, Int>| Tensor::stack::<4>(c.iter().map(|c| half(c).clone()).collect(), 2);
    let bits = Tensor::stack::<5>(vec![words(|c| &c.low), words(|c| &c.high)], 2);
    let bits = bits.reshape([images, units * Philox::DROPOUT_UNIT]).slice([0..images, 0..numbers]);
    let kept = bits.greater_equal_elem((p * HALF as f32) as i64);
    kept.float().mul_scalar(1.0 / (1.0 - p))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_are_those_of_the_host() {
        for (seed, p, images, numbers) in [
            (0, 0.1, 1, 128),
            (7, 0.1, 3, 1000),
            (0xFEDC_BA98_7654_3210, 0.5, 2, 37),
            (u64::MAX, 0.0, 1, 5),
            (3, 0.1, 1, 40_000),
        ] {
            let mut host = vec![0f32; images * numbers];
            for (image, out) in host.chunks_exact_mut(numbers).enumerate() {
                Philox::new(seed, image as u64).dropout(p, out);
            }
            let found = dropout(seed, p, images, numbers, &Device::flex()).into_data();
            assert_eq!(found.iter::<f32>().collect::<Vec<_>>(), host, "{seed} {p} {images} {numbers}");
        }
    }
}
