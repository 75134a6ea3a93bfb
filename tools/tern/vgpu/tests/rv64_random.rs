// SPDX-License-Identifier: MIT OR Apache-2.0

//! Random programs, whose threads must leave exactly what they leave under QEMU's user emulation.
//!
//! The body of a program is a function that a thread calls with its index in `a1`. It fills all registers from the
//! thread's block of memory, executes random instructions on them and on the block, and stores all registers. The
//! core runs it in 32 lanes; under QEMU one thread calls it 32 times. Then all blocks must be equal.

mod rv64;

use std::fmt::Write;
use std::fs;
use std::process::Command;

use rv64::{build, finish, image, load, start, Random, DATA};
use tern_vgpu::rv64::{Wave, LANES};

/// Bytes of a thread's block. Random accesses go around its middle, which is at the boundary of two pages.
const BLOCK: u64 = 16384;
const SHIFT: u32 = BLOCK.trailing_zeros();
/// Where the registers are, from the middle: integer, floating-point, `fcsr`, return address, index.
const SAVED: i64 = 1040;
const FCSR: i64 = SAVED + 64 * 8;
const RETURN: i64 = FCSR + 8;
const INDEX: i64 = RETURN + 8;
/// Farthest random access from the middle.
const REACH: u64 = 1000;

/// Registers that point to the middle of the block, and one that points anywhere in it.
const MIDDLE: u32 = 8;
const STACK_POINTER: u32 = 2;
const POINTER: u32 = 9;

fn wrapper(body: &str) -> String {
    let mut asm = format!(
        ".option norelax\n.globl _start\nj 1f\n.balign 16\nbody:\n\
         slli x8, a1, {SHIFT}\nli x9, {}\nadd x8, x8, x9\nsd ra, {RETURN}(x8)\nsd a1, {INDEX}(x8)\n\
         ld x9, {FCSR}(x8)\nfscsr x9\n",
        DATA + BLOCK / 2
    );
    for register in 0..32 {
        writeln!(asm, "fld f{register}, {}(x8)", SAVED + 256 + 8 * register).unwrap();
    }
    for register in (1..32).filter(|register| ![8, 2, 9].contains(register)) {
        writeln!(asm, "ld x{register}, {}(x8)", SAVED + 8 * register).unwrap();
    }
    writeln!(asm, "mv x2, x8\nmv x9, x8\n{body}").unwrap();
    for register in 0..32 {
        writeln!(asm, "sd x{register}, {}(x8)", SAVED + 8 * register).unwrap();
        writeln!(asm, "fsd f{register}, {}(x8)", SAVED + 256 + 8 * register).unwrap();
    }
    writeln!(
        asm,
        "frcsr x9\nsd x9, {FCSR}(x8)\nld ra, {RETURN}(x8)\nsd x0, {RETURN}(x8)\nret"
    )
    .unwrap();
    // Only under QEMU: all threads in turn, then all blocks to standard output.
    let total = LANES as u64 * BLOCK;
    writeln!(
        asm,
        "1:\n_start:\nli a1, 0\n2: call body\nld a1, {INDEX}(x8)\naddi a1, a1, 1\nli t0, {LANES}\nbne a1, t0, 2b\n\
         li s1, {DATA}\nli s2, {total}\n3: li a0, 1\nmv a1, s1\nmv a2, s2\nli a7, 64\necall\nblez a0, 4f\n\
         add s1, s1, a0\nsub s2, s2, a0\nbnez s2, 3b\nli a0, 0\nli a7, 93\necall\n4: li a0, 1\nli a7, 93\necall\n"
    )
    .unwrap();
    asm
}

/// Bits that are set, and bits that may vary: of 4-byte instructions whose operands may be any registers.
const COMPUTE: &[(u32, u32)] = &{
    const R: u32 = 0x01ff_8f80;
    const I: u32 = 0xffff_8f80;
    const SHAMT: u32 = 0x03ff_8f80;
    [
        (0x37, 0xffff_ff80),
        (0x17, 0xffff_ff80), // lui auipc
        (0x0013, I),
        (0x2013, I),
        (0x3013, I),
        (0x4013, I),
        (0x6013, I),
        (0x7013, I),
        (0x1013, SHAMT),
        (0x5013, SHAMT),
        (0x4000_5013, SHAMT),
        (0x001b, I),
        (0x101b, R),
        (0x501b, R),
        (0x4000_501b, R),
        (0x0033, R),
        (0x4000_0033, R),
        (0x1033, R),
        (0x2033, R),
        (0x3033, R),
        (0x4033, R),
        (0x5033, R),
        (0x4000_5033, R),
        (0x6033, R),
        (0x7033, R),
        (0x003b, R),
        (0x4000_003b, R),
        (0x103b, R),
        (0x503b, R),
        (0x4000_503b, R),
        (0x0200_0033, R),
        (0x0200_1033, R),
        (0x0200_2033, R),
        (0x0200_3033, R),
        (0x0200_4033, R),
        (0x0200_5033, R),
        (0x0200_6033, R),
        (0x0200_7033, R),
        (0x0200_003b, R),
        (0x0200_403b, R),
        (0x0200_503b, R),
        (0x0200_603b, R),
        (0x0200_703b, R),
    ]
};

