// SPDX-License-Identifier: GPL-2.0

//! Nodes that serve the kernel's HMM tests, `tools/testing/selftests/mm/hmm-tests.c`, as
//! `lib/test_hmm.c` does, with a device that is one.
//!
//! An open file mirrors the memory of the process that opened it, as an address space of the device
//! does. To read and write it "by the device" is a dispatch, to migrate it a prefetch. The
//! interface is that of `lib/test_hmm_uapi.h`.

use core::{
    ops::Range,
    sync::atomic::{
        AtomicU32,
        Ordering, //
    },
};

use kernel::{
    device::{
        Bound,
        Device, //
    },
    devres::Devres,
    dma::Coherent,
    drm, fs,
    ioctl::_IOWR,
    miscdevice::{
        MiscDevice,
        MiscDeviceOptions,
        MiscDeviceRegistration, //
    },
    mm::{
        folio::PMD_ORDER,
        hmm::{
            self,
            Access,
            FaultError,
            RangeFault, //
        },
        migrate::can_collect,
        virt::{
            flags,
            VmaNew, //
        },
        MmWithUser, //
    },
    new_mutex,
    page::{
        Page,
        PAGE_SHIFT,
        PAGE_SIZE, //
    },
    prelude::*,
    sync::{
        aref::ARef,
        Arc,
        Mutex, //
    },
    transmute::{
        AsBytes,
        FromBytes, //
    },
    uaccess::{
        UserPtr,
        UserSlice, //
    },
    uapi,
};

use crate::{
    compute::{
        Outcome,
        Queue, //
    },
    driver::TernDevice,
    file::bound,
    gpu::Gpu,
    hw,
    mmu::{
        BLOCK_PAGES,
        BLOCK_SIZE, //
    },
    svm::{
        block::timeout,
        fault::Policy,
        migrate::evict_once,
        prefetch::Location,
        Extent,
        Space,
        Vm, //
    },
};

/// `struct hmm_dmirror_cmd`, the argument of all ioctls.
#[repr(C)]
struct Command {
    /// Where the device accesses memory.
    addr: u64,
    /// Where the caller has, or wants, the data.
    ptr: u64,
    npages: u64,
    /// Out: pages that were done.
    cpages: u64,
    /// Out: faults of the device.
    faults: u64,
}

// SAFETY: Any bit pattern is valid.
unsafe impl FromBytes for Command {}
// SAFETY: There is no padding.
unsafe impl AsBytes for Command {}

const READ: u32 = _IOWR::<Command>(b'H' as u32, 0);
const WRITE: u32 = _IOWR::<Command>(b'H' as u32, 1);
const MIGRATE_TO_DEV: u32 = _IOWR::<Command>(b'H' as u32, 2);
const MIGRATE_TO_SYS: u32 = _IOWR::<Command>(b'H' as u32, 3);
const SNAPSHOT: u32 = _IOWR::<Command>(b'H' as u32, 4);
const EXCLUSIVE: u32 = _IOWR::<Command>(b'H' as u32, 5);
const CHECK_EXCLUSIVE: u32 = _IOWR::<Command>(b'H' as u32, 6);
const RELEASE: u32 = _IOWR::<Command>(b'H' as u32, 7);
const FLAGS: u32 = _IOWR::<Command>(b'H' as u32, 8);
const READ_UNLOCKED: u32 = _IOWR::<Command>(b'H' as u32, 9);

/// For [`FLAGS`]: the next allocation of a migration of this mirror fails.
const FLAG_FAIL_ALLOC: u64 = 1 << 0;

// What [`SNAPSHOT`] tells of a page.
const PROT_READ: u8 = 0x01;
const PROT_WRITE: u8 = 0x02;
const PROT_PMD: u8 = 0x04;
const PROT_PUD: u8 = 0x08;
const PROT_ZERO: u8 = 0x10;
const PROT_DEV_PRIVATE_LOCAL: u8 = 0x20;
const PROT_ERROR: u8 = 0xff;

