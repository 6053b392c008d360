//! What a file says about the model, the machine and the pixels that it was made with.

use super::plan::first_bytes;
use crate::VariationalDiffusion;
use crate::nn::ScoreNetwork;
use crate::schedule::Schedule;
use crate::weights::export;
use sha2::{Digest, Sha256};

/// The first 16 bytes of the SHA-256 of all weights, by name, and of the model's settings. What else a network's
/// configuration decides, such as its groups, shows in [`arithmetic_fingerprint`](super::arithmetic_fingerprint).
pub fn model_fingerprint<N: ScoreNetwork>(model: &VariationalDiffusion<N>) -> [u8; 16] {
    let settings = model.settings();
    let (start, end) = settings.configured_endpoints;
    let mut hash = Sha256::new();
    hash.update((settings.vocabulary.levels() as u64).to_le_bytes());
    hash.update([settings.time_normalization as u8]);
    hash.update([start, end].map(f64::to_le_bytes).concat());
    hash.update(model.schedule.fingerprint());
    let [schedule, network] = [export(&model.schedule), export(&model.network)];
    for (name, t) in schedule.into_iter().chain(network) {
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

/// The processor, as far as it decides how sums are rounded.
pub(super) fn machine() -> String {
    let mut text = std::env::consts::ARCH.to_string();
    #[cfg(target_arch = "x86_64")]
    for (feature, found) in [
        ("avx2", std::arch::is_x86_feature_detected!("avx2")),
        ("fma", std::arch::is_x86_feature_detected!("fma")),
        ("avx512f", std::arch::is_x86_feature_detected!("avx512f")),
    ] {
        if found {
            text.push('+');
            text.push_str(feature);
        }
    }
    text
}
