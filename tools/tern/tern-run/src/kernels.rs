// SPDX-License-Identifier: MIT OR Apache-2.0

//! The kernels, each compiled for the device and for the CPU.

use std::ffi::{c_ulong, c_void};

/// A kernel as the CPU calls it: arguments, index of the thread, number of threads.
type Function = unsafe extern "C" fn(*mut c_void, c_ulong, c_ulong);

/// One kernel.
pub struct Kernel {
    /// Name of the function.
    pub name: &'static str,
    /// ELF file for the device.
    pub elf: &'static [u8],
    /// The same source, compiled for the CPU.
    pub host: Function,
}

macro_rules! kernels {
    ($($(#[$doc:meta])+ $constant:ident = $name:ident,)+) => {
        extern "C" {
            $(fn $name(args: *mut c_void, index: c_ulong, threads: c_ulong);)+
        }
        $(
            $(#[$doc])+
            pub static $constant: Kernel = Kernel {
                name: stringify!($name),
                elf: include_bytes!(concat!(env!("OUT_DIR"), "/", stringify!($name), ".elf")),
                host: $name,
            };
        )+
        /// All of them.
        #[cfg(test)]
        pub static ALL: &[&Kernel] = &[$(&$constant,)+];
    };
}

kernels! {
    /// Takes [`TriadArgs`].
    TRIAD = triad,
    /// Takes [`GemmArgs`].
    GEMM = gemm,
    /// Takes [`WordcountArgs`].
    WORDCOUNT = wordcount,
    /// Takes [`PingpongArgs`].
    PINGPONG = pingpong,
}

/// `struct triad_args`: a = b + s * c.
#[repr(C)]
pub struct TriadArgs {
    pub a: *mut f64,
    pub b: *const f64,
    pub c: *const f64,
    pub s: f64,
    /// Elements of each.
    pub count: u64,
}

/// `struct gemm_args`: C = A * B, or some rows of it.
#[repr(C)]
pub struct GemmArgs {
    pub c: *mut f32,
    pub a: *const f32,
    pub b: *const f32,
    /// Columns of each, and rows of B.
    pub n: u64,
    /// Rows of A and C.
    pub rows: u64,
}

/// `struct chunk`: a part of a text.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Chunk {
    pub text: *const u8,
    /// Its first byte, as an offset into the text.
    pub start: u64,
    /// The byte after its last.
    pub end: u64,
}

/// `struct count`: what a chunk holds.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    pub words: u32,
    pub lines: u32,
}

/// `struct wordcount_args`.
#[repr(C)]
pub struct WordcountArgs {
    pub chunks: *const Chunk,
    /// One for each chunk.
    pub counts: *mut Count,
    pub chunk_count: u64,
    /// Sum over all chunks, added to.
    pub words: u64,
    /// Sum over all chunks, added to.
    pub lines: u64,
}

/// `struct pingpong_args`: adds `step` to every value.
#[repr(C)]
pub struct PingpongArgs {
    pub values: *mut u64,
    pub count: u64,
    pub step: u64,
}

#[cfg(test)]
mod tests {
    use super::ALL;
    use tern::Module;

    #[test]
    fn every_kernel_loads_as_a_module() {
        for kernel in ALL {
            let module = Module::from_elf(kernel.elf).unwrap();
            assert_eq!(module.kernels().collect::<Vec<_>>(), [kernel.name]);
            assert_ne!(module.kernel(kernel.name).unwrap().entry(), 0);
        }
    }
}
