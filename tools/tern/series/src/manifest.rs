// SPDX-License-Identifier: MIT OR Apache-2.0

//! The manifest `series`: which commits there are, in order, and which files they bring.

use std::collections::BTreeMap;
use std::fmt::Write;

use anyhow::{bail, ensure, Result};

/// Name of the manifest, at the top of the repository.
pub const MANIFEST: &str = "series";

/// The parsed manifest; comments are kept, so that it can be written back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Manifest {
    /// Comment and blank lines at the head of the file.
    pub head: Vec<String>,
    /// The commits, in order.
    pub items: Vec<Item>,
    /// Comment and blank lines at the end of the file.
    pub tail: Vec<String>,
}

/// One commit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Item {
    /// Comment and blank lines before it.
    pub lead: Vec<String>,
    /// Path of the patch file, from the top of the repository.
    pub patch: String,
    /// What is listed below it.
    pub lines: Vec<Line>,
}

/// An indented line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Line {
    /// A new file.
    File(String),
    /// Every new file below a directory; the path has no `/` at its end.
    Dir(String),
    /// A comment or a blank line, as it stands.
    Note(String),
}

/// Path and whether it is a directory, to the number of the item and its patch file.
type Listings<'a> = BTreeMap<(&'a str, bool), (usize, &'a str)>;

impl Manifest {
    /// Reads a manifest; errors name the line.
    pub fn parse(text: &str) -> Result<Self> {
        let mut manifest = Self::default();
        let mut pending = Vec::new();
        for (number, raw) in (1..).zip(text.lines()) {
            let line = raw.trim();
            if line.is_empty() || line.starts_with('#') {
                pending.push(raw.trim_end().to_owned());
                continue;
            }
            let path = line.strip_suffix('/').unwrap_or(line);
            if let Err(why) = check_path(path) {
                bail!("{MANIFEST}:{number}: {why}");
            }
            if raw.starts_with([' ', '\t']) {
                let Some(item) = manifest.items.last_mut() else {
                    bail!("{MANIFEST}:{number}: {line} stands below no patch file");
                };
                ensure!(
                    !line.ends_with(".patch"),
                    "{MANIFEST}:{number}: the patch file {line} must not be indented"
                );
                item.lines.extend(pending.drain(..).map(Line::Note));
                item.lines.push(if path.len() < line.len() {
                    Line::Dir(path.to_owned())
                } else {
                    Line::File(path.to_owned())
                });
            } else {
                ensure!(
                    line.ends_with(".patch"),
                    "{MANIFEST}:{number}: {line} is no .patch file; new files are indented"
                );
                if manifest.items.is_empty() {
                    let head = pending
                        .iter()
                        .rposition(String::is_empty)
                        .map_or(0, |i| i + 1);
                    manifest.head = pending.drain(..head).collect();
                }
                ensure!(
                    manifest.items.iter().all(|item| item.patch != line),
                    "{MANIFEST}:{number}: {line} is listed twice"
                );
                manifest.items.push(Item {
                    lead: std::mem::take(&mut pending),
                    patch: line.to_owned(),
                    lines: Vec::new(),
                });
            }
        }
        if manifest.items.is_empty() {
            manifest.head = pending;
        } else {
            manifest.tail = pending;
        }
        Ok(manifest)
    }

    /// The text of the manifest.
    pub fn text(&self) -> String {
        let mut text = String::new();
        let mut put = |line: &str| {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{line}");
        };
        self.head.iter().for_each(|line| put(line));
        for item in &self.items {
            item.lead.iter().for_each(|line| put(line));
            put(&item.patch);
            for line in &item.lines {
                match line {
                    Line::File(path) => put(&format!("  {path}")),
                    Line::Dir(path) => put(&format!("  {path}/")),
                    Line::Note(note) => put(note),
                }
            }
        }
        self.tail.iter().for_each(|line| put(line));
        text
    }

    /// All listed directories.
    pub fn dirs(&self) -> Vec<String> {
        self.listed(|line| match line {
            Line::Dir(path) => Some(path),
            _ => None,
        })
    }

    /// All files that are listed by their own name.
    pub fn files(&self) -> Vec<String> {
        self.listed(|line| match line {
            Line::File(path) => Some(path),
            _ => None,
        })
    }

    fn listed(&self, pick: impl Fn(&Line) -> Option<&String>) -> Vec<String> {
        let lines = self.items.iter().flat_map(|item| &item.lines);
        lines.filter_map(pick).cloned().collect()
    }

    /// Tells which item brings each file of `present`: the one that lists its name, else the
    /// one that lists the nearest directory above it. Files that nobody lists are left out.
    pub fn owners<'a>(
        &self,
        present: impl IntoIterator<Item = &'a str>,
    ) -> Result<BTreeMap<String, usize>> {
        let listed = self.listings()?;
        let mut owners = BTreeMap::new();
        for path in present {
            if let Some(&(item, _)) = listed.get(&(path, false)) {
                owners.insert(path.to_owned(), item);
            } else if !path.ends_with(".patch") {
                if let Some(item) = nearest(&listed, path) {
                    owners.insert(path.to_owned(), item);
                }
            }
        }
        Ok(owners)
    }

    /// Everything listed, as path and whether it is a directory; twice the same is an error.
    fn listings(&self) -> Result<Listings<'_>> {
        let mut listed = BTreeMap::new();
        for (index, item) in self.items.iter().enumerate() {
            for line in &item.lines {
                let key = match line {
                    Line::File(path) => (path.as_str(), false),
                    Line::Dir(path) => (path.as_str(), true),
                    Line::Note(_) => continue,
                };
                if let Some((_, first)) = listed.insert(key, (index, item.patch.as_str())) {
                    bail!(
                        "{MANIFEST}: {} is listed twice, below {first} and below {}",
                        key.0,
                        item.patch
                    );
                }
            }
        }
        for (&(path, dir), &(index, patch)) in &listed {
            if !dir && nearest(&listed, path) == Some(index) {
                bail!("{MANIFEST}: {path} is listed twice below {patch}: by name and by directory");
            }
        }
        Ok(listed)
    }
}