/// Order of what an entry of the level above PMD maps.
const PUD_ORDER: u32 = 2 * PMD_ORDER;

impl Command {
    /// The addresses that the device accesses, which may be such as no process has.
    fn range(&self) -> Result<Range<usize>> {
        let start = self.addr as usize;
        let end = start.wrapping_add((self.npages as usize) << PAGE_SHIFT);

        if start >= end || start % PAGE_SIZE != 0 {
            return Err(EINVAL);
        }
        Ok(start..end)
    }

    /// The caller's data.
    fn data(&self, length: usize) -> UserSlice {
        UserSlice::new(UserPtr::from_addr(self.ptr as usize), length)
    }

    /// Room for what the device reads or writes, which may be more than there is memory for.
    ///
    /// The caller's data is there as a whole before it goes on, so that a call that fails changes
    /// nothing, and data and memory may be the same.
    fn bounce(&self) -> Result<KVVec<u8>> {
        let flags = GFP_KERNEL_ACCOUNT | __GFP_ZERO | __GFP_NOWARN;
        let length = self.range()?.len();
        let mut data = KVVec::with_capacity(length, flags)?;

        // SAFETY: It has room for as many bytes, which are zero.
        unsafe { data.inc_len(length) };
        Ok(data)
    }

    /// Tells the caller what the device has read: `data`, of all pages.
    fn finish_read(&mut self, data: &[u8]) -> Result {
        self.data(data.len()).writer().write_slice(data)?;
        self.cpages = (data.len() / PAGE_SIZE) as u64;
        Ok(())
    }
}

/// Numbers of nodes that exist, as bits.
static NUMBERS: AtomicU32 = AtomicU32::new(0);

/// The number of a node, given to one at a time.
struct Number(usize);

impl Number {
    /// The names that the tests have for devices with private memory.
    const NAMES: [&'static CStr; 2] = [c"hmm_dmirror0", c"hmm_dmirror1"];

    fn take() -> Option<Self> {
        let is_free = |i: &usize| NUMBERS.fetch_or(1 << i, Ordering::Relaxed) & 1 << i == 0;

        (0..Self::NAMES.len()).find(is_free).map(Self)
    }

    fn name(&self) -> &'static CStr {
        Self::NAMES[self.0]
    }
}

impl Drop for Number {
    fn drop(&mut self) {
        NUMBERS.fetch_and(!(1 << self.0), Ordering::Relaxed);
    }
}

/// The node of a device.
#[pin_data]
pub(crate) struct Node {
    /// Goes first, so that nobody opens it any more.
    #[pin]
    misc: MiscDeviceRegistration<Mirror>,
    drm: ARef<TernDevice>,
    _number: Number,
}

impl Node {
    /// Makes the node of a device that is registered, if that is asked for and there are names
    /// left. May sleep.
    pub(crate) fn register(drm: ARef<TernDevice>) -> Result<Option<Pin<KBox<Self>>>> {
        if !cfg!(CONFIG_DRM_TERN_DMIRROR) || !crate::module_parameters::dmirror.value() {
            return Ok(None);
        }
        let Some(number) = Number::take() else {
            return Ok(None);
        };
        let name = number.name();
        let node = try_pin_init!(Self {
            // Before the node, from which it is opened.
            drm,
            _number: number,
            misc <- MiscDeviceRegistration::register(MiscDeviceOptions { name }),
        });

        Ok(Some(KBox::pin_init(node, GFP_KERNEL)?))
    }

    /// The node whose registration this is.
    fn of(misc: &MiscDeviceRegistration<Mirror>) -> &Self {
        // SAFETY: A registration for `Mirror` is made as a field of a `Node` only, whose other
        // fields are initialised before it.
        unsafe { &*kernel::container_of!(core::ptr::from_ref(misc), Self, misc) }
    }
}

/// Memory that the dispatches of a mirror use, at a place of its address space where no process has
/// any: code and arguments.
///
/// The memory is freed when the driver is unbound, if the file is not closed before.
struct Window {
    memory: Devres<Coherent<[u64]>>,
}

