//! Images as PNG files, a grid of many or one file each, and as a film.

use crate::files::write_bytes;
use crate::shape::ImageShape;
use image::codecs::gif::{GifEncoder, Repeat};
use image::codecs::png::{CompressionType, FilterType, PngEncoder};
use image::{Delay, ExtendedColorType, Frame, ImageEncoder, RgbaImage};
use std::io;
use std::path::{Path, PathBuf};

/// Pixels between the tiles of a grid.
const GAP: usize = 1;

/// The grey between the tiles and of a last row's empty places.
const GAP_GREY: u8 = 128;

/// The most memory for the pixels of one PNG, in bytes.
const MAX_BYTES: usize = 1 << 30;

/// Why there is no picture.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GridError {
    /// Neither grey nor RGB.
    #[error("cannot draw images of {0} channels; expected 1 (grey) or 3 (RGB)")]
    Channels(usize),

    /// A side of an image is 0.
    #[error("images of the shape {0} have no pixels")]
    NoPixels(ImageShape),

    /// A vocabulary that bytes cannot hold, or that has nothing to tell apart.
    #[error("cannot draw values of {0} levels; expected 2 to 256")]
    Levels(usize),

    /// There is nothing to draw.
    #[error("there are no images to draw")]
    NoImages,

    /// The bytes end within an image.
    #[error("{found} bytes are not whole images of {expected} bytes each")]
    ByteCount {
        /// Bytes of one image.
        expected: usize,
        /// Bytes that are there.
        found: usize,
    },

    /// A value that the vocabulary does not have.
    #[error("byte {offset} is {found}; expected a value below {levels}")]
    LevelOutOfRange {
        /// Where, from the start of the first image.
        offset: usize,
        /// The value.
        found: u8,
        /// The size of the vocabulary.
        levels: usize,
    },

    /// No columns, or tiles of no size.
    #[error("cannot draw a grid of {columns} columns at scale {scale}; both must be at least 1")]
    Layout {
        /// Tiles in a row.
        columns: usize,
        /// Pixels of the grid for a pixel of an image, along each side.
        scale: usize,
    },

    /// The picture would be too large to hold.
    #[error("a grid of {columns} columns and {rows} rows at scale {scale} takes over 1 GiB; draw fewer images")]
    TooLarge {
        /// Tiles in a row.
        columns: usize,
        /// Rows of tiles.
        rows: usize,
        /// Pixels of the grid for a pixel of an image, along each side.
        scale: usize,
    },

    /// The PNG encoder refused.
    #[error("cannot encode a PNG: {0}")]
    Encode(#[from] image::ImageError),

    /// A file could not be written.
    #[error("cannot write {path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the file system said.
        source: io::Error,
    },
}

/// The scale at which tiles are about 64 pixels wide, and no smaller than the images.
pub fn tile_scale(shape: ImageShape) -> usize {
    (64 / shape.width.max(1)).max(1)
}

/// The PNG of a grid of images, filled row by row, with 1 grey pixel between the tiles.
///
/// `images` holds one image after another, channels first, of values in `0 .. levels`; value k is drawn as
/// `k * 255 / (levels - 1)`, and each pixel as a square of `scale` by `scale`. The grid has at most `columns` columns.
///
/// # Errors
/// [`GridError`], for arguments that do not fit each other or give too large a picture.
pub fn grid_png(
    images: &[u8],
    shape: ImageShape,
    levels: usize,
    columns: usize,
    scale: usize,
) -> Result<Vec<u8>, GridError> {
    let Canvas { pixels, width, height } = canvas(images, shape, levels, columns, scale)?;
    let color = if shape.channels == 1 { ExtendedColorType::L8 } else { ExtendedColorType::Rgb8 };
    let mut png = Vec::new();
    PngEncoder::new(&mut png).write_image(&pixels, width, height, color)?;
    Ok(png)
}

