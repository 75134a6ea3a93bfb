// SPDX-License-Identifier: GPL-2.0

//! Page tables of the device, kept in system memory.
//!
//! A [`PageTable`] mirrors what the CPU's page tables say about the same addresses. It changes
//! under the lock that the interval notifier takes for an invalidation, so nothing here may wait
//! for memory: what an update needs is put in a [`Reserve`] beforehand.

use core::{
    mem,
    ops::Range, //
};

use kernel::{
    alloc::Flags,
    device::{
        Bound,
        Device, //
    },
    dma::{
        attrs::DMA_ATTR_REQUIRE_COHERENT,
        Coherent,
        DataDirection,
        Mapping, //
    },
    mm::{
        exclusive::ExclusivePage,
        folio::PMD_ORDER,
        hmm, //
    },
    prelude::*,
    sync::{
        aref::ARef,
        barrier, //
    },
};

use crate::hw;

/// Pages of 4 KiB in a block of 2 MiB.
pub(crate) const BLOCK_PAGES: usize = 512;
/// log2 of the bytes in a block.
pub(crate) const BLOCK_SHIFT: usize = 21;
/// Bytes in a block.
pub(crate) const BLOCK_SIZE: usize = 1 << BLOCK_SHIFT;

const PAGE_SHIFT: usize = 12;
const ENTRIES: usize = 512;
/// Entries that make a leaf of 64 KiB.
const GROUP: usize = 16;

/// For what grows with the memory that a process makes the device use.
const GFP: Flags = GFP_KERNEL_ACCOUNT;

/// A mapping of system memory for the device.
type SystemMapping = Mapping<ARef<Device>>;

/// A table that the device reads.
struct Table {
    memory: Coherent<[u64]>,
    /// Number of entries that are not 0.
    used: usize,
}

impl Table {
    fn new(dev: &Device<Bound>) -> Result<Self> {
        Ok(Self {
            memory: Coherent::zeroed_slice(dev, ENTRIES, GFP)?,
            used: 0,
        })
    }

    fn is_empty(&self) -> bool {
        self.used == 0
    }

    fn get(&self, i: usize) -> u64 {
        // SAFETY: `i % ENTRIES` is within the table. The device only reads it.
        unsafe {
            self.memory
                .as_ptr()
                .cast::<u64>()
                .add(i % ENTRIES)
                .read_volatile()
        }
    }

    fn set(&mut self, i: usize, entry: u64) {
        self.used -= usize::from(self.get(i) != 0);
        self.used += usize::from(entry != 0);
        // SAFETY: `i % ENTRIES` is within the table. The device may read it at the same time,
        // which is why the write is volatile and a single aligned word.
        unsafe {
            self.memory
                .as_mut_ptr()
                .cast::<u64>()
                .add(i % ENTRIES)
                .write_volatile(entry)
        }
    }

    /// Stores an entry after all that it leads to.
    fn publish(&mut self, i: usize, entry: u64) {
        barrier::dma_mb(barrier::Write);
        self.set(i, entry);
    }

    /// The entry that leads to this table.
    fn entry(&self) -> u64 {
        self.memory.dma_address() | hw::ENTRY_VALID | hw::ENTRY_SYSTEM
    }
}

/// Pages of system memory that were mapped by one call.
struct Run {
    pages: Range<usize>,
    /// The CPU cannot access them.
    is_exclusive: bool,
    _mapping: SystemMapping,
}

/// A table of level 0.
struct Leaves {
    table: Table,
    runs: KVec<Run>,
}

impl Leaves {
    fn new(dev: &Device<Bound>) -> Result<KBox<Self>> {
        let leaves = Self {
            table: Table::new(dev)?,
            runs: KVec::new(),
        };
        Ok(KBox::new(leaves, GFP)?)
    }

    /// Extends `pages` to whole runs and whole groups of 64 KiB, since those go together.
    fn whole(&self, pages: Range<usize>) -> Range<usize> {
        let mut whole = pages;
        loop {
            let mut next = whole.clone();

            if self.table.get(next.start) & hw::ENTRY_64K != 0 {
                next.start &= !(GROUP - 1);
            }
            if self.table.get(next.end - 1) & hw::ENTRY_64K != 0 {
                next.end = next.end.next_multiple_of(GROUP);
            }
            for run in &self.runs {
                if run.pages.start < next.end && next.start < run.pages.end {
                    next.start = next.start.min(run.pages.start);
                    next.end = next.end.max(run.pages.end);
                }
            }
            if next == whole {
                return whole;
            }
            whole = next;
        }
    }

