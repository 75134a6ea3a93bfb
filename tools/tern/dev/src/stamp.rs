// SPDX-License-Identifier: MIT OR Apache-2.0

//! Whether something has to be built again.
//!
//! A stamp is a file that holds, word for word, what the last build was made
//! from. It goes when a build starts and comes when it has succeeded.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{ensure, Context, Result};
use tern_paths::shown;

/// What a build was made from.
#[derive(Debug)]
pub struct Stamp {
    path: PathBuf,
    state: Vec<u8>,
}

impl Stamp {
    /// A stamp at `path` for a build from `state`.
    pub fn new(path: PathBuf, state: Vec<u8>) -> Self {
        Self { path, state }
    }

    /// Whether the last build was made from the same.
    pub fn holds(&self) -> bool {
        fs::read(&self.path).is_ok_and(|old| old == self.state)
    }

    /// A build starts: until it succeeds, nothing holds.
    pub fn clear(&self) -> Result<()> {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("{} cannot be removed", shown(&self.path)))
            }
            _ => Ok(()),
        }
    }

    /// The build has succeeded.
    pub fn set(&self) -> Result<()> {
        fs::write(&self.path, &self.state)
            .with_context(|| format!("{} cannot be written", shown(&self.path)))
    }
}

/// The state of a git work tree: its commit, and every edit and new file on
/// top of it.
pub fn work_tree(dir: &Path) -> Result<Vec<u8>> {
    let mut state = git(dir, &["rev-parse", "HEAD"])?;
    state.extend(git(dir, &["diff", "--binary", "HEAD"])?);
    let new = git(dir, &["ls-files", "--others", "--exclude-standard", "-z"])?;
    for name in new.split(|&byte| byte == 0).filter(|name| !name.is_empty()) {
        let name = std::str::from_utf8(name).context("a file's name in the tree is no UTF-8")?;
        state.extend(name.as_bytes());
        state.push(b'\n');
        state.extend(git(dir, &["hash-object", "--", name])?);
    }
    Ok(state)
}

/// The first line of what each of these programs says about its version.
pub fn versions(programs: &[&str]) -> Result<Vec<u8>> {
    let mut state = Vec::new();
    for program in programs {
        let said = Command::new(program)
            .arg("--version")
            .output()
            .with_context(|| format!("{program} cannot be run"))?;
        state.extend(
            said.stdout
                .split_inclusive(|&byte| byte == b'\n')
                .take(1)
                .flatten(),
        );
    }
    Ok(state)
}

/// What git says in `dir`.
pub fn git(dir: &Path, args: &[&str]) -> Result<Vec<u8>> {
    let done = Command::new("git")
        .arg("-C")
        .arg(dir)
        .args(args)
        .output()
        .context("git cannot be run")?;
    ensure!(
        done.status.success(),
        "git {} in {} failed: {}",
        args.join(" "),
        shown(dir),
        String::from_utf8_lossy(&done.stderr).trim_end()
    );
    Ok(done.stdout)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holds_only_after_a_build_from_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("stamp");
        let stamp = Stamp::new(path.clone(), b"a".to_vec());
        assert!(!stamp.holds());
        stamp.set().unwrap();
        assert!(stamp.holds());
        assert!(!Stamp::new(path, b"b".to_vec()).holds());
        stamp.clear().unwrap();
        assert!(!stamp.holds());
        stamp.clear().unwrap();
    }

    #[test]
    fn every_change_of_a_tree_changes_its_state() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        git(dir, &["init", "-q"]).unwrap();
        let commit = [
            "-c",
            "user.name=a",
            "-c",
            "user.email=a@b",
            "commit",
            "-qam",
            "a",
        ];
        fs::write(dir.join("file"), "1").unwrap();
        git(dir, &["add", "file"]).unwrap();
        git(dir, &commit).unwrap();
        let mut states = vec![work_tree(dir).unwrap()];
        fs::write(dir.join("file"), "2").unwrap();
        states.push(work_tree(dir).unwrap());
        fs::write(dir.join("new"), "1").unwrap();
        states.push(work_tree(dir).unwrap());
        fs::write(dir.join("new"), "2").unwrap();
        states.push(work_tree(dir).unwrap());
        git(dir, &commit).unwrap();
        states.push(work_tree(dir).unwrap());
        assert_eq!(states[4], work_tree(dir).unwrap());
        for (index, state) in states.iter().enumerate() {
            assert!(!states[index + 1..].contains(state), "{index}");
        }
    }
}
