// SPDX-License-Identifier: MIT OR Apache-2.0

//! Shows, defect by defect, what the series mends: each test of a defect has to
//! fail on the base kernel and to pass on that of the series.

use std::fmt;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{bail, ensure, Context, Result};
use serde::Deserialize;

use crate::follow::{End, Followed};
use crate::logs::Logs;
use crate::options::Options;
use crate::run::status;
use crate::runner::GUEST_EXTRA;
use crate::suite::{matches, Verdict};
use crate::{splat, tap};

/// What the kernel's log says right before the test, so that nothing which goes
/// wrong earlier counts as a failure of the test.
const BEGINS: &str = "tern-prove: the test begins";

/// Loads the module, and becomes the program with the one test.
const SCRIPT: &str = r#"program=$1 test=$2 begins=$3
shift 3
"$@"
echo "$begins" >/dev/kmsg
exec "$program" -r "$test""#;

/// What it takes to see a defect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Needs {
    /// The checks of the debug kernels.
    Debug,
}

/// One row of the table: something that the base kernel gets wrong.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Defect {
    /// Name, as in `--only`.
    pub name: String,
    /// What is wrong, in a sentence.
    pub title: String,
    /// Its tests, by name; `*` stands for any characters.
    pub tests: Vec<String>,
    /// What it takes for the tests to fail on the base kernel.
    pub needs: Option<Needs>,
    /// Time limit of each test in seconds.
    #[serde(default = "default_timeout")]
    pub timeout: u32,
}

fn default_timeout() -> u32 {
    120
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    #[serde(default)]
    defect: Vec<Defect>,
}

/// A defect with the tests that the program has for it.
#[derive(Clone, Debug)]
pub struct Group {
    /// The row of the table.
    pub defect: Defect,
    /// Full names of the tests.
    pub tests: Vec<String>,
}

/// Reads the table.
///
/// # Errors
///
/// Fails when the text is not TOML of the right shape, and when two defects
/// have one name.
pub fn read_table(text: &str) -> Result<Vec<Defect>> {
    let Table { defect: defects } =
        toml::from_str(text).context("the table of defects is wrong")?;
    for (index, defect) in defects.iter().enumerate() {
        let name = &defect.name;
        ensure!(
            defects[..index].iter().all(|other| other.name != *name),
            "the table has two defects named {name}"
        );
    }
    Ok(defects)
}

/// The names of the tests in what a program of the kselftest harness prints
/// for `-l`: a block for each fixture, in which the columns of variants and of
/// tests are independent of each other.
///
/// # Errors
///
/// Fails when the text is no such list, or has no test.
pub fn read_list(text: &str) -> Result<Vec<String>> {
    /// Widths of the empty columns in front of a variant, and of a test.
    const VARIANT: usize = 21;
    const TEST: usize = 47;
    let mut fixtures: Vec<(&str, Vec<&str>, Vec<&str>)> = Vec::new();
    for line in text.lines().filter(|line| !line.starts_with(['#', '-'])) {
        let indent = line.len() - line.trim_start().len();
        let mut words: Vec<&str> = line.split_whitespace().collect();
        if indent == 0 && !words.is_empty() {
            fixtures.push((words.remove(0), Vec::new(), Vec::new()));
        }
        let Some((_, variants, tests)) = fixtures.last_mut() else {
            bail!("this is no list of tests: {line}");
        };
        match (indent, words.as_slice()) {
            (_, []) => (),
            (0 | VARIANT, [variant, test]) => {
                variants.push(variant);
                tests.push(test);
            }
            (VARIANT, [variant]) => variants.push(variant),
            (0 | TEST, [test]) => tests.push(test),
            _ => bail!("a line of the list of tests cannot be understood: {line}"),
        }
    }
    let mut names = Vec::new();
    for (fixture, variants, tests) in fixtures {
        let prefixes: Vec<String> = match variants.as_slice() {
            [] => vec![fixture.to_string()],
            _ => variants.iter().map(|v| format!("{fixture}.{v}")).collect(),
        };
        for prefix in prefixes {
            names.extend(tests.iter().map(|test| format!("{prefix}.{test}")));
        }
    }
    ensure!(!names.is_empty(), "the program lists no tests");
    Ok(names)
}

