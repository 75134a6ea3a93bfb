// SPDX-License-Identifier: GPL-2.0

//! Moving memory between the system and the device.

use core::{
    mem,
    ops::Range, //
};

use kernel::{
    alloc::AllocError,
    device::{
        Bound,
        Device, //
    },
    dma::{
        Attrs,
        DataDirection,
        Mapping, //
    },
    mm::{
        folio::{
            Folio,
            LockedFolio,
            PMD_ORDER, //
        },
        migrate::{
            self,
            Collected,
            Copy,
            DeviceRange,
            Entry,
            Kind,
            Select,
            Setup,
            VmaRange, //
        },
        pagemap::{
            FaultError,
            Level,
            VmFault, //
        },
        virt::VmaRef,
        MmapReadGuard, //
    },
    page::PAGE_SIZE,
    prelude::*,
    sync::Arc,
    time::{
        delay::fsleep,
        Delta,
        Instant,
        Monotonic, //
    },
};

use crate::{
    copy::{
        Batch,
        InFlight, //
    },
    memory::{
        alloc_folio,
        place,
        DeviceMemory, //
    },
    mmu::{
        BLOCK_PAGES,
        BLOCK_SIZE, //
    },
    monitor::{
        Migration,
        Where, //
    },
    stats::{
        Sizes,
        Stats, //
    },
    svm::{
        block::Block,
        Extent,
        Origin,
        Vm, //
    },
};

/// Single pages are moved and holes filled around the one that was hit, in aligned groups.
pub(crate) const AROUND: usize = 16;

/// Whether large folios that are mapped by PTEs move whole. Otherwise they are split, and folios
/// are huge pages or single pages.
pub(crate) fn moves_large() -> bool {
    crate::module_parameters::mthp.value()
}

/// What to collect besides single pages.
fn whole(large: bool) -> Select {
    if large {
        Select::COMPOUND | Select::LARGE
    } else {
        Select::COMPOUND
    }
}

/// Copies under way for one collection.
///
/// The mappings stay until the device is done with them.
struct Copying<'a> {
    flight: InFlight,
    migration: Migration,
    _mappings: KVec<Mapping<&'a Device<Bound>>>,
}

impl<'a> Copying<'a> {
    /// Starts to copy, or to clear, every destination of `collected`, which is what of `range` can
    /// migrate.
    fn start<K: Kind>(
        memory: &'a DeviceMemory,
        collected: &Collected<'_, K>,
        range: Where,
        to_device: bool,
    ) -> Result<Self> {
        // At once, since each further allocation is one more that can fail. A single copy is cut
        // into one for each engine.
        let copies = collected.copies().count();
        let mut batch = Batch::with_capacity(copies.max(memory.copies.len()))?;
        let mut mappings = KVec::with_capacity(copies, GFP_KERNEL)?;

        for copy in collected.copies() {
            add_copy(memory, &mut batch, &mut mappings, &copy)?;
        }
        Ok(Self {
            migration: Migration {
                range,
                to_device,
                sizes: Sizes::default(),
                bytes: batch.bytes(),
                ns: 0,
            },
            flight: memory.copies.start(batch),
            _mappings: mappings,
        })
    }

    /// Waits until the data has arrived; tells about the migration so far.
    ///
    /// The mappings end here, which is when data in a bounce buffer reaches its page. Where this
    /// fails, dropping what was collected puts everything back as it was.
    fn wait(self, memory: &DeviceMemory, stats: &Stats) -> (Migration, Result) {
        let start = Instant::<Monotonic>::now();
        let result = memory.copies.wait(self.flight);
        let mut migration = self.migration;

        migration.ns = stats.copy_ns.add_since(start);
        if result.is_err() {
            migration.bytes = 0;
        }
        (migration, result)
    }
}

