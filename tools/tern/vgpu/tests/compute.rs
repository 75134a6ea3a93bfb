// SPDX-License-Identifier: MIT OR Apache-2.0

//! Dispatches, translation and faults, seen from a guest.

mod support;

use support::asm::{self, add, addi, amoadd, ld, sd, slli, srli, A0, A1, T0, T1, T2, ZERO};
use support::{options, Guest, Ring, STOPS};
use tern_vgpu::hw;

const CODE: u64 = 0x10_0000_0000;
const DATA: u64 = 0x20_0000_0000;
const RW: u64 = hw::ENTRY_SYSTEM | hw::ENTRY_WRITE | hw::ENTRY_ATOMIC;

/// a0[index] = index.
fn store_index() -> Vec<u32> {
    vec![slli(T0, A1, 3), add(T0, T0, A0), sd(A1, T0, 0), asm::RET]
}

/// a0[1] = a0[0] + 1.
fn load_store() -> Vec<u32> {
    vec![ld(T0, A0, 0), addi(T0, T0, 1), sd(T0, A0, 8), asm::ECALL]
}

/// Adds 1 to a0[0] atomically.
fn count() -> Vec<u32> {
    vec![addi(T0, ZERO, 1), amoadd(T1, T0, A0), asm::ECALL]
}

fn packet(entry: u64, args: u64, threads: u64) -> hw::DispatchPacket {
    hw::DispatchPacket {
        op: hw::OP_DISPATCH,
        entry,
        args,
        threads,
        ..Default::default()
    }
}

/// A guest with one address space (1), one queue (3) in it, and a program mapped at `CODE`.
fn ready(program: &[u32]) -> (Guest, u64, Ring) {
    ready_with(options(), program)
}

fn ready_with(options: tern_vgpu::options::Options, program: &[u32]) -> (Guest, u64, Ring) {
    let mut guest = Guest::new(options);
    let root = guest.space(1);
    guest.program_at(root, CODE, program);
    let queue = guest.start_queue(3, 1);
    (guest, root, queue)
}

#[test]
fn threads_get_their_arguments() {
    let (mut guest, root, mut queue) = ready(&store_index());
    let data = guest.alloc(16 << 12, 4096);
    for page in 0..16 {
        guest.map(root, DATA + (page << 12), data + (page << 12), 12, RW);
    }
    let threads = 5000;
    let fence = guest.dispatch(&mut queue, packet(CODE, DATA, threads));
    let fence = guest.wait_fence(fence);
    assert_eq!(fence.status, hw::COMPLETE_OK);
    assert_eq!(fence.count, 4 * threads);
    guest.wait_interrupt(hw::VECTOR_COMPUTE);
    for index in 0..threads {
        assert_eq!(guest.load(data + 8 * index), index);
    }
    assert_eq!(guest.index(&queue), 1);
}

#[test]
fn leaves_of_all_sizes_reach_both_apertures() {
    let (mut guest, root, mut queue) = ready(&load_store());
    let mut value = 100;
    for shift in [12, 16, 21] {
        for system in [true, false] {
            let size = 1 << shift;
            let (at, flags) = if system {
                (guest.alloc(size, size), RW)
            } else {
                (guest.vram_alloc(size, size), hw::ENTRY_WRITE)
            };
            let va = DATA + (value << 24);
            guest.map(root, va, at, shift, flags);
            for offset in [0, size / 2, size - 16] {
                value += 1;
                guest.set_bytes(system, at + offset, &value.to_le_bytes());
                let fence = guest.dispatch(&mut queue, packet(CODE, va + offset, 1));
                assert_eq!(guest.wait_fence(fence).status, hw::COMPLETE_OK);
                let got = guest.bytes(system, at + offset + 8, 8);
                assert_eq!(
                    got,
                    (value + 1).to_le_bytes(),
                    "shift {shift}, system {system}"
                );
            }
        }
    }
}

#[test]
fn tables_may_be_in_system_memory() {
    let (mut guest, _, mut queue) = ready(&[asm::ECALL]);
    let tables: Vec<u64> = (0..4).map(|_| guest.alloc(4096, 4096)).collect();
    let code = guest.alloc(4096, 4096);
    guest.set_words(true, code, &[asm::ECALL]);
    for (n, level) in (0..4).rev().enumerate() {
        let index = CODE >> (12 + 9 * level) & 511;
        let next = tables.get(n + 1).copied().unwrap_or(code | hw::ENTRY_LEAF);
        let entry = next | hw::ENTRY_VALID | hw::ENTRY_SYSTEM;
        guest.store(tables[n] + 8 * index, entry);
    }
    guest.set_space(1, tables[0] | hw::ENTRY_VALID | hw::ENTRY_SYSTEM);
    guest.invalidate(1, 0, u64::MAX);
    let fence = guest.dispatch(&mut queue, packet(CODE, 0, 64));
    assert_eq!(guest.wait_fence(fence).status, hw::COMPLETE_OK);
}

