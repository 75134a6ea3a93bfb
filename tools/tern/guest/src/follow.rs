// SPDX-License-Identifier: MIT OR Apache-2.0

//! A program whose output is followed line by line, within a time limit.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::unistd::pipe;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::process::Process;

/// How long the output may stay open after the program has ended.
const OUTPUT_LIMIT: Duration = Duration::from_secs(10);

/// A program that runs.
#[derive(Debug)]
pub struct Followed {
    process: Process,
    output: File,
}

/// How it ended.
#[derive(Debug)]
pub enum End {
    /// By itself, with this status; 128 and the number of a signal that killed it.
    Exited(i32),
    /// It took longer than it may.
    TimedOut,
    /// This program was told to end.
    Interrupted,
}

enum Event {
    Line(String),
    End,
    Signal,
}

impl Followed {
    /// Starts `command` without input. Its stdout is followed, and its stderr
    /// with it, unless `errors` is a file where that goes.
    ///
    /// # Errors
    ///
    /// Fails when the program cannot be started.
    pub fn start(command: &mut Command, errors: Option<&File>) -> Result<Self> {
        let (reader, writer) = pipe().context("cannot make a pipe")?;
        let errors = match errors {
            Some(file) => Stdio::from(file.try_clone()?),
            None => Stdio::from(writer.try_clone()?),
        };
        command.stdin(Stdio::null()).stdout(writer).stderr(errors);
        let process = Process::spawn(command)?;
        // This end of the pipe is the command's alone, and the output ends
        // with the program.
        command.stdout(Stdio::null()).stderr(Stdio::null());
        Ok(Self {
            process,
            output: File::from(reader),
        })
    }

    /// Hands the lines of output to `take` until the program has ended, and in
    /// between, every now and then, none; then nothing of it is left.
    ///
    /// # Errors
    ///
    /// Fails when `take` does, and when the system does not tell how the
    /// program ended.
    pub fn follow(
        mut self,
        limit: Option<Duration>,
        mut take: impl FnMut(Option<&str>) -> io::Result<()>,
    ) -> Result<End> {
        let (sender, events) = mpsc::channel();
        let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP])?;
        let handle = signals.handle();
        let to_signals = sender.clone();
        thread::spawn(move || {
            for _ in signals.forever() {
                let _ = to_signals.send(Event::Signal);
            }
        });
        thread::spawn(move || read_lines(self.output, &sender));
        let deadline = limit.map(|limit| Instant::now() + limit);
        let end = follow_events(&mut self.process, &events, deadline, &mut take);
        handle.close();
        self.process.kill_group();
        end
    }
}

/// How often the program is looked at.
const TICK: Duration = Duration::from_millis(200);

fn follow_events(
    process: &mut Process,
    events: &Receiver<Event>,
    deadline: Option<Instant>,
    take: &mut impl FnMut(Option<&str>) -> io::Result<()>,
) -> Result<End> {
    let mut ended = None;
    loop {
        // A grandchild may hold the output open, so its end proves nothing
        // about the program, nor the other way round.
        let left = deadline.map_or(TICK, |at| at.saturating_duration_since(Instant::now()));
        match events.recv_timeout(TICK.min(left)) {
            Ok(Event::Line(line)) => take(Some(&line)).context("cannot write a log")?,
            Ok(Event::Signal) => return Ok(End::Interrupted),
            Ok(Event::End) | Err(RecvTimeoutError::Disconnected) => {
                let status = process.wait()?;
                return Ok(End::Exited(
                    status.code().unwrap_or(128 + status.signal().unwrap_or(0)),
                ));
            }
            Err(RecvTimeoutError::Timeout) => take(None).context("cannot write a log")?,
        }
        if process.ended().is_some() && ended.is_none() {
            ended = Some(Instant::now() + OUTPUT_LIMIT);
        }
        if ended.is_some_and(|at| Instant::now() >= at) {
            // Those that hold the output open are of no use any more.
            process.kill_group();
        }
        if deadline.is_some_and(|at| Instant::now() >= at) {
            return Ok(End::TimedOut);
        }
    }
}

fn read_lines(output: File, events: &Sender<Event>) {
    let mut reader = BufReader::new(output);
    let mut line = Vec::new();
    loop {
        line.clear();
        match reader.read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => break,
            Ok(_) => {}
        }
        let text = String::from_utf8_lossy(&line);
        let text = text.trim_end_matches(['\r', '\n']).to_string();
        if events.send(Event::Line(text)).is_err() {
            return;
        }
    }
    let _ = events.send(Event::End);
}
