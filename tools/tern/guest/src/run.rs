// SPDX-License-Identifier: MIT OR Apache-2.0

//! Boots a guest, runs one command in it, and judges how that went.

use std::fs::{self, File};
use std::io::{self, stderr, stdout, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{anyhow, bail, Context, Result};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGWINCH};
use signal_hook::iterator::Signals;

use crate::proto::{Frame, Outcome, Start, CHUNK};
use crate::qemu::{Machine, Qemu};
use crate::splat::{self, Splat};
use crate::terminal::{self, Raw};
use crate::vgpu::{self, Vgpu};
use tern_paths::shown;

/// Exit statuses of `tern-guest` that are not the command's.
pub mod status {
    /// The time limit has passed.
    pub const TIMEOUT: u8 = 124;
    /// The kernel has complained.
    pub const SPLAT: u8 = 125;
    /// The guest did not come up, or died.
    pub const GUEST: u8 = 126;
    /// The command could not be started.
    pub const NOT_STARTED: u8 = 127;
    /// Added to the number of the signal that killed the command.
    pub const SIGNAL: i32 = 128;
}

/// How long a guest may take to power off.
const POWER_OFF_LIMIT: Duration = Duration::from_secs(30);

/// The console is quiet when its log has not grown for this long.
const QUIET: Duration = Duration::from_secs(1);

/// How long stacks may take to be printed.
const STACKS_LIMIT: Duration = Duration::from_secs(20);

/// How long the kernel may take to obey a SysRq key.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// How often the log is looked at.
const POLL: Duration = Duration::from_millis(50);

/// Lines of the log that are shown of a guest that died.
const TAIL: usize = 30;

/// Complaints that are shown; the log has them all.
const SHOWN_SPLATS: usize = 5;

/// One boot with one command.
#[derive(Clone, Debug)]
pub struct Job {
    /// The machine, without the sockets of its GPUs.
    pub machine: Machine,
    /// The virtual GPUs.
    pub gpus: vgpu::Config,
    /// What runs in the guest.
    pub start: Start,
    /// File for the kernel's console; another run that writes it makes this one
    /// take `guest.2.log` in place of `guest.log`, and so on.
    pub log: PathBuf,
    /// Limit from power on until init is ready.
    pub boot_limit: Option<Duration>,
    /// Limit for the command.
    pub limit: Option<Duration>,
    /// Whether the kernel's complaints change nothing in the exit status.
    pub allow_splat: bool,
    /// Lines of the kernel's log with one of these texts are no complaints.
    pub allow: Vec<String>,
}

/// How it went, as far as the channels of the guest tell.
#[derive(Debug)]
enum End {
    Command(Outcome),
    NeverUp,
    TimedOut,
    StaysOn,
    Died,
    Interrupted(i32),
}

/// What the main loop waits for.
enum Event {
    Frame(Frame),
    PortEnd(Option<io::Error>),
    Signal(i32),
    Escape,
}

/// Does the job. Output of the command goes to stdout and stderr, a report of
/// what went wrong with the guest to stderr.
///
/// # Errors
///
/// Fails when something needed is missing on the host.
pub fn run(job: &Job) -> Result<u8> {
    let directory = tempfile::Builder::new()
        .prefix("tern-guest-")
        .tempdir()
        .context("cannot make a directory for the sockets")?;
    let log = Log::claim(&job.log)?;
    let job = &Job {
        log: log.path.clone(),
        ..job.clone()
    };
    let mut gpus = start_gpus(job, directory.path())?;
    let mut machine = job.machine.clone();
    machine.gpus = gpus.iter().map(|gpu| gpu.socket.clone()).collect();

    let mut qemu = Qemu::start(&machine, &job.log, directory.path())?;
    let session = Session::start(job, &qemu)?;
    let raw = job.start.tty.map(|_| Raw::enter()).transpose()?;
    let end = session.converse(job)?;
    drop(raw);
    // What is printed from here on was asked for.
    let kernel_log = read_lossy(&job.log);
    if matches!(end, End::TimedOut | End::NeverUp | End::StaysOn) {
        take_stacks(&mut qemu, &job.log);
    }
    qemu.process.kill();
    let messages = read_lossy(&directory.path().join("qemu"));

    let mut report = Report::new(job);
    report.end(&end, &read_lossy(&job.log), &messages);
    report.splats(&splat::find(&kernel_log, &job.allow));
    for gpu in &mut gpus {
        report.gpu(gpu);
    }
    Ok(report.status)
}

