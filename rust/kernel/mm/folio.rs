// SPDX-License-Identifier: GPL-2.0

//! Folios.
//!
//! A folio is a physically, virtually and logically contiguous run of `1 << order` base pages that
//! the memory management treats as one: it has one reference count and one lock. [`Folio`] is the
//! folio itself, [`ARef<Folio>`] a counted reference to it, and [`LockedFolio`] a counted reference
//! that also owns the folio's lock, so that the lock state is part of the type.
//!
//! C header: [`include/linux/mm.h`](srctree/include/linux/mm.h)

use crate::{
    alloc::{
        AllocError,
        Flags, //
    },
    bindings,
    io::PhysAddr,
    mm::virt::VmaRef,
    page::{
        BorrowedPage,
        PAGE_SHIFT,
        PAGE_SIZE, //
    },
    prelude::*,
    sync::aref::{
        ARef,
        AlwaysRefCounted, //
    },
    types::Opaque, //
};
use core::{
    mem::ManuallyDrop,
    ops::Deref,
    ptr::NonNull, //
};

/// The order of a folio that a single PMD entry can map; 0 if huge pages are not supported.
#[cfg(CONFIG_TRANSPARENT_HUGEPAGE)]
pub const PMD_ORDER: u32 = bindings::HPAGE_PMD_ORDER;

/// The order of a folio that a single PMD entry can map; 0 if huge pages are not supported.
#[cfg(not(CONFIG_TRANSPARENT_HUGEPAGE))]
pub const PMD_ORDER: u32 = 0;

/// A wrapper for the kernel's `struct folio`.
///
/// Sizes and order are stable as long as the folio is locked. With only a reference they may
/// change when the folio is split, which the memory management does only if nobody but itself holds
/// references; hence they are stable in practice for whoever holds an [`ARef<Folio>`].
///
/// # Examples
///
/// ```
/// use kernel::mm::folio::Folio;
///
/// let folio = Folio::alloc(2, GFP_KERNEL | __GFP_ZERO)?;
/// assert_eq!(folio.order(), 2);
/// assert_eq!(folio.nr_pages(), 4);
/// assert_eq!(folio.size(), 4 * kernel::page::PAGE_SIZE);
/// assert_eq!(folio.ref_count(), 1);
/// assert!(!folio.is_device_private());
/// assert!(!folio.is_anon());
///
/// let byte = [0xa5u8];
/// let mut read = [0xffu8];
/// // SAFETY: `byte` and `read` are one byte long and nobody else knows `folio`.
/// unsafe {
///     folio.page(2).unwrap().read_raw(read.as_mut_ptr(), 7, 1)?;
///     assert_eq!(read, [0]);
///     folio.page(3).unwrap().write_raw(byte.as_ptr(), 7, 1)?;
///     folio.page(3).unwrap().read_raw(read.as_mut_ptr(), 7, 1)?;
///     assert_eq!(read, byte);
/// }
/// assert!(folio.page(4).is_none());
///
/// // The lock is a property of the type.
/// let mut locked = Folio::lock(folio);
/// assert!(locked.is_locked());
/// // This is not the memory of a process.
/// assert_eq!(locked.split(), Err(EINVAL));
/// assert_eq!(locked.order(), 2);
/// let folio = locked.unlock();
/// assert!(!folio.is_locked());
///
/// // Only one can have it.
/// let locked = Folio::trylock(folio.clone()).map_err(|_| EBUSY)?;
/// let refused = Folio::trylock(folio).err().ok_or(EINVAL)?;
/// assert_eq!(refused.ref_count(), 2);
/// drop(locked);
/// assert!(!refused.is_locked());
/// assert!(Folio::trylock(refused).is_ok());
/// # Ok::<(), Error>(())
/// ```
///
/// What needs the lock does not compile without it:
///
/// ```ignore,compile_fail,E0599
/// # use kernel::{mm::folio::Folio, prelude::*, sync::aref::ARef};
/// fn split(mut folio: ARef<Folio>) -> Result {
///     folio.split()
/// }
/// ```
///
/// ```ignore,compile_fail,E0382
/// # use kernel::{mm::folio::{Folio, LockedFolio}, prelude::*, sync::aref::ARef};
/// fn split(mut folio: LockedFolio) -> Result<ARef<Folio>> {
///     let unlocked = folio.unlock();
///     folio.split()?;
///     Ok(unlocked)
/// }
/// ```
///
/// # Invariants
///
/// Instances of this type are always reference counted, and point to a head page.
#[repr(transparent)]
pub struct Folio(Opaque<bindings::folio>);

