// SPDX-License-Identifier: MIT OR Apache-2.0

//! The whole tool on a tiny kernel.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use proptest::prelude::*;
use tempfile::TempDir;

const TOP: &str = "linux-test";

/// A repository with a series of two entries, a kernel tarball, and room for trees.
struct House {
    dir: TempDir,
}

impl House {
    fn new() -> Self {
        let house = Self {
            dir: tempfile::tempdir().unwrap(),
        };
        house.make_kernel();
        house.make_repo();
        house
    }

    fn path(&self, path: &str) -> PathBuf {
        self.dir.path().join(path)
    }

    fn repo(&self, path: &str) -> PathBuf {
        self.path("repo").join(path)
    }

    fn tree(&self, path: &str) -> PathBuf {
        self.repo("build/tree").join(path)
    }

    fn make_kernel(&self) {
        for (path, text) in [
            ("Kbuild", "obj-y += mm/\n".to_owned()),
            ("Makefile", "all:\n".to_owned()),
            ("mm/a.c", lines("a", 60)),
            ("mm/b.c", lines("b", 60)),
            ("drivers/gpu/drm/Makefile", lines("d", 20)),
            ("scripts/checkpatch.pl", CHECKPATCH.to_owned()),
            ("scripts/run me", "#!/bin/sh\n".to_owned()),
        ] {
            write(&self.path(TOP).join(path), &text);
        }
        let script = self.path(TOP).join("scripts/run me");
        run("chmod", &["+x", script.to_str().unwrap()], self.dir.path());
        std::os::unix::fs::symlink("mm/a.c", self.path(TOP).join("link")).unwrap();
        run("tar", &["-cf", "linux.tar", TOP], self.dir.path());
    }

    fn make_repo(&self) {
        write(&self.repo("series"), SERIES);
        write(
            &self.repo("mm/new.c"),
            "// SPDX-License-Identifier: GPL-2.0\nint new;\n",
        );
        write(
            &self.repo("drivers/gpu/drm/tern/tern.rs"),
            "// SPDX-License-Identifier: GPL-2.0\n//! tern\n",
        );
        write(
            &self.repo("Documentation/gpu/tern.rst"),
            ".. SPDX-License-Identifier: GPL-2.0\n\n====\nTern\n====\n\nIt flies.\n",
        );
        write(
            &self.repo(PATCH_A),
            &patch("mm: change a", "mm/a.c", "a", 60, 10),
        );
        let subject = "drm/tern: add the driver";
        let text = patch(subject, "drivers/gpu/drm/Makefile", "d", 20, 5);
        write(&self.repo(PATCH_D), &text);
        run("git", &["init", "-q"], &self.repo(""));
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tern-series"));
        command
            .arg("--repo")
            .arg(self.repo(""))
            .arg("--base-tar")
            .arg(self.path("linux.tar"))
            .args(args)
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_CONFIG_COUNT", "0")
            .env_remove("GIT_AUTHOR_NAME")
            .env_remove("GIT_AUTHOR_EMAIL");
        command
    }

    /// Runs the tool, which must succeed; returns what it said.
    fn ok(&self, args: &[&str]) -> String {
        let output = self.command(args).output().unwrap();
        let said = said(&output);
        assert!(output.status.success(), "{args:?}: {said}");
        said
    }

    /// Runs the tool, which must fail; returns what it said.
    fn fails(&self, args: &[&str]) -> String {
        let output = self.command(args).output().unwrap();
        let said = said(&output);
        assert!(!output.status.success(), "{args:?}: {said}");
        assert!(!said.contains("panicked"), "{said}");
        said
    }

    fn git(&self, args: &[&str]) -> String {
        git(&self.tree(""), args)
    }

    fn subjects(&self) -> Vec<String> {
        let log = self.git(&["log", "--reverse", "--format=%s", "refs/tern/base..HEAD"]);
        log.lines().map(str::to_owned).collect()
    }

    /// The tree of all that the work tree holds.
    fn seen(&self) -> String {
        let index = self.path("seen-index");
        let run = |args: &[&str]| {
            let output = git_command(&self.tree(""), args)
                .env("GIT_INDEX_FILE", &index)
                .output()
                .unwrap();
            assert!(output.status.success(), "{}", said(&output));
            String::from_utf8(output.stdout).unwrap().trim().to_owned()
        };
        run(&["add", "--all", "."]);
        run(&["write-tree"])
    }

    /// After a refresh: nothing to do, and a tree from nothing is the same.
    fn assert_in_step(&self, seen: &str) {
        assert_eq!(self.git(&["rev-parse", "HEAD^{tree}"]), seen);
        assert_eq!(self.git(&["status", "--porcelain"]), "");
        let head = self.git(&["rev-parse", "HEAD"]);
        assert!(self.ok(&["tree"]).contains("is up to date"));
        assert_eq!(self.git(&["rev-parse", "HEAD"]), head);
        let other = self.path("other");
        let _ = fs::remove_dir_all(&other);
        self.ok(&["--tree", other.to_str().unwrap(), "tree"]);
        assert_eq!(git(&other, &["rev-parse", "HEAD"]), head);
        let before = self.snapshot();
        self.ok(&["refresh"]);
        assert_eq!(self.snapshot(), before);
    }

