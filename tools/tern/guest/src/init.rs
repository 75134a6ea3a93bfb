// SPDX-License-Identifier: MIT OR Apache-2.0

//! The guest's first process.
//!
//! The kernel has mounted the exported root read-only. Init puts an overlay
//! with a `tmpfs` on top of it, so that the guest may write anywhere and every
//! mount point can be made, while nothing of it reaches the host. What the
//! host is meant to see goes to the shared directory.
//!
//! A failure here cannot be repaired; it is reported to the host, or, when
//! there is no way to, ends in a kernel panic, which the host sees as well.

use std::convert::Infallible;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use anyhow::{bail, Context, Result};
use nix::errno::Errno;
use nix::mount::{mount, umount, umount2, MntFlags, MsFlags};
use nix::pty::{openpty, Winsize};
use nix::sys::reboot::{reboot, RebootMode};
use nix::sys::signal::{kill, Signal};
use nix::sys::wait::{waitpid, WaitStatus};
use nix::unistd::{chdir, chroot, sethostname, setsid, Pid};

use crate::proto::{Frame, Outcome, Size, Start, CHUNK, PORT_NAME, SHARE_TAG};

/// Mount options of a 9p file system: `trans` and `version` are the only ones
/// that QEMU serves; `msize` is the largest that fits one virtio request.
pub const P9_OPTIONS: &str = "trans=virtio,version=9p2000.L,msize=512000";

/// One end of the frame stream that threads share for writing.
type Port = Arc<Mutex<File>>;

/// Does the whole work of init; ends in a power off, or in a kernel panic
/// when it returns.
pub fn main() -> std::process::ExitCode {
    let Err(error) = serve();
    eprintln!("tern-init: {error:#}");
    std::process::ExitCode::FAILURE
}

fn serve() -> Result<Infallible> {
    mount_kernel_interfaces(Path::new("/"))?;
    let mut input = open_port()?;
    let port: Port = Arc::new(Mutex::new(input.try_clone()?));
    send(&port, &Frame::Ready)?;
    let start = match Frame::read(&mut input)? {
        Some(Frame::Start(start)) => start,
        other => bail!("the host sent {other:?} in place of a command"),
    };
    let outcome = match set_up(&start) {
        Ok(()) => run(&start, input, &port)?,
        Err(error) => Outcome::SetupFailed(format!("{error:#}")),
    };
    send(&port, &Frame::Exit(outcome))?;
    power_off(&start)
}

fn send(port: &Port, frame: &Frame) -> io::Result<()> {
    let mut file = port
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    frame.write(&mut *file)
}

/// The file systems by which the kernel shows itself.
fn mount_kernel_interfaces(root: &Path) -> Result<()> {
    mount_at(root, "proc", "proc", "/proc", "", Need::Must)?;
    mount_at(root, "sysfs", "sysfs", "/sys", "", Need::Must)?;
    mount_at(root, "devtmpfs", "devtmpfs", "/dev", "", Need::Must)
}

/// Whether a guest can do without a file system that its kernel lacks.
#[derive(Clone, Copy, PartialEq)]
enum Need {
    Must,
    May,
}

fn mount_at(
    root: &Path,
    source: &str,
    kind: &str,
    target: &str,
    options: &str,
    need: Need,
) -> Result<()> {
    let path = root.join(target.trim_start_matches('/'));
    // Directories of sysfs come with the kernel; only others can be made.
    if let Err(error) = fs::create_dir_all(&path) {
        if need == Need::May {
            return Ok(());
        }
        return Err(error).with_context(|| format!("cannot make {}", path.display()));
    }
    let result = mount(
        Some(source),
        &path,
        Some(kind),
        MsFlags::empty(),
        Some(options),
    );
    match result {
        // The kernel has mounted it (devtmpfs).
        Ok(()) | Err(Errno::EBUSY) => Ok(()),
        Err(Errno::ENODEV) if need == Need::May => Ok(()),
        Err(Errno::ENODEV) => bail!("the guest's kernel has no {kind} file system"),
        Err(error) => Err(error).with_context(|| format!("cannot mount {kind} on {target}")),
    }
}

