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
        MmWithUser, //
    },
    new_mutex,
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
};

use crate::{
    control::Control,
    hw,
    mmu::PageTable,
    stats::Stats, //
};

/// The device's view of an address space. It changes under the lock of `table`.
#[pin_data]
pub(crate) struct Space {
    dev: ARef<Device>,
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

        if range.is_empty() || !table.clear(&range) {
            return;
        }
        let whole = PageTable::whole(&range);
        if let Err(e) = self
            .control
            .invalidate(self.asid, whole.start as u64, whole.end as u64 - 1)
        {
            dev_err!(
                self.dev,
                "address space {}: no invalidation: {:?}\n",
                self.asid,
                e
            );
        }
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

    fn invalidate(
        &self,
        event: &Event<'_>,
        table: &mut PageTable,
    ) -> Result<Option<()>, WouldBlock> {
        self.zap(table, &event.range());
        Ok(None)
    }

    fn finish(&self, _pending: ()) {}
}

/// An address space over the memory of a process.
#[pin_data]
pub(crate) struct Vm {
    mm: ARef<Mm>,
    /// Counters.
    pub(crate) stats: Arc<Stats>,
    /// What the device sees of it.
    #[pin]
    pub(crate) notifier: IntervalNotifier<Space>,
}

impl Vm {
    /// Makes an address space over the memory of `process`. May sleep; the mmap lock must not be
    /// held.
    pub(crate) fn new(
        dev: &Device<Bound>,
        control: Arc<Control>,
        asid: u32,
        process: &MmWithUser,
    ) -> Result<Arc<Self>> {
        let table = PageTable::new(dev)?;
        let stats = Arc::new(Stats::default(), GFP_KERNEL)?;
        let space = try_pin_init!(Space {
            dev: dev.into(),
            control,
            asid,
            table <- new_mutex!(table, "tern::Space::table"),
        });

        Arc::pin_init(
            try_pin_init!(Self {
                mm: ARef::from(&**process),
                stats,
                notifier <- IntervalNotifier::new(process, Space::RANGE, space),
            }),
            GFP_KERNEL,
        )
    }

    /// The memory, unless its process is gone.
    pub(crate) fn mm(&self) -> Option<ARef<MmWithUser>> {
        self.mm.mmget_not_zero()
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
        // The device may have cached the root even if nothing was mapped.
        if let Err(e) = self
            .notifier
            .control
            .invalidate(self.notifier.asid, 0, u64::MAX)
        {
            dev_err!(self.notifier.dev, "no invalidation: {:?}\n", e);
        }
        table.destroy();
    }
}
