// SPDX-License-Identifier: GPL-2.0 OR MIT

//! DRM sync objects.
//!
//! A sync object is a container for a fence, which user space names by a handle of its DRM file.
//! The ioctls for them are served by the DRM core once a driver sets
//! [`FEAT_SYNCOBJ`](crate::drm::Driver::FEAT_SYNCOBJ).
//!
//! C header: [`include/drm/drm_syncobj.h`](srctree/include/drm/drm_syncobj.h)

use crate::{
    bindings,
    dma_fence::Fence,
    drm::{
        self,
        file::DriverFile, //
    },
    error::to_result,
    prelude::*,
    sync::aref::{
        ARef,
        AlwaysRefCounted, //
    },
    types::Opaque, //
};
use core::ptr::{
    self,
    NonNull, //
};

/// A wrapper for the kernel's `struct drm_syncobj`.
///
/// # Examples
///
/// ```
/// use kernel::{
///     dma_fence::{NewFence, Timeline},
///     drm::{self, file::DriverFile, syncobj::SyncObj},
/// };
///
/// fn submit<F: DriverFile>(
///     file: &drm::File<F>,
///     timeline: &Timeline,
///     wait: u32,
///     signal: u32,
/// ) -> Result {
///     SyncObj::find_fence(file, wait)?.wait()?;
///
///     let out = SyncObj::find(file, signal)?;
///     let work = timeline.init(NewFence::new(GFP_KERNEL)?);
///     out.replace_fence(Some(&work.fence()));
///     work.signal();
///     Ok(())
/// }
/// ```
///
/// # Invariants
///
/// Instances of this type are always reference counted.
#[repr(transparent)]
pub struct SyncObj(Opaque<bindings::drm_syncobj>);

// SAFETY: A reference to a sync object may be dropped on any thread.
unsafe impl Send for SyncObj {}

// SAFETY: All methods on `SyncObj` may be called concurrently.
unsafe impl Sync for SyncObj {}

// SAFETY: By the type invariants, instances are always reference counted.
unsafe impl AlwaysRefCounted for SyncObj {
    #[inline]
    fn inc_ref(&self) {
        // SAFETY: The existence of a reference means that the reference count is non-zero.
        unsafe { bindings::drm_syncobj_get(self.0.get()) };
    }

    #[inline]
    unsafe fn dec_ref(obj: NonNull<Self>) {
        // SAFETY: The caller gives up one reference count.
        unsafe { bindings::drm_syncobj_put(obj.as_ptr().cast()) };
    }
}

impl SyncObj {
    /// Returns the sync object with the given handle.
    ///
    /// Fails with [`ENOENT`] if there is none.
    pub fn find<F: DriverFile>(file: &drm::File<F>, handle: u32) -> Result<ARef<Self>> {
        // SAFETY: `file` is a valid DRM file.
        let obj = unsafe { bindings::drm_syncobj_find(file.as_raw(), handle) };
        let obj = NonNull::new(obj).ok_or(ENOENT)?;

        // SAFETY: The function took a reference for us.
        Ok(unsafe { ARef::from_raw(obj.cast()) })
    }

    /// Returns the fence in the sync object with the given handle. Does not wait for one.
    ///
    /// Fails with [`ENOENT`] if there is no such object, and with [`EINVAL`] if it has no fence.
    pub fn find_fence<F: DriverFile>(file: &drm::File<F>, handle: u32) -> Result<ARef<Fence>> {
        let mut fence = ptr::null_mut();

        // SAFETY: `file` is a valid DRM file, and `fence` is valid for writes.
        to_result(unsafe {
            bindings::drm_syncobj_find_fence(file.as_raw(), handle, 0, 0, &mut fence)
        })?;

        // SAFETY: On success the function returns a reference, which becomes ours.
        Ok(unsafe { ARef::from_raw(NonNull::new(fence).ok_or(EINVAL)?.cast()) })
    }

    /// Returns the fence in the sync object, if there is one.
    pub fn fence(&self) -> Option<ARef<Fence>> {
        // SAFETY: The pointer is valid since `self` is a reference.
        let fence = unsafe { bindings::drm_syncobj_fence_get(self.0.get()) };

        // SAFETY: The function took a reference for us.
        Some(unsafe { ARef::from_raw(NonNull::new(fence)?.cast()) })
    }

    /// Puts a fence, or none, into the sync object, and releases the one that is there.
    ///
    /// Must not be called in interrupt context.
    pub fn replace_fence(&self, fence: Option<&Fence>) {
        let fence = fence.map_or(ptr::null_mut(), Fence::as_raw);

        // SAFETY: The pointer is valid since `self` is a reference, and `fence` is null or valid.
        // The function takes a reference of its own.
        unsafe { bindings::drm_syncobj_replace_fence(self.0.get(), fence) };
    }
}
