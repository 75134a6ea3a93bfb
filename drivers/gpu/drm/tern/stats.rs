// SPDX-License-Identifier: GPL-2.0

//! Counters of an address space, and of a whole device.
//!
//! Those of an address space outlive it, see [`Origin`](crate::svm::Origin).

use core::sync::atomic::{
    AtomicU64,
    Ordering, //
};

use kernel::{
    mm::folio::PMD_ORDER,
    time::{
        Instant,
        Monotonic, //
    },
    uapi,
};

/// A counter.
#[derive(Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    pub(crate) fn sub(&self, n: u64) {
        self.0.fetch_sub(n, Ordering::Relaxed);
    }

    /// Adds the nanoseconds since `start`, and returns them.
    pub(crate) fn add_since(&self, start: Instant<Monotonic>) -> u64 {
        let ns = start.elapsed().as_nanos().try_into().unwrap_or(0);

        self.add(ns);
        ns
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Folios that moved in one direction, or could not, by size.
#[derive(Default)]
pub(crate) struct Moved {
    huge: Counter,
    mid: Counter,
    small: Counter,
}

impl Moved {
    /// Huge pages, other large folios, single pages.
    pub(crate) fn counts(&self) -> [u64; 3] {
        [self.huge.get(), self.mid.get(), self.small.get()]
    }

    /// Counts those of one migration.
    pub(crate) fn add(&self, sizes: &Sizes) {
        self.huge.add(sizes.huge.into());
        self.mid.add(sizes.mid.into());
        self.small.add(sizes.small.into());
    }
}

/// Folios of one migration, by size.
#[derive(Clone, Copy, Default)]
pub(crate) struct Sizes {
    pub(crate) huge: u32,
    pub(crate) mid: u32,
    pub(crate) small: u32,
}

impl Sizes {
    /// Counts one folio.
    pub(crate) fn count(&mut self, order: u32) {
        match order {
            0 => self.small += 1,
            PMD_ORDER => self.huge += 1,
            _ => self.mid += 1,
        }
    }
}

/// See `struct drm_tern_stats` for what each means.
#[derive(Default)]
pub(crate) struct Stats {
    pub(crate) faults: Counter,
    pub(crate) blocks: Counter,
    pub(crate) cancels: Counter,
    pub(crate) cpu_faults: Counter,
    pub(crate) to_device: Moved,
    pub(crate) to_system: Moved,
    pub(crate) mapped_pages: Counter,
    pub(crate) bytes_to_device: Counter,
    pub(crate) bytes_to_system: Counter,
    pub(crate) collect_ns: Counter,
    pub(crate) copy_ns: Counter,
    pub(crate) install_ns: Counter,
    pub(crate) resident_bytes: Counter,
}

impl Stats {
    /// What is counted, with the names under which it is shown.
    pub(crate) fn counts(&self) -> [(&'static str, &Counter); 13] {
        [
            ("faults", &self.faults),
            ("blocks", &self.blocks),
            ("cancels", &self.cancels),
            ("cpu-faults", &self.cpu_faults),
            ("mapped-pages", &self.mapped_pages),
            ("to-device-2M", &self.to_device.huge),
            ("to-device-mthp", &self.to_device.mid),
            ("to-device-4K", &self.to_device.small),
            ("to-device-bytes", &self.bytes_to_device),
            ("to-system-2M", &self.to_system.huge),
            ("to-system-mthp", &self.to_system.mid),
            ("to-system-4K", &self.to_system.small),
            ("to-system-bytes", &self.bytes_to_system),
        ]
    }

    /// Times in nanoseconds, with the names under which they are shown.
    pub(crate) fn times(&self) -> [(&'static str, &Counter); 3] {
        [
            ("collect", &self.collect_ns),
            ("copy", &self.copy_ns),
            ("install", &self.install_ns),
        ]
    }

    /// Counts folios that moved, and the bytes of them that were copied.
    pub(crate) fn moved(&self, to_device: bool, sizes: &Sizes, bytes: u64) {
        let (folios, copied) = match to_device {
            true => (&self.to_device, &self.bytes_to_device),
            false => (&self.to_system, &self.bytes_to_system),
        };

        folios.add(sizes);
        copied.add(bytes);
    }

    /// Adds all that is in `other`.
    pub(crate) fn add(&self, other: &Self) {
        let sums = self.counts().into_iter().chain(self.times());
        let parts = other.counts().into_iter().chain(other.times());

        for ((_, sum), (_, part)) in sums.zip(parts) {
            sum.add(part.get());
        }
        self.resident_bytes.add(other.resident_bytes.get());
    }

    /// Copies all counters to the reply of an ioctl.
    pub(crate) fn report(&self, out: &mut uapi::drm_tern_stats) {
        out.faults = self.faults.get();
        out.blocks = self.blocks.get();
        out.cancels = self.cancels.get();
        out.cpu_faults = self.cpu_faults.get();
        out.to_device_huge = self.to_device.huge.get();
        out.to_device_mid = self.to_device.mid.get();
        out.to_device_small = self.to_device.small.get();
        out.to_system_huge = self.to_system.huge.get();
        out.to_system_mid = self.to_system.mid.get();
        out.to_system_small = self.to_system.small.get();
        out.mapped_pages = self.mapped_pages.get();
        out.bytes_to_device = self.bytes_to_device.get();
        out.bytes_to_system = self.bytes_to_system.get();
        out.collect_ns = self.collect_ns.get();
        out.copy_ns = self.copy_ns.get();
        out.install_ns = self.install_ns.get();
        out.resident_bytes = self.resident_bytes.get();
    }
}