fn open_port() -> Result<File> {
    let ports = Path::new("/sys/class/virtio-ports");
    let entries = fs::read_dir(ports)
        .context("the guest's kernel has no virtio-serial ports (CONFIG_VIRTIO_CONSOLE)")?;
    for entry in entries {
        let entry = entry?;
        let name = fs::read_to_string(entry.path().join("name")).unwrap_or_default();
        if name.trim() == PORT_NAME {
            let path = Path::new("/dev").join(entry.file_name());
            return OpenOptions::new()
                .read(true)
                .write(true)
                .open(&path)
                .with_context(|| format!("cannot open {}", path.display()));
        }
    }
    bail!("there is no virtio-serial port named {PORT_NAME}")
}

fn set_up(start: &Start) -> Result<()> {
    enter_overlay()?;
    // Before /tmp and others are covered, where the modules may well be.
    if let Some(modules) = &start.modules {
        bind(modules, "/lib/modules")?;
    }
    mount_the_rest()?;
    if let Some(target) = &start.share {
        let options = format!("{P9_OPTIONS},cache=mmap");
        mount_at(
            Path::new("/"),
            SHARE_TAG,
            "9p",
            target,
            &options,
            Need::Must,
        )?;
    }
    sethostname("tern").context("cannot set the host name")?;
    loopback_up().context("cannot start the loopback device")?;
    set_sysctls()
}

/// Makes an overlay over the read-only root the new root.
fn enter_overlay() -> Result<()> {
    let root = Path::new("/");
    mount_at(
        root,
        "tern-overlay",
        "tmpfs",
        "/mnt",
        "mode=755",
        Need::Must,
    )?;
    for directory in ["upper", "work", "root"] {
        fs::create_dir(Path::new("/mnt").join(directory))?;
    }
    mount_at(
        root,
        "tern-overlay",
        "overlay",
        "/mnt/root",
        "lowerdir=/,upperdir=/mnt/upper,workdir=/mnt/work",
        Need::Must,
    )?;
    let new = Path::new("/mnt/root");
    for directory in ["proc", "sys", "dev"] {
        let (from, to) = (root.join(directory), new.join(directory));
        fs::create_dir_all(&to)?;
        move_mount(&from, &to)?;
    }
    chdir(new).context("cannot enter the new root")?;
    move_mount(new, root)?;
    chroot(".").context("cannot change to the new root")?;
    chdir("/").context("cannot enter the new root")
}

fn move_mount(from: &Path, to: &Path) -> Result<()> {
    mount(Some(from), to, None::<&str>, MsFlags::MS_MOVE, None::<&str>)
        .with_context(|| format!("cannot move {} to {}", from.display(), to.display()))
}

fn bind(from: &str, to: &str) -> Result<()> {
    fs::create_dir_all(to).with_context(|| format!("cannot make {to}"))?;
    mount(Some(from), to, None::<&str>, MsFlags::MS_BIND, None::<&str>)
        .with_context(|| format!("cannot mount {from} on {to}; is it visible in the guest's root?"))
}

fn mount_the_rest() -> Result<()> {
    let mounts = [
        ("tmpfs", "/tmp", "mode=1777", Need::Must),
        ("tmpfs", "/run", "mode=755", Need::Must),
        ("tmpfs", "/var/tmp", "mode=1777", Need::Must),
        ("tmpfs", "/dev/shm", "mode=1777", Need::Must),
        ("devpts", "/dev/pts", "mode=620,ptmxmode=666", Need::Must),
        ("hugetlbfs", "/dev/hugepages", "", Need::May),
        ("mqueue", "/dev/mqueue", "", Need::May),
        ("debugfs", "/sys/kernel/debug", "", Need::May),
        ("tracefs", "/sys/kernel/tracing", "", Need::May),
        ("configfs", "/sys/kernel/config", "", Need::May),
        ("cgroup2", "/sys/fs/cgroup", "", Need::May),
    ];
    for (kind, target, options, need) in mounts {
        mount_at(Path::new("/"), kind, kind, target, options, need)?;
    }
    for (link, target) in [
        ("/dev/fd", "/proc/self/fd"),
        ("/dev/stdin", "/proc/self/fd/0"),
        ("/dev/stdout", "/proc/self/fd/1"),
        ("/dev/stderr", "/proc/self/fd/2"),
    ] {
        std::os::unix::fs::symlink(target, link).with_context(|| format!("cannot make {link}"))?;
    }
    Ok(())
}

/// System calls in the shape that `nix` gives them.
mod ioctl {
    #![allow(missing_docs)]

    nix::ioctl_write_ptr_bad!(set_interface_flags, libc::SIOCSIFFLAGS, libc::ifreq);
    nix::ioctl_write_int_bad!(set_controlling_terminal, libc::TIOCSCTTY);
    nix::ioctl_write_ptr_bad!(set_window_size, libc::TIOCSWINSZ, libc::winsize);
}

