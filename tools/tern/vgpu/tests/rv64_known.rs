// SPDX-License-Identifier: MIT OR Apache-2.0

//! Known results, faults, traps and the order of lanes.

mod rv64;

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use rv64::{assemble, finish, load, run_asm, shared, start, Ram, CODE, DATA, STACK, STACK_SIZE};
use tern_vgpu::rv64::{Access, Fault, ICache, Stop, Trap, Wave, LANES};

/// Code that stores registers in a row at `a0`.
fn stores(registers: &[&str]) -> String {
    let line = |(i, register)| format!("sd {register}, {}(a0)\n", 8 * i);
    registers
        .iter()
        .enumerate()
        .map(line)
        .collect::<Vec<_>>()
        .concat()
}

/// Gives `t2` after `body`, which finds `a` in `t0` and `b` in `t1`.
fn binary(body: &str, a: u64, b: u64) -> u64 {
    run_asm(
        &format!("li t0, {a:#x}\nli t1, {b:#x}\n{body}\nsd t2, 0(a0)\nret"),
        1,
        &[],
    )
    .u64(DATA)
}

const MIN: u64 = 1 << 63;
const MIN_WORD: u64 = 0xffff_ffff_8000_0000;

#[test]
fn threads_find_their_arguments() {
    let stores = stores(&["a1", "a2", "sp", "ra", "gp"]);
    let mut ram = load(
        &assemble(&format!("slli t0, a1, 6\nadd a0, a0, t0\n{stores}ret")),
        3,
    );
    ram.map(DATA, 0x2000);
    let mut wave = Wave::new(&tern_vgpu::rv64::Start {
        first: 70,
        threads: 100,
        slot: 5,
        ..start(3, DATA)
    });
    finish(&mut wave, &mut ram);
    for lane in 0..3 {
        let found: Vec<u64> = (0..5)
            .map(|i| ram.u64(DATA + 64 * (70 + lane) + 8 * i))
            .collect();
        assert_eq!(
            found,
            [70 + lane, 100, STACK + STACK_SIZE * (6 + lane), 0, 0]
        );
    }
}

#[test]
fn no_lanes_and_too_many() {
    let mut ram = load(&assemble("ret"), 1);
    let mut faults = Vec::new();
    assert_eq!(
        Wave::new(&start(0, 0)).run(&mut ram, &mut ICache::new(), 9, &mut faults),
        Stop::Done
    );
    let mut wave = Wave::new(&start(1000, 0));
    assert_eq!(wave.live(), u32::MAX);
    finish(&mut wave, &mut ram);
    assert_eq!((wave.retired(), wave.live()), (LANES as u64, 0));
}

#[test]
fn divisions() {
    for (insn, a, b, expected) in [
        ("div", 7u64, 0u64, u64::MAX),
        ("divu", 7, 0, u64::MAX),
        ("rem", 7, 0, 7),
        ("remu", 7, 0, 7),
        ("div", MIN, u64::MAX, MIN),
        ("rem", MIN, u64::MAX, 0),
        ("div", 7u64.wrapping_neg(), 2, 3u64.wrapping_neg()),
        ("rem", 7u64.wrapping_neg(), 2, u64::MAX),
        ("divw", (1 << 32) | 7, 1 << 32, u64::MAX),
        ("divuw", 7, 0, u64::MAX),
        ("remw", 0x1_8000_0000, 0, MIN_WORD),
        ("remuw", 0x8000_0000, 0, MIN_WORD),
        ("divw", 0x8000_0000, 0xffff_ffff, MIN_WORD),
        ("remw", 0x8000_0000, 0xffff_ffff, 0),
        ("divuw", 0x8000_0000, 1, MIN_WORD),
        ("mulh", MIN, MIN, 1 << 62),
        ("mulhu", u64::MAX, u64::MAX, u64::MAX - 1),
        ("mulhsu", u64::MAX, u64::MAX, u64::MAX),
    ] {
        assert_eq!(
            binary(&format!("{insn} t2, t0, t1"), a, b),
            expected,
            "{insn} {a:#x} {b:#x}"
        );
    }
}

