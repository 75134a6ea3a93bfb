// SPDX-License-Identifier: MIT OR Apache-2.0

//! `export`: the series as mails, checked by the kernel's own checkpatch.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{bail, ensure, Context, Result};

use crate::commits::{self, Identity};
use crate::git::Git;
use crate::lock::beside;
use crate::progress::Step;
use crate::series::Source;
use crate::tree::{self, Options, Places};
use crate::worktree::WorkTree;
use tern_paths::shown;

/// Where the cover letter's text comes from.
const COVER: &str = "Documentation/gpu/tern.rst";

/// What checkpatch finds but need not: type, and the reason.
const IGNORED: [(&str, &str); 1] = [
    // MAINTAINERS gets its entry once, in a commit of its own.
    (
        "FILE_PATH_CHANGES",
        "asked of every commit that adds a file",
    ),
];

/// Writes the mails to `build/series`; fails if checkpatch has anything to say.
pub fn export(places: &Places) -> Result<()> {
    let me = identity(&places.repo)?;
    let cover = Cover::read(&places.repo)?;
    let base = places.base()?;
    let work = WorkTree::open(&places.tree, &base)?;
    // checkpatch runs in the tree.
    tree::update(&work, &places.repo, &base, &Options::default())?;
    let source = Source::from_repo(&places.repo, &work.git)?;
    let series = source.series(&work.git)?;
    let commits = commits::build(&work.git, &work.own_dir(), &base.commit, &series, &me)?;
    let last = commits.last().context("the series has no entry")?;

    let out = places.build().join("series");
    let fresh = beside(&out, ".new");
    remove_dir(&fresh)?;
    fs::create_dir_all(&fresh)?;
    write_mails(&work, &me, &cover, &base.commit, last, &fresh)?;
    let mails = mails_in(&fresh)?;
    checkpatch(&work.dir, &mails)?;
    remove_dir(&out)?;
    fs::rename(&fresh, &out)?;
    eprintln!("tern-series: {} mails in {}", mails.len() + 1, shown(&out));
    Ok(())
}

/// Who runs this, by git's own rules, but without names that git makes up.
fn identity(repo: &Path) -> Result<Identity> {
    let args = ["-c", "user.useConfigOnly=true", "var", "GIT_AUTHOR_IDENT"];
    let line = Git::user(repo).text(&args).context(
        "the mails need an author: set `git config user.name` and `git config user.email`",
    )?;
    let who = line.rsplitn(3, ' ').nth(2).context("git var is odd")?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    Ok(Identity {
        who: who.to_owned(),
        when: format!("{now} +0000"),
    })
}

/// Subject and text of the cover letter.
struct Cover {
    subject: String,
    text: String,
}

impl Cover {
    fn read(repo: &Path) -> Result<Self> {
        let text = fs::read_to_string(repo.join(COVER))
            .with_context(|| format!("the cover letter's text, {COVER}, cannot be read"))?;
        Self::parse(&text).with_context(|| format!("{COVER} needs a title and a paragraph"))
    }

    /// The title and the first paragraph of a reStructuredText document.
    fn parse(rst: &str) -> Option<Self> {
        let blocks = rst.split("\n\n").map(str::trim).filter(|block| {
            !block.is_empty() && !block.starts_with("..") && !block.starts_with(':')
        });
        let mut title = None;
        for block in blocks {
            // A comment or field list may stand right above the title.
            let lines: Vec<_> = block
                .lines()
                .filter(|line| !line.starts_with("..") && !line.starts_with(':'))
                .collect();
            let is_title = lines.iter().any(|line| is_rule(line));
            if title.is_none() {
                title = lines
                    .iter()
                    .find(|line| is_title && !is_rule(line))
                    .copied();
            } else if !is_title && !block.starts_with(' ') {
                return Some(Self {
                    subject: title?.trim().to_owned(),
                    text: block.to_owned(),
                });
            }
        }
        None
    }
}

fn is_rule(line: &str) -> bool {
    let mut chars = line.trim_end().chars();
    let first = chars.next();
    line.len() > 2 && first.is_some_and(|c| "=-~*#".contains(c)) && chars.all(|c| Some(c) == first)
}

fn write_mails(
    work: &WorkTree,
    me: &Identity,
    cover: &Cover,
    base: &str,
    last: &str,
    out: &Path,
) -> Result<()> {
    let description = work.own_dir().join("cover");
    fs::write(
        &description,
        format!("{}\n\n{}\n", cover.subject, cover.text),
    )?;
    let (name, mail) = me
        .who
        .strip_suffix('>')
        .and_then(|who| who.split_once(" <"))
        .context("git's identity has no mail address")?;
    let range = format!("{base}..{last}");
    let description = format!("--description-file={}", description.display());
    let args = [
        "format-patch",
        "--quiet",
        "--cover-letter",
        "--cover-from-description=subject",
        &description,
        "--signoff",
        "--no-renames",
        "--output-directory",
        out.to_str()
            .context("the path of the repository is not UTF-8")?,
        &range,
    ];
    work.git
        .clone()
        .env("GIT_COMMITTER_NAME", name)
        .env("GIT_COMMITTER_EMAIL", mail)
        .run(&args)
}

/// The mails but for the cover letter, in order.
fn mails_in(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut mails = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if !path.ends_with("0000-cover-letter.patch") {
            mails.push(path);
        }
    }
    mails.sort();
    Ok(mails)
}

fn checkpatch(tree: &Path, mails: &[PathBuf]) -> Result<()> {
    let script = tree.join("scripts/checkpatch.pl");
    ensure!(script.is_file(), "the kernel has no scripts/checkpatch.pl");
    let ignored: Vec<_> = IGNORED.iter().map(|(kind, _)| *kind).collect();
    let mut step = Step::new("checkpatch", mails.len() as u64);
    let mut said = String::new();
    for (done, mail) in (1..).zip(mails) {
        let output = Command::new("perl")
            .arg(&script)
            .args(["--strict", "--show-types", "--no-summary", "--color=never"])
            .arg(format!("--ignore={}", ignored.join(",")))
            .arg(mail)
            .current_dir(tree)
            .output()
            .context("perl cannot be run; install it")?;
        if !output.status.success() {
            let name = mail.file_name().unwrap_or_default().to_string_lossy();
            let (out, err) = (&output.stdout, &output.stderr);
            said.push_str(&format!(
                "\n{name}:\n{}{}",
                String::from_utf8_lossy(out),
                String::from_utf8_lossy(err)
            ));
        }
        step.at(done);
    }
    if !said.is_empty() {
        bail!("checkpatch objects:\n{said}");
    }
    step.done();
    Ok(())
}

fn remove_dir(dir: &Path) -> Result<()> {
    if dir.exists() {
        fs::remove_dir_all(dir).with_context(|| format!("{} cannot go", shown(dir)))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::Cover;

    #[test]
    fn title_and_first_paragraph() {
        let rst = ".. SPDX-License-Identifier: GPL-2.0\n\n=====\nTitle\n=====\n\n:Author: x\n\n\
                   .. contents::\n\nFirst line\nsecond line.\n\nMore.\n";
        let cover = Cover::parse(rst).unwrap();
        assert_eq!(cover.subject, "Title");
        assert_eq!(cover.text, "First line\nsecond line.");
        assert!(Cover::parse("text only\n").is_none());
        assert!(Cover::parse("Title\n=====\n").is_none());
    }
}
