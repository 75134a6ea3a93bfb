// SPDX-License-Identifier: MIT OR Apache-2.0

//! Whether KVM can be used.
//!
//! A `/dev/kvm` that opens proves little: without hardware virtualisation
//! below it, instructions may be emulated one by one, and a guest takes
//! minutes to get nowhere. So KVM is used only where the processor offers it
//! and a guest has come up with it within a few seconds.

use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::proto::Frame;
use crate::qemu::{Accel, Machine, Qemu};

/// How long the probe may take to boot.
const PROBE_LIMIT: Duration = Duration::from_secs(8);

/// Why TCG or KVM was chosen, a part of a sentence.
type Reason = &'static str;

const WORKS: Reason = "a probe has booted with it";
const FAILS: Reason = "a probe with KVM did not boot in time";

/// Chooses between KVM and TCG for `machine`. What was found is kept in `cache`
/// for as long as this machine is up, and said when it is news.
///
/// # Errors
///
/// Fails when QEMU cannot be started for the probe.
pub fn choose(machine: &Machine, cache: &Path) -> Result<Accel> {
    let note = note_file(cache);
    let known = note.as_ref().and_then(|path| fs::read_to_string(path).ok());
    let (accel, reason) = decide(machine, known.as_deref())?;
    if known.as_deref() != Some(reason) {
        let name = if accel == Accel::Kvm { "KVM" } else { "TCG" };
        eprintln!("tern-guest: {name} it is: {reason}");
        if let Some(path) = &note {
            // Without a cache the next start finds out again.
            let _ = fs::write(path, reason);
        }
    }
    Ok(accel)
}

fn decide(machine: &Machine, known: Option<&str>) -> Result<(Accel, Reason)> {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    if !offers_virtualisation(&cpuinfo) {
        return Ok((Accel::Tcg, "the processor offers neither vmx nor svm"));
    }
    let kvm = OpenOptions::new().read(true).write(true).open("/dev/kvm");
    if kvm.is_err() {
        return Ok((Accel::Tcg, "/dev/kvm cannot be opened"));
    }
    let works = match known {
        Some(WORKS) => true,
        Some(FAILS) => false,
        _ => probe(machine)?,
    };
    Ok(if works {
        (Accel::Kvm, WORKS)
    } else {
        (Accel::Tcg, FAILS)
    })
}

/// Whether `/proc/cpuinfo` lists hardware virtualisation.
fn offers_virtualisation(cpuinfo: &str) -> bool {
    cpuinfo
        .lines()
        .filter(|line| line.starts_with("flags"))
        .flat_map(str::split_whitespace)
        .any(|flag| flag == "vmx" || flag == "svm")
}

/// The boot ID makes sure that a note does not outlive a change of the host's
/// kernel or of the machine.
fn note_file(cache: &Path) -> Option<PathBuf> {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(cache.join(format!("kvm-{}", id.trim())))
}

/// Boots the guest with KVM, up to where init says that it is ready.
///
/// # Errors
///
/// Fails when QEMU cannot be started.
pub fn probe(machine: &Machine) -> Result<bool> {
    let machine = Machine {
        accel: Accel::Kvm,
        share: None,
        gpus: Vec::new(),
        gdb: None,
        ..machine.clone()
    };
    let directory = tempfile::tempdir().context("cannot make a directory for the probe")?;
    let mut qemu = Qemu::start(&machine, Path::new("/dev/null"), directory.path())?;
    let deadline = Instant::now() + PROBE_LIMIT;
    qemu.port.set_read_timeout(Some(PROBE_LIMIT))?;
    let frame = Frame::read(&mut qemu.port);
    Ok(matches!(frame, Ok(Some(Frame::Ready))) && Instant::now() <= deadline)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_whole_words() {
        assert!(offers_virtualisation("flags\t: fpu vmx sse"));
        assert!(offers_virtualisation("flags\t: fpu svm"));
        assert!(!offers_virtualisation("flags\t: fpu svm_lock vmx2"));
        assert!(!offers_virtualisation("model name\t: vmx"));
        assert!(!offers_virtualisation(""));
    }
}
