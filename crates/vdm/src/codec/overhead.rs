//! What bins cost: the length of the code against the bound.
//!
//! Both are noisy, and their difference is smaller than the noise of any affordable number of images: an image's length
//! has a standard deviation of the square root of twice its nats. So both come from one experiment: the latents are drawn twice with the
//! same random quantiles, once in the bins of the plan and once in bins so fine that they are real numbers in all but
//! name. The lengths are then nearly the same function of the same noise, and the noise nearly cancels. The mean of the
//! length in fine bins is the bound.

use super::chain::Chain;
use super::{CodecError, Plan};
use crate::VariationalDiffusion;
use crate::nn::ScoreNetwork;
use crate::progress::{Progress, tell};
use crate::stats::standard_error;
use burn::tensor::Device;
use serde::Serialize;

/// Bins per standard deviation that stand for real numbers: a divergence of Gaussians is then right to 1e-6 of itself.
const FINE: u16 = 256;

/// What bins cost some images, in bits per dimension.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Overhead {
    /// Images.
    pub images: usize,
    /// Steps T.
    pub steps: usize,
    /// The code's mean length.
    pub length_bpd: f64,
    /// The bound in T steps, from the same noise.
    pub bound_bpd: f64,
    /// `length_bpd` less `bound_bpd`.
    pub overhead_bpd: f64,
    /// Standard error of `overhead_bpd` from images and noise; `None` for one image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub overhead_bpd_stderr: Option<f64>,
}

/// Measures what the plan's bins cost the images `bytes`, one after another, channels first. Takes two network
/// evaluations per image and step; `progress` is told how many are done and to do.
///
/// # Errors
/// As of [`encode_segment`](super::encode_segment); [`CodecError::Plan`] if the plan's bins are not much coarser than those
/// that stand for real numbers.
pub fn overhead<N: ScoreNetwork>(
    model: &VariationalDiffusion<N>,
    plan: &Plan,
    bytes: &[u8],
    device: &Device,
    progress: &mut Progress,
) -> Result<Overhead, CodecError> {
    if plan.bins_per_sigma > FINE / 4 {
        let reason = format!("{} bins per sigma, expected at most {} to compare", plan.bins_per_sigma, FINE / 4);
        return Err(CodecError::Plan { reason });
    }
    let fine = Plan { bins_per_sigma: FINE, ..plan.clone() };
    let dims = plan.shape.dims();
    let (mut done, total) = (0, 2 * plan.steps() * (bytes.len() / dims.max(1)));
    let mut lengths = |plan: &Plan| {
        let chain = Chain::new(model, plan, device)?;
        chain.check_images(bytes)?;
        let mut bits = Vec::new();
        for (number, batch) in bytes.chunks(usize::from(plan.batch_size) * dims).enumerate() {
            bits.extend(chain.length(number, batch, &mut |images| {
                done += images;
                tell(progress, done, total)
            })?);
        }
        Ok::<_, CodecError>(bits)
    };
    let (coded, bound) = (lengths(plan)?, lengths(&fine)?);
    let per_dim = |bits: &[f64]| bits.iter().sum::<f64>() / (bits.len() * dims) as f64;
    let differences: Vec<f64> = coded.iter().zip(&bound).map(|(a, b)| (a - b) / dims as f64).collect();
    Ok(Overhead {
        images: coded.len(),
        steps: plan.steps(),
        length_bpd: per_dim(&coded),
        bound_bpd: per_dim(&bound),
        overhead_bpd: per_dim(&coded) - per_dim(&bound),
        overhead_bpd_stderr: standard_error(&differences),
    })
}
