// SPDX-License-Identifier: MIT OR Apache-2.0

//! The series' `lib/test_hmm` as a module of its own, also for the kernel without the series.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use tern_paths::shown;

use crate::kernel::{self, kbuild, Built, Kernel};
use crate::lock::Lock;
use crate::places::Places;
use crate::series;
use crate::stamp::{git, Stamp};
use crate::step::Step;

/// What the module is made of, in the kernel's tree.
const SOURCES: &[&str] = &["test_hmm.c", "test_hmm_uapi.h"];

/// The first commit with which they need what only the series brings to the core.
const BEYOND_BASE: &str = "lib/test_hmm: migrate large folios of any order";

/// Builds a kernel, and for it the module as the last commit of the series has it that builds
/// without the series; keeps both as they are as long as the lock is held.
pub fn ready(places: &Places, kernel: Kernel) -> Result<(Built, PathBuf, Lock)> {
    let _lock = places.lock()?;
    let built = kernel::build(places, kernel)?;
    let tree = series::tree_of(places, Kernel::Tern)?;
    let output = places.build.join("test_hmm").join(kernel.name());
    let mut state = built.state.clone();
    for name in SOURCES {
        state.extend(source(&tree, name)?);
    }
    let stamp = Stamp::new(output.join("tern.stamp"), state);
    if !stamp.holds() {
        let _unused = built.unused()?;
        fs::create_dir_all(&output)
            .with_context(|| format!("{} cannot be made", shown(&output)))?;
        stamp.clear()?;
        make(&built, &tree, &output)?;
        stamp.set()?;
    }
    let in_use = built.in_use()?;
    Ok((built, output.join("test_hmm.ko"), in_use))
}

fn make(built: &Built, tree: &Path, output: &Path) -> Result<()> {
    for name in SOURCES {
        write(&output.join(name), &source(tree, name)?)?;
    }
    write(&output.join("Kbuild"), b"obj-m := test_hmm.o\n")?;
    let what = format!("test_hmm for the kernel {}", built.kernel.name());
    let mut step = Step::start(what, output.join("build.log"))?;
    let mut module = OsString::from("M=");
    module.push(output);
    step.run(kbuild(built).arg(module).arg("modules"))?;
    step.done();
    Ok(())
}

/// A file of the module.
fn source(tree: &Path, name: &str) -> Result<Vec<u8>> {
    git(
        tree,
        &["show", &format!("HEAD^{{/^{BEYOND_BASE}}}^:lib/{name}")],
    )
}

fn write(path: &Path, text: &[u8]) -> Result<()> {
    fs::write(path, text).with_context(|| format!("{} cannot be written", shown(path)))
}
