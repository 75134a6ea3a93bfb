// SPDX-License-Identifier: MIT OR Apache-2.0

//! Memory from malloc, as any program has it.

use std::ffi::OsStr;
use std::ops::{Deref, DerefMut};
use std::path::Path;
use std::ptr::NonNull;
use std::{fs, io};

use anyhow::{bail, Context, Result};
use clap::ValueEnum;

use crate::format::bytes;

/// Whether buffers may be made of transparent huge pages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Thp {
    /// Ask for huge pages (`MADV_HUGEPAGE`).
    #[default]
    Always,
    /// Forbid them (`MADV_NOHUGEPAGE`).
    Never,
    /// Leave it to the system.
    Default,
}

/// A type whose values are plain bytes: all bit patterns are valid, there is no padding.
///
/// # Safety
///
/// The type must be like that.
pub unsafe trait Plain: Copy {}

// SAFETY: integers and floating-point numbers have no padding and no invalid patterns.
unsafe impl Plain for u64 {}
// SAFETY: as above.
unsafe impl Plain for f32 {}
// SAFETY: as above.
unsafe impl Plain for f64 {}
// SAFETY: as above.
unsafe impl Plain for u32 {}
// SAFETY: a pointer that nobody follows may be anything.
unsafe impl<T> Plain for *mut T {}
// SAFETY: two u32 in a row.
unsafe impl Plain for crate::kernels::Count {}
// SAFETY: pointers and u64 in a row.
unsafe impl Plain for crate::kernels::Node {}
// SAFETY: as above.
unsafe impl Plain for crate::kernels::List {}
// SAFETY: as above.
unsafe impl Plain for crate::kernels::Entry {}

impl Thp {
    /// As it is written on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Always => "always",
            Self::Never => "never",
            Self::Default => "default",
        }
    }
}

/// A zeroed array from the C library's allocator, which the device may access.
///
/// A large one is not touched before it is used, so its first use may be the device's.
pub struct Buffer<T: Plain> {
    start: NonNull<T>,
    count: usize,
}

impl<T: Plain> Buffer<T> {
    /// Allocates `count` elements.
    ///
    /// # Errors
    ///
    /// Where there is no memory, or the system does not do as `thp` says.
    pub fn new(count: usize, thp: Thp) -> Result<Self> {
        // At least one element, so that null means no memory.
        // SAFETY: calloc has no preconditions, and checks the product.
        let start = unsafe { libc::calloc(count.max(1), size_of::<T>()) };
        let Some(start) = NonNull::new(start.cast()) else {
            let size = (count as u64).saturating_mul(size_of::<T>() as u64);
            bail!(
                "no memory for a buffer of {}; use a smaller --size",
                bytes(size)
            );
        };
        let buffer = Self { start, count };
        buffer.advise(thp)?;
        Ok(buffer)
    }

    /// Applies `thp` to the whole pages of the buffer.
    fn advise(&self, thp: Thp) -> Result<()> {
        let advice = match thp {
            Thp::Always => libc::MADV_HUGEPAGE,
            Thp::Never => libc::MADV_NOHUGEPAGE,
            Thp::Default => return Ok(()),
        };
        let page = page_size();
        let (first, end) = (self.start.as_ptr() as usize, self.count * size_of::<T>());
        let start = first.next_multiple_of(page);
        let length = (first + end).saturating_sub(start) / page * page;
        if length == 0 {
            return Ok(());
        }
        // SAFETY: the pages belong to this buffer, and the advice changes no contents.
        let status = unsafe { libc::madvise(start as *mut _, length, advice) };
        if status != 0 {
            return Err(io::Error::last_os_error()).with_context(|| {
                let name = thp.name();
                format!("the kernel refuses --thp {name}; was it built without huge pages?")
            });
        }
        Ok(())
    }

    /// Where it is.
    pub fn bytes(&self) -> *const [u8] {
        let size = self.count * size_of::<T>();
        std::ptr::slice_from_raw_parts(self.start.as_ptr().cast(), size)
    }

