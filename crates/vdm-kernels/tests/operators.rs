//! Values and gradients of the fused operators: against Burn's own composition, against finite differences, and for
//! inputs that are views, constants or shared.
#![allow(clippy::disallowed_methods)]

#[macro_use]
mod common;

use burn::tensor::{Device, Tensor};
use common::*;

every_operator!(views_give_what_contiguous_inputs_give, constants_need_no_gradient, uses_add_up, devices_mix);

#[test]
fn conv2d_agrees_with_the_reference() {
    let sizes = [
        [1, 1, 3, 1, 1],
        [1, 3, 5, 13, 1],
        [3, 5, 3, 1, 13],
        [3, 33, 5, 7, 9],
        [9, 2, 1, 3, 2],
        [17, 3, 5, 5, 4],
        [17, 1, 3, 28, 28],
        [2, 64, 33, 12, 11],
        [1, 5, 64, 28, 28],
        [2, 16, 24, 8, 33],
        // Two tiles, the second smaller.
        [3, 3, 1, 28, 10],
        [1, 3, 2, 300, 1],
    ];
    for [b, ci, co, h, w] in sizes {
        for (k, own_bias) in [(1, false), (1, true), (3, false), (3, true)] {
            agrees(&Conv { b, ci, co, h, w, k, own_bias, first: 0 });
        }
    }
}

#[test]
fn larger_convolutions_agree_with_the_reference() {
    for [b, ci, co, h, w] in [[2, 3, 8, 4, 6], [1, 16, 5, 14, 28], [3, 4, 2, 2, 2], [9, 1, 1, 8, 2]] {
        for (k, own_bias) in [(2, false), (4, false), (4, true)] {
            agrees(&Conv { b, ci, co, h, w, k, own_bias, first: 0 });
        }
    }
    for [b, ci, co, h, w] in [[2, 1, 8, 9, 7], [1, 3, 5, 4, 11], [3, 4, 2, 2, 2]] {
        for (k, own_bias) in [(5, false), (7, true)] {
            agrees(&Conv { b, ci, co, h, w, k, own_bias, first: 0 });
        }
    }
}

/// Parts of whole vectors of channels and others, which are put together first, and kernels that take no parts.
#[test]
fn conv2d_beside_agrees_with_the_reference() {
    for (first, [b, ci, co, h, w]) in [
        (8, [3, 16, 8, 8, 8]),
        (16, [2, 20, 5, 9, 13]),
        (3, [2, 16, 7, 7, 7]),
        (64, [1, 96, 32, 28, 28]),
        (8, [17, 12, 40, 4, 4]),
    ] {
        for (k, own_bias) in [(1, true), (3, false), (3, true), (5, true)] {
            agrees(&Conv { b, ci, co, h, w, k, own_bias, first });
        }
    }
}

/// `to` is added, and has its gradient.
#[test]
fn conv2d_beside_adds_to_what_there_is() {
    let device = Device::flex().autodiff();
    for (k, first) in [(1, 5), (3, 8), (3, 3)] {
        let [b, ci, co, h, w] = [3, 12, 7, 9, 6];
        let of = |stream, n: usize| leaf(&normals(stream, n), &device, true);
        let leaves = [of(0, b * ci * h * w), of(1, co * ci * k * k), of(2, co), of(3, b * co * h * w)];
        let run = |fused: bool| {
            let [x, weight, bias, to] = leaves.clone();
            let (x, to) = (x.reshape([b, ci, h, w]), to.reshape([b, co, h, w]));
            let (weight, bias) = (weight.reshape([co, ci, k, k]), bias.reshape([1, co]));
            let y = if fused {
                let part = |channels| x.clone().slice([0..b, channels, 0..h, 0..w]);
                vdm_kernels::conv2d_beside(part(0..first), part(first..ci), weight, bias, Some(to))
            } else {
                vdm_kernels::reference::conv2d(x, weight, bias) + to
            };
            let cotangent = Tensor::<1>::from_data(cotangent(b * co * h * w).as_slice(), &device);
            let gradients = (y.clone().reshape([b * co * h * w]) * cotangent).sum().backward();
            let values = |t: Tensor<1>| t.into_data().iter::<f32>().collect::<Vec<_>>();
            let of_leaves = leaves.clone().map(|leaf| values(leaf.grad(&gradients).unwrap()));
            let y = y.into_data().iter::<f32>().collect::<Vec<_>>();
            (y, of_leaves)
        };
        let ((y, dy), (want, d_want)) = (run(true), run(false));
        let close = |a: &[f32], b: &[f32]| {
            let scale = b.iter().fold(1f32, |most, x| most.max(x.abs()));
            a.iter().zip(b).all(|(a, b)| (a - b).abs() < 2e-5 * scale)
        };
        assert!(close(&y, &want), "{k} {first}");
        assert!(dy.iter().zip(&d_want).all(|(a, b)| close(a, b)), "{k} {first}");
    }
}