impl Window {
    /// Its address on the device.
    const BASE: usize = Space::RANGE.end;
    const ARGS: usize = PAGE_SIZE / 2;
    /// Bytes of it.
    const SIZE: usize = PAGE_SIZE;

    /// Threads of a dispatch: one wave, so that a fault is met by all of them at once.
    const THREADS: usize = 32;

    /// Copies from `args[1]` to `args[0]`, up to `args[2]` there; each thread every `THREADS`th
    /// part of 32 bytes:
    ///
    /// ```text
    ///         slli    a1, a1, 5
    ///         slli    a2, a2, 5
    ///         ld      a3, 8(a0)
    ///         ld      a4, 16(a0)
    ///         ld      a0, 0(a0)
    ///         add     a3, a3, a1
    ///         add     a0, a0, a1
    /// 1:      ld      t0, 0(a3)
    ///         ld      t1, 8(a3)
    ///         ld      t2, 16(a3)
    ///         ld      t3, 24(a3)
    ///         sd      t0, 0(a0)
    ///         sd      t1, 8(a0)
    ///         sd      t2, 16(a0)
    ///         sd      t3, 24(a0)
    ///         add     a3, a3, a2
    ///         add     a0, a0, a2
    ///         bltu    a0, a4, 1b
    ///         ecall
    /// ```
    const CODE: [u32; 19] = [
        0x0055_9593,
        0x0056_1613,
        0x0085_3683,
        0x0105_3703,
        0x0005_3503,
        0x00b6_86b3,
        0x00b5_0533,
        0x0006_b283,
        0x0086_b303,
        0x0106_b383,
        0x0186_be03,
        0x0055_3023,
        0x0065_3423,
        0x0075_3823,
        0x01c5_3c23,
        0x00c6_86b3,
        0x00c5_0533,
        0xfce5_6ce3,
        0x0000_0073,
    ];

    fn new(dev: &Device<Bound>) -> Result<Self> {
        let memory =
            Coherent::zeroed_slice(dev, Self::SIZE / size_of::<u64>(), GFP_KERNEL_ACCOUNT)?;
        let mut window = Self {
            memory: Devres::new(dev, memory)?,
        };
        let code = Self::CODE.iter().flat_map(|word| word.to_le_bytes());

        for (byte, code) in window.bytes(dev)?.iter_mut().zip(code) {
            *byte = code;
        }
        Ok(window)
    }

    fn dma_address(&self, dev: &Device<Bound>) -> Result<u64> {
        Ok(self.memory.access(dev)?.dma_address())
    }

    /// Its memory. No dispatch uses it: the queue is idle or gone whenever a caller comes here.
    fn bytes<'a>(&'a mut self, dev: &'a Device<Bound>) -> Result<&'a mut [u8]> {
        let memory = self.memory.access(dev)?.as_mut_ptr().cast();

        // SAFETY: The memory has this size and is borrowed mutably, as long as the device is bound,
        // and the device does not access it at the time.
        Ok(unsafe { core::slice::from_raw_parts_mut(memory, Self::SIZE) })
    }

    /// A dispatch that copies `size` bytes, whole pages, within the device's address space.
    fn copy(
        &mut self,
        dev: &Device<Bound>,
        dst: usize,
        src: usize,
        size: usize,
    ) -> Result<hw::DispatchPacket> {
        const WATCHDOG_MS: u32 = 10_000;
        let args = [dst, src, dst + size].map(|arg| (arg as u64).to_le_bytes());

        self.bytes(dev)?[Self::ARGS..Self::ARGS + 24].copy_from_slice(args.as_flattened());
        Ok(hw::DispatchPacket {
            op: hw::OP_DISPATCH,
            entry: Self::BASE as u64,
            args: (Self::BASE + Self::ARGS) as u64,
            threads: Self::THREADS as u64,
            watchdog_ms: WATCHDOG_MS,
            ..Default::default()
        })
    }
}

/// Memory through which dispatches read and write data, at another such place. It is there as long
/// as a call takes, in pieces that are not hard to find.
struct Data<'a> {
    vm: &'a Vm,
    pieces: KVec<Coherent<[u64]>>,
}