    /// For the device or the CPU's kernel to write to.
    pub fn as_mut_ptr(&mut self) -> *mut T {
        self.start.as_ptr()
    }
}

impl<T: Plain> Deref for Buffer<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: calloc gave `count` zeroed elements, aligned for any of these types, and all
        // bit patterns are valid.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.count) }
    }
}

impl<T: Plain> DerefMut for Buffer<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as above; `&mut self` makes it the only reference.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.count) }
    }
}

impl<T: Plain> Drop for Buffer<T> {
    fn drop(&mut self) {
        // SAFETY: it came from calloc and is freed once.
        unsafe { libc::free(self.start.as_ptr().cast()) };
    }
}

/// Objects that the C library's malloc gave one by one, which the device may access.
pub struct Objects<T: Plain> {
    pointers: Vec<*mut T>,
}

impl<T: Plain> Objects<T> {
    /// Allocates one object for each value.
    ///
    /// # Errors
    ///
    /// Where there is no memory.
    pub fn new(values: impl Iterator<Item = T>) -> Result<Self> {
        let mut objects = Self {
            pointers: Vec::with_capacity(values.size_hint().0),
        };
        for value in values {
            // SAFETY: malloc has no preconditions.
            let object = unsafe { libc::malloc(size_of::<T>()) }.cast::<T>();
            if object.is_null() {
                bail!("malloc has no more memory; use a smaller --size");
            }
            // SAFETY: malloc's memory is large enough for a T, and aligned for any plain type.
            unsafe { object.write(value) };
            objects.pointers.push(object);
        }
        Ok(objects)
    }

    /// Where they are, in the order of their values.
    pub fn pointers(&self) -> &[*mut T] {
        &self.pointers
    }

    /// The object of one value.
    pub fn get(&self, index: usize) -> &T {
        // SAFETY: it is an object of ours, all bit patterns are valid, and who writes to it does so
        // through `&mut self`, or while `&self` is not in use.
        unsafe { &*self.pointers[index] }
    }

    /// The object of one value, to change it.
    pub fn get_mut(&mut self, index: usize) -> &mut T {
        // SAFETY: it is an object of ours, and `&mut self` makes this the only reference.
        unsafe { &mut *self.pointers[index] }
    }
}

impl<T: Plain> Drop for Objects<T> {
    fn drop(&mut self) {
        for &object in &self.pointers {
            // SAFETY: it came from malloc and is freed once.
            unsafe { libc::free(object.cast()) };
        }
    }
}

/// All numbers below `count`, each once, those that follow each other far apart: by steps of the
/// golden section.
pub fn scattered(count: usize) -> impl Iterator<Item = usize> + Clone {
    let step = (count as f64 * 0.618) as usize;
    let step = (step..).find(|&step| coprime(step, count)).unwrap_or(1);
    let next = move |&position: &usize| Some((position + step) % count);
    std::iter::successors(Some(0), next).take(count)
}

fn coprime(a: usize, b: usize) -> bool {
    match b {
        0 => a == 1,
        _ => coprime(b, a % b),
    }
}

/// Bytes of a page of the CPU.
pub fn page_size() -> usize {
    // SAFETY: sysconf has no preconditions.
    usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096)
}

/// Where the kernel lists the machine's memory, block by block.
const MEMORY_BLOCKS: &str = "/sys/devices/system/memory";

/// Bytes of memory of the machine, what the kernel keeps for itself included.
fn machine_memory() -> u64 {
    memory_blocks(Path::new(MEMORY_BLOCKS)).unwrap_or_else(kernel_memory)
}

/// Bytes of all blocks of memory, or nothing where `directory` lists none, as on a kernel that
/// cannot plug memory in.
fn memory_blocks(directory: &Path) -> Option<u64> {
    let size = fs::read_to_string(directory.join("block_size_bytes")).ok()?;
    let size = u64::from_str_radix(size.trim(), 16).ok()?;
    let is_block = |name: &OsStr| {
        let number = name.to_str().and_then(|name| name.strip_prefix("memory"));
        number.is_some_and(|number| number.parse::<u64>().is_ok())
    };
    let names = fs::read_dir(directory).ok()?.flatten();
    let blocks = names.filter(|entry| is_block(&entry.file_name())).count() as u64;
    size.checked_mul(blocks).filter(|bytes| *bytes > 0)
}

