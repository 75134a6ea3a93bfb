// SPDX-License-Identifier: GPL-2.0

//! GEM objects whose memory is the driver's own, such as memory of the device.
//!
//! The core has no backing for such an [`Object`]. User space maps it by its [offset], and the
//! driver tells by [`MappedObject::pfn`] what is there. The mapping is shared with children of
//! `fork()`, its protection cannot be changed, and it must be `MAP_SHARED`: accesses to a private
//! one fail with `SIGBUS`. When the device is unregistered all mappings are revoked, and accesses
//! from then on fail with `SIGBUS` too. Objects are not shared with other devices (dma-buf).
//!
//! C header: [`include/drm/drm_gem.h`](srctree/include/drm/drm_gem.h)
//!
//! [offset]: super::BaseObject::create_mmap_offset

use super::{
    close_callback,
    open_callback,
    DriverObject,
    IntoGEMObject, //
};
use crate::{
    bindings,
    drm::{
        self,
        driver::{
            AllocImpl,
            AllocOps, //
        },
        private::Sealed,
        Ioctl,
        Registered, //
    },
    mm::virt::{
        flags,
        VmaRef, //
    },
    page::PAGE_SHIFT,
    prelude::*,
    sync::aref::ARef,
    types::Opaque, //
};
use core::{
    ffi::c_int,
    ops::Deref,
    ptr::NonNull, //
};

/// An object that user space can map.
///
/// # Safety
///
/// A frame that [`MappedObject::pfn`] returns must be one that may be mapped by user space as
/// write-combining memory, with any access, and used by nobody else as long as the object exists
/// and its device is registered. It must not have a `struct page` that is reference counted.
pub unsafe trait MappedObject: DriverObject {
    /// Returns the frame of page `page` of the object, or [`None`] if the CPU cannot reach it,
    /// which the process is told by `SIGBUS`.
    ///
    /// `page` is below the size of the object. Called with the mmap lock or the lock of the area
    /// held.
    fn pfn(&self, dev: &drm::Device<Self::Driver, Registered>, page: usize) -> Option<usize>;
}

/// A GEM object without backing by the core.
///
/// # Invariants
///
/// `obj` is a valid instance of a `struct drm_gem_object`.
#[repr(C)]
#[pin_data]
pub struct Object<T: MappedObject> {
    obj: Opaque<bindings::drm_gem_object>,
    #[pin]
    data: T,
}

super::impl_aref_for_gem_obj! {
    impl<T> for Object<T>
    where
        T: MappedObject
}

// SAFETY: All GEM objects are thread-safe, and `T` is `Send`.
unsafe impl<T: MappedObject> Send for Object<T> {}

// SAFETY: All GEM objects are thread-safe, and `T` is `Sync`.
unsafe impl<T: MappedObject> Sync for Object<T> {}

impl<T: MappedObject> Sealed for Object<T> {}

impl<T: MappedObject> Deref for Object<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.data
    }
}

impl<T: MappedObject> IntoGEMObject for Object<T> {
    fn as_raw(&self) -> *mut bindings::drm_gem_object {
        self.obj.get()
    }

    unsafe fn from_raw<'a>(self_ptr: *mut bindings::drm_gem_object) -> &'a Self {
        // SAFETY: By the safety requirements, `self_ptr` is the field of an `Object<T>`.
        unsafe { &*crate::container_of!(Opaque::cast_from(self_ptr), Self, obj) }
    }
}

impl<T: MappedObject> AllocImpl for Object<T> {
    type Driver = T::Driver;

    const ALLOC_OPS: AllocOps = AllocOps {
        gem_create_object: None,
        prime_handle_to_fd: None,
        prime_fd_to_handle: None,
        gem_prime_import: None,
        gem_prime_import_sg_table: None,
        dumb_create: None,
        dumb_map_offset: None,
    };
}