/// The same for floating-point instructions without a rounding mode. The last says that `rd` is an integer register.
const FLOAT: &[(u32, u32, bool)] = &{
    const R: u32 = 0x01ff_8f80;
    const UNARY: u32 = 0x000f_8f80;
    [
        (0x2000_0053, R, false),
        (0x2000_1053, R, false),
        (0x2000_2053, R, false), // fsgnj
        (0x2800_0053, R, false),
        (0x2800_1053, R, false), // fmin fmax
        (0xa000_0053, R, true),
        (0xa000_1053, R, true),
        (0xa000_2053, R, true), // fle flt feq
        (0xe000_0053, UNARY, true),
        (0xe000_1053, UNARY, true),
        (0xf000_0053, UNARY, false), // fmv.x fclass fmv
    ]
};

/// The same for those with one.
const ROUNDED: &[(u32, u32, bool)] = &{
    const R: u32 = 0x01ff_8f80;
    const UNARY: u32 = 0x000f_8f80;
    const FUSED: u32 = 0xf9ff_8f80;
    [
        (0x0053, R, false),
        (0x0800_0053, R, false),
        (0x1000_0053, R, false),
        (0x1800_0053, R, false),
        (0x5800_0053, UNARY, false),
        (0x43, FUSED, false),
        (0x47, FUSED, false),
        (0x4b, FUSED, false),
        (0x4f, FUSED, false),
        (0xc000_0053, UNARY, true),
        (0xc010_0053, UNARY, true),
        (0xc020_0053, UNARY, true),
        (0xc030_0053, UNARY, true),
        (0xd000_0053, UNARY, false),
        (0xd010_0053, UNARY, false),
        (0xd020_0053, UNARY, false),
        (0xd030_0053, UNARY, false),
    ]
};

/// The same for 2-byte instructions that compute. The last is how the result is chosen: 0 for `rd` in bits 7 to 11,
/// 1 for three bits at 7, 2 for three bits at 2.
const COMPRESSED: &[(u16, u16, u8)] = &[
    (0x0000, 0x1ffc, 2), // c.addi4spn
    (0x0001, 0x1ffc, 0),
    (0x2001, 0x1ffc, 0),
    (0x4001, 0x1ffc, 0),
    (0x6001, 0x1ffc, 0), // c.addi addiw li lui
    (0x8001, 0x13fc, 1),
    (0x8401, 0x13fc, 1),
    (0x8801, 0x13fc, 1), // c.srli srai andi
    (0x8c01, 0x039c, 1),
    (0x8c21, 0x039c, 1),
    (0x8c41, 0x039c, 1),
    (0x8c61, 0x039c, 1), // c.sub xor or and
    (0x9c01, 0x039c, 1),
    (0x9c21, 0x039c, 1), // c.subw addw
    (0x0002, 0x1ffc, 0),
    (0x8002, 0x0ffc, 0),
    (0x9002, 0x0ffc, 0), // c.slli mv add
];

/// Which numbers a program works on.
#[derive(Clone, Copy, PartialEq)]
enum Numbers {
    /// All kinds.
    Any,
    /// Single precision, far from overflow and underflow, so that most of it needs no software arithmetic.
    Singles,
    /// The same in double precision.
    Doubles,
}

struct Generator {
    random: Random,
    numbers: Numbers,
    /// Instructions, each as one or more assembler lines that may be jumped over together.
    items: Vec<String>,
}

impl Generator {
    /// An integer register that may be written.
    fn target(&mut self) -> u32 {
        loop {
            let register = self.random.below(32) as u32;
            if ![MIDDLE, STACK_POINTER, POINTER].contains(&register) {
                return register;
            }
        }
    }

    fn any(&mut self) -> u32 {
        self.random.below(32) as u32
    }

    fn push(&mut self, item: String) {
        self.items.push(item);
    }

