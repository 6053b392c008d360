//! One code for vectors of every width, where the compiler's own vectorisation does not do.
//!
//! Every operation is correctly rounded, so the width does not change a bit of a result whose lanes are independent. Sums over
//! lanes need a fixed number of them: `with_vectors` gives 16 to a function that asks for them, as one AVX-512 vector or as
//! a `Pair` of narrower ones.
//!
//! No closures and no functions handed over in such code: a call through `Fn` is not inlined into functions that are compiled
//! for more instructions than their own, and then every operation is a call.

/// Lanes of the widest vector.
pub const MOST_LANES: usize = 16;

/// A vector of f32.
pub trait Vector: Copy {
    /// Numbers of a vector.
    const LANES: usize;

    /// # Safety
    /// `LANES` numbers from `from` on are readable, and the processor has the instructions (which holds for all methods).
    unsafe fn load(from: *const f32) -> Self;
    /// # Safety
    /// `LANES` numbers from `to` on are writable.
    unsafe fn store(self, to: *mut f32);
    /// All lanes `x`.
    fn splat(x: f32) -> Self;
    /// `self + b`.
    fn add(self, b: Self) -> Self;
    /// `self - b`.
    fn sub(self, b: Self) -> Self;
    /// `self * b`.
    fn mul(self, b: Self) -> Self;
    /// `self * b + c`, rounded once.
    fn fma(self, b: Self, c: Self) -> Self;
    /// `-self * b + c`, rounded once.
    fn negative_fma(self, b: Self, c: Self) -> Self;
    /// The larger of `self` and `b`; `b` if one is not a number.
    fn max(self, b: Self) -> Self;
    /// The smaller of `self` and `b`; `b` if one is not a number.
    fn min(self, b: Self) -> Self;
    /// 2^n of the integer n that stands in the low bits of the numbers.
    fn power_of_low_bits(self) -> Self;
    /// 1 / `self` to about an eighth, for positive numbers from 2^-125 to 2^125: the exponent's sign turned by one
    /// subtraction of integers.
    fn rough_reciprocal(self) -> Self;
    /// The sum over two vectors of 16 lanes, in single precision to eight numbers, from there on in double.
    #[inline(always)]
    fn total(pair: [Self; 2]) -> f64 {
        assert!(Self::LANES == 16, "two vectors of 16 lanes are summed");
        let mut lanes = [0f32; 32];
        // SAFETY: two vectors of 16 lanes are 32 numbers.
        unsafe {
            pair[0].store(lanes.as_mut_ptr());
            pair[1].store(lanes.as_mut_ptr().add(Self::LANES));
        }
        tree(&lanes)
    }
}

/// The sum of 32 partial sums: in single precision to eight, from there on in double precision.
#[inline(always)]
fn tree(lanes: &[f32; 32]) -> f64 {
    let mut eight = [0f32; 8];
    for i in 0..8 {
        eight[i] = (lanes[i] + lanes[i + 8]) + (lanes[i + 16] + lanes[i + 24]);
    }
    let mut four = [0f64; 4];
    for i in 0..4 {
        four[i] = f64::from(eight[i]) + f64::from(eight[i + 4]);
    }
    (four[0] + four[2]) + (four[1] + four[3])
}

/// One number: for what is left over where vectors end.
impl Vector for f32 {
    const LANES: usize = 1;

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller's promise.
        unsafe { *from }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller's promise.
        unsafe { *to = self };
    }

    #[inline(always)]
    fn splat(x: f32) -> Self {
        x
    }

    #[inline(always)]
    fn add(self, b: Self) -> Self {
        self + b
    }

    #[inline(always)]
    fn sub(self, b: Self) -> Self {
        self - b
    }

    #[inline(always)]
    fn mul(self, b: Self) -> Self {
        self * b
    }

    #[inline(always)]
    fn fma(self, b: Self, c: Self) -> Self {
        self.mul_add(b, c)
    }

    #[inline(always)]
    fn negative_fma(self, b: Self, c: Self) -> Self {
        (-self).mul_add(b, c)
    }

    #[inline(always)]
    fn max(self, b: Self) -> Self {
        if self > b { self } else { b }
    }

    #[inline(always)]
    fn min(self, b: Self) -> Self {
        if self < b { self } else { b }
    }

    #[inline(always)]
    fn power_of_low_bits(self) -> Self {
        f32::from_bits((self.to_bits() << 23).wrapping_add(0x3f80_0000))
    }

    #[inline(always)]
    fn rough_reciprocal(self) -> Self {
        f32::from_bits(RECIPROCAL.wrapping_sub(self.to_bits()))
    }
}

/// See [`Vector::rough_reciprocal`].
const RECIPROCAL: u32 = 0x7ef3_11c7;

/// Two vectors as one of twice the lanes.
#[derive(Clone, Copy)]
pub struct Pair<V>(V, V);

