//! How the integer k in 0..V of a pixel becomes the number x = 2 (k + 1/2) / V - 1, and how a latent becomes a pixel
//! again: by the decoder p(k | z_0), a softmax over all V levels.
//!
//! The decoder is never learned (VDM section 3.3): p(k | z_0) ∝ exp(-(z_0/alpha_0 - x_k)² / (2 e^gamma_0)).

use super::process::alpha;
use burn::tensor::Tensor;

/// The levels that a pixel can take: 256 for 8-bit images, 17 for the 8x8 digits.
///
/// # Invariants
/// Between 2 and 65,536 levels. Images held as bytes have at most 256.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vocabulary(usize);

impl Vocabulary {
    /// A vocabulary of `levels` levels; `None` unless 2 <= levels <= 65,536.
    pub fn new(levels: usize) -> Option<Self> {
        (2..=1 << 16).contains(&levels).then_some(Self(levels))
    }

    /// The number of levels, V.
    pub fn levels(self) -> usize {
        self.0
    }

    /// The code x_k = 2 (k + 1/2) / V - 1 of level `k`, in (-1, 1).
    // ANCHOR: code
    pub fn code(self, k: usize) -> f64 {
        2.0 * (k as f64 + 0.5) / self.0 as f64 - 1.0
    }
    // ANCHOR_END: code

    /// Encodes whole numbers `k`, held as floats.
    ///
    /// # Shapes
    /// Any; the output's is the input's.
    pub fn encode<const D: usize>(self, k: Tensor<D>) -> Tensor<D> {
        (k + 0.5) * (2.0 / self.0 as f64) - 1.0
    }

    /// The distance of two neighbouring codes, in units of the noise that z_0/alpha_0 carries: (2/V) e^(-gamma_0/2).
    pub fn level_distance(self, gamma_0: f64) -> f64 {
        2.0 / self.0 as f64 * libm::exp(-0.5 * gamma_0)
    }

    /// The most probable level for one value of z_0: the code nearest to z_0/alpha_0.
    pub fn argmax(self, z_0: f32, gamma_0: f64) -> u16 {
        let y = f64::from(z_0) / alpha(gamma_0);
        let k = ((y + 1.0) * self.0 as f64 / 2.0 - 0.5).round();
        // A NaN becomes level 0: `as` saturates.
        k.clamp(0.0, (self.0 - 1) as f64) as u16
    }

    /// A level drawn from p(k | z_0) with the uniform number `u` in [0, 1).
    pub fn draw(self, z_0: f32, gamma_0: f64, u: f64) -> u16 {
        let p = self.probabilities(z_0, gamma_0);
        let mut below = 0.0;
        for (k, p) in p.iter().enumerate() {
            below += p;
            if u < below {
                return k as u16;
            }
        }
        self.argmax(z_0, gamma_0)
    }

    /// p(k | z_0) for every level k; sums to 1.
    // ANCHOR: decoder
    pub fn probabilities(self, z_0: f32, gamma_0: f64) -> Vec<f64> {
        let y = f64::from(z_0) / alpha(gamma_0);
        let logits: Vec<f64> =
            (0..self.0).map(|k| -0.5 * libm::exp(-gamma_0) * (y - self.code(k)) * (y - self.code(k))).collect();
        let top = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let mut p: Vec<f64> = logits.iter().map(|l| libm::exp(l - top)).collect();
        let sum: f64 = p.iter().sum();
        p.iter_mut().for_each(|p| *p /= sum);
        p
    }
    // ANCHOR_END: decoder
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn probabilities_sum_to_one(levels in 2usize..=1000, gamma_0 in -20.0..10.0f64, z in -3.0..3.0f32) {
            let p = Vocabulary::new(levels).unwrap().probabilities(z, gamma_0);
            prop_assert!((p.iter().sum::<f64>() - 1.0).abs() < 1e-12);
            prop_assert!(p.iter().all(|p| (0.0..=1.0).contains(p)));
        }

        #[test]
        fn argmax_is_the_level_of_greatest_probability(levels in 2usize..=256, gamma_0 in -14.0..2.0f64, z in -2.0..2.0f32) {
            let v = Vocabulary::new(levels).unwrap();
            let p = v.probabilities(z, gamma_0);
            let best = p.iter().copied().fold(0.0, f64::max);
            prop_assert!(p[v.argmax(z, gamma_0) as usize] >= best * (1.0 - 1e-9));
        }

        /// The kernel streams over the levels with a cut-off; here every level is summed in f64.
        #[test]
        fn decoder_kernel_agrees_with_the_probabilities(
            levels in 2usize..=256, gamma_0 in -20.0..4.0f64, eps in -4.0..4.0f32, pick in 0.0..1.0f64,
        ) {
            let v = Vocabulary::new(levels).unwrap();
            let k = (pick * levels as f64) as usize;
            let r = v.level_distance(gamma_0);
            let (mut nll, mut d) = ([0f32], [0f32]);
            vdm_kernels::cpu::decoder::nll(&[eps], &[k as f32], levels, r as f32, &mut nll, &mut d);
            let exact = |r: f64| {
                let e = f64::from(eps);
                let logit = |j: f64| -0.5 * (e + j * r) * (e + j * r);
                let sum: f64 = (0..levels).map(|v| (logit(k as f64 - v as f64) - logit(0.0)).exp()).sum();
                sum.ln()
            };
            let want = exact(f64::from(r as f32));
            prop_assert!((f64::from(nll[0]) - want).abs() < 1e-5 * (1.0 + want.abs()), "{} {want}", nll[0]);
            let h = 1e-5 * r;
            let slope = (exact(r + h) - exact(r - h)) / (2.0 * h);
            prop_assert!((f64::from(d[0]) - slope).abs() < 1e-3 * (1.0 + slope.abs()), "{} {slope}", d[0]);
        }
    }

    #[test]
    fn draws_follow_the_probabilities() {
        let v = Vocabulary::new(17).unwrap();
        let (z, gamma_0, n) = (0.21, -3.0, 20_000);
        let p = v.probabilities(z, gamma_0);
        let mut counts = [0usize; 17];
        for i in 0..n {
            counts[v.draw(z, gamma_0, (i as f64 + 0.5) / n as f64) as usize] += 1;
        }
        for (count, p) in counts.iter().zip(&p) {
            assert!((*count as f64 / n as f64 - p).abs() < 1e-4);
        }
    }

    #[test]
    fn codes_lie_inside_the_interval() {
        let v = Vocabulary::new(256).unwrap();
        assert_eq!(v.code(0), -255.0 / 256.0);
        assert_eq!(v.code(255), 255.0 / 256.0);
        assert!(Vocabulary::new(1).is_none() && Vocabulary::new(65_537).is_none());
    }
}
