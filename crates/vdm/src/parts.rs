//! How a batch is cut into parts that are computed side by side on the CPU; see [`vdm_kernels::teams`].

use burn::tensor::Tensor;
use std::ops::Range;
use vdm_kernels::teams;

/// Pixels that a part for training has at least, where the batch has so many: what is done once a part (a weight's
/// transformation, an operator's call) must be little compared with what is done for every pixel.
const LEAST_PIXELS: usize = 1024;
/// Images of a part at most in a pass without gradients, so that a part's tensors stay in the cache...
const FEW_IMAGES: usize = 4;
/// ... or, for small images, as many as have this many pixels.
const FEW_PIXELS: usize = 2048;
/// Parts that a training batch is cut into at most: each makes a gradient of its own.
const MAX_TRAINING_PARTS: usize = 8;

/// More parameters than these for each pixel of a part are many: what is done once a part for every parameter (to transform
/// it, to add up its gradient) takes a fifth of the time.
const PARAMETERS_OF_PIXEL: usize = 700;
/// Parts of a batch for a network of many parameters: the larger parts take more memory.
const FEW_TRAINING_PARTS: usize = 4;

/// Whether the device computes in parts: accelerators take a whole batch at once.
fn in_parts(images: &Tensor<4>) -> bool {
    vdm_kernels::is_fused(&images.device(), images.dtype())
}

fn ranges(batch: usize, size: usize) -> Vec<Range<usize>> {
    (0..batch).step_by(size.max(1)).map(|first| first..batch.min(first + size)).collect()
}

/// Images that have `pixels` pixels together.
fn images_of(pixels: usize, images: &Tensor<4>) -> usize {
    let [_, _, h, w] = images.dims();
    pixels.div_ceil((h * w).max(1))
}

/// Parts for a pass without gradients: the same number for each team of threads, of about the same size. An image's result does
/// not depend on the images beside it, so the number of threads does not show in it.
fn for_inference(images: &Tensor<4>) -> Vec<Range<usize>> {
    let batch = images.dims()[0];
    if !in_parts(images) {
        return ranges(batch, batch);
    }
    let most = images_of(FEW_PIXELS, images).max(FEW_IMAGES);
    let parts = batch.div_ceil(most).next_multiple_of(teams::count(batch)).min(batch);
    (0..parts).map(|i| i * batch / parts..(i + 1) * batch / parts).collect()
}

/// `f` of all images of a pass without gradients, in their parts, side by side; `job` makes what `f` takes of a part. `None`
/// on an accelerator: then the caller takes all images at once.
pub(crate) fn side_by_side<J: Send>(
    images: &Tensor<4>,
    job: impl FnMut(Range<usize>) -> J,
    f: impl Fn(J) -> Tensor<4> + Send + Sync,
) -> Option<Tensor<4>> {
    let parts = for_inference(images);
    let wanted = in_parts(images) && !parts.is_empty();
    wanted.then(|| {
        let jobs = parts.into_iter().map(job).collect();
        Tensor::cat(teams::in_pool(|| teams::map(jobs, f)), 0)
    })
}

/// Parts for a pass with gradients: a function of the batch and the number of parameters alone, since the sum of the parts'
/// gradients depends on the parts in its last bits. An accelerator takes all images at once, and several of them one part
/// each: there are `sharers` at most.
pub(crate) fn for_training(images: &Tensor<4>, parameters: usize, sharers: usize) -> Vec<Range<usize>> {
    let batch = images.dims()[0];
    if !in_parts(images) {
        return ranges(batch, batch.div_ceil(sharers));
    }
    let size = batch.div_ceil(MAX_TRAINING_PARTS).max(images_of(LEAST_PIXELS, images));
    let [_, _, h, w] = images.dims();
    let few = parameters > PARAMETERS_OF_PIXEL * size * h * w;
    ranges(batch, if few { size.max(batch.div_ceil(FEW_TRAINING_PARTS)) } else { size })
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Device;

    fn images(batch: usize, side: usize) -> Tensor<4> {
        Tensor::zeros([batch, 1, side, side], &Device::flex())
    }

    #[test]
    fn a_single_image_is_computed_on_a_thread_of_the_pool() {
        let image = images(1, 8);
        let on_pool = |image: Tensor<4>| {
            assert!(rayon::current_thread_index().is_some(), "outside of the pool");
            image
        };
        assert_eq!(side_by_side(&image, |_| image.clone(), on_pool).unwrap().dims(), [1, 1, 8, 8]);
    }

    #[test]
    fn parts_cover_the_batch_in_order() {
        for batch in [0, 1, 2, 7, 16, 33, 64] {
            for side in [1, 8, 28, 64] {
                let of_training =
                    [0, usize::MAX >> 16].map(|parameters| for_training(&images(batch, side), parameters, 1));
                for parts in [for_inference(&images(batch, side))].into_iter().chain(of_training) {
                    let covered: Vec<usize> = parts.into_iter().flatten().collect();
                    assert_eq!(covered, (0..batch).collect::<Vec<_>>());
                }
            }
        }
    }

    /// Twelve images were cut into three parts of four: one of two threads had two of them, the other one.
    #[test]
    fn inference_parts_are_shared_out_evenly() {
        let sizes = |threads, batch| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| Vec::from_iter(for_inference(&images(batch, 28)).iter().map(|r| r.len())))
        };
        assert_eq!(sizes(2, 12), [3, 3, 3, 3]);
        assert_eq!(sizes(2, 10), [2, 3, 2, 3]);
        assert_eq!((sizes(2, 1), sizes(2, 3), sizes(2, 16)), (vec![1], vec![1, 2], vec![4; 4]));
        // Three threads make two teams, six make four.
        assert_eq!(sizes(3, 12), [3, 3, 3, 3]);
        assert_eq!(sizes(6, 64), [4; 16]);
    }

    #[test]
    fn training_parts_do_not_depend_on_threads() {
        let with = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| [1 << 16, 1 << 24].map(|parameters| for_training(&images(64, 28), parameters, 1)))
        };
        assert_eq!(with(1), with(3));
        // Many parameters make few parts.
        assert_eq!(with(1).map(|parts| parts.len()), [MAX_TRAINING_PARTS, FEW_TRAINING_PARTS]);
    }
}
