// SPDX-License-Identifier: GPL-2.0

//! MMU interval notifiers.
//!
//! A device that has page tables of its own for the memory of a process must stop using a page when
//! the process loses it. [`IntervalNotifier`] watches a range of addresses: before the memory
//! management changes the CPU's page tables in it, it calls [`IntervalNotifierOps::invalidate`].
//!
//! The other way round, a driver that reads the CPU's page tables to fill its own must find out
//! whether they changed meanwhile. [`IntervalNotifier::read_begin`] starts such a section, and
//! [`ReadGuard::lock`] ends it: it takes the driver's lock, and only if nothing has changed the
//! guard of that lock is returned. With that guard the device's page tables can be written, since
//! an invalidation has to wait for the same lock.
//!
//! C header: [`include/linux/mmu_notifier.h`](srctree/include/linux/mmu_notifier.h)

use crate::{
    alloc::{
        flags::{
            GFP_NOWAIT,
            __GFP_NOWARN, //
        },
        AllocError, //
    },
    bindings,
    container_of,
    error::to_result,
    mm::{
        pagemap::Owner,
        MmWithUser, //
    },
    prelude::*,
    sync::lock::{
        Backend,
        Guard,
        Lock, //
    },
    types::Opaque, //
};
use core::{
    marker::PhantomData,
    mem::MaybeUninit,
    ops::{
        Deref,
        Range, //
    },
    ptr::{
        self,
        NonNull, //
    }, //
};

/// What a driver does when memory that it watches changes.
///
/// The lock is taken, and the change is recorded for those who read, by the abstraction: neither
/// can be forgotten.
pub trait IntervalNotifierOps: Sized + Send + Sync + 'static {
    /// What the driver's lock protects, normally the device's page tables.
    type Protected: Send + Unpin + 'static;

    /// The kind of the driver's lock, normally
    /// [`MutexBackend`](crate::sync::lock::mutex::MutexBackend).
    type Backend: Backend + 'static;

    /// What is left to do when the lock is released, normally to wait for the device's TLB; `()` if
    /// nothing is.
    type Pending: Send + 'static;

    /// Returns the driver's lock.
    ///
    /// Called once, when the notifier is made: an invalidation has to wait for those who use what
    /// they have read, so it must be the same lock for all of them.
    ///
    /// It is taken within reclaim, so no memory may be allocated under it that reclaim could be
    /// needed for, and the mmap lock must not be taken under it.
    fn lock(&self) -> &Lock<Self::Protected, Self::Backend>;

    /// Returns whether the device may go on as it does, although a page in its range is made
    /// accessible to one device only. Then nothing is invalidated, and readers need not retry.
    ///
    /// That is for what the driver causes itself, see [`Event::is_from`]. It is asked for events of
    /// the kind [`EventKind::Exclusive`] only: with these, the page stays, so that what was read
    /// stays true. No lock is held. Must not sleep.
    fn ignores(&self, _event: &Event<'_>) -> bool {
        false
    }

    /// Removes the range of the event from the device's page tables.
    ///
    /// The lock is held, and stays so until this function returns. The device must not use the
    /// range any more when this function returns [`None`], or else when
    /// [`finish`](IntervalNotifierOps::finish) returns for what it gave back. The latter lets many
    /// devices invalidate at the same time.
    ///
    /// May sleep, if the lock allows it, unless [`Event::blocking`] forbids it. Then neither this
    /// function nor `finish` must sleep, and the proof that sleeping is forbidden may be returned
    /// as error, if the range cannot be removed without.
    fn invalidate<'e>(
        &self,
        event: &Event<'e>,
        state: &mut Self::Protected,
    ) -> Result<Option<Self::Pending>, WouldBlock<'e>>;

    /// Completes an invalidation. The lock is not held.
    fn finish(&self, pending: Self::Pending);
}

