//! The plots of a run, as SVG documents on a white ground.
//!
//! The axes are this module's own: plotters' floating-point axes look for ticks in a loop that need not end where the
//! range is narrow for its magnitude, and the SVG backend does not clip, so lines are cut to the frame here.

use crate::schedule::HostSchedule;
use plotters::coord::Shift;
use plotters::coord::cartesian::Cartesian2d;
use plotters::coord::ranged1d::{DefaultFormatting, KeyPointHint, Ranged};
use plotters::prelude::{
    BLACK, ChartBuilder, ChartContext, Circle, Color, DrawingArea, DrawingAreaErrorKind, IntoDrawingArea, PathElement,
    RGBColor, Rectangle, SVGBackend, SeriesLabelPosition, ShapeStyle, WHITE,
};
use std::io;
use std::ops::Range;

/// Pixels of a plot.
const WIDTH: u32 = 1200;
const HEIGHT: u32 = 700;

/// Intervals between ticks of an axis, at most.
const TICKS: f64 = 7.0;

/// Fewest values of which the extremes count as outliers.
const MANY: usize = 20;

/// The colours of Okabe and Ito, which the colour-blind can tell apart.
const BLUE: RGBColor = RGBColor(0, 114, 178);
const ORANGE: RGBColor = RGBColor(230, 159, 0);
const GREEN: RGBColor = RGBColor(0, 158, 115);
const PURPLE: RGBColor = RGBColor(204, 121, 167);
const VERMILION: RGBColor = RGBColor(213, 94, 0);
const PALETTE: [RGBColor; 5] = [BLUE, VERMILION, GREEN, PURPLE, ORANGE];

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Chart<'a> = ChartContext<'a, SVGBackend<'a>, Cartesian2d<Axis, Axis>>;

/// Why there is no plot.
#[derive(Debug, thiserror::Error)]
#[error("cannot draw a plot: {0}")]
pub struct PlotError(#[from] DrawingAreaErrorKind<io::Error>);

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
/// lines leave the frame there. Numbers that are none leave gaps.
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

/// A value with its standard error.
#[derive(Clone, Copy, Debug)]
struct Measured {
    x: f64,
    y: f64,
    stderr: f64,
}

impl Measured {
    /// Half the length of the error bar: 0 for no bar.
    fn half(&self) -> f64 {
        if drawable(self.stderr) { self.stderr.max(0.0) } else { 0.0 }
    }

    /// The ends of the error bar.
    fn ends(&self) -> [f64; 2] {
        [self.y - self.half(), self.y + self.half()]
    }
}

/// How an axis writes the value at a tick, given the distance between ticks.
type Format = fn(f64, f64) -> String;

/// A linear axis.
#[derive(Clone, Debug)]
struct Axis {
    low: f64,
    high: f64,
    /// Between ticks.
    step: f64,
    format: Format,
}

impl Axis {
    /// The axis from `low` to `high`, which are not too close, with ticks at least `least_step` apart.
    fn new(low: f64, high: f64, least_step: f64, format: Format) -> Self {
        let least = ((high - low) / TICKS).max(least_step);
        let power = 10f64.powi(least.log10().floor() as i32);
        let steps = [power, 2.0 * power, 5.0 * power];
        let step = steps.into_iter().find(|&step| step >= least * (1.0 - 1e-9)).unwrap_or(10.0 * power);
        Self { low, high, step, format }
    }

    /// The axis that shows all `values` that can be shown, with a margin.
    fn spanning(values: impl Iterator<Item = f64>, format: Format) -> Self {
        let empty = (f64::INFINITY, f64::NEG_INFINITY);
        let (low, high) = values.filter(|&v| drawable(v)).fold(empty, |(low, high), v| (low.min(v), high.max(v)));
        if low > high {
            return Self::new(0.0, 1.0, 0.0, format);
        }
        let size = low.abs().max(high.abs());
        let (middle, half) = (0.5 * low + 0.5 * high, 0.5 * high - 0.5 * low);
        let half = if half > 1e-9 * size && half > 1e-30 {
            1.1 * half
        } else if size > 1e-30 {
            0.1 * size
        } else {
            1.0
        };
        Self::new(middle - half, middle + half, 0.0, format)
    }

    /// The multiples of the step within the axis.
    fn ticks(&self) -> Vec<f64> {
        let (first, last) = ((self.low / self.step).ceil() as i64, (self.high / self.step).floor() as i64);
        (first..=last).map(|k| k as f64 * self.step).collect()
    }
}

impl Ranged for Axis {
    // The labels are set on the chart: this one would write the numbers in full.
    type FormatOption = DefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, (start, end): (i32, i32)) -> i32 {
        let along = (value - self.low) / (self.high - self.low);
        (f64::from(start) + along * f64::from(end - start)).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, hint: Hint) -> Vec<f64> {
        if hint.weight().allow_light_points() { Vec::new() } else { self.ticks() }
    }

    fn range(&self) -> Range<f64> {
        self.low..self.high
    }
}

