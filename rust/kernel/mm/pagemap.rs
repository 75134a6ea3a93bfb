// SPDX-License-Identifier: GPL-2.0

//! Device-private memory.
//!
//! A device whose memory the CPU cannot access can still lend it to processes: [`DevicePagemap`]
//! gives every page of such memory a `struct page`, so that pages of a process can be migrated to
//! it (see `mm::migrate`). When the CPU touches such a page it faults, and the driver brings the
//! page back in [`DevicePagemapOps::migrate_to_ram`].
//!
//! Pages are named by their *offset* within the pagemap, counted in base pages, and by their frame
//! number (*pfn*), which is unique in the system but stands for no physical address.
//!
//! C header: [`include/linux/memremap.h`](srctree/include/linux/memremap.h)

use crate::{
    bindings,
    container_of,
    device,
    error::from_err_ptr,
    mm::{
        folio::{
            Folio,
            LockedFolio,
            PMD_ORDER, //
        },
        virt::VmaRef, //
    },
    page::PAGE_SHIFT,
    prelude::*,
    sync::{
        aref::ARef,
        atomic::{
            ordering::{
                Acquire,
                Relaxed,
                Release, //
            },
            Atomic, //
        },
        barrier::{
            smp_mb,
            Write, //
        }, //
    },
    types::{
        ForeignOwnable,
        Opaque, //
    }, //
};
use core::{
    ops::{
        Deref,
        Range, //
    },
    ptr::NonNull, //
};

/// The identity of a [`DevicePagemap`] instance.
///
/// It can only be compared: with that a driver tells its own device-private pages, and the
/// notifier events of its own migrations, from those of others. An identity is unique among the
/// instances that exist at the same time.
#[derive(Copy, Clone, PartialEq, Eq)]
pub struct Owner(NonNull<c_void>);

// SAFETY: The pointer is never dereferenced.
unsafe impl Send for Owner {}
// SAFETY: The pointer is never dereferenced.
unsafe impl Sync for Owner {}

impl Owner {
    /// Returns what the C side keeps in its `owner` fields.
    #[inline]
    pub fn as_raw(self) -> *mut c_void {
        self.0.as_ptr()
    }
}

/// What a driver does with its device-private memory.
pub trait DevicePagemapOps: Sized + Send + Sync + 'static {
    /// The driver's data of one folio, for example `Arc<Block>`, `KBox<Block>` or `()`.
    ///
    /// It must not refer to the address space that the folio was migrated from: a `fork()` gives
    /// the page to a second process, and the first one may be gone long before the page is.
    type FolioData: ForeignOwnable + Send + Sync + 'static;

    /// The last reference to a folio is gone and its pages are free.
    ///
    /// Called in atomic context, possibly with page-table locks held, so it must not sleep. From
    /// this call on the pages can be handed out again by [`DevicePagemap::init_folio`].
    fn folio_free(&self, freed: FreedFolio<Self>);

    /// The CPU faulted on a device-private page: migrate at least that page back.
    ///
    /// May sleep. The mmap lock is held for reading; the folio is locked and referenced by the
    /// caller. Returning [`Ok`] lets the access be repeated, whether or not the page came back, so
    /// a page that is busy is not an error.
    ///
    /// Called concurrently, for other threads and other pages. A lock that is also held while
    /// memory is allocated, or while the mmap lock is taken, must not be taken here.
    fn migrate_to_ram(pagemap: &DevicePagemap<Self>, fault: &VmFault) -> Result<(), FaultError>;

    /// A folio is split; returns the data of the new folio at page offset `new_offset`.
    ///
    /// `data` belongs to the folio that is split and stays with what is left of it. Called once for
    /// every folio that comes into being, in atomic context. With `Arc<Block>` it is a `clone()`.
    fn folio_split(
        &self,
        data: <Self::FolioData as ForeignOwnable>::Borrowed<'_>,
        new_offset: usize,
    ) -> Self::FolioData;
}

