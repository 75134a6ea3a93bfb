// SPDX-License-Identifier: GPL-2.0

//! Service of GPU faults: drain, sort by address space; then, for each of them on its own, sort,
//! merge by block of 2 MiB, serve, one replay.
//!
//! The interrupt thread only drains. To serve a fault is to fault on behalf of a process, which
//! waits for whatever its memory waits for: a file system in user space, a handler of userfaultfd.
//! So each address space has work of its own, and none waits for another one's memory.

use core::{
    iter,
    mem::{
        replace,
        swap, //
    },
    ops::Range,
    sync::atomic::{
        AtomicBool,
        Ordering, //
    },
};

use kernel::{
    device::{
        Bound,
        Device, //
    },
    mm::{
        migrate,
        virt::{
            flags,
            VmaRef, //
        },
        MmWithUser,
        MmapReadGuard, //
    },
    new_mutex, new_spinlock,
    page::PAGE_SIZE,
    prelude::*,
    sync::{
        Arc,
        Mutex,
        SpinLock, //
    },
    workqueue::OwnedQueue,
};

use crate::{
    control::Control,
    gpu::{
        Gpu,
        Spaces, //
    },
    hw,
    mmu::{
        BLOCK_PAGES,
        BLOCK_SIZE, //
    },
    regs::Regs,
    ring::InRing,
    svm::{
        block::{
            Block,
            Installer, //
        },
        migrate::ToDevice,
        Space,
        Vm, //
    },
};

/// Faults that are drained together, and that are served together.
const BATCH: usize = 256;
/// Areas that move at the same time, so that the copy engines always have work.
pub(super) const IN_FLIGHT: usize = 8;
/// The most pages that [`to_move`] gives: a block, and the rest of a huge page on both sides.
pub(super) const MOST_PAGES: usize = 3 * BLOCK_PAGES - 2;

/// The fault ring of a device.
#[pin_data]
pub(crate) struct FaultRing {
    regs: Arc<Regs>,
    control: Arc<Control>,
    spaces: Arc<Spaces>,
    /// Serves faults.
    work: OwnedQueue,
    #[pin]
    drain: Mutex<Drain>,
}

/// The ring and what was drained from it.
struct Drain {
    ring: InRing<hw::FaultEntry>,
    faults: KVec<hw::FaultEntry>,
    /// What the ring's counter was at the last look.
    overflow: u64,
}

impl FaultRing {
    /// log2 of the entries.
    const LOG2: u32 = 12;

    /// Allocates the ring and tells the device where it is. May sleep.
    pub(crate) fn new(
        dev: &Device<Bound>,
        regs: Arc<Regs>,
        control: Arc<Control>,
        spaces: Arc<Spaces>,
    ) -> Result<impl PinInit<Self, Error> + use<>> {
        let ring = InRing::new(dev, Self::LOG2, hw::DOORBELL_FAULT)?;
        ring.program(&regs, hw::REG_FAULT_RING)?;
        let work = OwnedQueue::new(c"tern-fault")?;
        let drain = Drain {
            ring,
            faults: KVec::with_capacity(BATCH, GFP_KERNEL)?,
            overflow: 0,
        };

        Ok(try_pin_init!(Self {
            regs,
            control,
            spaces,
            work,
            drain <- new_mutex!(drain, "tern::FaultRing"),
        }))
    }

    /// Has all faults served that the device has reported; called by the interrupt thread.
    pub(crate) fn interrupt(&self) {
        self.deal_all(&mut self.drain.lock());
    }

    /// The same for one who knows of no interrupt, as it may have been lost. If somebody is at it
    /// already, that is enough.
    pub(crate) fn look(&self) {
        if let Some(mut drain) = self.drain.try_lock() {
            self.deal_all(&mut drain);
        }
    }