#[test]
fn faults_are_repaired_and_replayed() {
    let (mut guest, root, mut queue) = ready(&store_index());
    let data = guest.alloc(2 << 12, 4096);
    let fence = guest.dispatch(&mut queue, packet(CODE, DATA, 1024));
    let mut pages = std::collections::BTreeSet::new();
    while pages.len() < 2 {
        for fault in guest.wait_faults() {
            assert_eq!((fault.asid, fault.queue, fault.dispatch), (1, 3, 0));
            assert_eq!(fault.access, hw::ACCESS_WRITE);
            assert_eq!(fault.reason, hw::FAULT_ABSENT);
            assert!(fault.lanes != 0 && fault.timestamp != 0);
            pages.insert(fault.addr >> 12);
        }
    }
    assert_ne!(guest.load(fence.0), fence.1);
    for page in pages {
        let va = page << 12;
        guest.map(root, va, data + (va - DATA), 12, RW);
    }
    guest.replay();
    assert_eq!(guest.wait_fence(fence).status, hw::COMPLETE_OK);
    for index in 0..1024 {
        assert_eq!(guest.load(data + 8 * index), index);
    }
}

#[test]
fn rights_are_checked() {
    let cases = [
        (load_store(), hw::ENTRY_SYSTEM, hw::ACCESS_WRITE),
        (count(), hw::ENTRY_SYSTEM, hw::ACCESS_ATOMIC),
        (
            count(),
            hw::ENTRY_SYSTEM | hw::ENTRY_WRITE,
            hw::ACCESS_ATOMIC,
        ),
    ];
    for (program, flags, access) in cases {
        let (mut guest, root, mut queue) = ready(&program);
        let data = guest.alloc(4096, 4096);
        guest.map(root, DATA, data, 12, flags);
        let fence = guest.dispatch(&mut queue, packet(CODE, DATA, 1));
        let faults = guest.wait_faults();
        assert_eq!(faults.len(), 1);
        assert_eq!(faults[0].reason, hw::FAULT_PERMISSION);
        assert_eq!(faults[0].access, access);
        // A right that is added needs no invalidation.
        guest.map(root, DATA, data, 12, RW);
        guest.replay();
        assert_eq!(guest.wait_fence(fence).status, hw::COMPLETE_OK);
        assert_eq!(guest.load(data) + guest.load(data + 8), 1);
    }
}

#[test]
fn fetches_and_wild_addresses_fault() {
    let (mut guest, _, mut queue) = ready(&load_store());
    let cases = [
        (DATA, 0, hw::ACCESS_FETCH, hw::FAULT_ABSENT, DATA),
        (CODE, 1 << 50, hw::ACCESS_READ, hw::FAULT_RANGE, 1 << 50),
    ];
    for (index, (entry, args, access, reason, addr)) in cases.into_iter().enumerate() {
        let fence = guest.dispatch(&mut queue, packet(entry, args, 8));
        let faults = guest.wait_faults();
        assert_eq!(faults.len(), 1);
        assert_eq!((faults[0].access, faults[0].reason), (access, reason));
        assert_eq!((faults[0].addr, faults[0].dispatch), (addr, index as u64));
        assert_eq!(faults[0].lanes, 0xff);
        // Another dispatch's number changes nothing.
        cancel(&mut guest, addr, access, 77);
        assert_eq!(faults_again(&mut guest).len(), 1);
        cancel(&mut guest, addr, access, index as u64);
        let fence = guest.wait_fence(fence);
        assert_eq!(fence.status, hw::COMPLETE_FAULT);
        assert_eq!((fence.info, fence.access), (addr, access));
    }
}

/// Cancels a dispatch of queue 3.
fn cancel(guest: &mut Guest, start: u64, access: u32, dispatch: u64) {
    let done = guest.control(hw::ControlPacket {
        op: hw::OP_CANCEL,
        id: 3,
        start,
        last: dispatch,
        arg: access,
        ..Default::default()
    });
    assert_eq!(done.status, hw::COMPLETE_OK);
}

/// Lets what waits try again, which fails.
fn faults_again(guest: &mut Guest) -> Vec<hw::FaultEntry> {
    guest.replay();
    guest.wait_faults()
}

#[test]
fn cancel_is_for_what_is_waited_for() {
    let (mut guest, root, mut queue) = ready(&load_store());
    let data = guest.alloc(4096, 4096);
    let fence = guest.dispatch(&mut queue, packet(CODE, DATA, 1));
    assert_eq!(guest.wait_faults()[0].access, hw::ACCESS_READ);
    cancel(&mut guest, DATA + 4096, hw::ACCESS_READ, 0);
    cancel(&mut guest, DATA, hw::ACCESS_WRITE, 0);
    assert_eq!(faults_again(&mut guest)[0].access, hw::ACCESS_READ);
    // The load succeeds, and the entry of its fault is stale.
    guest.map(root, DATA, data, 12, hw::ENTRY_SYSTEM);
    assert_eq!(faults_again(&mut guest)[0].access, hw::ACCESS_WRITE);
    cancel(&mut guest, DATA, hw::ACCESS_READ, 0);
    guest.map(root, DATA, data, 12, RW);
    guest.replay();
    assert_eq!(guest.wait_fence(fence).status, hw::COMPLETE_OK);
    assert_eq!(guest.load(data + 8), 1);
}

