// SPDX-License-Identifier: GPL-2.0

//! The device as a whole: what its engines, address spaces and queues share.

use kernel::{
    device::{
        Bound,
        Device, //
    },
    mm::MmWithUser,
    new_mutex, pci,
    prelude::*,
    sync::{
        aref::ARef,
        Arc,
        Mutex, //
    },
};

use crate::{
    compute::Queue,
    control::Control,
    copy::CopyEngines,
    hw,
    memory::{
        DeviceMemory,
        Memory, //
    },
    regs::Regs,
    ring::{
        InRing,
        SharedArray, //
    },
    stats::Stats,
    svm::{
        migrate,
        Vm, //
    },
};

/// What the device told of itself at probe.
pub(crate) struct Info {
    pub(crate) version: u32,
    pub(crate) vram_size: u64,
    pub(crate) aperture_size: u64,
    pub(crate) resident_threads: u32,
}

impl Info {
    fn read(regs: &Regs) -> Result<Self> {
        Ok(Self {
            version: regs.read32(hw::REG_VERSION)?,
            vram_size: regs.read64(hw::REG_VRAM_SIZE)?,
            aperture_size: regs.read64(hw::REG_APERTURE_SIZE)?,
            resident_threads: regs.read32(hw::REG_RESIDENT_THREADS)?,
        })
    }
}

/// Objects by number, each number given to one at a time.
struct Slots<T>(KVec<Option<Arc<T>>>);

impl<T> Slots<T> {
    fn new(len: usize) -> Result<Self> {
        let mut slots = KVec::with_capacity(len, GFP_KERNEL)?;
        for _ in 0..len {
            slots.push(None, GFP_KERNEL)?;
        }
        Ok(Self(slots))
    }

    fn free_slot(&self) -> Result<usize> {
        self.0.iter().position(Option::is_none).ok_or(ENOSPC)
    }

    fn get(&self, i: u32) -> Option<Arc<T>> {
        self.0.get(i as usize)?.clone()
    }
}

/// One device.
#[pin_data]
pub(crate) struct Gpu {
    dev: ARef<Device>,
    pub(crate) regs: Arc<Regs>,
    pub(crate) info: Info,
    pub(crate) control: Arc<Control>,
    pub(crate) memory: Arc<DeviceMemory>,
    space_table: SharedArray<hw::AddressSpace>,
    #[pin]
    spaces: Mutex<Slots<Vm>>,
    queue_table: SharedArray<hw::QueueContext>,
    #[pin]
    queues: Mutex<Slots<Queue>>,
}

impl Gpu {
    /// log2 of the number of address spaces.
    const SPACES_LOG2: u32 = 12;
    /// log2 of the number of queues.
    const QUEUES_LOG2: u32 = 8;
    /// log2 of the entries of the fault ring.
    const FAULTS_LOG2: u32 = 12;

    /// Resets the device, sets up its rings and tables and lets it run. May sleep.
    ///
    /// Returns its fault ring too, for the one who serves faults.
    pub(crate) fn new(pdev: &pci::Device<Bound>) -> Result<(Arc<Self>, InRing<hw::FaultEntry>)> {
        let dev: &Device<Bound> = pdev.as_ref();
        let regs = Arc::new(Regs::new(pdev)?, GFP_KERNEL)?;

        regs.reset(dev)?;
        let info = Info::read(&regs)?;
        let control = Arc::pin_init(Control::new(dev, regs.clone())?, GFP_KERNEL)?;
        let copies = Arc::pin_init(CopyEngines::new(dev, regs.clone())?, GFP_KERNEL)?;
        let memory = Memory::new(dev, copies, info.vram_size)?;

        let space_table = SharedArray::new(dev, 1 << Self::SPACES_LOG2)?;
        regs.write64(hw::REG_AS_BASE, space_table.dma_address(0))?;
        regs.write32(hw::REG_AS_LOG2, Self::SPACES_LOG2)?;
        let queue_table = SharedArray::new(dev, 1 << Self::QUEUES_LOG2)?;
        regs.write64(hw::REG_QUEUE_BASE, queue_table.dma_address(0))?;
        regs.write32(hw::REG_QUEUE_LOG2, Self::QUEUES_LOG2)?;

        let faults = InRing::new(dev, Self::FAULTS_LOG2, hw::DOORBELL_FAULT)?;
        faults.program(&regs, hw::REG_FAULT_RING)?;
        regs.write32(hw::REG_CONTROL, hw::CONTROL_ENABLE)?;

        let spaces = Slots::new(1 << Self::SPACES_LOG2)?;
        let queues = Slots::new(1 << Self::QUEUES_LOG2)?;
        let gpu = Arc::pin_init(
            try_pin_init!(Self {
                dev: dev.into(),
                regs,
                info,
                control,
                memory,
                space_table,
                spaces <- new_mutex!(spaces, "tern::Gpu::spaces"),
                queue_table,
                queues <- new_mutex!(queues, "tern::Gpu::queues"),
            }? Error),
            GFP_KERNEL,
        )?;
        Ok((gpu, faults))
    }

