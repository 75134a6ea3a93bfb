// SPDX-License-Identifier: MIT OR Apache-2.0

//! Sizes and times as people read and write them.

use std::time::Duration;

const UNITS: [(&str, u64); 4] = [
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("B", 1),
];

/// `1536` becomes `1.5 KiB`.
pub fn bytes(value: u64) -> String {
    let (unit, size) = UNITS
        .into_iter()
        .find(|(_, size)| value >= *size)
        .unwrap_or(("B", 1));
    if value % size == 0 {
        return format!("{} {unit}", value / size);
    }
    format!("{:.1} {unit}", value as f64 / size as f64)
}

/// Three digits at least, with the unit that fits.
pub fn time(value: Duration) -> String {
    let ns = value.as_nanos();
    match ns {
        0 => "0".into(),
        1..10_000 => format!("{ns} ns"),
        10_000..10_000_000 => format!("{:.1} us", ns as f64 / 1e3),
        10_000_000..10_000_000_000 => format!("{:.1} ms", ns as f64 / 1e6),
        _ => format!("{:.1} s", ns as f64 / 1e9),
    }
}

/// Bytes from a whole number with an optional unit: `4096`, `64K`, `64M`, `1GiB`.
///
/// # Errors
///
/// What is wrong with the text.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let digits = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let shift = match unit.trim_end_matches("iB").to_ascii_uppercase().as_str() {
        "" => 0,
        "K" => 10,
        "M" => 20,
        "G" => 30,
        _ => return Err(format!("unknown unit \"{unit}\"; use K, M or G")),
    };
    let number: u64 = number
        .parse()
        .map_err(|_| "expected a whole number, as in 64M")?;
    match number.checked_mul(1 << shift) {
        None => Err("too large".into()),
        Some(size) if size < 4096 => Err("must be at least 4K".into()),
        Some(size) => Ok(size),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_have_the_unit_that_fits() {
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(bytes(64 << 20), "64 MiB");
        assert_eq!(bytes(u64::MAX), "17179869184.0 GiB");
    }

    #[test]
    fn times_have_the_unit_that_fits() {
        assert_eq!(time(Duration::ZERO), "0");
        assert_eq!(time(Duration::from_nanos(9_999)), "9999 ns");
        assert_eq!(time(Duration::from_micros(132)), "132.0 us");
        assert_eq!(time(Duration::from_millis(1500)), "1500.0 ms");
        assert_eq!(time(Duration::from_secs(75)), "75.0 s");
    }

    #[test]
    fn sizes_are_parsed() {
        assert_eq!(parse_size("4096"), Ok(4096));
        assert_eq!(parse_size("64k"), Ok(64 << 10));
        assert_eq!(parse_size("64M"), Ok(64 << 20));
        assert_eq!(parse_size("2GiB"), Ok(2 << 30));
    }

    #[test]
    fn sizes_that_make_no_sense_are_refused() {
        for text in [
            "",
            "M",
            "-1M",
            "1.5G",
            "64X",
            "99999999999G",
            "18446744073709551616",
            "0",
            "1K",
        ] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_parsed_or_refused(text: String) {
            let _ = parse_size(&text);
        }
    }
}
