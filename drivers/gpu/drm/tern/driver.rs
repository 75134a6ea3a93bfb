// SPDX-License-Identifier: GPL-2.0

//! PCI and DRM registration.

use kernel::{
    device::{
        Bound,
        Core,
        Device,
        DeviceContext, //
    },
    dma::{
        Device as _,
        DmaMask, //
    },
    drm::{
        self,
        ioctl, //
    },
    irq::{
        Flags,
        ThreadedRegistration, //
    },
    pci::{
        self,
        IrqType,
        IrqTypes,
        IrqVectorRegistration, //
    },
    prelude::*,
    sync::{
        aref::ARef,
        Arc, //
    },
};

use crate::{
    debugfs,
    dmirror::Node,
    file::File,
    gem::TernObject,
    gpu::Gpu,
    hw,
    irq::{
        ComputeHandler,
        CopyHandler,
        ErrorHandler,
        FaultHandler, //
    },
    regs::Regs, //
};

pub(crate) struct TernDriver;

/// The DRM device of this driver.
pub(crate) type TernDevice<Ctx = drm::Normal> = drm::Device<TernDriver, Ctx>;

/// Ends all use of the device when it is dropped.
struct ShutDown<'bound> {
    dev: &'bound Device<Bound>,
    gpu: Arc<Gpu>,
}

impl Drop for ShutDown<'_> {
    fn drop(&mut self) {
        self.gpu.shut_down(self.dev);
    }
}

/// What lives as long as the driver is bound.
///
/// Fields are dropped in this order: user space is shut out first, then no interrupt thread looks
/// for more work, then the device is brought to rest, for which its copies must still be noticed.
#[pin_data]
pub(crate) struct Tern<'bound> {
    dmirror: Option<Pin<KBox<Node>>>,
    registration: drm::Registration<'bound, TernDriver>,
    #[pin]
    fault: ThreadedRegistration<'bound, FaultHandler>,
    #[pin]
    compute: ThreadedRegistration<'bound, ComputeHandler>,
    #[pin]
    error: ThreadedRegistration<'bound, ErrorHandler<'bound>>,
    shut_down: ShutDown<'bound>,
    #[pin]
    copy: ThreadedRegistration<'bound, CopyHandler>,
    vectors: IrqVectorRegistration<'bound>,
}

kernel::pci_device_table!(
    PCI_TABLE,
    <TernDriver as pci::Driver>::IdInfo,
    [(
        pci::DeviceId::from_id(pci::Vendor::REDHAT_QUMRANET, hw::PCI_DEVICE as u32),
        ()
    )]
);

impl pci::Driver for TernDriver {
    type IdInfo = ();
    type Data<'bound> = Tern<'bound>;

    const ID_TABLE: pci::IdTable<Self::IdInfo> = &PCI_TABLE;

    fn probe<'bound>(
        pdev: &'bound pci::Device<Core<'_>>,
        _info: Option<&'bound Self::IdInfo>,
    ) -> impl PinInit<Self::Data<'bound>, Error> + 'bound {
        pin_init::pin_init_scope(move || {
            pdev.enable_device_mem()?;
            // SAFETY: Nothing allocates or maps memory for the device yet.
            unsafe { pdev.dma_set_mask_and_coherent(DmaMask::new::<{ hw::ADDRESS_BITS }>())? };
            let dev: &'bound Device<Bound> = pdev.as_ref();
            let regs = Arc::pin_init(Regs::new(pdev)?, GFP_KERNEL)?;

            // What a driver before this one let it do must not touch memory.
            regs.reset(dev)?;
            pdev.set_master();
            let gpu = Gpu::new(pdev, regs)?;
            let shut_down = ShutDown {
                dev,
                gpu: gpu.clone(),
            };
            gpu.enable()?;
            let faults = gpu.faults.clone();
            let drm = drm::UnregisteredDevice::<Self>::new(pdev, Ok(gpu.clone()))?;
            let node: ARef<TernDevice> = (&*drm).into();
            let (errors, copies, compute) = (gpu.clone(), gpu.clone(), gpu);

            // In the reverse order of the fields, so that a probe that fails takes down what there
            // is as unbind does.
            Ok(try_pin_init!(Tern {
                vectors: pdev.alloc_irq_vectors(
                    hw::VECTORS,
                    hw::VECTORS,
                    IrqTypes::default().with(IrqType::MsiX),
                )?,
                copy <- request(vectors, hw::VECTOR_COPY, c"tern-copy", Ok(CopyHandler(copies))),
                shut_down,
                error <- request(
                    vectors,
                    hw::VECTOR_ERROR,
                    c"tern-error",
                    Ok(ErrorHandler { dev, gpu: errors })
                ),
                compute <- request(
                    vectors,
                    hw::VECTOR_COMPUTE,
                    c"tern-compute",
                    Ok(ComputeHandler(compute))
                ),
                fault <- request(
                    vectors,
                    hw::VECTOR_FAULT,
                    c"tern-fault",
                    Ok(FaultHandler(faults))
                ),
                // SAFETY: It is stored in the driver's data, which is dropped at unbind and never
                // forgotten.
                registration: unsafe { drm::Registration::new(dev, drm, (), 0)? },
                // Nobody but tests wants it, so that the device is of use without it.
                dmirror: Node::register(node).unwrap_or_else(|e| {
                    dev_err!(dev, "no node for tests: {:?}\n", e);
                    None
                }),
            }))
        })
    }
}