/// Puts the tests to the defects they are of.
///
/// # Errors
///
/// Fails when a test is of no defect or of two, and when a defect has none.
pub fn group(defects: Vec<Defect>, tests: &[String]) -> Result<Vec<Group>> {
    for test in tests {
        let of: Vec<_> = defects.iter().filter(|defect| defect.has(test)).collect();
        match of.as_slice() {
            [_] => (),
            [] => bail!("the test {test} is of no defect in the table"),
            [one, other, ..] => bail!(
                "the test {test} is of two defects in the table, {} and {}",
                one.name,
                other.name
            ),
        }
    }
    let groups: Vec<Group> = defects
        .into_iter()
        .map(|defect| Group {
            tests: tests.iter().filter(|t| defect.has(t)).cloned().collect(),
            defect,
        })
        .collect();
    for group in &groups {
        let name = &group.defect.name;
        ensure!(!group.tests.is_empty(), "the defect {name} has no test");
    }
    Ok(groups)
}

impl Defect {
    fn has(&self, test: &str) -> bool {
        self.tests.iter().any(|pattern| matches(pattern, test))
    }
}

/// What `only` names, defects or tests, or everything; `*` stands for any
/// characters.
///
/// # Errors
///
/// Fails when a name fits nothing.
pub fn choose(mut groups: Vec<Group>, only: &[String]) -> Result<Vec<Group>> {
    let names = |pattern: &String, group: &Group, test: &String| {
        matches(pattern, &group.defect.name) || matches(pattern, test)
    };
    for pattern in only {
        let mut all = groups
            .iter()
            .flat_map(|g| g.tests.iter().map(move |t| (g, t)));
        ensure!(
            all.any(|(group, test)| names(pattern, group, test)),
            "no defect or test is named {pattern} (`*` stands for any characters); \
             --list shows them"
        );
    }
    if only.is_empty() {
        return Ok(groups);
    }
    for group in &mut groups {
        let mut tests = std::mem::take(&mut group.tests);
        tests.retain(|test| only.iter().any(|pattern| names(pattern, group, test)));
        group.tests = tests;
    }
    groups.retain(|group| !group.tests.is_empty());
    Ok(groups)
}

/// How a test went on one kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// As it should.
    Passed,
    /// The test says so; the line that does.
    Failed(String),
    /// The kernel complained; the first line of it.
    Splat(String),
    /// The test did not end.
    Hung,
    /// The guest was gone, without a word.
    Died,
    /// It did not run: the test's own reason.
    Skipped(String),
    /// It did not run: what went wrong before it.
    Broken(String),
}

impl Outcome {
    /// Whether the test ran, and found something wrong.
    pub fn is_failure(&self) -> bool {
        matches!(
            self,
            Self::Failed(_) | Self::Splat(_) | Self::Hung | Self::Died
        )
    }

    fn word(&self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Failed(_) => "failed",
            Self::Splat(_) => "splat",
            Self::Hung => "hang",
            Self::Died => "died",
            Self::Skipped(_) => "skipped",
            Self::Broken(_) => "did not run",
        }
    }

    fn details(&self) -> &str {
        match self {
            Self::Failed(why) | Self::Splat(why) | Self::Skipped(why) | Self::Broken(why) => why,
            Self::Passed | Self::Hung | Self::Died => "",
        }
    }
}

