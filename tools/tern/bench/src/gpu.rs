// SPDX-License-Identifier: MIT OR Apache-2.0

//! The device, which touches words.

use anyhow::{bail, ensure, Result};
use tern::{Device, Kernel, Module, Queue, Stats, Vm};

use crate::region::{Pages, Region, HUGE};

/// An address space with a queue and the kernel.
pub struct Gpu {
    // Before the address space, so that it is dropped first.
    queue: Queue,
    vm: Vm,
    kernel: Kernel,
}

/// `struct touch_args`.
#[repr(C)]
struct Arguments {
    words: *const *mut u64,
    count: u64,
}

/// Dispatches after which [`Gpu::settle`] gives up.
const SETTLING: usize = 1000;

/// Words that are to be touched. What the device reads to find them is on the device already.
pub struct Plan {
    memory: Region,
    count: usize,
}

impl Gpu {
    /// Prepares the device.
    ///
    /// # Errors
    ///
    /// Where there is none, or it does not do as it must.
    pub fn new() -> Result<Self> {
        let vm = Device::open()?.create_vm()?;
        let module = Module::from_elf(include_bytes!(concat!(env!("OUT_DIR"), "/touch.elf")))?;
        Ok(Self {
            queue: vm.create_queue()?,
            vm,
            kernel: module.kernel("touch")?,
        })
    }

    /// Prepares to touch `words`, and has the device fetch what it needs for that.
    ///
    /// # Errors
    ///
    /// Where the device fails.
    pub fn plan(&self, words: &[*mut u64]) -> Result<Plan> {
        let space = HUGE - 2 * size_of::<Arguments>();
        ensure!(size_of_val(words) <= space, "too many words for one plan");
        let memory = Region::new(HUGE, Pages::Single)?;
        let list = memory.word(0).cast::<*mut u64>();
        let plan = Plan {
            memory,
            count: words.len(),
        };
        // SAFETY: the list and both arguments fit, as was checked; nobody else uses the memory.
        unsafe {
            list.copy_from_nonoverlapping(words.as_ptr(), words.len());
            plan.arguments(0).write(Arguments {
                words: list,
                count: words.len() as u64,
            });
            plan.arguments(1).write(Arguments {
                words: list,
                count: 0,
            });
        }
        // Which moves the plan to the device; then it is found there.
        let settled = self.settle(&plan)?;
        self.launch(&plan, 1, 1)?;
        self.check_no_faults(&settled)?;
        Ok(plan)
    }

    /// Waits until all faults are served that the device has reported; what happened by then.
    ///
    /// The end of a dispatch does not tell that. Whenever some of its faults have been served, all
    /// threads that wait try again, and those whose own is still to be served report it once more.
    /// The driver serves both reports, the second perhaps when the dispatch is over.
    ///
    /// # Errors
    ///
    /// Where the device fails, or reports faults without end.
    pub fn settle(&self, plan: &Plan) -> Result<Stats> {
        // Reports are served in order, so that one that is made now is served after all others.
        // While those are served, it may be made twice itself. Where nothing else is counted with
        // it for two times in a row, there were no others, and it was made once.
        let mut before = self.stats()?;
        let mut alone = 0;
        for _ in 0..SETTLING {
            // SAFETY: the arguments are there, and the device does not use them now. What the CPU
            // reads is brought back, so that the device faults.
            unsafe { plan.arguments(1).read_volatile() };
            self.launch(plan, 1, 1)?;
            let now = self.stats()?;
            alone = if (now - before).faults == 1 {
                alone + 1
            } else {
                0
            };
            if alone == 2 {
                return Ok(now);
            }
            before = now;
        }
        bail!("the device reports faults without end")
    }

    /// Checks that the device did not fault since `earlier`.
    ///
    /// # Errors
    ///
    /// Where it did.
    pub fn check_no_faults(&self, earlier: &Stats) -> Result<()> {
        ensure!(
            self.stats()?.faults == earlier.faults,
            "the device faults on what is there already"
        );
        Ok(())
    }

    /// Has `lanes` threads touch the words of a plan: one is added to each. The memory must be
    /// valid and used by nobody else meanwhile.
    ///
    /// # Errors
    ///
    /// Where the device fails.
    pub fn touch(&self, plan: &Plan, lanes: usize) -> Result<()> {
        self.launch(plan, 0, lanes)
    }

    fn launch(&self, plan: &Plan, which: usize, lanes: usize) -> Result<()> {
        // SAFETY: the arguments are what the kernel takes; they and the words are there and used
        // by nobody else until this returns, as the caller of `touch` promises.
        let dispatch = unsafe {
            self.queue
                .launch(&self.kernel, plan.arguments(which), lanes as u64)
        }?;
        dispatch.wait()?;
        Ok(())
    }

    /// What happened so far.
    ///
    /// # Errors
    ///
    /// Where the driver cannot be asked.
    pub fn stats(&self) -> Result<Stats> {
        Ok(self.vm.stats()?)
    }
}

impl Plan {
    /// The arguments of the dispatch (0), and of one that touches nothing (1): at the end of the
    /// memory.
    fn arguments(&self, which: usize) -> *mut Arguments {
        let end = HUGE / size_of::<Arguments>();
        // SAFETY: within the memory.
        unsafe { self.memory.word(0).cast::<Arguments>().add(end - 1 - which) }
    }

    /// Words that it touches.
    pub fn count(&self) -> usize {
        self.count
    }
}
