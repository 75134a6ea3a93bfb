// SPDX-License-Identifier: MIT OR Apache-2.0

//! What goes wrong on purpose.

mod support;

use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use support::{asm, options, Guest, Program, PATIENCE};
use tern_vgpu::hw;
use tern_vgpu::misbehave::{After, Misbehave};
use tern_vgpu::options::{size, Invalid, Options};

fn guest(misbehave: &[Misbehave]) -> Guest {
    Guest::new(Options {
        misbehave: misbehave.to_vec(),
        ..options()
    })
}

fn nop() -> hw::CopyPacket {
    hw::CopyPacket::default()
}

/// Has copies that do nothing done one after another, and waits for the fence of each.
fn copies(guest: &mut Guest, count: u64) {
    for _ in 0..count {
        let fence = guest.copy(0, nop());
        guest.wait_fence(fence);
    }
}

/// Starts the device anew after a reset; it is well then.
fn restart(guest: &mut Guest) {
    guest.program();
    guest.enable();
    copies(guest, 20);
}

/// Starts a dispatch of queue 3, in address space 1, at 0x1000; its fence.
fn dispatch(guest: &mut Guest) -> (u64, u64) {
    let mut queue = guest.start_queue(3, 1);
    guest.dispatch(
        &mut queue,
        hw::DispatchPacket {
            op: hw::OP_DISPATCH,
            entry: 0x1000,
            threads: 1,
            ..Default::default()
        },
    )
}

/// Starts a dispatch of queue 3, in address space 1, that finds no code at 0x1000.
fn dispatch_that_faults(guest: &mut Guest) {
    guest.space(1);
    dispatch(guest);
}

#[test]
fn some_completions_are_lost() {
    let mut guest = guest(&[Misbehave::DropCompletion(4)]);
    let mut fences = Vec::new();
    for _ in 0..200 {
        fences.push(guest.copy(0, nop()));
        guest.until("the packet", |guest| {
            guest.index(&guest.copies[0]) == guest.copies[0].put
        });
    }
    // Completions of a ring are in order: behind one that is there, none is still to come.
    guest.until("some completions", |guest| {
        fences[150..]
            .iter()
            .any(|fence| guest.load(fence.0) == fence.1)
    });
    let written = |fence: &&(u64, u64)| guest.load(fence.0) == fence.1;
    let count = fences[..150].iter().filter(written).count();
    assert!((60..150).contains(&count), "{count}");
}

#[test]
fn some_interrupts_are_lost() {
    let mut guest = guest(&[Misbehave::DropInterrupt(2)]);
    let mut raised = 0;
    for _ in 0..100 {
        let fence = guest.copy(
            0,
            hw::CopyPacket {
                op: hw::OP_IRQ,
                ..nop()
            },
        );
        guest.wait_fence(fence);
        // What is behind it in the ring shows that its interrupt would have come.
        copies(&mut guest, 1);
        raised += guest.interrupts(hw::VECTOR_COPY);
    }
    assert!((20..80).contains(&raised), "{raised}");
}

#[test]
fn a_device_that_hangs_is_well_after_a_reset() {
    let mut guest = guest(&[Misbehave::Hang(After::Completions(5))]);
    copies(&mut guest, 5);
    let lost = [guest.copy(0, nop()), guest.copy(1, nop())];
    guest.until("the packets", |guest| {
        (0..2).all(|n| guest.index(&guest.copies[n]) == guest.copies[n].put)
    });
    guest.write32(hw::REG_CONTROL, hw::CONTROL_RESET);
    for (addr, value) in lost {
        assert_ne!(guest.load(addr), value);
    }
    restart(&mut guest);
}

/// Runs an illegal instruction, and waits for its fence.
fn dispatch_that_is_illegal(guest: &mut Guest) {
    let root = guest.space(1);
    guest.program_at(root, 0x1000, &[asm::ILLEGAL]);
    let fence = dispatch(guest);
    assert_eq!(guest.wait_fence(fence).status, hw::COMPLETE_ILLEGAL);
}

#[test]
fn a_device_hangs_behind_each_illegal_instruction() {
    let mut guest = guest(&[Misbehave::Hang(After::Illegal)]);
    for _ in 0..3 {
        copies(&mut guest, 20);
        dispatch_that_is_illegal(&mut guest);
        let (addr, value) = guest.copy(0, nop());
        guest.until("the packet", |guest| {
            guest.index(&guest.copies[0]) == guest.copies[0].put
        });
        guest.write32(hw::REG_CONTROL, hw::CONTROL_RESET);
        assert_ne!(guest.load(addr), value);
        restart(&mut guest);
    }
}

