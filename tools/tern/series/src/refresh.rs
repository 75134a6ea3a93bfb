// SPDX-License-Identifier: MIT OR Apache-2.0

//! `refresh`: what was done in the work tree goes back into the repository.
//!
//! The tree's commits and edits are turned into the files that would make them (a new
//! [`Source`]). What differs from the source that the tree was made from is merged into the
//! repository, which may have changed too. Nothing is written before it is shown that the new
//! files give the very tree that the person sees.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use anyhow::{bail, ensure, Context, Result};

use crate::fold::{self, Step};
use crate::git::{Blob, Change, Git, Merge};
use crate::manifest::{Item, Line, Manifest, MANIFEST};
use crate::naming;
use crate::patch::Patch;
use crate::series::{Series, Source};
use crate::tree::{self, Options, Places};
use crate::worktree::{write_file, State, WorkTree};
use tern_paths::shown;

/// Takes the tree's commits and edits into the repository, then moves the tree to the result.
pub fn refresh(places: &Places) -> Result<()> {
    let base = places.base()?;
    let work = WorkTree::existing(&places.tree, &base)?;
    let place = shown(&work.dir);
    work.refuse_unfinished()?;
    ensure!(
        !work.partial(),
        "{place} holds only a part of the series, so it cannot stand for the whole"
    );
    let (Some(was), Some(head)) = (work.state()?, work.head()?) else {
        bail!("{place} was never filled; run `tern-series tree`");
    };
    ensure!(
        was.base == base.commit,
        "{place} stands on another kernel than the one that is pinned now; refresh it with the \
         old kernel's base first"
    );

    let old = Old::load(&work, &was)?;
    let taken = edits(&work, &old.series)?;
    let mut steps = fold::commits(&work.git, &was.base, &head)?;
    let edited = fold::with_edits(&work, &mut steps, &head, &old.series, &taken)?;
    let new = derive(
        &work,
        &old,
        &was.base,
        &fold::fold(&work.git, &was.base, steps)?,
    )?;

    let series = new.series(&work.git)?;
    let commits = tree::make(&work, &base, &series)?;
    let commit = commits.last().unwrap_or(&base.commit).clone();
    prove(&work.git, &commit, &edited)?;

    let source = new.write(&work.git, &work.own_dir())?;
    write_back(&work, &places.repo, &was.source, &source)?;
    stage(&work, &taken)?;
    work.record(&State {
        commit,
        source,
        base: was.base,
    })?;
    tree::update(&work, &places.repo, &base, &Options::default())
}

/// The series that the tree was made from, and what each of its commits does.
struct Old {
    source: Source,
    series: Series,
    steps: Vec<Step>,
}

impl Old {
    fn load(work: &WorkTree, was: &State) -> Result<Self> {
        let source = Source::from_tree(&work.git, &was.source)?;
        let series = source.series(&work.git)?;
        let steps = fold::commits(&work.git, &was.base, &was.commit)?;
        ensure!(
            steps.len() == series.entries.len(),
            "the records of {} are damaged; keep what you need, then delete it",
            shown(&work.dir)
        );
        Ok(Self {
            source,
            series,
            steps,
        })
    }
}

/// The files with edits that were not committed: all tracked ones, and new ones in directories
/// which the series lists. Other new files stay where they are, and it is said.
fn edits(work: &WorkTree, series: &Series) -> Result<BTreeSet<String>> {
    let mut paths = work.edited()?;
    let args = ["ls-files", "--others", "--exclude-standard", "-z"];
    let out = String::from_utf8(work.git.bytes(&args)?).context("a path is not UTF-8")?;
    let new: Vec<_> = out.split_terminator('\0').collect();
    let owners = series.manifest.owners(new.iter().copied())?;
    let (known, strange): (Vec<&str>, Vec<_>) =
        new.into_iter().partition(|path| owners.contains_key(*path));
    if let Some(first) = strange.first() {
        eprintln!(
            "tern-series: new files that are in no commit are left alone: {first}{}",
            tree::more(strange.len())
        );
    }
    paths.extend(known.into_iter().map(str::to_owned));
    Ok(paths)
}

