//! Exact resume and lossless decoding rest on these: the same bits at any number of threads, and for an image in any
//! batch.

#[macro_use]
mod common;

use burn::tensor::{Device, Tensor};
use common::*;
use vdm_kernels::{Moments, SquareSums, Update};

every_operator!(threads_do_not_matter);

fn threads_do_not_matter(op: &impl Operator) {
    let inputs = inputs(op);
    same_on_any_pool(|| run_fused(op, &inputs).each_ref().map(|v| bits(v)));
}

/// Threads that a small batch leaves idle take bands of lines, some outputs or some queries of an image.
#[test]
fn threads_do_not_matter_for_a_large_image_alone() {
    for b in [1, 2] {
        let conv = Conv { b, ci: 40, co: 67, h: 30, w: 27, k: 3, own_bias: false, first: 0 };
        for k in [1, 3, 5] {
            threads_do_not_matter(&Conv { k, ..conv });
            threads_do_not_matter(&Conv { k, own_bias: true, first: if k == 5 { 0 } else { 16 }, ..conv });
        }
        threads_do_not_matter(&Attention { b, c: 20, heads: 1, n: 330, m: 400 });
    }
    for k in [1, 3, 5] {
        let (x, w, to) = (normals(0, 40 * 28 * 28), normals(1, 24 * 40 * k * k), normals(2, 24 * 28 * 28));
        same_on_any_pool(|| {
            let (x, w) = (tensor(&x).reshape([1, 40, 28, 28]), tensor(&w).reshape([24, 40, k, k]));
            let sum = |to: Tensor<4>| {
                let y = vdm_kernels::conv2d_add(x.clone(), w.clone(), tensor(&normals(3, 24)).reshape([1, 24]), to);
                bits(&values(y))
            };
            let to = || tensor(&to).reshape([1, 24, 28, 28]);
            let held = to();
            [sum(to()), sum(held.clone()), bits(&values(held))]
        });
    }
}

#[test]
fn threads_do_not_matter_for_decoder_nll() {
    let [eps, k] = decoder_inputs(17, 65, 256);
    same_on_any_pool(|| decoder(&eps, &k, 17));
}

#[test]
fn threads_do_not_matter_for_adamw_step() {
    let update = Update {
        lr: 1e-2,
        beta1: 0.9,
        beta2: 0.99,
        eps: 1e-8,
        weight_decay: 0.01,
        correction1: 10.0,
        correction2: 100.0,
        ema_decay: 0.99,
        grad_scale: 1.0,
    };
    // Three chunks of 2^14 and a rest.
    let n = 50_001;
    same_on_any_pool(|| {
        let [p, m, ema, g] = [0, 1, 2, 3].map(|stream| tensor(&normals(stream, n)));
        let v = m.clone() * m.clone();
        let (p, state) = vdm_kernels::adamw_step(&update, p, Moments { m, v, ema }, g);
        [p, state.m, state.v, state.ema].map(|t| bits(&values(t)))
    });
}

#[test]
fn threads_do_not_matter_for_sum_of_squares() {
    let x = normals(0, 50_001);
    same_on_any_pool(|| SquareSums::of(&[&tensor(&x)]).read()[0].to_bits());
}

#[test]
fn conv2d_of_an_image_is_the_same_in_any_batch() {
    for (k, own_bias) in [(1, false), (1, true), (3, false), (3, true)] {
        same_in_any_batch(&Conv { b: 7, ci: 5, co: 33, h: 28, w: 11, k, own_bias, first: 0 });
        same_in_any_batch(&Conv { b: 7, ci: 1, co: 3, h: 1, w: 5, k, own_bias, first: 0 });
        same_in_any_batch(&Conv { b: 7, ci: 16, co: 24, h: 8, w: 33, k, own_bias, first: 0 });
    }
}

