// SPDX-License-Identifier: MIT OR Apache-2.0

//! C = A * B in single precision: much computing on little memory.

use std::ptr;

use anyhow::{Context, Result};

use super::{Done, Options};
use crate::check::compare;
use crate::executor::{run_on_cpu, Executor};
use crate::kernels::{GemmArgs, GEMM};
use crate::memory::{check_size, scramble, Buffer};

/// See [`super::Run`].
pub fn run(executor: &dyn Executor, options: &Options) -> Result<Done> {
    let n = options.n;
    let bytes = n
        .checked_mul(n)
        .and_then(|elements| elements.checked_mul(3 * size_of::<f32>() as u64))
        .with_context(|| format!("--n {n} is too large"))?;
    check_size(bytes)?;
    let elements = (n * n) as usize;
    let mut a = Buffer::<f32>::new(elements, options.thp)?;
    let mut b = Buffer::<f32>::new(elements, options.thp)?;
    let mut c = Buffer::<f32>::new(elements, options.thp)?;
    for (i, (a, b)) in a.iter_mut().zip(b.iter_mut()).enumerate() {
        let random = scramble(i as u64);
        *a = f32::from((random >> 16) as i16) / 1024.0;
        *b = f32::from(random as i16) / 1024.0;
    }

    let mut args = GemmArgs {
        c: c.as_mut_ptr(),
        a: a.as_ptr(),
        b: b.as_ptr(),
        n,
    };
    // SAFETY: the three matrices have n * n elements and are not used until this returns.
    unsafe { executor.run(&GEMM, ptr::from_mut(&mut args).cast()) }?;

    let mut expected = vec![0.0; elements];
    args.c = expected.as_mut_ptr();
    // SAFETY: as above.
    unsafe { run_on_cpu(&GEMM, ptr::from_mut(&mut args).cast()) };
    compare("C", 0, &c, &expected)?;
    Ok(Done {
        bytes,
        note: format!("n = {n}"),
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
    fn the_kernel_multiplies_matrices() {
        let (mut c, a, b) = ([0.0f32; 4], [1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0]);
        let mut args = GemmArgs {
            c: c.as_mut_ptr(),
            a: a.as_ptr(),
            b: b.as_ptr(),
            n: 2,
        };
        // SAFETY: the matrices have four elements.
        unsafe { run_on_cpu(&GEMM, ptr::from_mut(&mut args).cast()) };
        assert_eq!(c, [19.0, 22.0, 43.0, 50.0]);
    }

    #[test]
    fn too_large_is_refused() {
        for n in [1 << 30, u64::MAX] {
            assert!(run(&Cpu::default(), &Options { n, ..options() }).is_err());
        }
    }
}