    /// Makes an address space over `mm`; `ENOSPC` when the device has none left. May sleep.
    pub(crate) fn create_space(&self, dev: &Device<Bound>, mm: &MmWithUser) -> Result<Arc<Vm>> {
        let mut spaces = self.spaces.lock();
        let slot = spaces.free_slot()?;
        let vm = Vm::new(dev, self.control.clone(), slot as u32, mm)?;
        let entry = hw::AddressSpace {
            root: vm.root_entry(),
            ..Default::default()
        };

        self.space_table.write(slot, entry);
        spaces.0[slot] = Some(vm.clone());
        Ok(vm)
    }

    /// Takes an address space, of which no queue is left, from the device. May sleep.
    pub(crate) fn destroy_space(&self, vm: &Vm) {
        let slot = vm.notifier.asid() as usize;

        self.space_table.write(slot, hw::AddressSpace::default());
        vm.shut_down();
        // Dropped after the lock, since the end of a notifier waits for invalidations.
        let _vm = self.spaces.lock().0[slot].take();
    }

    /// The address space with this number, if there is one.
    pub(crate) fn space(&self, asid: u32) -> Option<Arc<Vm>> {
        self.spaces.lock().get(asid)
    }

    /// Makes and starts a queue; `ENOSPC` when the device has none left. May sleep.
    pub(crate) fn create_queue(
        &self,
        dev: &Device<Bound>,
        vm: Arc<Vm>,
        entries: u32,
    ) -> Result<Arc<Queue>> {
        let mut queues = self.queues.lock();
        let slot = queues.free_slot()?;
        let queue = Queue::new(dev, self.regs.clone(), slot as u32, vm, entries)?;

        self.queue_table.write(slot, queue.context());
        self.control.start_queue(slot as u32)?;
        queues.0[slot] = Some(queue.clone());
        Ok(queue)
    }

    /// Stops a queue and ends what it holds. May sleep.
    pub(crate) fn destroy_queue(&self, queue: &Queue) {
        if let Err(e) = self.control.stop_queue(queue.id()) {
            dev_err!(self.dev, "queue {} does not stop: {:?}\n", queue.id(), e);
        }
        queue.stop();
        let _queue = self.queues.lock().0[queue.id() as usize].take();
    }

    /// Looks for dispatches that ended; called by the interrupt thread.
    pub(crate) fn complete_dispatches(&self) {
        for queue in self.queues.lock().0.iter().flatten() {
            queue.complete();
        }
    }

    /// Logs what the device reports; called by the interrupt thread.
    pub(crate) fn report_errors(&self) -> Result {
        let errors = self.regs.read32(hw::REG_ERROR)?;

        if errors != 0 {
            let info = self.regs.read64(hw::REG_ERROR_INFO)?;

            self.regs.write32(hw::REG_ERROR, errors)?;
            dev_err!(
                self.dev,
                "device reports errors {:#x}, {:#x}\n",
                errors,
                info
            );
        }
        Ok(())
    }

    /// Ends all use of the device, and brings back all memory from it.
    ///
    /// For unbind: no ioctl runs any more, the copy interrupt still does. May sleep.
    pub(crate) fn shut_down(&self, dev: &Device<Bound>) {
        for i in 0..1 << Self::QUEUES_LOG2 {
            let queue = self.queues.lock().get(i);
            if let Some(queue) = queue {
                self.destroy_queue(&queue);
            }
        }
        for i in 0..1 << Self::SPACES_LOG2 {
            if let Some(vm) = self.space(i) {
                self.destroy_space(&vm);
            }
        }

        match migrate::evict(&self.memory, 0..self.memory.vram.pages(), &Stats::default()) {
            Ok(0) => (),
            Ok(left) => dev_err!(dev, "{} pages of device memory are still in use\n", left),
            Err(e) => dev_err!(dev, "device memory does not come back: {:?}\n", e),
        }
        // Also when the device is gone: then there is nothing to reset.
        let _ = self.regs.reset(dev);
    }
}
