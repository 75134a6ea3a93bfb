// SPDX-License-Identifier: MIT OR Apache-2.0

//! Radix sort: records move between two arrays, all over them, in each of four passes.

use std::ptr;

use anyhow::Result;

use super::{Done, Options};
use crate::check::compare;
use crate::executor::Executor;
use crate::kernels::{RadixArgs, RADIX_COUNT, RADIX_DIGITS, RADIX_MOVE, RADIX_PLACE};
use crate::memory::{check_size, scramble, Buffer};

/// Blocks of records, each the work of a thread.
const BLOCKS: u64 = 512;

/// First bits of the digits of a key, which is the upper half of a record.
const SHIFTS: [u64; 4] = [32, 40, 48, 56];

/// See [`super::Run`].
pub fn run(executor: &dyn Executor, options: &Options) -> Result<Done> {
    check_size(options.size)?;
    let count = (options.share() / 2 / size_of::<u64>() as u64).min(u32::MAX.into());
    let mut records = Buffer::<u64>::new(count as usize, options.thp)?;
    for (record, i) in records.iter_mut().zip(0..) {
        *record = record_of(i);
    }
    sort(executor, &mut records, options)?;

    // Another way to the same order: a sort by comparison, of whole records. As the lower half of
    // each says where it was, that is the order of a sort by keys which keeps equal ones in order.
    let mut expected: Vec<_> = (0..count).map(record_of).collect();
    expected.sort_unstable();
    compare("records", 0, &records, &expected)?;
    Ok(Done {
        bytes: 2 * count * size_of::<u64>() as u64,
        note: format!("{count} records"),
        ..Default::default()
    })
}

/// A key of 32 bits, and below it the place of the record, which has 32 bits too. Some keys are there many times.
fn record_of(i: u64) -> u64 {
    let key = scramble(i) >> if i % 8 == 0 { 60 } else { 32 };
    key << 32 | i
}

/// Sorts by key. The number of passes is even, so that the result is where the records were.
fn sort(executor: &dyn Executor, records: &mut Buffer<u64>, options: &Options) -> Result<()> {
    let count = records.len();
    let mut other = Buffer::<u64>::new(count, options.thp)?;
    let mut places = Buffer::<u64>::new((RADIX_DIGITS * BLOCKS) as usize, options.thp)?;
    let mut totals = [0; RADIX_DIGITS as usize];
    let (mut from, mut to) = (records.as_mut_ptr(), other.as_mut_ptr());
    for shift in SHIFTS {
        totals.fill(0);
        let mut args = RadixArgs {
            from,
            to,
            count: count as u64,
            shift,
            blocks: BLOCKS,
            places: places.as_mut_ptr(),
            totals: totals.as_mut_ptr(),
        };
        for kernel in [&RADIX_COUNT, &RADIX_PLACE, &RADIX_MOVE] {
            let steps = count as u64 + RADIX_DIGITS * BLOCKS;
            // SAFETY: both arrays have `count` records, the others an element for each digit and
            // block, and none is used until this returns.
            unsafe { executor.run(kernel, ptr::from_mut(&mut args).cast(), steps) }?;
        }
        (from, to) = (to, from);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::ffi::c_void;

    use super::super::tests::{finds, options};
    use super::*;
    use crate::executor::tests::Cpu;

    #[test]
    fn equal_with_any_number_of_threads() {
        for threads in [1, 7, 600] {
            let cpu = Cpu::new(threads);
            let done = run(&cpu, &options()).unwrap();
            assert_eq!((done.bytes, done.note.as_str()), (1 << 18, "16384 records"));
            assert_eq!(cpu.usage().launches, 12);
        }
    }

    #[test]
    fn any_number_of_records_is_sorted() {
        for records in [0, 1, 2, 511, 512, 513, 5000] {
            let options = Options {
                size: records * 64,
                ..options()
            };
            let done = run(&Cpu::new(5), &options).unwrap();
            assert_eq!(done.note, format!("{records} records"));
        }
    }

    #[test]
    fn equal_keys_in_the_wrong_order_are_found() {
        fn swap(args: *mut c_void) {
            // SAFETY: the workload gives these arguments. In the last pass the first records have
            // the key 0, and there are more than two.
            unsafe {
                let args = &*args.cast::<RadixArgs>();
                if args.shift == SHIFTS[3] {
                    ptr::swap(args.to, args.to.add(1));
                }
            }
        }
        // It happens after each of the three kernels; what counts is after the last.
        finds(run, swap, "records[0]");
    }
}