    /// Maps `pages`, none of which is mapped, to what is from `addr` on, in groups of 64 KiB where
    /// that fits.
    fn publish_run(&mut self, pages: Range<usize>, addr: u64, flags: u64) {
        let aligned = (addr >> PAGE_SHIFT) as usize % GROUP == pages.start % GROUP;
        let groups = match aligned {
            true => pages.start.next_multiple_of(GROUP)..pages.end & !(GROUP - 1),
            false => 0..0,
        };
        let mut entry = addr | flags;

        // Each entry is right by itself, in whatever order the device finds them.
        barrier::dma_mb(barrier::Write);
        for page in pages {
            let size = if groups.contains(&page) {
                hw::ENTRY_64K
            } else {
                0
            };

            self.table.set(page, entry | size);
            entry += 1 << PAGE_SHIFT;
        }
    }

    /// Gives a page that is mapped the rights in `flags`. Its group of 64 KiB falls apart then,
    /// since all its entries must be equal.
    fn upgrade(&mut self, page: usize, flags: u64) {
        let old = self.table.get(page);

        if old | flags == old {
            return;
        }
        if old & hw::ENTRY_64K != 0 {
            let group = page & !(GROUP - 1);

            for i in group..group + GROUP {
                self.table.set(i, self.table.get(i) & !hw::ENTRY_64K);
            }
        }
        self.table.set(page, self.table.get(page) | flags);
    }

    /// True if there was any.
    fn clear(&mut self, pages: Range<usize>) -> bool {
        let before = self.table.used;

        for i in self.whole(pages) {
            self.table.set(i, 0);
        }
        self.table.used != before
    }

    fn has_exclusive(&self, pages: Range<usize>) -> bool {
        let overlaps = |run: &Run| run.pages.start < pages.end && pages.start < run.pages.end;

        self.runs
            .iter()
            .any(|run| run.is_exclusive && overlaps(run))
    }

    fn reap(&mut self) {
        let table = &self.table;

        self.runs.retain(|run| table.get(run.pages.start) != 0);
        if self.runs.len() <= self.runs.capacity() / 4 {
            self.shrink();
        }
    }

    /// Gives back room that `runs` does not need. Reclaim waits for this, so it must not wait for
    /// memory itself; if there is none, the room stays until another time.
    fn shrink(&mut self) {
        let Ok(mut fewer) = KVec::with_capacity(self.runs.len(), GFP_NOWAIT | __GFP_NOWARN) else {
            return;
        };
        move_all(&mut self.runs, &mut fewer);
        self.runs = fewer;
    }

    /// Makes room for one more run, out of `reserve` if need be.
    fn make_room(&mut self, reserve: &mut Reserve) -> Result<(), MapError> {
        let needed = self.runs.len() + 1;

        if needed <= self.runs.capacity() {
            return Ok(());
        }
        if reserve.wanted_runs < needed {
            reserve.wanted_runs = (2 * needed).min(BLOCK_PAGES);
        }
        if reserve.runs.capacity() != reserve.wanted_runs {
            return Err(MapError::Reserve);
        }
        mem::swap(&mut self.runs, &mut reserve.runs);
        move_all(&mut reserve.runs, &mut self.runs);
        Ok(())
    }
}

/// Moves all of `from` to `to`, which has the room.
fn move_all(from: &mut KVec<Run>, to: &mut KVec<Run>) {
    for run in from.drain_all() {
        let _ = to.push_within_capacity(run);
    }
}

/// What is below an entry of a table of level 1 to 3.
enum Child {
    Directory(KBox<Directory>),
    Leaves(KBox<Leaves>),
    /// A leaf of 2 MiB, with its mapping if it is in system memory.
    Huge {
        _mapping: Option<SystemMapping>,
    },
}

/// A table of level 1 to 3.
struct Directory {
    table: Table,
    children: KVec<Option<Child>>,
}

impl Directory {
    fn new(dev: &Device<Bound>) -> Result<KBox<Self>> {
        let mut children = KVec::with_capacity(ENTRIES, GFP)?;

        for _ in 0..ENTRIES {
            children.push(None, GFP)?;
        }
        let directory = Self {
            table: Table::new(dev)?,
            children,
        };
        Ok(KBox::new(directory, GFP)?)
    }

