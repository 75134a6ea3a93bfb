// SPDX-License-Identifier: MIT OR Apache-2.0

//! What runs in the virtual machine.

use std::ffi::OsString;
use std::process::{Command, ExitCode};

use anyhow::Result;
use clap::Args;

use crate::kernel::{self, Built, Kernel};
use crate::places::Places;
use crate::selftests;
use crate::tool::{hand_over, own};

/// The search path of commands in the guest, after the tools of the workspace.
const PATH: &str =
    "/usr/lib/llvm-19/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The virtual machine, as far as people want another than the usual one;
/// `tern-guest run --help` says what each option takes.
#[derive(Clone, Debug, Args)]
pub struct Machine {
    /// How instructions are executed: auto, tcg or kvm
    #[arg(long, env = "ACCEL")]
    accel: Option<String>,
    /// Time limit for the command in seconds
    #[arg(long, env = "TIMEOUT")]
    timeout: Option<String>,
    /// RAM, as 3G
    #[arg(long, env = "MEMORY")]
    memory: Option<String>,
    /// Number of processors
    #[arg(long, env = "CPUS")]
    cpus: Option<String>,
    /// Memory of each virtual GPU, as 512M
    #[arg(long, env = "VRAM")]
    vram: Option<String>,
    /// Number of virtual GPUs
    #[arg(long, env = "GPUS")]
    gpus: Option<String>,
}

impl Machine {
    /// Name of each option that was given, and its value.
    fn given(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let options = [
            ("accel", &self.accel),
            ("timeout", &self.timeout),
            ("memory", &self.memory),
            ("cpus", &self.cpus),
            ("vram", &self.vram),
            ("gpus", &self.gpus),
        ];
        options
            .into_iter()
            .filter_map(|(name, value)| Some((name, value.as_deref()?)))
    }

    /// Adds the options for `tern-guest`.
    fn add_to(&self, command: &mut Command) {
        for (name, value) in self.given() {
            command.arg(format!("--{name}")).arg(value);
        }
    }
}

/// `tern-guest` with the kernel, the machine and the caller's directory.
fn guest(places: &Places, built: &Built, machine: &Machine, how: &str) -> Command {
    let mut command = own(places, "tern-guest");
    command
        .arg(how)
        .arg("--kernel")
        .arg(&built.image)
        .arg("--modules")
        .arg(&built.modules)
        .arg("--share")
        .arg(&places.host)
        .arg("--log")
        .arg(places.build.join("guest.log"))
        .arg("--env")
        .arg(format!("PATH={}:{PATH}", places.tools.display()));
    machine.add_to(&mut command);
    command
}

/// One command; a single word is a line for the shell.
pub fn command(
    places: &Places,
    kernel: Kernel,
    machine: &Machine,
    words: &[String],
) -> Result<ExitCode> {
    let built = kernel::build(places, kernel)?;
    let mut command = guest(places, &built, machine, "run");
    command.arg("--");
    match words {
        [line] => command.args(["/bin/sh", "-c", line]),
        words => command.args(words),
    };
    hand_over(command)
}

/// A shell.
pub fn shell(places: &Places, kernel: Kernel, machine: &Machine) -> Result<ExitCode> {
    let built = kernel::build(places, kernel)?;
    hand_over(guest(places, &built, machine, "shell"))
}

/// The workloads.
pub fn run(
    places: &Places,
    kernel: Kernel,
    machine: &Machine,
    args: &[String],
) -> Result<ExitCode> {
    let built = kernel::build(places, kernel)?;
    let mut command = guest(places, &built, machine, "run");
    command
        .args(["--", "tern-run"])
        .args(args)
        .args(words_of(&built, args));
    hand_over(command)
}

/// The figures: the workloads with huge pages, then without.
pub fn bench(
    places: &Places,
    kernel: Kernel,
    machine: &Machine,
    args: &[String],
) -> Result<ExitCode> {
    let built = kernel::build(places, kernel)?;
    let mut command = guest(places, &built, machine, "run");
    command
        .args(["--", "/bin/sh", "-c"])
        .arg("tern-run --thp always \"$@\" && tern-run --thp never \"$@\"")
        .arg("bench")
        .args(args)
        .args(words_of(&built, args));
    hand_over(command)
}

/// Has the words of the kernel's own source counted, unless `args` name other files.
fn words_of(built: &Built, args: &[String]) -> Vec<OsString> {
    if args.iter().any(|arg| arg.starts_with("--files")) {
        return Vec::new();
    }
    vec!["--files".into(), built.tree.join("mm").into()]
}

/// The tests.
pub fn test(
    places: &Places,
    kernel: Kernel,
    machine: &Machine,
    only: Option<&str>,
    args: &[String],
) -> Result<ExitCode> {
    let (built, selftests) = selftests::build(places, kernel)?;
    let mut command = own(places, "tern-test");
    command
        .env("TERN_KERNEL", &built.image)
        .env("TERN_MODULES", &built.modules)
        .arg("--tern")
        .arg(&places.top)
        .arg("--set")
        .arg(format!("tests={}", selftests.display()));
    if let Some(accel) = &machine.accel {
        command.env("TERN_ACCEL", accel);
    }
    if let Some(only) = only {
        command.args(["--only", only]);
    }
    command.args(args);
    hand_over(command)
}
