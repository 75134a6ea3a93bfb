// SPDX-License-Identifier: MIT OR Apache-2.0

//! Address translation: page tables, the buffers that keep translations, and their invalidation.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, RwLock, RwLockReadGuard};

use crate::bus::Dma;
use crate::core::{Core, Tables};
use crate::hw;
use crate::rv64::{Access, Memory, Miss, Translation};
use crate::sync::{lock, read, write};

const PAGE_SHIFT: u32 = 12;
/// Leaf sizes, as shifts, with the number of translations kept for each.
const SIZES: [(u32, usize); 3] = [(PAGE_SHIFT, 1024), (16, 256), (21, 256)];
/// Address bits that one level decodes.
const LEVEL_BITS: u32 = 9;
/// Bits of an entry that must be 0; those above the address are ignored.
const RESERVED: u64 = 0xfc0;
/// Invalidations remembered for engines that have not seen them yet.
const RECENT: usize = 64;

/// A leaf of a page table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leaf {
    /// First byte: system address or VRAM offset.
    pub addr: u64,
    /// log2 of its size: 12, 16 or 21.
    pub shift: u32,
    /// `ENTRY_*`.
    pub flags: u64,
}

/// Why a walk found no leaf.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failed {
    /// `FAULT_*`: the driver can repair it.
    Fault(u32),
    /// The tables make no sense.
    Malformed,
}

/// Finds the entry of the root table in the table of address spaces.
fn root(core: &Core, dma: &Dma<'_>, tables: &Tables, asid: u32) -> Result<u64, Failed> {
    if u64::from(asid) >= 1 << tables.as_log2.load(Ordering::Acquire) {
        return Err(Failed::Malformed);
    }
    let size = size_of::<hw::AddressSpace>() as u64;
    let base = tables.as_base.load(Ordering::Acquire);
    let addr = base.wrapping_add(u64::from(asid) * size);
    let Some(space) = dma.read::<hw::AddressSpace>(addr) else {
        core.error(hw::ERROR_DMA, addr);
        return Err(Failed::Malformed);
    };
    let valid = space.root & hw::ENTRY_VALID != 0;
    let must_be_zero = space.root & (RESERVED | hw::ENTRY_LEAF | hw::ENTRY_64K) | space.reserved;
    if valid && must_be_zero != 0 {
        return Err(Failed::Malformed);
    }
    Ok(space.root)
}

/// Walks the tables under `entry`, the root's, down to the leaf of `va`.
///
/// # Errors
///
/// [`Failed`] where there is none.
pub fn walk(dma: &Dma<'_>, mut entry: u64, va: u64) -> Result<Leaf, Failed> {
    if va >> hw::VA_BITS != 0 {
        return Err(Failed::Fault(hw::FAULT_RANGE));
    }
    for level in (0..hw::LEVELS as u32).rev() {
        if entry & hw::ENTRY_VALID == 0 {
            return Err(Failed::Fault(hw::FAULT_ABSENT));
        }
        let shift = PAGE_SHIFT + LEVEL_BITS * level;
        let index = va >> shift & ((1 << LEVEL_BITS) - 1);
        let addr = (entry & hw::ENTRY_ADDR) + 8 * index;
        let table = dma.whole(entry & hw::ENTRY_SYSTEM != 0, addr, 8, false);
        entry = table.ok_or(Failed::Malformed)?.load(0);
        if entry & hw::ENTRY_VALID == 0 {
            return Err(Failed::Fault(hw::FAULT_ABSENT));
        }
        if let Some(leaf) = leaf(entry, level, index)? {
            return Ok(leaf);
        }
    }
    Err(Failed::Malformed)
}

/// Tells a leaf from a table, and what is neither from both.
fn leaf(entry: u64, level: u32, index: u64) -> Result<Option<Leaf>, Failed> {
    let addr = entry & hw::ENTRY_ADDR;
    let is_leaf = entry & hw::ENTRY_LEAF != 0;
    let group = entry & hw::ENTRY_64K != 0;
    let (shift, good) = match level {
        0 if group => (16, is_leaf && addr >> PAGE_SHIFT & 15 == index & 15),
        0 => (PAGE_SHIFT, is_leaf),
        1 if is_leaf => (21, !group && addr % (1 << 21) == 0),
        _ => (0, !group && !is_leaf),
    };
    if !good || entry & RESERVED != 0 {
        return Err(Failed::Malformed);
    }
    Ok((shift != 0).then_some(Leaf {
        addr: addr >> shift << shift,
        shift,
        flags: entry,
    }))
}

