// SPDX-License-Identifier: MIT OR Apache-2.0

//! `apply`: the series on somebody's own kernel tree, all of it or nothing.
//!
//! Every entry is a pair of small git trees, which hold just the files that it changes, before
//! and after. What leads from one to the other is merged into the kernel as it is, three-way,
//! in the object database; files are written when all of it has worked out.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{bail, ensure, Context, Result};

use crate::commits::{self, Changes, Identity};
use crate::git::{Blob, Git, Merge};
use crate::series::{Series, Source};
use crate::tree::Places;
use crate::worktree::write_file;
use tern_paths::shown;

/// Applies the series to the kernel in `kernel`: as commits where that is a git tree, else as
/// changes to its files.
pub fn apply(places: &Places, kernel: &Path) -> Result<()> {
    ensure!(
        kernel.join("Kbuild").is_file() && kernel.join("Makefile").is_file(),
        "{} is not the top of a kernel tree, which has a Kbuild and a Makefile",
        shown(kernel)
    );
    let kernel = kernel.canonicalize()?;
    let base = places.base()?;
    let scratch = Scratch::new(&base.git_dir)?;
    let source = Source::from_repo(&places.repo, &scratch.git)?;
    let series = source.series(&scratch.git)?;
    let steps = commits::steps(&scratch.git, scratch.dir.path(), &base.commit, &series)?;
    let stages = Stages::new(&scratch, &base.commit, &steps)?;
    if kernel.join(".git").exists() {
        to_git(&scratch, &series, &stages, &kernel)
    } else {
        to_files(&scratch, &series, &stages, &kernel)
    }
}

/// A throwaway repository that sees the pristine kernel.
struct Scratch {
    dir: tempfile::TempDir,
    git: Git,
}

impl Scratch {
    fn new(base: &Path) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let git_dir = dir.path().join("git");
        let git = Git::bare(&git_dir);
        fs::create_dir(&git_dir)?;
        git.run(&["init", "--quiet", "--bare"])?;
        let objects = std::path::absolute(base.join("objects"))?;
        let alternates = git_dir.join("objects/info/alternates");
        fs::write(alternates, format!("{}\n", objects.display()))?;
        Ok(Self { dir, git })
    }
}

/// The trees before the first and after each entry, of all files that the series changes.
struct Stages {
    paths: BTreeSet<String>,
    trees: Vec<String>,
    objects: BTreeSet<String>,
}

impl Stages {
    fn new(scratch: &Scratch, base: &str, steps: &[Changes]) -> Result<Self> {
        let paths: BTreeSet<String> = steps.iter().flat_map(BTreeMap::keys).cloned().collect();
        ensure!(!paths.is_empty(), "the series has no entry");
        let list: Vec<_> = paths.iter().cloned().collect();
        let mut now: BTreeMap<_, _> = scratch.git.files(base, &list)?.into_iter().collect();
        let mut stages = Self {
            paths,
            trees: Vec::new(),
            objects: BTreeSet::new(),
        };
        stages.add(scratch, &now)?;
        for step in steps {
            for (path, blob) in step {
                match blob {
                    Some(blob) => now.insert(path.clone(), blob.clone()),
                    None => now.remove(path),
                };
            }
            stages.add(scratch, &now)?;
        }
        Ok(stages)
    }

    fn add(&mut self, scratch: &Scratch, files: &BTreeMap<String, Blob>) -> Result<()> {
        let named = files.iter().map(|(path, blob)| (path.as_str(), blob));
        let tree = scratch.git.tree_of(scratch.dir.path(), named)?;
        let out = scratch
            .git
            .text(&["ls-tree", "-r", "-t", "--format=%(objectname)", &tree])?;
        self.objects.extend(out.lines().map(str::to_owned));
        self.objects.insert(tree.clone());
        self.trees.push(tree);
        Ok(())
    }

