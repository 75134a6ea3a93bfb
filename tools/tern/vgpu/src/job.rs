// SPDX-License-Identifier: MIT OR Apache-2.0

//! A dispatch that is being carried out, as the bookkeeping of its waves.

use std::collections::VecDeque;
use std::time::Duration;

use crate::hw;
use crate::options::Options;
use crate::ring::Failure;
use crate::rv64::{Start, Stop, Trap, Wave};

const FLAGS: u32 = hw::OP_FENCE | hw::OP_IRQ;

/// A dispatch in progress.
pub struct Job {
    /// Its packet.
    pub packet: hw::DispatchPacket,
    /// The packet's index in the ring.
    pub index: u64,
    /// Instructions retired by waves that are over.
    pub retired: u64,
    lanes: usize,
    resident: u64,
    /// First thread that has not been started.
    next: u64,
    /// Slots without a wave, the next to use last.
    free: Vec<usize>,
    ready: VecDeque<(usize, Box<Wave>)>,
    parked: Vec<(usize, Box<Wave>)>,
    /// What threads wait for since the last replay, as the driver was told: page and access.
    awaited: Vec<(u64, u32)>,
    /// Waves that are with an engine now.
    running: usize,
    spent: Duration,
    failure: Option<Failure>,
}

impl Job {
    /// Begins a dispatch.
    ///
    /// # Errors
    ///
    /// [`hw::COMPLETE_BAD_PACKET`] for a packet that makes no sense.
    pub fn new(packet: hw::DispatchPacket, index: u64, options: &Options) -> Result<Self, Failure> {
        let known = packet.op & !(hw::OP_MASK | FLAGS) == 0 && packet.reserved == 0;
        let valid = packet.op & hw::OP_MASK == hw::OP_DISPATCH
            && packet.threads > 0
            && packet.stack_size % 16 == 0;
        if !known || !valid {
            return Err(Failure::new(hw::COMPLETE_BAD_PACKET, 0));
        }
        let resident = u64::from(options.resident).min(packet.threads);
        let slots = resident.div_ceil(options.lanes as u64) as usize;
        Ok(Self {
            packet,
            index,
            retired: 0,
            lanes: options.lanes,
            resident,
            next: 0,
            free: (0..slots).rev().collect(),
            ready: VecDeque::new(),
            parked: Vec::new(),
            awaited: Vec::new(),
            running: 0,
            spent: Duration::ZERO,
            failure: None,
        })
    }

    fn unstarted(&self) -> bool {
        self.next < self.packet.threads && !self.free.is_empty()
    }

    /// Whether a wave can run now.
    pub fn has_work(&self) -> bool {
        self.failure.is_none() && (self.unstarted() || !self.ready.is_empty())
    }

    /// Whether nothing is left to run, and no wave is with an engine.
    pub fn is_over(&self) -> bool {
        let done = self.next == self.packet.threads;
        let idle = self.ready.is_empty() && self.parked.is_empty();
        self.running == 0 && (self.failure.is_some() || (done && idle))
    }

    /// How it failed, if it did.
    pub fn failure(&self) -> Option<Failure> {
        self.failure
    }

    /// Takes a wave to run, with its slot. Threads that have not begun go first, so that threads
    /// that wait for each other all get to run as far as they are resident.
    pub fn take(&mut self) -> Option<(usize, Box<Wave>)> {
        if self.failure.is_some() {
            return None;
        }
        let taken = if self.unstarted() {
            self.free.pop().map(|slot| (slot, self.start(slot)))
        } else {
            self.ready.pop_front()
        };
        self.running += usize::from(taken.is_some());
        taken
    }

    fn start(&mut self, slot: usize) -> Box<Wave> {
        let first_slot = (slot * self.lanes) as u64;
        let lanes = (self.lanes as u64)
            .min(self.resident - first_slot)
            .min(self.packet.threads - self.next);
        let wave = Wave::new(&Start {
            entry: self.packet.entry,
            args: self.packet.args,
            first: self.next,
            lanes: lanes as usize,
            threads: self.packet.threads,
            stack: self.packet.stack,
            stack_size: u64::from(self.packet.stack_size),
            slot: first_slot,
        });
        self.next += lanes;
        Box::new(wave)
    }

    /// Takes back a wave that ran for `time` and ended with `stop`. With `again` its parked threads
    /// try again at once.
    pub fn give(
        &mut self,
        slot: usize,
        mut wave: Box<Wave>,
        stop: Stop,
        time: Duration,
        again: bool,
    ) {
        self.running -= 1;
        self.spent += time;
        if again {
            wave.replay();
        }
        match stop {
            Stop::Trap(trap) => self.fail(trapped(trap)),
            Stop::Done => {
                self.free.push(slot);
                if !self.is_over() {
                    self.watch();
                }
            }
            Stop::Parked if !again && self.failure.is_none() => {
                self.parked.push((slot, wave));
                return;
            }
            _ if self.failure.is_none() => {
                self.ready.push_back((slot, wave));
                self.watch();
                return;
            }
            _ => {}
        }
        self.retired += wave.retired();
    }

    fn watch(&mut self) {
        let limit = Duration::from_millis(self.packet.watchdog_ms.into());
        if !limit.is_zero() && self.spent > limit {
            self.fail(Failure::new(hw::COMPLETE_TIMEOUT, 0));
        }
    }

    /// Ends it with a failure, unless it has one already. Waves that are with an engine come back.
    pub fn fail(&mut self, failure: Failure) {
        self.failure.get_or_insert(failure);
        let waves = self.ready.drain(..).chain(self.parked.drain(..));
        self.retired += waves.map(|(_, wave)| wave.retired()).sum::<u64>();
    }

    /// Notes what threads wait for now.
    pub fn wait(&mut self, faults: &[hw::FaultEntry]) {
        let awaited = faults.iter().map(|fault| (fault.addr >> 12, fault.access));
        self.awaited.extend(awaited);
    }

    /// Whether a thread waits for an access of this kind to the page of `addr`.
    pub fn waits(&self, addr: u64, access: u32) -> bool {
        self.awaited.contains(&(addr >> 12, access))
    }

    /// Lets all threads that wait try again.
    pub fn replay(&mut self) {
        self.awaited.clear();
        self.ready.append(&mut self.parked.drain(..).collect());
        for (_, wave) in &mut self.ready {
            wave.replay();
        }
    }
}

fn trapped(trap: Trap) -> Failure {
    match trap {
        Trap::Illegal { pc } => Failure {
            status: hw::COMPLETE_ILLEGAL,
            access: hw::ACCESS_FETCH,
            info: pc,
        },
        Trap::Misaligned { addr } => Failure {
            status: hw::COMPLETE_MISALIGNED,
            access: hw::ACCESS_ATOMIC,
            info: addr,
        },
        Trap::PageTable { addr } => Failure::new(hw::COMPLETE_PAGE_TABLE, addr),
    }
}