/// Makes the files of which the commits `steps` would come.
fn derive(work: &WorkTree, old: &Old, base: &str, steps: &[Step]) -> Result<Source> {
    let mut parts = Vec::new();
    let mut plain = Plain::new(base);
    for step in steps {
        let changes = work.git.changes(&step.before, &step.after)?;
        parts.push(Part {
            step,
            existing: plain.split(&work.git, changes)?,
            own: BTreeSet::new(),
        });
    }
    plain.settle(&mut parts);
    let parts: Vec<_> = parts.into_iter().filter(Part::stays).collect();
    let matched = match_entries(old, &parts)?;
    drop_rest(old, &matched);

    let mut source = Source::default();
    let mut manifest = Manifest {
        head: old.series.manifest.head.clone(),
        tail: old.series.manifest.tail.clone(),
        items: Vec::new(),
    };
    let mut names = naming::Names::new(&work.git, base, old.source.0.keys());
    for (part, entry) in parts.iter().zip(&matched) {
        let (item, blob) = match entry {
            Some(index) => kept(work, old, *index, part)?,
            None => {
                let paths: Vec<_> = part.paths().collect();
                let path = names.name(&part.step.patch.subject, &paths)?;
                eprintln!(
                    "tern-series: \"{}\" becomes {path}",
                    part.step.patch.subject
                );
                let item = Item {
                    lead: vec![String::new()],
                    patch: path,
                    ..Item::default()
                };
                (item, part.write(&work.git)?)
            }
        };
        source.0.insert(item.patch.clone(), blob);
        manifest.items.push(item);
    }
    list(&mut manifest, &plain.files, &parts)?;
    for (path, blob) in &plain.files {
        ensure!(
            blob.mode != "120000",
            "{path} is a symbolic link, but new files of the series must be regular ones"
        );
    }
    source.0.extend(plain.files);
    let text = work.git.blob(manifest.text().as_bytes())?;
    source
        .0
        .insert(MANIFEST.to_owned(), Blob::new("100644", &text));
    Ok(source)
}

/// A commit, its changes told apart.
struct Part<'a> {
    step: &'a Step,
    /// Changes to files that the kernel has.
    existing: Vec<Change>,
    /// Plain files that it adds or changes.
    own: BTreeSet<String>,
}

impl Part<'_> {
    /// Whether anything is left of the commit.
    fn stays(&self) -> bool {
        let stays = !self.existing.is_empty() || !self.own.is_empty();
        let subject = &self.step.patch.subject;
        if !stays && subject != fold::EDITS {
            eprintln!(
                "tern-series: \"{subject}\" has no change to an existing file and brings no new \
                 one, so it is no entry"
            );
        }
        stays
    }

    fn paths(&self) -> impl Iterator<Item = &str> {
        let existing = self.existing.iter().map(|change| change.path.as_str());
        existing.chain(self.own.iter().map(String::as_str))
    }

    /// Stores the patch file.
    fn write(&self, git: &Git) -> Result<Blob> {
        self.write_as(git, self.step.patch.clone())
    }

    fn write_as(&self, git: &Git, mut patch: Patch) -> Result<Blob> {
        patch.check_message()?;
        patch.license();
        patch.diff = Vec::new();
        if !self.existing.is_empty() {
            let (before, after) = (&self.step.before, &self.step.after);
            let mut args = vec!["--literal-pathspecs", "diff-tree", "-p", "--no-renames"];
            args.extend([
                "--no-color",
                "--no-ext-diff",
                "--no-textconv",
                "--abbrev=12",
            ]);
            args.extend(["--binary", "--src-prefix=a/", "--dst-prefix=b/"]);
            args.extend([before.as_str(), after, "--"]);
            args.extend(self.existing.iter().map(|change| change.path.as_str()));
            patch.diff = git.bytes(&args)?;
        }
        Ok(Blob::new("100644", &git.blob(&patch.bytes())?))
    }
}

