// SPDX-License-Identifier: MIT OR Apache-2.0

//! Kernels in memory: a position-independent RISC-V ELF file, loaded and relocated.
//!
//! The device shares the address space of the process, so a module is ordinary memory that the
//! process maps, and a kernel is the address of a function in it.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use object::elf::{self, FileHeader64};
use object::read::elf::{Dyn, FileHeader, ProgramHeader, Sym};
use object::{slice_from_bytes, LittleEndian};

use crate::error::{Error, ModuleError};
use crate::sys::{page_size, Mapping};

type Header = FileHeader64<LittleEndian>;

/// A relocation.
type Entry = elf::Rela64<LittleEndian>;

/// Most memory of a module, in bytes.
const MAX_SIZE: u64 = 256 << 20;

/// Tag of the dynamic segment: relocations in compact form.
const DT_RELR: u32 = 36;

/// An ELF file in memory, ready to run on the device.
///
/// Cheap to clone. The memory stays until the module and its kernels are dropped and their dispatches
/// have ended. It goes when a wait or a later launch in their queue tells that they have, or with
/// the queue.
#[derive(Clone, Debug)]
pub struct Module {
    image: Arc<Image>,
}

impl Module {
    /// Loads the ELF file in `bytes`.
    ///
    /// It must be a 64-bit little-endian RISC-V file, position-independent and linked without
    /// shared libraries; `tern-kernel.h` has the compiler's options.
    ///
    /// # Errors
    ///
    /// [`Error::Module`] where the file is not of that kind or is malformed, or there is no
    /// memory for it.
    pub fn from_elf(bytes: &[u8]) -> Result<Self, Error> {
        let image = Arc::new(Image::load(bytes)?);
        Ok(Self { image })
    }

    /// Loads the ELF file at `path`, as [`Module::from_elf`] does.
    ///
    /// # Errors
    ///
    /// [`Error::Read`] where the file cannot be read, and those of [`Module::from_elf`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self, Error> {
        let path = path.as_ref();
        let bytes = fs::read(path).map_err(|source| Error::Read {
            path: path.to_path_buf(),
            source,
        })?;
        Self::from_elf(&bytes)
    }

    /// The kernel of this name: a function that the file exports.
    ///
    /// # Errors
    ///
    /// [`Error::NoKernel`] where there is none.
    pub fn kernel(&self, name: &str) -> Result<Kernel, Error> {
        match self.image.functions.get(name) {
            Some(&offset) => Ok(Kernel {
                entry: self.image.address(offset),
                image: Arc::clone(&self.image),
            }),
            None => Err(Error::NoKernel {
                name: name.into(),
                known: self.kernels().map(Into::into).collect(),
            }),
        }
    }

    /// Names of its functions, in order.
    pub fn kernels(&self) -> impl Iterator<Item = &str> {
        self.image.functions.keys().map(String::as_str)
    }
}

/// A function that the device can run.
#[derive(Clone, Debug)]
pub struct Kernel {
    entry: u64,
    image: Arc<Image>,
}

impl Kernel {
    /// Address of its first instruction.
    pub fn entry(&self) -> u64 {
        self.entry
    }

    pub(crate) fn image(&self) -> &Arc<Image> {
        &self.image
    }
}

/// The memory of a module.
#[derive(Debug)]
pub(crate) struct Image {
    memory: Mapping,
    /// Functions: name and offset into the memory.
    functions: BTreeMap<String, usize>,
}

impl Image {
    fn load(bytes: &[u8]) -> Result<Self, ModuleError> {
        let header = parse_header(bytes)?;
        let layout = Layout::new(header, bytes)?;
        let functions = layout.functions(header, bytes)?;

        let mapped = |reason: std::io::Error| ModuleError::Map {
            size: layout.size,
            reason: reason.to_string(),
        };
        let mut memory = Mapping::new(layout.size).map_err(mapped)?;
        let address = memory.address() as u64;
        layout.fill(memory.bytes_mut(), bytes)?;
        layout.relocate(memory.bytes_mut(), address, header, bytes)?;
        let memory = memory.protect(&layout.protections()).map_err(mapped)?;
        Ok(Self { memory, functions })
    }

    fn address(&self, offset: usize) -> u64 {
        (self.memory.address() + offset) as u64
    }
}

