//! Elementary functions that vectorise: branch-free polynomials after Cephes (S. Moshier), and the run-time choice of
//! SIMD.
//!
//! Every operation used here (`+`, `*`, `mul_add`, `/`, `sqrt`) is correctly rounded by IEEE 754, so results are the
//! same bits with any instruction set.

use super::simd::{Vector, with_vectors};

/// Number of independent partial sums in [`sum_by`]: enough for two AVX-512 or four AVX2 registers in flight.
pub const LANES: usize = 32;

/// Declares functions that are compiled for the baseline, for AVX2 with FMA and for AVX-512, and choose at run time.
///
/// The body is inlined into each version, and with it every `#[inline(always)]` function that it calls, so that loops
/// are vectorised for the instruction set. (A closure handed to a dispatching function would not do: a large closure
/// is not inlined, and then each `mul_add` becomes a call.)
macro_rules! vectorized {
    ($($(#[$meta:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block)*) => { $(
        $(#[$meta])*
        #[allow(clippy::too_many_arguments)]
        $vis fn $name($($arg: $ty),*) $(-> $ret)? {
            #[inline(always)]
            fn body($($arg: $ty),*) $(-> $ret)? $body
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
                fn avx512($($arg: $ty),*) $(-> $ret)? {
                    body($($arg),*)
                }
                #[target_feature(enable = "avx2,fma")]
                fn avx2($($arg: $ty),*) $(-> $ret)? {
                    body($($arg),*)
                }
                if $crate::cpu::math::has_avx512() {
                    // SAFETY: the features were just found on this processor.
                    return unsafe { avx512($($arg),*) };
                }
                if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                    // SAFETY: the two features that `avx2` is compiled for were just found on this processor.
                    return unsafe { avx2($($arg),*) };
                }
            }
            body($($arg),*)
        }
    )* };
}
pub(crate) use vectorized;

/// Whether the processor has the parts of AVX-512 that all but the first processors with it have.
#[cfg(target_arch = "x86_64")]
pub fn has_avx512() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("fma")
}

/// e^x with a relative error below 2e-7; saturates at e^-87.3 and e^88.3 instead of under- and overflowing.
#[inline(always)]
pub fn exp<V: Vector>(x: V) -> V {
    // Adding 1.5 * 2^23 rounds to an integer and leaves that integer in the low bits of the mantissa.
    let magic = V::splat(12_582_912.0);
    let x = V::splat(88.3).min(V::splat(-87.3).max(x));
    let shifted = x.fma(V::splat(std::f32::consts::LOG2_E), magic);
    let n = shifted.sub(magic);
    let r = n.fma(V::splat(-0.693_359_4), x);
    let r = n.fma(V::splat(2.121_944_4e-4), r);
    let p = V::splat(1.987_569_1e-4);
    let p = p.fma(r, V::splat(1.398_199_9e-3));
    let p = p.fma(r, V::splat(8.333_452e-3));
    let p = p.fma(r, V::splat(4.166_579_6e-2));
    let p = p.fma(r, V::splat(1.666_666_5e-1));
    let p = p.fma(r, V::splat(0.5));
    let p = p.mul(r).fma(r, r).add(V::splat(1.0));
    p.mul(shifted.power_of_low_bits())
}

/// 1 / (1 + e^-x) with a relative error below 3e-7; saturates at e^-80.
#[inline(always)]
pub fn sigmoid<V: Vector>(x: V) -> V {
    reciprocal(V::splat(1.0).add(exp(V::splat(80.0).min(V::splat(0.0).sub(x)))))
}

/// 1 / x with a relative error below 2e-7 for x from 2^-125 to 2^125. A division would take twice the time.
#[inline(always)]
pub fn reciprocal<V: Vector>(x: V) -> V {
    let mut y = x.rough_reciprocal();
    for _ in 0..2 {
        // The error e = 1 - x y becomes e³: 1 / x = y / (1 - e) = y (1 + e + e² + …).
        let e = x.negative_fma(y, V::splat(1.0));
        y = y.fma(e.fma(e, e), y);
    }
    y
}

