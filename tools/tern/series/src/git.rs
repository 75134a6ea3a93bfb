// SPDX-License-Identifier: MIT OR Apache-2.0

//! Running `git`, always on a repository that is named outright.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;

use anyhow::{bail, ensure, Context, Result};

/// Variables that would send git to another repository or index than the one meant.
const HIJACKERS: [&str; 8] = [
    "GIT_DIR",
    "GIT_WORK_TREE",
    "GIT_INDEX_FILE",
    "GIT_OBJECT_DIRECTORY",
    "GIT_ALTERNATE_OBJECT_DIRECTORIES",
    "GIT_COMMON_DIR",
    "GIT_NAMESPACE",
    "GIT_PREFIX",
];

/// A git repository, and how to run git on it.
///
/// The object database and the work tree are passed explicitly, so that git never searches
/// upwards: a damaged tree inside another checkout must not make git touch that checkout.
#[derive(Clone, Debug)]
pub struct Git {
    cwd: PathBuf,
    envs: Vec<(OsString, OsString)>,
    held: Option<Arc<File>>,
    isolated: bool,
}

impl Git {
    /// The repository whose database is `git_dir`, without a work tree.
    pub fn bare(git_dir: &Path) -> Self {
        Self::isolated(git_dir).env("GIT_DIR", git_dir)
    }

    /// The repository in `dir`, with its database in `dir/.git`.
    pub fn work_tree(dir: &Path) -> Self {
        Self::isolated(dir)
            .env("GIT_DIR", dir.join(".git"))
            .env("GIT_WORK_TREE", dir)
    }

    /// Git as the person who runs this program has set it up, in a directory of theirs.
    pub fn user(dir: &Path) -> Self {
        Self {
            cwd: dir.to_owned(),
            envs: Vec::new(),
            held: None,
            isolated: false,
        }
    }

    fn isolated(dir: &Path) -> Self {
        Self {
            isolated: true,
            ..Self::user(dir)
        }
    }

    /// Adds a variable to the environment of every command.
    pub fn env(mut self, key: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.envs.push((key.into(), value.into()));
        self
    }

    /// Makes commands use `index` in place of the index of the work tree.
    pub fn index(&self, index: &Path) -> Self {
        self.clone().env("GIT_INDEX_FILE", index)
    }

    /// Gives `file` to every command that needs no input, as its standard input.
    ///
    /// With a lock file this keeps the lock until the last git process has ended, even when
    /// this process was killed before.
    pub fn holding(mut self, file: Arc<File>) -> Self {
        self.held = Some(file);
        self
    }

    /// The command `git ARGS`, ready to run.
    pub fn command<S: AsRef<OsStr>>(&self, args: &[S]) -> Command {
        let mut command = Command::new("git");
        for key in HIJACKERS {
            command.env_remove(key);
        }
        if self.isolated {
            command
                .env("GIT_CONFIG_GLOBAL", "/dev/null")
                .env("GIT_CONFIG_NOSYSTEM", "1")
                .env("GIT_OPTIONAL_LOCKS", "0");
        }
        // The owner of the checkout may be another user: containers and user namespaces.
        command
            .args(["-c", "safe.directory=*", "-c", "gc.auto=0"])
            .args(["-c", "core.quotePath=false", "-c", "core.autocrlf=false"])
            .args(["-c", "core.hooksPath=/dev/null"])
            .env("LC_ALL", "C")
            .args(args)
            .current_dir(&self.cwd)
            .envs(self.envs.iter().map(|(k, v)| (k, v)));
        match &self.held {
            Some(file) => match file.try_clone() {
                Ok(file) => command.stdin(file),
                Err(_) => command.stdin(Stdio::null()),
            },
            None => command.stdin(Stdio::null()),
        };
        command
    }

    /// Runs git and returns all that came of it, whatever its status.
    pub fn output<S: AsRef<OsStr>>(&self, args: &[S], input: Option<&[u8]>) -> Result<Output> {
        let mut command = self.command(args);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        if input.is_some() {
            command.stdin(Stdio::piped());
        }
        let mut child = command
            .spawn()
            .context("git cannot be run; is it installed?")?;
        let stdin = child.stdin.take();
        std::thread::scope(|scope| {
            if let (Some(mut stdin), Some(input)) = (stdin, input) {
                // A git that stops early closes the pipe; its status tells why.
                scope.spawn(move || stdin.write_all(input));
            }
            child.wait_with_output().context("git was lost")
        })
    }

    /// Runs git with `input` and returns its standard output; a failure is an error that holds
    /// what git said.
    pub fn feed<S: AsRef<OsStr>>(&self, args: &[S], input: &[u8]) -> Result<Vec<u8>> {
        let output = self.output(args, Some(input))?;
        checked(args, output)
    }

