// SPDX-License-Identifier: MIT OR Apache-2.0

//! Accesses of any size at any offset of all regions, the configuration space among them; between
//! them vectors are masked, unmasked and raised, and the device is reset.

#![no_main]

use std::fs::File;
use std::ops::Range;

use libfuzzer_sys::fuzz_target;
use tern_vgpu::hw;
use tern_vgpu::mem::memfd;
use tern_vgpu::server::Backend;
use tern_vgpu_fuzz::{fuzz, Input, Machine, APERTURE, RAM};
use vfio_user::ServerBackend;

const CONFIG: u32 = 7;
const MSIX_IRQ: u32 = 2;
const IRQ_TRIGGER: u32 = 1 << 5;
const VECTORS: usize = hw::VECTORS as usize;
const BELLS: u64 = hw::DOORBELL_BASE as u64;
/// Where in its BAR the pending bits of MSI-X are.
const PENDING: u64 = 0x800;

/// Bits of the configuration space that can be written: Command, Interrupt Line, Device Control and
/// Message Control.
const WRITABLE: [(usize, u8); 6] = [
    (0x04, 0x46),
    (0x05, 0x05),
    (0x3c, 0xff),
    (0x48, 0xff),
    (FLR, 0x7f),
    (0x83, 0xc0),
];
const MASTER: (usize, u8) = (0x04, 1 << 2);
/// Of which the upmost bit starts a reset.
const FLR: usize = 0x49;

/// Registers that must stay as they are when one refuses a write.
const REGISTERS: [usize; 14] = [
    hw::REG_CONTROL,
    hw::REG_STATUS,
    hw::REG_AS_BASE,
    hw::REG_AS_LOG2,
    hw::REG_QUEUE_BASE,
    hw::REG_QUEUE_LOG2,
    hw::REG_ACCESS_SHIFT,
    hw::REG_ACCESS_THRESHOLD,
    hw::REG_CTRL_RING + hw::RING_BASE,
    hw::REG_CTRL_RING + hw::RING_LOG2,
    hw::REG_FAULT_RING + hw::RING_BASE,
    hw::REG_ACCESS_RING + hw::RING_WRITEBACK,
    hw::REG_COPY_RING + hw::RING_BASE,
    hw::REG_COPY_RING + hw::RING_STRIDE + hw::RING_WRITEBACK,
];

fn size(region: u32) -> u64 {
    match region {
        hw::BAR_REGS => hw::REGS_SIZE as u64,
        hw::BAR_VRAM => APERTURE,
        hw::BAR_MSIX | CONFIG => 4096,
        _ => 0,
    }
}

/// An access.
struct Access {
    region: u32,
    offset: u64,
    len: usize,
}

impl Access {
    fn any(input: &mut Input<'_>) -> Self {
        const EDGES: [u64; 8] = [0, 0x04, 0x3c, 0x48, 0x80, PENDING, 0x1000, BELLS];
        let region = match input.byte() {
            byte @ 0..240 => [hw::BAR_REGS, hw::BAR_VRAM, hw::BAR_MSIX, CONFIG][byte as usize % 4],
            _ => input.int(),
        };
        let offset = match input.byte() % 8 {
            0 => input.word(),
            1 | 2 => input.short().into(),
            3 => size(region).wrapping_sub(input.byte().into()),
            _ => {
                let byte = input.byte();
                (EDGES[usize::from(byte % 8)] + u64::from(byte >> 4)).wrapping_sub(8)
            }
        };
        let len = match input.byte() {
            byte @ 0..160 => 1 << (byte % 4),
            byte @ 160..250 => usize::from(byte - 160),
            _ => usize::from(input.short() % 9000),
        };
        Self {
            region,
            offset,
            len,
        }
    }

    /// The one that allows and forbids interrupts and DMA.
    fn command() -> Self {
        Self {
            region: CONFIG,
            offset: MASTER.0 as u64,
            len: 2,
        }
    }

    /// Whether it is one of bytes that are all there.
    fn is_valid(&self) -> bool {
        let end = self.offset.checked_add(self.len as u64);
        self.len > 0 && end.is_some_and(|end| end <= size(self.region))
    }

    fn bytes(&self) -> Range<usize> {
        self.offset as usize..self.offset as usize + self.len
    }

    /// Whether it is valid, and wholly of memory.
    fn is_memory(&self) -> bool {
        let starts = match self.region {
            hw::BAR_REGS => self.offset >= BELLS,
            region => region == hw::BAR_VRAM,
        };
        starts && self.is_valid()
    }

