// SPDX-License-Identifier: GPL-2.0

//! Open files and ioctls.

use core::ops::Range;

use kernel::{
    device::{
        Bound,
        Device, //
    },
    dma_fence::Fence,
    drm::{
        self,
        gem::BaseObject,
        print::{
            Printer,
            Region, //
        },
        syncobj::SyncObj,
        Registered, //
    },
    new_mutex, pci,
    prelude::*,
    sync::{
        aref::ARef,
        Arc,
        Mutex, //
    },
    uaccess::UserSlice,
    uapi,
};

use crate::{
    compute::{
        Outcome,
        Queue, //
    },
    driver::{
        TernDevice,
        TernDriver, //
    },
    gem::{
        BufferArgs,
        TernObject, //
    },
    gpu::Gpu,
    hw,
    stats::{
        Counter,
        Stats, //
    },
    svm::{
        prefetch::Location,
        Extent,
        Space,
        Vm, //
    },
};

type DrmFile = drm::File<File>;

/// Objects of a file by handle. Handle 0 is none.
struct Handles<T>(KVec<Option<Arc<T>>>);

impl<T> Handles<T> {
    /// Handles that a file may have at a time.
    const MAX: usize = 4096;

    fn get(&self, handle: u32) -> Result<Arc<T>> {
        let i = (handle as usize).checked_sub(1).ok_or(ENOENT)?;
        self.0.get(i).cloned().flatten().ok_or(ENOENT)
    }

    /// Makes sure that [`Self::add`] will find a place.
    fn reserve(&mut self) -> Result {
        if self.0.iter().any(Option::is_none) {
            return Ok(());
        }
        if self.0.len() == Self::MAX {
            return Err(ENOSPC);
        }
        Ok(self.0.push(None, GFP_KERNEL)?)
    }

    fn add(&mut self, object: Arc<T>) -> Result<u32> {
        let i = self.0.iter().position(Option::is_none).ok_or(ENOSPC)?;
        self.0[i] = Some(object);
        Ok(i as u32 + 1)
    }

    fn remove(&mut self, handle: u32) -> Result<Arc<T>> {
        let object = self.get(handle)?;
        self.0[handle as usize - 1] = None;
        Ok(object)
    }
}

struct Objects {
    vms: Handles<Vm>,
    queues: Handles<Queue>,
}

/// An open file.
#[pin_data(PinnedDrop)]
pub(crate) struct File {
    gpu: Arc<Gpu>,
    /// Bytes in its buffers, those included of which only mappings are left.
    buffer_bytes: Arc<Counter>,
    #[pin]
    objects: Mutex<Objects>,
}

impl drm::file::DriverFile for File {
    type Driver = TernDriver;

    fn open(dev: &TernDevice) -> Result<Pin<KBox<Self>>> {
        let gpu: Arc<Gpu> = Arc::clone(dev);
        let buffer_bytes = Arc::new(Counter::default(), GFP_KERNEL)?;

        KBox::pin_init(
            try_pin_init!(Self {
                gpu,
                buffer_bytes,
                objects <- new_mutex!(Objects {
                    vms: Handles(KVec::new()),
                    queues: Handles(KVec::new()),
                }, "tern::File"),
            }? Error),
            GFP_KERNEL,
        )
    }

    /// What of the file's buffers and address spaces is seen in `/proc/PID/fdinfo`.
    fn show_fdinfo(file: &DrmFile, p: &Printer) {
        let sum = Stats::default();
        let own = file.inner().get_ref();

        for vm in own.objects.lock().vms.0.iter().flatten() {
            sum.add(&vm.origin.stats);
        }
        let resident = sum.resident_bytes.get() + own.buffer_bytes.get();
        p.memory_region(
            c"vram",
            &Region {
                private: resident,
                resident,
                ..Default::default()
            },
        );
        for (name, count) in sum.counts() {
            p.print(fmt!("tern-{}:\t{}\n", name, count.get()));
        }
        for (name, ns) in sum.times() {
            p.print(fmt!("tern-{}:\t{} ns\n", name, ns.get()));
        }
    }
}