// SAFETY: A folio reference may be dropped on any thread.
unsafe impl Send for Folio {}

// SAFETY: All methods on `Folio` may be called concurrently.
unsafe impl Sync for Folio {}

// SAFETY: By the type invariants, instances are always reference counted.
unsafe impl AlwaysRefCounted for Folio {
    #[inline]
    fn inc_ref(&self) {
        // SAFETY: The existence of a reference means that the reference count is non-zero.
        unsafe { bindings::folio_get(self.as_raw()) };
    }

    #[inline]
    unsafe fn dec_ref(obj: NonNull<Self>) {
        // SAFETY: The caller gives up one reference count.
        unsafe { bindings::folio_put(obj.as_ptr().cast()) };
    }
}

impl Folio {
    /// Allocates a folio of `1 << order` pages of system memory.
    ///
    /// The contents are undefined unless `flags` has [`__GFP_ZERO`]. May sleep if `flags` allows
    /// it.
    ///
    /// [`__GFP_ZERO`]: crate::alloc::flags::__GFP_ZERO
    pub fn alloc(order: u32, flags: Flags) -> Result<ARef<Folio>, AllocError> {
        if order > bindings::MAX_PAGE_ORDER {
            return Err(AllocError);
        }

        // SAFETY: The order is in range; every value of `flags` is fine.
        let folio = unsafe { bindings::folio_alloc(flags.as_raw(), order) };

        // SAFETY: If not null, we own the reference that the allocation came with.
        unsafe { Self::from_alloc(folio) }
    }

    /// Allocates a folio of `1 << order` pages to be mapped in `vma` at address `addr`.
    ///
    /// It is like [`Folio::alloc`], but follows the memory policy (NUMA) of `vma` at `addr`.
    pub fn alloc_for_vma(
        vma: &VmaRef,
        addr: usize,
        order: u32,
        flags: Flags,
    ) -> Result<ARef<Folio>, AllocError> {
        // The sign is lost on purpose: `MAX_PAGE_ORDER` fits into any integer type.
        if order > bindings::MAX_PAGE_ORDER {
            return Err(AllocError);
        }

        // SAFETY: The order is in range; every value of `flags` is fine. `vma` is valid and locked
        // for reading by the invariants of `VmaRef`.
        let folio = unsafe {
            bindings::vma_alloc_folio(flags.as_raw(), order as c_int, vma.as_ptr(), addr)
        };

        // SAFETY: If not null, we own the reference that the allocation came with.
        unsafe { Self::from_alloc(folio) }
    }

    /// # Safety
    ///
    /// `ptr` must be null or a folio of which the caller owns one reference, which is given up.
    unsafe fn from_alloc(ptr: *mut bindings::folio) -> Result<ARef<Folio>, AllocError> {
        let ptr = NonNull::new(ptr).ok_or(AllocError)?;

        // SAFETY: By the safety requirements we own a reference and pass it on.
        Ok(unsafe { ARef::from_raw(ptr.cast()) })
    }

    /// Makes a reference from a raw pointer.
    ///
    /// # Safety
    ///
    /// `ptr` must point to the head page of a valid folio, and its reference count must not reach
    /// zero during `'a`.
    #[inline]
    pub unsafe fn from_raw<'a>(ptr: *mut bindings::folio) -> &'a Folio {
        // SAFETY: By the safety requirements; the types have the same layout.
        unsafe { &*ptr.cast() }
    }

    /// Returns the folio that the page `pfn` belongs to.
    ///
    /// # Safety
    ///
    /// `pfn` must be a page with a `struct page`, and the folio that it belongs to must be
    /// referenced, and must not be split, during `'a`.
    #[inline]
    pub unsafe fn from_pfn<'a>(pfn: usize) -> &'a Folio {
        // SAFETY: By the safety requirements there is a `struct page`.
        let page = unsafe { bindings::pfn_to_page(pfn) };

        // SAFETY: By the safety requirements the page belongs to a valid folio.
        let folio = unsafe { bindings::page_folio(page) };

        // SAFETY: By the safety requirements.
        unsafe { Self::from_raw(folio) }
    }

