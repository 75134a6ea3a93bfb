// SPDX-License-Identifier: MIT OR Apache-2.0

//! `tern-dev`: what `make` and `./tern` run inside of the toolchain root.
//!
//! It knows what has to be there before a step can run, makes it, and then
//! hands over to the tool that does the step: `tern-series` for the series,
//! `tern-guest` and `tern-test` for what runs in the virtual machine.

mod bench;
mod config;
mod guest;
mod includes;
mod kernel;
mod lock;
mod places;
mod prove;
mod selftests;
mod series;
mod stamp;
mod step;
mod test_hmm;
mod tool;

use std::num::NonZeroUsize;
use std::process::ExitCode;

use anyhow::{ensure, Result};
use clap::{Parser, Subcommand};
use tern_guest::options::Options;

use crate::guest::Machine;
use crate::kernel::Kernel;
use crate::places::Places;

/// Builds, boots and tests the series.
#[derive(Debug, Parser)]
#[command(name = "tern", version)]
struct Cli {
    /// The kernel to build and boot [default: tern; for bench: release]
    #[arg(long, global = true, env = "KERNEL")]
    kernel: Option<Kernel>,
    /// Jobs of a build [default: one for each processor]
    #[arg(long, global = true, env = "JOBS", value_name = "N")]
    jobs: Option<NonZeroUsize>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Builds the kernel and the selftests
    Build,
    /// Runs the unified-memory workloads in the guest and checks every byte
    Run {
        #[command(flatten)]
        machine: Machine,
        /// Arguments of tern-run
        #[arg(last = true)]
        args: Vec<String>,
    },
    /// Runs the tests; the last line is the total
    ///
    /// The options of the machine are for the suites that run in a guest, except where a suite
    /// needs it otherwise; the time limit holds for each of them.
    Test {
        #[command(flatten)]
        options: Options,
        /// On the debug kernel: KASAN, lockdep, fault injection; with the suites that take long
        #[arg(long)]
        debug: bool,
        /// Only this suite; `*` stands for any characters
        #[arg(long, env = "ONLY", value_name = "NAME")]
        only: Option<String>,
        /// Further arguments of tern-test
        #[arg(last = true)]
        args: Vec<String>,
    },
    /// Runs the kernel's HMM tests on its own test device and on virtual GPUs, and compares them
    TestHmm {
        #[command(flatten)]
        options: Options,
    },
    /// Shows what the series mends: each test fails on the base kernel and passes with the series
    ///
    /// The options of the machine are for its guests; the time limit holds for each test.
    Prove {
        #[command(flatten)]
        options: Options,
        /// On debug kernels: KASAN, lockdep
        #[arg(long)]
        debug: bool,
        /// Only this defect, or this test; `*` stands for any characters
        #[arg(long, env = "ONLY", value_name = "NAME")]
        only: Option<String>,
        /// Further arguments of tern-prove
        #[arg(last = true)]
        args: Vec<String>,
    },
    /// Opens a shell in the guest
    Shell {
        #[command(flatten)]
        machine: Machine,
    },
    /// Runs a command in the guest; output and exit status are its own
    Guest {
        #[command(flatten)]
        machine: Machine,
        /// The command; a single word is a line for the guest's shell
        #[arg(required = true, trailing_var_arg = true)]
        command: Vec<String>,
    },
    /// Measures what it costs to move memory, beside the kernel's own test device, on a kernel
    /// without checks; prints a table and writes build/bench.json
    ///
    /// What the series costs those who do not ask for large folios is measured on the kernels tern
    /// and base, which are built for it.
    Bench {
        #[command(flatten)]
        machine: Machine,
    },
    /// Makes the kernel tree of the series in build/tree
    Tree {
        /// Keep what the repository does not have in a branch, and go on
        #[arg(long)]
        force: bool,
    },
    /// Takes edits and commits made in build/tree back into the repository
    Refresh,
    /// Writes the series as mails to build/series
    Series,
    /// Puts the series on the kernel tree KDIR
    Apply {
        /// The kernel tree
        #[arg(long, env = "KDIR")]
        kdir: String,
    },
    /// Builds every commit of the series in turn
    BisectCheck,
}

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("tern: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> Result<ExitCode> {
    let places = Places::from_env(cli.jobs)?;
    let places = &places;
    let kernel = cli.kernel.unwrap_or(Kernel::Tern);
    match cli.command {
        Command::Build => {
            selftests::ready(places, kernel)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Run { machine, args } => guest::run(places, kernel, &machine, &args),
        Command::Test {
            options,
            debug,
            only,
            args,
        } => {
            let kernel = if debug { Kernel::Debug } else { kernel };
            guest::test(places, kernel, &options, debug, only.as_deref(), &args)
        }
        Command::TestHmm { options } => {
            let args = ["--only=hmm-tests", "--only=tern-hmm-tests", "--compare"];
            guest::test(
                places,
                kernel,
                &options,
                false,
                None,
                &args.map(String::from),
            )
        }
        Command::Prove {
            options,
            debug,
            only,
            args,
        } => {
            ensure!(
                cli.kernel.is_none(),
                "prove takes two kernels: leave KERNEL out; with --debug they are debug kernels"
            );
            prove::prove(places, debug, &options, only.as_deref(), &args)
        }
        Command::Shell { machine } => guest::shell(places, kernel, &machine),
        Command::Guest { machine, command } => guest::command(places, kernel, &machine, &command),
        Command::Bench { machine } => {
            let kernel = cli.kernel.unwrap_or(Kernel::Release);
            bench::bench(places, kernel, &machine)
        }
        Command::Tree { force } => series::tree(places, force),
        Command::Refresh => series::refresh(places),
        Command::Series => series::export(places),
        Command::Apply { kdir } => series::apply(places, &kdir),
        Command::BisectCheck => series::bisect_check(places),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_options_fit_together() {
        Cli::command().debug_assert();
    }
}