#[test]
fn translations_stay_until_invalidated() {
    for shift in [12, 16, 21] {
        let (mut guest, root, mut queue) = ready(&load_store());
        let size = 1 << shift;
        let (old, new) = (guest.alloc(size, size), guest.alloc(size, size));
        guest.map(root, DATA, old, shift, RW);
        let mut run = |guest: &mut Guest| {
            let fence = guest.dispatch(&mut queue, packet(CODE, DATA, 1));
            assert_eq!(guest.wait_fence(fence).status, hw::COMPLETE_OK);
        };
        run(&mut guest);
        assert_eq!((guest.load(old + 8), guest.load(new + 8)), (1, 0));
        guest.map(root, DATA, new, shift, RW);
        guest.store(old + 8, 0);
        // Of another space, or of other addresses.
        guest.invalidate(2, 0, u64::MAX);
        guest.invalidate(1, 0, DATA - 1);
        guest.invalidate(1, DATA + size, u64::MAX);
        run(&mut guest);
        assert_eq!(
            (guest.load(old + 8), guest.load(new + 8)),
            (1, 0),
            "{shift}"
        );
        guest.invalidate(1, DATA + size - 1, DATA + size - 1);
        run(&mut guest);
        assert_eq!(guest.load(new + 8), 1, "{shift}");
    }
}

#[test]
fn nothing_is_written_behind_an_invalidation() {
    // for (;;) a0[0] += 1, without atomics.
    let program = [
        ld(T0, A0, 0),
        addi(T0, T0, 1),
        sd(T0, A0, 0),
        asm::beq_back(ZERO, ZERO, 3),
    ];
    let (mut guest, root, mut queue) = ready(&program);
    let data = guest.alloc(4096, 4096);
    guest.map(root, DATA, data, 12, RW);
    let fence = guest.dispatch(&mut queue, packet(CODE, DATA, 1));
    for _ in 0..200 {
        let before = guest.load(data);
        guest.until("work", |guest| guest.load(data) != before);
        guest.set_entry(root, DATA, 0, 0);
        guest.invalidate(1, DATA, DATA);
        let after = guest.load(data);
        assert!(guest
            .wait_faults()
            .iter()
            .all(|fault| fault.addr >> 12 == DATA >> 12));
        assert_eq!(guest.load(data), after);
        guest.map(root, DATA, data, 12, RW);
        guest.replay();
    }
    guest.stop_queue(3);
    assert_eq!(guest.wait_fence(fence).status, hw::COMPLETE_STOPPED);
}

#[test]
fn a_full_fault_ring_loses_no_thread() {
    // Each thread has a page of its own: a0[512 * index] = index.
    let program = [slli(T0, A1, 12), add(T0, T0, A0), sd(A1, T0, 0), asm::RET];
    let (mut guest, root, mut queue) = ready(&program);
    let threads = 256;
    let data = guest.alloc(threads << 12, 4096);
    let fence = guest.dispatch(&mut queue, packet(CODE, DATA, threads));
    guest.until("the overflow", |guest| guest.overflow() == threads - 64);
    let mut rounds = 0;
    while guest.load(fence.0) != fence.1 {
        let faults = guest.take_faults();
        for fault in &faults {
            let offset = (fault.addr - DATA) & !4095;
            guest.map(root, DATA + offset, data + offset, 12, RW);
        }
        guest.replay();
        rounds += usize::from(!faults.is_empty());
        assert!(rounds < 1000);
    }
    assert!(rounds >= 4);
    assert_eq!(guest.wait_fence(fence).status, hw::COMPLETE_OK);
    for index in 0..threads {
        assert_eq!(guest.load(data + (index << 12)), index);
    }
}

#[test]
fn atomics_of_all_waves_add_up() {
    let mut options = options();
    options.compute_threads = 2;
    options.lanes = 7;
    options.resident = 50;
    let (mut guest, root, mut queue) = ready_with(options, &count());
    let data = guest.alloc(4096, 4096);
    guest.map(root, DATA, data, 12, RW);
    let fence = guest.dispatch(&mut queue, packet(CODE, DATA, 10_001));
    assert_eq!(guest.wait_fence(fence).status, hw::COMPLETE_OK);
    assert_eq!(guest.load(data), 10_001);
}