#[test]
fn shifts_take_as_many_bits_as_they_need() {
    for (insn, a, b, expected) in [
        ("sll", 1u64, 64 + 63u64, MIN),
        ("srl", MIN, 63, 1),
        ("sra", MIN, 63, u64::MAX),
        ("sllw", 1, 32 + 31, MIN_WORD),
        ("srlw", MIN_WORD, 31, 1),
        ("sraw", 0x8000_0000, 31, u64::MAX),
        ("srlw", u64::MAX, 0, u64::MAX),
    ] {
        assert_eq!(
            binary(&format!("{insn} t2, t0, t1"), a, b),
            expected,
            "{insn} {a:#x} {b:#x}"
        );
    }
}

#[test]
fn zero_stays_zero() {
    let ram = run_asm(
        "li t0, 5\nadd x0, t0, t0\nld x0, 0(a0)\namoadd.d x0, t0, (a0)\nsd x0, 8(a0)\nret",
        1,
        &[9],
    );
    assert_eq!((ram.u64(DATA), ram.u64(DATA + 8)), (14, 0));
}

#[test]
fn atomics_give_the_old_value() {
    let minus = 3u64.wrapping_neg();
    for (insn, old, operand, new) in [
        ("amoswap", 5u64, 9u64, 9u64),
        ("amoadd", 5, minus, 2),
        ("amoand", 12, 10, 8),
        ("amoor", 12, 10, 14),
        ("amoxor", 12, 10, 6),
        ("amomin", 5, minus, minus),
        ("amomax", 5, minus, 5),
        ("amominu", 5, minus, 5),
        ("amomaxu", 5, minus, minus),
    ] {
        let data = old.to_le_bytes();
        let ram = run_asm(
            &format!("li t0, {operand:#x}\n{insn}.d t2, t0, (a0)\nsd t2, 8(a0)\nret"),
            1,
            &data,
        );
        assert_eq!((ram.u64(DATA), ram.u64(DATA + 8)), (new, old), "{insn}.d");
        // Words leave what is beside them alone and come back sign-extended.
        let data = (old | (0xabcd << 32)).to_le_bytes();
        let ram = run_asm(
            &format!("li t0, {operand:#x}\n{insn}.w t2, t0, (a0)\nsd t2, 8(a0)\nret"),
            1,
            &data,
        );
        assert_eq!(
            (ram.u64(DATA), ram.u64(DATA + 8)),
            (new & 0xffff_ffff | (0xabcd << 32), old),
            "{insn}.w"
        );
    }
    let ram = run_asm(
        "li t0, 1\namoadd.w t2, t0, (a0)\nsd t2, 8(a0)\nret",
        1,
        &0x8000_0000u32.to_le_bytes(),
    );
    assert_eq!((ram.u64(DATA), ram.u64(DATA + 8)), (0x8000_0001, MIN_WORD));
}

#[test]
fn conditional_stores() {
    let asm = "
        li t0, 7
        sc.d t1, t0, (a0)       # nothing is reserved
        sd t1, 8(a0)
        lr.d t2, (a0)
        sc.d t1, t0, (a0)
        sd t1, 16(a0)
        sc.d t1, t0, (a0)       # the reservation is used up
        sd t1, 24(a0)
        lr.d t2, (a0)
        addi t3, a0, 64
        sc.d t1, t0, (t3)       # elsewhere
        sd t1, 32(a0)
        lr.d t2, (a0)
        li t4, 8
        sd t4, 0(a0)            # memory changes meanwhile
        sc.d t1, t0, (a0)
        sd t1, 40(a0)
        lr.w t2, (a0)
        sc.w t1, t0, (a0)
        sd t1, 48(a0)
        ret";
    let ram = run_asm(asm, 1, &[5]);
    let found: Vec<u64> = (0..7).map(|i| ram.u64(DATA + 8 * i)).collect();
    assert_eq!(found, [7, 1, 0, 1, 1, 1, 0]);
    assert_eq!(ram.u64(DATA + 64), 0);
}