/// Requests vector `index` for a handler that runs in a thread.
fn request<'bound, H: kernel::irq::ThreadedHandler + 'bound>(
    vectors: &IrqVectorRegistration<'bound>,
    index: u32,
    name: &'static CStr,
    handler: impl PinInit<H, Error> + 'bound,
) -> impl PinInit<ThreadedRegistration<'bound, H>, Error> + 'bound {
    // SAFETY: `vectors` is a field of `Tern` that was initialised before the one that this is
    // for, does not move, and is dropped after it.
    let vectors: &'bound IrqVectorRegistration<'bound> = unsafe { &*core::ptr::from_ref(vectors) };

    pin_init::pin_init_scope(move || {
        let request = vectors.index(index as usize)?.into();
        // SAFETY: The registration is a field of `Tern`, which is never forgotten.
        Ok(unsafe { ThreadedRegistration::new(request, Flags::TRIGGER_NONE, name, handler) })
    })
}

const INFO: drm::DriverInfo = drm::DriverInfo {
    major: 1,
    minor: 0,
    patchlevel: 0,
    name: c"tern",
    desc: c"Tern shared-virtual-memory GPU",
};

#[vtable]
impl drm::Driver for TernDriver {
    type Data = Arc<Gpu>;
    type RegistrationData<'a> = ();
    type File = File;
    type Object = TernObject;
    type ParentDevice<Ctx: DeviceContext> = pci::Device<Ctx>;

    const INFO: drm::DriverInfo = INFO;
    const FEAT_RENDER: bool = true;
    const FEAT_SYNCOBJ: bool = true;
    const DEBUGFS: &'static [drm::debugfs::File<Self>] = debugfs::FILES;

    kernel::declare_drm_ioctls! {
        (TERN_DEVICE_QUERY, drm_tern_device_query, ioctl::RENDER_ALLOW, File::device_query),
        (TERN_VM_CREATE, drm_tern_vm_create, ioctl::RENDER_ALLOW, File::vm_create),
        (TERN_VM_DESTROY, drm_tern_handle, ioctl::RENDER_ALLOW, File::vm_destroy),
        (TERN_QUEUE_CREATE, drm_tern_queue_create, ioctl::RENDER_ALLOW, File::queue_create),
        (TERN_QUEUE_DESTROY, drm_tern_handle, ioctl::RENDER_ALLOW, File::queue_destroy),
        (TERN_SUBMIT, drm_tern_submit, ioctl::RENDER_ALLOW, File::submit),
        (TERN_RESULT, drm_tern_result, ioctl::RENDER_ALLOW, File::result),
        (TERN_STATS, drm_tern_stats, ioctl::RENDER_ALLOW, File::stats),
        (TERN_PREFETCH, drm_tern_prefetch, ioctl::RENDER_ALLOW, File::prefetch),
        (TERN_GEM_CREATE, drm_tern_gem_create, ioctl::RENDER_ALLOW, File::gem_create),
    }
}
