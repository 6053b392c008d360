//! Charts: axes, lines, dots with error bars, as SVG documents on a white ground.
//!
//! The axes are this module's own: plotters' floating-point axes look for ticks in a loop that need not end where the
//! range is narrow for its magnitude, and the SVG backend does not clip, so lines are cut to the frame here.

use plotters::coord::Shift;
use plotters::coord::cartesian::Cartesian2d;
use plotters::coord::ranged1d::{DefaultFormatting, KeyPointHint, Ranged};
use plotters::prelude::{
    BLACK, ChartBuilder, ChartContext, Circle, Color, DrawingArea, DrawingAreaErrorKind, IntoDrawingArea, PathElement,
    Rectangle, SVGBackend, SeriesLabelPosition, ShapeStyle, WHITE,
};
use std::io;
use std::ops::Range;

/// Pixels of a chart.
pub(super) const WIDTH: u32 = 1200;
pub(super) const HEIGHT: u32 = 700;

/// Intervals between ticks of an axis, at most.
const TICKS: f64 = 7.0;

/// Fewest values of which the extremes count as outliers.
const MANY: usize = 20;

pub(super) type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
pub(super) type Chart<'a> = ChartContext<'a, SVGBackend<'a>, Cartesian2d<Axis, Axis>>;

/// Why there is no figure.
#[derive(Debug, thiserror::Error)]
#[error("cannot draw a plot: {0}")]
pub struct PlotError(#[from] DrawingAreaErrorKind<io::Error>);

/// A value with its standard error.
#[derive(Clone, Copy, Debug)]
pub(super) struct Measured {
    pub x: f64,
    pub y: f64,
    pub stderr: f64,
}

impl Measured {
    /// Half the length of the error bar: 0 for no bar.
    pub(super) fn half(&self) -> f64 {
        if drawable(self.stderr) { self.stderr.max(0.0) } else { 0.0 }
    }

    /// The ends of the error bar.
    pub(super) fn ends(&self) -> [f64; 2] {
        [self.y - self.half(), self.y + self.half()]
    }
}

/// How an axis writes the value at a tick, given the distance between ticks.
pub(super) type Format = fn(f64, f64) -> String;

/// A linear axis.
#[derive(Clone, Debug)]
pub(super) struct Axis {
    low: f64,
    high: f64,
    /// Between ticks.
    step: f64,
    format: Format,
}

impl Axis {
    /// The axis from `low` to `high`, which are not too close, with ticks at least `least_step` apart.
    pub(super) fn new(low: f64, high: f64, least_step: f64, format: Format) -> Self {
        let least = ((high - low) / TICKS).max(least_step);
        let power = 10f64.powi(libm::log10(least).floor() as i32);
        let steps = [power, 2.0 * power, 5.0 * power];
        let step = steps.into_iter().find(|&step| step >= least * (1.0 - 1e-9)).unwrap_or(10.0 * power);
        Self { low, high, step, format }
    }

    /// The axis that shows all `values` that can be shown, with a margin.
    pub(super) fn spanning(values: impl Iterator<Item = f64>, format: Format) -> Self {
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
pub(super) fn decimal(value: f64, step: f64) -> String {
    let place = libm::log10(step).floor();
    if value.abs() < 1e6 && place >= -5.0 {
        let digits = (-place).clamp(0.0, 5.0) as usize;
        format!("{value:.digits$}")
    } else if value == 0.0 {
        "0".to_owned()
    } else {
        let digits = (libm::log10(value.abs()).floor() - place).clamp(0.0, 12.0) as usize;
        format!("{value:.digits$e}")
    }
}

/// A count, such as 200k.
pub(super) fn thousands(value: f64, step: f64) -> String {
    if value == 0.0 || step < 1e3 {
        format!("{value:.0}")
    } else if step < 1e6 {
        format!("{:.0}k", value / 1e3)
    } else {
        format!("{:.0}M", value / 1e6)
    }
}

/// 10 to the power of the value.
pub(super) fn power_of_ten(value: f64, step: f64) -> String {
    if step >= 1.0 { format!("1e{value:.0}") } else { format!("{:.2e}", libm::pow(10.0, value)) }
}

/// Whether a number can be drawn: it is one, and no difference of two such overflows.
pub(super) fn drawable(value: f64) -> bool {
    value.abs() < 1e100
}

/// The values without the lowest and the highest hundredth, where there are many; sorted.
pub(super) fn trimmed(values: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut values: Vec<f64> = values.filter(|&v| drawable(v)).collect();
    values.sort_by(f64::total_cmp);
    let out = if values.len() < MANY { 0 } else { values.len().div_ceil(100) };
    values[out..values.len() - out].to_vec()
}

/// What shows of a line in a frame; points that cannot be drawn part it.
pub(super) fn visible(points: &[(f64, f64)], x: &Range<f64>, y: &Range<f64>) -> Vec<Vec<(f64, f64)>> {
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
pub(super) fn svg(draw: impl FnOnce(&Area<'_>) -> Result<(), PlotError>) -> Result<String, PlotError> {
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
pub(super) fn frame<'a>(
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
pub(super) fn draw_line(
    chart: &mut Chart<'_>,
    name: &str,
    style: ShapeStyle,
    points: &[(f64, f64)],
) -> Result<(), PlotError> {
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
pub(super) fn draw_measured(
    chart: &mut Chart<'_>,
    name: &str,
    style: ShapeStyle,
    points: &[Measured],
) -> Result<(), PlotError> {
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
pub(super) fn draw_legend(chart: &mut Chart<'_>, position: SeriesLabelPosition) -> Result<(), PlotError> {
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

    #[test]
    fn long_lines_are_thinned_and_keep_their_extremes() {
        let mut totals: Vec<f64> = (0..100_000).map(|i| 3.0 + 0.1 * f64::from(i % 7)).collect();
        totals[54_321] = 3.9;
        let line: Vec<(f64, f64)> = totals.iter().enumerate().map(|(i, &total)| (i as f64, total)).collect();
        let thinned = thin(&line, &(0.0..100_000.0));
        assert!(thinned.len() <= 4 * (WIDTH as usize + 1));
        assert!(thinned.contains(&(54_321.0, 3.9)));
        assert_eq!((thinned[0], thinned[thinned.len() - 1]), (line[0], line[99_999]));
    }

    #[test]
    fn the_extreme_hundredth_of_many_values_is_left_out() {
        assert_eq!(trimmed((0..200).map(f64::from)).len(), 196);
        assert_eq!(trimmed((0..19).map(f64::from)).len(), 19);
    }
}
