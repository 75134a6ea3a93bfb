// SPDX-License-Identifier: MIT OR Apache-2.0

//! Accesses to guest memory.
//!
//! Everything there may be changed at any time by other threads of the device and by the processor, so accesses are
//! atomic: relaxed for loads and stores, which is what the memory model of RISC-V asks of them. They are as wide as
//! the instruction says when the address is a multiple of that, and bytewise when it is not.

use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, AtomicU8, Ordering::Relaxed};

use super::{Access, Memory, Miss};

/// Bytes that share a translation, whatever the size of the leaf page.
pub(super) const PAGE: u64 = 4096;

const PAGE_SHIFT: u32 = PAGE.trailing_zeros();
const ENTRIES: usize = 64;
/// Kinds of [`Access`] that have a part of the [`Tlb`] each.
const KINDS: usize = 4;

/// An integer that memory holds.
pub(super) trait Cell: Copy {
    /// Its size in bytes.
    const SIZE: u64;
    /// Loads it.
    ///
    /// # Safety
    ///
    /// `ptr` is a multiple of [`SIZE`](Self::SIZE), and what [`Memory`] promises holds for the bytes.
    unsafe fn load(ptr: *mut u8) -> Self;
    /// Stores it.
    ///
    /// # Safety
    ///
    /// As for [`load`](Self::load), and the translation was for a write.
    unsafe fn store(self, ptr: *mut u8);
    /// The low bits of a register.
    fn truncate(value: u64) -> Self;
    /// The value without a sign.
    fn widen(self) -> u64;
}

macro_rules! cell {
    ($int:ty, $atomic:ty) => {
        impl Cell for $int {
            const SIZE: u64 = size_of::<$int>() as u64;

            #[inline(always)]
            unsafe fn load(ptr: *mut u8) -> Self {
                // SAFETY: aligned, mapped and accessed atomically by all, as the caller promises.
                unsafe { <$atomic>::from_ptr(ptr.cast()) }.load(Relaxed)
            }

            #[inline(always)]
            unsafe fn store(self, ptr: *mut u8) {
                // SAFETY: aligned, mapped and accessed atomically by all, as the caller promises.
                unsafe { <$atomic>::from_ptr(ptr.cast()) }.store(self, Relaxed)
            }

            #[inline(always)]
            fn truncate(value: u64) -> Self {
                value as $int
            }

            #[inline(always)]
            fn widen(self) -> u64 {
                u64::from(self)
            }
        }
    };
}

cell!(u8, AtomicU8);
cell!(u16, AtomicU16);
cell!(u32, AtomicU32);
cell!(u64, AtomicU64);

/// Loads a cell that may be misaligned, of which the first `first` bytes are at `ptr` and the rest at `rest`.
///
/// # Safety
///
/// What [`Memory`] promises holds for the bytes.
unsafe fn load_bytes<T: Cell>(ptr: *mut u8, first: u64, rest: *mut u8) -> T {
    let value = (0..T::SIZE).fold(0, |value, i| {
        let byte = if i < first {
            ptr.wrapping_add(i as usize)
        } else {
            rest.wrapping_add((i - first) as usize)
        };
        // SAFETY: a byte is always aligned, and within the range, as the caller promises.
        value | (u64::from(unsafe { u8::load(byte) }) << (8 * i))
    });
    T::truncate(value)
}

/// Stores a cell that may be misaligned, as [`load_bytes`] loads it.
///
/// # Safety
///
/// What [`Memory`] promises holds for the bytes, for a write.
unsafe fn store_bytes<T: Cell>(value: T, ptr: *mut u8, first: u64, rest: *mut u8) {
    for i in 0..T::SIZE {
        let byte = if i < first {
            ptr.wrapping_add(i as usize)
        } else {
            rest.wrapping_add((i - first) as usize)
        };
        // SAFETY: a byte is always aligned, and within the range, as the caller promises.
        unsafe { ((value.widen() >> (8 * i)) as u8).store(byte) };
    }
}

/// An access that failed, with the address that has no translation.
#[derive(Clone, Copy, Debug)]
pub(super) struct Missed {
    pub va: u64,
    pub miss: Miss,
}

