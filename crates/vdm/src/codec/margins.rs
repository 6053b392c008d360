//! Which of a container's images have margins: those at the edges of files that are cut into tiles.

use super::container::FileEntry;
use super::tiles::{Margin, Tiling};
use crate::shape::ImageShape;

/// The margins of all images of a list of files.
#[derive(Clone, Debug, Default)]
pub(super) struct Margins {
    /// The number of the first tile of each file that is cut, how it is cut, and the level of its margins.
    files: Vec<(usize, Tiling, u8)>,
}

impl Margins {
    /// Those of the images of `files`, numbered in the order of the files.
    pub fn new(files: &[FileEntry], shape: ImageShape) -> Self {
        let mut first = 0usize;
        let mut cut = Vec::new();
        for file in files {
            cut.extend(file.tiling(shape).zip(file.margin_level()).map(|(tiling, level)| (first, tiling, level)));
            first = first.saturating_add(file.images(shape));
        }
        Self { files: cut }
    }

    /// Says which margin of a file's images is not of the level that the file says, or that this is none of so many levels.
    pub fn check(entry: &FileEntry, images: &[u8], shape: ImageShape, levels: usize) -> Result<(), String> {
        if let Some(level) = entry.margin_level().filter(|&level| usize::from(level) >= levels) {
            return Err(format!("{:?} has margins of level {level}, the model {levels} levels", entry.name));
        }
        let margins = Self::new(std::slice::from_ref(entry), shape);
        for (n, tile) in images.chunks_exact(shape.dims()).enumerate() {
            let Some(margin) = margins.of(n) else { continue };
            if let Some(found) = margin.other_level(tile) {
                let (name, expected) = (&entry.name, margin.level);
                return Err(format!("{name:?} has {found} in the margin of tile {n}, expected {expected}"));
            }
        }
        Ok(())
    }

    /// The margin of image number `image`, if it has one.
    pub fn of(&self, image: usize) -> Option<Margin> {
        let after = self.files.partition_point(|(first, ..)| *first <= image);
        let (first, tiling, level) = self.files[..after].last()?;
        let number = image - first;
        if (number as u64) < tiling.tiles() { tiling.margin(number, *level) } else { None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::FileKind;

    /// Three tiles of 4x3 pixels across and two down, of an image of 9x5, between files of whole images.
    #[test]
    fn margins_are_what_the_image_leaves() {
        let shape = ImageShape { channels: 1, height: 3, width: 4 };
        let kind = FileKind::Tiled { channels: 1, width: 9, height: 5, margin: 7, alpha: None };
        let files = [("a", FileKind::Png), ("b", kind), ("c", FileKind::Png)].map(|(n, kind)| FileEntry::new(n, kind));
        let margins = Margins::new(&files, shape);
        assert_eq!(files.each_ref().map(|file| file.coded_numbers(shape)), [12, 45, 12]);
        let coded = Vec::from_iter((0..9).map(|image| margins.of(image).map(|margin| margin.coded())));
        assert_eq!(coded, [None, None, None, Some(3), Some(8), Some(8), Some(2), None, None]);
        let tiles = files[1].tiling(shape).unwrap().cut(&[1; 45], 7);
        for (i, level) in tiles.iter().enumerate() {
            let of_margin = margins.of(1 + i / 12).is_some_and(|margin| margin.has(i % 12));
            assert_eq!(*level, if of_margin { 7 } else { 1 }, "{i}");
        }
    }
}
