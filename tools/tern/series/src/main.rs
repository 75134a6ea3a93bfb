// SPDX-License-Identifier: MIT OR Apache-2.0

//! `tern-series`: the kernel series as a tree, as mails, and as files again.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use tern_paths::shown;
use tern_series::manifest::MANIFEST;
use tern_series::tree::{self, Options, Places};
use tern_series::{apply, bisect, check, export, refresh};

/// Turns the manifest of the kernel series into commits, and commits back into files.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    /// The repository [default: the nearest directory upwards that has a manifest]
    #[arg(long, global = true, value_name = "DIR")]
    repo: Option<PathBuf>,
    /// The kernel's source tarball, needed the first time
    #[arg(long, global = true, value_name = "FILE", env = "TERN_BASE_TAR")]
    base_tar: Option<PathBuf>,
    /// The bare repository of the pristine kernel [default: REPO/build/base.git]
    #[arg(long, global = true, value_name = "DIR", env = "TERN_BASE_GIT")]
    base_git: Option<PathBuf>,
    /// The work tree [default: REPO/build/tree]
    #[arg(long, global = true, value_name = "DIR")]
    tree: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Makes or moves the work tree: one commit per entry
    Tree {
        /// Keep commits and edits that the repository does not have in a branch, and go on
        #[arg(long)]
        force: bool,
        /// Stop after this entry; goes to another tree [default: REPO/build/tree-upto]
        #[arg(long, value_name = "N|PATCH")]
        upto: Option<String>,
    },
    /// Takes commits and edits made in the tree back into the repository
    Refresh,
    /// Writes the series as mails to REPO/build/series and runs checkpatch on them
    Export,
    /// Puts the series on another kernel tree: commits in a git tree, else changed files
    Apply {
        /// The kernel tree
        #[arg(long, value_name = "DIR")]
        kdir: PathBuf,
    },
    /// Runs a build command at every commit in turn [tree: REPO/build/bisect]
    BisectCheck {
        /// Jobs of the build, passed on in MAKEFLAGS
        #[arg(long, value_name = "N", default_value_t = default_jobs())]
        jobs: usize,
        /// The command, run in the tree with KBUILD_OUTPUT set
        #[arg(last = true, required = true, value_name = "CMD")]
        command: Vec<String>,
    },
    /// Lists the entries
    List,
    /// Checks manifest, patches and plain files
    Check,
}

fn default_jobs() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tern-series: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> Result<()> {
    let repo = match cli.repo {
        Some(repo) => std::path::absolute(repo)?,
        None => find_repo(&std::env::current_dir()?)?,
    };
    let build = repo.join("build");
    let mut places = Places {
        base_tar: cli.base_tar,
        base_git: cli.base_git.unwrap_or_else(|| build.join("base.git")),
        tree: cli.tree.clone().unwrap_or_else(|| build.join("tree")),
        repo,
    };
    match cli.command {
        Command::Tree { force, upto } => {
            if upto.is_some() && cli.tree.is_none() {
                places.tree = build.join("tree-upto");
            }
            tree::tree(&places, &Options { force, upto })
        }
        Command::Refresh => refresh::refresh(&places),
        Command::Export => export::export(&places),
        Command::Apply { kdir } => apply::apply(&places, &kdir),
        Command::BisectCheck { jobs, command } => {
            if cli.tree.is_none() {
                places.tree = build.join("bisect");
            }
            bisect::check(&places, jobs, &command)
        }
        Command::List => check::list(&places.repo),
        Command::Check => check::check(&places.repo),
    }
}

fn find_repo(from: &Path) -> Result<PathBuf> {
    from.ancestors()
        .find(|dir| dir.join(MANIFEST).is_file())
        .map(Path::to_owned)
        .with_context(|| {
            format!(
                "there is no manifest `{MANIFEST}` in {} or above it; name the repository with \
                 --repo",
                shown(from)
            )
        })
}
