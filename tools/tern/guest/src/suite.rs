// SPDX-License-Identifier: MIT OR Apache-2.0

//! The table of test suites, and what counts.

use std::collections::BTreeMap;
use std::fmt;

use anyhow::{bail, Context, Result};
use serde::Deserialize;

/// How a test went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// As it should.
    Passed,
    /// Not as it should; details, if it gave any.
    Failed(String),
    /// It did not run, for this reason.
    Skipped(String),
}

impl Verdict {
    /// Whether the test failed.
    pub fn is_failure(&self) -> bool {
        matches!(self, Self::Failed(_))
    }
}

/// The result of one test.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Case {
    /// Name within its suite.
    pub name: String,
    /// How it went.
    pub verdict: Verdict,
}

/// Where a suite runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Place {
    /// Here, in the checkout.
    Host,
    /// In a guest that is booted for it.
    Guest,
}

/// What a suite's results are written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    /// The output of `cargo test`.
    Libtest,
    /// TAP or KTAP on stdout.
    Tap,
    /// KTAP in the log of the guest's kernel.
    KernelLog,
    /// The exit status alone: one test.
    Status,
}

/// Tests that may be skipped, or that are known to fail.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Listed {
    /// Their name; `*` stands for any characters.
    pub test: String,
    /// Why that is all right.
    pub reason: String,
}

/// One row of the table.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Suite {
    /// Name, as in `--only`.
    pub name: String,
    /// What it shows, in a few words.
    pub about: String,
    /// Where it runs.
    pub run: Place,
    /// What its results are written in.
    pub format: Format,
    /// Program and arguments; `{name}` is replaced by a value of `--set`.
    pub command: Vec<String>,
    /// Time limit in seconds.
    pub timeout: u32,
    /// Virtual GPUs of the guest.
    #[serde(default)]
    pub gpus: u32,
    /// Needs what a kernel with Rust is built with.
    #[serde(default)]
    pub rust: bool,
    /// Options of `tern-guest` that the suite needs, whatever the user asks for.
    #[serde(default)]
    pub options: Vec<String>,
    /// Complaints of the guest's kernel that the suite provokes: texts, and a
    /// line that contains one is none.
    #[serde(default)]
    pub allow: Vec<String>,
    /// Tests that may be skipped.
    #[serde(default)]
    pub skip: Vec<Listed>,
    /// Tests that fail on the kernel without the series too: they count as
    /// skipped.
    #[serde(default)]
    pub fail: Vec<Listed>,
    /// Takes so long that it runs only on request.
    #[serde(default)]
    pub long: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    suite: Vec<Suite>,
}

/// Reads the table.
///
/// # Errors
///
/// Fails when the text is not TOML of the right shape, when two suites have
/// one name, and when a row contradicts itself.
pub fn read_table(text: &str) -> Result<Vec<Suite>> {
    let Table { suite: suites } = toml::from_str(text).context("the table of suites is wrong")?;
    for (index, suite) in suites.iter().enumerate() {
        let name = &suite.name;
        if suites[..index].iter().any(|other| other.name == *name) {
            bail!("the table has two suites named {name}");
        }
        if suite.command.is_empty() {
            bail!("the suite {name} has no command");
        }
        if suite.format == Format::KernelLog && suite.run == Place::Host {
            bail!("the suite {name} reads a kernel log, but runs on the host");
        }
        if suite.run == Place::Host && !suite.allow.is_empty() {
            bail!("the suite {name} allows complaints of a guest, but runs on the host");
        }
        if suite.allow.iter().any(String::is_empty) {
            bail!("the suite {name} allows every complaint: every line contains an empty text");
        }
    }
    Ok(suites)
}

/// The suites that `only` names; `*` stands for any characters. When nothing is
/// named, all of them, but those that take long only if `long` is set.
///
/// # Errors
///
/// Fails when a name fits none.
pub fn choose(mut suites: Vec<Suite>, only: &[String], long: bool) -> Result<Vec<Suite>> {
    for pattern in only {
        if !suites.iter().any(|suite| matches(pattern, &suite.name)) {
            let names: Vec<_> = suites.iter().map(|suite| suite.name.as_str()).collect();
            bail!(
                "no suite is named {pattern} (`*` stands for any characters); there are: {}",
                names.join(", ")
            );
        }
    }
    suites.retain(|suite| match only {
        [] => long || !suite.long,
        _ => only.iter().any(|only| matches(only, &suite.name)),
    });
    Ok(suites)
}