fn malformed(error: impl ToString) -> ModuleError {
    ModuleError::Malformed(error.to_string())
}

/// Reads the file header, of the one kind that the device runs.
fn parse_header(bytes: &[u8]) -> Result<&Header, ModuleError> {
    let Some((magic, [class, data, ..])) = bytes.split_first_chunk() else {
        return Err(malformed("it ends in its header"));
    };
    if *magic != elf::ELFMAG {
        return Err(malformed("it does not start as an ELF file does"));
    }
    if *class != elf::ELFCLASS64 || *data != elf::ELFDATA2LSB {
        return Err(ModuleError::Machine);
    }
    let header = Header::parse(bytes).map_err(malformed)?;
    if header.e_machine(LittleEndian) != elf::EM_RISCV {
        return Err(ModuleError::Machine);
    }
    if header.e_type(LittleEndian) != elf::ET_DYN {
        return Err(ModuleError::NotPositionIndependent);
    }
    Ok(header)
}

/// A loadable segment. `start` and `end` are offsets into the module's memory.
#[derive(Debug)]
struct Segment {
    start: usize,
    end: usize,
    /// Bytes of the file that fill it from its start, as a range of the file.
    file: std::ops::Range<usize>,
    flags: u32,
}

/// Where the parts of the file go.
#[derive(Debug)]
struct Layout {
    /// Address in the file that becomes offset 0.
    base: u64,
    /// Bytes of memory, whole pages.
    size: usize,
    /// In order of address; no two share a page.
    segments: Vec<Segment>,
}

impl Layout {
    fn new(header: &Header, bytes: &[u8]) -> Result<Self, ModuleError> {
        let page = page_size() as u64;
        let headers = header
            .program_headers(LittleEndian, bytes)
            .map_err(malformed)?;
        let loads = || {
            headers
                .iter()
                .filter(|h| h.p_type(LittleEndian) == elf::PT_LOAD && h.p_memsz(LittleEndian) != 0)
        };
        let first = loads()
            .next()
            .ok_or_else(|| malformed("it has nothing to load"))?;
        let base = first.p_vaddr(LittleEndian) / page * page;

        let mut segments: Vec<Segment> = Vec::new();
        for load in loads() {
            let segment = Segment::new(load, base, bytes)?;
            let page_end = segments
                .last()
                .map_or(0, |last| round_up(last.end, page as usize));
            if segment.start < page_end {
                return Err(malformed("its segments are out of order or share a page"));
            }
            segments.push(segment);
        }
        let end = segments.last().map_or(0, |last| last.end);
        Ok(Self {
            base,
            size: round_up(end, page as usize),
            segments,
        })
    }

    /// Offset into the memory of the bytes `address..address + length` of the file, which must
    /// lie in one segment.
    fn offset(&self, address: u64, length: usize) -> Option<usize> {
        let start = usize::try_from(address.checked_sub(self.base)?).ok()?;
        let end = start.checked_add(length)?;
        self.segments
            .iter()
            .any(|s| s.start <= start && end <= s.end)
            .then_some(start)
    }

    /// Finds the exported functions in executable segments.
    fn functions(
        &self,
        header: &Header,
        bytes: &[u8],
    ) -> Result<BTreeMap<String, usize>, ModuleError> {
        let sections = header.sections(LittleEndian, bytes).map_err(malformed)?;
        let mut functions = BTreeMap::new();
        for kind in [elf::SHT_DYNSYM, elf::SHT_SYMTAB] {
            let table = sections
                .symbols(LittleEndian, bytes, kind)
                .map_err(malformed)?;
            for symbol in table.iter().filter(|s| is_kernel(*s)) {
                let name = symbol
                    .name(LittleEndian, table.strings())
                    .map_err(malformed)?;
                let (Ok(name), Some(offset)) = (
                    std::str::from_utf8(name),
                    self.code_offset(symbol.st_value(LittleEndian)),
                ) else {
                    return Err(malformed("a function is not in executable memory"));
                };
                functions.insert(name.to_string(), offset);
            }
        }
        Ok(functions)
    }

    /// Offset of an instruction.
    fn code_offset(&self, address: u64) -> Option<usize> {
        let offset = self.offset(address, 2).filter(|o| o % 2 == 0)?;
        let executable = |s: &&Segment| s.flags & elf::PF_X != 0;
        self.segments
            .iter()
            .filter(executable)
            .any(|s| (s.start..s.end).contains(&offset))
            .then_some(offset)
    }

