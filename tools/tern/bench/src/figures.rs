// SPDX-License-Identifier: MIT OR Apache-2.0

//! The figures, their targets, and the table.

use std::fmt::Write;

use serde::Serialize;

use crate::measured::{
    Counts, Drivers, Growth, Large, Metadata, Random, Sizes, There, Times, Ways,
};

/// A thing that was measured, beside the same thing of a peer.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Figure {
    /// What it is, and of what.
    pub name: String,
    /// Unit of `tern` and `peer`.
    pub unit: &'static str,
    /// This driver's.
    pub tern: f64,
    /// The peer's that the name tells.
    pub peer: Option<f64>,
    /// How many times more the peer's is.
    pub ratio: Option<f64>,
    /// What is aimed at.
    pub target: Option<String>,
    /// Whether that is reached.
    pub met: Option<bool>,
}

impl Figure {
    fn new(name: impl Into<String>, unit: &'static str, tern: f64) -> Self {
        Self {
            name: name.into(),
            unit,
            tern,
            peer: None,
            ratio: None,
            target: None,
            met: None,
        }
    }

    /// Puts the peer's beside it.
    fn against(mut self, peer: f64) -> Self {
        self.peer = Some(peer);
        self.ratio = (self.tern > 0.0).then_some(peer / self.tern);
        self
    }

    fn aims(mut self, target: String, met: bool) -> Self {
        self.target = Some(target);
        self.met = Some(met);
        self
    }

    fn at_most(self, limit: f64) -> Self {
        let met = self.tern <= limit;
        self.aims(format!("at most {limit}"), met)
    }

    fn at_least(self, limit: f64) -> Self {
        let met = self.tern >= limit;
        self.aims(format!("at least {limit}"), met)
    }

    /// Aims at a peer that needs so many times more.
    fn ratio_at_least(self, limit: f64) -> Self {
        let met = self.ratio.is_some_and(|ratio| ratio >= limit);
        self.aims(format!("ratio at least {limit}"), met)
    }

    /// Aims at so many times the peer's, or less.
    fn at_most_of_peer(self, limit: f64) -> Self {
        let met = self.peer.is_some_and(|peer| self.tern <= peer * limit);
        self.aims(format!("at most {limit} of the peer's"), met)
    }
}

/// Instructions for a huge page, in either direction.
const MOST_INSTRUCTIONS: f64 = 250_000.0;
/// How many times fewer than for single pages.
const FEWER_THAN_SINGLE: f64 = 20.0;
/// How many times fewer than `lib/test_hmm`, to the device.
const FEWER_THAN_TEST_HMM: f64 = 10.0;
/// How many times fewer than for single pages, for the same in folios of 64 KiB.
const LARGE_FEWER_THAN_SINGLE: f64 = 6.0;
/// Instructions on the series, as a part of those on the kernel without it, where nobody asks for
/// large folios.
const MOST_OF_BASE: f64 = 1.01;
/// Percent by which the cost of a huge page may differ.
const GROWTH_PERCENT: f64 = 10.0;
/// Percent of the time that is the copy.
const COPY_PERCENT: f64 = 80.0;
/// KiB of the driver's own memory per GiB.
const METADATA_KIB: f64 = 1024.0;
/// Bytes of the device's page table for 1 GiB of single pages: 8 for each.
const PAGE_TABLE: f64 = 8.0 * (1 << 18) as f64;

/// All figures. `split` is what folios of 64 KiB take where the driver splits them, `series` and
/// `base` what `lib/test_hmm` takes on the two kernels when it does not ask for large folios.
pub fn figures(
    counts: &Counts,
    times: &Times,
    split: &Ways,
    series: &Sizes,
    base: &Sizes,
) -> Vec<Figure> {
    let mut all = instructions(&counts.move_2m);
    all.extend(unasked(series, base));
    all.extend(large(&counts.large, &counts.move_2m.tern.single, split));
    all.extend(there(&counts.large));
    all.extend(growth(&counts.growth));
    all.extend(random(&counts.random, "instructions", 1.0));
    all.extend(moved(&times.moved, times.mib));
    all.extend(copy(&times.copy));
    all.extend(random(&times.random, "us", 1e-3));
    all.extend(metadata(&times.metadata));
    all
}

