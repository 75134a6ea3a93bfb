// SPDX-License-Identifier: MIT OR Apache-2.0

//! Address spaces: the memory of the process as the device sees it.

use std::ops::Sub;
use std::sync::Arc;

use crate::device::{Device, DeviceFile};
use crate::error::Error;
use crate::queue::{Queue, QueueOptions};
use crate::uapi;

/// An address space of the device over the memory of the process that made it.
///
/// Every pointer of the process is valid on the device while this lives. Cheap to clone;
/// destroyed when the last clone and the last queue in it are dropped.
#[derive(Clone, Debug)]
pub struct Vm {
    inner: Arc<VmInner>,
}

impl Vm {
    /// Makes an address space over the memory of the calling process.
    ///
    /// # Errors
    ///
    /// [`Error::Exhausted`] where the device has none left, [`Error::DeviceLost`],
    /// [`Error::System`].
    pub fn new(device: &Device) -> Result<Self, Error> {
        let resident_threads = device.info()?.resident_threads;
        let mut create = uapi::VmCreate::default();
        let file = Arc::clone(device.file());
        // SAFETY: the argument has no addresses. The device touches no memory until something is
        // launched.
        unsafe { file.ioctl(&uapi::VM_CREATE, &mut create) }
            .map_err(Error::create("DRM_IOCTL_TERN_VM_CREATE", "address space"))?;
        Ok(Self {
            inner: Arc::new(VmInner {
                file,
                handle: create.handle,
                resident_threads,
            }),
        })
    }

    /// Makes a queue in it, with default options.
    ///
    /// # Errors
    ///
    /// As [`Vm::create_queue_with`].
    pub fn create_queue(&self) -> Result<Queue, Error> {
        self.create_queue_with(QueueOptions::default())
    }

    /// Makes a queue in it.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfRange`] for options that no queue can have, [`Error::Exhausted`] where the
    /// device has no queue left, [`Error::DeviceLost`], [`Error::System`].
    pub fn create_queue_with(&self, options: QueueOptions) -> Result<Queue, Error> {
        Queue::new(self, options)
    }

    /// What happened in it since it was made.
    ///
    /// # Errors
    ///
    /// [`Error::System`] where the call fails.
    pub fn stats(&self) -> Result<Stats, Error> {
        let mut stats = uapi::Stats {
            vm: self.inner.handle,
            ..Default::default()
        };
        // SAFETY: the argument has no addresses.
        unsafe { self.inner.file.ioctl(&uapi::STATS, &mut stats) }
            .map_err(Error::system("DRM_IOCTL_TERN_STATS"))?;
        Ok(Stats::from(&stats))
    }

    pub(crate) fn inner(&self) -> &Arc<VmInner> {
        &self.inner
    }
}

#[derive(Debug)]
pub(crate) struct VmInner {
    pub(crate) file: Arc<DeviceFile>,
    pub(crate) handle: u32,
    /// Threads of a dispatch that run at a time, each with a stack.
    pub(crate) resident_threads: u32,
}

impl Drop for VmInner {
    fn drop(&mut self) {
        let mut handle = uapi::Handle {
            handle: self.handle,
            flags: 0,
        };
        // SAFETY: the argument has no addresses. Queues hold a reference, so none is left.
        unsafe { self.file.destroy(&uapi::VM_DESTROY, &mut handle) };
    }
}

macro_rules! stats {
    ($($(#[$doc:meta])+ $name:ident,)+) => {
        /// Counters of an address space, since it was made. Times are in nanoseconds.
        ///
        /// The difference of two, `later - earlier`, is what happened between them.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        #[non_exhaustive]
        pub struct Stats {
            $($(#[$doc])+ pub $name: u64,)+
        }

        impl From<&uapi::Stats> for Stats {
            fn from(stats: &uapi::Stats) -> Self {
                Self { $($name: stats.$name,)+ }
            }
        }

        impl Sub for Stats {
            type Output = Self;

            /// What happened between two points. A counter that is smaller than it was, as
            /// [`Stats::resident_bytes`] can be, gives 0.
            fn sub(self, earlier: Self) -> Self {
                Self { $($name: self.$name.saturating_sub(earlier.$name),)+ }
            }
        }
    };
}

stats! {
    /// Faults of the device.
    faults,
    /// Blocks of 2 MiB served, after faults were merged.
    blocks,
    /// Faults that could not be served.
    cancels,
    /// CPU faults on device memory.
    cpu_faults,
    /// Folios of 2 MiB moved whole to the device.
    to_device_huge,
    /// Folios between 4 KiB and 2 MiB moved whole to the device.
    to_device_mid,
    /// Single pages moved to the device.
    to_device_small,
    /// Folios of 2 MiB moved whole to system memory.
    to_system_huge,
    /// Folios between 4 KiB and 2 MiB moved whole to system memory.
    to_system_mid,
    /// Single pages moved to system memory.
    to_system_small,
    /// Pages of 4 KiB that were mapped where they are.
    mapped_pages,
    /// Bytes copied to the device.
    bytes_to_device,
    /// Bytes copied to system memory.
    bytes_to_system,
    /// Time to collect and unmap.
    collect_ns,
    /// Time to copy.
    copy_ns,
    /// Time to install the pages and the device's page table.
    install_ns,
    /// Bytes of device memory in use by this address space, now.
    resident_bytes,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_difference_is_per_counter() {
        let earlier = Stats {
            faults: 3,
            resident_bytes: 10,
            ..Default::default()
        };
        let later = Stats {
            faults: 8,
            resident_bytes: 4,
            copy_ns: 7,
            ..Default::default()
        };
        let expected = Stats {
            faults: 5,
            copy_ns: 7,
            ..Default::default()
        };
        assert_eq!(later - earlier, expected);
    }
}
