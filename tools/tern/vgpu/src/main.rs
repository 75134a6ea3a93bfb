// SPDX-License-Identifier: MIT OR Apache-2.0

//! The virtual GPU as a program: waits on a socket for QEMU's `vfio-user-pci`.

use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{bail, Context, Result};
use clap::Parser;
use rustix::fs::{flock, FlockOperation};
use rustix::io::Errno;
use tern_vgpu::device::Running;
use tern_vgpu::misbehave::Misbehave;
use tern_vgpu::options::{size, Options};
use tern_vgpu::server::Socket;
use tracing_subscriber::EnvFilter;

/// A virtual PCI GPU for QEMU's `-device vfio-user-pci`.
///
/// Set RUST_LOG=tern_vgpu=debug to see what it does.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// Path of the socket to listen on; a file beside it, with .lock at its end, says that it is used
    #[arg(long)]
    socket: PathBuf,
    /// Bytes of VRAM, a multiple of 2M
    #[arg(long, value_name = "SIZE", default_value = "512M", value_parser = size)]
    vram: u64,
    /// Bytes of VRAM that the processor can map, a power of two
    #[arg(long, value_name = "SIZE", default_value = "256M", value_parser = size)]
    aperture: u64,
    /// Number of copy engines, 1 to 8
    #[arg(long, value_name = "N", default_value_t = 2)]
    copy_engines: u32,
    /// Number of host threads that run waves
    #[arg(long, value_name = "N", default_value_t = 1)]
    compute_threads: usize,
    /// Number of threads of a dispatch that are resident at a time
    #[arg(long, value_name = "N", default_value_t = 1024)]
    resident: u32,
    /// Number of threads of a wave, 1 to 32
    #[arg(long, value_name = "N", default_value_t = 32)]
    lanes: usize,
    /// Seed of what happens at random
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Microseconds that an idle device looks at its doorbells before it sleeps
    #[arg(long, value_name = "N", default_value_t = 20)]
    poll_us: u64,
    /// Do all work within the KICK, in one thread and in an order that is always the same, so that
    /// it is done when the processor goes on; never look at doorbells otherwise. A dispatch that
    /// never ends needs a watchdog then
    #[arg(long, conflicts_with = "compute_threads")]
    synchronous: bool,
    /// Go wrong on purpose: drop-completion, drop-interrupt, delay-completion, reorder-completion,
    /// corrupt-fault, false-fence, corrupt-fence, hang, late or vanish; =N is one in how many, how
    /// many microseconds, or after how many completions; =illegal with the last three is after a
    /// dispatch that met an illegal instruction
    #[arg(long, value_name = "KIND[=N]")]
    misbehave: Vec<Misbehave>,
    /// Wait for the next client when one disconnects
    #[arg(long)]
    keep: bool,
}

impl Arguments {
    fn options(&self) -> Options {
        Options {
            vram: self.vram,
            aperture: self.aperture,
            copy_engines: self.copy_engines,
            compute_threads: self.compute_threads,
            resident: self.resident,
            lanes: self.lanes,
            poll: Duration::from_micros(self.poll_us),
            synchronous: self.synchronous,
            seed: self.seed,
            misbehave: self.misbehave.clone(),
        }
    }
}

/// Takes the socket at `path` for this program, for as long as the result is kept. To connect
/// would tell as well whether another device is there, but a device ends with its client.
fn take(path: &Path) -> Result<File> {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let name = PathBuf::from(name);
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&name)
        .with_context(|| format!("the lock {} cannot be opened", name.display()))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(Errno::WOULDBLOCK) => bail!(
            "another tern-vgpu uses {}: stop it or choose another path with --socket",
            path.display()
        ),
        Err(error) => {
            Err(error).with_context(|| format!("the lock {} cannot be taken", name.display()))
        }
    }
}

/// Makes room for the socket: removes one that nobody listens on, and nothing else.
fn clear(path: &Path) -> Result<()> {
    match UnixStream::connect(path) {
        Ok(_) => bail!(
            "another program listens on {}: stop it or choose another path with --socket",
            path.display()
        ),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
            use std::os::unix::fs::FileTypeExt;
            if !path.metadata()?.file_type().is_socket() {
                bail!(
                    "{} exists and is no socket: choose another path with --socket",
                    path.display()
                );
            }
            std::fs::remove_file(path)
                .with_context(|| format!("the old socket {} cannot be removed", path.display()))
        }
        Err(error) => Err(error).with_context(|| format!("{} cannot be used", path.display())),
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    let running = Running::new(arguments.options())?;
    let _lock = take(&arguments.socket)?;
    clear(&arguments.socket)?;
    let socket = Socket::new(&arguments.socket, running.device())
        .with_context(|| format!("no socket can be made at {}", arguments.socket.display()))?;
    loop {
        let served = socket.serve();
        if !arguments.keep {
            return served.context("the connection broke");
        }
        if let Err(error) = served {
            tracing::warn!(%error, "the connection broke");
        }
    }
}

fn main() -> ExitCode {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("warn"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .init();
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tern-vgpu: {error:#}");
            ExitCode::FAILURE
        }
    }
}
