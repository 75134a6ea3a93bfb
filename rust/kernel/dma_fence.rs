// SPDX-License-Identifier: GPL-2.0

//! DMA fences.
//!
//! A [`Fence`] is an event that happens once, normally the end of some work of a device. Anybody
//! with a reference can wait for it. Who makes a fence, with a [`Timeline`], gets the duty to let
//! the event happen, as a [`Signaller`]. Since others wait for it, that must be in finite time
//! whatever user space does; a [`Signaller`] that is dropped lets it happen with an error.
//!
//! C header: [`include/linux/dma-fence.h`](srctree/include/linux/dma-fence.h)

use crate::{
    alloc::{
        AllocError,
        Flags, //
    },
    bindings,
    container_of,
    error::to_result,
    prelude::*,
    sync::{
        aref::{
            ARef,
            AlwaysRefCounted, //
        },
        atomic::{
            ordering::Relaxed,
            Atomic, //
        }, //
    },
    task::MAX_SCHEDULE_TIMEOUT,
    time::Jiffies,
    types::Opaque, //
};
use core::{
    mem::{
        ManuallyDrop,
        MaybeUninit, //
    },
    ptr::{
        self,
        NonNull, //
    }, //
};

/// A wrapper for the kernel's `struct dma_fence`.
///
/// # Invariants
///
/// Instances of this type are always reference counted.
#[repr(transparent)]
pub struct Fence(Opaque<bindings::dma_fence>);

// SAFETY: A fence reference may be dropped on any thread.
unsafe impl Send for Fence {}

// SAFETY: All methods on `Fence` may be called concurrently.
unsafe impl Sync for Fence {}

// SAFETY: By the type invariants, instances are always reference counted.
unsafe impl AlwaysRefCounted for Fence {
    #[inline]
    fn inc_ref(&self) {
        // SAFETY: The existence of a reference means that the reference count is non-zero.
        unsafe { bindings::dma_fence_get(self.as_raw()) };
    }

    #[inline]
    unsafe fn dec_ref(obj: NonNull<Self>) {
        // SAFETY: The caller gives up one reference count.
        unsafe { bindings::dma_fence_put(obj.as_ptr().cast()) };
    }
}

impl Fence {
    /// Makes a reference from a raw pointer.
    ///
    /// # Safety
    ///
    /// `ptr` must point to a valid fence whose reference count does not reach zero during `'a`.
    #[inline]
    pub unsafe fn from_raw<'a>(ptr: *mut bindings::dma_fence) -> &'a Self {
        // SAFETY: By the safety requirements; the types have the same layout.
        unsafe { &*ptr.cast() }
    }

    /// Returns a raw pointer to the inner `struct dma_fence`.
    #[inline]
    pub fn as_raw(&self) -> *mut bindings::dma_fence {
        self.0.get()
    }

    /// Returns the number of the context that the fence belongs to.
    #[inline]
    pub fn context(&self) -> u64 {
        // SAFETY: The pointer is valid since `self` is a reference, and the field is constant.
        unsafe { (*self.as_raw()).context }
    }

    /// Returns the number of the fence within its context.
    #[inline]
    pub fn seqno(&self) -> u64 {
        // SAFETY: The pointer is valid since `self` is a reference, and the field is constant.
        unsafe { (*self.as_raw()).seqno }
    }

    /// Returns whether the event has happened, with success or not.
    #[inline]
    pub fn is_signaled(&self) -> bool {
        // SAFETY: The pointer is valid since `self` is a reference.
        unsafe { bindings::dma_fence_is_signaled(self.as_raw()) }
    }

    /// Returns whether the event has happened, or its error.
    pub fn status(&self) -> Result<bool> {
        // SAFETY: The pointer is valid since `self` is a reference.
        let status = unsafe { bindings::dma_fence_get_status(self.as_raw()) };

        to_result(status)?;
        Ok(status > 0)
    }

    /// Waits until the event has happened. Sleeps.
    ///
    /// Fails with [`ERESTARTSYS`] if a signal for the process comes first. The error of the event
    /// is told by [`Fence::status`].
    pub fn wait(&self) -> Result {
        // SAFETY: The pointer is valid since `self` is a reference.
        let left =
            unsafe { bindings::dma_fence_wait_timeout(self.as_raw(), true, MAX_SCHEDULE_TIMEOUT) };

        // CAST: A negative value is an error number.
        to_result(left.min(0) as c_int)
    }

