// SPDX-License-Identifier: MIT OR Apache-2.0

//! Packets of anything on the rings of a device that runs.

#![no_main]

use libfuzzer_sys::fuzz_target;
use tern_vgpu::hw;
use tern_vgpu_fuzz::{fuzz, Input, Machine, Ring};

/// An operation that exists, with flags, or not.
fn op(input: &mut Input<'_>) -> u32 {
    match input.byte() {
        255 => input.int(),
        byte => u32::from(byte % 8) | u32::from(byte >> 3) << 8,
    }
}

fn put(machine: &Machine, input: &mut Input<'_>, ring: Ring) {
    match ring {
        Ring::Control => machine.put(
            ring,
            &hw::ControlPacket {
                op: op(input),
                id: input.byte().into(),
                start: input.word(),
                last: input.word(),
                arg: input.byte().into(),
                fence_addr: input.word(),
                fence_value: 7,
                ..Default::default()
            },
        ),
        Ring::Copy(_) => machine.put(
            ring,
            &hw::CopyPacket {
                op: op(input),
                length: input.word() as u32,
                src: input.word(),
                dst: input.word(),
                fence_addr: input.word(),
                fence_value: 7,
                ..Default::default()
            },
        ),
        Ring::Queue => machine.put(
            ring,
            &hw::DispatchPacket {
                op: op(input),
                stack_size: input.short().into(),
                entry: input.word(),
                args: input.word(),
                threads: input.word(),
                stack: input.word(),
                watchdog_ms: 1,
                fence_addr: input.word(),
                fence_value: 7,
                ..Default::default()
            },
        ),
    }
}

fuzz_target!(|data: &[u8]| fuzz(data, |machine, input| {
    machine.program();
    while input.has_more() {
        let what = input.byte();
        let ring = match what % 4 {
            0 => Ring::Control,
            1 => Ring::Queue,
            n => Ring::Copy(u64::from(n) - 2),
        };
        match what >> 2 & 7 {
            0 => machine.ring(ring, input.word()),
            1 => machine.store(input.word(), input.word()),
            _ => put(machine, input, ring),
        }
    }
}));
