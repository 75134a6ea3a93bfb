// SPDX-License-Identifier: MIT OR Apache-2.0

//! A patch file: a commit message and a diff.

use std::collections::BTreeSet;

use anyhow::{bail, ensure, Context, Result};

/// Starts a line of the head that names the license, which no commit message has.
pub const SPDX: &str = "SPDX-License-Identifier: ";

/// The license of a change to the kernel.
const LICENSE: &str = "GPL-2.0";

/// A patch file, taken apart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Patch {
    /// Header lines other than the subject, as they stand.
    pub head: Vec<String>,
    /// One line, without `[PATCH]`.
    pub subject: String,
    /// The message below the subject, without blank lines around it; may be empty.
    pub body: String,
    /// A diff in git's format; empty when the commit only brings new files.
    pub diff: Vec<u8>,
}

impl Patch {
    /// Reads a patch file.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let (text, diff) = bytes.split_at(find_diff(bytes));
        let text = std::str::from_utf8(text).context("the commit message is not UTF-8")?;
        let (head, message) = text
            .split_once("\n\n")
            .unwrap_or((text.trim_end_matches('\n'), ""));
        let (head, subject) = parse_head(head)?;
        let body = message
            .lines()
            .take_while(|line| line.trim_end() != "---")
            .map(str::trim_end)
            .collect::<Vec<_>>()
            .join("\n");
        ensure!(
            !message.lines().any(|line| line.starts_with("@@ -")),
            "the diff is not in git's format: it needs `diff --git` lines"
        );
        Ok(Self {
            head,
            subject,
            body: body.trim_matches('\n').to_owned(),
            diff: diff.to_owned(),
        })
    }

    /// Takes a commit message apart.
    pub fn from_message(message: &str) -> Self {
        let (subject, body) = message.split_once("\n\n").unwrap_or((message, ""));
        let body: Vec<_> = body.lines().map(str::trim_end).collect();
        Self {
            subject: fold(subject),
            body: body.join("\n").trim_matches('\n').to_owned(),
            ..Self::default()
        }
    }

    /// The commit message.
    pub fn message(&self) -> String {
        if self.body.is_empty() {
            format!("{}\n", self.subject)
        } else {
            format!("{}\n\n{}\n", self.subject, self.body)
        }
    }

    /// Names the kernel's license in the head unless one is named there.
    pub fn license(&mut self) {
        if !self.head.iter().any(|line| line.starts_with(SPDX)) {
            self.head.insert(0, format!("{SPDX}{LICENSE}"));
        }
    }

    /// The patch file.
    pub fn bytes(&self) -> Vec<u8> {
        let mut text = String::new();
        for line in &self.head {
            text.push_str(line);
            text.push('\n');
        }
        text.push_str(&format!("Subject: {}\n\n", self.subject));
        if !self.body.is_empty() {
            text.push_str(&format!("{}\n", self.body));
        }
        text.push_str("---\n");
        if !self.diff.is_empty() {
            text.push('\n');
        }
        [text.into_bytes(), self.diff.clone()].concat()
    }

    /// Refuses a message that would not survive being written to a patch file.
    pub fn check_message(&self) -> Result<()> {
        ensure!(!self.subject.is_empty(), "a commit has no subject");
        for line in self.body.lines() {
            ensure!(
                line != "---" && !line.starts_with("diff --git ") && !line.starts_with("@@ -"),
                "the message of \"{}\" holds the line `{line}`, at which a mail's message ends; \
                 reword it",
                self.subject
            );
        }
        Ok(())
    }

    /// The existing files that the diff changes. New files, renames and copies are refused:
    /// new files are plain files.
    pub fn touched(&self) -> Result<BTreeSet<String>> {
        let mut paths = BTreeSet::new();
        let mut in_hunk = Hunk::default();
        for line in self.diff.split(|&b| b == b'\n') {
            if in_hunk.takes(line) {
                continue;
            }
            if let Some(names) = line.strip_prefix(b"diff --git ") {
                let names = std::str::from_utf8(names).context("a path is not UTF-8")?;
                paths.insert(one_name(names)?);
            } else if ["new file mode ", "rename from ", "copy from "]
                .iter()
                .any(|word| line.starts_with(word.as_bytes()))
            {
                let path = paths.last().map_or("", String::as_str);
                bail!("it creates, renames or copies {path}; a new file must be a plain file");
            }
        }
        Ok(paths)
    }

    /// The header of the hunk of `path` whose old lines start at `line`.
    pub fn hunk(&self, path: &str, line: &str) -> Option<String> {
        let text = String::from_utf8_lossy(&self.diff);
        let mut here = false;
        for row in text.lines() {
            if row.starts_with("diff --git ") {
                here = row == format!("diff --git a/{path} b/{path}");
            }
            let start = row
                .strip_prefix("@@ -")
                .and_then(|r| r.split([',', ' ']).next());
            if here && start == Some(line) {
                return Some(row.to_owned());
            }
        }
        None
    }
}

/// Lines of the current hunk that are still to come.
#[derive(Default)]
struct Hunk {
    old: u64,
    new: u64,
}

impl Hunk {
    /// Whether `line` is part of a hunk (its header included), not a header of a file.
    fn takes(&mut self, line: &[u8]) -> bool {
        if self.old == 0 && self.new == 0 {
            return self.begin(line).is_some();
        }
        match line.first() {
            Some(b'+') => self.new = self.new.saturating_sub(1),
            Some(b'-') => self.old = self.old.saturating_sub(1),
            Some(b'\\') => (),
            _ => {
                self.old = self.old.saturating_sub(1);
                self.new = self.new.saturating_sub(1);
            }
        }
        true
    }

