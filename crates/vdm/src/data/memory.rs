//! How much memory there is.

use super::error::{DataError, Result};
use std::fs;

/// Bytes of memory that can be had without swapping, where the system tells: what is free, and of the limit that a container
/// sets, what is left.
fn available() -> Option<u64> {
    let number = |path: &str| fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
    let info = fs::read_to_string("/proc/meminfo").ok()?;
    let line = info.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let free = line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.saturating_mul(1024);
    let limit = number("/sys/fs/cgroup/memory.max").zip(number("/sys/fs/cgroup/memory.current"));
    Some(limit.map_or(free, |(most, used)| free.min(most.saturating_sub(used))))
}

/// Refuses images of so many bytes that memory does not hold them.
///
/// # Errors
/// [`DataError::Memory`].
pub(super) fn check_room(dataset: &str, bytes: u64) -> Result<()> {
    match available() {
        Some(available) if bytes > available => {
            Err(DataError::Memory { dataset: dataset.to_owned(), needed: bytes, available })
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_beyond_memory_are_refused_with_what_to_do() {
        assert!(check_room("few", 1000).is_ok());
        if available().is_some() {
            let error = check_room("many", u64::MAX / 2).unwrap_err().to_string();
            assert!(error.contains("`many`") && error.contains("data.cache=DIR"), "{error}");
        }
    }
}
