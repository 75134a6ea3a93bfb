// SPDX-License-Identifier: MIT OR Apache-2.0

//! Compressed instructions: each stands for a 4-byte one.

const SP: u32 = 2;
const RA: u32 = 1;

const LOAD: u32 = 0x03;
const LOAD_FP: u32 = 0x07;
const OP_IMM: u32 = 0x13;
const OP_IMM_32: u32 = 0x1b;
const STORE: u32 = 0x23;
const STORE_FP: u32 = 0x27;
const OP: u32 = 0x33;
const LUI: u32 = 0x37;
const OP_32: u32 = 0x3b;
const BRANCH: u32 = 0x63;
const JALR: u32 = 0x67;
const JAL: u32 = 0x6f;

fn r(opcode: u32, funct3: u32, funct7: u32, rd: u32, rs1: u32, rs2: u32) -> u32 {
    (funct7 << 25) | (rs2 << 20) | (rs1 << 15) | (funct3 << 12) | (rd << 7) | opcode
}

fn i(opcode: u32, funct3: u32, rd: u32, rs1: u32, imm: u32) -> u32 {
    (imm << 20) | (rs1 << 15) | (funct3 << 12) | (rd << 7) | opcode
}

fn s(opcode: u32, funct3: u32, rs1: u32, rs2: u32, imm: u32) -> u32 {
    r(opcode, funct3, (imm >> 5) & 0x7f, imm & 0x1f, rs1, rs2)
}

fn b(funct3: u32, rs1: u32, imm: u32) -> u32 {
    let high = (((imm >> 12) & 1) << 6) | (imm >> 5) & 0x3f;
    r(BRANCH, funct3, high, imm & 0x1e | (imm >> 11) & 1, rs1, 0)
}

fn j(rd: u32, imm: u32) -> u32 {
    (((imm >> 20) & 1) << 31)
        | (((imm >> 1) & 0x3ff) << 21)
        | (((imm >> 11) & 1) << 20)
        | imm & 0xff000
        | (rd << 7)
        | JAL
}

/// The bits `high..=low` of `half`, moved to where the lowest has the value of bit `to`.
fn bits(half: u32, high: u32, low: u32, to: u32) -> u32 {
    ((half >> low) & ((1 << (high - low + 1)) - 1)) << to
}

/// Extends the sign that is in bit `sign`.
fn extend(value: u32, sign: u32) -> u32 {
    let shift = 31 - sign;
    ((value << shift) as i32 >> shift) as u32
}

/// Gives the 4-byte instruction that `half` stands for, or nothing if it is reserved.
pub(super) fn expand(half: u16) -> Option<u32> {
    let half = u32::from(half);
    match half & 3 {
        0 => quadrant0(half),
        1 => quadrant1(half),
        2 => quadrant2(half),
        _ => None,
    }
}

/// Loads and stores by one of eight registers.
fn quadrant0(half: u32) -> Option<u32> {
    let (r1, r2) = (8 + bits(half, 9, 7, 0), 8 + bits(half, 4, 2, 0));
    let by_4 = bits(half, 12, 10, 3) | bits(half, 6, 6, 2) | bits(half, 5, 5, 6);
    let by_8 = bits(half, 12, 10, 3) | bits(half, 6, 5, 6);
    Some(match half >> 13 {
        0 => {
            let imm = bits(half, 12, 11, 4)
                | bits(half, 10, 7, 6)
                | bits(half, 6, 6, 2)
                | bits(half, 5, 5, 3);
            if imm == 0 {
                return None;
            }
            i(OP_IMM, 0, r2, SP, imm)
        }
        1 => i(LOAD_FP, 3, r2, r1, by_8),
        2 => i(LOAD, 2, r2, r1, by_4),
        3 => i(LOAD, 3, r2, r1, by_8),
        5 => s(STORE_FP, 3, r1, r2, by_8),
        6 => s(STORE, 2, r1, r2, by_4),
        7 => s(STORE, 3, r1, r2, by_8),
        _ => return None,
    })
}

