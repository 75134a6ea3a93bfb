// SPDX-License-Identifier: MIT OR Apache-2.0

//! The guest's kernel: tree, configuration, image and modules.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use clap::ValueEnum;
use tern_paths::shown;

use crate::config::Config;
use crate::lock::Lock;
use crate::places::Places;
use crate::series;
use crate::stamp::{self, Stamp};
use crate::step::Step;

/// Which kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Kernel {
    /// The series, with cheap checks
    Tern,
    /// The kernel that the series is made for, without the series
    Base,
    /// The series, with all that catches bugs
    Debug,
    /// The kernel without the series, with all that catches bugs
    BaseDebug,
    /// The series without what is written in Rust, with KMSAN
    Kmsan,
    /// The series, without checks, for figures
    Release,
}

impl Kernel {
    /// Its name on the command line and in `build/`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tern => "tern",
            Self::Base => "base",
            Self::Debug => "debug",
            Self::BaseDebug => "base-debug",
            Self::Kmsan => "kmsan",
            Self::Release => "release",
        }
    }

    /// Whether it has the series.
    pub fn has_series(self) -> bool {
        !matches!(self, Self::Base | Self::BaseDebug)
    }

    /// Whether it has the driver.
    pub fn has_driver(self) -> bool {
        self.has_series() && self.has_rust()
    }

    /// Whether it has what is written in Rust.
    pub fn has_rust(self) -> bool {
        self != Self::Kmsan
    }

    /// How many times as long as on the others tests take on it, at most.
    pub fn time_factor(self) -> u32 {
        match self {
            Self::Kmsan => 32,
            Self::Debug | Self::BaseDebug => 16,
            Self::Tern | Self::Base | Self::Release => 1,
        }
    }

    /// How many times as much memory a guest needs with it as with the others.
    pub fn memory_factor(self) -> u32 {
        match self {
            // Of each byte it keeps which bits are initialised, and where it comes from.
            Self::Kmsan => 3,
            Self::Tern | Self::Base | Self::Debug | Self::BaseDebug | Self::Release => 1,
        }
    }

    /// Files of its configuration, in order.
    pub fn fragments(self) -> &'static [&'static str] {
        match self {
            Self::Tern => &["kernel.config", "series.config"],
            Self::Base => &["kernel.config"],
            Self::Debug => &["kernel.config", "series.config", "debug.config"],
            Self::BaseDebug => &["kernel.config", "debug.config"],
            Self::Kmsan => &["kernel.config", "kmsan.config"],
            Self::Release => &["kernel.config", "series.config", "release.config"],
        }
    }
}

/// A kernel that is ready to boot.
#[derive(Clone, Debug)]
pub struct Built {
    /// What was built.
    pub kernel: Kernel,
    /// Its source.
    pub tree: PathBuf,
    /// Its objects.
    pub objects: PathBuf,
    /// The image.
    pub image: PathBuf,
    /// Where its modules were installed.
    pub modules: PathBuf,
    /// What it was made from, see [`stamp`].
    pub state: Vec<u8>,
}

impl Built {
    /// Lets no run rebuild what guests boot from, its selftests included, until
    /// the value is gone and the programs started meanwhile have ended.
    pub fn in_use(&self) -> Result<Lock> {
        Lock::shared(&self.lock_file(), "another run rebuilds this kernel")
    }

    /// Waits until no guest runs that was booted from it.
    pub fn unused(&self) -> Result<Lock> {
        let what = "a guest runs on this kernel, which is to be rebuilt; end it to go on";
        Lock::exclusive(&self.lock_file(), what)
    }

    fn lock_file(&self) -> PathBuf {
        self.objects.with_extension("lock")
    }
}

/// Builds what is not there yet, and keeps it as it is: for who boots it.
pub fn ready(places: &Places, kernel: Kernel) -> Result<(Built, Lock)> {
    let _lock = places.lock()?;
    let built = build(places, kernel)?;
    let in_use = built.in_use()?;
    Ok((built, in_use))
}

/// Builds what is not there yet; the caller holds the lock of [`Places`].
pub fn build(places: &Places, kernel: Kernel) -> Result<Built> {
    let tree = series::tree_of(places, kernel)?;
    let config = Config::of(places, kernel)?;
    let objects = places.build.join("kernel").join(kernel.name());
    let built = Built {
        kernel,
        image: objects.join("arch/x86/boot/bzImage"),
        modules: objects.join("mods"),
        state: state(&tree, &config)?,
        tree,
        objects,
    };
    let stamp = Stamp::new(built.objects.join("tern.stamp"), built.state.clone());
    if stamp.holds() && built.image.is_file() {
        return Ok(built);
    }
    let _unused = built.unused()?;
    stamp.clear()?;
    make(places, &built, &config)?;
    stamp.set()?;
    Ok(built)
}

fn state(tree: &Path, config: &Config) -> Result<Vec<u8>> {
    let mut state = stamp::versions(&["clang", "ld.lld", "rustc", "bindgen"])?;
    state.extend(config.text().into_bytes());
    state.extend(stamp::work_tree(tree)?);
    Ok(state)
}

fn make(places: &Places, built: &Built, config: &Config) -> Result<()> {
    fs::create_dir_all(&built.objects)
        .with_context(|| format!("{} cannot be made", shown(&built.objects)))?;
    let name = built.kernel.name();
    let log = places.build.join("kernel").join(format!("{name}.log"));
    let mut step = Step::start(format!("kernel {name}"), log)?;
    configure(built, config, &mut step)?;
    step.run(
        kbuild(built)
            .arg(format!("-j{}", places.jobs))
            .args(["bzImage", "modules"]),
    )?;
    remove_tree(&built.modules)?;
    let mut target = OsString::from("INSTALL_MOD_PATH=");
    target.push(&built.modules);
    step.run(kbuild(built).arg(target).arg("modules_install"))?;
    step.done();
    Ok(())
}

/// `make` in the tree, for objects elsewhere.
pub fn kbuild(built: &Built) -> Command {
    let mut output = OsString::from("O=");
    output.push(&built.objects);
    let mut command = Command::new("make");
    command
        .arg("-C")
        .arg(&built.tree)
        .arg(output)
        .args(["LLVM=1", "CC=ccache clang"])
        // The version and date of a build would make every one differ.
        .env("KBUILD_BUILD_TIMESTAMP", "1970-01-01")
        .env("KBUILD_BUILD_USER", "tern")
        .env("KBUILD_BUILD_HOST", "tern");
    command
}

fn configure(built: &Built, config: &Config, step: &mut Step) -> Result<()> {
    step.run(kbuild(built).arg("rustavailable"))?;
    let wanted = config.write(&built.objects.join("wanted.config"))?;
    step.run(
        kbuild(built)
            .env("KCONFIG_ALLCONFIG", wanted)
            .arg("allnoconfig"),
    )?;
    let got = built.objects.join(".config");
    let text =
        fs::read_to_string(&got).with_context(|| format!("{} cannot be read", shown(&got)))?;
    config.verify(&text)
}

fn remove_tree(dir: &Path) -> Result<()> {
    if dir.exists() {
        fs::remove_dir_all(dir).with_context(|| format!("{} cannot be removed", shown(dir)))?;
    }
    Ok(())
}
