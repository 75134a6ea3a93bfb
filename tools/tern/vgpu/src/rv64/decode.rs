// SPDX-License-Identifier: MIT OR Apache-2.0

//! From instruction words to [`Insn`].

/// First floating-point register in the numbering of [`Insn`].
pub(super) const F0: u8 = 32;
/// Where results go that are for `x0`: a register that nothing reads.
pub(super) const SINK: u8 = 64;
/// Registers of a lane: integer, floating-point and [`SINK`].
pub(super) const REGISTERS: usize = 65;

/// Rounding mode: nearest, ties to even.
pub(super) const RNE: u8 = 0;
/// Rounding mode: downwards. Mode 1 is towards zero, which is what is left when all others are told apart.
pub(super) const RDN: u8 = 2;
/// Rounding mode: upwards.
pub(super) const RUP: u8 = 3;
/// Rounding mode: nearest, ties away from zero.
pub(super) const RMM: u8 = 4;
/// Rounding mode in an instruction: what `frm` says.
pub(super) const DYNAMIC: u8 = 7;

/// Number of the accrued exceptions register.
pub(super) const CSR_FFLAGS: i32 = 1;
/// Number of the rounding mode register.
pub(super) const CSR_FRM: i32 = 2;
/// Number of the register that has both.
pub(super) const CSR_FCSR: i32 = 3;
/// Numbers of `cycle`, `time` and `instret`.
const COUNTERS: std::ops::RangeInclusive<u32> = 0xc00..=0xc02;

/// A computation with two integer operands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Alu {
    Add,
    Sub,
    Sll,
    Slt,
    Sltu,
    Xor,
    Srl,
    Sra,
    Or,
    And,
    Addw,
    Subw,
    Sllw,
    Srlw,
    Sraw,
    Mul,
    Mulh,
    Mulhsu,
    Mulhu,
    Div,
    Divu,
    Rem,
    Remu,
    Mulw,
    Divw,
    Divuw,
    Remw,
    Remuw,
}

/// The condition of a branch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Cond {
    Eq,
    Ne,
    Lt,
    Ge,
    Ltu,
    Geu,
}

/// What a load leaves in its register.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Load {
    I8,
    I16,
    I32,
    U64,
    U8,
    U16,
    U32,
    /// Single precision in a double precision register: the upper half is all ones.
    Boxed,
}

/// How much a store or an atomic writes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Width {
    B,
    H,
    W,
    D,
}

/// What an atomic makes of memory and its operand.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Amo {
    Swap,
    Add,
    Xor,
    And,
    Or,
    Min,
    Max,
    Minu,
    Maxu,
}

/// What an access to a control register does to it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Csr {
    Write,
    Set,
    Clear,
}

/// The format of a floating-point operation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Fmt {
    S,
    D,
}

/// A floating-point computation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Float {
    Add,
    Sub,
    Mul,
    Div,
    Sqrt,
    Madd,
    Msub,
    Nmsub,
    Nmadd,
    Sgnj,
    Sgnjn,
    Sgnjx,
    Min,
    Max,
    Eq,
    Lt,
    Le,
    Class,
    /// To this format from the other one.
    Convert,
    ToI32,
    ToU32,
    ToI64,
    ToU64,
    FromI32,
    FromU32,
    FromI64,
    FromU64,
    /// Bits to an integer register.
    MoveToX,
    /// Bits from an integer register.
    MoveFromX,
}

/// What an instruction does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Op {
    /// Not decoded yet.
    Unknown,
    Illegal,
    Alu(Alu),
    AluImm(Alu),
    Lui,
    Auipc,
    Jal,
    Jalr,
    Branch(Cond),
    Load(Load),
    Store(Width),
    LoadReserved(Width),
    StoreConditional(Width),
    Amo(Amo, Width),
    Fence,
    FenceI,
    Ecall,
    Csr(Csr),
    CsrImm(Csr),
    Float(Float, Fmt),
}

