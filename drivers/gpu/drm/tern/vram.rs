// SPDX-License-Identifier: GPL-2.0

//! Allocator of device memory.
//!
//! A binary buddy allocator whose whole state is one bitmap for each order, made at probe. It
//! neither allocates nor sleeps, because folios of device memory are freed wherever the last
//! reference to them is dropped, under page-table locks included. That is also why
//! [`kernel::gpu::buddy`] does not fit: it takes a mutex.
//!
//! Units are pages of 4 KiB, offsets count from the start of VRAM.

use kernel::{
    new_spinlock,
    prelude::*,
    sync::SpinLock, //
};

/// Order of the largest block: 2 MiB, a PMD-sized folio.
pub(crate) const MAX_ORDER: usize = 9;
const ORDERS: usize = MAX_ORDER + 1;

/// Free blocks of one order, a bit for each naturally aligned block.
struct FreeMap {
    bits: KVVec<u64>,
    free: usize,
    /// No word below this one has a bit set.
    hint: usize,
}

impl FreeMap {
    fn new(blocks: usize) -> Result<Self> {
        Ok(Self {
            bits: KVVec::from_elem(0, blocks.div_ceil(64), GFP_KERNEL)?,
            free: 0,
            hint: 0,
        })
    }

    fn insert(&mut self, block: usize) {
        self.bits[block / 64] |= 1 << (block % 64);
        self.free += 1;
        self.hint = self.hint.min(block / 64);
    }

    /// Takes `block` out; false if it was not free.
    fn remove(&mut self, block: usize) -> bool {
        let Some(word) = self.bits.get_mut(block / 64) else {
            return false;
        };
        let bit = 1 << (block % 64);
        if *word & bit == 0 {
            return false;
        }
        *word &= !bit;
        self.free -= 1;
        true
    }

    fn first(&mut self) -> Option<usize> {
        if self.free == 0 {
            return None;
        }
        let word = (self.hint..self.bits.len()).find(|&i| self.bits[i] != 0)?;
        self.hint = word;
        Some(word * 64 + self.bits[word].trailing_zeros() as usize)
    }
}

struct Buddy {
    maps: [FreeMap; ORDERS],
    free_pages: usize,
    /// Pages that buffers have.
    buffer_pages: usize,
    /// Nothing is allocated any more.
    stopped: bool,
}

impl Buddy {
    fn new(pages: usize) -> Result<Self> {
        let mut maps = KVec::with_capacity(ORDERS, GFP_KERNEL)?;
        for order in 0..ORDERS {
            maps.push(FreeMap::new(pages >> order)?, GFP_KERNEL)?;
        }
        let mut maps = maps.into_iter();
        let mut buddy = Self {
            maps: core::array::from_fn(|_| {
                // PANIC: `maps` has `ORDERS` elements.
                maps.next().unwrap()
            }),
            free_pages: 0,
            buffer_pages: 0,
            stopped: false,
        };
        for block in 0..pages >> MAX_ORDER {
            buddy.maps[MAX_ORDER].insert(block);
            buddy.free_pages += 1 << MAX_ORDER;
        }
        Ok(buddy)
    }

    /// Takes the first block of the smallest order that does, if it ends at page `limit` or before.
    fn alloc(&mut self, order: usize, limit: usize) -> Option<usize> {
        if self.stopped {
            return None;
        }
        let (from, mut block) = (order..ORDERS).find_map(|o| {
            let block = self.maps[o].first()?;
            ((block << o) + (1 << order) <= limit).then_some((o, block))
        })?;
        self.maps[from].remove(block);
        for o in (order..from).rev() {
            block *= 2;
            self.maps[o].insert(block + 1);
        }
        self.free_pages -= 1 << order;
        Some(block << order)
    }

    fn free(&mut self, page: usize, order: usize) {
        let (mut block, mut o) = (page >> order, order);
        while o < MAX_ORDER && self.maps[o].remove(block ^ 1) {
            block /= 2;
            o += 1;
        }
        self.maps[o].insert(block);
        self.free_pages += 1 << order;
    }
}

/// Device memory, in naturally aligned blocks of 4 KiB to 2 MiB.
#[pin_data]
pub(crate) struct Vram {
    #[pin]
    buddy: SpinLock<Buddy>,
    pages: usize,
}

impl Vram {
    /// All of `bytes` is free at first, rounded down to 2 MiB.
    pub(crate) fn new(bytes: u64) -> Result<impl PinInit<Self>> {
        let pages = usize::try_from(bytes >> 12)? & !((1 << MAX_ORDER) - 1);
        let buddy = Buddy::new(pages)?;
        Ok(pin_init!(Self {
            buddy <- new_spinlock!(buddy, "tern::Vram"),
            pages,
        }))
    }

    /// Pages in all.
    pub(crate) fn pages(&self) -> usize {
        self.pages
    }

    /// Pages that are free.
    pub(crate) fn free_pages(&self) -> usize {
        self.buddy.lock().free_pages
    }

    /// Free blocks of each order.
    pub(crate) fn free_blocks(&self) -> [usize; ORDERS] {
        let buddy = self.buddy.lock();

        core::array::from_fn(|order| buddy.maps[order].free)
    }

    /// Pages that folios have, which can be moved to the system.
    pub(crate) fn folio_pages(&self) -> usize {
        let buddy = self.buddy.lock();
        self.pages - buddy.free_pages - buddy.buffer_pages
    }

