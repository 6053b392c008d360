//! The figures of a run: its training curve, its schedule, and where along the schedule the bits are.

use super::chart::{
    Axis, Measured, PlotError, WIDTH, decimal, draw_legend, draw_line, draw_measured, frame, power_of_ten, svg,
    thousands, trimmed,
};
use crate::schedule::HostSchedule;
use plotters::prelude::{Color, RGBColor, SeriesLabelPosition};

/// The colours of Okabe and Ito, which people with colour blindness can tell apart.
const BLUE: RGBColor = RGBColor(0, 114, 178);
const ORANGE: RGBColor = RGBColor(230, 159, 0);
const GREEN: RGBColor = RGBColor(0, 158, 115);
const PURPLE: RGBColor = RGBColor(204, 121, 167);
const VERMILION: RGBColor = RGBColor(213, 94, 0);
const PALETTE: [RGBColor; 5] = [BLUE, VERMILION, GREEN, PURPLE, ORANGE];

/// The loss in training, in bits per dimension.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CurvePoint {
    /// Optimiser steps done.
    pub step: u64,
    /// The prior term.
    pub prior: f64,
    /// The reconstruction term.
    pub reconstruction: f64,
    /// The diffusion term.
    pub diffusion: f64,
    /// The sum of the terms.
    pub total: f64,
}

/// The diffusion loss at a time, in bits per dimension.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LossBin {
    /// The time, in [0, 1].
    pub t: f64,
    /// The mean loss.
    pub mean: f64,
    /// The standard error of the mean.
    pub stderr: f64,
}

/// The loss and its terms over the steps of training, and the evaluations `(step, bits per dimension, standard error)`.
///
/// The range of losses leaves out the extreme hundredth of each line, so that the first steps do not squash the rest;
/// lines leave the frame there. NaN and infinite values leave gaps.
///
/// # Errors
/// [`PlotError`], which no input is known to cause.
pub fn training_curve(points: &[CurvePoint], evaluations: &[(u64, f64, f64)]) -> Result<String, PlotError> {
    let mut points = points.to_vec();
    points.sort_by_key(|p| p.step);
    let line =
        |term: fn(&CurvePoint) -> f64| -> Vec<(f64, f64)> { points.iter().map(|p| (p.step as f64, term(p))).collect() };
    // The total lies on the diffusion term for most of training: a thin line on a thick one shows both.
    let lines = [
        ("prior", PURPLE.stroke_width(2), line(|p| p.prior)),
        ("reconstruction", GREEN.stroke_width(2), line(|p| p.reconstruction)),
        ("diffusion", ORANGE.stroke_width(5), line(|p| p.diffusion)),
        ("total", BLUE.stroke_width(2), line(|p| p.total)),
    ];
    let mut evaluations: Vec<Measured> =
        evaluations.iter().map(|&(step, bpd, stderr)| Measured { x: step as f64, y: bpd, stderr }).collect();
    evaluations.sort_by(|a, b| a.x.total_cmp(&b.x));

    // Early evaluations are as far up as the early steps; the later half is always in sight.
    let late = &evaluations[evaluations.len() / 2..];
    let seen = lines.iter().flat_map(|(_, _, line)| trimmed(line.iter().map(|p| p.1)));
    let y = Axis::spanning(seen.chain(late.iter().flat_map(Measured::ends)), decimal);
    let steps = lines[0].2.iter().map(|p| p.0).chain(evaluations.iter().map(|e| e.x));
    let x = Axis::new(0.0, steps.fold(1.0, f64::max), 1.0, thousands);

    svg(|area| {
        let mut chart = frame(area, "Variational bound", (x, "optimiser steps"), (y, "loss, bits per dimension"))?;
        for (name, style, line) in &lines {
            draw_line(&mut chart, name, *style, line)?;
        }
        draw_measured(&mut chart, "evaluation, 1 standard error", VERMILION.stroke_width(2), &evaluations)?;
        draw_legend(&mut chart, SeriesLabelPosition::UpperRight)
    })
}