    /// The table of level 0 at entry `i`, made if there is nothing; `None` if there is a leaf.
    fn leaves(&mut self, i: usize, reserve: &mut Reserve) -> Result<Option<&mut Leaves>, MapError> {
        if self.children[i].is_none() {
            let new = reserve.leaves.take().ok_or(MapError::Reserve)?;

            self.table.publish(i, new.table.entry());
            self.children[i] = Some(Child::Leaves(new));
        }
        match &mut self.children[i] {
            Some(Child::Leaves(leaves)) => Ok(Some(leaves)),
            _ => Ok(None),
        }
    }

    /// Clears what maps `range`, and the entries of tables that are empty then. Returns the
    /// addresses for which the device may know something that is not true any more.
    fn clear(&mut self, level: usize, base: usize, range: &Range<usize>) -> Option<Range<usize>> {
        let mut stale = None;

        for (i, span) in spans(level, base, range) {
            let Some(child) = &mut self.children[i] else {
                continue;
            };
            let (part, is_empty) = match child {
                Child::Directory(directory) if !covers(range, &span) => (
                    directory.clear(level - 1, span.start, range),
                    directory.table.is_empty(),
                ),
                Child::Leaves(leaves) if !covers(range, &span) => (
                    leaves.clear(pages_of(range, &span)).then(|| span.clone()),
                    leaves.table.is_empty(),
                ),
                _ => (None, true),
            };
            if is_empty {
                self.table.set(i, 0);
            }
            stale = join(stale, if is_empty { Some(span) } else { part });
        }
        stale
    }

    /// Whether a page of `range` is exclusive.
    fn has_exclusive(&self, level: usize, base: usize, range: &Range<usize>) -> bool {
        spans(level, base, range).any(|(i, span)| match &self.children[i] {
            Some(Child::Directory(directory)) => {
                directory.has_exclusive(level - 1, span.start, range)
            }
            Some(Child::Leaves(leaves)) => leaves.has_exclusive(pages_of(range, &span)),
            _ => false,
        })
    }

    /// Frees what [`Self::clear`] cleared.
    fn reap(&mut self, level: usize, base: usize, range: &Range<usize>) {
        for (i, span) in spans(level, base, range) {
            if self.table.get(i) == 0 {
                self.children[i] = None;
            }
            match &mut self.children[i] {
                Some(Child::Directory(directory)) => directory.reap(level - 1, span.start, range),
                Some(Child::Leaves(leaves)) => leaves.reap(),
                _ => (),
            }
        }
    }
}

/// The entries of a table at `level` that maps from `base`, as far as they meet `range`, with
/// what each of them spans.
fn spans(
    level: usize,
    base: usize,
    range: &Range<usize>,
) -> impl Iterator<Item = (usize, Range<usize>)> {
    let shift = PAGE_SHIFT + 9 * level;
    let first = range.start.saturating_sub(base) >> shift;
    let last = (range.end - 1).saturating_sub(base) >> shift;

    (first..=last.min(ENTRIES - 1)).map(move |i| {
        let start = base + (i << shift);
        (i, start..start + (1 << shift))
    })
}

/// What two ranges cover, and what is between them.
fn join(a: Option<Range<usize>>, b: Option<Range<usize>>) -> Option<Range<usize>> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.start.min(b.start)..a.end.max(b.end)),
        (a, b) => a.or(b),
    }
}

fn covers(range: &Range<usize>, span: &Range<usize>) -> bool {
    range.start <= span.start && span.end <= range.end
}

fn pages_of(range: &Range<usize>, span: &Range<usize>) -> Range<usize> {
    let start = range.start.max(span.start) - span.start;
    let end = range.end.min(span.end) - span.start;
    start >> PAGE_SHIFT..end.div_ceil(1 << PAGE_SHIFT)
}

/// Memory for one update of a [`PageTable`].
pub(crate) struct Reserve {
    directories: KVec<KBox<Directory>>,
    leaves: Option<KBox<Leaves>>,
    /// Room for all runs of a block, and for how many [`Self::fill`] makes room.
    runs: KVec<Run>,
    wanted_runs: usize,
}

/// Why pages are not mapped.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum MapError {
    /// The reserve is used up: fill it and try again.
    Reserve,
    /// The device cannot reach them, and it is of no use to try again.
    Failed(Error),
}