    /// Waits until the event has happened, for `timeout` jiffies at most. Sleeps.
    ///
    /// Returns what is left of the time. Fails with [`ETIMEDOUT`], or with [`ERESTARTSYS`] if a
    /// signal for the process comes first. The error of the event is told by [`Fence::status`].
    pub fn wait_timeout(&self, timeout: Jiffies) -> Result<Jiffies> {
        // A timeout that the C type cannot hold is as good as none.
        let timeout = timeout.try_into().unwrap_or(MAX_SCHEDULE_TIMEOUT);

        // SAFETY: The pointer is valid since `self` is a reference.
        let left = unsafe { bindings::dma_fence_wait_timeout(self.as_raw(), true, timeout) };

        match left {
            // CAST: A positive value fits the unsigned type of the same size.
            1.. => Ok(left as Jiffies),
            0 if self.is_signaled() => Ok(0),
            0 => Err(ETIMEDOUT),
            // CAST: A negative value is an error number.
            _ => Err(Error::from_errno(left as c_int)),
        }
    }
}

/// What is done when the event of a fence happens; see [`Callback`].
pub trait FenceWaiter: Send + Sync + 'static {
    /// The event of the fence has happened, with success or not.
    ///
    /// This is called in atomic context with the lock of the fence held. It must not sleep, nor use
    /// any fence, nor drop the [`Callback`].
    fn signaled(&self);
}

/// Lets a [`FenceWaiter`] know when the event of a fence happens.
///
/// It can be armed for one fence after another. That takes no memory, so it can be done on the way
/// to signal a fence that others wait for. Dropping it disarms it. See [`Timeline`] for an example.
///
/// # Invariants
///
/// - If `fence` is some, `cb` was given to `dma_fence_add_callback()` for it, with success, and not
///   to `dma_fence_remove_callback()` since. If it is `None` nobody else uses `cb`.
/// - The reference in `fence` is dropped only after `cb` is removed.
/// - There are no mutable references to `waiter` until it is dropped.
#[pin_data(PinnedDrop)]
pub struct Callback<W: FenceWaiter> {
    #[pin]
    cb: Opaque<bindings::dma_fence_cb>,
    fence: Option<ARef<Fence>>,
    waiter: W,
}

// SAFETY: The only field that is not `Send` is `cb`, which belongs to no thread.
unsafe impl<W: FenceWaiter> Send for Callback<W> {}
// SAFETY: A shared reference gives no access to the fields.
unsafe impl<W: FenceWaiter> Sync for Callback<W> {}

impl<W: FenceWaiter> Callback<W> {
    /// Makes a callback that is not armed.
    pub fn new(waiter: W) -> impl PinInit<Self> {
        // INVARIANT: There is no fence, and `cb` is new.
        pin_init!(Self {
            cb: Opaque::uninit(),
            fence: None,
            waiter,
        })
    }

    /// Arms it: the waiter is called once, when the event of `fence` happens.
    ///
    /// If it is armed for another fence it is disarmed first. Returns `false`, and does not call
    /// the waiter, if the event has happened already.
    ///
    /// This takes the locks of the fences, as [`Callback::disarm`] does.
    pub fn arm(mut self: Pin<&mut Self>, fence: ARef<Fence>) -> bool {
        self.as_mut().disarm();

        // SAFETY:
        // - The fence is valid since we have a reference.
        // - By the type invariants nobody else uses `cb`, since `disarm()` sets `fence` to `None`.
        // - `cb` is pinned, hence valid until drop, which removes it.
        // - `signaled()` may run on another CPU from now on, also while this function still has a
        //   mutable reference to `Self`. That is fine: `Self` is not `Unpin`, hence such a
        //   reference is not taken for unique by the compiler, and `signaled()` only accesses
        //   `waiter`, to which there are no mutable references by the type invariants.
        let ret = unsafe {
            bindings::dma_fence_add_callback(fence.as_raw(), self.cb.get(), Some(Self::signaled))
        };

        if ret == 0 {
            // INVARIANT: `cb` was just added. There was no fence before, so none is dropped.
            *self.fence_mut() = Some(fence);
        }
        ret == 0
    }

    /// Disarms it. When this returns, the waiter has been called, or is not going to be.
    ///
    /// This takes the lock of the fence, so it must not be called by the waiter.
    pub fn disarm(mut self: Pin<&mut Self>) {
        if let Some(fence) = &self.fence {
            // SAFETY: By the type invariants the fence is valid and `cb` was added to it.
            //
            // Callbacks are called with the lock of the fence held, and the core takes `cb` off the
            // list before the call and does not access it afterwards. This function takes the lock
            // to look at the list, so nobody else uses `cb` when it returns.
            unsafe { bindings::dma_fence_remove_callback(fence.as_raw(), self.cb.get()) };
        }
        // INVARIANT: Nobody else uses `cb`, and it is removed from the fence that is dropped.
        *self.as_mut().fence_mut() = None;
    }

