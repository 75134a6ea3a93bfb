// SPDX-License-Identifier: MIT OR Apache-2.0

//! Where everything is, as `enter.sh` says in the environment.

use std::fs::{self, File};
use std::path::PathBuf;

use anyhow::{Context, Result};
use rustix::fs::{flock, FlockOperation};

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
    pub jobs: usize,
}

impl Places {
    /// Reads the environment; `jobs` goes before the number of processors.
    pub fn from_env(jobs: Option<usize>) -> Result<Self> {
        let top = variable("TERN_TOP")?;
        let program = std::env::current_exe().context("this program's path is unknown")?;
        let jobs = match jobs {
            Some(jobs) => jobs.max(1),
            None => std::thread::available_parallelism().map_or(1, usize::from),
        };
        Ok(Self {
            build: top.join("build"),
            top,
            host: variable("TERN_HOST")?,
            tools: program.parent().context("no directory")?.to_owned(),
            jobs,
        })
    }

    /// Waits until no other run builds here; the lock lasts as long as the value.
    pub fn lock(&self) -> Result<File> {
        fs::create_dir_all(&self.build)
            .with_context(|| format!("{} cannot be made", self.build.display()))?;
        let path = self.build.join("lock");
        let file =
            File::create(&path).with_context(|| format!("{} cannot be written", path.display()))?;
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            eprintln!("tern: another run builds here: waiting for it");
            flock(&file, FlockOperation::LockExclusive)
                .with_context(|| format!("{} cannot be locked", path.display()))?;
        }
        Ok(file)
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
