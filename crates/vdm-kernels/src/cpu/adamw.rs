//! One pass over a parameter: AdamW (Loshchilov & Hutter 2019) and the exponential moving average of the weights.

use super::math::vectorized;
use rayon::prelude::*;

const CHUNK: usize = 1 << 14;

/// The scalars of one update, the bias corrections already worked out.
#[derive(Clone, Copy, Debug)]
pub struct Update {
    /// Learning rate.
    pub lr: f32,
    /// Decay of the first moment.
    pub beta1: f32,
    /// Decay of the second moment.
    pub beta2: f32,
    /// Added to the root of the second moment.
    pub eps: f32,
    /// Decoupled weight decay; 0 for parameters that are not weights.
    pub weight_decay: f32,
    /// 1 / (1 - beta1^step).
    pub correction1: f32,
    /// 1 / (1 - beta2^step).
    pub correction2: f32,
    /// Decay of the moving average.
    pub ema_decay: f32,
    /// Factor on the gradient (gradient clipping, accumulation).
    pub grad_scale: f32,
}

impl Update {
    /// New (parameter, first moment, second moment, average) of one element.
    #[inline(always)]
    fn apply(&self, p: f32, m: f32, v: f32, ema: f32, g: f32) -> (f32, f32, f32, f32) {
        let g = g * self.grad_scale;
        let m = self.beta1.mul_add(m, (1.0 - self.beta1) * g);
        let v = self.beta2.mul_add(v, (1.0 - self.beta2) * g * g);
        let step = m * self.correction1 / ((v * self.correction2).sqrt() + self.eps);
        let p = p - self.lr * (step + self.weight_decay * p);
        let ema = ema + (1.0 - self.ema_decay) * (p - ema);
        (p, m, v, ema)
    }
}

/// Updates `p`, its moments `m` and `v` and its average `ema` in place from the gradient `g`.
pub fn step(u: &Update, p: &mut [f32], m: &mut [f32], v: &mut [f32], ema: &mut [f32], g: &[f32]) {
    // Most parameters are small, and to hand each to another thread would take longer than the step.
    if p.len() <= CHUNK {
        return chunk(u, p, m, v, ema, g);
    }
    p.par_chunks_mut(CHUNK)
        .zip(m.par_chunks_mut(CHUNK))
        .zip(v.par_chunks_mut(CHUNK))
        .zip(ema.par_chunks_mut(CHUNK))
        .zip(g.par_chunks(CHUNK))
        .for_each(|((((p, m), v), ema), g)| chunk(u, p, m, v, ema, g));
}

vectorized! {
    fn chunk(u: &Update, p: &mut [f32], m: &mut [f32], v: &mut [f32], ema: &mut [f32], g: &[f32]) {
        for ((((p, m), v), ema), &g) in p.iter_mut().zip(m).zip(v).zip(ema).zip(g) {
            (*p, *m, *v, *ema) = u.apply(*p, *m, *v, *ema, g);
        }
    }
}
