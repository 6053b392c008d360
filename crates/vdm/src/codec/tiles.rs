//! Images of any size, cut into the tiles that a model is for.
//!
//! A tile that hangs over the right or the lower edge has a [`Margin`] of one level, which the file says. What both sides
//! know takes no bits: their latents are drawn with numbers that both sides can make, so the network sees in them what it
//! would see in an image of that level, and nothing of them is coded. (Pixels that the receiver does not know, such as a mirror
//! image, would have to be coded like all others: the network needs their latents before the image is there.)

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

    /// Numbers of all tiles that are of the image; of a grey image, as often as the model has channels.
    pub fn coded_numbers(&self) -> usize {
        let [.., planes] = self.counts();
        let pixels = self.width.saturating_mul(self.height);
        pixels.saturating_mul(planes).saturating_mul(self.shape.channels)
    }

    /// What is not of the image in tile `number`, where the margins have the level `level`; `None` if it is whole.
    pub fn margin(&self, number: usize, level: u8) -> Option<Margin> {
        let [across, down, _] = self.counts();
        let s = self.shape;
        let (row, column) = (number / across % down, number % across);
        let width = s.width.min(self.width - column * s.width);
        let height = s.height.min(self.height - row * s.height);
        (width < s.width || height < s.height).then_some(Margin { shape: s, width, height, level })
    }

    /// The tiles of an image, one after another, line by line, with margins of `level`: `pixels` has a plane for each channel.
    ///
    /// # Panics
    /// If `pixels` are fewer than the image has.
    pub fn cut(&self, pixels: &[u8], level: u8) -> Vec<u8> {
        let [across, down, planes] = self.counts();
        let s = self.shape;
        let mut tiles = Vec::with_capacity(across * down * planes * s.dims());
        for plane in 0..planes {
            for (row, column) in (0..down).flat_map(|row| (0..across).map(move |column| (row, column))) {
                for channel in 0..s.channels {
                    // A grey image has one plane for all channels.
                    let plane = (plane + channel).min(self.channels - 1);
                    for y in 0..s.height {
                        let (y, from) = (row * s.height + y, column * s.width);
                        let inside = if y < self.height { s.width.min(self.width - from) } else { 0 };
                        if inside > 0 {
                            tiles.extend(&pixels[(plane * self.height + y) * self.width + from..][..inside]);
                        }
                        tiles.resize(tiles.len() + s.width - inside, level);
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

/// The numbers of a tile that are not of the image: all have one level, and none is coded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Margin {
    shape: ImageShape,
    /// Pixels of a line that are of the image, and such lines.
    width: usize,
    height: usize,
    /// The level of all others.
    pub level: u8,
}

impl Margin {
    /// Whether number `i` of the tile is in the margin.
    pub fn has(&self, i: usize) -> bool {
        let s = self.shape;
        i % s.width >= self.width || i / s.width % s.height >= self.height
    }

    /// The first level in the margin of `tile` that is another than the margin's, if there is one.
    pub fn other_level(&self, tile: &[u8]) -> Option<u8> {
        tile.iter().enumerate().find(|&(i, &level)| self.has(i) && level != self.level).map(|(_, &level)| level)
    }

    /// Numbers of the tile that are of the image.
    pub fn coded(&self) -> usize {
        self.shape.channels * self.width * self.height
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

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
            let tiles = tiling.cut(&pixels, seed);
            prop_assert_eq!(tiles.len() as u64, tiling.tiles() * shape.dims() as u64);
            prop_assert_eq!(tiling.join(&tiles), pixels);
        }
    }
}
