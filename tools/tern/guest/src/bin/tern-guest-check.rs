// SPDX-License-Identifier: MIT OR Apache-2.0

//! Tests `tern-guest` as its users see it: boots guests, and looks at the exit
//! status, the output and what is left behind. Prints TAP.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode, ExitStatus, Output, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use anyhow::{ensure, Context, Result};
use nix::fcntl::{fcntl, FcntlArg, FdFlag};
use nix::sys::signal::{kill, Signal};
use nix::unistd::{pipe, Pid};
use tern_paths::beside;

/// How long processes may take to be gone after the one that started them.
const GONE_LIMIT: Duration = Duration::from_secs(20);

type Test = fn(&Guest) -> Result<()>;

const TESTS: &[(&str, Test)] = &[
    ("the command's output and status are passed on", passes_on),
    ("a missing program is named", missing_program),
    ("a command that takes too long leaves stacks", time_limit),
    ("a guest that does not come up leaves stacks", boot_limit),
    ("a panic is reported with its log", panic),
    ("a warning outweighs the command's success", warning),
    ("an error of the driver can be allowed", allowed_error),
    ("SIGINT ends all", |guest| {
        interrupted(guest, Signal::SIGINT)
    }),
    ("SIGTERM ends all", |guest| {
        interrupted(guest, Signal::SIGTERM)
    }),
    ("SIGKILL ends all", |guest| {
        interrupted(guest, Signal::SIGKILL)
    }),
];

fn main() -> ExitCode {
    let guest = match Guest::new() {
        Ok(guest) => guest,
        Err(error) => {
            println!("Bail out! {error:#}");
            return ExitCode::FAILURE;
        }
    };
    let mut failed = false;
    println!("TAP version 13\n1..{}", TESTS.len());
    for (number, (name, test)) in (1..).zip(TESTS) {
        match test(&guest) {
            Ok(()) => println!("ok {number} {name}"),
            Err(error) => {
                failed = true;
                let text = format!("{error:#}");
                println!("# {}", text.replace('\n', "\n# "));
                println!("not ok {number} {name}");
            }
        }
    }
    ExitCode::from(u8::from(failed))
}

/// How guests are booted here. Kernel and modules are those of the environment.
struct Guest {
    program: PathBuf,
    directory: tempfile::TempDir,
}

impl Guest {
    fn new() -> Result<Self> {
        Ok(Self {
            program: beside("tern-guest")?,
            directory: tempfile::tempdir().context("cannot make a directory for the log")?,
        })
    }

    fn log(&self) -> PathBuf {
        self.directory.path().join("guest.log")
    }

    /// `tern-guest` for one line of shell.
    fn command(&self, options: &[&str], line: &str) -> Command {
        let mut command = Command::new(&self.program);
        command
            .args([
                "run",
                "--no-stdin",
                "--gpus",
                "0",
                "--timeout",
                "120",
                "--log",
            ])
            .arg(self.log())
            .args(options)
            .args(["--", "/bin/sh", "-c", line])
            .stdin(Stdio::null());
        command
    }

    fn run(&self, options: &[&str], line: &str) -> Result<Output> {
        let mut command = self.command(options, line);
        command.output().context("tern-guest cannot be run")
    }
}

/// Fails unless `output` is of a run that ended with `status` and said `said`
/// on stderr.
fn expect(output: &Output, status: i32, said: &str) -> Result<()> {
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.code() == Some(status),
        "it ended with {}, not {status}:\n{errors}",
        output.status
    );
    ensure!(errors.contains(said), "no \"{said}\" in:\n{errors}");
    Ok(())
}

fn passes_on(guest: &Guest) -> Result<()> {
    let output = guest.run(&[], "echo out; echo err >&2; exit 7")?;
    expect(&output, 7, "err\n")?;
    ensure!(output.stdout == b"out\n", "stdout is {:?}", output.stdout);
    Ok(())
}

fn missing_program(guest: &Guest) -> Result<()> {
    let mut command = Command::new(&guest.program);
    let output = command
        .args(["run", "--no-stdin", "--gpus", "0", "--log"])
        .arg(guest.log())
        .args(["--", "no-such-program"])
        .output()?;
    expect(&output, 127, "no-such-program")
}

fn time_limit(guest: &Guest) -> Result<()> {
    let output = guest.run(&["--timeout", "2"], "sleep 600")?;
    expect(&output, 124, "longer than 2 s")?;
    expect(&output, 124, &guest.log().display().to_string())?;
    let log = fs::read_to_string(guest.log())?;
    ensure!(
        log.contains("task:sleep"),
        "the log has no stack of the command"
    );
    Ok(())
}

/// The kernel waits for a root file system that never appears. A slow one may
/// not be that far when time is up, and is interrupted then.
fn boot_limit(guest: &Guest) -> Result<()> {
    let options = [
        "--append=root=/dev/none rootwait",
        "--boot-timeout=15",
        "--allow-splat",
    ];
    let output = guest.run(&options, "true")?;
    expect(&output, 126, "did not come up within 15 s")?;
    let log = fs::read_to_string(guest.log())?;
    ensure!(
        log.contains("swapper/0") && log.contains("Call Trace:"),
        "the log has no stack of the kernel"
    );
    Ok(())
}

fn panic(guest: &Guest) -> Result<()> {
    let output = guest.run(&[], "echo c >/proc/sysrq-trigger; sleep 600")?;
    expect(
        &output,
        125,
        "Kernel panic - not syncing: sysrq triggered crash",
    )?;
    expect(&output, 125, &guest.log().display().to_string())
}

fn warning(guest: &Guest) -> Result<()> {
    let output = guest.run(&[], "echo 'WARNING: at line 1' >/dev/kmsg")?;
    expect(&output, 125, "WARNING: at line 1")
}

fn allowed_error(guest: &Guest) -> Result<()> {
    let line = "echo 'tern 0000:00:03.0: 3 pages are in use' >/dev/kmsg";
    expect(&guest.run(&[], line)?, 125, "3 pages are in use")?;
    expect(&guest.run(&["--allow", "pages are in use"], line)?, 0, "")
}

/// Sends `signal` to `tern-guest` once its command runs. Nothing may be left:
/// neither QEMU nor the virtual GPU, which hold a pipe open until they end.
fn interrupted(guest: &Guest, signal: Signal) -> Result<()> {
    let (reader, writer) = pipe()?;
    fcntl(&writer, FcntlArg::F_SETFD(FdFlag::empty()))?;
    let mut child = guest
        .command(&["--gpus", "1"], "echo started; exec sleep 600")
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    drop(writer);
    let mut line = String::new();
    let stdout = child.stdout.take().context("no output")?;
    BufReader::new(stdout).read_line(&mut line)?;
    ensure!(line == "started\n", "the guest said {line:?}");
    kill(Pid::from_raw(child.id() as i32), signal)?;
    let status = child.wait()?;
    ensure!(ended_by(status, signal), "{signal} ended it with {status}");
    ensure!(
        ends_in_time(File::from(reader)),
        "QEMU or the virtual GPU was left behind"
    );
    Ok(())
}

/// Whether the signal was handled, or killed, and can be told from the status.
fn ended_by(status: ExitStatus, signal: Signal) -> bool {
    let number = signal as i32;
    status.code() == Some(128 + number) || status.signal() == Some(number)
}

/// Whether the last of those that hold the other end of `pipe` ends soon.
fn ends_in_time(mut pipe: File) -> bool {
    let (sender, ended) = mpsc::channel();
    thread::spawn(move || sender.send(pipe.read(&mut [0]).is_ok()));
    ended.recv_timeout(GONE_LIMIT).unwrap_or(false)
}
