// SPDX-License-Identifier: GPL-2.0

//! The control ring: invalidation, replay, cancel, start and stop of queues.

use kernel::{
    device::{
        Bound,
        Device, //
    },
    new_spinlock,
    prelude::*,
    processor::cpu_relax,
    sync::{
        Arc,
        SpinLock, //
    },
    time::{
        Delta,
        Instant,
        Monotonic, //
    },
};

use crate::{
    hw,
    regs::Regs,
    ring::{
        FencePool,
        Ring, //
    },
};

/// After this time without an answer the device counts as lost.
const TIMEOUT: Delta = Delta::from_secs(5);

/// The control ring. Its operations are short, so that their callers spin.
#[pin_data]
pub(crate) struct Control {
    regs: Arc<Regs>,
    #[pin]
    ring: SpinLock<Ring<hw::ControlPacket>>,
    #[pin]
    fences: FencePool,
}

impl Control {
    const LOG2: u32 = 10;

    /// Allocates the ring and tells the device where it is. May sleep.
    pub(crate) fn new(
        dev: &Device<Bound>,
        regs: Arc<Regs>,
    ) -> Result<impl PinInit<Self, Error> + use<>> {
        let ring = Ring::new(dev, Self::LOG2, hw::DOORBELL_CTRL)?;
        ring.program(&regs, hw::REG_CTRL_RING)?;
        let fences = FencePool::new(dev)?;

        Ok(try_pin_init!(Self {
            regs,
            ring <- new_spinlock!(ring, "tern::Control"),
            fences <- fences,
        }))
    }

    /// See [`Ring::progress`].
    pub(crate) fn progress(&self) -> (u64, u64) {
        self.ring.lock().progress()
    }

    /// Puts `packet` in the ring and waits until it has been done. Does not sleep.
    ///
    /// Errors: `ENODEV` after unbind, `EIO` if the device is lost. Whatever went wrong, it is given
    /// up, so that it accesses no memory any more.
    fn run(&self, packet: hw::ControlPacket) -> Result {
        self.try_run(packet).inspect_err(|_| self.regs.give_up(0))
    }

    /// As [`Self::run`], but where this fails nobody knows what the device still does. A ticket
    /// that is not given back then keeps its slot, which is of no use any more.
    fn try_run(&self, mut packet: hw::ControlPacket) -> Result {
        let start = Instant::<Monotonic>::now();
        let late = || start.elapsed() > TIMEOUT;

        let ticket = self.in_time(|| self.fences.take(), late)?;
        self.fences.attach(&ticket, &mut packet, false);
        self.submit(packet, late)?;
        let fence = self.in_time(|| self.fences.reached(&ticket), late)?;
        self.fences.give_back(ticket);
        match fence.status {
            hw::COMPLETE_OK => Ok(()),
            // It refuses what is well-formed.
            _ => Err(EIO),
        }
    }

    fn submit(&self, packet: hw::ControlPacket, late: impl Fn() -> bool) -> Result {
        let mut ring = self.in_time(
            || {
                let ring = self.ring.lock();
                (ring.room() > 0).then_some(ring)
            },
            late,
        )?;

        ring.put(packet);
        ring.submit(&self.regs)
    }

    /// Spins until `ready` gives something; `EIO` when it is `late`, or there is no device any
    /// more.
    fn in_time<T>(&self, ready: impl Fn() -> Option<T>, late: impl Fn() -> bool) -> Result<T> {
        /// Turns after which it is asked whether the device is there, which takes long.
        const LOOK: usize = 1 << 16;

        for turn in 1usize.. {
            // Asked first: this thread may not have run since it looked last.
            let (lost, late) = (self.regs.is_lost(), late());

            if let Some(value) = ready() {
                return Ok(value);
            }
            if lost || late || turn % LOOK == 0 && self.regs.is_gone() {
                break;
            }
            cpu_relax();
        }
        Err(EIO)
    }

    /// Makes the device forget what it knows of `start..=last` of an address space. When this
    /// returns, with an error or not, it uses none of the pages any more that were mapped there
    /// before.
    pub(crate) fn invalidate(&self, asid: u32, start: u64, last: u64) -> Result {
        self.run(hw::ControlPacket {
            op: hw::OP_INVALIDATE,
            id: asid,
            start,
            last,
            ..Default::default()
        })
    }

    /// Lets all threads that wait for a fault try again.
    pub(crate) fn replay(&self) -> Result {
        self.run(hw::ControlPacket {
            op: hw::OP_REPLAY,
            ..Default::default()
        })
    }

    /// Ends the dispatch that met this fault, if it still waits for it. Where it does not, because
    /// of a replay, it goes on, or faults again.
    pub(crate) fn cancel(&self, fault: &hw::FaultEntry) -> Result {
        self.run(hw::ControlPacket {
            op: hw::OP_CANCEL,
            id: fault.queue,
            start: fault.addr,
            last: fault.dispatch,
            // The device may have written anything, but refuses what is no access.
            arg: fault.access.min(hw::ACCESS_FETCH),
            ..Default::default()
        })
    }

    /// Starts queue `id`, whose context is in the table.
    pub(crate) fn start_queue(&self, id: u32) -> Result {
        self.run(hw::ControlPacket {
            op: hw::OP_QUEUE_START,
            id,
            ..Default::default()
        })
    }

    /// Stops queue `id`. When this returns, with an error or not, no thread of it is left.
    pub(crate) fn stop_queue(&self, id: u32) -> Result {
        self.run(hw::ControlPacket {
            op: hw::OP_QUEUE_STOP,
            id,
            ..Default::default()
        })
    }
}