#[test]
fn group_norm_shifted_agrees_with_the_reference() {
    for (dims, groups) in [([3, 64, 8, 8], 32), ([2, 24, 5, 5], 6), ([1, 6, 9, 9], 2), ([2, 32, 28, 28], 8)] {
        for (silu, dropout) in [(false, 0.0), (true, 0.1)] {
            agrees(&Norm::new(dims, groups, silu, dropout).shifted());
        }
    }
}

#[test]
fn elementary_functions_agree_with_the_reference() {
    use vdm_kernels::Function::*;
    let device = Device::flex().autodiff();
    for f in [Exp, Expm1, Sigmoid, LogSigmoid, Erf, Sin, Cos] {
        let run = |fused: bool| {
            let x = leaf(&normals(0, 300), &device, true);
            // A view, and used twice.
            let part = x.clone().narrow(0, 7, 200) * 2.0;
            let y = if fused {
                vdm_kernels::elementary(part.clone(), f)
            } else {
                vdm_kernels::reference::elementary(part.clone(), f)
            };
            let gradients = (y.clone() * part).sum().backward();
            (y.inner(), x.grad(&gradients).unwrap())
        };
        let ((y, dx), (want, want_dx)) = (run(true), run(false));
        for (found, want) in [(y, want), (dx, want_dx)] {
            let off = (found - want.clone()).abs().max().into_scalar::<f32>();
            let scale = want.abs().max().into_scalar::<f32>();
            assert!(off < 2e-6 * scale.max(1.0), "{f:?}: {off} of {scale}");
        }
    }
}

#[test]
fn doubled_images_agree_with_the_reference() {
    let device = Device::flex().autodiff();
    for dims in [[2, 3, 4, 5], [1, 1, 1, 1], [1, 7, 9, 2]] {
        let n = dims.iter().product();
        let x = leaf(&normals(0, n), &device, true);
        let weights = Tensor::<1>::from_data(&normals(1, 4 * n)[..], &device);
        let run = |double: fn(Tensor<4>) -> Tensor<4>| {
            let y = double(x.clone().reshape(dims)).flatten::<1>(0, 3);
            let gradients = (y.clone() * weights.clone()).sum().backward();
            (values(y), values(x.grad(&gradients).unwrap()))
        };
        let ((y, dx), (want_y, want_dx)) = (run(vdm_kernels::double), run(vdm_kernels::reference::double));
        assert_eq!(y, want_y, "{dims:?}");
        assert_near(&dx, &wide(&want_dx), VALUES, "dx");
    }
}

#[test]
fn square_sums_agree_with_sums_of_squares() {
    let device = Device::flex().autodiff();
    let run = |fused: bool| {
        let x = leaf(&normals(0, 5 * 3072), &device, true);
        let rows = x.clone().reshape([5, 3072]);
        let y = if fused { vdm_kernels::square_sums(rows) } else { (rows.clone() * rows).sum_dim(1).reshape([5]) };
        let gradients = (y.clone() * y.clone()).sum().backward();
        (y.inner(), x.grad(&gradients).unwrap())
    };
    let ((y, dx), (want, want_dx)) = (run(true), run(false));
    for (found, want) in [(y, want), (dx, want_dx)] {
        let off = (found - want.clone()).abs().max().into_scalar::<f32>();
        assert!(off < 1e-5 * want.abs().max().into_scalar::<f32>(), "{off}");
    }
}

