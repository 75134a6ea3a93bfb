// SPDX-License-Identifier: GPL-2.0

//! Reading the page tables of a process, and faulting pages in, on behalf of a device.
//!
//! A [`RangeFault`] asks for a range of addresses that an [`IntervalNotifier`] watches. The answer
//! can be out of date at once, so it must be proven first: [`Faulted::lock`] takes the driver's
//! lock, and gives access to the pages only if nothing has changed, for as long as the lock is
//! held. That a try has to be repeated is a value of its own, [`FaultError::Retry`] or [`Retry`].
//!
//! C header: [`include/linux/hmm.h`](srctree/include/linux/hmm.h)

use crate::{
    alloc::{
        AllocError,
        Flags, //
    },
    bindings,
    error::to_result,
    io::PhysAddr,
    mm::{
        folio::Folio,
        notifier::{
            IntervalNotifier,
            IntervalNotifierOps,
            ReadGuard,
            Retry, //
        },
        pagemap::Owner,
        MmWithUser,
        MmapReadGuard, //
    },
    page::{
        PAGE_SHIFT,
        PAGE_SIZE, //
    },
    prelude::*,
    sync::lock::Guard,
    time::Jiffies, //
};
use core::{
    marker::PhantomData,
    ops::Range,
    ptr, //
};

const VALID: usize = bindings::hmm_pfn_flags_HMM_PFN_VALID;
const WRITE: usize = bindings::hmm_pfn_flags_HMM_PFN_WRITE;
const ERROR: usize = bindings::hmm_pfn_flags_HMM_PFN_ERROR;
const FLAGS: usize = bindings::hmm_pfn_flags_HMM_PFN_FLAGS;
const ORDER_SHIFT: usize = bindings::hmm_pfn_flags_HMM_PFN_ORDER_SHIFT;
const ORDER_MASK: usize = 0x1f;

/// Memory for the answer. It can be used again when the answer is gone.
pub struct Buffer(KVVec<usize>);

impl Buffer {
    /// Allocates memory for `nr_pages` pages, 8 bytes each. May sleep if `flags` allows it.
    pub fn new(nr_pages: usize, flags: Flags) -> Result<Self, AllocError> {
        Ok(Self(KVVec::from_elem(0, nr_pages, flags)?))
    }

    /// Returns for how many pages there is memory.
    #[inline]
    pub fn capacity(&self) -> usize {
        self.0.len()
    }
}

/// What the device is going to do.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Access {
    /// Nothing: tell what is there, and fault nothing in.
    Snapshot,
    /// Read. All pages are faulted in.
    Read,
    /// Read and write. All pages are faulted in, and made writable.
    Write,
}

/// Why pages cannot be had.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum FaultError {
    /// The memory kept changing: try again.
    Retry,
    /// It is of no use to try again:
    ///
    /// - [`EFAULT`]: there is no memory, or none that a device could use, at some address.
    /// - [`EPERM`]: the memory must not be written.
    /// - [`EINVAL`]: the range is empty, not aligned to pages, not watched by the notifier or
    ///   larger than the buffer, or the address space is not the one watched.
    /// - [`ENOMEM`], and [`EINTR`] after a fatal signal.
    Failed(Error),
}

impl From<Error> for FaultError {
    fn from(error: Error) -> Self {
        if error == EBUSY {
            Self::Retry
        } else {
            Self::Failed(error)
        }
    }
}

impl From<FaultError> for Error {
    fn from(error: FaultError) -> Self {
        match error {
            FaultError::Retry => EBUSY,
            FaultError::Failed(error) => error,
        }
    }
}

