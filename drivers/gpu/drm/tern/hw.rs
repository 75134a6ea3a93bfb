// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Layout of the Tern device: registers, doorbells, rings, packets and page tables.
//!
//! This file is the one source of truth. The driver and the virtual GPU compile the very same
//! text, and a test compares it with the tables of `Documentation/gpu/tern-hw.rst`, where the
//! meaning of each item is described. Everything is little-endian.
//!
//! It depends on nothing but `core`, so that it builds in the kernel and outside of it.

/// PCI vendor and device: from the block that its owner set aside for experiments.
pub const PCI_VENDOR: u16 = 0x1af4;
/// PCI device ID.
pub const PCI_DEVICE: u16 = 0x10f5;
/// Revision of the interface described here, as read from [`REG_VERSION`]: major in the upper
/// 16 bits, minor in the lower. A driver refuses another major.
pub const VERSION: u32 = 0x0001_0000;
/// Value of [`REG_ID`]: "TERN" in ASCII.
pub const ID: u32 = 0x4e52_4554;

/// BAR of the registers and doorbells.
pub const BAR_REGS: u32 = 0;
/// BAR of the VRAM aperture.
pub const BAR_VRAM: u32 = 2;
/// BAR of the MSI-X table.
pub const BAR_MSIX: u32 = 4;
/// Size of [`BAR_REGS`] in bytes.
pub const REGS_SIZE: usize = 0x1_0000;

/// MSI-X vector: error, see [`REG_ERROR`].
pub const VECTOR_ERROR: u32 = 0;
/// MSI-X vector: new entries in the fault ring.
pub const VECTOR_FAULT: u32 = 1;
/// MSI-X vector: a copy descriptor with [`OP_IRQ`] completed.
pub const VECTOR_COPY: u32 = 2;
/// MSI-X vector: a dispatch or control packet with [`OP_IRQ`] completed.
pub const VECTOR_COMPUTE: u32 = 3;
/// MSI-X vector: new entries in the access-counter ring.
pub const VECTOR_ACCESS: u32 = 4;
/// Number of MSI-X vectors.
pub const VECTORS: u32 = 5;

// Registers, offsets into BAR 0. Width 4 unless said otherwise.

/// RO. [`ID`].
pub const REG_ID: usize = 0x0000;
/// RO. [`VERSION`].
pub const REG_VERSION: usize = 0x0004;
/// RO. Number of copy engines, 1 to [`MAX_COPY_ENGINES`].
pub const REG_COPY_ENGINES: usize = 0x0008;
/// RO. Largest number of threads of one dispatch that are resident at a time.
pub const REG_RESIDENT_THREADS: usize = 0x000c;
/// RO, 8 bytes. Bytes of VRAM.
pub const REG_VRAM_SIZE: usize = 0x0010;
/// RO, 8 bytes. Bytes of VRAM that BAR 2 reaches, from VRAM offset 0.
pub const REG_APERTURE_SIZE: usize = 0x0018;
/// RW. `CONTROL_*`.
pub const REG_CONTROL: usize = 0x0020;
/// RO. `STATUS_*`.
pub const REG_STATUS: usize = 0x0024;
/// RO, 8 bytes. Free-running nanoseconds.
pub const REG_TIMESTAMP: usize = 0x0028;
/// WO. Any write wakes the device, which then looks at every doorbell.
pub const REG_KICK: usize = 0x0030;
/// RW1C. `ERROR_*`, one bit each; raises [`VECTOR_ERROR`] when a bit becomes set.
pub const REG_ERROR: usize = 0x0038;
/// RO, 8 bytes. Detail of the error that was set last, by its bit.
pub const REG_ERROR_INFO: usize = 0x0040;
/// RW, 8 bytes. System address of the table of address spaces ([`AddressSpace`]).
pub const REG_AS_BASE: usize = 0x0050;
/// RW. log2 of the entries of that table, 0 to [`MAX_AS_LOG2`].
pub const REG_AS_LOG2: usize = 0x0058;
/// RW, 8 bytes. System address of the table of compute queues ([`QueueContext`]).
pub const REG_QUEUE_BASE: usize = 0x0060;
/// RW. log2 of the entries of that table, 0 to [`MAX_QUEUE_LOG2`].
pub const REG_QUEUE_LOG2: usize = 0x0068;
/// Control ring, a block of `RING_*` registers.
pub const REG_CTRL_RING: usize = 0x0080;
/// Fault ring, a block of `RING_*` registers.
pub const REG_FAULT_RING: usize = 0x00a0;
/// Access-counter ring, a block of `RING_*` registers.
pub const REG_ACCESS_RING: usize = 0x00c0;
/// RW. Access counters: log2 of the bytes that one counter covers: 0 (off), 16 or 21.
pub const REG_ACCESS_SHIFT: usize = 0x00e0;
/// RW. Access counters: accesses after which an entry is written, at least 1.
pub const REG_ACCESS_THRESHOLD: usize = 0x00e4;
/// Ring of copy engine `n`, a block of `RING_*` registers at `REG_COPY_RING + n * RING_STRIDE`.
pub const REG_COPY_RING: usize = 0x0100;

