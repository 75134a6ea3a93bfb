// SPDX-License-Identifier: GPL-2.0

//! A block of 2 MiB: what the device wants of it, and how it gets it.

use core::{
    iter,
    ops::Range, //
};

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
        notifier::Retry,
        virt::{
            flags,
            VmaRef, //
        },
        MmWithUser,
        MmapReadGuard, //
    },
    page::PAGE_SIZE,
    prelude::*,
    time::{
        msecs_to_jiffies,
        Instant,
        Monotonic, //
    },
};

use crate::{
    gem::Buffer,
    hw,
    memory::DeviceMemory,
    mmu::{
        MapError,
        PageTable,
        Reserve,
        Target,
        BLOCK_PAGES,
        BLOCK_SIZE, //
    },
    svm::Vm,
};

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

    /// Takes all of `other` out.
    fn remove(&mut self, other: &Self) {
        for (word, less) in self.0.iter_mut().zip(other.0) {
            *word &= !less;
        }
    }

    /// The pages for which `keep` is true.
    fn filter(&self, keep: impl Fn(usize) -> bool) -> Self {
        let mut kept = Self::default();

        for page in self.iter().filter(|&page| keep(page)) {
            kept.insert(page);
        }
        kept
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
    ///
    /// `size` is a power of two of at most 64.
    pub(crate) fn any_in_group(&self, page: usize, size: usize) -> bool {
        let start = page - page % size;
        let group = u64::MAX >> (64 - size);

        self.0
            .get(start / 64)
            .is_some_and(|word| word >> (start % 64) & group != 0)
    }

    /// The pages that are in it, in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        self.0.iter().enumerate().flat_map(|(i, &word)| {
            let mut rest = word;

            iter::from_fn(move || {
                let bit = rest.trailing_zeros() as usize;

                // Takes out the lowest bit.
                rest &= rest.checked_sub(1)?;
                Some(i * 64 + bit)
            })
        })
    }

    /// The first run of consecutive pages.
    fn first_run(&self) -> Option<Range<usize>> {
        let start = self.iter().next()?;
        let end = (start..BLOCK_PAGES).find(|&page| !self.contains(page));
        Some(start..end.unwrap_or(BLOCK_PAGES))
    }

    fn insert_run(&mut self, run: Range<usize>) {
        for page in run {
            self.insert(page);
        }
    }

    fn remove_run(&mut self, run: Range<usize>) {
        for page in run {
            self.0[page / 64] &= !(1 << (page % 64));
        }
    }
}

/// Whether an access of kind `ACCESS_*` needs the right to write.
fn is_write(access: u32) -> bool {
    matches!(access, hw::ACCESS_WRITE | hw::ACCESS_ATOMIC)
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
    /// Pages that could move but of which it wants nothing. They are not mapped where they are in
    /// system memory: otherwise it would never ask for them, and they would stay there.
    others: PageSet,
    /// Pages are faulted in under the mmap lock, so that nobody waits for a handler in user space:
    /// what it has to provide is not there.
    pub(crate) locked: bool,
}

impl Block {
    /// The block that `addr` is in, with nothing wanted.
    pub(crate) fn at(addr: usize) -> Self {
        Self {
            start: addr & !(BLOCK_SIZE - 1),
            read: PageSet::default(),
            write: PageSet::default(),
            others: PageSet::default(),
            locked: false,
        }
    }

    /// Says that what is wanted is to be asked for first, unless `table` lets the device access it
    /// already.
    pub(crate) fn leave_unmapped(&mut self, table: &PageTable) {
        let unmapped = missing(table, self).read;
        self.others.add(&unmapped);
    }

    /// The same block with nothing wanted.
    pub(crate) fn present(&self) -> Self {
        Self {
            others: self.others,
            ..Self::at(self.start)
        }
    }

    /// Says that nothing is wanted of `addresses`, which lie in the block, though they can move.
    pub(crate) fn leave(&mut self, addresses: &Range<usize>) {
        let pages = self.pages(addresses);
        self.others.insert_run(pages);
    }

    /// Adds all of `addresses`, which lie in the block, for an access of kind `ACCESS_*`.
    pub(crate) fn want_all(&mut self, addresses: &Range<usize>, access: u32) {
        let pages = self.pages(addresses);

        if is_write(access) {
            self.write.insert_run(pages);
        } else {
            self.read.insert_run(pages);
        }
    }

