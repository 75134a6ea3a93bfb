// SPDX-License-Identifier: MIT OR Apache-2.0

//! The C interface, declared and described in `include/tern.h`.
//!
//! Each object is a box that the caller owns; each function turns its error into a status and
//! keeps the sentence for `tern_last_error`.

use std::cell::RefCell;
use std::ffi::{c_char, c_void, CStr, CString, OsStr};
use std::os::unix::ffi::OsStrExt;
use std::ptr;
use std::time::Duration;

use crate::error::{Access, Error, LaunchError};
use crate::uapi;
use crate::{
    Device, Dispatch, Kernel, LaunchOptions, Location, Module, Queue, QueueOptions, Stats, Vm,
};

/// `tern_status`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    Ok,
    Argument,
    NoDevice,
    Exhausted,
    QueueFull,
    DeviceLost,
    Module,
    NoKernel,
    System,
    Fault,
    Illegal,
    Misaligned,
    Timeout,
    Stopped,
    Forgotten,
    NotMapped,
    Pending,
    Unknown,
}

/// What each status means, by its number; the last is [`Status::Unknown`].
const MEANINGS: [&CStr; 18] = [
    c"success",
    c"invalid argument",
    c"no Tern device",
    c"no address space or queue left on the device",
    c"the queue is full",
    c"the device is lost or failed, or has ended the queue",
    c"not a module that can be loaded",
    c"no kernel of that name",
    c"a system call failed",
    c"the kernel made an access that is not allowed",
    c"the kernel has an illegal instruction",
    c"the kernel made a misaligned access",
    c"the kernel ran for too long",
    c"the dispatch was stopped",
    c"the result of the dispatch is not known any more",
    c"the process has no memory there",
    c"the dispatch has not ended yet",
    c"unknown state",
];

/// `struct tern_info`.
#[repr(C)]
pub struct Info {
    vram_size: u64,
    vram_free: u64,
    aperture_size: u64,
    hw_version: u32,
    copy_engines: u32,
    resident_threads: u32,
    reserved: u32,
}

/// `struct tern_stats`.
#[repr(C)]
pub struct CStats {
    faults: u64,
    blocks: u64,
    cancels: u64,
    cpu_faults: u64,
    to_device_huge: u64,
    to_device_mid: u64,
    to_device_small: u64,
    to_system_huge: u64,
    to_system_mid: u64,
    to_system_small: u64,
    mapped_pages: u64,
    bytes_to_device: u64,
    bytes_to_system: u64,
    collect_ns: u64,
    copy_ns: u64,
    install_ns: u64,
    resident_bytes: u64,
}

/// `struct tern_report`.
#[repr(C)]
#[derive(Default)]
pub struct CReport {
    instructions: u64,
    address: u64,
    access: u32,
    reserved: u32,
}

/// A failure: what to return, and the sentence to keep.
struct Failure(Status, String);

impl Failure {
    fn argument(message: &str) -> Self {
        Self(Status::Argument, message.into())
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let status = match &error {
            Error::NoDevice
            | Error::Open { .. }
            | Error::NotDrm { .. }
            | Error::OtherDriver { .. } => Status::NoDevice,
            Error::Exhausted { .. } => Status::Exhausted,
            Error::QueueFull => Status::QueueFull,
            Error::DeviceLost => Status::DeviceLost,
            Error::OutOfRange { .. } | Error::OtherDevice => Status::Argument,
            Error::NotMapped { .. } => Status::NotMapped,
            Error::Read { .. } | Error::Module(_) => Status::Module,
            Error::NoKernel { .. } => Status::NoKernel,
            Error::System { .. } => Status::System,
        };
        Self(status, sentence(&error))
    }
}

impl From<LaunchError> for Failure {
    fn from(error: LaunchError) -> Self {
        let status = match &error {
            LaunchError::Fault { .. } => Status::Fault,
            LaunchError::Illegal { .. } => Status::Illegal,
            LaunchError::Misaligned { .. } => Status::Misaligned,
            LaunchError::Timeout => Status::Timeout,
            LaunchError::Stopped => Status::Stopped,
            LaunchError::Device => Status::DeviceLost,
            LaunchError::Forgotten => Status::Forgotten,
            LaunchError::Unknown(_) => Status::Unknown,
            LaunchError::System { .. } => Status::System,
        };
        Self(status, sentence(&error))
    }
}

