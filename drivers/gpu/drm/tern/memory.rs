// SPDX-License-Identifier: GPL-2.0

//! Device-private memory: VRAM as folios of the kernel.

use core::sync::atomic::{
    AtomicBool,
    Ordering, //
};

use kernel::{
    device::{
        Bound,
        Device, //
    },
    mm::{
        folio::{
            Folio,
            LockedFolio, //
        },
        pagemap::{
            DevicePagemap,
            DevicePagemapOps,
            FaultError,
            FreedFolio,
            VmFault, //
        },
    },
    new_spinlock,
    prelude::*,
    sync::{
        aref::ARef,
        Arc,
        ArcBorrow,
        Completion,
        SpinLock, //
    },
    workqueue::{
        self,
        impl_has_delayed_work,
        new_delayed_work,
        DelayedWork,
        WorkItem, //
    },
};

use crate::{
    copy::{
        CopyEngines,
        Place, //
    },
    monitor::Monitor,
    svm::{
        migrate,
        Origin, //
    },
    vram::Vram, //
};

/// VRAM as folios.
pub(crate) type DeviceMemory = DevicePagemap<Memory>;

/// What device memory needs to come and go without an address space.
#[pin_data]
pub(crate) struct Memory {
    dev: ARef<Device>,
    /// The engines that move it.
    pub(crate) copies: Arc<CopyEngines>,
    /// What is seen of it from outside.
    pub(crate) monitor: Arc<Monitor>,
    /// Its allocator.
    #[pin]
    pub(crate) vram: Vram,
    /// The device must not be used any more.
    closed: AtomicBool,
    leftover: Arc<Leftover>,
}

/// Device memory that outlives the device, since processes map what could not be brought back.
///
/// It ends with the last of its folios. To wait for that could be to wait for ever, where the one
/// who waits is a process that maps it.
#[pin_data]
struct Leftover {
    #[pin]
    state: SpinLock<LeftoverState>,
    /// Its memory is gone.
    #[pin]
    ended: Completion,
    /// Delayed only in name, as that is the kind of work that can be flushed.
    #[pin]
    end: DelayedWork<Leftover>,
}

struct LeftoverState {
    /// The memory, from when its device is gone until it is itself.
    memory: Option<Arc<DeviceMemory>>,
    /// The one behind it among [`LEFTOVERS`].
    next: Option<Arc<Leftover>>,
}

impl_has_delayed_work! {
    impl HasDelayedWork<Self> for Leftover { self.end }
}

impl WorkItem for Leftover {
    type Pointer = Arc<Self>;

    fn run(this: Arc<Self>) {
        let memory = this.state.lock().memory.take();

        if let Some(memory) = memory {
            drop(memory);
            this.ended.complete_all();
        }
    }
}

impl Leftover {
    fn new() -> Result<Arc<Self>> {
        let state = LeftoverState {
            memory: None,
            next: None,
        };

        Arc::pin_init(
            pin_init!(Self {
                state <- new_spinlock!(state, "tern::Leftover"),
                ended <- Completion::new(),
                end <- new_delayed_work!("tern::Leftover::end"),
            }),
            GFP_KERNEL,
        )
    }
}

kernel::sync::global_lock! {
    // SAFETY: `Leftovers::new()` initialises it before the module has a driver.
    /// The first of all that there have been: each leads to the next, so that nothing has to be
    /// allocated where a device goes.
    unsafe(uninit) static LEFTOVERS: Mutex<Option<Arc<Leftover>>> = None;
}

/// Keeps the driver's code, at the end of its module, for as long as folios are freed by it.
pub(crate) struct Leftovers(());

impl Leftovers {
    /// # Safety
    ///
    /// Must be called once, before the driver is registered.
    pub(crate) unsafe fn new() -> Self {
        // SAFETY: By the requirement on the caller.
        unsafe { LEFTOVERS.init() };
        Self(())
    }
}

impl Drop for Leftovers {
    fn drop(&mut self) {
        let mut first = LEFTOVERS.lock().take();

        while let Some(leftover) = first {
            leftover.ended.wait_for_completion();
            // The work item itself is code of the driver, too.
            leftover.end.flush();
            first = leftover.state.lock().next.take();
        }
    }
}