    /// Adds a fault at `addr`, which lies in the block.
    pub(crate) fn want(&mut self, addr: usize, access: u32) {
        let page = addr / PAGE_SIZE % BLOCK_PAGES;

        if is_write(access) {
            self.write.insert(page);
        } else {
            self.read.insert(page);
        }
    }

    /// Whether any page is wanted of those at `addresses`, some of which may lie in the block.
    pub(crate) fn wants_any(&self, addresses: &Range<usize>) -> bool {
        let page_at = |page| addresses.contains(&(self.start + page * PAGE_SIZE));

        self.read.iter().any(page_at) || self.write.iter().any(page_at)
    }

    /// Whether a page is wanted of the aligned group of `size` pages that `addr` is in. That is
    /// false beyond the block. `size` is a power of two of at most 64.
    pub(crate) fn wants_near(&self, addr: usize, size: usize) -> bool {
        addr.checked_sub(self.start).is_some_and(|offset| {
            let page = offset / PAGE_SIZE;

            self.read.any_in_group(page, size) || self.write.any_in_group(page, size)
        })
    }

    /// Addresses of the block.
    pub(crate) fn range(&self) -> Range<usize> {
        self.start..self.start + BLOCK_SIZE
    }

    /// The areas that are in the block, each with what it has of it.
    pub(crate) fn areas<'a>(
        &self,
        mmap: &'a MmapReadGuard<'_>,
    ) -> impl Iterator<Item = (&'a VmaRef, Range<usize>)> + use<'a> {
        let Range { start: mut at, end } = self.range();

        iter::from_fn(move || {
            let vma = (at < end).then(|| mmap.find_vma_intersection(at..end))??;
            let part = at.max(vma.start())..end.min(vma.end());

            at = part.end;
            Some((vma, part))
        })
    }

    /// Whether `pages` of the system are to be asked for first: one of them is, and none is wanted.
    fn leaves(&self, mut pages: Range<usize>) -> bool {
        let is_wanted = |page| self.read.contains(page) || self.write.contains(page);

        pages.clone().any(|page| self.others.contains(page)) && !pages.any(is_wanted)
    }

    /// Pages at addresses of the block.
    fn pages(&self, addresses: &Range<usize>) -> Range<usize> {
        let page = |addr| (addr - self.start) / PAGE_SIZE;
        page(addresses.start)..page(addresses.end)
    }

    /// Addresses of pages of the block.
    fn addresses(&self, pages: Range<usize>) -> Range<usize> {
        self.start + pages.start * PAGE_SIZE..self.start + pages.end * PAGE_SIZE
    }
}

/// Pages of a block that the device may not, or not yet, access as it wants to.
#[derive(Clone, Copy, Default)]
pub(crate) struct Failed {
    /// Pages that it may not read.
    pub(crate) read: PageSet,
    /// Pages that it may not write. It may still read them unless they are in `read` too.
    pub(crate) write: PageSet,
}

impl Failed {
    /// Whether an access of kind `ACCESS_*` to `page` fails.
    pub(crate) fn covers(&self, page: usize, access: u32) -> bool {
        if is_write(access) {
            self.write.contains(page)
        } else {
            self.read.contains(page)
        }
    }

    fn is_empty(&self) -> bool {
        self.read.is_empty() && self.write.is_empty()
    }

    fn add(&mut self, other: &Self) {
        self.read.add(&other.read);
        self.write.add(&other.write);
    }

    fn remove(&mut self, other: &Self) {
        self.read.remove(&other.read);
        self.write.remove(&other.write);
    }

    fn filter(&self, keep: impl Fn(usize) -> bool) -> Self {
        Self {
            read: self.read.filter(&keep),
            write: self.write.filter(&keep),
        }
    }
}

/// Why pages could not be mapped this time.
#[derive(Debug, PartialEq, Eq)]
enum Trouble {
    /// The memory changed meanwhile.
    Changed,
    /// The reserve of the page table is used up.
    Reserve,
    /// The system had no memory for them.
    NoMemory,
    /// It is of no use to try again.
    Failed(Error),
}

impl From<FaultError> for Trouble {
    fn from(e: FaultError) -> Self {
        match e {
            FaultError::Retry => Self::Changed,
            FaultError::Failed(ENOMEM) => Self::NoMemory,
            FaultError::Failed(e) => Self::Failed(e),
        }
    }
}