/// Tells how a test went by what `tern-guest` left: its exit status, its output
/// with that of the program, and the log of the guest's kernel.
pub fn classify(exit: i32, output: &str, kernel_log: &str) -> Outcome {
    let Some((_, log)) = kernel_log.split_once(BEGINS) else {
        return Outcome::Broken(last_line(output));
    };
    match u8::try_from(exit) {
        Ok(status::SPLAT) => match splat::find(log, &[]).into_iter().next() {
            Some(splat) => Outcome::Splat(splat.title),
            None => Outcome::Broken("the kernel complained before the test".to_string()),
        },
        Ok(status::TIMEOUT) => Outcome::Hung,
        Ok(status::GUEST) => Outcome::Died,
        _ => classify_output(exit, output),
    }
}

fn classify_output(exit: i32, output: &str) -> Outcome {
    let mut parser = tap::Parser::default();
    let mut cases: Vec<_> = output
        .lines()
        .filter_map(|line| parser.line(line))
        .collect();
    let problem = parser.finish().into_iter().next();
    match (cases.pop().map(|case| case.verdict), problem) {
        _ if !cases.is_empty() => Outcome::Broken("more than one test ran".to_string()),
        (None, _) => Outcome::Broken(last_line(output)),
        (Some(Verdict::Skipped(why)), _) => Outcome::Skipped(why),
        (Some(Verdict::Failed(_)), _) => Outcome::Failed(failing_line(output)),
        (Some(Verdict::Passed), Some(problem)) => Outcome::Failed(problem),
        (Some(Verdict::Passed), None) if exit != 0 => {
            Outcome::Failed(format!("exit status {exit}"))
        }
        (Some(Verdict::Passed), None) => Outcome::Passed,
    }
}

/// The line of the harness that says what was not as expected, or how else the
/// test ended.
fn failing_line(output: &str) -> String {
    let find = |text: &str| output.lines().find(|line| line.contains(text));
    let line = find(":Expected ").or_else(|| find(": Test ")).unwrap_or("");
    line.trim_start_matches(['#', ' ']).to_string()
}

fn last_line(output: &str) -> String {
    let mut lines = output.lines().rev().map(str::trim);
    let line = lines.find(|line| !line.is_empty());
    line.unwrap_or("it printed nothing").to_string()
}

/// What the outcomes on both kernels say about the mend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Proof {
    /// It fails without the series and passes with it.
    Proven,
    /// Only the debug kernels can show the defect, and these are none.
    NeedsDebug,
    /// Neither; why.
    Refuted(&'static str),
}

/// Judges a test by its outcomes; `visible` says whether the defect, if it is
/// there, shows on these kernels.
pub fn judge(base: &Outcome, tern: &Outcome, visible: bool) -> Proof {
    match (base, tern) {
        (Outcome::Skipped(_) | Outcome::Broken(_), _) => {
            Proof::Refuted("it does not run on the base kernel")
        }
        (_, Outcome::Skipped(_) | Outcome::Broken(_)) => {
            Proof::Refuted("it does not run on the kernel of the series")
        }
        (_, tern) if tern.is_failure() => Proof::Refuted("it fails with the series"),
        (Outcome::Passed, _) if !visible => Proof::NeedsDebug,
        (Outcome::Passed, _) => Proof::Refuted("it passes without the series"),
        _ => Proof::Proven,
    }
}

/// One of the two kernels.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// What it is called in the output.
    pub name: &'static str,
    /// The image.
    pub image: PathBuf,
    /// Where its modules were installed.
    pub modules: PathBuf,
    /// The command that loads the test's module in the guest.
    pub load: Vec<String>,
}

/// What the tests run with.
#[derive(Debug)]
pub struct Plan {
    /// Without the series, and with it.
    pub kernels: [Kernel; 2],
    /// Whether they are debug kernels.
    pub debug: bool,
    /// The program of the tests.
    pub program: PathBuf,
    /// The program `tern-guest`.
    pub guest: PathBuf,
    /// What the user wants of guests.
    pub options: Options,
}

/// The tests of one defect, as they went.
#[derive(Debug)]
struct Row {
    title: String,
    tests: usize,
    failed_on_base: usize,
    passed_on_tern: usize,
    needs_debug: usize,
    refuted: usize,
}

