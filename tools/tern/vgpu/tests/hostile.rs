// SPDX-License-Identifier: MIT OR Apache-2.0

//! Whatever a guest writes, the device goes on and can be used again after a reset.

// Shifts within `|` and `&` are how bit fields are written.
#![allow(clippy::precedence)]

mod support;

use proptest::collection::vec;
use proptest::prelude::*;
use support::{asm, options, Guest, RAM, RAM_SIZE};
use tern_vgpu::hw;

const CODE: u64 = 0x10_0000_0000;

/// Words that are more likely to be interesting than others.
fn word() -> impl Strategy<Value = u64> {
    prop_oneof![
        any::<u64>(),
        0..64u64,
        (0..64u64).prop_map(|shift| 1 << shift),
        (0..RAM_SIZE).prop_map(|offset| RAM + offset),
        (0..RAM_SIZE / 4096).prop_map(|page| RAM + page * 4096),
        Just(u64::MAX),
    ]
}

fn first_word() -> impl Strategy<Value = u32> {
    prop_oneof![
        4 => (0..7u32, 0..16u32).prop_map(|(op, flags)| op | flags << 8),
        1 => any::<u32>(),
    ]
}

/// A packet of any ring, as words.
fn packet() -> impl Strategy<Value = [u64; 8]> {
    let small = prop_oneof![3 => 0..1u32 << 16, 1 => any::<u32>()];
    (first_word(), small, vec(word(), 7)).prop_map(|(op, second, rest)| {
        let mut words = [0; 8];
        words[0] = u64::from(op) | u64::from(second) << 32;
        words[1..].copy_from_slice(&rest);
        words
    })
}

/// Shows that the device works, from a reset on.
fn works(guest: &mut Guest) {
    guest.write32(hw::REG_CONTROL, hw::CONTROL_RESET);
    assert_eq!(guest.read32(hw::REG_STATUS), hw::STATUS_READY);
    assert_eq!(guest.read32(hw::REG_ERROR), 0);
    guest.program();
    guest.enable();
    let root = guest.space(1);
    let entry = guest.program_at(root, CODE, &[asm::ECALL]);
    let mut queue = guest.start_queue(0, 1);
    let fence = guest.dispatch(
        &mut queue,
        hw::DispatchPacket {
            op: hw::OP_DISPATCH,
            entry,
            threads: 100,
            ..Default::default()
        },
    );
    assert_eq!(guest.wait_fence(fence).status, hw::COMPLETE_OK);
    for engine in 0..guest.copies.len() {
        let fence = guest.copy(engine, hw::CopyPacket::default());
        assert_eq!(guest.wait_fence(fence).status, hw::COMPLETE_OK);
    }
}

/// Writes packets as words, so that members have any value.
fn put(guest: &Guest, base: u64, packets: &[[u64; 8]]) {
    for (i, word) in packets.iter().flatten().enumerate() {
        guest.store(base + 8 * i as u64, *word);
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 60,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn rings_of_anything(
        control in vec(packet(), 0..64),
        copies in vec(packet(), 0..64),
        dispatches in vec(packet(), 0..64),
        puts in vec(prop_oneof![4 => 0..70u64, 1 => word()], 6),
    ) {
        let mut guest = Guest::new(options());
        guest.space(1);
        let queue = guest.start_queue(1, 1);
        let (ctrl, copy) = (guest.ctrl, guest.copies[0]);
        put(&guest, ctrl.base + 64, &control[..control.len().min(63)]);
        put(&guest, copy.base, &copies);
        put(&guest, queue.base, &dispatches);
        let bells = [
            (ctrl.bell, puts[0].wrapping_add(1)),
            (copy.bell, puts[1]),
            (queue.bell, puts[2]),
            (guest.faults.bell, puts[3]),
            (guest.access.bell, puts[4]),
            (hw::DOORBELL_QUEUE + 8 * 9, puts[5]),
        ];
        for (bell, put) in bells {
            guest.doorbell(bell, put);
        }
        works(&mut guest);
    }

    #[test]
    fn registers_of_anything(writes in vec((0..0x200usize, word(), any::<bool>()), 0..80)) {
        let mut guest = Guest::cold(options());
        for (register, value, wide) in writes {
            if wide {
                guest.write64(register & !7, value);
            } else {
                guest.write32(register & !3, value as u32);
            }
            guest.read64(register);
        }
        works(&mut guest);
    }

    #[test]
    fn tables_of_anything(
        entries in vec((0..512u64, word(), any::<u8>()), 1..200),
        root in word(),
        addresses in vec(word(), 1..16),
    ) {
        let mut guest = Guest::new(options());
        let table = guest.space(1);
        guest.program_at(table, CODE, &[asm::ld(asm::T0, asm::A0, 0), asm::ECALL]);
        // Tables that point anywhere, themselves included, with likely flags.
        for (index, value, flags) in entries {
            let entry = value & hw::ENTRY_ADDR | u64::from(flags);
            let own = if flags & 0x80 != 0 { table | u64::from(flags & 0x3f) } else { entry };
            if index != CODE >> 39 & 511 {
                guest.vram.run(table + 8 * index, 8, true).unwrap().store(0, own);
            }
        }
        let mut queue = guest.start_queue(1, 1);
        for address in addresses {
            guest.dispatch(&mut queue, hw::DispatchPacket {
                op: hw::OP_DISPATCH,
                entry: CODE,
                args: address,
                threads: 1,
                ..Default::default()
            });
            guest.replay();
        }
        guest.set_space(1, root);
        guest.invalidate(1, 0, u64::MAX);
        guest.replay();
        works(&mut guest);
    }
}