    /// Copies the file's contents; the rest of the memory is zero already.
    fn fill(&self, memory: &mut [u8], bytes: &[u8]) -> Result<(), ModuleError> {
        for segment in &self.segments {
            let contents = bytes
                .get(segment.file.clone())
                .ok_or_else(|| malformed("a segment is outside the file"))?;
            part(memory, segment.start, contents.len())?.copy_from_slice(contents);
        }
        Ok(())
    }

    /// Applies the file's relocations to the memory, which is at `address`.
    fn relocate(
        &self,
        memory: &mut [u8],
        address: u64,
        header: &Header,
        bytes: &[u8],
    ) -> Result<(), ModuleError> {
        let Some((table, size)) = relocation_table(header, bytes)? else {
            return Ok(());
        };
        let outside = || malformed("a relocation is outside its segments");
        let size = usize::try_from(size).map_err(|_| outside())?;
        let table = self.offset(table, size).ok_or_else(outside)?;

        // A copy: a malformed file may have relocations that overwrite the table.
        let entries = part(memory, table, size)?.to_vec();
        let count = size / size_of::<Entry>();
        let (entries, _) = slice_from_bytes::<Entry>(&entries, count).map_err(|()| outside())?;
        for entry in entries {
            match entry.r_info.get(LittleEndian) {
                // Type and symbol are both in `info`; a relative relocation has no symbol.
                info if info == u64::from(elf::R_RISCV_NONE) => {}
                info if info == u64::from(elf::R_RISCV_RELATIVE) => {
                    let target = self.offset(entry.r_offset.get(LittleEndian), 8);
                    let value = address
                        .wrapping_sub(self.base)
                        .wrapping_add_signed(entry.r_addend.get(LittleEndian));
                    part(memory, target.ok_or_else(outside)?, 8)?
                        .copy_from_slice(&value.to_le_bytes());
                }
                info => {
                    let kind = info as u32;
                    return Err(ModuleError::Dynamic(format!("a relocation of type {kind}")));
                }
            }
        }
        Ok(())
    }

    /// Protection of each segment's pages, for [`Mapping::protect`]; the pages between segments
    /// cannot be accessed.
    fn protections(&self) -> Vec<(usize, usize, i32)> {
        let page = page_size();
        let mut ranges = Vec::new();
        let mut done = 0;
        for segment in &self.segments {
            let start = segment.start / page * page;
            let end = round_up(segment.end, page);
            if done < start {
                ranges.push((done, start - done, libc::PROT_NONE));
            }
            ranges.push((start, end - start, segment.protection()));
            done = end;
        }
        ranges
    }
}

impl Segment {
    fn new(
        load: &elf::ProgramHeader64<LittleEndian>,
        base: u64,
        bytes: &[u8],
    ) -> Result<Self, ModuleError> {
        let size = load.p_memsz(LittleEndian);
        let start = load
            .p_vaddr(LittleEndian)
            .checked_sub(base)
            .ok_or_else(|| malformed("its segments are out of order"))?;
        let end = start.saturating_add(size);
        if end > MAX_SIZE {
            return Err(ModuleError::TooLarge {
                size: end,
                limit: MAX_SIZE,
            });
        }
        let (offset, length) = load.file_range(LittleEndian);
        let file_end = offset.saturating_add(length);
        if length > size || file_end > bytes.len() as u64 {
            return Err(malformed(
                "the contents of a segment are longer than it or the file",
            ));
        }
        // Fits: `end` is bounded by the limit, the range of the file by its length.
        Ok(Self {
            start: start as usize,
            end: end as usize,
            file: offset as usize..file_end as usize,
            flags: load.p_flags(LittleEndian),
        })
    }

    fn protection(&self) -> i32 {
        [
            (elf::PF_R, libc::PROT_READ),
            (elf::PF_W, libc::PROT_WRITE),
            (elf::PF_X, libc::PROT_EXEC),
        ]
        .iter()
        .filter(|(flag, _)| self.flags & flag != 0)
        .fold(libc::PROT_NONE, |all, (_, protection)| all | protection)
    }
}