#[test]
fn all_lanes_get_through_a_conditional_store() {
    let ram = run_asm(
        "1: lr.w t0, (a0)\naddi t0, t0, 1\nsc.w t1, t0, (a0)\nbnez t1, 1b\nret",
        LANES,
        &[],
    );
    assert_eq!(ram.u64(DATA), LANES as u64);
}

#[test]
fn a_lock_whose_owner_is_ahead_is_released() {
    // Those who spin are at lower addresses than the owner and would always go first.
    let asm = "
        li t0, 1
        1: amoswap.w.aq t1, t0, (a0)
        bnez t1, 1b
        ld t2, 8(a0)
        addi t2, t2, 1
        sd t2, 8(a0)
        amoswap.w.rl x0, x0, (a0)
        ret";
    assert_eq!(run_asm(asm, LANES, &[]).u64(DATA + 8), LANES as u64);
}

#[test]
fn atomics_meet_those_of_the_host() {
    let asm = "li t1, 20000\nli t0, 1\n1: amoadd.d x0, t0, (a0)\naddi t1, t1, -1\nbnez t1, 1b\nret";
    let mut ram = load(&assemble(asm), LANES);
    ram.map(DATA, 8);
    let cell = std::ptr::from_ref(shared(&ram, DATA)) as usize;
    let (begun, over) = (AtomicBool::new(false), AtomicBool::new(false));
    let added = std::thread::scope(|scope| {
        let host = scope.spawn(|| {
            // SAFETY: the page outlives the scope and is accessed atomically only.
            let cell = unsafe { std::sync::atomic::AtomicU64::from_ptr(cell as *mut u64) };
            let mut added = 0;
            while !over.load(SeqCst) {
                cell.fetch_add(1, SeqCst);
                added += 1;
                begun.store(true, SeqCst);
            }
            added
        });
        while !begun.load(SeqCst) {
            std::hint::spin_loop();
        }
        finish(&mut Wave::new(&start(LANES, DATA)), &mut ram);
        over.store(true, SeqCst);
        host.join().unwrap()
    });
    assert_eq!(ram.u64(DATA), 20000 * LANES as u64 + added);
}

/// Floating-point results with their flags; the expression leaves its result in `t2`.
fn float(body: &str) -> (u64, u64) {
    let ram = run_asm(
        &format!("fscsr x0\n{body}\nfrcsr t3\n{}ret", stores(&["t2", "t3"])),
        1,
        &[],
    );
    (ram.u64(DATA), ram.u64(DATA + 8))
}

