//! One training on several devices of a machine.
//!
//! In each step every device gets the weights and a share of the batch, and computes its gradient while the others compute
//! theirs. The first device adds them up, in the order of the batch, and makes the step; so checkpoints are those of one device.
//!
//! An accelerator computes while the host goes on, so that one thread can keep several of them busy.

use super::gradient::{Part, add_up, cut, gradients_of_parts, share_out};
use super::{Batch, GradientSum};
use crate::nn::ScoreNetwork;
use crate::schedule::{ObjectiveError, ScheduleObjective};
use crate::{LossTerms, VariationalDiffusion};
use burn::module::{Module, ModuleDisplay};
use burn::tensor::Device;

/// [`batch_gradients`](super::batch_gradients), with shares of the batch computed by `others`, devices without autodiff, beside
/// the model's own. On the CPU the result is the same, bit for bit. On accelerators the dropout masks and the decisions of
/// self-conditioning depend on the share; without both, the result is the same to rounding.
///
/// # Errors
/// As of [`batch_gradients`](super::batch_gradients).
///
/// # Panics
/// If the batch is empty.
pub fn batch_gradients_on<N: ScoreNetwork + ModuleDisplay>(
    model: &VariationalDiffusion<N>,
    batch: Batch,
    objective: ScheduleObjective,
    others: &[Device],
) -> Result<(GradientSum, LossTerms), ObjectiveError> {
    let (sharers, home) = (others.len() + 1, batch.k.device());
    let mut shares = share_out(cut(&batch, model.num_params(), sharers), sharers).into_iter();
    let own = shares.next().expect("the first device has a share");
    // First the copies that the others need, since a copy waits for all work that the first device already has. Then every
    // device gets its work, before any of them is waited for.
    let given = others.iter().zip(shares).filter(|(_, parts)| !parts.is_empty()).map(|(device, parts)| {
        let parts = parts.into_iter().map(|Part { batch, weight }| Part { batch: batch.to_device(device), weight });
        (model.valid().to_device(device), Vec::from_iter(parts))
    });
    let mut elsewhere = Vec::new();
    for (replica, parts) in Vec::from_iter(given) {
        elsewhere.extend(gradients_of_parts(&replica, parts, objective)?);
    }
    let mut done = gradients_of_parts(model, own, objective)?;
    done.extend(elsewhere.into_iter().map(|(sum, terms)| (sum.to_device(&home), terms.to_device(&home))));
    Ok(add_up(done))
}
