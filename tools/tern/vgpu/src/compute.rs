// SPDX-License-Identifier: MIT OR Apache-2.0

//! The compute engine: queues of dispatches, whose waves take turns on the engine's threads.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use crate::access::AccessCounters;
use crate::core::Core;
use crate::fault::Faults;
use crate::hw;
use crate::job::Job;
use crate::mmu::{Missed, Shootdown, Space, Tlb};
use crate::ring::{Failure, Place, Reader};
use crate::rv64::{Access, Fault, ICache, Stop, Wave};
use crate::sync::{lock, wait};

/// How long a wave should run before another has its turn.
const TURN: Duration = Duration::from_micros(30);
/// Instructions of a turn: at least enough for any load-reserved/store-conditional loop.
const QUANTUM: std::ops::RangeInclusive<u32> = 128..=16384;
/// How long fault entries can wait for others before the interrupt is raised.
const BATCH: Duration = Duration::from_micros(20);
/// Packets without work that are taken before other queues have their turn.
const TAKEN: usize = 64;
/// Dispatches whose decoded instructions an engine thread keeps.
const CACHES: usize = 4;

struct Queue {
    asid: u32,
    ring: Reader,
    job: Option<(u64, Job)>,
    /// It is in `Schedule::order`.
    listed: bool,
}

#[derive(Default)]
struct Schedule {
    queues: BTreeMap<u32, Queue>,
    /// Queues that may have something to run, in turn.
    order: VecDeque<u32>,
    /// Number of replays so far.
    replays: u64,
    /// Number of dispatches so far, which names them.
    serial: u64,
    /// Waves that are with an engine thread.
    busy: usize,
    stop: bool,
}

/// A wave and where it came from.
struct Task {
    queue: u32,
    asid: u32,
    serial: u64,
    dispatch: u64,
    replays: u64,
    slot: usize,
    wave: Box<Wave>,
}

/// The compute engine.
#[derive(Default)]
pub struct Compute {
    /// Invalidation of translations.
    pub shootdown: Shootdown,
    /// The fault ring.
    pub faults: Faults,
    /// The access counters.
    pub counters: AccessCounters,
    schedule: Mutex<Schedule>,
    /// There is something to run.
    work: Condvar,
    /// A wave came back.
    back: Condvar,
}

impl Queue {
    /// Takes packets until there is a dispatch to run.
    fn fetch(&mut self, core: &Core, serial: &mut u64) {
        for _ in 0..TAKEN {
            if self.job.is_some() {
                return;
            }
            let index = self.ring.taken();
            let dma = core.bus.dma();
            let Some(packet) = self.ring.take::<hw::DispatchPacket>(core, &dma) else {
                if self.ring.halted() {
                    self.ring.write_state(core, &dma, hw::QUEUE_HALTED);
                }
                return;
            };
            let nop = packet.op & !(hw::OP_FENCE | hw::OP_IRQ) == hw::OP_NOP;
            match Job::new(packet, index, &core.options) {
                _ if nop => self.ring.finish(core, &dma, &packet, Ok(0)),
                Err(failure) => self.ring.finish(core, &dma, &packet, Err(failure)),
                Ok(job) => {
                    *serial += 1;
                    self.job = Some((*serial, job));
                }
            }
        }
    }

    /// Completes its dispatch if that is over.
    fn complete(&mut self, core: &Core) {
        if let Some((_, job)) = self.job.take_if(|(_, job)| job.is_over()) {
            let outcome = job.failure().map_or(Ok(0), Err);
            self.ring.add_count(job.retired);
            self.ring
                .finish(core, &core.bus.dma(), &job.packet, outcome);
        }
    }

    fn has_work(&self, core: &Core) -> bool {
        match &self.job {
            Some((_, job)) => job.has_work(),
            None => self.ring.rung(core),
        }
    }
}

impl Schedule {
    /// Puts a queue in line if it has something to run.
    fn list(&mut self, core: &Core, id: u32) -> bool {
        let Some(queue) = self.queues.get_mut(&id) else {
            return false;
        };
        let list = !queue.listed && queue.has_work(core);
        if list {
            queue.listed = true;
            self.order.push_back(id);
        }
        list
    }

    /// Takes the next wave of the queue whose turn it is.
    fn pick(&mut self, core: &Core) -> Option<Task> {
        while let Some(id) = self.order.pop_front() {
            let Some(queue) = self.queues.get_mut(&id) else {
                continue;
            };
            queue.listed = false;
            queue.fetch(core, &mut self.serial);
            let taken = match &mut queue.job {
                Some((serial, job)) => job.take().map(|(slot, wave)| Task {
                    queue: id,
                    asid: queue.asid,
                    serial: *serial,
                    dispatch: job.index,
                    replays: self.replays,
                    slot,
                    wave,
                }),
                None => None,
            };
            self.list(core, id);
            if taken.is_some() {
                self.busy += 1;
                return taken;
            }
        }
        None
    }
}

