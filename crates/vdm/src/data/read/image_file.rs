//! One image file, made to fit: decoded, checked to be 8 bits and opaque,
//! resized, cropped, and laid out in CHW order.

use std::io::{Cursor, Read};
use std::path::Path;

use image::codecs::png::PngDecoder;
use image::codecs::webp::WebPDecoder;
use image::imageops::FilterType;
use image::{
    ColorType, DynamicImage, GrayImage, ImageDecoder, ImageError, ImageFormat, ImageReader, Limits, Luma, Rgb, RgbImage,
};

use crate::data::error::{DataError, Result};
use crate::data::read::bytes::{io_error, open_file};

/// The longest side of an image, as stored and after resizing, in pixels.
const MAX_SIDE: u32 = 16_384;

/// The most memory for the pixels of one image, in bytes.
const MAX_DECODED: u64 = 1 << 30;

/// The longest file, since decoders read files whole, in bytes.
const MAX_FILE: u64 = 1 << 30;

/// Read an image as `channels * size * size` bytes. Grey and colour are
/// converted to the other where `channels` (1 or 3) asks for it.
pub(in crate::data) fn read_image(path: &Path, size: u32, channels: usize) -> Result<Vec<u8>> {
    let image = opaque(path, decode(path)?)?;
    Ok(planes(fit(path, image, size)?, channels))
}

fn decode(path: &Path) -> Result<DynamicImage> {
    let unreadable = |error: ImageError| unreadable(path, error.to_string());
    let mut reader = ImageReader::new(Cursor::new(read_whole(path)?))
        .with_guessed_format()
        .map_err(|reason| io_error(path, "read", reason))?;
    reader.limits(limits());
    let mut decoder = reader.into_decoder().map_err(unreadable)?;
    check_bytes(path, "pixels", decoder.total_bytes(), MAX_DECODED)?;
    let format = decoder.color_type();
    if !matches!(format, ColorType::L8 | ColorType::La8 | ColorType::Rgb8 | ColorType::Rgba8) {
        return Err(DataError::BitDepth { path: path.to_owned(), found: format!("{format:?}") });
    }
    // Cameras store photographs lying on their side and say so here.
    let orientation = decoder.orientation().map_err(unreadable)?;
    let mut image = DynamicImage::from_decoder(decoder).map_err(unreadable)?;
    image.apply_orientation(orientation);
    Ok(image)
}

/// Refuse a file that holds less or more than one image: a JPEG or WebP file that ends early, of which decoders give the
/// upper part, and an animation, of which they give the first picture.
///
/// # Errors
/// [`DataError::UnreadableImage`], [`DataError::Io`].
pub fn check_whole(path: &Path) -> Result<()> {
    read_whole(path).map(|_| ())
}

/// The bytes of a file that passes [`check_whole`].
fn read_whole(path: &Path) -> Result<Vec<u8>> {
    let (mut file, length) = open_file(path)?;
    check_bytes(path, "a file", length, MAX_FILE)?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).map_err(|reason| io_error(path, "read", reason))?;
    // The program writes GIF films, so the decoder is there; but a GIF may hold many images, in colours of a palette.
    if bytes.starts_with(b"GIF8") {
        return Err(unreadable(path, "it is a GIF; convert it to PNG".into()));
    }
    let whole = match bytes.as_slice() {
        [0xff, 0xd8, ..] => jpeg_is_whole(&bytes),
        [b'R', b'I', b'F', b'F', a, b, c, d, b'W', b'E', b'B', b'P', ..] => {
            bytes.len() as u64 >= 8 + u64::from(u32::from_le_bytes([*a, *b, *c, *d]))
        }
        _ => true,
    };
    if !whole {
        return Err(unreadable(path, "the file is incomplete: it ends before its image does".into()));
    }
    let start = Cursor::new(&bytes);
    // What cannot be read at all is the decoder's to say.
    let animated = match image::guess_format(&bytes) {
        Ok(ImageFormat::Png) => PngDecoder::new(start).and_then(|png| png.is_apng()).unwrap_or(false),
        Ok(ImageFormat::WebP) => WebPDecoder::new(start).is_ok_and(|webp| webp.has_animation()),
        _ => false,
    };
    if animated {
        return Err(unreadable(path, "it is animated; only single images are read".into()));
    }
    Ok(bytes)
}

