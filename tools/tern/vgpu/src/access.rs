// SPDX-License-Identifier: MIT OR Apache-2.0

//! Access counters: which regions of system memory the compute engine uses much.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::Mutex;

use crate::core::Core;
use crate::hw;
use crate::ring::{Place, Writer};
use crate::sync::lock;

/// Counters there are. A region has one place, so another one may push it out.
const COUNTERS: usize = 4096;

#[derive(Clone, Copy, Default)]
struct Counter {
    asid: u32,
    region: u64,
    count: u32,
}

/// The counters and their ring.
pub struct AccessCounters {
    shift: AtomicU32,
    threshold: AtomicU32,
    ring: Mutex<Option<Writer>>,
    counters: Mutex<Vec<Counter>>,
}

impl Default for AccessCounters {
    fn default() -> Self {
        Self {
            shift: AtomicU32::new(0),
            threshold: AtomicU32::new(1),
            ring: Mutex::new(None),
            counters: Mutex::new(vec![Counter::default(); COUNTERS]),
        }
    }
}

impl AccessCounters {
    /// Starts its ring.
    pub fn start(&self, core: &Core, place: Place) {
        if place.is_valid() {
            let ring = Writer::start(core, &core.bus.dma(), place, hw::DOORBELL_ACCESS);
            *lock(&self.ring) = ring;
        }
    }

    /// Takes its ring away and sets all counters to 0.
    pub fn stop(&self) {
        *lock(&self.ring) = None;
        lock(&self.counters).fill(Counter::default());
    }

    /// [`hw::REG_ACCESS_SHIFT`].
    pub fn shift(&self) -> u32 {
        self.shift.load(Ordering::Relaxed)
    }

    /// Sets [`hw::REG_ACCESS_SHIFT`], and all counters to 0. Whether the value is a valid one.
    pub fn set_shift(&self, shift: u32) -> bool {
        let valid = matches!(shift, 0 | 16 | 21);
        if valid {
            self.shift.store(shift, Ordering::Relaxed);
            lock(&self.counters).fill(Counter::default());
        }
        valid
    }

    /// [`hw::REG_ACCESS_THRESHOLD`].
    pub fn threshold(&self) -> u32 {
        self.threshold.load(Ordering::Relaxed)
    }

    /// Sets [`hw::REG_ACCESS_THRESHOLD`]. Whether the value is a valid one.
    pub fn set_threshold(&self, threshold: u32) -> bool {
        if threshold > 0 {
            self.threshold.store(threshold, Ordering::Relaxed);
        }
        threshold > 0
    }

    /// Counts accesses of an address space, and writes entries for regions that reach the threshold.
    pub fn count(&self, core: &Core, asid: u32, addresses: &[u64]) {
        let (shift, threshold) = (self.shift(), self.threshold());
        if shift == 0 || addresses.is_empty() {
            return;
        }
        let mut entries = Vec::new();
        {
            let mut counters = lock(&self.counters);
            for address in addresses {
                let region = address >> shift;
                let place = region as usize ^ (asid as usize).wrapping_mul(0x9e37_79b1);
                let counter = &mut counters[place % COUNTERS];
                if (counter.asid, counter.region) != (asid, region) {
                    *counter = Counter {
                        asid,
                        region,
                        count: 0,
                    };
                }
                counter.count += 1;
                if counter.count >= threshold {
                    entries.push(hw::AccessEntry {
                        addr: region << shift,
                        asid,
                        count: std::mem::take(&mut counter.count),
                        reserved: [0; 2],
                    });
                }
            }
        }
        self.write(core, &entries);
    }

    fn write(&self, core: &Core, entries: &[hw::AccessEntry]) {
        let mut guard = lock(&self.ring);
        let Some(ring) = guard.as_mut().filter(|_| !entries.is_empty()) else {
            return;
        };
        let dma = core.bus.dma();
        for entry in entries {
            ring.push(core, &dma, entry);
        }
        core.irqs.raise(hw::VECTOR_ACCESS);
    }
}