/// With as many digits as tell ticks apart.
fn decimal(value: f64, step: f64) -> String {
    let place = step.log10().floor();
    if value.abs() < 1e6 && place >= -5.0 {
        let digits = (-place).clamp(0.0, 5.0) as usize;
        format!("{value:.digits$}")
    } else if value == 0.0 {
        "0".to_owned()
    } else {
        let digits = (value.abs().log10().floor() - place).clamp(0.0, 12.0) as usize;
        format!("{value:.digits$e}")
    }
}

/// A count, such as 200k.
fn thousands(value: f64, step: f64) -> String {
    if value == 0.0 || step < 1e3 {
        format!("{value:.0}")
    } else if step < 1e6 {
        format!("{:.0}k", value / 1e3)
    } else {
        format!("{:.0}M", value / 1e6)
    }
}

/// 10 to the power of the value.
fn power_of_ten(value: f64, step: f64) -> String {
    if step >= 1.0 { format!("1e{value:.0}") } else { format!("{:.2e}", 10f64.powf(value)) }
}

/// Whether a number can be drawn: it is one, and no difference of two such overflows.
fn drawable(value: f64) -> bool {
    value.abs() < 1e100
}

/// The values but for the lowest and the highest hundredth, where there are many; sorted.
fn trimmed(values: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut values: Vec<f64> = values.filter(|&v| drawable(v)).collect();
    values.sort_by(f64::total_cmp);
    let out = if values.len() < MANY { 0 } else { values.len().div_ceil(100) };
    values[out..values.len() - out].to_vec()
}

/// What shows of a line in a frame; points that cannot be drawn part it.
fn visible(points: &[(f64, f64)], x: &Range<f64>, y: &Range<f64>) -> Vec<Vec<(f64, f64)>> {
    let outside = |p: &(f64, f64)| !(x.start..=x.end).contains(&p.0) || !drawable(p.1);
    points.split(outside).flat_map(|run| clip(&thin(run, x), y)).collect()
}

/// The points of a line that matter at the plot's width: of each column of pixels the first, the lowest, the highest
/// and the last.
fn thin(run: &[(f64, f64)], x: &Range<f64>) -> Vec<(f64, f64)> {
    if run.len() <= 4 * WIDTH as usize {
        return run.to_vec();
    }
    let column = |p: &(f64, f64)| ((p.0 - x.start) / (x.end - x.start) * f64::from(WIDTH)).floor() as i64;
    let mut kept = Vec::new();
    for points in run.chunk_by(|a, b| column(a) == column(b)) {
        let by_height = |&i: &usize, &j: &usize| points[i].1.total_cmp(&points[j].1);
        let lowest = (0..points.len()).min_by(by_height).unwrap_or(0);
        let highest = (0..points.len()).max_by(by_height).unwrap_or(0);
        let mut picks = vec![0, lowest, highest, points.len() - 1];
        picks.sort_unstable();
        picks.dedup();
        kept.extend(picks.into_iter().map(|i| points[i]));
    }
    kept
}

/// The parts of a line between two heights.
fn clip(run: &[(f64, f64)], y: &Range<f64>) -> Vec<Vec<(f64, f64)>> {
    let inside = |height: f64| (y.start..=y.end).contains(&height);
    if let [only] = run {
        return if inside(only.1) { vec![vec![*only]] } else { Vec::new() };
    }
    let mut parts = Vec::new();
    let mut part: Vec<(f64, f64)> = Vec::new();
    for pair in run.windows(2) {
        let (a, b) = (pair[0], pair[1]);
        let rise = b.1 - a.1;
        // Where, from 0 at a to 1 at b, the segment enters and leaves.
        let (enter, leave) = if rise == 0.0 {
            if inside(a.1) { (0.0, 1.0) } else { (1.0, 0.0) }
        } else {
            let (low, high) = ((y.start - a.1) / rise, (y.end - a.1) / rise);
            (low.min(high).max(0.0), low.max(high).min(1.0))
        };
        if enter > leave {
            parts.push(std::mem::take(&mut part));
            continue;
        }
        let at = |along: f64| (a.0 + along * (b.0 - a.0), a.1 + along * rise);
        if enter > 0.0 || part.is_empty() {
            parts.push(std::mem::take(&mut part));
            part.push(at(enter));
        }
        part.push(if leave < 1.0 { at(leave) } else { b });
        if leave < 1.0 {
            parts.push(std::mem::take(&mut part));
        }
    }
    parts.push(part);
    parts.retain(|part| !part.is_empty());
    parts
}

