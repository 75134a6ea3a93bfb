// SPDX-License-Identifier: MIT OR Apache-2.0

//! Registers, rings, copies and interrupts, seen from a guest.

mod support;

use support::{options, Guest, Program, RAM, RAM_SIZE, STOPS};
use tern_vgpu::hw;
use tern_vgpu::options::Options;

fn copy(op: u32, length: u32, src: u64, dst: u64) -> hw::CopyPacket {
    hw::CopyPacket {
        op,
        length,
        src,
        dst,
        ..Default::default()
    }
}

/// Bytes that differ from their neighbours.
fn pattern(seed: u64, len: usize) -> Vec<u8> {
    (0..len as u64)
        .map(|i| ((i + seed).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8)
        .collect()
}

#[test]
fn identity_and_limits() {
    let mut guest = Guest::cold(options());
    assert_eq!(guest.read32(hw::REG_ID), hw::ID);
    assert_eq!(guest.read32(hw::REG_VERSION), hw::VERSION);
    assert_eq!(guest.read32(hw::REG_COPY_ENGINES), 2);
    assert_eq!(guest.read32(hw::REG_RESIDENT_THREADS), 1024);
    assert_eq!(guest.read64(hw::REG_VRAM_SIZE), 32 << 20);
    assert_eq!(guest.read64(hw::REG_APERTURE_SIZE), 16 << 20);
    assert_eq!(guest.read32(hw::REG_APERTURE_SIZE), 16 << 20);
    assert_eq!(guest.read32(hw::REG_STATUS), hw::STATUS_READY);
    let earlier = guest.read64(hw::REG_TIMESTAMP);
    assert!(guest.read64(hw::REG_TIMESTAMP) > earlier);
    let mut header = [0; 16];
    guest.client.region_read(7, 0, &mut header).unwrap();
    assert_eq!(header[..2], hw::PCI_VENDOR.to_le_bytes());
    assert_eq!(header[2..4], hw::PCI_DEVICE.to_le_bytes());
    assert_eq!(header[9..12], [0x00, 0x02, 0x03]);
    assert_eq!(guest.client.region(hw::BAR_VRAM).unwrap().size, 16 << 20);
}

#[test]
fn registers_refuse_what_they_do_not_take() {
    let mut guest = Guest::cold(options());
    let refused = [
        (hw::REG_ID, 1),
        (hw::REG_AS_LOG2, u64::from(hw::MAX_AS_LOG2) + 1),
        (hw::REG_QUEUE_LOG2, u64::from(hw::MAX_QUEUE_LOG2) + 1),
        (hw::REG_AS_BASE, 8),
        (hw::REG_CTRL_RING + hw::RING_BASE, 64),
        (hw::REG_CTRL_RING + hw::RING_WRITEBACK, 32),
        (hw::REG_FAULT_RING + hw::RING_LOG2, 17),
        (hw::REG_COPY_RING + 2 * hw::RING_STRIDE, 4096),
        (hw::REG_ACCESS_SHIFT, 12),
        (hw::REG_ACCESS_THRESHOLD, 0),
        (hw::REG_CONTROL, 4),
        (0x7ff8, 0),
    ];
    for (register, value) in refused {
        if register == hw::REG_AS_BASE || value == 4096 || value == 64 || value == 32 {
            guest.write64(register, value);
        } else {
            guest.write32(register, value as u32);
        }
        assert_eq!(
            guest.read32(hw::REG_ERROR),
            hw::ERROR_REGISTER,
            "{register:#x}"
        );
        assert_eq!(guest.read64(hw::REG_ERROR_INFO), register as u64);
        assert_eq!(guest.interrupts(hw::VECTOR_ERROR), 1);
        guest.write32(hw::REG_ERROR, hw::ERROR_REGISTER);
        assert_eq!(guest.read32(hw::REG_ERROR), 0);
    }
    // Halves of a register.
    guest.write32(hw::REG_AS_BASE + 4, 0x12);
    guest.write32(hw::REG_AS_BASE, 0x3000);
    assert_eq!(guest.read64(hw::REG_AS_BASE), 0x12_0000_3000);
    assert_eq!(guest.read32(hw::REG_AS_BASE + 4), 0x12);
    // A running device keeps its rings.
    guest.program();
    guest.enable();
    guest.write32(hw::REG_CTRL_RING + hw::RING_LOG2, 3);
    assert_eq!(guest.read32(hw::REG_ERROR), hw::ERROR_REGISTER);
    assert_eq!(guest.read32(hw::REG_CTRL_RING + hw::RING_LOG2), 6);
}

#[test]
fn registers_have_no_other_widths() {
    let mut guest = Guest::cold(options());
    guest.write64(hw::REG_AS_BASE, 0x1122_3344_5566_7740);
    let other = [
        (hw::REG_ID, 1),
        (hw::REG_ID, 2),
        (hw::REG_ID, 8),
        (hw::REG_ID + 2, 2),
        (hw::REG_ID + 2, 4),
        (hw::REG_ID, 16),
        (hw::DOORBELL_BASE - 4, 8),
        (hw::REG_AS_BASE, 1),
        (hw::REG_AS_BASE, 2),
        (hw::REG_AS_BASE, 3),
        (hw::REG_AS_BASE + 1, 2),
        (hw::REG_AS_BASE + 4, 2),
        (hw::REG_AS_BASE + 6, 1),
        (hw::REG_AS_BASE + 4, 8),
    ];
    for (offset, width) in other {
        let mut data = vec![0xff; width];
        guest
            .client
            .region_read(0, offset as u64, &mut data)
            .unwrap();
        assert_eq!(data, vec![0; width], "{offset:#x}");
        assert_eq!(guest.read32(hw::REG_ERROR), 0);
        guest.client.region_write(0, offset as u64, &data).unwrap();
        assert_eq!(guest.read32(hw::REG_ERROR), hw::ERROR_REGISTER);
        assert_eq!(guest.read64(hw::REG_ERROR_INFO), offset as u64);
        guest.write32(hw::REG_ERROR, u32::MAX);
    }
    assert_eq!(guest.read64(hw::REG_AS_BASE), 0x1122_3344_5566_7740);
}

#[test]
fn copies_of_every_alignment() {
    let mut guest = Guest::new(options());
    let system = guest.alloc(8192, 4096);
    let other = guest.alloc(8192, 4096);
    let vram = guest.vram_alloc(8192, 4096);
    let mut seed = 0;
    for (op, src, dst) in [
        (hw::OP_SRC_SYSTEM, system, vram),
        (hw::OP_DST_SYSTEM, vram, system),
        (hw::OP_SRC_SYSTEM | hw::OP_DST_SYSTEM, system, other),
        (0, vram, vram + 4096),
    ] {
        let (from, to) = (op & hw::OP_SRC_SYSTEM != 0, op & hw::OP_DST_SYSTEM != 0);
        for at in 0..8 {
            for shift in 0..8 {
                for length in [1, 7, 8, 63, 1000] {
                    seed += 1;
                    let data = pattern(seed, length);
                    guest.set_bytes(from, src + at, &data);
                    guest.set_bytes(to, dst, &[0xee; 1100]);
                    let packet = copy(hw::OP_COPY | op, length as u32, src + at, dst + 8 + shift);
                    let fence = guest.copy((seed % 2) as usize, packet);
                    let fence = guest.wait_fence(fence);
                    assert_eq!(fence.status, hw::COMPLETE_OK);
                    assert_eq!(fence.count, length as u64);
                    let got = guest.bytes(to, dst, 1100);
                    let begin = 8 + shift as usize;
                    assert_eq!(got[begin..begin + length], data);
                    let around = got[..begin].iter().chain(&got[begin + length..]);
                    assert!(around.copied().all(|byte| byte == 0xee));
                }
            }
        }
    }
}

#[test]
fn fills_repeat_their_pattern() {
    let mut guest = Guest::new(options());
    let value = 0x8877_6655_4433_2211_u64;
    for (op, base) in [
        (0, 0x20_0000),
        (hw::OP_DST_SYSTEM, guest.alloc(1 << 20, 4096)),
    ] {
        for (at, length) in [(0, 8), (3, 1), (5, 13), (1, 9000), (7, 700_001)] {
            let system = op != 0;
            guest.set_bytes(system, base, &vec![0xee; length + 16]);
            let fence = guest.copy(0, copy(hw::OP_FILL | op, length as u32, value, base + at));
            assert_eq!(guest.wait_fence(fence).status, hw::COMPLETE_OK);
            let got = guest.bytes(system, base, length + 16);
            for (i, byte) in got.into_iter().enumerate() {
                let inside = i.checked_sub(at as usize).filter(|i| *i < length);
                let want = inside.map_or(0xee, |i| value.to_le_bytes()[i % 8]);
                assert_eq!(byte, want, "byte {i} of a fill of {length} at {at}");
            }
        }
    }
}

#[test]
fn copies_stay_within_memory() {
    let mut guest = Guest::new(options());
    let vram = 32 << 20;
    let end = RAM + RAM_SIZE;
    let (from, to) = (hw::OP_SRC_SYSTEM, hw::OP_DST_SYSTEM);
    let cases = [
        (from, 64, end - 63, 0, end - 63),
        (from, 64, RAM - 1, 0, RAM - 1),
        (0, 64, vram - 63, 4096, vram - 63),
        (0, 64, 4096, vram, vram),
        (to, 64, 4096, u64::MAX - 8, u64::MAX - 8),
        (0, hw::MAX_COPY, 0, 0, 0),
        (from, 8, u64::MAX, 0, u64::MAX),
    ];
    for (op, length, src, dst, info) in cases {
        let fence = guest.copy(0, copy(hw::OP_COPY | op, length, src, dst));
        let fence = guest.wait_fence(fence);
        assert_eq!(fence.status, hw::COMPLETE_BAD_ADDRESS, "{src:#x} {dst:#x}");
        assert_eq!((fence.info, fence.count), (info, 0));
    }
    for (op, length) in [
        (hw::OP_COPY, 0),
        (hw::OP_COPY, hw::MAX_COPY + 1),
        (3, 8),
        (hw::OP_COPY | (1 << 20), 8),
    ] {
        let fence = guest.copy(1, copy(op, length, 0, 4096));
        assert_eq!(guest.wait_fence(fence).status, hw::COMPLETE_BAD_PACKET);
    }
    assert_eq!(guest.read32(hw::REG_ERROR), hw::ERROR_PACKET);
}

#[test]
fn a_status_is_told_once() {
    let mut guest = Guest::new(options());
    let ring = guest.copies[0];
    let bad = copy(77, 8, 0, 0);
    guest.write_entry(&ring, 0, &bad);
    guest.copies[0].put = 1;
    let fence = guest.copy(0, copy(hw::OP_FILL, 8, 0, 0));
    let fence = guest.wait_fence(fence);
    assert_eq!(fence.status, hw::COMPLETE_BAD_PACKET);
    assert_eq!(fence.count, 8);
    let fence = guest.copy(0, copy(hw::OP_NOP, 0, 0, 0));
    let fence = guest.wait_fence(fence);
    assert_eq!((fence.status, fence.count), (hw::COMPLETE_OK, 0));
}

#[test]
fn rings_wrap_and_interrupt() {
    let mut guest = Guest::new(options());
    let target = guest.alloc(8, 8);
    for value in 1..=300 {
        let op = hw::OP_FILL | hw::OP_DST_SYSTEM | hw::OP_IRQ;
        let fence = guest.copy(1, copy(op, 8, value, target));
        guest.wait_interrupt(hw::VECTOR_COPY);
        assert_eq!(guest.wait_fence(fence).status, hw::COMPLETE_OK);
        assert_eq!(guest.load(target), value);
        assert_eq!(guest.index(&guest.copies[1]), value);
    }
    // A whole ring at once.
    let ring = guest.copies[0];
    for index in 0..64 {
        let op = hw::OP_FILL | hw::OP_DST_SYSTEM | hw::OP_FENCE;
        let mut packet = copy(op, 8, index, target);
        (packet.fence_addr, packet.fence_value) = guest.fence();
        guest.write_entry(&ring, index, &packet);
    }
    guest.doorbell(ring.bell, 64);
    guest.until("the ring", |guest| guest.load(target) == 63);
}

#[test]
fn an_overrun_ring_halts() {
    let mut guest = Guest::new(options());
    for (bell, put) in [
        (guest.ctrl.bell, 65),
        (guest.copies[0].bell, u64::MAX),
        (guest.copies[1].bell, 1 << 40),
    ] {
        guest.doorbell(bell, put);
        guest.wait_interrupt(hw::VECTOR_ERROR);
        assert_eq!(guest.read32(hw::REG_ERROR), hw::ERROR_RING);
        assert_eq!(guest.read64(hw::REG_ERROR_INFO), bell as u64);
        guest.write32(hw::REG_ERROR, u32::MAX);
    }
    for ring in [guest.ctrl, guest.copies[0], guest.copies[1]] {
        assert_eq!(guest.index(&ring), 0);
    }
    // Another try, from the beginning.
    guest.write32(hw::REG_CONTROL, 0);
    assert_eq!(guest.bell(guest.ctrl.bell), 0);
    guest.enable();
    guest.replay();
    let fence = guest.copy(0, copy(hw::OP_NOP, 0, 0, 0));
    assert_eq!(guest.wait_fence(fence).status, hw::COMPLETE_OK);
}

#[test]
fn rings_outside_memory_are_reported() {
    let mut guest = Guest::cold(options());
    guest.program();
    let block = hw::REG_COPY_RING;
    guest.write64(block + hw::RING_WRITEBACK, 0x1000);
    guest.enable();
    assert_eq!(guest.read32(hw::REG_ERROR), hw::ERROR_DMA);
    assert_eq!(guest.read64(hw::REG_ERROR_INFO), 0x1000);
    guest.write32(hw::REG_CONTROL, 0);
    guest.program();
    guest.write64(block + hw::RING_BASE, u64::MAX << 12);
    guest.write32(hw::REG_ERROR, u32::MAX);
    guest.enable();
    assert_eq!(guest.read32(hw::REG_ERROR), 0);
    guest.doorbell(hw::DOORBELL_COPY, 1);
    guest.until("the error", |guest| {
        guest.read32(hw::REG_ERROR) == hw::ERROR_DMA
    });
    // A fence outside memory: the interrupt comes all the same.
    let ring = guest.copies[1];
    let mut packet = copy(hw::OP_NOP | hw::OP_FENCE | hw::OP_IRQ, 0, 0, 0);
    packet.fence_addr = RAM + RAM_SIZE;
    guest.write_entry(&ring, 0, &packet);
    guest.doorbell(ring.bell, 1);
    guest.wait_interrupt(hw::VECTOR_COPY);
    assert_eq!(guest.read64(hw::REG_ERROR_INFO), RAM + RAM_SIZE);
}

#[test]
fn nothing_happens_without_bus_mastering() {
    let mut guest = Guest::new(options());
    let target = guest.alloc(8, 8);
    guest.set_master(false);
    let ring = guest.copies[0];
    let op = hw::OP_FILL | hw::OP_DST_SYSTEM | hw::OP_IRQ;
    guest.write_entry(&ring, 0, &copy(op, 8, 1, target));
    guest.doorbell(ring.bell, 1);
    guest.until("the error", |guest| {
        guest.read32(hw::REG_ERROR) == hw::ERROR_DMA
    });
    assert_eq!(guest.load(target), 0);
    for vector in 0..hw::VECTORS {
        assert_eq!(guest.interrupts(vector), 0);
    }
}

/// Completes a copy whose interrupt is masked.
fn copy_masked(guest: &mut Guest) {
    guest.mask(hw::VECTOR_COPY, true);
    let fence = guest.copy(0, copy(hw::OP_NOP | hw::OP_IRQ, 0, 0, 0));
    guest.wait_fence(fence);
    guest.until("the pending bit", |guest| {
        guest.pending() == 1 << hw::VECTOR_COPY
    });
}

#[test]
fn a_masked_interrupt_is_kept() {
    let mut guest = Guest::new(options());
    copy_masked(&mut guest);
    guest.mask(hw::VECTOR_COPY, false);
    assert_eq!(guest.interrupts(hw::VECTOR_COPY), 1);
    assert_eq!(guest.pending(), 0);
}

#[test]
fn a_masked_interrupt_waits_for_the_bus_master() {
    let mut guest = Guest::new(options());
    copy_masked(&mut guest);
    guest.set_master(false);
    guest.mask(hw::VECTOR_COPY, false);
    assert_eq!(guest.interrupts(hw::VECTOR_COPY), 0);
    assert_eq!(guest.pending(), 1 << hw::VECTOR_COPY);
    guest.set_master(true);
    assert_eq!(guest.interrupts(hw::VECTOR_COPY), 1);
    assert_eq!(guest.pending(), 0);
}

#[test]
fn a_reset_forgets_masked_interrupts() {
    for reset in [Guest::function_level_reset, Guest::slot_reset] {
        let mut guest = Guest::new(options());
        copy_masked(&mut guest);
        reset(&mut guest);
        assert_eq!(guest.pending(), 0);
        guest.mask(hw::VECTOR_COPY, false);
        guest.set_master(true);
        assert_eq!(guest.interrupts(hw::VECTOR_COPY), 0);
    }
}

#[test]
fn stopped_in_the_middle_of_a_copy() {
    let mut guest = Guest::new(options());
    for (stop, _) in STOPS.into_iter().cycle().take(20) {
        let mark = guest.alloc(8, 8);
        let ring = guest.long_copies(mark);
        guest.until("the first", |guest| guest.index(&ring) > ring.put);
        stop(&mut guest);
        assert_eq!(guest.read32(hw::REG_STATUS), hw::STATUS_READY);
        assert_eq!(guest.bell(ring.bell), 0);
        let taken = guest.index(&ring);
        let all = ring.put + 63;
        assert!(taken < all, "the device is too fast for this test");
        guest.program();
        guest.enable();
        let fence = guest.copy(0, copy(hw::OP_NOP, 0, 0, 0));
        assert_eq!(guest.wait_fence(fence).status, hw::COMPLETE_OK);
        assert_eq!((guest.index(&ring), guest.load(mark)), (taken, 0));
    }
}

#[test]
fn function_level_reset_clears_the_command() {
    let mut guest = Guest::new(options());
    guest.client.region_write(7, 0x49, &[0x80]).unwrap();
    assert_eq!(guest.read32(hw::REG_STATUS), hw::STATUS_READY);
    let mut command = [0xff; 2];
    guest.client.region_read(7, 4, &mut command).unwrap();
    assert_eq!(command, [0; 2]);
}

#[test]
fn control_packets_are_checked() {
    let mut guest = Guest::new(options());
    let good = hw::ControlPacket::default();
    let cases = [
        hw::ControlPacket { op: 99, ..good },
        hw::ControlPacket {
            op: 1 << 31,
            ..good
        },
        hw::ControlPacket {
            reserved0: 1,
            ..good
        },
        hw::ControlPacket {
            op: hw::OP_INVALIDATE,
            start: 2,
            last: 1,
            ..good
        },
        hw::ControlPacket {
            op: hw::OP_CANCEL,
            arg: 4,
            ..good
        },
        hw::ControlPacket {
            op: hw::OP_QUEUE_START,
            id: 16,
            ..good
        },
        hw::ControlPacket {
            op: hw::OP_QUEUE_START,
            id: 1,
            ..good
        },
    ];
    for packet in cases {
        assert_eq!(guest.control(packet).status, hw::COMPLETE_BAD_PACKET);
    }
    assert_eq!(guest.control(good).status, hw::COMPLETE_OK);
    // What is not there can be stopped and cancelled.
    guest.stop_queue(u32::MAX);
    let cancel = hw::ControlPacket {
        op: hw::OP_CANCEL,
        id: 5,
        ..good
    };
    assert_eq!(guest.control(cancel).status, hw::COMPLETE_OK);
    // Twice the same queue.
    guest.start_queue(2, 1);
    let again = hw::ControlPacket {
        op: hw::OP_QUEUE_START,
        id: 2,
        ..good
    };
    assert_eq!(guest.control(again).status, hw::COMPLETE_BAD_PACKET);
    guest.stop_queue(2);
    guest.start_queue(2, 1);
    // Without a table of queues.
    guest.write64(hw::REG_QUEUE_BASE, u64::MAX << 12);
    let other = hw::ControlPacket {
        op: hw::OP_QUEUE_START,
        id: 3,
        ..good
    };
    assert_eq!(guest.control(other).status, hw::COMPLETE_BAD_ADDRESS);
}

#[test]
fn a_queue_that_overruns_is_halted_and_can_be_started_again() {
    let mut guest = Guest::new(options());
    let ring = guest.start_queue(0, 1);
    guest.doorbell(ring.bell, 1000);
    guest.until("the halt", |guest| {
        guest.load(ring.writeback + 16) == hw::QUEUE_HALTED
    });
    assert_eq!(guest.read32(hw::REG_ERROR), hw::ERROR_RING);
    guest.stop_queue(0);
    assert_eq!(guest.bell(ring.bell), 0);
    let mut ring = guest.start_queue(0, 1);
    let fence = guest.dispatch(&mut ring, hw::DispatchPacket::default());
    assert_eq!(guest.wait_fence(fence).status, hw::COMPLETE_OK);
}

#[test]
fn synchronous_devices_are_done_when_the_kick_is() {
    let mut guest = Guest::new(Options {
        synchronous: true,
        ..options()
    });
    for _ in 0..100 {
        let fence = guest.copy(1, copy(hw::OP_FILL, 1 << 16, 5, 0));
        assert_eq!(guest.load(fence.0), fence.1);
        assert_eq!(guest.bell(hw::DOORBELL_STATE), 0);
        let packet = hw::ControlPacket {
            op: hw::OP_INVALIDATE,
            ..Default::default()
        };
        let fence = guest.control_async(packet);
        assert_eq!(guest.load(fence.0), fence.1);
    }
}

#[test]
fn an_idle_device_uses_no_processor() {
    fn used() -> std::time::Duration {
        // SAFETY: `usage` is a plain structure, and the call fills it.
        let usage = unsafe {
            let mut usage = std::mem::zeroed::<libc::rusage>();
            assert_eq!(libc::getrusage(libc::RUSAGE_CHILDREN, &mut usage), 0);
            usage
        };
        let part =
            |t: libc::timeval| std::time::Duration::new(t.tv_sec as u64, t.tv_usec as u32 * 1000);
        part(usage.ru_utime) + part(usage.ru_stime)
    }
    let mut program = Program::start(&[]);
    let mut guest = program.guest();
    let fence = guest.copy(0, copy(hw::OP_FILL, 8, 0, 0));
    guest.wait_fence(fence);
    // The time that is measured: a second in which nothing happens.
    std::thread::sleep(std::time::Duration::from_secs(1));
    drop(guest);
    assert!(program.child.wait().unwrap().success());
    assert!(used().as_millis() < 300, "{:?} were used", used());
}