#[test]
fn floating_point_corners() {
    const NAN: u64 = 0x7fc0_0000;
    const NAN_DOUBLE: u64 = 0x7ff8 << 48;
    let (nx, uf, of, dz, nv) = (1, 2, 4, 8, 16);
    let s = |op: &str, a: u64, b: u64| {
        float(&format!(
            "li t0, {a:#x}\nfmv.w.x f0, t0\nli t0, {b:#x}\nfmv.w.x f1, t0\n{op}\nfmv.x.w t2, f2\n"
        ))
    };
    let d = |op: &str, a: u64, b: u64| {
        float(&format!(
            "li t0, {a:#x}\nfmv.d.x f0, t0\nli t0, {b:#x}\nfmv.d.x f1, t0\n{op}\n"
        ))
    };
    // Signs of zero, NaNs and infinities.
    assert_eq!(s("fadd.s f2, f0, f1", 0x7f80_0000, 0xff80_0000), (NAN, nv));
    assert_eq!(s("fadd.s f2, f0, f1", 0x7fff_ffff, 0x3f80_0000), (NAN, 0));
    assert_eq!(s("fadd.s f2, f0, f1", 0x7f80_0001, 0x3f80_0000), (NAN, nv));
    assert_eq!(
        s("fdiv.s f2, f0, f1", 0x3f80_0000, 1 << 31),
        (0xffff_ffff_ff80_0000, dz)
    );
    assert_eq!(s("fdiv.s f2, f0, f1", 0, 0), (NAN, nv));
    assert_eq!(s("fsqrt.s f2, f0", 0xbf80_0000, 0), (NAN, nv));
    assert_eq!(s("fsqrt.s f2, f0", 1 << 31, 0), (MIN_WORD, 0));
    assert_eq!(
        s("fsub.s f2, f0, f1, rdn", 0x3f80_0000, 0x3f80_0000),
        (MIN_WORD, 0)
    );
    assert_eq!(
        s("fmul.s f2, f0, f1", 0x7f7f_ffff, 0x7f7f_ffff),
        (0x7f80_0000, of | nx)
    );
    assert_eq!(
        s("fmul.s f2, f0, f1, rtz", 0x7f7f_ffff, 0x7f7f_ffff),
        (0x7f7f_ffff, of | nx)
    );
    // Infinity times zero is invalid even if the addend is a NaN already.
    assert_eq!(
        s(
            "fmv.s f3, f1\nfmv.w.x f4, x0\nfmadd.s f2, f0, f4, f3",
            0x7f80_0000,
            NAN
        ),
        (NAN, nv)
    );
    // Just below the smallest normal number: tiny after rounding, and not tiny.
    assert_eq!(
        s("fmul.s f2, f0, f1", 0x0080_0000, 0x3f7f_ffff),
        (0x0080_0000, uf | nx)
    );
    assert_eq!(
        s("fdiv.s f2, f0, f1", 0x00ff_ffff, 0x4000_0000),
        (0x0080_0000, nx | uf)
    );
    // Minimum and maximum prefer numbers and tell the zeros apart.
    assert_eq!(s("fmin.s f2, f0, f1", 0, 1 << 31), (MIN_WORD, 0));
    assert_eq!(s("fmax.s f2, f0, f1", 1 << 31, 0), (0, 0));
    assert_eq!(s("fmax.s f2, f0, f1", NAN, 0x3f80_0000), (0x3f80_0000, 0));
    assert_eq!(
        s("fmin.s f2, f0, f1", 0x7f80_0001, 0x3f80_0000),
        (0x3f80_0000, nv)
    );
    // What is not boxed is a NaN, but moves and stores take it as it is.
    assert_eq!(
        d(
            "fadd.s f2, f0, f1\nfmv.x.d t2, f2",
            0x3f80_0000,
            0xffff_ffff_3f80_0000
        ),
        (NAN | (0xffff_ffff << 32), 0)
    );
    assert_eq!(d("fmv.x.w t2, f0", 0x1234_3f80_0000, 0), (0x3f80_0000, 0));
    assert_eq!(
        d("fsgnj.s f2, f0, f0\nfmv.x.d t2, f2", 5, 0),
        (NAN | (0xffff_ffff << 32), 0)
    );
    // Conversions saturate.
    assert_eq!(d("fcvt.w.d t2, f0", NAN_DOUBLE, 0), (0x7fff_ffff, nv));
    assert_eq!(
        d("fcvt.w.d t2, f0", 0xc1e0_0000_0010_0000, 0),
        (MIN_WORD, nx)
    );
    assert_eq!(
        d("fcvt.wu.d t2, f0, rtz", 0xbfe0_0000_0000_0000, 0),
        (0, nx)
    );
    assert_eq!(d("fcvt.wu.d t2, f0", 0xbff0_0000_0000_0000, 0), (0, nv));
    assert_eq!(
        d("fcvt.wu.d t2, f0", 0x41ef_ffff_ffe0_0000, 0),
        (u64::MAX, 0)
    );
    assert_eq!(
        d("fcvt.lu.d t2, f0", 0x43f0_0000_0000_0000, 0),
        (u64::MAX, nv)
    );
    assert_eq!(d("fcvt.l.d t2, f0", 0xfff0_0000_0000_0000, 0), (MIN, nv));
    // Two and a half in all directions.
    for (rm, expected) in [("rne", 2), ("rtz", 2), ("rdn", 2), ("rup", 3), ("rmm", 3)] {
        assert_eq!(
            d(&format!("fcvt.l.d t2, f0, {rm}"), 0x4004_0000_0000_0000, 0),
            (expected, nx),
            "{rm}"
        );
    }
    // Comparisons: quiet for equality only.
    assert_eq!(d("feq.d t2, f0, f1", NAN_DOUBLE, 0), (0, 0));
    assert_eq!(d("flt.d t2, f0, f1", NAN_DOUBLE, 0), (0, nv));
    assert_eq!(d("fle.d t2, f0, f1", MIN, 0), (1, 0));
}