/// The GIF of a film that repeats: a grid as of [`grid_png`] for each frame, all of as many images, a quarter of a second
/// each and the last for two seconds. A GIF has 256 colours a frame, so colours are not exact; grey values are.
///
/// # Errors
/// [`GridError`], as [`grid_png`], and for a side of more than 65535 pixels.
pub fn grid_gif(
    frames: &[Vec<u8>],
    shape: ImageShape,
    levels: usize,
    columns: usize,
    scale: usize,
) -> Result<Vec<u8>, GridError> {
    let mut gif = Vec::new();
    let mut encoder = GifEncoder::new_with_speed(&mut gif, 10);
    encoder.set_repeat(Repeat::Infinite)?;
    for (i, images) in frames.iter().enumerate() {
        let Canvas { pixels, width, height } = canvas(images, shape, levels, columns, scale)?;
        let rgba = pixels
            .chunks_exact(shape.channels)
            .flat_map(|pixel| [pixel[0], pixel[pixel.len() / 2], pixel[pixel.len() - 1], u8::MAX])
            .collect();
        let buffer = RgbaImage::from_raw(width, height, rgba).ok_or(GridError::TooLarge { columns, rows: 1, scale })?;
        let milliseconds = if i + 1 < frames.len() { 250 } else { 2000 };
        encoder.encode_frame(Frame::from_parts(buffer, 0, 0, Delay::from_numer_denom_ms(milliseconds, 1)))?;
    }
    drop(encoder);
    Ok(gif)
}

/// A picture's bytes, line by line, channels last.
struct Canvas {
    pixels: Vec<u8>,
    width: u32,
    height: u32,
}

/// Width, height and bytes of a grid of `count` images.
fn size(count: usize, shape: ImageShape, columns: usize, scale: usize) -> Result<[usize; 3], GridError> {
    if columns == 0 || scale == 0 {
        return Err(GridError::Layout { columns, scale });
    }
    let columns = columns.min(count).max(1);
    let rows = count.div_ceil(columns);
    let side = |tiles: usize, pixels: usize| -> Option<usize> {
        pixels.checked_mul(scale)?.checked_add(GAP)?.checked_mul(tiles)?.checked_sub(GAP)
    };
    let all = || {
        let (width, height) = (side(columns, shape.width)?, side(rows, shape.height)?);
        let bytes = width.checked_mul(height)?.checked_mul(shape.channels)?;
        (bytes <= MAX_BYTES).then_some([width, height, bytes])
    };
    all().ok_or(GridError::TooLarge { columns, rows, scale })
}

/// Refuses what is no picture: a grid of `count` samples in [`square`] columns, tiles of the usual scale.
///
/// # Errors
/// [`GridError::TooLarge`].
pub fn check_square(count: usize, shape: ImageShape) -> Result<(), GridError> {
    check_columns(count, shape, square(count))
}

/// The same for a row of `count` images.
///
/// # Errors
/// [`GridError::TooLarge`].
pub fn check_row(count: usize, shape: ImageShape) -> Result<(), GridError> {
    check_columns(count, shape, count)
}

/// The same for `count` images in so many columns.
///
/// # Errors
/// [`GridError::TooLarge`].
pub fn check_columns(count: usize, shape: ImageShape, columns: usize) -> Result<(), GridError> {
    size(count, shape, columns, tile_scale(shape)).map(drop)
}

/// Columns of a grid of `count` samples that is about as wide as high.
pub fn square(count: usize) -> usize {
    (count as f64).sqrt().ceil() as usize
}

/// The grid that [`grid_png`] describes.
fn canvas(images: &[u8], shape: ImageShape, levels: usize, columns: usize, scale: usize) -> Result<Canvas, GridError> {
    let count = check(images, shape, levels)?;
    let [width, height, bytes] = size(count, shape, columns, scale)?;
    let columns = columns.min(count);
    let mut pixels = vec![GAP_GREY; bytes];
    let (tile_width, tile_height) = (shape.width * scale, shape.height * scale);
    for (i, image) in images.chunks_exact(shape.dims()).enumerate() {
        let left = i % columns * (tile_width + GAP);
        let top = i / columns * (tile_height + GAP);
        for y in 0..tile_height {
            let start = ((top + y) * width + left) * shape.channels;
            let line = &mut pixels[start..start + tile_width * shape.channels];
            for (x, pixel) in line.chunks_exact_mut(shape.channels).enumerate() {
                for (channel, value) in pixel.iter_mut().enumerate() {
                    let row = channel * shape.height + y / scale;
                    *value = brightness(image[row * shape.width + x / scale], levels);
                }
            }
        }
    }
    // Both sides fit 32 bits: they are at most MAX_BYTES.
    Ok(Canvas { pixels, width: width as u32, height: height as u32 })
}

