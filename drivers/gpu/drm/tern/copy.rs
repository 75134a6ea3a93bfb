// SPDX-License-Identifier: GPL-2.0

//! The copy engines.
//!
//! A [`Batch`] collects descriptors, deals them out over all engines and shows each engine its
//! share with one doorbell, or what the engine's ring has room for, and then the rest. It completes
//! by interrupt; several batches may be in flight.

use core::sync::atomic::{
    AtomicBool,
    AtomicU32,
    Ordering, //
};

use kernel::{
    device::{
        Bound,
        Device, //
    },
    new_condvar, new_mutex, new_spinlock,
    prelude::*,
    sync::{
        Arc,
        CondVar,
        Mutex,
        SpinLock, //
    },
    time::{
        msecs_to_jiffies,
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
        Ring,
        Ticket, //
    },
};

/// A place in VRAM or in system memory.
#[derive(Clone, Copy)]
pub(crate) enum Place {
    /// Offset into VRAM in bytes.
    Vram(u64),
    /// DMA address.
    System(u64),
}

impl Place {
    fn address(self) -> u64 {
        match self {
            Place::Vram(offset) => offset,
            Place::System(addr) => addr,
        }
    }
}

type CopyRing = Pin<KBox<SpinLock<Ring<hw::CopyPacket>>>>;

/// All copy engines of a device.
#[pin_data]
pub(crate) struct CopyEngines {
    regs: Arc<Regs>,
    rings: KVec<CopyRing>,
    #[pin]
    fences: FencePool,
    /// Held by who has some of the last slots, of which there is one for each engine.
    #[pin]
    last_slots: Mutex<()>,
    /// The epoch in which the rings are set up; see [`Regs::epoch`].
    epoch: AtomicU32,
    /// The device does not come back.
    dead: AtomicBool,
    #[pin]
    lock: Mutex<()>,
    #[pin]
    done: CondVar,
}

/// Descriptors that belong together.
pub(crate) struct Batch {
    packets: KVVec<hw::CopyPacket>,
    bytes: u64,
}

impl Batch {
    /// An empty batch with room for `n` descriptors. May sleep.
    pub(crate) fn with_capacity(n: usize) -> Result<Self> {
        Ok(Self {
            packets: KVVec::with_capacity(n, GFP_KERNEL)?,
            bytes: 0,
        })
    }

    /// Bytes that are copied; fills do not count.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Copies `length` bytes. Goes on with the previous copy where both sides follow it.
    pub(crate) fn copy(&mut self, src: Place, dst: Place, length: u32) -> Result {
        let mut op = hw::OP_COPY;

        if matches!(src, Place::System(_)) {
            op |= hw::OP_SRC_SYSTEM;
        }
        if matches!(dst, Place::System(_)) {
            op |= hw::OP_DST_SYSTEM;
        }
        self.bytes += u64::from(length);
        if let Some(last) = self.packets.last_mut() {
            let end = u64::from(last.length);

            if last.op == op
                && last.src + end == src.address()
                && last.dst + end == dst.address()
                && last.length + length <= hw::MAX_COPY
            {
                last.length += length;
                return Ok(());
            }
        }
        self.push(op, src.address(), dst, length)
    }

    /// Fills `length` bytes with zeros.
    pub(crate) fn clear(&mut self, dst: Place, length: u32) -> Result {
        let op = match dst {
            Place::Vram(_) => hw::OP_FILL,
            Place::System(_) => hw::OP_FILL | hw::OP_DST_SYSTEM,
        };

        if let Some(last) = self.packets.last_mut() {
            if last.op == op
                && last.dst + u64::from(last.length) == dst.address()
                && last.length + length <= hw::MAX_COPY
            {
                last.length += length;
                return Ok(());
            }
        }
        self.push(op, 0, dst, length)
    }

    fn push(&mut self, op: u32, src: u64, dst: Place, length: u32) -> Result {
        let packet = hw::CopyPacket {
            op,
            length,
            src,
            dst: dst.address(),
            ..Default::default()
        };
        Ok(self.packets.push(packet, GFP_KERNEL)?)
    }
}

