// SPDX-License-Identifier: MIT OR Apache-2.0

//! Shows on two kernels what the series mends.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};
use clap::Parser;
use tern_guest::logs::Logs;
use tern_guest::options::Options;
use tern_guest::prove::{choose, group, read_list, read_table, Group, Kernel, Plan, Prover};
use tern_paths::{beside, shown};

const HELP: &str = "\
Each test runs in a guest of its own, on the base kernel and on that of the
series. There it passes, fails, makes the kernel complain (splat), hangs, or has
the guest die; a line says which, for how long it ran, and why. Then come a table
with a row for each defect, and the total.

Exit status: 0 when each test fails on the base kernel and passes with the
series; a defect that only the debug kernels show may pass on others. 1 when a
test does not, 2 when the options or the table are wrong, 130 after Ctrl-C.";

/// Shows what the series mends: each test fails on the base kernel and passes with the series.
#[derive(Parser)]
#[command(version, after_help = HELP)]
struct Cli {
    #[command(flatten)]
    options: Options,
    /// The program of the tests
    #[arg(long, value_name = "FILE")]
    program: PathBuf,
    /// Run only the tests of this defect, or this test; `*` stands for any characters; can be
    /// repeated
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
    /// List defects and tests, and run none
    #[arg(long)]
    list: bool,
    /// Image of the base kernel
    #[arg(long, value_name = "FILE", required_unless_present = "list")]
    base: Option<PathBuf>,
    /// Modules of the base kernel
    #[arg(long, value_name = "DIR", required_unless_present = "list")]
    base_modules: Option<PathBuf>,
    /// test_hmm of the series, built for the base kernel
    #[arg(long, value_name = "FILE", required_unless_present = "list")]
    base_test_hmm: Option<PathBuf>,
    /// Image of the series' kernel
    #[arg(long, value_name = "FILE", required_unless_present = "list")]
    tern: Option<PathBuf>,
    /// Modules of the series' kernel
    #[arg(long, value_name = "DIR", required_unless_present = "list")]
    tern_modules: Option<PathBuf>,
    /// They are debug kernels
    #[arg(long)]
    debug: bool,
    /// Table of defects in place of the one built in
    #[arg(long, value_name = "FILE")]
    table: Option<PathBuf>,
    /// Directory for the logs
    #[arg(long, value_name = "DIR", default_value = "build/prove")]
    logs: PathBuf,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(&cli) {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            eprintln!("tern-prove: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run(cli: &Cli) -> Result<u8> {
    let groups = chosen(cli)?;
    let (false, Some(plan)) = (cli.list, plan(cli)?) else {
        list(&groups);
        return Ok(0);
    };
    let mut prover = Prover::new(plan, Logs::claim(&cli.logs)?);
    for group in &groups {
        if !prover.run(group)? {
            eprintln!("tern-prove: interrupted");
            return Ok(130);
        }
    }
    println!("\n{prover}");
    Ok(u8::from(!prover.is_proven()))
}

fn list(groups: &[Group]) {
    for group in groups {
        println!("{:<20} {}", group.defect.name, group.defect.title);
        for test in &group.tests {
            println!("  {test}");
        }
    }
}

fn chosen(cli: &Cli) -> Result<Vec<Group>> {
    let text = match &cli.table {
        Some(path) => fs::read_to_string(path)
            .with_context(|| format!("cannot read the table of defects {}", shown(path)))?,
        None => include_str!("../../prove.toml").to_string(),
    };
    let tests = tests_of(&cli.program)?;
    choose(group(read_table(&text)?, &tests)?, &cli.only)
}

/// Asks the program for its tests. It prints them on stderr.
fn tests_of(program: &Path) -> Result<Vec<String>> {
    let said = Command::new(program).arg("-l").output();
    let said = said.with_context(|| format!("{} cannot be run", shown(program)))?;
    read_list(&String::from_utf8_lossy(&said.stderr))
        .with_context(|| format!("{} -l", shown(program)))
}

/// What the options say; `None` when they leave out the kernels.
fn plan(cli: &Cli) -> Result<Option<Plan>> {
    let (Some(base), Some(base_modules), Some(module), Some(tern), Some(tern_modules)) = (
        &cli.base,
        &cli.base_modules,
        &cli.base_test_hmm,
        &cli.tern,
        &cli.tern_modules,
    ) else {
        return Ok(None);
    };
    let words = |words: [&str; 2]| words.map(str::to_owned).to_vec();
    let module = module
        .to_str()
        .context("the path of the module is no UTF-8")?;
    let kernel = |name, image: &PathBuf, modules: &PathBuf, load| Kernel {
        name,
        image: image.clone(),
        modules: modules.clone(),
        load,
    };
    Ok(Some(Plan {
        kernels: [
            kernel("base", base, base_modules, words(["insmod", module])),
            kernel("tern", tern, tern_modules, words(["modprobe", "test_hmm"])),
        ],
        debug: cli.debug,
        program: cli.program.clone(),
        guest: beside("tern-guest")?,
        options: cli.options.clone(),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_options_fit_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_built_in_table_is_right() {
        read_table(include_str!("../../prove.toml")).unwrap();
    }
}
