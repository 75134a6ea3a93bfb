// SPDX-License-Identifier: GPL-2.0

//! Memory that the device has to itself until the CPU touches it.

use core::ops::Range;

use kernel::{
    device::{
        Bound,
        Device, //
    },
    mm::{
        exclusive::ExclusivePage,
        hmm::{
            self,
            Access,
            RangeFault, //
        },
        MmWithUser, //
    },
    page::PAGE_SIZE,
    prelude::*, //
};

use crate::{
    mmu::{
        MapError,
        Reserve,
        BLOCK_PAGES, //
    },
    svm::{
        block::timeout,
        Space,
        Vm, //
    },
};

impl Vm {
    /// Takes the pages of `range`, which is one of whole pages, from the CPU and lets the device
    /// reach them, one after the other. They stay where they are in memory. May sleep.
    ///
    /// `mm` is the memory of this address space. Errors: those of [`ExclusivePage::new`], `ENOMEM`,
    /// and `ERESTARTSYS` after a signal.
    pub(crate) fn make_exclusive(
        &self,
        dev: &Device<Bound>,
        mm: &MmWithUser,
        range: &Range<usize>,
    ) -> Result {
        let mut reserve = Reserve::new()?;
        // Room for all that a block may need: a page is given back only if it may be read.
        reserve.expect(BLOCK_PAGES);
        let mut buf = hmm::Buffer::new(1, GFP_KERNEL)?;

        for addr in range.clone().step_by(PAGE_SIZE) {
            while !self.try_make_exclusive(dev, mm, addr, &mut reserve)? {
                if current!().signal_pending() {
                    return Err(ERESTARTSYS);
                }
                self.give_back(mm, addr, &mut buf)?;
            }
        }
        Ok(())
    }

    /// Lets the CPU access the page at `addr` again, after a try that failed.
    ///
    /// The next one would do it itself, but by a change of the memory, so that it would fail too.
    fn give_back(&self, mm: &MmWithUser, addr: usize, buf: &mut hmm::Buffer) -> Result {
        let range = addr..addr + PAGE_SIZE;

        RangeFault::new(&self.notifier, range, Access::Write)
            .fault_unlocked(mm, timeout(), buf)
            .map(|_| ())
            .map_err(Error::from)
    }

    /// Tries to for the page at `addr`; false if the memory changed meanwhile.
    fn try_make_exclusive(
        &self,
        dev: &Device<Bound>,
        mm: &MmWithUser,
        addr: usize,
        reserve: &mut Reserve,
    ) -> Result<bool> {
        reserve.fill(dev)?;
        let read = self.notifier.read_begin();
        let page = ExclusivePage::new(&mm.mmap_read_lock(), addr, self.memory.owner())?;
        let Ok(mut table) = read.lock() else {
            return Ok(false);
        };

        // What the device has there is from before, and may be read-only.
        self.notifier.zap(&mut table, &(addr..addr + PAGE_SIZE));
        match table.map_exclusive(dev, addr, &page, reserve) {
            Ok(()) => Ok(true),
            // It knows what it lacks now.
            Err(MapError::Reserve) => Ok(false),
            Err(MapError::Failed(e)) => Err(e),
        }
    }

    /// Whether the device has any page of `range` to itself.
    pub(crate) fn has_exclusive(&self, range: &Range<usize>) -> bool {
        let range = range.start..range.end.min(Space::RANGE.end);

        !range.is_empty() && self.notifier.table.lock().has_exclusive(&range)
    }
}
