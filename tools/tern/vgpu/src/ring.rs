// SPDX-License-Identifier: MIT OR Apache-2.0

//! Rings in system memory: those that the device reads and those that it writes.

use std::mem::size_of;

use crate::bus::Dma;
use crate::core::{Completion, Core};
use crate::hw;
use crate::mem::Pod;

/// Where a ring is.
#[derive(Clone, Copy, Default, Debug)]
pub struct Place {
    /// Address of the entries.
    pub base: u64,
    /// Address of the write-back block.
    pub writeback: u64,
    /// log2 of the number of entries; 0 is no ring.
    pub log2: u32,
}

impl Place {
    /// Whether all values are ones that a ring can have.
    pub fn is_valid(&self) -> bool {
        self.base % 4096 == 0
            && self.writeback % size_of::<hw::Writeback>() as u64 == 0
            && (1..=hw::MAX_RING_LOG2).contains(&self.log2)
    }

    fn entry<T>(&self, index: u64) -> u64 {
        let slot = index & ((1 << self.log2) - 1);
        self.base.wrapping_add(slot * size_of::<T>() as u64)
    }

    /// Writes the whole write-back block of a ring that starts. Whether that could be done.
    fn begin(&self, core: &Core, dma: &Dma<'_>, state: u64) -> bool {
        let block = hw::Writeback {
            state,
            ..Default::default()
        };
        let place = dma.place::<hw::Writeback>(self.writeback);
        match place {
            Some(place) => place.write(&block),
            None => core.error(hw::ERROR_DMA, self.writeback),
        }
        place.is_some()
    }

    fn write_back(&self, core: &Core, dma: &Dma<'_>, offset: u64, value: u64) {
        match dma.place::<hw::Writeback>(self.writeback) {
            Some(place) => place.store(offset, value),
            None => core.error(hw::ERROR_DMA, self.writeback),
        }
    }
}

const INDEX: u64 = std::mem::offset_of!(hw::Writeback, index) as u64;
const OVERFLOW: u64 = std::mem::offset_of!(hw::Writeback, overflow) as u64;
const STATE: u64 = std::mem::offset_of!(hw::Writeback, state) as u64;

/// How a packet ended, other than well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failure {
    /// `COMPLETE_*`.
    pub status: u32,
    /// `ACCESS_*`.
    pub access: u32,
    /// Address or instruction.
    pub info: u64,
}

impl Failure {
    /// A failure about an address, or about nothing in particular (`info` 0).
    pub fn new(status: u32, info: u64) -> Self {
        Self {
            status,
            access: 0,
            info,
        }
    }
}

/// The first word and the fence of a packet, which all of them have.
pub trait Packet: Pod {
    /// Its first word.
    fn op(&self) -> u32;
    /// Address and value of its fence.
    fn fence(&self) -> (u64, u64);
}

macro_rules! packet {
    ($($name:ident),*) => {$(
        impl Packet for hw::$name {
            fn op(&self) -> u32 {
                self.op
            }
            fn fence(&self) -> (u64, u64) {
                (self.fence_addr, self.fence_value)
            }
        }
    )*};
}

packet!(CopyPacket, ControlPacket, DispatchPacket);

/// A ring that the device reads.
pub struct Reader {
    place: Place,
    bell: usize,
    vector: u32,
    taken: u64,
    halted: bool,
    /// What the next fence says about the packets since the last one.
    failure: Option<Failure>,
    count: u64,
}

impl Reader {
    /// Starts a ring at index 0; `None` (and an error) if its write-back block is out of reach.
    pub fn start(
        core: &Core,
        dma: &Dma<'_>,
        place: Place,
        bell: usize,
        vector: u32,
        state: u64,
    ) -> Option<Self> {
        place.begin(core, dma, state).then_some(Self {
            place,
            bell,
            vector,
            taken: 0,
            halted: false,
            failure: None,
            count: 0,
        })
    }

    /// Whether the doorbell shows something new.
    pub fn rung(&self, core: &Core) -> bool {
        !self.halted && core.bells.load(self.bell) != self.taken
    }

    /// Packets taken so far.
    pub fn taken(&self) -> u64 {
        self.taken
    }

    /// Whether an error in the ring itself has stopped it.
    pub fn halted(&self) -> bool {
        self.halted
    }