/// What happens to the memory. The numbers are those of `enum mmu_notifier_event`.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum EventKind {
    /// It is unmapped, or mapped elsewhere (`munmap()`, `mremap()`).
    Unmap = bindings::mmu_notifier_event_MMU_NOTIFY_UNMAP,
    /// Page-table entries are cleared, to be filled anew later.
    Clear = bindings::mmu_notifier_event_MMU_NOTIFY_CLEAR,
    /// The protection of the whole area changes (`mprotect()`).
    ProtectVma = bindings::mmu_notifier_event_MMU_NOTIFY_PROTECTION_VMA,
    /// The protection of single pages changes.
    ProtectPage = bindings::mmu_notifier_event_MMU_NOTIFY_PROTECTION_PAGE,
    /// Soft-dirty bits are cleared; pages become read-only.
    SoftDirty = bindings::mmu_notifier_event_MMU_NOTIFY_SOFT_DIRTY,
    /// The address space ends.
    Release = bindings::mmu_notifier_event_MMU_NOTIFY_RELEASE,
    /// Pages are migrated to or from a device.
    Migrate = bindings::mmu_notifier_event_MMU_NOTIFY_MIGRATE,
    /// Pages are made accessible to one device only.
    Exclusive = bindings::mmu_notifier_event_MMU_NOTIFY_EXCLUSIVE,
    /// Something that this abstraction does not know.
    Other = u32::MAX,
}

/// A lifetime that cannot be exchanged for a shorter or longer one, so that it can serve as a name.
type Brand<'e> = PhantomData<fn(&'e ()) -> &'e ()>;

/// Whether the handler of an event may sleep.
pub enum Blocking<'e> {
    /// It may.
    Allowed,
    /// It must not; it can return the proof of it instead of invalidating.
    Forbidden(WouldBlock<'e>),
}

/// Proof that the event which is named `'e` must be handled without sleeping.
///
/// [`IntervalNotifierOps::invalidate`] is called with a name that the driver cannot know, so the
/// proof for one event does not pass for another one, nor can it be kept.
#[derive(Debug)]
pub struct WouldBlock<'e>(Brand<'e>);

/// A change of memory that is about to happen. Its name is `'e`; see [`WouldBlock`].
#[repr(transparent)]
pub struct Event<'e>(Opaque<bindings::mmu_notifier_range>, Brand<'e>);

impl<'e> Event<'e> {
    /// Makes a reference from a raw pointer.
    ///
    /// # Safety
    ///
    /// `ptr` must be valid and unchanged during `'a`.
    unsafe fn from_raw<'a>(ptr: *const bindings::mmu_notifier_range) -> &'a Self {
        // SAFETY: By the safety requirements; the layouts are the same.
        unsafe { &*ptr.cast() }
    }

    /// Returns the addresses that change, in bytes. They may reach beyond the range watched.
    pub fn range(&self) -> Range<usize> {
        // SAFETY: The pointer is valid since `self` is a reference.
        unsafe { (*self.0.get()).start..(*self.0.get()).end }
    }

    /// Returns what happens.
    pub fn kind(&self) -> EventKind {
        // SAFETY: The pointer is valid since `self` is a reference.
        match unsafe { (*self.0.get()).event } {
            bindings::mmu_notifier_event_MMU_NOTIFY_UNMAP => EventKind::Unmap,
            bindings::mmu_notifier_event_MMU_NOTIFY_CLEAR => EventKind::Clear,
            bindings::mmu_notifier_event_MMU_NOTIFY_PROTECTION_VMA => EventKind::ProtectVma,
            bindings::mmu_notifier_event_MMU_NOTIFY_PROTECTION_PAGE => EventKind::ProtectPage,
            bindings::mmu_notifier_event_MMU_NOTIFY_SOFT_DIRTY => EventKind::SoftDirty,
            bindings::mmu_notifier_event_MMU_NOTIFY_RELEASE => EventKind::Release,
            bindings::mmu_notifier_event_MMU_NOTIFY_MIGRATE => EventKind::Migrate,
            bindings::mmu_notifier_event_MMU_NOTIFY_EXCLUSIVE => EventKind::Exclusive,
            _ => EventKind::Other,
        }
    }

