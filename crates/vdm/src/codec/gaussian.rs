//! Gaussians on the integers, exact to the last bit on every machine.
//!
//! Nothing here calls the system's mathematical functions: the normal distribution is a table that
//! [`libm`] makes, and between its entries there is plain arithmetic, which IEEE 754 leaves no choice in. So an encoder
//! and a decoder that agree about a mean agree about every probability.

use super::error::CodecError;
use super::stack::{BitStack, Interval, WHOLE};
use std::sync::LazyLock;

/// The table's cells per standard deviation, and their number: it reaches from -8 to 8.
const CELLS_PER_SIGMA: f64 = 512.0;
const CELLS: usize = 8192;
const CENTRE: f64 = 4096.0;

/// Of 2^32 quantiles, those below each cell's left edge, and all of them: never decreasing.
static BELOW: LazyLock<Vec<u64>> = LazyLock::new(|| {
    let mut below: Vec<u64> = (0..=CELLS)
        .map(|cell| {
            let x = (cell as f64 - CENTRE) / CELLS_PER_SIGMA;
            let p = 0.5 * libm::erfc(-x * std::f64::consts::FRAC_1_SQRT_2);
            ((p * WHOLE as f64 + 0.5) as u64).min(WHOLE)
        })
        .collect();
    (below[0], below[CELLS]) = (0, WHOLE);
    let mut most = 0;
    for below in &mut below {
        most = most.max(*below);
        *below = most;
    }
    below
});

/// The bits of a quantile that [`FIRST_CELL`] is looked up by.
const GUIDE_BITS: u32 = 12;

/// For each value b of a quantile's first bits, the number of cells whose left edge has at most b 2^20 quantiles below it. The
/// search for the cell of such a quantile begins there.
static FIRST_CELL: LazyLock<Vec<u32>> = LazyLock::new(|| {
    let start = |b: u64| BELOW.partition_point(|&below| below <= b << (32 - GUIDE_BITS)) as u32;
    (0..=1u64 << GUIDE_BITS).map(start).collect()
});

/// The cell of a quantile: the last whose left edge has no more quantiles below it.
fn cell_of(quantile: u32) -> usize {
    let bits = (quantile >> (32 - GUIDE_BITS)) as usize;
    let (first, last) = (FIRST_CELL[bits] as usize, FIRST_CELL[bits + 1] as usize);
    // The table starts at 0 and ends at 2^32, so there is a cell on either side.
    first + BELOW[first..last].partition_point(|&below| below <= u64::from(quantile)) - 1
}

/// A Gaussian whose bins are the integers k of an `i32`: bin k reaches from k - 1/2 to k + 1/2, those at the ends
/// farther.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct QuantizedNormal {
    /// The mean, in bins.
    pub mean_in_bins: f64,
    /// One over the standard deviation in bins; positive.
    pub inverse_sigma_in_bins: f64,
}

impl QuantizedNormal {
    /// How many of the 2^32 quantiles lie below bin `k`: 0 at the lowest bin, 2^32 past the highest, and not decreasing
    /// between them, since every operation here is monotone.
    fn below(&self, k: i64) -> u64 {
        if k <= i64::from(i32::MIN) {
            return 0;
        }
        if k > i64::from(i32::MAX) {
            return WHOLE;
        }
        let edge = (k as f64 - 0.5 - self.mean_in_bins) * (self.inverse_sigma_in_bins * CELLS_PER_SIGMA);
        let edge = (edge + CENTRE).clamp(0.0, CELLS as f64);
        let cell = (edge as usize).min(CELLS - 1);
        let (below, above) = (BELOW[cell], BELOW[cell + 1]);
        below + ((edge - cell as f64) * (above - below) as f64) as u64
    }

