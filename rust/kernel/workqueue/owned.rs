// SPDX-License-Identifier: GPL-2.0

//! Work queues of a driver's own.

use super::{
    Queue,
    RawDelayedWorkItem,
    RawWorkItem, //
};
use crate::{
    alloc::AllocError,
    bindings,
    prelude::*,
    time::Jiffies, //
};
use core::ptr::NonNull;

/// A work queue that ends with its owner.
///
/// When it is dropped it first runs all work that is queued, and what that work queues. So when it
/// is gone, none of its work runs any more, and neither the data nor the code of that work is in
/// use. It must not be dropped by work of its own.
///
/// It does not wait for the timers of delayed work; see [`Self::enqueue_delayed`].
///
/// Items run side by side, in threads that are not bound to a CPU. One thread is kept for times
/// when no memory can be had for more, so that work which others wait for to free memory goes on.
///
/// Wraps the C functions `alloc_workqueue()` with `WQ_UNBOUND | WQ_MEM_RECLAIM`,
/// `__flush_workqueue()` and `destroy_workqueue()`.
///
/// # Examples
///
/// ```
/// use kernel::{
///     new_mutex,
///     sync::{Arc, Mutex},
///     workqueue::{impl_has_work, new_work, OwnedQueue, Work, WorkItem},
/// };
///
/// #[pin_data]
/// struct Counter {
///     #[pin]
///     runs: Mutex<u32>,
///     #[pin]
///     work: Work<Counter>,
/// }
///
/// impl_has_work! {
///     impl HasWork<Self> for Counter { self.work }
/// }
///
/// impl WorkItem for Counter {
///     type Pointer = Arc<Counter>;
///
///     fn run(this: Arc<Counter>) {
///         *this.runs.lock() += 1;
///     }
/// }
///
/// let init = pin_init!(Counter {
///     runs <- new_mutex!(0),
///     work <- new_work!("Counter::work"),
/// });
/// let counter = Arc::pin_init(init, GFP_KERNEL)?;
/// let queue = OwnedQueue::new(c"doctest")?;
///
/// assert!(queue.enqueue(counter.clone()).is_ok());
/// queue.flush();
/// assert_eq!(*counter.runs.lock(), 1);
///
/// assert!(queue.enqueue(counter.clone()).is_ok());
/// drop(queue);
/// assert_eq!(*counter.runs.lock(), 2);
/// # Ok::<(), Error>(())
/// ```
///
/// # Invariants
///
/// The pointer is a valid work queue that nobody else destroys.
pub struct OwnedQueue(NonNull<Queue>);

// SAFETY: A work queue can be used and destroyed on any thread.
unsafe impl Send for OwnedQueue {}
// SAFETY: A work queue can be used concurrently.
unsafe impl Sync for OwnedQueue {}

impl OwnedQueue {
    /// Makes a queue; its threads carry `name`. May sleep.
    pub fn new(name: &CStr) -> Result<Self, AllocError> {
        // SAFETY: The format takes one string, which is copied. 0 stands for the default number of
        // items that run at the same time.
        let queue = unsafe {
            bindings::alloc_workqueue_noprof(
                c"%s".as_char_ptr(),
                bindings::wq_flags_WQ_UNBOUND | bindings::wq_flags_WQ_MEM_RECLAIM,
                0,
                name.as_char_ptr(),
            )
        };

        // INVARIANT: The queue was just made and belongs to us.
        Ok(Self(NonNull::new(queue).ok_or(AllocError)?.cast()))
    }

    /// Queues a work item. Fails, and gives it back, if it is queued already.
    ///
    /// Can be called in any context.
    pub fn enqueue<W, const ID: u64>(&self, work: W) -> W::EnqueueOutput
    where
        W: RawWorkItem<ID> + Send + 'static,
    {
        // SAFETY: By the type invariants.
        unsafe { self.0.as_ref() }.enqueue(work)
    }

    /// Queues a delayed work item when `delay` is over. Fails, and gives it back, if it waits or is
    /// queued already.
    ///
    /// Can be called in any context. Wraps the C function `queue_delayed_work_on()`.
    ///
    /// # Safety
    ///
    /// The queue must not be dropped before the item runs.
    ///
    /// # Examples
    ///
    /// ```
    /// use kernel::{
    ///     sync::{Arc, Completion},
    ///     workqueue::{
    ///         impl_has_delayed_work, new_delayed_work, DelayedWork, OwnedQueue, WorkItem,
    ///     },
    /// };
    ///
    /// #[pin_data]
    /// struct Reminder {
    ///     #[pin]
    ///     done: Completion,
    ///     #[pin]
    ///     later: DelayedWork<Reminder>,
    /// }
    ///
    /// impl_has_delayed_work! {
    ///     impl HasDelayedWork<Self> for Reminder { self.later }
    /// }
    ///
    /// impl WorkItem for Reminder {
    ///     type Pointer = Arc<Reminder>;
    ///
    ///     fn run(this: Arc<Reminder>) {
    ///         this.done.complete_all();
    ///     }
    /// }
    ///
    /// let init = pin_init!(Reminder {
    ///     done <- Completion::new(),
    ///     later <- new_delayed_work!("Reminder::later"),
    /// });
    /// let reminder = Arc::pin_init(init, GFP_KERNEL)?;
    /// let queue = OwnedQueue::new(c"doctest")?;
    ///
    /// // SAFETY: It is waited for below.
    /// assert!(unsafe { queue.enqueue_delayed(reminder.clone(), 2) }.is_ok());
    /// reminder.done.wait_for_completion();
    /// # Ok::<(), Error>(())
    /// ```
    pub unsafe fn enqueue_delayed<W, const ID: u64>(
        &self,
        work: W,
        delay: Jiffies,
    ) -> W::EnqueueOutput
    where
        W: RawDelayedWorkItem<ID> + Send + 'static,
    {
        // SAFETY: By the type invariants, and by the requirement on the caller also when the timer
        // ends.
        unsafe { self.0.as_ref() }.enqueue_delayed(work, delay)
    }

    /// Waits until all work that is queued at this moment is done. Sleeps.
    ///
    /// Delayed work that waits for its time is not among it.
    ///
    /// Must not be called by work of this queue.
    pub fn flush(&self) {
        // SAFETY: By the type invariants.
        unsafe { bindings::__flush_workqueue(self.0.as_ptr().cast()) };
    }
}

impl Drop for OwnedQueue {
    fn drop(&mut self) {
        // SAFETY: By the type invariants, and it is not used again.
        unsafe { bindings::destroy_workqueue(self.0.as_ptr().cast()) };
    }
}
