// SPDX-License-Identifier: MIT OR Apache-2.0

//! Runs `tern-run` on the device and checks the figures that it prints as JSON: which pages moved,
//! and which did not; and tests the library that it uses. The results are TAP.

mod library;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Output};

use anyhow::{ensure, Context, Result};
use clap::Parser;
use serde_json::Value;
use tern_thp::OnlySize;

const MIB: u64 = 1 << 20;
const HUGE: u64 = 2 * MIB;
const PAGE: u64 = 4096;

/// Tests on the device, of tern-run by the figures that it prints and of its library; the results
/// are TAP.
#[derive(Parser)]
enum Tests {
    /// Huge pages move whole, or not at all, and files stay where they are.
    Pages {
        /// Files of some MiB together, to count words in
        files: PathBuf,
    },
    /// Memory that a device of 64 MiB has no room for, up to half of the machine's.
    Large {
        /// Half of the machine's memory in MiB
        half: u64,
    },
    /// The library, in Rust and in C: what it does for callers and kernels that go wrong.
    Library,
}

type Test<'a> = (&'static str, Box<dyn Fn() -> Result<()> + 'a>);

impl Tests {
    fn all(&self) -> Vec<Test<'_>> {
        match self {
            Self::Pages { files } => vec![
                ("huge_pages_move_whole", Box::new(huge_pages_move_whole)),
                ("forbidden_huge_pages", Box::new(forbidden_huge_pages)),
                ("folios_of_64_kib_move_whole", Box::new(mthp_moves_whole)),
                ("files_stay", Box::new(move || files_stay(files))),
                ("nodes_of_malloc_move", Box::new(nodes_of_malloc_move)),
                ("prefetch_spares_faults", Box::new(prefetch_spares_faults)),
                (
                    "one_address_four_memories",
                    Box::new(one_address_four_memories),
                ),
            ],
            Self::Large { half } => vec![
                ("half_of_memory", Box::new(move || half_of_memory(*half))),
                ("to_and_fro", Box::new(to_and_fro)),
                ("more_than_half", Box::new(move || more_than_half(*half))),
            ],
            Self::Library => library::all(),
        }
    }
}

fn main() -> ExitCode {
    let tests = Tests::parse();
    let tests = tests.all();
    let mut status = ExitCode::SUCCESS;
    println!("TAP version 13\n1..{}", tests.len());
    for (number, (name, test)) in (1..).zip(tests) {
        match test() {
            Ok(()) => println!("ok {number} {name}"),
            Err(error) => {
                println!("# {error:#}\nnot ok {number} {name}");
                status = ExitCode::FAILURE;
            }
        }
    }
    status
}

/// Runs the `tern-run` beside this program.
fn output(arguments: &[&str]) -> Result<Output> {
    let program = std::env::current_exe()?.with_file_name("tern-run");
    Command::new(&program)
        .args(arguments)
        .arg("--json")
        .output()
        .with_context(|| format!("cannot run {}", program.display()))
}

/// What one run of one workload reports.
struct Run(Value);

impl Run {
    /// Runs a workload, which must end well.
    fn new(arguments: &[&str]) -> Result<Self> {
        let output = output(arguments)?;
        let errors = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{}: {errors}", output.status);
        let report = serde_json::from_slice(&output.stdout).context("this is no JSON")?;
        let run = Self(report);
        let result = run.value("/workloads/0/result")?;
        ensure!(result == "equal", "the result is {result}");
        Ok(run)
    }

    fn value(&self, place: &str) -> Result<&Value> {
        let value = self.0.pointer(place);
        value.with_context(|| format!("the report has no {place}: {}", self.0))
    }

    /// A figure of the device.
    fn vram(&self) -> Result<u64> {
        let value = self.value("/device/vram_bytes")?;
        value.as_u64().context("vram_bytes is no number")
    }

    /// A figure of the workload.
    fn figure(&self, name: &str) -> Result<u64> {
        let value = self.value(&format!("/workloads/0/{name}"))?;
        let number = value.as_u64();
        number.with_context(|| format!("{name} is no number: {value}"))
    }

    /// Checks that a figure is within bounds.
    fn expect(&self, name: &str, bounds: std::ops::RangeInclusive<u64>) -> Result<()> {
        let value = self.figure(name)?;
        ensure!(
            bounds.contains(&value),
            "{name} is {value}, not one of {bounds:?}: {}",
            self.0
        );
        Ok(())
    }
}

/// All arrays of triad are used by the device, then by the CPU. Their first and last pages are in
/// no huge page, and a huge page may not be had, so that half of them is enough.
fn huge_pages_move_whole() -> Result<()> {
    let run = Run::new(&["triad", "--thp", "always", "--size", "64M"])?;
    let most = run.figure("bytes")? / HUGE;
    run.expect("to_device/huge", most / 2..=most)?;
    run.expect("to_system/huge", most / 2..=most)
}

