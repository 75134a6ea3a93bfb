// SPDX-License-Identifier: GPL-2.0

//! Migration of memory to and from a device.
//!
//! A migration has three steps, and a type for the state after each:
//!
//! 1. [`Setup::collect`] (or [`collect_device_range`], [`collect_device_offsets`]) finds the pages,
//!    locks them and takes them out of all page tables. The result is [`Collected`]: the contents
//!    are stable, and whoever touches them waits. The driver walks the [entries], gives those that
//!    it wants to migrate a destination, and copies.
//! 2. [`Collected::pages`] makes the destinations take the place of the sources. The result is
//!    [`Migrated`]: it tells [what migrated], and the driver updates its page tables.
//! 3. [`Migrated::finalize`] maps the destinations, or the sources where that failed, and unlocks
//!    and releases all of them.
//!
//! Dropping the value in any state takes the shortest way to an end: what has not migrated stays
//! where it was.
//!
//! # Wrong orders
//!
//! They do not compile. No destination is set when the pages are in place already:
//!
//! ```ignore,compile_fail,E0382
//! # use kernel::mm::{folio::LockedFolio, migrate::{Collected, VmaRange}};
//! fn late(mut collected: Collected<'_, VmaRange<'_>>, folio: LockedFolio) {
//!     let migrated = collected.pages();
//!     let _ = collected.entries().next().map(|mut entry| entry.set(folio));
//!     migrated.finalize();
//! }
//! ```
//!
//! What migrated is not known before:
//!
//! ```ignore,compile_fail,E0599
//! # use kernel::mm::migrate::{Collected, VmaRange};
//! fn early(collected: Collected<'_, VmaRange<'_>>) -> usize {
//!     collected.outcomes().count()
//! }
//! ```
//!
//! The mmap lock is held to the end:
//!
//! ```ignore,compile_fail,E0505
//! # use kernel::{mm::{migrate::{Buffer, Select, Setup}, MmWithUser}, prelude::*};
//! # use core::ops::Range;
//! fn unlocked(mm: &MmWithUser, range: Range<usize>, buffer: &mut Buffer) -> Result {
//!     let mmap = mm.mmap_read_lock();
//!     let vma = mmap.vma_lookup(range.start).ok_or(EFAULT)?;
//!     let collected = Setup::new(&mmap, vma, range, Select::SYSTEM).collect(buffer)?;
//!     drop(mmap);
//!     collected.pages().finalize();
//!     Ok(())
//! }
//! ```
//!
//! The slots belong to one migration at a time:
//!
//! ```ignore,compile_fail,E0499
//! # use kernel::{mm::migrate::{Buffer, Setup}, prelude::*};
//! fn both<'a>(one: Setup<'a>, other: Setup<'a>, buffer: &'a mut Buffer) -> Result {
//!     let one = one.collect(buffer)?;
//!     let other = other.collect(buffer)?;
//!     one.pages().finalize();
//!     other.pages().finalize();
//!     Ok(())
//! }
//! ```
//!
//! A destination is locked:
//!
//! ```ignore,compile_fail,E0308
//! # use kernel::{mm::{folio::Folio, migrate::Entry}, sync::aref::ARef};
//! fn unlocked(mut entry: Entry<'_>, folio: ARef<Folio>) {
//!     let _ = entry.set(folio);
//! }
//! ```
//!
//! # Slots
//!
//! Slots are base pages, counted from the start of the range. A folio takes as many slots as it has
//! pages, and is walked as one entry. So is a hole that a large folio fits into.
//!
//! # Locking
//!
//! Collecting calls the MMU notifiers of the range, those of the caller included, so no lock may be
//! held that they take. From then on folio locks are held; see
//! [`Folio::lock`](crate::mm::folio::Folio::lock) for the rule about further ones.
//!
//! C header: [`include/linux/migrate.h`](srctree/include/linux/migrate.h)
//!
//! [entries]: Collected::entries
//! [what migrated]: Migrated::outcomes

use crate::{
    alloc::{
        AllocError,
        Flags, //
    },
    bindings,
    error::to_result,
    mm::{
        folio::{
            Folio,
            LockedFolio, //
        },
        pagemap::{
            DevicePagemap,
            DevicePagemapOps,
            Owner,
            VmFault, //
        },
        virt::{
            flags,
            vm_flags_t,
            VmaRef, //
        },
        MmapReadGuard, //
    },
    page::{
        PAGE_SHIFT,
        PAGE_SIZE, //
    },
    prelude::*,
    types::Opaque, //
};
use core::{
    iter,
    marker::PhantomData,
    ops::{
        BitOr,
        Deref,
        Range, //
    },
    ptr::{
        self,
        NonNull, //
    }, //
};

const VALID: usize = bindings::MIGRATE_PFN_VALID as usize;
const MIGRATE: usize = bindings::MIGRATE_PFN_MIGRATE as usize;
const WRITE: usize = bindings::MIGRATE_PFN_WRITE as usize;
const COMPOUND: usize = bindings::MIGRATE_PFN_COMPOUND as usize;

/// The value of one slot.
#[derive(Copy, Clone)]
struct Slot(usize);

impl Slot {
    /// The slot of a destination.
    fn for_folio(folio: &Folio) -> Self {
        let compound = if folio.order() > 0 { COMPOUND } else { 0 };

        Self(folio.pfn() << bindings::MIGRATE_PFN_SHIFT | VALID | compound)
    }

    #[inline]
    fn has(self, flag: usize) -> bool {
        self.0 & flag != 0
    }

    /// The frame number, if there is a page.
    #[inline]
    fn pfn(self) -> Option<usize> {
        self.has(VALID)
            .then_some(self.0 >> bindings::MIGRATE_PFN_SHIFT)
    }

    /// The folio, if there is a page.
    ///
    /// # Safety
    ///
    /// The slot must hold the lock of the folio and a reference to it during `'a`.
    #[inline]
    unsafe fn folio<'a>(self) -> Option<&'a Folio> {
        // SAFETY: By the safety requirements; a locked folio is not split.
        Some(unsafe { Folio::from_pfn(self.pfn()?) })
    }

    /// The number of slots, as order, of the entry that starts with this one.
    ///
    /// # Safety
    ///
    /// As for [`Slot::folio`].
    #[inline]
    unsafe fn order(self) -> u32 {
        if !self.has(COMPOUND) {
            return 0;
        }
        // SAFETY: The entry is a hole, or by the safety requirements its page is part of a folio
        // that is referenced and locked, and so is not split meanwhile.
        unsafe { bindings::migrate_pfn_order(self.0) }
    }
}

/// Memory for the slots of a migration. It can be used again when the migration has ended.
pub struct Buffer {
    src: KVVec<usize>,
    dst: KVVec<usize>,
}

impl Buffer {
    /// Allocates slots for `nr_pages` pages, 16 bytes each. May sleep if `flags` allows it.
    pub fn new(nr_pages: usize, flags: Flags) -> Result<Self, AllocError> {
        Ok(Self {
            src: KVVec::from_elem(0, nr_pages, flags)?,
            dst: KVVec::from_elem(0, nr_pages, flags)?,
        })
    }

    /// Returns for how many pages there are slots.
    #[inline]
    pub fn capacity(&self) -> usize {
        self.src.len()
    }

