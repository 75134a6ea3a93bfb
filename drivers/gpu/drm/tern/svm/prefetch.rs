// SPDX-License-Identifier: GPL-2.0

//! Memory that user space has moved before it is used.

use core::ops::Range;

use kernel::{
    mm::{
        migrate,
        virt::flags,
        MmWithUser, //
    },
    prelude::*,
    uapi, //
};

use crate::{
    hw,
    mmu::BLOCK_SIZE,
    svm::{
        block::Block,
        fault::{
            may_move,
            to_move,
            Service,
            IN_FLIGHT,
            MOST_PAGES, //
        },
        migrate::back_to_system,
        Extent,
        Space,
        Vm, //
    },
};

/// Where memory is to be.
#[derive(Clone, Copy)]
pub(crate) enum Location {
    System,
    Device,
}

impl TryFrom<u32> for Location {
    type Error = Error;

    /// From `enum drm_tern_location`; fails with `EINVAL`.
    fn try_from(value: u32) -> Result<Self> {
        match value {
            uapi::drm_tern_location_DRM_TERN_LOCATION_SYSTEM => Ok(Self::System),
            uapi::drm_tern_location_DRM_TERN_LOCATION_DEVICE => Ok(Self::Device),
            _ => Err(EINVAL),
        }
    }
}

impl Vm {
    /// Moves what of `range`, which is one of whole pages, can move to `location`; returns the
    /// number of pages. In the end `range` is what is left to be done: nothing, unless it fails.
    ///
    /// `mm` is the memory of this address space. May sleep. See `struct drm_tern_prefetch` for the
    /// errors.
    pub(crate) fn prefetch(
        &self,
        mm: &MmWithUser,
        range: &mut Range<usize>,
        location: Location,
    ) -> Result<usize> {
        let limits = match self.origin.extent {
            Extent::Around => Space::RANGE,
            Extent::Exact => range.clone(),
        };
        let mut mover = Mover::new(location)?;
        let mut moved = 0;

        if self.memory.copies.is_lost() {
            return Err(EIO);
        }
        loop {
            let (end, pages) = mover.step(self, mm, range, &limits)?;

            moved += pages;
            if self.memory.copies.is_lost() {
                return Err(EIO);
            }
            range.start = end;
            if range.start == range.end {
                return Ok(moved);
            }
            // After the first step, so that every call achieves something.
            if current!().signal_pending() {
                return Err(ERESTARTSYS);
            }
        }
    }
}

/// What it takes to move memory.
enum Mover {
    ToSystem(migrate::Buffer),
    ToDevice(Service),
}

impl Mover {
    fn new(location: Location) -> Result<Self> {
        Ok(match location {
            Location::System => Self::ToSystem(migrate::Buffer::new(MOST_PAGES, GFP_KERNEL)?),
            Location::Device => Self::ToDevice(Service::new()?),
        })
    }

    /// Moves what is at the start of `range`; returns the address up to which it is done, and the
    /// number of pages that have moved.
    fn step(
        &mut self,
        vm: &Vm,
        mm: &MmWithUser,
        range: &Range<usize>,
        limits: &Range<usize>,
    ) -> Result<(usize, usize)> {
        match self {
            Self::ToSystem(buf) => to_system(vm, mm, range, limits, buf),
            Self::ToDevice(service) => to_device(vm, mm, range, limits, service),
        }
    }
}

/// Brings one block back, as far as one area has it.
fn to_system(
    vm: &Vm,
    mm: &MmWithUser,
    range: &Range<usize>,
    limits: &Range<usize>,
    buf: &mut migrate::Buffer,
) -> Result<(usize, usize)> {
    let mmap = mm.mmap_read_lock();
    let vma = mmap.vma_lookup(range.start).ok_or(EFAULT)?;
    let end = range.end.min(vma.end());

    if !may_move(vma) {
        return Ok((end, 0));
    }
    let mut block = Block::at(range.start);
    let end = end.min(block.range().end);
    let area = block.start.max(vma.start())..block.range().end.min(vma.end());
    block.want_all(&(range.start..end), hw::ACCESS_READ);

    let Some(range) = to_move(
        &mut block,
        &mmap,
        vma,
        &area,
        vm.origin.moves_large(),
        limits,
    ) else {
        return Ok((end, 0));
    };
    let moved = back_to_system(vm, &mmap, vma, range, &block, buf);
    let moved = moved.map_err(|e| if e == ENOMEM { e } else { EIO })?;
    Ok((end, moved))
}

/// Moves some blocks to the device, as far as one area has them, and lets it reach them.
fn to_device(
    vm: &Vm,
    mm: &MmWithUser,
    range: &Range<usize>,
    limits: &Range<usize>,
    service: &mut Service,
) -> Result<(usize, usize)> {
    let (is_readable, end) = {
        let mmap = mm.mmap_read_lock();
        let vma = mmap.vma_lookup(range.start).ok_or(EFAULT)?;

        (vma.flags() & flags::READ != 0, range.end.min(vma.end()))
    };
    if !is_readable {
        return Ok((end, 0));
    }
    let first = range.start & !(BLOCK_SIZE - 1);
    let end = end.min(first + IN_FLIGHT * BLOCK_SIZE);

    service.want_all(&(range.start..end), hw::ACCESS_READ)?;
    if vm.origin.extent == Extent::Exact {
        let table = vm.notifier.table.lock();

        for block in &mut service.blocks {
            block.leave_unmapped(&table);
        }
    }
    let moved = service.move_blocks(vm, mm, limits);
    for block in &service.blocks {
        // What is not there is not wanted: nothing is faulted in.
        service
            .installer
            .install(vm.memory.dev(), vm, mm, &block.present(), limits)?;
    }
    Ok((end, moved))
}