#[test]
fn classes() {
    let cases: [(u64, u64); 10] = [
        (0xfff0 << 48, 0),
        (0xbff0 << 48, 1),
        (MIN | 1, 2),
        (MIN, 3),
        (0, 4),
        (1, 5),
        (0x3ff0 << 48, 6),
        (0x7ff0 << 48, 7),
        ((0x7ff0 << 48) | 1, 8),
        (0x7ff8 << 48, 9),
    ];
    for (bits, class) in cases {
        assert_eq!(
            float(&format!(
                "li t0, {bits:#x}\nfmv.d.x f0, t0\nfclass.d t2, f0"
            )),
            (1 << class, 0),
            "{bits:#x}"
        );
    }
}

#[test]
fn flags_and_modes_are_per_lane() {
    // Odd threads divide one by three upwards, even ones one by two.
    let asm = "
        andi t0, a1, 1
        addi t1, t0, 2
        slli t2, t0, 1
        add t2, t2, t0
        fsrm t2
        li t3, 1
        fcvt.d.l f0, t3
        fcvt.d.l f1, t1
        fdiv.d f2, f0, f1
        frcsr t4
        slli t5, a1, 4
        add a0, a0, t5
        fsd f2, 0(a0)
        sd t4, 8(a0)
        ret";
    let ram = run_asm(asm, LANES, &[]);
    for lane in 0..LANES as u64 {
        let found = (
            f64::from_bits(ram.u64(DATA + 16 * lane)),
            ram.u64(DATA + 16 * lane + 8),
        );
        let third = f64::from_bits((1.0f64 / 3.0).to_bits() + 1);
        assert_eq!(
            found,
            if lane % 2 == 0 {
                (0.5, 0)
            } else {
                (third, (3 << 5) | 1)
            }
        );
    }
}

#[test]
fn counters_count() {
    let ram = run_asm("rdinstret t0\nnop\nnop\nrdcycle t1\nrdtime t2\nsub t1, t1, t0\nsub t2, t2, t0\nsd t1, 0(a0)\nsd t2, 8(a0)\nret", 1, &[]);
    assert_eq!((ram.u64(DATA), ram.u64(DATA + 8)), (3, 4));
}

#[test]
fn misaligned_accesses_cross_pages() {
    let asm = "
        li t1, 0x1122334455667788
        li t0, 0xff9
        add t0, t0, a0
        sd t1, 0(t0)
        ld t2, 0(t0)
        lw t3, 5(t0)
        lhu t4, 6(t0)
        flw f0, 5(t0)
        fmv.x.w t5, f0
        sd t2, 0(a0)
        sd t3, 8(a0)
        sd t4, 16(a0)
        sd t5, 24(a0)
        sh t1, 13(t0)
        ret";
    let ram = run_asm(asm, 1, &[]);
    let found: Vec<u64> = (0..4).map(|i| ram.u64(DATA + 8 * i)).collect();
    assert_eq!(
        found,
        [0x1122_3344_5566_7788, 0x0011_2233, 0x1122, 0x0011_2233]
    );
    assert_eq!(ram.u64(DATA + 0xff9), 0x1122_3344_5566_7788);
    assert_eq!(ram.read(DATA + 0xff9 + 13, 2), [0x88, 0x77]);
}

