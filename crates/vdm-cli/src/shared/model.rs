//! Opening the model that a command works with.

use super::device::DeviceArgs;
use super::words::word;
use anyhow::{Context, Result, bail};
use burn::tensor::Device;
use clap::ValueEnum;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use vdm::ImageShape;
use vdm::config::{Config, resolve_run};
use vdm::data::{DataSource, ImageDataset, Source, Split};
use vdm::diffusion::Vocabulary;
use vdm::run::{Checkpoint, Model, ModelFile, RunDir, WhichWeights, load_model, shipped};

/// The run whose model a command works with.
#[derive(Debug, clap::Args)]
pub struct ModelArgs {
    /// The model: folder of a run, a file that `vdm export` wrote, or the name of a shipped model (`vdm models`).
    pub run: PathBuf,
    #[command(flatten)]
    pub choice: ChoiceArgs,
}

/// Which of a run's models, and where it computes.
#[derive(Debug, clap::Args)]
pub struct ChoiceArgs {
    /// Which checkpoint: the one after the last step, or the one with the best bound on the validation images, which are
    /// cut from the training images and never trained on.
    #[arg(long, value_enum, default_value_t = Which::Last)]
    pub checkpoint: Which,
    /// Which weights: the average over the last steps, or those of the last step itself.
    #[arg(long, value_name = "WHICH", value_parser = word::<WhichWeights>, default_value = "ema")]
    pub weights: WhichWeights,
    #[command(flatten)]
    pub device: DeviceArgs,
}

/// Where a run's data are now.
#[derive(Debug, clap::Args)]
pub struct DataArgs {
    /// Folder of the data, in place of the run's data.dir.
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Work although the images are others than those of the run.
    #[arg(long)]
    pub other_data: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Which {
    Last,
    Best,
}

/// A model, opened.
pub struct Opened {
    /// Its run's folder, or the present folder for a model without one: where results go that no other place is named for.
    pub run: RunDir,
    pub config: Config,
    pub model: Model,
    pub checkpoint: Facts,
    pub device: Device,
}

/// What is known about a model besides its configuration.
pub struct Facts {
    pub step: u64,
    pub shape: ImageShape,
    pub vocabulary: Vocabulary,
    pub data: Option<String>,
}

impl DataArgs {
    /// Refuses a folder of data where the images are named, so that the test split is not asked for.
    pub fn refuse_beside(&self, images: &[PathBuf]) -> Result<()> {
        if self.data_dir.is_some() && !images.is_empty() {
            bail!("--data-dir is for the model's test split; leave it or the images out");
        }
        Ok(())
    }
}

impl ModelArgs {
    /// Opens the run's model.
    pub fn open(&self) -> Result<Opened> {
        self.choice.open(&self.run)
    }
}

impl ChoiceArgs {
    /// Opens the model that `path` names.
    pub fn open(&self, path: &Path) -> Result<Opened> {
        let device = self.device.open()?;
        if let Some(file) = model_file(path)? {
            refuse_choice(path, self.checkpoint, self.weights)?;
            let model = file.model(path, &device)?;
            let ModelFile { step, shape, vocabulary, data, config, .. } = file;
            let checkpoint = Facts { step, shape, vocabulary, data };
            return Ok(Opened { run: RunDir::new("."), config, model, checkpoint, device });
        }
        let (run, config) = open_run(path)?;
        let (model, checkpoint) = load_model(&config, checkpoint(&run, self.checkpoint)?, self.weights, &device)?;
        let Checkpoint { step, shape, vocabulary, data, .. } = checkpoint;
        let checkpoint = Facts { step, shape, vocabulary, data };
        Ok(Opened { run, config, model, checkpoint, device })
    }
}

/// Refuses a choice of weights that a model file has not.
fn refuse_choice(path: &Path, which: Which, weights: WhichWeights) -> Result<()> {
    if weights == WhichWeights::Raw || which == Which::Best {
        bail!("{}: a model file has one set of weights, the averages of one step", path.display());
    }
    Ok(())
}

/// The model file that `path` names: a file, or a shipped model where there is no file and no run of that name.
pub fn model_file(path: &Path) -> Result<Option<ModelFile>> {
    if path.is_file() {
        return Ok(Some(ModelFile::load(path)?));
    }
    Ok(shipped_name(path).and_then(shipped::model).transpose()?)
}

/// The shipped model that `path` names: one where there is no file and no run of that name. A folder that is no run, such as
/// one of pictures, does not stand in the way.
pub fn shipped_name(path: &Path) -> Option<&str> {
    let taken = path.is_file() || RunDir::new(path).config().exists();
    path.to_str().filter(|name| !taken && shipped::names().any(|shipped| shipped == *name))
}

/// The model that `path` names as a file: what `vdm export` writes of a run.
pub fn of_model(path: &Path, which: Which, weights: WhichWeights) -> Result<ModelFile> {
    if let Some(file) = model_file(path)? {
        refuse_choice(path, which, weights)?;
        return Ok(file);
    }
    let (run, config) = open_run(path)?;
    let checkpoint = Checkpoint::load(&checkpoint(&run, which)?)?;
    let weights = match weights {
        WhichWeights::Ema => checkpoint.ema(),
        WhichWeights::Raw => checkpoint.weights.clone(),
    };
    let Checkpoint { step, shape, vocabulary, data, .. } = checkpoint;
    Ok(ModelFile { step, shape, vocabulary, data, config, about: BTreeMap::new(), weights, half: false, errors: None })
}

impl Opened {
    /// The run's test split, which must still be that of its training.
    pub fn test_split(&self, data: &DataArgs) -> Result<ImageDataset> {
        self.split(Split::Test, data)
    }