#[test]
fn every_resident_thread_has_its_stack() {
    // *(sp - 8) = index. A wave uses as many stacks as it has threads, from the lowest that is free.
    const SP: u32 = 2;
    let mut options = options();
    (options.resident, options.lanes) = (32, 8);
    let (mut guest, root, mut queue) = ready_with(options, &[sd(A1, SP, -8), asm::RET]);
    let data = guest.alloc(4096, 4096);
    guest.map(root, DATA, data, 12, RW);
    let mut dispatch = packet(CODE, 0, 8);
    (dispatch.stack, dispatch.stack_size) = (DATA, 32);
    let fence = guest.dispatch(&mut queue, dispatch);
    assert_eq!(guest.wait_fence(fence).status, hw::COMPLETE_OK);
    for index in 0..8 {
        assert_eq!(guest.load(data + 32 * (index + 1) - 8), index);
    }
    assert_eq!(guest.load(data + 32 * 9 - 8), 0);
    // No more stacks than resident threads.
    dispatch.threads = 6400;
    let fence = guest.dispatch(&mut queue, dispatch);
    assert_eq!(guest.wait_fence(fence).status, hw::COMPLETE_OK);
    let beyond = guest.bytes(true, data + 32 * 32, 4096 - 32 * 32);
    assert!(beyond.into_iter().all(|byte| byte == 0));
}

#[test]
fn a_wild_queue_does_not_stop_others() {
    let (mut guest, root, mut wild) = ready(&[asm::LOOP]);
    let other = guest.program_at(root, CODE + 4096, &store_index());
    let data = guest.alloc(4096, 4096);
    guest.map(root, DATA, data, 12, RW);
    let mut endless = packet(CODE, 0, 1024);
    let first = guest.dispatch(&mut wild, endless);
    let mut tame = guest.start_queue(4, 1);
    for _ in 0..20 {
        let fence = guest.dispatch(&mut tame, packet(other, DATA, 512));
        assert_eq!(guest.wait_fence(fence).status, hw::COMPLETE_OK);
    }
    assert_ne!(guest.load(first.0), first.1);
    guest.stop_queue(3);
    assert_eq!(guest.wait_fence(first).status, hw::COMPLETE_STOPPED);
    assert_eq!(guest.load(wild.writeback + 16), hw::QUEUE_OFF);
    wild = guest.start_queue(3, 1);
    endless.watchdog_ms = 20;
    let second = guest.dispatch(&mut wild, endless);
    let third = guest.dispatch(&mut wild, packet(other, DATA, 1));
    assert_eq!(guest.wait_fence(second).status, hw::COMPLETE_TIMEOUT);
    assert_eq!(guest.wait_fence(third).status, hw::COMPLETE_OK);
}

#[test]
fn the_watchdog_ends_threads_without_end() {
    let (mut guest, _, mut queue) = ready(&[asm::RET]);
    let mut dispatch = packet(CODE, 0, u64::MAX);
    dispatch.watchdog_ms = 20;
    let fence = guest.dispatch(&mut queue, dispatch);
    assert_eq!(guest.wait_fence(fence).status, hw::COMPLETE_TIMEOUT);
}

#[test]
fn the_watchdog_does_not_count_waits() {
    let (mut guest, root, mut queue) = ready(&load_store());
    let data = guest.alloc(4096, 4096);
    let mut dispatch = packet(CODE, DATA, 1);
    dispatch.watchdog_ms = 1;
    let begin = std::time::Instant::now();
    let fence = guest.dispatch(&mut queue, dispatch);
    guest.wait_faults();
    guest.until("time to pass", |_| begin.elapsed().as_millis() > 50);
    guest.map(root, DATA, data, 12, RW);
    guest.replay();
    assert_eq!(guest.wait_fence(fence).status, hw::COMPLETE_OK);
}

#[test]
fn traps_end_the_dispatch() {
    let misaligned = [addi(T2, A0, 1), amoadd(T0, T1, T2)];
    let cases: [(&[u32], u32, u64); 3] = [
        (&[asm::ILLEGAL], hw::COMPLETE_ILLEGAL, CODE),
        (
            &[addi(T0, T0, 1), 0xffff_ffff],
            hw::COMPLETE_ILLEGAL,
            CODE + 4,
        ),
        (&misaligned, hw::COMPLETE_MISALIGNED, DATA + 1),
    ];
    for (program, status, info) in cases {
        let (mut guest, root, mut queue) = ready(program);
        let data = guest.alloc(4096, 4096);
        guest.map(root, DATA, data, 12, RW);
        let fence = guest.dispatch(&mut queue, packet(CODE, DATA, 100));
        let fence = guest.wait_fence(fence);
        assert_eq!((fence.status, fence.info), (status, info));
    }
}

