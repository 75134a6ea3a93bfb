// SPDX-License-Identifier: MIT OR Apache-2.0

//! Floating-point instructions, and the status that they leave.

use super::decode::{Float, Fmt, Insn, DYNAMIC, RMM, RNE};
use super::fast;
use super::regs::{each, Group, Lanes, Regs};
use super::soft::{Arithmetic, Double, Single};
use super::LANES;

/// Floating-point control and status of all lanes.
#[derive(Clone)]
pub(super) struct Status {
    /// Exceptions that were raised.
    flags: Lanes,
    /// Rounding modes.
    frm: [u8; LANES],
    /// Whether all rounding modes are the one that lanes start with.
    nearest: bool,
}

impl Status {
    /// No exceptions, rounding to nearest.
    pub fn new() -> Self {
        Self {
            flags: Lanes([0; LANES]),
            frm: [RNE; LANES],
            nearest: true,
        }
    }

    /// Gives `fcsr` of a lane.
    pub fn read(&self, lane: usize) -> u8 {
        (self.frm[lane] << 5) | self.flags.0[lane] as u8
    }

    /// Sets `fcsr` of a lane.
    pub fn write(&mut self, lane: usize, fcsr: u8) {
        self.frm[lane] = fcsr >> 5;
        self.flags.0[lane] = u64::from(fcsr & 0x1f);
        self.nearest = self.frm.iter().all(|&rm| rm == RNE);
    }

    /// Executes an instruction, or says that a lane has asked for a rounding mode that does not exist.
    #[inline(always)]
    pub fn execute(
        &mut self,
        float: Float,
        fmt: Fmt,
        insn: &Insn,
        group: &Group,
        regs: &mut Regs,
    ) -> bool {
        let nearest = insn.rm == RNE || insn.rm == DYNAMIC && self.nearest;
        if nearest && fast::execute(float, fmt, insn, group, regs, &mut self.flags) {
            return true;
        }
        self.execute_soft(float, fmt, insn, group, regs)
    }

    #[inline(never)]
    fn execute_soft(
        &mut self,
        float: Float,
        fmt: Fmt,
        insn: &Insn,
        group: &Group,
        regs: &mut Regs,
    ) -> bool {
        if insn.rm == DYNAMIC && each(group.lanes).any(|lane| self.frm[lane] > RMM) {
            return false;
        }
        for lane in each(group.lanes) {
            let rm = if insn.rm == DYNAMIC {
                self.frm[lane]
            } else {
                insn.rm
            };
            let mut arithmetic = Arithmetic { rm, flags: 0 };
            let [a, b, c] = [insn.rs1, insn.rs2, insn.rs3].map(|register| regs.get(register, lane));
            let result = match fmt {
                Fmt::S => arithmetic.compute::<Single, Double>(float, a, b, c),
                Fmt::D => arithmetic.compute::<Double, Single>(float, a, b, c),
            };
            regs.set(insn.rd, lane, result);
            self.flags.0[lane] |= arithmetic.flags;
        }
        true
    }
}
