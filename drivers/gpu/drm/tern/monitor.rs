// SPDX-License-Identifier: GPL-2.0

//! What is seen of a device from outside: counters of the whole, and trace events.

use core::ops::Range;

use kernel::{
    device::Device,
    mm::{
        notifier::Event,
        pagemap::{
            FaultError,
            Level,
            VmFault, //
        },
    },
    prelude::*,
    str::CString, //
};

use crate::{
    hw,
    stats::{
        Counter,
        Moved,
        Sizes,
        Stats, //
    },
    trace,
};

/// Where the pages of a migration were collected.
pub(crate) enum Where {
    /// In this range of addresses.
    Addresses(Range<usize>),
    /// In this range of device memory, in bytes, to evict them.
    Vram(Range<usize>),
}

/// One migration, of which something was copied or was to be.
pub(crate) struct Migration {
    pub(crate) range: Where,
    pub(crate) to_device: bool,
    pub(crate) sizes: Sizes,
    /// Bytes that were copied.
    pub(crate) bytes: u64,
    /// Nanoseconds of waiting for the copy and of putting the pages in place.
    pub(crate) ns: u64,
}

/// The view from outside.
pub(crate) struct Monitor {
    /// Name of the device.
    name: CString,
    /// The counters of all address spaces, those that are gone included; without times and
    /// resident memory.
    pub(crate) stats: Stats,
    pub(crate) evicted: Moved,
    /// Folios of the system that migrations wanted and did not get.
    pub(crate) lacking: Moved,
    pub(crate) invalidations: Counter,
}

impl Monitor {
    /// May sleep.
    pub(crate) fn new(dev: &Device) -> Result<Self> {
        Ok(Self {
            name: CString::try_from(dev.name())?,
            stats: Stats::default(),
            evicted: Moved::default(),
            lacking: Moved::default(),
            invalidations: Counter::default(),
        })
    }

    /// The device reported a fault that will be served.
    pub(crate) fn fault(&self, fault: &hw::FaultEntry) {
        let (dev, f) = (self.name.as_char_ptr(), fault);

        // SAFETY: `dev` is a C string.
        unsafe { trace::tern_fault(dev, f.asid, f.queue, f.addr, f.access) };
    }

    /// A fault cannot be served.
    pub(crate) fn cancel(&self, fault: &hw::FaultEntry) {
        let (dev, f) = (self.name.as_char_ptr(), fault);

        // SAFETY: `dev` is a C string.
        unsafe { trace::tern_cancel(dev, f.asid, f.queue, f.addr, f.access) };
    }

    /// `faults` faults in the block at `start` were served.
    pub(crate) fn block(&self, asid: u32, start: usize, faults: usize, result: Result) {
        let (dev, ret) = (self.name.as_char_ptr(), to_errno(result));

        // SAFETY: `dev` is a C string.
        unsafe { trace::tern_block(dev, asid, start as u64, faults as u32, ret) };
    }

    /// A fault of the CPU was served.
    pub(crate) fn cpu_fault(&self, fault: &VmFault, result: &Result<(), FaultError>) {
        let dev = self.name.as_char_ptr();
        let huge = matches!(fault.level(), Level::Pmd);
        let ret = match result {
            Ok(()) => 0,
            Err(FaultError::Oom) => ENOMEM.to_errno(),
            Err(FaultError::Sigbus) => EIO.to_errno(),
        };

        self.stats.cpu_faults.add(1);
        // SAFETY: `dev` is a C string.
        unsafe { trace::tern_cpu_fault(dev, fault.address() as u64, huge, ret) };
    }

    /// The CPU's page tables change; `mapped`: the device had something of that range.
    pub(crate) fn invalidation(&self, asid: u32, event: &Event<'_>, mapped: bool) {
        let (dev, range, kind) = (self.name.as_char_ptr(), event.range(), event.kind() as u32);
        let (start, end) = (range.start as u64, range.end as u64);

        self.invalidations.add(1);
        // SAFETY: `dev` is a C string.
        unsafe { trace::tern_invalidate(dev, asid, start, end, kind, mapped) };
    }

    /// The system had no folio of `order` for a migration, which goes on with smaller ones, if any.
    pub(crate) fn lacks(&self, order: u32) {
        let mut sizes = Sizes::default();

        sizes.count(order);
        self.lacking.add(&sizes);
    }

    /// A migration has ended.
    pub(crate) fn migration(&self, m: &Migration, result: Result) {
        let (dev, ret, s) = (self.name.as_char_ptr(), to_errno(result), m.sizes);
        let (Where::Addresses(range) | Where::Vram(range)) = &m.range;
        let event = match m.range {
            Where::Addresses(_) => trace::tern_migrate,
            Where::Vram(_) => trace::tern_evict,
        };

        self.stats.moved(m.to_device, &s, m.bytes);
        if let Where::Vram(_) = m.range {
            self.evicted.add(&s);
        }
        // SAFETY: `dev` is a C string.
        unsafe {
            event(
                dev,
                range.start as u64,
                range.end as u64,
                m.to_device,
                s.huge,
                s.mid,
                s.small,
                m.bytes,
                m.ns,
                ret,
            )
        }
    }
}

fn to_errno(result: Result) -> i32 {
    result.map_or_else(Error::to_errno, |()| 0)
}
