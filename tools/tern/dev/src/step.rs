// SPDX-License-Identifier: MIT OR Apache-2.0

//! A long build: its whole output goes to a log, and people see how far it is.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{bail, Context, Result};
use indicatif::{ProgressBar, ProgressStyle};
use tern_paths::shown;

use crate::tool::{cannot_run, step};

/// How often a log, which is no terminal, gets a line.
const LOG_EVERY: Duration = Duration::from_secs(20);

/// Lines of a failed build that people see.
const TAIL: usize = 30;

/// A build of several commands.
#[derive(Debug)]
pub struct Step {
    what: String,
    log: File,
    path: PathBuf,
    start: Instant,
    view: View,
    files: usize,
}

/// How progress is shown.
#[derive(Debug)]
enum View {
    Terminal(ProgressBar),
    Lines(Instant),
}

impl Step {
    /// Starts a step, whose output goes to a new log.
    pub fn start(what: impl Into<String>, path: PathBuf) -> Result<Self> {
        let what = what.into();
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir).with_context(|| format!("{} cannot be made", shown(dir)))?;
        }
        let log =
            File::create(&path).with_context(|| format!("{} cannot be written", shown(&path)))?;
        let view = if std::io::stderr().is_terminal() {
            View::Terminal(bar(&what))
        } else {
            eprintln!("tern: {what} (log: {})", shown(&path));
            View::Lines(Instant::now())
        };
        Ok(Self {
            what,
            log,
            path,
            start: Instant::now(),
            view,
            files: 0,
        })
    }

    /// Runs one command of the step; fails, and shows the end of its output,
    /// if the command does.
    pub fn run(&mut self, command: &mut Command) -> Result<()> {
        let name = command.get_program().to_string_lossy().into_owned();
        let mut child = step(command)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(self.log.try_clone()?)
            .spawn()
            .with_context(|| cannot_run(command))?;
        if let Some(output) = child.stdout.take() {
            for line in BufReader::new(output).split(b'\n') {
                self.line(&line?)?;
            }
        }
        if !child.wait()?.success() {
            self.hide();
            show_tail(&self.path);
            bail!(
                "{}: {name} failed; all it said is in {}",
                self.what,
                shown(&self.path)
            );
        }
        Ok(())
    }

    /// Ends the step, which went well.
    pub fn done(self) {
        self.hide();
        eprintln!(
            "tern: {}: done in {}",
            self.what,
            minutes(self.start.elapsed())
        );
    }

    fn line(&mut self, line: &[u8]) -> Result<()> {
        self.log.write_all(line)?;
        self.log.write_all(b"\n")?;
        let line = String::from_utf8_lossy(line);
        let mut words = line.split_ascii_whitespace();
        // kbuild: two blanks, what it does, and to which file.
        let (true, Some(_), Some(file)) = (line.starts_with("  "), words.next(), words.last())
        else {
            return Ok(());
        };
        self.files += 1;
        let text = format!("{} files, {file}", self.files);
        match &mut self.view {
            View::Terminal(bar) => bar.set_message(text),
            View::Lines(last) if last.elapsed() >= LOG_EVERY => {
                *last = Instant::now();
                eprintln!(
                    "tern: {}: {} {text}",
                    self.what,
                    minutes(self.start.elapsed())
                );
            }
            View::Lines(_) => (),
        }
        Ok(())
    }

    fn hide(&self) {
        if let View::Terminal(bar) = &self.view {
            bar.finish_and_clear();
        }
    }
}

fn bar(what: &str) -> ProgressBar {
    let bar = ProgressBar::new_spinner();
    if let Ok(style) = ProgressStyle::with_template("{spinner} {prefix} {elapsed} {wide_msg}") {
        bar.set_style(style);
    }
    bar.set_prefix(what.to_owned());
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

fn show_tail(log: &Path) {
    let text = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<_> = text.lines().collect();
    for line in &lines[lines.len().saturating_sub(TAIL)..] {
        eprintln!("{line}");
    }
}

fn minutes(time: Duration) -> String {
    let seconds = time.as_secs();
    format!("{}:{:02} min", seconds / 60, seconds % 60)
}
