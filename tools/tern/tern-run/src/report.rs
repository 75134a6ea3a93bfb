// SPDX-License-Identifier: MIT OR Apache-2.0

//! What is printed: a table for people, JSON for programs.

use std::fmt::Write;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tern::{DeviceInfo, Stats};

use crate::executor::Usage;
use crate::format;
use crate::memory::Thp;

/// All that a run of the program has to say.
#[derive(Debug, Serialize)]
pub struct Report {
    pub device: DeviceReport,
    pub thp: Thp,
    pub workloads: Vec<Workload>,
}

/// The device.
#[derive(Debug, Serialize)]
pub struct DeviceReport {
    pub path: String,
    /// Interface version as major.minor.
    pub hw_version: String,
    pub vram_bytes: u64,
    pub copy_engines: u32,
    pub resident_threads: u32,
}

impl DeviceReport {
    /// From what the device says of itself.
    pub fn new(path: String, info: &DeviceInfo) -> Self {
        Self {
            path,
            hw_version: format!("{}.{}", info.hw_version >> 16, info.hw_version & 0xffff),
            vram_bytes: info.vram_size,
            copy_engines: info.copy_engines,
            resident_threads: info.resident_threads,
        }
    }
}

/// One workload. Times are in nanoseconds.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Workload {
    pub name: String,
    /// Bytes that the device worked on.
    pub bytes: u64,
    pub note: String,
    pub result: Outcome,
    /// What was wrong, where the result is not `equal`.
    pub error: Option<String>,
    /// From start to end, the CPU's part and the comparison included.
    pub total_ns: u64,
    /// From each launch until its end.
    pub device_ns: u64,
    pub launches: u64,
    pub instructions: u64,
    pub faults: u64,
    pub blocks: u64,
    pub cancels: u64,
    pub cpu_faults: u64,
    pub to_device: Moved,
    pub to_system: Moved,
    pub mapped_pages: u64,
    pub collect_ns: u64,
    pub copy_ns: u64,
    pub install_ns: u64,
}

/// Pages moved in one direction, by size.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moved {
    /// Of 2 MiB, whole.
    pub huge: u64,
    /// Between 4 KiB and 2 MiB, whole.
    pub mid: u64,
    /// Of 4 KiB.
    pub small: u64,
    pub bytes: u64,
}

/// How a workload ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// Every byte is equal to the CPU's own result.
    Equal,
    /// A byte is not.
    Mismatch,
    /// It did not come to a result.
    #[default]
    Failed,
}

impl Workload {
    /// Takes over what was counted.
    pub fn count(&mut self, usage: &Usage, stats: &Stats) {
        self.device_ns = nanoseconds(usage.time);
        self.launches = usage.launches;
        self.instructions = usage.instructions;
        self.faults = stats.faults;
        self.blocks = stats.blocks;
        self.cancels = stats.cancels;
        self.cpu_faults = stats.cpu_faults;
        self.to_device = Moved {
            huge: stats.to_device_huge,
            mid: stats.to_device_mid,
            small: stats.to_device_small,
            bytes: stats.bytes_to_device,
        };
        self.to_system = Moved {
            huge: stats.to_system_huge,
            mid: stats.to_system_mid,
            small: stats.to_system_small,
            bytes: stats.bytes_to_system,
        };
        self.mapped_pages = stats.mapped_pages;
        self.collect_ns = stats.collect_ns;
        self.copy_ns = stats.copy_ns;
        self.install_ns = stats.install_ns;
    }

    /// Adds what a process did that was its part number `index`, at the same time as the others:
    /// the device's time is that of the slowest, and all else is the sum.
    pub fn add(&mut self, index: usize, part: &Self) {
        self.device_ns = self.device_ns.max(part.device_ns);
        self.launches += part.launches;
        self.instructions += part.instructions;
        self.faults += part.faults;
        self.blocks += part.blocks;
        self.cancels += part.cancels;
        self.cpu_faults += part.cpu_faults;
        self.to_device.add(&part.to_device);
        self.to_system.add(&part.to_system);
        self.mapped_pages += part.mapped_pages;
        self.collect_ns += part.collect_ns;
        self.copy_ns += part.copy_ns;
        self.install_ns += part.install_ns;
        self.result = self.result.worse(part.result);
        if let Some(error) = &part.error {
            let before = self
                .error
                .take()
                .map_or(String::new(), |error| error + "; ");
            self.error = Some(format!("{before}process {index}: {error}"));
        }
    }
}

impl Moved {
    fn add(&mut self, other: &Self) {
        self.huge += other.huge;
        self.mid += other.mid;
        self.small += other.small;
        self.bytes += other.bytes;
    }
}

