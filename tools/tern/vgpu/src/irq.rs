// SPDX-License-Identifier: MIT OR Apache-2.0

//! MSI-X: one event file per vector, given by the other end of the socket.

use std::fs::File;
use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Mutex;

use crate::hw;
use crate::sync::lock;

const VECTORS: usize = hw::VECTORS as usize;

#[derive(Default)]
struct Vectors {
    files: [Option<File>; VECTORS],
    /// Vectors raised while they had no file, a bit each, as in the pending-bit array.
    pending: u64,
}

/// The interrupt vectors.
#[derive(Default)]
pub struct Irqs {
    vectors: Mutex<Vectors>,
    master: AtomicBool,
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
        self.master.store(on, Ordering::Release);
    }

    /// Raises a vector. Without a file for it, it becomes pending.
    pub fn raise(&self, vector: u32) {
        if !self.master.load(Ordering::Acquire) {
            return;
        }
        let mut vectors = lock(&self.vectors);
        match vectors.files.get_mut(vector as usize) {
            Some(Some(file)) => signal(file),
            Some(None) => vectors.pending |= 1 << vector,
            None => {}
        }
    }

    /// Sets or removes the file of a vector. One that is pending is raised now. Other numbers are
    /// ignored.
    pub fn set(&self, vector: u32, file: Option<File>) {
        let mut vectors = lock(&self.vectors);
        let raise = vectors.pending >> vector.min(63) & 1 != 0 && file.is_some();
        let Some(slot) = vectors.files.get_mut(vector as usize) else {
            return;
        };
        *slot = file;
        if let (true, Some(file)) = (raise, slot) {
            signal(file);
            vectors.pending &= !(1 << vector);
        }
    }

    /// Removes all files and forgets what is pending.
    pub fn clear(&self) {
        *lock(&self.vectors) = Vectors::default();
    }

    /// The pending-bit array.
    pub fn pending(&self) -> u64 {
        lock(&self.vectors).pending
    }
}
