// SPDX-License-Identifier: MIT OR Apache-2.0

//! Runs one suite and reports its results as they come.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::follow::{End, Followed};
use crate::logs::Logs;
use crate::options::Options;
use crate::suite::{misfit, Case, Format, Place, Suite, Totals, Verdict};
use crate::{libtest, splat, tap};
use tern_paths::shown;

/// What a guest needs beyond the limit of its command: boot, stacks, power
/// off.
pub(crate) const GUEST_EXTRA: Duration = Duration::from_secs(240);

/// Seconds that a guest has to boot.
pub const BOOT_SECONDS: u32 = 120;

/// How often a suite that has no new result shows that it is alive.
const SIGN_OF_LIFE: Duration = Duration::from_secs(30);

/// What suites run with.
#[derive(Debug)]
pub struct Plan {
    /// The checkout; suites run there.
    pub tern: PathBuf,
    /// Directory for the logs.
    pub logs: PathBuf,
    /// The program `tern-guest`.
    pub guest: PathBuf,
    /// What goes into commands.
    pub values: BTreeMap<String, String>,
    /// What the user wants of guests in place of what the table says.
    pub options: Options,
    /// Whether the kernel is without the driver for the virtual GPU.
    pub no_driver: bool,
    /// Whether the kernel is without Rust.
    pub no_rust: bool,
    /// How many times as long as on other kernels everything in the guest may
    /// take, tests that have limits of their own included.
    pub time_factor: u32,
}

/// Runs suites.
#[derive(Debug)]
pub struct Runner {
    plan: Plan,
    logs: Logs,
}

impl Runner {
    /// A runner, with the directory of the logs to itself.
    ///
    /// # Errors
    ///
    /// Fails when that directory cannot be had.
    pub fn new(plan: Plan) -> Result<Self> {
        let logs = Logs::claim(&plan.logs)?;
        Ok(Self { plan, logs })
    }

    /// Runs `suite`, prints its results and counts them in `totals`. Returns
    /// what each test itself said, whatever the table makes of it, or nothing
    /// when the user has interrupted it.
    ///
    /// # Errors
    ///
    /// Fails when a log cannot be written. A suite that cannot run is a
    /// failure that is counted, and not an error.
    pub fn run(&self, suite: &Suite, totals: &mut Totals) -> Result<Option<Vec<Case>>> {
        let mut book = Book::new(suite, totals);
        if let Some(reason) = self.lacks(suite) {
            book.left_out(reason);
            return Ok(Some(Vec::new()));
        }
        let (log, mut log_file) = self.logs.create(&format!("{}.log", suite.name))?;
        let kernel_log = self.logs.path(&format!("{}.kernel.log", suite.name));
        let program = match self.start(suite, &kernel_log, &log_file) {
            Ok(program) => program,
            Err(error) => {
                book.problem(&format!("it did not run: {error:#}"));
                return Ok(Some(Vec::new()));
            }
        };
        let mut parser = Parser::new(suite.format);
        let limit = self.limit(suite);
        let end = program.follow(limit, |line| {
            if let Some(line) = line {
                writeln!(log_file, "{line}")?;
                if let Some(case) = parser.line(line) {
                    book.case(case, None);
                }
            }
            book.sign_of_life(line);
            Ok(())
        })?;
        match end {
            End::Interrupted => return Ok(None),
            End::TimedOut => {
                let seconds = limit.unwrap_or_default().as_secs();
                book.problem(&format!("it took longer than {seconds} s"));
            }
            End::Exited(status) => {
                if suite.format == Format::KernelLog {
                    book.kernel_log(&kernel_log, &mut parser);
                }
                book.status(suite.format, status);
            }
        }
        for problem in parser.finish() {
            book.problem(&problem);
        }
        if book.failed {
            println!("   see {}", shown(&log));
        }
        Ok(Some(book.cases))
    }

