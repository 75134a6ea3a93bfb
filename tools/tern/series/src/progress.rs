// SPDX-License-Identifier: MIT OR Apache-2.0

//! What a long step does, how far it is and how long it took.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// How often a log, which is no terminal, gets a line.
const LOG_EVERY: Duration = Duration::from_secs(5);

/// A step that takes a while; prints one line when it is done.
#[derive(Debug)]
pub struct Step {
    what: String,
    total: u64,
    start: Instant,
    logged: Instant,
    bar: Option<ProgressBar>,
}

impl Step {
    /// Starts a step of `total` units; 0 where nobody knows.
    pub fn new(what: impl Into<String>, total: u64) -> Self {
        let what = what.into();
        let bar = std::io::stderr().is_terminal().then(|| bar(&what, total));
        if bar.is_none() {
            eprintln!("tern-series: {what} ...");
        }
        let start = Instant::now();
        Self {
            what,
            total,
            start,
            logged: start,
            bar,
        }
    }

    /// Says how far the step is.
    pub fn at(&mut self, done: u64) {
        if let Some(bar) = &self.bar {
            bar.set_position(done);
        } else if self.total > 0 && self.logged.elapsed() >= LOG_EVERY {
            self.logged = Instant::now();
            let percent = done.saturating_mul(100) / self.total;
            let seconds = self.start.elapsed().as_secs();
            eprintln!("tern-series: {}: {percent} %, {seconds} s", self.what);
        }
    }

    /// Ends the step, which went well.
    pub fn done(self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        let seconds = self.start.elapsed().as_secs_f64();
        eprintln!("tern-series: {}: done in {seconds:.1} s", self.what);
    }
}

fn bar(what: &str, total: u64) -> ProgressBar {
    let (bar, template) = match total {
        0 => (ProgressBar::new_spinner(), "{spinner} {msg} {elapsed}"),
        _ => (
            ProgressBar::new(total),
            "{msg} {wide_bar} {percent} % {elapsed}",
        ),
    };
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar.set_message(what.to_owned());
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}