/// An error and its causes.
fn sentence(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

thread_local! {
    static LAST_ERROR: RefCell<CString> = RefCell::default();
}

/// Runs the body of a function and keeps its failure.
fn status(body: impl FnOnce() -> Result<(), Failure>) -> Status {
    let Err(Failure(status, message)) = body() else {
        return Status::Ok;
    };
    let bytes: Vec<u8> = message
        .into_bytes()
        .into_iter()
        .filter(|&b| b != 0)
        .collect();
    // It fails where the thread ends: then nobody asks any more.
    let _ = LAST_ERROR.try_with(|last| last.replace(CString::new(bytes).unwrap_or_default()));
    status
}

/// # Safety
///
/// `pointer` must be null, or valid to read as `T` for the caller's lifetime.
unsafe fn object<'a, T>(pointer: *const T) -> Result<&'a T, Failure> {
    // SAFETY: promised by the caller.
    unsafe { pointer.as_ref() }.ok_or_else(|| Failure::argument("an argument is NULL"))
}

/// # Safety
///
/// `pointers` must be valid to read for `count` pointers, or `count` 0; each as for [`object`].
unsafe fn objects<'a, T>(pointers: *const *const T, count: u32) -> Result<Vec<&'a T>, Failure> {
    if count == 0 {
        return Ok(Vec::new());
    }
    // SAFETY: not null, and valid to read as the caller promises.
    let pointers = unsafe { std::slice::from_raw_parts(object(pointers)?, count as usize) };
    let object = |&pointer: &*const T| {
        // SAFETY: promised by the caller.
        unsafe { object(pointer) }
    };
    pointers.iter().map(object).collect()
}

/// Where a result goes.
struct Place<T>(*mut T);

impl<T> Place<T> {
    fn new(place: *mut T) -> Result<Self, Failure> {
        if place.is_null() {
            return Err(Failure::argument("the place for the result is NULL"));
        }
        Ok(Self(place))
    }

    /// # Safety
    ///
    /// The place must be valid to write.
    unsafe fn put(self, value: T) {
        // SAFETY: promised by the caller, and not null.
        unsafe { self.0.write(value) };
    }
}

impl<T> Place<*mut T> {
    /// Hands an object over to the caller.
    ///
    /// # Safety
    ///
    /// The place must be valid to write.
    unsafe fn give(self, object: T) {
        // SAFETY: promised by the caller.
        unsafe { self.put(Box::into_raw(Box::new(object))) };
    }
}

/// # Safety
///
/// `pointer` must be null, or come from [`Place::give`] and be released once.
unsafe fn release<T>(pointer: *mut T) {
    if !pointer.is_null() {
        // SAFETY: promised by the caller.
        drop(unsafe { Box::from_raw(pointer) });
    }
}

/// See `tern.h`.
#[no_mangle]
pub extern "C" fn tern_strerror(status: u32) -> *const c_char {
    let [.., unknown] = &MEANINGS;
    MEANINGS.get(status as usize).unwrap_or(unknown).as_ptr()
}

/// See `tern.h`.
#[no_mangle]
pub extern "C" fn tern_last_error() -> *const c_char {
    LAST_ERROR
        .try_with(|last| last.borrow().as_ptr())
        .unwrap_or(c"".as_ptr())
}

/// See `tern.h`.
///
/// # Safety
///
/// `path` must be null or a string, `device` null or valid to write.
#[no_mangle]
pub unsafe extern "C" fn tern_open(path: *const c_char, device: *mut *mut Device) -> Status {
    status(|| {
        let place = Place::new(device)?;
        let device = if path.is_null() {
            Device::open()?
        } else {
            // SAFETY: a string, as the caller promises.
            let path = unsafe { CStr::from_ptr(path) };
            Device::open_path(OsStr::from_bytes(path.to_bytes()))?
        };
        // SAFETY: promised by the caller.
        unsafe { place.give(device) };
        Ok(())
    })
}

/// See `tern.h`.
///
/// # Safety
///
/// `device` must be null, or from `tern_open` and not closed yet.
#[no_mangle]
pub unsafe extern "C" fn tern_close(device: *mut Device) {
    // SAFETY: promised by the caller.
    unsafe { release(device) };
}

/// See `tern.h`.
///
/// # Safety
///
/// `device` must be null or an open device, `info` null or valid to write.
#[no_mangle]
pub unsafe extern "C" fn tern_get_info(device: *const Device, info: *mut Info) -> Status {
    status(|| {
        let place = Place::new(info)?;
        // SAFETY: promised by the caller.
        let info = unsafe { object(device) }?.info()?;
        let info = Info {
            vram_size: info.vram_size,
            vram_free: info.vram_free,
            aperture_size: info.aperture_size,
            hw_version: info.hw_version,
            copy_engines: info.copy_engines,
            resident_threads: info.resident_threads,
            reserved: 0,
        };
        // SAFETY: promised by the caller.
        unsafe { place.put(info) };
        Ok(())
    })
}

/// See `tern.h`.
///
/// # Safety
///
/// `device` must be null or an open device, `vm` null or valid to write.
#[no_mangle]
pub unsafe extern "C" fn tern_vm_create(device: *const Device, vm: *mut *mut Vm) -> Status {
    status(|| {
        let place = Place::new(vm)?;
        // SAFETY: promised by the caller.
        let vm = unsafe { object(device) }?.create_vm()?;
        // SAFETY: promised by the caller.
        unsafe { place.give(vm) };
        Ok(())
    })
}

/// See `tern.h`.
///
/// # Safety
///
/// `vm` must be null, or from `tern_vm_create` and not released yet.
#[no_mangle]
pub unsafe extern "C" fn tern_vm_release(vm: *mut Vm) {
    // SAFETY: promised by the caller.
    unsafe { release(vm) };
}

/// See `tern.h`.
///
/// # Safety
///
/// `vm` must be null or an address space, `stats` null or valid to write.
#[no_mangle]
pub unsafe extern "C" fn tern_vm_stats(vm: *const Vm, stats: *mut CStats) -> Status {
    status(|| {
        let place = Place::new(stats)?;
        // SAFETY: promised by the caller.
        let stats = unsafe { object(vm) }?.stats()?;
        // SAFETY: promised by the caller.
        unsafe { place.put(stats.into()) };
        Ok(())
    })
}

/// See `tern.h`.
///
/// # Safety
///
/// `vm` must be null or an address space. `start` and `size` may be anything.
#[no_mangle]
pub unsafe extern "C" fn tern_prefetch(
    vm: *const Vm,
    start: *const c_void,
    size: u64,
    location: u32,
) -> Status {
    status(|| {
        let to = match location {
            uapi::LOCATION_SYSTEM => Location::System,
            uapi::LOCATION_DEVICE => Location::Device,
            _ => return Err(Failure::argument("there is no such location")),
        };
        let size = usize::try_from(size)
            .map_err(|_| Failure::argument("the size is larger than memory can be"))?;
        let memory = ptr::slice_from_raw_parts(start.cast::<u8>(), size);
        // SAFETY: promised by the caller.
        unsafe { object(vm) }?.prefetch(memory, to)?;
        Ok(())
    })
}

impl From<Stats> for CStats {
    fn from(stats: Stats) -> Self {
        Self {
            faults: stats.faults,
            blocks: stats.blocks,
            cancels: stats.cancels,
            cpu_faults: stats.cpu_faults,
            to_device_huge: stats.to_device_huge,
            to_device_mid: stats.to_device_mid,
            to_device_small: stats.to_device_small,
            to_system_huge: stats.to_system_huge,
            to_system_mid: stats.to_system_mid,
            to_system_small: stats.to_system_small,
            mapped_pages: stats.mapped_pages,
            bytes_to_device: stats.bytes_to_device,
            bytes_to_system: stats.bytes_to_system,
            collect_ns: stats.collect_ns,
            copy_ns: stats.copy_ns,
            install_ns: stats.install_ns,
            resident_bytes: stats.resident_bytes,
        }
    }
}

/// See `tern.h`.
///
/// # Safety
///
/// `vm` must be null or an address space, `queue` null or valid to write.
#[no_mangle]
pub unsafe extern "C" fn tern_queue_create(
    vm: *const Vm,
    entries: u32,
    stack_size: u32,
    queue: *mut *mut Queue,
) -> Status {
    status(|| {
        let place = Place::new(queue)?;
        let mut options = QueueOptions::default();
        if entries != 0 {
            options.entries = entries;
        }
        if stack_size != 0 {
            options.stack_size = stack_size;
        }
        // SAFETY: promised by the caller.
        let queue = unsafe { object(vm) }?.create_queue_with(options)?;
        // SAFETY: promised by the caller.
        unsafe { place.give(queue) };
        Ok(())
    })
}

/// See `tern.h`.
///
/// # Safety
///
/// `queue` must be null, or from `tern_queue_create` and not released yet.
#[no_mangle]
pub unsafe extern "C" fn tern_queue_release(queue: *mut Queue) {
    // SAFETY: promised by the caller.
    unsafe { release(queue) };
}

/// See `tern.h`.
///
/// # Safety
///
/// `elf` must be null or valid to read for `size` bytes, `module` null or valid to write.
#[no_mangle]
pub unsafe extern "C" fn tern_module_load(
    elf: *const c_void,
    size: u64,
    module: *mut *mut Module,
) -> Status {
    status(|| {
        let place = Place::new(module)?;
        // SAFETY: promised by the caller.
        let first = unsafe { object(elf.cast::<u8>()) }?;
        let size = isize::try_from(size)
            .map_err(|_| Failure::argument("the size is larger than memory can be"))?;
        // SAFETY: not null, valid for `size` bytes as the caller promises, and not too large.
        let bytes = unsafe { std::slice::from_raw_parts(first, size as usize) };
        let module = Module::from_elf(bytes)?;
        // SAFETY: promised by the caller.
        unsafe { place.give(module) };
        Ok(())
    })
}

/// See `tern.h`.
///
/// # Safety
///
/// `path` must be null or a string, `module` null or valid to write.
#[no_mangle]
pub unsafe extern "C" fn tern_module_open(path: *const c_char, module: *mut *mut Module) -> Status {
    status(|| {
        let place = Place::new(module)?;
        // SAFETY: promised by the caller.
        let path = unsafe { CStr::from_ptr(object(path)?) };
        let module = Module::open(OsStr::from_bytes(path.to_bytes()))?;
        // SAFETY: promised by the caller.
        unsafe { place.give(module) };
        Ok(())
    })
}

/// See `tern.h`.
///
/// # Safety
///
/// `module` must be null, or come from a load and be not released yet.
#[no_mangle]
pub unsafe extern "C" fn tern_module_release(module: *mut Module) {
    // SAFETY: promised by the caller.
    unsafe { release(module) };
}

/// See `tern.h`.
///
/// # Safety
///
/// `module` must be null or a module, `name` null or a string, `kernel` null or valid to write.
#[no_mangle]
pub unsafe extern "C" fn tern_module_kernel(
    module: *const Module,
    name: *const c_char,
    kernel: *mut *mut Kernel,
) -> Status {
    status(|| {
        let place = Place::new(kernel)?;
        // SAFETY: promised by the caller.
        let name = unsafe { CStr::from_ptr(object(name)?) };
        // SAFETY: promised by the caller.
        let kernel = unsafe { object(module) }?.kernel(&name.to_string_lossy())?;
        // SAFETY: promised by the caller.
        unsafe { place.give(kernel) };
        Ok(())
    })
}

/// See `tern.h`.
///
/// # Safety
///
/// `kernel` must be null, or from `tern_module_kernel` and not released yet.
#[no_mangle]
pub unsafe extern "C" fn tern_kernel_release(kernel: *mut Kernel) {
    // SAFETY: promised by the caller.
    unsafe { release(kernel) };
}

/// See `tern.h`.
///
/// # Safety
///
/// `queue` must be null or a queue, `kernel` null or a kernel, `dispatch` null or valid to write.
/// `args` and what the kernel accesses by it are as for [`Queue::launch`].
#[no_mangle]
pub unsafe extern "C" fn tern_launch(
    queue: *const Queue,
    kernel: *const Kernel,
    args: *mut c_void,
    threads: u64,
    timeout_ms: u32,
    dispatch: *mut *mut Dispatch,
) -> Status {
    // SAFETY: promised by the caller; no dispatches are read.
    unsafe {
        tern_launch_after(
            queue,
            kernel,
            args,
            threads,
            timeout_ms,
            ptr::null(),
            0,
            dispatch,
        )
    }
}

/// See `tern.h`.
///
/// # Safety
///
/// As for [`tern_launch`]; `after` must be valid to read for `count` dispatches, or `count` 0.
#[no_mangle]
#[allow(clippy::too_many_arguments)]
pub unsafe extern "C" fn tern_launch_after(
    queue: *const Queue,
    kernel: *const Kernel,
    args: *mut c_void,
    threads: u64,
    timeout_ms: u32,
    after: *const *const Dispatch,
    count: u32,
    dispatch: *mut *mut Dispatch,
) -> Status {
    status(|| {
        let place = Place::new(dispatch)?;
        // SAFETY: promised by the caller.
        let (queue, kernel) = unsafe { (object(queue)?, object(kernel)?) };
        // SAFETY: promised by the caller.
        let after = unsafe { objects(after, count) }?;
        let options = LaunchOptions {
            after: &after,
            timeout: (timeout_ms != 0).then(|| Duration::from_millis(timeout_ms.into())),
        };
        // SAFETY: promised by the caller.
        let dispatch = unsafe { queue.launch_with(kernel, args, threads, options) }?;
        // SAFETY: promised by the caller.
        unsafe { place.give(dispatch) };
        Ok(())
    })
}

/// See `tern.h`.
///
/// # Safety
///
/// `dispatch` must be null or a dispatch, `report` null or valid to write.
#[no_mangle]
pub unsafe extern "C" fn tern_wait(dispatch: *const Dispatch, report: *mut CReport) -> Status {
    status(|| {
        // SAFETY: promised by the caller.
        let result = unsafe { object(dispatch) }?.wait();
        // SAFETY: promised by the caller.
        unsafe { tell(result, report) }
    })
}

/// See `tern.h`.
///
/// # Safety
///
/// As for [`tern_wait`].
#[no_mangle]
pub unsafe extern "C" fn tern_wait_timeout(
    dispatch: *const Dispatch,
    timeout_ms: u32,
    report: *mut CReport,
) -> Status {
    status(|| {
        let timeout = Duration::from_millis(timeout_ms.into());
        // SAFETY: promised by the caller.
        let result = unsafe { object(dispatch) }?.wait_timeout(timeout);
        let pending = || Failure(Status::Pending, "the dispatch has not ended yet".into());
        let result = result.transpose().ok_or_else(pending)?;
        // SAFETY: promised by the caller.
        unsafe { tell(result, report) }
    })
}

/// Tells how a dispatch ended.
///
/// # Safety
///
/// `report` must be null or valid to write.
unsafe fn tell(
    result: Result<crate::Report, LaunchError>,
    report: *mut CReport,
) -> Result<(), Failure> {
    let ended = !matches!(
        result,
        Err(LaunchError::System { .. } | LaunchError::Forgotten)
    );
    if ended && !report.is_null() {
        // SAFETY: not null, and valid to write as the caller promises.
        unsafe { report.write(CReport::from(&result)) };
    }
    result?;
    Ok(())
}

impl From<&Result<crate::Report, LaunchError>> for CReport {
    fn from(result: &Result<crate::Report, LaunchError>) -> Self {
        let mut report = Self::default();
        match result {
            Ok(done) => report.instructions = done.instructions,
            Err(
                LaunchError::Fault { address, access }
                | LaunchError::Misaligned { address, access },
            ) => {
                report.address = *address;
                report.access = (*access).into();
            }
            Err(LaunchError::Illegal { address }) => report.address = *address,
            Err(_) => {}
        }
        report
    }
}

impl From<Access> for u32 {
    fn from(access: Access) -> Self {
        match access {
            Access::Read => uapi::ACCESS_READ,
            Access::Write => uapi::ACCESS_WRITE,
            Access::Atomic => uapi::ACCESS_ATOMIC,
            Access::Fetch => uapi::ACCESS_FETCH,
            Access::Unknown(kind) => kind,
        }
    }
}

/// See `tern.h`.
///
/// # Safety
///
/// `dispatch` must be null, or from `tern_launch` and not released yet.
#[no_mangle]
pub unsafe extern "C" fn tern_dispatch_release(dispatch: *mut Dispatch) {
    // SAFETY: promised by the caller.
    unsafe { release(dispatch) };
}