fn instructions(of: &Drivers) -> Vec<Figure> {
    let figure = |name: &str, tern| Figure::new(name, "instructions", tern);
    let (huge, single) = (of.tern.huge, of.tern.single);
    let (peer_huge, peer_single) = (of.test_hmm.huge, of.test_hmm.single);
    vec![
        figure("GPU fault, huge page to device", huge.to_device).at_most(MOST_INSTRUCTIONS),
        figure("  against 512 single pages", huge.to_device)
            .against(single.to_device)
            .ratio_at_least(FEWER_THAN_SINGLE),
        figure("  against lib/test_hmm", huge.to_device)
            .against(peer_huge.to_device)
            .ratio_at_least(FEWER_THAN_TEST_HMM),
        figure("CPU fault, huge page to system", huge.to_system).at_most(MOST_INSTRUCTIONS),
        figure("  against 512 single pages", huge.to_system)
            .against(single.to_system)
            .ratio_at_least(FEWER_THAN_SINGLE),
        figure("  against lib/test_hmm", huge.to_system).against(peer_huge.to_system),
        figure(
            "512 single pages to device, against lib/test_hmm",
            single.to_device,
        )
        .against(peer_single.to_device),
        figure(
            "512 single pages to system, against lib/test_hmm",
            single.to_system,
        )
        .against(peer_single.to_system),
    ]
}

/// `lib/test_hmm` with the series against the same without it.
fn unasked(series: &Sizes, base: &Sizes) -> Vec<Figure> {
    let figure = |name: &str, series, base| {
        let name = format!("lib/test_hmm, {name}, against the base kernel");
        Figure::new(name, "instructions", series)
            .against(base)
            .at_most_of_peer(MOST_OF_BASE)
    };
    let (huge, single) = (series.huge, series.single);
    vec![
        figure("huge page to device", huge.to_device, base.huge.to_device),
        figure("huge page to system", huge.to_system, base.huge.to_system),
        figure(
            "512 single pages to device",
            single.to_device,
            base.single.to_device,
        ),
        figure(
            "512 single pages to system",
            single.to_system,
            base.single.to_system,
        ),
    ]
}

/// Folios of 64 KiB against as many bytes in single pages and against what it takes to split them,
/// and whether they stay whole.
fn large(of: &Large, single: &Ways, split: &Ways) -> Vec<Figure> {
    let cost = |name: &str, large, single| {
        Figure::new(name, "instructions", large)
            .against(single)
            .ratio_at_least(LARGE_FEWER_THAN_SINGLE)
    };
    vec![
        cost(
            "32 folios of 64 KiB to device, against 512 single pages",
            of.cost.to_device,
            single.to_device,
        ),
        cost(
            "  against the same where they are split",
            of.cost.to_device,
            split.to_device,
        ),
        cost(
            "32 folios of 64 KiB to system, against 512 single pages",
            of.cost.to_system,
            single.to_system,
        ),
        cost(
            "  against the same where they were split",
            of.cost.to_system,
            split.to_system,
        ),
        Figure::new(
            "  of which move whole after ten round trips",
            "folios",
            of.whole as f64,
        )
        .at_least(of.folios as f64),
    ]
}

/// What folios of 64 KiB cost while they are on the device, against single pages.
fn there(of: &Large) -> Vec<Figure> {
    let (whole, single): (There, There) = (of.there, of.there_single);
    let figure = |name: &str, whole, single| {
        let name =
            format!("{name} with 32 folios of 64 KiB on the device, against 512 single pages");
        Figure::new(name, "instructions", whole).against(single)
    };
    vec![
        figure("fork and exit", whole.fork, single.fork),
        figure("munmap", whole.unmap, single.unmap),
    ]
}

/// The cost of a huge page for each size, then by how many percent the highest is above the
/// lowest.
fn growth(of: &[Growth]) -> Vec<Figure> {
    let mut all: Vec<_> = of
        .iter()
        .map(|growth| {
            let name = format!("2 MiB of {} MiB touched by the GPU", growth.mib);
            Figure::new(name, "instructions", growth.per_huge_page)
        })
        .collect();
    let costs = || of.iter().map(|growth| growth.per_huge_page);
    let (least, most) = (
        costs().fold(f64::INFINITY, f64::min),
        costs().fold(0.0, f64::max),
    );
    if least > 0.0 && least.is_finite() {
        let percent = 100.0 * (most / least - 1.0);
        let figure = Figure::new("  difference", "%", percent);
        all.push(figure.at_most(GROWTH_PERCENT));
    }
    all
}