/// Address and size in bytes of the relocations, from the dynamic segment.
fn relocation_table(header: &Header, bytes: &[u8]) -> Result<Option<(u64, u64)>, ModuleError> {
    let headers = header
        .program_headers(LittleEndian, bytes)
        .map_err(malformed)?;
    let (mut table, mut size) = (None, 0);
    for header in headers {
        for entry in header
            .dynamic(LittleEndian, bytes)
            .map_err(malformed)?
            .into_iter()
            .flatten()
        {
            let value = entry.d_val(LittleEndian);
            match entry.tag32(LittleEndian).unwrap_or(0) {
                elf::DT_RELA => table = Some(value),
                elf::DT_RELASZ => size = value,
                elf::DT_NEEDED => return Err(ModuleError::Dynamic("a shared library".into())),
                elf::DT_REL | DT_RELR | elf::DT_JMPREL => {
                    return Err(ModuleError::Dynamic(
                        "a relocation table of another form".into(),
                    ))
                }
                _ => {}
            }
        }
    }
    Ok(table.map(|table| (table, size)))
}

fn is_kernel<S: Sym<Endian = LittleEndian>>(symbol: &S) -> bool {
    symbol.st_type() == elf::STT_FUNC
        && symbol.st_bind() != elf::STB_LOCAL
        && !symbol.is_undefined(LittleEndian)
}

/// `length` bytes of the memory of a module, from `offset`.
fn part(memory: &mut [u8], offset: usize, length: usize) -> Result<&mut [u8], ModuleError> {
    memory
        .get_mut(offset..)
        .and_then(|rest| rest.get_mut(..length))
        .ok_or_else(|| malformed("a part of it is outside its segments"))
}