#[test]
fn conv2d_agrees_with_the_reference_at_every_small_size() {
    for (h, w) in small_sizes() {
        agrees(&Conv { b: 1, ci: 2, co: 3, h, w, k: 3, own_bias: false, first: 0 });
    }
}

/// Against the sum of two operators; `to` is a view, or has another handle, or neither.
#[test]
fn conv2d_add_agrees_with_a_sum() {
    let device = Device::flex().autodiff();
    for ([b, ci, co, h, w], k) in
        [([3, 5, 7, 9, 11], 3), ([2, 8, 16, 4, 8], 3), ([3, 5, 8, 4, 4], 1), ([1, 3, 2, 5, 3], 1)]
    {
        let n = b * co * h * w;
        for case in ["alone", "shared", "view"] {
            let run = |fused: bool| {
                let x = leaf(&normals(0, b * ci * h * w), &device, true);
                let weight = leaf(&normals(1, co * ci * k * k), &device, true);
                let bias = leaf(&normals(2, b * co), &device, true);
                let to = leaf(&normals(3, n + co), &device, true);
                let part = to.clone().narrow(0, co, n) * 1.0;
                let part = if case == "view" { to.clone().narrow(0, co, n) } else { part };
                let part = part.reshape([b, co, h, w]);
                let kept = (case == "shared").then(|| part.clone());
                let (x4, w4) = (x.clone().reshape([b, ci, h, w]), weight.clone().reshape([co, ci, k, k]));
                let b2 = bias.clone().reshape([b, co]);
                let y = if fused {
                    vdm_kernels::conv2d_add(x4, w4, b2, part.clone())
                } else {
                    part.clone() + vdm_kernels::conv2d(x4, w4, b2)
                };
                drop(part);
                let cotangent = leaf(&cotangent(n), &device, false);
                let grads = (y.clone().reshape([n]) * cotangent).sum().backward();
                let mut out = vec![values(y)];
                out.extend([x, weight, bias, to].map(|t| values(t.grad(&grads).unwrap())));
                out.extend(kept.map(values));
                out
            };
            for (got, want) in run(true).into_iter().zip(run(false)) {
                assert_eq!(got.len(), want.len());
                // The same products, the sum in another order: a few roundings of numbers below 100.
                assert!(got.iter().zip(&want).all(|(a, b)| (a - b).abs() < 3e-5), "k = {k}, {case}");
            }
        }
    }
}

#[test]
fn group_norm_agrees_with_the_reference() {
    let sizes = [
        ([1, 3, 13, 1], 1),
        ([1, 1, 28, 28], 1),
        ([2, 1, 6, 9], 1),
        ([3, 64, 1, 13], 8),
        ([3, 33, 5, 4], 11),
        ([5, 33, 11, 1], 33),
        ([17, 5, 7, 3], 5),
        ([1, 64, 28, 28], 32),
        // Some groups a task, whose masks begin in the middle of what the generator makes at a time.
        ([3, 64, 8, 8], 32),
        ([2, 24, 5, 5], 12),
    ];
    for (dims, groups) in sizes {
        for (silu, dropout) in [(false, 0.0), (true, 0.0), (false, 0.5), (true, 0.1)] {
            agrees(&Norm::new(dims, groups, silu, dropout));
        }
    }
}

#[test]
fn group_norm_agrees_with_the_reference_at_every_small_size() {
    for (h, w) in small_sizes() {
        agrees(&Norm::new([1, 64, h, w], 8, true, 0.0));
    }
}

#[test]
fn group_norm_beside_agrees_with_the_reference() {
    // Parts of one group and of many, and a group that lies in both parts.
    for (dims, groups, first) in
        [([3, 64, 8, 8], 32, 32), ([2, 24, 5, 5], 12, 2), ([2, 24, 5, 5], 6, 22), ([1, 6, 3, 3], 2, 3)]
    {
        for (silu, dropout) in [(false, 0.0), (true, 0.1)] {
            agrees(&Norm::new(dims, groups, silu, dropout).beside(first));
        }
    }
}

