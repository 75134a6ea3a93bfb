// SPDX-License-Identifier: GPL-2.0

//! Shared virtual memory: address spaces that follow the memory of a process.

pub(crate) mod block;
pub(crate) mod exclusive;
pub(crate) mod fault;
pub(crate) mod migrate;
pub(crate) mod prefetch;
mod stream;

use core::{
    ops::Range,
    sync::atomic::{
        AtomicBool,
        Ordering, //
    },
};

use kernel::{
    alloc::AllocError,
    device::{
        Bound,
        Device, //
    },
    mm::{
        notifier::{
            Event,
            EventKind,
            IntervalNotifier,
            IntervalNotifierOps,
            WouldBlock, //
        },
        pagemap::Owner,
        virt::VmaRef,
        Mm,
        MmWithUser,
        MmWithUserAsync, //
    },
    new_mutex, new_work,
    page::PAGE_SIZE,
    prelude::*,
    sync::{
        aref::ARef,
        lock::{
            mutex::MutexBackend,
            Lock, //
        },
        Arc,
        Mutex, //
    },
    task::Pid,
    workqueue::{
        impl_has_work,
        Work,
        WorkItem, //
    },
};

use crate::{
    control::Control,
    driver::TernDevice,
    gem::TernObject,
    hw,
    memory::DeviceMemory,
    mmu::{
        MapError,
        PageTable,
        Reserve,
        BLOCK_PAGES, //
    },
    monitor::Monitor,
    stats::Stats,
    svm::{
        fault::Faults,
        stream::Streams, //
    },
};

/// The device's view of an address space. It changes under the lock of `table`.
#[pin_data]
pub(crate) struct Space {
    control: Arc<Control>,
    monitor: Arc<Monitor>,
    asid: u32,
    /// Who causes what the device need not be told of.
    owner: Owner,
    #[pin]
    table: Mutex<PageTable>,
}

impl Space {
    /// What user space can map, without the page at the end that nobody can.
    pub(crate) const RANGE: Range<usize> = 0..1 << (hw::VA_BITS - 1);

    /// Number of the address space on the device.
    pub(crate) fn asid(&self) -> u32 {
        self.asid
    }

    /// Takes `range` away from the device, and waits until it uses it no more. False if it had
    /// nothing of it.
    fn zap(&self, table: &mut PageTable, range: &Range<usize>) -> bool {
        let range = range.start..range.end.min(Self::RANGE.end);

        !range.is_empty() && self.unmap(table, &range)
    }

    /// The same for any addresses.
    fn unmap(&self, table: &mut PageTable, range: &Range<usize>) -> bool {
        let Some(stale) = table.clear(range) else {
            return false;
        };
        // Where this fails there is no device any more that could use anything.
        let _ = self
            .control
            .invalidate(self.asid, stale.start as u64, stale.end as u64 - 1);
        table.reap(range);
        true
    }
}

impl IntervalNotifierOps for Space {
    type Protected = PageTable;
    type Backend = MutexBackend;
    type Pending = ();

    fn lock(&self) -> &Lock<PageTable, MutexBackend> {
        &self.table
    }

    /// Where the driver takes a page from the CPU, the device goes on to reach it.
    fn ignores(&self, event: &Event<'_>) -> bool {
        event.kind() == EventKind::Exclusive && event.is_from(self.owner)
    }

    fn invalidate<'e>(
        &self,
        event: &Event<'e>,
        table: &mut PageTable,
    ) -> Result<Option<()>, WouldBlock<'e>> {
        let mapped = self.zap(table, &event.range());

        self.monitor.invalidation(self.asid, event, mapped);
        Ok(None)
    }

    fn finish(&self, _pending: ()) {}
}

/// What moves along with memory that is wanted on the other side.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Extent {
    /// The rest of large folios, the neighbours of single pages, and what the CPU is about to read.
    Around,
    /// Nothing: large folios are split. Only a huge page that the CPU touches comes back whole.
    Exact,
}

/// What a folio of device memory keeps of the address space that moved it there, and nothing else,
/// since folios may outlive the process.
pub(crate) struct Origin {
    /// Counters.
    pub(crate) stats: Stats,
    /// What moves along with its memory.
    extent: Extent,
    /// In what order the CPU reads the folios.
    streams: Streams,
    /// The next folio that a migration wants is not to be had; see [`Origin::inject_failure`].
    fail_next: AtomicBool,
}

impl Origin {
    fn new(extent: Extent) -> Self {
        Self {
            stats: Stats::default(),
            extent,
            streams: Streams::default(),
            fail_next: AtomicBool::new(false),
        }
    }

    /// Lets the next allocation of a migration fail, or not, in whichever direction and of
    /// whichever size; for tests.
    pub(crate) fn inject_failure(&self, fail: bool) {
        self.fail_next.store(fail, Ordering::Relaxed);
    }

    /// Fails once for each [`Self::inject_failure`].
    pub(crate) fn fail_injected(&self) -> Result<(), AllocError> {
        match cfg!(CONFIG_DRM_TERN_DMIRROR) && self.fail_next.swap(false, Ordering::Relaxed) {
            true => Err(AllocError),
            false => Ok(()),
        }
    }