impl From<Error> for MapError {
    fn from(e: Error) -> Self {
        Self::Failed(e)
    }
}

impl Reserve {
    /// Room for the directories above a block.
    const DIRECTORIES: usize = hw::LEVELS - 2;

    /// An empty reserve. May sleep.
    pub(crate) fn new() -> Result<Self> {
        Ok(Self {
            directories: KVec::with_capacity(Self::DIRECTORIES, GFP_KERNEL)?,
            leaves: None,
            runs: KVec::new(),
            wanted_runs: 0,
        })
    }

    /// Tells that the next block to be mapped has no more than `runs` runs of system memory, as
    /// long as each is mapped in one piece.
    pub(crate) fn expect(&mut self, runs: usize) {
        self.wanted_runs = runs.min(BLOCK_PAGES);
    }

    /// Adds what is missing for the block that is to be mapped. May sleep.
    pub(crate) fn fill(&mut self, dev: &Device<Bound>) -> Result {
        while self.directories.len() < Self::DIRECTORIES {
            self.directories.push(Directory::new(dev)?, GFP)?;
        }
        if self.leaves.is_none() {
            self.leaves = Some(Leaves::new(dev)?);
        }
        if self.runs.capacity() != self.wanted_runs {
            self.runs = KVec::with_capacity(self.wanted_runs, GFP)?;
        }
        Ok(())
    }
}

/// The page table of one address space.
pub(crate) struct PageTable {
    /// `None` once the driver is unbound.
    root: Option<KBox<Directory>>,
}

/// A page that the device is to reach.
pub(crate) struct Target<'a> {
    /// Its run of pages as the CPU maps it.
    pub(crate) entry: &'a hmm::Entry<'a>,
    /// Offset of the first page of the run in VRAM in bytes; `None` for system memory.
    pub(crate) vram: Option<u64>,
}

impl Target<'_> {
    fn flags(&self) -> u64 {
        let mut flags = leaf_flags(self.entry.is_writable());

        if self.vram.is_none() {
            flags |= hw::ENTRY_SYSTEM;
        }
        flags
    }

    /// Maps pages of the run for the device, if they are system memory.
    ///
    /// CPU and device use them at the same time, and neither hands them over. So that must work
    /// without bounce buffers and without cache maintenance, or not at all.
    fn map(&self, dev: &Device<Bound>, pages: Range<usize>) -> Result<Option<SystemMapping>> {
        if self.vram.is_some() {
            return Ok(None);
        }
        let direction = if self.entry.is_writable() {
            DataDirection::Bidirectional
        } else {
            DataDirection::ToDevice
        };
        let (folio, attrs) = (self.entry.folio(), DMA_ATTR_REQUIRE_COHERENT);
        // SAFETY: The mapping is stored in the page table, which is emptied before `dev` is
        // unbound, and from which the notifier takes it before the process loses the pages. They
        // come from an entry that is valid under the notifier's lock, which is held.
        let mapping = unsafe { Mapping::new_owned(dev, folio, pages, direction, attrs) }?;
        Ok(Some(mapping))
    }
}

impl PageTable {
    /// Allocates the root. May sleep.
    pub(crate) fn new(dev: &Device<Bound>) -> Result<Self> {
        Ok(Self {
            root: Some(Directory::new(dev)?),
        })
    }

    /// The value for the device's table of address spaces.
    pub(crate) fn root_entry(&self) -> u64 {
        self.root.as_ref().map_or(0, |root| root.table.entry())
    }

    /// Gives up all tables and mappings. The device must have forgotten the address space.
    pub(crate) fn destroy(&mut self) {
        self.root = None;
    }

    /// Takes away what the device can reach in `range`, in whole leaves and runs, and the tables
    /// that are empty then.
    ///
    /// Returns the addresses that the device must forget before [`Self::reap`] is called and before
    /// the pages are used for anything else; `None` if there was nothing.
    pub(crate) fn clear(&mut self, range: &Range<usize>) -> Option<Range<usize>> {
        self.root.as_mut()?.clear(hw::LEVELS - 1, 0, range)
    }

    /// Ends the mappings, and frees the tables, that [`Self::clear`] took away.
    pub(crate) fn reap(&mut self, range: &Range<usize>) {
        if let Some(root) = &mut self.root {
            root.reap(hw::LEVELS - 1, 0, range);
        }
    }

