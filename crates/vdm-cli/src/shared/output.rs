//! Standard output, where a closed pipe or a full disk is an error like any other and not a panic.

use anyhow::{Context, Result, bail};
use std::fmt;
use std::io::{self, Write};
use std::path::Path;

/// Prints a line on standard output.
pub fn line(text: fmt::Arguments<'_>) -> Result<()> {
    write_all(format!("{text}\n").as_bytes())
}

/// Writes bytes to standard output.
pub fn write_all(bytes: &[u8]) -> Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(bytes).and_then(|()| out.flush()).context("cannot write to standard output")
}

/// Whether `--out` names standard output; refuses that beside `--json`, which writes there too.
pub fn is_standard(out: &Path, json: bool) -> Result<bool> {
    let standard = out.as_os_str() == "-";
    if standard && json {
        bail!("--json and --out - both write to the standard output; leave one out");
    }
    Ok(standard)
}

/// `println!` that gives an error where that would panic.
macro_rules! outln {
    ($($text:tt)*) => { $crate::shared::output::line(format_args!($($text)*))? };
}
pub(crate) use outln;

/// Whether an error says that whoever reads our output has stopped reading.
pub fn is_closed_pipe(error: &anyhow::Error) -> bool {
    let io = error.chain().find_map(|cause| cause.downcast_ref::<io::Error>());
    io.is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe)
}

/// An error with its causes; a cause that the text before it has already told is left out.
pub fn told(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(|cause| cause.to_string()) {
        if !text.contains(&cause) {
            if !text.is_empty() {
                text.push_str(": ");
            }
            text.push_str(&cause);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::anyhow;

    /// "No space left on device (os error 28): No space left on device (os error 28)".
    #[test]
    fn a_cause_is_said_once() {
        #[derive(Debug, thiserror::Error)]
        #[error("a.png: {source}")]
        struct Outer {
            source: io::Error,
        }
        let full = || io::Error::other("no space left");
        assert_eq!(told(&anyhow!(Outer { source: full() })), "a.png: no space left");
        assert_eq!(told(&anyhow!(full()).context("cannot write b.png")), "cannot write b.png: no space left");
    }
}