    fn fence_mut(self: Pin<&mut Self>) -> &mut Option<ARef<Fence>> {
        // SAFETY: Nothing is moved out of `Self`: the field is not structurally pinned. Other than
        // with `project()`, there is no mutable reference to `waiter`.
        &mut unsafe { self.get_unchecked_mut() }.fence
    }

    /// # Safety
    ///
    /// `cb` must be the field of a `Callback<W>` that is not dropped before this returns.
    unsafe extern "C" fn signaled(
        _fence: *mut bindings::dma_fence,
        cb: *mut bindings::dma_fence_cb,
    ) {
        // SAFETY: By the safety requirements the pointer is in bounds of the `Callback`.
        let this: *const Self = unsafe { container_of!(Opaque::cast_from(cb), Self, cb) };
        // SAFETY: The field is valid by the safety requirements, and by the type invariants there
        // are no mutable references to it. None is made to the other fields, which may be written.
        let waiter = unsafe { &(*this).waiter };

        waiter.signaled();
    }
}

#[pinned_drop]
impl<W: FenceWaiter> PinnedDrop for Callback<W> {
    fn drop(self: Pin<&mut Self>) {
        self.disarm();
    }
}

/// A fence made in Rust.
///
/// There is no drop glue: the C side frees the memory after an RCU grace period.
#[repr(C)]
struct DriverFence {
    // Must be the first field, since the C side frees the memory by its address.
    fence: bindings::dma_fence,
    driver: &'static CStr,
    timeline: &'static CStr,
}

// A `static` is a part of the kernel crate, which is never unloaded, wherever it is used. So fences
// can outlive the module that they were made in.
static FENCE_OPS: bindings::dma_fence_ops = bindings::dma_fence_ops {
    get_driver_name: Some(DriverFence::driver_name),
    get_timeline_name: Some(DriverFence::timeline_name),
    enable_signaling: None,
    signaled: None,
    wait: None,
    release: None,
    set_deadline: None,
};

impl DriverFence {
    /// # Safety
    ///
    /// `fence` must be the first field of a valid [`DriverFence`].
    unsafe extern "C" fn driver_name(fence: *mut bindings::dma_fence) -> *const c_char {
        // SAFETY: By the safety requirements.
        unsafe { (*fence.cast::<Self>()).driver }.as_char_ptr()
    }

    /// # Safety
    ///
    /// `fence` must be the first field of a valid [`DriverFence`].
    unsafe extern "C" fn timeline_name(fence: *mut bindings::dma_fence) -> *const c_char {
        // SAFETY: By the safety requirements.
        unsafe { (*fence.cast::<Self>()).timeline }.as_char_ptr()
    }
}

/// The memory of a fence to be made with [`Timeline::init`].
///
/// It can be allocated before the locks are taken under which the fence gets its place in the
/// timeline. Dropping it frees it.
pub struct NewFence(KBox<MaybeUninit<DriverFence>>);

impl NewFence {
    /// Allocates the memory with `flags`.
    pub fn new(flags: Flags) -> Result<Self, AllocError> {
        Ok(Self(KBox::new_uninit(flags)?))
    }
}

/// A sequence of fences whose events happen one after the other, for example those of a queue.
///
/// # Examples
///
/// ```
/// use kernel::{
///     dma_fence::{Callback, FenceWaiter, NewFence, Timeline},
///     sync::{atomic::{ordering::Relaxed, Atomic}, Arc},
/// };
///
/// /// Counts the events.
/// struct Counter(Arc<Atomic<u32>>);
///
/// impl FenceWaiter for Counter {
///     fn signaled(&self) {
///         self.0.fetch_add(1, Relaxed);
///     }
/// }
///
/// let timeline = Timeline::new(c"doctest", c"queue 0");
/// let first = timeline.init(NewFence::new(GFP_KERNEL)?);
/// let second = timeline.init(NewFence::new(GFP_KERNEL)?);
/// let third = timeline.init(NewFence::new(GFP_KERNEL)?);
/// assert!(first.seqno() < second.seqno());
///
/// let fence = first.fence();
/// assert!(!fence.is_signaled());
/// assert_eq!(fence.status(), Ok(false));
/// assert_eq!(fence.wait_timeout(1), Err(ETIMEDOUT));
///
/// let events = Arc::new(Atomic::new(0), GFP_KERNEL)?;
/// let mut callback = KBox::pin_init(Callback::new(Counter(events.clone())), GFP_KERNEL)?;
/// assert!(callback.as_mut().arm(fence.clone()));
/// first.signal();
/// assert_eq!(events.load(Relaxed), 1);
/// assert_eq!(fence.status(), Ok(true));
/// assert_eq!(fence.wait(), Ok(()));
///
/// // Too late for this fence, but the callback can be armed for others.
/// assert!(!callback.as_mut().arm(fence));
/// assert!(callback.as_mut().arm(third.fence()));
/// assert!(callback.as_mut().arm(second.fence()));
///
/// // Whoever waits gets an error if the work is abandoned.
/// let fence = second.fence();
/// drop(second);
/// assert_eq!(fence.status(), Err(ECANCELED));
/// assert_eq!(events.load(Relaxed), 2);
///
/// // Once it is disarmed, the waiter is not called.
/// assert!(callback.as_mut().arm(third.fence()));
/// callback.as_mut().disarm();
/// third.fail(EIO);
/// assert_eq!(events.load(Relaxed), 2);
/// # Ok::<(), Error>(())
/// ```
///
/// A fence is signalled once:
///
/// ```ignore,compile_fail,E0382
/// # use kernel::{dma_fence::Signaller, prelude::*};
/// fn twice(signaller: Signaller) {
///     signaller.signal();
///     signaller.fail(EIO);
/// }
/// ```
pub struct Timeline {
    context: u64,
    next_seqno: Atomic<u64>,
    driver: &'static CStr,
    name: &'static CStr,
}

