// SPDX-License-Identifier: MIT OR Apache-2.0

//! What runs in the virtual machine.

use std::ffi::OsString;
use std::process::{Command, ExitCode};

use anyhow::Result;
use clap::Args;
use tern_guest::options::Options;
use tern_guest::runner::BOOT_SECONDS;

use crate::includes;
use crate::kernel::{self, Built, Kernel};
use crate::places::Places;
use crate::selftests;
use crate::tool::{hand_over, only_tells, own, succeeds_quietly};

/// The virtual machine, as far as people want another than the usual one.
#[derive(Clone, Debug, Args)]
pub struct Machine {
    #[command(flatten)]
    options: Options,
    /// Start stopped and wait for gdb, at tcp:127.0.0.1:1234 or another address; lifts the time
    /// limits
    #[arg(long, value_name = "ADDRESS", num_args = 0..=1, require_equals = true,
          default_missing_value = "tcp:127.0.0.1:1234")]
    gdb: Option<String>,
    /// Further argument of the virtual GPU, as --vgpu-arg=--lanes=8; can be repeated
    #[arg(long, value_name = "ARG", allow_hyphen_values = true)]
    vgpu_arg: Vec<String>,
    /// Further words on the kernel's command line, as --append=numa=fake=2; can be repeated
    #[arg(long, value_name = "WORDS", allow_hyphen_values = true)]
    append: Vec<String>,
}

impl Machine {
    /// Whether the size of the virtual GPU's memory was given.
    pub fn says_vram(&self) -> bool {
        self.options.vram.is_some()
    }

    /// Adds the options for `tern-guest`.
    fn add_to(&self, command: &mut Command) {
        self.options.add_to(command);
        let gdb = self.gdb.iter().map(|address| format!("--gdb={address}"));
        let vgpu = self.vgpu_arg.iter().map(|arg| format!("--vgpu-arg={arg}"));
        let append = self.append.iter().map(|words| format!("--append={words}"));
        command.args(gdb.chain(vgpu).chain(append));
    }
}

/// The guest's `PATH`: the tools of the workspace, then what this program was given, since the
/// guest runs on the same root.
fn search_path(places: &Places) -> OsString {
    let mut path = OsString::from("PATH=");
    path.push(&places.tools);
    path.push(":");
    path.push(std::env::var_os("PATH").unwrap_or_default());
    path
}

/// `tern-guest` with the kernel, the machine and the caller's directory.
pub fn guest(places: &Places, built: &Built, machine: &Machine, how: &str) -> Command {
    let kernel = built.kernel;
    let boot_seconds = BOOT_SECONDS * kernel.time_factor();
    let mut command = own(places, "tern-guest");
    command
        .arg(how)
        .arg("--kernel")
        .arg(&built.image)
        .arg("--modules")
        .arg(&built.modules)
        .arg(format!("--memory-factor={}", kernel.memory_factor()))
        .arg(format!("--boot-timeout={boot_seconds}"))
        .arg("--share")
        .arg(&places.host)
        .arg("--log")
        .arg(places.build.join("guest.log"))
        .arg("--env")
        .arg(search_path(places));
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
    let (built, _in_use) = kernel::ready(places, kernel)?;
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
    let (built, _in_use) = kernel::ready(places, kernel)?;
    hand_over(guest(places, &built, machine, "shell"))
}

/// The workloads.
pub fn run(
    places: &Places,
    kernel: Kernel,
    machine: &Machine,
    args: &[String],
) -> Result<ExitCode> {
    let (built, _in_use) = kernel::ready(places, kernel)?;
    let mut command = guest(places, &built, machine, "run");
    command
        .args(["--", "tern-run"])
        .args(args)
        .args(inputs(places, &built, args)?);
    hand_over(command)
}

/// Gives the workloads the kernel's own source: words to count, and the graph of its headers to
/// search in, unless `args` name others.
fn inputs(places: &Places, built: &Built, args: &[String]) -> Result<Vec<OsString>> {
    let has = |option| args.iter().any(|arg| arg.starts_with(option));
    let mut inputs: Vec<OsString> = Vec::new();
    if !has("--files") {
        inputs.extend(["--files".into(), built.tree.join("mm").into()]);
    }
    if !has("--graph") {
        inputs.extend([
            "--graph".into(),
            includes::ready(places, &built.tree)?.into(),
        ]);
    }
    Ok(inputs)
}

/// The tests.
pub fn test(
    places: &Places,
    kernel: Kernel,
    options: &Options,
    long: bool,
    only: Option<&str>,
    args: &[String],
) -> Result<ExitCode> {
    let tester = || {
        let mut command = own(places, "tern-test");
        options.add_to(&mut command);
        command.args(long.then_some("--long"));
        command.arg(format!("--time-factor={}", kernel.time_factor()));
        command.args(only.map(|only| format!("--only={only}")));
        command.args(args);
        command
    };
    // What is wrong with the arguments shows before a kernel is built for them.
    if only_tells(args) {
        return hand_over(tester());
    }
    if !succeeds_quietly(tester().arg("--list"))? {
        return Ok(ExitCode::from(2));
    }

    let (built, selftests, _in_use) = selftests::ready(places, kernel)?;
    let graph = includes::ready(places, &built.tree)?;
    let mut command = tester();
    command
        .env("TERN_KERNEL", &built.image)
        .env("TERN_MODULES", &built.modules)
        .env("TERN_MEMORY_FACTOR", kernel.memory_factor().to_string())
        .arg("--tern")
        .arg(&places.top)
        .arg("--set")
        .arg(format!("tests={}", selftests.display()))
        .arg("--set")
        .arg(format!("graph={}", graph.display()))
        .arg("--set")
        .arg(format!("objects={}", built.objects.display()));
    command
        .args((!kernel.has_driver()).then_some("--no-driver"))
        .args((!kernel.has_rust()).then_some("--no-rust"));
    hand_over(command)
}
