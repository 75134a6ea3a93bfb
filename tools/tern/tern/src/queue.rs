// SPDX-License-Identifier: MIT OR Apache-2.0

//! Queues and the dispatches in them.

use std::collections::BTreeMap;
use std::ffi::c_void;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::device::DeviceFile;
use crate::error::{Error, LaunchError};
use crate::module::{Image, Kernel};
use crate::sys::Mapping;
use crate::uapi;
use crate::vm::{Vm, VmInner};

/// Options of a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueOptions {
    /// Dispatches that it can hold: a power of two from 2 to 4096.
    pub entries: u32,
    /// Bytes of stack of each thread: a multiple of 16 that is not 0.
    pub stack_size: u32,
}

impl Default for QueueOptions {
    /// 64 entries, 8 KiB of stack.
    fn default() -> Self {
        Self {
            entries: 64,
            stack_size: 8 << 10,
        }
    }
}

impl QueueOptions {
    fn check(&self) -> Result<(), Error> {
        if !self.entries.is_power_of_two() || !(2..=4096).contains(&self.entries) {
            return Err(Error::OutOfRange {
                what: "the number of entries",
                range: "a power of two from 2 to 4096",
                value: self.entries.into(),
            });
        }
        if self.stack_size == 0 || self.stack_size % 16 != 0 {
            return Err(Error::OutOfRange {
                what: "the stack size",
                range: "a multiple of 16 that is not 0",
                value: self.stack_size.into(),
            });
        }
        Ok(())
    }
}

/// Options of a launch.
#[derive(Clone, Copy, Debug, Default)]
pub struct LaunchOptions<'a> {
    /// Dispatches that must end, well or not, before this one starts; at most 64.
    pub after: &'a [&'a Dispatch],
    /// Time of execution after which it is ended, in whole milliseconds, rounded up, at most an
    /// hour; `None`: the driver's limit.
    pub timeout: Option<Duration>,
}

/// A queue: its dispatches run one after another, those of different queues side by side.
///
/// Dropping it stops what it runs. Cheap to share between threads by reference; a [`Dispatch`]
/// keeps its queue.
#[derive(Debug)]
pub struct Queue {
    inner: Arc<QueueInner>,
}

impl Queue {
    pub(crate) fn new(vm: &Vm, options: QueueOptions) -> Result<Self, Error> {
        options.check()?;
        let vm = Arc::clone(vm.inner());
        let stack = stacks(vm.resident_threads, options.stack_size)?;
        let mut create = uapi::QueueCreate {
            vm: vm.handle,
            entries: options.entries,
            ..Default::default()
        };
        // SAFETY: the argument has no addresses.
        unsafe { vm.file.ioctl(&uapi::QUEUE_CREATE, &mut create) }
            .map_err(Error::create("DRM_IOCTL_TERN_QUEUE_CREATE", "queue"))?;
        Ok(Self {
            inner: Arc::new(QueueInner {
                vm,
                handle: create.handle,
                stack,
                stack_size: options.stack_size,
                images: Mutex::default(),
            }),
        })
    }

    /// Starts `threads` threads of `kernel`, each with `args`, its index and `threads` as
    /// arguments. Returns without waiting for them.
    ///
    /// # Safety
    ///
    /// `args` must be what the kernel takes. Until the dispatch has ended, all memory that the
    /// kernel accesses must stay mapped, and no other thread and no Rust reference may conflict
    /// with its accesses, as if a thread of this process ran it.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfRange`] for 0 threads, [`Error::QueueFull`], [`Error::DeviceLost`],
    /// [`Error::System`].
    pub unsafe fn launch<T>(
        &self,
        kernel: &Kernel,
        args: *mut T,
        threads: u64,
    ) -> Result<Dispatch, Error> {
        // SAFETY: promised by the caller.
        unsafe { self.launch_with(kernel, args, threads, LaunchOptions::default()) }
    }

