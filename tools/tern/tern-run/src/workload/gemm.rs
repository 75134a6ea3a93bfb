// SPDX-License-Identifier: MIT OR Apache-2.0

//! C = A * B in single precision: much computing on little memory.

use std::ptr;

use anyhow::{bail, Result};

use super::{Done, Options};
use crate::check::compare;
use crate::executor::{Executor, MOST_STEPS};
use crate::kernels::{GemmArgs, GEMM};
use crate::memory::{most, scramble, Buffer};

/// See [`super::Run`].
pub fn run(executor: &dyn Executor, options: &Options) -> Result<Done> {
    let n = options.n;
    let bytes = check_n(n)?;
    let elements = (n * n) as usize;
    let mut a = Buffer::<f32>::new(elements, options.thp)?;
    let mut b = Buffer::<f32>::new(elements, options.thp)?;
    let mut c = Buffer::<f32>::new(elements, options.thp)?;
    for (i, (a, b)) in a.iter_mut().zip(b.iter_mut()).enumerate() {
        let random = scramble(i as u64);
        *a = f32::from((random >> 16) as i16) / 1024.0;
        *b = f32::from(random as i16) / 1024.0;
    }

    let n = n as usize;
    // As many rows at a time as a launch has time for.
    let rows = (MOST_STEPS as usize / (n * n)).clamp(1, n);
    multiply(executor, &a, &b, &mut c, n, rows)?;

    let mut expected = vec![0.0; n];
    for (row, (a, c)) in a.chunks_exact(n).zip(c.chunks_exact(n)).enumerate() {
        multiply_row(a, &b, &mut expected);
        compare("C", row * n, c, &expected)?;
    }
    Ok(Done {
        bytes,
        note: format!("n = {n}"),
        ..Default::default()
    })
}

/// Has the device compute the product `c`, so many rows with each launch.
fn multiply(
    executor: &dyn Executor,
    a: &[f32],
    b: &[f32],
    c: &mut [f32],
    n: usize,
    rows: usize,
) -> Result<()> {
    for (a, c) in a.chunks(n * rows).zip(c.chunks_mut(n * rows)) {
        let mut args = GemmArgs {
            c: c.as_mut_ptr(),
            a: a.as_ptr(),
            b: b.as_ptr(),
            n: n as u64,
            rows: (a.len() / n) as u64,
        };
        let steps = (a.len() * n) as u64;
        // SAFETY: these are as many rows of A and C, and all of B; none is used until this returns.
        unsafe { executor.run(&GEMM, ptr::from_mut(&mut args).cast(), steps) }?;
    }
    Ok(())
}

/// Computes a row of the product as the CPU is fast at it, through `b` row after row. Each element
/// is summed up in the order of the kernel, so that all bits are the same.
fn multiply_row(a: &[f32], b: &[f32], sums: &mut [f32]) {
    sums.fill(0.0);
    for (a, b) in a.iter().zip(b.chunks_exact(sums.len())) {
        for (sum, b) in sums.iter_mut().zip(b) {
            *sum += a * b;
        }
    }
}

/// Bytes of an element of each of the three matrices.
const ELEMENTS: u64 = 3 * size_of::<f32>() as u64;

/// Bytes of the matrices.
///
/// # Errors
///
/// Where they are more than a workload may have.
fn check_n(n: u64) -> Result<u64> {
    let bytes = n.saturating_mul(n).saturating_mul(ELEMENTS);
    let most = most();
    if bytes > most {
        bail!(
            "three matrices of {n} rows and columns are more than half of this machine's memory; \
             use at most --n {}",
            (most / ELEMENTS).isqrt()
        );
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::super::tests::options;
    use super::*;
    use crate::check::Mismatch;
    use crate::executor::run_on_cpu;
    use crate::executor::tests::Cpu;

    #[test]
    fn equal_with_any_number_of_threads() {
        for threads in [1, 5, 1000] {
            let done = run(
                &Cpu {
                    threads,
                    ..Default::default()
                },
                &options(),
            )
            .unwrap();
            assert_eq!(done.bytes, 24 * 24 * 12);
        }
    }

    #[test]
    fn an_element_left_out_is_found() {
        let cpu = Cpu {
            threads: 1,
            mistake: Some(|args| {
                // SAFETY: the workload gives these arguments.
                unsafe { *(*args.cast::<GemmArgs>()).c.add(30) = 0.0 };
            }),
            ..Default::default()
        };
        let error = run(&cpu, &options()).unwrap_err();
        assert!(error.is::<Mismatch>(), "{error}");
        assert!(error.to_string().contains("C[30]"), "{error}");
    }

    #[test]
    fn any_number_of_rows_at_a_time_gives_the_same() {
        let a: Vec<f32> = (0..49u8).map(f32::from).collect();
        let b: Vec<f32> = a.iter().map(|value| value / 3.0).collect();
        let mut row = [0.0; 7];
        for (rows, launches) in [(1, 7), (3, 3), (7, 1)] {
            let cpu = Cpu {
                threads: 4,
                ..Default::default()
            };
            let mut c = [0.0; 49];
            multiply(&cpu, &a, &b, &mut c, 7, rows).unwrap();
            assert_eq!(cpu.usage().launches, launches);
            for (a, c) in a.chunks_exact(7).zip(c.chunks_exact(7)) {
                multiply_row(a, &b, &mut row);
                assert_eq!(c, row);
            }
        }
    }

    #[test]
    fn the_kernel_multiplies_matrices() {
        let (mut c, a, b) = ([0.0f32; 4], [1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0]);
        let mut args = GemmArgs {
            c: c.as_mut_ptr(),
            a: a.as_ptr(),
            b: b.as_ptr(),
            n: 2,
            rows: 2,
        };
        // SAFETY: the matrices have four elements.
        unsafe { run_on_cpu(&GEMM, ptr::from_mut(&mut args).cast()) };
        assert_eq!(c, [19.0, 22.0, 43.0, 50.0]);
    }

    #[test]
    fn too_large_is_refused() {
        for n in [1 << 30, u64::MAX] {
            let error = run(&Cpu::default(), &Options { n, ..options() }).unwrap_err();
            let text = error.to_string();
            let most: u64 = text.rsplit(' ').next().unwrap().parse().unwrap();
            check_n(most).unwrap();
            assert!(check_n(most + 1).is_err(), "{text}");
        }
    }
}
