//! Flips and quarter turns of images.
//!
//! The eight symmetries of the square, for training with augmentation as the
//! VDM paper does on CIFAR-10. There, the network is told by a scalar whether
//! an image was changed (1.0) or not (0.0), so that it can model the original
//! images alone: evaluation and sampling pass 0.0. See
//! [`Augmentation::conditioning`].
//!
//! # References
//!
//! - D. P. Kingma, T. Salimans, B. Poole, J. Ho, "Variational Diffusion
//!   Models", NeurIPS 2021, arXiv:2107.00630.
//! - H. Jun et al., "Distribution Augmentation for Generative Modeling",
//!   ICML 2020.

use std::fmt;

use super::dataset::checked_dims;
use super::error::{DataError, Result};
use crate::shape::ImageShape;

/// One of the eight symmetries of the square, numbered 0 to 7.
///
/// Number `4 * flip + turns` first mirrors left and right where `flip` is 1,
/// then turns by `turns` quarters counter-clockwise. Number 0 changes nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Augmentation(u8);

/// All eight.
const ALL: [Augmentation; 8] = [
    Augmentation(0),
    Augmentation(1),
    Augmentation(2),
    Augmentation(3),
    Augmentation(4),
    Augmentation(5),
    Augmentation(6),
    Augmentation(7),
];

impl Augmentation {
    /// The one that changes nothing.
    pub const IDENTITY: Self = Self(0);

    /// The augmentation of a number.
    ///
    /// # Errors
    ///
    /// [`DataError::InvalidOption`] for a number above 7.
    pub fn new(number: u8) -> Result<Self> {
        ALL.get(usize::from(number)).copied().ok_or_else(|| DataError::InvalidOption {
            field: "augmentation",
            expected: "0 to 7",
            found: number.to_string(),
        })
    }

    /// The augmentation that the uniform number `u` in [0, 1) picks: mirrored with probability 1/2, and turned with
    /// probability 1/2, by each of the turns that keep the shape (all three for square images, the half turn for others).
    /// So a quarter of the images stays as it is, as in the paper's code.
    pub fn pick(u: f64, shape: ImageShape) -> Self {
        // The digits of u, one after another.
        let halves = (2.0 * u).fract();
        let turns = match halves {
            v if v < 0.5 => 0,
            v if shape.is_square() => 1 + ((2.0 * v).fract() * 3.0) as u8,
            _ => 2,
        };
        Self::from_parts(u >= 0.5, turns.min(3))
    }

    /// The number, 0 to 7.
    pub fn number(self) -> u8 {
        self.0
    }

    /// Whether nothing changes.
    pub fn is_identity(self) -> bool {
        self == Self::IDENTITY
    }

    /// What the network is told: 1.0 where the image was changed, else 0.0.
    pub fn conditioning(self) -> f32 {
        if self.is_identity() { 0.0 } else { 1.0 }
    }

    /// The augmentation that undoes this one.
    pub fn inverse(self) -> Self {
        // A mirrored one is a reflection, which undoes itself.
        if self.flips() { self } else { Self::from_parts(false, 4 - self.turns()) }
    }

    /// This augmentation and then `next`, as one.
    pub fn then(self, next: Self) -> Self {
        // Mirroring after a turn is turning the other way after mirroring.
        let turns = if next.flips() { 4 - self.turns() } else { self.turns() };
        Self::from_parts(self.flips() != next.flips(), turns + next.turns())
    }

    fn from_parts(flip: bool, turns: u8) -> Self {
        Self(4 * u8::from(flip) + turns % 4)
    }

    fn flips(self) -> bool {
        self.0 >= 4
    }

    fn turns(self) -> u8 {
        self.0 % 4
    }

    fn is_quarter_turn(self) -> bool {
        self.0 % 2 == 1
    }
}