/// A batch that the engines work on, or that waits for its turn.
///
/// It must be handed to [`CopyEngines::wait`]: until that returns, the device may access the
/// memory that the batch names.
#[must_use]
pub(crate) struct InFlight {
    /// See [`Regs::epoch`].
    epoch: u32,
    packets: KVVec<hw::CopyPacket>,
    /// How many of them are in a ring, or have been.
    dealt: usize,
    /// One for each share, or none as long as there are no slots for all of them. Once a share is
    /// dealt, what its fence tells is known or still to come.
    tickets: KVec<Ticket>,
    failed: Option<Error>,
}

impl CopyEngines {
    const LOG2: u32 = 10;
    /// Time after which a batch counts as lost.
    const TIMEOUT: Delta = Delta::from_secs(10);
    /// Milliseconds between two looks at what no interrupt told of.
    const LOOK_MS: u32 = 1000;
    /// How often the engines are started again.
    const RESTARTS: u32 = 4;

    /// Allocates the rings and tells the device where they are. May sleep.
    pub(crate) fn new(
        dev: &Device<Bound>,
        regs: Arc<Regs>,
    ) -> Result<impl PinInit<Self, Error> + use<>> {
        let engines = regs
            .read32(hw::REG_COPY_ENGINES)?
            .clamp(1, hw::MAX_COPY_ENGINES) as usize;
        let mut rings = KVec::with_capacity(engines, GFP_KERNEL)?;

        for i in 0..engines {
            let ring = Ring::new(dev, Self::LOG2, hw::DOORBELL_COPY + 8 * i)?;

            ring.program(&regs, hw::REG_COPY_RING + i * hw::RING_STRIDE)?;
            let ring = KBox::pin_init(new_spinlock!(ring, "tern::CopyRing"), GFP_KERNEL)?;
            rings.push(ring, GFP_KERNEL)?;
        }
        let fences = FencePool::new(dev)?;

        Ok(try_pin_init!(Self {
            regs,
            rings,
            fences <- fences,
            last_slots <- new_mutex!((), "tern::CopyEngines::last_slots"),
            epoch: AtomicU32::new(0),
            dead: AtomicBool::new(false),
            lock <- new_mutex!((), "tern::CopyEngines::lock"),
            done <- new_condvar!("tern::CopyEngines::done"),
        }))
    }

    /// Number of engines.
    pub(crate) fn len(&self) -> usize {
        self.rings.len()
    }

    /// See [`Ring::progress`], for each engine.
    pub(crate) fn progress(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.rings.iter().map(|ring| ring.lock().progress())
    }

    /// Whether the device was given up. Then nothing should be copied to it any more.
    pub(crate) fn is_lost(&self) -> bool {
        self.regs.is_lost()
    }

    /// Whether nothing can be copied any more.
    pub(crate) fn is_dead(&self) -> bool {
        self.dead.load(Ordering::Acquire)
    }

    /// The epoch in which the engines work; see [`Self::has_restarted`].
    pub(crate) fn epoch(&self) -> u32 {
        self.epoch.load(Ordering::Acquire)
    }

    /// Has the engines of a device that was given up work again, so that they bring back what it
    /// has in its memory, which a reset does not touch. May sleep.
    ///
    /// Errors: `ENODEV` if it is gone, `EIO` if it was given up too often.
    pub(crate) fn restart(&self, dev: &Device) -> Result {
        let epoch = self.regs.epoch();
        let result = self.set_up(dev, epoch);

        match result {
            Ok(()) => self.epoch.store(epoch, Ordering::Release),
            Err(_) => self.dead.store(true, Ordering::Release),
        }
        self.interrupt();
        result
    }