/// A tensor that no other handle holds is added to in place; one that is held stays as it is, and gives the same sum.
#[test]
fn conv2d_add_is_the_same_whether_or_not_its_target_is_held() {
    for (side, k) in [(8, 1), (8, 3), (7, 3), (5, 7)] {
        let (x, w) = (tensor(&normals(0, 16 * side * side)), tensor(&normals(1, 8 * 8 * k * k)));
        let (x, w) = (x.reshape([2, 8, side, side]), w.reshape([8, 8, k, k]));
        let bias = tensor(&normals(2, 8)).reshape([1, 8]);
        let of = |to: Tensor<4>| vdm_kernels::conv2d_add(x.clone(), w.clone(), bias.clone(), to).into_data();
        let target = normals(3, 16 * side * side);
        let made = || tensor(&target).reshape([2, 8, side, side]);
        let held = made();
        assert_eq!(of(held.clone()), of(made()), "side {side}, kernel {k}");
        assert_eq!(held.into_data(), made().into_data(), "a tensor that is held was written to");
    }
}

#[test]
fn group_norm_of_an_image_is_the_same_in_any_batch() {
    for silu in [false, true] {
        same_in_any_batch(&Norm::new([7, 33, 5, 6], 11, silu, 0.0));
        same_in_any_batch(&Norm::new([7, 33, 5, 6], 11, silu, 0.0).beside(6));
    }
}

#[test]
fn linear_of_a_row_is_the_same_in_any_batch() {
    for bias in [false, true] {
        same_in_any_batch(&Linear { b: 7, i: 33, o: 65, bias });
        same_in_any_batch(&Linear { b: 7, i: 64, o: 24, bias });
    }
}

#[test]
fn attention_of_an_image_is_the_same_in_any_batch() {
    same_in_any_batch(&Attention { b: 7, c: 10, heads: 2, n: 70, m: 13 });
    same_in_any_batch(&Attention { b: 7, c: 5, heads: 1, n: 9, m: 9 });
}

#[test]
fn decoder_nll_of_an_image_is_the_same_in_any_batch() {
    let (b, dims) = (7, 65);
    let [eps, k] = decoder_inputs(b, dims, 256);
    let [nll, d_nll] = decoder(&eps, &k, b);
    for (i, (eps, k)) in eps.chunks(dims).zip(k.chunks(dims)).enumerate() {
        assert_eq!(decoder(eps, k, 1), [vec![nll[i]], vec![d_nll[i]]], "image {i}");
    }
}

/// Runs `f` on pools of 1, 2, 3 and 5 threads, one repeatedly: chance decides which thread takes what.
fn same_on_any_pool<R: PartialEq + Send>(f: impl Fn() -> R + Sync) {
    let on = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(&f)
    };
    let want = on(1);
    for threads in [2, 3, 3, 3, 5] {
        assert!(on(threads) == want, "{threads} threads give other bits than one");
    }
}

/// Compares each image's output in the batch with its output alone.
fn same_in_any_batch(op: &impl Operator) {
    let (inputs, images) = (inputs(op), op.images());
    let all = forward(op, &inputs);
    for (i, want) in all.chunks_exact(all.len() / images).enumerate() {
        let of_image: Inputs = std::array::from_fn(|j| match op.inputs()[j] {
            (n, true) => inputs[j].chunks_exact(n / images).nth(i).unwrap().to_vec(),
            (_, false) => inputs[j].clone(),
        });
        let got = forward(&op.one_image(), &of_image);
        assert!(bits(&got) == bits(want), "{op:?}: image {i} depends on its batch");
    }
}

/// Bits of the decoder's value and derivative, 256 levels.
fn decoder(eps: &[f32], k: &[f32], images: usize) -> [Vec<u32>; 2] {
    let [eps, k] = [eps, k].map(|v| tensor(v).reshape([images, v.len() / images]));
    let (nll, d_nll) = vdm_kernels::decoder_nll(eps, k, 256, 0.3);
    [bits(&values(nll)), bits(&values(d_nll))]
}

fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| x.to_bits()).collect()
}

fn tensor(values: &[f32]) -> Tensor<1> {
    leaf(values, &Device::flex(), false)
}