/// Adds one folio to `batch`. Exactly one of its sides is device memory.
fn add_copy<'a>(
    memory: &'a DeviceMemory,
    batch: &mut Batch,
    mappings: &mut KVec<Mapping<&'a Device<Bound>>>,
    copy: &Copy<'_>,
) -> Result {
    let pages = copy.dst.nr_pages();
    let length = copy.dst.size() as u32;
    let mut system = |folio: &Folio, first: usize, direction| -> Result<_> {
        let range = first..first + pages;
        let mapping = Mapping::new(memory.dev(), folio.into(), range, direction, Attrs::NONE)?;
        let place = crate::copy::Place::System(mapping.dma_address());

        mappings.push(mapping, GFP_KERNEL)?;
        Ok(place)
    };

    let dst = match place(memory, copy.dst, 0) {
        Some(place) => place,
        None => system(copy.dst, 0, DataDirection::FromDevice)?,
    };
    let Some((folio, first)) = copy.src else {
        return batch.clear(dst, length);
    };
    let src = match place(memory, folio, first) {
        Some(place) => place,
        None => system(folio, first, DataDirection::ToDevice)?,
    };
    batch.copy(src, dst, length)
}

/// A part of a VMA on its way to the device.
pub(crate) struct ToDevice<'a> {
    memory: &'a DeviceMemory,
    stats: &'a Stats,
    collected: Collected<'a, VmaRange<'a>>,
    copying: Copying<'a>,
}

impl<'a> ToDevice<'a> {
    /// Collects what of `range` can move and starts to copy it. `None` if nothing can.
    ///
    /// `range` lies in `vma` and is what [`to_move`] gives for `block`. Pages that are not there
    /// are made on the device if one of their group is wanted, and with them those that a fault of
    /// the CPU would make a folio of.
    ///
    /// [`to_move`]: crate::svm::fault::to_move
    pub(crate) fn begin(
        vm: &'a Vm,
        mmap: &'a MmapReadGuard<'_>,
        vma: &'a VmaRef,
        range: Range<usize>,
        block: &Block,
        buf: &'a mut migrate::Buffer,
    ) -> Result<Option<Self>> {
        let start = Instant::<Monotonic>::now();
        let (memory, stats): (&DeviceMemory, &Stats) = (&vm.memory, &vm.origin.stats);
        if !memory.vram.has_room() {
            return Ok(None);
        }

        let select = Select::SYSTEM | whole(vm.origin.moves_large());
        let mut collected = Setup::new(mmap, vma, range.clone(), select)
            .owner(memory.owner())
            .collect(buf)?;
        let is_wanted = |page| block.wants_near(range.start + page * PAGE_SIZE, AROUND);
        let mut any = false;
        for mut entry in collected.entries() {
            any |= set_device(vm, vma, &mut entry, is_wanted);
        }
        if !any {
            return Ok(None);
        }
        let copying = Copying::start(memory, &collected, Where::Addresses(range), true)?;
        stats.collect_ns.add_since(start);
        Ok(Some(Self {
            memory,
            stats,
            collected,
            copying,
        }))
    }

    /// Waits for the copy and puts the pages in place; returns how many have moved.
    pub(crate) fn finish(self) -> Result<usize> {
        let Self {
            memory,
            stats,
            collected,
            copying,
        } = self;

        finish(memory, collected, copying, stats)
    }
}

/// Waits for the copies, puts the destinations in place and counts them in `stats`. Returns the
/// number of pages that have moved.
fn finish<K: Kind>(
    memory: &DeviceMemory,
    collected: Collected<'_, K>,
    copying: Copying<'_>,
    stats: &Stats,
) -> Result<usize> {
    let (mut migration, result) = copying.wait(memory, stats);
    let mut pages = 0;

    if result.is_ok() {
        let start = Instant::<Monotonic>::now();
        let migrated = collected.pages();
        for outcome in migrated.outcomes() {
            if outcome.migrated {
                migration.sizes.count(outcome.dst.order());
                pages += outcome.dst.nr_pages();
            }
        }
        // Before anybody who waits for the pages goes on.
        stats.moved(migration.to_device, &migration.sizes, migration.bytes);
        migrated.finalize();
        migration.ns += stats.install_ns.add_since(start);
    }
    memory.monitor.migration(&migration, result);
    result.map(|()| pages)
}

