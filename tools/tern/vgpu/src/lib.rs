// SPDX-License-Identifier: MIT OR Apache-2.0

//! A virtual PCI GPU: what `Documentation/gpu/tern-hw.rst` describes, behind a vfio-user socket.
//!
//! [`device::Running`] is the device with its threads, [`server::Socket`] puts it on a socket. Each
//! engine has a module of its own; [`core::Core`] is what they share.

// Shifts within `|` and `&` are how bit fields are written.
#![allow(clippy::precedence)]

#[path = "../../../../drivers/gpu/drm/tern/hw.rs"]
pub mod hw;

pub mod access;
pub mod bells;
pub mod bus;
pub mod compute;
pub mod config;
pub mod control;
pub mod copy;
pub mod core;
pub mod device;
pub mod fault;
pub mod irq;
mod job;
pub mod mem;
pub mod misbehave;
pub mod mmu;
pub mod options;
pub mod regs;
pub mod ring;
pub mod rv64;
pub mod server;
pub mod sync;
