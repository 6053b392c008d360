//! Timing, and what it was measured on.

use serde_json::json;
use std::time::Instant;

/// The middle one of some times.
pub fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

/// Milliseconds of each run after three of warm-up, sorted; at least five, for `seconds` at least.
pub fn timed(seconds: f64, mut f: impl FnMut()) -> Vec<f64> {
    for _ in 0..3 {
        f();
    }
    let start = Instant::now();
    let mut times = Vec::new();
    while times.len() < 5 || start.elapsed().as_secs_f64() < seconds {
        let run = Instant::now();
        f();
        times.push(1e3 * run.elapsed().as_secs_f64());
    }
    times.sort_by(f64::total_cmp);
    times
}

pub fn round(ms: f64) -> f64 {
    (ms * 100.0).round() / 100.0
}

/// Largest resident memory of this process so far, where the system tells.
pub fn peak_rss_mib() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|l| l.starts_with("VmHWM:"))?;
    Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? / 1024)
}

/// What the numbers were measured on, as far as the system tells.
pub fn machine() -> serde_json::Value {
    let field = |file: &str, key: &str| {
        let text = std::fs::read_to_string(file).ok()?;
        let line = text.lines().find(|l| l.starts_with(key))?;
        Some(line.split_once(':')?.1.trim().to_string())
    };
    let kib = field("/proc/meminfo", "MemTotal").and_then(|m| m.split_whitespace().next()?.parse::<u64>().ok());
    json!({
        "cpu": field("/proc/cpuinfo", "model name"),
        "cores": std::thread::available_parallelism().ok().map(usize::from),
        "threads": rayon::current_num_threads(),
        "memory_gib": kib.map(|kib| kib >> 20),
        "system": format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
    })
}