    /// Returns whether this is a migration, or a switch to exclusive access, that `owner` caused.
    pub fn is_from(&self, owner: Owner) -> bool {
        // The owner is not initialised for events of other kinds.
        matches!(self.kind(), EventKind::Migrate | EventKind::Exclusive)
            // SAFETY: The pointer is valid since `self` is a reference.
            && unsafe { (*self.0.get()).owner } == owner.as_raw()
    }

    /// Returns whether the handler may sleep.
    pub fn blocking(&self) -> Blocking<'e> {
        // SAFETY: The pointer is valid since `self` is a reference.
        if unsafe { bindings::mmu_notifier_range_blockable(self.0.get()) } {
            Blocking::Allowed
        } else {
            Blocking::Forbidden(WouldBlock(PhantomData))
        }
    }
}

/// The memory changed while it was being read: start again.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Retry;

impl From<Retry> for Error {
    fn from(_: Retry) -> Self {
        EAGAIN
    }
}

/// A range of addresses of a process that is being watched.
///
/// It holds the driver's `T`, which it dereferences to, and a reference to the `mm_struct` (like
/// [`ARef<Mm>`](crate::mm::Mm)), but it does not keep the address space from ending.
///
/// Dropping it waits until no callback runs. It sleeps, and must not happen within a callback nor
/// under a lock that callbacks take.
///
/// # Examples
///
/// ```
/// use kernel::{
///     mm::notifier::{Event, IntervalNotifier, IntervalNotifierOps, WouldBlock},
///     mm::MmWithUser,
///     new_mutex,
///     sync::{lock::mutex::MutexBackend, Mutex},
/// };
/// use core::ops::Range;
///
/// /// A device with one page-table entry.
/// #[pin_data]
/// struct Mirror {
///     #[pin]
///     entry: Mutex<Option<usize>>,
/// }
///
/// impl IntervalNotifierOps for Mirror {
///     type Protected = Option<usize>;
///     type Backend = MutexBackend;
///     type Pending = ();
///
///     fn lock(&self) -> &Mutex<Option<usize>> {
///         &self.entry
///     }
///
///     fn invalidate<'e>(
///         &self,
///         event: &Event<'e>,
///         entry: &mut Option<usize>,
///     ) -> Result<Option<()>, WouldBlock<'e>> {
///         pr_debug!("{:?} of {:x?}\n", event.kind(), event.range());
///         *entry = None;
///         Ok(None)
///     }
///
///     fn finish(&self, _pending: ()) {}
/// }
///
/// fn watch(mm: &MmWithUser, range: Range<usize>) -> Result<Pin<KBox<IntervalNotifier<Mirror>>>> {
///     KBox::pin_init(
///         IntervalNotifier::new(mm, range, pin_init!(Mirror { entry <- new_mutex!(None) })),
///         GFP_KERNEL,
///     )
/// }
///
/// fn fill(notifier: &IntervalNotifier<Mirror>, look_up: impl Fn() -> usize) {
///     loop {
///         let read = notifier.read_begin();
///         let pfn = look_up();
///         if let Ok(mut entry) = read.lock() {
///             *entry = Some(pfn);
///             return;
///         }
///     }
/// }
/// ```
///
/// What was read once does not serve for two sections of writing:
///
/// ```ignore,compile_fail,E0382
/// # use kernel::mm::notifier::{IntervalNotifier, IntervalNotifierOps};
/// fn twice<T: IntervalNotifierOps>(notifier: &IntervalNotifier<T>) {
///     let read = notifier.read_begin();
///     let first = read.lock();
///     drop(first);
///     let second = read.lock();
/// }
/// ```
///
/// The proof that a handler must not sleep ends with its event:
///
/// ```ignore,compile_fail,E0521
/// # use kernel::mm::notifier::{Blocking, Event, WouldBlock};
/// fn keep(event: &Event<'_>, kept: &mut Option<WouldBlock<'static>>) {
///     if let Blocking::Forbidden(proof) = event.blocking() {
///         *kept = Some(proof);
///     }
/// }
/// ```
///
/// # Invariants
///
/// - `sub` is inserted, with the operations of `T`, into the notifiers of an `mm_struct`.
/// - `lock` is what [`IntervalNotifierOps::lock`] returned for `ops`. It is valid until `ops` is
///   dropped, since there are only shared references to `ops` before.
#[pin_data(PinnedDrop)]
pub struct IntervalNotifier<T: IntervalNotifierOps> {
    #[pin]
    sub: Opaque<bindings::mmu_interval_notifier>,
    range: Range<usize>,
    lock: *const Lock<T::Protected, T::Backend>,
    #[pin]
    ops: T,
}

