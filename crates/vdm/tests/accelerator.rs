//! The kernels for accelerators against those of the CPU. `scripts/device.sh` runs them on the device that `VDM_DEVICE` names.
#![cfg(any(feature = "cuda", feature = "wgpu"))]

#[path = "common/device.rs"]
mod device;

use burn::tensor::{DType, Device, Tensor, TensorData};
use vdm_kernels::rng::{Philox, normal_images};
use vdm_kernels::{Moments, NormArgs, SquareSums, Update, adamw_step, decoder_nll};
use vdm_kernels::{group_norm, group_norm_beside, group_norm_shifted};

fn accelerator() -> Device {
    let device = device::device();
    // Otherwise the CPU would be compared with itself.
    assert!(!vdm_kernels::is_fused(&device, DType::F32), "VDM_DEVICE names no accelerator");
    device
}

fn normals(stream: u64, n: usize) -> Vec<f32> {
    normal_images(&[Philox::new(9, stream)], 0, n)
}

fn host<const D: usize>(x: Tensor<D>) -> Vec<f32> {
    x.into_data().iter::<f32>().collect()
}

fn vector(numbers: &[f32], device: &Device) -> Tensor<1> {
    Tensor::from_data(numbers, device)
}

#[track_caller]
fn close(found: &[f32], expected: &[f32], relative: f32) {
    assert_eq!(found.len(), expected.len());
    for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
        assert!((found - expected).abs() <= relative * expected.abs().max(1.0), "{i}: {found} not {expected}");
    }
}

#[test]
fn noise_is_that_of_the_host() {
    for (streams, draw, numbers) in [(1, 0, 64), (3, 5, 1000), (2, 1, 37), (1, 0, 1 << 20)] {
        let streams: Vec<Philox> = (0..streams).map(|i| Philox::new(u64::MAX - i, i << 40 | 3)).collect();
        let found = host(vdm_kernels::normal(&streams, draw, numbers, &accelerator()));
        close(&found, &normal_images(&streams, draw, numbers), 2e-6);
    }
}

#[test]
fn the_decoder_is_that_of_the_cpu() {
    let (batch, dims) = (3, 500);
    for (levels, r) in [(256, 0.3), (256, 20.0), (17, 1e-2), (2, 3.0), (256, 1e-4)] {
        let eps = normals(1, batch * dims);
        let k: Vec<f32> = (0..batch * dims).map(|i| (i * 31 % levels) as f32).collect();
        let on = |device: &Device| {
            let of = |numbers: &[f32]| Tensor::from_data(TensorData::new(numbers.to_vec(), [batch, dims]), device);
            let (nll, d_nll) = decoder_nll(of(&eps), of(&k), levels, r);
            (host(nll), host(d_nll))
        };
        let ((nll, d_nll), (want, d_want)) = (on(&accelerator()), on(&Device::flex()));
        close(&nll, &want, 1e-5);
        close(&d_nll, &d_want, 1e-4);
    }
}

#[test]
fn the_optimiser_steps_as_on_the_cpu() {
    let update = Update {
        lr: 1e-2,
        beta1: 0.9,
        beta2: 0.99,
        eps: 1e-8,
        weight_decay: 0.1,
        correction1: 2.0,
        correction2: 3.0,
        ema_decay: 0.7,
        grad_scale: 0.5,
    };
    let n = 70_001;
    let on = |device: &Device| {
        let of = |stream| vector(&normals(stream, n), device);
        let state = Moments { m: of(2), v: of(3).abs(), ema: of(4) };
        // A second handle holds the parameter's memory: it must not be overwritten.
        let p = of(1);
        let held = p.clone();
        let (p, state) = adamw_step(&update, p, state, of(5));
        let (p, Moments { m, v, ema }) = adamw_step(&update, p, state, of(6));
        assert_eq!(host(held), normals(1, n));
        [p, m, v, ema].map(host)
    };
    for (found, expected) in on(&accelerator()).iter().zip(&on(&Device::flex())) {
        close(found, expected, 1e-5);
    }
}

#[test]
fn sums_of_squares_are_those_of_the_cpu() {
    let sizes = [1, 255, 256, 65_536, 65_537, 300_001];
    let on = |device: &Device| {
        let tensors: Vec<_> = sizes.iter().map(|&n| vector(&normals(n as u64, n), device)).collect();
        SquareSums::of(&tensors.iter().collect::<Vec<_>>()).read()
    };
    for (found, expected) in on(&accelerator()).iter().zip(on(&Device::flex())) {
        assert!((found / expected - 1.0).abs() < 1e-5, "{found} not {expected}");
    }
}

/// Which normalisation.
#[derive(Clone, Copy, Debug)]
enum Norm {
    Plain,
    Shifted,
    /// Of the channels of two tensors, so many in the first.
    Beside(usize),
}

