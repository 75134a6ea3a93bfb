// SPDX-License-Identifier: MIT OR Apache-2.0

//! Runs a kernel in QEMU: one command or a shell in it (`tern-guest`), the
//! guest's first process (`tern-init`), the test suites (`tern-test`), and the tests
//! of what the series mends (`tern-prove`).
//!
//! The root file system of the guest is the directory tree that `tern-guest`
//! itself sees, exported read-only over 9p, so a program that runs here runs
//! there, and no disk image is built.

pub mod accel;
pub mod comparison;
pub mod follow;
pub mod init;
pub mod libtest;
pub mod logs;
pub mod options;
pub mod process;
pub mod proto;
pub mod prove;
pub mod qemu;
pub mod run;
pub mod runner;
pub mod splat;
pub mod suite;
pub mod tap;
pub mod terminal;
pub mod vgpu;