    /// Whether the run of `target`, whose first page is page `first` of the block at `block`, is
    /// mapped for reading and may be written now.
    ///
    /// System memory is mapped anew then: it must be cleared before [`Self::map`]. That happens
    /// where the CPU's entry gains the right in place, as for a page of a file.
    pub(crate) fn gains_write(&self, block: usize, first: usize, target: &Target<'_>) -> bool {
        let is_read_only = |page| {
            let entry = self.lookup(block, page);
            entry != 0 && entry & hw::ENTRY_WRITE == 0
        };

        target.vram.is_none()
            && target.entry.is_writable()
            && (first..first + target.entry.nr_pages()).any(is_read_only)
    }

    /// Lets the device reach the run of `target`, whose first page is page `first` of the block
    /// at `block`. Pages that it reaches already only gain rights. Returns the number of others.
    ///
    /// Fails with `ENODEV` after unbind.
    pub(crate) fn map(
        &mut self,
        dev: &Device<Bound>,
        block: usize,
        first: usize,
        target: &Target<'_>,
        reserve: &mut Reserve,
    ) -> Result<usize, MapError> {
        let directory = self.directory(block, reserve)?;
        let i = block >> BLOCK_SHIFT & (ENTRIES - 1);

        if is_huge(first, target) && !matches!(directory.children[i], Some(Child::Leaves(_))) {
            return map_huge(dev, directory, i, target);
        }
        match directory.leaves(i, reserve)? {
            Some(leaves) => map_run(dev, leaves, first, target, reserve),
            // The CPU split its mapping and did not change it, or it would be gone here.
            None => Ok(0),
        }
    }

    /// Lets the device reach memory in VRAM, from byte `vram` on, as `pages` of the block at
    /// `block`, with as large leaves as fit. Pages that it reaches already are left alone. Returns
    /// the number of others.
    ///
    /// Fails with `ENODEV` after unbind.
    pub(crate) fn map_vram(
        &mut self,
        block: usize,
        pages: Range<usize>,
        vram: u64,
        is_writable: bool,
        reserve: &mut Reserve,
    ) -> Result<usize, MapError> {
        self.map_at(block, pages, vram, leaf_flags(is_writable), reserve)
    }

    /// Lets the device read and write the driver's own memory at the DMA address `addr`, as `pages`
    /// of the block at `block`, where nothing is mapped. It must stay until it is unmapped.
    ///
    /// Fails with `ENODEV` after unbind.
    pub(crate) fn map_own(
        &mut self,
        block: usize,
        pages: Range<usize>,
        addr: u64,
        reserve: &mut Reserve,
    ) -> Result<(), MapError> {
        let flags = leaf_flags(true) | hw::ENTRY_SYSTEM;

        self.map_at(block, pages, addr, flags, reserve).map(|_| ())
    }

    /// Lets the device reach what is from `addr` on as `pages` of the block at `block`.
    fn map_at(
        &mut self,
        block: usize,
        pages: Range<usize>,
        addr: u64,
        flags: u64,
        reserve: &mut Reserve,
    ) -> Result<usize, MapError> {
        let directory = self.directory(block, reserve)?;
        let i = block >> BLOCK_SHIFT & (ENTRIES - 1);

        if pages.len() == BLOCK_PAGES
            && addr % BLOCK_SIZE as u64 == 0
            && directory.children[i].is_none()
        {
            directory.table.publish(i, addr | flags);
            directory.children[i] = Some(Child::Huge { _mapping: None });
            return Ok(BLOCK_PAGES);
        }
        let Some(leaves) = directory.leaves(i, reserve)? else {
            return Ok(0);
        };
        let mut mapped = 0;
        let mut page = pages.start;
        while page < pages.end {
            let is_mapped = |&i: &usize| leaves.table.get(i) != 0;
            let end = (page..pages.end).find(is_mapped).unwrap_or(pages.end);
            let addr = addr + (((page - pages.start) as u64) << PAGE_SHIFT);

            leaves.publish_run(page..end, addr, flags);
            mapped += end - page;
            page = end + 1;
        }
        Ok(mapped)
    }