/// A folio that ceased to exist; see [`DevicePagemapOps::folio_free`].
pub struct FreedFolio<T: DevicePagemapOps> {
    /// The first page, as offset in the pagemap.
    pub offset: usize,
    /// The order: `1 << order` pages are free now.
    pub order: u32,
    /// The data that was given to [`DevicePagemap::init_folio`] or came from
    /// [`DevicePagemapOps::folio_split`].
    pub data: T::FolioData,
}

/// Why a fault of the CPU cannot be resolved. Either is severe for the process that faulted.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum FaultError {
    /// There is no memory to migrate to (`VM_FAULT_OOM`).
    Oom,
    /// The contents are lost (`VM_FAULT_SIGBUS`).
    Sigbus,
}

impl From<FaultError> for bindings::vm_fault_t {
    fn from(error: FaultError) -> Self {
        match error {
            FaultError::Oom => bindings::vm_fault_reason_VM_FAULT_OOM,
            FaultError::Sigbus => bindings::vm_fault_reason_VM_FAULT_SIGBUS,
        }
    }
}

/// The page-table level of a fault.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Level {
    /// One base page faulted. It may be part of a larger folio.
    Pte,
    /// A whole folio of order [`PMD_ORDER`] faulted, which a single entry maps.
    Pmd,
}

/// A fault of the CPU on a device-private page.
///
/// # Invariants
///
/// A reference to this type exists only while [`DevicePagemapOps::migrate_to_ram`] runs: the mmap
/// lock is held for reading, and the folio of `page` is locked and referenced.
#[repr(transparent)]
pub struct VmFault(Opaque<bindings::vm_fault>);

impl VmFault {
    /// Makes a reference from a raw pointer.
    ///
    /// # Safety
    ///
    /// `ptr` must satisfy the invariants of [`VmFault`] during `'a`.
    unsafe fn from_raw<'a>(ptr: *mut bindings::vm_fault) -> &'a Self {
        // SAFETY: By the safety requirements; the layouts are the same.
        unsafe { &*ptr.cast() }
    }

    /// Returns the address that faulted, in bytes, rounded down to a page.
    #[inline]
    pub fn address(&self) -> usize {
        // SAFETY: The pointer is valid and the field is constant during the fault.
        unsafe { (*self.0.get()).__bindgen_anon_1.address }
    }

    /// Returns the area that the address belongs to.
    #[inline]
    pub fn vma(&self) -> &VmaRef {
        // SAFETY: The pointer is valid and the field is constant during the fault.
        let vma = unsafe { (*self.0.get()).__bindgen_anon_1.vma };

        // SAFETY: By the type invariants the mmap lock is held as long as `self` exists.
        unsafe { VmaRef::from_raw(vma) }
    }

    /// Returns the page that the address maps to.
    #[inline]
    pub(crate) fn page(&self) -> *mut bindings::page {
        // SAFETY: The pointer is valid and the field is constant while `migrate_to_ram()` runs.
        unsafe { (*self.0.get()).page }
    }

    /// Returns the frame number of the page that the address maps to.
    #[inline]
    pub fn pfn(&self) -> usize {
        // SAFETY: By the type invariants the page is valid.
        unsafe { bindings::page_to_pfn(self.page()) }
    }

    /// Returns the folio that the address maps to. Its lock is held by the caller of
    /// [`DevicePagemapOps::migrate_to_ram`].
    ///
    /// The page may belong to another folio after each [collection](super::migrate::Setup::collect)
    /// for this fault, which may split it, so this is a reference of its own. While it is held, the
    /// folio neither migrates nor is split.
    #[inline]
    pub fn folio(&self) -> ARef<Folio> {
        // SAFETY: By the type invariants the page is valid.
        let folio = unsafe { bindings::page_folio(self.page()) };

        // SAFETY: By the type invariants the folio is referenced now.
        unsafe { Folio::from_raw(folio) }.into()
    }

    /// Returns the page-table level at which the fault was found.
    #[inline]
    pub fn level(&self) -> Level {
        // SAFETY: The pointer is valid and the field is constant while `migrate_to_ram()` runs.
        if unsafe { (*self.0.get()).pte }.is_null() {
            Level::Pmd
        } else {
            Level::Pte
        }
    }
}

