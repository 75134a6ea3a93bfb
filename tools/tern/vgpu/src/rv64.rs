// SPDX-License-Identifier: MIT OR Apache-2.0

//! The compute core: RV64GC threads that run in waves.
//!
//! A [`Wave`] holds up to [`LANES`] threads. Each has its own registers, program counter and floating-point status,
//! as a RISC-V hart has; lanes that stand at the same address are issued together, and of several groups the one with
//! the lowest program counter goes first, so that the sides of a branch meet again behind it. Code for the core is
//! what a stock compiler makes for `-march=rv64gc -mabi=lp64d`.
//!
//! Every fetch, load, store and atomic goes through [`Memory::translate`]. A lane whose access misses is *parked*:
//! its registers and its program counter are as before the instruction, and [`Wave::replay`] lets it try again.
//! Nothing has to be rolled back, as no lane touches memory before all of its access is translated.
//!
//! A thread ends with `ecall` or by a jump to address 0, which is where its first return address points.
//! `ebreak` and what the core does not know are illegal instructions and end the whole wave.

mod atomic;
mod compressed;
mod decode;
mod fast;
mod fetch;
mod float;
mod int;
mod memory;
mod regs;
mod soft;
mod wave;

pub use fetch::ICache;
pub use wave::Wave;

/// Threads in one wave.
pub const LANES: usize = 32;

/// What an access does to memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// A load, and the load of a load-reserved/store-conditional pair.
    Read,
    /// A store.
    Write,
    /// A read-modify-write, and the store of a load-reserved/store-conditional pair.
    Atomic,
    /// An instruction fetch.
    Fetch,
}

/// Why an address has no translation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Miss {
    /// Nothing is mapped there, or not for this access: the driver can repair it, the lanes wait for a replay.
    Fault,
    /// The page table is malformed: no replay can help, the wave ends.
    Error,
}

/// Where a virtual address lies in host memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Translation {
    /// The byte at the virtual address. Equal to the virtual address modulo 4096.
    pub ptr: *mut u8,
    /// Bytes from there to the end of the mapped leaf page, which has a multiple of 4096 bytes.
    pub len: usize,
}

/// The memory of an address space.
///
/// # Safety
///
/// Whatever `translate` returns is an address range of `len` bytes that stays mapped, and may be read (and, if the
/// access was [`Access::Write`] or [`Access::Atomic`], written) with atomic operations, until the call of
/// [`Wave::run`] that it was made for returns. Others may access the range meanwhile if they do so atomically too, or
/// from another process.
pub unsafe trait Memory {
    /// Finds the host memory behind virtual address `va`.
    ///
    /// The result may be used again for all of its page until [`Wave::run`] returns, so this is called once per run
    /// and page rather than once per access.
    ///
    /// # Errors
    ///
    /// [`Miss`] says whether a replay can help.
    fn translate(&mut self, va: u64, access: Access) -> Result<Translation, Miss>;
}

/// An access that found no translation. One entry stands for all lanes that miss the same page in one instruction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fault {
    /// First address of the access in the page that misses, of the lowest lane that faults.
    pub va: u64,
    /// What was to be done there.
    pub access: Access,
    /// The lanes that wait, a bit each.
    pub lanes: u32,
}

/// Why a wave was ended before its threads were.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Trap {
    /// The instruction is `ebreak`, reserved or unknown, or rounds in a mode that does not exist.
    Illegal {
        /// Virtual address of the instruction.
        pc: u64,
    },
    /// An atomic access that is not naturally aligned.
    Misaligned {
        /// Virtual address of the access.
        addr: u64,
    },
    /// The page table is malformed.
    PageTable {
        /// Virtual address that was looked up.
        addr: u64,
    },
}

/// Why [`Wave::run`] returned.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stop {
    /// All threads have ended.
    Done,
    /// All threads that have not ended wait for [`Wave::replay`].
    Parked,
    /// The quantum is used up and threads can run on. Some may be parked.
    Quantum,
    /// The wave is over.
    Trap(Trap),
}

/// What a wave starts with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Start {
    /// Virtual address of the first instruction.
    pub entry: u64,
    /// Argument of every thread, in `a0`.
    pub args: u64,
    /// Index of the thread in lane 0; each thread finds its own in `a1`.
    pub first: u64,
    /// Threads in the wave, at most [`LANES`].
    pub lanes: usize,
    /// Threads in the whole dispatch, in `a2`.
    pub threads: u64,
    /// Lowest virtual address of the stacks.
    pub stack: u64,
    /// Bytes of stack per thread.
    pub stack_size: u64,
    /// Number of the stack of lane 0; the others use those that follow.
    pub slot: u64,
}
