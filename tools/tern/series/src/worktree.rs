// SPDX-License-Identifier: MIT OR Apache-2.0

//! A git work tree of the kernel that follows the series.

use std::collections::BTreeSet;
use std::fs;
use std::io::{ErrorKind, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{bail, ensure, Context, Result};

use crate::base::Base;
use crate::git::{Blob, Change, Git};
use crate::lock::Lock;
use crate::progress::Step;
use tern_paths::shown;

/// The commit that this program put the tree on last.
const LAST: &str = "refs/tern/last";
/// The repository's files of which that commit was made, as a git tree.
const SOURCE: &str = "refs/tern/source";
/// The pristine kernel below that commit.
const BASE: &str = "refs/tern/base";

/// A work tree, locked against other runs of this program.
///
/// `.git/tern` marks the tree as this program's own and holds what outlives a killed run:
/// `pending`, the state that the tree is on its way to.
#[derive(Debug)]
pub struct WorkTree {
    /// Its top directory.
    pub dir: PathBuf,
    /// Git on this tree.
    pub git: Git,
    _lock: Lock,
}

/// What the tree is made from and stands on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// The commit of the last entry.
    pub commit: String,
    /// The repository's files, as a git tree.
    pub source: String,
    /// The pristine kernel's commit.
    pub base: String,
}

impl WorkTree {
    /// Opens the tree in `dir`, or begins one; a run that was cut short is brought to its end.
    pub fn open(dir: &Path, base: &Base) -> Result<Self> {
        let tree = Self::lock(dir)?;
        if !tree.own_dir().is_dir() {
            let mut present = match fs::read_dir(dir) {
                Err(error) if error.kind() == ErrorKind::NotFound => None,
                entries => Some(entries?),
            };
            ensure!(
                present
                    .as_mut()
                    .is_none_or(|entries| entries.next().is_none()),
                "{} is in use, and not as a tree of this series; name another with --tree",
                shown(dir)
            );
            fs::create_dir_all(tree.own_dir())
                .with_context(|| format!("{} cannot be created", shown(dir)))?;
        }
        if !dir.join(".git/HEAD").is_file() {
            tree.git
                .run(&["init", "--quiet", "--initial-branch=tern"])?;
        }
        tree.clear_leftovers()?;
        tree.borrow_objects(base)?;
        tree.resume()?;
        Ok(tree)
    }

    /// Opens a tree that must exist.
    pub fn existing(dir: &Path, base: &Base) -> Result<Self> {
        ensure!(
            dir.join(".git/tern").is_dir(),
            "there is no tree of this series in {}; make it with `tern-series tree`",
            shown(dir)
        );
        Self::open(dir, base)
    }

    fn lock(dir: &Path) -> Result<Self> {
        let lock = Lock::take(dir)?;
        // Git reads the variables that name the tree relative to its own directory.
        let dir = std::path::absolute(dir)?;
        Ok(Self {
            git: Git::work_tree(&dir).holding(lock.file()),
            dir,
            _lock: lock,
        })
    }

    /// The program's own directory in the tree's `.git`, on the same file system.
    pub fn own_dir(&self) -> PathBuf {
        self.dir.join(".git/tern")
    }

    fn borrow_objects(&self, base: &Base) -> Result<()> {
        let objects = std::path::absolute(base.git_dir.join("objects"))?;
        let objects = objects
            .to_str()
            .context("the path of the base is not UTF-8")?;
        let alternates = self.dir.join(".git/objects/info/alternates");
        let known = fs::read_to_string(&alternates).unwrap_or_default();
        // The tree may still stand on a kernel that is in another base repository.
        let others = known.lines().filter(|line| *line != objects);
        let others = others.filter(|line| Path::new(line).is_dir());
        let lines: String = std::iter::once(objects)
            .chain(others)
            .flat_map(|line| [line, "\n"])
            .collect();
        if known != lines {
            write_file(&alternates, lines.as_bytes())?;
        }
        if let Some(state) = self.state()? {
            ensure!(
                self.git
                    .resolve(&format!("{}^{{tree}}", state.base))?
                    .is_some(),
                "{} stands on a kernel whose base repository is gone; save what you need from \
                 it, then delete it",
                shown(&self.dir)
            );
        }
        Ok(())
    }