/// A region of the physical address space that is no memory and no device, to number pages with.
///
/// # Invariants
///
/// `range` was obtained by `request_free_mem_region()` and is not released yet.
struct FreeRegion {
    range: bindings::range,
}

impl FreeRegion {
    /// Reserves at least `nr_pages` pages. May sleep.
    fn request(name: &'static CStr, nr_pages: usize) -> Result<Self> {
        let size = nr_pages.checked_mul(1 << PAGE_SHIFT).ok_or(EINVAL)?;
        if size == 0 {
            return Err(EINVAL);
        }

        // SAFETY: `iomem_resource` is a valid resource, and `name` lives forever.
        let res = from_err_ptr(unsafe {
            bindings::request_free_mem_region(
                &raw mut bindings::iomem_resource,
                size,
                name.as_char_ptr(),
            )
        })?;

        // INVARIANT: The region was just requested.
        // SAFETY: `res` is a valid resource that nobody else changes.
        Ok(unsafe {
            Self {
                range: bindings::range {
                    start: (*res).start,
                    end: (*res).end,
                },
            }
        })
    }

    /// Returns the frame number of the first page.
    fn pfn(&self) -> usize {
        // CAST: `memremap_pages()` needs a `struct page` per frame, so that frame numbers fit.
        (self.range.start >> PAGE_SHIFT) as usize
    }
}

impl Drop for FreeRegion {
    fn drop(&mut self) {
        let size = self.range.end - self.range.start + 1;

        // SAFETY: By the type invariants the region is ours to release.
        unsafe { bindings::release_mem_region(self.range.start, size) };
    }
}

/// The pages that belong to a folio now, one bit each.
struct InUse(KVVec<Atomic<usize>>);

impl InUse {
    fn new(nr_pages: usize) -> Result<Self> {
        let words = nr_pages.div_ceil(usize::BITS as usize);
        let mut bits = KVVec::with_capacity(words, GFP_KERNEL)?;
        for _ in 0..words {
            bits.push(Atomic::new(0), GFP_KERNEL)?;
        }
        Ok(Self(bits))
    }

    /// Splits the aligned block of `1 << order` pages at `offset` into words and the mask in each.
    fn words(offset: usize, order: u32) -> (Range<usize>, usize) {
        const BITS: usize = usize::BITS as usize;
        let nr_pages = 1usize << order;
        let first = offset / BITS;

        if nr_pages < BITS {
            (first..first + 1, ((1 << nr_pages) - 1) << (offset % BITS))
        } else {
            (first..first + nr_pages / BITS, usize::MAX)
        }
    }

    /// Marks a block of pages as used; returns false, and changes nothing, if a page already is.
    fn claim(&self, offset: usize, order: u32) -> bool {
        let (words, mask) = Self::words(offset, order);

        for word in words.clone() {
            if !Self::claim_word(&self.0[word], mask) {
                for claimed in words.start..word {
                    Self::release_word(&self.0[claimed], mask);
                }
                return false;
            }
        }
        true
    }

    /// Marks a block of pages, all of them used, as free.
    fn release(&self, offset: usize, order: u32) {
        let (words, mask) = Self::words(offset, order);

        for word in words {
            Self::release_word(&self.0[word], mask);
        }
    }

    fn claim_word(word: &Atomic<usize>, mask: usize) -> bool {
        let mut old = word.load(Relaxed);
        while old & mask == 0 {
            match word.cmpxchg(old, old | mask, Acquire) {
                Ok(_) => return true,
                Err(now) => old = now,
            }
        }
        false
    }

    fn release_word(word: &Atomic<usize>, mask: usize) {
        let mut old = word.load(Relaxed);
        while let Err(now) = word.cmpxchg(old, old & !mask, Release) {
            old = now;
        }
    }
}