#[test]
fn completions_are_kept_until_a_reset() {
    let mut guest = guest(&[Misbehave::Late(After::Completions(5))]);
    copies(&mut guest, 5);
    let irq = hw::CopyPacket {
        op: hw::OP_IRQ,
        ..nop()
    };
    let kept = [guest.copy(0, irq), guest.copy(1, irq), guest.copy(0, irq)];
    guest.until("the packets", |guest| {
        (0..2).all(|n| guest.index(&guest.copies[n]) == guest.copies[n].put)
    });
    for (addr, value) in kept {
        assert_ne!(guest.load(addr), value);
    }
    assert_eq!(guest.interrupts(hw::VECTOR_COPY), 0);
    guest.write32(hw::REG_CONTROL, hw::CONTROL_RESET);
    // As a driver waits for the reset to take effect.
    guest.read32(hw::REG_STATUS);
    for fence in kept {
        assert_eq!(guest.load(fence.0), fence.1);
        guest.store(fence.0, 0);
    }
    assert_ne!(guest.interrupts(hw::VECTOR_COPY), 0);
    // Once only.
    restart(&mut guest);
    guest.write32(hw::REG_CONTROL, hw::CONTROL_RESET);
    guest.read32(hw::REG_STATUS);
    for (addr, _) in kept {
        assert_eq!(guest.load(addr), 0);
    }
}

#[test]
fn completions_are_late_but_in_order() {
    let mut guest = guest(&[Misbehave::DelayCompletion(20_000)]);
    let begin = Instant::now();
    let (first, second) = (guest.copy(0, nop()), guest.copy(0, nop()));
    guest.wait_fence(second);
    assert_eq!(guest.load(first.0), first.1);
    assert!(begin.elapsed() >= Duration::from_millis(20));
}

#[test]
fn completions_overtake_those_of_other_rings() {
    let mut guest = guest(&[Misbehave::ReorderCompletion(20_000)]);
    let mut overtaken = false;
    for _ in 0..100 {
        let first = guest.copy(0, nop());
        guest.until("the packet", |guest| {
            guest.index(&guest.copies[0]) == guest.copies[0].put
        });
        let second = guest.copy(1, nop());
        guest.until("a fence", |guest| {
            guest.load(first.0) == first.1 || guest.load(second.0) == second.1
        });
        overtaken |= guest.load(first.0) != first.1;
        guest.wait_fence(first);
        guest.wait_fence(second);
    }
    assert!(overtaken);
}

#[test]
fn fault_entries_are_corrupted() {
    let mut guest = guest(&[Misbehave::CorruptFault(2)]);
    dispatch_that_faults(&mut guest);
    let mut wrong = 0;
    for _ in 0..100 {
        let faults = guest.wait_faults();
        assert_eq!(faults.len(), 1);
        let fault = faults[0];
        let told = (fault.addr, fault.asid, fault.access, fault.queue);
        let good = told == (0x1000, 1, hw::ACCESS_FETCH, 3)
            && (fault.reason, fault.dispatch) == (hw::FAULT_ABSENT, 0);
        wrong += u32::from(!good);
        guest.replay();
    }
    assert!((20..80).contains(&wrong), "{wrong}");
}

#[test]
fn false_fences_come_before_the_right_ones() {
    let mut guest = guest(&[Misbehave::FalseFence(1)]);
    let mut seen = 0;
    for _ in 0..50 {
        let (addr, value) = guest.copy(0, nop());
        guest.until("a fence", |guest| guest.load(addr) != 0);
        seen += u32::from(guest.load(addr) != value);
        let fence = guest.wait_fence((addr, value));
        assert_eq!(fence.status, hw::COMPLETE_OK);
    }
    // The right one may come before this looks.
    assert!(seen > 0);
}

#[test]
fn fences_are_corrupted_until_a_reset() {
    let mut guest = guest(&[Misbehave::CorruptFence(5)]);
    copies(&mut guest, 5);
    for _ in 0..50 {
        let (addr, value) = guest.copy(0, nop());
        guest.until("a fence", |guest| guest.load(addr) != 0);
        assert_ne!(guest.load(addr), value);
    }
    guest.write32(hw::REG_CONTROL, hw::CONTROL_RESET);
    restart(&mut guest);
}

#[test]
fn indices_are_corrupted_until_a_reset() {
    let mut guest = guest(&[Misbehave::CorruptIndex(5)]);
    guest.space(1);
    // The completions of what it takes to start a queue are among them.
    copies(&mut guest, 5);
    dispatch(&mut guest);
    for _ in 0..50 {
        guest.wait_interrupt(hw::VECTOR_FAULT);
        // None was taken.
        let put = guest.index(&guest.faults);
        assert!(put > 1 << guest.faults.log2, "{put}");
        guest.replay();
    }
    guest.write32(hw::REG_CONTROL, hw::CONTROL_RESET);
    restart(&mut guest);
    dispatch(&mut guest);
    // The interrupt of the last replay may be left.
    guest.until("the fault", |guest| guest.take_faults().len() == 1);
}

#[test]
fn interrupts_for_faults_are_lost() {
    let mut guest = guest(&[Misbehave::DropInterrupt(1)]);
    dispatch_that_faults(&mut guest);
    for _ in 0..100 {
        guest.until("a fault", |guest| !guest.take_faults().is_empty());
        guest.replay();
    }
    assert_eq!(guest.interrupts(hw::VECTOR_FAULT), 0);
}

