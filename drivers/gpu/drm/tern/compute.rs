// SPDX-License-Identifier: GPL-2.0

//! Queues of dispatches.

use kernel::{
    device::{
        Bound,
        Device, //
    },
    dma_fence::{
        Callback,
        Fence,
        FenceWaiter,
        NewFence,
        Signaller,
        Timeline, //
    },
    new_mutex,
    prelude::*,
    sync::{
        aref::ARef,
        Arc,
        Mutex, //
    },
    time::{
        msecs_to_jiffies,
        Delta,
        Instant,
        Monotonic, //
    },
    uapi,
    workqueue::{
        impl_has_delayed_work,
        new_delayed_work,
        DelayedWork,
        OwnedQueue,
        WorkItem, //
    },
};

use crate::{
    control::Control,
    gpu::Gpu,
    hw,
    regs::Regs,
    ring::{
        Ring,
        RingFences, //
    },
    svm::{
        fault::FaultRing,
        Vm, //
    },
};

/// How a dispatch ended.
#[derive(Clone, Copy, Default)]
pub(crate) struct Outcome {
    /// `enum drm_tern_result_status`.
    pub(crate) status: u32,
    /// `enum drm_tern_access`.
    pub(crate) access: u32,
    pub(crate) address: u64,
    pub(crate) instructions: u64,
}

impl From<hw::Fence> for Outcome {
    /// Every value that the device may write has a meaning for user space.
    fn from(fence: hw::Fence) -> Self {
        let status = match fence.status {
            hw::COMPLETE_OK => uapi::drm_tern_result_status_DRM_TERN_RESULT_OK,
            hw::COMPLETE_FAULT => uapi::drm_tern_result_status_DRM_TERN_RESULT_FAULT,
            hw::COMPLETE_ILLEGAL => uapi::drm_tern_result_status_DRM_TERN_RESULT_ILLEGAL,
            hw::COMPLETE_MISALIGNED => uapi::drm_tern_result_status_DRM_TERN_RESULT_MISALIGNED,
            hw::COMPLETE_TIMEOUT => uapi::drm_tern_result_status_DRM_TERN_RESULT_TIMEOUT,
            hw::COMPLETE_STOPPED => uapi::drm_tern_result_status_DRM_TERN_RESULT_STOPPED,
            _ => uapi::drm_tern_result_status_DRM_TERN_RESULT_DEVICE,
        };
        Self {
            status,
            access: fence.access.min(hw::ACCESS_FETCH),
            address: fence.info,
            instructions: fence.count,
        }
    }
}

impl Outcome {
    /// Its queue was destroyed.
    pub(crate) const STOPPED: Self = Self::of(uapi::drm_tern_result_status_DRM_TERN_RESULT_STOPPED);
    /// The device was lost.
    pub(crate) const LOST: Self = Self::of(uapi::drm_tern_result_status_DRM_TERN_RESULT_DEVICE);
    /// It took too long, with all waits.
    const TIMEOUT: Self = Self::of(uapi::drm_tern_result_status_DRM_TERN_RESULT_TIMEOUT);

    const fn of(status: u32) -> Self {
        Self {
            status,
            access: 0,
            address: 0,
            instructions: 0,
        }
    }

    /// What the fence of the dispatch tells.
    fn error(&self) -> Option<Error> {
        match self.status {
            uapi::drm_tern_result_status_DRM_TERN_RESULT_OK => None,
            uapi::drm_tern_result_status_DRM_TERN_RESULT_FAULT => Some(EFAULT),
            uapi::drm_tern_result_status_DRM_TERN_RESULT_TIMEOUT => Some(ETIMEDOUT),
            uapi::drm_tern_result_status_DRM_TERN_RESULT_STOPPED => Some(ECANCELED),
            _ => Some(EIO),
        }
    }
}

/// A dispatch that has not ended.
struct Dispatch {
    packet: hw::DispatchPacket,
    /// What it waits for before it starts.
    fences: KVec<ARef<Fence>>,
    signaller: Signaller,
}

/// Has the queue look at its dispatches again when a fence is signalled.
struct LookAgain(Arc<Queue>);

impl FenceWaiter for LookAgain {
    fn signaled(&self) {
        // If it is queued already it has not looked yet.
        let _ = self.0.work.enqueue::<_, START>(self.0.clone());
    }
}