    /// What the kernel does not have that `suite` needs.
    fn lacks(&self, suite: &Suite) -> Option<&'static str> {
        let Plan {
            no_driver, no_rust, ..
        } = self.plan;
        match suite {
            Suite { gpus: 1.., .. } if no_driver => {
                Some("this kernel has no driver for the virtual GPU")
            }
            Suite { rust: true, .. } if no_rust => Some("this kernel has no Rust"),
            _ => None,
        }
    }

    /// The limit for the suite's program; `None` is none.
    fn limit(&self, suite: &Suite) -> Option<Duration> {
        match suite.run {
            Place::Host => Some(Duration::from_secs(suite.timeout.into())),
            Place::Guest => {
                let extra = GUEST_EXTRA * self.plan.time_factor;
                Some(self.plan.options.limit(self.seconds(suite))? + extra)
            }
        }
    }

    /// The seconds that a suite has in the guest, unless the user says otherwise.
    fn seconds(&self, suite: &Suite) -> u32 {
        suite.timeout.saturating_mul(self.plan.time_factor)
    }

    /// Starts the suite's program. Its stdout can be read; so can its stderr,
    /// for `cargo test` says there which program's results follow, except
    /// with TAP, which a line in between could damage.
    fn start(&self, suite: &Suite, kernel_log: &Path, log: &File) -> Result<Followed> {
        let argv = suite.command_with(&self.plan.values)?;
        let mut command = match suite.run {
            Place::Host => {
                let mut command = Command::new(&argv[0]);
                command.args(&argv[1..]);
                command
            }
            Place::Guest => self.guest_command(suite, kernel_log, &argv),
        };
        let errors = match suite.format {
            Format::Libtest | Format::Status => None,
            Format::Tap | Format::KernelLog => Some(log),
        };
        Followed::start(command.current_dir(&self.plan.tern), errors)
    }

    fn guest_command(&self, suite: &Suite, kernel_log: &Path, argv: &[String]) -> Command {
        let wanted = &self.plan.options;
        let options = Options {
            timeout: wanted.timeout.or(Some(self.seconds(suite))),
            gpus: Some(match suite.gpus {
                0 => 0,
                needed => needed.max(wanted.gpus.unwrap_or(needed)),
            }),
            ..wanted.clone()
        };
        let mut command = Command::new(&self.plan.guest);
        command.args(["run", "--no-stdin", "--log"]).arg(kernel_log);
        options.add_to(&mut command);
        // The last one of an option holds: what the suite cannot do without.
        command.args(&suite.options);
        for text in &suite.allow {
            command.args(["--allow", text]);
        }
        let factor = self.plan.time_factor;
        if factor > 1 {
            // The kselftest harness takes it.
            command.arg(format!("--env=KSELFTEST_TIMEOUT_FACTOR={factor}"));
            command.arg(format!("--boot-timeout={}", BOOT_SECONDS * factor));
        }
        command.arg("--").args(argv);
        command
    }
}

/// The reader of a suite's format.
enum Parser {
    Tap(tap::Parser),
    Libtest(libtest::Parser),
    /// KTAP that is not in the output.
    Log(tap::Parser),
    Nothing,
}

impl Parser {
    fn new(format: Format) -> Self {
        match format {
            Format::Tap => Self::Tap(tap::Parser::default()),
            Format::Libtest => Self::Libtest(libtest::Parser::default()),
            Format::KernelLog => Self::Log(tap::Parser::default()),
            Format::Status => Self::Nothing,
        }
    }

    fn line(&mut self, line: &str) -> Option<Case> {
        match self {
            Self::Tap(parser) => parser.line(line),
            Self::Libtest(parser) => parser.line(line),
            Self::Log(_) | Self::Nothing => None,
        }
    }

    fn finish(self) -> Vec<String> {
        match self {
            Self::Tap(parser) | Self::Log(parser) => parser.finish(),
            Self::Libtest(parser) => parser.finish(),
            Self::Nothing => Vec::new(),
        }
    }
}

/// Prints the results of one suite and counts them.
struct Book<'a> {
    suite: &'a Suite,
    totals: &'a mut Totals,
    /// What the program said, before the table is asked.
    cases: Vec<Case>,
    last: Instant,
    start: Instant,
    /// The newest line of output.
    line: String,
    shown: Instant,
    failed: bool,
}

