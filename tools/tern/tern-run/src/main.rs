// SPDX-License-Identifier: MIT OR Apache-2.0

//! Runs workloads on a Tern GPU, on memory from plain `malloc`, compares every byte of the
//! results with the CPU's own, and tells what moved where and how long it took.

mod check;
mod executor;
mod format;
mod kernels;
mod memory;
mod report;
mod workload;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{ensure, Context, Result};
use clap::{Parser, ValueEnum};
use tern::Device;

use crate::check::Mismatch;
use crate::executor::{Executor, Gpu};
use crate::memory::Thp;
use crate::report::{nanoseconds, DeviceReport, Outcome, Report, Workload};

/// Runs workloads on a Tern GPU and checks every byte against the CPU's own result.
///
/// Exit status: 0 if all results are equal, 1 if one differs, 2 if a workload could not run.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// What to run.
    #[arg(value_enum, default_value_t = Choice::All)]
    workload: Choice,
    /// Memory that a workload works on, up to half of the machine's; units K, M and G. Those that
    /// jump about in memory, and each of the four processes, have a quarter of it.
    #[arg(long, default_value = "64M", value_parser = format::parse_size)]
    size: u64,
    /// Rows and columns of gemm's three matrices of floats, up to half of the machine's memory.
    #[arg(long, default_value_t = 384, value_parser = clap::value_parser!(u64).range(1..))]
    n: u64,
    /// Turns of ping-pong between the device and the CPU.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Graph to search in: a line for each node, with its name and the numbers of its neighbours,
    /// which are lines from 0; without it, one of --size that looks random.
    #[arg(long, value_name = "FILE")]
    graph: Option<PathBuf>,
    /// Huge pages: ask for them, forbid them, or leave it to the system.
    #[arg(long, value_enum, default_value_t = Thp::Always)]
    thp: Thp,
    /// Files and directories whose words are counted, up to --size bytes; without it, the file of
    /// this program.
    #[arg(long, num_args = 1.., value_name = "PATH")]
    files: Vec<PathBuf>,
    /// Move the arrays of triad and ping-pong before they are used, in place of doing so by faults.
    #[arg(long)]
    prefetch: bool,
    /// Print JSON in place of the table.
    #[arg(long)]
    json: bool,
    /// Node of the device, such as /dev/dri/renderD128; without it, $TERN_DEVICE or the first
    /// Tern device.
    #[arg(long, value_name = "PATH")]
    device: Option<PathBuf>,
    /// What the contents of ping-pong's memory depend on.
    #[arg(long, hide = true, default_value_t = 0)]
    seed: u64,
    /// Say "ready", and begin when a line comes in.
    #[arg(long, hide = true)]
    together: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Choice {
    /// a = b + s * c over arrays of doubles.
    Triad,
    /// Product of two matrices of floats.
    Gemm,
    /// Words and lines of mapped files.
    Wordcount,
    /// CPU and device add to one buffer by turns.
    Pingpong,
    /// Breadth-first search in a graph.
    Bfs,
    /// Radix sort of records.
    Radix,
    /// Linked lists of nodes that malloc gave one by one.
    List,
    /// Lookups in a hash map of entries that malloc gave one by one.
    Hashmap,
    /// Four processes that play ping-pong at once.
    Processes,
    /// All of these.
    All,
}

impl Choice {
    fn has(self, name: &str) -> bool {
        match self {
            Self::Triad => name == "triad",
            Self::Gemm => name == "gemm",
            Self::Wordcount => name == "wordcount",
            Self::Pingpong => name == "pingpong",
            Self::Bfs => name == "bfs",
            Self::Radix => name == "radix",
            Self::List => name == "list",
            Self::Hashmap => name == "hashmap",
            Self::Processes => name == "processes",
            Self::All => true,
        }
    }
}

