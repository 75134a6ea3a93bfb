// SPDX-License-Identifier: MIT OR Apache-2.0

//! The tree's commits as a list of steps, with fixups and uncommitted edits folded in.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{bail, ensure, Context, Result};

use crate::git::{Git, Merge};
use crate::patch::Patch;
use crate::series::Series;
use crate::worktree::WorkTree;

/// Subject of the step that stands for edits of plain files.
pub const EDITS: &str = "edits that were not committed";

/// What a commit does: its message, and the trees (or commits) before and after it.
#[derive(Clone, Debug)]
pub struct Step {
    /// Message; without a diff.
    pub patch: Patch,
    /// Tree-ish before.
    pub before: String,
    /// Tree-ish after.
    pub after: String,
}

/// The commits from `base` (excluded) to `head`, oldest first.
pub fn commits(git: &Git, base: &str, head: &str) -> Result<Vec<Step>> {
    ensure!(
        git.ask(&["merge-base", "--is-ancestor", base, head])?,
        "the tree's commits do not stand on the pinned kernel"
    );
    let range = format!("{base}..{head}");
    let args = ["log", "-z", "--reverse", "--topo-order", "--no-color"];
    let format = "--format=%H%n%P%n%B";
    let out = git.bytes(&[&args[..], &["--encoding=UTF-8", format, &range]].concat())?;
    let out = String::from_utf8(out).context("a commit message is not UTF-8")?;
    let mut steps: Vec<Step> = Vec::new();
    for record in out.split('\0').filter(|record| !record.is_empty()) {
        let mut fields = record.splitn(3, '\n');
        let mut next = || fields.next().unwrap_or_default().to_owned();
        let (commit, parents, message) = (next(), next(), next());
        let patch = Patch::from_message(&message);
        let expected = steps.last().map_or(base, |step| &step.after);
        ensure!(
            parents == expected,
            "the tree's commits are not one line (at \"{}\"); rebase instead of merging",
            patch.subject
        );
        steps.push(Step {
            patch,
            before: parents,
            after: commit,
        });
    }
    Ok(steps)
}

/// Whether `path` is a file of `tree`.
pub fn exists_in(git: &Git, tree: &str, path: &str) -> Result<bool> {
    let found = git.resolve_all(&[format!("{tree}:{path}")])?;
    Ok(found.iter().all(Option::is_some))
}

/// Appends the edits `paths` as fixups of the commits that they belong to, and returns the tree
/// with all of them.
pub fn with_edits(
    work: &WorkTree,
    steps: &mut Vec<Step>,
    head: &str,
    series: &Series,
    paths: &BTreeSet<String>,
) -> Result<String> {
    if paths.is_empty() {
        return Ok(head.to_owned());
    }
    let targets = assign(&work.git, steps, head, series, paths)?;
    let scratch = tempfile::tempdir_in(work.own_dir())?;
    let git = work.git.index(&scratch.path().join("index"));
    git.run(&["read-tree", head])?;
    let mut before = head.to_owned();
    for (target, paths) in targets {
        add(&git, paths.iter().copied())?;
        let after = git.text(&["write-tree"])?;
        let subject = match target {
            Some(subject) => format!("fixup! {subject}"),
            None => EDITS.to_owned(),
        };
        if before != after {
            steps.push(Step {
                patch: Patch::from_message(&subject),
                before: before.clone(),
                after: after.clone(),
            });
        }
        before = after;
    }
    Ok(before)
}

/// Takes files as they are on disk into the index; those that are gone leave it.
pub fn add<'a>(git: &Git, paths: impl Iterator<Item = &'a str>) -> Result<()> {
    let input: String = paths.flat_map(|path| [path, "\0"]).collect();
    let args = ["update-index", "--add", "--remove", "-z", "--stdin"];
    git.feed(&args, input.as_bytes()).map(drop)
}

