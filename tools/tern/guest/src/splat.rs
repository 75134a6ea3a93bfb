// SPDX-License-Identifier: MIT OR Apache-2.0

//! Finds the kernel's complaints in its log.

/// A complaint of the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Splat {
    /// Number of its first line in the log, from 1.
    pub line: usize,
    /// The line that says what is wrong, without its time stamp.
    pub title: String,
    /// The lines of the log that belong to it.
    pub excerpt: Vec<String>,
}

/// A complaint is a line that starts so ...
const STARTS: &[&str] = &[
    "WARNING:",
    "BUG:",
    "Oops:",
    "Kernel panic - not syncing",
    "general protection fault",
    "int3:",
    "invalid opcode:",
    "stack segment:",
    "divide error:",
    "kernel BUG at",
    "UBSAN:",
    "ODEBUG:",
    "kmemleak:",
    "INFO: task ",
    "INFO: possible recursive locking",
    "INFO: trying to register non-static key",
    "INFO: rcu",
    "INFO: lockdep is turned off",
    "rcu: INFO: rcu",
    "watchdog: BUG:",
    "NMI watchdog: Watchdog detected",
    "rust_kernel: panicked at",
    "Out of memory: Killed process",
    "unregister_netdevice: waiting",
];

/// ... or has this in it.
const PARTS: &[&str] = &[
    "Bad page state",
    "Bad rss-counter",
    "Bad page map",
    "nonzero pgtables",
    "DEBUG_LOCKS_WARN_ON",
    "rcu_preempt detected stalls",
    "rcu_sched detected stalls",
    "self-detected stall",
    // DMA-API debugging, which then sees nothing any more.
    "dma-debug disabled",
    "DMA-API: debugging out of memory",
];

/// ... or one that the tern driver, or the core on its behalf, prints about its
/// device: "tern 0000:00:03.0: ". The console does not tell levels, but the
/// driver has nothing to say while all is well.
const DRIVER: &str = "tern ";

/// Lines that only look like complaints.
const HARMLESS: &[&str] = &[
    // Of the PCI core, when a driver is bound.
    ": enabling device (",
    // Prints how much kmemleak found, which is 0 as well.
    "kmemleak: Kernel memory leak detector initialized",
    "kmemleak: Automatic memory scanning thread",
];

const CUT_HERE: &str = "------------[ cut here ]------------";
const END_TRACE: &str = "---[ end trace";

/// Most lines of an excerpt.
const EXCERPT: usize = 60;

/// The message of a line of the kernel log: what comes behind the time stamp
/// and, with `CONFIG_PRINTK_CALLER`, the caller.
pub fn message(line: &str) -> &str {
    let mut rest = line.trim_end_matches(['\r', '\n']);
    // "<4>", as /dev/kmsg and the early console have it.
    if let Some(inner) = rest.strip_prefix('<') {
        if let Some((level, behind)) = inner.split_once('>') {
            if !level.is_empty() && level.bytes().all(|b| b.is_ascii_digit()) {
                rest = behind;
            }
        }
    }
    while let Some(inner) = rest.strip_prefix('[') {
        let Some((inside, behind)) = inner.split_once(']') else {
            break;
        };
        if !is_stamp(inside) {
            break;
        }
        rest = behind.strip_prefix(' ').unwrap_or(behind);
    }
    rest
}

/// Seconds since boot that the line is stamped with.
pub fn stamp(line: &str) -> Option<f64> {
    let inside = line.strip_prefix('[')?.split_once(']')?.0;
    inside.trim().parse().ok()
}

/// "   12.345678", or the caller: "    T123", "   C1".
fn is_stamp(inside: &str) -> bool {
    let text = inside.trim();
    let number = text.strip_prefix(['T', 'C']).unwrap_or(text);
    !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit() || b == b'.')
}

/// Whether it starts as messages about a PCI device of the driver do.
fn is_of_driver(message: &str) -> bool {
    /// What an address looks like, with `0` for a hexadecimal digit.
    const ADDRESS: &str = "0000:00:00.0: ";
    let Some(address) = message.strip_prefix(DRIVER) else {
        return false;
    };
    let fits = |(byte, shape): (u8, u8)| match shape {
        b'0' => byte.is_ascii_hexdigit(),
        _ => byte == shape,
    };
    address.len() >= ADDRESS.len() && address.bytes().zip(ADDRESS.bytes()).all(fits)
}

/// Whether this is the line under a report of KASAN or KMSAN. The same line is
/// over it, too.
fn is_rule(line: &str) -> bool {
    line.len() > 50 && line.bytes().all(|byte| byte == b'=')
}

