//! The steps of a chain that a user asks for.

use super::words::word;
use anyhow::{Result, bail};
use clap::value_parser;
use serde::{Deserialize, Serialize};
use vdm::codec::Steps;
use vdm::diffusion::{MAX_TIMESTEPS, ReverseVariance};
use vdm::run::Model;

/// How many steps, where, and how wide.
#[derive(Debug, clap::Args)]
pub struct StepsArgs {
    /// Steps T: more of them code better, and take longer in proportion.
    #[arg(long, value_name = "T", default_value_t = 100, value_parser = value_parser!(u32).range(1..=MAX_TIMESTEPS as i64))]
    pub timesteps: u32,
    /// Where the steps are: `placed` where the model's table of errors says that they cost least, or evenly in `time`.
    /// Default: placed, where the model has such a table.
    #[arg(long, value_name = "WHERE", value_parser = word::<StepGrid>)]
    pub grid: Option<StepGrid>,
    #[command(flatten)]
    pub width: WidthArgs,
}

/// How wide the reverse steps are.
#[derive(Debug, clap::Args)]
pub struct WidthArgs {
    /// The variance of a reverse step: the `posterior`'s, as in the paper, or wider where the network is wrong, by one factor
    /// a `step` or one a `pixel`. Default: pixel, where the model knows its error (`vdm fit-errors`).
    #[arg(long, value_name = "WHICH", value_parser = word::<ReverseVariance>)]
    pub reverse_variance: Option<ReverseVariance>,
}

/// Where the steps are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StepGrid {
    Placed,
    Time,
}

impl StepsArgs {
    /// The steps in this model.
    pub fn steps(&self, model: &Model) -> Result<Steps> {
        let steps = self.timesteps as usize;
        let knows = model.errors().is_some();
        Ok(match self.grid {
            Some(StepGrid::Placed) if !knows => bail!("--grid placed: {NO_ERRORS}"),
            Some(StepGrid::Time) => Steps::Uniform(steps),
            None if !knows => Steps::Uniform(steps),
            _ => Steps::Placed(steps),
        })
    }
}

impl WidthArgs {
    /// The width for this model.
    pub fn variance(&self, model: &Model) -> Result<ReverseVariance> {
        let knows = model.errors().is_some();
        match self.reverse_variance {
            Some(variance) if variance != ReverseVariance::Posterior && !knows => {
                bail!("--reverse-variance: {NO_ERRORS}")
            }
            Some(variance) => Ok(variance),
            None => Ok(model.best_reverse_variance()),
        }
    }
}

const NO_ERRORS: &str = "the model does not know its own error; `vdm fit-errors` makes a model that does";
