// SPDX-License-Identifier: MIT OR Apache-2.0

//! System calls: ioctl on a file, and mappings that unmap themselves.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::{self, NonNull};

use crate::uapi::Request;

/// Calls `ioctl()` with `argument`, again when a signal interrupts it.
///
/// # Safety
///
/// Every address in `argument` that the kernel reads or writes by `request` must be valid for
/// that, and what it writes or starts must not break what Rust assumes of memory.
pub(crate) unsafe fn ioctl<T>(
    fd: BorrowedFd<'_>,
    request: &Request<T>,
    argument: &mut T,
) -> io::Result<()> {
    loop {
        // SAFETY: the request carries the size of `T`, so the kernel stays within `argument`;
        // the rest is promised by the caller.
        let status = unsafe {
            libc::ioctl(
                fd.as_raw_fd(),
                request.number() as _,
                ptr::from_mut(argument),
            )
        };
        if status >= 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

/// Bytes of a page of the CPU.
pub(crate) fn page_size() -> usize {
    // SAFETY: sysconf has no preconditions.
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    usize::try_from(size).unwrap_or(4096)
}

/// Private anonymous memory of whole pages, unmapped on drop.
#[derive(Debug)]
pub(crate) struct Mapping {
    address: NonNull<u8>,
    length: usize,
}

// SAFETY: the mapping belongs to the process, not to a thread, and this type hands out its memory
// only through `&mut self` or as a plain address.
unsafe impl Send for Mapping {}
// SAFETY: as above; `&self` gives nothing but numbers.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `length` bytes, zero, for reading and writing. `length` must not be 0.
    pub(crate) fn new(length: usize) -> io::Result<Self> {
        // SAFETY: a new anonymous mapping at an address of the kernel's choice touches no
        // existing memory.
        let address = unsafe {
            libc::mmap(
                ptr::null_mut(),
                length,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let address = NonNull::new(address.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { address, length })
    }

    /// First address.
    pub(crate) fn address(&self) -> usize {
        self.address.as_ptr() as usize
    }

    /// The bytes, before [`Self::protect`] is used.
    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: the pages are mapped for reading and writing and are zero at first;
        // `&mut self` makes the slice the only way to them.
        unsafe { std::slice::from_raw_parts_mut(self.address.as_ptr(), self.length) }
    }

    /// Sets the protection (`PROT_*`) of whole pages, and gives up writing through this type.
    ///
    /// Each range is first byte and length, multiples of the page size, within the mapping.
    pub(crate) fn protect(self, ranges: &[(usize, usize, i32)]) -> io::Result<Self> {
        for &(offset, length, protection) in ranges {
            debug_assert!(offset + length <= self.length);
            // SAFETY: the range is within this mapping, and no slice into it is left, since
            // `self` is taken by value.
            let status = unsafe {
                libc::mprotect(self.address.as_ptr().add(offset).cast(), length, protection)
            };
            if status != 0 {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(self)
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours and nothing borrows from it any more. It can fail only for
        // arguments that mmap would not have returned.
        unsafe { libc::munmap(self.address.as_ptr().cast(), self.length) };
    }
}