    /// The bin k of a quantile, and how many quantiles lie below it and below the next: `below(k) <= quantile < below(k + 1)`.
    fn bin(&self, quantile: u32) -> (i32, [u64; 2]) {
        // The guess solves below(k + 1) = quantile + 1 without rounding to whole quantiles.
        let cell = cell_of(quantile);
        let quantile = u64::from(quantile);
        let (below, above) = (BELOW[cell], BELOW[cell + 1]);
        let edge = cell as f64 + (quantile + 1 - below) as f64 / (above - below) as f64;
        let guess = (edge - CENTRE) / (self.inverse_sigma_in_bins * CELLS_PER_SIGMA) + self.mean_in_bins - 0.5;
        let guess = guess.ceil().clamp(f64::from(i32::MIN), f64::from(i32::MAX)) as i64;

        // It may be off by rounding. Steps of doubling length reach an end of the i32 if nothing else, where the number
        // of quantiles is known; then the bracket is halved.
        let at = |k: i64| Edge { k, below: self.below(k) };
        let (mut low, mut step) = (at(guess), 1);
        while low.below > quantile {
            low = at(low.k - step);
            step *= 2;
        }
        let (mut high, mut step) = (at(low.k + 1), 1);
        while high.below <= quantile {
            (low, high) = (high, at(high.k + step));
            step *= 2;
        }
        while high.k - low.k > 1 {
            let middle = at(low.k + (high.k - low.k) / 2);
            if middle.below <= quantile { low = middle } else { high = middle }
        }
        (low.k as i32, [low.below, high.below])
    }
}

/// The lower edge of bin k, and how many quantiles lie below it.
#[derive(Clone, Copy)]
struct Edge {
    k: i64,
    below: u64,
}

/// A Gaussian from which latents are drawn, by popping them, and which gives the bits back when they are pushed. A bin
/// without a quantile cannot be drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Posterior(pub QuantizedNormal);

/// A latent in a bin without a quantile.
fn impossible() -> CodecError {
    CodecError::Stream { reason: "it holds a latent that no encoder draws".into() }
}

impl Posterior {
    fn interval(&self, k: i32) -> Result<Interval, CodecError> {
        let k = i64::from(k);
        Interval::new(self.0.below(k), self.0.below(k + 1)).ok_or_else(impossible)
    }

    /// The bin of a quantile, and the interval of all quantiles of that bin.
    fn bin(&self, quantile: u32) -> Result<(i32, Interval), CodecError> {
        let (k, [below, above]) = self.0.bin(quantile);
        Ok((k, Interval::new(below, above).ok_or_else(impossible)?))
    }

    /// The latent of a quantile, and the bits that drawing it takes.
    ///
    /// # Errors
    /// None can occur: the bin of a quantile has one.
    pub fn draw(&self, quantile: u32) -> Result<(i32, f64), CodecError> {
        let (k, interval) = self.bin(quantile)?;
        Ok((k, interval.bits()))
    }

    /// Draws a latent from the stack. With random masks, draws are independent of each other and of all that was pushed;
    /// without, a latent would repeat the quantile of the symbol pushed last.
    ///
    /// # Errors
    /// [`CodecError::Stream`] if the stack has run out.
    pub fn pop(&self, stack: &mut BitStack, mask: u32) -> Result<i32, CodecError> {
        stack.mask(mask);
        let (k, interval) = self.bin(stack.peek())?;
        stack.pop(interval)?;
        Ok(k)
    }

    /// Gives back the bits that drew `k` with this mask.
    ///
    /// # Errors
    /// [`CodecError::Stream`] if nothing draws `k`.
    pub fn push(&self, stack: &mut BitStack, k: i32, mask: u32) -> Result<(), CodecError> {
        stack.push(self.interval(k)?);
        stack.mask(mask);
        Ok(())
    }
}

/// Quantiles that a [`Model`] sets aside, 2^-24 of all.
const ESCAPE: u64 = 1 << 8;
const ESCAPED: Interval = Interval::new(WHOLE - ESCAPE, WHOLE).unwrap();

/// A Gaussian that latents are coded with, every integer of an `i32`: those in bins without a quantile, about six
/// standard deviations and more from the mean, are an escape symbol and 32 bits as they are.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Model(pub QuantizedNormal);

impl Model {
    /// Quantiles below bin `k`, of those that are not set aside.
    fn below(&self, k: i64) -> u64 {
        Self::without_escape(self.0.below(k))
    }

    /// So many of all quantiles, as those that are not set aside.
    fn without_escape(below: u64) -> u64 {
        below * (WHOLE - ESCAPE) / WHOLE
    }

    fn interval(&self, k: i32) -> Option<Interval> {
        let k = i64::from(k);
        Interval::new(self.below(k), self.below(k + 1))
    }

    /// The bits of a latent.
    pub fn bits(&self, k: i32) -> f64 {
        match self.interval(k) {
            Some(interval) => interval.bits(),
            None => Interval::of_word(k as u32).bits() + ESCAPED.bits(),
        }
    }

    /// Codes a latent.
    pub fn push(&self, stack: &mut BitStack, k: i32) {
        match self.interval(k) {
            Some(interval) => stack.push(interval),
            None => {
                stack.push(Interval::of_word(k as u32));
                stack.push(ESCAPED);
            }
        }
    }

