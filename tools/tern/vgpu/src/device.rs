// SPDX-License-Identifier: MIT OR Apache-2.0

//! The device: its engines, their threads, and what the registers do.

use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{Builder, JoinHandle};
use std::time::Instant;

use thiserror::Error;

use crate::bells::Bells;
use crate::bus::Bus;
use crate::compute::Compute;
use crate::control::Control;
use crate::copy::Copy;
use crate::core::Core;
use crate::hw;
use crate::mem::{memfd, Mapping};
use crate::options::{Invalid, Options};
use crate::regs::{self, Kind, Regs};
use crate::sync::lock;

/// Why there is no device.
#[derive(Debug, Error)]
pub enum NewError {
    /// The options make no sense.
    #[error(transparent)]
    Options(#[from] Invalid),
    /// The host has not enough memory, or not enough threads.
    #[error("the host gives no memory or threads for the device: {0}")]
    Host(#[from] io::Error),
}

/// The device without its threads.
pub struct Device {
    /// What all engines share.
    pub core: Core,
    /// File behind BAR 0, of which the guest maps the upper half.
    pub bells: File,
    /// File behind VRAM.
    pub vram: File,
    regs: Mutex<Regs>,
    control: Control,
    copies: Vec<Copy>,
    compute: Compute,
    /// Held by the thread that looks at the doorbells.
    poller: Mutex<()>,
    quit: AtomicBool,
}

impl Device {
    fn new(options: Options) -> Result<Self, NewError> {
        options.check()?;
        let vram = memfd(c"tern-vram", options.vram)?;
        let bus = Bus::new(Mapping::new(&vram, 0, options.vram, true)?);
        let (bells, file) = Bells::new()?;
        let copies = (0..options.copy_engines as usize).map(Copy::new).collect();
        Ok(Self {
            core: Core::new(options, bus, bells),
            bells: file,
            vram,
            regs: Mutex::default(),
            control: Control::default(),
            copies,
            compute: Compute::default(),
            poller: Mutex::new(()),
            quit: AtomicBool::new(false),
        })
    }

    /// Finds the register that an access of `len` bytes is about, whole or by a half of it: what
    /// it is, its offset and its width.
    fn find(&self, offset: usize, len: usize) -> Option<(Kind, usize, usize)> {
        let aligned = matches!(len, 4 | 8) && offset % len == 0;
        regs::find(offset, self.core.options.copy_engines)
            .filter(|(_, base, width)| aligned && offset + len <= base + width)
    }

    /// Reads a register, or a half of one. What is none reads as 0.
    pub fn read(&self, offset: usize, len: usize) -> u64 {
        self.find(offset, len).map_or(0, |(kind, base, _)| {
            self.value(kind) >> (8 * (offset - base))
        })
    }

    fn value(&self, kind: Kind) -> u64 {
        let core = &self.core;
        let regs = lock(&self.regs);
        let register = match kind {
            Kind::Ring(ring, register) => return regs.ring(ring, register),
            Kind::Plain(register) => register,
        };
        match register {
            hw::REG_ID => hw::ID.into(),
            hw::REG_VERSION => hw::VERSION.into(),
            hw::REG_COPY_ENGINES => core.options.copy_engines.into(),
            hw::REG_RESIDENT_THREADS => core.options.resident.into(),
            hw::REG_VRAM_SIZE => core.options.vram,
            hw::REG_APERTURE_SIZE => core.options.aperture,
            hw::REG_CONTROL if regs.enabled => hw::CONTROL_ENABLE.into(),
            hw::REG_STATUS if regs.enabled => (hw::STATUS_READY | hw::STATUS_ENABLED).into(),
            hw::REG_STATUS => hw::STATUS_READY.into(),
            hw::REG_TIMESTAMP => core.timestamp(),
            hw::REG_ERROR => core.errors().0.into(),
            hw::REG_ERROR_INFO => core.errors().1,
            hw::REG_AS_BASE => core.tables.as_base.load(Ordering::Acquire),
            hw::REG_AS_LOG2 => core.tables.as_log2.load(Ordering::Acquire).into(),
            hw::REG_QUEUE_BASE => core.tables.queue_base.load(Ordering::Acquire),
            hw::REG_QUEUE_LOG2 => core.tables.queue_log2.load(Ordering::Acquire).into(),
            hw::REG_ACCESS_SHIFT => self.compute.counters.shift().into(),
            hw::REG_ACCESS_THRESHOLD => self.compute.counters.threshold().into(),
            _ => 0,
        }
    }

    /// Writes a register, or a half of one. A value that it does not take is an error of the device.
    pub fn write(&self, offset: usize, len: usize, value: u64) {
        let taken = self.find(offset, len).is_some_and(|(kind, base, width)| {
            if len == width {
                return self.set(kind, value);
            }
            let shift = 8 * (offset - base);
            let mask = u64::from(u32::MAX) << shift;
            self.set(kind, self.value(kind) & !mask | value << shift & mask)
        });
        if !taken {
            self.core.error(hw::ERROR_REGISTER, offset as u64);
        }
    }

    /// Writes a register. Whether it takes the value.
    fn set(&self, kind: Kind, value: u64) -> bool {
        let tables = &self.core.tables;
        let register = match kind {
            Kind::Ring(ring, register) => {
                return lock(&self.regs).set_ring(ring, register, value);
            }
            Kind::Plain(register) => register,
        };
        match register {
            hw::REG_KICK => self.look(),
            hw::REG_CONTROL => return self.control(value),
            hw::REG_ERROR => self.core.clear_errors(value as u32),
            hw::REG_AS_BASE if value % 64 == 0 => tables.as_base.store(value, Ordering::Release),
            hw::REG_QUEUE_BASE if value % 64 == 0 => {
                tables.queue_base.store(value, Ordering::Release);
            }
            hw::REG_AS_LOG2 if value <= hw::MAX_AS_LOG2.into() => {
                tables.as_log2.store(value as u32, Ordering::Release);
            }
            hw::REG_QUEUE_LOG2 if value <= hw::MAX_QUEUE_LOG2.into() => {
                tables.queue_log2.store(value as u32, Ordering::Release);
            }
            hw::REG_ACCESS_SHIFT => return self.compute.counters.set_shift(value as u32),
            hw::REG_ACCESS_THRESHOLD => return self.compute.counters.set_threshold(value as u32),
            _ => return false,
        }
        true
    }

    fn control(&self, value: u64) -> bool {
        if value & !u64::from(hw::CONTROL_ENABLE | hw::CONTROL_RESET) != 0 {
            return false;
        }
        if value & u64::from(hw::CONTROL_RESET) != 0 {
            self.reset();
            return true;
        }
        let mut regs = lock(&self.regs);
        match (regs.enabled, value & u64::from(hw::CONTROL_ENABLE) != 0) {
            (false, true) => self.enable(&mut regs),
            (true, false) => self.disable(&mut regs),
            _ => {}
        }
        true
    }

    fn enable(&self, regs: &mut Regs) {
        self.control.start(&self.core, regs.rings[regs::CTRL]);
        for (n, copy) in self.copies.iter().enumerate() {
            copy.start(&self.core, regs.rings[regs::COPY + n]);
        }
        let (faults, access) = (regs.rings[regs::FAULT], regs.rings[regs::ACCESS]);
        self.compute.start(&self.core, faults, access);
        regs.enabled = true;
        self.core.set_running(true);
        self.look();
    }

    /// Stops all engines, drops what they do, and waits until they touch nothing any more.
    fn disable(&self, regs: &mut Regs) {
        self.core.set_running(false);
        self.control.stop();
        self.copies.iter().for_each(Copy::stop);
        self.compute.stop();
        self.core.mischief.clear(&self.core);
        self.core.bells.clear();
        regs.enabled = false;
    }

    /// Puts the device in the state that it starts with. VRAM keeps its contents.
    pub fn reset(&self) {
        let mut regs = lock(&self.regs);
        self.disable(&mut regs);
        *regs = Regs::default();
        let tables = &self.core.tables;
        tables.as_base.store(0, Ordering::Release);
        tables.as_log2.store(0, Ordering::Release);
        tables.queue_base.store(0, Ordering::Release);
        tables.queue_log2.store(0, Ordering::Release);
        self.compute.counters.set_shift(0);
        self.compute.counters.set_threshold(1);
        self.compute.shootdown.invalidate_all();
        self.core.reset_errors();
    }

    /// Looks at every doorbell and has the engines do what there is to do, or does it.
    fn look(&self) {
        if self.core.options.synchronous {
            self.control.process(&self.core, &self.compute);
            self.copies.iter().for_each(|copy| copy.process(&self.core));
            self.compute.settle(&self.core);
        } else {
            self.scan();
        }
    }

    /// Looks at every doorbell and wakes the engines that have work.
    fn scan(&self) {
        if !self.core.running() {
            return;
        }
        self.control.scan(&self.core);
        self.copies.iter().for_each(|copy| copy.scan(&self.core));
        self.compute.scan(&self.core);
    }

    /// Looks at the doorbells for a while, until there is something for the caller to do. Returns
    /// at once if another thread looks already.
    fn poll(&self, wanted: impl Fn() -> bool) {
        let poll = self.core.options.poll;
        if poll.is_zero() || self.core.options.synchronous || !self.core.running() {
            return;
        }
        let Ok(_role) = self.poller.try_lock() else {
            return;
        };
        let begin = Instant::now();
        self.core.bells.set_polling(true);
        while !wanted() && !self.quits() && begin.elapsed() < poll {
            self.scan();
            std::hint::spin_loop();
        }
        self.core.bells.set_polling(false);
        self.scan();
    }

    fn quits(&self) -> bool {
        self.quit.load(Ordering::Acquire)
    }

    fn control_thread(&self) {
        while !self.quits() {
            self.control.process(&self.core, &self.compute);
            self.poll(|| self.control.signal.is_set());
            self.control.signal.wait();
        }
    }

    fn copy_thread(&self, copy: &Copy) {
        while !self.quits() {
            copy.process(&self.core);
            self.poll(|| copy.signal.is_set());
            copy.signal.wait();
        }
    }

    fn compute_thread(&self) {
        self.compute
            .work(&self.core, || self.poll(|| self.compute.has_work()));
    }
}

/// A device with its threads, which end when it is dropped.
pub struct Running {
    device: Arc<Device>,
    threads: Vec<JoinHandle<()>>,
}

impl Running {
    /// Makes a device and starts its threads.
    ///
    /// # Errors
    ///
    /// [`NewError`].
    pub fn new(options: Options) -> Result<Self, NewError> {
        let mut running = Self {
            device: Arc::new(Device::new(options)?),
            threads: Vec::new(),
        };
        let options = running.device.core.options.clone();
        if !options.synchronous {
            for n in 0..options.compute_threads {
                running.spawn(format!("compute-{n}"), Device::compute_thread)?;
            }
            running.spawn("control".into(), Device::control_thread)?;
            for n in 0..options.copy_engines as usize {
                running.spawn(format!("copy-{n}"), move |device| {
                    device.copy_thread(&device.copies[n]);
                })?;
            }
        }
        if running.device.core.mischief.delays() {
            running.spawn("late".into(), |device| {
                device.core.mischief.deliver(&device.core);
            })?;
        }
        Ok(running)
    }

    fn spawn(&mut self, name: String, run: impl Fn(&Device) + Send + 'static) -> io::Result<()> {
        let device = self.device.clone();
        let thread = Builder::new().name(name).spawn(move || run(&device))?;
        self.threads.push(thread);
        Ok(())
    }

    /// The device.
    pub fn device(&self) -> &Arc<Device> {
        &self.device
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.device.reset();
        self.device.quit.store(true, Ordering::Release);
        self.device.control.signal.set();
        self.device.copies.iter().for_each(|copy| copy.signal.set());
        self.device.compute.quit();
        self.device.core.mischief.stop();
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a thread of the device panicked");
            }
        }
    }
}
