// SPDX-License-Identifier: MIT OR Apache-2.0

//! Paths that the tools share: in messages, and to each other.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// `path`, ready to be printed.
///
/// The toolchain root shows the checkout at a place of its own, `TERN_TOP`;
/// `TERN_TOP_NAME` is what the person calls it. Without a name, paths below it
/// are those from its top.
pub fn shown(path: &Path) -> String {
    let variable = |name| std::env::var_os(name).map(PathBuf::from);
    let name = variable("TERN_TOP_NAME").unwrap_or_else(|| ".".into());
    let renamed = variable("TERN_TOP").and_then(|top| rename(path, &top, &name));
    renamed.as_deref().unwrap_or(path).display().to_string()
}

fn rename(path: &Path, top: &Path, name: &Path) -> Option<PathBuf> {
    let below = path.strip_prefix(top).ok()?;
    let here = name == Path::new(".") && !below.as_os_str().is_empty();
    Some(if here {
        below.to_owned()
    } else {
        name.join(below)
    })
}

/// The program `name` in the directory of this one.
///
/// # Errors
///
/// Fails when the system does not tell where this program is.
pub fn beside(name: &str) -> Result<PathBuf> {
    let own = std::env::current_exe().context("cannot find this program's own file")?;
    Ok(own.with_file_name(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_below_the_checkout_get_its_name() {
        let rename = |path: &str, name: &str| {
            rename(path.as_ref(), "/tern".as_ref(), name.as_ref())
                .map(|path| path.display().to_string())
        };
        assert_eq!(
            rename("/tern/build/guest.log", ".").unwrap(),
            "build/guest.log"
        );
        assert_eq!(rename("/tern/build", "/src/t").unwrap(), "/src/t/build");
        assert_eq!(rename("/ternary", "."), None);
    }
}
