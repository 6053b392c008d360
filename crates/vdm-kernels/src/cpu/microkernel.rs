//! Matrix products that read both factors where they lie, with the same bits on every machine.
//!
//! Every element of the result is one chain of fused multiply-adds from zero in the order of the inner dimension, whatever
//! the number of rows and columns and whatever the instruction set: lanes are different elements, never parts of one sum. So
//! AVX-512, AVX2 and the plain code, which is slow where the processor has no fused multiply-add, give the same bits.
//!
//! A tile of results stays in registers while the factors stream by. A right factor is copied, a few columns at a time, where
//! its rows are not dense, or lie far apart (rows at a multiple of 4096 bytes share one set of the cache).

use super::lanes::{LANES, Lines, gather};
use super::layout::Layout;

/// Numbers of a vector of the narrowest kind; a right factor's last columns are filled up to a multiple of it.
const NARROW: usize = LANES;
/// A right factor with rows at least so far apart is copied.
const FAR: usize = 256;
/// Most rows and columns of a tile, of any instruction set.
const MOST: (usize, usize) = (12, 32);

/// An instruction set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Simd {
    /// What every processor has.
    Plain,
    /// AVX2 with FMA: 8 numbers.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// AVX-512F: 16 numbers.
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

impl Simd {
    /// Those of this processor, the best first.
    pub fn all() -> impl Iterator<Item = Self> {
        #[cfg(target_arch = "x86_64")]
        let found = {
            let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
            [(avx2 && is_x86_feature_detected!("avx512f"), Self::Avx512), (avx2, Self::Avx2), (true, Self::Plain)]
        };
        #[cfg(not(target_arch = "x86_64"))]
        let found = [(true, Self::Plain)];
        found.into_iter().filter_map(|(there, simd)| there.then_some(simd))
    }

    /// The best of this processor.
    pub fn best() -> Self {
        Self::all().next().unwrap_or(Self::Plain)
    }

    /// Rows and columns of a register tile.
    fn tile(self) -> (usize, usize) {
        match self {
            Self::Plain => (4, NARROW),
            // 12 of the 16 registers.
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => (6, 16),
            // 24 of the 32 registers.
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => MOST,
        }
    }
}

/// `c = a b`, or `c += a b` with `accumulate`. The columns of `c` are dense.
///
/// # Safety
/// The layouts must lie inside their slices and agree with each other, `lc.col_stride` must be 1, and the processor must
/// have the instruction set.
#[allow(clippy::too_many_arguments)]
pub unsafe fn product(
    simd: Simd,
    accumulate: bool,
    a: &[f32],
    la: Layout,
    b: &[f32],
    lb: Layout,
    c: &mut [f32],
    lc: Layout,
) {
    thread_local! {
        static PANEL: std::cell::Cell<Vec<f32>> = const { std::cell::Cell::new(Vec::new()) };
    }
    if la.cols == 0 {
        // A chain of nothing.
        if !accumulate {
            (0..lc.rows).for_each(|r| c[lc.offset + r * lc.row_stride..][..lc.cols].fill(0.0));
        }
        return;
    }
    let (rows_of_tile, most_cols) = simd.tile();
    let mut panel = PANEL.take();
    let a = a[la.offset..].as_ptr();
    let mut col = 0;
    while col < lc.cols {
        let left = lc.cols - col;
        // The widest vectors that are full, and at the end a narrow one.
        let width = if left >= most_cols { most_cols } else { next_width(left, most_cols) };
        let whole = left >= width;
        let (mut from, mut stride) = (b[lb.offset + col * lb.col_stride..].as_ptr(), lb.row_stride);
        if !whole || lb.col_stride != 1 || (stride >= FAR && lc.rows > rows_of_tile) {
            pack(&b[lb.offset + col * lb.col_stride..], lb, left.min(width), width, &mut panel);
            (from, stride) = (panel.as_ptr(), width);
        }
        let tile =
            Tile { inner: la.cols, a_row: la.row_stride, a_col: la.col_stride, b_row: stride, c_row: lc.row_stride };
        // Tiles of about the same height: one of a single row waits for each of its sums.
        let tiles = lc.rows.div_ceil(rows_of_tile);
        for tile_row in 0..tiles {
            let row = tile_row * lc.rows / tiles;
            let rows = (tile_row + 1) * lc.rows / tiles - row;
            // SAFETY: rows `row .. row + rows` and columns `col .. col + width` are inside the layouts, which are inside
            // the slices by the caller's promise; `from` is at row 0 and column `col` of `b` or of its copy. Where `c` has
            // fewer columns than the tile, the tile's result goes to a buffer of the largest tile's size first.
            unsafe {
                let a = a.add(row * la.row_stride);
                let at = lc.offset + row * lc.row_stride + col;
                if whole {
                    tile.run(simd, rows, width, accumulate, a, from, c.as_mut_ptr().add(at));
                } else {
                    let mut buffer = [0f32; MOST.0 * NARROW];
                    Tile { c_row: width, ..tile }.run(simd, rows, width, false, a, from, buffer.as_mut_ptr());
                    for (r, sums) in buffer.chunks_exact(width).take(rows).enumerate() {
                        for (c, sum) in c[at + r * lc.row_stride..].iter_mut().zip(&sums[..left]) {
                            *c = if accumulate { *c + sum } else { *sum };
                        }
                    }
                }
            }
        }
        col += width;
    }
    PANEL.set(panel);
}