impl Outcome {
    /// A result that differs is worse than none.
    fn worse(self, other: Self) -> Self {
        match (self, other) {
            (Self::Mismatch, _) | (_, Self::Mismatch) => Self::Mismatch,
            (Self::Failed, _) | (_, Self::Failed) => Self::Failed,
            (Self::Equal, Self::Equal) => Self::Equal,
        }
    }
}

/// Nanoseconds as an integer; the largest stands for all longer ones.
pub fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// A row of the table: its title, and its cell for a workload.
type Row = (&'static str, fn(&Workload) -> String);

const ROWS: &[Row] = &[
    ("", |w| w.name.clone()),
    ("memory", |w| format::bytes(w.bytes)),
    ("time, whole", |w| time(w.total_ns)),
    ("time, device", |w| time(w.device_ns)),
    ("device faults", |w| w.faults.to_string()),
    ("CPU faults", |w| w.cpu_faults.to_string()),
    ("to device   2 MiB", |w| w.to_device.huge.to_string()),
    ("            mTHP", |w| w.to_device.mid.to_string()),
    ("            4 KiB", |w| w.to_device.small.to_string()),
    ("            copied", |w| format::bytes(w.to_device.bytes)),
    ("to system   2 MiB", |w| w.to_system.huge.to_string()),
    ("            mTHP", |w| w.to_system.mid.to_string()),
    ("            4 KiB", |w| w.to_system.small.to_string()),
    ("            copied", |w| format::bytes(w.to_system.bytes)),
    ("mapped in place", |w| {
        format::bytes(w.mapped_pages.saturating_mul(4096))
    }),
    ("collect", |w| time(w.collect_ns)),
    ("copy", |w| time(w.copy_ns)),
    ("install", |w| time(w.install_ns)),
    ("result", |w| result(w.result).into()),
];

fn time(ns: u64) -> String {
    format::time(Duration::from_nanos(ns))
}

fn result(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Equal => "equal",
        Outcome::Mismatch => "MISMATCH",
        Outcome::Failed => "FAILED",
    }
}

impl Report {
    /// Exit status of the program: 0 where all results are equal, 1 where one differs, else 2.
    pub fn exit_status(&self) -> u8 {
        let any = |outcome| self.workloads.iter().any(|w| w.result == outcome);
        match () {
            () if any(Outcome::Mismatch) => 1,
            () if any(Outcome::Failed) => 2,
            () => 0,
        }
    }

    /// One column for each workload, as many side by side as fit into [`COLUMNS`].
    pub fn table(&self) -> String {
        let device = &self.device;
        let mut out = format!(
            "tern {} at {}: {} of device memory, {} copy engines, {} threads at a time\n\n",
            device.hw_version,
            device.path,
            format::bytes(device.vram_bytes),
            device.copy_engines,
            device.resident_threads,
        );
        let titles = ROWS.iter().map(|(title, _)| title.len()).max().unwrap_or(0);
        let width = self.workloads.iter().map(width).max().unwrap_or(0);
        let side_by_side = ((COLUMNS - titles) / (2 + width)).max(1);
        for workloads in evenly(&self.workloads, side_by_side) {
            for (title, cell) in ROWS {
                let mut line = format!("{title:titles$}");
                for workload in workloads {
                    line.push_str(&format!("  {:>width$}", cell(workload)));
                }
                out.push_str(line.trim_end());
                out.push('\n');
            }
            out.push('\n');
        }
        self.notes(&mut out);
        out
    }

    /// What each workload has to say in words.
    fn notes(&self, out: &mut String) {
        for workload in &self.workloads {
            let text = workload.error.as_ref().unwrap_or(&workload.note);
            // Writing to a string cannot fail.
            let _ = writeln!(out, "{}: {text}", workload.name);
        }
    }
}

/// Characters of the longest line of the table.
const COLUMNS: usize = 80;

/// Parts of about the same length, with `most` elements at most.
fn evenly<T>(all: &[T], most: usize) -> std::slice::Chunks<'_, T> {
    let parts = all.len().div_ceil(most).max(1);
    all.chunks(all.len().div_ceil(parts).max(1))
}

