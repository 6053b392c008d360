//! The times of an evaluation, and the standard errors that follow from them.
//!
//! The estimate is a mean over N images and R passes, and an image's term depends on its time. Times are therefore spread,
//! which makes the estimate better, and makes the textbook's formula for independent draws wrong. The times here are
//! chosen so that the errors can be estimated without a bias, for every number of passes:
//!
//! - The images stand on a ring in random order. In one pass their times are evenly spread over an interval, in the order
//!   of the ring, from a random shift on. So the two images of a pair of neighbours always have nearly the same time, and
//!   what the term's dependence on time contributes to their difference is negligible.
//! - The passes are taken in twos (the last three together if their number is odd). Those taken together share an interval
//!   of time and have independent shifts; the intervals cut [0, 1) into parts, each as long as it has passes. So each image
//!   gets times from all over [0, 1), and two independent ones from every interval (the design of sampling theory with two
//!   units per stratum, Cochran, Sampling Techniques, section 5.9).
//!
//! The error *over images and draws* is that of the mean over pairs of half the squared difference between two neighbours'
//! values. The error *over draws alone* is the same of the differences between passes that share an interval: it needs
//! at least two passes.

use crate::random::{RING, SHUFFLE_KEY, TIMES, in_round, shuffled};
use crate::stats::{sample_variance, standard_error};
use std::ops::Range;
use vdm_kernels::rng::Philox;

/// When each image is evaluated in each pass.
#[derive(Clone, Debug)]
pub(super) struct Design {
    /// Where each image stands on the ring.
    place: Vec<usize>,
    passes: usize,
    seed: u64,
}

impl Design {
    /// For `images` images and `passes` passes, at least one of each.
    pub fn new(images: usize, passes: usize, seed: u64) -> Self {
        Self { place: shuffled(images, &Philox::new(seed ^ SHUFFLE_KEY, RING)), passes, seed }
    }

    /// The passes that share an interval of time with this one.
    fn together(&self, pass: usize) -> Range<usize> {
        let start = (pass / 2 * 2).min((self.passes / 2 * 2).saturating_sub(2));
        let end = if start + 4 > self.passes { self.passes } else { start + 2 };
        start..end
    }

    /// Where in the pass's interval, in [0, 1), the image at this place of the ring stands.
    fn position(&self, pass: usize, place: usize) -> f64 {
        let shift = Philox::new(self.seed, in_round(pass as u64, TIMES)).uniform_f64(0);
        (shift + place as f64 / self.place.len() as f64).fract()
    }

    /// The time in [0, 1) of an image in a pass.
    pub fn time(&self, pass: usize, image: usize) -> f64 {
        let together = self.together(pass);
        let passes_before = together.start as f64 + together.len() as f64 * self.position(pass, self.place[image]);
        (passes_before / self.passes as f64).min(1f64.next_down())
    }
}

/// Collects the terms pass by pass.
#[derive(Debug)]
pub(super) struct Tally {
    design: Design,
    /// Each image's mean over the passes.
    means: Vec<f64>,
    /// The images in the order of the ring.
    ring: Vec<usize>,
    /// Of each place on the ring: whether it and the next one were neighbours in time in all passes so far.
    always_neighbours: Vec<bool>,
    /// The passes so far that share an interval: their terms, and their numbers.
    open: Vec<(usize, Vec<f64>)>,
    /// Sum over the intervals so far: variance of a term over draws, times the interval's passes.
    noise: Option<f64>,
}

impl Tally {
    pub fn new(design: Design) -> Self {
        let n = design.place.len();
        let mut ring = vec![0; n];
        for (image, &place) in design.place.iter().enumerate() {
            ring[place] = image;
        }
        Self { design, means: vec![0.0; n], ring, always_neighbours: vec![true; n], open: Vec::new(), noise: Some(0.0) }
    }

    /// The terms of all images in pass `pass`; passes come in their order.
    pub fn end_pass(&mut self, pass: usize, terms: Vec<f64>) {
        for (mean, term) in self.means.iter_mut().zip(&terms) {
            *mean += term / self.design.passes as f64;
        }
        for place in 0..self.ring.len() {
            self.always_neighbours[place] &= self.are_neighbours(pass, place);
        }
        self.open.push((pass, terms));
        let together = self.design.together(pass);
        if pass + 1 == together.end {
            let variance = self.variance_over_draws();
            self.noise = self.noise.zip(variance).map(|(sum, variance)| sum + variance * together.len() as f64);
            self.open.clear();
        }
    }

    /// Whether the image at a place of the ring comes just before the next one in time: not where the times start again.
    fn are_neighbours(&self, pass: usize, place: usize) -> bool {
        let next = (place + 1) % self.ring.len();
        self.design.position(pass, place) < self.design.position(pass, next)
    }

    /// The variance over draws of a term, from the passes that share an interval.
    fn variance_over_draws(&self) -> Option<f64> {
        if self.ring.len() == 1 {
            // Without another image there is no spreading to allow for.
            return sample_variance(&self.open.iter().map(|(_, terms)| terms[0]).collect::<Vec<_>>());
        }
        let of_pair = |place: usize| {
            let (a, b) = (self.ring[place], self.ring[(place + 1) % self.ring.len()]);
            let passes = self.open.iter().filter(|(pass, _)| self.are_neighbours(*pass, place));
            sample_variance(&passes.map(|(_, terms)| terms[b] - terms[a]).collect::<Vec<_>>())
        };
        let variances: Vec<f64> = (0..self.ring.len()).filter_map(of_pair).collect();
        (!variances.is_empty()).then(|| variances.iter().sum::<f64>() / (2 * variances.len()) as f64)
    }