/// The document that `draw` draws.
fn svg(draw: impl FnOnce(&Area<'_>) -> Result<(), PlotError>) -> Result<String, PlotError> {
    let mut text = String::new();
    {
        let area = SVGBackend::with_string(&mut text, (WIDTH, HEIGHT)).into_drawing_area();
        area.fill(&WHITE)?;
        draw(&area)?;
        area.present()?;
    }
    Ok(text)
}

/// A chart with its title, axes and grid, and nothing in it.
fn frame<'a>(
    area: &Area<'a>,
    title: &str,
    (x, x_name): (Axis, &str),
    (y, y_name): (Axis, &str),
) -> Result<Chart<'a>, PlotError> {
    let (x_format, x_step, y_format, y_step) = (x.format, x.step, y.format, y.step);
    let x_label = move |value: &f64| x_format(*value, x_step);
    let y_label = move |value: &f64| y_format(*value, y_step);
    let mut chart = ChartBuilder::on(area)
        .caption(title, ("sans-serif", 26))
        .margin(20)
        .x_label_area_size(60)
        .y_label_area_size(95)
        .build_cartesian_2d(x, y)?;
    chart
        .configure_mesh()
        .bold_line_style(BLACK.mix(0.12))
        .axis_style(BLACK.mix(0.6))
        .set_all_tick_mark_size(5)
        .label_style(("sans-serif", 18))
        .axis_desc_style(("sans-serif", 20))
        .x_label_formatter(&x_label)
        .y_label_formatter(&y_label)
        .x_desc(x_name)
        .y_desc(y_name)
        .draw()?;
    Ok(chart)
}

/// Draws a line; of a point with no neighbour, a dot.
fn draw_line(chart: &mut Chart<'_>, name: &str, style: ShapeStyle, points: &[(f64, f64)]) -> Result<(), PlotError> {
    let parts = visible(points, &chart.x_range(), &chart.y_range());
    let (dots, lines): (Vec<_>, Vec<_>) = parts.into_iter().partition(|part| part.len() == 1);
    chart.draw_series(dots.iter().map(|dot| Circle::new(dot[0], 3, style.filled())))?;
    chart
        .draw_series(lines.into_iter().map(|line| PathElement::new(line, style)))?
        .label(plain(name))
        .legend(move |(x, y)| Rectangle::new([(x, y - 2), (x + 20, y + 1)], style.filled()));
    Ok(())
}

/// Draws dots with error bars where they are in the frame.
fn draw_measured(chart: &mut Chart<'_>, name: &str, style: ShapeStyle, points: &[Measured]) -> Result<(), PlotError> {
    let (x, y) = (chart.x_range(), chart.y_range());
    let inside = |p: &&Measured| (x.start..=x.end).contains(&p.x) && (y.start..=y.end).contains(&p.y);
    let points: Vec<Measured> = points.iter().filter(inside).copied().collect();
    if points.is_empty() {
        return Ok(());
    }
    let cap = (x.end - x.start) / 250.0;
    let bar = |p: &Measured| {
        let [low, high] = p.ends().map(|end| end.clamp(y.start, y.end));
        let (left, right) = (p.x - cap, p.x + cap);
        let path = vec![(left, low), (right, low), (p.x, low), (p.x, high), (left, high), (right, high)];
        PathElement::new(path, style)
    };
    chart.draw_series(points.iter().filter(|p| p.half() > 0.0).map(bar))?;
    chart
        .draw_series(points.iter().map(|p| Circle::new((p.x, p.y), 4, style.filled())))?
        .label(plain(name))
        .legend(move |(x, y)| Circle::new((x + 10, y), 4, style.filled()));
    Ok(())
}

