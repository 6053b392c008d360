//! The one-dimensional maps of Winograd's F(4, 3): four outputs of a filter with three taps, from six inputs, by six products.
//!
//! They evaluate polynomials at the points 0, ±5/8, ±3/2 and infinity. The points decide the error. Root mean square
//! error of a 3x3 convolution of 64 channels with standard normal inputs in f32, over the standard deviation of its outputs
//! (`scripts/winograd_points.py`):
//!
//! | method, points | error |
//! |---|---|
//! | direct sum | 4.2e-7 |
//! | F(2x2, 3x3): 0, ±1, ∞ | 2.6e-7 |
//! | F(4x4, 3x3): 0, ±1, ±2, ∞ (the usual ones) | 1.8e-6 |
//! | F(4x4, 3x3): 0, ±1/2, ±1, ∞ | 1.8e-6 |
//! | F(4x4, 3x3): 0, ±1/2, ±2, ∞ | 1.1e-6 |
//! | F(4x4, 3x3): 0, ±1/√2, ±√2, ∞ | 8.3e-7 |
//! | F(4x4, 3x3): 0, ±5/8, ±3/2, ∞ (these) | 8.1e-7 |

use super::simd::Vector;

/// Outputs of a line.
pub const TILE: usize = 4;
/// Inputs and products of a line.
pub const SIDE: usize = TILE + 2;

const NEAR: f32 = 0.625;
const FAR: f32 = 1.5;
const NEAR2: f32 = NEAR * NEAR;
const FAR2: f32 = FAR * FAR;
/// What the Lagrange basis divides by at 0, ±NEAR and ±FAR.
const AT_0: f32 = (1.0 / (NEAR as f64 * NEAR as f64 * FAR as f64 * FAR as f64)) as f32;
const AT_NEAR: f32 = 1.0 / (2.0 * NEAR2 * (NEAR2 - FAR2));
const AT_FAR: f32 = 1.0 / (2.0 * FAR2 * (FAR2 - NEAR2));

/// A linear map from `N` to `K` numbers.
///
/// A trait and not a function that is handed over: a call through `Fn` is not inlined into functions of more target features.
pub trait Map<const N: usize, const K: usize> {
    /// The map of one line.
    fn line<V: Vector>(line: [V; N]) -> [V; K];
}

/// Bᵀ: the products' factors from the inputs.
pub struct Input;

impl Map<6, 6> for Input {
    #[inline(always)]
    fn line<V: Vector>([d0, d1, d2, d3, d4, d5]: [V; 6]) -> [V; 6] {
        let (near, near2, far2) = (V::splat(NEAR), V::splat(NEAR2), V::splat(FAR2));
        let far = V::splat(FAR);
        // x (x ± NEAR) (x² - FAR²) and so on, with even and odd powers apart.
        let (even, odd) = (far2.negative_fma(d2, d4), far2.negative_fma(d1, d3));
        let (even_far, odd_far) = (near2.negative_fma(d2, d4), near2.negative_fma(d1, d3));
        let first = far2.negative_fma(near2.negative_fma(d0, d2), even_far);
        let last = far2.negative_fma(odd_far, near2.negative_fma(d3, d5));
        [
            first,
            near.fma(odd, even),
            near.negative_fma(odd, even),
            far.fma(odd_far, even_far),
            far.negative_fma(odd_far, even_far),
            last,
        ]
    }
}

/// Aᵀ: the outputs from the products.
pub struct Output;

impl Map<6, 4> for Output {
    #[inline(always)]
    fn line<V: Vector>([m0, m1, m2, m3, m4, m5]: [V; 6]) -> [V; 4] {
        let (near, near2, far, far2) = (V::splat(NEAR), V::splat(NEAR2), V::splat(FAR), V::splat(FAR2));
        let (near_even, near_odd) = (m1.add(m2), near.mul(m1.sub(m2)));
        let (far_even, far_odd) = (m3.add(m4), far.mul(m3.sub(m4)));
        [
            m0.add(near_even).add(far_even),
            near_odd.add(far_odd),
            far2.fma(far_even, near2.mul(near_even)),
            far2.fma(far_odd, near2.fma(near_odd, m5)),
        ]
    }
}

/// A: the transpose of [`Output`].
pub struct OutputBack;

impl Map<4, 6> for OutputBack {
    #[inline(always)]
    fn line<V: Vector>([y0, y1, y2, y3]: [V; 4]) -> [V; 6] {
        let (near, near2, far, far2) = (V::splat(NEAR), V::splat(NEAR2), V::splat(FAR), V::splat(FAR2));
        let (near_even, near_odd) = (near2.fma(y2, y0), near2.fma(y3, y1));
        let (far_even, far_odd) = (far2.fma(y2, y0), far2.fma(y3, y1));
        [
            y0,
            near.fma(near_odd, near_even),
            near.negative_fma(near_odd, near_even),
            far.fma(far_odd, far_even),
            far.negative_fma(far_odd, far_even),
            y3,
        ]
    }
}

/// G: the products' factors from the taps.
pub struct Weight;

impl Map<3, 6> for Weight {
    #[inline(always)]
    fn line<V: Vector>([g0, g1, g2]: [V; 3]) -> [V; 6] {
        let (near2, far2) = (V::splat(NEAR2), V::splat(FAR2));
        let near_even = near2.fma(g2, g0).mul(V::splat(AT_NEAR));
        let far_even = far2.fma(g2, g0).mul(V::splat(AT_FAR));
        let (near_odd, far_odd) = (V::splat(NEAR * AT_NEAR), V::splat(FAR * AT_FAR));
        [
            g0.mul(V::splat(AT_0)),
            near_odd.fma(g1, near_even),
            near_odd.negative_fma(g1, near_even),
            far_odd.fma(g1, far_even),
            far_odd.negative_fma(g1, far_even),
            g2,
        ]
    }
}

/// Gᵀ: the transpose of [`Weight`].
pub struct WeightBack;

impl Map<6, 3> for WeightBack {
    #[inline(always)]
    fn line<V: Vector>([u0, u1, u2, u3, u4, u5]: [V; 6]) -> [V; 3] {
        let near_even = V::splat(AT_NEAR).mul(u1.add(u2));
        let far_even = V::splat(AT_FAR).mul(u3.add(u4));
        let (near_odd, far_odd) = (V::splat(NEAR * AT_NEAR), V::splat(FAR * AT_FAR));
        [
            V::splat(AT_0).fma(u0, near_even.add(far_even)),
            far_odd.fma(u3.sub(u4), near_odd.mul(u1.sub(u2))),
            V::splat(FAR2).fma(far_even, V::splat(NEAR2).fma(near_even, u5)),
        ]
    }
}