impl Compute {
    /// Starts the rings that it writes.
    pub fn start(&self, core: &Core, faults: Place, access: Place) {
        self.faults.start(core, faults);
        self.counters.start(core, access);
    }

    /// Forgets all queues. [`Core::running`] must be false already; waits for waves to come back.
    pub fn stop(&self) {
        let mut schedule = lock(&self.schedule);
        while schedule.busy > 0 {
            schedule = wait(&self.back, schedule);
        }
        schedule.queues.clear();
        schedule.order.clear();
        drop(schedule);
        self.faults.stop();
        self.counters.stop();
    }

    /// Lets [`work`](Self::work) return.
    pub fn quit(&self) {
        lock(&self.schedule).stop = true;
        self.work.notify_all();
    }

    /// Looks at the doorbells of all queues.
    pub fn scan(&self, core: &Core) {
        let mut schedule = lock(&self.schedule);
        let idle = |(id, queue): (&u32, &Queue)| (!queue.listed).then_some(*id);
        let queues: Vec<u32> = schedule.queues.iter().filter_map(idle).collect();
        for id in queues {
            if schedule.list(core, id) {
                self.work.notify_one();
            }
        }
    }

    /// Whether a wave waits for its turn.
    pub fn has_work(&self) -> bool {
        let schedule = lock(&self.schedule);
        schedule.stop || !schedule.order.is_empty()
    }

    /// Starts a queue as its context says.
    ///
    /// # Errors
    ///
    /// The failure of the control packet.
    pub fn start_queue(&self, core: &Core, id: u32) -> Result<(), Failure> {
        use std::sync::atomic::Ordering::Acquire;
        let bad = Failure::new(hw::COMPLETE_BAD_PACKET, 0);
        if u64::from(id) >= 1 << core.tables.queue_log2.load(Acquire) {
            return Err(bad);
        }
        let base = core.tables.queue_base.load(Acquire);
        let addr = base.wrapping_add(u64::from(id) * size_of::<hw::QueueContext>() as u64);
        let mut schedule = lock(&self.schedule);
        let dma = core.bus.dma();
        let unreachable = |addr| {
            core.error(hw::ERROR_DMA, addr);
            Failure::new(hw::COMPLETE_BAD_ADDRESS, addr)
        };
        let context = dma.read::<hw::QueueContext>(addr);
        let context = context.ok_or_else(|| unreachable(addr))?;
        let place = Place {
            base: context.base,
            writeback: context.writeback,
            log2: context.log2,
        };
        let spaces = 1 << core.tables.as_log2.load(Acquire);
        let valid = place.is_valid() && context.reserved == 0;
        if !valid || u64::from(context.asid) >= spaces || schedule.queues.contains_key(&id) {
            return Err(bad);
        }
        let bell = hw::DOORBELL_QUEUE + 8 * id as usize;
        let vector = hw::VECTOR_COMPUTE;
        let ring = Reader::start(core, &dma, place, bell, vector, hw::QUEUE_RUNNING)
            .ok_or_else(|| Failure::new(hw::COMPLETE_BAD_ADDRESS, context.writeback))?;
        drop(dma);
        let queue = Queue {
            asid: context.asid,
            ring,
            job: None,
            listed: false,
        };
        schedule.queues.insert(id, queue);
        if schedule.list(core, id) {
            self.work.notify_one();
        }
        Ok(())
    }

    /// Ends what a queue runs, waits for its waves, and forgets it.
    pub fn stop_queue(&self, core: &Core, id: u32) {
        let failure = Failure::new(hw::COMPLETE_STOPPED, 0);
        let mut schedule = lock(&self.schedule);
        loop {
            let Some(queue) = schedule.queues.get_mut(&id) else {
                return;
            };
            if let Some((_, job)) = &mut queue.job {
                job.fail(failure);
            }
            queue.complete(core);
            if queue.job.is_none() {
                break;
            }
            schedule = wait(&self.back, schedule);
        }
        if let Some(queue) = schedule.queues.remove(&id) {
            core.bells.store(hw::DOORBELL_QUEUE + 8 * id as usize, 0);
            queue.ring.write_state(core, &core.bus.dma(), hw::QUEUE_OFF);
        }
        schedule.order.retain(|other| *other != id);
    }