/// Dispatches are counted from 0: those below `completed` have ended, those from there to `started`
/// are on the device, those from there to `submitted` wait for their turn or for fences.
///
/// No memory is allocated while its lock is held, since fences are signalled under it.
struct State {
    ring: Ring<hw::DispatchPacket>,
    fences: RingFences,
    /// Those that have not ended, by number modulo the size of the ring.
    dispatches: KVVec<Option<Dispatch>>,
    outcomes: KVVec<Outcome>,
    submitted: u64,
    started: u64,
    completed: u64,
    /// When the device could begin with dispatch `completed`.
    since: Instant<Monotonic>,
    /// Armed for the fence that the next dispatch to start waits for. There once there was one.
    waiter: Option<Pin<KBox<Callback<LookAgain>>>>,
    /// How a dispatch ends if the device stops it.
    verdict: Option<(u64, Outcome)>,
    stopped: bool,
}

/// Dispatches of a queue since it was made.
pub(crate) struct Progress {
    pub(crate) submitted: u64,
    /// Those that the device has got.
    pub(crate) started: u64,
    pub(crate) completed: u64,
    /// Nothing can be submitted any more.
    pub(crate) stopped: bool,
}

/// A queue, whose dispatches run one after another.
#[pin_data]
pub(crate) struct Queue {
    id: u32,
    regs: Arc<Regs>,
    control: Arc<Control>,
    faults: Arc<FaultRing>,
    /// The device's, which is not dropped by what it runs for this queue: [`Self::stop`] waits for
    /// that first.
    work: Arc<OwnedQueue>,
    /// Its address space.
    pub(crate) vm: Arc<Vm>,
    timeline: Timeline,
    #[pin]
    state: Mutex<State>,
    #[pin]
    start: DelayedWork<Queue, START>,
    #[pin]
    watch: DelayedWork<Queue, WATCH>,
}

/// Identifies the work that starts what waited for fences.
const START: u64 = 0;
/// Identifies the work that watches the time.
const WATCH: u64 = 1;

impl_has_delayed_work! {
    impl HasDelayedWork<Self, 0> for Queue { self.start }
    impl HasDelayedWork<Self, 1> for Queue { self.watch }
}

impl WorkItem<START> for Queue {
    type Pointer = Arc<Self>;

    fn run(this: Arc<Self>) {
        // Without a device there is nothing to start; the dispatches end when the queue is stopped.
        let _ = this.start_ready(&mut this.state.lock());
    }
}

impl WorkItem<WATCH> for Queue {
    type Pointer = Arc<Self>;

    fn run(this: Arc<Self>) {
        if this.regs.is_gone() {
            // Which ends what is under way.
            this.regs.give_up(0);
        }
        let mut state = this.state.lock();

        state.complete();
        if !state.is_late() {
            this.watch_time(&state);
            drop(state);
            // The interrupt for a fault may have been lost, as that for a completion.
            this.faults.look();
            return;
        }
        state.verdict = Some((state.completed, Outcome::TIMEOUT));
        state.stopped = true;
        drop(state);
        this.end(match this.control.stop_queue(this.id) {
            Ok(_) => Outcome::STOPPED,
            // There is no device any more.
            Err(_) => Outcome::LOST,
        });
    }
}

impl Queue {
    /// Makes queue `id` of `entries` dispatches, a power of two. May sleep.
    pub(crate) fn new(
        dev: &Device<Bound>,
        gpu: &Gpu,
        id: u32,
        vm: Arc<Vm>,
        entries: u32,
    ) -> Result<Arc<Self>> {
        let doorbell = hw::DOORBELL_QUEUE + 8 * id as usize;
        let mut dispatches = KVVec::with_capacity(entries as usize, GFP_KERNEL_ACCOUNT)?;

        for _ in 0..entries {
            dispatches.push(None, GFP_KERNEL_ACCOUNT)?;
        }
        // The device starts a queue with what its doorbell says.
        gpu.regs.write64(doorbell, 0)?;
        let state = State {
            ring: Ring::new(dev, entries.ilog2(), doorbell)?,
            fences: RingFences::new(dev, entries as usize)?,
            dispatches,
            outcomes: KVVec::from_elem(Outcome::default(), entries as usize, GFP_KERNEL_ACCOUNT)?,
            submitted: 0,
            started: 0,
            completed: 0,
            since: Instant::now(),
            waiter: None,
            verdict: None,
            stopped: false,
        };

        Arc::pin_init(
            try_pin_init!(Self {
                id,
                regs: gpu.regs.clone(),
                control: gpu.control.clone(),
                faults: gpu.faults.clone(),
                work: gpu.work.clone(),
                vm,
                timeline: Timeline::new(c"tern", c"queue"),
                state <- new_mutex!(state, "tern::Queue"),
                start <- new_delayed_work!("tern::Queue::start"),
                watch <- new_delayed_work!("tern::Queue::watch"),
            }? Error),
            GFP_KERNEL,
        )
    }