    /// Takes the next packet, if there is one. An error in the ring halts it.
    pub fn take<T: Packet>(&mut self, core: &Core, dma: &Dma<'_>) -> Option<T> {
        if self.halted {
            return None;
        }
        let ahead = core.bells.load(self.bell).wrapping_sub(self.taken);
        if ahead == 0 {
            return None;
        }
        if ahead > 1 << self.place.log2 {
            self.halt(core, hw::ERROR_RING, self.bell as u64);
            return None;
        }
        let addr = self.place.entry::<T>(self.taken);
        let Some(packet) = dma.read(addr) else {
            self.halt(core, hw::ERROR_DMA, addr);
            return None;
        };
        self.taken = self.taken.wrapping_add(1);
        self.place.write_back(core, dma, INDEX, self.taken);
        Some(packet)
    }

    fn halt(&mut self, core: &Core, error: u32, info: u64) {
        self.halted = true;
        core.error(error, info);
    }

    /// Writes the state of a compute queue.
    pub fn write_state(&self, core: &Core, dma: &Dma<'_>, state: u64) {
        self.place.write_back(core, dma, STATE, state);
    }

    /// Notes the outcome of a packet, and writes its fence and raises its vector if it says so.
    pub fn finish(
        &mut self,
        core: &Core,
        dma: &Dma<'_>,
        packet: &impl Packet,
        outcome: Result<u64, Failure>,
    ) {
        match outcome {
            Ok(count) => self.count += count,
            Err(failure) => {
                if failure.status == hw::COMPLETE_BAD_PACKET {
                    core.error(hw::ERROR_PACKET, self.bell as u64);
                }
                self.failure.get_or_insert(failure);
            }
        }
        let vector = (packet.op() & hw::OP_IRQ != 0).then_some(self.vector);
        let mut fence = hw::Fence::default();
        let mut at = None;
        if packet.op() & hw::OP_FENCE != 0 {
            let (addr, value) = packet.fence();
            at = Some(addr);
            fence.value = value;
            fence.count = std::mem::take(&mut self.count);
            if let Some(failure) = self.failure.take() {
                fence.status = failure.status;
                fence.access = failure.access;
                fence.info = failure.info;
            }
        }
        if at.is_some() || vector.is_some() {
            let completion = Completion {
                bell: self.bell,
                addr: at,
                fence,
                vector,
            };
            core.complete(dma, completion);
        }
    }

    /// Adds to the count of the next fence, for work of a packet that fails.
    pub fn add_count(&mut self, count: u64) {
        self.count += count;
    }
}

/// A ring that the device writes.
pub struct Writer {
    place: Place,
    bell: usize,
    put: u64,
    overflow: u64,
    broken: bool,
}

impl Writer {
    /// Starts a ring at index 0; `None` (and an error) if its write-back block is out of reach.
    pub fn start(core: &Core, dma: &Dma<'_>, place: Place, bell: usize) -> Option<Self> {
        place.begin(core, dma, 0).then_some(Self {
            place,
            bell,
            put: 0,
            overflow: 0,
            broken: false,
        })
    }

    /// Appends an entry, or counts it as lost where the ring is full.
    pub fn push<T: Pod>(&mut self, core: &Core, dma: &Dma<'_>, entry: &T) {
        if self.write(core, dma, entry) {
            self.put = self.put.wrapping_add(1);
            let index = core.mischief.index(self.put, 1 << self.place.log2);
            self.place.write_back(core, dma, INDEX, index);
        } else {
            self.overflow += 1;
            self.place.write_back(core, dma, OVERFLOW, self.overflow);
        }
    }

    /// Writes an entry behind the others, if there is room.
    fn write<T: Pod>(&mut self, core: &Core, dma: &Dma<'_>, entry: &T) -> bool {
        let used = self.put.wrapping_sub(core.bells.load(self.bell));
        let size = 1 << self.place.log2;
        if used > size {
            // Reported once: the ring counts as full until the index makes sense again.
            if !std::mem::replace(&mut self.broken, true) {
                core.error(hw::ERROR_RING, self.bell as u64);
            }
            return false;
        }
        self.broken = false;
        if used == size {
            return false;
        }
        let addr = self.place.entry::<T>(self.put);
        let place = dma.place::<T>(addr);
        match place {
            Some(place) => place.write(entry),
            None => core.error(hw::ERROR_DMA, addr),
        }
        place.is_some()
    }
}
