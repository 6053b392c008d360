//! What a file says about the model, the machine and the pixels that it was made with.

use super::plan::first_bytes;
use crate::VariationalDiffusion;
use crate::nn::ScoreNetwork;
use crate::schedule::Schedule;
use crate::weights::export;
use burn::tensor::{DType, Device};
use sha2::{Digest, Sha256};

/// The first 16 bytes of the SHA-256 of all weights, by name, and of the model's settings. What else a network's
/// configuration decides, such as its groups, shows in [`arithmetic_fingerprint`](super::arithmetic_fingerprint).
pub fn model_fingerprint<N: ScoreNetwork>(model: &VariationalDiffusion<N>) -> [u8; 16] {
    let settings = model.settings();
    let (start, end) = settings.configured_endpoints;
    let mut hash = Sha256::new();
    hash.update((settings.vocabulary.levels() as u64).to_le_bytes());
    hash.update([settings.time_normalization as u8, settings.prediction as u8]);
    hash.update([start, end].map(f64::to_le_bytes).concat());
    hash.update(model.schedule.fingerprint());
    let [schedule, network] = [export(&model.schedule), export(&model.network)];
    let head = model.errors().and_then(|errors| errors.head.as_ref()).map(export).unwrap_or_default();
    for point in model.errors().map_or(&[][..], |errors| errors.table.points()) {
        hash.update([point.gamma, point.mean, point.reconstruction, point.prior].map(f64::to_le_bytes).concat());
        hash.update(point.quantiles.map(f32::to_le_bytes).concat());
    }
    for (name, t) in schedule.into_iter().chain(network).chain(head) {
        hash.update((name.len() as u64).to_le_bytes());
        hash.update(name.as_bytes());
        for side in std::iter::once(t.shape.len()).chain(t.shape) {
            hash.update((side as u64).to_le_bytes());
        }
        for x in t.data {
            hash.update(x.to_le_bytes());
        }
    }
    first_bytes(hash)
}

/// The first bytes of the SHA-256 of the pixels of a segment.
pub(super) fn pixel_hash(bytes: &[u8]) -> [u8; 8] {
    first_bytes(Sha256::new_with_prefix(bytes))
}

/// What computed the network's outputs: the CPU, on which they are the same bits whatever the processor, or another device.
pub(super) fn machine(device: &Device) -> String {
    let is_cpu = vdm_kernels::is_fused(device, DType::F32);
    (if is_cpu { "cpu" } else { "another device than the CPU" }).into()
}
