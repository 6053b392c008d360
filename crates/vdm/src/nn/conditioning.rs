//! What a network is told about an image.

use super::Control;
use burn::tensor::{Device, Int, Tensor};
use std::ops::Range;

/// What a network is told about the images of a batch besides z_t and the time. A network ignores what it has no input
/// for.
///
/// The bound of a network that is told c bounds -log p(x|c).
#[derive(Clone, Debug, Default)]
pub struct Conditioning {
    /// One number per image, `[batch]`: 1 where augmentation changed the image, 0 where not. Zero if absent.
    pub scalar: Option<Tensor<1>>,
    /// The class of each image, below the network's number of classes; `None` for an image without one. No image has
    /// one if absent.
    pub classes: Option<Vec<Option<u32>>>,
    /// What the attention of a [`UNet`](super::UNet) looks at. Zeros if absent.
    pub control: Option<Control>,
    /// An estimate of x, of z_t's shape, for a network with self-conditioning. If absent, the model makes one.
    pub self_cond: Option<Tensor<4>>,
}

/// Why a conditioning does not fit the images or the network.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConditioningError {
    /// The number of entries is not the number of images.
    #[error("{what}: {found} for {images} images; there must be one for each")]
    Count {
        /// Which part of the conditioning.
        what: &'static str,
        /// Its entries.
        found: usize,
        /// The images of the batch.
        images: usize,
    },
    /// A class that the network does not know.
    #[error("image {image} of the batch is of class {class}, but the network knows the classes below {classes} only")]
    Class {
        /// The image's position in the batch.
        image: usize,
        /// Its class.
        class: u32,
        /// The network's classes.
        classes: usize,
    },
    /// A class for a network that takes none.
    #[error("image {image} of the batch has the class {class}, but the network was not trained with classes")]
    Unconditional {
        /// The image's position in the batch.
        image: usize,
        /// Its class.
        class: u32,
    },
}

impl Conditioning {
    /// Images of these classes.
    pub fn of_classes(classes: impl IntoIterator<Item = Option<u32>>) -> Self {
        Self { classes: Some(classes.into_iter().collect()), ..Self::default() }
    }

    /// Images of these numbers, of which the classes take turns: number n is of class n modulo `classes`. No image has a
    /// class if there are none.
    pub fn classes_in_turn(numbers: Range<u64>, classes: usize) -> Self {
        match classes as u64 {
            0 => Self::default(),
            n => Self::of_classes(numbers.map(|number| Some((number % n) as u32))),
        }
    }

    /// The same without what guidance leaves out: the class and the control signal.
    pub fn without_class_and_control(&self) -> Self {
        Self { classes: None, control: None, ..self.clone() }
    }

    /// The same without autodiff, for a pass that nothing is learned through.
    pub(crate) fn inner(&self) -> Self {
        self.each(Tensor::inner, Tensor::inner, Tensor::inner)
    }

    /// The same on the device with autodiff.
    pub(crate) fn autodiff(&self) -> Self {
        self.each(Tensor::from_inner, Tensor::from_inner, Tensor::from_inner)
    }

    /// The same on another device.
    pub(crate) fn to_device(&self, device: &Device) -> Self {
        self.each(|t| t.to_device(device), |t| t.to_device(device), |t| t.to_device(device))
    }

    /// What is given of the images `images` of the batch.
    pub fn slice(&self, images: Range<usize>) -> Self {
        let classes = self.classes.as_ref().map(|classes| classes[images.clone()].to_vec());
        let range = || [images.clone()];
        Self { classes, ..self.each(|t| t.slice(range()), |t| t.slice(range()), |t| t.slice(range())) }
    }

    /// What is given of these images of the batch; an image may be named more than once.
    pub fn select(&self, images: &[usize]) -> Self {
        let classes = self.classes.as_ref().map(|classes| images.iter().map(|&i| classes[i]).collect());
        let rows: Vec<i32> = images.iter().map(|&i| i as i32).collect();
        let rows = |device: &Device| Tensor::<1, Int>::from_data(rows.as_slice(), device);
        Self {
            classes,
            ..self.each(
                |t| {
                    let rows = rows(&t.device());
                    t.select(0, rows)
                },
                |t| {
                    let rows = rows(&t.device());
                    t.select(0, rows)
                },
                |t| {
                    let rows = rows(&t.device());
                    t.select(0, rows)
                },
            )
        }
    }

    /// The same with every tensor changed, by its number of dimensions.
    fn each(
        &self,
        one: impl Fn(Tensor<1>) -> Tensor<1>,
        three: impl Fn(Tensor<3>) -> Tensor<3>,
        four: impl Fn(Tensor<4>) -> Tensor<4>,
    ) -> Self {
        Self {
            scalar: self.scalar.clone().map(one),
            classes: self.classes.clone(),
            control: self.control.clone().map(|control| match control {
                Control::Sequence(tokens) => Control::Sequence(three(tokens)),
                Control::Image(image) => Control::Image(four(image)),
            }),
            self_cond: self.self_cond.clone().map(&four),
        }
    }

    /// Whether the class of any image is given, or a control signal.
    pub fn has_class_or_control(&self) -> bool {
        self.control.is_some() || self.classes.iter().flatten().any(Option::is_some)
    }

    /// Checks the conditioning of `images` images for a network of `classes` classes: the number of entries, and the
    /// classes. A control signal or an estimate of another kind or width than the network's makes its forward pass panic.
    ///
    /// # Errors
    /// See [`ConditioningError`].
    pub fn check(&self, classes: usize, images: usize) -> Result<(), ConditioningError> {
        let count = |what: &'static str, found: usize| {
            if found == images { Ok(()) } else { Err(ConditioningError::Count { what, found, images }) }
        };
        if let Some(scalar) = &self.scalar {
            count("the conditioning scalar", scalar.dims()[0])?;
        }
        if let Some(estimate) = &self.self_cond {
            count("the estimate for self-conditioning", estimate.dims()[0])?;
        }
        match &self.control {
            Some(Control::Sequence(tokens)) => count("the control sequence", tokens.dims()[0])?,
            Some(Control::Image(image)) => count("the control image", image.dims()[0])?,
            None => {}
        }
        let Some(of_images) = &self.classes else {
            return Ok(());
        };
        count("classes", of_images.len())?;
        for (image, class) in of_images.iter().enumerate().filter_map(|(i, c)| Some((i, (*c)?))) {
            if classes == 0 {
                return Err(ConditioningError::Unconditional { image, class });
            }
            if class as usize >= classes {
                return Err(ConditioningError::Class { image, class, classes });
            }
        }
        Ok(())
    }
}