/// Natural logarithm of a positive, normal number, relative error below 2e-7 away from 1.
#[inline(always)]
pub fn ln(x: f32) -> f32 {
    let bits = x.to_bits();
    // Mantissa in [sqrt(1/2), sqrt(2)): subtracting the bits of sqrt(1/2) moves the exponent's boundary there.
    let shifted = bits.wrapping_sub(0x3f35_04f3);
    let e = ((shifted as i32) >> 23) as f32;
    let m = f32::from_bits((shifted & 0x007f_ffff).wrapping_add(0x3f35_04f3)) - 1.0;
    let z = m * m;
    let p = 7.037_683_6e-2_f32;
    let p = p.mul_add(m, -1.151_461e-1);
    let p = p.mul_add(m, 1.167_699_9e-1);
    let p = p.mul_add(m, -1.242_014_1e-1);
    let p = p.mul_add(m, 1.424_932_3e-1);
    let p = p.mul_add(m, -1.666_805_7e-1);
    let p = p.mul_add(m, 2.000_071_5e-1);
    let p = p.mul_add(m, -2.499_999_4e-1);
    let p = p.mul_add(m, 3.333_333e-1);
    let y = (p * m) * z;
    let y = e.mul_add(-2.121_944_4e-4, y);
    let y = z.mul_add(-0.5, y);
    e.mul_add(0.693_359_4, m + y)
}

/// (sin 2πu, cos 2πu) for u in [0, 1), absolute error below 2e-7.
#[inline(always)]
pub fn sin_cos_turns(u: f32) -> (f32, f32) {
    const MAGIC: f32 = 12_582_912.0;
    // Quadrant q = round(4u) and the remainder in [-1/8, 1/8] turns; both are exact.
    let shifted = u.mul_add(4.0, MAGIC);
    let q = shifted.to_bits();
    let r = (u - (shifted - MAGIC) * 0.25) * std::f32::consts::TAU;
    let z = r * r;
    let s = (-1.951_529_6e-4_f32).mul_add(z, 8.332_161e-3);
    let s = s.mul_add(z, -1.666_665_5e-1);
    let s = (s * z).mul_add(r, r);
    let c = 2.443_315_7e-5_f32.mul_add(z, -1.388_731_6e-3);
    let c = c.mul_add(z, 4.166_664_6e-2);
    let c = (c * z).mul_add(z, z.mul_add(-0.5, 1.0));
    let swap = q & 1 == 1;
    let (a, b) = if swap { (c, s) } else { (s, c) };
    let sign_sin = (q & 2) << 30;
    let sign_cos = ((q.wrapping_add(1)) & 2) << 30;
    (f32::from_bits(a.to_bits() ^ sign_sin), f32::from_bits(b.to_bits() ^ sign_cos))
}

/// What [`sum_by`] adds for a number.
///
/// A trait and not a function that is handed over, for the reason that [`Map`](super::points::Map) gives.
pub trait Term: Copy {
    /// The terms of a vector of numbers.
    fn of<V: Vector>(self, x: V) -> V;
}

/// The number itself.
#[derive(Clone, Copy)]
pub struct Number;

impl Term for Number {
    #[inline(always)]
    fn of<V: Vector>(self, x: V) -> V {
        x
    }
}

/// Its square.
#[derive(Clone, Copy)]
pub struct Square;

impl Term for Square {
    #[inline(always)]
    fn of<V: Vector>(self, x: V) -> V {
        x.mul(x)
    }
}

/// The square of its difference from a mean.
#[derive(Clone, Copy)]
pub struct SquaredDeviation(pub f32);

impl Term for SquaredDeviation {
    #[inline(always)]
    fn of<V: Vector>(self, x: V) -> V {
        let d = x.sub(V::splat(self.0));
        d.mul(d)
    }
}

/// The sum of a term for each number of `x`, in a fixed order: 32 partial sums in `f32`, added up as a tree, and what is left
/// over in `f64`. `V` has 16 lanes.
#[inline(always)]
pub fn sum_by<V: Vector>(term: impl Term, x: &[f32]) -> f64 {
    let (whole, rest) = x.as_chunks::<LANES>();
    let mut sums = [V::splat(0.0); 2];
    for x in whole {
        // SAFETY: two vectors of 16 lanes are 32 numbers.
        unsafe {
            sums[0] = sums[0].add(term.of(V::load(x.as_ptr())));
            sums[1] = sums[1].add(term.of(V::load(x.as_ptr().add(V::LANES))));
        }
    }
    V::total(sums) + rest.iter().map(|&x| f64::from(term.of(x))).sum::<f64>()
}

