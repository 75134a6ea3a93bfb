// SPDX-License-Identifier: MIT OR Apache-2.0

//! Memory that the device shares with the guest.
//!
//! The guest may change it at any time, so no Rust reference to it is ever made: everything goes
//! through [`Run`], which checks bounds and copies by raw pointer or by atomic access.

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::marker::PhantomData;
use std::mem::{size_of, MaybeUninit};
use std::os::fd::{AsRawFd, FromRawFd};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::hw;

/// Types that are plain integers without padding, valid for every bit pattern.
///
/// # Safety
///
/// The type must be just that.
pub unsafe trait Pod: Copy {}

macro_rules! pod {
    ($($name:ident),*) => {$(
        // SAFETY: `hw` declares every byte of its `repr(C)` layouts as an integer.
        unsafe impl Pod for hw::$name {}
    )*};
}

pod!(
    Writeback,
    Fence,
    CopyPacket,
    ControlPacket,
    DispatchPacket,
    QueueContext,
    AddressSpace,
    FaultEntry,
    AccessEntry
);

/// Makes an anonymous shared memory file of `len` bytes, all zero.
///
/// # Errors
///
/// Those of the system calls.
pub fn memfd(name: &CStr, len: u64) -> io::Result<File> {
    // SAFETY: the name is a valid C string.
    let fd = unsafe { libc::memfd_create(name.as_ptr(), libc::MFD_CLOEXEC) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new and nobody else's.
    let file = unsafe { File::from_raw_fd(fd) };
    file.set_len(len)?;
    Ok(file)
}

/// A shared mapping of a part of a file.
pub struct Mapping {
    ptr: *mut u8,
    len: usize,
    writable: bool,
}

// SAFETY: the mapping belongs to the value, and is accessed by raw pointer only.
unsafe impl Send for Mapping {}
// SAFETY: as for `Send`; races on the contents are those of the shared memory itself.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `len` bytes at `offset` of `file`.
    ///
    /// # Errors
    ///
    /// `InvalidInput` for a range that is empty or ends behind the file, which would be a bus error
    /// later; else the error of `mmap`.
    pub fn new(file: &File, offset: u64, len: u64, writable: bool) -> io::Result<Self> {
        let end = offset.checked_add(len);
        if len == 0 || end.is_none_or(|end| file.metadata().is_ok_and(|m| end > m.len())) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let prot = libc::PROT_READ | if writable { libc::PROT_WRITE } else { 0 };
        // SAFETY: a new mapping at an address that the kernel chooses disturbs nothing.
        let ptr = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len as usize,
                prot,
                libc::MAP_SHARED,
                file.as_raw_fd(),
                offset as libc::off_t,
            )
        };
        if ptr == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Self {
            ptr: ptr.cast(),
            len: len as usize,
            writable,
        })
    }

    /// Size in bytes.
    pub fn len(&self) -> u64 {
        self.len as u64
    }

    /// Whether it has no bytes, which no mapping has.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The run of at most `max` bytes at `offset`; `None` where there is not one byte, or where
    /// `write` is asked of a read-only mapping.
    pub fn run(&self, offset: u64, max: u64, write: bool) -> Option<Run<'_>> {
        if offset >= self.len() || max == 0 || (write && !self.writable) {
            return None;
        }
        Some(Run {
            ptr: self.ptr.wrapping_add(offset as usize),
            len: max.min(self.len() - offset) as usize,
            life: PhantomData,
        })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and a `Run` cannot outlive it.
        unsafe { libc::munmap(self.ptr.cast(), self.len) };
    }
}

/// Bytes of shared memory that are contiguous in the host, at least one.
#[derive(Clone, Copy)]
pub struct Run<'a> {
    ptr: *mut u8,
    len: usize,
    life: PhantomData<&'a Mapping>,
}

impl<'a> Run<'a> {
    /// Size in bytes.
    pub fn len(&self) -> u64 {
        self.len as u64
    }

    /// Whether it has no bytes, which no run has.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Address of the first byte.
    pub fn ptr(&self) -> *mut u8 {
        self.ptr
    }