    /// Has `vm`, which is taken from the device, give back what serves its faults, once none is
    /// being served.
    pub(crate) fn end(&self, vm: Arc<Vm>) {
        vm.faults.has_ended.store(true, Ordering::Release);
        // If it is queued already, it has not looked yet.
        let _ = self.work.enqueue(vm);
    }

    /// Waits until no fault is being served. May sleep.
    pub(crate) fn flush(&self) {
        self.work.flush();
    }

    /// Deals out all that is in the ring at this moment. What comes later has an interrupt of its
    /// own, so that a device which reports without end keeps nobody here.
    fn deal_all(&self, drain: &mut Drain) {
        for _ in 0..(1 << Self::LOG2) / BATCH {
            // An error means that there is no device any more.
            if !self.deal(drain).unwrap_or(false) {
                return;
            }
        }
    }

    /// Deals what is in the ring, up to one batch, out to the address spaces. False if there was
    /// nothing.
    fn deal(&self, drain: &mut Drain) -> Result<bool> {
        drain.faults.clear();
        let new = drain.ring.drain(&self.regs, BATCH, &mut drain.faults);
        // To go on from a PUT that makes no sense would be to store it as GET, which the device
        // waits for in vain from then on.
        if new.inspect_err(|_| self.regs.give_up(0))? == 0 {
            return Ok(false);
        }
        let overflow = drain.ring.overflow();
        if overflow != drain.overflow {
            // Threads whose faults found no room fault again; that of others may be served late.
            drain.overflow = overflow;
            self.control.replay()?;
        }
        drain.faults.sort_unstable_by_key(|fault| fault.asid);
        for faults in drain.faults.chunk_by(|a, b| a.asid == b.asid) {
            let post = |vm: &Arc<Vm>| vm.clone().post_faults(&self.work, faults);

            if !self.spaces.with(faults[0].asid, post) {
                // Its queues are stopped, so nobody waits for these. But others may have found
                // the ring full because of them.
                self.control.replay()?;
            }
        }
        Ok(true)
    }
}

/// The faults of an address space.
#[pin_data]
pub(crate) struct Faults {
    #[pin]
    pending: SpinLock<KVec<hw::FaultEntry>>,
    /// There once the address space has a queue, until it ends.
    #[pin]
    service: Mutex<Option<Service>>,
    /// See [`FaultRing::end`].
    has_ended: AtomicBool,
    /// The numbers of its queues, as bits.
    #[pin]
    queues: Mutex<[u64; Gpu::QUEUES / 64]>,
    #[pin]
    policy: Mutex<Policy>,
}

/// What the service of a fault does.
#[derive(Clone)]
pub(crate) enum Policy {
    /// Moves what can move to the device, and maps the rest where it is.
    Move,
    /// Maps all of these addresses from the fault on, wherever the memory is, and nothing else.
    Map {
        /// The addresses.
        range: Range<usize>,
        /// See [`Block::locked`].
        locked: bool,
    },
    /// Ends the dispatch.
    Refuse,
}

impl Faults {
    /// No faults, and no memory to serve any.
    pub(crate) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            pending <- new_spinlock!(KVec::new(), "tern::Faults::pending"),
            service <- new_mutex!(None, "tern::Faults::service"),
            has_ended: AtomicBool::new(false),
            queues <- new_mutex!([0; Gpu::QUEUES / 64], "tern::Faults::queues"),
            policy <- new_mutex!(Policy::Move, "tern::Faults::policy"),
        })
    }
}

impl Vm {
    /// Allocates what it takes to serve faults; before the first queue starts. May sleep, but does
    /// not wait for faults that are being served. Not for two callers at the same time.
    pub(crate) fn prepare_faults(&self) -> Result {
        if self.faults.pending.lock().capacity() > 0 {
            return Ok(());
        }
        let pending = KVec::with_capacity(BATCH, GFP_KERNEL_ACCOUNT)?;

        *self.faults.service.lock() = Some(Service::new()?);
        *self.faults.pending.lock() = pending;
        Ok(())
    }