    /// Whether a register may take it.
    fn is_aligned(&self) -> bool {
        matches!(self.len, 4 | 8) && self.offset % self.len as u64 == 0
    }
}

/// The device, and what it must be like.
struct Guest<'a> {
    machine: &'a Machine,
    backend: Backend,
    /// The configuration space, after a reset and now.
    initial: Vec<u8>,
    config: Vec<u8>,
    /// Files of the vectors, to which each interrupt adds 8 bytes; which of them are unmasked.
    files: [File; VECTORS],
    unmasked: [bool; VECTORS],
    interrupts: [u64; VECTORS],
    pending: u64,
}

impl<'a> Guest<'a> {
    fn new(machine: &'a Machine) -> Self {
        let mut backend = Backend::new(machine.device());
        backend.reset().unwrap();
        let mut initial = vec![0; size(CONFIG) as usize];
        backend.region_read(CONFIG, 0, &mut initial).unwrap();
        Self {
            machine,
            backend,
            config: initial.clone(),
            initial,
            files: std::array::from_fn(|_| memfd(c"vector", 0).unwrap()),
            unmasked: [false; VECTORS],
            interrupts: [0; VECTORS],
            pending: 0,
        }
    }

    fn is_master(&self) -> bool {
        self.config[MASTER.0] & MASTER.1 != 0
    }

    /// What is pending becomes an interrupt where that is possible.
    fn deliver(&mut self) {
        if !self.is_master() {
            return;
        }
        for vector in 0..VECTORS {
            if self.unmasked[vector] && self.pending >> vector & 1 != 0 {
                self.interrupts[vector] += 1;
                self.pending &= !(1 << vector);
            }
        }
    }

    fn raise(&mut self, vector: u32) {
        self.machine.device().core.irqs.raise(vector);
        if vector < hw::VECTORS && self.is_master() {
            self.pending |= 1 << vector;
            self.deliver();
        }
    }

    fn set_irqs(&mut self, input: &mut Input<'_>) {
        let (index, flags) = match input.byte() {
            0 => (input.byte().into(), input.int()),
            _ => (MSIX_IRQ, IRQ_TRIGGER),
        };
        let (start, count) = match input.byte() {
            0 => (input.int(), input.int()),
            byte => (u32::from(byte % 8), u32::from(byte >> 4)),
        };
        let files = usize::from(input.byte()) % (VECTORS + 1);
        let mut fds = self.files.iter().skip(start as usize).take(files);
        let fds: Vec<File> = fds.by_ref().map(|f| f.try_clone().unwrap()).collect();
        let files = fds.len();
        let result = self.backend.set_irqs(index, flags, start, count, fds);
        if index != MSIX_IRQ || flags & IRQ_TRIGGER == 0 {
            return result.unwrap();
        }
        let end = start.checked_add(count).filter(|end| *end <= hw::VECTORS);
        assert_eq!(result.is_ok(), count == 0 || end.is_some());
        if count == 0 {
            self.unmasked = [false; VECTORS];
            self.pending = 0;
        } else if let Some(end) = end {
            for (i, vector) in (start as usize..end as usize).enumerate() {
                self.unmasked[vector] = i < files;
            }
            self.deliver();
        }
    }

    /// What a reset makes of it, whichever one.
    fn was_reset(&mut self) {
        self.config.clone_from(&self.initial);
        self.pending = 0;
    }

    /// The memory of a region about an access: where it starts, and what is in it.
    fn memory(&self, access: &Access) -> (u64, Vec<u8>) {
        const MARGIN: u64 = 16;
        let core = &self.machine.device().core;
        let (first, last) = match access.region {
            hw::BAR_REGS => (BELLS, hw::REGS_SIZE as u64),
            _ => (0, core.options.vram),
        };
        let end = access.offset.saturating_add(access.len as u64 + MARGIN);
        let start = access.offset.saturating_sub(MARGIN).clamp(first, last - 1);
        let mut bytes = vec![0; (end.clamp(start + 1, last) - start) as usize];
        let dma = core.bus.dma();
        let run = match access.region {
            hw::BAR_REGS => core.bells.run(start, bytes.len() as u64),
            _ => dma.vram(start, bytes.len() as u64),
        };
        run.unwrap().read_bytes(&mut bytes);
        (start, bytes)
    }

    fn registers(&self) -> [u64; REGISTERS.len()] {
        REGISTERS.map(|register| {
            let device = self.machine.device();
            device.read(register, 4) | device.read(register, 8)
        })
    }

