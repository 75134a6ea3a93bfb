// SPDX-License-Identifier: MIT OR Apache-2.0

//! What can go wrong.

use std::fmt;
use std::io;
use std::path::PathBuf;

use crate::uapi;

/// A device, an address space, a queue, a module or a launch could not be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No render node belongs to the driver.
    #[error(
        "no Tern device: no render node in /dev/dri belongs to the driver \"tern\"; \
         load the module, and check that the device is there (lspci -d 1af4:10f5)"
    )]
    NoDevice,
    /// A device node could not be opened.
    #[error("cannot open the device node {}", path.display())]
    Open {
        /// The node.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is not a DRM device.
    #[error("{} is not a DRM device node", path.display())]
    NotDrm {
        /// The file.
        path: PathBuf,
        /// What the kernel said when asked for the driver.
        source: io::Error,
    },
    /// The device node belongs to another driver.
    #[error("{} belongs to the driver \"{driver}\", not to \"tern\"", path.display())]
    OtherDriver {
        /// The node.
        path: PathBuf,
        /// Name of its driver.
        driver: String,
    },
    /// The device holds as many of these as it can.
    #[error("the device has no {what} left; destroy one that is not needed")]
    Exhausted {
        /// What there is none of.
        what: &'static str,
    },
    /// The queue holds as many dispatches as it can.
    #[error("the queue is full; wait for a dispatch, or create the queue with more entries")]
    QueueFull,
    /// The device is gone or does not answer; or the driver ended the queue, as it does where a
    /// dispatch takes ten times its limit with all waits.
    #[error(
        "the device is lost or has ended the queue; make the queue again, \
         and where that fails, close the device and open it again"
    )]
    DeviceLost,
    /// A value that no call can take.
    #[error("{what} must be {range}, not {value}")]
    OutOfRange {
        /// Which value.
        what: &'static str,
        /// What it may be.
        range: &'static str,
        /// What it is.
        value: u64,
    },
    /// A dispatch to wait for belongs to another open device.
    #[error("a dispatch can only wait for dispatches of the same open device")]
    OtherDevice,
    /// Nothing is mapped where memory was to be moved.
    #[error("the process has no memory at {address:#x}")]
    NotMapped {
        /// The first such address.
        address: u64,
    },
    /// The file of a module could not be read.
    #[error("cannot read the module {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The module could not be loaded.
    #[error("the module cannot be loaded")]
    Module(#[from] ModuleError),
    /// The module has no such kernel.
    #[error("the module has no kernel \"{name}\"; it has: {}", Names(known))]
    NoKernel {
        /// The name asked for.
        name: String,
        /// The names that there are.
        known: Vec<String>,
    },
    /// A system call failed.
    #[error("{call} failed")]
    System {
        /// Name of the call.
        call: &'static str,
        /// Why.
        source: io::Error,
    },
}

impl Error {
    /// For `map_err`: `call` failed.
    pub(crate) fn system(call: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::System { call, source }
    }

    /// For `map_err`: `call`, which makes a `what`, failed.
    pub(crate) fn create(call: &'static str, what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| match source.raw_os_error() {
            Some(libc::ENOSPC) => Self::Exhausted { what },
            Some(libc::EIO | libc::ENODEV) => Self::DeviceLost,
            _ => Self::System { call, source },
        }
    }
}

/// An ELF file is not a module that can be loaded.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum ModuleError {
    /// The file contradicts itself or ends early.
    #[error("malformed ELF file: {0}")]
    Malformed(String),
    /// Another machine, class or byte order.
    #[error("the ELF file is not for 64-bit little-endian RISC-V; compile with --target=riscv64")]
    Machine,
    /// Not position-independent.
    #[error("the ELF file is not position-independent; compile with -fpie, link with -Wl,-pie")]
    NotPositionIndependent,
    /// Something that only a dynamic linker could resolve.
    #[error("the ELF file needs a dynamic linker ({0}); link it alone")]
    Dynamic(String),
    /// More memory than a module may have.
    #[error("the ELF file wants {size} bytes of memory, the limit is {limit}")]
    TooLarge {
        /// Bytes from its first to its last address.
        size: u64,
        /// Most that there may be.
        limit: u64,
    },
    /// No memory for it, or its protection could not be set.
    #[error("cannot map {size} bytes: {reason}")]
    Map {
        /// Bytes.
        size: usize,
        /// What the system said.
        reason: String,
    },
}

/// Kind of an access that the device could not make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Access {
    /// A load.
    Read,
    /// A store.
    Write,
    /// An atomic operation.
    Atomic,
    /// An instruction fetch.
    Fetch,
    /// A kind that this library does not know.
    Unknown(u32),
}

impl From<u32> for Access {
    fn from(access: u32) -> Self {
        match access {
            uapi::ACCESS_READ => Self::Read,
            uapi::ACCESS_WRITE => Self::Write,
            uapi::ACCESS_ATOMIC => Self::Atomic,
            uapi::ACCESS_FETCH => Self::Fetch,
            other => Self::Unknown(other),
        }
    }
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read => f.write_str("load"),
            Self::Write => f.write_str("store"),
            Self::Atomic => f.write_str("atomic operation"),
            Self::Fetch => f.write_str("instruction fetch"),
            Self::Unknown(kind) => write!(f, "access of kind {kind}"),
        }
    }
}

