// SPDX-License-Identifier: MIT OR Apache-2.0

//! CPU and device add to one buffer by turns: memory that moves there and back.

use std::ptr;

use anyhow::Result;
use tern::Location;

use super::{Done, Options};
use crate::check::compare;
use crate::executor::Executor;
use crate::kernels::{PingpongArgs, PINGPONG};
use crate::memory::{check_size, scramble, Buffer};

/// What the device adds in each round, and what the CPU adds.
const STEPS: [u64; 2] = [0x0001_0000_0001, 0x0100_0000_0000_0003];

/// Values that are checked at a time.
const SLICE: usize = 1 << 12;

/// See [`super::Run`].
pub fn run(executor: &dyn Executor, options: &Options) -> Result<Done> {
    check_size(options.size)?;
    let count = options.size as usize / size_of::<u64>();
    let mut values = Buffer::<u64>::new(count, options.thp)?;
    for (i, value) in values.iter_mut().enumerate() {
        *value = value_of(options, i);
    }

    let mut sum = 0u64;
    for _ in 0..options.rounds {
        let mut args = PingpongArgs {
            values: values.as_mut_ptr(),
            count: count as u64,
            step: STEPS[0],
        };
        options.prefetch(executor, &values, Location::Device)?;
        // SAFETY: there are `count` values, which are not used until this returns.
        unsafe { executor.run(&PINGPONG, ptr::from_mut(&mut args).cast(), count as u64) }?;
        options.prefetch(executor, &values, Location::System)?;
        sum = sum.wrapping_add(STEPS[0]);
        check_and_add(options, &mut values, sum)?;
        sum = sum.wrapping_add(STEPS[1]);
    }
    let bytes = (count * size_of::<u64>()) as u64;
    Ok(Done {
        bytes,
        note: format!("{} rounds at {:p}", options.rounds, values.as_mut_ptr()),
        ..Default::default()
    })
}

/// What is in the memory at first.
fn value_of(options: &Options, index: usize) -> u64 {
    scramble(options.seed << 48 | index as u64)
}

/// The CPU's turn: checks that `sum` was added to all values so far, and adds its own step.
fn check_and_add(options: &Options, values: &mut [u64], sum: u64) -> Result<()> {
    let mut expected = [0; SLICE];
    for (slice, values) in values.chunks_mut(SLICE).enumerate() {
        let first = slice * SLICE;
        let expected = &mut expected[..values.len()];
        for (i, expected) in expected.iter_mut().enumerate() {
            *expected = value_of(options, first + i).wrapping_add(sum);
        }
        compare("values", first, values, expected)?;
        for value in values {
            *value = value.wrapping_add(STEPS[1]);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::tests::options;
    use super::*;
    use crate::check::Mismatch;
    use crate::executor::tests::Cpu;

    #[test]
    fn equal_with_any_number_of_threads() {
        for threads in [1, 7, 64] {
            let cpu = Cpu {
                threads,
                ..Default::default()
            };
            let done = run(&cpu, &options()).unwrap();
            assert_eq!((done.bytes, cpu.usage().launches), (1 << 20, 3));
        }
    }

    #[test]
    fn memory_is_moved_before_its_use_where_asked_for() {
        for (prefetch, bytes) in [(false, 0), (true, 3 << 20)] {
            let cpu = Cpu::new(1);
            let options = Options {
                prefetch,
                ..options()
            };
            run(&cpu, &options).unwrap();
            assert_eq!(cpu.prefetched.get(), [bytes, bytes]);
        }
    }

    #[test]
    fn the_contents_of_another_process_are_found() {
        let options = |seed| Options { seed, ..options() };
        assert_ne!(value_of(&options(1), 0), value_of(&options(2), 0));
        let mut values: Vec<_> = (0..10).map(|i| value_of(&options(1), i)).collect();
        assert!(check_and_add(&options(2), &mut values, 0).is_err());
        check_and_add(&options(1), &mut values, 0).unwrap();
    }

    #[test]
    fn two_swapped_values_are_found() {
        let cpu = Cpu {
            threads: 1,
            mistake: Some(|args| {
                // SAFETY: the workload gives these arguments.
                unsafe {
                    let values = (*args.cast::<PingpongArgs>()).values;
                    ptr::swap(values.add(5000), values.add(6000));
                }
            }),
            ..Default::default()
        };
        let error = run(&cpu, &options()).unwrap_err();
        assert!(error.is::<Mismatch>(), "{error}");
        assert!(error.to_string().contains("values[5000]"), "{error}");
    }
}