    /// All files of the repository, with their text.
    fn snapshot(&self) -> Vec<(PathBuf, String)> {
        fn walk(dir: &Path, files: &mut Vec<(PathBuf, String)>) {
            for entry in fs::read_dir(dir).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    if !path.ends_with(".git") && !path.ends_with("build") {
                        walk(&path, files);
                    }
                } else {
                    files.push((path.clone(), fs::read_to_string(path).unwrap()));
                }
            }
        }
        let mut files = Vec::new();
        walk(&self.repo(""), &mut files);
        files.sort();
        files
    }

    fn read(&self, path: &str) -> String {
        fs::read_to_string(self.repo(path)).unwrap()
    }
}

const PATCH_A: &str = "mm/0001-mm-change-a.patch";
const PATCH_D: &str = "drivers/gpu/drm/tern/0001-drm-tern-add-the-driver.patch";

const SPDX: &str = "SPDX-License-Identifier: GPL-2.0\n";

const SERIES: &str = "\
# SPDX-License-Identifier: GPL-2.0

# memory first
mm/0001-mm-change-a.patch
  mm/new.c

drivers/gpu/drm/tern/0001-drm-tern-add-the-driver.patch
  drivers/gpu/drm/tern/
  Documentation/gpu/tern.rst
";

const CHECKPATCH: &str = r#"#!/usr/bin/perl
my $bad = 0;
while (<>) { if (/UGLY/) { print "CHECK:UGLY: at $.\n"; $bad = 1; } }
exit $bad;
"#;

fn lines(name: &str, count: usize) -> String {
    numbered(name, "", 1..=count)
}

fn numbered(name: &str, indent: &str, range: std::ops::RangeInclusive<usize>) -> String {
    let lines: Vec<_> = range
        .map(|n| format!("{indent}{name} line {n}\n"))
        .collect();
    lines.concat()
}

/// A patch that changes line `at` of a file of numbered lines.
fn patch(subject: &str, path: &str, name: &str, count: usize, at: usize) -> String {
    let around = |range| numbered(name, " ", range);
    assert!(at > 3 && at + 3 <= count);
    format!(
        "{SPDX}Subject: {subject}\n\nBecause.\n---\n\n\
         diff --git a/{path} b/{path}\n--- a/{path}\n+++ b/{path}\n@@ -{from},7 +{from},7 @@\n\
         {before}-{name} line {at}\n+{name} changed {at}\n{after}",
        from = at - 3,
        before = around(at - 3..=at - 1),
        after = around(at + 1..=at + 3),
    )
}

