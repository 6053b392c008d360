//! The error of eps_hat by noise level, and the steps that follow from it.

use super::ReverseVariance;

/// Parts of the distribution of M that a table keeps for each noise level.
pub const QUANTILES: usize = 32;

/// Most noise levels of a table: placing steps takes time and memory in proportion to their square, and a file says how many.
pub const MAX_POINTS: usize = 1024;

/// What is known of one noise level, in nats per number of an image.
#[derive(Clone, Debug, PartialEq)]
pub struct ErrorPoint {
    /// gamma.
    pub gamma: f64,
    /// The mean squared error of a number of eps_hat.
    pub mean: f64,
    /// M over the numbers of all images, sorted and cut into [`QUANTILES`] equal parts: the mean of each part, together with
    /// the mean `mean`.
    pub quantiles: [f32; QUANTILES],
    /// -log p(x | z) of a number if this were gamma_0.
    pub reconstruction: f64,
    /// The prior's term of a number if this were gamma_1.
    pub prior: f64,
}

/// The error of eps_hat at increasing noise levels.
///
/// # Invariants
/// Two to [`MAX_POINTS`] points; gamma is finite and increases; errors are positive and finite, the other terms finite.
#[derive(Clone, Debug, PartialEq)]
pub struct ErrorTable {
    points: Vec<ErrorPoint>,
}

/// Why there is no table, or no such steps.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum TableError {
    /// A point breaks an invariant of [`ErrorTable`].
    #[error("point {point} of the table of errors is wrong: {reason}")]
    Point {
        /// Its number.
        point: usize,
        /// What is wrong.
        reason: &'static str,
    },
    /// More steps than can be placed.
    #[error(
        "{steps} steps cannot be placed among {points} points; expected more points than steps, and at least one step"
    )]
    Steps {
        /// The steps asked for.
        steps: usize,
        /// The points there are.
        points: usize,
    },
    /// All chains of so many steps have an infinite cost.
    #[error("no chain of {steps} steps has a finite cost by the table of errors: the errors are too large")]
    Costs {
        /// The steps asked for.
        steps: usize,
    },
}

impl ErrorTable {
    /// A table of these points.
    ///
    /// # Errors
    /// [`TableError::Point`].
    pub fn new(points: Vec<ErrorPoint>) -> Result<Self, TableError> {
        let wrong = |point, reason| Err(TableError::Point { point, reason });
        if points.len() < 2 {
            return wrong(points.len(), "there must be at least two");
        }
        if points.len() > MAX_POINTS {
            return wrong(points.len(), "there are more than 1024");
        }
        for (i, point) in points.iter().enumerate() {
            if !point.gamma.is_finite() || i > 0 && points[i - 1].gamma >= point.gamma {
                return wrong(i, "gamma must be finite and increase");
            }
            let positive = |x: f64| x.is_finite() && x > 0.0;
            if !positive(point.mean) || !point.quantiles.iter().all(|&q| positive(q.into())) {
                return wrong(i, "errors must be positive and finite");
            }
            if !point.reconstruction.is_finite() || !point.prior.is_finite() {
                return wrong(i, "its terms must be finite");
            }
        }
        Ok(Self { points })
    }

    /// The points.
    pub fn points(&self) -> &[ErrorPoint] {
        &self.points
    }

    /// The logarithm of the mean squared error at `gamma`, straight between the points.
    pub fn log_mean(&self, gamma: f64) -> f64 {
        let after = self.points.partition_point(|point| point.gamma < gamma).clamp(1, self.points.len() - 1);
        let (a, b) = (&self.points[after - 1], &self.points[after]);
        let share = ((gamma - a.gamma) / (b.gamma - a.gamma)).clamp(0.0, 1.0);
        libm::log(a.mean) * (1.0 - share) + libm::log(b.mean) * share
    }