// SAFETY: The C object may be used and removed on any thread, and `T` is `Send`.
unsafe impl<T: IntervalNotifierOps> Send for IntervalNotifier<T> {}

// SAFETY: All methods may be called concurrently, and `T` is `Sync`.
unsafe impl<T: IntervalNotifierOps> Sync for IntervalNotifier<T> {}

/// An invalidation between its first and its second pass.
#[repr(C)]
struct Unfinished<P> {
    // The address of this field is that of the whole.
    link: bindings::mmu_interval_notifier_finish,
    pending: P,
}

impl<T: IntervalNotifierOps> IntervalNotifier<T> {
    const OPS: bindings::mmu_interval_notifier_ops = bindings::mmu_interval_notifier_ops {
        invalidate: None,
        invalidate_start: Some(Self::invalidate_start_callback),
        invalidate_finish: Some(Self::invalidate_finish_callback),
    };

    /// Watches the addresses `range` (bytes) of `mm`.
    ///
    /// Callbacks can come as soon as, and even before, this function has returned. It may take the
    /// mmap lock for writing, so the caller must not hold it. May sleep. Fails with [`EINVAL`] if
    /// the range is empty, and with [`ENOMEM`]. Wraps `mmu_interval_notifier_insert()`.
    pub fn new<'a, E: 'a>(
        mm: &'a MmWithUser,
        range: Range<usize>,
        ops: impl PinInit<T, E> + 'a,
    ) -> impl PinInit<Self, Error> + 'a
    where
        Error: From<E>,
    {
        try_pin_init!(Self {
            ops <- ops,
            range,
            // INVARIANT: `ops` is in its place already.
            lock: ptr::from_ref(ops.lock()),
            // Last, since callbacks use the other fields.
            //
            // INVARIANT: `sub` gets inserted.
            sub <- Opaque::try_ffi_init(|slot| {
                if range.start >= range.end {
                    return Err(EINVAL);
                }

                // SAFETY: `slot` is valid and stays in place until it is removed, since `Self` is
                // pinned. `mm` has users since it is borrowed.
                to_result(unsafe {
                    bindings::mmu_interval_notifier_insert(
                        slot,
                        mm.as_raw(),
                        range.start,
                        range.end - range.start,
                        &Self::OPS,
                    )
                })
            }),
        }? Error)
    }

    /// Returns the addresses watched, in bytes.
    #[inline]
    pub fn range(&self) -> Range<usize> {
        self.range.clone()
    }

    /// Returns the C object.
    #[inline]
    pub(crate) fn as_raw(&self) -> *mut bindings::mmu_interval_notifier {
        self.sub.get()
    }

    /// Returns whether this watches the address space `mm`.
    #[inline]
    pub fn is_of(&self, mm: &MmWithUser) -> bool {
        // SAFETY: `sub` is valid by the type invariants, and the field is constant.
        ptr::eq(unsafe { (*self.sub.get()).mm }, mm.as_raw())
    }

    /// Returns the driver's lock.
    fn lock(&self) -> &Lock<T::Protected, T::Backend> {
        // SAFETY: By the type invariants the lock is valid while `self` is borrowed.
        unsafe { &*self.lock }
    }

