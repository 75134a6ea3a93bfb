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

/// Chooses between KVM and TCG for `machine`. The result of a probe is kept
/// in `cache` for as long as this machine is up.
///
/// Returns the choice and its reason, a part of a sentence.
///
/// # Errors
///
/// Fails when QEMU cannot be started for the probe.
pub fn choose(machine: &Machine, cache: &Path) -> Result<(Accel, &'static str)> {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    if !offers_virtualisation(&cpuinfo) {
        return Ok((Accel::Tcg, "the processor offers neither vmx nor svm"));
    }
    let kvm = OpenOptions::new().read(true).write(true).open("/dev/kvm");
    if kvm.is_err() {
        return Ok((Accel::Tcg, "/dev/kvm cannot be opened"));
    }
    let note = note_file(cache);
    let known = note.as_ref().and_then(|path| fs::read_to_string(path).ok());
    let works = match known.as_deref() {
        Some("works") => true,
        Some("fails") => false,
        _ => {
            let works = probe(machine)?;
            if let Some(path) = &note {
                // Without a cache the next start probes again.
                let _ = fs::write(path, if works { "works" } else { "fails" });
            }
            works
        }
    };
    Ok(if works {
        (Accel::Kvm, "a probe has booted with it")
    } else {
        (Accel::Tcg, "a probe with KVM did not boot in time")
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
