//! The rounds of the Philox generator for many counters side by side, written with vector instructions: from plain code the
//! compiler vectorises only some of the steps, and stores the words to memory between them.

use super::microkernel::Simd;

/// Rounds of the generator.
pub const ROUNDS: usize = 10;
/// What two words of a counter are multiplied by in each round.
pub const FACTORS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
/// What is added to the key after each round.
pub const KEY_STEPS: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];

/// Counters that are treated side by side.
pub const WIDE: usize = 16;

/// The four words of each counter, word by word.
pub type Words = [[u32; WIDE]; 4];

/// What the generator makes of counters under a key (Salmon et al. 2011, section 3.3).
#[inline(always)]
pub fn rounds(key: [u32; 2], counters: &Words) -> Words {
    match Simd::best() {
        // SAFETY: the processor has the instructions.
        #[cfg(target_arch = "x86_64")]
        Simd::Avx512 => unsafe { avx512::rounds(key, counters) },
        // SAFETY: the same.
        #[cfg(target_arch = "x86_64")]
        Simd::Avx2 => unsafe { avx2::rounds(key, counters) },
        Simd::Plain => plain(key, counters),
    }
}

fn plain(key: [u32; 2], counters: &Words) -> Words {
    let mut out = *counters;
    for lane in 0..WIDE {
        let [mut c0, mut c1, mut c2, mut c3] = [0, 1, 2, 3].map(|word| counters[word][lane]);
        for round in 0..ROUNDS as u32 {
            let key = |i: usize| key[i].wrapping_add(KEY_STEPS[i].wrapping_mul(round));
            let (p0, p1) = (u64::from(c0) * u64::from(FACTORS[0]), u64::from(c2) * u64::from(FACTORS[1]));
            (c0, c1) = ((p1 >> 32) as u32 ^ c1 ^ key(0), p1 as u32);
            (c2, c3) = ((p0 >> 32) as u32 ^ c3 ^ key(1), p0 as u32);
        }
        for (word, c) in [c0, c1, c2, c3].into_iter().enumerate() {
            out[word][lane] = c;
        }
    }
    out
}

/// Every word stands in the low half of 64 bits, whatever the high half holds: the vector units multiply such halves to 64 bits.
#[cfg(target_arch = "x86_64")]
macro_rules! rounds {
    ($name:ident, $features:literal, $lanes:literal, $zero:ident, $widen:ident($from:ty), $splat:ident, $multiply:ident,
     $shift:ident, $xor:ident, $narrow:ident) => {
        mod $name {
            use super::*;
            use std::arch::x86_64::*;

            /// # Safety
            /// The processor has the instructions.
            #[target_feature(enable = $features)]
            pub unsafe fn rounds(key: [u32; 2], counters: &Words) -> Words {
                const VECTORS: usize = WIDE / $lanes;
                let mut c = [[$zero(); VECTORS]; 4];
                for word in 0..4 {
                    for v in 0..VECTORS {
                        // SAFETY: `VECTORS` vectors have the lanes of a word.
                        c[word][v] = unsafe {
                            $widen((counters[word].as_ptr().add(v * $lanes) as *const $from).read_unaligned())
                        };
                    }
                }
                let [a, b] = [$splat(i64::from(FACTORS[0])), $splat(i64::from(FACTORS[1]))];
                let [mut k0, mut k1] = key;
                for _ in 0..ROUNDS {
                    let (x0, x1) = ($splat(i64::from(k0)), $splat(i64::from(k1)));
                    for v in 0..VECTORS {
                        let (p0, p1) = ($multiply(c[0][v], a), $multiply(c[2][v], b));
                        c[0][v] = $xor($xor($shift::<32>(p1), c[1][v]), x0);
                        c[1][v] = p1;
                        c[2][v] = $xor($xor($shift::<32>(p0), c[3][v]), x1);
                        c[3][v] = p0;
                    }
                    k0 = k0.wrapping_add(KEY_STEPS[0]);
                    k1 = k1.wrapping_add(KEY_STEPS[1]);
                }
                let mut out = [[0; WIDE]; 4];
                for word in 0..4 {
                    for v in 0..VECTORS {
                        // SAFETY: as above.
                        unsafe {
                            (out[word].as_mut_ptr().add(v * $lanes) as *mut $from).write_unaligned($narrow(c[word][v]))
                        };
                    }
                }
                out
            }
        }
    };
}

#[cfg(target_arch = "x86_64")]
rounds!(
    avx512,
    "avx512f",
    8,
    _mm512_setzero_si512,
    _mm512_cvtepu32_epi64(__m256i),
    _mm512_set1_epi64,
    _mm512_mul_epu32,
    _mm512_srli_epi64,
    _mm512_xor_si512,
    _mm512_cvtepi64_epi32
);
#[cfg(target_arch = "x86_64")]
rounds!(
    avx2,
    "avx2",
    4,
    _mm256_setzero_si256,
    _mm256_cvtepu32_epi64(__m128i),
    _mm256_set1_epi64x,
    _mm256_mul_epu32,
    _mm256_srli_epi64,
    _mm256_xor_si256,
    narrow
);

/// The low halves of four words of 64 bits.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
#[inline]
fn narrow(words: std::arch::x86_64::__m256i) -> std::arch::x86_64::__m128i {
    use std::arch::x86_64::{_mm256_castsi256_si128, _mm256_permutevar8x32_epi32, _mm256_setr_epi32};
    _mm256_castsi256_si128(_mm256_permutevar8x32_epi32(words, _mm256_setr_epi32(0, 2, 4, 6, 0, 2, 4, 6)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors_give_the_words_of_plain_code() {
        let counters: Words = std::array::from_fn(|word| {
            std::array::from_fn(|lane| ((word * WIDE + lane) as u32).wrapping_mul(2_654_435_761))
        });
        for key in [[0, 0], [u32::MAX, 7], [0x3141_5926, 0x5358_9793]] {
            let want = plain(key, &counters);
            #[cfg(target_arch = "x86_64")]
            for simd in Simd::all() {
                // SAFETY: the processor has the instructions.
                let got = match simd {
                    Simd::Plain => continue,
                    Simd::Avx2 => unsafe { avx2::rounds(key, &counters) },
                    Simd::Avx512 => unsafe { avx512::rounds(key, &counters) },
                };
                assert_eq!(got, want, "{simd:?}");
            }
            assert_eq!(rounds(key, &counters), want);
        }
    }
}
