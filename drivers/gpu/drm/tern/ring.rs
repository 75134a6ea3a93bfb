// SPDX-License-Identifier: GPL-2.0

//! Rings of packets that the device reads, and fences that it writes.

use core::{
    ptr::{
        addr_of,
        addr_of_mut, //
    },
    sync::atomic::{
        AtomicU64,
        Ordering, //
    },
};

use kernel::{
    device::{
        Bound,
        Device, //
    },
    devres::Devres,
    dma::Coherent,
    new_spinlock,
    prelude::*,
    sync::{
        barrier,
        SpinLock, //
    },
    transmute::{
        AsBytes,
        FromBytes, //
    },
};

use crate::{
    hw,
    regs::Regs, //
};

/// Wraps a layout of [`hw`], so that the traits for device-shared memory can be implemented.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub(crate) struct Shared<T>(pub(crate) T);

macro_rules! impl_shared {
    ($($layout:ident),*) => {$(
        // SAFETY: The layout has no padding: `hw` declares every byte.
        unsafe impl AsBytes for Shared<hw::$layout> {}
        // SAFETY: All members are integers, for which every bit pattern is valid.
        unsafe impl FromBytes for Shared<hw::$layout> {}
    )*};
}

impl_shared!(
    AddressSpace,
    ControlPacket,
    CopyPacket,
    DispatchPacket,
    FaultEntry,
    Fence,
    QueueContext,
    Writeback
);

/// An array that the driver and the device share.
///
/// It is freed when the driver is unbound, whoever still has it: then it reads as all zero, and
/// what is written is lost.
pub(crate) struct SharedArray<T>
where
    Shared<T>: AsBytes + FromBytes,
    T: Send + 'static,
{
    memory: Devres<Coherent<[Shared<T>]>>,
    address: u64,
    len: usize,
}

impl<T: Copy + Default + Send + 'static> SharedArray<T>
where
    Shared<T>: AsBytes + FromBytes,
{
    /// Allocates `len` elements, all zero. May sleep.
    pub(crate) fn new(dev: &Device<Bound>, len: usize) -> Result<Self> {
        let memory = Coherent::zeroed_slice(dev, len, GFP_KERNEL)?;

        Ok(Self {
            address: memory.dma_address(),
            len,
            memory: Devres::new(dev, memory)?,
        })
    }

    /// Address of element `i` for the device.
    pub(crate) fn dma_address(&self, i: usize) -> u64 {
        self.address + (i * size_of::<T>()) as u64
    }

    /// Calls `f` with a pointer to element `i`, which is valid and aligned meanwhile. `None` after
    /// unbind.
    ///
    /// # Panics
    ///
    /// If there is no such element.
    fn with<R>(&self, i: usize, f: impl FnOnce(*mut T) -> R) -> Option<R> {
        assert!(i < self.len);
        self.memory
            .try_access_with(|memory| f(memory.as_mut_ptr().cast::<T>().wrapping_add(i)))
    }

    /// Copies element `i` out. It is whatever the device wrote and must not be trusted.
    pub(crate) fn read(&self, i: usize) -> T {
        // SAFETY: `ptr` is valid and aligned; the read is volatile since the device may write at
        // the same time, and any bit pattern is a valid `T`.
        self.with(i, |ptr| unsafe { ptr.read_volatile() })
            .unwrap_or_default()
    }

    /// Writes element `i`.
    pub(crate) fn write(&self, i: usize, value: T) {
        // SAFETY: As for `read`.
        self.with(i, |ptr| unsafe { ptr.write_volatile(value) });
    }
}

impl SharedArray<hw::Fence> {
    /// Forgets what is in slot `i`, which no packet in flight names, whatever the device wrote.
    fn clear(&self, i: usize) {
        // SAFETY: `ptr` is valid, and so is the address of a member.
        self.with(i, |ptr| unsafe {
            addr_of_mut!((*ptr).value).write_volatile(0)
        });
    }