/// Tells for each edited file which commit the edit belongs to, by subject. Edits of plain
/// files belong to whoever adds the file, which is settled later (`None`).
fn assign<'a>(
    git: &Git,
    steps: &[Step],
    head: &str,
    series: &Series,
    paths: &'a BTreeSet<String>,
) -> Result<BTreeMap<Option<String>, Vec<&'a str>>> {
    let Some(first) = steps.first() else {
        bail!("edits cannot be taken in without a commit; commit them");
    };
    let base = &first.before;
    let touching = touching(git, base, steps)?;
    let owners = series.manifest.owners(paths.iter().map(String::as_str))?;
    let mut targets: BTreeMap<Option<String>, Vec<&str>> = BTreeMap::new();
    for path in paths {
        let by = touching.get(path).map_or(&[][..], Vec::as_slice);
        let target = if exists_in(git, base, path)? {
            Some(only(path, by)?)
        } else if exists_in(git, head, path)? {
            None
        } else {
            let owner = owners.get(path);
            let subject = owner.map(|&index| &series.entries[index].patch.subject);
            let known = subject.filter(|s| steps.iter().any(|step| step.patch.subject == **s));
            Some(known.cloned().with_context(|| {
                format!("{path} is new and no entry lists its directory; commit it")
            })?)
        };
        targets.entry(target).or_default().push(path);
    }
    Ok(targets)
}

/// The subjects of the commits that change each file.
fn touching(git: &Git, base: &str, steps: &[Step]) -> Result<BTreeMap<String, Vec<String>>> {
    let mut touching: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for step in fold(git, base, steps.to_vec())? {
        for change in git.changes(&step.before, &step.after)? {
            let subjects = touching.entry(change.path).or_default();
            subjects.push(step.patch.subject.clone());
        }
    }
    Ok(touching)
}

/// The one commit that an edit of an existing file can belong to.
fn only(path: &str, by: &[String]) -> Result<String> {
    match by {
        [one] => Ok(one.clone()),
        [] => bail!(
            "{path} has edits that are not committed, and no entry changes it; commit them with \
             a message of their own, or as --fixup of an entry"
        ),
        many => bail!(
            "{path} has edits that are not committed, and more than one entry changes it: \
             \"{}\". Say which by `git commit --fixup`, then refresh",
            many.join("\", \"")
        ),
    }
}

/// Folds `fixup!`, `squash!` and `amend!` commits into the commits that they name.
pub fn fold(git: &Git, base: &str, steps: Vec<Step>) -> Result<Vec<Step>> {
    let mut groups: Vec<Vec<Step>> = Vec::new();
    for step in steps {
        let Some(target) = fixes(&step.patch.subject) else {
            groups.push(vec![step]);
            continue;
        };
        let group = groups.iter_mut().rev();
        let mut group = group.filter(|group| group[0].patch.subject == target);
        match group.next() {
            Some(group) => group.push(step),
            None => bail!(
                "\"{}\" has no commit \"{target}\" before it to go into",
                step.patch.subject
            ),
        }
    }
    let mut at = base.to_owned();
    let mut folded = Vec::new();
    for group in groups {
        folded.push(fold_group(git, &mut at, group)?);
    }
    Ok(folded)
}

/// The subject that a fixup is for; a fixup of a fixup is for the same.
fn fixes(subject: &str) -> Option<&str> {
    let strip = |subject| {
        ["fixup! ", "squash! ", "amend! "]
            .iter()
            .find_map(|mark| str::strip_prefix(subject, mark))
    };
    let mut target = strip(subject)?;
    while let Some(inner) = strip(target) {
        target = inner;
    }
    Some(target)
}

/// Makes one step of a commit and its fixups, on top of the tree-ish `at`.
fn fold_group(git: &Git, at: &mut String, group: Vec<Step>) -> Result<Step> {
    let before = at.clone();
    let mut patch = group[0].patch.clone();
    for step in &group {
        *at = match git.merge(&step.before, at, &step.after)? {
            Merge::Clean(tree) => tree,
            Merge::Conflict { paths, .. } => bail!(
                "\"{}\" cannot be folded by itself (conflict in {}); do it with `git rebase \
                 --interactive --autosquash`, then refresh",
                step.patch.subject,
                paths.join(", ")
            ),
        };
        let body = &step.patch.body;
        if step.patch.subject.starts_with("amend! ") {
            patch = Patch::from_message(body);
        } else if step.patch.subject.starts_with("squash! ") && !body.is_empty() {
            patch.body = format!("{}\n\n{body}", patch.body).trim().to_owned();
        }
    }
    Ok(Step {
        patch,
        before,
        after: at.clone(),
    })
}

#[cfg(test)]
mod tests {
    use super::fixes;

    #[test]
    fn fixups_name_their_target() {
        assert_eq!(fixes("fixup! a: b"), Some("a: b"));
        assert_eq!(fixes("fixup! squash! a: b"), Some("a: b"));
        assert_eq!(fixes("a: fixup! b"), None);
    }
}
