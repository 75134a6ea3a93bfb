// SPDX-License-Identifier: MIT OR Apache-2.0

//! Boots a kernel in QEMU and runs one command, or a shell, in it.

use std::ffi::OsString;
use std::io::{stdin, IsTerminal};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{bail, Context, Result};
use clap::builder::NonEmptyStringValueParser;
use clap::{Args, Parser, Subcommand};
use tern_guest::options::{self, Accelerator, Size};
use tern_guest::proto::Start;
use tern_guest::qemu::{Accel, Machine};
use tern_guest::run::{self, status, Job};
use tern_guest::runner::BOOT_SECONDS;
use tern_guest::{accel, terminal, vgpu};
use tern_paths::{beside, shown};

const STATUSES: &str = "\
Exit status:
  0..123  that of the command
  124     the time limit passed, or the guest did not power off; stacks of its
          tasks are in the log
  125     the kernel complained (panic, BUG, WARN, KASAN, lockdep, ...), which
          outweighs the command's own status; see --allow-splat
  126     the guest could not be started, never came up or died; bad options
  127     the command could not be started in the guest
  128+N   signal N killed the command, or tern-guest";

const NOTES: &str = "\
The root file system of the guest is this machine's own tree (--root), over
which an overlay in RAM is laid: the guest may write anywhere, and what it
writes is gone afterwards. Only what goes to the shared directory is kept.
/tmp, /run and /var/tmp are empty in the guest.";

/// RAM when nothing is said about it.
const MEMORY: Size = Size::mib(3072);

/// Aperture of a virtual GPU when nothing is said about it, or its memory.
const APERTURE: Size = Size::mib(256);

/// Seconds that a command may take when nothing is said about it; a shell may
/// be open for as long as people like.
const LIMIT: u32 = 3600;

/// Boots a kernel in QEMU and runs one command, or a shell, in it.
#[derive(Parser)]
#[command(version, after_help = STATUSES, after_long_help = format!("{NOTES}\n\n{STATUSES}"))]
struct Cli {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Run a command; stdin, stdout, stderr and the exit status are its own
    #[command(after_help = STATUSES, args_override_self = true)]
    Run {
        #[command(flatten)]
        options: Options,
        /// The command, as seen in the guest
        #[arg(required = true, last = true, value_name = "CMD")]
        argv: Vec<String>,
    },
    /// Open a shell on this terminal; Ctrl-] three times ends the guest
    #[command(after_help = STATUSES, args_override_self = true)]
    Shell {
        #[command(flatten)]
        options: Options,
        /// Command in place of the shell
        #[arg(last = true, value_name = "CMD")]
        argv: Vec<String>,
    },
}

