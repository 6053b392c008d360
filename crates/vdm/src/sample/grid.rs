//! Where the steps of a sampler are.

use crate::schedule::HostSchedule;
use serde::{Deserialize, Serialize};

/// How the points between gamma_1 and gamma_0 are chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Grid {
    /// Evenly spaced in time, as the bound in discrete time has them: steps are where the schedule puts them. A schedule that
    /// was trained for less variance puts them where the loss is.
    #[default]
    Time,
    /// Evenly spaced in gamma.
    Gamma,
    /// Closer where the model's own loss says that steps cost more.
    Loss,
}

/// `steps` + 1 points, from gamma_1 down to gamma_0; `loss` is the error of the network at some gammas, for [`Grid::Loss`].
pub(super) fn gammas(grid: Grid, schedule: &dyn HostSchedule, steps: usize, loss: &[(f64, f64)]) -> Vec<f64> {
    let share = |i: usize| (steps - i) as f64 / steps as f64;
    let (gamma_0, gamma_1) = (schedule.gamma(0.0), schedule.gamma(1.0));
    match grid {
        Grid::Time => schedule.evenly(steps).into_iter().rev().collect(),
        Grid::Gamma => {
            (0..=steps).map(|i| if i == 0 { gamma_1 } else { gamma_0 + (gamma_1 - gamma_0) * share(i) }).collect()
        }
        Grid::Loss => by_loss(gamma_0, gamma_1, steps, loss),
    }
}

/// Points for the bound in `steps` steps, given the expected squared error m of eps_hat at some increasing gammas.
///
/// A step of length d at gamma costs 1/2 expm1(d) m(gamma) nats, where the bound in continuous time has the integral of m/2:
/// to second order d²/4 (m + m') more. With points of density rho the steps are 1 / (n rho) long, so that the sum is the
/// integral of (m + m') / (4 n rho), which is least for rho in proportion to the root of m + m'. That is the derivative of
/// e^gamma m over e^gamma, and positive: E|x - x_hat|² / alpha² grows with the noise.
pub(super) fn by_loss(gamma_0: f64, gamma_1: f64, steps: usize, loss: &[(f64, f64)]) -> Vec<f64> {
    let mut cells: Vec<(f64, f64, f64)> = loss
        .windows(2)
        .map(|pair| {
            let ((a, m_a), (b, m_b)) = (pair[0], pair[1]);
            let slope = (m_b - m_a) / (b - a);
            (a, b, (0.5 * (m_a + m_b) + slope).max(0.0).sqrt())
        })
        .collect();
    // No cell is left out, whatever the noise of the estimate.
    let most = cells.iter().fold(0.0, |most: f64, cell| most.max(cell.2));
    cells.iter_mut().for_each(|cell| cell.2 = cell.2.max(0.02 * most).max(f64::MIN_POSITIVE));
    let total: f64 = cells.iter().map(|(a, b, rho)| (b - a) * rho).sum();
    let mut points = Vec::with_capacity(steps + 1);
    points.push(gamma_1);
    for i in 1..steps {
        let mut left = total * (steps - i) as f64 / steps as f64;
        let mut point = gamma_0;
        for (a, b, rho) in &cells {
            let mass = (b - a) * rho;
            if left <= mass {
                point = a + left / rho;
                break;
            }
            left -= mass;
        }
        points.push(point);
    }
    points.push(gamma_0);
    points
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loss_puts_steps_where_they_cost() {
        // m falls from 1 to 0 over [-2, 2]; beyond it is flat.
        let m = |gamma: f64| 0.5 - 0.25 * gamma.clamp(-2.0, 2.0);
        let loss: Vec<(f64, f64)> = (0..=100).map(|i| (-10.0 + 0.15 * i as f64, m(-10.0 + 0.15 * i as f64))).collect();
        for steps in [1, 2, 7, 50] {
            let points = by_loss(-10.0, 5.0, steps, &loss);
            assert_eq!(points.len(), steps + 1);
            assert_eq!((points[0], points[steps]), (5.0, -10.0));
            assert!(points.windows(2).all(|pair| pair[0] > pair[1]), "{points:?}");
        }
        let cost = |points: &[f64]| -> f64 { points.windows(2).map(|p| 0.5 * (p[0] - p[1]).exp_m1() * m(p[0])).sum() };
        let even: Vec<f64> = (0..=50).map(|i| 5.0 - 0.3 * f64::from(i)).collect();
        assert!(cost(&by_loss(-10.0, 5.0, 50, &loss)) < cost(&even));
    }
}
