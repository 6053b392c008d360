//! Standard output, where a closed pipe or a full disk is an error like any other and not a panic.

use anyhow::{Error, Result, bail};
use std::fmt;
use std::io::{self, Write};
use std::path::Path;

/// Whoever reads the standard output has seen enough. A broken pipe to anyone else, such as a worker, is a failure.
#[derive(Debug, thiserror::Error)]
#[error("the standard output is closed")]
struct Closed;

/// Prints a line on standard output, as far as it is [`printable`].
pub fn line(text: fmt::Arguments<'_>) -> Result<()> {
    write_all((printable(&text.to_string()) + "\n").as_bytes())
}

/// Writes bytes to standard output.
pub fn write_all(bytes: &[u8]) -> Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(bytes).and_then(|()| out.flush()).map_err(|error| match error.kind() {
        io::ErrorKind::BrokenPipe => Closed.into(),
        _ => Error::new(error).context("cannot write to standard output"),
    })
}

/// A path in a JSON object, whose texts are UTF-8: what of the path is not is replaced.
pub fn shown(path: &Path) -> String {
    path.display().to_string()
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
pub fn is_closed(error: &Error) -> bool {
    error.is::<Closed>()
}

/// An error with its causes; a cause that the text before it has already told is left out.
pub fn told(error: &Error) -> String {
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

/// A text that may come from a file or from another machine: a terminal would obey its control characters. Lines stay.
pub fn printable(text: &str) -> String {
    let shown = |c: char| match c {
        '\n' | '\t' => c.to_string(),
        // As JSON escapes them, since objects come this way too.
        c if c.is_control() => format!("\\u{:04x}", u32::from(c)),
        c => c.to_string(),
    };
    text.chars().map(shown).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::anyhow;

    /// A worker that was gone ended a training without a word and with status 0.
    #[test]
    fn a_broken_pipe_to_someone_else_is_a_failure() {
        let lost = anyhow!(io::Error::from(io::ErrorKind::BrokenPipe)).context("the worker is lost");
        assert!(!is_closed(&lost));
        assert!(is_closed(&Closed.into()));
    }

    #[test]
    fn control_characters_of_files_do_not_reach_the_terminal() {
        assert_eq!(printable("tensor `\u{1b}[2Jß`\nis unknown"), "tensor `\\u001b[2Jß`\nis unknown");
        // JSON leaves some of them as they are.
        let text = serde_json::json!("a\u{7f}\u{92}b").to_string();
        assert_eq!(serde_json::from_str::<String>(&printable(&text)).unwrap(), "a\u{7f}\u{92}b");
        assert!(!printable(&text).contains(char::is_control));
    }

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
