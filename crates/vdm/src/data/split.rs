//! The parts that a data set is divided into.

use std::fmt;

/// Which part of a data set: to learn from, or to judge with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Split {
    /// The images to train on.
    Train,
    /// The images held out for evaluation.
    Test,
}

impl Split {
    /// The split of the item at `index` where of every `test_every` items the last is held out.
    pub(super) fn of_index(index: usize, test_every: usize) -> Self {
        if test_every > 0 && index % test_every == test_every - 1 { Self::Test } else { Self::Train }
    }
}

impl fmt::Display for Split {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Train => "train",
            Self::Test => "test",
        })
    }
}