/// Follows the plain files through the commits.
struct Plain<'a> {
    base: &'a str,
    /// As the last commit leaves them.
    files: BTreeMap<String, Blob>,
    /// Who added them, by number of the commit.
    added: BTreeMap<String, usize>,
    /// What later commits did to them.
    folded: Vec<(usize, String)>,
    count: usize,
}

impl<'a> Plain<'a> {
    fn new(base: &'a str) -> Self {
        Self {
            base,
            files: BTreeMap::new(),
            added: BTreeMap::new(),
            folded: Vec::new(),
            count: 0,
        }
    }

    /// Takes the next commit's changes to plain files; returns the others.
    fn split(&mut self, git: &Git, changes: Vec<Change>) -> Result<Vec<Change>> {
        let names: Vec<_> = changes
            .iter()
            .map(|change| format!("{}:{}", self.base, change.path))
            .collect();
        let mut existing = Vec::new();
        for (change, in_base) in changes.into_iter().zip(git.resolve_all(&names)?) {
            if in_base.is_some() {
                existing.push(change);
            } else {
                self.take(change);
            }
        }
        self.count += 1;
        Ok(existing)
    }

    fn take(&mut self, change: Change) {
        let Some(blob) = change.new else {
            self.files.remove(&change.path);
            self.added.remove(&change.path);
            return;
        };
        if self.files.insert(change.path.clone(), blob).is_none() {
            self.added.insert(change.path, self.count);
        } else {
            self.folded.push((self.count, change.path));
        }
    }

