// SPDX-License-Identifier: MIT OR Apache-2.0

//! Sizes of large folios that the kernel makes of anonymous memory.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// Has the kernel make large folios of one size only; drop it to have all sizes as before.
///
/// The settings are those of the whole system. Where there are two of these at a time, the one made
/// last has to be dropped first.
#[derive(Debug)]
pub struct OnlySize(Vec<(PathBuf, String)>);

impl OnlySize {
    /// Chooses `always` for folios of `kib` KiB, and `never` for all other sizes.
    ///
    /// # Errors
    ///
    /// Where a setting cannot be read or written, for which it takes root, or nothing is chosen in
    /// it. Those that were changed by then are as before.
    pub fn new(kib: u64) -> Result<Self> {
        Self::among("/sys/kernel/mm/transparent_hugepage".as_ref(), kib)
    }

    /// As [`OnlySize::new`], for the settings in `directory`.
    fn among(directory: &Path, kib: u64) -> Result<Self> {
        let wanted = format!("hugepages-{kib}kB");
        let mut before = Self(Vec::new());
        let sizes = fs::read_dir(directory).context("the kernel has no large folios")?;
        for size in sizes {
            let size = size.context("cannot list the sizes of large folios")?;
            let name = size.file_name();
            let setting = size.path().join("enabled");
            // Other files, and sizes that anonymous memory does not have.
            if !name.to_string_lossy().starts_with("hugepages-") || !setting.exists() {
                continue;
            }
            let failed = || format!("cannot set {}", setting.display());
            let text = fs::read_to_string(&setting).with_context(failed)?;
            let chosen = chosen(&text).with_context(|| format!("nothing is chosen of {text}"))?;
            // Before the change, so that whatever fails, it is undone.
            before.0.push((setting.clone(), chosen.into()));
            let value = if *name == *wanted { "always" } else { "never" };
            fs::write(&setting, value).with_context(failed)?;
        }
        Ok(before)
    }
}

impl Drop for OnlySize {
    fn drop(&mut self) {
        for (setting, value) in &self.0 {
            // What fails shows in what follows.
            let _ = fs::write(setting, value);
        }
    }
}

/// The word that a setting such as `always [never]` has in brackets.
fn chosen(setting: &str) -> Option<&str> {
    let (_, rest) = setting.split_once('[')?;
    Some(rest.split_once(']')?.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTING: &str = "always [inherit] madvise never\n";

    /// A directory with a setting for each size.
    fn settings(sizes: &[(u64, &str)]) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        for (kib, text) in sizes {
            fs::create_dir(size(&directory, *kib)).unwrap();
            fs::write(size(&directory, *kib).join("enabled"), text).unwrap();
        }
        directory
    }

    fn size(directory: &tempfile::TempDir, kib: u64) -> PathBuf {
        directory.path().join(format!("hugepages-{kib}kB"))
    }

    fn setting(directory: &tempfile::TempDir, kib: u64) -> String {
        fs::read_to_string(size(directory, kib).join("enabled")).unwrap()
    }

    #[test]
    fn the_word_in_brackets_is_chosen() {
        assert_eq!(chosen(SETTING), Some("inherit"));
        assert_eq!(chosen("always madvise [never]\n"), Some("never"));
        for wrong in ["", "always never", "always [never", "always] never"] {
            assert_eq!(chosen(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn other_sizes_are_off_for_a_while() {
        let directory = settings(&[(16, SETTING), (64, "[never] always\n"), (128, SETTING)]);
        // Not a size; and one that is only of other memory.
        fs::write(directory.path().join("enabled"), SETTING).unwrap();
        fs::create_dir(size(&directory, 8)).unwrap();

        let only = OnlySize::among(directory.path(), 64).unwrap();
        assert_eq!(setting(&directory, 16), "never");
        assert_eq!(setting(&directory, 64), "always");
        assert_eq!(setting(&directory, 128), "never");
        drop(only);
        assert_eq!(setting(&directory, 16), "inherit");
        assert_eq!(setting(&directory, 64), "never");
        assert_eq!(setting(&directory, 128), "inherit");
        let other = fs::read_to_string(directory.path().join("enabled")).unwrap();
        assert_eq!(other, SETTING);
        assert!(!size(&directory, 8).join("enabled").exists());
    }

    #[test]
    fn nothing_stays_changed_after_an_error() {
        const WRONG: &str = "always never\n";
        // In the middle, so that some come before it in either order.
        let sizes = [16, 32, 64, 1024, 128, 256, 512]
            .map(|kib| (kib, if kib == 1024 { WRONG } else { SETTING }));
        let directory = settings(&sizes);

        let error = OnlySize::among(directory.path(), 64).unwrap_err();
        assert!(error.to_string().contains("nothing is chosen"), "{error}");
        for (kib, text) in sizes {
            // What was changed before the error has only the word that was chosen.
            let found = setting(&directory, kib);
            assert!(found == text || found == "inherit", "{kib}: {found}");
        }
    }
}