/// Whether a leaf with these flags allows an access.
fn allows(flags: u64, access: Access) -> bool {
    let needed = match access {
        Access::Read | Access::Fetch => 0,
        Access::Write => hw::ENTRY_WRITE,
        Access::Atomic => hw::ENTRY_WRITE | hw::ENTRY_ATOMIC,
    };
    flags & needed == needed
}

/// A range of virtual addresses of one address space.
#[derive(Clone, Copy)]
struct Range {
    asid: u32,
    first: u64,
    last: u64,
}

/// How all engines are told to forget translations, and are waited for.
///
/// An engine uses translations only while it holds [`enter`](Self::enter), and brings its buffer up
/// to date after it got it. An invalidation is noted first, and then takes the lock for a moment: by
/// then everyone who may have missed the note has left.
#[derive(Default)]
pub struct Shootdown {
    gate: RwLock<()>,
    /// Number of invalidations so far.
    epoch: AtomicU64,
    recent: Mutex<VecDeque<Range>>,
}

impl Shootdown {
    /// Begins the use of translations.
    pub fn enter(&self) -> RwLockReadGuard<'_, ()> {
        read(&self.gate)
    }

    /// Makes all engines forget a range, and waits until none uses it.
    pub fn invalidate(&self, asid: u32, first: u64, last: u64) {
        {
            let mut recent = lock(&self.recent);
            if recent.len() == RECENT {
                recent.pop_front();
            }
            recent.push_back(Range { asid, first, last });
            self.epoch.fetch_add(1, Ordering::Release);
        }
        drop(write(&self.gate));
    }

    /// Makes all engines forget everything, and waits until none uses it.
    pub fn invalidate_all(&self) {
        {
            let mut recent = lock(&self.recent);
            recent.clear();
            self.epoch.fetch_add(1, Ordering::Release);
        }
        drop(write(&self.gate));
    }
}

#[derive(Clone, Copy)]
struct Slot {
    /// Virtual address shifted by the size; [`NOTHING`] in an empty slot.
    page: u64,
    asid: u32,
    flags: u64,
    ptr: *mut u8,
}

/// The place of a page in a buffer of `slots`. Higher bits take part, since code, data and stacks
/// tend to begin at round addresses.
fn place(page: u64, slots: usize) -> usize {
    (page ^ page >> 9 ^ page >> 18) as usize % slots
}

/// No page has this number.
const NOTHING: u64 = u64::MAX;

const EMPTY: Slot = Slot {
    page: NOTHING,
    asid: 0,
    flags: 0,
    ptr: std::ptr::null_mut(),
};

/// Translations that an engine keeps. Each has one place where it can be.
pub struct Tlb {
    sizes: [Vec<Slot>; SIZES.len()],
    roots: Vec<(u32, u64)>,
    epoch: u64,
    changes: u64,
}

impl Default for Tlb {
    fn default() -> Self {
        Self {
            sizes: SIZES.map(|(_, slots)| vec![EMPTY; slots]),
            roots: Vec::new(),
            epoch: 0,
            changes: 0,
        }
    }
}

impl Tlb {
    /// Forgets everything.
    fn clear(&mut self) {
        self.sizes.iter_mut().for_each(|slots| slots.fill(EMPTY));
        self.roots.clear();
    }

    /// Applies what was invalidated since the last time. The caller has entered the gate and holds
    /// a [`Dma`]. Calls `changed` with each address space concerned, with `None` for all.
    pub fn update(&mut self, core: &Core, down: &Shootdown, mut changed: impl FnMut(Option<u32>)) {
        let changes = core.bus.changes();
        let epoch = down.epoch.load(Ordering::Acquire);
        if self.changes == changes && self.epoch == epoch {
            return;
        }
        let recent = lock(&down.recent);
        let epoch = down.epoch.load(Ordering::Acquire);
        let missed = (epoch - self.epoch) as usize;
        if self.changes != changes || missed > recent.len() {
            self.clear();
            changed(None);
        } else {
            for range in recent.iter().skip(recent.len() - missed) {
                self.forget(range);
                changed(Some(range.asid));
            }
        }
        self.changes = changes;
        self.epoch = epoch;
    }

    fn forget(&mut self, range: &Range) {
        self.roots.retain(|root| root.0 != range.asid);
        for ((shift, _), slots) in SIZES.into_iter().zip(&mut self.sizes) {
            let (first, last) = (range.first >> shift, range.last >> shift);
            let hit = |s: &Slot| s.asid == range.asid && (first..=last).contains(&s.page);
            let all = slots.len();
            if last - first < all as u64 {
                for page in first..=last {
                    let slot = &mut slots[place(page, all)];
                    if hit(slot) {
                        *slot = EMPTY;
                    }
                }
            } else {
                slots.iter_mut().filter(|s| hit(s)).for_each(|s| *s = EMPTY);
            }
        }
    }

