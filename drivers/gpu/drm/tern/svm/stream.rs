// SPDX-License-Identifier: GPL-2.0

//! Whether the CPU touches what is in device memory in the order of addresses.
//!
//! A fault costs far more than the pages that it brings back. A process that reads its memory from
//! one end to the other is about to have a fault for all of it, so all of it may come at once; one
//! that reads here and there gets what it asks for.

use core::{
    ops::Range,
    sync::atomic::{
        AtomicUsize,
        Ordering, //
    },
};

use kernel::{
    page::{
        PAGE_MASK,
        PAGE_SIZE, //
    },
    prelude::*,
};

use crate::mmu::BLOCK_SIZE;

/// Accesses in order that are told from each other: as many arrays as a loop is likely to read.
const STREAMS: usize = 8;

/// This many faults right behind the ones before make a stream.
const IN_ORDER: usize = 2;

/// Where the CPU goes on if it does so in order.
///
/// Faults that race lose a hint, which costs more faults and is otherwise of no consequence.
#[derive(Default)]
pub(crate) struct Streams {
    /// The address behind what came back last, and in the bits below that of a page how many
    /// faults were in order, at most `IN_ORDER`.
    ends: [AtomicUsize; STREAMS],
    /// Counts the faults that were in no order.
    others: AtomicUsize,
}

impl Streams {
    /// What to bring back for a fault that by itself needs `range`: more of it, as many times as
    /// it fits into its block, if the faults before have come in order.
    ///
    /// A folio of another size or alignment may lie across the end, and is split then.
    pub(crate) fn follow(&self, range: Range<usize>) -> Range<usize> {
        let known = self
            .ends
            .iter()
            .map(|end| (end, end.load(Ordering::Relaxed)))
            .filter(|(_, end)| end & PAGE_MASK == range.start)
            .max_by_key(|&(_, end)| end);
        let (end, in_order) = match known {
            Some((end, before)) => (end, IN_ORDER.min((before & !PAGE_MASK) + 1)),
            None => {
                let oldest = self.others.fetch_add(1, Ordering::Relaxed) % STREAMS;
                (&self.ends[oldest], 0)
            }
        };
        let range = match in_order {
            IN_ORDER => fill_block(range),
            _ => range,
        };

        end.store(range.end | in_order, Ordering::Relaxed);
        range
    }
}

/// Repeats `range` up to the end of the block that it starts in.
fn fill_block(range: Range<usize>) -> Range<usize> {
    let block_end = (range.start & !(BLOCK_SIZE - 1)) + BLOCK_SIZE;
    let times = (block_end - range.start) / range.len().max(PAGE_SIZE);

    range.start..range.start + range.len() * times.max(1)
}

#[kunit_tests(tern_stream)]
mod tests {
    use super::*;

    const START: usize = 16 * BLOCK_SIZE;
    const SIZE: usize = 16 * PAGE_SIZE;

    fn at(addr: usize) -> Range<usize> {
        addr..addr + SIZE
    }

    #[test]
    fn the_third_fault_in_order_brings_the_rest_of_the_block() {
        let streams = Streams::default();

        assert_eq!(streams.follow(at(START)), at(START));
        assert_eq!(streams.follow(at(START + SIZE)), at(START + SIZE));
        assert_eq!(
            streams.follow(at(START + 2 * SIZE)),
            START + 2 * SIZE..START + BLOCK_SIZE
        );
        assert_eq!(
            streams.follow(at(START + BLOCK_SIZE)),
            START + BLOCK_SIZE..START + 2 * BLOCK_SIZE
        );
    }

    #[test]
    fn streams_do_not_disturb_each_other() {
        let streams = Streams::default();
        let starts = || (0..STREAMS).map(|i| START + 8 * i * BLOCK_SIZE);

        for fault in 0..IN_ORDER {
            for start in starts() {
                let range = at(start + fault * SIZE);
                assert_eq!(streams.follow(range.clone()), range);
            }
        }
        for start in starts() {
            let third = streams.follow(at(start + IN_ORDER * SIZE));
            assert_eq!(third.end, start + BLOCK_SIZE);
        }
    }

    #[test]
    fn a_stream_goes_on_where_others_were() {
        let streams = Streams::default();

        for fault in Iterator::chain((0..STREAMS).rev(), 0..IN_ORDER) {
            let range = at(START + fault * SIZE);
            assert_eq!(streams.follow(range.clone()), range);
        }
        let third = streams.follow(at(START + IN_ORDER * SIZE));
        assert_eq!(third.end, START + BLOCK_SIZE);
    }

    #[test]
    fn accesses_in_no_order_bring_nothing_else() {
        let streams = Streams::default();

        for i in 0..64 {
            for place in [64 - i, i * 37 % 64 * 2] {
                let range = at(START + place * SIZE);
                assert_eq!(streams.follow(range.clone()), range);
            }
        }
    }

    #[test]
    fn what_lies_across_blocks_is_not_cut() {
        let across = START + BLOCK_SIZE - PAGE_SIZE..START + BLOCK_SIZE + SIZE - PAGE_SIZE;
        let unaligned = at(START + PAGE_SIZE);
        let end = START + BLOCK_SIZE + PAGE_SIZE - SIZE;

        assert_eq!(fill_block(across.clone()), across);
        assert_eq!(fill_block(unaligned), START + PAGE_SIZE..end);
        assert_eq!(
            fill_block(START..START + BLOCK_SIZE),
            START..START + BLOCK_SIZE
        );
    }
}
