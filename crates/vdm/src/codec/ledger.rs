//! What every image costs, beside what it would cost if latents were real numbers.

use super::gaussian::QuantizedNormal;
use super::stack::BitStack;

/// The cost of one image, in three ways.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Cost {
    /// Bits that the coder takes: -log2 of the probabilities of all that is pushed, less those of all that is popped.
    pub coded: f64,
    /// The same in nats for latents that are real numbers, with densities in place of the probabilities of bins. The
    /// latents are those that were coded, so `coded` less this is what the bins cost, and hardly anything else.
    pub density: f64,
    /// The bound on -log p(x) in nats, of as many steps as there are, every term given the coded latent above it: what
    /// `density` is on average over the latent below.
    pub bound: f64,
}

/// The costs of a batch of images.
#[derive(Debug)]
pub(super) struct Ledger {
    costs: Vec<Cost>,
    dims: usize,
}

impl Ledger {
    /// For `images` images of `dims` numbers.
    pub fn new(images: usize, dims: usize) -> Self {
        Self { costs: vec![Cost::default(); images], dims }
    }

    /// Does something with the stack for number `i` of the batch, and charges it to its image.
    pub fn coded<T>(&mut self, i: usize, stack: &mut BitStack, f: impl FnOnce(&mut BitStack) -> T) -> T {
        let before = stack.ideal_bits();
        let out = f(stack);
        self.costs[i / self.dims].coded += stack.ideal_bits() - before;
        out
    }

    /// Number `i` is coded given z_0 in as many bits of the bound as of the code.
    pub fn exact(&mut self, i: usize, bits: f64) {
        let nats = bits * std::f64::consts::LN_2;
        self.costs[i / self.dims].density += nats;
        self.costs[i / self.dims].bound += nats;
    }

    /// A latent in bin `k` of number `i` was drawn from `from`.
    pub fn drawn(&mut self, i: usize, from: QuantizedNormal, k: i32) {
        self.costs[i / self.dims].density += log_density(from, k);
    }

    /// It was coded with `with`, which is `divergence` nats away from what it is distributed by.
    pub fn pushed(&mut self, i: usize, with: QuantizedNormal, k: i32, divergence: f64) {
        self.costs[i / self.dims].density -= log_density(with, k);
        self.costs[i / self.dims].bound += divergence;
    }

    /// The cost of each image.
    pub fn into_costs(self) -> Vec<Cost> {
        self.costs
    }
}

/// ln of the density in the middle of bin `k`, per bin, but for a constant.
fn log_density(normal: QuantizedNormal, k: i32) -> f64 {
    let distance = (f64::from(k) - normal.mean_in_bins) * normal.inverse_sigma_in_bins;
    -0.5 * distance * distance + normal.inverse_sigma_in_bins.ln()
}

/// KL of N(alpha x, sigma²) from N(0, 1), where alpha² + sigma² = 1, in nats.
pub(super) fn prior_divergence(x: f64, alpha: f64, sigma: f64) -> f64 {
    0.5 * (alpha * alpha * (x * x - 1.0) - 2.0 * sigma.ln())
}

/// KL of two Gaussians of one deviation whose means lie `distance` deviations apart, in nats.
pub(super) fn step_divergence(distance: f64) -> f64 {
    0.5 * distance * distance
}