/// A wave that stores and loads at `a0` plus 8 times its index, `LANES` lanes around a page boundary.
fn straddling() -> (Wave, Ram) {
    let asm = "slli t0, a1, 3\nadd a0, a0, t0\nld t1, 0(a0)\naddi t1, t1, 1\nsd t1, 0(a0)\nret";
    let mut ram = load(&assemble(asm), LANES);
    ram.map(DATA, 0x2000);
    (Wave::new(&start(LANES, DATA + 0x1000 - 64)), ram)
}

#[test]
fn only_lanes_that_miss_are_parked() {
    let (mut wave, mut ram) = straddling();
    ram.deny(DATA + 0x1000, Access::Write);
    ram.deny(DATA, Access::Read);
    let (mut icache, mut faults) = (ICache::new(), Vec::new());
    // Eight lanes lie in the first page and cannot load; the others cannot store.
    assert_eq!(
        wave.run(&mut ram, &mut icache, 1000, &mut faults),
        Stop::Parked
    );
    let load = Fault {
        va: DATA + 0x1000 - 64,
        access: Access::Read,
        lanes: 0xff,
    };
    let store = Fault {
        va: DATA + 0x1000,
        access: Access::Write,
        lanes: 0xffff_ff00,
    };
    assert_eq!(faults, [load, store]);
    assert_eq!((wave.parked(), wave.live()), (u32::MAX, u32::MAX));
    assert_eq!(ram.read(DATA, 0x2000), [0; 0x2000]);
    // A replay that repaired nothing changes nothing.
    let retired = wave.retired();
    faults.clear();
    wave.replay();
    assert_eq!(
        wave.run(&mut ram, &mut icache, 1000, &mut faults),
        Stop::Parked
    );
    assert_eq!((faults.len(), wave.retired()), (2, retired));
    ram.allow();
    wave.replay();
    faults.clear();
    assert_eq!(
        wave.run(&mut ram, &mut icache, 1000, &mut faults),
        Stop::Done
    );
    assert_eq!(faults, []);
    assert_eq!(wave.retired(), 6 * LANES as u64);
    for lane in 0..LANES as u64 {
        assert_eq!(ram.u64(DATA + 0x1000 - 64 + 8 * lane), 1);
    }
}

#[test]
fn a_store_across_a_page_is_done_whole_or_not_at_all() {
    let mut ram = load(&assemble("li t0, -1\nsd t0, -3(a0)\nret"), 1);
    ram.map(DATA, 0x2000);
    for denied in [DATA, DATA + 0x1000] {
        ram.deny(denied, Access::Write);
        let mut wave = Wave::new(&start(1, DATA + 0x1000));
        let mut faults = Vec::new();
        assert_eq!(
            wave.run(&mut ram, &mut ICache::new(), 10, &mut faults),
            Stop::Parked
        );
        assert_eq!(
            faults,
            [Fault {
                va: denied.max(DATA + 0x1000 - 3),
                access: Access::Write,
                lanes: 1
            }]
        );
        assert_eq!(ram.read(DATA + 0xff0, 32), [0; 32]);
        ram.allow();
    }
}

