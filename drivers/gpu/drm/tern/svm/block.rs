// SPDX-License-Identifier: GPL-2.0

//! A block of 2 MiB: what the device wants of it, and how it gets it.

use core::ops::Range;

use kernel::{
    device::{
        Bound,
        Device, //
    },
    mm::{
        hmm::{
            self,
            Access,
            FaultError,
            RangeFault, //
        },
        MmWithUser, //
    },
    prelude::*,
    time::{
        msecs_to_jiffies,
        Instant,
        Monotonic, //
    },
};

use crate::{
    hw,
    memory::DeviceMemory,
    mmu::{
        Reserve,
        Target,
        BLOCK_PAGES,
        BLOCK_SIZE, //
    },
    svm::Vm,
};

const PAGE_SIZE: usize = 4096;

/// Pages of a block, as a bitmap.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct PageSet([u64; BLOCK_PAGES / 64]);

impl PageSet {
    /// Adds `page`, which is below [`BLOCK_PAGES`].
    pub(crate) fn insert(&mut self, page: usize) {
        self.0[page / 64] |= 1 << (page % 64);
    }

    /// Adds all of `other`.
    fn add(&mut self, other: &Self) {
        for (word, more) in self.0.iter_mut().zip(other.0) {
            *word |= more;
        }
    }

    /// Whether `page` is in it.
    pub(crate) fn contains(&self, page: usize) -> bool {
        self.0
            .get(page / 64)
            .is_some_and(|word| word >> (page % 64) & 1 != 0)
    }

    /// Whether it is empty.
    pub(crate) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether any page of the aligned group of `size` pages that `page` is in is in it.
    pub(crate) fn any_in_group(&self, page: usize, size: usize) -> bool {
        let start = page - page % size;
        (start..start + size).any(|page| self.contains(page))
    }

    /// The pages that are in it, in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        (0..BLOCK_PAGES).filter(|&page| self.contains(page))
    }

    /// The first run of consecutive pages.
    fn first_run(&self) -> Option<Range<usize>> {
        let start = self.iter().next()?;
        let end = (start..BLOCK_PAGES).find(|&page| !self.contains(page));
        Some(start..end.unwrap_or(BLOCK_PAGES))
    }

    fn remove_run(&mut self, run: Range<usize>) {
        for page in run {
            self.0[page / 64] &= !(1 << (page % 64));
        }
    }
}

/// What the device wants of a block of 2 MiB.
#[derive(Clone, Copy)]
pub(crate) struct Block {
    /// Its first address.
    pub(crate) start: usize,
    /// Pages that it wants to read.
    pub(crate) read: PageSet,
    /// Pages that it wants to write.
    pub(crate) write: PageSet,
}

impl Block {
    /// The block that `addr` is in, with nothing wanted.
    pub(crate) fn at(addr: usize) -> Self {
        Self {
            start: addr & !(BLOCK_SIZE - 1),
            read: PageSet::default(),
            write: PageSet::default(),
        }
    }

    /// Adds a fault at `addr`, which lies in the block.
    pub(crate) fn want(&mut self, addr: usize, access: u32) {
        let page = addr / PAGE_SIZE % BLOCK_PAGES;

        match access {
            hw::ACCESS_WRITE | hw::ACCESS_ATOMIC => self.write.insert(page),
            _ => self.read.insert(page),
        }
    }

    /// All pages that are wanted.
    pub(crate) fn wanted(&self) -> PageSet {
        let mut all = self.read;

        all.add(&self.write);
        all
    }

    /// Addresses of the block.
    pub(crate) fn range(&self) -> Range<usize> {
        self.start..self.start + BLOCK_SIZE
    }
}

/// Buffers for [`install`].
pub(crate) struct Installer {
    buf: hmm::Buffer,
    reserve: Reserve,
}

impl Installer {
    /// May sleep.
    pub(crate) fn new() -> Result<Self> {
        Ok(Self {
            buf: hmm::Buffer::new(BLOCK_PAGES, GFP_KERNEL)?,
            reserve: Reserve::new()?,
        })
    }

    /// Lets the device reach what it wants of `block`, wherever that is, and whatever else of it
    /// is there already.
    ///
    /// Returns the pages that the process itself may not access like that. A page that cannot be
    /// had now is in neither: the device faults again. May sleep.
    pub(crate) fn install(
        &mut self,
        dev: &Device<Bound>,
        memory: &DeviceMemory,
        vm: &Vm,
        mm: &MmWithUser,
        block: &Block,
    ) -> Result<PageSet> {
        /// After so many invalidations in between the device gets its turn to fault again.
        const ROUNDS: usize = 16;
        let start = Instant::<Monotonic>::now();
        let mut failed = PageSet::default();

        for _ in 0..ROUNDS {
            let missing = match self.map_present(dev, memory, vm, mm, block) {
                Ok(missing) => missing,
                Err(EAGAIN) => continue,
                Err(ENOMEM) => {
                    self.reserve.fill(dev)?;
                    continue;
                }
                Err(e) => return Err(e),
            };
            let (mut read, mut write) = missing;

            for page in failed.iter() {
                read.remove_run(page..page + 1);
                write.remove_run(page..page + 1);
            }
            if read.is_empty() && write.is_empty() {
                break;
            }
            failed.add(&self.make_present(memory, vm, mm, block, write, Access::Write)?);
            failed.add(&self.make_present(memory, vm, mm, block, read, Access::Read)?);
        }
        vm.stats.install_ns.add_since(start);
        Ok(failed)
    }