    /// As [`Queue::launch`], with options.
    ///
    /// # Safety
    ///
    /// As [`Queue::launch`].
    ///
    /// # Errors
    ///
    /// As [`Queue::launch`]; [`Error::OutOfRange`] for more than 64 dispatches to wait for, and
    /// [`Error::OtherDevice`] where one is of another open device.
    pub unsafe fn launch_with<T>(
        &self,
        kernel: &Kernel,
        args: *mut T,
        threads: u64,
        options: LaunchOptions<'_>,
    ) -> Result<Dispatch, Error> {
        self.inner.release_ended();
        // SAFETY: promised by the caller; `kernel` keeps its code until `keep` does.
        let dispatch = unsafe { self.launch_at(kernel.entry(), args.cast(), threads, options) }?;
        self.inner.keep(kernel.image(), dispatch.seqno);
        Ok(dispatch)
    }

    /// As [`Queue::launch_with`], for code at an address.
    ///
    /// # Safety
    ///
    /// As [`Queue::launch`]; `entry` must be the address of RISC-V code that stays there until
    /// the dispatch has ended.
    pub(crate) unsafe fn launch_at(
        &self,
        entry: u64,
        args: *mut c_void,
        threads: u64,
        options: LaunchOptions<'_>,
    ) -> Result<Dispatch, Error> {
        if threads == 0 {
            return Err(Error::OutOfRange {
                what: "the number of threads",
                range: "at least 1",
                value: 0,
            });
        }
        let before = self.handles(options.after)?;
        let syncobj = Syncobj::new(&self.inner.vm.file)?;
        let mut submit = uapi::Submit {
            queue: self.inner.handle,
            entry,
            args: args as u64,
            threads,
            stack: self.inner.stack.address() as u64,
            stack_size: self.inner.stack_size,
            timeout_ms: milliseconds(options.timeout),
            in_syncobjs: before.as_ptr() as u64,
            in_count: before.len() as u32,
            out_syncobjs: &raw const syncobj.handle as u64,
            out_count: 1,
            ..Default::default()
        };
        // SAFETY: both arrays live until after the call. What the kernel does to memory is
        // promised by the caller; the stacks stay until the queue is dropped.
        unsafe { self.inner.vm.file.ioctl(&uapi::SUBMIT, &mut submit) }.map_err(submit_error)?;
        Ok(Dispatch {
            queue: Arc::clone(&self.inner),
            syncobj,
            seqno: submit.seqno,
        })
    }

    /// Handles of the sync objects of dispatches.
    fn handles(&self, dispatches: &[&Dispatch]) -> Result<Vec<u32>, Error> {
        if dispatches.len() > uapi::MAX_SYNCOBJS {
            return Err(Error::OutOfRange {
                what: "the number of dispatches to wait for",
                range: "at most 64",
                value: dispatches.len() as u64,
            });
        }
        let file = &self.inner.vm.file;
        if dispatches
            .iter()
            .any(|d| !Arc::ptr_eq(&d.queue.vm.file, file))
        {
            return Err(Error::OtherDevice);
        }
        Ok(dispatches.iter().map(|d| d.syncobj.handle).collect())
    }
}

/// Memory for the stacks of all threads that run at a time.
fn stacks(threads: u32, size: u32) -> Result<Mapping, Error> {
    let bytes = u64::from(threads.max(1)) * u64::from(size);
    let length = usize::try_from(bytes).map_err(|_| Error::OutOfRange {
        what: "the size of all stacks",
        range: "within the address space",
        value: bytes,
    })?;
    Mapping::new(length).map_err(Error::system("mmap of the stacks"))
}

fn milliseconds(timeout: Option<Duration>) -> u32 {
    // Zero means the driver's limit, so that the shortest timeout is 1.
    timeout.map_or(0, |t| {
        u32::try_from(t.as_nanos().div_ceil(1_000_000))
            .unwrap_or(u32::MAX)
            .max(1)
    })
}

fn submit_error(source: io::Error) -> Error {
    match source.raw_os_error() {
        Some(libc::EAGAIN) => Error::QueueFull,
        Some(libc::EIO | libc::ENODEV) => Error::DeviceLost,
        _ => Error::System {
            call: "DRM_IOCTL_TERN_SUBMIT",
            source,
        },
    }
}

#[derive(Debug)]
struct QueueInner {
    vm: Arc<VmInner>,
    handle: u32,
    stack: Mapping,
    stack_size: u32,
    /// The modules of its dispatches by their numbers, but of those known to have ended.
    images: Mutex<BTreeMap<u64, Arc<Image>>>,
}

