// SPDX-License-Identifier: MIT OR Apache-2.0

//! The library on the device, in Rust and, from `library/capi.c`, in C.

use std::ffi::{c_char, c_int, c_void, CStr};
use std::fs::File;
use std::io;
use std::os::fd::FromRawFd;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{ensure, Context, Result};
use tern::{
    Access, Device, Dispatch, Error, Kernel, LaunchError, LaunchOptions, Location, Module, Queue,
    QueueOptions, Report, Vm,
};

use crate::Test;

/// `library/kernels.c`.
static ELF: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/library.elf"));

const PAGE: usize = 4096;

/// Entries of a queue by default.
const ENTRIES: u64 = 64;

/// `LIBRARY_STACK`.
const STACK: u64 = 65536;

/// `struct capi_module`.
#[repr(C)]
struct CModule {
    elf: *const u8,
    size: u64,
}

/// `struct tern_info`.
#[repr(C)]
struct CInfo {
    vram_size: u64,
    vram_free: u64,
    aperture_size: u64,
    hw_version: u32,
    copy_engines: u32,
    resident_threads: u32,
    reserved: u32,
}

extern "C" {
    fn capi_info(module: *const CModule, expected: *const CInfo) -> *const c_char;
    fn capi_launch(module: *const CModule) -> *const c_char;
    fn capi_reports(module: *const CModule) -> *const c_char;
    fn capi_launch_after(module: *const CModule) -> *const c_char;
    fn capi_wait_timeout(module: *const CModule) -> *const c_char;
    fn capi_queue_options(module: *const CModule) -> *const c_char;
    fn capi_prefetch(module: *const CModule) -> *const c_char;
    fn capi_any_order(module: *const CModule) -> *const c_char;
    fn capi_withhold(page: *mut c_void) -> c_int;
}

/// All tests.
pub fn all() -> Vec<Test<'static>> {
    vec![
        ("modules_go", Box::new(modules_go)),
        ("modules_stay", Box::new(modules_stay)),
        ("modules_without_waits", Box::new(modules_without_waits)),
        ("accesses_not_allowed", Box::new(accesses_not_allowed)),
        ("kernels_that_fail", Box::new(kernels_that_fail)),
        ("stopped", Box::new(stopped)),
        ("queue_full", Box::new(queue_full)),
        ("forgotten", Box::new(forgotten)),
        ("stack_size", Box::new(stack_size)),
        ("queues_run_out", Box::new(queues_run_out)),
        ("after", Box::new(after)),
        ("after_a_failure", Box::new(after_a_failure)),
        ("after_what_is_refused", Box::new(after_what_is_refused)),
        ("wait_timeout", Box::new(wait_timeout)),
        ("a_dispatch_keeps_its_queue", Box::new(keeps_its_queue)),
        ("not_mapped", Box::new(not_mapped)),
        ("c_info", Box::new(c_info)),
        ("c_launch", Box::new(|| in_c(capi_launch))),
        ("c_reports", Box::new(|| in_c(capi_reports))),
        ("c_launch_after", Box::new(|| in_c(capi_launch_after))),
        ("c_wait_timeout", Box::new(|| in_c(capi_wait_timeout))),
        ("c_queue_options", Box::new(|| in_c(capi_queue_options))),
        ("c_prefetch", Box::new(|| in_c(capi_prefetch))),
        ("c_any_order", Box::new(|| in_c(capi_any_order))),
    ]
}

/// `struct library_args`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Args {
    input: *const AtomicU64,
    output: *const AtomicU64,
    value: u64,
}

impl Args {
    /// For kernels that write only.
    fn to(output: &'static AtomicU64, value: u64) -> Self {
        Self::of(output, output, value)
    }

    fn of(input: &'static AtomicU64, output: &'static AtomicU64, value: u64) -> Self {
        Self {
            input,
            output,
            value,
        }
    }

    /// For kernels that access what they may not.
    fn bad(address: *mut AtomicU64) -> Self {
        Self {
            input: address,
            output: address,
            value: 1,
        }
    }
}

/// Memory for kernels. It is never freed, so that one which still runs after a test failed does no
/// harm.
fn words<const N: usize>() -> &'static [AtomicU64; N] {
    Box::leak(Box::new([const { AtomicU64::new(0) }; N]))
}

