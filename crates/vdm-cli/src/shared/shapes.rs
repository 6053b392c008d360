//! Shapes of images, where no image is at hand.

use vdm::ImageShape;
use vdm::data::DataSource;

/// The shape of a source's images, where it is known without reading them.
pub fn usual_shape(source: &DataSource) -> Option<ImageShape> {
    let of = |channels, side| Some(ImageShape { channels, height: side, width: side });
    match source {
        DataSource::Digits(_) => of(1, 8),
        DataSource::Idx(_) => of(1, 28),
        DataSource::Cifar10(_) => of(3, 32),
        DataSource::Imagenet(source) => of(3, source.size),
        DataSource::Folder(_) => None,
    }
}

/// An image shape such as `3,32,32`.
pub fn shape(text: &str) -> Result<ImageShape, String> {
    let sides: Option<Vec<usize>> = text.split(',').map(|side| side.parse().ok()).collect();
    match sides.as_deref() {
        Some(&[channels @ 1..=16, height @ 1..=4096, width @ 1..=4096]) if channels * height * width <= 1 << 24 => {
            Ok(ImageShape { channels, height, width })
        }
        _ => {
            Err("expected channels, height and width, such as 3,32,32; at most 16 channels, 4096 pixels a side and 16,777,216 numbers"
                .into())
        }
    }
}
