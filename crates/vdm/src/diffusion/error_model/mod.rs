//! How wrong eps_hat is: what makes a model in few steps nearly as good as one in many.
//!
//! The paper's p(z_s | z_t) has the variance s² of q(z_s | z_t, x), which would be right if x_hat were x. It is not, and with
//! few steps this costs most. With c = e^(gamma_t - gamma_s) - 1 and m the squared error of eps_hat in one number, a step costs
//! 1/2 c m nats with the variance s², and with s² (1 + r)
//!
//! ```text
//! 1/2 (log(1 + r) + (1 + c m)/(1 + r) - 1),
//! ```
//!
//! which is least, in expectation, at r = c E[m | z_t] (the analytic variances of Bao et al. 2022, arXiv 2201.06503 and
//! 2206.07309). An [`ErrorModel`] gives that expectation M: either one for each noise level, from a table ([`ErrorTable`]),
//! or one for each pixel, by a small network that looks at z_t and eps_hat ([`ErrorHead`]). It is fitted after the training
//! with eps_hat held fixed (`fit_error_model` in `train/`), so the bound in continuous time, where variances do not matter,
//! stays what it was.
//!
//! The same table places the steps: [`ErrorTable::cheapest_steps`].

mod head;
mod table;

pub use head::ErrorHead;
pub use table::{ErrorPoint, ErrorTable, MAX_POINTS, QUANTILES, TableError, cheapest_path};

use crate::math::{column, exp_of};
use crate::parts;
use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};
use std::ops::Range;

/// What p(z_s | z_t) has for its variance.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ReverseVariance {
    /// That of the posterior q(z_s | z_t, x), as in the paper.
    Posterior,
    /// Wider, by one factor for each step.
    Step,
    /// Wider, by a factor of each pixel.
    #[default]
    Pixel,
}

/// Something needs to know the error of a model that does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the model does not know its own error; run `vdm fit-errors` on it, or use steps evenly spaced in time and the \
     posterior's variance"
)]
pub struct ErrorsUnknown;

/// The expected squared error of eps_hat in every number of an image.
#[derive(Clone, Debug)]
pub struct ErrorModel {
    /// By noise level.
    pub table: ErrorTable,
    /// By pixel; `None` where only the noise level counts.
    pub head: Option<ErrorHead>,
}

impl ErrorModel {
    /// M, the expected squared error of each number of eps_hat.
    ///
    /// # Shapes
    /// - `z`, `eps_hat`: `[batch, channels, height, width]`, as the output
    /// - `gammas`: one per image
    pub fn expected(&self, z: Tensor<4>, gammas: &[f64], eps_hat: Tensor<4>) -> Tensor<4> {
        let log_means: Vec<f32> = gammas.iter().map(|&gamma| self.table.log_mean(gamma) as f32).collect();
        // On the CPU in the parts that the network takes, and for the same reasons: an image needs no other.
        let job = |part: Range<usize>| {
            let [z, eps_hat] = [&z, &eps_hat].map(|t| t.clone().slice([part.clone()]));
            (self.head.clone(), part, z, eps_hat)
        };
        let expected = |(head, part, z, eps_hat): (Option<ErrorHead>, Range<usize>, _, _)| {
            of_part(head.as_ref(), &log_means[part.clone()], z, &gammas[part], eps_hat)
        };
        let in_parts = if z.is_autodiff() { None } else { parts::side_by_side(&z, job, expected) };
        in_parts.unwrap_or_else(|| of_part(self.head.as_ref(), &log_means, z, gammas, eps_hat))
    }

    /// What of it this variance needs: the table for [`ReverseVariance::Step`], all for [`ReverseVariance::Pixel`], nothing for
    /// [`ReverseVariance::Posterior`].
    pub fn with_variance(self, variance: ReverseVariance) -> Option<Self> {
        match variance {
            ReverseVariance::Posterior => None,
            ReverseVariance::Step => Some(Self { head: None, ..self }),
            ReverseVariance::Pixel => Some(self),
        }
    }
}

/// M of some images, whose table says `log_means`.
fn of_part(head: Option<&ErrorHead>, log_means: &[f32], z: Tensor<4>, gammas: &[f64], eps_hat: Tensor<4>) -> Tensor<4> {
    let log_means = column(Tensor::<1>::from_data(log_means, &z.device()));
    let log = match head {
        Some(head) => head.forward(z, gammas, eps_hat) + log_means,
        None => Tensor::zeros_like(&z) + log_means,
    };
    exp_of(log)
}