fn nearest(listed: &Listings<'_>, path: &str) -> Option<usize> {
    let mut dir = path;
    while let Some((above, _)) = dir.rsplit_once('/') {
        if let Some(&(item, _)) = listed.get(&(above, true)) {
            return Some(item);
        }
        dir = above;
    }
    None
}

/// Only plain relative paths, which cannot lead out of the repository.
pub fn check_path(path: &str) -> Result<()> {
    ensure!(!path.starts_with('/'), "the path {path} is absolute");
    ensure!(
        !path
            .chars()
            .any(|c| c.is_control() || c == '\\' || c == '"'),
        "the path {path:?} holds a character that is not allowed"
    );
    for part in path.split('/') {
        ensure!(
            !matches!(part, "" | "." | ".." | ".git"),
            "the path {path:?} holds {part:?}"
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
# SPDX-License-Identifier: GPL-2.0
# how it works

# the first
mm/0001-a.patch
  mm/new.c
  # why
  mm/dir/

drivers/0001-b.patch
  mm/dir/special.c
# end
";

    #[test]
    fn text_survives() {
        let manifest = Manifest::parse(TEXT).unwrap();
        assert_eq!(manifest.text(), TEXT);
        assert_eq!(manifest.items.len(), 2);
        assert_eq!(manifest.items[0].lead, ["# the first"]);
        assert_eq!(manifest.tail, ["# end"]);
    }

    #[test]
    fn the_nearest_listing_owns() {
        let manifest = Manifest::parse(TEXT).unwrap();
        let present = [
            "mm/new.c",
            "mm/dir/x.c",
            "mm/dir/special.c",
            "mm/dir/x.patch",
            "mm/y.c",
        ];
        let owners = manifest.owners(present).unwrap();
        let owners: Vec<_> = owners.iter().map(|(p, i)| (p.as_str(), *i)).collect();
        assert_eq!(
            owners,
            [("mm/dir/special.c", 1), ("mm/dir/x.c", 0), ("mm/new.c", 0)]
        );
    }

    #[test]
    fn hostile_lines_are_named() {
        for (text, why) in [
            (
                "/etc/a.patch\n",
                "series:1: the path /etc/a.patch is absolute",
            ),
            (
                "a.patch\n  ../../x\n",
                "series:2: the path \"../../x\" holds \"..\"",
            ),
            ("a.patch\n  .git/config\n", "holds \".git\""),
            ("  mm/x.c\n", "stands below no patch file"),
            ("mm/x.c\n", "is no .patch file"),
            ("a.patch\na.patch\n", "series:2: a.patch is listed twice"),
            ("a.patch\n  b.patch\n", "must not be indented"),
            ("a.patch\n  mm//x\n", "holds \"\""),
        ] {
            let error = Manifest::parse(text).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
    }

    #[test]
    fn twice_is_an_error() {
        for text in [
            "a.patch\n  x\nb.patch\n  x\n",
            "a.patch\n  d/\nb.patch\n  d/\n",
            "a.patch\n  d/\n  d/x\n",
        ] {
            let error = Manifest::parse(text).unwrap().owners(["x"]).unwrap_err();
            assert!(error.to_string().contains("listed twice"), "{error}");
        }
    }
}