    /// Starts to read the CPU's page tables.
    ///
    /// Sleeps while an invalidation of the range goes on. Neither the driver's lock nor another one
    /// that callbacks take may be held.
    pub fn read_begin(&self) -> ReadGuard<'_, T> {
        ReadGuard {
            notifier: self,
            // SAFETY: By the type invariants, `sub` is inserted.
            seq: unsafe { bindings::mmu_interval_read_begin(self.sub.get()) },
        }
    }

    /// Returns the instance that `sub` is a part of.
    ///
    /// # Safety
    ///
    /// `sub` must be the field of an instance that is alive during `'a`.
    unsafe fn from_sub<'a>(sub: *mut bindings::mmu_interval_notifier) -> &'a Self {
        // SAFETY: By the safety requirements.
        unsafe { &*container_of!(Opaque::cast_from(sub), Self, sub) }
    }

    /// # Safety
    ///
    /// `sub` must be the field of an instance that is not dropped before this function returns,
    /// `range` valid and constant, and `finish` valid for writes.
    unsafe extern "C" fn invalidate_start_callback(
        sub: *mut bindings::mmu_interval_notifier,
        range: *const bindings::mmu_notifier_range,
        seq: usize,
        finish: *mut *mut bindings::mmu_interval_notifier_finish,
    ) -> bool {
        // SAFETY: By the safety requirements. The drop of the instance waits for this function.
        let this = unsafe { Self::from_sub(sub) };
        // SAFETY: By the safety requirements.
        let event = unsafe { Event::from_raw(range) };

        if event.kind() == EventKind::Exclusive && this.ignores(event) {
            return true;
        }
        match this.invalidate(event, seq) {
            Ok(None) => true,
            Ok(Some(pending)) => {
                let memory = KBox::new_uninit(GFP_NOWAIT | __GFP_NOWARN);
                if let Some(unfinished) = this.defer(pending, memory) {
                    // SAFETY: By the safety requirements.
                    unsafe { finish.write(unfinished.as_ptr()) };
                }
                true
            }
            Err(WouldBlock(_)) => false,
        }
    }

    /// Invalidates under the driver's lock, and makes readers retry.
    fn invalidate<'e>(
        &self,
        event: &Event<'e>,
        seq: usize,
    ) -> Result<Option<T::Pending>, WouldBlock<'e>> {
        let lock = self.lock();
        let mut state = match event.blocking() {
            Blocking::Allowed => lock.lock(),
            Blocking::Forbidden(proof) => lock.try_lock().ok_or(proof)?,
        };

        // SAFETY: `sub` is valid, and `seq` was passed to the callback that we are called from.
        unsafe { bindings::mmu_interval_set_seq(self.sub.get(), seq) };
        self.ops.invalidate(event, &mut state)
    }

    /// Leaves `pending` for the second pass, in `memory`, or completes it at once if there is none.
    fn defer(
        &self,
        pending: T::Pending,
        memory: Result<KBox<MaybeUninit<Unfinished<T::Pending>>>, AllocError>,
    ) -> Option<NonNull<bindings::mmu_interval_notifier_finish>> {
        let Ok(memory) = memory else {
            self.ops.finish(pending);
            return None;
        };

        let unfinished = KBox::write(
            memory,
            Unfinished {
                link: Default::default(),
                pending,
            },
        );
        NonNull::new(KBox::into_raw(unfinished).cast())
    }

    /// # Safety
    ///
    /// `finish` must come from [`Self::defer`] of an instance that is not dropped before this
    /// function returns. It is consumed.
    unsafe extern "C" fn invalidate_finish_callback(
        finish: *mut bindings::mmu_interval_notifier_finish,
    ) {
        // SAFETY: By the safety requirements the pointer comes from `KBox::into_raw()`.
        let unfinished = unsafe { KBox::<Unfinished<T::Pending>>::from_raw(finish.cast()) };
        // SAFETY: The caller has set the pointer to the notifier that the first pass was for. The
        // drop of the instance waits until this function has returned.
        let this = unsafe { Self::from_sub(unfinished.link.notifier) };

        this.ops.finish(KBox::into_inner(unfinished).pending);
    }
}

impl<T: IntervalNotifierOps> Deref for IntervalNotifier<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        &self.ops
    }
}

#[pinned_drop]
impl<T: IntervalNotifierOps> PinnedDrop for IntervalNotifier<T> {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: By the type invariants, `sub` is inserted.
        unsafe { bindings::mmu_interval_notifier_remove(self.sub.get()) };
    }
}

