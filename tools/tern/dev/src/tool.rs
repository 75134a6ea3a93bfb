// SPDX-License-Identifier: MIT OR Apache-2.0

//! Programs that this one calls.

use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result};
use nix::sys::signal::Signal;
use tern_guest::process::end_with_this;

use crate::places::Places;

/// A program of the workspace.
pub fn own(places: &Places, name: &str) -> Command {
    Command::new(places.tools.join(name))
}

/// Lets `command` go on in place of this program: signals reach it directly,
/// and its status is the result. Locks that are held stay held as long as it
/// runs.
pub fn hand_over(mut command: Command) -> Result<ExitCode> {
    let error = command.exec();
    Err(error).with_context(|| cannot_run(&command))
}

/// Has a program that this one waits for end when this one is killed.
pub fn step(command: &mut Command) -> &mut Command {
    end_with_this(command, Signal::SIGTERM)
}

/// Whether the arguments of a tool only ask it what there is.
pub fn only_tells(args: &[String]) -> bool {
    let asks = |arg: &String| matches!(arg.as_str(), "--list" | "--help" | "--version");
    args.iter().any(asks)
}

/// Runs a program for its errors alone; whether there were none.
pub fn succeeds_quietly(command: &mut Command) -> Result<bool> {
    let status = step(command).stdout(Stdio::null()).status();
    Ok(status.with_context(|| cannot_run(command))?.success())
}

/// What to say about a program that does not start.
pub fn cannot_run(command: &Command) -> String {
    format!("{} cannot be run", command.get_program().to_string_lossy())
}