/// A dispatch did not end well, or its end could not be learned.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LaunchError {
    /// An access that the process itself may not make.
    #[error("the kernel's {access} at {address:#x} is not allowed to the process")]
    Fault {
        /// Address of the access.
        address: u64,
        /// Its kind.
        access: Access,
    },
    /// An instruction that the device does not have.
    #[error("the kernel has an illegal instruction at {address:#x}")]
    Illegal {
        /// Address of the instruction.
        address: u64,
    },
    /// A misaligned atomic operation.
    #[error("the kernel's {access} at {address:#x} is misaligned")]
    Misaligned {
        /// Address of the access.
        address: u64,
        /// Its kind.
        access: Access,
    },
    /// It ran for longer than its limit.
    #[error("the kernel ran for longer than its time limit and was ended")]
    Timeout,
    /// Its queue was destroyed or the device was reset.
    #[error("the dispatch was stopped: its queue was destroyed or the device was reset")]
    Stopped,
    /// The device failed.
    #[error("the device failed while it ran the dispatch")]
    Device,
    /// So many dispatches followed that the queue forgot the result.
    #[error("the queue no longer knows the result; wait for it earlier, or use more entries")]
    Forgotten,
    /// A status that this library does not know.
    #[error("the driver reports the status {0}, which this version of the library does not know")]
    Unknown(u32),
    /// A system call failed.
    #[error("{call} failed")]
    System {
        /// Name of the call.
        call: &'static str,
        /// Why.
        source: io::Error,
    },
}

impl LaunchError {
    /// For `map_err`: `call` failed.
    pub(crate) fn system(call: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::System { call, source }
    }

    /// How a dispatch that is over ended; `None` if well.
    pub(crate) fn from_result(result: &uapi::DispatchResult) -> Option<Self> {
        let (address, access) = (result.address, result.access.into());
        match result.status {
            uapi::RESULT_OK => None,
            uapi::RESULT_FAULT => Some(Self::Fault { address, access }),
            uapi::RESULT_ILLEGAL => Some(Self::Illegal { address }),
            uapi::RESULT_MISALIGNED => Some(Self::Misaligned { address, access }),
            uapi::RESULT_TIMEOUT => Some(Self::Timeout),
            uapi::RESULT_STOPPED => Some(Self::Stopped),
            uapi::RESULT_DEVICE => Some(Self::Device),
            other => Some(Self::Unknown(other)),
        }
    }
}

/// Names, with commas between them.
struct Names<'a>(&'a [String]);

impl fmt::Display for Names<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("none");
        }
        f.write_str(&self.0.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(status: u32, access: u32, address: u64) -> Option<LaunchError> {
        LaunchError::from_result(&uapi::DispatchResult {
            status,
            access,
            address,
            ..Default::default()
        })
    }

    #[test]
    fn results_become_typed_errors() {
        assert!(ended(uapi::RESULT_OK, 0, 0).is_none());
        assert!(matches!(
            ended(uapi::RESULT_FAULT, uapi::ACCESS_WRITE, 0x1000),
            Some(LaunchError::Fault {
                address: 0x1000,
                access: Access::Write
            })
        ));
        assert!(matches!(
            ended(uapi::RESULT_ILLEGAL, 0, 0x20),
            Some(LaunchError::Illegal { address: 0x20 })
        ));
        assert!(matches!(
            ended(uapi::RESULT_MISALIGNED, uapi::ACCESS_ATOMIC, 0x21),
            Some(LaunchError::Misaligned {
                address: 0x21,
                access: Access::Atomic
            })
        ));
        assert!(matches!(
            ended(uapi::RESULT_TIMEOUT, 0, 0),
            Some(LaunchError::Timeout)
        ));
        assert!(matches!(
            ended(uapi::RESULT_STOPPED, 0, 0),
            Some(LaunchError::Stopped)
        ));
        assert!(matches!(
            ended(uapi::RESULT_DEVICE, 0, 0),
            Some(LaunchError::Device)
        ));
    }

    #[test]
    fn a_result_that_is_pending_or_new_is_not_success() {
        assert!(matches!(ended(0, 0, 0), Some(LaunchError::Unknown(0))));
        assert!(matches!(ended(99, 0, 0), Some(LaunchError::Unknown(99))));
    }

    #[test]
    fn errors_say_what_to_do() {
        let error = Error::NoKernel {
            name: "x".into(),
            known: vec!["a".into(), "b".into()],
        };
        assert_eq!(
            error.to_string(),
            "the module has no kernel \"x\"; it has: a, b"
        );
        let error = Error::create("ioctl", "queue")(io::Error::from_raw_os_error(libc::ENOSPC));
        assert_eq!(
            error.to_string(),
            "the device has no queue left; destroy one that is not needed"
        );
    }
}