    fn compute(&mut self) {
        let (set, vary) = self.random.pick(COMPUTE);
        let word = set | self.random.next() as u32 & vary & !0xf80 | (self.target() << 7);
        self.push(format!(".4byte {word:#x}"));
    }

    fn float(&mut self) {
        let rounded = self.random.below(4) != 0;
        let (set, vary, integer) = self.random.pick(if rounded { ROUNDED } else { FLOAT });
        let rd = if integer { self.target() } else { self.any() };
        let rm = if rounded {
            self.random.pick(&[0, 0, 0, 1, 2, 3, 4, 7, 7, 7])
        } else {
            0
        };
        let fmt = match self.numbers {
            Numbers::Any => self.random.below(2) as u32,
            Numbers::Singles => 0,
            Numbers::Doubles => 1,
        };
        let word =
            set | self.random.next() as u32 & vary & !0xf80 | (rd << 7) | (rm << 12) | (fmt << 25);
        self.push(format!(".4byte {word:#x}"));
    }

    fn convert(&mut self) {
        let (rd, rs, rm) = (
            self.any(),
            self.any(),
            self.random
                .pick(&["rne", "rtz", "rdn", "rup", "rmm", "dyn"]),
        );
        let item = match self.random.below(2) {
            0 => format!("fcvt.s.d f{rd}, f{rs}, {rm}"),
            _ => format!("fcvt.d.s f{rd}, f{rs}"),
        };
        self.push(item);
    }

    fn offset(&mut self) -> i64 {
        self.random.below(2 * REACH) as i64 - REACH as i64
    }

    fn access(&mut self) {
        let (rd, rs, f, offset) = (self.target(), self.any(), self.any(), self.offset());
        let near = 8 * self.random.below(31);
        let small = 8 + self.random.below(8);
        let loads = ["lb", "lh", "lw", "ld", "lbu", "lhu", "lwu"];
        let item = match self.random.below(12) {
            0..=2 => format!("{} x{rd}, {offset}(x8)", self.random.pick(&loads)),
            3..=5 => format!(
                "{} x{rs}, {offset}(x8)",
                self.random.pick(&["sb", "sh", "sw", "sd"])
            ),
            6 => format!("{} f{f}, {offset}(x8)", self.random.pick(&["flw", "fld"])),
            7 => format!("{} f{f}, {offset}(x8)", self.random.pick(&["fsw", "fsd"])),
            8 => format!(
                "{} x{}, {near}(x8)",
                self.random.pick(&["c.sw", "c.sd"]).replace("sw", "sd"),
                small
            ),
            9 => format!(
                "c.sw x{small}, {}(x8)\nc.fsd f{small}, {near}(x8)\nc.fld f{small}, {near}(x8)",
                near / 2
            ),
            10 => format!(
                "c.swsp x{rs}, {}(sp)\nc.sdsp x{rs}, {near}(sp)\nc.fsdsp f{f}, {near}(sp)",
                near / 2
            ),
            _ => {
                let rd = rd.max(1);
                format!(
                    "c.lwsp x{rd}, {}(sp)\nc.fldsp f{f}, {near}(sp)\nc.ldsp x{rd}, {near}(sp)",
                    near / 2
                )
            }
        };
        self.push(item);
        let small = 10 + self.random.below(6);
        let item = match self.random.below(8) {
            0 => format!("c.lw x{small}, {}(x8)", near / 2),
            1 => format!("c.ld x{small}, {near}(x8)"),
            2 => "c.addi16sp sp, -64\nsd x1, 0(sp)\nmv sp, x8".into(),
            _ => return,
        };
        self.push(item);
    }

    fn atomic(&mut self) {
        let (size, width) = self.random.pick(&[(4, "w"), (8, "d")]);
        let offset = self.offset() / size * size;
        let (rd, other, rs) = (self.target(), self.target(), self.any());
        let order = self.random.pick(&["", ".aq", ".rl", ".aqrl"]);
        let names = [
            "swap", "add", "xor", "and", "or", "min", "max", "minu", "maxu",
        ];
        let name = self.random.pick(&names);
        let item = match self.random.below(4) {
            0 => format!(
                "addi x9, x8, {offset}\nlr.{width}{order} x{rd}, (x9)\nsc.{width}{order} x{other}, x{rs}, (x9)\n\
                 sc.{width} x{rd}, x{rs}, (x9)"
            ),
            _ => format!("addi x9, x8, {offset}\namo{name}.{width}{order} x{rd}, x{rs}, (x9)"),
        };
        self.push(item);
    }

