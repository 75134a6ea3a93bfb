// SPDX-License-Identifier: MIT OR Apache-2.0
//! Adds one to every element of a vector, on the device.

use std::error::Error;

use tern::{Device, Location, Module};

const COUNT: u64 = 1 << 20;

#[repr(C)]
struct IncrementArgs {
    values: *mut u64,
    count: u64,
}

fn main() -> Result<(), Box<dyn Error>> {
    let path = std::env::args()
        .nth(1)
        .ok_or("usage: increment kernel.elf")?;
    let kernel = Module::open(path)?.kernel("increment")?;
    let vm = Device::open()?.create_vm()?;
    let queue = vm.create_queue()?;

    let mut values: Vec<u64> = (0..COUNT).collect();
    // A hint: without it, the pages go to the device when it uses them.
    vm.prefetch(values.as_slice(), Location::Device)?;

    let mut args = IncrementArgs {
        values: values.as_mut_ptr(),
        count: COUNT,
    };
    // SAFETY: the kernel takes this struct and changes `count` values, which nothing else uses
    // until the wait is over.
    unsafe { queue.launch(&kernel, &mut args, 1024) }?.wait()?;

    if let Some(wrong) = (0..COUNT).find(|&i| values[i as usize] != i + 1) {
        return Err(format!("element {wrong} is wrong").into());
    }
    let mib = vm.stats()?.bytes_to_device >> 20;
    println!("{COUNT} elements are right; {mib} MiB went to the device");
    Ok(())
}