#[test]
fn malformed_tables_end_the_dispatch() {
    let valid = hw::ENTRY_VALID;
    let leaf = valid | hw::ENTRY_LEAF;
    let cases = [
        // A leaf at level 3 or 2, a misaligned one at level 1, none at level 0.
        (3, leaf),
        (2, leaf),
        (1, leaf | 0x1000),
        (0, valid),
        // Groups that are none.
        (1, leaf | hw::ENTRY_64K),
        (0, leaf | hw::ENTRY_64K | 0x1000),
        // Reserved bits.
        (0, leaf | 1 << 7),
        // Outside of VRAM, and of system memory.
        (0, leaf | 0x000f_0000_0000_0000),
        (2, valid | 0x000f_0000_0000_0000),
        (1, leaf | hw::ENTRY_SYSTEM | 0x000f_0000_0000_0000),
        (1, valid | hw::ENTRY_SYSTEM),
    ];
    let (mut guest, root, mut queue) = ready(&load_store());
    for (n, (level, entry)) in cases.into_iter().enumerate() {
        // Each with tables of its own.
        let va = DATA + ((n as u64 + 1) << 39);
        guest.set_entry(root, va, level, entry);
        guest.write32(hw::REG_ERROR, u32::MAX);
        let fence = guest.dispatch(&mut queue, packet(CODE, va, 3));
        let fence = guest.wait_fence(fence);
        assert_eq!(
            (fence.status, fence.info),
            (hw::COMPLETE_PAGE_TABLE, va),
            "case {n}"
        );
        assert_eq!(guest.read32(hw::REG_ERROR), hw::ERROR_PAGE_TABLE);
        assert_eq!(guest.read64(hw::REG_ERROR_INFO), va);
    }
}

/// Dispatches a thread in a queue whose address space is malformed.
fn expect_malformed(guest: &mut Guest, queue: &mut Ring, what: &str) {
    guest.write32(hw::REG_ERROR, u32::MAX);
    let fence = guest.dispatch(queue, packet(CODE, 0, 1));
    let fence = guest.wait_fence(fence);
    let told = (fence.status, fence.info);
    assert_eq!(told, (hw::COMPLETE_PAGE_TABLE, CODE), "{what}");
    assert_eq!(guest.read64(hw::REG_ERROR_INFO), CODE, "{what}");
    assert_ne!(guest.read32(hw::REG_ERROR) & hw::ERROR_PAGE_TABLE, 0);
}

#[test]
fn malformed_address_spaces_end_the_dispatch() {
    let (mut guest, root, mut queue) = ready(&[asm::ECALL]);
    let good = hw::AddressSpace {
        root: root | hw::ENTRY_VALID,
        reserved: 0,
    };
    let wrong_bits = (6..12).map(|bit| 1 << bit);
    let mut wrong: Vec<hw::AddressSpace> = [hw::ENTRY_LEAF, hw::ENTRY_64K]
        .into_iter()
        .chain(wrong_bits)
        .map(|bits| hw::AddressSpace {
            root: good.root | bits,
            ..good
        })
        .collect();
    wrong.push(hw::AddressSpace {
        reserved: 1 << 63,
        ..good
    });
    for entry in wrong {
        let what = format!("{:#x} {:#x}", entry.root, entry.reserved);
        guest.set_space_entry(1, &entry);
        guest.invalidate(1, 0, u64::MAX);
        expect_malformed(&mut guest, &mut queue, &what);
    }
    // What has no meaning in a table entry, and what is ignored.
    let ignored = hw::ENTRY_WRITE | hw::ENTRY_ATOMIC | 0xfff << 52;
    guest.set_space(1, good.root | ignored);
    guest.invalidate(1, 0, u64::MAX);
    let fence = guest.dispatch(&mut queue, packet(CODE, 0, 1));
    assert_eq!(guest.wait_fence(fence).status, hw::COMPLETE_OK);
    // Without ENTRY_VALID there is nothing to be malformed: the driver may still repair it.
    guest.set_space_entry(
        1,
        &hw::AddressSpace {
            root: !hw::ENTRY_VALID,
            reserved: 1,
        },
    );
    guest.invalidate(1, 0, u64::MAX);
    let fence = guest.dispatch(&mut queue, packet(CODE, 0, 1));
    assert_eq!(guest.wait_faults()[0].reason, hw::FAULT_ABSENT);
    guest.set_space_entry(1, &good);
    guest.replay();
    assert_eq!(guest.wait_fence(fence).status, hw::COMPLETE_OK);
}

#[test]
fn address_spaces_out_of_the_table_are_malformed() {
    let (mut guest, _, mut queue) = ready(&[asm::ECALL]);
    // A queue is not started in one that the table does not have.
    let ring = guest.ring(6, 0, 0);
    guest.set_queue(4, 1 << support::TABLE_LOG2, &ring);
    let start = hw::ControlPacket {
        op: hw::OP_QUEUE_START,
        id: 4,
        ..Default::default()
    };
    assert_eq!(guest.control(start).status, hw::COMPLETE_BAD_PACKET);
    // The table shrinks, or goes, under a queue that runs.
    guest.write32(hw::REG_AS_LOG2, 0);
    expect_malformed(&mut guest, &mut queue, "beyond the end");
    assert_eq!(guest.read32(hw::REG_ERROR), hw::ERROR_PAGE_TABLE);
    guest.write32(hw::REG_AS_LOG2, support::TABLE_LOG2);
    guest.write64(hw::REG_AS_BASE, support::RAM + support::RAM_SIZE);
    expect_malformed(&mut guest, &mut queue, "out of reach");
    let errors = hw::ERROR_PAGE_TABLE | hw::ERROR_DMA;
    assert_eq!(guest.read32(hw::REG_ERROR), errors);
}