/// Sets the destination of `entry` in device memory. False if there is none for it, or none is
/// wanted.
///
/// A folio moves to the largest ones that there is room for, or stays where it is. Of a hole the
/// pages for which `is_wanted` is true are filled, with folios that a fault of the CPU could make.
/// It is told which page it is of those that were collected.
fn set_device(
    vm: &Vm,
    vma: &VmaRef,
    entry: &mut Entry<'_>,
    is_wanted: impl Fn(usize) -> bool,
) -> bool {
    let index = entry.index();
    let alloc = |order| alloc_folio(&vm.memory, order, &vm.origin);

    if !entry.is_hole() {
        let get = |_, order| alloc(order).ok_or(AllocError);
        return set_largest(entry, vm.origin.moves_large(), get).is_ok();
    }
    // Most holes of a block are single pages that nobody wants.
    if !(index..index + entry.nr_pages()).any(&is_wanted) {
        return false;
    }
    let orders = hole_orders(vm, vma, entry.order());
    entry.fill(|page| {
        let fits = |&order: &u32| {
            orders & 1 << order != 0
                && page % (1 << order) == 0
                && (page..page + (1 << order)).any(|page| is_wanted(index + page))
        };

        (0..=PMD_ORDER).rev().filter(fits).find_map(alloc)
    }) > 0
}

/// The orders of folios, as bits, to fill a hole of `order` with.
fn hole_orders(vm: &Vm, vma: &VmaRef, order: u32) -> u32 {
    (1..=order)
        .filter(|&order| vm.origin.moves_large() || order == PMD_ORDER)
        .filter(|&order| vma.allows_order(order))
        .fold(1, |orders, order| orders | 1 << order)
}

/// Sets the destination of `entry`: one folio, or the largest parts for which `get`, which is told
/// the first page and the order, has folios. Without `large` there are none between huge pages and
/// single pages.
fn set_largest(
    entry: &mut Entry<'_>,
    large: bool,
    mut get: impl FnMut(usize, u32) -> Result<LockedFolio, AllocError>,
) -> Result {
    entry.set_largest(|page, order| match order {
        0 | PMD_ORDER => Ok(get(page, order)?),
        _ if large => Ok(get(page, order)?),
        _ => Err(ENOMEM),
    })
}

/// Brings memory that the CPU touched back, as the folio that it is where the system has one.
///
/// Takes no lock but the folio's, so that faults of all processes run side by side.
pub(crate) fn to_system(memory: &DeviceMemory, fault: &VmFault) -> Result<(), FaultError> {
    let vma = fault.vma();
    let origin: Arc<Origin> = match memory.folio_data(&fault.folio()) {
        Some(origin) => origin.into(),
        None => return Err(FaultError::Sigbus),
    };
    let stats = &origin.stats;
    let start = Instant::<Monotonic>::now();
    let epoch = memory.copies.epoch();
    let range = fault_range(fault, &origin);
    let mut buf =
        migrate::Buffer::new(range.len() / PAGE_SIZE, GFP_KERNEL).map_err(|_| FaultError::Oom)?;

    stats.cpu_faults.add(1);
    let mut collected = Setup::for_fault(fault, range.clone(), memory.owner())
        .select(Select::DEVICE_PRIVATE | whole(origin.moves_large()))
        .collect(&mut buf)
        .map_err(to_fault_error)?;
    for mut entry in collected.entries() {
        let first = range.start + entry.index() * PAGE_SIZE;
        let get = |page, order| alloc_system(memory, &origin, vma, first + page * PAGE_SIZE, order);

        // The core collects holes, too; they stay holes.
        if entry.is_hole() {
            continue;
        }
        // The rest may stay if there is no memory for it.
        let is_set = set_largest(&mut entry, origin.moves_large(), get).is_ok();
        if !is_set && is_waited_for(fault, first, entry.nr_pages()) {
            return Err(FaultError::Oom);
        }
    }
    let copying = Copying::start(memory, &collected, Where::Addresses(range), false)
        .map_err(to_fault_error)?;
    stats.collect_ns.add_since(start);

    match finish(memory, collected, copying, stats) {
        // The device was lost meanwhile, but what is in its memory is not. The CPU tries again.
        Err(_) if memory.copies.has_restarted(epoch) => Ok(()),
        result => result.map(|_| ()).map_err(to_fault_error),
    }
}

