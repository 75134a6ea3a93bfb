// SPDX-License-Identifier: MIT OR Apache-2.0

//! CPU and device add to one buffer by turns: memory that moves there and back.

use std::ptr;

use anyhow::Result;

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
        *value = scramble(i as u64);
    }

    let mut sum = 0u64;
    for _ in 0..options.rounds {
        let mut args = PingpongArgs {
            values: values.as_mut_ptr(),
            count: count as u64,
            step: STEPS[0],
        };
        // SAFETY: there are `count` values, which are not used until this returns.
        unsafe { executor.run(&PINGPONG, ptr::from_mut(&mut args).cast(), count as u64) }?;
        sum = sum.wrapping_add(STEPS[0]);
        check_and_add(&mut values, sum)?;
        sum = sum.wrapping_add(STEPS[1]);
    }
    let bytes = (count * size_of::<u64>()) as u64;
    Ok(Done {
        bytes,
        note: format!("{} rounds", options.rounds),
    })
}

/// The CPU's turn: checks that `sum` was added to all values so far, and adds its own step.
fn check_and_add(values: &mut [u64], sum: u64) -> Result<()> {
    let mut expected = [0; SLICE];
    for (slice, values) in values.chunks_mut(SLICE).enumerate() {
        let first = slice * SLICE;
        let expected = &mut expected[..values.len()];
        for (i, expected) in expected.iter_mut().enumerate() {
            *expected = scramble((first + i) as u64).wrapping_add(sum);
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