    fn find(&self, asid: u32, va: u64, access: Access) -> Option<(Translation, u64)> {
        for ((shift, _), slots) in SIZES.into_iter().zip(&self.sizes) {
            let page = va >> shift;
            let slot = &slots[place(page, slots.len())];
            if slot.page == page && slot.asid == asid && allows(slot.flags, access) {
                let offset = (va & ((1 << shift) - 1)) as usize;
                let translation = Translation {
                    ptr: slot.ptr.wrapping_add(offset),
                    len: (1 << shift) - offset,
                };
                return Some((translation, slot.flags));
            }
        }
        None
    }

    fn keep(&mut self, asid: u32, va: u64, shift: u32, flags: u64, ptr: *mut u8) {
        for ((size, _), slots) in SIZES.into_iter().zip(&mut self.sizes) {
            if size == shift {
                let page = va >> shift;
                let index = place(page, slots.len());
                slots[index] = Slot {
                    page,
                    asid,
                    flags,
                    ptr,
                };
            }
        }
    }

    fn root(&mut self, core: &Core, dma: &Dma<'_>, asid: u32) -> Result<u64, Failed> {
        if let Some(root) = self.roots.iter().find(|root| root.0 == asid) {
            return Ok(root.1);
        }
        let root = root(core, dma, &core.tables, asid)?;
        if root & hw::ENTRY_VALID != 0 {
            self.roots.push((asid, root));
        }
        Ok(root)
    }

    /// Walks the tables for an access and keeps what it finds.
    fn fill(
        &mut self,
        core: &Core,
        dma: &Dma<'_>,
        asid: u32,
        va: u64,
        access: Access,
    ) -> Result<u64, Failed> {
        let root = self.root(core, dma, asid)?;
        let leaf = walk(dma, root, va)?;
        if !allows(leaf.flags, access) {
            return Err(Failed::Fault(hw::FAULT_PERMISSION));
        }
        let system = leaf.flags & hw::ENTRY_SYSTEM != 0;
        let write = leaf.flags & hw::ENTRY_WRITE != 0;
        // A large leaf may lie in several pieces in the host: then each page is kept by itself.
        for shift in [leaf.shift, PAGE_SHIFT] {
            let offset = va & ((1 << leaf.shift) - 1);
            let addr = leaf.addr + (offset >> shift << shift);
            if let Some(run) = dma.whole(system, addr, 1 << shift, write) {
                self.keep(asid, va, shift, leaf.flags, run.ptr());
                return Ok(leaf.flags);
            }
        }
        Err(Failed::Malformed)
    }
}

/// An access without a translation, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Missed {
    /// Number of the 4 KiB page.
    pub page: u64,
    /// What was to be done there.
    pub access: Access,
    /// `FAULT_*`.
    pub reason: u32,
}

/// An address space, as a wave sees it for one run.
pub struct Space<'a> {
    /// The device.
    pub core: &'a Core,
    /// Keeps memory in place.
    pub dma: &'a Dma<'a>,
    /// The engine's translations, up to date.
    pub tlb: &'a mut Tlb,
    /// The address space.
    pub asid: u32,
    /// What missed in this run.
    pub missed: &'a mut Vec<Missed>,
    /// Addresses looked up that lie in system memory, where access counters want them.
    pub remote: Option<&'a mut Vec<u64>>,
}

// SAFETY: pointers come from runs of a `Dma` that is held as long as the value lives, or from
// translations that were found under one and kept while `Bus::changes` stayed the same, so they are
// mapped. `Tlb::fill` asks for writable memory wherever the leaf allows writes, and `allows` asks
// for such a leaf where the access writes. Others access the memory by raw pointer only.
unsafe impl Memory for Space<'_> {
    fn translate(&mut self, va: u64, access: Access) -> Result<Translation, Miss> {
        let mut found = self.tlb.find(self.asid, va, access);
        if found.is_none() {
            match self.tlb.fill(self.core, self.dma, self.asid, va, access) {
                Ok(_) => found = self.tlb.find(self.asid, va, access),
                Err(Failed::Fault(reason)) => {
                    let page = va >> PAGE_SHIFT;
                    self.missed.push(Missed {
                        page,
                        access,
                        reason,
                    });
                    return Err(Miss::Fault);
                }
                Err(Failed::Malformed) => {
                    self.core.error(hw::ERROR_PAGE_TABLE, va);
                    return Err(Miss::Error);
                }
            }
        }
        let (translation, flags) = found.ok_or(Miss::Error)?;
        if let (Some(remote), true) = (&mut self.remote, flags & hw::ENTRY_SYSTEM != 0) {
            remote.push(va);
        }
        Ok(translation)
    }
}