    /// Whether large folios that are mapped by PTEs move whole.
    fn moves_large(&self) -> bool {
        self.extent == Extent::Around && migrate::moves_large()
    }
}

/// An address space over the memory of a process.
#[pin_data]
pub(crate) struct Vm {
    /// The device whose buffers it can reach. Its end waits for that of the address space.
    drm: ARef<TernDevice>,
    mm: ARef<Mm>,
    /// The process that made it.
    pub(crate) owner: Pid,
    memory: Arc<DeviceMemory>,
    /// What its folios on the device keep of it.
    pub(crate) origin: Arc<Origin>,
    /// Its faults.
    #[pin]
    faults: Faults,
    #[pin]
    serve: Work<Vm>,
    /// What the device sees of it.
    #[pin]
    pub(crate) notifier: IntervalNotifier<Space>,
}

impl_has_work! {
    impl HasWork<Self> for Vm { self.serve }
}

/// Serves its faults.
impl WorkItem for Vm {
    type Pointer = Arc<Self>;

    fn run(this: Arc<Self>) {
        this.serve_faults();
    }
}

impl Vm {
    /// Makes an address space over the memory of `process`, with which `extent` moves along. May
    /// sleep; the mmap lock must not be held.
    pub(crate) fn new(
        dev: &Device<Bound>,
        drm: ARef<TernDevice>,
        memory: Arc<DeviceMemory>,
        control: Arc<Control>,
        asid: u32,
        process: &MmWithUser,
        extent: Extent,
    ) -> Result<Arc<Self>> {
        let table = PageTable::new(dev)?;
        let origin = Arc::new(Origin::new(extent), GFP_KERNEL)?;
        let monitor = memory.monitor.clone();
        let owner = memory.owner();
        let space = try_pin_init!(Space {
            control,
            monitor,
            asid,
            owner,
            table <- new_mutex!(table, "tern::Space::table"),
        });

        Arc::pin_init(
            try_pin_init!(Self {
                drm,
                mm: ARef::from(&**process),
                owner: current!().tgid(),
                memory,
                origin,
                faults <- Faults::new(),
                serve <- new_work!("tern::Vm::serve"),
                notifier <- IntervalNotifier::new(process, Space::RANGE, space),
            }),
            GFP_KERNEL,
        )
    }

    /// Counts, here and for the device as a whole.
    fn count(&self, add: impl Fn(&Stats)) {
        add(&self.origin.stats);
        add(&self.memory.monitor.stats);
    }

    /// The memory, unless its process is gone.
    ///
    /// That the last reference may be this one must not make a fault wait for the end of all
    /// memory of the process.
    pub(crate) fn mm(&self) -> Option<ARef<MmWithUserAsync>> {
        self.mm.mmget_not_zero().map(MmWithUser::into_mmput_async)
    }

    /// The buffer that `vma` maps, and the number of its first page there.
    fn buffer<'a>(&self, vma: &'a VmaRef) -> Option<(&'a TernObject, usize)> {
        TernObject::mapped_by(&self.drm, vma)
    }

    /// Fails with `EPERM` unless the caller's memory is that of this address space.
    ///
    /// A file can be handed to another process, which must not reach this one's memory by it.
    pub(crate) fn check_owner(&self) -> Result {
        match current!().mm() {
            Some(mm) if mm.as_raw() == self.mm.as_raw() => Ok(()),
            _ => Err(EPERM),
        }
    }

    /// Lets the device read and write `pages` pages of the driver's own memory at the DMA address
    /// `addr` from address `start` on, within a block beyond [`Space::RANGE`]. May sleep.
    ///
    /// The memory must stay until [`Self::unmap_own`], or until the address space is shut down.
    pub(crate) fn map_own(&self, start: usize, pages: usize, addr: u64) -> Result {
        let dev = self.memory.dev();
        let mut reserve = Reserve::new()?;
        let first = start / PAGE_SIZE % BLOCK_PAGES;

        loop {
            let mut table = self.notifier.table.lock();

            match table.map_own(start, first..first + pages, addr, &mut reserve) {
                Ok(()) => return Ok(()),
                Err(MapError::Failed(e)) => return Err(e),
                Err(MapError::Reserve) => drop(table),
            }
            reserve.fill(dev)?;
        }
    }

    /// Takes the driver's own memory in `range` away from the device. May sleep.
    pub(crate) fn unmap_own(&self, range: Range<usize>) {
        self.notifier.unmap(&mut self.notifier.table.lock(), &range);
    }

    /// The root of its page table, for the device's table of address spaces.
    pub(crate) fn root_entry(&self) -> u64 {
        self.notifier.table.lock().root_entry()
    }

    /// Takes everything away from the device, for good.
    ///
    /// No queue may use the address space any more, and its entry in the device's table must
    /// have been cleared.
    pub(crate) fn shut_down(&self) {
        let mut table = self.notifier.table.lock();

        table.clear(&Space::RANGE);
        // The device may have cached the root even if nothing was mapped. Where this fails there
        // is no device any more.
        let _ = self
            .notifier
            .control
            .invalidate(self.notifier.asid, 0, u64::MAX);
        table.destroy();
    }
}
