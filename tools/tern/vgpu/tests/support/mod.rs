// SPDX-License-Identifier: MIT OR Apache-2.0

//! A guest without a virtual machine: the other end of the socket, with memory, rings and page
//! tables of its own.

// Each test program uses its part of this.
#![allow(dead_code)]
// Shifts within `|` and `&` are how bit fields are written.
#![allow(clippy::precedence)]

use std::cell::Cell;
use std::fs::File;
use std::os::fd::{AsRawFd, FromRawFd};
use std::path::PathBuf;
use std::process::{Child, Command};
use std::sync::atomic::{fence, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tern_vgpu::config::MSIX_PENDING;
use tern_vgpu::device::Running;
use tern_vgpu::hw;
use tern_vgpu::mem::{memfd, Mapping, Pod};
use tern_vgpu::options::Options;
use tern_vgpu::server::Socket;
use vfio_user::Client;

pub mod asm;

/// System address of the guest's memory.
pub const RAM: u64 = 0x4000_0000;
/// Its size.
pub const RAM_SIZE: u64 = 32 << 20;
/// First byte of VRAM that [`Guest::vram_alloc`] gives out.
const VRAM_HEAP: u64 = 1 << 20;
/// log2 of the entries of the table of queues, and of that of address spaces.
pub const TABLE_LOG2: u32 = 4;
/// Longest that anything may take.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// `VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER`.
const IRQ_EVENTFD: u32 = 1 << 2 | 1 << 5;
const MSIX_IRQ: u32 = 2;
const CONFIG_REGION: u32 = 7;

/// A ring of the guest's. `put` is the guest's index.
#[derive(Clone, Copy, Debug)]
pub struct Ring {
    pub base: u64,
    pub writeback: u64,
    pub log2: u32,
    pub bell: usize,
    pub put: u64,
}

/// The guest, with the device that it drives.
pub struct Guest {
    pub client: Client,
    pub ram: Mapping,
    pub ram_file: File,
    pub bells: Mapping,
    pub vram: Mapping,
    pub irqs: Vec<File>,
    pub ctrl: Ring,
    pub faults: Ring,
    pub access: Ring,
    pub copies: Vec<Ring>,
    pub fault_get: u64,
    as_table: u64,
    queue_table: u64,
    heap: Cell<u64>,
    vram_heap: Cell<u64>,
    fence: Cell<u64>,
    server: Option<JoinHandle<()>>,
}

/// A way to stop a device.
pub type Stop = fn(&mut Guest);

/// Ways to stop a device that works, and whether its registers are as after a reset then.
pub const STOPS: [(Stop, bool); 4] = [
    (|guest| guest.write32(hw::REG_CONTROL, 0), false),
    (
        |guest| guest.write32(hw::REG_CONTROL, hw::CONTROL_RESET),
        true,
    ),
    (Guest::function_level_reset, true),
    (Guest::slot_reset, true),
];

fn eventfd() -> File {
    // SAFETY: the call has no preconditions, and the descriptor is new.
    unsafe { File::from_raw_fd(libc::eventfd(0, libc::EFD_NONBLOCK)) }
}

/// Options for tests: little memory, so that many can run.
pub fn options() -> Options {
    Options {
        vram: 32 << 20,
        aperture: 16 << 20,
        ..Options::default()
    }
}

impl Guest {
    /// A guest whose device is enabled.
    pub fn new(options: Options) -> Self {
        let mut guest = Self::cold(options);
        guest.program();
        guest.enable();
        guest
    }

    /// A guest whose device has only been found.
    pub fn cold(options: Options) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("vgpu");
        let running = Running::new(options).unwrap();
        let socket = Socket::new(&path, running.device()).unwrap();
        let server = std::thread::spawn(move || {
            socket.serve().unwrap();
            drop(running);
            drop(directory);
        });
        let mut guest = Self::connect(Client::new(&path).unwrap());
        guest.server = Some(server);
        guest
    }

    /// A guest of whatever `client` is connected to.
    pub fn connect(mut client: Client) -> Self {
        let ram_file = memfd(c"ram", RAM_SIZE).unwrap();
        let ram = Mapping::new(&ram_file, 0, RAM_SIZE, true).unwrap();
        client
            .dma_map(0, RAM, RAM_SIZE, ram_file.as_raw_fd())
            .unwrap();
        let map = |region| {
            let region = client.region(region).unwrap();
            let file = region.file_offset.as_ref().unwrap().file();
            Mapping::new(file, 0, region.size, true).unwrap()
        };
        let (bells, vram) = (map(hw::BAR_REGS), map(hw::BAR_VRAM));
        let irqs: Vec<File> = (0..hw::VECTORS).map(|_| eventfd()).collect();
        let fds: Vec<i32> = irqs.iter().map(File::as_raw_fd).collect();
        client
            .set_irqs(MSIX_IRQ, IRQ_EVENTFD, 0, hw::VECTORS, &fds)
            .unwrap();
        let none = Ring {
            base: 0,
            writeback: 0,
            log2: 0,
            bell: 0,
            put: 0,
        };
        let mut guest = Self {
            client,
            ram,
            ram_file,
            bells,
            vram,
            irqs,
            ctrl: none,
            faults: none,
            access: none,
            copies: Vec::new(),
            fault_get: 0,
            as_table: 0,
            queue_table: 0,
            heap: Cell::new(RAM),
            vram_heap: Cell::new(VRAM_HEAP),
            fence: Cell::new(0),
            server: None,
        };
        guest.set_master(true);
        guest
    }

    pub fn set_master(&mut self, on: bool) {
        let command: u16 = if on { 6 } else { 2 };
        self.client
            .region_write(CONFIG_REGION, 4, &command.to_le_bytes())
            .unwrap();
    }

    /// Sets up all rings and tables.
    pub fn program(&mut self) {
        self.as_table = self.alloc(16 << TABLE_LOG2, 4096);
        self.queue_table = self.alloc(32 << TABLE_LOG2, 4096);
        self.write64(hw::REG_AS_BASE, self.as_table);
        self.write32(hw::REG_AS_LOG2, TABLE_LOG2);
        self.write64(hw::REG_QUEUE_BASE, self.queue_table);
        self.write32(hw::REG_QUEUE_LOG2, TABLE_LOG2);
        self.ctrl = self.ring(6, hw::DOORBELL_CTRL, hw::REG_CTRL_RING);
        self.faults = self.ring(6, hw::DOORBELL_FAULT, hw::REG_FAULT_RING);
        self.access = self.ring(6, hw::DOORBELL_ACCESS, hw::REG_ACCESS_RING);
        self.fault_get = 0;
        let engines = self.read32(hw::REG_COPY_ENGINES) as usize;
        self.copies = (0..engines)
            .map(|n| {
                let block = hw::REG_COPY_RING + n * hw::RING_STRIDE;
                self.ring(6, hw::DOORBELL_COPY + 8 * n, block)
            })
            .collect();
    }

    /// The reset that the virtual machine asks for.
    pub fn slot_reset(&mut self) {
        self.client.reset().unwrap();
        self.set_master(true);
    }

    pub fn function_level_reset(&mut self) {
        self.client
            .region_write(CONFIG_REGION, 0x49, &[0x80])
            .unwrap();
        self.set_master(true);
    }

    pub fn enable(&mut self) {
        self.write32(hw::REG_CONTROL, hw::CONTROL_ENABLE);
        assert_eq!(
            self.read32(hw::REG_STATUS),
            hw::STATUS_READY | hw::STATUS_ENABLED
        );
    }

    /// Allocates a ring and writes its registers at `block`, unless that is 0.
    pub fn ring(&mut self, log2: u32, bell: usize, block: usize) -> Ring {
        let ring = Ring {
            base: self.alloc(64 << log2, 4096),
            writeback: self.alloc(64, 64),
            log2,
            bell,
            put: 0,
        };
        if block != 0 {
            self.write64(block + hw::RING_BASE, ring.base);
            self.write64(block + hw::RING_WRITEBACK, ring.writeback);
            self.write32(block + hw::RING_LOG2, log2);
        }
        ring
    }

    // Memory.

    /// Allocates system memory.
    pub fn alloc(&self, len: u64, align: u64) -> u64 {
        let addr = self.heap.get().next_multiple_of(align);
        assert!(addr + len <= RAM + RAM_SIZE);
        self.heap.set(addr + len);
        addr
    }

    /// Allocates VRAM within the aperture.
    pub fn vram_alloc(&self, len: u64, align: u64) -> u64 {
        let addr = self.vram_heap.get().next_multiple_of(align);
        assert!(addr + len <= self.vram.len());
        self.vram_heap.set(addr + len);
        addr
    }

    pub fn poke<T: Pod>(&self, addr: u64, value: &T) {
        self.ram
            .run(addr - RAM, RAM_SIZE, true)
            .unwrap()
            .write(value);
    }

    pub fn peek<T: Pod>(&self, addr: u64) -> T {
        self.ram.run(addr - RAM, RAM_SIZE, false).unwrap().read()
    }

    pub fn load(&self, addr: u64) -> u64 {
        self.ram.run(addr - RAM, 8, false).unwrap().load(0)
    }

    pub fn store(&self, addr: u64, value: u64) {
        self.ram.run(addr - RAM, 8, true).unwrap().store(0, value);
    }

    pub fn bytes(&self, system: bool, addr: u64, len: usize) -> Vec<u8> {
        let mut data = vec![0; len];
        let (map, offset) = self.place(system, addr);
        map.run(offset, len as u64, false)
            .unwrap()
            .read_bytes(&mut data);
        data
    }

    pub fn set_bytes(&self, system: bool, addr: u64, data: &[u8]) {
        let (map, offset) = self.place(system, addr);
        map.run(offset, data.len() as u64, true)
            .unwrap()
            .write_bytes(data);
    }

    fn place(&self, system: bool, addr: u64) -> (&Mapping, u64) {
        if system {
            (&self.ram, addr - RAM)
        } else {
            (&self.vram, addr)
        }
    }

    pub fn set_words(&self, system: bool, addr: u64, words: &[u32]) {
        let bytes: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
        self.set_bytes(system, addr, &bytes);
    }

    // Registers and doorbells.

    pub fn read32(&mut self, register: usize) -> u32 {
        let mut data = [0; 4];
        self.client
            .region_read(0, register as u64, &mut data)
            .unwrap();
        u32::from_le_bytes(data)
    }

    pub fn read64(&mut self, register: usize) -> u64 {
        let mut data = [0; 8];
        self.client
            .region_read(0, register as u64, &mut data)
            .unwrap();
        u64::from_le_bytes(data)
    }

    pub fn write32(&mut self, register: usize, value: u32) {
        let data = value.to_le_bytes();
        self.client.region_write(0, register as u64, &data).unwrap();
    }

    pub fn write64(&mut self, register: usize, value: u64) {
        let data = value.to_le_bytes();
        self.client.region_write(0, register as u64, &data).unwrap();
    }

    pub fn bell(&self, offset: usize) -> u64 {
        self.bells.run(offset as u64, 8, false).unwrap().load(0)
    }

    pub fn set_bell(&self, offset: usize, value: u64) {
        self.bells
            .run(offset as u64, 8, true)
            .unwrap()
            .store(0, value);
    }

    /// Rings a doorbell as the reference says: store, full fence, look, kick.
    pub fn doorbell(&mut self, offset: usize, value: u64) {
        self.set_bell(offset, value);
        fence(Ordering::SeqCst);
        if self.bell(hw::DOORBELL_STATE) & hw::DOORBELL_POLLING == 0 {
            self.write32(hw::REG_KICK, 0);
        }
    }

    /// Interrupts of a vector since the last call.
    pub fn interrupts(&mut self, vector: u32) -> u64 {
        use std::io::Read;
        let mut count = [0; 8];
        match self.irqs[vector as usize].read_exact(&mut count) {
            Ok(()) => u64::from_ne_bytes(count),
            Err(_) => 0,
        }
    }

    /// Masks or unmasks a vector. One that is masked has no file.
    pub fn mask(&mut self, vector: u32, masked: bool) {
        let file = [self.irqs[vector as usize].as_raw_fd()];
        let files = if masked { &file[..0] } else { &file };
        self.client
            .set_irqs(MSIX_IRQ, IRQ_EVENTFD, vector, 1, files)
            .unwrap();
    }

    /// The pending bits of MSI-X.
    pub fn pending(&mut self) -> u64 {
        let mut pending = [0; 8];
        self.client
            .region_read(hw::BAR_MSIX, MSIX_PENDING, &mut pending)
            .unwrap();
        u64::from_le_bytes(pending)
    }

    /// Waits for an interrupt.
    pub fn wait_interrupt(&mut self, vector: u32) {
        self.until("an interrupt", |guest| guest.interrupts(vector) > 0);
    }

    /// Waits until something is so.
    pub fn until(&mut self, what: &str, mut so: impl FnMut(&mut Self) -> bool) {
        let end = Instant::now() + PATIENCE;
        while !so(self) {
            assert!(Instant::now() < end, "{what} did not come");
            std::thread::yield_now();
        }
    }

    // Packets.

    /// A new fence: its address and value.
    pub fn fence(&self) -> (u64, u64) {
        self.fence.set(self.fence.get() + 1);
        (self.alloc(32, 32), self.fence.get())
    }

    pub fn wait_fence(&mut self, (addr, value): (u64, u64)) -> hw::Fence {
        self.until("a fence", |guest| guest.load(addr) == value);
        self.peek(addr)
    }

    pub fn write_entry<T: Pod>(&self, ring: &Ring, index: u64, packet: &T) {
        let slot = index & ((1 << ring.log2) - 1);
        self.poke(ring.base + 64 * slot, packet);
    }

    /// GET or PUT of a ring, as the device wrote it.
    pub fn index(&self, ring: &Ring) -> u64 {
        self.load(ring.writeback)
    }

    /// Puts a packet on copy ring `n` and rings.
    pub fn copy(&mut self, n: usize, mut packet: hw::CopyPacket) -> (u64, u64) {
        let fence = self.fence();
        packet.op |= hw::OP_FENCE;
        (packet.fence_addr, packet.fence_value) = fence;
        let ring = self.copies[n];
        self.write_entry(&ring, ring.put, &packet);
        self.copies[n].put += 1;
        self.doorbell(ring.bell, ring.put + 1);
        fence
    }

    /// Puts a packet on the control ring and rings.
    pub fn control_async(&mut self, mut packet: hw::ControlPacket) -> (u64, u64) {
        let fence = self.fence();
        packet.op |= hw::OP_FENCE;
        (packet.fence_addr, packet.fence_value) = fence;
        self.write_entry(&self.ctrl, self.ctrl.put, &packet);
        self.ctrl.put += 1;
        self.doorbell(self.ctrl.bell, self.ctrl.put);
        fence
    }

    /// The same, and waits.
    pub fn control(&mut self, packet: hw::ControlPacket) -> hw::Fence {
        let fence = self.control_async(packet);
        self.wait_fence(fence)
    }

    pub fn invalidate(&mut self, asid: u32, start: u64, last: u64) {
        let fence = self.control(hw::ControlPacket {
            op: hw::OP_INVALIDATE,
            id: asid,
            start,
            last,
            ..Default::default()
        });
        assert_eq!(fence.status, hw::COMPLETE_OK);
    }

    pub fn replay(&mut self) {
        let fence = self.control(hw::ControlPacket {
            op: hw::OP_REPLAY,
            ..Default::default()
        });
        assert_eq!(fence.status, hw::COMPLETE_OK);
    }

    /// Starts queue `id` in an address space.
    pub fn start_queue(&mut self, id: u32, asid: u32) -> Ring {
        let bell = hw::DOORBELL_QUEUE + 8 * id as usize;
        let ring = self.ring(6, bell, 0);
        self.set_queue(id, asid, &ring);
        let fence = self.control(hw::ControlPacket {
            op: hw::OP_QUEUE_START,
            id,
            ..Default::default()
        });
        assert_eq!(fence.status, hw::COMPLETE_OK);
        assert_eq!(self.load(ring.writeback + 16), hw::QUEUE_RUNNING);
        ring
    }

    pub fn set_queue(&self, id: u32, asid: u32, ring: &Ring) {
        self.poke(
            self.queue_table + 32 * u64::from(id),
            &hw::QueueContext {
                base: ring.base,
                writeback: ring.writeback,
                log2: ring.log2,
                asid,
                reserved: 0,
            },
        );
    }

    pub fn stop_queue(&mut self, id: u32) {
        let fence = self.control(hw::ControlPacket {
            op: hw::OP_QUEUE_STOP,
            id,
            ..Default::default()
        });
        assert_eq!(fence.status, hw::COMPLETE_OK);
    }

    /// Puts a packet on the ring of a queue, without a doorbell.
    pub fn put_dispatch(&self, ring: &mut Ring, mut packet: hw::DispatchPacket) -> (u64, u64) {
        let fence = self.fence();
        packet.op |= hw::OP_FENCE | hw::OP_IRQ;
        (packet.fence_addr, packet.fence_value) = fence;
        self.write_entry(ring, ring.put, &packet);
        ring.put += 1;
        fence
    }

    /// The same, and rings.
    pub fn dispatch(&mut self, ring: &mut Ring, packet: hw::DispatchPacket) -> (u64, u64) {
        let fence = self.put_dispatch(ring, packet);
        self.doorbell(ring.bell, ring.put);
        fence
    }

    /// Has copy engine 0 do what takes it long, and store 1 at `mark` after that. Returns the ring as
    /// it was before.
    pub fn long_copies(&mut self, mark: u64) -> Ring {
        let ring = self.copies[0];
        // From what is within the aperture to what is not.
        let copy = hw::CopyPacket {
            op: hw::OP_COPY,
            length: 15 << 20,
            src: 1 << 20,
            dst: 16 << 20,
            ..Default::default()
        };
        let last = hw::CopyPacket {
            op: hw::OP_FILL | hw::OP_DST_SYSTEM,
            length: 8,
            src: 1,
            dst: mark,
            ..Default::default()
        };
        for index in ring.put..ring.put + 62 {
            self.write_entry(&ring, index, &copy);
        }
        self.write_entry(&ring, ring.put + 62, &last);
        self.copies[0].put += 63;
        self.doorbell(ring.bell, ring.put + 63);
        ring
    }

    /// Takes the fault entries that are there.
    pub fn take_faults(&mut self) -> Vec<hw::FaultEntry> {
        let put = self.index(&self.faults);
        let size = 1 << self.faults.log2;
        let entries = (self.fault_get..put)
            .map(|i| self.peek(self.faults.base + 64 * (i & (size - 1))))
            .collect();
        self.fault_get = put;
        self.doorbell(self.faults.bell, put);
        entries
    }

    /// Waits for fault entries and takes them.
    pub fn wait_faults(&mut self) -> Vec<hw::FaultEntry> {
        self.wait_interrupt(hw::VECTOR_FAULT);
        self.take_faults()
    }

    pub fn overflow(&self) -> u64 {
        self.load(self.faults.writeback + 8)
    }

    // Page tables, in VRAM.

    /// Makes an address space and returns its root table.
    pub fn space(&mut self, asid: u32) -> u64 {
        let root = self.vram_alloc(4096, 4096);
        self.set_space(asid, root | hw::ENTRY_VALID);
        root
    }

    pub fn set_space(&self, asid: u32, root: u64) {
        self.set_space_entry(asid, &hw::AddressSpace { root, reserved: 0 });
    }

    pub fn set_space_entry(&self, asid: u32, entry: &hw::AddressSpace) {
        self.poke(self.as_table + 16 * u64::from(asid), entry);
    }

    /// Maps the page of `1 << shift` bytes at `va`; `flags` are those of the leaf.
    pub fn map(&self, root: u64, va: u64, addr: u64, shift: u32, flags: u64) {
        let leaf = addr | flags | hw::ENTRY_VALID | hw::ENTRY_LEAF;
        match shift {
            12 => self.set_entry(root, va, 0, leaf),
            16 => {
                for i in 0..16 << 12 {
                    if i % 4096 == 0 {
                        self.set_entry(root, va + i, 0, (leaf + i) | hw::ENTRY_64K);
                    }
                }
            }
            21 => self.set_entry(root, va, 1, leaf),
            _ => panic!("no such leaf"),
        }
    }

    /// Writes the entry of `va` at a level, with the tables above it.
    pub fn set_entry(&self, root: u64, va: u64, level: u32, entry: u64) {
        let mut table = root;
        for above in (level + 1..hw::LEVELS as u32).rev() {
            let at = self
                .vram
                .run(table + 8 * index(va, above), 8, true)
                .unwrap();
            if at.load(0) & hw::ENTRY_VALID == 0 {
                at.store(0, self.vram_alloc(4096, 4096) | hw::ENTRY_VALID);
            }
            table = at.load(0) & hw::ENTRY_ADDR;
        }
        let at = table + 8 * index(va, level);
        self.vram.run(at, 8, true).unwrap().store(0, entry);
    }

    /// Maps a program and returns its entry.
    pub fn program_at(&self, root: u64, va: u64, words: &[u32]) -> u64 {
        let code = self.alloc(4096, 4096);
        self.set_words(true, code, words);
        self.map(root, va, code, 12, hw::ENTRY_SYSTEM);
        va
    }
}