/// Bytes of memory that the kernel manages, without what it took at boot.
fn kernel_memory() -> u64 {
    // SAFETY: sysconf has no preconditions.
    let pages = unsafe { libc::sysconf(libc::_SC_PHYS_PAGES) };
    u64::try_from(pages).unwrap_or(0) * page_size() as u64
}

/// Most bytes that a workload may work on: half of the machine's memory.
pub fn most() -> u64 {
    machine_memory() / 2
}

/// Checks that a workload of `size` bytes leaves room for the rest of the machine.
///
/// # Errors
///
/// Where it is more than [`most`].
pub fn check_size(size: u64) -> Result<()> {
    let most = most();
    if size > most {
        bail!(
            "{} is more than half of this machine's memory; use at most --size {}M",
            bytes(size),
            most >> 20
        );
    }
    Ok(())
}

/// Numbers that look random and are the same every time (SplitMix64).
pub fn scramble(position: u64) -> u64 {
    let mut z = position.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_zero_and_hold_what_is_written() {
        for thp in [Thp::Always, Thp::Never, Thp::Default] {
            let mut buffer = Buffer::<u64>::new(1 << 20, thp).unwrap();
            assert!(buffer.iter().all(|&v| v == 0));
            buffer[(1 << 20) - 1] = 7;
            assert_eq!(buffer.last(), Some(&7));
        }
        assert!(Buffer::<u64>::new(0, Thp::Always).unwrap().is_empty());
    }

    #[test]
    fn objects_hold_their_values() {
        let mut objects = Objects::new(0..1000u64).unwrap();
        objects.get_mut(7).clone_from(&70);
        assert_eq!((*objects.get(6), *objects.get(7)), (6, 70));
        let mut pointers = objects.pointers().to_vec();
        pointers.sort_unstable();
        pointers.dedup();
        assert_eq!(pointers.len(), 1000);
    }

    #[test]
    fn scattered_numbers_are_all_numbers() {
        for count in [1, 2, 3, 10, 1000, 4096, 9973] {
            let mut numbers: Vec<_> = scattered(count).collect();
            let apart = |pair: &[usize]| pair[0].abs_diff(pair[1]) > count / 4;
            assert!(count < 10 || numbers.windows(2).all(apart), "{count}");
            numbers.sort_unstable();
            assert_eq!(numbers, (0..count).collect::<Vec<_>>());
        }
        assert_eq!(scattered(0).count(), 0);
    }

    #[test]
    fn what_cannot_be_had_is_an_error() {
        assert!(Buffer::<u64>::new(usize::MAX / 4, Thp::Default).is_err());
        let error = check_size(u64::MAX).unwrap_err().to_string();
        assert!(error.contains("half of this machine's memory"), "{error}");
        check_size(1 << 20).unwrap();
    }

    #[test]
    fn memory_is_counted_in_whole_blocks() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        assert_eq!(memory_blocks(path), None);
        fs::write(path.join("block_size_bytes"), "8000000\n").unwrap();
        assert_eq!(memory_blocks(path), None);
        for name in ["memory0", "memory7", "memory32", "memory_groups", "power"] {
            fs::create_dir(path.join(name)).unwrap();
        }
        assert_eq!(memory_blocks(path), Some(3 * (128 << 20)));
        fs::write(path.join("block_size_bytes"), "some\n").unwrap();
        assert_eq!(memory_blocks(path), None);
        assert!(machine_memory() >= kernel_memory() && kernel_memory() > 0);
    }

    #[test]
    fn half_of_the_memory_is_the_most() {
        check_size(most()).unwrap();
        assert!(check_size(most() + 1).is_err());
    }

    #[test]
    fn scrambled_numbers_differ() {
        let mut numbers: Vec<_> = (0..10_000).map(scramble).collect();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), 10_000);
    }
}
