// SPDX-License-Identifier: GPL-2.0

//! Pages that only a device can access, for atomic operations that the CPU must not disturb.
//!
//! C source: [`mm/rmap.c`](srctree/mm/rmap.c)

use crate::{
    bindings,
    error::from_err_ptr,
    mm::{
        folio::{
            Folio,
            LockedFolio, //
        },
        pagemap::Owner,
        MmapReadGuard, //
    },
    page::PAGE_SIZE,
    prelude::*, //
};
use core::ptr::{
    self,
    NonNull, //
};

/// A page of a process that the CPU cannot access any more.
///
/// A CPU that touches it waits for the lock of the folio, which this holds. Then the access ends:
/// the page is mapped for the CPU as it was, after the MMU notifiers were told. So a driver drops
/// this when the device has the page in its page tables, and takes it out of them when it is told.
///
/// # Examples
///
/// The driver's notifier [ignores](IntervalNotifierOps::ignores) what it is told because of
/// `owner`, since no try would succeed otherwise.
///
/// ```
/// use kernel::mm::{
///     exclusive::ExclusivePage,
///     folio::Folio,
///     notifier::{IntervalNotifier, IntervalNotifierOps},
///     pagemap::Owner,
///     MmWithUser,
/// };
///
/// fn map_for_atomics<T: IntervalNotifierOps>(
///     mm: &MmWithUser,
///     notifier: &IntervalNotifier<T>,
///     owner: Owner,
///     addr: usize,
///     set: impl Fn(&mut T::Protected, &Folio, usize),
/// ) -> Result {
///     loop {
///         let read = notifier.read_begin();
///         let page = ExclusivePage::new(&mm.mmap_read_lock(), addr, owner)?;
///
///         if let Ok(mut page_tables) = read.lock() {
///             set(&mut page_tables, page.folio(), page.index());
///             return Ok(());
///         };
///     }
/// }
/// ```
///
/// The page is of no use when it is given up, since the CPU can have it again then:
///
/// ```ignore,compile_fail,E0505
/// # use kernel::mm::{exclusive::ExclusivePage, folio::Folio};
/// fn late(page: ExclusivePage) -> usize {
///     let folio: &Folio = page.folio();
///     drop(page);
///     folio.pfn()
/// }
/// ```
///
/// It is not taken without the mmap lock:
///
/// ```ignore,compile_fail,E0308
/// # use kernel::{mm::{exclusive::ExclusivePage, pagemap::Owner, MmWithUser}, prelude::*};
/// fn unlocked(mm: &MmWithUser, addr: usize, owner: Owner) -> Result<ExclusivePage> {
///     ExclusivePage::new(mm, addr, owner)
/// }
/// ```
///
/// [`IntervalNotifierOps`]: super::notifier::IntervalNotifierOps
/// [IntervalNotifierOps::ignores]: super::notifier::IntervalNotifierOps::ignores
pub struct ExclusivePage {
    folio: LockedFolio,
    index: usize,
}

impl ExclusivePage {
    /// Takes the page at `addr`, which must be a multiple of the page size, from the CPU.
    ///
    /// A page that is not there, or shared with another process, is faulted in for writing first; a
    /// huge page is mapped by its pages then. The page is marked dirty, since no page table of the
    /// CPU will tell that the device writes to it. MMU notifiers are told, with `owner`. Sleeps.
    ///
    /// Errors: [`EINVAL`] if `addr` is not aligned; [`EFAULT`] if there is no memory that may be
    /// written; [`EOPNOTSUPP`] if it is not anonymous, or of hugetlb; [`EINTR`] after a fatal
    /// signal.
    ///
    /// Wraps `make_device_exclusive()`.
    pub fn new(mmap: &MmapReadGuard<'_>, addr: usize, owner: Owner) -> Result<Self> {
        let mut folio = ptr::null_mut();

        if addr % PAGE_SIZE != 0 {
            return Err(EINVAL);
        }
        // SAFETY: The address space has users and its mmap lock is held. `folio` is valid for
        // writes. The owner is only compared.
        let page = from_err_ptr(unsafe {
            bindings::make_device_exclusive(mmap.mm().as_raw(), addr, owner.as_raw(), &mut folio)
        })?;
        // SAFETY: On success the folio is valid, locked and referenced, both for us.
        let folio = unsafe { LockedFolio::from_raw(NonNull::new(folio).ok_or(EINVAL)?) };
        // SAFETY: On success the page is one of the folio.
        let pfn = unsafe { bindings::page_to_pfn(page) };

        // SAFETY: The folio is valid, and it is anonymous, so that it is not truncated.
        unsafe { bindings::folio_mark_dirty(folio.as_raw()) };
        Ok(Self {
            index: pfn - folio.pfn(),
            folio,
        })
    }

    /// Returns the folio that the page is a part of.
    #[inline]
    pub fn folio(&self) -> &Folio {
        &self.folio
    }

    /// Returns the number of the page within its folio.
    #[inline]
    pub fn index(&self) -> usize {
        self.index
    }
}

#[cfg(CONFIG_MMU_NOTIFIER)]
#[macros::kunit_tests(rust_mm_exclusive)]
mod tests {
    use super::*;
    use crate::{
        mm::{
            migrate::testing::{
                contents,
                vram,
                write,
                Area, //
            },
            notifier::{
                testing::watch,
                EventKind, //
            }, //
        },
        sync::atomic::Relaxed, //
    };

    #[test]
    fn the_cpu_has_the_page_again_after_the_device() -> Result {
        let vram = vram()?;
        let area = Area::new()?;
        let notifier = watch(&area, 0..4, Some(1), Some(vram.owner()))?;
        let read = notifier.read_begin();

        let range = area.range(2..3);
        let page = ExclusivePage::new(&area.mm().mmap_read_lock(), range.start, vram.owner())?;
        // The driver's own event, and no other.
        assert_eq!(notifier.ignored.load(Relaxed), 1);
        assert_eq!(notifier.first.load(Relaxed), 0);
        assert_eq!(read.lock()?.entry, Some(1));
        assert!(page.folio().is_locked());
        assert_eq!(page.folio().nr_pages(), 1);
        assert_eq!(page.index(), 0);

        let read = notifier.read_begin();
        let written = contents(9..10)?;
        write(page.folio(), &written)?;
        drop(page);
        assert!(area.read(2..3)?[..] == written[..]);
        let retried = read.lock().err();
        assert!(retried.is_some());
        assert_eq!(
            notifier.read_begin().lock()?.event,
            Some((EventKind::Clear, range))
        );
        Ok(())
    }

    #[test]
    fn another_device_is_told() -> Result {
        let vram = vram()?;
        let area = Area::new()?;
        let notifier = watch(&area, 0..4, Some(1), None)?;

        let range = area.range(1..2);
        let page = ExclusivePage::new(&area.mm().mmap_read_lock(), range.start, vram.owner())?;
        assert_eq!(notifier.finished.load(Relaxed), 1);
        assert_eq!(
            notifier.read_begin().lock()?.event,
            Some((EventKind::Exclusive, range))
        );
        drop(page);
        Ok(())
    }

    #[test]
    fn what_cannot_be_had_fails() -> Result {
        let vram = vram()?;
        let area = Area::new()?;
        let new = |addr| ExclusivePage::new(&area.mm().mmap_read_lock(), addr, vram.owner());
        let start = area.range(0..1).start;

        assert_eq!(new(start + 1).err(), Some(EINVAL));
        area.unmap(0..1)?;
        assert_eq!(new(start).err(), Some(EFAULT));
        Ok(())
    }
}
