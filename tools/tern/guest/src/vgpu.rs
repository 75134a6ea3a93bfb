// SPDX-License-Identifier: MIT OR Apache-2.0

//! Processes of the virtual GPU.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{bail, Context, Result};

use crate::process::Process;

/// Most devices that a guest gets.
pub const MAX_GPUS: u32 = 2;

/// How long a device may take until it listens.
const START_LIMIT: Duration = Duration::from_secs(10);

/// How the devices are started.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// Number of devices, at most [`MAX_GPUS`].
    pub count: u32,
    /// The program.
    pub program: PathBuf,
    /// Its arguments, besides the socket.
    pub args: Vec<String>,
}

/// A running device.
#[derive(Debug)]
pub struct Vgpu {
    process: Process,
    /// Where QEMU connects to it.
    pub socket: PathBuf,
    messages: PathBuf,
}

impl Vgpu {
    /// Starts device number `index` with its socket in `directory`, and waits
    /// until it listens. Its messages go to the file `messages`.
    ///
    /// # Errors
    ///
    /// Fails when it cannot be started, ends, or does not listen in time.
    pub fn start(config: &Config, index: u32, directory: &Path, messages: &Path) -> Result<Self> {
        let socket = directory.join(format!("gpu{index}.sock"));
        let file = File::create(messages)
            .with_context(|| format!("cannot make {}", messages.display()))?;
        let process = Process::spawn(
            Command::new(&config.program)
                .arg("--socket")
                .arg(&socket)
                .args(&config.args)
                .stdin(Stdio::null())
                .stdout(file.try_clone()?)
                .stderr(file),
        )
        .context("the virtual GPU is built with: cargo build -p tern-vgpu")?;
        let mut vgpu = Self {
            process,
            socket,
            messages: messages.to_path_buf(),
        };
        vgpu.wait_until_listening()?;
        Ok(vgpu)
    }

    /// The kernel tells who listens. To connect instead would make this
    /// program the one client that the device serves.
    fn wait_until_listening(&mut self) -> Result<()> {
        let deadline = Instant::now() + START_LIMIT;
        loop {
            if let Some(status) = self.process.ended() {
                bail!(
                    "the virtual GPU ended at its start ({status}):\n{}",
                    self.messages()
                );
            }
            let sockets = fs::read_to_string("/proc/net/unix").context("is /proc mounted?")?;
            if is_listening(&sockets, &self.socket) {
                return Ok(());
            }
            if Instant::now() >= deadline {
                bail!(
                    "the virtual GPU did not listen on {} within {} s:\n{}",
                    self.socket.display(),
                    START_LIMIT.as_secs(),
                    self.messages()
                );
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// How the device failed, if it did.
    pub fn failure(&mut self) -> Option<ExitStatus> {
        self.process.ended().filter(|status| !status.success())
    }

    /// What the device has said.
    pub fn messages(&self) -> String {
        let bytes = fs::read(&self.messages).unwrap_or_default();
        String::from_utf8_lossy(&bytes).trim_end().to_string()
    }
}

/// Whether `/proc/net/unix` shows a listening socket at `path`.
fn is_listening(sockets: &str, path: &Path) -> bool {
    /// `__SO_ACCEPTCON`
    const LISTENS: u32 = 1 << 16;
    sockets.lines().any(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let flags = fields.get(3).and_then(|f| u32::from_str_radix(f, 16).ok());
        flags.is_some_and(|flags| flags & LISTENS != 0)
            && fields.get(7).is_some_and(|name| Path::new(name) == path)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::UnixListener;

    fn script(directory: &Path, text: &str) -> Config {
        let program = directory.join("vgpu");
        fs::write(&program, text).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        Config {
            count: 1,
            program,
            args: Vec::new(),
        }
    }

    #[test]
    fn a_listening_socket_is_seen() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        let listener = UnixListener::bind(&path).unwrap();
        let sockets = fs::read_to_string("/proc/net/unix").unwrap();
        assert!(is_listening(&sockets, &path));
        // Another path, not this one closed: a process that another test is just
        // starting may still have it open.
        assert!(!is_listening(&sockets, &directory.path().join("other")));
        drop(listener);
    }

    #[test]
    fn a_device_that_ends_is_reported_with_its_words() {
        let directory = tempfile::tempdir().unwrap();
        let config = script(directory.path(), "#!/bin/sh\necho no VRAM >&2\nexit 3\n");
        let messages = directory.path().join("messages");
        let error = Vgpu::start(&config, 0, directory.path(), &messages).unwrap_err();
        let text = format!("{error:#}");
        assert!(text.contains("no VRAM"), "{text}");
        assert!(text.contains("exit status: 3"), "{text}");
    }
}