/// A decoded instruction. Registers are numbered through: integer, then floating-point from [`F0`], then [`SINK`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Insn {
    pub op: Op,
    pub rd: u8,
    /// A register, or the immediate of [`Op::CsrImm`].
    pub rs1: u8,
    pub rs2: u8,
    pub rs3: u8,
    /// Rounding mode.
    pub rm: u8,
    /// Bytes in memory: 2 or 4.
    pub len: u8,
    /// Immediate, or the number of a control register.
    pub imm: i32,
}

impl Insn {
    /// What has not been decoded yet.
    pub const UNKNOWN: Self = Self {
        op: Op::Unknown,
        rd: SINK,
        rs1: 0,
        rs2: 0,
        rs3: 0,
        rm: 0,
        len: 4,
        imm: 0,
    };
}

/// Says whether an instruction that begins with `half` has 2 bytes rather than 4.
pub(super) fn is_compressed(half: u16) -> bool {
    half & 3 != 3
}

fn field(word: u32, low: u32, bits: u32) -> u32 {
    (word >> low) & ((1 << bits) - 1)
}

fn imm_i(word: u32) -> i32 {
    word as i32 >> 20
}

fn imm_s(word: u32) -> i32 {
    (word as i32 >> 25 << 5) | field(word, 7, 5) as i32
}

fn imm_b(word: u32) -> i32 {
    let low = (field(word, 7, 1) << 11) | (field(word, 25, 6) << 5) | (field(word, 8, 4) << 1);
    (word as i32 >> 31 << 12) | low as i32
}

fn imm_u(word: u32) -> i32 {
    (word & 0xffff_f000) as i32
}

fn imm_j(word: u32) -> i32 {
    let low = (field(word, 12, 8) << 12) | (field(word, 20, 1) << 11) | (field(word, 21, 10) << 1);
    (word as i32 >> 31 << 20) | low as i32
}

/// Decodes a 4-byte instruction.
pub(super) fn decode(word: u32) -> Insn {
    parse(word).unwrap_or(Insn {
        op: Op::Illegal,
        ..Insn::UNKNOWN
    })
}

/// Keeps results for `x0` out of it.
fn target(register: u8) -> u8 {
    if register == 0 {
        SINK
    } else {
        register
    }
}

fn parse(word: u32) -> Option<Insn> {
    let rd = field(word, 7, 5) as u8;
    let funct3 = field(word, 12, 3);
    let base = Insn {
        op: Op::Unknown,
        rd: target(rd),
        rs1: field(word, 15, 5) as u8,
        rs2: field(word, 20, 5) as u8,
        rs3: field(word, 27, 5) as u8,
        rm: funct3 as u8,
        len: 4,
        imm: 0,
    };
    let insn = |op, imm| Some(Insn { op, imm, ..base });
    match word & 0x7f {
        0x03 => insn(Op::Load(load(funct3)?), imm_i(word)),
        0x07 => Some(Insn {
            op: Op::Load(load_float(funct3)?),
            imm: imm_i(word),
            rd: F0 + rd,
            ..base
        }),
        0x0f => insn([Op::Fence, Op::FenceI].get(funct3 as usize).copied()?, 0),
        0x13 | 0x1b => {
            let (alu, imm) = alu_imm(word)?;
            insn(Op::AluImm(alu), imm)
        }
        0x17 => insn(Op::Auipc, imm_u(word)),
        0x23 => insn(Op::Store(width(funct3)?), imm_s(word)),
        0x27 if matches!(funct3, 2 | 3) => Some(Insn {
            op: Op::Store(width(funct3)?),
            imm: imm_s(word),
            rs2: F0 + base.rs2,
            ..base
        }),
        0x2f => insn(amo(word)?, 0),
        0x33 | 0x3b => insn(Op::Alu(alu(word)?), 0),
        0x37 => insn(Op::Lui, imm_u(word)),
        0x43 => fused(Float::Madd, word, base),
        0x47 => fused(Float::Msub, word, base),
        0x4b => fused(Float::Nmsub, word, base),
        0x4f => fused(Float::Nmadd, word, base),
        0x53 => float(word, base),
        0x63 => insn(Op::Branch(cond(funct3)?), imm_b(word)),
        0x67 if funct3 == 0 => insn(Op::Jalr, imm_i(word)),
        0x6f => insn(Op::Jal, imm_j(word)),
        0x73 => system(word, base),
        _ => None,
    }
}