/// The log of one run, which no other run writes as long as this value lives.
struct Log {
    path: PathBuf,
    _lock: Flock<File>,
}

impl Log {
    /// Takes the first of `guest.log`, `guest.2.log`, ... that is free, and
    /// empties it.
    fn claim(wanted: &Path) -> Result<Self> {
        /// More guests than a machine runs at once.
        const MOST: u32 = 1000;
        if let Some(parent) = wanted.parent() {
            fs::create_dir_all(parent)
                .with_context(|| format!("cannot make the directory {}", shown(parent)))?;
        }
        for number in 1..=MOST {
            let path = match number {
                1 => wanted.to_owned(),
                _ => wanted.with_extension(format!("{number}.log")),
            };
            if let Some(log) = Self::try_claim(path)? {
                return Ok(log);
            }
        }
        bail!("{MOST} runs write logs like {}", shown(wanted))
    }

    fn try_claim(path: PathBuf) -> Result<Option<Self>> {
        let cannot = || format!("cannot write the log {}", shown(&path));
        // Not emptied by opening: it may be another run's.
        let mut options = File::options();
        options.write(true).create(true).truncate(false);
        let file = options.open(&path).with_context(cannot)?;
        let lock = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => lock,
            Err((_, Errno::EWOULDBLOCK)) => return Ok(None),
            Err((_, error)) => return Err(error).with_context(cannot),
        };
        lock.set_len(0).with_context(cannot)?;
        Ok(Some(Self { path, _lock: lock }))
    }
}

fn read_lossy(path: &Path) -> String {
    String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned()
}

/// Starts the devices; the messages of each go to a file beside the log.
fn start_gpus(job: &Job, directory: &Path) -> Result<Vec<Vgpu>> {
    (0..job.gpus.count)
        .map(|index| {
            let messages = job.log.with_extension(format!("gpu{index}.log"));
            Vgpu::start(&job.gpus, index, directory, &messages)
        })
        .collect()
}

/// The conversation with one guest.
struct Session {
    events: Receiver<Event>,
    sender: Sender<Event>,
    port: Arc<Mutex<UnixStream>>,
}

impl Session {
    fn start(job: &Job, qemu: &Qemu) -> Result<Self> {
        let (sender, events) = mpsc::channel();
        let frames = qemu.port.try_clone()?;
        let to_frames = sender.clone();
        thread::spawn(move || pump_frames(frames, &to_frames));
        let mut signals = vec![SIGINT, SIGTERM, SIGHUP];
        if job.start.tty.is_some() {
            signals.push(SIGWINCH);
        }
        let mut signals = Signals::new(signals).context("cannot wait for signals")?;
        let to_signals = sender.clone();
        thread::spawn(move || {
            for signal in signals.forever() {
                if to_signals.send(Event::Signal(signal)).is_err() {
                    break;
                }
            }
        });
        Ok(Self {
            events,
            sender,
            port: Arc::new(Mutex::new(qemu.port.try_clone()?)),
        })
    }

    /// Follows the guest until it is off, or has to be switched off.
    fn converse(&self, job: &Job) -> Result<End> {
        let mut deadline = after(job.boot_limit);
        let mut late = End::NeverUp;
        let mut outcome = None;
        loop {
            let event = match self.next(deadline) {
                Ok(event) => event,
                Err(RecvTimeoutError::Timeout) => return Ok(late),
                Err(RecvTimeoutError::Disconnected) => return Ok(End::Died),
            };
            match event {
                Event::Frame(Frame::Ready) => {
                    self.begin(job)?;
                    deadline = after(job.limit);
                    late = End::TimedOut;
                }
                Event::Frame(Frame::Stdout(data)) => write_out(&mut stdout().lock(), &data)?,
                Event::Frame(Frame::Stderr(data)) => write_out(&mut stderr().lock(), &data)?,
                Event::Frame(Frame::Exit(how)) => {
                    outcome = Some(how);
                    deadline = after(Some(POWER_OFF_LIMIT));
                    late = End::StaysOn;
                }
                Event::Frame(_) => {}
                Event::Signal(SIGWINCH) => self.send(&Frame::Resize(terminal::size())),
                Event::Signal(signal) => return Ok(End::Interrupted(signal)),
                Event::Escape => return Ok(End::Interrupted(SIGINT)),
                Event::PortEnd(Some(error)) if outcome.is_none() => {
                    return Err(anyhow!(error).context("what the guest sends is damaged"));
                }
                Event::PortEnd(_) => return Ok(outcome.map_or(End::Died, End::Command)),
            }
        }
    }