    /// What the chain of these gammas, which are points of the table, costs a number of an image, in nats: prior,
    /// reconstruction and steps. A gamma that is no point counts as the one above it.
    pub fn bound(&self, gammas: &[f64], variance: ReverseVariance) -> f64 {
        let last = self.points.len() - 1;
        let point = |&gamma: &f64| self.points.partition_point(|point| point.gamma < gamma).min(last);
        let path: Vec<usize> = gammas.iter().map(point).collect();
        let [Some(&first), Some(&end)] = [path.first(), path.last()] else { return 0.0 };
        let steps: f64 = path.windows(2).map(|pair| self.step_cost(pair[0], pair[1], variance)).sum();
        self.points[first].reconstruction + steps + self.points[end].prior
    }

    /// What the step from point `to` down to point `from` costs a number of an image, in nats.
    fn step_cost(&self, from: usize, to: usize, variance: ReverseVariance) -> f64 {
        let c = libm::expm1(self.points[to].gamma - self.points[from].gamma);
        let point = &self.points[to];
        0.5 * match variance {
            ReverseVariance::Posterior => c * point.mean,
            ReverseVariance::Step => libm::log1p(c * point.mean),
            ReverseVariance::Pixel => {
                point.quantiles.iter().map(|&m| libm::log1p(c * f64::from(m))).sum::<f64>() / QUANTILES as f64
            }
        }
    }

    /// The gammas gamma_0 to gamma_T of the chain of `steps` steps that costs least in all with this variance, prior and
    /// reconstruction included: an exact dynamic programme over the points (Watson et al. 2021, arXiv 2106.03802), in time
    /// in proportion to points² times steps. The chain may begin above the first point and end below the last.
    ///
    /// # Errors
    /// [`TableError::Steps`] if there are not more points than steps, or no step; [`TableError::Costs`].
    pub fn cheapest_steps(&self, steps: usize, variance: ReverseVariance) -> Result<Vec<f64>, TableError> {
        let n = self.points.len();
        if steps == 0 || n <= steps {
            return Err(TableError::Steps { steps, points: n });
        }
        let mut costs = vec![0.0; n * n];
        for to in 0..n {
            for from in 0..to {
                costs[from * n + to] = self.step_cost(from, to, variance);
            }
        }
        let ends = |term: fn(&ErrorPoint) -> f64| -> Vec<f64> { self.points.iter().map(term).collect() };
        let (first, last) = (ends(|point| point.reconstruction), ends(|point| point.prior));
        let path = cheapest_path(n, steps, &first, &last, |from, to| costs[from * n + to]);
        let path = path.ok_or(TableError::Costs { steps })?;
        Ok(path.into_iter().map(|point| self.points[point].gamma).collect())
    }
}

