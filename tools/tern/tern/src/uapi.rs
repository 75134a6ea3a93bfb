// SPDX-License-Identifier: MIT OR Apache-2.0

//! The kernel's interface: `include/uapi/drm/tern_drm.h`, and what is used of `drm/drm.h`.
//!
//! Written by hand so that building the library needs no C compiler; a test compares every size,
//! offset and number with the C headers.

use std::marker::PhantomData;
use std::mem::size_of;

/// Number of an ioctl whose argument is a `T`.
pub struct Request<T> {
    number: u64,
    argument: PhantomData<fn(T)>,
}

impl<T> Request<T> {
    /// Type of all DRM ioctls.
    const DRM: u64 = b'd' as u64;

    const fn new(direction: u64, nr: u64) -> Self {
        let size = size_of::<T>() as u64;
        assert!(size < 1 << 14 && nr < 1 << 8);
        Self {
            number: (direction << 30) | (size << 16) | (Self::DRM << 8) | nr,
            argument: PhantomData,
        }
    }

    const fn write(nr: u64) -> Self {
        Self::new(1, nr)
    }

    const fn read_write(nr: u64) -> Self {
        Self::new(3, nr)
    }

    /// Number to give to `ioctl()`.
    pub const fn number(&self) -> u64 {
        self.number
    }
}

/// First number that a driver may use.
const COMMAND_BASE: u64 = 0x40;

pub const VERSION: Request<Version> = Request::read_write(0x00);
pub const SYNCOBJ_CREATE: Request<SyncobjCreate> = Request::read_write(0xbf);
pub const SYNCOBJ_DESTROY: Request<SyncobjDestroy> = Request::read_write(0xc0);
pub const SYNCOBJ_WAIT: Request<SyncobjWait> = Request::read_write(0xc3);
pub const DEVICE_QUERY: Request<DeviceQuery> = Request::read_write(COMMAND_BASE);
pub const VM_CREATE: Request<VmCreate> = Request::read_write(COMMAND_BASE + 1);
pub const VM_DESTROY: Request<Handle> = Request::write(COMMAND_BASE + 2);
pub const QUEUE_CREATE: Request<QueueCreate> = Request::read_write(COMMAND_BASE + 3);
pub const QUEUE_DESTROY: Request<Handle> = Request::write(COMMAND_BASE + 4);
pub const SUBMIT: Request<Submit> = Request::read_write(COMMAND_BASE + 5);
pub const RESULT: Request<DispatchResult> = Request::read_write(COMMAND_BASE + 6);
pub const STATS: Request<Stats> = Request::read_write(COMMAND_BASE + 7);
pub const PREFETCH: Request<Prefetch> = Request::read_write(COMMAND_BASE + 8);

pub const RESULT_PENDING: u32 = 0;
pub const RESULT_OK: u32 = 1;
pub const RESULT_FAULT: u32 = 2;
pub const RESULT_ILLEGAL: u32 = 3;
pub const RESULT_MISALIGNED: u32 = 4;
pub const RESULT_TIMEOUT: u32 = 5;
pub const RESULT_STOPPED: u32 = 6;
pub const RESULT_DEVICE: u32 = 7;

pub const ACCESS_READ: u32 = 0;
pub const ACCESS_WRITE: u32 = 1;
pub const ACCESS_ATOMIC: u32 = 2;
pub const ACCESS_FETCH: u32 = 3;

pub const LOCATION_SYSTEM: u32 = 0;
pub const LOCATION_DEVICE: u32 = 1;

/// Most sync objects of one submission, each way.
pub const MAX_SYNCOBJS: usize = 64;

/// `struct drm_version`. Pointers are addresses.
#[repr(C)]
#[derive(Default)]
pub struct Version {
    pub version_major: i32,
    pub version_minor: i32,
    pub version_patchlevel: i32,
    pub name_len: usize,
    pub name: usize,
    pub date_len: usize,
    pub date: usize,
    pub desc_len: usize,
    pub desc: usize,
}