impl From<MapError> for Trouble {
    fn from(e: MapError) -> Self {
        match e {
            MapError::Reserve => Self::Reserve,
            MapError::Failed(e) => Self::Failed(e),
        }
    }
}

impl From<Retry> for Trouble {
    fn from(_: Retry) -> Self {
        Self::Changed
    }
}

/// Buffers for [`Installer::install`].
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
    /// is there already and within `limits`, but for what it is to ask for first.
    ///
    /// Returns the pages that the process itself may not access like that, or that the device
    /// cannot reach. A page that cannot be had now is not among them: the device faults again. May
    /// sleep.
    ///
    /// Errors: `ENOMEM` if there is no memory, though it was asked for repeatedly.
    pub(crate) fn install(
        &mut self,
        dev: &Device<Bound>,
        vm: &Vm,
        mm: &MmWithUser,
        block: &Block,
        limits: &Range<usize>,
    ) -> Result<Failed> {
        /// After so many invalidations in between the device gets its turn to fault again.
        const ROUNDS: usize = 16;
        /// Failed allocations after which there is no hope. Each has reclaimed what it could.
        const ALLOCATIONS: usize = 4;
        let start = Instant::<Monotonic>::now();
        let mut failed = Failed::default();
        let mut allocations = 0;

        for _ in 0..ROUNDS {
            let trouble = match self.round(dev, vm, mm, block, limits, &mut failed) {
                Ok(true) => break,
                Ok(false) => continue,
                Err(Trouble::Reserve) if self.reserve.fill(dev).is_ok() => continue,
                Err(trouble) => trouble,
            };

            match trouble {
                Trouble::Changed => (),
                Trouble::Failed(e) => return Err(e),
                Trouble::Reserve | Trouble::NoMemory => {
                    allocations += 1;
                    if allocations == ALLOCATIONS {
                        return Err(ENOMEM);
                    }
                }
            }
        }
        vm.origin.stats.install_ns.add_since(start);
        Ok(failed)
    }

    /// Maps what is there, and asks for what is not. True if nothing is left to be done.
    fn round(
        &mut self,
        dev: &Device<Bound>,
        vm: &Vm,
        mm: &MmWithUser,
        block: &Block,
        limits: &Range<usize>,
        failed: &mut Failed,
    ) -> Result<bool, Trouble> {
        let mut missing = self.map_present(dev, vm, mm, block, limits, failed)?;

        missing.remove(failed);
        if missing.is_empty() {
            return Ok(true);
        }
        if self.map_buffers(vm, mm, block)? {
            return Ok(false);
        }
        let mut ask = |pages, access| self.make_present(vm, mm, block, pages, access);
        failed.write.add(&ask(missing.write, Access::Write)?);
        failed.read.add(&ask(missing.read, Access::Read)?);
        Ok(false)
    }

    /// Maps what is there; returns the wanted pages that the device cannot access yet, and adds
    /// those to `failed` that are there but beyond its reach.
    fn map_present(
        &mut self,
        dev: &Device<Bound>,
        vm: &Vm,
        mm: &MmWithUser,
        block: &Block,
        limits: &Range<usize>,
        failed: &mut Failed,
    ) -> Result<Failed, Trouble> {
        let Range { start, end } = block.range();
        let range = start.max(limits.start)..end.min(limits.end);
        let first_page = (range.start - block.start) / PAGE_SIZE;
        // The pages of the block that an entry stands for.
        let run_of = |entry: &hmm::Entry<'_>| {
            let start = first_page + entry.index();
            start..start + entry.nr_pages()
        };
        let mut stable = RangeFault::new(&vm.notifier, range, Access::Snapshot)
            .owner(vm.memory.owner())
            .runs()
            .fault_unlocked(mm, timeout(), &mut self.buf)?
            .lock()?;
        let mut runs = 0;
        let is_left =
            |entry: &hmm::Entry<'_>| !entry.is_device_private() && block.leaves(run_of(entry));
        let (table, entries) = stable.parts();
        for entry in entries.filter(|entry| !is_left(entry)) {
            let target = target(&vm.memory, &entry);

            runs += usize::from(target.vram.is_none());
            if table.gains_write(block.start, run_of(&entry).start, &target) {
                vm.notifier.zap(table, &block.addresses(run_of(&entry)));
            }
        }
        self.reserve.expect(runs);

        let mut unreachable = PageSet::default();
        let (table, entries) = stable.parts();
        for entry in entries.filter(|entry| !is_left(entry)) {
            let target = target(&vm.memory, &entry);
            let first = run_of(&entry).start;

            // The device may write until the next invalidation, and no page table of the CPU will
            // tell. The mark outlives the mapping: whoever cleans a page, be it writeback, reclaim
            // or MADV_FREE, first takes away or write-protects all that maps it, which is an
            // invalidation. That waits for the lock that we hold, and ends this mapping. None is
            // under way, as the sequence is unchanged.
            entry.mark_dirty();
            match table.map(dev, block.start, first, &target, &mut self.reserve) {
                Ok(mapped) if target.vram.is_none() => {
                    vm.count(|stats| stats.mapped_pages.add(mapped as u64))
                }
                Ok(_) => (),
                Err(MapError::Reserve) => return Err(Trouble::Reserve),
                Err(MapError::Failed(e)) => {
                    dev_dbg!(dev, "block {:#x}, page {}: {:?}\n", block.start, first, e);
                    unreachable.insert_run(run_of(&entry));
                }
            }
        }

        let missing = missing(table, block);
        failed.add(&missing.filter(|page| unreachable.contains(page)));
        Ok(missing)
    }

    /// Maps what buffers of this device have in the block. True if it was not mapped before.
    ///
    /// Their areas have no pages that the core knows, so that their mappings follow from where the
    /// areas are. Those change only after the notifier was called.
    fn map_buffers(&mut self, vm: &Vm, mm: &MmWithUser, block: &Block) -> Result<bool, Trouble> {
        let stable = vm.notifier.read_begin();
        let mmap = mm.mmap_read_lock();
        let mut table = stable.lock()?;
        let mut mapped = 0;

        for (vma, range) in block.areas(&mmap) {
            if let Some((buffer, first)) = vm.buffer(vma) {
                let first = first + (range.start - vma.start()) / PAGE_SIZE;

                mapped += self.map_buffer(&mut table, vma, block, range, buffer, first)?;
            }
        }
        Ok(mapped > 0)
    }

    /// Maps `range`, a part of the block, to the pages of `buffer` from `first` on; returns how
    /// many were not mapped before.
    fn map_buffer(
        &mut self,
        table: &mut PageTable,
        vma: &VmaRef,
        block: &Block,
        range: Range<usize>,
        buffer: &Buffer,
        first: usize,
    ) -> Result<usize, Trouble> {
        let is_writable = vma.flags() & flags::WRITE != 0;
        let start = (range.start - block.start) / PAGE_SIZE;
        let end = start + range.len() / PAGE_SIZE;
        let mut page = start;
        let mut mapped = 0;

        if vma.flags() & flags::READ == 0 {
            return Ok(0);
        }
        while page < end {
            let Some((vram, pages)) = buffer.place(first + page - start) else {
                break;
            };
            let pages = page..end.min(page + pages);

            page = pages.end;
            mapped += table.map_vram(
                block.start,
                pages,
                (vram as u64) << 12,
                is_writable,
                &mut self.reserve,
            )?;
        }
        Ok(mapped)
    }

    /// Has the core fault `pages` in, none of which the device can access like that yet; returns
    /// those that it refuses.
    fn make_present(
        &mut self,
        vm: &Vm,
        mm: &MmWithUser,
        block: &Block,
        mut pages: PageSet,
        access: Access,
    ) -> Result<PageSet, Trouble> {
        let mut failed = PageSet::default();

        while let Some(run) = pages.first_run() {
            let mut ask = |pages: Range<usize>| {
                let fault = RangeFault::new(&vm.notifier, block.addresses(pages), access);
                // The core reports device memory of the owner as it is, even if it is read-only
                // and is to be written. Without an owner it comes back, and is copied if shared.
                let fault = match access {
                    Access::Write => fault,
                    _ => fault.owner(vm.memory.owner()),
                };

                let answer = match block.locked {
                    true => fault.fault(&mm.mmap_read_lock(), &mut self.buf),
                    false => fault.fault_unlocked(mm, timeout(), &mut self.buf),
                };

                match answer {
                    Ok(_) | Err(FaultError::Retry) => Ok(true),
                    Err(FaultError::Failed(EFAULT | EPERM | EINVAL)) => Ok(false),
                    Err(e) => Err(Trouble::from(e)),
                }
            };

            if !ask(run.clone())? {
                // One of them: find out which.
                for page in run.clone() {
                    if !ask(page..page + 1)? {
                        failed.insert(page);
                    }
                }
            }
            pages.remove_run(run);
        }
        Ok(failed)
    }
}