    /// Decodes a latent.
    ///
    /// # Errors
    /// [`CodecError::Stream`] if the stack has run out.
    pub fn pop(&self, stack: &mut BitStack) -> Result<i32, CodecError> {
        let quantile = u64::from(stack.peek());
        if quantile >= WHOLE - ESCAPE {
            stack.pop(ESCAPED)?;
            let word = stack.peek();
            stack.pop(Interval::of_word(word))?;
            return Ok(word as i32);
        }
        // The greatest number that `below` scales to at most `quantile`; itself below 2^32.
        let unscaled = ((quantile + 1) * WHOLE).div_ceil(WHOLE - ESCAPE) - 1;
        let (k, edges) = self.0.bin(unscaled as u32);
        let [below, above] = edges.map(Self::without_escape);
        stack.pop(Interval::new(below, above).ok_or_else(impossible)?)?;
        Ok(k)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn normal(mean: f64, sigma: f64) -> QuantizedNormal {
        QuantizedNormal { mean_in_bins: mean, inverse_sigma_in_bins: 1.0 / sigma }
    }

    #[test]
    fn the_table_is_the_normal_distribution() {
        assert!(BELOW.is_sorted());
        assert_eq!((BELOW.len(), BELOW[0], BELOW[CELLS / 2], BELOW[CELLS]), (CELLS + 1, 0, WHOLE / 2, WHOLE));
        // Phi(1) and Phi(-3).
        assert!((BELOW[4096 + 512] as f64 / WHOLE as f64 - 0.841_344_746_068_543).abs() < 1e-9);
        assert!((BELOW[4096 - 3 * 512] as f64 / WHOLE as f64 - 0.001_349_898_031_630).abs() < 1e-9);
        // A change of any entry is a change of the format.
        let checksum = BELOW.iter().fold(0u64, |sum, &below| sum.wrapping_mul(31).wrapping_add(below));
        assert_eq!(checksum, 0xeea3_f6dc_20d1_3900);
    }

    #[test]
    fn the_guide_finds_the_cell_that_a_search_of_all_finds() {
        let quantiles = (0..=u32::MAX).step_by(65_521).chain([0, 1, u32::MAX - 1, u32::MAX]);
        for quantile in
            quantiles.chain(BELOW.iter().flat_map(|&b| [b.saturating_sub(1) as u32, (b as u32).wrapping_add(1)]))
        {
            let all = BELOW.partition_point(|&below| below <= u64::from(quantile)) - 1;
            assert_eq!(cell_of(quantile), all, "{quantile}");
        }
    }

    #[test]
    fn masses_are_the_integrals_over_the_bins() {
        let phi = |x: f64| 0.5 * libm::erfc(-x * std::f64::consts::FRAC_1_SQRT_2);
        for (mean, sigma) in [(0.0, 2.0), (0.3, 2.0), (-17.77, 1.3), (1234.5, 30.0)] {
            let q = normal(mean, sigma);
            for k in (mean - 5.0 * sigma) as i64..=(mean + 5.0 * sigma) as i64 {
                let mass = (q.below(k + 1) - q.below(k)) as f64 / WHOLE as f64;
                let want = phi((k as f64 + 0.5 - mean) / sigma) - phi((k as f64 - 0.5 - mean) / sigma);
                assert!((mass - want).abs() < 2e-4 * want + 1e-9, "{mean} {sigma} {k}: {mass} {want}");
            }
        }
    }

    #[test]
    fn draws_have_the_moments_of_the_gaussian() {
        let (mean, sigma, n) = (-3.7, 2.0, 100_000);
        let mut stack = BitStack::new(5);
        let k: Vec<f64> =
            (0..n).map(|_| f64::from(Posterior(normal(mean, sigma)).pop(&mut stack, 0).unwrap())).collect();
        let average = k.iter().sum::<f64>() / n as f64;
        // Rounding to whole bins adds the variance 1/12.
        let want = sigma * sigma + 1.0 / 12.0;
        let variance = k.iter().map(|k| (k - mean).powi(2)).sum::<f64>() / n as f64;
        assert!((average - mean).abs() < 5.0 * (want / n as f64).sqrt(), "{average}");
        assert!((variance - want).abs() < 5.0 * want * (2.0 / n as f64).sqrt(), "{variance}");
        // Draws from the same stack do not depend on each other.
        let covariance = k.windows(2).map(|w| (w[0] - mean) * (w[1] - mean)).sum::<f64>() / n as f64;
        assert!(covariance.abs() < 5.0 * want / (n as f64).sqrt(), "{covariance}");
    }

    /// Means and deviations, those that no model gives included.
    fn any_normal() -> impl Strategy<Value = QuantizedNormal> {
        let usual = (-1e4..1e4f64, -3.0..7.0f64).prop_map(|(mean, log)| normal(mean, log.exp()));
        let wild = (any::<f64>(), -40.0..40.0f64).prop_map(|(mean, log)| normal(mean, log.exp()));
        prop_oneof![3 => usual, 1 => wild]
    }

    proptest! {
        #[test]
        fn quantiles_do_not_decrease(q in any_normal(), from in -2e4..2e4f64, stride in 1i64..1000) {
            prop_assert_eq!(q.below(i32::MIN.into()), 0);
            prop_assert_eq!(q.below(i64::from(i32::MAX) + 1), WHOLE);
            let ks: Vec<u64> = (0..500).map(|i| q.below(from as i64 + i * stride)).collect();
            prop_assert!(ks.is_sorted());
        }

        #[test]
        fn every_quantile_has_its_bin(q in any_normal(), quantile: u32) {
            let (k, edges) = q.bin(quantile);
            let k = i64::from(k);
            prop_assert_eq!(edges, [q.below(k), q.below(k + 1)]);
            let quantile = u64::from(quantile);
            prop_assert!(q.below(k) <= quantile && quantile < q.below(k + 1), "{k} of {q:?}");
        }

        #[test]
        fn draws_give_their_bits_back(seed: u64, masked: u32, qs in prop::collection::vec(any_normal(), 0..50)) {
            let mask = |i: u32| masked.wrapping_mul(i);
            let mut stack = BitStack::new(seed);
            let drawn: Vec<i32> = qs.iter().zip(0u32..).map(|(&q, i)| Posterior(q).pop(&mut stack, mask(i)).unwrap()).collect();
            let (words, state) = stack.into_parts();
            let mut stack = BitStack::from_parts(words, state).unwrap();
            for ((&q, i), k) in qs.iter().zip(0u32..50).zip(drawn).rev() {
                Posterior(q).push(&mut stack, k, mask(i)).unwrap();
            }
            prop_assert!(stack.is_at_start(seed));
        }

        #[test]
        fn every_integer_can_be_coded(
            seed: u64,
            symbols in prop::collection::vec((any_normal(), any::<i32>(), -9.0..9.0f64, any::<bool>()), 0..50),
        ) {
            let mut stack = BitStack::new(seed);
            let symbols: Vec<(Model, i32)> = symbols
                .into_iter()
                .map(|(q, far, near, is_near)| {
                    let near = (q.mean_in_bins + near / q.inverse_sigma_in_bins) as i32;
                    (Model(q), if is_near { near } else { far })
                })
                .collect();
            for (model, k) in &symbols {
                model.push(&mut stack, *k);
            }
            let (words, state) = stack.into_parts();
            let mut stack = BitStack::from_parts(words, state).unwrap();
            for (model, k) in symbols.iter().rev() {
                prop_assert_eq!(model.pop(&mut stack).unwrap(), *k);
            }
            prop_assert!(stack.is_at_start(seed));
        }
    }

    #[test]
    fn the_escape_costs_next_to_nothing() {
        let mut stack = BitStack::new(1);
        let model = Model(normal(0.0, 2.0));
        let cost = |stack: &mut BitStack, k| {
            let before = stack.ideal_bits();
            model.push(stack, k);
            stack.ideal_bits() - before
        };
        let centre = libm::erfc(-0.25 * std::f64::consts::FRAC_1_SQRT_2) - 1.0;
        assert!((cost(&mut stack, 0) + centre.log2()).abs() < 1e-5);
        assert!(cost(&mut stack, 11) < 28.0);
        for far in [1000, i32::MIN, i32::MAX] {
            assert!((cost(&mut stack, far) - (24.0 + 32.0)).abs() < 1e-9);
        }
    }

    #[test]
    fn impossible_draws_are_errors() {
        let mut stack = BitStack::new(1);
        let q = Posterior(normal(0.0, 2.0));
        assert!(matches!(q.push(&mut stack, 100, 0), Err(CodecError::Stream { .. })));
        assert!(q.push(&mut stack, 5, 0).is_ok());
        let nothing = Posterior(normal(f64::NAN, 1.0));
        assert!(nothing.push(&mut stack, 0, 0).is_err());
    }
}
