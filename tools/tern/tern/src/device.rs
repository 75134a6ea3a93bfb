// SPDX-License-Identifier: MIT OR Apache-2.0

//! Devices: finding, opening and asking them.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::Error;
use crate::sys;
use crate::uapi::{self, Request};
use crate::vm::Vm;

/// Environment variable with the path of the device node that [`Device::open`] takes.
pub const DEVICE_VARIABLE: &str = "TERN_DEVICE";

/// Name of the kernel's driver.
const DRIVER: &str = "tern";

/// An open device.
///
/// Cheap to clone; the file is closed when the last clone and all that was made from it are
/// dropped. After `fork()` only the parent may use it.
#[derive(Clone, Debug)]
pub struct Device {
    file: Arc<DeviceFile>,
}

/// What a device is and has.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DeviceInfo {
    /// Interface version of the device, major in the upper 16 bits.
    pub hw_version: u32,
    /// Bytes of device memory.
    pub vram_size: u64,
    /// Bytes of it that are free now.
    pub vram_free: u64,
    /// Bytes of it that the CPU can map.
    pub aperture_size: u64,
    /// Number of copy engines.
    pub copy_engines: u32,
    /// Threads of a dispatch that run at a time.
    pub resident_threads: u32,
}

impl Device {
    /// Opens the device that the environment variable `TERN_DEVICE` names, else the first Tern
    /// device among the render nodes in `/dev/dri`.
    ///
    /// # Errors
    ///
    /// [`Error::NoDevice`] where there is none, [`Error::Open`] where a node cannot be opened and
    /// no other one is a Tern device; with `TERN_DEVICE` as [`Device::open_path`].
    pub fn open() -> Result<Self, Error> {
        if let Some(path) = std::env::var_os(DEVICE_VARIABLE) {
            return Self::open_path(path);
        }
        let mut denied = None;
        for path in render_nodes() {
            match Self::open_path(path) {
                Err(error @ Error::Open { .. }) => denied = denied.or(Some(error)),
                // A node of another driver.
                Err(_) => {}
                found => return found,
            }
        }
        Err(denied.unwrap_or(Error::NoDevice))
    }

    /// Opens the device with this node, such as `/dev/dri/renderD128`.
    ///
    /// # Errors
    ///
    /// [`Error::Open`], [`Error::NotDrm`] or [`Error::OtherDriver`].
    pub fn open_path(path: impl AsRef<Path>) -> Result<Self, Error> {
        let path = path.as_ref().to_path_buf();
        let file = match OpenOptions::new().read(true).write(true).open(&path) {
            Ok(file) => file,
            Err(source) => return Err(Error::Open { path, source }),
        };
        let driver = match driver_name(file.as_fd()) {
            Ok(driver) => driver,
            Err(source) => return Err(Error::NotDrm { path, source }),
        };
        if driver != DRIVER {
            return Err(Error::OtherDriver { path, driver });
        }
        let owner = std::process::id();
        Ok(Self {
            file: Arc::new(DeviceFile { file, path, owner }),
        })
    }

    /// Path of its node.
    pub fn path(&self) -> &Path {
        &self.file.path
    }

    /// Asks the device what it is.
    ///
    /// # Errors
    ///
    /// [`Error::System`] where the call fails.
    pub fn info(&self) -> Result<DeviceInfo, Error> {
        let mut query = uapi::DeviceQuery::default();
        // SAFETY: the argument has no addresses.
        unsafe { self.file.ioctl(&uapi::DEVICE_QUERY, &mut query) }
            .map_err(Error::system("DRM_IOCTL_TERN_DEVICE_QUERY"))?;
        Ok(DeviceInfo {
            hw_version: query.hw_version,
            vram_size: query.vram_size,
            vram_free: query.vram_free,
            aperture_size: query.aperture_size,
            copy_engines: query.copy_engines,
            resident_threads: query.resident_threads,
        })
    }

    /// Makes an address space over the memory of the calling process; see [`Vm`].
    ///
    /// # Errors
    ///
    /// As [`Vm::new`].
    pub fn create_vm(&self) -> Result<Vm, Error> {
        Vm::new(self)
    }

    pub(crate) fn file(&self) -> &Arc<DeviceFile> {
        &self.file
    }
}

/// The file behind a device and all that is made from it.
#[derive(Debug)]
pub(crate) struct DeviceFile {
    file: File,
    path: PathBuf,
    /// Process that opened it.
    owner: u32,
}

impl DeviceFile {
    /// # Safety
    ///
    /// As [`sys::ioctl`].
    pub(crate) unsafe fn ioctl<T>(&self, request: &Request<T>, argument: &mut T) -> io::Result<()> {
        // SAFETY: promised by the caller.
        unsafe { sys::ioctl(self.file.as_fd(), request, argument) }
    }

    /// Calls an ioctl that destroys an object, from a drop.
    ///
    /// Errors have nobody to go to, and the kernel destroys what is left with the file. A forked
    /// child shares the file, so that it would destroy its parent's objects: it does nothing.
    ///
    /// # Safety
    ///
    /// As [`sys::ioctl`].
    pub(crate) unsafe fn destroy<T>(&self, request: &Request<T>, argument: &mut T) {
        if self.owner == std::process::id() {
            // SAFETY: promised by the caller.
            let _ = unsafe { self.ioctl(request, argument) };
        }
    }
}

/// Render nodes by number.
fn render_nodes() -> Vec<PathBuf> {
    let mut nodes: Vec<_> = fs::read_dir("/dev/dri")
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("renderD"))
        .map(|entry| entry.path())
        .collect();
    nodes.sort_by_key(|path| (path.as_os_str().len(), path.clone()));
    nodes
}

/// Asks a DRM device for the name of its driver.
fn driver_name(fd: BorrowedFd<'_>) -> io::Result<String> {
    let mut name = [0u8; 32];
    let mut version = uapi::Version {
        name: name.as_mut_ptr() as usize,
        name_len: name.len(),
        ..Default::default()
    };
    // SAFETY: `name` is valid for `name_len` bytes and lives until after the call; the other
    // lengths are zero.
    unsafe { sys::ioctl(fd, &uapi::VERSION, &mut version) }?;
    // The kernel returns the full length, even where it wrote less.
    let name = name.get(..version.name_len).unwrap_or(&name);
    Ok(String::from_utf8_lossy(name).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_that_does_not_exist_says_so() {
        let error = Device::open_path("/nonexistent/renderD128").unwrap_err();
        assert!(matches!(error, Error::Open { .. }), "{error}");
        assert!(error.to_string().contains("/nonexistent/renderD128"));
    }

    #[test]
    fn a_file_that_is_no_device_says_so() {
        let error = Device::open_path("/dev/null").unwrap_err();
        assert!(matches!(error, Error::NotDrm { .. }), "{error}");
    }
}