/// The output of a normalisation, and the gradients of all its inputs for a weighted sum of it.
fn normalised(kind: Norm, [b, c, h, w]: [usize; 4], args: NormArgs, device: &Device) -> Vec<Vec<f32>> {
    let device = device.clone().autodiff();
    let image = |stream, c| {
        let numbers: Vec<f32> = normals(stream, b * c * h * w).iter().map(|x| 2.0 * x + 1.0).collect();
        Tensor::<4>::from_data(TensorData::new(numbers, [b, c, h, w]), &device).require_grad()
    };
    let of_channels = |stream| Tensor::<1>::from_data(normals(stream, c).as_slice(), &device).require_grad();
    let (gamma, beta) = (of_channels(3), of_channels(4));
    let shift = Tensor::<2>::from_data(TensorData::new(normals(5, b * c), [b, c]), &device).require_grad();
    let [first, second] = match kind {
        Norm::Beside(of_first) => [image(1, of_first), image(2, c - of_first)],
        Norm::Plain | Norm::Shifted => [image(1, c), image(2, c)],
    };
    let (x, gamma_, beta_) = (first.clone(), gamma.clone(), beta.clone());
    let y = match kind {
        Norm::Plain => group_norm(x, gamma_, beta_, args),
        Norm::Shifted => group_norm_shifted(x, gamma_, beta_, shift.clone(), args),
        Norm::Beside(_) => group_norm_beside(x, second.clone(), gamma_, beta_, args),
    };
    let weight = Tensor::<4>::from_data(TensorData::new(normals(6, b * c * h * w), [b, c, h, w]), &device);
    let mut grads = (y.clone() * weight).sum().backward();
    let mut out = vec![host(y.inner())];
    out.push(host(first.grad_remove(&mut grads).expect("of the input")));
    out.push(host(gamma.grad_remove(&mut grads).expect("of gamma")));
    out.push(host(beta.grad_remove(&mut grads).expect("of beta")));
    match kind {
        Norm::Plain => {}
        Norm::Shifted => out.push(host(shift.grad_remove(&mut grads).expect("of the shift"))),
        Norm::Beside(_) => out.push(host(second.grad_remove(&mut grads).expect("of the second input"))),
    }
    out
}

/// With dropout: the masks must be those of the CPU.
#[test]
fn normalisations_are_those_of_the_cpu() {
    for kind in [Norm::Plain, Norm::Shifted, Norm::Beside(8), Norm::Beside(4)] {
        for shape in [[2, 12, 9, 7], [3, 12, 20, 20], [1, 12, 1, 1]] {
            for (silu, dropout) in [(false, 0.0), (true, 0.0), (true, 0.3)] {
                let args = NormArgs { groups: 3, eps: 1e-6, silu, dropout, seed: 0x1234_5678_9ABC };
                let (found, expected) =
                    (normalised(kind, shape, args, &accelerator()), normalised(kind, shape, args, &Device::flex()));
                for (found, expected) in found.iter().zip(&expected) {
                    close(found, expected, 5e-5);
                }
            }
        }
    }
}

/// Devices that share a batch give the gradient of one; here they are the same device, since there may be one only. When
/// several threads added up, the gradient of the schedule was wrong.
#[test]
fn a_device_taken_twice_gives_the_gradient_of_the_batch() {
    let sets = ["model.n_embd=32", "model.n_layer=1", "model.dropout=0", "train.batch_size=6"].map(String::from);
    let config = vdm::config::resolve("digits", None, &sets).unwrap();
    let data = vdm::train::Datasets::load(&config).unwrap().train;
    let device = accelerator();
    let model = config.init(data.shape(), data.vocabulary(), &device.clone().autodiff());
    let k: Vec<f32> = (0..6).flat_map(|i| data.image(i).iter().map(|&k| f32::from(k))).collect();
    let k = Tensor::<4>::from_data(TensorData::new(k, data.shape().batch(6)), &device);
    let batch = vdm::train::Batch::draw(k, 3, Default::default());
    let gradients = |others: &[Device]| {
        let objective = vdm::schedule::ScheduleObjective::Bound;
        let (sum, terms) = vdm::train::batch_gradients_on(&model, batch.clone(), objective, others).unwrap();
        (sum.mean(), sum.norm(), host(terms.total()))
    };
    let ((one, norm, loss), (two, _, shared_loss)) = (gradients(&[]), gradients(std::slice::from_ref(&device)));
    close(&shared_loss, &loss, 1e-5);
    assert_eq!(one.len(), two.len());
    for (name, one) in one {
        for (a, b) in one.iter().zip(&two[&name]) {
            assert!((a - b).abs() < 1e-5 * norm, "{name}: {a} {b}");
        }
    }
}
