//! Shapes of images on the command line.

use vdm::ImageShape;

/// An image shape such as `3,32,32`.
pub fn shape(text: &str) -> Result<ImageShape, String> {
    let sides: Option<Vec<usize>> = text.split(',').map(|side| side.parse().ok()).collect();
    let shape = match sides.as_deref() {
        Some(&[channels, height, width]) => Some(ImageShape { channels, height, width }),
        _ => None,
    };
    shape.filter(ImageShape::is_within_limits).ok_or_else(|| {
        "expected channels, height and width, such as 3,32,32; at most 16 channels, 4096 pixels a side and 16,777,216 numbers"
            .into()
    })
}