    /// The fence in slot `i` if it has reached `value`. Any other value means nothing: the device
    /// has not written the fence.
    fn reached(&self, i: usize, value: u64) -> Option<hw::Fence> {
        // SAFETY: `ptr` is valid, and so is the address of a member.
        let now = self.with(i, |ptr| unsafe { addr_of!((*ptr).value).read_volatile() })?;
        if now != value {
            return None;
        }
        // The device writes the value last.
        barrier::dma_mb(barrier::Read);
        Some(self.read(i))
    }
}

/// What the device writes about a ring.
pub(crate) struct Writeback(SharedArray<hw::Writeback>);

impl Writeback {
    fn new(dev: &Device<Bound>) -> Result<Self> {
        Ok(Self(SharedArray::new(dev, 1)?))
    }

    /// GET of a ring that the device reads, PUT of one that it writes.
    pub(crate) fn index(&self) -> u64 {
        // SAFETY: `ptr` is valid, and so is the address of a member.
        let read = |ptr: *mut hw::Writeback| unsafe { addr_of!((*ptr).index).read_volatile() };
        let index = self.0.with(0, read).unwrap_or(0);
        barrier::dma_mb(barrier::Read);
        index
    }

    /// Entries of a ring that the device writes which found no room.
    fn overflow(&self) -> u64 {
        // SAFETY: `ptr` is valid, and so is the address of a member.
        let read = |ptr: *mut hw::Writeback| unsafe { addr_of!((*ptr).overflow).read_volatile() };
        self.0.with(0, read).unwrap_or(0)
    }

    /// Address for the device.
    pub(crate) fn dma_address(&self) -> u64 {
        self.0.dma_address(0)
    }

    /// All zero, as the device leaves it when it starts.
    fn clear(&self) {
        self.0.write(0, hw::Writeback::default());
    }
}

/// A packet of one of the rings.
pub(crate) trait Packet: Copy + Default + Send + 'static {
    /// Sets the fence and the interrupt that follow when it is done.
    fn set_fence(&mut self, addr: u64, value: u64, irq: bool);
}

macro_rules! impl_packet {
    ($($layout:ident),*) => {$(
        impl Packet for hw::$layout {
            fn set_fence(&mut self, addr: u64, value: u64, irq: bool) {
                self.op |= hw::OP_FENCE | if irq { hw::OP_IRQ } else { 0 };
                self.fence_addr = addr;
                self.fence_value = value;
            }
        }
    )*};
}

impl_packet!(ControlPacket, CopyPacket, DispatchPacket);

/// A ring of packets that the device reads.
pub(crate) struct Ring<P: Packet>
where
    Shared<P>: AsBytes + FromBytes,
{
    entries: SharedArray<P>,
    writeback: Writeback,
    log2: u32,
    doorbell: usize,
    put: u64,
    /// See [`Regs::epoch`].
    epoch: u32,
}

