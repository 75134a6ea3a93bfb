// SPDX-License-Identifier: MIT OR Apache-2.0

//! a = b + s * c over arrays of doubles: what memory can carry.

use std::ptr;

use anyhow::Result;
use tern::Location;

use super::{Done, Options};
use crate::check::compare;
use crate::executor::{run_on_cpu, Executor};
use crate::kernels::{TriadArgs, TRIAD};
use crate::memory::{check_size, scramble, Buffer};

/// Elements that the CPU computes at a time for the comparison.
const SLICE: usize = 1 << 16;

/// See [`super::Run`].
pub fn run(executor: &dyn Executor, options: &Options) -> Result<Done> {
    check_size(options.size)?;
    let count = (options.size / 3) as usize / size_of::<f64>();
    let mut a = Buffer::<f64>::new(count, options.thp)?;
    let mut b = Buffer::<f64>::new(count, options.thp)?;
    let mut c = Buffer::<f64>::new(count, options.thp)?;
    for (i, (b, c)) in b.iter_mut().zip(c.iter_mut()).enumerate() {
        let random = scramble(i as u64);
        // Both halves are exact as doubles.
        *b = f64::from((random >> 32) as u32);
        *c = f64::from(random as u32) / 7.0;
    }

    let mut args = TriadArgs {
        a: a.as_mut_ptr(),
        b: b.as_ptr(),
        c: c.as_ptr(),
        s: 3.25,
        count: count as u64,
    };
    for buffer in [&a, &b, &c] {
        options.prefetch(executor, buffer, Location::Device)?;
    }
    // SAFETY: the three arrays have `count` elements and are not used until this returns.
    unsafe { executor.run(&TRIAD, ptr::from_mut(&mut args).cast(), count as u64) }?;

    options.prefetch(executor, &a, Location::System)?;

    let mut expected = vec![0.0; SLICE.min(count)];
    for first in (0..count).step_by(SLICE) {
        let length = SLICE.min(count - first);
        let mut args = TriadArgs {
            a: expected.as_mut_ptr(),
            b: b[first..].as_ptr(),
            c: c[first..].as_ptr(),
            s: args.s,
            count: length as u64,
        };
        // SAFETY: all three have `length` elements from here.
        unsafe { run_on_cpu(&TRIAD, ptr::from_mut(&mut args).cast()) };
        compare("a", first, &a[first..first + length], &expected[..length])?;
    }
    let bytes = (3 * count * size_of::<f64>()) as u64;
    Ok(Done {
        bytes,
        note: format!("{count} doubles"),
        ..Default::default()
    })
}

#[cfg(test)]
mod tests {
    use super::super::tests::options;
    use super::*;
    use crate::check::Mismatch;
    use crate::executor::tests::Cpu;

    #[test]
    fn equal_with_any_number_of_threads() {
        for threads in [1, 3, 256] {
            let done = run(
                &Cpu {
                    threads,
                    ..Default::default()
                },
                &options(),
            )
            .unwrap();
            assert_eq!(done.bytes, (1 << 20) / 24 * 24);
        }
    }

    #[test]
    fn a_wrong_last_byte_is_found() {
        let cpu = Cpu {
            threads: 1,
            mistake: Some(|args| {
                // SAFETY: the workload gives these arguments.
                unsafe {
                    let args = &*args.cast::<TriadArgs>();
                    let last = args.a.add(args.count as usize - 1).cast::<u8>();
                    *last ^= 1;
                }
            }),
            ..Default::default()
        };
        let error = run(&cpu, &options()).unwrap_err();
        assert!(error.is::<Mismatch>(), "{error}");
        assert!(error.to_string().contains("a[43689]"), "{error}");
    }

    #[test]
    fn the_kernel_computes_what_its_name_says() {
        let (mut a, b, c) = ([0.0; 3], [1.0, 2.0, 3.0], [10.0, 20.0, 30.0]);
        let mut args = TriadArgs {
            a: a.as_mut_ptr(),
            b: b.as_ptr(),
            c: c.as_ptr(),
            s: 0.5,
            count: 3,
        };
        // SAFETY: the arrays have three elements.
        unsafe { run_on_cpu(&TRIAD, ptr::from_mut(&mut args).cast()) };
        assert_eq!(a, [6.0, 12.0, 18.0]);
    }

    #[test]
    fn too_large_is_refused() {
        let options = Options {
            size: 1 << 60,
            ..options()
        };
        assert!(run(&Cpu::default(), &options).is_err());
    }
}