    /// Returns `nr_pages` empty slots for sources and as many for destinations.
    fn slots(&mut self, nr_pages: usize) -> Result<(&mut [usize], &mut [usize])> {
        let src = self.src.get_mut(..nr_pages).ok_or(EINVAL)?;
        let dst = self.dst.get_mut(..nr_pages).ok_or(EINVAL)?;

        src.fill(0);
        dst.fill(0);
        Ok((src, dst))
    }
}

/// Which pages of a range to collect. Values are combined with `|`.
#[derive(Copy, Clone, PartialEq, Eq)]
pub struct Select(bindings::migrate_vma_direction);

impl Select {
    /// Pages in system memory, and holes.
    pub const SYSTEM: Self = Self(bindings::migrate_vma_direction_MIGRATE_VMA_SELECT_SYSTEM);

    /// Device-private pages of the [owner](Setup::owner).
    pub const DEVICE_PRIVATE: Self =
        Self(bindings::migrate_vma_direction_MIGRATE_VMA_SELECT_DEVICE_PRIVATE);

    /// Huge pages as they are, where a PMD maps them, and holes of that size. Without it they are
    /// split into base pages first.
    pub const COMPOUND: Self = Self(bindings::migrate_vma_direction_MIGRATE_VMA_SELECT_COMPOUND);

    /// Large folios as they are, of any order, where PTEs map them wholly and one page after the
    /// other, and holes as large as a fault of the CPU would fill them by one folio. Without it
    /// they are split into base pages first.
    pub const LARGE: Self = Self(bindings::migrate_vma_direction_MIGRATE_VMA_SELECT_LARGE);
}

impl BitOr for Select {
    type Output = Self;

    fn bitor(self, rhs: Self) -> Self {
        Self(self.0 | rhs.0)
    }
}

/// What to collect from an address range.
///
/// # Examples
///
/// Moving anonymous memory to a device, in folios of any size:
///
/// ```
/// use core::ops::Range;
/// use kernel::mm::{
///     folio::LockedFolio,
///     migrate::{Buffer, Copy, Select, Setup},
///     pagemap::{DevicePagemap, DevicePagemapOps},
///     MmWithUser,
/// };
///
/// fn to_device<T: DevicePagemapOps>(
///     mm: &MmWithUser,
///     range: Range<usize>,
///     vram: &DevicePagemap<T>,
///     alloc: impl Fn(u32) -> Result<LockedFolio>,
///     copy: impl Fn(Copy<'_>) -> Result,
/// ) -> Result {
///     let mut buffer = Buffer::new(512, GFP_KERNEL)?;
///
///     let mmap = mm.mmap_read_lock();
///     let vma = mmap.vma_lookup(range.start).ok_or(EFAULT)?;
///     let select = Select::SYSTEM | Select::COMPOUND | Select::LARGE;
///     let mut collected = Setup::new(&mmap, vma, range, select)
///         .owner(vram.owner())
///         .collect(&mut buffer)?;
///
///     for mut entry in collected.entries() {
///         // What finds no room stays where it is.
///         let _ = entry.set_largest(|_, order| alloc(order));
///     }
///
///     // On failure all sources stay where they are.
///     collected.copies().try_for_each(copy)?;
///
///     let migrated = collected.pages();
///     for outcome in migrated.outcomes() {
///         pr_debug!("slot {}: {}\n", outcome.index, outcome.migrated);
///     }
///     migrated.finalize();
///     Ok(())
/// }
/// ```
pub struct Setup<'a> {
    vma: &'a VmaRef,
    range: Range<usize>,
    select: Select,
    owner: Option<Owner>,
    fault: Option<&'a VmFault>,
    locked: bool,
}

impl<'a> Setup<'a> {
    /// Collects from the addresses `range` (bytes) of `vma`, which must be one of `mmap`.
    pub fn new(
        mmap: &'a MmapReadGuard<'_>,
        vma: &'a VmaRef,
        range: Range<usize>,
        select: Select,
    ) -> Self {
        Self {
            vma,
            range,
            select,
            owner: None,
            fault: None,
            locked: ptr::eq(mmap.mm().as_raw(), vma.mm().as_raw()),
        }
    }

    /// Collects device-private folios of `owner` around a fault of the CPU, to bring them back.
    ///
    /// `range` (bytes) must have the page that faulted, and should cover its folio. A large folio
    /// of which `range` has only a part is split, and so is one that is mapped
    /// [page by page](VmFault::level), unless [`Select::LARGE`] is [added](Setup::select).
    pub fn for_fault(fault: &'a VmFault, range: Range<usize>, owner: Owner) -> Self {
        Self {
            vma: fault.vma(),
            range,
            select: Select::DEVICE_PRIVATE | Select::COMPOUND,
            owner: Some(owner),
            fault: Some(fault),
            // A `VmFault` exists only while the mmap lock is held.
            locked: true,
        }
    }

    /// Replaces the selection.
    pub fn select(mut self, select: Select) -> Self {
        self.select = select;
        self
    }

    /// Sets whose device-private pages are selected, and whose name the notifier events bear.
    pub fn owner(mut self, owner: Owner) -> Self {
        self.owner = Some(owner);
        self
    }

    /// Collects the pages. May sleep.
    ///
    /// That a page cannot be collected is not an error; it merely has no entry. Fails with
    /// [`EINVAL`] if the range is empty, not aligned to pages, not within the area or larger than
    /// `buffer`, or if the area is one of device, DAX or hugetlb pages. Wraps
    /// `migrate_vma_setup()`.
    pub fn collect(self, buffer: &'a mut Buffer) -> Result<Collected<'a, VmaRange<'a>>> {
        let Range { start, end } = self.range;
        if !self.locked || start >= end || (start | end) & (PAGE_SIZE - 1) != 0 {
            return Err(EINVAL);
        }
        let (src, dst) = buffer.slots((end - start) >> PAGE_SHIFT)?;

        let mut kind = VmaRange {
            args: bindings::migrate_vma {
                vma: self.vma.as_ptr(),
                dst: dst.as_mut_ptr(),
                src: src.as_mut_ptr(),
                start,
                end,
                pgmap_owner: self.owner.map_or(ptr::null_mut(), Owner::as_raw),
                flags: self.select.0,
                fault_page: self.fault.map_or(ptr::null_mut(), VmFault::page),
                ..pin_init::zeroed()
            },
            _area: PhantomData,
        };

        // SAFETY: The mmap lock is held during `'a`, since a guard or a `VmFault` of the same mm is
        // borrowed. Both arrays have a slot per page. The function checks range and area.
        to_result(unsafe { bindings::migrate_vma_setup(&mut kind.args) })?;

        // INVARIANT: The sources were just collected and there are no destinations.
        Ok(Collected(Migration {
            kind,
            src,
            dst,
            placed: false,
        }))
    }
}

/// Returns whether pages of `vma` can be [collected](Setup::collect) at all: not if the area is one
/// of device, DAX or hugetlb pages.
pub fn can_collect(vma: &VmaRef) -> bool {
    const SPECIAL: vm_flags_t = flags::IO | flags::DONTEXPAND | flags::PFNMAP | flags::MIXEDMAP;

    vma.flags() & SPECIAL == 0
        && !vma.is_hugetlb()
        // SAFETY: The area is valid, and locked so that it keeps its file.
        && !unsafe { bindings::vma_is_dax(vma.as_ptr()) }
}

