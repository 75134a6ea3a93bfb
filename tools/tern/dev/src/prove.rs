// SPDX-License-Identifier: MIT OR Apache-2.0

//! What the series mends, shown on the kernel without it and on its own.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{ensure, Result};
use tern_guest::options::Options;
use tern_paths::shown;

use crate::kernel::Kernel;
use crate::places::Places;
use crate::selftests;
use crate::test_hmm;
use crate::tool::{hand_over, only_tells, own, succeeds_quietly};

/// The program of the tests.
const PROGRAM: &str = "hmm-large-tests";

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

    let (base, module, _base_in_use) = test_hmm::ready(places, without)?;
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
        .arg(logs(places, without));
    hand_over(command)
}

/// Where logs go.
fn logs(places: &Places, without: Kernel) -> PathBuf {
    let directory = places.build.join("prove").join(without.name());
    directory.join("logs")
}