/// A section in which the CPU's page tables are read.
///
/// Nothing that was read counts until [`ReadGuard::lock`] or [`ReadGuard::validate`] says so.
#[must_use = "what was read must be validated before it is used"]
pub struct ReadGuard<'a, T: IntervalNotifierOps> {
    pub(crate) notifier: &'a IntervalNotifier<T>,
    /// The number that the section started with.
    pub(crate) seq: usize,
}

impl<'a, T: IntervalNotifierOps> ReadGuard<'a, T> {
    /// Ends the section: takes the driver's lock, and returns its guard if nothing has changed.
    ///
    /// What was read stays true as long as the guard lives.
    pub fn lock(self) -> Result<Guard<'a, T::Protected, T::Backend>, Retry> {
        let guard = self.notifier.lock().lock();

        self.validate(&guard)?;
        Ok(guard)
    }

    /// Ends the section for somebody who holds the driver's lock already.
    ///
    /// What was read stays true as long as the lock is held. The guard of another lock proves
    /// nothing, and the answer then is [`Retry`].
    pub fn validate(self, guard: &Guard<'_, T::Protected, T::Backend>) -> Result<(), Retry> {
        if !ptr::eq(guard.lock_ref(), self.notifier.lock()) {
            return Err(Retry);
        }

        // SAFETY: The notifier is inserted since it is borrowed, and its lock is held.
        if unsafe { bindings::mmu_interval_read_retry(self.notifier.as_raw(), self.seq) } {
            return Err(Retry);
        }
        Ok(())
    }

    /// Returns whether the section is known to end with [`Retry`], so that work can be saved.
    pub fn is_stale(&self) -> bool {
        // SAFETY: The notifier is inserted since it is borrowed.
        unsafe { bindings::mmu_interval_check_retry(self.notifier.as_raw(), self.seq) }
    }
}

/// A driver for the tests of this module and of others.
#[cfg(CONFIG_KUNIT = "y")]
pub(crate) mod testing {
    use super::*;
    use crate::{
        mm::migrate::testing::Area,
        new_mutex,
        sync::{
            atomic::{
                Atomic,
                Full,
                Relaxed, //
            },
            lock::mutex::MutexBackend,
            Mutex, //
        }, //
    };

    /// What the lock protects.
    #[derive(Default)]
    pub(crate) struct Table {
        /// What the first pass takes out, and leaves to the second one.
        pub(crate) entry: Option<usize>,
        /// The last event.
        pub(crate) event: Option<(EventKind, Range<usize>)>,
    }

    /// A device with one page-table entry. Times are 0 for what has not happened.
    #[pin_data]
    pub(crate) struct Mirror {
        #[pin]
        table: Mutex<Table>,
        owner: Option<Owner>,
        /// Whether events that must not sleep are refused.
        pub(crate) refuses: Atomic<bool>,
        /// How many events of the owner were ignored.
        pub(crate) ignored: Atomic<usize>,
        /// When the first pass was.
        pub(crate) first: Atomic<usize>,
        /// When the second pass was, if the lock was free in it.
        pub(crate) second: Atomic<usize>,
        /// What the first pass has left to the second one.
        pub(crate) finished: Atomic<usize>,
    }

    impl Mirror {
        /// A driver that ignores events of `owner`, if it is asked.
        pub(crate) fn new(owner: Option<Owner>) -> impl PinInit<Self> {
            pin_init!(Self {
                table <- new_mutex!(Table::default()),
                owner,
                refuses: Atomic::new(false),
                ignored: Atomic::new(0),
                first: Atomic::new(0),
                second: Atomic::new(0),
                finished: Atomic::new(0),
            })
        }
    }

    /// Tells the order of what happens.
    fn time() -> usize {
        static CLOCK: Atomic<usize> = Atomic::new(1);

        CLOCK.fetch_add(1, Full)
    }

    impl IntervalNotifierOps for Mirror {
        type Protected = Table;
        type Backend = MutexBackend;
        type Pending = usize;

        fn lock(&self) -> &Mutex<Table> {
            &self.table
        }

