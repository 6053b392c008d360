//! How noisy the estimate of the bound is under different schedules, with the same network and the same endpoints.
//!
//! In continuous time the bound does not depend on the schedule's shape (VDM section 5.1); the variance of its estimate
//! does. VDM reports 0.53 on CIFAR-10 for a learned shape, 6.35 for a line, and about 31 for DDPM's linear beta and for
//! the cosine. So [`compare_schedules`] puts each schedule into the model in place of its own, and evaluates the bound of
//! the same images with the same times t and the same noise: means must agree, variances need not.

use crate::data::ImageDataset;
use crate::diffusion::times::{TimeSampling, draw_times};
use crate::math::host;
use crate::nn::{Conditioning, Mode, ScoreNetwork};
use crate::progress::{Progress, Stopped, tell};
use crate::random::{TIMES, in_round};
use crate::schedule::{CurveShape, Endpoints, FixedCurve, FixedLinear, NoiseSchedule, Schedule};
use crate::stats::{mean, sample_variance, standard_error};
use crate::{DiffusionSettings, Noise, VariationalDiffusion, bits_per_dim};
use burn::tensor::Device;
use serde::Serialize;
use vdm_kernels::rng::Philox;

/// What to measure on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StudyOptions {
    /// Images, spread evenly over the data.
    pub images: usize,
    /// Evaluations of every image with independent times, and as many with low-discrepancy ones; at least 2.
    pub draws: usize,
    /// Images of a batch as training has them: the unit of the low-discrepancy times, and of the batch variances. At
    /// most `images`; images left over from whole batches count for everything else.
    pub batch: usize,
    /// Images that go through the network at a time; has no influence on the result.
    pub batch_size: usize,
    /// Seed of all times and noises.
    pub seed: u64,
}

/// The bound under one schedule, in bits per dimension, and the variance of its estimate, in their square.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ScheduleVariance {
    /// The schedule's name.
    pub name: String,
    /// The mean bound of the images.
    pub mean_bpd: f64,
    /// The standard error of the bound on exactly these images: from the evaluations, not the images.
    pub mean_bpd_stderr: f64,
    /// `mean_bpd` less that of the first schedule.
    pub difference_to_first: f64,
    /// Standard error of the difference, from the evaluations in pairs of equal times and noise.
    pub difference_to_first_stderr: f64,
    /// Variance of the estimate of one image's bound over times and noise, averaged over images.
    pub per_image_variance: f64,
    /// Its standard error: the standard deviation over images over the root of their number; `None` for one image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub per_image_variance_stderr: Option<f64>,
    /// Variance of the mean over a batch of images with independent times, averaged over batches.
    pub batch_variance_independent: f64,
    /// Its standard error, from the differences between batches; `None` for one batch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batch_variance_independent_stderr: Option<f64>,
    /// Variance of the mean over a batch of images with low-discrepancy times, averaged over batches.
    pub batch_variance_low_discrepancy: f64,
    /// Its standard error, from the differences between batches; `None` for one batch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batch_variance_low_discrepancy_stderr: Option<f64>,
}

/// Why there is no result.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StudyError {
    /// Its [`Progress`] asked it to stop.
    #[error(transparent)]
    Stopped(#[from] Stopped),
    /// An option out of its range.
    #[error("{option} = {found} must be {expected}")]
    Value {
        /// The field of [`StudyOptions`].
        option: &'static str,
        /// Its value.
        found: usize,
        /// Its range.
        expected: String,
    },
    /// The bound of an image is infinite or not a number.
    #[error(
        "the bound of image {image} under the schedule `{schedule}` is not finite: the weights are damaged, or \
         training diverged"
    )]
    NotFinite {
        /// The schedule's name.
        schedule: String,
        /// The image's index in the data.
        image: usize,
    },
}

impl StudyOptions {
    /// Checks the options for a data set of `available` images.
    fn validate(&self, available: usize) -> Result<(), StudyError> {
        let check = |option: &'static str, found: usize, ok: bool, expected: String| {
            if ok { Ok(()) } else { Err(StudyError::Value { option, found, expected }) }
        };
        let one_to = |most: usize, what: &str| format!("at least 1 and at most {most}, the number of {what}");
        let images_fit = (1..=available).contains(&self.images);
        check("images", self.images, images_fit, one_to(available, "images in the data"))?;
        check("draws", self.draws, self.draws >= 2, "at least 2: one has no variance".into())?;
        let batch_fits = (1..=self.images).contains(&self.batch);
        check("batch", self.batch, batch_fits, one_to(self.images, "images to measure on"))?;
        check("batch_size", self.batch_size, self.batch_size >= 1, "at least 1".into())
    }
}