/// A request for the pages of a range of addresses.
///
/// # Examples
///
/// ```
/// use core::ops::Range;
/// use kernel::{
///     mm::{
///         hmm::{Access, Buffer, RangeFault},
///         notifier::{IntervalNotifier, IntervalNotifierOps},
///         MmWithUser,
///     },
///     time::msecs_to_jiffies,
/// };
///
/// fn map<T: IntervalNotifierOps>(
///     mm: &MmWithUser,
///     notifier: &IntervalNotifier<T>,
///     range: Range<usize>,
///     set: impl Fn(&mut T::Protected, usize, u64, bool),
/// ) -> Result {
///     let mut buffer = Buffer::new(512, GFP_KERNEL)?;
///
///     loop {
///         let faulted = RangeFault::new(notifier, range.clone(), Access::Read).fault_unlocked(
///             mm,
///             msecs_to_jiffies(1000),
///             &mut buffer,
///         )?;
///         let Ok(mut stable) = faulted.lock() else {
///             continue;
///         };
///
///         let (page_tables, entries) = stable.parts();
///         for entry in entries {
///             set(page_tables, entry.index(), entry.phys(), entry.is_writable());
///         }
///         return Ok(());
///     }
/// }
/// ```
///
/// Pages that are not proven to be up to date cannot be used:
///
/// ```ignore,compile_fail,E0599
/// # use kernel::mm::{hmm::Faulted, notifier::IntervalNotifierOps};
/// fn unproven<T: IntervalNotifierOps>(faulted: Faulted<'_, T>) -> usize {
///     faulted.entries().count()
/// }
/// ```
///
/// Nor can they when the driver's lock is released:
///
/// ```ignore,compile_fail,E0505
/// # use kernel::mm::{hmm::Stable, notifier::IntervalNotifierOps};
/// fn unlocked<T: IntervalNotifierOps>(stable: Stable<'_, T>) -> usize {
///     let entries = stable.entries();
///     drop(stable);
///     entries.count()
/// }
/// ```
pub struct RangeFault<'a, T: IntervalNotifierOps> {
    notifier: &'a IntervalNotifier<T>,
    range: Range<usize>,
    access: Access,
    owner: Option<Owner>,
    runs: bool,
}

impl<'a, T: IntervalNotifierOps> RangeFault<'a, T> {
    /// Asks for the addresses `range` (bytes), which must be watched by `notifier`.
    pub fn new(notifier: &'a IntervalNotifier<T>, range: Range<usize>, access: Access) -> Self {
        Self {
            notifier,
            range,
            access,
            owner: None,
            runs: false,
        }
    }

    /// Takes device-private pages of `owner` as they are. Those of others are faulted back.
    pub fn owner(mut self, owner: Owner) -> Self {
        self.owner = Some(owner);
        self
    }

    /// Reports the order of what PTEs map, too: of runs of pages that are contiguous in memory as
    /// they are in the address space, aligned to their size in both, and alike.
    pub fn runs(mut self) -> Self {
        self.runs = true;
        self
    }

    /// Gets the pages for a caller that holds the mmap lock.
    ///
    /// [`FaultError::Retry`] means that an invalidation came in between. May sleep; the driver's
    /// lock must not be held. Memory with a user-space fault handler (userfaultfd) cannot be served
    /// under the mmap lock, so prefer [`RangeFault::fault_unlocked`]. Wraps `hmm_range_fault()`.
    pub fn fault(
        self,
        mmap: &MmapReadGuard<'_>,
        buffer: &'a mut Buffer,
    ) -> Result<Faulted<'a, T>, FaultError> {
        let pfns = self.check(mmap.mm(), buffer)?;
        let read = self.notifier.read_begin();
        let mut range = self.as_hmm_range(pfns, read.seq);

        // SAFETY: `range` is set up completely, its notifier is inserted since it is borrowed, and
        // the mmap lock of its address space is held.
        to_result(unsafe { bindings::hmm_range_fault(&mut range) })?;

