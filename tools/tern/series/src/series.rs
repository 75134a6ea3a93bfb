// SPDX-License-Identifier: MIT OR Apache-2.0

//! The series as the repository holds it: manifest, patches and plain files.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{bail, ensure, Context, Result};

use crate::git::{Blob, Git};
use crate::manifest::{check_path, Line, Manifest, MANIFEST};
use crate::patch::Patch;
use tern_paths::shown;

/// The files that the series is made of, as objects of a git database.
///
/// The same type stands for the files of the repository now and for those that a tree was made
/// from, so that the two can be compared and merged.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Source(pub BTreeMap<String, Blob>);

impl Source {
    /// Stores the repository's files of the series in the database of `git`.
    pub fn from_repo(repo: &Path, git: &Git) -> Result<Self> {
        let manifest = read_manifest(repo)?;
        let paths: Vec<_> = repo_paths(repo, &manifest)?.into_iter().collect();
        let files: Vec<PathBuf> = paths.iter().map(|path| repo.join(path)).collect();
        let mut modes = Vec::new();
        for (path, file) in paths.iter().zip(&files) {
            modes.push(mode_of(path, file)?);
        }
        let blobs = git.blobs_of_files(&files, true)?;
        let entries = paths.into_iter().zip(modes).zip(blobs);
        Ok(Self(
            entries
                .map(|((path, mode), object)| (path, Blob::new(mode, &object)))
                .collect(),
        ))
    }

    /// The files of a tree that [`Source::write`] made.
    pub fn from_tree(git: &Git, tree: &str) -> Result<Self> {
        Ok(Self(git.files(tree, &[])?.into_iter().collect()))
    }

    /// Writes a git tree of the files; equal sources give equal trees.
    pub fn write(&self, git: &Git, scratch: &Path) -> Result<String> {
        git.tree_of(
            scratch,
            self.0.iter().map(|(path, blob)| (path.as_str(), blob)),
        )
    }

    /// Reads manifest and patches, and settles which entry brings which file.
    pub fn series(&self, git: &Git) -> Result<Series> {
        let read = |path: &str| match self.0.get(path) {
            Some(blob) => git.cat(&blob.object),
            None => bail!("{path} is missing"),
        };
        let text = String::from_utf8(read(MANIFEST)?)
            .with_context(|| format!("{MANIFEST} is not UTF-8"))?;
        let manifest = Manifest::parse(&text)?;
        let mut entries = Vec::new();
        for (index, item) in manifest.items.iter().enumerate() {
            let place = || format!("entry {} ({})", index + 1, item.patch);
            let patch = Patch::parse(&read(&item.patch)?).with_context(place)?;
            entries.push(Entry {
                path: item.patch.clone(),
                touched: patch.touched().with_context(place)?,
                patch,
                files: BTreeMap::new(),
            });
        }
        for (path, item) in manifest.owners(self.0.keys().map(String::as_str))? {
            if let Some(blob) = self.0.get(&path) {
                entries[item].files.insert(path, blob.clone());
            }
        }
        let series = Series { manifest, entries };
        series.check()?;
        Ok(series)
    }
}

/// The series, ready to become commits.
#[derive(Clone, Debug)]
pub struct Series {
    /// The manifest.
    pub manifest: Manifest,
    /// One per item of the manifest.
    pub entries: Vec<Entry>,
}

/// One commit to be.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Path of the patch file.
    pub path: String,
    /// The patch.
    pub patch: Patch,
    /// Existing files that the patch changes.
    pub touched: BTreeSet<String>,
    /// New files that come in.
    pub files: BTreeMap<String, Blob>,
}

impl Series {
    /// What must hold for any series; what the kernel has to say comes later.
    fn check(&self) -> Result<()> {
        let mut subjects = BTreeMap::new();
        let mut plain = BTreeMap::new();
        for entry in &self.entries {
            ensure!(
                !entry.patch.diff.is_empty() || !entry.files.is_empty(),
                "{} changes nothing and brings no file",
                entry.path
            );
            if let Some(other) = subjects.insert(&entry.patch.subject, &entry.path) {
                bail!(
                    "{other} and {} have the same subject, \"{}\"; subjects tell commits apart",
                    entry.path,
                    entry.patch.subject
                );
            }
            plain.extend(entry.files.keys().map(|path| (path, &entry.path)));
        }
        for entry in &self.entries {
            for path in &entry.touched {
                ensure!(
                    !plain.contains_key(path),
                    "{} changes {path}, which is a plain file of {}; edit the file itself",
                    entry.path,
                    plain[path]
                );
            }
        }
        Ok(())
    }

