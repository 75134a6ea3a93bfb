// SPDX-License-Identifier: MIT OR Apache-2.0

//! Words and lines of files that are mapped: page cache, which the device uses where it is.

use std::ffi::c_void;
use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::ptr;

use anyhow::{bail, Context, Result};

use super::{Done, Options};
use crate::check::compare;
use crate::executor::{run_on_cpu, Executor};
use crate::kernels::{Chunk, Count, WordcountArgs, WORDCOUNT};
use crate::memory::{check_size, Buffer};

/// Bytes that a thread counts at a time.
const CHUNK: u64 = 4096;

/// Most files, far below the number of mappings that a process may have.
const MAX_FILES: usize = 16_384;

/// See [`super::Run`].
pub fn run(executor: &dyn Executor, options: &Options) -> Result<Done> {
    check_size(options.size)?;
    let texts = map_files(&options.files, options.size)?;
    let chunks: Vec<Chunk> = texts.iter().flat_map(Text::chunks).collect();
    let bytes = texts.iter().map(|text| text.length).sum();
    let mut counts = Buffer::<Count>::new(chunks.len(), options.thp)?;
    let mut args = WordcountArgs {
        chunks: chunks.as_ptr(),
        counts: counts.as_mut_ptr(),
        chunk_count: chunks.len() as u64,
        words: 0,
        lines: 0,
    };
    // SAFETY: the chunks lie in the mapped texts, there is a count for each, and nothing else uses
    // them until this returns.
    unsafe { executor.run(&WORDCOUNT, ptr::from_mut(&mut args).cast(), bytes) }?;

    let mut expected = vec![Count::default(); chunks.len()];
    let mut reference = WordcountArgs {
        chunks: chunks.as_ptr(),
        counts: expected.as_mut_ptr(),
        words: 0,
        lines: 0,
        ..args
    };
    // SAFETY: as above.
    unsafe { run_on_cpu(&WORDCOUNT, ptr::from_mut(&mut reference).cast()) };
    compare("counts", 0, &counts, &expected)?;
    let sums = |args: &WordcountArgs| [args.words, args.lines];
    compare("sums", 0, &sums(&args), &sums(&reference))?;

    let (files, words, lines) = (texts.len(), args.words, args.lines);
    Ok(Done {
        bytes,
        note: format!("{files} files, {lines} lines, {words} words"),
        ..Default::default()
    })
}

/// A file in memory, read only.
struct Text {
    start: *mut c_void,
    /// Bytes, not 0.
    length: u64,
}

impl Text {
    /// Maps the first `most` bytes of a file at most; `None` where there are none.
    fn map(path: &Path, most: u64) -> Result<Option<Self>> {
        let failed = || format!("cannot map {}", path.display());
        let file = File::open(path).with_context(failed)?;
        let length = file.metadata().with_context(failed)?.len().min(most);
        if length == 0 {
            return Ok(None);
        }
        // SAFETY: a new mapping at an address of the kernel's choice touches no existing memory.
        let start = unsafe {
            libc::mmap(
                ptr::null_mut(),
                length as usize,
                libc::PROT_READ,
                libc::MAP_PRIVATE,
                file.as_raw_fd(),
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(std::io::Error::last_os_error()).with_context(failed);
        }
        Ok(Some(Self { start, length }))
    }

    /// Its parts, in order.
    fn chunks(&self) -> impl Iterator<Item = Chunk> + '_ {
        (0..self.length).step_by(CHUNK as usize).map(|start| Chunk {
            text: self.start.cast(),
            start,
            end: (start + CHUNK).min(self.length),
        })
    }
}

impl Drop for Text {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours; its chunks are gone by now.
        unsafe { libc::munmap(self.start, self.length as usize) };
    }
}

