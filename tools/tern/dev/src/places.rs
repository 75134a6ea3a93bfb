// SPDX-License-Identifier: MIT OR Apache-2.0

//! Where everything is, as `enter.sh` says in the environment.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::thread::available_parallelism;

use anyhow::{Context, Result};

use crate::lock::Lock;

/// Directories that all steps share.
#[derive(Clone, Debug)]
pub struct Places {
    /// The checkout.
    pub top: PathBuf,
    /// All that is made from it.
    pub build: PathBuf,
    /// The directory that the caller stands in.
    pub host: PathBuf,
    /// Programs of the workspace, this one among them.
    pub tools: PathBuf,
    /// Parallel jobs of a build.
    pub jobs: NonZeroUsize,
}

impl Places {
    /// Reads the environment; `jobs` goes before the number of processors.
    pub fn from_env(jobs: Option<NonZeroUsize>) -> Result<Self> {
        let top = variable("TERN_TOP")?;
        let program = std::env::current_exe().context("this program's path is unknown")?;
        let jobs = match jobs {
            Some(jobs) => jobs,
            None => available_parallelism().unwrap_or(NonZeroUsize::MIN),
        };
        Ok(Self {
            build: top.join("build"),
            top,
            host: variable("TERN_HOST")?,
            tools: program.parent().context("no directory")?.to_owned(),
            jobs,
        })
    }

    /// Waits until no other run builds here; the lock lasts as long as the
    /// value, and the programs that build.
    pub fn lock(&self) -> Result<Lock> {
        Lock::exclusive(&self.build.join("lock"), "another run builds here")
    }

    /// A file of the preparation: pins and kernel configuration.
    pub fn env(&self, name: &str) -> PathBuf {
        self.top.join("tools/tern/env").join(name)
    }
}

fn variable(name: &str) -> Result<PathBuf> {
    std::env::var_os(name)
        .map(PathBuf::from)
        .with_context(|| format!("{name} is not set; start this by `make` or `./tern`"))
}