    /// Returns a raw pointer to the inner `struct folio`.
    #[inline]
    pub fn as_raw(&self) -> *mut bindings::folio {
        self.0.get()
    }

    /// Returns the order: the folio has `1 << order` pages.
    #[inline]
    pub fn order(&self) -> u32 {
        // SAFETY: The pointer is valid since `self` is a reference.
        unsafe { bindings::folio_order(self.as_raw()) }
    }

    /// Returns the number of base pages.
    #[inline]
    pub fn nr_pages(&self) -> usize {
        1 << self.order()
    }

    /// Returns the size in bytes.
    #[inline]
    pub fn size(&self) -> usize {
        PAGE_SIZE << self.order()
    }

    /// Returns the frame number of the first page.
    #[inline]
    pub fn pfn(&self) -> usize {
        // SAFETY: The pointer is valid since `self` is a reference.
        unsafe { bindings::folio_pfn(self.as_raw()) }
    }

    /// Returns the physical address of the first byte, or [`None`] for device-private memory,
    /// which has no address that the CPU or another device could use.
    #[inline]
    pub fn phys(&self) -> Option<PhysAddr> {
        (!self.is_device_private()).then(|| (self.pfn() as PhysAddr) << PAGE_SHIFT)
    }

    /// Returns whether this is memory of a device that the CPU cannot access.
    #[inline]
    pub fn is_device_private(&self) -> bool {
        // SAFETY: The pointer is valid since `self` is a reference.
        unsafe { bindings::folio_is_device_private(self.as_raw()) }
    }

    /// Returns whether this folio is mapped, or was mapped, as anonymous memory.
    #[inline]
    pub fn is_anon(&self) -> bool {
        // SAFETY: The pointer is valid since `self` is a reference.
        unsafe { bindings::folio_test_anon(self.as_raw()) }
    }

    /// Returns whether this folio belongs to hugetlb.
    #[inline]
    pub fn is_hugetlb(&self) -> bool {
        // SAFETY: The pointer is valid since `self` is a reference.
        unsafe { bindings::folio_test_hugetlb(self.as_raw()) }
    }

    /// Returns whether somebody, not necessarily the caller, holds the folio's lock.
    #[inline]
    pub fn is_locked(&self) -> bool {
        // SAFETY: The pointer is valid since `self` is a reference.
        unsafe { bindings::folio_test_locked(self.as_raw()) }
    }

    /// Returns the number of references.
    ///
    /// Others may take references at any time, but not of a folio that only its owner knows.
    #[inline]
    pub fn ref_count(&self) -> c_int {
        // SAFETY: The pointer is valid since `self` is a reference.
        unsafe { bindings::folio_ref_count(self.as_raw()) }
    }

    /// Returns whether nobody but the caller, who has one reference, has ever got to know the
    /// folio: it is on no list of the system's memory, and was never mapped by a process.
    #[inline]
    pub fn is_new(&self) -> bool {
        // SAFETY: The pointer is valid since `self` is a reference.
        let is_listed = || unsafe { bindings::folio_test_lru(self.as_raw()) };

        // Files have references to their folios. Processes and lists have none when they are done,
        // but a folio stays anonymous, and on its list, until it is freed.
        self.ref_count() == 1 && !self.is_anon() && !is_listed()
    }

    /// Returns page number `index` of the folio, for access by the CPU.
    ///
    /// Returns [`None`] if `index` is not below [`Folio::nr_pages`] or the CPU cannot access the
    /// memory because it is device-private.
    pub fn page(&self, index: usize) -> Option<BorrowedPage<'_>> {
        if index >= self.nr_pages() || self.is_device_private() {
            return None;
        }

        // SAFETY: `index` is within the folio.
        let page = unsafe { bindings::folio_page(self.as_raw(), index) };

