// SPDX-License-Identifier: MIT OR Apache-2.0

//! What people can choose about the machine: the same options, with the same
//! rules, on the command lines of all programs, or in the environment.

use std::fmt;
use std::ops::Mul;
use std::process::Command;
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, ValueEnum};

use crate::vgpu::MAX_GPUS;

/// Most processors that the guest's kernel takes (`CONFIG_NR_CPUS`).
const MAX_CPUS: i64 = 8;

/// Least RAM that a guest gets to its command with.
const MIN_MEMORY: Size = Size { mib: 256 };

/// The options; what is not given has the default of whoever asks.
#[derive(Clone, Debug, Default, Args)]
#[group(skip)]
pub struct Options {
    /// How instructions are executed [default: auto]
    #[arg(long, env = "ACCEL", value_enum)]
    pub accel: Option<Accelerator>,
    /// Time limit for the command in seconds, 0 for none [default: 3600; for a
    /// shell none]
    #[arg(long, env = "TIMEOUT", value_name = "SECONDS")]
    pub timeout: Option<u32>,
    /// RAM, as 3G; a plain number counts MiB [default: 3G]
    #[arg(long, env = "MEMORY", value_name = "SIZE", value_parser = memory)]
    pub memory: Option<Size>,
    /// Number of processors [default: 2]
    #[arg(long, env = "CPUS", value_name = "N", value_parser = clap::value_parser!(u32).range(1..=MAX_CPUS))]
    pub cpus: Option<u32>,
    /// Memory of each virtual GPU, as 512M; a plain number counts MiB
    #[arg(long, env = "VRAM", value_name = "SIZE", value_parser = vram)]
    pub vram: Option<Size>,
    /// Number of virtual GPUs [default: 1]
    #[arg(long, env = "GPUS", value_name = "N", value_parser = clap::value_parser!(u32).range(..=i64::from(MAX_GPUS)))]
    pub gpus: Option<u32>,
}

impl Options {
    /// Adds what was given to a command that takes the same options.
    pub fn add_to(&self, command: &mut Command) {
        let accel = self.accel.and_then(|accel| accel.to_possible_value());
        let options = [
            ("--accel", accel.map(|value| value.get_name().to_owned())),
            ("--timeout", self.timeout.map(|value| value.to_string())),
            ("--memory", self.memory.map(|value| value.to_string())),
            ("--cpus", self.cpus.map(|value| value.to_string())),
            ("--vram", self.vram.map(|value| value.to_string())),
            ("--gpus", self.gpus.map(|value| value.to_string())),
        ];
        for (name, value) in options {
            command.args(
                value
                    .map(|value| [name.to_owned(), value])
                    .into_iter()
                    .flatten(),
            );
        }
    }

    /// The limit for a command that has `default` seconds when nothing is
    /// said; `None` is none.
    pub fn limit(&self, default: u32) -> Option<Duration> {
        let seconds = self.timeout.unwrap_or(default);
        (seconds > 0).then(|| Duration::from_secs(seconds.into()))
    }
}

/// How the guest's instructions are to be executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Accelerator {
    /// KVM where a probe boots with it, otherwise TCG
    Auto,
    /// QEMU's translator
    Tcg,
    /// The processor
    Kvm,
}

/// An amount of memory: whole MiB, so that it reads the same in every option
/// of QEMU and of the virtual GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size {
    mib: u64,
}

impl Size {
    /// An amount in MiB.
    pub const fn mib(mib: u64) -> Self {
        Self { mib }
    }

    /// The largest power of two that is not more.
    pub fn power_of_two(self) -> Self {
        Self::mib(self.mib.checked_ilog2().map_or(0, |bit| 1 << bit))
    }
}

impl Mul<u32> for Size {
    type Output = Self;

