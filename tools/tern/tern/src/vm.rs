// SPDX-License-Identifier: MIT OR Apache-2.0

//! Address spaces: the memory of the process as the device sees it.

use std::io;
use std::ops::{Add, Sub};
use std::sync::Arc;

use crate::device::{Device, DeviceFile};
use crate::error::Error;
use crate::queue::{Queue, QueueOptions};
use crate::sys::page_size;
use crate::uapi;

/// Where memory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Location {
    /// System memory.
    System,
    /// Device memory.
    Device,
}

impl From<Location> for u32 {
    fn from(location: Location) -> Self {
        match location {
            Location::System => uapi::LOCATION_SYSTEM,
            Location::Device => uapi::LOCATION_DEVICE,
        }
    }
}

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

    /// Moves the pages that `memory` lies in before they are used, so that their first use takes no
    /// fault. They are there when this returns; later accesses may move them again.
    ///
    /// It is a hint, and changes no contents: what cannot be there stays where it is, such as
    /// files, and all that device memory has no room for. Pages of anonymous memory that were never
    /// used are made on the device. Needs no queue.
    ///
    /// ```no_run
    /// # fn main() -> Result<(), tern::Error> {
    /// use tern::Location;
    ///
    /// let vm = tern::Device::open()?.create_vm()?;
    /// let values = vec![1u64; 1 << 20];
    /// vm.prefetch(&values[..], Location::Device)?;
    /// // ... launch a kernel that works on them, and wait for it ...
    /// vm.prefetch(&values[..], Location::System)?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::NotMapped`] where the process has no memory in a part of the range; what comes
    /// before it has moved. [`Error::DeviceLost`], [`Error::System`].
    pub fn prefetch<T>(&self, memory: *const [T], to: Location) -> Result<(), Error> {
        let size = memory.len().saturating_mul(size_of::<T>());
        let (address, size) = pages(memory.cast::<u8>() as usize, size);
        if size == 0 {
            return Ok(());
        }
        let mut prefetch = uapi::Prefetch {
            vm: self.inner.handle,
            address,
            size,
            location: to.into(),
            ..Default::default()
        };
        // SAFETY: the range is no memory that the kernel writes to: pages move and keep their
        // contents. A signal interrupts the call; what is left is in the argument then.
        unsafe { self.inner.file.ioctl(&uapi::PREFETCH, &mut prefetch) }
            .map_err(|source| prefetch_error(source, prefetch.address))
    }

    pub(crate) fn inner(&self) -> &Arc<VmInner> {
        &self.inner
    }
}

/// Address and size of the pages that `size` bytes at `address` lie in.
fn pages(address: usize, size: usize) -> (u64, u64) {
    let page = page_size();
    let start = address / page * page;
    let end = match size {
        0 => start,
        _ => address
            .saturating_add(size)
            .div_ceil(page)
            .saturating_mul(page),
    };
    (start as u64, (end - start) as u64)
}

/// A prefetch that came as far as `address` failed.
fn prefetch_error(source: io::Error, address: u64) -> Error {
    match source.raw_os_error() {
        Some(libc::EFAULT) => Error::NotMapped { address },
        Some(libc::EIO | libc::ENODEV) => Error::DeviceLost,
        _ => Error::System {
            call: "DRM_IOCTL_TERN_PREFETCH",
            source,
        },
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
        /// The difference of two, `later - earlier`, is what happened between them; the sum is
        /// what happened in two address spaces.
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

        impl Add for Stats {
            type Output = Self;

            fn add(self, other: Self) -> Self {
                Self { $($name: self.$name.saturating_add(other.$name),)+ }
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
        assert_eq!((earlier + earlier).faults, 6);
    }

    #[test]
    fn memory_lies_in_whole_pages() {
        let page = page_size() as u64;
        assert_eq!(pages(0x1_0000, 0), (0x1_0000, 0));
        assert_eq!(pages(0x1_0001, 0), (0x1_0000, 0));
        assert_eq!(pages(0x1_0000, 1), (0x1_0000, page));
        assert_eq!(pages(0x1_0001, page_size()), (0x1_0000, 2 * page));
        let (start, size) = pages(usize::MAX - 10, usize::MAX);
        assert!(start % page == 0 && start.checked_add(size).is_some());
    }

    #[test]
    fn memory_that_is_not_there_is_told_apart() {
        let of = |errno| prefetch_error(io::Error::from_raw_os_error(errno), 0x1000);
        assert!(matches!(
            of(libc::EFAULT),
            Error::NotMapped { address: 0x1000 }
        ));
        assert!(matches!(of(libc::EIO), Error::DeviceLost));
        assert!(matches!(of(libc::EINVAL), Error::System { .. }));
    }
}