/// Returns the next addresses in `range`, which lies in `vma`, that may be migrated to a device.
///
/// That is all of an anonymous area, and of a private one of a file what is a copy by now. A page
/// of the file can be collected too, but is put back, and a large folio is split for it. The memory
/// may be another one as soon as this returns. `vma` must be one of `mmap`. Takes page-table locks;
/// does not sleep.
pub fn next_anonymous(
    mmap: &MmapReadGuard<'_>,
    vma: &VmaRef,
    range: Range<usize>,
) -> Option<Range<usize>> {
    if range.is_empty() || !ptr::eq(mmap.mm().as_raw(), vma.mm().as_raw()) {
        return None;
    }
    if vma.is_anonymous() {
        return Some(range);
    }
    // SAFETY: The area is valid. The field is set at most once while the mmap lock is held.
    let anon_vma = unsafe { ptr::addr_of!((*vma.as_ptr()).anon_vma).read_volatile() };
    if anon_vma.is_null() {
        return None;
    }
    let start = range
        .clone()
        .step_by(PAGE_SIZE)
        .find(|&addr| is_anonymous(vma, addr))?;
    let end = (start..range.end)
        .step_by(PAGE_SIZE)
        .find(|&addr| !is_anonymous(vma, addr));

    Some(start..end.unwrap_or(range.end))
}

/// Returns whether an anonymous page is mapped at `addr`, which is in `vma`, in memory of the
/// system or of a device. The mmap lock must be held.
fn is_anonymous(vma: &VmaRef, addr: usize) -> bool {
    let walk = Opaque::uninit();

    // SAFETY: The mmap lock is held, and `addr` is in `vma`.
    let folio = unsafe {
        bindings::folio_walk_start(walk.get(), vma.as_ptr(), addr, bindings::FW_DEVICE_PRIVATE)
    };
    if folio.is_null() {
        return false;
    }
    // SAFETY: The folio stays mapped as long as the page-table lock is held, until the walk ends.
    let is_anon = unsafe { Folio::from_raw(folio) }.is_anon();
    // SAFETY: A folio was found, so `walk` was filled; this ends the walk.
    unsafe { bindings::folio_walk_end(walk.get(), vma.as_ptr()) };
    is_anon
}

/// Collects the folios in the page offsets `range` of `pagemap`, to migrate them to system memory.
///
/// This is for eviction: neither an address nor the mmap lock is needed. Pages that are free or
/// busy have no entry, and neither has a folio that is not wholly in the range. May sleep. Fails
/// with [`EINVAL`] if the range is empty, not within the pagemap or larger than `buffer`. Wraps
/// `migrate_device_range()`.
pub fn collect_device_range<'a, T: DevicePagemapOps>(
    pagemap: &'a DevicePagemap<T>,
    range: Range<usize>,
    buffer: &'a mut Buffer,
) -> Result<Collected<'a, DeviceRange<'a>>> {
    let nr_pages = range.len();
    let (Some(first), Some(_)) = (
        pagemap.pfn(range.start),
        pagemap.pfn(range.end.wrapping_sub(1)),
    ) else {
        return Err(EINVAL);
    };
    if nr_pages == 0 {
        return Err(EINVAL);
    }
    let (src, dst) = buffer.slots(nr_pages)?;

    // SAFETY: All frames are pages of `pagemap`, which is borrowed, and `src` has a slot for each.
    to_result(unsafe { bindings::migrate_device_range(src.as_mut_ptr(), first, nr_pages) })?;

    // INVARIANT: The sources were just collected and there are no destinations.
    Ok(Collected(Migration {
        kind: DeviceRange(PhantomData),
        src,
        dst,
        placed: false,
    }))
}

/// Collects the folios with the page `offsets` in `pagemap`, to migrate them to system memory.
///
/// Like [`collect_device_range`], for pages that are not next to each other. All pages of a folio
/// must be listed, one after the other. Wraps `migrate_device_pfns()`.
pub fn collect_device_offsets<'a, T: DevicePagemapOps>(
    pagemap: &'a DevicePagemap<T>,
    offsets: &[usize],
    buffer: &'a mut Buffer,
) -> Result<Collected<'a, DeviceRange<'a>>> {
    let (src, dst) = buffer.slots(offsets.len())?;
    for (slot, &offset) in src.iter_mut().zip(offsets) {
        *slot = pagemap.pfn(offset).ok_or(EINVAL)?;
    }

    // SAFETY: All frames are pages of `pagemap`, which is borrowed.
    to_result(unsafe { bindings::migrate_device_pfns(src.as_mut_ptr(), src.len()) })?;

    // INVARIANT: The sources were just collected and there are no destinations.
    Ok(Collected(Migration {
        kind: DeviceRange(PhantomData),
        src,
        dst,
        placed: false,
    }))
}

mod private {
    pub trait Sealed {}
}

/// Where the pages of a migration were collected from.
pub trait Kind: private::Sealed {
    /// Puts the destinations in the place of the sources.
    ///
    /// # Safety
    ///
    /// `src` must be the result of collecting; a destination must be a locked folio with a
    /// reference, which is passed on.
    #[doc(hidden)]
    unsafe fn pages(&mut self, src: &mut [usize], dst: &mut [usize]);

    /// Restores the page tables and releases sources and destinations.
    ///
    /// # Safety
    ///
    /// As for [`Kind::pages`]. There must be no destinations unless `pages` was called.
    #[doc(hidden)]
    unsafe fn finalize(&mut self, src: &mut [usize], dst: &mut [usize]);
}

/// The pages come from an address range, see [`Setup`].
pub struct VmaRange<'a> {
    args: bindings::migrate_vma,
    _area: PhantomData<&'a VmaRef>,
}

impl VmaRange<'_> {
    fn set_slots(&mut self, src: &mut [usize], dst: &mut [usize]) {
        self.args.src = src.as_mut_ptr();
        self.args.dst = dst.as_mut_ptr();
    }
}

impl private::Sealed for VmaRange<'_> {}
impl Kind for VmaRange<'_> {
    unsafe fn pages(&mut self, src: &mut [usize], dst: &mut [usize]) {
        self.set_slots(src, dst);
        // SAFETY: By the safety requirements. The mmap lock is held, as `'a` is not over.
        unsafe { bindings::migrate_vma_pages(&mut self.args) };
    }

    unsafe fn finalize(&mut self, src: &mut [usize], dst: &mut [usize]) {
        self.set_slots(src, dst);
        // SAFETY: By the safety requirements. The mmap lock is held, as `'a` is not over.
        unsafe { bindings::migrate_vma_finalize(&mut self.args) };
    }
}

/// The pages come from device memory, see [`collect_device_range`].
pub struct DeviceRange<'a>(PhantomData<&'a ()>);

impl private::Sealed for DeviceRange<'_> {}
impl Kind for DeviceRange<'_> {
    unsafe fn pages(&mut self, src: &mut [usize], dst: &mut [usize]) {
        // SAFETY: By the safety requirements.
        unsafe { bindings::migrate_device_pages(src.as_mut_ptr(), dst.as_mut_ptr(), src.len()) };
    }

    unsafe fn finalize(&mut self, src: &mut [usize], dst: &mut [usize]) {
        // SAFETY: By the safety requirements.
        unsafe { bindings::migrate_device_finalize(src.as_mut_ptr(), dst.as_mut_ptr(), src.len()) };
    }
}