impl<V: Vector> Vector for Pair<V> {
    const LANES: usize = 2 * V::LANES;

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller's promise.
        unsafe { Self(V::load(from), V::load(from.add(V::LANES))) }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller's promise.
        unsafe {
            self.0.store(to);
            self.1.store(to.add(V::LANES));
        }
    }

    #[inline(always)]
    fn splat(x: f32) -> Self {
        Self(V::splat(x), V::splat(x))
    }

    #[inline(always)]
    fn add(self, b: Self) -> Self {
        Self(self.0.add(b.0), self.1.add(b.1))
    }

    #[inline(always)]
    fn sub(self, b: Self) -> Self {
        Self(self.0.sub(b.0), self.1.sub(b.1))
    }

    #[inline(always)]
    fn mul(self, b: Self) -> Self {
        Self(self.0.mul(b.0), self.1.mul(b.1))
    }

    #[inline(always)]
    fn fma(self, b: Self, c: Self) -> Self {
        Self(self.0.fma(b.0, c.0), self.1.fma(b.1, c.1))
    }

    #[inline(always)]
    fn negative_fma(self, b: Self, c: Self) -> Self {
        Self(self.0.negative_fma(b.0, c.0), self.1.negative_fma(b.1, c.1))
    }

    #[inline(always)]
    fn max(self, b: Self) -> Self {
        Self(self.0.max(b.0), self.1.max(b.1))
    }

    #[inline(always)]
    fn min(self, b: Self) -> Self {
        Self(self.0.min(b.0), self.1.min(b.1))
    }

    #[inline(always)]
    fn power_of_low_bits(self) -> Self {
        Self(self.0.power_of_low_bits(), self.1.power_of_low_bits())
    }

    #[inline(always)]
    fn rough_reciprocal(self) -> Self {
        Self(self.0.rough_reciprocal(), self.1.rough_reciprocal())
    }
}

/// Eight lanes on every processor.
pub type Plain = Pair<Pair<Pair<f32>>>;