#[pinned_drop]
impl PinnedDrop for File {
    fn drop(self: Pin<&mut Self>) {
        let mut objects = self.objects.lock();

        for queue in objects.queues.0.drain_all().flatten() {
            self.gpu.destroy_queue(&queue);
        }
        for vm in objects.vms.0.drain_all().flatten() {
            self.gpu.destroy_space(&vm);
        }
    }
}

/// Fails with `EINVAL` unless all of it is zero.
fn zero(values: &[u64]) -> Result {
    if values.iter().all(|&value| value == 0) {
        Ok(())
    } else {
        Err(EINVAL)
    }
}

/// The device that an ioctl runs for.
pub(crate) fn bound(dev: &TernDevice<Registered>) -> &Device<Bound> {
    let pdev: &pci::Device<Bound> = dev.as_ref();
    pdev.as_ref()
}

/// The device as one to be kept.
fn normal(dev: &TernDevice<Registered>) -> &TernDevice {
    dev
}

impl File {
    /// `DRM_IOCTL_TERN_DEVICE_QUERY`.
    pub(crate) fn device_query(
        dev: &TernDevice<Registered>,
        _reg: &(),
        args: &mut uapi::drm_tern_device_query,
        _file: &DrmFile,
    ) -> Result<u32> {
        let gpu: &Gpu = dev;

        zero(&[args.flags.into()])?;
        *args = uapi::drm_tern_device_query {
            hw_version: gpu.info.version,
            vram_size: (gpu.memory.vram.pages() as u64) << 12,
            vram_free: (gpu.memory.vram.free_pages() as u64) << 12,
            aperture_size: gpu.info.aperture_size,
            copy_engines: gpu.memory.copies.len() as u32,
            resident_threads: gpu.info.resident_threads,
            ..Default::default()
        };
        Ok(0)
    }

    /// `DRM_IOCTL_TERN_VM_CREATE`.
    pub(crate) fn vm_create(
        dev: &TernDevice<Registered>,
        _reg: &(),
        args: &mut uapi::drm_tern_vm_create,
        file: &DrmFile,
    ) -> Result<u32> {
        let gpu: &Gpu = dev;

        zero(&[args.flags.into(), args.reserved[0], args.reserved[1]])?;
        let mut objects = file.inner().get_ref().objects.lock();
        objects.vms.reserve()?;
        let vm = gpu.create_space(
            bound(dev),
            normal(dev).into(),
            current!().mm().ok_or(EINVAL)?,
            Extent::Around,
        )?;
        args.handle = objects.vms.add(vm)?;
        Ok(0)
    }

    /// `DRM_IOCTL_TERN_VM_DESTROY`.
    pub(crate) fn vm_destroy(
        dev: &TernDevice<Registered>,
        _reg: &(),
        args: &mut uapi::drm_tern_handle,
        file: &DrmFile,
    ) -> Result<u32> {
        let gpu: &Gpu = dev;

        zero(&[args.flags.into()])?;
        let mut objects = file.inner().get_ref().objects.lock();
        let vm = objects.vms.get(args.handle)?;
        if objects
            .queues
            .0
            .iter()
            .flatten()
            .any(|queue| Arc::ptr_eq(&queue.vm, &vm))
        {
            return Err(EBUSY);
        }
        objects.vms.remove(args.handle)?;
        gpu.destroy_space(&vm);
        Ok(0)
    }