/// The model's own schedule ("learned") after three fixed ones between its present endpoints: "fixed linear", "cosine"
/// and "DDPM linear-beta".
pub fn standard_schedules<N>(model: &VariationalDiffusion<N>) -> Vec<(String, NoiseSchedule)> {
    let own = model.schedule.to_host();
    let ends = Endpoints { gamma_0: own.gamma(0.0), gamma_1: own.gamma(1.0) };
    let curve = |shape| NoiseSchedule::FixedCurve(FixedCurve::new(shape, ends));
    let schedules = [
        ("fixed linear", NoiseSchedule::FixedLinear(FixedLinear::new(ends))),
        ("cosine", curve(CurveShape::Cosine)),
        ("DDPM linear-beta", curve(CurveShape::LinearBeta)),
        ("learned", model.schedule.clone()),
    ];
    schedules.map(|(name, schedule)| (name.to_string(), schedule)).into()
}

/// Measures the continuous-time bound of images of `data`, without classes, under each named schedule, in their order.
///
/// An image is evaluated 2 K times for K draws, K of them with independent times and K with times that are spread
/// evenly over its batch, which is always of the same images. All evaluations have their own noise and their own times,
/// functions of the seed, the evaluation and the image or its batch; each single time is uniform, so that all 2 K
/// evaluations give the variance of an image. `progress` is told the network batches done and to do.
///
/// The means can be compared only if the schedules have the same endpoints; see [`standard_schedules`].
///
/// # Errors
/// [`StudyError`] if an option is out of its range, or a bound is not finite.
pub fn compare_schedules<N: ScoreNetwork>(
    model: &VariationalDiffusion<N>,
    schedules: &[(String, NoiseSchedule)],
    data: &ImageDataset,
    options: &StudyOptions,
    device: &Device,
    progress: &mut Progress,
) -> Result<Vec<ScheduleVariance>, StudyError> {
    options.validate(data.len())?;
    let images: Vec<usize> = (0..options.images).map(|i| i * data.len() / options.images).collect();
    let settings = DiffusionSettings { timesteps: None, ..model.settings().clone() };
    let total = schedules.len() * 2 * options.draws * options.images.div_ceil(options.batch_size);
    let mut done = 0;
    let mut tick = || {
        done += 1;
        tell(progress, done, total)
    };
    let mut first: Option<Vec<f64>> = None;
    let mut results = Vec::with_capacity(schedules.len());
    for (name, schedule) in schedules {
        let model = VariationalDiffusion::new(schedule.clone(), model.network.clone(), settings.clone());
        let bounds = measure(name, &model, data, &images, options, device, &mut tick)?;
        let first = first.get_or_insert_with(|| means(&bounds));
        results.push(ScheduleVariance::of(name, &bounds, options.batch, first));
    }
    Ok(results)
}

/// The bound of these images in bits per dimension, `[2 draws][images]`: first the evaluations with independent times,
/// then those with low-discrepancy times.
fn measure<N: ScoreNetwork>(
    schedule: &str,
    model: &VariationalDiffusion<N>,
    data: &ImageDataset,
    images: &[usize],
    options: &StudyOptions,
    device: &Device,
    tick: &mut impl FnMut() -> Result<(), Stopped>,
) -> Result<Vec<Vec<f64>>, StudyError> {
    let dims = data.shape().dims();
    let mut evaluations = Vec::with_capacity(2 * options.draws);
    for (pass, sampling) in [TimeSampling::Independent, TimeSampling::LowDiscrepancy].into_iter().enumerate() {
        for draw in 0..options.draws {
            // Numbered so that more draws change nothing about the first ones.
            let rng = |i: u64| Philox::new(options.seed, in_round((2 * draw + pass) as u64, i));
            let batches = images.chunks(options.batch).enumerate();
            let times: Vec<f64> =
                batches.flat_map(|(b, batch)| draw_times(sampling, batch.len(), &rng(TIMES - b as u64), 0)).collect();
            let mut bounds = Vec::with_capacity(images.len());
            for (images, times) in images.chunks(options.batch_size).zip(times.chunks(options.batch_size)) {
                let streams: Vec<Philox> = images.iter().map(|&i| rng(i as u64)).collect();
                let noise = Noise::draw(&streams, data.shape(), device);
                let k = data.batch(images, device);
                let nats = host(&model.loss(k, times, noise, &Conditioning::default(), Mode::Eval).total());
                if let Some(bad) = nats.iter().position(|nats| !nats.is_finite()) {
                    return Err(StudyError::NotFinite { schedule: schedule.into(), image: images[bad] });
                }
                bounds.extend(nats.into_iter().map(|nats| bits_per_dim(nats, dims)));
                tick()?;
            }
            evaluations.push(bounds);
        }
    }
    Ok(evaluations)
}