/// Distance between two blocks of ring registers.
pub const RING_STRIDE: usize = 0x20;
/// RW, 8 bytes. System address of the ring's entries, aligned to 4 KiB.
pub const RING_BASE: usize = 0x00;
/// RW, 8 bytes. System address of the ring's write-back block ([`Writeback`]), aligned to 64.
pub const RING_WRITEBACK: usize = 0x08;
/// RW. log2 of the number of entries, 0 (ring off) to [`MAX_RING_LOG2`].
pub const RING_LOG2: usize = 0x10;

/// [`REG_CONTROL`]: the engines run. The ring registers must not be written while it is set.
pub const CONTROL_ENABLE: u32 = 1 << 0;
/// [`REG_CONTROL`]: start a reset. Reads as 0.
pub const CONTROL_RESET: u32 = 1 << 1;
/// [`REG_STATUS`]: the device is out of reset.
pub const STATUS_READY: u32 = 1 << 0;
/// [`REG_STATUS`]: the engines run.
pub const STATUS_ENABLED: u32 = 1 << 1;

/// [`REG_ERROR`]: a ring's PUT is more than its size ahead of GET; info: doorbell offset.
pub const ERROR_RING: u32 = 1 << 0;
/// [`REG_ERROR`]: a ring, table or write-back block is outside system memory; info: address.
pub const ERROR_DMA: u32 = 1 << 1;
/// [`REG_ERROR`]: malformed page table; info: the virtual address walked.
pub const ERROR_PAGE_TABLE: u32 = 1 << 2;
/// [`REG_ERROR`]: a packet that makes no sense; info: doorbell offset.
pub const ERROR_PACKET: u32 = 1 << 3;
/// [`REG_ERROR`]: a register was written a value that it does not take; info: register offset.
pub const ERROR_REGISTER: u32 = 1 << 4;

/// Most copy engines.
pub const MAX_COPY_ENGINES: u32 = 8;
/// Largest [`REG_AS_LOG2`].
pub const MAX_AS_LOG2: u32 = 16;
/// Largest [`REG_QUEUE_LOG2`].
pub const MAX_QUEUE_LOG2: u32 = 11;
/// Largest [`RING_LOG2`].
pub const MAX_RING_LOG2: u32 = 16;

// Doorbells: 8-byte slots in the memory-mapped half of BAR 0.

/// First byte of the memory-mapped half.
pub const DOORBELL_BASE: usize = 0x8000;
/// Written by the device: `DOORBELL_POLLING` while a KICK is not needed.
pub const DOORBELL_STATE: usize = 0x8000;
/// [`DOORBELL_STATE`]: the device looks at the doorbells by itself.
pub const DOORBELL_POLLING: u64 = 1 << 0;
/// PUT of the control ring.
pub const DOORBELL_CTRL: usize = 0x8040;
/// GET of the fault ring.
pub const DOORBELL_FAULT: usize = 0x8080;
/// GET of the access-counter ring.
pub const DOORBELL_ACCESS: usize = 0x80c0;
/// PUT of copy ring `n`, at `DOORBELL_COPY + 8 * n`.
pub const DOORBELL_COPY: usize = 0x8100;
/// PUT of compute queue `n`, at `DOORBELL_QUEUE + 8 * n`.
pub const DOORBELL_QUEUE: usize = 0x9000;

