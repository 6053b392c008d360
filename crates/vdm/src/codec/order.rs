//! In which order the numbers of a segment are coded.
//!
//! A batch first takes bits off the stack, some four times as many as it adds in the end. Bits that the stack does not hold yet
//! must be there from the start. So the first batches are small, a few lines of one image each, and every later one has at most a
//! quarter of the lines before it. A segment is decoded the other way, from whole images to the last lines of the first image; the lines
//! above them are known by then.

use std::ops::Range;

/// The first parts have one line in so many of an image.
const FIRST: usize = 8;
/// Larger parts have at most one line for so many lines before them.
const GROWTH: usize = 4;

/// What goes through the network together: whole images, or some lines of one image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Part {
    /// Its place among the parts of the segment.
    pub number: usize,
    /// Its images, by their places in the segment.
    pub images: Range<usize>,
    /// The lines of them that are coded. When a segment is decoded, the lines above are known before these, those below after.
    pub lines: Range<usize>,
}

impl Part {
    /// The images of which nothing is left to code after this part.
    pub fn completes(&self) -> usize {
        if self.lines.start == 0 { self.images.len() } else { 0 }
    }
}

/// The parts of a segment.
///
/// A file says how many images there are, so memory does not grow with their number.
pub(super) struct Order {
    /// All images, and the lines of each.
    images: usize,
    height: usize,
    /// The first parts, which grow, and the whole images in them.
    growing: Vec<Part>,
    grown: usize,
    /// Most images of a part.
    most: usize,
}

impl Order {
    /// Of so many images of `height` lines each, at most `most` together.
    pub fn new(images: usize, height: usize, most: usize) -> Self {
        let first = height.div_ceil(FIRST);
        let (mut growing, mut grown, mut done) = (Vec::new(), 0, 0);
        // The end of the lines of image number `grown` that are left.
        let mut left = height;
        while grown < images && done / GROWTH < most * height {
            let lines = (done / GROWTH).max(first);
            let part = if left < height || lines < height {
                Part { number: growing.len(), images: grown..grown + 1, lines: left.saturating_sub(lines)..left }
            } else {
                let end = images.min(grown + lines / height);
                Part { number: growing.len(), images: grown..end, lines: 0..height }
            };
            done += part.images.len() * part.lines.len();
            grown += part.completes();
            left = if part.lines.start == 0 { height } else { part.lines.start };
            growing.push(part);
        }
        Self { images, height, growing, grown, most }
    }

    /// The parts in the order in which they are coded.
    pub fn parts(&self) -> impl DoubleEndedIterator<Item = Part> {
        let full = (self.images - self.grown).div_ceil(self.most);
        let full = (0..full).map(|i| {
            let start = self.grown + i * self.most;
            let images = start..self.images.min(start + self.most);
            Part { number: self.growing.len() + i, images, lines: 0..self.height }
        });
        self.growing.iter().cloned().chain(full)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sizes(images: usize, height: usize, most: usize) -> Vec<(usize, usize)> {
        Order::new(images, height, most).parts().map(|part| (part.images.len(), part.lines.len())).collect()
    }

    #[test]
    fn parts_start_small() {
        // Two images of 16 lines: 2 lines at first, and a quarter of what was before as soon as that is more.
        assert_eq!(
            sizes(2, 16, 3),
            [(1, 2), (1, 2), (1, 2), (1, 2), (1, 2), (1, 2), (1, 3), (1, 1), (1, 4), (1, 5), (1, 6), (1, 1)]
        );
        let later = sizes(40, 16, 3);
        assert_eq!(later[12..17], [(1, 8), (1, 8), (1, 12), (1, 4), (1, 16)]);
        assert_eq!(sizes(3, 1, 1), [(1, 1); 3]);
        assert_eq!(sizes(0, 5, 2), []);
    }

    /// All batches of the images that a file said it has were listed: 32 GB for a small one.
    #[test]
    fn parts_of_as_many_images_as_a_file_can_claim_take_no_memory() {
        let order = Order::new(u32::MAX as usize, 28, 1);
        assert!(order.growing.len() < 40);
        assert_eq!(order.parts().next_back().unwrap().images, u32::MAX as usize - 1..u32::MAX as usize);
    }

    proptest! {
        #[test]
        fn parts_have_every_line_once(images in 0usize..300, height in 1usize..40, most in 1usize..20) {
            let order = Order::new(images, height, most);
            let parts = Vec::from_iter(order.parts());
            let mut backwards = Vec::from_iter(order.parts().rev());
            backwards.reverse();
            prop_assert_eq!(&parts, &backwards);
            // Image by image, from the last line to the first.
            let (mut image, mut line, mut done) = (0, height, 0);
            for (number, part) in parts.iter().enumerate() {
                prop_assert_eq!((part.number, part.images.start, part.lines.end), (number, image, line));
                let lines = part.images.len() * part.lines.len();
                prop_assert!(lines > 0 && part.images.len() <= most);
                prop_assert!(lines <= (done / GROWTH).max(height.div_ceil(FIRST)));
                done += lines;
                image += part.completes();
                line = if part.lines.start == 0 { height } else { part.lines.start };
            }
            prop_assert_eq!((image, done), (images, images * height));
        }
    }
}