    /// All plain files, with the entry that brings each.
    pub fn plain(&self) -> BTreeMap<&str, usize> {
        let entries = self.entries.iter().enumerate();
        entries
            .flat_map(|(index, entry)| entry.files.keys().map(move |p| (p.as_str(), index)))
            .collect()
    }
}

/// Reads the manifest of the repository.
pub fn read_manifest(repo: &Path) -> Result<Manifest> {
    let path = repo.join(MANIFEST);
    let text = fs::read_to_string(&path)
        .with_context(|| format!("the manifest {} cannot be read", shown(&path)))?;
    Manifest::parse(&text)
}

/// Every file of the repository that belongs to the series. What the manifest lists but is not
/// there is an error.
fn repo_paths(repo: &Path, manifest: &Manifest) -> Result<BTreeSet<String>> {
    let mut paths = BTreeSet::from([MANIFEST.to_owned()]);
    for item in &manifest.items {
        for (path, what) in item.lines.iter().filter_map(|line| match line {
            Line::File(path) => Some((path, "file")),
            Line::Dir(path) => Some((path, "directory")),
            Line::Note(_) => None,
        }) {
            let there = fs::symlink_metadata(repo.join(path));
            let right = there.is_ok_and(|meta| (what == "directory") == meta.is_dir());
            ensure!(
                right,
                "{MANIFEST}: there is no {what} {path}, which is listed below {}",
                item.patch
            );
        }
        ensure!(
            repo.join(&item.patch).is_file(),
            "{MANIFEST}: there is no patch file {}",
            item.patch
        );
        paths.insert(item.patch.clone());
    }
    paths.extend(manifest.files());
    let dirs = manifest.dirs();
    let below = files_below(repo, &dirs)?;
    for dir in &dirs {
        let prefix = format!("{dir}/");
        ensure!(
            below.iter().any(|path| path.starts_with(&prefix)),
            "{MANIFEST}: the directory {dir} holds no file of the series"
        );
    }
    paths.extend(below);
    for path in &paths {
        check_path(path)?;
    }
    Ok(paths)
}

/// All files below `dirs`, except patches and what git ignores.
pub fn files_below(repo: &Path, dirs: &[String]) -> Result<BTreeSet<String>> {
    let files = all_files_below(repo, dirs)?;
    Ok(files
        .into_iter()
        .filter(|path| !path.ends_with(".patch"))
        .collect())
}

/// All files below `dirs`, patches included, except what git ignores.
pub fn all_files_below(repo: &Path, dirs: &[String]) -> Result<BTreeSet<String>> {
    if dirs.is_empty() {
        return Ok(BTreeSet::new());
    }
    if repo.join(".git").exists() {
        let mut args = vec!["--cached", "--others", "--exclude-standard", "--"];
        args.extend(dirs.iter().map(String::as_str));
        return list_files(repo, &args);
    }
    let mut files = BTreeSet::new();
    for dir in dirs {
        walk(repo, dir, &mut files)?;
    }
    Ok(files)
}

/// The files of the repository that git knows; nothing where it is no git checkout.
pub fn tracked_files(repo: &Path) -> Result<BTreeSet<String>> {
    if !repo.join(".git").exists() {
        return Ok(BTreeSet::new());
    }
    list_files(repo, &["--cached"])
}

fn list_files(repo: &Path, args: &[&str]) -> Result<BTreeSet<String>> {
    let args = [&["--literal-pathspecs", "ls-files", "-z"], args].concat();
    let out = String::from_utf8(Git::user(repo).bytes(&args)?)
        .context("a path in the repository is not UTF-8")?;
    let mut files: BTreeSet<_> = out.split_terminator('\0').map(str::to_owned).collect();
    // A tracked file may have been removed.
    files.retain(|path| fs::symlink_metadata(repo.join(path)).is_ok());
    Ok(files)
}

fn walk(repo: &Path, dir: &str, files: &mut BTreeSet<String>) -> Result<()> {
    let Ok(entries) = fs::read_dir(repo.join(dir)) else {
        return Ok(());
    };
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        let name = name
            .to_str()
            .context("a path in the repository is not UTF-8")?;
        let path = format!("{dir}/{name}");
        if entry.file_type()?.is_dir() {
            walk(repo, &path, files)?;
        } else {
            files.insert(path);
        }
    }
    Ok(())
}

fn mode_of(path: &str, file: &Path) -> Result<&'static str> {
    let meta = fs::symlink_metadata(file).with_context(|| format!("{path} cannot be read"))?;
    ensure!(meta.is_file(), "{path} is not a regular file");
    Ok(if meta.permissions().mode() & 0o111 != 0 {
        "100755"
    } else {
        "100644"
    })
}
