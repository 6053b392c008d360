//! Being asked to stop: Ctrl-C, SIGTERM, SIGHUP.

use anyhow::{Context, Result};

/// The exit status of a program that was stopped by Ctrl-C, as shells give it.
pub const STOPPED: u8 = 130;

/// Calls `asked` on Ctrl-C and, on Unix, on SIGTERM and SIGHUP; signals that were ignored when the program started, as
/// SIGHUP is under `nohup`, stay ignored.
pub fn on_stop(asked: impl FnMut() + Send + 'static) -> Result<()> {
    let ignored = ignored();
    ctrlc::set_handler(asked).context("cannot listen for Ctrl-C")?;
    for signal in ignored {
        ignore(signal);
    }
    Ok(())
}

/// Those of the signals that are ignored now.
#[cfg(unix)]
fn ignored() -> Vec<libc::c_int> {
    let is_ignored = |signal: &libc::c_int| {
        let mut action = std::mem::MaybeUninit::<libc::sigaction>::zeroed();
        // SAFETY: without a new action the call only writes the present one to `action`, which is large enough for it,
        // and which all zeros are a valid value of.
        unsafe {
            libc::sigaction(*signal, std::ptr::null(), action.as_mut_ptr()) == 0
                && action.assume_init().sa_sigaction == libc::SIG_IGN
        }
    };
    [libc::SIGINT, libc::SIGTERM, libc::SIGHUP].into_iter().filter(is_ignored).collect()
}

#[cfg(unix)]
fn ignore(signal: libc::c_int) {
    // SAFETY: ignoring a signal runs no code of ours.
    unsafe { libc::signal(signal, libc::SIG_IGN) };
}

#[cfg(not(unix))]
fn ignored() -> Vec<i32> {
    Vec::new()
}

#[cfg(not(unix))]
fn ignore(_: i32) {}
