// SPDX-License-Identifier: MIT OR Apache-2.0

//! What the tests of the compute core share: a memory, and programs from the assembler and the compiler.
#![allow(dead_code)] // No test program uses all of it.

use std::cell::UnsafeCell;
use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicU8, Ordering::SeqCst};

use tern_vgpu::rv64::{Access, Fault, ICache, Memory, Miss, Start, Stop, Translation, Wave};

/// Where programs are linked to begin.
pub const CODE: u64 = 0x1_0000;
/// Where programs are linked to have their data.
pub const DATA: u64 = 0x10_0000;
/// Where the stacks are.
pub const STACK: u64 = 0x4000_0000;
/// Bytes of stack per thread.
pub const STACK_SIZE: u64 = 0x1000;

const PAGE: u64 = 4096;

#[repr(align(4096))]
struct Page(UnsafeCell<[u8; PAGE as usize]>);

/// Memory of pages that exist or not, some of them for some accesses only.
#[derive(Default)]
pub struct Ram {
    pages: BTreeMap<u64, Box<Page>>,
    denied: HashSet<(u64, u8)>,
    broken: HashSet<u64>,
    /// Translations that were asked for.
    pub lookups: usize,
}

impl Ram {
    pub fn new() -> Self {
        Self::default()
    }

    /// Maps all pages that the range touches.
    pub fn map(&mut self, va: u64, len: u64) {
        for number in va / PAGE..(va + len).div_ceil(PAGE) {
            self.pages
                .entry(number)
                .or_insert_with(|| Box::new(Page(UnsafeCell::new([0; PAGE as usize]))));
        }
    }

    /// Makes accesses of one kind to a page miss.
    pub fn deny(&mut self, va: u64, access: Access) {
        self.denied.insert((va / PAGE, access as u8));
    }

    /// Ends all denials.
    pub fn allow(&mut self) {
        self.denied.clear();
    }

    /// Makes the page table malformed for a page.
    pub fn break_table(&mut self, va: u64) {
        self.broken.insert(va / PAGE);
    }

    fn byte(&self, va: u64) -> &AtomicU8 {
        let page = self
            .pages
            .get(&(va / PAGE))
            .unwrap_or_else(|| panic!("{va:#x} is not mapped"));
        // SAFETY: within the page, which lives as long as `self` and is accessed atomically only.
        unsafe { AtomicU8::from_ptr(page.0.get().cast::<u8>().add((va % PAGE) as usize)) }
    }

    /// Maps and fills a range.
    pub fn write(&mut self, va: u64, bytes: &[u8]) {
        self.map(va, bytes.len() as u64);
        for (i, &byte) in bytes.iter().enumerate() {
            self.byte(va + i as u64).store(byte, SeqCst);
        }
    }

    pub fn read(&self, va: u64, len: u64) -> Vec<u8> {
        (va..va + len)
            .map(|va| self.byte(va).load(SeqCst))
            .collect()
    }

    pub fn write_u64(&mut self, va: u64, value: u64) {
        self.write(va, &value.to_le_bytes());
    }

    pub fn u64(&self, va: u64) -> u64 {
        u64::from_le_bytes(self.read(va, 8).try_into().unwrap())
    }

    pub fn u32(&self, va: u64) -> u32 {
        u32::from_le_bytes(self.read(va, 4).try_into().unwrap())
    }
}

// SAFETY: pages are never unmapped, and `Ram` accesses them atomically.
unsafe impl Memory for Ram {
    fn translate(&mut self, va: u64, access: Access) -> Result<Translation, Miss> {
        self.lookups += 1;
        if self.broken.contains(&(va / PAGE)) {
            return Err(Miss::Error);
        }
        if self.denied.contains(&(va / PAGE, access as u8)) {
            return Err(Miss::Fault);
        }
        let page = self.pages.get(&(va / PAGE)).ok_or(Miss::Fault)?;
        let offset = (va % PAGE) as usize;
        Ok(Translation {
            ptr: page.0.get().cast::<u8>().wrapping_add(offset),
            len: PAGE as usize - offset,
        })
    }
}

