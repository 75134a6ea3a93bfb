// SPDX-License-Identifier: MIT OR Apache-2.0

//! MSI-X: one event file per vector, given by the other end of the socket.

use std::fs::File;
use std::io::Write;
use std::sync::Mutex;

use crate::hw;
use crate::sync::lock;

const VECTORS: usize = hw::VECTORS as usize;

#[derive(Default)]
struct Vectors {
    files: [Option<File>; VECTORS],
    /// Vectors that were raised and not yet delivered, a bit each, as in the pending-bit array.
    pending: u64,
    /// Command.BusMaster of the configuration space.
    master: bool,
}

impl Vectors {
    /// Delivers what is pending, as far as it can be.
    fn deliver(&mut self) {
        if !self.master {
            return;
        }
        for (vector, file) in self.files.iter_mut().enumerate() {
            if let (true, Some(file)) = (self.pending >> vector & 1 != 0, file) {
                signal(file);
                self.pending &= !(1 << vector);
            }
        }
    }
}

/// The interrupt vectors.
#[derive(Default)]
pub struct Irqs {
    vectors: Mutex<Vectors>,
}

fn signal(file: &mut File) {
    // The counter of an event file can only overflow after 2^64 - 2 interrupts that nobody took.
    if let Err(error) = file.write_all(&1u64.to_ne_bytes()) {
        tracing::warn!(%error, "an interrupt could not be delivered");
    }
}

impl Irqs {
    /// Allows or forbids interrupts, which are memory writes as far as PCI is concerned.
    pub fn set_master(&self, on: bool) {
        let mut vectors = lock(&self.vectors);
        vectors.master = on;
        vectors.deliver();
    }

    /// Raises a vector, unless interrupts are forbidden. Without a file for it, it becomes pending.
    /// Other numbers are ignored.
    pub fn raise(&self, vector: u32) {
        let mut vectors = lock(&self.vectors);
        if vectors.master && vector < hw::VECTORS {
            vectors.pending |= 1 << vector;
            vectors.deliver();
        }
    }

    /// Sets or removes the file of a vector. Other numbers are ignored.
    pub fn set(&self, vector: u32, file: Option<File>) {
        let mut vectors = lock(&self.vectors);
        if let Some(slot) = vectors.files.get_mut(vector as usize) {
            *slot = file;
            vectors.deliver();
        }
    }

    /// Removes all files and forgets what is pending.
    pub fn clear(&self) {
        let mut vectors = lock(&self.vectors);
        vectors.files = Default::default();
        vectors.pending = 0;
    }

    /// Forbids interrupts and forgets what is pending, as a reset of the function does.
    pub fn reset(&self) {
        let mut vectors = lock(&self.vectors);
        vectors.master = false;
        vectors.pending = 0;
    }

    /// The pending-bit array.
    pub fn pending(&self) -> u64 {
        lock(&self.vectors).pending
    }
}