    fn set_up(&self, dev: &Device, epoch: u32) -> Result {
        if epoch > Self::RESTARTS {
            return Err(EIO);
        }
        self.regs.reset(dev)?;
        for (i, ring) in self.rings.iter().enumerate() {
            let mut ring = ring.lock();

            ring.restart(&self.regs, epoch)?;
            ring.program(&self.regs, hw::REG_COPY_RING + i * hw::RING_STRIDE)?;
        }
        self.regs.write32(hw::REG_CONTROL, hw::CONTROL_ENABLE)
    }

    /// Whether the engines work again after a loss of the device since `epoch`, so that what failed
    /// can be tried again. May sleep until that is known.
    pub(crate) fn has_restarted(&self, epoch: u32) -> bool {
        let mut guard = self.lock.lock();

        while !self.is_dead() && self.epoch() != self.regs.epoch() {
            // Whatever ended the wait, this looks again.
            let _ = self
                .done
                .wait_timeout(&mut guard, msecs_to_jiffies(Self::LOOK_MS));
        }
        !self.is_dead() && self.epoch() != epoch
    }

    /// Starts a batch. May sleep until there is room in the rings.
    ///
    /// A batch of one descriptor, such as a whole huge page, is cut in equal parts for all
    /// engines, so that each works on it.
    ///
    /// Where there are no slots for its fences it is [`Self::wait`] that starts it. Others only
    /// give slots back there, and they may be waiting for some themselves, while they have a batch
    /// that was started.
    pub(crate) fn start(&self, mut batch: Batch) -> InFlight {
        let split = self.split(&mut batch);
        let mut flight = InFlight {
            epoch: self.epoch(),
            packets: batch.packets,
            dealt: 0,
            tickets: KVec::new(),
            failed: None,
        };
        let shares = self.shares(&flight);

        flight.failed = split
            .and_then(|()| Ok(flight.tickets.reserve(shares, GFP_KERNEL)?))
            .and_then(|()| match self.take_slots(&mut flight, self.rings.len()) {
                true => self.deal(&mut flight),
                false => Ok(()),
            })
            .err();
        flight
    }

    /// Into how many shares a batch is cut.
    fn shares(&self, flight: &InFlight) -> usize {
        match flight.packets.len() {
            0 => 0,
            n => n.div_ceil(n.div_ceil(self.rings.len())),
        }
    }

    /// Takes slots for all shares of `flight`, which has none but the memory for them, if `left`
    /// are left. False if there are not as many.
    fn take_slots(&self, flight: &mut InFlight, left: usize) -> bool {
        let shares = self.shares(flight);

        self.fences.take_all(shares, left, &mut flight.tickets)
    }

    /// Cuts a single large descriptor into one for each engine.
    fn split(&self, batch: &mut Batch) -> Result {
        const PART: u32 = 64 << 10;
        let n = self.rings.len() as u32;

        let [only] = batch.packets[..] else {
            return Ok(());
        };
        if n == 1 || only.length < n * PART {
            return Ok(());
        }
        let part = (only.length / n).next_multiple_of(4096);
        batch.packets.clear();
        for i in 0..n {
            let at = i * part;
            let mut packet = only;

            packet.length = part.min(only.length - at);
            packet.dst += u64::from(at);
            if packet.op & hw::OP_MASK == hw::OP_COPY {
                packet.src += u64::from(at);
            }
            batch.packets.push(packet, GFP_KERNEL)?;
        }
        Ok(())
    }

    /// Gives each engine one contiguous share of what is left, or as much of it as there is room
    /// for, which ends with a fence and an interrupt.
    ///
    /// Fails only when the device is given up.
    fn deal(&self, flight: &mut InFlight) -> Result {
        let left = flight.packets.len() - flight.dealt;
        let share = left.div_ceil(flight.tickets.len().max(1));

        for (ring, ticket) in self.rings.iter().zip(&mut flight.tickets) {
            let left = &flight.packets[flight.dealt..];

            if left.is_empty() {
                break;
            }
            flight.dealt += self
                .feed(flight.epoch, ring, &left[..share.min(left.len())], ticket)
                .inspect_err(|_| self.regs.give_up(flight.epoch))?;
        }
        Ok(())
    }

