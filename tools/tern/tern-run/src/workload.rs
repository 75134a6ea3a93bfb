// SPDX-License-Identifier: MIT OR Apache-2.0

//! The workloads: each fills memory, has the device work on it and compares every byte of the
//! result with the CPU's own.

pub mod bfs;
pub mod gemm;
pub mod hashmap;
pub mod list;
pub mod pingpong;
pub mod processes;
pub mod radix;
pub mod triad;
pub mod wordcount;

use std::path::PathBuf;

use anyhow::Result;
use tern::Location;

use crate::executor::Executor;
use crate::memory::{Buffer, Plain, Thp};
use crate::report::Workload;

/// Options of all workloads.
#[derive(Clone, Debug)]
pub struct Options {
    /// Bytes that a workload works on; gemm has its own measure, and see [`Options::share`].
    pub size: u64,
    /// Rows and columns of gemm's matrices.
    pub n: u64,
    /// Turns of ping-pong.
    pub rounds: u32,
    /// Files and directories whose words are counted.
    pub files: Vec<PathBuf>,
    /// Graph to search in, as a file.
    pub graph: Option<PathBuf>,
    /// Huge pages or not.
    pub thp: Thp,
    /// Move arrays before they are used.
    pub prefetch: bool,
    /// Node of the device, where it is not the default one.
    pub device: Option<PathBuf>,
    /// What the contents of ping-pong's memory depend on.
    pub seed: u64,
}

impl Options {
    /// Bytes that a workload works on which jumps about in memory, and each of four processes.
    pub fn share(&self) -> u64 {
        self.size / 4
    }

    /// Moves a buffer that is used next, where that was asked for.
    fn prefetch<T: Plain>(
        &self,
        executor: &dyn Executor,
        buffer: &Buffer<T>,
        to: Location,
    ) -> Result<()> {
        match self.prefetch {
            true => executor.prefetch(buffer.bytes(), to),
            false => Ok(()),
        }
    }
}

/// What a process says when it is ready to start with the others; it waits for a line then.
pub const READY: &str = "ready";

/// What a workload did.
#[derive(Clone, Debug, Default)]
pub struct Done {
    /// Bytes that the device worked on.
    pub bytes: u64,
    /// What is worth telling beyond that.
    pub note: String,
    /// What other processes did for it.
    pub parts: Vec<Workload>,
}

/// A workload: returns what it did, or an error, which is a [`crate::check::Mismatch`] where the
/// results differ.
pub type Run = fn(&dyn Executor, &Options) -> Result<Done>;

/// Workloads by name, in the order in which `all` runs them.
pub const ALL: [(&str, Run); 9] = [
    ("triad", triad::run),
    ("gemm", gemm::run),
    ("wordcount", wordcount::run),
    ("pingpong", pingpong::run),
    ("bfs", bfs::run),
    ("radix", radix::run),
    ("list", list::run),
    ("hashmap", hashmap::run),
    ("processes", processes::run),
];

#[cfg(test)]
pub mod tests {
    use std::ffi::c_void;

    use super::*;
    use crate::check::Mismatch;
    use crate::executor::tests::Cpu;

    /// Small enough for a debug build.
    pub fn options() -> Options {
        Options {
            size: 1 << 20,
            n: 24,
            rounds: 3,
            files: Vec::new(),
            graph: None,
            thp: Thp::Default,
            prefetch: false,
            device: None,
            seed: 0,
        }
    }

    /// Checks that a workload tells the place where `mistake` changes what the device computed.
    pub fn finds(workload: Run, mistake: fn(*mut c_void), place: &str) {
        let cpu = Cpu {
            mistake: Some(mistake),
            ..Cpu::new(1)
        };
        let error = workload(&cpu, &options()).unwrap_err();
        assert!(error.is::<Mismatch>(), "{error:#}");
        assert!(error.to_string().contains(place), "{error}");
    }
}
