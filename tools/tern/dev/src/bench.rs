// SPDX-License-Identifier: MIT OR Apache-2.0

//! The figures: what `tern-bench` measures in five guests, joined.
//!
//! Instructions are counted in a guest with one processor, by a plugin of QEMU, and with a virtual
//! GPU that works while its driver waits for the register write, so that they are the same each
//! time; once more with a driver that splits folios of 64 KiB. Two more guests count what `lib/test_hmm` takes with the series and without it. Times are
//! taken in a guest as it usually is.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

use anyhow::{ensure, Context, Result};
use serde::de::DeserializeOwned;
use tern_bench::figures::{figures, table};
use tern_bench::measured::{Counts, Section, Sizes, TestHmm, Times, Ways};
use tern_bench::profile::{self, Symbols};
use tern_paths::shown;

use crate::guest::{guest, Machine};
use crate::kernel::{self, Built, Kernel};
use crate::places::Places;
use crate::test_hmm;
use crate::tool::{cannot_run, step};

/// Memory of the virtual GPU: room for 1 GiB that moves there.
const VRAM: &str = "1280M";

/// Functions of a profile that are listed.
const FUNCTIONS: usize = 40;

/// Measures, prints the table, and writes `bench.json` and `bench-profile.txt`.
pub fn bench(places: &Places, kernel: Kernel, machine: &Machine) -> Result<ExitCode> {
    let (series, series_profiles) = peer(places, Kernel::Tern, machine)?;
    let (base, base_profiles) = peer(places, Kernel::Base, machine)?;

    let (built, _in_use) = kernel::ready(places, kernel)?;
    let counts: Counts = measure(places, &built, machine, &["counts"], &counting(places))?;
    let profiles = profiles(places, &built, &counts.sections)?;
    let mut splitting = counting(places).to_vec();
    splitting.push("--append=tern.mthp=0".into());
    let split: Ways = measure(places, &built, machine, &["split"], &splitting)?;
    let times: Times = measure(places, &built, machine, &["times"], &[])?;

    let figures = figures(&counts, &times, &split, &series, &base);
    let json = serde_json::to_string_pretty(&figures)?;
    write(&places.build.join("bench.json"), &(json + "\n"))?;
    let profiles = profiles + &series_profiles + &base_profiles;
    let path = places.build.join("bench-profile.txt");
    write(&path, &profiles)?;
    write(&path, &demangled(&path)?)?;
    print!("{}", table(&figures));
    Ok(ExitCode::SUCCESS)
}

/// What the same `lib/test_hmm` takes on a kernel, and where that goes.
fn peer(places: &Places, kernel: Kernel, machine: &Machine) -> Result<(Sizes, String)> {
    let (built, module, _in_use) = test_hmm::ready(places, kernel)?;
    let module = module.to_str().context("the module's path is no UTF-8")?;
    let words = ["test-hmm", module];
    let counts: TestHmm = measure(places, &built, machine, &words, &counting(places))?;
    let profiles = profiles(places, &built, &counts.sections)?;
    Ok((counts.move_2m, profiles))
}

/// Options of a guest whose instructions are counted.
fn counting(places: &Places) -> [String; 4] {
    let plugin = format!(
        "--plugin={},profile={}",
        places.tools.join("libtern_count.so").display(),
        sections(places).display()
    );
    [
        "--accel=tcg".into(),
        "--cpus=1".into(),
        "--vgpu-arg=--synchronous".into(),
        plugin,
    ]
}

/// The files of the profile's sections, but for their numbers.
fn sections(places: &Places) -> PathBuf {
    places.build.join("bench-profile")
}

/// Runs `tern-bench` with `words` in a guest; what it prints.
fn measure<T: DeserializeOwned>(
    places: &Places,
    built: &Built,
    machine: &Machine,
    words: &[&str],
    options: &[String],
) -> Result<T> {
    let start = Instant::now();
    let what = format!("{} on the kernel {}", words[0], built.kernel.name());
    eprintln!("tern: bench, {what} ...");
    let mut command = guest(places, built, machine, "run");
    if !machine.says_vram() {
        command.args(["--vram", VRAM]);
    }
    command.args(options).args(["--", "tern-bench"]).args(words);
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
    serde_json::from_slice(&output.stdout).context("what tern-bench prints makes no sense")
}

/// Where the instructions went, and removes the files that tell.
fn profiles(places: &Places, built: &Built, sections: &[Section]) -> Result<String> {
    let files = self::sections(places);
    let symbols = Symbols::parse(&read(&built.objects.join("System.map"))?);
    let mut text = String::new();
    for section in sections {
        let file = files.with_extension(section.number.to_string());
        let lines = read(&file)?;
        let functions = profile::functions(&lines, &symbols);
        let title = format!("{}, kernel {}", section.name, built.kernel.name());
        text += &profile::table(&title, &functions, FUNCTIONS);
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