    /// Sets what is done for the faults that are met from now on.
    pub(crate) fn set_policy(&self, policy: Policy) {
        *self.faults.policy.lock() = policy;
    }

    /// Has `faults`, which are of this address space, served as work of `queue`.
    fn post_faults(self: Arc<Self>, queue: &OwnedQueue, faults: &[hw::FaultEntry]) {
        let mut pending = self.faults.pending.lock();

        for &fault in faults {
            // What finds no room is met again after the replay that ends the service.
            if pending.push_within_capacity(fault).is_err() {
                break;
            }
            self.memory.monitor.fault(&fault);
        }
        drop(pending);
        // If it is queued already, it has not looked yet.
        let _ = queue.enqueue(self);
    }

    /// Serves faults until there are none left.
    pub(super) fn serve_faults(&self) {
        let mut service = self.faults.service.lock();

        if self.faults.has_ended.load(Ordering::Acquire) {
            // Nobody waits for its faults any more.
            *service = None;
            return;
        }
        let Some(service) = &mut *service else {
            // Without a queue these are of an address space before this one. As for those of none.
            let _ = self.notifier.control.replay();
            return;
        };

        while service.take(&self.faults) {
            let served = service.serve(self);

            // An error means that there is no device any more.
            if served
                .and_then(|()| self.notifier.control.replay())
                .is_err()
            {
                return;
            }
        }
    }

    /// Notes that queue `id` uses this address space.
    pub(crate) fn add_queue(&self, id: u32) {
        self.faults.queues.lock()[id as usize / 64] |= 1 << (id % 64);
    }

    /// Notes that queue `id` has stopped. From now on its number may be that of another one.
    pub(crate) fn remove_queue(&self, id: u32) {
        self.faults.queues.lock()[id as usize / 64] &= !(1 << (id % 64));
    }

    /// Ends the dispatches that met `faults`, of those that are reported for the second time.
    fn cancel_confirmed(&self, suspects: &mut Suspects, faults: &[hw::FaultEntry]) -> Result {
        for fault in faults {
            if suspects.confirm(fault) {
                self.cancel_faults(core::slice::from_ref(fault))?;
            }
        }
        Ok(())
    }

    /// Ends the dispatches that met `faults`.
    fn cancel_faults(&self, faults: &[hw::FaultEntry]) -> Result {
        // Held, so that a queue that is told to the device does not become another one meanwhile.
        let queues = self.faults.queues.lock();

        for fault in faults {
            let word = queues.get(fault.queue as usize / 64).unwrap_or(&0);
            if word & 1 << (fault.queue % 64) == 0 {
                continue;
            }
            self.count(|stats| stats.cancels.add(1));
            self.memory.monitor.cancel(fault);
            self.notifier.control.cancel(fault)?;
        }
        Ok(())
    }
}

/// A fault that could not be served, and the last round in which it was reported. In round 0 there
/// was none.
#[derive(Clone, Copy, Default)]
struct Suspect {
    hash: u64,
    round: u64,
}

/// Faults that could not be served.
///
/// Only one that is reported twice ends its dispatch, since the device may have written anything:
/// what a thread really met it meets again after the replay. What was forgotten in between counts
/// as reported for the first time.
///
/// Those with the same upper bits of the hash share [`Self::WAYS`] places. What was reported in
/// this round or in the last one is not forgotten for another one, which finds no place then.
/// Otherwise faults that keep coming could make each other be forgotten for ever.
struct Suspects {
    places: KVec<[Suspect; Self::WAYS]>,
    round: u64,
}

impl Suspects {
    const LOG2: u32 = 8;
    const WAYS: usize = 4;

    fn new() -> Result<Self> {
        Ok(Self {
            places: KVec::from_elem(Default::default(), 1 << Self::LOG2, GFP_KERNEL_ACCOUNT)?,
            // Everything of round 0 is forgotten.
            round: 2,
        })
    }

