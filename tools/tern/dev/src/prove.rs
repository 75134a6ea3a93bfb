// SPDX-License-Identifier: MIT OR Apache-2.0

//! What the series mends, shown on the kernel without it and on its own.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{ensure, Context, Result};
use tern_guest::options::Options;
use tern_paths::shown;

use crate::kernel::{self, kbuild, Built, Kernel};
use crate::lock::Lock;
use crate::places::Places;
use crate::selftests;
use crate::stamp::{git, Stamp};
use crate::step::Step;
use crate::tool::{hand_over, only_tells, own, succeeds_quietly};

/// The program of the tests.
const PROGRAM: &str = "hmm-large-tests";

/// What the test's module is made of, in the kernel's tree.
const SOURCES: &[&str] = &["test_hmm.c", "test_hmm_uapi.h"];

/// The first commit with which they need what only the series brings to the core.
const BEYOND_BASE: &str = "lib/test_hmm: migrate large folios of any order";

/// Runs the tests on both kernels.
pub fn prove(
    places: &Places,
    debug: bool,
    options: &Options,
    only: Option<&str>,
    args: &[String],
) -> Result<ExitCode> {
    let (with, without) = match debug {
        true => (Kernel::Debug, Kernel::BaseDebug),
        false => (Kernel::Tern, Kernel::Base),
    };
    let (tern, selftests, _tern_in_use) = selftests::ready(places, with)?;
    let program = selftests.join(PROGRAM);
    ensure!(
        program.is_file(),
        "the series has no {PROGRAM}: tools/testing/selftests/mm/{PROGRAM}.c is not in {}",
        shown(&tern.tree)
    );
    let prover = || {
        let mut command = own(places, "tern-prove");
        options.add_to(&mut command);
        command.args(only.map(|only| format!("--only={only}")));
        command.arg("--program").arg(&program).args(args);
        command
    };
    if only_tells(args) {
        return hand_over(prover());
    }
    // What is wrong with the arguments or the table shows before the other kernel is built.
    if !succeeds_quietly(prover().arg("--list"))? {
        return Ok(ExitCode::from(2));
    }

    let (base, module, _base_in_use) = base_with_module(places, without, &tern.tree)?;
    let mut command = prover();
    command
        .args(debug.then_some("--debug"))
        .arg("--base")
        .arg(&base.image)
        .arg("--base-modules")
        .arg(&base.modules)
        .arg("--base-test-hmm")
        .arg(module)
        .arg("--tern")
        .arg(&tern.image)
        .arg("--tern-modules")
        .arg(&tern.modules)
        .arg("--logs")
        .arg(directory(places, without).join("logs"));
    hand_over(command)
}

/// Where the module for a kernel without the series is built, and logs go.
fn directory(places: &Places, without: Kernel) -> PathBuf {
    places.build.join("prove").join(without.name())
}

/// Builds the kernel without the series, and for it, as an external module, the
/// test's module of the series' `tree`.
fn base_with_module(
    places: &Places,
    without: Kernel,
    tree: &Path,
) -> Result<(Built, PathBuf, Lock)> {
    let _lock = places.lock()?;
    let base = kernel::build(places, without)?;
    let output = directory(places, without).join("module");
    let mut state = base.state.clone();
    for name in SOURCES {
        state.extend(source(tree, name)?);
    }
    let stamp = Stamp::new(output.join("tern.stamp"), state);
    if !stamp.holds() {
        let _unused = base.unused()?;
        fs::create_dir_all(&output)
            .with_context(|| format!("{} cannot be made", shown(&output)))?;
        stamp.clear()?;
        make(&base, tree, &output)?;
        stamp.set()?;
    }
    let in_use = base.in_use()?;
    Ok((base, output.join("test_hmm.ko"), in_use))
}

fn make(base: &Built, tree: &Path, output: &Path) -> Result<()> {
    for name in SOURCES {
        write(&output.join(name), &source(tree, name)?)?;
    }
    write(&output.join("Kbuild"), b"obj-m := test_hmm.o\n")?;
    let what = format!("test_hmm for the kernel {}", base.kernel.name());
    let mut step = Step::start(what, output.join("build.log"))?;
    let mut module = OsString::from("M=");
    module.push(output);
    step.run(kbuild(base).arg(module).arg("modules"))?;
    step.done();
    Ok(())
}

/// A file of the module as the last commit has it that builds without the series.
fn source(tree: &Path, name: &str) -> Result<Vec<u8>> {
    git(
        tree,
        &["show", &format!("HEAD^{{/^{BEYOND_BASE}}}^:lib/{name}")],
    )
}

fn write(path: &Path, text: &[u8]) -> Result<()> {
    fs::write(path, text).with_context(|| format!("{} cannot be written", shown(path)))
}