/// The start of `lanes` threads at [`CODE`] with `args` as their argument.
pub fn start(lanes: usize, args: u64) -> Start {
    Start {
        entry: CODE,
        args,
        first: 0,
        lanes,
        threads: lanes as u64,
        stack: STACK,
        stack_size: STACK_SIZE,
        slot: 0,
    }
}

/// Runs a wave to its end, with nothing allowed to miss.
pub fn finish(wave: &mut Wave, ram: &mut Ram) {
    let mut faults: Vec<Fault> = Vec::new();
    let mut icache = ICache::new();
    let stop = loop {
        match wave.run(ram, &mut icache, 1 << 20, &mut faults) {
            Stop::Quantum => assert!(wave.retired() < 1 << 32, "the program does not end"),
            stop => break stop,
        }
    };
    assert_eq!((stop, faults), (Stop::Done, vec![]));
}

/// Makes memory with a program and stacks.
pub fn load(program: &[u8], lanes: usize) -> Ram {
    let mut ram = Ram::new();
    ram.write(CODE, program);
    ram.map(STACK, STACK_SIZE * (lanes as u64 + 1));
    ram
}

/// Assembles and runs `lanes` threads with their argument at [`DATA`], where `data` was put, and gives memory.
pub fn run_asm(asm: &str, lanes: usize, data: &[u8]) -> Ram {
    let mut ram = load(&assemble(asm), lanes);
    ram.map(DATA, 0x10000);
    ram.write(DATA, data);
    finish(&mut Wave::new(&start(lanes, DATA)), &mut ram);
    ram
}

/// Builds `source` for the core and gives the image that begins at [`CODE`]. `elf` makes it an ELF file instead.
pub fn build(source: &str, extension: &str, elf: bool) -> PathBuf {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let number = COUNT.fetch_add(1, SeqCst);
    let base = Path::new(env!("CARGO_TARGET_TMPDIR"))
        .join(format!("rv64-{}-{number}", std::process::id()));
    let (input, output) = (base.with_extension(extension), base.with_extension("out"));
    fs::write(&input, source).expect("the source cannot be written");
    let clang = std::env::var("CLANG").unwrap_or_else(|_| "clang".into());
    let built = Command::new(&clang)
        .args([
            "--target=riscv64-unknown-elf",
            "-march=rv64gc",
            "-mabi=lp64d",
            "-mcmodel=medany",
            "-mno-relax",
        ])
        .args([
            "-O2",
            "-ffreestanding",
            "-fno-math-errno",
            "-ffp-contract=off",
        ])
        .args(["-nostdlib", "-fuse-ld=lld", "-static", "-Wl,--entry=_start"])
        .args([
            format!("-Wl,-Ttext={CODE:#x}"),
            format!("-Wl,-Tdata={DATA:#x}"),
        ])
        .args(if elf {
            None
        } else {
            Some("-Wl,--oformat=binary")
        })
        .arg(&input)
        .arg("-o")
        .arg(&output)
        .output()
        .unwrap_or_else(|error| {
            panic!("{clang} cannot be run ({error}); install clang and lld, or set CLANG")
        });
    assert!(
        built.status.success(),
        "{}",
        String::from_utf8_lossy(&built.stderr)
    );
    fs::remove_file(&input).expect("the source cannot be removed");
    output
}

/// Builds a flat image that begins at [`CODE`].
pub fn image(source: &str, extension: &str) -> Vec<u8> {
    let path = build(source, extension, false);
    let image = fs::read(&path).expect("the image cannot be read");
    fs::remove_file(&path).expect("the image cannot be removed");
    image
}

/// Assembles a program whose first instruction is its entry.
pub fn assemble(asm: &str) -> Vec<u8> {
    image(
        &format!(".option norelax\n.globl _start\n_start:\n{asm}\n"),
        "s",
    )
}

/// A small generator of random numbers (splitmix64).
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }
}

/// A place that threads of a test share with the core.
pub fn shared(ram: &Ram, va: u64) -> &AtomicU64 {
    assert_eq!(va % 8, 0);
    // SAFETY: `byte` gives mapped memory that is accessed atomically only, and the cell is within its page.
    unsafe { AtomicU64::from_ptr(ram.byte(va).as_ptr().cast()) }
}