/// Whether a JPEG file has its end-of-image marker after the coded data: segments are skipped by their lengths, so that
/// a thumbnail's own marker does not count.
fn jpeg_is_whole(bytes: &[u8]) -> bool {
    let mut at = 2;
    while let Some(&[first, marker]) = bytes.get(at..at + 2) {
        match (first, marker) {
            (0xff, 0xd9) => return true,
            // Fill bytes, and markers without a segment: restarts, and zeros that are stuffed into coded data.
            (0xff, 0xff) => at += 1,
            (0xff, 0x00 | 0x01 | 0xd0..=0xd8) => at += 2,
            (0xff, _) => match bytes.get(at + 2..at + 4) {
                Some(&[high, low]) => at += 2 + usize::from(u16::from_be_bytes([high, low])).max(2),
                _ => return false,
            },
            // Coded data.
            _ => at += 1,
        }
    }
    false
}

fn limits() -> Limits {
    let mut limits = Limits::no_limits();
    limits.max_image_width = Some(MAX_SIDE);
    limits.max_image_height = Some(MAX_SIDE);
    limits.max_alloc = Some(MAX_DECODED);
    limits
}

/// Drop an alpha channel that hides nothing; refuse any other. Done by hand
/// so that the colours certainly stay as they are.
fn opaque(path: &Path, image: DynamicImage) -> Result<DynamicImage> {
    let transparent = |x, y, found| DataError::Transparent { path: path.to_owned(), x, y, found };
    match image {
        DynamicImage::ImageLumaA8(source) => {
            let hole = source.enumerate_pixels().find(|(_, _, pixel)| pixel.0[1] != u8::MAX);
            if let Some((x, y, pixel)) = hole {
                return Err(transparent(x, y, pixel.0[1]));
            }
            let (width, height) = source.dimensions();
            let grey = GrayImage::from_fn(width, height, |x, y| Luma([source.get_pixel(x, y).0[0]]));
            Ok(DynamicImage::ImageLuma8(grey))
        }
        DynamicImage::ImageRgba8(source) => {
            let hole = source.enumerate_pixels().find(|(_, _, pixel)| pixel.0[3] != u8::MAX);
            if let Some((x, y, pixel)) = hole {
                return Err(transparent(x, y, pixel.0[3]));
            }
            let (width, height) = source.dimensions();
            let colour = RgbImage::from_fn(width, height, |x, y| {
                let [red, green, blue, _] = source.get_pixel(x, y).0;
                Rgb([red, green, blue])
            });
            Ok(DynamicImage::ImageRgb8(colour))
        }
        other => Ok(other),
    }
}

/// Resize so that the shorter side is `size`, and crop the middle.
fn fit(path: &Path, image: DynamicImage, size: u32) -> Result<DynamicImage> {
    let (width, height) = (image.width(), image.height());
    let shorter = width.min(height);
    if shorter == 0 {
        return Err(unreadable(path, format!("an image of {width}x{height} pixels")));
    }
    let scaled = |side: u32| {
        let (side, size, shorter) = (u64::from(side), u64::from(size), u64::from(shorter));
        (side * size + shorter / 2) / shorter
    };
    let found = scaled(width.max(height));
    if found > u64::from(MAX_SIDE) {
        return Err(DataError::Elongated { path: path.to_owned(), expected: MAX_SIDE, found });
    }
    // Both fit 32 bits now, being at most MAX_SIDE.
    let (width, height) = (scaled(width) as u32, scaled(height) as u32);
    let resized = if shorter == size { image } else { image.resize_exact(width, height, FilterType::Lanczos3) };
    Ok(resized.crop_imm((width - size) / 2, (height - size) / 2, size, size))
}

fn planes(image: DynamicImage, channels: usize) -> Vec<u8> {
    match (image, channels) {
        (image, 1) => image.into_luma8().into_raw(),
        (DynamicImage::ImageLuma8(grey), _) => grey.as_raw().repeat(3),
        (image, _) => {
            let pixels = image.into_rgb8().into_raw();
            let plane = |channel| pixels.iter().skip(channel).step_by(3).copied();
            (0..3).flat_map(plane).collect()
        }
    }
}

fn check_bytes(path: &Path, what: &str, found: u64, expected: u64) -> Result<()> {
    if found <= expected {
        return Ok(());
    }
    let reason = format!("{what} of {found} bytes, where at most {expected} are expected");
    Err(unreadable(path, reason))
}

fn unreadable(path: &Path, reason: String) -> DataError {
    DataError::UnreadableImage { path: path.to_owned(), reason }
}
