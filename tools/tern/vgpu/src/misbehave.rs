// SPDX-License-Identifier: MIT OR Apache-2.0

//! Faults of the device itself, on purpose and by chance, so that a driver's defences can be tried.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex};
use std::time::{Duration, Instant};

use thiserror::Error;

use crate::core::{Completion, Core};
use crate::hw;
use crate::sync::lock;

/// When something begins to go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum After {
    /// After this many completions.
    Completions(u64),
    /// After each completion of a dispatch that met an illegal instruction.
    Illegal,
}

/// One kind of misbehaviour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Misbehave {
    /// One completion in this many is lost, its fence and its interrupt.
    DropCompletion(u64),
    /// One completion in this many comes without its interrupt, and of the interrupts that tell of
    /// faults one in this many is lost.
    DropInterrupt(u64),
    /// Every completion comes this many microseconds late, in order.
    DelayCompletion(u64),
    /// Every completion comes up to this many microseconds late, in order within a ring only.
    ReorderCompletion(u64),
    /// One fault entry in this many has a random member overwritten.
    CorruptFault(u64),
    /// Before one completion in this many comes one with a wrong fence.
    FalseFence(u64),
    /// After this many completions, once, all fences are wrong until the device is reset.
    CorruptFence(u64),
    /// After this many completions, once, the indices of the rings that the device writes are wrong
    /// until it is reset.
    CorruptIndex(u64),
    /// From then on no completion comes any more until the device is reset.
    Hang(After),
    /// From then on each completion comes when the device is reset, just before that takes effect:
    /// too late, however long somebody waits.
    Late(After),
    /// From then on the device is gone.
    Vanish(After),
}

/// Text that names no misbehaviour.
#[derive(Debug, Error, PartialEq, Eq)]
#[error(
    "{0:?} is no misbehaviour: there are drop-completion, drop-interrupt, delay-completion, \
     reorder-completion, corrupt-fault, false-fence, corrupt-fence, corrupt-index, hang, late and \
     vanish, each with =N (a number of at least 1) behind it or not, the last three also with \
     =illegal"
)]
pub struct Unknown(String);

impl FromStr for Misbehave {
    type Err = Unknown;

    fn from_str(text: &str) -> Result<Self, Unknown> {
        let unknown = || Unknown(text.into());
        match text {
            "hang=illegal" => return Ok(Self::Hang(After::Illegal)),
            "late=illegal" => return Ok(Self::Late(After::Illegal)),
            "vanish=illegal" => return Ok(Self::Vanish(After::Illegal)),
            _ => {}
        }
        let (kind, number) = match text.split_once('=') {
            Some((kind, number)) => {
                let number = number.parse().map_err(|_| unknown())?;
                (kind, Some(number).filter(|n| *n > 0).ok_or_else(unknown)?)
            }
            None => (text, 0),
        };
        let or = |default| if number == 0 { default } else { number };
        Ok(match kind {
            "drop-completion" => Self::DropCompletion(or(16)),
            "drop-interrupt" => Self::DropInterrupt(or(16)),
            "delay-completion" => Self::DelayCompletion(or(1000)),
            "reorder-completion" => Self::ReorderCompletion(or(1000)),
            "corrupt-fault" => Self::CorruptFault(or(16)),
            "false-fence" => Self::FalseFence(or(16)),
            "corrupt-fence" => Self::CorruptFence(or(1000)),
            "corrupt-index" => Self::CorruptIndex(or(1000)),
            "hang" => Self::Hang(After::Completions(or(1000))),
            "late" => Self::Late(After::Completions(or(1000))),
            "vanish" => Self::Vanish(After::Completions(or(1000))),
            _ => return Err(unknown()),
        })
    }
}

/// The generator SplitMix64: small, and good enough to choose what goes wrong.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.next() % n == 0
    }
}

/// A fence in place of `fence` that no driver may take for it: of one before it, of one that may not
/// even have been submitted, or of none. What it says beside its value is just as wrong.
fn wrong(fence: hw::Fence, random: &mut Random) -> hw::Fence {
    let any = random.next();
    hw::Fence {
        value: match any % 4 {
            0 => fence.value.wrapping_sub(1),
            1 => fence.value.wrapping_add(1 << (any >> 2 & 15)),
            2 => u64::MAX,
            _ => fence.value ^ (any | 1),
        },
        status: random.next() as u32,
        access: random.next() as u32,
        info: random.next(),
        count: random.next(),
    }
}