    fn compressed(&mut self) {
        let (set, vary, kind) = self.random.pick(COMPRESSED);
        let mut half = set | self.random.next() as u16 & vary;
        match kind {
            0 => half = half & !0xf80 | ((self.target() as u16) << 7),
            // Of the eight registers of the short forms the first two are the pointers.
            1 => half = half & !0x380 | ((2 + self.random.below(6) as u16) << 7),
            _ => half = half & !0x1c | ((2 + self.random.below(6) as u16) << 2),
        }
        let rd = (half >> 7) & 31;
        let immediate = half & 0x107c;
        let reserved = match set {
            0x0000 => half & 0x1fe0 == 0,
            0x2001 => rd == 0,
            0x6001 => immediate == 0 || rd == 0,
            0x8002 | 0x9002 => half & 0x7c == 0,
            _ => false,
        };
        if !reserved {
            self.push(format!(".2byte {half:#x}"));
        }
    }

    fn control(&mut self) {
        let (rd, rs) = (self.target(), self.any());
        let (mode, flags) = (self.random.below(5), self.random.below(32));
        let item = match self.random.below(7) {
            0..=2 => format!("csrrwi x{rd}, frm, {mode}"),
            3 => format!("csrrwi x{rd}, fflags, {flags}"),
            4 => format!("csrrc x{rd}, fflags, x{rs}"),
            5 => format!("csrrs x{rd}, fcsr, x0\ncsrrwi x{rd}, fcsr, {flags}"),
            _ => format!("csrrs x{rd}, fflags, x{rs}\nfence\nfence.i"),
        };
        self.push(item);
    }

    /// Jumps over some of what follows.
    fn branch(&mut self, label: usize) -> String {
        let (a, b, rd, short) = (
            self.any(),
            self.any(),
            self.target(),
            8 + self.random.below(8),
        );
        let names = ["beq", "bne", "blt", "bge", "bltu", "bgeu"];
        match self.random.below(10) {
            0..=5 => format!("{} x{a}, x{b}, target{label}", self.random.pick(&names)),
            6 => format!(
                "{} x{short}, target{label}",
                self.random.pick(&["c.beqz", "c.bnez"])
            ),
            7 => format!("c.j target{label}"),
            8 => format!("jal x{rd}, target{label}"),
            _ => format!("la x9, target{label}+1\njalr x{rd}, 0(x9)\nnop"),
        }
    }

    fn program(seed: u64, numbers: Numbers, size: usize) -> String {
        let mut generator = Self {
            random: Random(seed),
            numbers,
            items: Vec::new(),
        };
        while generator.items.len() < size {
            match generator.random.below(16) {
                0..=3 => generator.compute(),
                4..=8 => generator.float(),
                9 => generator.convert(),
                10..=11 => generator.access(),
                12 => generator.atomic(),
                13..=14 => generator.compressed(),
                _ => generator.control(),
            }
        }
        let mut body = String::new();
        for i in 0..size {
            if generator.random.below(12) == 0 {
                let target = (i + 1 + generator.random.below(4) as usize).min(size);
                writeln!(body, "{}", generator.branch(target)).unwrap();
            }
            writeln!(body, "target{i}:\n{}", generator.items[i]).unwrap();
        }
        writeln!(body, "target{size}:").unwrap();
        body
    }
}

/// A number that finds corners.
fn interesting(random: &mut Random, numbers: Numbers) -> u64 {
    const DOUBLES: [u64; 12] = [
        0,
        1,
        0x000f_ffff_ffff_ffff,
        0x0010_0000_0000_0000,
        0x3ff0_0000_0000_0000,
        0x4330_0000_0000_0000,
        0x43e0_0000_0000_0000,
        0x7fef_ffff_ffff_ffff,
        0x7ff0_0000_0000_0000,
        0x7ff0_0000_0000_0001,
        0x7ff8_0000_0000_0000,
        0x3690_0000_0000_0000,
    ];
    const SINGLES: [u64; 12] = [
        0,
        1,
        0x007f_ffff,
        0x0080_0000,
        0x3f80_0000,
        0x4b00_0000,
        0x4f00_0000,
        0x7f7f_ffff,
        0x7f80_0000,
        0x7f80_0001,
        0x7fc0_0000,
        0x5f00_0000,
    ];
    let bits = random.next();
    let near = random.below(5).wrapping_sub(2);
    let kind = match numbers {
        Numbers::Any => random.below(12),
        Numbers::Singles => random.pick(&[7, 9]),
        Numbers::Doubles => random.pick(&[6, 8]),
    };
    match kind {
        0 => bits,
        1 => near,
        2 => (1u64 << 63).wrapping_add(near),
        3 => (1u64 << 31).wrapping_add(near) as i32 as u64,
        4 => random.pick(&DOUBLES) | bits & (1 << 63),
        5 => random.pick(&SINGLES) | bits & (1 << 31) | (0xffff_ffff << 32),
        // Close to one, so that sums cancel and products stay.
        6 => 0x3fe0_0000_0000_0000 + (bits >> 10),
        7 => 0xffff_ffff_3f00_0000 + (bits >> 40),
        8 => (random.below(2000) as f64 - 1000.0).to_bits(),
        9 => u64::from((random.below(2000) as f32 - 1000.0).to_bits()) | (0xffff_ffff << 32),
        10 => bits | (0xffff_ffff << 32),
        // Near the smallest normal numbers of both formats.
        _ => {
            random.pick(&[
                0x0010_0000_0000_0000,
                0x3810_0000_0000_0000,
                0xffff_ffff_0080_0000,
            ]) + (bits >> 44)
        }
    }
}

