// SPDX-License-Identifier: MIT OR Apache-2.0

//! Waves: which lanes go next, and what an instruction does to them.

use std::sync::atomic::{fence, Ordering::SeqCst};

use super::atomic::{self, Reservation};
use super::decode::{Csr, Insn, Load, Op, Width, CSR_FCSR, CSR_FFLAGS, CSR_FRM, F0};
use super::fetch::ICache;
use super::float::Status;
use super::int::{self, Operand};
use super::memory::{Cell, Missed, Tlb, PAGE};
use super::regs::{each, Group, Lanes, Regs};
use super::{Access, Fault, Memory, Miss, Start, Stop, Trap, LANES};

const SP: u8 = 2;
const A0: u8 = 10;

/// Instructions that are issued while lanes wait further on, before one of those gets a turn. Without it a lane could
/// wait for ever for a lock whose owner has a higher program counter.
const PATIENCE: u32 = 1024;
/// Instructions in such a turn.
const TURN: u32 = 64;

/// Up to [`LANES`] threads.
#[derive(Clone)]
pub struct Wave {
    regs: Regs,
    pc: Lanes,
    status: Status,
    reservations: [Option<Reservation>; LANES],
    /// Lanes that have not ended.
    live: u32,
    /// Lanes that wait for a replay; a subset of `live`.
    parked: u32,
    /// Instructions issued since all lanes stood together or a waiting one had its turn.
    waited: u32,
    /// The lane whose turn is next.
    turn: u32,
    issued: u64,
    retired: u64,
}

/// How an instruction goes on.
enum Flow {
    /// Behind it.
    Next,
    /// All lanes jump to one place.
    Jump(u64),
    /// Some lanes of the group go to one place, the others go on behind it.
    Branch(u32, u64),
    /// Each lane has been sent to its place.
    Scattered,
    /// Some lanes of the group have missed, the others go on behind it.
    Missed(u32),
    /// All lanes have ended.
    End,
}

/// What a run works with, other than the wave.
struct Machine<'a, M> {
    tlb: Tlb<'a, M>,
    icache: &'a mut ICache,
    faults: &'a mut Vec<Fault>,
}

/// The lanes that have missed in an instruction.
struct Misses<'a> {
    faults: &'a mut Vec<Fault>,
    /// Where those of this instruction begin.
    start: usize,
    access: Access,
    lanes: u32,
}

impl<'a> Misses<'a> {
    #[inline(always)]
    fn new(faults: &'a mut Vec<Fault>, access: Access) -> Self {
        Self {
            start: faults.len(),
            faults,
            access,
            lanes: 0,
        }
    }

    /// Notes that the lanes of `lanes` wait for an address.
    #[cold]
    fn add(&mut self, lanes: u32, missed: Missed) -> Result<(), Trap> {
        if missed.miss == Miss::Error {
            return Err(Trap::PageTable { addr: missed.va });
        }
        self.lanes |= lanes;
        match self.faults[self.start..]
            .iter_mut()
            .find(|fault| fault.va / PAGE == missed.va / PAGE)
        {
            Some(fault) => fault.lanes |= lanes,
            None => self.faults.push(Fault {
                va: missed.va,
                access: self.access,
                lanes,
            }),
        }
        Ok(())
    }

    #[inline(always)]
    fn flow(self) -> Flow {
        if self.lanes == 0 {
            Flow::Next
        } else {
            Flow::Missed(self.lanes)
        }
    }
}

impl Wave {
    /// Makes a wave whose threads are about to begin. Of `start.lanes` no more than [`LANES`] count.
    pub fn new(start: &Start) -> Self {
        let lanes = start.lanes.min(LANES);
        let mut regs = Regs::new();
        for lane in 0..lanes {
            let number = lane as u64;
            let top = start
                .slot
                .wrapping_add(number)
                .wrapping_add(1)
                .wrapping_mul(start.stack_size);
            regs.set(SP, lane, start.stack.wrapping_add(top));
            regs.set(A0, lane, start.args);
            regs.set(A0 + 1, lane, start.first.wrapping_add(number));
            regs.set(A0 + 2, lane, start.threads);
        }
        Self {
            regs,
            // Instructions are at even addresses; as in a jump, the lowest bit does not count.
            pc: Lanes([start.entry & !1; LANES]),
            status: Status::new(),
            reservations: [None; LANES],
            live: u32::MAX.checked_shr((LANES - lanes) as u32).unwrap_or(0),
            parked: 0,
            waited: 0,
            turn: 0,
            issued: 0,
            retired: 0,
        }
    }