    /// From now on faults are of another round: the device was told to replay.
    fn begin_round(&mut self) {
        self.round += 1;
    }

    fn hash(fault: &hw::FaultEntry) -> u64 {
        let members = [fault.queue.into(), fault.dispatch, fault.access.into()];

        // Multiplication carries each bit to those above it, so the upper ones are the best.
        members.iter().fold(fault.addr | 1 << 63, |hash, member| {
            (hash ^ member)
                .wrapping_mul(0x9e37_79b9_7f4a_7c15)
                .rotate_left(32)
        })
    }

    /// The number of the places of faults with this hash.
    fn index(hash: u64) -> usize {
        (hash >> (u64::BITS - Self::LOG2)) as usize
    }

    /// Whether `fault` was reported in a round before.
    fn confirm(&mut self, fault: &hw::FaultEntry) -> bool {
        let (hash, round) = (Self::hash(fault), self.round);
        let places = &mut self.places[Self::index(hash)];

        if let Some(known) = places.iter_mut().find(|s| s.round > 0 && s.hash == hash) {
            return replace(&mut known.round, round) < round;
        }
        let oldest = places.iter_mut().min_by_key(|s| s.round);
        if let Some(place) = oldest.filter(|s| s.round + 1 < round) {
            *place = Suspect { hash, round };
        }
        false
    }
}

/// What it takes to serve the faults of an address space.
pub(super) struct Service {
    faults: KVec<hw::FaultEntry>,
    suspects: Suspects,
    pub(super) blocks: KVec<Block>,
    buffers: KVec<migrate::Buffer>,
    pub(super) installer: Installer,
}

impl Service {
    pub(super) fn new() -> Result<Self> {
        let mut buffers = KVec::with_capacity(IN_FLIGHT, GFP_KERNEL_ACCOUNT)?;

        for _ in 0..IN_FLIGHT {
            buffers.push(
                migrate::Buffer::new(MOST_PAGES, GFP_KERNEL_ACCOUNT)?,
                GFP_KERNEL_ACCOUNT,
            )?;
        }
        Ok(Self {
            faults: KVec::with_capacity(BATCH, GFP_KERNEL_ACCOUNT)?,
            suspects: Suspects::new()?,
            blocks: KVec::with_capacity(BATCH, GFP_KERNEL_ACCOUNT)?,
            buffers,
            installer: Installer::new()?,
        })
    }

    /// Takes what is pending. False if there is nothing.
    fn take(&mut self, faults: &Faults) -> bool {
        self.faults.clear();
        swap(&mut self.faults, &mut *faults.pending.lock());
        !self.faults.is_empty()
    }

    /// Serves what was taken. Fails only when there is no device any more.
    fn serve(&mut self, vm: &Vm) -> Result {
        vm.count(|stats| stats.faults.add(self.faults.len() as u64));
        let Some(mm) = vm.mm() else {
            return vm.cancel_faults(&self.faults);
        };

        self.suspects.begin_round();
        self.faults.sort_unstable_by_key(|fault| fault.addr);
        let policy = vm.faults.policy.lock().clone();
        let (merged, limits) = match &policy {
            Policy::Move => (merge(&self.faults, &mut self.blocks), &Space::RANGE),
            Policy::Map { range, locked } => (self.want_rest(range, *locked), range),
            Policy::Refuse => return vm.cancel_faults(&self.faults),
        };
        if merged.is_err() {
            // Without memory now; the device faults again.
            return Ok(());
        }
        vm.count(|stats| stats.blocks.add(self.blocks.len() as u64));
        if matches!(policy, Policy::Move) {
            self.move_blocks(vm, &mm, limits);
        }

        let mut rest = &self.faults[..];
        for block in &self.blocks {
            let n = rest.iter().take_while(|f| in_block(f, block)).count();
            let (own, others) = rest.split_at(n);
            rest = others;

            let installed = self
                .installer
                .install(vm.memory.dev(), vm, &mm, block, limits);

            vm.memory.monitor.block(
                vm.notifier.asid(),
                block.start,
                n,
                installed.as_ref().map(|_| ()).map_err(|e| *e),
            );
            match installed {
                Ok(failed) => {
                    for fault in own {
                        if failed.covers(page_of(fault), fault.access) {
                            vm.cancel_confirmed(&mut self.suspects, core::slice::from_ref(fault))?;
                        }
                    }
                }
                // Not now; the device faults again.
                Err(EAGAIN | ENOMEM) => (),
                Err(_) => vm.cancel_confirmed(&mut self.suspects, own)?,
            }
        }
        // Not for the device.
        vm.cancel_confirmed(&mut self.suspects, rest)
    }

