// SPDX-License-Identifier: MIT OR Apache-2.0

//! Child processes that do not outlive this one.

use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus};

use anyhow::{Context, Result};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{killpg, Signal};
use nix::unistd::Pid;

/// Has the kernel send `signal` to the program that `command` will start when
/// this one ends, however it does.
///
/// The kernel ties the program to the thread that starts it, which has to live
/// as long as the program is needed.
pub fn end_with_this(command: &mut Command, signal: Signal) -> &mut Command {
    // SAFETY: between fork and exec only `prctl` is called, which is
    // async-signal-safe; nothing is allocated.
    unsafe { command.pre_exec(move || Ok(set_pdeathsig(signal)?)) }
}

/// A process that does not outlive this one, nor the value.
#[derive(Debug)]
pub struct Process(Child);

impl Process {
    /// Starts `command` in a process group of its own, so that Ctrl-C at the
    /// terminal reaches this program alone, which then ends the others.
    ///
    /// Has to be called from a thread that lives as long as the process is
    /// needed, see [`end_with_this`].
    ///
    /// # Errors
    ///
    /// Fails when the program cannot be started.
    pub fn spawn(command: &mut Command) -> Result<Self> {
        end_with_this(command, Signal::SIGKILL).process_group(0);
        let child = command.spawn().with_context(|| {
            let program = command.get_program();
            format!("cannot start {}", program.to_string_lossy())
        })?;
        Ok(Self(child))
    }

    /// Process number.
    pub fn id(&self) -> u32 {
        self.0.id()
    }

    /// How it ended, when it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.0.try_wait().ok().flatten()
    }

    /// Waits until it has ended.
    ///
    /// # Errors
    ///
    /// Fails when the kernel does not tell.
    pub fn wait(&mut self) -> Result<ExitStatus> {
        self.0.wait().context("cannot wait for a process")
    }

    /// Ends what it has started in its process group, and itself.
    pub fn kill_group(&mut self) {
        // The group exists for as long as somebody is in it; ESRCH says that
        // nobody is.
        let _ = killpg(Pid::from_raw(self.0.id() as i32), Signal::SIGKILL);
    }

    /// Ends it at once.
    pub fn kill(&mut self) {
        // Fails when it has ended, which is what is wanted.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}
