//! `vdm bench operators`: every fused operator beside the same composed of Burn's own, at the sizes of a preset.

use super::timing::{machine, median, round, timed};
use crate::shared::output::outln;
use anyhow::Result;
use burn::tensor::{Device, Tensor, TensorData};
use serde_json::{Value, json};
use vdm_kernels::{Function, Moments, NormArgs, SquareSums, Update, reference, rng::Philox};

/// Sizes of the tensors: batch, the image's channels and side, channels inside.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    pub batch: usize,
    pub channels: usize,
    pub side: usize,
    pub n_embd: usize,
}

/// Milliseconds of an operator and of its composition.
struct Row {
    operator: String,
    shape: String,
    pass: &'static str,
    fused_ms: f64,
    composed_ms: f64,
}

pub fn execute(sizes: Sizes, seconds: f64, device: &Device, json: bool) -> Result<()> {
    let rows = rows(sizes, seconds, device);
    if json {
        let rows: Vec<Value> = rows
            .iter()
            .map(|row| {
                json!({
                    "operator": row.operator, "shape": row.shape, "pass": row.pass,
                    "fused_ms": round(row.fused_ms), "composed_ms": round(row.composed_ms),
                })
            })
            .collect();
        outln!("{}", json!({ "operators": rows, "machine": machine() }));
        return Ok(());
    }
    outln!("{:<34} {:<18} {:<9} {:>10} {:>12} {:>6}", "operator", "shape", "pass", "fused ms", "composed ms", "ratio");
    for Row { operator, shape, pass, fused_ms, composed_ms } in rows {
        let ratio = fused_ms / composed_ms;
        outln!("{operator:<34} {shape:<18} {pass:<9} {fused_ms:>10.2} {composed_ms:>12.2} {ratio:>6.2}");
    }
    Ok(())
}

