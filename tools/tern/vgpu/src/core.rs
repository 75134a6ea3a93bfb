// SPDX-License-Identifier: MIT OR Apache-2.0

//! What all engines share: memory, doorbells, interrupts, errors, and the way to complete a packet.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::Mutex;
use std::time::Instant;

use crate::bells::Bells;
use crate::bus::{Bus, Dma};
use crate::hw;
use crate::irq::Irqs;
use crate::misbehave::Mischief;
use crate::options::Options;
use crate::sync::lock;

/// A packet that is done.
#[derive(Clone, Copy)]
pub struct Completion {
    /// Doorbell of its ring, as the ring's name.
    pub bell: usize,
    /// Where to write the fence, if there is one.
    pub addr: Option<u64>,
    /// The fence.
    pub fence: hw::Fence,
    /// The vector to raise, if any.
    pub vector: Option<u32>,
}

#[derive(Default)]
struct Errors {
    bits: u32,
    info: u64,
}

/// Where the tables in system memory are that the driver sets up once.
#[derive(Default)]
pub struct Tables {
    /// [`hw::REG_AS_BASE`].
    pub as_base: AtomicU64,
    /// [`hw::REG_AS_LOG2`].
    pub as_log2: AtomicU32,
    /// [`hw::REG_QUEUE_BASE`].
    pub queue_base: AtomicU64,
    /// [`hw::REG_QUEUE_LOG2`].
    pub queue_log2: AtomicU32,
}

/// What all engines share.
pub struct Core {
    /// Properties of the device.
    pub options: Options,
    /// Memory.
    pub bus: Bus,
    /// Doorbells.
    pub bells: Bells,
    /// Interrupts.
    pub irqs: Irqs,
    /// Tables of address spaces and queues.
    pub tables: Tables,
    /// Misbehaviour.
    pub mischief: Mischief,
    errors: Mutex<Errors>,
    running: AtomicBool,
    start: Instant,
}

impl Core {
    /// Puts one together, stopped.
    pub fn new(options: Options, bus: Bus, bells: Bells) -> Self {
        Self {
            mischief: Mischief::new(options.misbehave.clone(), options.seed),
            options,
            bus,
            bells,
            irqs: Irqs::default(),
            tables: Tables::default(),
            errors: Mutex::default(),
            running: AtomicBool::new(false),
            start: Instant::now(),
        }
    }

    /// Whether the engines may work. They look at least once in a few hundred microseconds.
    pub fn running(&self) -> bool {
        self.running.load(Ordering::SeqCst)
    }

    /// Lets the engines work, or tells them to stop.
    pub fn set_running(&self, on: bool) {
        self.running.store(on, Ordering::SeqCst);
    }

    /// [`hw::REG_TIMESTAMP`].
    pub fn timestamp(&self) -> u64 {
        self.start.elapsed().as_nanos() as u64
    }

    /// Reports an error, one of `ERROR_*`.
    pub fn error(&self, bit: u32, info: u64) {
        tracing::debug!(bit, info = format_args!("{info:#x}"), "error");
        let new = {
            let mut errors = lock(&self.errors);
            let new = errors.bits & bit == 0;
            errors.bits |= bit;
            errors.info = info;
            new
        };
        if new {
            self.irqs.raise(hw::VECTOR_ERROR);
        }
    }

    /// The errors since they were cleared, and the detail of the last one.
    pub fn errors(&self) -> (u32, u64) {
        let errors = lock(&self.errors);
        (errors.bits, errors.info)
    }

    /// Clears errors.
    pub fn clear_errors(&self, bits: u32) {
        lock(&self.errors).bits &= !bits;
    }

    /// Clears errors and their detail.
    pub fn reset_errors(&self) {
        *lock(&self.errors) = Errors::default();
    }

    /// Writes a completion, or what misbehaviour makes of it.
    pub fn complete(&self, dma: &Dma<'_>, completion: Completion) {
        if let Some(completion) = self.mischief.pass(completion) {
            self.write_completion(dma, &completion);
        }
    }

    /// Writes a fence, its value last, and raises the vector.
    pub fn write_completion(&self, dma: &Dma<'_>, completion: &Completion) {
        if let Some(addr) = completion.addr {
            let aligned = addr % size_of::<hw::Fence>() as u64 == 0;
            match dma.place::<hw::Fence>(addr).filter(|_| aligned) {
                Some(place) => {
                    let fence = &completion.fence;
                    let status = u64::from(fence.status) | u64::from(fence.access) << 32;
                    place.store(8, status);
                    place.store(16, fence.info);
                    place.store(24, fence.count);
                    place.store(0, fence.value);
                }
                None => self.error(hw::ERROR_DMA, addr),
            }
        }
        if let Some(vector) = completion.vector {
            self.irqs.raise(vector);
        }
    }
}