    /// Copies all that the merges need, so that nothing in `to` depends on another repository.
    fn copy(&self, scratch: &Scratch, to: &Git) -> Result<()> {
        let list: String = self.objects.iter().flat_map(|id| [id, "\n"]).collect();
        let pack = scratch
            .git
            .feed(&["pack-objects", "--stdout", "--quiet"], list.as_bytes())?;
        to.feed(&["unpack-objects", "-q"], &pack).map(drop)
    }
}

fn to_git(scratch: &Scratch, series: &Series, stages: &Stages, kernel: &Path) -> Result<()> {
    let git = Git::user(kernel);
    let head = git
        .resolve("HEAD^{commit}")?
        .with_context(|| format!("{} has no commit", shown(kernel)))?;
    let top = git.text(&["rev-parse", "--show-toplevel"])?;
    ensure!(
        Path::new(&top) == kernel,
        "{} is not the top of its git tree",
        shown(kernel)
    );
    stages.copy(scratch, &git)?;
    let who = committer(&git)?;

    let mut tree = git.text(&["rev-parse", "HEAD^{tree}"])?;
    let mut commit = head.clone();
    let present = present(&git, &tree, stages)?;
    let steps = series.entries.iter().zip(stages.trees.windows(2));
    for (entry, pair) in steps.skip(present) {
        let merged = match git.merge(&pair[0], &tree, &pair[1])? {
            Merge::Clean(merged) => merged,
            Merge::Conflict { tree, paths } => bail!(
                "{} (\"{}\") does not apply to {}; nothing was changed.\n{}",
                entry.path,
                entry.patch.subject,
                shown(kernel),
                conflicts(&git, &tree, &paths)?
            ),
        };
        if merged == tree {
            eprintln!("tern-series: \"{}\" is there already", entry.patch.subject);
            continue;
        }
        let args = ["commit-tree", "-p", &commit, &merged];
        let out = who.feed(&args, entry.patch.message().as_bytes())?;
        commit = String::from_utf8(out)?.trim().to_owned();
        tree = merged;
    }
    if present > 0 && commit != head {
        eprintln!("tern-series: {present} of the entries were there already");
    }
    if commit == head {
        eprintln!("tern-series: {} has the whole series", shown(kernel));
        return Ok(());
    }
    git.output(&["update-index", "-q", "--refresh"], None)?;
    for test in [&["-n"][..], &[]] {
        let args = [&["read-tree", "-m", "-u"], test, &[&head, &commit]].concat();
        git.run(&args)
            .with_context(|| format!("{} has changes of its own in the way", shown(kernel)))?;
    }
    git.run(&[
        "update-ref",
        "-m",
        "tern-series apply",
        "HEAD",
        &commit,
        &head,
    ])?;
    eprintln!("tern-series: {} is at {commit}", shown(kernel));
    Ok(())
}

/// How many entries, from the first on, the kernel has already. Each is seen together with those
/// before it, since it may change what they brought.
fn present(git: &Git, tree: &str, stages: &Stages) -> Result<usize> {
    let trees = &stages.trees;
    for count in (1..trees.len()).rev() {
        let merged = git.merge(&trees[0], tree, &trees[count])?;
        if matches!(merged, Merge::Clean(merged) if merged == tree) {
            return Ok(count);
        }
    }
    Ok(0)
}

/// The person's identity, or the series' own where git knows none.
fn committer(git: &Git) -> Result<Git> {
    let args = [
        "-c",
        "user.useConfigOnly=true",
        "var",
        "GIT_COMMITTER_IDENT",
    ];
    if git.output(&args, None)?.status.success() {
        return Ok(git.clone());
    }
    let who = Identity::fixed().who;
    let (name, mail) = who
        .trim_end_matches('>')
        .split_once(" <")
        .unwrap_or((&who, ""));
    Ok(["AUTHOR", "COMMITTER"]
        .iter()
        .fold(git.clone(), |git, role| {
            git.env(format!("GIT_{role}_NAME"), name)
                .env(format!("GIT_{role}_EMAIL"), mail)
        }))
}