impl fmt::Display for Augmentation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// Apply an augmentation to one image, given and returned in CHW order. Every
/// channel moves alike and no value changes.
///
/// # Errors
///
/// [`DataError::ImageBytes`] where `image` is not of `shape`, and
/// [`DataError::NotSquare`] for an odd number of quarter turns of an image
/// that is not square.
pub fn augment(image: &[u8], shape: ImageShape, augmentation: Augmentation) -> Result<Vec<u8>> {
    let dims = checked_dims(shape, "image")?;
    if image.len() != dims {
        return Err(DataError::ImageBytes { expected: dims, found: image.len() });
    }
    if augmentation.is_quarter_turn() && !shape.is_square() {
        return Err(DataError::NotSquare { augmentation: augmentation.number(), found: shape });
    }
    let ImageShape { height, width, .. } = shape;
    let mut changed = Vec::with_capacity(dims);
    for plane in image.chunks_exact(height * width) {
        for y in 0..height {
            for x in 0..width {
                // Where the value here comes from: undo the turns, then the flip.
                let (row, column) = match augmentation.turns() {
                    0 => (y, x),
                    1 => (x, width - 1 - y),
                    2 => (height - 1 - y, width - 1 - x),
                    _ => (height - 1 - x, y),
                };
                let column = if augmentation.flips() { width - 1 - column } else { column };
                changed.push(plane[row * width + column]);
            }
        }
    }
    Ok(changed)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::super::testing::assert_says;
    use super::*;

    const SQUARE: ImageShape = ImageShape { channels: 2, height: 3, width: 3 };
    const WIDE: ImageShape = ImageShape { channels: 1, height: 2, width: 3 };

    fn generic() -> Vec<u8> {
        (0..18).collect()
    }

    fn changed(image: &[u8], augmentation: Augmentation) -> Vec<u8> {
        augment(image, SQUARE, augmentation).unwrap()
    }

    #[test]
    fn the_generators_do_what_they_say() {
        let flip = augment(&[1, 2, 3, 4, 5, 6], WIDE, Augmentation(4)).unwrap();
        assert_eq!(flip, [3, 2, 1, 6, 5, 4]);
        let up_down = augment(&[1, 2, 3, 4, 5, 6], WIDE, Augmentation(6)).unwrap();
        assert_eq!(up_down, [4, 5, 6, 1, 2, 3]);
        // numpy.rot90, channel by channel.
        let turn = changed(&generic(), Augmentation(1));
        assert_eq!(turn[..9], [2, 5, 8, 1, 4, 7, 0, 3, 6]);
        assert_eq!(turn[9..], [11, 14, 17, 10, 13, 16, 9, 12, 15]);
    }

    #[test]
    fn all_eight_are_distinct_and_0_is_the_identity() {
        let images: BTreeSet<_> = ALL.map(|each| changed(&generic(), each)).into();
        assert_eq!(images.len(), 8);
        assert_eq!(changed(&generic(), Augmentation::IDENTITY), generic());
        assert_eq!(Augmentation::IDENTITY.conditioning(), 0.0);
        assert!(ALL[1..].iter().all(|each| each.conditioning() == 1.0));
    }

    #[test]
    fn they_form_a_group() {
        for first in ALL {
            assert!(first.then(first.inverse()).is_identity());
            assert!(first.inverse().then(first).is_identity());
            let there = changed(&generic(), first);
            assert_eq!(changed(&there, first.inverse()), generic());
            for second in ALL {
                assert_eq!(changed(&there, second), changed(&generic(), first.then(second)));
            }
        }
    }

    /// A quarter unchanged, half mirrored, half turned.
    #[test]
    fn picks_keep_the_shape_and_mirror_and_turn_with_one_half_each() {
        let n = 24_000;
        for (shape, turns) in [(SQUARE, 3), (WIDE, 1)] {
            let picks: Vec<Augmentation> =
                (0..n).map(|i| Augmentation::pick((f64::from(i) + 0.5) / f64::from(n), shape)).collect();
            let share =
                |of: &dyn Fn(&Augmentation) -> bool| picks.iter().filter(|p| of(p)).count() as f64 / f64::from(n);
            assert!((share(&|p| p.is_identity()) - 0.25).abs() < 1e-3);
            assert!((share(&|p| p.flips()) - 0.5).abs() < 1e-3);
            assert!((share(&|p| p.turns() != 0) - 0.5).abs() < 1e-3);
            assert!((share(&|p| p.turns() == 2) - 0.5 / f64::from(turns)).abs() < 1e-3);
            assert!(shape.is_square() || picks.iter().all(|p| !p.is_quarter_turn()));
        }
    }

    #[test]
    fn quarter_turns_of_other_shapes_are_refused() {
        let error = augment(&[0; 6], WIDE, Augmentation(5)).unwrap_err();
        assert!(matches!(error, DataError::NotSquare { augmentation: 5, .. }));
        assert_says(&error, &["augmentation 5", "expected a square image", "found 1x2x3"]);
    }

    #[test]
    fn images_of_another_size_are_refused() {
        let error = augment(&[0; 5], WIDE, Augmentation::IDENTITY).unwrap_err();
        assert!(matches!(error, DataError::ImageBytes { expected: 6, found: 5 }));
        assert_says(&error, &["image", "expected 6", "found 5"]);
    }

    #[test]
    fn numbers_above_7_are_refused() {
        assert_eq!(Augmentation::new(7).unwrap().number(), 7);
        let error = Augmentation::new(8).unwrap_err();
        assert!(matches!(error, DataError::InvalidOption { field: "augmentation", .. }));
        assert_says(&error, &["augmentation", "expected 0 to 7", "found 8"]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn any_image_keeps_its_values(
            channels in 0usize..4,
            height in 0usize..6,
            width in 0usize..6,
            number in 0u8..8,
        ) {
            let shape = ImageShape { channels, height, width };
            let image: Vec<u8> = (0..shape.dims()).map(|at| at as u8).collect();
            if let Ok(mut moved) = augment(&image, shape, Augmentation(number)) {
                moved.sort_unstable();
                prop_assert_eq!(moved, image);
            }
        }
    }
}
