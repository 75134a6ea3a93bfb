// SPDX-License-Identifier: MIT OR Apache-2.0

//! Atomics, in the order of all sequentially consistent operations of the host, whatever `aq` and `rl` ask for.

use std::sync::atomic::{AtomicI32, AtomicI64, AtomicU32, AtomicU64, Ordering::SeqCst};

use super::decode::{Amo, Width};

/// What a lane has reserved with `lr`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Reservation {
    /// Its virtual address. It cannot come to mean other memory, as no reservation outlives a run of the wave.
    pub va: u64,
    pub width: Width,
    /// What was there.
    pub value: u64,
}

/// Loads for `lr`, sign-extended.
///
/// # Safety
///
/// `ptr` is aligned to `width`, and what [`Memory`](super::Memory) promises holds for the bytes.
pub(super) unsafe fn load(ptr: *mut u8, width: Width) -> u64 {
    // SAFETY: as the caller promises.
    unsafe {
        match width {
            Width::D => AtomicU64::from_ptr(ptr.cast()).load(SeqCst),
            _ => AtomicI32::from_ptr(ptr.cast()).load(SeqCst) as u64,
        }
    }
}

/// Stores for `sc` if memory still has what `lr` found there, and says whether it did.
///
/// # Safety
///
/// As for [`load`], for a write.
pub(super) unsafe fn store_if(ptr: *mut u8, width: Width, old: u64, new: u64) -> bool {
    // SAFETY: as the caller promises.
    unsafe {
        match width {
            Width::D => AtomicU64::from_ptr(ptr.cast())
                .compare_exchange(old, new, SeqCst, SeqCst)
                .is_ok(),
            _ => AtomicU32::from_ptr(ptr.cast())
                .compare_exchange(old as u32, new as u32, SeqCst, SeqCst)
                .is_ok(),
        }
    }
}

/// Modifies memory by `operand` and gives what was there, sign-extended.
///
/// # Safety
///
/// As for [`load`], for a write.
pub(super) unsafe fn modify(amo: Amo, width: Width, ptr: *mut u8, operand: u64) -> u64 {
    // SAFETY: as the caller promises.
    unsafe {
        match width {
            Width::D => modify_double(amo, ptr.cast(), operand),
            _ => modify_word(amo, ptr.cast(), operand as u32) as i32 as u64,
        }
    }
}

macro_rules! modify {
    ($name:ident, $int:ty, $unsigned:ty, $signed_int:ty, $signed:ty) => {
        /// # Safety
        ///
        /// `ptr` is aligned, and what [`Memory`](super::Memory) promises holds for it, for a write.
        unsafe fn $name(amo: Amo, ptr: *mut $int, operand: $int) -> $int {
            // SAFETY: as the caller promises.
            let cell = unsafe { <$unsigned>::from_ptr(ptr) };
            // SAFETY: as the caller promises; it is the same integer with another sign.
            let signed = unsafe { <$signed>::from_ptr(ptr.cast()) };
            match amo {
                Amo::Swap => cell.swap(operand, SeqCst),
                Amo::Add => cell.fetch_add(operand, SeqCst),
                Amo::Xor => cell.fetch_xor(operand, SeqCst),
                Amo::And => cell.fetch_and(operand, SeqCst),
                Amo::Or => cell.fetch_or(operand, SeqCst),
                Amo::Min => signed.fetch_min(operand as $signed_int, SeqCst) as $int,
                Amo::Max => signed.fetch_max(operand as $signed_int, SeqCst) as $int,
                Amo::Minu => cell.fetch_min(operand, SeqCst),
                Amo::Maxu => cell.fetch_max(operand, SeqCst),
            }
        }
    };
}

modify!(modify_word, u32, AtomicU32, i32, AtomicI32);
modify!(modify_double, u64, AtomicU64, i64, AtomicI64);
