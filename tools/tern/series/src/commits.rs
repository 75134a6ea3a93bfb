// SPDX-License-Identifier: MIT OR Apache-2.0

//! Turning the series into commits, in the object database alone.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::Path;

use anyhow::{anyhow, bail, ensure, Context, Result};

use crate::git::{Blob, Git};
use crate::series::{Entry, Series};

/// Who a commit is by, and when.
#[derive(Clone, Debug)]
pub struct Identity {
    /// `Name <mail>`.
    pub who: String,
    /// Seconds since the epoch, and time zone.
    pub when: String,
}

impl Identity {
    /// The same for everybody, so that the same series gives the same commits everywhere.
    pub fn fixed() -> Self {
        Self {
            who: "Tern <tern@localhost>".to_owned(),
            when: "1767225600 +0000".to_owned(),
        }
    }

    /// As git writes it into a commit.
    pub fn line(&self) -> String {
        format!("{} {}", self.who, self.when)
    }
}

/// Keeps the commits of a run alive until the tree has them.
const IMPORT_REF: &str = "refs/tern/import";

/// Makes one commit per entry on top of `base` and returns their names, in order.
///
/// Nothing but the object database is touched: patches are applied in an index that holds only
/// the files which the series changes, and fast-import builds the trees. `scratch` is a
/// directory for that index.
pub fn build(
    git: &Git,
    scratch: &Path,
    base: &str,
    series: &Series,
    who: &Identity,
) -> Result<Vec<String>> {
    let steps = steps(git, scratch, base, series)?;
    let mut stream = Vec::new();
    writeln!(stream, "reset {IMPORT_REF}\nfrom {base}\n")?;
    for (entry, changes) in series.entries.iter().zip(&steps) {
        let message = entry.patch.message();
        writeln!(stream, "commit {IMPORT_REF}\nmark :1")?;
        writeln!(stream, "author {0}\ncommitter {0}", who.line())?;
        writeln!(stream, "data {}\n{message}", message.len())?;
        for (path, blob) in changes {
            match blob {
                Some(blob) => writeln!(stream, "M {} {} {path}", blob.mode, blob.object)?,
                None => writeln!(stream, "D {path}")?,
            }
        }
        writeln!(stream, "\nget-mark :1")?;
    }
    writeln!(stream, "done")?;
    let args = ["fast-import", "--quiet", "--done", "--force"];
    let out = String::from_utf8(git.feed(&args, &stream)?)?;
    let commits: Vec<_> = out.lines().map(str::to_owned).collect();
    ensure!(
        commits.len() == series.entries.len(),
        "git fast-import lost commits"
    );
    Ok(commits)
}

/// Files that change with a commit; `None` for a file that goes.
pub type Changes = BTreeMap<String, Option<Blob>>;

/// What each entry changes.
pub fn steps(git: &Git, scratch: &Path, base: &str, series: &Series) -> Result<Vec<Changes>> {
    check_against(git, base, series)?;
    let touched: BTreeSet<_> = series.entries.iter().flat_map(|e| &e.touched).collect();
    let touched: Vec<_> = touched.into_iter().cloned().collect();
    let dir = tempfile::tempdir_in(scratch)?;
    let index = git.index(&dir.path().join("index"));
    let mut now: BTreeMap<String, Blob> = BTreeMap::new();
    if !touched.is_empty() {
        now.extend(git.files(base, &touched)?);
        index.update_index(now.iter().map(|(path, blob)| (path.as_str(), Some(blob))))?;
    }
    let mut steps = Vec::new();
    for (number, entry) in (1..).zip(&series.entries) {
        let files = entry.files.iter();
        let mut changes: Changes = files.map(|(p, b)| (p.clone(), Some(b.clone()))).collect();
        if !entry.patch.diff.is_empty() {
            apply(&index, number, entry)?;
            let next = staged(&index)?;
            for path in &entry.touched {
                if now.get(path) != next.get(path) {
                    changes.insert(path.clone(), next.get(path).cloned());
                }
            }
            now = next;
        }
        steps.push(changes);
    }
    Ok(steps)
}

/// A new file must not exist in the kernel, a changed one must.
fn check_against(git: &Git, base: &str, series: &Series) -> Result<()> {
    let mut names = Vec::new();
    let mut wanted = Vec::new();
    for entry in &series.entries {
        for path in &entry.touched {
            names.push(format!("{base}:{path}"));
            wanted.push((entry, path, true));
        }
        for path in entry.files.keys() {
            names.push(format!("{base}:{path}"));
            wanted.push((entry, path, false));
        }
    }
    for ((entry, path, exists), found) in wanted.into_iter().zip(git.resolve_all(&names)?) {
        match (exists, found) {
            (true, None) => bail!(
                "{} changes {path}, which the kernel does not have",
                entry.path
            ),
            (false, Some(_)) => bail!(
                "{path} exists in the kernel already, so {} must change it with a patch",
                entry.path
            ),
            _ => (),
        }
    }
    Ok(())
}

fn apply(index: &Git, number: usize, entry: &Entry) -> Result<()> {
    let args = ["apply", "--cached", "--whitespace=nowarn", "-"];
    let output = index.output(&args, Some(&entry.patch.diff))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let mut lines: Vec<String> = said.lines().map(str::to_owned).collect();
    for line in &mut lines {
        let place = line
            .strip_prefix("error: patch failed: ")
            .and_then(|place| place.rsplit_once(':'));
        if let Some(hunk) = place.and_then(|(path, start)| entry.patch.hunk(path, start)) {
            line.push_str(&format!("\n  hunk {hunk}"));
        }
    }
    Err(anyhow!(lines.join("\n"))).with_context(|| {
        format!(
            "entry {number} ({}, \"{}\") does not apply to what the entries before it leave",
            entry.path, entry.patch.subject
        )
    })
}

fn staged(index: &Git) -> Result<BTreeMap<String, Blob>> {
    let out = index.text(&["ls-files", "--stage", "-z"])?;
    let mut files = BTreeMap::new();
    for record in out.split_terminator('\0') {
        let (meta, path) = record.split_once('\t').context("git ls-files is odd")?;
        let mut meta = meta.split(' ');
        let (mode, object) = meta
            .next()
            .zip(meta.next())
            .context("git ls-files is odd")?;
        files.insert(path.to_owned(), Blob::new(mode, object));
    }
    Ok(files)
}
