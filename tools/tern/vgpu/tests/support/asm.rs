// SPDX-License-Identifier: MIT OR Apache-2.0

//! A few instructions of RV64, as words.

pub const ZERO: u32 = 0;
pub const T0: u32 = 5;
pub const T1: u32 = 6;
pub const T2: u32 = 7;
pub const A0: u32 = 10;
pub const A1: u32 = 11;

fn i(op: u32, rd: u32, funct3: u32, rs1: u32, imm: i32) -> u32 {
    (imm as u32) << 20 | rs1 << 15 | funct3 << 12 | rd << 7 | op
}

pub fn addi(rd: u32, rs1: u32, imm: i32) -> u32 {
    i(0x13, rd, 0, rs1, imm)
}

pub fn slli(rd: u32, rs1: u32, shift: i32) -> u32 {
    i(0x13, rd, 1, rs1, shift)
}

pub fn srli(rd: u32, rs1: u32, shift: i32) -> u32 {
    i(0x13, rd, 5, rs1, shift)
}

pub fn add(rd: u32, rs1: u32, rs2: u32) -> u32 {
    rs2 << 20 | rs1 << 15 | rd << 7 | 0x33
}

pub fn ld(rd: u32, rs1: u32, imm: i32) -> u32 {
    i(0x03, rd, 3, rs1, imm)
}

pub fn sd(rs2: u32, rs1: u32, imm: i32) -> u32 {
    let imm = imm as u32;
    (imm >> 5 & 0x7f) << 25 | rs2 << 20 | rs1 << 15 | 3 << 12 | (imm & 0x1f) << 7 | 0x23
}

pub fn amoadd(rd: u32, rs2: u32, rs1: u32) -> u32 {
    rs2 << 20 | rs1 << 15 | 3 << 12 | rd << 7 | 0x2f
}

/// Jumps to itself.
pub const LOOP: u32 = 0x0000_006f;
pub const ECALL: u32 = 0x0000_0073;
/// Jumps to the return address.
pub const RET: u32 = 0x0000_8067;
/// No instruction.
pub const ILLEGAL: u32 = 0;

/// Branches back by `words` while `rs1 == rs2`.
pub fn beq_back(rs1: u32, rs2: u32, words: u32) -> u32 {
    let imm = (4 * words).wrapping_neg();
    (imm >> 12 & 1) << 31
        | (imm >> 5 & 0x3f) << 25
        | rs2 << 20
        | rs1 << 15
        | (imm >> 1 & 0xf) << 8
        | (imm >> 11 & 1) << 7
        | 0x63
}