/// An index in place of `put` that no driver may take for it, wherever the driver is in a ring of
/// `size` entries: of the past, of the future, or of none.
fn wrong_index(put: u64, size: u64, random: &mut Random) -> u64 {
    let any = random.next();
    let off = size + 1 + (any >> 2 & 0xffff);
    match any % 3 {
        0 => put.wrapping_sub(off),
        1 => put.wrapping_add(off),
        _ => u64::MAX,
    }
}

/// How late the right completion is that follows a false one.
const AFTER_FALSE: Duration = Duration::from_millis(1);

/// A completion that waits for its time.
struct Late {
    due: Instant,
    number: u64,
    completion: Completion,
}

impl PartialEq for Late {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}

impl Eq for Late {}

impl PartialOrd for Late {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Late {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.due, self.number).cmp(&(other.due, other.number))
    }
}

struct State {
    random: Random,
    completions: u64,
    /// The last one was of a dispatch that met an illegal instruction.
    was_illegal: bool,
    /// The one before it was.
    after_illegal: bool,
    /// Nothing completes until the next reset.
    hangs: bool,
    /// All that completes is kept for the next reset.
    keeps: bool,
    kept: Vec<Completion>,
    /// All fences are wrong until the next reset.
    corrupts: bool,
    /// The indices of the rings that the device writes are.
    corrupts_index: bool,
    late: BinaryHeap<Reverse<Late>>,
    /// How many have been late.
    postponed: u64,
    /// When the last one of a ring is due, by its doorbell: nothing overtakes within a ring.
    last: Vec<(usize, Instant)>,
    stop: bool,
}

/// Decides what goes wrong.
pub struct Mischief {
    kinds: Vec<Misbehave>,
    gone: AtomicBool,
    state: Mutex<State>,
    changed: Condvar,
}

impl Mischief {
    /// Makes one that does what is listed.
    pub fn new(kinds: Vec<Misbehave>, seed: u64) -> Self {
        Self {
            kinds,
            gone: AtomicBool::new(false),
            state: Mutex::new(State {
                random: Random(seed),
                completions: 0,
                was_illegal: false,
                after_illegal: false,
                hangs: false,
                keeps: false,
                kept: Vec::new(),
                corrupts: false,
                corrupts_index: false,
                late: BinaryHeap::new(),
                postponed: 0,
                last: Vec::new(),
                stop: false,
            }),
            changed: Condvar::new(),
        }
    }

    /// Whether completions come late, so that [`deliver`](Self::deliver) needs a thread.
    pub fn delays(&self) -> bool {
        self.kinds.iter().any(|kind| {
            matches!(
                kind,
                Misbehave::DelayCompletion(_)
                    | Misbehave::ReorderCompletion(_)
                    | Misbehave::FalseFence(_)
            )
        })
    }