    /// Ends dispatch `index` of a queue, if that is what it runs and a thread of it waits for what
    /// the failure names.
    pub fn cancel(&self, core: &Core, id: u32, index: u64, failure: Failure) {
        let mut schedule = lock(&self.schedule);
        let Some(queue) = schedule.queues.get_mut(&id) else {
            return;
        };
        let waits = |job: &Job| job.index == index && job.waits(failure.info, failure.access);
        if let Some((_, job)) = queue.job.as_mut().filter(|(_, job)| waits(job)) {
            job.fail(failure);
        }
        queue.complete(core);
        if schedule.list(core, id) {
            self.work.notify_one();
        }
    }

    /// Lets all threads that wait for a fault try again.
    pub fn replay(&self, core: &Core) {
        let mut schedule = lock(&self.schedule);
        schedule.replays += 1;
        let ids: Vec<u32> = schedule.queues.keys().copied().collect();
        for id in ids {
            if let Some((_, job)) = schedule.queues.get_mut(&id).and_then(|q| q.job.as_mut()) {
                job.replay();
            }
            schedule.list(core, id);
        }
        self.work.notify_all();
    }

    /// Looks at the doorbells and runs waves until none is left that can run, for a device without
    /// threads. What happens depends on nothing but the memory of the guest.
    pub fn settle(&self, core: &Core) {
        self.scan(core);
        let mut engine = Engine::new(Pace::Steady);
        let mut schedule = lock(&self.schedule);
        while let Some(task) = schedule.pick(core) {
            drop(schedule);
            schedule = self.turn(core, &mut engine, task);
        }
        engine.signal(core);
    }

    /// Runs waves until [`quit`](Self::quit). Calls `rest` before it sleeps.
    pub fn work(&self, core: &Core, rest: impl Fn()) {
        let mut engine = Engine::new(Pace::Timed);
        let mut schedule = lock(&self.schedule);
        let mut rested = false;
        while !schedule.stop {
            let task = if core.running() {
                schedule.pick(core)
            } else {
                None
            };
            let Some(task) = task else {
                engine.signal(core);
                if rested {
                    schedule = wait(&self.work, schedule);
                    rested = false;
                } else {
                    drop(schedule);
                    rest();
                    rested = true;
                    schedule = lock(&self.schedule);
                }
                continue;
            };
            rested = false;
            if !schedule.order.is_empty() {
                self.work.notify_one();
            }
            drop(schedule);
            schedule = self.turn(core, &mut engine, task);
        }
    }

    /// Runs a wave for one turn.
    fn turn(&self, core: &Core, engine: &mut Engine, mut task: Task) -> MutexGuard<'_, Schedule> {
        let begin = Instant::now();
        let stop = engine.run(core, self, &mut task);
        let time = begin.elapsed();
        engine.adapt(stop, time);
        let faults = engine.entries(core, &task);
        self.note_waits(&task, &faults);
        engine.report(core, self, &task, faults);
        let mut schedule = lock(&self.schedule);
        schedule.busy -= 1;
        // A replay that came while the wave ran may have been meant for what it missed.
        let again = schedule.replays != task.replays;
        if let Some(queue) = schedule.queues.get_mut(&task.queue) {
            if let Some((_, job)) = queue.job.as_mut().filter(|(s, _)| *s == task.serial) {
                job.give(task.slot, task.wave, stop, time, again);
            }
            queue.complete(core);
        }
        schedule.list(core, task.queue);
        self.back.notify_all();
        schedule
    }

    /// Notes what threads of a dispatch wait for, before the driver is told and may cancel it.
    fn note_waits(&self, task: &Task, faults: &[hw::FaultEntry]) {
        if faults.is_empty() {
            return;
        }
        let mut schedule = lock(&self.schedule);
        // Else they try again as soon as the wave is back.
        if schedule.replays != task.replays {
            return;
        }
        if let Some((serial, job)) = schedule
            .queues
            .get_mut(&task.queue)
            .and_then(|queue| queue.job.as_mut())
        {
            if *serial == task.serial {
                job.wait(faults);
            }
        }
    }
}

/// What ends a turn, and when the fault vector is raised.
#[derive(PartialEq, Eq)]
enum Pace {
    /// The clock.
    Timed,
    /// A number of instructions; the vector is raised once, at the end.
    Steady,
}

/// What one thread of the engine keeps.
struct Engine {
    pace: Pace,
    tlb: Tlb,
    /// Decoded instructions, by dispatch and address space, the oldest first.
    caches: VecDeque<(u64, u32, ICache)>,
    quantum: u32,
    faults: Vec<Fault>,
    missed: Vec<Missed>,
    remote: Vec<u64>,
    /// Since when there are fault entries without an interrupt.
    unsignalled: Option<Instant>,
}