fn load(funct3: u32) -> Option<Load> {
    use Load::{I16, I32, I8, U16, U32, U64, U8};
    [I8, I16, I32, U64, U8, U16, U32]
        .get(funct3 as usize)
        .copied()
}

fn load_float(funct3: u32) -> Option<Load> {
    match funct3 {
        2 => Some(Load::Boxed),
        3 => Some(Load::U64),
        _ => None,
    }
}

fn width(funct3: u32) -> Option<Width> {
    [Width::B, Width::H, Width::W, Width::D]
        .get(funct3 as usize)
        .copied()
}

fn cond(funct3: u32) -> Option<Cond> {
    Some(match funct3 {
        0 => Cond::Eq,
        1 => Cond::Ne,
        4 => Cond::Lt,
        5 => Cond::Ge,
        6 => Cond::Ltu,
        7 => Cond::Geu,
        _ => return None,
    })
}

fn alu_imm(word: u32) -> Option<(Alu, i32)> {
    let imm = imm_i(word);
    let word_sized = word & 8 != 0;
    // A shift amount takes 6 bits, or 5 for words; what is above it chooses the shift.
    let (amount, kind) = if word_sized {
        (imm & 31, imm >> 5)
    } else {
        (imm & 63, imm >> 6 << 1)
    };
    Some(match (word_sized, field(word, 12, 3), kind) {
        (false, 0, _) => (Alu::Add, imm),
        (false, 1, 0) => (Alu::Sll, amount),
        (false, 2, _) => (Alu::Slt, imm),
        (false, 3, _) => (Alu::Sltu, imm),
        (false, 4, _) => (Alu::Xor, imm),
        (false, 5, 0) => (Alu::Srl, amount),
        (false, 5, 0x20) => (Alu::Sra, amount),
        (false, 6, _) => (Alu::Or, imm),
        (false, 7, _) => (Alu::And, imm),
        (true, 0, _) => (Alu::Addw, imm),
        (true, 1, 0) => (Alu::Sllw, amount),
        (true, 5, 0) => (Alu::Srlw, amount),
        (true, 5, 0x20) => (Alu::Sraw, amount),
        _ => return None,
    })
}

fn alu(word: u32) -> Option<Alu> {
    use Alu::*;
    let word_sized = word & 8 != 0;
    Some(match (word_sized, field(word, 25, 7), field(word, 12, 3)) {
        (false, 0, f) => [Add, Sll, Slt, Sltu, Xor, Srl, Or, And][f as usize],
        (false, 0x20, 0) => Sub,
        (false, 0x20, 5) => Sra,
        (false, 1, f) => [Mul, Mulh, Mulhsu, Mulhu, Div, Divu, Rem, Remu][f as usize],
        (true, 0, 0) => Addw,
        (true, 0, 1) => Sllw,
        (true, 0, 5) => Srlw,
        (true, 0x20, 0) => Subw,
        (true, 0x20, 5) => Sraw,
        (true, 1, 0) => Mulw,
        (true, 1, 4) => Divw,
        (true, 1, 5) => Divuw,
        (true, 1, 6) => Remw,
        (true, 1, 7) => Remuw,
        _ => return None,
    })
}

fn amo(word: u32) -> Option<Op> {
    let width = match field(word, 12, 3) {
        2 => Width::W,
        3 => Width::D,
        _ => return None,
    };
    let amo = match field(word, 27, 5) {
        0x00 => Amo::Add,
        0x01 => Amo::Swap,
        0x02 if field(word, 20, 5) == 0 => return Some(Op::LoadReserved(width)),
        0x03 => return Some(Op::StoreConditional(width)),
        0x04 => Amo::Xor,
        0x08 => Amo::Or,
        0x0c => Amo::And,
        0x10 => Amo::Min,
        0x14 => Amo::Max,
        0x18 => Amo::Minu,
        0x1c => Amo::Maxu,
        _ => return None,
    };
    Some(Op::Amo(amo, width))
}