/// Device-private memory of a driver.
///
/// It holds the driver's `T`, which it dereferences to. Its own address serves as [`Owner`].
///
/// Dropping it sleeps until all folios are freed. They are freed when their users are done with
/// them, so a driver first migrates all of them back (see `migrate::collect_device_range()`), and
/// ends whatever could migrate pages to the device.
///
/// # Examples
///
/// ```
/// use kernel::{
///     device::Device,
///     mm::pagemap::{DevicePagemap, DevicePagemapOps, FaultError, FreedFolio, VmFault},
///     sync::{Arc, ArcBorrow},
/// };
///
/// struct Block {
///     number: usize,
/// }
///
/// struct Vram;
///
/// impl DevicePagemapOps for Vram {
///     type FolioData = Arc<Block>;
///
///     fn folio_free(&self, freed: FreedFolio<Self>) {
///         pr_debug!("order {} at {} is free\n", freed.order, freed.offset);
///     }
///
///     fn migrate_to_ram(_: &DevicePagemap<Self>, _: &VmFault) -> Result<(), FaultError> {
///         Err(FaultError::Sigbus)
///     }
///
///     fn folio_split(&self, data: ArcBorrow<'_, Block>, _new_offset: usize) -> Arc<Block> {
///         data.into()
///     }
/// }
///
/// fn use_vram(dev: &Device) -> Result {
///     let vram = Arc::pin_init(DevicePagemap::new(dev, c"vram", 1 << 15, Vram), GFP_KERNEL)?;
///     let block = Arc::new(Block { number: 1 }, GFP_KERNEL)?;
///
///     let folio = vram.init_folio(512, 9, block.clone()).map_err(|_| EBUSY)?;
///     assert!(folio.is_device_private());
///     assert_eq!(vram.offset_of(&folio), Some(512));
///     assert_eq!(vram.folio_data(&folio).map(|block| block.number), Some(1));
///
///     // Its pages are in use until `folio_free()` is called.
///     assert!(vram.init_folio(513, 0, block).is_err());
///     Ok(())
/// }
/// ```
///
/// The data of a folio is its own, and ends with it:
///
/// ```ignore,compile_fail,E0505
/// # use kernel::{mm::{folio::Folio, pagemap::*}, sync::{aref::ARef, Arc}};
/// fn late<T: DevicePagemapOps<FolioData = Arc<u64>>>(
///     vram: &DevicePagemap<T>,
///     folio: ARef<Folio>,
/// ) -> Option<u64> {
///     let data = vram.folio_data(&folio);
///     drop(folio);
///     data.map(|data| *data)
/// }
/// ```
///
/// A fault of the CPU, and with it the lock of its folio, ends when the driver has served it:
///
/// ```ignore,compile_fail,E0521
/// # use kernel::{mm::pagemap::*, sync::Arc};
/// # struct Vram;
/// # fn serve_later(_fault: &'static VmFault) {}
/// # impl DevicePagemapOps for Vram {
/// #     type FolioData = ();
/// #     fn folio_free(&self, _freed: FreedFolio<Self>) {}
/// fn migrate_to_ram(_: &DevicePagemap<Self>, fault: &VmFault) -> Result<(), FaultError> {
///     serve_later(fault);
///     Ok(())
/// }
/// #     fn folio_split(&self, _data: (), _new_offset: usize) {}
/// # }
/// ```
///
/// # Invariants
///
/// - `pgmap` was set up by `memremap_pages()` with the operations of `T` for the pages of `region`,
///   of which the first `nr_pages` are handed out.
/// - The driver data of a folio of this pagemap comes from [`ForeignOwnable::into_foreign`] of
///   `T::FolioData`, and is owned by the folio.
#[pin_data(PinnedDrop)]
pub struct DevicePagemap<T: DevicePagemapOps> {
    #[pin]
    pgmap: Opaque<bindings::dev_pagemap>,
    nr_pages: usize,
    in_use: InUse,
    region: FreeRegion,
    #[pin]
    ops: T,
}

// SAFETY: The C object may be used and torn down on any thread, and `T` is `Send`.
unsafe impl<T: DevicePagemapOps> Send for DevicePagemap<T> {}

// SAFETY: All methods may be called concurrently; `T` and the data of folios are `Sync`.
unsafe impl<T: DevicePagemapOps> Sync for DevicePagemap<T> {}

