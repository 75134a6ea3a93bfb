// SPDX-License-Identifier: MIT OR Apache-2.0

//! Where the instructions go, function by function.

use std::collections::BTreeMap;
use std::fmt::Write;

/// Addresses below are of programs.
const KERNEL: u64 = 1 << 63;
/// Addresses from here are of modules, on a kernel that is where it was linked to.
const MODULES: u64 = 0xffff_ffff_a000_0000;

/// Functions by address, from the kernel's `System.map`.
#[derive(Debug)]
pub struct Symbols(BTreeMap<u64, String>);

impl Symbols {
    /// Reads lines `ADDRESS TYPE NAME`. What is no function is left out.
    pub fn parse(map: &str) -> Self {
        let line = |line: &str| {
            let mut words = line.split_whitespace();
            let address = u64::from_str_radix(words.next()?, 16).ok()?;
            words
                .next()
                .filter(|kind| matches!(*kind, "t" | "T" | "w" | "W"))?;
            Some((address, words.next()?.to_string()))
        };
        Self(map.lines().filter_map(line).collect())
    }

    fn name(&self, address: u64) -> &str {
        if address < KERNEL {
            return "(user space)";
        }
        if address >= MODULES {
            return "(modules)";
        }
        let below = self.0.range(..=address).next_back();
        below.map_or("(unknown)", |(_, name)| name)
    }
}

/// The functions of a profile with lines `ADDRESS COUNT`, and their instructions, most first.
pub fn functions<'a>(profile: &str, symbols: &'a Symbols) -> Vec<(&'a str, u64)> {
    let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
    for line in profile.lines() {
        let Some((address, count)) = line.split_once(' ') else {
            continue;
        };
        if let (Ok(address), Ok(count)) = (u64::from_str_radix(address, 16), count.parse::<u64>()) {
            *counts.entry(symbols.name(address)).or_default() += count;
        }
    }
    let mut functions: Vec<_> = counts.into_iter().collect();
    functions.sort_by_key(|&(name, count)| (std::cmp::Reverse(count), name));
    functions
}

/// The first `most` of `functions` for people.
pub fn table(title: &str, functions: &[(&str, u64)], most: usize) -> String {
    let total: u64 = functions.iter().map(|(_, count)| count).sum();
    let mut text = format!("{title}: {total} instructions\n");
    for (name, count) in functions.iter().take(most) {
        let percent = 100.0 * *count as f64 / total.max(1) as f64;
        let _ = writeln!(text, "{count:>10} {percent:5.1} %  {name}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAP: &str = "\
ffffffff81000000 T first
ffffffff81000100 t second
ffffffff81000180 d data
ffffffff81000200 W third
";

    #[test]
    fn blocks_belong_to_the_function_before_them() {
        let symbols = Symbols::parse(MAP);
        let profile = "\
ffffffff81000000 5
ffffffff810001f0 20
ffffffff81000104 10
ffffffff81000200 7
400000 3
ffffffff80000000 1
ffffffffa0000010 2
";
        let expected = [
            ("second", 30),
            ("third", 7),
            ("first", 5),
            ("(user space)", 3),
            ("(modules)", 2),
            ("(unknown)", 1),
        ];
        assert_eq!(functions(profile, &symbols), expected);
    }

    #[test]
    fn the_table_has_percentages() {
        let functions = [("a", 5), ("b", 2), ("c", 1)];
        assert_eq!(
            table("moved", &functions, 2),
            "moved: 8 instructions\n         5  62.5 %  a\n         2  25.0 %  b\n"
        );
    }
}
