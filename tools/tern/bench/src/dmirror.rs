// SPDX-License-Identifier: MIT OR Apache-2.0

//! The kernel's HMM test device, `lib/test_hmm`.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::Command;

use anyhow::{ensure, Context, Result};

use crate::region::{Region, PAGE};

/// `struct hmm_dmirror_cmd`
#[repr(C)]
#[derive(Default)]
struct Cmd {
    addr: u64,
    ptr: u64,
    npages: u64,
    cpages: u64,
    faults: u64,
}

/// Numbers of the calls, in the group `H`.
const READ: u8 = 0;
const MIGRATE_TO_DEV: u8 = 2;

/// An open device that mirrors the memory of this process.
pub struct Mirror(File);

impl Mirror {
    /// Loads the kernel's module and opens its device.
    ///
    /// # Errors
    ///
    /// Where there is none.
    pub fn open() -> Result<Self> {
        Self::load(Command::new("modprobe").arg("test_hmm"))
    }

    /// The same with a module that is a file.
    ///
    /// # Errors
    ///
    /// Where it does not fit the kernel, or one is loaded.
    pub fn of(module: &Path) -> Result<Self> {
        Self::load(Command::new("insmod").arg(module))
    }

    fn load(command: &mut Command) -> Result<Self> {
        let loaded = command.status();
        let loaded = loaded.context("cannot run what loads modules")?.success();
        ensure!(loaded, "the module test_hmm cannot be loaded");
        let file = File::options()
            .read(true)
            .write(true)
            .open("/dev/hmm_dmirror0");
        Ok(Self(file.context("cannot open /dev/hmm_dmirror0")?))
    }

    /// Moves all of `region` to the device. The call ends with a copy of what the device has
    /// there to `copy`; [`Mirror::read`] is that alone.
    ///
    /// # Errors
    ///
    /// Where the call fails, or less moves.
    pub fn migrate_to_device(&self, region: &Region, copy: &mut Region) -> Result<()> {
        self.call(MIGRATE_TO_DEV, region, copy)
    }

    /// Copies what the device has for `region` to `copy`.
    ///
    /// # Errors
    ///
    /// Where the call fails, or less is copied.
    pub fn read(&self, region: &Region, copy: &mut Region) -> Result<()> {
        self.call(READ, region, copy)
    }

    fn call(&self, number: u8, region: &Region, copy: &mut Region) -> Result<()> {
        ensure!(copy.len() >= region.len(), "the copy has too little room");
        let pages = (region.len() / PAGE) as u64;
        let mut cmd = Cmd {
            addr: region.word(0) as u64,
            ptr: copy.word(0) as u64,
            npages: pages,
            ..Default::default()
        };
        // _IOWR('H', number, struct hmm_dmirror_cmd)
        let request = 3 << 30 | (size_of::<Cmd>() as u64) << 16 | u64::from(b'H') << 8;
        let request = request | u64::from(number);
        // SAFETY: the argument is what the call takes, and `copy` has room for all pages.
        let status = unsafe { libc::ioctl(self.0.as_raw_fd(), request as _, &mut cmd) };
        if status != 0 {
            return Err(io::Error::last_os_error()).context("test_hmm fails");
        }
        ensure!(
            cmd.cpages == pages,
            "test_hmm moves {} of {pages} pages",
            cmd.cpages
        );
        Ok(())
    }
}