    /// Copies `out.len()` bytes from its start.
    ///
    /// # Panics
    ///
    /// If it is shorter.
    pub fn read_bytes(&self, out: &mut [u8]) {
        assert!(out.len() <= self.len);
        // SAFETY: the source is mapped and long enough; `out` is ours, so they do not overlap.
        unsafe { std::ptr::copy_nonoverlapping(self.ptr, out.as_mut_ptr(), out.len()) };
    }

    /// Copies `data` to its start. It must come from a writable mapping.
    ///
    /// # Panics
    ///
    /// If it is shorter.
    pub fn write_bytes(&self, data: &[u8]) {
        assert!(data.len() <= self.len);
        // SAFETY: as for `read_bytes`, the other way round.
        unsafe { std::ptr::copy_nonoverlapping(data.as_ptr(), self.ptr, data.len()) };
    }

    /// Copies the first `len` bytes of `source` here. They may overlap.
    ///
    /// # Panics
    ///
    /// If one of the two is shorter.
    pub fn copy_from(&self, source: &Run<'_>, len: u64) {
        assert!(len <= self.len() && len <= source.len());
        // SAFETY: both are mapped and long enough. What the guest writes meanwhile can change the
        // bytes that are copied, and nothing else.
        unsafe { std::ptr::copy(source.ptr, self.ptr, len as usize) };
    }

    /// Fills the first `len` bytes with `pattern`, of which byte `phase % 8` comes first.
    ///
    /// # Panics
    ///
    /// If it is shorter.
    pub fn fill(&self, len: u64, pattern: u64, phase: u64) {
        let first = pattern.rotate_right(8 * (phase % 8) as u32).to_le_bytes();
        let (mut done, mut block) = (0, [0; 4096]);
        for part in block.chunks_exact_mut(8) {
            part.copy_from_slice(&first);
        }
        assert!(len <= self.len());
        while done < len {
            let part = (len - done).min(block.len() as u64);
            // SAFETY: `done + part` is at most `len`, and so within the run.
            unsafe {
                std::ptr::copy_nonoverlapping(
                    block.as_ptr(),
                    self.ptr.add(done as usize),
                    part as usize,
                );
            }
            done += part;
        }
    }

    /// Reads a layout at its start.
    ///
    /// # Panics
    ///
    /// If it is shorter.
    pub fn read<T: Pod>(&self) -> T {
        assert!(size_of::<T>() <= self.len);
        let mut value = MaybeUninit::<T>::uninit();
        // SAFETY: the source is mapped and long enough. All bit patterns are a valid `T`.
        unsafe {
            std::ptr::copy_nonoverlapping(self.ptr, value.as_mut_ptr().cast(), size_of::<T>());
            value.assume_init()
        }
    }

    /// Writes a layout at its start. It must come from a writable mapping.
    ///
    /// # Panics
    ///
    /// If it is shorter.
    pub fn write<T: Pod>(&self, value: &T) {
        assert!(size_of::<T>() <= self.len);
        let source: *const T = value;
        // SAFETY: the destination is mapped and long enough, and a `Pod` has no padding.
        unsafe { std::ptr::copy_nonoverlapping(source.cast(), self.ptr, size_of::<T>()) };
    }

    fn word(&self, offset: u64) -> &'a AtomicU64 {
        let ptr = self.ptr.wrapping_add(offset as usize);
        assert!(offset + 8 <= self.len() && ptr as usize % 8 == 0);
        // SAFETY: aligned, within the run, and mapped for `'a`; atomics may be shared.
        unsafe { AtomicU64::from_ptr(ptr.cast()) }
    }

    /// Loads the word at `offset`; reads after it see what was written before it was stored.
    ///
    /// # Panics
    ///
    /// If it is not within the run, or not aligned.
    pub fn load(&self, offset: u64) -> u64 {
        u64::from_le(self.word(offset).load(Ordering::Acquire))
    }

    /// Stores the word at `offset`, after everything that was written before.
    ///
    /// # Panics
    ///
    /// If it is not within the run, or not aligned.
    pub fn store(&self, offset: u64, value: u64) {
        self.word(offset).store(value.to_le(), Ordering::Release);
    }
}