    /// Maps what is there; returns the wanted pages that the device cannot read or write yet.
    fn map_present(
        &mut self,
        dev: &Device<Bound>,
        memory: &DeviceMemory,
        vm: &Vm,
        mm: &MmWithUser,
        block: &Block,
    ) -> Result<(PageSet, PageSet)> {
        let mut stable = RangeFault::new(&vm.notifier, block.range(), Access::Snapshot)
            .owner(memory.owner())
            .fault_unlocked(mm, timeout(), &mut self.buf)
            .map_err(retry)?
            .lock()?;
        let (table, entries) = stable.parts();

        for entry in entries {
            let vram = if entry.is_device_private() {
                let offset = memory.offset_of_pfn(entry.pfn()).ok_or(EINVAL)?;
                Some((offset as u64) << 12)
            } else {
                if entry.is_writable() && entry.folio().is_anon() {
                    // No page table of the CPU will tell that the device wrote to it.
                    entry.folio().mark_dirty();
                }
                None
            };
            let first = entry.index();
            let target = Target {
                entry: &entry,
                vram,
            };
            let mapped = table.map(dev, block.start, first, &target, &mut self.reserve)?;

            if vram.is_none() {
                vm.stats.mapped_pages.add(mapped as u64);
            }
        }

        let lacks = |wanted: &PageSet, right: u64| {
            let mut missing = PageSet::default();
            for page in wanted.iter() {
                if table.lookup(block.start, page) & right != right {
                    missing.insert(page);
                }
            }
            missing
        };
        Ok((
            lacks(&block.read, hw::ENTRY_VALID),
            lacks(&block.write, hw::ENTRY_VALID | hw::ENTRY_WRITE),
        ))
    }

    /// Has the core fault `pages` in, none of which the device can access like that yet; returns
    /// those that it refuses.
    fn make_present(
        &mut self,
        memory: &DeviceMemory,
        vm: &Vm,
        mm: &MmWithUser,
        block: &Block,
        mut pages: PageSet,
        access: Access,
    ) -> Result<PageSet> {
        let mut failed = PageSet::default();

        while let Some(run) = pages.first_run() {
            let mut range = |pages: Range<usize>| {
                let at = |page| block.start + page * PAGE_SIZE;

                let fault = RangeFault::new(&vm.notifier, at(pages.start)..at(pages.end), access);
                // The core reports device memory of the owner as it is, even if it is read-only
                // and is to be written. Without an owner it comes back, and is copied if shared.
                let fault = match access {
                    Access::Write => fault,
                    _ => fault.owner(memory.owner()),
                };

                fault
                    .fault_unlocked(mm, timeout(), &mut self.buf)
                    .map(|_| ())
                    .map_err(retry)
            };

            match range(run.clone()) {
                Ok(()) | Err(EAGAIN) => (),
                Err(EFAULT | EPERM | EINVAL) => {
                    // One of them: find out which.
                    for page in run.clone() {
                        if let Err(EFAULT | EPERM | EINVAL) = range(page..page + 1) {
                            failed.insert(page);
                        }
                    }
                }
                Err(e) => return Err(e),
            }
            pages.remove_run(run);
        }
        Ok(failed)
    }
}

fn timeout() -> kernel::time::Jiffies {
    msecs_to_jiffies(1000)
}

fn retry(e: FaultError) -> Error {
    match e {
        FaultError::Retry => EAGAIN,
        FaultError::Failed(e) => e,
    }
}

#[kunit_tests(tern_block)]
mod tests {
    use super::*;

    #[test]
    fn runs_cover_a_set_in_order() {
        let mut set = PageSet::default();
        for page in [3, 4, 5, 63, 64, 511] {
            set.insert(page);
        }
        for run in [3..6, 63..65, 511..512] {
            assert_eq!(set.first_run(), Some(run.clone()));
            set.remove_run(run);
        }
        assert!(set.first_run().is_none());
        assert!(set.is_empty());
    }

    #[test]
    fn groups_are_aligned() {
        let mut set = PageSet::default();
        set.insert(31);
        assert!(set.any_in_group(16, 16));
        assert!(!set.any_in_group(32, 16));
        assert!(!set.any_in_group(15, 16));
    }

    #[test]
    fn atomics_want_to_write() {
        let mut block = Block::at(0x20_1000);
        block.want(0x20_1fff, hw::ACCESS_ATOMIC);
        block.want(0x20_0000, hw::ACCESS_FETCH);
        assert_eq!(block.start, 0x20_0000);
        assert!(block.write.contains(1) && !block.read.contains(1));
        assert!(block.read.contains(0) && !block.write.contains(0));
        assert_eq!(block.wanted().iter().count(), 2);
    }
}
