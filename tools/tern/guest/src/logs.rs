// SPDX-License-Identifier: MIT OR Apache-2.0

//! A directory for logs that one run at a time writes.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{bail, Context, Result};
use nix::fcntl::{Flock, FlockArg};

use tern_paths::shown;

/// The directory, which no other run writes to as long as this value lives.
#[derive(Debug)]
pub struct Logs {
    directory: PathBuf,
    _lock: Flock<File>,
}

impl Logs {
    /// Takes `directory`, and makes it if it is not there.
    ///
    /// # Errors
    ///
    /// Fails when the directory cannot be had.
    pub fn claim(directory: &Path) -> Result<Self> {
        fs::create_dir_all(directory)
            .with_context(|| format!("cannot make the directory {}", shown(directory)))?;
        // Programs run in other directories.
        let directory = directory.canonicalize()?;
        let lock = File::create(directory.join("lock"))
            .with_context(|| format!("cannot write to {}", shown(&directory)))?;
        match Flock::lock(lock, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => Ok(Self {
                directory,
                _lock: lock,
            }),
            Err(_) => bail!(
                "another run of the tests writes its logs to {}; wait for it, or name \
                 another directory with --logs",
                shown(&directory)
            ),
        }
    }

    /// The path of a log.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// An empty log, and its path.
    ///
    /// # Errors
    ///
    /// Fails when it cannot be written.
    pub fn create(&self, name: &str) -> Result<(PathBuf, File)> {
        let path = self.path(name);
        let file = File::create(&path)
            .with_context(|| format!("cannot write the log {}", shown(&path)))?;
        Ok((path, file))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logs_are_written_by_one_run_at_a_time() {
        let directory = tempfile::tempdir().unwrap();
        let wanted = directory.path().join("new/logs");
        let first = Logs::claim(&wanted).unwrap();
        let error = Logs::claim(&wanted).unwrap_err();
        assert!(error.to_string().contains("another run"), "{error}");
        drop(first);
        Logs::claim(&wanted).unwrap();
    }
}