impl ScheduleVariance {
    /// The statistics of the bounds `[2 draws][images]` of [`measure`], given the first schedule's [`means`].
    fn of(name: &str, bounds: &[Vec<f64>], batch: usize, first: &[f64]) -> Self {
        let means = means(bounds);
        let differences: Vec<f64> = means.iter().zip(first).map(|(own, first)| own - first).collect();
        let (independent, low_discrepancy) = bounds.split_at(bounds.len() / 2);
        let per_image = batch_variances(bounds, 1);
        let [independent, low_discrepancy] = [independent, low_discrepancy].map(|half| batch_variances(half, batch));
        Self {
            name: name.to_string(),
            mean_bpd: mean(&means),
            mean_bpd_stderr: standard_error(&means).unwrap_or(f64::NAN),
            difference_to_first: mean(&differences),
            difference_to_first_stderr: standard_error(&differences).unwrap_or(f64::NAN),
            per_image_variance: mean(&per_image),
            per_image_variance_stderr: standard_error(&per_image),
            batch_variance_independent: mean(&independent),
            batch_variance_independent_stderr: standard_error(&independent),
            batch_variance_low_discrepancy: mean(&low_discrepancy),
            batch_variance_low_discrepancy_stderr: standard_error(&low_discrepancy),
        }
    }
}

/// The mean over images in each evaluation: `[evaluations]`.
///
/// # Shapes
/// - `bounds`: `[evaluations][images]`
fn means(bounds: &[Vec<f64>]) -> Vec<f64> {
    bounds.iter().map(|of_images| mean(of_images)).collect()
}