/// The width of the next tile where fewer than `most` columns are left.
fn next_width(left: usize, most: usize) -> usize {
    let mut width = most;
    while width > left && width > NARROW {
        width /= 2;
    }
    width
}

/// The first `cols` columns of `b`, row by row, filled up with zeros to `width`.
fn pack(b: &[f32], lb: Layout, cols: usize, width: usize, panel: &mut Vec<f32>) {
    // What the copy overwrites is not zeroed before: to do so took a hundredth of a training step.
    let len = lb.rows * width;
    if panel.len() < len {
        panel.resize(len, 0.0);
    }
    let panel = &mut panel[..len];
    if cols < width {
        panel.chunks_exact_mut(width).for_each(|row| row[cols..].fill(0.0));
    }
    if lb.col_stride == 1 {
        for (row, to) in panel.chunks_exact_mut(width).enumerate() {
            to[..cols].copy_from_slice(&b[row * lb.row_stride..][..cols]);
        }
    } else {
        // Eight columns at a time where they lie dense.
        let together = if lb.row_stride == 1 { cols - cols % LANES } else { 0 };
        let lanes = panel.as_chunks_mut::<LANES>().0;
        for col in (0..together).step_by(LANES) {
            let stride = width / LANES;
            let lines = Lines { channels: LANES, rows: 1, width: lb.rows, plane: lb.col_stride, row_stride: 0, stride };
            gather(&b[col * lb.col_stride..], lines, &mut lanes[col / LANES..]);
        }
        for col in together..cols {
            let from = &b[col * lb.col_stride..];
            for (row, to) in panel.chunks_exact_mut(width).enumerate() {
                to[col] = from[row * lb.row_stride];
            }
        }
    }
}

/// Strides of a register tile's factors and result.
#[derive(Clone, Copy)]
struct Tile {
    inner: usize,
    a_row: usize,
    a_col: usize,
    b_row: usize,
    c_row: usize,
}

impl Tile {
    /// # Safety
    /// `a`, `b`, `c` point to the tile's first elements; all of the tile is inside the allocations. The processor has the
    /// instruction set, and `rows` and `width` are at most those of its tile.
    #[allow(clippy::too_many_arguments)]
    unsafe fn run(
        self,
        simd: Simd,
        rows: usize,
        width: usize,
        accumulate: bool,
        a: *const f32,
        b: *const f32,
        c: *mut f32,
    ) {
        // SAFETY: the caller's promise.
        unsafe {
            match simd {
                Simd::Plain => self.plain(rows, accumulate, a, b, c),
                #[cfg(target_arch = "x86_64")]
                Simd::Avx2 => avx2::run(self, rows, width, accumulate, a, b, c),
                #[cfg(target_arch = "x86_64")]
                Simd::Avx512 if width > NARROW => avx512::run(self, rows, width, accumulate, a, b, c),
                #[cfg(target_arch = "x86_64")]
                Simd::Avx512 => {
                    for first in (0..rows).step_by(6) {
                        let (a, c) = (a.add(first * self.a_row), c.add(first * self.c_row));
                        avx2::run(self, (rows - first).min(6), width, accumulate, a, b, c);
                    }
                }
            }
        }
    }

    /// # Safety
    /// As for [`run`](Self::run), for a tile of `NARROW` columns.
    unsafe fn plain(self, rows: usize, accumulate: bool, a: *const f32, b: *const f32, c: *mut f32) {
        for r in 0..rows {
            let mut sums = [0f32; NARROW];
            // SAFETY: every address is an element of the tile's rows, columns and inner dimension.
            unsafe {
                for k in 0..self.inner {
                    let (left, right) = (*a.add(r * self.a_row + k * self.a_col), b.add(k * self.b_row));
                    for (v, sum) in sums.iter_mut().enumerate() {
                        *sum = left.mul_add(*right.add(v), *sum);
                    }
                }
                for (v, sum) in sums.iter().enumerate() {
                    let to = c.add(r * self.c_row + v);
                    *to = if accumulate { *to + sum } else { *sum };
                }
            }
        }
    }
}

