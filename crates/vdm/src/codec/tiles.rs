//! Images of any size, cut into the tiles that a model is for.
//!
//! A tile that hangs over the right or the lower edge is filled by mirroring the image at its last pixel. Those pixels are
//! coded like all others and thrown away, so an image whose sides are multiples of the tile's costs least.

use crate::shape::ImageShape;

/// Most pixels of a side.
pub const MAX_SIDE: u32 = 1 << 20;

/// How an image is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tiling {
    /// A tile.
    shape: ImageShape,
    channels: usize,
    width: usize,
    height: usize,
}

impl Tiling {
    /// The tiling of an image of `width` by `height` pixels and 1 or 3 `channels` for a model of `shape`; `None` where there
    /// is none: a side is 0 or above [`MAX_SIDE`], or the model has neither 1 nor 3 channels.
    ///
    /// A grey image is three equal channels to a model of colours; to a model of grey images, a colour image is three grey
    /// ones.
    pub fn new(shape: ImageShape, channels: usize, width: usize, height: usize) -> Option<Self> {
        let possible = |n: usize| matches!(n, 1 | 3);
        let side = |n: usize| (1..=MAX_SIDE as usize).contains(&n);
        let fits = possible(channels) && possible(shape.channels) && side(width) && side(height) && shape.dims() > 0;
        fits.then_some(Self { shape, channels, width, height })
    }

    /// Tiles of a line, lines of tiles, and how often all these come: once for each plane that is coded by itself.
    fn counts(&self) -> [usize; 3] {
        let planes = if self.shape.channels == 1 { self.channels } else { 1 };
        [self.width.div_ceil(self.shape.width), self.height.div_ceil(self.shape.height), planes]
    }

    /// The number of tiles.
    pub fn tiles(&self) -> u64 {
        self.counts().into_iter().map(|n| n as u64).product()
    }

    /// The tiles of an image, one after another, line by line: `pixels` has a plane for each channel.
    ///
    /// # Panics
    /// If `pixels` are fewer than the image has.
    pub fn cut(&self, pixels: &[u8]) -> Vec<u8> {
        let [across, down, planes] = self.counts();
        let s = self.shape;
        let mut tiles = Vec::with_capacity(across * down * planes * s.dims());
        for plane in 0..planes {
            for (row, column) in (0..down).flat_map(|row| (0..across).map(move |column| (row, column))) {
                for channel in 0..s.channels {
                    // A grey image has one plane for all channels.
                    let plane = (plane + channel).min(self.channels - 1);
                    for y in 0..s.height {
                        let y = mirrored(row * s.height + y, self.height);
                        let line = &pixels[(plane * self.height + y) * self.width..][..self.width];
                        tiles.extend((0..s.width).map(|x| line[mirrored(column * s.width + x, self.width)]));
                    }
                }
            }
        }
        tiles
    }

    /// The image of these tiles, the inverse of [`cut`](Self::cut): a plane for each channel.
    pub fn join(&self, tiles: &[u8]) -> Vec<u8> {
        let [across, down, planes] = self.counts();
        let s = self.shape;
        let mut pixels = vec![0; self.channels * self.width * self.height];
        let mut tiles = tiles.chunks_exact(s.dims());
        for plane in 0..planes {
            for (row, column) in (0..down).flat_map(|row| (0..across).map(move |column| (row, column))) {
                let Some(tile) = tiles.next() else { return pixels };
                for channel in 0..s.channels.min(self.channels) {
                    for y in 0..s.height.min(self.height - row * s.height) {
                        let width = s.width.min(self.width - column * s.width);
                        let from = (channel * s.height + y) * s.width;
                        let to = ((plane + channel) * self.height + row * s.height + y) * self.width + column * s.width;
                        pixels[to..to + width].copy_from_slice(&tile[from..from + width]);
                    }
                }
            }
        }
        pixels
    }
}

/// The position below `n` that a position is the mirror image of, at the last one and again at the first.
fn mirrored(at: usize, n: usize) -> usize {
    if at < n || n == 1 {
        return at.min(n - 1);
    }
    let period = 2 * n - 2;
    let at = at % period;
    at.min(period - at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn edges_are_mirrored() {
        let along: Vec<usize> = (0..9).map(|at| mirrored(at, 4)).collect();
        assert_eq!(along, [0, 1, 2, 3, 2, 1, 0, 1, 2]);
        assert_eq!(mirrored(5, 1), 0);
        assert_eq!((0..5).map(|at| mirrored(at, 2)).collect::<Vec<_>>(), [0, 1, 0, 1, 0]);
    }

    #[test]
    fn impossible_tilings_are_none() {
        let shape = |channels| ImageShape { channels, height: 4, width: 4 };
        for (channels, of, width, height) in
            [(1, 2, 3, 3), (2, 1, 3, 3), (1, 1, 0, 3), (1, 1, 3, 0), (1, 1, (1 << 20) + 1, 3), (1, 4, 3, 3)]
        {
            assert_eq!(Tiling::new(shape(channels), of, width, height), None);
        }
    }

    proptest! {
        #[test]
        fn any_image_comes_back(
            model in prop::sample::select(vec![1usize, 3]), channels in prop::sample::select(vec![1usize, 3]),
            width in 1usize..40, height in 1usize..40, tile in 1usize..9, seed: u8,
        ) {
            let shape = ImageShape { channels: model, height: tile, width: tile + 1 };
            let tiling = Tiling::new(shape, channels, width, height).unwrap();
            let pixels: Vec<u8> = (0..channels * width * height).map(|i| (i as u8).wrapping_mul(37) ^ seed).collect();
            let tiles = tiling.cut(&pixels);
            prop_assert_eq!(tiles.len() as u64, tiling.tiles() * shape.dims() as u64);
            prop_assert_eq!(tiling.join(&tiles), pixels);
        }
    }
}