impl<'a> Book<'a> {
    fn new(suite: &'a Suite, totals: &'a mut Totals) -> Self {
        let now = Instant::now();
        Self {
            suite,
            totals,
            cases: Vec::new(),
            last: now,
            start: now,
            line: String::new(),
            shown: now,
            failed: false,
        }
    }

    /// Notes a new line of output, and says that the suite runs when it has
    /// been silent for long.
    fn sign_of_life(&mut self, line: Option<&str>) {
        if let Some(line) = line {
            self.line = line.trim().chars().take(60).collect();
        }
        if self.shown.max(self.last).elapsed() >= SIGN_OF_LIFE {
            let seconds = self.start.elapsed().as_secs();
            eprintln!("   {}, {seconds} s: {}", self.suite.name, self.line);
            self.shown = Instant::now();
        }
    }

    /// Counts a suite that does not run, for a reason that is no fault.
    fn left_out(&mut self, reason: &str) {
        println!("skip {} # {reason}", self.suite.name);
        self.totals.add(&Verdict::Skipped(reason.to_string()));
    }

    /// Takes a result that came after `time`, or that came now.
    fn case(&mut self, case: Case, time: Option<Duration>) {
        let verdict = self.suite.judge(&case);
        let time = time.unwrap_or_else(|| self.last.elapsed());
        self.last = Instant::now();
        let (word, details) = match &verdict {
            Verdict::Passed if self.suite.is_surprise(&case) => {
                ("ok", "passes, but is listed as failing on the base kernel")
            }
            Verdict::Passed => ("ok", ""),
            Verdict::Failed(details) => ("not ok", details.as_str()),
            Verdict::Skipped(reason) => ("skip", reason.as_str()),
        };
        let sign = if details.is_empty() { "" } else { " # " };
        let name = &case.name;
        let place = if *name == self.suite.name {
            String::new()
        } else {
            format!("{}/", self.suite.name)
        };
        println!(
            "{word} {place}{name}{sign}{details} ({:.2} s)",
            time.as_secs_f64()
        );
        self.totals.add(&verdict);
        self.failed |= verdict.is_failure();
        self.cases.push(case);
    }

    /// Counts something that is wrong with the suite as a whole.
    fn problem(&mut self, what: &str) {
        let verdict = Verdict::Failed(what.to_string());
        println!("not ok {} # {what}", self.suite.name);
        self.totals.add(&verdict);
        self.failed = true;
    }

    fn status(&mut self, format: Format, status: i32) {
        if format == Format::Status {
            let verdict = match status {
                0 => Verdict::Passed,
                _ => Verdict::Failed(format!("exit status {status}")),
            };
            let name = self.suite.name.clone();
            self.case(Case { name, verdict }, None);
        }
        if let Some(what) = misfit(format, status, &self.cases) {
            self.problem(&what);
        }
    }