/// What a fault of the CPU ends with: it is served again where only memory was missing.
fn to_fault_error(e: Error) -> FaultError {
    match e {
        ENOMEM => FaultError::Oom,
        _ => FaultError::Sigbus,
    }
}

/// Whether `fault` is in the `nr_pages` from `first` on.
fn is_waited_for(fault: &VmFault, first: usize, nr_pages: usize) -> bool {
    (first..first + nr_pages * PAGE_SIZE).contains(&fault.address())
}

/// Brings back what `block` wants and is in device memory, a large folio whole if all of it is in
/// `range`. Returns the number of pages.
///
/// `range` lies in `vma` and is what [`to_move`] gives for `block`. May sleep.
///
/// [`to_move`]: crate::svm::fault::to_move
///
/// Errors: `ENOMEM` if there was no memory for all of it, where what there was memory for has
/// moved, so that who tries again gets further each time; any other one means that the device did
/// not do it, and nothing has moved.
pub(crate) fn back_to_system(
    vm: &Vm,
    mmap: &MmapReadGuard<'_>,
    vma: &VmaRef,
    range: Range<usize>,
    block: &Block,
    buf: &mut migrate::Buffer,
) -> Result<usize> {
    let start = Instant::<Monotonic>::now();
    let (memory, stats): (&DeviceMemory, &Stats) = (&vm.memory, &vm.origin.stats);
    let (mut any, mut complete) = (false, Ok(()));

    let select = Select::DEVICE_PRIVATE | whole(vm.origin.moves_large());
    let mut collected = Setup::new(mmap, vma, range.clone(), select)
        .owner(memory.owner())
        .collect(buf)?;
    for mut entry in collected.entries() {
        let start = range.start + entry.index() * PAGE_SIZE;
        let end = start + entry.nr_pages() * PAGE_SIZE;
        let get =
            |page, order| alloc_system(memory, &vm.origin, vma, start + page * PAGE_SIZE, order);

        // The core collects holes, too; they stay holes.
        if !entry.is_hole() && block.wants_any(&(start..end)) {
            match set_largest(&mut entry, vm.origin.moves_large(), get) {
                Ok(()) => any = true,
                Err(e) => complete = Err(e),
            }
        }
    }
    if !any {
        return complete.map(|()| 0);
    }
    let copying = Copying::start(memory, &collected, Where::Addresses(range), false)?;
    stats.collect_ns.add_since(start);
    let moved = finish(memory, collected, copying, stats)?;
    complete.map(|()| moved)
}

/// Allocates system memory for `addr` in `vma`, by its memory policy, for what `origin` has moved;
/// a large folio only if that takes no effort.
fn alloc_system(
    memory: &DeviceMemory,
    origin: &Origin,
    vma: &VmaRef,
    addr: usize,
    order: u32,
) -> Result<LockedFolio, AllocError> {
    let flags = if order > 0 {
        GFP_TRANSHUGE_LIGHT
    } else {
        GFP_HIGHUSER_MOVABLE
    };

    origin
        .fail_injected()
        .and_then(|()| Folio::alloc_for_vma(vma, addr, order, flags))
        .inspect_err(|_| memory.monitor.lacks(order))
        .map(Folio::lock)
}