    /// Whether a page can be allocated at the moment.
    pub(crate) fn has_room(&self) -> bool {
        let buddy = self.buddy.lock();
        !buddy.stopped && buddy.free_pages > 0
    }

    /// Lets nothing be allocated any more, so that pages in use only become fewer.
    pub(crate) fn stop(&self) {
        self.buddy.lock().stopped = true;
    }

    /// Allocates a block of `1 << order` pages; returns the offset of its first page.
    pub(crate) fn alloc(&self, order: usize) -> Option<usize> {
        self.buddy.lock().alloc(order, self.pages)
    }

    /// Allocates a block as [`Self::alloc`] does, for a buffer, before page `limit`.
    pub(crate) fn alloc_buffer(&self, order: usize, limit: usize) -> Option<usize> {
        let mut buddy = self.buddy.lock();
        let page = buddy.alloc(order, limit)?;

        buddy.buffer_pages += 1 << order;
        Some(page)
    }

    /// Gives back a block of a buffer; see [`Self::free`].
    pub(crate) fn free_buffer(&self, page: usize, order: usize) {
        let mut buddy = self.buddy.lock();

        buddy.buffer_pages -= 1 << order;
        buddy.free(page, order);
    }

    /// Gives back a block, or an aligned part of one.
    ///
    /// The caller owns `1 << order` pages from `page`, and hands them over.
    pub(crate) fn free(&self, page: usize, order: usize) {
        self.buddy.lock().free(page, order)
    }
}

#[kunit_tests(tern_vram)]
mod tests {
    use super::*;

    #[test]
    fn whole_blocks_are_aligned_and_run_out() -> Result {
        let mut buddy = Buddy::new(4 << MAX_ORDER)?;
        for i in 0..4 {
            assert_eq!(buddy.alloc(MAX_ORDER, usize::MAX), Some(i << MAX_ORDER));
        }
        assert_eq!(buddy.alloc(MAX_ORDER, usize::MAX), None);
        assert_eq!(buddy.alloc(0, usize::MAX), None);
        assert_eq!(buddy.free_pages, 0);
        Ok(())
    }

    #[test]
    fn single_pages_merge_into_a_whole_block() -> Result {
        let mut buddy = Buddy::new(1 << MAX_ORDER)?;
        for i in 0..1 << MAX_ORDER {
            assert_eq!(buddy.alloc(0, usize::MAX), Some(i));
        }
        assert_eq!(buddy.alloc(0, usize::MAX), None);
        // Out of order: the odd pages first.
        for i in (1..1 << MAX_ORDER).step_by(2) {
            buddy.free(i, 0);
        }
        assert_eq!(buddy.alloc(1, usize::MAX), None);
        for i in (0..1 << MAX_ORDER).step_by(2) {
            buddy.free(i, 0);
        }
        assert_eq!(buddy.free_pages, 1 << MAX_ORDER);
        assert_eq!(buddy.alloc(MAX_ORDER, usize::MAX), Some(0));
        Ok(())
    }

    #[test]
    fn a_block_may_come_back_in_parts() -> Result {
        let mut buddy = Buddy::new(2 << MAX_ORDER)?;
        let block = buddy.alloc(MAX_ORDER, usize::MAX).ok_or(ENOMEM)?;
        for i in 0..1 << (MAX_ORDER - 4) {
            buddy.free(block + (i << 4), 4);
        }
        assert_eq!(buddy.free_pages, 2 << MAX_ORDER);
        assert!(buddy.alloc(MAX_ORDER, usize::MAX).is_some());
        assert!(buddy.alloc(MAX_ORDER, usize::MAX).is_some());
        Ok(())
    }

    #[test]
    fn once_stopped_it_only_takes_back() -> Result {
        let mut buddy = Buddy::new(1 << MAX_ORDER)?;
        let page = buddy.alloc(0, usize::MAX).ok_or(ENOMEM)?;
        buddy.stopped = true;
        assert_eq!(buddy.alloc(0, usize::MAX), None);
        buddy.free(page, 0);
        assert_eq!(buddy.free_pages, 1 << MAX_ORDER);
        assert_eq!(buddy.alloc(0, usize::MAX), None);
        Ok(())
    }

    #[test]
    fn mixed_orders_do_not_overlap() -> Result {
        let mut buddy = Buddy::new(1 << MAX_ORDER)?;
        let (small, mid) = (
            buddy.alloc(0, usize::MAX).ok_or(ENOMEM)?,
            buddy.alloc(4, usize::MAX).ok_or(ENOMEM)?,
        );
        assert_eq!(mid % 16, 0);
        assert!(small < mid || small >= mid + 16);
        assert_eq!(buddy.alloc(MAX_ORDER, usize::MAX), None);
        buddy.free(small, 0);
        buddy.free(mid, 4);
        assert_eq!(buddy.alloc(MAX_ORDER, usize::MAX), Some(0));
        Ok(())
    }

    #[test]
    fn a_limit_holds() -> Result {
        let mut buddy = Buddy::new(4 << MAX_ORDER)?;
        let limit = 2 << MAX_ORDER;
        assert_eq!(buddy.alloc(MAX_ORDER, limit), Some(0));
        assert_eq!(buddy.alloc(0, limit), Some(1 << MAX_ORDER));
        assert_eq!(buddy.alloc(MAX_ORDER, limit), None);
        // Not of the block that was split, since that is beyond.
        assert_eq!(buddy.alloc(MAX_ORDER, usize::MAX), Some(2 << MAX_ORDER));
        assert_eq!(buddy.alloc(0, 1), None);
        Ok(())
    }
}