    /// Whether the device has vanished, for good.
    pub fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Acquire)
    }

    /// Passes a completion on if it is to be written now.
    pub fn pass(&self, mut completion: Completion) -> Option<Completion> {
        if self.kinds.is_empty() {
            return Some(completion);
        }
        let mut state = lock(&self.state);
        state.count(&completion);
        let mut delay = Duration::ZERO;
        for kind in &self.kinds {
            match *kind {
                Misbehave::DropCompletion(n) if state.random.one_in(n) => return None,
                Misbehave::DropInterrupt(n) if state.random.one_in(n) => completion.vector = None,
                Misbehave::DelayCompletion(us) => delay += Duration::from_micros(us),
                Misbehave::ReorderCompletion(us) => {
                    delay += Duration::from_micros(state.random.next() % us);
                }
                Misbehave::FalseFence(n) if state.random.one_in(n) => {
                    let fence = wrong(completion.fence, &mut state.random);
                    state.postpone(
                        Completion {
                            fence,
                            ..completion
                        },
                        delay,
                    );
                    delay += AFTER_FALSE;
                }
                Misbehave::CorruptFence(n) => {
                    state.corrupts |= state.completions == n + 1;
                    if state.corrupts {
                        completion.fence = wrong(completion.fence, &mut state.random);
                    }
                }
                Misbehave::CorruptIndex(n) => {
                    state.corrupts_index |= state.completions == n + 1;
                }
                Misbehave::Hang(after) => {
                    state.hangs |= state.is_first(after);
                    if state.hangs {
                        return None;
                    }
                }
                Misbehave::Late(after) => {
                    state.keeps |= state.is_first(after);
                    if state.keeps {
                        state.kept.push(completion);
                        return None;
                    }
                }
                Misbehave::Vanish(after) => {
                    if state.is_first(after) {
                        self.gone.store(true, Ordering::Release);
                    }
                    if self.is_gone() {
                        return None;
                    }
                }
                _ => {}
            }
        }
        if !self.delays() {
            return Some(completion);
        }
        state.postpone(completion, delay);
        self.changed.notify_one();
        None
    }

    /// Whether an interrupt that tells of faults is raised.
    pub fn interrupts(&self) -> bool {
        let random = &mut lock(&self.state).random;
        !self
            .kinds
            .iter()
            .any(|kind| matches!(*kind, Misbehave::DropInterrupt(n) if random.one_in(n)))
    }

    /// What is written as the index of a ring of `size` entries, of which it is `put`.
    pub fn index(&self, put: u64, size: u64) -> u64 {
        let mut state = lock(&self.state);
        match state.corrupts_index {
            true => wrong_index(put, size, &mut state.random),
            false => put,
        }
    }

    /// Spoils a fault entry, or does not.
    pub fn fault(&self, entry: &mut hw::FaultEntry) {
        for kind in &self.kinds {
            let Misbehave::CorruptFault(n) = *kind else {
                continue;
            };
            let random = &mut lock(&self.state).random;
            if random.one_in(n) {
                let value = random.next();
                match random.next() % 6 {
                    0 => entry.addr = value,
                    1 => entry.asid = value as u32,
                    2 => entry.access = value as u32,
                    3 => entry.queue = value as u32,
                    4 => entry.reason = value as u32,
                    _ => entry.dispatch = value,
                }
            }
        }
    }

    /// Writes late completions when they are due, until [`stop`](Self::stop).
    pub fn deliver(&self, core: &Core) {
        loop {
            // Memory before state, as everywhere.
            let dma = core.bus.dma();
            let mut state = lock(&self.state);
            if state.stop {
                return;
            }
            let now = Instant::now();
            let due = |late: &Reverse<Late>| late.0.due <= now;
            while state.late.peek().is_some_and(due) {
                if let Some(Reverse(late)) = state.late.pop() {
                    core.write_completion(&dma, &late.completion);
                }
            }
            drop(dma);
            let wait = match state.late.peek() {
                Some(Reverse(late)) => late.due - now,
                None => Duration::from_secs(3600),
            };
            let _ = self.changed.wait_timeout(state, wait);
        }
    }

    /// Writes the completions that were kept, forgets those that are late, and is well again.
    pub fn clear(&self, core: &Core) {
        // Memory before state, as everywhere.
        let dma = core.bus.dma();
        let mut state = lock(&self.state);
        for completion in std::mem::take(&mut state.kept) {
            core.write_completion(&dma, &completion);
        }
        state.was_illegal = false;
        state.hangs = false;
        state.keeps = false;
        state.corrupts = false;
        state.corrupts_index = false;
        state.late.clear();
        state.last.clear();
    }

    /// Ends [`deliver`](Self::deliver).
    pub fn stop(&self) {
        lock(&self.state).stop = true;
        self.changed.notify_one();
    }
}

impl State {
    fn count(&mut self, completion: &Completion) {
        let is_illegal = completion.fence.status == hw::COMPLETE_ILLEGAL;
        self.after_illegal = std::mem::replace(&mut self.was_illegal, is_illegal);
        self.completions += 1;
    }

    /// Whether the completion that was counted last is the first that goes wrong.
    fn is_first(&self, after: After) -> bool {
        match after {
            After::Completions(n) => self.completions == n + 1,
            After::Illegal => self.after_illegal,
        }
    }

    fn postpone(&mut self, completion: Completion, delay: Duration) {
        let mut due = Instant::now() + delay;
        match self.last.iter_mut().find(|l| l.0 == completion.bell) {
            Some(last) => {
                due = due.max(last.1);
                last.1 = due;
            }
            None => self.last.push((completion.bell, due)),
        }
        self.postponed += 1;
        self.late.push(Reverse(Late {
            due,
            number: self.postponed,
            completion,
        }));
    }
}