impl<T: DevicePagemapOps> DevicePagemap<T> {
    const OPS: bindings::dev_pagemap_ops = bindings::dev_pagemap_ops {
        folio_free: Some(Self::folio_free_callback),
        migrate_to_ram: Some(Self::migrate_to_ram_callback),
        memory_failure: None,
        folio_split: Some(Self::folio_split_callback),
    };

    /// Creates `nr_pages` pages of device-private memory, all of them free.
    ///
    /// The metadata (64 bytes per page) is allocated near `dev`; `name` is shown in `/proc/iomem`.
    /// May sleep. Fails with [`EINVAL`] if `nr_pages` is 0, [`ERANGE`] if the physical address
    /// space has no room, and [`ENOMEM`].
    pub fn new<E>(
        dev: &device::Device,
        name: &'static CStr,
        nr_pages: usize,
        ops: impl PinInit<T, E>,
    ) -> impl PinInit<Self, Error>
    where
        Error: From<E>,
    {
        // SAFETY: `dev` is a valid device.
        let nid = unsafe { bindings::dev_to_node(dev.as_raw()) };

        try_pin_init!(Self {
            ops <- ops,
            region: FreeRegion::request(name, nr_pages)?,
            in_use: InUse::new(nr_pages)?,
            nr_pages,
            // INVARIANT: `pgmap` gets set up for the pages of `region`, and there are no folios.
            pgmap <- Opaque::try_ffi_init(|slot| {
                // SAFETY: `slot` is the place of the new value, and `nid` is a node or
                // `NUMA_NO_NODE`.
                unsafe { Self::map(slot, &region.range, nid) }
            }),
        }? Error)
    }

    /// Initialises `slot` and makes the pages of `range` exist.
    ///
    /// # Safety
    ///
    /// `slot` must be valid for writes and the field `pgmap` of the instance to be, whose other
    /// fields are initialised, `range` a range of free physical addresses, and `nid` a node or
    /// `NUMA_NO_NODE`.
    unsafe fn map(slot: *mut bindings::dev_pagemap, range: &bindings::range, nid: c_int) -> Result {
        // SAFETY: `slot` is valid for writes.
        unsafe { slot.write_bytes(0, 1) };

        // SAFETY: All zeros is a valid value of the C structure, and nobody else knows of it yet.
        let pgmap = unsafe { &mut *slot };
        pgmap.type_ = bindings::memory_type_MEMORY_DEVICE_PRIVATE;
        pgmap.ops = &Self::OPS;
        pgmap.owner = slot.cast();
        pgmap.nr_range = 1;

        // SAFETY: `range` is the member of the union that goes with `nr_range == 1`.
        let mapped = unsafe { pgmap.__bindgen_anon_1.range.as_mut() };
        mapped.start = range.start;
        mapped.end = range.end;

        // SAFETY: Type, operations, owner and range are set, the range is free, and the pagemap
        // stays in place until `memunmap_pages()`, since the object that `slot` is in is pinned.
        from_err_ptr(unsafe { bindings::memremap_pages(slot, nid) })?;
        Ok(())
    }

    /// Returns the identity of this instance.
    #[inline]
    pub fn owner(&self) -> Owner {
        // CAST: The owner that `map()` set is the address of `pgmap`.
        Owner(NonNull::from(&self.pgmap).cast())
    }

    /// Returns the number of pages.
    #[inline]
    pub fn nr_pages(&self) -> usize {
        self.nr_pages
    }

    /// Returns the frame number of the page at `offset`, or [`None`] if there is no such page.
    #[inline]
    pub fn pfn(&self, offset: usize) -> Option<usize> {
        (offset < self.nr_pages).then(|| self.region.pfn() + offset)
    }

    /// Returns the offset of the page with frame number `pfn`, or [`None`] if it is not one of
    /// this instance.
    #[inline]
    pub fn offset_of_pfn(&self, pfn: usize) -> Option<usize> {
        let offset = pfn.checked_sub(self.region.pfn())?;
        (offset < self.nr_pages).then_some(offset)
    }

    /// Returns the offset of the first page of `folio`, or [`None`] if it is not one of this
    /// instance.
    #[inline]
    pub fn offset_of(&self, folio: &Folio) -> Option<usize> {
        self.offset_of_pfn(folio.pfn())
    }