#[derive(Clone, Copy)]
struct Entry {
    /// Page number plus one, so that 0 is no page.
    tag: u64,
    page: *mut u8,
}

/// The translations that one run of a wave has used.
pub(super) struct Tlb<'a, M> {
    memory: &'a mut M,
    entries: [[Entry; ENTRIES]; KINDS],
}

impl<'a, M: Memory> Tlb<'a, M> {
    /// Starts without any.
    pub fn new(memory: &'a mut M) -> Self {
        let empty = Entry {
            tag: 0,
            page: std::ptr::null_mut(),
        };
        Self {
            memory,
            entries: [[empty; ENTRIES]; KINDS],
        }
    }

    /// Finds the byte at `va`, which may be accessed up to the end of its page.
    #[inline(always)]
    pub fn find(&mut self, va: u64, access: Access) -> Result<*mut u8, Missed> {
        let number = va >> PAGE_SHIFT;
        let entry = &self.entries[access as usize][number as usize % ENTRIES];
        let page = if entry.tag == number + 1 {
            entry.page
        } else {
            self.fill(va, access)?
        };
        Ok(page.wrapping_add((va % PAGE) as usize))
    }

    #[cold]
    #[inline(never)]
    fn fill(&mut self, va: u64, access: Access) -> Result<*mut u8, Missed> {
        let number = va >> PAGE_SHIFT;
        let start = number << PAGE_SHIFT;
        let found = self
            .memory
            .translate(va, access)
            .map_err(|miss| Missed { va, miss })?;
        let page = found.ptr.wrapping_sub((va - start) as usize);
        // A page that is shorter, or lies askew, comes from no page table that the device could have.
        if (found.len as u64) < PAGE - (va - start) || page as u64 % PAGE != 0 {
            return Err(Missed {
                va,
                miss: Miss::Error,
            });
        }
        self.entries[access as usize][number as usize % ENTRIES] = Entry {
            tag: number + 1,
            page,
        };
        Ok(page)
    }

    /// Loads what is at `va`, across the end of a page if need be.
    #[inline(always)]
    pub fn load<T: Cell>(&mut self, va: u64) -> Result<T, Missed> {
        let ptr = self.find(va, Access::Read)?;
        if va % T::SIZE == 0 {
            // SAFETY: `find` gives the byte at `va`, and pages are aligned, so `ptr` is aligned as `va` is; an aligned
            // cell does not leave the page.
            return Ok(unsafe { T::load(ptr) });
        }
        self.load_misaligned(va, ptr)
    }

    #[cold]
    #[inline(never)]
    fn load_misaligned<T: Cell>(&mut self, va: u64, ptr: *mut u8) -> Result<T, Missed> {
        let (first, rest) = self.split(va, T::SIZE, Access::Read)?;
        // SAFETY: `ptr` is good for `first` bytes and `rest` for those that follow them.
        Ok(unsafe { load_bytes(ptr, first, rest) })
    }

    /// Stores `value` at `va`, across the end of a page if need be, and nothing if a part of it cannot be stored.
    #[inline(always)]
    pub fn store<T: Cell>(&mut self, va: u64, value: T) -> Result<(), Missed> {
        let ptr = self.find(va, Access::Write)?;
        if va % T::SIZE == 0 {
            // SAFETY: as in `load`, and the translation is for a write.
            unsafe { value.store(ptr) };
            return Ok(());
        }
        self.store_misaligned(va, ptr, value)
    }

    #[cold]
    #[inline(never)]
    fn store_misaligned<T: Cell>(&mut self, va: u64, ptr: *mut u8, value: T) -> Result<(), Missed> {
        let (first, rest) = self.split(va, T::SIZE, Access::Write)?;
        // SAFETY: `ptr` is good for `first` bytes and `rest` for those that follow them.
        unsafe { store_bytes(value, ptr, first, rest) };
        Ok(())
    }

    /// Says how many of the `size` bytes at `va` are in its page, and where the others are.
    fn split(&mut self, va: u64, size: u64, access: Access) -> Result<(u64, *mut u8), Missed> {
        let first = (PAGE - va % PAGE).min(size);
        let rest = if first < size {
            self.find(va.wrapping_add(first), access)?
        } else {
            std::ptr::null_mut()
        };
        Ok((first, rest))
    }
}