    /// Gives every file to the commit that adds it.
    fn settle(&self, parts: &mut [Part<'_>]) {
        for (path, &index) in &self.added {
            parts[index].own.insert(path.clone());
        }
        for (index, path) in &self.folded {
            if let Some(&by) = self.added.get(path) {
                eprintln!(
                    "tern-series: {path}: the change by \"{}\" goes into the plain file, which \
                     comes in with \"{}\"",
                    parts[*index].step.patch.subject, parts[by].step.patch.subject
                );
            }
        }
    }
}

/// Finds each commit's entry: by subject, else by the files it changes, for a new subject.
fn match_entries(old: &Old, parts: &[Part<'_>]) -> Result<Vec<Option<usize>>> {
    let entries = &old.series.entries;
    let mut subjects = BTreeSet::new();
    let mut matched = Vec::new();
    for part in parts {
        let subject = &part.step.patch.subject;
        ensure!(
            subjects.insert(subject),
            "two commits have the subject \"{subject}\"; subjects tell commits apart, so reword \
             one of them"
        );
        matched.push(entries.iter().position(|e| e.patch.subject == *subject));
    }
    let mut free: BTreeSet<_> = (0..entries.len()).collect();
    for index in matched.iter().flatten() {
        free.remove(index);
    }
    for (part, found) in parts.iter().zip(&mut matched) {
        if found.is_some() {
            continue;
        }
        let paths: BTreeSet<_> = part.paths().collect();
        let alike = free.iter().copied().find(|&index| {
            let entry = &entries[index];
            let own = entry.touched.iter().chain(entry.files.keys());
            own.map(String::as_str).collect::<BTreeSet<_>>() == paths
        });
        if let Some(index) = alike {
            free.remove(&index);
            *found = Some(index);
            let (path, subject) = (&entries[index].path, &part.step.patch.subject);
            eprintln!("tern-series: {path} has the new subject \"{subject}\"");
        }
    }
    Ok(matched)
}

fn drop_rest(old: &Old, matched: &[Option<usize>]) {
    for (index, entry) in old.series.entries.iter().enumerate() {
        if !matched.contains(&Some(index)) {
            eprintln!(
                "tern-series: {} is dropped: the tree has no commit \"{}\"",
                entry.path, entry.patch.subject
            );
        }
    }
}

/// The item and patch file of an entry that stays; the file is rewritten only if the commit's
/// message or effect changed.
fn kept(work: &WorkTree, old: &Old, index: usize, part: &Part<'_>) -> Result<(Item, Blob)> {
    let entry = &old.series.entries[index];
    let item = old.series.manifest.items[index].clone();
    let step = &old.steps[index];
    let mut before = work.git.changes(&step.before, &step.after)?;
    before.retain(|change| entry.touched.contains(&change.path));
    let patch = Patch {
        head: entry.patch.head.clone(),
        ..part.step.patch.clone()
    };
    let same_message = patch.message().trim_end() == entry.patch.message().trim_end();
    let blob = if same_message && before == part.existing {
        let blob = old.source.0.get(&entry.path);
        blob.context("the patch file is lost")?.clone()
    } else {
        part.write_as(&work.git, patch)?
    };
    Ok((item, blob))
}

/// Brings the listings in line with who adds which file, and keeps as much of them as is true.
fn list(manifest: &mut Manifest, files: &BTreeMap<String, Blob>, parts: &[Part<'_>]) -> Result<()> {
    let owns = |index: usize, path: &str| parts[index].own.contains(path);
    for (index, item) in manifest.items.iter_mut().enumerate() {
        item.lines.retain(|line| match line {
            Line::File(path) => owns(index, path),
            Line::Dir(dir) => {
                let prefix = format!("{dir}/");
                parts[index]
                    .own
                    .iter()
                    .any(|path| path.starts_with(&prefix))
            }
            Line::Note(_) => true,
        });
    }
    let owners = manifest.owners(files.keys().map(String::as_str))?;
    for (index, part) in parts.iter().enumerate() {
        for path in &part.own {
            if owners.get(path) != Some(&index) {
                manifest.items[index].lines.push(Line::File(path.clone()));
            }
        }
    }
    Ok(())
}

/// The files must give what the person sees, to the last byte.
fn prove(git: &Git, commit: &str, edited: &str) -> Result<()> {
    let lost = git.changes(edited, commit)?;
    let paths: Vec<_> = lost.iter().map(|change| change.path.as_str()).collect();
    ensure!(
        paths.is_empty(),
        "the series cannot express these changes, so nothing was written: {}",
        paths.join(", ")
    );
    Ok(())
}

/// Merges what changed from `was` to `new` into the repository.
fn write_back(work: &WorkTree, repo: &Path, was: &str, new: &str) -> Result<()> {
    let now = Source::from_repo(repo, &work.git)?.write(&work.git, &work.own_dir())?;
    let merged = match work.git.merge(was, &now, new)? {
        Merge::Clean(tree) => tree,
        Merge::Conflict { paths, .. } => bail!(
            "these files changed both in the repository and in the tree, at the same place: {}. \
             Nothing was written. Set the repository's change aside (git stash), refresh, then \
             bring it back",
            paths.join(", ")
        ),
    };
    let mut changes = work.git.changes(&now, &merged)?;
    // The manifest comes after what it lists, removals after the manifest.
    changes.sort_by_key(|change| (change.new.is_none(), change.path == MANIFEST));
    for change in changes {
        let path = repo.join(&change.path);
        match change.new {
            Some(blob) => {
                write_file(&path, &work.git.cat(&blob.object)?)?;
                set_executable(&path, blob.mode == "100755")?;
                eprintln!("tern-series: wrote {}", change.path);
            }
            None => {
                fs::remove_file(&path)
                    .with_context(|| format!("{} cannot be removed", shown(&path)))?;
                eprintln!("tern-series: removed {}", change.path);
            }
        }
    }
    Ok(())
}

fn set_executable(path: &Path, executable: bool) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let mut mode = fs::metadata(path)?.permissions();
    let bits = mode.mode();
    mode.set_mode(if executable {
        bits | ((bits & 0o444) >> 2)
    } else {
        bits & !0o111
    });
    fs::set_permissions(path, mode).with_context(|| format!("{}: no mode", shown(path)))
}

/// Puts the edits into the index, which then is what the new commit holds.
fn stage(work: &WorkTree, paths: &BTreeSet<String>) -> Result<()> {
    fold::add(&work.git, paths.iter().map(String::as_str))
}
