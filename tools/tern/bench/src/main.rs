// SPDX-License-Identifier: MIT OR Apache-2.0

//! Measures, in the guest, what it costs to move memory to a Tern GPU and back, beside the
//! kernel's `lib/test_hmm`. Prints JSON, of which `make bench` makes figures.

mod cost;
mod counter;
mod counts;
mod dmirror;
mod gpu;
mod region;
mod times;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;

/// Measures what it costs to move memory to a Tern GPU and back; prints JSON.
///
/// Needs a device with more than 1 GiB of memory, the module test_hmm, and root.
#[derive(Debug, Parser)]
#[command(version)]
enum Arguments {
    /// Instructions, in a guest with one processor and the plugin tern-count.
    Counts,
    /// Instructions for folios of 64 KiB that are split, on a driver with mthp=0.
    Split,
    /// Instructions of test_hmm alone, which needs no Tern GPU.
    TestHmm {
        /// File of the module, which is loaded in place of the kernel's own.
        module: PathBuf,
    },
    /// Times, and the memory that the driver takes.
    Times,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tern-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    let json = match arguments {
        Arguments::Counts => serde_json::to_string(&counts::counts()?)?,
        Arguments::Split => serde_json::to_string(&counts::split()?)?,
        Arguments::TestHmm { module } => serde_json::to_string(&counts::test_hmm(module)?)?,
        Arguments::Times => serde_json::to_string(&times::times()?)?,
    };
    println!("{json}");
    Ok(())
}