    fn mul(self, factor: u32) -> Self {
        Self::mib(self.mib * u64::from(factor))
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}M", self.mib)
    }
}

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        /// 1 TiB: more than any machine here, and no sum of a few overflows.
        const LIMIT: u64 = 1 << 20;
        let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
        let number: Option<u64> = digits.parse().ok();
        let mib = match &text[digits.len()..] {
            "K" | "k" => number.filter(|n| n % 1024 == 0).map(|n| n / 1024),
            "" | "M" | "m" => number,
            "G" | "g" => number.and_then(|n| n.checked_mul(1024)),
            _ => None,
        };
        match mib {
            Some(mib) if (1..=LIMIT).contains(&mib) => Ok(Self { mib }),
            _ => Err(
                "a size is a number of whole MiB, up to 1024G, with K, M or G \
                      behind it, such as 512M; without a letter it counts MiB"
                    .to_string(),
            ),
        }
    }
}

fn memory(text: &str) -> Result<Size, String> {
    let size: Size = text.parse()?;
    if size < MIN_MEMORY {
        return Err(format!("a guest needs {MIN_MEMORY} or more"));
    }
    Ok(size)
}

fn vram(text: &str) -> Result<Size, String> {
    let size: Size = text.parse()?;
    if size.mib % 2 != 0 {
        return Err("the memory of a GPU is a multiple of 2M".to_string());
    }
    Ok(size)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        options: Options,
    }

    fn parse(words: &[&str]) -> Result<Options, String> {
        let words = std::iter::once("x").chain(words.iter().copied());
        match Cli::try_parse_from(words) {
            Ok(cli) => Ok(cli.options),
            Err(error) => Err(error.to_string()),
        }
    }

    #[test]
    fn sizes_have_one_unit_rule() {
        for (text, mib) in [("3G", 3072), ("512m", 512), ("2048K", 2), ("700", 700)] {
            assert_eq!(text.parse(), Ok(Size { mib }), "{text}");
        }
        for text in [
            "",
            "M",
            "1T",
            "-1",
            "1.5G",
            "1K",
            "0",
            "ä",
            "1025G",
            "99999999999999999999",
        ] {
            assert!(text.parse::<Size>().is_err(), "{text}");
        }
        assert_eq!(Size::mib(512).to_string(), "512M");
    }

    #[test]
    fn powers_of_two_fit() {
        for (mib, power) in [(2, 2), (6, 4), (512, 512), (1000, 512)] {
            assert_eq!(Size::mib(mib).power_of_two(), Size::mib(power));
        }
    }

    #[test]
    fn a_size_has_multiples() {
        assert_eq!(Size::mib(3072) * 3, Size::mib(9216));
    }

    #[test]
    fn what_was_given_is_passed_on() {
        let words = [
            "--accel",
            "kvm",
            "--timeout",
            "0",
            "--memory",
            "4096M",
            "--cpus",
            "8",
            "--vram",
            "64M",
            "--gpus",
            "2",
        ];
        let mut command = Command::new("x");
        parse(&words).unwrap().add_to(&mut command);
        assert_eq!(command.get_args().collect::<Vec<_>>(), words);
    }

    #[test]
    fn values_out_of_range_are_named() {
        for (words, named) in [
            (["--gpus", "3"], "3"),
            (["--cpus", "9"], "9"),
            (["--cpus", "0"], "0"),
            (["--accel", "xen"], "xen"),
            (["--timeout", "99999999999999"], "99999999999999"),
            (["--timeout", "1h"], "1h"),
            (["--memory", "64M"], "256M"),
            (["--vram", "3M"], "multiple of 2M"),
        ] {
            let error = parse(&words).unwrap_err();
            assert!(error.contains(named), "{error}");
        }
    }

    #[test]
    fn the_kernel_takes_as_many_processors() {
        let config = include_str!("../../env/kernel.config");
        let line = format!("CONFIG_NR_CPUS={MAX_CPUS}");
        assert!(config.lines().any(|found| found == line));
    }

    #[test]
    fn no_limit_is_asked_for_with_0() {
        let limit = |words: &[&str]| parse(words).unwrap().limit(5);
        assert_eq!(limit(&["--timeout", "0"]), None);
        assert_eq!(limit(&["--timeout", "7"]), Some(Duration::from_secs(7)));
        assert_eq!(Options::default().limit(5), Some(Duration::from_secs(5)));
        assert_eq!(Options::default().limit(0), None);
    }
}