        Ok(Faulted {
            read,
            pfns,
            first_page: self.range.start >> PAGE_SHIFT,
        })
    }

    /// Gets the pages for a caller that does not hold the mmap lock.
    ///
    /// Invalidations that come in between are dealt with, for `timeout` jiffies at most (0: for
    /// ever); then the result is [`FaultError::Retry`]. May sleep, for as long as a user-space
    /// fault handler takes; the driver's lock must not be held. `mm` must be the one that the
    /// notifier watches. Wraps `hmm_range_fault_unlocked_timeout()`.
    pub fn fault_unlocked(
        self,
        mm: &MmWithUser,
        timeout: Jiffies,
        buffer: &'a mut Buffer,
    ) -> Result<Faulted<'a, T>, FaultError> {
        let pfns = self.check(mm, buffer)?;
        let mut range = self.as_hmm_range(pfns, 0);

        // SAFETY: `range` is set up completely, but for the sequence number, which the function
        // sets. The notifier is inserted since it is borrowed, and `mm` has users.
        to_result(unsafe { bindings::hmm_range_fault_unlocked_timeout(&mut range, timeout) })?;

        Ok(Faulted {
            read: ReadGuard {
                notifier: self.notifier,
                seq: range.notifier_seq,
            },
            pfns,
            first_page: self.range.start >> PAGE_SHIFT,
        })
    }

    /// Checks the request, and returns as many cleared entries as the range has pages.
    fn check<'b>(&self, mm: &MmWithUser, buffer: &'b mut Buffer) -> Result<&'b mut [usize]> {
        let Range { start, end } = self.range;
        let watched = self.notifier.range();

        if start >= end
            || (start | end) & (PAGE_SIZE - 1) != 0
            || start < watched.start
            || end > watched.end
            || !self.notifier.is_of(mm)
        {
            return Err(EINVAL);
        }

        let pfns = buffer.0.get_mut(..(end - start) >> PAGE_SHIFT);
        let pfns = pfns.ok_or(EINVAL)?;
        pfns.fill(0);
        Ok(pfns)
    }

    fn as_hmm_range(&self, pfns: &mut [usize], seq: usize) -> bindings::hmm_range {
        bindings::hmm_range {
            notifier: self.notifier.as_raw(),
            notifier_seq: seq,
            start: self.range.start,
            end: self.range.end,
            hmm_pfns: pfns.as_mut_ptr(),
            default_flags: match self.access {
                Access::Snapshot => 0,
                Access::Read => bindings::hmm_pfn_flags_HMM_PFN_REQ_FAULT,
                Access::Write => {
                    bindings::hmm_pfn_flags_HMM_PFN_REQ_FAULT
                        | bindings::hmm_pfn_flags_HMM_PFN_REQ_WRITE
                }
            },
            pfn_flags_mask: 0,
            dev_private_owner: self.owner.map_or(ptr::null_mut(), Owner::as_raw),
            report_runs: self.runs,
        }
    }
}

/// An answer that may be out of date.
#[must_use = "the pages can be used only after `lock()`"]
pub struct Faulted<'a, T: IntervalNotifierOps> {
    read: ReadGuard<'a, T>,
    pfns: &'a [usize],
    first_page: usize,
}

impl<'a, T: IntervalNotifierOps> Faulted<'a, T> {
    /// Takes the driver's lock, and returns the pages if nothing has changed.
    pub fn lock(self) -> Result<Stable<'a, T>, Retry> {
        // INVARIANT: The answer is up to date under the lock.
        Ok(Stable {
            guard: self.read.lock()?,
            pfns: self.pfns,
            first_page: self.first_page,
        })
    }

    /// Returns whether [`Faulted::lock`] is known to fail, so that work can be saved.
    pub fn is_stale(&self) -> bool {
        self.read.is_stale()
    }
}

/// An answer that is true, because the driver's lock is held.
///
/// # Invariants
///
/// The pages in `pfns` were there when `guard` was acquired. They stay until it is dropped, since
/// an invalidation has to wait for the lock.
pub struct Stable<'a, T: IntervalNotifierOps> {
    guard: Guard<'a, T::Protected, T::Backend>,
    pfns: &'a [usize],
    first_page: usize,
}