/// `value` up to a multiple of `page`. Callers stay far below the largest integer.
fn round_up(value: usize, page: usize) -> usize {
    value.div_ceil(page) * page
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::process::Command;
    use std::sync::OnceLock;

    const SOURCE: &str = r#"
        #include "tern-kernel.h"
        static uint64_t answer = 42;
        uint64_t *volatile table[2] = { &answer, 0 };
        uint64_t zeros[3000];
        static void helper(uint64_t *p) { *p += 1; }
        void (*volatile function)(uint64_t *) = helper;
        TERN_KERNEL void first(uint64_t *args, unsigned long index, unsigned long threads)
        {
            args[index] = *table[0] + zeros[threads];
        }
        TERN_KERNEL void second(uint64_t *args, unsigned long index, unsigned long threads)
        {
            function(args + index * threads);
        }
    "#;

    /// Compiles for the device, with these options for the linker.
    fn compile(source: &str, link: &[&str]) -> Vec<u8> {
        let directory = tempfile::tempdir().unwrap();
        let (file, elf) = (
            directory.path().join("kernel.c"),
            directory.path().join("elf"),
        );
        std::fs::write(&file, source).unwrap();
        let clang = std::env::var("CLANG").unwrap_or_else(|_| "clang".into());
        let status = Command::new(&clang)
            .args(["--target=riscv64", "-march=rv64gc", "-mabi=lp64d", "-O2"])
            .args(["-mcmodel=medany", "-mno-relax", "-ffreestanding", "-fpie"])
            .args([
                "-fvisibility=hidden",
                "-nostdlib",
                "-fuse-ld=lld",
                "-Wl,-e,0",
            ])
            .args(link)
            .arg("-I")
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("include"))
            .arg("-o")
            .arg(&elf)
            .arg(&file)
            .status()
            .unwrap_or_else(|e| panic!("cannot run {clang} (set CLANG): {e}"));
        assert!(status.success());
        std::fs::read(elf).unwrap()
    }

    /// A module as `tern-kernel.h` says to make it.
    fn good() -> &'static [u8] {
        static GOOD: OnceLock<Vec<u8>> = OnceLock::new();
        GOOD.get_or_init(|| compile(SOURCE, &["-Wl,-pie"]))
    }

    fn error(bytes: &[u8]) -> ModuleError {
        Image::load(bytes).unwrap_err()
    }

    /// The 8-byte words that a module may read, by address.
    fn words(image: &Image, elf: &[u8]) -> BTreeMap<u64, u64> {
        let layout = Layout::new(parse_header(elf).unwrap(), elf).unwrap();
        let readable = layout.segments.iter().filter(|s| s.flags & elf::PF_R != 0);
        let aligned = readable.flat_map(|s| (s.start.next_multiple_of(8)..s.end - 7).step_by(8));
        aligned
            .map(|offset| {
                let address = image.address(offset);
                // SAFETY: the word lies in a segment that was mapped for reading.
                (address, unsafe { *(address as *const u64) })
            })
            .collect()
    }

    #[test]
    fn kernels_are_found_by_name() {
        let module = Module::from_elf(good()).unwrap();
        assert_eq!(module.kernels().collect::<Vec<_>>(), ["first", "second"]);
        let kernel = module.kernel("first").unwrap();
        assert!(
            kernel.entry() % 2 == 0 && kernel.entry() != module.kernel("second").unwrap().entry()
        );
        let error = module.kernel("third").unwrap_err().to_string();
        assert!(error.ends_with("it has: first, second"), "{error}");
    }

    #[test]
    fn pointers_are_relocated_and_the_rest_is_zero() {
        let image = Image::load(good()).unwrap();
        let words = words(&image, good());
        assert!(words
            .values()
            .any(|pointer| words.get(pointer) == Some(&42)));
        assert!(words.values().filter(|&&word| word == 0).count() >= 3000);
    }

    #[test]
    fn the_kernel_outlives_its_module() {
        let kernel = Module::from_elf(good()).unwrap().kernel("first").unwrap();
        // SAFETY: the kernel keeps its code, which is mapped for reading.
        assert_ne!(unsafe { *(kernel.entry() as *const u16) }, 0);
    }

    #[test]
    fn other_kinds_of_files_are_refused_with_the_reason() {
        let program = std::fs::read("/proc/self/exe").unwrap();
        assert_eq!(error(&program), ModuleError::Machine);
        let fixed = compile(SOURCE, &["-Wl,--no-pie"]);
        assert_eq!(error(&fixed), ModuleError::NotPositionIndependent);
        let import = "extern void other(void); void name(void) { other(); }";
        let shared = compile(import, &["-fvisibility=default", "-Wl,-shared"]);
        assert!(matches!(error(&shared), ModuleError::Dynamic(_)));
        let large = compile("char large[1 << 30]; void name(void) {}", &["-Wl,-pie"]);
        assert!(matches!(
            error(&large),
            ModuleError::TooLarge {
                limit: MAX_SIZE,
                ..
            }
        ));
        assert!(matches!(
            error(b"#!/bin/sh\nexit 0\n"),
            ModuleError::Malformed(_)
        ));
        assert!(matches!(error(&[]), ModuleError::Malformed(_)));
    }

    #[test]
    fn a_file_that_ends_early_is_refused_or_complete_in_itself() {
        let layout = Layout::new(parse_header(good()).unwrap(), good()).unwrap();
        let contents = layout.segments.iter().map(|s| s.file.end).max().unwrap();
        for length in 0..contents {
            assert!(Image::load(&good()[..length]).is_err(), "{length} bytes");
        }
    }

    #[test]
    fn segments_that_share_a_page_are_refused() {
        let mut bytes = good().to_vec();
        let header_offset = 64 + 56;
        // The virtual address of each loadable segment becomes the same.
        for header in 0..8 {
            let at = header_offset + header * 56;
            if bytes[at..at + 4] == elf::PT_LOAD.to_le_bytes() {
                bytes[at + 16..at + 24].copy_from_slice(&0x1000u64.to_le_bytes());
            }
        }
        assert!(matches!(error(&bytes), ModuleError::Malformed(_)));
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(bytes: Vec<u8>) {
            prop_assert!(Image::load(&bytes).is_err());
        }

        #[test]
        fn damaged_files_never_panic(
            damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        ) {
            let mut bytes = good().to_vec();
            for (position, value) in damage {
                let position = position.index(bytes.len());
                bytes[position] = value;
            }
            let _ = Image::load(&bytes);
        }

        #[test]
        fn damaged_headers_never_panic(word in 0usize..80, value: u64, small in 0u64..0x4000) {
            for value in [value, small] {
                let mut bytes = good().to_vec();
                bytes[word * 8..word * 8 + 8].copy_from_slice(&value.to_le_bytes());
                let _ = Image::load(&bytes);
            }
        }
    }
}