/// Draws the box that names what has been drawn.
fn draw_legend(chart: &mut Chart<'_>, position: SeriesLabelPosition) -> Result<(), PlotError> {
    chart
        .configure_series_labels()
        .position(position)
        .legend_area_size(30)
        .margin(8)
        .background_style(WHITE.mix(0.85))
        .border_style(BLACK.mix(0.3))
        .label_font(("sans-serif", 18))
        .draw()?;
    Ok(())
}

/// A name without the characters that XML cannot hold.
fn plain(name: &str) -> String {
    name.chars().map(|c| if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') { ' ' } else { c }).collect()
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
        assert_eq!(trimmed((0..200).map(f64::from)).len(), 196);
        assert_eq!(trimmed((0..19).map(f64::from)).len(), 19);
    }

    #[test]
    fn long_curves_stay_small_and_keep_their_extremes() {
        let mut totals: Vec<f64> = (0..100_000).map(|i| 3.0 + 0.1 * f64::from(i % 7)).collect();
        totals[54_321] = 3.9;
        let line: Vec<(f64, f64)> = totals.iter().enumerate().map(|(i, &total)| (i as f64, total)).collect();
        let thinned = thin(&line, &(0.0..100_000.0));
        assert!(thinned.len() <= 4 * (WIDTH as usize + 1));
        assert!(thinned.contains(&(54_321.0, 3.9)));
        assert_eq!((thinned[0], thinned[thinned.len() - 1]), (line[0], line[99_999]));
        let svg = training_curve(&curve(totals), &[]).unwrap();
        assert_sound(&svg);
        assert!(svg.len() < 400_000);
    }

    #[test]
    fn lines_are_cut_where_they_leave_the_frame() {
        let cut = |line: &[(f64, f64)]| clip(line, &(0.0..5.0));
        assert_eq!(cut(&[(0.0, 10.0), (1.0, 0.0)]), [[(0.5, 5.0), (1.0, 0.0)]]);
        let spike = cut(&[(0.0, 1.0), (1.0, 9.0), (2.0, 1.0)]);
        assert_eq!(spike, [[(0.0, 1.0), (0.5, 5.0)], [(1.5, 5.0), (2.0, 1.0)]]);
        assert_eq!(cut(&[(0.0, -5.0), (1.0, 15.0)]), [[(0.25, 0.0), (0.5, 5.0)]]);
        assert_eq!(cut(&[(0.0, 1.0), (1.0, 2.0), (2.0, 2.0)]), [[(0.0, 1.0), (1.0, 2.0), (2.0, 2.0)]]);
        assert!(cut(&[(0.0, 6.0), (1.0, 6.0), (2.0, 9.0)]).is_empty());
        assert!(cut(&[(0.0, 6.0)]).is_empty() && cut(&[]).is_empty());
        let parted = visible(&[(0.0, 1.0), (1.0, f64::NAN), (2.0, 1.0), (9.0, 1.0)], &(0.0..3.0), &(0.0..5.0));
        assert_eq!(parted, [[(0.0, 1.0)], [(2.0, 1.0)]]);
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

    #[test]
    fn ticks_are_round_and_few() {
        let labels = |axis: &Axis| -> Vec<String> {
            axis.ticks().into_iter().map(|tick| (axis.format)(tick, axis.step)).collect()
        };
        assert_eq!(labels(&Axis::new(0.0, 1.0, 0.0, decimal)), ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]);
        assert_eq!(labels(&Axis::new(0.0, 3e5, 1.0, thousands)), ["0", "50k", "100k", "150k", "200k", "250k", "300k"]);
        assert_eq!(labels(&Axis::new(0.0, 1.0, 1.0, thousands)), ["0", "1"]);
        let decades = ["1e-2", "1e-1", "1e0", "1e1", "1e2", "1e3", "1e4"];
        assert_eq!(labels(&Axis::new(-2.5, 4.5, 0.0, power_of_ten)), decades);
        for (low, high) in [(1e15, 1e15), (-1e99, 1e99), (0.0, 5e-324), (1.0, 1.0 + 1e-8), (7.0, 7.0), (0.0, 0.0)] {
            let axis = Axis::spanning([low, high].into_iter(), decimal);
            assert!(axis.low < low && high < axis.high);
            let labels = labels(&axis);
            assert!((2..=9).contains(&labels.len()));
            assert!(labels.windows(2).all(|pair| pair[0] != pair[1]));
        }
    }
}
