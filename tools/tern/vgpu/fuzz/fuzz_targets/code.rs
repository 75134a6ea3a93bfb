// SPDX-License-Identifier: MIT OR Apache-2.0

//! Code of anything, on memory that it can write, itself included. What instructions compute is
//! the matter of tests/rv64_random.rs.

#![no_main]

use libfuzzer_sys::fuzz_target;
use tern_vgpu::hw;
use tern_vgpu_fuzz::{fuzz, CODE};

fuzz_target!(|data: &[u8]| fuzz(data, |machine, input| {
    machine.program();
    let args = CODE + u64::from(input.short());
    let threads = 1 + u64::from(input.byte() % 40);
    let mut code = Vec::new();
    while input.has_more() && code.len() < 512 {
        code.push(input.int());
    }
    code.push(0x73);
    machine.set_code(&code);
    machine.dispatch(args, threads);
    machine.control(hw::OP_REPLAY, 0, 0);
    machine.control(hw::OP_QUEUE_STOP, 0, 0);
}));
