// SPDX-License-Identifier: MIT OR Apache-2.0

//! The kernel series: from a manifest with patches and plain files to commits, and back.
//!
//! The repository holds the series as files: new kernel files stand at the path that they have
//! in the kernel, changes to existing ones are patch files, and the manifest (`series`) gives
//! the order. This crate turns that into one commit per entry on top of the pinned kernel
//! ([`mod@tree`]), and takes what was done to those commits back into the files.

pub mod apply;
pub mod base;
pub mod bisect;
pub mod check;
pub mod commits;
pub mod export;
pub mod fold;
pub mod git;
pub mod lock;
pub mod manifest;
pub mod naming;
pub mod patch;
pub mod progress;
pub mod refresh;
pub mod series;
pub mod tree;
pub mod worktree;
