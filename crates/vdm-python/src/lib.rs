//! The Python module `vdm._vdm`: models as the package `vdm` wraps them.
//!
//! Images go in and out as bytes, channels first; `python/vdm/__init__.py` makes arrays of them. Every function that computes
//! lets other Python threads run.

use burn::tensor::{Device, Tensor, TensorData};
use pyo3::create_exception;
use pyo3::exceptions::{PyKeyboardInterrupt, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use serde::de::value::StrDeserializer;
use serde::de::{DeserializeOwned, IntoDeserializer};
use std::fmt::Display;
use std::ops::{ControlFlow, Range};
use std::path::Path;
use std::time::{Duration, Instant};
use vdm::ImageShape;
use vdm::codec::{CodecOptions, Container, FileEntry, FileKind, Steps, compress, decompress, model_fingerprint};
use vdm::config::Config;
use vdm::data::ImageDataset;
use vdm::diffusion::ReverseVariance;
use vdm::flow::Tolerance;
use vdm::likelihood::{
    EstimatorKind, EstimatorOption, EstimatorSettings, EvalOptions, classes_of, evaluate_conditioned,
};
use vdm::nn::{Conditioning, Mode};
use vdm::run::{ModelFile, RunDir, WhichWeights, load_model, shipped};
use vdm::sample::{Grid, SampleOptions, SamplerKind, SamplerOption, SamplerSettings, sample_conditioned};
use vdm::schedule::{HostSchedule, Schedule as _};

create_exception!(_vdm, VdmError, PyValueError, "What vdm says to input that it cannot work with.");

fn error(source: impl Display) -> PyErr {
    VdmError::new_err(source.to_string())
}

/// The setting of this name, in the words of the program.
fn named<T: DeserializeOwned>(what: &str, name: &str) -> PyResult<T> {
    let word: StrDeserializer<'_, serde::de::value::Error> = name.into_deserializer();
    T::deserialize(word).map_err(|reason| error(format!("{what}: {reason}")))
}

/// Most images of one call, which all are in memory.
const MOST_SAMPLES: u64 = 1 << 20;

/// Most steps of a chain, and most draws and passes of an estimate.
const MOST_STEPS: usize = 1 << 16;

/// How often a computation looks for Ctrl-C.
const PULSE: Duration = Duration::from_millis(100);

/// Computes without holding Python's lock, until Ctrl-C.
fn detached<T: Send, E: Display + Send>(
    py: Python<'_>,
    compute: impl FnOnce(&mut vdm::Progress) -> Result<T, E> + Send,
) -> PyResult<T> {
    let mut interrupted = false;
    let mut last = Instant::now();
    let mut watch = |_: usize, _: usize| {
        if last.elapsed() < PULSE {
            return ControlFlow::Continue(());
        }
        last = Instant::now();
        interrupted = Python::attach(|py| py.check_signals().is_err());
        if interrupted { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    let found = py.detach(|| compute(&mut watch));
    if interrupted {
        return Err(PyKeyboardInterrupt::new_err("stopped"));
    }
    found.map_err(error)
}

/// A model.
#[pyclass(frozen)]
struct Model {
    /// The model with all it knows of its error: what compressed files name it by.
    model: vdm::run::Model,
    /// The same with reverse steps of `variance`: what likelihoods and samples are computed with.
    used: vdm::run::Model,
    variance: ReverseVariance,
    config: Config,
    about: Vec<(String, String)>,
    step: u64,
}

impl Model {
    /// A model, with the reverse steps that cost least in it.
    fn new(model: vdm::run::Model, config: Config, about: Vec<(String, String)>, step: u64) -> Self {
        let variance = model.best_reverse_variance();
        Self { used: model.clone(), model, variance, config, about, step }
    }

    fn images(&self, pixels: &[u8], labels: Option<Vec<u32>>) -> PyResult<ImageDataset> {
        let levels = self.model.settings().vocabulary.levels();
        ImageDataset::new("images", self.model.shape(), levels, pixels.to_vec(), labels).map_err(error)
    }

    /// Refuses the bytes of a model file that is not of this model: what it is embedded in could not be read.
    fn require_same(&self, file: &[u8]) -> PyResult<()> {
        let place = Path::new("embed_model");
        let other = ModelFile::parse(file, place).and_then(|file| file.model(place, &Device::flex())).map_err(error)?;
        if model_fingerprint(&other) != model_fingerprint(&self.model) {
            return Err(error("embed_model: the file is of another model than the one that codes the images"));
        }
        Ok(())
    }

    /// Refuses a network that never saw an image without its class, where it is to work without one.
    fn require_no_class(&self) -> PyResult<()> {
        if self.config.model.network.classes() > 0 && self.config.train.label_dropout == 0.0 {
            return Err(error("the model was trained without label dropout; give the labels"));
        }
        Ok(())
    }
}

#[pymethods]
impl Model {
    /// Channels, height and width of an image.
    #[getter]
    fn shape(&self) -> (usize, usize, usize) {
        let ImageShape { channels, height, width } = self.model.shape();
        (channels, height, width)
    }

    /// Levels of a pixel.
    #[getter]
    fn levels(&self) -> usize {
        self.model.settings().vocabulary.levels()
    }

    /// Classes that the model knows, 0 for none.
    #[getter]
    fn classes(&self) -> usize {
        self.config.model.network.classes()
    }

    /// Training steps.
    #[getter]
    fn step(&self) -> u64 {
        self.step
    }

    /// What is said about the model: its licence, recipe and bound.
    #[getter]
    fn about(&self) -> Vec<(String, String)> {
        self.about.clone()
    }

    /// The noise schedule.
    #[getter]
    fn schedule(&self) -> Schedule {
        Schedule { schedule: self.model.schedule.to_host() }
    }

    /// The bits per dimension of each image, and their standard errors over passes.
    #[allow(clippy::too_many_arguments)]
    fn bits_per_dim(
        &self,
        py: Python<'_>,
        pixels: &[u8],
        labels: Option<Vec<u32>>,
        estimator: &str,
        repeats: usize,
        draws: Option<usize>,
        timesteps: Option<usize>,
        tolerance: Option<f64>,
        seed: u64,
        batch_size: usize,
    ) -> PyResult<(Vec<f64>, Vec<Option<f64>>)> {
        let kind: EstimatorKind = named("estimator", estimator)?;
        for (what, given, option) in [
            ("draws", draws.is_some(), EstimatorOption::Draws),
            ("timesteps", timesteps.is_some(), EstimatorOption::Timesteps),
            ("tolerance", tolerance.is_some(), EstimatorOption::Tolerance),
        ] {
            if given && !kind.uses(option) {
                return Err(error(format!("{what}: the estimator {estimator} has no use for it; leave it out")));
            }
        }
        let usual = EstimatorSettings::default();
        let (draws, timesteps) = (draws.unwrap_or(usual.draws), timesteps.unwrap_or(0));
        let conditional = labels.is_some();
        if conditional && self.classes() == 0 {
            return Err(error("labels: the model has no classes"));
        }
        if !conditional {
            self.require_no_class()?;
        }
        for (what, found, least) in [("timesteps", timesteps, 0), ("repeats", repeats, 1), ("draws", draws, 1)] {
            if !(least..=MOST_STEPS).contains(&found) {
                return Err(error(format!("{what}: {found}, expected {least} to {MOST_STEPS}")));
            }
        }
        let data = self.images(pixels, labels)?;
        if data.classes() > self.classes() && conditional {
            return Err(error(format!("labels: found class {}, the model has {}", data.classes() - 1, self.classes())));
        }
        let model = self.used.clone().with_timesteps((timesteps > 0).then_some(timesteps));
        let settings =
            EstimatorSettings { draws, tolerance: tolerance.map_or(usual.tolerance, Tolerance::new), ..usual };
        let options = EvalOptions { repeats, batch_size, seed };
        let given = |indices: &[usize]| match conditional {
            true => classes_of(&model.network, &data, indices),
            false => Conditioning::default(),
        };
        let found = detached(py, |progress| {
            let estimator = kind.estimator(&settings);
            evaluate_conditioned(&model, &*estimator, &data, given, &options, &Device::flex(), progress)
        })?;
        Ok(found.of_images.iter().map(|image| (image.bpd, image.bpd_stderr)).unzip())
    }

    /// The pixels of images number `first` to `first + count`.
    #[allow(clippy::too_many_arguments)]
    fn sample<'py>(
        &self,
        py: Python<'py>,
        count: u64,
        first: u64,
        seed: u64,
        class_: Option<u32>,
        steps: Option<usize>,
        sampler: Option<&str>,
        grid: Option<&str>,
        eta: Option<f64>,
        tolerance: Option<f64>,
        guidance: Option<f64>,
        batch_size: usize,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let usual = &self.config.sample;
        let kind: SamplerKind = sampler.map_or(Ok(usual.sampler), |sampler| named("sampler", sampler))?;
        for (what, given, option) in [
            ("steps", steps.is_some(), SamplerOption::Steps),
            ("grid", grid.is_some(), SamplerOption::Grid),
            ("eta", eta.is_some(), SamplerOption::Eta),
            ("tolerance", tolerance.is_some(), SamplerOption::Tolerance),
        ] {
            if given && !kind.uses(option) {
                let name = sampler.unwrap_or("of the configuration");
                return Err(error(format!("{what}: the sampler {name} has no use for it; leave it out")));
            }
        }
        let steps = steps.unwrap_or(usual.steps);
        let guidance = guidance.unwrap_or(usual.guidance);
        let grid: Grid = grid.map_or(Ok(Grid::default()), |grid| named("grid", grid))?;
        let defaults = SamplerSettings::default();
        let settings = SamplerSettings {
            eta: eta.unwrap_or(defaults.eta),
            tolerance: tolerance.map_or(defaults.tolerance, Tolerance::new),
        };
        let classes = self.classes();
        match class_ {
            Some(class) if class as usize >= classes => {
                return Err(error(format!("class_: {class}, but the model has {classes} classes")));
            }
            _ => {}
        }
        if !(guidance.is_finite() && guidance >= 0.0) {
            return Err(error(format!("guidance: {guidance}, but the weight must be at least 0")));
        }
        if guidance != 1.0 && classes == 0 {
            return Err(error(format!("guidance: {guidance}, but the model has no classes")));
        }
        if guidance != 1.0 && self.config.train.label_dropout == 0.0 {
            return Err(error(
                "guidance: the model was trained with train.label_dropout = 0, so it has never seen an image without a class",
            ));
        }
        if !(1..=MOST_STEPS).contains(&steps) {
            return Err(error(format!("steps: {steps}, expected 1 to {MOST_STEPS}")));
        }
        if count > MOST_SAMPLES {
            return Err(error(format!(
                "n: {count}, but at most {MOST_SAMPLES} are drawn at once; draw more with `first`"
            )));
        }
        let end = first.checked_add(count).ok_or_else(|| error("first: there are not so many images"))?;
        let (clip, decoder) = (usual.clip, usual.decoder);
        let options = SampleOptions { steps, grid, clip, decoder, guidance, seed, batch_size };
        let given = |numbers: Range<u64>| match (class_, classes) {
            (Some(class), _) => Conditioning::of_classes(numbers.map(|_| Some(class))),
            (None, 0) => Conditioning::default(),
            (None, classes) => Conditioning::classes_in_turn(numbers, classes),
        };
        let pixels = detached(py, |progress| {
            let sampler = kind.sampler(&settings);
            sample_conditioned(&self.used, &*sampler, first..end, given, &options, &Device::flex(), progress)
        })?;
        Ok(PyBytes::new(py, &pixels))
    }

    /// A `.vdmz` file of images.
    #[allow(clippy::too_many_arguments)]
    fn compress<'py>(
        &self,
        py: Python<'py>,
        pixels: &[u8],
        steps: usize,
        seed: u64,
        embed_model: Option<&[u8]>,
    ) -> PyResult<Bound<'py, PyBytes>> {
        self.require_no_class()?;
        let images = self.images(pixels, None)?;
        let count = u32::try_from(images.len()).map_err(error)?;
        let kind = match images.shape().channels {
            1 => FileKind::Idx { images: count },
            _ => FileKind::Series { images: count },
        };
        if let Some(file) = embed_model {
            self.require_same(file)?;
        }
        let knows = self.model.errors().is_some();
        let options = CodecOptions {
            steps: if knows { Steps::Placed(steps) } else { Steps::Uniform(steps) },
            variance: self.variance,
            seed,
            note: "a model of the Python package".into(),
            embedded_model: embed_model.map(<[u8]>::to_vec),
            ..Default::default()
        };
        let files = vec![FileEntry::new("images", kind)];
        let (container, _) =
            detached(py, |progress| compress(&self.model, &images, files, &options, &Device::flex(), progress))?;
        Ok(PyBytes::new(py, &container.to_bytes().map_err(error)?))
    }

    /// The pixels of a `.vdmz` file, and how many images they are.
    fn decompress<'py>(&self, py: Python<'py>, file: &[u8]) -> PyResult<Bound<'py, PyBytes>> {
        let container = Container::parse(file).map_err(error)?;
        let pixels = detached(py, |progress| decompress(&self.model, &container, &Device::flex(), progress))?;
        Ok(PyBytes::new(py, &pixels))
    }

    /// eps_hat of latents z, one after another, each at its gamma; the numbers as bytes of f32.
    fn eps_hat<'py>(
        &self,
        py: Python<'py>,
        z: &[u8],
        gammas: Vec<f64>,
        classes: Option<Vec<u32>>,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let (numbers, rest) = z.as_chunks::<4>();
        let numbers: Vec<f32> = numbers.iter().map(|&bytes| f32::from_ne_bytes(bytes)).collect();
        let (shape, n) = (self.model.shape(), gammas.len());
        if !rest.is_empty() || numbers.len() != n * shape.dims() || n == 0 {
            return Err(error(format!("z: expected {n} latents of {shape}, and at least one")));
        }
        let given = classes.map_or(Conditioning::default(), |all| Conditioning::of_classes(all.into_iter().map(Some)));
        given.check(self.classes(), n).map_err(error)?;
        let found: Vec<f32> = py.detach(|| {
            let device = Device::flex();
            let z = Tensor::<4>::from_data(TensorData::new(numbers, shape.batch(n)), &device);
            let gammas: Vec<f32> = gammas.iter().map(|&gamma| gamma as f32).collect();
            let gamma = Tensor::<1>::from_data(gammas.as_slice(), &device);
            self.model.predict_noise(z, gamma, &given, Mode::Eval).into_data().iter::<f32>().collect()
        });
        Ok(PyBytes::new(py, &found.into_iter().flat_map(f32::to_ne_bytes).collect::<Vec<u8>>()))
    }

    /// The fingerprint that compressed files name their model by.
    fn fingerprint(&self) -> String {
        model_fingerprint(&self.model).iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// The same model with another variance of its reverse steps.
    fn with_reverse_variance(&self, which: &str) -> PyResult<Self> {
        let variance: ReverseVariance = named("variance", which)?;
        let used = self.model.with_reverse_variance(variance).map_err(error)?;
        let (model, config, about) = (self.model.clone(), self.config.clone(), self.about.clone());
        Ok(Self { model, used, variance, config, about, step: self.step })
    }
}