impl<P: Packet> Ring<P>
where
    Shared<P>: AsBytes + FromBytes,
{
    /// Makes a ring of `1 << log2` entries whose PUT is stored in `doorbell`.
    pub(crate) fn new(dev: &Device<Bound>, log2: u32, doorbell: usize) -> Result<Self> {
        Ok(Self {
            // Whole pages, since the device wants the base aligned to 4 KiB.
            entries: SharedArray::new(dev, (1 << log2).max(4096 / size_of::<P>()))?,
            writeback: Writeback::new(dev)?,
            log2,
            doorbell,
            put: 0,
            epoch: 0,
        })
    }

    /// Empties the ring of a device that was reset, which has forgotten it, for use in `epoch`.
    pub(crate) fn restart(&mut self, regs: &Regs, epoch: u32) -> Result {
        self.put = 0;
        self.epoch = epoch;
        self.writeback.clear();
        // It may have been rung after the reset.
        regs.write64(self.doorbell, 0)
    }

    /// The epoch that the ring is in use in.
    pub(crate) fn epoch(&self) -> u32 {
        self.epoch
    }

    /// Packets that were put in and, of these, those that the device has taken out.
    pub(crate) fn progress(&self) -> (u64, u64) {
        (self.put, self.writeback.index())
    }

    /// Tells the device where the ring is, by the block of registers at `block`.
    pub(crate) fn program(&self, regs: &Regs, block: usize) -> Result {
        regs.write64(block + hw::RING_BASE, self.base())?;
        regs.write64(block + hw::RING_WRITEBACK, self.writeback.dma_address())?;
        regs.write32(block + hw::RING_LOG2, self.log2)
    }

    /// Address of the entries.
    pub(crate) fn base(&self) -> u64 {
        self.entries.dma_address(0)
    }

    /// The device's part.
    pub(crate) fn writeback(&self) -> &Writeback {
        &self.writeback
    }

    /// log2 of the number of entries.
    pub(crate) fn log2(&self) -> u32 {
        self.log2
    }

    /// Packets that fit now. A GET that makes no sense counts as a full ring.
    pub(crate) fn room(&self) -> usize {
        let used = self.put.wrapping_sub(self.writeback.index());
        (1usize << self.log2).saturating_sub(usize::try_from(used).unwrap_or(usize::MAX))
    }

    /// Puts a packet in the next entry and returns its index.
    ///
    /// The caller knows that there is room. Where that is from [`Self::room`], nobody else has put
    /// a packet in since. It is not asked again here, since the device may say otherwise then.
    ///
    /// The device does not see the packet before [`Self::submit`].
    pub(crate) fn put(&mut self, packet: P) -> u64 {
        let index = self.put;

        self.entries
            .write((index & ((1 << self.log2) - 1)) as usize, packet);
        self.put += 1;
        index
    }

    /// Shows the device all packets so far; `EIO` if it has forgotten the ring.
    pub(crate) fn submit(&self, regs: &Regs) -> Result {
        regs.doorbell(self.epoch, self.doorbell, self.put)
    }
}

/// A ring that the device writes.
pub(crate) struct InRing<E: Copy + Default + Send + 'static>
where
    Shared<E>: AsBytes + FromBytes,
{
    entries: SharedArray<E>,
    writeback: Writeback,
    log2: u32,
    doorbell: usize,
    get: u64,
}

impl<E: Copy + Default + Send + 'static> InRing<E>
where
    Shared<E>: AsBytes + FromBytes,
{
    /// Makes a ring of `1 << log2` entries whose GET is stored in `doorbell`.
    pub(crate) fn new(dev: &Device<Bound>, log2: u32, doorbell: usize) -> Result<Self> {
        Ok(Self {
            entries: SharedArray::new(dev, (1 << log2).max(4096 / size_of::<E>()))?,
            writeback: Writeback::new(dev)?,
            log2,
            doorbell,
            get: 0,
        })
    }

    /// Tells the device where the ring is, by the block of registers at `block`.
    pub(crate) fn program(&self, regs: &Regs, block: usize) -> Result {
        regs.write64(block + hw::RING_BASE, self.entries.dma_address(0))?;
        regs.write64(block + hw::RING_WRITEBACK, self.writeback.dma_address())?;
        regs.write32(block + hw::RING_LOG2, self.log2)
    }

    /// Entries that found no room, so far. It may be anything.
    pub(crate) fn overflow(&self) -> u64 {
        self.writeback.overflow()
    }

    /// Moves up to `max` entries to `out` and gives their room back to the device.
    ///
    /// The entries are what the device wrote and must not be trusted.
    ///
    /// Errors: `EIO` if its PUT makes no sense, so that nobody knows what is new, or if it was
    /// given up; `ENODEV` after unbind.
    pub(crate) fn drain(&mut self, regs: &Regs, max: usize, out: &mut KVec<E>) -> Result<usize> {
        let size = 1u64 << self.log2;
        let new = self.writeback.index().wrapping_sub(self.get);
        if new > size {
            return Err(EIO);
        }
        let new = new.min(max as u64);

        for _ in 0..new {
            out.push(
                self.entries.read((self.get & (size - 1)) as usize),
                GFP_KERNEL,
            )?;
            self.get += 1;
        }
        if new > 0 {
            // The entries are read before the device may write them again.
            regs.doorbell(0, self.doorbell, self.get)?;
        }
        Ok(new as usize)
    }
}