#[test]
fn fetches_miss_too() {
    // The instruction at the end of the first page has its second half in the next one.
    let mut ram = load(
        &assemble(".fill 2047, 2, 0x0001\nli t0, 0x123\nsd t0, 0(a0)\nret"),
        2,
    );
    ram.map(DATA, 8);
    ram.deny(CODE + 0x1000, Access::Fetch);
    let (mut icache, mut faults) = (ICache::new(), Vec::new());
    let mut wave = Wave::new(&start(2, DATA));
    assert_eq!(
        wave.run(&mut ram, &mut icache, 10000, &mut faults),
        Stop::Parked
    );
    assert_eq!(
        faults,
        [Fault {
            va: CODE + 0x1000,
            access: Access::Fetch,
            lanes: 3
        }]
    );
    assert_eq!((wave.pc(0), wave.pc(1)), (CODE + 0xffe, CODE + 0xffe));
    ram.allow();
    wave.replay();
    assert_eq!(
        wave.run(&mut ram, &mut icache, 10000, &mut faults),
        Stop::Done
    );
    assert_eq!(ram.u64(DATA), 0x123);
}

#[test]
fn atomics_ask_for_their_own_access() {
    let mut ram = load(
        &assemble("lr.d t0, (a0)\nsc.d t1, t0, (a0)\nbnez t1, 1f\namoadd.d t0, t0, (a0)\n1: ret"),
        1,
    );
    ram.map(DATA, 8);
    ram.deny(DATA, Access::Atomic);
    let mut faults = Vec::new();
    let mut wave = Wave::new(&start(1, DATA));
    assert_eq!(
        wave.run(&mut ram, &mut ICache::new(), 10, &mut faults),
        Stop::Parked
    );
    assert_eq!(
        faults,
        [Fault {
            va: DATA,
            access: Access::Atomic,
            lanes: 1
        }]
    );
    assert_eq!(wave.pc(0), CODE + 4);
}

fn trap(asm: &str) -> Stop {
    let mut ram = load(&assemble(asm), 1);
    ram.map(DATA, 8);
    let mut wave = Wave::new(&start(1, DATA));
    let stop = wave.run(&mut ram, &mut ICache::new(), 10, &mut Vec::new());
    assert_eq!(wave.live(), 0);
    stop
}

#[test]
fn traps() {
    let illegal = Stop::Trap(Trap::Illegal { pc: CODE });
    for asm in [
        "ebreak",
        "c.ebreak",
        "unimp",
        ".4byte 0",
        ".4byte 0xffffffff",
        "mret",
        "wfi",
        "csrr t0, mstatus",
        "csrw cycle, t0",
        "csrr t0, hpmcounter3",
        ".4byte 0x0000707f",
        ".4byte 0x00005053",
        ".2byte 0x2001",
        ".2byte 0x4002",
        ".2byte 0x6002",
        ".2byte 0x6101",
        ".2byte 0x8002",
        ".2byte 0x9c41",
        ".2byte 0x8000",
        // A shift by 32 of a word, a rounding mode that does not exist, half precision.
        ".4byte 0x0200101b",
        ".4byte 0x00205053",
        ".4byte 0x04000053",
    ] {
        assert_eq!(trap(asm), illegal, "{asm}");
    }
    assert_eq!(
        trap("fsrmi 5\nfadd.s f0, f0, f0, dyn"),
        Stop::Trap(Trap::Illegal { pc: CODE + 4 })
    );
    assert_eq!(
        trap("addi a0, a0, 4\namoadd.d t0, t0, (a0)"),
        Stop::Trap(Trap::Misaligned { addr: DATA + 4 })
    );
    assert_eq!(
        trap("addi a0, a0, 2\nlr.w t0, (a0)"),
        Stop::Trap(Trap::Misaligned { addr: DATA + 2 })
    );
    assert_eq!(
        trap("addi a0, a0, 1\nsc.w t0, t0, (a0)"),
        Stop::Trap(Trap::Misaligned { addr: DATA + 1 })
    );
}

#[test]
fn a_malformed_page_table_ends_the_wave() {
    for asm in [
        "ld t0, 0(a0)",
        "sb t0, 0(a0)",
        "amoadd.w t0, t0, (a0)",
        "jr a0",
    ] {
        let mut ram = load(&assemble(asm), LANES);
        ram.break_table(DATA);
        let mut wave = Wave::new(&start(LANES, DATA));
        let stop = wave.run(&mut ram, &mut ICache::new(), 10, &mut Vec::new());
        assert_eq!(stop, Stop::Trap(Trap::PageTable { addr: DATA }), "{asm}");
        assert_eq!(
            wave.run(&mut ram, &mut ICache::new(), 10, &mut Vec::new()),
            Stop::Done
        );
    }
}

