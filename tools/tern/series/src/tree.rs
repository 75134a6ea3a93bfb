// SPDX-License-Identifier: MIT OR Apache-2.0

//! `tree`: the work tree is brought to what the repository says.

use std::path::{Path, PathBuf};

use anyhow::{bail, Context, Result};

use crate::base::{self, Base};
use crate::commits::{self, Identity};
use crate::series::{Series, Source};
use crate::worktree::{State, WorkTree};
use tern_paths::shown;

/// Where everything is.
#[derive(Clone, Debug)]
pub struct Places {
    /// The repository.
    pub repo: PathBuf,
    /// The kernel's tarball, where it is known.
    pub base_tar: Option<PathBuf>,
    /// The bare repository of the pristine kernel.
    pub base_git: PathBuf,
    /// The work tree.
    pub tree: PathBuf,
}

impl Places {
    /// Finds or makes the pristine kernel.
    pub fn base(&self) -> Result<Base> {
        base::ensure(&self.base_git, self.base_tar.as_deref())
    }

    /// The directory for what is made from the repository.
    pub fn build(&self) -> PathBuf {
        self.repo.join("build")
    }
}

/// How to make the tree.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Keep what stands in the way under a branch, and go on.
    pub force: bool,
    /// Only the entries up to this number or patch file.
    pub upto: Option<String>,
}

/// Makes the tree, or moves it to the repository's state.
pub fn tree(places: &Places, options: &Options) -> Result<()> {
    let base = places.base()?;
    let tree = WorkTree::open(&places.tree, &base)?;
    update(&tree, &places.repo, &base, options)
}

/// As [`tree()`], on an open tree.
pub fn update(tree: &WorkTree, repo: &Path, base: &Base, options: &Options) -> Result<()> {
    let source = Source::from_repo(repo, &tree.git)?;
    let source_tree = source.write(&tree.git, &tree.own_dir())?;
    let (state, head) = (tree.state()?, tree.head()?);
    let place = shown(&tree.dir);
    let known = state
        .as_ref()
        .is_some_and(|state| state.source == source_tree && state.base == base.commit);
    if known && options.upto.is_none() && !tree.partial() && !options.force {
        if head == state.map(|state| state.commit) {
            eprintln!("tern-series: {place} is up to date");
        } else {
            eprintln!("tern-series: {place} has commits that the repository has not (`refresh`)");
        }
        return Ok(());
    }

    let mut series = source.series(&tree.git)?;
    if let Some(upto) = &options.upto {
        truncate(&mut series, upto)?;
    }
    let commits = make(tree, base, &series)?;
    let to = State {
        commit: commits.last().unwrap_or(&base.commit).clone(),
        source: source_tree,
        base: base.commit.clone(),
    };
    give_way(tree, options.force, state.as_ref(), head.as_deref(), &to)?;
    tree.set_partial(options.upto.is_some())?;
    let count = series.entries.len();
    eprintln!("tern-series: {place} has {count} commits on top of the kernel");
    Ok(())
}

/// Makes the commits of the series for the tree.
pub fn make(tree: &WorkTree, base: &Base, series: &Series) -> Result<Vec<String>> {
    let scratch = tree.own_dir();
    commits::build(
        &tree.git,
        &scratch,
        &base.commit,
        series,
        &Identity::fixed(),
    )
}

/// Moves the tree unless that would lose something.
fn give_way(
    tree: &WorkTree,
    force: bool,
    state: Option<&State>,
    head: Option<&str>,
    to: &State,
) -> Result<()> {
    let Some(head) = head else {
        return tree.move_to(to, true);
    };
    let place = shown(&tree.dir);
    let committed = head != to.commit && Some(head) != state.map(|state| state.commit.as_str());
    if head == to.commit && !force {
        return tree.record(to);
    }
    let edited = tree.edited()?;
    if !force {
        tree.refuse_unfinished()?;
        if committed {
            bail!(
                "{place} holds commits that the repository does not have. Take them in with \
                 `make refresh`, or keep them in a branch and go on with --force"
            );
        }
        if let Some(first) = edited.first() {
            bail!(
                "{place} holds edits that the repository does not have ({first}{}). Take them in \
                 with `make refresh`, or keep them in a branch and go on with --force",
                more(edited.len())
            );
        }
        return tree.move_to(to, false);
    }
    if committed || !edited.is_empty() || has_untracked(tree)? {
        let branch = tree.keep()?;
        eprintln!("tern-series: the old state of {place} is kept in its branch {branch}");
    }
    tree.move_to(to, true)
}

fn has_untracked(tree: &WorkTree) -> Result<bool> {
    let args = ["ls-files", "--others", "--exclude-standard", "-z"];
    Ok(!tree.git.bytes(&args)?.is_empty())
}

/// " and N more", for a list of which the first was named.
pub(crate) fn more(count: usize) -> String {
    match count {
        0 | 1 => String::new(),
        _ => format!(" and {} more", count - 1),
    }
}

fn truncate(series: &mut Series, upto: &str) -> Result<()> {
    let count = match upto.parse::<usize>() {
        Ok(number) => number,
        Err(_) => {
            let mut entries = series.entries.iter();
            let found = entries.position(|entry| entry.path == upto);
            found.with_context(|| format!("the series has no entry {upto}"))? + 1
        }
    };
    let total = series.entries.len();
    if count > total {
        bail!("the series has {total} entries, so there is none with the number {count}");
    }
    series.entries.truncate(count);
    Ok(())
}