impl<'a> Data<'a> {
    /// Its address on the device.
    const BASE: usize = Window::BASE + BLOCK_SIZE;
    /// Bytes of a piece.
    const PIECE: usize = 8 * PAGE_SIZE;
    /// The most bytes of it: those that are copied by one dispatch.
    const MAX: usize = BLOCK_SIZE / 2;

    /// For `size` bytes, up to [`Self::MAX`]. Only one at a time in an address space. May sleep.
    fn new(dev: &Device<Bound>, vm: &'a Vm, size: usize) -> Result<Self> {
        let mut data = Self {
            vm,
            pieces: KVec::new(),
        };

        for at in (0..size).step_by(Self::PIECE) {
            let length = Self::PIECE / size_of::<u64>();
            let piece = Coherent::zeroed_slice(dev, length, GFP_KERNEL_ACCOUNT)?;
            let addr = piece.dma_address();

            data.pieces.push(piece, GFP_KERNEL)?;
            vm.map_own(Self::BASE + at, Self::PIECE / PAGE_SIZE, addr)?;
        }
        Ok(data)
    }

    /// The pieces. No dispatch uses them: the queue is idle whenever a caller comes here.
    fn pieces(&mut self) -> impl Iterator<Item = &mut [u8]> {
        self.pieces.iter_mut().map(|piece| {
            // SAFETY: The memory has this size and is borrowed mutably, and the device does not
            // access it at the time.
            unsafe { core::slice::from_raw_parts_mut(piece.as_mut_ptr().cast(), Self::PIECE) }
        })
    }

    /// Copies all of `from` to its start.
    fn set(&mut self, from: &[u8]) {
        for (piece, from) in self.pieces().zip(from.chunks(Self::PIECE)) {
            piece[..from.len()].copy_from_slice(from);
        }
    }

    /// Copies its start to all of `to`.
    fn get(&mut self, to: &mut [u8]) {
        for (piece, to) in self.pieces().zip(to.chunks_mut(Self::PIECE)) {
            to.copy_from_slice(&piece[..to.len()]);
        }
    }
}

impl Drop for Data<'_> {
    fn drop(&mut self) {
        self.vm.unmap_own(Self::BASE..Self::BASE + Self::MAX);
    }
}

/// A queue that is gone when it is not used any more, whatever it has to do then.
struct TemporaryQueue<'a> {
    gpu: &'a Gpu,
    queue: Arc<Queue>,
}

impl TemporaryQueue<'_> {
    /// Runs a dispatch to its end. Sleeps.
    ///
    /// Fails with `ERESTARTSYS` after a signal; the queue must be dropped then.
    fn run(&self, packet: hw::DispatchPacket) -> Result<Outcome> {
        let (seqno, fence) = self.queue.submit(packet, KVec::new())?;

        fence.wait()?;
        self.queue.outcome(seqno)?.ok_or(EIO)
    }
}

impl Drop for TemporaryQueue<'_> {
    fn drop(&mut self) {
        self.gpu.destroy_queue(&self.queue);
    }
}

/// An open file: an address space of the device over the memory of the process that opened it.
#[pin_data(PinnedDrop)]
pub(crate) struct Mirror {
    drm: ARef<TernDevice>,
    gpu: Arc<Gpu>,
    vm: Arc<Vm>,
    /// Locked while a dispatch uses it.
    #[pin]
    window: Mutex<Window>,
}

impl Mirror {
    fn new(drm: &TernDevice) -> Result<Pin<KBox<Self>>> {
        let dev = enter(drm).ok_or(ENODEV)?;
        let dev = bound(&dev);
        let gpu: Arc<Gpu> = Arc::clone(drm);
        let window = Window::new(dev)?;
        let addr = window.dma_address(dev)?;
        let mirror = KBox::new_uninit(GFP_KERNEL)?;
        let vm = gpu.create_space(
            dev,
            drm.into(),
            current!().mm().ok_or(EINVAL)?,
            Extent::Exact,
        )?;

        // Cannot fail. From here on the drop ends the address space, before the window goes.
        let mirror: Pin<KBox<Self>> = mirror.write_pin_init(try_pin_init!(Self {
            drm: drm.into(),
            gpu,
            vm,
            window <- new_mutex!(window, "tern::Mirror::window"),
        }? Error))?;
        mirror
            .vm
            .map_own(Window::BASE, Window::SIZE / PAGE_SIZE, addr)?;
        Ok(mirror)
    }

