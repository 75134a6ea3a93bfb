// SPDX-License-Identifier: MIT OR Apache-2.0

//! The kernel configuration that is asked for, and whether it was got.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{bail, ensure, Context, Result};
use tern_paths::shown;

use crate::kernel::Kernel;
use crate::places::Places;

/// Options by name (with `CONFIG_`), and the value that each is to have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config(BTreeMap<String, String>);

impl Config {
    /// What a kernel is to be built with: its fragments, later ones on top.
    pub fn of(places: &Places, kernel: Kernel) -> Result<Self> {
        let mut config = Self::default();
        for name in kernel.fragments() {
            let path = places.env(name);
            let text = fs::read_to_string(&path)
                .with_context(|| format!("{} cannot be read", shown(&path)))?;
            config
                .merge(&text)
                .with_context(|| format!("{} is wrong", shown(&path)))?;
        }
        Ok(config)
    }

    fn merge(&mut self, text: &str) -> Result<()> {
        for (number, line) in (1..).zip(text.lines()) {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            match line.split_once('=') {
                Some((name, value)) if name.starts_with("CONFIG_") => {
                    self.0.insert(name.to_owned(), value.to_owned());
                }
                _ => bail!("line {number} is no CONFIG_NAME=VALUE: {line}"),
            }
        }
        Ok(())
    }

    /// The fragment that all of it makes.
    pub fn text(&self) -> String {
        self.0
            .iter()
            .fold(String::new(), |mut text, (name, value)| {
                let _ = writeln!(text, "{name}={value}");
                text
            })
    }

    /// Writes the fragment for `KCONFIG_ALLCONFIG`.
    pub fn write(&self, path: &Path) -> Result<PathBuf> {
        fs::write(path, self.text())
            .with_context(|| format!("{} cannot be written", shown(path)))?;
        Ok(path.to_owned())
    }

    /// Fails, naming them, if options of a `.config` are not as asked for.
    pub fn verify(&self, dot_config: &str) -> Result<()> {
        let got: BTreeMap<_, _> = dot_config
            .lines()
            .filter_map(|line| line.split_once('='))
            .collect();
        let wrong: Vec<_> = self
            .0
            .iter()
            .filter_map(|(name, value)| {
                let got = got.get(name.as_str()).copied().unwrap_or("n");
                (got != value).then(|| format!("{name}={value} (is {got})"))
            })
            .collect();
        ensure!(
            wrong.is_empty(),
            "the kernel does not take these options, whose dependencies are not met or which it \
             does not have: {}",
            wrong.join(", ")
        );
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(texts: &[&str]) -> Config {
        let mut config = Config::default();
        for text in texts {
            config.merge(text).unwrap();
        }
        config
    }

    #[test]
    fn later_fragments_win() {
        let config = config(&["# a\nCONFIG_A=y\nCONFIG_B=y\n", "\nCONFIG_B=n\n"]);
        assert_eq!(config.text(), "CONFIG_A=y\nCONFIG_B=n\n");
    }

    #[test]
    fn a_line_that_is_no_option_is_named() {
        let error = Config::default().merge("CONFIG_A=y\nB=y").unwrap_err();
        assert!(error.to_string().contains("line 2"), "{error}");
    }

    #[test]
    fn what_was_not_got_is_named() {
        let config = config(&["CONFIG_A=y\nCONFIG_B=m\nCONFIG_C=n\nCONFIG_D=-1\nCONFIG_E=y"]);
        config
            .verify("CONFIG_A=y\nCONFIG_B=m\nCONFIG_D=-1\nCONFIG_E=y\n# CONFIG_C is not set\n")
            .unwrap();
        let error = config
            .verify("CONFIG_A=y\nCONFIG_B=y\nCONFIG_C=y\nCONFIG_D=-1\n")
            .unwrap_err()
            .to_string();
        for wrong in [
            "CONFIG_B=m (is y)",
            "CONFIG_C=n (is y)",
            "CONFIG_E=y (is n)",
        ] {
            assert!(error.contains(wrong), "{error}");
        }
        assert!(
            !error.contains("CONFIG_A") && !error.contains("CONFIG_D"),
            "{error}"
        );
    }
}
