//! A stack of bits that never runs dry: asymmetric numeral systems (ANS, Duda et al. 2015) on top of pseudo-random
//! words.
//!
//! Bits-back coding takes bits off the stack before it puts any on it. So below the stack's own words lie those of a
//! counter-based generator, as many as it takes. Since anyone can make them again from the seed, they need not be
//! stored: the coded images are the words above them and the coder's state. Decoding ends with exactly the words that
//! were taken; anything else says that the stream is damaged.
//!
//! The state has four words, the smallest whole coder has two. But with probabilities of 32 bits, a state of 64 bits
//! has at times a single bit to say how many whole intervals lie below it, and the quantiles that it offers are not
//! uniform: that costs 0.002 bits a symbol, and a chain of T steps has 2 T + 3 symbols a dimension. With 128 bits, the
//! cost cannot be measured.

use super::error::CodecError;
use crate::random::FIRST_BITS;
use constriction::Stack;
use constriction::backends::{ReadWords, WriteWords};
use constriction::stream::model::{DecoderModel, EncoderModel, EntropyModel};
use constriction::stream::stack::AnsCoder;
use constriction::stream::{Code, Decode, Encode};
use std::borrow::Borrow;
use std::convert::Infallible;
use std::num::NonZeroU32;
use vdm_kernels::rng::Philox;

/// Bits of a probability.
const PRECISION: usize = 32;

/// The number of quantiles, which are 0 .. 2^32.
pub const WHOLE: u64 = 1 << PRECISION;

/// Bits of a word of the stack.
const WORD_BITS: f64 = 32.0;

/// The quantiles that stand for a symbol: as large a part of all 2^32 as the symbol is probable.
///
/// # Invariants
/// Not empty, and inside 0 .. 2^32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interval {
    left: u64,
    mass: u64,
}

impl Interval {
    /// The quantiles `left .. end`; `None` if there are none, or not all of them exist.
    pub const fn new(left: u64, end: u64) -> Option<Self> {
        if left < end && end <= WHOLE { Some(Self { left, mass: end - left }) } else { None }
    }

    /// One quantile: 32 bits as they are.
    pub const fn of_word(word: u32) -> Self {
        Self { left: word as u64, mass: 1 }
    }

    /// -log2 of the symbol's probability.
    pub fn bits(self) -> f64 {
        PRECISION as f64 - libm::log2(self.mass as f64)
    }

    fn contains(self, quantile: u32) -> bool {
        (self.left..self.left + self.mass).contains(&u64::from(quantile))
    }

    /// The interval in the coder's terms; `None` for all quantiles, a symbol that is certain and takes no bits.
    fn slot(self) -> Option<Slot> {
        // Of the lengths 1 ..= 2^32 only the last becomes 0.
        NonZeroU32::new(self.mass as u32).map(|mass| Slot { left: self.left as u32, mass })
    }
}

/// A model of one symbol, for the coder.
#[derive(Clone, Copy)]
struct Slot {
    left: u32,
    mass: NonZeroU32,
}

impl EntropyModel<PRECISION> for Slot {
    type Symbol = ();
    type Probability = u32;
}

impl EncoderModel<PRECISION> for Slot {
    fn left_cumulative_and_probability(&self, _: impl Borrow<()>) -> Option<(u32, NonZeroU32)> {
        Some((self.left, self.mass))
    }
}

impl DecoderModel<PRECISION> for Slot {
    fn quantile_function(&self, _: u32) -> ((), u32, NonZeroU32) {
        ((), self.left, self.mass)
    }
}

/// The words of a stack, the top one last, and what lies below them.
struct Supply {
    words: Vec<u32>,
    /// `None` where nothing lies below: in a decoder, which needs no more words than its stream has.
    below: Option<Philox>,
    /// Words taken from there.
    taken: u64,
}

/// Nothing is left to read.
#[derive(Debug)]
struct Exhausted;

impl ReadWords<u32, Stack> for Supply {
    type ReadError = Exhausted;

    fn read(&mut self) -> Result<Option<u32>, Exhausted> {
        if let Some(word) = self.words.pop() {
            return Ok(Some(word));
        }
        let word = word_below(&self.below.ok_or(Exhausted)?, self.taken);
        self.taken += 1;
        Ok(Some(word))
    }
}

impl WriteWords<u32> for Supply {
    type WriteError = Infallible;

    fn write(&mut self, word: u32) -> Result<(), Infallible> {
        self.words.push(word);
        Ok(())
    }
}

/// Word number `n` below the stack, from 0 at the top.
fn word_below(below: &Philox, n: u64) -> u32 {
    below.block((n >> 32) as u32, n as u32)[0]
}

/// The coder's first state: the smallest power of two that it can be, and 96 random bits.
fn first_state(below: &Philox) -> u128 {
    // Words that `word_below` does not use.
    let [_, a, b, c] = below.block(0, 0);
    1 << 96 | u128::from(a) << 64 | u128::from(b) << 32 | u128::from(c)
}

