// SPDX-License-Identifier: GPL-2.0

//! Page tables of the device, kept in system memory.
//!
//! A [`PageTable`] mirrors what the CPU's page tables say about the same addresses. It changes
//! under the lock that the interval notifier takes for an invalidation, so nothing here may wait
//! for memory: what an update needs is put in a [`Reserve`] beforehand.

use core::ops::Range;

use kernel::{
    device::{
        Bound,
        Device, //
    },
    dma::{
        Attrs,
        Coherent,
        DataDirection,
        Mapping, //
    },
    mm::{
        folio::{
            Folio,
            PMD_ORDER, //
        },
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

/// A mapping of system memory for the device.
type SystemMapping = Mapping<ARef<Device>>;

/// A table that the device reads.
struct Table(Coherent<[u64]>);

impl Table {
    fn new(dev: &Device<Bound>) -> Result<Self> {
        Ok(Self(Coherent::zeroed_slice(dev, ENTRIES, GFP_KERNEL)?))
    }

    fn get(&self, i: usize) -> u64 {
        // SAFETY: `i % ENTRIES` is within the table. The device only reads it.
        unsafe {
            self.0
                .as_ptr()
                .cast::<u64>()
                .add(i % ENTRIES)
                .read_volatile()
        }
    }

    fn set(&self, i: usize, entry: u64) {
        // SAFETY: `i % ENTRIES` is within the table. The device may read it at the same time,
        // which is why the write is volatile and a single aligned word.
        unsafe {
            self.0
                .as_mut_ptr()
                .cast::<u64>()
                .add(i % ENTRIES)
                .write_volatile(entry)
        }
    }

    fn entry(&self) -> u64 {
        self.0.dma_address() | hw::ENTRY_VALID | hw::ENTRY_SYSTEM
    }
}

/// Pages of system memory that were mapped by one call.
struct Run {
    pages: Range<usize>,
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
        Ok(KBox::new(leaves, GFP_KERNEL)?)
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

    /// Gives a page that is mapped the rights in `flags`. Its group of 64 KiB falls apart then,
    /// since all its entries must be equal.
    fn upgrade(&self, page: usize, flags: u64) {
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

    fn clear(&mut self, pages: Range<usize>) -> bool {
        let mut cleared = false;

        for i in self.whole(pages) {
            cleared |= self.table.get(i) != 0;
            self.table.set(i, 0);
        }
        cleared
    }

    fn reap(&mut self) {
        let table = &self.table;
        self.runs.retain(|run| table.get(run.pages.start) != 0);
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
        let mut children = KVec::with_capacity(ENTRIES, GFP_KERNEL)?;

        for _ in 0..ENTRIES {
            children.push(None, GFP_KERNEL)?;
        }
        let directory = Self {
            table: Table::new(dev)?,
            children,
        };
        Ok(KBox::new(directory, GFP_KERNEL)?)
    }

    /// Clears what maps `range`, and entries whose whole span lies in it. True if there was any.
    fn clear(&mut self, level: usize, base: usize, range: &Range<usize>) -> bool {
        let mut cleared = false;

        for (i, span) in spans(level, base, range) {
            let Some(child) = &mut self.children[i] else {
                continue;
            };
            match child {
                Child::Directory(directory) if !covers(range, &span) => {
                    cleared |= directory.clear(level - 1, span.start, range);
                }
                Child::Leaves(leaves) if !covers(range, &span) => {
                    cleared |= leaves.clear(pages_of(range, &span));
                }
                _ => {
                    cleared |= self.table.get(i) != 0;
                    self.table.set(i, 0);
                }
            }
        }
        cleared
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
    runs: KVec<Run>,
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
        })
    }

    /// Adds what is missing for any one block. May sleep.
    pub(crate) fn fill(&mut self, dev: &Device<Bound>) -> Result {
        while self.directories.len() < Self::DIRECTORIES {
            self.directories.push(Directory::new(dev)?, GFP_KERNEL)?;
        }
        if self.leaves.is_none() {
            self.leaves = Some(Leaves::new(dev)?);
        }
        self.runs.reserve(BLOCK_PAGES, GFP_KERNEL)?;
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
        let mut flags = hw::ENTRY_VALID | hw::ENTRY_LEAF;

        if self.entry.is_writable() {
            flags |= hw::ENTRY_WRITE | hw::ENTRY_ATOMIC;
        }
        if self.vram.is_none() {
            flags |= hw::ENTRY_SYSTEM;
        }
        flags
    }

    /// Maps pages of the run for the device, if they are system memory.
    fn map(
        &self,
        dev: &Device<Bound>,
        folio: &Folio,
        pages: Range<usize>,
    ) -> Result<Option<SystemMapping>> {
        if self.vram.is_some() {
            return Ok(None);
        }
        // Both ways even where it is read-only: it may gain the right to write later.
        let direction = DataDirection::Bidirectional;
        // SAFETY: The mapping is stored in the page table, which is emptied before `dev` is
        // unbound.
        let mapping = unsafe { Mapping::new_owned(dev, folio, pages, direction, Attrs::NONE) }?;
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

    /// Takes away what the device can reach in `range`, in whole leaves and runs.
    ///
    /// Returns true if there was any; then the device's TLB must be invalidated for
    /// [`Self::whole`] blocks of the range before [`Self::reap`] is called and before the pages
    /// are used for anything else.
    pub(crate) fn clear(&mut self, range: &Range<usize>) -> bool {
        let Some(root) = &mut self.root else {
            return false;
        };
        root.clear(hw::LEVELS - 1, 0, range)
    }

    /// Ends the mappings that [`Self::clear`] took away.
    pub(crate) fn reap(&mut self, range: &Range<usize>) {
        if let Some(root) = &mut self.root {
            root.reap(hw::LEVELS - 1, 0, range);
        }
    }

    /// `range` extended to blocks of 2 MiB, which no leaf or run crosses.
    pub(crate) fn whole(range: &Range<usize>) -> Range<usize> {
        range.start & !(BLOCK_SIZE - 1)
            ..range.end.saturating_add(BLOCK_SIZE - 1) & !(BLOCK_SIZE - 1)
    }

    /// Lets the device reach the run of `target`, whose first page is page `first` of the block
    /// at `block`. Pages that it reaches already only gain rights. Returns the number of others.
    ///
    /// Errors: `ENOMEM` when `reserve` is used up: fill it and try again; `ENODEV` after unbind.
    pub(crate) fn map(
        &mut self,
        dev: &Device<Bound>,
        block: usize,
        first: usize,
        target: &Target<'_>,
        reserve: &mut Reserve,
    ) -> Result<usize> {
        let mut directory = self.root.as_mut().ok_or(ENODEV)?;

        for level in (2..hw::LEVELS).rev() {
            let i = block >> (PAGE_SHIFT + 9 * level) & (ENTRIES - 1);

            if directory.children[i].is_none() {
                let new = reserve.directories.pop().ok_or(ENOMEM)?;

                publish(&directory.table, i, new.table.entry());
                directory.children[i] = Some(Child::Directory(new));
            }
            let Some(Child::Directory(next)) = &mut directory.children[i] else {
                return Err(EINVAL);
            };
            directory = next;
        }

        let i = block >> BLOCK_SHIFT & (ENTRIES - 1);
        if is_huge(first, target) && !matches!(directory.children[i], Some(Child::Leaves(_))) {
            return map_huge(dev, directory, i, target);
        }
        if directory.children[i].is_none() {
            let new = reserve.leaves.take().ok_or(ENOMEM)?;

            publish(&directory.table, i, new.table.entry());
            directory.children[i] = Some(Child::Leaves(new));
        }
        match &mut directory.children[i] {
            Some(Child::Leaves(leaves)) => map_run(dev, leaves, first, target, reserve),
            // The CPU split its mapping and did not change it, or it would be gone here.
            _ => Ok(0),
        }
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

/// Stores an entry after all that it leads to.
fn publish(table: &Table, i: usize, entry: u64) {
    barrier::dma_mb(barrier::Write);
    table.set(i, entry);
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
) -> Result<usize> {
    let old = directory.table.get(i);

    if old == 0 {
        let start = target.entry.page_in_folio();
        let mapping = target.map(dev, target.entry.folio(), start..start + BLOCK_PAGES)?;
        let addr = target
            .vram
            .or(mapping.as_ref().map(|m| m.dma_address()))
            .ok_or(EINVAL)?;

        publish(&directory.table, i, addr | target.flags());
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
) -> Result<usize> {
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
) -> Result {
    let start = target.entry.page_in_folio() + offset;
    let addr = match target.vram {
        Some(vram) => vram + ((offset as u64) << PAGE_SHIFT),
        None => {
            if leaves.runs.len() == leaves.runs.capacity() {
                if reserve.runs.capacity() <= leaves.runs.len() {
                    return Err(ENOMEM);
                }
                core::mem::swap(&mut leaves.runs, &mut reserve.runs);
                for run in reserve.runs.drain_all() {
                    // There is room, as was seen above.
                    leaves.runs.push_within_capacity(run).map_err(|_| ENOMEM)?;
                }
            }
            let folio = target.entry.folio();
            let mapping = target
                .map(dev, folio, start..start + pages.len())?
                .ok_or(EINVAL)?;
            let addr = mapping.dma_address();
            let run = Run {
                pages: pages.clone(),
                _mapping: mapping,
            };

            leaves.runs.push_within_capacity(run).map_err(|_| ENOMEM)?;
            addr
        }
    };

    for (i, page) in pages.clone().enumerate() {
        let addr = addr + ((i as u64) << PAGE_SHIFT);
        let group = page & !(GROUP - 1);
        let in_group = pages.start <= group && group + GROUP <= pages.end;
        let aligned = addr >> PAGE_SHIFT & (GROUP as u64 - 1) == page as u64 & (GROUP as u64 - 1);
        let size = if in_group && aligned {
            hw::ENTRY_64K
        } else {
            0
        };

        publish(&leaves.table, page, addr | target.flags() | size);
    }
    Ok(())
}