    /// Its number on the device.
    pub(crate) fn id(&self) -> u32 {
        self.id
    }

    /// What has become of its dispatches.
    pub(crate) fn progress(&self) -> Progress {
        let state = self.state.lock();

        Progress {
            submitted: state.submitted,
            started: state.started,
            completed: state.completed,
            stopped: state.stopped,
        }
    }

    /// What the device must know of it.
    pub(crate) fn context(&self) -> hw::QueueContext {
        let state = self.state.lock();

        hw::QueueContext {
            base: state.ring.base(),
            writeback: state.ring.writeback().dma_address(),
            log2: state.ring.log2(),
            asid: self.vm.notifier.asid(),
            reserved: 0,
        }
    }

    /// Submits a dispatch, which starts when those before it have and `fences` are signalled;
    /// returns its number, from 1, and its fence. Does not wait for `fences`. May sleep.
    ///
    /// Errors: `EAGAIN` if the queue is full, `EIO` if it is stopped, `ENODEV` after unbind.
    pub(crate) fn submit(
        self: &Arc<Self>,
        packet: hw::DispatchPacket,
        fences: KVec<ARef<Fence>>,
    ) -> Result<(u64, ARef<Fence>)> {
        let new = NewFence::new(GFP_KERNEL_ACCOUNT)?;
        let mut waiter = match fences.is_empty() {
            true => None,
            false => Some(KBox::pin_init(
                Callback::new(LookAgain(self.clone())),
                GFP_KERNEL_ACCOUNT,
            )?),
        };
        let mut state = self.state.lock();
        let slot = state.slot(state.submitted);

        if state.stopped {
            return Err(EIO);
        }
        if state.dispatches[slot].is_some() {
            return Err(EAGAIN);
        }
        if state.waiter.is_none() {
            state.waiter = waiter.take();
        }
        let signaller = self.timeline.init(new);
        let fence = signaller.fence();

        state.dispatches[slot] = Some(Dispatch {
            packet,
            fences,
            signaller,
        });
        state.submitted += 1;
        let number = state.submitted;
        self.start_ready(&mut state)?;
        Ok((number, fence))
    }

    /// Gives the device what need not wait any longer. `EIO` or `ENODEV` if there is none.
    fn start_ready(self: &Arc<Self>, state: &mut State) -> Result {
        let was_idle = state.is_idle();

        // The doorbell may be that of another queue by now.
        if state.stopped {
            return Err(EIO);
        }
        state.start();
        if was_idle {
            state.since = Instant::now();
            self.watch_time(state);
        }
        state.ring.submit(&self.regs)
    }

    /// Looks at the time in a while if the device has something to do.
    fn watch_time(self: &Arc<Self>, state: &State) {
        /// Milliseconds between two looks.
        const INTERVAL: u32 = 1000;

        if !state.is_idle() {
            let delay = msecs_to_jiffies(INTERVAL);
            // If it is queued already it has not looked yet.
            //
            // SAFETY: The work queue is not dropped before the item has run, which has a reference
            // to this `Queue`, and so to the work queue.
            let _ = unsafe { self.work.enqueue_delayed::<_, WATCH>(self.clone(), delay) };
        }
    }

    /// Signals the fences of the dispatches that ended.
    pub(crate) fn complete(&self) {
        self.state.lock().complete();
    }

