//! Dormand and Prince's Runge-Kutta method of order 5(4) (J. Comp. Appl. Math. 6, 1980), with step control.
//!
//! Every image has its own time, step and error, and only the evaluations of the field are done together. Solvers that put a
//! whole batch into one system take the same steps for all images, so that an image's result changes with its neighbours.

use crate::progress::Stopped;

/// Where the solver gets its slopes.
pub trait Field {
    /// The slopes dy/dt of the images `which` at their times and states. Each must depend on its own image alone.
    ///
    /// # Errors
    /// [`Stopped`] if the computation was asked to stop.
    fn slopes(&mut self, which: &[usize], times: &[f64], states: &[Vec<f64>]) -> Result<Vec<Vec<f64>>, Stopped>;
}

/// How exactly to solve.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tolerance {
    /// The error of a step may be this much, absolute and relative together: its root mean square over the numbers of a
    /// state, each divided by 1 + its size. Positive; below 1e-6 the rounding of the network, which computes in single
    /// precision, stands in the way.
    pub error: f64,
    /// Most evaluations of the field for one image.
    pub max_evaluations: usize,
}

impl Tolerance {
    /// This error, and at most 10,000 evaluations.
    pub fn new(error: f64) -> Self {
        Self { error, max_evaluations: 10_000 }
    }
}

/// A solution's end.
#[derive(Clone, Debug, PartialEq)]
pub struct Solved {
    /// The state at the end.
    pub state: Vec<f64>,
    /// Evaluations of the field that it took.
    pub evaluations: usize,
}

/// Why there is no solution.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum SolveError {
    /// The computation was asked to stop.
    #[error(transparent)]
    Stopped(#[from] Stopped),
    /// The tolerance is no positive number.
    #[error("the tolerance must be a positive number, not {tolerance}")]
    Tolerance {
        /// The tolerance, as text.
        tolerance: String,
    },
    /// The solution became infinite, or its slope not a number.
    #[error("image {image}: the flow diverges at gamma = {at}: the weights are damaged, or training diverged")]
    Diverged {
        /// The image's place in the batch.
        image: usize,
        /// Where, as text.
        at: String,
    },
    /// Too much work.
    #[error(
        "image {image}: the flow takes more than {evaluations} evaluations of the network; allow a larger error with --tolerance"
    )]
    TooLong {
        /// The image's place in the batch.
        image: usize,
        /// The most that were allowed.
        evaluations: usize,
    },
}

/// When the stages are, in steps.
const C: [f64; 7] = [0.0, 1.0 / 5.0, 3.0 / 10.0, 4.0 / 5.0, 8.0 / 9.0, 1.0, 1.0];
/// What each stage's state takes of the slopes before it. The last row is the solution of order 5.
const A: [&[f64]; 7] = [
    &[],
    &[1.0 / 5.0],
    &[3.0 / 40.0, 9.0 / 40.0],
    &[44.0 / 45.0, -56.0 / 15.0, 32.0 / 9.0],
    &[19372.0 / 6561.0, -25360.0 / 2187.0, 64448.0 / 6561.0, -212.0 / 729.0],
    &[9017.0 / 3168.0, -355.0 / 33.0, 46732.0 / 5247.0, 49.0 / 176.0, -5103.0 / 18656.0],
    &[35.0 / 384.0, 0.0, 500.0 / 1113.0, 125.0 / 192.0, -2187.0 / 6784.0, 11.0 / 84.0],
];
/// The difference of the solutions of orders 5 and 4.
const E: [f64; 7] =
    [71.0 / 57600.0, 0.0, -71.0 / 16695.0, 71.0 / 1920.0, -17253.0 / 339200.0, 22.0 / 525.0, -1.0 / 40.0];

/// One image on its way.
struct Way {
    t: f64,
    step: f64,
    state: Vec<f64>,
    /// The slope at `t`, which the last stage of the step before has given.
    slope: Option<Vec<f64>>,
    evaluations: usize,
    /// Whether the step leads to the end.
    last: bool,
    done: bool,
}