#[derive(Args)]
struct Options {
    #[command(flatten)]
    machine: options::Options,
    /// Kernel image (bzImage)
    #[arg(long, env = "TERN_KERNEL", value_name = "FILE")]
    kernel: PathBuf,
    /// Staged modules (INSTALL_MOD_PATH), inside of --root
    #[arg(long, env = "TERN_MODULES", value_name = "DIR")]
    modules: Option<PathBuf>,
    /// The guest gets so many times as much RAM, because its kernel keeps data about each byte
    #[arg(long, env = "TERN_MEMORY_FACTOR", value_name = "N", default_value_t = 1,
          value_parser = clap::value_parser!(u32).range(1..=100))]
    memory_factor: u32,
    /// Program of the virtual GPU [default: tern-vgpu beside this program]
    #[arg(long, env = "TERN_VGPU", value_name = "FILE")]
    vgpu: Option<PathBuf>,
    /// Size of the window (BAR) that the CPU has into a GPU's memory, as 64M
    /// [default: 256M, or less where that memory is smaller]
    #[arg(long, value_name = "SIZE")]
    aperture: Option<Size>,
    /// Further argument of the virtual GPU; can be repeated
    #[arg(long, value_name = "ARG", allow_hyphen_values = true)]
    vgpu_arg: Vec<String>,
    /// Plugin for QEMU's translator, with its arguments behind commas; needs TCG
    #[arg(long, value_name = "FILE[,NAME=VALUE...]")]
    plugin: Option<String>,
    /// Time limit for the boot in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = BOOT_SECONDS, value_parser = clap::value_parser!(u32).range(1..))]
    boot_timeout: u32,
    /// Further kernel arguments; can be repeated
    #[arg(long, value_name = "ARGS", allow_hyphen_values = true)]
    append: Vec<String>,
    /// Directory that the guest can write to
    #[arg(long, value_name = "DIR")]
    share: Option<PathBuf>,
    /// Where the guest sees that directory
    #[arg(long, value_name = "PATH", default_value = "/host")]
    share_at: String,
    /// Working directory of the command [default: that of --share-at, or /]
    #[arg(long, value_name = "PATH")]
    cwd: Option<String>,
    /// Variable for the command's environment; can be repeated
    #[arg(long, value_name = "NAME=VALUE", value_parser = parse_variable)]
    env: Vec<(String, String)>,
    /// User and group that the command runs as
    #[arg(long, value_name = "UID", default_value_t = 0)]
    uid: u32,
    /// Give the command no input, whatever stdin is
    #[arg(long)]
    no_stdin: bool,
    /// File for the log of the guest's kernel
    #[arg(long, value_name = "FILE", default_value = "build/guest.log")]
    log: PathBuf,
    /// Report the kernel's complaints, but keep the exit status
    #[arg(long)]
    allow_splat: bool,
    /// A line of the kernel's log with this text is no complaint; can be repeated
    #[arg(long, value_name = "TEXT", value_parser = NonEmptyStringValueParser::new())]
    allow: Vec<String>,
    /// Start stopped and wait for gdb at this address; lifts the time limits
    #[arg(long, value_name = "ADDRESS", num_args = 0..=1, default_missing_value = "tcp:127.0.0.1:1234")]
    gdb: Option<String>,
    /// Directory that becomes the guest's root file system
    #[arg(long, value_name = "DIR", default_value = "/")]
    root: PathBuf,
    /// The guest's first process, inside of --root [default: tern-init beside
    /// this program]
    #[arg(long, value_name = "FILE")]
    init: Option<PathBuf>,
    /// Where the result of the KVM probe is kept
    #[arg(long, env = "TERN_CACHE", value_name = "DIR", default_value = "/cache")]
    cache: PathBuf,
    /// The QEMU program
    #[arg(
        long,
        env = "TERN_QEMU",
        value_name = "FILE",
        default_value = "qemu-system-x86_64"
    )]
    qemu: OsString,
}

fn parse_variable(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_string(), value.to_string())),
        _ => Err("a variable is given as NAME=VALUE".to_string()),
    }
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are no failure.
            let failed = error.use_stderr();
            let _ = error.print();
            return ExitCode::from(if failed { status::GUEST } else { 0 });
        }
    };
    let result = match cli.action {
        Action::Run { options, argv } => run(&options, argv, false),
        Action::Shell { options, argv } => run(&options, argv, true),
    };
    match result {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            eprintln!("tern-guest: {error:#}");
            ExitCode::from(status::GUEST)
        }
    }
}

fn run(options: &Options, argv: Vec<String>, shell: bool) -> Result<u8> {
    run::run(&options.job(argv, shell)?)
}

impl Options {
    fn job(&self, argv: Vec<String>, shell: bool) -> Result<Job> {
        let machine = self.machine()?;
        let default = if shell { 0 } else { LIMIT };
        let boot_limit = Duration::from_secs(self.boot_timeout.into());
        let waits = self.gdb.is_some();
        Ok(Job {
            start: self.start(argv, shell, &machine.root)?,
            gpus: self.gpus()?,
            machine,
            log: self.log.clone(),
            boot_limit: Some(boot_limit).filter(|_| !waits),
            limit: self.machine.limit(default).filter(|_| !waits),
            allow_splat: self.allow_splat,
            allow: self.allow.clone(),
        })
    }

    fn machine(&self) -> Result<Machine> {
        let root = existing(&self.root, "root of the guest")?;
        let init = match &self.init {
            Some(path) => path.clone(),
            None => beside("tern-init")?,
        };
        let init = Path::new("/").join(inside(&root, &init, "guest's init")?);
        let share = self.share.as_deref();
        let mut machine = Machine {
            qemu: self.qemu.clone(),
            kernel: existing(&self.kernel, "kernel image")?,
            init,
            root,
            share: share.map(|d| existing(d, "shared directory")).transpose()?,
            accel: Accel::Tcg,
            memory: self.machine.memory.unwrap_or(MEMORY) * self.memory_factor,
            cpus: self.machine.cpus.unwrap_or(2),
            gpus: Vec::new(),
            append: self.append.clone(),
            gdb: self.gdb.clone(),
            plugin: self.plugin.clone(),
        };
        machine.accel = match self.machine.accel.unwrap_or(Accelerator::Auto) {
            Accelerator::Tcg => Accel::Tcg,
            Accelerator::Kvm => Accel::Kvm,
            Accelerator::Auto => accel::choose(&machine, &self.cache)?,
        };
        Ok(machine)
    }

