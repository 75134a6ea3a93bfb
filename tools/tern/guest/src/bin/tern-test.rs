// SPDX-License-Identifier: MIT OR Apache-2.0

//! Runs the test suites and prints the totals.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;
use tern_guest::comparison::Comparison;
use tern_guest::options::Options;
use tern_guest::runner::{Plan, Runner};
use tern_guest::suite::{choose, read_table, Suite, Totals};
use tern_paths::beside;

const HELP: &str = "\
A line is printed for every test: \"ok\", \"not ok\" or \"skip\", its suite and
name, details, and the time it took. The very last line is the total, as
\"12 passed, 0 failed, 3 skipped\".

Besides tests that fail, these count as failed: a suite that does not run, that
gives no result or fewer than planned, or that takes too long; a complaint of
the guest's kernel; and a skip that the table of suites does not allow.

The options of the machine are for the suites that run in a guest. What the table
gives a suite because it needs it goes before them; of GPUs, one that uses any
gets no fewer than the table says, and one that uses none gets none.

tern-guest, which boots the guests, takes TERN_KERNEL, TERN_MODULES,
TERN_MEMORY_FACTOR and TERN_VGPU from the environment.

Exit status: 0 when nothing failed, 1 when something did, 2 when the options or
the table are wrong, 130 after Ctrl-C.";

/// Runs the test suites and prints the totals.
#[derive(Parser)]
#[command(version, after_help = HELP)]
struct Cli {
    #[command(flatten)]
    options: Options,
    /// The kernel is without the driver: skip the suites that use a GPU
    #[arg(long)]
    no_driver: bool,
    /// The kernel is without Rust: skip the suites that need its crates
    #[arg(long)]
    no_rust: bool,
    /// Run only this suite; `*` stands for any characters; can be repeated
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
    /// Run the suites that take long as well
    #[arg(long)]
    long: bool,
    /// What runs in a guest may take so many times as long, because its kernel is slow
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100))]
    time_factor: u32,
    /// At the end, show side by side what the suites gave for each test
    #[arg(long)]
    compare: bool,
    /// List the suites and run none
    #[arg(long)]
    list: bool,
    /// Table of suites in place of the one built in
    #[arg(long, value_name = "FILE")]
    table: Option<PathBuf>,
    /// The checkout; suites run there
    #[arg(long, value_name = "DIR", default_value = "/tern")]
    tern: PathBuf,
    /// Directory for the logs
    #[arg(long, value_name = "DIR", default_value = "build/test")]
    logs: PathBuf,
    /// The program tern-guest [default: beside this program]
    #[arg(long, value_name = "FILE")]
    guest: Option<PathBuf>,
    /// Value for the table's commands; can be repeated
    #[arg(long, value_name = "NAME=VALUE", value_parser = parse_value)]
    set: Vec<(String, String)>,
}

fn parse_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_string(), value.to_string())),
        _ => Err("a value is given as NAME=VALUE".to_string()),
    }
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(&cli) {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            eprintln!("tern-test: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run(cli: &Cli) -> Result<u8> {
    let suites = chosen(cli)?;
    if cli.list {
        for suite in &suites {
            let long = if suite.long { " (long)" } else { "" };
            println!("{:<22} {}{long}", suite.name, suite.about);
        }
        return Ok(0);
    }
    let runner = runner(cli)?;
    let mut totals = Totals::default();
    let mut table = Comparison::default();
    for suite in &suites {
        println!("== {}: {}", suite.name, suite.about);
        let Some(cases) = runner.run(suite, &mut totals)? else {
            eprintln!("tern-test: interrupted");
            return Ok(130);
        };
        table.add(&suite.name, &cases);
    }
    if cli.compare {
        println!("{table}");
    }
    println!("{totals}");
    Ok(u8::from(totals.failed > 0))
}

fn chosen(cli: &Cli) -> Result<Vec<Suite>> {
    let text = match &cli.table {
        Some(path) => fs::read_to_string(path)
            .with_context(|| format!("cannot read the table of suites {}", path.display()))?,
        None => include_str!("../../suites.toml").to_string(),
    };
    choose(read_table(&text)?, &cli.only, cli.long || cli.list)
}

fn runner(cli: &Cli) -> Result<Runner> {
    let tern = cli
        .tern
        .canonicalize()
        .with_context(|| format!("the checkout is not there: {}", cli.tern.display()))?;
    let mut values: BTreeMap<String, String> = cli.set.iter().cloned().collect();
    values.insert("tern".to_string(), tern.display().to_string());
    let guest = match &cli.guest {
        Some(path) => path.clone(),
        None => beside("tern-guest")?,
    };
    Runner::new(Plan {
        tern,
        logs: cli.logs.clone(),
        guest,
        values,
        options: cli.options.clone(),
        no_driver: cli.no_driver,
        no_rust: cli.no_rust,
        time_factor: cli.time_factor,
    })
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