        // SAFETY: The page is valid as long as its folio, which `self` borrows.
        Some(unsafe { BorrowedPage::from_raw(NonNull::new(page)?) })
    }

    /// Locks the folio.
    ///
    /// Sleeps until the lock is free. Somebody who holds the locks of several folios must take all
    /// but the first by [`Folio::trylock`], since there is no order among them.
    pub fn lock(this: ARef<Folio>) -> LockedFolio {
        // SAFETY: The pointer is valid since `this` is a reference.
        unsafe { bindings::folio_lock(this.as_raw()) };

        // INVARIANT: The lock was just acquired.
        LockedFolio(this)
    }

    /// Locks the folio if the lock is free, and gives the reference back otherwise. Never sleeps.
    pub fn trylock(this: ARef<Folio>) -> Result<LockedFolio, ARef<Folio>> {
        // SAFETY: The pointer is valid since `this` is a reference.
        if unsafe { bindings::folio_trylock(this.as_raw()) } {
            // INVARIANT: The lock was just acquired.
            Ok(LockedFolio(this))
        } else {
            Err(this)
        }
    }
}

/// A reference to a [`Folio`] that owns the folio's lock.
///
/// Dropping it unlocks the folio and gives up the reference. A folio's lock is not bound to a
/// thread, hence this type can be sent to another one.
///
/// # Invariants
///
/// The value owns the lock of the folio.
#[must_use = "the folio is unlocked and released if unused"]
pub struct LockedFolio(ARef<Folio>);

impl Deref for LockedFolio {
    type Target = Folio;

    #[inline]
    fn deref(&self) -> &Folio {
        &self.0
    }
}

impl LockedFolio {
    /// Takes over a lock and a reference.
    ///
    /// # Safety
    ///
    /// The caller must own the lock of, and a reference to, the valid folio `ptr`, and gives both
    /// up.
    #[inline]
    pub unsafe fn from_raw(ptr: NonNull<bindings::folio>) -> Self {
        // INVARIANT: The caller passes the lock on.
        // SAFETY: The caller passes its reference on.
        Self(unsafe { ARef::from_raw(ptr.cast()) })
    }

    /// Gives up the ownership of lock and reference without releasing either.
    #[inline]
    pub fn into_raw(self) -> NonNull<bindings::folio> {
        let this = ManuallyDrop::new(self);

        // SAFETY: `this.0` is a valid reference and is not used any more.
        ARef::into_raw(unsafe { core::ptr::read(&this.0) }).cast()
    }

    /// Unlocks the folio and keeps the reference.
    pub fn unlock(self) -> ARef<Folio> {
        let folio = self.into_raw();

        // SAFETY: By the type invariants we own the lock.
        unsafe { bindings::folio_unlock(folio.as_ptr()) };

        // SAFETY: `into_raw()` passed the reference to us.
        unsafe { ARef::from_raw(folio.cast()) }
    }

    /// Splits an anonymous folio, device-private ones included, into single pages.
    ///
    /// `self` then stands for the first page. The other pages belong to whoever maps them; they
    /// are freed if nobody does. A folio of one page is left as it is. May sleep.
    ///
    /// Returns [`EINVAL`] if the folio is not anonymous or is one of hugetlb, [`EAGAIN`] if
    /// somebody else holds a reference to it, and [`EBUSY`] if it cannot be split at the moment.
    /// Wraps the C function `split_folio_to_list()`.
    // Not inlined, since the C function is not exported to modules.
    #[inline(never)]
    pub fn split(&mut self) -> Result {
        if self.order() == 0 {
            return Ok(());
        }
        // The pages of hugetlb can be anonymous too, but they belong to its pool.
        if !self.is_anon() || self.is_hugetlb() {
            return Err(EINVAL);
        }

        #[cfg(CONFIG_TRANSPARENT_HUGEPAGE)]
        // SAFETY: We own the lock and a reference, and the folio has more than one page and is not
        // one of hugetlb. A null list means that the pages go where the folio was.
        return crate::error::to_result(unsafe {
            bindings::split_folio_to_list(self.as_raw(), core::ptr::null_mut())
        });

        #[cfg(not(CONFIG_TRANSPARENT_HUGEPAGE))]
        Err(EINVAL)
    }
}

impl Drop for LockedFolio {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: By the type invariants we own the lock.
        unsafe { bindings::folio_unlock(self.0.as_raw()) };
    }
}
