// SPDX-License-Identifier: MIT OR Apache-2.0

//! The fault ring.

use std::sync::Mutex;

use crate::core::Core;
use crate::hw;
use crate::ring::{Place, Writer};
use crate::sync::lock;

/// The fault ring.
#[derive(Default)]
pub struct Faults {
    ring: Mutex<Option<Writer>>,
}

impl Faults {
    /// Starts it.
    pub fn start(&self, core: &Core, place: Place) {
        if place.is_valid() {
            let ring = Writer::start(core, &core.bus.dma(), place, hw::DOORBELL_FAULT);
            *lock(&self.ring) = ring;
        }
    }

    /// Takes it away.
    pub fn stop(&self) {
        *lock(&self.ring) = None;
    }

    /// Writes entries, without an interrupt. Those that do not fit are counted as lost.
    pub fn write(&self, core: &Core, entries: &mut [hw::FaultEntry]) {
        let mut guard = lock(&self.ring);
        let Some(ring) = guard.as_mut() else {
            return;
        };
        let dma = core.bus.dma();
        for entry in entries {
            core.mischief.fault(entry);
            ring.push(core, &dma, entry);
        }
    }
}
