// SPDX-License-Identifier: MIT OR Apache-2.0

//! The doorbells: the half of BAR 0 that the guest writes without our noticing.

use std::fs::File;
use std::io;
use std::sync::atomic::{fence, Ordering};

use crate::hw;
use crate::mem::{memfd, Mapping, Run};

/// The doorbell pages. Offsets are those of BAR 0.
pub struct Bells {
    map: Mapping,
}

impl Bells {
    /// Makes them, with the file that the guest maps; of the file, the first half is unused, so that
    /// offsets are those of the BAR.
    ///
    /// # Errors
    ///
    /// Those of the system calls.
    pub fn new() -> io::Result<(Self, File)> {
        let file = memfd(c"tern-doorbells", hw::REGS_SIZE as u64)?;
        let map = Mapping::new(&file, 0, hw::REGS_SIZE as u64, true)?;
        Ok((Self { map }, file))
    }

    /// The run of `len` bytes at `offset`; `None` if it is not all doorbells.
    pub fn run(&self, offset: u64, len: u64) -> Option<Run<'_>> {
        if offset < hw::DOORBELL_BASE as u64 {
            return None;
        }
        self.map.run(offset, len, true).filter(|r| r.len() == len)
    }

    fn all(&self) -> Run<'_> {
        self.map
            .run(0, hw::REGS_SIZE as u64, true)
            .expect("the mapping has this size")
    }

    /// Reads a doorbell. What the guest wrote before it rang is visible then.
    ///
    /// # Panics
    ///
    /// If there is no doorbell at `offset`.
    pub fn load(&self, offset: usize) -> u64 {
        self.all().load(offset as u64)
    }

    /// Sets a doorbell.
    ///
    /// # Panics
    ///
    /// If there is no doorbell at `offset`.
    pub fn store(&self, offset: usize, value: u64) {
        self.all().store(offset as u64, value);
    }

    /// Tells the guest whether a KICK is needed. Doorbells that are read after this was switched off
    /// show everything that the guest rang without a KICK.
    pub fn set_polling(&self, on: bool) {
        self.store(
            hw::DOORBELL_STATE,
            if on { hw::DOORBELL_POLLING } else { 0 },
        );
        fence(Ordering::SeqCst);
    }

    /// Sets all doorbells to 0.
    pub fn clear(&self) {
        for offset in (hw::DOORBELL_BASE..hw::REGS_SIZE).step_by(8) {
            self.store(offset, 0);
        }
    }
}