    /// Removes the temporary directories of a killed run.
    fn clear_leftovers(&self) -> Result<()> {
        for entry in fs::read_dir(self.own_dir())? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                fs::remove_dir_all(entry.path())?;
            }
        }
        Ok(())
    }

    /// The commit that is checked out; `None` in a tree that was never filled.
    pub fn head(&self) -> Result<Option<String>> {
        self.git.resolve("HEAD^{commit}")
    }

    /// The state that this program left the tree in last.
    pub fn state(&self) -> Result<Option<State>> {
        let format = "--format=%(refname) %(objectname)";
        let out = self.git.text(&["for-each-ref", format, "refs/tern/"])?;
        let find = |name: &str| {
            let mut refs = out.lines().filter_map(|line| line.split_once(' '));
            refs.find(|(found, _)| *found == name)
                .map(|(_, object)| object.to_owned())
        };
        Ok(match (find(LAST), find(SOURCE), find(BASE)) {
            (Some(commit), Some(source), Some(base)) => Some(State {
                commit,
                source,
                base,
            }),
            _ => None,
        })
    }

    /// Whether the tree holds only the first part of the series.
    pub fn partial(&self) -> bool {
        self.own_dir().join("partial").exists()
    }

    /// Notes whether the tree holds only the first part of the series.
    pub fn set_partial(&self, partial: bool) -> Result<()> {
        let mark = self.own_dir().join("partial");
        match partial {
            true => fs::write(mark, "")?,
            false if mark.exists() => fs::remove_file(mark)?,
            false => (),
        }
        Ok(())
    }

    /// Refuses to work on a tree in which git is in the middle of something.
    pub fn refuse_unfinished(&self) -> Result<()> {
        for (file, what) in [
            ("rebase-merge", "a rebase"),
            ("rebase-apply", "a rebase or `git am`"),
            ("MERGE_HEAD", "a merge"),
            ("CHERRY_PICK_HEAD", "a cherry-pick"),
            ("REVERT_HEAD", "a revert"),
        ] {
            ensure!(
                !self.dir.join(".git").join(file).exists(),
                "{what} is under way in {}; finish or abort it first",
                shown(&self.dir)
            );
        }
        Ok(())
    }

    /// Tracked files that differ from the checked-out commit, in the index or on disk.
    pub fn edited(&self) -> Result<BTreeSet<String>> {
        self.refresh_index()?;
        let mut paths = BTreeSet::new();
        for args in [
            &["diff-files", "--name-only", "-z"][..],
            &["diff-index", "--cached", "--name-only", "-z", "HEAD"],
        ] {
            let out = String::from_utf8(self.git.bytes(args)?).context("a path is not UTF-8")?;
            paths.extend(out.split_terminator('\0').map(str::to_owned));
        }
        Ok(paths)
    }

    fn refresh_index(&self) -> Result<()> {
        // The status only tells whether files differ; the next command finds out which.
        let output = self
            .git
            .output(&["update-index", "-q", "--refresh"], None)?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(!said.contains("fatal:"), "{}", said.trim());
        Ok(())
    }

    /// Keeps the checked-out commits and all edits under a new branch, whose name is returned.
    /// The tree stays as it is.
    pub fn keep(&self) -> Result<String> {
        let index = self.own_dir().join("keep-index");
        let real = self.dir.join(".git/index");
        if real.exists() {
            fs::copy(&real, &index).context("the index cannot be copied")?;
        }
        let git = self.git.index(&index);
        let step = Step::new("keeping the tree's state", 0);
        git.run(&["add", "--all", "--", "."])?;
        let tree = git.text(&["write-tree"])?;
        fs::remove_file(&index)?;
        let commit = match self.head()? {
            Some(head) if self.git.resolve("HEAD^{tree}")?.as_ref() == Some(&tree) => head,
            head => {
                let mut args = vec!["commit-tree", "-m", "Edits that were not committed", &tree];
                if let Some(head) = &head {
                    args.extend(["-p", head]);
                }
                let who = |git: Git, role: &str| {
                    git.env(format!("GIT_{role}_NAME"), "Tern")
                        .env(format!("GIT_{role}_EMAIL"), "tern@localhost")
                };
                who(who(self.git.clone(), "AUTHOR"), "COMMITTER").text(&args)?
            }
        };
        let branch = self.free_branch()?;
        self.git.run(&["branch", "--no-track", &branch, &commit])?;
        step.done();
        Ok(branch)
    }

    fn free_branch(&self) -> Result<String> {
        for number in 1..10_000 {
            let name = format!("kept-{number}");
            if self.git.resolve(&format!("refs/heads/{name}"))?.is_none() {
                return Ok(name);
            }
        }
        bail!("there are too many kept-N branches; delete some")
    }

    /// Moves work tree, index and branch to `to`. Only files that differ are written.
    ///
    /// Without `discard`, git refuses to overwrite anything that it does not know, and nothing
    /// changes.
    pub fn move_to(&self, to: &State, discard: bool) -> Result<()> {
        let head = self.head()?;
        let text = format!("{}\n{}\n{}\n", to.commit, to.source, to.base);
        let pending = self.own_dir().join("pending");
        let moved = match &head {
            Some(head) if !discard => {
                let args = ["read-tree", "-m", "-u", head, &to.commit];
                // Known to work before the first file is written.
                self.git
                    .run(&["read-tree", "-m", "-u", "-n", head, &to.commit])
                    .and_then(|()| write_file(&pending, text.as_bytes()))
                    .and_then(|()| self.git.run(&args))
            }
            _ => {
                write_file(&pending, text.as_bytes())?;
                self.overwrite(&to.commit, head.is_none())
            }
        };
        moved.with_context(|| format!("{} cannot be moved", shown(&self.dir)))?;
        self.record(to)?;
        fs::remove_file(pending)?;
        Ok(())
    }

    fn overwrite(&self, commit: &str, first: bool) -> Result<()> {
        let args = [
            "-c",
            "checkout.workers=0",
            "read-tree",
            "--reset",
            "-u",
            commit,
        ];
        if !first {
            return self.git.run(&args);
        }
        let step = Step::new(format!("checkout of {}", shown(&self.dir)), 0);
        let mut command = self.git.command(&args);
        if std::io::stderr().is_terminal() {
            command.arg("-v");
        }
        let output = command.stderr(Stdio::inherit()).output()?;
        ensure!(output.status.success(), "git read-tree failed");
        step.done();
        Ok(())
    }

    /// Sets the branch and the references of this program, all at once.
    pub fn record(&self, state: &State) -> Result<()> {
        let input = format!(
            "start\nupdate HEAD {}\nupdate {LAST} {}\nupdate {SOURCE} {}\nupdate {BASE} {}\ncommit\n",
            state.commit, state.commit, state.source, state.base
        );
        let args = [
            "update-ref",
            "--create-reflog",
            "-m",
            "tern-series",
            "--stdin",
        ];
        self.git
            .clone()
            .env("GIT_COMMITTER_NAME", "Tern")
            .env("GIT_COMMITTER_EMAIL", "tern@localhost")
            .feed(&args, input.as_bytes())
            .map(drop)
    }

    /// Ends a move that was cut short. The tree had no edits when it began.
    fn resume(&self) -> Result<()> {
        let pending = self.own_dir().join("pending");
        let text = match fs::read_to_string(&pending) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            text => text?,
        };
        let mut lines = text.lines().map(str::to_owned);
        let (Some(commit), Some(source), Some(base)) = (lines.next(), lines.next(), lines.next())
        else {
            bail!(
                "{} is damaged; delete {}",
                shown(&pending),
                shown(&self.dir)
            );
        };
        let to = State {
            commit,
            source,
            base,
        };
        eprintln!("tern-series: the last run was cut short; going on from there");
        // The lock is ours, so the git that had the index locked is gone.
        let _ = fs::remove_file(self.dir.join(".git/index.lock"));
        if let Some(head) = self.head()? {
            if self.has_foreign(&head, &to.commit)? {
                let branch = self.keep()?;
                eprintln!("tern-series: edits made since then are kept in branch {branch}");
            }
        }
        self.move_to(&to, true)
    }

    /// Whether a file that the move writes holds something that the move cannot have left.
    fn has_foreign(&self, from: &str, to: &str) -> Result<bool> {
        for change in self.git.changes(from, to)? {
            if self.is_foreign(&change)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn is_foreign(&self, change: &Change) -> Result<bool> {
        let Ok(found) = fs::read(self.dir.join(&change.path)) else {
            return Ok(false);
        };
        let contents = |blob: &Option<Blob>| match blob {
            Some(blob) => self.git.cat(&blob.object),
            None => Ok(Vec::new()),
        };
        // A file that git was writing when it was killed is a first part of the new one.
        Ok(found != contents(&change.old)? && !contents(&change.new)?.starts_with(&found))
    }
}

/// Writes a file so that it is there as a whole or not at all.
pub fn write_file(path: &Path, bytes: &[u8]) -> Result<()> {
    let dir = path.parent().context("a file needs a directory")?;
    let write = || -> Result<()> {
        fs::create_dir_all(dir)?;
        let mut file = tempfile::NamedTempFile::new_in(dir)?;
        file.write_all(bytes)?;
        let mode = fs::metadata(path).map(|meta| meta.permissions());
        let mode = mode.unwrap_or_else(|_| default_mode());
        file.as_file().set_permissions(mode)?;
        file.persist(path)?;
        Ok(())
    };
    write().with_context(|| format!("{} cannot be written", shown(path)))
}

fn default_mode() -> fs::Permissions {
    std::os::unix::fs::PermissionsExt::from_mode(0o644)
}
