// SPDX-License-Identifier: MIT OR Apache-2.0

//! Registers, a value per lane, and the lanes that an instruction works on.
//!
//! What a computation leaves in lanes outside its group is of no interest if they have ended. So a group that has all
//! lanes that still run can work on whole registers, which the compiler turns into vector instructions.

use std::array;

use super::decode::REGISTERS;
use super::LANES;

/// Lanes that are computed at a time: enough for vectors, few enough to stay in host registers.
const CHUNK: usize = 8;

/// A value per lane.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(align(64))]
pub(super) struct Lanes(pub [u64; LANES]);

impl Lanes {
    /// Ones in the lanes of `mask`, zeros elsewhere.
    #[inline(always)]
    pub fn from_mask(mask: u32) -> Self {
        Self(array::from_fn(|lane| {
            0u64.wrapping_sub(u64::from((mask >> lane) & 1))
        }))
    }

    #[inline(always)]
    fn chunk(&self, start: usize) -> [u64; CHUNK] {
        array::from_fn(|i| self.0[start + i])
    }
}

/// Iterates over the lanes of `mask`, lowest first.
#[inline(always)]
pub(super) fn each(mut mask: u32) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let lane = mask.trailing_zeros() as usize;
        mask &= mask.wrapping_sub(1);
        (lane < LANES).then_some(lane)
    })
}

/// Lanes that stand at the same address.
pub(super) struct Group {
    /// Their program counter.
    pub pc: u64,
    /// A bit for each; never none.
    pub lanes: u32,
    /// Address at which others wait to join, or the highest one if nobody does.
    pub limit: u64,
    /// Instructions that may be issued before others get their turn.
    pub budget: u32,
    /// Ones in the lanes of the group.
    keep: Lanes,
    /// Whether all other lanes have ended.
    full: bool,
}

impl Group {
    /// Makes a group of `lanes`, of which `live` is a superset.
    #[inline(always)]
    pub fn new(pc: u64, lanes: u32, live: u32, limit: u64, budget: u32) -> Self {
        Self {
            pc,
            lanes,
            limit,
            budget,
            keep: Lanes::from_mask(lanes),
            full: lanes == live,
        }
    }

    /// Gives the value that lane 0 has if the values of all lanes in the group grow by `step` from lane to lane.
    #[inline(always)]
    pub fn progression(&self, values: &Lanes, step: u64) -> Option<u64> {
        let first = self.lanes.trailing_zeros() as usize % LANES;
        let base = values.0[first].wrapping_sub(first as u64 * step);
        let mut differ = 0;
        for lane in 0..LANES {
            differ |= values.0[lane].wrapping_sub(base.wrapping_add(lane as u64 * step))
                & self.keep.0[lane];
        }
        (differ == 0).then_some(base)
    }

    /// Says whether `test` holds in all lanes of the group; it is asked about the others too.
    #[inline(always)]
    pub fn all(&self, test: impl Fn(usize) -> bool) -> bool {
        let mut bad = 0;
        for lane in 0..LANES {
            bad |= if test(lane) { 0 } else { self.keep.0[lane] };
        }
        bad == 0
    }

    /// Sets in `flags` what is set in `raised`, in the lanes of the group.
    #[inline(always)]
    pub fn raise(&self, flags: &mut Lanes, raised: &[u64; LANES]) {
        for ((flags, raised), keep) in flags.0.iter_mut().zip(raised).zip(&self.keep.0) {
            *flags |= raised & keep;
        }
    }
}

/// All registers of a wave.
#[derive(Clone)]
pub(super) struct Regs([Lanes; REGISTERS]);

impl Regs {
    /// All zero.
    pub fn new() -> Self {
        Self([Lanes([0; LANES]); REGISTERS])
    }

    /// Gives a register in one lane.
    #[inline(always)]
    pub fn get(&self, register: u8, lane: usize) -> u64 {
        self.0[usize::from(register)].0[lane]
    }

    /// Sets a register in one lane.
    #[inline(always)]
    pub fn set(&mut self, register: u8, lane: usize, value: u64) {
        self.0[usize::from(register)].0[lane] = value;
    }

    /// Gives a register in all lanes.
    #[inline(always)]
    pub fn lanes(&self, register: u8) -> &Lanes {
        &self.0[usize::from(register)]
    }

    /// Gives the sum of a register and `imm` in all lanes.
    #[inline(always)]
    pub fn addresses(&self, register: u8, imm: i32) -> Lanes {
        let base = self.lanes(register);
        Lanes(array::from_fn(|lane| base.0[lane].wrapping_add(imm as u64)))
    }

    #[inline(always)]
    fn put(&mut self, group: &Group, rd: u8, start: usize, values: [u64; CHUNK]) {
        let target = &mut self.0[usize::from(rd)].0[start..start + CHUNK];
        if group.full {
            target.copy_from_slice(&values);
            return;
        }
        let keep = group.keep.chunk(start);
        for i in 0..CHUNK {
            target[i] = values[i] & keep[i] | target[i] & !keep[i];
        }
    }

    /// Sets `rd` to what `f` makes of the lane's number.
    #[inline(always)]
    pub fn map0(&mut self, group: &Group, rd: u8, f: impl Fn(usize) -> u64) {
        for start in (0..LANES).step_by(CHUNK) {
            self.put(group, rd, start, array::from_fn(|i| f(start + i)));
        }
    }

    /// Sets `rd` to what `f` makes of `rs1`.
    #[inline(always)]
    pub fn map1(&mut self, group: &Group, rd: u8, rs1: u8, f: impl Fn(u64) -> u64) {
        for start in (0..LANES).step_by(CHUNK) {
            let a = self.lanes(rs1).chunk(start);
            self.put(group, rd, start, array::from_fn(|i| f(a[i])));
        }
    }

    /// Sets `rd` to what `f` makes of `rs1` and `rs2`.
    #[inline(always)]
    pub fn map2(&mut self, group: &Group, rd: u8, rs1: u8, rs2: u8, f: impl Fn(u64, u64) -> u64) {
        for start in (0..LANES).step_by(CHUNK) {
            let (a, b) = (self.lanes(rs1).chunk(start), self.lanes(rs2).chunk(start));
            self.put(group, rd, start, array::from_fn(|i| f(a[i], b[i])));
        }
    }

    /// Gives the lanes of the group in which `f` holds for `rs1` and `rs2`.
    #[inline(always)]
    pub fn test(&self, group: &Group, rs1: u8, rs2: u8, f: impl Fn(u64, u64) -> bool) -> u32 {
        let (a, b) = (&self.lanes(rs1).0, &self.lanes(rs2).0);
        let (mut any, mut all) = (0, u64::MAX);
        for lane in 0..LANES {
            let holds = if f(a[lane], b[lane]) { u64::MAX } else { 0 };
            any |= holds & group.keep.0[lane];
            all &= holds | !group.keep.0[lane];
        }
        // Most branches go the same way in all lanes, so the bits are put together only for those that do not.
        if any == 0 {
            0
        } else if all == u64::MAX {
            group.lanes
        } else {
            let bits = (0..LANES).fold(0, |bits, lane| {
                bits | (u32::from(f(a[lane], b[lane])) << lane)
            });
            bits & group.lanes
        }
    }
}