fn rows(s: Sizes, seconds: f64, device: &Device) -> Vec<Row> {
    let (b, e, side, pixels) = (s.batch, s.n_embd, s.side, s.side * s.side);
    let mut rows = Vec::new();
    let map = |c: usize| [b, c, side, side];

    let args = NormArgs { groups: 32.min(e), eps: 1e-6, silu: true, dropout: 0.1, seed: 1 };
    for (dropout, name) in [(0.0, "group norm, SiLU"), (0.1, "group norm, SiLU, dropout")] {
        let args = NormArgs { dropout, ..args };
        let inputs = [map(e).to_vec(), vec![e], vec![e]];
        both(&mut rows, name, &inputs, seconds, device, |[x, gamma, beta], fused| {
            let (x, gamma, beta) = (x.reshape(map(e)), gamma.reshape([e]), beta.reshape([e]));
            let y = if fused {
                vdm_kernels::group_norm(x, gamma, beta, args)
            } else {
                reference::group_norm(x, gamma, beta, args)
            };
            y.flatten(0, 3)
        });
    }
    let inputs = [vec![b, 2 * e, side, side], vec![2 * e], vec![2 * e]];
    both(&mut rows, "group norm, SiLU of two", &inputs, seconds, device, |[x, gamma, beta], fused| {
        let args = NormArgs { dropout: 0.0, ..args };
        let parts = x.reshape([2, b, e, side, side]);
        let [x, beside] = [0, 1].map(|i| parts.clone().narrow(0, i, 1).reshape(map(e)));
        let (gamma, beta) = (gamma.reshape([2 * e]), beta.reshape([2 * e]));
        let y = if fused {
            vdm_kernels::group_norm_beside(x, beside, gamma, beta, args)
        } else {
            reference::group_norm(Tensor::cat(vec![x, beside], 1), gamma, beta, args)
        };
        y.flatten(0, 3)
    });
    let inputs = [map(e).to_vec(), vec![2 * e], vec![b, e]];
    both(&mut rows, "group norm, SiLU, shift, dropout", &inputs, seconds, device, |[x, scale, shift], fused| {
        let (x, shift) = (x.reshape(map(e)), shift.reshape([b, e]));
        let [gamma, beta] = [0, 1].map(|i| scale.clone().narrow(0, i * e, e));
        let y = if fused {
            vdm_kernels::group_norm_shifted(x, gamma, beta, shift, args)
        } else {
            reference::group_norm_shifted(x, gamma, beta, shift, args)
        };
        y.flatten(0, 3)
    });
    for (k, ci) in [(3, e), (3, 2 * e), (1, 2 * e), (7, s.channels)] {
        let inputs = [map(ci).to_vec(), vec![e, ci, k, k], vec![1, e]];
        both(&mut rows, &format!("convolution {k}x{k} to {e}"), &inputs, seconds, device, |[x, w, bias], fused| {
            let (x, w, bias) = (x.reshape(map(ci)), w.reshape([e, ci, k, k]), bias.reshape([1, e]));
            let y = if fused { vdm_kernels::conv2d(x, w, bias) } else { reference::conv2d(x, w, bias) };
            y.flatten(0, 3)
        });
    }
    let inputs = [map(e).to_vec(), vec![e, e, 3, 3], map(e).to_vec()];
    both(&mut rows, &format!("convolution 3x3 to {e}, added"), &inputs, seconds, device, |[x, w, to], fused| {
        let (x, w, to) = (x.reshape(map(e)), w.reshape([e, e, 3, 3]), to.reshape(map(e)));
        let bias = Tensor::zeros([1, e], &x.device());
        let y = if fused { vdm_kernels::conv2d_add(x, w, bias, to) } else { to + reference::conv2d(x, w, bias) };
        y.flatten(0, 3)
    });
    let inputs = [map(e).to_vec(), vec![e, 2 * e, 3, 3], map(e).to_vec()];
    both(&mut rows, &format!("convolution 3x3 of two to {e}"), &inputs, seconds, device, |[x, w, beside], fused| {
        let (x, w, beside) = (x.reshape(map(e)), w.reshape([e, 2 * e, 3, 3]), beside.reshape(map(e)));
        let bias = Tensor::zeros([1, e], &x.device());
        let y = match fused {
            true => vdm_kernels::conv2d_beside(x, beside, w, bias, None),
            false => reference::conv2d(Tensor::cat(vec![x, beside], 1), w, bias),
        };
        y.flatten(0, 3)
    });
    if side.is_multiple_of(2) {
        let inputs = [map(e).to_vec(), vec![e, e, 4, 4], vec![1, e]];
        both(
            &mut rows,
            &format!("convolution 4x4 to {e}, halving"),
            &inputs,
            seconds,
            device,
            |[x, w, bias], fused| {
                let (x, w, bias) = (x.reshape(map(e)), w.reshape([e, e, 4, 4]), bias.reshape([1, e]));
                let y = match fused {
                    true => vdm_kernels::conv2d_halving(x, w, bias),
                    false => reference::conv2d_halving(x, w, bias),
                };
                y.flatten(0, 3)
            },
        );
    }
    let inputs = [map(e).to_vec(), vec![1], vec![1]];
    both(&mut rows, "doubled images", &inputs, seconds, device, |[x, _, _], fused| {
        let x = x.reshape(map(e));
        let y = if fused { vdm_kernels::double(x) } else { reference::double(x) };
        y.flatten(0, 3)
    });
    let tokens = || vec![b, e, pixels];
    both(&mut rows, "attention", &[tokens(), tokens(), tokens()], seconds, device, |[q, k, v], fused| {
        let [q, k, v] = [q, k, v].map(|t| t.reshape([b, e, pixels]));
        let y = if fused { vdm_kernels::attention(q, k, v, 1) } else { reference::attention(q, k, v, 1) };
        y.flatten(0, 2)
    });
    let inputs = [vec![b, 4 * e], vec![4 * e, e], vec![e]];
    both(&mut rows, &format!("dense to {e}"), &inputs, seconds, device, |[x, w, bias], fused| {
        let (x, w, bias) = (x.reshape([b, 4 * e]), w.reshape([4 * e, e]), Some(bias.reshape([e])));
        let y = if fused { vdm_kernels::linear(x, w, bias) } else { reference::linear(x, w, bias) };
        y.flatten(0, 1)
    });

    // Of one input; the others are not used.
    let dims = s.channels * pixels;
    let functions = [
        (Function::Sin, "sine"),
        (Function::Cos, "cosine"),
        (Function::Exp, "exponential"),
        (Function::Expm1, "exponential minus 1"),
        (Function::Sigmoid, "sigmoid"),
        (Function::LogSigmoid, "logarithm of the sigmoid"),
        (Function::Erf, "error function"),
    ];
    for (f, name) in functions {
        let inputs = [vec![b, dims], vec![1], vec![1]];
        both(&mut rows, name, &inputs, seconds, device, |[x, _, _], fused| {
            if fused { vdm_kernels::elementary(x, f) } else { reference::elementary(x, f) }
        });
    }
    let inputs = [vec![b, dims], vec![1], vec![1]];
    both(&mut rows, "sum of squares of an image", &inputs, seconds, device, |[x, _, _], fused| {
        let x = x.reshape([b, dims]);
        if fused { vdm_kernels::square_sums(x) } else { (x.clone() * x).sum_dim(1).reshape([b]) }
    });

    // Those without a backward pass.
    let mut add = |operator: &str, shape: String, f: &mut dyn FnMut(bool)| {
        let [fused_ms, composed_ms] = [true, false].map(|fused| median(timed(seconds, || f(fused))));
        rows.push(Row { operator: operator.into(), shape, pass: "forward", fused_ms, composed_ms });
    };
    let eps = normals(0, &[b, dims], device).reshape([b, dims]);
    let k = Tensor::<2>::full([b, dims], 100.0, device);
    add("decoder, 256 levels", format!("{b}x{dims}"), &mut |fused| {
        let (eps, k) = (eps.clone(), k.clone());
        let (nll, _) = match fused {
            true => vdm_kernels::decoder_nll(eps, k, 256, 0.3),
            false => reference::decoder_nll(eps, k, 256, 0.3),
        };
        let _ = nll.into_data();
    });
    let n = 9 * e * e * 20;
    let update = Update {
        lr: 1e-4,
        beta1: 0.9,
        beta2: 0.99,
        eps: 1e-8,
        weight_decay: 0.01,
        correction1: 1.0,
        correction2: 1.0,
        ema_decay: 0.999,
        grad_scale: 1.0,
    };
    let gradient = normals(0, &[n], device);
    let mut state = Some((gradient.clone() * 1.0, [1.0; 3].map(|one| gradient.clone().abs() * one)));
    add("AdamW and moving average", n.to_string(), &mut |fused| {
        let Some((p, [m, v, ema])) = state.take() else { return };
        let moments = Moments { m, v, ema };
        let (p, moments) = match fused {
            true => vdm_kernels::adamw_step(&update, p, moments, gradient.clone()),
            false => reference::adamw_step(&update, p, moments, gradient.clone()),
        };
        state = Some((p, [moments.m, moments.v, moments.ema]));
    });
    let streams: Vec<Philox> = (0..b as u64).map(|i| Philox::new(1, i)).collect();
    add("standard normal numbers", format!("{b}x{dims}"), &mut |fused| {
        if fused {
            std::hint::black_box(vdm_kernels::rng::normal_images(&streams, 0, dims));
        } else {
            let normal = burn::tensor::Distribution::Normal(0.0, 1.0);
            std::hint::black_box(Tensor::<2>::random([b, dims], normal, device));
        }
    });
    add("sum of squares", n.to_string(), &mut |fused| {
        let sum = match fused {
            true => SquareSums::of(&[&gradient]).read()[0],
            false => gradient.clone().powi_scalar(2).sum().into_scalar::<f64>(),
        };
        std::hint::black_box(sum);
    });
    rows
}