        fn ignores(&self, event: &Event<'_>) -> bool {
            let ignores = self.owner.is_some_and(|owner| event.is_from(owner));

            if ignores {
                self.ignored.add(1, Relaxed);
            }
            ignores
        }

        fn invalidate<'e>(
            &self,
            event: &Event<'e>,
            table: &mut Table,
        ) -> Result<Option<usize>, WouldBlock<'e>> {
            if let (true, Blocking::Forbidden(proof)) =
                (self.refuses.load(Relaxed), event.blocking())
            {
                return Err(proof);
            }

            self.first.store(time(), Relaxed);
            table.event = Some((event.kind(), event.range()));
            Ok(table.entry.take())
        }

        fn finish(&self, pending: usize) {
            if self.table.try_lock().is_some() {
                self.second.store(time(), Relaxed);
            }
            self.finished.store(pending, Relaxed);
        }
    }

    /// Watches `pages` for a device that has `entry`.
    pub(crate) fn watch(
        area: &Area,
        pages: Range<usize>,
        entry: Option<usize>,
        owner: Option<Owner>,
    ) -> Result<Pin<KBox<IntervalNotifier<Mirror>>>> {
        let init = IntervalNotifier::new(area.mm(), area.range(pages), Mirror::new(owner));
        let notifier = KBox::pin_init(init, GFP_KERNEL)?;

        notifier.lock().lock().entry = entry;
        Ok(notifier)
    }
}

#[macros::kunit_tests(rust_mm_notifier)]
mod tests {
    use super::{
        testing::*,
        *, //
    };
    use crate::{
        mm::migrate::testing::{
            to_device,
            vram,
            Area, //
        },
        sync::atomic::Relaxed, //
    };

    /// A change that must be handled without sleeping, as the OOM killer makes it.
    struct NonBlocking(bindings::mmu_notifier_range);

    impl NonBlocking {
        /// Calls the notifiers.
        fn begin(area: &Area, pages: Range<usize>) -> Result<Self> {
            let range = area.range(pages);
            let mut event = bindings::mmu_notifier_range {
                mm: area.mm().as_raw(),
                start: range.start,
                end: range.end,
                flags: 0,
                event: bindings::mmu_notifier_event_MMU_NOTIFY_CLEAR,
                owner: ptr::null_mut(),
            };

            // SAFETY: The event is valid, and the tests watch the address space.
            to_result(unsafe { bindings::__mmu_notifier_invalidate_range_start(&mut event) })?;
            Ok(Self(event))
        }
    }

    impl Drop for NonBlocking {
        fn drop(&mut self) {
            // SAFETY: The event was begun.
            unsafe { bindings::__mmu_notifier_invalidate_range_end(&mut self.0) };
        }
    }

    #[test]
    fn all_first_passes_come_before_the_second_ones() -> Result {
        let area = Area::new()?;
        let [one, other] = [7, 8].map(|entry| watch(&area, 0..4, Some(entry), None));
        let (one, other) = (one?, other?);

        area.unmap(1..2)?;
        let first = [&one, &other].map(|notifier| notifier.first.load(Relaxed));
        let second = [&one, &other].map(|notifier| notifier.second.load(Relaxed));
        assert!(!first.contains(&0) && !second.contains(&0));
        assert!(first.iter().max() < second.iter().min());

        for (notifier, entry) in [(&one, 7), (&other, 8)] {
            let table = notifier.lock().lock();
            assert_eq!(notifier.finished.load(Relaxed), entry);
            assert_eq!(table.entry, None);
            assert_eq!(table.event, Some((EventKind::Unmap, area.range(1..2))));
        }
        Ok(())
    }

    #[test]
    fn one_pass_is_enough_if_nothing_is_left() -> Result {
        let area = Area::new()?;
        let notifier = watch(&area, 0..4, None, None)?;

        area.unmap(4..5)?;
        assert_eq!(notifier.first.load(Relaxed), 0);
        area.unmap(0..8)?;
        assert!(notifier.first.load(Relaxed) != 0);
        assert_eq!(notifier.second.load(Relaxed), 0);
        Ok(())
    }