    /// Lets the device read memory to `data`, or write it from there; returns the number of its
    /// faults. What is done for them is `policy`. Sleeps.
    ///
    /// Fails as the core does for memory that the process does not have, or not any more, and with
    /// `ENOENT` if faults are refused and the device cannot reach all of it.
    fn transfer(
        &self,
        dev: &Device<Bound>,
        range: &Range<usize>,
        access: Access,
        data: &mut [u8],
        policy: Policy,
    ) -> Result<u64> {
        let mm = self.vm.mm().ok_or(EFAULT)?;
        if range.end > Space::RANGE.end {
            return Err(EFAULT);
        }
        let mut window = self.window.lock();
        // Dropped after the queue.
        let mut exchange = Data::new(dev, &self.vm, data.len().min(Data::MAX))?;
        let queue = TemporaryQueue {
            gpu: &self.gpu,
            queue: self.gpu.create_queue(dev, self.vm.clone(), 2)?,
        };
        let is_refused = matches!(policy, Policy::Refuse);
        let locked = matches!(policy, Policy::Map { locked: true, .. });
        let faults = &self.vm.origin.stats.faults;
        let before = faults.get();

        self.vm.set_policy(policy);
        let addrs = range.clone().step_by(Data::MAX);
        for (addr, data) in addrs.zip(data.chunks_mut(Data::MAX)) {
            let (dst, src) = match access {
                Access::Write => (addr, Data::BASE),
                _ => (Data::BASE, addr),
            };

            if access == Access::Write {
                exchange.set(data);
            }
            let outcome = queue.run(window.copy(dev, dst, src, data.len())?)?;
            match outcome.status {
                uapi::drm_tern_result_status_DRM_TERN_RESULT_OK if access == Access::Write => (),
                uapi::drm_tern_result_status_DRM_TERN_RESULT_OK => exchange.get(data),
                uapi::drm_tern_result_status_DRM_TERN_RESULT_FAULT if is_refused => {
                    return Err(ENOENT)
                }
                uapi::drm_tern_result_status_DRM_TERN_RESULT_FAULT => {
                    let addr = outcome.address as usize;

                    // The device may say anything.
                    return Err(match range.contains(&addr) {
                        true => self.why(&mm, addr, access, locked),
                        false => EIO,
                    });
                }
                _ => return Err(EIO),
            }
        }
        Ok(faults.get() - before)
    }

    /// Why an access to `addr`, which is in the process's memory, faulted, in the core's words.
    fn why(&self, mm: &MmWithUser, addr: usize, access: Access, locked: bool) -> Error {
        let ask = || -> Result<(), FaultError> {
            let start = addr & !(PAGE_SIZE - 1);
            let mut buf = hmm::Buffer::new(1, GFP_KERNEL).map_err(Error::from)?;

            let fault = RangeFault::new(&self.vm.notifier, start..start + PAGE_SIZE, access);
            let answer = match locked {
                true => fault.fault(&mm.mmap_read_lock(), &mut buf),
                false => fault.fault_unlocked(mm, timeout(), &mut buf),
            };

            answer.map(|_| ())
        };

        // If there is nothing against it any more, there was.
        ask().err().map_or(EFAULT, Error::from)
    }

    /// [`READ`], and [`READ_UNLOCKED`], which waits for memory that a handler in user space has to
    /// provide.
    fn read(&self, dev: &Device<Bound>, args: &mut Command, locked: bool) -> Result {
        let range = args.range()?;
        let mut data = args.bounce()?;
        let policy = Policy::Map {
            range: range.clone(),
            locked,
        };

        args.faults = self.transfer(dev, &range, Access::Read, &mut data, policy)?;
        args.finish_read(&data)
    }

