// SPDX-License-Identifier: MIT OR Apache-2.0

//! The part of QEMU's interface for plugins that is used here, version 7 (QEMU 11.1).

use std::ffi::{c_char, c_int, c_uint, c_void};

/// A translated block, as long as it is being translated.
#[repr(C)]
pub struct Block {
    _opaque: [u8; 0],
}

/// An instruction of a block.
#[repr(C)]
pub struct Instruction {
    _opaque: [u8; 0],
}

/// Called when a processor is there, or executes something that a callback was registered for.
pub type OnCpu = extern "C" fn(cpu: c_uint, data: *mut c_void);

/// Called when a block is translated.
pub type OnTranslation = extern "C" fn(block: *mut Block, data: *mut c_void);

/// The callback accesses no registers.
pub const NO_REGISTERS: c_int = 0;
/// The callback writes registers.
pub const WRITES_REGISTERS: c_int = 2;

/// `GArray` and `GByteArray` of GLib.
#[repr(C)]
pub struct Array<T> {
    /// The elements.
    pub data: *mut T,
    /// How many there are.
    pub length: c_uint,
}

/// `qemu_plugin_reg_descriptor`
#[repr(C)]
pub struct Register {
    /// How QEMU names it.
    pub handle: *mut c_void,
    /// Its name for people.
    pub name: *const c_char,
    /// Group that it is in.
    pub feature: *const c_char,
    /// Whether it cannot be written.
    pub is_read_only: bool,
}

extern "C" {
    /// Has `callback` called on each processor at its start.
    #[link_name = "qemu_plugin_register_vcpu_init_cb"]
    pub fn on_start(plugin: u64, callback: OnCpu, data: *mut c_void);

    /// Has `callback` called for each block that is translated.
    #[link_name = "qemu_plugin_register_vcpu_tb_trans_cb"]
    pub fn on_translation(plugin: u64, callback: OnTranslation, data: *mut c_void);

    /// Has `callback` called before a block that is being translated is executed.
    #[link_name = "qemu_plugin_register_vcpu_tb_exec_cb"]
    pub fn on_block(block: *mut Block, callback: OnCpu, flags: c_int, data: *mut c_void);

    /// Has `callback` called before an instruction that is being translated is executed.
    #[link_name = "qemu_plugin_register_vcpu_insn_exec_cb"]
    pub fn on_instruction(at: *mut Instruction, callback: OnCpu, flags: c_int, data: *mut c_void);

    /// Number of instructions of a block.
    #[link_name = "qemu_plugin_tb_n_insns"]
    pub fn block_length(block: *const Block) -> usize;

    /// An instruction of a block.
    #[link_name = "qemu_plugin_tb_get_insn"]
    pub fn instruction(block: *const Block, index: usize) -> *mut Instruction;

    /// Virtual address of a block.
    #[link_name = "qemu_plugin_tb_vaddr"]
    pub fn block_address(block: *const Block) -> u64;

    /// Copies up to `length` bytes of an instruction; how many there were.
    #[link_name = "qemu_plugin_insn_data"]
    pub fn bytes(at: *const Instruction, to: *mut c_void, length: usize) -> usize;

    /// The registers of this processor. The array stays.
    #[link_name = "qemu_plugin_get_registers"]
    pub fn registers() -> *mut Array<Register>;

    /// Sets a register of this processor; for a callback that said so.
    #[link_name = "qemu_plugin_write_register"]
    pub fn write_register(handle: *mut c_void, value: *mut Array<u8>) -> bool;
}
