// SPDX-License-Identifier: MIT OR Apache-2.0

//! The workloads: each fills memory, has the device work on it and compares every byte of the
//! result with the CPU's own.

pub mod gemm;
pub mod pingpong;
pub mod triad;
pub mod wordcount;

use std::path::PathBuf;

use anyhow::Result;

use crate::executor::Executor;
use crate::memory::Thp;

/// Options of all workloads.
#[derive(Clone, Debug)]
pub struct Options {
    /// Bytes that a workload works on; gemm has its own measure.
    pub size: u64,
    /// Rows and columns of gemm's matrices.
    pub n: u64,
    /// Turns of ping-pong.
    pub rounds: u32,
    /// Files and directories whose words are counted.
    pub files: Vec<PathBuf>,
    /// Huge pages or not.
    pub thp: Thp,
}

/// What a workload did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Done {
    /// Bytes that the device worked on.
    pub bytes: u64,
    /// What is worth telling beyond that.
    pub note: String,
}

/// A workload: returns what it did, or an error, which is a [`crate::check::Mismatch`] where the
/// results differ.
pub type Run = fn(&dyn Executor, &Options) -> Result<Done>;

/// Workloads by name, in the order in which `all` runs them.
pub const ALL: [(&str, Run); 4] = [
    ("triad", triad::run),
    ("gemm", gemm::run),
    ("wordcount", wordcount::run),
    ("pingpong", pingpong::run),
];

#[cfg(test)]
pub mod tests {
    use super::*;

    /// Small enough for a debug build.
    pub fn options() -> Options {
        Options {
            size: 1 << 20,
            n: 24,
            rounds: 3,
            files: Vec::new(),
            thp: Thp::Default,
        }
    }
}