fn random(of: &Random, unit: &'static str, scale: f64) -> Vec<Figure> {
    let name = "512 lanes at once on random pages, against one by one";
    vec![Figure::new(name, unit, of.at_once * scale).against(of.one_by_one * scale)]
}

fn moved(of: &Drivers, mib: u64) -> Vec<Figure> {
    let figure = |name: &str, tern: f64, peer: f64| {
        let name = format!("{mib} MiB {name}, against lib/test_hmm");
        Figure::new(name, "ms", tern * 1e-6).against(peer * 1e-6)
    };
    let (tern, peer) = (of.tern, of.test_hmm);
    vec![
        figure(
            "in huge pages to device",
            tern.huge.to_device,
            peer.huge.to_device,
        ),
        figure(
            "in huge pages to system",
            tern.huge.to_system,
            peer.huge.to_system,
        ),
        figure(
            "in single pages to device",
            tern.single.to_device,
            peer.single.to_device,
        ),
        figure(
            "in single pages to system",
            tern.single.to_system,
            peer.single.to_system,
        ),
    ]
}

fn copy(of: &Ways) -> Vec<Figure> {
    let figure = |name, part: f64| Figure::new(name, "%", 100.0 * part).at_least(COPY_PERCENT);
    vec![
        figure("copy's part of the time, huge page to device", of.to_device),
        figure("copy's part of the time, huge page to system", of.to_system),
    ]
}

fn metadata(of: &Metadata) -> Vec<Figure> {
    let figure = |name, bytes: f64| Figure::new(name, "KiB", bytes / 1024.0).at_most(METADATA_KIB);
    vec![
        figure("memory of the driver per GiB in huge pages", of.huge),
        figure("memory of the driver per GiB in single pages", of.single),
        figure("  without the device's page table", of.single - PAGE_TABLE),
    ]
}