/// A tile with vectors: the same code for each width of them.
#[cfg(target_arch = "x86_64")]
macro_rules! tiles {
    ($name:ident, $features:literal, $lanes:literal, [$($rows:literal)*], $zero:ident, $load:ident, $store:ident, $set:ident,
     $fma:ident, $add:ident) => {
        mod $name {
            use super::Tile;
            use std::arch::x86_64::*;

            /// # Safety
            /// As for [`Tile::run`].
            #[target_feature(enable = $features)]
            pub unsafe fn run(
                tile: Tile,
                rows: usize,
                width: usize,
                accumulate: bool,
                a: *const f32,
                b: *const f32,
                c: *mut f32,
            ) {
                // SAFETY: the caller's promise.
                unsafe {
                    match (rows, width == $lanes) {
                        $(
                            ($rows, true) => vectors::<$rows, 1>(tile, accumulate, a, b, c),
                            ($rows, false) => vectors::<$rows, 2>(tile, accumulate, a, b, c),
                        )*
                        _ => unreachable!("a tile has no more rows"),
                    }
                }
            }

            /// # Safety
            /// As for [`Tile::run`].
            #[target_feature(enable = $features)]
            #[inline]
            #[allow(clippy::needless_range_loop)]
            unsafe fn vectors<const R: usize, const V: usize>(
                tile: Tile,
                accumulate: bool,
                a: *const f32,
                b: *const f32,
                c: *mut f32,
            ) {
                // SAFETY: every address is an element of the tile's rows, columns and inner dimension.
                unsafe {
                    let mut sums = [[$zero(); V]; R];
                    for k in 0..tile.inner {
                        let (a, b) = (a.add(k * tile.a_col), b.add(k * tile.b_row));
                        let mut right = [$zero(); V];
                        for v in 0..V {
                            right[v] = $load(b.add(v * $lanes));
                        }
                        for r in 0..R {
                            let left = $set(*a.add(r * tile.a_row));
                            for v in 0..V {
                                sums[r][v] = $fma(left, right[v], sums[r][v]);
                            }
                        }
                    }
                    for r in 0..R {
                        for v in 0..V {
                            let to = c.add(r * tile.c_row + v * $lanes);
                            let sum = if accumulate { $add($load(to), sums[r][v]) } else { sums[r][v] };
                            $store(to, sum);
                        }
                    }
                }
            }
        }
    };
}

#[cfg(target_arch = "x86_64")]
tiles!(
    avx2, "avx2,fma", 8, [1 2 3 4 5 6], _mm256_setzero_ps, _mm256_loadu_ps, _mm256_storeu_ps, _mm256_set1_ps,
    _mm256_fmadd_ps, _mm256_add_ps
);
#[cfg(target_arch = "x86_64")]
tiles!(
    avx512, "avx512f", 16, [1 2 3 4 5 6 7 8 9 10 11 12], _mm512_setzero_ps, _mm512_loadu_ps, _mm512_storeu_ps,
    _mm512_set1_ps, _mm512_fmadd_ps, _mm512_add_ps
);

#[cfg(test)]
mod tests {
    use super::*;

    /// Every instruction set of this processor gives the bits of a chain of `mul_add`, for all kinds of layouts.
    #[test]
    fn every_instruction_set_gives_the_same_bits() {
        let number = |i: usize| ((i * 2_654_435_761 % 1000) as f32 - 500.0) * 1.7e-3;
        for (m, k, n) in [(1, 1, 1), (2, 3, 5), (7, 300, 33), (13, 17, 64), (5, 40, 260), (12, 9, 15), (3, 0, 4)] {
            let a: Vec<f32> = (0..m * k).map(number).collect();
            let b: Vec<f32> = (0..k * n).map(|i| number(i + 7)).collect();
            let first: Vec<f32> = (0..m * n).map(|i| number(i + 3)).collect();
            for accumulate in [false, true] {
                let mut want = first.clone();
                for r in 0..m {
                    for c in 0..n {
                        let sum = (0..k).fold(0f32, |sum, i| a[r * k + i].mul_add(b[i * n + c], sum));
                        let to = &mut want[r * n + c];
                        *to = if accumulate { *to + sum } else { sum };
                    }
                }
                let (la, lb, lc) = (Layout::row_major(m, k), Layout::row_major(k, n), Layout::row_major(m, n));
                let transposed = |x: &[f32], l: Layout| {
                    let mut out = vec![0f32; x.len()];
                    for r in 0..l.rows {
                        for c in 0..l.cols {
                            out[c * l.rows + r] = x[r * l.cols + c];
                        }
                    }
                    out
                };
                let (at, bt) = (transposed(&a, la), transposed(&b, lb));
                let (lat, lbt) = (la.transposed_copy().transposed(), lb.transposed_copy().transposed());
                for simd in Simd::all() {
                    for (a, la, b, lb) in
                        [(&a, la, &b, lb), (&at, lat, &b, lb), (&a, la, &bt, lbt), (&at, lat, &bt, lbt)]
                    {
                        let mut c = first.clone();
                        // SAFETY: the layouts are those of the vectors; `simd` is of this processor.
                        unsafe { product(simd, accumulate, a, la, b, lb, &mut c, lc) };
                        assert!(c.iter().zip(&want).all(|(c, w)| c.to_bits() == w.to_bits()), "{simd:?} {m} {k} {n}");
                    }
                }
            }
        }
    }
}
