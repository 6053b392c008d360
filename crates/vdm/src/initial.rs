//! Initial weights, drawn on the host: a seed gives the same model on every device and every machine.

use crate::random::INITIAL;
use burn::module::Param;
use burn::tensor::{Device, Tensor, TensorData};
use std::cell::Cell;
use vdm_kernels::rng::Philox;

thread_local! {
    /// The seed of the weights that this thread draws, and the number of the next parameter.
    static NEXT: Cell<(u64, u64)> = const { Cell::new((0, 0)) };
}

/// Makes something whose initial weights are functions of `seed`: parameter number n, counted from 0 in the order in which
/// they are made, is drawn from stream n.
///
/// What is made outside of this function has the seed 0 and the thread's own count.
pub fn seeded<T>(seed: u64, make: impl FnOnce() -> T) -> T {
    let before = NEXT.replace((seed, 0));
    let made = make();
    NEXT.set(before);
    made
}

/// How a parameter starts.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Initial {
    /// All 0.
    Zeros,
    /// All 1.
    Ones,
    /// Normal with this standard deviation around 0.
    Normal(f64),
    /// Uniform between minus and plus this number.
    Uniform(f64),
}

impl Initial {
    /// Normal weights with variance 1 / fan-in (LeCun et al. 1998), the reference code's initialisation.
    pub fn lecun(fan_in: usize) -> Self {
        Self::Normal(1.0 / (fan_in as f64).sqrt())
    }

    /// A parameter of this shape.
    pub fn init<const D: usize>(self, shape: [usize; D], device: &Device) -> Param<Tensor<D>> {
        let mut data = vec![0f32; shape.iter().product()];
        match self {
            Self::Zeros => {}
            Self::Ones => data.fill(1.0),
            Self::Normal(deviation) => {
                stream().normal(0, &mut data);
                data.iter_mut().for_each(|x| *x *= deviation as f32);
            }
            Self::Uniform(bound) => {
                stream().uniform(0, &mut data);
                data.iter_mut().for_each(|x| *x = (2.0 * *x - 1.0) * bound as f32);
            }
        }
        Param::from_data(TensorData::new(data, shape), device)
    }
}

/// The stream of the next random parameter.
fn stream() -> Philox {
    let (seed, number) = NEXT.get();
    NEXT.set((seed, number + 1));
    Philox::new(seed ^ INITIAL, number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::math::host;

    fn drawn(seed: u64) -> [Vec<f64>; 3] {
        let device = Device::flex();
        seeded(seed, || {
            [Initial::lecun(4), Initial::Uniform(3.0), Initial::Normal(1.0)]
                .map(|i| host(&i.init([40, 50], &device).val()))
        })
    }

    #[test]
    fn a_seed_gives_the_same_weights_and_every_parameter_others() {
        assert_eq!(drawn(1), drawn(1));
        let [[a, b, c], [d, ..]] = [drawn(1), drawn(2)];
        assert!(a != d && a.iter().zip(&c).all(|(a, c)| (a - 0.5 * c).abs() > 1e-12));
        assert!(b.iter().all(|x| (-3.0..3.0).contains(x)));
    }

    #[test]
    fn weights_have_the_variance_that_was_asked_for() {
        for (found, want) in drawn(5).iter().zip([0.25, 3.0, 1.0]) {
            let variance = found.iter().map(|x| x * x).sum::<f64>() / found.len() as f64;
            assert!((variance / want - 1.0).abs() < 0.15, "{variance} {want}");
        }
    }
}
