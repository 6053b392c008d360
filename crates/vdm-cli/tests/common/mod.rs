//! Running the program.

use std::process::{Command, Output};

/// The program, without the environment's wishes about logging.
pub fn vdm() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vdm"));
    command.env_remove("RUST_LOG");
    command
}

pub trait Run {
    /// Runs the command, which must succeed; what it printed on stdout.
    fn succeeds(&mut self) -> Vec<u8>;

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