fn is_complaint(message: &str, allowed: &[String]) -> bool {
    let harmless = HARMLESS.iter().any(|text| message.contains(text));
    if harmless || allowed.iter().any(|text| message.contains(text)) {
        return false;
    }
    let message = message.trim_start();
    STARTS.iter().any(|text| message.starts_with(text))
        || PARTS.iter().any(|text| message.contains(text))
        || is_of_driver(message)
}

/// All complaints in `log`, in order. Lines that follow a complaint up to the
/// end of its trace belong to it and are not complaints of their own. A line
/// that contains one of the texts in `allowed` is none.
pub fn find(log: &str, allowed: &[String]) -> Vec<Splat> {
    let lines: Vec<&str> = log.lines().map(message).collect();
    let mut splats = Vec::new();
    let mut at = 0;
    while at < lines.len() {
        if !is_complaint(lines[at], allowed) {
            at += 1;
            continue;
        }
        let first = if at > 0 && lines[at - 1].contains(CUT_HERE) {
            at - 1
        } else {
            at
        };
        let last = end_of(&lines, at);
        splats.push(Splat {
            line: first + 1,
            title: lines[at].trim().to_string(),
            excerpt: lines[first..=last].iter().map(|l| l.to_string()).collect(),
        });
        at = last + 1;
    }
    splats
}

