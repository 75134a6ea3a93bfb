// SPDX-License-Identifier: MIT OR Apache-2.0

//! Integer computations.

use super::decode::{Alu, Cond};
use super::regs::{Group, Regs};

/// Sign-extends the low 32 bits.
#[inline(always)]
fn word(value: u32) -> u64 {
    value as i32 as u64
}

fn mulh(a: u64, b: u64) -> u64 {
    ((i128::from(a as i64) * i128::from(b as i64)) >> 64) as u64
}

fn mulhsu(a: u64, b: u64) -> u64 {
    ((i128::from(a as i64) * i128::from(b)) >> 64) as u64
}

fn mulhu(a: u64, b: u64) -> u64 {
    ((u128::from(a) * u128::from(b)) >> 64) as u64
}

// A division by zero gives all ones and leaves the dividend as its remainder; the one quotient that overflows wraps.

fn div(a: u64, b: u64) -> u64 {
    if b == 0 {
        u64::MAX
    } else {
        (a as i64).wrapping_div(b as i64) as u64
    }
}

fn divu(a: u64, b: u64) -> u64 {
    a.checked_div(b).unwrap_or(u64::MAX)
}

fn rem(a: u64, b: u64) -> u64 {
    if b == 0 {
        a
    } else {
        (a as i64).wrapping_rem(b as i64) as u64
    }
}

fn remu(a: u64, b: u64) -> u64 {
    a.checked_rem(b).unwrap_or(a)
}

fn divw(a: u64, b: u64) -> u64 {
    // The quotient of two extended words overflows a word only, which `word` wraps.
    word(div(word(a as u32), word(b as u32)) as u32)
}

fn divuw(a: u64, b: u64) -> u64 {
    word((a as u32).checked_div(b as u32).unwrap_or(u32::MAX))
}

fn remw(a: u64, b: u64) -> u64 {
    word(rem(word(a as u32), word(b as u32)) as u32)
}

fn remuw(a: u64, b: u64) -> u64 {
    word((a as u32).checked_rem(b as u32).unwrap_or(a as u32))
}

/// The second operand of a computation.
#[derive(Clone, Copy)]
pub(super) enum Operand {
    Register(u8),
    Immediate(u64),
}

/// Computes `rd` from `rs1` and `operand` in all lanes of the group.
#[inline(always)]
pub(super) fn compute(alu: Alu, regs: &mut Regs, group: &Group, rd: u8, rs1: u8, operand: Operand) {
    macro_rules! map {
        ($f:expr) => {
            match operand {
                Operand::Register(rs2) => regs.map2(group, rd, rs1, rs2, $f),
                Operand::Immediate(imm) => regs.map1(group, rd, rs1, |a| $f(a, imm)),
            }
        };
    }
    match alu {
        Alu::Add => map!(|a: u64, b: u64| a.wrapping_add(b)),
        Alu::Sub => map!(|a: u64, b: u64| a.wrapping_sub(b)),
        Alu::Sll => map!(|a: u64, b: u64| a << (b & 63)),
        Alu::Slt => map!(|a: u64, b: u64| u64::from((a as i64) < b as i64)),
        Alu::Sltu => map!(|a: u64, b: u64| u64::from(a < b)),
        Alu::Xor => map!(|a: u64, b: u64| a ^ b),
        Alu::Srl => map!(|a: u64, b: u64| a >> (b & 63)),
        Alu::Sra => map!(|a: u64, b: u64| (a as i64 >> (b & 63)) as u64),
        Alu::Or => map!(|a: u64, b: u64| a | b),
        Alu::And => map!(|a: u64, b: u64| a & b),
        Alu::Addw => map!(|a: u64, b: u64| word((a as u32).wrapping_add(b as u32))),
        Alu::Subw => map!(|a: u64, b: u64| word((a as u32).wrapping_sub(b as u32))),
        Alu::Sllw => map!(|a: u64, b: u64| word((a as u32) << (b & 31))),
        Alu::Srlw => map!(|a: u64, b: u64| word(a as u32 >> (b & 31))),
        Alu::Sraw => map!(|a: u64, b: u64| (a as i32 >> (b & 31)) as u64),
        Alu::Mul => map!(|a: u64, b: u64| a.wrapping_mul(b)),
        Alu::Mulw => map!(|a: u64, b: u64| word((a as u32).wrapping_mul(b as u32))),
        Alu::Mulh => map!(mulh),
        Alu::Mulhsu => map!(mulhsu),
        Alu::Mulhu => map!(mulhu),
        Alu::Div => map!(div),
        Alu::Divu => map!(divu),
        Alu::Rem => map!(rem),
        Alu::Remu => map!(remu),
        Alu::Divw => map!(divw),
        Alu::Divuw => map!(divuw),
        Alu::Remw => map!(remw),
        Alu::Remuw => map!(remuw),
    }
}

/// Gives the lanes of the group in which the condition of a branch holds.
#[inline(always)]
pub(super) fn compare(cond: Cond, regs: &Regs, group: &Group, rs1: u8, rs2: u8) -> u32 {
    match cond {
        Cond::Eq => regs.test(group, rs1, rs2, |a, b| a == b),
        Cond::Ne => regs.test(group, rs1, rs2, |a, b| a != b),
        Cond::Lt => regs.test(group, rs1, rs2, |a, b| (a as i64) < b as i64),
        Cond::Ge => regs.test(group, rs1, rs2, |a, b| a as i64 >= b as i64),
        Cond::Ltu => regs.test(group, rs1, rs2, |a, b| a < b),
        Cond::Geu => regs.test(group, rs1, rs2, |a, b| a >= b),
    }
}