/// -log2 of the probabilities of many symbols. A logarithm takes as long as coding a symbol, so probabilities are multiplied,
/// and the logarithm is taken of their product before it becomes too small.
#[derive(Clone, Copy)]
struct Information {
    bits: f64,
    product: f64,
}

impl Default for Information {
    fn default() -> Self {
        Self { bits: 0.0, product: 1.0 }
    }
}

impl Information {
    /// 2^-958. Below it the logarithm is taken: the next factor is at least 2^-32, so that the product stays a normal number.
    const SMALL: f64 = f64::from_bits(0x0010_0000_0000_0000 + (64 << 52));

    fn add(&mut self, symbol: Interval) {
        self.product *= symbol.mass as f64 / WHOLE as f64;
        if self.product < Self::SMALL {
            *self = Self { bits: self.bits(), product: 1.0 };
        }
    }

    fn bits(&self) -> f64 {
        self.bits - libm::log2(self.product)
    }
}

/// A stack onto which symbols of known probability are pushed, and popped in reverse.
///
/// Whatever is pushed and popped, the reverse gives back the same stack, bit for bit.
pub struct BitStack {
    coder: AnsCoder<u32, u128, Supply>,
    pushed: Information,
    popped: Information,
    first_bits: f64,
}

impl BitStack {
    /// The encoder's stack at its start: a state, and no words of its own. All is a function of `seed`.
    pub fn new(seed: u64) -> Self {
        let below = Philox::new(seed, FIRST_BITS);
        let state = first_state(&below);
        let supply = Supply { words: Vec::new(), below: Some(below), taken: 0 };
        let coder = AnsCoder::from_raw_parts(supply, state);
        let nothing = Information::default;
        Self { coder, pushed: nothing(), popped: nothing(), first_bits: libm::log2(state as f64) }
    }

    /// The decoder's stack at its start: what [`into_parts`](Self::into_parts) gave.
    ///
    /// # Errors
    /// [`CodecError::Stream`] if no encoder leaves this.
    pub fn from_parts(mut words: Vec<u32>, state: u64) -> Result<Self, CodecError> {
        let (Some(high), Some(low)) = (words.pop(), words.pop()) else {
            return Err(CodecError::Stream { reason: "expected at least 2 words, found fewer".into() });
        };
        if state >> 32 == 0 {
            return Err(CodecError::Stream { reason: format!("expected a state of at least 2^32, found {state}") });
        }
        let state = u128::from(state) << 64 | u128::from(high) << 32 | u128::from(low);
        let supply = Supply { words, below: None, taken: 0 };
        let coder = AnsCoder::from_raw_parts(supply, state);
        Ok(Self { coder, pushed: Information::default(), popped: Information::default(), first_bits: 0.0 })
    }

    /// The stack's words, the top one last, with the lower half of the state on top of them; and the upper half of the
    /// state, which is at least 2^32.
    pub fn into_parts(self) -> (Vec<u32>, u64) {
        let (supply, state) = self.coder.into_raw_parts();
        let mut words = supply.words;
        words.extend([state as u32, (state >> 32) as u32]);
        (words, (state >> 64) as u64)
    }

    /// Puts a symbol on the stack.
    pub fn push(&mut self, symbol: Interval) {
        self.pushed.add(symbol);
        if let Some(slot) = symbol.slot() {
            let pushed = Encode::<PRECISION>::encode_symbol(&mut self.coder, (), slot);
            debug_assert!(pushed.is_ok(), "no interval is empty, and memory takes every word");
        }
    }

    /// The quantile on top of the stack, which says what symbol is next.
    pub fn peek(&self) -> u32 {
        self.coder.state() as u32
    }

    /// Changes the quantile of [`peek`](Self::peek) by exclusive or with `mask`; a second time changes it back.
    ///
    /// The quantile that a pop finds is that of the symbol pushed last. Where the one is to be independent of the other,
    /// a random mask that both sides know makes it so.
    pub fn mask(&mut self, mask: u32) {
        let nothing = Supply { words: Vec::new(), below: None, taken: 0 };
        let coder = std::mem::replace(&mut self.coder, AnsCoder::from_raw_parts(nothing, 1 << 96));
        let (supply, state) = coder.into_raw_parts();
        self.coder = AnsCoder::from_raw_parts(supply, state ^ u128::from(mask));
    }

    /// Takes the next symbol off the stack: the one whose interval has the quantile of [`peek`](Self::peek).
    ///
    /// # Errors
    /// [`CodecError::Stream`] if there are no more words, which happens only to a decoder.
    pub fn pop(&mut self, symbol: Interval) -> Result<(), CodecError> {
        debug_assert!(symbol.contains(self.peek()), "{symbol:?} is not the next symbol");
        self.popped.add(symbol);
        match symbol.slot() {
            None => Ok(()),
            Some(slot) => Decode::<PRECISION>::decode_symbol(&mut self.coder, slot)
                .map_err(|_| CodecError::Stream { reason: "it ends before its images do".into() }),
        }
    }