/// Adds the rows of an operator of three inputs: forward, and forward with backward.
fn both(
    rows: &mut Vec<Row>,
    operator: &str,
    shapes: &[Vec<usize>; 3],
    seconds: f64,
    device: &Device,
    apply: impl Fn([Tensor<1>; 3], bool) -> Tensor<1>,
) {
    let shape = shapes[0].iter().map(usize::to_string).collect::<Vec<_>>().join("x");
    for pass in ["forward", "backward"] {
        let on = if pass == "forward" { device.clone() } else { device.clone().autodiff() };
        let inputs: [Tensor<1>; 3] = std::array::from_fn(|i| normals(i as u64, &shapes[i], &on));
        let [fused_ms, composed_ms] = [true, false].map(|fused| {
            median(timed(seconds, || {
                if pass == "forward" {
                    let _ = apply(inputs.clone(), fused).device().sync();
                } else {
                    let leaves = inputs.clone().map(|t| t.detach().require_grad());
                    let gradients = apply(leaves.clone(), fused).sum().backward();
                    let _ = leaves.map(|t| t.grad(&gradients));
                }
            }))
        });
        let pass = if pass == "forward" { pass } else { "with back" };
        rows.push(Row { operator: operator.into(), shape: shape.clone(), pass, fused_ms, composed_ms });
    }
}

/// Normal numbers, flattened.
fn normals(stream: u64, shape: &[usize], device: &Device) -> Tensor<1> {
    let mut out = vec![0f32; shape.iter().product()];
    Philox::new(3, stream).normal(0, &mut out);
    let n = out.len();
    Tensor::from_data(TensorData::new(out, [n]), device)
}
