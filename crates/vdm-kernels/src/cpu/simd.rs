//! One code for vectors of every width, where the compiler's own vectorisation does not do: the transforms of convolutions.
//!
//! Every operation is correctly rounded, so the width does not change a bit of the result.

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
}

/// What every processor has.
#[derive(Clone, Copy)]
pub struct Plain([f32; 8]);

impl Vector for Plain {
    const LANES: usize = 8;

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller's promise; an array of f32 needs no other alignment than f32.
        Self(unsafe { *from.cast() })
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: as in `load`.
        unsafe { *to.cast() = self.0 };
    }

    #[inline(always)]
    fn splat(x: f32) -> Self {
        Self([x; 8])
    }

    #[inline(always)]
    fn add(self, b: Self) -> Self {
        Self(std::array::from_fn(|i| self.0[i] + b.0[i]))
    }

    #[inline(always)]
    fn sub(self, b: Self) -> Self {
        Self(std::array::from_fn(|i| self.0[i] - b.0[i]))
    }

    #[inline(always)]
    fn mul(self, b: Self) -> Self {
        Self(std::array::from_fn(|i| self.0[i] * b.0[i]))
    }

    #[inline(always)]
    fn fma(self, b: Self, c: Self) -> Self {
        Self(std::array::from_fn(|i| self.0[i].mul_add(b.0[i], c.0[i])))
    }

    #[inline(always)]
    fn negative_fma(self, b: Self, c: Self) -> Self {
        Self(std::array::from_fn(|i| (-self.0[i]).mul_add(b.0[i], c.0[i])))
    }
}

#[cfg(target_arch = "x86_64")]
macro_rules! intrinsics {
    ($type:ty, $lanes:literal, $load:ident, $store:ident, $splat:ident, $add:ident, $sub:ident, $mul:ident, $fma:ident,
     $negative_fma:ident) => {
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
        }
    };
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::Vector;
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
        _mm256_fnmadd_ps
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
        _mm512_fnmadd_ps
    );
}

/// Declares functions over a vector type `V`, and for each the function that calls it with the widest vectors that the
/// processor has and that divide the number of channels `vectors`, which is a multiple of 8.
macro_rules! with_vectors {
    ($($(#[$meta:meta])* fn $name:ident<V>(vectors: $channels:expr, $($arg:ident: $ty:ty),* $(,)?) $body:block)*) => { $(
        $(#[$meta])*
        #[allow(clippy::too_many_arguments)]
        fn $name($($arg: $ty),*) {
            #[inline(always)]
            fn body<V: Vector>($($arg: $ty),*) $body
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx2,fma")]
                fn avx512($($arg: $ty),*) {
                    body::<std::arch::x86_64::__m512>($($arg),*)
                }
                #[target_feature(enable = "avx2,fma")]
                fn avx2($($arg: $ty),*) {
                    body::<std::arch::x86_64::__m256>($($arg),*)
                }
                use $crate::cpu::microkernel::Simd;
                match Simd::best() {
                    // SAFETY: the processor has the instructions.
                    Simd::Avx512 if $channels % 16 == 0 => return unsafe { avx512($($arg),*) },
                    // SAFETY: the same.
                    Simd::Avx512 | Simd::Avx2 => return unsafe { avx2($($arg),*) },
                    Simd::Plain => {}
                }
            }
            body::<$crate::cpu::simd::Plain>($($arg),*)
        }
    )* };
}
pub(crate) use with_vectors;
