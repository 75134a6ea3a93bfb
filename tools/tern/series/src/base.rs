// SPDX-License-Identifier: MIT OR Apache-2.0

//! The pristine kernel: a bare repository that is made once from the source tarball.

use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Seek, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{bail, ensure, Context, Result};
use tar::EntryType;

use crate::commits::Identity;
use crate::git::Git;
use crate::lock::Lock;
use crate::progress::Step;
use tern_paths::shown;

/// The branch that holds the base that was made last.
const BRANCH: &str = "refs/heads/main";

/// The pristine kernel as a commit.
#[derive(Clone, Debug)]
pub struct Base {
    /// The bare repository.
    pub git_dir: PathBuf,
    /// Its commit; the same for the same tarball on every machine.
    pub commit: String,
}

/// Finds the base in `git_dir`, or makes it from `tar`.
///
/// One repository can hold the bases of several tarballs, told apart by size and time of the
/// tarball, so that trees which still stand on an older one stay whole.
pub fn ensure(git_dir: &Path, tar: Option<&Path>) -> Result<Base> {
    let git = Git::bare(git_dir);
    let name = match tar {
        Some(tar) => ref_of(tar)?,
        None => BRANCH.to_owned(),
    };
    if let Some(commit) = find(&git, git_dir, &name)? {
        return Ok(Base {
            git_dir: git_dir.to_owned(),
            commit,
        });
    }
    let Some(tar) = tar else {
        bail!(
            "there is no kernel base in {}; name the kernel's tarball with --base-tar",
            shown(git_dir)
        );
    };
    let lock = Lock::take(git_dir)?;
    // Somebody else may have made it while this run waited.
    let commit = match find(&git, git_dir, &name)? {
        Some(commit) => commit,
        None => import(&git.holding(lock.file()), git_dir, tar, &name)?,
    };
    Ok(Base {
        git_dir: git_dir.to_owned(),
        commit,
    })
}

fn find(git: &Git, git_dir: &Path, name: &str) -> Result<Option<String>> {
    if !git_dir.join("HEAD").is_file() {
        return Ok(None);
    }
    git.resolve(&format!("{name}^{{commit}}"))
}

fn ref_of(tar: &Path) -> Result<String> {
    let meta = fs::metadata(tar)
        .with_context(|| format!("the kernel's tarball {} cannot be read", tar.display()))?;
    Ok(format!("refs/base/{}-{}", meta.size(), meta.mtime()))
}

fn import(git: &Git, git_dir: &Path, tar: &Path, name: &str) -> Result<String> {
    fs::create_dir_all(git_dir).with_context(|| format!("{} cannot be created", shown(git_dir)))?;
    git.run(&["init", "--quiet", "--bare", "--initial-branch=main"])?;
    clear_leftovers(git_dir)?;

    let file = File::open(tar).with_context(|| format!("{} cannot be opened", tar.display()))?;
    let position = file.try_clone()?;
    let mut step = Step::new(
        format!("kernel base from {}", tar.display()),
        file.metadata()?.len(),
    );
    let mut unpacker = unpacker(tar, file)?;
    let mut importer = importer(git)?;
    let fed = feed(&mut unpacker, &mut importer, name, || {
        // The unpacker shares the file's offset.
        if let Ok(at) = (&position).stream_position() {
            step.at(at);
        }
    });
    finish(fed, unpacker, importer)?;
    step.done();
    git.resolve(name)?.context("git fast-import made no commit")
}