/// `struct drm_syncobj_create`.
#[repr(C)]
#[derive(Default)]
pub struct SyncobjCreate {
    pub handle: u32,
    pub flags: u32,
}

/// `struct drm_syncobj_destroy`.
#[repr(C)]
#[derive(Default)]
pub struct SyncobjDestroy {
    pub handle: u32,
    pub pad: u32,
}

/// `struct drm_syncobj_wait`.
#[repr(C)]
#[derive(Default)]
pub struct SyncobjWait {
    pub handles: u64,
    pub timeout_nsec: i64,
    pub count_handles: u32,
    pub flags: u32,
    pub first_signaled: u32,
    pub pad: u32,
    pub deadline_nsec: u64,
}

/// `struct drm_tern_device_query`.
#[repr(C)]
#[derive(Default)]
pub struct DeviceQuery {
    pub flags: u32,
    pub hw_version: u32,
    pub vram_size: u64,
    pub vram_free: u64,
    pub aperture_size: u64,
    pub copy_engines: u32,
    pub resident_threads: u32,
    pub reserved: [u64; 3],
}

/// `struct drm_tern_vm_create`.
#[repr(C)]
#[derive(Default)]
pub struct VmCreate {
    pub flags: u32,
    pub handle: u32,
    pub reserved: [u64; 2],
}

/// `struct drm_tern_handle`.
#[repr(C)]
#[derive(Default)]
pub struct Handle {
    pub handle: u32,
    pub flags: u32,
}

/// `struct drm_tern_queue_create`.
#[repr(C)]
#[derive(Default)]
pub struct QueueCreate {
    pub vm: u32,
    pub flags: u32,
    pub entries: u32,
    pub handle: u32,
    pub reserved: [u64; 2],
}

/// `struct drm_tern_submit`.
#[repr(C)]
#[derive(Default)]
pub struct Submit {
    pub queue: u32,
    pub flags: u32,
    pub entry: u64,
    pub args: u64,
    pub threads: u64,
    pub stack: u64,
    pub stack_size: u32,
    pub timeout_ms: u32,
    pub in_syncobjs: u64,
    pub out_syncobjs: u64,
    pub in_count: u32,
    pub out_count: u32,
    pub seqno: u64,
    pub reserved: [u64; 2],
}

/// `struct drm_tern_result`.
#[repr(C)]
#[derive(Default)]
pub struct DispatchResult {
    pub queue: u32,
    pub flags: u32,
    pub seqno: u64,
    pub status: u32,
    pub access: u32,
    pub address: u64,
    pub instructions: u64,
    pub reserved: [u64; 2],
}

/// `struct drm_tern_stats`.
#[repr(C)]
#[derive(Default)]
pub struct Stats {
    pub vm: u32,
    pub flags: u32,
    pub faults: u64,
    pub blocks: u64,
    pub cancels: u64,
    pub cpu_faults: u64,
    pub to_device_huge: u64,
    pub to_device_mid: u64,
    pub to_device_small: u64,
    pub to_system_huge: u64,
    pub to_system_mid: u64,
    pub to_system_small: u64,
    pub mapped_pages: u64,
    pub bytes_to_device: u64,
    pub bytes_to_system: u64,
    pub collect_ns: u64,
    pub copy_ns: u64,
    pub install_ns: u64,
    pub resident_bytes: u64,
    pub reserved: [u64; 6],
}

/// `struct drm_tern_prefetch`.
#[repr(C)]
#[derive(Default)]
pub struct Prefetch {
    pub vm: u32,
    pub flags: u32,
    pub address: u64,
    pub size: u64,
    pub location: u32,
    pub pad: u32,
    pub reserved: [u64; 2],
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fmt::Write;
    use std::mem::offset_of;
    use std::path::Path;
    use std::process::Command;

    /// A C expression and the value that the Rust side expects of it.
    type Expected = (String, u64);

    fn size_of_field<T, F>(_: fn(&T) -> &F) -> u64 {
        size_of::<F>() as u64
    }