impl QueueInner {
    fn images(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<Image>>> {
        self.images.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps the module of dispatch `seqno`.
    fn keep(&self, image: &Arc<Image>, seqno: u64) {
        self.images().insert(seqno, Arc::clone(image));
    }

    /// Lets go of the modules of all dispatches up to `seqno`, which has ended: a queue runs them
    /// one after another.
    fn release(&self, seqno: u64) {
        self.images().retain(|&kept, _| kept > seqno);
    }

    /// Lets go of the modules of dispatches that ended without anybody waiting for them.
    fn release_ended(&self) {
        let ended = |&seqno: &u64| has_ended(&self.result(seqno));
        let last = self.images().keys().copied().take_while(ended).last();
        if let Some(seqno) = last {
            self.release(seqno);
        }
    }

    /// How dispatch `seqno` ended, if it has.
    fn result(&self, seqno: u64) -> io::Result<uapi::DispatchResult> {
        let mut result = uapi::DispatchResult {
            queue: self.handle,
            seqno,
            ..Default::default()
        };
        // SAFETY: the argument has no addresses.
        unsafe { self.vm.file.ioctl(&uapi::RESULT, &mut result) }?;
        Ok(result)
    }
}

/// Whether a dispatch with this result has ended for sure, so that the device uses no memory for it
/// any more. Where the device was lost, the driver resets it before it says so.
fn has_ended(result: &io::Result<uapi::DispatchResult>) -> bool {
    match result {
        Ok(result) => result.status != uapi::RESULT_PENDING,
        Err(error) => error.raw_os_error() == Some(libc::ENODATA),
    }
}

impl Drop for QueueInner {
    fn drop(&mut self) {
        let mut handle = uapi::Handle {
            handle: self.handle,
            flags: 0,
        };
        // SAFETY: the argument has no addresses. After it nothing of the queue runs, so that the
        // stacks and modules, dropped next, are not in use.
        unsafe { self.vm.file.destroy(&uapi::QUEUE_DESTROY, &mut handle) };
    }
}

/// What a dispatch that ended well did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Report {
    /// Number of the dispatch in its queue, from 1.
    pub seqno: u64,
    /// Instructions that its threads retired.
    pub instructions: u64,
}

/// Threads that were started and may be running.
///
/// Dropping it does not wait. It keeps its queue, and so its device, alive.
#[derive(Debug)]
pub struct Dispatch {
    queue: Arc<QueueInner>,
    syncobj: Syncobj,
    seqno: u64,
}

impl Dispatch {
    /// Number of the dispatch in its queue, from 1.
    pub fn seqno(&self) -> u64 {
        self.seqno
    }

    /// Waits until all its threads have ended. May be called again.
    ///
    /// # Errors
    ///
    /// [`LaunchError`]: why the kernel did not end well, or why that cannot be told.
    pub fn wait(&self) -> Result<Report, LaunchError> {
        self.syncobj
            .wait(i64::MAX)
            .map_err(LaunchError::system("DRM_IOCTL_SYNCOBJ_WAIT"))?;
        self.result()
    }

    /// As [`Dispatch::wait`], for `timeout` at most; `None` where it is not over by then.
    ///
    /// # Errors
    ///
    /// As [`Dispatch::wait`].
    pub fn wait_timeout(&self, timeout: Duration) -> Result<Option<Report>, LaunchError> {
        match self.syncobj.wait(deadline(timeout)) {
            Err(error) if error.raw_os_error() == Some(libc::ETIME) => Ok(None),
            Err(source) => Err(LaunchError::System {
                call: "DRM_IOCTL_SYNCOBJ_WAIT",
                source,
            }),
            Ok(()) => self.result().map(Some),
        }
    }

    /// How it ended, once it is over.
    fn result(&self) -> Result<Report, LaunchError> {
        let result = self.queue.result(self.seqno);
        if has_ended(&result) {
            self.queue.release(self.seqno);
        }
        let result = result.map_err(|source| match source.raw_os_error() {
            Some(libc::ENODATA) => LaunchError::Forgotten,
            _ => LaunchError::System {
                call: "DRM_IOCTL_TERN_RESULT",
                source,
            },
        })?;
        match LaunchError::from_result(&result) {
            Some(error) => Err(error),
            None => Ok(Report {
                seqno: self.seqno,
                instructions: result.instructions,
            }),
        }
    }
}

/// The moment `timeout` from now, as nanoseconds of CLOCK_MONOTONIC.
fn deadline(timeout: Duration) -> i64 {
    now().saturating_add(i64::try_from(timeout.as_nanos()).unwrap_or(i64::MAX))
}

/// Nanoseconds of CLOCK_MONOTONIC.
fn now() -> i64 {
    let mut now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `now` is valid to write; the clock exists on every Linux.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut now) };
    now.tv_sec
        .saturating_mul(1_000_000_000)
        .saturating_add(now.tv_nsec)
}