    fn gpus(&self) -> Result<vgpu::Config> {
        let count = self.machine.gpus.unwrap_or(1);
        if count == 0 {
            return Ok(vgpu::Config::default());
        }
        let program = match &self.vgpu {
            Some(path) => path.clone(),
            None => beside("tern-vgpu")?,
        };
        let mut args = Vec::new();
        let vram = self.machine.vram;
        let small = vram.filter(|vram| *vram < APERTURE);
        let aperture = self.aperture.or(small.map(Size::power_of_two));
        for (name, value) in [("--vram", vram), ("--aperture", aperture)] {
            args.extend(
                value
                    .map(|value| [name.to_string(), value.to_string()])
                    .into_iter()
                    .flatten(),
            );
        }
        args.extend(self.vgpu_arg.iter().cloned());
        Ok(vgpu::Config {
            count,
            program: existing(&program, "virtual GPU (or use --gpus 0)")?,
            args,
        })
    }

    fn start(&self, mut argv: Vec<String>, shell: bool, root: &Path) -> Result<Start> {
        if argv.is_empty() {
            argv = vec!["/bin/bash".to_string()];
        }
        let share = self.share.as_ref().map(|_| self.share_at.clone());
        if share.as_ref().is_some_and(|path| !path.starts_with('/')) {
            bail!("--share-at needs an absolute path, not {}", self.share_at);
        }
        let cwd = self.cwd.clone().or_else(|| share.clone());
        Ok(Start {
            argv,
            cwd: cwd.unwrap_or_else(|| "/".to_string()),
            env: self.environment(),
            uid: self.uid,
            tty: shell.then(terminal::size),
            stdin: !shell && !self.no_stdin && !stdin().is_terminal(),
            share,
            modules: self.modules_in_guest(root)?,
        })
    }

    fn environment(&self) -> Vec<(String, String)> {
        const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
        let from_caller = |name: &str, default: &str| {
            let value = std::env::var(name).unwrap_or_else(|_| default.to_string());
            (name.to_string(), value)
        };
        let mut variables = vec![
            from_caller("PATH", PATH),
            from_caller("TERM", "dumb"),
            ("HOME".to_string(), "/root".to_string()),
            ("LANG".to_string(), "C.UTF-8".to_string()),
        ];
        for (name, value) in &self.env {
            variables.retain(|(known, _)| known != name);
            variables.push((name.clone(), value.clone()));
        }
        variables
    }

    fn modules_in_guest(&self, root: &Path) -> Result<Option<String>> {
        let Some(directory) = &self.modules else {
            return Ok(None);
        };
        let staged = directory.join("lib/modules");
        let directory = if staged.is_dir() { &staged } else { directory };
        let path = Path::new("/").join(inside(root, directory, "modules")?);
        match path.to_str() {
            Some(path) => Ok(Some(path.to_string())),
            None => bail!("the path {} is not UTF-8", path.display()),
        }
    }
}

/// `path` without links, if it exists.
fn existing(path: &Path, what: &str) -> Result<PathBuf> {
    path.canonicalize()
        .with_context(|| format!("the {what} is not there: {}", shown(path)))
}

/// `path` as seen from `root`.
fn inside(root: &Path, path: &Path, what: &str) -> Result<PathBuf> {
    let path = existing(path, what)?;
    match path.strip_prefix(root) {
        Ok(path) => Ok(path.to_path_buf()),
        Err(_) => bail!(
            "the {what} {} is not inside of the guest's root {}",
            path.display(),
            root.display()
        ),
    }
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
    fn the_last_option_holds_and_lists_grow() {
        let words = "x run --kernel k --memory 1G --memory 2G --append a --append b -- true";
        let cli = Cli::try_parse_from(words.split(' ')).ok().unwrap();
        let Action::Run { options, .. } = cli.action else {
            panic!("it is no run");
        };
        assert_eq!(options.machine.memory, Some(Size::mib(2048)));
        assert_eq!(options.append, ["a", "b"]);
    }
}
