// SPDX-License-Identifier: MIT OR Apache-2.0

//! Reads what `cargo test` prints.

use crate::suite::{Case, Verdict};

/// Reader of one run of `cargo test`, over all of its test programs.
#[derive(Debug, Default)]
pub struct Parser {
    /// The test program whose results follow.
    program: String,
    /// Results that the running program has announced and not given.
    missing: Option<usize>,
    programs: usize,
    problems: Vec<String>,
}

impl Parser {
    /// Takes one line of stdout or stderr; returns the result in it.
    pub fn line(&mut self, text: &str) -> Option<Case> {
        let text = text.trim_end();
        if let Some(name) = program(text) {
            self.program = name;
            return None;
        }
        if let Some(count) = announced(text) {
            self.end_program();
            self.programs += 1;
            self.missing = Some(count);
            return None;
        }
        if text.starts_with("test result: ") {
            self.end_program();
            return None;
        }
        if text.starts_with("error") && self.missing.is_none() && self.programs == 0 {
            self.problems.push(text.to_string());
            return None;
        }
        let case = result(text, &self.program)?;
        self.missing = self.missing.map(|count| count.saturating_sub(1));
        Some(case)
    }

    /// What is wrong with the run as a whole, now that it has ended.
    pub fn finish(mut self) -> Vec<String> {
        self.end_program();
        if self.programs == 0 {
            self.problems.push("no test program ran".to_string());
        }
        self.problems
    }

    fn end_program(&mut self) {
        if let Some(missing) = self.missing.take().filter(|count| *count > 0) {
            let program = &self.program;
            self.problems
                .push(format!("{missing} results of {program} are missing"));
        }
    }
}

/// The name in "Running unittests src/lib.rs (target/debug/deps/tern-1a2b)"
/// and "Doc-tests tern".
fn program(line: &str) -> Option<String> {
    let line = line.trim_start();
    if let Some(name) = line.strip_prefix("Doc-tests ") {
        return Some(format!("{name} (doc)"));
    }
    let (_, path) = line.strip_prefix("Running ")?.rsplit_once('(')?;
    let file = path.strip_suffix(')')?.rsplit('/').next()?;
    // Behind the last dash is a hash.
    let name = file.rsplit_once('-').map_or(file, |(name, _)| name);
    Some(name.to_string())
}

/// The count in "running 12 tests".
fn announced(line: &str) -> Option<usize> {
    let rest = line.strip_prefix("running ")?;
    let (count, word) = rest.split_once(' ')?;
    matches!(word, "test" | "tests").then(|| count.parse().ok())?
}

fn result(line: &str, program: &str) -> Option<Case> {
    let (name, word) = line.strip_prefix("test ")?.rsplit_once(" ... ")?;
    let verdict = match word.split_once(", ").map_or(word, |(word, _)| word) {
        "ok" => Verdict::Passed,
        "FAILED" => Verdict::Failed(String::new()),
        "ignored" => Verdict::Skipped(
            word.split_once(", ")
                .map_or("ignored", |(_, reason)| reason)
                .to_string(),
        ),
        _ => return None,
    };
    // "should panic" and "compile" are modes, not names.
    let name = name.split_once(" - should panic").map_or(name, |(n, _)| n);
    Some(Case {
        name: format!("{program}: {name}"),
        verdict,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUN: &str = "\
   Compiling tern v0.1.0 (/x)
    Finished `test` profile [optimized + debuginfo] target(s) in 1.00s
     Running unittests src/lib.rs (/t/debug/deps/tern_guest-0123456789abcdef)

running 3 tests
test a::one ... ok
test a::two ... ignored, needs a device
test three - should panic ... FAILED

failures:

---- three stdout ----
test result lines do not look like this ... maybe
note: it panicked

test result: FAILED. 1 passed; 1 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.1s

   Doc-tests tern_guest

running 1 test
test src/lib.rs - x (line 5) - compile ... ok

test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.1s
";

    fn read(text: &str) -> (Vec<Case>, Vec<String>) {
        let mut parser = Parser::default();
        let cases = text.lines().filter_map(|line| parser.line(line)).collect();
        (cases, parser.finish())
    }

    #[test]
    fn programs_and_documentation_are_read() {
        let (cases, problems) = read(RUN);
        let expected = [
            ("tern_guest: a::one", Verdict::Passed),
            (
                "tern_guest: a::two",
                Verdict::Skipped("needs a device".into()),
            ),
            ("tern_guest: three", Verdict::Failed(String::new())),
            (
                "tern_guest (doc): src/lib.rs - x (line 5) - compile",
                Verdict::Passed,
            ),
        ];
        let found: Vec<_> = cases
            .iter()
            .map(|c| (c.name.as_str(), c.verdict.clone()))
            .collect();
        assert_eq!(found, expected);
        assert!(problems.is_empty(), "{problems:?}");
    }

    #[test]
    fn a_program_that_dies_leaves_results_missing() {
        let (cases, problems) = read("running 2 tests\ntest a ... ok\nerror: test failed\n");
        assert_eq!(cases.len(), 1);
        assert_eq!(problems.len(), 1);
        assert!(problems[0].starts_with("1 results"), "{problems:?}");
    }

    #[test]
    fn what_does_not_compile_has_no_result() {
        let (cases, problems) = read("error[E0425]: cannot find value\n");
        assert!(cases.is_empty());
        assert_eq!(
            problems,
            ["error[E0425]: cannot find value", "no test program ran"]
        );
    }
}
