//! The diffusion process, each formula once: the noising q(z_t | x), the estimate of x, and the posterior
//! q(z_s | z_t, x) (VDM section 3.1, appendix A).
//!
//! gamma = -log SNR decides everything: alpha² = sigmoid(-gamma), sigma² = sigmoid(gamma). The scalars of a sampling
//! step are worked out in f64 on the host; those of the loss, which has gradients with respect to gamma, are tensors.

use super::Prediction;
use crate::math::{column, sigmoid, sigmoid_of};
use burn::tensor::Tensor;

/// alpha = sqrt(sigmoid(-gamma)), in f64.
// ANCHOR: scales
pub fn alpha(gamma: f64) -> f64 {
    sigmoid(-gamma).sqrt()
}

/// sigma = sqrt(sigmoid(gamma)), in f64. Never computed as sqrt(1 - alpha²), which at gamma = -13.3 loses six digits, and in
/// single precision nearly all.
pub fn sigma(gamma: f64) -> f64 {
    sigmoid(gamma).sqrt()
}
// ANCHOR_END: scales

/// alpha and sigma of each image, shaped to multiply images.
fn scales(gamma: Tensor<1>) -> (Tensor<4>, Tensor<4>) {
    let alpha = column(sigmoid_of(gamma.clone() * -1.0).sqrt());
    let sigma = column(sigmoid_of(gamma).sqrt());
    (alpha, sigma)
}

/// z_t = alpha_t x + sigma_t eps: a draw from q(z_t | x).
///
/// # Shapes
/// - `x`, `eps`: `[batch, channels, height, width]`; `gamma`: `[batch]`
// ANCHOR: diffuse
pub fn diffuse(x: Tensor<4>, gamma: Tensor<1>, eps: Tensor<4>) -> Tensor<4> {
    let (alpha, sigma) = scales(gamma);
    x * alpha + eps * sigma
}
// ANCHOR_END: diffuse

/// x_hat = (z_t - sigma_t eps_hat) / alpha_t, cut to [-1, 1].
///
/// # Shapes
/// - `z`, `eps_hat`: `[batch, channels, height, width]`; `gamma`: `[batch]`
pub fn x_hat(z: Tensor<4>, gamma: Tensor<1>, eps_hat: Tensor<4>) -> Tensor<4> {
    let (alpha, sigma) = scales(gamma);
    ((z - eps_hat * sigma) / alpha).clamp(-1.0, 1.0)
}

/// eps_hat from the network's output.
///
/// # Shapes
/// - `output`, `z`: `[batch, channels, height, width]`; `gamma`: `[batch]`
pub fn eps_from(prediction: Prediction, output: Tensor<4>, z: Tensor<4>, gamma: Tensor<1>) -> Tensor<4> {
    match prediction {
        Prediction::Eps => output,
        // z = alpha x + sigma eps and v = alpha eps - sigma x, with alpha² + sigma² = 1.
        Prediction::V => {
            let (alpha, sigma) = scales(gamma);
            output * alpha + z * sigma
        }
        Prediction::X => {
            let (alpha, sigma) = scales(gamma);
            (z - output * alpha) / sigma
        }
    }
}

/// The eps_hat whose x_hat = (z_t - sigma_t eps_hat)/alpha_t is cut to [-1, 1]; each image has a gamma of its own.
///
/// # Shapes
/// - `z`, `eps_hat`: `[batch, channels, height, width]`
pub fn clip(z: Tensor<4>, gammas: &[f64], eps_hat: Tensor<4>) -> Tensor<4> {
    let of_images = |f: fn(f64) -> f64| {
        let numbers: Vec<f32> = gammas.iter().map(|&gamma| f(gamma) as f32).collect();
        column(Tensor::from_data(numbers.as_slice(), &z.device()))
    };
    let (alpha, sigma) = (of_images(alpha), of_images(sigma));
    let x_hat = ((z.clone() - eps_hat * sigma.clone()) / alpha.clone()).clamp(-1.0, 1.0);
    (z - x_hat * alpha) / sigma
}

/// The posterior q(z_s | z_t, x = x_hat) of one step from t to s < t, which is also the model's p(z_s | z_t).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Posterior {
    /// gamma(t).
    pub gamma_t: f64,
    /// gamma(s), below `gamma_t`.
    pub gamma_s: f64,
}