fn write(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

fn append(path: &Path, text: &str) {
    let old = fs::read_to_string(path).unwrap();
    fs::write(path, old + text).unwrap();
}

fn replace(path: &Path, from: &str, to: &str) {
    let old = fs::read_to_string(path).unwrap();
    assert!(old.contains(from), "{} has no {from:?}", path.display());
    fs::write(path, old.replace(from, to)).unwrap();
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

fn run(program: &str, args: &[&str], dir: &Path) -> String {
    let output = Command::new(program)
        .args(args)
        .current_dir(dir)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{program} {args:?}: {}",
        said(&output)
    );
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn git_command(dir: &Path, args: &[&str]) -> Command {
    let mut command = Command::new("git");
    command
        .args(["-c", "user.name=Me", "-c", "user.email=me@example.org"])
        .args(args)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_CONFIG_COUNT", "0")
        .current_dir(dir);
    command
}

fn git(dir: &Path, args: &[&str]) -> String {
    let output = git_command(dir, args).output().unwrap();
    assert!(output.status.success(), "git {args:?}: {}", said(&output));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[test]
fn tree_has_one_commit_per_entry() {
    let house = House::new();
    house.ok(&["tree"]);
    assert_eq!(
        house.subjects(),
        ["mm: change a", "drm/tern: add the driver"]
    );
    assert!(fs::read_to_string(house.tree("mm/a.c"))
        .unwrap()
        .contains("a changed 10"));
    assert_eq!(
        fs::read_to_string(house.tree("mm/new.c")).unwrap(),
        house.read("mm/new.c")
    );
    assert_eq!(
        fs::read_link(house.tree("link")).unwrap(),
        Path::new("mm/a.c")
    );
    assert!(house
        .git(&["ls-files", "-s", "scripts/run me"])
        .starts_with("100755"));
    assert_eq!(house.git(&["status", "--porcelain"]), "");
    let first = house.git(&["show", "--stat=200", "--format=%an <%ae>%n%B", "HEAD~1"]);
    assert!(
        first.starts_with("Tern <tern@localhost>\nmm: change a\n\nBecause."),
        "{first}"
    );
    assert!(
        first.contains("mm/new.c") && !first.contains("tern.rs"),
        "{first}"
    );
    assert!(house.ok(&["tree"]).contains("is up to date"));
}

#[test]
fn commits_are_the_same_everywhere() {
    let (one, two) = (House::new(), House::new());
    one.ok(&["tree"]);
    two.ok(&["tree"]);
    assert_eq!(
        one.git(&["rev-parse", "HEAD"]),
        two.git(&["rev-parse", "HEAD"])
    );
}

#[test]
fn an_empty_series_is_the_kernel() {
    let house = House::new();
    write(
        &house.repo("series"),
        "# SPDX-License-Identifier: GPL-2.0\n",
    );
    house.ok(&["tree"]);
    assert!(house.subjects().is_empty());
    assert!(house.ok(&["tree"]).contains("is up to date"));
    house.ok(&["refresh"]);
    write(&house.repo("series"), SERIES);
    house.ok(&["tree"]);
    assert_eq!(house.subjects().len(), 2);
}

#[test]
fn a_new_base_moves_the_tree() {
    let house = House::new();
    house.ok(&["tree"]);
    let old = house.git(&["rev-parse", "refs/tern/base"]);
    append(&house.path(TOP).join("mm/b.c"), "b of the next release\n");
    run("tar", &["-cf", "next.tar", TOP], house.dir.path());
    let next = house.path("next.tar");
    let other = house.path("other.git");
    let args = [
        "--base-tar",
        next.to_str().unwrap(),
        "--base-git",
        other.to_str().unwrap(),
    ];
    let mut command = Command::new(env!("CARGO_BIN_EXE_tern-series"));
    let output = command
        .arg("--repo")
        .arg(house.repo(""))
        .args(args)
        .arg("tree")
        .output();
    let output = output.unwrap();
    assert!(output.status.success(), "{}", said(&output));
    assert_ne!(house.git(&["rev-parse", "refs/tern/base"]), old);
    assert!(fs::read_to_string(house.tree("mm/b.c"))
        .unwrap()
        .contains("next release"));
    assert_eq!(house.git(&["status", "--porcelain"]), "");
    assert_eq!(house.subjects().len(), 2);

    fs::remove_dir_all(&other).unwrap();
    let said = house.fails(&["tree"]);
    assert!(said.contains("base repository is gone"), "{said}");
}

#[test]
fn a_missing_base_is_named() {
    let house = House::new();
    fs::remove_file(house.path("linux.tar")).unwrap();
    assert!(house.fails(&["tree"]).contains("linux.tar"));
    write(&house.path("linux.tar"), "no tarball");
    assert!(house.fails(&["tree"]).contains("tarball"));
}

#[test]
fn only_changed_files_are_written() {
    let house = House::new();
    house.ok(&["tree"]);
    let time = |path: &str| fs::metadata(house.tree(path)).unwrap().modified().unwrap();
    let (new, a, tern) = (
        time("mm/new.c"),
        time("mm/a.c"),
        time("drivers/gpu/drm/tern/tern.rs"),
    );
    let first = house.git(&["rev-parse", "HEAD~1"]);
    append(&house.repo("drivers/gpu/drm/tern/tern.rs"), "// more\n");
    write(&house.repo("drivers/gpu/drm/tern/regs.rs"), "// SPDX\n");
    house.ok(&["tree"]);
    assert_eq!((time("mm/new.c"), time("mm/a.c")), (new, a));
    assert_ne!(time("drivers/gpu/drm/tern/tern.rs"), tern);
    assert!(house.tree("drivers/gpu/drm/tern/regs.rs").exists());
    assert_eq!(house.git(&["rev-parse", "HEAD~1"]), first);
}

#[test]
fn nothing_in_the_tree_is_overwritten() {
    let house = House::new();
    house.ok(&["tree"]);
    append(&house.tree("mm/b.c"), "an edit\n");
    assert!(house.ok(&["tree"]).contains("is up to date"));
    append(&house.repo("mm/new.c"), "int more;\n");
    let said = house.fails(&["tree"]);
    assert!(
        said.contains("edits") && said.contains("mm/b.c") && said.contains("--force"),
        "{said}"
    );
    house.git(&["commit", "-qam", "mm: b"]);
    assert!(house.fails(&["tree"]).contains("holds commits"));
    append(&house.tree("mm/b.c"), "another edit\n");
    write(&house.tree("mm/untracked.c"), "x\n");
    let seen = house.seen();
    let said = house.ok(&["tree", "--force"]);
    assert!(said.contains("branch kept-1"), "{said}");
    assert_eq!(house.git(&["rev-parse", "kept-1^{tree}"]), seen);
    assert_eq!(house.subjects().len(), 2);
    assert!(!fs::read_to_string(house.tree("mm/b.c"))
        .unwrap()
        .contains("edit"));
    assert!(fs::read_to_string(house.tree("mm/new.c"))
        .unwrap()
        .contains("more"));
}

#[test]
fn untracked_files_in_the_way_are_kept() {
    let house = House::new();
    house.ok(&["tree"]);
    write(&house.tree("drivers/gpu/drm/tern/regs.rs"), "mine\n");
    write(&house.repo("drivers/gpu/drm/tern/regs.rs"), "theirs\n");
    let said = house.fails(&["tree"]);
    assert!(said.contains("regs.rs"), "{said}");
    assert_eq!(
        fs::read_to_string(house.tree("drivers/gpu/drm/tern/regs.rs")).unwrap(),
        "mine\n"
    );
    assert_eq!(house.git(&["status", "--porcelain", "-uno"]), "");
}

#[test]
fn a_foreign_directory_is_left_alone() {
    let house = House::new();
    write(&house.tree("precious"), "x");
    assert!(house.fails(&["tree"]).contains("in use"));
    assert!(!house.tree(".git").exists());
}

#[test]
fn upto_makes_a_part() {
    let house = House::new();
    house.ok(&["tree", "--upto", "1"]);
    let part = house.repo("build/tree-upto");
    assert!(part.join("mm/new.c").exists() && !part.join("drivers/gpu/drm/tern").exists());
    let part_name = part.to_str().unwrap();
    assert!(house
        .fails(&["--tree", part_name, "refresh"])
        .contains("only a part"));
    house.ok(&["tree", "--upto", PATCH_D]);
    assert!(part.join("drivers/gpu/drm/tern/tern.rs").exists());
    assert!(house
        .fails(&["tree", "--upto", "3"])
        .contains("has 2 entries"));
    assert!(house
        .fails(&["tree", "--upto", "x.patch"])
        .contains("no entry x.patch"));
}

/// A killed run: the files of the new state are half written, the index is locked.
#[test]
fn a_run_cut_short_goes_on() {
    let house = House::new();
    house.ok(&["tree"]);
    let old = house.git(&["rev-parse", "HEAD", "refs/tern/source", "refs/tern/base"]);
    append(&house.repo("mm/new.c"), "int more;\nint most;\n");
    house.ok(&["tree"]);
    let new = house.git(&["rev-parse", "HEAD", "refs/tern/source", "refs/tern/base"]);
    let (old_head, new_head) = (old.lines().next().unwrap(), new.lines().next().unwrap());
    for (content, kept) in [("// SPDX-License", false), ("edited since\n", true)] {
        house.git(&["reset", "-q", "--hard", old_head]);
        house.git(&["update-ref", "refs/tern/last", old_head]);
        write(&house.tree(".git/tern/pending"), &format!("{new}\n"));
        write(&house.tree(".git/index.lock"), "");
        write(&house.tree("mm/new.c"), content);
        let said = house.ok(&["tree"]);
        assert!(said.contains("cut short"), "{said}");
        assert_eq!(said.contains("kept-1"), kept, "{said}");
        assert_eq!(house.git(&["rev-parse", "HEAD"]), new_head);
        assert_eq!(house.git(&["status", "--porcelain"]), "");
    }
    assert_eq!(house.git(&["show", "kept-1:mm/new.c"]), "edited since");
}

#[test]
fn a_first_run_cut_short_goes_on() {
    let house = House::new();
    house.ok(&["tree"]);
    let state = house.git(&["rev-parse", "HEAD", "refs/tern/source", "refs/tern/base"]);
    house.git(&["update-ref", "-d", "refs/heads/tern"]);
    house.git(&["update-ref", "-d", "refs/tern/last"]);
    fs::remove_file(house.tree(".git/index")).unwrap();
    fs::remove_file(house.tree("mm/b.c")).unwrap();
    write(&house.tree("mm/a.c"), "a li");
    write(&house.tree(".git/tern/pending"), &format!("{state}\n"));
    house.ok(&["tree"]);
    assert_eq!(house.git(&["status", "--porcelain"]), "");
    assert!(house.tree("mm/b.c").exists());
}

#[test]
fn hostile_manifests_are_refused() {
    for (text, why) in [
        (format!("{SERIES}  mm/absent.c\n"), "no file mm/absent.c"),
        (format!("{SERIES}  mm/new.c\n"), "mm/new.c is listed twice"),
        (format!("{SERIES}  /etc/passwd\n"), "absolute"),
        (format!("{SERIES}  ../x\n"), "\"..\""),
        (
            format!("{SERIES}absent.patch\n"),
            "no patch file absent.patch",
        ),
        (format!("{SERIES}{PATCH_A}\n"), "listed twice"),
        (format!("{SERIES}  mm/none/\n"), "no directory mm/none"),
        ("  x\n".to_owned(), "below no patch file"),
    ] {
        let house = House::new();
        house.ok(&["tree"]);
        let head = house.git(&["rev-parse", "HEAD"]);
        write(&house.repo("series"), &text);
        let said = house.fails(&["tree"]);
        assert!(said.contains(why), "{text}\n{said}");
        assert_eq!(house.git(&["rev-parse", "HEAD"]), head);
    }
}

#[test]
fn symlinks_are_refused() {
    let house = House::new();
    std::os::unix::fs::symlink("/etc/passwd", house.repo("drivers/gpu/drm/tern/x.rs")).unwrap();
    assert!(house.fails(&["tree"]).contains("not a regular file"));
}

#[test]
fn bad_patches_name_entry_and_hunk() {
    let house = House::new();
    replace(&house.repo(PATCH_A), " a line 9\n", " a line nine\n");
    let said = house.fails(&["tree"]);
    assert!(
        said.contains("entry 1 (mm/0001-mm-change-a.patch"),
        "{said}"
    );
    assert!(
        said.contains("hunk @@ -7,7 +7,7 @@") && said.contains("mm/a.c"),
        "{said}"
    );

    for (from, to, why) in [
        ("mm/a.c", "mm/none.c", "which the kernel does not have"),
        ("mm/a.c", "mm/new.c", "which is a plain file of"),
        (
            "Subject: mm: change a",
            "Subject: drm/tern: add the driver",
            "the same subject",
        ),
        (
            "--- a/",
            "new file mode 100644\n--- a/",
            "must be a plain file",
        ),
    ] {
        let house = House::new();
        replace(&house.repo(PATCH_A), from, to);
        let said = house.fails(&["tree"]);
        assert!(said.contains(why), "{said}");
    }
    let house = House::new();
    replace(&house.repo("series"), "  mm/new.c", "  mm/b.c");
    write(&house.repo("mm/b.c"), "x\n");
    assert!(house
        .fails(&["tree"])
        .contains("exists in the kernel already"));
}

#[test]
fn refresh_takes_edits_in() {
    let house = House::new();
    house.ok(&["tree"]);
    append(&house.tree("mm/new.c"), "int edit;\n");
    replace(&house.tree("mm/a.c"), "a changed 10", "a CHANGED 10");
    write(&house.tree("drivers/gpu/drm/tern/regs.rs"), "// SPDX\n");
    write(&house.tree("stray.o"), "x");
    let said = house.ok(&["refresh"]);
    assert!(said.contains("left alone: stray.o"), "{said}");
    assert!(house.read("mm/new.c").contains("int edit;"));
    assert!(house.read(PATCH_A).contains("+a CHANGED 10"));
    assert_eq!(house.read("drivers/gpu/drm/tern/regs.rs"), "// SPDX\n");
    assert_eq!(house.read("series"), SERIES);
    fs::remove_file(house.tree("stray.o")).unwrap();
    house.assert_in_step(&house.seen());

    append(&house.tree("mm/b.c"), "x\n");
    let said = house.fails(&["refresh"]);
    assert!(
        said.contains("mm/b.c") && said.contains("no entry changes it"),
        "{said}"
    );
}

#[test]
fn an_edit_with_two_candidates_is_refused() {
    let house = House::new();
    house.ok(&["tree"]);
    replace(&house.tree("mm/a.c"), "a line 40", "a changed 40");
    house.git(&["commit", "-qam", "mm: more of a"]);
    house.ok(&["refresh"]);
    replace(&house.tree("mm/a.c"), "a line 30", "a changed 30");
    let said = house.fails(&["refresh"]);
    assert!(
        said.contains("\"mm: change a\", \"mm: more of a\""),
        "{said}"
    );
    let before = house.seen();
    house.git(&["commit", "-qa", "--fixup=HEAD"]);
    house.ok(&["refresh"]);
    assert_eq!(house.subjects().len(), 3);
    house.assert_in_step(&before);
}

#[test]
fn refresh_takes_commits_in() {
    let house = House::new();
    house.ok(&["tree"]);
    replace(&house.tree("mm/b.c"), "b line 7", "b changed 7");
    write(&house.tree("mm/fresh.c"), "fresh\n");
    append(&house.tree("mm/new.c"), "int later;\n");
    house.git(&["add", "."]);
    house.git(&["commit", "-qm", "mm: change b\n\nA reason."]);
    let said = house.ok(&["refresh"]);
    let name = "mm/0002-mm-change-b.patch";
    assert!(
        said.contains(name) && said.contains("mm/new.c: the change by"),
        "{said}"
    );
    assert!(house
        .read(name)
        .starts_with(&format!("{SPDX}Subject: mm: change b\n\nA reason.\n---\n")));
    assert!(house
        .read("series")
        .ends_with(&format!("{name}\n  mm/fresh.c\n")));
    assert!(house.read("mm/new.c").contains("later"));
    assert!(house.git(&["show", "HEAD~2:mm/new.c"]).contains("later"));
    house.assert_in_step(&house.seen());

    // Its message, then its removal.
    house.git(&["commit", "-q", "--amend", "-m", "mm: alter b\n\nBetter."]);
    let said = house.ok(&["refresh"]);
    assert!(said.contains("new subject"), "{said}");
    assert!(house
        .read(name)
        .starts_with(&format!("{SPDX}Subject: mm: alter b\n\nBetter.\n")));
    house.git(&["reset", "-q", "--hard", "HEAD~1"]);
    house.ok(&["refresh"]);
    assert_eq!(house.read("series"), SERIES);
    assert!(!house.repo(name).exists() && !house.repo("mm/fresh.c").exists());
    house.assert_in_step(&house.seen());
}

#[test]
fn refresh_reorders() {
    let house = House::new();
    house.ok(&["tree"]);
    let picks = house.git(&["rev-list", "refs/tern/base..HEAD"]);
    let picks: Vec<_> = picks.lines().collect();
    house.git(&["reset", "-q", "--hard", "refs/tern/base"]);
    house.git(&["cherry-pick", picks[0], picks[1]]);
    house.ok(&["refresh"]);
    assert_eq!(
        house.subjects(),
        ["drm/tern: add the driver", "mm: change a"]
    );
    let series = house.read("series");
    assert!(series.find(PATCH_D) < series.find(PATCH_A), "{series}");
    house.assert_in_step(&house.seen());
}

#[test]
fn refresh_merges_with_the_repository() {
    let house = House::new();
    house.ok(&["tree"]);
    append(&house.repo("mm/new.c"), "int from_repo;\n");
    replace(
        &house.tree("drivers/gpu/drm/tern/tern.rs"),
        "//! tern",
        "//! the tern",
    );
    assert!(house.fails(&["tree"]).contains("refresh"));
    house.ok(&["refresh"]);
    assert!(house
        .read("drivers/gpu/drm/tern/tern.rs")
        .contains("the tern"));
    assert!(house.read("mm/new.c").contains("from_repo"));
    assert!(fs::read_to_string(house.tree("mm/new.c"))
        .unwrap()
        .contains("from_repo"));
    house.assert_in_step(&house.seen());

    append(&house.repo("mm/new.c"), "int one;\n");
    append(&house.tree("mm/new.c"), "int two;\n");
    let (repo, tree) = (house.snapshot(), house.seen());
    let said = house.fails(&["refresh"]);
    assert!(
        said.contains("mm/new.c") && said.contains("Nothing was written"),
        "{said}"
    );
    assert_eq!((house.snapshot(), house.seen()), (repo, tree));
}

#[test]
fn refresh_refuses_what_it_cannot_keep() {
    let house = House::new();
    house.ok(&["tree"]);
    let head = house.git(&["rev-parse", "HEAD"]);
    house.git(&["commit", "-q", "--allow-empty", "-m", "fixup! nobody"]);
    assert!(house.fails(&["refresh"]).contains("no commit \"nobody\""));
    house.git(&["reset", "-q", "--hard", &head]);
    house.git(&["checkout", "-q", "-b", "side", "HEAD~1"]);
    append(&house.tree("mm/b.c"), "x\n");
    house.git(&["commit", "-qam", "mm: side"]);
    house.git(&["merge", "-q", "-m", "merge", &head]);
    assert!(house.fails(&["refresh"]).contains("not one line"));
    house.git(&["reset", "-q", "--hard", &head]);
    append(&house.tree("mm/b.c"), "x\n");
    house.git(&["commit", "-qam", "mm: x\n\na\n---\nb"]);
    assert!(house.fails(&["refresh"]).contains("reword"));
    house.git(&["reset", "-q", "--hard", &head]);
    std::os::unix::fs::symlink("a.c", house.tree("mm/link.c")).unwrap();
    house.git(&["add", "."]);
    house.git(&["commit", "-qm", "mm: link"]);
    assert!(house.fails(&["refresh"]).contains("symbolic link"));
    write(&house.tree(".git/MERGE_HEAD"), &format!("{head}\n"));
    assert!(house.fails(&["refresh"]).contains("a merge is under way"));
}

#[test]
fn export_writes_checked_mails() {
    let house = House::new();
    assert!(house.fails(&["export"]).contains("user.name"));
    git(&house.repo(""), &["config", "user.name", "Ada L"]);
    git(
        &house.repo(""),
        &["config", "user.email", "ada@example.org"],
    );
    house.ok(&["export"]);
    let mail = |name: &str| house.read(&format!("build/series/{name}"));
    let cover = mail("0000-cover-letter.patch");
    assert!(cover.contains("Subject: [PATCH 0/2] Tern\n"), "{cover}");
    assert!(
        cover.contains("\nIt flies.\n") && cover.contains("mm: change a"),
        "{cover}"
    );
    let first = mail("0001-mm-change-a.patch");
    let header = first.split("\ndiff --git").next().unwrap();
    assert!(!header.contains("SPDX"), "{first}");
    assert!(first.contains("From: Ada L <ada@example.org>\n"), "{first}");
    assert!(
        first.contains("Because.\n\nSigned-off-by: Ada L <ada@example.org>\n---"),
        "{first}"
    );

    append(&house.repo("mm/new.c"), "UGLY\n");
    let said = house.fails(&["export"]);
    assert!(
        said.contains("0001-mm-change-a.patch:\nCHECK:UGLY"),
        "{said}"
    );
    assert_eq!(mail("0001-mm-change-a.patch"), first);
}

#[test]
fn apply_commits_to_a_git_tree() {
    let house = House::new();
    let kernel = house.path(TOP);
    let kdir = kernel.to_str().unwrap();
    // A kernel that went on, next to what the series changes.
    replace(
        &kernel.join("mm/a.c"),
        "a line 30\n",
        "a moved 30\na extra\n",
    );
    run("git", &["init", "-q"], &kernel);
    git(&kernel, &["add", "."]);
    git(&kernel, &["commit", "-qm", "theirs"]);
    house.ok(&["apply", "--kdir", kdir]);
    assert_eq!(
        git(&kernel, &["log", "--format=%s"]),
        "drm/tern: add the driver\nmm: change a\ntheirs"
    );
    assert_eq!(git(&kernel, &["status", "--porcelain"]), "");
    let text = fs::read_to_string(kernel.join("mm/a.c")).unwrap();
    assert!(text.contains("a changed 10") && text.contains("a moved 30"));
    git(&kernel, &["fsck", "--strict"]);
    assert!(house
        .ok(&["apply", "--kdir", kdir])
        .contains("whole series"));

    git(&kernel, &["reset", "-q", "--hard", "HEAD~2"]);
    replace(&kernel.join("mm/a.c"), "a line 10", "a other 10");
    let said = house.fails(&["apply", "--kdir", kdir]);
    assert!(said.contains("changes of its own"), "{said}");
    git(&kernel, &["commit", "-qam", "conflict"]);
    let head = git(&kernel, &["rev-parse", "HEAD"]);
    let said = house.fails(&["apply", "--kdir", kdir]);
    assert!(
        said.contains("mm/a.c, hunk at line 10:") && said.contains(PATCH_A),
        "{said}"
    );
    assert_eq!(git(&kernel, &["rev-parse", "HEAD"]), head);
    assert_eq!(git(&kernel, &["status", "--porcelain"]), "");
}

/// A later entry changes what an earlier one brought, so that the earlier one alone does not
/// apply any more.
#[test]
fn apply_knows_what_is_there() {
    let house = House::new();
    let again = "mm/0002-mm-change-a-again.patch";
    let text = patch("mm: change a again", "mm/a.c", "a", 60, 11);
    write(
        &house.repo(again),
        &text.replace(" a line 10\n", " a changed 10\n"),
    );
    append(&house.repo("series"), &format!("{again}\n"));
    let kernel = house.path(TOP);
    let kdir = kernel.to_str().unwrap();
    run("git", &["init", "-q"], &kernel);
    git(&kernel, &["add", "."]);
    git(&kernel, &["commit", "-qm", "theirs"]);
    house.ok(&["apply", "--kdir", kdir]);
    let head = git(&kernel, &["rev-parse", "HEAD^{tree}"]);
    let said = house.ok(&["apply", "--kdir", kdir]);
    assert!(said.contains("has the whole series"), "{said}");
    for (back, said) in [
        ("HEAD~1", "2 of the entries"),
        ("HEAD~2", "1 of the entries"),
    ] {
        git(&kernel, &["reset", "-q", "--hard", back]);
        let output = house.ok(&["apply", "--kdir", kdir]);
        assert!(output.contains(said), "{output}");
        assert_eq!(git(&kernel, &["rev-parse", "HEAD^{tree}"]), head);
    }
}

#[test]
fn apply_changes_plain_files() {
    let house = House::new();
    let kernel = house.path(TOP);
    let kdir = kernel.to_str().unwrap();
    replace(&kernel.join("mm/a.c"), "a line 10", "a other 10");
    let said = house.fails(&["apply", "--kdir", kdir]);
    assert!(
        said.contains("mm/a.c, hunk at line 10:") && said.contains(PATCH_A),
        "{said}"
    );
    assert!(!kernel.join("mm/new.c").exists());
    replace(&kernel.join("mm/a.c"), "a other 10", "a line 10");
    house.ok(&["apply", "--kdir", kdir]);
    assert!(kernel.join("drivers/gpu/drm/tern/tern.rs").exists());
    assert!(fs::read_to_string(kernel.join("mm/a.c"))
        .unwrap()
        .contains("a changed 10"));
    assert!(house
        .ok(&["apply", "--kdir", kdir])
        .contains("has the whole series"));
    let nowhere = house.path("nowhere");
    assert!(house
        .fails(&["apply", "--kdir", nowhere.to_str().unwrap()])
        .contains("is not the top of a kernel tree"));
}

#[test]
fn bisect_names_the_first_failure() {
    let house = House::new();
    let log = house.path("log");
    let script = format!(
        "echo $MAKEFLAGS $(basename $KBUILD_OUTPUT) >> {}; test ! -e drivers/gpu/drm/tern",
        log.display()
    );
    let args = ["bisect-check", "--jobs", "3", "--", "sh", "-c", &script];
    let said = house.fails(&args);
    assert!(
        said.contains("commit 2 of 2, \"drm/tern: add the driver\""),
        "{said}"
    );
    assert_eq!(
        fs::read_to_string(&log).unwrap(),
        "-j3 bisect.obj\n-j3 bisect.obj\n"
    );
    let builds = || fs::read_to_string(&log).unwrap().lines().count();
    // The commit that passed is not built again.
    house.fails(&args);
    assert_eq!(builds(), 3);
    // With another configuration it is, once.
    let config = house.path("bisect.config");
    let run = || {
        let mut command = house.command(&args);
        let output = command.env("KCONFIG_ALLCONFIG", &config).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains("commit 2 of 2"), "{said}");
    };
    write(&config, "CONFIG_A=y\n");
    run();
    assert_eq!(builds(), 5);
    run();
    assert_eq!(builds(), 6);
    write(&config, "CONFIG_A=n\n");
    run();
    assert_eq!(builds(), 8);
    house.ok(&["bisect-check", "--", "test", "-e", "mm/new.c"]);
}

/// `git am` takes a patch file as it stands, and its license is not part of the message.
#[test]
fn git_takes_patch_files() {
    let house = House::new();
    let kernel = house.path(TOP);
    run("git", &["init", "-q"], &kernel);
    git(&kernel, &["add", "."]);
    git(&kernel, &["commit", "-qm", "kernel"]);
    let text = house
        .read(PATCH_A)
        .replacen(SPDX, &format!("{SPDX}From: A <a@b>\n"), 1);
    write(&house.path("a.patch"), &text);
    git(
        &kernel,
        &["am", "-q", house.path("a.patch").to_str().unwrap()],
    );
    let message = git(&kernel, &["log", "-1", "--format=%B"]);
    assert_eq!(message, "mm: change a\n\nBecause.");
}

/// In the toolchain root the checkout has another path than outside.
#[test]
fn paths_are_those_of_the_caller() {
    let house = House::new();
    let mut command = house.command(&["tree"]);
    command
        .env("TERN_TOP", house.repo(""))
        .env("TERN_TOP_NAME", ".");
    let said = said(&command.output().unwrap());
    assert!(
        said.contains("tern-series: build/tree has 2 commits"),
        "{said}"
    );
}

#[test]
fn check_and_list() {
    let house = House::new();
    house.ok(&["check"]);
    let list = house.ok(&["list"]);
    assert!(
        list.contains("  1  mm: change a\n") && list.contains(PATCH_D),
        "{list}"
    );
    write(
        &house.repo("mm/forgotten.c"),
        "// SPDX-License-Identifier: GPL-2.0\n",
    );
    write(&house.repo("mm/0009-lost.patch"), "");
    write(&house.repo("drivers/gpu/drm/tern/bare.rs"), "// nothing\n");
    write(&house.repo("Makefile"), "all:\n");
    write(&house.repo("tools/Cargo.lock"), "version = 4\n");
    write(&house.repo("tools/fuzz/corpus/rings/1"), "7\n");
    write(&house.repo("LICENSES/GPL-2.0"), "GNU\n");
    git(&house.repo(""), &["add", "."]);
    append(&house.repo("series"), "  mm/absent.c\n");
    replace(&house.repo(PATCH_D), SPDX, "");
    append(
        &house.repo(PATCH_A),
        "diff --git a/mm/z.c b/mm/z.c\nnew file mode 100644\n",
    );
    let said = house.fails(&["check"]);
    for wrong in [
        "mm/forgotten.c is listed nowhere",
        "mm/0009-lost.patch is listed nowhere",
        "bare.rs has no SPDX",
        "mm/absent.c cannot be read",
        "mm/0001-mm-change-a.patch: it creates",
        &format!("{PATCH_D} has no SPDX"),
        "\n  Makefile has no SPDX",
    ] {
        assert!(said.contains(wrong), "{wrong}: {said}");
    }
    assert!(
        ["Cargo.lock", "LICENSES", "corpus"]
            .iter()
            .all(|path| !said.contains(path)),
        "{said}"
    );
}

/// Something that a person does in the tree.
#[derive(Clone, Debug)]
enum Deed {
    EditPlain(u8),
    EditExisting(u8),
    NewInListed(u8),
    CommitExisting(u8),
    CommitPlain(u8),
    CommitNew(u8),
    Fixup(u8),
    Swap,
    Drop,
}

fn deed() -> impl Strategy<Value = Deed> {
    prop_oneof![
        any::<u8>().prop_map(Deed::EditPlain),
        any::<u8>().prop_map(Deed::EditExisting),
        any::<u8>().prop_map(Deed::NewInListed),
        any::<u8>().prop_map(Deed::CommitExisting),
        any::<u8>().prop_map(Deed::CommitPlain),
        any::<u8>().prop_map(Deed::CommitNew),
        any::<u8>().prop_map(Deed::Fixup),
        Just(Deed::Swap),
        Just(Deed::Drop),
    ]
}

/// Changes one numbered line; every deed has its own line, so that commits can be reordered.
fn change_line(path: &Path, nth: usize) {
    let text = fs::read_to_string(path).unwrap();
    let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
    let at = nth % lines.len();
    lines[at].push('+');
    fs::write(path, lines.join("\n") + "\n").unwrap();
}

impl Deed {
    /// Does it, where the tree allows; `serial` makes subjects and names unique.
    fn run(&self, house: &House, serial: usize) {
        let commit = |message: &str| {
            house.git(&["add", "."]);
            house.git(&["commit", "-q", "--allow-empty", "-m", message]);
        };
        let has = |path: &str| house.tree(path).exists();
        match *self {
            Deed::EditPlain(n) if has("mm/new.c") => {
                append(&house.tree("mm/new.c"), &format!("int edit{n};\n"));
            }
            Deed::EditExisting(n) if has("drivers/gpu/drm/tern/tern.rs") => {
                change_line(&house.tree("drivers/gpu/drm/Makefile"), n.into());
            }
            Deed::NewInListed(n) if has("drivers/gpu/drm/tern/tern.rs") => {
                write(
                    &house.tree(&format!("drivers/gpu/drm/tern/n{n}.rs")),
                    "// SPDX\n",
                );
            }
            Deed::CommitExisting(n) => {
                change_line(&house.tree("mm/b.c"), n.into());
                commit(&format!("mm: b {serial}"));
            }
            Deed::CommitPlain(n) if has("mm/new.c") => {
                append(&house.tree("mm/new.c"), &format!("int commit{n};\n"));
                commit(&format!("mm: plain {serial}"));
            }
            Deed::CommitNew(n) => {
                write(
                    &house.tree(&format!("mm/c{serial}.c")),
                    &format!("int c{n};\n"),
                );
                commit(&format!("mm: add c {serial}"));
            }
            Deed::Fixup(n) if has("mm/new.c") => {
                change_line(&house.tree("mm/a.c"), n.into());
                commit("fixup! mm: change a");
            }
            Deed::Swap => swap(house),
            Deed::Drop if house.subjects().len() > 1 => {
                house.git(&["reset", "-q", "--hard", "HEAD~1"]);
            }
            _ => (),
        }
    }
}

/// Swaps the last two commits if they do not depend on each other.
fn swap(house: &House) {
    let picks = house.git(&["rev-list", "--reverse", "refs/tern/base..HEAD"]);
    let picks: Vec<_> = picks.lines().collect();
    let [.., one, two] = picks[..] else { return };
    let subjects = house.subjects();
    if subjects
        .iter()
        .rev()
        .take(2)
        .any(|s| s.starts_with("fixup!"))
    {
        return;
    }
    house.git(&["reset", "-q", "--hard", "HEAD~2"]);
    let pick = git_command(&house.tree(""), &["cherry-pick", "--allow-empty", two, one])
        .output()
        .unwrap();
    if !pick.status.success() {
        house.git(&["cherry-pick", "--abort"]);
        house.git(&["reset", "-q", "--hard", two]);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 60, ..Default::default() })]

    /// Whatever is done in the tree, a refresh keeps it, and the tree follows the repository.
    #[test]
    fn round_trip(mut rounds in prop::collection::vec(prop::collection::vec(deed(), 1..6), 1..3)) {
        let house = House::new();
        house.ok(&["tree"]);
        let mut serial = 0;
        for deeds in &mut rounds {
            // Edits come last: the deeds that reset the tree would wipe them out.
            deeds.sort_by_key(|deed| {
                matches!(deed, Deed::EditPlain(_) | Deed::EditExisting(_) | Deed::NewInListed(_))
            });
            for deed in deeds {
                serial += 1;
                deed.run(&house, serial);
            }
            let seen = house.seen();
            house.ok(&["refresh"]);
            house.assert_in_step(&seen);
        }
    }
}
