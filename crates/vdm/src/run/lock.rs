//! One process at a time trains in a run's folder.

use super::RunDir;
use crate::files::create_folders;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};

/// A run's folder, held by this process: an advisory lock of the system, which ends with the process however it ends.
#[derive(Debug)]
pub struct RunLock(File);

/// Why a run cannot be locked.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process holds it.
    #[error("{run} is in use by another process ({holder}); wait for it, or choose another folder")]
    Held {
        /// The folder.
        run: String,
        /// What is known about the process.
        holder: String,
    },
    /// The file system refuses.
    #[error("{run}: cannot lock the run: {source}")]
    Io {
        /// The folder.
        run: String,
        /// What the system says.
        source: io::Error,
    },
}

impl RunLock {
    /// Locks the run, making its folder if need be.
    ///
    /// # Errors
    /// See [`LockError`].
    pub fn take(run: &RunDir) -> Result<Self, LockError> {
        let name = run.path().display().to_string();
        let failed = |source| LockError::Io { run: name.clone(), source };
        create_folders(run.path()).map_err(failed)?;
        let open = OpenOptions::new().create(true).truncate(false).read(true).write(true).open(run.lock());
        let mut file = open.map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                let _ = file.read_to_string(&mut holder);
                let holder = if holder.is_empty() { "which one is not known".into() } else { holder };
                return Err(LockError::Held { run: name, holder });
            }
            // Some network file systems have no locks: then there is none.
            Err(TryLockError::Error(e)) if e.kind() == io::ErrorKind::Unsupported => {}
            Err(TryLockError::Error(e)) => return Err(failed(e)),
        }
        file.set_len(0).and_then(|()| write!(file, "process {}", std::process::id())).map_err(failed)?;
        Ok(Self(file))
    }
}

impl Drop for RunLock {
    fn drop(&mut self) {
        // Nobody holds it any more, and the folder of a finished run says nothing about processes.
        let _ = self.0.rewind().and_then(|()| self.0.set_len(0));
    }
}