impl Posterior {
    /// The posterior between two points of a schedule, `gamma_t > gamma_s`.
    pub fn new(gamma_t: f64, gamma_s: f64) -> Self {
        Self { gamma_t, gamma_s }
    }

    /// Draws z_s = sqrt(alpha_s²/alpha_t²) (z_t - sigma_t c eps_hat) + sqrt(sigma_s² c) eps, where
    /// c = -expm1(gamma_s - gamma_t) (VDM equation 34).
    ///
    /// # Shapes
    /// All `[batch, channels, height, width]`.
    pub fn draw(&self, z_t: Tensor<4>, eps_hat: Tensor<4>, eps: Tensor<4>) -> Tensor<4> {
        self.draw_wider(z_t, eps_hat, eps, None)
    }

    /// [`draw`](Self::draw) from a Gaussian that is wider where eps_hat is wrong: its variance is 1 + r times as large, with
    /// r = expm1(gamma_t - gamma_s) M and M the expected squared error of eps_hat (see
    /// [`error_model`](crate::diffusion::error_model)).
    ///
    /// # Shapes
    /// All `[batch, channels, height, width]`.
    pub fn draw_wider(
        &self,
        z_t: Tensor<4>,
        eps_hat: Tensor<4>,
        eps: Tensor<4>,
        expected_error: Option<Tensor<4>>,
    ) -> Tensor<4> {
        let eps = match expected_error {
            Some(error) => eps * (error * libm::expm1(self.gamma_t - self.gamma_s) + 1.0).sqrt(),
            None => eps,
        };
        // ANCHOR: step
        let c = -libm::expm1(self.gamma_s - self.gamma_t);
        let (alpha_t, sigma_t) = (alpha(self.gamma_t), sigma(self.gamma_t));
        let mean = (z_t - eps_hat * (sigma_t * c)) * (alpha(self.gamma_s) / alpha_t);
        mean + eps * (sigmoid(self.gamma_s) * c).sqrt()
        // ANCHOR_END: step
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Device;

    fn number(x: f64) -> Tensor<4> {
        Tensor::full([1, 1, 1, 1], x, &Device::flex())
    }

    fn value(t: Tensor<4>) -> f64 {
        crate::math::host(&t)[0]
    }

    /// With the true x, a draw of the posterior is a draw of q(z_s | x): the means agree, and so do the variances.
    #[test]
    fn the_posterior_of_the_true_x_gives_the_marginal() {
        let (x, eps_t, gamma_t, gamma_s) = (0.4, 0.7, 1.5, -0.5);
        let z_t = alpha(gamma_t) * x + sigma(gamma_t) * eps_t;
        let mean_s = value(Posterior::new(gamma_t, gamma_s).draw(number(z_t), number(eps_t), number(0.0)));
        let with_noise = value(Posterior::new(gamma_t, gamma_s).draw(number(z_t), number(eps_t), number(1.0)));
        // z_s = alpha_s x + a eps_t + b eps with a² + b² = sigma_s².
        let (a, b) = ((mean_s - alpha(gamma_s) * x) / eps_t, with_noise - mean_s);
        assert!((a * a + b * b - sigmoid(gamma_s)).abs() < 1e-6, "{a} {b}");
    }

    #[test]
    fn every_prediction_of_the_truth_gives_the_noise() {
        let (x, eps, gamma) = (0.3, -0.8, -1.2);
        let of_gamma = || Tensor::<1>::full([1], gamma, &Device::flex());
        let z = || diffuse(number(x), of_gamma(), number(eps));
        let v = alpha(gamma) * eps - sigma(gamma) * x;
        for (prediction, output) in [(Prediction::Eps, eps), (Prediction::V, v), (Prediction::X, x)] {
            let found = value(eps_from(prediction, number(output), z(), of_gamma()));
            assert!((found - eps).abs() < 1e-6, "{prediction:?}: {found}");
        }
    }

    #[test]
    fn x_hat_undoes_diffuse() {
        let gamma = || Tensor::<1>::full([1], -1.2, &Device::flex());
        let z = diffuse(number(0.3), gamma(), number(-0.8));
        assert!((value(x_hat(z, gamma(), number(-0.8))) - 0.3).abs() < 1e-6);
    }
}