fn system(word: u32, base: Insn) -> Option<Insn> {
    if word == 0x73 {
        return Some(Insn {
            op: Op::Ecall,
            ..base
        });
    }
    let number = word >> 20;
    let csr = match field(word, 12, 2) {
        1 => Csr::Write,
        2 => Csr::Set,
        3 => Csr::Clear,
        _ => return None,
    };
    // A counter may be read, which is to set or clear none of its bits.
    let reads_only = csr != Csr::Write && base.rs1 == 0;
    if !((1..=3).contains(&number) || COUNTERS.contains(&number) && reads_only) {
        return None;
    }
    let op = if field(word, 14, 1) == 0 {
        Op::Csr(csr)
    } else {
        Op::CsrImm(csr)
    };
    Some(Insn {
        op,
        imm: number as i32,
        ..base
    })
}

fn fmt(bits: u32) -> Option<Fmt> {
    match bits {
        0 => Some(Fmt::S),
        1 => Some(Fmt::D),
        _ => None,
    }
}

fn rounds(rm: u8) -> bool {
    rm <= RMM || rm == DYNAMIC
}

fn fused(float: Float, word: u32, base: Insn) -> Option<Insn> {
    let fmt = fmt(field(word, 25, 2))?;
    rounds(base.rm).then_some(Insn {
        op: Op::Float(float, fmt),
        rd: F0 + field(word, 7, 5) as u8,
        rs1: F0 + base.rs1,
        rs2: F0 + base.rs2,
        rs3: F0 + base.rs3,
        ..base
    })
}

fn float(word: u32, base: Insn) -> Option<Insn> {
    use Float::*;
    let fmt = fmt(field(word, 25, 2))?;
    let other = match fmt {
        Fmt::S => 1,
        Fmt::D => 0,
    };
    let (rm, rs2) = (base.rm, base.rs2);
    let float = match (field(word, 27, 5), rm, rs2) {
        (0x00, _, _) => Add,
        (0x01, _, _) => Sub,
        (0x02, _, _) => Mul,
        (0x03, _, _) => Div,
        (0x04, 0, _) => Sgnj,
        (0x04, 1, _) => Sgnjn,
        (0x04, 2, _) => Sgnjx,
        (0x05, 0, _) => Min,
        (0x05, 1, _) => Max,
        (0x08, _, from) if from == other => Convert,
        (0x0b, _, 0) => Sqrt,
        (0x14, 0, _) => Le,
        (0x14, 1, _) => Lt,
        (0x14, 2, _) => Eq,
        (0x18, _, to @ 0..4) => [ToI32, ToU32, ToI64, ToU64][to as usize],
        (0x1a, _, from @ 0..4) => [FromI32, FromU32, FromI64, FromU64][from as usize],
        (0x1c, 0, 0) => MoveToX,
        (0x1c, 1, 0) => Class,
        (0x1e, 0, 0) => MoveFromX,
        _ => return None,
    };
    // Those that take a rounding mode; in the others the field has chosen the operation.
    let mode = match float {
        Sgnj | Sgnjn | Sgnjx | Min | Max | Le | Lt | Eq | MoveToX | Class | MoveFromX => RNE,
        _ => rm,
    };
    let rd = match float {
        Le | Lt | Eq | ToI32 | ToU32 | ToI64 | ToU64 | MoveToX | Class => base.rd,
        _ => F0 + field(word, 7, 5) as u8,
    };
    let rs1 = match float {
        FromI32 | FromU32 | FromI64 | FromU64 | MoveFromX => base.rs1,
        _ => F0 + base.rs1,
    };
    rounds(mode).then_some(Insn {
        op: Op::Float(float, fmt),
        rd,
        rs1,
        rs2: F0 + rs2,
        rm: mode,
        ..base
    })
}
