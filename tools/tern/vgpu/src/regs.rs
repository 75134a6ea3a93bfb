// SPDX-License-Identifier: MIT OR Apache-2.0

//! The registers, as far as they hold what was written to them.

use crate::hw;
use crate::ring::Place;

/// Ring of the control packets, as an index into [`Regs::rings`].
pub const CTRL: usize = 0;
/// Fault ring.
pub const FAULT: usize = 1;
/// Access-counter ring.
pub const ACCESS: usize = 2;
/// First copy ring.
pub const COPY: usize = 3;
const RINGS: usize = COPY + hw::MAX_COPY_ENGINES as usize;

/// Registers that hold a value.
#[derive(Clone, Default)]
pub struct Regs {
    /// [`hw::CONTROL_ENABLE`] is set.
    pub enabled: bool,
    /// The rings.
    pub rings: [Place; RINGS],
}

/// What a register is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// One of its own, at this offset.
    Plain(usize),
    /// Register at an offset in the block of a ring.
    Ring(usize, usize),
}

/// Finds the register that holds the byte at `offset`: what it is, its offset and its width.
pub fn find(offset: usize, copy_engines: u32) -> Option<(Kind, usize, usize)> {
    const FOUR: [usize; 12] = [
        hw::REG_ID,
        hw::REG_VERSION,
        hw::REG_COPY_ENGINES,
        hw::REG_RESIDENT_THREADS,
        hw::REG_CONTROL,
        hw::REG_STATUS,
        hw::REG_KICK,
        hw::REG_ERROR,
        hw::REG_AS_LOG2,
        hw::REG_QUEUE_LOG2,
        hw::REG_ACCESS_SHIFT,
        hw::REG_ACCESS_THRESHOLD,
    ];
    const EIGHT: [usize; 6] = [
        hw::REG_VRAM_SIZE,
        hw::REG_APERTURE_SIZE,
        hw::REG_TIMESTAMP,
        hw::REG_ERROR_INFO,
        hw::REG_AS_BASE,
        hw::REG_QUEUE_BASE,
    ];
    if let Some(base) = FOUR.into_iter().find(|r| offset & !3 == *r) {
        return Some((Kind::Plain(base), base, 4));
    }
    if let Some(base) = EIGHT.into_iter().find(|r| offset & !7 == *r) {
        return Some((Kind::Plain(base), base, 8));
    }
    let (ring, block) = ring(offset, copy_engines as usize)?;
    let (register, width) = match offset - block {
        0x00..=0x07 => (hw::RING_BASE, 8),
        0x08..=0x0f => (hw::RING_WRITEBACK, 8),
        0x10..=0x13 => (hw::RING_LOG2, 4),
        _ => return None,
    };
    Some((Kind::Ring(ring, register), block + register, width))
}

/// Finds the ring whose block holds the byte at `offset`, and the offset of the block.
fn ring(offset: usize, copy_engines: usize) -> Option<(usize, usize)> {
    let fixed = [hw::REG_CTRL_RING, hw::REG_FAULT_RING, hw::REG_ACCESS_RING];
    let copy = (0..copy_engines).map(|n| hw::REG_COPY_RING + n * hw::RING_STRIDE);
    fixed
        .into_iter()
        .chain(copy)
        .enumerate()
        .find(|(_, block)| (*block..block + hw::RING_STRIDE).contains(&offset))
}

impl Regs {
    /// Reads a register of a ring.
    pub fn ring(&self, ring: usize, register: usize) -> u64 {
        let place = &self.rings[ring];
        match register {
            hw::RING_BASE => place.base,
            hw::RING_WRITEBACK => place.writeback,
            _ => place.log2.into(),
        }
    }

    /// Writes a register of a ring. Whether the ring takes the value.
    pub fn set_ring(&mut self, ring: usize, register: usize, value: u64) -> bool {
        let place = &mut self.rings[ring];
        let aligned = |to| value % to == 0;
        match register {
            _ if self.enabled => return false,
            hw::RING_BASE if aligned(4096) => place.base = value,
            hw::RING_WRITEBACK if aligned(64) => place.writeback = value,
            hw::RING_LOG2 if value <= hw::MAX_RING_LOG2.into() => place.log2 = value as u32,
            _ => return false,
        }
        true
    }
}