    /// [`WRITE`].
    fn write(&self, dev: &Device<Bound>, args: &mut Command) -> Result {
        let range = args.range()?;
        let mut data = args.bounce()?;
        let policy = Policy::Map {
            range: range.clone(),
            locked: true,
        };

        args.data(data.len()).reader().read_slice(&mut data)?;
        args.faults = self.transfer(dev, &range, Access::Write, &mut data, policy)?;
        args.cpages = (range.len() / PAGE_SIZE) as u64;
        Ok(())
    }

    /// Shows the caller what the device has now.
    fn show(&self, dev: &Device<Bound>, args: &mut Command) -> Result {
        let range = args.range()?;
        let mut data = args.bounce()?;

        self.transfer(dev, &range, Access::Read, &mut data, Policy::Refuse)?;
        args.finish_read(&data)
    }

    /// [`MIGRATE_TO_DEV`] and [`MIGRATE_TO_SYS`]; returns the number of pages.
    fn migrate(&self, args: &Command, location: Location) -> Result<usize> {
        let mm = self.vm.mm().ok_or(EINVAL)?;
        let mut range = args.range()?;

        check_areas(&mm, &range)?;
        self.vm
            .prefetch(&mm, &mut range, location)
            // It was there a moment ago.
            .map_err(|e| if e == EFAULT { EINVAL } else { e })
    }

    /// [`SNAPSHOT`].
    fn snapshot(&self, args: &mut Command) -> Result {
        let mm = self.vm.mm().ok_or(EINVAL)?;
        let range = args.range()?;
        let mut user = args.data(range.len() / PAGE_SIZE).writer();
        let mut buf = hmm::Buffer::new(BLOCK_PAGES, GFP_KERNEL)?;

        for start in range.clone().step_by(BLOCK_SIZE) {
            let part = start..start + BLOCK_SIZE.min(range.end - start);

            if current!().signal_pending() {
                return Err(ERESTARTSYS);
            }
            user.write_slice(&self.snapshot_block(&mm, part, &mut buf)?)?;
        }
        args.cpages = (range.len() / PAGE_SIZE) as u64;
        Ok(())
    }

    /// A byte for each page of `range`, which has at most [`BLOCK_PAGES`].
    fn snapshot_block(
        &self,
        mm: &MmWithUser,
        range: Range<usize>,
        buf: &mut hmm::Buffer,
    ) -> Result<KVec<u8>> {
        let mut pages = KVec::from_elem(PROT_ERROR, range.len() / PAGE_SIZE, GFP_KERNEL)?;
        let range = range.start..range.end.min(Space::RANGE.end);

        if range.is_empty() {
            return Ok(pages);
        }
        loop {
            let answer = RangeFault::new(&self.vm.notifier, range.clone(), Access::Snapshot)
                .owner(self.gpu.memory.owner())
                .fault_unlocked(mm, timeout(), buf)?;
            let Ok(stable) = answer.lock() else {
                continue;
            };

            for (i, page) in pages.iter_mut().take(range.len() / PAGE_SIZE).enumerate() {
                *page = if stable.is_error(i) { PROT_ERROR } else { 0 };
            }
            for entry in stable.entries() {
                pages[entry.index()..entry.index() + entry.nr_pages()].fill(protection(&entry));
            }
            return Ok(pages);
        }
    }

