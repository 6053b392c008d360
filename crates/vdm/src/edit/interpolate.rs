//! From one image to another in the latent space of the probability flow.

use super::{EditError, decoded, encoded};
use crate::VariationalDiffusion;
use crate::diffusion::process::alpha;
use crate::flow::{Flow, Tolerance, solve};
use crate::nn::{Conditioning, ScoreNetwork};
use crate::progress::{Progress, tell};
use crate::schedule::Schedule;
use burn::tensor::Device;

/// `count` images from `from` to `to`, both included: their z_1 in the flow, a curve between these (spherical, since z_1 of an
/// image lies near a sphere), and back. `given` says what the network is told about an image; all are told the same, its
/// first entry.
///
/// # Errors
/// See [`EditError`].
#[allow(clippy::too_many_arguments)]
pub fn interpolate<N: ScoreNetwork>(
    model: &VariationalDiffusion<N>,
    from: &[u8],
    to: &[u8],
    count: usize,
    given: &Conditioning,
    tolerance: &Tolerance,
    device: &Device,
    progress: &mut Progress,
) -> Result<Vec<u8>, EditError> {
    let dims = model.shape().dims();
    for image in [from, to] {
        if image.len() != dims {
            return Err(EditError::Size { what: "image", found: image.len(), expected: dims });
        }
    }
    let schedule = model.schedule.to_host();
    let (gamma_0, gamma_1) = (schedule.gamma(0.0), schedule.gamma(1.0));
    let x: Vec<f32> = encoded(model, &[from, to].concat(), device)?.into_data().iter::<f32>().collect();
    let states = x.chunks_exact(dims).map(|x| x.iter().map(|&x| alpha(gamma_0) * f64::from(x)).collect()).collect();

    let mut done = 0;
    let mut pulse = || {
        done += 1;
        // How many evaluations there will be is not known before.
        tell(progress, done, done + 1)
    };
    let of_two = given.select(&[0, 0]);
    let mut flow = Flow { model, given: &of_two, device, pulse: &mut pulse };
    let ends = solve(states, 0, gamma_0, gamma_1, tolerance, &mut flow)?;
    let points: Vec<Vec<f64>> = (0..count).map(|i| between(&ends[0].state, &ends[1].state, share(i, count))).collect();
    let of_all = given.select(&vec![0; count]);
    let mut flow = Flow { model, given: &of_all, device, pulse: &mut pulse };
    let found = solve(points, 0, gamma_1, gamma_0, tolerance, &mut flow)?;
    let z_0: Vec<f32> = found.iter().flat_map(|solved| solved.state.iter().map(|&z| z as f32)).collect();
    decoded(model, &z_0, gamma_0)
}

fn share(i: usize, count: usize) -> f64 {
    if count < 2 { 0.0 } else { i as f64 / (count - 1) as f64 }
}

/// The point `share` of the way from `a` to `b` on the arc between them.
fn between(a: &[f64], b: &[f64], share: f64) -> Vec<f64> {
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let cosine = dot(a, b) / (dot(a, a) * dot(b, b)).sqrt();
    let angle = libm::acos(cosine.clamp(-1.0, 1.0));
    let (of_a, of_b) = if angle.is_nan() || libm::sin(angle) < 1e-6 {
        (1.0 - share, share)
    } else {
        (libm::sin((1.0 - share) * angle) / libm::sin(angle), libm::sin(share * angle) / libm::sin(angle))
    };
    a.iter().zip(b).map(|(a, b)| of_a * a + of_b * b).collect()
}