fn blocks(seed: u64, numbers: Numbers) -> Vec<u64> {
    let mut random = Random(seed);
    let mut words: Vec<u64> = (0..LANES as u64 * BLOCK / 8)
        .map(|_| interesting(&mut random, numbers))
        .collect();
    for lane in 0..LANES as u64 {
        let fcsr = (lane * BLOCK + BLOCK / 2).wrapping_add(FCSR as u64) / 8;
        words[fcsr as usize] = random.below(32)
            | if numbers == Numbers::Any {
                random.below(5) << 5
            } else {
                0
            };
    }
    words
}

/// Runs a program under QEMU.
fn qemu(source: &str) -> Vec<u8> {
    let elf = build(source, "s", true);
    let output = Command::new("qemu-riscv64").arg(&elf).output();
    fs::remove_file(&elf).expect("the program cannot be removed");
    let output = output.unwrap_or_else(|error| {
        panic!("qemu-riscv64, with which all results are compared, cannot be run ({error}): install qemu-user")
    });
    assert!(output.status.success(), "QEMU ends with {}", output.status);
    output.stdout
}

fn name(word: u64) -> String {
    let offset = (word * 8) as i64 - BLOCK as i64 / 2 - SAVED;
    match offset / 8 {
        register @ 0..32 if offset >= 0 => format!("x{register}"),
        register @ 32..64 => format!("f{}", register - 32),
        64 => "fcsr".into(),
        _ => format!("memory at {}", offset + SAVED),
    }
}

fn compare(seed: u64, numbers: Numbers, size: usize) {
    let body = Generator::program(seed, numbers, size);
    let mut source = wrapper(&body);
    source.push_str(".data\n");
    for word in blocks(!seed, numbers) {
        writeln!(source, ".8byte {word:#x}").unwrap();
    }
    let expected = qemu(&source);
    let mut ram = load(&image(&source, "s"), LANES);
    let mut wave = Wave::new(&tern_vgpu::rv64::Start {
        entry: start(LANES, 0).entry + 16,
        ..start(LANES, 0)
    });
    finish(&mut wave, &mut ram);
    let found = ram.read(DATA, LANES as u64 * BLOCK);
    assert_eq!(found.len(), expected.len());
    let mut wrong = String::new();
    for (i, (found, expected)) in found.chunks(8).zip(expected.chunks(8)).enumerate() {
        if found != expected {
            let (lane, word) = (i as u64 / (BLOCK / 8), i as u64 % (BLOCK / 8));
            let [found, expected] =
                [found, expected].map(|x| u64::from_le_bytes(x.try_into().unwrap()));
            writeln!(
                wrong,
                "lane {lane} {}: {found:#018x}, QEMU has {expected:#018x}",
                name(word)
            )
            .unwrap();
        }
    }
    assert!(wrong.is_empty(), "seed {seed}, size {size}:\n{wrong}{body}");
}

/// Short programs name the instruction at fault when they fail.
#[test]
fn short_programs() {
    for seed in 0..20 {
        compare(seed, Numbers::Any, 4);
    }
}

#[test]
fn long_programs() {
    for seed in 1000..1016 {
        compare(seed, Numbers::Any, 400);
    }
}

#[test]
fn ordinary_numbers() {
    for seed in 2000..2012 {
        compare(
            seed,
            if seed % 2 == 0 {
                Numbers::Singles
            } else {
                Numbers::Doubles
            },
            60,
        );
    }
}
