//! What both sides know of the images that go through the network together, before these are decoded.
//!
//! What is in the margin of a tile is known from the header. Where the lines of an image are coded one part after another, the
//! lines above a part are decoded earlier. Known numbers take no bits; their latents are drawn with random numbers that both sides can
//! compute.

use super::order::Part;
use super::tiles::Margin;
use crate::shape::ImageShape;

/// The margin of image number `n` of a segment, if it has one.
pub type MarginOf<'a> = dyn Fn(usize) -> Option<Margin> + 'a;

/// The level that the lines of an image have before any of it is known.
const UNSEEN: u8 = 0;

/// The levels that both sides know of the images of a part, number by number; nothing if they know none.
pub(super) struct Known(Vec<Option<u8>>);

impl Known {
    /// The known levels of `part`. Where it has some lines of an image, `k` holds the lines above them; it may hold more.
    ///
    /// The lines below the part are decoded later. They count as known, since they are not coded with this part, and have levels for the
    /// network to see: those of the line above the part, or the margin's level, or [`UNSEEN`].
    pub fn new(shape: ImageShape, part: &Part, k: &[u8], margin_of: &MarginOf) -> Self {
        let margins = Vec::from_iter(part.images.clone().map(margin_of));
        if part.lines.len() == shape.height && margins.iter().all(Option::is_none) {
            return Self(Vec::new());
        }
        let level = |image: usize, margin: Option<Margin>, i: usize| {
            if let Some(margin) = margin.filter(|margin| margin.has(i)) {
                return Some(margin.level);
            }
            let line = i / shape.width % shape.height;
            if part.lines.contains(&line) {
                return None;
            }
            let above = line.min(part.lines.start.saturating_sub(1));
            let seen = (part.lines.start > 0).then(|| k[image * shape.dims() + i - (line - above) * shape.width]);
            seen.or(margin.map(|margin| margin.level)).or(Some(UNSEEN))
        };
        let of_image = |(image, margin)| (0..shape.dims()).map(move |i| level(image, margin, i));
        Self(margins.into_iter().enumerate().flat_map(of_image).collect())
    }

    /// The level of number `i`, if both sides know it.
    pub fn level(&self, i: usize) -> Option<u8> {
        self.0.get(i).copied().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::tiles::Tiling;

    const SHAPE: ImageShape = ImageShape { channels: 1, height: 4, width: 2 };

    fn levels(lines: std::ops::Range<usize>, k: &[u8], margin: Option<Margin>) -> Vec<Option<u8>> {
        let part = Part { number: 0, images: 5..6, lines };
        let known = Known::new(SHAPE, &part, k, &|n| margin.filter(|_| n == 5));
        (0..SHAPE.dims()).map(|i| known.level(i)).collect()
    }

    #[test]
    fn whole_images_are_not_known() {
        assert_eq!(levels(0..4, &[], None), [None; 8]);
    }

    #[test]
    fn lines_above_are_known_and_lines_below_repeat_the_last_of_them() {
        let k = [1, 2, 3, 4, 90, 91, 92, 93];
        let [a, b, c, d] = [1, 2, 3, 4].map(Some);
        assert_eq!(levels(2..3, &k, None), [a, b, c, d, None, None, c, d]);
        // Nothing is above the first part to be decoded.
        assert_eq!(levels(0..3, &[], None), [[None; 6].as_slice(), &[Some(UNSEEN); 2]].concat());
    }

    #[test]
    fn margins_are_known() {
        // One column and three lines of the tile are of the image.
        let margin = Tiling::new(SHAPE, 1, 1, 3).unwrap().margin(0, 7);
        let m = Some(7);
        assert_eq!(levels(0..4, &[], margin), [None, m, None, m, None, m, m, m]);
        assert_eq!(levels(0..2, &[], margin), [None, m, None, m, m, m, m, m]);
    }
}