    /// Runs until all threads have ended or are parked, a trap ends them, or `quantum` instructions were issued.
    ///
    /// Accesses that miss are added to `faults`, also when the run goes on with other lanes. A lane keeps no
    /// reservation across runs, so the quantum must be larger than a load-reserved/store-conditional loop.
    pub fn run(
        &mut self,
        mem: &mut impl Memory,
        icache: &mut ICache,
        quantum: u32,
        faults: &mut Vec<Fault>,
    ) -> Stop {
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            // SAFETY: this processor has what the function is compiled for.
            return unsafe { self.run_avx2(mem, icache, quantum, faults) };
        }
        self.run_inline(mem, icache, quantum, faults)
    }

    /// [`run`](Self::run) for processors with wide vectors.
    ///
    /// # Safety
    ///
    /// The processor has them.
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma,bmi1,bmi2,lzcnt")]
    unsafe fn run_avx2(
        &mut self,
        mem: &mut impl Memory,
        icache: &mut ICache,
        quantum: u32,
        faults: &mut Vec<Fault>,
    ) -> Stop {
        self.run_inline(mem, icache, quantum, faults)
    }

    /// Lets all parked lanes try again.
    pub fn replay(&mut self) {
        self.parked = 0;
    }

    /// Instructions that were completed, each counted once per lane.
    pub fn retired(&self) -> u64 {
        self.retired
    }

    /// Lanes that have not ended, a bit each.
    pub fn live(&self) -> u32 {
        self.live
    }

    /// Lanes that wait for a replay, a bit each.
    pub fn parked(&self) -> u32 {
        self.parked
    }

    /// The program counter of a lane. Meaningless once the lane has ended, as are its registers.
    pub fn pc(&self, lane: usize) -> u64 {
        self.pc.0[lane]
    }

    /// Integer register `number` of a lane.
    pub fn x(&self, lane: usize, number: u8) -> u64 {
        self.regs.get(number % F0, lane)
    }

    /// The bits of floating-point register `number` of a lane.
    pub fn f(&self, lane: usize, number: u8) -> u64 {
        self.regs.get(F0 + number % F0, lane)
    }

    /// The floating-point control and status register of a lane.
    pub fn fcsr(&self, lane: usize) -> u8 {
        self.status.read(lane)
    }

    #[inline(always)]
    fn run_inline(
        &mut self,
        mem: &mut impl Memory,
        icache: &mut ICache,
        quantum: u32,
        faults: &mut Vec<Fault>,
    ) -> Stop {
        self.reservations = [None; LANES];
        let mut machine = Machine {
            tlb: Tlb::new(mem),
            icache,
            faults,
        };
        let mut left = quantum;
        loop {
            let ready = self.live & !self.parked;
            if self.live == 0 {
                return Stop::Done;
            } else if ready == 0 {
                return Stop::Parked;
            } else if left == 0 {
                return Stop::Quantum;
            }
            let group = self.pick(ready, left);
            match self.issue(group, &mut machine) {
                Ok(used) => left -= used,
                Err(trap) => {
                    self.live = 0;
                    self.parked = 0;
                    return Stop::Trap(trap);
                }
            }
        }
    }

    /// Gives the lanes of `ready` whose program counter is `pc`, and the lowest program counter of the others.
    fn at(&self, pc: u64, ready: u32) -> (u32, u64) {
        let (mut lanes, mut others) = (0, u64::MAX);
        for lane in each(ready) {
            if self.pc.0[lane] == pc {
                lanes |= 1 << lane;
            } else {
                others = others.min(self.pc.0[lane]);
            }
        }
        (lanes, others)
    }

    /// Chooses what to run among the lanes of `ready`: those that are furthest behind, or a lane whose turn it is.
    fn pick(&mut self, ready: u32, left: u32) -> Group {
        let lowest = each(ready).map(|lane| self.pc.0[lane]).min().unwrap_or(0);
        let (lanes, limit) = self.at(lowest, ready);
        if lanes == ready {
            self.waited = 0;
            return Group::new(lowest, lanes, self.live, limit, left);
        }
        if self.waited < PATIENCE {
            return Group::new(
                lowest,
                lanes,
                self.live,
                limit,
                left.min(PATIENCE - self.waited),
            );
        }
        self.waited = 0;
        // The first ready lane from `turn` on, in the round of all.
        let lane = (self.turn + ready.rotate_right(self.turn).trailing_zeros()) % LANES as u32;
        self.turn = (lane + 1) % LANES as u32;
        let pc = self.pc.0[lane as usize];
        let (lanes, _) = self.at(pc, ready);
        Group::new(pc, lanes, self.live, u64::MAX, left.min(TURN))
    }

    /// Issues instructions to a group until it parts, meets others, or has had its budget. Gives how many.
    #[inline(always)]
    fn issue<M: Memory>(
        &mut self,
        mut group: Group,
        machine: &mut Machine<'_, M>,
    ) -> Result<u32, Trap> {
        let count = u64::from(group.lanes.count_ones());
        let mut issued = 0;
        while issued < group.budget && group.pc < group.limit {
            let insn = match machine.icache.fetch(group.pc, &mut machine.tlb) {
                Ok(insn) => insn,
                Err(missed) => {
                    Misses::new(machine.faults, Access::Fetch).add(group.lanes, missed)?;
                    self.parked |= group.lanes;
                    break;
                }
            };
            issued += 1;
            self.issued += 1;
            self.retired += count;
            let next = group.pc.wrapping_add(u64::from(insn.len));
            let flow = self.execute(&insn, &group, next, machine)?;
            group.pc = match flow {
                Flow::Next => next,
                Flow::Jump(0) | Flow::End => {
                    self.live &= !group.lanes;
                    next
                }
                Flow::Jump(target) => target,
                Flow::Branch(..) | Flow::Scattered | Flow::Missed(_) => {
                    self.part(&group, flow, next);
                    self.waited += issued;
                    return Ok(issued);
                }
            };
            if self.live & group.lanes == 0 {
                break;
            }
        }
        for lane in each(group.lanes) {
            self.pc.0[lane] = group.pc;
        }
        self.waited += issued;
        Ok(issued)
    }

    /// Sends the lanes of a group to different places.
    fn part(&mut self, group: &Group, flow: Flow, next: u64) {
        for lane in each(group.lanes) {
            match flow {
                Flow::Branch(taken, target) if (taken >> lane) & 1 == 1 => self.jump(lane, target),
                Flow::Missed(lanes) if (lanes >> lane) & 1 == 1 => self.pc.0[lane] = group.pc,
                Flow::Scattered => {}
                _ => self.pc.0[lane] = next,
            }
        }
        if let Flow::Missed(lanes) = flow {
            self.parked |= lanes;
            self.retired -= u64::from(lanes.count_ones());
        }
    }

    /// Sends one lane to `target`, which ends it if that is 0.
    fn jump(&mut self, lane: usize, target: u64) {
        self.pc.0[lane] = target;
        if target == 0 {
            self.live &= !(1 << lane);
        }
    }

    #[inline(always)]
    fn execute<M: Memory>(
        &mut self,
        insn: &Insn,
        group: &Group,
        next: u64,
        machine: &mut Machine<'_, M>,
    ) -> Result<Flow, Trap> {
        let imm = insn.imm as u64;
        match insn.op {
            Op::Alu(alu) => {
                int::compute(
                    alu,
                    &mut self.regs,
                    group,
                    insn.rd,
                    insn.rs1,
                    Operand::Register(insn.rs2),
                );
            }
            Op::AluImm(alu) => {
                int::compute(
                    alu,
                    &mut self.regs,
                    group,
                    insn.rd,
                    insn.rs1,
                    Operand::Immediate(imm),
                );
            }
            Op::Lui => self.regs.map0(group, insn.rd, |_| imm),
            Op::Auipc => {
                let value = group.pc.wrapping_add(imm);
                self.regs.map0(group, insn.rd, |_| value);
            }
            Op::Branch(cond) => {
                let taken = int::compare(cond, &self.regs, group, insn.rs1, insn.rs2);
                let target = group.pc.wrapping_add(imm);
                if taken == group.lanes {
                    return Ok(Flow::Jump(target));
                } else if taken != 0 {
                    return Ok(Flow::Branch(taken, target));
                }
            }
            Op::Jal => {
                self.regs.map0(group, insn.rd, |_| next);
                return Ok(Flow::Jump(group.pc.wrapping_add(imm)));
            }
            Op::Jalr => return Ok(self.jump_register(insn, group, next)),
            Op::Load(kind) => return self.load_kind(kind, insn, group, machine),
            Op::Store(Width::B) => return self.store::<u8, M>(insn, group, machine),
            Op::Store(Width::H) => return self.store::<u16, M>(insn, group, machine),
            Op::Store(Width::W) => return self.store::<u32, M>(insn, group, machine),
            Op::Store(Width::D) => return self.store::<u64, M>(insn, group, machine),
            Op::LoadReserved(width) => return self.load_reserved(width, insn, group, machine),
            Op::StoreConditional(width) => {
                return self.store_conditional(width, insn, group, machine)
            }
            Op::Amo(amo, width) => {
                // SAFETY: `atomic` gives an aligned place that may be written.
                let modify = |ptr, operand| unsafe { atomic::modify(amo, width, ptr, operand) };
                return self.atomic(
                    width,
                    Access::Atomic,
                    insn,
                    group,
                    machine,
                    |_, _, ptr, operand| modify(ptr, operand),
                );
            }
            Op::Fence => fence(SeqCst),
            Op::FenceI => machine.icache.clear(),
            Op::Ecall => return Ok(Flow::End),
            Op::Csr(csr) => {
                let source = *self.regs.lanes(insn.rs1);
                self.control(csr, insn, group, |lane| source.0[lane]);
            }
            Op::CsrImm(csr) => self.control(csr, insn, group, |_| u64::from(insn.rs1)),
            Op::Float(float, fmt) => {
                if !self.status.execute(float, fmt, insn, group, &mut self.regs) {
                    return Err(Trap::Illegal { pc: group.pc });
                }
            }
            Op::Unknown | Op::Illegal => return Err(Trap::Illegal { pc: group.pc }),
        }
        Ok(Flow::Next)
    }

    fn jump_register(&mut self, insn: &Insn, group: &Group, next: u64) -> Flow {
        let mut targets = self.regs.addresses(insn.rs1, insn.imm);
        targets.0.iter_mut().for_each(|target| *target &= !1);
        self.regs.map0(group, insn.rd, |_| next);
        if let Some(target) = group.progression(&targets, 0) {
            return Flow::Jump(target);
        }
        for lane in each(group.lanes) {
            self.jump(lane, targets.0[lane]);
        }
        Flow::Scattered
    }

    #[inline(always)]
    fn load_kind<M: Memory>(
        &mut self,
        kind: Load,
        insn: &Insn,
        group: &Group,
        machine: &mut Machine<'_, M>,
    ) -> Result<Flow, Trap> {
        match kind {
            Load::I8 => self.load(insn, group, machine, |value: u8| value as i8 as u64),
            Load::I16 => self.load(insn, group, machine, |value: u16| value as i16 as u64),
            Load::I32 => self.load(insn, group, machine, |value: u32| value as i32 as u64),
            Load::U64 => self.load(insn, group, machine, |value: u64| value),
            Load::U8 => self.load(insn, group, machine, |value: u8| value.widen()),
            Load::U16 => self.load(insn, group, machine, |value: u16| value.widen()),
            Load::U32 => self.load(insn, group, machine, |value: u32| value.widen()),
            Load::Boxed => self.load(insn, group, machine, |value: u32| {
                value.widen() | (0xffff_ffff << 32)
            }),
        }
    }

    #[inline(always)]
    fn load<T: Cell, M: Memory>(
        &mut self,
        insn: &Insn,
        group: &Group,
        machine: &mut Machine<'_, M>,
        extend: impl Fn(T) -> u64,
    ) -> Result<Flow, Trap> {
        let addresses = self.regs.addresses(insn.rs1, insn.imm);
        // Lanes that want neighbours or all the same need one translation. A miss there is left to the loop below.
        if let Some(row) = row::<T, M>(&addresses, group, Access::Read, machine) {
            self.regs.map0(group, insn.rd, |lane| {
                // SAFETY: a row has an aligned cell for each lane.
                extend(unsafe { T::load(row.wrapping_add(lane * size_of::<T>())) })
            });
            return Ok(Flow::Next);
        }
        if let Some(Ok(value)) = group
            .progression(&addresses, 0)
            .map(|va| machine.tlb.load(va))
        {
            let value = extend(value);
            self.regs.map0(group, insn.rd, |_| value);
            return Ok(Flow::Next);
        }
        let mut misses = Misses::new(machine.faults, Access::Read);
        for lane in each(group.lanes) {
            match machine.tlb.load(addresses.0[lane]) {
                Ok(value) => self.regs.set(insn.rd, lane, extend(value)),
                Err(missed) => misses.add(1 << lane, missed)?,
            }
        }
        Ok(misses.flow())
    }

    #[inline(always)]
    fn store<T: Cell, M: Memory>(
        &mut self,
        insn: &Insn,
        group: &Group,
        machine: &mut Machine<'_, M>,
    ) -> Result<Flow, Trap> {
        let addresses = self.regs.addresses(insn.rs1, insn.imm);
        let values = self.regs.lanes(insn.rs2);
        if let Some(row) = row::<T, M>(&addresses, group, Access::Write, machine) {
            for lane in each(group.lanes) {
                // SAFETY: a row has an aligned cell for each lane, and this one may be written.
                unsafe {
                    T::truncate(values.0[lane]).store(row.wrapping_add(lane * size_of::<T>()))
                };
            }
            return Ok(Flow::Next);
        }
        let mut misses = Misses::new(machine.faults, Access::Write);
        for lane in each(group.lanes) {
            if let Err(missed) = machine
                .tlb
                .store(addresses.0[lane], T::truncate(values.0[lane]))
            {
                misses.add(1 << lane, missed)?;
            }
        }
        Ok(misses.flow())
    }

    /// Does something to aligned memory in one lane after the other: `f` gets the reservation of the lane, the
    /// address, the place and `rs2`, and gives what `rd` is to be.
    fn atomic<M: Memory>(
        &mut self,
        width: Width,
        access: Access,
        insn: &Insn,
        group: &Group,
        machine: &mut Machine<'_, M>,
        f: impl Fn(&mut Option<Reservation>, u64, *mut u8, u64) -> u64,
    ) -> Result<Flow, Trap> {
        let mut misses = Misses::new(machine.faults, access);
        let size = if width == Width::D { 8 } else { 4 };
        for lane in each(group.lanes) {
            let va = self.regs.get(insn.rs1, lane);
            if va % size != 0 {
                return Err(Trap::Misaligned { addr: va });
            }
            match machine.tlb.find(va, access) {
                Ok(ptr) => {
                    let operand = self.regs.get(insn.rs2, lane);
                    let result = f(&mut self.reservations[lane], va, ptr, operand);
                    self.regs.set(insn.rd, lane, result);
                }
                Err(missed) => misses.add(1 << lane, missed)?,
            }
        }
        Ok(misses.flow())
    }

    fn load_reserved<M: Memory>(
        &mut self,
        width: Width,
        insn: &Insn,
        group: &Group,
        machine: &mut Machine<'_, M>,
    ) -> Result<Flow, Trap> {
        self.atomic(
            width,
            Access::Read,
            insn,
            group,
            machine,
            |reservation, va, ptr, _| {
                // SAFETY: `atomic` gives an aligned place.
                let value = unsafe { atomic::load(ptr, width) };
                *reservation = Some(Reservation { va, width, value });
                value
            },
        )
    }

    fn store_conditional<M: Memory>(
        &mut self,
        width: Width,
        insn: &Insn,
        group: &Group,
        machine: &mut Machine<'_, M>,
    ) -> Result<Flow, Trap> {
        self.atomic(
            width,
            Access::Atomic,
            insn,
            group,
            machine,
            |reservation, va, ptr, operand| {
                let stored = match reservation.take() {
                    // SAFETY: `atomic` gives an aligned place that may be written.
                    Some(held) if held.va == va && held.width == width => unsafe {
                        atomic::store_if(ptr, width, held.value, operand)
                    },
                    _ => false,
                };
                u64::from(!stored)
            },
        )
    }

    /// Reads a control register into `rd` and changes it by `source`.
    fn control(&mut self, csr: Csr, insn: &Insn, group: &Group, source: impl Fn(usize) -> u64) {
        let (shift, mask) = match insn.imm {
            CSR_FFLAGS => (0, 0x1f),
            CSR_FRM => (5, 0x07),
            CSR_FCSR => (0, 0xff),
            // Counters are read only. All of them count the instructions that the wave has issued.
            _ => return self.regs.map0(group, insn.rd, |_| self.issued),
        };
        for lane in each(group.lanes) {
            let whole = self.status.read(lane);
            let (old, operand) = ((whole >> shift) & mask, source(lane) as u8);
            let new = match csr {
                Csr::Write => operand,
                Csr::Set => old | operand,
                Csr::Clear => old & !operand,
            };
            self.regs.set(insn.rd, lane, u64::from(old));
            self.status
                .write(lane, whole & !(mask << shift) | ((new & mask) << shift));
        }
    }
}

/// Finds the place of lane 0 if the lanes of the group access cells that lie in a row, aligned, with room in one page
/// for a cell of every lane.
#[inline(always)]
fn row<T: Cell, M: Memory>(
    addresses: &Lanes,
    group: &Group,
    access: Access,
    machine: &mut Machine<'_, M>,
) -> Option<*mut u8> {
    let base = group.progression(addresses, T::SIZE)?;
    if base % T::SIZE != 0 || base % PAGE + LANES as u64 * T::SIZE > PAGE {
        return None;
    }
    machine.tlb.find(base, access).ok()
}