/// What a PNG has besides its compressed pixels: signature, header, end, and the frame of one chunk of data.
const PNG_FRAME: usize = 8 + 25 + 12 + 12;

/// Bits per dimension of one image as a PNG at the highest effort, without what every PNG has: a measure of how complex an
/// image is that asks no model.
///
/// # Errors
/// [`GridError`], for arguments that do not fit each other.
pub fn png_bits_per_dim(image: &[u8], shape: ImageShape, levels: usize) -> Result<f64, GridError> {
    check(image, shape, levels)?;
    let (pixels, color) =
        (shape.height * shape.width, if shape.channels == 3 { ExtendedColorType::Rgb8 } else { ExtendedColorType::L8 });
    let interleaved: Vec<u8> = (0..pixels)
        .flat_map(|pixel| (0..shape.channels).map(move |c| image[c * pixels + pixel]))
        .map(|value| brightness(value, levels))
        .collect();
    let mut png = Vec::new();
    let encoder = PngEncoder::new_with_quality(&mut png, CompressionType::Best, FilterType::Adaptive);
    encoder.write_image(&interleaved, shape.width as u32, shape.height as u32, color)?;
    Ok(8.0 * png.len().saturating_sub(PNG_FRAME) as f64 / shape.dims() as f64)
}

/// Writes each image pixel for pixel to `image-00000.png`, `image-00001.png` and so on, counting from `first`, in `dir`,
/// which is made if need be. The arguments are as in [`grid_png`]; each file is written whole or not at all.
///
/// # Errors
/// [`GridError`]; nothing is written where the arguments do not fit each other.
pub fn save_images(dir: &Path, images: &[u8], shape: ImageShape, levels: usize, first: u64) -> Result<(), GridError> {
    check(images, shape, levels)?;
    for (i, image) in images.chunks_exact(shape.dims()).enumerate() {
        let path = dir.join(format!("image-{:05}.png", first.wrapping_add(i as u64)));
        let png = grid_png(image, shape, levels, 1, 1)?;
        write_bytes(&path, &png).map_err(|source| GridError::Io { path, source })?;
    }
    Ok(())
}

/// The number of images, where they are such.
fn check(images: &[u8], shape: ImageShape, levels: usize) -> Result<usize, GridError> {
    if !matches!(shape.channels, 1 | 3) {
        return Err(GridError::Channels(shape.channels));
    }
    let expected = shape.dims();
    if expected == 0 {
        return Err(GridError::NoPixels(shape));
    }
    if !(2..=256).contains(&levels) {
        return Err(GridError::Levels(levels));
    }
    if images.is_empty() {
        return Err(GridError::NoImages);
    }
    if !images.len().is_multiple_of(expected) {
        return Err(GridError::ByteCount { expected, found: images.len() });
    }
    if let Some(offset) = images.iter().position(|&value| usize::from(value) >= levels) {
        return Err(GridError::LevelOutOfRange { offset, found: images[offset], levels });
    }
    Ok(images.len() / expected)
}

/// The byte that draws a value below `levels`.
pub fn brightness(value: u8, levels: usize) -> u8 {
    (usize::from(value) * 255 / (levels - 1)) as u8
}