/// How long the core may try again by itself when memory keeps changing.
pub(crate) fn timeout() -> kernel::time::Jiffies {
    msecs_to_jiffies(1000)
}

fn target<'a>(memory: &DeviceMemory, entry: &'a hmm::Entry<'a>) -> Target<'a> {
    // Only device memory of our own is reported as such.
    let offset = memory.offset_of_pfn(entry.pfn());

    Target {
        entry,
        vram: offset.map(|offset| (offset as u64) << 12),
    }
}

/// The pages of what the device wants that `table` does not let it access.
fn missing(table: &PageTable, block: &Block) -> Failed {
    let lacks = |right: u64| move |page| table.lookup(block.start, page) & right != right;

    Failed {
        read: block.read.filter(lacks(hw::ENTRY_VALID)),
        write: block.write.filter(lacks(hw::ENTRY_VALID | hw::ENTRY_WRITE)),
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
    fn a_page_that_may_not_be_written_may_be_read() {
        let mut failed = Failed::default();
        failed.write.insert(7);
        assert!(failed.covers(7, hw::ACCESS_WRITE) && failed.covers(7, hw::ACCESS_ATOMIC));
        assert!(!failed.covers(7, hw::ACCESS_READ) && !failed.covers(7, hw::ACCESS_FETCH));
        failed.read.insert(8);
        assert!(failed.covers(8, hw::ACCESS_FETCH) && !failed.covers(8, hw::ACCESS_WRITE));
    }

    #[test]
    fn lack_of_memory_is_told_from_the_rest() {
        assert_eq!(Trouble::from(FaultError::Retry), Trouble::Changed);
        assert_eq!(Trouble::from(FaultError::from(ENOMEM)), Trouble::NoMemory);
        assert_eq!(
            Trouble::from(FaultError::from(EFAULT)),
            Trouble::Failed(EFAULT)
        );
    }

    #[test]
    fn groups_are_aligned() {
        let mut set = PageSet::default();
        set.insert(31);
        assert!(set.any_in_group(16, 16));
        assert!(!set.any_in_group(32, 16));
        assert!(!set.any_in_group(15, 16));
        assert!(set.any_in_group(63, 64) && !set.any_in_group(64, 64));
        assert!(set.any_in_group(31, 1) && !set.any_in_group(30, 1));
    }

    #[test]
    fn all_pages_come_in_order() {
        let mut set = PageSet::default();
        assert!(set.iter().next().is_none());
        for page in [511, 0, 64, 63] {
            set.insert(page);
        }
        assert!(set.iter().eq([0, 63, 64, 511]));
        set.insert_run(0..BLOCK_PAGES);
        assert!(set.iter().eq(0..BLOCK_PAGES));
        assert!(set
            .filter(|page| page % 64 == 7)
            .iter()
            .eq((7..BLOCK_PAGES).step_by(64)));
    }

    #[test]
    fn atomics_want_to_write() {
        let mut block = Block::at(0x20_1000);
        block.want(0x20_1fff, hw::ACCESS_ATOMIC);
        block.want(0x20_0000, hw::ACCESS_FETCH);
        assert_eq!(block.start, 0x20_0000);
        assert!(block.write.contains(1) && !block.read.contains(1));
        assert!(block.read.contains(0) && !block.write.contains(0));
        assert!(block.wants_any(&(0..0x20_1000)) && block.wants_any(&(0x20_1000..usize::MAX)));
        assert!(!block.wants_any(&(0x20_2000..0x40_0000)) && !block.wants_any(&(0..0x20_0000)));
        assert!(block.wants_near(0x20_f000, 16) && !block.wants_near(0x21_0000, 16));
        assert!(!block.wants_near(0x1f_f000, 16) && !block.wants_near(0x40_0000, 16));
        assert!(block.wants_near(0x20_1000, 1) && !block.wants_near(0x20_2000, 1));
    }
}