    /// `DRM_IOCTL_TERN_QUEUE_CREATE`.
    pub(crate) fn queue_create(
        dev: &TernDevice<Registered>,
        _reg: &(),
        args: &mut uapi::drm_tern_queue_create,
        file: &DrmFile,
    ) -> Result<u32> {
        let gpu: &Gpu = dev;
        let entries = if args.entries == 0 { 64 } else { args.entries };

        zero(&[args.flags.into(), args.reserved[0], args.reserved[1]])?;
        if !entries.is_power_of_two() || !(2..=4096).contains(&entries) {
            return Err(EINVAL);
        }
        let mut objects = file.inner().get_ref().objects.lock();
        let vm = objects.vms.get(args.vm)?;
        vm.check_owner()?;
        objects.queues.reserve()?;
        let queue = gpu.create_queue(bound(dev), vm, entries)?;
        args.handle = objects.queues.add(queue)?;
        Ok(0)
    }

    /// `DRM_IOCTL_TERN_QUEUE_DESTROY`.
    pub(crate) fn queue_destroy(
        dev: &TernDevice<Registered>,
        _reg: &(),
        args: &mut uapi::drm_tern_handle,
        file: &DrmFile,
    ) -> Result<u32> {
        let gpu: &Gpu = dev;

        zero(&[args.flags.into()])?;
        let mut objects = file.inner().get_ref().objects.lock();
        let queue = objects.queues.remove(args.handle)?;
        gpu.destroy_queue(&queue);
        Ok(0)
    }

    /// `DRM_IOCTL_TERN_SUBMIT`.
    pub(crate) fn submit(
        dev: &TernDevice<Registered>,
        _reg: &(),
        args: &mut uapi::drm_tern_submit,
        file: &DrmFile,
    ) -> Result<u32> {
        /// Milliseconds that a dispatch may run if its submitter has no wish.
        const TIMEOUT_MS: u32 = 30_000;
        /// Milliseconds that a dispatch may run at most.
        const MAX_TIMEOUT_MS: u32 = 3_600_000;
        let gpu: &Gpu = dev;

        zero(&[args.flags.into(), args.reserved[0], args.reserved[1]])?;
        if args.threads == 0
            || args.entry % 2 != 0
            || args.stack_size % 16 != 0
            || args.timeout_ms > MAX_TIMEOUT_MS
        {
            return Err(EINVAL);
        }
        let queue = file
            .inner()
            .get_ref()
            .objects
            .lock()
            .queues
            .get(args.queue)?;

        queue.vm.check_owner()?;
        let outs = out_syncobjs(file, args)?;
        let packet = hw::DispatchPacket {
            op: hw::OP_DISPATCH,
            stack_size: args.stack_size,
            entry: args.entry,
            args: args.args,
            threads: args.threads,
            stack: args.stack,
            watchdog_ms: if args.timeout_ms == 0 {
                TIMEOUT_MS
            } else {
                args.timeout_ms
            },
            ..Default::default()
        };
        let (seqno, fence) = queue.submit(packet, in_fences(file, args)?)?;

        for out in outs {
            out.replace_fence(Some(&fence));
        }
        args.seqno = seqno;
        Ok(0)
    }

    /// `DRM_IOCTL_TERN_RESULT`.
    pub(crate) fn result(
        _dev: &TernDevice<Registered>,
        _reg: &(),
        args: &mut uapi::drm_tern_result,
        file: &DrmFile,
    ) -> Result<u32> {
        zero(&[args.flags.into()])?;
        let queue = file
            .inner()
            .get_ref()
            .objects
            .lock()
            .queues
            .get(args.queue)?;
        // Not ended is status PENDING, which is 0.
        let outcome: Outcome = queue.outcome(args.seqno)?.unwrap_or_default();

        args.status = outcome.status;
        args.access = outcome.access;
        args.address = outcome.address;
        args.instructions = outcome.instructions;
        args.reserved = [0; 2];
        Ok(0)
    }

    /// `DRM_IOCTL_TERN_STATS`.
    pub(crate) fn stats(
        _dev: &TernDevice<Registered>,
        _reg: &(),
        args: &mut uapi::drm_tern_stats,
        file: &DrmFile,
    ) -> Result<u32> {
        zero(&[args.flags.into()])?;
        let vm = file.inner().get_ref().objects.lock().vms.get(args.vm)?;
        let mut reply = uapi::drm_tern_stats {
            vm: args.vm,
            ..Default::default()
        };

        vm.origin.stats.report(&mut reply);
        *args = reply;
        Ok(0)
    }