/// What to bring back for a CPU fault: the whole folio, or a group of single pages; and more of it
/// for a CPU that reads on. Of memory that moves exactly, a huge page or a single one.
fn fault_range(fault: &VmFault, origin: &Origin) -> Range<usize> {
    let folio = fault.folio();
    let aligned = |pages: usize| fault.address() & !(pages * PAGE_SIZE - 1);
    let (start, pages) = match fault.level() {
        Level::Pmd => (aligned(BLOCK_PAGES), BLOCK_PAGES),
        Level::Pte if origin.extent == Extent::Exact => (aligned(1), 1),
        Level::Pte if folio.order() > 0 && moves_large() => {
            let before = (fault.pfn() - folio.pfn()) * PAGE_SIZE;

            // As long as it is mapped from its first page on. Otherwise it is split anyway.
            (fault.address().saturating_sub(before), folio.nr_pages())
        }
        Level::Pte => (aligned(AROUND), AROUND),
    };
    let end = start + pages * PAGE_SIZE;

    let range = start.max(fault.vma().start())..end.min(fault.vma().end());
    let range = match origin.extent {
        Extent::Around => origin.streams.follow(range),
        Extent::Exact => range,
    };

    range.start..range.end.min(fault.vma().end())
}

/// Brings back what is in device memory now, whoever maps it. What cannot be had for the moment
/// stays. May sleep; needs no mmap lock.
///
/// Fails with `ENOMEM` before anything has moved.
pub(crate) fn evict_once(memory: &DeviceMemory) -> Result {
    let mut buf = migrate::Buffer::new(BLOCK_PAGES, GFP_KERNEL)?;

    for start in (0..memory.vram.pages()).step_by(BLOCK_PAGES) {
        // A block that fails is as it was.
        let _ = evict_block(memory, start, &mut buf);
    }
    Ok(())
}

/// Brings back all device memory, whoever maps it. From now on none is allocated any more.
///
/// For unbind. Returns the number of pages that are still in use. May sleep; needs no mmap lock.
///
/// Nobody keeps device memory for long: who wants to pin a page has it brought back first. What
/// stands in the way of a folio is a fault of the CPU or another migration under way, so it is
/// tried again. Pages are left only if the system has no memory for them, or if the device is lost
/// for good and with it what they held. Those are freed when the processes that map them end, of
/// `SIGBUS` if they touch them, and the pagemap with them.
pub(crate) fn evict(memory: &DeviceMemory) -> usize {
    /// Rounds in a row that achieve nothing, and the time between them: as long as a copy may take.
    const IDLE_ROUNDS: usize = 1000;
    const PAUSE: Delta = Delta::from_millis(10);
    let mut idle = 0;

    memory.vram.stop();
    let mut left = memory.vram.folio_pages();
    while left > 0 && idle < IDLE_ROUNDS && !memory.copies.is_dead() {
        // What fails is still there in the next round.
        let _ = evict_once(memory);
        let before = mem::replace(&mut left, memory.vram.folio_pages());
        if left < before {
            idle = 0;
        } else {
            idle += 1;
            fsleep(PAUSE);
        }
    }
    left
}

/// Brings back the block of 2 MiB at page `start`, as the folios that it has where the system has
/// such. What it has no memory for stays.
fn evict_block(memory: &DeviceMemory, start: usize, buf: &mut migrate::Buffer) -> Result {
    let pages = start..start + BLOCK_PAGES;
    let bytes = start * PAGE_SIZE..start * PAGE_SIZE + BLOCK_SIZE;
    let mut collected: Collected<'_, DeviceRange<'_>> =
        migrate::collect_device_range(memory, pages, buf)?;

    if collected.is_empty() {
        return Ok(());
    }
    for mut entry in collected.entries() {
        let get = |_, order| {
            let flags = if order > 0 {
                GFP_TRANSHUGE
            } else {
                GFP_HIGHUSER_MOVABLE
            };
            Folio::alloc(order, flags)
                .inspect_err(|_| memory.monitor.lacks(order))
                .map(Folio::lock)
        };

        let _ = set_largest(&mut entry, moves_large(), get);
    }
    let copying = Copying::start(memory, &collected, Where::Vram(bytes), false)?;
    // Whose pages they are, nobody asks any more.
    finish(memory, collected, copying, &Stats::default()).map(|_| ())
}
