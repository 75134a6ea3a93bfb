// SPDX-License-Identifier: GPL-2.0

//! Allocator of device memory.
//!
//! A binary buddy allocator whose whole state is one bitmap for each order, made at probe. It
//! neither allocates nor sleeps, because folios of device memory are freed wherever the last
//! reference to them is dropped, under page-table locks included. That is also why
//! [`kernel::gpu::buddy`] does not fit: it takes a mutex.
//!
//! Units are pages of 4 KiB, offsets count from the start of VRAM.

use core::ops::Range;

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
    /// No other words have a bit set.
    hint: Range<usize>,
}

impl FreeMap {
    fn new(blocks: usize) -> Result<Self> {
        Ok(Self {
            bits: KVVec::from_elem(0, blocks.div_ceil(64), GFP_KERNEL)?,
            free: 0,
            hint: 0..0,
        })
    }

    fn insert(&mut self, block: usize) {
        self.bits[block / 64] |= 1 << (block % 64);
        self.free += 1;
        let word = block / 64;
        self.hint = if self.hint.is_empty() {
            word..word + 1
        } else {
            self.hint.start.min(word)..self.hint.end.max(word + 1)
        };
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
        let word = self.hint.clone().find(|&i| self.bits[i] != 0);

        self.hint.start = word.unwrap_or(self.hint.end);
        word.map(|i| i * 64 + self.bits[i].trailing_zeros() as usize)
    }

    fn last(&mut self) -> Option<usize> {
        let word = self.hint.clone().rfind(|&i| self.bits[i] != 0);

        self.hint.end = word.map_or(self.hint.start, |i| i + 1);
        word.map(|i| i * 64 + 63 - self.bits[i].leading_zeros() as usize)
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

    /// Takes a block of the smallest order that does: the first one, if that ends at page `limit`
    /// or before, or the last one if there is no limit, so that those who have one find room.
    fn alloc(&mut self, order: usize, limit: Option<usize>) -> Option<usize> {
        if self.stopped {
            return None;
        }
        let (from, mut block) = (order..ORDERS).find_map(|o| {
            let map = &mut self.maps[o];
            let block = match limit {
                Some(limit) => map
                    .first()
                    .filter(|block| (block << o) + (1 << order) <= limit),
                None => map.last(),
            };

            Some((o, block?))
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
        self.buddy.lock().alloc(order, None)
    }

    /// Allocates a block as [`Self::alloc`] does, for a buffer, with `limit` before that page.
    pub(crate) fn alloc_buffer(&self, order: usize, limit: Option<usize>) -> Option<usize> {
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
            assert_eq!(buddy.alloc(MAX_ORDER, None), Some((3 - i) << MAX_ORDER));
        }
        assert_eq!(buddy.alloc(MAX_ORDER, None), None);
        assert_eq!(buddy.alloc(0, None), None);
        assert_eq!(buddy.free_pages, 0);
        Ok(())
    }

    #[test]
    fn single_pages_merge_into_a_whole_block() -> Result {
        let mut buddy = Buddy::new(1 << MAX_ORDER)?;
        for i in 0..1 << MAX_ORDER {
            assert_eq!(buddy.alloc(0, None), Some(i));
        }
        assert_eq!(buddy.alloc(0, None), None);
        // Out of order: the odd pages first.
        for i in (1..1 << MAX_ORDER).step_by(2) {
            buddy.free(i, 0);
        }
        assert_eq!(buddy.alloc(1, None), None);
        for i in (0..1 << MAX_ORDER).step_by(2) {
            buddy.free(i, 0);
        }
        assert_eq!(buddy.free_pages, 1 << MAX_ORDER);
        assert_eq!(buddy.alloc(MAX_ORDER, None), Some(0));
        Ok(())
    }

    #[test]
    fn a_block_may_come_back_in_parts() -> Result {
        let mut buddy = Buddy::new(2 << MAX_ORDER)?;
        let block = buddy.alloc(MAX_ORDER, None).ok_or(ENOMEM)?;
        for i in 0..1 << (MAX_ORDER - 4) {
            buddy.free(block + (i << 4), 4);
        }
        assert_eq!(buddy.free_pages, 2 << MAX_ORDER);
        assert!(buddy.alloc(MAX_ORDER, None).is_some());
        assert!(buddy.alloc(MAX_ORDER, None).is_some());
        Ok(())
    }

    #[test]
    fn once_stopped_it_only_takes_back() -> Result {
        let mut buddy = Buddy::new(1 << MAX_ORDER)?;
        let page = buddy.alloc(0, None).ok_or(ENOMEM)?;
        buddy.stopped = true;
        assert_eq!(buddy.alloc(0, None), None);
        buddy.free(page, 0);
        assert_eq!(buddy.free_pages, 1 << MAX_ORDER);
        assert_eq!(buddy.alloc(0, None), None);
        Ok(())
    }

    #[test]
    fn mixed_orders_do_not_overlap() -> Result {
        let mut buddy = Buddy::new(1 << MAX_ORDER)?;
        let (small, mid) = (
            buddy.alloc(0, None).ok_or(ENOMEM)?,
            buddy.alloc(4, None).ok_or(ENOMEM)?,
        );
        assert_eq!(mid % 16, 0);
        assert!(small < mid || small >= mid + 16);
        assert_eq!(buddy.alloc(MAX_ORDER, None), None);
        buddy.free(small, 0);
        buddy.free(mid, 4);
        assert_eq!(buddy.alloc(MAX_ORDER, None), Some(0));
        Ok(())
    }

    #[test]
    fn a_limit_holds() -> Result {
        let mut buddy = Buddy::new(4 << MAX_ORDER)?;
        let limit = Some(2 << MAX_ORDER);
        assert_eq!(buddy.alloc(MAX_ORDER, limit), Some(0));
        assert_eq!(buddy.alloc(0, limit), Some(1 << MAX_ORDER));
        assert_eq!(buddy.alloc(MAX_ORDER, limit), None);
        // Not of the block that was split, since that is beyond.
        assert_eq!(buddy.alloc(MAX_ORDER, None), Some(3 << MAX_ORDER));
        assert_eq!(buddy.alloc(0, Some(1)), None);
        Ok(())
    }

    #[test]
    fn what_has_no_limit_leaves_room_for_what_has() -> Result {
        let mut buddy = Buddy::new(4 << MAX_ORDER)?;
        let limit = Some(2 << MAX_ORDER);
        for block in [3, 2] {
            assert_eq!(buddy.alloc(MAX_ORDER, None), Some(block << MAX_ORDER));
        }
        for block in [0, 1] {
            assert_eq!(buddy.alloc(MAX_ORDER, limit), Some(block << MAX_ORDER));
        }
        assert_eq!(buddy.alloc(0, None), None);
        Ok(())
    }

    #[test]
    fn the_first_and_the_last_are_found_after_any_change() -> Result {
        let mut map = FreeMap::new(256)?;
        for block in [130, 70, 200] {
            map.insert(block);
        }
        assert_eq!((map.first(), map.last()), (Some(70), Some(200)));
        assert!(map.remove(70) && map.remove(200));
        assert_eq!((map.first(), map.last()), (Some(130), Some(130)));
        assert!(map.remove(130));
        assert_eq!((map.first(), map.last()), (None, None));
        map.insert(3);
        assert_eq!((map.last(), map.first()), (Some(3), Some(3)));
        map.insert(255);
        assert_eq!((map.last(), map.first()), (Some(255), Some(3)));
        Ok(())
    }
}