impl<'a, T: IntervalNotifierOps> Stable<'a, T> {
    /// Walks the pages.
    pub fn entries(&self) -> Entries<'_> {
        Entries {
            pfns: self.pfns,
            first_page: self.first_page,
            index: 0,
        }
    }

    /// Returns whether page `index` of the range can be accessed by nobody, as there is no memory
    /// or no right to read it.
    ///
    /// Only with [`Access::Snapshot`]; the other requests fail then.
    pub fn is_error(&self, index: usize) -> bool {
        self.pfns.get(index).is_some_and(|value| value & ERROR != 0)
    }

    /// Returns what the driver's lock protects, and the pages to update it with.
    pub fn parts(&mut self) -> (&mut T::Protected, Entries<'_>) {
        let entries = Entries {
            pfns: self.pfns,
            first_page: self.first_page,
            index: 0,
        };

        (&mut *self.guard, entries)
    }
}

/// An iterator over pages that are present.
///
/// Pages of one folio that are next to each other and mapped by one entry of the CPU's page tables,
/// or that are a [run](RangeFault::runs), come as one [`Entry`]. Pages that are not there, or that
/// no device can use, are left out; with [`Access::Read`] or [`Access::Write`] there are none.
pub struct Entries<'a> {
    pfns: &'a [usize],
    first_page: usize,
    index: usize,
}

impl<'a> Iterator for Entries<'a> {
    type Item = Entry<'a>;

    fn next(&mut self) -> Option<Entry<'a>> {
        let is_present = |&value: &usize| value & (VALID | ERROR) == VALID;
        let rest = self.pfns.get(self.index..)?;
        let index = self.index + rest.iter().position(is_present)?;

        let mut entry = Entry {
            index,
            nr_pages: 1,
            value: self.pfns[index],
            _folio: PhantomData,
        };
        let mapping = 1usize << entry.map_order();
        if mapping > 1 {
            let left = mapping - ((self.first_page + index) & (mapping - 1));
            // The core reports all pages of a mapping at once, in order. A run may go on where the
            // folio does not.
            entry.nr_pages = left
                .min(self.pfns.len() - index)
                .min(entry.folio().nr_pages() - entry.page_in_folio());
        }

        self.index = index + entry.nr_pages;
        Some(entry)
    }
}

/// Pages of a folio that are present, and that the CPU's page tables map alike; see [`Entries`].
#[derive(Clone, Copy)]
pub struct Entry<'a> {
    index: usize,
    nr_pages: usize,
    value: usize,
    _folio: PhantomData<&'a Folio>,
}

impl<'a> Entry<'a> {
    /// Returns the first page, as the distance from the start of the range in pages.
    #[inline]
    pub fn index(&self) -> usize {
        self.index
    }

    /// Returns the number of pages within the range.
    #[inline]
    pub fn nr_pages(&self) -> usize {
        self.nr_pages
    }

    /// Returns the order of the CPU's mapping or run, which may reach beyond the range.
    #[inline]
    pub fn map_order(&self) -> u32 {
        ((self.value >> ORDER_SHIFT) & ORDER_MASK) as u32
    }

    /// Returns whether the device may write.
    #[inline]
    pub fn is_writable(&self) -> bool {
        self.value & WRITE != 0
    }

    /// Returns the frame number of the first page.
    #[inline]
    pub fn pfn(&self) -> usize {
        self.value & !FLAGS
    }

    /// Returns whether the first page is the one that stands for memory that was only ever read.
    #[inline]
    pub fn is_zero_page(&self) -> bool {
        // SAFETY: Any frame number may be asked for.
        unsafe { bindings::is_zero_pfn(self.pfn()) }
    }

    /// Returns the physical address of the first page. It means nothing for a
    /// [device-private](Entry::is_device_private) one.
    #[inline]
    pub fn phys(&self) -> PhysAddr {
        (self.pfn() as PhysAddr) << PAGE_SHIFT
    }