    /// Runs git and returns its standard output.
    pub fn bytes<S: AsRef<OsStr>>(&self, args: &[S]) -> Result<Vec<u8>> {
        let output = self.output(args, None)?;
        checked(args, output)
    }

    /// Runs git and returns its standard output as text, without the last line feed.
    pub fn text<S: AsRef<OsStr>>(&self, args: &[S]) -> Result<String> {
        let text = String::from_utf8(self.bytes(args)?).context("git printed no UTF-8")?;
        Ok(text.trim_end_matches('\n').to_owned())
    }

    /// Runs git for its effect.
    pub fn run<S: AsRef<OsStr>>(&self, args: &[S]) -> Result<()> {
        self.bytes(args).map(drop)
    }

    /// Runs a git command that answers by its status: 0 for yes, 1 for no.
    pub fn ask<S: AsRef<OsStr>>(&self, args: &[S]) -> Result<bool> {
        let output = self.output(args, None)?;
        match output.status.code() {
            Some(0) => Ok(true),
            Some(1) => Ok(false),
            _ => checked(args, output).map(|_| true),
        }
    }

    /// The object that `name` stands for, if there is one.
    pub fn resolve(&self, name: &str) -> Result<Option<String>> {
        let output = self.output(&["rev-parse", "--verify", "--quiet", name], None)?;
        if !output.status.success() {
            return Ok(None);
        }
        Ok(Some(String::from_utf8(output.stdout)?.trim().to_owned()))
    }

    /// The objects of every entry of `names` (such as `COMMIT:PATH`), `None` where there is none.
    pub fn resolve_all(&self, names: &[String]) -> Result<Vec<Option<String>>> {
        if names.is_empty() {
            return Ok(Vec::new());
        }
        let input = names.join("\n") + "\n";
        let out = self.feed(
            &["cat-file", "--batch-check=%(objectname) %(objecttype)"],
            input.as_bytes(),
        )?;
        let out = String::from_utf8(out)?;
        let found: Vec<_> = out
            .lines()
            .map(|line| match line.rsplit_once(' ') {
                Some((_, "missing" | "ambiguous")) | None => None,
                Some((object, _)) => Some(object.to_owned()),
            })
            .collect();
        ensure!(found.len() == names.len(), "git cat-file lost answers");
        Ok(found)
    }

    /// Stores `bytes` as a blob.
    pub fn blob(&self, bytes: &[u8]) -> Result<String> {
        let out = self.feed(&["hash-object", "-w", "--stdin"], bytes)?;
        Ok(String::from_utf8(out)?.trim().to_owned())
    }

    /// The contents of a blob.
    pub fn cat(&self, object: &str) -> Result<Vec<u8>> {
        self.bytes(&["cat-file", "blob", object])
    }

    /// Stores the files as blobs, as they are, in this order. Nothing is stored when `write` is
    /// false: the names of the objects are computed only.
    pub fn blobs_of_files(&self, files: &[PathBuf], write: bool) -> Result<Vec<String>> {
        let mut input = Vec::new();
        for file in files {
            input.extend_from_slice(file.as_os_str().as_encoded_bytes());
            input.push(b'\n');
        }
        let mut args = vec!["hash-object", "--no-filters", "--stdin-paths"];
        if write {
            args.push("-w");
        }
        let out = String::from_utf8(self.feed(&args, &input)?)?;
        let blobs: Vec<_> = out.lines().map(str::to_owned).collect();
        ensure!(blobs.len() == files.len(), "git hash-object lost answers");
        Ok(blobs)
    }

    /// What differs between two tree-ishes, file by file, renames taken as removal and addition.
    pub fn changes(&self, from: &str, to: &str) -> Result<Vec<Change>> {
        let out = self.bytes(&["diff-tree", "-r", "-z", "--no-renames", "--raw", from, to])?;
        parse_raw(&out)
    }

    /// The regular files of a tree-ish below `paths` (everything when empty).
    pub fn files(&self, tree: &str, paths: &[String]) -> Result<Vec<(String, Blob)>> {
        let mut args = vec!["ls-tree", "-r", "-z", "--full-tree", tree];
        args.extend(paths.iter().map(String::as_str));
        let out = String::from_utf8(self.bytes(&args)?).context("a path is not UTF-8")?;
        let mut files = Vec::new();
        for record in out.split_terminator('\0') {
            let (meta, path) = record.split_once('\t').context("git ls-tree is odd")?;
            let mut meta = meta.split(' ');
            if let (Some(mode), Some("blob"), Some(object)) =
                (meta.next(), meta.next(), meta.next())
            {
                files.push((path.to_owned(), Blob::new(mode, object)));
            }
        }
        Ok(files)
    }