#[test]
fn an_odd_entry_begins_at_the_even_address_below() {
    let (mut guest, root, mut queue) = ready(&load_store());
    let data = guest.alloc(4096, 4096);
    guest.map(root, DATA, data, 12, RW);
    let fence = guest.dispatch(&mut queue, packet(CODE + 1, DATA, 1));
    assert_eq!(guest.wait_fence(fence).status, hw::COMPLETE_OK);
    assert_eq!(guest.load(data + 8), 1);
}

#[test]
fn bad_packets_are_refused() {
    let (mut guest, _, mut queue) = ready(&[asm::ECALL]);
    let good = packet(CODE, 0, 1);
    let cases = [
        hw::DispatchPacket { threads: 0, ..good },
        hw::DispatchPacket {
            stack_size: 8,
            ..good
        },
        hw::DispatchPacket {
            reserved: 1,
            ..good
        },
        hw::DispatchPacket { op: 200, ..good },
        hw::DispatchPacket {
            op: good.op | 1 << 30,
            ..good
        },
    ];
    for bad in cases {
        guest.write32(hw::REG_ERROR, u32::MAX);
        let fence = guest.dispatch(&mut queue, bad);
        assert_eq!(guest.wait_fence(fence).status, hw::COMPLETE_BAD_PACKET);
        assert_eq!(guest.read32(hw::REG_ERROR), hw::ERROR_PACKET);
    }
    let fence = guest.dispatch(&mut queue, good);
    assert_eq!(guest.wait_fence(fence).status, hw::COMPLETE_OK);
}

#[test]
fn unmapped_memory_is_not_used() {
    let (mut guest, root, mut queue) = ready(&[
        ld(T0, A0, 0),
        addi(T0, T0, 1),
        sd(T0, A0, 0),
        asm::beq_back(ZERO, ZERO, 3),
    ]);
    let data = guest.alloc(4096, 4096);
    guest.map(root, DATA, data, 12, RW);
    guest.dispatch(&mut queue, packet(CODE, DATA, 1));
    guest.until("work", |guest| guest.load(data) > 1000);
    guest
        .client
        .dma_unmap(support::RAM, support::RAM_SIZE)
        .unwrap();
    let after = guest.load(data);
    assert_ne!(guest.read32(hw::REG_STATUS) & hw::STATUS_ENABLED, 0);
    assert_eq!(guest.load(data), after);
}

/// Starts a device that was stopped.
fn restart(guest: &mut Guest, root: u64, reset: bool) -> Ring {
    assert_eq!(guest.read32(hw::REG_STATUS), hw::STATUS_READY);
    assert_eq!(guest.read64(hw::REG_AS_BASE) == 0, reset);
    guest.program();
    guest.enable();
    guest.set_space(1, root | hw::ENTRY_VALID);
    guest.invalidate(1, 0, u64::MAX);
    guest.start_queue(3, 1)
}

#[test]
fn stopped_in_the_middle_of_work() {
    let (mut guest, root, mut queue) = ready(&[
        ld(T0, A0, 0),
        addi(T0, T0, 1),
        sd(T0, A0, 0),
        asm::beq_back(ZERO, ZERO, 3),
    ]);
    for (stop, reset) in STOPS.into_iter().cycle().take(12) {
        let data = guest.alloc(4096, 4096);
        guest.map(root, DATA, data, 12, RW);
        let fence = guest.dispatch(&mut queue, packet(CODE, DATA, 64));
        guest.until("work", |guest| guest.load(data) > 1000);
        stop(&mut guest);
        let after = guest.load(data);
        assert_eq!(guest.bell(queue.bell), 0);
        queue = restart(&mut guest, root, reset);
        assert_eq!(guest.load(data), after);
        assert_ne!(guest.load(fence.0), fence.1);
    }
}

#[test]
fn stopped_while_threads_wait_for_a_fault() {
    let (mut guest, root, mut queue) = ready(&load_store());
    for (stop, reset) in STOPS.into_iter().cycle().take(12) {
        let waiting = guest.dispatch(&mut queue, packet(CODE, DATA, 64));
        guest.until("the faults", |guest| guest.index(&guest.faults) >= 2);
        stop(&mut guest);
        let old = guest.faults;
        let told = guest.index(&old);
        queue = restart(&mut guest, root, reset);
        // They are forgotten: a replay does not wake them.
        guest.replay();
        let data = guest.alloc(4096, 4096);
        guest.map(root, DATA, data, 12, RW);
        let fence = guest.dispatch(&mut queue, packet(CODE, DATA, 1));
        assert_eq!(guest.wait_fence(fence).status, hw::COMPLETE_OK);
        assert_eq!(guest.load(data + 8), 1);
        assert_ne!(guest.load(waiting.0), waiting.1);
        assert_eq!((guest.index(&old), guest.index(&guest.faults)), (told, 0));
        guest.set_entry(root, DATA, 0, 0);
        guest.invalidate(1, DATA, DATA);
    }
}