/// Starts `lo`; a kernel without networking is left as it is.
fn loopback_up() -> io::Result<()> {
    let socket = match std::net::UdpSocket::bind("0.0.0.0:0") {
        Ok(socket) => socket,
        Err(e) if e.raw_os_error() == Some(libc::EAFNOSUPPORT) => return Ok(()),
        Err(e) => return Err(e),
    };
    // SAFETY: `ifreq` is plain data, for which all zeroes is a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_name[0] = b'l' as libc::c_char;
    request.ifr_name[1] = b'o' as libc::c_char;
    request.ifr_ifru.ifru_flags = libc::IFF_UP as libc::c_short;
    // SAFETY: the request reads one `ifreq`, which `request` is, and keeps no
    // pointer to it.
    unsafe { ioctl::set_interface_flags(socket.as_raw_fd(), &request) }?;
    Ok(())
}

fn set_sysctls() -> Result<()> {
    let values = [
        // An oops leaves locks held; what runs after it proves nothing.
        ("kernel/panic_on_oops", "1"),
        // The host asks for stacks through it when time is up.
        ("kernel/sysrq", "1"),
    ];
    for (name, value) in values {
        let path = Path::new("/proc/sys").join(name);
        if path.exists() {
            fs::write(&path, value).with_context(|| format!("cannot set {name}"))?;
        }
    }
    Ok(())
}

/// Runs the command and sends its output; returns when all of it was sent.
fn run(start: &Start, input: File, port: &Port) -> Result<Outcome> {
    let (child, outputs) = match spawn(start, input, port)? {
        Ok(running) => running,
        Err(error) => {
            return Ok(Outcome::NotStarted(format!("{}: {error}", start.argv[0])));
        }
    };
    let status = reap_until(Pid::from_raw(child.id() as i32))?;
    // What the command left behind would keep its output open for ever.
    kill_everything();
    for output in outputs {
        output
            .join()
            .map_err(|_| anyhow::anyhow!("an output thread panicked"))??;
    }
    Ok(match (status.code(), status.signal()) {
        (Some(code), _) => Outcome::Exited(code),
        (None, Some(signal)) => Outcome::Signaled(signal),
        (None, None) => bail!("the command ended in an unknown way: {status:?}"),
    })
}

type Running = (Child, Vec<JoinHandle<io::Result<()>>>);

/// Starts the command. The outer error is init's own, the inner one says why
/// the command cannot be run.
fn spawn(start: &Start, input: File, port: &Port) -> Result<io::Result<Running>> {
    let mut command = command_of(start)?;
    match start.tty {
        Some(size) => spawn_on_terminal(command, size, input, port),
        None => {
            let stdin = if start.stdin {
                Stdio::piped()
            } else {
                Stdio::null()
            };
            command
                .stdin(stdin)
                .stdout(Stdio::piped())
                .stderr(Stdio::piped());
            Ok(command.spawn().map(|mut child| {
                let stdin = child
                    .stdin
                    .take()
                    .map(|pipe| File::from(OwnedFd::from(pipe)));
                pass_input(input, stdin, None);
                let outputs = [
                    child
                        .stdout
                        .take()
                        .map(|pipe| pass_output(pipe, port, Frame::Stdout)),
                    child
                        .stderr
                        .take()
                        .map(|pipe| pass_output(pipe, port, Frame::Stderr)),
                ];
                (child, outputs.into_iter().flatten().collect())
            }))
        }
    }
}

fn command_of(start: &Start) -> Result<Command> {
    let Some((program, arguments)) = start.argv.split_first() else {
        bail!("the host sent an empty command");
    };
    let environment = start.env.iter().map(|(k, v)| (k.as_str(), v.as_str()));
    // The command's PATH, and not that of init, decides what is run.
    let path = start.env.iter().find(|(name, _)| name == "PATH");
    let file = find_program(program, path.map_or("", |(_, value)| value));
    let mut command = Command::new(file);
    command
        .arg0(program)
        .args(arguments)
        .env_clear()
        .envs(environment)
        .current_dir(&start.cwd);
    if start.uid != 0 {
        command.uid(start.uid).gid(start.uid);
    }
    Ok(command)
}

