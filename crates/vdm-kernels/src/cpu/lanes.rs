//! Between images with channels first and lanes of eight channels: transposition of blocks of 8 channels and 4 pixels.

/// Channels of a lane.
pub const LANES: usize = 8;

/// Eight channels of one pixel.
pub type Lane = [f32; LANES];

/// Up to eight channels of an image, channels first, and where their pixels lie as lanes.
#[derive(Clone, Copy, Debug)]
pub struct Lines {
    /// Channels, 1 to 8.
    pub channels: usize,
    /// Rows of the image.
    pub rows: usize,
    /// Pixels of a row.
    pub width: usize,
    /// From one channel to the next in the image.
    pub plane: usize,
    /// From one row to the next, in lanes.
    pub row_stride: usize,
    /// From one pixel to the next, in lanes.
    pub stride: usize,
}

impl Lines {
    /// # Panics
    /// If the pixels do not fit into an image of `numbers` or into `lanes` lanes.
    fn check(&self, numbers: usize, lanes: usize) {
        assert!((1..=LANES).contains(&self.channels), "{} channels in a lane", self.channels);
        if self.rows > 0 && self.width > 0 {
            let image = (self.channels - 1) * self.plane + self.rows * self.width;
            let last = (self.rows - 1) * self.row_stride + (self.width - 1) * self.stride;
            assert!(image <= numbers && last < lanes, "a line leaves its slice");
        }
    }
}

/// The pixels of `x` become lanes of `out`; channels that the image has not become 0.
///
/// # Panics
/// If a slice is too short.
pub fn gather(x: &[f32], lines: Lines, out: &mut [Lane]) {
    lines.check(x.len(), out.len());
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx") {
        // SAFETY: AVX was just found, and `check` has seen that all pixels are inside the slices.
        unsafe { avx::gather(x.as_ptr(), lines, out.as_mut_ptr()) };
        return;
    }
    for row in 0..lines.rows {
        for i in 0..lines.width {
            let to = &mut out[row * lines.row_stride + i * lines.stride];
            for (lane, to) in to.iter_mut().enumerate() {
                let there = lane < lines.channels;
                *to = if there { x[lane * lines.plane + row * lines.width + i] } else { 0.0 };
            }
        }
    }
}

/// What is added to numbers before they are written.
#[derive(Clone, Copy, Debug)]
pub enum Base<'a> {
    /// Nothing.
    Nothing,
    /// What is there already.
    There,
    /// Other numbers in the same places.
    Of(&'a [f32]),
}

impl<'a> Base<'a> {
    /// The part that belongs to the numbers from `first` on.
    pub fn from(self, first: usize) -> Self {
        match self {
            Self::Of(base) => Self::Of(&base[first..]),
            other => other,
        }
    }
}