impl<T: MappedObject> Object<T>
where
    T::Driver: drm::Driver<Object = Self>,
{
    const FUNCS: bindings::drm_gem_object_funcs = bindings::drm_gem_object_funcs {
        free: Some(Self::free_callback),
        open: Some(open_callback::<T>),
        close: Some(close_callback::<T>),
        print_info: None,
        export: Some(export_callback),
        pin: None,
        unpin: None,
        get_sg_table: None,
        vmap: None,
        vunmap: None,
        mmap: None,
        status: None,
        vm_ops: &Self::VM_OPS,
        evict: None,
        rss: None,
    };

    const VM_OPS: bindings::vm_operations_struct = bindings::vm_operations_struct {
        open: Some(bindings::drm_gem_vm_open),
        close: Some(bindings::drm_gem_vm_close),
        mprotect: Some(mprotect_callback),
        fault: Some(Self::fault_callback),
        ..pin_init::zeroed()
    };

    /// Creates an object of `size` bytes, which is a multiple of the page size and not zero; else
    /// it fails with [`EINVAL`]. May sleep.
    pub fn new(dev: &drm::Device<T::Driver>, size: usize, args: T::Args) -> Result<ARef<Self>> {
        if size == 0 || size & (crate::page::PAGE_SIZE - 1) != 0 {
            return Err(EINVAL);
        }
        let obj: Pin<KBox<Self>> = KBox::pin_init(
            try_pin_init!(Self {
                obj: Opaque::new(bindings::drm_gem_object::default()),
                data <- T::new(dev, size, args),
            }),
            GFP_KERNEL,
        )?;

        // SAFETY: The object is not known to anybody else yet.
        unsafe { (*obj.as_raw()).funcs = &Self::FUNCS };
        // SAFETY: Both pointers are valid, and the size is one of whole pages.
        unsafe { bindings::drm_gem_private_object_init(dev.as_raw(), obj.as_raw(), size) };

        // SAFETY: It is never moved out of: `ARef` is always treated as pinned.
        let ptr = KBox::into_raw(unsafe { Pin::into_inner_unchecked(obj) });
        // SAFETY: `ptr` comes from a box, so it is not null. The first reference becomes ours.
        Ok(unsafe { ARef::from_raw(NonNull::new_unchecked(ptr)) })
    }

    /// Returns the object that `vma` maps, and the number of the first page in it, if it is one of
    /// `dev`.
    ///
    /// Like any mapping this one ends only after the MMU notifiers of its addresses were called.
    pub fn mapped_by<'a>(
        dev: &drm::Device<T::Driver>,
        vma: &'a VmaRef,
    ) -> Option<(&'a Self, usize)> {
        type Close = unsafe extern "C" fn(*mut bindings::vm_area_struct);

        // SAFETY: By the type invariants of `VmaRef` the area is valid and does not change.
        let area = unsafe { &*vma.as_ptr() };
        // SAFETY: The operations of an area are valid as long as it is, and are never changed.
        let ops = unsafe { area.vm_ops.as_ref() }?;

        let is_gem = |close| core::ptr::fn_addr_eq(close, bindings::drm_gem_vm_close as Close);
        if !ops.close.is_some_and(is_gem) || vma.flags() & flags::SHARED == 0 {
            return None;
        }
        let obj: *mut bindings::drm_gem_object = area.vm_private_data.cast();
        // SAFETY: An area with this operation has a reference to a GEM object there.
        if unsafe { (*obj).dev } != dev.as_raw() {
            return None;
        }
        // SAFETY: All objects of `dev` are of this type, as its driver has no other one, and the
        // area, which is borrowed, has a reference.
        let this = unsafe { Self::from_raw(obj) };
        Some((this, area.vm_pgoff as usize - this.first_page()))
    }

    /// The page in the file at which it is mapped.
    fn first_page(&self) -> usize {
        // SAFETY: `self` is a valid object.
        let offset =
            unsafe { bindings::drm_vma_node_offset_addr(&raw mut (*self.as_raw()).vma_node) };

        (offset >> PAGE_SHIFT) as usize
    }

    unsafe extern "C" fn free_callback(obj: *mut bindings::drm_gem_object) {
        let ptr: *mut Opaque<bindings::drm_gem_object> = obj.cast();
        // SAFETY: All objects with these functions are of this type.
        let this = unsafe { crate::container_of!(ptr, Self, obj) };

        // SAFETY: The core calls this for a valid object when its last reference is gone.
        unsafe { bindings::drm_gem_object_release(obj) };
        // SAFETY: The object was allocated by a `KBox`, and there is no reference left.
        drop(unsafe { KBox::from_raw(this) });
    }

    unsafe extern "C" fn fault_callback(vmf: *mut bindings::vm_fault) -> bindings::vm_fault_t {
        const SIGBUS: bindings::vm_fault_t = bindings::vm_fault_reason_VM_FAULT_SIGBUS;

        // SAFETY: The core passes a valid fault.
        let (area, addr, pgoff) = unsafe {
            (
                (*vmf).__bindgen_anon_1.vma,
                (*vmf).__bindgen_anon_1.address,
                (*vmf).__bindgen_anon_1.pgoff as usize,
            )
        };
        // SAFETY: The area is valid and locked during the fault.
        let vma = unsafe { VmaRef::from_raw(area) };
        // SAFETY: These operations belong to objects of this type only, and the area has a
        // reference to one.
        let this = unsafe { Self::from_raw((*area).vm_private_data.cast()) };
        // SAFETY: It could be mapped, so its device was registered.
        let dev: &drm::Device<T::Driver, Ioctl> =
            unsafe { drm::Device::from_raw((*this.as_raw()).dev) };
        let Some(dev) = dev.registration_guard() else {
            return SIGBUS;
        };

        if vma.flags() & flags::SHARED == 0 {
            return SIGBUS;
        }
        match this.pfn(&dev, pgoff - this.first_page()) {
            // SAFETY: The area is locked, it is a shared one with `VM_PFNMAP`, which
            // `drm_gem_mmap_obj()` sets, and the frame may be mapped by the safety requirements of
            // `MappedObject`: the area has a reference to the object, and all mappings are revoked
            // after the device is unregistered, for which `dev` is waited for.
            Some(pfn) => unsafe { bindings::vmf_insert_pfn(area, addr, pfn) },
            None => SIGBUS,
        }
    }
}

/// Nobody else can reach the memory.
unsafe extern "C" fn export_callback(
    _obj: *mut bindings::drm_gem_object,
    _flags: c_int,
) -> *mut bindings::dma_buf {
    EOPNOTSUPP.to_ptr()
}

/// The core does not tell MMU notifiers of a change where the CPU maps nothing, though a device
/// may.
unsafe extern "C" fn mprotect_callback(
    _vma: *mut bindings::vm_area_struct,
    _start: usize,
    _end: usize,
    _flags: usize,
) -> c_int {
    EACCES.to_errno()
}