    /// Makes blocks of what of `range` comes after the first fault, to be accessed as by that one.
    fn want_rest(&mut self, range: &Range<usize>, locked: bool) -> Result {
        let Some(&fault) = self.faults.first() else {
            return Ok(());
        };
        let start = fault.addr as usize & !(PAGE_SIZE - 1);

        if !is_user(&fault) || !range.contains(&start) {
            return merge(&self.faults, &mut self.blocks);
        }
        // No more blocks than a batch of faults can be for.
        let end = range.end.min(start + (BATCH - 1) * BLOCK_SIZE);

        self.want_all(&(start..end), fault.access)?;
        for block in &mut self.blocks {
            block.locked = locked;
        }
        Ok(())
    }

    /// Makes blocks of `range`, for an access of kind `ACCESS_*`.
    pub(super) fn want_all(&mut self, range: &Range<usize>, access: u32) -> Result {
        self.blocks.clear();
        for start in (range.start & !(BLOCK_SIZE - 1)..range.end).step_by(BLOCK_SIZE) {
            let mut block = Block::at(start);
            let Range { start, end } = block.range();

            block.want_all(&(start.max(range.start)..end.min(range.end)), access);
            self.blocks.push(block, GFP_KERNEL)?;
        }
        Ok(())
    }

    /// Moves to the device what of the blocks can move and is within `limits`; returns the number
    /// of pages. What fails to is mapped where it is.
    pub(super) fn move_blocks(&mut self, vm: &Vm, mm: &MmWithUser, limits: &Range<usize>) -> usize {
        let mut moved = 0;
        let mmap = mm.mmap_read_lock();

        let mut areas = moving_areas(&mut self.blocks, &mmap, vm.origin.moves_large(), limits);

        loop {
            let mut moving: [Option<ToDevice<'_>>; IN_FLIGHT] = Default::default();
            let mut any = false;

            for (slot, buffer) in moving.iter_mut().zip(self.buffers.iter_mut()) {
                let Some((block, vma, range)) = areas.next() else {
                    break;
                };
                any = true;
                *slot = ToDevice::begin(vm, &mmap, vma, range, &block, buffer).unwrap_or(None);
            }
            if !any {
                return moved;
            }
            for area in moving.into_iter().flatten() {
                // What could not be copied is back where it was.
                moved += area.finish().unwrap_or(0);
            }
        }
    }
}

/// The areas of `blocks` that may move and of which anything is wanted, as [`to_move`] has them; of
/// an area of a file the parts that can.
fn moving_areas<'a>(
    blocks: &'a mut [Block],
    mmap: &'a MmapReadGuard<'_>,
    large: bool,
    limits: &'a Range<usize>,
) -> impl Iterator<Item = (Block, &'a VmaRef, Range<usize>)> {
    blocks.iter_mut().flat_map(move |block| {
        block.areas(mmap).flat_map(move |(vma, area)| {
            let range = to_move(block, mmap, vma, &area, large, limits);
            let block = *block;

            range
                .into_iter()
                .flat_map(move |range| anonymous_runs(mmap, vma, range))
                .map(move |run| (block, vma, run))
        })
    })
}

