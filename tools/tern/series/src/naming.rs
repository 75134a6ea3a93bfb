// SPDX-License-Identifier: MIT OR Apache-2.0

//! Names for the patch files of new commits: `DIRECTORY/NNNN-slug.patch`.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;

use crate::git::Git;

/// Longest slug, in bytes, as git's own patch names are cut.
const SLUG_MAX: usize = 52;

/// First words of subjects that are no path themselves.
const PREFIXES: [(&str, &str); 5] = [
    ("drm", "drivers/gpu/drm"),
    ("rust/mm", "rust/kernel/mm"),
    ("selftests", "tools/testing/selftests"),
    ("docs", "Documentation"),
    ("gpu", "drivers/gpu"),
];

/// Gives out names; what was given once is taken.
pub struct Names<'a> {
    git: &'a Git,
    base: &'a str,
    taken: BTreeSet<String>,
}

impl<'a> Names<'a> {
    /// Names beside the files `present` of the repository.
    pub fn new(git: &'a Git, base: &'a str, present: impl Iterator<Item = &'a String>) -> Self {
        Self {
            git,
            base,
            taken: present.cloned().collect(),
        }
    }

    /// The patch file for a commit with this subject, which changes `paths`.
    pub fn name(&mut self, subject: &str, paths: &[&str]) -> Result<String> {
        let dir = match self.by_prefix(subject)? {
            Some(dir) => dir,
            None => busiest(paths),
        };
        let slash = if dir.is_empty() { "" } else { "/" };
        let number = self.last_number(&dir) + 1;
        let name = format!("{dir}{slash}{number:04}-{}.patch", slug(subject));
        self.taken.insert(name.clone());
        Ok(name)
    }

    /// The directory that the part before the last `: ` names, as far as it exists.
    fn by_prefix(&self, subject: &str) -> Result<Option<String>> {
        let Some((prefix, _)) = subject.rsplit_once(": ") else {
            return Ok(None);
        };
        let path = prefix.replace(": ", "/");
        for candidate in prefixes_of(&path) {
            let dir = spell_out(candidate);
            if self.is_dir(&dir)? {
                return Ok(Some(dir));
            }
        }
        Ok(None)
    }

    fn is_dir(&self, dir: &str) -> Result<bool> {
        let below = format!("{dir}/");
        if self.taken.iter().any(|path| path.starts_with(&below)) {
            return Ok(true);
        }
        let tree = format!("{}:{dir}^{{tree}}", self.base);
        Ok(self.git.resolve(&tree)?.is_some())
    }

    fn last_number(&self, dir: &str) -> u32 {
        let numbers = self.taken.iter().filter_map(|path| {
            let (above, name) = path.rsplit_once('/').unwrap_or(("", path));
            let number = name.split_once('-')?.0;
            (above == dir && name.ends_with(".patch")).then(|| number.parse().ok())?
        });
        numbers.max().unwrap_or(0)
    }
}

/// `a/b/c`, `a/b`, `a`.
fn prefixes_of(path: &str) -> impl Iterator<Item = &str> {
    std::iter::successors(Some(path), |path| {
        path.rsplit_once('/').map(|(above, _)| above)
    })
}

fn spell_out(prefix: &str) -> String {
    for (short, long) in PREFIXES {
        match prefix.strip_prefix(short) {
            Some("") => return long.to_owned(),
            Some(rest) if rest.starts_with('/') => return format!("{long}{rest}"),
            _ => (),
        }
    }
    prefix.to_owned()
}

/// The directory that holds most of the paths.
fn busiest(paths: &[&str]) -> String {
    let mut counts = BTreeMap::new();
    for path in paths {
        let dir = path.rsplit_once('/').map_or("", |(dir, _)| dir);
        *counts.entry(dir).or_insert(0) += 1;
    }
    let most = counts.into_iter().rev().max_by_key(|&(_, count)| count);
    most.map_or_else(String::new, |(dir, _)| dir.to_owned())
}

fn slug(subject: &str) -> String {
    let lower = subject.to_lowercase();
    let words = lower.split(|c: char| !c.is_ascii_alphanumeric());
    let mut slug = String::new();
    for word in words.filter(|word| !word.is_empty()) {
        if !slug.is_empty() && slug.len() + word.len() >= SLUG_MAX {
            break;
        }
        if !slug.is_empty() {
            slug.push('-');
        }
        slug.push_str(&word[..word.len().min(SLUG_MAX)]);
    }
    if slug.is_empty() {
        slug.push_str("change");
    }
    slug
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slugs_are_short_and_plain() {
        assert_eq!(slug("mm: do A/B, \u{e9}tat"), "mm-do-a-b-tat");
        assert_eq!(slug("\u{e9}"), "change");
        assert!(slug(&"word ".repeat(40)).len() <= SLUG_MAX);
    }

    #[test]
    fn prefixes_become_directories() {
        assert_eq!(spell_out("drm/tern"), "drivers/gpu/drm/tern");
        assert_eq!(spell_out("rust/mm"), "rust/kernel/mm");
        assert_eq!(spell_out("drmfoo"), "drmfoo");
        assert_eq!(busiest(&["a/x", "a/y", "b/z"]), "a");
        assert_eq!(busiest(&["x"]), "");
    }
}