    /// Makes the `1 << order` free pages at `offset` into a new folio that owns `data`.
    ///
    /// Gives `data` back if the pages are out of range, if `offset` is not a multiple of the size,
    /// if the order is greater than [`PMD_ORDER`], or if a page is in use, that is, belongs to a
    /// folio for which [`DevicePagemapOps::folio_free`] has not been called.
    ///
    /// The new folio is locked, and the caller has its only reference. It is ready to be the
    /// destination of a migration. The contents of the pages are what they were.
    pub fn init_folio(
        &self,
        offset: usize,
        order: u32,
        data: T::FolioData,
    ) -> Result<LockedFolio, T::FolioData> {
        if !self.contains_block(offset, order) || !self.in_use.claim(offset, order) {
            return Err(data);
        }

        // SAFETY: The frame is one of our pages, all of which have a `struct page`.
        let page = unsafe { bindings::pfn_to_page(self.region.pfn() + offset) };
        let folio = NonNull::new(page.cast::<bindings::folio>());
        let Some(folio) = folio else {
            self.in_use.release(offset, order);
            return Err(data);
        };

        // Others, who look for folios by their frame, can find this one as soon as it has a
        // reference. So the data comes first.
        //
        // INVARIANT: The folio gets the ownership of `data`.
        // SAFETY: The page exists and belongs to nobody: we just claimed it. The anonymous union
        // has this member for device-private pages.
        unsafe { (*page).__bindgen_anon_1.__bindgen_anon_4.zone_device_data = data.into_foreign() };
        smp_mb(Write);

        // SAFETY: The pages exist and belong to nobody: we just claimed them. `pgmap` is live since
        // `self` is borrowed.
        unsafe { bindings::zone_device_folio_init(folio.as_ptr(), self.pgmap.get(), order) };

        // SAFETY: The folio is locked and has one reference, which nobody else knows of.
        Ok(unsafe { LockedFolio::from_raw(folio) })
    }

    /// Returns whether `offset` and `order` denote an aligned block of our pages.
    fn contains_block(&self, offset: usize, order: u32) -> bool {
        order <= PMD_ORDER
            && offset % (1 << order) == 0
            && offset < self.nr_pages
            && self.nr_pages - offset >= 1 << order
    }