impl Timeline {
    /// Makes a timeline. The names of the driver and of the timeline are shown to users.
    pub fn new(driver: &'static CStr, name: &'static CStr) -> Self {
        Self {
            // SAFETY: The function can always be called.
            context: unsafe { bindings::dma_fence_context_alloc(1) },
            next_seqno: Atomic::new(1),
            driver,
            name,
        }
    }

    /// Makes the next fence of the timeline from `new`. Can be called in any context.
    ///
    /// It must be signalled after those that were made before.
    pub fn init(&self, new: NewFence) -> Signaller {
        let fence = KBox::write(
            new.0,
            DriverFence {
                fence: Default::default(),
                driver: self.driver,
                timeline: self.name,
            },
        );
        let fence = KBox::into_raw(fence).cast::<bindings::dma_fence>();
        let seqno = self.next_seqno.fetch_add(1, Relaxed);

        // SAFETY: `fence` is valid and ours, and the start of an allocation by `kmalloc()`, which
        // the C side may free when the reference count becomes zero. A null lock means that the
        // fence has its own.
        unsafe {
            bindings::dma_fence_init64(fence, &FENCE_OPS, ptr::null_mut(), self.context, seqno)
        };

        // INVARIANT: The fence is new, so it is not signalled.
        // SAFETY: We own the only reference, and `KBox::into_raw()` does not return null.
        Signaller(unsafe { ARef::from_raw(NonNull::new_unchecked(fence.cast())) })
    }
}

/// The duty to let the event of a fence happen. Dropping it does so with [`ECANCELED`].
///
/// All methods can be called in any context.
///
/// # Invariants
///
/// The fence is not signalled, and nobody else can do it.
#[must_use = "the fence is signalled with an error if unused"]
pub struct Signaller(ARef<Fence>);

impl Signaller {
    /// Returns a reference to the fence.
    #[inline]
    pub fn fence(&self) -> ARef<Fence> {
        self.0.clone()
    }

    /// Returns the number of the fence within its timeline.
    #[inline]
    pub fn seqno(&self) -> u64 {
        self.0.seqno()
    }

    /// Lets the event happen, with success.
    pub fn signal(self) {
        let this = ManuallyDrop::new(self);
        // SAFETY: `this.0` is a valid reference that is not used again.
        let fence = unsafe { ptr::read(&this.0) };

        // SAFETY: The pointer is valid since `fence` is a reference.
        unsafe { bindings::dma_fence_signal(fence.as_raw()) };
    }

    /// Lets the event happen, with an error.
    pub fn fail(self, error: Error) {
        let this = ManuallyDrop::new(self);
        // SAFETY: `this.0` is a valid reference that is not used again.
        let fence = unsafe { ptr::read(&this.0) };

        Self::fail_fence(&fence, error);
    }

    /// Signals `fence` with an error. It must be that of a [`Signaller`].
    fn fail_fence(fence: &Fence, error: Error) {
        // SAFETY: The pointer is valid, and by the type invariants the fence is not signalled.
        unsafe { bindings::dma_fence_set_error(fence.as_raw(), error.to_errno()) };
        // SAFETY: The pointer is valid.
        unsafe { bindings::dma_fence_signal(fence.as_raw()) };
    }
}

impl Drop for Signaller {
    fn drop(&mut self) {
        Self::fail_fence(&self.0, ECANCELED);
    }
}
