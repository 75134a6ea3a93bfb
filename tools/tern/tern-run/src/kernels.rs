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
    ($($(#[$doc:meta])+ $constant:ident = $name:ident in $file:ident,)+) => {
        extern "C" {
            $(fn $name(args: *mut c_void, index: c_ulong, threads: c_ulong);)+
        }
        $(
            $(#[$doc])+
            pub static $constant: Kernel = Kernel {
                name: stringify!($name),
                elf: include_bytes!(concat!(env!("OUT_DIR"), "/", stringify!($file), ".elf")),
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
    TRIAD = triad in triad,
    /// Takes [`GemmArgs`].
    GEMM = gemm in gemm,
    /// Takes [`WordcountArgs`].
    WORDCOUNT = wordcount in wordcount,
    /// Takes [`PingpongArgs`].
    PINGPONG = pingpong in pingpong,
    /// Takes [`BfsArgs`].
    BFS = bfs in bfs,
    /// Takes [`RadixArgs`]: counts the digits.
    RADIX_COUNT = radix_count in radix,
    /// Takes [`RadixArgs`]: turns the counts into places.
    RADIX_PLACE = radix_place in radix,
    /// Takes [`RadixArgs`]: moves the records.
    RADIX_MOVE = radix_move in radix,
    /// Takes [`ListArgs`].
    LIST = list in list,
    /// Takes [`HashmapArgs`].
    HASHMAP = hashmap in hashmap,
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

/// `struct bfs_args`: one step of a breadth-first search.
#[repr(C)]
pub struct BfsArgs {
    /// For each node and one more, where its neighbours begin in `edges`.
    pub offsets: *const u64,
    pub edges: *const u32,
    /// Steps from the start to each node, or [`u32::MAX`].
    pub levels: *mut u32,
    /// Nodes that were reached last.
    pub frontier: *const u32,
    /// Nodes that this step reaches; there must be room for all.
    pub next: *mut u32,
    /// Nodes in `frontier`.
    pub count: u64,
    /// Nodes in `next`, added to.
    pub next_count: u64,
    /// Level of the nodes that this step reaches.
    pub level: u32,
}

/// Values of a digit of the radix sort.
pub const RADIX_DIGITS: u64 = 256;

/// `struct radix_args`: a pass of the radix sort.
#[repr(C)]
pub struct RadixArgs {
    pub from: *const u64,
    pub to: *mut u64,
    /// Records of each.
    pub count: u64,
    /// First bit of the digit.
    pub shift: u64,
    pub blocks: u64,
    /// One for each digit and block.
    pub places: *mut u64,
    /// One for each digit, 0 before the pass.
    pub totals: *mut u64,
}

/// `struct node` of a list.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Node {
    pub next: *mut Node,
    pub value: u64,
    /// How many nodes come before it; written by the kernel.
    pub position: u64,
}

/// `struct list`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct List {
    pub head: *mut Node,
    /// How many nodes it has; written by the kernel.
    pub nodes: u64,
    /// Of all values; written by the kernel.
    pub sum: u64,
}

/// `struct list_args`.
#[repr(C)]
pub struct ListArgs {
    pub lists: *mut List,
    pub count: u64,
}

/// `struct entry` of a hash map.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    pub next: *mut Entry,
    pub key: u64,
    /// Not 0.
    pub value: u64,
    /// How often it was found; added to by the kernel.
    pub hits: u64,
}

/// `struct hashmap_args`: looks keys up.
#[repr(C)]
pub struct HashmapArgs {
    /// First entry of each bucket.
    pub buckets: *const *mut Entry,
    /// 64 less the bits that number a bucket.
    pub shift: u64,
    pub keys: *const u64,
    /// One for each key.
    pub values: *mut u64,
    /// Keys to look up.
    pub count: u64,
}

#[cfg(test)]
mod tests {
    use super::ALL;
    use tern::Module;

    #[test]
    fn every_kernel_loads_as_a_module() {
        for kernel in ALL {
            let module = Module::from_elf(kernel.elf).unwrap();
            assert_ne!(module.kernel(kernel.name).unwrap().entry(), 0);
        }
    }
}