#[test]
fn stopped_with_everything_in_flight() {
    let (mut guest, root, mut waiting) = ready(&load_store());
    let endless = guest.program_at(
        root,
        CODE + 4096,
        &[sd(A1, A0, 0), asm::beq_back(ZERO, ZERO, 1)],
    );
    for (stop, reset) in STOPS.into_iter().cycle().take(8) {
        let mut running = guest.start_queue(4, 1);
        let mark = guest.alloc(8, 8);
        let data = guest.alloc(4096, 4096);
        guest.map(root, DATA + 4096, data, 12, RW);
        guest.dispatch(&mut running, packet(endless, DATA + 4096, 1024));
        guest.dispatch(&mut waiting, packet(CODE, DATA, 64));
        guest.until("the faults", |guest| guest.index(&guest.faults) > 0);
        let copies = guest.long_copies(mark);
        guest.until("a copy", |guest| guest.index(&copies) > copies.put);
        stop(&mut guest);
        let indices = [copies, running, waiting].map(|ring| guest.index(&ring));
        for ring in [copies, running, waiting] {
            assert_eq!(guest.bell(ring.bell), 0);
        }
        let old = [copies, running, waiting];
        waiting = restart(&mut guest, root, reset);
        let fence = guest.copy(0, hw::CopyPacket::default());
        assert_eq!(guest.wait_fence(fence).status, hw::COMPLETE_OK);
        assert_eq!(old.map(|ring| guest.index(&ring)), indices);
        assert_eq!(guest.load(mark), 0);
    }
}

#[test]
fn a_compute_ring_wraps() {
    let (mut guest, root, mut queue) = ready(&count());
    let data = guest.alloc(4096, 4096);
    guest.map(root, DATA, data, 12, RW);
    let entries = 1 << queue.log2;
    for done in 1..=5 * entries + 21 {
        let fence = guest.dispatch(&mut queue, packet(CODE, DATA, 1));
        assert_eq!(guest.wait_fence(fence).status, hw::COMPLETE_OK);
        assert_eq!((guest.load(data), guest.index(&queue)), (done, done));
    }
    // Full rings that begin in the middle, each one entry further.
    for _ in 0..5 {
        let before = guest.load(data);
        let put = |_| guest.put_dispatch(&mut queue, packet(CODE, DATA, 3));
        let last = (0..entries).map(put).last().unwrap();
        guest.doorbell(queue.bell, queue.put);
        assert_eq!(guest.wait_fence(last).status, hw::COMPLETE_OK);
        assert_eq!(guest.load(data), before + 3 * entries);
        let fence = guest.dispatch(&mut queue, packet(CODE, DATA, 1));
        assert_eq!(guest.wait_fence(fence).status, hw::COMPLETE_OK);
    }
}

#[test]
fn access_counters_report_remote_regions() {
    let (mut guest, root, mut queue) = ready(&count());
    guest.write32(hw::REG_ACCESS_THRESHOLD, 10);
    guest.write32(hw::REG_ACCESS_SHIFT, 16);
    let data = guest.alloc(4096, 4096);
    guest.map(root, DATA + 0x3_5000, data, 12, RW);
    for _ in 0..10 {
        let fence = guest.dispatch(&mut queue, packet(CODE, DATA + 0x3_5000, 1));
        assert_eq!(guest.wait_fence(fence).status, hw::COMPLETE_OK);
    }
    guest.wait_interrupt(hw::VECTOR_ACCESS);
    guest.until("two entries", |guest| guest.index(&guest.access) >= 2);
    let entries: Vec<hw::AccessEntry> = (0..2)
        .map(|i| guest.peek(guest.access.base + 32 * i))
        .collect();
    let mut regions: Vec<u64> = entries.iter().map(|e| e.addr).collect();
    regions.sort();
    assert_eq!(regions, [CODE, DATA + 0x3_0000]);
    assert!(entries.iter().all(|e| e.asid == 1 && e.count == 10));
}

#[test]
fn access_counters_have_regions_of_2_mib() {
    let (mut guest, root, mut queue) = ready(&count());
    guest.write32(hw::REG_ACCESS_THRESHOLD, 4);
    guest.write32(hw::REG_ACCESS_SHIFT, 21);
    assert_eq!(guest.read32(hw::REG_ACCESS_SHIFT), 21);
    let data = guest.alloc(4096, 4096);
    // The two ends of one region, and the first page of the next.
    let region = DATA + (6 << 21);
    let last = region + (1 << 21) - 4096;
    for va in [region, last, last + 4096] {
        guest.map(root, va, data, 12, RW);
        for _ in 0..2 {
            let fence = guest.dispatch(&mut queue, packet(CODE, va, 1));
            assert_eq!(guest.wait_fence(fence).status, hw::COMPLETE_OK);
        }
    }
    // Six dispatches fetched from the region of the code.
    guest.until("two entries", |guest| guest.index(&guest.access) == 2);
    let entries: Vec<hw::AccessEntry> = (0..2)
        .map(|i| guest.peek(guest.access.base + 32 * i))
        .collect();
    let mut regions: Vec<u64> = entries.iter().map(|e| e.addr).collect();
    regions.sort();
    assert_eq!(regions, [CODE, region]);
    assert!(entries.iter().all(|e| e.asid == 1 && e.count == 4));
}

