//! Between images with channels first and lanes of eight channels: transposition of 8 x 8 blocks.

/// Channels of a lane.
pub const LANES: usize = 8;

/// Eight channels of one pixel.
pub type Lane = [f32; LANES];

/// Pixel `i` of eight lines, which lie `plane` apart in `x`, becomes lane `i * stride` of `out`, for `n` pixels.
///
/// # Panics
/// If a slice is too short.
pub fn gather(x: &[f32], plane: usize, n: usize, out: &mut [Lane], stride: usize) {
    assert!(x.len() >= 7 * plane + n && (n == 0 || out.len() > (n - 1) * stride), "a line leaves its slice");
    let mut done = 0;
    #[cfg(target_arch = "x86_64")]
    if n >= LANES && is_x86_feature_detected!("avx") {
        while done < n {
            // The last block may do some pixels twice.
            let i = done.min(n - LANES);
            // SAFETY: AVX was just found; pixels i .. i + 8 are below n, so that the assertion above covers them.
            unsafe { avx::gather(x.as_ptr().add(i), plane, out.as_mut_ptr().add(i * stride), stride) };
            done = i + LANES;
        }
    }
    for i in done..n {
        for lane in 0..LANES {
            out[i * stride][lane] = x[lane * plane + i];
        }
    }
}

/// Lane `i * stride` of `from` plus `bias` becomes pixel `i` of eight lines, which lie `plane` apart in `y`; with `ADD` it
/// is added to what is there.
///
/// # Panics
/// If a slice is too short.
pub fn scatter<const ADD: bool>(from: &[Lane], stride: usize, bias: Lane, y: &mut [f32], plane: usize, n: usize) {
    assert!(y.len() >= 7 * plane + n && (n == 0 || from.len() > (n - 1) * stride), "a line leaves its slice");
    let mut done = 0;
    #[cfg(target_arch = "x86_64")]
    if n >= LANES && is_x86_feature_detected!("avx") {
        while done < n {
            if ADD && done > n - LANES {
                // A pixel that is done twice would be added twice.
                break;
            }
            let i = done.min(n - LANES);
            // SAFETY: as in `gather`.
            unsafe { avx::scatter::<ADD>(from.as_ptr().add(i * stride), stride, &bias, y.as_mut_ptr().add(i), plane) };
            done = i + LANES;
        }
    }
    for i in done..n {
        for lane in 0..LANES {
            let y = &mut y[lane * plane + i];
            let x = from[i * stride][lane] + bias[lane];
            *y = if ADD { *y + x } else { x };
        }
    }
}

#[cfg(target_arch = "x86_64")]
// Indices keep the unrolled loops plain to read beside the addresses.
#[allow(clippy::needless_range_loop)]
mod avx {
    use super::{LANES, Lane};
    use std::arch::x86_64::*;

    /// # Safety
    /// Eight floats at `x + lane * plane` and the lanes at `out + i * stride` are inside their allocations, for lanes and
    /// i below 8.
    #[target_feature(enable = "avx")]
    pub unsafe fn gather(x: *const f32, plane: usize, out: *mut Lane, stride: usize) {
        // SAFETY: the caller's promise.
        unsafe {
            let mut rows = [_mm256_setzero_ps(); LANES];
            for lane in 0..LANES {
                rows[lane] = _mm256_loadu_ps(x.add(lane * plane));
            }
            let rows = transpose(rows);
            for i in 0..LANES {
                _mm256_storeu_ps(out.add(i * stride).cast(), rows[i]);
            }
        }
    }

    /// # Safety
    /// As for [`gather`], the other way round.
    #[target_feature(enable = "avx")]
    pub unsafe fn scatter<const ADD: bool>(from: *const Lane, stride: usize, bias: &Lane, y: *mut f32, plane: usize) {
        // SAFETY: the caller's promise.
        unsafe {
            let bias = _mm256_loadu_ps(bias.as_ptr());
            let mut rows = [_mm256_setzero_ps(); LANES];
            for i in 0..LANES {
                rows[i] = _mm256_add_ps(_mm256_loadu_ps(from.add(i * stride).cast()), bias);
            }
            let rows = transpose(rows);
            for lane in 0..LANES {
                let y = y.add(lane * plane);
                _mm256_storeu_ps(y, if ADD { _mm256_add_ps(_mm256_loadu_ps(y), rows[lane]) } else { rows[lane] });
            }
        }
    }

