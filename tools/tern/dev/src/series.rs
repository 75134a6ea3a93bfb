// SPDX-License-Identifier: MIT OR Apache-2.0

//! What `tern-series` does, with the places it needs.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};

use anyhow::{ensure, Context, Result};

use crate::config::Config;
use crate::kernel::Kernel;
use crate::places::Places;
use crate::tool::{cannot_run, hand_over, own, step};

fn program(places: &Places) -> Command {
    let mut command = own(places, "tern-series");
    command.arg("--repo").arg(&places.top);
    command
}

/// Brings the tree that a kernel is built from up to date.
pub fn tree_of(places: &Places, kernel: Kernel) -> Result<PathBuf> {
    let mut command = program(places);
    let name = if kernel.has_series() {
        "tree"
    } else {
        "tree-base"
    };
    let tree = places.build.join(name);
    command.arg("--tree").arg(&tree).arg("tree");
    if !kernel.has_series() {
        command.args(["--upto", "0"]);
    }
    if tree.is_dir() {
        quietly(&mut command)?;
    } else {
        let status = step(&mut command).status();
        let made = status.with_context(|| cannot_run(&command))?.success();
        ensure!(made, "the kernel tree could not be made");
    }
    Ok(tree)
}

/// Runs a program of whose messages only those are passed on that are out of
/// the ordinary.
fn quietly(command: &mut Command) -> Result<()> {
    let usual = ["is up to date", "commits on top of the kernel"];
    let mut child = step(command)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| cannot_run(command))?;
    for line in child
        .stderr
        .take()
        .into_iter()
        .flat_map(|pipe| BufReader::new(pipe).lines())
    {
        let line = line?;
        if !usual.iter().any(|end| line.ends_with(end)) {
            eprintln!("{line}");
        }
    }
    ensure!(
        child.wait()?.success(),
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
    let wanted = {
        let _lock = places.lock()?;
        Config::of(places, Kernel::Tern)?.write(&places.build.join("bisect.config"))?
    };
    // It takes long, and has trees and objects of its own.
    let mut command = program(places);
    command
        .env("KCONFIG_ALLCONFIG", wanted)
        .args(["bisect-check", "--jobs", &places.jobs.to_string(), "--"])
        .args(["sh", "-c"])
        .arg("make -s LLVM=1 allnoconfig && make -s LLVM=1 CC='ccache clang' vmlinux modules");
    hand_over(command)
}