    /// Returns the folio of the first page.
    #[inline]
    pub fn folio(&self) -> &'a Folio {
        // SAFETY: All pages have a `struct page`, and by the invariants of `Stable`, which is
        // borrowed during `'a`, they stay mapped, and so referenced and unsplit.
        unsafe { Folio::from_pfn(self.pfn()) }
    }

    /// Marks the contents as changed, so that they are written out before the memory is reused.
    ///
    /// The CPU's page tables do not tell that the device has written, so this must be called for
    /// every page that the device is given the right to write. Does nothing for other pages. A
    /// device-private page takes the mark with it when it comes back; without, what was written to
    /// lazily freed memory (`MADV_FREE`) would be thrown away. Does not sleep. Wraps
    /// `folio_mark_dirty()`.
    #[inline]
    pub fn mark_dirty(&self) {
        if !self.is_writable() {
            return;
        }

        // SAFETY: The folio is valid. It is not truncated meanwhile: by the invariants of `Stable`,
        // which is borrowed during `'a`, it stays mapped, and truncation comes after unmapping. As
        // the CPU may write to it, its file system is prepared for that.
        unsafe { bindings::folio_mark_dirty(self.folio().as_raw()) };
    }

    /// Returns the number of the first page within its folio.
    #[inline]
    pub fn page_in_folio(&self) -> usize {
        self.pfn() - self.folio().pfn()
    }

    /// Returns whether this is device-private memory (of the owner asked for).
    #[inline]
    pub fn is_device_private(&self) -> bool {
        self.folio().is_device_private()
    }
}

#[macros::kunit_tests(rust_mm_hmm)]
mod tests {
    use super::*;
    use crate::mm::{
        migrate::testing::{
            contents,
            to_device,
            vram,
            Area, //
        },
        notifier::testing::{
            watch,
            Mirror, //
        }, //
    };

