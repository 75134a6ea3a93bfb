// SPDX-License-Identifier: GPL-2.0

//! The device as a whole: what its engines, address spaces and queues share.

use core::mem::{
    forget,
    replace, //
};

use kernel::{
    device::{
        Bound,
        Device, //
    },
    mm::MmWithUser,
    new_mutex, new_work, pci,
    prelude::*,
    sync::{
        aref::ARef,
        Arc,
        Mutex, //
    },
    workqueue::{
        impl_has_work,
        OwnedQueue,
        Work,
        WorkItem, //
    },
};

use crate::{
    compute::{
        Outcome,
        Queue, //
    },
    control::Control,
    copy::CopyEngines,
    driver::TernDevice,
    hw,
    memory::{
        DeviceMemory,
        Memory, //
    },
    regs::Regs,
    ring::SharedArray,
    svm::{
        fault::FaultRing,
        migrate,
        Extent,
        Vm, //
    },
};

/// What the device told of itself at probe.
pub(crate) struct Info {
    pub(crate) version: u32,
    pub(crate) vram_size: u64,
    pub(crate) aperture_size: u64,
    /// Where the CPU finds it.
    aperture_start: u64,
    pub(crate) resident_threads: u32,
}

impl Info {
    fn read(pdev: &pci::Device<Bound>, regs: &Regs) -> Result<Self> {
        Ok(Self {
            version: regs.read32(hw::REG_VERSION)?,
            vram_size: regs.read64(hw::REG_VRAM_SIZE)?,
            // What the BAR does not reach would be somebody else's.
            aperture_size: regs
                .read64(hw::REG_APERTURE_SIZE)?
                .min(pdev.resource_len(hw::BAR_VRAM)?),
            aperture_start: pdev.resource_start(hw::BAR_VRAM)?,
            resident_threads: regs.read32(hw::REG_RESIDENT_THREADS)?,
        })
    }
}

/// What a number stands for.
enum Slot<T> {
    Free,
    /// An object that is being made; see [`Reserved`].
    Reserved,
    Used(Arc<T>),
}

impl<T> Slot<T> {
    fn object(&self) -> Option<&Arc<T>> {
        match self {
            Self::Used(object) => Some(object),
            _ => None,
        }
    }
}

/// Objects by number, each number given to one at a time.
struct Slots<T> {
    slots: KVec<Slot<T>>,
    /// Where to look first for a free one. A number is given again as late as possible, since the
    /// device may still have reported faults by it.
    next: usize,
}

impl<T> Slots<T> {
    fn new(len: usize) -> Result<Self> {
        let mut slots = KVec::with_capacity(len, GFP_KERNEL)?;
        for _ in 0..len {
            slots.push(Slot::Free, GFP_KERNEL)?;
        }
        Ok(Self { slots, next: 0 })
    }

    fn get(&self, i: u32) -> Option<&Arc<T>> {
        self.slots.get(i as usize)?.object()
    }

    fn objects(&self) -> impl Iterator<Item = &Arc<T>> {
        self.slots.iter().filter_map(Slot::object)
    }

    /// Frees a number; returns what it stood for.
    fn take(&mut self, i: usize) -> Option<Arc<T>> {
        match replace(&mut self.slots[i], Slot::Free) {
            Slot::Used(object) => Some(object),
            _ => None,
        }
    }
}

/// A number for an object that is being made, without a lock: to make it takes as long as it takes.
///
/// INVARIANT: Its slot is [`Slot::Reserved`].
struct Reserved<'a, T> {
    slots: &'a Mutex<Slots<T>>,
    number: usize,
}

impl<'a, T> Reserved<'a, T> {
    /// Takes a free number; `ENOSPC` if there is none.
    fn new(slots: &'a Mutex<Slots<T>>) -> Result<Self> {
        let mut guard = slots.lock();
        let len = guard.slots.len();
        let number = (guard.next..guard.next + len)
            .map(|i| i % len)
            .find(|&i| matches!(guard.slots[i], Slot::Free))
            .ok_or(ENOSPC)?;

        guard.next = number + 1;
        guard.slots[number] = Slot::Reserved;
        // INVARIANT: By the line before. Nobody else changes it, as nobody has the number.
        Ok(Self { slots, number })
    }

