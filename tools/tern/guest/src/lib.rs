// SPDX-License-Identifier: MIT OR Apache-2.0

//! Runs a kernel in QEMU: one command or a shell in it (`tern-guest`), the
//! guest's first process (`tern-init`), and the test suites (`tern-test`).
//!
//! The root file system of the guest is the directory tree that `tern-guest`
//! itself sees, exported read-only over 9p, so a program that runs here runs
//! there, and no disk image is built.

pub mod accel;
pub mod init;
pub mod libtest;
pub mod options;
pub mod paths;
pub mod process;
pub mod proto;
pub mod qemu;
pub mod run;
pub mod runner;
pub mod splat;
pub mod suite;
pub mod tap;
pub mod terminal;
pub mod vgpu;