/// What of `range`, which lies in `vma`, is anonymous memory.
fn anonymous_runs<'a>(
    mmap: &'a MmapReadGuard<'_>,
    vma: &'a VmaRef,
    mut range: Range<usize>,
) -> impl Iterator<Item = Range<usize>> + use<'a> {
    iter::from_fn(move || {
        let run = migrate::next_anonymous(mmap, vma, range.clone())?;

        range.start = run.end;
        Some(run)
    })
}

/// What moves of `area`, which is what `vma` has of `block`, within `limits`: all of it, or nothing
/// if nothing of it is wanted.
///
/// With `large` that has the rest of folios that go from the block into its neighbours, so that
/// they move whole. Such a folio of which nothing is wanted is left where it is.
pub(super) fn to_move(
    block: &mut Block,
    mmap: &MmapReadGuard<'_>,
    vma: &VmaRef,
    area: &Range<usize>,
    large: bool,
    limits: &Range<usize>,
) -> Option<Range<usize>> {
    if !may_move(vma) {
        return None;
    }
    if !block.wants_any(area) {
        for run in anonymous_runs(mmap, vma, area.clone()) {
            block.leave(&run);
        }
        return None;
    }
    let mut range = area.start.max(limits.start)..area.end.min(limits.end);
    let start = limits.start.max(vma.start());
    let end = limits.end.min(vma.end());
    let across = |edge| {
        if !large || edge <= start || edge >= end {
            return None;
        }
        mmap.folio_addresses(edge)
            .filter(|folio| start <= folio.start && folio.start < edge && folio.end <= end)
    };

    if let Some(folio) = across(area.start) {
        if block.wants_any(&folio) {
            range.start = folio.start;
        } else {
            range.start = folio.end;
            block.leave(&(area.start..folio.end));
        }
    }
    if let Some(folio) = across(area.end) {
        if block.wants_any(&folio) {
            range.end = folio.end;
        } else {
            range.end = folio.start;
            block.leave(&(folio.start..area.end));
        }
    }
    (!range.is_empty()).then_some(range)
}

/// Whether `vma` can have anonymous memory. Only that moves; the rest is used where it is.
pub(super) fn may_move(vma: &VmaRef) -> bool {
    vma.flags() & flags::SHARED == 0 && migrate::can_collect(vma)
}

fn page_of(fault: &hw::FaultEntry) -> usize {
    (fault.addr >> 12) as usize % BLOCK_PAGES
}

fn in_block(fault: &hw::FaultEntry, block: &Block) -> bool {
    fault.addr as usize & !(BLOCK_SIZE - 1) == block.start
}

/// Whether a process can have memory there. The device reports what its threads computed.
fn is_user(fault: &hw::FaultEntry) -> bool {
    fault.addr < 1 << (hw::VA_BITS - 1) && fault.reason != hw::FAULT_RANGE
}

/// Merges faults of one address space, sorted by address, to blocks.
fn merge(faults: &[hw::FaultEntry], blocks: &mut KVec<Block>) -> Result {
    blocks.clear();
    for fault in faults.iter().take_while(|fault| is_user(fault)) {
        let addr = fault.addr as usize;

        if !blocks.last().is_some_and(|block| in_block(fault, block)) {
            blocks.push(Block::at(addr), GFP_KERNEL)?;
        }
        if let Some(block) = blocks.last_mut() {
            block.want(addr, fault.access);
        }
    }
    Ok(())
}

#[kunit_tests(tern_fault)]
mod tests {
    use super::*;

    fn fault(addr: u64, access: u32) -> hw::FaultEntry {
        hw::FaultEntry {
            addr,
            access,
            ..Default::default()
        }
    }

