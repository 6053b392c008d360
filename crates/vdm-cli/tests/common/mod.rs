//! Running the program.

use std::process::{Command, Output};

/// The program, without the environment's wishes about logging and signals: a shell that runs the tests in the background
/// ignores Ctrl-C, and what is ignored at the start stays ignored.
pub fn vdm() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vdm"));
    command.env_remove("RUST_LOG");
    #[cfg(unix)]
    {
        use std::os::unix::process::CommandExt;
        let defaults = || {
            for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
                // SAFETY: the call may be made between fork and exec, and installs no handler.
                unsafe { libc::signal(signal, libc::SIG_DFL) };
            }
            Ok(())
        };
        // SAFETY: the closure makes only calls that are allowed between fork and exec.
        unsafe { command.pre_exec(defaults) };
    }
    command
}

pub trait Run {
    /// Runs the command, which must succeed; what it printed on stdout.
    fn succeeds(&mut self) -> Vec<u8>;

    // Not every file of tests lets a command fail.
    #[allow(dead_code)]
    /// Runs the command, which must fail and print nothing on stdout; what it said on stderr.
    fn fails(&mut self) -> String;
}

impl Run for Command {
    fn succeeds(&mut self) -> Vec<u8> {
        let Output { status, stdout, stderr } = self.output().unwrap();
        assert!(status.success(), "{self:?}: {status}\n{}", String::from_utf8_lossy(&stderr));
        stdout
    }

    fn fails(&mut self) -> String {
        let Output { status, stdout, stderr } = self.output().unwrap();
        assert!(!status.success(), "{self:?} succeeded");
        assert!(stdout.is_empty(), "{self:?}: {}", String::from_utf8_lossy(&stdout));
        String::from_utf8(stderr).unwrap()
    }
}
