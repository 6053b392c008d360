//! The patches of an image that a convolution looks at, as the columns of a matrix, and back.

/// Where the patches of an image lie.
#[derive(Clone, Copy, Debug)]
pub struct Patches {
    /// Channels of the image.
    pub channels: usize,
    /// Its height.
    pub h: usize,
    /// Its width.
    pub w: usize,
    /// Side of a patch; the image is framed by (k - 1) / 2 zeros.
    pub k: usize,
    /// Pixels from one patch to the next.
    pub stride: usize,
}

impl Patches {
    /// Patches of a column and of a row of the image.
    pub fn output(&self) -> [usize; 2] {
        let side = |n: usize| (n + 2 * self.margin()).saturating_sub(self.k) / self.stride + 1;
        [side(self.h), side(self.w)]
    }

    fn margin(&self) -> usize {
        (self.k - 1) / 2
    }

    fn len(&self) -> usize {
        let [h, w] = self.output();
        self.channels * self.k * self.k * h * w
    }

    /// The patches whose pixel `tap` of a row of `n` pixels is inside the image, and the pixel of the first of them.
    fn inside(&self, tap: usize, n: usize, patches: usize) -> (std::ops::Range<usize>, usize) {
        let margin = self.margin();
        let first = margin.saturating_sub(tap).div_ceil(self.stride);
        let end = (n + margin).saturating_sub(tap).div_ceil(self.stride).min(patches).max(first);
        (first..end, (first * self.stride + tap).saturating_sub(margin))
    }

    /// Calls `each(line, pixels)` for every run of patches in a row that have one tap inside the image: where they are among
    /// the columns, and the image's pixel for the first; further ones are `stride` apart.
    fn for_each_line(&self, mut each: impl FnMut(std::ops::Range<usize>, usize)) {
        let [h, w] = self.output();
        for c in 0..self.channels {
            for ky in 0..self.k {
                let (rows, first_row) = self.inside(ky, self.h, h);
                for kx in 0..self.k {
                    let (cols, first_col) = self.inside(kx, self.w, w);
                    if cols.is_empty() {
                        continue;
                    }
                    let at = ((c * self.k + ky) * self.k + kx) * h * w;
                    for (i, row) in rows.clone().enumerate() {
                        let line = at + row * w;
                        let pixel = (c * self.h + first_row + i * self.stride) * self.w + first_col;
                        each(line + cols.start..line + cols.end, pixel);
                    }
                }
            }
        }
    }
}

/// Room for the columns in `buffer`, whatever is in it.
pub fn room<'a>(p: &Patches, buffer: &'a mut Vec<f32>) -> &'a mut [f32] {
    if buffer.len() < p.len() {
        buffer.resize(p.len(), 0.0);
    }
    &mut buffer[..p.len()]
}

/// `x [channels, h, w]` as `[channels * k * k, patches]`, in `buffer`.
pub fn unroll<'a>(p: &Patches, x: &[f32], buffer: &'a mut Vec<f32>) -> &'a [f32] {
    let columns = room(p, buffer);
    columns.fill(0.0);
    p.for_each_line(|line, pixel| {
        let line = &mut columns[line];
        if p.stride == 1 {
            line.copy_from_slice(&x[pixel..pixel + line.len()]);
        } else {
            line.iter_mut().zip(x[pixel..].iter().step_by(p.stride)).for_each(|(to, x)| *to = *x);
        }
    });
    columns
}

/// The derivative of [`unroll`]: `dx [channels, h, w]` is overwritten with the sums over the patches that have a pixel.
pub fn roll(p: &Patches, columns: &[f32], dx: &mut [f32]) {
    dx.fill(0.0);
    p.for_each_line(|line, pixel| {
        dx[pixel..].iter_mut().step_by(p.stride).zip(&columns[line]).for_each(|(dx, d)| *dx += d);
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every patch by its definition, for sides of kernel, stride and image that fit and that do not.
    #[test]
    fn patches_are_where_a_convolution_looks() {
        for (k, stride, h, w) in [(7, 1, 9, 4), (5, 1, 2, 2), (4, 2, 6, 8), (4, 2, 7, 5), (3, 2, 1, 1), (2, 1, 3, 3)] {
            let p = Patches { channels: 2, h, w, k, stride };
            let [oh, ow] = p.output();
            let x: Vec<f32> = (1..=2 * h * w).map(|i| i as f32).collect();
            let mut buffer = vec![-1.0; 3];
            let columns = unroll(&p, &x, &mut buffer).to_vec();
            let mut back = vec![-1.0; x.len()];
            roll(&p, &columns, &mut back);
            let mut want_back = vec![0f32; x.len()];
            for (i, &got) in columns.iter().enumerate() {
                let (row, patch) = (i / (oh * ow), i % (oh * ow));
                let (c, ky, kx) = (row / (k * k), row / k % k, row % k);
                let y = (patch / ow * stride + ky) as isize - ((k - 1) / 2) as isize;
                let z = (patch % ow * stride + kx) as isize - ((k - 1) / 2) as isize;
                let inside = (0..h as isize).contains(&y) && (0..w as isize).contains(&z);
                let at = (c * h) as isize * w as isize + y * w as isize + z;
                assert_eq!(got, if inside { x[at as usize] } else { 0.0 }, "{p:?} {row} {patch}");
                if inside {
                    want_back[at as usize] += got;
                }
            }
            assert_eq!(back, want_back, "{p:?}");
        }
    }
}
