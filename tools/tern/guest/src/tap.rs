// SPDX-License-Identifier: MIT OR Apache-2.0

//! Reads TAP and KTAP, from a program or out of the kernel's log.
//!
//! Lines are taken as they come, so that results can be shown while the
//! program runs. Whatever is not TAP is ignored, for the kernel's log has
//! other lines in between. In KTAP a test can have subtests, which stand
//! before its own result and are indented; then the subtests count, and the
//! result of the test itself only adds what they do not tell.

use crate::suite::{Case, Verdict};

/// A block of results: one plan and what follows it at one indentation.
#[derive(Debug, Default)]
struct Block {
    indent: usize,
    name: Option<String>,
    plan: Option<usize>,
    results: usize,
    failures: usize,
}

/// Reader of one stream.
#[derive(Debug, Default)]
pub struct Parser {
    blocks: Vec<Block>,
    /// Whether the subtests of the next result failed; `None` without any.
    ended: Option<Ended>,
    seen_plan: bool,
    problems: Vec<String>,
}

/// A block of subtests whose test has not given its result yet.
#[derive(Debug)]
struct Ended {
    indent: usize,
    failures: usize,
    results: usize,
}

/// What a line of TAP says.
#[derive(Debug, PartialEq)]
enum Line<'a> {
    Version,
    Plan(usize, Option<&'a str>),
    Subtest(&'a str),
    Result {
        ok: bool,
        number: Option<usize>,
        name: &'a str,
        directive: Option<(&'a str, &'a str)>,
    },
    BailOut(&'a str),
    Other,
}

impl Parser {
    /// Takes one line, without its time stamp; returns the result in it.
    pub fn line(&mut self, text: &str) -> Option<Case> {
        let text = text.trim_end();
        let trimmed = text.trim_start();
        let indent = text.len() - trimmed.len();
        match parse(trimmed) {
            Line::Version => {
                self.open(indent);
                None
            }
            Line::Plan(count, skip) => self.plan(indent, count, skip),
            Line::Subtest(name) => {
                self.open(indent).name = Some(name.to_string());
                None
            }
            Line::Result {
                ok,
                number,
                name,
                directive,
            } => self.result(indent, ok, number, name, directive),
            Line::BailOut(why) => {
                if !self.is_complete() {
                    self.problems.push(format!("bailed out: {why}"));
                }
                None
            }
            Line::Other => None,
        }
    }

    /// What is wrong with the stream as a whole, now that it has ended.
    pub fn finish(mut self) -> Vec<String> {
        while !self.blocks.is_empty() {
            self.close();
        }
        if !self.seen_plan {
            self.problems.push("it gave no plan".to_string());
        }
        self.problems
    }

    /// Whether all planned results are there: kselftests bail out once more
    /// when some of them were failures.
    fn is_complete(&self) -> bool {
        let last = self.blocks.last();
        last.is_some_and(|block| block.plan == Some(block.results) && block.failures > 0)
    }

    /// The block at `indent`; deeper ones end.
    fn open(&mut self, indent: usize) -> &mut Block {
        while self.blocks.last().is_some_and(|b| b.indent > indent) {
            self.close();
        }
        let fresh = self.blocks.last().is_none_or(|b| b.indent < indent);
        if fresh {
            self.blocks.push(Block {
                indent,
                ..Block::default()
            });
        }
        let last = self.blocks.len() - 1;
        &mut self.blocks[last]
    }

    fn close(&mut self) {
        let path = self.path();
        let Some(block) = self.blocks.pop() else {
            return;
        };
        if let Some(plan) = block.plan {
            if plan != block.results {
                let of = if path.is_empty() {
                    String::new()
                } else {
                    format!(" of {path}")
                };
                self.problems.push(format!(
                    "{} results{of}, planned were {plan}",
                    block.results
                ));
            }
        }
        self.ended = Some(Ended {
            indent: block.indent,
            failures: block.failures,
            results: block.results,
        });
    }

    fn path(&self) -> String {
        let names: Vec<&str> = self
            .blocks
            .iter()
            .filter_map(|b| b.name.as_deref())
            .collect();
        names.join("/")
    }

    fn plan(&mut self, indent: usize, count: usize, skip: Option<&str>) -> Option<Case> {
        self.seen_plan = true;
        let block = self.open(indent);
        if block.plan.is_some_and(|plan| plan != count) {
            self.problems.push("it gave two plans".to_string());
        } else {
            block.plan = Some(count);
        }
        // All of it was skipped.
        let reason = skip.filter(|_| count == 0)?;
        let name = self.path();
        Some(Case {
            name: if name.is_empty() { "all".into() } else { name },
            verdict: Verdict::Skipped(reason.to_string()),
        })
    }

    fn result(
        &mut self,
        indent: usize,
        ok: bool,
        number: Option<usize>,
        name: &str,
        directive: Option<(&str, &str)>,
    ) -> Option<Case> {
        self.ended = None;
        let block = self.open(indent);
        block.results += 1;
        if let Some(number) = number.filter(|n| *n != block.results) {
            let expected = block.results;
            block.results = number.max(expected);
            self.problems
                .push(format!("result {number} stands where {expected} should"));
        }
        let subtests = self.ended.take().filter(|s| s.indent > indent);
        // kselftest names a skipped test only in the reason.
        let (name, directive) = match directive {
            Some((word, reason)) if name.is_empty() && !reason.is_empty() => {
                (reason, Some((word, "")))
            }
            _ => (name, directive),
        };
        let verdict = verdict(ok, directive);
        if verdict.is_failure() {
            self.open(indent).failures += 1;
        }
        if let Some(subtests) = subtests.filter(|s| s.results > 0) {
            // Its subtests were counted; only a failure that none of them
            // explains is news.
            if !verdict.is_failure() || subtests.failures > 0 {
                return None;
            }
        }
        let mut path = self.path();
        if !path.is_empty() {
            path.push('/');
        }
        path.push_str(name);
        if name.is_empty() {
            path.push_str(&number.map_or_else(|| "unnamed".to_string(), |n| n.to_string()));
        }
        Some(Case {
            name: path,
            verdict,
        })
    }
}

fn verdict(ok: bool, directive: Option<(&str, &str)>) -> Verdict {
    match directive {
        // A skipped test has not failed, whatever it says in front.
        Some(("SKIP", reason)) => Verdict::Skipped(reason.to_string()),
        // Known not to work yet: not a failure, and no success either.
        Some((word @ ("TODO" | "XFAIL"), reason)) => Verdict::Skipped(words(word, reason)),
        Some((word, reason)) if !ok => Verdict::Failed(words(word, reason)),
        _ if ok => Verdict::Passed,
        _ => Verdict::Failed(String::new()),
    }
}

fn words(word: &str, reason: &str) -> String {
    format!("{word} {reason}").trim_end().to_string()
}

fn parse(line: &str) -> Line<'_> {
    if line.starts_with("TAP version ") || line.starts_with("KTAP version ") {
        return Line::Version;
    }
    if let Some(name) = line.strip_prefix("# Subtest:") {
        return Line::Subtest(name.trim());
    }
    if let Some(why) = line.strip_prefix("Bail out!") {
        return Line::BailOut(why.trim());
    }
    if let Some(rest) = line.strip_prefix("1..") {
        let (count, behind) = split_number(rest);
        return match count {
            Some(count) => Line::Plan(count, skip_of_plan(behind)),
            None => Line::Other,
        };
    }
    let (ok, rest) = match (line.strip_prefix("not ok"), line.strip_prefix("ok")) {
        (Some(rest), _) => (false, rest),
        (_, Some(rest)) => (true, rest),
        _ => return Line::Other,
    };
    // "ok" may begin a word of prose.
    if !rest.is_empty() && !rest.starts_with(' ') {
        return Line::Other;
    }
    let (number, rest) = split_number(rest.trim_start());
    let (name, directive) = split_directive(rest);
    let name = name.trim();
    Line::Result {
        ok,
        number,
        name: name.strip_prefix("- ").unwrap_or(name),
        directive,
    }
}

fn split_number(text: &str) -> (Option<usize>, &str) {
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    match text[..end].parse() {
        Ok(number) => (Some(number), &text[end..]),
        Err(_) => (None, text),
    }
}

fn skip_of_plan(text: &str) -> Option<&str> {
    let comment = text.trim_start().strip_prefix('#')?.trim();
    let word = comment.get(..4)?;
    word.eq_ignore_ascii_case("skip")
        .then(|| comment[4..].trim())
}

/// Splits off " # DIRECTIVE reason". A `#` before anything else belongs to
/// the name.
fn split_directive(text: &str) -> (&str, Option<(&str, &str)>) {
    const WORDS: &[&str] = &["SKIP", "TODO", "XFAIL", "TIMEOUT", "ERROR"];
    for (at, _) in text.match_indices('#') {
        let comment = text[at + 1..].trim_start();
        for word in WORDS {
            let Some(head) = comment.get(..word.len()) else {
                continue;
            };
            let rest = &comment[word.len()..];
            let ends = !rest.starts_with(|c: char| c.is_alphanumeric());
            if head.eq_ignore_ascii_case(word) && ends {
                return (
                    &text[..at],
                    Some((word, rest.trim_start_matches(':').trim())),
                );
            }
        }
    }
    (text, None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::splat::message;

    fn read(text: &str) -> (Vec<(String, Verdict)>, Vec<String>) {
        let mut parser = Parser::default();
        let cases = text
            .lines()
            .filter_map(|line| parser.line(message(line)))
            .map(|case| (case.name, case.verdict))
            .collect();
        (cases, parser.finish())
    }

    fn passed(name: &str) -> (String, Verdict) {
        (name.to_string(), Verdict::Passed)
    }

    fn failed(name: &str) -> (String, Verdict) {
        (name.to_string(), Verdict::Failed(String::new()))
    }

    fn skipped(name: &str, why: &str) -> (String, Verdict) {
        (name.to_string(), Verdict::Skipped(why.to_string()))
    }

    #[test]
    fn the_kselftest_harness() {
        let (cases, problems) = read(
            "\
TAP version 13
1..4
# Starting 4 tests from 1 test cases.
#  RUN           hmm.open_close ...
#            OK  hmm.open_close
ok 1 hmm.open_close
#  RUN           hmm.b ...
# hmm-tests.c:12:b:Expected 1 (1) == 0 (0)
not ok 2 hmm.b
ok 3 hmm.c # SKIP no device
not ok 4 hmm.d # TIMEOUT 30 seconds
# FAILED: 1 / 4 tests passed.
# Totals: pass:1 fail:2 xfail:0 xpass:0 skip:1 error:0
",
        );
        assert_eq!(
            cases,
            [
                passed("hmm.open_close"),
                failed("hmm.b"),
                skipped("hmm.c", "no device"),
                ("hmm.d".into(), Verdict::Failed("TIMEOUT 30 seconds".into())),
            ]
        );
        assert!(problems.is_empty(), "{problems:?}");
    }

    #[test]
    fn kunit_in_the_kernel_log() {
        let (cases, problems) = read(
            "\
[    1.0] Run /init as init process
[    1.1] KTAP version 1
[    1.1] 1..2
[    1.1]     KTAP version 1
[    1.1]     # Subtest: list
[    1.1]     # module: list_test
[    1.1]     1..2
[    1.1] usb 1-1: a line of somebody else
[    1.1]     ok 1 init
[    1.1]         KTAP version 1
[    1.1]         # Subtest: add
[    1.1]         ok 1 head
[    1.1]         not ok 2 tail
[    1.1]     # add: pass:1 fail:1 skip:0 total:2
[    1.1]     not ok 2 add
[    1.1] # list: pass:1 fail:1 skip:0 total:2
[    1.1] not ok 1 list
[    1.1]     KTAP version 1
[    1.1]     # Subtest: rust
[    1.1]     1..1
[    1.1]     ok 1 rust_doctest_1 # SKIP needs a device
[    1.1] ok 2 rust # SKIP
",
        );
        assert_eq!(
            cases,
            [
                passed("list/init"),
                passed("list/add/head"),
                failed("list/add/tail"),
                skipped("rust/rust_doctest_1", "needs a device"),
            ]
        );
        assert!(problems.is_empty(), "{problems:?}");
    }

    #[test]
    fn a_failure_that_no_subtest_explains_counts() {
        let (cases, problems) = read("1..1\n    1..1\n    ok 1 a\nnot ok 1 suite\n");
        assert_eq!(cases, [passed("a"), failed("suite")]);
        assert!(problems.is_empty());
    }

    #[test]
    fn missing_results_are_a_problem() {
        let (cases, problems) = read("TAP version 13\n1..3\nok 1 a\n");
        assert_eq!(cases.len(), 1);
        assert_eq!(problems, ["1 results, planned were 3"]);

        let (_, problems) = read("1..1\n    # Subtest: s\n    1..2\n    ok 1 a\nok 1 s\n");
        assert_eq!(problems, ["1 results of s, planned were 2"]);
    }

    #[test]
    fn results_out_of_order_are_a_problem() {
        let (_, problems) = read("1..3\nok 1 a\nok 3 c\n");
        assert_eq!(problems, ["result 3 stands where 2 should"]);
    }

    #[test]
    fn no_plan_is_a_problem() {
        let (cases, problems) = read("Segmentation fault\n");
        assert!(cases.is_empty());
        assert_eq!(problems, ["it gave no plan"]);
    }

    #[test]
    fn the_plan_may_come_last() {
        let (cases, problems) = read("TAP version 14\nok - a\nok 2 - b\n1..2\n");
        assert_eq!(cases, [passed("a"), passed("b")]);
        assert!(problems.is_empty(), "{problems:?}");
    }

    #[test]
    fn everything_can_be_skipped_by_the_plan() {
        let (cases, problems) = read("1..0 # SKIP no /dev/x\n");
        assert_eq!(cases, [skipped("all", "no /dev/x")]);
        assert!(problems.is_empty());
    }

    #[test]
    fn bailing_out_is_a_problem() {
        let (_, problems) = read("1..1\nok 1 a\nBail out! no memory\n");
        assert_eq!(problems, ["bailed out: no memory"]);
        // Says what the results have said.
        let (_, problems) = read("1..1\nnot ok 1 a\nBail out! 1 out of 1 tests failed\n");
        assert!(problems.is_empty(), "{problems:?}");
    }

    #[test]
    fn directives_have_any_case_and_todo_is_no_success() {
        let (cases, _) = read("1..3\nok 1 a # skip: why\nnot ok 2 b # TODO later\nok 3 c # d\n");
        assert_eq!(
            cases,
            [
                skipped("a", "why"),
                skipped("b", "TODO later"),
                passed("c # d"),
            ]
        );
    }

    #[test]
    fn a_reason_stands_for_a_missing_name() {
        let (cases, _) = read("1..3\nok 1 # XFAIL a (b)\nok 2 # SKIP\nnot ok 3\n");
        assert_eq!(
            cases,
            [skipped("a (b)", "XFAIL"), skipped("2", ""), failed("3")]
        );
    }

    #[test]
    fn prose_is_not_a_result() {
        let (cases, _) = read("1..0\nokay then\nnot okay\nnote\n");
        assert!(cases.is_empty());
    }
}