    /// The images of the run's data that no model is trained on, to choose with: those of its training.
    pub fn validation_split(&self, data: &DataArgs) -> Result<ImageDataset> {
        self.split(Split::Valid, data)
    }

    /// A split whose images are of the model's shape and levels, and those that the run knows.
    fn split(&self, split: Split, data: &DataArgs) -> Result<ImageDataset> {
        let images = source(&self.config, data.data_dir.as_deref())?.load(split)?;
        let (shape, levels) = (self.checkpoint.shape, self.checkpoint.vocabulary.levels());
        if (images.shape(), images.levels()) != (shape, levels) {
            bail!(
                "the run was trained on {shape} images of {levels} levels, those of `{}` are {} of {}; name the right \
                 folder with --data-dir",
                images.name(),
                images.shape(),
                images.levels()
            );
        }
        let own = self.checkpoint.data.as_deref().and_then(|data| fingerprint_of(data, split));
        let found = images.fingerprint();
        if own.is_some_and(|own| own != found) && !data.other_data {
            bail!(
                "the {split} images of `{}` are others than those of the run (fingerprint {found}); name the right folder \
                 with --data-dir, or take these with --other-data",
                images.name()
            );
        }
        Ok(images)
    }

    /// Refuses a run whose network never saw an image without its class, where it is to work without one.
    pub fn require_no_class(&self) -> Result<()> {
        require_no_class(&self.config)
    }
}

/// Refuses a configuration whose network never saw an image without its class, where it is to work without one.
pub fn require_no_class(config: &Config) -> Result<()> {
    if config.model.network.classes() > 0 && config.train.label_dropout == 0.0 {
        bail!(
            "the run was trained with train.label_dropout = 0, so its network has never seen an image without a class"
        );
    }
    Ok(())
}

/// The fingerprint of a split in that of a run's data, `train:…,valid:…,test:…`.
fn fingerprint_of(data: &str, split: Split) -> Option<&str> {
    data.split(',').find_map(|part| part.strip_prefix(&format!("{split}:")))
}

/// Where a run's data are: in the folder `dir` if one is named, in place of the run's own.
pub fn source(config: &Config, dir: Option<&Path>) -> Result<DataSource> {
    let mut source = config.data.source.clone();
    if let Some(dir) = dir {
        match source.dir_mut() {
            Some(place) => *place = dir.to_owned(),
            None => bail!("--data-dir: the run's images are built into the program"),
        }
    }
    Ok(source)
}

/// The run in `path` and its configuration.
pub fn open_run(path: &Path) -> Result<(RunDir, Config)> {
    let run = RunDir::new(path);
    let file = run.config();
    if !file.exists() {
        let names = shipped::names().collect::<Vec<_>>().join(", ");
        bail!("{} holds no run: {} does not exist; shipped models are: {names}", path.display(), file.display());
    }
    let text = std::fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
    let config = resolve_run(&file.display().to_string(), &text)?;
    Ok((run, config))
}

/// The file of a checkpoint, which must be there.
pub fn checkpoint(run: &RunDir, which: Which) -> Result<PathBuf> {
    let (path, name) = match which {
        Which::Last => (run.last(), "checkpoint"),
        Which::Best => (run.best(), "best checkpoint"),
    };
    if !path.exists() {
        bail!("{0} has no {name} yet; go on with `vdm train --resume {0}`", run.path().display());
    }
    Ok(path)
}