/// Vectors of one width, by their intrinsics; last, where they have one, their own way to sum two of them.
#[cfg(target_arch = "x86_64")]
macro_rules! intrinsics {
    ($type:ty, $lanes:literal, $load:ident, $store:ident, $splat:ident, $add:ident, $sub:ident, $mul:ident, $fma:ident,
     $negative_fma:ident, $max:ident, $min:ident, $bits:ident, $number:ident, $shift:ident, $plus:ident, $minus:ident,
     $integer:ident $(, $total:item)?) => {
        // The functions are inlined into code that is compiled for the instructions: `with_vectors` sees to it.
        impl Vector for $type {
            const LANES: usize = $lanes;

            #[inline(always)]
            unsafe fn load(from: *const f32) -> Self {
                // SAFETY: the caller's promise.
                unsafe { $load(from) }
            }

            #[inline(always)]
            unsafe fn store(self, to: *mut f32) {
                // SAFETY: the caller's promise.
                unsafe { $store(to, self) }
            }

            #[inline(always)]
            fn splat(x: f32) -> Self {
                // SAFETY: a vector is made only where the processor has it.
                unsafe { $splat(x) }
            }

            #[inline(always)]
            fn add(self, b: Self) -> Self {
                // SAFETY: as in `splat`.
                unsafe { $add(self, b) }
            }

            #[inline(always)]
            fn sub(self, b: Self) -> Self {
                // SAFETY: as in `splat`.
                unsafe { $sub(self, b) }
            }

            #[inline(always)]
            fn mul(self, b: Self) -> Self {
                // SAFETY: as in `splat`.
                unsafe { $mul(self, b) }
            }

            #[inline(always)]
            fn fma(self, b: Self, c: Self) -> Self {
                // SAFETY: as in `splat`.
                unsafe { $fma(self, b, c) }
            }

            #[inline(always)]
            fn negative_fma(self, b: Self, c: Self) -> Self {
                // SAFETY: as in `splat`.
                unsafe { $negative_fma(self, b, c) }
            }

            #[inline(always)]
            fn max(self, b: Self) -> Self {
                // SAFETY: as in `splat`.
                unsafe { $max(self, b) }
            }

            #[inline(always)]
            fn min(self, b: Self) -> Self {
                // SAFETY: as in `splat`.
                unsafe { $min(self, b) }
            }

            #[inline(always)]
            fn power_of_low_bits(self) -> Self {
                // SAFETY: as in `splat`.
                unsafe { $number($plus($shift::<23>($bits(self)), $integer(0x3f80_0000))) }
            }

            #[inline(always)]
            fn rough_reciprocal(self) -> Self {
                // SAFETY: as in `splat`.
                unsafe { $number($minus($integer(RECIPROCAL as i32), $bits(self))) }
            }

            $(
                #[inline(always)]
                $total
            )?
        }
    };
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{RECIPROCAL, Vector};
    use std::arch::x86_64::*;

    intrinsics!(
        __m256,
        8,
        _mm256_loadu_ps,
        _mm256_storeu_ps,
        _mm256_set1_ps,
        _mm256_add_ps,
        _mm256_sub_ps,
        _mm256_mul_ps,
        _mm256_fmadd_ps,
        _mm256_fnmadd_ps,
        _mm256_max_ps,
        _mm256_min_ps,
        _mm256_castps_si256,
        _mm256_castsi256_ps,
        _mm256_slli_epi32,
        _mm256_add_epi32,
        _mm256_sub_epi32,
        _mm256_set1_epi32
    );
    intrinsics!(
        __m512,
        16,
        _mm512_loadu_ps,
        _mm512_storeu_ps,
        _mm512_set1_ps,
        _mm512_add_ps,
        _mm512_sub_ps,
        _mm512_mul_ps,
        _mm512_fmadd_ps,
        _mm512_fnmadd_ps,
        _mm512_max_ps,
        _mm512_min_ps,
        _mm512_castps_si512,
        _mm512_castsi512_ps,
        _mm512_slli_epi32,
        _mm512_add_epi32,
        _mm512_sub_epi32,
        _mm512_set1_epi32,
        fn total(pair: [Self; 2]) -> f64 {
            // SAFETY: as in `splat`.
            unsafe { total(pair) }
        }
    );

    /// [`tree`](super::tree) on vectors: as plain code it takes longer than to sum a hundred numbers.
    #[target_feature(enable = "avx512f")]
    #[inline]
    fn total(pair: [__m512; 2]) -> f64 {
        let mut halves = [_mm256_setzero_ps(); 2];
        for i in 0..2 {
            let high = _mm256_castpd_ps(_mm512_extractf64x4_pd::<1>(_mm512_castps_pd(pair[i])));
            halves[i] = _mm256_add_ps(_mm512_castps512_ps256(pair[i]), high);
        }
        let eight = _mm256_add_ps(halves[0], halves[1]);
        let (low, high) = (_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
        let four = _mm256_add_pd(_mm256_cvtps_pd(low), _mm256_cvtps_pd(high));
        let two = _mm_add_pd(_mm256_castpd256_pd128(four), _mm256_extractf128_pd::<1>(four));
        _mm_cvtsd_f64(two) + _mm_cvtsd_f64(_mm_unpackhi_pd(two, two))
    }
}

/// Declares functions over a vector type `V`, and for each the function that calls it with vectors of this processor.
///
/// `fn f<V: 16>(…)` gets 16 lanes always; `fn f<V divides (channels)>(…)` the widest vectors that divide `channels`, which is a
/// multiple of 8.
macro_rules! with_vectors {
    ($($(#[$meta:meta])* $vis:vis fn $name:ident<V $(: $sixteen:tt)? $(divides ($channels:expr))?>(
        $($arg:ident: $ty:ty),* $(,)?
    ) $(-> $ret:ty)? $body:block)*) => { $(
        $(#[$meta])*
        #[allow(clippy::too_many_arguments)]
        $vis fn $name($($arg: $ty),*) $(-> $ret)? {
            use $crate::cpu::simd::{choose, Vector};
            #[inline(always)]
            fn body<V: Vector>($($arg: $ty),*) $(-> $ret)? $body
            #[cfg(target_arch = "x86_64")]
            {
                use $crate::cpu::microkernel::Simd;
                use std::arch::x86_64::{__m256, __m512};
                #[target_feature(enable = "avx512f,avx2,fma")]
                fn avx512($($arg: $ty),*) $(-> $ret)? {
                    body::<__m512>($($arg),*)
                }
                #[target_feature(enable = "avx2,fma")]
                fn avx2($($arg: $ty),*) $(-> $ret)? {
                    body::<choose!(__m256 $(, $sixteen)?)>($($arg),*)
                }
                let wide = true $(&& $channels % 16 == 0)?;
                match Simd::best() {
                    // SAFETY: the processor has the instructions.
                    Simd::Avx512 if wide => return unsafe { avx512($($arg),*) },
                    // SAFETY: the same.
                    Simd::Avx512 | Simd::Avx2 => return unsafe { avx2($($arg),*) },
                    Simd::Plain => {}
                }
            }
            body::<choose!($crate::cpu::simd::Plain $(, $sixteen)?)>($($arg),*)
        }
    )* };
}
pub(crate) use with_vectors;

/// A vector of eight lanes, or a pair of them where 16 are asked for.
macro_rules! choose {
    ($eight:ty) => { $eight };
    ($eight:ty, 16) => { $crate::cpu::simd::Pair<$eight> };
}
pub(crate) use choose;