    #[test]
    fn faults_merge_by_block() -> Result {
        let mut blocks = KVec::new();
        let faults = [
            fault(0x20_0000, hw::ACCESS_READ),
            fault(0x20_0008, hw::ACCESS_WRITE),
            fault(0x3f_ffff, hw::ACCESS_READ),
            fault(0x40_0000, hw::ACCESS_FETCH),
        ];
        merge(&faults, &mut blocks)?;
        assert_eq!(blocks.len(), 2);
        assert!(blocks[0].read.contains(0) && blocks[0].write.contains(0));
        assert!(blocks[0].read.contains(511));
        assert!(blocks[1].read.contains(0) && blocks[1].write.is_empty());
        Ok(())
    }

    #[test]
    fn a_fault_is_confirmed_by_its_like() -> Result {
        let mut suspects = Suspects::new()?;
        let (read, write) = (
            fault(0x1000, hw::ACCESS_READ),
            fault(0x1000, hw::ACCESS_WRITE),
        );

        // By two threads, for example.
        for _ in 0..2 {
            assert!(!suspects.confirm(&read));
        }
        assert!(!suspects.confirm(&write));
        assert!(!suspects.confirm(&fault(u64::MAX, 0)));
        suspects.begin_round();
        assert!(suspects.confirm(&read));
        assert!(suspects.confirm(&write));
        Ok(())
    }

    /// Faults whose places are those of the first one.
    fn crowd() -> impl Iterator<Item = hw::FaultEntry> {
        let index = |fault: &_| Suspects::index(Suspects::hash(fault));
        let first = fault(0x7f00_0000_4000, hw::ACCESS_READ);

        (first.addr..)
            .step_by(PAGE_SIZE)
            .map(|addr| fault(addr, hw::ACCESS_READ))
            .filter(move |fault| index(fault) == index(&first))
    }

    #[test]
    fn faults_that_share_a_place_are_confirmed() -> Result {
        let mut suspects = Suspects::new()?;
        let faults = [
            fault(0x7f00_0000_4000, hw::ACCESS_READ),
            fault(0x7f00_0008_d000, hw::ACCESS_READ),
        ];

        assert_eq!(
            Suspects::index(Suspects::hash(&faults[0])),
            Suspects::index(Suspects::hash(&faults[1]))
        );
        suspects.begin_round();
        for fault in &faults {
            assert!(!suspects.confirm(fault));
        }
        suspects.begin_round();
        for fault in &faults {
            assert!(suspects.confirm(fault));
        }
        Ok(())
    }

    #[test]
    fn some_of_many_faults_are_confirmed_in_the_next_round() -> Result {
        let mut suspects = Suspects::new()?;

        for _ in 0..3 {
            suspects.begin_round();
            for fault in crowd().take(2 * Suspects::WAYS) {
                suspects.confirm(&fault);
            }
        }
        suspects.begin_round();
        let confirmed = crowd()
            .take(2 * Suspects::WAYS)
            .filter(|fault| suspects.confirm(fault));
        assert_eq!(confirmed.count(), Suspects::WAYS);
        Ok(())
    }

    #[test]
    fn old_faults_make_room() -> Result {
        let mut suspects = Suspects::new()?;
        let old = || crowd().take(Suspects::WAYS);
        let new = || crowd().skip(Suspects::WAYS).take(Suspects::WAYS);

        suspects.begin_round();
        assert!(old().all(|fault| !suspects.confirm(&fault)));
        suspects.begin_round();
        assert!(new().all(|fault| !suspects.confirm(&fault)));
        // They have found no place yet.
        suspects.begin_round();
        assert!(new().all(|fault| !suspects.confirm(&fault)));
        suspects.begin_round();
        assert!(new().all(|fault| suspects.confirm(&fault)));
        assert!(old().all(|fault| !suspects.confirm(&fault)));
        Ok(())
    }

    #[test]
    fn addresses_beyond_user_space_make_no_block() -> Result {
        let mut blocks = KVec::new();
        let faults = [fault(0x1000, 0), fault(1 << 47, 0), fault(u64::MAX, 0)];
        merge(&faults, &mut blocks)?;
        assert_eq!(blocks.len(), 1);
        Ok(())
    }
}
