// SPDX-License-Identifier: MIT OR Apache-2.0

//! A guest for the fuzz targets: a device in this process, memory for it, and a way from the bytes
//! of an input to what the guest writes.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use tern_vgpu::device::{Device, Running};
use tern_vgpu::hw;
use tern_vgpu::mem::{memfd, Mapping, Pod};
use tern_vgpu::options::Options;

/// System address of the guest's memory.
pub const RAM: u64 = 0x10_0000;
/// Its size.
pub const RAM_SIZE: u64 = 256 << 10;
/// System address of a page that the device must not write.
pub const READ_ONLY: u64 = 0x20_0000;
const VRAM: u64 = 4 << 20;
/// The part of VRAM that the guest can map.
pub const APERTURE: u64 = 2 << 20;
/// Bytes of the file behind the guest's memory, before and behind it, that are not the guest's.
const MARGIN: u64 = 4096;
/// What is in the margins and in the read-only page.
const CANARY: u64 = 0x5afe_c0de_5afe_c0de;

/// Where things are in the guest's memory, in pages from its start.
mod page {
    pub const SPACES: u64 = 0;
    pub const QUEUES: u64 = 1;
    pub const CTRL: u64 = 2;
    pub const COPY: u64 = 3;
    pub const QUEUE: u64 = 5;
    pub const FAULT: u64 = 6;
    pub const ACCESS: u64 = 7;
    pub const WRITEBACKS: u64 = 8;
    pub const FENCES: u64 = 9;
    pub const CODE: u64 = 10;
    pub const ROOT: u64 = 12;
}

/// log2 of the entries of all rings.
const RING_LOG2: u32 = 4;
/// The address space and the queue that [`Machine::program`] sets up.
pub const ID: u32 = 1;
/// Virtual address of the code.
pub const CODE: u64 = 0x4000_0000;
/// Entries of the tables on the way to [`CODE`]: where they are in system memory.
pub const ROOT: u64 = RAM + page::ROOT * 4096;

const PATIENCE: Duration = Duration::from_millis(100);

/// The rings that the device reads.
#[derive(Clone, Copy)]
pub enum Ring {
    /// The control ring.
    Control,
    /// A copy ring.
    Copy(u64),
    /// The ring of queue [`ID`].
    Queue,
}

impl Ring {
    fn bell(self) -> usize {
        match self {
            Self::Control => hw::DOORBELL_CTRL,
            Self::Copy(n) => hw::DOORBELL_COPY + 8 * n as usize,
            Self::Queue => hw::DOORBELL_QUEUE + 8 * ID as usize,
        }
    }

    fn page(self) -> u64 {
        match self {
            Self::Control => page::CTRL,
            Self::Copy(n) => page::COPY + n,
            Self::Queue => page::QUEUE,
        }
    }
}