/// Written by the device for each ring. 64 bytes, so that no two share a cache line.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct Writeback {
    /// Ring read by the device: entries taken (GET). Ring written by it: entries written (PUT).
    pub index: u64,
    /// Ring written by the device: entries that did not fit. For a fault ring nothing is lost,
    /// the threads fault again after the next replay.
    pub overflow: u64,
    /// Compute queue: `QUEUE_*` state.
    pub state: u64,
    /// Zero.
    pub reserved: [u64; 5],
}

/// Written by the device when a packet with [`OP_FENCE`] completes; `value` is written last.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct Fence {
    /// The packet's fence value.
    pub value: u64,
    /// First error among the packets of this ring since its last fence, `COMPLETE_*`.
    pub status: u32,
    /// Access that failed, `ACCESS_*`, where `status` is about an address.
    pub access: u32,
    /// Address or instruction that failed; 0 where `status` is 0.
    pub info: u64,
    /// Dispatch: instructions that its threads retired. Copy: bytes. Else 0.
    pub count: u64,
}

/// [`Fence::status`]: all went well.
pub const COMPLETE_OK: u32 = 0;
/// Memory of a copy, or of the queue to start, that cannot be reached; info: its address. A fence
/// that cannot be written sets [`ERROR_DMA`].
pub const COMPLETE_BAD_ADDRESS: u32 = 1;
/// Unknown operation, unknown flag, or a value out of range.
pub const COMPLETE_BAD_PACKET: u32 = 2;
/// The dispatch was cancelled because of an unserved fault.
pub const COMPLETE_FAULT: u32 = 3;
/// Illegal instruction; info: its virtual address.
pub const COMPLETE_ILLEGAL: u32 = 4;
/// Misaligned atomic; info: its virtual address.
pub const COMPLETE_MISALIGNED: u32 = 5;
/// The dispatch ran longer than its watchdog allows.
pub const COMPLETE_TIMEOUT: u32 = 6;
/// The queue was stopped.
pub const COMPLETE_STOPPED: u32 = 7;
/// Malformed page table.
pub const COMPLETE_PAGE_TABLE: u32 = 8;

// Packets: 64 bytes each, on every ring that the device reads.

/// Bits of a packet's first word that hold the operation.
pub const OP_MASK: u32 = 0xff;
/// Write [`Fence`] to the packet's fence address when it and all before it are done.
pub const OP_FENCE: u32 = 1 << 8;
/// Raise the ring's vector after that.
pub const OP_IRQ: u32 = 1 << 9;
/// Copy: the source is a system address, else a VRAM offset.
pub const OP_SRC_SYSTEM: u32 = 1 << 10;
/// Copy, fill: the destination is a system address, else a VRAM offset.
pub const OP_DST_SYSTEM: u32 = 1 << 11;

/// Every ring: nothing but the fence.
pub const OP_NOP: u32 = 0;

/// Copy ring: copy `length` bytes from `src` to `dst`.
pub const OP_COPY: u32 = 1;
/// Copy ring: fill `length` bytes at `dst` with the 8-byte pattern in `src`.
pub const OP_FILL: u32 = 2;

/// Largest [`CopyPacket::length`].
pub const MAX_COPY: u32 = 1 << 30;

/// Copy ring entry.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct CopyPacket {
    /// `OP_*`.
    pub op: u32,
    /// Bytes, 1 to [`MAX_COPY`].
    pub length: u32,
    /// Source address, or pattern of a fill.
    pub src: u64,
    /// Destination address.
    pub dst: u64,
    /// Zero.
    pub reserved: [u64; 3],
    /// System address of a [`Fence`], aligned to 32.
    pub fence_addr: u64,
    /// Value of the fence.
    pub fence_value: u64,
}