    macro_rules! layout {
        ($out:ident, $c:literal, $t:ident, [$($field:ident),*]) => {
            $out.push((format!("sizeof(struct {})", $c), size_of::<$t>() as u64));
            // Names every field, so that one left out of the list does not compile.
            let _ = |v: $t| { let $t { $($field: _),* } = v; };
            $(
                $out.push((
                    format!("offsetof(struct {}, {})", $c, stringify!($field)),
                    offset_of!($t, $field) as u64,
                ));
                $out.push((
                    format!("sizeof(((struct {} *)0)->{})", $c, stringify!($field)),
                    size_of_field(|v: &$t| &v.$field),
                ));
            )*
        };
    }

    macro_rules! numbers {
        ($out:ident, $($c:literal => $value:expr),* $(,)?) => {
            $out.extend([$(($c.to_string(), u64::from($value))),*]);
        };
    }

    fn structs() -> Vec<Expected> {
        let mut out = Vec::new();
        layout!(
            out,
            "drm_version",
            Version,
            [
                version_major,
                version_minor,
                version_patchlevel,
                name_len,
                name,
                date_len,
                date,
                desc_len,
                desc
            ]
        );
        layout!(out, "drm_syncobj_create", SyncobjCreate, [handle, flags]);
        layout!(out, "drm_syncobj_destroy", SyncobjDestroy, [handle, pad]);
        layout!(
            out,
            "drm_syncobj_wait",
            SyncobjWait,
            [
                handles,
                timeout_nsec,
                count_handles,
                flags,
                first_signaled,
                pad,
                deadline_nsec
            ]
        );
        layout!(
            out,
            "drm_tern_device_query",
            DeviceQuery,
            [
                flags,
                hw_version,
                vram_size,
                vram_free,
                aperture_size,
                copy_engines,
                resident_threads,
                reserved
            ]
        );
        layout!(
            out,
            "drm_tern_vm_create",
            VmCreate,
            [flags, handle, reserved]
        );
        layout!(out, "drm_tern_handle", Handle, [handle, flags]);
        layout!(
            out,
            "drm_tern_queue_create",
            QueueCreate,
            [vm, flags, entries, handle, reserved]
        );
        layout!(
            out,
            "drm_tern_submit",
            Submit,
            [
                queue,
                flags,
                entry,
                args,
                threads,
                stack,
                stack_size,
                timeout_ms,
                in_syncobjs,
                out_syncobjs,
                in_count,
                out_count,
                seqno,
                reserved
            ]
        );
        layout!(
            out,
            "drm_tern_result",
            DispatchResult,
            [
                queue,
                flags,
                seqno,
                status,
                access,
                address,
                instructions,
                reserved
            ]
        );
        layout!(
            out,
            "drm_tern_stats",
            Stats,
            [
                vm,
                flags,
                faults,
                blocks,
                cancels,
                cpu_faults,
                to_device_huge,
                to_device_mid,
                to_device_small,
                to_system_huge,
                to_system_mid,
                to_system_small,
                mapped_pages,
                bytes_to_device,
                bytes_to_system,
                collect_ns,
                copy_ns,
                install_ns,
                resident_bytes,
                reserved
            ]
        );
        layout!(
            out,
            "drm_tern_prefetch",
            Prefetch,
            [vm, flags, address, size, location, pad, reserved]
        );
        out
    }

