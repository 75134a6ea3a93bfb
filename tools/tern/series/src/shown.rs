// SPDX-License-Identifier: MIT OR Apache-2.0

//! Paths in messages, as the person who called knows them.

use std::path::{Path, PathBuf};

/// `path`, ready to be printed.
///
/// The toolchain root shows the checkout at a place of its own, `TERN_TOP`; `TERN_TOP_NAME` is
/// what the person calls it.
pub fn shown(path: &Path) -> String {
    let variable = |name| std::env::var_os(name).map(PathBuf::from);
    let renamed = variable("TERN_TOP")
        .zip(variable("TERN_TOP_NAME"))
        .and_then(|(top, name)| rename(path, &top, &name));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_below_the_checkout_get_its_name() {
        let rename = |path: &str, name: &str| {
            rename(path.as_ref(), "/tern".as_ref(), name.as_ref())
                .map(|path| path.display().to_string())
        };
        assert_eq!(rename("/tern/build/tree", ".").unwrap(), "build/tree");
        assert_eq!(rename("/tern/build", "/src/t").unwrap(), "/src/t/build");
        assert_eq!(rename("/ternary", "."), None);
    }
}
