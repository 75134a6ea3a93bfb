// SPDX-License-Identifier: MIT OR Apache-2.0

//! `check` and `list`: what can be said about the series without the kernel.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{ensure, Context, Result};

use crate::manifest::{Manifest, MANIFEST};
use crate::patch::{Patch, SPDX};
use crate::series;

/// Directories whose files all are part of the series.
const KERNEL_DIRS: [&str; 6] = [
    "drivers",
    "include",
    "rust",
    "mm",
    "Documentation",
    "tools/testing",
];

/// In how many lines from the top the license must be named; scripts begin with `#!`.
const SPDX_LINES: usize = 2;

/// Where the texts of the licenses are, which name none at their top.
const LICENSE_TEXTS: &str = "LICENSES/";

/// What cargo writes anew, with a top of its own.
const LOCK_FILE: &str = "Cargo.lock";

/// Where inputs of fuzzers are, each byte of which counts.
const CORPUS: &str = "/fuzz/corpus/";

/// Prints number, patch file and subject of every entry.
pub fn list(repo: &Path) -> Result<()> {
    let manifest = series::read_manifest(repo)?;
    for (number, item) in (1..).zip(&manifest.items) {
        let patch = read_patch(repo, &item.patch)?;
        println!("{number:3}  {}\n     {}", patch.subject, item.patch);
    }
    Ok(())
}

/// Checks manifest, patches and plain files, and that every file of the repository names its
/// license; one error names all that is wrong.
pub fn check(repo: &Path) -> Result<()> {
    let manifest = series::read_manifest(repo)?;
    let dirs: Vec<String> = KERNEL_DIRS.iter().map(|dir| dir.to_string()).collect();
    let mut present = series::all_files_below(repo, &dirs)?;
    present.extend(series::files_below(repo, &manifest.dirs())?);
    let mut wrong = Vec::new();
    check_files(&manifest, &present, &mut wrong)?;
    check_patches(repo, &manifest, &present, &mut wrong);
    present.extend(manifest.files());
    present.extend(series::tracked_files(repo)?);
    present.insert(MANIFEST.to_owned());
    check_licenses(repo, &present, &mut wrong);
    ensure!(
        wrong.is_empty(),
        "the series is not in order:\n  {}",
        wrong.join("\n  ")
    );
    eprintln!("tern-series: {} entries in order", manifest.items.len());
    Ok(())
}

fn check_files(
    manifest: &Manifest,
    present: &BTreeSet<String>,
    wrong: &mut Vec<String>,
) -> Result<()> {
    let owners = manifest.owners(present.iter().map(String::as_str))?;
    for path in present {
        if !path.ends_with(".patch") && !owners.contains_key(path) {
            wrong.push(format!("{path} is listed nowhere in {MANIFEST}"));
        }
    }
    for dir in manifest.dirs() {
        let prefix = format!("{dir}/");
        if !owners.keys().any(|path| path.starts_with(&prefix)) {
            wrong.push(format!("{dir}/ is listed but brings no file"));
        }
    }
    Ok(())
}

fn check_licenses(repo: &Path, paths: &BTreeSet<String>, wrong: &mut Vec<String>) {
    for path in paths {
        let exempt = path.starts_with(LICENSE_TEXTS) || path.contains(CORPUS);
        if exempt || path.ends_with(LOCK_FILE) {
            continue;
        }
        match fs::read(repo.join(path)) {
            Ok(bytes) if !has_spdx(&bytes) => {
                wrong.push(format!("{path} has no SPDX-License-Identifier at its top"));
            }
            Ok(_) => (),
            Err(error) => wrong.push(format!("{path} cannot be read: {error}")),
        }
    }
}

fn has_spdx(bytes: &[u8]) -> bool {
    bytes
        .split(|&byte| byte == b'\n')
        .take(SPDX_LINES)
        .any(|line| String::from_utf8_lossy(line).contains(SPDX))
}

fn check_patches(
    repo: &Path,
    manifest: &Manifest,
    present: &BTreeSet<String>,
    wrong: &mut Vec<String>,
) {
    let mut subjects = BTreeSet::new();
    for (item, patch) in manifest
        .items
        .iter()
        .map(|i| (i, read_patch(repo, &i.patch)))
    {
        match patch {
            Ok(patch) => {
                if patch.diff.is_empty() && item.lines.is_empty() {
                    wrong.push(format!("{} changes nothing and brings no file", item.patch));
                }
                if !subjects.insert(patch.subject.clone()) {
                    wrong.push(format!("{}: its subject is not its own", item.patch));
                }
            }
            Err(error) => wrong.push(format!("{error:#}")),
        }
    }
    let listed: BTreeSet<_> = manifest.items.iter().map(|item| &item.patch).collect();
    for path in present.iter().filter(|path| path.ends_with(".patch")) {
        if !listed.contains(path) {
            wrong.push(format!("{path} is listed nowhere in {MANIFEST}"));
        }
    }
}

fn read_patch(repo: &Path, path: &str) -> Result<Patch> {
    let read = || -> Result<Patch> {
        let patch = Patch::parse(&fs::read(repo.join(path))?)?;
        patch.touched()?;
        Ok(patch)
    };
    read().with_context(|| path.to_owned())
}