    /// Lets the number stand for `object`.
    fn publish(self, object: Arc<T>) {
        self.slots.lock().slots[self.number] = Slot::Used(object);
        // It is not to be freed.
        forget(self);
    }
}

impl<T> Drop for Reserved<'_, T> {
    fn drop(&mut self) {
        self.slots.lock().slots[self.number] = Slot::Free;
    }
}

/// The address spaces of a device, by number.
#[pin_data]
pub(crate) struct Spaces {
    #[pin]
    slots: Mutex<Slots<Vm>>,
}

impl Spaces {
    /// Calls `f`, which must not allocate memory, with the address space of this number, which
    /// does not go meanwhile. False if there is none.
    pub(crate) fn with(&self, asid: u32, f: impl FnOnce(&Arc<Vm>)) -> bool {
        self.slots.lock().get(asid).map(f).is_some()
    }
}

/// The queues of a device, by number.
#[pin_data]
struct Queues {
    #[pin]
    slots: Mutex<Slots<Queue>>,
}

impl Queues {
    /// No memory is allocated while the lock is held, since fences are signalled under it.
    fn for_each(&self, f: impl Fn(&Arc<Queue>)) {
        self.slots.lock().objects().for_each(f);
    }
}

/// What happens when the device is given up: all queues end, and all copies. Then its memory can
/// be brought back.
#[pin_data]
struct EndQueues {
    dev: ARef<Device>,
    queues: Arc<Queues>,
    memory: Arc<DeviceMemory>,
    #[pin]
    work: Work<EndQueues>,
}

impl_has_work! {
    impl HasWork<Self> for EndQueues { self.work }
}

impl WorkItem for EndQueues {
    type Pointer = Arc<Self>;

    fn run(this: Arc<Self>) {
        dev_err!(
            this.dev,
            "device lost: it did not answer in time, or wrongly\n"
        );
        this.memory.vram.stop();
        this.queues.for_each(|queue| queue.end(Outcome::LOST));
        // Those who wait for copies look again.
        this.memory.copies.interrupt();
        if let Err(e) = this.memory.copies.restart(&this.dev) {
            dev_err!(this.dev, "device lost for good: {:?}\n", e);
        }
    }
}

/// Lets the end of all queues follow the loss of the device.
pub(crate) struct Loss {
    work: Arc<OwnedQueue>,
    end_queues: Arc<EndQueues>,
}

impl Loss {
    /// The device was given up. Can be called in any context.
    pub(crate) fn happened(&self) {
        // If it is queued already, that is enough.
        let _ = self.work.enqueue(self.end_queues.clone());
    }
}

/// One device.
#[pin_data]
pub(crate) struct Gpu {
    pub(crate) regs: Arc<Regs>,
    pub(crate) info: Info,
    pub(crate) control: Arc<Control>,
    pub(crate) memory: Arc<DeviceMemory>,
    /// Starts dispatches, and ends them when the device is lost. Nothing that it runs waits for
    /// memory.
    pub(crate) work: Arc<OwnedQueue>,
    pub(crate) faults: Arc<FaultRing>,
    /// Held while queues are made, for which nobody waits for a process.
    #[pin]
    setup: Mutex<()>,
    space_table: SharedArray<hw::AddressSpace>,
    spaces: Arc<Spaces>,
    queue_table: SharedArray<hw::QueueContext>,
    queues: Arc<Queues>,
}

impl Gpu {
    /// log2 of the number of address spaces.
    const SPACES_LOG2: u32 = 12;
    /// log2 of the number of queues.
    const QUEUES_LOG2: u32 = 8;
    /// Number of queues.
    pub(crate) const QUEUES: usize = 1 << Self::QUEUES_LOG2;