impl Arguments {
    fn options(&self) -> Result<workload::Options> {
        let mut files = self.files.clone();
        if files.is_empty() {
            files.push(std::env::current_exe().context("cannot find the file of this program")?);
        }
        let Self {
            size,
            n,
            rounds,
            thp,
            prefetch,
            seed,
            ..
        } = *self;
        Ok(workload::Options {
            size,
            n,
            rounds,
            files,
            graph: self.graph.clone(),
            thp,
            prefetch,
            device: self.device.clone(),
            seed,
        })
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(&arguments).and_then(|report| print(&report, arguments.json)) {
        Ok(status) => status.into(),
        Err(error) => {
            eprintln!("error: {error:#}");
            2.into()
        }
    }
}

fn run(arguments: &Arguments) -> Result<Report> {
    let options = arguments.options()?;
    let device = match &arguments.device {
        Some(path) => Device::open_path(path),
        None => Device::open(),
    }?;
    if arguments.together {
        wait_for_others()?;
    }
    let workloads = workload::ALL
        .iter()
        .filter(|(name, _)| arguments.workload.has(name))
        .map(|&(name, function)| run_one(&device, name, function, &options))
        .collect();
    let path = device.path().display().to_string();
    Ok(Report {
        device: DeviceReport::new(path, &device.info()?),
        thp: arguments.thp,
        workloads,
    })
}

/// Says that this process is ready, and waits for the line that lets all begin.
fn wait_for_others() -> Result<()> {
    println!("{}", workload::READY);
    std::io::stdout().flush()?;
    let mut line = String::new();
    std::io::stdin().read_line(&mut line)?;
    ensure!(!line.is_empty(), "nobody lets this process begin");
    Ok(())
}

/// Runs a workload in an address space of its own, so that what is counted is its alone.
fn run_one(
    device: &Device,
    name: &'static str,
    function: workload::Run,
    options: &workload::Options,
) -> Workload {
    let mut workload = Workload {
        name: name.into(),
        ..Default::default()
    };
    if let Err(error) = fill(&mut workload, device, function, options) {
        workload.result = match error.is::<Mismatch>() {
            true => Outcome::Mismatch,
            false => Outcome::Failed,
        };
        workload.error = Some(format!("{error:#}"));
    }
    workload
}

fn fill(
    workload: &mut Workload,
    device: &Device,
    function: workload::Run,
    options: &workload::Options,
) -> Result<()> {
    let gpu = Gpu::new(device)?;
    let start = Instant::now();
    let done = function(&gpu, options);
    workload.total_ns = nanoseconds(start.elapsed());
    // Before the error is passed on: what moved until then helps to find out why.
    workload.count(&gpu.usage(), &gpu.stats()?);
    let done = done?;
    workload.bytes = done.bytes;
    workload.note = done.note;
    workload.result = Outcome::Equal;
    for (part, index) in done.parts.iter().zip(1..) {
        workload.add(index, part);
    }
    Ok(())
}

/// Prints the report and returns the exit status.
fn print(report: &Report, json: bool) -> Result<u8> {
    if json {
        println!("{}", serde_json::to_string_pretty(report)?);
    } else {
        print!("{}", report.table());
    }
    for workload in &report.workloads {
        if let Some(error) = &workload.error {
            eprintln!("error: {}: {error}", workload.name);
        }
    }
    Ok(report.exit_status())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn arguments_are_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn every_workload_can_be_chosen() {
        for (name, _) in workload::ALL {
            let arguments = Arguments::parse_from(["tern-run", name]);
            let chosen: Vec<_> = workload::ALL
                .iter()
                .filter(|(n, _)| arguments.workload.has(n))
                .collect();
            assert_eq!(chosen.len(), 1, "{name}");
            assert_eq!(chosen[0].0, name);
        }
        let all = Arguments::parse_from(["tern-run"]);
        assert!(workload::ALL.iter().all(|(name, _)| all.workload.has(name)));
    }

    #[test]
    fn values_out_of_range_are_refused() {
        for arguments in [
            ["tern-run", "--size", "0"],
            ["tern-run", "--size", "many"],
            ["tern-run", "--rounds", "0"],
            ["tern-run", "--n", "0"],
            ["tern-run", "--thp", "perhaps"],
        ] {
            assert!(
                Arguments::try_parse_from(arguments).is_err(),
                "{arguments:?}"
            );
        }
    }
}
