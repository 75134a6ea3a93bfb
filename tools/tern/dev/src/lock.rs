// SPDX-License-Identifier: MIT OR Apache-2.0

//! Locks between runs in the same checkout.

use std::fs::{self, File};
use std::path::Path;

use anyhow::{Context, Result};
use rustix::fs::{flock, FlockOperation};
use rustix::io::{fcntl_setfd, FdFlags};
use tern_paths::shown;

/// A lock on a file. Programs that are started meanwhile hold it too, so it
/// lasts until the value is gone and the last of them has ended.
#[derive(Debug)]
pub struct Lock(File);

impl Lock {
    /// Waits until nobody else holds the lock.
    pub fn exclusive(path: &Path, waits_for: &str) -> Result<Self> {
        let lock = Self::open(path)?;
        lock.take(
            FlockOperation::NonBlockingLockExclusive,
            FlockOperation::LockExclusive,
            waits_for,
        )?;
        Ok(lock)
    }

    /// Waits until nobody else holds the lock for itself alone.
    pub fn shared(path: &Path, waits_for: &str) -> Result<Self> {
        let lock = Self::open(path)?;
        lock.take(
            FlockOperation::NonBlockingLockShared,
            FlockOperation::LockShared,
            waits_for,
        )?;
        Ok(lock)
    }

    fn open(path: &Path) -> Result<Self> {
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir).with_context(|| format!("{} cannot be made", shown(dir)))?;
        }
        let file =
            File::create(path).with_context(|| format!("{} cannot be written", shown(path)))?;
        fcntl_setfd(&file, FdFlags::empty())?;
        Ok(Self(file))
    }

    fn take(&self, at_once: FlockOperation, later: FlockOperation, waits_for: &str) -> Result<()> {
        if flock(&self.0, at_once).is_err() {
            eprintln!("tern: waiting: {waits_for}");
            flock(&self.0, later).context("a lock in build/ cannot be had")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    fn is_free(path: &Path) -> bool {
        let file = File::open(path).unwrap();
        flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok()
    }

    #[test]
    fn users_share_it_and_builders_do_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new/lock");
        let one = Lock::shared(&path, "x").unwrap();
        let other = Lock::shared(&path, "x").unwrap();
        assert!(!is_free(&path));
        drop((one, other));
        let _builder = Lock::exclusive(&path, "x").unwrap();
        let file = File::open(&path).unwrap();
        assert!(flock(&file, FlockOperation::NonBlockingLockShared).is_err());
    }

    #[test]
    fn a_program_holds_it_until_it_ends() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let lock = Lock::exclusive(&path, "x").unwrap();
        let mut child = Command::new("cat")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        drop(lock);
        assert!(!is_free(&path));
        drop(child.stdin.take());
        child.wait().unwrap();
        // Other tests start programs too, which close it in a moment.
        Lock::exclusive(&path, "x").unwrap();
    }
}