    fn next(&self, deadline: Option<Instant>) -> Result<Event, RecvTimeoutError> {
        match deadline {
            None => self
                .events
                .recv()
                .map_err(|_| RecvTimeoutError::Disconnected),
            Some(at) => self
                .events
                .recv_timeout(at.saturating_duration_since(Instant::now())),
        }
    }

    fn begin(&self, job: &Job) -> Result<()> {
        self.send(&Frame::Start(job.start.clone()));
        if job.start.stdin || job.start.tty.is_some() {
            let port = Arc::clone(&self.port);
            let events = self.sender.clone();
            let escape = job.start.tty.is_some();
            thread::Builder::new()
                .name("stdin".into())
                .spawn(move || pump_stdin(&port, &events, escape))?;
        }
        Ok(())
    }

    /// A guest that is gone is seen at the console; nothing to do about it.
    fn send(&self, frame: &Frame) {
        let _ = send(&self.port, frame);
    }
}

/// Has the kernel print stacks into the log: of blocked tasks, of all
/// processors, and of all tasks.
fn take_stacks(qemu: &mut Qemu, log: &Path) {
    say(format_args!(
        "taking stacks of the guest, see {}",
        shown(log)
    ));
    let printed = b"wlt".iter().try_for_each(|key| {
        let before = length(log);
        qemu.sysrq(*key)?;
        wait_for_answer(log, before)
    });
    // A kernel that does not even listen panics then, with stacks.
    if let Err(error) = printed.or_else(|_| qemu.inject_nmi()) {
        say(format_args!("{error:#}"));
    }
    wait_until_quiet(log);
}

/// Waits until the log says that a SysRq key was obeyed, and all it prints is
/// there.
fn wait_for_answer(log: &Path, before: u64) -> Result<()> {
    let limit = Instant::now() + ANSWER_LIMIT;
    while Instant::now() < limit {
        let text = fs::read(log).unwrap_or_default();
        let new = text.get(before as usize..).unwrap_or_default();
        // A kernel without the keys may echo them, which is no answer.
        if String::from_utf8_lossy(new).contains("sysrq: ") {
            wait_until_quiet(log);
            return Ok(());
        }
        thread::sleep(POLL);
    }
    bail!("the guest's kernel does not answer")
}

fn length(file: &Path) -> u64 {
    fs::metadata(file).map_or(0, |data| data.len())
}

/// Waits until `log` does not grow any more.
fn wait_until_quiet(log: &Path) {
    let limit = Instant::now() + STACKS_LIMIT;
    let mut before = length(log);
    loop {
        thread::sleep(QUIET);
        let now = length(log);
        if now == before || Instant::now() >= limit {
            return;
        }
        before = now;
    }
}

fn after(limit: Option<Duration>) -> Option<Instant> {
    limit.map(|limit| Instant::now() + limit)
}

fn write_out(to: &mut impl Write, data: &[u8]) -> Result<()> {
    to.write_all(data)
        .and_then(|()| to.flush())
        .context("cannot pass the command's output on")
}

fn send(port: &Mutex<UnixStream>, frame: &Frame) -> io::Result<()> {
    let mut stream = port.lock().unwrap_or_else(PoisonError::into_inner);
    frame.write(&mut *stream)
}

fn pump_frames(mut port: UnixStream, events: &Sender<Event>) {
    loop {
        let event = match Frame::read(&mut port) {
            Ok(Some(frame)) => Event::Frame(frame),
            Ok(None) => Event::PortEnd(None),
            // QEMU ended in the middle of a frame.
            Err(e) if e.kind() != io::ErrorKind::InvalidData => Event::PortEnd(None),
            Err(e) => Event::PortEnd(Some(e)),
        };
        let last = matches!(event, Event::PortEnd(_));
        if events.send(event).is_err() || last {
            break;
        }
    }
}