/// Maps files, and those below directories in the order of their names, up to `size` bytes.
fn map_files(paths: &[PathBuf], size: u64) -> Result<Vec<Text>> {
    let mut texts = Vec::new();
    let mut left = size;
    // A stack: the last is the next.
    let mut waiting: Vec<PathBuf> = paths.iter().rev().cloned().collect();
    while let Some(path) = waiting.pop() {
        if left == 0 || texts.len() == MAX_FILES {
            break;
        }
        let kind =
            fs::metadata(&path).with_context(|| format!("cannot read {}", path.display()))?;
        if kind.is_dir() {
            waiting.extend(entries(&path)?);
        } else if kind.is_file() {
            if let Some(text) = Text::map(&path, left)? {
                left -= text.length;
                texts.push(text);
            }
        }
    }
    if texts.is_empty() {
        bail!("no file with contents to count words in; give files or directories with --files");
    }
    Ok(texts)
}

/// Entries of a directory by descending name. Symbolic links are left out: they can form loops.
fn entries(directory: &Path) -> Result<Vec<PathBuf>> {
    let failed = || format!("cannot read {}", directory.display());
    let mut paths = Vec::new();
    for entry in fs::read_dir(directory).with_context(failed)? {
        let entry = entry.with_context(failed)?;
        if !entry.file_type().with_context(failed)?.is_symlink() {
            paths.push(entry.path());
        }
    }
    paths.sort_unstable_by(|a, b| b.cmp(a));
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use super::super::tests::options;
    use super::*;
    use crate::check::Mismatch;
    use crate::executor::tests::Cpu;

    /// A directory with texts, and a part that holds nothing.
    fn tree() -> tempfile::TempDir {
        let tree = tempfile::tempdir().unwrap();
        fs::create_dir(tree.path().join("below")).unwrap();
        fs::write(tree.path().join("a"), "one two\nthree\n").unwrap();
        fs::write(tree.path().join("below/b"), "word\t".repeat(3000)).unwrap();
        fs::write(tree.path().join("empty"), "").unwrap();
        std::os::unix::fs::symlink(tree.path(), tree.path().join("below/loop")).unwrap();
        tree
    }

    fn count(paths: &[PathBuf], size: u64, threads: u64) -> Result<Done> {
        let options = Options {
            files: paths.to_vec(),
            size,
            ..options()
        };
        run(
            &Cpu {
                threads,
                ..Default::default()
            },
            &options,
        )
    }

    #[test]
    fn counts_words_once_across_chunks() {
        let tree = tree();
        for threads in [1, 2, 64] {
            let done = count(&[tree.path().into()], 1 << 20, threads).unwrap();
            assert_eq!(done.bytes, 14 + 15_000);
            assert_eq!(done.note, "2 files, 2 lines, 3003 words");
        }
    }

    #[test]
    fn stops_at_the_size() {
        let tree = tree();
        let done = count(&[tree.path().into()], 14 + 5, 1).unwrap();
        assert_eq!(done.note, "2 files, 2 lines, 4 words");
    }

    #[test]
    fn a_wrong_count_and_a_wrong_sum_are_found() {
        let tree = tree();
        let options = Options {
            files: vec![tree.path().into()],
            ..options()
        };
        fn wrong_count(args: *mut c_void) {
            // SAFETY: the workload gives these arguments.
            unsafe { (*(*args.cast::<WordcountArgs>()).counts).lines += 1 }
        }
        fn wrong_sum(args: *mut c_void) {
            // SAFETY: as above.
            unsafe { (*args.cast::<WordcountArgs>()).lines += 1 }
        }
        for (mistake, place) in [
            (wrong_count as fn(*mut c_void), "counts[0]"),
            (wrong_sum, "sums[1]"),
        ] {
            let cpu = Cpu {
                threads: 1,
                mistake: Some(mistake),
                ..Default::default()
            };
            let error = run(&cpu, &options).unwrap_err();
            assert!(
                error.is::<Mismatch>() && error.to_string().contains(place),
                "{error}"
            );
        }
    }

    #[test]
    fn nothing_to_count_is_an_error() {
        let tree = tree();
        assert!(count(&[], 1 << 20, 1).is_err());
        assert!(count(&[tree.path().join("empty")], 1 << 20, 1).is_err());
        let error = count(&[tree.path().join("absent")], 1 << 20, 1).unwrap_err();
        assert!(error.to_string().contains("absent"), "{error}");
    }
}