/// The variance over evaluations of the mean of each whole batch of `batch` images: `[batches]`.
///
/// # Shapes
/// - `bounds`: `[evaluations][images]`
fn batch_variances(bounds: &[Vec<f64>], batch: usize) -> Vec<f64> {
    let batches = bounds.first().map_or(0, |of_images| of_images.len() / batch);
    let of_batch = |b: usize| -> Vec<f64> {
        bounds.iter().map(|of_images| mean(&of_images[b * batch..(b + 1) * batch])).collect()
    };
    (0..batches).filter_map(|b| sample_variance(&of_batch(b))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Split, digits};
    use crate::nn::{ScoreUNet, ScoreUNetConfig};
    use crate::schedule::ScheduleConfig;
    use crate::unwatched;
    use crate::weights;

    const OPTIONS: StudyOptions = StudyOptions { images: 10, draws: 3, batch: 4, batch_size: 10, seed: 5 };

    /// An untrained network with no parameter at zero, always the same.
    fn model() -> VariationalDiffusion<ScoreUNet> {
        let device = Device::flex();
        let schedule = ScheduleConfig::LearnedLinear(Endpoints { gamma_0: -6.0, gamma_1: 5.0 });
        let network = ScoreUNetConfig { norm_groups: 4, ..ScoreUNetConfig::new(1, 8, 1) }.init(&device);
        let mut values = weights::export(&network);
        for (i, tensor) in values.values_mut().enumerate() {
            Philox::new(7, i as u64).normal(0, &mut tensor.data);
            tensor.data.iter_mut().for_each(|w| *w *= 0.2);
        }
        let network = weights::import(network, &values).unwrap();
        let settings = DiffusionSettings::new(data().shape(), data().vocabulary(), &schedule);
        VariationalDiffusion::new(schedule.init(&device), network, settings)
    }

    fn data() -> ImageDataset {
        digits(Split::Test).unwrap().subset(0..23).unwrap()
    }

    fn study(schedules: &[(String, NoiseSchedule)], options: StudyOptions) -> Vec<ScheduleVariance> {
        let (mut last, mut of) = (0, 0);
        let mut progress = |done, total| {
            (last, of) = (done, total);
            std::ops::ControlFlow::Continue(())
        };
        let device = Device::flex();
        let results = compare_schedules(&model(), schedules, &data(), &options, &device, &mut progress).unwrap();
        assert_eq!(last, of);
        results
    }

    #[test]
    fn the_network_batch_changes_nothing() {
        let schedules = standard_schedules(&model());
        let results = study(&schedules, OPTIONS);
        let names: Vec<&str> = results.iter().map(|r| r.name.as_str()).collect();
        assert_eq!(names, ["fixed linear", "cosine", "DDPM linear-beta", "learned"]);
        assert!(results.iter().all(|r| r.per_image_variance > 0.0 && r.batch_variance_low_discrepancy > 0.0));
        assert!(results.iter().all(|r| r.batch_variance_independent_stderr.is_some()));
        for batch_size in [1, 3, 7] {
            assert_eq!(study(&schedules, StudyOptions { batch_size, ..OPTIONS }), results);
        }
        assert_ne!(study(&schedules, StudyOptions { seed: 6, ..OPTIONS }), results);
    }

    #[test]
    fn a_schedule_beside_itself_is_no_different() {
        let (name, cosine) = standard_schedules(&model()).swap_remove(1);
        let results = study(&[(name, cosine.clone()), ("again".to_string(), cosine)], OPTIONS);
        let again = results[1].clone();
        assert_eq!((again.difference_to_first, again.difference_to_first_stderr), (0.0, 0.0));
        assert_eq!(ScheduleVariance { name: "cosine".to_string(), ..again }, results[0]);
    }

    /// VDM section 5.1: in continuous time the shape between the endpoints does not matter.
    #[test]
    fn the_bound_does_not_depend_on_the_shape() {
        let options = StudyOptions { draws: 64, batch: 10, ..OPTIONS };
        let results = study(&standard_schedules(&model()), options);
        for r in &results {
            assert!(r.difference_to_first.abs() <= 5.0 * r.difference_to_first_stderr, "{r:?}");
            assert!(r.mean_bpd_stderr < 0.2 * r.mean_bpd, "{r:?}");
            // There is but one batch.
            assert_eq!(r.batch_variance_independent_stderr, None);
        }
        // The learned line is the fixed one.
        assert!((results[3].mean_bpd - results[0].mean_bpd).abs() < 1e-4 * results[0].mean_bpd);
    }

    #[test]
    fn known_numbers_have_their_variances() {
        let bounds = [vec![1.0, 3.0, 0.0], vec![3.0, 5.0, 2.0], vec![2.0, 2.0, 4.0], vec![2.0, 2.0, 0.0]];
        let close = |a: f64, b: f64| assert!((a - b).abs() < 1e-12, "{a} is not {b}");
        let s = ScheduleVariance::of("s", &bounds, 2, &[1.0; 4]);
        assert_eq!(s.name, "s");
        close(s.mean_bpd, 13.0 / 6.0);
        close(s.mean_bpd_stderr, standard_error(&[4.0 / 3.0, 10.0 / 3.0, 8.0 / 3.0, 4.0 / 3.0]).unwrap());
        close(s.difference_to_first, 7.0 / 6.0);
        close(s.difference_to_first_stderr, s.mean_bpd_stderr);
        close(s.per_image_variance, 19.0 / 9.0);
        close(s.per_image_variance_stderr.unwrap(), standard_error(&[2.0 / 3.0, 2.0, 11.0 / 3.0]).unwrap());
        // The means of the one whole batch are 2 and 4, then 2 and 2.
        assert_eq!((s.batch_variance_independent, s.batch_variance_low_discrepancy), (2.0, 0.0));
        assert_eq!((s.batch_variance_independent_stderr, s.batch_variance_low_discrepancy_stderr), (None, None));
        // In batches of one: variances 2, 2, 2, then 0, 0, 8.
        let s = ScheduleVariance::of("s", &bounds, 1, &[1.0; 4]);
        assert_eq!((s.batch_variance_independent, s.batch_variance_independent_stderr), (2.0, Some(0.0)));
        close(s.batch_variance_low_discrepancy, 8.0 / 3.0);
        close(s.batch_variance_low_discrepancy_stderr.unwrap(), 8.0 / 3.0);
    }

    #[test]
    fn what_cannot_be_measured_is_an_error() {
        let model = model();
        let error = |options: StudyOptions, schedule: NoiseSchedule| {
            let schedules = [("odd".to_string(), schedule)];
            compare_schedules(&model, &schedules, &data(), &options, &Device::flex(), &mut unwatched)
                .unwrap_err()
                .to_string()
        };
        let of_options = |options| error(options, model.schedule.clone());
        for (options, message) in [
            (StudyOptions { images: 0, ..OPTIONS }, "images = 0 must be at least 1 and at most 23"),
            (StudyOptions { images: 24, ..OPTIONS }, "images = 24 must be at least 1 and at most 23"),
            (StudyOptions { draws: 0, ..OPTIONS }, "draws = 0 must be at least 2"),
            (StudyOptions { draws: 1, ..OPTIONS }, "draws = 1 must be at least 2"),
            (StudyOptions { batch: 0, ..OPTIONS }, "batch = 0 must be at least 1 and at most 10"),
            (StudyOptions { batch: 11, ..OPTIONS }, "batch = 11 must be at least 1 and at most 10"),
            (StudyOptions { batch_size: 0, ..OPTIONS }, "batch_size = 0 must be at least 1"),
        ] {
            let found = of_options(options);
            assert!(found.contains(message), "{found}");
        }
        let steep = NoiseSchedule::FixedLinear(FixedLinear::new(Endpoints { gamma_0: -6.0, gamma_1: 1e38 }));
        let found = error(OPTIONS, steep);
        assert!(found.contains("image 0") && found.contains("`odd`"), "{found}");
    }
}