    /// Gets the pages with the mmap lock, or without it.
    fn get<'a>(
        request: RangeFault<'a, Mirror>,
        area: &Area,
        unlocked: bool,
        buffer: &'a mut Buffer,
    ) -> Result<Faulted<'a, Mirror>, FaultError> {
        if unlocked {
            request.fault_unlocked(area.mm(), 0, buffer)
        } else {
            request.fault(&area.mm().mmap_read_lock(), buffer)
        }
    }

    /// Reads the pages, and returns how many bytes. The driver's lock is held, so there is no
    /// allocation in here.
    fn read(entries: Entries<'_>, bytes: &mut [u8]) -> Result<usize> {
        let mut nr_pages = 0;

        for entry in entries {
            for index in 0..entry.nr_pages() {
                let page = entry.folio().page(entry.page_in_folio() + index);
                let page = page.ok_or(EFAULT)?;
                let to = bytes.chunks_exact_mut(PAGE_SIZE).nth(nr_pages);
                let to = to.ok_or(EINVAL)?;

                // SAFETY: `to` is valid for writes, and nobody writes to the page.
                unsafe { page.read_raw(to.as_mut_ptr(), 0, to.len()) }?;
                nr_pages += 1;
            }
        }
        Ok(nr_pages * PAGE_SIZE)
    }

    fn walk(first_page: usize, pfns: &[usize]) -> Result<KVec<(usize, usize, usize, bool)>> {
        let mut found = KVec::new();
        let entries = Entries {
            pfns,
            first_page,
            index: 0,
        };
        for entry in entries {
            found.push(
                (
                    entry.index(),
                    entry.nr_pages(),
                    entry.pfn(),
                    entry.is_writable(),
                ),
                GFP_KERNEL,
            )?;
        }
        Ok(found)
    }

    #[test]
    fn skips_what_is_not_there() -> Result {
        let pfns = [0, VALID | 7, ERROR, VALID | ERROR | 9, VALID | WRITE | 8];

        assert_eq!(walk(0, &pfns)?[..], [(1, 1, 7, false), (4, 1, 8, true)]);
        Ok(())
    }

    #[test]
    fn joins_pages_of_one_mapping() -> Result {
        let order2 = VALID | 2 << ORDER_SHIFT;
        let folio = Folio::alloc(3, GFP_KERNEL)?;
        let first = folio.pfn();
        // The range starts at the third page of a mapping of four, and a second one follows, which
        // is next to it in memory too.
        let pfns = [2, 3, 4, 5, 6].map(|page| order2 | (first + page));

        assert_eq!(
            walk(6, &pfns)?[..],
            [(0, 2, first + 2, false), (2, 3, first + 4, false)]
        );
        Ok(())
    }

    #[test]
    fn does_not_join_folios() -> Result {
        let order1 = VALID | 1 << ORDER_SHIFT;
        let folios = [Folio::alloc(0, GFP_KERNEL)?, Folio::alloc(0, GFP_KERNEL)?];
        let [one, other] = folios.each_ref().map(|folio| folio.pfn());

        assert_eq!(
            walk(0, &[order1 | one, order1 | other])?[..],
            [(0, 1, one, false), (1, 1, other, false)]
        );
        Ok(())
    }

    #[test]
    fn does_not_join_single_pages() -> Result {
        let pfns = [VALID | 5, VALID | 6];

        assert_eq!(walk(0, &pfns)?[..], [(0, 1, 5, false), (1, 1, 6, false)]);
        Ok(())
    }

    #[test]
    fn finds_what_the_process_wrote() -> Result {
        let area = Area::new()?;
        let notifier = watch(&area, 0..3, None, None)?;
        let mut buffer = Buffer::new(3, GFP_KERNEL)?;
        let written = contents(1..3)?;
        let mut found = KVVec::from_elem(0, written.len(), GFP_KERNEL)?;

        area.write(1, &written)?;
        for unlocked in [false, true] {
            // Page 0 was not touched, and nothing faults it in.
            let request = RangeFault::new(&notifier, area.range(0..3), Access::Snapshot);
            let faulted = get(request, &area, unlocked, &mut buffer)?;
            let stable = faulted.lock()?;
            assert_eq!(stable.entries().next().map(|entry| entry.index()), Some(1));
            assert!(stable.entries().all(|entry| entry.is_writable()));
            assert!(!stable.is_error(0));
            assert_eq!(read(stable.entries(), &mut found)?, written.len());
            assert!(found[..] == written[..]);
            found.fill(0);
        }
        Ok(())
    }

    #[test]
    fn faults_in_what_was_not_touched() -> Result {
        let area = Area::new()?;
        let notifier = watch(&area, 0..4, None, None)?;
        let mut buffer = Buffer::new(1, GFP_KERNEL)?;
        let mut found = KVVec::from_elem(0xff, PAGE_SIZE, GFP_KERNEL)?;
        let cases = [
            (Access::Read, false),
            (Access::Read, true),
            (Access::Write, false),
            (Access::Write, true),
        ];

        for (page, (access, unlocked)) in cases.into_iter().enumerate() {
            let request = RangeFault::new(&notifier, area.range(page..page + 1), access);
            let faulted = get(request, &area, unlocked, &mut buffer)?;
            let stable = faulted.lock()?;
            let entry = stable.entries().next().ok_or(ENOENT)?;
            assert_eq!(entry.is_writable(), access == Access::Write);
            assert_eq!(entry.is_zero_page(), access == Access::Read);

            assert_eq!(read(stable.entries(), &mut found)?, PAGE_SIZE);
            assert!(found.iter().all(|&byte| byte == 0));
            found.fill(0xff);
        }
        Ok(())
    }

    #[test]
    fn what_has_changed_is_not_used() -> Result {
        let area = Area::new()?;
        let notifier = watch(&area, 0..4, None, None)?;
        let mut buffer = Buffer::new(1, GFP_KERNEL)?;

        for unlocked in [false, true] {
            let page = usize::from(unlocked);
            let request = RangeFault::new(&notifier, area.range(page..page + 1), Access::Write);
            let faulted = get(request, &area, unlocked, &mut buffer)?;
            assert!(!faulted.is_stale());
            area.unmap(page..page + 1)?;
            assert!(faulted.is_stale());
            assert_eq!(faulted.lock().err(), Some(Retry));
        }
        Ok(())
    }

    #[test]
    fn a_change_in_between_is_told_or_dealt_with() -> Result {
        let vram = vram()?;
        let area = Area::new()?;
        let notifier = watch(&area, 0..4, None, None)?;
        let mut buffer = Buffer::new(1, GFP_KERNEL)?;
        let mut found = KVVec::from_elem(0, PAGE_SIZE, GFP_KERNEL)?;

        // Pages of a device that nobody asked for: the fault that brings them back is the change.
        assert_eq!(to_device(&area, &vram, 0..2)?, 2);
        for (page, unlocked) in [(0, false), (1, true)] {
            let request = || RangeFault::new(&notifier, area.range(page..page + 1), Access::Read);
            let mut faulted = get(request(), &area, unlocked, &mut buffer);
            if !unlocked {
                assert_eq!(faulted.err(), Some(FaultError::Retry));
                faulted = get(request(), &area, unlocked, &mut buffer);
            }
            let length = read(faulted?.lock()?.entries(), &mut found)?;
            assert_eq!(length, PAGE_SIZE);
            assert!(found[..] == contents(page..page + 1)?[..]);
        }
        Ok(())
    }

    #[test]
    fn pages_of_the_owner_are_taken_as_they_are() -> Result {
        let vram = vram()?;
        let area = Area::new()?;
        let notifier = watch(&area, 0..4, None, None)?;
        let mut buffer = Buffer::new(1, GFP_KERNEL)?;

        assert_eq!(to_device(&area, &vram, 2..3)?, 1);
        for unlocked in [false, true] {
            let request = RangeFault::new(&notifier, area.range(2..3), Access::Write);
            let request = request.owner(vram.owner());
            let faulted = get(request, &area, unlocked, &mut buffer)?;
            let stable = faulted.lock()?;
            let entry = stable.entries().next().ok_or(ENOENT)?;
            assert!(entry.is_device_private());
            assert_eq!(vram.offset_of_pfn(entry.pfn()), Some(2));
        }
        Ok(())
    }

    #[test]
    fn what_is_not_there_fails() -> Result {
        let area = Area::new()?;
        let notifier = watch(&area, 0..4, None, None)?;
        let mut buffer = Buffer::new(2, GFP_KERNEL)?;

        area.unmap(1..2)?;
        for unlocked in [false, true] {
            let mut fails = |range, access| {
                let request = RangeFault::new(&notifier, range, access);
                get(request, &area, unlocked, &mut buffer).err()
            };
            let invalid = Some(FaultError::Failed(EINVAL));

            assert_eq!(
                fails(area.range(0..2), Access::Read),
                Some(FaultError::Failed(EFAULT))
            );
            // Not watched, too large, empty, not aligned.
            assert_eq!(fails(area.range(3..5), Access::Read), invalid);
            assert_eq!(fails(area.range(0..3), Access::Read), invalid);
            assert_eq!(fails(area.range(0..0), Access::Read), invalid);
            let start = area.range(0..1).start;
            assert_eq!(fails(start..start + 1, Access::Read), invalid);

            let request = RangeFault::new(&notifier, area.range(0..2), Access::Snapshot);
            let faulted = get(request, &area, unlocked, &mut buffer)?;
            let stable = faulted.lock()?;
            assert!(stable.is_error(1) && !stable.is_error(2));
        }
        Ok(())
    }
}