    /// Lets the device read and write `page`, which the CPU cannot access, at `addr`, where nothing
    /// is mapped.
    ///
    /// Fails with `ENODEV` after unbind.
    pub(crate) fn map_exclusive(
        &mut self,
        dev: &Device<Bound>,
        addr: usize,
        page: &ExclusivePage,
        reserve: &mut Reserve,
    ) -> Result<(), MapError> {
        let directory = self.directory(addr, reserve)?;
        let i = addr >> BLOCK_SHIFT & (ENTRIES - 1);
        let leaves = directory.leaves(i, reserve)?.ok_or(EINVAL)?;
        let (at, index) = (page_of(addr), page.index());

        leaves.make_room(reserve)?;
        // SAFETY: The mapping is stored in the page table, which is emptied before `dev` is
        // unbound. The process keeps the page until the notifier was called, which takes the
        // mapping from here; that has not happened, as the caller has the notifier's lock and has
        // checked that nothing has changed.
        let mapping = unsafe {
            Mapping::new_owned(
                dev,
                page.folio(),
                index..index + 1,
                DataDirection::Bidirectional,
                DMA_ATTR_REQUIRE_COHERENT,
            )
        }?;
        let target = mapping.dma_address();
        let run = Run {
            pages: at..at + 1,
            is_exclusive: true,
            _mapping: mapping,
        };

        leaves.runs.push_within_capacity(run).map_err(|_| EINVAL)?;
        leaves.publish_run(at..at + 1, target, leaf_flags(true) | hw::ENTRY_SYSTEM);
        Ok(())
    }

    /// Whether the device has any page of `range` to itself.
    pub(crate) fn has_exclusive(&self, range: &Range<usize>) -> bool {
        self.root
            .as_ref()
            .is_some_and(|root| root.has_exclusive(hw::LEVELS - 1, 0, range))
    }

    /// The table of level 1 for the block at `block`, made if it is missing.
    fn directory(
        &mut self,
        block: usize,
        reserve: &mut Reserve,
    ) -> Result<&mut Directory, MapError> {
        let mut directory = self.root.as_mut().ok_or(ENODEV)?;

        for level in (2..hw::LEVELS).rev() {
            let i = block >> (PAGE_SHIFT + 9 * level) & (ENTRIES - 1);

            if directory.children[i].is_none() {
                let new = reserve.directories.pop().ok_or(MapError::Reserve)?;

                directory.table.publish(i, new.table.entry());
                directory.children[i] = Some(Child::Directory(new));
            }
            let Some(Child::Directory(next)) = &mut directory.children[i] else {
                return Err(EINVAL.into());
            };
            directory = next;
        }
        Ok(directory)
    }

    /// The entry that maps page `page` of the block at `block`, 0 if there is none.
    pub(crate) fn lookup(&self, block: usize, page: usize) -> u64 {
        let Some(mut directory) = self.root.as_ref() else {
            return 0;
        };

        for level in (1..hw::LEVELS).rev() {
            let i = block >> (PAGE_SHIFT + 9 * level) & (ENTRIES - 1);

            match &directory.children[i] {
                Some(Child::Directory(next)) => directory = next,
                Some(Child::Leaves(leaves)) => return leaves.table.get(page),
                Some(Child::Huge { .. }) => return directory.table.get(i),
                None => return 0,
            }
        }
        0
    }
}

/// The number of the page at `addr` within its block.
fn page_of(addr: usize) -> usize {
    addr >> PAGE_SHIFT & (ENTRIES - 1)
}

/// Flags of a leaf in VRAM.
fn leaf_flags(is_writable: bool) -> u64 {
    let rights = if is_writable {
        hw::ENTRY_WRITE | hw::ENTRY_ATOMIC
    } else {
        0
    };

    hw::ENTRY_VALID | hw::ENTRY_LEAF | rights
}

fn is_huge(first: usize, target: &Target<'_>) -> bool {
    first == 0
        && target.entry.nr_pages() == BLOCK_PAGES
        && target.entry.map_order() >= PMD_ORDER
        && target.entry.folio().order() >= PMD_ORDER
}

fn map_huge(
    dev: &Device<Bound>,
    directory: &mut Directory,
    i: usize,
    target: &Target<'_>,
) -> Result<usize, MapError> {
    let old = directory.table.get(i);

    if old == 0 {
        let start = target.entry.page_in_folio();
        let mapping = target.map(dev, start..start + BLOCK_PAGES)?;
        let addr = target
            .vram
            .or(mapping.as_ref().map(|m| m.dma_address()))
            .ok_or(EINVAL)?;

        directory.table.publish(i, addr | target.flags());
        directory.children[i] = Some(Child::Huge { _mapping: mapping });
        return Ok(BLOCK_PAGES);
    }
    directory.table.set(i, old | target.flags());
    Ok(0)
}