    fn read(&mut self, access: &Access) {
        let mut data = vec![0xa5; access.len];
        let result = self
            .backend
            .region_read(access.region, access.offset, &mut data);
        assert_eq!(result.is_ok(), access.is_valid());
        if !access.is_valid() {
            return;
        }
        match access.region {
            CONFIG => assert_eq!(data, self.config[access.bytes()]),
            hw::BAR_MSIX => {
                let mut all = [0; 4096];
                all[PENDING as usize..][..8].copy_from_slice(&self.pending.to_le_bytes());
                assert_eq!(data, all[access.bytes()]);
            }
            _ if access.is_memory() => {
                let (start, memory) = self.memory(access);
                let at = (access.offset - start) as usize;
                assert_eq!(data, memory[at..at + access.len]);
            }
            _ if access.is_aligned() => {}
            _ => assert!(data.iter().all(|byte| *byte == 0)),
        }
    }

    fn write(&mut self, access: &Access, word: u64) {
        let data: Vec<u8> = (0..access.len)
            .map(|i| word.to_le_bytes()[i % 8] ^ (i / 8) as u8)
            .collect();
        let (start, mut memory) = self.memory(access);
        let registers = self.registers();
        let result = self
            .backend
            .region_write(access.region, access.offset, &data);
        assert_eq!(result.is_ok(), access.is_valid());

        let device = self.machine.device();
        let is_register = access.is_valid() && access.region == hw::BAR_REGS && !access.is_memory();
        if is_register && access.is_aligned() {
            // It may have any effect that a register has.
            return self.adopt();
        }
        if is_register {
            assert_ne!(device.read(hw::REG_ERROR, 4) as u32 & hw::ERROR_REGISTER, 0);
            assert_eq!(device.read(hw::REG_ERROR_INFO, 8), access.offset);
            self.adopt();
        }
        if access.is_memory() {
            let at = (access.offset - start) as usize;
            memory[at..at + access.len].copy_from_slice(&data);
        }
        if access.region == CONFIG && access.is_valid() {
            let written = &data;
            let byte = |at: usize| {
                at.checked_sub(access.bytes().start)
                    .and_then(|i| written.get(i))
            };
            for (at, mask) in WRITABLE {
                if let Some(new) = byte(at) {
                    self.config[at] = self.config[at] & !mask | new & mask;
                }
            }
            if byte(FLR).is_some_and(|new| new >> 7 != 0) {
                self.was_reset();
                // The registers and doorbells, too.
                return;
            }
            self.deliver();
        }
        assert_eq!(self.memory(access).1, memory);
        assert_eq!(self.registers(), registers);
    }

    /// Takes over the interrupts that came of a write to a register, as far as they are possible.
    fn adopt(&mut self) {
        let pending = self.machine.device().core.irqs.pending();
        assert_eq!(pending & self.pending, self.pending);
        for vector in 0..VECTORS {
            let count = self.files[vector].metadata().unwrap().len() / 8;
            let (is_new, is_pending) = (
                count != self.interrupts[vector],
                (pending ^ self.pending) >> vector & 1 != 0,
            );
            assert!(self.is_master() || !is_new && !is_pending);
            assert!(self.unmasked[vector] || !is_new);
            assert!(!self.unmasked[vector] || !is_pending);
            self.interrupts[vector] = count;
        }
        self.pending = pending;
    }

    /// Compares what the guest would see with what it must be.
    fn check(&mut self) {
        let mut config = vec![0; self.config.len()];
        self.backend.region_read(CONFIG, 0, &mut config).unwrap();
        assert_eq!(config, self.config);
        let core = &self.machine.device().core;
        let reaches = core.bus.dma().system(RAM, 1, false).is_some();
        assert_eq!(reaches, self.is_master());
        assert_eq!(core.irqs.pending(), self.pending);
        let counts = |file: &File| file.metadata().unwrap().len() / 8;
        assert_eq!(self.files.each_ref().map(counts), self.interrupts);
    }
}

fuzz_target!(|data: &[u8]| fuzz(data, |machine, input| {
    let mut guest = Guest::new(machine);
    while input.has_more() {
        match input.byte() % 16 {
            0..=3 => guest.read(&Access::any(input)),
            4..=9 => guest.write(&Access::any(input), input.word()),
            10 => guest.write(&Access::command(), input.byte().into()),
            11 | 12 => guest.set_irqs(input),
            13 | 14 => guest.raise(u32::from(input.byte() % 8)),
            _ => {
                guest.backend.reset().unwrap();
                guest.was_reset();
            }
        }
        guest.check();
    }
}));
