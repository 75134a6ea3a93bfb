// SPDX-License-Identifier: GPL-2.0

//! Shared virtual memory: address spaces that follow the memory of a process.

pub(crate) mod block;
pub(crate) mod fault;
pub(crate) mod migrate;

use core::ops::Range;

use kernel::{
    device::{
        Bound,
        Device, //
    },
    mm::{
        notifier::{
            Event,
            IntervalNotifier,
            IntervalNotifierOps,
            WouldBlock, //
        },
        Mm,
        MmWithUser,
        MmWithUserAsync, //
    },
    new_mutex, new_work,
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
    workqueue::{
        impl_has_work,
        Work,
        WorkItem, //
    },
};

use crate::{
    control::Control,
    hw,
    memory::DeviceMemory,
    mmu::PageTable,
    stats::Stats,
    svm::fault::Faults, //
};

/// The device's view of an address space. It changes under the lock of `table`.
#[pin_data]
pub(crate) struct Space {
    control: Arc<Control>,
    asid: u32,
    #[pin]
    table: Mutex<PageTable>,
}

impl Space {
    /// What user space can map, without the page at the end that nobody can.
    const RANGE: Range<usize> = 0..1 << (hw::VA_BITS - 1);

    /// Number of the address space on the device.
    pub(crate) fn asid(&self) -> u32 {
        self.asid
    }

    /// Takes `range` away from the device, and waits until it uses it no more.
    fn zap(&self, table: &mut PageTable, range: &Range<usize>) {
        let range = range.start..range.end.min(Self::RANGE.end);

        if range.is_empty() {
            return;
        }
        let Some(stale) = table.clear(&range) else {
            return;
        };
        // Where this fails there is no device any more that could use anything.
        let _ = self
            .control
            .invalidate(self.asid, stale.start as u64, stale.end as u64 - 1);
        table.reap(&range);
    }
}

impl IntervalNotifierOps for Space {
    type Protected = PageTable;
    type Backend = MutexBackend;
    type Pending = ();

    fn lock(&self) -> &Lock<PageTable, MutexBackend> {
        &self.table
    }

    fn invalidate<'e>(
        &self,
        event: &Event<'e>,
        table: &mut PageTable,
    ) -> Result<Option<()>, WouldBlock<'e>> {
        self.zap(table, &event.range());
        Ok(None)
    }

    fn finish(&self, _pending: ()) {}
}

/// An address space over the memory of a process.
#[pin_data]
pub(crate) struct Vm {
    mm: ARef<Mm>,
    memory: Arc<DeviceMemory>,
    /// Counters.
    pub(crate) stats: Arc<Stats>,
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
    /// Makes an address space over the memory of `process`. May sleep; the mmap lock must not be
    /// held.
    pub(crate) fn new(
        dev: &Device<Bound>,
        memory: Arc<DeviceMemory>,
        control: Arc<Control>,
        asid: u32,
        process: &MmWithUser,
    ) -> Result<Arc<Self>> {
        let table = PageTable::new(dev)?;
        let stats = Arc::new(Stats::default(), GFP_KERNEL)?;
        let space = try_pin_init!(Space {
            control,
            asid,
            table <- new_mutex!(table, "tern::Space::table"),
        });

        Arc::pin_init(
            try_pin_init!(Self {
                mm: ARef::from(&**process),
                memory,
                stats,
                faults <- Faults::new(),
                serve <- new_work!("tern::Vm::serve"),
                notifier <- IntervalNotifier::new(process, Space::RANGE, space),
            }),
            GFP_KERNEL,
        )
    }

    /// The memory, unless its process is gone.
    ///
    /// That the last reference may be this one must not make a fault wait for the end of all
    /// memory of the process.
    fn mm(&self) -> Option<ARef<MmWithUserAsync>> {
        self.mm.mmget_not_zero().map(MmWithUser::into_mmput_async)
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