/// A migration under way.
///
/// # Invariants
///
/// - `src` has as many slots as `dst`. Every slot of `src` with a page owns the lock of its folio
///   and a reference; in a migration for a fault, the lock of the folio that faulted is borrowed.
/// - Every slot of `dst` with a page owns the lock of its folio and a reference.
/// - `placed` tells whether [`Kind::pages`] was called.
struct Migration<'a, K: Kind> {
    kind: K,
    src: &'a mut [usize],
    dst: &'a mut [usize],
    placed: bool,
}

impl<K: Kind> Migration<'_, K> {
    /// Releases the destinations.
    fn clear_destinations(&mut self) {
        for slot in self.dst.iter_mut() {
            release(slot);
        }
    }
}

impl<K: Kind> Drop for Migration<'_, K> {
    fn drop(&mut self) {
        if !self.placed {
            self.clear_destinations();
        }

        // SAFETY: By the type invariants, and there are no destinations left if `pages` was not
        // called.
        unsafe { self.kind.finalize(self.src, self.dst) };
    }
}

/// Puts `folio` into the empty slot of a destination for `source`, or a part of it, unless it has
/// another order, is not new, or is not on the other side: system memory does not migrate to system
/// memory here, where filesystems are not asked.
fn put(
    slot: &mut usize,
    source: Source<'_>,
    order: u32,
    folio: LockedFolio,
) -> Result<(), LockedFolio> {
    let crosses = folio.is_device_private() || source.folio().is_none_or(Folio::is_device_private);

    if folio.order() != order || !folio.is_new() || !crosses {
        return Err(folio);
    }

    // INVARIANT: The slot gets the ownership of lock and reference.
    *slot = Slot::for_folio(&folio).0;
    folio.into_raw();
    Ok(())
}

/// Empties the slot of a destination and releases its folio.
fn release(slot: &mut usize) {
    let old = Slot(core::mem::take(slot));

    // SAFETY: The slot of a destination owns lock and reference of its folio.
    if let Some(folio) = unsafe { old.folio() } {
        // SAFETY: The slot owned lock and reference, and has just been emptied.
        drop(unsafe { LockedFolio::from_raw(NonNull::from(folio).cast()) });
    }
}

/// Walks the destinations that are set in `dst`, from folio to folio, with the number of the first
/// slot of each.
///
/// # Safety
///
/// The slots must own locks and references of their folios during `'a`.
unsafe fn destinations<'a>(dst: &'a [usize]) -> impl Iterator<Item = (usize, &'a Folio)> {
    let mut next = 0;

    iter::from_fn(move || {
        while let Some(&slot) = dst.get(next) {
            let (index, slot) = (next, Slot(slot));

            // SAFETY: By the safety requirements.
            next += 1 << unsafe { slot.order() };
            // SAFETY: By the safety requirements.
            if let Some(folio) = unsafe { slot.folio() } {
                return Some((index, folio));
            }
        }
        None
    })
}

/// Pages that are locked and unmapped, and wait for their destinations.
#[must_use = "the pages stay where they are if unused"]
pub struct Collected<'a, K: Kind>(Migration<'a, K>);

impl<'a, K: Kind> Collected<'a, K> {
    /// Returns whether there is nothing to migrate.
    pub fn is_empty(&self) -> bool {
        self.sources().next().is_none()
    }

    /// Returns the number of slots.
    #[inline]
    pub fn nr_pages(&self) -> usize {
        self.0.src.len()
    }

    /// Walks the folios and holes that can be migrated.
    pub fn sources(&self) -> impl Iterator<Item = Source<'_>> {
        Sources {
            src: self.0.src,
            index: 0,
        }
    }

    /// Walks the folios and holes that can be migrated, to set their destinations.
    pub fn entries(&mut self) -> Entries<'_> {
        Entries {
            sources: Sources {
                src: self.0.src,
                index: 0,
            },
            dst: self.0.dst,
            base: 0,
        }
    }

    /// Walks the destinations that are set, with the memory to be copied to each.
    pub fn copies(&self) -> impl Iterator<Item = Copy<'_>> {
        // SAFETY: The slots of destinations own their folios, and `self` is borrowed.
        let set = unsafe { destinations(self.0.dst) };
        let mut sources = self.sources();
        let mut source = sources.next();

        set.filter_map(move |(index, dst)| {
            // Both are in order, and each destination lies in the slots of a source.
            while source.is_some_and(|source| source.index + source.nr_pages() <= index) {
                source = sources.next();
            }
            let source = source.filter(|source| source.index <= index)?;
            let src = source
                .pfn()
                .zip(source.folio())
                .map(|(pfn, folio)| (folio, pfn - folio.pfn() + index - source.index));

            Some(Copy { index, src, dst })
        })
    }

    /// Puts the destinations in the place of their sources.
    ///
    /// All copies must be complete. Sources without a destination, and those for which it fails
    /// (for example because somebody holds a reference), stay. A large folio whose destination was
    /// given in smaller parts is split, in all processes that map it. May sleep. Wraps
    /// `migrate_vma_pages()` and `migrate_device_pages()`.
    pub fn pages(mut self) -> Migrated<'a, K> {
        let Migration {
            kind,
            src,
            dst,
            placed,
        } = &mut self.0;

        // SAFETY: By the invariants of `Migration`.
        unsafe { kind.pages(src, dst) };
        *placed = true;

        Migrated(self.0)
    }
}

/// Pages that have, or have not, migrated, all of them still locked and unmapped.
#[must_use = "call `finalize()` when the device's page tables are up to date"]
pub struct Migrated<'a, K: Kind>(Migration<'a, K>);

impl<K: Kind> Migrated<'_, K> {
    /// Walks all slots that have a destination, with what became of it.
    ///
    /// Where a large folio was split, every part of it is told by itself.
    pub fn outcomes(&self) -> impl Iterator<Item = Outcome<'_>> {
        let Migration { src, dst, .. } = &self.0;
        // SAFETY: The slots of destinations own their folios, and `self` is borrowed.
        let set = unsafe { destinations(dst) };

        set.map(|(index, dst)| {
            let src = Slot(src[index]);

            Outcome {
                index,
                migrated: src.has(MIGRATE),
                // SAFETY: The slots of sources own their folios, and `self` is borrowed.
                src: unsafe { src.folio() },
                dst,
            }
        })
    }

    /// Maps what migrated at its new place, the rest at its old one, and releases all folios.
    ///
    /// Dropping the value does the same. Wraps `migrate_vma_finalize()` and
    /// `migrate_device_finalize()`.
    pub fn finalize(self) {}
}

/// A folio or hole to migrate.
///
/// A hole is a part of the range that is not populated, or is populated with the zero page: the
/// destination must be filled with zeros.
#[derive(Clone, Copy)]
pub struct Source<'a> {
    index: usize,
    order: u32,
    slot: Slot,
    _folio: PhantomData<&'a Folio>,
}

impl<'a> Source<'a> {
    /// Returns the first slot, that is, the distance from the start of the range in pages.
    #[inline]
    pub fn index(&self) -> usize {
        self.index
    }

    /// Returns the order: the entry has `1 << order` slots.
    #[inline]
    pub fn order(&self) -> u32 {
        self.order
    }