/// The value below `levels` that is drawn as this byte, if one is: the inverse of [`brightness`].
pub fn value_of(byte: u8, levels: usize) -> Option<u8> {
    let value = (usize::from(byte) * (levels - 1)).div_ceil(255) as u8;
    (brightness(value, levels) == byte).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    const GREY: ImageShape = ImageShape { channels: 1, height: 2, width: 2 };
    const RGB: ImageShape = ImageShape { channels: 3, height: 1, width: 2 };

    #[test]
    fn a_grey_grid_reads_back() {
        let images = [0, 1, 2, 3, 3, 3, 3, 3, 1, 1, 1, 1];
        let png = grid_png(&images, GREY, 4, 2, 2).unwrap();
        let grid = image::load_from_memory(&png).unwrap();
        assert_eq!(grid.color(), image::ColorType::L8);
        let grid = grid.into_luma8();
        assert_eq!(grid.dimensions(), (9, 9));
        let at = |x, y| grid.get_pixel(x, y).0[0];
        assert_eq!([at(0, 0), at(1, 1), at(2, 0), at(0, 2), at(3, 3)], [0, 0, 85, 170, 255]);
        assert_eq!([at(4, 0), at(0, 4), at(4, 4)], [128; 3]);
        assert_eq!([at(5, 0), at(8, 3)], [255; 2]);
        assert_eq!([at(0, 5), at(3, 8)], [85; 2]);
        assert_eq!([at(5, 5), at(8, 8)], [128; 2]);
    }

    #[test]
    fn channels_become_colours() {
        let png = grid_png(&[10, 20, 30, 40, 50, 60], RGB, 256, 7, 1).unwrap();
        let grid = image::load_from_memory(&png).unwrap().into_rgb8();
        assert_eq!(grid.dimensions(), (2, 1));
        assert_eq!(grid.get_pixel(0, 0).0, [10, 30, 50]);
        assert_eq!(grid.get_pixel(1, 0).0, [20, 40, 60]);
    }

    #[test]
    fn bytes_are_drawn_as_they_are_and_every_vocabulary_reaches_white() {
        assert!((0..=255).all(|value| brightness(value, 256) == value));
        assert!((2..=256).all(|levels| brightness((levels - 1) as u8, levels) == 255 && brightness(0, levels) == 0));
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let grid = |images: &[u8], shape| grid_png(images, shape, 4, 2, 1);
        assert!(matches!(grid(&[0; 5], GREY), Err(GridError::ByteCount { expected: 4, found: 5 })));
        assert!(matches!(grid(&[0; 3], GREY), Err(GridError::ByteCount { expected: 4, found: 3 })));
        assert!(matches!(grid(&[], GREY), Err(GridError::NoImages)));
        let four = ImageShape { channels: 4, ..GREY };
        assert!(matches!(grid(&[0; 16], four), Err(GridError::Channels(4))));
        let none = ImageShape { channels: 0, ..GREY };
        assert!(matches!(grid(&[0; 16], none), Err(GridError::Channels(0))));
        let flat = ImageShape { height: 0, ..GREY };
        assert!(matches!(grid(&[0; 16], flat), Err(GridError::NoPixels(_))));
        let huge = ImageShape { channels: 1, height: usize::MAX, width: usize::MAX };
        assert!(matches!(grid(&[0; 16], huge), Err(GridError::ByteCount { .. })));
        let level = grid(&[0, 1, 2, 4], GREY);
        assert!(matches!(level, Err(GridError::LevelOutOfRange { offset: 3, found: 4, levels: 4 })));
        for levels in [0, 1, 257, usize::MAX] {
            assert!(matches!(grid_png(&[0; 4], GREY, levels, 1, 1), Err(GridError::Levels(_))));
        }
    }

    #[test]
    fn impossible_layouts_are_refused() {
        let grid = |columns, scale| grid_png(&[0; 8], GREY, 2, columns, scale);
        assert!(matches!(grid(0, 1), Err(GridError::Layout { .. })));
        assert!(matches!(grid(1, 0), Err(GridError::Layout { .. })));
        for scale in [1 << 20, 1 << 40, usize::MAX / 2, usize::MAX] {
            assert!(matches!(grid(1, scale), Err(GridError::TooLarge { .. })));
        }
        assert!(grid(usize::MAX, 1).is_ok());
    }

    #[test]
    fn images_are_saved_one_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("new");
        save_images(&folder, &[0, 1, 1, 0, 1, 1, 1, 1], GREY, 2, 0).unwrap();
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 2);
        let image = image::load_from_memory(&fs::read(folder.join("image-00000.png")).unwrap()).unwrap();
        assert_eq!(image.into_luma8().into_raw(), [0, 255, 255, 0]);
        assert!(folder.join("image-00001.png").exists());

        let untouched = dir.path().join("untouched");
        assert!(save_images(&untouched, &[0; 7], GREY, 2, 0).is_err());
        assert!(!untouched.exists());
    }
}
