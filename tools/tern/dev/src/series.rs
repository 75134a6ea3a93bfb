// SPDX-License-Identifier: MIT OR Apache-2.0

//! What `tern-series` does, with the places it needs.

use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::{ensure, Context, Result};

use crate::config::Config;
use crate::kernel::Kernel;
use crate::places::Places;
use crate::tool::{hand_over, own};

fn program(places: &Places) -> Command {
    let mut command = own(places, "tern-series");
    command.arg("--repo").arg(&places.top);
    command
}

/// Brings the tree that a kernel is built from up to date.
pub fn tree_of(places: &Places, kernel: Kernel) -> Result<PathBuf> {
    let mut command = program(places);
    let tree = match kernel {
        Kernel::Base => places.build.join("tree-base"),
        _ => places.build.join("tree"),
    };
    command.arg("--tree").arg(&tree).arg("tree");
    if kernel == Kernel::Base {
        command.args(["--upto", "0"]);
    }
    if tree.is_dir() {
        quietly(command)?;
    } else {
        let status = command.status().context("tern-series cannot be run")?;
        ensure!(status.success(), "the kernel tree could not be made");
    }
    Ok(tree)
}

/// Runs a program that has nothing to say unless something is out of the ordinary.
fn quietly(mut command: Command) -> Result<()> {
    let done = command.output().context("tern-series cannot be run")?;
    let said = String::from_utf8_lossy(&done.stderr);
    let usual = ["is up to date", "commits on top of the kernel"];
    for line in said.lines() {
        if !usual.iter().any(|end| line.ends_with(end)) {
            eprintln!("{line}");
        }
    }
    ensure!(
        done.status.success(),
        "the kernel tree could not be brought up to date"
    );
    Ok(())
}

/// Makes `build/tree`.
pub fn tree(places: &Places, force: bool) -> Result<ExitCode> {
    let mut command = program(places);
    command.arg("tree");
    if force {
        command.arg("--force");
    }
    hand_over(command)
}

/// Takes the tree's edits and commits into the repository.
pub fn refresh(places: &Places) -> Result<ExitCode> {
    let mut command = program(places);
    command.arg("refresh");
    hand_over(command)
}

/// Writes the mails.
pub fn export(places: &Places) -> Result<ExitCode> {
    let mut command = program(places);
    command.arg("export");
    hand_over(command)
}

/// Puts the series on another tree.
pub fn apply(places: &Places, kdir: &str) -> Result<ExitCode> {
    let mut command = program(places);
    command.arg("apply").arg("--kdir").arg(kdir);
    hand_over(command)
}

/// Builds every commit, configured as the guest's kernel is as far as the
/// commit has the options.
pub fn bisect_check(places: &Places) -> Result<ExitCode> {
    let _lock = places.lock()?;
    let config = Config::of(places, Kernel::Tern)?;
    let wanted = config.write(&places.build.join("bisect.config"))?;
    let mut command = program(places);
    command
        .env("KCONFIG_ALLCONFIG", wanted)
        .args(["bisect-check", "--jobs", &places.jobs.to_string(), "--"])
        .args(["sh", "-c"])
        .arg("make -s LLVM=1 allnoconfig && make -s LLVM=1 CC='ccache clang' vmlinux modules");
    hand_over(command)
}
