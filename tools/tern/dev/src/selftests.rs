// SPDX-License-Identifier: MIT OR Apache-2.0

//! The kernel's selftests that run in the guest, built from the tree.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use tern_paths::shown;

use crate::kernel::{self, kbuild, Built, Kernel};
use crate::lock::Lock;
use crate::places::Places;
use crate::stamp::Stamp;
use crate::step::Step;

/// A directory of the kernel's selftests.
#[derive(Debug)]
struct Tests {
    /// Its path below `tools/testing/selftests`.
    source: &'static str,
    /// Where its programs go, below the directory of all of them.
    place: Option<&'static str>,
    /// Programs that are built; nothing named is all.
    programs: &'static [&'static str],
}

impl Tests {
    /// The programs that `source` has, as files of `output`: the kernel without the series does
    /// not have the series' tests.
    fn targets(&self, source: &Path, output: &Path) -> Vec<PathBuf> {
        let names = self.programs.iter();
        names
            .filter(|name| source.join(name).with_extension("c").is_file())
            .map(|name| output.join(name))
            .collect()
    }
}

const TESTS: &[Tests] = &[
    Tests {
        source: "mm",
        place: None,
        programs: &[
            "compaction_test",
            "cow",
            "folio_split_race_test",
            "gup_test",
            "hmm-large-tests",
            "hmm-mthp-tests",
            "hmm-tests",
            "khugepaged",
            "ksm_functional_tests",
            "migration",
            "mkdirty",
            "mremap_dontunmap",
            "mremap_test",
            "pagemap_ioctl",
            "prctl_thp_disable",
            "rmap",
            "soft-dirty",
            "split_huge_page_test",
            "transhuge-stress",
            "uffd-stress",
            "uffd-unit-tests",
            "uffd-wp-mremap",
        ],
    },
    Tests {
        source: "drivers/gpu/tern",
        place: Some("tern"),
        programs: &[],
    },
];

/// Builds what is not there yet, and keeps it as it is as long as the lock is
/// held; gives the kernel and the directory of the tests.
pub fn ready(places: &Places, kernel: Kernel) -> Result<(Built, PathBuf, Lock)> {
    let _lock = places.lock()?;
    let built = kernel::build(places, kernel)?;
    let output = places.build.join("selftests").join(kernel.name());
    fs::create_dir_all(&output).with_context(|| format!("{} cannot be made", shown(&output)))?;
    let mut state = built.state.clone();
    state.extend(format!("{TESTS:?}").into_bytes());
    let stamp = Stamp::new(output.join("tern.stamp"), state);
    if !stamp.holds() {
        let _unused = built.unused()?;
        stamp.clear()?;
        make(places, &built, &output)?;
        stamp.set()?;
    }
    let in_use = built.in_use()?;
    Ok((built, output, in_use))
}

fn make(places: &Places, built: &Built, output: &Path) -> Result<()> {
    let mut step = Step::start("selftests", output.join("build.log"))?;
    step.run(kbuild(built).arg("headers"))?;
    for tests in TESTS {
        let source = built
            .tree
            .join("tools/testing/selftests")
            .join(tests.source);
        if source.is_dir() {
            let output = match tests.place {
                Some(place) => output.join(place),
                None => output.to_owned(),
            };
            fs::create_dir_all(&output)
                .with_context(|| format!("{} cannot be made", shown(&output)))?;
            step.run(
                make_in(places, built, &source, &output).args(tests.targets(&source, &output)),
            )?;
        }
    }
    step.done();
    Ok(())
}

fn make_in(places: &Places, built: &Built, source: &Path, output: &Path) -> Command {
    let headers = built.objects.join("usr/include");
    let mut command = Command::new("make");
    command
        .arg("-C")
        .arg(source)
        .arg(assign("OUTPUT=", output))
        .arg(assign("KHDR_INCLUDES=-isystem ", &headers))
        .arg("LLVM=1")
        .arg(format!("-j{}", places.jobs));
    command
}

fn assign(name: &str, value: &Path) -> OsString {
    let mut argument = OsString::from(name);
    argument.push(value);
    argument
}