/// gamma(t) of each named schedule, and its signal-to-noise ratio exp(-gamma(t)) on a logarithmic scale.
///
/// # Errors
/// [`PlotError`], which no input is known to cause.
pub fn schedule_plot(schedules: &[(&str, &dyn HostSchedule)]) -> Result<String, PlotError> {
    const INTERVALS: u32 = 200;
    let line = |(i, (name, schedule)): (usize, &(_, &dyn HostSchedule))| {
        let times = (0..=INTERVALS).map(|k| f64::from(k) / f64::from(INTERVALS));
        let line: Vec<(f64, f64)> = times.map(|t| (t, schedule.gamma(t))).collect();
        (*name, PALETTE[i % PALETTE.len()].stroke_width(3), line)
    };
    let gammas: Vec<(&str, _, _)> = schedules.iter().enumerate().map(line).collect();
    let log_snr = |gamma: f64| -gamma / std::f64::consts::LN_10;
    let all = || gammas.iter().flat_map(|(_, _, line)| line.iter().map(|p| p.1));
    let gamma_axis = Axis::spanning(all(), decimal);
    let snr_axis = Axis::spanning(all().map(log_snr), power_of_ten);
    let time = || (Axis::new(0.0, 1.0, 0.0, decimal), "time t (0: data, 1: noise)");

    svg(|area| {
        let (left, right) = area.split_horizontally(WIDTH / 2);
        let mut chart = frame(&left, "Noise schedule", time(), (gamma_axis, "gamma(t) = -ln SNR(t), nats"))?;
        for (name, style, line) in &gammas {
            draw_line(&mut chart, name, *style, line)?;
        }
        if !gammas.is_empty() {
            draw_legend(&mut chart, SeriesLabelPosition::UpperLeft)?;
        }
        let label = "SNR(t) = exp(-gamma(t)), signal/noise variance";
        let mut chart = frame(&right, "Signal-to-noise ratio", time(), (snr_axis, label))?;
        for (name, style, line) in &gammas {
            let line: Vec<_> = line.iter().map(|&(t, gamma)| (t, log_snr(gamma))).collect();
            draw_line(&mut chart, name, *style, &line)?;
        }
        if !gammas.is_empty() {
            draw_legend(&mut chart, SeriesLabelPosition::UpperRight)?;
        }
        Ok(())
    })
}