#[test]
fn the_device_vanishes() {
    let mut guest = guest(&[Misbehave::Vanish(After::Completions(5))]);
    copies(&mut guest, 5);
    // The sixth: the ring is written by hand, since registers cannot be asked any more.
    let ring = guest.copies[0];
    let packet = hw::CopyPacket {
        op: hw::OP_FENCE,
        fence_addr: guest.fence().0,
        fence_value: 99,
        ..nop()
    };
    guest.write_entry(&ring, ring.put, &packet);
    guest.set_bell(ring.bell, ring.put + 1);
    guest.write32(hw::REG_KICK, 0);
    guest.until("all ones", |guest| guest.read32(hw::REG_ID) == u32::MAX);
    guest.write32(hw::REG_CONTROL, hw::CONTROL_RESET);
    assert_eq!(guest.read32(hw::REG_CONTROL), u32::MAX);
    assert_ne!(guest.load(packet.fence_addr), 99);
}

fn output(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_tern-vgpu"))
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

#[test]
fn a_second_device_leaves_the_first_alone() {
    let mut program = Program::start(&[]);
    let socket = program.socket.to_str().unwrap();
    for _ in 0..3 {
        let second = output(&["--socket", socket]);
        let text = String::from_utf8_lossy(&second.stderr);
        assert!(!second.status.success());
        assert!(text.contains("another tern-vgpu uses"), "{text}");
    }
    let mut guest = program.guest();
    let fence = guest.copy(0, nop());
    assert_eq!(guest.wait_fence(fence).status, hw::COMPLETE_OK);
    // It is connected now, and its socket still its own.
    assert!(!output(&["--socket", socket]).status.success());
    let fence = guest.copy(0, nop());
    assert_eq!(guest.wait_fence(fence).status, hw::COMPLETE_OK);
    drop(guest);
    assert!(program.child.wait().unwrap().success());
}

#[test]
fn what_a_killed_device_leaves_is_used_again() {
    let mut first = Program::start(&[]);
    first.child.kill().unwrap();
    first.child.wait().unwrap();
    assert!(first.socket.exists());
    let second = Command::new(env!("CARGO_BIN_EXE_tern-vgpu"))
        .args(["--vram", "32M", "--aperture", "16M", "--socket"])
        .arg(&first.socket)
        .spawn()
        .unwrap();
    first.child = second;
    let end = Instant::now() + PATIENCE;
    let client = loop {
        match vfio_user::Client::new(&first.socket) {
            Ok(client) => break client,
            Err(error) => assert!(Instant::now() < end, "{error}"),
        }
    };
    assert_eq!(Guest::connect(client).read32(hw::REG_ID), hw::ID);
    assert!(first.child.wait().unwrap().success());
}

#[test]
fn wrong_options_are_explained() {
    let directory = tempfile::tempdir().unwrap();
    let used = directory.path().join("used");
    let _listener = std::os::unix::net::UnixListener::bind(&used).unwrap();
    let free = directory.path().join("free");
    let (used, free) = (used.to_str().unwrap(), free.to_str().unwrap());
    let nowhere = format!("{free}/nowhere");
    let cases: [(&[&str], &str); 9] = [
        (&["--socket", used], "another program listens"),
        (&["--socket", &nowhere], "cannot be opened"),
        (&["--socket", free, "--vram", "64M"], "larger than the VRAM"),
        (&["--socket", free, "--vram", "3M"], "multiple of 2 MiB"),
        (&["--socket", free, "--aperture", "48M"], "power of two"),
        (&["--socket", free, "--aperture", "12Q"], "is not a size"),
        (&["--socket", free, "--copy-engines", "9"], "1 to 8"),
        (&["--socket", free, "--lanes", "33"], "1 to 32"),
        (
            &["--socket", free, "--misbehave", "x"],
            "is no misbehaviour",
        ),
    ];
    for (arguments, message) in cases {
        let output = output(arguments);
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success());
        assert!(text.contains(message), "{arguments:?}: {text}");
    }
}

#[test]
fn options_are_read() {
    assert_eq!(size("1G"), Ok(1 << 30));
    assert_eq!(size("512m"), Ok(512 << 20));
    assert_eq!(size("4096"), Ok(4096));
    for wrong in ["", "M", "1MM", "-1", "99999999999G"] {
        assert_eq!(size(wrong), Err(Invalid::Size(wrong.into())));
    }
    assert_eq!(
        "drop-completion=7".parse(),
        Ok(Misbehave::DropCompletion(7))
    );
    assert_eq!("hang=3".parse(), Ok(Misbehave::Hang(After::Completions(3))));
    assert_eq!("hang=illegal".parse(), Ok(Misbehave::Hang(After::Illegal)));
    assert_eq!("late=illegal".parse(), Ok(Misbehave::Late(After::Illegal)));
    assert!("false-fence=illegal".parse::<Misbehave>().is_err());
    assert_eq!("drop-interrupt".parse(), Ok(Misbehave::DropInterrupt(16)));
    assert_eq!(
        "vanish".parse(),
        Ok(Misbehave::Vanish(After::Completions(1000)))
    );
    assert_eq!("corrupt-index=9".parse(), Ok(Misbehave::CorruptIndex(9)));
    assert!("vanish=0".parse::<Misbehave>().is_err());
    assert!("vanish=x".parse::<Misbehave>().is_err());
}
