// SPDX-License-Identifier: MIT OR Apache-2.0

//! Page tables of anything, and kernels that use them.

#![no_main]

use libfuzzer_sys::fuzz_target;
use tern_vgpu::hw;
use tern_vgpu_fuzz::{fuzz, Input, CODE, ROOT};

/// A load, a store and an atomic at a0; then a jump there.
const KERNEL: [u32; 4] = [0x0005_3283, 0x0055_3023, 0x0055_32af, 0x0005_0067];

/// An address near the code, or any.
fn address(input: &mut Input<'_>) -> u64 {
    match input.byte() % 4 {
        0 => input.word(),
        level => CODE.wrapping_add(u64::from(input.short()) << (9 * u32::from(level))),
    }
}

fn entry(input: &mut Input<'_>) -> u64 {
    let addr = match input.byte() % 4 {
        0 => ROOT + u64::from(input.byte() % 4) * 4096,
        _ => input.word(),
    };
    addr & !0xfff | u64::from(input.byte())
}

fuzz_target!(|data: &[u8]| fuzz(data, |machine, input| {
    machine.program();
    machine.set_code(&KERNEL);
    while input.has_more() {
        match input.byte() % 8 {
            0..=2 => {
                let table = ROOT + u64::from(input.byte() % 4) * 4096;
                machine.store(table + 8 * u64::from(input.short() % 512), entry(input));
            }
            3 => machine.store_vram(u64::from(input.short()) * 8, entry(input)),
            4 => machine.dispatch(address(input), 1 + u64::from(input.byte() % 40)),
            5 => machine.control(hw::OP_REPLAY, 0, 0),
            6 => machine.control(hw::OP_INVALIDATE, 0, u64::MAX),
            _ => machine.control(hw::OP_CANCEL, 0, input.byte().into()),
        }
    }
}));
