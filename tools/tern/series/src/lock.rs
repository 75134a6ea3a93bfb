// SPDX-License-Identifier: MIT OR Apache-2.0

//! One run at a time on a directory.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use rustix::fs::{flock, FlockOperation};

use tern_paths::shown;

/// Holds `DIR.lock` until it is dropped, and until every process that got [`Lock::file`] ended.
///
/// The kernel lets go of the lock when its last holder dies, so a killed run leaves nothing
/// that someone would have to clear away.
#[derive(Debug)]
pub struct Lock(Arc<File>);

impl Lock {
    /// Waits until nobody else works on `dir`, and says so if that takes any time.
    pub fn take(dir: &Path) -> Result<Self> {
        let path = beside(dir, ".lock");
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)
                .with_context(|| format!("{} cannot be created", shown(parent)))?;
        }
        let mut file = File::options()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(&path)
            .with_context(|| format!("{} cannot be opened", shown(&path)))?;
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            let holder = fs::read_to_string(&path).unwrap_or_default();
            eprintln!(
                "tern-series: waiting for process {}, which works on {}",
                holder.trim(),
                shown(dir)
            );
            flock(&file, FlockOperation::LockExclusive)
                .with_context(|| format!("{} cannot be locked", shown(&path)))?;
        }
        file.set_len(0)?;
        writeln!(file, "{}", std::process::id())?;
        Ok(Self(Arc::new(file)))
    }

    /// The locked file; a child process that inherits it keeps the lock.
    pub fn file(&self) -> Arc<File> {
        self.0.clone()
    }
}

/// The path next to `dir` whose name has `suffix` at its end.
pub fn beside(dir: &Path, suffix: &str) -> PathBuf {
    let mut name = dir.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}