fn map_run(
    dev: &Device<Bound>,
    leaves: &mut Leaves,
    first: usize,
    target: &Target<'_>,
    reserve: &mut Reserve,
) -> Result<usize, MapError> {
    let pages = target.entry.nr_pages().min(BLOCK_PAGES - first);
    let mut page = first;
    let mut mapped = 0;

    while page < first + pages {
        let old = leaves.table.get(page);

        if old != 0 {
            leaves.upgrade(page, target.flags());
            page += 1;
            continue;
        }
        let end = (page..first + pages)
            .find(|&i| leaves.table.get(i) != 0)
            .unwrap_or(first + pages);
        map_gap(dev, leaves, page..end, page - first, target, reserve)?;
        mapped += end - page;
        page = end;
    }
    Ok(mapped)
}

/// Maps `pages`, none of which is mapped; the first is page `offset` of the run.
fn map_gap(
    dev: &Device<Bound>,
    leaves: &mut Leaves,
    pages: Range<usize>,
    offset: usize,
    target: &Target<'_>,
    reserve: &mut Reserve,
) -> Result<(), MapError> {
    let start = target.entry.page_in_folio() + offset;
    let addr = match target.vram {
        Some(vram) => vram + ((offset as u64) << PAGE_SHIFT),
        None => {
            leaves.make_room(reserve)?;
            let mapping = target.map(dev, start..start + pages.len())?.ok_or(EINVAL)?;
            let addr = mapping.dma_address();
            let run = Run {
                pages: pages.clone(),
                is_exclusive: false,
                _mapping: mapping,
            };

            leaves.runs.push_within_capacity(run).map_err(|_| EINVAL)?;
            addr
        }
    };

    leaves.publish_run(pages, addr, target.flags());
    Ok(())
}

#[kunit_tests(tern_mmu)]
mod tests {
    use super::*;
    use kernel::{
        bindings,
        error::to_result,
        faux, //
    };

    const PAGE: usize = 1 << PAGE_SHIFT;
    /// Two blocks in one table of level 1, and one far away.
    const BLOCKS: [usize; 3] = [0x7f00_0000_0000, 0x7f00_0020_0000, 0x10_0000_0000];

    /// A device for which memory can be allocated.
    fn device(parent: &faux::Registration) -> Result<&Device<Bound>> {
        let dev: &faux::Device<Bound> = parent.as_ref();
        let dev: &Device<Bound> = dev.as_ref();

        // SAFETY: `Device` is a transparent wrapper of the C type, and nobody else knows this one.
        to_result(unsafe {
            bindings::dma_set_coherent_mask(core::ptr::from_ref(dev).cast_mut().cast(), u64::MAX)
        })?;
        Ok(dev)
    }

    /// Maps page `page` of a block to the start of VRAM.
    fn map(dev: &Device<Bound>, table: &mut PageTable, block: usize, page: usize) -> Result {
        let mut reserve = Reserve::new()?;

        reserve.fill(dev)?;
        table
            .directory(block, &mut reserve)
            .and_then(|directory| directory.leaves(block >> 21 & 511, &mut reserve))
            .map_err(|_| EINVAL)?
            .ok_or(EINVAL)?
            .table
            .publish(page, hw::ENTRY_VALID | hw::ENTRY_LEAF);
        Ok(())
    }

    /// Takes one page away; returns what the device must forget.
    fn unmap(table: &mut PageTable, addr: usize) -> Option<Range<usize>> {
        let stale = table.clear(&(addr..addr + PAGE));

        table.reap(&(addr..addr + PAGE));
        stale
    }

    fn children(table: &mut PageTable, block: usize) -> usize {
        let mut reserve = Reserve {
            directories: KVec::new(),
            leaves: None,
            runs: KVec::new(),
            wanted_runs: 0,
        };

        table
            .directory(block, &mut reserve)
            .map_or(0, |directory| directory.children.iter().flatten().count())
    }

