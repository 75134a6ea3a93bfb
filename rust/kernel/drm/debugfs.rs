// SPDX-License-Identifier: GPL-2.0

//! Files of a DRM device in debugfs.
//!
//! C header: [`include/drm/drm_debugfs.h`](srctree/include/drm/drm_debugfs.h)

#[cfg(CONFIG_DEBUG_FS)]
use crate::{
    bindings,
    ffi::{
        c_int,
        c_void, //
    },
};
use crate::{
    drm,
    prelude::*,
    seq_file::SeqFile, //
};

/// A file, to be read only, in the directory of each device of a driver.
///
/// The files are there as long as the device is registered: what reads one is waited for when the
/// registration ends. So [`Driver::DEBUGFS`](drm::Driver::DEBUGFS) needs no clean-up.
///
/// # Examples
///
/// ```
/// use kernel::{
///     drm::{self, debugfs::File, Registered},
///     seq_file::{seq_print, SeqFile},
/// };
///
/// /// Shows what version the driver has.
/// fn version<T: drm::Driver>(_dev: &drm::Device<T, Registered>, m: &SeqFile) {
///     seq_print!(m, "{}.{}\n", T::INFO.major, T::INFO.minor);
/// }
///
/// fn file<T: drm::Driver>() -> File<T> {
///     File::new(c"version", version)
/// }
/// ```
#[cfg_attr(not(CONFIG_DEBUG_FS), expect(dead_code))]
pub struct File<T: drm::Driver> {
    name: &'static CStr,
    show: fn(&drm::Device<T, drm::Registered>, &SeqFile),
}

impl<T: drm::Driver> File<T> {
    /// A file that has what `show` writes, each time that it is read from the start. `show` may
    /// sleep; the unbinding of the device waits for it.
    pub const fn new(
        name: &'static CStr,
        show: fn(&drm::Device<T, drm::Registered>, &SeqFile),
    ) -> Self {
        Self { name, show }
    }

    /// Makes the file for a device.
    ///
    /// # Safety
    ///
    /// `dev` must be registered, and be so until `drm_dev_unregister()` is called for it.
    #[cfg(CONFIG_DEBUG_FS)]
    pub(super) unsafe fn add(&'static self, dev: &drm::Device<T>) {
        // SAFETY: Name and data are valid forever. `show` is called with them until
        // `drm_dev_unregister()` removes the file, which waits for who reads it.
        unsafe {
            bindings::drm_debugfs_add_file(
                dev.as_raw(),
                self.name.as_char_ptr(),
                Some(Self::show_callback),
                core::ptr::from_ref(self).cast_mut().cast(),
            )
        };
    }

    /// # Safety
    ///
    /// `m` must be a file that [`Self::add`] made.
    #[cfg(CONFIG_DEBUG_FS)]
    unsafe extern "C" fn show_callback(m: *mut bindings::seq_file, _: *mut c_void) -> c_int {
        // SAFETY: The core stores the entry there when the file is opened.
        let entry = unsafe { (*m).private }.cast::<bindings::drm_debugfs_entry>();
        // SAFETY: The entry is valid as long as the file is read.
        let (dev, data) = unsafe { ((*entry).dev, (*entry).file.data) };
        // SAFETY: It is what was passed to `drm_debugfs_add_file()`.
        let this = unsafe { &*data.cast::<Self>() };
        // SAFETY: The device belongs to a driver of type `T`. It is registered, and its parent
        // bound, since `drm_dev_unregister()`, by which unbinding starts, waits for this function.
        let dev = unsafe { drm::Device::<T, drm::Registered>::from_raw(dev) };
        // SAFETY: The file is valid, and read by this thread only.
        let m = unsafe { SeqFile::from_raw(m) };

        (this.show)(dev, m);
        0
    }
}
