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
    cell::UnsafeCell,
    mem::ManuallyDrop,
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

    /// Calls `f` when the event happens, unless the value returned is dropped before.
    ///
    /// `f` is called once, in atomic context with the lock of the fence held. It must not sleep,
    /// nor use this fence, nor drop the value returned. Memory is allocated with `flags`.
    pub fn add_callback<F: FnOnce() + Send + 'static>(
        &self,
        f: F,
        flags: Flags,
    ) -> Result<Pin<KBox<Callback<F>>>, CallbackError<F>> {
        let Ok(callback) = KBox::new_uninit(flags) else {
            return Err(CallbackError::Alloc);
        };
        let callback = KBox::write(
            callback,
            Callback {
                cb: Opaque::uninit(),
                fence: self.into(),
                f: UnsafeCell::new(Some(f)),
            },
        );

        // SAFETY: Both pointers are valid, and `cb` stays in place until `Callback` is dropped,
        // which removes it.
        let ret = unsafe {
            bindings::dma_fence_add_callback(
                self.as_raw(),
                callback.cb.get(),
                Some(Callback::<F>::callback),
            )
        };

        if ret == 0 {
            return Ok(KBox::into_pin(callback));
        }

        // The function is not going to be called.
        //
        // SAFETY: Nobody else has access to the field.
        match unsafe { (*callback.f.get()).take() } {
            Some(f) => Err(CallbackError::Signaled(f)),
            None => Err(CallbackError::Alloc),
        }
    }
}

/// Why a callback is not going to be called.
pub enum CallbackError<F> {
    /// The event has happened. The function is given back, so that it can be called at once.
    Signaled(F),
    /// There is no memory.
    Alloc,
}

/// A function that waits to be called; see [`Fence::add_callback`].
///
/// When it is dropped the function is not going to be called, or has returned.
///
/// # Invariants
///
/// `cb` was given to `dma_fence_add_callback()` for `fence`.
pub struct Callback<F> {
    cb: Opaque<bindings::dma_fence_cb>,
    fence: ARef<Fence>,
    f: UnsafeCell<Option<F>>,
}

// SAFETY: The function is called on any thread and `Send`; there is no access to it from here.
unsafe impl<F: Send> Send for Callback<F> {}
// SAFETY: There are no methods.
unsafe impl<F: Send> Sync for Callback<F> {}

impl<F: FnOnce() + Send + 'static> Callback<F> {
    /// # Safety
    ///
    /// `cb` must be the field of a `Callback<F>` that is not dropped before this function returns,
    /// and this function must be called once.
    unsafe extern "C" fn callback(
        _fence: *mut bindings::dma_fence,
        cb: *mut bindings::dma_fence_cb,
    ) {
        // SAFETY: By the safety requirements. The drop of `Callback` waits for this function.
        let this = unsafe { &*container_of!(Opaque::cast_from(cb), Self, cb) };

        // SAFETY: By the safety requirements nobody else accesses the field.
        if let Some(f) = unsafe { (*this.f.get()).take() } {
            f();
        }
    }
}

impl<F> Drop for Callback<F> {
    fn drop(&mut self) {
        // SAFETY: By the type invariants. The function takes the lock of the fence, under which
        // callbacks are called.
        unsafe { bindings::dma_fence_remove_callback(self.fence.as_raw(), self.cb.get()) };
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

/// A sequence of fences whose events happen one after the other, for example those of a queue.
///
/// # Examples
///
/// ```
/// use kernel::{dma_fence::{CallbackError, Timeline}, sync::{Arc, Completion}};
///
/// let timeline = Timeline::new(c"doctest", c"queue 0");
/// let first = timeline.new_fence(GFP_KERNEL)?;
/// let second = timeline.new_fence(GFP_KERNEL)?;
/// assert!(first.seqno() < second.seqno());
///
/// let fence = first.fence();
/// assert!(!fence.is_signaled());
/// assert_eq!(fence.status(), Ok(false));
/// assert_eq!(fence.wait_timeout(1), Err(ETIMEDOUT));
///
/// let done = Arc::pin_init(Completion::new(), GFP_KERNEL)?;
/// let in_callback = done.clone();
/// let callback = fence.add_callback(move || in_callback.complete_all(), GFP_KERNEL);
/// assert!(callback.is_ok());
/// first.signal();
/// done.wait_for_completion();
/// assert_eq!(fence.status(), Ok(true));
/// assert_eq!(fence.wait(), Ok(()));
///
/// // Too late for another callback: the function comes back.
/// let late = fence.add_callback(|| (), GFP_KERNEL);
/// assert!(matches!(late, Err(CallbackError::Signaled(_))));
///
/// // Whoever waits gets an error if the work is abandoned.
/// let fence = second.fence();
/// drop(second);
/// assert_eq!(fence.status(), Err(ECANCELED));
/// # drop(callback);
/// # Ok::<(), Error>(())
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

    /// Makes the next fence, with memory allocated with `flags`.
    ///
    /// It must be signalled after those that were made before.
    pub fn new_fence(&self, flags: Flags) -> Result<Signaller, AllocError> {
        let fence = KBox::new(
            DriverFence {
                fence: Default::default(),
                driver: self.driver,
                timeline: self.name,
            },
            flags,
        )?;
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
        Ok(Signaller(unsafe {
            ARef::from_raw(NonNull::new_unchecked(fence.cast()))
        }))
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
