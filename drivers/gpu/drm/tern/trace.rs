// SPDX-License-Identifier: GPL-2.0

//! Trace events; `include/trace/events/tern.h` has their formats.

use kernel::{
    ffi::{
        c_char,
        c_int, //
    },
    tracepoint::declare_trace, //
};

declare_trace! {
    /// # Safety
    ///
    /// `dev` must be a valid C string. So it must for all of them.
    pub(crate) unsafe fn tern_fault(
        dev: *const c_char, asid: u32, queue: u32, addr: u64, access: u32,
    );
    /// # Safety
    ///
    /// See [`tern_fault`].
    pub(crate) unsafe fn tern_cancel(
        dev: *const c_char, asid: u32, queue: u32, addr: u64, access: u32,
    );
    /// # Safety
    ///
    /// See [`tern_fault`].
    pub(crate) unsafe fn tern_block(
        dev: *const c_char, asid: u32, start: u64, faults: u32, ret: c_int,
    );
    /// # Safety
    ///
    /// See [`tern_fault`].
    pub(crate) unsafe fn tern_cpu_fault(dev: *const c_char, addr: u64, huge: bool, ret: c_int);
    /// # Safety
    ///
    /// See [`tern_fault`].
    #[expect(clippy::too_many_arguments, reason = "these are the fields of the event")]
    pub(crate) unsafe fn tern_migrate(
        dev: *const c_char, start: u64, end: u64, to_device: bool,
        huge: u32, mid: u32, small: u32, bytes: u64, ns: u64, ret: c_int,
    );
    /// # Safety
    ///
    /// See [`tern_fault`].
    #[expect(clippy::too_many_arguments, reason = "these are the fields of the event")]
    pub(crate) unsafe fn tern_evict(
        dev: *const c_char, start: u64, end: u64, to_device: bool,
        huge: u32, mid: u32, small: u32, bytes: u64, ns: u64, ret: c_int,
    );
    /// # Safety
    ///
    /// See [`tern_fault`].
    pub(crate) unsafe fn tern_invalidate(
        dev: *const c_char, asid: u32, start: u64, end: u64, event: u32, mapped: bool,
    );
}