    /// Returns the number of slots.
    #[inline]
    pub fn nr_pages(&self) -> usize {
        1 << self.order
    }

    /// Returns whether the page was mapped writable in the range.
    #[inline]
    pub fn is_writable(&self) -> bool {
        self.slot.has(WRITE)
    }

    /// Returns whether there is no memory to copy from.
    #[inline]
    pub fn is_hole(&self) -> bool {
        !self.slot.has(VALID)
    }

    /// Returns the frame number of the first page, or [`None`] for a hole.
    #[inline]
    pub fn pfn(&self) -> Option<usize> {
        self.slot.pfn()
    }

    /// Returns the folio, or [`None`] for a hole.
    #[inline]
    pub fn folio(&self) -> Option<&'a Folio> {
        // SAFETY: The slots of sources own their folios, and are borrowed during `'a`.
        unsafe { self.slot.folio() }
    }
}

/// Walks the sources that can be migrated.
struct Sources<'a> {
    src: &'a [usize],
    index: usize,
}

impl<'a> Iterator for Sources<'a> {
    type Item = Source<'a>;

    fn next(&mut self) -> Option<Source<'a>> {
        let rest = self.src.get(self.index..)?;
        let index = self.index + rest.iter().position(|&slot| Slot(slot).has(MIGRATE))?;
        let slot = Slot(self.src[index]);
        // SAFETY: The slots of sources own their folios, and are borrowed during `'a`.
        let order = unsafe { slot.order() };

        self.index = index + (1 << order);
        Some(Source {
            index,
            order,
            slot,
            _folio: PhantomData,
        })
    }
}

/// An iterator over what can be migrated; see [`Collected::entries`].
pub struct Entries<'a> {
    sources: Sources<'a>,
    /// The slots of destinations from `base` on.
    dst: &'a mut [usize],
    base: usize,
}

impl<'a> Iterator for Entries<'a> {
    type Item = Entry<'a>;

    fn next(&mut self) -> Option<Entry<'a>> {
        let source = self.sources.next()?;
        let dst = core::mem::take(&mut self.dst);
        let (_, dst) = dst.split_at_mut(source.index - self.base);
        let (own, rest) = dst.split_at_mut(usize::min(source.nr_pages(), dst.len()));

        self.base = source.index + own.len();
        self.dst = rest;
        Some(Entry { source, dst: own })
    }
}

/// A [`Source`] and its place for a destination.
pub struct Entry<'a> {
    source: Source<'a>,
    dst: &'a mut [usize],
}

impl<'a> Deref for Entry<'a> {
    type Target = Source<'a>;

    #[inline]
    fn deref(&self) -> &Source<'a> {
        &self.source
    }
}

impl Entry<'_> {
    /// Returns whether the destination is set.
    #[inline]
    pub fn is_set(&self) -> bool {
        Slot(self.dst[0]).has(VALID)
    }

    /// Migrates to `folio`.
    ///
    /// Gives it back if it has another order than the source, if it is not [new](Folio::is_new), if
    /// both are system memory, or if a destination is set already.
    pub fn set(&mut self, folio: LockedFolio) -> Result<(), LockedFolio> {
        if self.is_set() {
            return Err(folio);
        }

        put(&mut self.dst[0], self.source, self.source.order, folio)
    }

    /// Migrates to folios of order `order`, which together have the size of the source.
    ///
    /// `get` returns a new folio of that order for the pages from the given number within the entry
    /// on. If it fails, or the folio is none that [`Entry::set`] takes ([`EINVAL`]), no destination
    /// is set, so that a large folio is not split for a part of it. The same if one is set already
    /// ([`EBUSY`]), and if the source cannot be split into folios of this order ([`EINVAL`]): it is
    /// smaller, or `order` is 1, which anonymous memory does not have.
    pub fn set_parts(
        &mut self,
        order: u32,
        mut get: impl FnMut(usize) -> Result<LockedFolio>,
    ) -> Result {
        if self.is_set() {
            return Err(EBUSY);
        }
        if order == 1 || self.dst.len() % (1 << order) != 0 {
            return Err(EINVAL);
        }

        for page in (0..self.dst.len()).step_by(1 << order) {
            let set =
                |folio| put(&mut self.dst[page], self.source, order, folio).map_err(|_| EINVAL);
            let result = get(page).and_then(set);

            if result.is_err() {
                self.dst[..page].iter_mut().for_each(release);
                return result;
            }
        }
        Ok(())
    }

    /// Migrates to one folio of the order of the source, or else to the largest parts that can be
    /// had, down to single pages.
    ///
    /// `get` returns a new folio for the pages from the given number within the entry on, of the
    /// given order. Where it fails, what it returned for the other parts is released, and the next
    /// smaller order is tried. Errors are those of [`Entry::set_parts`] for single pages.
    pub fn set_largest(
        &mut self,
        mut get: impl FnMut(usize, u32) -> Result<LockedFolio>,
    ) -> Result {
        for order in (2..=self.source.order).rev() {
            if self.set_parts(order, |page| get(page, order)).is_ok() {
                return Ok(());
            }
        }
        self.set_parts(0, |page| get(page, 0))
    }

    /// Fills a hole of any order in parts, of any sizes, and leaves out what is not wanted.
    ///
    /// `get` is asked for page after page within the entry. It returns a new folio that begins
    /// there, aligned to its size, or [`None`]. What does not fit is released, and so is a folio
    /// of order 1. Returns the number of folios: none if this is no hole, or if a destination is
    /// set already.
    pub fn fill(&mut self, mut get: impl FnMut(usize) -> Option<LockedFolio>) -> usize {
        if !self.is_hole() || self.is_set() {
            return 0;
        }

        let (mut filled, mut page) = (0, 0);
        while page < self.dst.len() {
            match get(page).and_then(|folio| self.put_part(page, folio)) {
                Some(nr_pages) => {
                    filled += 1;
                    page += nr_pages;
                }
                None => page += 1,
            }
        }
        filled
    }

    /// Puts `folio` at `page`, and returns its size; releases it if it does not fit there.
    fn put_part(&mut self, page: usize, folio: LockedFolio) -> Option<usize> {
        let (order, nr_pages) = (folio.order(), folio.nr_pages());
        let fits = order != 1 && page % nr_pages == 0 && nr_pages <= self.dst.len() - page;

        (fits && put(&mut self.dst[page], self.source, order, folio).is_ok()).then_some(nr_pages)
    }
}

/// Memory to be copied before [`Collected::pages`].
pub struct Copy<'a> {
    /// The first slot.
    pub index: usize,
    /// The folio to copy from, and the number of the first page in it. [`None`] is a hole: fill the
    /// destination with zeros.
    pub src: Option<(&'a Folio, usize)>,
    /// The folio to copy to. Its size is the amount to be copied.
    pub dst: &'a Folio,
}

/// What became of one destination.
pub struct Outcome<'a> {
    /// The first slot.
    pub index: usize,
    /// Whether the destination has taken the place of the source. If not, it will be freed.
    pub migrated: bool,
    /// The folio that was there before; [`None`] if there was a hole.
    pub src: Option<&'a Folio>,
    /// The destination.
    pub dst: &'a Folio,
}