    /// The standard error of the mean over images and draws; `None` for one image.
    pub fn stderr(&self) -> Option<f64> {
        let n = self.ring.len();
        let neighbours = (0..n).filter(|&place| self.always_neighbours[place]);
        let squares: Vec<f64> =
            neighbours.map(|i| (self.means[self.ring[(i + 1) % n]] - self.means[self.ring[i]]).powi(2)).collect();
        if 2 * squares.len() < n || n < 2 {
            // So many passes for so few images that each image's times cover [0, 1) by themselves.
            return standard_error(&self.means);
        }
        let variance = squares.iter().sum::<f64>() / (2 * squares.len()) as f64;
        Some((variance / n as f64).sqrt())
    }

    /// The standard error of the mean over draws, for these images; `None` for one pass.
    pub fn stderr_noise(&self) -> Option<f64> {
        let passes = self.design.passes;
        let per_evaluation = self.noise.filter(|_| passes > 1)? / passes as f64;
        Some((per_evaluation / (passes * self.ring.len()) as f64).sqrt())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::mean;

    #[expect(clippy::single_range_in_vec_init, reason = "some have one part")]
    #[test]
    fn passes_cut_time_into_parts_as_long_as_they_have_passes() {
        for (passes, expected) in [
            (1, vec![0..1]),
            (2, vec![0..2]),
            (3, vec![0..3]),
            (4, vec![0..2, 2..4]),
            (5, vec![0..2, 2..5]),
            (6, vec![0..2, 2..4, 4..6]),
        ] {
            let design = Design::new(3, passes, 0);
            let mut found: Vec<Range<usize>> = (0..passes).map(|pass| design.together(pass)).collect();
            found.dedup();
            assert_eq!(found, expected);
        }
    }

    #[test]
    fn times_of_a_pass_are_evenly_spread_over_its_part() {
        let design = Design::new(10, 5, 3);
        for (pass, part) in [(0, 0.0..0.4), (1, 0.0..0.4), (2, 0.4..1.0), (4, 0.4..1.0)] {
            let mut times: Vec<f64> = (0..10).map(|image| design.time(pass, image)).collect();
            times.sort_by(f64::total_cmp);
            assert!(times.iter().all(|t| part.contains(t)), "{times:?}");
            assert!(
                times.windows(2).all(|t| (t[1] - t[0] - (part.end - part.start) / 10.0).abs() < 1e-12),
                "{times:?}"
            );
        }
    }

    /// The reported errors of issue 11 were off by factors of up to four. Images, times and noise of a model whose answers
    /// are known: the mean of every image is known, and so is the mean of all images that could be drawn.
    #[test]
    fn reported_errors_are_the_true_ones_at_every_number_of_passes() {
        let (images, trials) = (60, 600);
        for passes in [1, 2, 3, 4, 5, 20] {
            let (mut errors, mut errors_of_these) = (Vec::new(), Vec::new());
            let (mut reported, mut reported_noise) = (Vec::new(), Vec::new());
            for trial in 0..trials {
                // An image has a mean, a slope of its own in time and noise; all share a strong trend of mean 0.
                let mut own = vec![0f32; 2 * images];
                Philox::new(trial, 1).normal(0, &mut own);
                let image_mean = |i: usize| 2.0 + 0.5 * f64::from(own[2 * i]);
                let design = Design::new(images, passes, trial);
                let mut tally = Tally::new(design.clone());
                for pass in 0..passes {
                    let mut noise = vec![0f32; images];
                    Philox::new(trial, 2).normal(pass as u32, &mut noise);
                    let term = |i: usize| {
                        let t = design.time(pass, i);
                        let trend = 6.0 * (t - 0.5) + 3.0 * (std::f64::consts::TAU * t).sin();
                        let slope = f64::from(own[2 * i + 1]) * (t - 0.5);
                        image_mean(i) + trend + slope + (0.2 + 0.6 * t) * f64::from(noise[i])
                    };
                    tally.end_pass(pass, (0..images).map(term).collect());
                }
                let found = mean(&tally.means);
                errors.push((found - 2.0).powi(2));
                errors_of_these.push((found - mean(&(0..images).map(image_mean).collect::<Vec<_>>())).powi(2));
                reported.push(tally.stderr().unwrap());
                reported_noise.push(tally.stderr_noise());
            }
            // 600 trials give the true error to 3 %.
            let ratio = mean(&reported) / mean(&errors).sqrt();
            assert!((ratio - 1.0).abs() < 0.12, "{passes} passes, over images and draws: {ratio}");
            match reported_noise.into_iter().collect::<Option<Vec<f64>>>() {
                None => assert_eq!(passes, 1, "one draw of each image says nothing about its noise"),
                Some(noise) => {
                    let ratio = mean(&noise) / mean(&errors_of_these).sqrt();
                    assert!((ratio - 1.0).abs() < 0.12, "{passes} passes, over draws: {ratio}");
                }
            }
        }
    }

    #[test]
    fn few_images_and_many_passes_have_errors_too() {
        for (images, passes) in [(1, 1), (1, 2), (2, 1), (2, 7), (3, 50)] {
            let mut tally = Tally::new(Design::new(images, passes, 5));
            for pass in 0..passes {
                let mut terms = vec![0f32; images];
                Philox::new(1, 1).normal(pass as u32, &mut terms);
                tally.end_pass(pass, terms.into_iter().map(f64::from).collect());
            }
            assert_eq!(tally.stderr().is_some(), images > 1, "{images} {passes}");
            assert!(tally.stderr().is_none_or(|error| error > 0.0));
            assert!(passes > 1 || tally.stderr_noise().is_none());
            if images == 1 && passes > 1 {
                assert!(tally.stderr_noise().unwrap() > 0.0);
            }
        }
    }
}