/// Removes the packs that a killed import left half written.
fn clear_leftovers(git_dir: &Path) -> Result<()> {
    let packs = git_dir.join("objects/pack");
    for entry in fs::read_dir(&packs)? {
        let entry = entry?;
        if entry.file_name().as_bytes().starts_with(b"tmp_") {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

fn unpacker(tar: &Path, file: File) -> Result<Child> {
    let program: &[&str] = match tar.extension().and_then(|e| e.to_str()) {
        Some("xz") => &["xz", "--decompress", "--stdout", "--threads=0"],
        Some("gz") => &["gzip", "--decompress", "--stdout"],
        Some("zst") => &["zstd", "--decompress", "--stdout"],
        Some("tar") => &["cat"],
        _ => bail!("{} is no .tar, .tar.xz, .tar.gz or .tar.zst", tar.display()),
    };
    Command::new(program[0])
        .args(&program[1..])
        .stdin(file)
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("{} cannot be run; install it", program[0]))
}

/// Neither compression nor deltas: the base is a cache, and time is what matters.
fn importer(git: &Git) -> Result<Child> {
    git.command(&[
        "-c",
        "core.compression=0",
        "-c",
        "fastimport.unpackLimit=0",
        "fast-import",
        "--quiet",
        "--done",
        "--force",
        "--depth=0",
    ])
    .stdin(Stdio::piped())
    .spawn()
    .context("git fast-import cannot be run")
}

fn feed(
    unpacker: &mut Child,
    importer: &mut Child,
    name: &str,
    mut progress: impl FnMut(),
) -> Result<()> {
    let from = unpacker.stdout.take().context("no pipe")?;
    let to = importer.stdin.take().context("no pipe")?;
    let mut archive = tar::Archive::new(io::BufReader::with_capacity(1 << 20, from));
    let mut to = BufWriter::with_capacity(1 << 20, to);
    let mut files = 0u64;
    let mut begun = false;
    for entry in archive.entries()? {
        let mut entry = entry.context("the tarball is damaged")?;
        let path = entry.path()?.into_owned();
        if !begun && !entry.header().entry_type().is_pax_global_extensions() {
            begin(&mut to, name, &path)?;
            begun = true;
        }
        let Some(path) = inner(&path)? else { continue };
        files += u64::from(add(&mut entry, &path, &mut to)?);
        progress();
    }
    ensure!(files > 0, "the tarball holds no file");
    // The second reference is for those who have the repository but not the tarball.
    writeln!(to, "\nreset {BRANCH}\nfrom {name}\n\ndone")?;
    to.flush()?;
    Ok(())
}

fn begin(to: &mut impl Write, name: &str, first: &Path) -> Result<()> {
    let top = first.iter().next().unwrap_or_default().to_string_lossy();
    let message = format!("{top}\n\nThe kernel that the series is made for, unchanged.\n");
    let who = Identity::fixed().line();
    writeln!(to, "commit {name}\ncommitter {who}\ndata {}", message.len())?;
    writeln!(to, "{message}")?;
    Ok(())
}

/// The path below the tarball's one top directory, with `/` between its parts.
fn inner(path: &Path) -> Result<Option<String>> {
    let mut parts = Vec::new();
    for part in path.components() {
        match part {
            Component::CurDir => (),
            Component::Normal(part) if part != ".git" => {
                parts.push(part.to_str().context("a path in the tarball is no UTF-8")?);
            }
            _ => bail!("the tarball holds the path {}", path.display()),
        }
    }
    Ok((parts.len() > 1).then(|| parts[1..].join("/")))
}

/// Writes one file; tells whether the entry was one.
fn add<R: Read>(entry: &mut tar::Entry<'_, R>, path: &str, to: &mut impl Write) -> Result<bool> {
    let quoted = quote(path);
    match entry.header().entry_type() {
        EntryType::Regular | EntryType::Continuous => {
            let mode = if entry.header().mode()? & 0o111 != 0 {
                "100755"
            } else {
                "100644"
            };
            let size = entry.size();
            write!(to, "M {mode} inline {quoted}\ndata {size}\n")?;
            let copied = io::copy(entry, to)?;
            ensure!(copied == size, "the tarball ends within {path}");
            writeln!(to)?;
        }
        EntryType::Symlink => {
            let target = entry.link_name_bytes().context("a link without a target")?;
            write!(to, "M 120000 inline {quoted}\ndata {}\n", target.len())?;
            to.write_all(&target)?;
            writeln!(to)?;
        }
        EntryType::Link => {
            let target = entry.link_name()?.context("a link without a target")?;
            let target = inner(&target)?.context("a link to a directory")?;
            writeln!(to, "C {} {quoted}", quote(&target))?;
        }
        EntryType::Directory | EntryType::XGlobalHeader => return Ok(false),
        kind => bail!("{path} in the tarball is neither file nor link ({kind:?})"),
    }
    Ok(true)
}

fn quote(path: &str) -> String {
    let escaped = path
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n");
    format!("\"{escaped}\"")
}

/// Waits for both ends of the pipe; what the programs say goes before a broken pipe.
fn finish(fed: Result<()>, mut unpacker: Child, mut importer: Child) -> Result<()> {
    if fed.is_err() {
        // Without the end mark fast-import gives up, and the unpacker has no reader left.
        drop(unpacker.stdout.take());
        drop(importer.stdin.take());
    }
    let importer = importer.wait()?;
    let unpacker = unpacker.wait()?;
    fed.context("the kernel's tarball could not be taken in")?;
    ensure!(
        unpacker.success(),
        "the tarball cannot be unpacked: {unpacker}"
    );
    ensure!(importer.success(), "git fast-import failed: {importer}");
    Ok(())
}