/// Memory of a process and of a device, for the tests of this module and of others.
#[cfg(CONFIG_KUNIT = "y")]
pub(crate) mod testing {
    use super::*;
    use crate::{
        alloc::flags::GFP_HIGHUSER_MOVABLE,
        current,
        device,
        error::from_err_ptr,
        faux,
        mm::{
            folio::PMD_ORDER,
            pagemap::{
                FaultError,
                FreedFolio, //
            },
            MmWithUser, //
        },
        sync::{
            aref::ARef,
            atomic::{
                Atomic,
                Relaxed, //
            },
            Arc,
            ArcBorrow, //
        },
        types::NotThreadSafe,
        uaccess::{
            UserPtr,
            UserSlice, //
        }, //
    };

    /// The pages of an [`Area`], and of a [`Vram`].
    pub(crate) const NR_PAGES: usize = 1 << PMD_ORDER;

    /// Anonymous memory of the test's own address space, aligned as a huge page is.
    pub(crate) struct Area {
        mm: ARef<MmWithUser>,
        mapped: usize,
        start: usize,
        _nts: NotThreadSafe,
    }

    impl Area {
        /// Twice the size, so that there is an aligned block in it.
        const MAPPED: usize = 2 * NR_PAGES * PAGE_SIZE;

        pub(crate) fn new() -> Result<Self> {
            // The same on all architectures.
            const PROT_READ_WRITE: usize = 3;
            const MAP_PRIVATE: usize = 2;

            // SAFETY: KUnit runs each test in a kernel thread of its own, which is this one.
            to_result(unsafe { bindings::kunit_attach_mm() })?;
            let mm = current!().mm().ok_or(EINVAL)?.into();

            // SAFETY: The thread has an address space. No file means anonymous memory.
            let mapped = unsafe {
                bindings::vm_mmap(
                    ptr::null_mut(),
                    0,
                    Self::MAPPED,
                    PROT_READ_WRITE,
                    MAP_PRIVATE,
                    0,
                )
            };
            from_err_ptr(mapped as *mut c_void)?;

            Ok(Self {
                mm,
                mapped,
                start: mapped.next_multiple_of(NR_PAGES * PAGE_SIZE),
                _nts: NotThreadSafe,
            })
        }

        pub(crate) fn mm(&self) -> &MmWithUser {
            &self.mm
        }

        /// The addresses of `pages`.
        pub(crate) fn range(&self, pages: Range<usize>) -> Range<usize> {
            self.start + pages.start * PAGE_SIZE..self.start + pages.end * PAGE_SIZE
        }

        /// Lets the area have huge pages.
        #[cfg(all(CONFIG_TRANSPARENT_HUGEPAGE, CONFIG_ADVISE_SYSCALLS))]
        pub(crate) fn allow_huge(&self) -> Result {
            const MADV_HUGEPAGE: c_int = 14;

            // SAFETY: The address space has users, and any range may be asked for.
            to_result(unsafe {
                bindings::do_madvise(
                    self.mm.as_raw(),
                    self.start,
                    NR_PAGES * PAGE_SIZE,
                    MADV_HUGEPAGE,
                )
            })
        }

        fn user(&self, page: usize, len: usize) -> UserSlice {
            UserSlice::new(UserPtr::from_addr(self.start + page * PAGE_SIZE), len)
        }

        /// What the CPU reads from `pages`.
        pub(crate) fn read(&self, pages: Range<usize>) -> Result<KVVec<u8>> {
            let mut bytes = KVVec::new();

            self.user(pages.start, pages.len() * PAGE_SIZE)
                .read_all(&mut bytes, GFP_KERNEL)?;
            Ok(bytes)
        }

        /// Writes `bytes` by the CPU, from the start of `page` on.
        pub(crate) fn write(&self, page: usize, bytes: &[u8]) -> Result {
            self.user(page, bytes.len()).writer().write_slice(bytes)
        }

        pub(crate) fn unmap(&self, pages: Range<usize>) -> Result {
            let range = self.range(pages);

            // SAFETY: Nobody but the test uses the memory.
            to_result(unsafe { bindings::vm_munmap(range.start, range.len()) })
        }
    }

    impl Drop for Area {
        fn drop(&mut self) {
            // SAFETY: Nobody but the test uses the memory.
            unsafe { bindings::vm_munmap(self.mapped, Self::MAPPED) };
        }
    }

    /// Device memory with fixed contents: page `n` is full of [`byte(n)`](byte).
    pub(crate) struct Vram {
        /// The pages that were freed.
        pub(crate) freed: Atomic<usize>,
        /// The folios that came from a split.
        pub(crate) split: Atomic<usize>,
    }

    /// What every byte of the page at `offset` of a [`Vram`] is.
    pub(crate) fn byte(offset: usize) -> u8 {
        (offset % 251) as u8 + 1
    }

    /// What the pages `offsets` of a [`Vram`] hold.
    pub(crate) fn contents(offsets: Range<usize>) -> Result<KVVec<u8>> {
        let mut bytes = KVVec::new();

        for offset in offsets {
            bytes.extend_with(PAGE_SIZE, byte(offset), GFP_KERNEL)?;
        }
        Ok(bytes)
    }

    impl DevicePagemapOps for Vram {
        /// The offset at which the folio was made.
        type FolioData = Arc<usize>;

        fn folio_free(&self, freed: FreedFolio<Self>) {
            self.freed.add(1 << freed.order, Relaxed);
        }

        fn migrate_to_ram(
            pagemap: &DevicePagemap<Self>,
            fault: &VmFault,
        ) -> Result<(), FaultError> {
            // Folios are at addresses that are aligned to their size.
            let size = fault.folio().size();
            let start = fault.address() & !(size - 1);
            let migrate = || {
                let mut buffer = Buffer::new(fault.folio().nr_pages(), GFP_KERNEL)?;
                let setup = Setup::for_fault(fault, start..start + size, pagemap.owner());
                let collected = setup.collect(&mut buffer)?;

                to_system(pagemap, collected)
            };

            migrate().map(|_| ()).map_err(|_| FaultError::Sigbus)
        }

        fn folio_split(&self, data: ArcBorrow<'_, usize>, _new_offset: usize) -> Arc<usize> {
            self.split.add(1, Relaxed);
            data.into()
        }
    }

    /// Makes [`NR_PAGES`] pages of device memory.
    pub(crate) fn vram() -> Result<Pin<KBox<DevicePagemap<Vram>>>> {
        let parent = faux::Registration::new(c"rust-mm-testing", None)?;
        let dev: &faux::Device<device::Bound> = parent.as_ref();
        let ops = Vram {
            freed: Atomic::new(0),
            split: Atomic::new(0),
        };
        let init = DevicePagemap::new(dev.as_ref(), c"kunit", NR_PAGES, ops);

        KBox::pin_init(init, GFP_KERNEL)
    }

    /// Makes the folio of `1 << order` pages at `offset`.
    pub(crate) fn init_folio(
        vram: &DevicePagemap<Vram>,
        offset: usize,
        order: u32,
    ) -> Result<LockedFolio> {
        let data = Arc::new(offset, GFP_KERNEL)?;

        vram.init_folio(offset, order, data).map_err(|_| EBUSY)
    }

