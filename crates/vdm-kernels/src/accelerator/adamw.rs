//! AdamW and the moving average of the weights; see [`crate::cpu::adamw`].

use super::{cube, own, tensor, units};
use crate::{Moments, Update};
use burn::tensor::Tensor;
use burn_cubecl::cubecl;
use burn_cubecl::cubecl::prelude::*;

/// See [`crate::adamw_step`].
pub fn adamw_step(update: &Update, p: Tensor<1>, state: Moments, g: Tensor<1>) -> (Tensor<1>, Moments) {
    let g = cube(g);
    let [p, m, v, ema] = [p, state.m, state.v, state.ema].map(|t| own(cube(t)));
    let (count, dim) = units(&p.device, p.meta.num_elements());
    update_kernel::launch(
        &p.client,
        count,
        dim,
        p.clone().into_buffer_arg(),
        m.clone().into_buffer_arg(),
        v.clone().into_buffer_arg(),
        ema.clone().into_buffer_arg(),
        g.into_buffer_arg(),
        update.lr,
        update.beta1,
        update.beta2,
        update.eps,
        update.weight_decay,
        update.correction1,
        update.correction2,
        update.ema_decay,
        update.grad_scale,
    );
    (tensor(p), Moments { m: tensor(m), v: tensor(v), ema: tensor(ema) })
}

/// A unit updates one number, as [`Update`] says.
#[cube(launch)]
fn update_kernel(
    p: &mut [f32],
    m: &mut [f32],
    v: &mut [f32],
    ema: &mut [f32],
    g: &[f32],
    lr: f32,
    beta1: f32,
    beta2: f32,
    eps: f32,
    weight_decay: f32,
    correction1: f32,
    correction2: f32,
    ema_decay: f32,
    grad_scale: f32,
) {
    let i = ABSOLUTE_POS;
    if i < p.len() {
        let g = g[i] * grad_scale;
        let new_m = beta1 * m[i] + (1.0 - beta1) * g;
        let new_v = beta2 * v[i] + (1.0 - beta2) * g * g;
        let step = new_m * correction1 / (f32::sqrt(new_v * correction2) + eps);
        let new_p = p[i] - lr * (step + weight_decay * p[i]);
        p[i] = new_p;
        m[i] = new_m;
        v[i] = new_v;
        ema[i] = ema[i] + (1.0 - ema_decay) * (new_p - ema[i]);
    }
}