/// Lanes of `from` plus `bias` plus `base` become the pixels of `y`.
///
/// # Panics
/// If a slice is too short.
pub fn scatter(from: &[Lane], lines: Lines, bias: Lane, base: Base, y: &mut [f32]) {
    lines.check(y.len(), from.len());
    if let Base::Of(base) = base {
        lines.check(base.len(), from.len());
    }
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx") {
        let y = y.as_mut_ptr();
        // SAFETY: as in `gather`; so for `base`, which may be `y`.
        unsafe {
            match base {
                Base::Nothing => avx::scatter::<false>(from.as_ptr(), lines, &bias, y, y),
                Base::There => avx::scatter::<true>(from.as_ptr(), lines, &bias, y, y),
                Base::Of(base) => avx::scatter::<true>(from.as_ptr(), lines, &bias, base.as_ptr(), y),
            }
        };
        return;
    }
    for row in 0..lines.rows {
        for i in 0..lines.width {
            let from = &from[row * lines.row_stride + i * lines.stride];
            for lane in 0..lines.channels {
                let at = lane * lines.plane + row * lines.width + i;
                let x = from[lane] + bias[lane];
                y[at] = match base {
                    Base::Nothing => x,
                    Base::There => y[at] + x,
                    Base::Of(base) => base[at] + x,
                };
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
// Indices keep the unrolled loops plain to read beside the addresses.
#[allow(clippy::needless_range_loop)]
mod avx {
    use super::{LANES, Lane, Lines};
    use std::arch::x86_64::*;

    /// Pixels that are moved at a time: the numbers of a channel are then half a vector, and the halves of vectors are
    /// put together while they are read and written.
    const QUAD: usize = 4;

    /// # Safety
    /// [`Lines::check`] holds for the allocations.
    #[target_feature(enable = "avx")]
    pub unsafe fn gather(x: *const f32, lines: Lines, out: *mut Lane) {
        for row in 0..lines.rows {
            // SAFETY: only the row's pixels are read, and only their lanes written.
            unsafe {
                let (x, out) = (x.add(row * lines.width), out.add(row * lines.row_stride));
                let whole = if lines.channels == LANES { lines.width - lines.width % QUAD } else { 0 };
                for first in (0..whole).step_by(QUAD) {
                    let x = x.add(first);
                    let mut halves = [_mm256_setzero_ps(); QUAD];
                    for lane in 0..QUAD {
                        halves[lane] = joined(
                            _mm_loadu_ps(x.add(lane * lines.plane)),
                            _mm_loadu_ps(x.add((lane + QUAD) * lines.plane)),
                        );
                    }
                    let pixels = transpose(halves);
                    for i in 0..QUAD {
                        _mm256_storeu_ps(out.add((first + i) * lines.stride).cast(), pixels[i]);
                    }
                }
                for first in (whole..lines.width).step_by(QUAD) {
                    let n = QUAD.min(lines.width - first);
                    let (x, mask) = (x.add(first), mask(n));
                    let mut rows = [_mm_setzero_ps(); LANES];
                    for lane in 0..lines.channels {
                        rows[lane] = _mm_maskload_ps(x.add(lane * lines.plane), mask);
                    }
                    let mut halves = [_mm256_setzero_ps(); QUAD];
                    for lane in 0..QUAD {
                        halves[lane] = joined(rows[lane], rows[lane + QUAD]);
                    }
                    let pixels = transpose(halves);
                    for i in 0..n {
                        _mm256_storeu_ps(out.add((first + i) * lines.stride).cast(), pixels[i]);
                    }
                }
            }
        }
    }

    /// # Safety
    /// As for [`gather`], the other way round; with `ADD` also for `base`, which may be `y`.
    #[target_feature(enable = "avx")]
    pub unsafe fn scatter<const ADD: bool>(
        from: *const Lane,
        lines: Lines,
        bias: &Lane,
        base: *const f32,
        y: *mut f32,
    ) {
        // SAFETY: a lane is a vector.
        let bias = unsafe { _mm256_loadu_ps(bias.as_ptr()) };
        for row in 0..lines.rows {
            // SAFETY: only the row's pixels are written, and only their lanes read.
            unsafe {
                let (from, y) = (from.add(row * lines.row_stride), y.add(row * lines.width));
                let base = base.wrapping_add(row * lines.width);
                let whole = if lines.channels == LANES { lines.width - lines.width % QUAD } else { 0 };
                for first in (0..whole).step_by(QUAD) {
                    let (y, base) = (y.add(first), base.wrapping_add(first));
                    let mut pixels = [_mm256_setzero_ps(); QUAD];
                    for i in 0..QUAD {
                        pixels[i] = _mm256_add_ps(_mm256_loadu_ps(from.add((first + i) * lines.stride).cast()), bias);
                    }
                    let halves = transpose(pixels);
                    for lane in 0..QUAD {
                        let (low, high) = (lane * lines.plane, (lane + QUAD) * lines.plane);
                        let sum = if ADD {
                            let base = joined(_mm_loadu_ps(base.add(low)), _mm_loadu_ps(base.add(high)));
                            _mm256_add_ps(base, halves[lane])
                        } else {
                            halves[lane]
                        };
                        _mm_storeu_ps(y.add(low), _mm256_castps256_ps128(sum));
                        _mm_storeu_ps(y.add(high), _mm256_extractf128_ps::<1>(sum));
                    }
                }
                for first in (whole..lines.width).step_by(QUAD) {
                    let n = QUAD.min(lines.width - first);
                    let (y, base, mask) = (y.add(first), base.wrapping_add(first), mask(n));
                    let mut pixels = [_mm256_setzero_ps(); QUAD];
                    for i in 0..n {
                        pixels[i] = _mm256_add_ps(_mm256_loadu_ps(from.add((first + i) * lines.stride).cast()), bias);
                    }
                    let halves = transpose(pixels);
                    for lane in 0..lines.channels {
                        let at = lane * lines.plane;
                        let x = if lane < QUAD {
                            _mm256_castps256_ps128(halves[lane])
                        } else {
                            _mm256_extractf128_ps::<1>(halves[lane - QUAD])
                        };
                        let sum = if ADD { _mm_add_ps(_mm_maskload_ps(base.add(at), mask), x) } else { x };
                        _mm_maskstore_ps(y.add(at), mask, sum);
                    }
                }
            }
        }
    }

    /// A mask of the first `n` of four numbers. It is read at an offset: one that was just written would be waited for.
    #[target_feature(enable = "avx")]
    #[inline]
    fn mask(n: usize) -> __m128i {
        static FIRST: [i32; 2 * QUAD] = [-1, -1, -1, -1, 0, 0, 0, 0];
        assert!(n <= QUAD, "a mask has four numbers");
        // SAFETY: from `QUAD - n` on there are at least `QUAD` numbers.
        unsafe { _mm_loadu_si128(FIRST.as_ptr().add(QUAD - n).cast()) }
    }

    /// Two halves as one vector.
    #[target_feature(enable = "avx")]
    #[inline]
    fn joined(low: __m128, high: __m128) -> __m256 {
        _mm256_insertf128_ps::<1>(_mm256_castps128_ps256(low), high)
    }

    /// The transposes of the 4 x 4 numbers in the low and in the high halves.
    #[target_feature(enable = "avx")]
    #[inline]
    fn transpose([r0, r1, r2, r3]: [__m256; QUAD]) -> [__m256; QUAD] {
        let (a0, a1) = (_mm256_unpacklo_ps(r0, r1), _mm256_unpackhi_ps(r0, r1));
        let (a2, a3) = (_mm256_unpacklo_ps(r2, r3), _mm256_unpackhi_ps(r2, r3));
        [
            _mm256_shuffle_ps::<0x44>(a0, a2),
            _mm256_shuffle_ps::<0xee>(a0, a2),
            _mm256_shuffle_ps::<0x44>(a1, a3),
            _mm256_shuffle_ps::<0xee>(a1, a3),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_become_lanes_and_back() {
        for (width, rows) in [(1, 1), (1, 5), (7, 7), (8, 2), (9, 3), (15, 1), (16, 2), (28, 2)] {
            for (channels, stride, between) in [(8, 1, 0), (8, 3, 5), (1, 2, 0), (5, 1, 1)] {
                let plane = rows * width + 3;
                let row_stride = width * stride + between;
                let lines = Lines { channels, rows, width, plane, row_stride, stride };
                let x: Vec<f32> = (0..(channels - 1) * plane + rows * width).map(|i| 1.0 + i as f32).collect();
                let untouched = [-1.0; LANES];
                let mut lanes = vec![untouched; rows * row_stride];
                gather(&x, lines, &mut lanes);
                let mut want = vec![untouched; lanes.len()];
                for row in 0..rows {
                    for i in 0..width {
                        want[row * row_stride + i * stride] =
                            std::array::from_fn(
                                |lane| {
                                    if lane < channels { x[lane * plane + row * width + i] } else { 0.0 }
                                },
                            );
                    }
                }
                assert_eq!(lanes, want);
                let bias: Lane = std::array::from_fn(|lane| 1000.0 * lane as f32);
                for (base, number) in [(Base::Nothing, 0.0), (Base::There, -1.0), (Base::Of(&vec![7.0; x.len()]), 7.0)]
                {
                    let mut y = vec![-1.0; x.len()];
                    scatter(&lanes, lines, bias, base, &mut y);
                    for (i, y) in y.iter().enumerate() {
                        let (lane, pixel) = (i / plane, i % plane);
                        assert_eq!(*y, if pixel < rows * width { x[i] + bias[lane] + number } else { -1.0 });
                    }
                }
            }
        }
    }

    #[test]
    #[should_panic(expected = "leaves its slice")]
    fn a_line_outside_its_slice_is_refused() {
        let lines = Lines { channels: 8, rows: 1, width: 8, plane: 8, row_stride: 8, stride: 1 };
        gather(&[0.0; 63], lines, &mut [[0.0; LANES]; 8]);
    }
}