    #[test]
    fn tables_go_with_their_last_page() -> Result {
        let parent = faux::Registration::new(c"tern-mmu", None)?;
        let dev = device(&parent)?;
        let mut table = PageTable::new(dev)?;

        for block in BLOCKS {
            map(dev, &mut table, block, 3)?;
            map(dev, &mut table, block, 5)?;
        }
        assert_eq!(children(&mut table, BLOCKS[0]), 2);

        // One of two pages: the table stays.
        let [first, second, far] = BLOCKS;
        assert_eq!(
            unmap(&mut table, first + 3 * PAGE),
            Some(first..first + BLOCK_SIZE)
        );
        assert_eq!(table.lookup(first, 3), 0);
        assert_ne!(table.lookup(first, 5), 0);
        assert_eq!(children(&mut table, first), 2);

        // A page that is not mapped.
        assert_eq!(unmap(&mut table, first + 4 * PAGE), None);

        // The last one: the table is gone, its neighbour is not.
        assert_eq!(
            unmap(&mut table, first + 5 * PAGE),
            Some(first..first + BLOCK_SIZE)
        );
        assert_eq!(children(&mut table, first), 1);
        assert_ne!(table.lookup(second, 3), 0);

        // The last table of a directory: all that leads there is gone, and must be forgotten.
        unmap(&mut table, second + 3 * PAGE);
        let stale = unmap(&mut table, second + 5 * PAGE).ok_or(EINVAL)?;
        assert_eq!(stale.len(), 1 << 39);
        assert!(stale.contains(&second));
        assert_eq!(children(&mut table, second), 0);
        assert_ne!(table.lookup(far, 3), 0);

        unmap(&mut table, far + 3 * PAGE);
        unmap(&mut table, far + 5 * PAGE);
        let root = table.root.as_ref().ok_or(EINVAL)?;
        assert!(root.table.is_empty());
        assert_eq!(root.children.iter().flatten().count(), 0);
        Ok(())
    }

    #[test]
    fn room_for_runs_comes_and_goes() -> Result {
        let parent = faux::Registration::new(c"tern-mmu-runs", None)?;
        let dev = device(&parent)?;
        let mut reserve = Reserve::new()?;
        let mut leaves = Leaves::new(dev)?;

        // Just as much as was said, though more was there from another block.
        reserve.expect(100);
        reserve.fill(dev)?;
        reserve.expect(3);
        assert_eq!(leaves.make_room(&mut reserve), Err(MapError::Reserve));
        reserve.fill(dev)?;
        assert_eq!(leaves.make_room(&mut reserve), Ok(()));
        assert_eq!(leaves.runs.capacity(), 3);

        leaves.reap();
        assert_eq!(leaves.runs.capacity(), 0);
        // More than was said is asked for by itself.
        reserve.expect(0);
        assert_eq!(leaves.make_room(&mut reserve), Err(MapError::Reserve));
        reserve.fill(dev)?;
        assert_eq!(leaves.make_room(&mut reserve), Ok(()));
        Ok(())
    }

    #[test]
    fn groups_of_64_kib_come_and_go_whole() -> Result {
        let parent = faux::Registration::new(c"tern-mmu-groups", None)?;
        let mut leaves = Leaves::new(device(&parent)?)?;
        let flags = leaf_flags(false);
        let is_group = |leaves: &Leaves, page| leaves.table.get(page) & hw::ENTRY_64K != 0;
        let is_mapped = |leaves: &Leaves, page| leaves.table.get(page) != 0;

        // A part of a group, two groups, a part again; then memory that is not aligned.
        leaves.publish_run(8..56, 8 * PAGE as u64, flags);
        leaves.publish_run(64..80, 65 * PAGE as u64, flags);
        for page in 0..ENTRIES {
            assert_eq!(is_group(&leaves, page), (16..48).contains(&page));
        }

        // One that gains a right is no group any more, its neighbour is.
        leaves.upgrade(47, leaf_flags(true));
        assert!((16..32).all(|page| is_group(&leaves, page)));
        assert!((32..48).all(|page| !is_group(&leaves, page)));

        // A page takes its group along, and nothing else.
        assert!(leaves.clear(20..21));
        for page in 0..ENTRIES {
            let is_left = [8..16, 32..56, 64..80]
                .iter()
                .any(|pages| pages.contains(&page));
            assert_eq!(is_mapped(&leaves, page), is_left);
        }
        Ok(())
    }

    #[test]
    fn ranges_join() {
        assert_eq!(join(None, None), None);
        assert_eq!(join(Some(4..5), None), Some(4..5));
        assert_eq!(join(Some(4..5), Some(1..2)), Some(1..5));
    }
}