/// Key that ends the guest when it is typed three times in a row.
const ESCAPE: u8 = 0x1d;

fn pump_stdin(port: &Mutex<UnixStream>, events: &Sender<Event>, escape: bool) {
    let mut buffer = vec![0u8; CHUNK];
    let mut row = 0;
    loop {
        let length = match io::stdin().lock().read(&mut buffer) {
            Ok(length) if length > 0 => length,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            _ => break,
        };
        for byte in &buffer[..length] {
            row = if *byte == ESCAPE { row + 1 } else { 0 };
            if escape && row == 3 {
                let _ = events.send(Event::Escape);
                return;
            }
        }
        if send(port, &Frame::Stdin(buffer[..length].to_vec())).is_err() {
            return;
        }
    }
    let _ = send(port, &Frame::StdinEnd);
}

/// Turns the end of a guest into words and an exit status.
struct Report<'a> {
    job: &'a Job,
    status: u8,
}

impl<'a> Report<'a> {
    fn new(job: &'a Job) -> Self {
        Self { job, status: 0 }
    }

    fn end(&mut self, end: &End, log: &str, messages: &str) {
        let limit = |limit: Option<Duration>| limit.unwrap_or_default().as_secs();
        self.status = match end {
            End::Command(Outcome::Exited(code)) => *code as u8,
            End::Command(Outcome::Signaled(signal)) => (status::SIGNAL + signal) as u8,
            End::Command(Outcome::NotStarted(why)) => {
                say(format_args!("cannot run the command in the guest: {why}"));
                status::NOT_STARTED
            }
            End::Command(Outcome::SetupFailed(why)) => {
                say(format_args!("the guest could not be set up: {why}"));
                status::GUEST
            }
            End::Interrupted(signal) => (status::SIGNAL + signal) as u8,
            End::TimedOut => {
                let limit = limit(self.job.limit);
                say(format_args!("the command took longer than {limit} s"));
                status::TIMEOUT
            }
            End::StaysOn => {
                say(format_args!("the guest does not power off"));
                status::TIMEOUT
            }
            End::NeverUp => {
                let limit = limit(self.job.boot_limit);
                say(format_args!("the guest did not come up within {limit} s"));
                status::GUEST
            }
            End::Died => {
                say(format_args!("the guest died"));
                status::GUEST
            }
        };
        if self.status == status::GUEST {
            if !messages.trim().is_empty() {
                say(format_args!("QEMU says:\n{}", messages.trim_end()));
            }
            let log_path = shown(&self.job.log);
            say(format_args!("end of the log {log_path}:\n{}", tail(log)));
        }
    }

    fn splats(&mut self, splats: &[Splat]) {
        let log = shown(&self.job.log);
        for splat in splats.iter().take(SHOWN_SPLATS) {
            let excerpt = splat.excerpt.join("\n  ");
            say(format_args!(
                "the kernel complains ({log}:{}):\n  {excerpt}",
                splat.line
            ));
        }
        if splats.len() > SHOWN_SPLATS {
            let more = splats.len() - SHOWN_SPLATS;
            say(format_args!("{more} more complaints are in {log}"));
        }
        if !splats.is_empty() && !self.job.allow_splat {
            self.status = status::SPLAT;
        }
    }

    fn gpu(&mut self, gpu: &mut Vgpu) {
        if let Some(how) = gpu.failure() {
            say(format_args!(
                "the virtual GPU failed ({how}):\n{}",
                tail(&gpu.messages())
            ));
            self.status = status::GUEST;
        }
    }
}

fn say(text: std::fmt::Arguments<'_>) {
    eprintln!("tern-guest: {text}");
}

fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(TAIL)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_at_once_have_logs_of_their_own() {
        let directory = tempfile::tempdir().unwrap();
        let wanted = directory.path().join("new/guest.log");
        let first = Log::claim(&wanted).unwrap();
        fs::write(&first.path, "first").unwrap();
        let second = Log::claim(&wanted).unwrap();
        assert_eq!(first.path, wanted);
        assert_eq!(second.path, directory.path().join("new/guest.2.log"));
        assert_eq!(fs::read(&wanted).unwrap(), b"first");
        drop(first);
        let third = Log::claim(&wanted).unwrap();
        assert_eq!(third.path, wanted);
        assert_eq!(fs::read(&wanted).unwrap(), b"");
    }
}
