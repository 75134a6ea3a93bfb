// SPDX-License-Identifier: GPL-2.0

//! Queues of dispatches.

use kernel::{
    device::{
        Bound,
        Device, //
    },
    dma_fence::{
        Fence,
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
    uapi,
};

use crate::{
    hw,
    regs::Regs,
    ring::{
        Ring,
        RingFences, //
    },
    svm::Vm,
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
    const STOPPED: Self = Self {
        status: uapi::drm_tern_result_status_DRM_TERN_RESULT_STOPPED,
        access: 0,
        address: 0,
        instructions: 0,
    };

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

struct State {
    ring: Ring<hw::DispatchPacket>,
    fences: RingFences,
    /// By index of the dispatch, modulo the size of the ring.
    pending: KVec<Option<Signaller>>,
    outcomes: KVec<Outcome>,
    submitted: u64,
    completed: u64,
    stopped: bool,
}

/// A queue, whose dispatches run one after another.
#[pin_data]
pub(crate) struct Queue {
    id: u32,
    regs: Arc<Regs>,
    /// Its address space.
    pub(crate) vm: Arc<Vm>,
    timeline: Timeline,
    #[pin]
    state: Mutex<State>,
}

impl Queue {
    /// Makes queue `id` of `entries` dispatches, a power of two. May sleep.
    pub(crate) fn new(
        dev: &Device<Bound>,
        regs: Arc<Regs>,
        id: u32,
        vm: Arc<Vm>,
        entries: u32,
    ) -> Result<Arc<Self>> {
        let doorbell = hw::DOORBELL_QUEUE + 8 * id as usize;
        let mut pending = KVec::with_capacity(entries as usize, GFP_KERNEL)?;

        for _ in 0..entries {
            pending.push(None, GFP_KERNEL)?;
        }
        // The device starts a queue with what its doorbell says.
        regs.write64(doorbell, 0)?;
        let state = State {
            ring: Ring::new(dev, entries.ilog2(), doorbell)?,
            fences: RingFences::new(dev, entries as usize)?,
            pending,
            outcomes: KVec::from_elem(Outcome::default(), entries as usize, GFP_KERNEL)?,
            submitted: 0,
            completed: 0,
            stopped: false,
        };

        Arc::pin_init(
            try_pin_init!(Self {
                id,
                regs,
                vm,
                timeline: Timeline::new(c"tern", c"queue"),
                state <- new_mutex!(state, "tern::Queue"),
            }? Error),
            GFP_KERNEL,
        )
    }

    /// Its number on the device.
    pub(crate) fn id(&self) -> u32 {
        self.id
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

    /// Submits a dispatch; returns its number, from 1, and its fence. May sleep.
    ///
    /// Errors: `EAGAIN` if the queue is full, `EIO` if it is stopped, `ENODEV` after unbind.
    pub(crate) fn submit(&self, mut packet: hw::DispatchPacket) -> Result<(u64, ARef<Fence>)> {
        let mut state = self.state.lock();
        let size = state.pending.len() as u64;

        if state.stopped {
            return Err(EIO);
        }
        // An entry is free when its outcome is known, which is after the device took it.
        if state.submitted - state.completed == size {
            return Err(EAGAIN);
        }
        let signaller = self.timeline.new_fence(GFP_KERNEL)?;
        let fence = signaller.fence();
        let index = state.submitted;

        state.fences.attach(index, &mut packet);
        state.ring.push(packet)?;
        state.submitted += 1;
        state.pending[(index % size) as usize] = Some(signaller);
        // Without a device the fence is signalled when the queue is stopped.
        state.ring.submit(&self.regs)?;
        Ok((index + 1, fence))
    }

    /// Signals the fences of the dispatches that ended.
    pub(crate) fn complete(&self) {
        let mut state = self.state.lock();

        while state.completed < state.submitted {
            let Some(fence) = state.fences.reached(state.completed) else {
                break;
            };
            state.end_next(fence.into());
        }
    }

    /// Ends everything that has not ended. The device has stopped the queue.
    pub(crate) fn stop(&self) {
        self.complete();
        let mut state = self.state.lock();

        state.stopped = true;
        while state.completed < state.submitted {
            state.end_next(Outcome::STOPPED);
        }
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
    /// Ends the oldest dispatch that has not ended.
    fn end_next(&mut self, outcome: Outcome) {
        let slot = (self.completed % self.pending.len() as u64) as usize;

        self.outcomes[slot] = outcome;
        self.completed += 1;
        if let Some(signaller) = self.pending[slot].take() {
            match outcome.error() {
                None => signaller.signal(),
                Some(e) => signaller.fail(e),
            }
        }
    }
}