/// The deviation of a single number is 0, its gradient too: nothing to compare by relative errors.
#[test]
fn group_norm_of_one_number_is_beta() {
    let op = Norm::new([3, 5, 1, 1], 5, false, 0.0);
    let inputs = inputs(&op);
    let [y, dx, ..] = run_fused(&op, &inputs);
    // 1 / sqrt(eps) = 316 enlarges the rounding of x - mean(x).
    assert!(y.iter().zip(inputs[2].iter().cycle()).all(|(y, beta)| (y - beta).abs() < 1e-3), "{y:?}");
    assert!(dx.iter().all(|dx| dx.abs() < 1e-3), "{dx:?}");
}

#[test]
fn linear_agrees_with_the_reference() {
    for [b, i, o] in [[1, 1, 3], [1, 64, 5], [3, 5, 33], [3, 33, 64], [17, 64, 5], [5, 128, 1], [7, 64, 24]] {
        for bias in [false, true] {
            agrees(&Linear { b, i, o, bias });
        }
    }
}

#[test]
fn attention_agrees_with_the_reference() {
    let sizes = [
        [1, 3, 1, 1, 1],
        [1, 5, 1, 13, 7],
        [3, 1, 1, 10, 3],
        [3, 33, 3, 49, 49],
        [17, 6, 2, 9, 5],
        [1, 5, 5, 28, 28],
        // Blocks of 64 queries and a rest.
        [2, 64, 4, 65, 64],
        [1, 64, 1, 130, 131],
    ];
    for [b, c, heads, n, m] in sizes {
        agrees(&Attention { b, c, heads, n, m });
    }
}

#[test]
fn group_norm_agrees_with_finite_differences() {
    let op = Norm::new([2, 4, 3, 3], 2, true, 0.0);
    agrees_with_f64(&op, |x| norm_silu_f64(&op, x));
}

#[test]
fn attention_agrees_with_finite_differences() {
    let op = Attention { b: 2, c: 6, heads: 2, n: 5, m: 4 };
    agrees_with_f64(&op, |x| attention_f64(&op, x));
}

fn views_give_what_contiguous_inputs_give(op: &impl Operator) {
    let inputs = inputs(op);
    let want = run_fused(op, &inputs);
    for view in [View::Offset, View::Sliced, View::Permuted] {
        let got = run(op, Kind::Fused, view, [true; 3], &inputs);
        assert!(got == want, "{op:?} differs where inputs are {view:?}");
    }
}

fn constants_need_no_gradient(op: &impl Operator) {
    let inputs = inputs(op);
    let [y, grads @ ..] = run_fused(op, &inputs);
    for tracked in [[false, true, true], [false, true, false], [true, false, false]] {
        let [got_y, got @ ..] = run(op, Kind::Fused, View::Plain, tracked, &inputs);
        assert!(got_y == y, "{op:?}: the output depends on what is tracked");
        for (i, (got, want)) in got.iter().zip(&grads).enumerate() {
            let want: &[f32] = if tracked[i] { want } else { &[] };
            assert!(got == want, "{op:?}: gradient {i} with {tracked:?} tracked");
        }
    }
    assert!(forward(op, &inputs) == y, "{op:?}: the output without autodiff differs");
}

/// An input on the device without autodiff is a constant.
fn devices_mix(op: &impl Operator) {
    let inputs = inputs(op);
    let [y, _, want, _] = run_fused(op, &inputs);
    let device = Device::flex().autodiff();
    let weight = leaf(&inputs[1], &device, true);
    let x = leaf(&inputs[0], &Device::flex(), false);
    let out = op.apply(Kind::Fused, View::Plain, [x, weight.clone(), leaf(&inputs[2], &device, true)]);
    let grads = out.loss.backward();
    assert!(values(out.y) == y, "{op:?}: output");
    assert!(weight.grad(&grads).map(values).unwrap_or_default() == want, "{op:?}: gradient");
}

