// SPDX-License-Identifier: MIT OR Apache-2.0

//! Memory of huge pages, of folios of 64 KiB, or of single pages.

use std::io;
use std::ptr::{null_mut, NonNull};

use anyhow::{ensure, Context, Result};
use tern_thp::OnlySize;

/// Bytes of a single page.
pub const PAGE: usize = 4 << 10;
/// Bytes of a huge page.
pub const HUGE: usize = 2 << 20;

/// Bytes of a folio that is larger than a page, but no huge page.
pub const LARGE: usize = 64 << 10;

/// What memory is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pages {
    /// Huge pages.
    Huge,
    /// Folios of 64 KiB.
    Large,
    /// Single pages.
    Single,
}

/// Words of a page.
const WORDS: usize = PAGE / size_of::<u64>();

/// Memory of this process alone, aligned to huge pages. What was not written is not there.
pub struct Region {
    mapping: NonNull<u8>,
    mapped: usize,
    words: NonNull<u64>,
    length: usize,
    /// As long as there are pages to come.
    _size: Option<OnlySize>,
}

impl Region {
    /// Maps `length` bytes, a multiple of 2 MiB.
    ///
    /// # Errors
    ///
    /// Where the system does not.
    pub fn new(length: usize, pages: Pages) -> Result<Self> {
        let mapped = length + HUGE;
        // SAFETY: a new mapping, at an address of the system's choice.
        let mapping = unsafe {
            let protection = libc::PROT_READ | libc::PROT_WRITE;
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
            libc::mmap(null_mut(), mapped, protection, flags, -1, 0)
        };
        if mapping == libc::MAP_FAILED {
            return Err(io::Error::last_os_error()).context("cannot map memory");
        }
        let mapping = NonNull::new(mapping.cast::<u8>()).context("memory is mapped at 0")?;
        let skip = mapping.as_ptr().align_offset(HUGE);
        // SAFETY: there are as many bytes and more in front of the aligned part.
        let words = unsafe { mapping.add(skip) }.cast();
        let region = Self {
            mapping,
            mapped,
            words,
            length,
            _size: match pages {
                Pages::Large => Some(OnlySize::new((LARGE >> 10) as u64)?),
                Pages::Huge | Pages::Single => None,
            },
        };
        let advice = match pages {
            Pages::Huge | Pages::Large => libc::MADV_HUGEPAGE,
            Pages::Single => libc::MADV_NOHUGEPAGE,
        };
        // SAFETY: the mapping is our own, and the advice changes no contents.
        let status = unsafe { libc::madvise(words.as_ptr().cast(), length, advice) };
        ensure!(
            status == 0,
            "the kernel refuses advice about huge pages: {}",
            io::Error::last_os_error()
        );
        Ok(region)
    }

    /// The first word of page `page`.
    ///
    /// # Panics
    ///
    /// If there is no such page.
    pub fn word(&self, page: usize) -> *mut u64 {
        assert!(
            page < self.length / PAGE,
            "page {page} is not in the region"
        );
        // SAFETY: within the mapping.
        unsafe { self.words.as_ptr().add(page * WORDS) }
    }

    /// The first words of each of its parts of `size` bytes.
    pub fn words_at(&self, size: usize) -> Vec<*mut u64> {
        (0..self.length / size)
            .map(|part| self.word(part * size / PAGE))
            .collect()
    }

    /// Bytes.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Reads the first word of each part of `size` bytes, as any program would.
    pub fn read_each(&self, size: usize) {
        for word in self.words_at(size) {
            // SAFETY: within the mapping. Nobody else writes it now.
            unsafe { word.read_volatile() };
        }
    }

    /// Fills page `page` with numbers that are its own.
    pub fn fill_page(&mut self, page: usize) {
        let words = self.word(page);
        for index in 0..WORDS {
            // SAFETY: within the page; `&mut self` keeps others away.
            unsafe { words.add(index).write(pattern(page, index)) };
        }
    }

    /// Fills all pages.
    pub fn fill(&mut self) {
        for page in 0..self.length / PAGE {
            self.fill_page(page);
        }
    }

    /// Checks that page `page` holds what it was filled with, but for `added` in its first word.
    ///
    /// # Errors
    ///
    /// Names the first word that differs.
    pub fn check_page(&self, page: usize, added: u64) -> Result<()> {
        let words = self.word(page);
        for index in 0..WORDS {
            let expected = pattern(page, index).wrapping_add(if index == 0 { added } else { 0 });
            // SAFETY: within the page. Nobody else writes it now.
            let found = unsafe { words.add(index).read() };
            ensure!(
                found == expected,
                "word {index} of page {page} is {found:#x} in place of {expected:#x}"
            );
        }
        Ok(())
    }

    /// Checks all pages; `added` was added to the first word of each part of `size` bytes.
    ///
    /// # Errors
    ///
    /// Names the first word that differs.
    pub fn check(&self, size: usize, added: u64) -> Result<()> {
        for page in 0..self.length / PAGE {
            let is_first = page * PAGE % size == 0;
            self.check_page(page, if is_first { added } else { 0 })?;
        }
        Ok(())
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: it was mapped by `new`, and nobody else knows it any more.
        unsafe { libc::munmap(self.mapping.as_ptr().cast(), self.mapped) };
    }
}

fn pattern(page: usize, index: usize) -> u64 {
    (page as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ index as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_word_is_found() {
        let mut region = Region::new(HUGE, Pages::Single).unwrap();
        region.fill();
        region.check(HUGE, 0).unwrap();
        // SAFETY: within the region, which nobody else uses.
        unsafe { *region.word(0) += 2 };
        assert!(region.check(HUGE, 0).is_err());
        region.check(HUGE, 2).unwrap();
        // SAFETY: as above.
        unsafe { *region.word(7).add(511) ^= 1 };
        let error = region.check(HUGE, 2).unwrap_err().to_string();
        assert!(error.contains("word 511 of page 7"), "{error}");
    }

    #[test]
    fn regions_are_aligned() {
        for pages in [Pages::Huge, Pages::Single] {
            let region = Region::new(2 * HUGE, pages).unwrap();
            assert_eq!(region.word(0) as usize % HUGE, 0);
            assert_eq!(region.words_at(HUGE).len(), 2);
            assert_eq!(region.words_at(PAGE).len(), 1024);
        }
    }
}