/// The diffusion loss over time: where along the schedule the bits are.
///
/// # Errors
/// [`PlotError`], which no input is known to cause.
pub fn loss_over_time(bins: &[LossBin]) -> Result<String, PlotError> {
    let mut bins: Vec<Measured> =
        bins.iter().map(|bin| Measured { x: bin.t, y: bin.mean, stderr: bin.stderr }).collect();
    bins.sort_by(|a, b| a.x.total_cmp(&b.x));
    let line: Vec<(f64, f64)> = bins.iter().map(|bin| (bin.x, bin.y)).collect();
    let x = Axis::new(0.0, 1.0, 0.0, decimal);
    let y = Axis::spanning(bins.iter().flat_map(Measured::ends), decimal);
    svg(|area| {
        let axes = ((x, "time t (0: data, 1: noise)"), (y, "diffusion loss, bits per dimension"));
        let mut chart = frame(area, "Diffusion loss over time", axes.0, axes.1)?;
        draw_line(&mut chart, "mean", BLUE.stroke_width(2), &line)?;
        draw_measured(&mut chart, "1 standard error", VERMILION.stroke_width(2), &bins)?;
        draw_legend(&mut chart, SeriesLabelPosition::UpperRight)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// gamma as a line.
    struct Line(f64, f64);

    impl HostSchedule for Line {
        fn gamma(&self, t: f64) -> f64 {
            self.0 + self.1 * t
        }

        fn prime(&self, _t: f64) -> f64 {
            self.1
        }
    }

    fn curve(totals: impl IntoIterator<Item = f64>) -> Vec<CurvePoint> {
        let point = |(i, total): (usize, f64)| CurvePoint {
            step: 100 * (i as u64 + 1),
            prior: 0.001,
            reconstruction: 0.02,
            diffusion: total - 0.021,
            total,
        };
        totals.into_iter().enumerate().map(point).collect()
    }

    /// Elements of a kind in a colour.
    fn count(svg: &str, element: &str, color: RGBColor) -> usize {
        let (element, color) = (format!("<{element} "), format!("\"#{:02X}{:02X}{:02X}\"", color.0, color.1, color.2));
        svg.lines().filter(|line| line.starts_with(&element) && line.contains(&color)).count()
    }

    /// Every element closed, every coordinate and label a number.
    fn assert_sound(svg: &str) {
        assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
        let opened = svg.lines().filter(|l| l.starts_with('<') && !l.starts_with("</") && !l.ends_with("/>")).count();
        assert_eq!(opened, svg.matches("</").count());
        assert!(svg.contains("fill=\"#FFFFFF\""));
        assert!(!svg.contains("NaN") && !svg.contains("inf"));
    }

    #[test]
    fn a_training_curve_has_its_lines_points_and_labels() {
        let points = curve((0..50).map(|i| 3.0 + 1.0 / f64::from(i + 1)));
        let svg = training_curve(&points, &[(1000, 3.2, 0.02), (3000, 3.1, 0.02), (5000, 3.05, 0.0)]).unwrap();
        assert_sound(&svg);
        let terms = ["total", "prior", "reconstruction", "diffusion", "evaluation"];
        assert!(terms.iter().all(|name| svg.contains(&format!("\n{name}"))));
        assert!(svg.contains("bits per dimension") && svg.contains("optimiser steps"));
        assert!(svg.contains("\n1k\n") && svg.contains("\n5k\n"));
        assert_eq!([PURPLE, GREEN, ORANGE, BLUE].map(|color| count(&svg, "polyline", color)), [1; 4]);
        // One evaluation has no error; one of the dots is the legend's.
        assert_eq!(count(&svg, "polyline", VERMILION), 2);
        assert_eq!(count(&svg, "circle", VERMILION), 4);
    }

    #[test]
    fn numbers_that_are_none_leave_gaps() {
        let mut totals = vec![3.0; 30];
        totals[10] = f64::NAN;
        totals[20] = f64::INFINITY;
        let svg = training_curve(&curve(totals), &[]).unwrap();
        assert_sound(&svg);
        assert_eq!(count(&svg, "polyline", BLUE), 3);
        assert_eq!(count(&svg, "polyline", PURPLE), 1);
        assert_eq!(count(&svg, "circle", VERMILION), 0);
    }

    #[test]
    fn degenerate_curves_are_drawn() {
        let nothing = training_curve(&[], &[]).unwrap();
        assert_sound(&nothing);
        assert_eq!(count(&nothing, "polyline", BLUE), 0);

        let one = training_curve(&curve([3.0]), &[]).unwrap();
        assert_sound(&one);
        assert_eq!((count(&one, "polyline", BLUE), count(&one, "circle", BLUE)), (0, 1));

        let evaluation = training_curve(&[], &[(0, 8.0, 0.1)]).unwrap();
        assert_sound(&evaluation);
        assert_eq!(count(&evaluation, "polyline", VERMILION), 1);

        let hostile = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, f64::MAX, f64::MIN, 5e-324, -0.0, 1e99, -1e99, 1e15];
        for a in hostile {
            for b in hostile {
                for step in [0, 1, u64::MAX] {
                    let point = CurvePoint { step, prior: a, reconstruction: b, diffusion: a, total: b };
                    let first = CurvePoint { step: 0, ..point };
                    assert_sound(&training_curve(&[point, first], &[(step, a, b), (0, b, a)]).unwrap());
                }
            }
        }
    }

    #[test]
    fn the_first_steps_do_not_squash_the_rest() {
        let mut totals = vec![3.0; 200];
        totals[0] = 1e5;
        totals[1] = 1e4;
        let svg = training_curve(&curve(totals), &[(100, 1e5, 1.0), (20000, 3.1, 0.1)]).unwrap();
        assert_sound(&svg);
        assert!(svg.contains("\n3.0\n") || svg.contains("\n3\n"));
        // The early evaluation is out of sight; the other dot is the legend's.
        assert_eq!(count(&svg, "circle", VERMILION), 2);
    }

    #[test]
    fn long_curves_stay_small_and_keep_their_extremes() {
        let mut totals: Vec<f64> = (0..100_000).map(|i| 3.0 + 0.1 * f64::from(i % 7)).collect();
        totals[54_321] = 3.9;
        let svg = training_curve(&curve(totals), &[]).unwrap();
        assert_sound(&svg);
        assert!(svg.len() < 400_000);
    }

    #[test]
    fn schedules_have_two_panels() {
        let (fixed, learned) = (Line(-13.3, 18.3), Line(-9.0, 14.0));
        let svg = schedule_plot(&[("<fixed> & \"linear\"", &fixed), ("learned\u{0}", &learned)]).unwrap();
        assert_sound(&svg);
        assert_eq!([BLUE, VERMILION].map(|color| count(&svg, "polyline", color)), [2; 2]);
        assert!(svg.contains("&lt;fixed&gt; &amp; &quot;linear&quot;") && !svg.contains('\u{0}'));
        assert!(svg.contains("gamma(t) = -ln SNR(t)") && svg.contains("SNR(t) = exp(-gamma(t))"));
        assert!(svg.contains("\n-10\n") && svg.contains("\n1e4\n") && svg.contains("\n1e0\n"));
    }

    #[test]
    fn degenerate_schedules_are_drawn() {
        assert_sound(&schedule_plot(&[]).unwrap());
        for (start, slope) in [(0.0, 0.0), (-3.0, 0.0), (f64::NAN, 1.0), (0.0, f64::INFINITY), (-1e200, 2e200)] {
            assert_sound(&schedule_plot(&[("line", &Line(start, slope))]).unwrap());
        }
        let lines: Vec<Line> = (0..40).map(|i| Line(-f64::from(i), 20.0)).collect();
        let many: Vec<(&str, &dyn HostSchedule)> = lines.iter().map(|s| ("line", s as &dyn HostSchedule)).collect();
        assert_sound(&schedule_plot(&many).unwrap());
    }

    #[test]
    fn the_loss_over_time_has_a_line_and_error_bars() {
        let bin = |i: u32| LossBin { t: (f64::from(i) + 0.5) / 24.0, mean: 2.0 + f64::from(i % 5), stderr: 0.25 };
        let bins: Vec<LossBin> = (0..24).map(bin).collect();
        let svg = loss_over_time(&bins).unwrap();
        assert_sound(&svg);
        assert!(svg.contains("diffusion loss, bits per dimension") && svg.contains("time t"));
        assert_eq!((count(&svg, "polyline", BLUE), count(&svg, "polyline", VERMILION)), (1, 24));

        assert_sound(&loss_over_time(&[]).unwrap());
        assert_sound(&loss_over_time(&bins[..1]).unwrap());
        let odd = [f64::NAN, f64::INFINITY, -1.0, 0.0, 1.0, 2.0, f64::MAX];
        for a in odd {
            let bins = odd.map(|b| LossBin { t: a, mean: b, stderr: a });
            assert_sound(&loss_over_time(&bins).unwrap());
            let bins = odd.map(|b| LossBin { t: 0.5, mean: a, stderr: b });
            assert_sound(&loss_over_time(&bins).unwrap());
        }
    }
}