/// Runs tests on both kernels, and keeps the account.
#[derive(Debug)]
pub struct Prover {
    plan: Plan,
    logs: Logs,
    rows: Vec<Row>,
}

impl Prover {
    /// A prover, whose logs go to a directory that it has to itself.
    pub fn new(plan: Plan, logs: Logs) -> Self {
        let rows = Vec::new();
        Self { plan, logs, rows }
    }

    /// Runs the tests of one defect, one guest at a time, and prints how each
    /// went. Returns false when the user has interrupted it.
    ///
    /// # Errors
    ///
    /// Fails when a guest cannot be started, and when a log cannot be written.
    pub fn run(&mut self, group: &Group) -> Result<bool> {
        println!("== {}: {}", group.defect.name, group.defect.title);
        let mut row = Row::new(&group.defect);
        for test in &group.tests {
            let [base, tern] = &self.plan.kernels;
            let Some(base) = self.run_on(base, test, group.defect.timeout)? else {
                return Ok(false);
            };
            let Some(tern) = self.run_on(tern, test, group.defect.timeout)? else {
                return Ok(false);
            };
            let visible = self.plan.debug || group.defect.needs.is_none();
            let proof = judge(&base, &tern, visible);
            match proof {
                Proof::Proven => (),
                Proof::NeedsDebug => {
                    println!("     {test} needs --debug to fail on the base kernel")
                }
                Proof::Refuted(why) => println!("not ok {test} # {why}"),
            }
            row.add(&base, &tern, &proof);
        }
        self.rows.push(row);
        Ok(true)
    }

    /// Runs one test in a guest of its own; `None` when it was interrupted.
    fn run_on(&self, kernel: &Kernel, test: &str, timeout: u32) -> Result<Option<Outcome>> {
        let start = Instant::now();
        let name = format!("{test}.{}", kernel.name);
        let (log, mut file) = self.logs.create(&format!("{name}.log"))?;
        let kernel_log = self.logs.path(&format!("{name}.kernel.log"));
        let mut command = self.guest_command(kernel, test, timeout, &kernel_log);
        let limit = self.plan.options.limit(timeout);
        let limit = limit.map(|limit| limit + GUEST_EXTRA);
        let end = Followed::start(&mut command, None)?.follow(limit, |line| {
            line.map_or(Ok(()), |line| writeln!(file, "{line}"))
        })?;
        let outcome = match end {
            End::Interrupted => return Ok(None),
            End::TimedOut => Outcome::Broken("tern-guest did not end".to_string()),
            End::Exited(exit) => classify(exit, &read(&log), &read(&kernel_log)),
        };
        println!("{}", line(kernel.name, test, &outcome, start.elapsed()));
        Ok(Some(outcome))
    }

    fn guest_command(&self, kernel: &Kernel, test: &str, timeout: u32, log: &Path) -> Command {
        let wanted = &self.plan.options;
        let options = Options {
            timeout: wanted.timeout.or(Some(timeout)),
            gpus: Some(0),
            ..wanted.clone()
        };
        let mut command = Command::new(&self.plan.guest);
        command.args(["run", "--no-stdin", "--log"]).arg(log);
        command.arg("--kernel").arg(&kernel.image);
        command.arg("--modules").arg(&kernel.modules);
        options.add_to(&mut command);
        command.args(["--", "/bin/sh", "-ec", SCRIPT, "prove"]);
        command.arg(&self.plan.program).args([test, BEGINS]);
        command.args(&kernel.load);
        command
    }

    /// Whether every test that ran shows what it should.
    pub fn is_proven(&self) -> bool {
        self.rows.iter().all(|row| row.refuted == 0)
    }
}