    /// Reads the results out of the log of a guest's kernel.
    fn kernel_log(&mut self, path: &Path, parser: &mut Parser) {
        let Parser::Log(parser) = parser else { return };
        let log = fs::read(path).unwrap_or_default();
        let mut before = None;
        for line in String::from_utf8_lossy(&log).lines() {
            let stamp = splat::stamp(line);
            if let Some(case) = parser.line(splat::message(line)) {
                let seconds = stamp.zip(before).map_or(0.0, |(now, last)| now - last);
                before = stamp;
                self.case(case, Some(Duration::from_secs_f64(f64::max(seconds, 0.0))));
            } else if before.is_none() && line.contains("KTAP version") {
                before = stamp;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::comparison::Comparison;
    use crate::suite::read_table;

    fn run(format: &str, script: &str, timeout: u64) -> Totals {
        run_and_see(format, script, timeout).0
    }

    fn run_and_see(format: &str, script: &str, timeout: u64) -> (Totals, Vec<Case>) {
        let directory = tempfile::tempdir().unwrap();
        let table = format!(
            "[[suite]]\nname = \"s\"\nabout = \"x\"\nrun = \"host\"\nformat = \"{format}\"\n\
             command = [\"sh\", \"-c\", '''{script}''']\ntimeout = {timeout}\n\
             skip = [{{ test = \"may\", reason = \"r\" }}]\n\
             fail = [{{ test = \"known\", reason = \"r\" }}]\n"
        );
        let suite = &read_table(&table).unwrap()[0];
        let runner = Runner::new(plan(directory.path())).unwrap();
        let mut totals = Totals::default();
        let cases = runner.run(suite, &mut totals).unwrap().unwrap();
        (totals, cases)
    }

    fn plan(directory: &Path) -> Plan {
        Plan {
            tern: directory.into(),
            logs: directory.join("logs"),
            guest: directory.join("no-tern-guest"),
            values: BTreeMap::new(),
            options: Options::default(),
            no_driver: false,
            no_rust: false,
            time_factor: 1,
        }
    }

    fn guest_suite(gpus: u32) -> Suite {
        let table = format!(
            "[[suite]]\nname = \"s\"\nabout = \"x\"\nrun = \"guest\"\nformat = \"tap\"\n\
             command = [\"true\"]\ntimeout = 60\ngpus = {gpus}\noptions = [\"--memory\", \"1G\"]\n\
             allow = [\"no reset\"]\n"
        );
        read_table(&table).unwrap().remove(0)
    }

    fn totals(passed: usize, failed: usize, skipped: usize) -> Totals {
        Totals {
            passed,
            failed,
            skipped,
        }
    }

    #[test]
    fn a_good_suite() {
        let script = "echo 1..2; echo ok 1 a; echo ok 2 may '#' SKIP why";
        assert_eq!(run("tap", script, 60), totals(1, 0, 1));
    }

    #[test]
    fn failures_are_counted_once() {
        let script = "echo 1..2; echo ok 1 a; echo not ok 2 b; exit 1";
        assert_eq!(run("tap", script, 60), totals(1, 1, 0));
    }

    #[test]
    fn a_crash_is_a_failure() {
        let script = "echo 1..1; echo ok 1 a; kill -SEGV $$";
        assert_eq!(run("tap", script, 60), totals(1, 1, 0));
    }

    #[test]
    fn a_skip_that_is_not_allowed_is_a_failure() {
        let script = "echo 1..1; echo ok 1 must '#' SKIP why";
        assert_eq!(run("tap", script, 60), totals(0, 1, 0));
    }

    #[test]
    fn a_known_failure_is_no_failure() {
        let script = "echo 1..2; echo ok 1 a; echo not ok 2 known; exit 1";
        assert_eq!(run("tap", script, 60), totals(1, 0, 1));
        let script = "echo 1..1; echo ok 1 known";
        assert_eq!(run("tap", script, 60), totals(1, 0, 0));
    }

    #[test]
    fn what_is_compared_is_what_the_tests_said() {
        let script = "echo 1..2; echo not ok 1 known; echo ok 2 may '#' SKIP why; exit 1";
        let (sum, cases) = run_and_see("tap", script, 60);
        assert_eq!(sum, totals(0, 0, 2));
        let mut table = Comparison::default();
        table.add("one", &cases);
        let (_, cases) = run_and_see("tap", &script.replace("not ok 1 known", "ok 1 known"), 60);
        table.add("other", &cases);
        let skipped = "echo 1..2; echo ok 1 known '#' SKIP why; echo ok 2 may '#' SKIP why";
        let (_, cases) = run_and_see("tap", skipped, 60);
        table.add("third", &cases);
        let rows = "known  failed    passed    skipped   differs\n\
                    may    skipped   skipped   skipped \n1 of 2 tests gave the same";
        assert!(table.to_string().ends_with(rows), "{table}");
    }

    #[test]
    fn a_suite_without_results_fails() {
        // No plan, and no result.
        assert_eq!(run("tap", "true", 60), totals(0, 2, 0));
    }

    #[test]
    fn a_plan_that_is_not_kept_fails() {
        assert_eq!(run("tap", "echo 1..2; echo ok 1 a", 60), totals(1, 1, 0));
    }

    #[test]
    fn time_runs_out() {
        let begin = Instant::now();
        let script = "echo 1..1; echo ok 1 a; sleep 1000 & wait";
        assert_eq!(run("tap", script, 1), totals(1, 1, 0));
        assert!(begin.elapsed() < Duration::from_secs(60));
    }

    #[test]
    fn the_exit_status_can_be_the_result() {
        assert_eq!(run("status", "exit 0", 60), totals(1, 0, 0));
        assert_eq!(run("status", "exit 3", 60), totals(0, 1, 0));
    }

    #[test]
    fn what_cannot_be_started_fails() {
        assert_eq!(run("status", "{missing}", 60), totals(0, 1, 0));
    }

    #[test]
    fn both_outputs_of_cargo_are_read() {
        let script = "echo '     Running x (t/p-1)' >&2; echo running 1 test; \
                      echo 'test a ... ok'; echo 'test result: ok.'";
        assert_eq!(run("libtest", script, 60), totals(1, 0, 0));
    }

    /// The options of the guest that a suite with `gpus` gets.
    fn options_of_guest(gpus: u32, options: Options) -> String {
        let directory = tempfile::tempdir().unwrap();
        let mut plan = plan(directory.path());
        plan.options = options;
        let runner = Runner::new(plan).unwrap();
        let command = runner.guest_command(&guest_suite(gpus), Path::new("log"), &["true".into()]);
        let words: Vec<_> = command
            .get_args()
            .map(|word| word.to_string_lossy())
            .collect();
        words.join(" ")
    }

    #[test]
    fn a_guest_is_as_the_table_says() {
        assert_eq!(
            options_of_guest(1, Options::default()),
            "run --no-stdin --log log --timeout 60 --gpus 1 --memory 1G --allow no reset -- true"
        );
    }

    #[test]
    fn the_user_overrides_what_a_suite_can_do_without() {
        let options = Options {
            timeout: Some(7),
            memory: "2G".parse().ok(),
            cpus: Some(1),
            gpus: Some(1),
            ..Options::default()
        };
        let line = options_of_guest(1, options.clone());
        assert!(
            line.contains("--timeout 7 --memory 2048M --cpus 1 --gpus 1 --memory 1G"),
            "{line}"
        );
        // None where none is used, and no fewer than are needed.
        assert!(options_of_guest(0, options.clone()).contains("--gpus 0"));
        assert!(options_of_guest(2, options).contains("--gpus 2"));
    }

    #[test]
    fn a_slow_kernel_has_more_time() {
        let directory = tempfile::tempdir().unwrap();
        let mut plan = plan(directory.path());
        plan.time_factor = 3;
        let runner = Runner::new(plan).unwrap();
        let suite = guest_suite(0);
        let limit = Duration::from_secs(3 * 60) + 3 * GUEST_EXTRA;
        assert_eq!(runner.limit(&suite), Some(limit));
        let command = runner.guest_command(&suite, Path::new("log"), &[]);
        let words: Vec<_> = command.get_args().collect();
        assert!(words.contains(&"180".as_ref()), "{words:?}");
        assert!(words.contains(&"--env=KSELFTEST_TIMEOUT_FACTOR=3".as_ref()));
        assert!(words.contains(&"--boot-timeout=360".as_ref()));
    }

    #[test]
    fn suites_of_what_the_kernel_lacks_are_left_out() {
        let directory = tempfile::tempdir().unwrap();
        let mut plan = plan(directory.path());
        plan.no_driver = true;
        plan.no_rust = true;
        let runner = Runner::new(plan).unwrap();
        let mut sum = Totals::default();
        assert_eq!(runner.run(&guest_suite(1), &mut sum).unwrap(), Some(vec![]));
        assert_eq!(sum, totals(0, 0, 1));
        let mut of_rust = guest_suite(0);
        of_rust.rust = true;
        assert_eq!(runner.run(&of_rust, &mut sum).unwrap(), Some(vec![]));
        assert_eq!(sum, totals(0, 0, 2));
        // This one runs, or would if there were a program to boot it.
        assert_eq!(runner.run(&guest_suite(0), &mut sum).unwrap(), Some(vec![]));
        assert_eq!(sum, totals(0, 1, 2));
    }
}
