// SPDX-License-Identifier: MIT OR Apache-2.0

//! Four processes at once, each with an address space of its own on the device, and each checking
//! its own results.
//!
//! Where the system lets them, all have their memory at the same addresses, with other contents in
//! each: what the device reads and writes there depends on the process alone.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdout, Command, Stdio};

use anyhow::{ensure, Context, Result};
use serde_json::Value;

use super::{Done, Options, READY};
use crate::executor::Executor;
use crate::memory::check_size;
use crate::report::Workload;

const PROCESSES: u64 = 4;

/// See [`super::Run`].
pub fn run(_: &dyn Executor, options: &Options) -> Result<Done> {
    check_size(options.size)?;
    let program = std::env::current_exe().context("cannot find the file of this program")?;
    let commands = (1..=PROCESSES).map(|seed| command(program.as_os_str(), options, seed));
    let parts = run_at_once(commands)?;

    let notes: BTreeSet<_> = parts.iter().map(|part| part.note.as_str()).collect();
    let notes: Vec<_> = notes.into_iter().collect();
    Ok(Done {
        bytes: parts.iter().map(|part| part.bytes).sum(),
        note: format!("{PROCESSES} at once, each {}", notes.join(", or ")),
        parts,
    })
}

/// This program, which plays ping-pong with contents that depend on `seed`.
fn command(program: &OsStr, options: &Options, seed: u64) -> Command {
    let mut command = Command::new(program);
    command
        .args(["pingpong", "--json", "--together"])
        .args(["--seed", &seed.to_string()])
        .args(["--size", &options.share().max(4096).to_string()])
        .args(["--rounds", &options.rounds.to_string()])
        .args(["--thp", options.thp.name()]);
    if options.prefetch {
        command.arg("--prefetch");
    }
    if let Some(device) = &options.device {
        command.arg("--device").arg(device);
    }
    // SAFETY: between fork and exec it makes two system calls and nothing else.
    unsafe { command.pre_exec(same_addresses) };
    command
}

/// Has the system choose the same addresses in each process, where it can.
fn same_addresses() -> std::io::Result<()> {
    const ASK: libc::c_ulong = 0xffff_ffff;
    // SAFETY: the calls concern this process only, which execs next; the second is left out where
    // the first is refused.
    unsafe {
        let persona = libc::personality(ASK);
        if persona >= 0 {
            libc::personality((persona | libc::ADDR_NO_RANDOMIZE) as libc::c_ulong);
        }
    }
    Ok(())
}

/// Starts all commands, lets them go on when all are ready, and gives what each reports.
fn run_at_once(commands: impl Iterator<Item = Command>) -> Result<Vec<Workload>> {
    let mut processes = commands.map(Process::start).collect::<Result<Vec<_>>>()?;
    processes
        .iter_mut()
        .try_for_each(Process::wait_until_ready)?;
    processes.iter_mut().try_for_each(Process::go)?;
    processes.iter_mut().map(Process::report).collect()
}

/// A process that is ended and waited for when this is dropped.
struct Process {
    child: Child,
    output: BufReader<ChildStdout>,
}

impl Process {
    fn start(mut command: Command) -> Result<Self> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let started = command.spawn();
        let mut child = started.with_context(|| format!("cannot start {command:?}"))?;
        let output = child.stdout.take().context("a process has no output")?;
        Ok(Self {
            child,
            output: BufReader::new(output),
        })
    }

    fn wait_until_ready(&mut self) -> Result<()> {
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        ensure!(
            line.trim_end() == READY,
            "a process ended before it was ready"
        );
        Ok(())
    }

    fn go(&mut self) -> Result<()> {
        let mut input = self.child.stdin.take().context("a process has no input")?;
        input.write_all(b"\n").context("a process does not listen")
    }

    /// Waits for its end. What went wrong with its workload is in its report.
    fn report(&mut self) -> Result<Workload> {
        let mut text = String::new();
        self.output.read_to_string(&mut text)?;
        let status = self.child.wait()?;
        let report = serde_json::from_str(&text).and_then(|mut report: Value| {
            let workload = report.pointer_mut("/workloads/0").map(Value::take);
            serde_json::from_value(workload.unwrap_or_default())
        });
        report.with_context(|| format!("a process ended without a report: {status}"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It fails where the process has been waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Outcome;

    /// A process that runs a script in the place of a workload.
    fn script(text: String) -> Command {
        let mut command = Command::new("sh");
        command.args(["-ec", &text]);
        command
    }

    fn report(fields: &str) -> String {
        let workload = serde_json::to_value(Workload::default()).unwrap();
        let mut report = serde_json::json!({ "workloads": [workload] });
        let fields: Value = serde_json::from_str(fields).unwrap();
        for (name, value) in fields.as_object().unwrap() {
            report["workloads"][0][name] = value.clone();
        }
        report.to_string()
    }

    #[test]
    fn none_goes_on_before_all_are_ready() {
        let directory = tempfile::tempdir().unwrap();
        let at = directory.path().display();
        // Each leaves a file before it is ready, and fails where another one's is not there.
        let commands = (0..4).map(|i| {
            let report = report(&format!("{{\"faults\": {i}, \"result\": \"equal\"}}"));
            script(format!(
                "touch {at}/{i}; echo {READY}; read go; \
                 cat {at}/0 {at}/1 {at}/2 {at}/3; echo '{report}'"
            ))
        });
        let parts = run_at_once(commands).unwrap();
        let faults: Vec<_> = parts.iter().map(|part| part.faults).collect();
        assert_eq!(faults, [0, 1, 2, 3]);
        assert!(parts.iter().all(|part| part.result == Outcome::Equal));
    }

    #[test]
    fn a_report_of_a_mismatch_is_passed_on() {
        let report = report("{\"result\": \"mismatch\", \"error\": \"a[1] differs\"}");
        let text = format!("echo {READY}; read go; echo '{report}'; exit 1");
        let parts = run_at_once([script(text)].into_iter()).unwrap();
        assert_eq!(parts[0].result, Outcome::Mismatch);
        assert_eq!(parts[0].error.as_deref(), Some("a[1] differs"));
    }

    #[test]
    fn a_process_that_ends_early_is_an_error_and_leaves_none_behind() {
        let directory = tempfile::tempdir().unwrap();
        let pid = directory.path().join("pid");
        let waits = format!("echo $$ > {}; echo {READY}; read go", pid.display());
        let commands = [script(waits), script("exit 3".into())];
        let error = run_at_once(commands.into_iter()).unwrap_err();
        assert_eq!(error.to_string(), "a process ended before it was ready");
        let pid = std::fs::read_to_string(pid).unwrap();
        let process = std::path::Path::new("/proc").join(pid.trim());
        assert!(!process.exists(), "{}", process.display());
    }

    #[test]
    fn a_process_without_a_report_is_an_error() {
        for text in ["read go", "read go; echo nothing", "read go; echo '{}'"] {
            let commands = [script(format!("echo {READY}; {text}"))];
            let error = run_at_once(commands.into_iter()).unwrap_err();
            assert!(error.to_string().contains("without a report"), "{error}");
        }
    }
}
