//! Images whose channels lie in one tensor or, one after another, in two: what a skip connection brings is read where it is.

use std::ops::Range;

/// Images, channels first: the channels of `first` and, after them, those of `second`, which may be empty.
#[derive(Clone, Copy, Debug)]
pub struct Beside<'a> {
    /// `[images, channels[0], pixels]`
    pub first: &'a [f32],
    /// `[images, channels[1], pixels]`
    pub second: &'a [f32],
    /// Channels of each.
    pub channels: [usize; 2],
}

impl<'a> Beside<'a> {
    /// Images in one tensor.
    pub fn one(x: &'a [f32], channels: usize) -> Self {
        Self { first: x, second: &[], channels: [channels, 0] }
    }

    /// Some of the images, of `pixels` pixels.
    pub fn images(self, range: Range<usize>, pixels: usize) -> Self {
        let [a, b] = self.channels.map(|channels| channels * pixels);
        let (first, second) =
            (&self.first[range.start * a..range.end * a], &self.second[range.start * b..range.end * b]);
        Self { first, second, ..self }
    }

    /// The channels of one image from `channel` on, as many as lie together.
    pub fn from_channel(&self, channel: usize, pixels: usize) -> &'a [f32] {
        let [a, _] = self.channels;
        if channel < a { &self.first[channel * pixels..] } else { &self.second[(channel - a) * pixels..] }
    }
}

/// [`Beside`], to write to. Both are empty where nothing is wanted.
#[derive(Debug)]
pub struct BesideMut<'a> {
    /// `[images, channels[0], pixels]`
    pub first: &'a mut [f32],
    /// `[images, channels[1], pixels]`
    pub second: &'a mut [f32],
    /// Channels of each.
    pub channels: [usize; 2],
}

impl<'a> BesideMut<'a> {
    /// Images in one tensor.
    pub fn one(x: &'a mut [f32], channels: usize) -> Self {
        Self { first: x, second: &mut [], channels: [channels, 0] }
    }

    /// Whether nothing is wanted.
    pub fn is_empty(&self) -> bool {
        self.first.is_empty() && self.second.is_empty()
    }

    /// `count` pieces of `images` images of `pixels` pixels each; empty ones where nothing is wanted.
    pub fn pieces(self, images: usize, pixels: usize, count: usize) -> Vec<BesideMut<'a>> {
        let [a, b] = self.channels.map(|channels| (images * channels * pixels).max(1));
        let (mut first, mut second) = (self.first.chunks_mut(a), self.second.chunks_mut(b));
        (0..count)
            .map(|_| BesideMut {
                first: first.next().unwrap_or_default(),
                second: second.next().unwrap_or_default(),
                channels: self.channels,
            })
            .collect()
    }
}
