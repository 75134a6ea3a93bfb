// SPDX-License-Identifier: MIT OR Apache-2.0

//! What the device can reach: system memory, as far as it was mapped for DMA, and its own VRAM.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::mem::size_of;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{RwLock, RwLockReadGuard};

use crate::mem::{Mapping, Pod, Run};
use crate::sync;

#[derive(Default)]
struct System {
    /// By first address; they do not overlap.
    maps: BTreeMap<u64, Mapping>,
    /// Command.BusMaster of the configuration space.
    master: bool,
}

/// The device's way to memory.
///
/// Engines hold a [`Dma`] while they touch memory. Taking memory away waits for all of them, so
/// once [`unmap`](Self::unmap) has returned nobody uses a pointer into what is gone.
pub struct Bus {
    system: RwLock<System>,
    vram: Mapping,
    changes: AtomicU64,
}

impl Bus {
    /// Makes a bus with no system memory on it.
    pub fn new(vram: Mapping) -> Self {
        Self {
            system: RwLock::default(),
            vram,
            changes: AtomicU64::new(0),
        }
    }

    /// Gives access to memory until the result is dropped. One thread must not hold two of them.
    pub fn dma(&self) -> Dma<'_> {
        Dma {
            system: sync::read(&self.system),
            vram: &self.vram,
        }
    }

    /// Number of times that memory was taken away, or DMA was switched off. While it stays the same
    /// a pointer found earlier is still good, provided that a [`Dma`] is held.
    pub fn changes(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    /// Puts `len` bytes of `file` at system address `addr`.
    ///
    /// # Errors
    ///
    /// `InvalidInput` where the range wraps, overlaps another one, is not made of whole pages or is
    /// not in the file; else that of `mmap`.
    pub fn map(
        &self,
        addr: u64,
        len: u64,
        file: &File,
        offset: u64,
        writable: bool,
    ) -> io::Result<()> {
        let end = addr.checked_add(len).ok_or(io::ErrorKind::InvalidInput)?;
        if (addr | len | offset) & 0xfff != 0 {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let mapping = Mapping::new(file, offset, len, writable)?;
        let mut system = sync::write(&self.system);
        let below = system.maps.range(..end).next_back();
        if below.is_some_and(|(first, map)| first + map.len() > addr) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        system.maps.insert(addr, mapping);
        Ok(())
    }

    /// Takes away what lies wholly within `len` bytes at `addr`. Returns when nobody uses it.
    pub fn unmap(&self, addr: u64, len: u64) {
        let end = addr.saturating_add(len);
        self.change(|system| {
            system
                .maps
                .retain(|first, map| *first < addr || first + map.len() > end)
        });
    }

    /// Takes all system memory away. Returns when nobody uses it.
    pub fn unmap_all(&self) {
        self.change(|system| system.maps.clear());
    }

    /// Allows or forbids access to system memory.
    pub fn set_master(&self, on: bool) {
        self.change(|system| system.master = on);
    }

    fn change(&self, how: impl FnOnce(&mut System)) {
        let mut system = sync::write(&self.system);
        how(&mut system);
        self.changes.fetch_add(1, Ordering::Release);
    }
}

/// Access to memory that stays where it is while this is held.
pub struct Dma<'a> {
    system: RwLockReadGuard<'a, System>,
    vram: &'a Mapping,
}

impl Dma<'_> {
    /// The run of at most `max` bytes of system memory at `addr`; `None` if there is nothing, DMA
    /// is off, or `write` is asked of read-only memory.
    pub fn system(&self, addr: u64, max: u64, write: bool) -> Option<Run<'_>> {
        if !self.system.master {
            return None;
        }
        let (first, map) = self.system.maps.range(..=addr).next_back()?;
        map.run(addr - first, max, write)
    }

    /// The run of at most `max` bytes of VRAM at `offset`.
    pub fn vram(&self, offset: u64, max: u64) -> Option<Run<'_>> {
        self.vram.run(offset, max, true)
    }

    /// One of the two.
    pub fn run(&self, system: bool, addr: u64, max: u64, write: bool) -> Option<Run<'_>> {
        if system {
            self.system(addr, max, write)
        } else {
            self.vram(addr, max)
        }
    }

    /// Exactly `len` bytes, contiguous in the host.
    pub fn whole(&self, system: bool, addr: u64, len: u64, write: bool) -> Option<Run<'_>> {
        self.run(system, addr, len, write)
            .filter(|run| run.len() == len)
    }

    /// Whether all of `len` bytes at `addr` can be reached.
    pub fn reaches(&self, system: bool, addr: u64, len: u64, write: bool) -> bool {
        let mut done = 0;
        while done < len {
            let run = addr
                .checked_add(done)
                .and_then(|addr| self.run(system, addr, len - done, write));
            match run {
                Some(run) => done += run.len(),
                None => return false,
            }
        }
        true
    }

    /// Reads a layout from system memory.
    pub fn read<T: Pod>(&self, addr: u64) -> Option<T> {
        let run = self.whole(true, addr, size_of::<T>() as u64, false)?;
        Some(run.read())
    }

    /// The room for a layout in system memory, to be written.
    pub fn place<T: Pod>(&self, addr: u64) -> Option<Run<'_>> {
        self.whole(true, addr, size_of::<T>() as u64, true)
    }
}