/// Control ring: drop translations of address space `id` in `start..=last`, and wait until no
/// engine uses them any more. Accesses that began before are complete at the fence.
pub const OP_INVALIDATE: u32 = 1;
/// Control ring: threads that wait for a fault try again.
pub const OP_REPLAY: u32 = 2;
/// Control ring: end the dispatch `last` (its packet's index in the ring) of queue `id` with
/// [`COMPLETE_FAULT`], info `start` and access `arg`. No effect if it is over already, or if none
/// of its threads has faulted on that page in that way since the last replay.
pub const OP_CANCEL: u32 = 3;
/// Control ring: read the context of queue `id` and start it.
pub const OP_QUEUE_START: u32 = 4;
/// Control ring: end what queue `id` runs with [`COMPLETE_STOPPED`] and forget the queue. The
/// fence follows when no thread of it is left.
pub const OP_QUEUE_STOP: u32 = 5;

/// Control ring entry.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct ControlPacket {
    /// `OP_*`.
    pub op: u32,
    /// Address space or queue.
    pub id: u32,
    /// First address; cancel: the address to report.
    pub start: u64,
    /// Last address, inclusive; cancel: index of the dispatch.
    pub last: u64,
    /// Cancel: `ACCESS_*`.
    pub arg: u32,
    /// Zero.
    pub reserved0: u32,
    /// Zero.
    pub reserved: [u64; 2],
    /// System address of a [`Fence`], aligned to 32.
    pub fence_addr: u64,
    /// Value of the fence.
    pub fence_value: u64,
}

/// Compute queue: run `threads` threads from `entry`.
pub const OP_DISPATCH: u32 = 1;

/// Compute queue entry.
///
/// A thread starts at `entry` with a0 = `args`, a1 = its index (0 to `threads` - 1), a2 =
/// `threads`, sp = `stack` + `stack_size` * (its resident slot + 1), ra = 0 and all other
/// registers 0. It ends when it jumps to address 0, or by `ecall`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct DispatchPacket {
    /// `OP_*`.
    pub op: u32,
    /// Bytes of stack of each resident thread, a multiple of 16.
    pub stack_size: u32,
    /// Virtual address of the first instruction; bit 0 is taken as 0.
    pub entry: u64,
    /// Value of a0.
    pub args: u64,
    /// Number of threads, at least 1.
    pub threads: u64,
    /// Virtual address of the stacks: [`REG_RESIDENT_THREADS`] * `stack_size` bytes.
    pub stack: u64,
    /// Milliseconds of execution, waits for faults not counted, after which the dispatch ends
    /// with [`COMPLETE_TIMEOUT`]. 0: no limit.
    pub watchdog_ms: u32,
    /// Zero.
    pub reserved: u32,
    /// System address of a [`Fence`], aligned to 32.
    pub fence_addr: u64,
    /// Value of the fence.
    pub fence_value: u64,
}

/// Entry of the table of compute queues.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct QueueContext {
    /// System address of the ring's entries, aligned to 4 KiB.
    pub base: u64,
    /// System address of the ring's [`Writeback`], aligned to 64.
    pub writeback: u64,
    /// log2 of the number of entries, 1 to [`MAX_RING_LOG2`].
    pub log2: u32,
    /// Address space of its dispatches.
    pub asid: u32,
    /// Zero.
    pub reserved: u64,
}

/// [`Writeback::state`]: not started.
pub const QUEUE_OFF: u64 = 0;
/// [`Writeback::state`]: takes packets.
pub const QUEUE_RUNNING: u64 = 1;
/// [`Writeback::state`]: stopped by an error in the ring itself.
pub const QUEUE_HALTED: u64 = 2;