/// The figures for people.
pub fn table(figures: &[Figure]) -> String {
    let mut rows =
        vec![["figure", "unit", "tern", "peer", "ratio", "target", ""].map(String::from)];
    rows.extend(figures.iter().map(row));
    let width = |column: usize| {
        rows.iter()
            .map(|row| row[column].chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: [usize; 7] = std::array::from_fn(width);
    let mut text = String::new();
    for row in &rows {
        let mut line = String::new();
        for (column, (cell, width)) in row.iter().zip(widths).enumerate() {
            let _ = match column {
                2..=4 => write!(line, "{cell:>width$}  "),
                _ => write!(line, "{cell:<width$}  "),
            };
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

fn row(figure: &Figure) -> [String; 7] {
    let optional = |value: Option<f64>| value.map(number).unwrap_or_default();
    [
        figure.name.clone(),
        figure.unit.to_string(),
        number(figure.tern),
        optional(figure.peer),
        optional(figure.ratio),
        figure.target.clone().unwrap_or_default(),
        match figure.met {
            Some(true) => "met".to_string(),
            Some(false) => "MISSED".to_string(),
            None => String::new(),
        },
    ]
}

/// Three digits or more.
fn number(value: f64) -> String {
    let digits = match value.abs() {
        v if v >= 99.95 => 0,
        v if v >= 9.995 => 1,
        _ => 2,
    };
    format!("{value:.digits$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ways(to_device: f64, to_system: f64) -> Ways {
        Ways {
            to_device,
            to_system,
        }
    }

    #[test]
    fn the_ratio_is_the_peers_over_ours() {
        let figure = Figure::new("x", "ms", 4.0).against(10.0);
        assert_eq!(figure.ratio, Some(2.5));
        assert_eq!(figure.met, None);
        assert_eq!(Figure::new("x", "ms", 0.0).against(1.0).ratio, None);
    }

    #[test]
    fn targets_hold_at_their_limit_and_not_beyond() {
        let met = |figure: Figure| figure.met.unwrap();
        assert!(met(Figure::new("x", "%", 10.0).at_most(10.0)));
        assert!(!met(Figure::new("x", "%", 10.1).at_most(10.0)));
        assert!(met(Figure::new("x", "%", 80.0).at_least(80.0)));
        assert!(!met(Figure::new("x", "%", 79.9).at_least(80.0)));
        let against = |peer| Figure::new("x", "ms", 2.0).against(peer);
        assert!(met(against(40.0).ratio_at_least(20.0)));
        assert!(!met(against(39.9).ratio_at_least(20.0)));
        // What cannot be compared is not reached.
        assert!(!met(Figure::new("x", "ms", 2.0).ratio_at_least(20.0)));
    }

    #[test]
    fn a_huge_page_is_compared_three_times() {
        let of = Drivers {
            tern: Sizes {
                huge: ways(200_000.0, 300_000.0),
                single: ways(4_000_000.0, 3_000_000.0),
            },
            test_hmm: Sizes {
                huge: ways(1_000_000.0, 600_000.0),
                single: ways(8_000_000.0, 6_000_000.0),
            },
        };
        let figures = instructions(&of);
        let met: Vec<_> = figures.iter().map(|figure| figure.met).collect();
        let (yes, no) = (Some(true), Some(false));
        assert_eq!(met, [yes, yes, no, no, no, None, None, None]);
        let ratios: Vec<_> = figures.iter().map(|figure| figure.ratio).collect();
        let expected = [
            None,
            Some(20.0),
            Some(5.0),
            None,
            Some(10.0),
            Some(2.0),
            Some(2.0),
            Some(2.0),
        ];
        assert_eq!(ratios, expected);
    }

    #[test]
    fn one_percent_more_than_without_the_series_is_allowed() {
        let base = Sizes {
            huge: ways(1000.0, 1000.0),
            single: ways(1000.0, 1000.0),
        };
        let series = Sizes {
            huge: ways(1010.0, 1011.0),
            single: ways(900.0, 1100.0),
        };
        let figures = unasked(&series, &base);
        let met: Vec<_> = figures.iter().map(|figure| figure.met.unwrap()).collect();
        assert_eq!(met, [true, false, true, false]);
        assert!(figures.iter().all(|figure| figure.peer == Some(1000.0)));
        // What cannot be compared is not reached.
        assert_eq!(
            Figure::new("x", "ms", 0.0).at_most_of_peer(1.0).met,
            Some(false)
        );
    }

    #[test]
    fn folios_that_were_split_are_told() {
        let of = |whole| Large {
            cost: ways(1.0, 2.0),
            folios: 32,
            whole,
            ..Large::default()
        };
        let met = |whole| -> Vec<_> {
            let figures = large(&of(whole), &ways(6.0, 11.0), &ways(5.0, 12.0));
            figures.iter().map(|figure| figure.met.unwrap()).collect()
        };
        assert_eq!(met(32), [true, false, false, true, true]);
        assert_eq!(met(31), [true, false, false, true, false]);
    }

    #[test]
    fn growth_is_the_highest_over_the_lowest() {
        let growth = |costs: &[f64]| {
            let of: Vec<_> = costs
                .iter()
                .map(|&per_huge_page| Growth {
                    mib: 64,
                    per_huge_page,
                })
                .collect();
            growth(&of)
        };
        let figures = growth(&[100.0, 109.0, 104.0]);
        let last = figures.last().unwrap();
        assert_eq!(figures.len(), 4);
        assert!((last.tern - 9.0).abs() < 1e-9 && last.met == Some(true));
        assert_eq!(growth(&[100.0, 89.0]).last().unwrap().met, Some(false));
        assert!(growth(&[]).is_empty());
    }

    #[test]
    fn the_page_table_is_told_apart() {
        let figures = metadata(&Metadata {
            huge: 0.0,
            single: (2 << 20) as f64 + 4096.0,
        });
        let costs: Vec<_> = figures.iter().map(|figure| figure.tern).collect();
        assert_eq!(costs, [0.0, 2052.0, 4.0]);
        let met: Vec<_> = figures.iter().map(|figure| figure.met.unwrap()).collect();
        assert_eq!(met, [true, false, true]);
    }

    #[test]
    fn a_missed_target_is_shown_as_missed() {
        let figures = [
            Figure::new("short", "ms", 1234.0).against(2468.0),
            Figure::new("a longer name", "%", 9.0).at_least(80.0),
        ];
        let expected = "\
figure         unit  tern  peer  ratio  target
short          ms    1234  2468   2.00
a longer name  %     9.00               at least 80  MISSED
";
        assert_eq!(table(&figures), expected);
    }

    #[test]
    fn json_has_every_member() {
        let json = serde_json::to_value(Figure::new("x", "ms", 1.0)).unwrap();
        let members: Vec<_> = json.as_object().unwrap().keys().cloned().collect();
        let mut expected = ["name", "unit", "tern", "peer", "ratio", "target", "met"];
        expected.sort_unstable();
        assert_eq!(members, expected);
    }
}