    /// Returns the driver's data of `folio`, or [`None`] if it is not a folio of this instance.
    pub fn folio_data<'a>(
        &self,
        folio: &'a Folio,
    ) -> Option<<T::FolioData as ForeignOwnable>::Borrowed<'a>> {
        self.offset_of(folio)?;

        // SAFETY: The folio is one of ours, as its frame number shows.
        let data = unsafe { bindings::folio_zone_device_data(folio.as_raw()) };

        // SAFETY: By the type invariants the folio owns the data, which it gives up only when it is
        // freed. That it is not during `'a`.
        Some(unsafe { T::FolioData::borrow(data) })
    }

    /// Returns a new reference to the folio that starts at `offset`.
    ///
    /// Returns [`None`] if there is none at the moment.
    pub fn try_get(&self, offset: usize) -> Option<ARef<Folio>> {
        let pfn = self.pfn(offset)?;

        // SAFETY: The frame is one of our pages, all of which have a `struct page`.
        let page = unsafe { bindings::pfn_to_page(pfn) };

        // SAFETY: The page is valid. The function returns null unless it is the first page of a
        // folio whose reference count is not zero.
        let folio = NonNull::new(unsafe { bindings::folio_get_nontail_page(page) })?;

        // SAFETY: The function took a reference for us.
        Some(unsafe { ARef::from_raw(folio.cast()) })
    }

    /// Returns the instance that `folio` belongs to.
    ///
    /// # Safety
    ///
    /// `folio` must be a valid folio of a pagemap with the operations of `T`, which must not be
    /// dropped during `'a`.
    unsafe fn from_folio<'a>(folio: *mut bindings::folio) -> &'a Self {
        // CAST: A folio starts with its first page.
        // SAFETY: `folio` is a valid folio.
        let pgmap = unsafe { bindings::page_pgmap(folio.cast()) };

        // SAFETY: By the safety requirements `pgmap` is the field of a `Self`, which is alive.
        unsafe { &*container_of!(Opaque::cast_from(pgmap), Self, pgmap) }
    }

    /// # Safety
    ///
    /// `folio` must be a folio of an instance, and its last reference be gone.
    unsafe extern "C" fn folio_free_callback(folio: *mut bindings::folio) {
        // SAFETY: By the safety requirements. The drop of the instance waits for this function.
        let this = unsafe { Self::from_folio(folio) };
        // SAFETY: The folio stays valid until this function makes it free.
        let (pfn, order, data) = unsafe {
            (
                bindings::folio_pfn(folio),
                bindings::folio_order(folio),
                bindings::folio_zone_device_data(folio),
            )
        };
        let offset = pfn - this.region.pfn();
        // SAFETY: By the type invariants the folio owns the data, and it is gone.
        let data = unsafe { T::FolioData::from_foreign(data) };

        this.in_use.release(offset, order);
        this.ops.folio_free(FreedFolio {
            offset,
            order,
            data,
        });
    }

    /// # Safety
    ///
    /// `vmf` must satisfy the invariants of [`VmFault`], and its folio be one of an instance.
    unsafe extern "C" fn migrate_to_ram_callback(
        vmf: *mut bindings::vm_fault,
    ) -> bindings::vm_fault_t {
        // SAFETY: By the safety requirements.
        let fault = unsafe { VmFault::from_raw(vmf) };
        // SAFETY: By the safety requirements. While the folio is referenced, the drop of the
        // instance waits.
        let this = unsafe { Self::from_folio(fault.folio().as_raw()) };

        match T::migrate_to_ram(this, fault) {
            Ok(()) => 0,
            Err(error) => error.into(),
        }
    }

    /// # Safety
    ///
    /// `old` must be a folio of an instance, `new` be null or a folio that is split off it, and
    /// nobody else use either.
    unsafe extern "C" fn folio_split_callback(
        old: *mut bindings::folio,
        new: *mut bindings::folio,
    ) {
        if new.is_null() {
            // All folios are made; `old` keeps its data.
            return;
        }

        // SAFETY: By the safety requirements. While the folio exists, the drop of the instance
        // waits.
        let this = unsafe { Self::from_folio(old) };
        // SAFETY: `old` is a valid folio of ours.
        let data = unsafe { bindings::folio_zone_device_data(old) };
        // SAFETY: The data is valid as long as `old` is, and so during this function.
        let data = unsafe { T::FolioData::borrow(data) };
        // SAFETY: `new` is a valid folio.
        let new_offset = unsafe { bindings::folio_pfn(new) } - this.region.pfn();
        let new_data = this.ops.folio_split(data, new_offset);

        // The new folio was a tail page so far, which has neither pagemap nor mapping.
        //
        // SAFETY: Both are valid folios that nobody else uses, by the safety requirements. The
        // anonymous unions have these members whenever they are device-private.
        unsafe {
            let old = &raw mut (*old).__bindgen_anon_1.__bindgen_anon_1;
            let new = &raw mut (*new).__bindgen_anon_1.__bindgen_anon_1;
            (*new).__bindgen_anon_1.pgmap = this.pgmap.get();
            (*new).mapping = (*old).mapping;
        }

        // INVARIANT: `new` gets the ownership of `new_data`.
        // SAFETY: `new` is a device-private folio now that its pagemap is set.
        unsafe { bindings::folio_set_zone_device_data(new, new_data.into_foreign()) };
    }
}

impl<T: DevicePagemapOps> Deref for DevicePagemap<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        &self.ops
    }
}

#[pinned_drop]
impl<T: DevicePagemapOps> PinnedDrop for DevicePagemap<T> {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: By the type invariants the pages were set up by `memremap_pages()`.
        unsafe { bindings::memunmap_pages(self.pgmap.get()) };
    }
}

#[macros::kunit_tests(rust_mm_pagemap)]
mod tests {
    use super::*;
    use crate::{
        faux,
        sync::{
            Arc,
            ArcBorrow, //
        }, //
    };

