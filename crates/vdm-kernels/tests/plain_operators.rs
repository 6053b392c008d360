//! The operators that are not differentiable themselves: decoder_nll, adamw_step and SquareSums.
#![allow(clippy::disallowed_methods)]

mod common;

use burn::tensor::{Device, Slice, Tensor};
use common::*;
use vdm_kernels::{Moments, SquareSums, Update, reference};

/// Levels and r: a noise far wider than the levels, about as wide, and narrower.
const DECODERS: [(usize, f64); 4] = [(256, 0.01), (2, 0.3), (256, 0.7), (8, 2.5)];

#[test]
fn decoder_nll_agrees_with_the_reference() {
    for [b, dims] in [[1, 5], [3, 33], [17, 64]] {
        for (levels, r) in DECODERS {
            let [nll, d_nll] = decoder(Kind::Fused, View::Plain, [b, dims], levels, r);
            let [want_nll, want_d] = decoder(Kind::Reference, View::Plain, [b, dims], levels, r);
            let name = format!("{b} x {dims}, {levels} levels, r = {r}");
            assert_near(&nll, &wide(&want_nll), VALUES, &name);
            assert_near(&d_nll, &wide(&want_d), VALUES, &name);
        }
    }
}

#[test]
fn decoder_nll_agrees_with_finite_differences() {
    let (b, dims) = (3, 33);
    for (levels, r) in DECODERS {
        let [nll, d_nll] = decoder(Kind::Fused, View::Plain, [b, dims], levels, r);
        let [eps, k] = decoder_inputs(b, dims, levels);
        let r = f64::from(r as f32);
        let at = |r: f64| -> Vec<f64> {
            eps.chunks(dims).zip(k.chunks(dims)).map(|(eps, k)| decoder_f64(eps, k, levels, r)).collect()
        };
        let slope: Vec<f64> = at(r + STEP).iter().zip(at(r - STEP)).map(|(a, b)| (a - b) / (2.0 * STEP)).collect();
        assert_near(&nll, &at(r), VALUES, "nll");
        assert_near(&d_nll, &slope, GRADIENTS, "d_nll");
    }
}

#[test]
fn decoder_nll_takes_views() {
    let want = decoder(Kind::Fused, View::Plain, [3, 33], 256, 0.7);
    for view in [View::Offset, View::Sliced, View::Permuted] {
        assert_eq!(decoder(Kind::Fused, view, [3, 33], 256, 0.7), want, "{view:?}");
    }
}

#[test]
fn adamw_step_agrees_with_the_reference() {
    for n in [1, 5, 33, 1000, 40_001] {
        let got = adamw(Kind::Fused, n, plain);
        let want = adamw(Kind::Reference, n, plain);
        for ((got, want), name) in got.iter().zip(&want).zip(["p", "m", "v", "ema"]) {
            assert_near(got, &wide(want), VALUES, &format!("{name} of {n}"));
        }
    }
}

#[test]
fn adamw_step_takes_views() {
    let want = adamw(Kind::Fused, 33, plain);
    assert_eq!(adamw(Kind::Fused, 33, every_second), want, "every second element");
    assert_eq!(adamw(Kind::Fused, 33, offset), want, "from an offset");
}

#[test]
fn adamw_step_leaves_other_handles_alone() {
    let (p, state) = adamw_start(33, plain);
    let (p2, state2) = (p.clone(), state.clone());
    vdm_kernels::adamw_step(&adamw_update(1), p, state, plain(&normals(20, 33)));
    let (want, want_state) = adamw_start(33, plain);
    assert_eq!(values(p2), values(want));
    assert_eq!(values(state2.ema), values(want_state.ema));
}

#[test]
fn sum_of_squares_agrees_with_f64() {
    for n in [1, 33, 4095, 4097, 100_000] {
        let x = normals(0, n);
        let want: f64 = x.iter().map(|&x| f64::from(x).powi(2)).sum();
        for lay in [plain, offset, every_second] {
            let got = SquareSums::of(&[&lay(&x)]).read()[0];
            assert!((got / want - 1.0).abs() <= VALUES, "{n} numbers: {got}, not {want}");
        }
    }
}

fn decoder_f64(eps: &[f32], k: &[f32], levels: usize, r: f64) -> f64 {
    let one = |eps: f64, k: f64| {
        let sum: f64 = (0..levels).map(|v| (-0.5 * (eps + (k - v as f64) * r).powi(2)).exp()).sum();
        sum.ln() + 0.5 * eps * eps
    };
    eps.iter().zip(k).map(|(&eps, &k)| one(f64::from(eps), f64::from(k))).sum()
}

/// The decoder's value and derivative for `decoder_inputs`.
fn decoder(kind: Kind, view: View, [b, dims]: [usize; 2], levels: usize, r: f64) -> [Vec<f32>; 2] {
    let [eps, k] = decoder_inputs(b, dims, levels).map(|v| laid_out(plain(&v).reshape([b, dims]), view));
    let (nll, d_nll) = match kind {
        Kind::Fused => vdm_kernels::decoder_nll(eps, k, levels, r),
        Kind::Reference => reference::decoder_nll(eps, k, levels, r),
    };
    [values(nll), values(d_nll)]
}

fn adamw_update(step: i32) -> Update {
    Update {
        lr: 1e-2,
        beta1: 0.9,
        beta2: 0.99,
        eps: 1e-8,
        weight_decay: 0.01,
        correction1: 1.0 / (1.0 - 0.9f32.powi(step)),
        correction2: 1.0 / (1.0 - 0.99f32.powi(step)),
        ema_decay: 0.9,
        grad_scale: 0.5,
    }
}

fn adamw_start(n: usize, lay: fn(&[f32]) -> Tensor<1>) -> (Tensor<1>, Moments) {
    let squares: Vec<f32> = normals(12, n).iter().map(|x| x * x).collect();
    (lay(&normals(10, n)), Moments { m: lay(&normals(11, n)), v: lay(&squares), ema: lay(&normals(13, n)) })
}

/// Parameter, moments and average after three steps.
fn adamw(kind: Kind, n: usize, lay: fn(&[f32]) -> Tensor<1>) -> [Vec<f32>; 4] {
    let (mut p, mut state) = adamw_start(n, lay);
    for step in 1..=3 {
        let (update, g) = (adamw_update(step), lay(&normals(20 + step as u64, n)));
        (p, state) = match kind {
            Kind::Fused => vdm_kernels::adamw_step(&update, p, state, g),
            Kind::Reference => reference::adamw_step(&update, p, state, g),
        };
    }
    [p, state.m, state.v, state.ema].map(values)
}

/// A tensor without autodiff.
fn plain(values: &[f32]) -> Tensor<1> {
    leaf(values, &Device::flex(), false)
}

/// The same as a view from the middle of a longer buffer.
fn offset(values: &[f32]) -> Tensor<1> {
    laid_out(plain(values), View::Offset)
}

/// The same as a view with stride 2.
fn every_second(values: &[f32]) -> Tensor<1> {
    let pairs: Vec<f32> = values.iter().flat_map(|&x| [x, 7.0]).collect();
    plain(&pairs).slice(Slice::new(0, None, 2))
}
