// SPDX-License-Identifier: MIT OR Apache-2.0

//! Registers and doorbells, in any order.

#![no_main]

use libfuzzer_sys::fuzz_target;
use tern_vgpu::hw;
use tern_vgpu_fuzz::fuzz;

fuzz_target!(|data: &[u8]| fuzz(data, |machine, input| {
    let device = machine.device();
    while input.has_more() {
        let (what, offset) = (input.byte(), usize::from(input.short()) % hw::REGS_SIZE);
        // Most of the space is empty.
        let register = offset % 0x200;
        match what % 8 {
            0 => drop(device.read(offset, 8)),
            1 => drop(device.read(register & !3, 4)),
            2 => device.write(offset, 8, input.word()),
            3 | 4 => device.write(register & !7, 8, input.word()),
            5 => device.write(register & !3, 4, input.word() & 0xffff_ffff),
            6 => device
                .core
                .bells
                .store(hw::DOORBELL_BASE + register * 8, input.word()),
            _ => machine.program(),
        }
    }
}));