    /// `DRM_IOCTL_TERN_PREFETCH`.
    pub(crate) fn prefetch(
        _dev: &TernDevice<Registered>,
        _reg: &(),
        args: &mut uapi::drm_tern_prefetch,
        file: &DrmFile,
    ) -> Result<u32> {
        zero(&[
            args.flags.into(),
            args.pad.into(),
            args.reserved[0],
            args.reserved[1],
        ])?;
        let location = Location::try_from(args.location)?;
        let mut range = pages(args.address, args.size)?;
        let vm = file.inner().get_ref().objects.lock().vms.get(args.vm)?;
        vm.check_owner()?;
        let task = current!();
        let mm = task.mm().ok_or(EPERM)?;
        let result = vm.prefetch(mm, &mut range, location);

        // Even where it failed: that is where the caller may go on.
        args.address = range.start as u64;
        args.size = range.len() as u64;
        result.map(|_| 0)
    }

    /// `DRM_IOCTL_TERN_GEM_CREATE`.
    pub(crate) fn gem_create(
        dev: &TernDevice<Registered>,
        _reg: &(),
        args: &mut uapi::drm_tern_gem_create,
        file: &DrmFile,
    ) -> Result<u32> {
        let cpu = args.flags & uapi::drm_tern_gem_flags_DRM_TERN_GEM_CPU != 0;
        let unknown = args.flags & !uapi::drm_tern_gem_flags_DRM_TERN_GEM_CPU;

        zero(&[unknown.into(), args.reserved[0], args.reserved[1]])?;
        let in_file = file.inner().get_ref().buffer_bytes.clone();
        let buffer_args = BufferArgs { cpu, in_file };
        let buffer = TernObject::new(dev, usize::try_from(args.size)?, buffer_args)?;
        args.mmap_offset = buffer.create_mmap_offset()?;
        args.handle = buffer.create_handle(file)?;
        Ok(0)
    }
}

/// The range of user space with `size` bytes from `address`, if it is one of whole pages.
fn pages(address: u64, size: u64) -> Result<Range<usize>> {
    let end = address.checked_add(size).ok_or(EINVAL)?;

    if size == 0 || (address | size) % 4096 != 0 || end > Space::RANGE.end as u64 {
        return Err(EINVAL);
    }
    Ok(address as usize..end as usize)
}

/// Reads an array of handles from user space.
fn handles(addr: u64, count: u32) -> Result<KVec<u32>> {
    const MAX: u32 = 64;

    if count > MAX {
        return Err(EINVAL);
    }
    let addr = kernel::uaccess::UserPtr::from_addr(usize::try_from(addr)?);
    let mut reader = UserSlice::new(addr, count as usize * size_of::<u32>()).reader();
    let mut handles = KVec::with_capacity(count as usize, GFP_KERNEL)?;

    for _ in 0..count {
        handles.push(reader.read::<u32>()?, GFP_KERNEL)?;
    }
    Ok(handles)
}

fn in_fences(file: &DrmFile, args: &uapi::drm_tern_submit) -> Result<KVec<ARef<Fence>>> {
    let mut fences = KVec::new();

    for handle in handles(args.in_syncobjs, args.in_count)? {
        let fence = SyncObj::find_fence(file, handle)?;

        if !fence.is_signaled() {
            fences.push(fence, GFP_KERNEL_ACCOUNT)?;
        }
    }
    Ok(fences)
}

fn out_syncobjs(file: &DrmFile, args: &uapi::drm_tern_submit) -> Result<KVec<ARef<SyncObj>>> {
    let mut syncobjs = KVec::new();

    for handle in handles(args.out_syncobjs, args.out_count)? {
        syncobjs.push(SyncObj::find(file, handle)?, GFP_KERNEL)?;
    }
    Ok(syncobjs)
}