    fn constants() -> Vec<Expected> {
        let mut out = Vec::new();
        numbers!(out,
            "DRM_IOCTL_VERSION" => VERSION.number(),
            "DRM_IOCTL_SYNCOBJ_CREATE" => SYNCOBJ_CREATE.number(),
            "DRM_IOCTL_SYNCOBJ_DESTROY" => SYNCOBJ_DESTROY.number(),
            "DRM_IOCTL_SYNCOBJ_WAIT" => SYNCOBJ_WAIT.number(),
            "DRM_IOCTL_TERN_DEVICE_QUERY" => DEVICE_QUERY.number(),
            "DRM_IOCTL_TERN_VM_CREATE" => VM_CREATE.number(),
            "DRM_IOCTL_TERN_VM_DESTROY" => VM_DESTROY.number(),
            "DRM_IOCTL_TERN_QUEUE_CREATE" => QUEUE_CREATE.number(),
            "DRM_IOCTL_TERN_QUEUE_DESTROY" => QUEUE_DESTROY.number(),
            "DRM_IOCTL_TERN_SUBMIT" => SUBMIT.number(),
            "DRM_IOCTL_TERN_RESULT" => RESULT.number(),
            "DRM_IOCTL_TERN_STATS" => STATS.number(),
            "DRM_IOCTL_TERN_PREFETCH" => PREFETCH.number(),
            "DRM_TERN_RESULT_PENDING" => RESULT_PENDING,
            "DRM_TERN_RESULT_OK" => RESULT_OK,
            "DRM_TERN_RESULT_FAULT" => RESULT_FAULT,
            "DRM_TERN_RESULT_ILLEGAL" => RESULT_ILLEGAL,
            "DRM_TERN_RESULT_MISALIGNED" => RESULT_MISALIGNED,
            "DRM_TERN_RESULT_TIMEOUT" => RESULT_TIMEOUT,
            "DRM_TERN_RESULT_STOPPED" => RESULT_STOPPED,
            "DRM_TERN_RESULT_DEVICE" => RESULT_DEVICE,
            "DRM_TERN_ACCESS_READ" => ACCESS_READ,
            "DRM_TERN_ACCESS_WRITE" => ACCESS_WRITE,
            "DRM_TERN_ACCESS_ATOMIC" => ACCESS_ATOMIC,
            "DRM_TERN_ACCESS_FETCH" => ACCESS_FETCH,
            "DRM_TERN_LOCATION_SYSTEM" => LOCATION_SYSTEM,
            "DRM_TERN_LOCATION_DEVICE" => LOCATION_DEVICE,
        );
        out
    }

    fn c_values(expressions: &[Expected]) -> Vec<u64> {
        let mut source = String::from(
            "#include <stddef.h>\n#include <stdio.h>\n#include <drm/tern_drm.h>\nint main(void)\n{\n",
        );
        for (expression, _) in expressions {
            // The cast to unsigned int keeps the sign bit of an ioctl number from spreading.
            writeln!(source, "printf(\"%u\\n\", (unsigned int)({expression}));").unwrap();
        }
        source.push_str("return 0;\n}\n");

        let directory = tempfile::tempdir().unwrap();
        let (file, program) = (
            directory.path().join("layout.c"),
            directory.path().join("layout"),
        );
        std::fs::write(&file, source).unwrap();
        let headers = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../include/uapi");
        let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".into());
        let status = Command::new(&compiler)
            .arg("-I")
            .arg(headers)
            .args(["-idirafter", "/usr/include/drm", "-o"])
            .arg(&program)
            .arg(&file)
            .status()
            .unwrap_or_else(|e| panic!("cannot run the C compiler {compiler} (set CC): {e}"));
        assert!(status.success(), "the C side does not compile");

        let output = Command::new(&program).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        text.lines().map(|line| line.parse().unwrap()).collect()
    }

    #[test]
    fn equals_the_c_headers() {
        let expected: Vec<_> = structs().into_iter().chain(constants()).collect();
        let values = c_values(&expected);
        assert_eq!(values.len(), expected.len());
        for ((expression, rust), c) in expected.iter().zip(values) {
            assert_eq!(*rust, c, "{expression}");
        }
    }

    #[test]
    fn structs_have_no_hidden_padding() {
        // Version is the C library's layout and has a hole; all of Tern's own have none.
        let all = structs();
        for (position, (expression, size)) in all.iter().enumerate() {
            if !expression.starts_with("sizeof(struct drm_tern") {
                continue;
            }
            let fields = all[position + 1..]
                .iter()
                .take_while(|(e, _)| !e.starts_with("sizeof(struct"));
            let sum: u64 = fields
                .filter(|(e, _)| e.starts_with("sizeof"))
                .map(|(_, size)| size)
                .sum();
            assert_eq!(sum, *size, "{expression}");
        }
    }
}