impl Engine {
    fn new(pace: Pace) -> Self {
        Self {
            pace,
            tlb: Tlb::default(),
            caches: VecDeque::new(),
            quantum: 1024,
            faults: Vec::new(),
            missed: Vec::new(),
            remote: Vec::new(),
            unsignalled: None,
        }
    }

    fn run(&mut self, core: &Core, compute: &Compute, task: &mut Task) -> Stop {
        self.faults.clear();
        self.missed.clear();
        self.remote.clear();
        let _inside = compute.shootdown.enter();
        let dma = core.bus.dma();
        let caches = &mut self.caches;
        self.tlb.update(core, &compute.shootdown, |asid| {
            caches.retain(|cache| asid.is_some_and(|asid| cache.1 != asid));
        });
        let mut space = Space {
            core,
            dma: &dma,
            tlb: &mut self.tlb,
            asid: task.asid,
            missed: &mut self.missed,
            remote: (compute.counters.shift() != 0).then_some(&mut self.remote),
        };
        let cache = icache(caches, task.serial, task.asid);
        task.wave
            .run(&mut space, cache, self.quantum, &mut self.faults)
    }

    /// Keeps turns about as long as they should be.
    fn adapt(&mut self, stop: Stop, time: Duration) {
        if self.pace == Pace::Steady {
            return;
        }
        if time > 2 * TURN {
            self.quantum = (self.quantum / 2).max(*QUANTUM.start());
        } else if stop == Stop::Quantum && time < TURN / 2 {
            self.quantum = (self.quantum * 2).min(*QUANTUM.end());
        }
    }

    /// Writes what the turn brought to the fault and access rings. A fault that does not fit needs
    /// nothing else: its threads are parked, and fault again after the next replay.
    fn report(
        &mut self,
        core: &Core,
        compute: &Compute,
        task: &Task,
        mut entries: Vec<hw::FaultEntry>,
    ) {
        compute.counters.count(core, task.asid, &self.remote);
        if !entries.is_empty() {
            compute.faults.write(core, &mut entries);
            self.unsignalled.get_or_insert_with(Instant::now);
        }
        let late = |since: Instant| since.elapsed() > BATCH;
        if self.pace == Pace::Timed && self.unsignalled.is_some_and(late) {
            self.signal(core);
        }
    }

    /// Makes the fault entries of a turn, one for each page and kind of access.
    fn entries(&self, core: &Core, task: &Task) -> Vec<hw::FaultEntry> {
        let mut entries: Vec<hw::FaultEntry> = Vec::with_capacity(self.faults.len());
        for fault in &self.faults {
            let access = access(fault.access);
            let same =
                |e: &&mut hw::FaultEntry| e.addr >> 12 == fault.va >> 12 && e.access == access;
            if let Some(entry) = entries.iter_mut().find(same) {
                entry.lanes |= u64::from(fault.lanes);
                continue;
            }
            let why = |m: &&Missed| m.page == fault.va >> 12 && m.access == fault.access;
            entries.push(hw::FaultEntry {
                addr: fault.va,
                asid: task.asid,
                access,
                queue: task.queue,
                reason: self
                    .missed
                    .iter()
                    .find(why)
                    .map_or(hw::FAULT_ABSENT, |m| m.reason),
                dispatch: task.dispatch,
                timestamp: core.timestamp(),
                lanes: fault.lanes.into(),
                reserved: [0; 2],
            });
        }
        entries
    }

    /// Raises the fault vector if entries were written, or lost, since the last time.
    fn signal(&mut self, core: &Core) {
        if self.unsignalled.take().is_some() && core.mischief.interrupts() {
            core.irqs.raise(hw::VECTOR_FAULT);
        }
    }
}

/// Finds the instructions of a dispatch, or makes room for them.
fn icache(caches: &mut VecDeque<(u64, u32, ICache)>, serial: u64, asid: u32) -> &mut ICache {
    let found = caches.iter().position(|c| (c.0, c.1) == (serial, asid));
    let index = found.unwrap_or_else(|| {
        if caches.len() == CACHES {
            caches.pop_front();
        }
        caches.push_back((serial, asid, ICache::new()));
        caches.len() - 1
    });
    &mut caches[index].2
}

/// `ACCESS_*` of an access.
fn access(access: Access) -> u32 {
    match access {
        Access::Read => hw::ACCESS_READ,
        Access::Write => hw::ACCESS_WRITE,
        Access::Atomic => hw::ACCESS_ATOMIC,
        Access::Fetch => hw::ACCESS_FETCH,
    }
}