    fn begin(&mut self, line: &[u8]) -> Option<()> {
        let line = std::str::from_utf8(line).ok()?.strip_prefix("@@ -")?;
        let (old, rest) = line.split_once(" +")?;
        let (new, _) = rest.split_once(" @@")?;
        let count = |range: &str| match range.split_once(',') {
            Some((_, count)) => count.parse().ok(),
            None => Some(1),
        };
        (self.old, self.new) = (count(old)?, count(new)?);
        Some(())
    }
}

/// Where the diff begins: the first `diff --git` at the start of a line.
fn find_diff(bytes: &[u8]) -> usize {
    const MARK: &[u8] = b"diff --git ";
    if bytes.starts_with(MARK) {
        return 0;
    }
    bytes
        .windows(MARK.len() + 1)
        .position(|w| w[0] == b'\n' && &w[1..] == MARK)
        .map_or(bytes.len(), |at| at + 1)
}

fn parse_head(head: &str) -> Result<(Vec<String>, String)> {
    let mut rest = Vec::new();
    let mut subject: Option<String> = None;
    let mut in_subject = false;
    for line in head.lines() {
        if line.starts_with([' ', '\t']) && in_subject {
            let subject = subject.get_or_insert_default();
            subject.push(' ');
            subject.push_str(line.trim());
        } else if let Some(text) = line.strip_prefix("Subject:") {
            ensure!(subject.is_none(), "it has two subjects");
            subject = Some(text.trim().to_owned());
            in_subject = true;
        } else {
            in_subject = false;
            rest.push(line.to_owned());
        }
    }
    let subject = subject.context("it has no `Subject:` line before its first blank line")?;
    let mut subject = subject.as_str();
    while let Some((tag, text)) = subject.strip_prefix('[').and_then(|s| s.split_once(']')) {
        if !tag.contains("PATCH") {
            break;
        }
        subject = text.trim_start();
    }
    ensure!(!subject.is_empty(), "its subject is empty");
    Ok((rest, fold(subject)))
}

/// One line with single spaces.
fn fold(subject: &str) -> String {
    subject.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// `a/PATH b/PATH` to PATH.
fn one_name(names: &str) -> Result<String> {
    let half = names.len() / 2;
    let both = names
        .get(..half)
        .zip(names.get(half..))
        .and_then(|(a, b)| a.strip_prefix("a/").zip(b.strip_prefix(" b/")));
    match both {
        Some((a, b)) if a == b => Ok(a.to_owned()),
        _ => bail!("`diff --git {names}` names no single file as a/PATH b/PATH"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAIL: &str = "\
From 0123 Mon Sep 17 00:00:00 2001
From: A <a@b>
Subject: [PATCH 1/2] mm: do a thing
 that is long

Why.

How.
---
 mm/a.c | 2 +-

diff --git a/mm/a.c b/mm/a.c
--- a/mm/a.c
+++ b/mm/a.c
@@ -3,2 +3,2 @@ fn
 x
-diff --git a/no b/no
+new file mode 100644
-- \n2.47
";

    #[test]
    fn mail_is_read_and_written() {
        let patch = Patch::parse(MAIL.as_bytes()).unwrap();
        assert_eq!(patch.subject, "mm: do a thing that is long");
        assert_eq!(patch.body, "Why.\n\nHow.");
        assert_eq!(
            patch.touched().unwrap().into_iter().collect::<Vec<_>>(),
            ["mm/a.c"]
        );
        assert_eq!(patch.hunk("mm/a.c", "3").unwrap(), "@@ -3,2 +3,2 @@ fn");
        assert_eq!(Patch::parse(&patch.bytes()).unwrap(), patch);
        assert_eq!(Patch::from_message(&patch.message()).body, patch.body);
    }

    #[test]
    fn the_license_is_named_once_and_in_the_head_alone() {
        let mut patch = Patch::parse(b"Subject: x\n\nbody\n---\n").unwrap();
        patch.license();
        patch.license();
        let text = String::from_utf8(patch.bytes()).unwrap();
        assert_eq!(
            text,
            "SPDX-License-Identifier: GPL-2.0\nSubject: x\n\nbody\n---\n"
        );
        let again = Patch::parse(text.as_bytes()).unwrap();
        assert_eq!(again, patch);
        assert_eq!(again.message(), "x\n\nbody\n");
    }

    #[test]
    fn a_message_alone_is_enough() {
        let patch = Patch::parse(b"Subject: x\n\nbody\n---\n").unwrap();
        assert!(patch.diff.is_empty() && patch.touched().unwrap().is_empty());
        assert_eq!(Patch::parse(b"Subject: x\n").unwrap().body, "");
    }

    #[test]
    fn bad_patches_are_refused() {
        for (text, why) in [
            ("hello\n", "no `Subject:`"),
            ("Subject:\n\n", "subject is empty"),
            (
                "Subject: x\n\n---\n--- a/x\n+++ b/x\n@@ -1 +1 @@\n",
                "not in git's format",
            ),
        ] {
            let error = Patch::parse(text.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
        for (diff, why) in [
            (
                "diff --git a/x b/x\nnew file mode 100644\n",
                "must be a plain file",
            ),
            ("diff --git a/x b/y\nrename from x\n", "no single file"),
        ] {
            let text = format!("Subject: x\n\n---\n{diff}");
            let error = Patch::parse(text.as_bytes())
                .unwrap()
                .touched()
                .unwrap_err();
            assert!(error.to_string().contains(why), "{error}");
        }
    }
}
