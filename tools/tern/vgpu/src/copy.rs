// SPDX-License-Identifier: MIT OR Apache-2.0

//! A copy engine: takes descriptors from its ring and moves bytes between VRAM and system memory.

use std::sync::Mutex;

use crate::bus::Dma;
use crate::core::Core;
use crate::hw;
use crate::ring::{Failure, Place, Reader};
use crate::sync::{lock, Signal};

/// Bytes moved before the engine looks whether it should stop.
const CHUNK: u64 = 256 << 10;

const FLAGS: u32 = hw::OP_FENCE | hw::OP_IRQ | hw::OP_SRC_SYSTEM | hw::OP_DST_SYSTEM;

/// One copy engine.
pub struct Copy {
    /// Set when there is something to do.
    pub signal: Signal,
    bell: usize,
    ring: Mutex<Option<Reader>>,
}

impl Copy {
    /// Makes engine `n`, without a ring.
    pub fn new(n: usize) -> Self {
        Self {
            signal: Signal::default(),
            bell: hw::DOORBELL_COPY + 8 * n,
            ring: Mutex::new(None),
        }
    }

    /// Starts its ring.
    pub fn start(&self, core: &Core, place: Place) {
        if place.is_valid() {
            let ring = Reader::start(core, &core.bus.dma(), place, self.bell, hw::VECTOR_COPY, 0);
            *lock(&self.ring) = ring;
        }
    }

    /// Takes its ring away. [`Core::running`] must be false already, so that it stops soon.
    pub fn stop(&self) {
        *lock(&self.ring) = None;
    }

    /// Wakes the engine if its doorbell was rung. One that is at work will look by itself.
    pub fn scan(&self, core: &Core) {
        if let Ok(ring) = self.ring.try_lock() {
            if ring.as_ref().is_some_and(|ring| ring.rung(core)) {
                self.signal.set();
            }
        } else {
            self.signal.set();
        }
    }

    /// Works until the ring is empty or the device stops.
    pub fn process(&self, core: &Core) {
        let mut guard = lock(&self.ring);
        let Some(ring) = guard.as_mut() else {
            return;
        };
        while core.running() {
            let Some(packet) = ring.take(core, &core.bus.dma()) else {
                break;
            };
            let Some(outcome) = execute(core, &packet) else {
                break;
            };
            ring.finish(core, &core.bus.dma(), &packet, outcome);
        }
    }
}

/// Carries out a packet; `None` if the device stops meanwhile.
fn execute(core: &Core, packet: &hw::CopyPacket) -> Option<Result<u64, Failure>> {
    let op = packet.op & hw::OP_MASK;
    let bad = packet.op & !(hw::OP_MASK | FLAGS) != 0 || packet.reserved != [0; 3];
    let failure = |status, info| Some(Err(Failure::new(status, info)));
    match op {
        _ if bad => failure(hw::COMPLETE_BAD_PACKET, 0),
        hw::OP_NOP => Some(Ok(0)),
        hw::OP_COPY | hw::OP_FILL if (1..=hw::MAX_COPY).contains(&packet.length) => {
            transfer(core, packet)
        }
        _ => failure(hw::COMPLETE_BAD_PACKET, 0),
    }
}

fn transfer(core: &Core, packet: &hw::CopyPacket) -> Option<Result<u64, Failure>> {
    let length = u64::from(packet.length);
    if let Err(failure) = check(&core.bus.dma(), packet) {
        return Some(Err(failure));
    }
    let mut done = 0;
    while done < length {
        if !core.running() {
            return None;
        }
        // Memory can be unmapped between two steps, so it is looked up anew.
        match step(&core.bus.dma(), packet, done) {
            Ok(moved) => done += moved,
            Err(failure) => return Some(Err(failure)),
        }
    }
    Some(Ok(length))
}

/// Checks both ranges, so that a packet that is wrong does nothing.
fn check(dma: &Dma<'_>, packet: &hw::CopyPacket) -> Result<(), Failure> {
    let length = u64::from(packet.length);
    let source = packet.op & hw::OP_SRC_SYSTEM != 0;
    let target = packet.op & hw::OP_DST_SYSTEM != 0;
    let fill = packet.op & hw::OP_MASK == hw::OP_FILL;
    if !fill && !dma.reaches(source, packet.src, length, false) {
        return Err(bad_address(packet.src, hw::ACCESS_READ));
    }
    if !dma.reaches(target, packet.dst, length, true) {
        return Err(bad_address(packet.dst, hw::ACCESS_WRITE));
    }
    Ok(())
}

fn bad_address(info: u64, access: u32) -> Failure {
    Failure {
        status: hw::COMPLETE_BAD_ADDRESS,
        access,
        info,
    }
}

/// Moves some of the bytes behind the first `done`, and returns how many.
fn step(dma: &Dma<'_>, packet: &hw::CopyPacket, done: u64) -> Result<u64, Failure> {
    let rest = (u64::from(packet.length) - done).min(CHUNK);
    let dst = packet.dst + done;
    let target = dma
        .run(packet.op & hw::OP_DST_SYSTEM != 0, dst, rest, true)
        .ok_or(bad_address(dst, hw::ACCESS_WRITE))?;
    if packet.op & hw::OP_MASK == hw::OP_FILL {
        target.fill(target.len(), packet.src, done);
        return Ok(target.len());
    }
    let src = packet.src + done;
    let source = dma
        .run(packet.op & hw::OP_SRC_SYSTEM != 0, src, target.len(), false)
        .ok_or(bad_address(src, hw::ACCESS_READ))?;
    target.copy_from(&source, source.len());
    Ok(source.len())
}