#[test]
fn lanes_part_and_meet_again() {
    // Each thread loops as often as its index says; behind the loop all are issued together again.
    let asm = "mv t0, a1\nbeqz t0, 2f\n1: addi t1, t1, 3\naddi t0, t0, -1\nbnez t0, 1b\n2: rdinstret t2\n\
               slli t3, a1, 4\nadd a0, a0, t3\nsd t1, 0(a0)\nsd t2, 8(a0)\nret";
    let ram = run_asm(asm, LANES, &[]);
    for lane in 0..LANES as u64 {
        assert_eq!(ram.u64(DATA + 16 * lane), 3 * lane);
        assert_eq!(ram.u64(DATA + 16 * lane + 8), ram.u64(DATA + 8));
    }
}

#[test]
fn a_jump_table_sends_each_lane_elsewhere() {
    let asm = "
        .option norvc
        andi t0, a1, 3
        slli t0, t0, 3
        la t1, 1f
        add t1, t1, t0
        jr t1
        1: li t2, 10
        j 2f
        li t2, 11
        j 2f
        li t2, 12
        j 2f
        li t2, 13
        j 2f
        2: slli t3, a1, 3
        add a0, a0, t3
        sd t2, 0(a0)
        ret";
    let ram = run_asm(asm, LANES, &[]);
    for lane in 0..LANES as u64 {
        assert_eq!(ram.u64(DATA + 8 * lane), 10 + lane % 4);
    }
}

#[test]
fn a_quantum_interrupts_anywhere() {
    let asm = "slli t0, a1, 3\nadd a0, a0, t0\nmv t1, a1\n1: addi t2, t2, 1\naddi t1, t1, -1\nbgez t1, 1b\nsd t2, 0(a0)\nret";
    let mut ram = load(&assemble(asm), LANES);
    ram.map(DATA, 0x1000);
    let (mut wave, mut icache) = (Wave::new(&start(LANES, DATA)), ICache::new());
    let mut runs = 0;
    while wave.run(&mut ram, &mut icache, 1, &mut Vec::new()) == Stop::Quantum {
        runs += 1;
        assert!(runs < 10000);
    }
    assert_eq!(
        wave.run(&mut ram, &mut icache, 0, &mut Vec::new()),
        Stop::Done
    );
    for lane in 0..LANES as u64 {
        assert_eq!(ram.u64(DATA + 8 * lane), lane + 1);
    }
}

#[test]
fn a_cleared_cache_sees_new_code() {
    let mut ram = load(&assemble("li t0, 1\nsd t0, 0(a0)\nret"), 1);
    ram.map(DATA, 8);
    let mut icache = ICache::new();
    let run = |ram: &mut Ram, icache: &mut ICache| {
        assert_eq!(
            Wave::new(&start(1, DATA)).run(ram, icache, 10, &mut Vec::new()),
            Stop::Done
        );
        ram.u64(DATA)
    };
    assert_eq!(run(&mut ram, &mut icache), 1);
    ram.write(CODE, &assemble("li t0, 2\nsd t0, 0(a0)\nret"));
    icache.clear();
    assert_eq!(run(&mut ram, &mut icache), 2);
}

#[test]
fn a_page_is_looked_up_once_per_run() {
    let asm = "1: ld t0, 0(a0)\naddi t1, t1, 1\nslti t2, t1, 100\nbnez t2, 1b\nret";
    let mut ram = load(&assemble(asm), LANES);
    ram.map(DATA, 8);
    finish(&mut Wave::new(&start(LANES, DATA)), &mut ram);
    assert_eq!(ram.lookups, 2);
}