    /// Migrates `pages` to the pages of the device with the same numbers, as large as they are.
    /// Returns how many have migrated.
    pub(crate) fn to_device(
        area: &Area,
        vram: &DevicePagemap<Vram>,
        pages: Range<usize>,
    ) -> Result<usize> {
        let mut buffer = Buffer::new(pages.len(), GFP_KERNEL)?;
        let range = area.range(pages.clone());
        let mmap = area.mm().mmap_read_lock();
        let vma = mmap.vma_lookup(range.start).ok_or(EFAULT)?;
        let select = Select::SYSTEM | Select::COMPOUND;
        let mut collected = Setup::new(&mmap, vma, range, select)
            .owner(vram.owner())
            .collect(&mut buffer)?;

        for mut entry in collected.entries() {
            let folio = init_folio(vram, pages.start + entry.index(), entry.order())?;
            entry.set(folio).map_err(|_| EBUSY)?;
        }
        Ok(finish(collected.pages()))
    }

    /// Migrates what was collected to system memory. Returns how many pages have migrated.
    pub(crate) fn to_system<K: Kind>(
        vram: &DevicePagemap<Vram>,
        mut collected: Collected<'_, K>,
    ) -> Result<usize> {
        for mut entry in collected.entries() {
            entry.set_largest(|_, order| {
                Ok(Folio::lock(Folio::alloc(order, GFP_HIGHUSER_MOVABLE)?))
            })?;
        }
        for copy in collected.copies() {
            let (src, first) = copy.src.ok_or(EFAULT)?;
            let offset = vram.offset_of(src).ok_or(EFAULT)? + first;

            write(copy.dst, &contents(offset..offset + copy.dst.nr_pages())?)?;
        }
        Ok(finish(collected.pages()))
    }

    /// Writes to the pages of `folio`, which nobody else uses.
    pub(crate) fn write(folio: &Folio, bytes: &[u8]) -> Result {
        for (index, bytes) in bytes.chunks(PAGE_SIZE).enumerate() {
            let page = folio.page(index).ok_or(EINVAL)?;

            // SAFETY: `bytes` is valid for reads, and nobody else uses the page.
            unsafe { page.write_raw(bytes.as_ptr(), 0, bytes.len()) }?;
        }
        Ok(())
    }

    fn finish<K: Kind>(migrated: Migrated<'_, K>) -> usize {
        let nr_pages = migrated
            .outcomes()
            .filter(|outcome| outcome.migrated)
            .map(|outcome| outcome.dst.nr_pages())
            .sum();

        migrated.finalize();
        nr_pages
    }
}

#[macros::kunit_tests(rust_mm_migrate)]
mod tests {
    use super::{
        testing::*,
        *, //
    };
    use crate::sync::{
        aref::ARef,
        atomic::Relaxed, //
    };

    const ORDER: u32 = 4;