    #[test]
    fn without_memory_the_second_pass_comes_at_once() -> Result {
        let area = Area::new()?;
        let notifier = watch(&area, 0..4, None, None)?;

        assert!(notifier.defer(9, Err(AllocError)).is_none());
        assert_eq!(notifier.finished.load(Relaxed), 9);
        assert!(notifier.second.load(Relaxed) != 0);
        Ok(())
    }

    #[test]
    fn readers_retry_after_a_change() -> Result {
        let area = Area::new()?;
        let notifier = watch(&area, 0..4, None, None)?;
        let other = watch(&area, 0..4, None, None)?;

        let read = notifier.read_begin();
        assert!(!read.is_stale());
        drop(read.lock()?);

        // Of a range that is not watched.
        let read = notifier.read_begin();
        area.unmap(4..5)?;
        drop(read.lock()?);

        let (read, unlocked) = (notifier.read_begin(), notifier.read_begin());
        area.unmap(3..5)?;
        assert!(read.is_stale());
        assert_eq!(unlocked.validate(&notifier.lock().lock()), Err(Retry));
        assert_eq!(read.lock().err(), Some(Retry));

        // The guard of another lock proves nothing.
        let read = notifier.read_begin();
        assert_eq!(read.validate(&other.lock().lock()), Err(Retry));
        let read = notifier.read_begin();
        assert_eq!(read.validate(&notifier.lock().lock()), Ok(()));
        Ok(())
    }

    #[test]
    fn what_moves_pages_is_not_ignored() -> Result {
        let vram = vram()?;
        let area = Area::new()?;
        area.write(0, &[1])?;
        let own = watch(&area, 0..4, Some(1), Some(vram.owner()))?;
        let read = own.read_begin();

        assert_eq!(to_device(&area, &vram, 0..1)?, 1);
        assert_eq!(own.ignored.load(Relaxed), 0);
        assert_eq!(read.lock().err(), Some(Retry));
        let table = own.lock().lock();
        assert_eq!(table.event, Some((EventKind::Migrate, area.range(0..1))));
        assert_eq!(table.entry, None);
        Ok(())
    }

    #[test]
    fn what_must_not_sleep_is_invalidated_in_two_passes_too() -> Result {
        let area = Area::new()?;
        let notifier = watch(&area, 0..4, Some(5), None)?;
        let read = notifier.read_begin();

        drop(NonBlocking::begin(&area, 0..4)?);
        assert_eq!(notifier.finished.load(Relaxed), 5);
        assert!(notifier.first.load(Relaxed) < notifier.second.load(Relaxed));
        assert_eq!(read.lock().err(), Some(Retry));
        Ok(())
    }

    #[test]
    fn what_must_not_sleep_does_not_wait_for_the_lock() -> Result {
        let area = Area::new()?;
        let notifier = watch(&area, 0..4, Some(5), None)?;
        let read = notifier.read_begin();
        let mut table = notifier.lock().lock();

        assert_eq!(NonBlocking::begin(&area, 0..4).err(), Some(EAGAIN));
        assert_eq!(notifier.first.load(Relaxed), 0);
        assert_eq!(table.entry.take(), Some(5));
        // Nothing was invalidated.
        assert_eq!(read.validate(&table), Ok(()));
        Ok(())
    }

    #[test]
    fn what_a_driver_refuses_does_not_stop_the_second_pass_of_another() -> Result {
        let area = Area::new()?;
        // They are called in the order of their addresses.
        let one = watch(&area, 0..4, Some(5), None)?;
        let other = watch(&area, 1..4, Some(6), None)?;

        other.refuses.store(true, Relaxed);
        assert_eq!(NonBlocking::begin(&area, 0..4).err(), Some(EAGAIN));
        assert_eq!(one.finished.load(Relaxed), 5);
        assert_eq!(other.first.load(Relaxed), 0);
        assert_eq!(other.lock().lock().entry, Some(6));

        // It does not refuse what may sleep.
        area.unmap(0..4)?;
        assert_eq!(other.finished.load(Relaxed), 6);
        Ok(())
    }
}
