// SPDX-License-Identifier: MIT OR Apache-2.0

//! A plugin for QEMU's translator (TCG) that counts the instructions which the guest executes.
//!
//! A program in the guest asks for the count by a `nop` that nobody uses, `nop disp32(%rax)` with
//! a displacement that is one of `MARKS`. Where the plugin is loaded, `rax` holds the answer
//! behind it; elsewhere it stays as it was.
//!
//! - `Ter0`: the instructions so far.
//! - `Ter1`: ends a section of the profile, and starts the next. The answer is the number of the
//!   section, from 1. Where the plugin has an argument `profile=PATH`, the file `PATH.NUMBER` has
//!   a line `ADDRESS COUNT` for each block of instructions that the section has executed.
//!
//! What a processor that waits does not execute is not counted. An instruction with a `rep` prefix
//! counts once. A block that an exception leaves half-way counts whole.

mod qemu;

use std::collections::BTreeMap;
use std::ffi::{c_char, c_int, c_uint, c_void, CStr};
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::ptr::null_mut;
use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::{fs, slice};

/// What QEMU reads to learn which interface this is made for.
#[no_mangle]
pub static qemu_plugin_version: c_int = 7;

/// `nop` with a displacement of 32 bits and `rax` as its base.
const NOP: [u8; 3] = [0x0f, 0x1f, 0x80];

/// The displacements, and what answers to them.
const MARKS: [([u8; 4], qemu::OnCpu); 2] = [(*b"Ter0", answer_total), (*b"Ter1", answer_section)];

/// A block of instructions of the guest.
struct Block {
    address: u64,
    /// Its instructions.
    length: u64,
    /// How often it was executed in this section of the profile.
    executed: AtomicU64,
}

/// Instructions so far.
static TOTAL: AtomicU64 = AtomicU64::new(0);
/// All that was ever translated. What QEMU forgets and translates again is there twice.
static BLOCKS: Mutex<Vec<&Block>> = Mutex::new(Vec::new());
/// The register of the answers.
static RAX: AtomicPtr<c_void> = AtomicPtr::new(null_mut());
/// Sections of the profile that have ended.
static SECTIONS: AtomicU64 = AtomicU64::new(0);
/// Where profiles go.
static PROFILE: OnceLock<PathBuf> = OnceLock::new();

/// Called by QEMU when it has loaded the plugin. 0 if all is well.
///
/// # Safety
///
/// `arguments` must point to `count` strings.
#[no_mangle]
pub unsafe extern "C" fn qemu_plugin_install(
    plugin: u64,
    _info: *const c_void,
    count: c_int,
    arguments: *const *const c_char,
) -> c_int {
    for index in 0..usize::try_from(count).unwrap_or(0) {
        // SAFETY: promised by the caller.
        let argument = unsafe { CStr::from_ptr(*arguments.add(index)) };
        let path = argument
            .to_str()
            .ok()
            .and_then(|a| a.strip_prefix("profile="));
        let Some(path) = path else {
            eprintln!("tern-count: {argument:?} is no argument; there is profile=PATH");
            return -1;
        };
        PROFILE.get_or_init(|| path.into());
    }
    // SAFETY: the callbacks have the types that QEMU calls them with.
    unsafe {
        qemu::on_start(plugin, find_register, null_mut());
        qemu::on_translation(plugin, translated, null_mut());
    }
    0
}

extern "C" fn find_register(_cpu: c_uint, _: *mut c_void) {
    // SAFETY: this is the callback from which it may be called; the array stays.
    let registers = unsafe {
        let array = &*qemu::registers();
        slice::from_raw_parts(array.data, array.length as usize)
    };
    // SAFETY: the names are strings of QEMU that stay.
    let is_rax = |register: &&qemu::Register| unsafe { CStr::from_ptr(register.name) } == c"rax";
    if let Some(register) = registers.iter().find(is_rax) {
        RAX.store(register.handle, Ordering::Relaxed);
    }
}

extern "C" fn translated(translated: *mut qemu::Block, _: *mut c_void) {
    // SAFETY: QEMU passes a block that it translates, for as long as this takes.
    let (address, length) = unsafe {
        (
            qemu::block_address(translated),
            qemu::block_length(translated),
        )
    };
    let block: &Block = Box::leak(Box::new(Block {
        address,
        length: length as u64,
        executed: AtomicU64::new(0),
    }));
    blocks().push(block);
    let data = std::ptr::from_ref(block).cast_mut().cast();
    // SAFETY: as above; `executed` gets a `Block` that lives for ever.
    unsafe { qemu::on_block(translated, executed, qemu::NO_REGISTERS, data) };
    for index in 0..length {
        // SAFETY: as above; the index is within the block, and the buffer has the length given.
        unsafe {
            let at = qemu::instruction(translated, index);
            let mut bytes = [0; 7];
            qemu::bytes(at, bytes.as_mut_ptr().cast(), bytes.len());
            if let Some(answer) = answer_to(bytes) {
                qemu::on_instruction(at, answer, qemu::WRITES_REGISTERS, null_mut());
            }
        }
    }
}

/// What answers to an instruction, if it is a mark.
fn answer_to(bytes: [u8; 7]) -> Option<qemu::OnCpu> {
    let mark = bytes.strip_prefix(&NOP)?;
    let (_, answer) = MARKS.iter().find(|(name, _)| name == mark)?;
    Some(*answer)
}

extern "C" fn executed(_cpu: c_uint, data: *mut c_void) {
    // SAFETY: `translated` passes a `Block` that lives for ever.
    let block = unsafe { &*data.cast::<Block>() };
    block.executed.fetch_add(1, Ordering::Relaxed);
    TOTAL.fetch_add(block.length, Ordering::Relaxed);
}

extern "C" fn answer_total(_cpu: c_uint, _: *mut c_void) {
    answer(TOTAL.load(Ordering::Relaxed));
}

extern "C" fn answer_section(_cpu: c_uint, _: *mut c_void) {
    let number = SECTIONS.fetch_add(1, Ordering::Relaxed) + 1;
    let mut counts = BTreeMap::new();
    for block in blocks().iter() {
        let executed = block.executed.swap(0, Ordering::Relaxed);
        if executed > 0 {
            *counts.entry(block.address).or_default() += executed * block.length;
        }
    }
    if let Some(path) = PROFILE.get() {
        write_profile(path, number, &counts);
    }
    answer(number);
}

fn write_profile(path: &Path, number: u64, counts: &BTreeMap<u64, u64>) {
    let mut lines = String::new();
    for (address, count) in counts {
        let _ = writeln!(lines, "{address:x} {count}");
    }
    let path = path.with_extension(number.to_string());
    if let Err(error) = fs::write(&path, lines) {
        eprintln!("tern-count: {} cannot be written: {error}", path.display());
    }
}

/// Sets the register of the answers. Only in a callback of an instruction.
fn answer(value: u64) {
    let mut bytes = value.to_le_bytes();
    let mut array = qemu::Array {
        data: bytes.as_mut_ptr(),
        length: bytes.len() as c_uint,
    };
    // SAFETY: the handle is QEMU's own for `rax`, which has 8 bytes, as the array does; the
    // callback was registered as one that writes registers.
    unsafe { qemu::write_register(RAX.load(Ordering::Relaxed), &mut array) };
}

fn blocks() -> std::sync::MutexGuard<'static, Vec<&'static Block>> {
    BLOCKS.lock().unwrap_or_else(PoisonError::into_inner)
}