/// Entry of the table of address spaces.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct AddressSpace {
    /// Address of the root table (aligned to 4 KiB), with [`ENTRY_VALID`] and
    /// [`ENTRY_SYSTEM`]. The device caches it until an invalidation of the address space.
    pub root: u64,
    /// Zero.
    pub reserved: u64,
}

// Page tables: four levels of 512 entries of 8 bytes, 48 bits of virtual address.

/// Bits of virtual address.
pub const VA_BITS: u32 = 48;
/// Levels; level 3 is the root, level 0 holds 4 KiB leaves.
pub const LEVELS: usize = 4;
/// The entry is in use.
pub const ENTRY_VALID: u64 = 1 << 0;
/// Leaf: stores are allowed.
pub const ENTRY_WRITE: u64 = 1 << 1;
/// Leaf: atomics are allowed (with [`ENTRY_WRITE`]).
pub const ENTRY_ATOMIC: u64 = 1 << 2;
/// The address is a system address, else a VRAM offset.
pub const ENTRY_SYSTEM: u64 = 1 << 3;
/// Level 1: a 2 MiB leaf, aligned. Level 0: always set. Levels 2 and 3: never set.
pub const ENTRY_LEAF: u64 = 1 << 4;
/// Level 0: this is one of 16 consecutive entries, the first of them at an index divisible by
/// 16, that map an aligned block of 64 KiB with equal flags. The device may keep one translation
/// for all of them.
pub const ENTRY_64K: u64 = 1 << 5;
/// Bits of a system address.
pub const ADDRESS_BITS: u32 = 52;
/// Address bits of an entry.
pub const ENTRY_ADDR: u64 = 0x000f_ffff_ffff_f000;

/// Fault ring entry.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct FaultEntry {
    /// Faulting virtual address, as the thread had it.
    pub addr: u64,
    /// Address space.
    pub asid: u32,
    /// `ACCESS_*`.
    pub access: u32,
    /// Compute queue.
    pub queue: u32,
    /// Why: `FAULT_*`.
    pub reason: u32,
    /// Index of the dispatch's packet in the queue's ring, for [`OP_CANCEL`].
    pub dispatch: u64,
    /// [`REG_TIMESTAMP`] when it happened.
    pub timestamp: u64,
    /// Threads of the wave that met it, one bit each.
    pub lanes: u64,
    /// Zero.
    pub reserved: [u64; 2],
}

/// Load, load-reserved.
pub const ACCESS_READ: u32 = 0;
/// Store.
pub const ACCESS_WRITE: u32 = 1;
/// Atomic read-modify-write, store-conditional.
pub const ACCESS_ATOMIC: u32 = 2;
/// Instruction fetch.
pub const ACCESS_FETCH: u32 = 3;

/// [`FaultEntry::reason`]: no valid entry.
pub const FAULT_ABSENT: u32 = 0;
/// [`FaultEntry::reason`]: an entry without the right.
pub const FAULT_PERMISSION: u32 = 1;
/// [`FaultEntry::reason`]: an address that the tables cannot hold.
pub const FAULT_RANGE: u32 = 2;

/// Access-counter ring entry.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct AccessEntry {
    /// First virtual address of the region.
    pub addr: u64,
    /// Address space.
    pub asid: u32,
    /// Accesses since the last entry for this region.
    pub count: u32,
    /// Zero.
    pub reserved: [u64; 2],
}

const _: () = {
    use core::mem::size_of;
    assert!(size_of::<Writeback>() == 64);
    assert!(size_of::<Fence>() == 32);
    assert!(size_of::<CopyPacket>() == 64);
    assert!(size_of::<ControlPacket>() == 64);
    assert!(size_of::<DispatchPacket>() == 64);
    assert!(size_of::<QueueContext>() == 32);
    assert!(size_of::<AddressSpace>() == 16);
    assert!(size_of::<FaultEntry>() == 64);
    assert!(size_of::<AccessEntry>() == 32);
    assert!(DOORBELL_QUEUE + (8 << MAX_QUEUE_LOG2) <= REGS_SIZE);
};