    /// A hole of order [`ORDER`], for destinations in `dst`.
    fn hole(dst: &mut [usize]) -> Entry<'_> {
        Entry {
            source: Source {
                index: 0,
                order: ORDER,
                slot: Slot(MIGRATE | COMPOUND),
                _folio: PhantomData,
            },
            dst,
        }
    }

    fn alloc(order: u32) -> Result<LockedFolio> {
        Ok(Folio::lock(Folio::alloc(order, GFP_KERNEL)?))
    }

    /// The order of each destination that is set, with its slot. All are released.
    fn take(dst: &mut [usize]) -> Result<KVec<(usize, u32)>> {
        let mut found = KVec::new();

        // SAFETY: The slots own their folios, and are borrowed.
        for (index, folio) in unsafe { destinations(dst) } {
            found.push((index, folio.order()), GFP_KERNEL)?;
        }
        dst.iter_mut().for_each(release);
        Ok(found)
    }

    #[test]
    fn a_folio_of_the_same_order_is_taken_whole() -> Result {
        let mut dst = [0; 1 << ORDER];

        hole(&mut dst).set_largest(|_, order| alloc(order))?;
        assert_eq!(take(&mut dst)?[..], [(0, ORDER)]);
        Ok(())
    }

    #[test]
    fn parts_get_smaller_until_all_are_there() -> Result {
        let mut dst = [0; 1 << ORDER];

        // No folio of order 4, and only one of order 3.
        hole(&mut dst).set_largest(|page, order| match (page, order) {
            (_, ORDER) | (8, 3) => Err(ENOMEM),
            _ => alloc(order),
        })?;
        assert_eq!(take(&mut dst)?[..], [(0, 2), (4, 2), (8, 2), (12, 2)]);
        Ok(())
    }

    #[test]
    fn single_pages_are_the_last_resort() -> Result {
        let mut dst = [0; 1 << ORDER];
        let mut tried = KVec::new();

        hole(&mut dst).set_largest(|page, order| {
            if page == 0 {
                tried.push(order, GFP_KERNEL)?;
            }
            if order > 0 {
                return Err(ENOMEM);
            }
            alloc(order)
        })?;
        assert_eq!(tried[..], [4, 3, 2, 0]);
        let found = take(&mut dst)?;
        assert_eq!(found.len(), 1 << ORDER);
        assert!(found.iter().all(|&(_, order)| order == 0));
        Ok(())
    }

    #[test]
    fn a_hole_is_filled_in_parts_of_any_size() -> Result {
        let mut dst = [0; 1 << ORDER];

        // The folio at 6 is not aligned, that at 8 is of order 1, that at 12 follows at once.
        let filled = hole(&mut dst).fill(|page| match page {
            0 | 6 | 12 => alloc(2).ok(),
            5 => alloc(0).ok(),
            8 => alloc(1).ok(),
            _ => None,
        });
        assert_eq!(filled, 3);
        assert_eq!(take(&mut dst)?[..], [(0, 2), (5, 0), (12, 2)]);
        Ok(())
    }

    #[test]
    fn what_does_not_fit_is_refused() -> Result {
        let mut dst = [0; 1 << ORDER];

        // Order 1, more than there is, another order than was asked for.
        assert_eq!(hole(&mut dst).set_parts(1, |_| alloc(1)), Err(EINVAL));
        assert_eq!(hole(&mut dst).set_parts(5, |_| alloc(5)), Err(EINVAL));
        assert_eq!(hole(&mut dst).set_parts(2, |_| alloc(3)), Err(EINVAL));
        assert_eq!(take(&mut dst)?.len(), 0);

        hole(&mut dst).set_parts(3, |_| alloc(3))?;
        assert_eq!(hole(&mut dst).set_parts(3, |_| alloc(3)), Err(EBUSY));
        assert_eq!(take(&mut dst)?[..], [(0, 3), (8, 3)]);
        Ok(())
    }

    #[test]
    fn pages_go_to_the_device_and_come_back() -> Result {
        let vram = vram()?;
        let area = Area::new()?;

        // Pages that are there, and holes.
        area.write(0, &[0xff; PAGE_SIZE + 1])?;
        assert_eq!(to_device(&area, &vram, 0..4)?, 4);
        assert!(vram.try_get(3).ok_or(ENOENT)?.is_anon());
        assert_eq!(vram.freed.load(Relaxed), 0);

        assert!(area.read(2..3)?[..] == contents(2..3)?[..]);
        assert_eq!(vram.freed.load(Relaxed), 1);
        area.unmap(3..4)?;
        assert_eq!(vram.freed.load(Relaxed), 2);
        assert!(area.read(0..3)?[..] == contents(0..3)?[..]);
        assert_eq!(vram.freed.load(Relaxed), 4);
        Ok(())
    }

    #[test]
    fn a_destination_is_new_and_on_the_other_side() -> Result {
        let vram = vram()?;
        let area = Area::new()?;
        let mut buffer = Buffer::new(2, GFP_KERNEL)?;
        let mut used = None;

        area.write(0, &[1; 2 * PAGE_SIZE])?;
        {
            let mmap = area.mm().mmap_read_lock();
            let range = area.range(0..2);
            let vma = mmap.vma_lookup(range.start).ok_or(EFAULT)?;
            let setup = Setup::new(&mmap, vma, range, Select::SYSTEM);
            let mut collected = setup.collect(&mut buffer)?;

            for mut entry in collected.entries() {
                used = entry.folio().map(ARef::from);
                assert!(entry.set(alloc(0)?).is_err());
                assert!(entry.set(init_folio(&vram, entry.index(), 0)?).is_ok());
            }
        }

        let used = used.ok_or(ENOENT)?;
        area.unmap(0..2)?;
        assert!(!used.is_new());
        assert!(alloc(0)?.is_new());
        Ok(())
    }

    #[test]
    fn what_is_dropped_stays() -> Result {
        let vram = vram()?;
        let area = Area::new()?;
        let written = contents(7..9)?;
        let mut buffer = Buffer::new(4, GFP_KERNEL)?;

        area.write(0, &written)?;
        for with_destinations in [false, true] {
            let mmap = area.mm().mmap_read_lock();
            let range = area.range(0..4);
            let vma = mmap.vma_lookup(range.start).ok_or(EFAULT)?;
            let setup = Setup::new(&mmap, vma, range, Select::SYSTEM);
            let mut collected = setup.collect(&mut buffer)?;

            assert_eq!(collected.sources().count(), 4);
            for mut entry in collected.entries().filter(|_| with_destinations) {
                let folio = init_folio(&vram, entry.index(), 0)?;
                entry.set(folio).map_err(|_| EBUSY)?;
            }
        }

        assert_eq!(vram.freed.load(Relaxed), 4);
        let read = area.read(0..4)?;
        assert!(read[..2 * PAGE_SIZE] == written[..]);
        assert!(read[2 * PAGE_SIZE..].iter().all(|&byte| byte == 0));
        Ok(())
    }

    #[test]
    #[cfg(all(CONFIG_TRANSPARENT_HUGEPAGE, CONFIG_ADVISE_SYSCALLS))]
    fn a_huge_page_comes_back_whole() -> Result {
        let vram = vram()?;
        let area = Area::new()?;

        area.allow_huge()?;
        assert_eq!(to_device(&area, &vram, 0..NR_PAGES)?, NR_PAGES);
        assert_eq!(vram.try_get(0).ok_or(ENOENT)?.nr_pages(), NR_PAGES);

        // By one fault.
        area.read(5..6)?;
        assert_eq!(vram.freed.load(Relaxed), NR_PAGES);
        assert!(area.read(0..NR_PAGES)?[..] == contents(0..NR_PAGES)?[..]);
        assert_eq!(vram.split.load(Relaxed), 0);
        Ok(())
    }

    #[test]
    #[cfg(all(CONFIG_TRANSPARENT_HUGEPAGE, CONFIG_ADVISE_SYSCALLS))]
    fn a_huge_page_is_evicted_by_its_range_or_its_offsets() -> Result {
        let vram = vram()?;
        let area = Area::new()?;
        let mut buffer = Buffer::new(NR_PAGES, GFP_KERNEL)?;
        let mut offsets = KVVec::new();
        for offset in 0..NR_PAGES {
            offsets.push(offset, GFP_KERNEL)?;
        }

        area.allow_huge()?;
        for by_offsets in [false, true] {
            assert_eq!(to_device(&area, &vram, 0..NR_PAGES)?, NR_PAGES);
            let collected = if by_offsets {
                collect_device_offsets(&vram, &offsets, &mut buffer)?
            } else {
                collect_device_range(&vram, 0..NR_PAGES, &mut buffer)?
            };

            assert_eq!(collected.sources().count(), 1);
            assert_eq!(to_system(&vram, collected)?, NR_PAGES);
            assert!(vram.try_get(0).is_none());
            assert!(area.read(0..NR_PAGES)?[..] == contents(0..NR_PAGES)?[..]);
        }
        assert_eq!(vram.freed.load(Relaxed), 2 * NR_PAGES);
        assert_eq!(vram.split.load(Relaxed), 0);
        Ok(())
    }

    #[test]
    #[cfg(all(CONFIG_TRANSPARENT_HUGEPAGE, CONFIG_ADVISE_SYSCALLS))]
    fn a_folio_of_the_device_is_split() -> Result {
        const SOME: [usize; 3] = [5, 300, NR_PAGES - 1];
        let vram = vram()?;
        let area = Area::new()?;
        let mut buffer = Buffer::new(SOME.len(), GFP_KERNEL)?;

        area.allow_huge()?;
        assert_eq!(to_device(&area, &vram, 0..NR_PAGES)?, NR_PAGES);
        let mut folio = Folio::lock(vram.try_get(0).ok_or(ENOENT)?);
        let other = vram.try_get(0);
        assert_eq!(folio.split(), Err(EAGAIN));
        drop(other);
        folio.split()?;
        assert_eq!(folio.order(), 0);
        drop(folio);

        // Every page is a folio now, which has its data from the first one.
        assert_eq!(vram.split.load(Relaxed), NR_PAGES - 1);
        for offset in 0..NR_PAGES {
            let page = vram.try_get(offset).ok_or(ENOENT)?;
            assert_eq!(page.order(), 0);
            assert!(page.is_device_private() && page.is_anon());
            assert_eq!(vram.folio_data(&page).map(|data| *data), Some(0));
        }

        let collected = collect_device_offsets(&vram, &SOME, &mut buffer)?;
        assert_eq!(to_system(&vram, collected)?, SOME.len());
        assert_eq!(vram.freed.load(Relaxed), SOME.len());
        for offset in SOME {
            assert!(vram.try_get(offset).is_none());
        }
        assert!(area.read(0..NR_PAGES)?[..] == contents(0..NR_PAGES)?[..]);
        assert_eq!(vram.freed.load(Relaxed), NR_PAGES);
        Ok(())
    }

    #[test]
    fn what_is_not_there_is_not_collected() -> Result {
        let vram = vram()?;
        let mut buffer = Buffer::new(2, GFP_KERNEL)?;
        let too_far = collect_device_offsets(&vram, &[0, NR_PAGES], &mut buffer);
        assert_eq!(too_far.err(), Some(EINVAL));
        let too_many = collect_device_offsets(&vram, &[0, 1, 2], &mut buffer);
        assert_eq!(too_many.err(), Some(EINVAL));
        let beyond = collect_device_range(&vram, NR_PAGES - 1..NR_PAGES + 1, &mut buffer);
        assert_eq!(beyond.err(), Some(EINVAL));
        let empty = collect_device_range(&vram, 1..1, &mut buffer);
        assert_eq!(empty.err(), Some(EINVAL));

        // Pages that are free.
        assert!(collect_device_offsets(&vram, &[0, 1], &mut buffer)?.is_empty());
        assert!(collect_device_range(&vram, 0..2, &mut buffer)?.is_empty());
        Ok(())
    }
}