/// Parameters that are used twice get the sum of the gradients.
fn uses_add_up(op: &impl Operator) {
    let first = inputs(op);
    let second = [normals(5, first[0].len()), first[1].clone(), first[2].clone()];
    let alone = [run_fused(op, &first), run_fused(op, &second)];
    let device = Device::flex().autodiff();
    let [x, weight, bias] = first.each_ref().map(|values| leaf(values, &device, true));
    let other = leaf(&second[0], &device, true);
    let loss = op.apply(Kind::Fused, View::Plain, [x, weight.clone(), bias.clone()]).loss
        + op.apply(Kind::Fused, View::Plain, [other, weight.clone(), bias.clone()]).loss;
    let grads = loss.backward();
    for (i, parameter) in [(2, weight), (3, bias)] {
        let want: Vec<f32> = alone[0][i].iter().zip(&alone[1][i]).map(|(a, b)| a + b).collect();
        let got = parameter.grad(&grads).map(values).unwrap_or_default();
        assert!(got == want, "{op:?}: gradient {i}");
    }
}

/// Checks the fused operator's output and gradients against the reference's.
fn agrees(op: &impl Operator) {
    let inputs = inputs(op);
    let want = run(op, Kind::Reference, View::Plain, [true; 3], &inputs);
    all_near(op, &run_fused(op, &inputs), &want.each_ref().map(|v| wide(v)));
}

/// Checks them against `f` and its central differences.
fn agrees_with_f64(op: &impl Operator, f: impl Fn(&[Vec<f64>; 3]) -> Vec<f64>) {
    let inputs = inputs(op);
    let mut x = inputs.each_ref().map(|v| wide(v));
    let y = f(&x);
    let cotangent = wide(&cotangent(y.len()));
    let loss = |x: &[Vec<f64>; 3]| f(x).iter().zip(&cotangent).map(|(y, c)| y * c).sum::<f64>();
    let mut want = [y, vec![], vec![], vec![]];
    for i in 0..3 {
        for j in 0..x[i].len() {
            let at = x[i][j];
            x[i][j] = at + STEP;
            let above = loss(&x);
            x[i][j] = at - STEP;
            want[i + 1].push((above - loss(&x)) / (2.0 * STEP));
            x[i][j] = at;
        }
    }
    all_near(op, &run_fused(op, &inputs), &want);
}

fn all_near(op: &impl Operator, got: &[Vec<f32>; 4], want: &[Vec<f64>; 4]) {
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        let (name, tolerance) = if i == 0 { ("output", VALUES) } else { ("gradient", GRADIENTS) };
        assert_near(got, want, tolerance, &format!("{name} {i} of {op:?}"));
    }
}

/// Heights and widths 1..=13.
fn small_sizes() -> impl Iterator<Item = (usize, usize)> {
    (1..=13).flat_map(|h| (1..=13).map(move |w| (h, w)))
}

fn norm_silu_f64(op: &Norm, [x, gamma, beta]: &[Vec<f64>; 3]) -> Vec<f64> {
    let (pixels, per_group) = (op.h * op.w, op.c / op.args.groups);
    let mut out = Vec::with_capacity(x.len());
    for (index, x) in x.chunks(per_group * pixels).enumerate() {
        let n = x.len() as f64;
        let mean = x.iter().sum::<f64>() / n;
        let variance = x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n;
        let first = index % op.args.groups * per_group;
        for (i, x) in x.iter().enumerate() {
            let c = first + i / pixels;
            let y = (x - mean) / (variance + f64::from(op.args.eps)).sqrt() * gamma[c] + beta[c];
            out.push(y / (1.0 + (-y).exp()));
        }
    }
    out
}

fn attention_f64(op: &Attention, [q, k, v]: &[Vec<f64>; 3]) -> Vec<f64> {
    let (n, m, dim) = (op.n, op.m, op.c / op.heads);
    let mut y = vec![0f64; q.len()];
    for head in 0..op.b * op.heads {
        let channels = head * dim..(head + 1) * dim;
        for i in 0..n {
            let logit = |j: usize| channels.clone().map(|c| q[c * n + i] * k[c * m + j]).sum::<f64>();
            let p: Vec<f64> = (0..m).map(|j| (logit(j) / (dim as f64).sqrt()).exp()).collect();
            let total: f64 = p.iter().sum();
            for c in channels.clone() {
                y[c * n + i] = p.iter().zip(&v[c * m..]).map(|(p, v)| p * v).sum::<f64>() / total;
            }
        }
    }
    y
}