/// The table, and below it the total.
impl fmt::Display for Prover {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [base, tern] = &self.plan.kernels;
        let sum = |count: fn(&Row) -> usize| self.rows.iter().map(count).sum::<usize>();
        writeln!(f, "{:<15}{:<15}defect", base.name, tern.name)?;
        for row in &self.rows {
            writeln!(f, "{row}")?;
        }
        let (tests, unseen, refuted) =
            (sum(|r| r.tests), sum(|r| r.needs_debug), sum(|r| r.refuted));
        let proven = tests - unseen - refuted;
        write!(
            f,
            "{}, {}: {proven} proven by failing without the series and passing with it",
            counted(self.rows.len(), "defect"),
            counted(tests, "test")
        )?;
        if unseen > 0 {
            write!(f, ", {unseen} left to --debug")?;
        }
        if refuted > 0 {
            write!(f, ", {refuted} not proven")?;
        }
        Ok(())
    }
}

impl Row {
    fn new(defect: &Defect) -> Self {
        Self {
            title: defect.title.clone(),
            tests: 0,
            failed_on_base: 0,
            passed_on_tern: 0,
            needs_debug: 0,
            refuted: 0,
        }
    }

    fn add(&mut self, base: &Outcome, tern: &Outcome, proof: &Proof) {
        self.tests += 1;
        self.failed_on_base += usize::from(base.is_failure());
        self.passed_on_tern += usize::from(*tern == Outcome::Passed);
        self.needs_debug += usize::from(*proof == Proof::NeedsDebug);
        self.refuted += usize::from(matches!(proof, Proof::Refuted(_)));
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let base = format!("{} of {} fail", self.failed_on_base, self.tests);
        let tern = format!("{} of {} pass", self.passed_on_tern, self.tests);
        write!(f, "{base:<15}{tern:<15}{}", self.title)?;
        if self.needs_debug > 0 {
            write!(f, " (needs --debug)")?;
        }
        Ok(())
    }
}

fn counted(number: usize, what: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {what}{plural}")
}

fn line(kernel: &str, test: &str, outcome: &Outcome, time: Duration) -> String {
    let sign = if outcome.details().is_empty() {
        ""
    } else {
        " # "
    };
    format!(
        "{kernel} {:<7} {test}{sign}{} ({:.2} s)",
        outcome.word(),
        outcome.details(),
        time.as_secs_f64()
    )
}