/// Fence slots for packets of which many may be waited for, in any order.
#[pin_data]
pub(crate) struct FencePool {
    slots: SharedArray<hw::Fence>,
    #[pin]
    free: SpinLock<KVec<u16>>,
    next: AtomicU64,
}

/// A fence that the device will write, or has written.
///
/// INVARIANT: Its slot is not in the pool's list of free slots.
#[must_use]
pub(crate) struct Ticket {
    slot: u16,
    value: u64,
}

impl FencePool {
    const SLOTS: u16 = 1024;

    /// Allocates the slots. May sleep.
    pub(crate) fn new(dev: &Device<Bound>) -> Result<impl PinInit<Self>> {
        let slots = SharedArray::new(dev, Self::SLOTS.into())?;
        let mut free = KVec::with_capacity(Self::SLOTS.into(), GFP_KERNEL)?;

        for slot in (0..Self::SLOTS).rev() {
            free.push(slot, GFP_KERNEL)?;
        }
        Ok(pin_init!(Self {
            slots,
            free <- new_spinlock!(free, "tern::FencePool"),
            next: AtomicU64::new(1),
        }))
    }

    /// Takes a slot; `None` while all are in use.
    pub(crate) fn take(&self) -> Option<Ticket> {
        let slot = self.free.lock().pop()?;

        Some(self.ticket(slot))
    }

    /// Takes `n` slots for `tickets`, which has room for them, where `left` are left; false, and
    /// none, if there are not as many.
    pub(crate) fn take_all(&self, n: usize, left: usize, tickets: &mut KVec<Ticket>) -> bool {
        let mut free = self.free.lock();

        if free.len() < n + left {
            return false;
        }
        for _ in 0..n {
            if let Some(slot) = free.pop() {
                let _ = tickets.push_within_capacity(self.ticket(slot));
            }
        }
        true
    }

    /// Makes `ticket` that of a new fence in its slot. The device must be done with the slot.
    pub(crate) fn renew(&self, ticket: &mut Ticket) {
        *ticket = self.ticket(ticket.slot);
    }

    fn ticket(&self, slot: u16) -> Ticket {
        let value = self.next.fetch_add(1, Ordering::Relaxed);

        self.slots.clear(slot.into());
        Ticket { slot, value }
    }

    /// Makes `packet` write the ticket's fence.
    pub(crate) fn attach(&self, ticket: &Ticket, packet: &mut impl Packet, irq: bool) {
        packet.set_fence(
            self.slots.dma_address(ticket.slot.into()),
            ticket.value,
            irq,
        );
    }

    /// The fence if the device has written it.
    pub(crate) fn reached(&self, ticket: &Ticket) -> Option<hw::Fence> {
        self.slots.reached(ticket.slot.into(), ticket.value)
    }

    /// Gives the slot back. The device must be done with it.
    pub(crate) fn give_back(&self, ticket: Ticket) {
        // The capacity is there since `new`, so this does not allocate.
        let _ = self.free.lock().push_within_capacity(ticket.slot);
    }
}

/// Fences of a ring whose packets complete one after another, a slot for each entry.
pub(crate) struct RingFences(SharedArray<hw::Fence>);

impl RingFences {
    /// Allocates `len` slots, a power of two. May sleep.
    pub(crate) fn new(dev: &Device<Bound>, len: usize) -> Result<Self> {
        Ok(Self(SharedArray::new(dev, len)?))
    }

    fn slot(&self, index: u64) -> usize {
        (index & (self.0.len as u64 - 1)) as usize
    }

    /// Makes the packet with this index in its ring write its fence.
    pub(crate) fn attach(&self, index: u64, packet: &mut impl Packet) {
        // With the fence before, the device may have written this one already.
        self.0.clear(self.slot(index));
        packet.set_fence(self.0.dma_address(self.slot(index)), index + 1, true);
    }

    /// The fence of the packet with this index, if the device has written it.
    pub(crate) fn reached(&self, index: u64) -> Option<hw::Fence> {
        self.0.reached(self.slot(index), index + 1)
    }
}