/// A sync object of the kernel.
#[derive(Debug)]
struct Syncobj {
    file: Arc<DeviceFile>,
    handle: u32,
}

impl Syncobj {
    fn new(file: &Arc<DeviceFile>) -> Result<Self, Error> {
        let mut create = uapi::SyncobjCreate::default();
        // SAFETY: the argument has no addresses.
        unsafe { file.ioctl(&uapi::SYNCOBJ_CREATE, &mut create) }
            .map_err(Error::system("DRM_IOCTL_SYNCOBJ_CREATE"))?;
        Ok(Self {
            file: Arc::clone(file),
            handle: create.handle,
        })
    }

    /// Waits for its fence until `deadline`, nanoseconds of CLOCK_MONOTONIC.
    fn wait(&self, deadline: i64) -> io::Result<()> {
        let mut wait = uapi::SyncobjWait {
            handles: &raw const self.handle as u64,
            count_handles: 1,
            timeout_nsec: deadline,
            ..Default::default()
        };
        loop {
            // SAFETY: `handles` is the address of one handle, which lives until after the call.
            match unsafe { self.file.ioctl(&uapi::SYNCOBJ_WAIT, &mut wait) } {
                // The kernel rounds to ticks and may be early by one.
                Err(e) if e.raw_os_error() == Some(libc::ETIME) && now() < deadline => {}
                result => return result,
            }
        }
    }
}

impl Drop for Syncobj {
    fn drop(&mut self) {
        let mut destroy = uapi::SyncobjDestroy {
            handle: self.handle,
            pad: 0,
        };
        // SAFETY: the argument has no addresses.
        unsafe { self.file.destroy(&uapi::SYNCOBJ_DESTROY, &mut destroy) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_out_of_range_are_refused() {
        let refused = |entries, stack_size| {
            QueueOptions {
                entries,
                stack_size,
            }
            .check()
            .is_err()
        };
        assert!(!refused(64, 8192));
        assert!(!refused(2, 16) && !refused(4096, 16));
        assert!(refused(0, 16) && refused(1, 16) && refused(3, 16) && refused(8192, 16));
        assert!(refused(64, 0) && refused(64, 8));
    }

    #[test]
    fn timeouts_round_up_to_milliseconds() {
        assert_eq!(milliseconds(None), 0);
        assert_eq!(milliseconds(Some(Duration::ZERO)), 1);
        assert_eq!(milliseconds(Some(Duration::from_micros(1001))), 2);
        assert_eq!(milliseconds(Some(Duration::MAX)), u32::MAX);
    }

    #[test]
    fn deadlines_lie_ahead_and_do_not_overflow() {
        let now = deadline(Duration::ZERO);
        assert!(now > 0 && deadline(Duration::from_secs(5)) >= now + 5_000_000_000);
        assert_eq!(deadline(Duration::MAX), i64::MAX);
    }

    #[test]
    fn modules_are_kept_for_what_may_run() {
        let of = |status| {
            has_ended(&Ok(uapi::DispatchResult {
                status,
                ..Default::default()
            }))
        };
        assert!(of(uapi::RESULT_OK) && of(uapi::RESULT_FAULT) && of(uapi::RESULT_DEVICE));
        assert!(!of(uapi::RESULT_PENDING));
        let failed = |errno| has_ended(&Err(io::Error::from_raw_os_error(errno)));
        assert!(failed(libc::ENODATA));
        assert!(!failed(libc::ENODEV) && !failed(libc::ENOENT));
    }

    #[test]
    fn a_full_queue_is_told_apart() {
        let of = |errno| submit_error(io::Error::from_raw_os_error(errno));
        assert!(matches!(of(libc::EAGAIN), Error::QueueFull));
        assert!(matches!(of(libc::EIO), Error::DeviceLost));
        assert!(matches!(of(libc::EINVAL), Error::System { .. }));
    }
}