    /// Ends everything that has not ended, with `outcome`. Nothing can be submitted any more. The
    /// device has stopped the queue, or is lost.
    pub(crate) fn end(&self, outcome: Outcome) {
        let mut state = self.state.lock();

        state.complete();
        state.stopped = true;
        state.waiter = None;
        while state.completed < state.submitted {
            let verdict = state.verdict();

            state.end_next(verdict.unwrap_or(outcome));
        }
        state.started = state.completed;
    }

    /// Ends the queue, which the device has stopped, for good. May sleep.
    pub(crate) fn stop(&self) {
        self.end(Outcome::STOPPED);
        // It waits for no fence and is idle now, so neither work is queued again. The last
        // reference must not be dropped by either: to drop an address space waits for memory.
        self.start.flush();
        self.watch.flush();
    }

    /// How dispatch `seqno` ended; `None` if it has not.
    ///
    /// Errors: `ENOENT` if it was never submitted, `ENODATA` if it is forgotten.
    pub(crate) fn outcome(&self, seqno: u64) -> Result<Option<Outcome>> {
        // The caller may have seen the fence before the interrupt thread ran.
        self.complete();
        let state = self.state.lock();
        let size = state.outcomes.len() as u64;

        if seqno == 0 || seqno > state.submitted {
            return Err(ENOENT);
        }
        if seqno > state.completed {
            return Ok(None);
        }
        if state.completed - seqno >= size {
            return Err(ENODATA);
        }
        Ok(Some(state.outcomes[((seqno - 1) % size) as usize]))
    }
}

impl State {
    fn slot(&self, number: u64) -> usize {
        (number % self.dispatches.len() as u64) as usize
    }

    /// Whether the device has nothing of this queue to do.
    fn is_idle(&self) -> bool {
        self.completed == self.started
    }

    /// Puts what need not wait any longer in the ring.
    fn start(&mut self) {
        while self.started < self.submitted {
            let slot = self.slot(self.started);
            let Some(dispatch) = self.dispatches[slot].as_mut() else {
                return;
            };

            while let (Some(fence), Some(waiter)) = (dispatch.fences.last(), &mut self.waiter) {
                if waiter.as_mut().arm(fence.clone()) {
                    return;
                }
                // It is signalled.
                dispatch.fences.pop();
            }
            let mut packet = dispatch.packet;
            self.fences.attach(self.started, &mut packet);
            // The dispatch that had this entry has ended, so the device has taken it.
            self.ring.put(packet);
            self.started += 1;
        }
    }

    /// How the oldest dispatch ends if the device stops it, where that has been decided.
    fn verdict(&self) -> Option<Outcome> {
        self.verdict
            .filter(|(number, _)| *number == self.completed)
            .map(|(_, outcome)| outcome)
    }

    /// Ends what the device says has ended.
    fn complete(&mut self) {
        while !self.is_idle() {
            let Some(fence) = self.fences.reached(self.completed) else {
                break;
            };
            let verdict = match fence.status {
                hw::COMPLETE_STOPPED => self.verdict(),
                _ => None,
            };
            self.end_next(verdict.unwrap_or(fence.into()));
        }
    }

    /// Ends the oldest dispatch that has not ended.
    fn end_next(&mut self, outcome: Outcome) {
        let slot = self.slot(self.completed);

        self.outcomes[slot] = outcome;
        self.completed += 1;
        self.since = Instant::now();
        if let Some(dispatch) = self.dispatches[slot].take() {
            match outcome.error() {
                None => dispatch.signaller.signal(),
                Some(e) => dispatch.signaller.fail(e),
            }
        }
    }

    /// Whether the oldest dispatch on the device should have ended long ago.
    ///
    /// The device itself ends what executes for too long. But it does not count the time that a
    /// dispatch waits, for other queues or for faults, and the service of a fault waits for as long
    /// as its memory does. Others may wait for the fence, which must be signalled in finite time.
    fn is_late(&self) -> bool {
        /// How much longer it may take in all.
        const FACTOR: i64 = 10;
        let slot = self.slot(self.completed);

        match &self.dispatches[slot] {
            Some(dispatch) if !self.is_idle() => {
                let limit = i64::from(dispatch.packet.watchdog_ms) * FACTOR;

                self.since.elapsed() > Delta::from_millis(limit)
            }
            _ => false,
        }
    }
}