/// Integrates every state from `from` to `to`.
///
/// The last `apart` numbers of a state (a log-density) are judged by themselves: each may be off by the tolerance times the
/// number of the others, as its error counts per dimension.
///
/// # Errors
/// See [`SolveError`].
pub fn solve(
    states: Vec<Vec<f64>>,
    apart: usize,
    from: f64,
    to: f64,
    tolerance: &Tolerance,
    field: &mut dyn Field,
) -> Result<Vec<Solved>, SolveError> {
    if !(tolerance.error > 0.0 && tolerance.error.is_finite()) {
        return Err(SolveError::Tolerance { tolerance: tolerance.error.to_string() });
    }
    let first = (to - from) / 50.0;
    let way = |state| Way { t: from, step: first, state, slope: None, evaluations: 0, last: false, done: from == to };
    let mut ways: Vec<Way> = states.into_iter().map(way).collect();
    loop {
        let active: Vec<usize> = (0..ways.len()).filter(|&i| !ways[i].done).collect();
        if active.is_empty() {
            let end = |way: Way| Solved { state: way.state, evaluations: way.evaluations };
            return Ok(ways.into_iter().map(end).collect());
        }
        if let Some(&image) = active.iter().find(|&&i| ways[i].evaluations + 6 > tolerance.max_evaluations) {
            return Err(SolveError::TooLong { image, evaluations: tolerance.max_evaluations });
        }
        let starting: Vec<usize> = active.iter().copied().filter(|&i| ways[i].slope.is_none()).collect();
        if !starting.is_empty() {
            let times: Vec<f64> = starting.iter().map(|&i| ways[i].t).collect();
            let at: Vec<Vec<f64>> = starting.iter().map(|&i| ways[i].state.clone()).collect();
            for (&i, slope) in starting.iter().zip(field.slopes(&starting, &times, &at)?) {
                ways[i].slope = Some(slope);
                ways[i].evaluations += 1;
            }
        }
        // slopes[a][s]: stage s of the a-th active image.
        let mut slopes: Vec<Vec<Vec<f64>>> =
            active.iter().map(|&i| vec![ways[i].slope.clone().unwrap_or_default()]).collect();
        let mut ends = Vec::new();
        for stage in 1..7 {
            let stage_state = |(&i, slopes): (&usize, &Vec<Vec<f64>>)| {
                let mut state = ways[i].state.clone();
                for (weight, slope) in A[stage].iter().zip(slopes) {
                    state.iter_mut().zip(slope).for_each(|(y, k)| *y += ways[i].step * weight * k);
                }
                state
            };
            let at: Vec<Vec<f64>> = active.iter().zip(&slopes).map(stage_state).collect();
            let times: Vec<f64> = active.iter().map(|&i| ways[i].t + C[stage] * ways[i].step).collect();
            for (slopes, slope) in slopes.iter_mut().zip(field.slopes(&active, &times, &at)?) {
                slopes.push(slope);
            }
            ends = at;
        }
        for ((&i, slopes), end) in active.iter().zip(slopes).zip(ends) {
            let way = &mut ways[i];
            way.evaluations += 6;
            let error = error(&way.state, &end, &slopes, way.step, apart) / tolerance.error;
            // Of order 5; never more than five times the step, or a fifth of it.
            let factor =
                if error.is_finite() { (0.9 * libm::pow(error.max(1e-10), -0.2)).clamp(0.2, 5.0) } else { 0.2 };
            if error <= 1.0 {
                // The last step ends at the end exactly.
                (way.done, way.t) = if way.last { (true, to) } else { (false, way.t + way.step) };
                way.state = end;
                way.slope = slopes.into_iter().next_back();
            } else if way.step.abs() < 1e-9 * (to - from).abs() {
                return Err(SolveError::Diverged { image: i, at: format!("{:.3}", way.t) });
            }
            way.step *= factor;
            // No sliver is left before the end.
            way.last = (to - way.t).abs() <= 1.01 * way.step.abs();
            if way.last {
                way.step = to - way.t;
            }
        }
    }
}