/// Index of the last line of the complaint whose title is at `title`: its
/// `end trace` or rule, else the line before the next `cut here`, else the limit.
/// The driver's messages have one line.
fn end_of(lines: &[&str], title: usize) -> usize {
    if is_of_driver(lines[title]) {
        return title;
    }
    let limit = lines.len().min(title + EXCERPT);
    for (at, line) in lines.iter().enumerate().take(limit).skip(title) {
        if line.contains(END_TRACE) || is_rule(line) {
            return at;
        }
        if at > title && line.contains(CUT_HERE) {
            return at - 1;
        }
    }
    limit - 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::path::{Path, PathBuf};

    fn find(log: &str) -> Vec<Splat> {
        super::find(log, &[])
    }

    const WARN: &str = "\
[    1.000000] Freeing unused kernel image memory
[    2.000001] ------------[ cut here ]------------
[    2.000002] WARNING: mm/foo.c:12 at foo+0x1/0x20, CPU#1: sh/7
[    2.000003] Modules linked in:
[    2.000004] Call Trace:
[    2.000005]  bar+0x1/0x2
[    2.000006] ---[ end trace 0000000000000000 ]---
[    2.000007] done
";

    #[test]
    fn a_clean_log_has_none() {
        let log = "[    0.0] Linux version 7.3.4\n\
                   [    0.1] printk: debug: ignoring loglevel setting.\n\
                   [    0.2] lockdep: fixing up alternatives.\n\
                   [    0.3] tern 0000:00:05.0: enabling device (0000 -> 0002)\n\
                   [    0.3] tern 1 is a word\n\
                   [    0.3] [drm] Initialized tern 1.0.0 for 0000:00:03.0 on minor 0\n\
                   [    0.4] Spectre V2 : kernel not compiled with retpoline\n";
        assert_eq!(find(log), []);
    }

    #[test]
    fn a_warning_comes_with_its_trace() {
        let splats = find(WARN);
        assert_eq!(splats.len(), 1);
        assert_eq!(splats[0].line, 2);
        assert!(splats[0].title.starts_with("WARNING: mm/foo.c:12"));
        assert_eq!(splats[0].excerpt.len(), 6);
        assert!(splats[0].excerpt[0].contains("cut here"));
        assert!(splats[0].excerpt[5].contains("end trace"));
    }

    #[test]
    fn every_kind_is_found() {
        for line in [
            "[    2.1] BUG: KASAN: slab-use-after-free in foo+0x1/0x2",
            "[    2.1] BUG: KMSAN: uninit-value in foo+0x1/0x2",
            "[    2.1] BUG: KMSAN: kernel-infoleak in instrument_copy_to_user include/linux/instrumented.h:1 [inline]",
            "[    2.1] BUG: Bad page state in process hmm-tests  pfn:12345",
            "[    2.1][    T7] BUG: unable to handle page fault for address: 0",
            "[    2.1] Kernel panic - not syncing: Attempted to kill init!",
            "[    2.1] Oops: general protection fault, 0000 [#1] SMP NOPTI",
            "[    2.1] kernel BUG at mm/huge_memory.c:1!",
            "[    2.1] UBSAN: array-index-out-of-bounds in a.c:1:2",
            "[    2.1] WARNING: possible circular locking dependency detected",
            "[    2.1] INFO: task sh:12 blocked for more than 120 seconds.",
            "[    2.1] rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:",
            "[    2.1] watchdog: BUG: soft lockup - CPU#0 stuck for 26s!",
            "<3>[    2.1] UBSAN: shift-out-of-bounds",
            "[    2.1] rust_kernel: panicked at drivers/gpu/x.rs:1:2:",
            "[    2.1] DMA-API: cacheline tracking ENOMEM, dma-debug disabled",
            "[    2.1] DMA-API: debugging out of memory - disabling",
        ] {
            assert_eq!(find(line).len(), 1, "{line}");
        }
    }

    /// The text of each message that the driver prints with `kind`, in its
    /// source files below `directory`.
    fn messages(directory: &Path, kind: &str) -> Vec<String> {
        let mut found = Vec::new();
        for entry in fs::read_dir(directory).unwrap() {
            let path: PathBuf = entry.unwrap().path();
            if path.is_dir() {
                found.extend(messages(&path, kind));
            } else if path.extension().is_some_and(|name| name == "rs") {
                let source = fs::read_to_string(&path).unwrap();
                let calls = source.split(kind).skip(1);
                found.extend(calls.map(|call| call.split('"').nth(1).unwrap().to_owned()));
            }
        }
        found
    }

    #[test]
    fn every_error_of_the_driver_is_found() {
        let tern = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../drivers/gpu/drm/tern");
        let errors = messages(&tern, "dev_err!(");
        assert!(!errors.is_empty());
        for text in errors {
            let line = format!("[    2.1] tern 0000:00:03.0: {text}");
            assert_eq!(find(&line).len(), 1, "{line}");
        }
        // Whoever adds one of these adds it to those that are harmless, too.
        for kind in ["dev_warn!(", "dev_notice!(", "dev_info!("] {
            for text in messages(&tern, kind) {
                let line = format!("[    2.1] tern 0000:00:03.0: {text}");
                assert_eq!(find(&line), [], "{line}");
            }
        }
    }

    #[test]
    fn an_error_of_the_driver_hides_nothing_that_follows() {
        let error = "[ 1.0] tern 0000:00:03.0: no reset: ETIMEDOUT\n";
        let splats = find(&format!("{error}{error}{WARN}"));
        assert_eq!(splats.len(), 3);
        assert_eq!(splats[0].excerpt.len(), 1);
    }

    #[test]
    fn only_what_is_allowed_is_let_pass() {
        let log = format!("[ 1.0] tern 0000:00:03.0: no reset: ETIMEDOUT\n{WARN}");
        let allow = |text: &str| super::find(&log, &[text.to_string()]).len();
        assert_eq!(allow("no reset"), 1);
        assert_eq!(allow("mm/foo.c"), 1);
        assert_eq!(allow("no such text"), 2);
    }

    #[test]
    fn lines_of_a_splat_are_not_counted_again() {
        let log = "[ 1.0] BUG: unable to handle page fault\n\
                   [ 1.0] Oops: 0002 [#1] SMP\n\
                   [ 1.0] ---[ end trace 0 ]---\n\
                   [ 1.0] Kernel panic - not syncing: Fatal exception\n";
        let titles: Vec<_> = find(log).into_iter().map(|s| s.title).collect();
        assert_eq!(
            titles,
            [
                "BUG: unable to handle page fault",
                "Kernel panic - not syncing: Fatal exception"
            ]
        );
    }

    #[test]
    fn two_warnings_in_a_row_are_two() {
        let log = WARN.repeat(2);
        assert_eq!(find(&log).len(), 2);
    }

    #[test]
    fn a_rule_ends_a_report() {
        let rule = "=".repeat(53);
        let report = format!("{rule}\nBUG: KMSAN: uninit-value in f+0x1/0x2\n f+0x1\n{rule}\n");
        let splats = find(&report.repeat(2));
        assert_eq!(splats.len(), 2);
        assert_eq!(splats[0].excerpt.len(), 3);
    }

    #[test]
    fn an_endless_excerpt_is_cut() {
        let log = format!("BUG: x\n{}", "y\n".repeat(1000));
        assert_eq!(find(&log)[0].excerpt.len(), EXCERPT);
    }

    #[test]
    fn stamps_are_taken_off() {
        assert_eq!(message("[    1.5] ok 1 a"), "ok 1 a");
        assert_eq!(message("[    1.5]     ok 1 a\r"), "    ok 1 a");
        assert_eq!(message("[    1.5][   T42] ok"), "ok");
        assert_eq!(message("[drm] hello"), "[drm] hello");
        assert_eq!(stamp("[    1.5] x"), Some(1.5));
        assert_eq!(stamp("x"), None);
    }
}