    /// Sets up the rings and tables of a device that was reset. May sleep.
    pub(crate) fn new(pdev: &pci::Device<Bound>, regs: Arc<Regs>) -> Result<Arc<Self>> {
        let dev: &Device<Bound> = pdev.as_ref();
        let info = Info::read(pdev, &regs)?;
        let control = Arc::pin_init(Control::new(dev, regs.clone())?, GFP_KERNEL)?;
        let copies = Arc::pin_init(CopyEngines::new(dev, regs.clone())?, GFP_KERNEL)?;
        let memory = Memory::new(dev, copies, info.vram_size)?;

        let space_table = SharedArray::new(dev, 1 << Self::SPACES_LOG2)?;
        regs.write64(hw::REG_AS_BASE, space_table.dma_address(0))?;
        regs.write32(hw::REG_AS_LOG2, Self::SPACES_LOG2)?;
        let queue_table = SharedArray::new(dev, 1 << Self::QUEUES_LOG2)?;
        regs.write64(hw::REG_QUEUE_BASE, queue_table.dma_address(0))?;
        regs.write32(hw::REG_QUEUE_LOG2, Self::QUEUES_LOG2)?;

        let slots = Slots::new(1 << Self::SPACES_LOG2)?;
        let spaces = Arc::pin_init(
            pin_init!(Spaces {
                slots <- new_mutex!(slots, "tern::Spaces"),
            }),
            GFP_KERNEL,
        )?;
        let faults = FaultRing::new(dev, regs.clone(), control.clone(), spaces.clone())?;
        let faults = Arc::pin_init(faults, GFP_KERNEL)?;

        let slots = Slots::new(1 << Self::QUEUES_LOG2)?;
        let work = Arc::new(OwnedQueue::new(c"tern")?, GFP_KERNEL)?;
        let queues = Arc::pin_init(
            pin_init!(Queues {
                slots <- new_mutex!(slots, "tern::Queues"),
            }),
            GFP_KERNEL,
        )?;
        let (to_end, in_memory) = (queues.clone(), memory.clone());
        let end_queues = Arc::pin_init(
            pin_init!(EndQueues {
                dev: dev.into(),
                queues: to_end,
                memory: in_memory,
                work <- new_work!("tern::EndQueues"),
            }),
            GFP_KERNEL,
        )?;
        let loss = Loss {
            work: work.clone(),
            end_queues,
        };
        let gpu = Arc::pin_init(
            try_pin_init!(Self {
                regs,
                info,
                control,
                memory,
                work,
                faults,
                setup <- new_mutex!((), "tern::Gpu::setup"),
                space_table,
                spaces,
                queue_table,
                queues,
            }? Error),
            GFP_KERNEL,
        )?;
        // Until `shut_down`, since it leads back to the registers.
        *gpu.regs.on_loss.lock() = Some(loss);
        Ok(gpu)
    }

    /// Pages of VRAM that the CPU reaches, from the first on.
    pub(crate) fn aperture_pages(&self) -> usize {
        (self.info.aperture_size >> 12) as usize
    }

    /// The frame by which the CPU reaches the first page of VRAM.
    pub(crate) fn aperture_pfn(&self) -> usize {
        (self.info.aperture_start >> 12) as usize
    }

    /// Lets the device run.
    pub(crate) fn enable(&self) -> Result {
        self.regs.write32(hw::REG_CONTROL, hw::CONTROL_ENABLE)
    }

    /// Makes an address space over `mm`, with which `extent` moves along; `ENOSPC` when the device
    /// has none left. May sleep.
    pub(crate) fn create_space(
        &self,
        dev: &Device<Bound>,
        drm: ARef<TernDevice>,
        mm: &MmWithUser,
        extent: Extent,
    ) -> Result<Arc<Vm>> {
        // To make one waits for the process's mmap lock.
        let reserved = Reserved::new(&self.spaces.slots)?;
        let slot = reserved.number;
        let (memory, control) = (self.memory.clone(), self.control.clone());
        let vm = Vm::new(dev, drm, memory, control, slot as u32, mm, extent)?;
        let entry = hw::AddressSpace {
            root: vm.root_entry(),
            ..Default::default()
        };

        self.space_table.write(slot, entry);
        reserved.publish(vm.clone());
        Ok(vm)
    }