/// The cheapest path of `steps` steps up through the points 0 .. `n`: what its first point costs by `first`, its last by
/// `last`, and each step by `cost(from, to)`. `None` if there are not more points than steps, no step, or no finite cost.
pub fn cheapest_path(
    n: usize,
    steps: usize,
    first: &[f64],
    last: &[f64],
    cost: impl Fn(usize, usize) -> f64,
) -> Option<Vec<usize>> {
    if steps == 0 || n <= steps {
        return None;
    }
    // least[j]: the cost of the best path of the steps so far that ends in point j; before[..][j]: its last but one point.
    let mut least: Vec<f64> = first[..n].to_vec();
    let mut before = Vec::with_capacity(steps);
    for _ in 0..steps {
        let best_into = |to: usize| {
            let ways = (0..to).filter(|&from| least[from].is_finite()).map(|from| (least[from] + cost(from, to), from));
            ways.min_by(|a, b| a.0.total_cmp(&b.0)).unwrap_or((f64::INFINITY, 0))
        };
        let next: Vec<(f64, usize)> = (0..n).map(best_into).collect();
        least = next.iter().map(|(total, _)| *total).collect();
        before.push(next.into_iter().map(|(_, from)| from).collect::<Vec<usize>>());
    }
    let mut at = (0..n).min_by(|&a, &b| (least[a] + last[a]).total_cmp(&(least[b] + last[b])))?;
    if !(least[at] + last[at]).is_finite() {
        return None;
    }
    let mut path = vec![at];
    for before in before.iter().rev() {
        at = before[at];
        path.push(at);
    }
    path.reverse();
    Some(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(points: usize) -> ErrorTable {
        let point = |i: usize| {
            let gamma = -8.0 + 13.0 * i as f64 / (points - 1) as f64;
            let mean = libm::exp(-0.3 * (gamma + 8.0));
            let mut quantiles: [f32; QUANTILES] = std::array::from_fn(|i| (i as f32 + 0.5).powi(4));
            let sum: f32 = quantiles.iter().sum();
            quantiles.iter_mut().for_each(|q| *q *= QUANTILES as f32 * mean as f32 / sum);
            ErrorPoint { gamma, mean, quantiles, reconstruction: 0.01 * libm::exp(gamma + 8.0), prior: 0.0 }
        };
        ErrorTable::new((0..points).map(point).collect()).unwrap()
    }

    #[test]
    fn wider_variances_cost_less_and_those_by_pixel_least() {
        let table = table(20);
        for (from, to) in [(0, 1), (3, 19), (7, 11)] {
            let [posterior, step, pixel] = [ReverseVariance::Posterior, ReverseVariance::Step, ReverseVariance::Pixel]
                .map(|variance| table.step_cost(from, to, variance));
            assert!(pixel < step && step < posterior, "{pixel} {step} {posterior}");
        }
    }

    #[test]
    fn the_mean_is_interpolated_and_constant_outside() {
        let table = table(14);
        assert!((table.log_mean(-7.5) + 0.15).abs() < 1e-12);
        assert_eq!(table.log_mean(-100.0), table.log_mean(-8.0));
        assert_eq!(table.log_mean(100.0), table.log_mean(5.0));
    }

    #[test]
    fn the_cheapest_steps_are_no_worse_than_even_ones() {
        let table = table(61);
        let cost = |path: &[usize]| -> f64 {
            table.points[path[0]].reconstruction
                + path.windows(2).map(|p| table.step_cost(p[0], p[1], ReverseVariance::Pixel)).sum::<f64>()
        };
        let even: Vec<usize> = (0..=10).map(|i| i * 6).collect();
        let gammas = table.cheapest_steps(10, ReverseVariance::Pixel).unwrap();
        assert_eq!(gammas.len(), 11);
        let chosen: Vec<usize> =
            gammas.iter().map(|g| table.points.iter().position(|p| p.gamma == *g).unwrap()).collect();
        assert!(cost(&chosen) < cost(&even), "{} {}", cost(&chosen), cost(&even));
    }

    #[test]
    fn wrong_tables_and_steps_are_errors() {
        let points = table(5).points;
        let with = |change: fn(&mut ErrorPoint)| {
            let mut points = points.clone();
            change(&mut points[2]);
            ErrorTable::new(points)
        };
        for change in [
            (|p: &mut ErrorPoint| p.gamma = -8.0) as fn(&mut ErrorPoint),
            |p| p.gamma = f64::NAN,
            |p| p.mean = 0.0,
            |p| p.quantiles[3] = f32::INFINITY,
            |p| p.reconstruction = f64::NAN,
            |p| p.prior = f64::INFINITY,
        ] {
            assert!(matches!(with(change), Err(TableError::Point { point: 2, .. })));
        }
        assert!(ErrorTable::new(points[..1].to_vec()).is_err());
        let many = (0..=MAX_POINTS).map(|i| ErrorPoint { gamma: i as f64, ..points[0].clone() }).collect();
        assert!(ErrorTable::new(many).is_err());
        let table = table(5);
        assert!(table.cheapest_steps(5, ReverseVariance::Step).is_err());
        assert!(table.cheapest_steps(0, ReverseVariance::Step).is_err());
        assert_eq!(table.cheapest_steps(4, ReverseVariance::Step).unwrap().len(), 5);
        let far = |gamma| ErrorPoint { gamma, ..points[0].clone() };
        let table = ErrorTable::new([-1000.0, 1000.0].map(far).to_vec()).unwrap();
        let found = table.cheapest_steps(1, ReverseVariance::Posterior);
        assert_eq!(found, Err(TableError::Costs { steps: 1 }));
    }
}