/// The file that `program` names: looked up in `path` unless it has a slash.
/// A program that is not found is left as it is, for `exec` to complain.
fn find_program(program: &str, path: &str) -> PathBuf {
    if program.contains('/') {
        return PathBuf::from(program);
    }
    path.split(':')
        .map(|directory| Path::new(directory).join(program))
        .find(|file| file.is_file())
        .unwrap_or_else(|| PathBuf::from(program))
}

fn spawn_on_terminal(
    mut command: Command,
    size: Size,
    input: File,
    port: &Port,
) -> Result<io::Result<Running>> {
    let terminal = openpty(Some(&window(size)), None).context("cannot open a terminal")?;
    command
        .stdin(terminal.slave.try_clone()?)
        .stdout(terminal.slave.try_clone()?)
        .stderr(terminal.slave);
    // SAFETY: between fork and exec only `setsid` and `ioctl` are called,
    // which are async-signal-safe; nothing is allocated. TIOCSCTTY takes an
    // integer and touches no memory.
    unsafe {
        command.pre_exec(|| {
            setsid()?;
            ioctl::set_controlling_terminal(0, 0)?;
            Ok(())
        });
    }
    let spawned = command.spawn();
    // The command holds the slave side; the terminal hangs up without this.
    drop(command);
    Ok(match spawned {
        Ok(child) => {
            let master = File::from(terminal.master);
            let keyboard = master.try_clone()?;
            let resize = master.try_clone()?;
            pass_input(input, Some(keyboard), Some(resize));
            let screen = pass_output(master, port, Frame::Stdout);
            Ok((child, vec![screen]))
        }
        Err(error) => Err(error),
    })
}

fn window(size: Size) -> Winsize {
    Winsize {
        ws_row: size.rows,
        ws_col: size.columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    }
}

/// Hands the host's frames to the command for as long as the guest lives.
fn pass_input(mut input: File, mut stdin: Option<File>, terminal: Option<File>) {
    thread::spawn(move || {
        while let Ok(Some(frame)) = Frame::read(&mut input) {
            match frame {
                // A command that closes its input must not stop the reading
                // of what comes behind.
                Frame::Stdin(data) => {
                    if stdin.as_mut().is_some_and(|f| f.write_all(&data).is_err()) {
                        stdin = None;
                    }
                }
                Frame::StdinEnd => stdin = None,
                Frame::Resize(size) => {
                    if let Some(terminal) = &terminal {
                        // SAFETY: TIOCSWINSZ reads one `winsize`, which the
                        // argument is, and keeps no pointer to it.
                        // It fails when the command has just ended.
                        let _ =
                            unsafe { ioctl::set_window_size(terminal.as_raw_fd(), &window(size)) };
                    }
                }
                _ => {}
            }
        }
    });
}

fn pass_output(
    mut from: impl Read + Send + 'static,
    port: &Port,
    frame: fn(Vec<u8>) -> Frame,
) -> JoinHandle<io::Result<()>> {
    let port = Arc::clone(port);
    thread::spawn(move || {
        let mut buffer = vec![0u8; CHUNK];
        loop {
            match from.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(length) => send(&port, &frame(buffer[..length].to_vec()))?,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                // The last process has closed its terminal.
                Err(e) if e.raw_os_error() == Some(libc::EIO) => return Ok(()),
                Err(e) => return Err(e),
            }
        }
    })
}

/// Reaps every child until `command` is among them.
fn reap_until(command: Pid) -> Result<ExitStatus> {
    loop {
        let status = match waitpid(None, None) {
            Err(Errno::EINTR) => continue,
            other => other.context("cannot wait for the command")?,
        };
        match status {
            WaitStatus::Exited(pid, code) if pid == command => {
                return Ok(ExitStatus::from_raw(code << 8));
            }
            WaitStatus::Signaled(pid, signal, _) if pid == command => {
                return Ok(ExitStatus::from_raw(signal as i32));
            }
            _ => {}
        }
    }
}

/// Kills every other process. None is left that could write; one that hangs
/// in the kernel is left to the time limit of the host.
fn kill_everything() {
    // ESRCH says that there is none.
    let _ = kill(Pid::from_raw(-1), Signal::SIGKILL);
    while waitpid(None, None).is_ok() {}
}

fn power_off(start: &Start) -> Result<Infallible> {
    nix::unistd::sync();
    if let Some(target) = start.share.as_deref() {
        // Busy when the command has mounted something below it, for example.
        // What was written has reached the host already.
        if umount(target).is_err() {
            let _ = umount2(target, MntFlags::MNT_DETACH);
        }
    }
    reboot(RebootMode::RB_POWER_OFF).context("cannot power off")
}