with_vectors! {
    /// Σ x, in a fixed order.
    pub fn sum<V: 16>(x: &[f32]) -> f64 {
        sum_by::<V>(Number, x)
    }

    /// Σ x², in a fixed order; pieces keep the single-precision partial sums short.
    pub fn sum_of_squares<V: 16>(x: &[f32]) -> f64 {
        let mut sum = 0.0;
        for x in x.chunks(1 << 12) {
            sum += sum_by::<V>(Square, x);
        }
        sum
    }
}

vectorized! {
    /// y += x.
    pub fn add(x: &[f32], y: &mut [f32]) {
        for (y, x) in y.iter_mut().zip(x) {
            *y += x;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_close_to_f64() {
        for i in -87_000..88_000 {
            let x = i as f32 * 1e-3;
            let want = f64::from(x).exp();
            assert!((f64::from(exp(x)) / want - 1.0).abs() < 2e-7, "exp({x})");
        }
        assert!(exp(-1e9) > 0.0 && exp(-1e9) < 1e-37);
        assert!(exp(1e9).is_finite());
    }

    #[test]
    fn reciprocal_and_sigmoid_are_close_to_f64() {
        for i in 0..1_000_000 {
            let x = 2f32.powi(i % 251 - 125) * (1.0 + (i as f32 * 0.618_034).fract());
            assert!((f64::from(reciprocal(x)) * f64::from(x) - 1.0).abs() < 2e-7, "1 / {x}");
        }
        for i in -79_000..79_000 {
            let x = i as f32 * 1e-3;
            let want = 1.0 / (1.0 + f64::from(-x).exp());
            assert!((f64::from(sigmoid(x)) / want - 1.0).abs() < 3e-7, "sigmoid({x})");
        }
        assert!(sigmoid(-1e9) > 0.0 && sigmoid(-1e9) < 1e-34 && sigmoid(1e9) == 1.0);
        assert!(sigmoid(f32::NAN).is_nan());
    }

    #[test]
    fn ln_is_close_to_f64() {
        for i in 1..200_000u32 {
            for x in [i as f32 * 1e-5, i as f32 * 17.3, i as f32 * 1e-30] {
                let want = f64::from(x).ln();
                let tolerance = 2e-7 * want.abs().max(0.5);
                assert!((f64::from(ln(x)) - want).abs() < tolerance, "ln({x}) = {} not {want}", ln(x));
            }
        }
    }

    #[test]
    fn sin_cos_is_close_to_f64() {
        for i in 0..1 << 16 {
            let u = i as f32 / (1 << 16) as f32;
            let (s, c) = sin_cos_turns(u);
            let (want_s, want_c) = (std::f64::consts::TAU * f64::from(u)).sin_cos();
            assert!((f64::from(s) - want_s).abs() < 2e-7, "sin 2π {u}: {s} {want_s}");
            assert!((f64::from(c) - want_c).abs() < 2e-7, "cos 2π {u}: {c} {want_c}");
        }
    }

    vectorized! {
        fn fast(xs: &[f32]) -> Vec<u32> {
            xs.iter().map(|&x| (sigmoid(x) + ln(x.abs() + 0.1)).to_bits()).collect()
        }
    }

    #[test]
    fn vectorized_code_gives_the_bits_of_plain_code() {
        let xs: Vec<f32> = (0..1000).map(|i| (i as f32 - 500.0) * 0.173).collect();
        let plain: Vec<u32> = xs.iter().map(|&x| (sigmoid(x) + ln(x.abs() + 0.1)).to_bits()).collect();
        assert_eq!(plain, fast(&xs));
    }

    #[test]
    fn sum_by_adds_every_element_once() {
        for n in [0, 1, 31, 32, 33, 1000] {
            let x: Vec<f32> = (0..n).map(|i| i as f32).collect();
            assert_eq!(sum(&x), (0..n).sum::<usize>() as f64);
        }
    }
}