    /// Takes an address space, of which no queue is left, from the device. May sleep.
    ///
    /// Does not wait for the service of its faults, which may wait for the process that is about
    /// to end here; that service finds nothing to do any more.
    pub(crate) fn destroy_space(&self, vm: &Vm) {
        let slot = vm.notifier.asid() as usize;

        self.space_table.write(slot, hw::AddressSpace::default());
        vm.shut_down();
        // Dropped after the lock, since the end of a notifier waits for invalidations.
        let _vm = {
            let mut slots = self.spaces.slots.lock();
            let vm = slots.take(slot);

            // Before the number is free: unbind waits for what has been queued.
            if let Some(vm) = &vm {
                self.faults.end(vm.clone());
            }
            vm
        };
    }

    /// Makes and starts a queue; `ENOSPC` when the device has none left. May sleep.
    pub(crate) fn create_queue(
        &self,
        dev: &Device<Bound>,
        vm: Arc<Vm>,
        entries: u32,
    ) -> Result<Arc<Queue>> {
        let _setup = self.setup.lock();
        let reserved = Reserved::new(&self.queues.slots)?;
        let slot = reserved.number;

        vm.prepare_faults()?;
        let queue = Queue::new(dev, self, slot as u32, vm, entries)?;
        self.queue_table.write(slot, queue.context());
        queue.vm.add_queue(slot as u32);
        self.control
            .start_queue(slot as u32)
            .inspect_err(|_| queue.vm.remove_queue(slot as u32))?;
        reserved.publish(queue.clone());
        Ok(queue)
    }

    /// Stops a queue and ends what it holds. May sleep.
    pub(crate) fn destroy_queue(&self, queue: &Queue) {
        // Where this fails there is no device any more.
        let _ = self.control.stop_queue(queue.id());
        queue.stop();
        queue.vm.remove_queue(queue.id());
        let _queue = self.queues.slots.lock().take(queue.id() as usize);
    }

    /// Calls `f` for each address space. They neither come nor go meanwhile.
    pub(crate) fn for_each_space(&self, f: impl FnMut(&Arc<Vm>)) {
        self.spaces.slots.lock().objects().for_each(f);
    }

    /// Calls `f`, which must not allocate memory, for each queue. They neither come nor go
    /// meanwhile.
    pub(crate) fn for_each_queue(&self, f: impl Fn(&Arc<Queue>)) {
        self.queues.for_each(f);
    }

    /// Looks for dispatches that ended; called by the interrupt thread.
    pub(crate) fn complete_dispatches(&self) {
        self.queues.for_each(|queue| queue.complete());
    }

    /// Logs what the device reports; called by the interrupt thread.
    pub(crate) fn report_errors(&self, dev: &Device<Bound>) -> Result {
        let errors = self.regs.read32(hw::REG_ERROR)?;

        if errors != 0 {
            let info = self.regs.read64(hw::REG_ERROR_INFO)?;

            self.regs.write32(hw::REG_ERROR, errors)?;
            dev_err!(dev, "device reports errors {:#x}, {:#x}\n", errors, info);
        }
        Ok(())
    }

    /// Ends all use of the device, and brings back all memory from it.
    ///
    /// For unbind: no ioctl runs any more, nor any interrupt thread but that for copies. May sleep.
    pub(crate) fn shut_down(&self, dev: &Device<Bound>) {
        for i in 0..1 << Self::QUEUES_LOG2 {
            let queue = self.queues.slots.lock().get(i).cloned();
            if let Some(queue) = queue {
                self.destroy_queue(&queue);
            }
        }
        for i in 0..1 << Self::SPACES_LOG2 {
            let vm = self.spaces.slots.lock().get(i).cloned();
            if let Some(vm) = vm {
                self.destroy_space(&vm);
            }
        }
        // Also for those that were destroyed before. Nobody is left who could queue more.
        self.faults.flush();

        let left = migrate::evict(&self.memory);
        if left > 0 {
            dev_err!(dev, "{} pages of device memory are still in use\n", left);
        }
        Memory::close(&self.memory);
        // Nobody waits for copies any more. What follows a loss would start the engines again.
        let loss = self.regs.on_loss.lock().take();
        self.work.flush();
        drop(loss);
        // Also when the device is gone: then there is nothing to reset.
        let _ = self.regs.reset(dev);
        self.regs.close();
    }
}