    /// Pairs, then pairs of pairs within the halves of the registers, then the halves.
    #[target_feature(enable = "avx")]
    #[inline]
    fn transpose(r: [__m256; LANES]) -> [__m256; LANES] {
        let [r0, r1, r2, r3, r4, r5, r6, r7] = r;
        let (a0, a1) = (_mm256_unpacklo_ps(r0, r1), _mm256_unpackhi_ps(r0, r1));
        let (a2, a3) = (_mm256_unpacklo_ps(r2, r3), _mm256_unpackhi_ps(r2, r3));
        let (a4, a5) = (_mm256_unpacklo_ps(r4, r5), _mm256_unpackhi_ps(r4, r5));
        let (a6, a7) = (_mm256_unpacklo_ps(r6, r7), _mm256_unpackhi_ps(r6, r7));
        let (b0, b1) = (_mm256_shuffle_ps::<0x44>(a0, a2), _mm256_shuffle_ps::<0xee>(a0, a2));
        let (b2, b3) = (_mm256_shuffle_ps::<0x44>(a1, a3), _mm256_shuffle_ps::<0xee>(a1, a3));
        let (b4, b5) = (_mm256_shuffle_ps::<0x44>(a4, a6), _mm256_shuffle_ps::<0xee>(a4, a6));
        let (b6, b7) = (_mm256_shuffle_ps::<0x44>(a5, a7), _mm256_shuffle_ps::<0xee>(a5, a7));
        [
            _mm256_permute2f128_ps::<0x20>(b0, b4),
            _mm256_permute2f128_ps::<0x20>(b1, b5),
            _mm256_permute2f128_ps::<0x20>(b2, b6),
            _mm256_permute2f128_ps::<0x20>(b3, b7),
            _mm256_permute2f128_ps::<0x31>(b0, b4),
            _mm256_permute2f128_ps::<0x31>(b1, b5),
            _mm256_permute2f128_ps::<0x31>(b2, b6),
            _mm256_permute2f128_ps::<0x31>(b3, b7),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_become_lanes_and_back() {
        for n in [0, 1, 7, 8, 9, 15, 16, 28] {
            for stride in [1, 3] {
                let plane = n + 5;
                let x: Vec<f32> = (0..LANES * plane).map(|i| i as f32).collect();
                let mut lanes = vec![[-1.0; LANES]; n * stride];
                gather(&x, plane, n, &mut lanes, stride);
                for i in 0..n {
                    for lane in 0..LANES {
                        assert_eq!(lanes[i * stride][lane], x[lane * plane + i]);
                    }
                }
                let between = lanes.iter().enumerate().filter(|(i, _)| i % stride != 0);
                assert!(between.map(|(_, lane)| lane).all(|lane| *lane == [-1.0; LANES]));
                let bias = std::array::from_fn(|lane| 1000.0 * lane as f32);
                let mut y = vec![-1.0; x.len()];
                scatter::<false>(&lanes, stride, bias, &mut y, plane, n);
                for (i, y) in y.iter().enumerate() {
                    let (lane, pixel) = (i / plane, i % plane);
                    assert_eq!(*y, if pixel < n { x[i] + bias[lane] } else { -1.0 });
                }
                scatter::<true>(&lanes, stride, bias, &mut y, plane, n);
                for (i, y) in y.iter().enumerate() {
                    let (lane, pixel) = (i / plane, i % plane);
                    assert_eq!(*y, if pixel < n { 2.0 * (x[i] + bias[lane]) } else { -1.0 });
                }
            }
        }
    }

    #[test]
    #[should_panic(expected = "leaves its slice")]
    fn a_line_outside_its_slice_is_refused() {
        gather(&[0.0; 63], 8, 8, &mut [[0.0; LANES]; 8], 1);
    }
}