    /// Whether a decoder is where the encoder of this `seed` started: on words that are those below its stack.
    pub fn is_at_start(&self, seed: u64) -> bool {
        let below = Philox::new(seed, FIRST_BITS);
        let words = self.coder.bulk().words.iter().rev();
        self.coder.state() == first_state(&below) && words.zip(0..).all(|(&word, n)| word == word_below(&below, n))
    }

    /// Bits of all symbols pushed less those of all symbols popped: -log2 of their probabilities.
    pub fn ideal_bits(&self) -> f64 {
        self.pushed.bits() - self.popped.bits()
    }

    /// Bits of the encoder's first state, and of the words taken from below the stack.
    pub fn initial_bits(&self) -> f64 {
        self.first_bits + WORD_BITS * self.coder.bulk().taken as f64
    }

    /// Bits that the encoder's stack has more than its start and what it took from below.
    pub fn net_bits(&self) -> f64 {
        let words = self.coder.bulk().words.len() as f64;
        WORD_BITS * words + libm::log2(self.coder.state() as f64) - self.initial_bits()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The interval of length `mass` (the last may be shorter) that has the quantile.
    fn interval_of(quantile: u32, mass: u64) -> Interval {
        let left = u64::from(quantile) / mass * mass;
        Interval::new(left, (left + mass).min(WHOLE)).unwrap()
    }

    #[test]
    fn intervals_lie_inside() {
        assert_eq!(Interval::new(3, 3), None);
        assert_eq!(Interval::new(4, 3), None);
        assert_eq!(Interval::new(0, WHOLE + 1), None);
        assert_eq!(Interval::new(5, 6), Some(Interval::of_word(5)));
        assert_eq!(Interval::new(0, WHOLE).unwrap().bits(), 0.0);
        assert_eq!(Interval::of_word(u32::MAX).bits(), 32.0);
    }

    /// How long the stack has become, and that it costs no more than it must.
    fn check_length(stack: &BitStack) -> Result<(), TestCaseError> {
        prop_assert!((stack.net_bits() - stack.ideal_bits()).abs() < 1e-6);
        Ok(())
    }

    proptest! {
        /// Pushes and pops in any order, then their reverse on the stack that a file would hold.
        #[test]
        fn every_program_has_a_reverse(
            seed: u64,
            program in prop::collection::vec((any::<bool>(), any::<u32>(), 0f64..=32.0), 0..300),
        ) {
            let mut stack = BitStack::new(seed);
            let mut done = Vec::new();
            for (push, quantile, log_mass) in program {
                let quantile = if push { quantile } else { stack.peek() };
                let symbol = interval_of(quantile, (log_mass.exp2() as u64).clamp(1, WHOLE));
                if push { stack.push(symbol) } else { stack.pop(symbol).unwrap() }
                done.push((push, symbol));
                check_length(&stack)?;
            }
            let (words, state) = stack.into_parts();
            let mut stack = BitStack::from_parts(words, state).unwrap();
            for (pushed, symbol) in done.into_iter().rev() {
                if pushed {
                    prop_assert!(symbol.contains(stack.peek()));
                    stack.pop(symbol).unwrap();
                } else {
                    stack.push(symbol);
                }
            }
            prop_assert!(stack.is_at_start(seed));
            prop_assert!(!stack.is_at_start(seed.wrapping_add(1)));
        }
    }

    #[test]
    fn the_initial_bits_are_what_was_needed() {
        let mut stack = BitStack::new(1);
        let first = stack.initial_bits();
        assert!((96.0..=97.0).contains(&first));
        assert_eq!(stack.net_bits(), 0.0);
        for _ in 0..10 {
            let word = stack.peek();
            stack.pop(Interval::of_word(word)).unwrap();
        }
        assert_eq!(stack.initial_bits(), first + 320.0);
        assert!((stack.net_bits() + 320.0).abs() < 1e-9);
        let (words, _) = stack.into_parts();
        assert_eq!(words.len(), 2, "only the state's");
    }

    #[test]
    fn a_decoder_has_nothing_below_its_words() {
        let (words, state) = BitStack::new(1).into_parts();
        let mut stack = BitStack::from_parts(words.clone(), state).unwrap();
        let word = stack.peek();
        assert!(matches!(stack.pop(Interval::of_word(word)), Err(CodecError::Stream { .. })));
        assert!(BitStack::from_parts(words[..1].to_vec(), state).is_err());
        assert!(BitStack::from_parts(words, u64::from(u32::MAX)).is_err());
    }
}
