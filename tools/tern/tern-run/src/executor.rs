// SPDX-License-Identifier: MIT OR Apache-2.0

//! Who runs the threads of a kernel: the device, or, in tests, the CPU in its place.

use std::cell::Cell;
use std::ffi::c_void;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tern::{Device, LaunchOptions, Location, Module, Queue, Stats, Vm};

use crate::kernels::Kernel;

/// What all launches together took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// From each launch until its end.
    pub time: Duration,
    /// Instructions that the threads retired.
    pub instructions: u64,
    /// Number of launches.
    pub launches: u64,
}

/// Runs kernels.
pub trait Executor {
    /// Runs all threads of `kernel` with `args`, and waits for them. Together they pass through
    /// the innermost loop of the kernel `steps` times, which says how long it may take.
    ///
    /// # Safety
    ///
    /// `args` must be what the kernel takes, and all that it points to valid for the kernel's
    /// accesses and used by nobody else until this returns.
    unsafe fn run(&self, kernel: &Kernel, args: *mut c_void, steps: u64) -> Result<()>;

    /// Moves memory before it is used.
    ///
    /// # Errors
    ///
    /// Where the driver cannot do it.
    fn prefetch(&self, memory: *const [u8], to: Location) -> Result<()>;

    /// What was run so far.
    fn usage(&self) -> Usage;

    /// What the address space counted so far.
    ///
    /// # Errors
    ///
    /// Where the driver cannot be asked.
    fn stats(&self) -> Result<Stats>;
}

/// The device, with an address space and a queue of its own.
pub struct Gpu {
    // Before the address space, so that it is dropped first.
    queue: Queue,
    vm: Vm,
    threads: u64,
    usage: Cell<Usage>,
}

impl Gpu {
    /// Prepares `device`.
    ///
    /// # Errors
    ///
    /// Where it has no address space or queue left.
    pub fn new(device: &Device) -> Result<Self> {
        let vm = device.create_vm()?;
        let queue = vm.create_queue()?;
        // As many as run at a time: each takes its share, and none has to wait for a place.
        let threads = u64::from(device.info()?.resident_threads.max(1));
        Ok(Self {
            queue,
            vm,
            threads,
            usage: Cell::default(),
        })
    }
}

impl Executor for Gpu {
    unsafe fn run(&self, kernel: &Kernel, args: *mut c_void, steps: u64) -> Result<()> {
        let function = Module::from_elf(kernel.elf)?.kernel(kernel.name)?;
        let limit = limit(steps);
        let options = LaunchOptions {
            timeout: Some(limit),
            ..Default::default()
        };
        let start = Instant::now();
        // SAFETY: promised by the caller, until the wait returns.
        let dispatch = unsafe {
            self.queue
                .launch_with(&function, args, self.threads, options)
        }
        .with_context(|| format!("cannot launch {}", kernel.name))?;
        let report = dispatch
            .wait()
            .with_context(|| format!("{} failed (time limit {limit:?})", kernel.name))?;

        let mut usage = self.usage.get();
        usage.time += start.elapsed();
        usage.instructions += report.instructions;
        usage.launches += 1;
        self.usage.set(usage);
        Ok(())
    }

    fn prefetch(&self, memory: *const [u8], to: Location) -> Result<()> {
        Ok(self.vm.prefetch(memory, to)?)
    }

    fn usage(&self) -> Usage {
        self.usage.get()
    }

    fn stats(&self) -> Result<Stats> {
        Ok(self.vm.stats()?)
    }
}

/// Steps per millisecond that a launch must do at least: a thirtieth of what the virtual GPU does.
const STEPS_PER_MS: u64 = 2_000;

/// Longest time that the driver lets a launch run.
const LONGEST: Duration = Duration::from_secs(60 * 60);

/// Steps of the largest launch that has as much time as it may need.
pub const MOST_STEPS: u64 = LONGEST.as_secs() / 2 * 1000 * STEPS_PER_MS;

/// Time that a launch of `steps` may run before it counts as hung: far more than it takes on a
/// machine that is slow and busy.
fn limit(steps: u64) -> Duration {
    const SHORTEST: Duration = Duration::from_secs(30);
    (SHORTEST + Duration::from_millis(steps / STEPS_PER_MS)).min(LONGEST)
}

/// Runs `kernel` on the CPU, as one thread: this is the result that the device must reach.
///
/// # Safety
///
/// As [`Executor::run`].
pub unsafe fn run_on_cpu(kernel: &Kernel, args: *mut c_void) {
    // SAFETY: promised by the caller.
    unsafe { (kernel.host)(args, 0, 1) }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    #[test]
    fn limits_grow_with_the_work_up_to_an_hour() {
        assert_eq!(limit(1), Duration::from_secs(30));
        assert_eq!(limit(1_000_u64.pow(3)), Duration::from_secs(30 + 500));
        assert_eq!(limit(MOST_STEPS), Duration::from_secs(30 + 1_800));
        assert_eq!(limit(u64::MAX), Duration::from_secs(3_600));
    }

    /// The CPU in the place of the device. It can make a mistake, as a broken device would.
    #[derive(Default)]
    pub struct Cpu {
        pub threads: u64,
        /// Called with the arguments after the kernel.
        pub mistake: Option<fn(*mut c_void)>,
        pub usage: Cell<Usage>,
        /// Bytes that were moved before their use, to the device and to the system.
        pub prefetched: Cell<[usize; 2]>,
    }

    impl Cpu {
        pub fn new(threads: u64) -> Self {
            Self {
                threads,
                ..Default::default()
            }
        }
    }

    impl Executor for Cpu {
        unsafe fn run(&self, kernel: &Kernel, args: *mut c_void, steps: u64) -> Result<()> {
            assert!(steps > 0, "{} has work to do", kernel.name);
            for index in 0..self.threads {
                // SAFETY: promised by the caller.
                unsafe { (kernel.host)(args, index, self.threads) };
            }
            if let Some(mistake) = self.mistake {
                mistake(args);
            }
            let mut usage = self.usage.get();
            usage.launches += 1;
            self.usage.set(usage);
            Ok(())
        }

        fn prefetch(&self, memory: *const [u8], to: Location) -> Result<()> {
            let mut prefetched = self.prefetched.get();
            prefetched[usize::from(to == Location::System)] += memory.len();
            self.prefetched.set(prefetched);
            Ok(())
        }

        fn usage(&self) -> Usage {
            self.usage.get()
        }

        fn stats(&self) -> Result<Stats> {
            Ok(Stats::default())
        }
    }
}