/// A noise schedule: gamma of a time in [0, 1].
#[pyclass(frozen)]
struct Schedule {
    schedule: Box<dyn HostSchedule>,
}

#[pymethods]
impl Schedule {
    /// A schedule that is a straight line from gamma_0 to gamma_1.
    #[staticmethod]
    fn linear(gamma_0: f64, gamma_1: f64) -> PyResult<Self> {
        if !(gamma_0.is_finite() && gamma_1.is_finite() && gamma_0 < gamma_1) {
            return Err(error(format!("gamma_0 = {gamma_0} must be below gamma_1 = {gamma_1}, both finite")));
        }
        let ends = vdm::schedule::Endpoints { gamma_0, gamma_1 };
        let schedule = vdm::schedule::ScheduleConfig::FixedLinear(ends).init(&Device::flex());
        Ok(Self { schedule: schedule.to_host() })
    }

    /// gamma at each time.
    fn gamma(&self, times: Vec<f64>) -> PyResult<Vec<f64>> {
        match times.iter().find(|t| !(0.0..=1.0).contains(*t)) {
            Some(t) => Err(error(format!("the time {t} is not in [0, 1]"))),
            None => Ok(times.into_iter().map(|t| self.schedule.gamma(t)).collect()),
        }
    }
}

/// The model that `path` names: a folder of a run, a file that `vdm export` wrote, or the name of a shipped model.
#[pyfunction]
fn load(py: Python<'_>, path: &str) -> PyResult<Model> {
    py.detach(|| {
        let (place, device) = (Path::new(path), Device::flex());
        let run = RunDir::new(place);
        let file = if place.is_file() {
            Some(ModelFile::load(place))
        } else if run.config().exists() {
            None
        } else {
            shipped::model(path)
        };
        if let Some(file) = file {
            let file = file.map_err(error)?;
            let model = file.model(place, &device).map_err(error)?;
            return Ok(Model::new(model, file.config, file.about.into_iter().collect(), file.step));
        }
        if !run.config().exists() {
            let names = shipped::names().collect::<Vec<_>>().join(", ");
            return Err(error(format!("{path}: no run, no model file, and none of the shipped models: {names}")));
        }
        let unreadable = |source| error(format!("cannot read {}: {source}", run.config().display()));
        let text = std::fs::read_to_string(run.config()).map_err(unreadable)?;
        let config = vdm::config::resolve_run(&run.config().display().to_string(), &text).map_err(error)?;
        let (model, checkpoint) = load_model(&config, run.last(), WhichWeights::Ema, &device).map_err(error)?;
        Ok(Model::new(model, config, Vec::new(), checkpoint.step))
    })
}

/// The names of the shipped models.
#[pyfunction]
fn models() -> Vec<&'static str> {
    shipped::names().collect()
}

#[pymodule]
fn _vdm(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<Model>()?;
    module.add_class::<Schedule>()?;
    module.add("Error", module.py().get_type::<VdmError>())?;
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add_function(wrap_pyfunction!(load, module)?)?;
    module.add_function(wrap_pyfunction!(models, module)?)
}
