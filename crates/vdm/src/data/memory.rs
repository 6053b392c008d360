//! How much memory there is.

use super::error::{DataError, Result};
use std::fs;
use std::path::{Path, PathBuf};

/// Bytes of memory that can be had without swapping, where the system tells: what is free, and what is left of the limits
/// of the control groups that this process is in, as containers have them.
fn available() -> Option<u64> {
    let info = fs::read_to_string("/proc/meminfo").ok()?;
    let line = info.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let free = line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.saturating_mul(1024);
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    Some(groups.lines().flat_map(left_in_group).fold(free, u64::min))
}

/// What is left of the limits of a control group and of those that it is in, given its line of `/proc/self/cgroup`; inside a
/// container the outer ones are not seen.
fn left_in_group(line: &str) -> Vec<u64> {
    let mut parts = line.splitn(3, ':').skip(1);
    let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { return Vec::new() };
    // Version 2 has one tree; in version 1, that of memory is one of several.
    let (root, most, used, cache) = match controllers {
        "" => ("/sys/fs/cgroup", "memory.max", "memory.current", "file "),
        _ if controllers.split(',').any(|name| name == "memory") => {
            ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_cache ")
        }
        _ => return Vec::new(),
    };
    let number = |path: PathBuf| fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
    let folders = Path::new(path.trim_start_matches('/')).ancestors().map(|group| Path::new(root).join(group));
    let left = |group: PathBuf| {
        let (most, used) = (number(group.join(most))?, number(group.join(used))?);
        // Files that are kept in memory make room when it is needed.
        let stat = fs::read_to_string(group.join("memory.stat")).unwrap_or_default();
        let cached = stat.lines().find_map(|line| line.strip_prefix(cache)?.trim().parse::<u64>().ok()).unwrap_or(0);
        Some(most.saturating_sub(used.saturating_sub(cached)))
    };
    folders.filter_map(left).collect()
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