impl Suite {
    /// What a result counts as, by the table: a skip that it does not allow is
    /// a failure, and a failure that it knows is a skip.
    pub fn judge(&self, case: &Case) -> Verdict {
        let listed = |list: &[Listed]| {
            let mut fitting = list
                .iter()
                .filter(|listed| matches(&listed.test, &case.name));
            fitting.next().map(|listed| listed.reason.clone())
        };
        match &case.verdict {
            Verdict::Skipped(reason) if listed(&self.skip).is_none() => {
                Verdict::Failed(format!("skipped, which it may not be: {reason}"))
            }
            Verdict::Failed(_) => match listed(&self.fail) {
                Some(reason) => Verdict::Skipped(format!("fails on the base kernel too: {reason}")),
                None => case.verdict.clone(),
            },
            _ => case.verdict.clone(),
        }
    }

    /// Whether the test passed although the table has it among those that fail.
    pub fn is_surprise(&self, case: &Case) -> bool {
        case.verdict == Verdict::Passed
            && self
                .fail
                .iter()
                .any(|listed| matches(&listed.test, &case.name))
    }

    /// The command with the values put in.
    ///
    /// # Errors
    ///
    /// Fails when a value is not given.
    pub fn command_with(&self, values: &BTreeMap<String, String>) -> Result<Vec<String>> {
        let fill = |word: &String| substitute(word, values);
        let words: Result<Vec<_>> = self.command.iter().map(fill).collect();
        words.with_context(|| format!("the suite {} cannot run", self.name))
    }
}

/// Replaces every `{name}`.
fn substitute(word: &str, values: &BTreeMap<String, String>) -> Result<String> {
    let mut filled = String::new();
    let mut rest = word;
    while let Some((before, behind)) = rest.split_once('{') {
        let Some((name, after)) = behind.split_once('}') else {
            bail!("\"{word}\" has a brace that does not close");
        };
        let value = values
            .get(name)
            .with_context(|| format!("there is no value for {{{name}}}; use --set {name}=..."))?;
        filled.push_str(before);
        filled.push_str(value);
        rest = after;
    }
    filled.push_str(rest);
    Ok(filled)
}

/// Whether `name` has the shape of `pattern`, in which `*` stands for any
/// characters.
pub fn matches(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((head, tail)) => name.strip_prefix(head).is_some_and(|rest| {
            let ends = rest.char_indices().map(|(at, _)| at).chain([rest.len()]);
            ends.into_iter().any(|at| matches(tail, &rest[at..]))
        }),
    }
}

/// Whether the exit status of a suite fits its results; if not, why.
pub fn misfit(format: Format, status: i32, cases: &[Case]) -> Option<String> {
    /// The status by which a kselftest says that it was skipped.
    const KSFT_SKIP: i32 = 4;
    let failed = cases.iter().any(|case| case.verdict.is_failure());
    let all_skipped = cases
        .iter()
        .all(|case| matches!(case.verdict, Verdict::Skipped(_)));
    match status {
        _ if cases.is_empty() => Some(format!("no result, exit status {status}")),
        0 => None,
        // The status of a single test was its result.
        _ if format == Format::Status => None,
        1 | 101 if failed => None,
        KSFT_SKIP if all_skipped => None,
        124 => Some("the time limit passed".to_string()),
        125 => Some("the guest's kernel complained".to_string()),
        126 => Some("the guest died, or never came up".to_string()),
        _ => Some(format!("exit status {status}")),
    }
}

/// The count of everything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Tests that passed.
    pub passed: usize,
    /// Tests that failed, and whatever else went wrong.
    pub failed: usize,
    /// Tests that were skipped, and may be.
    pub skipped: usize,
}

impl Totals {
    /// Counts a result.
    pub fn add(&mut self, verdict: &Verdict) {
        match verdict {
            Verdict::Passed => self.passed += 1,
            Verdict::Failed(_) => self.failed += 1,
            Verdict::Skipped(_) => self.skipped += 1,
        }
    }
}

impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            passed,
            failed,
            skipped,
        } = self;
        write!(f, "{passed} passed, {failed} failed, {skipped} skipped")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn case(verdict: Verdict) -> Case {
        Case {
            name: "hmm.a".into(),
            verdict,
        }
    }

    const ROW: &str = r#"
        [[suite]]
        name = "s"
        about = "x"
        run = "guest"
        format = "tap"
        command = ["{tests}/hmm-tests"]
        timeout = 10
        skip = [{ test = "hmm.*", reason = "r" }]
        fail = [{ test = "*.known", reason = "f" }]
    "#;

    #[test]
    fn the_built_in_table_is_right() {
        let suites = read_table(include_str!("../suites.toml")).unwrap();
        assert!(suites.iter().any(|suite| suite.name == "cargo"));
    }

    #[test]
    fn bad_tables_are_refused() {
        read_table(ROW).unwrap();
        for bad in [
            format!("{ROW}{ROW}"),
            ROW.replace("[\"{tests}/hmm-tests\"]", "[]"),
            ROW.replace("\"tap\"", "\"kernel-log\"")
                .replace("\"guest\"", "\"host\""),
            ROW.replace("timeout", "time"),
            ROW.replace("skip", "allow = [\"\"]\nskip"),
            ROW.replace("skip", "allow = [\"x\"]\nskip")
                .replace("\"guest\"", "\"host\""),
        ] {
            assert!(read_table(&bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_name_that_fits_no_suite_is_refused() {
        let table = format!("{ROW}{}", ROW.replace("\"s\"", "\"tern-s\""));
        let chosen = |only: &str| {
            let suites = choose(read_table(&table).unwrap(), &[only.to_string()], false)?;
            anyhow::Ok(
                suites
                    .into_iter()
                    .map(|suite| suite.name)
                    .collect::<Vec<_>>(),
            )
        };
        assert_eq!(chosen("s").unwrap(), ["s"]);
        assert_eq!(chosen("*s").unwrap(), ["s", "tern-s"]);
        let error = chosen("tern").unwrap_err().to_string();
        assert!(error.contains("there are: s, tern-s"), "{error}");
        assert_eq!(
            choose(read_table(&table).unwrap(), &[], false)
                .unwrap()
                .len(),
            2
        );
    }

    #[test]
    fn long_suites_run_when_they_are_asked_for() {
        let table = format!("{ROW}long = true\n");
        let count = |only: &[String], long| {
            let suites = choose(read_table(&table).unwrap(), only, long);
            suites.unwrap().len()
        };
        assert_eq!(count(&[], false), 0);
        assert_eq!(count(&[], true), 1);
        assert_eq!(count(&["s".to_string()], false), 1);
    }

    #[test]
    fn only_listed_skips_are_fine() {
        let suite = &read_table(ROW).unwrap()[0];
        let skip = |name: &str| {
            suite.judge(&Case {
                name: name.into(),
                verdict: Verdict::Skipped("no".into()),
            })
        };
        assert!(!skip("hmm.a").is_failure());
        assert!(skip("other.a").is_failure());
    }

    #[test]
    fn only_listed_failures_are_known() {
        let suite = &read_table(ROW).unwrap()[0];
        let case = |name: &str, verdict| Case {
            name: name.into(),
            verdict,
        };
        let failed = || Verdict::Failed(String::new());
        assert!(matches!(
            suite.judge(&case("a.known", failed())),
            Verdict::Skipped(_)
        ));
        assert!(suite.judge(&case("a.b", failed())).is_failure());
        assert!(suite.is_surprise(&case("a.known", Verdict::Passed)));
        assert!(!suite.is_surprise(&case("a.known", failed())));
        assert!(!suite.is_surprise(&case("a.b", Verdict::Passed)));
    }

    #[test]
    fn values_are_put_in_or_missed() {
        let suite = &read_table(ROW).unwrap()[0];
        let mut values = BTreeMap::new();
        let error = format!("{:#}", suite.command_with(&values).unwrap_err());
        assert!(error.contains("--set tests="), "{error}");
        values.insert("tests".to_string(), "/t".to_string());
        assert_eq!(suite.command_with(&values).unwrap(), ["/t/hmm-tests"]);
    }

    #[test]
    fn patterns() {
        assert!(matches("a.b", "a.b"));
        assert!(!matches("a.b", "a.bc"));
        assert!(matches("a*", "a"));
        assert!(matches("*.c*e", "a.b.cde"));
        assert!(!matches("*.x", "a.b"));
        assert!(matches("*ä", "öä"));
    }

    #[test]
    fn a_status_that_no_result_explains_is_a_misfit() {
        let passed = [case(Verdict::Passed)];
        let failed = [case(Verdict::Failed(String::new()))];
        let skipped = [case(Verdict::Skipped("no".into()))];
        assert_eq!(misfit(Format::Tap, 0, &passed), None);
        assert_eq!(misfit(Format::Tap, 1, &failed), None);
        assert_eq!(misfit(Format::Libtest, 101, &failed), None);
        assert_eq!(misfit(Format::Tap, 4, &skipped), None);
        for (status, cases) in [
            (0, &[][..]),
            (1, &passed),
            (4, &passed),
            (139, &failed),
            (124, &failed),
            (125, &passed),
            (126, &passed),
        ] {
            assert!(misfit(Format::Tap, status, cases).is_some(), "{status}");
        }
    }

    #[test]
    fn the_totals_have_one_form() {
        let mut totals = Totals::default();
        totals.add(&Verdict::Passed);
        totals.add(&Verdict::Passed);
        totals.add(&Verdict::Failed(String::new()));
        totals.add(&Verdict::Skipped("no".into()));
        assert_eq!(totals.to_string(), "2 passed, 1 failed, 1 skipped");
    }
}