    /// Counts the pages that are freed.
    struct Vram(Atomic<usize>);

    impl DevicePagemapOps for Vram {
        type FolioData = Arc<usize>;

        fn folio_free(&self, freed: FreedFolio<Self>) {
            // The data tells the offset at which the folio was made.
            if *freed.data == freed.offset {
                self.0.add(1 << freed.order, Relaxed);
            }
        }

        fn migrate_to_ram(_: &DevicePagemap<Self>, _: &VmFault) -> Result<(), FaultError> {
            Err(FaultError::Sigbus)
        }

        fn folio_split(&self, data: ArcBorrow<'_, usize>, _new_offset: usize) -> Arc<usize> {
            data.into()
        }
    }

    #[test]
    fn folios_come_and_go() -> Result {
        const NR_PAGES: usize = 1 << 15;

        let parent = faux::Registration::new(c"rust-mm-pagemap", None)?;
        let dev: &faux::Device<device::Bound> = parent.as_ref();
        let init = DevicePagemap::new(dev.as_ref(), c"kunit", NR_PAGES, Vram(Atomic::new(0)));
        let vram = Arc::pin_init(init, GFP_KERNEL)?;
        let make = |offset, order| {
            let data = Arc::new(offset, GFP_KERNEL)?;
            vram.init_folio(offset, order, data).map_err(|_| EBUSY)
        };

        let huge = make(0, PMD_ORDER)?;
        assert!(huge.is_device_private() && huge.is_locked());
        assert_eq!(huge.order(), PMD_ORDER);
        assert_eq!(huge.phys(), None);
        assert!(huge.page(0).is_none());
        assert_eq!(vram.offset_of(&huge), Some(0));
        assert_eq!(vram.offset_of_pfn(huge.pfn() + 1), Some(1));
        assert_eq!(vram.folio_data(&huge).map(|data| *data), Some(0));

        // In use, misaligned, out of range, too large.
        assert!(make(1, 0).is_err());
        assert!(make(NR_PAGES - 2, 2).is_err());
        assert!(make(NR_PAGES, 0).is_err());
        assert!(make(0, PMD_ORDER + 1).is_err());
        assert!(vram.try_get(NR_PAGES - 1).is_none());

        let last = make(NR_PAGES - 1, 0)?.unlock();
        let again = vram.try_get(NR_PAGES - 1).ok_or(ENOENT)?;
        assert_eq!(again.pfn(), last.pfn());
        drop(last);
        assert_eq!(vram.0.load(Relaxed), 0);
        drop(again);
        assert_eq!(vram.0.load(Relaxed), 1);
        assert!(vram.try_get(NR_PAGES - 1).is_none());

        drop(huge);
        assert_eq!(vram.0.load(Relaxed), 1 + (1 << PMD_ORDER));

        // The same pages as folios of another size.
        drop(make(1, 0)?);
        drop(make(4, 2)?);
        drop(make(0, PMD_ORDER)?);
        assert_eq!(vram.0.load(Relaxed), 1 + 1 + 4 + 2 * (1 << PMD_ORDER));
        Ok(())
    }

    #[test]
    fn claims_within_a_word() -> Result {
        let in_use = InUse::new(256)?;

        assert!(in_use.claim(8, 3));
        assert!(!in_use.claim(8, 3));
        assert!(!in_use.claim(15, 0));
        assert!(in_use.claim(16, 0));
        assert!(in_use.claim(0, 3));
        in_use.release(8, 3);
        assert!(in_use.claim(15, 0));
        assert!(!in_use.claim(8, 3));
        Ok(())
    }

    #[test]
    fn claims_across_words() -> Result {
        let in_use = InUse::new(1024)?;

        // A page in the last word: nothing of the block is claimed.
        assert!(in_use.claim(1023, 0));
        assert!(!in_use.claim(512, 9));
        assert!(in_use.claim(512, 8));
        assert!(in_use.claim(0, 9));
        in_use.release(512, 8);
        in_use.release(1023, 0);
        assert!(in_use.claim(512, 9));
        Ok(())
    }
}
