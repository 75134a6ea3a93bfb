// SPDX-License-Identifier: MIT OR Apache-2.0

//! The figures: what `tern-bench` measures in two guests, joined.
//!
//! Instructions are counted in a guest with one processor, by a plugin of QEMU, and with a virtual
//! GPU that works while its driver waits for the register write, so that they are the same each
//! time. Times are taken in a guest as it usually is.

use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

use anyhow::{ensure, Context, Result};
use tern_bench::figures::{figures, table};
use tern_bench::measured::{Counts, Section, Times};
use tern_bench::profile::{self, Symbols};
use tern_paths::shown;

use crate::guest::{guest, Machine};
use crate::kernel::{self, Built, Kernel};
use crate::places::Places;
use crate::tool::{cannot_run, step};

/// Memory of the virtual GPU: room for 1 GiB that moves there.
const VRAM: &str = "1280M";

/// Functions of a profile that are listed.
const FUNCTIONS: usize = 40;

/// Measures, prints the table, and writes `bench.json` and `bench-profile.txt`.
pub fn bench(places: &Places, kernel: Kernel, machine: &Machine) -> Result<ExitCode> {
    let (built, _in_use) = kernel::ready(places, kernel)?;
    let sections = places.build.join("bench-profile");
    let plugin = format!(
        "--plugin={},profile={}",
        places.tools.join("libtern_count.so").display(),
        sections.display()
    );
    let counting = [
        "--accel=tcg",
        "--cpus=1",
        "--vgpu-arg=--synchronous",
        &plugin,
    ];
    let counts = measure(places, &built, machine, "counts", &counting)?;
    let counts: Counts = serde_json::from_str(&counts).context("the counts make no sense")?;
    let times = measure(places, &built, machine, "times", &[])?;
    let times: Times = serde_json::from_str(&times).context("the times make no sense")?;

    let figures = figures(&counts, &times);
    let json = serde_json::to_string_pretty(&figures)?;
    write(&places.build.join("bench.json"), &(json + "\n"))?;
    let profiles = profiles(&built, &sections, &counts.sections)?;
    let path = places.build.join("bench-profile.txt");
    write(&path, &profiles)?;
    write(&path, &demangled(&path)?)?;
    print!("{}", table(&figures));
    Ok(ExitCode::SUCCESS)
}

/// Runs `tern-bench` in a guest; what it prints.
fn measure(
    places: &Places,
    built: &Built,
    machine: &Machine,
    what: &str,
    options: &[&str],
) -> Result<String> {
    let start = Instant::now();
    eprintln!("tern: bench, {what} ...");
    let mut command = guest(places, built, machine, "run");
    if !machine.says_vram() {
        command.args(["--vram", VRAM]);
    }
    command.args(options).args(["--", "tern-bench", what]);
    let output = step(&mut command).stderr(Stdio::inherit()).output();
    let output = output.with_context(|| cannot_run(&command))?;
    ensure!(
        output.status.success(),
        "the guest that measures {what} failed ({}); its log is {}",
        output.status,
        shown(&places.build.join("guest.log"))
    );
    eprintln!(
        "tern: bench, {what}: done in {} s",
        start.elapsed().as_secs()
    );
    String::from_utf8(output.stdout).context("what tern-bench prints is no text")
}

/// Where the instructions went, and removes the files that tell.
fn profiles(built: &Built, files: &Path, sections: &[Section]) -> Result<String> {
    let symbols = Symbols::parse(&read(&built.objects.join("System.map"))?);
    let mut text = String::new();
    for section in sections {
        let file = files.with_extension(section.number.to_string());
        let lines = read(&file)?;
        let functions = profile::functions(&lines, &symbols);
        text += &profile::table(&section.name, &functions, FUNCTIONS);
        text.push('\n');
    }
    // The others are what was between two sections.
    for number in 1..=sections
        .iter()
        .map(|section| section.number)
        .max()
        .unwrap_or(0)
    {
        let _ = fs::remove_file(files.with_extension(number.to_string()));
    }
    Ok(text)
}

/// The text of a file, with the names of Rust as they are in the source.
fn demangled(path: &Path) -> Result<String> {
    let file = fs::File::open(path).with_context(|| format!("{} cannot be read", shown(path)))?;
    let mut command = Command::new("c++filt");
    let output = step(&mut command).stdin(file).output();
    let output = output.with_context(|| cannot_run(&command))?;
    String::from_utf8(output.stdout).context("what c++filt prints is no text")
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("{} cannot be read", shown(path)))
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("{} cannot be written", shown(path)))
}