#[test]
fn access_entries_without_room_are_counted_and_lost() {
    let (mut guest, root, mut queue) = ready(&count());
    guest.write32(hw::REG_ACCESS_THRESHOLD, 1);
    guest.write32(hw::REG_ACCESS_SHIFT, 16);
    let data = guest.alloc(4096, 4096);
    let entries = 1 << guest.access.log2;
    let overflow = |guest: &Guest| guest.load(guest.access.writeback + 8);
    let mut use_region = |guest: &mut Guest, n: u64| {
        let va = DATA + (n << 16);
        guest.map(root, va, data, 12, RW);
        let fence = guest.dispatch(&mut queue, packet(CODE, va, 1));
        assert_eq!(guest.wait_fence(fence).status, hw::COMPLETE_OK);
    };
    // Each makes two entries: one for the code, one for the data. The last may follow its fence.
    for n in 0..entries {
        use_region(&mut guest, n);
    }
    guest.until("the overflow", |guest| overflow(guest) == entries);
    assert_eq!(guest.index(&guest.access), entries);
    let kept = guest.bytes(true, guest.access.base, 32 * entries as usize);
    // The driver takes them all: there is room again, and nothing was written twice.
    guest.doorbell(guest.access.bell, entries);
    use_region(&mut guest, entries);
    guest.until("new entries", |guest| {
        guest.index(&guest.access) == entries + 2
    });
    assert_eq!(overflow(&guest), entries);
    let now = guest.bytes(true, guest.access.base, 32 * entries as usize);
    assert_eq!(kept[64..], now[64..]);
    let new: Vec<hw::AccessEntry> = (0..2)
        .map(|i| guest.peek(guest.access.base + 32 * i))
        .collect();
    assert!(new.iter().any(|e| e.addr == DATA + (entries << 16)));
}

fn synchronous() -> tern_vgpu::options::Options {
    tern_vgpu::options::Options {
        synchronous: true,
        ..options()
    }
}

#[test]
fn a_synchronous_dispatch_is_done_when_the_kick_is() {
    // Each thread has a page of its own: a0[512 * index] = index.
    let program = [slli(T0, A1, 12), add(T0, T0, A0), sd(A1, T0, 0), asm::RET];
    let (mut guest, root, mut queue) = ready_with(synchronous(), &program);
    let threads = 40;
    let data = guest.alloc(threads << 12, 4096);
    let fence = guest.dispatch(&mut queue, packet(CODE, DATA, threads));
    assert_eq!(guest.interrupts(hw::VECTOR_FAULT), 1);
    let told: Vec<u64> = guest.take_faults().iter().map(|f| f.addr).collect();
    let expected: Vec<u64> = (0..threads).map(|i| DATA + (i << 12)).collect();
    assert_eq!(told, expected);
    assert_ne!(guest.load(fence.0), fence.1);
    for offset in (0..threads << 12).step_by(4096) {
        guest.map(root, DATA + offset, data + offset, 12, RW);
    }
    let replay = guest.control_async(hw::ControlPacket {
        op: hw::OP_REPLAY,
        ..Default::default()
    });
    assert_eq!(guest.load(replay.0), replay.1);
    assert_eq!(guest.load(fence.0), fence.1);
    assert_eq!(guest.interrupts(hw::VECTOR_COMPUTE), 1);
    for index in 0..threads {
        assert_eq!(guest.load(data + (index << 12)), index);
    }
}

#[test]
fn synchronous_waves_take_turns_in_the_same_way_each_time() {
    // 16384 times a0[0] += 1, without atomics: what is lost tells when the waves took turns.
    let program = [
        ld(T0, A0, 0),
        addi(T0, T0, 1),
        sd(T0, A0, 0),
        addi(T2, T2, 1),
        srli(T1, T2, 14),
        asm::beq_back(T1, ZERO, 5),
        asm::RET,
    ];
    let run = || {
        let (mut guest, root, mut queue) = ready_with(synchronous(), &program);
        let data = guest.alloc(4096, 4096);
        guest.map(root, DATA, data, 12, RW);
        let fence = guest.dispatch(&mut queue, packet(CODE, DATA, 200));
        assert_eq!(guest.load(fence.0), fence.1);
        assert_eq!(guest.peek::<hw::Fence>(fence.0).status, hw::COMPLETE_OK);
        guest.load(data)
    };
    let first = run();
    assert_ne!(first % 16384, 0);
    for _ in 0..5 {
        assert_eq!(run(), first);
    }
}
