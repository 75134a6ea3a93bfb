// SPDX-License-Identifier: MIT OR Apache-2.0

//! Programs that this one calls.

use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitCode, ExitStatus};

use anyhow::{Context, Result};

use crate::places::Places;

/// A program of the workspace.
pub fn own(places: &Places, name: &str) -> Command {
    Command::new(places.tools.join(name))
}

/// Runs a program on this one's own input and output; its status is the result.
pub fn hand_over(mut command: Command) -> Result<ExitCode> {
    let status = command
        .status()
        .with_context(|| format!("{} cannot be run", command.get_program().to_string_lossy()))?;
    Ok(code(status))
}

/// The status as a shell would say it.
fn code(status: ExitStatus) -> ExitCode {
    let code = match (status.code(), status.signal()) {
        (Some(code), _) => code,
        (None, Some(signal)) => 128 + signal,
        (None, None) => 1,
    };
    u8::try_from(code).map_or(ExitCode::FAILURE, ExitCode::from)
}