fn index(va: u64, level: u32) -> u64 {
    va >> (12 + 9 * level) & 511
}

/// The device as a program of its own, which is killed where the test ends before it.
pub struct Program {
    pub child: Child,
    pub socket: PathBuf,
    _directory: TempDir,
}

impl Program {
    /// Starts one with little memory, and waits until it listens.
    pub fn start(arguments: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("vgpu");
        let child = Command::new(env!("CARGO_BIN_EXE_tern-vgpu"))
            .args(["--vram", "32M", "--aperture", "16M", "--socket"])
            .arg(&socket)
            .args(arguments)
            .spawn()
            .unwrap();
        let program = Self {
            child,
            socket,
            _directory: directory,
        };
        let end = Instant::now() + PATIENCE;
        while !program.listens() {
            assert!(Instant::now() < end, "the program made no socket");
            std::thread::yield_now();
        }
        program
    }

    /// The socket is there a little before anybody can connect to it.
    fn listens(&self) -> bool {
        const ACCEPTS: &str = "00010000";
        let sockets = std::fs::read_to_string("/proc/net/unix").unwrap();

        sockets.lines().any(|line| {
            let mut words = line.split_ascii_whitespace();
            words.nth(3) == Some(ACCEPTS) && words.nth(3) == self.socket.to_str()
        })
    }

    /// A guest of it, whose device is enabled.
    pub fn guest(&self) -> Guest {
        let mut guest = Guest::connect(Client::new(&self.socket).unwrap());
        guest.program();
        guest.enable();
        guest
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = self.client.shutdown();
        if let Some(server) = self.server.take() {
            let served = server.join();
            assert!(served.is_ok() || std::thread::panicking());
        }
    }
}