/// Pages that were never used, with this protection (`PROT_*`). They stay.
fn pages(count: usize, protection: c_int) -> Result<NonNull<AtomicU64>> {
    // SAFETY: a new mapping touches no existing memory.
    let pages = unsafe {
        libc::mmap(
            ptr::null_mut(),
            count * PAGE,
            protection,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    };
    ensure!(pages != libc::MAP_FAILED, io::Error::last_os_error());
    NonNull::new(pages.cast()).context("pages at address 0")
}

/// Whether the process has memory at an address.
fn is_mapped(address: u64) -> bool {
    let mut resident = 0;
    let page = address as usize / PAGE * PAGE;
    // SAFETY: mincore only looks, and `resident` has room for the byte of one page.
    unsafe { libc::mincore(page as *mut c_void, PAGE, &mut resident) == 0 }
}

fn module() -> Result<Module> {
    Ok(Module::from_elf(ELF)?)
}

fn kernel(name: &str) -> Result<Kernel> {
    Ok(module()?.kernel(name)?)
}

fn vm() -> Result<Vm> {
    Ok(Device::open()?.create_vm()?)
}

fn options(entries: u32, stack_size: u32) -> QueueOptions {
    QueueOptions {
        entries,
        stack_size,
    }
}

fn start_with(
    queue: &Queue,
    kernel: &Kernel,
    args: Args,
    threads: u64,
    options: LaunchOptions<'_>,
) -> Result<Dispatch, Error> {
    let args = Box::leak(Box::new(args));
    // SAFETY: all kernels take such arguments, which are never freed. What these point to is
    // accessed atomically by the CPU, if at all while the kernel runs, and never freed either; or the
    // process may not access it, so that the device does not.
    unsafe { queue.launch_with(kernel, args, threads, options) }
}

/// Starts one thread.
fn start(queue: &Queue, kernel: &Kernel, args: Args) -> Result<Dispatch, Error> {
    start_with(queue, kernel, args, 1, LaunchOptions::default())
}

/// Starts one thread after other dispatches.
fn start_after(
    queue: &Queue,
    kernel: &Kernel,
    args: Args,
    after: &[&Dispatch],
) -> Result<Dispatch, Error> {
    let timeout = None;
    start_with(queue, kernel, args, 1, LaunchOptions { after, timeout })
}

/// Starts one thread that is to be ended after this time.
fn start_limited(
    queue: &Queue,
    kernel: &Kernel,
    args: Args,
    milliseconds: u64,
) -> Result<Dispatch, Error> {
    let options = LaunchOptions {
        timeout: Some(Duration::from_millis(milliseconds)),
        ..Default::default()
    };
    start_with(queue, kernel, args, 1, options)
}

fn expect(word: &AtomicU64, value: u64) -> Result<()> {
    let found = word.load(Ordering::Acquire);
    ensure!(found == value, "{found} is there, not {value}");
    Ok(())
}

fn expect_pending(dispatch: &Dispatch) -> Result<()> {
    let result = dispatch.wait_timeout(Duration::ZERO);
    ensure!(matches!(result, Ok(None)), "it ended: {result:?}");
    Ok(())
}

fn expect_mapped(kernels: &[u64], expected: &[bool]) -> Result<()> {
    let mapped: Vec<_> = kernels.iter().map(|&entry| is_mapped(entry)).collect();
    ensure!(mapped == expected, "the modules are there: {mapped:?}");
    Ok(())
}

/// Checks that a call failed as it must.
macro_rules! refused {
    ($result:expr, $error:pat) => {{
        let result = $result;
        ensure!(matches!(result, Err($error)), "it gave {result:?}");
    }};
}

/// Modules that nobody has any more go when a wait tells that their dispatches have ended.
fn modules_go() -> Result<()> {
    let (vm, [word]) = (vm()?, words());
    let queue = vm.create_queue()?;
    for launches in 1..=4 * ENTRIES {
        let kernel = kernel("add")?;
        let entry = kernel.entry();
        let dispatch = start(&queue, &kernel, Args::to(word, 1))?;
        drop(kernel);
        dispatch.wait()?;
        expect_mapped(&[entry], &[false])?;
        expect(word, launches)?;
    }
    // A dispatch that failed is over too.
    let kernel = kernel("illegal")?;
    let entry = kernel.entry();
    let dispatch = start(&queue, &kernel, Args::to(word, 1))?;
    drop(kernel);
    refused!(dispatch.wait(), LaunchError::Illegal { .. });
    expect_mapped(&[entry], &[false])
}

/// A module stays for as long as one of its dispatches may run, whatever has ended.
fn modules_stay() -> Result<()> {
    let (vm, [flags @ .., out]) = (vm()?, words::<4>());
    let queue = vm.create_queue()?;
    let (first, second, add) = (kernel("await")?, kernel("await")?, kernel("add")?);
    let entries = [first.entry(), second.entry()];
    let dispatches = [&first, &second, &first]
        .iter()
        .zip(flags)
        .map(|(kernel, flag)| start(&queue, kernel, Args::of(flag, out, 1)))
        .collect::<Result<Vec<_>, _>>()?;
    drop((first, second));

    let stay = [[true, true], [true, false], [false, false]];
    for (index, (dispatch, flag)) in dispatches.iter().zip(flags).enumerate() {
        for pending in &dispatches[index..] {
            expect_pending(pending)?;
        }
        flag.store(index as u64 + 10, Ordering::Release);
        dispatch.wait()?;
        expect(out, index as u64 + 11)?;
        expect_mapped(&entries, &stay[index])?;
        // Nor does a launch take what still runs.
        start(&queue, &add, Args::to(flag, 0))?;
        expect_mapped(&entries, &stay[index])?;
    }
    Ok(())
}

/// Where nobody waits, launches let go of what has ended.
fn modules_without_waits() -> Result<()> {
    let (vm, [flag, out, other]) = (vm()?, words());
    let (queue, second) = (vm.create_queue()?, vm.create_queue()?);
    // All are loaded before the first can go, so that none takes its place.
    let kernels = ["add", "add", "await", "add", "add"].map(kernel);
    let [first, ended, running, new, elsewhere] = kernels;
    let (first, ended, running, new) = (first?, ended?, running?, new?);
    let entries = [&first, &ended, &running, &new].map(Kernel::entry);
    start(&queue, &first, Args::to(out, 1))?;
    let last = start(&queue, &ended, Args::to(out, 1))?;
    start(&queue, &running, Args::of(flag, out, 1))?;
    drop((first, ended, running));
    // That of the other queue tells nothing to the library about this one.
    start_after(&second, &elsewhere?, Args::to(other, 1), &[&last])?.wait()?;
    expect(out, 2)?;
    let dispatch = start(&queue, &new, Args::to(out, 1))?;
    drop(new);
    expect_mapped(&entries, &[false, false, true, true])?;
    flag.store(7, Ordering::Release);
    dispatch.wait()?;
    expect_mapped(&entries, &[false; 4])?;
    expect(out, 9)?;

    // Nothing is kept for what was never started, and the rest goes with the queue.
    let kernel = kernel("add")?;
    let entry = kernel.entry();
    let refused = start_with(
        &queue,
        &kernel,
        Args::to(out, 1),
        0,
        LaunchOptions::default(),
    );
    refused!(refused, Error::OutOfRange { value: 0, .. });
    drop(kernel);
    expect_mapped(&[entry], &[false])?;
    flag.store(0, Ordering::Release);
    let kernel = self::kernel("await")?;
    let entry = kernel.entry();
    start(&queue, &kernel, Args::of(flag, out, 1))?;
    drop(kernel);
    expect_mapped(&[entry], &[true])?;
    drop((last, dispatch, queue));
    expect_mapped(&[entry], &[false])
}

fn accesses_not_allowed() -> Result<()> {
    let queue = vm()?.create_queue()?;
    let [word] = words();
    let bad = Args::bad(pages(1, libc::PROT_NONE)?.as_ptr());
    let address = bad.input as u64;
    let read = Args {
        output: word,
        ..bad
    };
    for (name, args, expected) in [
        ("copy", read, Access::Read),
        ("store", bad, Access::Write),
        ("add", bad, Access::Atomic),
        ("jump", bad, Access::Fetch),
    ] {
        let result = start(&queue, &kernel(name)?, args)?.wait();
        let Err(LaunchError::Fault {
            address: at,
            access,
        }) = result
        else {
            anyhow::bail!("{name} gave {result:?}");
        };
        ensure!((at, access) == (address, expected), "{access} at {at:#x}");
    }
    // A page that may be read may not be written for that.
    let page = pages(1, libc::PROT_READ)?;
    let args = Args {
        input: page.as_ptr(),
        output: word,
        value: 0,
    };
    word.store(1, Ordering::Release);
    start(&queue, &kernel("copy")?, args)?.wait()?;
    expect(word, 0)?;
    let store = start(&queue, &kernel("store")?, Args::bad(page.as_ptr()))?;
    refused!(
        store.wait(),
        LaunchError::Fault {
            access: Access::Write,
            ..
        }
    );
    Ok(())
}

fn kernels_that_fail() -> Result<()> {
    let queue = vm()?.create_queue()?;
    let [word, other] = words();
    let illegal = kernel("illegal")?;
    let result = start(&queue, &illegal, Args::to(word, 0))?.wait();
    let Err(LaunchError::Illegal { address }) = result else {
        anyhow::bail!("it gave {result:?}");
    };
    ensure!(address == illegal.entry(), "{address:#x}");

    let odd = ptr::from_ref(word).cast_mut().wrapping_byte_add(1);
    let result = start(&queue, &kernel("add")?, Args::bad(odd))?.wait();
    let Err(LaunchError::Misaligned { address, access }) = result else {
        anyhow::bail!("it gave {result:?}");
    };
    ensure!((address, access) == (odd as u64, Access::Atomic));

    let forever = start_limited(&queue, &kernel("forever")?, Args::to(word, 0), 50)?;
    refused!(forever.wait(), LaunchError::Timeout);
    // The result can be had again, and the queue goes on.
    refused!(forever.wait(), LaunchError::Timeout);
    let report = start(&queue, &kernel("store")?, Args::to(word, 5))?.wait()?;
    ensure!(report.seqno == 4 && report.instructions > 0, "{report:?}");
    expect(word, 5)?;
    expect(other, 0)
}

/// A dispatch whose memory does not come is ended by the driver after ten times its limit, and its
/// queue with it.
fn stopped() -> Result<()> {
    let vm = vm()?;
    let queue = vm.create_queue()?;
    let [word] = words();
    let page = pages(1, libc::PROT_READ | libc::PROT_WRITE)?;
    // SAFETY: the page is new.
    let file = unsafe { capi_withhold(page.as_ptr().cast()) };
    ensure!(file >= 0, "userfaultfd: {}", io::Error::last_os_error());
    // SAFETY: the file is new and nobody else's.
    let file = unsafe { File::from_raw_fd(file) };

    let (copy, add) = (kernel("copy")?, kernel("add")?);
    let args = Args {
        input: page.as_ptr(),
        output: word,
        value: 0,
    };
    let first = start_limited(&queue, &copy, args, 1)?;
    let second = start(&queue, &add, Args::to(word, 1))?;
    let results = (first.wait(), second.wait());
    drop(file);
    refused!(results.0, LaunchError::Timeout);
    refused!(results.1, LaunchError::Stopped);
    expect(word, 0)?;
    refused!(start(&queue, &add, Args::to(word, 1)), Error::DeviceLost);
    // A new queue does.
    start(&vm.create_queue()?, &add, Args::to(word, 1))?.wait()?;
    expect(word, 1)
}

fn queue_full() -> Result<()> {
    let [flag, out] = words();
    for entries in [2, 64] {
        flag.store(0, Ordering::Release);
        out.store(0, Ordering::Release);
        let queue = vm()?.create_queue_with(options(entries, 8192))?;
        let add = kernel("add")?;
        let first = start(&queue, &kernel("await")?, Args::of(flag, out, 1))?;
        let rest = (1..entries).map(|_| start(&queue, &add, Args::to(out, 1)));
        let rest = rest.collect::<Result<Vec<_>, _>>()?;
        refused!(start(&queue, &add, Args::to(out, 1)), Error::QueueFull);
        flag.store(1, Ordering::Release);
        first.wait()?;
        start(&queue, &add, Args::to(out, 1))?.wait()?;
        ensure!(rest.iter().all(|dispatch| dispatch.wait().is_ok()));
        expect(out, u64::from(entries) + 2)?;
    }
    Ok(())
}

fn forgotten() -> Result<()> {
    let queue = vm()?.create_queue_with(options(2, 8192))?;
    let [word] = words();
    let add = kernel("add")?;
    let launch = || start(&queue, &add, Args::to(word, 1));
    let first = launch()?;
    let Report { seqno, .. } = first.wait()?;
    ensure!(seqno == 1 && first.seqno() == 1);
    let second = launch()?;
    second.wait()?;
    first.wait()?;
    let third = launch()?;
    third.wait()?;
    refused!(first.wait(), LaunchError::Forgotten);
    refused!(first.wait_timeout(Duration::ZERO), LaunchError::Forgotten);
    second.wait()?;
    ensure!(third.wait()?.seqno == 3);
    expect(word, 3)
}

/// Threads that run at a time do not share stacks as large as they were asked for.
fn stack_size() -> Result<()> {
    const THREADS: u64 = 256;
    let queue = vm()?.create_queue_with(options(2, STACK as u32 + 4096))?;
    let sums = words::<{ THREADS as usize }>();
    let deep = kernel("deep")?;
    let options = LaunchOptions::default();
    start_with(&queue, &deep, Args::to(&sums[0], 0), THREADS, options)?.wait()?;
    let kept = STACK / 8;
    for (index, sum) in (0..).zip(sums) {
        expect(sum, kept * index + kept * (kept - 1) / 2)?;
    }
    Ok(())
}

fn queues_run_out() -> Result<()> {
    let vm = vm()?;
    let [word] = words();
    let mut queues = Vec::new();
    let error = loop {
        match vm.create_queue_with(options(2, 16)) {
            Ok(queue) => queues.push(queue),
            Err(error) => break error,
        }
        ensure!(queues.len() < 1 << 16, "there is no end");
    };
    ensure!(
        matches!(error, Error::Exhausted { what: "queue" }),
        "{error:?}"
    );
    drop(queues);
    start(&vm.create_queue()?, &kernel("add")?, Args::to(word, 1))?.wait()?;
    expect(word, 1)
}

/// A dispatch starts when those in other queues have ended, though nobody has them any more; what
/// waits for nothing overtakes it.
fn after() -> Result<()> {
    let vm = vm()?;
    let [flag, out, other, copy, now] = words();
    let (await_, copying) = (kernel("await")?, kernel("copy")?);
    let queues = (0..4)
        .map(|_| vm.create_queue())
        .collect::<Result<Vec<_>, _>>()?;
    let first = start(&queues[0], &await_, Args::of(flag, out, 1))?;
    let second = start(&queues[1], &kernel("add")?, Args::to(other, 1))?;
    let last = start_after(
        &queues[2],
        &copying,
        Args::of(out, copy, 0),
        &[&first, &second],
    )?;
    drop(first);
    start(&queues[3], &kernel("store")?, Args::to(now, 3))?.wait()?;
    expect(now, 3)?;
    expect_pending(&last)?;
    expect(copy, 0)?;
    flag.store(8, Ordering::Release);
    last.wait()?;
    expect(copy, 9)?;
    expect(other, 1)
}

fn after_a_failure() -> Result<()> {
    let vm = vm()?;
    let (first, second) = (vm.create_queue()?, vm.create_queue()?);
    let [word] = words();
    let forever = start_limited(&first, &kernel("forever")?, Args::to(word, 0), 50)?;
    start_after(&second, &kernel("add")?, Args::to(word, 1), &[&forever])?.wait()?;
    refused!(forever.wait_timeout(Duration::ZERO), LaunchError::Timeout);
    expect(word, 1)
}

fn after_what_is_refused() -> Result<()> {
    let (queue, other) = (vm()?.create_queue()?, vm()?.create_queue()?);
    let [word] = words();
    let add = kernel("add")?;
    let dispatch = start(&queue, &add, Args::to(word, 1))?;
    let launch = |queue, after: &[&Dispatch]| start_after(queue, &add, Args::to(word, 1), after);
    refused!(
        launch(&queue, &[&dispatch; 65]),
        Error::OutOfRange { value: 65, .. }
    );
    refused!(launch(&other, &[&dispatch]), Error::OtherDevice);
    launch(&queue, &[&dispatch; 64])?.wait()?;
    expect(word, 2)
}

fn wait_timeout() -> Result<()> {
    let queue = vm()?.create_queue()?;
    let [flag, out] = words();
    let dispatch = start(&queue, &kernel("await")?, Args::of(flag, out, 1))?;
    expect_pending(&dispatch)?;
    let before = std::time::Instant::now();
    ensure!(dispatch.wait_timeout(Duration::from_millis(20))?.is_none());
    ensure!(before.elapsed() >= Duration::from_millis(20));
    flag.store(1, Ordering::Release);
    let report = dispatch.wait_timeout(Duration::MAX)?;
    ensure!(report.is_some_and(|report| report.seqno == 1 && report.instructions > 0));
    ensure!(report == dispatch.wait_timeout(Duration::ZERO)?);
    ensure!(report == Some(dispatch.wait()?));
    expect(out, 2)
}

/// The queue goes with the last of it and its dispatches, and stops what it runs.
fn keeps_its_queue() -> Result<()> {
    let vm = vm()?;
    let (queue, other) = (vm.create_queue()?, vm.create_queue()?);
    let [flag, count, word] = words();
    let dispatch = start(&queue, &kernel("count")?, Args::of(flag, count, 0))?;
    drop(queue);
    let seen = count.load(Ordering::Acquire);
    while count.load(Ordering::Acquire) == seen {
        expect_pending(&dispatch)?;
    }
    drop(dispatch);
    let last = count.load(Ordering::Acquire);
    for _ in 0..10 {
        start(&other, &kernel("add")?, Args::to(word, 1))?.wait()?;
        expect(count, last)?;
    }
    expect(word, 10)
}

fn not_mapped() -> Result<()> {
    let vm = vm()?;
    let start = pages(2, libc::PROT_READ | libc::PROT_WRITE)?.as_ptr();
    let hole = start.wrapping_byte_add(PAGE);
    // SAFETY: the second page is nobody's, and the first stays.
    let word = unsafe {
        libc::munmap(hole.cast(), PAGE);
        &*start
    };
    word.store(5, Ordering::Release);
    let memory = ptr::slice_from_raw_parts(start.cast::<u8>(), 2 * PAGE);
    for (to, resident) in [(Location::Device, PAGE as u64), (Location::System, 0)] {
        let result = vm.prefetch(memory, to);
        let Err(Error::NotMapped { address }) = result else {
            anyhow::bail!("it gave {result:?}");
        };
        ensure!(address == hole as u64, "{address:#x} is not {hole:?}");
        let bytes = vm.stats()?.resident_bytes;
        ensure!(bytes == resident, "{bytes} bytes are on the device");
    }
    expect(word, 5)
}

fn c_info() -> Result<()> {
    let info = Device::open()?.info()?;
    let expected = CInfo {
        vram_size: info.vram_size,
        vram_free: info.vram_free,
        aperture_size: info.aperture_size,
        hw_version: info.hw_version,
        copy_engines: info.copy_engines,
        resident_threads: info.resident_threads,
        reserved: 0,
    };
    // SAFETY: both arguments are valid.
    check(unsafe { capi_info(&c_module(), &expected) })
}

fn c_module() -> CModule {
    CModule {
        elf: ELF.as_ptr(),
        size: ELF.len() as u64,
    }
}

/// Runs a test in C.
fn in_c(test: unsafe extern "C" fn(*const CModule) -> *const c_char) -> Result<()> {
    // SAFETY: the argument is valid.
    check(unsafe { test(&c_module()) })
}

/// The result of a test in C.
fn check(result: *const c_char) -> Result<()> {
    if result.is_null() {
        return Ok(());
    }
    // SAFETY: a string that stays until the next test.
    anyhow::bail!("{}", unsafe { CStr::from_ptr(result) }.to_string_lossy())
}