/// Characters of the widest cell of a workload.
fn width(workload: &Workload) -> usize {
    ROWS.iter()
        .map(|(_, cell)| cell(workload).len())
        .max()
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(outcomes: &[Outcome]) -> Report {
        let workloads = outcomes.iter().map(|&result| Workload {
            name: "triad".into(),
            bytes: 64 << 20,
            note: "2796202 doubles".into(),
            result,
            error: (result != Outcome::Equal).then(|| "a[1] differs".into()),
            total_ns: 1_500_000_000,
            faults: 123,
            to_device: Moved {
                huge: 32,
                small: 5,
                bytes: 64 << 20,
                mid: 0,
            },
            mapped_pages: 256,
            ..Default::default()
        });
        let device = DeviceReport {
            path: "/dev/dri/renderD128".into(),
            hw_version: "1.0".into(),
            vram_bytes: 512 << 20,
            copy_engines: 2,
            resident_threads: 256,
        };
        Report {
            device,
            thp: Thp::Always,
            workloads: workloads.collect(),
        }
    }

    #[test]
    fn the_table_has_a_row_for_each_figure() {
        let expected = "\
tern 1.0 at /dev/dri/renderD128: 512 MiB of device memory, 2 copy engines, 256 threads at a time

                        triad     triad
memory                 64 MiB    64 MiB
time, whole         1500.0 ms  1500.0 ms
";
        let table = report(&[Outcome::Equal, Outcome::Mismatch]).table();
        let first: Vec<_> = table.lines().take(2).collect();
        assert_eq!(first, expected.lines().take(2).collect::<Vec<_>>());
        let cells = |title: &str| -> Vec<String> {
            let line = table.lines().find(|l| l.starts_with(title)).unwrap();
            line[title.len()..]
                .split("  ")
                .map(str::trim)
                .filter(|c| !c.is_empty())
                .map(Into::into)
                .collect()
        };
        assert_eq!(cells("memory"), ["64 MiB", "64 MiB"]);
        assert_eq!(cells("time, whole"), ["1500.0 ms", "1500.0 ms"]);
        assert_eq!(cells("device faults"), ["123", "123"]);
        assert_eq!(cells("to device   2 MiB"), ["32", "32"]);
        assert_eq!(cells("mapped in place"), ["1 MiB", "1 MiB"]);
        assert_eq!(cells("result"), ["equal", "MISMATCH"]);
        assert!(table.ends_with("triad: 2796202 doubles\ntriad: a[1] differs\n"));
    }

    #[test]
    fn columns_are_aligned() {
        let table = report(&[Outcome::Equal, Outcome::Failed]).table();
        let rows = table.lines().skip(2).take(ROWS.len());
        let lengths: std::collections::BTreeSet<_> = rows.map(str::len).collect();
        assert_eq!(lengths.len(), 1, "{table}");
    }

    #[test]
    fn many_workloads_stand_in_rows_that_a_terminal_shows() {
        let table = report(&[Outcome::Equal; 9]).table();
        assert!(
            table.lines().skip(1).all(|line| line.len() <= COLUMNS),
            "{table}"
        );
        let results: Vec<_> = table.lines().filter(|l| l.starts_with("result")).collect();
        let counts: Vec<_> = results.iter().map(|l| l.matches("equal").count()).collect();
        assert_eq!(counts, [5, 4], "{table}");
    }

    #[test]
    fn what_processes_did_is_summed_up() {
        let mut parts = report(&[Outcome::Equal, Outcome::Failed, Outcome::Mismatch]).workloads;
        parts[1].device_ns = 7;
        let mut sum = Workload {
            result: Outcome::Equal,
            ..Default::default()
        };
        sum.add(1, &parts[0]);
        assert_eq!((sum.result, &sum.error), (Outcome::Equal, &None));
        sum.add(2, &parts[1]);
        assert_eq!(sum.result, Outcome::Failed);
        sum.add(3, &parts[2]);
        sum.add(4, &parts[1]);
        assert_eq!((sum.result, sum.device_ns), (Outcome::Mismatch, 7));
        assert_eq!((sum.faults, sum.to_device.huge), (4 * 123, 4 * 32));
        let error = "process 2: a[1] differs; process 3: a[1] differs; process 4: a[1] differs";
        assert_eq!(sum.error.as_deref(), Some(error));
    }

    #[test]
    fn the_exit_status_tells_a_mismatch() {
        use Outcome::{Equal, Failed, Mismatch};
        assert_eq!(report(&[Equal, Equal]).exit_status(), 0);
        assert_eq!(report(&[Equal, Mismatch, Failed]).exit_status(), 1);
        assert_eq!(report(&[Failed, Equal]).exit_status(), 2);
    }

    #[test]
    fn json_has_the_figures_as_numbers() {
        let report = report(&[Outcome::Mismatch]);
        let value = serde_json::to_value(&report).unwrap();
        assert_eq!(value["thp"], "always");
        let workload = &value["workloads"][0];
        assert_eq!(workload["result"], "mismatch");
        assert_eq!(workload["error"], "a[1] differs");
        assert_eq!(workload["to_device"]["huge"], 32);
        assert_eq!(workload["total_ns"], 1_500_000_000u64);
    }
}
