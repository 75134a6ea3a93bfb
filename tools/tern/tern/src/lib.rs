// SPDX-License-Identifier: MIT OR Apache-2.0

//! Runs kernels on a Tern GPU, on the memory of the calling process.
//!
//! The device shares the address space of the process: what `malloc`, `mmap` or the stack gives
//! can be handed to a kernel as it is. Pages move to the device when it touches them and come back
//! when the CPU does; nothing is copied by hand. A kernel is a C function that stock clang
//! compiles, see `include/tern-kernel.h`.
//!
//! ```no_run
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! #[repr(C)]
//! struct Args {
//!     values: *mut u64,
//!     count: u64,
//! }
//!
//! let device = tern::Device::open()?;
//! let vm = device.create_vm()?;
//! let queue = vm.create_queue()?;
//! let module = tern::Module::open("increment.elf")?;
//!
//! let mut values = vec![41u64; 1 << 20];
//! let mut args = Args { values: values.as_mut_ptr(), count: values.len() as u64 };
//! // SAFETY: the kernel takes this struct and writes `count` values, which nothing else uses
//! // until the wait is over.
//! let dispatch = unsafe { queue.launch(&module.kernel("increment")?, &mut args, 1024) }?;
//! dispatch.wait()?;
//! assert_eq!(values[0], 42);
//! println!("{:?}", vm.stats()?);
//! # Ok(())
//! # }
//! ```
//!
//! The C interface is in `include/tern.h`. Whole programs are in `examples/`.
//!
//! What can go wrong is an error and has a type; the library does not panic.

#![cfg_attr(
    not(test),
    warn(
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::panic,
        clippy::todo,
        clippy::unimplemented,
        clippy::unreachable,
        clippy::unwrap_used
    )
)]

mod capi;
mod device;
mod error;
mod module;
mod queue;
mod sys;
mod uapi;
mod vm;

pub use device::{Device, DeviceInfo, DEVICE_VARIABLE};
pub use error::{Access, Error, LaunchError, ModuleError};
pub use module::{Kernel, Module};
pub use queue::{Dispatch, LaunchOptions, Queue, QueueOptions, Report};
pub use vm::{Location, Stats, Vm};