/// Without history there is nothing to commit to, so the series goes in as one change.
fn to_files(scratch: &Scratch, series: &Series, stages: &Stages, kernel: &Path) -> Result<()> {
    let git = &scratch.git;
    let (present, ours) = snapshot(scratch, stages, kernel)?;
    let (Some(first), Some(last)) = (stages.trees.first(), stages.trees.last()) else {
        bail!("the series has no entry");
    };
    let merged = match git.merge(first, &ours, last)? {
        Merge::Clean(merged) => merged,
        Merge::Conflict { tree, paths } => bail!(
            "the series does not apply to {}; nothing was changed.\n{}{}",
            shown(kernel),
            conflicts(git, &tree, &paths)?,
            blame(series, &paths)
        ),
    };
    let changes = git.changes(&ours, &merged)?;
    if changes.is_empty() {
        eprintln!("tern-series: {} has the whole series", shown(kernel));
        return Ok(());
    }
    for change in &changes {
        let path = kernel.join(&change.path);
        match &change.new {
            Some(blob) => {
                write_file(&path, &git.cat(&blob.object)?)?;
                if !present.contains(&change.path) && blob.mode == "100755" {
                    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
                }
            }
            None => fs::remove_file(&path)
                .with_context(|| format!("{} cannot be removed", shown(&path)))?,
        }
    }
    eprintln!(
        "tern-series: {} files changed in {}",
        changes.len(),
        shown(kernel)
    );
    Ok(())
}

/// The kernel's own versions of the files that the series changes, as a tree.
fn snapshot(
    scratch: &Scratch,
    stages: &Stages,
    kernel: &Path,
) -> Result<(BTreeSet<String>, String)> {
    let mut present = stages.paths.clone();
    present.retain(|path| kernel.join(path).exists());
    let files: Vec<_> = present.iter().map(|path| kernel.join(path)).collect();
    let mut blobs = Vec::new();
    for (file, object) in files.iter().zip(scratch.git.blobs_of_files(&files, true)?) {
        let executable = fs::metadata(file)?.permissions().mode() & 0o111 != 0;
        blobs.push(Blob::new(
            if executable { "100755" } else { "100644" },
            &object,
        ));
    }
    let named = present.iter().map(String::as_str).zip(&blobs);
    let tree = scratch.git.tree_of(scratch.dir.path(), named)?;
    Ok((present, tree))
}

/// File, line and text of each place where the kernel and the series disagree.
fn conflicts(git: &Git, tree: &str, paths: &[String]) -> Result<String> {
    let mut text = String::new();
    for path in paths {
        let contents = match git.resolve(&format!("{tree}:{path}"))? {
            Some(blob) => String::from_utf8_lossy(&git.cat(&blob)?).into_owned(),
            None => String::new(),
        };
        let mut inside = false;
        let mut hunks = 0;
        for (number, line) in (1..).zip(contents.lines()) {
            if line.starts_with("<<<<<<< ") {
                inside = true;
                hunks += 1;
                text.push_str(&format!("{path}, hunk at line {number}:\n"));
            }
            if inside {
                text.push_str(&format!("  {line}\n"));
            }
            inside &= !line.starts_with(">>>>>>> ");
        }
        if hunks == 0 {
            text.push_str(&format!(
                "{path}: removed on one side, changed on the other\n"
            ));
        }
    }
    Ok(text)
}

/// The entries that change the files in conflict.
fn blame(series: &Series, paths: &[String]) -> String {
    let mut text = String::new();
    for path in paths {
        for entry in &series.entries {
            if entry.touched.contains(path) || entry.files.contains_key(path) {
                text.push_str(&format!("{path} is changed by {}\n", entry.path));
            }
        }
    }
    text
}
