// SPDX-License-Identifier: MIT OR Apache-2.0

//! What several suites gave for tests of the same names, side by side.

use std::fmt;

use crate::suite::{Case, Verdict};

/// One column for each suite, one row for each test.
#[derive(Debug, Default)]
pub struct Comparison {
    suites: Vec<String>,
    /// Name, and what each suite so far gave; rows in the order of their first suite.
    rows: Vec<(String, Vec<Option<&'static str>>)>,
}

impl Comparison {
    /// Adds the column of a suite.
    pub fn add(&mut self, suite: &str, cases: &[Case]) {
        let column = self.suites.len();
        self.suites.push(suite.to_string());
        for (_, row) in &mut self.rows {
            row.push(None);
        }
        for case in cases {
            let at = match self.rows.iter().position(|(name, _)| *name == case.name) {
                Some(at) => at,
                None => {
                    self.rows.push((case.name.clone(), vec![None; column + 1]));
                    self.rows.len() - 1
                }
            };
            self.rows[at].1[column] = Some(word(&case.verdict));
        }
    }
}

fn word(verdict: &Verdict) -> &'static str {
    match verdict {
        Verdict::Passed => "passed",
        Verdict::Failed(_) => "failed",
        Verdict::Skipped(_) => "skipped",
    }
}

/// A table; what differs has a mark at the end of its line.
impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.rows.iter().map(|(name, _)| name.len()).max();
        let width = width.unwrap_or(0);
        let cells: Vec<_> = self.suites.iter().map(|name| name.len().max(8)).collect();
        write!(f, "{:width$}", "")?;
        for (suite, cell) in self.suites.iter().zip(&cells) {
            write!(f, "  {suite:cell$}")?;
        }
        let mut same = 0;
        for (name, row) in &self.rows {
            write!(f, "\n{name:width$}")?;
            for (verdict, cell) in row.iter().zip(&cells) {
                write!(f, "  {:cell$}", verdict.unwrap_or("-"))?;
            }
            if row.iter().all(|verdict| *verdict == row[0]) {
                same += 1;
            } else {
                write!(f, "  differs")?;
            }
        }
        write!(f, "\n{same} of {} tests gave the same", self.rows.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn case(name: &str, verdict: Verdict) -> Case {
        Case {
            name: name.into(),
            verdict,
        }
    }

    #[test]
    fn what_differs_is_marked() {
        let mut table = Comparison::default();
        let skipped = || Verdict::Skipped("why".into());
        table.add(
            "one",
            &[case("a", Verdict::Passed), case("bb", Verdict::Passed)],
        );
        table.add("another", &[case("bb", skipped()), case("c", skipped())]);
        let expected = "    one       another \n\
                        a   passed    -         differs\n\
                        bb  passed    skipped   differs\n\
                        c   -         skipped   differs\n\
                        0 of 3 tests gave the same";
        assert_eq!(table.to_string(), expected);
        let mut table = Comparison::default();
        for suite in ["x", "y"] {
            table.add(suite, &[case("a", Verdict::Failed(String::new()))]);
        }
        assert!(table.to_string().ends_with("1 of 1 tests gave the same"));
    }
}