    /// Makes a tree of exactly these files, by way of a throwaway index in `scratch`.
    pub fn tree_of<'a>(
        &self,
        scratch: &Path,
        files: impl IntoIterator<Item = (&'a str, &'a Blob)>,
    ) -> Result<String> {
        let dir = tempfile::tempdir_in(scratch)?;
        let git = self.index(&dir.path().join("index"));
        git.update_index(files.into_iter().map(|(path, blob)| (path, Some(blob))))?;
        git.text(&["write-tree"])
    }

    /// Sets (or, for `None`, removes) entries of the index.
    pub fn update_index<'a>(
        &self,
        files: impl IntoIterator<Item = (&'a str, Option<&'a Blob>)>,
    ) -> Result<()> {
        let mut input = Vec::new();
        for (path, blob) in files {
            match blob {
                Some(blob) => write!(input, "{} {}\t{path}\0", blob.mode, blob.object)?,
                None => write!(input, "0 {NO_OBJECT}\t{path}\0")?,
            }
        }
        self.feed(&["update-index", "-z", "--index-info"], &input)
            .map(drop)
    }

    /// Merges what leads from tree `base` to tree `theirs` into tree `ours`, file by file.
    pub fn merge(&self, base: &str, ours: &str, theirs: &str) -> Result<Merge> {
        if base == theirs {
            return Ok(Merge::Clean(ours.to_owned()));
        }
        if base == ours {
            return Ok(Merge::Clean(theirs.to_owned()));
        }
        let base = format!("--merge-base={base}");
        let args = [
            "-c",
            "merge.renames=false",
            "-c",
            "merge.directoryRenames=false",
            "merge-tree",
            "--write-tree",
            "-z",
            "--name-only",
            "--no-messages",
            &base,
            ours,
            theirs,
        ];
        let output = self.output(&args, None)?;
        let clean = match output.status.code() {
            Some(0) => true,
            Some(1) => false,
            _ => return checked(&args, output).map(|_| Merge::Clean(String::new())),
        };
        let out = String::from_utf8(output.stdout).context("a path is not UTF-8")?;
        let mut fields = out.split_terminator('\0').map(str::to_owned);
        let tree = fields.next().context("git merge-tree printed nothing")?;
        Ok(if clean {
            Merge::Clean(tree)
        } else {
            Merge::Conflict {
                tree,
                paths: fields.collect(),
            }
        })
    }
}

/// The object name that git prints for "nothing".
pub const NO_OBJECT: &str = "0000000000000000000000000000000000000000";

/// A file of a tree: its mode, as git writes it, and its contents' object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blob {
    /// `100644`, `100755` or `120000`.
    pub mode: String,
    /// Name of the blob.
    pub object: String,
}

impl Blob {
    /// A file with this mode and these contents.
    pub fn new(mode: &str, object: &str) -> Self {
        Self {
            mode: mode.to_owned(),
            object: object.to_owned(),
        }
    }
}

/// One file that differs between two trees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Path from the top of the trees.
    pub path: String,
    /// The file before, if it was there.
    pub old: Option<Blob>,
    /// The file after, if it is there.
    pub new: Option<Blob>,
}

/// What came of a merge of trees.
#[derive(Debug)]
pub enum Merge {
    /// The merged tree.
    Clean(String),
    /// Some files hold conflict markers.
    Conflict {
        /// The merged tree, conflict markers included.
        tree: String,
        /// The files in conflict.
        paths: Vec<String>,
    },
}

fn parse_raw(out: &[u8]) -> Result<Vec<Change>> {
    let out = std::str::from_utf8(out).context("a path is not UTF-8")?;
    let mut changes = Vec::new();
    let mut fields = out.split_terminator('\0');
    while let (Some(meta), Some(path)) = (fields.next(), fields.next()) {
        let meta: Vec<_> = meta.trim_start_matches(':').split(' ').collect();
        let [old_mode, new_mode, old, new, _] = meta[..] else {
            bail!("git diff-tree is odd");
        };
        let side = |mode: &str, object: &str| (mode != "000000").then(|| Blob::new(mode, object));
        changes.push(Change {
            path: path.to_owned(),
            old: side(old_mode, old),
            new: side(new_mode, new),
        });
    }
    Ok(changes)
}

fn checked<S: AsRef<OsStr>>(args: &[S], output: Output) -> Result<Vec<u8>> {
    if output.status.success() {
        return Ok(output.stdout);
    }
    let command = args
        .iter()
        .map(|arg| arg.as_ref().to_string_lossy())
        .find(|arg| !arg.starts_with('-') && !arg.contains('='))
        .unwrap_or_default();
    let said = String::from_utf8_lossy(&output.stderr);
    bail!("git {command}: {} ({})", said.trim(), output.status)
}
