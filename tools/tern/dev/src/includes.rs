// SPDX-License-Identifier: MIT OR Apache-2.0

//! The graph of `#include` in the kernel's source, for the workload that searches in one.
//!
//! An edge leads from a file to each file that includes it. What the build makes, and what another
//! architecture than x86 would find elsewhere, is not in it.

use std::collections::HashMap;
use std::fmt::Write;
use std::fs;
use std::path::{Component, Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result};
use tern_paths::shown;

use crate::places::Places;
use crate::stamp::Stamp;

/// Where the compiler looks for headers.
const SEARCH: [&str; 4] = [
    "include",
    "arch/x86/include",
    "include/uapi",
    "arch/x86/include/uapi",
];

/// Writes the graph of the kernel source `tree`, unless it is there: one graph for a version of the
/// kernel, since reading all files takes a while.
pub fn ready(places: &Places, tree: &Path) -> Result<PathBuf> {
    let _lock = places.lock()?;
    let path = places.build.join("includes");
    let pins = places.env("pins");
    let version = fs::read(&pins).with_context(|| format!("{} cannot be read", shown(&pins)))?;
    let stamp = Stamp::new(path.with_extension("stamp"), version);
    if stamp.holds() && path.is_file() {
        return Ok(path);
    }
    stamp.clear()?;
    let start = Instant::now();
    eprintln!("tern: the graph of the kernel's #include lines");
    let graph = graph(tree)?;
    fs::write(&path, graph).with_context(|| format!("{} cannot be written", shown(&path)))?;
    stamp.set()?;
    eprintln!(
        "tern: the graph of the kernel's #include lines: done in {} s",
        start.elapsed().as_secs()
    );
    Ok(path)
}

/// The graph as text: a line for each file, with its path and the lines, from 0, of the files that
/// include it.
fn graph(tree: &Path) -> Result<String> {
    let mut files = Vec::new();
    find(tree, Path::new(""), &mut files)?;
    files.sort_unstable();
    let numbers: HashMap<_, _> = files.iter().map(PathBuf::as_path).zip(0..).collect();

    let mut includers = vec![Vec::new(); files.len()];
    for (number, file) in files.iter().enumerate() {
        let path = tree.join(file);
        let text = fs::read(&path).with_context(|| format!("{} cannot be read", shown(&path)))?;
        let mut included: Vec<usize> = text
            .split(|&byte| byte == b'\n')
            .filter_map(|line| resolve(&numbers, file, line))
            .collect();
        included.sort_unstable();
        included.dedup();
        included
            .iter()
            .for_each(|&other| includers[other].push(number));
    }

    let mut out = String::new();
    for (file, includers) in files.iter().zip(&includers) {
        out.push_str(&file.to_string_lossy());
        for includer in includers {
            write!(out, " {includer}")?;
        }
        out.push('\n');
    }
    Ok(out)
}

/// Finds sources and headers below a directory, by their paths in the tree.
fn find(tree: &Path, directory: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    let path = tree.join(directory);
    let failed = || format!("{} cannot be read", shown(&path));
    for entry in fs::read_dir(&path).with_context(failed)? {
        let entry = entry.with_context(failed)?;
        let kind = entry.file_type().with_context(failed)?;
        let name = directory.join(entry.file_name());
        let is_source = |name: &Path| {
            let extension = name.extension().and_then(|extension| extension.to_str());
            matches!(extension, Some("c" | "h" | "S"))
        };
        if kind.is_dir() {
            find(tree, &name, files)?;
        } else if kind.is_file() && is_source(&name) {
            files.push(name);
        }
    }
    Ok(())
}

/// The number of the file that a line of `file` includes.
fn resolve(numbers: &HashMap<&Path, usize>, file: &Path, line: &[u8]) -> Option<usize> {
    let line = line.trim_ascii_start().strip_prefix(b"#")?;
    let line = line.trim_ascii_start().strip_prefix(b"include")?;
    let (quote, rest) = line.trim_ascii_start().split_first()?;
    let end = match quote {
        b'"' => b'"',
        b'<' => b'>',
        _ => return None,
    };
    let name = rest.split(|byte| *byte == end).next()?;
    let name = Path::new(std::str::from_utf8(name).ok()?);
    let beside = (end == b'"').then(|| file.parent()).flatten();
    let places = beside.into_iter().chain(SEARCH.map(Path::new));
    let mut found = places.filter_map(|place| numbers.get(plain(&place.join(name))?.as_path()));
    found.next().copied()
}

/// A path without `.` and `..`, as long as it stays in the tree.
fn plain(path: &Path) -> Option<PathBuf> {
    let mut plain = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => plain.push(name),
            Component::ParentDir => plain.pop().then_some(())?,
            Component::CurDir => {}
            Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    Some(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edges_lead_to_those_who_include() {
        let tree = tempfile::tempdir().unwrap();
        for (name, text) in [
            ("README", "#include <linux/a.h>\n"),
            ("include/linux/a.h", "#pragma once\n # include <asm/b.h>\n"),
            ("arch/x86/include/asm/b.h", "/* none */"),
            (
                "mm/c.c",
                "#include <linux/a.h> /* x */\n#include \"c.h\"\n#include <linux/a.h>\n\
                 #include <c.h>\n#include <generated/d.h>\nint include;\n",
            ),
            ("mm/c.h", "#include \"../arch/x86/include/./asm/b.h\"\n"),
            (
                "mm/z.S",
                "#include \"../../../x\"\n#include LATER\n#include </mm/c.h>\n",
            ),
        ] {
            let path = tree.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        assert_eq!(
            graph(tree.path()).unwrap(),
            "arch/x86/include/asm/b.h 1 3\ninclude/linux/a.h 2\nmm/c.c\nmm/c.h 2\nmm/z.S\n"
        );
    }
}