/// The device, with a guest around it.
pub struct Machine {
    running: Running,
    ram: Mapping,
    read_only: Mapping,
    deadline: Arc<Mutex<Option<Instant>>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Machine {
    fn new() -> Self {
        let running = Running::new(Options {
            vram: VRAM,
            aperture: APERTURE,
            resident: 64,
            synchronous: true,
            ..Options::default()
        })
        .unwrap();
        let file = memfd(c"ram", RAM_SIZE + 2 * MARGIN).unwrap();
        let bus = &running.device().core.bus;
        bus.map(RAM, RAM_SIZE, &file, MARGIN, true).unwrap();
        let ram = Mapping::new(&file, 0, RAM_SIZE + 2 * MARGIN, true).unwrap();
        let file = memfd(c"read-only", 4096).unwrap();
        bus.map(READ_ONLY, 4096, &file, 0, false).unwrap();
        let read_only = Mapping::new(&file, 0, 4096, true).unwrap();
        fill(&read_only, 0, 4096, CANARY);
        fill(&ram, 0, MARGIN, CANARY);
        fill(&ram, MARGIN + RAM_SIZE, MARGIN, CANARY);

        let machine = Self {
            running,
            ram,
            read_only,
            deadline: Arc::default(),
        };
        machine.start_watchdog();
        machine
    }

    /// Stops the device where a kernel never ends, which it may without a limit.
    fn start_watchdog(&self) {
        let (device, deadline) = (self.running.device().clone(), self.deadline.clone());
        std::thread::spawn(move || loop {
            std::thread::sleep(PATIENCE / 4);
            if lock(&deadline).is_some_and(|deadline| deadline < Instant::now()) {
                device.core.set_running(false);
            }
        });
    }

    /// The device.
    pub fn device(&self) -> &Arc<Device> {
        self.running.device()
    }

    /// Writes a value to the guest's memory.
    pub fn poke<T: Pod>(&self, addr: u64, value: &T) {
        let size = size_of::<T>() as u64;
        self.ram
            .run(addr - RAM + MARGIN, size, true)
            .unwrap()
            .write(value);
    }

    fn load(&self, addr: u64) -> u64 {
        self.ram.run(addr - RAM + MARGIN, 8, true).unwrap().load(0)
    }

    /// Writes a word at an address that is brought into the guest's memory.
    pub fn store(&self, addr: u64, value: u64) {
        let offset = addr % RAM_SIZE & !7;
        self.ram
            .run(MARGIN + offset, 8, true)
            .unwrap()
            .store(0, value);
    }

    /// Writes a word of VRAM.
    pub fn store_vram(&self, offset: u64, value: u64) {
        let dma = self.device().core.bus.dma();
        let run = dma.vram(offset % VRAM & !7, 8).unwrap();
        run.store(0, value);
    }

    /// Puts code where [`Machine::dispatch`] runs it.
    pub fn set_code(&self, code: &[u32]) {
        for (i, pair) in code.chunks(2).take(1024).enumerate() {
            let word = u64::from(pair[0]) | u64::from(*pair.get(1).unwrap_or(&0)) << 32;
            self.store(page::CODE * 4096 + 8 * i as u64, word);
        }
    }

    /// As after power-on, with memory that is all zero.
    fn begin(&self) {
        let device = self.device();
        device.reset();
        device.core.bus.set_master(true);
        device.core.irqs.set_master(true);
        device.core.irqs.clear();
        fill(&self.ram, MARGIN, RAM_SIZE, 0);
        let dma = device.core.bus.dma();
        dma.vram(0, VRAM).unwrap().fill(VRAM, 0, 0);
        *lock(&self.deadline) = Some(Instant::now() + PATIENCE);
    }

    /// Sets up all rings, an address space with code in it, and a queue, and lets them run.
    pub fn program(&self) {
        let device = self.device();
        let at = |page: u64| RAM + page * 4096;
        device.write(hw::REG_AS_BASE, 8, at(page::SPACES));
        device.write(hw::REG_AS_LOG2, 4, 4);
        device.write(hw::REG_QUEUE_BASE, 8, at(page::QUEUES));
        device.write(hw::REG_QUEUE_LOG2, 4, 4);
        let rings = [
            (hw::REG_CTRL_RING, page::CTRL),
            (hw::REG_FAULT_RING, page::FAULT),
            (hw::REG_ACCESS_RING, page::ACCESS),
            (hw::REG_COPY_RING, page::COPY),
            (hw::REG_COPY_RING + hw::RING_STRIDE, page::COPY + 1),
        ];
        for (block, page) in rings {
            device.write(block + hw::RING_BASE, 8, at(page));
            device.write(block + hw::RING_WRITEBACK, 8, writeback(page));
            device.write(block + hw::RING_LOG2, 4, RING_LOG2.into());
        }
        // Three tables, and pages of code in the last one.
        let valid = hw::ENTRY_VALID | hw::ENTRY_SYSTEM;
        self.poke(
            at(page::SPACES) + 16 * u64::from(ID),
            &hw::AddressSpace {
                root: ROOT | valid,
                reserved: 0,
            },
        );
        for level in (1..hw::LEVELS as u64).rev() {
            let table = ROOT + (hw::LEVELS as u64 - 1 - level) * 4096;
            let index = CODE >> (12 + 9 * level) & 511;
            self.store(table - RAM + 8 * index, (table + 4096) | valid);
        }
        let leaf = valid | hw::ENTRY_LEAF | hw::ENTRY_WRITE | hw::ENTRY_ATOMIC;
        for page in 0..2 {
            let entry = at(page::CODE + page) | leaf;
            self.store((page::ROOT + 3) * 4096 + 8 * page, entry);
        }
        self.poke(
            at(page::QUEUES) + 32 * u64::from(ID),
            &hw::QueueContext {
                base: at(page::QUEUE),
                writeback: writeback(page::QUEUE),
                log2: RING_LOG2,
                asid: ID,
                reserved: 0,
            },
        );
        device.write(hw::REG_CONTROL, 4, hw::CONTROL_ENABLE.into());
        self.control(hw::OP_QUEUE_START, 0, 0);
    }

    /// Puts a packet, which is 64 bytes, behind the others of a ring, and rings.
    pub fn put<T: Pod>(&self, ring: Ring, packet: &T) {
        let bells = &self.device().core.bells;
        let put = bells.load(ring.bell());
        let slot = put % (1 << RING_LOG2);
        self.poke(RAM + ring.page() * 4096 + 64 * slot, packet);
        bells.store(ring.bell(), put.wrapping_add(1));
        self.kick();
    }

    /// Has the device look at its doorbells.
    pub fn kick(&self) {
        self.device().write(hw::REG_KICK, 4, 0);
    }

    /// Rings the doorbell of a ring, with anything.
    pub fn ring(&self, ring: Ring, put: u64) {
        self.device().core.bells.store(ring.bell(), put);
        self.kick();
    }

    /// Puts an operation that is as it should be on the control ring.
    pub fn control(&self, op: u32, start: u64, last: u64) {
        self.put(
            Ring::Control,
            &hw::ControlPacket {
                op: op | hw::OP_FENCE | hw::OP_IRQ,
                id: ID,
                start,
                last,
                fence_addr: RAM + page::FENCES * 4096,
                fence_value: 1,
                ..Default::default()
            },
        );
    }

    /// Runs the code for a millisecond at most.
    pub fn dispatch(&self, args: u64, threads: u64) {
        self.put(
            Ring::Queue,
            &hw::DispatchPacket {
                op: hw::OP_DISPATCH | hw::OP_FENCE | hw::OP_IRQ,
                entry: CODE,
                args,
                threads,
                watchdog_ms: 1,
                fence_addr: RAM + page::FENCES * 4096 + 32,
                fence_value: 1,
                ..Default::default()
            },
        );
    }

    /// Whatever was written: a reset helps, and nothing changed that is not the guest's.
    fn end(&self) {
        *lock(&self.deadline) = None;
        self.begin();
        assert_eq!(
            self.device().read(hw::REG_STATUS, 4),
            u64::from(hw::STATUS_READY)
        );
        self.program();
        self.set_code(&[0x73]);
        self.dispatch(0, 3);
        let fence = RAM + page::FENCES * 4096 + 32;
        assert_eq!((self.load(fence), self.load(fence + 8)), (1, 0));
        for word in (0..4096).step_by(8) {
            let run = self.read_only.run(word, 8, true).unwrap();
            assert_eq!(run.load(0), CANARY);
        }
        for word in (0..MARGIN).step_by(8) {
            for start in [0, MARGIN + RAM_SIZE] {
                let run = self.ram.run(start + word, 8, true).unwrap();
                assert_eq!(run.load(0), CANARY);
            }
        }
        *lock(&self.deadline) = None;
    }
}

fn fill(mapping: &Mapping, offset: u64, len: u64, pattern: u64) {
    let run = mapping.run(offset, len, true).unwrap();
    run.fill(len, pattern, 0);
}

fn writeback(page: u64) -> u64 {
    RAM + page::WRITEBACKS * 4096 + page * 64
}

/// Runs what `guest` does on a device that was reset, and checks the device then.
pub fn fuzz(data: &[u8], guest: impl FnOnce(&Machine, &mut Input<'_>)) {
    static MACHINE: OnceLock<Machine> = OnceLock::new();
    let machine = MACHINE.get_or_init(Machine::new);
    machine.begin();
    guest(machine, &mut Input(data));
    machine.end();
}

/// The bytes of an input, which end in zeros.
pub struct Input<'a>(&'a [u8]);

impl Input<'_> {
    /// Whether there is more than zeros.
    pub fn has_more(&self) -> bool {
        !self.0.is_empty()
    }

    /// A byte.
    pub fn byte(&mut self) -> u8 {
        let (first, rest) = self.0.split_first().unwrap_or((&0, &[]));
        self.0 = rest;
        *first
    }

    /// Two bytes.
    pub fn short(&mut self) -> u16 {
        u16::from(self.byte()) | u16::from(self.byte()) << 8
    }

    /// Four bytes.
    pub fn int(&mut self) -> u32 {
        u32::from(self.short()) | u32::from(self.short()) << 16
    }

    /// A word: anything, or something that is likely to mean something.
    pub fn word(&mut self) -> u64 {
        match self.byte() % 8 {
            0 => u64::from(self.int()) | u64::from(self.int()) << 32,
            1 => u64::from(self.byte()),
            2 => RAM + u64::from(self.short()) * 4,
            3 => RAM + u64::from(self.byte() % 64) * 4096,
            4 => 1 << (self.byte() % 64),
            5 => (u64::from(self.byte()) << 12) | u64::from(self.byte()),
            6 => READ_ONLY + u64::from(self.short()),
            _ => u64::MAX - u64::from(self.byte()),
        }
    }
}