    fn command(&self, dev: &Device<Bound>, cmd: u32, args: &mut Command) -> Result {
        let range = args.range()?;

        match cmd {
            READ | READ_UNLOCKED => self.read(dev, args, cmd == READ),
            WRITE => self.write(dev, args),
            MIGRATE_TO_DEV => {
                self.migrate(args, Location::Device)?;
                self.show(dev, args)
            }
            MIGRATE_TO_SYS => {
                args.cpages = self.migrate(args, Location::System)? as u64;
                Ok(())
            }
            SNAPSHOT => self.snapshot(args),
            EXCLUSIVE => {
                let mm = self.vm.mm().ok_or(EINVAL)?;

                self.vm.make_exclusive(dev, &mm, &range)?;
                self.show(dev, args)
            }
            CHECK_EXCLUSIVE if self.vm.has_exclusive(&range) => Err(EPERM),
            CHECK_EXCLUSIVE => Ok(()),
            RELEASE => evict_once(&self.gpu.memory),
            FLAGS => {
                let fail = args.npages & FLAG_FAIL_ALLOC != 0;

                self.vm.origin.inject_failure(fail);
                Ok(())
            }
            _ => Err(EINVAL),
        }
    }
}

#[pinned_drop]
impl PinnedDrop for Mirror {
    fn drop(self: Pin<&mut Self>) {
        self.gpu.destroy_space(&self.vm);
        // Folios may be left that outlive it.
        self.vm.origin.inject_failure(false);
        // At unbind all memory is brought back anyway.
        if let Some(_bound) = enter(&self.drm) {
            // What cannot be had now stays on the device, as for `RELEASE`.
            let _ = evict_once(&self.gpu.memory);
        }
    }
}

#[vtable]
impl MiscDevice for Mirror {
    type Ptr = Pin<KBox<Self>>;

    fn open(_file: &fs::File, misc: &MiscDeviceRegistration<Self>) -> Result<Self::Ptr> {
        Self::new(&Node::of(misc).drm)
    }

    fn ioctl(me: Pin<&Self>, _file: &fs::File, cmd: u32, arg: usize) -> Result<isize> {
        let user = UserSlice::new(UserPtr::from_addr(arg), size_of::<Command>());
        let (mut reader, mut writer) = user.reader_writer();
        let mut args: Command = reader.read()?;
        let dev = enter(&me.drm).ok_or(ENODEV)?;

        args.cpages = 0;
        args.faults = 0;
        me.command(bound(&dev), cmd, &mut args)?;
        writer.write(&args)?;
        Ok(0)
    }

    /// Memory that is mapped though the core does not own it: pages of nobody in particular.
    fn mmap(_me: Pin<&Self>, _file: &fs::File, vma: &VmaNew) -> Result {
        let mixed = vma.set_mixedmap();

        for addr in (vma.start()..vma.end()).step_by(PAGE_SIZE) {
            mixed.vm_insert_page(addr, &Page::alloc_page(GFP_KERNEL | __GFP_ZERO)?)?;
        }
        Ok(())
    }
}

/// Keeps the driver bound; `None` if it is not, or not any more.
fn enter(drm: &TernDevice) -> Option<drm::RegistrationGuard<'_, crate::driver::TernDriver>> {
    // SAFETY: Nodes are made for devices that are registered.
    unsafe { drm.assume_ctx::<drm::Ioctl>() }.registration_guard()
}

/// Fails with `EINVAL` unless all of `range` is memory that the process may read, and of a kind
/// that can migrate.
fn check_areas(mm: &MmWithUser, range: &Range<usize>) -> Result {
    let mmap = mm.mmap_read_lock();
    let mut at = range.start;

    while at < range.end {
        let vma = mmap.vma_lookup(at).ok_or(EINVAL)?;

        if vma.flags() & flags::READ == 0 || !can_collect(vma) {
            return Err(EINVAL);
        }
        at = vma.end();
    }
    Ok(())
}

/// What [`SNAPSHOT`] tells of the pages of `entry`.
fn protection(entry: &hmm::Entry<'_>) -> u8 {
    let place = if entry.is_device_private() {
        PROT_DEV_PRIVATE_LOCAL
    } else if entry.is_zero_page() {
        PROT_ZERO
    } else {
        0
    };
    let right = if entry.is_writable() {
        PROT_WRITE
    } else {
        PROT_READ
    };
    let size = match entry.map_order() {
        PMD_ORDER => PROT_PMD,
        PUD_ORDER => PROT_PUD,
        _ => 0,
    };

    place | right | size
}
