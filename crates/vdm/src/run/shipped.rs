//! The models that come with the library, inside it: they are there wherever the program is, in every version of it the same.

use super::{LoadError, ModelFile};
use std::path::Path;

/// A model's name, and the bytes of its file.
const MODELS: &[(&str, &[u8])] = &[
    ("digits", include_bytes!("../../models/digits.safetensors")),
    ("fashion-mnist", include_bytes!("../../models/fashion-mnist.safetensors")),
];

/// The names.
pub fn names() -> impl Iterator<Item = &'static str> {
    MODELS.iter().map(|(name, _)| *name)
}

/// The model of this name, if there is one.
///
/// # Errors
/// See [`LoadError`]; a test sees to it that there is none.
pub fn model(name: &str) -> Option<Result<ModelFile, LoadError>> {
    let (name, bytes) = MODELS.iter().find(|model| model.0 == name)?;
    Some(ModelFile::parse(bytes, Path::new(name)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Device;

    #[test]
    fn every_shipped_model_can_be_opened() {
        for name in names() {
            let file = model(name).unwrap().unwrap();
            file.model(Path::new(name), &Device::flex()).unwrap();
            for key in ["licence", "recipe", "bound"] {
                assert!(file.about.contains_key(key), "{name} says nothing about its {key}");
            }
        }
        assert!(model("nothing").is_none());
    }
}
