// SPDX-License-Identifier: MIT OR Apache-2.0

//! `bisect-check`: every commit of the series builds.

use std::fmt::Write as _;
use std::fs;
use std::process::{Command, Stdio};

use anyhow::{bail, ensure, Context, Result};

use crate::progress::Step;
use crate::series::Source;
use crate::tree::{self, Places};
use crate::worktree::{write_file, State, WorkTree};
use tern_paths::shown;

/// Runs `command` in a work tree of its own at each commit in turn; stops at the first failure.
///
/// The command finds `KBUILD_OUTPUT` set to an object directory that is kept from commit to
/// commit, so that only what changed is built, and `MAKEFLAGS` to `-jJOBS`. A check that was cut
/// short or failed goes on behind the commits that the same command has passed, with the same
/// configuration and tools.
pub fn check(places: &Places, jobs: usize, command: &[String]) -> Result<()> {
    let (program, args) = command
        .split_first()
        .context("there is no command to run")?;
    let base = places.base()?;
    let work = WorkTree::open(&places.tree, &base)?;
    work.set_partial(true)?;
    ensure!(
        work.head()?.is_none() || work.edited()?.is_empty(),
        "{} has edits; it is made for the check alone, so delete it",
        shown(&work.dir)
    );
    let source = Source::from_repo(&places.repo, &work.git)?;
    let source_tree = source.write(&work.git, &work.own_dir())?;
    let series = source.series(&work.git)?;
    let commits = tree::make(&work, &base, &series)?;
    let objects = work.dir.with_extension("obj");
    fs::create_dir_all(&objects)
        .with_context(|| format!("{} cannot be created", shown(&objects)))?;

    let mut passed = Passed::load(&work, command)?;
    let total = commits.len();
    for (number, (commit, entry)) in (1..).zip(commits.iter().zip(&series.entries)) {
        let what = format!("{number} of {total}, \"{}\"", entry.patch.subject);
        if passed.has(commit) {
            eprintln!("tern-series: commit {what}: passed before");
            continue;
        }
        let state = State {
            commit: commit.clone(),
            source: source_tree.clone(),
            base: base.commit.clone(),
        };
        work.move_to(&state, false)?;
        let step = Step::new(format!("commit {what}"), 0);
        let status = Command::new(program)
            .args(args)
            .current_dir(&work.dir)
            .env("KBUILD_OUTPUT", &objects)
            .env("MAKEFLAGS", format!("-j{jobs}"))
            .stdin(Stdio::null())
            .status()
            .with_context(|| format!("{program} cannot be run"))?;
        if !status.success() {
            bail!("commit {what} ({}) fails: {program}: {status}", entry.path);
        }
        step.done();
        passed.add(commit)?;
    }
    passed.clear()?;
    eprintln!("tern-series: all {total} commits pass");
    Ok(())
}

/// Programs whose version decides what passes.
const TOOLS: [&str; 4] = ["clang", "ld.lld", "rustc", "bindgen"];

/// The variable that names the configuration of a kernel build to be.
const CONFIG: &str = "KCONFIG_ALLCONFIG";

/// What must be the same for a commit that passed to pass again.
fn conditions(work: &WorkTree, command: &[String]) -> Result<String> {
    let mut text = format!("{command:?}\n");
    for tool in TOOLS {
        let output = Command::new(tool).arg("--version").output();
        let version = output.map_or_else(|error| error.to_string().into(), |output| output.stdout);
        writeln!(text, "{tool}: {}", String::from_utf8_lossy(&version))?;
    }
    // A value that names no file is the build's business.
    let config = std::env::var_os(CONFIG).and_then(|path| fs::read_to_string(path).ok());
    text.push_str(&config.unwrap_or_default());
    work.git.blob(text.as_bytes())
}

/// The commits that have passed under some conditions, on disk.
struct Passed {
    file: std::path::PathBuf,
    text: String,
}

impl Passed {
    fn load(work: &WorkTree, command: &[String]) -> Result<Self> {
        let file = work.own_dir().join("passed");
        let head = format!("{}\n", conditions(work, command)?);
        let text = fs::read_to_string(&file).unwrap_or_default();
        let text = if text.starts_with(&head) { text } else { head };
        Ok(Self { file, text })
    }

    fn has(&self, commit: &str) -> bool {
        self.text.lines().skip(1).any(|line| line == commit)
    }

    fn add(&mut self, commit: &str) -> Result<()> {
        self.text.push_str(commit);
        self.text.push('\n');
        write_file(&self.file, self.text.as_bytes())
    }

    fn clear(&self) -> Result<()> {
        match fs::remove_file(&self.file) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
            _ => Ok(()),
        }
    }
}