    /// Gives an engine the first of `packets`, of which there are some, and returns how many.
    ///
    /// A fence tells of all packets before it in its ring that none has told of. So these are put
    /// in together, and the last of them has one.
    fn feed(
        &self,
        epoch: u32,
        ring: &CopyRing,
        packets: &[hw::CopyPacket],
        ticket: &mut Ticket,
    ) -> Result<usize> {
        let (mut ring, room) = self.wait_for(epoch, || {
            let ring = ring.lock();
            let room = ring.room();
            (room > 0).then_some((ring, room))
        })?;

        if ring.epoch() != epoch {
            return Err(EIO);
        }
        let n = room.min(packets.len());
        self.fences.renew(ticket);
        for (i, packet) in packets[..n].iter().enumerate() {
            let mut packet = *packet;

            if i + 1 == n {
                self.fences.attach(ticket, &mut packet, true);
            }
            ring.put(packet);
        }
        ring.submit(&self.regs)?;
        Ok(n)
    }

    /// Waits until all of a batch has been copied. May sleep.
    ///
    /// Errors: `EIO` if the device reports one or was given up, `ENOMEM` if there was no memory to
    /// start it; the contents of the destinations are then undefined.
    pub(crate) fn wait(&self, mut flight: InFlight) -> Result {
        let mut result = flight.failed.map_or(Ok(()), Err);
        let mut last_slots = None;

        if result.is_ok() && flight.tickets.is_empty() {
            let has_slots = self.take_slots(&mut flight, self.rings.len()) || {
                // Who has this waits for the device, and for nobody else. All others leave it
                // slots.
                last_slots = Some(self.last_slots.lock());
                self.take_slots(&mut flight, 0)
            };

            result = match has_slots {
                true => self.deal(&mut flight),
                false => Err(EIO),
            };
        }
        loop {
            for ticket in &flight.tickets {
                match self.wait_for(flight.epoch, || self.fences.reached(ticket)) {
                    Ok(fence) if fence.status == hw::COMPLETE_OK => (),
                    Ok(_) => result = Err(EIO),
                    Err(e) => result = Err(e),
                }
            }
            if result.is_err() || flight.dealt == flight.packets.len() {
                break;
            }
            // What the rings had no room for.
            result = self.deal(&mut flight);
        }
        for ticket in flight.tickets {
            // It is reached, or forgotten by a device that was reset.
            self.fences.give_back(ticket);
        }
        drop(last_slots);
        result
    }

    /// Sleeps until `ready` gives something, looking again at each completion, and now and then in
    /// case that an interrupt was lost. When that takes too long, or the device is gone, it is
    /// given up.
    fn wait_for<T>(&self, epoch: u32, mut ready: impl FnMut() -> Option<T>) -> Result<T> {
        let start = Instant::<Monotonic>::now();
        let mut left = 1;

        loop {
            // Asked first: this thread may not have run since it looked last.
            let is_late = start.elapsed() > Self::TIMEOUT;
            if let Some(value) = ready() {
                return Ok(value);
            }
            let mut guard = self.lock.lock();
            // What the device did before it was given up still counts.
            let is_lost = self.regs.epoch() != epoch;
            // A completion takes the lock before it notifies, so none is missed from here on.
            if let Some(value) = ready() {
                return Ok(value);
            }
            if is_lost {
                return Err(EIO);
            }
            if left == 0 && (is_late || self.regs.is_gone()) {
                drop(guard);
                self.regs.give_up(epoch);
                // The others need not wait as long.
                self.interrupt();
                return Err(EIO);
            }
            left = self
                .done
                .wait_timeout(&mut guard, msecs_to_jiffies(Self::LOOK_MS));
        }
    }

    /// Makes those that wait look again; called by the interrupt thread.
    pub(crate) fn interrupt(&self) {
        let _guard = self.lock.lock();
        self.done.notify_all();
    }
}
