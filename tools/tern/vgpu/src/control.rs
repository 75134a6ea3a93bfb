// SPDX-License-Identifier: MIT OR Apache-2.0

//! The control ring: invalidation, replay, cancel, start and stop of queues.

use std::sync::Mutex;

use crate::compute::Compute;
use crate::core::Core;
use crate::hw;
use crate::ring::{Failure, Place, Reader};
use crate::sync::{lock, Signal};

const FLAGS: u32 = hw::OP_FENCE | hw::OP_IRQ;

/// The control ring.
#[derive(Default)]
pub struct Control {
    /// Set when there is something to do.
    pub signal: Signal,
    ring: Mutex<Option<Reader>>,
}

impl Control {
    /// Starts it.
    pub fn start(&self, core: &Core, place: Place) {
        if place.is_valid() {
            let (bell, vector) = (hw::DOORBELL_CTRL, hw::VECTOR_COMPUTE);
            *lock(&self.ring) = Reader::start(core, &core.bus.dma(), place, bell, vector, 0);
        }
    }

    /// Takes it away. [`Core::running`] must be false already, so that it stops soon.
    pub fn stop(&self) {
        *lock(&self.ring) = None;
    }

    /// Wakes its thread if the doorbell was rung, or may have been.
    pub fn scan(&self, core: &Core) {
        match self.ring.try_lock() {
            Ok(ring) if !ring.as_ref().is_some_and(|ring| ring.rung(core)) => {}
            _ => self.signal.set(),
        }
    }

    /// Works until the ring is empty or the device stops.
    pub fn process(&self, core: &Core, compute: &Compute) {
        let mut guard = lock(&self.ring);
        let Some(ring) = guard.as_mut() else {
            return;
        };
        while core.running() {
            let Some(packet) = ring.take(core, &core.bus.dma()) else {
                break;
            };
            let outcome = execute(core, compute, &packet);
            ring.finish(core, &core.bus.dma(), &packet, outcome.map(|()| 0));
        }
    }
}

fn execute(core: &Core, compute: &Compute, packet: &hw::ControlPacket) -> Result<(), Failure> {
    let bad = Err(Failure::new(hw::COMPLETE_BAD_PACKET, 0));
    let zero = packet.reserved0 == 0 && packet.reserved == [0; 2];
    if packet.op & !(hw::OP_MASK | FLAGS) != 0 || !zero {
        return bad;
    }
    match packet.op & hw::OP_MASK {
        hw::OP_NOP => Ok(()),
        hw::OP_INVALIDATE if packet.start <= packet.last => {
            compute
                .shootdown
                .invalidate(packet.id, packet.start, packet.last);
            Ok(())
        }
        hw::OP_REPLAY => {
            compute.replay(core);
            Ok(())
        }
        hw::OP_CANCEL if packet.arg <= hw::ACCESS_FETCH => {
            let failure = Failure {
                status: hw::COMPLETE_FAULT,
                access: packet.arg,
                info: packet.start,
            };
            compute.cancel(core, packet.id, packet.last, failure);
            Ok(())
        }
        hw::OP_QUEUE_START => compute.start_queue(core, packet.id),
        hw::OP_QUEUE_STOP => {
            compute.stop_queue(core, packet.id);
            Ok(())
        }
        _ => bad,
    }
}