/// Immediates, computations, jumps and branches.
fn quadrant1(half: u32) -> Option<u32> {
    let rd = bits(half, 11, 7, 0);
    let imm = extend(bits(half, 12, 12, 5) | bits(half, 6, 2, 0), 5);
    Some(match half >> 13 {
        0 => i(OP_IMM, 0, rd, rd, imm),
        1 if rd != 0 => i(OP_IMM_32, 0, rd, rd, imm),
        2 => i(OP_IMM, 0, rd, 0, imm),
        3 if imm == 0 => return None,
        3 if rd == SP => {
            let low = bits(half, 6, 6, 4)
                | bits(half, 5, 5, 6)
                | bits(half, 4, 3, 7)
                | bits(half, 2, 2, 5);
            i(OP_IMM, 0, SP, SP, extend(bits(half, 12, 12, 9) | low, 9))
        }
        3 => (imm << 12) | (rd << 7) | LUI,
        4 => return compute(half),
        5 => j(0, jump_offset(half)),
        6 => b(0, 8 + bits(half, 9, 7, 0), branch_offset(half)),
        7 => b(1, 8 + bits(half, 9, 7, 0), branch_offset(half)),
        _ => return None,
    })
}

fn compute(half: u32) -> Option<u32> {
    let (rd, rs2) = (8 + bits(half, 9, 7, 0), 8 + bits(half, 4, 2, 0));
    let imm = bits(half, 12, 12, 5) | bits(half, 6, 2, 0);
    Some(
        match (
            bits(half, 11, 10, 0),
            bits(half, 12, 12, 0),
            bits(half, 6, 5, 0),
        ) {
            (0, _, _) => i(OP_IMM, 5, rd, rd, imm),
            (1, _, _) => i(OP_IMM, 5, rd, rd, imm | 0x400),
            (2, _, _) => i(OP_IMM, 7, rd, rd, extend(imm, 5)),
            (3, 0, 0) => r(OP, 0, 0x20, rd, rd, rs2),
            (3, 0, 1) => r(OP, 4, 0, rd, rd, rs2),
            (3, 0, 2) => r(OP, 6, 0, rd, rd, rs2),
            (3, 0, 3) => r(OP, 7, 0, rd, rd, rs2),
            (3, 1, 0) => r(OP_32, 0, 0x20, rd, rd, rs2),
            (3, 1, 1) => r(OP_32, 0, 0, rd, rd, rs2),
            _ => return None,
        },
    )
}

fn jump_offset(half: u32) -> u32 {
    let high = bits(half, 12, 12, 11)
        | bits(half, 11, 11, 4)
        | bits(half, 10, 9, 8)
        | bits(half, 8, 8, 10);
    let low = bits(half, 7, 7, 6) | bits(half, 6, 6, 7) | bits(half, 5, 3, 1) | bits(half, 2, 2, 5);
    extend(high | low, 11)
}

fn branch_offset(half: u32) -> u32 {
    let high = bits(half, 12, 12, 8) | bits(half, 11, 10, 3);
    let low = bits(half, 6, 5, 6) | bits(half, 4, 3, 1) | bits(half, 2, 2, 5);
    extend(high | low, 8)
}

/// Loads and stores by the stack pointer, moves and jumps by register.
fn quadrant2(half: u32) -> Option<u32> {
    let (rd, rs2) = (bits(half, 11, 7, 0), bits(half, 6, 2, 0));
    let load_4 = bits(half, 12, 12, 5) | bits(half, 6, 4, 2) | bits(half, 3, 2, 6);
    let load_8 = bits(half, 12, 12, 5) | bits(half, 6, 5, 3) | bits(half, 4, 2, 6);
    let store_4 = bits(half, 12, 9, 2) | bits(half, 8, 7, 6);
    let store_8 = bits(half, 12, 10, 3) | bits(half, 9, 7, 6);
    Some(match half >> 13 {
        0 => i(OP_IMM, 1, rd, rd, bits(half, 12, 12, 5) | rs2),
        1 => i(LOAD_FP, 3, rd, SP, load_8),
        2 if rd != 0 => i(LOAD, 2, rd, SP, load_4),
        3 if rd != 0 => i(LOAD, 3, rd, SP, load_8),
        4 => match (bits(half, 12, 12, 0), rd, rs2) {
            // Reserved, and `ebreak`.
            (_, 0, 0) => return None,
            (0, _, 0) => i(JALR, 0, 0, rd, 0),
            (0, _, _) => r(OP, 0, 0, rd, 0, rs2),
            (_, _, 0) => i(JALR, 0, RA, rd, 0),
            (_, _, _) => r(OP, 0, 0, rd, rd, rs2),
        },
        5 => s(STORE_FP, 3, SP, rs2, store_8),
        6 => s(STORE, 2, SP, rs2, store_4),
        7 => s(STORE, 3, SP, rs2, store_8),
        _ => return None,
    })
}
