//! p(k | z_0) as intervals of 2^32 quantiles, exact to the last bit on every machine.

use super::stack::{Interval, WHOLE};
use crate::diffusion::Vocabulary;

/// Below e^-45 of the most probable level's probability, 2^32 quantiles hold nothing of it.
const IRRELEVANT: f64 = 45.0;

/// The decoder's distribution of one number: a softmax of -e^(-gamma_0) (y - x_k)² / 2 over all levels k, where
/// y = z_0 / alpha_0 (VDM section 3.3). Every level has at least one quantile, so all can be coded.
#[derive(Debug)]
pub struct Levels {
    /// Quantiles below each level, and all of them.
    below: Vec<u64>,
    vocabulary: Vocabulary,
    /// e^(-gamma_0).
    precision: f64,
}

impl Levels {
    /// For a model with this vocabulary and e^(-gamma_0); says nothing before [`set`](Self::set).
    pub fn new(vocabulary: Vocabulary, precision: f64) -> Self {
        Self { below: vec![0; vocabulary.levels() + 1], vocabulary, precision }
    }

    /// Works out the distribution for y = z_0 / alpha_0, which is finite.
    pub fn set(&mut self, y: f64) {
        let levels = self.vocabulary.levels();
        let logit = |k: usize| {
            let distance = y - self.vocabulary.code(k);
            -0.5 * self.precision * distance * distance
        };
        let nearest = ((y + 1.0) * levels as f64 / 2.0 - 0.5).round().clamp(0.0, (levels - 1) as f64) as usize;
        let top = logit(nearest);
        let weight = |k: usize| {
            let below_top = logit(k) - top;
            if below_top > -IRRELEVANT { libm::exp(below_top) } else { 0.0 }
        };
        // Weights fall to both sides of the nearest level: nothing beyond the first irrelevant one counts.
        let low = (0..nearest).rev().take_while(|&k| weight(k) > 0.0).last().unwrap_or(nearest);
        let high = (nearest + 1..levels).take_while(|&k| weight(k) > 0.0).last().unwrap_or(nearest);
        let sum: f64 = (low..=high).map(weight).sum();
        let shared = (WHOLE - levels as u64) as f64;
        let mass = |k: usize| {
            if (low..=high).contains(&k) { 1 + (weight(k) / sum * shared) as u64 } else { 1 }
        };
        // Rounding down leaves some quantiles; the nearest level, which has most, gets them.
        let rest = WHOLE - (0..levels).map(mass).sum::<u64>();
        let mut total = 0;
        for k in 0..levels {
            self.below[k] = total;
            total += mass(k) + if k == nearest { rest } else { 0 };
        }
        self.below[levels] = total;
    }

    /// The quantiles of level `k`; `None` if there is no such level.
    pub fn interval(&self, k: usize) -> Option<Interval> {
        Interval::new(*self.below.get(k)?, *self.below.get(k + 1)?)
    }

    /// The level of a quantile.
    pub fn level(&self, quantile: u32) -> usize {
        self.below.partition_point(|&below| below <= u64::from(quantile)) - 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_quantile_has_its_level_and_masses_are_the_probabilities(
            levels in 2usize..=300, gamma_0 in -14.0..4.0f64, y in -3.0..3.0f64, quantile: u32,
        ) {
            let vocabulary = Vocabulary::new(levels).unwrap();
            let mut found = Levels::new(vocabulary, libm::exp(-gamma_0));
            found.set(y);
            prop_assert_eq!((found.below[0], found.below[levels]), (0, WHOLE));
            let k = found.level(quantile);
            prop_assert!(found.below[k] <= u64::from(quantile) && u64::from(quantile) < found.below[k + 1]);
            prop_assert!(found.interval(levels).is_none());
            let p = vocabulary.probabilities((y * crate::diffusion::process::alpha(gamma_0)) as f32, gamma_0);
            for (k, p) in p.iter().enumerate() {
                let mass = found.below[k + 1] - found.below[k];
                prop_assert!(mass >= 1 && found.interval(k).is_some());
                // z_0 as f32 moves y by 1e-7 of itself, which precision e^14 makes 0.1 of a logit.
                prop_assert!((mass as f64 / WHOLE as f64 - p).abs() < 0.05 * p + 1e-6, "{k} of {levels}: {mass} {p}");
            }
        }
    }
}
