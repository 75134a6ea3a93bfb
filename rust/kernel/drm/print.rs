// SPDX-License-Identifier: GPL-2.0

//! DRM printers.
//!
//! C header: [`include/drm/drm_print.h`](srctree/include/drm/drm_print.h)

use crate::{
    bindings,
    ffi::c_void,
    fmt,
    prelude::*,
    types::{
        NotThreadSafe,
        Opaque, //
    },
};

/// Where a driver writes text that DRM asks it for.
#[repr(transparent)]
pub struct Printer(Opaque<bindings::drm_printer>, NotThreadSafe);

/// Memory of a client in one region, in bytes. See `Documentation/gpu/drm-usage-stats.rst`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Region {
    /// What no other client uses.
    pub private: u64,
    /// What other clients use, too.
    pub shared: u64,
    /// What of both is there at the moment.
    pub resident: u64,
}

impl Printer {
    /// Makes a reference from a raw pointer.
    ///
    /// # Safety
    ///
    /// `ptr` must be valid during `'a`, and used by no other thread.
    pub(crate) unsafe fn from_raw<'a>(ptr: *mut bindings::drm_printer) -> &'a Self {
        // SAFETY: By the safety requirements; the layouts are the same.
        unsafe { &*ptr.cast() }
    }

    /// Writes what [`fmt!`](crate::prelude::fmt) makes.
    pub fn print(&self, args: fmt::Arguments<'_>) {
        // SAFETY: The printer is valid since it is borrowed, and `%pA` takes a pointer to
        // `Arguments`.
        unsafe {
            bindings::drm_printf(
                self.0.get(),
                c"%pA".as_char_ptr(),
                core::ptr::from_ref(&args).cast::<c_void>(),
            )
        };
    }

    /// Writes the lines about a region of memory, for `fdinfo`. Wraps `drm_print_memory_stats()`.
    pub fn memory_region(&self, name: &CStr, region: &Region) {
        let stats = bindings::drm_memory_stats {
            private: region.private,
            shared: region.shared,
            resident: region.resident,
            ..Default::default()
        };

        // SAFETY: The printer is valid since it is borrowed, and so are `stats` and `name`.
        unsafe {
            bindings::drm_print_memory_stats(
                self.0.get(),
                &stats,
                bindings::drm_gem_object_status_DRM_GEM_OBJECT_RESIDENT,
                name.as_char_ptr(),
            )
        };
    }
}
