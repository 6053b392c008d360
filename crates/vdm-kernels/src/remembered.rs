//! Weights of convolutions that were made ready before: sampling, evaluating and coding use the same ones at every step, and all
//! parts of a training batch do. To transform them took up to a sixth of the time.

use crate::cpu::conv::Ready;
use burn::tensor::Bytes;
use burn_flex::FlexTensor;
use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex, PoisonError, Weak};

/// Where the numbers of a tensor are: its memory, and the part of it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Place {
    memory: usize,
    offset: usize,
    shape: Vec<usize>,
    strides: Vec<isize>,
    /// What for: the convolution, or its gradient.
    flipped: bool,
}

/// What was made of the numbers at a place.
///
/// # Invariants
/// While `memory` can be upgraded, the numbers are those that `ready` was made of: Rust changes memory in place only where one
/// handle and no weak one is left, and else gives the changing handle memory of its own.
struct Entry {
    memory: Weak<Bytes>,
    ready: Arc<Ready>,
}

static REMEMBERED: LazyLock<Mutex<HashMap<Place, Entry>>> = LazyLock::new(Mutex::default);

/// What `make` made of this weight the last time, or makes now: for the convolution, or for its gradient if `flipped`.
pub fn remembered(weight: &FlexTensor, flipped: bool, make: impl FnOnce() -> Ready) -> Arc<Ready> {
    let (memory, layout) = (weight.data_arc(), weight.layout());
    let place = Place {
        memory: Arc::as_ptr(&memory) as usize,
        offset: layout.start_offset(),
        shape: layout.shape().to_vec(),
        strides: layout.strides().to_vec(),
        flipped,
    };
    let known = |all: &HashMap<Place, Entry>| {
        all.get(&place).filter(|entry| entry.memory.strong_count() > 0).map(|entry| entry.ready.clone())
    };
    if let Some(ready) = known(&REMEMBERED.lock().unwrap_or_else(PoisonError::into_inner)) {
        return ready;
    }
    // Outside of the lock; two threads may both make it, and one of them is kept.
    let ready = Arc::new(make());
    let mut all = REMEMBERED.lock().unwrap_or_else(PoisonError::into_inner);
    all.retain(|_, entry| entry.memory.strong_count() > 0);
    all.insert(place, Entry { memory: Arc::downgrade(&memory), ready: ready.clone() });
    ready
}

#[cfg(test)]
mod tests {
    use crate::conv2d;
    use burn::tensor::{Device, Tensor};

    fn values(t: Tensor<4>) -> Vec<f32> {
        t.into_data().try_into_vec().unwrap()
    }

    /// A weight that is changed in place, moved or freed is not taken for the old one.
    #[test]
    fn changed_weights_are_not_taken_for_the_remembered_ones() {
        let device = Device::flex();
        let x = Tensor::<4>::ones([1, 8, 6, 6], &device);
        let bias = Tensor::<2>::zeros([1, 8], &device);
        let mut weight = Tensor::<4>::full([8, 8, 3, 3], 0.25, &device);
        for i in 1..50 {
            let fresh = Tensor::<4>::full([8, 8, 3, 3], 0.25 * f64::from(i), &device);
            let [found, again] = [0, 1].map(|_| values(conv2d(x.clone(), weight.clone(), bias.clone())));
            assert_eq!(found, values(conv2d(x.clone(), fresh, bias.clone())), "after {i} changes");
            assert_eq!(found, again);
            // In place, since no other handle is left.
            weight = weight + 0.25;
        }
    }

    #[test]
    fn parts_of_one_memory_are_told_apart() {
        let device = Device::flex();
        let x = Tensor::<4>::ones([1, 2, 5, 5], &device);
        let bias = Tensor::<2>::zeros([1, 3], &device);
        let all = Tensor::<4>::from_data([[[[1.0f32; 3]; 3], [[2.0; 3]; 3], [[4.0; 3]; 3], [[8.0; 3]; 3]]; 3], &device);
        let middle = |from: usize| {
            let part = all.clone().slice([0..3, from..from + 2]);
            values(conv2d(x.clone(), part, bias.clone()))[12]
        };
        for _ in 0..2 {
            assert!(
                (middle(0) - 27.0).abs() < 1e-4 && (middle(1) - 54.0).abs() < 1e-4 && (middle(2) - 108.0).abs() < 1e-4
            );
        }
    }
}
