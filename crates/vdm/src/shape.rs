//! The shape of an image.

use serde::{Deserialize, Serialize};
use std::fmt;

/// The shape of one image; its values are in CHW order (all of the first channel row by row, then the second).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageShape {
    /// Channels: 1 for grey, 3 for RGB.
    pub channels: usize,
    /// Rows, in pixels.
    pub height: usize,
    /// Columns, in pixels.
    pub width: usize,
}

/// Bounds on an image's shape, so that a file cannot ask for more memory than there is: most channels, most pixels of a side,
/// most numbers.
const MAX_CHANNELS: usize = 16;
const MAX_SIDE: usize = 4096;
const MAX_DIMS: usize = 1 << 24;

impl ImageShape {
    /// Whether a model may be for such images: 1 to 16 channels, sides of 1 to 4096 pixels, at most 2^24 numbers.
    pub fn is_within_limits(&self) -> bool {
        let sides = [self.channels, self.height, self.width];
        sides.iter().all(|side| (1..=MAX_SIDE).contains(side))
            && self.channels <= MAX_CHANNELS
            && self.dims() <= MAX_DIMS
    }

    /// The number of values in one image, which is also its number of bytes and the number of dimensions in "bits per
    /// dimension". Saturates at `usize::MAX`, which no data set can have.
    pub fn dims(&self) -> usize {
        self.channels.saturating_mul(self.height).saturating_mul(self.width)
    }

    /// Whether the sides are equal, so that quarter turns keep the shape.
    pub fn is_square(&self) -> bool {
        self.height == self.width
    }

    /// The shape of a batch of such images: `[batch, channels, height, width]`.
    pub fn batch(&self, images: usize) -> [usize; 4] {
        [images, self.channels, self.height, self.width]
    }
}

impl fmt::Display for ImageShape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{}x{}", self.channels, self.height, self.width)
    }
}