impl Memory {
    /// Makes folios of all VRAM. May sleep.
    pub(crate) fn new(
        dev: &Device<Bound>,
        copies: Arc<CopyEngines>,
        vram_size: u64,
    ) -> Result<Arc<DeviceMemory>> {
        let vram = Vram::new(vram_size)?;
        let monitor = Arc::new(Monitor::new(dev)?, GFP_KERNEL)?;
        let pages = usize::try_from(vram_size >> 12)? & !((1 << crate::vram::MAX_ORDER) - 1);
        let leftover = Leftover::new()?;
        let memory = try_pin_init!(Self {
            dev: dev.into(),
            copies,
            monitor,
            vram <- vram,
            closed: AtomicBool::new(false),
            leftover,
        });

        Arc::pin_init(DevicePagemap::new(dev, c"tern", pages, memory), GFP_KERNEL)
    }

    /// The device, for mappings that last no longer than a copy.
    pub(crate) fn dev(&self) -> &Device<Bound> {
        // SAFETY: It is used to serve faults of the GPU and by ioctls, both of which end before the
        // driver is unbound, by the eviction at unbind, and for faults of the CPU, which `close()`
        // waits for and then keeps away.
        unsafe { self.dev.as_bound() }
    }

    /// Ends all use of the device by faults of the CPU. What is still in device memory is lost to
    /// the processes that touch it.
    ///
    /// For unbind, when [`migrate::evict`] has brought back what it could. May sleep.
    pub(crate) fn close(memory: &Arc<DeviceMemory>) {
        memory.vram.stop();
        memory.closed.store(true, Ordering::Relaxed);
        if memory.vram.folio_pages() == 0 {
            return;
        }
        // The core holds the lock of the folio that the CPU touched until the fault is served. Who
        // has it before us is waited for, who gets it after us sees the flag.
        for offset in 0..memory.vram.pages() {
            if let Some(folio) = memory.try_get(offset) {
                drop(Folio::lock(folio));
            }
        }
        let next = LEFTOVERS.lock().replace(memory.leftover.clone());
        *memory.leftover.state.lock() = LeftoverState {
            memory: Some(memory.clone()),
            next,
        };
        memory.end_leftover();
    }

    /// Ends what is left once nobody uses it. Can be called in any context.
    fn end_leftover(&self) {
        // Who frees the last folio while `close` runs sees it closed, or is seen by it.
        if self.closed.load(Ordering::Relaxed) && self.vram.folio_pages() == 0 {
            // If it is queued already, that is enough.
            let _ = workqueue::system_unbound().enqueue(self.leftover.clone());
        }
    }
}

/// Allocates a folio of device memory for the address space of `origin`.
///
/// `None` if there is no block of that order, or nothing may move to the device any more.
pub(crate) fn alloc_folio(
    memory: &DeviceMemory,
    order: u32,
    origin: &Arc<Origin>,
) -> Option<LockedFolio> {
    origin.fail_injected().ok()?;
    let offset = memory.vram.alloc(order as usize)?;

    match memory.init_folio(offset, order, origin.clone()) {
        Ok(folio) => {
            origin.stats.resident_bytes.add(4096 << order);
            Some(folio)
        }
        Err(_) => {
            memory.vram.free(offset, order as usize);
            None
        }
    }
}

/// Where page `page` of a device folio is in VRAM.
pub(crate) fn place(memory: &DeviceMemory, folio: &Folio, page: usize) -> Option<Place> {
    let offset = memory.offset_of(folio)?;
    Some(Place::Vram(((offset + page) as u64) << 12))
}

impl DevicePagemapOps for Memory {
    type FolioData = Arc<Origin>;

    fn folio_free(&self, freed: FreedFolio<Self>) {
        freed.data.stats.resident_bytes.sub(4096 << freed.order);
        self.vram.free(freed.offset, freed.order as usize);
        self.end_leftover();
    }

    fn migrate_to_ram(pagemap: &DevicePagemap<Self>, fault: &VmFault) -> Result<(), FaultError> {
        let result = match pagemap.closed.load(Ordering::Relaxed) {
            true => Err(FaultError::Sigbus),
            false => migrate::to_system(pagemap, fault),
        };

        pagemap.monitor.cpu_fault(fault, &result);
        result
    }

    fn folio_split(&self, data: ArcBorrow<'_, Origin>, _new_offset: usize) -> Arc<Origin> {
        data.into()
    }
}