/// The error of a step, in units of 1 + the size of the state.
fn error(before: &[f64], after: &[f64], slopes: &[Vec<f64>], step: f64, apart: usize) -> f64 {
    let off = |i: usize| {
        let difference: f64 = slopes.iter().zip(E).map(|(slope, weight)| weight * slope[i]).sum();
        (step * difference).abs()
    };
    let dims = before.len() - apart;
    let square = |i: usize| {
        let size = 1.0 + before[i].abs().max(after[i].abs());
        (off(i) / size) * (off(i) / size)
    };
    let together = ((0..dims).map(square).sum::<f64>() / dims.max(1) as f64).sqrt();
    (dims..before.len())
        .map(|i| off(i) / dims.max(1) as f64)
        .fold(together, |worst, e| if e <= worst { worst } else { e })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// dy/dt = -y + sin(rate t), whose solution from 0 is known; counts its evaluations and batches.
    struct Known {
        rates: Vec<f64>,
        calls: usize,
    }

    impl Known {
        fn end(rate: f64, t: f64) -> f64 {
            let part = |t: f64| ((rate * t).sin() - rate * (rate * t).cos()) / (1.0 + rate * rate);
            part(t) + (1.0 - part(0.0)) * (-t).exp()
        }
    }

    impl Field for Known {
        fn slopes(&mut self, which: &[usize], times: &[f64], states: &[Vec<f64>]) -> Result<Vec<Vec<f64>>, Stopped> {
            self.calls += 1;
            let slope = |((&i, t), y): ((&usize, &f64), &Vec<f64>)| vec![-y[0] + (self.rates[i] * t).sin()];
            Ok(which.iter().zip(times).zip(states).map(slope).collect())
        }
    }

    fn run(rates: &[f64], error: f64) -> Vec<Solved> {
        let states = vec![vec![1.0]; rates.len()];
        let mut field = Known { rates: rates.to_vec(), calls: 0 };
        solve(states, 0, 0.0, 3.0, &Tolerance::new(error), &mut field).unwrap()
    }

    #[test]
    fn the_error_is_of_order_five_in_the_number_of_evaluations() {
        let points: Vec<(f64, f64)> = [1e-4, 1e-5, 1e-6, 1e-7, 1e-8, 1e-9]
            .into_iter()
            .map(|tolerance| {
                let solved = &run(&[5.0], tolerance)[0];
                let off = (solved.state[0] - Known::end(5.0, 3.0)).abs();
                assert!(off < 10.0 * tolerance, "{off} at {tolerance}");
                ((solved.evaluations as f64).ln(), off.ln())
            })
            .collect();
        let n = points.len() as f64;
        let (mx, my) = points.iter().fold((0.0, 0.0), |(a, b), (x, y)| (a + x / n, b + y / n));
        let slope = points.iter().map(|(x, y)| (x - mx) * (y - my)).sum::<f64>()
            / points.iter().map(|(x, _)| (x - mx) * (x - mx)).sum::<f64>();
        assert!((-6.5..-4.0).contains(&slope), "{slope}");
    }

    #[test]
    fn a_solution_is_the_same_in_any_batch() {
        let rates = [0.5, 20.0, 3.0];
        let together = run(&rates, 1e-6);
        for (rate, solved) in rates.iter().zip(&together) {
            assert_eq!(*solved, run(&[*rate], 1e-6)[0]);
        }
        assert!(together[1].evaluations > together[0].evaluations, "each has its own steps");
    }

    #[test]
    fn backwards_undoes_forwards() {
        let there = run(&[2.0], 1e-9)[0].state.clone();
        let mut field = Known { rates: vec![2.0], calls: 0 };
        let back = solve(vec![there], 0, 3.0, 0.0, &Tolerance::new(1e-9), &mut field).unwrap();
        assert!((back[0].state[0] - 1.0).abs() < 1e-6);
    }

    /// y' = y², which is infinite at t = 1.
    struct Exploding;

    impl Field for Exploding {
        fn slopes(&mut self, which: &[usize], _: &[f64], states: &[Vec<f64>]) -> Result<Vec<Vec<f64>>, Stopped> {
            Ok(which.iter().zip(states).map(|(_, y)| vec![y[0] * y[0]]).collect())
        }
    }

    #[test]
    fn what_cannot_be_solved_is_an_error() {
        let solve = |tolerance: Tolerance| solve(vec![vec![1.0]], 0, 0.0, 2.0, &tolerance, &mut Exploding).unwrap_err();
        assert!(matches!(
            solve(Tolerance::new(1e-6)),
            SolveError::Diverged { image: 0, .. } | SolveError::TooLong { .. }
        ));
        assert!(matches!(
            solve(Tolerance { error: 1e-6, max_evaluations: 20 }),
            SolveError::TooLong { evaluations: 20, .. }
        ));
        for error in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert!(matches!(solve(Tolerance::new(error)), SolveError::Tolerance { .. }));
        }
    }
}