fn read(path: &Path) -> String {
    String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = "\
# FIXTURE            VARIANT                   TEST
large                private                   fork
                     coherent                  fill
                                               evict
--------------------------------------------------------------------------------
a_fixture_with_a_long_name                           plain
";

    const TABLE: &str = r#"
        [[defect]]
        name = "fork"
        title = "Shared pages are lost."
        tests = ["*.fork", "*.fill"]

        [[defect]]
        name = "evict"
        title = "Pages stay."
        tests = ["*.evict"]
        needs = "debug"
        timeout = 7
    "#;

    const LOG: &str = "[    1.0] init\n[    2.0] tern-prove: the test begins\n";

    fn tests(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| name.to_string()).collect()
    }

    fn groups() -> Result<Vec<Group>> {
        group(
            read_table(TABLE)?,
            &tests(&["a.fork", "b.fork", "a.fill", "a.evict"]),
        )
    }

    #[test]
    fn the_list_of_the_harness_is_read() {
        assert_eq!(
            read_list(LIST).unwrap(),
            [
                "large.private.fork",
                "large.private.fill",
                "large.private.evict",
                "large.coherent.fork",
                "large.coherent.fill",
                "large.coherent.evict",
                "a_fixture_with_a_long_name.plain",
            ]
        );
        for bad in ["", "# FIXTURE\n", "      a b c\n", "a b c d\n"] {
            assert!(read_list(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn bad_tables_are_refused() {
        assert_eq!(read_table(TABLE).unwrap().len(), 2);
        for bad in [
            TABLE.replace("\"evict\"", "\"fork\""),
            TABLE.replace("debug", "luck"),
            TABLE.replace("title", "heading"),
        ] {
            assert!(read_table(&bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn every_test_is_of_one_defect_and_every_defect_has_tests() {
        let groups = groups().unwrap();
        assert_eq!(groups[0].tests, ["a.fork", "b.fork", "a.fill"]);
        assert_eq!(groups[1].tests, ["a.evict"]);
        let error = |table: &str, names: &[&str]| {
            let error = group(read_table(table).unwrap(), &tests(names));
            error.unwrap_err().to_string()
        };
        assert!(error(TABLE, &["a.other"]).contains("a.other is of no defect"));
        assert!(error(TABLE, &["a.fork"]).contains("defect evict has no test"));
        let table = TABLE.replace("*.evict", "*");
        assert!(error(&table, &["a.fork"]).contains("two defects in the table, fork and evict"));
    }

    #[test]
    fn defects_and_tests_can_be_chosen() {
        let chosen = |only: &str| {
            let groups = choose(groups().unwrap(), &tests(&[only]))?;
            anyhow::Ok(groups.into_iter().flat_map(|g| g.tests).collect::<Vec<_>>())
        };
        assert_eq!(chosen("fork").unwrap(), ["a.fork", "b.fork", "a.fill"]);
        assert_eq!(chosen("b.*").unwrap(), ["b.fork"]);
        assert_eq!(chosen("*").unwrap().len(), 4);
        assert!(chosen("none").is_err());
        assert_eq!(choose(groups().unwrap(), &[]).unwrap().len(), 2);
    }

    #[test]
    fn results_are_those_of_the_test() {
        let tap = "TAP version 13\n1..1\n#  RUN           a.fork ...\n";
        let passed = format!("{tap}ok 1 a.fork\n");
        assert_eq!(classify(0, &passed, LOG), Outcome::Passed);
        assert!(classify(3, &passed, LOG).is_failure());
        let line = "hmm.c:12:fork:Expected 1 (1) == x (0)";
        let failed = format!("{tap}# {line}\n# fork: Test failed\nnot ok 1 a.fork\n");
        assert_eq!(classify(1, &failed, LOG), Outcome::Failed(line.into()));
        let signal = "fork: Test terminated unexpectedly by signal 7";
        let killed = format!("{tap}# {signal}\nnot ok 1 a.fork\n");
        assert_eq!(classify(1, &killed, LOG), Outcome::Failed(signal.into()));
        let skipped = format!("{tap}ok 1 a.fork # SKIP no device\n");
        assert_eq!(
            classify(0, &skipped, LOG),
            Outcome::Skipped("no device".into())
        );
        // The harness ended before the test did.
        assert!(classify(0, "TAP version 13\n1..2\nok 1 a.fork\n", LOG).is_failure());
    }

    #[test]
    fn the_kernel_s_failures_go_before_the_test_s() {
        let output = "TAP version 13\n1..1\nok 1 a.fork\n";
        let bug = "kernel BUG at mm/migrate.c:369!";
        let log = format!("{LOG}[    3.0] {bug}\n[    3.1] Oops: invalid opcode\n");
        assert_eq!(classify(125, output, &log), Outcome::Splat(bug.into()));
        assert_eq!(classify(124, output, LOG), Outcome::Hung);
        assert_eq!(classify(126, output, LOG), Outcome::Died);
    }

    #[test]
    fn what_fails_before_the_test_proves_nothing() {
        let error = "modprobe: FATAL: Module test_hmm not found";
        for exit in [1, 124, 125, 126] {
            let outcome = classify(exit, &format!("{error}\n"), "[    1.0] init\n");
            assert_eq!(outcome, Outcome::Broken(error.into()));
        }
        let log = format!("[    0.5] WARNING: x\n[    0.6] ---[ end trace 0 ]---\n{LOG}");
        assert!(matches!(classify(125, "", &log), Outcome::Broken(_)));
        assert!(matches!(classify(127, "", LOG), Outcome::Broken(_)));
        // No test has the name.
        let none = "TAP version 13\n1..0\n";
        assert!(matches!(classify(0, none, LOG), Outcome::Broken(_)));
    }

    #[test]
    fn only_a_failure_before_and_a_pass_after_is_a_proof() {
        use Outcome::{Broken, Died, Failed, Hung, Passed, Skipped, Splat};
        let failures = [Failed(String::new()), Splat(String::new()), Hung, Died];
        let not_run = [Skipped(String::new()), Broken(String::new())];
        for failure in &failures {
            assert_eq!(judge(failure, &Passed, true), Proof::Proven);
            assert_eq!(judge(failure, &Passed, false), Proof::Proven);
            assert!(matches!(judge(failure, failure, true), Proof::Refuted(_)));
            assert!(matches!(judge(&Passed, failure, false), Proof::Refuted(_)));
        }
        for other in &not_run {
            assert!(matches!(judge(other, &Passed, false), Proof::Refuted(_)));
            assert!(matches!(judge(&Hung, other, false), Proof::Refuted(_)));
        }
        assert!(matches!(judge(&Passed, &Passed, true), Proof::Refuted(_)));
        assert_eq!(judge(&Passed, &Passed, false), Proof::NeedsDebug);
    }

    fn prover(directory: &Path, debug: bool) -> Prover {
        let kernel = |name, load: &[&str]| Kernel {
            name,
            image: format!("/{name}/bzImage").into(),
            modules: format!("/{name}/mods").into(),
            load: tests(load),
        };
        let plan = Plan {
            kernels: [
                kernel("base", &["insmod", "/x.ko"]),
                kernel("tern", &["modprobe", "x"]),
            ],
            debug,
            program: "/tests/x".into(),
            guest: "tern-guest".into(),
            options: Options::default(),
        };
        Prover::new(plan, Logs::claim(directory).unwrap())
    }

    #[test]
    fn each_kernel_loads_its_module() {
        let directory = tempfile::tempdir().unwrap();
        let prover = prover(directory.path(), false);
        let kernel = &prover.plan.kernels[0];
        let command = prover.guest_command(kernel, "a.fork", 7, Path::new("log"));
        let words: Vec<_> = command
            .get_args()
            .map(|word| word.to_string_lossy())
            .collect();
        let line = words.join(" ");
        assert!(
            line.contains("--kernel /base/bzImage --modules /base/mods --timeout 7"),
            "{line}"
        );
        assert!(
            line.ends_with("/tests/x a.fork tern-prove: the test begins insmod /x.ko"),
            "{line}"
        );
    }

    #[test]
    fn the_table_has_a_row_for_each_defect() {
        let directory = tempfile::tempdir().unwrap();
        let mut prover = prover(directory.path(), false);
        let (failed, passed) = (Outcome::Hung, Outcome::Passed);
        let mut add = |group: &Group, outcomes: &[(&Outcome, &Outcome)]| {
            let mut row = Row::new(&group.defect);
            for (base, tern) in outcomes {
                let visible = group.defect.needs.is_none();
                row.add(base, tern, &judge(base, tern, visible));
            }
            prover.rows.push(row);
        };
        let groups = groups().unwrap();
        add(&groups[0], &[(&failed, &passed), (&failed, &passed)]);
        add(&groups[1], &[(&passed, &passed)]);
        assert!(prover.is_proven());
        assert_eq!(
            prover.to_string(),
            "\
base           tern           defect
2 of 2 fail    2 of 2 pass    Shared pages are lost.
0 of 1 fail    1 of 1 pass    Pages stay. (needs --debug)
2 defects, 3 tests: 2 proven by failing without the series and passing with it, 1 left to --debug"
        );
        let mut row = Row::new(&groups[0].defect);
        row.add(&failed, &failed, &judge(&failed, &failed, true));
        prover.rows.push(row);
        assert!(!prover.is_proven());
        assert!(prover.to_string().ends_with(", 1 not proven"), "{prover}");
    }
}