/// As for huge pages: the first and last pages of an array are in no large folio.
fn mthp_moves_whole() -> Result<()> {
    const KIB: u64 = 64;
    let _size = OnlySize::new(KIB)?;
    let run = Run::new(&["triad", "--thp", "default", "--size", "64M"])?;
    let most = run.figure("bytes")? / (KIB << 10);
    for way in ["to_device", "to_system"] {
        run.expect(&format!("{way}/huge"), 0..=0)?;
        run.expect(&format!("{way}/mid"), most / 2..=2 * most)?;
        run.expect(&format!("{way}/small"), 0..=most)?;
    }
    Ok(())
}

fn forbidden_huge_pages() -> Result<()> {
    let run = Run::new(&["triad", "--thp", "never", "--size", "64M"])?;
    let pages = run.figure("bytes")? / PAGE;
    for way in ["to_device", "to_system"] {
        run.expect(&format!("{way}/huge"), 0..=0)?;
        run.expect(&format!("{way}/mid"), 0..=0)?;
        run.expect(&format!("{way}/small"), pages / 2..=u64::MAX)?;
    }
    Ok(())
}

/// What goes to the device for more files is no more than the tables that say where they are and
/// what is in them. All of the files is mapped in place.
fn files_stay(files: &Path) -> Result<()> {
    const TABLES_PER_PAGE: u64 = 64;
    const SLACK: u64 = 32 * PAGE;
    let files = files.to_str().context("the path is no text")?;
    let few = Run::new(&["wordcount", "--size", "64K", "--files", files])?;
    let many = Run::new(&["wordcount", "--size", "64M", "--files", files])?;
    let pages = many.figure("bytes")? / PAGE;
    ensure!(pages * PAGE > 2 * MIB, "{files} holds {pages} pages only");
    let most = few.figure("to_device/bytes")? + pages * TABLES_PER_PAGE + SLACK;
    many.expect("to_device/bytes", 0..=most)?;
    many.expect("mapped_pages", pages..=u64::MAX)
}

/// The nodes of a list lie in the heap, page by page. The device moves all of them there, and the
/// CPU, which looks at each, back.
fn nodes_of_malloc_move() -> Result<()> {
    let run = Run::new(&["list", "--size", "16M"])?;
    let pages = run.figure("bytes")? / PAGE;
    for way in ["to_device", "to_system"] {
        run.expect(&format!("{way}/bytes"), pages * PAGE..=u64::MAX)?;
    }
    Ok(())
}

/// What is moved before its use is found there by the device and by the CPU: few faults are left,
/// as those on the kernel's code and arguments.
fn prefetch_spares_faults() -> Result<()> {
    let arguments = ["pingpong", "--size", "32M", "--rounds", "2"];
    let with = Run::new(&[&arguments[..], &["--prefetch"]].concat())?;
    let without = Run::new(&arguments)?;
    for faults in ["faults", "cpu_faults"] {
        with.expect(faults, 0..=without.figure(faults)? / 4)?;
    }
    let huge = with.figure("bytes")? / HUGE;
    for way in ["to_device/huge", "to_system/huge"] {
        with.expect(way, huge..=2 * huge)?;
    }
    Ok(())
}

/// Four processes have their memory at one address, and each finds its own contents there.
fn one_address_four_memories() -> Result<()> {
    let run = Run::new(&["processes", "--size", "32M", "--rounds", "2"])?;
    run.expect("launches", 4 * 2..=4 * 2)?;
    let note = run.value("/workloads/0/note")?;
    let note = note.as_str().context("the note is no text")?;
    let addresses = note.matches(" at 0x").count();
    ensure!(addresses == 1, "there are {addresses} addresses: {note}");
    Ok(())
}

/// Checks that the device was filled, and the rest used where it is.
fn expect_both(run: &Run) -> Result<()> {
    let (bytes, vram) = (run.figure("bytes")?, run.vram()?);
    ensure!(bytes > vram, "all {bytes} bytes fit into {vram}");
    run.expect("to_device/huge", 1..=u64::MAX)?;
    run.expect("mapped_pages", (bytes - vram) / PAGE..=u64::MAX)
}

fn half_of_memory(half: u64) -> Result<()> {
    expect_both(&Run::new(&["triad", "--size", &format!("{half}M")])?)
}

fn to_and_fro() -> Result<()> {
    expect_both(&Run::new(&["pingpong", "--rounds", "2", "--size", "96M"])?)
}

fn more_than_half(half: u64) -> Result<()> {
    let output = output(&["triad", "--size", &format!("{}M", half + 1)])?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.code() == Some(2), "{}", output.status);
    ensure!(
        errors.contains(&format!("use at most --size {half}M")),
        "the error is {errors}"
    );
    Ok(())
}
